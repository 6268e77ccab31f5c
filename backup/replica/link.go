package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/internal/redact"
	"github.com/amberkv/amber/internal/resp"
)

// A link is a connection to a server on which we are the client and, later, the replica.
//
// Whoever waits on it is woken by closing it: that works with every net.Conn, also with those that know no deadlines.
type link struct {
	addr    string
	secure  bool // we speak TLS, as far as we know
	conn    net.Conn
	r       *resp.Reader
	secrets []string      // that must not be seen in an error
	timeout time.Duration // for the answer to a command
	info    resp.Info     // empty if the server doesn't let us see it

	answered bool         // the server has answered something
	release  func() error // ends the guard of Snapshot's context; returns its error if it struck

	mu     sync.Mutex
	reason error // why the link was closed by us
}

// guard closes the link with ctx's error when ctx ends, until the returned function is called. That one waits for it and
// returns the error if ctx ended before.
func (l *link) guard(ctx context.Context) (release func() error) {
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		l.abort(ctx.Err())
	})
	return sync.OnceValue(func() error {
		if stop() {
			return nil
		}
		<-done
		return l.fail("wait", ctx.Err())
	})
}

// abort closes the connection and makes reason the error of whoever uses it from now on.
func (l *link) abort(reason error) {
	l.mu.Lock()
	first := l.reason == nil
	if first {
		l.reason = reason
	}
	l.mu.Unlock()
	if first {
		l.conn.Close() // of interest to nobody: what was read stays read, and nothing is written that has to arrive
	}
}

// close ends the connection. The server drops its replica as soon as it sees that.
func (l *link) close() {
	l.abort(net.ErrClosed)
	l.release()
}

// aborted returns why the link was closed by us, or nil.
func (l *link) aborted() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reason
}

// within sets the time that the next read or write may take. A connection without deadlines goes without: its own
// keep-alive has to notice a dead peer.
func (l *link) within(d time.Duration) { l.conn.SetDeadline(clock.System().Add(d)) }

// fail makes an *Error of what went wrong in a step, with all that helps.
func (l *link) fail(step string, err error) error {
	var done *Error
	if errors.As(err, &done) {
		return err
	}
	if reason := l.aborted(); reason != nil {
		return &Error{Addr: l.addr, Step: step, Err: reason}
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // io.EOF is for snapshots that are whole
	}
	hint, kind := explain(err, l.secure, !l.answered)
	if errors.Is(err, resp.ErrProtocol) { // quotes what the peer sent
		err = as(resp.ErrProtocol, errors.New(redact.String(err.Error(), l.secrets...)))
	}
	if err == io.ErrUnexpectedEOF {
		err = fmt.Errorf("the server closed the connection: %w", err)
	}
	if kind != nil {
		err = as(kind, err)
	}
	return &Error{Addr: l.addr, Step: step, Err: err, Hint: hint}
}

// reply makes an error reply fit to be shown.
func (l *link) reply(err error) error {
	var e resp.Error
	if errors.As(err, &e) {
		return resp.Error(redact.String(e.Error(), l.secrets...))
	}
	return err
}

// send writes a command.
func (l *link) send(args ...string) error {
	l.within(l.timeout)
	_, err := l.conn.Write(resp.AppendCommand(nil, args...))
	return err
}

// command sends a command and waits for the answer. An error reply is a resp.Error.
func (l *link) command(args ...string) (resp.Reply, error) {
	err := l.send(args...)
	if err == nil {
		l.within(l.timeout)
	} else if !cut(err) {
		return resp.Reply{}, err
	}
	// A server that closes a connection may say why before that, so the answer is worth more than a failed write.
	reply, rerr := l.r.ReadReply()
	if err != nil && rerr != nil && !isReply(rerr) {
		return resp.Reply{}, err
	}
	if rerr == nil || isReply(rerr) {
		l.answered = true
	}
	return reply, l.reply(rerr)
}

func isReply(err error) bool {
	var e resp.Error
	return errors.As(err, &e)
}

// timedOut says whether a read or write took too long.
func timedOut(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
