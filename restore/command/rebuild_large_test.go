package command

import (
	"crypto/sha256"
	"fmt"
	"io"
	"iter"
	"runtime"
	"testing"
	"time"

	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/rdb"
)

// peakOf returns by how much the heap grew at most while f ran, seen each time that b emitted something: after a collection of garbage, now and then.
func peakOf(t testing.TB, f func(), b *rebuilder) uint64 {
	t.Helper()
	made.Clear() // the more there is, the longer garbage stays
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	before, peak := m.HeapAlloc, m.HeapAlloc
	emit, calls := b.emit, 0
	b.emit = func(p []byte) error {
		if calls++; calls%64 == 0 {
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapAlloc)
		}
		return emit(p)
	}
	f()
	b.emit = emit
	return peak - before
}

// pieces gives a value of size bytes in pieces, as a reader does.
func pieces(kind rdb.ElementKind, size int64) iter.Seq2[*rdb.Element, error] {
	return func(yield func(*rdb.Element, error) bool) {
		e := &rdb.Element{Kind: kind, Field: []byte("field")}
		for left := size; ; {
			n := min(left, int64(len(filler)))
			left -= n
			e.Value, e.Left, e.More = filler[:n], left, left > 0
			if !yield(e, nil) || left == 0 {
				return
			}
		}
	}
}

var filler = func() []byte {
	b := make([]byte, 64<<10)
	for i := range b {
		b[i] = byte(i * i >> 3)
	}
	return b
}()

