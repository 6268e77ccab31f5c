package s3store_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/internal/teststore"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/blobstore/s3store"
)

// random returns n bytes that depend on seed.
func random(seed uint64, n int) []byte {
	data := make([]byte, n+8)
	r := rand.NewPCG(seed, 1)
	for i := 0; i < n; i += 8 {
		binary.LittleEndian.PutUint64(data[i:], r.Uint64())
	}
	return data[:n]
}

// puts are the requests that carried bytes.
func puts(seen []request) (out []request) {
	for _, r := range seen {
		if r.method == http.MethodPut {
			out = append(out, r)
		}
	}
	return out
}

// TestPayload: what is sent with the bytes of an object, in one piece and in parts, by HTTP and HTTPS. There is never a trailer, and
// no chunked encoding of AWS.
func TestPayload(t *testing.T) {
	t.Parallel()
	server := teststore.StartS3(t)
	plain, secure := newProxy(t, server), newTLSProxy(t, server)
	server.Bucket("wire")
	large := random(1, 6<<20)
	for name, c := range map[string]struct {
		tls    bool
		cfg    s3store.Config
		signed bool // else UNSIGNED-PAYLOAD
		header string
		value  func(data []byte) string
	}{
		"HTTP":              {cfg: s3store.Config{}, signed: true},
		"HTTPS":             {tls: true, cfg: s3store.Config{}},
		"HTTP, unsigned":    {cfg: s3store.Config{Payload: "unsigned"}},
		"HTTPS, unsigned":   {tls: true, cfg: s3store.Config{Payload: "unsigned"}},
		"HTTP, signed":      {cfg: s3store.Config{Payload: "signed"}, signed: true},
		"HTTPS, signed":     {tls: true, cfg: s3store.Config{Payload: "signed"}, signed: true},
		"HTTP, MD5":         {cfg: s3store.Config{Checksum: "md5"}, signed: true, header: "Content-Md5", value: md5Of},
		"HTTPS, MD5":        {tls: true, cfg: s3store.Config{Checksum: "md5"}, header: "Content-Md5", value: md5Of},
		"HTTPS, CRC":        {tls: true, cfg: s3store.Config{Checksum: "crc32"}, header: "X-Amz-Checksum-Crc32", value: crcOf},
		"HTTP, CRC":         {cfg: s3store.Config{Checksum: "crc32"}, signed: true, header: "X-Amz-Checksum-Crc32", value: crcOf},
		"HTTPS, GCS":        {tls: true, cfg: s3store.Config{Preset: "gcs", Region: "us-east-1"}},
		"HTTP, unsigned R2": {cfg: s3store.Config{Preset: "r2", Region: "us-east-1", Payload: "unsigned"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := plain
			cfg := c.cfg
			if c.tls {
				p = secure
				cfg.CABundle = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
			}
			cfg.Bucket, cfg.Endpoint, cfg.AccessKeyID, cfg.SecretAccessKey, cfg.PartSize = "wire", p.URL, teststore.S3AccessKey, teststore.S3SecretKey, 5<<20
			s := open(t, cfg)
			works(t, s)
			if err := storage.WriteFile(t.Context(), s, "large", large, nil); err != nil {
				t.Fatal(err)
			}
			if got, err := storage.ReadFile(t.Context(), s, "large", 8<<20); err != nil || !bytes.Equal(got, large) {
				t.Fatalf("it reads otherwise, %v", err)
			}
			bodies := map[int64][]byte{8: []byte("it works"), 5 << 20: large[:5<<20], 1 << 20: large[5<<20:]}
			seen := p.take()
			sent := puts(seen)
			if len(sent) != 3 {
				t.Fatalf("there are %d uploads, want 3", len(sent))
			}
			for _, r := range sent {
				body := bodies[r.length]
				hash := r.header.Get("X-Amz-Content-Sha256")
				if (hash == "UNSIGNED-PAYLOAD") == c.signed || !c.signed && hash != "UNSIGNED-PAYLOAD" || c.signed && len(hash) != 64 {
					t.Errorf("%d bytes: the payload's hash is %q", r.length, hash)
				}
				for name := range r.header {
					lower := strings.ToLower(name)
					if lower == "x-amz-trailer" || lower == "content-encoding" || lower == "x-amz-sdk-checksum-algorithm" || lower == "x-amz-decoded-content-length" ||
						lower == "expect" || strings.HasPrefix(lower, "x-amz-checksum") && name != c.header {
						t.Errorf("%d bytes are sent with %s: %s", r.length, name, r.header.Get(name))
					}
				}
				if c.header != "" && r.header.Get(c.header) != c.value(body) {
					t.Errorf("%d bytes: %s is %q, want %q", r.length, c.header, r.header.Get(c.header), c.value(body))
				}
				if c.header == "" && r.header.Get("Content-Md5") != "" {
					t.Error("there is a Content-MD5 that nobody asked for")
				}
			}
			for _, r := range seen {
				if signed := strings.Contains(r.header.Get("Authorization"), "accept-encoding"); signed && cfg.Preset == "gcs" {
					t.Errorf("the signature of %s holds for Accept-Encoding", r.method)
				}
				if r.header.Get("X-Amz-Checksum-Mode") != "" {
					t.Errorf("%s asks for checksums", r.method)
				}
			}
		})
	}
}

