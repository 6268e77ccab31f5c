package rdb

import (
	"bytes"
	"fmt"
	"io"
)

// NewPayloadReader returns a Reader of one key, e, whose value is a DUMP payload of dialect d that src begins with, such as
// Reader.WriteRaw writes. It is for taking apart, with Elements or Value, what was taken raw. Of e the fields Key, DB and Meta
// count; e is not kept.
//
// Next gives the key once. What follows the value, which begins with the payload's footer, isn't looked at: Next fails there. A nil opts
// means the defaults.
func NewPayloadReader(src io.Reader, d Dialect, e *Entry, opts *ReaderOptions) *Reader {
	// The stream that the payload would be in: the type byte goes before the key's name, and the rest of it behind.
	p := &payloadReader{src: src, skip: len(e.Meta), key: bytes.Clone(e.Key)}
	p.head = output{to: &stream{w: &p.text}, buf: make([]byte, 0, 64)}
	p.head.write(d.magic())
	p.head.byte(opSelectDB)
	p.head.length(uint64(e.DB))
	p.head.write(e.Meta)
	return NewReader(p, opts)
}

// payloadReader gives a payload with a header and a key's name.
type payloadReader struct {
	src  io.Reader
	skip int // bytes of metadata, which the header has
	key  []byte
	head output       // of text
	text bytes.Buffer // what is to be given before the rest of src
	done bool         // text is complete
}

func (p *payloadReader) Read(b []byte) (int, error) {
	if !p.done {
		p.done = true
		first := make([]byte, p.skip+1)
		if n, err := io.ReadFull(p.src, first); err != nil {
			return 0, fmt.Errorf("a DUMP payload of %d bytes: %w", n, err)
		}
		p.head.byte(first[p.skip])
		p.head.str(p.key)
		p.head.pass(p.head.buf)
		if p.head.err != nil {
			return 0, p.head.err
		}
	}
	if p.text.Len() > 0 {
		return p.text.Read(b)
	}
	return p.src.Read(b)
}
