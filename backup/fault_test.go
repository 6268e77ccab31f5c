package backup_test

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/storetest"
)

var allOps = []storetest.Op{storetest.OpCreate, storetest.OpWrite, storetest.OpCommit, storetest.OpAbort, storetest.OpOpen,
	storetest.OpRead, storetest.OpStat, storetest.OpList, storetest.OpDelete}

var allModes = map[string]storetest.Mode{"before": storetest.Before, "after": storetest.After, "hang": storetest.Hang}

// campaign makes call k of each kind fail, in each way, for k = 1, 2, … until a run meets no fault any more. Before each run
// prepare makes what it needs in the sound store; do is the run, over a house whose store fails. again are done when the leases have ended.
func campaign(t *testing.T, prepare func(t *testing.T, h *house), do func(ctx context.Context, h *house) error, after func(t *testing.T, h *house, err error),
	again ...func(t *testing.T, h *house)) {
	campaignOf(t, allModes, prepare, do, after, again...)
}

// campaignOf is campaign with some of the modes.
func campaignOf(t *testing.T, modes map[string]storetest.Mode, prepare func(t *testing.T, h *house), do func(ctx context.Context, h *house) error, after func(t *testing.T, h *house, err error),
	again ...func(t *testing.T, h *house)) {
	// Each round makes houses with buffers that are garbage after it: collecting that less often saves a third of the time.
	usual := debug.SetGCPercent(400)
	t.Cleanup(func() { debug.SetGCPercent(usual) })
	var injected atomic.Int64
	t.Cleanup(func() { t.Logf("%d faults were injected", injected.Load()) })
	for _, op := range allOps {
		for name, mode := range modes {
			t.Run(fmt.Sprintf("%s %s", op, name), func(t *testing.T) {
				t.Parallel()
				for k := 1; ; k++ {
					var late atomic.Int64 // how far the clock is put forward
					now := func() time.Time { return time.Now().Add(time.Duration(late.Load())) }
					sound := memstore.New(nil)
					clean := newHouse(t, sound, now)
					prepare(t, clean)
					faulty := storetest.NewFaulty(sound, storetest.Fault{Op: op, Call: k, Mode: mode})
					ctx, cancel := context.WithCancel(t.Context())
					if mode == storetest.Hang {
						ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
					}
					start := time.Now()
					err := do(ctx, newHouse(t, faulty, now))
					if took := time.Since(start); took > 3*time.Second {
						t.Errorf("call %d: it took %v", k, took)
					}
					cancel()
					after(t, clean, err)
					// Whatever was left does not stand in the way of the next run once the lease has ended, and a sweep takes it.
					late.Store(int64(time.Hour))
					if _, err := clean.runner.Run(t.Context(), request(&source{data: small})); err != nil {
						t.Errorf("call %d: the next run: %v", k, err)
					}
					for _, f := range again {
						f(t, clean)
					}
					if _, err := clean.runner.Sweep(t.Context(), -1); err != nil {
						t.Errorf("call %d: the sweep: %v", k, err)
					}
					if own, parts := notAdopted(clean.check(t)), clean.parts(t); own != len(parts) {
						t.Errorf("call %d: %d backups are listed, the parts in the store are %v", k, own, parts)
					}
					if t.Failed() || faulty.Fired() == 0 {
						break
					}
					injected.Add(int64(faulty.Fired()))
				}
			})
		}
	}
}

var small = snapshotOf(100, 2000)

func TestStoreFails(t *testing.T) {
	campaign(t, func(*testing.T, *house) {},
		func(ctx context.Context, h *house) error {
			_, err := h.runner.Run(ctx, request(&source{data: small}))
			return err
		},
		func(t *testing.T, h *house, err error) {
			// Run returns nil exactly when there is a backup.
			if ready := h.check(t); (err == nil) != (len(ready) == 1) {
				t.Errorf("Run returned %v, and %d backups are listed", err, len(ready))
			}
		})
}

func TestStoreFailsDeleting(t *testing.T) {
	campaign(t,
		func(t *testing.T, h *house) {
			if _, err := h.runner.Run(t.Context(), request(&source{data: small})); err != nil {
				t.Fatal(err)
			}
		},
		func(ctx context.Context, h *house) error {
			for b, err := range h.catalog.List(ctx, catalog.Query{}) {
				if err != nil {
					return err
				}
				return h.runner.Delete(ctx, b.ID)
			}
			return errors.New("nothing was listed")
		},
		func(t *testing.T, h *house, err error) {
			// A backup is listed and whole, or it isn't listed; check holds the former.
			if ready := h.check(t); err == nil && len(ready) > 0 {
				t.Error("Delete returned nil, and the backup is listed")
			}
		})
}

