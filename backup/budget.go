package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/amberkv/amber/catalog"
)

// ErrBudget: the data store has been asked for as many snapshots as its budget allows. The error wraps a *BudgetError too, which says when the next may begin.
var ErrBudget = errors.New("budget of full syncs is used up")

// ErrSpared is wrapped by errors of Snapshotter.Snapshot that came before the source was asked for anything that costs it, such as a fork: the run
// then takes nothing of a Budget. Whoever isn't sure doesn't wrap it.
var ErrSpared = errors.New("source was not asked for a snapshot")

// A Budget bounds how often a data store is asked for a snapshot, over all policies, stores and processes that share a catalog: most ways to take one make
// a server fork. The zero Budget bounds nothing.
//
// Every run counts that asked its source, whatever became of it, and for as long as its record tells: that of a failed run is kept for the grace of Sweep, by
// default DefaultGrace, so a sweep with a shorter grace than Window forgets some. A run that was killed counts, for nobody knows how far it
// came. Imports and copies don't. A part that is read again within one run (ErrAgain) doesn't count anew: that is bounded by whoever takes the snapshot.
type Budget struct {
	Syncs  int           // so many runs at most may begin
	Window time.Duration // within such a time; up to DefaultGrace
}

// Validate returns nil for a budget that can be kept.
func (b Budget) Validate() error {
	switch {
	case b == Budget{}:
	case b.Syncs <= 0:
		return fmt.Errorf("its Syncs is %d, it has to be at least 1", b.Syncs)
	case b.Window <= 0:
		return fmt.Errorf("its Window is %v, it has to be above 0", b.Window)
	case b.Window > DefaultGrace:
		return fmt.Errorf("its Window is %v, it can be %v at most: the records of failed runs are kept no longer", b.Window, DefaultGrace)
	}
	return nil
}

// A BudgetError says that a run was refused for its data store's Budget. The source wasn't asked for anything, and there is no record of the run.
type BudgetError struct {
	Budget Budget
	Began  int       // runs that count
	Next   time.Time // when the next may begin, in UTC
}

// Error tells the budget, and when the next run may begin.
func (e *BudgetError) Error() string {
	return fmt.Sprintf("%v: %d of %d in %v; the next may begin at %s", ErrBudget, e.Began, e.Budget.Syncs, e.Budget.Window, e.Next.Format(time.RFC3339))
}

// Unwrap returns ErrBudget and ErrSpared.
func (e *BudgetError) Unwrap() []error { return []error{ErrBudget, ErrSpared} }

// afford returns a *BudgetError if the data store's budget is used up. The caller holds its lease, and whoever asks the source has registered while holding
// it: so nothing is overlooked, but what a process that was paused has registered since, and such a one finds its lease lost before it asks.
func (n *run) afford(ctx context.Context) error {
	budget := n.q.Budget
	if budget == (Budget{}) || n.q.Kind == catalog.KindImport {
		return nil
	}
	now := n.now()
	began := map[catalog.ID]time.Time{}
	note := func(id catalog.ID, kind catalog.Kind, at time.Time) {
		switch {
		case kind == catalog.KindImport || kind == catalog.KindCopy:
		case !at.After(now.Add(-budget.Window)): // over
		case at.After(now.Add(budget.Window)): // by a clock that was wrong
		default:
			began[id] = at
		}
	}
	query := catalog.Query{DataStore: n.q.DataStore, From: now.Add(-budget.Window), States: []catalog.State{catalog.StateRunning, catalog.StateReady,
		catalog.StateFailed, catalog.StateInterrupted, catalog.StateDeleting}}
	for _, c := range append([]catalog.Catalog{n.cfg.Catalog}, n.q.Others...) {
		for b, err := range c.List(ctx, query) {
			switch {
			case errors.Is(err, catalog.ErrCorrupt):
				n.log.WarnContext(ctx, "a manifest can't be read, the budget of full syncs goes without it", "dataStore", n.q.DataStore, "error", err)
			case err != nil:
				return fmt.Errorf("%w: counting the runs of late: %w", ErrStore, err)
			case !b.Spared:
				note(b.ID, b.Kind, b.CreatedAt)
			}
		}
		// What was deleted since may have no record any more.
		ledger, ok := c.(catalog.Ledger)
		if !ok {
			continue
		}
		for s, err := range ledger.Stays(ctx, query.From, now) {
			switch {
			case errors.Is(err, catalog.ErrCorrupt):
			case err != nil:
				return fmt.Errorf("%w: counting the backups that were deleted of late: %w", ErrStore, err)
			case s.DataStore == n.q.DataStore:
				if at, ok := s.ID.Time(); ok {
					note(s.ID, s.Kind, at)
				}
			}
		}
	}
	if len(began) < budget.Syncs {
		return nil
	}
	times := make([]time.Time, 0, len(began))
	for _, at := range began {
		times = append(times, at)
	}
	slices.SortFunc(times, time.Time.Compare)
	return &BudgetError{Budget: budget, Began: len(times), Next: times[len(times)-budget.Syncs].Add(budget.Window).UTC()}
}
