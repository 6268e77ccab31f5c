package blobstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/storage"
)

// A read that broke off is tried again this often, after a pause that doubles from the first to the last, and once more as often whenever
// it has gone on by progress bytes.
const (
	tries      = 5
	firstPause = 50 * time.Millisecond
	lastPause  = 2 * time.Second
	progress   = 64 << 10
)

// Open reads a range of an object, as storage.Store says. A connection that breaks off is opened again where it did, as long as it is
// the same version of the object; if that has been replaced meanwhile, the read fails.
func (s *Store) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if err := check(ctx, "open", key); err != nil {
		return nil, err
	}
	if off < 0 {
		return nil, fmt.Errorf("blobstore: open %s: the offset %d is negative", key, off)
	}
	if n > math.MaxInt64-off {
		n = -1
	}
	r := &reader{s: s, ctx: ctx, key: key, off: off}
	if n == 0 { // what a provider makes of a range of no bytes differs
		info, err := s.Stat(ctx, key)
		if err != nil {
			return nil, err
		}
		r.size, r.modTime = info.Size, info.ModTime
		return r, nil
	}
	var file *os.File // fileblob tells the size of what was there before it opened it
	in, err := s.bucket.NewRangeReader(ctx, s.opts.Prefix+key, off, n, &blob.ReaderOptions{BeforeRead: func(as func(any) bool) error {
		as(&file)
		return nil
	}})
	if err != nil {
		// Services refuse a range that begins past the end, and any of an object without bytes.
		if gcerrors.Code(err) != gcerrors.NotFound && ctx.Err() == nil {
			if info, err := s.Stat(ctx, key); err == nil && info.Size <= off {
				r.size, r.modTime = info.Size, info.ModTime
				return r, nil
			}
		}
		return nil, s.wrap(ctx, "open", key, err)
	}
	r.in, r.size, r.modTime = in, in.Size(), in.ModTime()
	if file != nil {
		info, err := file.Stat()
		if err != nil {
			in.Close()
			return nil, s.wrap(ctx, "open", key, err)
		}
		r.size, r.modTime = info.Size(), info.ModTime()
	}
	r.left = max(0, r.size-off)
	if n > 0 {
		r.left = min(r.left, n)
	}
	if s.opts.Driver.Pin != nil {
		r.pin = s.opts.Driver.Pin(in)
	}
	return r, nil
}

// A reader gives out the bytes of one version of an object.
type reader struct {
	s         *Store
	ctx       context.Context
	key       string
	off, left int64 // what is still to be read

	in      *blob.Reader // nil: nothing is open
	pin     func(as func(any) bool) error
	size    int64 // of the version that was opened first
	modTime time.Time

	since  int64 // bytes since the last cut
	failed int   // cuts without progress between them
	broken error // what the next Read begins with
}

// Version tells which version is read, as storage.Versioned says.
func (r *reader) Version() storage.Info {
	return storage.Info{Key: r.key, Size: r.size, ModTime: r.modTime}
}

func (r *reader) Read(p []byte) (int, error) {
	for {
		if err := r.ctx.Err(); err != nil {
			return 0, fmt.Errorf("blobstore: read %s: %w", r.key, err)
		}
		if len(p) == 0 {
			return 0, nil
		}
		if r.left == 0 {
			return 0, io.EOF // also if the connection broke off with the last byte
		}
		if r.broken != nil {
			if err := r.resume(r.broken); err != nil {
				return 0, err
			}
			r.broken = nil
		}
		n, err := r.in.Read(p[:min(int64(len(p)), r.left)])
		r.off, r.left, r.since = r.off+int64(n), r.left-int64(n), r.since+int64(n)
		if err == io.EOF {
			err = io.ErrUnexpectedEOF // unless nothing is left
		}
		r.broken = err
		if n > 0 {
			return n, nil
		}
	}
}

// resume opens the object again where its reader broke off.
func (r *reader) resume(cause error) error {
	if r.since >= progress {
		r.failed = 0
	}
	r.since = 0
	for {
		r.Close()
		r.failed++
		if r.failed > tries {
			err := r.s.wrap(r.ctx, "read", r.key, cause)
			return fmt.Errorf("%w; it has broken off %d times near byte %d", err, tries, r.off)
		}
		pause := min(lastPause, firstPause<<(r.failed-1))
		if err := clock.Sleep(r.ctx, pause); err != nil {
			return fmt.Errorf("blobstore: read %s: %w", r.key, err)
		}
		in, err := r.s.bucket.NewRangeReader(r.ctx, r.s.opts.Prefix+r.key, r.off, r.left, &blob.ReaderOptions{BeforeRead: r.pin})
		switch code := gcerrors.Code(err); {
		case err == nil && in.Size() == r.size && in.ModTime().Equal(r.modTime):
			r.in = in
			return nil
		case err == nil:
			in.Close()
			return r.replaced(errors.New("it has another size or time"))
		case code == gcerrors.FailedPrecondition, code == gcerrors.NotFound && r.ctx.Err() == nil && errors.Is(r.s.nature(err), storage.ErrNotFound):
			return r.replaced(&said{err})
		case errors.Is(r.s.nature(err), storage.ErrDenied):
			return r.s.wrap(r.ctx, "read", r.key, err)
		}
		cause = err
	}
}

func (r *reader) replaced(why error) error {
	return fmt.Errorf("blobstore: read %s: the connection broke off at byte %d, and the object has been replaced or deleted since it was opened: %w",
		r.key, r.off, why)
}

// Close ends the reader. A version that was read in part is no error.
func (r *reader) Close() error {
	if r.in != nil {
		r.in.Close()
		r.in = nil
	}
	return nil
}
