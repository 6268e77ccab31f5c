package rdb

import (
	"fmt"
	"strconv"

	"github.com/amberkv/amber/internal/intset"
	"github.com/amberkv/amber/internal/listpack"
	"github.com/amberkv/amber/internal/lzf"
	"github.com/amberkv/amber/internal/ziplist"
	"github.com/amberkv/amber/internal/zipmap"
)

// A packFormat says how the entries of a packed blob are written.
type packFormat uint8

const (
	packString   packFormat = iota // no entries: one long string
	packListpack                   //
	packZiplist                    //
	packFixed                      // numbers of one width
)

// A pack is a packed blob that is read entry by entry. It is whole, where it stands in the reader's buffer or expanded, or a
// window moves over it: then rest bytes of it are behind b.
type pack struct {
	format   packFormat
	windowed bool
	lzf      bool
	b        []byte
	p        int    // of the next entry in b
	base     uint64 // of b in the blob
	rest     uint64
	in       uint64 // bytes of the string in the stream that were not yet taken for the window
	lz       lzf.Stream

	entries uint64 // read
	count   uint64 // that there are, by the header
	counted bool   // the header tells
	prev    uint64 // length of the entry before; of a string that is read in pieces, the length of its entry without tail
	last    uint64 // where the last entry begins, by the header of a ziplist
	width   int    // of packFixed
	number  int64  // the one before, of packFixed
}

// wholeSize is how large a packed blob may be that is expanded in one go.
const wholeSize = 128 << 10

// windowSize is the size of the window on larger ones: for what LZF looks back to, and two pieces so as not to move it too often.
const windowSize = lzf.History + 2*pieceSize

// headRoom is more than what stands around the string of an entry: lengths before and behind.
const headRoom = 32

// openPack begins to read the string that comes next as a packed blob.
func (r *Reader) openPack(format packFormat) bool {
	k := &r.val.pack
	if !r.need(1) {
		return r.starved()
	}
	switch c := r.buf[r.pos]; {
	case c < stringInt8:
		n, ok := r.length()
		if !ok {
			return false
		}
		if n > uint64(len(r.buf)) {
			return r.openWindow(format, n, n, false)
		}
		b, ok := r.take(n, nil)
		if !ok {
			return false
		}
		*k = pack{format: format, b: b}
		return true
	case c == stringLZF:
		r.pos++
		in, out, ok := r.lzfLengths()
		if !ok {
			return false
		}
		if out > wholeSize {
			return r.openWindow(format, in, out, true)
		}
		b, ok := r.expand(in, out, &r.val.blob)
		if !ok {
			return false
		}
		*k = pack{format: format, b: b}
		return true
	}
	return r.corrupt(fmt.Sprintf("byte %#02x begins a number or nothing, but a packed value belongs here", r.buf[r.pos]))
}

// openWindow begins to read a string of out bytes, which take in bytes in the stream, through a window.
func (r *Reader) openWindow(format packFormat, in, out uint64, compressed bool) bool {
	if r.val.window == nil {
		r.val.window = make([]byte, windowSize)
	}
	r.val.pack = pack{format: format, windowed: true, lzf: compressed, b: r.val.window[:0], in: in, rest: out}
	return true
}

// expand returns a compressed string of out bytes, which is small, from in bytes.
func (r *Reader) expand(in, out uint64, scratch *[]byte) ([]byte, bool) {
	if in > 2*out {
		// Not even single literals take as many.
		return nil, r.corrupt("a compressed string doesn't expand to its length")
	}
	packed, ok := r.take(in, &r.packed)
	if !ok {
		return nil, false
	}
	if uint64(cap(*scratch)) < out {
		*scratch = make([]byte, max(out, 4<<10))
	}
	*scratch = (*scratch)[:out]
	if lzf.Decompress(*scratch, packed) != nil {
		return nil, r.corrupt("a compressed string doesn't expand to its length")
	}
	return *scratch, true
}

