package rdb

import (
	"encoding/binary"
	"math"

	"github.com/amberkv/amber/internal/intset"
	"github.com/amberkv/amber/internal/listpack"
	"github.com/amberkv/amber/internal/lzf"
	"github.com/amberkv/amber/internal/ziplist"
	"github.com/amberkv/amber/internal/zipmap"
)

// A ValueInfo tells what a key takes, as far as a Reader sees that in passing. It is the same whether the value was skipped,
// taken raw or read as elements. See Reader.Observe.
type ValueInfo struct {
	Encoding string // the name of how the value is encoded in the stream, such as "listpack", "hashtable" or "stream v3"
	Bytes    int64  // of the key and its value as in the stream, with what belongs to them: expiry, idle time and so on
	Expanded int64  // of the value alone, once every string in it that is compressed is expanded
	Elements int64  // items, members, fields or entries; 1 for a string; -1 if the encoding tells only who reads all of it
	Nodes    int64  // packed blobs that a list or a stream is made of; 0 for all others
	Extra    int64  // of a stream: what consumer groups, pending entries and the like take of Expanded
	Number   bool   // of a string: it is a number of at most 18 digits, which servers keep in binary
}

// Observe makes the Reader call fn with every key from the next on, once its value was passed: by the Next that
// moves on from it. The entry holds until fn returns. A nil fn ends that.
//
// It costs little, whatever is done with the values; but Next waits for the first bytes of a value, too.
func (r *Reader) Observe(fn func(e *Entry, v ValueInfo)) { r.observe = fn }

// A watch is what a Reader that is observed knows about the value that it is at.
type watch struct {
	open bool // there is one

	// Places are counted in bytes of the input that the key is in. unpacked ones go on with what compressed strings expand to.
	began int64 // of the first thing that belongs to the key
	value int64 // of the value, unpacked
	extra int64 // of what comes behind the nodes of a stream, unpacked; -1 if it has none or they weren't passed

	saved int64 // bytes that compression saved in all strings so far
	info  ValueInfo
	head  [16]byte
}

// place returns how many bytes of the input were consumed.
func (b *buffer) place() int64 { return b.base + int64(b.pos) }

func (r *Reader) unpacked() int64 { return r.place() + r.watch.saved }

// watchKey notes that a key, or what belongs to one, may begin here.
func (r *Reader) watchKey() { r.watch.began = r.place() }

// watchValue notes what the value of a key, which comes next, begins with.
func (r *Reader) watchValue(f frame) {
	w := &r.watch
	w.open, w.value, w.extra = true, r.unpacked(), -1
	w.info = ValueInfo{Encoding: r.encodingName(f), Elements: -1}
	i := &w.info
	switch f {
	case frameString, framePackedTTL:
		if r.entry.Type == TypeString {
			i.Elements, i.Number = 1, r.isNumber()
			return
		}
		off := 0
		if f == framePackedTTL {
			off = 8
		}
		i.Elements = r.packedCount(off)
	case frameHashTTL:
		i.Elements, _ = r.lengthAt(8)
	case framePairs, frameTriples, frameZSet, frameZSet2, frameHash2, frameHashTTLPre, frameArray:
		i.Elements, _ = r.lengthAt(0)
	case frameStrings, frameQuicklist2:
		n, _ := r.lengthAt(0)
		if r.entry.Encoding != 14 && r.entry.Encoding != 18 {
			i.Elements = n
			return
		}
		i.Nodes, i.Elements = max(n, 0), 0 // see watchNode
	case frameStream1, frameStream2, frameStream3, frameStream4, frameStream5:
		n, _ := r.lengthAt(0)
		i.Nodes = max(n, 0)
	}
}

// watchNode adds the node of a list that comes next.
func (r *Reader) watchNode(plain bool) {
	i := &r.watch.info
	switch n := int64(1); {
	case i.Elements < 0:
	case plain:
		i.Elements++
	default:
		if n = r.packedCount(0); n < 0 {
			i.Elements = -1
		} else {
			i.Elements += n
		}
	}
}

// watchStream notes that the nodes of a stream, and how many entries they have, are behind.
func (r *Reader) watchStream(entries uint64) {
	r.watch.extra = r.unpacked()
	if entries <= math.MaxInt64 {
		r.watch.info.Elements = int64(entries)
	}
}

// observed reports the value that was read to its end.
func (r *Reader) observed() {
	w := &r.watch
	w.open = false
	end := r.unpacked()
	w.info.Bytes = r.place() - w.began
	w.info.Expanded = end - w.value
	if w.extra >= 0 {
		w.info.Extra = end - w.extra
	}
	if r.observe != nil {
		r.observe(&r.entry, w.info)
	}
}

// frameNames are the names of encodings that their frame tells.
var frameNames = [...]string{
	frameQuicklist2:   "quicklist",
	frameTriples:      "hashtable with expiry",
	frameZSet:         "skiplist v1",
	frameZSet2:        "skiplist",
	frameHashTTL:      "hashtable with expiry",
	frameHashTTLPre:   "hashtable with expiry",
	frameHash2:        "hashtable with expiry",
	framePackedTTL:    "listpack with expiry",
	frameStream1:      "stream v1",
	frameStream2:      "stream v2",
	frameStream3:      "stream v3",
	frameStream4:      "stream v4",
	frameStream5:      "stream v5",
	frameModule:       "module",
	frameArray:        "array",
	frameTemplated:    "listpack with template",
	frameTemplatedArr: "array with template",
	frameTemplateRef:  "array with template",
	frameLength:       "number",
	frameCron:         "cron",
	frameBloom:        "bloom v1",
	frameBloom2:       "bloom v2",
	frameCMS:          "cms",
	frameTopK:         "topk",
	frameCuckoo:       "cuckoo",
}

