package rdb

import (
	"fmt"
	"math"
	"strconv"
)

// A valueWriter writes the elements of a value.
type valueWriter struct {
	kind  ElementKind // that it takes; 0 if there is no value
	code  uint8       // the type byte
	known bool        // the number of elements
	held  bool        // the value
	left  uint64      // elements, if their number is known
	n     uint64      // elements so far, if not
	piece uint64      // bytes left of a string that comes in pieces
	raw   bool        // JSON: its text is no string

	expiry     bool  // the encoding has a place for it
	dropExpiry bool  // it is left out on purpose
	expireAt   int64 // of the element in pieces
	score      float64
}

// The type bytes of plain encodings.
const (
	codeString     = 0
	codeList       = 1
	codeSet        = 2
	codeZSetText   = 3
	codeHash       = 4
	codeZSet       = 5
	codeModule     = 7
	codeIntset     = 11
	codeQuicklist  = 14
	codeStream1    = 15
	codeQuicklist2 = 18
	codeStream2    = 19
	codeStream3    = 21
	codeValkeyHash = 22
	codeRedisHash  = 24
	codeStream4    = 26
	codeStream5    = 27
	codeJSON       = 30 // Dragonfly, as the next two
	codeExpireHash = 31
	codeExpireSet  = 32
)

// ttlBase is what Redis adds to the expiries of a hash, minus one: so that they stand as they are. It is meant to be the least
// of them, which isn't known when it has to be written, and only saves space.
const ttlBase = 1

// begin writes a key up to where its elements follow.
func (v *valueWriter) begin(w *Writer, e *Entry, s Shape) {
	*v = valueWriter{known: s.Len > 0, left: s.Len}
	d := w.dialect
	counted := true
	if e.Type == TypeStream && d.streamLevel() == 0 {
		w.unsupported("a value of type stream")
		return
	}
	v.code, v.expiry = d.elementCode(e.Type, s.Expiry)
	switch e.Type {
	case TypeString:
		v.kind, counted = ElementBytes, false
	case TypeList:
		v.kind = ElementItem
		if v.code == codeQuicklist2 {
			v.known = false // it counts nodes
			w.list.reset()
		}
	case TypeSet:
		v.kind = ElementMember
	case TypeZSet:
		v.kind = ElementScored
	case TypeHash:
		v.kind = ElementField
	case TypeStream:
		v.kind, v.known = ElementEntry, false
	case TypeJSON:
		v.kind, v.raw, counted = ElementBytes, true, false
	default:
		v.kind, v.code, counted = ElementRaw, e.Encoding, false
		if t := d.encodings()[v.code]; t.typ != e.Type {
			w.unsupported(fmt.Sprintf("a value of type %v as encoding %d", e.Type, v.code))
			return
		}
	}
	if !d.has(d.encodings(), v.code) {
		v.kind = 0
		w.unsupported("a value of type " + e.Type.String())
		return
	}
	if !w.attributes(e) {
		return
	}
	v.known = v.known && counted
	o := &w.out
	o.byte(v.code)
	o.str(e.Key)
	if v.code == codeRedisHash {
		o.number(ttlBase)
	}
	switch {
	case !counted:
	case v.known:
		o.length(s.Len)
	default:
		v.held = true
		o.hold()
		if v.kind == ElementEntry {
			w.stream.begin(d.streamLevel())
		}
	}
}

