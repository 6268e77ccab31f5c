// Package zipmap reads zipmaps, which small hashes were made of before Redis 2.6.
package zipmap

import "encoding/binary"

// EndMark is the last byte of a zipmap.
const EndMark = 0xFF

// Unknown is the least number of pairs that says that they have to be counted.
const Unknown = 254

// Next reads the pair of b at p, of which both strings are lent from b. The next pair is at next. A next of 0 means that here is no pair, or
// not all of it: p is at the end mark, at the end of b, or at something that is wrong. The first pair is at 1, behind the number of pairs.
func Next(b []byte, p int) (field, value []byte, next int) {
	n, p, ok := size(b, p)
	if !ok || n > len(b)-p {
		return nil, nil, 0
	}
	field = b[p : p+n : p+n]
	n, p, ok = size(b, p+n)
	if !ok || p >= len(b) {
		return nil, nil, 0
	}
	free := int(b[p])
	p++
	if n > len(b)-p || free > len(b)-p-n {
		return nil, nil, 0
	}
	return field, b[p : p+n : p+n], p + n + free
}

// size reads the length of a string at p.
func size(b []byte, p int) (n, next int, ok bool) {
	switch {
	case p >= len(b) || b[p] == EndMark:
		return 0, 0, false
	case b[p] < 254:
		return int(b[p]), p + 1, true
	case len(b)-p < 5:
		return 0, 0, false
	}
	u := uint64(binary.LittleEndian.Uint32(b[p+1:]))
	return int(min(u, uint64(len(b)))), p + 5, u <= uint64(len(b))
}
