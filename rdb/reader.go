package rdb

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"iter"
	"math"
)

// ReaderOptions are the rare choices of NewReader. The zero value means the defaults.
type ReaderOptions struct {
	// MaxKey is the longest key name, and the longest name or value of an aux fact, that the reader accepts, in bytes.
	// Such strings are held in memory; values are not. A longer one ends the reader with a *TooLargeError.
	// 0 means 512 MiB, which is what Redis allows.
	//
	// When values are read as elements, the same holds for what is always whole: the names of fields, members,
	// groups and consumers, and values of hash fields with an expiry of their own.
	MaxKey int64

	// MaxPacked is the largest packed blob that has to be in memory as a whole when values are read as elements: a node of a stream,
	// which servers make 4 KiB large, unless an entry alone is larger. A larger one ends the reader with a
	// *TooLargeError. 0 means 64 MiB.
	MaxPacked int64

	// Commands accepts commands among the keys of streams of every dialect, as entries of KindJournal: what a Writer with
	// WriterOptions.Commands makes. Without it they are Dragonfly's alone.
	Commands bool

	// MaxHeld is how many bytes the reader keeps in memory of what lies between the pieces of a value: a Dragonfly
	// snapshot has large values in pieces, with anything between them, and they are read in the order in which they begin. 0 means 4 MiB.
	MaxHeld int

	// Spool gives room for what is beyond MaxHeld. The reader closes it once Next has returned an error, io.EOF included, but
	// doesn't remove what is behind it. Without one, a stream that needs it ends the reader with a *TooLargeError.
	Spool func() (Spool, error)

	// PassPieces passes over the pieces of large values, instead of joining them and reading the values in order: nothing is held then, and what
	// lies between them comes when it is there. Such values are no entries, and what is in their pieces isn't looked at; Stats.Pieces counts them.
	// It is for who waits for what a Dragonfly sends to a replica besides keys.
	PassPieces bool
}

const (
	defaultMaxKey    = 512 << 20
	defaultMaxPacked = 64 << 20
)

// A Reader reads a stream entry by entry, in memory that doesn't depend on the data. It is used by one goroutine.
type Reader struct {
	buffer
	maxKey    int64
	maxPacked int64
	maxHeld   int
	commands  bool
	newSpool  func() (Spool, error)
	size      int  // of buffers
	pass      bool // over pieces of values

	input   input // what the buffer is a window on
	nest    *nest // for inputs other than the stream itself
	journal journal

	dragonflyVersion int // that wrote the stream, 1040 for 1.40; 0 if unknown

	err       error // what every later Next returns
	started   bool
	dialect   Dialect
	encodings *[256]encoding

	entry Entry
	frame frame // of the value that follows the entry; frameNone if there is none, or it was read
	since uint8 // as in encoding, of that value
	keyed bool  // what is read belongs to entry.Key

	attrs         attributes
	db            int
	templates     map[uint64]template
	templateNames int64 // bytes of names kept in all

	counts counts

	auxWhen uint64 // of module aux: 1 if it goes before the keys, 2 if behind

	val    valueReader // of the value, once it is read as elements
	strict bool        // what servers insist on is checked, as far as only reading sees it

	observe func(*Entry, ValueInfo) // nil: nobody watches
	watch   watch

	key, value, packed, meta []byte   // for strings that can't be lent from the buffer
	small                    [16]byte // for what goes to a tee besides the stream's own bytes
}

// attributes go before the key that they belong to.
type attributes struct {
	set       bool // any of them
	hasExpiry bool
	expireAt  int64
	idle      int64
	freq      int
	meta      bool
	flags     uint32
	memcache  uint32
}

var noAttributes = attributes{idle: -1, freq: -1}

// NewReader returns a Reader of the stream that src begins with. It doesn't read yet. A nil opts means the defaults.
//
// The reader reads ahead, but never waits for more bytes than the entry needs that it was asked for: the
// last byte that it insists on is the last of the stream.
func NewReader(src io.Reader, opts *ReaderOptions) *Reader {
	return newReader(src, opts, bufferSize)
}

