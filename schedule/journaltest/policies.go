package journaltest

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/schedule"
)

func policyNew(c *check) {
	longest := strings.Repeat("p", catalog.MaxNameLen)
	for n, id := range []string{"nightly", "a", "20261123T221700.123Z-k7f3", longest} {
		p := policy(id, n)
		c.holdsPolicy(p, c.putPolicy(p, ""))
	}
	least := &schedule.Policy{ID: "least", DataStore: "orders", When: schedule.When{Cron: "@daily"}}
	c.holdsPolicy(least, c.putPolicy(least, ""))
}

func policyExists(c *check) {
	p := policy("nightly", 1)
	rev := c.putPolicy(p, "")
	for _, j := range c.clients() {
		_, err := j.PutPolicy(c.ctx, policy("nightly", 2), "")
		c.is("the second PutPolicy of a new policy", err, schedule.ErrConflict)
	}
	c.holdsPolicy(p, rev)
}

func policyNext(c *check) {
	p := policy("nightly", 0)
	rev := c.putPolicy(p, "")
	seen := []schedule.Revision{rev}
	for n := 1; n < 20; n++ {
		next := policy("nightly", n)
		next.Enabled = n%2 == 0
		var err error
		rev, err = c.clients()[n%2].PutPolicy(c.ctx, next, rev)
		c.is("PutPolicy with the current revision", err, nil)
		if rev == "" || slices.Contains(seen, rev) {
			c.broken("PutPolicy number %d returned the revision %q, after %q", n, rev, seen)
		}
		seen = append(seen, rev)
		c.holdsPolicy(next, rev)
	}
}

func policyStale(c *check) {
	p := policy("nightly", 1)
	first := c.putPolicy(p, "")
	second := c.putPolicy(p, first)
	third := c.putPolicy(p, second)
	foreign := c.putPolicy(policy("other", 1), "")
	if foreign == third {
		foreign = first
	}
	for _, stale := range []schedule.Revision{first, second, foreign, "", third + "0", "none"} {
		for _, j := range c.clients() {
			_, err := j.PutPolicy(c.ctx, policy("nightly", 2), stale)
			c.is("PutPolicy with a revision that isn't the current one", err, schedule.ErrConflict)
		}
	}
	c.holdsPolicy(p, third)
	_, err := c.j.PutPolicy(c.ctx, policy("absent", 1), third)
	c.is("PutPolicy with a revision of what doesn't exist", err, schedule.ErrConflict)
	c.noPolicy("absent")
}

func policyMissing(c *check) {
	rev := c.putPolicy(policy("nightly", 1), "")
	for _, id := range []string{"absent", "night", "nightly2", "", "a/b", "../nightly", ".", "nightly/", strings.Repeat("x", 300)} {
		c.noPolicy(id)
		c.is("DeletePolicy of a policy that doesn't exist", c.j.DeletePolicy(c.ctx, id, rev), schedule.ErrNotFound)
	}
	c.holdsPolicy(policy("nightly", 1), rev)
	for _, id := range []string{"", "a/b", "_leases", ".x"} {
		bad := policy(id, 1)
		if _, err := c.j.PutPolicy(c.ctx, bad, ""); err == nil {
			c.broken("PutPolicy takes a policy with the ID %q", id)
		}
	}
}

func policyKeepsNothing(c *check) {
	p := policy("nightly", 1)
	rev := c.putPolicy(p, "")
	p.Labels["team"], p.When.Weekly.Hours[0], p.DataStore = "changed", 23, "changed"
	want := policy("nightly", 1)
	c.holdsPolicy(want, rev)
	got, _, err := c.j.GetPolicy(c.ctx, "nightly")
	c.is("GetPolicy", err, nil)
	got.Labels["team"], got.When.Weekly.Hours[0], got.DataStore = "changed", 23, "changed"
	c.holdsPolicy(want, rev)
}

