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
	dirs := make(map[storage.Store]string)
	storetest.Run(t, func(t *testing.T) storage.Store {
		dir := t.TempDir()
		s := open(t, dir)
		dirs[s] = dir
		return s
	}, &storetest.Options{
		Locate: func(s storage.Store) string { return dirs[s] },
		Reopen: func(dir string) (storage.Store, error) { return filestore.New(dir, nil) },
	})
}