func md5Of(data []byte) string {
	sum := md5.Sum(data)
	return base64.StdEncoding.EncodeToString(sum[:])
}

func crcOf(data []byte) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE(data)))
}

// TestTLS: a server with a certificate of one's own authority is trusted by Config.CABundle or AWS_CA_BUNDLE, and else refused with advice.
func TestTLS(t *testing.T) {
	server := teststore.StartS3(t)
	secure := newTLSProxy(t, server)
	cfg := config(server, server.Bucket("secure"))
	cfg.Endpoint = secure.URL
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	with := cfg
	with.CABundle = ca
	works(t, open(t, with))

	t.Setenv("AWS_CA_BUNDLE", write(t, "ca.pem", ca))
	works(t, open(t, cfg))
	t.Setenv("AWS_CA_BUNDLE", "")
	t.Setenv("AWS_MAX_ATTEMPTS", "1")

	s := open(t, cfg)
	_, err := s.Stat(t.Context(), "x")
	if err == nil || errors.Is(err, storage.ErrTransient) || !strings.Contains(s.Advise(err), "ca_bundle") {
		t.Errorf("%v\n%s", err, s.Advise(err))
	}
	with.CABundle = []byte("nothing of the kind")
	if _, err := s3store.New(t.Context(), with); err == nil || !strings.Contains(err.Error(), "CA bundle") {
		t.Error(err)
	}
}

// TestAddressing: the bucket is in the path, or in the host's name.
func TestAddressing(t *testing.T) {
	t.Parallel()
	server := teststore.StartS3(t, "--virtual-domain", "s3.internal.example")
	record := newProxy(t, server)
	server.Bucket("addressed")
	for addressing, want := range map[string]string{"path": "s3.internal.example|/addressed/works", "virtual": "addressed.s3.internal.example|/works"} {
		cfg := config(server, "addressed")
		cfg.Endpoint, cfg.Addressing, cfg.Transport = "http://s3.internal.example", addressing, to(record.Listener.Addr().String())
		s := open(t, cfg)
		works(t, s)
		for _, r := range record.take() {
			if got := r.host + "|" + r.path; got != want {
				t.Errorf("%s: %s, want %s", addressing, got, want)
			}
		}
		if err := s.Delete(t.Context(), "works"); err != nil {
			t.Error(err)
		}
		record.take()
	}
}

// TestAttributes: storage class and encryption are in every request that makes an object. The server doesn't know them, so
// that it is the wire that tells.
func TestAttributes(t *testing.T) {
	t.Parallel()
	server := teststore.StartS3(t)
	record := newProxy(t, server)
	record.answer = func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case r.Method == http.MethodPost && r.URL.Query().Has("uploads"):
			w.Write([]byte(`<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>large</Key><UploadId>1</UploadId></InitiateMultipartUploadResult>`))
		case r.Method == http.MethodPost:
			w.Write([]byte(`<CompleteMultipartUploadResult><Bucket>b</Bucket><Key>large</Key><ETag>"1-2"</ETag></CompleteMultipartUploadResult>`))
		default:
			w.Header().Set("ETag", `"1"`)
			w.Header().Set("Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT")
		}
		return true
	}
	cfg := config(server, "b")
	cfg.Endpoint, cfg.Exclusive, cfg.PartSize = record.URL, "yes", 5<<20
	cfg.StorageClass, cfg.SSE, cfg.KMSKeyID = "STANDARD_IA", "aws:kms", "the-key"
	s := open(t, cfg)
	for _, size := range []int{8, 6 << 20} {
		if err := storage.WriteFile(t.Context(), s, "object", random(1, size), &storage.CreateOptions{IfNotExist: true}); err != nil {
			t.Fatal(err)
		}
		makers, conditions := 0, 0
		for _, r := range record.take() {
			if r.header.Get("If-None-Match") == "*" {
				conditions++
			}
			if r.method == http.MethodPost && r.query.Has("uploads") || r.method == http.MethodPut && !r.query.Has("partNumber") {
				makers++
				for name, want := range map[string]string{"X-Amz-Storage-Class": "STANDARD_IA", "X-Amz-Server-Side-Encryption": "aws:kms", "X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id": "the-key"} {
					if got := r.header.Get(name); got != want {
						t.Errorf("%d bytes, %s: %s is %q, want %q", size, r.method, name, got, want)
					}
				}
			}
		}
		if makers != 1 || conditions != 1 {
			t.Errorf("%d bytes: %d requests make the object, and %d of all have the condition, want 1 and 1", size, makers, conditions)
		}
	}
}

