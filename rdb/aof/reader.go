package aof

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"time"

	"github.com/amberkv/amber/rdb"
)

// Options are the rare choices of NewReader. The zero value means the defaults.
type Options struct {
	// MaxHeld is how many bytes of one command are held in memory; of a larger one the rest is read by Reader.Arg. 0 means 16 MiB.
	MaxHeld int
}

const (
	defaultMaxHeld = 16 << 20
	bufferSize     = 256 << 10 // a system call for each costs nothing, and it stays in a core's second-level cache
	perArg         = 40        // bytes that an argument takes besides its own
	maxDigits      = 18        // of a length
	maxNote        = 1024      // bytes of an annotation, as redis-check-aof has it
	maxArgs        = 1<<31 - 1 // of a command: servers count them in an int
)

// A Kind says what an Entry is.
type Kind uint8

// The kinds of entries.
const (
	KindCommand    Kind = iota + 1 // to be executed
	KindAnnotation                 // says something about what follows: "#TS:1700000000" when it was written
)

// An Entry is a command or an annotation. It and what it holds are the reader's, and stay until the next call of Next or Arg.
type Entry struct {
	Kind   Kind
	Offset int64 // of its first byte, from the start of the file

	// Of a command. DB is the database that it runs in; of SELECT the one that it selects. Multi says that it belongs to a transaction, which MULTI
	// begins and EXEC ends. Args are its name and arguments; Rest is how many more there are, which are too large to be held and are to
	// be read by Reader.Arg, or passed by Next.
	DB    int
	Multi bool
	Args  [][]byte
	Rest  int

	// Of an annotation: without its # and the end of the line, and the time if it is one that tells it.
	Text []byte
	Time time.Time
}

// Stats tells what a reader has seen so far. A command counts as soon as Next returned it.
type Stats struct {
	Commands     int64     // without SELECT, MULTI and EXEC
	Transactions int64     // that were ended by EXEC
	Time         time.Time // the last that an annotation told; zero if none did
}

// A Reader reads an append-only file entry by entry, in memory that doesn't depend on the data. It is used by one goroutine.
type Reader struct {
	src    io.Reader
	srcErr error // what ended src

	buf      []byte
	pos, end int   // the bytes at hand are buf[pos:end]; an entry that is being read begins at pos
	base     int64 // the offset of buf[0] in the file
	maxHeld  int

	begun    bool
	preamble *rdb.Reader // nil: there is none
	passed   bool        // the preamble was read, and what followed it is in buf

	entry Entry
	size  int    // of the entry, as far as it is held: it is consumed by the next call
	spans []span // of its arguments
	arg   argument
	whole int64
	multi bool
	db    int
	stats Stats
	err   error // what every later Next returns
}

// span is where an argument lies, from pos on.
type span struct{ from, to int }

// NewReader returns a Reader of the file that src gives. It doesn't read yet. A nil opts means the defaults.
func NewReader(src io.Reader, opts *Options) *Reader { return newReader(src, opts, bufferSize) }

func newReader(src io.Reader, opts *Options, size int) *Reader {
	r := &Reader{src: src, maxHeld: defaultMaxHeld, buf: make([]byte, size)}
	if opts != nil && opts.MaxHeld > 0 {
		r.maxHeld = opts.MaxHeld
	}
	return r
}

// Whole returns up to where the file is sound, as far as it was read, in bytes: the end of its last whole command outside of an open transaction. A server whose
// last file goes on behind that cuts it there when it starts.
func (r *Reader) Whole() int64 { return r.whole }

// Offset returns how many bytes of the file are read.
func (r *Reader) Offset() int64 { return r.base + int64(r.pos) + int64(r.size) }

// Stats returns what was seen so far.
func (r *Reader) Stats() Stats { return r.stats }

// Preamble returns a reader of the RDB file that this one begins with, or nil if it begins with commands. It is to be called before the first Next,
// which passes what is left of the preamble and checks it.
func (r *Reader) Preamble() (*rdb.Reader, error) {
	if r.err != nil {
		return nil, r.err
	}
	if !r.begun {
		if err := r.begin(); err != nil {
			return nil, err
		}
	}
	return r.preamble, nil
}

