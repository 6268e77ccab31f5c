package ziplist

import (
	"bytes"
	"encoding/binary"
	"math"
	"strconv"
	"strings"
	"testing"
)

// An entry is what Next gives.
type entry struct {
	s string
	v int64
	n bool // it is a number
}

// walk reads entries up to where there is none, and returns where that is, and where the last one begins.
func walk(b []byte) (all []entry, p, last int) {
	p, last = HeaderSize, HeaderSize
	for prev := uint64(0); ; {
		s, v, next := Next(b, p, prev)
		if next == 0 {
			return all, p, last
		}
		all = append(all, entry{string(s), v, s == nil})
		prev = uint64(next - p)
		last, p = p, next
	}
}

// borders are numbers around which encodings change.
func borders() (all []int64) {
	for _, n := range []int64{0, 12, 13, 1 << 7, 1 << 8, 1 << 15, 1 << 16, 1 << 23, 1 << 24, 1 << 31, 1 << 32, 1 << 62, math.MaxInt64} {
		for d := int64(-2); d <= 2; d++ {
			all = append(all, n+d, -n+d)
		}
	}
	return all
}

var sizes = []int{0, 1, 2, 62, 63, 64, 65, 249, 250, 251, 252, 253, 254, 255, 256, 16382, 16383, 16384, 16385, 1 << 17}

// TestRoundTrip writes every form of entry, behind entries of all lengths, and reads it.
func TestRoundTrip(t *testing.T) {
	var z Builder
	for range 2 { // the second time over what the first one left
		z.Reset()
		var want []entry
		for _, v := range borders() {
			z.AppendInt(v)
			z.AppendString(strconv.AppendInt(nil, v, 10))
			z.AppendBytes(strconv.AppendInt(nil, v, 10))
			want = append(want, entry{v: v, n: true}, entry{v: v, n: true}, entry{s: strconv.FormatInt(v, 10)})
		}
		for _, n := range sizes {
			s := strings.Repeat("s", n)
			z.AppendString([]byte(s))
			z.AppendInt(5)
			want = append(want, entry{s: s}, entry{v: 5, n: true})
		}
		size := z.Len()
		b := z.Bytes()
		total, last, n := Header(b)
		got, p, at := walk(b)
		if total != uint64(len(b)) || size != len(b) || n != len(want) || last != uint64(at) {
			t.Errorf("the header says %d bytes, %d entries, the last at %d; want %d, %d, %d", total, n, last, len(b), len(want), at)
		}
		if p != len(b)-1 || b[p] != EndMark || len(got) != len(want) {
			t.Fatalf("%d entries up to %d of %d, want %d", len(got), p, len(b), len(want))
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("entry %d is %.60v, want %.60v", i, got[i], want[i])
			}
		}
	}
	z.Reset()
	for range Unknown {
		z.AppendInt(0)
	}
	if _, _, n := Header(z.Bytes()); n != Unknown {
		t.Errorf("the header says %d entries, want %d: that they have to be counted", n, Unknown)
	}
}

// TestKnown compares with what Redis 6.2 wrote.
func TestKnown(t *testing.T) {
	for _, c := range []struct {
		entries []string
		want    string
	}{
		{nil, "\x0b\x00\x00\x00\x0a\x00\x00\x00\x00\x00\xff"},
		{[]string{"f", "v"}, "\x11\x00\x00\x00\x0d\x00\x00\x00\x02\x00\x00\x01f\x03\x01v\xff"},
	} {
		var z Builder
		z.Reset()
		for _, e := range c.entries {
			z.AppendString([]byte(e))
		}
		if got := z.Bytes(); string(got) != c.want {
			t.Errorf("%q: %q, want %q", c.entries, got, c.want)
		}
	}
	// What is longer than it needs to be is read too, and the long form of old servers.
	for form, want := range map[string]int64{
		"\x00\xf1": 0, "\x00\xfd": 12, "\x00\xfe\x80": -128, "\x00\xc0\xff\xff": -1, "\x00\xf0\x00\x00\x80": -1 << 23,
		"\x00\xd0\x00\x00\x00\x80": math.MinInt32, "\x00\xe0\x00\x00\x00\x00\x00\x00\x00\x80": math.MinInt64,
		"\xfe\x00\x00\x00\x00\xf2": 1,
	} {
		if s, v, next := Next([]byte(form), 0, 0); s != nil || v != want || next != len(form) {
			t.Errorf("%q: %q %d %d, want %d", form, s, v, next, want)
		}
	}
	for form, want := range map[string]string{
		"\x00\x02hi": "hi", "\x00\x40\x02hi": "hi", "\x00\x80\x00\x00\x00\x02hi": "hi", "\x00\xbf\x00\x00\x00\x02hi": "hi", "\x00\x00": "",
	} {
		if s, _, next := Next([]byte(form), 0, 0); s == nil || string(s) != want || next != len(form) {
			t.Errorf("%q: %q %d, want %q", form, s, next, want)
		}
	}
	for form, prev := range map[string]uint64{
		"\x05\x00": 5, "\xfd\x00": 253, "\xfe\xfd\x00\x00\x00\x00": 253, "\xfe\xfe\x00\x00\x00\x00": 254, "\xfe\xff\x00\x00\x00\x00": 255, "\xfe\xff\xff\xff\xff\x00": math.MaxUint32,
	} {
		if s, _, next := Next([]byte(form), 0, prev); s == nil || next != len(form) {
			t.Errorf("%q behind an entry of %d bytes isn't read", form, prev)
		}
		if _, _, next := Next([]byte(form), 0, prev+1); next != 0 {
			t.Errorf("%q behind an entry of %d bytes is read", form, prev+1)
		}
	}
}

