// Package journaltest proves that a journal keeps the contract of package schedule.
//
// A driver calls [Run] from a test of its own. Each rule of the contract is a subtest, and a failure says which rule
// was broken and how.
package journaltest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/schedule"
)

// Options tell Run about a journal.
type Options struct {
	// Another opens one more client of a journal that open returned, as another process would have it. Nil means that
	// the journal is only used by the one client.
	Another func(t *testing.T, j schedule.Journal) schedule.Journal

	// CorruptPolicy and CorruptRun damage a record where the journal keeps it, by changing some of its bytes. Nil means that
	// this can't happen to the journal.
	CorruptPolicy func(t *testing.T, j schedule.Journal, id string)
	CorruptRun    func(t *testing.T, j schedule.Journal, policy string, due time.Time)
}

// Run tests a journal. It calls open once for each subtest; each time open returns a journal that is empty and that nothing else
// uses, and cleans it up with t.Cleanup. Nil opts mean the zero Options.
func Run(t *testing.T, open func(t *testing.T) schedule.Journal, opts *Options) {
	t.Helper()
	if opts == nil {
		opts = &Options{}
	}
	for _, r := range rules {
		if strings.HasPrefix(r.name, "policy-corrupt") && opts.CorruptPolicy == nil || strings.HasPrefix(r.name, "run-corrupt") && opts.CorruptRun == nil {
			continue
		}
		t.Run(r.name, func(t *testing.T) {
			j := open(t)
			c := &check{T: t, ctx: t.Context(), j: j, other: j, rule: r.rule, opts: opts}
			if opts.Another != nil {
				c.other = opts.Another(t, j)
			}
			r.run(c)
		})
	}
}

// rules are those of the contract. A name is that of the subtest; the rule is told when it is broken.
var rules = []struct {
	name, rule string
	run        func(*check)
}{
	{"policy-new", "with an empty revision, PutPolicy writes a policy that isn't there, and GetPolicy returns all of it", policyNew},
	{"policy-exists", "with an empty revision, PutPolicy of a policy that exists returns ErrConflict and changes nothing", policyExists},
	{"policy-next", "with the current revision, PutPolicy writes the policy and returns a revision that it never had", policyNext},
	{"policy-stale", "with any but the current revision, PutPolicy returns ErrConflict and changes nothing", policyStale},
	{"policy-missing", "a policy that doesn't exist is ErrNotFound to GetPolicy and DeletePolicy, whatever its ID", policyMissing},
	{"policy-keeps-nothing", "PutPolicy doesn't keep the policy, and the caller owns what GetPolicy returns", policyKeepsNothing},
	{"policy-new-race", "of several writers of a new policy exactly one wins, and the others get ErrConflict", policyNewRace},
	{"policy-next-race", "of several writers with the same revision exactly one wins, and the others get ErrConflict", policyNextRace},
	{"policy-delete", "DeletePolicy removes a policy, if its revision is the one given, and nothing else: its runs stay", policyDelete},
	{"policy-delete-race", "of a PutPolicy and a DeletePolicy with the same revision exactly one wins", policyDeleteRace},
	{"policy-delete-for-good", "a policy that was deleted is not changed with a revision it had, also when there is a new one of its ID", policyDeleteForGood},
	{"policy-corrupt", "GetPolicy of a policy that can't be read returns ErrCorrupt and a revision, with which it can be replaced or deleted", policyCorrupt},
	{"policies", "Policies gives the IDs of all policies in ascending order, each with the revision that GetPolicy returns", policiesAll},
	{"policies-change", "the revision that Policies gives changes with every PutPolicy, and never comes back", policiesChange},
	{"policies-break", "a caller may leave the sequence of Policies at any time", policiesBreak},
	{"policies-while-put", "a policy that is changed all the time is given by every Policies and GetPolicy, and never at an older revision than before", policiesWhilePut},

	{"run-new", "with an empty revision, PutRun writes a run that isn't there, and GetRun returns all of it", runNew},
	{"run-exists", "with an empty revision, PutRun of a due time that has a run returns ErrConflict and changes nothing", runExists},
	{"run-next", "with the current revision, PutRun writes the run and returns a new revision", runNext},
	{"run-stale", "with any but the current revision, PutRun returns ErrConflict and changes nothing", runStale},
	{"run-missing", "GetRun of a due time that has no run returns ErrNotFound", runMissing},
	{"run-due", "a run is known by its policy and its due time to the second, whatever the zone in which that is told", runDue},
	{"run-keeps-nothing", "PutRun doesn't keep the run, and the caller owns what GetRun and Runs return", runKeepsNothing},
	{"run-new-race", "of several writers of a new run exactly one wins, and the others get ErrConflict", runNewRace},
	{"run-next-race", "of several writers with the same revision exactly one wins, and the others get ErrConflict", runNextRace},
	{"run-no-loss", "what a PutRun has written that returned nil is what the next one with its revision builds on", runNoLoss},
	{"run-corrupt-get", "GetRun of a run that can't be read returns ErrCorrupt", runCorruptGet},
	{"run-corrupt-list", "a run that can't be read is an ErrCorrupt in the sequence of Runs and hides no other", runCorruptList},
	{"runs-order", "Runs gives the runs of the latest due times first, across policies", runsOrder},
	{"runs-query", "Runs gives the runs of the policy, data store, states and time that are asked for", runsQuery},
	{"runs-limit", "Runs gives no more than Limit runs that match, so that Until the last of them gives the next page", runsLimit},
	{"runs-break", "a caller may leave the sequence of Runs at any time", runsBreak},
	{"runs-while-trimmed", "a run that is trimmed or changed during a Runs is no error, and hides no other", runsWhileTrimmed},
	{"trim", "TrimRuns removes the runs of a policy before a time and says how many, but none that are running, nor the latest", trim},
	{"trim-race", "of a PutRun that makes a run running and a TrimRuns that removes it exactly one wins", trimRace},
	{"cancelled", "with a context that has ended, every method returns an error that wraps ctx.Err() and has no effect", cancelled},
}

