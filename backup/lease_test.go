package backup_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/reading"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
)

// readers checks how many have the read lease of a backup.
func (h *house) readers(t *testing.T, when string, id catalog.ID, want int) {
	t.Helper()
	if held, err := h.catalog.Sharers(t.Context(), catalog.ReadLease(id)); err != nil || len(held) != want {
		t.Errorf("%s the readers are %v, %v, want %d", when, held, err, want)
	}
}

// A watchedStore calls before ahead of each Create of a part.
type watchedStore struct {
	storage.Store
	before func(ctx context.Context)
}

func (w *watchedStore) Create(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
	if strings.Contains(key, "/part-") {
		w.before(ctx)
	}
	return w.Store.Create(ctx, key, opts)
}

// TestCopyHoldsItsSource: while a backup is copied it isn't deleted where it comes from, whoever gives the leases.
func TestCopyHoldsItsSource(t *testing.T) {
	t.Parallel()
	from, b := origin(t)
	for _, whose := range []string{"the other store's", "its own"} {
		copies := 0
		store := &watchedStore{Store: memstore.New(nil)}
		to := newHouse(t, store, nil)
		q := backup.CopyRequest{Backup: b.ID, Store: from.store, Catalog: from.catalog}
		leases := to
		if whose == "the other store's" {
			q.Leaser, leases = from.catalog, from
		}
		store.before = func(context.Context) {
			copies++
			leases.readers(t, "during the copy", b.ID, 1)
		}
		if _, made, err := to.runner.Copy(t.Context(), q); err != nil || !made || copies != 1 {
			t.Errorf("leases are %s: %v, %v, %d parts", whose, made, err, copies)
		}
		leases.readers(t, "after the copy", b.ID, 0)
	}
}

// forgotten gives leases that are lost when they are to be renewed.
type forgotten struct{ generous }

func (f forgotten) Share(context.Context, string, time.Duration) (catalog.Lease, error) {
	return f, nil
}
func (forgotten) Sharers(context.Context, string) ([]catalog.HeldError, error) { return nil, nil }
func (forgotten) Renew(context.Context) error                                  { return catalog.ErrLeaseLost }

