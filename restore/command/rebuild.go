package command

import (
	"errors"
	"fmt"
	"iter"
	"strconv"

	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/rdb"
)

// capabilities say which commands the target was found to have, and how much it takes. They are asked once.
type capabilities struct {
	maxArg int64 // the longest argument and the longest string, in bytes: its proto-max-bulk-len; 0 means 512 MiB

	hset        bool // HSET takes several fields (Redis 4.0); otherwise HMSET is sent
	hpexpireat  bool // HPEXPIREAT (Redis 7.4, Valkey 9.0)
	hexpire     bool // HEXPIRE, for targets without HPEXPIREAT (Dragonfly): relative, in seconds
	pexpiretime bool // PEXPIRETIME (Redis 7.0)
	saddex      bool // SADDEX key seconds member… (Dragonfly)
	json        bool // JSON.SET (Dragonfly, and the JSON module)

	stream         bool // XADD, XGROUP, XCLAIM and XSETID (Redis 5.0)
	createConsumer bool // XGROUP CREATECONSUMER (6.2); otherwise an XREADGROUP that reads nothing is sent
	xsetidFull     bool // XSETID … ENTRIESADDED … MAXDELETEDID (7.0)
	entriesRead    bool // XGROUP CREATE … ENTRIESREAD (7.0)
	xcfgset        bool // XCFGSET (8.6)
	xidmprecord    bool // XIDMPRECORD (8.8)
}

// errNotRebuildable: no commands make a value of this type at the target. Nothing was emitted.
var errNotRebuildable = errors.New("the target has no commands that make such a value")

// lossStreamPending: of a stream, pending entries of groups whose entry was deleted meanwhile. XCLAIM, by which all others are made,
// leaves these out; RESTORE keeps them.
const lossStreamPending rdb.Loss = "stream-pending"

// A loss counts what of one value no command could express.
type loss struct {
	kind  rdb.Loss
	count int64 // fields, members, consumers, pending entries and so on
}

// A sizeError is a value, or a part of one, that is longer than any argument that the target takes.
type sizeError struct {
	what      string // such as "list item"
	key       []byte // in the backup
	db        int
	size, max int64 // in bytes
}

// Error names the key and the size, and what to do.
func (e *sizeError) Error() string {
	return fmt.Sprintf("%s of %d bytes in db %d, key %.128q: the target takes no argument of more than %d bytes; raise its proto-max-bulk-len",
		e.what, e.size, e.db, e.key, e.max)
}

// Limits of what is put into one command, and of what is emitted at once. A server does one command after the other, so that
// those of other clients wait for no more than this.
const (
	batchElements = 512
	batchBytes    = 64 << 10
	pieceBytes    = 1 << 20 // of a string
	keepBytes     = 2 << 20 // a buffer that one long element made larger is let go
)

// headRoom is left free at the front of the buffer for the number of arguments of a command, which is known at its end only.
const headRoom = 24

// A rebuilder makes commands of values, for targets that don't take the values' RESTORE payloads and for values that are too
// large for one. It is used by one goroutine. Its memory is bounded whatever a value holds: a buffer of about batchBytes, or of
// the longest single element; and for streams maxLive and maxPending.
type rebuilder struct {
	caps capabilities
	// emit is given one or more whole commands, in all about batchBytes or one piece of a string, unless one element is longer. The slice is
	// valid until it returns. Each command has one reply; one that is an error means that the value could not be made, any
	// other means success.
	emit func(commands []byte) error
	now  clock.Func // nil means clock.System

	putOff func(at int64) (parked int64, exact bool) // gives fields another expiry, for a while; nil if they get their own

	// About the last value, or the one under way.
	commands  int    // made; when emit is called, with those that it is given
	lost      []loss // what couldn't be expressed
	expired   int64  // fields or members that were past their own expiry, by now: the target deletes them, or they were not sent
	mayVanish bool   // each element has an expiry of its own, so that the key can be gone before, or as soon as, it is complete

	buf    []byte // headRoom bytes, then commands
	start  int    // of the commands in buf
	open   bool   // the first command in buf has no number of arguments yet
	args   int    // of the open command so far
	inside bool   // the last argument goes on with the next element

	entry  *rdb.Entry
	key    []byte // as an argument
	later  []byte // arguments for commands that follow the open one, or that are not begun yet
	due    []due
	text   [48]byte // numbers and ids
	stream streamBuilder
}

