package jsonl

import (
	"math"
	"math/bits"
	"strconv"
)

// double writes a number as Redis since 7.2 and Valkey answer it.
func (w *Writer) double(f float64) {
	w.room(32)
	w.buf = appendDouble(w.buf, f)
}

// appendDouble appends f as servers do: a whole number up to 2^62 as such, any other in few digits that make the same number, in
// positional notation unless that is long. Servers find the digits by the algorithm Grisu2 (Florian Loitsch, Printing Floating-Point
// Numbers Quickly and Accurately with Integers), whose digits are not always the shortest, nor the nearest: strconv's
// differ in about one of five hundred numbers of seventeen digits.
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
	case f < 0:
		dst = append(dst, '-')
	}
	var scratch [20]byte
	n, shift := shortDigits(scratch[:], math.Abs(f)) // the number is the digits times ten to this power
	digits := scratch[:n]
	exponent := shift + n - 1 // with the decimal point behind the first digit
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

// An extended number is frac times two to the power of exp.
type extended struct {
	frac uint64
	exp  int
}

// times multiplies and rounds to 64 bits.
func (a extended) times(b extended) extended {
	hi, lo := bits.Mul64(a.frac, b.frac)
	return extended{hi + lo>>63, a.exp + b.exp + 64}
}

// shortDigits writes the digits of f, which is finite and above 0, and returns how many these are and the power of ten of the last.
func shortDigits(digits []byte, f float64) (n, power int) {
	const hidden = 1 << 52
	b := math.Float64bits(f)
	w := extended{b & (hidden - 1), int(b >> 52)}
	if w.exp > 0 {
		w.frac |= hidden
		w.exp -= 1075
	} else {
		w.exp = -1074
	}
	// Between the two bounds every number is read as f.
	upper := extended{w.frac<<1 + 1, w.exp - 1}
	z := bits.LeadingZeros64(upper.frac)
	upper.frac <<= z
	upper.exp -= z
	lower := extended{w.frac<<1 - 1, w.exp - 1}
	if w.frac == hidden {
		lower = extended{w.frac<<2 - 1, w.exp - 2}
	}
	lower.frac <<= lower.exp - upper.exp
	lower.exp = upper.exp
	z = bits.LeadingZeros64(w.frac)
	w.frac <<= z
	w.exp -= z

	// A power of ten makes the exponent lie between -60 and -32, so that the whole part has room in 32 bits.
	i := (int(float64(-(upper.exp+len(tens)))*0.30102999566398114) + 348) / 8
	for i = min(max(i, 0), len(tens)-1); ; {
		if e := upper.exp + tens[i].exp + 64; e < -60 {
			i++
		} else if e > -32 {
			i--
		} else {
			break
		}
	}
	power = 348 - 8*i
	w, upper, lower = w.times(tens[i]), upper.times(tens[i]), lower.times(tens[i])
	lower.frac++
	upper.frac--
	delta, distance := upper.frac-lower.frac, upper.frac-w.frac
	shift := -upper.exp
	one := uint64(1) << shift
	whole, part := upper.frac>>shift, upper.frac&(one-1)
	div := uint64(1_000_000_000)
	for kappa := 9; kappa >= 0; kappa-- {
		digit := whole / div
		if digit > 0 || n > 0 {
			digits[n] = byte('0' + digit)
			n++
		}
		whole -= digit * div
		if rest := whole<<shift + part; rest <= delta {
			nearer(digits[:n], delta, rest, div<<shift, distance)
			return n, power + kappa
		}
		div /= 10
	}
	for unit := uint64(10); ; unit *= 10 {
		part *= 10
		delta *= 10
		power--
		digit := part >> shift
		if digit > 0 || n > 0 {
			digits[n] = byte('0' + digit)
			n++
		}
		if part &= one - 1; part < delta {
			nearer(digits[:n], delta, part, one, distance*unit)
			return n, power
		}
	}
}

// nearer lowers the last digit as long as that comes nearer to the number.
func nearer(digits []byte, delta, rest, step, distance uint64) {
	for rest < distance && delta-rest >= step && (rest+step < distance || distance-rest > rest+step-distance) {
		digits[len(digits)-1]--
		rest += step
	}
}
