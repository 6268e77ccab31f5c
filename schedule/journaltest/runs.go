package journaltest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/amberkv/amber/schedule"
)

var allStates = []schedule.RunState{schedule.RunRunning, schedule.RunDone, schedule.RunFailed, schedule.RunSkipped, schedule.RunMissed}

func runNew(c *check) {
	for n, state := range allStates {
		r := run("nightly", n, state)
		c.holdsRun(r, c.putRun(r, ""))
	}
	least := &schedule.Run{Policy: "least", DataStore: "orders", Due: start, State: schedule.RunRunning}
	c.holdsRun(least, c.putRun(least, ""))
}

func runExists(c *check) {
	for n, state := range allStates {
		r := run("nightly", n, state)
		rev := c.putRun(r, "")
		for _, j := range c.clients() {
			_, err := j.PutRun(c.ctx, run("nightly", n, schedule.RunRunning), "")
			c.is("the second PutRun of a new run", err, schedule.ErrConflict)
		}
		c.holdsRun(r, rev)
	}
}

func runNext(c *check) {
	r := run("nightly", 1, schedule.RunRunning)
	rev := c.putRun(r, "")
	seen := []schedule.Revision{rev}
	for n := 1; n < 25; n++ {
		r.Attempts = append(r.Attempts, schedule.Attempt{Owner: fmt.Sprint(n), BeganAt: r.Due})
		var err error
		rev, err = c.clients()[n%2].PutRun(c.ctx, r, rev)
		c.is("PutRun with the current revision", err, nil)
		if rev == "" || slices.Contains(seen, rev) {
			c.broken("PutRun number %d returned the revision %q, after %q", n, rev, seen)
		}
		seen = append(seen, rev)
		c.holdsRun(r, rev)
	}
}

func runStale(c *check) {
	first := c.putRun(run("nightly", 1, schedule.RunRunning), "")
	second := c.putRun(run("nightly", 1, schedule.RunRunning), first)
	r := run("nightly", 1, schedule.RunFailed)
	third := c.putRun(r, second)
	for _, stale := range []schedule.Revision{first, second, "", third + "0", "none"} {
		for _, j := range c.clients() {
			_, err := j.PutRun(c.ctx, run("nightly", 1, schedule.RunDone), stale)
			c.is("PutRun with a revision that isn't the current one", err, schedule.ErrConflict)
		}
	}
	c.holdsRun(r, third)
	_, err := c.j.PutRun(c.ctx, run("nightly", 2, schedule.RunDone), third)
	c.is("PutRun with a revision of what doesn't exist", err, schedule.ErrConflict)
	c.noRun("nightly", run("nightly", 2, "").Due)
}

func runMissing(c *check) {
	r := run("nightly", 1, schedule.RunDone)
	c.putRun(r, "")
	c.noRun("nightly", r.Due.Add(time.Second))
	c.noRun("night", r.Due)
	if _, _, err := c.j.GetRun(c.ctx, "../nightly", r.Due); !errors.Is(err, schedule.ErrNotFound) {
		c.broken("GetRun of a policy that can't be: the error is %v, want ErrNotFound", err)
	}
	for _, id := range []string{"", "a/b", "_leases"} {
		bad := run(id, 1, schedule.RunDone)
		if _, err := c.j.PutRun(c.ctx, bad, ""); err == nil {
			c.broken("PutRun takes a run of policy %q", id)
		}
	}
}

