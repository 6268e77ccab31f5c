package amber_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/dumpfile"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/retention"
	"github.com/amberkv/amber/catalog/storecatalog"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/storetest"
)

// A pruned is a Service over two stores that have the same nightly backups of "orders", by a clock that is put forward by hand.
type pruned struct {
	*amber.Service
	now    time.Time
	first  storage.Store
	far    *unlistable
	runner *backup.Runner
	held   []amber.Held
	heard  []amber.Pruned
}

func newPruned(t *testing.T) *pruned {
	t.Helper()
	p := &pruned{now: time.Date(2026, 11, 1, 2, 30, 0, 0, time.UTC)}
	clock := func() time.Time { return p.now }
	p.first = memstore.New(&memstore.Options{Now: clock})
	p.far = &unlistable{Store: memstore.New(&memstore.Options{Now: clock})}
	var err error
	p.Service, err = amber.New(amber.Config{Store: p.first, Stores: []amber.NamedStore{{Name: "far", Store: p.far}}, Now: clock, Events: amber.Events{
		Held:   func(_ context.Context, h amber.Held) { p.held = append(p.held, h) },
		Pruned: func(_ context.Context, d amber.Pruned) { p.heard = append(p.heard, d) },
	}})
	if err != nil {
		t.Fatal(err)
	}
	c, err := storecatalog.New(storecatalog.Config{Store: p.first, Now: clock})
	if err == nil {
		p.runner, err = backup.NewRunner(backup.Config{Store: p.first, Catalog: c, Leaser: c, Now: clock})
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// unlistable is a store that, while it has an error, lists nothing.
type unlistable struct {
	storage.Store
	err error
}

func (u *unlistable) Unwrap() storage.Store { return u.Store }

func (u *unlistable) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	if u.err != nil {
		return func(yield func(storage.Info, error) bool) { yield(storage.Info{}, u.err) }
	}
	return u.Store.List(ctx, prefix)
}

// rdbOf returns an RDB file of so many keys.
func rdbOf(keys int) []byte {
	data := []byte("REDIS0010\xfe\x00")
	for i := range keys {
		data = fmt.Appendf(data, "\x00\x08key:%04d\x01x", i)
	}
	return append(data, 0xff, 0, 0, 0, 0, 0, 0, 0, 0) // without a checksum
}

// night makes the backup of a night, copies it and lets a day pass.
func (p *pruned) night(t *testing.T, keys int) catalog.ID {
	t.Helper()
	b, err := p.runner.Run(t.Context(), backup.Request{DataStore: "orders", Kind: catalog.KindAutomatic, Policy: "nightly", DueTime: p.now,
		Snapshotter: dumpfile.Stream("dump.rdb", bytes.NewReader(rdbOf(keys)))})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.CopyBackup(t.Context(), amber.CopyBackupRequest{Backup: b.ID, To: "far"}); err != nil {
		t.Fatal(err)
	}
	p.now = p.now.Add(24 * time.Hour)
	return b.ID
}

// in lists what a store has, newest first.
func (p *pruned) in(t *testing.T, store string) (ids []catalog.ID) {
	t.Helper()
	for f, err := range p.ListAll(t.Context(), catalog.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		if f.Store.Name == store {
			ids = append(ids, f.ID)
		}
	}
	return ids
}

func TestPruneInAllStores(t *testing.T) {
	t.Parallel()
	p := newPruned(t)
	var ids []catalog.ID
	for range 5 {
		ids = slices.Insert(ids, 0, p.night(t, 100))
	}
	policy := nightly("nightly", "orders")
	policy.Retention = retention.Rules{Days: 30}
	if _, err := p.SetPolicy(t.Context(), policy); err != nil {
		t.Fatal(err)
	}
	p.now = p.now.Add(100 * 24 * time.Hour) // while no backups are made none is let go of
	if rep, err := p.Prune(t.Context(), amber.PruneRequest{}); err != nil || rep.Deleted != 0 || len(rep.Fates) != 10 || rep.Fates[9].Store != "far" {
		t.Errorf("%+v, %v", rep, err)
	}
	// What one store can't do doesn't keep the other from it.
	p.far.err = storetest.ErrInjected
	policy.Retention = retention.Rules{Count: 3}
	change, err := p.SetPolicy(t.Context(), policy)
	if !errors.Is(err, storetest.ErrInjected) || !strings.Contains(err.Error(), "store far") || change == nil || change.Prune.Deleted != 2 {
		t.Fatalf("%+v, %v", change, err)
	}
	p.far.err = nil
	if got := p.in(t, ""); !slices.Equal(got, ids[:3]) {
		t.Errorf("in the first store: %v", got)
	}
	if got := p.in(t, "far"); !slices.Equal(got, ids) {
		t.Errorf("in the far store: %v", got)
	}
	would, err := p.Prune(t.Context(), amber.PruneRequest{DryRun: true})
	if err != nil || would.Deleted != 0 || len(p.heard) != 2 {
		t.Errorf("a dry run: %+v, %v; heard of %+v", would, err, p.heard)
	}
	rep, err := p.Prune(t.Context(), amber.PruneRequest{DataStore: "orders"})
	if err != nil || rep.Deleted != 2 || !slices.Equal(p.in(t, "far"), ids[:3]) {
		t.Errorf("%+v, %v", rep, err)
	}
	for i, h := range p.heard {
		if want := []string{"", "", "far", "far"}[i]; h.Store != want || h.Backup.ID != ids[3+i%2] || h.Reason != "not one of the newest 3 of its policy" {
			t.Errorf("heard of %+v", h)
		}
	}
	if len(p.heard) != 4 || len(p.held) != 0 {
		t.Errorf("heard of %d, held %+v", len(p.heard), p.held)
	}
}

// A fall in keys holds retention in each store until the policy accepts it; the host hears of it.
func TestPruneHeldUntilAccepted(t *testing.T) {
	t.Parallel()
	p := newPruned(t)
	policy := nightly("nightly", "orders")
	policy.Retention = retention.Rules{Count: 2}
	if _, err := p.SetPolicy(t.Context(), policy); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		p.night(t, 100)
	}
	for range 3 {
		p.night(t, 5) // somebody has flushed it
		if rep, err := p.Prune(t.Context(), amber.PruneRequest{}); err != nil || rep.Deleted != 0 || len(rep.Held) != 2 || rep.Held[1].Store != "far" {
			t.Errorf("%+v, %v", rep, err)
		}
	}
	if len(p.held) != 6 || p.held[0].DataStore != "orders" || p.held[1].Store != "far" || !strings.Contains(p.held[0].Reason, "the keys have fallen by 95 %, the limit is 90 %") {
		t.Errorf("heard of %+v", p.held)
	}
	policy.Retention.FallAccepted = p.now
	change, err := p.SetPolicy(t.Context(), policy)
	if err != nil || change.Prune.Deleted != 6 || len(change.Prune.Held) != 0 {
		t.Errorf("accepted: %+v, %v", change, err)
	}
	if len(p.in(t, "")) != 2 || len(p.in(t, "far")) != 2 {
		t.Errorf("left are %v and %v", p.in(t, ""), p.in(t, "far"))
	}
}
