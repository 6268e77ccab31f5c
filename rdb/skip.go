package rdb

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"

	"github.com/amberkv/amber/internal/lzf"
)

// The functions of this file consume what they are named for. On an error they set Reader.err and return false.
//
// No number in a stream is trusted: it is never the size of an allocation, and a count of elements ends at the latest when
// the source does, since every element takes a byte or more.

// How a string begins that isn't plain: with one of these bytes instead of a length.
const (
	stringInt8  = 0xC0
	stringInt16 = 0xC1
	stringInt32 = 0xC2
	stringLZF   = 0xC3
)

// The items that module data are made of.
const (
	moduleEOF    = 0
	moduleSint   = 1
	moduleUint   = 2
	moduleFloat  = 3
	moduleDouble = 4
	moduleString = 5
)

// skip consumes n bytes.
func (r *Reader) skip(n uint64) bool {
	if n <= uint64(r.end-r.pos) {
		r.pos += int(n)
		return true
	}
	return r.discard(n) || r.starved()
}

// skipEach consumes n things of the given size in bytes.
func (r *Reader) skipEach(n, size uint64) bool {
	n, ok := r.times(n, size)
	return ok && r.skip(n)
}

// times multiplies a count in the stream.
func (r *Reader) times(n, by uint64) (uint64, bool) {
	if by != 0 && n > math.MaxUint64/by {
		return 0, r.corrupt(fmt.Sprintf("a length of %d elements is impossible", n))
	}
	return n * by, true
}

// length reads a length: one, two, five or nine bytes.
func (r *Reader) length() (uint64, bool) {
	if r.pos < r.end {
		if c := r.buf[r.pos]; c < 0x40 {
			r.pos++
			return uint64(c), true
		}
	}
	n, ok := r.peekLength()
	if ok {
		r.pos += int(lengthSizes[r.buf[r.pos]])
	}
	return n, ok
}

// What the first byte of a length, and of a string, says about how many bytes it takes in all. 0 means that the first byte doesn't tell,
// or is wrong. Looking it up is quicker than branching, for the processor can't foresee what comes.
var lengthSizes, stringSizes = func() (lengths, strings [256]uint8) {
	for c := range 0x40 {
		lengths[c] = 1
		lengths[0x40+c] = 2
		strings[c] = uint8(1 + c)
	}
	lengths[0x80], lengths[0x81] = 5, 9
	strings[stringInt8], strings[stringInt16], strings[stringInt32] = 2, 3, 5
	return lengths, strings
}()

// peekLength reads a length without consuming it.
func (r *Reader) peekLength() (uint64, bool) {
	if !r.need(1) {
		return 0, r.starved()
	}
	c := r.buf[r.pos]
	if c > 0x81 {
		if c >= 0xC0 {
			return 0, r.corrupt(fmt.Sprintf("byte %#02x begins a string, but a length belongs here", c))
		}
		return 0, r.corrupt(fmt.Sprintf("byte %#02x begins no length", c))
	}
	if !r.need(int(lengthSizes[c])) {
		return 0, r.starved()
	}
	b := r.buf[r.pos:]
	switch {
	case c < 0x40:
		return uint64(c), true
	case c < 0x80:
		return uint64(c&0x3f)<<8 | uint64(b[1]), true
	case c == 0x80:
		return uint64(binary.BigEndian.Uint32(b[1:])), true
	}
	return binary.BigEndian.Uint64(b[1:]), true
}

// lengths reads a length into each of dst.
func (r *Reader) lengths(dst ...*uint64) bool {
	for _, d := range dst {
		var ok bool
		if *d, ok = r.length(); !ok {
			return false
		}
	}
	return true
}

// skipLengths consumes n lengths.
func (r *Reader) skipLengths(n uint64) bool {
	for ; n > 0; n-- {
		if r.pos < r.end {
			if size := int(lengthSizes[r.buf[r.pos]]); size > 0 && size <= r.end-r.pos {
				r.pos += size
				continue
			}
		}
		if _, ok := r.length(); !ok {
			return false
		}
	}
	return true
}

// skipString consumes a string of any encoding.
func (r *Reader) skipString() bool { return r.skipNear() || r.skipAnyString() }

