package jsonl

import (
	"encoding/binary"
	"math"
)

// Vector sets, as Redis 8.0 to 8.6 writes them: dimensions, elements, quantisation and links in one number, flags; then for
// each element its name, its attributes if any element has them, its vector and the numbers of its node in the graph. How many
// these are differs between versions; the third is the level, the last has the two factors of the vector.
const (
	vectorPlain = 0 // 32-bit floats
	vectorInt8  = 1 // bytes
	vectorBin   = 2 // bits

	vectorProjected  = 1 // flag: a matrix reduces the dimensions
	vectorAttributes = 2 // flag: elements have attributes
)

// itemNumber reads an item of a module's value that has to be a number.
func (w *Writer) itemNumber() uint64 {
	kind := w.rawLength()
	if kind != itemUnsigned {
		w.wrong("a vector set has an item of kind %d where a number belongs", kind)
		return 0
	}
	return w.rawLength()
}

// vectorSet writes a vector set. Its elements are sorted by name, and known before what is told about them all.
func (w *Writer) vectorSet() {
	dim, count, how, flags := w.itemNumber(), w.itemNumber(), w.itemNumber(), w.itemNumber()
	input := uint64(0)
	if flags&vectorProjected != 0 {
		input = w.itemNumber()
		if kind := w.rawLength(); kind != itemString {
			w.wrong("a vector set has an item of kind %d where a matrix belongs", kind)
			return
		}
		w.rawString(func([]byte) {})
	}
	quantised := how & 0xff
	if quantised > vectorBin {
		w.wrong("a vector set has vectors of kind %d", quantised)
		return
	}
	s := w.sort(w.order)
	level, attributes := uint64(0), 0
	r := &w.raw
	kind := w.rawLength()
	for w.err == nil && kind == itemString {
		r.name, r.text = append(r.name[:0], w.rawItem()...), r.text[:0]
		if flags&vectorAttributes != 0 {
			if kind = w.rawLength(); kind != itemString {
				w.wrong("an element of a vector set has no attributes")
				return
			}
			r.text = append(r.text, w.rawItem()...)
			if len(r.text) > 0 {
				attributes++
			}
		}
		if kind = w.rawLength(); kind != itemString {
			w.wrong("an element of a vector set has no vector")
			return
		}
		vector := w.rawItem()
		last := uint64(0)
		n := 0
		for kind = w.rawLength(); w.err == nil && kind == itemUnsigned; kind = w.rawLength() {
			last = w.rawLength()
			if n++; n == 3 {
				level = max(level, last&0xffff)
			}
		}
		head := binary.LittleEndian.AppendUint64(w.small[:0], last)
		head = binary.LittleEndian.AppendUint32(head, uint32(len(r.text)))
		if w.failed(s.Add(w.order.Prefix(r.name), r.name, head, r.text, vector)) {
			return
		}
	}
	if kind != itemEnd {
		w.wrong("a vector set has an item of kind %d where an element belongs", kind)
		return
	}
	w.lit(`{"card":`)
	w.uint(count)
	w.lit(`,"dim":`)
	w.uint(dim)
	w.lit(`,"info":{"quant-type":"`)
	w.lit([...]string{"f32", "int8", "bin"}[quantised])
	w.lit(`","hnsw-m":`)
	w.uint(how >> 8)
	w.lit(`,"vector-dim":`)
	w.uint(dim)
	w.lit(`,"projection-input-dim":`)
	w.uint(input)
	w.lit(`,"size":`)
	w.uint(count)
	w.lit(`,"max-level":`)
	w.uint(level)
	w.lit(`,"attributes-count":`)
	w.int(int64(attributes))
	w.lit(`},"elements":[`)
	for first := true; ; {
		name, value, ok := w.sorted(s, first)
		if !ok {
			break
		}
		w.comma(&first)
		w.byte('[')
		w.string(name)
		w.lit(`,[`)
		factors, text := binary.LittleEndian.Uint64(value), value[12:]
		text, vector := text[:binary.LittleEndian.Uint32(value[8:])], text[binary.LittleEndian.Uint32(value[8:]):]
		w.vector(quantised, dim, factors, vector)
		w.lit(`],`)
		if len(text) == 0 {
			w.lit("null")
		} else {
			w.string(text)
		}
		w.byte(']')
	}
	w.lit("]}")
	w.space.Reset()
}

// vector writes the numbers of a vector, computed as VEMB does.
func (w *Writer) vector(quantised, dim, factors uint64, b []byte) {
	scale, norm := math.Float32frombits(uint32(factors>>32)), math.Float32frombits(uint32(factors))
	size := [...]uint64{4 * dim, dim, (dim + 63) / 64 * 8}[quantised]
	if dim > maxItem || uint64(len(b)) != size {
		w.wrong("a vector of %d dimensions has %d bytes", dim, len(b))
		return
	}
	first := true
	for i := range dim {
		var f float32
		switch quantised {
		case vectorPlain:
			f = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:])) * norm
		case vectorInt8:
			f = float32(int8(b[i])) * scale / 127 * norm
		default:
			if f = -1; b[i/8]>>(i%8)&1 == 1 {
				f = 1
			}
		}
		w.comma(&first)
		w.byte('"')
		w.room(32)
		w.buf = appendDouble(w.buf, float64(f))
		w.byte('"')
	}
}