func policyNewRace(c *check) {
	for round := range 10 {
		id := "p" + string(rune('a'+round))
		revs := make([]schedule.Revision, 8)
		winners := c.race("PutPolicy", len(revs), func(i int) (err error) {
			revs[i], err = c.clients()[i%2].PutPolicy(c.ctx, policy(id, i), "")
			return err
		}, schedule.ErrConflict)
		if len(winners) != 1 {
			c.broken("in round %d the writers %v have won, want one", round, winners)
		}
		c.holdsPolicy(policy(id, winners[0]), revs[winners[0]])
	}
}

func policyNextRace(c *check) {
	rev := c.putPolicy(policy("nightly", 0), "")
	for round := range 10 {
		revs := make([]schedule.Revision, 8)
		winners := c.race("PutPolicy", len(revs), func(i int) (err error) {
			revs[i], err = c.clients()[i%2].PutPolicy(c.ctx, policy("nightly", 10*round+i), rev)
			return err
		}, schedule.ErrConflict)
		if len(winners) != 1 {
			c.broken("in round %d the writers %v have won, want one", round, winners)
		}
		rev = revs[winners[0]]
		c.holdsPolicy(policy("nightly", 10*round+winners[0]), rev)
	}
}

func policyDelete(c *check) {
	first := c.putPolicy(policy("nightly", 1), "")
	second := c.putPolicy(policy("nightly", 2), first)
	other := policy("nightly2", 3)
	otherRev := c.putPolicy(other, "")
	r := run("nightly", 1, schedule.RunDone)
	runRev := c.putRun(r, "")
	for _, stale := range []schedule.Revision{first, "", second + "0"} {
		c.is("DeletePolicy with a revision that isn't the current one", c.other.DeletePolicy(c.ctx, "nightly", stale), schedule.ErrConflict)
	}
	c.holdsPolicy(policy("nightly", 2), second)
	c.is("DeletePolicy", c.other.DeletePolicy(c.ctx, "nightly", second), nil)
	c.noPolicy("nightly")
	c.is("DeletePolicy of a policy that was deleted", c.j.DeletePolicy(c.ctx, "nightly", second), schedule.ErrNotFound)
	c.holdsPolicy(other, otherRev)
	c.holdsRun(r, runRev)
}

func policyDeleteRace(c *check) {
	rev := schedule.Revision("")
	for round := range 10 {
		rev = c.putPolicy(policy("nightly", round), rev)
		var next schedule.Revision
		winners := c.race("PutPolicy and DeletePolicy", 2, func(i int) (err error) {
			if i == 0 {
				next, err = c.j.PutPolicy(c.ctx, policy("nightly", 100), rev)
				return err
			}
			return c.other.DeletePolicy(c.ctx, "nightly", rev)
		}, schedule.ErrConflict, schedule.ErrNotFound)
		if len(winners) != 1 {
			c.broken("in round %d the writers %v have won, want one", round, winners)
		}
		if winners[0] == 0 {
			c.holdsPolicy(policy("nightly", 100), next)
			rev = next
		} else {
			c.noPolicy("nightly")
			rev = ""
		}
	}
}

func policyDeleteForGood(c *check) {
	var had []schedule.Revision
	rev := schedule.Revision("")
	for n := range 12 {
		rev = c.putPolicy(policy("nightly", n), rev)
		if slices.Contains(had, rev) {
			c.broken("PutPolicy returned the revision %s, which the policy had before: %q", rev, had)
		}
		had = append(had, rev)
		if n%3 != 2 {
			continue
		}
		c.is("DeletePolicy", c.j.DeletePolicy(c.ctx, "nightly", rev), nil)
		for _, old := range had {
			_, err := c.other.PutPolicy(c.ctx, policy("nightly", 99), old)
			c.is("PutPolicy with a revision of a policy that was deleted", err, schedule.ErrConflict)
		}
		c.noPolicy("nightly")
		again := policy("nightly", 100+n)
		fresh := c.putPolicy(again, "")
		for _, old := range had {
			_, err := c.other.PutPolicy(c.ctx, policy("nightly", 99), old)
			c.is("PutPolicy with a revision of the policy's predecessor", err, schedule.ErrConflict)
			c.is("DeletePolicy with a revision of the policy's predecessor", c.other.DeletePolicy(c.ctx, "nightly", old), schedule.ErrConflict)
		}
		c.holdsPolicy(again, fresh)
		had = append(had, fresh)
		rev = fresh
	}
}

