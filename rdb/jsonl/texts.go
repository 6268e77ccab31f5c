package jsonl

import (
	"encoding/binary"
	"io"

	"github.com/amberkv/amber/internal/extsort"
)

// texts are finished parts of a line that are to be sorted by a name: in memory, and what is large in a space of their own. While
// one is written, what would go to the line goes there.
type texts struct {
	sorter *extsort.Sorter
	space  *extsort.Space
	buf    []byte // the Writer's own, while a text is being written; else that of the texts
	outer  *texts
	at     int64 // of the text that is being written, if some of it went to the space
	size   int64 // of what went there
}

// textsBuffer is up to which length a text stays in memory.
const textsBuffer = 64 << 10

// A text's record has as its value a byte and the text, or where it is.
const (
	textHere = iota
	textAway
)

// begin begins to collect texts.
func (w *Writer) begin(t *texts) {
	if t.space == nil {
		t.space = extsort.NewSpace(w.open)
		t.buf = make([]byte, 0, textsBuffer)
	}
	w.sorter(&t.sorter, w.order, 4, t.space)
	t.space.Reset()
}

// capture begins a text.
func (w *Writer) capture(t *texts) {
	w.buf, t.buf = t.buf[:0], w.buf
	t.outer, w.into = w.into, t
	t.size = 0
}

// take moves what was written so far of a text to the space.
func (t *texts) take(w *Writer) {
	if w.err == nil && len(w.buf) > 0 {
		at, err := t.space.Append(w.buf)
		if t.size == 0 {
			t.at = at
		}
		t.size += int64(len(w.buf))
		w.failed(err)
	}
	w.buf = w.buf[:0]
}

// captured ends a text.
func (w *Writer) captured(t *texts, name []byte) {
	head := append(w.small[:0], textHere)
	if t.size > 0 {
		t.take(w)
		head[0] = textAway
		head = binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(head, uint64(t.at)), uint64(t.size))
	}
	if w.err == nil {
		w.failed(t.sorter.Add(w.order.Prefix(name), name, head, w.buf))
	}
	w.buf, t.buf = t.buf, w.buf
	w.into = t.outer
}

// sortedTexts writes all texts, with commas between them.
func (w *Writer) sortedTexts(t *texts) {
	if w.err != nil || w.failed(t.sorter.Sort()) {
		return
	}
	for first := true; ; {
		_, _, value, err := t.sorter.Next()
		if err != nil {
			if err != io.EOF {
				w.failed(err)
			}
			return
		}
		w.comma(&first)
		if value[0] == textHere {
			w.plain(value[1:])
			continue
		}
		at, size := int64(binary.LittleEndian.Uint64(value[1:])), int64(binary.LittleEndian.Uint64(value[9:]))
		for size > 0 && w.err == nil {
			n := int(min(size, chunk))
			w.room(n)
			part := w.buf[len(w.buf) : len(w.buf)+n]
			if w.failed(t.space.ReadAt(part, at)) {
				return
			}
			w.buf = w.buf[:len(w.buf)+n]
			at += int64(n)
			size -= int64(n)
		}
	}
}

// plain writes a text as it is.
func (w *Writer) plain(s []byte) {
	for len(s) > 0 {
		n := min(len(s), chunk)
		w.room(n)
		w.buf = append(w.buf, s[:n]...)
		s = s[n:]
	}
}
