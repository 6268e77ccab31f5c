package teststore

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// SignedURL returns a URL that does one request, such as "GET" or "PUT" of an object, without credentials, until ttl has passed since at. It is
// what AWS calls a presigned URL, in Signature Version 4:
// https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
func (s *S3) SignedURL(method, bucket, key string, at time.Time, ttl time.Duration) string {
	stamp := at.UTC().Format("20060102T150405Z")
	scope := stamp[:8] + "/" + S3Region + "/s3/aws4_request"
	query := url.Values{
		"X-Amz-Algorithm":     {"AWS4-HMAC-SHA256"},
		"X-Amz-Credential":    {S3AccessKey + "/" + scope},
		"X-Amz-Date":          {stamp},
		"X-Amz-Expires":       {fmt.Sprint(int(ttl.Seconds()))},
		"X-Amz-SignedHeaders": {"host"},
	}
	path := "/" + escape(bucket) + "/" + escape(key)
	request := strings.Join([]string{method, path, query.Encode(), "host:" + s.Addr, "", "host", "UNSIGNED-PAYLOAD"}, "\n")
	sum := sha256.Sum256([]byte(request))
	text := strings.Join([]string{"AWS4-HMAC-SHA256", stamp, scope, hex.EncodeToString(sum[:])}, "\n")
	mac := []byte("AWS4" + S3SecretKey)
	for _, step := range append(strings.Split(scope, "/"), text) {
		h := hmac.New(sha256.New, mac)
		h.Write([]byte(step))
		mac = h.Sum(nil)
	}
	return s.URL + path + "?" + query.Encode() + "&X-Amz-Signature=" + hex.EncodeToString(mac)
}

// escape escapes a key as the signature wants it: everything but letters, digits, "-", "_", "." , "~" and the slash.
func escape(key string) string {
	var b strings.Builder
	for _, c := range []byte(key) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-_.~/", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// Container makes a container on an Azure server and returns its name. The request is signed as
// https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key says.
func Container(t testing.TB, s *Server, name string) string {
	t.Helper()
	const version = "2021-12-02"
	date := time.Now().UTC().Format(http.TimeFormat)
	key, err := base64.StdEncoding.DecodeString(AzureKey)
	if err != nil {
		t.Fatal(err)
	}
	// The account is there twice: as the server's path and as the first part of the URL's.
	resource := "/" + AzureAccount + "/" + AzureAccount + "/" + name + "\nrestype:container"
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("PUT" + strings.Repeat("\n", 12) + "x-ms-date:" + date + "\nx-ms-version:" + version + "\n" + resource))
	req, err := http.NewRequest(http.MethodPut, s.URL+"/"+AzureAccount+"/"+name+"?restype=container", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("x-ms-date", date)
	req.Header.Set("x-ms-version", version)
	req.Header.Set("Authorization", "SharedKey "+AzureAccount+":"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Fatalf("making container %s: %s", name, resp.Status)
	}
	return name
}