func TestStoreFailsSweeping(t *testing.T) {
	campaign(t,
		func(t *testing.T, h *house) {
			if _, err := h.runner.Run(t.Context(), request(&source{data: small})); err != nil {
				t.Fatal(err)
			}
			h.dead(t, "orders", time.Now().Add(-48*time.Hour))
		},
		func(ctx context.Context, h *house) error {
			_, err := h.runner.Sweep(ctx, 0)
			return err
		},
		func(t *testing.T, h *house, err error) {
			if n := len(h.check(t)); n != 1 {
				t.Errorf("after a sweep that returned %v there are %d backups", err, n)
			}
		})
}

// A disk that is full at any byte fails the run with ENOSPC and leaves nothing.
func TestDiskFull(t *testing.T) {
	size := int64(len(small))
	for _, key := range []string{"/part-0000", "/run.json", "/manifest.json", "_leases/"} {
		for _, at := range []int64{0, 1, 100, size / 20} {
			store := storetest.NewFaulty(memstore.New(nil), storetest.Fault{Op: storetest.OpWrite, Key: key, Mode: storetest.NoSpace, Byte: at})
			h := newHouse(t, store, nil)
			_, err := h.runner.Run(t.Context(), request(&source{data: small}))
			if store.Fired() == 0 {
				continue // the object is not that long
			}
			if !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("%s full at byte %d: %v", key, at, err)
			}
			// Where not even the record that it failed has room the part stays, for the manifest may have got through.
			left := map[bool]int{true: 1}[key == "/manifest.json"]
			if ready, parts := h.check(t), h.parts(t); len(ready) > 0 || len(parts) != left {
				t.Errorf("%s full at byte %d: listed %v, left %v", key, at, ready, parts)
			}
		}
	}
}

// Whoever lies about leases, the compare-and-swap of the catalog still lets only one of two runs publish.
func TestPublishIsFenced(t *testing.T) {
	h := newHouse(t, memstore.New(nil), nil)
	runner, err := backup.NewRunner(backup.Config{Store: h.store, Catalog: h.catalog, Leaser: generous{}})
	if err != nil {
		t.Fatal(err)
	}
	paused, wake := make(chan struct{}), make(chan struct{})
	late := make(chan error, 1)
	go func() {
		_, err := runner.Run(t.Context(), request(&source{data: small, read: func(_ context.Context, at int) error {
			if at == len(small) {
				close(paused)
				<-wake
			}
			return nil
		}}))
		late <- err
	}()
	<-paused
	b, err := runner.Run(t.Context(), request(&source{data: small}))
	if err != nil {
		t.Fatal(err)
	}
	close(wake)
	if err := <-late; !errors.Is(err, catalog.ErrLeaseLost) || !errors.Is(err, catalog.ErrConflict) {
		t.Errorf("the run that another declared dead: %v", err)
	}
	if ready := h.check(t); len(ready) != 1 || ready[0].ID != b.ID {
		t.Errorf("listed: %v", ready)
	}
	if left := h.parts(t); len(left) != 1 {
		t.Errorf("parts: %v", left)
	}
}

// generous gives everybody every lease, and never takes one back.
type generous struct{}

func (generous) Acquire(context.Context, string, time.Duration) (catalog.Lease, error) {
	return generous{}, nil
}
func (generous) Token() int64                  { return 1 }
func (generous) Renew(context.Context) error   { return nil }
func (generous) Release(context.Context) error { return nil }

// A Commit of a part whose answer was lost has worked if the bytes that are there are the part's, whatever the store said; and what is there and is
// something else is left alone.
func TestCommitIsSettledByItsBytes(t *testing.T) {
	for name, c := range map[string]struct {
		commit func(ctx context.Context, m storage.Store, key string, w storage.Writer) error
		ready  bool
		left   int // parts in the store
	}{
		"answer lost": {func(ctx context.Context, m storage.Store, key string, w storage.Writer) error {
			_, err := w.Commit(ctx)
			return errors.Join(err, storetest.ErrInjected)
		}, true, 1},
		"asked twice": {func(ctx context.Context, m storage.Store, key string, w storage.Writer) error {
			_, err := w.Commit(ctx)
			return errors.Join(err, storage.ErrExists)
		}, true, 1},
		"nothing there": {func(ctx context.Context, m storage.Store, key string, w storage.Writer) error {
			return storetest.ErrInjected
		}, false, 0},
		"a bit differs": {func(ctx context.Context, m storage.Store, key string, w storage.Writer) error {
			_, err := w.Commit(ctx)
			data, rerr := storage.ReadFile(ctx, m, key, 1<<30)
			data[len(data)/2] ^= 1
			return errors.Join(err, rerr, storage.WriteFile(ctx, m, key, data, nil), storetest.ErrInjected)
		}, false, 0},
		"somebody else's": {func(ctx context.Context, m storage.Store, key string, w storage.Writer) error {
			return errors.Join(storage.WriteFile(ctx, m, key, []byte("foreign"), nil), storage.ErrExists)
		}, false, 1},
	} {
		t.Run(name, func(t *testing.T) {
			m := memstore.New(nil)
			h := newHouse(t, &lossy{m, "/part-", c.commit}, nil)
			b, err := h.runner.Run(t.Context(), request(&source{data: small}))
			if (err == nil) != c.ready || err != nil && !errors.Is(err, backup.ErrStore) {
				t.Errorf("Run: %v", err)
			}
			if ready := h.check(t); (len(ready) == 1) != c.ready || c.ready && ready[0].ID != b.ID {
				t.Errorf("listed: %v", ready)
			}
			if left := h.parts(t); len(left) != c.left {
				t.Errorf("parts: %v", left)
			}
		})
	}
}

