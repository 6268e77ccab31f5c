package blobstore

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/storage"
)

const (
	// small is the size up to which an object is sent by Commit, in one piece. A larger one is on its way from then on.
	small = 256 << 10
	// grace is how long a method whose context has ended waits for the provider to clean up. The rest of it is done in the background.
	grace = 800 * time.Millisecond
	// writerKey is the name under which an object's metadata tell who wrote it.
	writerKey = "amberwriter"
)

// Create starts an object, as storage.Store says. A store that isn't Exclusive refuses IfNotExist with errors.ErrUnsupported. An object that
// is larger than MaxParts parts of the size that SizeHint gave fails at the first byte that has no room.
func (s *Store) Create(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
	if err := check(ctx, "create", key); err != nil {
		return nil, err
	}
	if opts == nil {
		opts = &storage.CreateOptions{}
	}
	if opts.IfNotExist && !s.opts.Exclusive {
		return nil, fmt.Errorf("blobstore: create %s: %w: this bucket has no exclusive create", key, errors.ErrUnsupported)
	}
	w := &writer{s: s, ctx: ctx, key: key, name: rand.Text()}
	w.opts = Upload{IfNotExist: opts.IfNotExist, Size: -1, MaxParts: s.opts.MaxParts, Metadata: map[string]string{writerKey: w.name},
		Stored: func(t time.Time) { w.modTime = t }}
	w.opts.PartSize, w.opts.Concurrency = s.parts(opts.SizeHint)
	return w, nil
}

// parts returns the size of an upload's parts, and how many are sent at the same time.
func (s *Store) parts(hint int64) (size int64, concurrency int) {
	const step = 1 << 20
	size = s.opts.PartSize
	// An eighth more than the caller knows of, since an object may turn out larger.
	if need := (hint + hint/8) / int64(s.opts.MaxParts); need > size {
		size = (need/step + 1) * step
	}
	return size, max(1, min(s.opts.Concurrency, int(s.opts.Memory/size)-2))
}

// A writer holds what was written until that is too much to be small; then an upload reads it from a pipe. Neither an error nor the end of
// a writer that isn't committed reaches the provider's driver before the context of the upload is cancelled: several drivers publish
// what came before one. And it is always Bucket.Upload that is called, since closing a blob.Writer commits, and panics on Azure.
type writer struct {
	s    *Store
	ctx  context.Context // of Create
	key  string
	name string // of the writer, in the object's metadata
	opts Upload

	buf   []byte
	size  int64
	ended error // what Write and Commit return from now on

	// Of an upload under way.
	pipe   *io.PipeWriter
	cancel context.CancelCauseFunc
	done   chan struct{}

	// When done is closed.
	err     error
	modTime time.Time // zero: the driver doesn't tell
}

var errCommitted = errors.New("the writer was committed before")

func (w *writer) Write(p []byte) (int, error) {
	if w.ended != nil {
		return 0, fmt.Errorf("blobstore: write %s: %w", w.key, w.ended)
	}
	if err := w.ctx.Err(); err != nil {
		return 0, fmt.Errorf("blobstore: write %s: %w", w.key, err)
	}
	// A part of it that has no room fails all of it, before anything is sent in vain.
	if most := w.opts.PartSize * int64(w.opts.MaxParts); w.size+int64(len(p)) > most {
		err := fmt.Errorf("the object has more than the %d bytes that %d parts of %d have room for: tell a larger CreateOptions.SizeHint",
			most, w.opts.MaxParts, w.opts.PartSize)
		w.end(err)
		return 0, fmt.Errorf("blobstore: write %s: %w", w.key, err)
	}
	w.size += int64(len(p))
	if w.pipe == nil {
		if w.size <= small {
			w.buf = append(w.buf, p...)
			return len(p), nil
		}
		r, pipe := io.Pipe()
		w.pipe = pipe
		w.start(&source{first: w.buf, rest: r}, r)
		w.buf = nil
	}
	n, err := w.pipe.Write(p)
	if err != nil {
		err = w.why(w.ctx, "write", err)
		w.end(errors.Unwrap(err))
	}
	return n, err
}

// start starts the upload of body. rest is what of it comes through the pipe, or nil.
func (w *writer) start(body io.Reader, rest *io.PipeReader) {
	ctx, cancel := context.WithCancelCause(w.ctx)
	w.cancel, w.done = cancel, make(chan struct{})
	if s, ok := body.(*source); ok {
		s.ctx, s.cancel = ctx, cancel
		// Whoever waits at the pipe shall not wait for a provider that doesn't end.
		context.AfterFunc(ctx, func() {
			cancel(nil) // see source
			rest.CloseWithError(context.Cause(ctx))
		})
	}
	go func() {
		defer close(w.done)
		w.err = w.put(ctx, body)
		cancel(w.err)
	}()
}

func (w *writer) put(ctx context.Context, body io.Reader) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the provider's driver panicked: %v", p)
		}
	}()
	key := w.s.opts.Prefix + w.key
	if own := w.s.opts.Driver.Upload; own != nil {
		return own(ctx, key, body, w.opts)
	}
	return w.s.bucket.Upload(ctx, key, body, &blob.WriterOptions{
		ContentType: "application/octet-stream", IfNotExist: w.opts.IfNotExist, BufferSize: int(w.opts.PartSize),
		MaxConcurrency: w.opts.Concurrency, Metadata: w.opts.Metadata, BeforeWrite: w.s.opts.Driver.BeforeWrite,
	})
}