// skipNear consumes a string that stands whole in the buffer, if stringSize knows it.
func (r *Reader) skipNear() bool {
	b := r.buf[r.pos:r.end]
	if len(b) < stringHead {
		return false
	}
	size, saved := stringSize(b)
	if size == 0 || size > len(b) {
		return false
	}
	r.pos += size
	r.watch.saved += int64(saved)
	return true
}

// stringHead is how many bytes stringSize looks at.
const stringHead = 8

// stringSize returns how many bytes the string takes in all that b begins with, and how many its compression saves, if it takes
// no more than stringHead bytes to tell; 0 otherwise, also if no string begins so. It is the quick way of what skipAnyString does.
func stringSize(b []byte) (size, saved int) {
	_ = b[stringHead-1]
	c := b[0]
	if size := int(stringSizes[c]); size != 0 {
		return size, 0
	}
	switch {
	case c < 0x80:
		return 2 + (int(c&0x3f)<<8 | int(b[1])), 0
	case c == 0x80:
		if n := binary.BigEndian.Uint32(b[1:]); n < 1<<30 {
			return 5 + int(n), 0
		}
		return 0, 0
	case c != stringLZF || b[1] >= 0x80:
		return 0, 0
	}
	in, p := int(b[1]), 2
	if in >= 0x40 {
		in, p = (in&0x3f)<<8|int(b[2]), 3
	}
	out := int(b[p])
	p++
	if out >= 0x40 {
		if out >= 0x80 {
			return 0, 0
		}
		out = (out&0x3f)<<8 | int(b[p])
		p++
	}
	if !lzf.Plausible(uint64(in), uint64(out)) {
		return 0, 0
	}
	return p + in, out - in
}

// skipAnyString is skipString wherever the string stands.
func (r *Reader) skipAnyString() bool {
	if !r.need(1) {
		return r.starved()
	}
	c := r.buf[r.pos]
	switch {
	case c < stringInt8:
		n, ok := r.length()
		return ok && r.skip(n)
	case c < stringLZF:
		return r.skip(uint64(stringSizes[c]))
	case c == stringLZF:
		r.pos++
		in, _, ok := r.lzfLengths()
		return ok && r.skip(in)
	}
	return r.corrupt(fmt.Sprintf("byte %#02x begins no string", c))
}

// lzfLengths reads the two lengths of a compressed string.
func (r *Reader) lzfLengths() (in, out uint64, ok bool) {
	if !r.lengths(&in, &out) {
		return 0, 0, false
	}
	return in, out, r.checkLZF(in, out)
}

// checkLZF checks and counts them.
func (r *Reader) checkLZF(in, out uint64) bool {
	r.watch.saved += int64(out - in)
	if !lzf.Plausible(in, out) {
		return r.corrupt(fmt.Sprintf("a compressed string of %d bytes can't expand to %d", in, out))
	}
	return true
}

// skipStrings consumes n strings, each of which a number of other bytes follows. This is where most elements of most streams
// pass.
func (r *Reader) skipStrings(n, tail uint64) bool {
	for n > 0 {
		b, p := r.buf[:r.end], r.pos
		for n > 0 && p+stringHead <= len(b) {
			c := b[p]
			if c < 0x40 {
				p += 1 + int(c) + int(tail)
				n--
				continue
			}
			size, saved := stringSize(b[p:])
			if size == 0 {
				break
			}
			r.watch.saved += int64(saved)
			p += size + int(tail)
			n--
		}
		if over := p - len(b); over > 0 {
			r.pos = r.end
			if !r.skip(uint64(over)) {
				return false
			}
			continue
		}
		r.pos = p
		if n > 0 {
			if !r.skipAnyString() || !r.skip(tail) {
				return false
			}
			n--
		}
	}
	return true
}