// newReader is NewReader with buffers of at least smallestBuffer bytes each.
func newReader(src io.Reader, opts *ReaderOptions, size int) *Reader {
	r := &Reader{buffer: buffer{src: src, buf: make([]byte, size)}, maxKey: defaultMaxKey, maxPacked: defaultMaxPacked, maxHeld: defaultMaxHeld, size: size, attrs: noAttributes}
	if opts != nil {
		r.maxHeld = cmp.Or(max(opts.MaxHeld, 0), r.maxHeld)
		r.newSpool, r.pass, r.commands = opts.Spool, opts.PassPieces, opts.Commands
		r.maxKey = cmp.Or(max(opts.MaxKey, 0), r.maxKey)
		r.maxPacked = cmp.Or(max(opts.MaxPacked, 0), r.maxPacked)
	}
	return r
}

// Dialect returns the dialect of the stream; the zero Dialect before the first Next. It says Dragonfly as soon as
// something was read that only Dragonfly writes: its header is that of Redis.
func (r *Reader) Dialect() Dialect { return r.dialect }

// Offset returns how many bytes of the stream are consumed. After Next returned io.EOF it is the length of the stream,
// whatever follows in the source. After any other error it lies somewhere before what is wrong, or in it.
func (r *Reader) Offset() int64 { return r.bottom().offset() }

// Buffered returns what was read from the source behind Offset. It holds until the next call of a method.
func (r *Reader) Buffered() []byte {
	b := r.bottom()
	return b.buf[b.pos:b.end]
}

// bottom returns the buffer that is a window on the stream itself.
func (r *Reader) bottom() *buffer {
	if r.input != inputStream && r.nest.ahead {
		r = r.nest.front
	}
	if r.input != inputStream {
		return &r.nest.below[0]
	}
	return &r.buffer
}

// offset is where the stream is read: where a block or a chunk begins if that is read.
func (r *Reader) offset() int64 {
	switch r.input {
	case inputStream:
		return r.buffer.offset()
	case inputBlock:
		return r.nest.inputs.unit
	}
	return r.nest.unit
}

// recordOffset is offset for what begins with a byte that was consumed.
func (r *Reader) recordOffset() int64 {
	if r.input == inputStream {
		return r.buffer.offset() - 1
	}
	return r.offset()
}

// Next skips what is left of the entry before and returns the next one.
//
// The error is io.EOF only behind the end of a stream whose checksum is right, or which explicitly has none: see
// Stats.Checksum. Any other means that the stream can't be read on, and is returned by every later call:
//
//   - *CorruptError, also for a stream that ends too early
//   - *UnsupportedError or *VersionError for what this package doesn't know
//   - *TooLargeError for a key name longer than ReaderOptions allow
//   - an error that wraps one of the source
func (r *Reader) Next() (*Entry, error) {
	if r.next() {
		return &r.entry, nil
	}
	if r.nest != nil {
		if err := r.nest.backlog.close(); err != nil && r.err == io.EOF {
			r.err = fmt.Errorf("rdb: closing the spool: %w", err)
		}
	}
	return nil, r.err
}

func (r *Reader) next() bool {
	if r.err != nil {
		return false
	}
	if r.frame != frameNone {
		f := r.frame
		r.frame = frameNone
		if f == frameString && r.skipNear() {
			// Most values are skipped so.
		} else if !r.skipValue(f) {
			return false
		}
	}
	for r.val.step > stepEnd {
		if !r.stepValue() && r.err != nil {
			return false
		}
	}
	r.val.step = stepNone
	if r.watch.open {
		r.observed()
	}
	r.pinned, r.keyed = false, false
	if !r.started && !r.start() {
		return false
	}
	for {
		if r.journal.end != 0 {
			if isEntry, ok := r.nextJournal(); isEntry || !ok {
				return ok
			}
		}
		if r.pos == r.end {
			if r.input != inputStream {
				if !r.border() {
					return false
				}
				continue
			}
			if !r.fill(1) {
				return r.starved()
			}
		}
		if r.observe != nil && !r.attrs.set {
			r.watchKey()
		}
		code := r.buf[r.pos]
		if e := &r.encodings[code]; e.frame != frameNone {
			return r.nextKey(code, e)
		}
		if code == opExpireMillis && r.end-r.pos > 8 {
			// The only opcode that many keys have.
			r.attrs.set, r.attrs.hasExpiry = true, true
			r.attrs.expireAt = int64(binary.LittleEndian.Uint64(r.buf[r.pos+1:]))
			r.pos += 9
			continue
		}
		isEntry, ok := r.opcode(code)
		if !ok {
			return false
		}
		if isEntry {
			return true
		}
	}
}