func runDue(c *check) {
	due := time.Date(2026, 10, 25, 1, 30, 0, 0, time.UTC)
	var want []*schedule.Run
	for n := range 3 { // neighbours to the second
		r := run("nightly", 0, schedule.RunDone)
		r.Due, r.Reason = due.Add(time.Duration(n)*time.Second), fmt.Sprint(n)
		c.putRun(r, "")
		want = append([]*schedule.Run{r}, want...)
	}
	c.lists(schedule.RunQuery{Policy: "nightly"}, want...)
	zone := time.FixedZone("summer", 2*3600)
	got, rev, err := c.other.GetRun(c.ctx, "nightly", due.In(zone))
	c.is("GetRun of a due time in another zone", err, nil)
	if !got.Due.Equal(due) || got.Reason != "0" {
		c.broken("GetRun of a due time in another zone returns %+v", got)
	}
	again := *got
	again.Due = due.In(zone)
	if _, err := c.j.PutRun(c.ctx, &again, ""); !errors.Is(err, schedule.ErrConflict) {
		c.broken("PutRun of the same due time in another zone: the error is %v, want ErrConflict", err)
	}
	_, err = c.j.PutRun(c.ctx, &again, rev)
	c.is("PutRun of the same due time in another zone", err, nil)
	if got := c.runs(schedule.RunQuery{Policy: "nightly"}); len(got) != 3 {
		c.broken("the same due time in another zone has another run")
	}
}

func runKeepsNothing(c *check) {
	r := run("nightly", 1, schedule.RunDone)
	want := *r
	want.Attempts = slices.Clone(r.Attempts)
	rev := c.putRun(r, "")
	r.Attempts[0].Owner, r.Reason = "changed", "changed"
	c.holdsRun(&want, rev)
	got, _, err := c.j.GetRun(c.ctx, "nightly", want.Due)
	c.is("GetRun", err, nil)
	got.Attempts[0].Owner, got.Reason = "changed", "changed"
	for _, got := range c.runs(schedule.RunQuery{}) {
		got.Attempts[0].Owner, got.Reason = "changed", "changed"
	}
	c.holdsRun(&want, rev)
	c.lists(schedule.RunQuery{}, &want)
}

func runNewRace(c *check) {
	for round := range 10 {
		revs, runs := make([]schedule.Revision, 8), make([]*schedule.Run, 8)
		winners := c.race("PutRun", len(revs), func(i int) (err error) {
			runs[i] = run("nightly", round, schedule.RunRunning)
			runs[i].Attempts[0].Owner = fmt.Sprint(i)
			revs[i], err = c.clients()[i%2].PutRun(c.ctx, runs[i], "")
			return err
		}, schedule.ErrConflict)
		if len(winners) != 1 {
			c.broken("in round %d the writers %v have won, want one", round, winners)
		}
		c.holdsRun(runs[winners[0]], revs[winners[0]])
	}
}

func runNextRace(c *check) {
	r := run("nightly", 1, schedule.RunRunning)
	rev := c.putRun(r, "")
	for round := range 10 {
		revs := make([]schedule.Revision, 8)
		// All of them write the very same: who has won must know it all the same.
		r.Reason = fmt.Sprint(round)
		winners := c.race("PutRun", len(revs), func(i int) (err error) {
			revs[i], err = c.clients()[i%2].PutRun(c.ctx, r, rev)
			return err
		}, schedule.ErrConflict)
		if len(winners) != 1 {
			c.broken("in round %d the writers %v have won, want one", round, winners)
		}
		rev = revs[winners[0]]
		c.holdsRun(r, rev)
	}
}

// runNoLoss lets several writers add an attempt each, again and again, without waiting for each other.
func runNoLoss(c *check) {
	c.putRun(&schedule.Run{Policy: "nightly", DataStore: "orders", Due: start, State: schedule.RunRunning}, "")
	var mu sync.Mutex
	won := map[string]bool{}
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			j := c.clients()[w%2]
			for n := 0; n < 12; {
				r, rev, err := j.GetRun(c.ctx, "nightly", start)
				if err != nil {
					c.report("GetRun: %v", err)
					return
				}
				name := fmt.Sprintf("%d-%d", w, n)
				n++
				r.Attempts = append(r.Attempts, schedule.Attempt{Owner: name, BeganAt: start})
				if _, err := j.PutRun(c.ctx, r, rev); err == nil {
					mu.Lock()
					won[name] = true
					mu.Unlock()
				}
			}
		})
	}
	writers.Wait()
	r, _, err := c.other.GetRun(c.ctx, "nightly", start)
	c.is("GetRun", err, nil)
	times := map[string]int{}
	for _, a := range r.Attempts {
		times[a.Owner]++
	}
	for name := range won {
		if times[name] != 1 {
			c.broken("a PutRun added attempt %s and returned nil; it is there %d times", name, times[name])
		}
	}
	if len(won) == 0 {
		c.broken("of 48 writers none has won")
	}
}

