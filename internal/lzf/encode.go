package lzf

import "encoding/binary"

// What a block can hold: runs of up to 32 literal bytes, and references of 3 to 264 bytes, up to 8192 back.
const (
	maxLiteral  = 32
	maxCopy     = 264
	maxDistance = 1 << 13
)

const tableBits = 13

// An Encoder compresses. The zero value is ready; it is used by one goroutine. It is 32 KiB large and is kept from block to
// block, since to clear its table would cost more than to compress a short string.
type Encoder struct {
	table [1 << tableBits]uint32 // by hash of three bytes: where they were last, plus base
	base  uint32                 // what the positions of the current block start from: those before are of older blocks
}

// Compress writes a block that expands to src into dst and returns its size; 0 if that has no room there. A dst shorter than
// src is how to ask for a block that is worth it.
func (e *Encoder) Compress(dst, src []byte) int {
	if len(src) > 1<<30 {
		return 0
	}
	if e.base > 1<<30 {
		*e = Encoder{}
	}
	e.base++ // no position of a block is 0, which is what an unused place of the table holds
	base := e.base
	e.base += uint32(len(src))

	in, out, literals := 0, 0, 0 // the literals up to in are not yet written
	for in+4 <= len(src) {
		word := binary.LittleEndian.Uint32(src[in:]) << 8
		slot := &e.table[word*2654435761>>(32-tableBits)]
		from := int(*slot) - int(base)
		*slot = base + uint32(in)
		if from < 0 || in-from > maxDistance || binary.LittleEndian.Uint32(src[from:])<<8 != word {
			in++
			// Where nothing repeats for long, look less often.
			in += min((in-literals)>>6, 16)
			continue
		}
		n := 3
		for limit := min(maxCopy, len(src)-in); n < limit && src[from+n] == src[in+n]; {
			n++
		}
		if out = putLiterals(dst, out, src[literals:in]); out < 0 || out+3 > len(dst) {
			return 0
		}
		back, size := in-from-1, n-2
		if size < 7 {
			dst[out] = byte(size<<5 | back>>8)
			out++
		} else {
			dst[out], dst[out+1] = byte(7<<5|back>>8), byte(size-7)
			out += 2
		}
		dst[out] = byte(back)
		out++
		in += n
		literals = in
		if in+2 <= len(src) && n > 3 {
			e.table[binary.LittleEndian.Uint32(src[in-2:])<<8*2654435761>>(32-tableBits)] = base + uint32(in-2)
		}
	}
	if out = putLiterals(dst, out, src[literals:]); out < 0 {
		return 0
	}
	return out
}

// putLiterals writes runs of literal bytes at dst[out:] and returns where they end, or -1 if they have no room.
func putLiterals(dst []byte, out int, p []byte) int {
	for len(p) > 0 {
		n := min(len(p), maxLiteral)
		if out+1+n > len(dst) {
			return -1
		}
		dst[out] = byte(n - 1)
		out++
		out += copy(dst[out:], p[:n])
		p = p[n:]
	}
	return out
}
