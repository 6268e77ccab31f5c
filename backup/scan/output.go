package scan

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	"github.com/amberkv/amber/internal/crc64"
	"github.com/amberkv/amber/rdb"
)

// chunkSize is how much of the stream is handed on at a time, and chunks how many of these there are.
const (
	chunkSize = 256 << 10
	chunks    = 4
)

// The opcodes of an RDB stream that are written here.
const (
	opFunction     = 0xf5
	opAux          = 0xfa
	opResizeDB     = 0xfb
	opExpireMillis = 0xfc
	opSelectDB     = 0xfe
	opEOF          = 0xff
)

// errClosed ends a scan whose reader is closed.
var errClosed = errors.New("the snapshot was closed")

// An output is the RDB stream on its way from the scan to who reads it. What is appended to buf is part of the stream when a chunk is handed on, and
// can be taken back until then.
type output struct {
	buf  []byte
	sum  uint64
	n    int64 // bytes handed on
	full chan []byte
	free chan []byte
	stop chan struct{} // closed when nobody reads on

	stopped sync.Once
	err     error // of the scan, valid when full is closed; nil at its end
	rest    []byte
	chunk   []byte // that rest is of
}

func newOutput() *output {
	o := &output{full: make(chan []byte, chunks), free: make(chan []byte, chunks+2), stop: make(chan struct{})}
	for range chunks {
		o.free <- nil
	}
	o.buf = make([]byte, 0, chunkSize)
	return o
}

// room hands on what there is unless n more bytes fit into the chunk. It doesn't matter if n is more than that: the caller hands on again.
func (o *output) room(n int) error {
	if len(o.buf)+n <= cap(o.buf) {
		return nil
	}
	return o.flush()
}

// flush hands on what there is. It waits for the reader if that is behind.
func (o *output) flush() error {
	if len(o.buf) == 0 {
		return nil
	}
	o.sum = crc64.Update(o.sum, o.buf)
	return o.pass()
}

// pass is flush without the checksum.
func (o *output) pass() error {
	o.n += int64(len(o.buf))
	select {
	case <-o.stop:
		return errClosed
	default:
	}
	select {
	case o.full <- o.buf:
	case <-o.stop:
		return errClosed
	}
	select {
	case o.buf = <-o.free:
	case <-o.stop:
		return errClosed
	}
	if o.buf == nil {
		o.buf = make([]byte, 0, chunkSize)
	}
	o.buf = o.buf[:0]
	return nil
}

// finish ends the stream with its checksum.
func (o *output) finish() error {
	if err := o.room(1 + crc64.Size); err != nil {
		return err
	}
	o.buf = append(o.buf, opEOF)
	o.sum = crc64.Update(o.sum, o.buf)
	o.buf = binary.LittleEndian.AppendUint64(o.buf, o.sum)
	return o.pass()
}

// close tells the reader that there is no more, and why.
func (o *output) close(err error) {
	o.err = err
	close(o.full)
}

// end makes the scan stop, for nobody reads on.
func (o *output) end() { o.stopped.Do(func() { close(o.stop) }) }

// read is Read for who reads the stream. The error is that of the scan, io.EOF at its end.
func (o *output) read(p []byte) (int, error) {
	select {
	case <-o.stop:
		return 0, errClosed
	default:
	}
	if len(o.rest) == 0 {
		if o.chunk != nil {
			o.free <- o.chunk // has room for all that there are
			o.chunk = nil
		}
		chunk, ok := <-o.full
		if !ok {
			if o.err == nil {
				return 0, io.EOF
			}
			return 0, o.err
		}
		o.chunk, o.rest = chunk, chunk
	}
	n := copy(p, o.rest)
	o.rest = o.rest[n:]
	return n, nil
}

// header writes what a stream of a dialect begins with.
func (o *output) header(d rdb.Dialect) {
	if d.Family == rdb.Valkey {
		o.buf = fmt.Appendf(o.buf, "VALKEY%03d", d.Version)
		return
	}
	o.buf = fmt.Appendf(o.buf, "REDIS%04d", d.Version)
}

// aux writes a fact. It is short.
func (o *output) aux(name, value string) {
	o.buf = append(o.buf, opAux)
	o.buf = append(appendLength(o.buf, uint64(len(name))), name...)
	o.buf = append(appendLength(o.buf, uint64(len(value))), value...)
}

// selectDB makes the keys that follow those of a database.
func (o *output) selectDB(db database, d rdb.Dialect) error {
	if err := o.room(32); err != nil {
		return err
	}
	o.buf = appendLength(append(o.buf, opSelectDB), uint64(db.index))
	if db.keys > 0 && d.Family != rdb.Dragonfly {
		o.buf = appendLength(append(o.buf, opResizeDB), uint64(db.keys))
		o.buf = appendLength(o.buf, uint64(max(db.expires, 0)))
	}
	return nil
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
