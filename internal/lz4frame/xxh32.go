package lz4frame

import (
	"encoding/binary"
	"math/bits"
)

// The primes of xxHash's 32-bit form.
const (
	prime1 = 2654435761
	prime2 = 2246822519
	prime3 = 3266489917
	prime4 = 668265263
	prime5 = 374761393
)

// xxh32 is the checksum of LZ4 frames: the 32-bit xxHash with seed 0.
func xxh32(b []byte) uint32 {
	n := uint32(len(b))
	h := uint32(prime5)
	if len(b) >= 16 {
		// Sums and negatives of primes, modulo 2^32.
		lanes := [4]uint32{(prime1 + prime2) & 0xffffffff, prime2, 0, 1<<32 - prime1}
		for ; len(b) >= 16; b = b[16:] {
			for i := range lanes {
				lanes[i] = bits.RotateLeft32(lanes[i]+binary.LittleEndian.Uint32(b[4*i:])*prime2, 13) * prime1
			}
		}
		h = bits.RotateLeft32(lanes[0], 1) + bits.RotateLeft32(lanes[1], 7) + bits.RotateLeft32(lanes[2], 12) + bits.RotateLeft32(lanes[3], 18)
	}
	h += n
	for ; len(b) >= 4; b = b[4:] {
		h = bits.RotateLeft32(h+binary.LittleEndian.Uint32(b)*prime3, 17) * prime4
	}
	for _, c := range b {
		h = bits.RotateLeft32(h+uint32(c)*prime5, 11) * prime1
	}
	h = (h ^ h>>15) * prime2
	h = (h ^ h>>13) * prime3
	return h ^ h>>16
}
