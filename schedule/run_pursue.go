package schedule

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/clock"
)

// The pauses before retries: each is twice as long as the one before, up to the longest; and shorter if those that are left would not fit into the window.
const (
	firstPause = 30 * time.Second
	maxPause   = 10 * time.Minute

	// Before an attempt that found the data store busy is made again; likewise.
	busyPause    = 5 * time.Second
	maxBusyPause = 2 * time.Minute
)

// maxErrorLen bounds what is kept of an error, in bytes.
const maxErrorLen = 2000

// A record is a run in the Journal.
type record struct {
	r   *Run
	rev Revision // empty: it isn't there yet
}

// pursue makes attempts until the run has ended, or somebody else or a later look goes on with it.
func (d *dealing) pursue(ctx context.Context, rec *record) error {
	for {
		if done, err := d.settled(ctx, rec); done || err != nil {
			return err
		}
		st := d.state()
		if len(rec.r.Attempts) > 0 {
			if why := barred(&st, rec.r, d.wall()); why != "" {
				return d.finish(ctx, rec, RunFailed, why)
			}
		}
		if ready := d.wait(ctx, rec.r, &st); !ready {
			if d.ending() || ctx.Err() != nil {
				return nil // another scheduler goes on, or this one when it has the lease again
			}
			if err := d.refresh(ctx); err != nil {
				return err
			}
			continue // the policy was changed, or the window has ended
		}
		if len(rec.r.Attempts) > 0 {
			// It may have been changed elsewhere while this one waited.
			if err := d.refresh(ctx); err != nil {
				return err
			}
			st = d.state()
			if why := barred(&st, rec.r, d.wall()); why != "" {
				return d.finish(ctx, rec, RunFailed, why)
			}
		}
		if ended, err := d.attempt(ctx, rec, st.p); ended || err != nil {
			return err
		}
	}
}

// settled finds out what became of the last attempt: whether its backup is ready, or never will be. Done means that nothing is left to do.
func (d *dealing) settled(ctx context.Context, rec *record) (done bool, err error) {
	n := len(rec.r.Attempts)
	if n == 0 {
		return false, nil
	}
	a := &rec.r.Attempts[n-1]
	if a.Backup != "" {
		ready, err := d.settle(ctx, rec.r, a.Backup)
		if err != nil {
			err = fmt.Errorf("what became of backup %s can't be found out: %w", a.Backup, err)
			st := d.state()
			if ctx.Err() == nil && !st.starting(rec.r.Due, d.wall()) {
				return false, err
			}
			if ctx.Err() != nil {
				return true, nil
			}
			// It must not keep the next one from being made.
			return true, d.finish(ctx, rec, RunFailed, cut(err.Error()+"; and the next backup is due"))
		}
		if ready {
			if a.EndedAt.IsZero() {
				a.EndedAt = d.wall()
			}
			a.Error, rec.r.Backup = "", a.Backup
			return true, d.finish(ctx, rec, RunDone, "")
		}
	}
	if !a.EndedAt.IsZero() {
		return false, nil
	}
	a.EndedAt, a.Lost, a.Error = d.wall(), true, "its scheduler died or lost its lease: "+a.Owner
	return false, d.put(ctx, rec)
}

// starting says whether the backup of a due time after another one is to start.
func (st *state) starting(after, now time.Time) bool {
	sp := st.due(after, now)
	return sp.count > 0 && !now.Before(st.table.slot(sp.last).Start)
}

// settle asks the Job, which may panic.
func (d *dealing) settle(ctx context.Context, r *Run, id catalog.ID) (ready bool, err error) {
	p := d.state().p
	if p == nil {
		p = &Policy{ID: r.Policy, DataStore: r.DataStore}
	}
	defer func() {
		if v := recover(); v != nil {
			err = d.panicked(ctx, r, v)
		}
	}()
	return d.cfg.Job.Settle(ctx, p.clone(), id)
}

