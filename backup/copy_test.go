package backup_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
)

// origin returns a house with one backup.
func origin(t *testing.T) (*house, *catalog.Backup) {
	t.Helper()
	h := newHouse(t, memstore.New(nil), nil)
	b, err := h.runner.Run(t.Context(), request(&source{data: small}))
	if err != nil {
		t.Fatal(err)
	}
	return h, b
}

// copyTo copies a backup into another house.
func (h *house) copyTo(ctx context.Context, to *house, id catalog.ID) (*catalog.Backup, bool, error) {
	return to.runner.Copy(ctx, backup.CopyRequest{Backup: id, Store: h.store, Catalog: h.catalog})
}

func (h *house) object(t *testing.T, key string) []byte {
	t.Helper()
	data, err := storage.ReadFile(t.Context(), h.store, key, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func (h *house) put(t *testing.T, key string, data []byte) {
	t.Helper()
	if err := storage.WriteFile(t.Context(), h.store, key, data, nil); err != nil {
		t.Fatal(err)
	}
}

func TestCopy(t *testing.T) {
	from, b := origin(t)
	to := newHouse(t, memstore.New(nil), nil)
	var stages []backup.Stage
	q := backup.CopyRequest{Backup: b.ID, Store: from.store, Catalog: from.catalog, Progress: func(p backup.Progress) {
		if len(stages) == 0 || stages[len(stages)-1] != p.Stage {
			stages = append(stages, p.Stage)
		}
	}}
	got, made, err := to.runner.Copy(t.Context(), q)
	if err != nil || !made || got.ID != b.ID {
		t.Fatalf("%+v, %v, %v", got, made, err)
	}
	if len(stages) == 0 || stages[len(stages)-1] != backup.StageDone {
		t.Errorf("the stages were %v", stages)
	}
	keys := []string{b.Prefix() + "manifest.json", b.Parts[0].Key}
	for _, key := range keys {
		if !bytes.Equal(from.object(t, key), to.object(t, key)) {
			t.Errorf("%s is not the same", key)
		}
	}
	if ready, parts := to.check(t), to.parts(t); len(ready) != 1 || len(parts) != 1 || !reflect.DeepEqual(ready[0], b) {
		t.Errorf("listed: %+v; parts: %v", ready, parts)
	}
	// Again: there is nothing to do, nor if it is made onto itself.
	for _, from := range []*house{from, to} {
		if got, made, err := from.copyTo(t.Context(), to, b.ID); err != nil || made || got.ID != b.ID {
			t.Errorf("again: %+v, %v, %v", got, made, err)
		}
	}
	if n := len(to.check(t)); n != 1 {
		t.Errorf("%d are listed", n)
	}
	// What isn't the same is not taken for it, and stays.
	changed, rev, err := to.catalog.Get(t.Context(), b.ID)
	if err != nil {
		t.Fatal(err)
	}
	changed.Description = "another one"
	if _, err := to.catalog.Put(t.Context(), changed, rev); err != nil {
		t.Fatal(err)
	}
	if _, _, err := from.copyTo(t.Context(), to, b.ID); !errors.Is(err, backup.ErrDiffers) {
		t.Errorf("over another one: %v", err)
	}
	if ready := to.check(t); len(ready) != 1 || ready[0].Description != "another one" {
		t.Errorf("listed: %+v", ready)
	}
	// Deleted here and copied anew.
	if err := to.runner.Delete(t.Context(), b.ID); err != nil {
		t.Fatal(err)
	}
	if _, made, err := from.copyTo(t.Context(), to, b.ID); err != nil || !made || len(to.check(t)) != 1 {
		t.Errorf("after it was deleted: %v, %v", made, err)
	}
	if rep, err := to.runner.Sweep(t.Context(), -1); err != nil || rep != (backup.SweepReport{}) {
		t.Errorf("a sweep: %+v, %v", rep, err)
	}
}

// What the other store doesn't have as its manifest says is not copied.
func TestCopyOfWhatIsBad(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(t *testing.T, h *house, b *catalog.Backup)
		want  error
	}{
		"a bit changed": {func(t *testing.T, h *house, b *catalog.Backup) {
			data := bytes.Clone(h.object(t, b.Parts[0].Key))
			data[len(data)/2] ^= 1
			h.put(t, b.Parts[0].Key, data)
		}, backup.ErrNotSound},
		"cut": {func(t *testing.T, h *house, b *catalog.Backup) {
			h.put(t, b.Parts[0].Key, h.object(t, b.Parts[0].Key)[:100])
		}, backup.ErrNotSound},
		"longer": {func(t *testing.T, h *house, b *catalog.Backup) {
			h.put(t, b.Parts[0].Key, append(bytes.Clone(h.object(t, b.Parts[0].Key)), 'x'))
		}, backup.ErrNotSound},
		"missing": {func(t *testing.T, h *house, b *catalog.Backup) {
			if err := h.store.Delete(t.Context(), b.Parts[0].Key); err != nil {
				t.Fatal(err)
			}
		}, backup.ErrNotSound},
		"manifest unreadable": {func(t *testing.T, h *house, b *catalog.Backup) {
			h.put(t, b.Prefix()+"manifest.json", []byte("nothing"))
		}, catalog.ErrCorrupt},
		"not ready": {func(t *testing.T, h *house, b *catalog.Backup) {
			_, rev, err := h.catalog.Get(t.Context(), b.ID)
			if err != nil {
				t.Fatal(err)
			}
			b.State = catalog.StateDeleting
			if _, err := h.catalog.Put(t.Context(), b, rev); err != nil {
				t.Fatal(err)
			}
		}, backup.ErrSource},
		"deleted": {func(t *testing.T, h *house, b *catalog.Backup) {
			if err := h.runner.Delete(t.Context(), b.ID); err != nil {
				t.Fatal(err)
			}
		}, catalog.ErrNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			from, b := origin(t)
			to := newHouse(t, memstore.New(nil), nil)
			id := b.ID
			test.spoil(t, from, b)
			if _, _, err := from.copyTo(t.Context(), to, id); !errors.Is(err, test.want) {
				t.Errorf("%v, want %v", err, test.want)
			}
			if ready, parts := to.check(t), to.parts(t); len(ready) > 0 || len(parts) > 0 {
				t.Errorf("listed: %+v; parts: %v", ready, parts)
			}
		})
	}
}

