package retry_test

import (
	"os"
	"testing"
	"time"

	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/filestore"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/retry"
	"github.com/amberkv/amber/storage/storetest"
)

var quick = &retry.Options{Wait: time.Millisecond}

func TestInMemory(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storage.Store { return retry.New(memstore.New(nil), quick) }, &storetest.Options{InProcess: true})
}

// With so little held nearly every object is handed on.
func TestHoldingNothing(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storage.Store { return retry.New(memstore.New(nil), &retry.Options{Hold: 1}) },
		&storetest.Options{InProcess: true, Objects: 1000, Slow: os.Getenv("CAMPAIGN") == ""})
}

func TestInDirectory(t *testing.T) {
	t.Parallel()
	dirs := map[storage.Store]string{}
	open := func(dir string) (storage.Store, error) {
		s, err := filestore.New(dir, nil)
		return retry.New(s, quick), err
	}
	storetest.Run(t, func(t *testing.T) storage.Store {
		dir := t.TempDir()
		s, err := open(dir)
		if err != nil {
			t.Fatal(err)
		}
		dirs[s] = dir
		return s
	}, &storetest.Options{Locate: func(s storage.Store) string { return dirs[s] }, Reopen: open, Objects: 200, Slow: os.Getenv("CAMPAIGN") == ""})
}
