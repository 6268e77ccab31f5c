package backup_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/retention"
	"github.com/amberkv/amber/catalog/storecatalog"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/storetest"
)

// meddler is a catalog in which somebody else does something just before it is asked for a backup, once, or just after that is unlisted.
type meddler struct {
	*storecatalog.Catalog
	id           catalog.ID
	before       func()
	unlisted     func()
	first, after sync.Once
}

func (m *meddler) Get(ctx context.Context, id catalog.ID) (*catalog.Backup, catalog.Revision, error) {
	if id == m.id && m.before != nil {
		m.first.Do(m.before)
	}
	return m.Catalog.Get(ctx, id)
}

func (m *meddler) Put(ctx context.Context, b *catalog.Backup, prev catalog.Revision) (catalog.Revision, error) {
	rev, err := m.Catalog.Put(ctx, b, prev)
	if b.ID == m.id && b.State == catalog.StateDeleting && m.unlisted != nil {
		m.after.Do(m.unlisted)
	}
	return rev, err
}

// meddling returns the runner of a process that shares the store with c, and whose catalog is the meddler.
func (c *calendar) meddling(t *testing.T, m *meddler) *backup.Runner {
	t.Helper()
	m.Catalog = c.catalog
	r, err := backup.NewRunner(backup.Config{Store: c.store, Catalog: m, Leaser: c.catalog, Now: func() time.Time { return c.now }})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// change changes a manifest as another process does.
func (c *calendar) change(t *testing.T, id catalog.ID, change func(b *catalog.Backup)) {
	t.Helper()
	b, rev, err := c.catalog.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	change(b)
	if _, err := c.catalog.Put(t.Context(), b, rev); err != nil {
		t.Fatal(err)
	}
}

// read takes the lease of a reader.
func (c *calendar) read(t *testing.T, id catalog.ID) catalog.Lease {
	t.Helper()
	lease, err := c.catalog.Share(t.Context(), catalog.ReadLease(id), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return lease
}

func release(t *testing.T, lease catalog.Lease) {
	t.Helper()
	if err := lease.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// states holds against what is wanted what became of backups.
func (c *calendar) states(t *testing.T, want map[catalog.ID]catalog.State) {
	t.Helper()
	for id, state := range want {
		if got := c.state(t, id); got != state {
			t.Errorf("%s is %s, want %s", id, got, state)
		}
	}
}

// TestPruneMeetsOthers: what others do between the decision and the deletion counts.
func TestPruneMeetsOthers(t *testing.T) {
	const ready, gone = catalog.StateReady, catalog.State("gone")
	for name, x := range map[string]struct {
		when                  int // the backup is asked for: that of number 1 is the first to go, number 3 is the newest
		do                    func(t *testing.T, c *calendar, id [4]catalog.ID)
		first, second, newest catalog.State
		deleted               int
	}{
		"nothing": {1, func(t *testing.T, c *calendar, id [4]catalog.ID) {}, gone, gone, ready, 2},
		"it is pinned": {1, func(t *testing.T, c *calendar, id [4]catalog.ID) {
			c.change(t, id[1], func(b *catalog.Backup) { b.Pinned = true })
		}, ready, gone, ready, 1},
		"it is to be kept later": {1, func(t *testing.T, c *calendar, id [4]catalog.ID) {
			c.change(t, id[1], func(b *catalog.Backup) { b.DeleteAfter = time.Time{} })
		}, ready, gone, ready, 1},
		"its label is changed": {1, func(t *testing.T, c *calendar, id [4]catalog.ID) {
			c.change(t, id[1], func(b *catalog.Backup) { b.Description = "mine" })
		}, gone, gone, ready, 2},
		"it is read": {1, func(t *testing.T, c *calendar, id [4]catalog.ID) { c.read(t, id[1]) }, ready, gone, ready, 1},
		"it is deleted": {1, func(t *testing.T, c *calendar, id [4]catalog.ID) {
			if err := c.runner.Delete(t.Context(), id[1]); err != nil {
				t.Error(err)
			}
		}, gone, gone, ready, 1},
		"the newest is deleted": {3, func(t *testing.T, c *calendar, id [4]catalog.ID) {
			if err := c.runner.Delete(t.Context(), id[3]); err != nil {
				t.Error(err)
			}
		}, gone, ready, gone, 1},
		"the newest is being deleted": {3, func(t *testing.T, c *calendar, id [4]catalog.ID) {
			c.read(t, id[3]) // else it would be gone
			c.change(t, id[3], func(b *catalog.Backup) { b.State, b.DeletedAt = catalog.StateDeleting, c.now })
		}, gone, ready, catalog.StateDeleting, 1},
		"all others are deleted": {3, func(t *testing.T, c *calendar, id [4]catalog.ID) {
			if err := errors.Join(c.runner.Delete(t.Context(), id[3]), c.runner.Delete(t.Context(), id[2])); err != nil {
				t.Error(err)
			}
		}, ready, gone, gone, 0},
		"another prunes": {1, func(t *testing.T, c *calendar, id [4]catalog.ID) {
			if rep, err := c.runner.Prune(t.Context(), backup.PruneRequest{}); err != nil || rep.Deleted != 2 {
				t.Errorf("the other deleted %d: %v", rep.Deleted, err)
			}
		}, gone, gone, ready, 0},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCalendar(t)
			var id [4]catalog.ID
			for i := 1; i < 4; i++ {
				id[i] = c.keep(t, "orders", day, c.own())
			}
			c.now = c.now.Add(10 * day)
			r := c.meddling(t, &meddler{id: id[x.when], before: func() { x.do(t, c, id) }})
			rep, err := r.Prune(t.Context(), backup.PruneRequest{})
			if err != nil || rep.Deleted != x.deleted {
				t.Errorf("%d were deleted, want %d: %v", rep.Deleted, x.deleted, err)
			}
			c.states(t, map[catalog.ID]catalog.State{id[1]: x.first, id[2]: x.second, id[3]: x.newest})
			for _, f := range rep.Fates {
				if f.Deleted != f.Delete || f.Error != "" {
					t.Errorf("what was decided in the end is not what was done: %+v", f)
				}
			}
			c.check(t)
		})
	}
}

// The last of Amber's own is looked at too, where those after it are adopted.
func TestPruneMeetsTheLastOwn(t *testing.T) {
	c := newCalendar(t)
	first, own := c.keep(t, "orders", day, c.own()), c.keep(t, "orders", day, c.own())
	adopted := c.keep(t, "orders", day, c.adopted())
	c.now = c.now.Add(10 * day)
	r := c.meddling(t, &meddler{id: own, before: func() {
		if err := c.runner.Delete(t.Context(), own); err != nil {
			t.Error(err)
		}
	}})
	if rep, err := r.Prune(t.Context(), backup.PruneRequest{}); err != nil || rep.Deleted != 0 {
		t.Errorf("%+v, %v", rep, err)
	}
	c.states(t, map[catalog.ID]catalog.State{first: catalog.StateReady, own: "gone", adopted: catalog.StateReady})
}

// What was promised is asked for again after a while, and not for each of many backups.
func TestPruneAsksAgain(t *testing.T) {
	c := newCalendar(t)
	var ids []catalog.ID
	for range 20 {
		ids = append(ids, c.keep(t, "orders", day, c.own()))
	}
	c.now = c.now.Add(10 * day)
	asked, longer := 0, false
	promises := func(context.Context, string) (retention.Promises, error) {
		asked++
		if longer {
			return retention.Promises{InUse: map[catalog.ID]string{ids[15]: "somebody who came late", ids[17]: "another"}}, nil
		}
		return retention.Promises{}, nil
	}
	r := c.meddling(t, &meddler{id: ids[10], before: func() { c.now, longer = c.now.Add(time.Minute), true }})
	rep, err := r.Prune(t.Context(), backup.PruneRequest{Promises: promises})
	if err != nil || rep.Deleted != 17 || asked != 3 {
		t.Errorf("%d were deleted, the promises asked for %d times: %v", rep.Deleted, asked, err)
	}
	c.states(t, map[catalog.ID]catalog.State{ids[14]: "gone", ids[15]: catalog.StateReady, ids[16]: "gone", ids[17]: catalog.StateReady, ids[19]: catalog.StateReady})
	// Nor does a clock that was set back meanwhile make a plan last.
	c.now = c.now.Add(day)
	asked, longer = 0, false
	r = c.meddling(t, &meddler{id: ids[15], before: func() { c.now, longer = c.now.Add(-time.Minute), true }})
	if rep, err := r.Prune(t.Context(), backup.PruneRequest{Promises: promises}); err != nil || rep.Deleted != 1 || asked != 3 {
		t.Errorf("by a clock that was set back %d were deleted, the promises asked for %d times: %v", rep.Deleted, asked, err)
	}
	c.states(t, map[catalog.ID]catalog.State{ids[15]: "gone", ids[17]: catalog.StateReady})
}

// A catalog that changes all the time is left alone, and the error says so.
func TestPruneGivesUp(t *testing.T) {
	c := newCalendar(t)
	old, newest := c.keep(t, "orders", day, c.own()), c.keep(t, "orders", day, c.own())
	c.now = c.now.Add(10 * day)
	plans := 0
	rep, err := c.runner.Prune(t.Context(), backup.PruneRequest{Promises: func(context.Context, string) (retention.Promises, error) {
		plans++
		c.change(t, old, func(b *catalog.Backup) { b.DeleteAfter = b.DeleteAfter.Add(time.Second) })
		return retention.Promises{}, nil
	}})
	if err == nil || !strings.Contains(err.Error(), "change all the time") || rep.Deleted != 0 || plans > 20 {
		t.Errorf("after %d plans: %v", plans, err)
	}
	c.states(t, map[catalog.ID]catalog.State{old: catalog.StateReady, newest: catalog.StateReady})
}

func TestPruneByPolicies(t *testing.T) {
	c := newCalendar(t)
	made := map[string][]catalog.ID{}
	for i := range 5 {
		for _, dataStore := range []string{"carts", "orders"} {
			b, err := c.runner.Run(t.Context(), backup.Request{DataStore: dataStore, Kind: catalog.KindAutomatic, Policy: dataStore + "-nightly", DueTime: c.now.Add(-time.Minute),
				Snapshotter: c.own(), Name: fmt.Sprint("night-", i)})
			if err != nil {
				t.Fatal(err)
			}
			made[dataStore] = append(made[dataStore], b.ID)
		}
		c.now = c.now.Add(day)
	}
	days := 10
	promises := func(_ context.Context, dataStore string) (retention.Promises, error) {
		if dataStore == "carts" && days == 0 {
			return retention.Promises{}, storetest.ErrInjected
		}
		return retention.Promises{Policies: map[string]retention.PolicyRules{dataStore + "-nightly": {Rules: retention.Rules{Days: days}}}}, nil
	}
	prune := func(q backup.PruneRequest, deleted int) backup.PruneReport {
		t.Helper()
		rep, err := c.runner.Prune(t.Context(), q)
		if err != nil || rep.Deleted != deleted {
			t.Errorf("%d were deleted, want %d: %v", rep.Deleted, deleted, err)
		}
		return rep
	}
	prune(backup.PruneRequest{Promises: promises}, 0)
	days = 2 // what is over a shortened retention goes at once
	prune(backup.PruneRequest{}, 0)
	prune(backup.PruneRequest{Promises: promises, DataStore: "sessions"}, 0)
	rep := prune(backup.PruneRequest{Promises: promises, DataStore: "orders"}, 2)
	if rep.Bytes != 2*rep.Fates[0].Bytes || rep.Bytes == 0 || len(rep.Fates) != 5 {
		t.Errorf("the report: %+v", rep)
	}
	text, err := json.Marshal(rep.Fates[3])
	want := fmt.Sprintf(`{"delete":true,"reasons":["3 days older than its policy's newest, the rule is 2 days"],"dataStore":"orders","id":%q,"name":"night-1","kind":"automatic",`+
		`"policy":"orders-nightly","createdAt":"2026-08-02T00:00:00Z","bytes":%d,"deleted":true}`, made["orders"][1], rep.Fates[3].Bytes)
	if err != nil || string(text) != want {
		t.Errorf("a fate in JSON is\n%s, want\n%s", text, want)
	}
	if got := len(c.check(t)); got != 8 {
		t.Errorf("%d are listed", got)
	}
	// What can't be found out is no promise to let go of anything; it doesn't hold up the others.
	days = 0
	if _, err := c.runner.Prune(t.Context(), backup.PruneRequest{Promises: promises}); !errors.Is(err, storetest.ErrInjected) || !strings.Contains(err.Error(), "carts") {
		t.Errorf("promises that can't be read: %v", err)
	}
	days = 1
	if rep := prune(backup.PruneRequest{Promises: promises}, 4); rep.Fates[0].DataStore != "carts" || rep.Fates[7].DataStore != "orders" {
		t.Errorf("the fates are in another order: %+v", rep.Fates)
	}
	c.states(t, map[catalog.ID]catalog.State{made["carts"][2]: "gone", made["carts"][3]: catalog.StateReady, made["orders"][3]: catalog.StateReady, made["orders"][4]: catalog.StateReady})
	if _, err := c.runner.Prune(t.Context(), backup.PruneRequest{DataStore: "a/b"}); err == nil || !strings.Contains(err.Error(), "PruneRequest.DataStore") {
		t.Errorf("no data store: %v", err)
	}
}

// TestPruneHeld: a fall in keys holds all of the data store, is told, and can be accepted.
func TestPruneHeld(t *testing.T) {
	c := newCalendar(t)
	old := c.keep(t, "orders", day, c.own())
	second := c.keep(t, "orders", day, c.own())
	carts := c.keep(t, "carts", day, c.own())
	c.keep(t, "carts", day, c.own())
	c.keep(t, "orders", day, &source{data: snapshotOf(3, 10)})
	c.now = c.now.Add(10 * day)
	for range 2 {
		rep, err := c.runner.Prune(t.Context(), backup.PruneRequest{})
		if err != nil || len(rep.Held) != 1 || rep.Held[0].DataStore != "orders" || !strings.Contains(rep.Held[0].Reason, "the keys have fallen by 90 %") {
			t.Errorf("held: %+v, %v", rep.Held, err)
		}
		if !strings.Contains(c.log.String(), "retention is held") {
			t.Error("the log doesn't tell")
		}
	}
	c.states(t, map[catalog.ID]catalog.State{old: catalog.StateReady, second: catalog.StateReady, carts: "gone"})
	if rep, err := c.runner.Prune(t.Context(), backup.PruneRequest{AcceptFall: true}); err != nil || rep.Deleted != 2 || len(rep.Held) != 0 {
		t.Errorf("accepted: %+v, %v", rep, err)
	}
}

// TestPruneByAnotherClock: nothing is deleted while the store's clock is another one; it is asked only if something would be deleted.
func TestPruneByAnotherClock(t *testing.T) {
	for apart, ok := range map[time.Duration]bool{0: true, 9 * time.Minute: true, -9 * time.Minute: true, 11 * time.Minute: false, -11 * time.Minute: false, -87600 * time.Hour: false} {
		t.Run(apart.String(), func(t *testing.T) {
			now := time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC)
			there := time.Duration(0)
			m := memstore.New(&memstore.Options{Now: func() time.Time { return now.Add(there) }})
			c := &calendar{house: newHouse(t, m, func() time.Time { return now }), now: now}
			c.keep(t, "orders", time.Nanosecond, c.own())
			now = now.Add(time.Hour)
			asked := func() bool { _, err := m.Stat(t.Context(), "_leases/clock"); return err == nil }
			if rep, err := c.runner.Prune(t.Context(), backup.PruneRequest{}); err != nil || rep.Deleted != 0 || asked() {
				t.Errorf("nothing to delete: %+v, %v; the store was asked: %v", rep, err, asked())
			}
			c.now = now
			c.keep(t, "orders", time.Nanosecond, c.own())
			now, there = now.Add(time.Hour), apart
			if rep, err := c.runner.Prune(t.Context(), backup.PruneRequest{DryRun: true}); err != nil || !rep.Fates[1].Delete || asked() {
				t.Errorf("a dry run: %+v, %v; the store was asked: %v", rep, err, asked())
			}
			rep, err := c.runner.Prune(t.Context(), backup.PruneRequest{})
			if !asked() || ok != (err == nil) || ok != (rep.Deleted == 1) || ok != (len(rep.Held) == 0) {
				t.Errorf("%+v, %v", rep, err)
			}
			if ok {
				return
			}
			for _, want := range []time.Time{now, now.Add(apart)} {
				if text := want.Format(time.RFC3339); !errors.Is(err, backup.ErrClock) || !strings.Contains(err.Error(), text) || !strings.Contains(rep.Held[0].Reason, text) {
					t.Errorf("no %s in %v, or in %+v", text, err, rep.Held)
				}
			}
		})
	}
}

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
	if _, err := c.runner.Run(t.Context(), backup.Request{DataStore: "orders", Snapshotter: &source{data: few[:10]}}); err == nil {
		t.Fatal("a broken snapshot was taken")
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
