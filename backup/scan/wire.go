package scan

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/amberkv/amber/backup/internal/link"
	"github.com/amberkv/amber/internal/resp"
)

// wireBuffer is how much of the answers is read at a time, and maxLine the longest line among them.
const (
	wireBuffer = 128 << 10
	maxLine    = 64 << 10
)

// A wire is the connection while it is scanned over: one goroutine reads answers and says what to send, another sends.
type wire struct {
	conn  *link.Conn
	stall time.Duration
	rate  *bucket // of bytes received
	buf   []byte
	r, w  int // what of buf is received and not yet read

	out    []byte // commands that are not yet given to the sender
	mu     sync.Mutex
	queue  []byte        // given
	wake   chan struct{} // there is something in queue
	quit   chan struct{}
	done   chan struct{}
	closed bool
}

func newWire(c *link.Conn, stall time.Duration) *wire {
	w := &wire{conn: c, stall: stall, buf: make([]byte, wireBuffer), wake: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{})}
	go w.send()
	return w
}

// send writes to the connection what is in the queue, until stop. It has a goroutine of its own, for a server may stop reading as long as its answers aren't read.
// A failure is not told: whoever waits for the answer meets it, too.
func (w *wire) send() {
	defer close(w.done)
	var buf []byte
	for {
		select {
		case <-w.wake:
		case <-w.quit:
			return
		}
		w.mu.Lock()
		buf, w.queue = w.queue, buf[:0]
		w.mu.Unlock()
		if len(buf) > 0 {
			if _, err := w.conn.Write(buf); err != nil {
				return
			}
		}
	}
}

// release ends the sender. All that was sent has to be answered.
func (w *wire) release() {
	if !w.closed {
		w.closed = true
		close(w.quit)
	}
	<-w.done
}

// stop closes the connection and ends the sender.
func (w *wire) stop() {
	w.conn.Close()
	w.release()
}

