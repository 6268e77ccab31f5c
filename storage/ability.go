package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// A StoreCloser is a Store that whoever opened it closes, when nothing uses it any more.
type StoreCloser interface {
	Store
	io.Closer
}

// unwrap returns the store that s works on, or nil.
func unwrap(s Store) Store {
	if u, ok := s.(interface{ Unwrap() Store }); ok {
		return u.Unwrap()
	}
	return nil
}

// Capabilities say what a store can promise. The zero value is a store that can't promise anything but what every store has to.
type Capabilities struct {
	// Exclusive: of all writers that race for a key with CreateOptions.IfNotExist exactly one wins, across processes and machines.
	// Without it the catalog can't be kept in the store: it has to be in a database.
	Exclusive bool
}

// A Limited store says what it can promise. A store that isn't Limited promises all of it.
type Limited interface {
	Capabilities() Capabilities
}

// CapabilitiesOf returns what a store can promise.
func CapabilitiesOf(s Store) Capabilities {
	for ; s != nil; s = unwrap(s) {
		if l, ok := s.(Limited); ok {
			return l.Capabilities()
		}
	}
	return Capabilities{Exclusive: true}
}

// A Sweeper is a Store that a killed writer can leave something behind in, invisible to List: a temporary file, an
// unfinished multipart upload.
type Sweeper interface {
	// SweepUnfinished removes what writers left that have not written anything since before, and says how many bytes
	// in how many unfinished objects it removed. A writer that is still at work and loses its temporary object to a
	// sweep fails at Commit; choose a time well past the longest pause a writer can make.
	SweepUnfinished(ctx context.Context, before time.Time) (objects int, bytes int64, err error)
}

// SweepUnfinished sweeps a store if it is a Sweeper; else there is nothing to do.
func SweepUnfinished(ctx context.Context, s Store, before time.Time) (objects int, bytes int64, err error) {
	for ; s != nil; s = unwrap(s) {
		if sweeper, ok := s.(Sweeper); ok {
			return sweeper.SweepUnfinished(ctx, before)
		}
	}
	return 0, 0, ctx.Err()
}

// A Versioned reader is one of Store.Open that knows which version of its object it reads. It saves who reads with care asking before.
type Versioned interface {
	// Version returns the object's key, size and time when it was opened. The time may be coarser than Stat's, but is the same whenever the
	// same version is opened.
	Version() Info
}

// VersionOf tells which version of an object a reader reads, if it knows.
func VersionOf(r io.Reader) (Info, bool) {
	if v, ok := r.(Versioned); ok {
		return v.Version(), true
	}
	return Info{}, false
}

// A URLSigner is a Store that can let others read an object without credentials.
type URLSigner interface {
	// SignGet returns a URL that reads the object by GET until ttl has passed. Whoever has the URL can read it: it is a secret. That the
	// object exists is not checked. The error wraps errors.ErrUnsupported if the store at hand has no way to do it.
	SignGet(ctx context.Context, key string, ttl time.Duration) (string, error)
}

// SignGet returns a URL that reads an object by GET until ttl has passed, if the store is a URLSigner; else the error
// wraps errors.ErrUnsupported.
func SignGet(ctx context.Context, s Store, key string, ttl time.Duration) (string, error) {
	for ; s != nil; s = unwrap(s) {
		if signer, ok := s.(URLSigner); ok {
			return signer.SignGet(ctx, key, ttl)
		}
	}
	return "", fmt.Errorf("a signed URL of %s: %w: this store has no URLs", key, errors.ErrUnsupported)
}

// A Fact is something that a store tells about itself, for a person to read. It is never a secret.
type Fact struct {
	Name  string `json:"name"` // such as "endpoint", "region", "credentials"
	Value string `json:"value"`
}

// A Describer is a Store that tells about itself, and what to do about its errors.
type Describer interface {
	// Describe returns what the store is and how it is reached. It may ask the store's credentials for who they are, but does
	// not fail: what can't be found out says why.
	Describe(ctx context.Context) []Fact
	// Advise says what an operator may change so that an error of this store goes away; empty: it has no advice.
	Advise(err error) string
}

// DescriberOf returns the Describer that a store is or works on, or nil.
func DescriberOf(s Store) Describer {
	for ; s != nil; s = unwrap(s) {
		if d, ok := s.(Describer); ok {
			return d
		}
	}
	return nil
}
