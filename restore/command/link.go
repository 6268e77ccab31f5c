package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/internal/redact"
	"github.com/amberkv/amber/internal/replication"
	"golang.org/x/sync/semaphore"
)

// A link is one connection to a node, over which chunks of commands go, and all that is needed to open it again: what was not
// answered when it broke is sent again.
type link struct {
	id    int
	r     *run
	node  *node
	queue chan *chunk // of feeders; it is closed when there will be no more

	lost atomic.Int64 // times that a connection broke
}

// work opens the connection and sends what comes until the queue is closed and all is answered.
func (l *link) work(ctx context.Context) {
	var unanswered []*chunk
	for ctx.Err() == nil {
		conn, err := l.connect(ctx)
		if errors.Is(err, errGone) {
			l.evacuate(ctx, unanswered)
			return
		}
		if err != nil {
			l.r.stop(err)
			return
		}
		unanswered, err = l.exchange(ctx, conn, l.again(unanswered))
		if err == nil || ctx.Err() != nil {
			return
		}
		if why := l.r.doubtful(l.node, unanswered); why != nil {
			l.r.stop(fmt.Errorf("%w (%v)", why, err))
			return
		}
		l.lost.Add(1)
		l.r.log.Warn("a connection to the target broke", "target", l.node.addr, "error", err, "chunks", len(unanswered))
	}
}

// errGone: a node is no primary of the cluster any more.
var errGone = errors.New("the node is no primary any more")