func (d *dealing) panicked(ctx context.Context, r *Run, v any) error {
	d.log.ErrorContext(ctx, "a Job panicked", "policy", r.Policy, "due", r.Due, "panic", v, "stack", string(debug.Stack()))
	return fmt.Errorf("the Job panicked: %v", v)
}

// barred says why there may be no further attempt, if that is so.
func barred(st *state, r *Run, now time.Time) string {
	failed, lost := 0, 0
	for _, a := range r.Attempts {
		switch {
		case a.Lost:
			lost++
		case !a.Stopped && a.NotBefore.IsZero():
			failed++
		}
	}
	tries := failed + max(0, lost-1) // a scheduler may die once without any harm to the retries
	switch {
	case !st.live && st.p != nil && !st.p.Enabled:
		return "there are no further attempts: the policy was disabled"
	case !st.live:
		return "there are no further attempts: the policy was removed, or can't be read"
	case !st.p.ChangedAt.Before(r.Due):
		return "there are no further attempts: the policy's schedule was changed"
	case !now.Before(r.WindowEnd):
		return "there are no further attempts: the window ended at " + r.WindowEnd.Format(time.RFC3339)
	case !r.Attempts[len(r.Attempts)-1].NotBefore.Before(r.WindowEnd):
		return fmt.Sprintf("there are no further attempts: the next backup may begin at %s, and the window ends at %s",
			r.Attempts[len(r.Attempts)-1].NotBefore.Format(time.RFC3339), r.WindowEnd.Format(time.RFC3339))
	case tries > st.p.Retries:
		return fmt.Sprintf("there are no further attempts: the policy's retries are %d", st.p.Retries)
	}
	return ""
}

// wait waits for the time of the next attempt, and for a worker. False means that something else came first: the policy was changed, or the window or this
// scheduler ended.
func (d *dealing) wait(ctx context.Context, r *Run, st *state) bool {
	n := len(r.Attempts)
	if n == 0 {
		return true
	}
	now := d.wall()
	pause := pauseBefore(r, st.p.Retries, now)
	if pause == 0 && d.worker.has {
		return true
	}
	d.clerk.free()
	over := make(chan struct{})
	alarm := clock.NewAlarm(func() { close(over) })
	defer alarm.Stop()
	if pause > 0 {
		d.worker.free()
		rest := max(0, r.WindowEnd.Sub(now))
		alarm.Set(min(pause, rest))
		select {
		case <-over:
		case <-st.changed:
			return false
		case <-d.stopping:
			return false
		case <-ctx.Done():
			return false
		}
		if pause >= rest {
			return false
		}
	}
	ended := make(chan struct{})
	end := clock.NewAlarm(func() { close(ended) })
	defer end.Stop()
	end.Set(max(0, r.WindowEnd.Sub(d.wall())))
	if d.ending() {
		return false
	}
	return d.worker.take(ended, st.changed, ctx.Done(), d.stopping)
}

// pauseBefore is how long to wait for the next attempt.
func pauseBefore(r *Run, retries int, now time.Time) time.Duration {
	last := r.Attempts[len(r.Attempts)-1]
	if last.Lost || last.Stopped {
		return 0
	}
	failed := 0
	for _, a := range r.Attempts {
		if !a.Lost && !a.Stopped && a.NotBefore.IsZero() {
			failed++
		}
	}
	if !last.NotBefore.IsZero() {
		// Whose clock said that isn't known: a pause that is too short is followed by another one.
		return max(0, last.EndedAt.Add(firstPause).Sub(now), last.NotBefore.Sub(now))
	}
	pause := firstPause
	for range failed - 1 {
		pause = min(2*pause, maxPause)
	}
	fit := r.WindowEnd.Sub(last.EndedAt) / time.Duration(max(retries-failed, 0)+2)
	pause = max(firstPause, min(pause, fit))
	// By a clock that was set since, it may have ended at any time.
	return max(0, min(pause, last.EndedAt.Add(pause).Sub(now)))
}