// Entries returns the entries that are left. It ends after the first error, which is never io.EOF.
func (r *Reader) Entries() iter.Seq2[*Entry, error] {
	return func(yield func(*Entry, error) bool) {
		for {
			e, err := r.Next()
			if err == io.EOF || !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// Next returns the next entry. At the end of the file it returns io.EOF; if that is in the middle of a command or transaction a *TruncatedError. What no
// server writes is a *CorruptError, and an error of the source is passed on. After an error it returns the same again.
func (r *Reader) Next() (*Entry, error) {
	if r.err != nil {
		return nil, r.err
	}
	if !r.next() {
		return nil, r.err
	}
	return &r.entry, nil
}

func (r *Reader) next() bool {
	if !r.begun && r.begin() != nil || r.preamble != nil && !r.passed && !r.pass() || !r.leave() {
		return false
	}
	if r.pos == r.end && !r.more() {
		switch {
		case r.srcErr != io.EOF:
			return r.starved("a command")
		case r.multi:
			return r.starved("a transaction")
		}
		r.err = io.EOF
		return false
	}
	r.entry = Entry{Offset: r.base + int64(r.pos), Args: r.entry.Args[:0]}
	switch c := r.buf[r.pos]; c {
	case '*':
		return r.command()
	case '#':
		return r.annotation()
	default:
		return r.corrupt(0, fmt.Sprintf("a command begins with '*', and here is %q", c))
	}
}

// begin looks whether there is a preamble.
func (r *Reader) begin() error {
	r.begun = true
	for r.end < 6 && r.more() {
	}
	if head := r.buf[:r.end]; bytes.HasPrefix(head, []byte("REDIS")) || bytes.HasPrefix(head, []byte("VALKEY")) {
		r.preamble = rdb.NewReader(&source{r: r, begin: bytes.Clone(head)}, nil)
		r.pos = r.end
		return nil
	}
	if r.srcErr != nil && r.srcErr != io.EOF {
		r.starved("its beginning")
		return r.err
	}
	return nil
}

// source is what a preamble is read from.
type source struct {
	r     *Reader
	begin []byte
}

func (s *source) Read(p []byte) (int, error) {
	if len(s.begin) > 0 {
		n := copy(p, s.begin)
		s.begin = s.begin[n:]
		return n, nil
	}
	if s.r.srcErr != nil {
		return 0, s.r.srcErr
	}
	n, err := s.r.src.Read(p)
	if err != nil {
		s.r.srcErr = err
	}
	return n, err
}

// pass reads what is left of the preamble, and takes over what its reader has read ahead.
func (r *Reader) pass() bool {
	for {
		_, err := r.preamble.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			if r.srcErr != nil && r.srcErr != io.EOF {
				return r.starved("the preamble")
			}
			r.err = &CorruptError{Offset: r.preamble.Offset(), Why: "the RDB file that it begins with: " + err.Error(), Err: err}
			return false
		}
	}
	ahead := r.preamble.Buffered()
	if len(ahead) > len(r.buf) {
		r.buf = make([]byte, len(ahead))
	}
	r.pos, r.end = 0, copy(r.buf, ahead)
	r.base = r.preamble.Offset()
	r.whole = r.base
	r.passed = true
	return true
}

// leave consumes the current entry, with the arguments of it that nobody read.
func (r *Reader) leave() bool {
	r.pos += r.size
	r.size = 0
	if r.entry.Rest == 0 && !r.arg.open {
		return true
	}
	for r.arg.open || r.entry.Rest > 0 {
		if !r.arg.open && !r.openArg() {
			return false
		}
		if !r.arg.skip() {
			return false
		}
	}
	if !r.multi {
		r.whole = r.base + int64(r.pos)
	}
	return true
}

// command reads a command that begins at pos.
func (r *Reader) command() bool {
	e := &r.entry
	e.Kind = KindCommand
	n, at, ok := r.number(0, '*')
	if !ok {
		return false
	}
	if n < 1 || n > maxArgs {
		return r.corrupt(0, fmt.Sprintf("a command of %d arguments", n))
	}
	r.spans = r.spans[:0]
	for range int(n) {
		size, from, ok := r.number(at, '$')
		if !ok {
			return false
		}
		if size > int64(r.maxHeld) || from+int(size)+2+len(r.spans)*perArg > r.maxHeld {
			break
		}
		to := from + int(size)
		for r.end-r.pos < to+2 {
			if !r.more() {
				return r.starved("a command")
			}
		}
		if b := r.buf[r.pos+to:]; b[0] != '\r' || b[1] != '\n' {
			return r.corrupt(to, "an argument doesn't end where its length says")
		}
		r.spans = append(r.spans, span{from, to})
		at = to + 2
	}
	for _, s := range r.spans {
		e.Args = append(e.Args, r.buf[r.pos+s.from:r.pos+s.to])
	}
	e.Rest = int(n) - len(r.spans)
	r.size = at
	return r.meaning()
}

// meaning keeps up what commands say about those that follow.
func (r *Reader) meaning() bool {
	e := &r.entry
	if len(e.Args) == 0 {
		return r.corrupt(0, "the name of a command is longer than what is held of one")
	}
	counts := true
	e.Multi = r.multi
	switch name := e.Args[0]; len(name) {
	case 4:
		if bytes.EqualFold(name, []byte("EXEC")) {
			if !r.multi {
				return r.corrupt(0, "EXEC without MULTI")
			}
			r.multi, counts = false, false
			r.stats.Transactions++
		}
	case 5:
		if bytes.EqualFold(name, []byte("MULTI")) {
			if r.multi {
				return r.corrupt(0, "MULTI within a transaction")
			}
			r.multi, e.Multi, counts = true, true, false
		}
	case 6:
		if bytes.EqualFold(name, []byte("SELECT")) {
			if len(e.Args) != 2 || e.Rest > 0 {
				return r.corrupt(0, "SELECT without a database")
			}
			db, err := strconv.ParseUint(string(e.Args[1][:min(len(e.Args[1]), 20)]), 10, 31)
			if err != nil {
				return r.corrupt(0, fmt.Sprintf("SELECT of %.20q", e.Args[1]))
			}
			r.db, counts = int(db), false
		}
	}
	e.DB = r.db
	if counts {
		r.stats.Commands++
	}
	if !r.multi && e.Rest == 0 {
		r.whole = r.Offset()
	}
	return true
}

// annotation reads a line that begins at pos.
func (r *Reader) annotation() bool {
	var n int
	for from := 0; ; {
		b := r.buf[r.pos:r.end]
		if i := bytes.IndexByte(b[from:], '\n'); i >= 0 {
			n = from + i + 1
			break
		}
		if from = len(b); from > maxNote {
			break
		}
		if !r.more() {
			return r.starved("an annotation")
		}
	}
	if n == 0 || n > maxNote {
		return r.corrupt(0, fmt.Sprintf("an annotation of more than %d bytes", maxNote))
	}
	e := &r.entry
	e.Kind, e.DB, e.Multi = KindAnnotation, r.db, r.multi
	e.Text = bytes.TrimSuffix(r.buf[r.pos+1:r.pos+n-1], []byte("\r"))
	if at, ok := bytes.CutPrefix(e.Text, []byte("TS:")); ok {
		seconds, err := strconv.ParseUint(string(at[:min(len(at), 20)]), 10, 40)
		if err != nil {
			return r.corrupt(0, fmt.Sprintf("an annotation tells the time as %.20q", at))
		}
		e.Time = time.Unix(int64(seconds), 0).UTC()
		r.stats.Time = e.Time
	}
	r.size = n
	if !r.multi {
		r.whole = r.Offset()
	}
	return true
}

// number reads a line of a sign and a number that begins so many bytes behind pos, and tells where the next begins.
func (r *Reader) number(at int, sign byte) (n int64, next int, ok bool) {
	i := at
	for {
		b := r.buf[r.pos:r.end]
		for ; i < len(b); i++ {
			switch c := b[i]; {
			case i == at:
				if c != sign {
					return 0, 0, r.corrupt(i, fmt.Sprintf("%q is needed, and here is %q", sign, c))
				}
			case c >= '0' && c <= '9':
				if i-at > maxDigits || b[i-1] == '\r' {
					return 0, 0, r.corrupt(at, "a length is no number")
				}
				n = n*10 + int64(c-'0')
			case c == '\r' && b[i-1] != '\r' && i > at+1:
			case c == '\n' && b[i-1] == '\r':
				return n, i + 1, true
			default:
				return 0, 0, r.corrupt(at, "a length is no number")
			}
		}
		if !r.more() {
			return 0, 0, r.starved("a command")
		}
	}
}

// more reads once behind the bytes at hand. It makes room for that first, by moving them or by growing.
func (r *Reader) more() bool {
	if r.srcErr != nil {
		return false
	}
	if r.end == len(r.buf) {
		switch {
		case r.pos > 0:
			copy(r.buf, r.buf[r.pos:r.end])
			r.base += int64(r.pos)
			r.end -= r.pos
			r.pos = 0
		default:
			grown := make([]byte, 2*len(r.buf))
			copy(grown, r.buf)
			r.buf = grown
		}
	}
	for range 100 {
		n, err := r.src.Read(r.buf[r.end:])
		if n < 0 || n > len(r.buf)-r.end {
			n, err = 0, errBadReader
		}
		r.end += n
		if err != nil {
			r.srcErr = err
		}
		if n > 0 {
			return true
		}
		if err != nil {
			return false
		}
	}
	r.srcErr = io.ErrNoProgress
	return false
}

// errBadReader is the error of a source that breaks the rules of io.Reader.
var errBadReader = errors.New("source returned an impossible number of bytes")

// starved says that the source has no more.
func (r *Reader) starved(within string) bool {
	if r.srcErr != io.EOF {
		r.err = fmt.Errorf("aof: reading behind byte %d: %w", r.base+int64(r.end), r.srcErr)
		return false
	}
	r.err = &TruncatedError{Whole: r.whole, Size: r.base + int64(r.end), Within: within}
	return false
}

// corrupt says what is wrong so many bytes behind pos.
func (r *Reader) corrupt(at int, why string) bool {
	r.err = &CorruptError{Offset: r.base + int64(r.pos+at), Why: why}
	return false
}
