package amber

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/govern"
	"github.com/amberkv/amber/catalog"
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

// limits are those of a source, by what a request says of it; nil: nothing.
func (s *Service) limits(own *govern.Limits) *govern.Limits {
	if own != nil {
		return own
	}
	return &s.cfg.SourceLimits
}

// lasted tells how long a snapshot of a data store by a method took, by the newest backup in a store that was made so.
func (s *Service) lasted(dataStore, store string) func(ctx context.Context, method string) time.Duration {
	return func(ctx context.Context, method string) time.Duration {
		at, err := s.place(store)
		if err != nil {
			return 0
		}
		looked := 0
		for b, err := range at.Catalog.List(ctx, catalog.Query{DataStore: dataStore}) {
			if looked++; looked > maxLooked || err != nil && !errors.Is(err, catalog.ErrCorrupt) {
				return 0 // it is guessed then
			}
			if err == nil && b.Source.Method == method && b.Source.Cost != nil && b.Source.Cost.Duration > 0 {
				return b.Source.Cost.Duration
			}
		}
		return 0
	}
}

// maxLooked bounds how many backups are looked at for one of a kind.
const maxLooked = 5

// A spared error came before a source was asked for anything that costs it.
type spared struct{ err error }

func (e *spared) Error() string   { return e.err.Error() }
func (e *spared) Unwrap() []error { return []error{backup.ErrSpared, e.err} }

// budget is how often a data store may be asked for a snapshot, by what a request says of it.
func (s *Service) budget(limits *govern.Limits, own *backup.Budget) backup.Budget {
	switch {
	case slices.Contains(s.limits(limits).Ignore, govern.Budget):
		return backup.Budget{}
	case own != nil:
		return *own
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
