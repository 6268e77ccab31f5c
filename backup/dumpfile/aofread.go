package dumpfile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/storage"
)

// aofSnapshot are append-only files as they were when they were opened.
type aofSnapshot struct {
	store  storage.Store
	source catalog.Source
	order  []backup.Part
	parts  map[string]*aofPart
	pinned []*pinned

	ctx    context.Context // ends with Close
	cancel context.CancelCauseFunc
	once   sync.Once
}

// An aofPart is a piece of a file, or all of it.
type aofPart struct {
	member *aofMember // nil: there is no file, and the part is nothing
	from   *pinned
	begin  int64 // in the file
	size   int64
	opened atomic.Bool
}

func (s *aofSnapshot) Source() catalog.Source { return s.source }
func (s *aofSnapshot) Parts() []backup.Part   { return append([]backup.Part(nil), s.order...) }

// Close ends all reads and lets go of all files.
func (s *aofSnapshot) Close() error {
	s.once.Do(func() {
		s.cancel(errClosed)
		for _, p := range s.pinned {
			p.mu.Lock() // a Read that waits ends by its context
			p.close()
			p.mu.Unlock()
		}
	})
	return nil
}

// Open starts reading a part, of a file that was opened with the snapshot.
func (s *aofSnapshot) Open(ctx context.Context, p backup.Part) (io.ReadCloser, error) {
	part := s.parts[p.Name]
	switch {
	case part == nil:
		return nil, fmt.Errorf("dumpfile: there is no part %q", p.Name)
	case s.ctx.Err() != nil:
		return nil, errClosed
	case ctx.Err() != nil:
		return nil, fmt.Errorf("dumpfile: opening part %s: %w", p.Name, context.Cause(ctx))
	case part.opened.Swap(true):
		return nil, fmt.Errorf("dumpfile: the part %s was opened already", p.Name)
	}
	if part.member == nil {
		return &aofReader{sn: s, ctx: ctx, key: "nothing", from: &pinned{in: io.NopCloser(strings.NewReader(nothing)), ctx: s.ctx, cancel: func(error) {}},
			part: part, left: part.size, stop: func() bool { return true }}, nil
	}
	stop := context.AfterFunc(ctx, func() { part.from.cancel(context.Cause(ctx)) })
	return &aofReader{sn: s, ctx: ctx, key: part.member.key, from: part.from, part: part, skip: part.begin, left: part.size, stop: stop}, nil
}

// An aofReader reads a part.
type aofReader struct {
	sn         *aofSnapshot
	ctx        context.Context // of Open
	key        string
	from       *pinned
	part       *aofPart
	skip, left int64 // of the file, before the part; of the part
	stop       func() bool
	err        error
}

func (r *aofReader) Read(p []byte) (int, error) {
	r.from.mu.Lock()
	defer r.from.mu.Unlock()
	if r.err != nil {
		return 0, r.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := r.read(p)
	if err == io.EOF {
		r.err = io.EOF
	} else if err != nil {
		if cause := cmp.Or(context.Cause(r.ctx), context.Cause(r.from.ctx)); cause != nil && !errors.Is(err, cause) {
			err = fmt.Errorf("%w: %w", cause, err)
		}
		r.err = fmt.Errorf("dumpfile: reading %s: %w", r.key, err)
	}
	return n, r.err
}

func (r *aofReader) read(p []byte) (int, error) {
	if err := cmp.Or(context.Cause(r.from.ctx), r.ctx.Err()); err != nil {
		return 0, err
	}
	if r.skip > 0 {
		n, err := io.CopyN(io.Discard, r.from, r.skip)
		if r.skip -= n; err != nil {
			return 0, r.short(err)
		}
	}
	if r.left == 0 {
		if err := r.whole(); err != nil {
			return 0, err
		}
		return 0, io.EOF
	}
	n, err := r.from.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	switch {
	case err == io.EOF && r.left == 0:
		err = nil // it is looked at before the end is told
	case err != nil:
		err = r.short(err)
	}
	return n, err
}

// short is the error of a file that ended too early, or couldn't be read.
func (r *aofReader) short(err error) error {
	if err == io.EOF {
		return fmt.Errorf("%w: it ends %d bytes before it did when the snapshot was taken", ErrChanged, r.skip+r.left)
	}
	return changed(err)
}

// whole looks whether the file is still the one that was opened, as far as that can be seen by its name. One that is gone was deleted by a rewrite, after it was
// opened, and all of it was read. The name of a single file may be that of another one by now.
func (r *aofReader) whole() error {
	m := r.part.member
	if m == nil || m.tail != nil {
		return nil
	}
	now, err := r.sn.store.Stat(r.from.ctx, r.key)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return nil
	case err != nil:
		return err
	case m.last && now.Size < m.info.Size:
		return fmt.Errorf("%w: it had %d bytes, and has %d", ErrChanged, m.info.Size, now.Size)
	case m.last:
		return nil
	}
	return same(m.info, now)
}

// Close ends a Read that waits.
func (r *aofReader) Close() error {
	r.stop()
	r.from.cancel(errClosed)
	r.from.mu.Lock()
	defer r.from.mu.Unlock()
	if r.err == nil {
		r.err = errClosed
	}
	return r.from.in.Close()
}
