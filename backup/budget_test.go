package backup_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/storage/memstore"
)

// A budgeted house has a clock that a test sets, and a source that counts how often it is asked.
type budgeted struct {
	*house
	late  atomic.Int64
	asked atomic.Int64
	fail  error // of Snapshot, after it was asked
}

func newBudgeted(t *testing.T) *budgeted {
	b := &budgeted{}
	start := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	b.house = newHouse(t, memstore.New(nil), func() time.Time { return start.Add(time.Duration(b.late.Add(int64(time.Millisecond)))) })
	return b
}

func (b *budgeted) pass(d time.Duration) { b.late.Add(int64(d)) }

var threeAnHour = backup.Budget{Syncs: 3, Window: time.Hour}

func (b *budgeted) request() backup.Request {
	q := request(&source{data: small, snapshot: func(context.Context) error {
		b.asked.Add(1)
		return b.fail
	}})
	q.Budget = threeAnHour
	return q
}

// refused fails the test unless the run is refused for its budget, without a trace. It returns when the next may begin.
func (b *budgeted) refused(t *testing.T, q backup.Request) time.Time {
	t.Helper()
	asked, objects := b.asked.Load(), b.objects(t)
	_, err := b.runner.Run(t.Context(), q)
	var e *backup.BudgetError
	if !errors.Is(err, backup.ErrBudget) || !errors.As(err, &e) || !strings.Contains(err.Error(), e.Next.Format(time.RFC3339)) {
		t.Fatalf("the run beyond the budget: %v", err)
	}
	if b.asked.Load() != asked {
		t.Error("the source was asked all the same")
	}
	if now := b.objects(t); now != objects {
		t.Errorf("a refused run leaves %d objects in the store, there were %d", now, objects)
	}
	return e.Next
}

func (b *budgeted) objects(t *testing.T) (n int) {
	t.Helper()
	for info, err := range b.store.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(info.Key, "_") {
			n++
		}
	}
	return n
}

