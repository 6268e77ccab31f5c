package dumpfile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
)

// Stream returns a Snapshotter of the one RDB file that r gives; name says in the catalog what was read. It can take one snapshot, which
// reads r to its io.EOF. r stays the caller's: it is read by a goroutine of its own, so that a Read of r that waits for ever holds nobody
// up, and ends when whoever opened r closes it.
func Stream(name string, r io.Reader) backup.Snapshotter {
	return &stream{name: name, in: r}
}

// streamPart is the name of the only part.
const streamPart = "dump.rdb"

type stream struct {
	name string
	in   io.Reader
	used atomic.Bool
}

func (s *stream) Snapshot(ctx context.Context) (backup.Snapshot, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if s.used.Swap(true) {
		return nil, fmt.Errorf("dumpfile: %s was read already, and can be read once", s.name)
	}
	sn := &streamSnapshot{stream: s}
	sn.ctx, sn.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	return sn, nil
}

type streamSnapshot struct {
	*stream
	opened atomic.Bool
	ctx    context.Context // ends with Close
	cancel context.CancelCauseFunc
}

func (s *streamSnapshot) Source() catalog.Source { return catalog.Source{Method: method, File: s.name} }
func (s *streamSnapshot) Parts() []backup.Part   { return []backup.Part{{Name: streamPart, Size: -1}} }

func (s *streamSnapshot) Close() error {
	s.cancel(errClosed)
	return nil
}

func (s *streamSnapshot) Open(ctx context.Context, p backup.Part) (io.ReadCloser, error) {
	switch {
	case p.Name != streamPart:
		return nil, fmt.Errorf("dumpfile: there is no part %q", p.Name)
	case s.ctx.Err() != nil:
		return nil, errClosed
	case s.opened.Swap(true):
		return nil, errors.New("dumpfile: the part was opened already")
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.ctx, func() { cancel(errClosed) })
	r := &patient{ctx: ctx, closed: s.ctx, name: s.name, r: s.in, release: func() { stop(); cancel(errClosed) }}
	head, begin, err := readHead(r)
	if err == nil && head.ofSet() {
		err = fmt.Errorf("dumpfile: %s: %w: give all of its files, by the name of its summary", s.name, ErrPartOfSet)
	}
	if err != nil {
		r.Close()
		return nil, err
	}
	r.begin = begin
	return r, nil
}

// A patient reader reads one that may let it wait for ever, and ends with its context.
type patient struct {
	ctx     context.Context
	closed  context.Context // the snapshot's; ctx ends with it, a moment later
	name    string
	r       io.Reader
	release func()

	begin   []byte // read already
	buf     []byte // what r.Read is given
	got     []byte // of buf, not handed on yet
	done    chan result
	reading bool // a read of r is under way
	err     error
}

type result struct {
	n   int
	err error
}

func (p *patient) Read(to []byte) (int, error) {
	if err := cmp.Or(context.Cause(p.closed), context.Cause(p.ctx)); err != nil {
		return 0, fmt.Errorf("dumpfile: reading %s: %w", p.name, err)
	}
	if len(to) == 0 {
		return 0, nil
	}
	if len(p.begin) > 0 {
		n := copy(to, p.begin)
		p.begin = p.begin[n:]
		return n, nil
	}
	for len(p.got) == 0 {
		if p.err != nil {
			return 0, p.err
		}
		if err := p.more(); err != nil {
			return 0, err
		}
	}
	n := copy(to, p.got)
	p.got = p.got[n:]
	return n, nil
}

// more reads on. A read that was under way when the context ended is left to itself.
func (p *patient) more() error {
	if p.buf == nil {
		p.buf, p.done = make([]byte, 128<<10), make(chan result, 1)
	}
	if !p.reading {
		p.reading = true
		go func() {
			n, err := p.r.Read(p.buf)
			p.done <- result{n, err}
		}()
	}
	select {
	case got := <-p.done:
		p.reading = false
		p.got = p.buf[:got.n]
		if p.err = got.err; p.err != nil && p.err != io.EOF {
			p.err = fmt.Errorf("dumpfile: reading %s: %w", p.name, p.err)
		}
		return nil
	case <-p.ctx.Done():
		return fmt.Errorf("dumpfile: reading %s: %w", p.name, context.Cause(p.ctx))
	}
}

func (p *patient) Close() error {
	p.release()
	return nil
}
