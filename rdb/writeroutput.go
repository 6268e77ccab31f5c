package rdb

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"strconv"

	"github.com/amberkv/amber/internal/crc64"
	"github.com/amberkv/amber/internal/lzf"
)

// outputSize is how many bytes an output collects before it passes them on, and takes their checksum.
const outputSize = 64 << 10

// A Spool holds what a Writer can't write yet and must not hold in memory. An *os.File is one.
type Spool interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
}

// An output is where the pieces go that streams are made of. What is written while it holds is not passed on, but kept in memory
// up to a limit, and behind that in a spool: release then passes it on, drop forgets it.
type output struct {
	to  *stream
	buf []byte
	n   int64 // bytes passed on
	err error

	shards *shards // of a set; nil for a single stream

	holding  bool
	void     bool   // what is held will be dropped
	passing  []byte // buf of what is passed on, while holding
	held     []byte // buf of what is held, while not
	limit    int
	spool    Spool
	newSpool func() (Spool, error)
	spooled  int64 // of what is held: bytes that went to the spool

	compress bool
	lzf      *lzf.Encoder
	block    []byte   // of lzf
	text     [20]byte // a number
}

// A stream is where an output's bytes end up.
type stream struct {
	w   io.Writer
	sum uint64
	n   int64
}

func newOutput(w io.Writer) output {
	return output{to: &stream{w: w}, buf: make([]byte, 0, outputSize)}
}

// offset is how many bytes were written, without those that are held.
func (o *output) offset() int64 {
	if o.holding {
		return o.n + int64(len(o.passing))
	}
	return o.n + int64(len(o.buf))
}

// room makes room for n more bytes in buf; n is at most outputSize. Without room, because something failed, it makes room by
// forgetting.
func (o *output) room(n int) {
	if len(o.buf)+n > cap(o.buf) {
		o.flush(n)
	}
}

// flush empties buf, or makes it grow.
func (o *output) flush(n int) {
	switch {
	case o.err != nil || o.void && len(o.buf) > 0:
		o.buf = o.buf[:0]
	case o.holding && cap(o.buf) < o.limit:
		grown := make([]byte, len(o.buf), min(max(4*cap(o.buf), outputSize), max(o.limit, outputSize)))
		copy(grown, o.buf)
		o.buf = grown
		o.room(n)
	case o.holding:
		o.spill(o.buf)
		o.buf = o.buf[:0]
	default:
		if o.shards != nil {
			o.shards.inline = true
		}
		o.pass(o.buf)
		o.buf = o.buf[:0]
	}
}

// pass gives p to the writer beneath.
func (o *output) pass(p []byte) {
	if o.err != nil || len(p) == 0 {
		return
	}
	to := o.to
	to.sum = crc64.Update(to.sum, p)
	n, err := to.w.Write(p)
	if err == nil && n != len(p) {
		err = io.ErrShortWrite
	}
	to.n += int64(n)
	o.n += int64(n)
	if err != nil {
		o.err = fmt.Errorf("rdb: writing at byte %d: %w", o.n, err)
	}
}

// spill moves p to the spool.
func (o *output) spill(p []byte) {
	if o.err != nil {
		return
	}
	if o.spool == nil {
		if o.newSpool == nil {
			o.err = &TooLargeError{Offset: o.offset(), What: "what is to be held of a value until its end, without WriterOptions.Spool,",
				Size: uint64(len(o.buf) + len(p)), Limit: int64(o.limit)}
			return
		}
		if o.spool, o.err = o.newSpool(); o.err != nil {
			o.err = fmt.Errorf("rdb: opening a spool: %w", o.err)
			return
		}
	}
	n, err := o.spool.WriteAt(p, o.spooled)
	o.spooled += int64(n)
	if err != nil {
		o.err = fmt.Errorf("rdb: writing to the spool: %w", err)
	}
}

// Write takes p as it is, of any size.
func (o *output) Write(p []byte) (int, error) {
	o.write(p)
	return len(p), o.err
}

func (o *output) write(p []byte) {
	if len(p) <= cap(o.buf)-len(o.buf) {
		o.buf = append(o.buf, p...)
		return
	}
	for len(p) > 0 && o.err == nil && !o.void {
		if len(o.buf) == 0 && len(p) >= cap(o.buf) && !o.holding {
			if o.shards != nil {
				o.shards.inline = true
			}
			o.pass(p)
			return
		}
		o.room(1)
		n := min(len(p), cap(o.buf)-len(o.buf))
		o.buf = append(o.buf, p[:n]...)
		p = p[n:]
	}
}

func (o *output) byte(b byte) {
	o.room(1)
	o.buf = append(o.buf, b)
}

// length writes a length in its shortest form.
func (o *output) length(n uint64) {
	o.room(9)
	if n < 1<<6 {
		o.buf = append(o.buf, byte(n))
		return
	}
	o.buf = appendLength(o.buf, n)
}

func appendLength(b []byte, n uint64) []byte {
	switch {
	case n < 1<<6:
		return append(b, byte(n))
	case n < 1<<14:
		return append(b, 0x40|byte(n>>8), byte(n))
	case n <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(b, 0x80), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, 0x81), n)
}

// number writes eight bytes.
func (o *output) number(n uint64) {
	o.room(8)
	o.buf = binary.LittleEndian.AppendUint64(o.buf, n)
}

// id writes a stream ID of sixteen bytes.
func (o *output) id(ms, seq uint64) {
	o.room(16)
	o.buf = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(o.buf, ms), seq)
}