// What became of a run doesn't matter: if it has asked its source it counts, until it has left the window.
func TestBudget(t *testing.T) {
	broken := errors.New("the child failed")
	for name, end := range map[string]func(t *testing.T, b *budgeted, q backup.Request){
		"ready": func(t *testing.T, b *budgeted, q backup.Request) {
			if _, err := b.runner.Run(t.Context(), q); err != nil {
				t.Fatal(err)
			}
		},
		"deleted": func(t *testing.T, b *budgeted, q backup.Request) {
			m, err := b.runner.Run(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			if err := b.runner.Delete(t.Context(), m.ID); err != nil {
				t.Fatal(err)
			}
			if _, err := b.runner.Sweep(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
		},
		"failed": func(t *testing.T, b *budgeted, q backup.Request) {
			b.fail = broken
			if _, err := b.runner.Run(t.Context(), q); !errors.Is(err, broken) {
				t.Fatal(err)
			}
			if _, err := b.runner.Sweep(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
		},
		"cut": func(t *testing.T, b *budgeted, q backup.Request) {
			q.Snapshotter.(*source).read = func(context.Context, int) error { return broken }
			if _, err := b.runner.Run(t.Context(), q); !errors.Is(err, broken) {
				t.Fatal(err)
			}
		},
		"killed": func(t *testing.T, b *budgeted, q backup.Request) {
			now := b.late.Load()
			at := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC).Add(time.Duration(now))
			m := &catalog.Backup{Format: catalog.Format, ID: catalog.NewID(at), DataStore: "orders", Kind: catalog.KindManual, State: catalog.StateRunning, CreatedAt: at}
			if _, err := b.catalog.Put(t.Context(), m, ""); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBudgeted(t)
			for range 3 {
				end(t, b, b.request())
				b.pass(10 * time.Minute)
			}
			b.fail = nil
			next := b.refused(t, b.request())
			if again := b.refused(t, b.request()); !again.Equal(next) {
				t.Errorf("a refused run puts off the next one, from %v to %v", next, again)
			}
			other := b.request()
			other.DataStore = "carts"
			if _, err := b.runner.Run(t.Context(), other); err != nil {
				t.Errorf("another data store: %v", err)
			}
			free := b.request()
			free.Kind = catalog.KindImport
			if _, err := b.runner.Run(t.Context(), free); err != nil {
				t.Errorf("an import: %v", err)
			}
			b.pass(29 * time.Minute)
			b.refused(t, b.request())
			b.pass(time.Minute)
			if _, err := b.runner.Run(t.Context(), b.request()); err != nil {
				t.Errorf("when the first has left the window: %v", err)
			}
			b.refused(t, b.request())
		})
	}
}

// A run that didn't ask its source costs nothing.
func TestBudgetSpared(t *testing.T) {
	b := newBudgeted(t)
	no := errors.New("not now")
	for range 5 {
		q := b.request()
		q.Registered = func(context.Context, catalog.ID) error { return no }
		if _, err := b.runner.Run(t.Context(), q); !errors.Is(err, no) {
			t.Fatal(err)
		}
		b.fail = fmt.Errorf("%w: %w", backup.ErrSpared, no)
		if _, err := b.runner.Run(t.Context(), b.request()); !errors.Is(err, no) {
			t.Fatal(err)
		}
	}
	// One server of several was spared, another one wasn't.
	b.fail = fmt.Errorf("%w, %w: %w", backup.ErrSpared, backup.ErrBegun, no)
	if _, err := b.runner.Run(t.Context(), b.request()); !errors.Is(err, no) {
		t.Fatal(err)
	}
	b.fail = nil
	for range 2 {
		if _, err := b.runner.Run(t.Context(), b.request()); err != nil {
			t.Fatal(err)
		}
	}
	b.refused(t, b.request())
	spared := 0
	for m, err := range b.catalog.List(t.Context(), catalog.Query{States: []catalog.State{catalog.StateFailed}}) {
		if err != nil {
			t.Fatal(err)
		}
		if m.Spared {
			spared++
		}
	}
	if spared != 10 {
		t.Errorf("%d records say that the source was spared, want 10", spared)
	}
}

// The budget is that of the data store: backups in other stores count, and a copy in two of them once.
func TestBudgetOfAllStores(t *testing.T) {
	a, b := newBudgeted(t), newBudgeted(t)
	m, err := a.runner.Run(t.Context(), a.request())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.runner.Copy(t.Context(), backup.CopyRequest{Store: a.store, Catalog: a.catalog, Backup: m.ID}); err != nil {
		t.Fatal(err)
	}
	run := func(h *budgeted, other catalog.Catalog) error {
		q := h.request()
		q.Others = []catalog.Catalog{other}
		_, err := h.runner.Run(t.Context(), q)
		return err
	}
	for i, err := range []error{run(b, a.catalog), run(a, b.catalog)} {
		if err != nil {
			t.Errorf("run %d: %v", i+2, err)
		}
	}
	for _, err := range []error{run(b, a.catalog), run(a, b.catalog)} {
		if !errors.Is(err, backup.ErrBudget) {
			t.Errorf("beyond the budget: %v", err)
		}
	}
}

// Runs that are begun at a time, by Runners of their own, stay within the budget together.
func TestBudgetOfManyRunners(t *testing.T) {
	b := newBudgeted(t)
	var ready, refused, busy atomic.Int64
	var group sync.WaitGroup
	for range 8 {
		h := newHouse(t, b.store, func() time.Time { return time.Date(2026, 11, 27, 12, 0, 0, int(b.late.Add(1e6)), time.UTC) })
		group.Go(func() {
			for range 6 {
				_, err := h.runner.Run(t.Context(), b.request())
				switch {
				case err == nil:
					ready.Add(1)
				case errors.Is(err, backup.ErrBudget):
					refused.Add(1)
				case errors.Is(err, backup.ErrBusy):
					busy.Add(1)
				default:
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if b.asked.Load() != 3 || ready.Load() != 3 {
		t.Errorf("the source was asked %d times, %d runs were ready, %d refused and %d busy: want 3 of each of the first", b.asked.Load(), ready.Load(), refused.Load(), busy.Load())
	}
	b.refused(t, b.request())
}

func TestBudgetRefuses(t *testing.T) {
	for want, budget := range map[string]backup.Budget{
		"backup: Request.Budget: its Syncs is 0, it has to be at least 1":                                                         {Window: time.Hour},
		"backup: Request.Budget: its Syncs is -1, it has to be at least 1":                                                        {Syncs: -1, Window: time.Hour},
		"backup: Request.Budget: its Window is 0s, it has to be above 0":                                                          {Syncs: 1},
		"backup: Request.Budget: its Window is 25h0m0s, it can be 24h0m0s at most: the records of failed runs are kept no longer": {Syncs: 1, Window: 25 * time.Hour},
	} {
		b := newBudgeted(t)
		q := b.request()
		q.Budget = budget
		if _, err := b.runner.Run(t.Context(), q); err == nil || err.Error() != want {
			t.Errorf("%+v: %v, want %s", budget, err, want)
		}
	}
}

// A clock that was years ahead when a run began keeps nobody from his backups for years; one a little ahead counts.
func TestBudgetClock(t *testing.T) {
	b := newBudgeted(t)
	put := func(ahead time.Duration) {
		at := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC).Add(ahead)
		m := &catalog.Backup{Format: catalog.Format, ID: catalog.NewID(at), DataStore: "orders", Kind: catalog.KindManual, State: catalog.StateFailed, Error: "x", CreatedAt: at}
		if _, err := b.catalog.Put(t.Context(), m, ""); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		put(10 * 365 * 24 * time.Hour)
	}
	if _, err := b.runner.Run(t.Context(), b.request()); err != nil {
		t.Errorf("after runs of the future: %v", err)
	}
	put(10 * time.Minute)
	put(11 * time.Minute)
	b.refused(t, b.request())
}