// flush gives the sender what was appended to out.
func (w *wire) flush() {
	if len(w.out) == 0 {
		return
	}
	w.mu.Lock()
	w.queue = append(w.queue, w.out...)
	w.mu.Unlock()
	w.out = w.out[:0]
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// more receives at least one byte. There has to be room behind w.w.
func (w *wire) more() error {
	w.flush()
	w.conn.Within(w.stall)
	n, err := w.conn.R.Read(w.buf[w.w:])
	w.w += n
	w.rate.take(n)
	if n > 0 {
		return nil
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// peek returns the next n bytes, at most maxLine, without reading them. They hold until the next call of a method.
func (w *wire) peek(n int) ([]byte, error) {
	for w.w-w.r < n {
		if w.r > 0 && len(w.buf)-w.r < n+512 {
			w.w = copy(w.buf, w.buf[w.r:w.w])
			w.r = 0
		}
		if err := w.more(); err != nil {
			return nil, err
		}
	}
	return w.buf[w.r : w.r+n], nil
}

// line reads a line and returns it without its ending. It holds until the next call of a method.
func (w *wire) line() ([]byte, error) {
	from := 0
	for {
		if i := bytes.IndexByte(w.buf[w.r+from:w.w], '\n'); i >= 0 {
			line := w.buf[w.r : w.r+from+i]
			w.r += from + i + 1
			if n := len(line); n > 0 && line[n-1] == '\r' {
				line = line[:n-1]
			}
			if len(line) == 0 {
				return nil, w.bad("an empty line")
			}
			return line, nil
		}
		from = w.w - w.r
		if from > maxLine {
			return nil, w.bad("a line of more than 64 KiB")
		}
		if w.r > 0 {
			w.w = copy(w.buf, w.buf[w.r:w.w])
			w.r = 0
		}
		if err := w.more(); err != nil {
			return nil, err
		}
	}
}

// read fills p.
func (w *wire) read(p []byte) error {
	n := copy(p, w.buf[w.r:w.w])
	w.r += n
	for n < len(p) {
		if len(p)-n < wireBuffer/2 {
			w.r, w.w = 0, 0
			if err := w.more(); err != nil {
				return err
			}
			k := copy(p[n:], w.buf[:w.w])
			w.r = k
			n += k
			continue
		}
		w.flush()
		w.conn.Within(w.stall)
		k, err := w.conn.R.Read(p[n:min(len(p), n+1<<20)])
		n += k
		w.rate.take(k)
		if k == 0 {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// end reads the end of a line behind a bulk string.
func (w *wire) end() error {
	b, err := w.peek(2)
	if err != nil {
		return err
	}
	if b[0] != '\r' || b[1] != '\n' {
		return w.bad(fmt.Sprintf("%q where a string has to end", b))
	}
	w.r += 2
	return nil
}

// skip reads n bytes and forgets them.
func (w *wire) skip(n int64) error {
	for n > 0 {
		if w.r == w.w {
			w.r, w.w = 0, 0
			if err := w.more(); err != nil {
				return err
			}
		}
		k := min(n, int64(w.w-w.r))
		w.r += int(k)
		n -= k
	}
	return nil
}

func (w *wire) bad(what string) error { return fmt.Errorf("%w: %s", resp.ErrProtocol, what) }

// head reads the line that a reply begins with: its kind, and the number that follows where there is one. An error reply is a resp.Error. The text of a status
// is not kept.
func (w *wire) head() (kind resp.Kind, n int64, err error) {
	line, err := w.line()
	if err != nil {
		return 0, 0, err
	}
	switch kind = resp.Kind(line[0]); kind {
	case resp.Status:
		return kind, 0, nil
	case resp.Failure:
		return kind, 0, w.conn.Reply(resp.Error(line[1:]))
	case resp.Integer, resp.Bulk, resp.Array:
		if n, ok := number(line[1:]); ok && (kind == resp.Integer || n >= -1) {
			return kind, n, nil
		}
	}
	return 0, 0, w.bad(fmt.Sprintf("a reply can't begin with %q", line[:min(len(line), 32)]))
}

// number parses a decimal.
func number(b []byte) (n int64, ok bool) {
	if len(b) > 18 || len(b) == 0 {
		n, err := strconv.ParseInt(string(b), 10, 64)
		return n, err == nil
	}
	neg := b[0] == '-'
	if neg {
		b = b[1:]
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int64(c-'0')
	}
	if neg {
		n = -n
	}
	return n, len(b) > 0
}

// want reads a head that has to be of a kind.
func (w *wire) want(kind resp.Kind) (int64, error) {
	got, n, err := w.head()
	if err == nil && got != kind {
		err = w.bad(fmt.Sprintf("a reply of kind %q, not %q", rune(got), rune(kind)))
	}
	return n, err
}

// discard reads a whole reply and forgets it. An error reply is returned, unless it is within an array.
func (w *wire) discard(depth int) error {
	kind, n, err := w.head()
	switch {
	case err != nil:
		return err
	case kind == resp.Bulk && n >= 0:
		if err := w.skip(n); err != nil {
			return err
		}
		return w.end()
	case kind == resp.Array && depth > 8:
		return w.bad("arrays nested too deep")
	case kind == resp.Array:
		for range n {
			if err := w.discard(depth + 1); err != nil && !link.IsReply(err) {
				return err
			}
		}
	}
	return nil
}

// text reads a bulk string of at most limit bytes. There is none if ok is false.
func (w *wire) text(limit int64) (text []byte, ok bool, err error) {
	n, err := w.want(resp.Bulk)
	if err != nil || n < 0 {
		return nil, false, err
	}
	if n > limit {
		return nil, false, w.bad(fmt.Sprintf("a string of %d bytes where %d are the most", n, limit))
	}
	for int64(len(text)) < n { // grows as bytes come in
		from := len(text)
		text = append(text, make([]byte, min(n-int64(from), 1<<20))...)
		if err := w.read(text[from:]); err != nil {
			return nil, false, err
		}
	}
	return text, true, w.end()
}

// command appends a command.
func (w *wire) command(args ...string) { w.out = resp.AppendCommand(w.out, args...) }

// do sends a command and reads the answer, which is forgotten.
func (w *wire) do(args ...string) error {
	w.command(args...)
	return w.discard(0)
}
