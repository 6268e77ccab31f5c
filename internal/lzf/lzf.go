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
	if out, in := expand(dst, 0, src); in != len(src) || out != len(dst) {
		return ErrCorrupt
	}
	return nil
}

// expand expands items of src behind the out bytes that dst has already, and returns how many bytes dst has then and how
// many of src it took. It stops before an item that is wrong, cut, or too long for dst. It may write behind the bytes it returns.
func expand(dst []byte, out int, src []byte) (o, in int) {
	for in < len(src) {
		c := int(src[in])
		if c < maxLiteral {
			n := c + 1
			from := src[in+1:]
			if n > len(from) || n > len(dst)-out {
				return out, in
			}
			if to := dst[out:]; len(to) >= maxLiteral && len(from) >= maxLiteral {
				*(*[maxLiteral]byte)(to) = *(*[maxLiteral]byte)(from)
			} else {
				copy(to, from[:n])
			}
			in += n + 1
			out += n
			continue
		}
		n, size := c>>5+2, 2
		if n == 9 {
			size = 3
		}
		if size > len(src)-in {
			return out, in
		}
		if size == 3 {
			n += int(src[in+1])
		}
		back := (c&31)<<8 + int(src[in+size-1]) + 1
		if back > out || n > len(dst)-out {
			return out, in
		}
		in += size
		if from, to := dst[out-back:], dst[out:]; n <= 16 && back >= 16 && len(to) >= 16 {
			*(*[16]byte)(to) = *(*[16]byte)(from)
		} else {
			repeat(dst[out-back:out+n], back)
		}
		out += n
	}
	return out, in
}

// repeat fills b behind its first n bytes with their repetition.
func repeat(b []byte, n int) {
	for n < len(b) {
		n += copy(b[n:], b[:n])
	}
}

// Check tells whether Decompress would expand src to n bytes, without doing it.
func Check(src []byte, n uint64) error {
	out := uint64(0)
	for in := 0; in < len(src); {
		c := uint64(src[in])
		if c < maxLiteral {
			out += c + 1
			in += int(c) + 2
			if in > len(src) {
				return ErrCorrupt
			}
			continue
		}
		size := c>>5 + 2
		if size == 9 {
			in++
			if in >= len(src) {
				return ErrCorrupt
			}
			size += uint64(src[in])
		}
		in++
		if in >= len(src) || (c&31)<<8+uint64(src[in]) >= out {
			return ErrCorrupt
		}
		in++
		out += size
	}
	if out != n {
		return ErrCorrupt
	}
	return nil
}
