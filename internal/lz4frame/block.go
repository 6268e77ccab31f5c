package lz4frame

import (
	"encoding/binary"
	"math/bits"
)

// The rules of a block, by the LZ4 block format: a match is of four bytes and more, up to 65535 back; the last five bytes are literals,
// and no match begins in the last twelve.
const (
	minMatch     = 4
	lastLiterals = 5
	matchMargin  = 12
)

// tableBits makes a table of 16 KiB, which stays in the first-level cache beside what is compressed.
const tableBits = 13

// A blockEncoder compresses blocks of up to 64 KiB.
type blockEncoder struct {
	table [1 << tableBits]uint16 // by hash of six bytes: where they were last
}

// How often to look where nothing repeats: after 1<<skipBits failures every second byte, after twice as many every third, and so on. The
// hash is one of six bytes, for matches of four and five save next to nothing. LZ4 itself has 6 here and five bytes. Measured on
// a snapshot of many small keys, most of whose values a server has compressed already: 4 takes a quarter longer, for 3 % less.
const skipBits = 2

// compress writes src as a block to dst and returns its size; 0 if that has no room there, which a dst shorter than src makes
// the test whether it is worth it.
func (e *blockEncoder) compress(dst, src []byte) int {
	if len(src) <= matchMargin || len(src) > window {
		return 0
	}
	clear(e.table[:])
	table := &e.table
	limit := len(src) - matchMargin
	end := len(src) - lastLiterals
	out, anchor := 0, 0
	in := 1 // what is not in the table seems to be at 0
	for {
		// Look for four bytes that were there before.
		var from int
		word := binary.LittleEndian.Uint64(src[in:])
		for tries := 1 << skipBits; ; tries++ {
			slot := &table[hash(word)]
			from = int(*slot)
			*slot = uint16(in)
			if uint32(word) == binary.LittleEndian.Uint32(src[from:]) {
				break
			}
			in += tries >> skipBits
			if in > limit {
				return lastRun(dst, out, src[anchor:])
			}
			word = binary.LittleEndian.Uint64(src[in:])
		}
		for in > anchor && from > 0 && src[in-1] == src[from-1] {
			in--
			from--
		}
		literals := src[anchor:in]
		for {
			n := minMatch + matchLength(src[from+minMatch:], src[in+minMatch:end])
			if out = sequence(dst, out, literals, in-from, n-minMatch); out < 0 {
				return 0
			}
			in += n
			anchor = in
			if in > limit {
				return lastRun(dst, out, src[anchor:])
			}
			// Often the next match begins right here.
			word := binary.LittleEndian.Uint64(src[in-2:])
			table[hash(word)] = uint16(in - 2)
			word = word>>16 | uint64(src[in+6])<<48
			slot := &table[hash(word)]
			from = int(*slot)
			*slot = uint16(in)
			if uint32(word) != binary.LittleEndian.Uint32(src[from:]) {
				break
			}
			literals = nil
		}
		in++
		if in > limit {
			return lastRun(dst, out, src[anchor:])
		}
	}
}

// hash is one of the first six bytes of a word.
func hash(word uint64) uint64 { return word << 16 * 227718039650203 >> (64 - tableBits) }

// matchLength returns how many bytes a and b have in common from their start on; a is not shorter than b.
func matchLength(a, b []byte) int {
	n := 0
	for len(b)-n >= 8 {
		if diff := binary.LittleEndian.Uint64(a[n:]) ^ binary.LittleEndian.Uint64(b[n:]); diff != 0 {
			return n + bits.TrailingZeros64(diff)/8
		}
		n += 8
	}
	for n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// sequence writes literals and a match at dst[out:], the length of the match less minMatch, and returns where it ends, or -1
// if there is no room.
func sequence(dst []byte, out int, literals []byte, back, n int) int {
	size := len(literals)
	if size+size/255+n/255+1+1+1+2 > len(dst)-out {
		return -1
	}
	token := out
	out++
	if size < 15 {
		dst[token] = byte(size << 4)
		if to := dst[out:]; len(to) >= 16 && cap(literals) >= 16 {
			*(*[16]byte)(to) = *(*[16]byte)(literals[:16])
			out += size
		} else {
			out += copy(to, literals)
		}
	} else {
		dst[token] = 15 << 4
		out = longLength(dst, out, size-15)
		out += copy(dst[out:], literals)
	}
	binary.LittleEndian.PutUint16(dst[out:], uint16(back))
	out += 2
	if n < 15 {
		dst[token] |= byte(n)
		return out
	}
	dst[token] |= 15
	return longLength(dst, out, n-15)
}

func longLength(dst []byte, out, n int) int {
	for ; n >= 255; n -= 255 {
		dst[out] = 255
		out++
	}
	dst[out] = byte(n)
	return out + 1
}

// lastRun writes the literals that end a block and returns its size, or 0 if there is no room.
func lastRun(dst []byte, out int, literals []byte) int {
	size := len(literals)
	if size+size/255+1+1 > len(dst)-out {
		return 0
	}
	if size < 15 {
		dst[out] = byte(size << 4)
		out++
	} else {
		dst[out] = 15 << 4
		out = longLength(dst, out+1, size-15)
	}
	return out + copy(dst[out:], literals)
}
