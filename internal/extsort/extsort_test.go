package extsort

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
)

// file returns a spool in a file that is gone after the test.
func file(t testing.TB) func() (Spool, error) {
	return func() (Spool, error) { return os.Create(t.TempDir() + "/spool") }
}

type row struct {
	number      uint64
	name, value string
}

// rows returns random rows, of which many share a number, a name, or both. Each value tells the row apart.
func rows(r *rand.Rand, n int, sizes int) []row {
	out := make([]row, n)
	for i := range out {
		name := make([]byte, r.IntN(sizes))
		for j := range name {
			name[j] = "a\\\x00\xff zA~]["[r.IntN(10)]
		}
		value := binary.AppendUvarint(nil, uint64(i))
		out[i] = row{uint64(r.IntN(1 + n/10)), string(name), string(append(value, make([]byte, r.IntN(sizes))...))}
	}
	return out
}

// reversed ranks bytes from the last to the first.
func reversed() *Order {
	var o Order
	for i := range o {
		o[i] = byte(255 - i)
	}
	return &o
}

func sorted(in []row, o *Order) []row {
	rank := func(s string) []byte {
		out := []byte(s)
		if o != nil {
			for i, c := range out {
				out[i] = o[c]
			}
		}
		return out
	}
	out := slices.Clone(in)
	slices.SortStableFunc(out, func(a, b row) int {
		return cmp.Or(cmp.Compare(a.number, b.number), bytes.Compare(rank(a.name), rank(b.name)))
	})
	return out
}

// through sorts rows by a Sorter.
func through(t *testing.T, s *Sorter, in []row) []row {
	t.Helper()
	for i, r := range in {
		value := []byte(r.value)
		if cut := i % (len(value) + 1); i%3 == 0 && s.Free() > len(r.name)+len(value) {
			if err := s.Add(r.number, []byte(r.name), value[:cut]); err != nil {
				t.Fatal(err)
			}
			if err := s.Extend(value[cut:]); err != nil {
				t.Fatal(err)
			}
		} else if err := s.Add(r.number, []byte(r.name), value[:cut], value[cut:]); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Sort(); err != nil {
		t.Fatal(err)
	}
	var out []row
	for {
		number, name, value, err := s.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, row{number, string(name), string(value)})
	}
}

func compareRows(t *testing.T, want, got []row) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d rows came back, want %d", len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("row %d is %d %.80q %.80q, want %d %.80q %.80q", i, got[i].number, got[i].name, got[i].value, want[i].number, want[i].name, want[i].value)
		}
	}
}

