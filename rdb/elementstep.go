package rdb

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"unsafe"
)

// pieceSize is how much of a value an element carries at most.
const pieceSize = 64 << 10

// A step says how the next element of a value is read.
type step uint8

const (
	stepNone         step = iota // the value was not begun
	stepEnd                      // it was read to its end
	stepString                   // one string
	stepPieces                   // the rest of Value
	stepItems                    // strings, of a list
	stepMembers                  // strings, of a set
	stepMembersTTL               // (string, expiry), of Dragonfly
	stepFields                   // (string, string)
	stepFieldsTTL                // (length, string, string)
	stepFields2                  // (string, string, 8 bytes)
	stepFields3                  // (string, string, expiry), of Dragonfly
	stepScoredText               // (string, ASCII double)
	stepScored                   // (string, 8 bytes)
	stepArgs                     // of a journal command
	stepNodes                    // of a quicklist
	stepPackItems                // from here on entries of a packed blob: of a list
	stepPackMembers              // of a set
	stepPackScored               // of a zset: (member, score)
	stepPackFields               // of a hash: (field, value)
	stepPackTTL                  // of a hash: (field, value, expiry)
	stepPackTemplate             // of a hash: value, the field is in names
	stepTemplate                 // strings, the same
	stepIntset                   //
	stepZipmap                   //
	stepIndexed                  // of an array
	stepRaw                      // see rawvalue
	stepEntries                  // from here on of a stream
	stepInfo                     //
	stepGroups                   //
	stepPending                  //
	stepConsumers                //
	stepOwned                    //
	stepNacked                   //
	stepIDMP                     //
	stepProducers                //
	stepProduced                 //
	stepIDMPEnd                  //
)

// A valueReader is how far a value was read as elements.
type valueReader struct {
	step   step
	after  step   // what comes behind the last piece of stepPieces
	left   uint64 // elements, or nodes, still to come
	length int64  // see Len
	minTTL int64  // what expiries are relative to, in stepFieldsTTL
	long   uint64 // bytes of Value still to come, in stepPieces
	source source // where they come from
	elem   Element

	pack   pack
	stream streamReader
	raw    rawReader
	names  []byte // of the fields still to come, each behind its length

	fieldText, valueText [20]byte // numbers
	field, value, text   []byte   // what can't be lent from the buffer
	fields, master       [][]byte // of stream entries
	masterText           []byte
	blob, window         []byte
	templateNames        []byte
}

// A source is where the pieces of a value come from.
type source uint8

const (
	fromStream source = iota // plain
	fromString               // a string in pack that is compressed and has no entries
	fromEntry                // an entry of pack
)

// dragonflyEpoch is what Dragonfly counts the expiry of members and fields from, in seconds: 2023-02-01.
const dragonflyEpoch = 1675209600

// maxFieldTTL is the latest time that a server takes for the expiry of a hash field, in milliseconds.
const maxFieldTTL = 1<<48 - 1

