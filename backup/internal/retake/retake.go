// Package retake takes the snapshot of one node of a data store, and takes it again from wherever the node's data is by then when it is lost.
package retake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/internal/link"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/clock"
)

// Config says what a Part is.
type Config struct {
	// Find finds the node that has the data now. It bounds how long it waits for one, and its error is final.
	Find func(ctx context.Context) (*redis.Options, error)
	// Node makes what takes the node's snapshot.
	Node func(*redis.Options) (backup.Snapshotter, error)
	// Check says whether a snapshot that was begun is to be taken, by an error that is like one of the snapshot's own. Nil: it is.
	Check func(catalog.Source) error
	// Begun is called when a snapshot was begun. May be nil.
	Begun func()

	Attempts int           // how often a snapshot is begun, at most
	Pause    time.Duration // before the second one, twice that before the third, and so on
	Now      clock.Func
	Log      *slog.Logger
}

// A Part is the snapshot of one node. Begin and Open are called by one goroutine at a time, all else at any time.
type Part struct {
	cfg  Config
	turn sync.Mutex // of who begins

	mu       sync.Mutex
	sn       backup.Snapshot
	part     backup.Part
	source   catalog.Source // of the last snapshot, as it was last told
	instant  time.Time      // of it, if it doesn't tell
	attempts int
	opened   bool
	closed   bool
	last     error // why the last attempt failed
	abort    context.CancelCauseFunc
}

// New returns a Part of which nothing was begun.
func New(cfg Config) *Part { return &Part{cfg: cfg} }

// Again says whether another attempt may help after an error.
func Again(err error) bool {
	for _, final := range []error{backup.ErrAuth, backup.ErrPermission, backup.ErrUnsupported, context.Canceled} {
		if errors.Is(err, final) {
			return false
		}
	}
	return true
}

// errClosed is the error of who waits for a part that is closed.
var errClosed = fmt.Errorf("the snapshot was closed: %w", net.ErrClosed)

// Begin begins the node's snapshot unless that was done, and tries again as often as there are attempts left.
func (p *Part) Begin(ctx context.Context) error {
	p.turn.Lock()
	defer p.turn.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p.mu.Lock()
	p.abort = cancel
	closed, begun := p.closed, p.sn != nil
	p.mu.Unlock()
	for {
		switch {
		case closed:
			return errClosed
		case begun:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		err := p.attempt(ctx)
		if err == nil {
			return nil
		}
		p.mu.Lock()
		closed, p.last = p.closed, err
		over := p.attempts >= p.cfg.Attempts
		p.mu.Unlock()
		switch {
		case closed:
			return errClosed
		case ctx.Err() != nil || !Again(err) || errors.As(err, new(final)):
			return err
		case over:
			return p.used(err)
		}
		p.cfg.Log.WarnContext(ctx, "a node's snapshot is begun again", "error", err)
	}
}

// final marks errors after which nothing is begun again.
type final struct{ error }

func (f final) Unwrap() error { return f.error }

// used says that no attempts are left.
func (p *Part) used(err error) error {
	if p.cfg.Attempts > 1 {
		return fmt.Errorf("given up after %d attempts: %w", p.cfg.Attempts, err)
	}
	return err
}

// attempt begins a snapshot once.
func (p *Part) attempt(ctx context.Context) error {
	p.mu.Lock()
	n, last := p.attempts, p.last
	p.mu.Unlock()
	if n >= p.cfg.Attempts {
		return final{p.used(last)}
	}
	if n > 0 {
		if err := clock.Sleep(ctx, time.Duration(n)*p.cfg.Pause); err != nil {
			return err
		}
	}
	opts, err := p.cfg.Find(ctx)
	if err != nil {
		if last != nil && ctx.Err() == nil {
			err = fmt.Errorf("%w; it was looked for because of this: %w", err, last)
		}
		return final{err}
	}
	node, err := p.cfg.Node(opts)
	if err != nil {
		return final{err}
	}
	p.mu.Lock()
	p.attempts++
	p.mu.Unlock()
	before := p.cfg.Now().UTC()
	sn, err := node.Snapshot(ctx)
	if err != nil {
		return err
	}
	parts, src := sn.Parts(), sn.Source()
	switch {
	case len(parts) != 1:
		err := link.As(backup.ErrUnsupported, fmt.Errorf("the node's snapshot has %d parts, and it has to be one", len(parts)))
		err = &backup.SourceError{Addr: opts.Addr, Step: "begin", Err: err, Hint: "take the nodes by another method"}
		return errors.Join(err, sn.Close())
	case p.cfg.Check != nil:
		if err := p.cfg.Check(src); err != nil {
			return errors.Join(err, sn.Close())
		}
	}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return errors.Join(errClosed, sn.Close())
	}
	p.sn, p.part, p.source, p.instant, p.opened = sn, parts[0], src, before, false
	p.mu.Unlock()
	if p.cfg.Begun != nil {
		p.cfg.Begun()
	}
	return nil
}

