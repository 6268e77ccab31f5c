package intset

import (
	"encoding/binary"
	"math"
	"testing"
)

func TestHeader(t *testing.T) {
	for _, c := range []struct {
		b     string
		width int
		n     uint64
	}{
		{"\x02\x00\x00\x00\x01\x00\x00\x00", 2, 1},
		{"\x04\x00\x00\x00\x00\x00\x00\x00more", 4, 0},
		{"\x08\x00\x00\x00\xff\xff\xff\xff", 8, math.MaxUint32},
		{"\x00\x00\x00\x00\x01\x00\x00\x00", 0, 1},
		{"\x01\x00\x00\x00\x01\x00\x00\x00", 0, 1},
		{"\x03\x00\x00\x00\x01\x00\x00\x00", 0, 1},
		{"\x10\x00\x00\x00\x01\x00\x00\x00", 0, 1},
		{"\x02\x00\x00\x01\x01\x00\x00\x00", 0, 1},
		{"\xff\xff\xff\xff\x01\x00\x00\x00", 0, 1},
	} {
		if width, n := Header([]byte(c.b)); width != c.width || n != c.n {
			t.Errorf("%q: width %d, %d entries, want %d, %d", c.b, width, n, c.width, c.n)
		}
	}
}

// TestAt reads numbers around the borders of each width.
func TestAt(t *testing.T) {
	for _, n := range []int64{0, 1, -1, 127, 128, 255, 256, math.MaxInt16, math.MinInt16, math.MaxUint16, math.MaxInt32, math.MinInt32, math.MaxUint32,
		math.MaxInt64, math.MinInt64, math.MaxInt64 - 1, math.MinInt64 + 1} {
		b := binary.LittleEndian.AppendUint64(nil, uint64(n))
		for width, want := range map[int]int64{2: int64(int16(n)), 4: int64(int32(n)), 8: n} {
			if got := At(b[:width:width], width); got != want {
				t.Errorf("%d in %d bytes: %d, want %d", n, width, got, want)
			}
		}
	}
}
