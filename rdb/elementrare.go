package rdb

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"

	"github.com/amberkv/amber/internal/listpack"
)

// beginArray begins an array of Redis 8.8.
func (r *Reader) beginArray() bool {
	if !r.beginCollection(stepIndexed, ElementIndexed) {
		return false
	}
	flag, ok := r.length()
	switch {
	case !ok:
		return false
	case flag == 1:
		return r.skipLengths(1) // where ARINSERT goes on
	case flag > 1:
		return r.unsupported(fmt.Sprintf("an array with flag %d", flag))
	}
	return true
}

// nextIndexed reads an element of an array.
func (r *Reader) nextIndexed() bool {
	v := &r.val
	e := &v.elem
	var tag uint64
	if !r.lengths(&e.Index, &tag) {
		return false
	}
	switch tag {
	case 0, 3:
		return r.readValue()
	case 1, 2:
		n, ok := r.readInt64()
		if !ok {
			return false
		}
		e.More = false
		if tag == 1 {
			e.Value = strconv.AppendInt(v.valueText[:0], n, 10)
		} else {
			v.text = strconv.AppendFloat(v.text[:0], math.Float64frombits(uint64(n)), 'g', 17, 64)
			e.Value = v.text
		}
		return true
	}
	return r.unsupported(fmt.Sprintf("an array element of kind %d", tag))
}

// A template is the field names that several hashes share.
type template struct {
	fields uint64
	names  []byte // each behind its length; nil if there was no room
}

// templateNames is how many bytes of field names of templates a reader keeps. Servers share names among many hashes: there are few.
const maxTemplateNames = 4 << 20

// readTemplateNames reads field names into names, each behind its length. Of more than limit bytes it returns none, but how many names
// there are.
func (r *Reader) readTemplateNames(names []byte, limit int64) (_ []byte, n uint64, ok bool) {
	var format uint64
	if !r.lengths(&format) {
		return nil, 0, false
	}
	keep := func(name []byte) {
		if names == nil || int64(len(names)+len(name))+9 > limit {
			names = nil
			return
		}
		names = append(binary.AppendUvarint(names, uint64(len(name))), name...)
	}
	switch format {
	case 0:
		b, ok := r.readString(&r.value, "hash template")
		if !ok {
			return nil, 0, false
		}
		size, count := uint64(0), 0
		if len(b) > listpack.HeaderSize {
			size, count = listpack.Header(b)
		}
		p := listpack.HeaderSize
		for {
			s, number, next := listpack.Next(b, p)
			if next == 0 {
				break
			}
			if s == nil {
				s = strconv.AppendInt(r.val.fieldText[:0], number, 10)
			}
			keep(s)
			n++
			p = next
		}
		if size != uint64(len(b)) || p != len(b)-1 || b[p] != listpack.EndMark || count != listpack.Unknown && uint64(count) != n {
			return nil, 0, r.corrupt("the field names of a hash template are no listpack")
		}
	case 1:
		if n, ok = r.length(); !ok {
			return nil, 0, false
		}
		for range n {
			s, ok := r.readString(&r.value, "field name of a hash template")
			if !ok {
				return nil, 0, false
			}
			keep(s)
		}
	default:
		return nil, 0, r.unsupported(fmt.Sprintf("a hash template of format %d", format))
	}
	if n == 0 {
		return nil, 0, r.corrupt("a hash template has no fields")
	}
	return names, n, true
}