// readString returns a string. It lends it from the buffer where it stands there whole and plain, so that who keeps it
// has to pin the buffer, and puts it into *scratch otherwise, which grows as bytes arrive up to maxKey.
func (r *Reader) readString(scratch *[]byte, what string) ([]byte, bool) {
	if !r.need(1) {
		return nil, r.starved()
	}
	var number int64
	switch c := r.buf[r.pos]; {
	case c < stringInt8:
		n, ok := r.length()
		if !ok {
			return nil, false
		}
		return r.readPlain(n, scratch, what)
	case c == stringInt8:
		if !r.need(2) {
			return nil, r.starved()
		}
		number = int64(int8(r.buf[r.pos+1]))
		r.pos += 2
	case c == stringInt16:
		if !r.need(3) {
			return nil, r.starved()
		}
		number = int64(int16(binary.LittleEndian.Uint16(r.buf[r.pos+1:])))
		r.pos += 3
	case c == stringInt32:
		if !r.need(5) {
			return nil, r.starved()
		}
		number = int64(int32(binary.LittleEndian.Uint32(r.buf[r.pos+1:])))
		r.pos += 5
	case c == stringLZF:
		r.pos++
		return r.readLZF(scratch, what)
	default:
		return nil, r.corrupt(fmt.Sprintf("byte %#02x begins no string", c))
	}
	*scratch = strconv.AppendInt((*scratch)[:0], number, 10)
	return *scratch, true
}

// readPlain returns the next n bytes.
func (r *Reader) readPlain(n uint64, scratch *[]byte, what string) ([]byte, bool) {
	if n > uint64(r.maxKey) {
		return nil, r.tooLarge(what, n)
	}
	return r.take(n, scratch)
}

// take returns the next n bytes, lent from the buffer if they have room there, and otherwise in *scratch, which grows as
// they arrive.
func (r *Reader) take(n uint64, scratch *[]byte) ([]byte, bool) {
	if n <= uint64(len(r.buf)) {
		if !r.need(int(n)) {
			return nil, r.starved()
		}
		s := r.buf[r.pos : r.pos+int(n) : r.pos+int(n)]
		r.pos += int(n)
		return s, true
	}
	*scratch = (*scratch)[:0]
	for n > 0 {
		if !r.need(1) {
			return nil, r.starved()
		}
		part := r.buf[r.pos : r.pos+int(min(uint64(r.end-r.pos), n))]
		*scratch = append(*scratch, part...)
		r.pos += len(part)
		n -= uint64(len(part))
	}
	return *scratch, true
}

// readLZF returns a compressed string, of which the first byte is consumed.
func (r *Reader) readLZF(scratch *[]byte, what string) ([]byte, bool) {
	in, out, ok := r.lzfLengths()
	if !ok {
		return nil, false
	}
	if out > uint64(r.maxKey) {
		return nil, r.tooLarge(what, out)
	}
	// Once these bytes have arrived, out is at most lzf.MaxRatio times as many.
	packed, ok := r.readPlain(in, &r.packed, what)
	if !ok {
		return nil, false
	}
	if uint64(cap(*scratch)) < out {
		*scratch = make([]byte, out)
	}
	*scratch = (*scratch)[:out]
	if lzf.Decompress(*scratch, packed) != nil {
		return nil, r.corrupt("a compressed string doesn't expand to its length")
	}
	return *scratch, true
}

// skipValue consumes a value.
func (r *Reader) skipValue(f frame) bool {
	switch f {
	case frameString:
		return r.skipString()
	case frameStrings, framePairs, frameTriples, frameZSet, frameZSet2, frameQuicklist2, frameHash2:
		n, ok := r.length()
		return ok && r.skipCollection(f, n)
	case frameHashTTL:
		if !r.skip(8) {
			return false
		}
		fallthrough
	case frameHashTTLPre:
		n, ok := r.length()
		for ; ok && n > 0; n-- {
			ok = r.skipLengths(1) && r.skipStrings(2, 0)
		}
		return ok
	case framePackedTTL:
		return r.skip(8) && r.skipString()
	case frameStream1, frameStream2, frameStream3, frameStream4, frameStream5:
		return r.skipStream(int(f-frameStream1) + 1)
	case frameModule:
		return r.skipLengths(1) && r.skipModuleItems()
	case frameModuleItems:
		return r.skipModuleItems()
	case frameJournal:
		return r.skipJournal()
	}
	return r.skipRare(f)
}

