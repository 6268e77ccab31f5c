package backup_test

import (
	"context"
	"errors"
	"strings"
	"testing"
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
