package storecatalog_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/catalogtest"
	"github.com/amberkv/amber/catalog/storecatalog"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/storetest"
)

// TestShareFaults: whatever call of the store fails, who was told that it has a shared lease has it, an error is no lease that nobody ends,
// and after the time to live there is nothing left.
func TestShareFaults(t *testing.T) {
	eachFault(t, func(t *testing.T, m *memstore.Store, s *storetest.Faulty) {
		clock := catalogtest.NewClock()
		faulty, calm := newCatalog(t, s, clock.Now), newCatalog(t, m, clock.Now)
		injected := func(what string, err error) bool {
			t.Helper()
			if err != nil && !errors.Is(err, storetest.ErrInjected) {
				t.Fatalf("the error of %s is %v", what, err)
			}
			return err != nil
		}
		told := func(want int) {
			t.Helper()
			if held, err := calm.Sharers(t.Context(), "x"); err != nil || len(held) != want {
				t.Fatalf("Sharers gives %v, %v, want %d", held, err, want)
			}
		}
		stays, err := calm.Share(t.Context(), "x", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			lease, err := faulty.Share(t.Context(), "x", time.Minute)
			if injected("Share", err) {
				told(1) // what was written is taken back
				continue
			}
			told(2)
			clock.Advance(30 * time.Second)
			if injected("Renew", lease.Renew(t.Context())) {
				if err := lease.Renew(t.Context()); err != nil {
					t.Fatalf("Renew again: %v", err)
				}
			}
			clock.Advance(45 * time.Second)
			told(2)
			if held, err := faulty.Sharers(t.Context(), "x"); !injected("Sharers", err) && len(held) != 2 {
				t.Fatalf("Sharers gives %v", held)
			}
			if injected("Release", lease.Release(t.Context())) {
				if err := lease.Release(t.Context()); err != nil {
					t.Fatalf("Release again: %v", err)
				}
			}
			told(1)
			if err := lease.Renew(t.Context()); !errors.Is(err, catalog.ErrLeaseLost) {
				t.Fatalf("Renew after Release: %v", err)
			}
		}
		// One that nobody ends, and who looks once it is over.
		_, err = faulty.Share(t.Context(), "x", time.Minute)
		injected("Share", err)
		clock.Advance(2 * time.Minute)
		if held, err := faulty.Sharers(t.Context(), "x"); !injected("Sharers", err) && len(held) != 1 {
			t.Fatalf("Sharers gives %v", held)
		}
		told(1)
		if left := keys(t, m); len(left) != 1 {
			t.Fatalf("there are %q left", left)
		}
		if err := stays.Release(t.Context()); err != nil || len(keys(t, m)) != 0 {
			t.Fatalf("Release: %v; there are %q left", err, keys(t, m))
		}
	})
}