// A due is an argument in buf or later, of an element that expires.
type due struct {
	at        int64 // Unix milliseconds or seconds from now, as the command takes it
	from, end int
}

// rebuildable returns errNotRebuildable, wrapped with the type, if value can't make what the entry holds.
func (c *capabilities) rebuildable(e *rdb.Entry) error {
	switch e.Type {
	case rdb.TypeString, rdb.TypeList, rdb.TypeSet, rdb.TypeZSet, rdb.TypeHash:
		return nil
	case rdb.TypeStream:
		if c.stream {
			return nil
		}
	case rdb.TypeJSON:
		if c.json {
			return nil
		}
	case rdb.TypeModule:
		return fmt.Errorf("value of module type %s: %w", e.Module.Name(), errNotRebuildable)
	}
	return fmt.Errorf("value of type %s: %w", e.Type, errNotRebuildable)
}

// longest is the longest argument that the target takes.
func (c *capabilities) longest() int64 {
	if c.maxArg > 0 {
		return c.maxArg
	}
	return 512 << 20
}

// value makes the value of e as key name, which must not exist. It reads the elements to their end and returns how many commands it
// made. What is not the value's alone is left to the caller: the key's own expiry, its database, RENAME.
//
// Where the error is errNotRebuildable nothing was emitted. After any other the key may be there in part.
func (b *rebuilder) value(name []byte, e *rdb.Entry, elements iter.Seq2[*rdb.Element, error]) (commands int, err error) {
	b.begin(name, e)
	if err := b.caps.rebuildable(e); err != nil {
		return 0, err
	}
	switch e.Type {
	case rdb.TypeString:
		err = b.makeString(elements)
	case rdb.TypeList:
		err = b.makeList(elements)
	case rdb.TypeSet:
		err = b.makeSet(elements)
	case rdb.TypeZSet:
		err = b.makeZSet(elements)
	case rdb.TypeHash:
		err = b.makeHash(elements)
	case rdb.TypeStream:
		err = b.makeStream(elements)
	case rdb.TypeJSON:
		b.command(4, "JSON.SET")
		b.word("$")
		err = b.makeWhole("JSON document", elements)
	}
	return b.commands, b.end(err)
}

// end emits what is left, unless an error came before.
func (b *rebuilder) end(err error) error {
	switch {
	case err != nil:
		return err
	case b.inside:
		return b.cut()
	}
	return b.finish()
}

// cut is the error of a value whose elements end too early.
func (b *rebuilder) cut() error {
	return fmt.Errorf("the value in db %d, key %.128q, ends within an element", b.entry.DB, b.entry.Key)
}

// function makes FUNCTION LOAD REPLACE of a library's source.
func (b *rebuilder) function(e *rdb.Entry, elements iter.Seq2[*rdb.Element, error]) (commands int, err error) {
	b.begin(nil, e)
	b.key = b.key[:0]
	b.command(4, "FUNCTION", "LOAD", "REPLACE")
	return b.commands, b.end(b.makeWhole("source of a function library", elements))
}

func (b *rebuilder) begin(name []byte, e *rdb.Entry) {
	b.entry = e
	b.commands, b.expired, b.mayVanish = 0, 0, false
	b.lost = b.lost[:0]
	b.key = appendArg(b.key[:0], name)
	b.open, b.inside = false, false
	b.later, b.due = b.later[:0], b.due[:0]
	b.reset()
}

// lose takes note of something that no command expresses.
func (b *rebuilder) lose(kind rdb.Loss, count int64) {
	for i := range b.lost {
		if b.lost[i].kind == kind {
			b.lost[i].count += count
			return
		}
	}
	b.lost = append(b.lost, loss{kind, count})
}

