package rdb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/amberkv/amber/internal/crc64"
)

// ErrOutOfOrder is the error of calls of a Writer that can't follow each other, such as an element without an entry that it
// belongs to, or fewer elements than were announced.
var ErrOutOfOrder = errors.New("rdb: writer used out of order")

// WriterOptions are the rare choices of NewWriter. The zero value means the defaults.
type WriterOptions struct {
	// Compression says what is compressed. The zero value is CompressNone.
	Compression Compression
	// Commands lets WriteCommand write commands among the keys, whatever the dialect. No server but Dragonfly loads such a stream: it is for a Reader
	// with ReaderOptions.Commands.
	Commands bool
	// MaxHeld is how many bytes of a value the writer keeps in memory where the number of its elements has to go before
	// them and is not known. 0 means 4 MiB.
	MaxHeld int
	// Spool gives room for what is beyond MaxHeld; it is asked for at most once, and Close closes it, but doesn't remove what
	// is behind it. Without one, a value that needs it is a *TooLargeError.
	Spool func() (Spool, error)
}

// A Compression says what a Writer compresses, where that saves space.
type Compression uint8

// The compressions.
const (
	CompressNone Compression = iota
	CompressLZF              // strings of more than 20 bytes, up to 64 KiB. What WriteRaw and Convert pass on untouched stays as it is
	CompressLZ4              // blocks of records, of 64 KiB and more; in sets alone
	CompressZstd             // the same, smaller and slower
)

const defaultMaxHeld = 4 << 20

// A Shape says of a value, before its elements, what some encodings have to know.
type Shape struct {
	// Len is the number of elements: list items, set or sorted set members, hash fields. 0 means that it isn't known: the
	// value is then held until its end, see WriterOptions. Strings and streams need none.
	Len uint64
	// Expiry says that hash fields, or in Dragonfly set members, may have an expiry of their own.
	Expiry bool
}

// A Writer writes a stream of one dialect. It has the shape of archive/tar's: WriteEntry begins an entry, WriteElement adds
// to its value. It is used by one goroutine.
//
// What it writes loads into every server that loads the dialect: collections go in the plain encodings, which servers
// turn into their compact ones by their own settings when they load them.
//
// Once a call failed, all that follow give the same error.
type Writer struct {
	out     output
	summary *output // of a set
	dialect Dialect
	err     error
	closed  bool
	db      int  // selected, -1 for none
	keyed   bool // a key was written
	carries bool // commands
	hinted  bool // Convert wrote the sizes of the databases
	earlier earlier

	entry struct { // the one that is being written; without its name, unless that is short, for errors
		kind Kind
		db   int
		key  []byte
	}
	value  valueWriter
	list   listWriter
	stream streamWriter
}

// NewWriter returns a Writer of a stream of dialect d to w, which gets it in pieces of 64 KiB and more. The
// dialect is Redis from version 6 on, Valkey or Dragonfly (the RDB that it loads; not a set of DFS files). Any other is an
// error that wraps ErrUnsupported. A nil opts means the defaults.
func NewWriter(w io.Writer, d Dialect, opts *WriterOptions) (*Writer, error) {
	if !d.writable() {
		return nil, fmt.Errorf("rdb: %w dialect %v: redis:6 to redis:%d, valkey:%d and dragonfly:%d can be written",
			ErrUnsupported, d, maxRedis, valkeyVersion, dragonflyVersion)
	}
	if opts != nil && opts.Compression > CompressLZF {
		return nil, fmt.Errorf("rdb: %w compression of a single stream: blocks are for sets", ErrUnsupported)
	}
	wr := &Writer{out: newOutput(w), dialect: d, db: -1, carries: opts != nil && opts.Commands}
	wr.out.set(opts)
	wr.out.write(d.magic())
	return wr, nil
}

// Dialect returns the dialect that is written.
func (w *Writer) Dialect() Dialect { return w.dialect }

// Offset returns how many bytes of the stream were written, those included that wait in the Writer's buffer, but not those
// that are held until a value ends.
func (w *Writer) Offset() int64 { return w.out.offset() }

// set takes over what options say.
func (o *output) set(opts *WriterOptions) {
	o.limit = defaultMaxHeld
	if opts == nil {
		return
	}
	o.compress, o.newSpool = opts.Compression == CompressLZF, opts.Spool
	if opts.MaxHeld > 0 {
		o.limit = opts.MaxHeld
	}
}

// WriteEntry ends the entry before and begins the next. Of e, what the dialect has a place for is written:
//
//   - a key: DB, Key, Type, HasExpiry and ExpireAt, Idle and Freq (negative: none; left out before redis:9 and in Dragonfly), Meta
//     (since redis:13), Flags and Memcache (Dragonfly). Its elements follow.
//   - an aux fact: Key and Value; servers expect these before the first key
//   - a function (since redis:10): its source follows as elements of kind ElementBytes
//   - the size of a database: DB, Keys and Expires; left out where it has no place. It goes before the keys of the database
//
// Types that have no elements but ElementRaw are written with e.Encoding as their type byte. Anything that the dialect
// doesn't have is an *UnsupportedError; e is not kept.
func (w *Writer) WriteEntry(e *Entry, s Shape) error {
	if !w.next(e) {
		return w.err
	}
	o := &w.out
	switch e.Kind {
	case KindKey:
		w.value.begin(w, e, s)
	case KindAux:
		if w.dialect.Version >= 7 {
			if w.summary != nil {
				o = w.summary
			}
			o.aux(e.Key, e.Value)
		}
	case KindFunction:
		if !w.dialect.functions() {
			return w.unsupported("functions")
		}
		o.byte(opFunction)
		w.value = valueWriter{kind: ElementBytes}
	case KindResizeDB:
		if w.dialect.Version >= 7 && w.dialect.Family != Dragonfly {
			w.selectDB(e.DB)
			o.byte(opResizeDB)
			o.length(e.Keys)
			o.length(e.Expires)
		}
	default:
		return w.unsupported("an entry of kind " + e.Kind.String())
	}
	return w.fail()
}

