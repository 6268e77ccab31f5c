package storecatalog_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/storecatalog"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/storetest"
)

var day = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// kept returns a ready backup of n bytes.
func kept(n int, readyAt time.Duration) *catalog.Backup {
	b := backup(n, catalog.StateReady)
	b.ReadyAt, b.Parts[0].Size = day.Add(readyAt), int64(n)
	return b
}

func deleting(b *catalog.Backup, at time.Duration) *catalog.Backup {
	d := as(b, catalog.StateDeleting)
	d.DeletedAt = day.Add(at)
	return d
}

// stays reads stays as "bytes from until", and the errors.
func stays(t *testing.T, c *storecatalog.Catalog, from, until time.Time) (all []string, errs []error) {
	t.Helper()
	for s, err := range c.Stays(t.Context(), from, until) {
		if err != nil {
			errs = append(errs, err)
			continue
		}
		end := "on"
		if !s.Until.IsZero() {
			end = s.Until.Sub(day).String()
		}
		all = append(all, fmt.Sprintf("%d %v %s", s.Bytes, s.From.Sub(day), end))
	}
	slices.Sort(all)
	return all, errs
}

var ever = [2]time.Time{day.AddDate(-5, 0, 0), day.AddDate(5, 0, 0)}

// TestLedgerFaults: a copy comes, stays and is deleted, and whatever call of the store fails on the way, once each step was tried again its stay is
// there, exact and once; and so it is at every moment in between.
func TestLedgerFaults(t *testing.T) {
	eachFault(t, func(t *testing.T, m *memstore.Store, s *storetest.Faulty) {
		faulty, calm := newCatalog(t, s, nil), newCatalog(t, m, nil)
		b := kept(7, 0)
		rev := catalog.Revision("")
		step := func(what string, do func(c *storecatalog.Catalog) error, want ...string) {
			t.Helper()
			if err := do(faulty); err != nil {
				if !errors.Is(err, storetest.ErrInjected) {
					t.Fatalf("%s: %v", what, err)
				}
				if err := do(calm); err != nil && !errors.Is(err, catalog.ErrNotFound) {
					t.Fatalf("%s again: %v", what, err)
				}
			}
			if got, errs := stays(t, newCatalog(t, m, nil), ever[0], ever[1]); !slices.Equal(got, want) || len(errs) != 0 {
				t.Fatalf("after %s there are the stays %q, %v, want %q", what, got, errs, want)
			}
		}
		put := func(b *catalog.Backup) func(c *storecatalog.Catalog) error {
			return func(*storecatalog.Catalog) (err error) {
				rev, err = calm.Put(t.Context(), b, rev)
				return err
			}
		}
		step("the claim", put(as(b, catalog.StateRunning)))
		step("Began", func(c *storecatalog.Catalog) error { return c.Began(t.Context(), b, day.Add(time.Hour)) })
		step("Began again", func(c *storecatalog.Catalog) error { return c.Began(t.Context(), b, day.Add(2*time.Hour)) })
		step("the manifest", put(b), "7 2h0m0s on")
		step("the deletion's mark", put(deleting(b, 3*time.Hour)), "7 2h0m0s 3h0m0s")
		for range 2 {
			step("Ended", func(c *storecatalog.Catalog) error { return c.Ended(t.Context(), deleting(b, 3*time.Hour)) }, "7 2h0m0s 3h0m0s")
		}
		step("Delete", func(c *storecatalog.Catalog) error {
			_, rev, err := calm.Get(t.Context(), b.ID)
			if err != nil {
				return err
			}
			return c.Delete(t.Context(), b.ID, rev)
		}, "7 2h0m0s 3h0m0s")
		want := []string{"_usage/2026-11/orders/" + string(b.ID) + ".manual.7." + fmt.Sprint(day.Unix()+7200, ".", day.Unix()+10800), "_usage/_months/2026-11"}
		if got := keys(t, m); !slices.Equal(got, want) {
			t.Errorf("there are %q, want %q", got, want)
		}
	})
}

// TestStaysFaults: whatever call of the store fails, Stays tells so, or has given all.
func TestStaysFaults(t *testing.T) {
	eachFault(t, func(t *testing.T, m *memstore.Store, s *storetest.Faulty) {
		calm := newCatalog(t, m, nil)
		var want []string
		for n := range 4 {
			b := kept(n, 0)
			rev := mustPut(t, calm, b, "")
			if n%2 == 0 {
				want = append(want, fmt.Sprintf("%d 0s on", n))
				continue
			}
			d := deleting(b, time.Hour*24*20*time.Duration(n))
			want = append(want, fmt.Sprintf("%d 0s %v", n, d.DeletedAt.Sub(day)))
			rev = mustPut(t, calm, d, rev)
			if err := errors.Join(calm.Ended(t.Context(), d), calm.Delete(t.Context(), b.ID, rev)); err != nil {
				t.Fatal(err)
			}
		}
		got, errs := stays(t, newCatalog(t, s, nil), ever[0], ever[1])
		if len(errs) == 0 && !slices.Equal(got, want) {
			t.Errorf("Stays gives %q, want %q", got, want)
		}
		if len(errs) > 1 || len(errs) == 1 && !errors.Is(errs[0], storetest.ErrInjected) {
			t.Errorf("the errors of Stays are %v", errs)
		}
	})
}

