package filestore_test

import (
	"testing"

	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/filestore"
	"github.com/amberkv/amber/storage/storetest"
)

func open(t *testing.T, dir string) *filestore.Store {
	t.Helper()
	s, err := filestore.New(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func TestStore(t *testing.T) {
	t.Parallel()
	dirs := make(map[storage.Store]string)
	storetest.Run(t, func(t *testing.T) storage.Store {
		dir := t.TempDir()
		s := open(t, dir)
		dirs[s] = dir
		return s
	}, &storetest.Options{
		Locate: func(s storage.Store) string { return dirs[s] },
		Reopen: func(dir string) (storage.Store, error) { return filestore.New(dir, nil) },
		// There are no pages here, but a system gives the names of a directory in blocks, of some hundred names.
		Objects: 1500,
	})
}

// BenchmarkWrite writes one large object as a backup does, in pieces of 128 KiB, and commits it.
func BenchmarkWrite(b *testing.B) {
	const size, piece = 300 << 20, 128 << 10
	s, err := filestore.New(b.TempDir(), nil)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	data := make([]byte, piece)
	b.SetBytes(size)
	for b.Loop() {
		w, err := s.Create(b.Context(), "large", nil)
		if err != nil {
			b.Fatal(err)
		}
		for range size / piece {
			if _, err := w.Write(data); err != nil {
				b.Fatal(err)
			}
		}
		if _, err := w.Commit(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
