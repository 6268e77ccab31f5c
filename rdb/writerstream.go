package rdb

import (
	"bytes"
	"fmt"

	"github.com/amberkv/amber/internal/listpack"
)

// How much a node of a stream takes at most, by the servers' own defaults.
const (
	streamNodeSize    = 4096
	streamNodeEntries = 100
)

// The flag of an entry whose fields have the names that the node begins with.
const streamSameFields = 2

// A streamWriter writes the elements of a stream. Its entries are held, as the number of their nodes comes first; everything
// else goes out as it comes, since elements tell how many more follow.
type streamWriter struct {
	level int

	nodes, entries uint64
	first, last    StreamID

	// The node that is being made: its first entry's ID and field names, and its entries.
	master StreamID
	names  []byte // each with its length before it
	fields int
	head   []byte // what the list pack begins with: the names again, as its entries
	body   []byte
	inNode uint64
	packed uint64 // list pack entries in body
	pack   []byte // a whole node

	closed                      bool // the entries are complete
	groups                      uint64
	pending, owned, nacked      uint64
	consumers                   uint64
	inGroup, counted, nackedOut bool
	idmp, idmpEnd               bool
	producers, produced         uint64
}

func (s *streamWriter) begin(level int) {
	*s = streamWriter{level: level, names: s.names[:0], head: s.head[:0], body: s.body[:0], pack: s.pack[:0]}
}

// entry adds an entry.
func (s *streamWriter) entry(w *Writer, e *Element) error {
	if s.closed {
		return w.disorder("an entry behind the end of the entries")
	}
	if len(e.Fields)%2 != 0 {
		return w.disorder("a stream entry whose last field has no value")
	}
	if s.entries > 0 && !s.last.Less(e.ID) {
		return w.disorder(fmt.Sprintf("stream entry %v after %v", e.ID, s.last))
	}
	if s.inNode >= streamNodeEntries || len(s.body) >= streamNodeSize {
		s.flush(&w.out)
	}
	n := len(e.Fields) / 2
	if s.inNode == 0 {
		s.master, s.fields = e.ID, n
		s.names, s.head = s.names[:0], s.head[:0]
		for i := range n {
			name := e.Fields[2*i]
			s.names = append(appendLength(s.names, uint64(len(name))), name...)
			s.head = listpack.AppendString(s.head, name)
		}
	}
	if s.entries == 0 {
		s.first = e.ID
	}
	s.last = e.ID
	s.entries++
	s.inNode++

	same := s.sameFields(e)
	flags, size := int64(0), 2*n+4
	if same {
		flags, size = streamSameFields, n+3
	}
	b := listpack.AppendInt(s.body, flags)
	b = listpack.AppendInt(b, int64(e.ID.MS-s.master.MS))
	b = listpack.AppendInt(b, int64(e.ID.Seq-s.master.Seq))
	if !same {
		b = listpack.AppendInt(b, int64(n))
	}
	for i, f := range e.Fields {
		if !same || i%2 == 1 {
			b = listpack.AppendString(b, f)
		}
	}
	s.body = listpack.AppendInt(b, int64(size))
	s.packed += uint64(size) + 1
	return w.fail()
}

// sameFields tells whether an entry has the field names of the node.
func (s *streamWriter) sameFields(e *Element) bool {
	if len(e.Fields) != 2*s.fields {
		return false
	}
	rest := s.names
	var prefix [9]byte
	for i := 0; i < len(e.Fields); i += 2 {
		name := e.Fields[i]
		size := appendLength(prefix[:0], uint64(len(name)))
		if len(rest) < len(size)+len(name) || !bytes.Equal(rest[:len(size)], size) || !bytes.Equal(rest[len(size):len(size)+len(name)], name) {
			return false
		}
		rest = rest[len(size)+len(name):]
	}
	return true
}

// flush writes the node that is being made.
func (s *streamWriter) flush(o *output) {
	if s.inNode == 0 {
		return
	}
	b := listpack.Begin(s.pack[:0])
	b = listpack.AppendInt(b, int64(s.inNode))
	b = listpack.AppendInt(b, 0) // deleted
	b = listpack.AppendInt(b, int64(s.fields))
	b = listpack.AppendInt(append(b, s.head...), 0)
	b = listpack.End(append(b, s.body...), 0, uint64(4+s.fields)+s.packed)
	o.byte(16)
	o.id(s.master.MS, s.master.Seq)
	o.blob(b)
	s.pack = b
	s.nodes++
	s.inNode, s.packed, s.body = 0, 0, s.body[:0]
}

