package jsonl

import (
	"encoding/binary"
	"math"
	"strconv"

	"github.com/amberkv/amber/internal/lzf"
	"github.com/amberkv/amber/rdb"
)

// A rawScanner reads values that come as their bytes in the stream. What an encoding says about itself was checked by who
// gave the bytes; that it ends too early is found here.
type rawScanner struct {
	b      []byte // of the piece at hand, what is still to come
	item   []byte // a string that has to be whole
	name   []byte // of an element of a vector set
	text   []byte // its attributes
	expand []byte // a compressed string on its way
	lz     lzf.Stream
}

// windowSize is the room for expanding strings.
const windowSize = lzf.History + 4*chunk

// maxItem is the largest string of a module's value that is held whole: the name, attributes or vector of an element of a vector set.
const maxItem = 1 << 20

// more gets the next piece.
func (w *Writer) more() bool {
	r := &w.raw
	for len(r.b) == 0 {
		e := w.next()
		switch {
		case e == nil:
			w.wrong("a value of type %v ends too early", w.entry.Type)
			return false
		case e.Kind != rdb.ElementRaw:
			w.unexpected(e)
			return false
		}
		r.b = e.Value
	}
	return true
}

// rawEnd makes sure that the value ends here.
func (w *Writer) rawEnd() {
	if len(w.raw.b) == 0 {
		e := w.next()
		if e == nil {
			return
		}
	}
	w.wrong("a value of type %v doesn't end where it should", w.entry.Type)
}

func (w *Writer) rawByte() byte {
	if !w.more() {
		return 0
	}
	c := w.raw.b[0]
	w.raw.b = w.raw.b[1:]
	return c
}

// rawBytes reads n bytes, which hold until the next ones are read.
func (w *Writer) rawBytes(n int) []byte {
	b := w.small[:0]
	for range n {
		b = append(b, w.rawByte())
	}
	return b
}

// rawLength reads a length.
func (w *Writer) rawLength() uint64 {
	c := w.rawByte()
	switch {
	case c < 0x40:
		return uint64(c)
	case c < 0x80:
		return uint64(c&0x3f)<<8 | uint64(w.rawByte())
	case c == 0x80:
		return uint64(binary.BigEndian.Uint32(w.rawBytes(4)))
	case c == 0x81:
		return binary.BigEndian.Uint64(w.rawBytes(8))
	}
	w.wrong("byte %#02x begins no length", c)
	return 0
}

func (w *Writer) rawDouble() float64 {
	return math.Float64frombits(binary.LittleEndian.Uint64(w.rawBytes(8)))
}

// rawCopy hands on n bytes in parts.
func (w *Writer) rawCopy(n uint64, part func([]byte)) {
	for n > 0 && w.more() {
		b := w.raw.b[:min(n, uint64(len(w.raw.b)))]
		w.raw.b = w.raw.b[len(b):]
		n -= uint64(len(b))
		part(b)
	}
}

// rawString hands on a string in parts.
func (w *Writer) rawString(part func([]byte)) {
	if !w.more() {
		return
	}
	switch c := w.raw.b[0]; {
	case c < 0xc0:
		w.rawCopy(w.rawLength(), part)
	case c == 0xc3:
		w.rawByte()
		in, out := w.rawLength(), w.rawLength()
		w.rawExpand(in, out, part)
	default:
		w.rawByte()
		var n int64
		switch c {
		case 0xc0:
			n = int64(int8(w.rawByte()))
		case 0xc1:
			n = int64(int16(binary.LittleEndian.Uint16(w.rawBytes(2))))
		case 0xc2:
			n = int64(int32(binary.LittleEndian.Uint32(w.rawBytes(4))))
		default:
			w.wrong("byte %#02x begins no string", c)
			return
		}
		part(strconv.AppendInt(w.digits[:0], n, 10))
	}
}

// rawExpand hands on a compressed string in parts.
func (w *Writer) rawExpand(in, out uint64, part func([]byte)) {
	r := &w.raw
	if r.expand == nil {
		r.expand = make([]byte, windowSize)
	}
	r.lz = lzf.Stream{}
	at := 0
	bad := func() { w.wrong("a compressed string doesn't expand to its length") }
	for in > 0 || out > 0 {
		if at == len(r.expand) {
			at = copy(r.expand, r.expand[at-lzf.History:])
		}
		var src []byte
		if in > 0 {
			if !w.more() {
				return
			}
			src = r.b[:min(in, uint64(len(r.b)))]
		}
		end := len(r.expand)
		if uint64(end-at) > out {
			end = at + int(out)
		}
		to, took, err := r.lz.Expand(r.expand[:end], at, src)
		if err != nil || to == at && took == 0 {
			bad()
			return
		}
		part(r.expand[at:to])
		out -= uint64(to - at)
		r.b = r.b[took:]
		in -= uint64(took)
		at = to
	}
	if !r.lz.Between() {
		bad()
	}
}

// rawItem reads a string that has to be whole.
func (w *Writer) rawItem() []byte {
	r := &w.raw
	r.item = r.item[:0]
	w.rawString(func(p []byte) {
		if len(r.item)+len(p) > maxItem {
			if w.err == nil {
				w.err = w.tooLarge("an item of a module's value", maxItem)
			}
			return
		}
		r.item = append(r.item, p...)
	})
	return r.item
}

// rawText writes a string.
func (w *Writer) rawText() {
	w.byte('"')
	w.rawString(w.part)
	w.byte('"')
}

// rawValue writes the bytes of a value as they are.
func (w *Writer) rawValue() {
	w.lit(`{"raw":"`)
	for e := w.next(); e != nil; e = w.next() {
		if e.Kind != rdb.ElementRaw {
			w.unexpected(e)
			return
		}
		w.part(e.Value)
	}
	w.lit(`"}`)
}

// The kinds of a module's items.
const (
	itemEnd = iota
	itemSigned
	itemUnsigned
	itemFloat
	itemDouble
	itemString
)

// module writes the value of a module.
func (w *Writer) module(id rdb.ModuleID) {
	w.raw.b = nil
	w.rawLength() // the module again
	if id.Name() == "vectorset" && id.Version() == 0 {
		w.vectorSet()
		w.rawEnd()
		return
	}
	w.lit(`{"module":"`)
	w.lit(id.Name())
	w.lit(`","version":`)
	w.int(int64(id.Version()))
	w.lit(`,"items":[`)
	first := true
	for w.err == nil {
		kind := w.rawLength()
		if kind == itemEnd {
			break
		}
		w.comma(&first)
		switch kind {
		case itemSigned:
			w.int(int64(w.rawLength()))
		case itemUnsigned:
			w.uint(w.rawLength())
		case itemFloat:
			w.lit(`{"float":"`)
			w.double(float64(math.Float32frombits(binary.LittleEndian.Uint32(w.rawBytes(4)))))
			w.lit(`"}`)
		case itemDouble:
			w.lit(`{"double":"`)
			w.double(w.rawDouble())
			w.lit(`"}`)
		case itemString:
			w.rawText()
		default:
			w.wrong("a module's item of kind %d", kind)
		}
	}
	w.lit(`]}`)
	w.rawEnd()
}
