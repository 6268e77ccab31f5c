package dumpfile_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/storecatalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/rdb/aof"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/restore/dumpfile"
	"github.com/amberkv/amber/restore/localserver"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/filestore"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/seal"
	"github.com/amberkv/amber/storage/storetest"
)

// texts are a snapshot of parts that are given as they are.
type texts []string

func (s texts) Snapshot(context.Context) (backup.Snapshot, error) { return s, nil }
func (s texts) Source() catalog.Source                            { return catalog.Source{Method: "aof"} }
func (s texts) Close() error                                      { return nil }
func (s texts) Open(_ context.Context, p backup.Part) (io.ReadCloser, error) {
	for _, text := range s {
		if int64(len(text)) == p.Size {
			return io.NopCloser(strings.NewReader(text)), nil
		}
	}
	return nil, errors.New("there is no such part")
}
func (s texts) Parts() (parts []backup.Part) {
	for i, text := range s {
		parts = append(parts, backup.Part{Name: fmt.Sprintf("%04d.part", i), Size: int64(len(text))})
	}
	return parts
}

// set writes keys as commands.
func set(args ...string) (text string) {
	for i := 0; i < len(args); i += 2 {
		text += fmt.Sprintf("*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n", len(args[i]), args[i], len(args[i+1]), args[i+1])
	}
	return text
}

