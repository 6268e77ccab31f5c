package jsonl

import (
	"encoding/binary"
	"io"
	"math"

	"github.com/amberkv/amber/internal/extsort"
	"github.com/amberkv/amber/rdb"
)

// pieces writes the value of an element, of which more elements may have parts, as one string.
func (w *Writer) pieces(e *rdb.Element) {
	if !e.More {
		w.string(e.Value)
		return
	}
	w.byte('"')
	for e.More {
		w.part(e.Value)
		kind := e.Kind
		if e = w.next(); e == nil || e.Kind != kind {
			w.wrong("a value ends within a string")
			return
		}
	}
	w.part(e.Value)
	w.byte('"')
}

// stringValue writes a string, of which each element is a piece.
func (w *Writer) stringValue() {
	w.byte('"')
	for e := w.next(); e != nil; e = w.next() {
		if e.Kind != rdb.ElementBytes {
			w.unexpected(e)
			return
		}
		w.part(e.Value)
	}
	w.byte('"')
}

func (w *Writer) list() {
	w.byte('[')
	first := true
	for e := w.next(); e != nil; e = w.next() {
		if e.Kind != rdb.ElementItem {
			w.unexpected(e)
			return
		}
		w.comma(&first)
		w.pieces(e)
	}
	w.byte(']')
}

func (w *Writer) array() {
	w.byte('[')
	first := true
	for e := w.next(); e != nil; e = w.next() {
		if e.Kind != rdb.ElementIndexed {
			w.unexpected(e)
			return
		}
		w.comma(&first)
		w.byte('[')
		w.uint(e.Index)
		w.byte(',')
		w.pieces(e)
		w.byte(']')
	}
	w.byte(']')
}

// set writes the members sorted. If one of them has an expiry, each gets one.
func (w *Writer) set() {
	s := w.sort(w.order)
	expiries := false
	for e := w.next(); e != nil; e = w.next() {
		if e.Kind != rdb.ElementMember {
			w.unexpected(e)
			return
		}
		var err error
		if e.ExpireAt == 0 {
			err = s.Add(w.order.Prefix(e.Value), e.Value)
		} else {
			expiries = true
			err = s.Add(w.order.Prefix(e.Value), e.Value, binary.LittleEndian.AppendUint64(w.small[:0], uint64(e.ExpireAt)))
		}
		if w.failed(err) {
			return
		}
	}
	w.byte('[')
	for first := true; ; {
		member, value, ok := w.sorted(s, first)
		if !ok {
			break
		}
		w.comma(&first)
		if !expiries {
			w.string(member)
			continue
		}
		w.byte('[')
		w.string(member)
		if len(value) == 0 {
			w.lit(",null]")
			continue
		}
		w.byte(',')
		w.int(int64(binary.LittleEndian.Uint64(value)))
		w.byte(']')
	}
	w.byte(']')
	w.space.Reset()
}

// sorted returns the next record. Before the first one it sorts.
func (w *Writer) sorted(s *extsort.Sorter, first bool) (name, value []byte, ok bool) {
	if w.err != nil || first && w.failed(s.Sort()) {
		return nil, nil, false
	}
	_, name, value, err := s.Next()
	if err != nil {
		if err != io.EOF {
			w.failed(err)
		}
		return nil, nil, false
	}
	return name, value, true
}

func (w *Writer) zset() {
	s := w.sort(nil)
	for e := w.next(); e != nil; e = w.next() {
		if e.Kind != rdb.ElementScored {
			w.unexpected(e)
			return
		}
		score := binary.LittleEndian.AppendUint64(w.small[:0], math.Float64bits(e.Score))
		if w.failed(s.Add(extsort.Float(e.Score), e.Value, score)) {
			return
		}
	}
	w.byte('[')
	for first := true; ; {
		member, score, ok := w.sorted(s, first)
		if !ok {
			break
		}
		w.comma(&first)
		w.byte('[')
		w.string(member)
		w.lit(`,"`)
		w.double(math.Float64frombits(binary.LittleEndian.Uint64(score)))
		w.lit(`"]`)
	}
	w.byte(']')
	w.space.Reset()
}

// A field's record has as its value a byte that says what follows: the expiry, and the value or where it is.
const (
	fieldExpires = 1 << iota // an expiry follows
	fieldAway                // the value is in the space: where and how long it is
)

func (w *Writer) hash() {
	s := w.sort(w.order)
	for e := w.next(); e != nil; e = w.next() {
		if e.Kind != rdb.ElementField {
			w.unexpected(e)
			return
		}
		if !w.addField(s, e) {
			return
		}
	}
	w.byte('[')
	for first := true; ; {
		field, value, ok := w.sorted(s, first)
		if !ok {
			break
		}
		w.comma(&first)
		w.byte('[')
		w.string(field)
		w.byte(',')
		how, expireAt := value[0], int64(0)
		value = value[1:]
		if how&fieldExpires != 0 {
			expireAt = int64(binary.LittleEndian.Uint64(value))
			value = value[8:]
		}
		if how&fieldAway != 0 {
			w.away(int64(binary.LittleEndian.Uint64(value)), int64(binary.LittleEndian.Uint64(value[8:])))
		} else {
			w.string(value)
		}
		w.byte(',')
		w.expiry(expireAt)
		w.byte(']')
	}
	w.byte(']')
	w.space.Reset()
}

// addField adds a field. A long value goes to the space if there is no room for it in memory.
func (w *Writer) addField(s *extsort.Sorter, e *rdb.Element) bool {
	head := append(w.small[:0], 0)
	if e.ExpireAt != 0 {
		head[0] |= fieldExpires
		head = binary.LittleEndian.AppendUint64(head, uint64(e.ExpireAt))
	}
	prefix := w.order.Prefix(e.Field)
	if !e.More {
		return !w.failed(s.Add(prefix, e.Field, head, e.Value))
	}
	total := int64(len(e.Value)) + e.Left
	room := int64(s.Free() - len(e.Field) - len(head))
	if total <= room {
		if w.failed(s.Add(prefix, e.Field, head, e.Value)) {
			return false
		}
		for e.More {
			if e = w.next(); e == nil || e.Kind != rdb.ElementField {
				w.wrong("a value ends within a string")
				return false
			}
			if w.failed(s.Extend(e.Value)) {
				return false
			}
		}
		return true
	}
	at, err := w.space.Append(e.Value)
	if w.failed(err) {
		return false
	}
	head[0] |= fieldAway
	head = binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(head, uint64(at)), uint64(total))
	// The field is the same in every piece, so that it can be added behind the last.
	for e.More {
		if e = w.next(); e == nil || e.Kind != rdb.ElementField {
			w.wrong("a value ends within a string")
			return false
		}
		if _, err := w.space.Append(e.Value); w.failed(err) {
			return false
		}
	}
	return !w.failed(s.Add(prefix, e.Field, head))
}

// away writes a string that is in the space.
func (w *Writer) away(at, size int64) {
	w.byte('"')
	for size > 0 && w.err == nil {
		// The bytes go to the end of buf, and from there through the table to where they belong.
		n := int(min(size, chunk))
		w.room(n*(longestText+1) + textSlack)
		part := w.buf[cap(w.buf)-n : cap(w.buf)]
		if w.failed(w.space.ReadAt(part, at)) {
			return
		}
		w.buf = w.text.appendText(w.buf, part)
		at += int64(n)
		size -= int64(n)
	}
	w.byte('"')
}