func policyCorrupt(c *check) {
	sound := policy("sound", 1)
	soundRev := c.putPolicy(sound, "")
	for n, id := range []string{"replaced", "deleted"} {
		rev := c.putPolicy(policy(id, 1), "")
		c.putPolicy(policy(id, 2), rev)
		c.opts.CorruptPolicy(c.T, c.j, id)
		p, at, err := c.other.GetPolicy(c.ctx, id)
		c.is("GetPolicy of a policy that was damaged", err, schedule.ErrCorrupt)
		if p != nil || at == "" {
			c.broken("GetPolicy of a policy that was damaged returns %+v and the revision %q", p, at)
		}
		if !strings.Contains(err.Error(), id) {
			c.broken("the error %q doesn't say which policy can't be read", err)
		}
		if !slices.ContainsFunc(c.policies(), func(p schedule.PolicyRevision) bool { return p.ID == id && p.Revision == at }) {
			c.broken("Policies doesn't give %s at revision %s, which can't be read", id, at)
		}
		if n == 0 {
			p := policy(id, 3)
			c.holdsPolicy(p, c.putPolicy(p, at))
			continue
		}
		c.is("DeletePolicy of a policy that was damaged", c.j.DeletePolicy(c.ctx, id, at), nil)
		c.noPolicy(id)
	}
	c.holdsPolicy(sound, soundRev)
}

// policies returns what Policies gives to both clients.
func (c *check) policies() []schedule.PolicyRevision {
	c.Helper()
	var lists [2][]schedule.PolicyRevision
	for i, j := range c.clients() {
		for p, err := range j.Policies(c.ctx) {
			c.is("Policies", err, nil)
			lists[i] = append(lists[i], p)
		}
	}
	if !slices.Equal(lists[0], lists[1]) {
		c.broken("Policies gives %v to one client, %v to another", lists[0], lists[1])
	}
	return lists[0]
}

func policiesAll(c *check) {
	if got := c.policies(); len(got) != 0 {
		c.broken("Policies of an empty journal gives %v", got)
	}
	want := []string{"B", "a", "a-b", "a.b", "a0", "a_b", "nightly", "nightly2"} // a slash sorts between "." and "0"
	for n := range want {
		c.putPolicy(policy(want[(n*5)%len(want)], n), "")
	}
	gone := c.putPolicy(policy("gone", 1), "")
	c.is("DeletePolicy", c.j.DeletePolicy(c.ctx, "gone", gone), nil)
	c.putRun(run("elsewhere", 1, schedule.RunDone), "")
	var ids []string
	for _, p := range c.policies() {
		ids = append(ids, p.ID)
		if _, rev, err := c.other.GetPolicy(c.ctx, p.ID); err != nil || rev != p.Revision {
			c.broken("Policies gives %s at revision %s; GetPolicy returns revision %s and the error %v", p.ID, p.Revision, rev, err)
		}
	}
	if !slices.Equal(ids, want) {
		c.broken("Policies gives %q, want %q", ids, want)
	}
}

func policiesChange(c *check) {
	var had []schedule.Revision
	rev := schedule.Revision("")
	for n := range 30 {
		rev = c.putPolicy(policy("nightly", n), rev)
		got := c.policies()
		if len(got) != 1 || got[0].ID != "nightly" || got[0].Revision != rev || slices.Contains(had, rev) {
			c.broken("after a PutPolicy that returned %s, and before it %q, Policies gives %v", rev, had, got)
		}
		had = append(had, rev)
		if n%7 == 6 {
			c.is("DeletePolicy", c.other.DeletePolicy(c.ctx, "nightly", rev), nil)
			rev = ""
			if got := c.policies(); len(got) != 0 {
				c.broken("after a DeletePolicy Policies gives %v", got)
			}
		}
	}
}