// TestSingle puts a string between AppendSingle and End.
func TestSingle(t *testing.T) {
	for _, n := range sizes {
		b, size := AppendSingle([]byte("before"), uint64(n))
		b = append(append(b, strings.Repeat("s", n)...), End)[len("before"):]
		total, last, count := Header(b)
		got, p, at := walk(b)
		if size != uint64(len(b)) || total != size || count != 1 || last != uint64(at) || p != len(b)-1 || len(got) != 1 || len(got[0].s) != n || got[0].n {
			t.Errorf("%d bytes: %d bytes of %d, %d entries, last at %d; read up to %d", n, total, size, count, last, p)
		}
	}
	if _, size := AppendSingle(nil, MaxSingle); size > math.MaxUint32 {
		t.Errorf("the longest string needs a ziplist of %d bytes", size)
	}
}

// TestWrong has bytes that are no entry.
func TestWrong(t *testing.T) {
	for _, b := range []string{
		"", "\x00", "\xff", "\x01\x00", "\x00\x02h", "\x00\x40", "\x00\x40\x01", "\x00\x80\x00\x00\x00", "\x00\x80\xff\xff\xff\xffx",
		"\x00\xc0\x00", "\x00\xd0\x00\x00\x00", "\x00\xe0\x00\x00\x00\x00\x00\x00\x00", "\x00\xf0\x00\x00", "\x00\xfe", "\x00\xff", "\x00\xc1\x00\x00",
		"\x00\xef", "\xfe\x00\x00\x00", "\xfe\x00\x00\x00\x00", "\xfe\x01\x00\x00\x00\x00",
	} {
		if s, v, next := Next([]byte(b), 0, 0); next != 0 {
			t.Errorf("%q: %q %d, up to %d", b, s, v, next)
		}
	}
	for _, p := range []int{2, 3, math.MaxInt, -1} {
		if _, _, next := Next([]byte("\x00\x00"), p, 0); next != 0 {
			t.Errorf("an entry at %d of 2", p)
		}
	}
}

// TestCut cuts a ziplist at every byte, and changes every bit.
func TestCut(t *testing.T) {
	var z Builder
	z.Reset()
	for _, s := range []string{"", "a", strings.Repeat("x", 70), strings.Repeat("y", 300), "5", "50", "500", "40000", "4000000", "4000000000", "-1"} {
		z.AppendString([]byte(s))
	}
	b := z.Bytes()
	whole, _, _ := walk(b)
	for n := HeaderSize; n < len(b); n++ {
		got, p, _ := walk(b[:n:n])
		if p > n || len(got) > len(whole) {
			t.Fatalf("cut at %d: %d entries up to %d", n, len(got), p)
		}
		for i := range got {
			if got[i] != whole[i] {
				t.Fatalf("cut at %d: entry %d is %v", n, i, got[i])
			}
		}
	}
	for bit := 8 * HeaderSize; bit < 8*len(b); bit++ {
		x := bytes.Clone(b)
		x[bit/8] ^= 1 << (bit % 8)
		same(t, x)
	}
}

// same checks that both ways to read entries see the same.
func same(t *testing.T, b []byte) {
	t.Helper()
	p := HeaderSize
	for prev := uint64(0); p <= len(b); {
		s, v, next := Next(b, p, prev)
		head, size, hv, number, ok := Head(b[min(p, len(b)):], prev)
		whole := ok && size <= uint64(len(b)-p-head)
		if whole != (next > 0) {
			t.Fatalf("%x at %d: Next gives %d, Head %d %d %v", b, p, next, head, size, ok)
		}
		if !whole {
			return
		}
		if next != p+head+int(size) || number != (s == nil) || number && v != hv || !number && uint64(len(s)) != size || next <= p {
			t.Fatalf("%x at %d: Next gives %q %d %d, Head %d %d %d %v", b, p, s, v, next, head, size, hv, number)
		}
		prev = uint64(next - p)
		p = next
	}
}

// FuzzNext reads any bytes in both ways, and writes what it read.
func FuzzNext(f *testing.F) {
	var z Builder
	z.Reset()
	for _, v := range borders() {
		z.AppendInt(v)
	}
	f.Add(bytes.Clone(z.Bytes()))
	z.Reset()
	for _, n := range sizes[:15] {
		z.AppendBytes([]byte(strings.Repeat("s", n)))
	}
	f.Add(bytes.Clone(z.Bytes()))
	f.Add(append(make([]byte, HeaderSize), "\xfe\x00\x00\x00\x00\xbf\x00\x00\x00\x02hi\x0c\xf5\xff"...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < HeaderSize {
			return
		}
		same(t, b)
		entries, _, _ := walk(b)
		z.Reset()
		for _, e := range entries {
			if e.n {
				z.AppendInt(e.v)
			} else {
				z.AppendBytes([]byte(e.s))
			}
		}
		out := z.Bytes()
		got, p, last := walk(out)
		if p != len(out)-1 || len(got) != len(entries) || len(got) > 0 && uint64(last) != uint64(binary.LittleEndian.Uint32(out[4:])) {
			t.Fatalf("%v became %v", entries, got)
		}
		for i := range got {
			if got[i] != entries[i] {
				t.Fatalf("%v became %v", entries[i], got[i])
			}
		}
	})
}