// packMore gets n bytes of the blob into its window, n being at most pieceSize + headRoom, or as many as are left of it. It returns false on an error only.
func (r *Reader) packMore(n int) bool {
	k := &r.val.pack
	for len(k.b)-k.p < n && k.rest > 0 {
		w := r.val.window
		if len(k.b) == len(w) || k.p+n > len(w) {
			keep := len(k.b)
			if k.lzf {
				keep = max(0, keep-lzf.History)
			}
			keep = min(keep, k.p)
			k.b = w[:copy(w, k.b[keep:])]
			k.base += uint64(keep)
			k.p -= keep
		}
		end := uint64(len(w))
		if free := end - uint64(len(k.b)); free > k.rest {
			end = uint64(len(k.b)) + k.rest
		}
		if k.in > 0 && !r.need(1) {
			return r.starved()
		}
		src := r.buf[r.pos : r.pos+int(min(uint64(r.end-r.pos), k.in))]
		at := len(k.b)
		took := 0
		if k.lzf {
			var err error
			if at, took, err = k.lz.Expand(w[:end], at, src); err != nil || len(src) == 0 && at == len(k.b) {
				return r.corrupt("a compressed string doesn't expand to its length")
			}
		} else {
			took = copy(w[at:end], src)
			at += took
		}
		r.pos += took
		k.in -= uint64(took)
		k.rest -= uint64(at - len(k.b))
		k.b = w[:at]
		if k.rest == 0 && (k.in > 0 || k.lzf && !k.lz.Between()) {
			return r.corrupt("a compressed string doesn't expand to its length")
		}
	}
	return true
}

// badPack is what is wrong with a blob where it is read.
func (r *Reader) badPack(why string) bool {
	k := &r.val.pack
	name := [...]string{"string", "listpack", "ziplist", "intset"}[k.format]
	return r.corrupt(fmt.Sprintf("%s: byte %d, after %d entries, of a %s", why, k.base+uint64(k.p), k.entries, name))
}

// beginPacked begins a value that is one packed blob.
func (r *Reader) beginPacked(format packFormat, s step, kind ElementKind) bool {
	if !r.openPack(format) || !r.packHeader() {
		return false
	}
	v := &r.val
	v.step, v.elem.Kind = s, kind
	if k := &v.pack; k.counted {
		n := k.count
		switch s {
		case stepPackScored, stepPackFields:
			n /= 2
		case stepPackTTL:
			n /= 3
		}
		v.length = int64(n)
	}
	return true
}

// beginNodes begins a list of several packed blobs.
func (r *Reader) beginNodes(format packFormat) bool {
	if !r.beginCollection(stepNodes, ElementItem) {
		return false
	}
	r.val.length = -1
	r.val.pack = pack{format: format}
	return true
}

// packHeader reads what a blob begins with.
func (r *Reader) packHeader() bool {
	k := &r.val.pack
	header := listpack.HeaderSize
	if k.format == packZiplist {
		header = ziplist.HeaderSize
	}
	total := uint64(len(k.b)) + k.rest
	if total < uint64(header)+1 {
		return r.badPack("it is too short")
	}
	if !r.packMore(header) {
		return false
	}
	var size uint64
	var n int
	if k.format == packListpack {
		size, n = listpack.Header(k.b)
	} else {
		size, k.last, n = ziplist.Header(k.b)
	}
	if size != total {
		return r.badPack(fmt.Sprintf("it is of %d bytes and says %d", total, size))
	}
	k.p = header
	k.count, k.counted = uint64(n), n != listpack.Unknown
	return true
}

// packAtEnd tells whether all entries were read.
func (r *Reader) packAtEnd() (end, ok bool) {
	k := &r.val.pack
	if k.p >= len(k.b) {
		if !r.packMore(1) {
			return false, false
		}
		if k.p >= len(k.b) {
			return false, r.badPack("it has no end mark")
		}
	}
	if k.b[k.p] != listpack.EndMark {
		return false, true
	}
	switch {
	case k.p != len(k.b)-1 || k.rest > 0:
		return false, r.badPack("its end mark comes too early")
	case k.counted && k.count != k.entries:
		return false, r.badPack(fmt.Sprintf("it says that it has %d entries", k.count))
	case k.format == packZiplist && k.last != k.base+uint64(k.p)-k.prev:
		return false, r.badPack(fmt.Sprintf("it says that its last entry is at %d", k.last))
	}
	return true, true
}

