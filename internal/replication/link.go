package replication

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/internal/resp"
)

// chunkSize is how much of the snapshot is read and sent at once. A link has two chunks.
const chunkSize = 256 << 10

// A Link is the connection to the replica that gets the snapshot. The caller closes it.
type Link struct {
	conn    net.Conn
	in      *resp.Reader
	hello   Hello
	old     bool // it asked by SYNC: no reply line, and no ACK if it is very old
	id      string
	offset  int64
	timeout time.Duration
	began   atomic.Bool
	sent    atomic.Int64
	moving  bool // every read has the timeout anew; not yet in the handshake
	close   func() error
}

func newLink(conn net.Conn, timeout time.Duration) *Link {
	l := &Link{conn: conn, id: randomHex(20), offset: 1, timeout: timeout, close: sync.OnceValue(func() error { return abort(conn) })}
	// Replicas send short commands and keep-alives only.
	l.in = resp.NewReader(received{l}, &resp.Limits{Line: 1 << 10, Message: 16 << 10, Elements: 64})
	return l
}

// abort closes a connection without sending what it still holds back. A link is closed when there is nothing left to say,
// or when the replica had better not get the rest: it would first load what is on its way, which may take it seconds.
func abort(conn net.Conn) error {
	inner := conn
	if secure, ok := conn.(*tls.Conn); ok {
		inner = secure.NetConn()
	}
	if tcp, ok := inner.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	return conn.Close()
}

// received is what the replica sends.
type received struct{ *Link }

func (r received) Read(p []byte) (int, error) {
	if r.moving {
		if err := r.conn.SetReadDeadline(clock.System().Add(r.timeout)); err != nil {
			return 0, err
		}
	}
	return r.conn.Read(p)
}

// Hello returns what the replica told about itself.
func (l *Link) Hello() Hello { return l.hello }

// ID is the replication ID under which the snapshot is sent: 40 random hexadecimal digits. A server that has it as its
// own has loaded the whole snapshot.
func (l *Link) ID() string { return l.id }

// Sent returns how many bytes of the snapshot were given to the connection so far. It may be called at any time.
func (l *Link) Sent() int64 { return l.sent.Load() }

// Began tells whether the replica was told that a snapshot comes. Dragonfly lets go of its data then. It may be called at any time.
func (l *Link) Began() bool { return l.began.Load() }

// Close closes the connection. It may be called at any time, once or more, and ends the other methods.
func (l *Link) Close() error { return l.close() }

// A SourceError is a snapshot that couldn't be read to its end. The replica didn't get a whole one.
type SourceError struct {
	Sent int64 // bytes of the snapshot that the replica got
	Err  error
}

// Error says how far the snapshot was sent and what ended it.
func (e *SourceError) Error() string {
	return fmt.Sprintf("reading the snapshot, of which the target got %d bytes: %v", e.Sent, e.Err)
}

// Unwrap returns what ended the snapshot.
func (e *SourceError) Unwrap() error { return e.Err }

