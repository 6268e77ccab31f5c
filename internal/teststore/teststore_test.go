package teststore

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestStart: each server answers in its own protocol, and is gone after Kill.
func TestStart(t *testing.T) {
	s3, gcs := StartS3(t), StartGCS(t)
	s3.Bucket("things")
	gcs.Bucket("things")
	for what, c := range map[string]struct {
		s    *Server
		path string
		want int
	}{
		"S3 lets nobody in without a signature": {s3.Server, "/things", http.StatusForbidden},
		"GCS has the bucket":                    {gcs.Server, "/storage/v1/b/things", http.StatusOK},
		"Azure lets nobody in":                  {StartAzure(t), "/" + AzureAccount + "?comp=list", http.StatusForbidden},
	} {
		resp, err := http.Get(c.s.URL + c.path)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.want {
			t.Errorf("%s: %s", what, resp.Status)
		}
		c.s.Kill()
		if _, err := net.DialTimeout("tcp", c.s.Addr, time.Second); err == nil || errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: after Kill somebody answers: %v", what, err)
		}
	}
}

// TestSignedURL: a signed URL does what it was signed for, for as long as it was signed for, and nothing else.
func TestSignedURL(t *testing.T) {
	s := StartS3(t)
	bucket, key := s.Bucket("things"), "a/key with spaces + ümlauts"
	do := func(method, url, body string) int {
		req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		got, err := io.ReadAll(resp.Body)
		if method == "GET" && resp.StatusCode == 200 && string(got) != "hello" {
			t.Errorf("GET gave %q, %v", got, err)
		}
		return resp.StatusCode
	}
	now := time.Now()
	put, get := s.SignedURL("PUT", bucket, key, now, time.Minute), s.SignedURL("GET", bucket, key, now, time.Minute)
	for _, c := range []struct {
		method, url string
		want        int
	}{
		{"PUT", put, 200}, {"GET", get, 200}, {"GET", put, 403}, {"PUT", get, 403},
		{"GET", s.SignedURL("GET", bucket, key, now.Add(-time.Hour), time.Minute), 403},
	} {
		if got := do(c.method, c.url, "hello"); got != c.want {
			t.Errorf("%s %s: %d, want %d", c.method, c.url, got, c.want)
		}
	}
}
