package seal_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/filestore"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/seal"
)

// opens counts what is asked of a store.
type opens struct {
	storage.Store
	calls int
	bytes int64
}

func (o *opens) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	o.calls++
	o.bytes += n
	return o.Store.Open(ctx, key, off, n)
}

// TestReaderAtOfStore: a range of a stored part takes few requests, and only what holds it.
func TestReaderAtOfStore(t *testing.T) {
	directory := must(filestore.New(t.TempDir(), nil))
	defer directory.Close()
	raw := text(2*frame + 1000)
	for name, inner := range map[string]storage.Store{"memory": memstore.New(nil), "directory": directory} {
		for _, way := range ways()[1:] {
			stored, sum := sealed(t, raw, &way.opts)
			store := &opens{Store: inner}
			if err := storage.WriteFile(t.Context(), store, "part", stored, nil); err != nil {
				t.Fatal(err)
			}
			r, err := seal.NewReaderAt(storage.NewReaderAt(t.Context(), store, "part"), sum, way.identities)
			if err != nil {
				t.Fatal(err)
			}
			p := make([]byte, 1000)
			if n, err := r.ReadAt(p, frame+500); err != nil || !bytes.Equal(p, raw[frame+500:][:1000]) {
				t.Errorf("%s, %s: %d, %v", name, way.name, n, err)
			}
			if store.bytes > int64(len(stored))/2+300<<10 || way.identities == nil && store.calls > 2 {
				t.Errorf("%s, %s: it took %d requests and %d of %d bytes", name, way.name, store.calls, store.bytes, len(stored))
			}
		}
		small := []byte("a small object")
		if err := storage.WriteFile(t.Context(), inner, "small", small, nil); err != nil {
			t.Fatal(err)
		}
		at := storage.NewReaderAt(t.Context(), inner, "small")
		if err := iotest.TestReader(io.NewSectionReader(at, 0, int64(len(small))), small); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		p := make([]byte, 100)
		if n, err := at.ReadAt(p, 2); n != 12 || err != io.EOF || string(p[:n]) != "small object" {
			t.Errorf("%s, past the end: %d, %v", name, n, err)
		}
		if n, err := at.ReadAt(p, 14); n != 0 || err != io.EOF {
			t.Errorf("%s, at the end: %d, %v", name, n, err)
		}
		if _, err := at.ReadAt(p, -1); err == nil || err == io.EOF {
			t.Errorf("%s, before the beginning: %v", name, err)
		}
		if _, err := storage.NewReaderAt(t.Context(), inner, "missing").ReadAt(p, 0); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("%s, no object: %v", name, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := storage.NewReaderAt(ctx, inner, "small").ReadAt(p, 0); !errors.Is(err, context.Canceled) {
			t.Errorf("%s, cancelled: %v", name, err)
		}
	}
}

// TestSeekTableRefused: a table that doesn't fit the part is found when it is opened, before a frame is read.
func TestSeekTableRefused(t *testing.T) {
	raw := text(frame + 5000)
	stored, sum := sealed(t, raw, nil)
	end := len(stored)
	for name, test := range map[string]struct {
		change func(p []byte)
		raw    int64
	}{
		"more bytes are expected":     {func([]byte) {}, sum.RawSize + 1},
		"fewer are":                   {func([]byte) {}, sum.RawSize - 1},
		"a reserved bit":              {func(p []byte) { p[end-5] |= 0x04 }, sum.RawSize},
		"checksums that aren't there": {func(p []byte) { p[end-5] |= 0x80 }, sum.RawSize},
		"one frame more":              {func(p []byte) { p[end-9]++ }, sum.RawSize},
		"one frame less":              {func(p []byte) { p[end-9]-- }, sum.RawSize},
		"very many frames":            {func(p []byte) { p[end-6] = 0xFF }, sum.RawSize},
		"no skippable frame":          {func(p []byte) { p[end-33] ^= 1 }, sum.RawSize},
		"a skippable frame's size":    {func(p []byte) { p[end-29] ^= 1 }, sum.RawSize},
		"a frame's size":              {func(p []byte) { p[end-25]++ }, sum.RawSize},
		"an empty frame":              {func(p []byte) { copy(p[end-17:], []byte{0, 0, 0, 0}) }, sum.RawSize},
		"a frame that holds nothing":  {func(p []byte) { copy(p[end-13:], []byte{0, 0, 0, 0}) }, sum.RawSize - 5000},
		"a frame that holds much":     {func(p []byte) { p[end-10] = 1 }, sum.RawSize + 1<<24},
	} {
		changed := bytes.Clone(stored)
		test.change(changed)
		src := &counted{Reader: bytes.NewReader(changed)}
		want := sum
		want.RawSize = test.raw
		if _, err := seal.NewReaderAt(src, want, nil); !errors.Is(err, seal.ErrMismatch) {
			t.Errorf("%s: %v", name, err)
		}
		if read := src.bytes.Load(); read > 32<<10 {
			t.Errorf("%s: %d bytes were read", name, read)
		}
	}
}