// TestCopyOfWhatIsDeletedMeanwhile: a copy that lost its lease, and whose source is gone, ends, says why and leaves nothing.
func TestCopyOfWhatIsDeletedMeanwhile(t *testing.T) {
	t.Parallel()
	from, b := origin(t)
	store := &watchedStore{Store: memstore.New(nil)}
	to := newHouse(t, store, nil)
	runner, err := backup.NewRunner(backup.Config{Store: store, Catalog: to.catalog, Leaser: to.catalog, LeaseTTL: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	store.before = func(ctx context.Context) {
		if err := from.runner.Delete(t.Context(), b.ID); err != nil {
			t.Error(err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Second):
			t.Error("the copy goes on")
		}
	}
	_, _, err = runner.Copy(t.Context(), backup.CopyRequest{Backup: b.ID, Store: from.store, Catalog: from.catalog, Leaser: forgotten{}})
	if !errors.Is(err, backup.ErrSource) || !errors.Is(err, reading.ErrDeleted) {
		t.Errorf("Copy: %v", err)
	}
	if ready, parts := to.check(t), to.parts(t); len(ready) != 0 || len(parts) != 0 {
		t.Errorf("there are %v and %v", ready, parts)
	}
}

// TestCopyAfterADeadOneThatIsRead: what a dead copy left is removed by the next one, which has the read lease of that very backup.
func TestCopyAfterADeadOneThatIsRead(t *testing.T) {
	t.Parallel()
	from, b := origin(t)
	for _, state := range []catalog.State{catalog.StateRunning, catalog.StateFailed, catalog.StateInterrupted} {
		to := newHouse(t, memstore.New(nil), nil)
		left := *b
		left.Kind, left.State, left.Parts = catalog.KindCopy, state, nil
		if _, err := to.catalog.Put(t.Context(), &left, ""); err != nil {
			t.Fatal(err)
		}
		to.put(t, b.Parts[0].Key, []byte("half"))
		if _, made, err := from.copyTo(t.Context(), to, b.ID); err != nil || !made {
			t.Errorf("a copy after one that is %s: %v, %v", state, made, err)
		}
		if ready := to.check(t); len(ready) != 1 {
			t.Errorf("after one that is %s there are %v", state, ready)
		}
	}
}

// A failing lease is given to everybody, and can't be renewed once it fails.
type failingLease struct {
	generous
	why atomic.Pointer[error]
}

func (f *failingLease) fail(why error) { f.why.Store(&why) }
func (f *failingLease) Acquire(context.Context, string, time.Duration) (catalog.Lease, error) {
	return f, nil
}
func (f *failingLease) Renew(context.Context) error {
	if why := f.why.Load(); why != nil {
		return *why
	}
	return nil
}

// TestLostAtTheEnd: who has lost the lease when everything is stored publishes nothing.
func TestLostAtTheEnd(t *testing.T) {
	t.Parallel()
	lease := &failingLease{}
	h := newHouse(t, memstore.New(nil), nil)
	runner, err := backup.NewRunner(backup.Config{Store: h.store, Catalog: h.catalog, Leaser: lease})
	if err != nil {
		t.Fatal(err)
	}
	_, err = runner.Run(t.Context(), request(&source{data: small, read: func(_ context.Context, at int) error {
		if at == len(small) {
			lease.fail(catalog.ErrLeaseLost)
		}
		return nil
	}}))
	if !errors.Is(err, catalog.ErrLeaseLost) || !strings.Contains(err.Error(), "before publishing") {
		t.Errorf("Run: %v", err)
	}
	if ready, left := h.check(t), h.parts(t); len(ready) > 0 || len(left) > 0 {
		t.Errorf("listed are %v, in the store %v", ready, left)
	}
}

// TestNotRenewed: a run whose lease can't be renewed for as long as it lasts ends, and says so.
func TestNotRenewed(t *testing.T) {
	t.Parallel()
	var late atomic.Int64 // how far the clock is put forward
	now := func() time.Time { return time.Now().Add(time.Duration(late.Load())) }
	h := newHouse(t, memstore.New(nil), now)
	lease := &failingLease{}
	runner, err := backup.NewRunner(backup.Config{Store: h.store, Catalog: h.catalog, Leaser: lease, Now: now, LeaseTTL: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	_, err = runner.Run(t.Context(), request(&source{data: small, read: func(ctx context.Context, at int) error {
		if at == len(small) {
			lease.fail(errors.New("the store is away"))
			late.Store(int64(time.Minute))
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}}))
	if !errors.Is(err, catalog.ErrLeaseLost) || !strings.Contains(err.Error(), "could not be renewed") || !strings.Contains(err.Error(), "the store is away") {
		t.Errorf("Run: %v", err)
	}
	if ready, left := h.check(t), h.parts(t); len(ready) > 0 || len(left) > 0 {
		t.Errorf("listed are %v, in the store %v", ready, left)
	}
}

// A lateStore takes its time for what a run does at its end: to record that it failed, and to give its lease back.
type lateStore struct {
	storage.Store
	late  atomic.Bool
	after string // the object from whose creation on it is late; empty: it is told
}

func (l *lateStore) Create(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
	if l.late.Load() {
		select {
		case <-time.After(1200 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if l.after != "" && strings.HasSuffix(key, l.after) {
		l.late.Store(true)
	}
	return l.Store.Create(ctx, key, opts)
}

// TestEndOnASlowDisk: whoever still waits for a run waits until its lease is given back, and the failure recorded, too; else the data store would be refused
// until the lease ends by itself. Who has gone is not held up.
func TestEndOnASlowDisk(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"ready", "failed", "cancelled", "alone"} {
		synctest.Test(t, func(t *testing.T) {
			store := &lateStore{Store: memstore.New(nil)}
			if end == "ready" {
				store.after = "/manifest.json"
			}
			h := newHouse(t, store, nil)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			broken := errors.New("connection reset")
			var err error
			var ended time.Time
			if end == "alone" {
				err = h.runner.Alone(ctx, "orders", func(context.Context) error { store.late.Store(true); return nil })
			} else {
				_, err = h.runner.Run(ctx, request(&source{data: small, read: func(_ context.Context, at int) error {
					switch {
					case at < len(small):
						return nil
					case end == "failed":
						store.late.Store(true)
						return broken
					case end == "cancelled":
						store.late.Store(true)
						ended = time.Now()
						cancel()
					}
					return nil
				}}))
			}
			if !store.late.Swap(false) {
				t.Errorf("%s: the store was never late", end)
			}
			store.after = ""
			took := time.Since(ended)
			_, next := h.runner.Run(t.Context(), request(&source{data: small}))
			switch end {
			case "cancelled":
				if !errors.Is(err, context.Canceled) || took > 2*time.Second || !errors.Is(next, backup.ErrBusy) {
					t.Errorf("%s: %v after %v; the next one: %v", end, err, took, next)
				}
			case "failed":
				if !errors.Is(err, broken) || next != nil {
					t.Errorf("%s: %v; the next one: %v", end, err, next)
				}
				for b, err := range h.catalog.List(t.Context(), catalog.Query{States: []catalog.State{catalog.StateRunning, catalog.StateInterrupted}}) {
					t.Errorf("%s: %v is %v, %v", end, b.ID, b.State, err)
				}
			default:
				if err != nil || next != nil {
					t.Errorf("%s: %v; the next one: %v", end, err, next)
				}
			}
		})
	}
}
