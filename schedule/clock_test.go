package schedule

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A wallClock is a clock that somebody sets, or that stands still.
type wallClock struct {
	mu     sync.Mutex
	off    time.Duration
	frozen time.Time
}

func (c *wallClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.frozen.IsZero() {
		return c.frozen
	}
	return time.Now().Add(c.off)
}

func (c *wallClock) set(off time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off, c.frozen = off, time.Time{}
}

func (c *wallClock) freeze() {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frozen = now
}

const (
	day   = 24 * time.Hour
	years = 10 * 365 * day // a Duration has 292 of them
)

// Clocks are set while a policy has a due time every hour, without a window or with one of 40 minutes, from midnight on. The story begins when it is 5:30.
func TestClockJumps(t *testing.T) {
	hours := func(from, until int, state string) (all []string) {
		for h := from; h <= until; h++ {
			all = append(all, fmt.Sprintf("%02dT%02d:00 %s", 1+h/24, h%24, state))
		}
		return all
	}
	for _, c := range []struct {
		name    string
		window  time.Duration
		catchUp CatchUp
		jump    func(c *wallClock)
		want    []string // after five due times that are done
		trouble bool
	}{
		{name: "none", want: hours(6, 9, "done"), jump: func(c *wallClock) { time.Sleep(4 * time.Hour) }},
		{name: "an hour ahead", trouble: true, want: slices.Concat(hours(6, 6, "missed"), hours(7, 10, "done")),
			jump: func(c *wallClock) { c.set(time.Hour); time.Sleep(4 * time.Hour) }},
		{name: "an hour ahead, and the window lasts", window: 40 * time.Minute, trouble: true, want: hours(6, 10, "done"),
			jump: func(c *wallClock) { c.set(time.Hour); time.Sleep(4 * time.Hour) }},
		{name: "an hour ahead, and the window lasts, but nothing is caught up with", window: 40 * time.Minute, catchUp: CatchUpNone, trouble: true,
			want: slices.Concat(hours(6, 6, "missed"), hours(7, 10, "done")), jump: func(c *wallClock) { c.set(time.Hour); time.Sleep(4 * time.Hour) }},
		{name: "an hour back", trouble: true, want: hours(6, 8, "done"),
			jump: func(c *wallClock) { c.set(-time.Hour); time.Sleep(4 * time.Hour) }},
		{name: "a second back, again and again", want: hours(6, 9, "done"), jump: func(c *wallClock) {
			for i := range 240 {
				c.set(-time.Duration(i) * time.Second / 5)
				time.Sleep(time.Minute)
			}
		}},
		{name: "a day ahead", trouble: true, want: slices.Concat([]string{"01T06:00..02T05:00 missed (24)"}, hours(30, 33, "done")),
			jump: func(c *wallClock) { c.set(day); time.Sleep(4 * time.Hour) }},
		{name: "a day ahead for two minutes", trouble: true, want: slices.Concat(hours(6, 9, "done"), []string{"01T06:00..02T05:00 missed (24)"}),
			jump: func(c *wallClock) { c.set(day); time.Sleep(2 * time.Minute); c.set(0); time.Sleep(4 * time.Hour) }},
		{name: "a day ahead for an hour, and the day comes", want: slices.Concat(hours(6, 6, "missed"), hours(7, 33, "done")),
			jump: func(c *wallClock) { c.set(day); time.Sleep(time.Hour); c.set(0); time.Sleep(day + 3*time.Hour) }},
		{name: "a day back", want: hours(6, 9, "done"),
			jump: func(c *wallClock) { c.set(-day); time.Sleep(day + 4*time.Hour) }},
		{name: "ten years ahead for two minutes", trouble: true, want: slices.Concat(hours(6, 9, "done"), []string{"01T06:00..29T05:00 missed (87600)"}),
			jump: func(c *wallClock) { c.set(years); time.Sleep(2 * time.Minute); c.set(0); time.Sleep(4 * time.Hour) }},
		{name: "ten years back for a day", trouble: true, want: slices.Concat([]string{"01T06:00..02T05:00 missed (24)"}, hours(30, 33, "done")),
			jump: func(c *wallClock) { c.set(-years); time.Sleep(day); c.set(0); time.Sleep(4 * time.Hour) }},
		{name: "stands still for three hours", trouble: true, want: slices.Concat([]string{"01T06:00..01T08:00 missed (3)"}, hours(9, 11, "done")),
			jump: func(c *wallClock) { c.freeze(); time.Sleep(3 * time.Hour); c.set(0); time.Sleep(3 * time.Hour) }},
		{name: "stands still and goes on from there", trouble: true, want: hours(6, 8, "done"),
			jump: func(c *wallClock) {
				c.freeze()
				time.Sleep(3 * time.Hour)
				c.set(-3 * time.Hour)
				time.Sleep(3 * time.Hour)
			}},
		{name: "back and forth", window: 40 * time.Minute, trouble: true, want: hours(6, 9, "done"), jump: func(c *wallClock) {
			for i := range 12 {
				c.set(time.Duration(i%2) * -3 * time.Hour)
				time.Sleep(20 * time.Minute)
			}
			c.set(0)
			time.Sleep(10 * time.Minute)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				clock := &wallClock{}
				n := w.start("a", func(cfg *Config) { cfg.Now = clock.now })
				p := hourly("p")
				p.Window, p.CatchUp = c.window, c.catchUp
				if _, err := n.s.Set(t.Context(), p); err != nil {
					t.Fatal(err)
				}
				time.Sleep(5*time.Hour + 30*time.Minute)
				c.jump(clock)
				synctest.Wait()
				got, want := w.story("p"), slices.Concat(hours(1, 5, "done"), c.want)
				if slices.Compare(got, want) != 0 {
					t.Errorf("got  %q\nwant %q", got, want)
				}
				for due, ids := range w.ready {
					if len(ids) != 1 {
						t.Errorf("there are %d backups of %s", len(ids), due)
					}
				}
				if trouble := n.s.ClockTrouble(); (trouble != "") != c.trouble {
					t.Errorf("trouble with the clock: %q", trouble)
				}
				time.Sleep(25 * time.Hour)
				if trouble := n.s.ClockTrouble(); trouble != "" {
					t.Errorf("a day later there is trouble with the clock: %q", trouble)
				}
				n.end()
			})
		})
	}
}