// element adds what isn't an entry.
func (s *streamWriter) element(w *Writer, e *Element) error {
	o := &w.out
	switch e.Kind {
	case ElementStream:
		if s.closed {
			return w.disorder("a stream described twice")
		}
		s.describe(w, &e.Stream, uint64(e.Left))
	case ElementGroup:
		if !s.closed || s.groups == 0 || !s.endGroup(w) {
			return s.astray(w, e)
		}
		s.groups--
		s.inGroup, s.counted, s.nackedOut = true, false, false
		o.str(e.Value)
		o.length(e.ID.MS)
		o.length(e.ID.Seq)
		if s.level >= 2 {
			o.length(uint64(e.Read))
		}
		s.pending = uint64(e.Count)
		o.length(s.pending)
	case ElementPending:
		if s.pending == 0 {
			return s.astray(w, e)
		}
		s.pending--
		o.id(e.ID.MS, e.ID.Seq)
		o.number(uint64(e.Delivered))
		o.length(uint64(e.Count))
	case ElementConsumer:
		if !s.inGroup || s.pending > 0 || s.owned > 0 || s.nackedOut || s.counted && s.consumers == 0 {
			return s.astray(w, e)
		}
		if !s.counted {
			s.counted, s.consumers = true, uint64(e.Left)+1
			o.length(s.consumers)
		}
		s.consumers--
		o.str(e.Value)
		o.number(uint64(e.Seen))
		if s.level >= 3 {
			o.number(uint64(e.Active))
		}
		s.owned = uint64(e.Count)
		o.length(s.owned)
	case ElementOwned:
		if s.owned == 0 {
			return s.astray(w, e)
		}
		s.owned--
		o.id(e.ID.MS, e.ID.Seq)
	case ElementNacked:
		if !s.inGroup || !s.endConsumers(w) || s.nackedOut && s.nacked == 0 {
			return s.astray(w, e)
		}
		if s.level < 5 {
			return w.unsupported("a pending stream entry without an owner")
		}
		if !s.nackedOut {
			s.nackedOut, s.nacked = true, uint64(e.Left)+1
			o.length(s.nacked)
		}
		s.nacked--
		o.id(e.ID.MS, e.ID.Seq)
	default:
		return s.idempotence(w, e)
	}
	return w.fail()
}

func (s *streamWriter) astray(w *Writer, e *Element) error {
	if w.err != nil {
		return w.err
	}
	return w.disorder("an element of a stream, " + e.Kind.String() + ", where it can't be")
}

// idempotence adds what makes adding entries idempotent; before redis:13 it is left out.
func (s *streamWriter) idempotence(w *Writer, e *Element) error {
	o := &w.out
	write := s.level >= 4
	switch {
	case e.Kind == ElementIDMP && s.closed && s.groups == 0 && !s.idmp && s.endGroup(w):
		s.idmp, s.producers = true, uint64(e.Left)
		if write {
			o.length(e.Stream.IDMPDuration)
			o.length(e.Stream.IDMPMaxSize)
			o.length(s.producers)
		}
	case e.Kind == ElementProducer && s.producers > 0 && s.produced == 0:
		s.producers--
		s.produced = uint64(e.Count)
		if write {
			o.str(e.Value)
			o.length(s.produced)
		}
	case e.Kind == ElementProduced && s.produced > 0:
		s.produced--
		if write {
			o.str(e.Value)
			o.length(e.ID.MS)
			o.length(e.ID.Seq)
		}
	case e.Kind == ElementIDMPEnd && s.idmp && !s.idmpEnd && s.producers == 0 && s.produced == 0:
		s.idmpEnd = true
		if write {
			o.length(e.Stream.IDMPAdded)
			o.length(e.Stream.IDMPDuplicates)
		}
	default:
		return s.astray(w, e)
	}
	return w.fail()
}

// describe ends the entries and writes what the stream knows about itself.
func (s *streamWriter) describe(w *Writer, info *StreamInfo, groups uint64) {
	o := &w.out
	s.flush(o)
	o.releaseCounted(s.nodes)
	w.value.held = false
	s.closed, s.groups = true, groups
	o.length(info.Length)
	o.length(info.LastID.MS)
	o.length(info.LastID.Seq)
	if s.level >= 2 {
		h := *info
		if !h.HasHistory {
			h.FirstID, h.MaxDeletedID, h.EntriesAdded = s.first, StreamID{}, h.Length
		}
		o.length(h.FirstID.MS)
		o.length(h.FirstID.Seq)
		o.length(h.MaxDeletedID.MS)
		o.length(h.MaxDeletedID.Seq)
		o.length(h.EntriesAdded)
	}
	o.length(groups)
}

// endConsumers ends the list of a group's consumers.
func (s *streamWriter) endConsumers(w *Writer) bool {
	if s.pending > 0 || s.owned > 0 || s.counted && s.consumers > 0 {
		w.disorder(fmt.Sprintf("a group of a stream ended %d pending entries, %d consumers and %d entries of one short", s.pending, s.consumers, s.owned))
		return false
	}
	if !s.counted {
		s.counted = true
		w.out.length(0)
	}
	return true
}

// endGroup ends a group, if one was begun.
func (s *streamWriter) endGroup(w *Writer) bool {
	if !s.inGroup {
		return true
	}
	if !s.endConsumers(w) {
		return false
	}
	if s.nackedOut && s.nacked > 0 {
		w.disorder("a group of a stream ended before its entries without owner did")
		return false
	}
	if s.level >= 5 && !s.nackedOut {
		w.out.length(0)
	}
	s.inGroup = false
	return true
}

// end ends the stream.
func (s *streamWriter) end(w *Writer) {
	if !s.closed {
		s.describe(w, &StreamInfo{Length: s.entries, LastID: s.last}, 0)
	}
	switch {
	case !s.endGroup(w):
		return
	case s.groups > 0 || s.producers > 0 || s.produced > 0 || s.idmp && !s.idmpEnd:
		w.disorder("a stream ended before its groups or producers did")
		return
	}
	if s.level >= 4 && !s.idmp {
		for _, n := range [...]uint64{idmpDefault, idmpDefault, 0, 0, 0} {
			w.out.length(n)
		}
	}
}