// WriteRaw writes a key with a value that is a DUMP payload, as Reader.AppendRaw gives it: untouched, but without its footer. Of
// e, the fields count that WriteEntry takes of a key, except Type; Meta has to be what the payload begins with. A payload whose checksum is wrong is an error that
// wraps ErrCorrupt; one whose type the dialect doesn't have, an *UnsupportedError. Types that servers
// number differently are taken for those of the dialect.
func (w *Writer) WriteRaw(e *Entry, payload []byte) error {
	if !w.next(e) {
		return w.err
	}
	if e.Kind != KindKey {
		return w.unsupported("a payload for an entry of kind " + e.Kind.String())
	}
	if why := checkPayload(payload); why != "" {
		w.err = &CorruptError{Offset: w.Offset(), Key: string(e.Key), DB: e.DB, Why: why}
		return w.err
	}
	body := bytes.TrimPrefix(payload[:len(payload)-footerLen], e.Meta)
	if len(body) == 0 {
		w.err = &CorruptError{Offset: w.Offset(), Key: string(e.Key), DB: e.DB, Why: "a DUMP payload has no value"}
		return w.err
	}
	if code := body[0]; !w.dialect.has(w.dialect.encodings(), code) {
		return w.unsupported(fmt.Sprintf("a value of encoding %d", code))
	}
	if !w.attributes(e) {
		return w.err
	}
	w.out.byte(body[0])
	w.out.str(e.Key)
	w.out.write(body[1:])
	return w.fail()
}

// checkPayload tells what is wrong with a DUMP payload.
func checkPayload(p []byte) string {
	if len(p) < 1+footerLen {
		return "a DUMP payload is at least 11 bytes long"
	}
	at := len(p) - crc64.Size
	if binary.LittleEndian.Uint64(p[at:]) != crc64.Checksum(p[:at]) {
		return "the checksum of a DUMP payload is wrong"
	}
	return ""
}

// Close ends the last entry and the stream, with its checksum. It doesn't close what is beneath. Call it also after an error: it
// gives that error again, and closes the spool.
func (w *Writer) Close() error {
	defer w.out.close()
	if w.closed {
		return w.err
	}
	if w.err == nil {
		w.end()
	}
	w.closed = true
	if w.err != nil {
		return w.err
	}
	if w.out.shards != nil {
		w.finishSet()
	} else {
		w.out.finish()
	}
	return w.fail()
}

// next ends the entry before and takes note of the next.
func (w *Writer) next(e *Entry) bool {
	switch {
	case w.err != nil:
		return false
	case w.closed:
		w.err = fmt.Errorf("%w: an entry after Close", ErrOutOfOrder)
		return false
	}
	if !w.end() {
		return false
	}
	w.entry.kind, w.entry.db = e.Kind, e.DB
	w.entry.key = append(w.entry.key[:0], e.Key[:min(len(e.Key), shownKey+1)]...)
	if e.DB < 0 {
		w.err = fmt.Errorf("rdb: key %q is for database %d", w.entry.key, e.DB)
		return false
	}
	return true
}

// end ends the entry that is being written.
func (w *Writer) end() bool {
	if w.value.kind != 0 {
		w.value.end(w)
		w.value.kind = 0
	}
	if w.out.shards != nil && w.out.endRecord() {
		w.db = -1
	}
	return w.fail() == nil
}

// fail returns what went wrong.
func (w *Writer) fail() error {
	if w.err == nil {
		w.err = w.out.err
	}
	if w.err == nil && w.summary != nil {
		w.err = w.summary.err
	}
	return w.err
}

func (w *Writer) disorder(what string) error {
	w.err = fmt.Errorf("%w%s: %s", ErrOutOfOrder, ofKey(string(w.entry.key), w.entry.db), what)
	return w.err
}

func (w *Writer) unsupported(what string) error {
	w.err = &UnsupportedError{Offset: w.Offset(), Key: string(w.entry.key), DB: w.entry.db, What: what + " in a stream of dialect " + w.dialect.String()}
	return w.err
}

func (w *Writer) selectDB(db int) {
	if db != w.db {
		w.db = db
		w.out.byte(opSelectDB)
		w.out.length(uint64(db))
	}
}

// attributes writes what goes before the type byte of a key.
func (w *Writer) attributes(e *Entry) bool {
	o := &w.out
	w.keyed = true
	w.selectDB(e.DB)
	if e.HasExpiry {
		o.byte(opExpireMillis)
		o.number(uint64(e.ExpireAt))
	}
	if w.dialect.Family == Dragonfly {
		if e.Flags != 0 {
			o.room(9)
			o.buf = binary.LittleEndian.AppendUint32(append(o.buf, opDragonflyMask), e.Flags)
			if e.Flags&2 != 0 {
				o.buf = binary.LittleEndian.AppendUint32(o.buf, e.Memcache)
			}
		}
	} else {
		if e.Flags != 0 {
			w.unsupported("Dragonfly's flags of a key")
			return false
		}
		if w.dialect.Version >= 9 {
			if e.Idle >= 0 {
				o.byte(opIdle)
				o.length(uint64(e.Idle))
			}
			if e.Freq >= 0 {
				o.byte(opFreq)
				o.byte(byte(e.Freq))
			}
		}
	}
	if len(e.Meta) > 0 {
		if !w.dialect.keyMeta() {
			w.unsupported("metadata of a key")
			return false
		}
		o.write(e.Meta)
	}
	return true
}