// Open begins the snapshot if that wasn't done and opens its part. A Read that fails gives an error that wraps backup.ErrAgain if the part may be
// opened again.
func (p *Part) Open(ctx context.Context) (io.ReadCloser, error) {
	p.mu.Lock()
	closed, opened := p.closed, p.opened
	p.mu.Unlock()
	switch {
	case closed:
		return nil, errClosed
	case opened:
		return nil, errors.New("the part was opened before: its bytes come only once")
	}
	if err := p.Begin(ctx); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errClosed
	}
	p.opened = true
	in, err := p.sn.Open(ctx, p.part)
	if err != nil {
		return nil, p.loseLocked(ctx, err)
	}
	return &reader{p: p, ctx: ctx, in: in}, nil
}

// loseLocked makes the error of a snapshot that is lost. The caller holds the lock.
func (p *Part) loseLocked(ctx context.Context, err error) error {
	if p.closed || ctx.Err() != nil {
		return err
	}
	p.source = p.sn.Source()
	p.sn.Close() // its error is of no interest beside that which it was lost by
	p.last = err
	switch {
	case !Again(err):
		return err
	case p.attempts >= p.cfg.Attempts:
		return p.used(err)
	}
	p.sn, p.opened = nil, false
	return fmt.Errorf("%w: attempt %d of %d: %w", backup.ErrAgain, p.attempts, p.cfg.Attempts, err)
}

// Source returns what the snapshot tells of its source, with the instant, and how often it was begun, which may be never.
func (p *Part) Source() (src catalog.Source, attempts int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	src = p.source
	if p.sn != nil {
		src = p.sn.Source()
	}
	if src.Time.IsZero() {
		src.Time = p.instant
	}
	return src, p.attempts
}

// Close ends it all. It waits for a Begin that is under way, which ends within a second.
func (p *Part) Close() error {
	p.mu.Lock()
	p.closed = true
	abort := p.abort
	p.mu.Unlock()
	if abort != nil {
		abort(errClosed)
	}
	p.turn.Lock()
	defer p.turn.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sn == nil {
		return nil
	}
	return p.sn.Close()
}

// A reader reads the part of one attempt.
type reader struct {
	p   *Part
	ctx context.Context // of Open
	in  io.ReadCloser

	mu     sync.Mutex
	err    error // sticky
	closed bool
}

func (r *reader) Read(b []byte) (int, error) {
	r.mu.Lock()
	err := r.err
	r.mu.Unlock()
	if err != nil {
		return 0, err
	}
	n, err := r.in.Read(b)
	if err == nil {
		return n, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != io.EOF && !r.closed {
		r.p.mu.Lock()
		err = r.p.loseLocked(r.ctx, err)
		r.p.mu.Unlock()
	}
	r.err = err
	return n, err
}

func (r *reader) Close() error {
	r.mu.Lock()
	r.closed = true
	whole := r.err == io.EOF
	r.mu.Unlock()
	err := r.in.Close()
	if whole { // others may be read for long after this
		r.p.mu.Lock()
		defer r.p.mu.Unlock()
		err = errors.Join(err, r.p.sn.Close())
	}
	return err
}
