package lzf

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"
)

// reference expands a block a byte at a time, with no thought of speed or of how much it may give.
func reference(src []byte) (out []byte, ok bool) {
	for len(src) > 0 {
		c := int(src[0])
		src = src[1:]
		if c < 32 {
			if len(src) < c+1 {
				return out, false
			}
			out = append(out, src[:c+1]...)
			src = src[c+1:]
			continue
		}
		n := c >> 5
		if n == 7 {
			if len(src) == 0 {
				return out, false
			}
			n += int(src[0])
			src = src[1:]
		}
		if len(src) == 0 {
			return out, false
		}
		from := len(out) - ((c&31)<<8 | int(src[0])) - 1
		src = src[1:]
		if from < 0 {
			return out, false
		}
		for i := range n + 2 {
			out = append(out, out[from+i])
		}
	}
	return out, true
}

func TestDecompress(t *testing.T) {
	for _, c := range []struct{ src, want string }{
		{"\x02aba\xe0\xff\x01\xe0\x16\x01\x01ab", strings.Repeat("ab", 150)}, // as Redis 2.4 to 8 write it
		{"\x00a\xe0\xff\x00", strings.Repeat("a", 265)},
		{"\x00a\x20\x00", "aaaa"},
		{"\x1f" + strings.Repeat("x", 32), strings.Repeat("x", 32)},
		{"\x03abcd\x40\x03", "abcdabcd"},
	} {
		dst := make([]byte, len(c.want))
		if err := Decompress(dst, []byte(c.src)); err != nil || string(dst) != c.want {
			t.Errorf("%q: %q, %v, want %q", c.src, dst, err, c.want)
		}
		if !Plausible(uint64(len(c.src)), uint64(len(c.want))) {
			t.Errorf("%q is not plausible", c.src)
		}
		// Any other length is wrong, and so is any shorter block.
		for n := range len(c.want) + 10 {
			if err := Decompress(make([]byte, n), []byte(c.src)); (err == nil) != (n == len(c.want)) {
				t.Errorf("%q into %d bytes: %v", c.src, n, err)
			}
		}
		for n := range c.src {
			if err := Decompress(dst, []byte(c.src[:n])); !errors.Is(err, ErrCorrupt) {
				t.Errorf("%q cut at %d: %v", c.src, n, err)
			}
		}
	}
	for _, src := range []string{"\x20\x00", "\x00a\x20\x01", "\x00a\x3f\x00", "\x00a\xe0", "\x00a\x20"} {
		if err := Decompress(make([]byte, 4), []byte(src)); err != ErrCorrupt {
			t.Errorf("%q: %v", src, err)
		}
	}
}

func TestPlausible(t *testing.T) {
	for _, c := range []struct {
		in, out uint64
		want    bool
	}{
		{0, 0, false}, {1, 0, false}, {0, 1, false}, {2, 1, true}, {3, 264, true}, {3, 265, false}, {1, 88, true}, {1, 89, false},
		{math.MaxUint64, math.MaxUint64, false}, {1, math.MaxUint64, false}, {math.MaxUint64, 1, true}, {1 << 58, 1 << 63, true},
		{1 << 56, 1 << 63, false},
	} {
		if got := Plausible(c.in, c.out); got != c.want {
			t.Errorf("Plausible(%d, %d) = %v", c.in, c.out, got)
		}
	}
}

func FuzzDecompress(f *testing.F) {
	f.Add([]byte("\x02aba\xe0\xff\x01\xe0\x16\x01\x01ab"), uint16(300))
	f.Add([]byte("\x00a\xe0\xff\x00"), uint16(265))
	f.Add([]byte("\x03abcd\x40\x03"), uint16(8))
	f.Fuzz(func(t *testing.T, src []byte, n uint16) {
		want, ok := reference(src)
		dst := make([]byte, n)
		if err := Decompress(dst, src); err == nil != (ok && len(want) == int(n)) || err == nil && !bytes.Equal(dst, want) {
			t.Fatalf("%x into %d bytes: %x, %v; the reference gives %d, %v", src, n, dst, err, len(want), ok)
		}
		if !ok || len(want) == 0 {
			return
		}
		dst = make([]byte, len(want))
		if err := Decompress(dst, src); err != nil || !bytes.Equal(dst, want) {
			t.Fatalf("%x: %x, %v, want %x", src, dst, err, want)
		}
		if !Plausible(uint64(len(src)), uint64(len(want))) {
			t.Fatalf("%d bytes expand to %d, which is not plausible", len(src), len(want))
		}
	})
}
