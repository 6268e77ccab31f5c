package dumpfile_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/restore/dumpfile"
	"github.com/amberkv/amber/restore/loadertest"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/seal"
)

const mini = "../../rdb/dfs/testdata/dragonfly-1.40/mini-"

var miniFiles = []string{mini + "0000.dfs", mini + "0001.dfs", mini + "summary.dfs"}

// ownSet is a verified backup of a set that Dragonfly saved.
func ownSet(t *testing.T) *image {
	t.Helper()
	var all [][]byte
	for _, name := range miniFiles {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data)
	}
	return setOf(t, all)
}

// setOf is a verified backup of the files of a set, the summary last.
func setOf(t *testing.T, files [][]byte) *image {
	t.Helper()
	i := &image{backup: &catalog.Backup{ID: catalog.NewID(time.Now()), DataStore: "orders", State: catalog.StateReady}, files: map[string][]byte{}}
	var all catalog.Contents
	for n, data := range files {
		found, err := catalog.Inspect(bytes.NewReader(data), nil)
		if err != nil {
			t.Fatal(err)
		}
		all.Add(found)
		p := catalog.Part{Name: fmt.Sprintf("part-%04d.dfs", n), Dialect: found.Dialect, RawSize: int64(len(data)), Keys: found.Keys}
		i.backup.Parts, i.backup.RawBytes = append(i.backup.Parts, p), i.backup.RawBytes+p.RawSize
		i.files[p.Name], i.data = data, append(i.data, data...)
	}
	all.Record(i.backup)
	return i
}

func keysOfSet(t *testing.T, set *image) map[string]string {
	t.Helper()
	keys := map[string]string{}
	for _, data := range set.files {
		maps.Copy(keys, keysOf(t, rdb.NewReader(bytes.NewReader(data), nil)))
	}
	return keys
}

// The suite that every loader passes, with a set that gets the files of another as they are.
func TestLoaderOfOwnSets(t *testing.T) {
	shelf, large := newShelf(t), memstore.New(nil)
	b := shelf.keep(t, testdata+"redis-8.0.2/strings_nochecksum.rdb")
	if _, err := shelf.restorer.Restore(t.Context(), b.ID, newLoader(t, dumpfile.Config{Store: large, Name: "dump", Shards: 3}), nil); err != nil {
		t.Fatal(err)
	}
	var files [][]byte
	for _, key := range names(t, large) {
		files = append(files, []byte(read(t, large, key)))
	}
	src := setOf(t, files)
	loadertest.Run(t, func(t *testing.T) loadertest.Target {
		store := openDir(t, t.TempDir(), nil)
		loader := newLoader(t, dumpfile.Config{Store: store, Name: "dump", Set: true})
		return loadertest.Target{
			Loader: loader,
			Fill: func(t *testing.T) {
				small := imageOf(t, testdata+"redis-7.0.15/expires.rdb")
				small.backup.Parts[0].Dialect = "dragonfly:9"
				if _, err := loader.Load(t.Context(), small, replace); err != nil {
					t.Fatal(err)
				}
			},
			Contents: func(t *testing.T) map[string]string {
				keys, _ := setIn(t, store, "dump")
				return keys
			},
		}
	}, src, &loadertest.Options{Contents: keysOfSet(t, src), CancelWithin: 3 * time.Second})
}

// TestOwnSet: the files of a set come out as they went in, with what is behind their ends and the ID they share, also through encryption. Whatever else is asked for
// makes a new set.
func TestOwnSet(t *testing.T) {
	shelf := newShelf(t)
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	opener, err := restore.New(restore.Config{Store: shelf.store, Catalog: shelf.catalog, TempDir: t.TempDir(), Identities: []age.Identity{key}})
	if err != nil {
		t.Fatal(err)
	}
	plain := shelf.keep(t, miniFiles...)
	sealed, err := shelf.runner.Run(t.Context(), backup.Request{DataStore: "orders", Snapshotter: files(miniFiles), Seal: &seal.Options{Recipients: []age.Recipient{key.Recipient()}}})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		cfg    dumpfile.Config
		opts   restore.Options
		shards int
		same   bool
	}{
		"as it is":    {dumpfile.Config{Set: true}, restore.Options{}, 2, true},
		"as many":     {dumpfile.Config{Shards: 2}, restore.Options{}, 2, true},
		"more":        {dumpfile.Config{Shards: 3}, restore.Options{}, 3, false},
		"fewer":       {dumpfile.Config{Set: true, Shards: 1}, restore.Options{}, 1, false},
		"selected":    {dumpfile.Config{Set: true}, restore.Options{Select: restore.Selection{Match: "*"}}, 4, false},
		"renamed":     {dumpfile.Config{Shards: 2}, restore.Options{Select: restore.Selection{AddPrefix: "x"}}, 2, false},
		"not to last": {dumpfile.Config{Shards: 2}, restore.Options{Expiry: restore.ExpiryDrop}, 2, false},
	} {
		for _, b := range []*catalog.Backup{plain, sealed} {
			store := memstore.New(nil)
			c.cfg.Store, c.cfg.Name = store, "night/dump"
			c.opts.Accept = []string{"all"}
			rep, err := opener.Restore(t.Context(), b.ID, newLoader(t, c.cfg), &c.opts)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			keys, set := setIn(t, store, "night/dump")
			if len(set.Shards) != c.shards || int64(len(keys)) != rep.Keys || rep.Target != "night/dump-summary.dfs" || len(names(t, store)) != c.shards+1 {
				t.Errorf("%s: %q with %d keys: %+v", name, names(t, store), len(keys), rep)
			}
			same := c.shards == 2
			for i, key := range names(t, store) {
				data, err := os.ReadFile(miniFiles[min(i, 2)])
				if err != nil {
					t.Fatal(err)
				}
				same = same && read(t, store, key) == string(data)
			}
			if same != c.same {
				t.Errorf("%s: the files are the same: %v", name, same)
			}
			if same && (rep.Bytes != b.RawBytes || len(rep.Losses) > 0) {
				t.Errorf("%s: %+v", name, rep)
			}
		}
	}
}

