package storecatalog_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/catalogtest"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/retry"
	"github.com/amberkv/amber/storage/storetest"
)

var ops = []storetest.Op{
	storetest.OpCreate, storetest.OpWrite, storetest.OpCommit, storetest.OpOpen, storetest.OpRead, storetest.OpStat, storetest.OpList, storetest.OpDelete,
}

// eachFault runs f once without a fault, and then once for every call of the store that it made, failing before and after its
// effect. f gets the store without the fault too.
func eachFault(t *testing.T, f func(t *testing.T, m *memstore.Store, s *storetest.Faulty)) {
	m := memstore.New(nil)
	calm := storetest.NewFaulty(m)
	f(t, m, calm)
	n := 0
	for _, op := range ops {
		for call := 1; call <= calm.Calls(op); call++ {
			for _, mode := range []storetest.Mode{storetest.Before, storetest.After} {
				n++
				t.Run(fmt.Sprintf("%s-%d-mode-%d", op, call, mode), func(t *testing.T) {
					m := memstore.New(nil)
					s := storetest.NewFaulty(m, storetest.Fault{Op: op, Call: call, Mode: mode})
					f(t, m, s)
					if s.Fired() != 1 {
						t.Errorf("%d faults fired, want 1", s.Fired())
					}
				})
			}
		}
	}
	if n < 20 {
		t.Errorf("only %d faults were tried", n)
	}
}

// TestPutFaults: whatever call of the store fails, the error of Put doesn't lie, and no part of a manifest is ever seen.
func TestPutFaults(t *testing.T) {
	eachFault(t, func(t *testing.T, m *memstore.Store, s *storetest.Faulty) {
		b := backup(1, catalog.StateRunning)
		direct := backup(2, catalog.StateReady)
		faulty, calm := newCatalog(t, s, nil), newCatalog(t, m, nil)
		rev := catalog.Revision("")
		put := func(b *catalog.Backup, prev catalog.Revision) catalog.Revision {
			t.Helper()
			rev, err := faulty.Put(t.Context(), b, prev)
			got, now, getErr := calm.Get(t.Context(), b.ID)
			if getErr != nil && !errors.Is(getErr, catalog.ErrNotFound) {
				t.Fatalf("after a Put, whose error is %v, Get: %v", err, getErr)
			}
			there := getErr == nil && reflect.DeepEqual(got, b)
			switch {
			case err == nil && (!there || now != rev):
				t.Fatalf("Put returned nil and revision %s; Get returns %+v, %s", rev, got, now)
			case errors.Is(err, catalog.ErrConflict):
				t.Fatalf("there is nobody else, and the error of Put is %v", err)
			case err != nil && !errors.Is(err, storetest.ErrInjected):
				t.Fatalf("the error of Put is %v", err)
			case err != nil && there:
				return now // the outcome was unknown; a caller gets and compares
			case err != nil:
				if getErr == nil && prev == "" {
					return "" // a claim was left; the caller would take another ID
				}
				rev, err = calm.Put(t.Context(), b, prev)
				if err != nil {
					t.Fatalf("Put again: %v", err)
				}
			}
			return rev
		}
		for _, state := range []catalog.State{catalog.StateRunning, catalog.StateFailed, catalog.StateReady} {
			rev = put(as(b, state), rev)
		}
		put(direct, "")
		for b, err := range calm.List(t.Context(), catalog.Query{States: allStates}) {
			if err != nil || b.State != catalog.StateReady && b.ID != direct.ID {
				t.Errorf("List gives %+v, %v", b, err)
			}
		}
	})
}

