package jsonl

import (
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/amberkv/amber/internal/extsort"
	"github.com/amberkv/amber/rdb"
)

// Options are the rare choices of NewWriter. The zero value means the defaults.
type Options struct {
	// MaxHeld is how many bytes of a value the writer keeps in memory to sort them. 0 means 4 MiB.
	MaxHeld int
	// Spool gives room for what is beyond MaxHeld; it is asked for at most three times, and Close closes them, but doesn't remove
	// what is behind them. Without one, a value that needs it is a *rdb.TooLargeError.
	Spool func() (rdb.Spool, error)
}

const defaultMaxHeld = 4 << 20

// Elements gives the elements of a value, and io.EOF behind the last one. An *rdb.Reader does.
type Elements interface {
	Element() (*rdb.Element, error)
}

// A Writer writes a line for each key. It is used by one goroutine.
//
// Once a call failed, all that follow give the same error. The lines before are written then; the last one is missing, or cut off
// if it was long.
type Writer struct {
	w    io.Writer
	err  error
	buf  []byte
	line int // where the last line begins in buf, as far as it is there

	text  *escaped
	open  func() (extsort.Spool, error)
	space *extsort.Space
	order *extsort.Order
	limit int

	main      *extsort.Sorter // of members, fields, pending entries
	owners    *extsort.Sorter // of the consumers of a group, and their entries
	groups    texts
	consumers texts
	into      *texts // where the lines go meanwhile
	names     []byte // of the consumers of a group

	entry    *rdb.Entry // that is being written
	source   Elements
	raw      rawScanner
	name     []byte // of the group that is being written
	consumer []byte // of the consumer
	small    [48]byte
	digits   [32]byte
}

// bufferSize is how much of the lines is written at a time.
const bufferSize = 128 << 10

// chunk is how much of a string is escaped at a time.
const chunk = 8 << 10

// NewWriter returns a Writer to w. It writes nothing of its own: a stream without keys has no lines. A nil opts means the defaults.
func NewWriter(w io.Writer, opts *Options) *Writer {
	jw := &Writer{w: w, buf: make([]byte, 0, bufferSize), text: newEscaped(), order: textOrder(), limit: defaultMaxHeld}
	if opts != nil {
		if opts.MaxHeld > 0 {
			jw.limit = opts.MaxHeld
		}
		if spool := opts.Spool; spool != nil {
			jw.open = func() (extsort.Spool, error) { return spool() }
		}
	}
	jw.space = extsort.NewSpace(jw.open)
	return jw
}

// WriteKey writes the line of a key: of an entry of kind rdb.KindKey whose elements values gives from the first on. When an
// rdb.Reader's Next returned the entry, that reader gives them. An error of values is returned as it is. An *rdb.CorruptError can also
// say that the groups of a stream contradict themselves.
func (w *Writer) WriteKey(e *rdb.Entry, values Elements) error {
	if w.err != nil {
		return w.err
	}
	if e.Kind != rdb.KindKey {
		w.err = fmt.Errorf("jsonl: an entry of kind %v is no key", e.Kind)
		return w.err
	}
	w.entry, w.source, w.line = e, values, len(w.buf)
	w.writeKey(e)
	w.end()
	return w.err
}

// end ends a line. If it failed, the lines before it are written out, and what is still there of it goes.
func (w *Writer) end() {
	w.entry, w.source = nil, nil
	if w.err == nil {
		return
	}
	for ; w.into != nil; w.into = w.into.outer {
		w.buf = w.into.buf
	}
	err := w.err
	w.err = nil
	w.buf = w.buf[:w.line]
	w.flush()
	w.err = err
}

func (w *Writer) writeKey(e *rdb.Entry) {
	w.lit(`{"db":`)
	w.int(int64(e.DB))
	w.lit(`,"key":`)
	w.string(e.Key)
	w.lit(`,"type":"`)
	w.lit(typeName(e))
	w.lit(`","expire_ms":`)
	if e.HasExpiry {
		w.int(e.ExpireAt)
	} else {
		w.lit("null")
	}
	if e.Freq >= 0 {
		w.lit(`,"freq":`)
		w.int(int64(e.Freq))
	}
	if e.Idle >= 0 {
		w.lit(`,"idle":`)
		w.int(e.Idle)
	}
	w.lit(`,"value":`)
	w.value(e)
	w.lit("}\n")
}

// WriteValue writes the value of a key alone, as it stands in its line, and a line break.
func (w *Writer) WriteValue(e *rdb.Entry, values Elements) error {
	if w.err != nil {
		return w.err
	}
	w.entry, w.source, w.line = e, values, len(w.buf)
	w.value(e)
	w.lit("\n")
	w.end()
	return w.err
}

// typeName is what the TYPE command answers.
func typeName(e *rdb.Entry) string {
	switch e.Type {
	case rdb.TypeModule:
		return e.Module.Name()
	case rdb.TypeBloom:
		return "MBbloom--"
	case rdb.TypeCuckoo:
		return "MBbloomCF"
	case rdb.TypeCMS:
		return "CMSk-TYPE"
	case rdb.TypeTopK:
		return "TopK-TYPE"
	}
	return e.Type.String()
}

