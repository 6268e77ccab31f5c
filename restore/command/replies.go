package command

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/amberkv/amber/internal/clock"
)

// A replies reads replies and keeps nothing of them but lines: what was asked here is answered by a line, or the answer is of
// no interest.
type replies struct {
	src      io.Reader
	buf      []byte
	pos, end int
	extend   func() // is called before src is read, to put off its deadline
	patient  bool   // whether an answer is seen at once doesn't matter
	few      bool   // the last read brought little
}

// gather is how long answers are waited for beyond the first.
const gather = time.Millisecond

const repliesBuffer = 32 << 10

func newReplies(src io.Reader, extend func()) *replies {
	return &replies{src: src, buf: make([]byte, repliesBuffer), extend: extend}
}

// A reply is one reply. It holds until the next.
type reply struct {
	kind byte   // as on the wire: '+', '-', ':', '$', '*'; 0 if it is null
	n    int64  // of ':', and the length of '$' and '*'
	text []byte // of '+' and '-'
}

var statusOK = []byte("OK")

// next reads the next reply. An error reply is no error here.
func (r *replies) next() (reply, error) {
	// Nearly all there is.
	if b := r.buf[r.pos:r.end]; len(b) >= 5 && b[0] == '+' && b[1] == 'O' && b[2] == 'K' && b[3] == '\r' && b[4] == '\n' {
		r.pos += 5
		return reply{kind: '+', text: statusOK}, nil
	}
	return r.slow(0)
}

func (r *replies) slow(depth int) (reply, error) {
	line, err := r.line()
	if err != nil {
		return reply{}, err
	}
	if len(line) == 0 {
		return reply{}, errors.New("an empty line where a reply has to be")
	}
	kind, rest := line[0], line[1:]
	switch kind {
	case '+', '-':
		return reply{kind: kind, text: rest}, nil
	case ':', '$', '*':
	default:
		return reply{}, fmt.Errorf("a reply can't begin with %q", line[:min(len(line), 20)])
	}
	n, err := strconv.ParseInt(string(rest), 10, 64)
	switch {
	case err != nil:
		return reply{}, fmt.Errorf("%q is no number in a reply", line[:min(len(line), 20)])
	case kind == ':':
		return reply{kind: kind, n: n}, nil
	case n < 0:
		return reply{}, nil
	case kind == '$':
		return reply{kind: kind, n: n}, r.skip(n + 2)
	case depth > 16:
		return reply{}, errors.New("arrays nested too deep in a reply")
	}
	for range n {
		if _, err := r.slow(depth + 1); err != nil {
			return reply{}, err
		}
	}
	return reply{kind: kind, n: n}, nil
}

// line reads a line and returns it without its end.
func (r *replies) line() ([]byte, error) {
	from := 0
	for {
		if i := bytes.IndexByte(r.buf[r.pos+from:r.end], '\n'); i >= 0 {
			line := r.buf[r.pos : r.pos+from+i]
			r.pos += from + i + 1
			return bytes.TrimSuffix(line, []byte("\r")), nil
		}
		from = r.end - r.pos
		if err := r.fill(); err != nil {
			return nil, err
		}
	}
}

// skip passes n bytes.
func (r *replies) skip(n int64) error {
	for {
		has := min(int64(r.end-r.pos), n)
		r.pos += int(has)
		if n -= has; n == 0 {
			return nil
		}
		if err := r.fill(); err != nil {
			return err
		}
	}
}

// fill reads more.
func (r *replies) fill() error {
	if r.pos > 0 {
		copy(r.buf, r.buf[r.pos:r.end])
		r.pos, r.end = 0, r.end-r.pos
	}
	if r.end == len(r.buf) {
		return fmt.Errorf("a line of more than %d bytes in a reply", len(r.buf))
	}
	if r.extend != nil {
		r.extend()
	}
	// A server answers in small pieces, and each costs a system call: it is left to have some together.
	if r.few {
		clock.Pause(gather)
	}
	n, err := r.src.Read(r.buf[r.end:])
	r.end += n
	r.few = r.patient && n < len(r.buf)/8
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}