// What a server wrote into its store itself is the copy's own in another store.
func TestCopyOfAdopted(t *testing.T) {
	from, b := origin(t)
	to := newHouse(t, memstore.New(nil), nil)
	b.ID, b.Source.Method = catalog.NewID(time.Now()), "dumpfile"
	p := &b.Parts[0]
	from.put(t, "data/dump.rdb", small)
	p.Name, p.Key, p.Adopted, p.Compression, p.Size, p.SHA256 = "dump.rdb", "data/dump.rdb", true, "none", p.RawSize, p.RawSHA256
	b.StoredBytes = p.Size
	if _, err := from.catalog.Put(t.Context(), b, ""); err != nil {
		t.Fatal(err)
	}
	for _, want := range []bool{true, false} {
		if _, made, err := from.copyTo(t.Context(), to, b.ID); err != nil || made != want {
			t.Fatalf("made %v, %v; want %v", made, err, want)
		}
	}
	ready := to.check(t)
	if len(ready) != 1 || ready[0].Parts[0].Adopted || ready[0].Parts[0].Key != b.Prefix()+"part-0000.rdb" || ready[0].Keys != b.Keys {
		t.Fatalf("listed: %+v", ready)
	}
	if err := to.runner.Delete(t.Context(), b.ID); err != nil || len(to.parts(t)) > 0 {
		t.Errorf("deleting it leaves %v, %v", to.parts(t), err)
	}
}

// gate is a store that stops at one call of a kind for a certain key, until it is opened.
type gate struct {
	storage.Store
	op, key string
	after   atomic.Int32 // calls that come before it
	reached chan struct{}
	open    chan struct{}
	once    sync.Once
}

func newGate(s storage.Store, op, key string) *gate {
	return &gate{Store: s, op: op, key: key, reached: make(chan struct{}), open: make(chan struct{})}
}

func (g *gate) stop(ctx context.Context, op, key string) {
	if op == g.op && key == g.key && g.after.Add(-1) < 0 {
		g.once.Do(func() {
			close(g.reached)
			select {
			case <-g.open:
			case <-ctx.Done():
			}
		})
	}
}

func (g *gate) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	g.stop(ctx, "open", key)
	return g.Store.Open(ctx, key, off, n)
}