func (w *Writer) value(e *rdb.Entry) {
	switch e.Type {
	case rdb.TypeString, rdb.TypeJSON:
		w.stringValue()
	case rdb.TypeList:
		w.list()
	case rdb.TypeSet:
		w.set()
	case rdb.TypeZSet:
		w.zset()
	case rdb.TypeHash:
		w.hash()
	case rdb.TypeStream:
		w.stream()
	case rdb.TypeArray:
		w.array()
	case rdb.TypeModule:
		w.module(e.Module)
	case rdb.TypeBloom:
		w.bloom()
	case rdb.TypeCMS:
		w.cms()
	case rdb.TypeTopK:
		w.topK()
	case rdb.TypeCuckoo:
		w.cuckoo()
	default:
		w.rawValue()
	}
}

// Flush gives all lines to the writer beneath.
func (w *Writer) Flush() error {
	w.flush()
	return w.err
}

// Close flushes, and closes the spool if one was opened. It doesn't close what is beneath.
func (w *Writer) Close() error {
	w.flush()
	for _, space := range []*extsort.Space{w.space, w.groups.space, w.consumers.space} {
		if space != nil {
			w.failed(space.Close())
		}
	}
	return w.err
}

// next reads the next element of the value. It returns nil behind the last one, or on an error.
func (w *Writer) next() *rdb.Element {
	if w.err != nil {
		return nil
	}
	e, err := w.source.Element()
	if err == nil {
		return e
	}
	if err != io.EOF {
		w.err = err
	}
	return nil
}

// wrong says that a value is not what a server writes.
func (w *Writer) wrong(format string, args ...any) {
	if w.err == nil {
		w.err = &rdb.CorruptError{Offset: w.entry.Offset, Key: string(w.entry.Key), DB: w.entry.DB, Why: fmt.Sprintf(format, args...)}
	}
}

// unexpected says that an element doesn't belong to the value.
func (w *Writer) unexpected(e *rdb.Element) {
	w.wrong("an element of kind %v in a value of type %v", e.Kind, w.entry.Type)
}

// failed takes note of an error of sorting.
func (w *Writer) failed(err error) bool {
	switch {
	case err == nil:
		return w.err != nil
	case w.err != nil:
	case errors.Is(err, extsort.ErrNoSpace):
		w.err = w.tooLarge("what has to be sorted of a value, without Options.Spool,", w.limit)
	case errors.Is(err, extsort.ErrTooLarge):
		w.err = w.tooLarge("a name", 1<<30)
	default:
		w.err = fmt.Errorf("jsonl: %w", err)
	}
	return true
}

func (w *Writer) tooLarge(what string, limit int) error {
	return &rdb.TooLargeError{Offset: w.entry.Offset, Key: string(w.entry.Key), DB: w.entry.DB, What: what, Size: uint64(limit) + 1, Limit: int64(limit)}
}

// sorter returns a sorter for the next value, made when it is first needed: one that gets a share of the memory.
func (w *Writer) sorter(s **extsort.Sorter, order *extsort.Order, share int, space *extsort.Space) *extsort.Sorter {
	if *s == nil {
		*s = extsort.New(w.limit/share, order, space)
	}
	(*s).Reset(order)
	return *s
}

// sort returns the sorter of most values.
func (w *Writer) sort(order *extsort.Order) *extsort.Sorter {
	return w.sorter(&w.main, order, 1, w.space)
}

// room makes room for n more bytes in buf; n is at most bufferSize. Without room, because something failed, it makes room by
// forgetting.
func (w *Writer) room(n int) {
	if len(w.buf)+n > cap(w.buf) {
		w.flush()
	}
}

func (w *Writer) flush() {
	if w.into != nil {
		w.into.take(w)
		return
	}
	w.line = 0
	if w.err == nil && len(w.buf) > 0 {
		n, err := w.w.Write(w.buf)
		if err == nil && n < len(w.buf) {
			err = io.ErrShortWrite
		}
		if err != nil {
			w.err = fmt.Errorf("jsonl: writing: %w", err)
		}
	}
	w.buf = w.buf[:0]
}

// lit writes a short text as it is.
func (w *Writer) lit(s string) {
	w.room(len(s))
	w.buf = append(w.buf, s...)
}

func (w *Writer) byte(c byte) {
	w.room(1)
	w.buf = append(w.buf, c)
}

func (w *Writer) int(n int64) {
	w.room(20)
	w.buf = strconv.AppendInt(w.buf, n, 10)
}

func (w *Writer) uint(n uint64) {
	w.room(20)
	w.buf = strconv.AppendUint(w.buf, n, 10)
}

// string writes a byte string.
func (w *Writer) string(s []byte) {
	if len(s) <= chunk {
		w.room(longestText*len(s) + textSlack + 2)
		w.buf = append(w.text.appendText(append(w.buf, '"'), s), '"')
		return
	}
	w.byte('"')
	w.part(s)
	w.byte('"')
}

// part writes a part of a byte string.
func (w *Writer) part(s []byte) {
	for len(s) > 0 {
		n := min(len(s), chunk)
		w.room(longestText*n + textSlack)
		w.buf = w.text.appendText(w.buf, s[:n])
		s = s[n:]
	}
}

// id writes an id of a stream.
func (w *Writer) id(id rdb.StreamID) {
	w.room(43)
	w.buf = append(id.AppendText(append(w.buf, '"')), '"')
}

// expiry writes a time, or null.
func (w *Writer) expiry(at int64) {
	if at == 0 {
		w.lit("null")
	} else {
		w.int(at)
	}
}

// comma writes what stands between the items of an array.
func (w *Writer) comma(first *bool) {
	if *first {
		*first = false
	} else {
		w.byte(',')
	}
}
