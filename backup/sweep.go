package backup

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/crashpoint"
	"github.com/amberkv/amber/storage"
)

// DefaultGrace is how long the record of a run that came to nothing is kept.
const DefaultGrace = 24 * time.Hour

// A SweepReport says what a sweep removed.
type SweepReport struct {
	Interrupted int   `json:"interrupted"` // dead runs that were marked as such
	Records     int   `json:"records"`     // of runs that came to nothing, and of deleted backups
	Objects     int   `json:"objects"`     // parts of them, and what killed writers left unfinished
	Bytes       int64 `json:"bytes"`       // of those
}

// Add adds what another sweep removed.
func (r *SweepReport) Add(o SweepReport) {
	r.Interrupted += o.Interrupted
	r.Records += o.Records
	r.Objects += o.Objects
	r.Bytes += o.Bytes
}

// Sweep removes what no backup needs: the parts of runs that died, failed or were cancelled, of backups whose deletion was cut
// short, and what killed writers left in the store. Runs that are at work keep their data store's lease and are left alone,
// as is everything that belongs to a ready backup, to a manifest that can't be read, or to somebody else.
//
// What was deleted while somebody read it keeps its parts until they have read it: then they go. Which backups are to be kept no longer Prune
// decides.
//
// The parts go at once. The records of runs that came to nothing stay for the grace time, counted from
// their beginning, and unfinished writes for the same time since they were last written to: so long may a process be paused and still find, when it
// wakes up, that its run was declared dead. 0 means DefaultGrace; less than a minute is refused, but for a negative grace, which means
// none: it is safe only when no run is paused anywhere.
func (r *Runner) Sweep(ctx context.Context, grace time.Duration) (SweepReport, error) {
	switch {
	case grace == 0:
		grace = DefaultGrace
	case grace < 0:
		grace = 0
	case grace < time.Minute:
		return SweepReport{}, fmt.Errorf("backup: a sweep's grace of %v is too short: a run that was paused for longer could find its parts gone; use at least 1m", grace)
	}
	var rep SweepReport
	before := r.now().Add(-grace)
	var errs []error
	query := catalog.Query{States: []catalog.State{catalog.StateRunning, catalog.StateFailed, catalog.StateInterrupted, catalog.StateDeleting}}
	for b, err := range r.cfg.Catalog.List(ctx, query) {
		if err == nil {
			err = r.sweep(ctx, b, before, &rep)
		}
		if err != nil && !errors.Is(err, catalog.ErrCorrupt) {
			errs = append(errs, err)
		}
		if ctx.Err() != nil {
			return rep, errors.Join(errs...)
		}
	}
	if err := r.sweepOrphans(ctx, before, &rep); err != nil {
		errs = append(errs, err)
	}
	if err := r.reindex(ctx); err != nil {
		errs = append(errs, err)
	}
	if tidier, ok := r.cfg.Catalog.(catalog.Tidier); ok {
		if err := tidier.Tidy(ctx); err != nil {
			errs = append(errs, err)
		}
	}
	objects, bytes, err := storage.SweepUnfinished(ctx, r.cfg.Store, before)
	rep.Objects, rep.Bytes = rep.Objects+objects, rep.Bytes+bytes
	if err != nil {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return rep, fmt.Errorf("%w: sweeping: %w", ErrStore, err)
	}
	return rep, nil
}