// A check is one subtest at work.
type check struct {
	*testing.T
	ctx      context.Context
	j, other schedule.Journal // two clients of one journal
	rule     string
	opts     *Options
}

// broken reports a broken rule and ends the subtest.
func (c *check) broken(format string, args ...any) {
	c.Helper()
	c.report(format, args...)
	c.FailNow()
}

// report reports a broken rule, from any goroutine.
func (c *check) report(format string, args ...any) {
	c.Helper()
	c.Errorf(format+"\nThe rule: %s.", append(args, c.rule)...)
}

// is checks an error.
func (c *check) is(what string, err, want error) {
	c.Helper()
	if !errors.Is(err, want) {
		c.broken("%s: the error is %v, want %v", what, err, want)
	}
}

func (c *check) clients() []schedule.Journal { return []schedule.Journal{c.j, c.other} }

// start is a due time.
var start = time.Date(2026, 11, 1, 3, 0, 0, 0, time.UTC)

// policy returns a policy with something in every field, and a number to tell it by.
func policy(id string, n int) *schedule.Policy {
	p := &schedule.Policy{
		ID: id, DataStore: "orders", Enabled: true, When: schedule.When{Weekly: &schedule.Weekly{Days: []time.Weekday{1, 5}, Hours: []int{3}, Minute: n % 60}},
		TimeZone: "Europe/Berlin", Window: time.Hour, Retries: 3, CatchUp: schedule.CatchUpNone,
		Store: "archive", BackupName: "nightly-{timestamp}", Labels: map[string]string{"team": "a <b> \"c\" ü", "n": fmt.Sprint(n)},
		CreatedAt: start, ChangedAt: start.Add(time.Duration(n) * time.Second),
	}
	p.Retention.Days, p.Retention.Daily, p.Retention.FallPercent, p.Retention.FallAccepted = n, 7, 50, start.Add(123*time.Nanosecond)
	return p
}

// run returns a run with something in every field, that is due n minutes after start.
func run(policy string, n int, state schedule.RunState) *schedule.Run {
	due := start.Add(time.Duration(n) * time.Minute)
	return &schedule.Run{
		Policy: policy, DataStore: "orders", Due: due, State: state, Reason: fmt.Sprintf("run %d", n), First: due.Add(-time.Hour), Count: 60,
		Start: due.Add(time.Second), WindowEnd: due.Add(time.Hour), Backup: catalog.NewID(due), EndedAt: due.Add(time.Minute),
		Attempts: []schedule.Attempt{{Owner: "a", BeganAt: due.Add(time.Second), EndedAt: due.Add(2 * time.Second), Backup: catalog.NewID(due), Error: "no <space> left"}},
	}
}

func (c *check) putPolicy(p *schedule.Policy, prev schedule.Revision) schedule.Revision {
	c.Helper()
	rev, err := c.j.PutPolicy(c.ctx, p, prev)
	c.is("PutPolicy", err, nil)
	if rev == "" {
		c.broken("PutPolicy returned no error and no revision")
	}
	return rev
}