// fillerSum is the hash of what pieces gives.
func fillerSum(size int64) string {
	h := sha256.New()
	for e := range pieces(rdb.ElementBytes, size) {
		h.Write(e.Value)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// many gives n elements that set makes.
func many(n int, set func(e *rdb.Element, i int, text []byte) []byte) iter.Seq2[*rdb.Element, error] {
	return func(yield func(*rdb.Element, error) bool) {
		var e rdb.Element
		var text []byte
		for i := range n {
			e = rdb.Element{}
			text = set(&e, i, text[:0])
			if !yield(&e, nil) {
				return
			}
		}
	}
}

func members(n int) iter.Seq2[*rdb.Element, error] {
	return many(n, func(e *rdb.Element, i int, text []byte) []byte {
		text = appendInt(append(text, "member:"...), int64(i))
		e.Value, e.Score = text, float64(i)*1.25
		return text
	})
}

func expiring(n int, at int64) iter.Seq2[*rdb.Element, error] {
	return many(n, func(e *rdb.Element, i int, text []byte) []byte {
		text = appendInt(append(text, "field:"...), int64(i))
		e.Field, e.Value = text, text
		if i%3 == 0 && at > 0 {
			e.ExpireAt = at + int64(i%1000)
		}
		return text
	})
}

// TestLargeValuesTakeLittleMemory makes values of a million elements, and of almost a hundred megabytes, at real servers: each at one of them, and smaller
// ones at the others; with CAMPAIGN=1 all at all.
func TestLargeValuesTakeLittleMemory(t *testing.T) {
	soon := time.Now().Add(time.Hour).UnixMilli()
	for i, version := range testserver.All() {
		g := aim(t, version, "--proto-max-bulk-len", "1gb")
		size := int64(20 << 20)
		if i == 0 || campaign() {
			size = 96 << 20
		}
		number := func(turn string) int {
			if g.caps.hpexpireat && (version == turn || campaign()) {
				return 1_000_000
			}
			return 100_000
		}
		n, m := number("valkey-9.1"), number("redis-8.0")
		count := func(command string) int64 {
			got, err := g.c.Do(t.Context(), command, "k").Int64()
			if err != nil {
				t.Fatal(err)
			}
			return got
		}
		for _, v := range []struct {
			name    string
			typ     rdb.Type
			all     iter.Seq2[*rdb.Element, error]
			command string
			want    int64
			most    uint64
		}{
			{"zset", rdb.TypeZSet, members(n), "ZCARD", int64(n), 1 << 20},
			{"set", rdb.TypeSet, members(m), "SCARD", int64(m), 1 << 20},
			{"list", rdb.TypeList, members(n), "LLEN", int64(n), 1 << 20},
			{"hash with expiry", rdb.TypeHash, expiring(m, soon), "HLEN", int64(m), 1 << 20},
			{"string", rdb.TypeString, pieces(rdb.ElementBytes, size), "STRLEN", size, 4 << 20},
		} {
			g.c.Del(t.Context(), "k")
			g.longest = 0
			start := time.Now()
			peak := peakOf(t, func() {
				if err := g.make(v.typ, v.all); err != nil {
					t.Fatalf("%s, %s: %v", version, v.name, err)
				}
			}, g.b)
			t.Logf("%s: %s in %v: %d commands, at most %d bytes at once, %d of heap", version, v.name, time.Since(start).Round(time.Millisecond), g.b.commands, g.longest, peak)
			if got := count(v.command); got != v.want {
				t.Errorf("%s: %s has %d, want %d", version, v.name, got, v.want)
			}
			// The readers of the replies, in the test, take some, too, and more when the machine is busy.
			if peak > v.most+12<<20 || g.longest > 3<<19 {
				t.Errorf("%s: %s took %d bytes of heap, and was emitted in up to %d at once", version, v.name, peak, g.longest)
			}
			if v.typ == rdb.TypeString {
				if got := sumOf(t, g, size); got != fillerSum(size) {
					t.Errorf("%s: the string is another", version)
				}
			}
		}
		g.s.Kill()
	}
}

// sumOf reads a string in pieces.
func sumOf(t *testing.T, g *target, size int64) string {
	h := sha256.New()
	for from := int64(0); from < size; from += 1 << 20 {
		s, err := g.c.GetRange(t.Context(), "k", from, from+1<<20-1).Result()
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(h, s)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// TestLongItemsAreOneArgument makes lists and hashes with elements that come in pieces.
func TestLongItemsAreOneArgument(t *testing.T) {
	sizes := []int64{0, 1, 65535, 65536, 65537, 1 << 20, 5<<20 + 3, 10}
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			g := aim(t, version)
			items := func(yield func(*rdb.Element, error) bool) {
				for i, size := range sizes {
					for e := range pieces(rdb.ElementItem, size) {
						e.Field = fmt.Append(nil, "f", i)
						if !yield(e, nil) {
							return
						}
					}
				}
			}
			if err := g.make(rdb.TypeList, items); err != nil {
				t.Fatal(err)
			}
			list, err := g.c.LRange(t.Context(), "k", 0, -1).Result()
			if err != nil || len(list) != len(sizes) {
				t.Fatalf("%d items (%v)", len(list), err)
			}
			g.c.Del(t.Context(), "k")
			if err := g.make(rdb.TypeHash, items); err != nil {
				t.Fatal(err)
			}
			hash, err := g.c.HGetAll(t.Context(), "k").Result()
			if err != nil {
				t.Fatal(err)
			}
			for i, size := range sizes {
				want := fillerSum(size)
				if got := fmt.Sprintf("%x", sha256.Sum256([]byte(list[i]))); got != want {
					t.Errorf("item %d has %d bytes, want %d", i, len(list[i]), size)
				}
				if got := fmt.Sprintf("%x", sha256.Sum256([]byte(hash[fmt.Sprint("f", i)]))); got != want {
					t.Errorf("field %d has %d bytes, want %d", i, len(hash[fmt.Sprint("f", i)]), size)
				}
			}
			if cap(g.b.buf) > keepBytes {
				t.Errorf("a buffer of %d bytes is kept", cap(g.b.buf))
			}
		})
	}
}

// benchValues are values of n elements.
func benchValues(n int) map[string]struct {
	typ rdb.Type
	all iter.Seq2[*rdb.Element, error]
} {
	const soon = 1 << 42
	entries := func(yield func(*rdb.Element, error) bool) {
		e := rdb.Element{Kind: rdb.ElementEntry, Fields: [][]byte{[]byte("field"), []byte("value"), []byte("another"), []byte("123456")}}
		for i := range n {
			e.ID = rdb.StreamID{MS: 1_700_000_000_000 + uint64(i)*3, Seq: 0}
			if !yield(&e, nil) {
				return
			}
		}
		yield(&rdb.Element{Kind: rdb.ElementStream, Stream: rdb.StreamInfo{LastID: e.ID}}, nil)
	}
	return map[string]struct {
		typ rdb.Type
		all iter.Seq2[*rdb.Element, error]
	}{
		"List":       {rdb.TypeList, members(n)},
		"Set":        {rdb.TypeSet, members(n)},
		"ZSet":       {rdb.TypeZSet, members(n)},
		"Hash":       {rdb.TypeHash, expiring(n, 0)},
		"HashExpiry": {rdb.TypeHash, expiring(n, soon)},
		"Stream":     {rdb.TypeStream, entries},
		"String":     {rdb.TypeString, pieces(rdb.ElementBytes, int64(n)*100)},
	}
}

func TestElementsTakeNoAllocations(t *testing.T) {
	b := &rebuilder{caps: full, emit: func([]byte) error { return nil }}
	b.caps.hset, b.caps.hpexpireat = true, true
	for name, v := range benchValues(20000) {
		e := entryOf(v.typ)
		key := []byte("key")
		once := func() {
			if _, err := b.value(key, e, v.all); err != nil {
				t.Fatal(err)
			}
		}
		once()
		if n := testing.AllocsPerRun(3, once); n > 20 {
			t.Errorf("%s: %v allocations for 20000 elements", name, n)
		}
	}
}

func BenchmarkRebuild(b *testing.B) {
	const n = 100_000
	for name, v := range benchValues(n) {
		b.Run(name, func(b *testing.B) {
			sent := 0
			r := &rebuilder{caps: full, emit: func(p []byte) error { sent += len(p); return nil }}
			r.caps.hset, r.caps.hpexpireat = true, true
			e := entryOf(v.typ)
			b.ReportAllocs()
			for b.Loop() {
				sent = 0
				if _, err := r.value([]byte("key"), e, v.all); err != nil {
					b.Fatal(err)
				}
			}
			b.SetBytes(int64(sent))
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/element")
		})
	}
}
