// Package blobstore keeps objects in buckets: of S3, GCS, Azure, and whatever else gocloud.dev has a driver for.
//
// It is a module of its own, so that a host of package amber doesn't get the clouds' libraries with it. A host that has a bucket
// of gocloud.dev open hands it to [New]; else the openers in the sub-packages s3store, gcsstore and azurestore make a store of
// what they are told, each linking its own cloud only, and [OpenURL] picks one of them by a URL.
package blobstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/amberkv/amber/storage"
)

// Options say how a bucket is used.
type Options struct {
	// Prefix comes before every key, such as "backups/". A slash is added if it ends in none. Empty: keys are those of the bucket.
	Prefix string
	// Exclusive says that the bucket's provider makes a create with IfNotExist exclusive; see storage.Capabilities. gocloud's
	// fileblob does not, though it takes the option.
	Exclusive bool
	// PartSize is how many bytes an upload sends at once, and MaxParts how many such pieces the provider takes for an object. 0: 8 MiB, and 10,000. A
	// create with a larger SizeHint gets larger parts.
	PartSize int64
	MaxParts int
	// Concurrency is how many pieces of one object are sent at the same time; 0: 3. An upload holds about PartSize * (Concurrency + 2) bytes.
	Concurrency int
	// Driver is what is known of the provider beyond gocloud.
	Driver Driver
}

// A Driver does what gocloud.dev has no word for, for one provider. Each field may be nil.
type Driver struct {
	// BeforeWrite is called before an upload, with what reaches into the provider's request; see gocloud's blob.WriterOptions.BeforeWrite.
	BeforeWrite func(as func(any) bool) error
	// Upload writes an object in gocloud's stead: what r gives until io.EOF. Another error of r or the end of ctx ends it, and then nothing is
	// visible and nothing is left behind. Where the provider's own library publishes what came before an error, logs, or keeps more in memory
	// than it has to, this is the way round it.
	Upload func(ctx context.Context, key string, r io.Reader, opts Upload) error
	// Delete removes an object in gocloud's stead; the error wraps storage.ErrNotFound if there is none.
	Delete func(ctx context.Context, key string) error
	// Pin returns what makes a later read of the same object fail, if that has been replaced since r was opened, as gocloud's
	// blob.ReaderOptions.BeforeRead; nil if r doesn't tell.
	Pin func(r *blob.Reader) func(as func(any) bool) error
	// Classify wraps an error of the provider in one of package storage that says of what nature it is; it returns others as they are.
	Classify func(err error) error
	// Sweep ends what killed uploads left below a prefix of the bucket; see storage.Sweeper.
	Sweep func(ctx context.Context, prefix string, before time.Time) (objects int, bytes int64, err error)
	// SignGet returns a URL that reads a key of the bucket; see storage.URLSigner. nil: gocloud's own way.
	SignGet func(ctx context.Context, key string, ttl time.Duration) (string, error)
	// Describe and Advise are those of a storage.Describer.
	Describe func(ctx context.Context) []storage.Fact
	Advise   func(err error) string
}

// An Upload says how a Driver's Upload writes: the Options of the store and of the create.
type Upload struct {
	IfNotExist  bool
	PartSize    int64
	MaxParts    int
	Concurrency int
}

// A Store is a storage.Store in a bucket. It is safe for use by several goroutines, and the bucket by any number of processes.
type Store struct {
	bucket *blob.Bucket
	opts   Options
}

// New returns the store in a bucket, which stays the caller's to close, or is closed by the store's Close. A nil opts means the defaults.
func New(bucket *blob.Bucket, opts *Options) (*Store, error) {
	s := &Store{bucket: bucket}
	if opts != nil {
		s.opts = *opts
	}
	if bucket == nil {
		return nil, errors.New("blobstore: the bucket is nil")
	}
	if p := s.opts.Prefix; p != "" {
		p = strings.TrimSuffix(p, "/")
		if err := storage.ValidKey(p); err != nil {
			return nil, fmt.Errorf("blobstore: Options.Prefix: %w", err)
		}
		s.opts.Prefix = p + "/"
	}
	if s.opts.PartSize == 0 {
		s.opts.PartSize = 8 << 20
	}
	if s.opts.MaxParts == 0 {
		s.opts.MaxParts = 10000
	}
	if s.opts.Concurrency == 0 {
		s.opts.Concurrency = 3
	}
	return s, nil
}

// Close closes the bucket.
func (s *Store) Close() error { return s.bucket.Close() }

// Capabilities says whether the bucket's creates can be exclusive.
func (s *Store) Capabilities() storage.Capabilities {
	return storage.Capabilities{Exclusive: s.opts.Exclusive}
}

// Create starts an object, as storage.Store says.
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
	ctx, cancel := context.WithCancel(ctx)
	r, pw := io.Pipe()
	w := &writer{s: s, key: key, pipe: pw, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		w.err = s.upload(ctx, s.opts.Prefix+key, &source{r, cancel}, Upload{opts.IfNotExist, s.opts.PartSize, s.opts.MaxParts, s.opts.Concurrency})
		r.CloseWithError(errors.Join(w.err, storage.ErrAborted))
	}()
	return w, nil
}