// packNext reads the next entry: a string, or a number if s is nil. A string that has no room in the window is left to
// read: big is its length.
func (r *Reader) packNext() (s []byte, n int64, big uint64, ok bool) {
	k := &r.val.pack
	var next int
	if k.format == packListpack {
		s, n, next = listpack.Next(k.b, k.p)
	} else {
		s, n, next = ziplist.Next(k.b, k.p, k.prev)
	}
	if next == 0 {
		return r.packSlow()
	}
	k.prev = uint64(next - k.p)
	k.p = next
	k.entries++
	return s, n, 0, true
}

// packSlow reads an entry that isn't whole in the window.
func (r *Reader) packSlow() (s []byte, n int64, big uint64, ok bool) {
	k := &r.val.pack
	if k.rest == 0 {
		return nil, 0, 0, r.badPack("there is no entry")
	}
	if !r.packMore(headRoom) {
		return nil, 0, 0, false
	}
	head, size, tail := 0, uint64(0), 0
	if k.format == packListpack {
		head, size, _, ok = listpack.Head(k.b[k.p:])
		tail = listpack.Tail(uint64(head) + size)
	} else {
		head, size, _, _, ok = ziplist.Head(k.b[k.p:], k.prev)
	}
	if !ok || size > uint64(len(k.b)-k.p)+k.rest {
		return nil, 0, 0, r.badPack("there is no entry")
	}
	if size > pieceSize {
		k.p += head
		k.prev = uint64(head) + size
		return nil, 0, size, true
	}
	if !r.packMore(head + int(size) + tail) {
		return nil, 0, 0, false
	}
	var next int
	if k.format == packListpack {
		s, n, next = listpack.Next(k.b, k.p)
	} else {
		s, n, next = ziplist.Next(k.b, k.p, k.prev)
	}
	if next == 0 {
		return nil, 0, 0, r.badPack("there is no entry")
	}
	k.prev = uint64(next - k.p)
	k.p = next
	k.entries++
	return s, n, 0, true
}

// packTail reads what follows an entry of which packNext gave only the length, and which was read since.
func (r *Reader) packTail() bool {
	k := &r.val.pack
	k.entries++
	if k.format != packListpack {
		return true
	}
	tail := listpack.Tail(k.prev)
	if !r.packMore(tail) {
		return false
	}
	if tail > len(k.b)-k.p || !listpack.IsTail(k.b[k.p:k.p+tail], k.prev) {
		return r.badPack("an entry has another length behind it than before it")
	}
	k.p += tail
	k.prev += uint64(tail)
	return true
}

// packText reads an entry as text. It holds while the value is read if last isn't set.
func (r *Reader) packText(number *[20]byte, scratch *[]byte, last bool) ([]byte, bool) {
	s, n, big, ok := r.packNext()
	switch {
	case !ok:
		return nil, false
	case big > 0:
		if big > uint64(r.maxKey) {
			return nil, r.tooLarge("name", big)
		}
		*scratch = (*scratch)[:0]
		k := &r.val.pack
		for big > 0 {
			part := min(int(big), pieceSize)
			if !r.packMore(part) {
				return nil, false
			}
			*scratch = append(*scratch, k.b[k.p:k.p+part]...)
			k.p += part
			big -= uint64(part)
		}
		return *scratch, r.packTail()
	case s == nil:
		return strconv.AppendInt(number[:0], n, 10), true
	case r.val.pack.windowed && !last:
		*scratch = append((*scratch)[:0], s...)
		return *scratch, true
	}
	return s, true
}

