package teststore

import (
	"errors"
	"net"
	"net/http"
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
