// Package ziplist reads and writes ziplists, which small values were made of before Redis 7.0.
package ziplist

import (
	"encoding/binary"
	"math"
)

// The frame of a ziplist: its size in bytes, where its last entry begins, and the number of its entries; then the entries, then one byte.
const (
	HeaderSize = 10
	EndMark    = 0xFF
	// Unknown is the number of entries that says that they have to be counted.
	Unknown = math.MaxUint16
)

// Header reads the header of a ziplist, of which b has at least the first HeaderSize bytes: its size, where the last entry begins, and the number of
// entries or Unknown.
func Header(b []byte) (size, last uint64, n int) {
	_ = b[HeaderSize-1]
	return uint64(binary.LittleEndian.Uint32(b)), uint64(binary.LittleEndian.Uint32(b[4:])), int(binary.LittleEndian.Uint16(b[8:]))
}

// Next reads the entry of b at p, before which an entry of prev bytes stands. It is a string if s isn't nil, which is then
// lent from b, and the number v otherwise. The next entry is at next. A next of 0 means that here is no entry, or not all of it: p is at the end
// mark, at the end of b, or at something that is wrong.
func Next(b []byte, p int, prev uint64) (s []byte, v int64, next int) {
	if uint(p) >= uint(len(b)) {
		return nil, 0, 0
	}
	rest := b[p:]
	if uint64(rest[0]) == prev && len(rest) > 1 && prev < 254 {
		// Most entries are small, and so are those before them.
		if c := rest[1]; c < 0x40 {
			n := 2 + int(c)
			if n > len(rest) {
				return nil, 0, 0
			}
			return rest[2:n:n], 0, p + n
		}
	}
	head, size, v, number, ok := Head(rest, prev)
	if !ok || size > uint64(len(rest)-head) {
		return nil, 0, 0
	}
	n := head + int(size)
	if number {
		return nil, v, p + n
	}
	return rest[head:n:n], 0, p + n
}

// Head reads how an entry begins: in head bytes, behind which size bytes of string follow. A number is all in its head. It
// is not ok if b doesn't begin with an entry before which one of prev bytes stands, or has too little of it.
func Head(b []byte, prev uint64) (head int, size uint64, v int64, number, ok bool) {
	if len(b) == 0 {
		return 0, 0, 0, false, false
	}
	n := 1
	if b[0] < 254 {
		if uint64(b[0]) != prev {
			return 0, 0, 0, false, false
		}
	} else {
		// Small lengths may stand in the long form: a server leaves it so when an entry shrinks.
		if b[0] == EndMark || len(b) < 5 || uint64(binary.LittleEndian.Uint32(b[1:])) != prev {
			return 0, 0, 0, false, false
		}
		n = 5
	}
	b = b[n:]
	if len(b) == 0 {
		return 0, 0, 0, false, false
	}
	c := b[0]
	width := widths(c)
	if width == 0 || width > len(b) {
		return 0, 0, 0, false, false
	}
	n += width
	switch {
	case c < 0x40:
		return n, uint64(c), 0, false, true
	case c < 0x80:
		return n, uint64(c&0x3f)<<8 | uint64(b[1]), 0, false, true
	case c < 0xC0:
		return n, uint64(binary.BigEndian.Uint32(b[1:])), 0, false, true
	}
	switch c {
	case 0xC0:
		v = int64(int16(binary.LittleEndian.Uint16(b[1:])))
	case 0xD0:
		v = int64(int32(binary.LittleEndian.Uint32(b[1:])))
	case 0xE0:
		v = int64(binary.LittleEndian.Uint64(b[1:]))
	case 0xF0:
		v = int64(int32(uint32(b[1])<<8|uint32(b[2])<<16|uint32(b[3])<<24) >> 8)
	case 0xFE:
		v = int64(int8(b[1]))
	default:
		v = int64(c&0x0f) - 1
	}
	return n, 0, v, true, true
}

// widths returns how many bytes an encoding takes, with the number behind it if it is one; 0 if there is no such encoding.
func widths(c byte) int {
	switch {
	case c < 0x40:
		return 1
	case c < 0x80:
		return 2
	case c < 0xC0:
		return 5
	}
	switch c {
	case 0xC0:
		return 3
	case 0xD0:
		return 5
	case 0xE0:
		return 9
	case 0xF0:
		return 4
	case 0xFE:
		return 2
	}
	if c >= 0xF1 && c <= 0xFD {
		return 1
	}
	return 0
}
