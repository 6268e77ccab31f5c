package resp

import (
	"bufio"
	"io"
)

// bufferSize is what one small read of the connection may bring. Raw reads of at least this size go past the buffer.
const bufferSize = 16 << 10

// errFull is what ReadSlice returns if a line does not fit into the buffer.
var errFull = bufio.ErrBufferFull

// A buffer is a bufio.Reader that knows its place in the connection.
type buffer struct {
	br     *bufio.Reader
	offset int64
}

func newBuffer(r io.Reader) buffer { return buffer{br: bufio.NewReaderSize(r, bufferSize)} }

func (b *buffer) Buffered() int { return b.br.Buffered() }

func (b *buffer) Read(p []byte) (int, error) {
	n, err := b.br.Read(p)
	b.offset += int64(n)
	return n, err
}

func (b *buffer) ReadSlice(delim byte) ([]byte, error) {
	line, err := b.br.ReadSlice(delim)
	b.offset += int64(len(line))
	return line, err
}
