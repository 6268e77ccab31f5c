package schedule

import (
	"container/heap"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/clock"
)

const (
	clerks      = 16          // how many policies are looked after in the Journal at a time
	callTime    = time.Minute // how long a call of the Journal may take that others wait for
	tidyTime    = 900 * time.Millisecond
	lateSlack   = 30 * time.Second // how much later than it has to be a scheduler that is there may be
	maxErrPause = time.Minute
)

// errStopped ends the backups that are being made when Config.Grace is over.
var errStopped = errors.New("the scheduler was stopped")

// Run waits for due times and has their backups made until ctx ends. It returns nil then, within a second after Config.Grace and as soon as the Job has returned:
// what is left to be done is in the Journal, for other schedulers or a later Run. A Scheduler runs once at a time.
//
// A Journal or Leaser that fails doesn't end it: that is logged and tried again.
func (s *Scheduler) Run(ctx context.Context) error {
	g := &engine{Scheduler: s, stopping: ctx.Done(), workers: make(chan struct{}, s.cfg.Workers), clerks: make(chan struct{}, clerks),
		wake: make(chan struct{}, 1), entries: map[string]*entry{}}
	s.mu.Lock()
	if s.engine != nil {
		s.mu.Unlock()
		return errors.New("schedule: this Scheduler is running already")
	}
	s.engine = g
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.engine = nil
		s.mu.Unlock()
	}()
	g.run(ctx)
	return nil
}

// An engine is one call of Run.
type engine struct {
	*Scheduler
	stopping <-chan struct{}
	stopped  time.Time // when what is being done was told to end, as counted; set before that
	group    sync.WaitGroup
	workers  chan struct{} // has one for each backup that is being made
	clerks   chan struct{} // likewise for what is done in the Journal before that
	wake     chan struct{}

	mu      sync.Mutex
	entries map[string]*entry // by the policy's ID
	queue   queue             // those that wait
}

// An entry is what the engine knows of a policy. The engine's mu guards it.
type entry struct {
	id      string
	rev     Revision      // empty: it is gone
	p       *Policy       // as last known, not to be changed; nil: it could never be read
	table   *timetable    // nil: the policy has none that can be read
	retired []retired     // former schedules whose due times aren't accounted for yet
	changed chan struct{} // closed when the policy changes

	cursor time.Time // all due times until then have a record
	known  bool      // the Journal was asked for that
	open   bool      // there is a run that hasn't ended
	saw    sight
	hold   time.Time // as counted: not before that
	quick  int       // how often in a row there was something to do at once
	errs   int       // in a row
	last   error     // the last of them

	trimmed time.Time // as counted
	busy    bool      // somebody is at it, and it isn't in the queue
	at      time.Time // when to look at it; zero: it isn't in the queue
	index   int       // in the queue
}

// A sight is when this scheduler first saw that the backup of a due time was to start.
type sight struct{ due, at time.Time }

// retired is a former schedule of a policy.
type retired struct {
	p     *Policy
	table *timetable
	at    time.Time // when it ended
	why   string
}

func (g *engine) run(ctx context.Context) {
	work, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	g.group.Go(func() {
		for ctx.Err() == nil {
			g.poll(ctx)
			_ = clock.Sleep(ctx, g.cfg.Poll)
		}
	})
	alarm := clock.NewAlarm(g.poke)
	defer alarm.Stop()
	for ctx.Err() == nil {
		alarm.Set(g.dispatch(work))
		select {
		case <-g.wake:
		case <-ctx.Done():
		}
	}
	grace, over := context.WithCancel(context.WithoutCancel(ctx))
	defer over()
	var waiter sync.WaitGroup
	waiter.Go(func() {
		g.group.Wait()
		over()
	})
	if g.cfg.Grace > 0 {
		_ = clock.Sleep(grace, g.cfg.Grace)
	}
	g.mu.Lock()
	g.stopped = clock.System()
	g.mu.Unlock()
	cancel(errStopped)
	waiter.Wait()
}

// poke lets the loop look at its queue.
func (g *engine) poke() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// dispatch sends for what is due, and says how long there is nothing to do.
func (g *engine) dispatch(ctx context.Context) time.Duration {
	now := g.wall()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.clock.look(now) {
		g.setBack(now)
	}
	for len(g.queue) > 0 && !g.queue[0].at.After(now) {
		e := heap.Pop(&g.queue).(*entry)
		e.at, e.busy = time.Time{}, true
		g.group.Go(func() { g.deal(ctx, e) })
	}
	if len(g.queue) > 0 {
		return min(g.cfg.Poll, g.queue[0].at.Sub(now)) // a clock that was set is noticed at the next poll
	}
	return g.cfg.Poll
}

// setBack deals with a clock that was set back: due times come again, and the Journal knows which of them were done.
func (g *engine) setBack(now time.Time) {
	for _, e := range g.entries {
		if e.cursor.After(now) {
			e.cursor, e.known = time.Time{}, false
		}
		e.saw = sight{}
		g.enqueue(e, now)
	}
}

// enqueue puts an entry where it belongs in the queue.
func (g *engine) enqueue(e *entry, now time.Time) {
	if e.busy {
		return
	}
	at := g.when(e, now)
	queued := !e.at.IsZero()
	e.at = at
	switch {
	case queued && at.IsZero():
		heap.Remove(&g.queue, e.index)
	case queued:
		heap.Fix(&g.queue, e.index)
	case !at.IsZero():
		heap.Push(&g.queue, e)
	}
	if e.rev == "" && at.IsZero() {
		delete(g.entries, e.id)
	}
}

