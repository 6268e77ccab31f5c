//go:build amd64 && !noasm

package crc64

import "encoding/binary"

// The kernels fold: a block of the data is a polynomial, and the data that lie D bits further on are added to its remainder
// times x^D. Multiplying polynomials is one instruction, PCLMULQDQ. What is left in the end is a single block that
// has the same checksum as all of the data; it and the odd bytes behind go through the tables.
//
// A lane is 16 bytes, as two reflected polynomials: the first 8 bytes, which stand for the higher powers, take the factor x^(D+64),
// the other 8 bytes x^D, both modulo the polynomial. The product of two reflected polynomials of 64 bits comes out one
// bit too low in 128 bits, that is, times x; so the factors have one power less.

// The factors for each block size. The tests derive them.
var (
	fold128 = [2]uint64{0xcc26fa7c57f8054c, 0x768361524d29ed0b} // x^(1024+63), x^(1024-1)
	fold256 = [2]uint64{0x9a8908341a6d6d52, 0x9471a5389095fe44} // x^(2048+63), x^(2048-1)
)

// What the machine has.
var hasCLMUL, hasWideCLMUL = detect()

// A call with less data than this is quicker through the tables, or the narrow kernel.
const (
	minCLMUL     = 256
	minWideCLMUL = 1024
)

func update(crc uint64, p []byte) uint64 {
	switch {
	case len(p) >= minWideCLMUL && hasWideCLMUL:
		return updateWideCLMUL(crc, p)
	case len(p) >= minCLMUL && hasCLMUL:
		return updateCLMUL(crc, p)
	}
	return updateTables(crc, p)
}

// updateCLMUL takes at least 128 bytes.
func updateCLMUL(crc uint64, p []byte) uint64 {
	var block [128]byte
	n := copy(block[:], p)
	binary.LittleEndian.PutUint64(block[:], crc^binary.LittleEndian.Uint64(block[:]))
	m := len(p) &^ (len(block) - 1)
	foldCLMUL(&block, p[n:m], &fold128)
	return updateTables(updateTables(0, block[:]), p[m:])
}

// updateWideCLMUL takes at least 256 bytes.
func updateWideCLMUL(crc uint64, p []byte) uint64 {
	var block [256]byte
	n := copy(block[:], p)
	binary.LittleEndian.PutUint64(block[:], crc^binary.LittleEndian.Uint64(block[:]))
	m := len(p) &^ (len(block) - 1)
	foldWideCLMUL(&block, p[n:m], &fold256)
	return updateTables(updateCLMUL(0, block[:]), p[m:])
}

// foldCLMUL folds p, a multiple of the block in length, into block.
//
//go:noescape
func foldCLMUL(block *[128]byte, p []byte, factors *[2]uint64)

// foldWideCLMUL does the same with registers of 512 bits.
//
//go:noescape
func foldWideCLMUL(block *[256]byte, p []byte, factors *[2]uint64)

//go:noescape
func cpuid(leaf, sub uint32) (eax, ebx, ecx, edx uint32)

//go:noescape
func xgetbv() (eax, edx uint32)

// detect asks the processor which kernels it runs, and the operating system, by XGETBV, whether it keeps
// the wide registers when it switches threads.
func detect() (narrow, wide bool) {
	const (
		pclmulqdq  = 1 << 1  // leaf 1, ecx
		osxsave    = 1 << 27 // leaf 1, ecx
		avx512f    = 1 << 16 // leaf 7, ebx
		vpclmulqdq = 1 << 10 // leaf 7, ecx
		zmmState   = 0xE6    // xcr0: SSE, AVX and the three parts of AVX-512
	)
	highest, _, _, _ := cpuid(0, 0)
	_, _, ecx, _ := cpuid(1, 0)
	narrow = ecx&pclmulqdq != 0
	if !narrow || ecx&osxsave == 0 || highest < 7 {
		return narrow, false
	}
	if xcr0, _ := xgetbv(); xcr0&zmmState != zmmState {
		return narrow, false
	}
	_, ebx, ecx, _ := cpuid(7, 0)
	return narrow, ebx&avx512f != 0 && ecx&vpclmulqdq != 0
}
