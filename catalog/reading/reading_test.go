package reading_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/reading"
	"github.com/amberkv/amber/catalog/storecatalog"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/storetest"
)

// scene is a backup that is read through a store that may fail or stand still, and somebody else who looks at it.
type scene struct {
	t     *testing.T
	b     *catalog.Backup
	rev   catalog.Revision
	mem   *memstore.Store
	other *storecatalog.Catalog
	guard reading.Guard
	log   *bytes.Buffer
	gate  *gate
}

// A gate is a store whose calls stand still while it is shut, as those of a process that is paused.
type gate struct {
	storage.Store
	mu   sync.Mutex
	shut chan struct{}
}

func (g *gate) pause(d time.Duration) {
	g.mu.Lock()
	g.shut = make(chan struct{})
	g.mu.Unlock()
	time.Sleep(d)
	g.mu.Lock()
	close(g.shut)
	g.shut = nil
	g.mu.Unlock()
}

func (g *gate) wait() {
	g.mu.Lock()
	shut := g.shut
	g.mu.Unlock()
	if shut != nil {
		<-shut
	}
}

func (g *gate) Stat(ctx context.Context, key string) (storage.Info, error) {
	g.wait()
	return g.Store.Stat(ctx, key)
}

func newScene(t *testing.T, faults ...storetest.Fault) *scene {
	t.Helper()
	s := &scene{t: t, mem: memstore.New(nil), log: &bytes.Buffer{}}
	s.other = s.catalog(s.mem, "somebody else")
	began := time.Now()
	s.b = &catalog.Backup{Format: catalog.Format, ID: catalog.NewID(began), DataStore: "orders", Kind: catalog.KindManual, State: catalog.StateReady, CreatedAt: began}
	sum := strings.Repeat("0123456789abcdef", 4)
	s.b.Parts = []catalog.Part{{Name: "part-0000.rdb", Key: s.b.Prefix() + "part-0000.rdb", Dialect: "redis:12", Compression: "none", SHA256: sum, RawSHA256: sum}}
	var err error
	if s.rev, err = s.other.Put(t.Context(), s.b, ""); err != nil {
		t.Fatal(err)
	}
	s.gate = &gate{Store: storetest.NewFaulty(s.mem, faults...)}
	c := s.catalog(s.gate, "the reader")
	s.guard = reading.Guard{Catalog: c, Leaser: c, TTL: time.Minute, Logger: slog.New(slog.NewTextHandler(s.log, nil))}
	return s
}

func (s *scene) catalog(store storage.Store, owner string) *storecatalog.Catalog {
	s.t.Helper()
	c, err := storecatalog.New(storecatalog.Config{Store: store, Owner: owner})
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// readers checks how many others see reading.
func (s *scene) readers(when string, want int) {
	s.t.Helper()
	held, err := s.other.Sharers(s.t.Context(), catalog.ReadLease(s.b.ID))
	if err != nil || len(held) != want || want > 0 && held[0].Owner != "the reader" {
		s.t.Errorf("%s Sharers gives %+v, %v, want %d", when, held, err, want)
	}
}

// delete does what who deletes does first.
func (s *scene) delete() {
	s.t.Helper()
	s.b.State = catalog.StateDeleting
	if _, err := s.other.Put(s.t.Context(), s.b, s.rev); err != nil {
		s.t.Fatal(err)
	}
}

// warnings counts what was logged.
func (s *scene) warnings(text string) int {
	synctest.Wait()
	return strings.Count(s.log.String(), text)
}

const withoutLease = "nobody is kept from deleting it"

// TestHold: the lease is there before Hold returns, for as long as the reading takes, and not a moment longer.
func TestHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		held, end := s.guard.Hold(t.Context(), s.b.ID)
		for range 20 {
			s.readers("while it is read", 1)
			time.Sleep(time.Minute / 2)
		}
		if held.Err() != nil {
			t.Errorf("the reading has ended: %v", context.Cause(held))
		}
		if err := end(nil); err != nil {
			t.Error(err)
		}
		s.readers("after the end", 0)
		if held.Err() == nil {
			t.Error("the context goes on after the end")
		}
		if s.log.Len() > 0 {
			t.Errorf("logged: %s", s.log)
		}
		broken := errors.New("broken")
		_, end = s.guard.Hold(t.Context(), s.b.ID)
		if err := end(broken); err != broken {
			t.Errorf("an error becomes %v", err)
		}
	})
}

