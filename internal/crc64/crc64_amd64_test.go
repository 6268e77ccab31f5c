//go:build amd64 && !noasm

package crc64

import (
	"math/big"
	"math/bits"
	"testing"
)

// TestFactors derives the factors of the kernels by long division.
func TestFactors(t *testing.T) {
	// x^64 and the polynomial in its usual notation, highest power first.
	divisor := new(big.Int).SetUint64(bits.Reverse64(Polynomial))
	divisor.SetBit(divisor, 64, 1)
	power := func(n int) uint64 {
		rest := new(big.Int).SetBit(new(big.Int), n, 1)
		for rest.BitLen() > 64 {
			rest.Xor(rest, new(big.Int).Lsh(divisor, uint(rest.BitLen()-65)))
		}
		return bits.Reverse64(rest.Uint64())
	}
	for _, c := range []struct {
		name    string
		block   int // in bytes
		factors [2]uint64
	}{{"fold128", 128, fold128}, {"fold256", 256, fold256}} {
		distance := c.block * 8
		want := [2]uint64{power(distance + 64 - 1), power(distance - 1)}
		if c.factors != want {
			t.Errorf("%s is %#016x, want %#016x", c.name, c.factors, want)
		}
	}
}

// addKernels adds the kernels that this machine runs. They take a block or more.
func addKernels(ways map[string]func(uint64, []byte) uint64) {
	atLeast := func(n int, kernel func(uint64, []byte) uint64) func(uint64, []byte) uint64 {
		return func(crc uint64, p []byte) uint64 {
			if len(p) < n {
				return updateTables(crc, p)
			}
			return kernel(crc, p)
		}
	}
	if hasCLMUL {
		ways["clmul"] = atLeast(128, updateCLMUL)
	}
	if hasWideCLMUL {
		ways["wide-clmul"] = atLeast(256, updateWideCLMUL)
	}
}
