// Package storage says what Amber needs of a place that keeps objects: a directory, a bucket, memory.
//
// A [Store] maps keys to immutable byte strings. What Amber promises about backups rests on three things a store does:
// an object becomes visible only by Commit, whole and durable; a create with IfNotExist has exactly one winner, across
// processes and machines; and what was committed is seen by every later Open, Stat and List.
//
// The drivers are sub-packages: filestore keeps objects in a directory, memstore in memory. A driver of your own proves
// itself with storetest.Run. Buckets of S3, GCS, Azure and the like are in the module storage/blobstore.
//
// A new ability of some stores is an optional interface, as in io/fs: [Sweeper], [URLSigner], [Limited], [Describer]. A store that works on
// another one has a method Unwrap() Store, and the functions of this package that use an ability look through it.
package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"
	"unicode/utf8"
)

// Errors that every store returns, wrapped with the key they are about. Test for them with errors.Is.
var (
	ErrNotFound   = errors.New("object does not exist")
	ErrExists     = errors.New("object exists already")
	ErrInvalidKey = errors.New("invalid object key")
	ErrAborted    = errors.New("write was aborted")
)

// Errors that say of what nature a failure is. A store that can tell wraps them beside the cause; what wraps none of them
// is taken for a failure that stays.
var (
	// ErrTransient: the store can't be reached, is overloaded or failed by itself; the same call may work later. Package retry
	// makes such calls again.
	ErrTransient = errors.New("store failed for the moment")
	// ErrDenied: the store doesn't let these credentials do this.
	ErrDenied = errors.New("store denies access")
	// ErrRetained: the object may not be deleted or replaced yet, by the store's own rules of retention.
	ErrRetained = errors.New("object is retained by its store")
)

// MaxKeyLen is the longest key in bytes that every store takes.
const MaxKeyLen = 512

// A Store keeps objects under keys. It is safe for use by several goroutines and, where it is not memory, by several
// processes at once.
//
// Keys are as [ValidKey] says; a store returns an error that wraps [ErrInvalidKey] for any other and touches nothing.
// Every method returns within a second of ctx being cancelled, with an error that wraps ctx.Err().
type Store interface {
	// Create starts an object. Nothing is visible under key before Commit returns nil; after that the object is
	// durable, complete and visible to every client of the store. An existing object stays readable until then and is
	// replaced as a whole. A nil opts means the defaults. Cancelling ctx fails later writes and the commit.
	//
	// The caller ends every Writer with Commit or Abort.
	Create(ctx context.Context, key string, opts *CreateOptions) (Writer, error)

	// Open reads n bytes of an object from offset off; n < 0 means to its end. A range that goes past the end gives
	// what there is; off past the end gives no bytes. The error wraps ErrNotFound if there is no object.
	// The caller closes the reader. Cancelling ctx fails later reads.
	Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error)

	// Stat tells size and time of an object; the error wraps ErrNotFound if there is none.
	Stat(ctx context.Context, key string) (Info, error)

	// List gives the objects whose keys begin with prefix, which need not end at a slash and may be empty, in
	// ascending byte order of their keys. An error ends the sequence. Objects created or deleted meanwhile may be
	// listed or not; all others are listed exactly once. Unfinished writes are never listed.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]

	// Delete removes an object for good. The error wraps ErrNotFound if there is none.
	Delete(ctx context.Context, key string) error
}

// CreateOptions are the rare choices of Store.Create.
type CreateOptions struct {
	// IfNotExist makes the create exclusive: of all writers that race for a key, in any number of processes, exactly
	// one Commit returns nil, and the others, as well as every later one, an error that wraps ErrExists. A store may
	// return that error from Create already.
	//
	// A store that can't do this returns an error that wraps errors.ErrUnsupported; see CapabilitiesOf.
	IfNotExist bool

	// SizeHint is how many bytes the object will have at most, as far as the caller knows; 0: nobody knows. An object may turn out
	// larger or smaller. Stores that upload in a limited number of pieces choose their size by it.
	SizeHint int64
}

// A Writer takes the bytes of one object. It is used by one goroutine at a time.
type Writer interface {
	io.Writer

	// Commit makes the object visible and durable. When it returns an error other than one that wraps ErrExists or
	// ErrAborted the outcome is unknown: the object may be there or not, but never in part. Stat and compare.
	Commit(ctx context.Context) (Info, error)

	// Abort drops what was written. It may be called any number of times, and does nothing after Commit, so
	// that `defer w.Abort()` is always right. After it, Write and Commit return ErrAborted.
	Abort() error
}

// Info describes an object.
type Info struct {
	Key     string
	Size    int64     // in bytes
	ModTime time.Time // of the commit, by the store's clock
}

// ValidKey returns nil for a key that every store takes, else an error that wraps ErrInvalidKey and says what is wrong.
//
// A key is 1 to MaxKeyLen bytes of UTF-8 in one or more segments divided by single slashes. A segment is not empty
// and doesn't begin with a dot (so that neither "." nor ".." can occur, and stores have names for their own use). Control
// characters, backslash and DEL don't occur.
func ValidKey(key string) error {
	bad := func(why string) error { return fmt.Errorf("%w %q: %s", ErrInvalidKey, key, why) }
	switch {
	case key == "":
		return bad("it is empty")
	case len(key) > MaxKeyLen:
		return fmt.Errorf("%w %.40q…: it has %d bytes, the limit is %d", ErrInvalidKey, key, len(key), MaxKeyLen)
	case !utf8.ValidString(key):
		return bad("it is not UTF-8")
	}
	for segment := range strings.SplitSeq(key, "/") {
		switch {
		case segment == "":
			return bad("it has an empty segment")
		case segment[0] == '.':
			return bad("a segment begins with a dot")
		case len(segment) > 200:
			return bad("a segment is longer than 200 bytes")
		}
	}
	for _, c := range key {
		if c < 0x20 || c == 0x7f || c == '\\' {
			return bad("it has a control character or a backslash")
		}
	}
	return nil
}

// ReadFile returns the whole object, which may have at most limit bytes: a larger one is an error, and no more than limit
// bytes of it are held.
func ReadFile(ctx context.Context, s Store, key string, limit int64) ([]byte, error) {
	r, err := s.Open(ctx, key, 0, limit+1)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", key, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("reading %s: it is larger than the %d bytes that such an object may have", key, limit)
	}
	return data, nil
}

// WriteFile creates an object of the given bytes. A nil opts means the defaults of Store.Create.
func WriteFile(ctx context.Context, s Store, key string, data []byte, opts *CreateOptions) error {
	w, err := s.Create(ctx, key, opts)
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := w.Write(data); err != nil {
		return fmt.Errorf("writing %s: %w", key, err)
	}
	_, err = w.Commit(ctx)
	return err
}
