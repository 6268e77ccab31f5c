package schedule

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/clock"
)

// Set creates a policy, or changes the one that has its ID, and returns it as it is kept: CreatedAt and ChangedAt are Set's to fill in. The schedulers that run
// in this process know at once, others within their Config.Poll; and none begins a backup by what the policy said before.
//
// ChangedAt moves only when When, TimeZone, Window or Enabled change. Then the new schedule begins: a due time of the former one that
// has come, and whose backup was not begun, is skipped with that reason. A backup that is being made goes on; it isn't tried again if it fails.
//
// A policy stays with its data store: to back up another one, set another policy.
//
// If there are both a policy and an error, then the policy was set, and it is the error that what became of such a due time is not in the Journal.
func (s *Scheduler) Set(ctx context.Context, p Policy) (*Policy, error) {
	err := p.Validate(s.cfg.Limits)
	if err != nil {
		return nil, fmt.Errorf("schedule: %w", err)
	}
	table, err := compile(&p)
	if err != nil {
		return nil, fmt.Errorf("schedule: policy %.100q: %w", p.ID, err)
	}
	for range 5 {
		set, err := s.set(ctx, &p, table)
		if set == nil && errors.Is(err, ErrConflict) {
			continue
		}
		if err != nil {
			err = fmt.Errorf("schedule: policy %s: %w", p.ID, err)
		}
		return set, err
	}
	return nil, fmt.Errorf("schedule: policy %s: %w, five times in a row: set it again", p.ID, ErrConflict)
}

func (s *Scheduler) set(ctx context.Context, p *Policy, table *timetable) (*Policy, error) {
	old, rev, err := s.cfg.Journal.GetPolicy(ctx, p.ID)
	switch {
	case errors.Is(err, ErrNotFound):
		old, rev = nil, ""
	case errors.Is(err, ErrCorrupt) && rev != "":
		old = nil // nobody can tell what it said: the new one begins afresh
	case err != nil:
		return nil, err
	}
	next := p.clone()
	now := s.wall()
	next.CreatedAt, next.ChangedAt = now, now
	if old != nil {
		if old.DataStore != next.DataStore {
			return nil, fmt.Errorf("Policy.DataStore is %q and was %q: a policy stays with its data store, set another one with an ID of its own", next.DataStore, old.DataStore)
		}
		next.CreatedAt = old.CreatedAt
		if sameSchedule(old, next) {
			next.ChangedAt = old.ChangedAt
		}
	}
	var at Revision
	put := func() error {
		at, err = s.putPolicy(ctx, next, rev)
		return err
	}
	if old == nil || sameSchedule(old, next) {
		err = put()
	} else {
		err = s.retire(ctx, old, now, changeOf(next), put)
	}
	if at == "" {
		return nil, err
	}
	s.told(next.ID, next.clone(), table, at)
	return next, err
}

// Remove removes a policy. The error wraps ErrNotFound if there is none. Its runs and its backups stay. A due time that has come, and whose backup was not
// begun, is skipped with that reason; a backup that is being made goes on, and isn't tried again if it fails. If its scheduler dies at that, its
// run may stay what it is, running: nobody looks after the due times of a policy that isn't there.
func (s *Scheduler) Remove(ctx context.Context, id string) error {
	for range 5 {
		err := s.remove(ctx, id)
		if errors.Is(err, ErrConflict) {
			continue
		}
		if err != nil {
			return fmt.Errorf("schedule: policy %.100q: %w", id, err)
		}
		return nil
	}
	return fmt.Errorf("schedule: policy %.100q: %w, five times in a row: remove it again", id, ErrConflict)
}

func (s *Scheduler) remove(ctx context.Context, id string) error {
	old, rev, err := s.cfg.Journal.GetPolicy(ctx, id)
	if err != nil && !(errors.Is(err, ErrCorrupt) && rev != "") {
		return err
	}
	removed := false
	remove := func() error {
		err := s.cfg.Journal.DeletePolicy(ctx, id, rev)
		if err != nil && !errors.Is(err, ErrConflict) && !errors.Is(err, ErrNotFound) {
			if _, _, gerr := s.cfg.Journal.GetPolicy(ctx, id); errors.Is(gerr, ErrNotFound) {
				err = nil // it had an effect after all
			}
		}
		removed = err == nil
		return err
	}
	if old == nil {
		err = remove()
	} else {
		err = s.retire(ctx, old, s.wall(), whyRemoved, remove)
	}
	if removed {
		s.told(id, nil, nil, "")
	}
	return err
}