func runCorruptGet(c *check) {
	r := run("nightly", 1, schedule.RunRunning)
	c.putRun(r, c.putRun(r, ""))
	c.opts.CorruptRun(c.T, c.j, "nightly", r.Due)
	got, _, err := c.other.GetRun(c.ctx, "nightly", r.Due)
	c.is("GetRun of a run that was damaged", err, schedule.ErrCorrupt)
	if got != nil || !strings.Contains(err.Error(), "nightly") {
		c.broken("GetRun of a run that was damaged returns %+v and the error %v, which doesn't say which it is", got, err)
	}
	_, err = c.j.PutRun(c.ctx, r, "")
	c.is("PutRun of a due time whose run was damaged, as a new one", err, schedule.ErrConflict)
}

func runCorruptList(c *check) {
	var want []schedule.Run
	for n := range 6 {
		for _, policy := range []string{"hourly", "nightly"} {
			r := run(policy, n, schedule.RunDone)
			c.putRun(r, "")
			if n == 1 || n == 4 {
				c.opts.CorruptRun(c.T, c.j, policy, r.Due)
			} else if policy == "nightly" {
				want = append([]schedule.Run{*r}, want...)
			}
		}
	}
	for _, q := range []schedule.RunQuery{{Policy: "nightly"}, {}} {
		good, bad := 0, 0
		for r, err := range c.other.Runs(c.ctx, q) {
			switch {
			case errors.Is(err, schedule.ErrCorrupt) && r == nil:
				bad++
			case err != nil || r == nil:
				c.broken("Runs gives %+v and the error %v", r, err)
			case r.Policy == "nightly" && !r.Due.Equal(want[good].Due):
				c.broken("Runs gives the run due at %v, want %v", r.Due, want[good].Due)
			case r.Policy == "nightly":
				good++
			}
		}
		wantBad := 4
		if q.Policy != "" {
			wantBad = 2
		}
		if good != len(want) || bad != wantBad {
			c.broken("Runs of %+v gives %d good runs of policy nightly and %d errors, want %d and %d", q, good, bad, len(want), wantBad)
		}
	}
}

func runsOrder(c *check) {
	var want []*schedule.Run
	for n := range 12 {
		r := run([]string{"hourly", "nightly", "a"}[n%3], (n*7)%12, schedule.RunDone)
		c.putRun(r, "")
		want = append(want, r)
	}
	slices.SortFunc(want, func(a, b *schedule.Run) int { return b.Due.Compare(a.Due) })
	c.lists(schedule.RunQuery{}, want...)
	// Where the number of digits of a time changes, or its sign would.
	far := run("far", 0, schedule.RunDone)
	var times []*schedule.Run
	for _, due := range []time.Time{time.Unix(1, 0), time.Unix(999_999_999, 0), time.Unix(1_000_000_000, 0), time.Unix(9_999_999_999, 0), time.Unix(10_000_000_000, 0)} {
		r := *far
		r.Due = due.UTC()
		c.putRun(&r, "")
		times = append([]*schedule.Run{&r}, times...)
	}
	c.lists(schedule.RunQuery{Policy: "far"}, times...)
}

