package storetest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/storetest"
)

func TestFaultyWithoutFaults(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storage.Store { return storetest.NewFaulty(memstore.New(nil)) },
		&storetest.Options{InProcess: true})
}

// TestFaulty makes every call fail in every mode, and looks at the error and the effect.
func TestFaulty(t *testing.T) { synctest.Test(t, faulty) } // where nothing hangs because the machine is busy

func faulty(t *testing.T) {
	ctx := t.Context()
	own := errors.New("an error of the test's own")
	for _, op := range []storetest.Op{
		storetest.OpCreate, storetest.OpWrite, storetest.OpCommit, storetest.OpOpen, storetest.OpRead,
		storetest.OpStat, storetest.OpList, storetest.OpDelete,
	} {
		for _, mode := range []storetest.Mode{storetest.Before, storetest.After, storetest.Hang} {
			m := memstore.New(nil)
			for _, key := range []string{"old", "old-deleted"} {
				if err := storage.WriteFile(ctx, m, key, []byte(key), nil); err != nil {
					t.Fatal(err)
				}
			}
			s := storetest.NewFaulty(m, storetest.Fault{Op: op, Call: 2, Mode: mode, Err: own})
			for round := 1; round <= 2; round++ { // only the second one of each call fails
				timed := func(ops ...storetest.Op) context.Context { // only what hangs has to end some time
					if round == 1 || !slices.Contains(ops, op) {
						return ctx
					}
					timed, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
					t.Cleanup(cancel)
					return timed
				}
				want := own
				if mode == storetest.Hang {
					want = context.DeadlineExceeded
				}
				if round == 1 {
					want = nil
				}
				at := func(o storetest.Op) error {
					if o == op {
						return want
					}
					return nil
				}
				w, err := s.Create(timed(storetest.OpCreate, storetest.OpWrite), "new", nil)
				is(t, op, mode, storetest.OpCreate, err, at(storetest.OpCreate))
				if err == nil {
					_, err = w.Write([]byte("data"))
					is(t, op, mode, storetest.OpWrite, err, at(storetest.OpWrite))
					_, err = w.Commit(timed(storetest.OpCommit))
					if op == storetest.OpWrite {
						is(t, op, mode, storetest.OpCommit, err, want) // of what is not whole
					} else {
						is(t, op, mode, storetest.OpCommit, err, at(storetest.OpCommit))
					}
					if err := w.Abort(); err != nil {
						t.Errorf("%s %v: Abort: %v", op, mode, err)
					}
					committed := err == nil || op == storetest.OpCommit && mode == storetest.After
					if _, err := m.Stat(ctx, "new"); (err == nil) != committed {
						t.Errorf("%s %v: after a Commit the object is there: %v, want %v", op, mode, err == nil, committed)
					}
				}
				r, err := s.Open(timed(storetest.OpOpen, storetest.OpRead), "old", 0, -1)
				is(t, op, mode, storetest.OpOpen, err, at(storetest.OpOpen))
				if err == nil {
					n, err := r.Read(make([]byte, 10))
					is(t, op, mode, storetest.OpRead, err, at(storetest.OpRead))
					if has := err == nil || mode == storetest.After; (n == 3) != has {
						t.Errorf("%s %v: Read gave %d bytes", op, mode, n)
					}
					r.Close()
				}
				_, err = s.Stat(timed(storetest.OpStat), "old")
				is(t, op, mode, storetest.OpStat, err, at(storetest.OpStat))
				n := 0
				for _, err = range s.List(timed(storetest.OpList), "old") {
					if err == nil {
						n++
					}
				}
				is(t, op, mode, storetest.OpList, err, at(storetest.OpList))
				if has := err == nil || mode == storetest.After; (n == 0) == has {
					t.Errorf("%s %v: List gave %d objects", op, mode, n)
				}
				if round == 1 {
					_ = s.Delete(ctx, "nothing")
				} else {
					err = s.Delete(timed(storetest.OpDelete), "old-deleted")
					is(t, op, mode, storetest.OpDelete, err, at(storetest.OpDelete))
					_, stat := m.Stat(ctx, "old-deleted")
					if gone := err == nil || mode == storetest.After; errors.Is(stat, storage.ErrNotFound) != gone {
						t.Errorf("%s %v: after Delete the object is there: %v", op, mode, stat == nil)
					}
				}
				m.Delete(ctx, "new")
			}
			if s.Fired() != 1 || s.Calls(op) < 2 {
				t.Errorf("%s %v: %d faults fired in %d calls, want 1", op, mode, s.Fired(), s.Calls(op))
			}
		}
	}
}

func is(t *testing.T, op storetest.Op, mode storetest.Mode, call storetest.Op, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("with a fault %s %v the error of %s is %v, want %v", op, mode, call, err, want)
	}
}

func TestFaultyNoSpace(t *testing.T) {
	ctx := t.Context()
	for _, at := range []int64{0, 1, 999, 1000, 1001, 2999} {
		m := memstore.New(nil)
		s := storetest.NewFaulty(m, storetest.Fault{Op: storetest.OpWrite, Key: "part", Call: 2, Mode: storetest.NoSpace, Byte: at})
		for round, key := range []string{"part-1", "other", "part-2", "part-3"} {
			w, err := s.Create(ctx, key, nil)
			if err != nil {
				t.Fatal(err)
			}
			written := int64(0)
			for range 3 {
				n, werr := w.Write(make([]byte, 1000))
				written += int64(n)
				if err = werr; err != nil {
					break
				}
			}
			_, cerr := w.Commit(ctx)
			_, stat := m.Stat(ctx, key)
			if round == 2 {
				if !errors.Is(err, syscall.ENOSPC) || !errors.Is(cerr, syscall.ENOSPC) || written != at || !errors.Is(stat, storage.ErrNotFound) {
					t.Errorf("no space at byte %d: %d bytes were written, Write: %v, Commit: %v, Stat: %v", at, written, err, cerr, stat)
				}
			} else if err != nil || cerr != nil || stat != nil {
				t.Errorf("no space at byte %d of another object: Write of %s: %v, Commit: %v, Stat: %v", at, key, err, cerr, stat)
			}
		}
		if s.Fired() != 1 {
			t.Errorf("no space at byte %d: %d faults fired", at, s.Fired())
		}
	}
}

// TestFaultyKeyAndEvery: a fault for every call, but only for some keys, with the default error.
func TestFaultyKeyAndEvery(t *testing.T) {
	ctx := t.Context()
	s := storetest.NewFaulty(memstore.New(nil), storetest.Fault{Op: storetest.OpStat, Key: "manifest"})
	if err := storage.WriteFile(ctx, s, "a/manifest.json", []byte("x"), nil); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := s.Stat(ctx, "a/manifest.json"); !errors.Is(err, storetest.ErrInjected) {
			t.Errorf("Stat: the error is %v, want ErrInjected", err)
		}
		if _, err := s.Stat(ctx, "a/other"); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("Stat of another key: the error is %v, want ErrNotFound", err)
		}
	}
	r, err := s.Open(ctx, "a/manifest.json", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	if data, err := io.ReadAll(r); err != nil || !bytes.Equal(data, []byte("x")) {
		t.Errorf("reading gives %q, %v", data, err)
	}
}
