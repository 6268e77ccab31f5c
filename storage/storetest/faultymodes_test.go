package storetest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/storetest"
)

// put makes an object, a thousand bytes at a time, and returns the errors of Write and Commit.
func put(ctx context.Context, s storage.Store, key string, data []byte) (n int, werr, cerr error) {
	w, err := s.Create(ctx, key, nil)
	if err != nil {
		return 0, err, err
	}
	defer w.Abort()
	for piece := range slices.Chunk(data, 1000) {
		k, err := w.Write(piece)
		if n += k; err != nil {
			_, cerr = w.Commit(ctx)
			return n, err, cerr
		}
	}
	_, cerr = w.Commit(ctx)
	return n, nil, cerr
}

func get(ctx context.Context, s storage.Store, key string) ([]byte, error) {
	r, err := s.Open(ctx, key, 0, -1)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func fired(t *testing.T, s *storetest.Faulty, want int) {
	t.Helper()
	if s.Fired() != want {
		t.Errorf("%d faults fired, want %d", s.Fired(), want)
	}
}

func TestFaultyShortWrite(t *testing.T) {
	for want, own := range map[error]error{io.ErrShortWrite: nil, storage.ErrTransient: storage.ErrTransient} {
		m := memstore.New(nil)
		s := storetest.NewFaulty(m, storetest.Fault{Op: storetest.OpWrite, Call: 2, Mode: storetest.ShortWrite, Err: own})
		n, werr, cerr := put(t.Context(), s, "x", make([]byte, 3000))
		if n != 1500 || !errors.Is(werr, want) || !errors.Is(cerr, want) {
			t.Errorf("%d bytes were written, Write: %v, Commit: %v; want 1500, %v", n, werr, cerr, want)
		}
		if _, err := m.Stat(t.Context(), "x"); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("after a Commit that failed: %v", err)
		}
		fired(t, s, 1)
	}
}

// TestFaultySilent: what is wrong with the bytes and is not told.
func TestFaultySilent(t *testing.T) {
	ctx, data := t.Context(), bytes.Repeat([]byte("0123456789"), 300)
	flipped := bytes.Clone(data)
	flipped[1500] ^= 1
	firstRead := bytes.Clone(data)
	firstRead[256] ^= 1 // io.ReadAll begins with 512 bytes
	for _, c := range []struct {
		op            storetest.Op
		mode          storetest.Mode
		call          int
		kept, readout []byte
	}{
		{storetest.OpWrite, storetest.Flip, 2, flipped, flipped},
		{storetest.OpWrite, storetest.Cut, 2, slices.Concat(data[:1000], data[2000:]), slices.Concat(data[:1000], data[2000:])},
		{storetest.OpRead, storetest.Flip, 1, data, firstRead},
		{storetest.OpRead, storetest.Cut, 2, data, data[:512]},
	} {
		m := memstore.New(nil)
		s := storetest.NewFaulty(m, storetest.Fault{Op: c.op, Call: c.call, Mode: c.mode})
		if n, werr, cerr := put(ctx, s, "x", data); n != len(data) || werr != nil || cerr != nil {
			t.Errorf("%s %v: %d bytes were written, Write: %v, Commit: %v", c.op, c.mode, n, werr, cerr)
		}
		if kept, err := get(ctx, m, "x"); err != nil || !bytes.Equal(kept, c.kept) {
			t.Errorf("%s %v: the store keeps %d bytes, %v, not those it should", c.op, c.mode, len(kept), err)
		}
		if got, err := get(ctx, s, "x"); err != nil || !bytes.Equal(got, c.readout) {
			t.Errorf("%s %v: %d bytes are read, %v, not those that should be", c.op, c.mode, len(got), err)
		}
		fired(t, s, 1)
		if again, err := get(ctx, s, "x"); err != nil || !bytes.Equal(again, c.kept) {
			t.Errorf("%s %v: %d bytes are read the second time, %v", c.op, c.mode, len(again), err)
		}
	}
	// Where there are no bytes nothing is flipped.
	s := storetest.NewFaulty(memstore.New(nil), storetest.Fault{Op: storetest.OpWrite, Mode: storetest.Flip}, storetest.Fault{Op: storetest.OpRead, Mode: storetest.Flip})
	if err := storage.WriteFile(ctx, s, "empty", nil, nil); err != nil {
		t.Error(err)
	}
	if got, err := get(ctx, s, "empty"); err != nil || len(got) != 0 {
		t.Errorf("an empty object reads %q, %v", got, err)
	}
}