// beginValue reads what comes before the first element. It returns false if there is no value, or on an error.
func (r *Reader) beginValue() bool {
	v := &r.val
	if r.err != nil || r.frame == frameNone {
		return false
	}
	f := r.frame
	r.frame = frameNone
	v.elem = Element{}
	v.length, v.left, v.minTTL = -1, 0, 0
	switch f {
	case frameString:
		return r.beginString()
	case frameStrings:
		switch r.entry.Encoding {
		case 1:
			return r.beginCollection(stepItems, ElementItem)
		case 2:
			return r.beginCollection(stepMembers, ElementMember)
		}
		return r.beginNodes(packZiplist)
	case frameQuicklist2:
		return r.beginNodes(packListpack)
	case framePairs:
		if r.entry.Type == TypeSet {
			return r.beginCollection(stepMembersTTL, ElementMember)
		}
		return r.beginCollection(stepFields, ElementField)
	case frameTriples:
		return r.beginCollection(stepFields3, ElementField)
	case frameHash2:
		return r.beginCollection(stepFields2, ElementField)
	case frameHashTTL:
		minTTL, ok := r.readInt64()
		if !ok {
			return false
		}
		v.minTTL = minTTL
		return r.beginCollection(stepFieldsTTL, ElementField)
	case frameHashTTLPre:
		v.minTTL = 1 // so that the relative expiries of the final form are absolute
		return r.beginCollection(stepFieldsTTL, ElementField)
	case framePackedTTL:
		// The lowest expiry is only for who doesn't look inside.
		minTTL, ok := r.readInt64()
		v.minTTL = minTTL
		return ok && r.beginPacked(packListpack, stepPackTTL, ElementField)
	case frameZSet:
		return r.beginCollection(stepScoredText, ElementScored)
	case frameZSet2:
		return r.beginCollection(stepScored, ElementScored)
	case frameStream1, frameStream2, frameStream3, frameStream4, frameStream5:
		return r.beginStream(int(f-frameStream1) + 1)
	case frameArray:
		return r.beginArray()
	case frameJournal:
		v.step, v.left, v.length, v.elem.Kind = stepArgs, r.journal.args, int64(r.journal.args), ElementArg
		return true
	case frameTemplated, frameTemplatedArr, frameTemplateRef:
		return r.beginTemplated(f)
	}
	return r.beginRaw(f)
}

// beginString begins a value that is one string to the raw level.
func (r *Reader) beginString() bool {
	v := &r.val
	e := &r.entry
	switch {
	case e.Kind != KindKey || e.Type == TypeString || e.Type == TypeJSON:
		v.step, v.length, v.elem.Kind = stepString, 1, ElementBytes
		return true
	case e.Encoding == 9:
		return r.beginZipmap()
	case e.Encoding == 10:
		return r.beginPacked(packZiplist, stepPackItems, ElementItem)
	case e.Encoding == 11:
		return r.beginIntset()
	case e.Encoding == 12:
		return r.beginPacked(packZiplist, stepPackScored, ElementScored)
	case e.Encoding == 13:
		return r.beginPacked(packZiplist, stepPackFields, ElementField)
	case e.Encoding == 16:
		return r.beginPacked(packListpack, stepPackFields, ElementField)
	case e.Encoding == 17:
		return r.beginPacked(packListpack, stepPackScored, ElementScored)
	case e.Encoding == 20:
		return r.beginPacked(packListpack, stepPackMembers, ElementMember)
	case e.Encoding == 23:
		return r.beginPacked(packListpack, stepPackTTL, ElementField)
	case e.Encoding == 30:
		return r.beginTemplated(frameString)
	}
	return r.unsupported(fmt.Sprintf("elements of encoding %d", e.Encoding))
}

func (r *Reader) beginCollection(s step, kind ElementKind) bool {
	n, ok := r.length()
	if !ok {
		return false
	}
	if n > math.MaxInt64 {
		return r.corrupt(fmt.Sprintf("a length of %d elements is impossible", n))
	}
	r.val.step, r.val.left, r.val.length, r.val.elem.Kind = s, n, int64(n), kind
	return true
}