// lossy is a store whose commits of some objects go as it is told.
type lossy struct {
	storage.Store
	of     string // what their keys contain
	commit func(ctx context.Context, m storage.Store, key string, w storage.Writer) error
}

func (l *lossy) Create(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
	w, err := l.Store.Create(ctx, key, opts)
	if err != nil || !strings.Contains(key, l.of) {
		return w, err
	}
	return &lossyWriter{w, l, key}, nil
}

type lossyWriter struct {
	storage.Writer
	l   *lossy
	key string
}

func (w *lossyWriter) Commit(ctx context.Context) (storage.Info, error) {
	return storage.Info{}, w.l.commit(ctx, w.l.Store, w.key, w.Writer)
}

// A run that is cancelled while the store takes its record isn't left as if it were at work.
func TestRegisteredWithoutAnAnswer(t *testing.T) {
	for _, kind := range []string{"run", "copy"} {
		ctx, cancel := context.WithCancel(t.Context())
		h := newHouse(t, &lossy{memstore.New(nil), "/run.json", func(_ context.Context, _ storage.Store, _ string, w storage.Writer) error {
			_, err := w.Commit(t.Context())
			cancel()
			return errors.Join(err, ctx.Err())
		}}, nil)
		var err error
		if kind == "run" {
			_, err = h.runner.Run(ctx, request(&source{data: small}))
		} else {
			from := newHouse(t, memstore.New(nil), nil)
			b, rerr := from.runner.Run(t.Context(), request(&source{data: small}))
			if rerr != nil {
				t.Fatal(rerr)
			}
			_, _, err = h.runner.Copy(ctx, backup.CopyRequest{Backup: b.ID, Store: from.store, Catalog: from.catalog})
		}
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: it ended with %v", kind, err)
		}
		n := 0
		for b, err := range h.catalog.List(t.Context(), catalog.Query{States: []catalog.State{catalog.StateRunning, catalog.StateFailed}}) {
			if n++; err != nil || b.State != catalog.StateFailed || !strings.Contains(b.Error, context.Canceled.Error()) {
				t.Errorf("%s: its record is %+v, %v", kind, b, err)
			}
		}
		if n != 1 {
			t.Errorf("%s: %d records are left", kind, n)
		}
	}
}

// A manifest that the store keeps otherwise than it was written is no backup: Run says so, and takes back what it stored.
func TestManifestIsReadBack(t *testing.T) {
	for _, mode := range []storetest.Mode{storetest.Flip, storetest.Cut} {
		h := newHouse(t, storetest.NewFaulty(memstore.New(nil), storetest.Fault{Op: storetest.OpWrite, Key: "/manifest.json", Call: 1, Mode: mode}), nil)
		if _, err := h.runner.Run(t.Context(), request(&source{data: small})); !errors.Is(err, backup.ErrStore) || !errors.Is(err, catalog.ErrCorrupt) {
			t.Errorf("mode %v: Run: %v", mode, err)
		}
		if ready, parts := h.check(t), h.parts(t); len(ready) != 0 || len(parts) != 0 {
			t.Errorf("mode %v: listed are %v, in the store %v", mode, ready, parts)
		}
	}
	// If it was only read wrongly, it is a backup.
	for call := 1; call <= 3; call++ {
		s := storetest.NewFaulty(memstore.New(nil), storetest.Fault{Op: storetest.OpRead, Key: "/manifest.json", Call: call, Mode: storetest.Flip})
		h := newHouse(t, s, nil)
		b, err := h.runner.Run(t.Context(), request(&source{data: small}))
		if ready := h.check(t); err != nil || len(ready) != 1 || ready[0].ID != b.ID {
			t.Errorf("read wrongly the %d. time: Run: %v, listed are %v", call, err, ready)
		}
	}
}

// A sweep that can't find out whether a part belongs to something says so.
func TestSweepThatCanNotLook(t *testing.T) {
	m := memstore.New(nil)
	key := "orders/20200101T000000.000Z-aaaa/part-0000.rdb.zst"
	if err := storage.WriteFile(t.Context(), m, key, []byte("lost"), nil); err != nil {
		t.Fatal(err)
	}
	s := storetest.NewFaulty(m, storetest.Fault{Op: storetest.OpList, Call: 3})
	if _, err := newHouse(t, s, nil).runner.Sweep(t.Context(), -1); !errors.Is(err, storetest.ErrInjected) {
		t.Errorf("Sweep: %v", err)
	}
	if _, err := m.Stat(t.Context(), key); err != nil || s.Fired() != 1 {
		t.Errorf("the part: %v; %d faults", err, s.Fired())
	}
}
