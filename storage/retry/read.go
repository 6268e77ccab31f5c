package retry

import (
	"context"
	"fmt"
	"io"

	"github.com/amberkv/amber/storage"
)

// Open reads a range of an object. Where the store's readers are not storage.Versioned, the object is asked for its size and time first.
func (s *Store) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	r := &reader{s: s, ctx: ctx, key: key, off: off, n: n}
	t := begin()
	for {
		err := r.open()
		if err == nil {
			return r, nil
		}
		if err = s.again(ctx, "open "+key, &t, err); err != nil {
			return nil, err
		}
	}
}

var _ storage.Versioned = (*reader)(nil)

// A reader gives the bytes of one version of an object, through as many readers of the store as that takes.
type reader struct {
	s      *Store
	ctx    context.Context
	key    string
	off, n int64 // as they were asked for

	g       *guard
	in      io.ReadCloser // nil while there is none
	version *storage.Info // nil before the first was opened
	given   int64
	t       tries
	next    error // what came beside the last bytes
	err     error // what Read returns from now on
}

// open opens the store's reader for what is still to be given, and sees to it that it is of the version of the first.
func (r *reader) open() error {
	g := r.s.guard(r.ctx)
	open := func() (in io.ReadCloser, err error) {
		n := r.n
		if n >= 0 {
			n -= r.given
		}
		err = g.call("open "+r.key, r.s.opts.Stall, func() error {
			in, err = r.s.store.Open(g.ctx, r.key, r.off+r.given, n)
			return err
		})
		return in, err
	}
	in, err := open()
	if err != nil {
		g.end()
		return err
	}
	version, known := storage.VersionOf(in)
	if !known {
		// Only what is asked for before an object is opened is not of a later version.
		in.Close()
		err := g.call("stat "+r.key, r.s.opts.Stall, func() (err error) {
			version, err = r.s.store.Stat(g.ctx, r.key)
			return err
		})
		if err == nil {
			in, err = open()
		}
		if err != nil {
			g.end()
			return err
		}
	}
	if r.version == nil {
		r.version = &version
	}
	if version.Size != r.version.Size || !version.ModTime.Equal(r.version.ModTime) {
		in.Close()
		g.end()
		return fmt.Errorf("reading %s on at byte %d: %w: it had %d bytes of %v, and has %d of %v", r.key, r.off+r.given, ErrChanged,
			r.version.Size, r.version.ModTime, version.Size, version.ModTime)
	}
	r.g, r.in = g, in
	return nil
}

// length is how many bytes there are to give.
func (r *reader) length() int64 {
	n := max(r.version.Size-r.off, 0)
	if r.n >= 0 {
		n = min(n, r.n)
	}
	return n
}

// Read reads on, with another reader of the store where the one before failed for the moment.
func (r *reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, r.err
	}
	for r.err == nil {
		n, err := r.read(p)
		if n > 0 {
			r.given += int64(n)
			r.next = err
			r.t.progress()
			return n, nil
		}
		if err == nil {
			return 0, nil
		}
		if err == io.EOF {
			if r.given >= r.length() {
				r.err = io.EOF
				break
			}
			err = fmt.Errorf("reading %s: %w: it ended at byte %d of %d: %w", r.key, storage.ErrTransient, r.off+r.given, r.off+r.length(), io.ErrUnexpectedEOF)
		}
		r.drop()
		r.err = r.s.again(r.ctx, "read "+r.key, &r.t, err)
	}
	return 0, r.err
}

// read makes one try.
func (r *reader) read(p []byte) (n int, err error) {
	if err := r.next; err != nil {
		r.next = nil
		return 0, err
	}
	if r.in == nil {
		if err := r.open(); err != nil {
			return 0, err
		}
	}
	err = r.g.call("read "+r.key, r.s.opts.Stall, func() error {
		n, err = r.in.Read(p)
		return err
	})
	return n, err
}

func (r *reader) drop() {
	if r.in != nil {
		r.in.Close()
		r.g.end()
		r.in = nil
	}
}

// Version returns which version is read.
func (r *reader) Version() storage.Info { return *r.version }

// Close closes the reader.
func (r *reader) Close() error {
	if r.in == nil {
		return nil
	}
	err := r.in.Close()
	r.g.end()
	r.in = nil
	if r.err == nil {
		r.err = fmt.Errorf("reading %s: the reader was closed", r.key)
	}
	return err
}