// str writes a string in its shortest form, as servers do.
func (o *output) str(s []byte) {
	if n := len(s); n < 1<<6 {
		if n <= 11 && n > 0 && s[0] <= '9' && o.integer(s) {
			return
		}
		if n <= 20 || !o.compress {
			o.room(1 + 1<<6)
			o.buf = append(append(o.buf, byte(n)), s...)
			return
		}
	}
	o.blob(s)
}

// integer writes s as a number if it is the only decimal form of one of 32 bits.
func (o *output) integer(s []byte) bool {
	digits := s
	if s[0] == '-' {
		digits = s[1:]
	}
	if len(digits) == 0 || len(digits) > 10 || digits[0] == '0' && len(s) > 1 {
		return false
	}
	var n int64
	for _, c := range digits {
		if c < '0' || c > '9' {
			return false
		}
		n = n*10 + int64(c-'0')
	}
	if len(digits) < len(s) {
		n = -n
	}
	if n != int64(int32(n)) {
		return false
	}
	o.int(int32(n))
	return true
}

// int writes a string that is a number.
func (o *output) int(n int32) {
	o.room(5)
	switch {
	case n == int32(int8(n)):
		o.buf = append(o.buf, stringInt8, byte(n))
	case n == int32(int16(n)):
		o.buf = append(o.buf, stringInt16, byte(n), byte(n>>8))
	default:
		o.buf = binary.LittleEndian.AppendUint32(append(o.buf, stringInt32), uint32(n))
	}
}

// compressed writes s as a compressed block if that saves at least four bytes.
func (o *output) compressed(s []byte) bool {
	if len(s) <= 20 {
		return false
	}
	if o.lzf == nil {
		o.lzf, o.block = new(lzf.Encoder), make([]byte, outputSize)
	}
	n := o.lzf.Compress(o.block[:len(s)-4], s)
	if n == 0 {
		return false
	}
	o.byte(stringLZF)
	o.length(uint64(n))
	o.length(uint64(len(s)))
	o.write(o.block[:n])
	return true
}

// plain writes a string as it is.
func (o *output) plain(s []byte) {
	o.length(uint64(len(s)))
	o.write(s)
}

// blob writes a string that is no number, compressed if that is wanted and worth it.
func (o *output) blob(s []byte) {
	if o.compress && len(s) <= outputSize && o.compressed(s) {
		return
	}
	o.plain(s)
}

// double writes a score as the first encoding of sorted sets has it.
func (o *output) double(f float64) {
	switch {
	case f != f:
		o.byte(253)
	case math.IsInf(f, 1):
		o.byte(254)
	case math.IsInf(f, -1):
		o.byte(255)
	default:
		o.room(1 + 32)
		at := len(o.buf)
		o.buf = strconv.AppendFloat(append(o.buf, 0), f, 'g', -1, 64)
		o.buf[at] = byte(len(o.buf) - at - 1)
	}
}

// hold keeps what is written from here on.
func (o *output) hold() {
	o.holding, o.spooled = true, 0
	o.passing, o.buf = o.buf, o.held[:0]
}

// size is how many bytes are held.
func (o *output) size() int64 { return o.spooled + int64(len(o.buf)) }

// gap writes a length of 32 bits that fill completes.
func (o *output) gap() (at int64) {
	o.room(5)
	at = o.size()
	o.buf = append(o.buf, 0x80, 0, 0, 0, 0)
	return at
}

// fill completes the length at a place of what is held.
func (o *output) fill(at int64, n uint64) {
	if n > math.MaxUint32 && o.err == nil {
		o.err = &TooLargeError{Offset: o.offset(), What: "number of elements", Size: n, Limit: math.MaxUint32}
	}
	if o.err != nil || o.void {
		return
	}
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(n))
	at++
	if at >= o.spooled {
		copy(o.buf[at-o.spooled:], b[:])
		return
	}
	// A gap is written in one piece: it lies on one side of the border.
	if _, err := o.spool.WriteAt(b[:], at); err != nil {
		o.err = fmt.Errorf("rdb: writing to the spool: %w", err)
	}
}

// drop forgets what is held.
func (o *output) drop() {
	o.held, o.buf, o.passing = o.buf[:0], o.passing, nil
	o.holding, o.spooled = false, 0
}

// release passes on what is held.
func (o *output) release() {
	held, spooled := o.buf, o.spooled
	o.drop()
	for at := int64(0); at < spooled && o.err == nil; {
		o.flush(0)
		n, err := o.spool.ReadAt(o.buf[:min(outputSize, spooled-at)], at)
		if n == 0 || err != nil && err != io.EOF {
			o.err = fmt.Errorf("rdb: reading the spool: %w", err)
		}
		o.buf = o.buf[:n]
		at += int64(n)
		o.flush(0)
	}
	o.write(held)
}

// releaseCounted passes on what is held, behind its number of elements.
func (o *output) releaseCounted(n uint64) {
	held, spooled := o.buf, o.spooled
	o.drop()
	o.length(n)
	o.hold()
	o.buf, o.spooled = held, spooled
	o.release()
}

// finish ends the stream with its checksum.
func (o *output) finish() {
	o.byte(opEOF)
	o.flush(0)
	o.number(o.to.sum)
	o.flush(0)
}

// close ends what the output owns.
func (o *output) close() {
	if o.spool == nil {
		return
	}
	if err := o.spool.Close(); err != nil && o.err == nil {
		o.err = fmt.Errorf("rdb: closing the spool: %w", err)
	}
	o.spool = nil
}