// sweep removes the parts, and after the grace time the record, of something that is no backup.
func (r *Runner) sweep(ctx context.Context, b *catalog.Backup, before time.Time, rep *SweepReport) error {
	running, copied := b.State == catalog.StateRunning, b.Kind == catalog.KindCopy
	if running {
		// It may have ended since it was listed: the lease of its data store is not taken for nothing, for it keeps others from beginning.
		now, _, err := r.cfg.Catalog.Get(ctx, b.ID)
		if errors.Is(err, catalog.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		running = now.State == catalog.StateRunning
	}
	if running || copied {
		lease, err := r.cfg.Leaser.Acquire(ctx, leaseOf(b), r.cfg.LeaseTTL)
		if errors.Is(err, catalog.ErrHeld) {
			return nil // somebody is at work on this data store, maybe on this very backup; they or the next sweep will see to it
		}
		if err != nil {
			return err
		}
		if running {
			if err = r.interrupt(ctx, b.ID); err == nil {
				rep.Interrupted++
			}
		}
		if err == nil && copied {
			// Whoever holds the lease can start it again under the same ID: that has to wait.
			err = r.sweepRecord(ctx, b.ID, before, rep)
		}
		if rerr := lease.Release(ctx); err == nil {
			err = rerr
		}
		if err != nil || copied {
			return err
		}
	}
	return r.sweepRecord(ctx, b.ID, before, rep)
}

// sweepRecord removes the parts and, when its time has come, the record of something that is no backup.
func (r *Runner) sweepRecord(ctx context.Context, id catalog.ID, before time.Time, rep *SweepReport) error {
	// The state decides, not what List said a while ago: only what is no backup any more and can't become one is touched.
	b, rev, err := r.cfg.Catalog.Get(ctx, id)
	if errors.Is(err, catalog.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	switch b.State {
	case catalog.StateFailed, catalog.StateInterrupted:
	case catalog.StateDeleting:
		err := r.finish(ctx, b, rev, rep)
		if errors.Is(err, ErrBusy) {
			r.log.InfoContext(ctx, "a backup that was deleted is still being read, its parts stay until then", "dataStore", b.DataStore, "backup", id, "error", err)
			return nil
		}
		return err
	default:
		return nil
	}
	if err := r.removeParts(ctx, b, rev, rep); err != nil {
		return err
	}
	if b.CreatedAt.After(before) {
		return nil
	}
	if err := r.cfg.Catalog.Delete(ctx, b.ID, rev); err != nil && !errors.Is(err, catalog.ErrNotFound) {
		return err
	}
	rep.Records++
	return nil
}

// removeParts deletes the parts below a backup's prefix, whether a manifest names them or not. rev is that of a record which says that it
// is no backup. While it stands nobody makes one of that ID, so before each object that is looked at again: another sweep may have ended
// this work, and the same backup been copied into the store anew.
func (r *Runner) removeParts(ctx context.Context, b *catalog.Backup, rev catalog.Revision, rep *SweepReport) error {
	for info, err := range r.cfg.Store.List(ctx, b.Prefix()+partPrefix) {
		if err != nil {
			return err
		}
		if _, now, err := r.cfg.Catalog.Get(ctx, b.ID); errors.Is(err, catalog.ErrNotFound) || err == nil && now != rev {
			return nil // what is left is the business of whoever changed it
		} else if err != nil {
			return err
		}
		if err := r.cfg.Store.Delete(ctx, info.Key); err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		rep.Objects++
		rep.Bytes += info.Size
	}
	return nil
}

// partPrefix begins the name of every part's object, and of nothing else below a backup's prefix.
const partPrefix = "part-"

// sweepOrphans removes parts that no record speaks of: those of a process that slept while its run was declared dead and
// swept, and was killed when it woke up and stored some more.
func (r *Runner) sweepOrphans(ctx context.Context, before time.Time, rep *SweepReport) error {
	known := map[catalog.ID]bool{}
	for info, err := range r.cfg.Store.List(ctx, "") {
		if err != nil {
			return err
		}
		dir, name := path.Split(info.Key)
		dataStore, last, ok := strings.Cut(strings.TrimSuffix(dir, "/"), "/")
		id := catalog.ID(last)
		began, isID := id.Time()
		if !ok || !isID || !strings.HasPrefix(name, partPrefix) || catalog.ValidName(dataStore) != nil || began.After(before) || info.ModTime.After(before) {
			continue
		}
		has, asked := known[id]
		if !asked {
			_, _, err := r.cfg.Catalog.Get(ctx, id)
			if err != nil && !errors.Is(err, catalog.ErrNotFound) && !errors.Is(err, catalog.ErrCorrupt) {
				return err
			}
			has = !errors.Is(err, catalog.ErrNotFound) // also when it can't be read
			known[id] = has
		}
		if has {
			continue
		}
		if err := r.cfg.Store.Delete(ctx, info.Key); err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		rep.Objects++
		rep.Bytes += info.Size
	}
	return nil
}

// Delete removes a backup. It is unlisted first; a kill at any instant leaves garbage that a sweep removes, never a listed backup
// with parts missing. What the backup has adopted stays in the store. The error wraps catalog.ErrNotFound if there is none, and ErrBusy for one
// that is being made, or read: then it says by whom. If somebody begins to read it at the same moment it may be unlisted already, and its
// parts are left to a sweep, which the error says then.
func (r *Runner) Delete(ctx context.Context, id catalog.ID) error {
	b, rev, err := r.cfg.Catalog.Get(ctx, id)
	if err != nil {
		return err
	}
	if b.State == catalog.StateReady {
		reader, err := r.reader(ctx, id)
		if err != nil {
			return fmt.Errorf("%w: deleting backup %s: finding out who reads it: %w", ErrStore, id, err)
		}
		if reader != "" {
			return fmt.Errorf("deleting backup %s: %w", id, &readError{reader})
		}
	}
	_, err = r.delete(ctx, b, rev, &SweepReport{})
	return err
}

// reader says who reads a backup, in words; empty if nobody does or, for want of shared leases, nobody can know.
func (r *Runner) reader(ctx context.Context, id catalog.ID) (string, error) {
	sharer, ok := r.cfg.Leaser.(catalog.Sharer)
	if !ok {
		return "", nil
	}
	held, err := sharer.Sharers(ctx, catalog.ReadLease(id))
	if err != nil || len(held) == 0 {
		return "", err
	}
	var who []string
	for _, h := range held {
		who = append(who, fmt.Sprintf("%s until %s, unless renewed", h.Owner, h.Until.UTC().Format(time.RFC3339)))
	}
	return strings.Join(who, ", and "), nil
}

// A readError says that a backup is being read.
type readError struct{ reader string }

func (e *readError) Error() string        { return "it is being read by " + e.reader }
func (e *readError) Is(target error) bool { return target == ErrBusy }

// delete unlists a backup, and removes what is left of one that was unlisted before. It tells whether the backup isn't listed any more because of this
// call, whatever the error says.
func (r *Runner) delete(ctx context.Context, b *catalog.Backup, rev catalog.Revision, rep *SweepReport) (unlisted bool, err error) {
	id := b.ID
	switch b.State {
	case catalog.StateRunning:
		return false, fmt.Errorf("deleting backup %s: %w: cancel its run, or sweep if it died", id, ErrBusy)
	case catalog.StateDeleting:
	default:
		if unlisted = b.State == catalog.StateReady; unlisted {
			b.DeletedAt = r.now().UTC()
		}
		b.State, b.Signature = catalog.StateDeleting, nil // what was signed was ready
		if rev, err = r.unlist(ctx, b, rev); err != nil {
			return false, fmt.Errorf("deleting backup %s: %w", id, err)
		}
	}
	crashpoint.Hit(crashpoint.DeleteMarked)
	if err := r.finish(ctx, b, rev, rep); errors.Is(err, ErrBusy) {
		return unlisted, fmt.Errorf("deleting backup %s, which is unlisted by now: %w; a sweep will remove the rest when that has ended", id, err)
	} else if err != nil {
		return unlisted, fmt.Errorf("%w: deleting backup %s, which is unlisted by now; a sweep will remove the rest: %w", ErrStore, id, err)
	}
	return unlisted, nil
}

// unlist writes that a backup is being deleted. If the catalog fails it may have been written all the same, which the time of its deletion tells.
func (r *Runner) unlist(ctx context.Context, b *catalog.Backup, rev catalog.Revision) (catalog.Revision, error) {
	rev, err := r.cfg.Catalog.Put(ctx, b, rev)
	if err == nil || b.DeletedAt.IsZero() {
		return rev, err
	}
	now, at, gerr := r.cfg.Catalog.Get(ctx, b.ID)
	if gerr != nil || now.State != catalog.StateDeleting || !now.DeletedAt.Equal(b.DeletedAt) {
		return "", err
	}
	return at, nil
}

// finish removes what is left of a backup that is being deleted, once that is in the ledger: a kill in between must not make its time forgotten. Who
// reads it took the lease before looking whether it was ready; so if it was, they are found here. What never was ready, and so has no time of its
// deletion, nobody reads: it is what is left of a copy, and the lease that of who copies the backup anew.
func (r *Runner) finish(ctx context.Context, b *catalog.Backup, rev catalog.Revision, rep *SweepReport) error {
	if ledger, ok := r.cfg.Catalog.(catalog.Ledger); ok && !b.DeletedAt.IsZero() {
		if err := ledger.Ended(ctx, b); err != nil {
			return fmt.Errorf("noting how long it was kept: %w", err)
		}
	}
	crashpoint.Hit(crashpoint.DeleteNoted)
	if !b.DeletedAt.IsZero() {
		if reader, err := r.reader(ctx, b.ID); err != nil {
			return fmt.Errorf("finding out who reads it: %w", err)
		} else if reader != "" {
			return &readError{reader}
		}
	}
	if err := r.removeParts(ctx, b, rev, rep); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.DeleteObjects)
	switch err := r.cfg.Catalog.Delete(ctx, b.ID, rev); {
	case errors.Is(err, catalog.ErrNotFound) || errors.Is(err, catalog.ErrConflict):
		return nil // somebody else finishes it as well: nothing else becomes of such a record
	case err != nil:
		return err
	}
	rep.Records++
	return nil
}
