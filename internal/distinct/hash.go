package distinct

import (
	"encoding/binary"
	"hash/maphash"
	"math/bits"
)

// A key makes a hash one that nobody else can compute.
type key [4]uint64

func newKey() (k key) {
	seed := maphash.MakeSeed()
	for i := range k {
		k[i] = maphash.Comparable(seed, i)
	}
	return k
}

// sum hashes b as Go's runtime does on machines without AES instructions: with products of 128 bits of what was read and
// what is secret (wyhash). It is twice as fast as maphash for the short strings that there are most of.
func (k *key) sum(b []byte) uint64 {
	n := len(b)
	var x, y uint64
	h := k[0]
	switch {
	case n > 16:
		for ; len(b) > 16; b = b[16:] {
			h = mix(binary.LittleEndian.Uint64(b)^k[1], binary.LittleEndian.Uint64(b[8:])^h)
		}
		if len(b) < 8 {
			// Less than a word is left: a whole one would begin before b.
			x, y = short(b)
			break
		}
		fallthrough
	case n >= 8:
		x, y = binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[len(b)-8:])
	default:
		x, y = short(b)
	}
	return mix(k[2]^uint64(n), mix(x^k[3], y^h))
}

// short reads up to seven bytes.
func short(b []byte) (x, y uint64) {
	if n := len(b); n >= 4 {
		return uint64(binary.LittleEndian.Uint32(b)), uint64(binary.LittleEndian.Uint32(b[n-4:]))
	} else if n > 0 {
		return uint64(b[0])<<16 | uint64(b[n/2])<<8 | uint64(b[n-1]), 0
	}
	return 0, 0
}

func mix(x, y uint64) uint64 {
	hi, lo := bits.Mul64(x, y)
	return hi ^ lo
}
