package amber

import (
	"errors"
	"fmt"
	"slices"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/govern"
	"github.com/amberkv/amber/schedule"
)

// checkSources checks what the configuration says of how sources are spared.
func (s *Service) checkSources() error {
	if err := s.cfg.SourceLimits.Validate(); err != nil {
		return fmt.Errorf("amber: Config.SourceLimits: %w", err)
	}
	if err := s.cfg.SyncBudget.Validate(); err != nil {
		return fmt.Errorf("amber: Config.SyncBudget: %w", err)
	}
	return nil
}

// limits are those of a request's source.
func (s *Service) limits(q *BackupRequest) *govern.Limits {
	if q.SourceLimits != nil {
		return q.SourceLimits
	}
	return &s.cfg.SourceLimits
}

// A spared error came before a source was asked for anything that costs it.
type spared struct{ err error }

func (e *spared) Error() string   { return e.err.Error() }
func (e *spared) Unwrap() []error { return []error{backup.ErrSpared, e.err} }

// budget is how often the data store of a request may be asked for a snapshot.
func (s *Service) budget(q *BackupRequest) backup.Budget {
	switch limits := s.limits(q); {
	case slices.Contains(limits.Ignore, govern.Budget):
		return backup.Budget{}
	case q.SyncBudget != nil:
		return *q.SyncBudget
	}
	return s.cfg.SyncBudget
}

// later says when the backup of a due time may begin that was refused for its budget.
func later(err error) error {
	if e := (*backup.BudgetError)(nil); errors.As(err, &e) {
		return &schedule.LaterError{At: e.Next, Err: err}
	}
	return err
}