// TestOverslept: a reader that was paused for longer than its lease lasts goes on with a new one if the backup is ready still, and ends if it isn't.
func TestOverslept(t *testing.T) {
	for _, deleted := range []string{"", "marked", "gone"} {
		synctest.Test(t, func(t *testing.T) {
			s := newScene(t)
			held, end := s.guard.Hold(t.Context(), s.b.ID)
			go func() {
				time.Sleep(90 * time.Second)
				s.readers("after the pause was longer than the lease,", 0)
				if deleted != "" {
					s.delete()
				}
				if deleted == "gone" {
					_, rev, err := s.other.Get(t.Context(), s.b.ID)
					if err == nil {
						err = s.other.Delete(t.Context(), s.b.ID, rev)
					}
					if err != nil {
						t.Error(err)
					}
				}
			}()
			s.gate.pause(2 * time.Minute)
			time.Sleep(10 * time.Second)
			broken := errors.New("the part is missing")
			if deleted == "" {
				s.readers("after the pause", 1)
				if err := end(nil); err != nil || context.Cause(held) != context.Canceled {
					t.Errorf("a reader that has slept, of a backup that is there: %v, %v", err, context.Cause(held))
				}
				if s.warnings("lease of a backup was lost") != 1 {
					t.Errorf("logged: %s", s.log)
				}
				return
			}
			if !errors.Is(context.Cause(held), reading.ErrDeleted) {
				t.Errorf("%s: the context of a reader that has slept: %v", deleted, context.Cause(held))
			}
			if err := end(broken); !errors.Is(err, reading.ErrDeleted) || !errors.Is(err, broken) || !strings.Contains(err.Error(), string(s.b.ID)) {
				t.Errorf("%s: %v", deleted, err)
			}
			s.readers("after the end", 0)
		})
	}
}

// TestDeletedEnds: what is said of a reading that was ended because the backup is gone; who was through already is through.
func TestDeletedEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, err := range []error{nil, context.Canceled} {
			s := newScene(t, storetest.Fault{Op: storetest.OpCreate, Key: "_leases"})
			_, end := s.guard.Hold(t.Context(), s.b.ID)
			s.delete()
			time.Sleep(time.Minute)
			switch got := end(err); {
			case err == nil && got != nil:
				t.Errorf("a reading that was through ends with %v", got)
			case err != nil && (!errors.Is(got, reading.ErrDeleted) || errors.Is(got, context.Canceled)):
				t.Errorf("a reading that was ended says %v", got)
			}
		}
	})
}

