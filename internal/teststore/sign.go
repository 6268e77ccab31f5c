package teststore

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"strings"
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
