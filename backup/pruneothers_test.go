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
	fail         error // of unlisting it, which is done all the same
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
	if b.ID == m.id && b.State == catalog.StateDeleting && m.fail != nil {
		return "", m.fail
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
		"it is pinned at the last moment": {3, func(t *testing.T, c *calendar, id [4]catalog.ID) {
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
	// The store is asked once, whatever it is about.
	late := memstore.New(nil)
	c := &calendar{house: newHouse(t, late, nil), now: time.Now()}
	for _, dataStore := range []string{"carts", "orders", "sessions"} {
		for range 2 {
			if _, err := c.runner.Run(t.Context(), backup.Request{DataStore: dataStore, Retain: time.Nanosecond, Snapshotter: c.own()}); err != nil {
				t.Fatal(err)
			}
		}
	}
	counted := storetest.NewFaulty(late)
	ahead := newHouse(t, counted, func() time.Time { return time.Now().Add(time.Hour) })
	rep, err := ahead.runner.Prune(t.Context(), backup.PruneRequest{})
	if !errors.Is(err, backup.ErrClock) || rep.Deleted != 0 || len(rep.Held) != 3 || counted.Calls(storetest.OpCommit) != 1 {
		t.Errorf("an hour ahead: %+v, %v; %d writes", rep, err, counted.Calls(storetest.OpCommit))
	}
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