// beginTemplated begins a hash whose field names are in a template.
func (r *Reader) beginTemplated(f frame) (ok bool) {
	v := &r.val
	v.elem.Kind = ElementField
	var n uint64
	switch f {
	case frameTemplated, frameTemplatedArr:
		if v.templateNames == nil {
			v.templateNames = make([]byte, 0, 256)
		}
		names, fields, ok := r.readTemplateNames(v.templateNames[:0], r.maxPacked)
		if !ok {
			return false
		}
		if names == nil {
			return r.tooLargeFor("hash template", uint64(r.maxPacked)+1, r.maxPacked)
		}
		v.templateNames, v.names, n = names, names, fields
	case frameTemplateRef:
		id, ok := r.length()
		if !ok || !r.useTemplate(id, &n) {
			return false
		}
	}
	if f == frameTemplatedArr || f == frameTemplateRef {
		v.step, v.left, v.length = stepTemplate, n, int64(n)
		return true
	}
	if !r.openPack(packListpack) || !r.packHeader() || !r.packInside() {
		return false
	}
	s, id, big, ok := r.packNext()
	if !ok {
		return false
	}
	if s != nil || big > 0 || id < 0 {
		return r.badPack("it doesn't begin with the number of a template")
	}
	if f == frameString && !r.useTemplate(uint64(id), &n) {
		return false
	}
	v.step, v.length = stepPackTemplate, int64(n)
	return true
}

// useTemplate looks up a template that the stream defined before.
func (r *Reader) useTemplate(id uint64, n *uint64) bool {
	t, ok := r.templates[id]
	switch {
	case !ok:
		return r.corrupt(fmt.Sprintf("a hash uses template %d, which the stream hasn't defined", id))
	case t.names == nil:
		return r.tooLargeFor("all names of hash templates", maxTemplateNames+1, maxTemplateNames)
	}
	r.val.names, *n = t.names, t.fields
	return true
}

// nextTemplateField sets Field to the next name of the template.
func (r *Reader) nextTemplateField() bool {
	v := &r.val
	n, size := binary.Uvarint(v.names)
	if size <= 0 {
		return r.badPack("it has more values than its template has fields")
	}
	end := size + int(n)
	v.elem.Field, v.names = v.names[size:end:end], v.names[end:]
	return true
}

// stepRare reads the next element of what few streams have.
func (r *Reader) stepRare() bool {
	v := &r.val
	if v.left == 0 {
		v.step = stepEnd
		return false
	}
	v.left--
	if v.step == stepIndexed {
		return r.nextIndexed()
	}
	return r.nextTemplateField() && r.readValue()
}

// A rawReader is how far a value was read that has no elements. Its layout is a small program, of which each byte reads
// one thing: l a length, 8 and x eight and sixteen bytes, s a string, p a length and as many bytes in pieces with a length
// each, b a length and as many bytes, c the product of the first two of the last three lengths, times eight bytes, m module items up to their end; ( a length, and what
// stands before the ) as often as that says.
type rawReader struct {
	program string
	at      int
	loop    int       // where the loop begins
	times   uint64    // that the loop is still to run
	bytes   uint64    // still to come, of what has a known length
	pieces  uint64    // still to come, of p
	lengths [3]uint64 // the last ones
}

var rawPrograms = map[frame]string{
	frameModule:      "lm",
	frameModuleItems: "m",
	frameLength:      "l",
	frameCron:        "sx(s)(s)",
	frameSlotRanges:  "(ll)",
	frameBloom:       "lxlll(ls)",
	frameBloom2:      "lxlll(lp)",
	frameCMS:         "lllc",
	frameTopK:        "llll8(sl)b",
	frameCuckoo:      "llllll(p)",
}

// beginRaw begins a value that comes as its bytes in the stream.
func (r *Reader) beginRaw(f frame) bool {
	program, ok := rawPrograms[f]
	if !ok {
		return r.unsupported(fmt.Sprintf("elements of encoding %d", r.entry.Encoding))
	}
	v := &r.val
	v.raw = rawReader{program: program}
	v.step, v.elem.Kind = stepRaw, ElementRaw
	return true
}

