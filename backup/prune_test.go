package backup_test

import (
	"bytes"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/storetest"
)

const day = 24 * time.Hour

// calendar is a house whose clock is put forward by hand.
type calendar struct {
	*house
	now time.Time
	log bytes.Buffer
}

func newCalendar(t *testing.T) *calendar {
	t.Helper()
	c := &calendar{now: time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC)}
	clock := func() time.Time { return c.now }
	c.house = newHouse(t, memstore.New(&memstore.Options{Now: clock}), clock)
	var err error
	c.runner, err = backup.NewRunner(backup.Config{Store: c.store, Catalog: c.catalog, Leaser: c.catalog, Now: clock, Logger: slog.New(slog.NewTextHandler(&c.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	written(t, c.store, dumpKey, few)
	return c
}

// keep makes a backup of a data store, and lets an hour pass.
func (c *calendar) keep(t *testing.T, dataStore string, retain time.Duration, from backup.Snapshotter) catalog.ID {
	t.Helper()
	b, err := c.runner.Run(t.Context(), backup.Request{DataStore: dataStore, Retain: retain, Snapshotter: from})
	if err != nil {
		t.Fatal(err)
	}
	want := time.Time{}
	if retain > 0 {
		want = c.now.Add(retain)
	}
	if !b.DeleteAfter.Equal(want) {
		t.Errorf("it may be deleted after %v, want %v", b.DeleteAfter, want)
	}
	c.now = c.now.Add(time.Hour)
	return b.ID
}

func (c *calendar) own() *source   { return &source{data: few} }
func (c *calendar) adopted() found { return found{store: c.store, key: dumpKey} }

// prune prunes, and holds what is left against what is wanted.
func (c *calendar) prune(t *testing.T, deleted int, gone, left []catalog.ID) {
	t.Helper()
	would, err := c.runner.Prune(t.Context(), backup.PruneRequest{DryRun: true})
	if err != nil || would.Deleted != 0 {
		t.Fatalf("a dry run deleted %d: %v", would.Deleted, err)
	}
	rep, err := c.runner.Prune(t.Context(), backup.PruneRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if rep.Deleted != deleted {
		t.Errorf("%d were deleted, want %d", rep.Deleted, deleted)
	}
	for i, f := range rep.Fates {
		if f.Deleted != f.Delete || len(f.Reasons) == 0 {
			t.Errorf("what was decided is not what was done, or without a reason: %+v", f)
		}
		if w := would.Fates[i]; w.ID != f.ID || w.Delete != f.Delete || !slices.Equal(w.Reasons, f.Reasons) {
			t.Errorf("a dry run told something else:\n%+v\n%+v", w, f)
		}
	}
	// A sweep takes nothing that is kept.
	if swept, err := c.runner.Sweep(t.Context(), 0); err != nil || swept.Objects > 0 {
		t.Errorf("a sweep after that removed %+v: %v", swept, err)
	}
	for _, id := range gone {
		if state := c.state(t, id); state != "gone" {
			t.Errorf("%s is %s", id, state)
		}
		if !strings.Contains(c.log.String(), "it was to be kept until") || !strings.Contains(c.log.String(), string(id)) {
			t.Errorf("the log doesn't say why %s was deleted:\n%s", id, c.log.String())
		}
	}
	for _, id := range left {
		if state := c.state(t, id); state != catalog.StateReady {
			t.Errorf("%s is %s", id, state)
		}
	}
	if own := notAdopted(c.check(t)); own != len(c.parts(t)) {
		t.Errorf("%d backups are listed, the parts are %v", own, c.parts(t))
	}
	untouched(t, c.store, dumpKey, few)
}

func TestPrune(t *testing.T) {
	c := newCalendar(t)
	forever := c.keep(t, "orders", 0, c.own())
	short := c.keep(t, "orders", day, c.own())
	long := c.keep(t, "orders", 10*day, c.own())
	lone := c.keep(t, "carts", day, c.own())
	c.prune(t, 0, nil, []catalog.ID{forever, short, long, lone})
	c.now = c.now.Add(day)
	c.prune(t, 1, []catalog.ID{short}, []catalog.ID{forever, long, lone})
	// The newest of a data store stays, however long its time is over; there is nothing newer.
	c.now = c.now.Add(100 * day)
	c.prune(t, 0, nil, []catalog.ID{forever, long, lone})
	newer := c.keep(t, "orders", day, c.own())
	c.prune(t, 1, []catalog.ID{long}, []catalog.ID{forever, newer, lone})
	if _, err := c.runner.Run(t.Context(), backup.Request{DataStore: "orders", Retain: -time.Second, Snapshotter: c.own()}); err == nil {
		t.Error("a negative time was taken")
	}
}

// What is adopted can change at any moment: it is no reason to let the last own backup go.
func TestPruneKeepsTheLastOwn(t *testing.T) {
	c := newCalendar(t)
	first := c.keep(t, "orders", day, c.own())
	own := c.keep(t, "orders", day, c.own())
	older := c.keep(t, "orders", day, c.adopted())
	newest := c.keep(t, "orders", day, c.adopted())
	c.now = c.now.Add(10 * day)
	c.prune(t, 2, []catalog.ID{first, older}, []catalog.ID{own, newest})
}

// Runs that came to nothing don't count, nor does a backup that can't be looked at.
func TestPruneAmongOthers(t *testing.T) {
	c := newCalendar(t)
	first := c.keep(t, "orders", day, c.own())
	second := c.keep(t, "orders", day, c.own())
	if _, err := c.runner.Run(t.Context(), backup.Request{DataStore: "orders", Snapshotter: &source{data: few[:10]}}); err == nil {
		t.Fatal("a broken snapshot was taken")
	}
	c.now = c.now.Add(10 * day)
	c.prune(t, 1, []catalog.ID{first}, []catalog.ID{second})

	third := c.keep(t, "orders", day, c.own())
	c.now = c.now.Add(10 * day)
	faulty := newHouse(t, storetest.NewFaulty(c.store, storetest.Fault{Op: storetest.OpOpen, Key: string(third), Mode: storetest.Before}), func() time.Time { return c.now })
	if rep, err := faulty.runner.Prune(t.Context(), backup.PruneRequest{}); !errors.Is(err, storetest.ErrInjected) || rep.Deleted > 0 {
		t.Errorf("it deleted %d and returned %v", rep.Deleted, err)
	}
	c.prune(t, 1, []catalog.ID{second}, []catalog.ID{third})
}