// packValue reads an entry as Value, or as its first piece.
func (r *Reader) packValue() bool {
	v := &r.val
	e := &v.elem
	s, n, big, ok := r.packNext()
	switch {
	case !ok:
		return false
	case big > 0:
		return r.beginPieces(fromEntry, big)
	case len(s) > pieceSize:
		// All of it is here, but pieces don't depend on that.
		k := &v.pack
		k.entries--
		tail := 0
		if k.format == packListpack {
			for tail = 1; listpack.Tail(k.prev-uint64(tail)) != tail; tail++ {
			}
		}
		k.p -= tail + len(s)
		k.prev -= uint64(tail)
		return r.beginPieces(fromEntry, uint64(len(s)))
	case s == nil:
		e.Value = strconv.AppendInt(v.valueText[:0], n, 10)
	default:
		e.Value = s
	}
	e.More = false
	return true
}

// stepPacked reads the next element out of packed blobs, and of what else has a structure of its own.
func (r *Reader) stepPacked() bool {
	v := &r.val
	switch v.step {
	case stepNodes:
		return r.nextNode()
	case stepIntset:
		return r.nextNumber()
	case stepZipmap:
		return r.nextZipmap()
	case stepTemplate, stepIndexed:
		return r.stepRare()
	case stepRaw:
		return r.nextRaw()
	}
	end, ok := r.packAtEnd()
	if !ok {
		return false
	}
	if end {
		if v.step == stepPackItems && v.left > 0 {
			v.step = stepNodes
			return r.nextNode()
		}
		if v.step == stepPackTemplate && len(v.names) > 0 {
			return r.badPack("it has fewer values than its template has fields")
		}
		v.step = stepEnd
		return false
	}
	e := &v.elem
	switch v.step {
	case stepPackItems:
		return r.packValue()
	case stepPackMembers:
		e.Value, ok = r.packText(&v.valueText, &v.value, true)
		return ok
	case stepPackFields:
		e.Field, ok = r.packText(&v.fieldText, &v.field, false)
		return ok && r.packInside() && r.packValue()
	case stepPackScored:
		if e.Value, ok = r.packText(&v.valueText, &v.value, false); !ok || !r.packInside() {
			return false
		}
		e.Score, ok = r.packScore()
		return ok
	case stepPackTTL:
		// The expiry stands behind the value, which has to be whole therefore.
		if e.Field, ok = r.packText(&v.fieldText, &v.field, false); !ok || !r.packInside() {
			return false
		}
		if e.Value, ok = r.packText(&v.valueText, &v.value, false); !ok || !r.packInside() {
			return false
		}
		s, at, big, ok := r.packNext()
		if !ok {
			return false
		}
		if s != nil || big > 0 || at < 0 || at > maxFieldTTL {
			return r.badPack("a hash field expires at an impossible time")
		}
		e.ExpireAt = at
		return true
	case stepPackTemplate:
		return r.nextTemplateField() && r.packValue()
	}
	return r.unsupported("an element of an unknown kind")
}

// packInside makes sure that the blob doesn't end within an element.
func (r *Reader) packInside() bool {
	end, ok := r.packAtEnd()
	if end {
		return r.badPack("it ends within an element")
	}
	return ok
}

// packScore reads an entry as a score.
func (r *Reader) packScore() (float64, bool) {
	s, n, big, ok := r.packNext()
	switch {
	case !ok:
		return 0, false
	case big > 0:
		return 0, r.badPack("a score is no number")
	case s == nil:
		return float64(n), true
	}
	return r.parseScore(s)
}

// nextNode begins the next node of a quicklist that isn't empty, and reads its first element.
func (r *Reader) nextNode() bool {
	v := &r.val
	for v.left > 0 {
		v.left--
		format := v.pack.format
		if r.entry.Encoding == 18 {
			container, ok := r.length()
			if !ok {
				return false
			}
			switch container {
			case 1:
				r.watchNode(true)
				v.step = stepNodes
				return r.readValue()
			case 2:
				format = packListpack
			default:
				return r.corrupt(fmt.Sprintf("a list node is of kind %d instead of 1 or 2", container))
			}
		}
		if r.watch.open {
			r.watchNode(false)
		}
		if !r.openPack(format) || !r.packHeader() {
			return false
		}
		end, ok := r.packAtEnd()
		if !ok {
			return false
		}
		if !end {
			v.step = stepPackItems
			return r.packValue()
		}
	}
	v.step = stepEnd
	return false
}

