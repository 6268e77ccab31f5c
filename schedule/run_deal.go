package schedule

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/clock"
)

// again is how much later than now the record of a due time has to have been made for the clock to have been set back since: then the time comes
// once more. Clocks of several machines differ by less.
const again = 5 * time.Minute

// A dealing is what one goroutine does about a policy that has something due.
type dealing struct {
	*engine
	e      *entry
	id     string
	worker token
	clerk  token
	none   bool // no worker was free when it was needed
	busy   int  // how many attempts after the first found the data store being backed up
}

// A token is one of those that a channel has places for, or none.
type token struct {
	from chan struct{}
	has  bool
}

func (t *token) free() {
	if t.has {
		<-t.from
		t.has = false
	}
}

// take waits for the token. False means that one of the others, at most four, came first.
func (t *token) take(others ...<-chan struct{}) bool {
	for len(others) < 4 {
		others = append(others, nil)
	}
	if !t.has {
		select {
		case t.from <- struct{}{}:
			t.has = true
		case <-others[0]:
		case <-others[1]:
		case <-others[2]:
		case <-others[3]:
		}
	}
	return t.has
}

// deal deals with what a policy has due.
func (g *engine) deal(ctx context.Context, e *entry) {
	d := &dealing{engine: g, e: e, id: e.id, worker: token{from: g.workers}, clerk: token{from: g.clerks}}
	err := d.deal(ctx)
	d.worker.free()
	d.clerk.free()
	if err != nil && !d.ending() {
		g.log.WarnContext(ctx, "what is due by a policy can't be dealt with, this is tried again", "policy", d.id, "error", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	e.busy = false
	if e.last = err; err == nil {
		e.errs = 0
	} else {
		e.hold = clock.System().Add(min(time.Second<<min(e.errs, 10), maxErrPause))
		e.errs++
	}
	if d.ending() {
		return
	}
	now := g.wall()
	g.enqueue(e, now)
	if e.at.IsZero() || e.at.After(now) {
		e.quick = 0
	} else if e.quick++; e.quick > 3 {
		// Whatever keeps it from being dealt with, it isn't tried more often than that.
		e.hold = clock.System().Add(time.Second)
		g.enqueue(e, now)
	}
	g.poke()
}

// ending says whether Run's ctx has ended: nothing is begun any more.
func (d *dealing) ending() bool {
	select {
	case <-d.stopping:
		return true
	default:
		return false
	}
}

// state is what is known of the entry.
type state struct {
	p       *Policy
	table   *timetable
	live    bool // backups become due
	retired []retired
	cursor  time.Time
	known   bool
	changed <-chan struct{}
	saw     sight
	last    error
}

func (d *dealing) state() state {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.e
	return state{p: e.p, table: e.table, live: e.rev != "" && e.table != nil && e.p.Enabled, retired: e.retired, cursor: e.cursor, known: e.known,
		changed: e.changed, saw: e.saw, last: e.last}
}

// due is what has come of a policy's due times that have no record.
func (st *state) due(cursor, now time.Time) span {
	if !st.live {
		return span{}
	}
	return st.table.span(later(cursor, st.p.ChangedAt), now)
}

// see notes that the backup of a due time was to start, when this scheduler sees that for the first time.
func (d *dealing) see(sp span, table *timetable, now time.Time) {
	if sp.count == 0 || now.Before(table.slot(sp.last).Start) {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.e.saw.due.Equal(sp.last) {
		d.e.saw = sight{due: sp.last, at: now}
	}
}

func (d *dealing) deal(ctx context.Context) error {
	if d.ending() || !d.clerk.take(d.stopping) {
		return nil
	}
	st := d.state()
	now := d.wall()
	if st.known && st.live {
		d.see(st.due(st.cursor, now), st.table, now)
	}
	open, err := d.look(ctx, now)
	if err != nil {
		return err
	}
	st = d.state()
	until, need := d.need(&st, open, now)
	if !need {
		return nil
	}
	if !until.IsZero() {
		switch d.await(until, st.changed) {
		case waitStopped, waitChanged:
			return nil
		}
	}
	lease, wait, err := d.acquire(ctx, d.id)
	if err != nil {
		return fmt.Errorf("taking its lease: %w", err)
	}
	if lease == nil {
		d.mu.Lock()
		d.e.hold = clock.System().Add(wait)
		d.mu.Unlock()
		return nil
	}
	defer d.release(ctx, lease, d.id)
	held, stop := d.keep(ctx, lease)
	defer stop()
	err = d.work(held)
	if cause := context.Cause(held); cause != nil && errors.Is(cause, catalog.ErrLeaseLost) {
		return cause
	}
	return err
}

// look finds out up to where there are records, and whether a run hasn't ended.
func (d *dealing) look(ctx context.Context, now time.Time) (open *Run, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	cursor, open, err := d.past(ctx, d.id, now, true)
	if err != nil {
		return nil, err
	}
	d.note(cursor, open != nil)
	return open, nil
}

// note takes notice of what the Journal has.
func (d *dealing) note(cursor time.Time, open bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.e.cursor = later(d.e.cursor, cursor)
	d.e.known, d.e.open = true, open
}

// need says whether there is anything to do that needs the policy's lease, and until when a worker is to be waited for first, if one is needed.
func (d *dealing) need(st *state, open *Run, now time.Time) (until time.Time, need bool) {
	sp := st.due(st.cursor, now)
	var slot Slot
	if sp.count > 0 {
		slot = st.table.slot(sp.last)
		d.see(sp, st.table, now)
		need = sp.count > 1 || !now.Before(slot.Start)
	}
	switch {
	case open != nil && st.live && now.Before(open.WindowEnd) && st.p.ChangedAt.Before(open.Due):
		return open.WindowEnd, true
	case open != nil:
		return time.Time{}, true
	case need && !now.Before(slot.Start) && now.Before(slot.End):
		return slot.End, true
	}
	return time.Time{}, need || len(st.retired) > 0
}

type waited int

const (
	waitGot waited = iota
	waitOver
	waitChanged
	waitStopped
)

// await waits for a worker. Nothing else is held meanwhile.
func (d *dealing) await(until time.Time, changed <-chan struct{}) waited {
	select {
	case d.worker.from <- struct{}{}:
		d.worker.has = true
		return waitGot
	default:
	}
	d.none = true
	d.clerk.free()
	over := make(chan struct{})
	alarm := clock.NewAlarm(func() { close(over) })
	defer alarm.Stop()
	alarm.Set(max(until.Sub(d.wall()), 0))
	got := d.worker.take(over, changed, d.stopping)
	if d.ending() || !d.clerk.take(d.stopping) {
		return waitStopped
	}
	if got {
		return waitGot
	}
	select {
	case <-over:
		return waitOver
	default:
		return waitChanged
	}
}

// keep renews a lease until stop is called. What is done meanwhile gets the context, which ends when the lease is lost.
func (d *dealing) keep(ctx context.Context, lease catalog.Lease) (held context.Context, stop func()) {
	held, cancel := context.WithCancelCause(ctx)
	renewing, end := context.WithCancel(ctx)
	renewed := clock.System()
	every := clock.Every(d.cfg.LeaseTTL/3, func() {
		begun := clock.System()
		err := lease.Renew(renewing)
		switch {
		case err == nil:
			renewed = begun
		case renewing.Err() != nil:
		case errors.Is(err, catalog.ErrLeaseLost):
			cancel(err)
		case clock.Since(renewed) >= d.cfg.LeaseTTL:
			cancel(fmt.Errorf("%w: it could not be renewed for %v: %w", catalog.ErrLeaseLost, clock.Since(renewed).Round(time.Second), err))
		}
	})
	return held, func() {
		end() // a renewal under way ends at once
		every()
		cancel(nil)
	}
}

// work does all that is to be done about the policy while its lease is held.
func (d *dealing) work(ctx context.Context) error {
	for range 20 { // one or two are enough, if nobody else writes
		if d.ending() {
			break
		}
		if err := d.refresh(ctx); err != nil {
			return err
		}
		st := d.state()
		for _, old := range st.retired {
			if err := d.account(ctx, old, true); err != nil {
				return err
			}
			d.mu.Lock()
			d.e.retired = d.e.retired[1:]
			d.mu.Unlock()
		}
		now := d.wall()
		open, err := d.look(ctx, now)
		if err != nil {
			return err
		}
		st = d.state()
		if open != nil {
			r := &record{r: open}
			if r.r, r.rev, err = d.cfg.Journal.GetRun(ctx, d.id, open.Due); err != nil {
				return err
			}
			return d.pursue(ctx, r)
		}
		sp := st.due(st.cursor, now)
		if sp.count == 0 {
			return nil
		}
		slot := st.table.slot(sp.last)
		d.see(sp, st.table, now)
		if why := d.missed(slot, now); why != "" {
			if err := d.lay(ctx, d.newRun(st.p, slot, RunMissed, why).of(sp.first, sp.count)); err != nil {
				return err
			}
			continue
		}
		if sp.count > 1 {
			before := st.table.slot(sp.prev)
			if err := d.lay(ctx, d.newRun(st.p, before, RunMissed, d.absent(before)).of(sp.first, sp.count-1)); err != nil {
				return err
			}
		}
		if now.Before(slot.Start) {
			return nil
		}
		if !d.worker.has {
			select {
			case d.worker.from <- struct{}{}:
				d.worker.has = true
			default:
				return nil // it is waited for without the lease
			}
		}
		r := &record{r: d.newRun(st.p, slot, RunRunning, "")}
		return d.pursue(ctx, r)
	}
	return nil
}

// refresh reads the policy again.
func (d *dealing) refresh(ctx context.Context) error {
	p, rev, err := d.cfg.Journal.GetPolicy(ctx, d.id)
	switch {
	case errors.Is(err, ErrNotFound):
		p, rev = nil, ""
	case errors.Is(err, ErrCorrupt) && rev != "":
		p = nil
	case err != nil:
		return err
	}
	d.mu.Lock()
	same := d.e.rev == rev
	d.mu.Unlock()
	if same {
		return nil
	}
	table := d.tableOf(ctx, p)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.adopt(d.id, p, table, rev)
	return nil
}

// missed says why the backup of a due time can't start any more, if that is so.
func (d *dealing) missed(slot Slot, now time.Time) string {
	if !now.Before(slot.End) {
		return d.absent(slot)
	}
	st := d.state()
	// A scheduler that was there is a bit late at most: when another one had the lease and died.
	late := st.saw.at.Sub(slot.Start)
	if st.p.CatchUp == CatchUpNone && late > d.cfg.LeaseTTL+d.cfg.Poll+lateSlack {
		return fmt.Sprintf("no scheduler was there at %s, when its backup was to start, but %v later; and the policy's catchUp is %q", slot.Start.Format(time.RFC3339),
			late.Round(time.Second), CatchUpNone)
	}
	return ""
}

// absent says why nobody began the backup of a due time while its window lasted.
func (d *dealing) absent(slot Slot) string {
	st := d.state()
	switch {
	case d.none && st.saw.due.Equal(slot.Due):
		return fmt.Sprintf("until its window ended at %s other backups were being made, %d at a time", slot.End.Format(time.RFC3339), d.cfg.Workers)
	case st.last != nil && st.saw.due.Equal(slot.Due):
		return cut("it could not be begun until its window ended at " + slot.End.Format(time.RFC3339) + ": " + st.last.Error())
	}
	why := "no scheduler was there until its window ended at " + slot.End.Format(time.RFC3339)
	if trouble := d.ClockTrouble(); trouble != "" {
		why += "; " + trouble
	}
	return why
}

// past finds out what the Journal has of a policy: the latest due time until a moment that has a record, and a run that hasn't ended, if there is one. While a
// run hasn't ended, all that are recorded after it say so: only the latest has to be read. A run whose due time is yet to come, by a clock that was set back
// since, is found with ahead.
func (s *Scheduler) past(ctx context.Context, id string, until time.Time, ahead bool) (cursor time.Time, open *Run, err error) {
	q := RunQuery{Policy: id, Limit: 1}
	end := until.Truncate(time.Second).Add(time.Second)
	if !ahead {
		q.Until = end
	}
	for {
		r, corrupt, err := s.latest(ctx, q, until)
		if err != nil {
			return cursor, nil, err
		}
		if r == nil && corrupt && q.Limit > 0 {
			q.Limit = 0 // that one doesn't count
			continue
		}
		if r != nil && open == nil {
			if open, err = s.opened(ctx, r); err != nil {
				return cursor, nil, err
			}
		}
		if r != nil && r.Due.After(until) {
			q.Limit, q.Until = 1, end
			continue
		}
		if r != nil {
			cursor = r.Due
		}
		return cursor, open, nil
	}
}

// opened returns the run that hasn't ended, if a record is of one or says so.
func (s *Scheduler) opened(ctx context.Context, r *Run) (*Run, error) {
	if r.State != RunRunning && !r.Behind.IsZero() {
		before, _, err := s.cfg.Journal.GetRun(ctx, r.Policy, r.Behind)
		if errors.Is(err, ErrNotFound) || errors.Is(err, ErrCorrupt) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		r = before
	}
	if r.State != RunRunning {
		return nil, nil
	}
	return r, nil
}

// latest returns the first of the runs that a query selects which counts, or nil if there is none. One that can't be read, and of which nobody can tell
// what became, doesn't, nor does one that is void.
func (s *Scheduler) latest(ctx context.Context, q RunQuery, now time.Time) (r *Run, not bool, err error) {
	for r, err := range s.cfg.Journal.Runs(ctx, q) {
		switch {
		case errors.Is(err, ErrCorrupt):
			s.log.WarnContext(ctx, "the record of a due time can't be read: nobody can tell what became of it", "policy", q.Policy, "error", err)
			not = true
		case err != nil:
			return nil, not, err
		case r.void(now) && !r.Due.After(now):
			not = true
		default:
			return r, not, nil
		}
	}
	return nil, not, nil
}

// void says whether a record was made when the clock was ahead of what it is, and of nothing that was begun: when the time comes again the backup is made.
func (r *Run) void(now time.Time) bool {
	return (r.State == RunMissed || r.State == RunSkipped) && r.EndedAt.After(now.Add(again))
}

// account records what became of the due times that a former schedule had when it ended: they were missed or, if the backup could have begun yet and pending is
// true, skipped.
func (s *Scheduler) account(ctx context.Context, old retired, pending bool) error {
	cursor, open, err := s.past(ctx, old.p.ID, old.at, false)
	if err != nil {
		return err
	}
	sp := old.table.span(later(cursor, old.p.ChangedAt), old.at)
	if sp.count == 0 {
		return nil
	}
	lay := func(slot Slot, state RunState, why string, first time.Time, count int) error {
		r := s.newRun(old.p, slot, state, why).of(first, count)
		if open != nil {
			r.Behind = open.Due
		}
		_, _, err := s.create(ctx, r)
		return err
	}
	absent := func(slot Slot) string {
		return "no scheduler was there until its window ended at " + slot.End.Format(time.RFC3339)
	}
	last := old.table.slot(sp.last)
	if !old.at.Before(last.End) {
		return lay(last, RunMissed, absent(last), sp.first, sp.count)
	}
	if sp.count > 1 {
		prev := old.table.slot(sp.prev)
		if err := lay(prev, RunMissed, absent(prev), sp.first, sp.count-1); err != nil {
			return err
		}
	}
	if !pending {
		return nil
	}
	return lay(last, RunSkipped, old.why, time.Time{}, 0)
}

// trim removes old records about once a day.
func (d *dealing) trim(ctx context.Context) {
	d.mu.Lock()
	wait := !d.e.trimmed.IsZero() && clock.Since(d.e.trimmed) < 24*time.Hour
	d.mu.Unlock()
	if wait || d.clock.jumped() {
		return // by a clock that is years ahead all records would be old
	}
	if _, err := d.cfg.Journal.TrimRuns(ctx, d.id, d.wall().Add(-d.cfg.Keep)); err != nil {
		d.log.WarnContext(ctx, "old records of runs can't be removed, this is tried again tomorrow", "policy", d.id, "error", err)
	}
	d.mu.Lock()
	d.e.trimmed = clock.System()
	d.mu.Unlock()
}
