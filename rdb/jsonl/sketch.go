package jsonl

import (
	"encoding/binary"
	"math/bits"
)

// The filters and sketches of Dragonfly. Their layouts were read from what Dragonfly 1.40 wrote, and in its source.

// fact writes a name and a number of an info array.
func (w *Writer) fact(name string, n uint64) {
	if w.buf[len(w.buf)-1] != '[' {
		w.byte(',')
	}
	w.byte('"')
	w.lit(name)
	w.lit(`",`)
	w.uint(n)
}

// filterData writes the bytes of a filter, which come in pieces with their lengths, or as one string.
func (w *Writer) filterData(pieces bool) {
	w.byte('"')
	if !pieces {
		w.rawString(w.part)
		w.byte('"')
		return
	}
	for left := w.rawLength(); left > 0 && w.err == nil; {
		n := w.rawLength()
		if n == 0 || n > left {
			w.wrong("a piece of %d bytes, of a filter of which %d are left", n, left)
			return
		}
		w.rawCopy(n, w.part)
		left -= n
	}
	w.byte('"')
}

func (w *Writer) bloom() {
	w.raw.b = nil
	w.rawLength() // options, always 0
	growth, rate := w.rawDouble(), w.rawDouble()
	before, current, capacity, filters := w.rawLength(), w.rawLength(), w.rawLength(), w.rawLength()
	w.lit(`{"info":[`)
	if filters == 1 {
		w.fact("Capacity", capacity)
	} else {
		w.fact("Capacity of the last filter", capacity)
	}
	w.fact("Number of filters", filters)
	w.fact("Number of items inserted", before+current)
	w.lit(`,"Expansion rate",`)
	w.number(growth)
	w.lit(`],"error-rate":"`)
	w.double(rate)
	w.lit(`","filters":[`)
	first := true
	for range filters {
		if w.err != nil {
			return
		}
		w.comma(&first)
		w.lit(`{"hashes":`)
		w.uint(w.rawLength())
		w.lit(`,"data":`)
		w.filterData(w.entry.Encoding == 34)
		w.byte('}')
	}
	w.lit("]}")
	w.rawEnd()
}

// number writes a double as a JSON number, which can't be infinite.
func (w *Writer) number(f float64) {
	if f-f != 0 {
		w.lit("null")
		return
	}
	w.double(f)
}

func (w *Writer) cuckoo() {
	w.raw.b = nil
	slots, tries, expansion := w.rawLength(), w.rawLength(), w.rawLength()
	buckets, items, deleted, filters := w.rawLength(), w.rawLength(), w.rawLength(), w.rawLength()
	w.lit(`{"info":[`)
	w.fact("Number of buckets", buckets)
	w.fact("Number of filters", filters)
	w.fact("Number of items inserted", items)
	w.fact("Number of items deleted", deleted)
	w.fact("Bucket size", slots)
	w.fact("Expansion rate", expansion)
	w.fact("Max iterations", tries)
	w.lit(`],"filters":[`)
	first := true
	for range filters {
		if w.err != nil {
			return
		}
		w.comma(&first)
		w.filterData(true)
	}
	w.lit("]}")
	w.rawEnd()
}

func (w *Writer) cms() {
	w.raw.b = nil
	width, depth, count := w.rawLength(), w.rawLength(), w.rawLength()
	w.lit(`{"info":[`)
	w.fact("width", width)
	w.fact("depth", depth)
	w.fact("count", count)
	w.lit(`],"counters":[`)
	first := true
	over, counters := bits.Mul64(width, depth)
	if over > 0 {
		w.wrong("a sketch of %d by %d counters", width, depth)
	}
	for ; counters > 0 && w.err == nil; counters-- {
		w.comma(&first)
		w.int(int64(binary.LittleEndian.Uint64(w.rawBytes(8))))
	}
	w.lit("]}")
	w.rawEnd()
}

func (w *Writer) topK() {
	w.raw.b = nil
	w.rawLength() // options, always 0
	k, width, depth := w.rawLength(), w.rawLength(), w.rawLength()
	w.lit(`{"info":[`)
	decay := w.rawDouble()
	w.fact("k", k)
	w.fact("width", width)
	w.fact("depth", depth)
	w.lit(`,"decay","`)
	w.double(decay)
	w.lit(`"],"list":[`)
	first := true
	for n := w.rawLength(); n > 0 && w.err == nil; n-- {
		w.comma(&first)
		w.rawText()
		w.byte(',')
		w.uint(w.rawLength())
	}
	w.lit(`],"counters":[`)
	first = true
	for n := w.rawLength() / 4; n > 0 && w.err == nil; n-- {
		w.comma(&first)
		w.uint(uint64(binary.LittleEndian.Uint32(w.rawBytes(4))))
	}
	w.lit("]}")
	w.rawEnd()
}
