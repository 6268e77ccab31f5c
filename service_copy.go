package amber

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
)

// A CopyBackupRequest says which backup is copied into which store.
type CopyBackupRequest struct {
	Backup catalog.ID // required
	To     string     // the name of one of Config.Stores; empty: Config.Store

	// Progress is called about five times a second, from one goroutine at a time. It may be nil.
	Progress func(Progress)
}

// A CopyBackupReport says what copying a backup did.
type CopyBackupReport struct {
	Backup   *catalog.Backup `json:"backup"`         // as the store has it
	From     string          `json:"from,omitempty"` // the names of the stores; empty: Config.Store
	To       string          `json:"to,omitempty"`
	Existing bool            `json:"existing,omitempty"` // the store had the same backup already, nothing was done
	Took     time.Duration   `json:"took"`               // in nanoseconds
}

// CopyBackup copies a ready backup from one store into another, as it is: the stored bytes, without decrypting or decompressing, under the
// same ID and with the same manifest. It is listed there when all of it is there, read back and equal. If several stores have it, the first
// whose bytes are those of the manifest is taken. A store that has the same backup already is no error. See backup.Runner.Copy for
// what the errors wrap, and for what a copy leaves that fails.
func (s *Service) CopyBackup(ctx context.Context, q CopyBackupRequest) (*CopyBackupReport, error) {
	if q.Backup == "" {
		return nil, errors.New("amber: CopyBackupRequest.Backup is required")
	}
	to, err := s.place(q.To)
	if err != nil {
		return nil, err
	}
	watch := s.watch(ctx, Event{Operation: "copy", Backup: q.Backup, Store: to.Name}, q.Progress)
	rep, err := s.copyBackup(ctx, to, &q, watch)
	if err != nil {
		watch.end(0, 0, err)
		return nil, err
	}
	rep.Took = s.now().Sub(watch.start)
	watch.end(rep.Backup.Keys, rep.Backup.StoredBytes, nil)
	return rep, nil
}

func (s *Service) copyBackup(ctx context.Context, to *place, q *CopyBackupRequest, watch *watch) (*CopyBackupReport, error) {
	var errs []error
	var there *catalog.Backup
	for c := range s.copies(ctx, q.Backup) {
		switch {
		case c.err != nil:
			errs = append(errs, c.err)
			continue
		case c.b.State != catalog.StateReady && c.at == to: // maybe what a copy left
			continue
		case c.b.State != catalog.StateReady:
			errs = append(errs, c.at.wrap(notReady(c.b)))
			continue
		case c.at == to:
			there = c.b
			watch.about(to, c.b)
			continue
		}
		watch.about(to, c.b)
		b, made, err := to.runner.Copy(ctx, backup.CopyRequest{Backup: q.Backup, Store: c.at.Store, Catalog: c.at.Catalog,
			Progress: watch.backup})
		if err == nil {
			rep := &CopyBackupReport{Backup: b, From: c.at.Name, To: to.Name, Existing: !made}
			s.cfg.Logger.InfoContext(ctx, "backup is copied", "backup", b.ID, "from", rep.From, "to", rep.To, "existing", rep.Existing, "bytes", b.StoredBytes)
			return rep, nil
		}
		errs = append(errs, fmt.Errorf("from store %q to %q: %w", c.at.Name, to.Name, err))
		if !errors.Is(err, backup.ErrNotSound) && !errors.Is(err, backup.ErrSource) {
			break // another copy wouldn't help
		}
	}
	switch {
	case len(errs) > 0:
		return nil, errors.Join(errs...)
	case there != nil:
		return &CopyBackupReport{Backup: there, From: to.Name, To: to.Name, Existing: true}, nil
	}
	return nil, fmt.Errorf("copy: %w", noBackup(q.Backup))
}
