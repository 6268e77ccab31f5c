package amber

import (
	"context"
	"errors"
	"fmt"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
)

// Edit changes the description, labels, pin or retention of a backup that is ready, in every store that has it, and returns its manifest as it is then. A
// manifest that is signed is signed anew, by Config.Signer. See backup.Runner.Edit for what may be changed and what the errors wrap. If one store fails the
// others are edited all the same; doing it again does no harm.
func (s *Service) Edit(ctx context.Context, id catalog.ID, e backup.Edit) (*catalog.Backup, error) {
	var edited, unready *catalog.Backup
	var errs []error
	for c := range s.copies(ctx, id) {
		if c.err != nil {
			errs = append(errs, c.err)
			continue
		}
		b, err := c.at.runner.Edit(ctx, id, e)
		switch {
		case err == nil:
			edited = b
		case errors.Is(err, catalog.ErrNotFound):
		case errors.Is(err, backup.ErrNotReady): // what is being deleted, if another store has it ready
			unready = c.b
		default:
			errs = append(errs, c.at.wrap(err))
		}
	}
	switch {
	case len(errs) > 0 && edited != nil:
		return nil, fmt.Errorf("the backup is edited in one store, and not in another, where it has to be edited again: %w", errors.Join(errs...))
	case len(errs) > 0:
		return nil, errors.Join(errs...)
	case edited != nil:
		return edited, nil
	case unready != nil:
		return nil, fmt.Errorf("editing backup %s: %w: it is %s", id, backup.ErrNotReady, unready.State)
	}
	return nil, noBackup(id)
}

// Pin makes retention leave a backup alone, in every store that has it, until it is unpinned. Delete deletes it all the same.
func (s *Service) Pin(ctx context.Context, id catalog.ID) error { return s.pin(ctx, id, true) }

// Unpin leaves a backup to retention again.
func (s *Service) Unpin(ctx context.Context, id catalog.ID) error { return s.pin(ctx, id, false) }

func (s *Service) pin(ctx context.Context, id catalog.ID, pinned bool) error {
	_, err := s.Edit(ctx, id, backup.Edit{Pinned: &pinned})
	return err
}
