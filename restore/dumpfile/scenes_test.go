package dumpfile_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/rdb/dfs"
	"github.com/amberkv/amber/rdb/jsonl"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/restore/dumpfile"
	"github.com/amberkv/amber/restore/loadertest"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/filestore"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/storetest"
)

// keysOf returns a line of text for each key of a stream, under "database/key".
func keysOf(t *testing.T, r *rdb.Reader) map[string]string {
	t.Helper()
	out := make(map[string]string)
	for e, err := range r.Entries() {
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind != rdb.KindKey {
			continue
		}
		key := string(e.Key)
		db := string(rune('0' + e.DB%10))
		var text bytes.Buffer
		w := jsonl.NewWriter(&text, nil)
		if err := w.WriteKey(e, r); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		out[db+"/"+key] = text.String()
	}
	return out
}

func keysOfFile(t *testing.T, name string) map[string]string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return keysOf(t, rdb.NewReader(bytes.NewReader(data), nil))
}

// setIn opens the set of a name in a store, checks it, and returns its keys; nil if there is no summary.
func setIn(t *testing.T, s storage.Store, name string) (map[string]string, *dfs.Set) {
	t.Helper()
	fsys := fstest.MapFS{}
	for _, key := range names(t, s) {
		fsys[key] = &fstest.MapFile{Data: []byte(read(t, s, key))}
	}
	if fsys[name+"-summary.dfs"] == nil {
		return nil, nil
	}
	set, err := dfs.Open(fsys, name+"-summary.dfs")
	if err != nil {
		t.Fatalf("a summary is there, and the set is not whole: %v", err)
	}
	if err := set.Check(t.Context(), nil, &rdb.CheckOptions{}); err != nil {
		t.Fatal(err)
	}
	keys := make(map[string]string)
	err = set.Read(t.Context(), 1, nil, func(_ string, r *rdb.Reader) error {
		for key, text := range keysOf(t, r) {
			if keys[key] != "" {
				t.Errorf("%s is in two shards", key)
			}
			keys[key] = text
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return keys, set
}

// A set has the keys of what it was made of, whether that was one file or a set itself.
func TestSetHoldsTheKeys(t *testing.T) {
	const dragonfly = "../../rdb/dfs/testdata/dragonfly-1.40/mini-"
	shelf := newShelf(t)
	for _, from := range [][]string{
		{dragonfly + "0000.dfs", dragonfly + "0001.dfs", dragonfly + "summary.dfs"},
		{testdata + "dragonfly-1.40/mini.rdb"},
		{testdata + "redis-8.0.2/cluster.rdb"},
		{testdata + "redis-7.0.15/streams.rdb", testdata + "redis-7.0.15/zsets.rdb"},
		{testdata + "valkey-9.1.2/expires.rdb"},
		{testdata + "redis-8.6.3/empty.rdb"},
	} {
		t.Run(filepath.Base(from[0]), func(t *testing.T) {
			want := make(map[string]string)
			for _, name := range from {
				for key, text := range keysOfFile(t, name) {
					want[key] = text
				}
			}
			b := shelf.keep(t, from...)
			store := memstore.New(nil)
			loader := newLoader(t, dumpfile.Config{Store: store, Name: "night/dump", Shards: 3, TempDir: t.TempDir()})
			rep, err := shelf.restorer.Restore(t.Context(), b.ID, loader, &restore.Options{Accept: []string{"all"}})
			if err != nil {
				t.Fatal(err)
			}
			got, set := setIn(t, store, "night/dump")
			if set == nil || len(set.Shards) != 3 || !set.Counted || len(set.Stale) > 0 || set.ID == "" {
				t.Fatalf("the set is %+v of %q", set, names(t, store))
			}
			if len(got) != len(want) || rep.Keys != int64(len(want)) {
				t.Errorf("%d keys, %d by the report, want %d", len(got), rep.Keys, len(want))
			}
			for key, text := range want {
				if sameLine(got[key]) != sameLine(text) {
					t.Errorf("%s is %.200s, want %.200s", key, got[key], text)
				}
			}
			if rep.Target != "night/dump-summary.dfs" || rep.Dialect != "dragonfly:9" || rep.Bytes == 0 || !rep.Proof.Counted {
				t.Errorf("the report says %+v", rep)
			}
		})
	}
}

// sameLine takes from a line what Dragonfly has no place for: how long a key was idle or how often used.
func sameLine(line string) string {
	for _, field := range []string{`"idle":`, `"freq":`} {
		if i := strings.Index(line, field); i >= 0 {
			line = line[:i] + line[i+strings.IndexByte(line[i:], ',')+1:]
		}
	}
	return line
}

// Of the backup's own dialect a file is written when none is asked for, also if it was several files.
func TestDialectOfTheBackup(t *testing.T) {
	shelf := newShelf(t)
	for _, from := range [][]string{{testdata + "redis-7.0.15/zsets.rdb"}, {testdata + "redis-7.0.15/zsets.rdb", testdata + "redis-7.0.15/expires.rdb"}, {testdata + "dragonfly-1.40/mini.rdb"}} {
		b := shelf.keep(t, from...)
		store := memstore.New(nil)
		rep, err := shelf.restorer.Restore(t.Context(), b.ID, newLoader(t, dumpfile.Config{Store: store, Name: "out.rdb"}), nil)
		if err != nil {
			t.Fatal(err)
		}
		text := read(t, store, "out.rdb")
		r := rdb.NewReader(strings.NewReader(text), nil)
		if keys := keysOf(t, r); int64(len(keys)) != b.Keys || r.Stats().Bytes != int64(len(text)) || r.Dialect().String() != b.Parts[0].Dialect || rep.Dialect != b.Parts[0].Dialect {
			t.Errorf("%q: %d keys in %v, the backup has %d in %s", from, len(keys), r.Dialect(), b.Keys, b.Parts[0].Dialect)
		}
	}
}

func TestExistingFileIsRefusedOrReplaced(t *testing.T) {
	shelf := newShelf(t)
	b := shelf.keep(t, testdata+"redis-7.0.15/zsets.rdb")
	dir := t.TempDir()
	store := openDir(t, dir, nil)
	write(t, store, "dump.rdb", "former")
	loader := newLoader(t, dumpfile.Config{Store: store, Name: "dump.rdb", Dialect: redis10})
	var partial *restore.PartialError
	if _, err := shelf.restorer.Restore(t.Context(), b.ID, loader, nil); !errors.Is(err, restore.ErrNotEmpty) || errors.As(err, &partial) {
		t.Errorf("over a file: %v", err)
	}
	if got := read(t, store, "dump.rdb"); got != "former" {
		t.Errorf("it was changed to %.20q", got)
	}
	for _, conflict := range []restore.Conflict{restore.MergeSkip, restore.MergeOverwrite, restore.MergeFail} {
		if _, err := shelf.restorer.Restore(t.Context(), b.ID, loader, &restore.Options{Conflict: conflict}); !errors.Is(err, restore.ErrRefused) {
			t.Errorf("%s: %v", conflict, err)
		}
	}
	if _, err := shelf.restorer.Restore(t.Context(), b.ID, loader, replace); err != nil {
		t.Fatal(err)
	}
	if got := keysOfFile(t, filepath.Join(dir, "dump.rdb")); int64(len(got)) != b.Keys {
		t.Errorf("%d keys, want %d", len(got), b.Keys)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("the directory has %v, %v", left, err)
	}
}

// A set that replaces one of more shards leaves none of these behind, and nothing else of other names is touched.
func TestSetReplacesALargerSet(t *testing.T) {
	shelf := newShelf(t)
	b := shelf.keep(t, testdata+"redis-7.0.15/zsets.rdb")
	store := memstore.New(nil)
	others := []string{"dump-0000.rdb", "dump-old.dfs", "dump-10000.dfs", "dump2-0003.dfs", "dump.rdb"}
	for _, key := range others {
		write(t, store, key, "other")
	}
	for _, shards := range []int{5, 2} {
		loader := newLoader(t, dumpfile.Config{Store: store, Name: "dump", Shards: shards})
		if shards < 5 {
			if _, err := shelf.restorer.Restore(t.Context(), b.ID, loader, nil); !errors.Is(err, restore.ErrNotEmpty) {
				t.Errorf("over a set: %v", err)
			}
		}
		rep, err := shelf.restorer.Restore(t.Context(), b.ID, loader, replace)
		if err != nil || len(rep.Warnings) > 0 {
			t.Fatalf("%v, %+v", err, rep)
		}
		if got, set := setIn(t, store, "dump"); int64(len(got)) != b.Keys || len(set.Shards) != shards || len(set.Stale) > 0 {
			t.Errorf("%d keys in %d shards, and stale %v", len(got), len(set.Shards), set.Stale)
		}
		if got := names(t, store); len(got) != len(others)+shards+1 {
			t.Errorf("there are %q", got)
		}
	}
	for _, key := range others {
		if read(t, store, key) != "other" {
			t.Errorf("%s was changed", key)
		}
	}
	// Files that can't be removed are told of; the set is there all the same.
	loader := newLoader(t, dumpfile.Config{Store: storetest.NewFaulty(store, storetest.Fault{Op: storetest.OpDelete, Key: "0001"}), Name: "dump", Shards: 1})
	rep, err := shelf.restorer.Restore(t.Context(), b.ID, loader, replace)
	if err != nil || len(rep.Warnings) != 1 || !strings.Contains(rep.Warnings[0], "dump-0001.dfs") {
		t.Errorf("%v, %+v", err, rep)
	}
	if _, set := setIn(t, store, "dump"); len(set.Shards) != 1 || len(set.Stale) != 1 {
		t.Errorf("%+v", set)
	}
}

// What a server may have is seen before anything is written: databases beyond its own.
func TestDatabasesThatTheServerLacks(t *testing.T) {
	shelf := newShelf(t)
	b := shelf.keep(t, testdata+"redis-7.4/many_dbs.rdb")
	store := memstore.New(nil)
	loader := newLoader(t, dumpfile.Config{Store: store, Name: "dump.rdb", Databases: 16})
	if _, err := shelf.restorer.Restore(t.Context(), b.ID, loader, nil); !errors.Is(err, restore.ErrRefused) || !strings.Contains(err.Error(), "database 299") {
		t.Errorf("%v", err)
	}
	if got := names(t, store); len(got) > 0 {
		t.Errorf("there are %q", got)
	}
	opts := &restore.Options{Select: restore.Selection{DBs: []int{299}, MapDB: map[int]int{299: 15}}}
	rep, err := shelf.restorer.Restore(t.Context(), b.ID, loader, opts)
	if err != nil || rep.Keys != 1 || rep.Filtered != b.Keys-1 {
		t.Errorf("%v, %+v", err, rep)
	}
}

// The files have the store's modes, which is what lets a server of another user read them.
func TestModesOfFiles(t *testing.T) {
	shelf := newShelf(t)
	b := shelf.keep(t, testdata+"redis-7.0.15/zsets.rdb")
	for _, want := range []os.FileMode{0o600, 0o640} {
		dir := t.TempDir()
		store := openDir(t, dir, &filestore.Options{FileMode: want})
		for _, cfg := range []dumpfile.Config{{Store: store, Name: "dump.rdb"}, {Store: store, Name: "dump", Shards: 2}} {
			for range 2 {
				if _, err := shelf.restorer.Restore(t.Context(), b.ID, newLoader(t, cfg), replace); err != nil {
					t.Fatal(err)
				}
				if err := os.Chmod(filepath.Join(dir, "dump.rdb"), 0o400); err != nil { // the new one has its own
					t.Fatal(err)
				}
			}
		}
		files, err := os.ReadDir(dir)
		if err != nil || len(files) != 4 {
			t.Fatalf("%v, %v", files, err)
		}
		for _, f := range files {
			info, err := f.Info()
			if err != nil {
				t.Fatal(err)
			}
			if mode := info.Mode(); mode != want && f.Name() != "dump.rdb" {
				t.Errorf("%s has mode %v, want %v", f.Name(), mode, want)
			}
		}
	}
}

func TestConfigsThatAreWrong(t *testing.T) {
	store := memstore.New(nil)
	for want, cfg := range map[string]dumpfile.Config{
		"Config.Store is required":              {Name: "dump.rdb"},
		"Config.Name":                           {Store: store},
		"Config.Shards is -1":                   {Store: store, Name: "dump", Shards: -1},
		"Config.Shards is 1025":                 {Store: store, Name: "dump", Shards: 1025},
		"Config.Shards exclude each other":      {Store: store, Name: "dump", Shards: 2, Dialect: redis10},
		"Config.Set exclude each other":         {Store: store, Name: "dump", Set: true, Dialect: redis10},
		`"dump.rdb" can't name a set`:           {Store: store, Name: "dump.rdb", Shards: 2},
		`"a summary" can't name a set`:          {Store: store, Name: "x/a summary", Shards: 2},
		`invalid object key "../dump.rdb"`:      {Store: store, Name: "../dump.rdb"},
		`invalid object key "../dump-0000.dfs"`: {Store: store, Name: "../dump", Shards: 1},
		"Config.Dialect":                        {Store: store, Name: "dump.rdb", Dialect: rdb.Dialect{Family: rdb.Redis, Version: 99}},
	} {
		if _, err := dumpfile.New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %s", cfg, err, want)
		}
	}
	l := newLoader(t, dumpfile.Config{Store: store, Name: "dump.rdb"})
	if _, err := l.Check(t.Context(), restore.Requirements{}); err == nil {
		t.Error("a check without a manifest gives no error")
	}
}

// image is a verified backup of one file, or of the files of a set.
type image struct {
	backup *catalog.Backup
	data   []byte
	files  map[string][]byte // of a set, by part
}

func (i *image) Backup() *catalog.Backup { return i.backup }

func (i *image) Open(_ context.Context, p catalog.Part) (io.ReadCloser, error) {
	if i.files != nil {
		return io.NopCloser(bytes.NewReader(i.files[p.Name])), nil
	}
	return io.NopCloser(bytes.NewReader(i.data)), nil
}

func imageOf(t *testing.T, name string) *image {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	found, err := catalog.Inspect(bytes.NewReader(data), nil)
	if err != nil {
		t.Fatal(err)
	}
	size := int64(len(data))
	b := &catalog.Backup{ID: catalog.NewID(time.Now()), DataStore: "orders", State: catalog.StateReady, RawBytes: size,
		Parts: []catalog.Part{{Name: "part-0000.rdb", Dialect: found.Dialect, RawSize: size, Keys: found.Keys}}}
	found.Record(b)
	return &image{b, data, nil}
}

// The suite that every loader passes, with files for a target.
func TestLoader(t *testing.T) {
	src := imageOf(t, testdata+"redis-8.0.2/strings_nochecksum.rdb")
	want := keysOf(t, rdb.NewReader(bytes.NewReader(src.data), nil))
	loadertest.Run(t, func(t *testing.T) loadertest.Target {
		store := openDir(t, t.TempDir(), nil)
		return loadertest.Target{
			Loader: newLoader(t, dumpfile.Config{Store: store, Name: "dump.rdb"}),
			Fill: func(t *testing.T) {
				data, err := os.ReadFile(testdata + "redis-2.8/zsets.rdb")
				if err != nil {
					t.Fatal(err)
				}
				write(t, store, "dump.rdb", string(data))
			},
			Contents: func(t *testing.T) map[string]string {
				if _, err := store.Stat(t.Context(), "dump.rdb"); err != nil {
					return nil
				}
				return keysOf(t, rdb.NewReader(strings.NewReader(read(t, store, "dump.rdb")), nil))
			},
		}
	}, src, &loadertest.Options{Contents: want, CancelWithin: 3 * time.Second})
}

// And with a set, which gets a stream in Dragonfly's dialect.
func TestLoaderOfSets(t *testing.T) {
	shelf := newShelf(t)
	b := shelf.keep(t, testdata+"redis-8.0.2/strings_nochecksum.rdb")
	dir := t.TempDir()
	plain := newLoader(t, dumpfile.Config{Store: openDir(t, dir, nil), Name: "df.rdb", Dialect: rdb.Dialect{Family: rdb.Dragonfly, Version: 9}})
	if _, err := shelf.restorer.Restore(t.Context(), b.ID, plain, nil); err != nil {
		t.Fatal(err)
	}
	src := imageOf(t, filepath.Join(dir, "df.rdb"))
	src.backup.Parts[0].Dialect = "dragonfly:9" // strings alone don't tell
	loadertest.Run(t, func(t *testing.T) loadertest.Target {
		store := openDir(t, t.TempDir(), nil)
		loader := newLoader(t, dumpfile.Config{Store: store, Name: "dump", Shards: 3})
		return loadertest.Target{
			Loader: loader,
			Fill: func(t *testing.T) {
				small := imageOf(t, testdata+"dragonfly-1.40/mini.rdb")
				if _, err := loader.Load(t.Context(), small, replace); err != nil {
					t.Fatal(err)
				}
			},
			Contents: func(t *testing.T) map[string]string {
				keys, _ := setIn(t, store, "dump")
				return keys
			},
		}
	}, src, &loadertest.Options{Contents: keysOf(t, rdb.NewReader(bytes.NewReader(src.data), nil)), CancelWithin: 3 * time.Second})
}

// A source that breaks off, or ends early, leaves nothing in the directory, not even what no server looks for.
func TestSourceThatBreaksOffLeavesNothing(t *testing.T) {
	for _, shards := range []int{0, 3} {
		src := imageOf(t, testdata+"dragonfly-1.40/mini.rdb")
		whole := len(src.data)
		for _, n := range []int{0, 5, 100, whole / 2, 26000} {
			dir := t.TempDir()
			cfg := dumpfile.Config{Store: openDir(t, dir, nil), Name: "dump", Shards: shards}
			if shards == 0 {
				cfg.Name = "dump.rdb"
			}
			src.data = src.data[:n:whole]
			_, err := newLoader(t, cfg).Load(t.Context(), src, nil)
			var partial *restore.PartialError
			if err == nil || errors.As(err, &partial) {
				t.Errorf("%d bytes of %d: %v", n, whole, err)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("%d bytes of %d leave %v, %v", n, whole, left, err)
			}
			src.data = src.data[:whole]
		}
	}
}