func runsQuery(c *check) {
	var all []*schedule.Run
	for n := range 10 {
		r := run([]string{"p", "p2"}[n%2], n, allStates[n%5])
		r.DataStore = []string{"orders", "orders2", "carts"}[n%3]
		c.putRun(r, "")
		all = append([]*schedule.Run{r}, all...)
	}
	match := func(f func(r *schedule.Run) bool) (list []*schedule.Run) {
		for _, r := range all {
			if f(r) {
				list = append(list, r)
			}
		}
		return list
	}
	c.lists(schedule.RunQuery{Policy: "p"}, match(func(r *schedule.Run) bool { return r.Policy == "p" })...)
	c.lists(schedule.RunQuery{DataStore: "orders"}, match(func(r *schedule.Run) bool { return r.DataStore == "orders" })...)
	c.lists(schedule.RunQuery{States: []schedule.RunState{schedule.RunDone, schedule.RunMissed}},
		match(func(r *schedule.Run) bool { return r.State == schedule.RunDone || r.State == schedule.RunMissed })...)
	from, until := start.Add(3*time.Minute), start.Add(7*time.Minute)
	for _, policy := range []string{"", "p", "p2"} {
		for _, q := range []schedule.RunQuery{{From: from}, {Until: until}, {From: from, Until: until}, {From: until, Until: from}} {
			q.Policy = policy
			c.lists(q, match(func(r *schedule.Run) bool {
				return (policy == "" || r.Policy == policy) && (q.From.IsZero() || !r.Due.Before(q.From)) && (q.Until.IsZero() || r.Due.Before(q.Until))
			})...)
		}
	}
	c.lists(schedule.RunQuery{Policy: "p", DataStore: "carts", States: []schedule.RunState{schedule.RunFailed}, From: start},
		match(func(r *schedule.Run) bool {
			return r.Policy == "p" && r.DataStore == "carts" && r.State == schedule.RunFailed
		})...)
	c.lists(schedule.RunQuery{Policy: "absent"})
}

func runsLimit(c *check) {
	var want []*schedule.Run
	for n := range 23 {
		r := run("nightly", n, allStates[n%5])
		c.putRun(r, "")
		if r.State != schedule.RunSkipped {
			want = append([]*schedule.Run{r}, want...)
		}
	}
	states := []schedule.RunState{schedule.RunRunning, schedule.RunDone, schedule.RunFailed, schedule.RunMissed}
	for _, policy := range []string{"", "nightly"} {
		for _, limit := range []int{1, 4, 19, 100} {
			q := schedule.RunQuery{Policy: policy, States: states, Limit: limit}
			var got []*schedule.Run
			for range 30 {
				page := c.runs(q)
				if len(page) > limit {
					c.broken("Runs of %+v gives %d runs", q, len(page))
				}
				got = append(got, page...)
				if len(page) < limit {
					break
				}
				q.Until = page[len(page)-1].Due
			}
			for i := range max(len(got), len(want)) {
				if i >= len(got) || i >= len(want) || !got[i].Due.Equal(want[i].Due) {
					c.broken("pages of %d give %d runs, want %d; number %d is another one", limit, len(got), len(want), i)
				}
			}
		}
	}
}

func runsBreak(c *check) {
	for n := range 3 {
		c.putRun(run("nightly", n, schedule.RunDone), "")
	}
	for _, policy := range []string{"", "nightly"} {
		for stop := 1; stop <= 3; stop++ {
			n := 0
			for _, err := range c.j.Runs(c.ctx, schedule.RunQuery{Policy: policy}) {
				c.is("Runs", err, nil)
				if n++; n == stop {
					break
				}
			}
			if n != stop {
				c.broken("Runs gave %d runs, of 3", n)
			}
		}
	}
}

