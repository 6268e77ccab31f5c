package dumpfile_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/storecatalog"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/restore/dumpfile"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/filestore"
	"github.com/amberkv/amber/storage/memstore"
)

// files are a snapshot of one part each.
type files []string

func (f files) Snapshot(context.Context) (backup.Snapshot, error) { return f, nil }
func (f files) Source() catalog.Source                            { return catalog.Source{Engine: "redis"} }
func (f files) Close() error                                      { return nil }
func (f files) Open(_ context.Context, p backup.Part) (io.ReadCloser, error) {
	return os.Open(p.Name)
}
func (f files) Parts() (parts []backup.Part) {
	for _, name := range f {
		parts = append(parts, backup.Part{Name: name, Size: -1})
	}
	return parts
}

// A shelf keeps backups.
type shelf struct {
	store    storage.Store
	catalog  *storecatalog.Catalog
	runner   *backup.Runner
	restorer *restore.Restorer
}

func newShelf(t *testing.T) *shelf {
	t.Helper()
	s := &shelf{store: memstore.New(nil)}
	var err error
	if s.catalog, err = storecatalog.New(storecatalog.Config{Store: s.store}); err == nil {
		s.runner, err = backup.NewRunner(backup.Config{Store: s.store, Catalog: s.catalog, Leaser: s.catalog})
	}
	if err == nil {
		s.restorer, err = restore.New(restore.Config{Store: s.store, Catalog: s.catalog, TempDir: t.TempDir()})
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// keep makes a backup of files.
func (s *shelf) keep(t *testing.T, names ...string) *catalog.Backup {
	t.Helper()
	b, err := s.runner.Run(t.Context(), backup.Request{DataStore: "orders", Snapshotter: files(names)})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func newLoader(t *testing.T, cfg dumpfile.Config) *dumpfile.Loader {
	t.Helper()
	l, err := dumpfile.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func openDir(t *testing.T, dir string, opts *filestore.Options) *filestore.Store {
	t.Helper()
	s, err := filestore.New(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

const testdata = "../../rdb/testdata/"

// fixtures returns the plain files of testdata that have a .jsonl beside them.
func fixtures(t *testing.T) (names []string) {
	t.Helper()
	all, err := filepath.Glob(testdata + "*/*.rdb")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range all {
		if _, err := os.Stat(lines(name)); err == nil {
			names = append(names, name)
		}
	}
	if len(names) < 55 {
		t.Fatalf("only %d fixtures were found", len(names))
	}
	return names
}

// lines is the file that says what is in a fixture.
func lines(name string) string { return strings.TrimSuffix(name, ".rdb") + ".jsonl" }

// names lists what is in a store.
func names(t *testing.T, s storage.Store) (keys []string) {
	t.Helper()
	for info, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, info.Key)
	}
	return keys
}

func read(t *testing.T, s storage.Store, key string) string {
	t.Helper()
	data, err := storage.ReadFile(t.Context(), s, key, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func write(t *testing.T, s storage.Store, key, text string) {
	t.Helper()
	if err := storage.WriteFile(t.Context(), s, key, []byte(text), nil); err != nil {
		t.Fatal(err)
	}
}

var (
	replace = &restore.Options{Conflict: restore.Replace}
	redis10 = rdb.Dialect{Family: rdb.Redis, Version: 10}
)