// WriteElement adds an element to the value of the entry that WriteEntry began last. Elements are those that Reader.Element
// gives, of the kinds that belong to the type of the entry and in its order. What comes in pieces tells in Left how many
// bytes follow; what a stream has of groups and the like, how many more do.
//
// More elements than Shape announced, or of another kind, are an error that wraps ErrOutOfOrder. An expiry of a field or member where
// Shape or the dialect has none is an *UnsupportedError. Of streams, what the dialect's encoding has no place for is left out.
func (w *Writer) WriteElement(e *Element) error {
	v := &w.value
	if w.err != nil {
		return w.err
	}
	if v.kind != e.Kind {
		if v.kind == ElementEntry {
			return w.stream.element(w, e)
		}
		return w.disorder(fmt.Sprintf("an element of kind %d instead of %d", e.Kind, v.kind))
	}
	o := &w.out
	if v.piece > 0 {
		return v.goOn(w, e)
	}
	switch v.kind {
	case ElementRaw:
		o.write(e.Value)
		return w.fail()
	case ElementEntry:
		return w.stream.entry(w, e)
	case ElementBytes:
		if v.n++; v.n > 1 {
			return w.disorder("more bytes than the value has")
		}
	default:
		if v.known {
			if v.left == 0 {
				return w.disorder("more elements than Shape.Len says")
			}
			v.left--
		} else {
			v.n++
		}
	}
	switch {
	case v.expiry && (e.ExpireAt < 0 || e.ExpireAt > w.dialect.lastExpiry()):
		return w.unsupported(fmt.Sprintf("a field or member that expires at %d", e.ExpireAt))
	case e.ExpireAt == 0 || v.expiry:
		v.expireAt = e.ExpireAt
	case !v.dropExpiry:
		return w.unsupported("the expiry of a field or member, without Shape.Expiry or")
	}
	v.score = e.Score
	switch v.code {
	case codeHash, codeValkeyHash, codeExpireHash:
		if v.kind == ElementField {
			o.str(e.Field)
		}
	case codeRedisHash:
		if v.expireAt == 0 {
			o.byte(0)
		} else {
			o.length(uint64(v.expireAt - ttlBase + 1))
		}
		o.str(e.Field)
	case codeQuicklist2:
		return w.list.item(w, e)
	}
	if e.More {
		return v.first(w, e)
	}
	if v.raw {
		o.plain(e.Value)
	} else {
		o.str(e.Value)
	}
	v.tail(o)
	if o.err != nil {
		return w.fail()
	}
	return nil
}

// first begins a string that comes in pieces.
func (v *valueWriter) first(w *Writer, e *Element) error {
	if e.Left <= 0 {
		return w.disorder(fmt.Sprintf("a piece that others follow, of %d bytes", e.Left))
	}
	v.piece = uint64(e.Left)
	w.out.length(v.piece + uint64(len(e.Value)))
	w.out.write(e.Value)
	return w.fail()
}

// goOn adds a piece.
func (v *valueWriter) goOn(w *Writer, e *Element) error {
	if n := uint64(len(e.Value)); n > v.piece || e.More != (n < v.piece) {
		return w.disorder(fmt.Sprintf("a piece of %d bytes where %d are left", n, v.piece))
	}
	v.piece -= uint64(len(e.Value))
	w.out.write(e.Value)
	if v.piece == 0 {
		v.tail(&w.out)
	}
	return w.fail()
}

// tail writes what follows the string of an element.
func (v *valueWriter) tail(o *output) {
	switch v.code {
	case codeZSet:
		o.number(math.Float64bits(v.score))
	case codeZSetText:
		o.double(v.score)
	case codeValkeyHash:
		if v.expireAt == 0 {
			o.number(^uint64(0))
		} else {
			o.number(uint64(v.expireAt))
		}
	case codeExpireHash, codeExpireSet:
		// Dragonfly knows whole seconds only. What expired before its epoch has expired.
		seconds := int64(-1)
		if v.expireAt != 0 {
			seconds = max((v.expireAt+999)/1000-dragonflyEpoch, 0)
		}
		o.str(strconv.AppendInt(o.text[:0], seconds, 10))
	}
}

// end ends the value.
func (v *valueWriter) end(w *Writer) {
	switch {
	case w.err != nil:
		return
	case v.piece > 0:
		w.disorder(fmt.Sprintf("the value ended %d bytes short", v.piece))
		return
	case v.kind == ElementBytes && v.n == 0:
		w.out.byte(0) // no piece at all: the empty string
	case v.known && v.left > 0:
		w.disorder(fmt.Sprintf("the value has %d elements fewer than Shape.Len says", v.left))
		return
	}
	switch {
	case v.kind == ElementEntry:
		w.stream.end(w)
	case v.code == codeQuicklist2:
		w.list.flush(&w.out)
		w.out.releaseCounted(w.list.nodes)
	case v.held:
		w.out.releaseCounted(v.n)
	}
}