// TestNoLease: what can't be leased is read all the same, and that is told once; a lease that can be had later is taken.
func TestNoLease(t *testing.T) {
	denied := errors.New("access denied")
	for name, test := range map[string]struct {
		fault  storetest.Fault
		within time.Duration
		later  int
	}{
		"denied":       {storetest.Fault{Op: storetest.OpCreate, Key: "_leases", Err: denied}, time.Second, 0},
		"hangs":        {storetest.Fault{Op: storetest.OpCommit, Key: "_leases", Mode: storetest.Hang}, 11 * time.Second, 0},
		"for a moment": {storetest.Fault{Op: storetest.OpCreate, Key: "_leases", Call: 1}, time.Second, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, test.fault)
				start := time.Now()
				held, end := s.guard.Hold(t.Context(), s.b.ID)
				if took := time.Since(start); took > test.within {
					t.Errorf("Hold took %v", took)
				}
				s.readers("at first", 0)
				time.Sleep(10 * time.Minute)
				s.readers("later", test.later)
				if held.Err() != nil || s.warnings(withoutLease) != 1 {
					t.Errorf("the context says %v, logged: %s", held.Err(), s.log)
				}
				start = time.Now()
				if err := end(nil); err != nil || time.Since(start) > time.Second {
					t.Errorf("end: %v, after %v", err, time.Since(start))
				}
				s.readers("after the end", 0)
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		c := s.guard.Leaser
		s.guard.Leaser = struct{ catalog.Leaser }{c} // which is no Sharer
		_, end := s.guard.Hold(t.Context(), s.b.ID)
		if err := end(nil); err != nil || s.warnings(withoutLease) != 1 {
			t.Errorf("without shared leases: %v, logged: %s", err, s.log)
		}
		s.guard.Leaser = nil
		_, end = s.guard.Hold(t.Context(), s.b.ID)
		if err := end(nil); err != nil || s.warnings(withoutLease) != 1 {
			t.Errorf("without a leaser: %v, logged: %s", err, s.log)
		}
		s.readers("without any lease", 0)
	})
}

// TestCancelled: with its caller's context a reading ends, and gives its lease back within a second, whatever the store does.
func TestCancelled(t *testing.T) {
	for name, faults := range map[string][]storetest.Fault{
		"well":        nil,
		"hangs later": {{Op: storetest.OpDelete, Mode: storetest.Hang}},
		"renewing":    {{Op: storetest.OpStat, Mode: storetest.Hang, Key: "_leases"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, faults...)
				ctx, cancel := context.WithCancel(t.Context())
				held, end := s.guard.Hold(ctx, s.b.ID)
				time.Sleep(25 * time.Second) // a renewal is under way
				cancel()
				start := time.Now()
				if !errors.Is(held.Err(), context.Canceled) {
					t.Error("the reading goes on")
				}
				if err := end(held.Err()); err != context.Canceled || time.Since(start) > time.Second {
					t.Errorf("end: %v, after %v", err, time.Since(start))
				}
				want := 0
				if name == "hangs later" {
					want = 1 // until it ends by itself
				}
				s.readers("after the end", want)
				time.Sleep(time.Minute + 5*time.Second)
				s.readers("after its time", 0)
			})
		})
	}
}

// TestUnreachable: a store that can't be reached for a while doesn't end a reading, neither before the lease is lost nor after.
func TestUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, storetest.Fault{Op: storetest.OpStat, Key: "_leases", Call: 1}, storetest.Fault{Op: storetest.OpStat, Key: "_leases", Call: 3, On: true})
		held, end := s.guard.Hold(t.Context(), s.b.ID)
		time.Sleep(time.Second) // nothing is renewed at the moment when it is looked at
		for range 10 {
			time.Sleep(20 * time.Second)
			if held.Err() != nil {
				t.Fatalf("the reading has ended: %v", context.Cause(held))
			}
		}
		if s.warnings("lease of a backup was lost") == 0 {
			t.Errorf("the lease that could not be renewed wasn't given up: %s", s.log)
		}
		s.readers("with a new lease", 1)
		if err := end(nil); err != nil {
			t.Error(err)
		}
	})
}

// Whoever still waits for a reading waits until its lease is given back, however slow the store is; who has gone isn't held up.
func TestEndOnASlowDisk(t *testing.T) {
	for _, goes := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := newScene(t, storetest.Fault{Op: storetest.OpDelete, Key: "_leases", Call: 1, Mode: storetest.Stall, For: 3 * time.Second})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			_, end := s.guard.Hold(ctx, s.b.ID)
			s.readers("during it", 1)
			want := 3 * time.Second
			if goes {
				cancel()
				want = 500 * time.Millisecond
			}
			start := time.Now()
			if err := end(nil); err != nil || time.Since(start) != want {
				t.Errorf("the caller goes: %v; end: %v after %v, want %v", goes, err, time.Since(start), want)
			}
			s.readers("after it", map[bool]int{false: 0, true: 1}[goes])
		})
	}
}
