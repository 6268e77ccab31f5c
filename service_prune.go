package amber

import (
	"context"
	"errors"
	"strings"

	"github.com/amberkv/amber/backup"
)

// A PruneRequest says what retention is to be carried out on.
type PruneRequest struct {
	DataStore string // empty: all of them, those too that are no more
	// AcceptFall accepts the falls in keys that hold retention now, this once. A policy accepts them for good: see retention.Rules.
	AcceptFall bool
	// DryRun says what would be done, and does nothing.
	DryRun bool
}

// Prune deletes in all stores the backups that were promised to be kept no longer: automatic ones by the rules of their policies, all others
// by the retention that they were made with. The report has every backup's fate, and the reasons for it. In each store
// the newest good backup of a data store stays whatever was promised, as do those that are pinned or being read; and nothing at all is deleted of a data
// store whose keys have fallen sharply, or by a clock that isn't to be trusted. See retention.Plan for all that, and backup.Runner.Prune for what
// the errors wrap. A host has this done now and then, and by Schedule.
func (s *Service) Prune(ctx context.Context, q PruneRequest) (backup.PruneReport, error) {
	all := backup.PruneReport{DryRun: q.DryRun, Fates: []backup.Fate{}, Held: []backup.Held{}}
	var errs []error
	for _, at := range s.places {
		rep, err := at.runner.Prune(ctx, backup.PruneRequest{DataStore: q.DataStore, Promises: s.promises, AcceptFall: q.AcceptFall, DryRun: q.DryRun})
		all.Add(rep, at.Name)
		if err != nil {
			errs = append(errs, at.wrap(err))
		}
	}
	if !q.DryRun {
		s.tellPrune(ctx, all)
	}
	return all, errors.Join(errs...)
}

// tellPrune tells what retention did.
func (s *Service) tellPrune(ctx context.Context, rep backup.PruneReport) {
	for _, h := range rep.Held {
		s.tellHeld(ctx, Held{DataStore: h.DataStore, Store: h.Store, Reason: h.Reason})
	}
	for _, f := range rep.Fates {
		if f.Deleted {
			s.tellPruned(ctx, Pruned{Backup: f.Backup, Store: f.Store, Reason: strings.Join(f.Reasons, "; ")})
		}
	}
	s.tellRetention(ctx, rep)
}