// millis is the time now in Unix milliseconds.
func (b *rebuilder) millis() int64 { return clock.Or(b.now)().UnixMilli() }

// fits returns an error if an argument is too long.
func (b *rebuilder) fits(size int64, what string) error {
	if longest := b.caps.longest(); size > longest {
		return &sizeError{what, b.entry.Key, b.entry.DB, size, longest}
	}
	return nil
}

// reset empties the buffer.
func (b *rebuilder) reset() {
	if b.buf == nil || cap(b.buf) > keepBytes {
		b.buf = make([]byte, headRoom, headRoom+batchBytes+batchBytes/4)
	}
	b.buf, b.start = b.buf[:headRoom], headRoom
}

// flush completes the open command and emits what is in the buffer.
func (b *rebuilder) flush() error {
	b.close()
	if len(b.buf) == headRoom {
		return nil
	}
	if err := b.emit(b.buf[b.start:]); err != nil {
		return err
	}
	b.reset()
	return nil
}

// full tells whether it is time to flush.
func (b *rebuilder) full() bool { return len(b.buf) >= batchBytes }

// openCommand begins a command about the key whose arguments are counted as they come. The buffer has to be empty.
func (b *rebuilder) openCommand(name string) {
	b.open, b.args = true, 2
	b.word(name)
	b.buf = append(b.buf, b.key...)
}

// close completes the open command: its head goes right before its arguments.
func (b *rebuilder) close() {
	if !b.open {
		return
	}
	b.open = false
	b.commands++
	head := appendHead(b.text[:0], '*', int64(b.args))
	b.start = headRoom - len(head)
	copy(b.buf[b.start:], head)
}

// command begins a command of n arguments, of which its name and the key are the first.
func (b *rebuilder) command(n int, name ...string) {
	b.commands++
	b.buf = appendHead(b.buf, '*', int64(n))
	for _, s := range name {
		b.word(s)
	}
	b.buf = append(b.buf, b.key...)
}

func (b *rebuilder) arg(p []byte) { b.buf = appendArg(b.buf, p) }

func (b *rebuilder) word(s string) {
	b.buf = append(append(appendHead(b.buf, '$', int64(len(s))), s...), '\r', '\n')
}

func (b *rebuilder) number(n int64) { b.arg(appendInt(b.text[:0], n)) }

func (b *rebuilder) id(id rdb.StreamID) { b.arg(id.AppendText(b.text[:0])) }

// piece appends the value of an element as an argument, or the next piece of it.
func (b *rebuilder) piece(e *rdb.Element, what string) error {
	if !b.inside {
		size := int64(len(e.Value))
		if e.More {
			size += e.Left
		}
		if err := b.fits(size, what); err != nil {
			return err
		}
		b.buf = appendHead(b.buf, '$', size)
	}
	b.buf = append(b.buf, e.Value...)
	if b.inside = e.More; !e.More {
		b.buf = append(b.buf, '\r', '\n')
	}
	return nil
}

// makeWhole completes a command whose last argument is the whole value.
func (b *rebuilder) makeWhole(what string, elements iter.Seq2[*rdb.Element, error]) error {
	any := false
	for e, err := range elements {
		if err != nil {
			return err
		}
		any = true
		if err := b.piece(e, what); err != nil {
			return err
		}
	}
	if !any {
		return b.cut()
	}
	return nil
}

// appendHead appends the line that begins an argument or a command.
func appendHead(b []byte, kind byte, n int64) []byte {
	return append(appendInt(append(b, kind), n), '\r', '\n')
}

// appendArg appends an argument.
func appendArg(b, p []byte) []byte {
	return append(append(appendHead(b, '$', int64(len(p))), p...), '\r', '\n')
}

// appendInt appends a number.
func appendInt(b []byte, n int64) []byte { return strconv.AppendInt(b, n, 10) }
