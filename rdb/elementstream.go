package rdb

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"

	"github.com/amberkv/amber/internal/listpack"
)

// A streamReader is how far a value that is a stream was read.
type streamReader struct {
	level int // of the encoding: each adds to the one before

	inNode        bool
	node          StreamID // what the ids of the node's entries are relative to
	live, deleted uint64   // entries of the node still to come

	nodes  bool     // for strict: there was a node
	any    bool     // the node had an entry
	lastID StreamID // of all so far

	groups, pending, consumers, owned, nacked, producers, produced uint64 // still to come
}

// How a stream entry begins.
const (
	entryDeleted    = 1 // flag: it is only still there
	entrySameFields = 2 // flag: its field names are those of the node
)

func (r *Reader) beginStream(level int) bool {
	v := &r.val
	v.stream = streamReader{level: level}
	nodes, ok := r.length()
	v.step, v.left = stepEntries, nodes
	return ok
}

// count reads how many elements of a kind follow.
func (r *Reader) count(n *uint64) (ok bool) {
	if *n, ok = r.length(); ok && *n > math.MaxInt64 {
		return r.corrupt(fmt.Sprintf("a length of %d elements is impossible", *n))
	}
	return ok
}

// readID reads an id of two lengths.
func (r *Reader) readID(id *StreamID) bool { return r.lengths(&id.MS, &id.Seq) }

// readRawID reads an id of sixteen bytes.
func (r *Reader) readRawID() (id StreamID, ok bool) {
	b, ok := r.take(16, &r.val.text)
	if ok {
		id = rawID(b)
	}
	return id, ok
}