// keepTexts makes a backup of parts.
func (s *shelf) keepTexts(t *testing.T, to []age.Recipient, parts ...string) *catalog.Backup {
	t.Helper()
	q := backup.Request{DataStore: "orders", Snapshotter: texts(parts)}
	if to != nil {
		q.Seal = &seal.Options{Recipients: to}
	}
	b, err := s.runner.Run(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func newAOF(t *testing.T, cfg dumpfile.AOFConfig) *dumpfile.AOFLoader {
	t.Helper()
	l, err := dumpfile.NewAOF(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestAOFConfig(t *testing.T) {
	for want, cfg := range map[string]dumpfile.AOFConfig{
		"Store is required": {}, "is a path": {Store: memstore.New(nil), Name: "a/b"}, "Dir and Name": {Store: memstore.New(nil), Dir: "../a"}, "invalid object key": {Store: memstore.New(nil), Name: ".a"},
	} {
		if _, err := dumpfile.NewAOF(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %s", cfg, err, want)
		}
	}
}

// A backup of append-only files becomes files again, encrypted or not, from the store or a copy; what is there is refused, or replaced in one step, by files of new names.
func TestAOFFiles(t *testing.T) {
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	base := read(t, dirStore(t, testdata+"redis-8.0.2"), "sets.rdb")
	for name, to := range map[string][]age.Recipient{"Plain": nil, "Encrypted": {key.Recipient()}} {
		t.Run(name, func(t *testing.T) {
			s := newShelf(t)
			b := s.keepTexts(t, to, base, set("a", "1", "b", "2"), set("c", "3"))
			if b.Commands != 3 || b.Verification.Checksum != "absent" || b.Source.Dialect != "redis:12" || b.Source.Engine != "redis" {
				t.Errorf("%+v", b)
			}
			restorer := func(store storage.Store, c catalog.Catalog) *restore.Restorer {
				r, err := restore.New(restore.Config{Store: store, Catalog: c, Identities: []age.Identity{key}})
				if err != nil {
					t.Fatal(err)
				}
				return r
			}
			// The copy is the same backup.
			other := memstore.New(nil)
			otherCatalog, err := storecatalog.New(storecatalog.Config{Store: other})
			if err != nil {
				t.Fatal(err)
			}
			runner, err := backup.NewRunner(backup.Config{Store: other, Catalog: otherCatalog, Leaser: otherCatalog})
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := runner.Copy(t.Context(), backup.CopyRequest{Backup: b.ID, Store: s.store, Catalog: s.catalog}); err != nil {
				t.Fatal(err)
			}
			for _, r := range []*restore.Restorer{restorer(s.store, s.catalog), restorer(other, otherCatalog)} {
				if v, err := r.Verify(t.Context(), b.ID, nil); err != nil || v.Keys != b.Keys || v.Sealed {
					t.Errorf("%+v %v", v, err)
				}
				store := memstore.New(nil)
				write(t, store, "aof/a.7.incr.aof", "left by somebody")
				write(t, store, "aof/a.b.incr.aof", "something else")
				l := newAOF(t, dumpfile.AOFConfig{Store: store, Dir: "aof/", Name: "a"})
				holds := func(base_, first, second int) {
					t.Helper()
					want := fmt.Sprintf("file a.%d.base.rdb seq %d type b\nfile a.%d.incr.aof seq %d type i\nfile a.%d.incr.aof seq %d type i\n", base_, base_, first, first, second, second)
					if got := read(t, store, "aof/a.manifest"); got != want {
						t.Errorf("the manifest is %q, want %q", got, want)
					}
					if read(t, store, fmt.Sprintf("aof/a.%d.base.rdb", base_)) != base || read(t, store, fmt.Sprintf("aof/a.%d.incr.aof", first)) != set("a", "1", "b", "2") ||
						read(t, store, fmt.Sprintf("aof/a.%d.incr.aof", second)) != set("c", "3") {
						t.Error("the files are not those of the backup")
					}
				}
				rep, err := r.Restore(t.Context(), b.ID, l, nil)
				if err != nil || rep.Bytes != b.RawBytes || rep.Commands != 3 || rep.Keys != b.Keys || !rep.Proof.Counted || rep.Method != "aof" {
					t.Fatalf("%+v %v", rep, err)
				}
				holds(8, 8, 9)
				if _, err := r.Restore(t.Context(), b.ID, l, nil); !errors.Is(err, restore.ErrNotEmpty) {
					t.Errorf("a second time: %v", err)
				}
				if _, err := r.Restore(t.Context(), b.ID, l, replace); err != nil {
					t.Fatal(err)
				}
				holds(10, 10, 11)
				if got := names(t, store); !slices.Equal(got, []string{"aof/a.10.base.rdb", "aof/a.10.incr.aof", "aof/a.11.incr.aof", "aof/a.b.incr.aof", "aof/a.manifest"}) {
					t.Errorf("%q", got)
				}
			}
		})
	}
}

func dirStore(t *testing.T, dir string) storage.Store {
	t.Helper()
	s, err := filestore.New(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// What can't be done with commands is refused before anything is written, and so is a backup of several bases; one that is a single RDB file becomes a base.
func TestAOFRefused(t *testing.T) {
	s := newShelf(t)
	base := read(t, dirStore(t, testdata+"redis-8.0.2"), "sets.rdb")
	appended := s.keepTexts(t, nil, base, set("a", "1")).ID
	store := memstore.New(nil)
	l := newAOF(t, dumpfile.AOFConfig{Store: store})
	file := newLoader(t, dumpfile.Config{Store: store, Name: "dump.rdb"})
	redis11 := newLoader(t, dumpfile.Config{Store: store, Name: "dump.rdb", Dialect: redis10})
	verbatim := newLoader(t, dumpfile.Config{Store: store, Name: "dump.rdb", Verbatim: true})
	shards := newLoader(t, dumpfile.Config{Store: store, Name: "dump", Shards: 2})
	two := s.keep(t, testdata+"redis-8.0.2/streams.rdb", testdata+"redis-8.0.2/sets.rdb").ID
	for name, test := range map[string]struct {
		id     catalog.ID
		loader restore.Loader
		opts   *restore.Options
		want   string
	}{
		"File":     {appended, file, nil, "commands of append-only files"},
		"Dialect":  {appended, redis11, nil, "commands of append-only files"},
		"Verbatim": {appended, verbatim, nil, "commands of append-only files"},
		"Shards":   {appended, shards, nil, "commands of append-only files"},
		"Selected": {appended, l, &restore.Options{Select: restore.Selection{Match: "a*"}}, "can't be selected, renamed"},
		"Expiry":   {appended, l, &restore.Options{Expiry: restore.ExpiryDrop}, "given other expiries"},
		"Merge":    {appended, l, &restore.Options{Conflict: restore.MergeSkip}, "can't be merged"},
		"TwoBases": {two, l, nil, "is another base"},
	} {
		_, err := s.restorer.Restore(t.Context(), test.id, test.loader, test.opts)
		if !errors.Is(err, restore.ErrRefused) || !strings.Contains(err.Error(), test.want) || len(names(t, store)) > 0 {
			t.Errorf("%s: %v, and there is %q", name, err, names(t, store))
		}
	}
	one := s.keep(t, testdata+"redis-8.0.2/streams.rdb").ID
	if _, err := s.restorer.Restore(t.Context(), one, l, nil); err != nil || read(t, store, "appendonly.aof.manifest") != "file appendonly.aof.1.base.rdb seq 1 type b\n" {
		t.Error(err)
	}
	if _, err := s.restorer.Restore(t.Context(), one, newAOF(t, dumpfile.AOFConfig{Store: memstore.New(nil)}), &restore.Options{Select: restore.Selection{Match: "a*"}}); err != nil {
		t.Errorf("of an RDB file some keys: %v", err)
	}
}

// At every call that the store gets, the call fails, without effect or after it: what a server finds is what was there before, or the backup, as the error says.
func TestAOFStoreFailsAtAnyPoint(t *testing.T) {
	s := newShelf(t)
	id := s.keepTexts(t, nil, set("base", "1"), set("a", "1"), set("abc", "2")).ID
	former := s.keepTexts(t, nil, set("former", "1")).ID
	fresh := func(t *testing.T, replaces bool) *memstore.Store {
		store := memstore.New(nil)
		if replaces {
			if _, err := s.restorer.Restore(t.Context(), former, newAOF(t, dumpfile.AOFConfig{Store: store}), nil); err != nil {
				t.Fatal(err)
			}
		}
		return store
	}
	// found tells what a server finds, and whether all of it is there.
	found := func(t *testing.T, store storage.Store) string {
		t.Helper()
		text, err := storage.ReadFile(t.Context(), store, "appendonly.aof.manifest", aof.MaxManifest)
		if errors.Is(err, storage.ErrNotFound) {
			return "nothing"
		}
		if err != nil {
			t.Fatal(err)
		}
		m, err := aof.ParseManifest(text)
		if err != nil {
			t.Fatal(err)
		}
		all := ""
		for _, f := range m.Members() {
			all += read(t, store, f.Name)
		}
		switch all {
		case set("base", "1", "a", "1", "abc", "2"):
			return "new"
		case set("former", "1"):
			return "old"
		}
		t.Fatalf("a server finds %q", all)
		return ""
	}
	for _, replaces := range []bool{false, true} {
		before, opts := "nothing", (*restore.Options)(nil)
		if replaces {
			before, opts = "old", replace
		}
		load := func(store storage.Store) error {
			_, err := s.restorer.Restore(t.Context(), id, newAOF(t, dumpfile.AOFConfig{Store: store}), opts)
			return err
		}
		calm := storetest.NewFaulty(fresh(t, replaces))
		if err := load(calm); err != nil {
			t.Fatal(err)
		}
		for _, op := range []storetest.Op{storetest.OpStat, storetest.OpCreate, storetest.OpWrite, storetest.OpCommit, storetest.OpDelete, storetest.OpList} {
			for call := range calm.Calls(op) {
				for _, mode := range []storetest.Mode{storetest.Before, storetest.After} {
					store := fresh(t, replaces)
					err := load(storetest.NewFaulty(store, storetest.Fault{Op: op, Call: call + 1, Mode: mode}))
					got := found(t, store)
					var partial *restore.PartialError
					switch {
					case err == nil && got != "new":
						t.Errorf("%s %d: no error, and a server finds %s", op, call+1, got)
					case err != nil && !errors.As(err, &partial) && got != before:
						t.Errorf("%s %d: %v, and a server finds %s", op, call+1, err, got)
					case partial != nil && partial.State == restore.TargetLoaded && got != "new":
						t.Errorf("%s %d: %v, and a server finds %s", op, call+1, err, got)
					case err == nil && op != storetest.OpDelete && op != storetest.OpStat && op != storetest.OpList:
						t.Errorf("%s %d (mode %d) fails, and there is no error", op, call+1, mode)
					case err != nil && got == "nothing" && len(names(t, store)) > 0:
						t.Errorf("%s %d: %q are left", op, call+1, names(t, store))
					}
					if err := load(store); err != nil && !errors.Is(err, restore.ErrNotEmpty) || found(t, store) != "new" {
						t.Errorf("after %s %d: %v", op, call+1, err)
					}
				}
			}
		}
	}
}

// A server of this machine starts from a backup of append-only files.
func TestAOFLocalServer(t *testing.T) {
	s := newShelf(t)
	b := s.keepTexts(t, nil, read(t, dirStore(t, testdata+"redis-8.0.2"), "sets.rdb"), set("amber", "1"))
	p, err := localserver.New(localserver.Config{Program: testserver.Program(t, "redis-8.0", "server"), Dir: t.TempDir(), Args: []string{"--appendonly", "yes"},
		Fill: func(ctx context.Context, dir string) error {
			store, err := filestore.New(filepath.Join(dir, "appendonlydir"), nil)
			if err != nil {
				return err
			}
			defer store.Close()
			_, err = s.restorer.Restore(ctx, b.ID, newAOF(t, dumpfile.AOFConfig{Store: store}), nil)
			return err
		}})
	if err != nil {
		t.Fatal(err)
	}
	srv, err := p.Provision(t.Context(), restore.Need{Engine: b.Source.Engine, Version: b.Source.Version})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Remove(t.Context())
	c := clientOf(t, srv)
	if v := c.Get(t.Context(), "amber").Val(); v != "1" || c.DBSize(t.Context()).Val() != b.Keys+1 {
		t.Errorf("%q, %d keys of %d", v, c.DBSize(t.Context()).Val(), b.Keys)
	}
	boom := errors.New("boom")
	if p, err = localserver.New(localserver.Config{Program: testserver.Program(t, "redis-8.0", "server"), Fill: func(context.Context, string) error { return boom }}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Provision(t.Context(), restore.Need{}); !errors.Is(err, boom) {
		t.Errorf("%v", err)
	}
}

func clientOf(t *testing.T, s restore.Provisioned) *redis.Client {
	t.Helper()
	c := redis.NewClient(s.Options())
	t.Cleanup(func() { c.Close() })
	return c
}
