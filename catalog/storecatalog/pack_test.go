package storecatalog_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/storetest"
)

// ended notes the ends of n backups in November and of one in December, copies among them, and returns what Stays gives then.
func ended(t *testing.T, s storage.Store, n int) (backups []*catalog.Backup, want []string) {
	t.Helper()
	c := newCatalog(t, s, nil)
	for i := range n + 1 {
		b := kept(i, 0)
		if i%3 == 0 {
			if err := c.Began(t.Context(), b, day.Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
		}
		until := time.Hour + time.Duration(i)*time.Second
		if i == n {
			until += 30 * 24 * time.Hour
		}
		b = deleting(b, until)
		if err := c.Ended(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		backups = append(backups, b)
	}
	want, errs := stays(t, c, ever[0], ever[1])
	if len(want) != n+1 || len(errs) != 0 {
		t.Fatalf("there are %d stays, and %v", len(want), errs)
	}
	return backups, want
}

// later is when November is packed, and December isn't.
func later() time.Time { return day.AddDate(0, 1, 2) }

// TestTidy: what is packed is told as before, takes few objects, and is noted again in vain; what ends in that month afterwards joins it.
func TestTidy(t *testing.T) {
	m := memstore.New(nil)
	backups, want := ended(t, m, 40)
	if err := newCatalog(t, m, func() time.Time { return later().Add(-time.Second) }).Tidy(t.Context()); err != nil || len(keys(t, m)) != 43 {
		t.Errorf("before its time: %v, %d keys", err, len(keys(t, m)))
	}
	c := newCatalog(t, m, later)
	check := func(what string, packs int) {
		t.Helper()
		if err := c.Tidy(t.Context()); err != nil {
			t.Fatalf("%s: Tidy: %v", what, err)
		}
		got, errs := stays(t, newCatalog(t, m, nil), ever[0], ever[1])
		if !slices.Equal(got, want) || len(errs) != 0 {
			t.Fatalf("%s: Stays gives %q, %v, want %q", what, got, errs, want)
		}
		n := 0
		for _, key := range keys(t, m) {
			if strings.HasPrefix(key, "_usage/_packed/2026-11.") {
				n++
			}
		}
		if n != packs {
			t.Errorf("%s: there are %d packs, want %d, of %q", what, n, packs, keys(t, m))
		}
	}
	check("packed", 1)
	if n := len(keys(t, m)); n != 4 { // the pack, two months, and December
		t.Errorf("there are %d keys: %q", n, keys(t, m))
	}
	for _, b := range backups {
		if err := c.Ended(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	check("noted again", 1)
	for i := range 20 {
		b := deleting(kept(100+i, 0), 2*time.Hour)
		if err := c.Ended(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		want = append(want, fmt.Sprintf("%d 0s 2h0m0s", 100+i))
		slices.Sort(want)
		packs := 1
		if i+1 >= 16 {
			packs = 2
		}
		check("more of them", packs)
	}
}

// TestTidyFaults: whatever call of the store fails, nothing is lost or told twice, then and when Tidy goes on.
func TestTidyFaults(t *testing.T) {
	eachFault(t, func(t *testing.T, m *memstore.Store, s *storetest.Faulty) {
		_, want := ended(t, m, 20)
		for _, on := range []storage.Store{s, m} {
			err := newCatalog(t, on, later).Tidy(t.Context())
			if err != nil && !errors.Is(err, storetest.ErrInjected) {
				t.Fatalf("Tidy: %v", err)
			}
			got, errs := stays(t, newCatalog(t, m, nil), ever[0], ever[1])
			if !slices.Equal(got, want) || len(errs) != 0 {
				t.Fatalf("after Tidy, whose error is %v, Stays gives %q, %v, want %q", err, got, errs, want)
			}
		}
		if n := len(keys(t, m)); n > 5 {
			t.Errorf("there are %q", keys(t, m))
		}
	})
}

// TestTidyMeanwhile: while several pack, and others note ends again, who reads stays gets each once.
func TestTidyMeanwhile(t *testing.T) {
	for round := range 5 {
		m := memstore.New(nil)
		backups, want := ended(t, m, 60)
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				if err := newCatalog(t, m, later).Tidy(t.Context()); err != nil {
					t.Errorf("Tidy: %v", err)
				}
			})
		}
		all.Go(func() {
			for _, b := range backups {
				if err := newCatalog(t, m, later).Ended(t.Context(), b); err != nil {
					t.Errorf("Ended: %v", err)
				}
			}
		})
		done := make(chan bool)
		go func() { all.Wait(); close(done) }()
		for over := false; !over; {
			select {
			case <-done:
				over = true
			default:
			}
			if got, errs := stays(t, newCatalog(t, m, nil), ever[0], ever[1]); !slices.Equal(got, want) || len(errs) != 0 {
				<-done
				t.Fatalf("round %d: Stays gives %q, %v, want %q", round, got, errs, want)
			}
		}
	}
}

// TestTidySleepers: who sleeps while it reads a month, or is about to make a pack, and another packs meanwhile, loses nothing and is told of no error.
func TestTidySleepers(t *testing.T) {
	m := memstore.New(nil)
	_, want := ended(t, m, 20)
	tidy := func() {
		if err := newCatalog(t, m, later).Tidy(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if got, errs := stays(t, newCatalog(t, &sleepyStore{Store: m, at: "list", wake: tidy}, nil), ever[0], ever[1]); !slices.Equal(got, want) || len(errs) != 0 {
		t.Errorf("Stays of the sleeper gives %q, %v, want %q", got, errs, want)
	}
	m = memstore.New(nil)
	_, want = ended(t, m, 20)
	packer := &sleepyStore{Store: m, at: "create", wake: func() {
		if err := newCatalog(t, m, nil).Ended(t.Context(), deleting(kept(99, 0), time.Hour)); err != nil {
			t.Error(err)
		}
		tidy()
	}}
	if err := newCatalog(t, packer, later).Tidy(t.Context()); err != nil || packer.wake != nil {
		t.Errorf("Tidy of the sleeper: %v", err)
	}
	want = append(want, "99 0s 1h0m0s")
	slices.Sort(want)
	if got, errs := stays(t, newCatalog(t, m, nil), ever[0], ever[1]); !slices.Equal(got, want) || len(errs) != 0 {
		t.Errorf("Stays gives %q, %v, want %q", got, errs, want)
	}
}

// TestPackCorrupt: a pack that can't be trusted is told, hides nothing else, and isn't packed upon.
func TestPackCorrupt(t *testing.T) {
	for name, change := range map[string]func(data []byte) []byte{
		"changed":          func(data []byte) []byte { data[len(data)/2] ^= 1; return data },
		"cut":              func(data []byte) []byte { return data[:len(data)-9] },
		"of another month": nil,
	} {
		m := memstore.New(nil)
		backups, want := ended(t, m, 20)
		c := newCatalog(t, m, later)
		if err := c.Tidy(t.Context()); err != nil {
			t.Fatal(err)
		}
		data, err := storage.ReadFile(t.Context(), m, "_usage/_packed/2026-11.0001", 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		key := "_usage/_packed/2026-11.0001"
		if change == nil {
			key, change = "_usage/_packed/2026-12.0001", func(data []byte) []byte { return data }
		}
		if err := storage.WriteFile(t.Context(), m, key, change(data), nil); err != nil {
			t.Fatal(err)
		}
		got, errs := stays(t, c, ever[0], ever[1])
		if key == "_usage/_packed/2026-11.0001" {
			want = slices.DeleteFunc(want, func(s string) bool { return !strings.HasPrefix(s, "20 ") }) // that of December
		}
		if !slices.Equal(got, want) || len(errs) != 1 || !errors.Is(errs[0], catalog.ErrCorrupt) || !strings.Contains(errs[0].Error(), key) {
			t.Errorf("%s: Stays gives %q, %v", name, got, errs)
		}
		if err := c.Ended(t.Context(), backups[20]); err != nil {
			t.Errorf("%s: Ended: %v", name, err)
		}
	}
}
