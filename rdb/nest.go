package rdb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Dragonfly's own snapshots have records inside of other things: compressed blocks, which hold whole records, and chunks,
// which hold the pieces of a large value, with anything between them: other records, chunks of other values, the borders of blocks. A
// Reader reads records, whatever they are in: from its input, which is one of the following. Source: dfs-format 2.7 and 4.

// An input is what a Reader's buffer is a window on.
type input uint8

const (
	inputStream  input = iota // the stream itself
	inputBlock                // a compressed block
	inputChunks               // the chunks of a value
	inputBacklog              // records that were passed on the way to the next chunk
)

// A nest is what a Reader needs for streams that have records in other things.
type nest struct {
	inputs         // of the Reader, beneath its buffer
	front  *Reader // reads the stream on from where the Reader is, while that reads chunks or the backlog
	ahead  bool    // it does; else the inputs are the Reader's own

	chunks  []byte // the two buffers for inputChunks and inputBacklog
	spare   []byte
	unit    int64 // offset in the stream of the chunk, or the record, that is read
	id      uint32
	left    uint64 // bytes of the chunk, or of the records, still to come
	held    bool   // they are in the backlog
	at      int64  // there
	backlog backlog
}

// inputs are what a Reader stands on.
type inputs struct {
	blocks blocks
	below  []buffer // the buffers of the inputs beneath, and
	kinds  []input  // what they are
	unit   int64    // offset in the stream of the block that is read
}

func (r *Reader) nested() *nest {
	if r.nest == nil {
		r.nest = &nest{backlog: backlog{limit: r.maxHeld, newSpool: r.newSpool, last: -1}}
	}
	return r.nest
}

// push makes an input the one that is read.
func (r *Reader) push(kind input, b buffer) {
	n := &r.nest.inputs
	n.below, n.kinds = append(n.below, r.buffer), append(n.kinds, r.input)
	b.unsummed = true
	r.buffer, r.input = b, kind
}

// pop goes back to the input beneath.
func (r *Reader) pop() {
	n := &r.nest.inputs
	top := len(n.below) - 1
	r.buffer, r.input = n.below[top], n.kinds[top]
	n.below, n.kinds = n.below[:top], n.kinds[:top]
}

// border is what happens where a record could begin and an input other than the stream has no more in its buffer.
func (r *Reader) border() bool {
	switch {
	case r.input == inputBlock:
		r.pop()
		return true
	case r.nest.left > 0 || r.input == inputChunks && r.attrs.set:
		return r.fill(1) || r.starved()
	}
	return r.goOn()
}

// goOn goes on behind a value in chunks, or behind a segment of the backlog.
func (r *Reader) goOn() bool {
	n := r.nest
	if r.attrs.set {
		return r.corrupt("what belongs to the next key is followed by no key")
	}
	s, found, ok := n.backlog.inOrder()
	switch {
	case !ok:
		r.err = n.backlog.err
		return false
	case !found:
		n.backlog.reset()
		r.handOver(n.front, r)
		n.ahead = false
		return true
	case s.id == 0:
		r.input = inputBacklog
		n.left, n.at, n.held = s.size, s.data, true
	default:
		r.input = inputChunks
		n.id, n.left = s.id, 0
		if s, _, ok = n.backlog.ofChunk(s.id); !ok {
			r.err = n.backlog.err
			return false
		}
		n.left, n.at, n.held = s.size, s.data, true
	}
	n.unit = s.offset
	r.selectDB(s.db)
	return true
}

// handOver lets one Reader read on where another is.
func (r *Reader) handOver(from, to *Reader) {
	a, b := from.nest, to.nest
	if to == r {
		// What this reader read chunks through is kept for the next.
		a.chunks, b.chunks, b.spare = nil, r.buf[:cap(r.buf)], r.buffer.spare
	}
	to.buffer, to.input = from.buffer, from.input
	a.inputs, b.inputs = b.inputs, a.inputs
	to.selectDB(from.db)
}

// beginChunks reads the head of a chunk and begins to read the value that it belongs to.
func (r *Reader) beginChunks() bool {
	if r.attrs.set {
		return r.corrupt("a piece of a value follows what belongs to a key")
	}
	n := r.nested()
	if n.ahead {
		return r.corrupt("a piece of a value within another")
	}
	offset := r.offset()
	id, size, ok := r.chunkHead()
	if !ok {
		return false
	}
	if n.front == nil {
		n.front = &Reader{maxKey: r.maxKey, maxPacked: r.maxPacked, encodings: r.encodings, dialect: r.dialect, started: true, attrs: noAttributes}
		n.front.nested()
		n.chunks = make([]byte, r.size)
	}
	n.front.dragonflyVersion = r.dragonflyVersion
	r.handOver(r, n.front)
	r.buffer = buffer{src: chunkSource{r}, buf: n.chunks, spare: n.spare, unsummed: true}
	r.input, n.ahead = inputChunks, true
	n.id, n.left, n.held, n.unit = id, size, false, offset
	return true
}