// TestExclusive: a server that ignores If-None-Match is found out by the first exclusive create, and from then on none is tried. One that heeds it
// is asked once more only the first time.
func TestExclusive(t *testing.T) {
	t.Parallel()
	server := teststore.StartS3(t)
	record := newProxy(t, server)
	server.Bucket("exclusive")
	onlyNew := &storage.CreateOptions{IfNotExist: true}
	cfg := config(server, "exclusive")
	cfg.Endpoint = record.URL

	s := open(t, cfg)
	for i, key := range []string{"a", "b", "c"} {
		if err := storage.WriteFile(t.Context(), s, key, []byte(key), onlyNew); err != nil {
			t.Fatal(err)
		}
		if got, want := len(puts(record.take())), []int{2, 1, 1}[i]; got != want {
			t.Errorf("create %d takes %d requests, want %d", i, got, want)
		}
	}
	if got := facts(s)["exclusive create"]; got != "yes, by If-None-Match" {
		t.Error(got)
	}
	if err := storage.WriteFile(t.Context(), s, "a", []byte("another"), onlyNew); !errors.Is(err, storage.ErrExists) {
		t.Error(err)
	}

	record.change = func(r *http.Request) {
		if r.Header.Get("If-None-Match") != "" {
			r.Header.Del("If-None-Match")
			signAnew(r, "", time.Now())
		}
	}
	s = open(t, cfg)
	record.take()
	for i := range 2 {
		err := storage.WriteFile(t.Context(), s, "ignored", []byte("first"), onlyNew)
		if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "exclusive=no") {
			t.Errorf("create %d: %v", i, err)
		}
		if got, want := len(puts(record.take())), []int{2, 0}[i]; got != want {
			t.Errorf("create %d takes %d requests, want %d", i, got, want)
		}
	}
	if got := facts(s)["exclusive create"]; got != "no: the service ignores If-None-Match" {
		t.Error(got)
	}
	// Others still work, and where it is known to be so nothing is tried.
	works(t, s)
	cfg.Exclusive = "no"
	s = open(t, cfg)
	if err := storage.WriteFile(t.Context(), s, "new", nil, onlyNew); !errors.Is(err, errors.ErrUnsupported) || storage.CapabilitiesOf(s).Exclusive {
		t.Error(err)
	}
}

// TestSign: a signed URL reads without credentials, until its life is over.
func TestSign(t *testing.T) {
	t.Parallel()
	server := teststore.StartS3(t)
	server.Bucket("signed")
	status := func(where string) int {
		t.Helper()
		resp, err := http.Get(where)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var body bytes.Buffer
		body.ReadFrom(resp.Body)
		if ok := body.String() == "it works"; ok != (resp.StatusCode == http.StatusOK) {
			t.Errorf("%s: %s", resp.Status, body.String())
		}
		return resp.StatusCode
	}
	var all []string
	for i, cfg := range []s3store.Config{{}, {Payload: "unsigned"}, {Payload: "signed"}, {Preset: "gcs", Region: "us-east-1"}} {
		c := config(server, "signed")
		c.Payload, c.Preset, c.Region = cfg.Payload, cfg.Preset, cfg.Region
		s := open(t, c)
		if i == 0 {
			works(t, s)
		}
		where, err := storage.SignGet(t.Context(), s, "works", 6*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(where, teststore.S3SecretKey) {
			t.Errorf("%s", where)
		}
		if got := status(where); got != http.StatusOK {
			t.Errorf("%v: the URL gives %d", cfg, got)
		}
		if got := status(where[:len(where)-1]); got != http.StatusForbidden {
			t.Errorf("a changed URL gives %d", got)
		}
		if got, _, _ := strings.Cut(where, "?"); status(got) != http.StatusForbidden {
			t.Error("it can be read without a signature")
		}
		for _, ttl := range []time.Duration{time.Millisecond, 8 * 24 * time.Hour} {
			if _, err := s.SignGet(t.Context(), "works", ttl); err == nil || !strings.Contains(err.Error(), "7 days") {
				t.Errorf("for %v: %v", ttl, err)
			}
		}
		all = append(all, where)
	}
	deadline := time.Now().Add(60 * time.Second)
	for _, where := range all {
		for status(where) == http.StatusOK {
			if time.Now().After(deadline) {
				t.Fatal("a URL outlives its life")
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
}

// TestStall: a server that takes a request and never answers ends it after Timeout.
func TestStall(t *testing.T) {
	server := teststore.StartS3(t)
	record := newProxy(t, server)
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	record.answer = func(http.ResponseWriter, *http.Request) bool {
		<-hang
		return true
	}
	t.Setenv("AWS_MAX_ATTEMPTS", "2")
	cfg := config(server, "b")
	cfg.Endpoint, cfg.Timeout = record.URL, time.Second // within which a request arrives
	s := open(t, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := s.Stat(ctx, "x"); !errors.Is(err, storage.ErrTransient) || ctx.Err() != nil {
		t.Errorf("%v, %v", err, ctx.Err())
	}
	if got := len(record.take()); got != 2 {
		t.Errorf("it was asked %d times, want 2", got)
	}
}
