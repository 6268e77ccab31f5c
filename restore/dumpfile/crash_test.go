package dumpfile_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/restore/dumpfile"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/storetest"
)

// A scene is a restore that is disturbed at every point.
type scene struct {
	name   string
	shards int
	former bool // there was a file before
	own    bool // the backup is a set of as many shards itself
}

var scenes = []scene{{"Plain", 0, false, false}, {"PlainReplace", 0, true, false}, {"Set", 3, false, false}, {"SetReplace", 3, true, false},
	{"OwnSet", 2, false, true}, {"OwnSetReplace", 2, true, true}}

// A stage is where a scene plays.
type stage struct {
	scene
	source, former *image
	old, new       map[string]string
}

func (s scene) stage(t *testing.T) *stage {
	t.Helper()
	former := imageOf(t, testdata+"dragonfly-1.40/mini.rdb")
	src := imageOf(t, testdata+"redis-7.0.15/expires.rdb") // of four databases, without what Dragonfly hasn't
	src.backup.Parts[0].Dialect = former.backup.Parts[0].Dialect
	if s.own {
		set := ownSet(t)
		return &stage{s, set, src, keysOf(t, rdb.NewReader(strings.NewReader(string(src.data)), nil)), keysOfSet(t, set)}
	}
	return &stage{s, src, former, keysOf(t, rdb.NewReader(strings.NewReader(string(former.data)), nil)), keysOf(t, rdb.NewReader(strings.NewReader(string(src.data)), nil))}
}

// store returns one with what was there before.
func (s *stage) store(t *testing.T) *memstore.Store {
	t.Helper()
	store := memstore.New(nil)
	if s.scene.former {
		if _, err := s.loader(t, store).Load(t.Context(), s.former, nil); err != nil {
			t.Fatal(err)
		}
	}
	return store
}

func (s *stage) loader(t *testing.T, store storage.Store) *dumpfile.Loader {
	t.Helper()
	name := "dump.rdb"
	if s.shards > 0 {
		name = "dump"
	}
	return newLoader(t, dumpfile.Config{Store: store, Name: name, Shards: s.shards})
}

func (s *stage) load(t *testing.T, ctx context.Context, store storage.Store) error {
	_, err := s.loader(t, store).Load(ctx, s.source, replace)
	return err
}

// found returns what a server would find, and says which it is: "old", "new" or "nothing". Anything else fails the test.
func (s *stage) found(t *testing.T, store storage.Store) string {
	t.Helper()
	var got map[string]string
	if s.shards > 0 {
		got, _ = setIn(t, store, "dump")
	} else if _, err := store.Stat(t.Context(), "dump.rdb"); err == nil {
		r := rdb.NewReader(strings.NewReader(read(t, store, "dump.rdb")), nil)
		got = keysOf(t, r)
	}
	switch {
	case got == nil:
		return "nothing"
	case maps.EqualFunc(got, s.new, equalLines):
		return "new"
	case s.scene.former && maps.EqualFunc(got, s.old, equalLines):
		return "old"
	}
	t.Fatalf("a server finds neither the old nor the new: %d keys", len(got))
	return ""
}

func equalLines(a, b string) bool { return sameLine(a) == sameLine(b) }

// honest compares an error with what is there.
func (s *stage) honest(t *testing.T, err error, found string) {
	t.Helper()
	before := "nothing"
	if s.scene.former {
		before = "old"
	}
	var partial *restore.PartialError
	switch {
	case err == nil:
		if found != "new" {
			t.Errorf("no error, and a server finds %s", found)
		}
		return
	case !errors.As(err, &partial):
		if found != before {
			t.Errorf("it was %s, and is %s, and the error is no PartialError: %v", before, found, err)
		}
		return
	}
	told := map[restore.TargetState][]string{
		restore.TargetEmpty: {"nothing"}, restore.TargetLoaded: {"new"}, restore.TargetUnchanged: {before}, restore.TargetUnknown: {"old", "new", "nothing"},
	}[partial.State]
	if !strings.Contains(strings.Join(told, " "), found) {
		t.Errorf("the error says %s, and a server finds %s: %v", partial.State, found, err)
	}
}