// What looks like a set and says that it is none is refused before anything is written.
func TestOwnSetThatIsNone(t *testing.T) {
	shelf := newShelf(t)
	for name, from := range map[string][]string{
		"shards in another order": {mini + "0001.dfs", mini + "0000.dfs", mini + "summary.dfs"},
		"one shard":               {mini + "0001.dfs", mini + "summary.dfs"},
	} {
		b := shelf.keep(t, from...)
		store := memstore.New(nil)
		_, err := shelf.restorer.Restore(t.Context(), b.ID, newLoader(t, dumpfile.Config{Store: store, Name: "dump", Set: true}), nil)
		var partial *restore.PartialError
		if !errors.Is(err, restore.ErrRefused) || errors.As(err, &partial) || len(names(t, store)) > 0 {
			t.Errorf("%s: %v, %q", name, err, names(t, store))
		}
		if _, err := shelf.restorer.Restore(t.Context(), b.ID, newLoader(t, dumpfile.Config{Store: store, Name: "dump", Shards: 5}), &restore.Options{Accept: []string{"all"}}); err != nil {
			t.Errorf("%s, as a new set: %v", name, err)
		}
	}
	b := shelf.keep(t, mini+"0000.dfs", mini+"0001.dfs", mini+"0001.dfs", mini+"summary.dfs")
	store := memstore.New(nil)
	if _, err := shelf.restorer.Restore(t.Context(), b.ID, newLoader(t, dumpfile.Config{Store: store, Name: "dump", Set: true}), nil); !errors.Is(err, restore.ErrRefused) || len(names(t, store)) > 0 {
		t.Errorf("a shard too many: %v, %q", err, names(t, store))
	}
}

// A file of a set that breaks off, has a byte more, or isn't what it was when it was counted leaves nothing.
func TestOwnSetThatBreaksOff(t *testing.T) {
	for name := range ownSet(t).files {
		for _, n := range []int{0, 5, 100, 1000} {
			src := ownSet(t)
			whole := src.files[name]
			end := bytes.LastIndexByte(bytes.TrimRight(whole, "\x00"), 0xff) // what follows is no part of the stream
			src.files[name] = whole[:min(n, end)]
			store := memstore.New(nil)
			_, err := newLoader(t, dumpfile.Config{Store: store, Name: "dump", Set: true}).Load(t.Context(), src, nil)
			var partial *restore.PartialError
			if err == nil || errors.As(err, &partial) || len(names(t, store)) > 0 {
				t.Errorf("%s, %d bytes: %v, %q", name, n, err, names(t, store))
			}
		}
	}
	src := ownSet(t)
	src.backup.Keys++
	store := memstore.New(nil)
	if _, err := newLoader(t, dumpfile.Config{Store: store, Name: "dump", Set: true}).Load(t.Context(), src, nil); err == nil || !strings.Contains(err.Error(), "keys were found") || len(names(t, store)) > 0 {
		t.Errorf("%v, %q", err, names(t, store))
	}
}

// A backup that is no set becomes one of four shards if nobody says.
func TestSetOfNoSet(t *testing.T) {
	shelf := newShelf(t)
	b := shelf.keep(t, testdata+"redis-7.0.15/zsets.rdb")
	store := memstore.New(nil)
	loader := newLoader(t, dumpfile.Config{Store: store, Name: "dump", Set: true})
	if _, err := shelf.restorer.Restore(t.Context(), b.ID, loader, nil); err != nil {
		t.Fatal(err)
	}
	if keys, set := setIn(t, store, "dump"); len(set.Shards) != 4 || int64(len(keys)) != b.Keys {
		t.Errorf("%d keys in %d shards", len(keys), len(set.Shards))
	}
	if want := []string{"dump-0000.dfs", "dump-0001.dfs", "dump-0002.dfs", "dump-0003.dfs", "dump-summary.dfs"}; !slices.Equal(names(t, store), want) {
		t.Errorf("%q", names(t, store))
	}
}
