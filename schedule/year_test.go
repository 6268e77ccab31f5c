package schedule

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

var campaign = os.Getenv("CAMPAIGN") != ""

// mixed is the i-th of policies of all kinds, in three zones. Every tenth data store has two of them.
func mixed(i int) Policy {
	p := Policy{ID: fmt.Sprintf("p%04d", i), DataStore: fmt.Sprintf("ds%04d", i-i%10/9), Enabled: true,
		TimeZone: []string{"", "America/New_York", "Europe/Berlin", "Australia/Lord_Howe"}[i%4], Retries: i % 4}
	switch i % 7 {
	case 0:
		p.When.Daily, p.Window = []string{fmt.Sprintf("%02d:30", i%24)}, time.Hour
	case 1:
		p.When.Cron, p.Window = fmt.Sprintf("%d 2 * * *", i%60), 2*time.Hour
	case 2:
		p.When.Cron = "30 1 * * 1-5"
	case 3:
		p.When.Weekly, p.Window = &Weekly{Days: []time.Weekday{time.Sunday, time.Wednesday}, Hours: []int{0, 12}}, 30*time.Minute
	case 4:
		p.When.SaveSchedule = "*2:15"
	case 5:
		p.When.Every, p.CatchUp = 13*time.Hour, CatchUpNone
	case 6:
		p.When.Cron, p.Window, p.CatchUp = "0 0 1,15 * *", 6*time.Hour, CatchUpNone
	}
	return p
}

// fate is what becomes of an attempt: it takes from seconds to hours, and one of twenty fails. Nothing but the attempt determines it.
func fate(d Due) (time.Duration, error) {
	h := fnv.New64a()
	fmt.Fprint(h, d.Policy.ID, d.Due.Unix(), d.Attempt)
	r := rand.New(rand.NewPCG(h.Sum64(), 1))
	takes := time.Duration(5+r.IntN(300)) * time.Second
	if r.IntN(40) == 0 {
		takes = time.Duration(1+r.IntN(14)) * time.Hour
	}
	if r.IntN(20) == 0 {
		return takes / 10, errors.New("the source went away")
	}
	return takes, nil
}

// Years in the lives of data stores go by, with three schedulers of which each is stopped, killed and paused now and then, all of them at once too. What became
// of each due time is looked up afterwards.
func TestYear(t *testing.T) {
	stores, days := 40, 25
	if campaign {
		stores, days = 1000, 365
	}
	start := time.Now()
	var sum tally
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		time.Sleep(65 * 24 * time.Hour) // so that few days show clocks that are changed
		w := newWorld(t)
		w.plan = fate
		var policies []Policy
		for i := range stores {
			p := mixed(i)
			p.CreatedAt = time.Now().UTC()
			p.ChangedAt = p.CreatedAt
			policies = append(policies, *w.put(p))
		}
		r := rand.New(rand.NewPCG(1, 2))
		var nodes []*node
		for i := range 3 {
			nodes = append(nodes, w.start(fmt.Sprint("s", i), func(c *Config) {
				c.Workers, c.LeaseTTL, c.Poll, c.Grace = 30, 10*time.Minute, time.Hour, time.Duration(i)*time.Minute
			}))
		}
		until := time.Now().AddDate(0, 0, days)
		for time.Now().Before(until) {
			time.Sleep(time.Duration(r.IntN(48*60)) * time.Minute)
			n := nodes[r.IntN(3)]
			rest := time.Duration(r.IntN(90*60)) * time.Second
			switch r.IntN(8) {
			case 0, 1:
				n.end()
				time.Sleep(rest)
				n.run()
			case 2, 3:
				n.pause()
				time.Sleep(rest)
				n.wake()
			case 4, 5:
				n.kill()
				time.Sleep(rest)
				n.gate.Lock()
				n.dead, n.asleep = false, time.Time{}
				n.gate.Unlock()
				n.run()
			case 6:
				for _, n := range nodes {
					n.end()
				}
				time.Sleep(8 * rest)
				for _, n := range nodes {
					n.run()
				}
			}
		}
		time.Sleep(48 * time.Hour)
		for _, n := range nodes {
			n.end()
		}
		for _, p := range policies {
			sum.add(w.account(t, regime{p, until}))
		}
		t.Logf("%d policies, %.0f days: %v; calls: %v", stores, time.Since(began).Hours()/24-65, sum, w.calls)
	})
	t.Logf("took %v", time.Since(start).Round(time.Millisecond))
	if sum.done < sum.due*7/10 || sum.failed == 0 || sum.skipped == 0 || sum.missed == 0 {
		t.Errorf("that is not what happens in a life: %v", sum)
	}
}
