package rdb

import (
	"fmt"
	"io"
	"math"
)

// The values that only Dragonfly has. What is checked here is what its loader insists on (dfs-format 3.3 to 3.7).

// checkJSON checks a JSON document.
func (c *Checker) checkJSON() bool {
	r := c.r
	j := &c.json
	*j = jsonChecker{}
	for {
		e, err := r.Element()
		if err == io.EOF {
			break
		}
		if err != nil {
			return false
		}
		if !j.add(e.Value) {
			return r.corrupt(fmt.Sprintf("a document is no JSON, or nested deeper than %d levels", maxJSONDepth))
		}
	}
	if !j.ends() {
		return r.corrupt("a JSON document ends too early")
	}
	return true
}

// checkBloom checks a bloom filter, each layer of which is a string or comes in pieces.
func (c *Checker) checkBloom(pieces bool) bool {
	r := c.r
	var options, before, current, most, filters uint64
	if !r.lengths(&options) {
		return false
	}
	grow, ok := r.readInt64()
	if !ok {
		return false
	}
	wrong, ok := r.readInt64()
	if !ok || !r.lengths(&before, &current, &most, &filters) {
		return false
	}
	growth, rate := math.Float64frombits(uint64(grow)), math.Float64frombits(uint64(wrong))
	unused := filters == 0 && growth == 0 && rate == 0
	if options != 0 || !unused && !(growth >= 1 && growth <= math.MaxFloat64 && rate > 0 && rate <= 0.5) {
		return r.corrupt(fmt.Sprintf("a bloom filter with options %d, growth %v and an error rate of %v", options, growth, rate))
	}
	for ; filters > 0; filters-- {
		var size uint64
		if !r.skipLengths(1) {
			return false
		}
		if pieces {
			size, ok = r.skipSized()
		} else {
			size, ok = r.checkSized()
		}
		if !ok {
			return false
		}
		if size == 0 || size&(size-1) != 0 {
			return r.corrupt(fmt.Sprintf("a layer of a bloom filter has %d bytes, which is no power of two", size))
		}
	}
	return true
}

// skipSized consumes what comes in pieces, and returns how long it is.
func (r *Reader) skipSized() (uint64, bool) {
	n, ok := r.peekLength()
	return n, ok && r.skipPieces()
}

// checkCMS checks a count-min sketch.
func (c *Checker) checkCMS() bool {
	r := c.r
	var width, depth, total uint64
	if !r.lengths(&width, &depth, &total) {
		return false
	}
	if width == 0 || depth == 0 || width > math.MaxUint32 || depth > math.MaxUint32 {
		return r.corrupt(fmt.Sprintf("a sketch of %d by %d counters", width, depth))
	}
	n, ok := r.times(width, depth)
	return ok && r.skipEach(n, 8)
}

// checkTopK checks a top-k list.
func (c *Checker) checkTopK() bool {
	r := c.r
	var options, k, width, depth, items, bytes uint64
	if !r.lengths(&options, &k, &width, &depth) {
		return false
	}
	bits, ok := r.readInt64()
	if !ok || !r.lengths(&items) {
		return false
	}
	decay := math.Float64frombits(uint64(bits))
	if options != 0 || !(decay >= 0 && decay <= 1) || items > k {
		return r.corrupt(fmt.Sprintf("a list of the top %d with %d items, options %d and a decay of %v", k, items, options, decay))
	}
	for ; items > 0; items-- {
		var count uint64
		if !r.checkString() || !r.lengths(&count) {
			return false
		}
		if count > math.MaxUint32 {
			return r.corrupt(fmt.Sprintf("an item of a top-k list was counted %d times", count))
		}
	}
	if !r.lengths(&bytes) {
		return false
	}
	cells, ok := r.times(width, depth)
	if !ok {
		return false
	}
	if cells > math.MaxUint32 || bytes != 4*cells {
		return r.corrupt(fmt.Sprintf("a top-k list of %d by %d counters has %d bytes of them", width, depth, bytes))
	}
	return r.skip(bytes)
}

// checkCuckoo checks a cuckoo filter.
func (c *Checker) checkCuckoo() bool {
	r := c.r
	var slots, iterations, expansion, buckets, items, deleted, filters uint64
	if !r.lengths(&slots, &iterations, &expansion, &buckets, &items, &deleted, &filters) {
		return false
	}
	if slots == 0 || slots > 255 || iterations == 0 || iterations > 65535 || expansion > 65535 || expansion&(expansion-1) != 0 ||
		buckets == 0 || buckets&(buckets-1) != 0 || filters == 0 {
		return r.corrupt(fmt.Sprintf("a cuckoo filter of %d layers, %d buckets of %d slots, %d iterations and an expansion of %d",
			filters, buckets, slots, iterations, expansion))
	}
	for ; filters > 0; filters-- {
		size, ok := r.skipSized()
		if !ok {
			return false
		}
		if size%slots != 0 {
			return r.corrupt(fmt.Sprintf("a layer of a cuckoo filter has %d bytes, in buckets of %d", size, slots))
		}
	}
	return true
}
