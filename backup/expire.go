package backup

import (
	"context"
	"errors"

	"github.com/amberkv/amber/catalog"
)

// expire deletes of the ready backups, newest first, those whose time is over.
//
// Two of each data store stay whatever their time: the newest, and the newest that isn't adopted. What is adopted a server may overwrite
// at any moment, so it must not be what the last copy of Amber's own is let go for.
func (r *Runner) expire(ctx context.Context, ready []*catalog.Backup, rep *SweepReport) error {
	var errs []error
	newest, own := map[string]catalog.ID{}, map[string]catalog.ID{}
	for _, b := range ready {
		if newest[b.DataStore] == "" {
			newest[b.DataStore] = b.ID
		}
		if own[b.DataStore] == "" && !adopted(b) {
			own[b.DataStore] = b.ID
		}
		switch {
		case b.DeleteAfter.IsZero() || r.now().Before(b.DeleteAfter):
			continue
		case newest[b.DataStore] == b.ID || own[b.DataStore] == b.ID:
			r.log.InfoContext(ctx, "a backup is kept past its time: it is the newest good one of its data store",
				"dataStore", b.DataStore, "backup", b.ID, "deleteAfter", b.DeleteAfter)
			continue
		}
		now, rev, err := r.cfg.Catalog.Get(ctx, b.ID)
		switch {
		case errors.Is(err, catalog.ErrNotFound) || err == nil && (now.State != catalog.StateReady || !now.DeleteAfter.Equal(b.DeleteAfter)):
			continue // somebody has deleted it, or thought better of it
		case err == nil:
			err = r.delete(ctx, now, rev, rep)
		}
		if err != nil && !errors.Is(err, catalog.ErrConflict) {
			errs = append(errs, err)
			if ctx.Err() != nil {
				break
			}
			continue
		}
		if err == nil {
			rep.Expired++
			r.log.InfoContext(ctx, "a backup was deleted: its time is over, and there is a newer one",
				"dataStore", b.DataStore, "backup", b.ID, "createdAt", b.CreatedAt, "deleteAfter", b.DeleteAfter, "newer", newest[b.DataStore])
		}
	}
	return errors.Join(errs...)
}

// adopted tells whether a backup has a part that isn't its own.
func adopted(b *catalog.Backup) bool {
	for _, p := range b.Parts {
		if p.Adopted {
			return true
		}
	}
	return false
}
