package rdb

import (
	"encoding/binary"
	"fmt"
	"io"
)

// A backlog keeps what a reader had to pass on its way to the next chunk of a value: records, and chunks of other values. It
// is a row of segments, in the order of the stream, in memory up to a limit and behind that in a spool.
type backlog struct {
	limit    int
	newSpool func() (Spool, error)
	mem      []byte
	spool    Spool

	size int64             // bytes of all segments
	next int64             // the segment that comes next for who reads in order; at size when there is none
	last int64             // the last segment, that is still growing; -1 if there is none
	ids  map[uint32]*queue // of chunks that were not read yet
	err  error
}

// A queue is a list of chunks that belong together.
type queue struct{ first, last int64 }

// A segment is a piece of a stream: records, or a chunk of a value.
type segment struct {
	id     uint32 // of a chunk; 0: records
	db     int    // selected where it begins
	offset int64  // in the stream
	size   uint64
	chunk  int64 // the next chunk of the same id; 0 if there is none
	data   int64 // where its bytes are
}

// A segment's header: id, db, offset, size, the next chunk.
const (
	segmentHeader = 4 + 4 + 8 + 8 + 8
	segmentSize   = 16
	segmentNext   = 24
)

// maxChunked is how many values may be in pieces at the same time. Servers write one for each client that makes them, at most.
const maxChunked = 1 << 16

// begin begins a segment; what is written until the next goes there. Records join those just before them.
func (b *backlog) begin(id uint32, db int, offset int64) bool {
	if b.err != nil {
		return false
	}
	if id == 0 && b.last >= b.next && b.size > 0 {
		if s, ok := b.at(b.last); !ok || s.id == 0 && s.db == db {
			return ok
		}
	}
	at := b.size
	if id != 0 {
		q := b.ids[id]
		switch {
		case q != nil:
			var to [8]byte
			binary.LittleEndian.PutUint64(to[:], uint64(at))
			b.patch(to[:], q.last+segmentNext)
			q.last = at
		case len(b.ids) >= maxChunked:
			b.err = &UnsupportedError{Offset: offset, What: fmt.Sprintf("more than %d values in pieces at the same time", maxChunked)}
			return false
		default:
			if b.ids == nil {
				b.ids = make(map[uint32]*queue)
			}
			b.ids[id] = &queue{at, at}
		}
	}
	var h [segmentHeader]byte
	binary.LittleEndian.PutUint32(h[:], id)
	binary.LittleEndian.PutUint32(h[4:], uint32(db))
	binary.LittleEndian.PutUint64(h[8:], uint64(offset))
	b.last = at
	b.append(h[:])
	return b.err == nil
}

// end notes how long the segment is that was begun last.
func (b *backlog) end() bool {
	var size [8]byte
	binary.LittleEndian.PutUint64(size[:], uint64(b.size-b.last-segmentHeader))
	b.patch(size[:], b.last+segmentSize)
	return b.err == nil
}

// Write adds to the segment that was begun last.
func (b *backlog) Write(p []byte) (int, error) {
	b.append(p)
	return len(p), b.err
}

func (b *backlog) append(p []byte) {
	if b.err != nil {
		return
	}
	if n := min(len(p), b.limit-len(b.mem)); n > 0 && b.size == int64(len(b.mem)) {
		b.mem = append(b.mem, p[:n]...)
		b.size += int64(n)
		p = p[n:]
	}
	if len(p) == 0 {
		return
	}
	if b.spool == nil {
		if b.newSpool == nil {
			b.err = &TooLargeError{What: "what lies between the pieces of a value, without ReaderOptions.Spool,", Size: uint64(b.size) + uint64(len(p)), Limit: int64(b.limit)}
			return
		}
		if b.spool, b.err = b.newSpool(); b.err != nil {
			b.err = fmt.Errorf("rdb: opening a spool: %w", b.err)
			return
		}
	}
	n, err := b.spool.WriteAt(p, b.size-int64(b.limit))
	b.size += int64(n)
	if err != nil {
		b.err = fmt.Errorf("rdb: writing to the spool: %w", err)
	}
}

// patch overwrites bytes that were written before.
func (b *backlog) patch(p []byte, at int64) {
	if b.err != nil {
		return
	}
	if at < int64(len(b.mem)) {
		n := copy(b.mem[at:], p)
		p, at = p[n:], at+int64(n)
	}
	if len(p) == 0 {
		return
	}
	if _, err := b.spool.WriteAt(p, at-int64(b.limit)); err != nil {
		b.err = fmt.Errorf("rdb: writing to the spool: %w", err)
	}
}

// read reads bytes that were written before.
func (b *backlog) read(p []byte, at int64) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if at < int64(len(b.mem)) {
		return copy(p, b.mem[at:]), nil
	}
	n, err := b.spool.ReadAt(p, at-int64(b.limit))
	if n > 0 {
		return n, nil
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	b.err = fmt.Errorf("rdb: reading the spool: %w", err)
	return 0, b.err
}

// at returns the segment at a place.
func (b *backlog) at(pos int64) (segment, bool) {
	var h [segmentHeader]byte
	for n := 0; n < len(h); {
		got, err := b.read(h[n:], pos+int64(n))
		if err != nil {
			return segment{}, false
		}
		n += got
	}
	return segment{
		id:     binary.LittleEndian.Uint32(h[:]),
		db:     int(binary.LittleEndian.Uint32(h[4:])),
		offset: int64(binary.LittleEndian.Uint64(h[8:])),
		size:   binary.LittleEndian.Uint64(h[segmentSize:]),
		chunk:  int64(binary.LittleEndian.Uint64(h[segmentNext:])),
		data:   pos + segmentHeader,
	}, true
}

// inOrder returns the next segment of the stream that was not read yet. It isn't ok on an error; found is false if there is none.
// A chunk is left where it is, for ofChunk to take.
func (b *backlog) inOrder() (s segment, found, ok bool) {
	for b.next < b.size {
		at := b.next
		if s, ok = b.at(at); !ok {
			return s, false, false
		}
		b.next = s.data + int64(s.size)
		if s.id == 0 {
			return s, true, true
		}
		if q := b.ids[s.id]; q != nil && q.first <= at {
			return s, true, true
		}
	}
	return s, false, true
}

// ofChunk takes the first chunk of an id.
func (b *backlog) ofChunk(id uint32) (s segment, found, ok bool) {
	q := b.ids[id]
	if q == nil {
		return s, false, true
	}
	if s, ok = b.at(q.first); !ok {
		return s, false, false
	}
	if q.first == q.last {
		delete(b.ids, id)
	} else {
		q.first = s.chunk
	}
	return s, true, true
}

// reset forgets everything, once all was read.
func (b *backlog) reset() {
	b.mem, b.size, b.next, b.last = b.mem[:0], 0, 0, -1
}

// close ends what the backlog owns.
func (b *backlog) close() error {
	if b.spool == nil {
		return nil
	}
	err := b.spool.Close()
	b.spool = nil
	return err
}