// At every call that the store gets, the call fails: without effect, or after it.
func TestStoreFailsAtAnyPoint(t *testing.T) {
	for _, scene := range scenes {
		t.Run(scene.name, func(t *testing.T) {
			s := scene.stage(t)
			calm := storetest.NewFaulty(s.store(t))
			if err := s.load(t, t.Context(), calm); err != nil {
				t.Fatal(err)
			}
			outcomes := map[string]int{}
			for _, op := range []storetest.Op{storetest.OpStat, storetest.OpCreate, storetest.OpWrite, storetest.OpCommit, storetest.OpDelete, storetest.OpList, storetest.OpAbort} {
				for call := range calm.Calls(op) {
					for _, mode := range []storetest.Mode{storetest.Before, storetest.After} {
						store := s.store(t)
						faulty := storetest.NewFaulty(store, storetest.Fault{Op: op, Call: call + 1, Mode: mode})
						err := s.load(t, t.Context(), faulty)
						found := s.found(t, store)
						s.honest(t, err, found)
						// What isn't there is answered truly, and of no use is what is left when the set is there.
						answered := mode == storetest.After && !scene.former && (op == storetest.OpStat || op == storetest.OpDelete)
						if err == nil && op != storetest.OpList && op != storetest.OpAbort && !answered {
							t.Errorf("%s %d (mode %d) fails, and there is no error", op, call+1, mode)
						}
						if err != nil && !errors.Is(err, storetest.ErrInjected) {
							t.Errorf("the error doesn't wrap the store's: %v", err)
						}
						if left := len(names(t, store)); err != nil && !scene.former && found == "nothing" && left > 0 {
							t.Errorf("%s %d (mode %d): %q are left", op, call+1, mode, names(t, store))
						}
						outcomes[found]++
						if faulty.Fired() == 0 && op != storetest.OpAbort {
							t.Errorf("%s %d was never called", op, call+1)
						}
						// And it works the next time.
						if err := s.load(t, t.Context(), store); err != nil {
							t.Errorf("after %s %d (mode %d): %v", op, call+1, mode, err)
						}
						if again := s.found(t, store); again != "new" {
							t.Errorf("after %s %d (mode %d) a server finds %s", op, call+1, mode, again)
						}
					}
				}
			}
			t.Log(outcomes)
		})
	}
}

// A disk that is full at any byte leaves what was there before.
func TestStoreIsFull(t *testing.T) {
	for _, scene := range scenes {
		t.Run(scene.name, func(t *testing.T) {
			s := scene.stage(t)
			for _, at := range []int64{0, 1, 100, int64(len(s.source.data)) - 1} {
				store := s.store(t)
				faulty := storetest.NewFaulty(store, storetest.Fault{Op: storetest.OpWrite, Mode: storetest.NoSpace, Byte: at})
				err := s.load(t, t.Context(), faulty)
				if scene.shards > 0 && faulty.Fired() == 0 {
					continue // no file of the set is that large
				}
				if err == nil {
					t.Errorf("byte %d: no error", at)
				}
				found := s.found(t, store)
				s.honest(t, err, found)
				if found == "new" {
					t.Errorf("byte %d: a server finds the new data", at)
				}
			}
		})
	}
}

// A stopped store is that of a process which ends: from some call on nothing has an effect any more.
type stopped struct {
	storage.Store
	left atomic.Int64
}

var errStopped = errors.New("the process is gone")

func (s *stopped) on() error {
	if s.left.Add(-1) < 0 {
		return errStopped
	}
	return nil
}

func (s *stopped) Create(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
	if err := s.on(); err != nil {
		return nil, err
	}
	w, err := s.Store.Create(ctx, key, opts)
	return &stoppedWriter{w, s}, err
}

func (s *stopped) Delete(ctx context.Context, key string) error {
	if err := s.on(); err != nil {
		return err
	}
	return s.Store.Delete(ctx, key)
}

type stoppedWriter struct {
	storage.Writer
	s *stopped
}

func (w *stoppedWriter) Write(p []byte) (int, error) {
	if err := w.s.on(); err != nil {
		return 0, err
	}
	return w.Writer.Write(p)
}

