package zipmap

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"testing"
)

// walk reads pairs up to where there is none, and returns where that is.
func walk(b []byte) (all [][2]string, p int) {
	for p = 1; ; {
		field, value, next := Next(b, p)
		if next == 0 {
			return all, p
		}
		all = append(all, [2]string{string(field), string(value)})
		p = next
	}
}

// appendPair writes a pair as Redis 2.4 did, with free bytes behind the value.
func appendPair(b []byte, field, value string, free int) []byte {
	size := func(n int) {
		if n < 254 {
			b = append(b, byte(n))
			return
		}
		b = binary.LittleEndian.AppendUint32(append(b, 254), uint32(n))
	}
	size(len(field))
	b = append(b, field...)
	size(len(value))
	return append(append(append(b, byte(free)), value...), make([]byte, free)...)
}

func TestKnown(t *testing.T) {
	if got, p := walk([]byte("\x01\x01f\x01\x00v\xff")); len(got) != 1 || got[0] != [2]string{"f", "v"} || p != 6 {
		t.Errorf("what Redis 2.4 wrote for {f: v} is %q, up to %d", got, p)
	}
}

func TestForms(t *testing.T) {
	b := []byte{254}
	var want [][2]string
	for _, n := range []int{0, 1, 2, 252, 253, 254, 255, 256, 70000} {
		for free := range 4 {
			s := strings.Repeat("s", n)
			b = appendPair(b, s+"f", "v", free)
			b = appendPair(b, "f", s, free)
			want = append(want, [2]string{s + "f", "v"}, [2]string{"f", s})
		}
	}
	b = append(b, EndMark)
	got, p := walk(b)
	if p != len(b)-1 || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%d pairs up to %d of %d, want %d", len(got), p, len(b), len(want))
	}
	// The long form of what would fit into the short one.
	if field, value, next := Next([]byte("\x01\xfe\x01\x00\x00\x00f\xfe\x01\x00\x00\x00\x00v\xff"), 1); string(field) != "f" || string(value) != "v" || next != 14 {
		t.Errorf("long forms of length: %q %q %d", field, value, next)
	}
}

// TestWrong has bytes that are no pair.
func TestWrong(t *testing.T) {
	for _, b := range []string{
		"", "\x00", "\x00\xff", "\x01\x02f", "\x01\x01f", "\x01\x01f\x01", "\x01\x01f\x01\x00", "\x01\x01f\x01\x01v", "\x01\x01f\xff", "\x01\x01f\x02\x00v",
		"\x01\xfe\x01\x00\x00", "\x01\xfe\xff\xff\xff\xfff", "\x01\x01f\xfe\xff\xff\xff\xff\x00v", "\x01\x01f\x01\xffv",
	} {
		if field, value, next := Next([]byte(b), 1); next != 0 {
			t.Errorf("%q: %q %q, up to %d", b, field, value, next)
		}
	}
	for _, p := range []int{6, 7, math.MaxInt} {
		if _, _, next := Next([]byte("\x01\x01f\x00\x00\xff"), p); next != 0 {
			t.Errorf("a pair at %d of 6", p)
		}
	}
}

// FuzzNext reads any bytes, and writes what it read.
func FuzzNext(f *testing.F) {
	b := appendPair([]byte{3}, "field", "value", 0)
	b = appendPair(b, strings.Repeat("f", 254), strings.Repeat("v", 300), 3)
	f.Add(append(appendPair(b, "", "", 0), EndMark))
	f.Add([]byte("\x01\xfe\x01\x00\x00\x00f\xfe\x01\x00\x00\x00\x00v\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		pairs, p := walk(b)
		if p > len(b) && len(b) > 0 {
			t.Fatalf("read up to %d of %d", p, len(b))
		}
		out := []byte{0}
		for _, x := range pairs {
			out = appendPair(out, x[0], x[1], len(x[0])%5)
		}
		out = append(out, EndMark)
		if again, end := walk(out); end != len(out)-1 || len(again) != len(pairs) {
			t.Fatalf("%q became %q", pairs, again)
		} else {
			for i := range again {
				if again[i] != pairs[i] {
					t.Fatalf("%q became %q", pairs[i], again[i])
				}
			}
		}
		for n := range min(len(b), 300) {
			if cut, at := walk(b[:n:n]); len(cut) > len(pairs) || at > max(n, 1) {
				t.Fatalf("cut at %d: %d pairs up to %d", n, len(cut), at)
			}
		}
	})
}