// Why due times of a schedule that is no more were skipped.
const (
	whyRemoved  = "the policy was removed before its backup began"
	whyDisabled = "the policy was disabled before its backup began"
	whyChanged  = "the policy's schedule was changed before its backup began"
)

// changeOf says why due times of the schedule before this one are skipped. Nil means that the policy was removed.
func changeOf(now *Policy) string {
	switch {
	case now == nil:
		return whyRemoved
	case !now.Enabled:
		return whyDisabled
	}
	return whyChanged
}

// retire accounts for the due times that a policy had until now, and in the midst of that carries out the change that ends its schedule.
//
// What is missed is so whether the policy is changed or not, and is recorded first. What has come and could still be begun is skipped only when the change is made: a
// scheduler that is about to begin it finds either that record, or the changed policy, or it was quicker. If a scheduler has the policy's lease, it is
// left to that: it accounts for what the schedule had left when it learns of the change.
func (s *Scheduler) retire(ctx context.Context, old *Policy, now time.Time, why string, change func() error) error {
	table, err := compile(old)
	if err != nil || !old.Enabled {
		return change() // nothing was due by it
	}
	lease, err := s.cfg.Leaser.Acquire(ctx, leaseName(old.ID), s.cfg.LeaseTTL)
	if errors.Is(err, catalog.ErrHeld) {
		return change()
	}
	if err != nil {
		return fmt.Errorf("taking its lease: %w", err)
	}
	defer s.release(ctx, lease, old.ID)
	if err := s.account(ctx, retired{p: old, table: table, at: now, why: why}, false); err != nil {
		return fmt.Errorf("what became of its due times so far can't be recorded: %w", err)
	}
	if err := change(); err != nil {
		return err
	}
	if err := s.account(ctx, retired{p: old, table: table, at: now, why: why}, true); err != nil {
		return fmt.Errorf("it was changed; what became of its latest due time is not recorded: %w", err)
	}
	return nil
}

// told lets the engine know of a policy that is as it is since this moment. A nil one is gone.
func (s *Scheduler) told(id string, p *Policy, table *timetable, rev Revision) {
	s.mu.Lock()
	g := s.engine
	s.mu.Unlock()
	if g != nil {
		g.mu.Lock()
		g.adopt(id, p, table, rev)
		g.mu.Unlock()
		g.poke()
	}
}

func (s *Scheduler) release(ctx context.Context, lease catalog.Lease, id string) {
	ctx, done := clock.Outlive(ctx, callTime, tidyTime)
	defer done()
	if err := lease.Release(ctx); err != nil {
		s.log.WarnContext(ctx, "lease was not released, it ends by itself", "policy", id, "error", err)
	}
}

// putPolicy writes a policy. If the outcome is unknown it finds out.
func (s *Scheduler) putPolicy(ctx context.Context, p *Policy, prev Revision) (Revision, error) {
	rev, err := s.cfg.Journal.PutPolicy(ctx, p, prev)
	if err == nil || errors.Is(err, ErrConflict) {
		return rev, err
	}
	got, at, gerr := s.cfg.Journal.GetPolicy(ctx, p.ID)
	if gerr == nil && sameJSON(got, p) {
		return at, nil
	}
	return "", err
}

// sameSchedule says whether two versions of a policy have the same due times, and the same places for their backups.
func sameSchedule(a, b *Policy) bool {
	return a.Enabled == b.Enabled && a.TimeZone == b.TimeZone && a.Window == b.Window && sameJSON(a.When, b.When)
}

// sameJSON compares what is kept of two values.
func sameJSON(a, b any) bool {
	x, xerr := json.Marshal(a)
	y, yerr := json.Marshal(b)
	return xerr == nil && yerr == nil && bytes.Equal(x, y)
}

func (p *Policy) clone() *Policy {
	c := *p
	if p.When.Weekly != nil {
		w := *p.When.Weekly
		w.Days, w.Hours = slices.Clone(w.Days), slices.Clone(w.Hours)
		c.When.Weekly = &w
	}
	c.When.Daily = slices.Clone(p.When.Daily)
	c.Labels = maps.Clone(p.Labels)
	return &c
}

func (r *Run) clone() *Run {
	c := *r
	c.Attempts = slices.Clone(r.Attempts)
	return &c
}
