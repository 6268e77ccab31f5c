package rdb

import (
	"errors"
	"io"

	"github.com/amberkv/amber/internal/crc64"
)

// bufferSize is the size of each of a reader's two buffers: large enough that a system call a buffer costs nothing,
// small enough that both stay in a core's second-level cache between the copy, the checksum and the walk.
const bufferSize = 128 << 10

// smallestBuffer has room for the longest thing that is looked at in one piece: a magic, or a length and its first byte.
const smallestBuffer = 16

// A buffer is a window on a stream. The bytes at hand are buf[pos:end]; what lies before pos is consumed. The checksum
// and the tee take consumed bytes in as large pieces as there are: when the window moves.
//
// Two buffers take turns, so that a key name that an entry lends to the caller stays where it is while its value passes.
type buffer struct {
	src    io.Reader
	srcErr error // what ended src

	buf      []byte
	pos, end int
	base     int64 // the offset of buf[0] in the stream

	spare  []byte // the other buffer, made when first needed
	pinned bool   // buf holds bytes that the caller may look at: move to the spare, don't overwrite

	sum      uint64 // the checksum of everything before buf[sumFrom]
	sumFrom  int
	unsummed bool // there is none

	tee     sink // takes what is consumed while teeing
	teeFrom int
	teeing  bool
}

// errBadReader is the error of a source that breaks the rules of io.Reader.
var errBadReader = errors.New("source returned an impossible number of bytes")

func (b *buffer) offset() int64 { return b.base + int64(b.pos) }

// settle brings checksum and tee up to pos.
func (b *buffer) settle() {
	if !b.unsummed {
		b.sum = crc64.Update(b.sum, b.buf[b.sumFrom:b.pos])
	}
	b.sumFrom = b.pos
	if b.teeing {
		b.tee.take(b.buf[b.teeFrom:b.pos])
		b.teeFrom = b.pos
	}
}

// slide moves what is left of the window to the start of a buffer, so that reading can go on behind it.
func (b *buffer) slide() {
	b.settle()
	to := b.buf
	if b.pinned {
		if b.spare == nil {
			b.spare = make([]byte, len(b.buf))
		}
		to, b.spare, b.pinned = b.spare, b.buf, false
	}
	copy(to, b.buf[b.pos:b.end])
	b.buf = to
	b.base += int64(b.pos)
	b.end -= b.pos
	b.pos, b.sumFrom, b.teeFrom = 0, 0, 0
}

// need gets n bytes into the window; n is at most len(buf). It reads no more often than that takes.
func (b *buffer) need(n int) bool { return b.end-b.pos >= n || b.fill(n) }

func (b *buffer) fill(n int) bool {
	for b.end-b.pos < n {
		if b.srcErr != nil || b.tee.err != nil {
			return false
		}
		if b.end == len(b.buf) || b.pos+n > len(b.buf) {
			b.slide()
		}
		b.read()
	}
	return true
}

// read reads once into the free part of the buffer, or sets srcErr.
func (b *buffer) read() {
	for range 100 {
		n, err := b.src.Read(b.buf[b.end:])
		if n < 0 || n > len(b.buf)-b.end {
			n, err = 0, errBadReader
		}
		b.end += n
		if err != nil {
			b.srcErr = err
		}
		if n > 0 || err != nil {
			return
		}
	}
	b.srcErr = io.ErrNoProgress
}

// discard consumes n bytes, of which it never holds more than a buffer.
func (b *buffer) discard(n uint64) bool {
	for n > uint64(b.end-b.pos) {
		n -= uint64(b.end - b.pos)
		b.pos = b.end
		if !b.fill(1) {
			return false
		}
	}
	b.pos += int(n)
	return true
}

// A sink takes the bytes of a value: for a writer, or for a slice up to a limit, behind which it only counts.
type sink struct {
	w     io.Writer
	dst   []byte
	limit int    // of what goes to dst, in bytes; negative: none
	size  int64  // of what was taken
	sum   uint64 // of what was kept
	err   error  // of w
}

func (s *sink) take(p []byte) {
	if len(p) == 0 || s.err != nil {
		return
	}
	if s.w != nil {
		s.sum = crc64.Update(s.sum, p)
		n, err := s.w.Write(p)
		if err == nil && n < len(p) {
			err = io.ErrShortWrite
		}
		s.size += int64(n)
		s.err = err
		return
	}
	s.size += int64(len(p))
	if s.limit < 0 || s.size <= int64(s.limit) {
		s.sum = crc64.Update(s.sum, p)
		s.dst = append(s.dst, p...)
	}
}
