package dumpfile_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/rdb/dfs"
	"github.com/amberkv/amber/restore/dumpfile"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/filestore"
	"github.com/amberkv/amber/storage/memstore"
)

// loaded returns what a Dragonfly loads when it starts.
func loaded(t *testing.T, s storage.Store, dir, dbfilename string, cloud bool) string {
	t.Helper()
	var files []dfs.File
	for info, err := range s.List(t.Context(), dir) {
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, dfs.File{Name: strings.TrimPrefix(info.Key, dir), ModTime: info.ModTime})
	}
	i := dfs.AtStart(dbfilename, files, cloud)
	if i < 0 {
		return ""
	}
	return dir + files[i].Name
}

// Of several sets by Dragonfly's default name the one that was written last counts, in a directory and in a bucket, whatever time its name says.
func TestNamesWithTimes(t *testing.T) {
	shelf := newShelf(t)
	b := shelf.keep(t, testdata+"redis-7.0.15/zsets.rdb")
	for place, store := range map[string]storage.Store{"directory": openDir(t, t.TempDir(), nil), "bucket": memstore.New(nil)} {
		var last string
		for _, day := range []int{22, 24, 23} {
			loader := newLoader(t, dumpfile.Config{Store: store, Name: "data/" + dfs.DefaultName, Shards: 2, Now: func() time.Time {
				return time.Date(2026, 8, day, 11, 55, 3, 0, time.UTC)
			}})
			rep, err := shelf.restorer.Restore(t.Context(), b.ID, loader, nil)
			if err != nil || len(rep.Warnings) > 0 {
				t.Fatalf("%v, %+v", err, rep)
			}
			last = rep.Target
			if want := "data/dump-2026-08-" + string([]byte{'0' + byte(day/10), '0' + byte(day%10)}) + "T11:55:03-summary.dfs"; last != want {
				t.Errorf("%s was written, want %s", last, want)
			}
			if got := loaded(t, store, "data/", dfs.DefaultName, place == "bucket"); got != last {
				t.Errorf("%s: a server loads %q, the last is %s", place, got, last)
			}
			if keys, _ := setIn(t, store, strings.TrimSuffix(last, "-summary.dfs")); int64(len(keys)) != b.Keys {
				t.Errorf("%d keys", len(keys))
			}
		}
		if got := names(t, store); len(got) != 9 {
			t.Errorf("there are %q", got)
		}
	}
	loader := newLoader(t, dumpfile.Config{Store: memstore.New(nil), Name: "{Y}{m}{d}.rdb"})
	if rep, err := shelf.restorer.Restore(t.Context(), b.ID, loader, nil); err != nil || rep.Target != time.Now().Format("20060102")+".rdb" {
		t.Errorf("%+v, %v", rep, err)
	}
}

// Where a server would load something else than what was written, that is told.
func TestOverlooked(t *testing.T) {
	shelf := newShelf(t)
	b := shelf.keep(t, testdata+"redis-7.0.15/zsets.rdb")
	dir := t.TempDir()
	store := openDir(t, dir, &filestore.Options{})
	for _, test := range []struct {
		beside, name string
		shards       int
		warns        bool
	}{
		{"dump-old-summary.dfs", dfs.DefaultName, 1, true},
		{"dump.rdb", "dump", 1, true},
		{"dump", "dump", 1, true},
		{"other-summary.dfs", "dump", 1, false},
		{"dump.rdb.tmp", "dump", 1, false},
		{"dump2.rdb", "dump.rdb", 0, false},
	} {
		for _, old := range names(t, store) {
			if err := store.Delete(t.Context(), old); err != nil {
				t.Fatal(err)
			}
		}
		write(t, store, test.beside, "something")
		later := time.Now().Add(time.Hour)
		if err := os.Chtimes(filepath.Join(dir, test.beside), later, later); err != nil {
			t.Fatal(err)
		}
		cfg := dumpfile.Config{Store: store, Name: test.name, Shards: test.shards}
		if test.shards == 0 {
			cfg.Dialect = rdb.Dialect{Family: rdb.Dragonfly, Version: 9}
		}
		rep, err := shelf.restorer.Restore(t.Context(), b.ID, newLoader(t, cfg), nil)
		if err != nil {
			t.Fatal(err)
		}
		if warned := len(rep.Warnings) == 1 && strings.Contains(rep.Warnings[0], test.beside+" instead"); warned != test.warns || !warned && len(rep.Warnings) > 0 {
			t.Errorf("%s beside %s: %q", test.name, test.beside, rep.Warnings)
		}
	}
}
