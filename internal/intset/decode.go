// Package intset reads and writes intsets: ascending numbers of one width, which small sets of numbers are made of.
package intset

import "encoding/binary"

// HeaderSize is the length of the width and of the number of entries.
const HeaderSize = 8

// Header reads the header of an intset, of which b has at least the first HeaderSize bytes: how many bytes an entry takes,
// 2, 4 or 8 unless it is wrong, and how many entries there are.
func Header(b []byte) (width int, n uint64) {
	_ = b[HeaderSize-1]
	if w := binary.LittleEndian.Uint32(b); w == 2 || w == 4 || w == 8 {
		width = int(w)
	}
	return width, uint64(binary.LittleEndian.Uint32(b[4:]))
}

// At reads the entry of the given width that b begins with.
func At(b []byte, width int) int64 {
	switch width {
	case 2:
		return int64(int16(binary.LittleEndian.Uint16(b)))
	case 4:
		return int64(int32(binary.LittleEndian.Uint32(b)))
	}
	return int64(binary.LittleEndian.Uint64(b))
}
