package rdb

import (
	"fmt"
	"slices"
)

// skipRare consumes a value of an encoding that few streams have: those of servers that are new, and of forks.
func (r *Reader) skipRare(f frame) bool {
	var n uint64
	switch f {
	case frameArray:
		return r.skipArray()
	case frameTemplated:
		_, ok := r.templateFields()
		return ok && r.skipString()
	case frameTemplatedArr:
		n, ok := r.templateFields()
		return ok && r.skipStrings(n, 0)
	case frameTemplateRef:
		id, ok := r.length()
		if !ok {
			return false
		}
		t, ok := r.templates[id]
		if !ok {
			return r.corrupt(fmt.Sprintf("a hash uses template %d, which the stream hasn't defined", id))
		}
		return r.skipStrings(t.fields, 0)
	case frameLength:
		return r.skipLengths(1)
	case frameSlotRanges:
		if !r.lengths(&n) {
			return false
		}
		n, ok := r.times(n, 2)
		return ok && r.skipLengths(n)
	case frameCron:
		// The script, when it starts and how often; then its keys and its arguments.
		return r.skipString() && r.skip(16) && r.lengths(&n) && r.skipStrings(n, 0) && r.lengths(&n) && r.skipStrings(n, 0)
	case frameBloom, frameBloom2:
		return r.skipBloom(f)
	case frameCMS:
		return r.skipCMS()
	case frameTopK:
		return r.skipTopK()
	case frameCuckoo:
		// Slots of a bucket, iterations, expansion, buckets, items, deletions; then the filters.
		if !r.skipLengths(6) || !r.lengths(&n) {
			return false
		}
		for ; n > 0; n-- {
			if !r.skipPieces() {
				return false
			}
		}
		return true
	}
	return r.unsupported(fmt.Sprintf("a value of an encoding without a layout, frame %d", f))
}

// skipArray consumes an array of Redis 8.8.
func (r *Reader) skipArray() bool {
	var n, hasNext uint64
	if !r.lengths(&n, &hasNext) {
		return false
	}
	switch hasNext {
	case 0:
	case 1:
		if !r.skipLengths(1) {
			return false
		}
	default:
		return r.unsupported(fmt.Sprintf("an array with flag %d", hasNext))
	}
	for ; n > 0; n-- {
		var index, tag uint64
		if !r.lengths(&index, &tag) {
			return false
		}
		ok := false
		switch tag {
		case 0, 3:
			ok = r.skipString()
		case 1, 2:
			ok = r.skip(8)
		default:
			r.unsupported(fmt.Sprintf("an array element of kind %d", tag))
		}
		if !ok {
			return false
		}
	}
	return true
}

// readTemplate reads what follows the opcode of a hash template, and remembers how many fields it has.
func (r *Reader) readTemplate() bool {
	id, ok := r.length()
	if !ok {
		return false
	}
	names, n, ok := r.readTemplateNames([]byte{}, maxTemplateNames-r.templateNames)
	if !ok {
		return false
	}
	if len(r.templates) >= maxTemplates {
		return r.unsupported(fmt.Sprintf("more than %d hash templates", maxTemplates))
	}
	if r.templates == nil {
		r.templates = make(map[uint64]template)
	}
	r.templateNames += int64(len(names))
	r.templates[id] = template{n, slices.Clip(names)}
	return true
}

// templateFields consumes the field names of a hash template and returns how many there are.
func (r *Reader) templateFields() (n uint64, ok bool) {
	_, n, ok = r.readTemplateNames(nil, 0)
	return n, ok
}

// skipBloom consumes a bloom filter of Dragonfly.
func (r *Reader) skipBloom(f frame) bool {
	// Options; growth and rate of false positives; three sizes.
	var filters uint64
	if !r.skipLengths(1) || !r.skip(16) || !r.skipLengths(3) || !r.lengths(&filters) {
		return false
	}
	for ; filters > 0; filters-- {
		if !r.skipLengths(1) {
			return false
		}
		ok := false
		if f == frameBloom {
			ok = r.skipString()
		} else {
			ok = r.skipPieces()
		}
		if !ok {
			return false
		}
	}
	return true
}

// skipPieces consumes a length, and as many bytes in pieces that have a length each.
func (r *Reader) skipPieces() bool {
	left, ok := r.length()
	for ok && left > 0 {
		var n uint64
		if n, ok = r.length(); !ok {
			break
		}
		if n == 0 || n > left {
			return r.corrupt(fmt.Sprintf("a piece of %d bytes, of a filter of which %d are left", n, left))
		}
		left -= n
		ok = r.skip(n)
	}
	return ok
}

// skipCMS consumes a count-min sketch of Dragonfly.
func (r *Reader) skipCMS() bool {
	var width, depth, total uint64
	if !r.lengths(&width, &depth, &total) {
		return false
	}
	n, ok := r.times(width, depth)
	return ok && r.skipEach(n, 8)
}

// skipTopK consumes a top-k list of Dragonfly.
func (r *Reader) skipTopK() bool {
	// Options, k, width, depth; decay; the items with their counts; the counters.
	var items, counters uint64
	if !r.skipLengths(4) || !r.skip(8) || !r.lengths(&items) {
		return false
	}
	for ; items > 0; items-- {
		if !r.skipString() || !r.skipLengths(1) {
			return false
		}
	}
	return r.lengths(&counters) && r.skip(counters)
}
