package schedule

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/amberkv/amber/internal/clock"
)

// newRun is the record of a due time, in a state.
func (s *Scheduler) newRun(p *Policy, slot Slot, state RunState, why string) *Run {
	r := &Run{Policy: p.ID, DataStore: p.DataStore, Due: slot.Due.UTC(), State: state, Reason: why, Start: slot.Start.UTC(), WindowEnd: slot.End.UTC()}
	if state != RunRunning {
		r.EndedAt = s.wall()
	}
	return r
}

// of makes it the record of several due times.
func (r *Run) of(first time.Time, count int) *Run {
	if count > 1 {
		r.First, r.Count = first.UTC(), count
	}
	return r
}

// create writes the record of a due time that has none, or a void one. It returns no revision if there is one already that counts, and whether that has
// ended.
func (s *Scheduler) create(ctx context.Context, r *Run) (rev Revision, ended bool, err error) {
	rev, err = s.putRun(ctx, r, "")
	if errors.Is(err, ErrConflict) {
		there, at, gerr := s.cfg.Journal.GetRun(ctx, r.Policy, r.Due)
		switch {
		case errors.Is(gerr, ErrCorrupt):
			return "", true, nil // whatever it says, it counts
		case gerr != nil:
			return "", false, gerr
		case !there.void(s.wall()):
			return "", there.State != RunRunning, nil
		}
		rev, err = s.putRun(ctx, r, at)
		if errors.Is(err, ErrConflict) {
			return "", false, nil // it doesn't need to be void any more
		}
	}
	if err == nil && r.State != RunRunning {
		s.tell(ctx, r)
	}
	return rev, r.State != RunRunning, err
}

// lay records what became of due times without an attempt.
func (d *dealing) lay(ctx context.Context, r *Run) error {
	rev, ended, err := d.create(ctx, r)
	if err != nil {
		return err
	}
	if ended {
		d.advance(r.Due)
	}
	if rev != "" {
		d.trim(ctx)
	}
	return nil
}

// advance notes that all due times until one have a record.
func (d *dealing) advance(due time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.e.cursor = later(d.e.cursor, due)
}

// putRun writes a record. If the outcome is unknown it finds out: no other Scheduler writes a record of an attempt that is equal.
func (s *Scheduler) putRun(ctx context.Context, r *Run, prev Revision) (Revision, error) {
	rev, err := s.cfg.Journal.PutRun(ctx, r, prev)
	if err == nil {
		return rev, nil
	}
	got, at, gerr := s.cfg.Journal.GetRun(ctx, r.Policy, r.Due)
	if gerr == nil && sameJSON(got, r) {
		return at, nil
	}
	return "", err
}

// put writes the record in the place of what it was.
func (d *dealing) put(ctx context.Context, rec *record) error {
	if ctx.Err() != nil {
		var cancel context.CancelFunc
		ctx, cancel = d.tidy(ctx)
		defer cancel()
	}
	rev, err := d.putRun(ctx, rec.r, rec.rev)
	if err != nil {
		return fmt.Errorf("recording what became of %s: %w", rec.r.Due.Format(time.RFC3339), err)
	}
	rec.rev = rev
	return nil
}

// tidy is a context for what is to be recorded after the other one has ended.
func (d *dealing) tidy(ctx context.Context) (context.Context, context.CancelFunc) {
	rest := tidyTime
	d.mu.Lock()
	if !d.stopped.IsZero() {
		rest = max(rest-clock.Since(d.stopped), tidyTime/9)
	}
	d.mu.Unlock()
	return context.WithTimeout(context.WithoutCancel(ctx), rest)
}

// finish ends the run. If that can't be recorded, it stays running, and whoever looks at it next finds out the same.
func (d *dealing) finish(ctx context.Context, rec *record, state RunState, why string) error {
	r := rec.r
	r.State, r.EndedAt = state, d.wall()
	if why != "" || state == RunDone {
		r.Reason = why
	}
	var err error
	for pause := time.Second; ; pause *= 2 {
		err = d.put(ctx, rec)
		if err == nil || errors.Is(err, ErrConflict) || pause > 4*time.Second || ctx.Err() != nil || clock.Sleep(ctx, pause) != nil {
			break
		}
	}
	if errors.Is(err, ErrConflict) {
		d.log.InfoContext(ctx, "another scheduler has taken over a run", "policy", r.Policy, "due", r.Due)
		return nil
	}
	if err != nil {
		return err
	}
	d.note(r.Due, false)
	d.tell(ctx, r)
	if ctx.Err() == nil {
		d.trim(ctx)
	}
	return nil
}

// tell tells the host what became of a due time.
func (s *Scheduler) tell(ctx context.Context, r *Run) {
	s.log.InfoContext(ctx, "due time dealt with", "policy", r.Policy, "dataStore", r.DataStore, "due", r.Due, "state", r.State, "reason", r.Reason)
	if s.cfg.Ended == nil {
		return
	}
	defer func() {
		if v := recover(); v != nil {
			s.log.ErrorContext(ctx, "Config.Ended panicked", "policy", r.Policy, "panic", v, "stack", string(debug.Stack()))
		}
	}()
	s.cfg.Ended(ctx, r.clone())
}
