package catalog

import (
	"context"
	"time"
)

// A Sharer is a Leaser that also gives leases which several may have at a time: who reads a backup has one, so that it isn't deleted
// meanwhile.
//
// Who reads takes the lease first and looks after that whether the backup is ready; who deletes says first that the backup is being deleted and
// looks after that for leases. So whichever comes later knows of the other.
type Sharer interface {
	// Share takes a shared lease of a name for ttl. The names of shared leases have nothing to do with those of others. The Token of a
	// shared lease is 0.
	Share(ctx context.Context, name string, ttl time.Duration) (Lease, error)
	// Sharers tells who has shared leases of a name that haven't ended.
	Sharers(ctx context.Context, name string) ([]HeldError, error)
}

// ReadLease is the name of the shared lease that those have who read a backup.
func ReadLease(id ID) string { return "read-" + string(id) }
