package storecatalog_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/catalogtest"
	"github.com/amberkv/amber/catalog/storecatalog"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/filestore"
	"github.com/amberkv/amber/storage/memstore"
)

func newCatalog(t testing.TB, s storage.Store, now func() time.Time) *storecatalog.Catalog {
	t.Helper()
	c, err := storecatalog.New(storecatalog.Config{Store: s, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func openFile(t testing.TB, dir string) *filestore.Store {
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

// newest returns the key of a backup's manifest.
func newest(t *testing.T, s storage.Store, id catalog.ID) string {
	t.Helper()
	key := ""
	for info, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(info.Key, "/"+string(id)+"/") {
			continue
		}
		if strings.HasSuffix(info.Key, "/run.json") && key != "" {
			continue
		}
		key = info.Key // manifest-000003.json is before manifest.json, but the tests here don't go so far
	}
	return key
}

func runSuite(t *testing.T, slow bool, open func(t *testing.T) (storage.Store, func(t *testing.T) storage.Store)) {
	clock := catalogtest.NewClock()
	stores := map[catalog.Catalog]storage.Store{}
	again := map[catalog.Catalog]func(t *testing.T) storage.Store{}
	catalogtest.Run(t, func(t *testing.T) (catalog.Catalog, catalog.Leaser) {
		s, reopen := open(t)
		c := newCatalog(t, s, clock.Now)
		stores[c], again[c] = s, reopen
		return c, c
	}, &catalogtest.Options{
		Clock: clock,
		Slow:  slow,
		Another: func(t *testing.T, c catalog.Catalog) (catalog.Catalog, catalog.Leaser) {
			other := newCatalog(t, again[c](t), clock.Now)
			return other, other
		},
		Corrupt: func(t *testing.T, c catalog.Catalog, id catalog.ID) {
			key := newest(t, stores[c], id)
			data, err := storage.ReadFile(t.Context(), stores[c], key, catalog.MaxManifestLen)
			if err != nil {
				t.Fatal(err)
			}
			data[len(data)/2] ^= 1
			if err := storage.WriteFile(t.Context(), stores[c], key, data, nil); err != nil {
				t.Fatal(err)
			}
		},
	})
}

func TestInMemory(t *testing.T) {
	t.Parallel()
	runSuite(t, false, func(t *testing.T) (storage.Store, func(t *testing.T) storage.Store) {
		s := memstore.New(nil)
		return s, func(*testing.T) storage.Store { return s }
	})
}

func TestInDirectory(t *testing.T) {
	t.Parallel()
	runSuite(t, os.Getenv("CAMPAIGN") == "", func(t *testing.T) (storage.Store, func(t *testing.T) storage.Store) {
		dir := t.TempDir()
		return openFile(t, dir), func(t *testing.T) storage.Store { return openFile(t, dir) }
	})
}