func (g *gate) Create(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
	g.stop(ctx, "create", key)
	return g.Store.Create(ctx, key, opts)
}

// List stops after it has found the first object.
func (g *gate) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		for info, err := range g.Store.List(ctx, prefix) {
			if g.stop(ctx, "list", prefix); !yield(info, err) {
				return
			}
		}
	}
}

// clockwork is a clock that a test puts forward.
type clockwork struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clockwork) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clockwork) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// While a copy is at work its data store may be backed up into the same store, a sweep leaves it alone, and it isn't to be deleted; only
// another copy has to wait.
func TestCopyBesideOthers(t *testing.T) {
	from, b := origin(t)
	from.store = newGate(from.store, "open", b.Parts[0].Key)
	to := newHouse(t, memstore.New(nil), nil)
	var group sync.WaitGroup
	group.Go(func() {
		if _, made, err := from.copyTo(t.Context(), to, b.ID); err != nil || !made {
			t.Errorf("the copy: %v, %v", made, err)
		}
	})
	<-from.store.(*gate).reached
	if ready := to.check(t); len(ready) > 0 {
		t.Errorf("listed before it is whole: %+v", ready)
	}
	if state := to.state(t, b.ID); state != catalog.StateRunning {
		t.Errorf("it is %s", state)
	}
	if _, err := to.runner.Run(t.Context(), request(&source{data: small})); err != nil {
		t.Errorf("a backup meanwhile: %v", err)
	}
	if rep, err := to.runner.Sweep(t.Context(), -1); err != nil || rep != (backup.SweepReport{}) {
		t.Errorf("a sweep meanwhile: %+v, %v", rep, err)
	}
	if _, _, err := from.copyTo(t.Context(), to, b.ID); !errors.Is(err, backup.ErrBusy) {
		t.Errorf("another copy meanwhile: %v", err)
	}
	if err := to.runner.Delete(t.Context(), b.ID); !errors.Is(err, backup.ErrBusy) {
		t.Errorf("deleting it meanwhile: %v", err)
	}
	close(from.store.(*gate).open)
	group.Wait()
	if n := len(to.check(t)); n != 2 {
		t.Errorf("%d are listed", n)
	}
}

// A copy that slept past its lease can't publish, whether it was swept meanwhile or made anew; and what was made anew is whole. Only where it is
// there in the end that is no failure.
func TestPausedCopy(t *testing.T) {
	for _, meanwhile := range []string{"nothing", "swept", "copied", "swept and copied", "copied and deleted"} {
		t.Run(meanwhile, func(t *testing.T) {
			clock := &clockwork{t: time.Now()}
			from, b := origin(t)
			to := newHouse(t, memstore.New(nil), clock.now)
			slow := *from
			slow.store = newGate(from.store, "open", b.Parts[0].Key)
			g := slow.store.(*gate)
			var group sync.WaitGroup
			group.Go(func() {
				_, _, err := slow.copyTo(t.Context(), to, b.ID)
				if !errors.Is(err, catalog.ErrLeaseLost) && (err != nil || !strings.HasSuffix(meanwhile, "copied")) {
					t.Errorf("the one that slept: %v", err)
				}
			})
			<-g.reached
			clock.add(time.Hour)
			want := 0
			for step := range strings.SplitSeq(meanwhile, " and ") {
				switch step {
				case "swept":
					if rep, err := to.runner.Sweep(t.Context(), -1); err != nil || rep.Interrupted != 1 || rep.Records != 1 {
						t.Errorf("the sweep: %+v, %v", rep, err)
					}
				case "copied":
					if _, made, err := from.copyTo(t.Context(), to, b.ID); err != nil || !made {
						t.Errorf("the copy: %v, %v", made, err)
					}
					want = 1
				case "deleted":
					if err := to.runner.Delete(t.Context(), b.ID); err != nil {
						t.Error(err)
					}
					want = 0
				}
			}
			close(g.open)
			group.Wait()
			if ready := to.check(t); len(ready) != want {
				t.Errorf("listed: %+v, want %d", ready, want)
			}
			clock.add(time.Hour)
			if _, err := to.runner.Sweep(t.Context(), -1); err != nil {
				t.Error(err)
			}
			if ready, parts := to.check(t), to.parts(t); len(ready) != want || len(parts) != want {
				t.Errorf("after a sweep there are %+v, and the parts %v", ready, parts)
			}
		})
	}
}