// TestMonthIsOneListing: what has ended is read without opening an object, and a period reads the months from its beginning on.
func TestMonthIsOneListing(t *testing.T) {
	m := memstore.New(nil)
	calm := newCatalog(t, m, nil)
	for n := range 300 {
		if err := calm.Ended(t.Context(), deleting(kept(n, 0), time.Duration(n)*12*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	s := storetest.NewFaulty(m)
	from := day.AddDate(0, 3, 0)
	got, errs := stays(t, newCatalog(t, s, nil), from, from.AddDate(0, 1, 0))
	if len(got) != 300-185 || len(errs) != 0 { // those that end after February has begun
		t.Errorf("there are %d stays, and %v", len(got), errs)
	}
	// Two of what the ledger has beside, one of the backups, and February and March with their packs.
	if opens, lists := s.Calls(storetest.OpOpen), s.Calls(storetest.OpList); opens != 0 || lists != 7 {
		t.Errorf("there were %d opens and %d listings, want 0 and 7", opens, lists)
	}
}

// TestLedgerKeys: whatever a manifest may be called, a store takes the key of its stay.
func TestLedgerKeys(t *testing.T) {
	m := memstore.New(nil)
	c := newCatalog(t, m, nil)
	b := kept(1, 0)
	b.Kind = catalog.Kind("a.1.2.3-" + strings.Repeat("x.", 46))
	b.DataStore = strings.Repeat("o.1", 33) + "x"
	b.Parts[0].Key, b.Parts[0].Size = b.Prefix()+"part-0", math.MaxInt64
	if _, err := catalog.Encode(b); err != nil || len(b.Kind) != catalog.MaxNameLen || len(b.DataStore) != catalog.MaxNameLen {
		t.Fatalf("no such backup can be: %v", err)
	}
	for _, at := range []time.Duration{time.Hour, 100 * 365 * 24 * time.Hour} {
		if err := c.Ended(t.Context(), deleting(b, at)); err != nil {
			t.Fatal(err)
		}
	}
	for s, err := range c.Stays(t.Context(), ever[0], ever[1]) {
		if err != nil || s.Kind != b.Kind || s.DataStore != b.DataStore || s.Bytes != math.MaxInt64 || s.ID != b.ID {
			t.Errorf("%+v, %v", s, err)
		}
	}
	if n := len(keys(t, m)); n != 4 {
		t.Errorf("there are %d keys", n)
	}
}

// TestLedgerForeign: what can't be read is told, and hides nothing else.
func TestLedgerForeign(t *testing.T) {
	m := memstore.New(nil)
	c := newCatalog(t, m, nil)
	b := kept(7, 0)
	if err := c.Ended(t.Context(), deleting(b, time.Hour)); err != nil {
		t.Fatal(err)
	}
	mustPut(t, c, kept(8, 0), "")
	prefix := "_usage/2026-11/orders/" + string(b.ID)
	foreign := []string{"_usage/2026-11/x", prefix + ".manual.7.1", prefix + ".manual.-7.1793491200.1793494800", prefix + ".manual.7.01.1793491200", prefix + ".manual.7.1.2",
		prefix + ".7.1793491200.1793494800", prefix + ".-.7.1793491200.1793494800", "_usage/2026-11/or ders/" + string(b.ID) + ".manual.7.1793491200.1793494800",
		"_usage/2026-11/orders/latest.manual.7.1793491200.1793494800", "_usage/_months/2026-13", "_usage/_copied/x.1", "_usage/_copied/x", "_usage/_copied/" + string(b.ID) + ".01", "_usage/_packed/2026-11", "_usage/_packed/2026-11.1", "_usage/_other"}
	for _, key := range foreign {
		if err := storage.WriteFile(t.Context(), m, key, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	got, errs := stays(t, c, ever[0], ever[1])
	if want := []string{"7 0s 1h0m0s", "8 0s on"}; !slices.Equal(got, want) {
		t.Errorf("Stays gives %q, want %q", got, want)
	}
	if len(errs) != len(foreign) {
		t.Errorf("there are %d errors, want %d: %v", len(errs), len(foreign), errs)
	}
	for _, err := range errs {
		if !errors.Is(err, catalog.ErrCorrupt) || !slices.ContainsFunc(foreign, func(key string) bool { return strings.Contains(err.Error(), key) }) {
			t.Errorf("the error is %v", err)
		}
	}
}

// TestSleeperEnds: who sleeps while it notes an end, and others finish the deletion and copy the backup into the store again, changes nothing.
func TestSleeperEnds(t *testing.T) {
	for _, at := range []string{"list", "create", "delete"} {
		t.Run(at, func(t *testing.T) {
			m := memstore.New(nil)
			calm := newCatalog(t, m, nil)
			b := kept(7, 0)
			if err := calm.Began(t.Context(), b, day.Add(time.Hour)); err != nil {
				t.Fatal(err)
			}
			rev := mustPut(t, calm, as(b, catalog.StateReady), "")
			d := deleting(b, 2*time.Hour)
			rev = mustPut(t, calm, d, rev)
			sleeper := &sleepyStore{Store: m, at: at, wake: func() {
				if err := errors.Join(calm.Ended(t.Context(), d), calm.Delete(t.Context(), b.ID, rev), calm.Began(t.Context(), b, day.Add(2*time.Hour+1))); err != nil {
					t.Error(err)
				}
				mustPut(t, calm, b, "")
			}}
			if err := newCatalog(t, sleeper, nil).Ended(t.Context(), d); err != nil || sleeper.wake != nil {
				t.Errorf("Ended of the sleeper: %v", err)
			}
			got, errs := stays(t, calm, ever[0], ever[1])
			if want := []string{"7 1h0m0s 2h0m0s", "7 2h0m0s on"}; !slices.Equal(got, want) || len(errs) != 0 {
				t.Errorf("Stays gives %q, %v, want %q", got, errs, want)
			}
		})
	}
}

// A sleepyStore calls wake once, ahead of its first call of a kind below "_usage".
type sleepyStore struct {
	*memstore.Store
	at   string
	wake func()
}

func (s *sleepyStore) sleep(at string) {
	if wake := s.wake; wake != nil && at == s.at {
		s.wake = nil
		wake()
	}
}

func (s *sleepyStore) Create(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
	s.sleep("create")
	return s.Store.Create(ctx, key, opts)
}

func (s *sleepyStore) Delete(ctx context.Context, key string) error {
	s.sleep("delete")
	return s.Store.Delete(ctx, key)
}

func (s *sleepyStore) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	list := s.Store.List(ctx, prefix)
	if strings.HasPrefix(prefix, "_usage/2026") {
		s.sleep("list")
	}
	return list
}

// TestSkewedClocks: clocks that differ make a stay short, and neither negative nor long.
func TestSkewedClocks(t *testing.T) {
	for _, copied := range []bool{false, true} {
		c := newCatalog(t, memstore.New(nil), nil)
		b := kept(7, 10*time.Hour)
		if copied {
			b = kept(7, 0)
			if err := c.Began(t.Context(), b, day.Add(10*time.Hour)); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Ended(t.Context(), deleting(b, 9*time.Hour)); err != nil {
			t.Fatal(err)
		}
		if got, errs := stays(t, c, ever[0], ever[1]); !slices.Equal(got, []string{"7 9h0m0s 9h0m0s"}) || len(errs) != 0 {
			t.Errorf("copied %v: Stays gives %q, %v", copied, got, errs)
		}
	}
}

// TestCopyThatCameToNothing: of one that was never published no note is left.
func TestCopyThatCameToNothing(t *testing.T) {
	m := memstore.New(nil)
	c := newCatalog(t, m, nil)
	b := kept(7, 0)
	record := as(b, catalog.StateRunning)
	record.Kind = catalog.KindCopy
	rev := mustPut(t, c, record, "")
	if err := c.Began(t.Context(), b, day.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	failed := *record
	failed.State = catalog.StateFailed
	rev = mustPut(t, c, &failed, rev)
	if err := c.Delete(t.Context(), b.ID, rev); err != nil {
		t.Fatal(err)
	}
	if got := keys(t, m); len(got) != 0 {
		t.Errorf("there are %q left", got)
	}
}

// TestEndedRefused: only what is being deleted has an end.
func TestEndedRefused(t *testing.T) {
	m := memstore.New(nil)
	c := newCatalog(t, m, nil)
	for _, state := range []catalog.State{catalog.StateReady, catalog.StateRunning, catalog.StateFailed} {
		b := as(kept(7, 0), state)
		b.DeletedAt = day
		if err := c.Ended(t.Context(), b); err == nil || !strings.Contains(err.Error(), string(state)) {
			t.Errorf("Ended of one that is %s: %v", state, err)
		}
	}
	for _, b := range []*catalog.Backup{as(kept(7, 0), catalog.StateDeleting), deleting(as(backup(8, ""), catalog.StateFailed), time.Hour)} {
		if err := c.Ended(t.Context(), b); err != nil {
			t.Error(err)
		}
	}
	if got := keys(t, m); len(got) != 0 {
		t.Errorf("of what had no stay, or none whose end is known, there are %q", got)
	}
	if err := c.Began(t.Context(), &catalog.Backup{ID: "../x"}, day); err == nil {
		t.Error("Began of an ID that is none returned nil")
	}
}