// stepValue reads the next element. It returns false behind the last, with step set to stepEnd, or on an error.
func (r *Reader) stepValue() bool {
	v := &r.val
	switch {
	case v.step >= stepEntries:
		return r.stepStream()
	case v.step == stepPieces:
		return r.nextPiece()
	case v.step >= stepNodes:
		return r.stepPacked()
	case v.step == stepString:
		v.step = stepEnd
		return r.readValue()
	case v.left == 0:
		v.step = stepEnd
		return false
	}
	v.left--
	e := &v.elem
	var ok bool
	switch v.step {
	case stepItems:
		return r.readValue()
	case stepMembers:
		e.Value, ok = r.readString(&v.value, "set member")
		return ok
	case stepFields:
		if field, p := r.plainAt(r.pos); p > 0 {
			if value, next := r.plainAt(p); next > 0 {
				e.Field, e.Value, e.More, r.pos = field, value, false, next
				return true
			}
		}
		return r.readField() && r.readValue()
	case stepScored:
		if member, p := r.plainAt(r.pos); p > 0 && p+8 <= r.end {
			e.Value, e.Score, r.pos = member, math.Float64frombits(binary.LittleEndian.Uint64(r.buf[p:])), p+8
			return true
		}
		if e.Value, ok = r.readName(&v.value, "sorted set member"); !ok || !r.need(8) {
			return ok && r.starved()
		}
		e.Score = math.Float64frombits(binary.LittleEndian.Uint64(r.buf[r.pos:]))
		r.pos += 8
		return true
	case stepScoredText:
		if e.Value, ok = r.readName(&v.value, "sorted set member"); !ok {
			return false
		}
		e.Score, ok = r.readASCIIDouble()
		return ok
	case stepFieldsTTL:
		t, ok := r.length()
		if !ok {
			return false
		}
		if e.ExpireAt = 0; t > 0 {
			// t is one more than what is added, for 0 means that there is none.
			if v.minTTL < 0 || t-1 > maxFieldTTL || v.minTTL+int64(t-1) > maxFieldTTL {
				return r.corrupt(fmt.Sprintf("a hash field expires at an impossible time, %d after %d", t-1, v.minTTL))
			}
			e.ExpireAt = v.minTTL + int64(t-1)
		}
		return r.readField() && r.readValue()
	case stepMembersTTL:
		if e.Value, ok = r.readName(&v.value, "set member"); !ok {
			return false
		}
		e.ExpireAt, ok = r.readDragonflyTTL()
		return ok
	case stepFields2, stepFields3:
		return r.readFieldThenTTL()
	case stepArgs:
		n, ok := r.argLength()
		return ok && r.readPlainValue(n)
	}
	return r.unsupported("an element of an unknown kind")
}

// plainAt returns the string at p of the buffer and what follows it, if it is plain and stands there whole; next is 0 otherwise.
func (r *Reader) plainAt(p int) (s []byte, next int) {
	b := r.buf[:r.end]
	if p+1 >= len(b) {
		return nil, 0
	}
	c := b[p]
	n := int(c)
	p++
	if c >= 0x40 {
		if c >= 0x80 {
			return nil, 0
		}
		n = int(c&0x3f)<<8 | int(b[p])
		p++
	}
	if n > len(b)-p {
		return nil, 0
	}
	return b[p : p+n : p+n], p + n
}

// readName returns a string that stays where it is when more is read.
func (r *Reader) readName(scratch *[]byte, what string) ([]byte, bool) {
	s, ok := r.readString(scratch, what)
	if ok && len(s) > 0 && (len(*scratch) == 0 || &s[0] != &(*scratch)[0]) {
		*scratch = append((*scratch)[:0], s...)
		s = *scratch
	}
	return s, ok
}

func (r *Reader) readField() (ok bool) {
	r.val.elem.Field, ok = r.readName(&r.val.field, "hash field")
	return ok
}

func (r *Reader) readInt64() (int64, bool) {
	if !r.need(8) {
		return 0, r.starved()
	}
	n := int64(binary.LittleEndian.Uint64(r.buf[r.pos:]))
	r.pos += 8
	return n, true
}

// readFieldThenTTL reads a field whose expiry stands behind its value: such a value has to be whole.
func (r *Reader) readFieldThenTTL() (ok bool) {
	e := &r.val.elem
	if !r.readField() {
		return false
	}
	if e.Value, ok = r.readName(&r.val.value, "hash value with an expiry"); !ok {
		return false
	}
	if r.val.step == stepFields3 {
		e.ExpireAt, ok = r.readDragonflyTTL()
		return ok
	}
	at, ok := r.readInt64()
	if !ok {
		return false
	}
	if at < -1 {
		return r.corrupt(fmt.Sprintf("a hash field expires at %d", at))
	}
	e.ExpireAt = max(at, 0) // -1: it doesn't
	return true
}

