package s3store_test

import (
	"context"
	"io"
	"net/http"
	"runtime"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/amberkv/amber/internal/teststore"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/blobstore/s3store"
)

const benchSize = 256 << 20

// pieces gives bytes in pieces of 64 KiB, as a backup does.
type pieces struct {
	data []byte
	left int
}

func (p *pieces) Read(b []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	n := min(len(b), len(p.data), p.left)
	copy(b, p.data[:n])
	p.left -= n
	return n, nil
}

// BenchmarkWrite writes an object of 256 MiB, beside a single PUT by net/http.
func BenchmarkWrite(b *testing.B) {
	server := teststore.StartS3(b)
	server.Bucket("bench")
	data := random(1, 64<<10)
	b.Run("PUT", func(b *testing.B) {
		b.SetBytes(benchSize)
		for b.Loop() {
			req := signed(b, server, http.MethodPut, "plain")
			req.Body, req.ContentLength = io.NopCloser(&pieces{data, benchSize}), benchSize
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				b.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				b.Fatal(resp.Status)
			}
		}
	})
	for name, change := range map[string]func(*s3store.Config){
		"store":             func(*s3store.Config) {},
		"store, unsigned":   func(c *s3store.Config) { c.Payload = "unsigned" },
		"store, 16 MiB":     func(c *s3store.Config) { c.PartSize = 16 << 20 },
		"store, one by one": func(c *s3store.Config) { c.Concurrency = 1 },
		"store, MD5":        func(c *s3store.Config) { c.Checksum = "md5" },
	} {
		b.Run(name, func(b *testing.B) {
			cfg := config(server, "bench")
			change(&cfg)
			s := open(b, cfg)
			var stats runtime.MemStats
			peak := uint64(0)
			b.SetBytes(benchSize)
			for b.Loop() {
				w, err := s.Create(b.Context(), "object", nil)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.CopyBuffer(struct{ io.Writer }{w}, &pieces{data, benchSize}, make([]byte, 64<<10)); err != nil {
					b.Fatal(err)
				}
				runtime.ReadMemStats(&stats)
				peak = max(peak, stats.HeapInuse)
				if _, err := w.Commit(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(peak>>20), "heap-MiB")
		})
	}
}

// BenchmarkRead reads it, beside a single GET by net/http.
func BenchmarkRead(b *testing.B) {
	server := teststore.StartS3(b)
	server.Bucket("bench")
	s := open(b, config(server, "bench"))
	w, err := s.Create(b.Context(), "object", nil)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := io.Copy(w, &pieces{random(1, 64<<10), benchSize}); err != nil {
		b.Fatal(err)
	}
	if _, err := w.Commit(b.Context()); err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 64<<10)
	b.Run("GET", func(b *testing.B) {
		b.SetBytes(benchSize)
		for b.Loop() {
			resp, err := http.DefaultClient.Do(signed(b, server, http.MethodGet, "object"))
			if err != nil {
				b.Fatal(err)
			}
			if n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{resp.Body}, buf); n != benchSize || err != nil {
				b.Fatal(n, err)
			}
			resp.Body.Close()
		}
	})
	b.Run("store", func(b *testing.B) {
		b.SetBytes(benchSize)
		for b.Loop() {
			r, err := storage.Store(s).Open(context.Background(), "object", 0, -1)
			if err != nil {
				b.Fatal(err)
			}
			if n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, buf); n != benchSize || err != nil {
				b.Fatal(n, err)
			}
			r.Close()
		}
	})
}

// signed is a request for an object of the bucket "bench", with a signature that doesn't hold for its bytes.
func signed(b *testing.B, s *teststore.S3, method, key string) *http.Request {
	req, err := http.NewRequestWithContext(b.Context(), method, s.URL+"/bench/"+key, nil)
	if err != nil {
		b.Fatal(err)
	}
	req.Header.Set("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD")
	key2 := aws.Credentials{AccessKeyID: teststore.S3AccessKey, SecretAccessKey: teststore.S3SecretKey}
	if err := v4.NewSigner().SignHTTP(b.Context(), key2, req, "UNSIGNED-PAYLOAD", "s3", teststore.S3Region, time.Now()); err != nil {
		b.Fatal(err)
	}
	return req
}