func runsWhileTrimmed(c *check) {
	for _, policy := range []string{"", "nightly"} {
		for n := range 20 {
			r := run("nightly", n, schedule.RunDone)
			if _, _, err := c.j.GetRun(c.ctx, "nightly", r.Due); errors.Is(err, schedule.ErrNotFound) {
				c.putRun(r, "")
			}
		}
		changed := run("nightly", 20, schedule.RunRunning)
		_, rev, err := c.j.GetRun(c.ctx, "nightly", changed.Due)
		if errors.Is(err, schedule.ErrNotFound) {
			rev = c.putRun(changed, "")
		}
		seen := map[time.Time]bool{}
		n := 0
		for r, err := range c.other.Runs(c.ctx, schedule.RunQuery{Policy: policy}) {
			if err != nil {
				c.broken("a Runs during which others are trimmed: %v", err)
			}
			seen[r.Due] = true
			if n++; n == 1 {
				_, err := c.j.TrimRuns(c.ctx, "nightly", start.Add(10*time.Minute))
				c.is("TrimRuns", err, nil)
				for range 12 {
					rev = c.putRun(changed, rev)
				}
			}
		}
		for n := 10; n <= 20; n++ {
			if !seen[run("nightly", n, "").Due] {
				c.broken("the run due at minute %d wasn't given, and is there", n)
			}
		}
	}
}

func trim(c *check) {
	var kept []*schedule.Run
	for n := range 10 {
		r := run("nightly", n, allStates[n%5])
		c.putRun(r, "")
		if n >= 7 || r.State == schedule.RunRunning {
			kept = append([]*schedule.Run{r}, kept...)
		}
		other := run("nightly2", n, schedule.RunDone)
		c.putRun(other, "")
	}
	before := start.Add(7 * time.Minute)
	n, err := c.other.TrimRuns(c.ctx, "nightly", before)
	c.is("TrimRuns", err, nil)
	if n != 5 {
		c.broken("TrimRuns says that it removed %d runs, of 5", n)
	}
	c.lists(schedule.RunQuery{Policy: "nightly"}, kept...)
	c.noRun("nightly", start.Add(time.Minute))
	if got := c.runs(schedule.RunQuery{Policy: "nightly2"}); len(got) != 10 {
		c.broken("TrimRuns of a policy has left %d runs of another, of 10", len(got))
	}
	if n, err = c.j.TrimRuns(c.ctx, "nightly", before); n != 0 || err != nil {
		c.broken("the second TrimRuns says that it removed %d runs: %v", n, err)
	}
	n, err = c.j.TrimRuns(c.ctx, "nightly2", start.AddDate(1, 0, 0))
	c.is("TrimRuns", err, nil)
	if got := c.runs(schedule.RunQuery{Policy: "nightly2"}); n != 9 || len(got) != 1 || !got[0].Due.Equal(start.Add(9*time.Minute)) {
		c.broken("TrimRuns of all runs says that it removed %d, and there are %+v; the latest stays", n, got)
	}
	if n, err := c.j.TrimRuns(c.ctx, "absent", before); n != 0 || err != nil {
		c.broken("TrimRuns of a policy that has no runs: %d, %v", n, err)
	}
	// What was trimmed may be recorded anew.
	r := run("nightly", 1, schedule.RunDone)
	c.holdsRun(r, c.putRun(r, ""))
}

func trimRace(c *check) {
	latest := run("nightly", 1000, schedule.RunDone)
	c.putRun(latest, "")
	for round := range 10 {
		r := run("nightly", round, schedule.RunMissed)
		rev := c.putRun(r, "")
		running := run("nightly", round, schedule.RunRunning)
		removed := 0
		var next schedule.Revision
		var putErr error
		c.race("PutRun and TrimRuns", 2, func(i int) (err error) {
			if i == 0 {
				next, putErr = c.j.PutRun(c.ctx, running, rev)
				return nil
			}
			removed, err = c.other.TrimRuns(c.ctx, "nightly", latest.Due)
			return err
		})
		switch {
		case putErr == nil && removed == 0:
			c.holdsRun(running, next)
			running.State = schedule.RunDone
			c.putRun(running, next) // so that the next round trims it
			_, err := c.j.TrimRuns(c.ctx, "nightly", latest.Due)
			c.is("TrimRuns", err, nil)
		case putErr != nil && removed == 1:
			c.noRun("nightly", r.Due)
		default:
			c.broken("in round %d PutRun returned %v, and TrimRuns says that it removed %d", round, putErr, removed)
		}
	}
}
