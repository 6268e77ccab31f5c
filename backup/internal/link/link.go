// Package link is a connection to a server of a source, as the snapshotters of package backup use it where a client library can't be: on it the
// caller is a client first and may become a replica. Its errors are *backup.SourceError with advice for the operator, and never hold a password.
package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/internal/redact"
	"github.com/amberkv/amber/internal/resp"
)

// A Conn is a connection to a server on which we are the client and, it may be, the replica later. But for Abort, Aborted and Close it is used by one
// goroutine at a time.
//
// Whoever waits on it is woken by closing it: that works with every net.Conn, also with those that know no deadlines.
type Conn struct {
	Addr    string       // host:port, for errors and manifests
	R       *resp.Reader // what the server sends
	Info    resp.Info    // what AskInfo has got; empty if the server doesn't let us see it
	Release func() error // ends the guard of Open's context; returns an error if it struck before

	advice   Advice
	secure   bool // we speak TLS, as far as we know
	conn     net.Conn
	secrets  []string      // that must not be seen in an error
	timeout  time.Duration // for the answer to a command
	answered bool          // the server has answered something

	mu     sync.Mutex
	reason error // why the link was closed by us
}

// Advice is what errors say that depends on what the connection is for.
type Advice struct {
	Rights      string // what the user needs, such as "+info +psync"
	Unsupported string // what to do where the server doesn't have, or doesn't allow, the command
	Cut         string // why a server may close such a connection
}

// Options say how to connect.
type Options struct {
	Redis   *redis.Options // of the host's client: address, dialer, TLS, credentials; required
	Addr    string         // of another server that is reached by the same options; empty: theirs
	Timeout time.Duration  // of connecting, and of each answer; required
	Advice  Advice
}

// Guard closes the link with ctx's error when ctx ends, until the returned function is called. That one waits for it and
// returns the error if ctx ended before.
func (c *Conn) Guard(ctx context.Context) (release func() error) {
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		c.Abort(ctx.Err())
	})
	return sync.OnceValue(func() error {
		if stop() {
			return nil
		}
		<-done
		return c.Fail("wait", ctx.Err())
	})
}

// Abort closes the connection and makes reason the error of whoever uses it from now on.
func (c *Conn) Abort(reason error) {
	c.mu.Lock()
	first := c.reason == nil
	if first {
		c.reason = reason
	}
	c.mu.Unlock()
	if first {
		c.conn.Close() // of interest to nobody: what was read stays read, and nothing is written that has to arrive
	}
}

// Close ends the connection. The server drops its replica as soon as it sees that.
func (c *Conn) Close() {
	c.Abort(net.ErrClosed)
	c.Release()
}

// Aborted returns why the link was closed by us, or nil.
func (c *Conn) Aborted() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reason
}

// Within sets the time that the next read or write may take. A connection without deadlines goes without: its own
// keep-alive has to notice a dead peer.
func (c *Conn) Within(d time.Duration) { c.conn.SetDeadline(clock.System().Add(d)) }

// SetTimeout changes how long the answer to each command from now on may take.
func (c *Conn) SetTimeout(d time.Duration) { c.timeout = d }

// Fail makes a *backup.SourceError of what went wrong in a step, with all that helps.
func (c *Conn) Fail(step string, err error) error {
	var done *backup.SourceError
	if errors.As(err, &done) {
		return err
	}
	if reason := c.Aborted(); reason != nil {
		return &backup.SourceError{Addr: c.Addr, Step: step, Err: reason}
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // io.EOF is for snapshots that are whole
	}
	hint, kind := c.explain(err)
	if errors.Is(err, resp.ErrProtocol) { // quotes what the peer sent
		err = As(resp.ErrProtocol, errors.New(redact.String(err.Error(), c.secrets...)))
	}
	if err == io.ErrUnexpectedEOF {
		err = fmt.Errorf("the server closed the connection: %w", err)
	}
	if kind != nil {
		err = As(kind, err)
	}
	return &backup.SourceError{Addr: c.Addr, Step: step, Err: err, Hint: hint}
}

// Reply makes an error reply fit to be shown.
func (c *Conn) Reply(err error) error {
	var e resp.Error
	if errors.As(err, &e) {
		return resp.Error(redact.String(e.Error(), c.secrets...))
	}
	return err
}

// Write writes bytes as they are, such as many commands at once, within the time that is set. One goroutine may write while another reads.
func (c *Conn) Write(p []byte) (int, error) { return c.conn.Write(p) }

// Send writes a command.
func (c *Conn) Send(args ...string) error { return c.send(c.timeout, args) }

func (c *Conn) send(within time.Duration, args []string) error {
	c.Within(within)
	_, err := c.conn.Write(resp.AppendCommand(nil, args...))
	return err
}

// Command sends a command and waits for the answer. An error reply is a resp.Error.
func (c *Conn) Command(args ...string) (resp.Reply, error) {
	return c.CommandWithin(c.timeout, args...)
}

// CommandWithin is Command for an answer that may take another time than those to commands that servers answer at once.
func (c *Conn) CommandWithin(within time.Duration, args ...string) (resp.Reply, error) {
	err := c.send(within, args)
	if err == nil {
		c.Within(within)
	} else if !Cut(err) {
		return resp.Reply{}, err
	}
	// A server that closes a connection may say why before that, so the answer is worth more than a failed write.
	reply, rerr := c.R.ReadReply()
	if err != nil && rerr != nil && !IsReply(rerr) {
		return resp.Reply{}, err
	}
	if rerr == nil || IsReply(rerr) {
		c.answered = true
	}
	return reply, c.Reply(rerr)
}

// IsReply says whether err is an error reply of the server.
func IsReply(err error) bool {
	var e resp.Error
	return errors.As(err, &e)
}

// TimedOut says whether a read or write took too long.
func TimedOut(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
