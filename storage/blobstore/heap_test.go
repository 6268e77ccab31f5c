package blobstore_test

import (
	"crypto/sha256"
	"io"
	"runtime"
	"runtime/metrics"
	"sync"
	"testing"
	"time"

	"github.com/amberkv/amber/internal/teststore"
	"github.com/amberkv/amber/storage"
)

// heap runs f and returns the most that was on the heap meanwhile, garbage included.
func heap(f func()) uint64 {
	runtime.GC()
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	var most uint64
	end := make(chan struct{})
	var sampler sync.WaitGroup
	sampler.Go(func() {
		for {
			metrics.Read(sample)
			most = max(most, sample[0].Value.Uint64())
			select {
			case <-end:
				return
			case <-time.After(time.Millisecond):
			}
		}
	})
	f()
	close(end)
	sampler.Wait()
	return most
}

// TestHeap: the size of an object is not that of the memory it takes to store and to read it.
func TestHeap(t *testing.T) {
	const bound = 96 << 20
	clouds := map[string]func() *cloud{
		"s3": func() *cloud {
			s := teststore.StartS3(t)
			s.Bucket("bucket")
			return newCloud(t, "s3", s.Server, "", openS3)
		},
	}
	size := int64(128 << 20)
	if long {
		size = 256 << 20
		clouds["gcs"] = func() *cloud {
			s := teststore.StartGCS(t)
			s.Bucket("bucket")
			return newCloud(t, "gcs", s.Server, "", openGCS)
		}
		clouds["azure"] = func() *cloud {
			s := teststore.StartAzure(t)
			if _, err := azureContainer(t, s.URL).Create(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			return newCloud(t, "azure", s, "", openAzure)
		}
	}
	piece := pattern(1 << 20)
	for name, start := range clouds {
		s := start().direct
		var written, got [sha256.Size]byte
		up := heap(func() {
			w, err := s.Create(t.Context(), "object", &storage.CreateOptions{SizeHint: size})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Abort()
			sum := sha256.New()
			for range size / int64(len(piece)) {
				if _, err := w.Write(piece); err != nil {
					t.Fatal(err)
				}
				sum.Write(piece)
			}
			if _, err := w.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			sum.Sum(written[:0])
		})
		down := heap(func() {
			r, err := s.Open(t.Context(), "object", 0, -1)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			sum := sha256.New()
			if n, err := io.Copy(sum, r); n != size || err != nil {
				t.Fatalf("%s: read %d bytes, %v", name, n, err)
			}
			sum.Sum(got[:0])
		})
		t.Logf("%s: %d MiB up with %d MiB on the heap, down with %d MiB", name, size>>20, up>>20, down>>20)
		if up > bound || down > bound {
			t.Errorf("%s: more than %d MiB", name, bound>>20)
		}
		if written != got {
			t.Errorf("%s: other bytes were read", name)
		}
	}
}