// readDragonflyTTL reads when a member or field expires, as Dragonfly writes it: seconds after its epoch, as a string.
func (r *Reader) readDragonflyTTL() (at int64, ok bool) {
	s, ok := r.readString(&r.val.text, "expiry")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(unsafe.String(unsafe.SliceData(s), len(s)), 10, 64)
	if err != nil || n < -1 || n > math.MaxInt64/1000-dragonflyEpoch {
		return 0, r.corrupt(fmt.Sprintf("a member or field expires at %.20q", s))
	}
	if n == -1 {
		return 0, true
	}
	return (n + dragonflyEpoch) * 1000, true
}

// readASCIIDouble reads a score of the first zset encoding.
func (r *Reader) readASCIIDouble() (float64, bool) {
	if !r.need(1) {
		return 0, r.starved()
	}
	n := r.buf[r.pos]
	r.pos++
	switch n {
	case 253:
		return math.NaN(), true
	case 254:
		return math.Inf(1), true
	case 255:
		return math.Inf(-1), true
	}
	text, ok := r.take(uint64(n), &r.val.text)
	if !ok {
		return 0, false
	}
	return r.parseScore(text)
}

// parseScore reads decimal text as C's strtod does, but for blanks before it and junk behind it, which no server writes.
func (r *Reader) parseScore(text []byte) (float64, bool) {
	f, err := strconv.ParseFloat(unsafe.String(unsafe.SliceData(text), len(text)), 64)
	if err != nil && !math.IsInf(f, 0) {
		return 0, r.corrupt(fmt.Sprintf("a score is %.40q", text))
	}
	return f, true
}

// readValue reads Value, or its first piece.
func (r *Reader) readValue() bool {
	v := &r.val
	e := &v.elem
	s, next := r.plainAt(r.pos)
	if next > 0 {
		e.Value, e.More, r.pos = s, false, next
		return true
	}
	if !r.need(1) {
		return r.starved()
	}
	var ok bool
	switch c := r.buf[r.pos]; {
	case c < stringInt8:
		n, ok := r.length()
		return ok && r.readPlainValue(n)
	case c == stringLZF:
		r.pos++
		in, out, ok := r.lzfLengths()
		if !ok {
			return false
		}
		if out > pieceSize {
			return r.openWindow(packString, in, out, true) && r.beginPieces(fromString, out)
		}
		e.More = false
		e.Value, ok = r.expand(in, out, &v.value)
		return ok
	}
	e.More = false
	e.Value, ok = r.readString(&v.value, "number")
	return ok
}

// readPlainValue reads n bytes as Value, or its first piece.
func (r *Reader) readPlainValue(n uint64) (ok bool) {
	if n > pieceSize {
		return r.beginPieces(fromStream, n)
	}
	e := &r.val.elem
	e.More = false
	e.Value, ok = r.take(n, &r.val.value)
	return ok
}

// beginPieces reads the first piece of a value of n bytes.
func (r *Reader) beginPieces(from source, n uint64) bool {
	v := &r.val
	v.after, v.step, v.source, v.long = v.step, stepPieces, from, n
	return r.nextPiece()
}

// nextPiece reads the next piece of Value, and what comes behind the last.
func (r *Reader) nextPiece() (ok bool) {
	v := &r.val
	n := min(v.long, pieceSize)
	if v.source == fromStream {
		v.elem.Value, ok = r.take(n, &v.value)
	} else if ok = r.packMore(int(n)); ok {
		k := &v.pack
		v.elem.Value = k.b[k.p : k.p+int(n) : k.p+int(n)]
		k.p += int(n)
	}
	if !ok {
		return false
	}
	v.long -= n
	v.elem.Left = int64(v.long)
	if v.elem.More = v.long > 0; v.elem.More {
		return true
	}
	v.step = v.after
	return v.source != fromEntry || r.packTail()
}