func (c *check) putRun(r *schedule.Run, prev schedule.Revision) schedule.Revision {
	c.Helper()
	rev, err := c.j.PutRun(c.ctx, r, prev)
	c.is("PutRun", err, nil)
	if rev == "" {
		c.broken("PutRun returned no error and no revision")
	}
	return rev
}

// holdsPolicy checks that both clients have a policy at a revision.
func (c *check) holdsPolicy(want *schedule.Policy, at schedule.Revision) {
	c.Helper()
	for _, j := range c.clients() {
		got, rev, err := j.GetPolicy(c.ctx, want.ID)
		c.is("GetPolicy", err, nil)
		if !reflect.DeepEqual(got, want) || rev != at {
			c.broken("GetPolicy returns\n%+v at %s, want\n%+v at %s", got, rev, want, at)
		}
	}
}

// holdsRun checks that both clients have a run at a revision.
func (c *check) holdsRun(want *schedule.Run, at schedule.Revision) {
	c.Helper()
	for _, j := range c.clients() {
		got, rev, err := j.GetRun(c.ctx, want.Policy, want.Due)
		c.is("GetRun", err, nil)
		if !reflect.DeepEqual(got, want) || rev != at {
			c.broken("GetRun returns\n%+v at %s, want\n%+v at %s", got, rev, want, at)
		}
	}
}

// noPolicy checks that neither client has a policy.
func (c *check) noPolicy(id string) {
	c.Helper()
	for _, j := range c.clients() {
		if p, rev, err := j.GetPolicy(c.ctx, id); !errors.Is(err, schedule.ErrNotFound) || p != nil {
			c.broken("GetPolicy of %s returns %v, revision %q and the error %v, want ErrNotFound", id, p, rev, err)
		}
		for got, err := range j.Policies(c.ctx) {
			c.is("Policies", err, nil)
			if got.ID == id {
				c.broken("policy %s is listed", id)
			}
		}
	}
}

// noRun checks that neither client has a run.
func (c *check) noRun(policy string, due time.Time) {
	c.Helper()
	for _, j := range c.clients() {
		if r, rev, err := j.GetRun(c.ctx, policy, due); !errors.Is(err, schedule.ErrNotFound) || r != nil {
			c.broken("GetRun of %s at %v returns %v, revision %q and the error %v, want ErrNotFound", policy, due, r, rev, err)
		}
	}
	for _, got := range c.runs(schedule.RunQuery{Policy: policy}) {
		if got.Due.Equal(due) {
			c.broken("the run of %s at %v is listed", policy, due)
		}
	}
}

// runs returns what a query gives.
func (c *check) runs(q schedule.RunQuery) []*schedule.Run {
	c.Helper()
	var list []*schedule.Run
	for r, err := range c.other.Runs(c.ctx, q) {
		c.is("Runs", err, nil)
		list = append(list, r)
	}
	return list
}

// lists checks what a query gives, in order.
func (c *check) lists(q schedule.RunQuery, want ...*schedule.Run) {
	c.Helper()
	got := c.runs(q)
	name := func(list []*schedule.Run) string {
		var s []string
		for _, r := range list {
			s = append(s, fmt.Sprintf("%s %s %s", r.Policy, r.Due.Format(time.DateTime), r.State))
		}
		return "[" + strings.Join(s, ", ") + "]"
	}
	if len(got) != len(want) {
		c.broken("Runs of %+v gives\n%s, want\n%s", q, name(got), name(want))
	}
	for i := range got {
		if !reflect.DeepEqual(got[i], want[i]) {
			c.broken("Runs of %+v gives\n%s, want\n%s; number %d is\n%+v, want\n%+v", q, name(got), name(want), i, got[i], want[i])
		}
	}
}

// race calls f in several goroutines at once, and returns which of them got nil. The others must get one of some errors.
func (c *check) race(what string, n int, f func(i int) error, others ...error) (winners []int) {
	c.Helper()
	errs := make([]error, n)
	var ready, done sync.WaitGroup
	gate := make(chan struct{})
	for i := range n {
		ready.Add(1)
		done.Go(func() {
			ready.Done()
			<-gate
			errs[i] = f(i)
		})
	}
	ready.Wait()
	close(gate)
	done.Wait()
	for i, err := range errs {
		known := err == nil
		for _, other := range others {
			known = known || errors.Is(err, other)
		}
		if err == nil {
			winners = append(winners, i)
		} else if !known {
			c.broken("%s: writer %d gets the error %v, want nil or %v", what, i, err, others)
		}
	}
	return winners
}