// connect opens a connection and lets itself be known. It tries for as long as Config.Stall.
func (l *link) connect(ctx context.Context) (net.Conn, error) {
	begin, pause := clock.System(), firstPause
	for {
		conn, err := l.r.dial(ctx, l.node.addr)
		if err == nil {
			return conn, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		var refused *refusedError
		if errors.As(err, &refused) && !refused.passes() || clock.Since(begin) > l.r.cfg.Stall {
			return nil, fmt.Errorf("connecting to %s: %w", l.node.addr, err)
		}
		if l.r.cluster() && l.lost.Load() > 0 {
			l.r.refresh(ctx)
			if !l.r.topo.Load().has(l.node) {
				return nil, errGone
			}
		}
		if err := clock.Sleep(ctx, pause); err != nil {
			return nil, context.Cause(ctx)
		}
		pause = min(2*pause, longestPause)
	}
}

// A refusedError is a server's answer to AUTH.
type refusedError struct{ text string }

func (e *refusedError) Error() string { return e.text }

// passes tells whether trying again helps.
func (e *refusedError) passes() bool { return passing(codeOf([]byte(e.text))) }

// dial opens a connection to a node.
func (l *Loader) dial(ctx context.Context, addr string) (net.Conn, error) {
	timeout := 5 * time.Second // go-redis's default
	if l.cfg.Options.DialTimeout > 0 {
		timeout = l.cfg.Options.DialTimeout
	}
	conn, err := replication.Dial(ctx, l.options(addr), addr, timeout)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	user, password, err := replication.Credentials(ctx, l.cfg.Options)
	if err == nil && user+password != "" {
		args := []string{"AUTH", user, password}
		if user == "" {
			args = []string{"AUTH", password}
		}
		conn.SetDeadline(clock.System().Add(timeout))
		var answer reply
		if _, err = conn.Write(appendCommand(nil, args...)); err == nil {
			answer, err = newReplies(conn, nil).next()
		}
		if err == nil && answer.kind == '-' {
			err = &refusedError{redact.String(string(answer.text), password)}
		}
		conn.SetDeadline(time.Time{})
	} else if err != nil {
		err = errors.New(redact.String(err.Error(), password))
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("authentication: %w", err)
	}
	return conn, nil
}

// exchange sends chunks and reads the answers, until the queue is closed or the connection breaks. It returns the chunks that were
// not answered in full.
//
// When ctx ends nothing more is sent, but what the target has got already it executes, so that its answers are awaited for a moment: then
// it is known what it holds.
func (l *link) exchange(ctx context.Context, conn net.Conn, first []*chunk) (unanswered []*chunk, err error) {
	stop := context.AfterFunc(ctx, func() {
		conn.SetWriteDeadline(time.Unix(1, 0))
		conn.SetReadDeadline(clock.System().Add(lastAnswers))
	})
	defer stop()
	defer conn.Close()
	sent := make(chan *chunk, l.r.depot.window())
	room := semaphore.NewWeighted(windowBytes) // of what has no answer
	broken := make(chan struct{})              // is closed when the reader has met an error
	var readErr error
	var group sync.WaitGroup
	group.Go(func() {
		in := newReplies(conn, func() {
			if ctx.Err() == nil {
				conn.SetReadDeadline(clock.System().Add(l.r.cfg.Stall))
			}
			if ctx.Err() != nil { // perhaps just now
				conn.SetReadDeadline(clock.System().Add(lastAnswers))
			}
		})
		in.patient = true
		for c := range sent {
			size := weight(c) // it is another's as soon as it is answered
			if readErr == nil {
				if readErr = l.answers(ctx, in, c); readErr == nil {
					l.done(c)
					room.Release(size)
					continue
				}
				conn.Close() // the writer may be at it
				close(broken)
			}
			room.Release(size)
			unanswered = append(unanswered, c)
		}
		if ctx.Err() != nil && readErr == nil {
			io.Copy(io.Discard, conn) // until the target has seen the end
		}
	})
	err = l.write(ctx, conn, first, sent, broken, room)
	if half, ok := conn.(interface{ CloseWrite() error }); ctx.Err() != nil && ok {
		half.CloseWrite()
	} else if err != nil && !errors.Is(err, errBroken) {
		conn.Close()
	}
	close(sent)
	group.Wait()
	if readErr != nil && (err == nil || errors.Is(err, errBroken) || errors.Is(err, net.ErrClosed)) {
		err = readErr
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("no answer within %v", l.r.cfg.Stall)
	}
	return unanswered, err
}

// weight is what a chunk takes of a connection's window.
func weight(c *chunk) int64 { return min(int64(len(c.buf)-c.from), windowBytes) }

// lastAnswers is how long the answers to what was sent are awaited when a restore ends before its end.
const lastAnswers = 500 * time.Millisecond

// errBroken: the reader has met an error, which is the one to tell.
var errBroken = errors.New("the connection broke")

// write sends first and then what comes.
func (l *link) write(ctx context.Context, conn net.Conn, first []*chunk, sent chan<- *chunk, broken <-chan struct{}, room *semaphore.Weighted) error {
	var span span
	never := context.WithoutCancel(ctx) // the reader takes all that comes, so that there is room soon
	for i, c := range first {
		room.Acquire(never, weight(c))
		c.users.Store(2)
		sent <- c
		_, err := conn.Write(c.buf[c.from:])
		if l.done(c); err != nil {
			for _, c := range first[i+1:] {
				room.Acquire(never, weight(c))
				sent <- c
			}
			return err
		}
	}
	for {
		var c *chunk
		select {
		case <-broken:
			return errBroken
		default:
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-broken:
			return errBroken
		case next, more := <-l.queue:
			if !more {
				return nil
			}
			c = next
		}
		span.fits(c) // what doesn't is empty now
		room.Acquire(never, weight(c))
		l.r.touch()
		c.users.Store(2)
		sent <- c
		conn.SetWriteDeadline(clock.System().Add(l.r.cfg.Stall))
		_, err := conn.Write(c.buf[c.from:])
		if l.done(c); err != nil {
			return err
		}
	}
}

// done takes note that the writer or the reader has no more use for a chunk. Answers may all be there before a write returns.
func (l *link) done(c *chunk) {
	if c.users.Add(-1) == 0 {
		l.r.answered(c)
	}
}

// answers reads the answers to a chunk. The error is that of the connection.
func (l *link) answers(ctx context.Context, in *replies, c *chunk) error {
	for ; c.done < len(c.ops); c.done++ {
		o := &c.ops[c.done]
		for ; o.replies > 0; o.replies-- {
			a, err := in.next()
			if err != nil {
				return err
			}
			if a.kind == '-' {
				if ctx.Err() != nil {
					continue // it was not written, and there will be no other try
				}
				if err := l.r.refused(ctx, l.node, c.command(c.done), o, a.text); err != nil {
					l.r.stop(err)
					return err
				}
				continue
			}
			l.r.accepted(o, a, c.command(c.done))
		}
	}
	return nil
}

// again makes of chunks that were not answered in full those that are sent on a new connection: whole keys once more, and of values
// that were being made nothing, for they are made anew.
func (l *link) again(chunks []*chunk) []*chunk {
	out := chunks[:0]
	for _, c := range chunks {
		n := &chunk{db: -1, cost: c.cost, feed: c.feed, link: l}
		for i := c.done; i < len(c.ops); i++ {
			o := c.ops[i]
			switch o.kind {
			case opSelect:
			case opWrite, opExists, opReplay:
				l.r.selectDB(n, int(o.db))
				command := c.command(i)
				if o.kind == opWrite && !o.again && l.r.mayReplace() {
					command = withReplace(command)
				}
				o.again = true
				n.buf = append(n.buf, command...)
				n.add(o)
			case opBuild, opFinish, opDrop:
				o.job.interrupted(o.replies)
			}
		}
		if len(n.ops) == 0 {
			l.r.answered(n)
			continue
		}
		out = append(out, n)
	}
	return out
}

// evacuate sends what a node was to get that is no primary any more to those that have its slots now.
func (l *link) evacuate(ctx context.Context, chunks []*chunk) {
	one := func(c *chunk) bool {
		for ; c.done < len(c.ops); c.done++ {
			o := &c.ops[c.done]
			switch o.kind {
			case opSelect:
			case opWrite, opExists:
				if err := l.r.resend(ctx, c.command(c.done), o); err != nil {
					l.r.stop(err)
					return false
				}
			case opReplay:
				l.r.stop(fmt.Errorf("%s is no primary any more, while commands were executed: restore again when the cluster is at rest", l.node.addr))
				return false
			default:
				o.job.interrupted(o.replies)
			}
		}
		l.r.answered(c)
		return true
	}
	for _, c := range l.again(chunks) {
		if !one(c) {
			return
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case c, more := <-l.queue:
			if !more || !one(c) {
				return
			}
		}
	}
}