// A source is what an upload reads: what was written first, and then the pipe. Before it lets an error through it cancels the context, also one that
// has ended already: a context has ended before those that are made of it have, and it is one of these that a driver looks at before it
// publishes what it has. A second cancel waits for the first, and so for all of them.
type source struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	first  []byte
	rest   *io.PipeReader
}

func (s *source) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		s.cancel(err)
		return 0, err
	}
	if len(s.first) > 0 {
		n := copy(p, s.first)
		s.first = s.first[n:]
		return n, nil
	}
	n, err := s.rest.Read(p)
	if err != nil && err != io.EOF {
		s.cancel(err)
	}
	return n, err
}

// Commit sends the rest of the object and waits until the provider has it, as storage.Writer says. If the answer of the provider is lost or
// an error, the object's metadata tell whether it is there after all.
func (w *writer) Commit(ctx context.Context) (storage.Info, error) {
	if w.ended != nil {
		return storage.Info{}, fmt.Errorf("blobstore: commit %s: %w", w.key, w.ended)
	}
	for _, c := range []context.Context{w.ctx, ctx} {
		if err := c.Err(); err != nil {
			w.end(err)
			return storage.Info{}, fmt.Errorf("blobstore: commit %s: %w", w.key, err)
		}
	}
	w.ended = errCommitted
	if w.pipe == nil {
		w.opts.Size = w.size
		w.start(bytes.NewReader(w.buf), nil)
	} else {
		w.pipe.Close()
	}
	select {
	case <-w.done:
	case <-ctx.Done():
		w.stop(ctx.Err())
	case <-w.ctx.Done():
		w.stop(w.ctx.Err())
	}
	w.buf = nil
	select {
	case <-w.done:
		if w.err == nil {
			return w.info(ctx)
		}
		return w.settle(ctx)
	default:
		return storage.Info{}, w.why(ctx, "commit", nil)
	}
}

// info returns what Commit tells of an object that is stored. That it is stored holds whatever becomes of a question about its time.
func (w *writer) info(ctx context.Context) (storage.Info, error) {
	info := storage.Info{Key: w.key, Size: w.size, ModTime: w.modTime}
	if !info.ModTime.IsZero() {
		return info, nil
	}
	a, err := w.s.bucket.Attributes(ctx, w.s.opts.Prefix+w.key)
	switch {
	case err != nil:
		info.ModTime = clock.System()
	case a.Metadata[writerKey] == w.name && a.Size != w.size:
		return storage.Info{}, fmt.Errorf("blobstore: commit %s: the bucket has stored %d bytes of an object of %d", w.key, a.Size, w.size)
	default:
		info.ModTime = a.ModTime
	}
	return info, nil
}

// settle finds out what became of an upload that ended with an error. A client that sends a request again, because the answer to the first
// was lost, can be told that the object exists which it has itself made.
func (w *writer) settle(ctx context.Context) (storage.Info, error) {
	err := w.why(ctx, "commit", w.err)
	if w.ctx.Err() != nil || ctx.Err() != nil || errors.Is(err, errors.ErrUnsupported) {
		return storage.Info{}, err
	}
	a, statErr := w.s.bucket.Attributes(ctx, w.s.opts.Prefix+w.key)
	switch {
	case statErr != nil:
	case a.Metadata[writerKey] == w.name && a.Size == w.size:
		return storage.Info{Key: w.key, Size: w.size, ModTime: a.ModTime}, nil
	case w.opts.IfNotExist && !errors.Is(err, storage.ErrExists):
		err = fmt.Errorf("blobstore: commit %s: %w: %w", w.key, storage.ErrExists, errors.Unwrap(err))
	}
	return storage.Info{}, err
}

// why returns the error of an upload that has failed, as its caller gets it. It wraps one error.
func (w *writer) why(ctx context.Context, op string, err error) error {
	for _, c := range []context.Context{w.ctx, ctx} {
		if ended := c.Err(); ended != nil {
			return fmt.Errorf("blobstore: %s %s: %w", op, w.key, ended)
		}
	}
	nature := w.s.natureOf(op, err)
	if code := gcerrors.Code(err); w.opts.IfNotExist && (code == gcerrors.FailedPrecondition || code == gcerrors.AlreadyExists) {
		nature = fmt.Errorf("%w: %w", storage.ErrExists, nature)
	}
	return fmt.Errorf("blobstore: %s %s: %w", op, w.key, nature)
}

// Abort drops what was written, as storage.Writer says. It waits for the provider to clean up, but not for long: the store's Close
// waits for the rest.
func (w *writer) Abort() error {
	if w.ended == nil {
		w.end(storage.ErrAborted)
	}
	return nil
}

// end ends a writer that is not committed.
func (w *writer) end(why error) {
	w.ended = storage.ErrAborted
	if why != nil && !errors.Is(why, storage.ErrAborted) {
		w.ended = fmt.Errorf("%w: %w", storage.ErrAborted, why)
	}
	w.buf = nil
	if w.pipe != nil {
		w.stop(why)
		w.pipe.CloseWithError(storage.ErrAborted) // after the context of the upload has ended
	}
}

// stop cancels the upload and gives the provider a moment to clean up.
func (w *writer) stop(why error) {
	w.cancel(why)
	w.s.ending.Go(func() { <-w.done })
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), grace)
	defer cancel()
	select {
	case <-w.done:
	case <-ctx.Done():
	}
}
