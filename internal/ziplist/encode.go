package ziplist

import (
	"encoding/binary"
	"math"

	"github.com/amberkv/amber/internal/listpack"
)

// A ziplist begins with its size in bytes, the offset of its last entry, and how many entries it has.
const headerLen = 10

// A Builder makes ziplists as servers since Redis 2.6 write and read them. Reset begins one.
type Builder struct {
	b    []byte
	last int // offset of the last entry, 0 if there is none
	n    int
}

// Reset begins an empty ziplist. What Bytes returned before is overwritten.
func (z *Builder) Reset() {
	*z = Builder{b: append(z.b[:0], make([]byte, headerLen)...)}
}

// Len returns how many bytes the ziplist takes so far.
func (z *Builder) Len() int { return len(z.b) + 1 }

// Bytes ends the ziplist and returns it. It is borrowed until the next Reset.
func (z *Builder) Bytes() []byte {
	z.b = append(z.b, 0xFF)
	putHeader(z.b, uint64(len(z.b)), uint64(max(z.last, headerLen)), z.n)
	return z.b
}

func putHeader(b []byte, size, last uint64, n int) {
	binary.LittleEndian.PutUint32(b, uint32(size))
	binary.LittleEndian.PutUint32(b[4:], uint32(last))
	binary.LittleEndian.PutUint16(b[8:], uint16(min(n, math.MaxUint16)))
}

// entry begins an entry: with the length of the one before it, so that it can be walked backwards.
func (z *Builder) entry() {
	before := 0
	if z.last > 0 {
		before = len(z.b) - z.last
	}
	z.last = len(z.b)
	z.n++
	if before < 254 {
		z.b = append(z.b, byte(before))
		return
	}
	z.b = binary.LittleEndian.AppendUint32(append(z.b, 254), uint32(before))
}

// AppendString adds an entry: a number if s is one in its only decimal form, as servers do, and else a string.
func (z *Builder) AppendString(s []byte) {
	if v, ok := listpack.ParseInt(s); ok {
		z.AppendInt(v)
		return
	}
	z.AppendBytes(s)
}

// AppendBytes adds an entry that is a string, whatever it looks like.
func (z *Builder) AppendBytes(s []byte) {
	z.entry()
	z.b = append(appendStringHeader(z.b, uint64(len(s))), s...)
}

func appendStringHeader(b []byte, n uint64) []byte {
	switch {
	case n < 1<<6:
		return append(b, byte(n))
	case n < 1<<14:
		return append(b, 0x40|byte(n>>8), byte(n))
	}
	return binary.BigEndian.AppendUint32(append(b, 0x80), uint32(n))
}

// AppendInt adds an entry that is a number.
func (z *Builder) AppendInt(v int64) {
	z.entry()
	switch {
	case v >= 0 && v <= 12:
		z.b = append(z.b, 0xF1+byte(v))
	case v == int64(int8(v)):
		z.b = append(z.b, 0xFE, byte(v))
	case v == int64(int16(v)):
		z.b = append(z.b, 0xC0, byte(v), byte(v>>8))
	case v >= -1<<23 && v < 1<<23:
		z.b = append(z.b, 0xF0, byte(v), byte(v>>8), byte(v>>16))
	case v == int64(int32(v)):
		z.b = binary.LittleEndian.AppendUint32(append(z.b, 0xD0), uint32(v))
	default:
		z.b = binary.LittleEndian.AppendUint64(append(z.b, 0xE0), uint64(v))
	}
}

// MaxSingle is the longest string that a ziplist can hold.
const MaxSingle = math.MaxUint32 - headerLen - 1 - 5 - 1

// AppendSingle appends to dst how a ziplist begins whose only entry is a string of n bytes, at most MaxSingle: that string
// and the byte End follow. It returns how many bytes the ziplist takes in all.
func AppendSingle(dst []byte, n uint64) ([]byte, uint64) {
	start := len(dst)
	dst = append(dst, make([]byte, headerLen)...)
	dst = appendStringHeader(append(dst, 0), n)
	size := uint64(len(dst)-start) + n + 1
	putHeader(dst[start:], size, headerLen, 1)
	return dst, size
}

// End is the last byte of every ziplist.
const End = 0xFF