func policiesBreak(c *check) {
	for _, id := range []string{"a", "b", "c"} {
		c.putPolicy(policy(id, 1), "")
	}
	for stop := 1; stop <= 3; stop++ {
		n := 0
		for _, err := range c.j.Policies(c.ctx) {
			c.is("Policies", err, nil)
			if n++; n == stop {
				break
			}
		}
		if n != stop {
			c.broken("Policies gave %d policies, of 3", n)
		}
	}
}

func policiesWhilePut(c *check) {
	rev := c.putPolicy(policy("nightly", 0), "")
	c.putPolicy(policy("other", 0), "")
	var last atomic.Int64 // the number of the last PutPolicy that has returned
	end := make(chan struct{})
	var watchers sync.WaitGroup
	watch := func(look func() error) {
		watchers.Go(func() {
			for {
				select {
				case <-end:
					return
				default:
				}
				if err := look(); err != nil {
					c.report("while a policy is being changed: %v", err)
					return
				}
			}
		})
	}
	watch(func() error {
		before := last.Load()
		p, _, err := c.other.GetPolicy(c.ctx, "nightly")
		if err == nil && int64(p.Retention.Days) < before {
			return errors.New("GetPolicy returns what was replaced before it was called")
		}
		return err
	})
	watch(func() error {
		n := 0
		for _, err := range c.other.Policies(c.ctx) {
			if err != nil {
				return err
			}
			n++
		}
		if n != 2 {
			return errors.New("the list of policies is not of the two that there are")
		}
		return nil
	})
	for n := 1; n <= 30; n++ {
		rev = c.putPolicy(policy("nightly", n), rev)
		last.Store(int64(n))
	}
	close(end)
	watchers.Wait()
}

func cancelled(c *check) {
	p, r := policy("nightly", 1), run("nightly", 1, schedule.RunMissed)
	rev, runRev := c.putPolicy(p, ""), c.putRun(r, "")
	latest := run("nightly", 2, schedule.RunDone)
	latestRev := c.putRun(latest, "")
	ctx, cancel := context.WithCancel(c.ctx)
	cancel()
	_, err := c.j.PutPolicy(ctx, policy("new", 1), "")
	c.is("PutPolicy", err, context.Canceled)
	_, err = c.j.PutPolicy(ctx, policy("nightly", 2), rev)
	c.is("PutPolicy", err, context.Canceled)
	_, _, err = c.j.GetPolicy(ctx, "nightly")
	c.is("GetPolicy", err, context.Canceled)
	c.is("DeletePolicy", c.j.DeletePolicy(ctx, "nightly", rev), context.Canceled)
	err = nil
	for _, err = range c.j.Policies(ctx) {
	}
	c.is("Policies", err, context.Canceled)
	_, err = c.j.PutRun(ctx, run("nightly", 1, schedule.RunRunning), runRev)
	c.is("PutRun", err, context.Canceled)
	_, err = c.j.PutRun(ctx, run("nightly", 3, schedule.RunRunning), "")
	c.is("PutRun", err, context.Canceled)
	_, _, err = c.j.GetRun(ctx, "nightly", r.Due)
	c.is("GetRun", err, context.Canceled)
	err = nil
	for _, err = range c.j.Runs(ctx, schedule.RunQuery{}) {
	}
	c.is("Runs", err, context.Canceled)
	_, err = c.j.TrimRuns(ctx, "nightly", latest.Due)
	c.is("TrimRuns", err, context.Canceled)
	c.holdsPolicy(p, rev)
	c.noPolicy("new")
	c.holdsRun(r, runRev)
	c.holdsRun(latest, latestRev)
	c.noRun("nightly", run("nightly", 3, "").Due)
	if got := c.runs(schedule.RunQuery{}); len(got) != 2 || !reflect.DeepEqual(got[1], r) {
		c.broken("Runs gives %+v", got)
	}
}