// beginIntset begins a set of numbers.
func (r *Reader) beginIntset() bool {
	if !r.openPack(packFixed) {
		return false
	}
	v := &r.val
	k := &v.pack
	total := uint64(len(k.b)) + k.rest
	if total < intset.HeaderSize {
		return r.badPack("it is too short")
	}
	if !r.packMore(intset.HeaderSize) {
		return false
	}
	k.width, k.count = intset.Header(k.b)
	if k.width == 0 || intset.HeaderSize+k.count*uint64(k.width) != total {
		return r.badPack(fmt.Sprintf("it is of %d bytes and says %d entries", total, k.count))
	}
	k.p = intset.HeaderSize
	v.step, v.elem.Kind, v.length = stepIntset, ElementMember, int64(k.count)
	return true
}

func (r *Reader) nextNumber() bool {
	v := &r.val
	k := &v.pack
	if k.entries == k.count {
		v.step = stepEnd
		return false
	}
	if len(k.b)-k.p < k.width && !r.packMore(k.width) {
		return false
	}
	n := intset.At(k.b[k.p:], k.width)
	if n <= k.number && k.entries > 0 {
		return r.badPack("its numbers don't ascend")
	}
	k.number = n
	k.p += k.width
	k.entries++
	v.elem.Value = strconv.AppendInt(v.valueText[:0], n, 10)
	return true
}

// beginZipmap begins a hash of Redis before 2.6.
func (r *Reader) beginZipmap() bool {
	v := &r.val
	b, ok := r.readWhole("zipmap")
	if !ok {
		return false
	}
	if len(b) < 2 {
		return r.corrupt("a zipmap is too short")
	}
	v.pack = pack{b: b, p: 1, count: uint64(b[0]), counted: b[0] < zipmap.Unknown}
	v.step, v.elem.Kind = stepZipmap, ElementField
	if v.pack.counted {
		v.length = int64(b[0])
	}
	return true
}

func (r *Reader) nextZipmap() bool {
	v := &r.val
	k := &v.pack
	var next int
	if v.elem.Field, v.elem.Value, next = zipmap.Next(k.b, k.p); next > 0 {
		k.p = next
		k.entries++
		return true
	}
	if k.p != len(k.b)-1 || k.b[k.p] != zipmap.EndMark {
		return r.corrupt(fmt.Sprintf("a zipmap is wrong at byte %d", k.p))
	}
	if k.counted && k.count != k.entries {
		return r.corrupt(fmt.Sprintf("a zipmap has %d pairs and says %d", k.entries, k.count))
	}
	v.step = stepEnd
	return false
}

// readWhole returns the packed blob that comes next, which may have maxPacked bytes.
func (r *Reader) readWhole(what string) ([]byte, bool) {
	if !r.need(1) {
		return nil, r.starved()
	}
	switch c := r.buf[r.pos]; {
	case c < stringInt8:
		n, ok := r.length()
		if !ok {
			return nil, false
		}
		if n > uint64(r.maxPacked) {
			return nil, r.tooLargeFor(what, n, r.maxPacked)
		}
		return r.take(n, &r.val.blob)
	case c == stringLZF:
		r.pos++
		in, out, ok := r.lzfLengths()
		if !ok {
			return nil, false
		}
		if out > uint64(r.maxPacked) {
			return nil, r.tooLargeFor(what, out, r.maxPacked)
		}
		return r.expand(in, out, &r.val.blob)
	}
	return nil, r.corrupt(fmt.Sprintf("byte %#02x begins a number or nothing, but a packed value belongs here", r.buf[r.pos]))
}