// passPiece consumes a chunk without looking at what is in it.
func (r *Reader) passPiece() bool {
	if r.attrs.set {
		return r.corrupt("a piece of a value follows what belongs to a key")
	}
	_, size, ok := r.chunkHead()
	r.counts.pieces++
	return ok && r.skip(size)
}

// chunkHead reads the opcode of a chunk, the id of its value, and its size.
func (r *Reader) chunkHead() (id uint32, size uint64, ok bool) {
	if !r.need(9) {
		return 0, 0, r.starved()
	}
	id = binary.LittleEndian.Uint32(r.buf[r.pos+1:])
	size = uint64(binary.LittleEndian.Uint32(r.buf[r.pos+5:]))
	if id == 0 || size == 0 {
		return 0, 0, r.corrupt(fmt.Sprintf("a piece of %d bytes, of value %d: neither can be 0", size, id))
	}
	r.pos += 9
	return id, size, true
}

// A chunkSource is what a Reader reads chunks and the backlog from.
type chunkSource struct{ r *Reader }

// A nestedError is what ended an input beneath.
type nestedError struct{ err error }

func (e *nestedError) Error() string { return e.err.Error() }

// Read reads from one chunk, or from one segment of the backlog, at a time.
func (s chunkSource) Read(p []byte) (int, error) {
	r, n := s.r, s.r.nest
	if n.left == 0 {
		if r.input == inputBacklog {
			return 0, io.EOF
		}
		if err := r.nextChunk(); err != nil {
			return 0, &nestedError{err}
		}
	}
	if uint64(len(p)) > n.left {
		p = p[:n.left]
	}
	var got int
	if n.held {
		var err error
		if got, err = n.backlog.read(p, n.at); err != nil {
			return 0, &nestedError{err}
		}
		n.at += int64(got)
	} else {
		f := n.front
		if !f.need(1) {
			f.starved()
			return 0, &nestedError{f.err}
		}
		got = copy(p, f.buf[f.pos:f.end])
		f.pos += got
	}
	n.left -= uint64(got)
	return got, nil
}

// nextChunk goes to the next chunk of the value, past everything else.
func (r *Reader) nextChunk() error {
	n := r.nest
	s, found, ok := n.backlog.ofChunk(n.id)
	if !ok {
		return n.backlog.err
	}
	if found {
		n.left, n.at, n.held = s.size, s.data, true
		return nil
	}
	f := n.front
	n.held = false
	for f.err == nil {
		if f.pos == f.end && f.input == inputBlock {
			f.pop()
			continue
		}
		if !f.need(1) {
			f.starved()
			break
		}
		f.pinned, f.keyed = false, false
		switch code := f.buf[f.pos]; code {
		case opChunk:
			offset := f.offset()
			id, size, ok := f.chunkHead()
			if ok && id == n.id {
				n.left = size
				return nil
			}
			if ok && n.hold(id, offset) {
				n.release(f.skip(size))
			}
		case opZstd, opLZ4:
			f.beginBlock(code)
		case opSelectDB:
			f.opcode(code)
		case opEOF:
			key, db := r.context()
			f.err = &CorruptError{Offset: f.offset(), Key: key, DB: db, Err: io.ErrUnexpectedEOF, Why: "the stream ends before the pieces of a value do"}
		default:
			if n.hold(0, f.offset()) {
				n.release(f.skipRecord(code))
			}
		}
		if f.err == nil {
			f.err = n.backlog.err
		}
	}
	return f.err
}

// hold makes what front consumes go to the backlog, until release.
func (n *nest) hold(id uint32, offset int64) bool {
	f := n.front
	if !n.backlog.begin(id, f.db, offset) {
		return false
	}
	f.tee = sink{w: &n.backlog}
	f.startTee()
	return true
}

func (n *nest) release(ok bool) {
	n.front.stopTee()
	n.front.tee = sink{}
	if ok {
		n.backlog.end()
	}
}

// skipRecord consumes a record, or what goes before one.
func (r *Reader) skipRecord(code uint8) bool {
	r.frame = frameNone
	ok := false
	if e := &r.encodings[code]; e.frame != frameNone {
		ok = r.nextKey(code, e)
	} else {
		_, ok = r.opcode(code)
	}
	if !ok {
		return false
	}
	if r.journal.end != 0 {
		return r.skipJournalEntries()
	}
	frame := r.frame
	r.frame = frameNone
	return frame == frameNone || r.skipValue(frame)
}

// endsNested says why an input other than the stream has too few bytes.
func (r *Reader) endsNested() error {
	var inner *nestedError
	if errors.As(r.srcErr, &inner) {
		return inner.err
	}
	key, db := r.context()
	return &CorruptError{Offset: r.offset(), Key: key, DB: db, Err: io.ErrUnexpectedEOF, Why: "a record ends behind the end of the block that it is in"}
}
