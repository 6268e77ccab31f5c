// Package crc64 computes the CRC-64 that ends RDB files and DUMP payloads.
//
// It is the Jones polynomial, reflected, with initial value 0 and no final inversion; the check value over "123456789"
// is 0xE9C6D914C4B8D9CA. The standard library's hash/crc64 inverts before and after and rebuilds its tables at each
// call for a polynomial of the caller's, so it is no substitute.
//
// On amd64 a kernel that multiplies polynomials (PCLMULQDQ, or VPCLMULQDQ where the machine has 512-bit registers) folds
// the data; everywhere else, and with the build tag noasm, tables do. Both give the same sums: see the tests.
package crc64

import "encoding/binary"

// Polynomial is the Jones polynomial x^64 + x^63 + x^61 + … + 1 with the coefficient of x^0 in the highest bit, as
// the reflected algorithm uses it. Written the other way round it is 0xAD93D23594C935A9.
const Polynomial = 0x95AC9329AC4BC9B5

// Size is the length of a checksum in bytes. It is stored in little-endian order.
const Size = 8

// stride is the number of bytes that the portable loop takes at a time.
const stride = 16

// tables[k][b] is the checksum of byte b followed by k zero bytes.
var tables = makeTables()

func makeTables() *[stride][256]uint64 {
	t := new([stride][256]uint64)
	for b := range t[0] {
		crc := uint64(b)
		for range 8 {
			crc = crc>>1 ^ Polynomial&-(crc&1)
		}
		t[0][b] = crc
	}
	for k := 1; k < stride; k++ {
		for b, crc := range t[k-1] {
			t[k][b] = t[0][byte(crc)] ^ crc>>8
		}
	}
	return t
}

// Update returns the checksum of some data followed by p, given the checksum crc of that data. The checksum of no data
// is 0.
func Update(crc uint64, p []byte) uint64 { return update(crc, p) }

// Checksum returns the checksum of p.
func Checksum(p []byte) uint64 { return update(0, p) }

// updateTables is Update with tables alone: the reference, and the only way on machines without a kernel.
func updateTables(crc uint64, p []byte) uint64 {
	t := tables
	for len(p) >= stride {
		a := crc ^ binary.LittleEndian.Uint64(p)
		b := binary.LittleEndian.Uint64(p[8:])
		// What depends on the checksum so far comes last and as a tree: its latency is the loop's.
		early := t[7][byte(b)] ^ t[6][byte(b>>8)] ^ t[5][byte(b>>16)] ^ t[4][byte(b>>24)] ^
			t[3][byte(b>>32)] ^ t[2][byte(b>>40)] ^ t[1][byte(b>>48)] ^ t[0][b>>56]
		crc = ((t[15][byte(a)] ^ t[14][byte(a>>8)]) ^ (t[13][byte(a>>16)] ^ t[12][byte(a>>24)])) ^
			((t[11][byte(a>>32)] ^ t[10][byte(a>>40)]) ^ (t[9][byte(a>>48)] ^ t[8][a>>56])) ^ early
		p = p[stride:]
	}
	for _, b := range p {
		crc = t[0][byte(crc)^b] ^ crc>>8
	}
	return crc
}

// Combine returns the checksum of two pieces of data in a row, given the checksum of each and the length in bytes of
// the second, which is not negative. It takes time in proportion to the logarithm of that length.
func Combine(first, second uint64, secondLen int64) uint64 {
	// Appending n bytes multiplies a checksum by x^(8n); with neither an initial value nor a final inversion, the
	// checksum of the second piece is then simply added.
	return multiply(first, power(uint64(secondLen)*8)) ^ second
}

// one is the polynomial 1 in reflected order.
const one = uint64(1) << 63

// multiply returns a·b modulo the polynomial, all in reflected order.
func multiply(a, b uint64) uint64 {
	var product uint64
	for ; a != 0; a <<= 1 {
		product ^= b & -(a >> 63)
		b = b>>1 ^ Polynomial&-(b&1) // times x
	}
	return product
}

// power returns x^n modulo the polynomial in reflected order.
func power(n uint64) uint64 {
	result, square := one, one>>1
	for ; n != 0; n >>= 1 {
		if n&1 != 0 {
			result = multiply(result, square)
		}
		square = multiply(square, square)
	}
	return result
}
