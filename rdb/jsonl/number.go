package jsonl

import (
	"math"
	"strconv"
)

// double writes a number as Redis since 7.2 answers it: the shortest digits that make the same number, in positional notation
// unless that is long and the number no whole one up to 2^62. Where
// several texts of that length make the number this is the nearest, which the server's isn't always.
func (w *Writer) double(f float64) {
	w.room(32)
	w.buf = appendDouble(w.buf, f)
}

func appendDouble(dst []byte, f float64) []byte {
	if f >= -1<<62 && f <= 1<<62 && (f != 0 || !math.Signbit(f)) {
		if n := int64(f); float64(n) == f {
			return strconv.AppendInt(dst, n, 10)
		}
	}
	switch {
	case math.IsInf(f, 1):
		return append(dst, "inf"...)
	case math.IsInf(f, -1):
		return append(dst, "-inf"...)
	case f != f:
		return append(dst, "nan"...)
	case f == 0:
		return append(dst, "-0"...)
	}
	// The digits, of which the decimal point goes behind the first, and the exponent.
	var scratch [32]byte
	text := strconv.AppendFloat(scratch[:0], f, 'e', -1, 64)
	if text[0] == '-' {
		dst = append(dst, '-')
		text = text[1:]
	}
	e := len(text) - 1
	for text[e] != 'e' {
		e--
	}
	exponent := 0
	for _, c := range text[e+2:] {
		exponent = exponent*10 + int(c-'0')
	}
	if text[e+1] == '-' {
		exponent = -exponent
	}
	digits := text[:1]
	if e > 1 {
		copy(text[1:], text[2:e])
		digits = text[:e-1]
	}
	n := len(digits)
	shift := exponent - (n - 1) // the number is digits times ten to this power
	switch {
	case shift >= 0 && exponent < n+7:
		dst = append(dst, digits...)
		for range shift {
			dst = append(dst, '0')
		}
		return dst
	case shift < 0 && (shift > -7 || exponent > -4 && exponent < 4):
		if exponent >= 0 {
			dst = append(append(dst, digits[:exponent+1]...), '.')
			return append(dst, digits[exponent+1:]...)
		}
		dst = append(dst, "0."...)
		for range -exponent - 1 {
			dst = append(dst, '0')
		}
		return append(dst, digits...)
	}
	dst = append(dst, digits[0])
	if n > 1 {
		dst = append(append(dst, '.'), digits[1:]...)
	}
	dst = append(dst, 'e')
	if exponent >= 0 {
		dst = append(dst, '+')
	}
	return strconv.AppendInt(dst, int64(exponent), 10)
}