// A clock that is corrected little by little, as by NTP, is no trouble, however far that goes.
func TestClockIsSlewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		began := time.Now()
		n := w.start("a", func(cfg *Config) {
			cfg.Now = func() time.Time { return time.Now().Add(time.Since(began) / 2000) }
		})
		for range 72 {
			time.Sleep(time.Hour)
			if trouble := n.s.ClockTrouble(); trouble != "" {
				t.Fatal(trouble)
			}
		}
		n.end()
	})
}

// While a backup is made, and in the pauses between attempts, the clock is set too.
func TestClockJumpsDuringBackup(t *testing.T) {
	for _, jump := range []time.Duration{-years, -day, -time.Hour, -2 * time.Minute, 2 * time.Minute, time.Hour, day, years} {
		for _, at := range []time.Duration{30 * time.Second, 100 * time.Second, 4 * time.Minute} {
			t.Run(fmt.Sprint(jump, " after ", at), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					w.plan = func(d Due) (time.Duration, error) {
						if d.Attempt == 1 {
							return time.Minute, errors.New("the source went away")
						}
						return 10 * time.Minute, nil
					}
					clock := &wallClock{}
					n := w.start("a", func(cfg *Config) { cfg.Now = clock.now })
					p := hourly("p")
					p.Retries = 1
					if _, err := n.s.Set(t.Context(), p); err != nil {
						t.Fatal(err)
					}
					time.Sleep(time.Hour + at)
					clock.set(jump)
					time.Sleep(20 * time.Minute)
					clock.set(0)
					time.Sleep(4 * time.Hour)
					n.end()
					states := map[string]RunState{}
					for _, r := range w.all("p") {
						states[r.Due.Format("2006 02T15:04")] = r.State
						if ready := w.ready[key("p", r.Due)]; len(ready) > 1 || (len(ready) == 1) != (r.State == RunDone) {
							t.Errorf("%s is %s, and there are %q", r.Due, r.State, ready)
						}
					}
					// What was begun ends as it would have, but for a window that ended when the clock was set.
					if s := states["2000 01T01:00"]; s != RunDone && !(s == RunFailed && jump > 0 && at < 2*time.Minute) {
						t.Errorf("what was under way is %s", s)
					}
					for h := 2; h <= 5; h++ {
						if s := states[fmt.Sprintf("2000 01T%02d:00", h)]; s != RunDone && !(h == 2 && (jump == time.Hour || jump == day) && s == RunSkipped) {
							t.Errorf("%02d:00 is %q: %q", h, s, w.story("p"))
						}
					}
				})
			})
		}
	}
}