// attempt makes one attempt. Ended means that nothing is left to do.
func (d *dealing) attempt(ctx context.Context, rec *record, p *Policy) (ended bool, err error) {
	r := rec.r
	r.Attempts = append(r.Attempts, Attempt{Owner: d.owner, BeganAt: d.wall()})
	first := len(r.Attempts) == 1
	if first {
		created, over, err := d.create(ctx, r)
		if created == "" || err != nil {
			if over {
				d.advance(r.Due)
			}
			return true, err // somebody else was quicker; the next look shows what it says
		}
		rec.rev = created
		d.note(r.Due, true)
	} else if err := d.put(ctx, rec); err != nil {
		return true, err
	}
	id, jerr := d.backup(ctx, rec, p)
	n := len(r.Attempts)
	a := &r.Attempts[n-1]
	a.EndedAt = d.wall()
	if jerr == nil {
		a.Backup, r.Backup = id, id
		return true, d.finish(ctx, rec, RunDone, "")
	}
	a.Error = cut(jerr.Error())
	later := (*LaterError)(nil)
	switch {
	case errors.Is(context.Cause(ctx), errStopped):
		a.Stopped = true
		return true, d.put(ctx, rec)
	case ctx.Err() != nil:
		return true, nil // whoever has the lease says what became of the attempt
	case errors.Is(jerr, ErrOverlap) && a.Backup == "" && first:
		r.Attempts = nil
		return true, d.finish(ctx, rec, RunSkipped, cut(jerr.Error()))
	case errors.Is(jerr, ErrOverlap) && a.Backup == "":
		// What an attempt before had begun may not have ended yet. That is no fault of this one: it is made again.
		r.Attempts = r.Attempts[:n-1]
		r.Reason = cut(jerr.Error())
		if err := d.put(ctx, rec); err != nil {
			return true, err
		}
		return d.ponder(ctx, rec)
	case errors.As(jerr, &later) && a.Backup == "":
		a.NotBefore = later.At.UTC()
		if !first && !r.Attempts[n-2].NotBefore.IsZero() {
			r.Attempts = append(r.Attempts[:n-2], *a)
		}
	}
	return false, d.put(ctx, rec)
}

// ponder waits a bit before an attempt that found the data store being backed up is made again, and longer each time.
func (d *dealing) ponder(ctx context.Context, rec *record) (ended bool, err error) {
	d.worker.free()
	pause := min(busyPause<<min(d.busy, 10), maxBusyPause)
	d.busy++
	over := make(chan struct{})
	alarm := clock.NewAlarm(func() { close(over) })
	defer alarm.Stop()
	alarm.Set(max(0, min(pause, rec.r.WindowEnd.Sub(d.wall()))))
	select {
	case <-over:
		return false, nil
	case <-d.stopping:
	case <-ctx.Done():
	}
	return true, nil
}

