package rdb

import (
	"math"
	"strconv"

	"github.com/amberkv/amber/internal/listpack"
	"github.com/amberkv/amber/internal/lzf"
)

// Most values of most streams are small listpacks. Those are walked here, where they stand, without making elements of
// their entries. What is odd in any way is left to the elements, which go on from there: they know what is wrong.

// walkPlain checks the elements of sets, hashes and sorted sets of the plain encodings, and tells whether there were any. It
// returns false if something is wrong.
func (c *Checker) walkPlain() (any, ok bool) {
	r := c.r
	v := &r.val
	s := v.step
	if s != stepMembers && s != stepFields && s != stepScored {
		return false, true
	}
	any = v.left > 0
	for ; v.left > 0; v.left-- {
		name, p := r.plainAt(r.pos)
		if p > 0 {
			r.pos = p
		} else if name, ok = r.readString(&v.value, "name of an element"); !ok {
			return any, false
		}
		if !c.members.Add(name, r.offset()) {
			return any, c.twice(v.elem.Kind)
		}
		switch s {
		case stepFields:
			ok = r.checkString()
		case stepScored:
			var bits int64
			if bits, ok = r.readInt64(); ok && math.IsNaN(math.Float64frombits(uint64(bits))) {
				ok = r.corrupt("a score is not a number")
			}
		default:
			ok = true
		}
		if !ok {
			return any, false
		}
	}
	return any, true
}

// walkPacked checks the elements of a packed value up to its end, or to something that is odd, and tells whether there
// were any. It returns false if something is wrong.
func (c *Checker) walkPacked() (any, ok bool) {
	v := &c.r.val
	k := &v.pack
	if v.step < stepPackItems || v.step > stepPackTemplate || k.windowed || k.format != packListpack {
		return false, true
	}
	ok = true
	switch v.step {
	case stepPackMembers:
		ok = c.walkMembers(k, 0)
	case stepPackFields:
		ok = c.walkMembers(k, 1)
	case stepPackScored:
		ok = c.walkScored(k)
	}
	return k.entries > 0, ok
}

// walk goes over up to n entries of a listpack.
func (k *pack) walk(n int) {
	next, skipped := listpack.Skip(k.b, k.p, n)
	k.p = next
	k.entries += uint64(skipped)
}

// walkMembers adds entries to what has to be different, and goes over as many as values follow each.
func (c *Checker) walkMembers(k *pack, values int) bool {
	at := c.r.offset()
	for {
		s, n, p := listpack.Next(k.b, k.p)
		if p == 0 {
			return true
		}
		if values > 0 {
			var got int
			if p, got = listpack.Skip(k.b, p, values); got < values {
				return true
			}
		}
		if s == nil {
			s = c.number(n)
		}
		k.p = p
		k.entries += uint64(1 + values)
		if !c.members.Add(s, at) {
			return c.twice(c.r.val.elem.Kind)
		}
	}
}

func (c *Checker) number(n int64) []byte {
	c.scratch = strconv.AppendInt(c.scratch[:0], n, 10)
	return c.scratch
}

// walkScored does the same with members that have scores.
func (c *Checker) walkScored(k *pack) bool {
	r := c.r
	at := r.offset()
	for {
		s, n, p := listpack.Next(k.b, k.p)
		if p == 0 {
			return true
		}
		if s == nil {
			s = c.number(n)
		}
		text, score, p := listpack.Next(k.b, p)
		if p == 0 {
			return true
		}
		value := float64(score)
		if text != nil {
			var ok bool
			if value, ok = r.parseScore(text); !ok {
				return false
			}
		}
		k.p = p
		k.entries += 2
		if !c.pairs.add(r, s, value) {
			return false
		}
		if !c.members.Add(s, at) {
			return c.twice(ElementScored)
		}
	}
}

// checkString consumes a string, and makes sure that it expands if it is compressed.
func (r *Reader) checkString() bool {
	if r.need(1) && r.buf[r.pos] != stringLZF {
		return r.skipString()
	}
	_, ok := r.checkSized()
	return ok
}

// checkSized is checkString, and returns how long the string is, unless it is a number.
func (r *Reader) checkSized() (size uint64, ok bool) {
	if !r.need(1) {
		return 0, r.starved()
	}
	switch c := r.buf[r.pos]; {
	case c < stringInt8:
		n, ok := r.length()
		return n, ok && r.skip(n)
	case c != stringLZF:
		return 0, r.skipString()
	}
	r.pos++
	in, out, ok := r.lzfLengths()
	if !ok {
		return 0, false
	}
	if in <= uint64(len(r.buf)) {
		packed, ok := r.take(in, nil)
		if ok && lzf.Check(packed, out) != nil {
			ok = r.corrupt("a compressed string doesn't expand to its length")
		}
		return out, ok
	}
	ok = r.openWindow(packString, in, out, true)
	for k := &r.val.pack; ok && k.rest > 0; k.p = len(k.b) {
		ok = r.packMore(1)
	}
	return out, ok
}