// TestDeleteFaults: wherever a Delete is cut short, the backup is as before, or deleting, or gone, never in an older
// state or half; and it can be finished.
func TestDeleteFaults(t *testing.T) {
	for name, states := range map[string][]catalog.State{
		"ready":    {catalog.StateRunning, catalog.StateReady},
		"marked":   {catalog.StateRunning, catalog.StateReady, catalog.StateReady, catalog.StateDeleting},
		"run only": {catalog.StateInterrupted},
		"failed":   {catalog.StateRunning, catalog.StateReady, catalog.StateFailed},
	} {
		t.Run(name, func(t *testing.T) {
			eachFault(t, func(t *testing.T, m *memstore.Store, s *storetest.Faulty) {
				calm := newCatalog(t, m, nil)
				b := backup(1, "")
				rev := catalog.Revision("")
				for _, state := range states {
					rev = mustPut(t, calm, as(b, state), rev)
				}
				last := states[len(states)-1]
				err := newCatalog(t, s, nil).Delete(t.Context(), b.ID, rev)
				seen, errs := listed(t, m)
				got, now, getErr := newCatalog(t, m, nil).Get(t.Context(), b.ID)
				switch {
				case len(errs) != 0:
					t.Fatalf("after a Delete, whose error is %v, List gives %v", err, errs)
				case err == nil:
					if len(seen) != 0 || len(keys(t, m)) != 0 || !errors.Is(getErr, catalog.ErrNotFound) {
						t.Fatalf("Delete returned nil; there are %v, %q, %v", seen, keys(t, m), getErr)
					}
					return
				case !errors.Is(err, storetest.ErrInjected):
					t.Fatalf("the error of Delete is %v", err)
				case errors.Is(getErr, catalog.ErrNotFound):
					if len(seen) != 0 || len(keys(t, m)) != 0 {
						t.Fatalf("Get finds nothing, but there are %v, %q", seen, keys(t, m))
					}
					return
				case getErr != nil || len(seen) != 1 || seen[0] != got.State || got.State != last && got.State != catalog.StateDeleting:
					t.Fatalf("after a Delete that was cut short of a backup that was %s, List gives %v, Get %+v, %v", last, seen, got, getErr)
				}
				if got.State == catalog.StateDeleting && last != catalog.StateDeleting {
					if _, err := calm.Put(t.Context(), as(b, catalog.StateReady), rev); !errors.Is(err, catalog.ErrConflict) {
						t.Fatalf("Put after a Delete that was cut short: %v", err)
					}
				}
				if err := calm.Delete(t.Context(), b.ID, now); err != nil {
					t.Fatalf("Delete again: %v", err)
				}
				if left := keys(t, m); len(left) != 0 {
					t.Fatalf("after Delete again there are %q", left)
				}
			})
		})
	}
}

