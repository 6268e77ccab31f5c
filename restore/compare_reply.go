package restore

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/amberkv/amber/internal/resp"
)

// answers reads replies piece by piece, and holds them against what is wanted while they come in: so an answer of any size takes no
// more memory than a buffer.
type answers struct {
	r     *resp.Reader
	line  string // of a status or an error
	buf   []byte
	kind  resp.Kind
	diff  int64  // the first byte that differs for equal
	from  int64  // the byte from which on it is shown
	first []byte // what is shown of it
}

// maxAnswer is the longest string that is read as a whole: names. Of longer ones it is the beginning.
const maxAnswer = 4 * compareReplies

var errNoReply = errors.New("not a reply")

// head reads how a reply begins: its kind, and its number, length or count. What is null has none.
func (a *answers) head() (resp.Kind, int64, error) {
	line, err := a.r.ReadLine()
	if err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return 0, 0, err
	}
	if len(line) == 0 {
		return 0, 0, errNoReply
	}
	kind := resp.Kind(line[0])
	switch kind {
	case resp.Status, resp.Failure:
		a.line = string(line[1:])
		return kind, 0, nil
	case resp.Integer, resp.Bulk, resp.Array:
		n, ok := parseInt(line[1:])
		if !ok || kind != resp.Integer && n < -1 {
			return 0, 0, errNoReply
		}
		if kind != resp.Integer && n < 0 {
			return resp.Null, 0, nil
		}
		return kind, n, nil
	}
	return 0, 0, fmt.Errorf("%w: it begins with %q", errNoReply, line[:1])
}

