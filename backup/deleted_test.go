package backup_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/storetest"
)

// TestDeletedWhileRead: who reads a backup has it to the end, whoever deletes it meanwhile.
func TestDeletedWhileRead(t *testing.T) {
	const ready, deleting, gone = catalog.StateReady, catalog.StateDeleting, catalog.State("gone")
	for name, x := range map[string]struct {
		do   func(t *testing.T, c *calendar, r *backup.Runner, id catalog.ID)
		late bool // the reader comes when it is unlisted already
	}{
		"delete": {func(t *testing.T, c *calendar, r *backup.Runner, id catalog.ID) {
			if err := r.Delete(t.Context(), id); !errors.Is(err, backup.ErrBusy) || !strings.Contains(err.Error(), "it is being read by ") || strings.Contains(err.Error(), "unlisted") {
				t.Errorf("Delete: %v", err)
			}
		}, false},
		"delete, late": {func(t *testing.T, c *calendar, r *backup.Runner, id catalog.ID) {
			if err := r.Delete(t.Context(), id); !errors.Is(err, backup.ErrBusy) || !strings.Contains(err.Error(), "which is unlisted by now") {
				t.Errorf("Delete: %v", err)
			}
		}, true},
		"prune": {func(t *testing.T, c *calendar, r *backup.Runner, id catalog.ID) {
			rep, err := r.Prune(t.Context(), backup.PruneRequest{})
			if err != nil || rep.Deleted != 0 || !strings.HasPrefix(rep.Fates[1].Reasons[0], "in use by ") {
				t.Errorf("Prune: %+v, %v", rep, err)
			}
		}, false},
		"prune, late": {func(t *testing.T, c *calendar, r *backup.Runner, id catalog.ID) {
			rep, err := r.Prune(t.Context(), backup.PruneRequest{})
			if err != nil || rep.Deleted != 1 || !rep.Fates[1].Deleted || !strings.Contains(rep.Fates[1].Error, "it is being read by ") {
				t.Errorf("Prune: %+v, %v", rep, err)
			}
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCalendar(t)
			id := c.keep(t, "orders", day, c.own())
			c.keep(t, "orders", day, c.own())
			c.now = c.now.Add(2 * day)
			b, _, err := c.catalog.Get(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			var lease catalog.Lease
			m := &meddler{id: id}
			if x.late {
				m.unlisted = func() { lease = c.read(t, id) }
			} else {
				lease = c.read(t, id)
			}
			x.do(t, c, c.meddling(t, m), id)
			want := map[bool]catalog.State{true: deleting, false: ready}[x.late]
			for range 2 {
				if state := c.state(t, id); state != want {
					t.Fatalf("it is %s, want %s", state, want)
				}
				if _, err := c.store.Stat(t.Context(), b.Parts[0].Key); err != nil {
					t.Errorf("the part is gone: %v", err)
				}
				if rep, err := c.runner.Sweep(t.Context(), -1); err != nil || rep.Objects > 0 || rep.Records > 0 {
					t.Errorf("the sweep: %+v, %v", rep, err)
				}
			}
			release(t, lease)
			if x.late {
				if rep, err := c.runner.Sweep(t.Context(), 0); err != nil || rep.Records != 1 || rep.Objects != 1 {
					t.Errorf("the sweep after it was read: %+v, %v", rep, err)
				}
			} else if rep, err := c.runner.Prune(t.Context(), backup.PruneRequest{}); err != nil || rep.Deleted != 1 {
				t.Errorf("the prune after it was read: %+v, %v", rep, err)
			}
			c.states(t, map[catalog.ID]catalog.State{id: gone})
			c.stayed(t, b, c.now)
		})
	}
}

// stayed fails the test unless it is noted once that a backup was there until then.
func (h *house) stayed(t *testing.T, b *catalog.Backup, until time.Time) {
	t.Helper()
	var found []catalog.Stay
	for s, err := range h.catalog.Stays(t.Context(), b.CreatedAt.Add(-day), until.Add(1000*day)) {
		if err != nil {
			t.Fatal(err)
		}
		if s.ID == b.ID {
			found = append(found, s)
		}
	}
	if len(found) != 1 || found[0].Until.Sub(until).Abs() > time.Second || found[0].Bytes != b.StoredBytes || found[0].From.Sub(b.ReadyAt).Abs() > time.Second {
		t.Errorf("the stays of %s: %+v, want one until %v", b.ID, found, until)
	}
}

// What was never ready has not stayed, and what was ready is noted as of when it was unlisted, however late the rest is done.
func TestDeletedIsNoted(t *testing.T) {
	c := newCalendar(t)
	id := c.keep(t, "orders", 0, c.own())
	b, rev, err := c.catalog.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	was := *b
	unlisted := c.now
	b.State, b.DeletedAt = catalog.StateDeleting, unlisted // and then it was killed
	if _, err := c.catalog.Put(t.Context(), b, rev); err != nil {
		t.Fatal(err)
	}
	var failed []catalog.ID
	for range 2 {
		if _, err := c.runner.Run(t.Context(), backup.Request{DataStore: "orders", Snapshotter: &source{data: few[:10]}}); err == nil {
			t.Fatal("a broken snapshot was taken")
		}
	}
	for b := range c.catalog.List(t.Context(), catalog.Query{States: []catalog.State{catalog.StateFailed}}) {
		failed = append(failed, b.ID)
	}
	if err := c.runner.Delete(t.Context(), failed[0]); err != nil {
		t.Error(err)
	}
	c.now = c.now.Add(40 * day)
	if rep, err := c.runner.Sweep(t.Context(), 0); err != nil || rep.Records != 2 {
		t.Errorf("the sweep: %+v, %v", rep, err)
	}
	c.stayed(t, &was, unlisted)
	stays := 0
	for range c.catalog.Stays(t.Context(), unlisted.Add(-1000*day), c.now) {
		stays++
	}
	if stays != 1 {
		t.Errorf("%d stays are noted, want 1", stays)
	}
}

// A catalog that fails after it has written that a backup is being deleted doesn't make the deletion fail, nor count it twice.
func TestUnlistedAllTheSame(t *testing.T) {
	c := newCalendar(t)
	id := c.keep(t, "orders", day, c.own())
	c.keep(t, "orders", day, c.own())
	b, _, err := c.catalog.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	c.now = c.now.Add(10 * day)
	r := c.meddling(t, &meddler{id: id, fail: storetest.ErrInjected})
	if rep, err := r.Prune(t.Context(), backup.PruneRequest{}); err != nil || rep.Deleted != 1 {
		t.Errorf("%+v, %v", rep, err)
	}
	c.states(t, map[catalog.ID]catalog.State{id: "gone"})
	c.stayed(t, b, c.now)
}

// A manifest that can't be read counts for nothing, stays, and holds up nobody.
func TestPruneBesideACorruptOne(t *testing.T) {
	c := newCalendar(t)
	first, second, corrupt := c.keep(t, "orders", day, c.own()), c.keep(t, "orders", day, c.own()), c.keep(t, "orders", day, c.own())
	var manifest string
	for info, err := range c.store.List(t.Context(), "orders/"+string(corrupt)+"/manifest") {
		if err != nil {
			t.Fatal(err)
		}
		manifest = info.Key
	}
	written(t, c.store, manifest, []byte("not a manifest"))
	c.now = c.now.Add(10 * day)
	if rep, err := c.runner.Prune(t.Context(), backup.PruneRequest{}); err != nil || rep.Deleted != 1 || len(rep.Fates) != 2 {
		t.Errorf("%+v, %v", rep, err)
	}
	c.states(t, map[catalog.ID]catalog.State{first: "gone", second: catalog.StateReady})
	if left := c.parts(t); len(left) != 2 {
		t.Errorf("the parts are %v", left)
	}
}

// TestStoreFailsPruning fails every call of the store while a prune is at work: what is listed is whole, the newest is there, and each that is gone is
// noted once.
func TestStoreFailsPruning(t *testing.T) {
	modes := map[string]storetest.Mode{"before": storetest.Before, "after": storetest.After}
	campaignOf(t, modes, func(t *testing.T, h *house) {
		for range 3 {
			if _, err := h.runner.Run(t.Context(), backup.Request{DataStore: "orders", Retain: time.Nanosecond, Snapshotter: &source{data: few}}); err != nil {
				t.Fatal(err)
			}
		}
	}, func(ctx context.Context, h *house) error {
		_, err := h.runner.Prune(ctx, backup.PruneRequest{})
		return err
	}, func(t *testing.T, h *house, err error) {
		ready := h.check(t)
		if len(ready) == 0 || err == nil && len(ready) != 1 {
			t.Errorf("Prune returned %v, and %d are listed", err, len(ready))
		}
		if _, err := h.runner.Sweep(t.Context(), -1); err != nil {
			t.Fatal(err)
		}
		stays := map[catalog.ID]int{}
		for s, err := range h.catalog.Stays(t.Context(), time.Now().Add(-day), time.Now().Add(day)) {
			if err != nil {
				t.Fatal(err)
			}
			stays[s.ID]++
			if listed := s.Until.IsZero(); listed != (h.state(t, s.ID) == catalog.StateReady) {
				t.Errorf("%s is %s and stayed until %v", s.ID, h.state(t, s.ID), s.Until)
			}
		}
		for id, n := range stays {
			if n != 1 || len(stays) != 3 {
				t.Errorf("%s has %d stays, of %d backups in all", id, n, len(stays))
			}
		}
	})
}

// TestPruningAtOnce: several processes prune and sweep while backups are made; there is always one, and it is the newest.
func TestPruningAtOnce(t *testing.T) {
	t.Parallel()
	m := memstore.New(nil)
	runs := newHouse(t, m, nil)
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	deleted := make([]int, 4)
	for i := range deleted {
		h := newHouse(t, m, nil)
		group.Go(func() {
			for ctx.Err() == nil {
				rep, err := h.runner.Prune(t.Context(), backup.PruneRequest{})
				deleted[i] += rep.Deleted
				if err != nil {
					t.Errorf("Prune: %v", err)
				}
				if _, err := h.runner.Sweep(t.Context(), 0); err != nil {
					t.Errorf("Sweep: %v", err)
				}
			}
		})
	}
	const n = 30
	for i := range n {
		b, err := runs.runner.Run(t.Context(), backup.Request{DataStore: "orders", Retain: time.Nanosecond, Snapshotter: &source{data: few}})
		if err != nil {
			t.Fatal(err)
		}
		if state := runs.state(t, b.ID); state != catalog.StateReady {
			t.Fatalf("backup %d, the newest, is %s", i, state)
		}
	}
	cancel()
	group.Wait()
	if _, err := runs.runner.Prune(t.Context(), backup.PruneRequest{}); err != nil {
		t.Error(err)
	}
	sum := 0
	for _, d := range deleted {
		sum += d
	}
	if ready := runs.check(t); len(ready) != 1 || sum < n-5 || sum >= n || len(runs.parts(t)) != 1 {
		t.Errorf("%d are listed, %v were deleted, the parts are %v", len(ready), deleted, runs.parts(t))
	}
	stays := 0
	for s, err := range runs.catalog.Stays(t.Context(), time.Now().Add(-day), time.Now().Add(day)) {
		if err != nil {
			t.Fatal(err)
		}
		if !s.Until.IsZero() {
			stays++
		}
	}
	if stays != n-1 {
		t.Errorf("%d stays have ended, want %d", stays, n-1)
	}
}
