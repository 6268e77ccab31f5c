// Package lzf expands LZF blocks, the compression of strings in RDB files.
//
// A block is a sequence of literal runs and of references to bytes up to 8192 before; it has neither header nor end
// mark, so that both of its lengths have to be known from outside.
package lzf

import "errors"

// ErrCorrupt is the error of every block that doesn't expand to exactly the length it should.
var ErrCorrupt = errors.New("corrupt LZF block")

// MaxRatio is how many bytes of output a byte of a block can stand for at most: a reference of 3 bytes copies 264.
const MaxRatio = 88

// Plausible tells whether a block of in bytes can expand to out bytes, whatever it holds. Ask before allocating.
func Plausible(in, out uint64) bool {
	// Every item of a block gives at least one byte.
	return in > 0 && out > 0 && (out+MaxRatio-1)/MaxRatio <= in && out <= 1<<63
}

// Decompress expands src to exactly the length of dst, which must not overlap it. On an error the contents of dst are
// undefined.
func Decompress(dst, src []byte) error {
	in, out := 0, 0
	for in < len(src) {
		c := int(src[in])
		in++
		if c < 32 {
			n := c + 1
			if n > len(src)-in || n > len(dst)-out {
				return ErrCorrupt
			}
			copy(dst[out:], src[in:in+n])
			in += n
			out += n
			continue
		}
		n := c >> 5
		if n == 7 {
			if in >= len(src) {
				return ErrCorrupt
			}
			n += int(src[in])
			in++
		}
		n += 2
		if in >= len(src) {
			return ErrCorrupt
		}
		from := out - (c&31)<<8 - int(src[in]) - 1
		in++
		if from < 0 || n > len(dst)-out {
			return ErrCorrupt
		}
		if from+n <= out {
			copy(dst[out:out+n], dst[from:])
		} else {
			// The reference runs into its own output and repeats it.
			for i := range n {
				dst[out+i] = dst[from+i]
			}
		}
		out += n
	}
	if out != len(dst) {
		return ErrCorrupt
	}
	return nil
}