func parseInt(p []byte) (n int64, ok bool) {
	if len(p) == 0 || len(p) > 18 {
		n, err := strconv.ParseInt(string(p), 10, 64)
		return n, err == nil
	}
	negative := p[0] == '-'
	if negative {
		p = p[1:]
	}
	for _, c := range p {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	if negative {
		n = -n
	}
	return n, len(p) > 0
}

// equal reads what is left of a reply and tells whether it is a string, and which.
func (a *answers) equal(kind resp.Kind, n int64, want []byte) (bool, error) {
	a.kind, a.from, a.first = kind, 0, a.first[:0]
	if kind != resp.Bulk {
		return false, a.rest(kind, n)
	}
	same := true
	for at := int64(0); at < n; {
		p := a.buffer(min(n-at, 32<<10))
		if _, err := io.ReadFull(a.r, p); err != nil {
			return false, err
		}
		w := want[min(at, int64(len(want))):min(at+int64(len(p)), int64(len(want)))]
		switch {
		case same && !bytes.Equal(p, w):
			same = false
			i := 0
			for i < len(w) && p[i] == w[i] {
				i++
			}
			if a.diff = at + int64(i); a.diff < 24 {
				i = 0 // short ones from their beginning; this is in the first piece
			}
			a.from = at + int64(i)
			a.first = append(a.first, p[i:min(len(p), i+33)]...)
		case !same && len(a.first) < 33:
			a.first = append(a.first, p[:min(len(p), 33-len(a.first))]...)
		}
		at += int64(len(p))
	}
	if same && n < int64(len(want)) {
		same, a.from, a.diff = false, n, n
		if n < 24 {
			a.from, a.first = 0, append(a.first, want[:n]...)
		}
	}
	return same, a.crlf()
}

// differs says how what equal read differs from what is wanted, which begins at a byte of the value.
func (a *answers) differs(at int64, want []byte) string {
	if a.kind != resp.Bulk {
		return "is nothing, the backup has " + short(want)
	}
	where := ""
	if at += a.from; at > 0 {
		where = fmt.Sprintf("from byte %d on ", at)
	}
	return fmt.Sprintf("%sis %s, the backup has %s", where, quoteUpTo(string(a.first), 32), short(want[min(a.from, int64(len(want))):]))
}

// bulk reads a reply and tells whether it is a string, and which.
func (a *answers) bulk(want []byte) (bool, error) {
	kind, n, err := a.head()
	if err != nil {
		return false, err
	}
	return a.equal(kind, n, want)
}

func (a *answers) buffer(n int64) []byte {
	if int64(cap(a.buf)) < n {
		a.buf = make([]byte, n)
	}
	return a.buf[:n]
}

// copy reads what is left of a string.
func (a *answers) copy(w io.Writer, n int64) error {
	for n > 0 {
		p := a.buffer(min(n, 32<<10))
		if _, err := io.ReadFull(a.r, p); err != nil {
			return err
		}
		w.Write(p) // a hash, or nothing at all
		n -= int64(len(p))
	}
	return a.crlf()
}

func (a *answers) crlf() error {
	var end [2]byte
	if _, err := io.ReadFull(a.r, end[:]); err != nil {
		return err
	}
	if end != [2]byte{'\r', '\n'} {
		return errNoReply
	}
	return nil
}

// take reads what is left of a string, and returns it until the next call.
func (a *answers) take(n int64) ([]byte, error) {
	if n > maxAnswer {
		p := bytes.Clone(a.buffer(0))
		return p, a.copy(io.Discard, n)
	}
	p := a.buffer(n)
	if _, err := io.ReadFull(a.r, p); err != nil {
		return nil, err
	}
	return p, a.crlf()
}

// text reads a string, and returns it until the next call.
func (a *answers) text() ([]byte, error) {
	kind, n, err := a.head()
	if err != nil {
		return nil, err
	}
	if kind != resp.Bulk {
		return nil, a.rest(kind, n)
	}
	return a.take(n)
}

// integer reads a number, also one that is written as a string.
func (a *answers) integer() (int64, error) {
	kind, n, err := a.head()
	if err == nil && kind == resp.Bulk {
		p, err := a.take(n)
		if err != nil {
			return 0, err
		}
		n, ok := parseInt(p)
		if !ok {
			return 0, errUnexpectedReply
		}
		return n, nil
	}
	if err == nil && kind != resp.Integer {
		err = errUnexpectedReply
	}
	return n, err
}

// integerOr reads a number, or returns another if the reply is none.
func (a *answers) integerOr(none int64) (int64, error) {
	kind, n, err := a.head()
	if err == nil && kind != resp.Integer {
		return none, a.rest(kind, n)
	}
	return n, err
}

// rest skips what is left of a reply.
func (a *answers) rest(kind resp.Kind, n int64) error {
	switch kind {
	case resp.Bulk:
		return a.copy(io.Discard, n)
	case resp.Array:
		return a.skipAll(n)
	}
	return nil
}

// skipAll skips replies, with all that is in them.
func (a *answers) skipAll(n int64) error {
	for n > 0 {
		kind, count, err := a.head()
		if err != nil {
			return err
		}
		n--
		if kind == resp.Array {
			n += count
		} else if err := a.rest(kind, count); err != nil {
			return err
		}
	}
	return nil
}

// pairs reads names with a value behind each. The function tells whether it read the value.
func (a *answers) pairs(n int64, f func(name string) (bool, error)) error {
	for ; n >= 2; n -= 2 {
		name, err := a.text()
		if err != nil {
			return err
		}
		switch read, err := f(string(name)); {
		case err != nil:
			return err
		case !read:
			if err := a.skipAll(1); err != nil {
				return err
			}
		}
	}
	return a.skipAll(n)
}

// libraries reads the answer to FUNCTION LIST WITHCODE and takes away the libraries that are there.
func (a *answers) libraries(missing map[[32]byte]string) error {
	kind, n, err := a.head()
	if err != nil {
		return err
	}
	if kind == resp.Failure {
		return serverError(a.line)
	}
	for range n {
		_, parts, err := a.head()
		if err != nil {
			return err
		}
		err = a.pairs(parts, func(name string) (bool, error) {
			if name != "library_code" {
				return false, nil
			}
			kind, size, err := a.head()
			if err != nil {
				return true, err
			}
			if kind != resp.Bulk {
				return true, a.rest(kind, size)
			}
			sum := sha256.New()
			if err := a.copy(sum, size); err != nil {
				return true, err
			}
			delete(missing, [32]byte(sum.Sum(nil)))
			return true, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
