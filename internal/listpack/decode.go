// Package listpack reads and writes listpacks: strings and numbers in one blob, which small values are made of since Redis 7.0.
package listpack

import (
	"encoding/binary"
	"math"
)

// The frame of a listpack: its size in bytes and the number of its entries, then the entries, then one byte.
const (
	HeaderSize = 6
	EndMark    = 0xFF
	// Unknown is the number of entries that says that they have to be counted.
	Unknown = math.MaxUint16
)

// Header reads the header of a listpack, of which b has at least the first HeaderSize bytes: its size, and the number of its
// entries or Unknown.
func Header(b []byte) (size uint64, n int) {
	_ = b[HeaderSize-1]
	return uint64(binary.LittleEndian.Uint32(b)), int(binary.LittleEndian.Uint16(b[4:]))
}

// Next reads the entry of b at p. It is a string if s isn't nil, which is then lent from b, and the number v otherwise. The next entry is at
// next. A next of 0 means that here is no entry, or not all of it: p is at the end mark, at the end of b, or at something
// that is wrong.
func Next(b []byte, p int) (s []byte, v int64, next int) {
	if uint(p) >= uint(len(b)) {
		return nil, 0, 0
	}
	rest := b[p:]
	c := rest[0]
	if c < 0xC0 {
		// Most entries are small: a number or a string of one byte before it, and one byte behind that tells the length
		// again, to walk backwards.
		n := 1
		if c >= 0x80 {
			n += int(c & 0x3f)
		}
		if n >= len(rest) || int(rest[n]) != n {
			return nil, 0, 0
		}
		if c < 0x80 {
			return nil, int64(c), p + 2
		}
		return rest[1:n:n], 0, p + n + 1
	}
	return nextLong(b, p)
}

func nextLong(b []byte, p int) (s []byte, v int64, next int) {
	rest := b[p:]
	if n := int(entrySizes[rest[0]]); n > 0 && n < len(rest) && int(rest[n]) == n {
		// A number: nothing follows its head but the byte that tells the length again.
		_, _, v, _ = Head(rest)
		return nil, v, p + n + 1
	}
	head, size, v, ok := Head(rest)
	if !ok || size > uint64(len(rest)-head) {
		return nil, 0, 0
	}
	n := head + int(size)
	tail := Tail(uint64(n))
	if tail > len(rest)-n || !IsTail(rest[n:n+tail], uint64(n)) {
		return nil, 0, 0
	}
	if c := rest[0]; c < 0xE0 || c > 0xF0 {
		return nil, v, p + n + tail
	}
	return rest[head:n:n], 0, p + n + tail
}

// Head reads how an entry begins that is not small: in head bytes, behind which size bytes of string follow. A number is all in
// its head. It is not ok if b doesn't begin with an entry, or has too little of it.
func Head(b []byte) (head int, size uint64, v int64, ok bool) {
	if len(b) == 0 {
		return 0, 0, 0, false
	}
	c := b[0]
	head = heads(c)
	if head == 0 || head > len(b) {
		return 0, 0, 0, false
	}
	switch {
	case c < 0x80:
		return head, 0, int64(c), true
	case c < 0xC0:
		return head, uint64(c & 0x3f), 0, true
	case c < 0xE0:
		return head, 0, int64(uint64(c)<<59|uint64(b[1])<<51) >> 51, true
	case c < 0xF0:
		return head, uint64(c&0x0f)<<8 | uint64(b[1]), 0, true
	}
	switch c {
	case 0xF0:
		return head, uint64(binary.LittleEndian.Uint32(b[1:])), 0, true
	case 0xF1:
		return head, 0, int64(int16(binary.LittleEndian.Uint16(b[1:]))), true
	case 0xF2:
		return head, 0, int64(int32(uint32(b[1])<<8|uint32(b[2])<<16|uint32(b[3])<<24) >> 8), true
	case 0xF3:
		return head, 0, int64(int32(binary.LittleEndian.Uint32(b[1:]))), true
	}
	return head, 0, int64(binary.LittleEndian.Uint64(b[1:])), true // 0xF4
}

// heads returns how many bytes come before the string of an entry, or the whole number; 0 if no entry begins so.
func heads(c byte) int {
	switch {
	case c < 0xC0:
		return 1
	case c < 0xF0:
		return 2
	case c <= 0xF4:
		return [...]int{5, 3, 4, 5, 9}[c-0xF0]
	}
	return 0
}

// Tail returns how many bytes follow an entry of n bytes, head and string, to walk backwards.
func Tail(n uint64) int {
	switch {
	case n < 1<<7:
		return 1
	case n < 1<<14:
		return 2
	case n < 1<<21:
		return 3
	case n < 1<<28:
		return 4
	}
	return 5
}

// IsTail tells whether b, which has Tail(n) bytes, is what follows an entry of n bytes.
func IsTail(b []byte, n uint64) bool {
	v := uint64(0)
	for i, c := range b {
		if (c >= 0x80) != (i > 0) {
			return false
		}
		v = v<<7 | uint64(c&0x7f)
	}
	return v == n
}

// entrySizes is how many bytes an entry takes, without the one behind it, by its first byte; 0 if that doesn't tell.
var entrySizes = func() (all [256]uint8) {
	for c := range 0x40 {
		all[c], all[0x40+c] = 1, 1
		all[0x80+c] = uint8(1 + c)
	}
	for c := 0xC0; c < 0xE0; c++ {
		all[c] = 2
	}
	copy(all[0xF1:], []uint8{3, 4, 5, 9})
	return all
}()

// Skip goes over up to n entries of b from p on, and returns where it is then, and how many it went over. It stops early where Next
// gives none.
func Skip(b []byte, p, n int) (next, skipped int) {
	for skipped < n && uint(p) < uint(len(b)) {
		size := int(entrySizes[b[p]])
		if size == 0 {
			_, _, q := nextLong(b, p)
			if q == 0 {
				break
			}
			p = q
			skipped++
			continue
		}
		if q := p + size; uint(q) >= uint(len(b)) || int(b[q]) != size {
			break
		}
		p += size + 1
		skipped++
	}
	return p, skipped
}
