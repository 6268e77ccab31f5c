package amber

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"sync"
	"time"

	"github.com/amberkv/amber/catalog/retention"
	"github.com/amberkv/amber/schedule"
	"github.com/amberkv/amber/schedule/storejournal"
	"github.com/amberkv/amber/storage"
)

// schedules are what a Service has to do with policies.
type schedules struct {
	journal schedule.Journal // nil: there is none, for the reason given
	why     error
	// scheduler is there if there is a journal.
	scheduler *schedule.Scheduler

	mu    sync.Mutex
	known map[string]known // policies as the journal had them, by their ID
}

// known is a policy as it was read.
type known struct {
	revision schedule.Revision
	policy   *schedule.Policy // not to be changed
}

// addSchedules checks what the configuration says of schedules, and finds the journal.
func (s *Service) addSchedules() error {
	c := &s.cfg
	switch {
	case c.Workers < 0:
		return fmt.Errorf("amber: Config.Workers is negative: %d", c.Workers)
	case c.ScheduleGrace < 0:
		return fmt.Errorf("amber: Config.ScheduleGrace is negative: %v", c.ScheduleGrace)
	case c.TidyEvery < 0:
		return fmt.Errorf("amber: Config.TidyEvery is negative: %v", c.TidyEvery)
	}
	for i := range c.BackupOnShutdown {
		if err := s.checkShutdown(&c.BackupOnShutdown[i]); err != nil {
			return fmt.Errorf("amber: Config.BackupOnShutdown[%d]: %w", i, err)
		}
	}
	s.schedules.known = map[string]known{}
	switch {
	case c.Journal != nil:
		s.schedules.journal = c.Journal
	case !storage.CapabilitiesOf(s.places[0].Store).Exclusive:
		s.schedules.why = errors.New("amber: there is nothing to keep policies in: Config.Store has no exclusive creates, so set Config.Journal")
		return nil
	default:
		j, err := storejournal.New(storejournal.Config{Store: s.places[0].Store})
		if err != nil {
			return fmt.Errorf("amber: Config.Store: %w", err)
		}
		s.schedules.journal = j
	}
	scheduler, err := schedule.New(schedule.Config{Journal: s.schedules.journal, Leaser: s.cfg.Leaser, Job: job{s}, Logger: c.Logger, Now: c.Now, Limits: c.Limits,
		LeaseTTL: c.LeaseTTL, Poll: c.SchedulePoll, Workers: s.workers(), Grace: c.ScheduleGrace, Ended: s.runEnded})
	if err != nil {
		return fmt.Errorf("amber: %w", err)
	}
	s.schedules.scheduler = scheduler
	return nil
}

// scheduler returns what sees to the due times of policies.
func (s *Service) scheduler() (*schedule.Scheduler, error) {
	return s.schedules.scheduler, s.schedules.why
}

// journal returns what keeps policies and runs.
func (s *Service) journal() (schedule.Journal, error) { return s.schedules.journal, s.schedules.why }

// Policies gives the policies of a data store, or all for an empty one, in the order of their IDs. One that can't be read is an error in
// the sequence that wraps schedule.ErrCorrupt, after which the sequence goes on.
func (s *Service) Policies(ctx context.Context, dataStore string) iter.Seq2[*schedule.Policy, error] {
	return func(yield func(*schedule.Policy, error) bool) {
		journal, err := s.journal()
		if err != nil {
			yield(nil, err)
			return
		}
		for r, err := range journal.Policies(ctx) {
			if err != nil {
				if !yield(nil, err) {
					return
				}
				continue
			}
			p, _, err := journal.GetPolicy(ctx, r.ID)
			switch {
			case errors.Is(err, schedule.ErrNotFound): // it was removed a moment ago
			case err != nil:
				if !yield(nil, err) {
					return
				}
			case dataStore != "" && p.DataStore != dataStore:
			case !yield(p, nil):
				return
			}
		}
	}
}

// Policy returns a policy. The error wraps schedule.ErrNotFound or schedule.ErrCorrupt.
func (s *Service) Policy(ctx context.Context, id string) (*schedule.Policy, error) {
	journal, err := s.journal()
	if err != nil {
		return nil, err
	}
	p, _, err := journal.GetPolicy(ctx, id)
	return p, err
}

// Runs tells what became of due times, those of the latest first. A record that can't be read is an error in the sequence that wraps
// schedule.ErrCorrupt, after which the sequence goes on.
func (s *Service) Runs(ctx context.Context, q schedule.RunQuery) iter.Seq2[*schedule.Run, error] {
	journal, err := s.journal()
	if err != nil {
		return func(yield func(*schedule.Run, error) bool) { yield(nil, err) }
	}
	return journal.Runs(ctx, q)
}

// promises returns what the policies promise about the backups of a data store. What can't be found out isn't guessed: while the journal can't be
// read that is an error, and a policy that can't be read promises nothing, so that its backups are kept as if it had been removed.
func (s *Service) promises(ctx context.Context, dataStore string) (retention.Promises, error) {
	out := retention.Promises{Policies: map[string]retention.PolicyRules{}, Distrust: s.distrust()}
	journal := s.schedules.journal
	if journal == nil {
		return out, nil // nobody can have made a policy
	}
	gone := map[string]bool{}
	s.schedules.mu.Lock()
	for id := range s.schedules.known {
		gone[id] = true
	}
	s.schedules.mu.Unlock()
	for r, err := range journal.Policies(ctx) {
		if err != nil {
			return out, fmt.Errorf("amber: what policies promise can't be read: %w", err)
		}
		delete(gone, r.ID)
		p, err := s.knownPolicy(ctx, r)
		switch {
		case errors.Is(err, schedule.ErrNotFound):
			continue
		case errors.Is(err, schedule.ErrCorrupt):
			s.cfg.Logger.WarnContext(ctx, "a policy can't be read, its backups are kept", "policy", r.ID, "error", err)
			continue
		case err != nil:
			return out, fmt.Errorf("amber: what policies promise can't be read: %w", err)
		case p.DataStore != dataStore:
			continue
		}
		loc, err := time.LoadLocation(p.TimeZone) // "" is UTC
		if err != nil {
			s.cfg.Logger.WarnContext(ctx, "a policy's time zone isn't known here, its backups are kept", "policy", r.ID, "error", err)
			continue
		}
		out.Policies[p.ID] = retention.PolicyRules{Rules: p.Retention, Location: loc}
	}
	s.schedules.mu.Lock()
	defer s.schedules.mu.Unlock()
	maps.DeleteFunc(s.schedules.known, func(id string, _ known) bool { return gone[id] })
	return out, nil
}

// knownPolicy returns a policy, which is read only if it was changed since it was read last.
func (s *Service) knownPolicy(ctx context.Context, r schedule.PolicyRevision) (*schedule.Policy, error) {
	s.schedules.mu.Lock()
	k, ok := s.schedules.known[r.ID]
	s.schedules.mu.Unlock()
	if ok && k.revision == r.Revision {
		return k.policy, nil
	}
	p, rev, err := s.schedules.journal.GetPolicy(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	s.schedules.mu.Lock()
	defer s.schedules.mu.Unlock()
	s.schedules.known[r.ID] = known{rev, p}
	return p, nil
}

// distrust says why the clock isn't to be trusted, if it isn't.
func (s *Service) distrust() string {
	if s.schedules.scheduler == nil {
		return ""
	}
	return s.schedules.scheduler.ClockTrouble()
}