// TestShareSlow: a lease that took longer to write than it lasts is none, and neither is one renewed so slowly; nothing of it stays.
func TestShareSlow(t *testing.T) {
	m := memstore.New(nil)
	clock := catalogtest.NewClock()
	hooked := &hookedStore{Store: m}
	slow, calm := newCatalog(t, hooked, clock.Now), newCatalog(t, m, clock.Now)
	sleep := func(string) {
		clock.Advance(2 * time.Minute)
		if held, err := calm.Sharers(t.Context(), "x"); err != nil || len(held) != 0 {
			t.Errorf("Sharers gives %v, %v", held, err)
		}
	}
	hooked.before = sleep
	if lease, err := slow.Share(t.Context(), "x", time.Minute); !errors.Is(err, catalog.ErrLeaseLost) || lease != nil {
		t.Errorf("Share that took too long: %v, %v", lease, err)
	}
	lease, err := slow.Share(t.Context(), "x", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	hooked.before = sleep
	for range 2 {
		if err := lease.Renew(t.Context()); !errors.Is(err, catalog.ErrLeaseLost) {
			t.Errorf("Renew that took too long: %v", err)
		}
	}
	if left := keys(t, m); len(left) != 0 {
		t.Errorf("there are %q left", left)
	}

	// Somebody whose clock is ahead takes it for ended.
	if lease, err = slow.Share(t.Context(), "x", time.Minute); err != nil {
		t.Fatal(err)
	}
	ahead := newCatalog(t, m, func() time.Time { return clock.Now().Add(time.Hour) })
	if held, err := ahead.Sharers(t.Context(), "x"); err != nil || len(held) != 0 {
		t.Errorf("Sharers an hour ahead gives %v, %v", held, err)
	}
	if err := lease.Renew(t.Context()); !errors.Is(err, catalog.ErrLeaseLost) || !strings.Contains(err.Error(), "clock") {
		t.Errorf("Renew of a lease that was removed: %v", err)
	}
}

func TestShareLayout(t *testing.T) {
	s := openFile(t, t.TempDir())
	now := time.Date(2026, 11, 23, 22, 17, 0, 0, time.UTC)
	c, err := storecatalog.New(storecatalog.Config{Store: s, Owner: "host-7 process 42", Now: func() time.Time { return now }, ClockSkew: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	name := catalog.ReadLease(backup(1, catalog.StateReady).ID)
	exclusive, err := c.Acquire(t.Context(), name, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	var leases []catalog.Lease
	for range 3 {
		lease, err := c.Share(t.Context(), name, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		leases = append(leases, lease)
	}
	got := keys(t, s)
	if len(got) != 4 || got[0] != "_leases/"+name+"/0000000000000001.json" {
		t.Errorf("there are %q", got)
	}
	for _, key := range got[1:] {
		if !strings.HasPrefix(key, "_leases/"+name+"/shared-") || !strings.HasSuffix(key, ".json") || !catalog.Reserved(key) {
			t.Errorf("a shared lease is %s", key)
		}
	}
	held, err := newCatalog(t, s, func() time.Time { return now }).Sharers(t.Context(), name)
	if err != nil || len(held) != 3 || held[0] != (catalog.HeldError{Name: name, Owner: "host-7 process 42", Until: now.Add(time.Minute + 5*time.Second)}) {
		t.Errorf("Sharers gives %+v, %v", held, err)
	}
	// The skew counts to the nanosecond, as the one who looks has it.
	end := now.Add(time.Minute + 3*time.Second)
	now = end.Add(-1)
	if held, err := c.Sharers(t.Context(), name); err != nil || len(held) != 3 || len(keys(t, s)) != 4 {
		t.Errorf("a nanosecond before the end: %v, %v", held, err)
	}
	now = end
	if held, err := c.Sharers(t.Context(), name); err != nil || len(held) != 0 {
		t.Errorf("at the end: %v, %v", held, err)
	}
	if got := keys(t, s); len(got) != 1 {
		t.Errorf("after somebody looked there are %q", got)
	}
	for _, lease := range leases {
		if err := lease.Release(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if err := exclusive.Release(t.Context()); err != nil || len(keys(t, s)) != 1 {
		t.Errorf("Release of the exclusive lease: %v; there are %q", err, keys(t, s))
	}
}

// TestUnreadableShare: what can't be read as a shared lease counts as one for an hour, and for no longer.
func TestUnreadableShare(t *testing.T) {
	for name, data := range map[string]string{"empty": "", "no JSON": "x", "without an end": "{}", "of another type": "[1]", "too large": strings.Repeat(" ", 65<<10)} {
		now := time.Date(2026, 11, 23, 22, 17, 0, 0, time.UTC)
		clock := func() time.Time { return now }
		s := memstore.New(&memstore.Options{Now: clock})
		for _, key := range []string{"_leases/x/shared-y.json", "_leases/x-2/shared-y.json", "_leases/x/other.json"} {
			if err := storage.WriteFile(t.Context(), s, key, []byte(data), nil); err != nil {
				t.Fatal(err)
			}
		}
		c := newCatalog(t, s, clock)
		now = now.Add(time.Hour + 5*time.Second - 1)
		held, err := c.Sharers(t.Context(), "x")
		if err != nil || len(held) != 1 || !strings.Contains(held[0].Owner, "_leases/x/shared-y.json") {
			t.Errorf("%s: Sharers gives %v, %v", name, held, err)
		}
		now = now.Add(1)
		if held, err := c.Sharers(t.Context(), "x"); err != nil || len(held) != 0 {
			t.Errorf("%s: Sharers later gives %v, %v", name, held, err)
		}
		if got := keys(t, s); !slices.Equal(got, []string{"_leases/x-2/shared-y.json", "_leases/x/other.json"}) {
			t.Errorf("%s: there are %q", name, got)
		}
	}
}