// skipCollection consumes n elements.
func (r *Reader) skipCollection(f frame, n uint64) (ok bool) {
	switch f {
	case frameStrings:
		if r.watch.open && r.watch.info.Nodes > 0 {
			for ok = true; ok && n > 0; n-- {
				r.watchNode(false)
				ok = r.skipString()
			}
			return ok
		}
		return r.skipStrings(n, 0)
	case framePairs:
		n, ok = r.times(n, 2)
		return ok && r.skipStrings(n, 0)
	case frameTriples:
		n, ok = r.times(n, 3)
		return ok && r.skipStrings(n, 0)
	case frameZSet2:
		return r.skipStrings(n, 8)
	case frameHash2:
		for ok = true; ok && n > 0; n-- {
			ok = r.skipString() && r.skipStrings(1, 8)
		}
	case frameQuicklist2:
		for ok = true; ok && n > 0; n-- {
			var container uint64
			if container, ok = r.length(); ok {
				if container != 1 && container != 2 {
					return r.corrupt(fmt.Sprintf("a list node is of kind %d instead of 1 or 2", container))
				}
				if r.watch.open {
					r.watchNode(container == 1)
				}
				ok = r.skipString()
			}
		}
	case frameZSet:
		for ok = true; ok && n > 0; n-- {
			ok = r.skipString() && r.skipASCIIDouble()
		}
	}
	return ok
}

// skipASCIIDouble consumes a score of the first zset encoding: its length and decimal text, or 253, 254 or 255 for
// NaN and the infinities.
func (r *Reader) skipASCIIDouble() bool {
	if !r.need(1) {
		return r.starved()
	}
	n := r.buf[r.pos]
	r.pos++
	return n >= 253 || r.skip(uint64(n))
}

// skipStream consumes a stream. Each level adds fields to those before.
func (r *Reader) skipStream(level int) bool {
	nodes, ok := r.length()
	if !ok {
		return false
	}
	if nodes, ok = r.times(nodes, 2); !ok || !r.skipStrings(nodes, 0) {
		return false
	}
	meta := uint64(2) // last id
	if level >= 2 {
		meta += 5 // first id, highest deleted id, entries added
	}
	var entries uint64
	if !r.lengths(&entries) {
		return false
	}
	r.watchStream(entries)
	if !r.skipLengths(meta) {
		return false
	}
	groups, ok := r.length()
	for ; ok && groups > 0; groups-- {
		ok = r.skipGroup(level)
	}
	if !ok || level < 4 {
		return ok
	}
	// What makes adding idempotent: its settings, the producers and their ids, two counters.
	var producers uint64
	if !r.skipLengths(2) || !r.lengths(&producers) {
		return false
	}
	for ; producers > 0; producers-- {
		var ids uint64
		if !r.skipString() || !r.lengths(&ids) {
			return false
		}
		for ; ids > 0; ids-- {
			if !r.skipString() || !r.skipLengths(2) {
				return false
			}
		}
	}
	return r.skipLengths(2)
}

// skipGroup consumes a consumer group.
func (r *Reader) skipGroup(level int) bool {
	fields := uint64(2) // last id
	if level >= 2 {
		fields++ // entries read
	}
	var pending, consumers uint64
	if !r.skipString() || !r.skipLengths(fields) || !r.lengths(&pending) {
		return false
	}
	for ; pending > 0; pending-- {
		// The id, the time of delivery, and how often.
		if !r.skip(16+8) || !r.skipLengths(1) {
			return false
		}
	}
	if !r.lengths(&consumers) {
		return false
	}
	times := uint64(8) // when it was seen
	if level >= 3 {
		times += 8 // when it was active
	}
	for ; consumers > 0; consumers-- {
		var ids uint64
		if !r.skipString() || !r.skip(times) || !r.lengths(&ids) || !r.skipEach(ids, 16) {
			return false
		}
	}
	if level < 5 {
		return true
	}
	var nacked uint64
	return r.lengths(&nacked) && r.skipEach(nacked, 16)
}

// skipModuleItems consumes items up to and with the one that ends them.
func (r *Reader) skipModuleItems() bool {
	for {
		item, ok := r.length()
		if !ok {
			return false
		}
		switch item {
		case moduleEOF:
			return true
		case moduleSint, moduleUint:
			ok = r.skipLengths(1)
		case moduleFloat:
			ok = r.skip(4)
		case moduleDouble:
			ok = r.skip(8)
		case moduleString:
			ok = r.skipString()
		default:
			ok = r.corrupt(fmt.Sprintf("module data have an item of unknown kind %d", item))
		}
		if !ok {
			return false
		}
	}
}
