// Package catalog knows which backups there are and what is in them.
//
// A [Backup] is the manifest of one backup: where it came from, what is in it, where its parts are and how they were
// proved. A [Catalog] keeps manifests and lets one writer at a time change each; a [Leaser] gives one process at a time
// the right to work on a data store. Package storecatalog keeps both in the store that holds the backups themselves, so
// that a bucket describes itself; a catalog of your own proves itself with catalogtest.Run.
package catalog

import (
	"context"
	"errors"
	"iter"
	"time"
)

// Errors that every catalog returns, wrapped with the backup or lease they are about.
var (
	// ErrNotFound: there is no such backup.
	ErrNotFound = errors.New("backup does not exist")
	// ErrConflict: the backup was changed or created by somebody else since the revision at hand.
	ErrConflict = errors.New("backup was changed by another writer")
	// ErrCorrupt: a manifest can't be trusted: it is cut, changed, or written by a newer Amber.
	ErrCorrupt = errors.New("manifest is corrupt")
	// ErrHeld: somebody else has the lease. See HeldError.
	ErrHeld = errors.New("lease is held by another process")
	// ErrLeaseLost: the lease ended, or somebody else has it by now.
	ErrLeaseLost = errors.New("lease was lost")
)

// A Revision names one version of a backup's manifest. The empty one means "none yet".
type Revision string

// A Catalog keeps the manifests of backups. It is safe for use by several goroutines and processes.
type Catalog interface {
	// Put writes a manifest if the catalog's revision of it is prev, and returns the new one; an empty prev means that
	// the catalog must not have the backup yet. Otherwise the error wraps ErrConflict and nothing is changed. Of
	// several writers with the same prev exactly one wins. Put doesn't keep b.
	//
	// When the error does not wrap ErrConflict the outcome is unknown: Get and compare.
	Put(ctx context.Context, b *Backup, prev Revision) (Revision, error)

	// Get returns a manifest, which the caller then owns, and its revision. The error wraps ErrNotFound or ErrCorrupt.
	Get(ctx context.Context, id ID) (*Backup, Revision, error)

	// List gives the backups that q selects, newest first. A manifest that can't be read is an error in the sequence
	// that wraps ErrCorrupt, after which the sequence goes on: one bad manifest does not hide the others.
	List(ctx context.Context, q Query) iter.Seq2[*Backup, error]

	// Delete removes a manifest if its revision is rev, else the error wraps ErrConflict or ErrNotFound. The parts are
	// the caller's to delete, before this.
	Delete(ctx context.Context, id ID, rev Revision) error
}

// A Leaser gives out leases: the right to be the only one at work on something, for as long as it is renewed.
type Leaser interface {
	// Acquire takes the lease called name for ttl, or returns at once with a *HeldError (which wraps ErrHeld) if
	// somebody has it. Each lease of a name has a higher fencing token than all before it. A holder that died loses its
	// lease after ttl.
	Acquire(ctx context.Context, name string, ttl time.Duration) (Lease, error)
}

// A Lease is held until it is released or not renewed in time.
type Lease interface {
	// Token is the fencing token: higher than that of any earlier lease of the same name.
	Token() int64
	// Renew prolongs the lease to its ttl from now. The error wraps ErrLeaseLost when it has ended or somebody else has
	// it; then the holder has to stop.
	Renew(ctx context.Context) error
	// Release ends the lease. Releasing one that was lost does nothing.
	Release(ctx context.Context) error
}

// A HeldError says who has a lease and until when, if it is not renewed.
type HeldError struct {
	Name  string    // of the lease
	Owner string    // host and process, as its holder gave them
	Until time.Time // when it ends unless it is renewed
}

// Error names the lease, its owner and its end.
func (e *HeldError) Error() string {
	return "lease " + e.Name + " is held by " + e.Owner + " until " + e.Until.UTC().Format(time.RFC3339) +
		", unless renewed"
}

// Unwrap returns ErrHeld.
func (e *HeldError) Unwrap() error { return ErrHeld }
