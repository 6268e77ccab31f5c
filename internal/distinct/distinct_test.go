package distinct

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// a fileRoom is a room in a file of the test.
func fileRoom(t testing.TB) *Room {
	return &Room{Open: func() (Store, error) {
		f, err := os.Create(filepath.Join(t.TempDir(), "room"))
		if err == nil {
			t.Cleanup(func() { f.Close() })
		}
		return f, err
	}}
}

func number(b []byte, n uint64) []byte { return binary.BigEndian.AppendUint64(b[:0], n) }

// TestDistinct adds different strings, and the same with one of them twice, at all distances that make a difference: found
// by the table, in one run, in two, in the records that are still in memory.
func TestDistinct(t *testing.T) {
	s := New(16<<10, fileRoom(t)) // 1024 records
	var b [8]byte
	for _, n := range []uint64{0, 1, 2, 3, 1000, 1024, 1025, 5000, tableMax, tableMax + 1, 100000} {
		for _, known := range []bool{true, false} {
			expect := int64(-1)
			if known {
				expect = int64(n) + 1
			}
			s.Begin(expect)
			for i := range n {
				if !s.Add(number(b[:], i), int64(i)) {
					t.Fatalf("%d of %d is said to be there twice", i, n)
				}
			}
			if ok, err := s.End(); !ok || err != nil || s.Len() != n {
				t.Fatalf("%d different strings: %v, %v", n, ok, err)
			}
			for range 6 {
				if n < 2 {
					break
				}
				again, at := rand.Uint64N(n-1), uint64(0)
				at = again + 1 + rand.Uint64N(n-again-1)
				if rand.IntN(2) == 0 {
					again, at = n-2-rand.Uint64N(min(n-1, 10)), n-1
				}
				s.Begin(expect)
				said := false
				for i := range n {
					if i == at && !s.Add(number(b[:], again), int64(n)) || !s.Add(number(b[:], i), int64(i)) {
						said = true
						break
					}
				}
				ok, err := s.End()
				first, second := s.Twice()
				if ok || err != nil || second != int64(n) || said != (first == -1) || first != -1 && first != int64(again) {
					t.Fatalf("%d of %d twice, again before %d: %v, %v, at %d and %d, said at once: %v", again, n, at, ok, err, first, second, said)
				}
			}
		}
	}
}

// TestScopes adds the same strings in several scopes.
func TestScopes(t *testing.T) {
	s := New(16<<10, fileRoom(t))
	s.Begin(-1)
	for _, twice := range []bool{false, true} {
		s.Begin(-1)
		for scope := range uint64(5) {
			s.Scope(scope)
			for i := range 20000 {
				if !s.Add(fmt.Append(nil, i), 0) {
					t.Fatalf("%d is said to be twice in scope %d", i, scope)
				}
			}
		}
		if twice {
			s.Scope(3)
			s.Add([]byte("77"), 0)
		}
		if ok, err := s.End(); ok == twice || err != nil {
			t.Fatal(twice, ok, err)
		}
	}
}

// TestNested has one set put its runs on top of another's, value after value.
func TestNested(t *testing.T) {
	room := fileRoom(t)
	lower, upper := New(16<<10, room), New(16<<10, room)
	lower.Begin(-1)
	for i := range 3000 {
		for j := range 30 {
			lower.Add(fmt.Append(nil, "key ", i, " ", j), 0)
		}
		if i%500 != 0 {
			continue
		}
		upper.Begin(-1)
		for j := range 50000 {
			upper.Add(fmt.Append(nil, "member ", j), 0)
		}
		if ok, err := upper.End(); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	if room.top != lower.base+int64(len(lower.runs))*16<<10 {
		t.Errorf("the room is used up to %d, with %d runs", room.top, len(lower.runs))
	}
	if ok, err := lower.End(); !ok || err != nil {
		t.Fatal(ok, err)
	}
}

// TestOverAndOver adds what is nearly always the same: memory must not grow with it.
func TestOverAndOver(t *testing.T) {
	s := New(16<<10, fileRoom(t))
	s.Begin(-1)
	for i := range tableMax + 1 {
		s.Add(fmt.Append(nil, i), 0)
	}
	for range 300000 {
		s.Add([]byte("the same"), 0)
	}
	if ok, err := s.End(); ok || err != nil {
		t.Fatal(ok, err)
	}
	if cap(s.records) > 16<<10 {
		t.Errorf("%d records in memory", cap(s.records))
	}
}

// TestNoRoom fills sets that have no room, or one that fails.
func TestNoRoom(t *testing.T) {
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		room *Room
		want error
	}{
		"none":           {&Room{}, ErrNoRoom},
		"can't be made":  {&Room{Open: func() (Store, error) { return nil, broken }}, broken},
		"can't be used":  {&Room{Open: func() (Store, error) { return badStore{broken, nil}, nil }}, broken},
		"can't be read":  {&Room{Open: func() (Store, error) { return badStore{nil, broken}, nil }}, broken},
		"ends too early": {&Room{Open: func() (Store, error) { return badStore{nil, io.ErrUnexpectedEOF}, nil }}, io.ErrUnexpectedEOF},
	} {
		s := New(16<<10, c.room)
		s.Begin(-1)
		for i := range 100000 {
			s.Add(fmt.Append(nil, i), 0)
		}
		if ok, err := s.End(); !errors.Is(err, c.want) || !ok {
			t.Errorf("%s: %v, %v, want %v", name, ok, err, c.want)
		}
		// What fits is known all the same.
		s.Begin(-1)
		for i := range 1000 {
			s.Add(fmt.Append(nil, i), 0)
		}
		if ok, err := s.End(); !ok || err != nil {
			t.Errorf("%s, few: %v, %v", name, ok, err)
		}
	}
}

type badStore struct{ write, read error }

func (b badStore) WriteAt(p []byte, _ int64) (int, error) { return len(p), b.write }
func (b badStore) ReadAt(p []byte, _ int64) (int, error)  { return 0, b.read }

// TestTooMany adds more than Begin was told: all is to end.
func TestTooMany(t *testing.T) {
	s := New(16<<10, &Room{})
	for _, n := range []int64{0, 1, 5} {
		s.Begin(n)
		for i := range 10000 {
			s.Add(fmt.Append(nil, i), 0)
		}
		s.End()
	}
}

func TestNoAllocations(t *testing.T) {
	s := New(1<<20, &Room{})
	s.Begin(-1)
	var b [8]byte
	i := uint64(0)
	if n := testing.AllocsPerRun(1000, func() {
		s.Begin(100)
		for range 100 {
			i++
			s.Add(number(b[:], i), 0)
		}
		s.End()
	}); n != 0 {
		t.Errorf("%v allocations a set", n)
	}
}

func BenchmarkSmall(b *testing.B) {
	s := New(1<<20, &Room{})
	var p [16]byte
	for i := uint64(0); b.Loop(); {
		s.Begin(16)
		for range 16 {
			i++
			binary.LittleEndian.PutUint64(p[:], i)
			s.Add(p[:], 0)
		}
		s.End()
	}
}

func BenchmarkMillion(b *testing.B) {
	s := New(2<<20, fileRoom(b))
	var p [20]byte
	for b.Loop() {
		s.Begin(-1)
		for i := range uint64(1000000) {
			binary.LittleEndian.PutUint64(p[:], i)
			s.Add(p[:], int64(i))
		}
		if ok, err := s.End(); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}