// FullSync sends a snapshot of size bytes, which ends with io.EOF. What the replica gets becomes whole for it only after src
// said so: a snapshot that breaks off, or has another size, is an incomplete transfer, which servers don't take.
// It returns when ctx ends, or when the replica doesn't take a byte within the primary's timeout. An error of src is a *SourceError.
func (l *Link) FullSync(ctx context.Context, src io.Reader, size int64) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	err := l.fullSync(src, size)
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func (l *Link) fullSync(src io.Reader, size int64) error {
	// The first bytes are read before anything is promised to the replica.
	chunk := min(chunkSize, max(size, 1))
	held, spare := make([]byte, chunk), make([]byte, chunk)
	n, end, err := fill(src, held)
	if err != nil {
		return &SourceError{Err: err}
	}

	var head []byte
	if !l.old {
		head = resp.AppendStatus(head, "FULLRESYNC "+l.id+" "+strconv.FormatInt(l.offset, 10))
	}
	// A mark is better than a length: the replica then acknowledges at once when it has loaded instead of within a second. It
	// takes a mark of its own choosing for data if it is not the last thing it receives, so nothing must follow it. Not so
	// Dragonfly: it acknowledges at once in any case, and the process ends if the connection breaks between the snapshot and its mark.
	mark := ""
	if l.hello.EOF && !l.hello.Dragonfly {
		mark = randomHex(20)
		head = append(head, "$EOF:"+mark+"\r\n"...)
	} else {
		head = append(head, "$"+strconv.FormatInt(size, 10)+"\r\n"...)
	}
	l.began.Store(true)
	if err := l.write(head); err != nil {
		return err
	}

	for !end {
		// One chunk is held back until the source has said whether it ends there and is whole.
		m, last, err := fill(src, spare)
		if err != nil {
			return &SourceError{Sent: l.Sent(), Err: err}
		}
		if l.Sent()+int64(n) > size {
			break
		}
		if err := l.data(held[:n]); err != nil {
			return err
		}
		held, spare, n, end = spare, held, m, last
	}
	if total := l.Sent() + int64(n); total != size || !end {
		return &SourceError{Sent: l.Sent(), Err: fmt.Errorf("it has %d bytes or more where %d were expected: %w", total, size, io.ErrUnexpectedEOF)}
	}
	if err := l.data(held[:n]); err != nil {
		return err
	}
	switch {
	case mark != "":
		return l.write([]byte(mark))
	case l.hello.Dragonfly:
		return nil // it ends if anything comes before its acknowledgement
	}
	// After a length the replica takes commands, and may be asked to acknowledge at once.
	return l.write(resp.AppendCommand(nil, "REPLCONF", "GETACK", "*"))
}

// fill reads until p is full or the source has ended.
func fill(src io.Reader, p []byte) (n int, end bool, err error) {
	for n < len(p) {
		var m int
		m, err = src.Read(p[n:])
		n += m
		if errors.Is(err, io.EOF) {
			return n, true, nil
		}
		if err != nil {
			return n, false, err
		}
	}
	return n, false, nil
}

func (l *Link) data(p []byte) error {
	for len(p) > 0 {
		if err := l.conn.SetWriteDeadline(clock.System().Add(l.timeout)); err != nil {
			return l.broken(err)
		}
		n, err := l.conn.Write(p)
		l.sent.Add(int64(n))
		p = p[n:]
		if err != nil && (n == 0 || !errors.Is(err, os.ErrDeadlineExceeded)) { // slow is not stalled
			return l.broken(err)
		}
	}
	return nil
}

func (l *Link) write(p []byte) error {
	if err := l.conn.SetWriteDeadline(clock.System().Add(l.timeout)); err != nil {
		return l.broken(err)
	}
	if _, err := l.conn.Write(p); err != nil {
		return l.broken(err)
	}
	return nil
}

// broken describes why the connection can't go on.
func (l *Link) broken(err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("the target took and sent nothing for %v (%d bytes sent): %w", l.timeout, l.Sent(), err)
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("the target broke the connection (%d bytes sent): %w", l.Sent(), err)
}

// Loaded waits until the replica acknowledges the snapshot, which it does when it has loaded it. While it loads it sends
// keep-alives; Dragonfly sends none, and reads while it loads. The error is ctx's if it ends before.
func (l *Link) Loaded(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		args, err := l.in.ReadCommand() // skips keep-alives, and each moves the deadline
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return l.broken(err)
		}
		if len(args) >= 3 && strings.EqualFold(args[0], "REPLCONF") && strings.EqualFold(args[1], "ACK") {
			// Dragonfly says 0 first, whatever the offset is, and nothing before it has loaded.
			if n, err := strconv.ParseInt(args[2], 10, 64); err == nil && (n >= l.offset || l.hello.Dragonfly) {
				return nil
			}
		}
	}
}

func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
