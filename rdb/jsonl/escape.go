package jsonl

import (
	"encoding/binary"
	"math/bits"

	"github.com/amberkv/amber/internal/extsort"
)

// escaped has what is written for a byte inside of a JSON string: the text from the lowest byte on, its length in the highest.
type escaped [256]uint64

// newEscaped and textOrder make tables, once for each Writer.
func newEscaped() *escaped {
	const hex = "0123456789abcdef"
	t := new(escaped)
	for i := range t {
		text := string([]byte{'\\', '\\', 'x', hex[i>>4], hex[i&15]})
		switch {
		case i == '"':
			text = `\"`
		case i == '\\':
			text = `\\\\`
		case i >= 0x20 && i <= 0x7e:
			text = string(rune(i))
		}
		for n, c := range []byte(text) {
			t[i] |= uint64(c) << (8 * n)
		}
		t[i] |= uint64(len(text)) << 56
	}
	return t
}

// textOrder returns the order of byte strings by their text, before it becomes JSON. No byte's text begins another's, so
// that it is enough to rank the bytes: those written as \x.. go after the backslash, which is written \\.
func textOrder() *extsort.Order {
	o := new(extsort.Order)
	rank := byte(0)
	give := func(from, to int) {
		for c := from; c <= to; c++ {
			o[c] = rank
			rank++
		}
	}
	give(0x20, '\\')
	give(0, 0x1f)
	give(0x7f, 0xff)
	give('\\'+1, 0x7e)
	return o
}

// longestText is how many bytes stand for a byte at most; textSlack is what appendText may write behind the text.
const (
	longestText = 5
	textSlack   = 8
)

// appendText appends s as it stands inside of a JSON string. dst has room for longestText bytes for each of s and textSlack.
func (t *escaped) appendText(dst, s []byte) []byte {
	out := dst[len(dst):cap(dst)]
	o, i := 0, 0
	for len(s)-i >= 8 {
		x := binary.LittleEndian.Uint64(s[i:])
		binary.LittleEndian.PutUint64(out[o:], x)
		m := special(x)
		if m == 0 {
			i += 8
			o += 8
			continue
		}
		n := bits.TrailingZeros64(m) >> 3
		i += n
		o += n
		// Where one byte doesn't stand for itself others follow, often.
		for e := t[s[i]]; e>>56 > 1; e = t[s[i]] {
			binary.LittleEndian.PutUint64(out[o:], e)
			o += int(e >> 56)
			if i++; i == len(s) {
				break
			}
		}
	}
	for ; i < len(s); i++ {
		e := t[s[i]]
		binary.LittleEndian.PutUint64(out[o:], e)
		o += int(e >> 56)
	}
	return dst[:len(dst)+o]
}

// special has the high bit set in the first byte of x, in memory order, that doesn't stand for itself; it is 0 if there is none.
// Bits behind the first one mean nothing.
func special(x uint64) uint64 {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	quote := x ^ ones*'"'
	slash := x ^ ones*'\\'
	return ((x - ones*0x20) | // below 0x20
		(quote - ones) | (slash - ones) | // equal
		(x + ones) | // 0x7f
		x) & highs // from 0x80 on, and not every bit of the others is right then
}
