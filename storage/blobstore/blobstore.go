// Package blobstore keeps objects in buckets: of S3, GCS, Azure, and whatever else gocloud.dev has a driver for.
//
// It is a module of its own, so that a host of package amber doesn't get the clouds' libraries with it. A host that has a bucket
// of gocloud.dev open hands it to [New]; else the openers in the sub-packages s3store, gcsstore and azurestore make a store of
// what they are told, each linking its own cloud only, and [OpenURL] picks one of them by a URL.
//
// Directories are for package filestore, which OpenURL takes for them: gocloud's fileblob neither makes an exclusive create nor
// waits for the disk, and when that is full it publishes what it had.
package blobstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
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
	// Ordered says that the provider lists in ascending byte order of its names, in pages: then List holds a page at a time. Else
	// it holds all that is below its prefix to sort it, and fails if that is more than 131,072 objects.
	Ordered bool
	// PartSize is how many bytes an upload sends at once, and MaxParts how many such pieces the provider takes for an object. 0: 8 MiB, and 10,000.
	// A create with a SizeHint that this is too little for gets larger parts.
	PartSize int64
	MaxParts int
	// Concurrency is how many pieces of one object are sent at the same time; 0: 3.
	Concurrency int
	// Memory is what the pieces of one upload may take, in bytes; 0: 64 MiB. An upload holds PartSize * (Concurrency + 2) bytes; where larger
	// parts would make that more than Memory, fewer are sent at the same time, but always one: with the defaults three parts are
	// more than 64 MiB for objects of more than 185 GiB.
	Memory int64
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
	// Classify wraps an error of the provider so that it says of what nature it is, mostly in one of package storage; an error that it returns
	// as it is is judged by gocloud's code. What isn't there must be told well: ErrNotFound is for an object, never for a
	// bucket, a host or a permission that is missing.
	Classify func(err error) error
	// Sweep ends what killed uploads left below a prefix of the bucket; see storage.Sweeper.
	Sweep func(ctx context.Context, prefix string, before time.Time) (objects int, bytes int64, err error)
	// SignGet returns a URL that reads a key of the bucket; see storage.URLSigner. nil: gocloud's own way.
	SignGet func(ctx context.Context, key string, ttl time.Duration) (string, error)
	// Describe and Advise are those of a storage.Describer.
	Describe func(ctx context.Context) []storage.Fact
	Advise   func(err error) string
	// Close is called after the bucket was closed.
	Close func() error
}

// An Upload says how a Driver's Upload writes: the Options of the store and of the create.
type Upload struct {
	IfNotExist  bool
	Size        int64 // in bytes; -1 for an object of more than 256 KiB, whose size nobody knows before its end
	PartSize    int64
	MaxParts    int
	Concurrency int
	// Metadata are kept with the object. They tell a Commit whose answer was lost, or that was sent twice, which object is its own.
	Metadata map[string]string
	// Stored may be called before Upload returns nil with the time that the provider gave the object, which saves Commit a request.
	Stored func(modTime time.Time)
}

// A Store is a storage.Store in a bucket. It is safe for use by several goroutines, and the bucket by any number of processes.
type Store struct {
	bucket *blob.Bucket
	opts   Options
	ending sync.WaitGroup // uploads that were told to end and have not yet
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
	for _, n := range []int64{s.opts.PartSize, int64(s.opts.MaxParts), int64(s.opts.Concurrency), s.opts.Memory} {
		if n < 0 {
			return nil, fmt.Errorf("blobstore: Options: %d is negative", n)
		}
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
	if s.opts.Memory == 0 {
		s.opts.Memory = 64 << 20
	}
	return s, nil
}

// Close waits until uploads that were aborted or cancelled have ended, and closes the bucket.
func (s *Store) Close() error {
	s.ending.Wait()
	err := s.bucket.Close()
	if s.opts.Driver.Close != nil {
		err = errors.Join(err, s.opts.Driver.Close())
	}
	return err
}

// Capabilities says whether the bucket's creates can be exclusive.
func (s *Store) Capabilities() storage.Capabilities {
	return storage.Capabilities{Exclusive: s.opts.Exclusive}
}

// Stat tells size and time of an object, as storage.Store says.
func (s *Store) Stat(ctx context.Context, key string) (storage.Info, error) {
	if err := check(ctx, "stat", key); err != nil {
		return storage.Info{}, err
	}
	a, err := s.bucket.Attributes(ctx, s.opts.Prefix+key)
	if err != nil {
		return storage.Info{}, s.wrap(ctx, "stat", key, err)
	}
	return storage.Info{Key: key, Size: a.Size, ModTime: a.ModTime}, nil
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
		return s.wrap(ctx, "delete", key, err)
	}
	return nil
}

// SweepUnfinished ends what killed uploads left, as storage.Sweeper says. Providers whose uploads leave nothing, or nothing for
// longer than they say, have nothing to sweep.
func (s *Store) SweepUnfinished(ctx context.Context, before time.Time) (objects int, bytes int64, err error) {
	if err := ctx.Err(); err != nil {
		return 0, 0, fmt.Errorf("blobstore: sweep: %w", err)
	}
	if s.opts.Driver.Sweep == nil {
		return 0, 0, nil
	}
	objects, bytes, err = s.opts.Driver.Sweep(ctx, s.opts.Prefix, before)
	if err != nil {
		err = s.wrap(ctx, "sweep", s.opts.Prefix, err)
	}
	return objects, bytes, err
}

// SignGet returns a URL that reads the object by GET until ttl has passed, as storage.URLSigner says.
func (s *Store) SignGet(ctx context.Context, key string, ttl time.Duration) (string, error) {
	if err := check(ctx, "sign", key); err != nil {
		return "", err
	}
	if ttl <= 0 {
		return "", fmt.Errorf("blobstore: sign %s: a URL can't be good for %v", key, ttl)
	}
	sign := s.opts.Driver.SignGet
	if sign == nil {
		sign = func(ctx context.Context, key string, ttl time.Duration) (string, error) {
			return s.bucket.SignedURL(ctx, key, &blob.SignedURLOptions{Expiry: ttl})
		}
	}
	signed, err := sign(ctx, s.opts.Prefix+key, ttl)
	if err != nil && gcerrors.Code(err) == gcerrors.Unimplemented {
		return "", fmt.Errorf("blobstore: sign %s: %w: this bucket has no signed URLs", key, errors.ErrUnsupported)
	}
	if err != nil {
		return "", s.wrap(ctx, "sign", key, err)
	}
	return signed, nil
}

// Describe returns what the store is, as storage.Describer says.
func (s *Store) Describe(ctx context.Context) []storage.Fact {
	var facts []storage.Fact
	if s.opts.Driver.Describe != nil {
		facts = s.opts.Driver.Describe(ctx)
	}
	if s.opts.Prefix != "" {
		facts = append(facts, storage.Fact{Name: "prefix", Value: s.opts.Prefix})
	}
	return facts
}

// Advise says what to change so that an error goes away, as storage.Describer says.
func (s *Store) Advise(err error) string {
	if s.opts.Driver.Advise == nil || err == nil {
		return ""
	}
	return s.opts.Driver.Advise(err)
}