// A copy that slept past its lease and takes back what it stored takes nothing of the one that is at work by then.
func TestCopyUndoneBesideAnother(t *testing.T) {
	clock := &clockwork{t: time.Now()}
	from, b := origin(t)
	store := memstore.New(nil)
	late, early := newGate(store, "open", b.Parts[0].Key), newGate(store, "create", b.Prefix()+"manifest.json")
	early.after.Store(1) // the first says that the one that sleeps is dead
	var group sync.WaitGroup
	group.Go(func() {
		if _, _, err := from.copyTo(t.Context(), newHouse(t, late, clock.now), b.ID); !errors.Is(err, catalog.ErrLeaseLost) {
			t.Errorf("the one that slept: %v", err)
		}
		close(early.open)
	})
	<-late.reached // its part is committed
	clock.add(time.Hour)
	group.Go(func() {
		if _, made, err := from.copyTo(t.Context(), newHouse(t, early, clock.now), b.ID); err != nil || !made {
			t.Errorf("the other: %v, %v", made, err)
		}
	})
	<-early.reached // it has read everything back
	close(late.open)
	group.Wait()
	if to := newHouse(t, store, clock.now); len(to.check(t)) != 1 {
		t.Error("nothing is listed")
	}
}

// What a copy left that died, whatever its record says, doesn't hold up the next one. While it is being deleted, somebody is at it.
func TestCopyAfterADeadOne(t *testing.T) {
	from, b := origin(t)
	for _, state := range []catalog.State{catalog.StateRunning, catalog.StateFailed, catalog.StateInterrupted, catalog.StateDeleting} {
		to := newHouse(t, memstore.New(nil), nil)
		dead := *b
		dead.State, dead.Kind, dead.Parts = state, catalog.KindCopy, nil
		if _, err := to.catalog.Put(t.Context(), &dead, ""); err != nil {
			t.Fatal(err)
		}
		to.put(t, b.Parts[0].Key, []byte("half of it"))
		to.put(t, b.Prefix()+"part-0001.rdb.zst", []byte("something else"))
		_, made, err := from.copyTo(t.Context(), to, b.ID)
		if state == catalog.StateDeleting {
			if !errors.Is(err, backup.ErrBusy) {
				t.Errorf("%s: %v", state, err)
			}
			if _, err := to.runner.Sweep(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			_, made, err = from.copyTo(t.Context(), to, b.ID)
		}
		if err != nil || !made {
			t.Errorf("%s: %v, %v", state, made, err)
		}
		if ready, parts := to.check(t), to.parts(t); len(ready) != 1 || len(parts) != 1 || ready[0].Kind != catalog.KindManual {
			t.Errorf("%s: listed %+v, parts %v", state, ready, parts)
		}
	}
	// While what is left is removed a sweep doesn't touch it.
	store := memstore.New(nil)
	g := newGate(store, "list", b.Prefix()+"part-")
	busy, idle := newHouse(t, g, nil), newHouse(t, store, nil)
	dead := *b
	dead.State, dead.Kind, dead.Parts = catalog.StateInterrupted, catalog.KindCopy, nil
	if _, err := idle.catalog.Put(t.Context(), &dead, ""); err != nil {
		t.Fatal(err)
	}
	idle.put(t, b.Parts[0].Key, []byte("half of it"))
	var group sync.WaitGroup
	group.Go(func() {
		if _, made, err := from.copyTo(t.Context(), busy, b.ID); err != nil || !made {
			t.Errorf("beside a sweep: %v, %v", made, err)
		}
	})
	<-g.reached
	if rep, err := idle.runner.Sweep(t.Context(), -1); err != nil || rep.Objects > 0 {
		t.Errorf("a sweep meanwhile: %+v, %v", rep, err)
	}
	close(g.open)
	group.Wait()

	// A run's own record of that ID is not a copy's.
	to := newHouse(t, memstore.New(nil), nil)
	other := *b
	other.State, other.Parts = catalog.StateRunning, nil
	if _, err := to.catalog.Put(t.Context(), &other, ""); err != nil {
		t.Fatal(err)
	}
	if _, _, err := from.copyTo(t.Context(), to, b.ID); !errors.Is(err, backup.ErrDiffers) || to.state(t, b.ID) != catalog.StateRunning {
		t.Errorf("over a run: %v", err)
	}
}

// A sweep or deletion that sleeps before it takes the next object takes none of a copy that was made anew meanwhile.
func TestSweepPausedBeforeACopy(t *testing.T) {
	from, b := origin(t)
	for _, what := range []string{"sweep", "delete"} {
		clock := &clockwork{t: time.Now()}
		to := newHouse(t, memstore.New(nil), clock.now)
		if _, _, err := from.copyTo(t.Context(), to, b.ID); err != nil {
			t.Fatal(err)
		}
		if what == "sweep" {
			dead, rev, err := to.catalog.Get(t.Context(), b.ID)
			if err != nil {
				t.Fatal(err)
			}
			dead.State, dead.Kind = catalog.StateInterrupted, catalog.KindCopy
			if _, err := to.catalog.Put(t.Context(), dead, rev); err != nil {
				t.Fatal(err)
			}
		}
		// It stops in the listing of the parts, when it is settled that they go.
		g := newGate(to.store, "list", b.Prefix()+"part-")
		slow := newHouse(t, g, clock.now)
		var group sync.WaitGroup
		group.Go(func() {
			if what == "sweep" {
				slow.runner.Sweep(t.Context(), -1)
			} else {
				slow.runner.Delete(t.Context(), b.ID)
			}
		})
		<-g.reached
		clock.add(time.Hour)
		if _, err := to.runner.Sweep(t.Context(), -1); err != nil {
			t.Fatal(err)
		}
		if _, made, err := from.copyTo(t.Context(), to, b.ID); err != nil || !made {
			t.Errorf("%s: the copy: %v, %v", what, made, err)
		}
		close(g.open)
		group.Wait()
		if ready, parts := to.check(t), to.parts(t); len(ready) != 1 || len(parts) != 1 {
			t.Errorf("%s: listed %+v, parts %v", what, ready, parts)
		}
	}
}

// The store that is copied into fails at any call: Copy returns nil exactly when there is a copy, which then is whole; and the next one works
// without a sweep.
func TestStoreFailsCopying(t *testing.T) {
	from, b := origin(t)
	campaign(t, func(*testing.T, *house) {},
		func(ctx context.Context, h *house) error {
			_, _, err := from.copyTo(ctx, h, b.ID)
			return err
		},
		func(t *testing.T, h *house, err error) {
			if ready := h.check(t); (err == nil) != (len(ready) == 1) {
				t.Errorf("Copy returned %v, and %d backups are listed", err, len(ready))
			}
		},
		func(t *testing.T, h *house) {
			if _, _, err := from.copyTo(t.Context(), h, b.ID); err != nil {
				t.Errorf("the next copy: %v", err)
			}
			if ready, parts := h.check(t), h.parts(t); len(ready) != 2 || len(parts) != 2 {
				t.Errorf("after the next copy there are %d backups, and the parts %v", len(ready), parts)
			}
		})
}

// The store that is copied from fails at any call.
func TestOtherStoreFailsCopying(t *testing.T) {
	campaign(t,
		func(t *testing.T, h *house) {
			if _, err := h.runner.Run(t.Context(), request(&source{data: small})); err != nil {
				t.Fatal(err)
			}
		},
		func(ctx context.Context, h *house) error {
			id := catalog.ID("")
			for b, err := range h.catalog.List(ctx, catalog.Query{}) {
				if err != nil {
					return err
				}
				id = b.ID
			}
			to := newHouse(t, memstore.New(nil), nil)
			_, _, err := h.copyTo(ctx, to, id)
			ready, parts := to.check(t), to.parts(t)
			if (err == nil) != (len(ready) == 1) || len(parts) != len(ready) {
				t.Errorf("Copy returned %v, and %d backups are listed, with the parts %v", err, len(ready), parts)
			}
			return err
		},
		func(t *testing.T, h *house, err error) {
			if n := len(h.check(t)); n != 1 || errors.Is(err, restore.ErrNotVerified) {
				t.Errorf("there are %d backups after %v", n, err)
			}
		})
}

func TestCopyRequest(t *testing.T) {
	from, b := origin(t)
	for want, q := range map[string]backup.CopyRequest{
		"CopyRequest.Store":   {Backup: b.ID, Catalog: from.catalog},
		"CopyRequest.Catalog": {Backup: b.ID, Store: from.store},
	} {
		if _, _, err := from.runner.Copy(t.Context(), q); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