// TestLeaseFaults: whatever call of the store fails, never have two a lease, tokens rise, and the name is free again
// after the time to live.
func TestLeaseFaults(t *testing.T) {
	eachFault(t, func(t *testing.T, m *memstore.Store, s *storetest.Faulty) {
		clock := catalogtest.NewClock()
		faulty, calm := newCatalog(t, s, clock.Now), newCatalog(t, m, clock.Now)
		last := int64(0)
		for range 3 {
			lease, err := faulty.Acquire(t.Context(), "x", time.Minute)
			if err != nil {
				if !errors.Is(err, storetest.ErrInjected) {
					t.Fatalf("the error of Acquire is %v", err)
				}
				clock.Advance(2 * time.Minute)
				continue
			}
			if lease.Token() <= last {
				t.Fatalf("the token is %d, after %d", lease.Token(), last)
			}
			last = lease.Token()
			clock.Advance(30 * time.Second)
			if err := lease.Renew(t.Context()); err != nil {
				if !errors.Is(err, storetest.ErrInjected) {
					t.Fatalf("the error of Renew is %v", err)
				}
				if err := lease.Renew(t.Context()); err != nil {
					t.Fatalf("Renew again: %v", err)
				}
			}
			clock.Advance(45 * time.Second)
			if _, err := calm.Acquire(t.Context(), "x", time.Minute); !errors.Is(err, catalog.ErrHeld) {
				t.Fatalf("Acquire of a lease that was renewed: %v", err)
			}
			if err := lease.Release(t.Context()); err != nil {
				if !errors.Is(err, storetest.ErrInjected) {
					t.Fatalf("the error of Release is %v", err)
				}
				clock.Advance(2 * time.Minute)
			}
			next, err := calm.Acquire(t.Context(), "x", time.Minute)
			if err != nil || next.Token() <= last {
				t.Fatalf("Acquire after Release: %v, %v", next, err)
			}
			last = next.Token()
			if err := next.Release(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// A hookedStore calls before ahead of each Create of a key.
type hookedStore struct {
	*memstore.Store
	before func(key string)
}

func (h *hookedStore) Create(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
	if f := h.before; f != nil {
		h.before = nil // once
		f(key)
	}
	return h.Store.Create(ctx, key, opts)
}

// TestSleeperAcrossDelete: a writer sleeps after it has looked, and the backup is deleted, with the revision that the writer
// creates when it wakes up. The backup doesn't come back, not even if the writer is killed right after.
func TestSleeperAcrossDelete(t *testing.T) {
	for _, killed := range []bool{false, true} {
		m := memstore.New(nil)
		calm := newCatalog(t, m, nil)
		b := backup(1, catalog.StateRunning)
		rev := mustPut(t, calm, b, "")
		hooked := &hookedStore{Store: m, before: func(string) {
			dead := mustPut(t, calm, as(b, catalog.StateInterrupted), rev)
			if err := calm.Delete(t.Context(), b.ID, dead); err != nil {
				t.Fatal(err)
			}
		}}
		var s storage.Store = hooked
		if killed {
			// From the creation on, nothing that the writer does has an effect.
			s = storetest.NewFaulty(hooked, storetest.Fault{Op: storetest.OpStat, Key: "run.json", Call: 2}, storetest.Fault{Op: storetest.OpDelete})
		}
		sleeper := newCatalog(t, s, nil)
		if _, _, err := sleeper.Get(t.Context(), b.ID); err != nil {
			t.Fatal(err)
		}
		if killed {
			s = storetest.NewFaulty(hooked, storetest.Fault{Op: storetest.OpStat, Key: "run.json", Call: 2}, storetest.Fault{Op: storetest.OpDelete})
			sleeper = newCatalog(t, s, nil)
		}
		_, err := sleeper.Put(t.Context(), as(b, catalog.StateReady), rev)
		if !killed {
			if !errors.Is(err, catalog.ErrConflict) {
				t.Errorf("Put of the sleeper: %v", err)
			}
			if left := keys(t, m); len(left) != 0 {
				t.Errorf("there are %q left", left)
			}
			continue
		}
		if err == nil {
			t.Error("Put of the sleeper returned nil")
		}
		if left := keys(t, m); !slices.Equal(left, []string{b.Prefix() + "manifest.json"}) {
			t.Errorf("there are %q left", left)
		}
		states, errs := listed(t, m)
		if len(states) != 0 || len(errs) != 1 || !errors.Is(errs[0], catalog.ErrCorrupt) || !strings.Contains(errs[0].Error(), "run.json") {
			t.Errorf("List gives %v, %v", states, errs)
		}
		_, at, err := calm.Get(t.Context(), b.ID)
		if !errors.Is(err, catalog.ErrCorrupt) {
			t.Errorf("Get: %v", err)
		}
		if _, err := calm.Put(t.Context(), b, ""); !errors.Is(err, catalog.ErrConflict) {
			t.Errorf("Put as new: %v", err)
		}
		if _, err := calm.Put(t.Context(), b, at); !errors.Is(err, catalog.ErrConflict) {
			t.Errorf("Put over what is left: %v", err)
		}
		if err := calm.Delete(t.Context(), b.ID, at); err != nil || len(keys(t, m)) != 0 {
			t.Errorf("Delete: %v; there are %q", err, keys(t, m))
		}
	}
}

// TestLoserIsSeen: what a writer who lost against a deletion is about to remove is no corrupt backup to those who meet it.
func TestLoserIsSeen(t *testing.T) { synctest.Test(t, loserIsSeen) } // where nobody is late

func loserIsSeen(t *testing.T) {
	m := memstore.New(nil)
	calm := newCatalog(t, m, nil)
	b := backup(1, catalog.StateRunning)
	rev := mustPut(t, calm, b, "")
	slow := storetest.NewFaulty(&hookedStore{Store: m, before: func(string) {
		dead := mustPut(t, calm, as(b, catalog.StateInterrupted), rev)
		if err := calm.Delete(t.Context(), b.ID, dead); err != nil {
			t.Error(err)
		}
	}}, storetest.Fault{Op: storetest.OpDelete, Mode: storetest.Stall, For: 80 * time.Millisecond})
	loser := newCatalog(t, slow, nil)
	if _, _, err := loser.Get(t.Context(), b.ID); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		_, err := loser.Put(t.Context(), as(b, catalog.StateReady), rev)
		done <- err
	}()
	for slow.Fired() == 0 {
		time.Sleep(time.Millisecond)
	}
	if left := keys(t, m); !slices.Equal(left, []string{b.Prefix() + "manifest.json"}) {
		t.Errorf("there are %q", left)
	}
	if _, _, err := calm.Get(t.Context(), b.ID); !errors.Is(err, catalog.ErrNotFound) {
		t.Errorf("Get: %v", err)
	}
	if err := <-done; !errors.Is(err, catalog.ErrConflict) {
		t.Errorf("Put of the loser: %v", err)
	}
}

// TestSleeperDeletes: of two that delete the same revision one has done it, also if the other slept all the while.
func TestSleeperDeletes(t *testing.T) {
	m := memstore.New(nil)
	calm := newCatalog(t, m, nil)
	b := backup(1, catalog.StateFailed)
	rev := mustPut(t, calm, b, "")
	hooked := &hookedStore{Store: m, before: func(string) {
		if err := calm.Delete(t.Context(), b.ID, rev); err != nil {
			t.Fatal(err)
		}
	}}
	if err := newCatalog(t, hooked, nil).Delete(t.Context(), b.ID, rev); !errors.Is(err, catalog.ErrNotFound) {
		t.Errorf("Delete of the sleeper: %v", err)
	}
	if left := keys(t, m); len(left) != 0 {
		t.Errorf("there are %q left", left)
	}
}

// TestLostAnswer: a Commit that says it failed but didn't is a success, and one that somebody else has beaten is a conflict.
func TestLostAnswer(t *testing.T) {
	m := memstore.New(nil)
	b := backup(1, catalog.StateRunning)
	rev := mustPut(t, newCatalog(t, m, nil), b, "")
	lost := storetest.NewFaulty(m, storetest.Fault{Op: storetest.OpCommit, Mode: storetest.After})
	next, err := newCatalog(t, lost, nil).Put(t.Context(), as(b, catalog.StateReady), rev)
	if err != nil || lost.Fired() != 1 {
		t.Errorf("Put whose answer was lost: %v", err)
	}
	hooked := &hookedStore{Store: m, before: func(string) { mustPut(t, newCatalog(t, m, nil), as(b, catalog.StateFailed), next) }}
	lost = storetest.NewFaulty(hooked, storetest.Fault{Op: storetest.OpCreate, Mode: storetest.After})
	if _, err := newCatalog(t, lost, nil).Put(t.Context(), as(b, catalog.StateDeleting), next); !errors.Is(err, catalog.ErrConflict) {
		t.Errorf("Put that was beaten: %v", err)
	}
}

// TestSleeperAcquires: who sleeps between its look at a lease and its creation doesn't get a token that was used and
// cleaned up meanwhile.
func TestSleeperAcquires(t *testing.T) {
	for _, held := range []bool{false, true} {
		m := memstore.New(nil)
		clock := catalogtest.NewClock()
		calm := newCatalog(t, m, clock.Now)
		var last catalog.Lease
		hooked := &hookedStore{Store: m, before: func(key string) {
			if key != "_leases/x/0000000000000001.json" {
				t.Fatalf("the sleeper creates %s", key)
			}
			for i := range 3 {
				lease, err := calm.Acquire(t.Context(), "x", time.Minute)
				if err != nil {
					t.Fatal(err)
				}
				if last = lease; !held || i < 2 {
					if err := lease.Release(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			}
		}}
		lease, err := newCatalog(t, hooked, clock.Now).Acquire(t.Context(), "x", time.Minute)
		switch {
		case held && (!errors.Is(err, catalog.ErrHeld) || last.Renew(t.Context()) != nil):
			t.Errorf("the sleeper gets %v, %v, while another holds the lease", lease, err)
		case !held && (err != nil || lease.Token() != 4):
			t.Errorf("the sleeper gets %v, %v, after three others", lease, err)
		}
		want := "_leases/x/0000000000000004.json"
		if held {
			want = "_leases/x/0000000000000003.json"
		}
		if got := keys(t, m); !slices.Equal(got, []string{want}) {
			t.Errorf("there are %q, want %s", got, want)
		}
	}
}

// TestSleeperRenews: a renewal that takes until after the lease's end, so that another could have taken it, is none.
func TestSleeperRenews(t *testing.T) {
	for _, taken := range []bool{false, true} {
		m := memstore.New(nil)
		clock := catalogtest.NewClock()
		hooked := &hookedStore{Store: m}
		lease, err := newCatalog(t, hooked, clock.Now).Acquire(t.Context(), "x", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		var other catalog.Lease
		hooked.before = func(string) {
			clock.Advance(2 * time.Minute)
			if taken {
				if other, err = newCatalog(t, m, clock.Now).Acquire(t.Context(), "x", time.Minute); err != nil {
					t.Fatal(err)
				}
			}
		}
		for range 2 {
			if err := lease.Renew(t.Context()); !errors.Is(err, catalog.ErrLeaseLost) {
				t.Errorf("Renew that took too long: %v", err)
			}
		}
		if taken {
			if err := other.Renew(t.Context()); err != nil {
				t.Errorf("Renew of the holder: %v", err)
			}
		}
	}
}

// TestEqualWriters: of two that put the very same manifest at a revision, of whom one loses the answer, both may be told that they won. They have
// the same revision then, and of what they put next one wins.
func TestEqualWriters(t *testing.T) {
	m := memstore.New(nil)
	calm := newCatalog(t, m, nil)
	b := backup(1, catalog.StateRunning)
	rev := mustPut(t, calm, b, "")
	dead := as(b, catalog.StateInterrupted)
	var other catalog.Revision
	asked := &askedStore{Store: m, before: func() { other = mustPut(t, newCatalog(t, m, nil), dead, rev) }}
	lost := storetest.NewFaulty(asked, storetest.Fault{Op: storetest.OpCommit, Call: 1, Err: storage.ErrTransient})
	mine, err := newCatalog(t, retry.New(lost, &retry.Options{Wait: time.Millisecond}), nil).Put(t.Context(), dead, rev)
	if err != nil || mine != other || lost.Fired() != 1 {
		t.Fatalf("Put of what is there already, as an answer was lost: %s, %v; the other has %s", mine, err, other)
	}
	if got, now, err := calm.Get(t.Context(), b.ID); err != nil || now != mine || !reflect.DeepEqual(got, dead) {
		t.Errorf("Get: %+v, %s, %v", got, now, err)
	}
	mustPut(t, calm, as(b, catalog.StateFailed), mine)
	if _, err := newCatalog(t, m, nil).Put(t.Context(), as(b, catalog.StateDeleting), other); !errors.Is(err, catalog.ErrConflict) {
		t.Errorf("Put of the other one afterwards: %v", err)
	}
}

// An askedStore calls before ahead of its first Stat.
type askedStore struct {
	*memstore.Store
	before func()
}

func (a *askedStore) Stat(ctx context.Context, key string) (storage.Info, error) {
	if f := a.before; f != nil {
		a.before = nil
		f()
	}
	return a.Store.Stat(ctx, key)
}