// Entries returns the entries from here on, each borrowed until the next. An error ends the sequence; the end of the
// stream is none. Breaking off leaves the reader where it is.
func (r *Reader) Entries() iter.Seq2[*Entry, error] {
	return func(yield func(*Entry, error) bool) {
		for {
			e, err := r.Next()
			if err == io.EOF {
				return
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// start reads the magic.
func (r *Reader) start() bool {
	if !r.need(magicLen) {
		if at := string(r.buf[r.pos:r.end]); r.srcErr != io.EOF || at == "" || hasMagic(at) {
			return r.starved()
		}
		return r.corrupt("it doesn't begin with REDIS or VALKEY and a version: this is no RDB")
	}
	magic := string(r.buf[r.pos : r.pos+magicLen])
	if magic[:4] == "VCS\x01" {
		return r.unsupported("an envelope of Valkey 9.2 with LZ4 inside; save with rdbcompression lzf or no")
	}
	d, ok := dialectOf(magic)
	if !ok {
		return r.corrupt("it doesn't begin with REDIS or VALKEY and a version: this is no RDB")
	}
	if !d.known() {
		r.err = &VersionError{d}
		return false
	}
	r.pos += magicLen
	r.dialect, r.started = d, true
	switch {
	case d.Family == Valkey:
		r.encodings = valkeyEncodings
	case d.Version <= maxDragonfly:
		r.encodings = redisOldEncodings
	default:
		r.encodings = redisEncodings
	}
	return true
}

func hasMagic(begin string) bool {
	n := min(len(begin), 5)
	return begin[:n] == "REDIS"[:n] || begin[:n] == "VALKEY"[:n]
}

// nextKey reads a type byte and the key name behind it. The value is left to read.
func (r *Reader) nextKey(code uint8, enc *encoding) bool {
	e := &r.entry
	if e.Kind != KindKey {
		*e = Entry{Kind: KindKey} // a key after another has nothing to clear but what is set below
	}
	e.Type, e.Encoding, e.DB, e.Offset, e.Module = enc.typ, code, r.db, r.buffer.offset(), 0
	if r.input != inputStream {
		e.Offset = r.offset()
	}

	if b := r.buf[r.pos:r.end]; len(b) > 1+0x40 && b[1] < 0x40 {
		n := 2 + int(b[1])
		e.Key = b[2:n:n]
		r.pos += n
		r.pinned = true
	} else {
		r.pos++
		var ok bool
		if e.Key, ok = r.readString(&r.key, "key name"); !ok {
			return false
		}
		r.pinned = true
	}
	r.keyed = true
	r.frame, r.since = enc.frame, enc.since

	if r.attrs.set {
		r.giveAttributes(e)
	} else {
		e.HasExpiry, e.ExpireAt, e.Idle, e.Freq = false, 0, -1, -1
		e.Meta, e.Flags, e.Memcache = nil, 0, 0
	}
	if enc.frame == frameModule {
		id, ok := r.peekLength()
		if !ok {
			return false
		}
		e.Module = ModuleID(id)
		if !r.countModule(e.Module, 1, 0) {
			return false
		}
	}
	if code >= 30 && code <= 37 && r.encodings == redisOldEncodings {
		r.dialect.Family = Dragonfly
	}
	if r.counts.db == nil && !r.countDB() {
		return false
	}
	r.counts.db.types[enc.typ]++
	if e.HasExpiry {
		r.counts.expires(r.entry.ExpireAt)
	}
	if r.observe != nil {
		r.watchValue(enc.frame)
	}
	return true
}

func (r *Reader) giveAttributes(e *Entry) {
	a := &r.attrs
	e.HasExpiry, e.ExpireAt, e.Idle, e.Freq = a.hasExpiry, a.expireAt, a.idle, a.freq
	e.Flags, e.Memcache, e.Meta = a.flags, a.memcache, nil
	if a.meta {
		e.Meta = r.meta
		r.since = max(r.since, 13)
	}
	*a = noAttributes
}

// begin makes entry one of an opcode.
func (r *Reader) begin(kind Kind, code uint8) {
	r.entry = Entry{Kind: kind, Encoding: code, DB: r.db, Offset: r.recordOffset(), Idle: -1, Freq: -1}
}

// opcode reads an opcode and what belongs to it, and tells whether that is an entry.
func (r *Reader) opcode(code uint8) (isEntry, ok bool) {
	at := r.pos
	r.pos++
	switch code {
	case opExpireMillis:
		if !r.need(8) {
			return false, r.starved()
		}
		r.attrs.set, r.attrs.hasExpiry = true, true
		r.attrs.expireAt = int64(binary.LittleEndian.Uint64(r.buf[r.pos:]))
		r.pos += 8
		return false, true
	case opExpireSeconds:
		if !r.need(4) {
			return false, r.starved()
		}
		// Redis 2.4 wrote times past 2038 modulo 2^32, and no expiry lies before 1970: the field is unsigned to us,
		// though servers take it for signed and drop such keys.
		r.attrs.set, r.attrs.hasExpiry = true, true
		r.attrs.expireAt = int64(binary.LittleEndian.Uint32(r.buf[r.pos:])) * 1000
		r.pos += 4
		return false, true
	case opSelectDB:
		db, ok := r.length()
		if !ok {
			return false, false
		}
		if db > math.MaxInt32 {
			return false, r.corrupt(fmt.Sprintf("it selects database %d", db))
		}
		r.selectDB(int(db))
		return false, true
	case opIdle:
		idle, ok := r.length()
		if !ok {
			return false, false
		}
		if idle > math.MaxInt64 {
			return false, r.corrupt(fmt.Sprintf("a key was idle for %d seconds", idle))
		}
		r.attrs.set, r.attrs.idle = true, int64(idle)
		return false, true
	case opFreq:
		if !r.need(1) {
			return false, r.starved()
		}
		r.attrs.set, r.attrs.freq = true, int(r.buf[r.pos])
		r.pos++
		return false, true
	case opAux:
		return true, r.nextAux()
	case opFunction:
		r.begin(KindFunction, code)
		r.frame, r.since = frameString, 10
		r.counts.functions++
		return true, true
	case opResizeDB:
		r.begin(KindResizeDB, code)
		return true, r.lengths(&r.entry.Keys, &r.entry.Expires)
	case opSlotInfo:
		r.begin(KindSlotInfo, code)
		return true, r.lengths(&r.entry.Slot, &r.entry.Keys, &r.entry.Expires)
	case opModuleAux:
		return true, r.nextModuleAux()
	case opKeyMeta: // == opSlotImport
		if r.dialect.Family == Valkey {
			r.begin(KindSlotImport, code)
			if r.entry.Key, ok = r.readString(&r.key, "name of a slot import"); !ok {
				return false, false
			}
			r.pinned = true
			r.frame = frameSlotRanges
			return true, true
		}
		return false, r.readMeta()
	case opHashTemplate:
		if r.dialect.Family == Valkey {
			break
		}
		r.begin(KindHashTemplate, code)
		return true, r.readTemplate()
	case opDragonflyMask:
		if r.encodings != redisOldEncodings {
			break
		}
		r.dialect.Family = Dragonfly
		return false, r.readDragonflyMask()
	case opZstd, opLZ4, opSyncEnd, opJournal, opJournalOffset, opVectorIndex, opDocIndex, opChunk:
		if code == opJournal && r.commands {
			return false, r.beginJournal()
		}
		if r.encodings != redisOldEncodings {
			break
		}
		r.dialect.Family = Dragonfly
		return r.dragonflyOpcode(code)
	case opEOF:
		return false, r.finish()
	}
	r.pos = at
	return false, r.unknown(code)
}

// unknown says what is known about a byte that is neither a type nor an opcode of this dialect.
func (r *Reader) unknown(code uint8) bool {
	switch {
	case code == opFunctionPreGA:
		return r.unsupported("a function as release candidates of Redis 7.0 wrote them; no released server loads it")
	case code == 6:
		return r.unsupported("a module value as release candidates of Redis 4.0 wrote them; no released server loads it")
	case code >= firstDragonflyOp && code <= lastDragonflyOp && r.encodings == redisOldEncodings:
		r.dialect.Family = Dragonfly
		return r.unsupported(fmt.Sprintf("opcode %d of a Dragonfly newer than 1.40", code))
	}
	return r.unsupported(fmt.Sprintf("unknown type or opcode %d in a stream of dialect %v", code, r.dialect))
}

func (r *Reader) nextAux() (ok bool) {
	r.begin(KindAux, opAux)
	if r.entry.Key, ok = r.readString(&r.key, "name of an aux fact"); !ok {
		return false
	}
	r.pinned = true
	if r.entry.Value, ok = r.readString(&r.value, "value of an aux fact"); !ok {
		return false
	}
	r.pinned = true
	if r.encodings == redisOldEncodings {
		switch string(r.entry.Key) {
		case "df-ver":
			r.dragonflyVersion = parseDragonflyVersion(string(r.entry.Value))
			fallthrough
		case "snapshot-id", "shard-id", "shard-count":
			r.dialect.Family = Dragonfly
		}
	}
	return true
}

func (r *Reader) selectDB(db int) {
	if db != r.db {
		r.db, r.counts.db = db, nil
	}
}

func (r *Reader) nextModuleAux() bool {
	r.begin(KindModuleAux, opModuleAux)
	var id, op, when uint64
	if !r.lengths(&id, &op, &when) {
		return false
	}
	if op != moduleUint {
		return r.corrupt(fmt.Sprintf("module aux data begin with item %d instead of %d", op, moduleUint))
	}
	r.entry.Module = ModuleID(id)
	r.auxWhen = when
	r.frame = frameModuleItems
	return r.countModule(r.entry.Module, 0, 1)
}

// readMeta keeps what modules attached to the next key, for its DUMP payload.
func (r *Reader) readMeta() bool {
	r.pos-- // the opcode belongs to it
	r.tee = sink{dst: r.meta[:0], limit: int(min(r.maxKey, math.MaxInt))}
	r.startTee()
	r.pos++
	n, ok := r.length()
	for i := uint64(0); ok && i < n; i++ {
		ok = r.skip(4) && r.skipModuleItems()
	}
	size := r.stopTee()
	r.meta, r.tee = r.tee.dst, sink{}
	if !ok {
		return false
	}
	if size > r.maxKey {
		return r.tooLarge("metadata of a key", uint64(size))
	}
	// Without a class it says nothing, and a payload without it suits older servers too.
	r.attrs.set, r.attrs.meta = true, n > 0
	return true
}

func (r *Reader) readDragonflyMask() bool {
	if !r.need(4) {
		return r.starved()
	}
	r.attrs.set, r.attrs.flags = true, binary.LittleEndian.Uint32(r.buf[r.pos:])
	r.pos += 4
	if r.attrs.flags&2 == 0 {
		return true
	}
	if !r.need(4) {
		return r.starved()
	}
	r.attrs.memcache = binary.LittleEndian.Uint32(r.buf[r.pos:])
	r.pos += 4
	return true
}

// finish reads what follows the EOF opcode. It returns false in any case, with err set to io.EOF if all is right.
func (r *Reader) finish() bool {
	if r.input != inputStream {
		return r.corrupt("the end of the stream within a block or a piece of a value")
	}
	r.settle()
	sum := r.sum
	if r.dialect.Version < 5 {
		// Nothing but its end proves such a stream. If more follows, its version is not what it says: one flipped bit
		// would else turn off the checksum.
		if r.need(1) {
			return r.corrupt(fmt.Sprintf("data follow the end of a stream of version %d, which has no checksum", r.dialect.Version))
		}
		if r.srcErr != io.EOF {
			return r.starved()
		}
		r.counts.checksum = ChecksumAbsent
		r.err = io.EOF
		return false
	}
	if !r.need(8) {
		return r.starved()
	}
	stored := binary.LittleEndian.Uint64(r.buf[r.pos:])
	switch stored {
	case 0:
		r.counts.checksum = ChecksumAbsent
	case sum:
		r.counts.checksum = ChecksumCRC64
	default:
		return r.corrupt(fmt.Sprintf("the checksum of what was read is %016x, the stream says %016x: something in it was changed", sum, stored))
	}
	r.pos += 8
	r.err = io.EOF
	return false
}