func TestFaultyStall(t *testing.T) {
	s := storetest.NewFaulty(memstore.New(nil), storetest.Fault{Op: storetest.OpCommit, Call: 1, Mode: storetest.Stall, For: 30 * time.Millisecond},
		storetest.Fault{Op: storetest.OpStat, Mode: storetest.Stall, For: time.Hour})
	start := time.Now()
	if err := storage.WriteFile(t.Context(), s, "x", []byte("data"), nil); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took < 30*time.Millisecond {
		t.Errorf("a Commit that stalls for 30 ms took %v", took)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := s.Stat(ctx, "x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a Stat that stalls for longer than its context lasts: %v", err)
	}
	fired(t, s, 2)
}

func TestFaultyListings(t *testing.T) {
	ctx, own := t.Context(), errors.New("an error of the test's own")
	for _, c := range []struct {
		mode   storetest.Mode
		prefix string
		want   []string
		err    error
	}{
		{storetest.Unseen, "", []string{"a/1", "a/2", "a/3"}, nil},
		{storetest.Unseen, "a/", []string{"a/2", "a/3"}, nil},
		{storetest.Undead, "", []string{"a/0", "a/1", "a/2", "a/3", "b"}, nil},
		{storetest.Undead, "a/1", []string{"a/1"}, nil},
		{storetest.Doubled, "a/", []string{"a/1", "a/1", "a/2", "a/2", "a/3", "a/3"}, nil},
		{storetest.Midway, "", []string{"a/1", "a/2"}, own},
	} {
		m := memstore.New(nil)
		s := storetest.NewFaulty(m, storetest.Fault{Op: storetest.OpList, Call: 2, Mode: c.mode, Err: own})
		for _, key := range []string{"a/3", "a/0", "a/2", "a/1", "b"} { // of those below a/, a/1 comes last
			if err := storage.WriteFile(ctx, s, key, []byte(key), nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Delete(ctx, "a/0"); err != nil {
			t.Fatal(err)
		}
		for round := range 3 {
			want, wantErr := c.want, c.err
			if round != 1 {
				want, wantErr = nil, nil
				for info := range m.List(ctx, c.prefix) {
					want = append(want, info.Key)
				}
			}
			var got []string
			var last error
			for info, err := range s.List(ctx, c.prefix) {
				if last = err; err == nil {
					got = append(got, info.Key)
					if info.Size != int64(len(info.Key)) {
						t.Errorf("mode %v: %s is said to have %d bytes", c.mode, info.Key, info.Size)
					}
				}
			}
			if !slices.Equal(got, want) || !errors.Is(last, wantErr) {
				t.Errorf("mode %v, %q, listing %d: %q, %v; want %q, %v", c.mode, c.prefix, round+1, got, last, want, wantErr)
			}
		}
		fired(t, s, 1)
	}
}

// TestFaultyMisplaced: a fault that a call can't meet never fires.
func TestFaultyMisplaced(t *testing.T) {
	for _, fault := range []storetest.Fault{
		{Op: storetest.OpStat, Mode: storetest.Flip}, {Op: storetest.OpRead, Mode: storetest.ShortWrite}, {Op: storetest.OpWrite, Mode: storetest.Midway},
		{Op: storetest.OpList, Mode: storetest.Cut}, {Op: storetest.OpDelete, Mode: storetest.Undead},
	} {
		s := storetest.NewFaulty(memstore.New(nil), fault)
		if _, _, err := put(t.Context(), s, "x", []byte("data")); err != nil {
			t.Error(err)
		}
		if got, err := get(t.Context(), s, "x"); err != nil || string(got) != "data" {
			t.Errorf("%q, %v", got, err)
		}
		if _, err := s.Stat(t.Context(), "x"); err != nil {
			t.Error(err)
		}
		for _, err := range s.List(t.Context(), "") {
			if err != nil {
				t.Error(err)
			}
		}
		if err := s.Delete(t.Context(), "x"); err != nil {
			t.Error(err)
		}
		fired(t, s, 0)
	}
}

// TestFaultyFromThenOn: a store that fails from some call on, and tells which.
func TestFaultyFromThenOn(t *testing.T) {
	s := storetest.NewFaulty(memstore.New(nil), storetest.Fault{Op: storetest.OpStat, Call: 2, On: true})
	for i, key := range []string{"a", "b", "c"} {
		if _, err := s.Stat(t.Context(), key); errors.Is(err, storetest.ErrInjected) != (i > 0) {
			t.Errorf("Stat %d: %v", i+1, err)
		}
	}
	if got := s.Hits(); !slices.Equal(got, []string{"stat b", "stat c"}) {
		t.Errorf("hits: %q", got)
	}
}
