package rdb

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
)

// The opcodes of entries of Dragonfly's journal, as in dfs-format 6.6.
const (
	journalNoop         = 0
	journalSelect       = 6
	journalExpired      = 9
	journalCommand      = 10
	journalMultiCommand = 11
	journalExec         = 12
	journalPing         = 13
	journalFin          = 14
	journalLSN          = 15
)

// dragonflyOpcode reads an opcode of Dragonfly's own snapshots.
func (r *Reader) dragonflyOpcode(code uint8) (isEntry, ok bool) {
	r.pos-- // the opcode
	switch code {
	case opZstd, opLZ4:
		return false, r.beginBlock(code)
	case opChunk:
		if r.pass {
			return false, r.passPiece()
		}
		return false, r.beginChunks()
	}
	r.pos++
	switch code {
	case opJournal:
		return false, r.beginJournal()
	case opSyncEnd, opJournalOffset:
		kind := KindSyncEnd
		if code == opJournalOffset {
			kind = KindJournalOffset
		}
		r.begin(kind, code)
		if !r.need(8) {
			return false, r.starved()
		}
		if code == opJournalOffset {
			r.entry.LSN = binary.LittleEndian.Uint64(r.buf[r.pos:])
		}
		r.pos += 8
		return true, true
	}
	// An index: 223 has documents by shard, 222 a graph.
	r.begin(KindIndexData, code)
	if code == opDocIndex && !r.skipLengths(1) {
		return false, false
	}
	if r.entry.Key, ok = r.readString(&r.key, "name of an index"); !ok {
		return false, false
	}
	r.pinned = true
	if code == opDocIndex {
		return true, r.skipDocIndex()
	}
	return true, r.skipVectorIndex()
}

// A journal is how far a record of journal entries was read.
type journal struct {
	entries uint64 // still to come
	end     int64  // where they end, as consumed counts
	db      int
	args    uint64 // of the current command, still to come, and
	bytes   uint64 // how many these have
}

// consumed is how many bytes of the current input were consumed, from some point on.
func (r *Reader) consumed() int64 { return r.base + int64(r.pos) }

// beginJournal reads the head of a record of journal entries.
func (r *Reader) beginJournal() bool {
	n, ok := r.length()
	if !ok {
		return false
	}
	size, ok := r.length() // a string that is always plain
	if !ok {
		return false
	}
	if n > size || size > 1<<62 {
		return r.corrupt(fmt.Sprintf("%d journal entries in %d bytes", n, size))
	}
	if n == 0 && size > 0 {
		return r.corrupt(fmt.Sprintf("no journal entry in %d bytes", size))
	}
	r.journal = journal{entries: n, end: r.consumed() + int64(size), db: r.db}
	return true
}

// nextJournal reads the next entry of the journal and tells whether it is a command.
func (r *Reader) nextJournal() (isEntry, ok bool) {
	j := &r.journal
	for j.entries > 0 {
		op, ok := r.length()
		if !ok {
			return false, false
		}
		var n uint64
		switch op {
		case journalSelect:
			if !r.lengths(&n) {
				return false, false
			}
			if n > 1<<31-1 {
				return false, r.corrupt(fmt.Sprintf("the journal selects database %d", n))
			}
			j.db = int(n)
			continue // it counts as part of the next
		case journalCommand, journalExpired, journalMultiCommand:
			var shards uint64
			r.begin(KindJournal, uint8(op))
			r.entry.DB, r.entry.Offset = j.db, r.recordOffset()
			if !r.lengths(&r.entry.Txid, &shards, &j.args, &j.bytes) {
				return false, false
			}
			if j.args == 0 || j.args > j.bytes+1 {
				return false, r.corrupt(fmt.Sprintf("a journal entry of %d arguments in %d bytes", j.args, j.bytes))
			}
			j.entries--
			r.frame = frameJournal
			r.counts.journal++
			return true, true
		case journalExec:
			ok = r.lengths(&n, &n)
		case journalLSN:
			ok = r.lengths(&n)
		case journalNoop, journalPing, journalFin:
		default:
			return false, r.unsupported(fmt.Sprintf("journal entry %d", op))
		}
		if !ok {
			return false, false
		}
		j.entries--
	}
	if r.consumed() != j.end {
		return false, r.corrupt(fmt.Sprintf("journal entries end %d bytes before their record does", j.end-r.consumed()))
	}
	j.end = 0
	return false, true
}

// skipJournalEntries consumes all entries of a record.
func (r *Reader) skipJournalEntries() bool {
	for {
		isEntry, ok := r.nextJournal()
		if !ok || !isEntry {
			return ok
		}
		r.frame = frameNone
		if !r.skipJournal() {
			return false
		}
	}
}

// skipJournal consumes the arguments of a command that are left.
func (r *Reader) skipJournal() bool {
	for r.journal.args > 0 {
		n, ok := r.argLength()
		if !ok || !r.skip(n) {
			return false
		}
	}
	return true
}

// argLength reads the length of the next argument of a command.
func (r *Reader) argLength() (uint64, bool) {
	j := &r.journal
	n, ok := r.length()
	if !ok {
		return 0, false
	}
	j.args--
	if n > j.bytes || j.args == 0 && n != j.bytes || int64(n) > j.end-r.consumed() {
		return 0, r.corrupt(fmt.Sprintf("an argument of %d bytes of a journal entry, of which %d bytes are left", n, j.bytes))
	}
	j.bytes -= n
	return n, true
}

// skipDocIndex consumes what a search index knows about documents: their keys and ids.
func (r *Reader) skipDocIndex() bool {
	n, ok := r.length()
	for ; ok && n > 0; n-- {
		ok = r.skipString() && r.skipLengths(1)
	}
	return ok
}

// skipVectorIndex consumes the graph of a vector index.
func (r *Reader) skipVectorIndex() bool {
	// Dragonfly 1.37 and 1.38 wrote where to enter the graph elsewhere, under the same opcode.
	if !(r.dragonflyVersion > 0 && r.dragonflyVersion < 1039) && !r.skipLengths(1) {
		return false
	}
	n, ok := r.length()
	for ; ok && n > 0; n-- {
		if !r.skip(4 + 8) {
			return false
		}
		if !r.need(4) {
			return r.starved()
		}
		level := r.number32()
		for range uint64(level) + 1 {
			if !r.need(4) {
				return r.starved()
			}
			if !r.skipEach(uint64(r.number32()), 4) {
				return false
			}
		}
	}
	return ok
}

// number32 consumes four bytes that are at hand.
func (r *Reader) number32() uint32 {
	n := binary.LittleEndian.Uint32(r.buf[r.pos:])
	r.pos += 4
	return n
}

// parseDragonflyVersion reads a version like "df-v1.40.0" as 1040; 0 is none.
func parseDragonflyVersion(s string) int {
	s = strings.TrimPrefix(strings.TrimPrefix(s, "df-"), "v")
	major, rest, _ := strings.Cut(s, ".")
	minor, _, _ := strings.Cut(rest, ".")
	a, err := strconv.ParseUint(major, 10, 16)
	if err != nil {
		return 0
	}
	b, err := strconv.ParseUint(minor, 10, 16)
	if err != nil || b > 999 {
		return 0
	}
	return int(a)*1000 + int(b)
}
