package command

import (
	"encoding/binary"
	"sort"

	"github.com/amberkv/amber/rdb"
)

// How much is remembered of a stream while it is made: the ids of its entries, and what the group under way has of pending
// entries, in bytes. An id takes two to four, a pending entry about seven, so that this is enough for millions of each. See streamBuilder for
// what becomes of streams that have more.
const (
	maxLive    = 8 << 20
	maxPending = 16 << 20
)

const (
	markEvery = 128      // how many records a search may have to pass
	chunkSize = 64 << 10 // of an idTable's memory
)

// A record is an id and, of a pending entry, when and how often it was delivered.
type record struct {
	id        rdb.StreamID
	delivered int64 // Unix milliseconds
	count     int64
}

// An idTable remembers records whose ids ascend, each as what it differs by from the one before. Ids that don't ascend may not be found.
type idTable struct {
	limit   int  // of bytes
	details bool // delivered and count are kept

	chunks [][]byte // of which only the last grows
	last   record
	n      int
	full   bool // the last record, and maybe more, found no room
	marks  []mark
	at     mark // where the last search ended
}

// A mark is a place in the table: what is there comes after last.
type mark struct {
	chunk, next int
	last        record
}

// clear forgets everything, and lets go of memory that most streams don't need.
func (t *idTable) clear() {
	if len(t.chunks) > 1 {
		t.chunks, t.marks = t.chunks[:1:1], nil
	}
	if len(t.chunks) > 0 {
		t.chunks[0] = t.chunks[0][:0]
	}
	t.marks = t.marks[:0]
	t.last, t.n, t.full, t.at = record{}, 0, false, mark{}
}

// add remembers a record, unless there is no room.
func (t *idTable) add(r record) {
	i := len(t.chunks) - 1
	if i < 0 || len(t.chunks[i]) > chunkSize-4*binary.MaxVarintLen64 {
		if t.full = t.full || (i+2)*chunkSize > t.limit; t.full {
			return
		}
		i++
		t.chunks = append(t.chunks, make([]byte, 0, chunkSize))
	}
	b := t.chunks[i]
	if t.n%markEvery == 0 {
		t.marks = append(t.marks, mark{i, len(b), t.last})
	}
	ms := r.id.MS - t.last.id.MS
	b = binary.AppendUvarint(b, ms)
	if ms == 0 {
		b = binary.AppendUvarint(b, r.id.Seq-t.last.id.Seq)
	} else {
		b = binary.AppendUvarint(b, r.id.Seq)
	}
	if t.details {
		b = binary.AppendVarint(b, r.delivered-t.last.delivered)
		b = binary.AppendVarint(b, r.count-t.last.count)
	}
	t.chunks[i] = b
	t.last = r
	t.n++
}

// step reads the record at a mark and moves the mark behind it. It returns false at the end.
func (t *idTable) step(m *mark) bool {
	if m.next == len(t.chunks[m.chunk]) {
		if m.chunk == len(t.chunks)-1 {
			return false
		}
		m.chunk, m.next = m.chunk+1, 0
	}
	b := t.chunks[m.chunk]
	ms, n := binary.Uvarint(b[m.next:])
	m.next += n
	seq, n := binary.Uvarint(b[m.next:])
	m.next += n
	if ms == 0 {
		m.last.id.Seq += seq
	} else {
		m.last.id = rdb.StreamID{MS: m.last.id.MS + ms, Seq: seq}
	}
	if t.details {
		v, n := binary.Varint(b[m.next:])
		m.next += n
		m.last.delivered += v
		v, n = binary.Varint(b[m.next:])
		m.next += n
		m.last.count += v
	}
	return true
}

// find returns the record of an id. It is quick when the ids asked for ascend.
func (t *idTable) find(id rdb.StreamID) (record, bool) {
	if t.n == 0 {
		return record{}, false
	}
	// The last mark that comes before the id. The first one comes before all.
	i := sort.Search(len(t.marks)-1, func(i int) bool { return !t.marks[i+1].last.id.Less(id) })
	m := &t.marks[i]
	switch {
	case t.at.next > 0 && t.at.last.id == id:
		return t.at.last, true
	case t.at.chunk < m.chunk || t.at.chunk == m.chunk && t.at.next < m.next || !t.at.last.id.Less(id):
		t.at = *m
	}
	for t.step(&t.at) {
		if !t.at.last.id.Less(id) {
			return t.at.last, t.at.last.id == id
		}
	}
	return record{}, false
}
