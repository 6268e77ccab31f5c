package listpack

import (
	"encoding/binary"
	"math"
)

// Begin appends the header of an empty listpack to dst. Entries are appended behind it, and End makes it whole.
func Begin(dst []byte) []byte { return append(dst, 0, 0, 0, 0, 0, 0) }

// End appends the end mark to dst, in which a listpack of n entries begins at start, and completes its header. The
// listpack may not have grown beyond 4 GiB.
func End(dst []byte, start int, n uint64) []byte {
	dst = append(dst, 0xFF)
	binary.LittleEndian.PutUint32(dst[start:], uint32(len(dst)-start))
	binary.LittleEndian.PutUint16(dst[start+4:], uint16(min(n, math.MaxUint16)))
	return dst
}

// AppendString appends an entry: a number if s is one in its only decimal form, as servers do, and else a string.
func AppendString(dst, s []byte) []byte {
	if v, ok := ParseInt(s); ok {
		return AppendInt(dst, v)
	}
	n := len(s)
	switch {
	case n < 1<<6:
		dst = append(dst, 0x80|byte(n))
		n++
	case n < 1<<12:
		dst = append(dst, 0xE0|byte(n>>8), byte(n))
		n += 2
	default:
		dst = binary.LittleEndian.AppendUint32(append(dst, 0xF0), uint32(n))
		n += 5
	}
	dst = append(dst, s...)
	if n < 1<<7 {
		return append(dst, byte(n))
	}
	return appendBackLength(dst, n)
}

// AppendInt appends an entry that is a number.
func AppendInt(dst []byte, v int64) []byte {
	switch {
	case v >= 0 && v < 1<<7:
		return append(dst, byte(v), 1)
	case v >= -1<<12 && v < 1<<12:
		return append(dst, 0xC0|byte(v>>8)&0x1f, byte(v), 2)
	case v == int64(int16(v)):
		return append(dst, 0xF1, byte(v), byte(v>>8), 3)
	case v >= -1<<23 && v < 1<<23:
		return append(dst, 0xF2, byte(v), byte(v>>8), byte(v>>16), 4)
	case v == int64(int32(v)):
		return append(binary.LittleEndian.AppendUint32(append(dst, 0xF3), uint32(v)), 5)
	}
	return append(binary.LittleEndian.AppendUint64(append(dst, 0xF4), uint64(v)), 9)
}

// appendBackLength appends the length of an entry as it is read from behind: seven bits a byte, the highest first, and the
// highest bit of a byte says that another stands before it.
func appendBackLength(dst []byte, n int) []byte {
	switch {
	case n < 1<<14:
		return append(dst, byte(n>>7), byte(n)|0x80)
	case n < 1<<21:
		return append(dst, byte(n>>14), byte(n>>7)|0x80, byte(n)|0x80)
	case n < 1<<28:
		return append(dst, byte(n>>21), byte(n>>14)|0x80, byte(n>>7)|0x80, byte(n)|0x80)
	}
	return append(dst, byte(n>>28), byte(n>>21)|0x80, byte(n>>14)|0x80, byte(n>>7)|0x80, byte(n)|0x80)
}

// ParseInt returns the number that s is the only decimal form of: "-0", "+1" and "01" are none.
func ParseInt(s []byte) (v int64, ok bool) {
	if len(s) == 0 || len(s) > 20 || s[0] > '9' {
		return 0, false
	}
	digits, negative := s, false
	if s[0] == '-' {
		digits, negative = s[1:], true
	}
	if len(digits) == 0 || len(digits) > 19 || digits[0] == '0' && len(s) > 1 {
		return 0, false
	}
	var n uint64 // nineteen digits don't overflow it
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	if negative {
		return -int64(n), n <= 1<<63
	}
	return int64(n), n <= math.MaxInt64
}
