package amber

import (
	"context"
	"errors"
	"fmt"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/schedule"
)

// A PolicyChange says what SetPolicy did.
type PolicyChange struct {
	Policy *schedule.Policy `json:"policy"` // as it is kept
	// Prune is what its retention has let go of at once.
	Prune *backup.PruneReport `json:"prune,omitempty"`
}

// SetPolicy creates a policy, or changes the one of that ID. The change takes effect at once: due times from now on are those that the policy says, and backups
// that its retention doesn't keep any more are deleted before SetPolicy returns. The error names each field that is wrong, with its value and its limit.
//
// When the policy is kept and applying its retention failed there is both a PolicyChange and an error: retention is applied again
// by Prune, or while schedules run.
func (s *Service) SetPolicy(ctx context.Context, p schedule.Policy) (*PolicyChange, error) {
	scheduler, err := s.scheduler()
	if err != nil {
		return nil, err
	}
	if err := s.checkPolicy(&p); err != nil {
		return nil, err
	}
	set, err := scheduler.Set(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("amber: policy %.60q: %w", p.ID, err)
	}
	s.cfg.Logger.InfoContext(ctx, "policy is set", "policy", set.ID, "dataStore", set.DataStore, "enabled", set.Enabled)
	change := &PolicyChange{Policy: set}
	if set.Retention.Empty() {
		return change, nil // it keeps everything
	}
	rep, err := s.Prune(ctx, PruneRequest{DataStore: set.DataStore})
	change.Prune = &rep
	if err != nil {
		return change, fmt.Errorf("policy %s is set, but its retention could not be applied yet: %w", set.ID, err)
	}
	return change, nil
}

// checkPolicy says what is wrong with a policy.
func (s *Service) checkPolicy(p *schedule.Policy) error {
	var errs []error
	if err := p.Validate(s.cfg.Limits); err != nil {
		errs = append(errs, err)
	}
	if _, err := s.place(p.Store); err != nil {
		errs = append(errs, fmt.Errorf("store: %w", err))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("amber: %w", err)
	}
	return nil
}

// RemovePolicy removes a policy: nothing is due by it any more. A backup that is being made goes on, and the policy's backups are kept until somebody
// deletes them, or their data store: nobody promises anything else about them. Its runs stay. The error wraps
// schedule.ErrNotFound if there is no such policy.
func (s *Service) RemovePolicy(ctx context.Context, id string) error {
	scheduler, err := s.scheduler()
	if err != nil {
		return err
	}
	if err := scheduler.Remove(ctx, id); err != nil {
		return fmt.Errorf("amber: removing policy %.60q: %w", id, err)
	}
	s.cfg.Logger.InfoContext(ctx, "policy is removed", "policy", id)
	return nil
}

// Explain tells of the next n due times of a policy, in words: when its backups start, by which clock, and what the setting of clocks does to
// them. See schedule.Explain.
func (s *Service) Explain(ctx context.Context, id string, n int) ([]schedule.Explanation, error) {
	p, err := s.Policy(ctx, id)
	if err != nil {
		return nil, err
	}
	return s.ExplainPolicy(*p, n)
}

// ExplainPolicy is Explain for a policy that isn't set yet, or not like this.
func (s *Service) ExplainPolicy(p schedule.Policy, n int) ([]schedule.Explanation, error) {
	return schedule.Explain(&p, s.now(), n, s.cfg.Limits)
}

// removePolicies removes the policies of a data store that is no more, but for what can't be read. It
// returns the IDs of those that it has removed.
func (s *Service) removePolicies(ctx context.Context, dataStore string) ([]string, error) {
	scheduler := s.schedules.scheduler
	if scheduler == nil {
		return nil, nil // there can be none
	}
	var removed []string
	var errs []error
	for p, err := range s.Policies(ctx, dataStore) {
		if errors.Is(err, schedule.ErrCorrupt) {
			s.cfg.Logger.WarnContext(ctx, "a policy can't be read, so whose it is isn't known: it stays", "error", err)
			continue
		}
		if err == nil {
			if err = scheduler.Remove(ctx, p.ID); err == nil {
				removed = append(removed, p.ID)
			} else if errors.Is(err, schedule.ErrNotFound) {
				err = nil
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("amber: removing the policies of %s: %w", dataStore, err))
		}
	}
	return removed, errors.Join(errs...)
}