// TestAgainstSlices compares with the sort of the standard library, in memory and through one or many passes of merging.
func TestAgainstSlices(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, limit := range []int{1, 300, 5000, 200_000, 64 << 20} {
		for _, order := range []*Order{nil, reversed()} {
			space := NewSpace(file(t))
			s := New(limit, order, space)
			for _, n := range []int{0, 1, 2, 3, 17, 300, 3000} {
				for _, sizes := range []int{1, 5, 200} {
					in := rows(r, n, sizes)
					if limit == 1 {
						in = in[:min(len(in), 150)]
					}
					compareRows(t, sorted(in, order), through(t, s, in))
					switch spooled := space.end > 0; {
					case spooled && limit == 64<<20:
						t.Errorf("%d rows went to the spool under a limit of %d bytes", n, limit)
					case !spooled && n == 3000 && limit <= 5000:
						t.Errorf("%d rows did not go to the spool under a limit of %d bytes", n, limit)
					}
					// What came in order, or in reverse, takes its own way.
					for _, again := range [][]row{sorted(in, order), reverse(sorted(in, order))} {
						s.Reset(s.order)
						compareRows(t, sorted(again, order), through(t, s, again))
					}
					s.Reset(s.order)
					space.Reset()
				}
			}
			if err := space.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

func reverse(in []row) []row {
	out := slices.Clone(in)
	slices.Reverse(out)
	return out
}

// TestHuge sorts a hundred times what a limit allows, with records that are larger than all buffers among them.
func TestHuge(t *testing.T) {
	const limit = 1 << 20
	r := rand.New(rand.NewPCG(3, 4))
	space := NewSpace(file(t))
	defer space.Close()
	s := New(limit, nil, space)
	count, sum := 0, uint64(0)
	big := make([]byte, 300_000)
	var name [12]byte
	for size := 0; size < 100*limit; count++ {
		binary.LittleEndian.PutUint64(name[:], r.Uint64())
		value := big[:r.IntN(40)]
		if count%10_000 == 0 {
			value = big
		}
		if err := s.Add(Float(r.NormFloat64()), name[:], value); err != nil {
			t.Fatal(err)
		}
		sum += binary.LittleEndian.Uint64(name[:]) + uint64(len(value))
		size += headSize + len(name) + len(value)
	}
	if err := s.Sort(); err != nil {
		t.Fatal(err)
	}
	if held := cap(s.data) + cap(s.index)*recordSize; held > 2*limit {
		t.Errorf("a sorter with a limit of %d bytes holds %d", limit, held)
	}
	last := uint64(0)
	for ; ; count-- {
		number, name, value, err := s.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if number < last {
			t.Fatalf("%x comes behind %x", number, last)
		}
		last = number
		sum -= binary.LittleEndian.Uint64(name) + uint64(len(value))
	}
	if count != 0 || sum != 0 {
		t.Errorf("%d records are missing, or have changed (%d)", count, sum)
	}
}

// TestFailures makes each call of a spool fail in turn: the error comes out, and nothing is taken for sorted.
func TestFailures(t *testing.T) {
	broken := errors.New("broken")
	in := rows(rand.New(rand.NewPCG(5, 6)), 3000, 60)
	run := func(failAt int) (calls int, err error) {
		spool := &failing{at: failAt, err: broken}
		space := NewSpace(func() (Spool, error) {
			if spool.fails() {
				return nil, broken
			}
			return spool, nil
		})
		s := New(10_000, nil, space)
		for _, r := range in {
			if err := s.Add(r.number, []byte(r.name), []byte(r.value)); err != nil {
				return spool.calls, err
			}
		}
		if err := s.Sort(); err != nil {
			return spool.calls, err
		}
		for n := 0; ; n++ {
			_, _, _, err := s.Next()
			if err == io.EOF {
				if n != len(in) {
					t.Fatalf("%d of %d records and no error", n, len(in))
				}
				return spool.calls, space.Close()
			}
			if err != nil {
				return spool.calls, err
			}
		}
	}
	calls, err := run(0)
	if err != nil || calls < 100 {
		t.Fatalf("%d calls, %v", calls, err)
	}
	for at := 1; at <= calls; at += 1 + at/20 {
		if _, err := run(at); !errors.Is(err, broken) {
			t.Fatalf("call %d of %d fails: %v", at, calls, err)
		}
	}

	s := New(10_000, nil, NewSpace(nil))
	for _, r := range in {
		if err = s.Add(r.number, []byte(r.name), []byte(r.value)); err != nil {
			break
		}
	}
	if !errors.Is(err, ErrNoSpace) {
		t.Errorf("without a spool: %v", err)
	}
}

// A failing spool is memory whose call of number at fails.
type failing struct {
	b         []byte
	calls, at int
	err       error
}

func (f *failing) fails() bool { f.calls++; return f.calls == f.at }

func (f *failing) WriteAt(p []byte, at int64) (int, error) {
	if f.fails() {
		return 0, f.err
	}
	f.b = append(f.b[:at], p...)
	return len(p), nil
}

func (f *failing) ReadAt(p []byte, at int64) (int, error) {
	if f.fails() {
		return 0, f.err
	}
	return copy(p, f.b[at:]), nil
}

func (f *failing) Close() error {
	if f.fails() {
		return f.err
	}
	return nil
}

func TestOrder(t *testing.T) {
	names := []string{"", "\x00", "a", "a\x00", "ab", "abcdefgh", "abcdefgi", "abcdefgh\x00", "abcdefghi", "\xff", "longer than eight, and the same", "longer than eight, and other"}
	for _, o := range []*Order{nil, reversed()} {
		for _, a := range names {
			for _, b := range names {
				want := slices.Index(sorted([]row{{0, a, ""}, {0, b, ""}}, o), row{0, a, ""})
				if c := o.Compare([]byte(a), []byte(b)); c < 0 != (want == 0 && a != b) || c == 0 != (a == b) {
					t.Errorf("Compare(%q, %q) is %d", a, b, c)
				}
				if pa, pb := o.Prefix([]byte(a)), o.Prefix([]byte(b)); pa < pb && o.Compare([]byte(a), []byte(b)) >= 0 {
					t.Errorf("prefixes %x of %q and %x of %q contradict", pa, a, pb, b)
				}
			}
		}
	}
	floats := []float64{math.Inf(-1), -math.MaxFloat64, -1.5, -1, -math.SmallestNonzeroFloat64, 0, math.SmallestNonzeroFloat64, 1, 1.5, 1e300, math.Inf(1), math.NaN()}
	for i, f := range floats[1:] {
		if Float(floats[i]) >= Float(f) {
			t.Errorf("%v doesn't sort before %v", floats[i], f)
		}
	}
	if Float(math.Copysign(0, -1)) != Float(0) {
		t.Error("negative zero sorts elsewhere than zero")
	}
}

// TestNoAllocations sorts over and over in the memory of the first time.
func TestNoAllocations(t *testing.T) {
	for _, limit := range []int{1 << 20, 3000} {
		space := NewSpace(file(t))
		s := New(limit, reversed(), space)
		name := []byte("name 0000")
		if n := testing.AllocsPerRun(20, func() {
			s.Reset(s.order)
			space.Reset()
			for i := range 200 {
				name[5+i%4] = byte('a' + i%26)
				if err := s.Add(reversed().Prefix(name), name, name[:4], name); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Sort(); err != nil {
				t.Fatal(err)
			}
			for range 200 {
				if _, _, _, err := s.Next(); err != nil {
					t.Fatal(err)
				}
			}
		}); n != 0 {
			t.Errorf("limit %d: %v allocations", limit, n)
		}
		space.Close()
	}
}

func BenchmarkSmall(b *testing.B) {
	s := New(4<<20, reversed(), NewSpace(nil))
	in := rows(rand.New(rand.NewPCG(1, 1)), 16, 20)
	for b.Loop() {
		s.Reset(s.order)
		for _, r := range in {
			if err := s.Add(s.order.Prefix([]byte(r.name)), []byte(r.name)); err != nil {
				b.Fatal(err)
			}
		}
		if err := s.Sort(); err != nil {
			b.Fatal(err)
		}
		for range in {
			if _, _, _, err := s.Next(); err != nil {
				b.Fatal(err)
			}
		}
	}
}