// backup calls the Job, and waits for it, whatever happens. Meanwhile it sees to the due times that come.
func (d *dealing) backup(ctx context.Context, rec *record, p *Policy) (id catalog.ID, err error) {
	d.clerk.free()
	var mu sync.Mutex // of rec, which the Job's goroutines may change as long as it is at work
	atWork := true
	attempt := len(rec.r.Attempts)
	due := Due{Policy: p.clone(), Due: rec.r.Due, Attempt: attempt, Registered: func(ctx context.Context, id catalog.ID) error {
		mu.Lock()
		defer mu.Unlock()
		a := &rec.r.Attempts[attempt-1]
		switch {
		case !atWork:
			return errors.New("schedule: Registered was called after Job.Backup had returned")
		case id == "":
			return errors.New("schedule: Registered was called without the ID of a backup")
		case a.Backup != "" && a.Backup != id:
			return fmt.Errorf("schedule: Registered was called for backup %s, and before that for %s: an attempt has one", id, a.Backup)
		}
		a.Backup = id
		if err := d.put(ctx, rec); err != nil {
			return fmt.Errorf("schedule: backup %s can't be recorded as that of %s due at %s: %w", id, rec.r.Policy, rec.r.Due.Format(time.RFC3339), err)
		}
		return nil
	}}
	behind := rec.r.Due
	text := fmt.Sprintf("the backup that was due at %s has not ended: attempt %d by %s, since %s", behind.Format(time.RFC3339), attempt, d.owner,
		rec.r.Attempts[attempt-1].BeganAt.Format(time.RFC3339))
	done := make(chan struct{})
	go func() {
		defer close(done)
		err = errors.New("the Job ended its goroutine")
		defer func() {
			if v := recover(); v != nil {
				err = d.panicked(ctx, rec.r, v)
			}
		}()
		id, err = d.cfg.Job.Backup(ctx, due)
	}()
	tick := make(chan struct{}, 1)
	alarm := clock.NewAlarm(func() {
		select {
		case tick <- struct{}{}:
		default:
		}
	})
	defer alarm.Stop()
	for working := true; working; {
		st := d.state()
		alarm.Set(d.follow(ctx, &st, behind, text))
		select {
		case <-done:
			working = false
		case <-tick:
		case <-st.changed:
		}
	}
	mu.Lock()
	defer mu.Unlock()
	atWork = false
	if err == nil && id == "" {
		err = errors.New("the Job returned neither a backup nor an error")
	}
	return id, err
}

// follow records what becomes of due times that come while the backup of an earlier one is being made, and says when to look again.
func (d *dealing) follow(ctx context.Context, st *state, behind time.Time, text string) time.Duration {
	if ctx.Err() != nil {
		return d.cfg.Poll // the lease is lost, or the backup is to end: others see to them
	}
	wait := d.cfg.Poll
	lay := func(p *Policy, slot Slot, state RunState, why string, first time.Time, count int) {
		r := d.newRun(p, slot, state, why).of(first, count)
		r.Behind = behind
		if err := d.lay(ctx, r); err != nil {
			if ctx.Err() == nil {
				d.log.WarnContext(ctx, "what became of a due time can't be recorded, this is tried again", "policy", d.id, "due", r.Due, "error", err)
			}
			wait = min(wait, busyPause)
		}
	}
	for _, old := range st.retired {
		if err := d.account(ctx, old, true); err != nil {
			return busyPause
		}
		d.mu.Lock()
		d.e.retired = d.e.retired[1:]
		d.mu.Unlock()
	}
	now := d.wall()
	cursor := later(st.cursor, behind)
	if behind.After(now) {
		// The clock was set back since the backup began, and what is due now comes before it.
		var err error
		if cursor, _, err = d.past(ctx, d.id, now, false); err != nil {
			return busyPause
		}
	}
	sp := st.due(cursor, now)
	if sp.count > 0 {
		slot := st.table.slot(sp.last)
		if now.Before(slot.Start) {
			wait = min(wait, slot.Start.Sub(now))
		}
		switch {
		case !now.Before(slot.End):
			lay(st.p, slot, RunMissed, text, sp.first, sp.count)
		case sp.count > 1:
			lay(st.p, st.table.slot(sp.prev), RunMissed, text, sp.first, sp.count-1)
		}
		if !now.Before(slot.Start) && now.Before(slot.End) {
			lay(st.p, slot, RunSkipped, text, time.Time{}, 0)
		}
	}
	if st.live {
		if due := st.table.next(later(now, st.p.ChangedAt)); !due.IsZero() {
			wait = min(wait, max(st.table.slot(due).Start.Sub(d.wall()), time.Second))
		}
	}
	return wait
}

// cut shortens a text that is kept.
func cut(s string) string {
	if len(s) > maxErrorLen {
		s = s[:maxErrorLen] + " …"
	}
	return strings.ToValidUTF8(s, "?")
}