// encodingName names the encoding of the entry's value.
func (r *Reader) encodingName(f frame) string {
	e := &r.entry
	switch {
	case e.Type == TypeString:
		return "string"
	case e.Type == TypeJSON:
		return "json"
	case f == framePairs && e.Type == TypeSet:
		return "hashtable with expiry"
	case f == framePairs:
		return "hashtable"
	case f != frameString && f != frameStrings:
		return frameNames[f]
	}
	switch e.Encoding {
	case 1:
		return "linkedlist"
	case 2:
		return "hashtable"
	case 9:
		return "zipmap"
	case 10, 12, 13:
		return "ziplist"
	case 11:
		return "intset"
	case 14:
		return "quicklist v1"
	case 23:
		return "listpack with expiry"
	case 30:
		return "listpack with template"
	}
	return "listpack"
}

// The functions below look at what comes next without consuming it. If it isn't what belongs there they say so to nobody: who
// reads it will.

// ahead returns the next n bytes, nil if there are less.
func (r *Reader) ahead(n int) []byte {
	if n > len(r.buf) || !r.need(n) {
		return nil
	}
	return r.buf[r.pos : r.pos+n]
}

// lengthAt returns a length and what follows it, or -1 and 0.
func (r *Reader) lengthAt(off int) (n int64, next int) {
	b := r.ahead(off + 1)
	if b == nil {
		return -1, 0
	}
	next = off + int(lengthSizes[b[off]])
	if b = r.ahead(next); next == off || b == nil {
		return -1, 0
	}
	switch b = b[off:]; len(b) {
	case 1:
		return int64(b[0]), next
	case 2:
		return int64(b[0]&0x3f)<<8 | int64(b[1]), next
	case 5:
		return int64(binary.BigEndian.Uint32(b[1:])), next
	}
	if u := binary.BigEndian.Uint64(b[1:]); u <= math.MaxInt64 {
		return int64(u), next
	}
	return -1, 0
}

// isNumber tells whether the string is one that servers keep in binary.
func (r *Reader) isNumber() bool {
	b := r.ahead(1)
	if b == nil || b[0] >= 0x40 {
		return b != nil && b[0] >= stringInt8 && b[0] < stringLZF
	}
	n := int(b[0])
	if n == 0 || n > 19 {
		return false
	}
	if b = r.ahead(1 + n); b == nil || n == 19 && b[1] != '-' {
		return false
	}
	_, ok := listpack.ParseInt(b[1:])
	return ok
}

// packedCount returns how many elements the packed blob at off has by its header, or -1.
func (r *Reader) packedCount(off int) int64 {
	size, n := int64(-1), int64(-1)
	length := int64(0) // of the string
	switch r.entry.Encoding {
	case 9:
		b, _ := r.peekString(off, 1)
		if b == nil || b[0] >= zipmap.Unknown {
			return -1
		}
		return int64(b[0])
	case 11:
		b, length := r.peekString(off, intset.HeaderSize)
		if b == nil {
			return -1
		}
		width, n := intset.Header(b)
		if intset.HeaderSize+int64(n)*int64(width) != length {
			return -1
		}
		return int64(n)
	case 10, 12, 13, 14:
		var b []byte
		if b, length = r.peekString(off, ziplist.HeaderSize); b != nil {
			total, _, count := ziplist.Header(b)
			size, n = int64(total), int64(count)
		}
	case 16, 17, 18, 20, 23, 25:
		var b []byte
		if b, length = r.peekString(off, listpack.HeaderSize); b != nil {
			total, count := listpack.Header(b)
			size, n = int64(total), int64(count)
		}
	}
	if n < 0 || n == listpack.Unknown || size != length {
		return -1
	}
	switch r.entry.Encoding {
	case 12, 13, 16, 17:
		return n / 2
	case 23, 25:
		return n / 3
	}
	return n
}

// peekString returns the first n bytes of the string at off, expanded if they are compressed, and its length in all. The
// bytes are nil if it is shorter or a number.
func (r *Reader) peekString(off, n int) ([]byte, int64) {
	b := r.ahead(off + 1)
	if b == nil || b[off] >= stringInt8 && b[off] != stringLZF {
		return nil, 0
	}
	if b[off] != stringLZF {
		length, next := r.lengthAt(off)
		if length < int64(n) {
			return nil, 0
		}
		if b = r.ahead(next + n); b == nil {
			return nil, 0
		}
		return b[next:], length
	}
	packed, next := r.lengthAt(off + 1)
	if packed < 0 {
		return nil, 0
	}
	length, next := r.lengthAt(next)
	if length < int64(n) {
		return nil, 0
	}
	// No item of a block takes more than three bytes, and none gives less than one.
	if b = r.ahead(next + int(min(packed, int64(3*n)))); b == nil {
		return nil, 0
	}
	var lz lzf.Stream
	head := r.watch.head[:n]
	if out, _, err := lz.Expand(head, 0, b[next:]); err != nil || out < n {
		return nil, 0
	}
	return head, length
}