// nextRaw reads the next piece of a value's bytes: one thing of its layout, or a part of what is long.
func (r *Reader) nextRaw() bool {
	v := &r.val
	w := &v.raw
	out := v.value[:0]
	// Things are put together to pieces of some size.
	for len(out) < pieceSize/2 {
		if w.bytes > 0 {
			n := min(w.bytes, pieceSize/2)
			part, ok := r.take(n, &v.text)
			if !ok {
				return false
			}
			out = append(out, part...)
			w.bytes -= n
			continue
		}
		if w.pieces > 0 {
			var n uint64
			if out, n = r.rawLength(out); r.err != nil {
				return false
			}
			if n == 0 || n > w.pieces {
				return r.corrupt(fmt.Sprintf("a piece of %d bytes, of a filter of which %d are left", n, w.pieces))
			}
			w.bytes, w.pieces = n, w.pieces-n
			continue
		}
		if w.at == len(w.program) {
			break
		}
		op := w.program[w.at]
		w.at++
		var n uint64
		switch op {
		case 'l', '(', 'p', 'b':
			if out, n = r.rawLength(out); r.err != nil {
				return false
			}
			w.lengths[0], w.lengths[1], w.lengths[2] = w.lengths[1], w.lengths[2], n
			switch op {
			case 'p':
				w.pieces = n
			case 'b':
				w.bytes = n
			case '(':
				w.loop, w.times = w.at, n
				w.skipLoop()
			}
		case ')':
			w.times--
			w.at = w.loop
			w.skipLoop()
		case '8':
			w.bytes = 8
		case 'x':
			w.bytes = 16
		case 'c':
			var ok bool
			if n, ok = r.times(w.lengths[0], w.lengths[1]); !ok {
				return false
			}
			if w.bytes, ok = r.times(n, 8); !ok {
				return false
			}
		case 's':
			if out = r.rawString(out); r.err != nil {
				return false
			}
		case 'm':
			if out, n = r.rawLength(out); r.err != nil {
				return false
			}
			w.at--
			switch n {
			case moduleEOF:
				w.at++
			case moduleSint, moduleUint:
				if out, _ = r.rawLength(out); r.err != nil {
					return false
				}
			case moduleFloat:
				w.bytes = 4
			case moduleDouble:
				w.bytes = 8
			case moduleString:
				if out = r.rawString(out); r.err != nil {
					return false
				}
			default:
				return r.corrupt(fmt.Sprintf("module data have an item of unknown kind %d", n))
			}
		}
	}
	v.value, v.elem.Value = out, out
	if len(out) == 0 {
		v.step = stepEnd
		return false
	}
	return true
}

// skipLoop goes behind the loop if it is to run no more.
func (w *rawReader) skipLoop() {
	if w.times > 0 {
		return
	}
	for w.program[w.at] != ')' {
		w.at++
	}
	w.at++
}

// rawLength reads a length and appends its bytes to out.
func (r *Reader) rawLength(out []byte) ([]byte, uint64) {
	n, ok := r.peekLength()
	if !ok {
		return nil, 0
	}
	size := int(lengthSizes[r.buf[r.pos]])
	out = append(out, r.buf[r.pos:r.pos+size]...)
	r.pos += size
	return out, n
}

// rawString reads what a string begins with and appends it to out; the rest is left to raw.bytes.
func (r *Reader) rawString(out []byte) []byte {
	if !r.need(1) {
		r.starved()
		return nil
	}
	w := &r.val.raw
	switch c := r.buf[r.pos]; {
	case c < stringInt8:
		out, w.bytes = r.rawLength(out)
		return out
	case c < stringLZF:
		w.bytes = uint64(stringSizes[c])
		return out
	case c > stringLZF:
		r.corrupt(fmt.Sprintf("byte %#02x begins no string", c))
		return nil
	}
	out = append(out, stringLZF)
	r.pos++
	var size uint64
	if out, w.bytes = r.rawLength(out); r.err != nil {
		return nil
	}
	if out, size = r.rawLength(out); r.err != nil {
		return nil
	}
	r.checkLZF(w.bytes, size)
	return out
}