// when says when to look at an entry, or the zero time if there is nothing to look for.
func (g *engine) when(e *entry, now time.Time) time.Time {
	at := now
	if e.known && !e.open && len(e.retired) == 0 {
		at = e.next()
		if at.IsZero() {
			return at
		}
	}
	if wait := e.hold.Sub(clock.System()); !e.hold.IsZero() && wait > 0 {
		at = later(at, now.Add(wait))
	}
	return at
}

// next is where the next due time's backup is to start.
func (e *entry) next() time.Time {
	if e.rev == "" || e.table == nil || !e.p.Enabled {
		return time.Time{}
	}
	due := e.table.next(later(e.cursor, e.p.ChangedAt))
	if due.IsZero() {
		return due
	}
	return e.table.slot(due).Start
}

// adopt takes over what a policy is as of now; a nil one is gone, or can't be read if it has a revision. The caller has g.mu.
func (g *engine) adopt(id string, p *Policy, table *timetable, rev Revision) {
	now := g.wall()
	e := g.entries[id]
	if e == nil {
		if rev == "" {
			return
		}
		e = &entry{id: id, changed: make(chan struct{})}
		g.entries[id] = e
	}
	if e.rev == rev {
		return
	}
	if was := e.p; e.rev != "" && was != nil && e.table != nil && was.Enabled && !(rev != "" && p == nil) && !(p != nil && p.ChangedAt.Equal(was.ChangedAt)) {
		old := retired{p: was, table: e.table, at: now, why: changeOf(p)}
		if p != nil {
			old.at = p.ChangedAt
		}
		e.retired = append(e.retired, old)
	}
	e.rev = rev
	if rev != "" {
		e.table = table
	}
	if p != nil {
		e.p = p // of one that is gone, or can't be read, what it was is needed yet
	}
	e.hold, e.errs = time.Time{}, 0
	close(e.changed)
	e.changed = make(chan struct{})
	g.enqueue(e, now)
}

// poll asks the Journal what changed.
func (g *engine) poll(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	g.mu.Lock()
	before := make(map[string]Revision, len(g.entries))
	for id, e := range g.entries {
		before[id] = e.rev
	}
	g.mu.Unlock()
	var group sync.WaitGroup
	defer group.Wait()
	slots := make(chan struct{}, clerks)
	read := func(id string) {
		rev := before[id]
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			g.read(ctx, id, rev)
		})
	}
	for at, err := range g.cfg.Journal.Policies(ctx) {
		if err != nil {
			if ctx.Err() == nil {
				g.log.WarnContext(ctx, "the policies can't be listed, this is tried again", "error", err)
			}
			return
		}
		if before[at.ID] != at.Revision {
			read(at.ID)
		}
		delete(before, at.ID)
	}
	for id, rev := range before {
		if rev != "" {
			read(id) // it isn't in the list, which may be old
		}
	}
}

// read gets a policy that has changed since it had a revision, unless more is known of it meanwhile.
func (g *engine) read(ctx context.Context, id string, before Revision) {
	p, rev, err := g.cfg.Journal.GetPolicy(ctx, id)
	switch {
	case errors.Is(err, ErrNotFound):
		p, rev = nil, ""
	case errors.Is(err, ErrCorrupt) && rev != "":
		g.log.WarnContext(ctx, "a policy can't be read, nothing is due by it", "policy", id, "error", err)
		p = nil
	case err != nil:
		if ctx.Err() == nil {
			g.log.WarnContext(ctx, "a policy that changed can't be read, this is tried again", "policy", id, "error", err)
		}
		return
	}
	table := g.tableOf(ctx, p)
	g.mu.Lock()
	defer g.mu.Unlock()
	if e := g.entries[id]; e == nil && before == "" || e != nil && e.rev == before {
		g.adopt(id, p, table, rev)
		g.poke()
	}
}

// tableOf returns the timetable of a policy, or nil if it has none.
func (g *engine) tableOf(ctx context.Context, p *Policy) *timetable {
	if p == nil {
		return nil
	}
	table, err := compile(p)
	if err != nil {
		g.log.WarnContext(ctx, "a policy has a schedule that can't be read, nothing is due by it", "policy", p.ID, "error", err)
		return nil
	}
	return table
}

// acquire takes the lease of a policy. If somebody has it, it says for how long at most there is nothing to do.
func (g *engine) acquire(ctx context.Context, id string) (lease catalog.Lease, wait time.Duration, err error) {
	lease, err = g.cfg.Leaser.Acquire(ctx, leaseName(id), g.cfg.LeaseTTL)
	if errors.Is(err, catalog.ErrHeld) {
		wait = g.cfg.LeaseTTL
		var held *catalog.HeldError
		if errors.As(err, &held) {
			wait = min(wait, max(held.Until.Sub(g.wall()), time.Second)) // by which clock that is, nobody knows
		}
		return nil, wait, nil
	}
	return lease, 0, err
}

func leaseName(policy string) string { return "schedule-" + policy }

// queue is a heap of entries by when to look at them.
type queue []*entry

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].at.Before(q[j].at) }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}
func (q *queue) Push(x any) {
	e := x.(*entry)
	e.index = len(*q)
	*q = append(*q, e)
}
func (q *queue) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return e
}