// upload writes an object, in the driver's way or gocloud's.
func (s *Store) upload(ctx context.Context, key string, r io.Reader, opts Upload) error {
	if s.opts.Driver.Upload != nil {
		return s.opts.Driver.Upload(ctx, key, r, opts)
	}
	return s.bucket.Upload(ctx, key, r, &blob.WriterOptions{
		ContentType: "application/octet-stream", IfNotExist: opts.IfNotExist, BufferSize: int(opts.PartSize),
		MaxConcurrency: opts.Concurrency, BeforeWrite: s.opts.Driver.BeforeWrite,
	})
}

// A source is what an upload reads. It ends the upload before it lets an error through, since some drivers publish what came before one.
type source struct {
	*io.PipeReader
	cancel context.CancelFunc
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.PipeReader.Read(p)
	if err != nil && err != io.EOF {
		s.cancel()
	}
	return n, err
}

type writer struct {
	s         *Store
	key       string
	pipe      *io.PipeWriter
	cancel    context.CancelFunc
	done      chan struct{}
	err       error
	committed bool
	aborted   bool
}

func (w *writer) Write(p []byte) (int, error) {
	if w.aborted || w.committed {
		return 0, storage.ErrAborted
	}
	return w.pipe.Write(p)
}

func (w *writer) Commit(ctx context.Context) (storage.Info, error) {
	if w.aborted || w.committed {
		return storage.Info{}, storage.ErrAborted
	}
	w.committed = true
	w.pipe.Close()
	select {
	case <-w.done:
	case <-ctx.Done():
		w.cancel()
		return storage.Info{}, ctx.Err()
	}
	if w.err != nil {
		return storage.Info{}, w.s.wrap("commit", w.key, w.err)
	}
	return w.s.Stat(ctx, w.key)
}

func (w *writer) Abort() error {
	if w.committed || w.aborted {
		return nil
	}
	w.aborted = true
	w.cancel()
	w.pipe.CloseWithError(storage.ErrAborted)
	<-w.done
	return nil
}

// Open reads a range of an object, as storage.Store says.
func (s *Store) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if err := check(ctx, "open", key); err != nil {
		return nil, err
	}
	r, err := s.bucket.NewRangeReader(ctx, s.opts.Prefix+key, off, n, nil)
	if err != nil {
		return nil, s.wrap("open", key, err)
	}
	return r, nil
}

// Stat tells size and time of an object, as storage.Store says.
func (s *Store) Stat(ctx context.Context, key string) (storage.Info, error) {
	if err := check(ctx, "stat", key); err != nil {
		return storage.Info{}, err
	}
	a, err := s.bucket.Attributes(ctx, s.opts.Prefix+key)
	if err != nil {
		return storage.Info{}, s.wrap("stat", key, err)
	}
	return storage.Info{Key: key, Size: a.Size, ModTime: a.ModTime}, nil
}

// List gives the objects under a prefix, as storage.Store says.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		it := s.bucket.List(&blob.ListOptions{Prefix: s.opts.Prefix + prefix})
		for {
			o, err := it.Next(ctx)
			if err == io.EOF {
				return
			}
			if err != nil {
				yield(storage.Info{}, s.wrap("list", prefix, err))
				return
			}
			if !yield(storage.Info{Key: strings.TrimPrefix(o.Key, s.opts.Prefix), Size: o.Size, ModTime: o.ModTime}, nil) {
				return
			}
		}
	}
}

// Delete removes an object, as storage.Store says.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := check(ctx, "delete", key); err != nil {
		return err
	}
	remove := s.bucket.Delete
	if s.opts.Driver.Delete != nil {
		remove = s.opts.Driver.Delete
	}
	if err := remove(ctx, s.opts.Prefix+key); err != nil {
		return s.wrap("delete", key, err)
	}
	return nil
}

// check returns the error that an operation on key ends with before it begins.
func check(ctx context.Context, op, key string) error {
	if err := storage.ValidKey(key); err != nil {
		return fmt.Errorf("blobstore: %s: %w", op, err)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("blobstore: %s %s: %w", op, key, err)
	}
	return nil
}

// wrap says what an error is about, and of what nature it is.
func (s *Store) wrap(op, key string, err error) error {
	if s.opts.Driver.Classify != nil {
		err = s.opts.Driver.Classify(err)
	}
	switch gcerrors.Code(err) {
	case gcerrors.NotFound:
		err = fmt.Errorf("%w: %w", storage.ErrNotFound, err)
	case gcerrors.FailedPrecondition, gcerrors.AlreadyExists:
		err = fmt.Errorf("%w: %w", storage.ErrExists, err)
	}
	return fmt.Errorf("blobstore: %s %s: %w", op, key, err)
}