func rawID(b []byte) StreamID {
	return StreamID{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
}

// stepStream reads the next element of a stream.
func (r *Reader) stepStream() bool {
	v := &r.val
	s := &v.stream
	e := &v.elem
	for {
		switch v.step {
		case stepEntries:
			switch {
			case s.inNode:
				if got, ok := r.nextStreamEntry(); got || !ok {
					return ok
				}
				s.inNode = false
			case v.left > 0:
				v.left--
				if !r.beginStreamNode() {
					return false
				}
				s.inNode = true
				*e = Element{Kind: ElementEntry}
			default:
				v.step = stepGroups
				return r.readStreamInfo()
			}
		case stepGroups:
			if s.groups > 0 {
				s.groups--
				v.step = stepPending
				return r.readGroup()
			}
			if s.level < 4 {
				v.step = stepEnd
				return false
			}
			v.step = stepProducers
			*e = Element{Kind: ElementIDMP}
			ok := r.lengths(&e.Stream.IDMPDuration, &e.Stream.IDMPMaxSize) && r.count(&s.producers)
			e.Left = int64(s.producers)
			return ok
		case stepPending:
			if s.pending > 0 {
				s.pending--
				return r.readPending()
			}
			v.step = stepConsumers
			if !r.count(&s.consumers) {
				return false
			}
		case stepConsumers:
			if s.consumers > 0 {
				s.consumers--
				v.step = stepOwned
				return r.readConsumer()
			}
			v.step = stepNacked
			if s.level >= 5 && !r.count(&s.nacked) {
				return false
			}
		case stepOwned, stepNacked:
			left, kind, then := &s.owned, ElementOwned, stepConsumers
			if v.step == stepNacked {
				left, kind, then = &s.nacked, ElementNacked, stepGroups
			}
			if *left > 0 {
				*left--
				id, ok := r.readRawID()
				*e = Element{Kind: kind, ID: id, Left: int64(*left)}
				return ok
			}
			v.step = then
		case stepProducers:
			if s.producers > 0 {
				s.producers--
				v.step = stepProduced
				*e = Element{Kind: ElementProducer, Left: int64(s.producers)}
				var ok bool
				if e.Value, ok = r.readName(&v.value, "name of a producer"); !ok || !r.count(&s.produced) {
					return false
				}
				e.Count = int64(s.produced)
				return true
			}
			v.step = stepIDMPEnd
			*e = Element{Kind: ElementIDMPEnd}
			return r.lengths(&e.Stream.IDMPAdded, &e.Stream.IDMPDuplicates)
		case stepProduced:
			if s.produced > 0 {
				s.produced--
				*e = Element{Kind: ElementProduced, Left: int64(s.produced)}
				var ok bool
				if e.Value, ok = r.readName(&v.value, "id of a producer"); !ok {
					return false
				}
				return r.readID(&e.ID)
			}
			v.step = stepProducers
		default: // stepIDMPEnd
			v.step = stepEnd
			return false
		}
	}
}

// beginStreamNode reads the id that a node begins with, and from its listpack how many entries it has and the field
// names that most of them have.
func (r *Reader) beginStreamNode() bool {
	v := &r.val
	s := &v.stream
	key, ok := r.readString(&v.text, "id of a stream node")
	if !ok {
		return false
	}
	if len(key) != 16 {
		return r.corrupt(fmt.Sprintf("a stream node has an id of %d bytes instead of 16", len(key)))
	}
	s.node = rawID(key)
	if r.strict && !r.strictNode() {
		return false
	}
	b, ok := r.readWhole("stream node")
	if !ok {
		return false
	}
	v.pack = pack{format: packListpack, b: b}
	if !r.packHeader() {
		return false
	}
	var fields, end uint64
	if !r.packCount(&s.live) || !r.packCount(&s.deleted) || !r.packCount(&fields) {
		return false
	}
	v.master, v.masterText = v.master[:0], v.masterText[:0]
	for range fields {
		name, ok := r.packString(&v.masterText)
		if !ok {
			return false
		}
		v.master = append(v.master, name)
	}
	if !r.packCount(&end) {
		return false
	}
	if end != 0 {
		return r.badPack("the head of a stream node doesn't end with 0")
	}
	return true
}

// packCount reads an entry that is a number from 0 on.
func (r *Reader) packCount(n *uint64) bool {
	v, ok := r.packInt()
	if ok && v < 0 {
		return r.badPack(fmt.Sprintf("a number that counts something is %d", v))
	}
	*n = uint64(v)
	return ok
}

// packInt reads an entry that is a number.
func (r *Reader) packInt() (int64, bool) {
	k := &r.val.pack
	s, n, next := listpack.Next(k.b, k.p)
	if next == 0 || s != nil {
		return 0, r.badPack("there is no number")
	}
	k.p = next
	k.entries++
	return n, true
}

// packString reads an entry of a whole listpack. If it is a number, its text is appended to text.
func (r *Reader) packString(text *[]byte) ([]byte, bool) {
	k := &r.val.pack
	s, n, next := listpack.Next(k.b, k.p)
	if next == 0 {
		return nil, r.badPack("there is no entry")
	}
	k.p = next
	k.entries++
	if s == nil {
		at := len(*text)
		*text = strconv.AppendInt(*text, n, 10)
		s = (*text)[at:len(*text):len(*text)]
	}
	return s, true
}

// nextStreamEntry reads the next entry of a node that isn't deleted. It returns false, true behind the last.
func (r *Reader) nextStreamEntry() (got, ok bool) {
	v := &r.val
	s := &v.stream
	e := &v.elem
	for {
		end, ok := r.packAtEnd()
		if !ok {
			return false, false
		}
		if end {
			if s.live != 0 || s.deleted != 0 {
				return false, r.badPack(fmt.Sprintf("%d live and %d deleted entries of a stream node are missing", s.live, s.deleted))
			}
			return false, true
		}
		flags, ok := r.packInt()
		if !ok {
			return false, false
		}
		ms, ok := r.packInt()
		if !ok {
			return false, false
		}
		seq, ok := r.packInt()
		if !ok {
			return false, false
		}
		// Modulo 2^64: an id can lie before that of its node in its second half.
		e.ID = StreamID{s.node.MS + uint64(ms), s.node.Seq + uint64(seq)}
		if r.strict && !r.strictEntry(e.ID) {
			return false, false
		}
		v.text = v.text[:0]
		e.Fields = v.fields[:0]
		var size, want int64
		if flags&entrySameFields != 0 {
			for _, name := range v.master {
				value, ok := r.packString(&v.text)
				if !ok {
					return false, false
				}
				e.Fields = append(e.Fields, name, value)
			}
			want = int64(len(v.master)) + 3
		} else {
			var n uint64
			if !r.packCount(&n) {
				return false, false
			}
			for ; n > 0; n-- {
				name, ok := r.packString(&v.text)
				if !ok {
					return false, false
				}
				value, ok := r.packString(&v.text)
				if !ok {
					return false, false
				}
				e.Fields = append(e.Fields, name, value)
			}
			want = int64(len(e.Fields)) + 4
		}
		v.fields = e.Fields
		if size, ok = r.packInt(); !ok {
			return false, false
		}
		if size != want {
			return false, r.badPack(fmt.Sprintf("a stream entry of %d parts says that it has %d", want, size))
		}
		left := &s.live
		if flags&entryDeleted != 0 {
			left = &s.deleted
		}
		if *left == 0 {
			return false, r.badPack("a stream node has more entries than it says")
		}
		*left--
		if flags&entryDeleted == 0 {
			return true, true
		}
	}
}

// readStreamInfo reads what comes behind the entries.
func (r *Reader) readStreamInfo() bool {
	s := &r.val.stream
	e := &r.val.elem
	*e = Element{Kind: ElementStream}
	i := &e.Stream
	if !r.lengths(&i.Length) {
		return false
	}
	r.watchStream(i.Length)
	if !r.readID(&i.LastID) {
		return false
	}
	if s.level >= 2 {
		i.HasHistory = true
		if !r.readID(&i.FirstID) || !r.readID(&i.MaxDeletedID) || !r.lengths(&i.EntriesAdded) {
			return false
		}
	}
	if !r.count(&s.groups) {
		return false
	}
	e.Left = int64(s.groups)
	return true
}

func (r *Reader) readGroup() (ok bool) {
	s := &r.val.stream
	e := &r.val.elem
	*e = Element{Kind: ElementGroup, Read: -1, Left: int64(s.groups)}
	if e.Value, ok = r.readName(&r.val.value, "name of a group"); !ok || !r.readID(&e.ID) {
		return false
	}
	if s.level >= 2 {
		read, ok := r.length()
		if !ok {
			return false
		}
		e.Read = int64(read) // 2^64-1: unknown
		if e.Read < -1 {
			return r.corrupt(fmt.Sprintf("a group has read %d entries", read))
		}
	}
	if !r.count(&s.pending) {
		return false
	}
	e.Count = int64(s.pending)
	return true
}

func (r *Reader) readPending() bool {
	e := &r.val.elem
	*e = Element{Kind: ElementPending, Left: int64(r.val.stream.pending)}
	var ok bool
	if e.ID, ok = r.readRawID(); !ok {
		return false
	}
	if e.Delivered, ok = r.readInt64(); !ok {
		return false
	}
	n, ok := r.length()
	if ok && n > math.MaxInt64 {
		return r.corrupt(fmt.Sprintf("a pending entry was delivered %d times", n))
	}
	e.Count = int64(n)
	return ok
}

func (r *Reader) readConsumer() (ok bool) {
	s := &r.val.stream
	e := &r.val.elem
	*e = Element{Kind: ElementConsumer, Active: -1, Left: int64(s.consumers)}
	if e.Value, ok = r.readName(&r.val.value, "name of a consumer"); !ok {
		return false
	}
	if e.Seen, ok = r.readInt64(); !ok {
		return false
	}
	if s.level >= 3 {
		if e.Active, ok = r.readInt64(); !ok {
			return false
		}
	}
	if !r.count(&s.owned) {
		return false
	}
	e.Count = int64(s.owned)
	return true
}