func (w *stoppedWriter) Commit(ctx context.Context) (storage.Info, error) {
	if err := w.s.on(); err != nil {
		return storage.Info{}, err
	}
	return w.Writer.Commit(ctx)
}

func (w *stoppedWriter) Abort() error { return nil }

// The process ends at any point: a server finds the old data, the new, or nothing; and the next restore works.
func TestProcessEndsAtAnyPoint(t *testing.T) {
	for _, scene := range scenes {
		t.Run(scene.name, func(t *testing.T) {
			s := scene.stage(t)
			outcomes := map[string]int{}
			for n := int64(0); ; n++ {
				store := s.store(t)
				dies := &stopped{Store: store}
				dies.left.Store(n)
				err := s.load(t, t.Context(), dies)
				found := s.found(t, store)
				outcomes[found]++
				if err := s.load(t, t.Context(), store); err != nil || s.found(t, store) != "new" {
					t.Errorf("after it ended at call %d: %v", n, err)
				}
				if err == nil {
					break
				}
			}
			if outcomes["new"] == 0 || scene.former && outcomes["old"] == 0 || scene.name == "PlainReplace" && outcomes["nothing"] > 0 {
				t.Errorf("a server finds %v", outcomes)
			}
			t.Log(outcomes)
		})
	}
}

// A store that doesn't answer holds a restore up no longer than a second once it is cancelled.
func TestCancelAtAnyPoint(t *testing.T) {
	for _, scene := range scenes {
		t.Run(scene.name, func(t *testing.T) {
			t.Parallel()
			s := scene.stage(t)
			calm := storetest.NewFaulty(s.store(t))
			if err := s.load(t, t.Context(), calm); err != nil {
				t.Fatal(err)
			}
			for _, op := range []storetest.Op{storetest.OpStat, storetest.OpCreate, storetest.OpWrite, storetest.OpCommit, storetest.OpDelete} {
				for call := range min(calm.Calls(op), 4) { // the summary and each shard; the first writes
					store := s.store(t)
					ctx, cancel := context.WithCancel(t.Context())
					time.AfterFunc(10*time.Millisecond, cancel)
					start := time.Now()
					err := s.load(t, ctx, storetest.NewFaulty(store, storetest.Fault{Op: op, Call: call + 1, Mode: storetest.Hang}))
					if took := time.Since(start); took > 3*time.Second {
						t.Errorf("%s %d: it took %v", op, call+1, took)
					}
					if !errors.Is(err, context.Canceled) && err != nil || err == nil && s.found(t, store) != "new" {
						t.Errorf("%s %d: %v", op, call+1, err)
					}
					s.honest(t, err, s.found(t, store))
					cancel()
				}
			}
		})
	}
}

// Of two that write a file of the same name without leave to replace, one wins and the other is told.
func TestSomebodyElseIsQuicker(t *testing.T) {
	for _, shards := range []int{0, 2} {
		s := scene{"", shards, false, false}.stage(t)
		store := memstore.New(nil)
		hook := &between{Store: store, do: func() {
			if err := s.load(t, t.Context(), store); err != nil {
				t.Error(err)
			}
		}}
		_, err := s.loader(t, hook).Load(t.Context(), s.source, nil)
		if shards == 0 {
			if !errors.Is(err, restore.ErrNotEmpty) {
				t.Errorf("a plain file: %v", err)
			}
			if found := s.found(t, store); found != "new" {
				t.Errorf("a server finds %s", found)
			}
			continue
		}
		var partial *restore.PartialError
		if !errors.As(err, &partial) || partial.State != restore.TargetUnknown || !strings.Contains(fmt.Sprint(err), "somebody else") {
			t.Errorf("a set: %v", err)
		}
	}
}

// between does something right before the first commit.
type between struct {
	storage.Store
	do func()
}

func (b *between) Create(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
	w, err := b.Store.Create(ctx, key, opts)
	return &betweenWriter{w, b}, err
}

type betweenWriter struct {
	storage.Writer
	b *between
}

func (w *betweenWriter) Commit(ctx context.Context) (storage.Info, error) {
	if do := w.b.do; do != nil {
		w.b.do = nil
		do()
	}
	return w.Writer.Commit(ctx)
}
