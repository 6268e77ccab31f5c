package listpack

import (
	"bytes"
	"fmt"
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

// walk reads entries up to where there is none, and returns where that is.
func walk(b []byte) (all []entry, p int) {
	for p = HeaderSize; ; {
		s, v, next := Next(b, p)
		if next == 0 {
			return all, p
		}
		all = append(all, entry{string(s), v, s == nil})
		p = next
	}
}

// borders are numbers around which encodings change.
func borders() (all []int64) {
	for _, n := range []int64{0, 1 << 6, 1 << 7, 1 << 12, 1 << 13, 1 << 15, 1 << 16, 1 << 23, 1 << 24, 1 << 31, 1 << 32, 1 << 62, math.MaxInt64} {
		for d := int64(-2); d <= 2; d++ {
			all = append(all, n+d, -n+d) // around the ends of int64 they wrap: as good as any other
		}
	}
	return all
}

var sizes = []int{0, 1, 2, 62, 63, 64, 65, 124, 125, 126, 127, 128, 4094, 4095, 4096, 4097, 16377, 16378, 16379, 16384, 1 << 17, 1<<21 - 6, 1<<21 - 5, 1 << 21}

// TestRoundTrip writes every form of entry and reads it.
func TestRoundTrip(t *testing.T) {
	b := Begin(nil)
	var want []entry
	for _, v := range borders() {
		b = AppendInt(b, v)
		b = AppendString(b, strconv.AppendInt(nil, v, 10))
		want = append(want, entry{v: v, n: true}, entry{v: v, n: true})
	}
	for _, n := range sizes {
		s := strings.Repeat("s", n)
		b = AppendString(b, []byte(s))
		want = append(want, entry{s: s})
	}
	for _, s := range []string{"-0", "007", "+1", " 1", "1 ", "9223372036854775808", "-9223372036854775809", "-", "1.5"} {
		b = AppendString(b, []byte(s))
		want = append(want, entry{s: s})
	}
	b = End(b, 0, uint64(len(want)))
	if size, n := Header(b); size != uint64(len(b)) || n != len(want) {
		t.Errorf("the header says %d bytes, %d entries; want %d, %d", size, n, len(b), len(want))
	}
	got, p := walk(b)
	if p != len(b)-1 || b[p] != EndMark || len(got) != len(want) {
		t.Fatalf("%d entries up to %d of %d, want %d", len(got), p, len(b), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("entry %d is %.60q %d, want %.60q %d", i, got[i].s, got[i].v, want[i].s, want[i].v)
		}
	}
	if p, n := Skip(b, HeaderSize, math.MaxInt); p != len(b)-1 || n != len(want) {
		t.Errorf("Skip went over %d entries up to %d, want %d up to %d", n, p, len(want), len(b)-1)
	}
	for _, n := range []int{0, 1, 7} {
		if _, got := Skip(b, HeaderSize, n); got != n {
			t.Errorf("Skip went over %d entries, want %d", got, n)
		}
	}
}

// TestKnown compares with what Redis 7.0 wrote.
func TestKnown(t *testing.T) {
	for _, c := range []struct {
		entries []string
		want    string
	}{
		{nil, "\x07\x00\x00\x00\x00\x00\xff"},
		{[]string{"f", "v"}, "\x0d\x00\x00\x00\x02\x00\x81f\x02\x81v\x02\xff"},
		{[]string{"a", "b", "12", "-7", "", "\x00bin"}, "\x1a\x00\x00\x00\x06\x00\x81a\x02\x81b\x02\x0c\x01\xdf\xf9\x02\x80\x01\x84\x00bin\x05\xff"},
	} {
		b := Begin(nil)
		for _, e := range c.entries {
			b = AppendString(b, []byte(e))
		}
		if b = End(b, 0, uint64(len(c.entries))); string(b) != c.want {
			t.Errorf("%q: %q, want %q", c.entries, b, c.want)
		}
	}
	// Numbers that stand in more bytes than they need are read too.
	for form, want := range map[string]int64{
		"\xc0\x05\x02": 5, "\xdf\xff\x02": -1, "\xf1\xff\xff\x03": -1, "\xf2\x00\x00\x80\x04": -1 << 23,
		"\xf3\x00\x00\x00\x80\x05": math.MinInt32, "\xf4\x00\x00\x00\x00\x00\x00\x00\x80\x09": math.MinInt64, "\x7f\x01": 127,
	} {
		if s, v, next := Next([]byte(form), 0); s != nil || v != want || next != len(form) {
			t.Errorf("%q: %q %d %d, want %d", form, s, v, next, want)
		}
	}
	for form, want := range map[string]string{
		"\xe0\x02hi\x04": "hi", "\xf0\x02\x00\x00\x00hi\x07": "hi", "\xe0\x00\x02": "", "\xf0\x00\x00\x00\x00\x05": "",
	} {
		if s, _, next := Next([]byte(form), 0); s == nil || string(s) != want || next != len(form) {
			t.Errorf("%q: %q %d, want %q", form, s, next, want)
		}
	}
}

// TestWrong has bytes that are no entry.
func TestWrong(t *testing.T) {
	for _, b := range []string{
		"", "\xff", "\xf5\x01", "\xfe\x01", "\x05", "\x05\x02", "\x05\x81", "\x81f", "\x81f\x01", "\x81f\x82\x00", "\xbf", "\xc0\x05", "\xc0\x05\x01", "\xe0", "\xe0\x01f\x02",
		"\xf0\xff\xff\xff\xffx", "\xf0\x01\x00\x00", "\xf1\x00\x00", "\xf4\x00\x00\x00\x00\x00\x00\x00\x00",
		"\xe0\x7e" + strings.Repeat("x", 126) + "\x80\x80", // 128 bytes need two, 01 80
		"\xe0\x7e" + strings.Repeat("x", 126) + "\x81\x80",
		"\xe0\x7e" + strings.Repeat("x", 126) + "\x00\x80",
	} {
		if s, v, next := Next([]byte(b), 0); next != 0 {
			t.Errorf("%q: %q %d, up to %d", b, s, v, next)
		}
		if p, n := Skip([]byte(b), 0, 5); n != 0 || p != 0 {
			t.Errorf("%q: Skip went over %d, up to %d", b, n, p)
		}
	}
	b := []byte("\x05\x01")
	for _, p := range []int{2, 3, math.MaxInt, -1} {
		if _, _, next := Next(b, p); next != 0 {
			t.Errorf("an entry at %d of 2", p)
		}
		if _, n := Skip(b, p, 1); n != 0 {
			t.Errorf("Skip found an entry at %d of 2", p)
		}
	}
}

// TestTail looks at the lengths behind entries.
func TestTail(t *testing.T) {
	for _, n := range []int{0, 1, 127, 128, 1<<14 - 1, 1 << 14, 1<<21 - 1, 1 << 21, 1<<28 - 1, 1 << 28, math.MaxUint32} {
		b := appendBackLength(nil, n)
		if n < 128 {
			b = []byte{byte(n)}
		}
		if Tail(uint64(n)) != len(b) || !IsTail(b, uint64(n)) {
			t.Errorf("%d: %x, Tail gives %d", n, b, Tail(uint64(n)))
		}
		for i := range 8 * len(b) {
			b[i/8] ^= 1 << (i % 8)
			if IsTail(b, uint64(n)) {
				t.Errorf("%x is taken for %d", b, n)
			}
			b[i/8] ^= 1 << (i % 8)
		}
	}
}

// TestCut cuts a listpack at every byte, and changes every bit.
func TestCut(t *testing.T) {
	b := Begin(nil)
	for _, s := range []string{"", "a", strings.Repeat("x", 70), strings.Repeat("y", 200), "5", "500", "40000", "4000000", "4000000000", "-1"} {
		b = AppendString(b, []byte(s))
	}
	b = End(b, 0, 10)
	whole, _ := walk(b)
	for n := HeaderSize; n < len(b); n++ {
		got, p := walk(b[:n:n])
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

// same checks that all ways to go over entries see the same.
func same(t *testing.T, b []byte) {
	t.Helper()
	p := HeaderSize
	entries := 0
	for p <= len(b) {
		s, v, next := Next(b, p)
		head, size, hv, ok := Head(b[min(p, len(b)):])
		if next == 0 {
			if ok && size <= uint64(len(b)-p-head) {
				n := uint64(head) + size
				if tail := Tail(n); tail <= len(b)-p-int(n) && IsTail(b[p+int(n):][:tail], n) {
					t.Fatalf("%x at %d: Next gives none, but Head and tail are right", b, p)
				}
			}
			break
		}
		n := head + int(size)
		if !ok || next != p+n+Tail(uint64(n)) || s == nil && v != hv || s != nil && uint64(len(s)) != size || next <= p || next > len(b) {
			t.Fatalf("%x at %d: Next gives %q %d %d, Head %d %d %d %v", b, p, s, v, next, head, size, hv, ok)
		}
		entries++
		p = next
	}
	for _, n := range []int{entries - 1, entries, math.MaxInt} {
		if n < 0 {
			continue
		}
		if _, got := Skip(b, HeaderSize, n); got != min(n, entries) {
			t.Fatalf("%x: Skip of %d goes over %d of %d", b, n, got, entries)
		}
	}
	if q, _ := Skip(b, HeaderSize, math.MaxInt); q != p {
		t.Fatalf("%x: Skip ends at %d, Next at %d", b, q, p)
	}
}

// FuzzNext reads any bytes in all ways, and writes what it read.
func FuzzNext(f *testing.F) {
	b := Begin(nil)
	for _, v := range borders() {
		b = AppendInt(b, v)
	}
	f.Add(End(b, 0, 5))
	b = Begin(nil)
	for _, n := range sizes[:13] {
		b = AppendString(b, []byte(strings.Repeat("s", n)))
	}
	f.Add(End(b, 0, 5))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < HeaderSize {
			return
		}
		same(t, b)
		entries, _ := walk(b)
		out := Begin(nil)
		for _, e := range entries {
			if e.n {
				out = AppendInt(out, e.v)
			} else {
				out = AppendString(out, []byte(e.s))
			}
		}
		out = End(out, 0, uint64(len(entries)))
		got, p := walk(out)
		if p != len(out)-1 || len(got) != len(entries) {
			t.Fatalf("%v became %v", entries, got)
		}
		for i := range got {
			if text(got[i]) != text(entries[i]) {
				t.Fatalf("%v became %v", entries[i], got[i])
			}
		}
	})
}

func text(e entry) string {
	if e.n {
		return strconv.FormatInt(e.v, 10)
	}
	return e.s
}

// FuzzParseInt compares with the standard library.
func FuzzParseInt(f *testing.F) {
	for _, v := range borders() {
		f.Add(fmt.Append(nil, v))
	}
	for _, s := range []string{"", "-", "-0", "00", "+1", "1_0", "9223372036854775808", "-9223372036854775809", "99999999999999999999"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, s []byte) {
		want, err := strconv.ParseInt(string(s), 10, 64)
		wantOK := err == nil && strconv.FormatInt(want, 10) == string(s)
		if got, ok := ParseInt(s); ok != wantOK || ok && got != want {
			t.Fatalf("%q: %d %v, want %d %v", s, got, ok, want, wantOK)
		}
	})
}
