package restore_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/reading"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/seal"
)

// watched is a store in which parts are only read while somebody has the read lease of their backup.
type watched struct {
	storage.Store
	t     *testing.T
	id    catalog.ID
	reads atomic.Int64
}

// held checks, as who deletes would, that there is a reader.
func (w *watched) held(when string, want int) {
	w.t.Helper()
	readers, err := newCatalog(w.t, w.Store).Sharers(w.t.Context(), catalog.ReadLease(w.id))
	if err != nil || len(readers) != want {
		w.t.Errorf("%s the readers are %v, %v, want %d", when, readers, err, want)
	}
}

func (w *watched) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if w.id != "" && strings.Contains(key, "/part-") {
		w.reads.Add(1)
		w.held("while "+key+" is opened", 1)
	}
	return w.Store.Open(ctx, key, off, n)
}

// asking is a loader that asks who reads the backup while it loads and is compared.
type asking struct {
	*sender
	w *watched
}

func (a asking) Load(ctx context.Context, src restore.Source, opts *restore.Options) (*restore.Report, error) {
	a.w.held("before loading", 1)
	defer a.w.held("after loading", 1)
	return a.sender.Load(ctx, src, opts)
}

// TestReadersHoldTheBackup: whatever reads a backup has its lease from before the manifest is read until the last value is compared.
func TestReadersHoldTheBackup(t *testing.T) {
	server := testserver.Start(t, "redis-7.0")
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	for name, opts := range map[string]*seal.Options{"plain": {}, "sealed": {Recipients: []age.Recipient{key.Recipient()}}} {
		w := &watched{Store: memstore.New(nil), t: t}
		b := keepSealed(t, w, fixture(t, "redis-7.0.15/hashes"), opts, nil)
		w.id = b.ID
		c := newCatalog(t, w)
		cfg := restore.Config{Store: w, Catalog: c, Leaser: c}
		if name == "sealed" {
			r, err := restore.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			if v, err := r.Verify(t.Context(), b.ID, nil); err != nil || !v.Sealed {
				t.Errorf("Verify of what can't be opened: %v, %v", v, err)
			}
			w.held("after Verify of what can't be opened", 0)
			cfg.Identities = []age.Identity{key}
		}
		r, err := restore.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		loader := asking{&sender{to: server.Options()}, w}
		for what, do := range map[string]func(id catalog.ID) error{
			"Verify": func(id catalog.ID) error { _, err := r.Verify(t.Context(), id, nil); return err },
			"Plan":   func(id catalog.ID) error { _, err := r.Plan(t.Context(), id, loader, nil); return err },
			"Plan of a conversion": func(id catalog.ID) error {
				_, err := r.Plan(t.Context(), id, loader, &restore.Options{Select: restore.Selection{AddPrefix: "x:"}})
				return err
			},
			"Restore": func(id catalog.ID) error {
				_, err := r.Restore(t.Context(), id, loader, &restore.Options{Compare: restore.CompareAll, Progress: func(p restore.Progress) {
					w.held("at stage "+string(p.Stage), 1)
				}})
				return err
			},
		} {
			before := w.reads.Load()
			if err := do(b.ID); err != nil || w.reads.Load() == before {
				t.Errorf("%s, %s: %v, %d parts were read", name, what, err, w.reads.Load()-before)
			}
			w.held("after "+what, 0)
			if err := do(catalog.NewID(time.Now())); !errors.Is(err, catalog.ErrNotFound) {
				t.Errorf("%s of a backup that isn't there: %v", what, err)
			}
		}
		for info, err := range w.List(t.Context(), "_leases/") {
			t.Errorf("a lease is left: %s, %v", info.Key, err)
		}
	}
}

// lostLeases are leases that are lost when they are to be renewed.
type lostLeases struct{ catalog.Leaser }

func (l lostLeases) Share(context.Context, string, time.Duration) (catalog.Lease, error) {
	return l, nil
}
func (lostLeases) Sharers(context.Context, string) ([]catalog.HeldError, error) { return nil, nil }
func (lostLeases) Token() int64                                                 { return 0 }
func (lostLeases) Renew(context.Context) error                                  { return catalog.ErrLeaseLost }
func (lostLeases) Release(context.Context) error                                { return nil }

// TestDeletedWhileRestored: a restore that lost its lease, and whose backup was deleted meanwhile, ends and says so; if the target was touched by then,
// what it holds is told as ever. One whose backup is there goes on.
func TestDeletedWhileRestored(t *testing.T) {
	for _, test := range []struct {
		name             string
		deleted, partial bool
	}{{"there", false, false}, {"deleted", true, false}, {"deleted, and touched", true, true}} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			store := memstore.New(nil)
			b := keep(t, store, snapshotOf(10), nil)
			c := newCatalog(t, store)
			r, err := restore.New(restore.Config{Store: store, Catalog: c, Leaser: lostLeases{}, LeaseTTL: 3 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			to := &slow{partial: test.partial}
			to.meanwhile = func() {
				if !test.deleted {
					return
				}
				b, rev, err := c.Get(t.Context(), b.ID)
				if err == nil {
					b.State = catalog.StateDeleting
					_, err = c.Put(t.Context(), b, rev)
				}
				if err != nil {
					t.Error(err)
				}
			}
			_, err = r.Restore(t.Context(), b.ID, to, &restore.Options{Compare: restore.CompareNone})
			var partial *restore.PartialError
			switch {
			case !test.deleted && err != nil:
				t.Errorf("the backup is there, and yet: %v", err)
			case test.deleted && !errors.Is(err, reading.ErrDeleted):
				t.Errorf("the backup was deleted: %v", err)
			case test.deleted && (errors.As(err, &partial) != test.partial || errors.Is(err, restore.ErrNotVerified) == test.partial):
				t.Errorf("the backup was deleted, touched %v: %v", test.partial, err)
			}
		})
	}
}

// slow is a loader that takes two seconds, if nobody ends it.
type slow struct {
	target
	partial   bool
	meanwhile func()
}

func (s *slow) Load(ctx context.Context, src restore.Source, _ *restore.Options) (*restore.Report, error) {
	s.meanwhile()
	select {
	case <-ctx.Done():
		if s.partial {
			return nil, &restore.PartialError{Target: "a target", State: restore.TargetPartial, Err: ctx.Err()}
		}
		return nil, ctx.Err()
	case <-time.After(10 * time.Second):
		return &restore.Report{}, nil
	}
}