// Clocks of two schedulers are set at random, each by itself. Whatever they say, there is one backup of a due time at most; and when they are right again, all is.
func TestClocksAtRandom(t *testing.T) {
	seeds := 6
	if campaign {
		seeds = 300
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := rand.New(rand.NewPCG(uint64(seed), 3))
				w := newWorld(t)
				w.plan = func(d Due) (time.Duration, error) {
					takes, err := fate(d)
					return min(takes, time.Hour), err
				}
				time.Sleep(2 * years) // leases go by the true time
				began := time.Now().UTC()
				p := w.put(Policy{ID: "p", DataStore: "ds", Enabled: true, When: When{Cron: "0 * * * *"}, Window: 30 * time.Minute, Retries: 2,
					CreatedAt: began, ChangedAt: began})
				w.put(Policy{ID: "q", DataStore: "ds", Enabled: true, When: When{Daily: []string{"12:00"}}, CatchUp: CatchUpNone, CreatedAt: began, ChangedAt: began})
				clocks := []*wallClock{{}, {}}
				var nodes []*node
				for i, c := range clocks {
					nodes = append(nodes, w.start(fmt.Sprint(i), func(cfg *Config) { cfg.Now, cfg.Keep = c.now, 20*years }))
				}
				for range 12 {
					c := clocks[r.IntN(2)]
					switch r.IntN(6) {
					case 0:
						c.set(0)
					case 1:
						c.freeze()
					case 2:
						c.set(time.Duration(r.IntN(240)-120) * time.Minute)
					case 3:
						c.set(time.Duration(r.IntN(20)-10) * day)
					case 4:
						c.set(years * time.Duration(r.IntN(3)-1))
					case 5:
						n := nodes[r.IntN(2)]
						n.end()
						time.Sleep(time.Duration(r.IntN(90)) * time.Minute)
						n.run()
					}
					time.Sleep(time.Duration(r.IntN(300)) * time.Minute)
				}
				for _, c := range clocks {
					c.set(0)
				}
				right := time.Now().Add(2 * time.Minute)
				time.Sleep(6 * time.Hour)
				synctest.Wait()
				for due, ids := range w.ready {
					if len(ids) != 1 {
						t.Errorf("there are %d backups of %s", len(ids), due)
					}
				}
				states := map[time.Time]RunState{}
				for _, r := range w.all("p") {
					states[r.Due] = r.State
				}
				trigger, _ := p.Trigger()
				for due := trigger.Next(right); due.Before(time.Now().Add(-time.Hour)); due = trigger.Next(due) {
					if s := states[due]; s != RunDone && s != RunFailed && s != RunSkipped {
						t.Errorf("%s is %q", due, s)
					}
				}
				for _, n := range nodes {
					n.end()
				}
			})
		})
	}
}
