// Package reading keeps a backup from being deleted while somebody reads it: whoever reads holds the backup's read lease, which
// whoever deletes looks for.
//
// A lease is a courtesy and no condition. What can't be written to, such as a bucket or a directory for reading only, can be read all the same: a restore
// in an emergency doesn't fail for want of a lease. It is told then, and nobody is kept from deleting the backup.
package reading

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/clock"
)

// DefaultTTL is how long a reader that died keeps a backup from being deleted.
const DefaultTTL = 30 * time.Second

// The longest that a reading waits for its lease, and for its release at the end: whoever has not gone waits, for a backup that is said to be read can't be deleted.
const (
	takeTime    = 10 * time.Second
	patience    = 10 * time.Second
	releaseTime = 500 * time.Millisecond
)

// ErrDeleted: the backup was deleted while it was read, because the reader had lost its lease.
var ErrDeleted = errors.New("backup was deleted while it was read")

// A Guard holds the leases of those who read the backups of a catalog. The zero Guard holds none.
type Guard struct {
	Catalog catalog.Catalog  // is asked whether a backup is still ready, when its lease was lost
	Leaser  catalog.Leaser   // gives the leases, if it is a catalog.Sharer; nil: none are taken
	TTL     time.Duration    // how long a reader that died keeps a backup; 0: DefaultTTL
	Logger  *slog.Logger     // nil: discard
	Now     func() time.Time // nil: the machine's clock
}

// Hold takes the read lease of a backup, whose manifest the caller reads after that, and renews it until end is called. What is read has
// to be read with the context that it returns.
//
// A lease that is lost, because the process was paused, is taken anew. If the backup is no longer ready then, the context ends, and end makes
// of an error one that wraps ErrDeleted; of nil it makes nothing. If there is no lease to be had, that is logged, and tried again now and then.
func (g *Guard) Hold(ctx context.Context, id catalog.ID) (held context.Context, end func(err error) error) {
	if g.Leaser == nil {
		return ctx, func(err error) error { return err }
	}
	h := &hold{Guard: *g, id: id, now: clock.Or(g.Now)}
	if h.TTL <= 0 {
		h.TTL = DefaultTTL
	}
	if h.Logger == nil {
		h.Logger = slog.New(slog.DiscardHandler)
	}
	sharer, ok := g.Leaser.(catalog.Sharer)
	if !ok {
		h.warn(ctx, errors.New("the leaser gives no shared leases"))
		return ctx, func(err error) error { return err }
	}
	h.sharer = sharer
	first, stop := context.WithTimeout(ctx, min(takeTime, h.TTL))
	h.take(first)
	stop()

	held, cancel := context.WithCancelCause(ctx)
	renewing, finish := context.WithCancel(held)
	every := clock.Every(h.TTL/3, func() {
		if gone := h.keep(renewing); gone != nil {
			cancel(gone)
		}
	})
	return held, func(err error) error {
		finish() // a renewal under way ends at once
		every()
		gone := context.Cause(held)
		cancel(nil)
		free, done := clock.Outlive(ctx, patience, releaseTime)
		h.release(free)
		done()
		switch {
		case err == nil || !errors.Is(gone, ErrDeleted) || errors.Is(err, ErrDeleted):
			return err
		case errors.Is(err, context.Canceled):
			return gone // nobody else has cancelled it
		}
		return fmt.Errorf("%w: %w", gone, err)
	}
}

// hold is one call of Hold.
type hold struct {
	Guard
	id      catalog.ID
	sharer  catalog.Sharer
	now     clock.Func
	lease   catalog.Lease // nil while there is none
	renewed time.Time     // when that was taken or renewed
	unsure  bool          // since the last look at the backup there was a time without a lease
	warned  bool
}

func (h *hold) warn(ctx context.Context, err error) {
	if !h.warned && ctx.Err() != context.Canceled {
		h.warned = true
		h.Logger.WarnContext(ctx, "a backup is read without a lease: nobody is kept from deleting it meanwhile", "backup", h.id, "error", err)
	}
}

// take takes a lease, if there is one to be had.
func (h *hold) take(ctx context.Context) {
	before := h.now()
	lease, err := h.sharer.Share(ctx, catalog.ReadLease(h.id), h.TTL)
	if err != nil {
		h.warn(ctx, err)
		return
	}
	h.lease, h.renewed = lease, before
}

// keep renews the lease, or takes a new one. The error wraps ErrDeleted: there is nothing more to be read.
func (h *hold) keep(ctx context.Context) error {
	if h.lease != nil {
		before := h.now()
		err := h.lease.Renew(ctx)
		switch {
		case err == nil:
			h.renewed = before
		case ctx.Err() != nil, !errors.Is(err, catalog.ErrLeaseLost) && h.now().Sub(h.renewed) < h.TTL:
			return nil // it lasts, or nobody needs it any more
		default:
			h.Logger.WarnContext(ctx, "the read lease of a backup was lost, a new one is taken", "backup", h.id, "error", err)
			short, done := context.WithTimeout(ctx, releaseTime)
			h.release(short)
			done()
		}
	}
	if h.lease == nil {
		h.unsure = true
		h.take(ctx)
	}
	if !h.unsure || h.Catalog == nil {
		return nil
	}
	b, _, err := h.Catalog.Get(ctx, h.id)
	switch {
	case errors.Is(err, catalog.ErrNotFound):
		return fmt.Errorf("%w: there is no backup %s any more; this process had no lease of it, because it was paused or could not get one", ErrDeleted, h.id)
	case err == nil && b.State != catalog.StateReady:
		return fmt.Errorf("%w: backup %s is %s; this process had no lease of it, because it was paused or could not get one", ErrDeleted, h.id, b.State)
	case err == nil:
		h.unsure = h.lease == nil
	}
	return nil // what can't be asked now is asked the next time
}

// release gives the lease back. One that can't be given back ends by itself.
func (h *hold) release(ctx context.Context) {
	if h.lease == nil {
		return
	}
	if err := h.lease.Release(ctx); err != nil {
		h.Logger.WarnContext(ctx, "the read lease of a backup was not released, it ends by itself", "backup", h.id, "error", err)
	}
	h.lease = nil
}
