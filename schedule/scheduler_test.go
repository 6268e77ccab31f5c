package schedule

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/amberkv/amber/catalog"
)

func hourly(id string) Policy {
	return Policy{ID: id, DataStore: "ds-" + id, Enabled: true, When: When{Cron: "0 * * * *"}}
}

// in runs a test in a bubble, from midnight on, with a world of its own.
func in(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newWorld(t)) })
}

func (n *node) set(p Policy) *Policy {
	n.t.Helper()
	set, err := n.s.Set(n.t.Context(), p)
	if err != nil {
		n.t.Fatal(err)
	}
	return set
}

// expect compares what became of a policy's due times, in short.
func (w *world) expect(policy string, want ...string) {
	w.t.Helper()
	if got := w.story(policy); !slices.Equal(got, want) {
		w.t.Errorf("got  %q\nwant %q", got, want)
		for _, r := range w.all(policy) {
			w.t.Logf("%+v", *r)
		}
	}
}

func (w *world) last(policy string) *Run {
	w.t.Helper()
	all := w.all(policy)
	if len(all) == 0 {
		w.t.Fatalf("%s has no runs", policy)
	}
	return all[len(all)-1]
}

func TestConfig(t *testing.T) {
	w := newWorld(t)
	n := &node{world: w}
	good := Config{Journal: n, Leaser: n, Job: n}
	if _, err := New(good); err != nil {
		t.Error(err)
	}
	for field, change := range map[string]func(c *Config){
		"Journal": func(c *Config) { c.Journal = nil }, "Leaser": func(c *Config) { c.Leaser = nil }, "Job": func(c *Config) { c.Job = nil },
		"LeaseTTL": func(c *Config) { c.LeaseTTL = time.Second }, "Poll": func(c *Config) { c.Poll = time.Millisecond },
		"Workers": func(c *Config) { c.Workers = -1 }, "Grace": func(c *Config) { c.Grace = -1 }, "Keep": func(c *Config) { c.Keep = -1 },
	} {
		bad := good
		change(&bad)
		if _, err := New(bad); err == nil || !strings.Contains(err.Error(), "Config."+field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func TestRunsOnce(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		n := w.start("a", nil)
		synctest.Wait()
		if err := n.s.Run(t.Context()); err == nil {
			t.Error("a Scheduler ran twice at a time")
		}
		n.end()
		n.run() // and again, after that
		n.set(hourly("p"))
		time.Sleep(61 * time.Minute)
		n.end()
		w.expect("p", "01T01:00 done")
	})
}

// What fails is tried again, with pauses that grow, while the window lasts.
func TestRetries(t *testing.T) {
	for _, c := range []struct {
		window  time.Duration
		retries int
		fails   int // attempts
		want    string
		pauses  []time.Duration
	}{
		{0, 0, 1, "01T01:00 failed 1 attempts", nil},
		{0, 3, 2, "01T01:00 done 3 attempts", []time.Duration{30 * time.Second, time.Minute}},
		{0, 2, 9, "01T01:00 failed 3 attempts", []time.Duration{30 * time.Second, time.Minute}},
		{2 * time.Minute, 10, 99, "01T01:00 failed 2 attempts", []time.Duration{30 * time.Second}},
		{4 * time.Hour, 10, 10, "01T01:00 done 11 attempts", []time.Duration{30 * time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute,
			10 * time.Minute, 10 * time.Minute}},
		{40 * time.Minute, 10, 10, "01T01:00 done 11 attempts", nil},
		{20 * time.Minute, 10, 99, "01T01:00 failed 11 attempts", nil},
	} {
		t.Run(fmt.Sprint(c.window, c.retries, c.fails), func(t *testing.T) {
			in(t, func(t *testing.T, w *world) {
				w.plan = func(d Due) (time.Duration, error) {
					if d.Attempt <= c.fails {
						return 10 * time.Second, fmt.Errorf("cause %d", d.Attempt)
					}
					return time.Second, nil
				}
				n := w.start("a", nil)
				p := Policy{ID: "p", DataStore: "ds", Enabled: true, When: When{Daily: []string{"01:00"}}, Window: c.window, Retries: c.retries}
				n.set(p)
				time.Sleep(23 * time.Hour)
				n.end()
				w.expect("p", c.want)
				r := w.last("p")
				for i, a := range r.Attempts {
					if want := fmt.Sprintf("cause %d", i+1); i < c.fails && a.Error != want || a.Backup == "" || a.EndedAt.IsZero() {
						t.Errorf("attempt %d: %+v", i+1, a)
					}
					if i == 0 {
						continue
					}
					if !a.BeganAt.Before(r.WindowEnd) {
						t.Errorf("attempt %d began at %s, the window ended at %s", i+1, a.BeganAt, r.WindowEnd)
					}
					pause := a.BeganAt.Sub(r.Attempts[i-1].EndedAt)
					if pause < firstPause || pause > maxPause || i <= len(c.pauses) && pause != c.pauses[i-1] {
						t.Errorf("the pause before attempt %d was %v", i+1, pause)
					}
				}
				if r.State == RunFailed && !strings.Contains(r.Reason, "no further attempts") {
					t.Errorf("the reason is %q", r.Reason)
				}
			})
		})
	}
}

// Jobs that panic, end their goroutine, or return nothing are attempts that failed, and harm nobody.
func TestJobMisbehaves(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		n := w.node("a", nil)
		hold := make(chan func(context.Context, catalog.ID) error, 1)
		n.s.cfg.Job = jobFunc{n, func(ctx context.Context, d Due) (catalog.ID, error) {
			d.Policy.DataStore = "changed" // it is the Job's
			switch d.Due.Hour() {
			case 1:
				panic("no mercy")
			case 2:
				runtime.Goexit()
			case 3:
				return "", nil
			case 4:
				hold <- d.Registered
				return "", errors.New("it failed")
			case 5:
				if err := d.Registered(ctx, ""); err == nil {
					t.Error("a backup without an ID was registered")
				}
				if err := d.Registered(ctx, "x1"); err != nil {
					t.Error(err)
				}
				if err := d.Registered(ctx, "x2"); err == nil {
					t.Error("two backups of an attempt were registered")
				}
				return "", errors.New(strings.Repeat("€", 9000))
			}
			return "x3", nil // without a word about it before
		}}
		n.s.cfg.Ended = func(context.Context, *Run) { panic("the host's fault") }
		n.run()
		n.set(hourly("p"))
		time.Sleep(6*time.Hour + time.Minute)
		if err := (<-hold)(t.Context(), "late"); err == nil {
			t.Error("a backup was registered after its Job had returned")
		}
		n.end()
		w.expect("p", "01T01:00 failed 1 attempts", "01T02:00 failed 1 attempts", "01T03:00 failed 1 attempts", "01T04:00 failed 1 attempts",
			"01T05:00 failed 1 attempts", "01T06:00 done")
		all := w.all("p")
		for i, want := range []string{"no mercy", "ended its goroutine", "neither", "it failed", "€"} {
			if got := all[i].Attempts[0].Error; !strings.Contains(got, want) || len(got) > maxErrorLen+10 {
				t.Errorf("%.100q, want %q", got, want)
			}
		}
		if all[5].Backup != "x3" {
			t.Errorf("%+v", all[5])
		}
	})
}

// A jobFunc is a node's Job with another Backup.
type jobFunc struct {
	*node
	backup func(ctx context.Context, d Due) (catalog.ID, error)
}

func (j jobFunc) Backup(ctx context.Context, d Due) (catalog.ID, error) { return j.backup(ctx, d) }

// A due time that comes while the data store is being backed up is skipped, whether it is by the same policy or by another.
func TestOverlap(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.plan = func(d Due) (time.Duration, error) {
			if d.Due.Hour() == 1 && d.Policy.ID == "p" {
				return 160 * time.Minute, nil
			}
			return time.Minute, nil
		}
		a, b := w.start("a", nil), w.start("b", nil)
		a.set(hourly("p"))
		q := hourly("q")
		q.DataStore, q.When.Cron = "ds-p", "30 * * * *"
		q.Retries = 3
		a.set(q)
		time.Sleep(4*time.Hour + 40*time.Minute)
		a.end()
		b.end()
		w.expect("p", "01T01:00 done", "01T02:00 skipped", "01T03:00 skipped", "01T04:00 done")
		w.expect("q", "01T00:30 done", "01T01:30 skipped", "01T02:30 skipped", "01T03:30 skipped", "01T04:30 done")
		r := w.all("p")[1]
		if !strings.Contains(r.Reason, "due at 2000-01-01T01:00:00Z has not ended") || r.Behind.Hour() != 1 {
			t.Errorf("%+v", r)
		}
		if r := w.all("q")[1]; !strings.Contains(r.Reason, "is being backed up by") {
			t.Errorf("%+v", r)
		}
	})
}

// Retries don't wait for each other: a worker is free while a policy waits for its next attempt.
func TestWorkers(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.plan = func(d Due) (time.Duration, error) {
			if d.Policy.ID == "p0" && d.Attempt == 1 {
				return time.Second, errors.New("it failed")
			}
			return 5 * time.Minute, nil
		}
		n := w.start("a", func(c *Config) { c.Workers = 1 })
		for i := range 5 {
			p := hourly(fmt.Sprint("p", i))
			p.Retries = 1
			n.set(p)
		}
		time.Sleep(61*time.Minute + 15*time.Minute)
		n.end()
		var all []string
		for i := range 5 {
			r := w.last(fmt.Sprint("p", i))
			all = append(all, string(r.State))
			if r.State == RunMissed && !strings.Contains(r.Reason, "1 at a time") {
				t.Errorf("%+v", r)
			}
		}
		// Three backups of five minutes begin within a quarter of an hour.
		slices.Sort(all)
		if got := strings.Join(all, " "); got != "done done done missed missed" && got != "done done done failed missed" {
			t.Error(got)
		}
	})
}

// What became due while no scheduler ran.
func TestCatchUp(t *testing.T) {
	for _, c := range []struct {
		catchUp CatchUp
		window  time.Duration
		back    time.Duration // when the scheduler is there again, after 02:30
		want    []string
	}{
		{"", 0, 3 * time.Hour, []string{"01T03:00..01T05:00 missed (3)"}},
		{"", 0, 2*time.Hour + 40*time.Minute, []string{"01T03:00..01T04:00 missed (2)", "01T05:00 done"}},
		{CatchUpNone, 0, 2*time.Hour + 40*time.Minute, []string{"01T03:00..01T05:00 missed (3)"}},
		{"", 59 * time.Minute, 3*time.Hour + 25*time.Minute, []string{"01T03:00..01T04:00 missed (2)", "01T05:00 done"}},
		{CatchUpNone, 59 * time.Minute, 3*time.Hour + 25*time.Minute, []string{"01T03:00..01T05:00 missed (3)"}},
		{CatchUpNone, 0, 2*time.Hour + 31*time.Minute, []string{"01T03:00..01T04:00 missed (2)", "01T05:00 done"}}, // that isn't late
		{CatchUpNone, 59 * time.Minute, 90*time.Minute + 2*time.Second, []string{"01T03:00 missed", "01T04:00 done"}},
	} {
		t.Run(fmt.Sprint(c.catchUp, c.window, c.back), func(t *testing.T) {
			in(t, func(t *testing.T, w *world) {
				n := w.start("a", nil)
				p := hourly("p")
				p.Window, p.CatchUp = c.window, c.catchUp
				n.set(p)
				time.Sleep(2*time.Hour + 30*time.Minute)
				n.end()
				time.Sleep(c.back)
				n.run()
				time.Sleep(4*time.Minute + 30*time.Second)
				n.end()
				w.expect("p", append([]string{"01T01:00 done", "01T02:00 done"}, c.want...)...)
			})
		})
	}
}

// A scheduler that is stopped leaves what it is at to others, who go on at once; it counts for nothing that it was stopped. With a Grace it ends what it is at.
func TestStop(t *testing.T) {
	for _, c := range []struct {
		grace time.Duration
		want  string
	}{{0, "01T01:00 done 3 attempts"}, {30 * time.Second, "01T01:00 done 3 attempts"}, {10 * time.Minute, "01T01:00 done"}} {
		t.Run(fmt.Sprint(c.grace), func(t *testing.T) {
			in(t, func(t *testing.T, w *world) {
				w.plan = func(d Due) (time.Duration, error) { return 5 * time.Minute, nil }
				nodes := []*node{}
				for _, name := range []string{"a", "b", "c"} {
					nodes = append(nodes, w.start(name, func(c2 *Config) { c2.Grace = c.grace }))
				}
				nodes[0].set(hourly("p"))
				time.Sleep(61 * time.Minute)
				for range 2 { // whoever has it
					synctest.Wait()
					for _, n := range nodes {
						if w.at("ds-p").by == n {
							begun := time.Now()
							n.end()
							if took := time.Since(begun); took > c.grace+time.Second {
								t.Errorf("it took %v to stop", took)
							}
							break
						}
					}
					time.Sleep(32 * time.Second)
				}
				time.Sleep(10 * time.Minute)
				for _, n := range nodes {
					n.end()
				}
				w.expect("p", c.want)
				for _, a := range w.last("p").Attempts[:len(w.last("p").Attempts)-1] {
					if !a.Stopped || a.Error == "" {
						t.Errorf("%+v", a)
					}
				}
			})
		})
	}
}

// Who dies is followed within the lease time, once at least whatever the retries; what it had begun is settled first.
func TestTakeover(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.plan = func(d Due) (time.Duration, error) { return 10 * time.Minute, nil }
		nodes := map[*node]bool{w.start("a", nil): true, w.start("b", nil): true, w.start("c", nil): true}
		for n := range nodes {
			n.set(hourly("p"))
			break
		}
		time.Sleep(61 * time.Minute)
		for range 2 {
			synctest.Wait()
			first := w.at("ds-p")
			if !nodes[first.by] {
				t.Error("who died is at work")
				break
			}
			delete(nodes, first.by)
			first.by.kill()
			time.Sleep(45 * time.Second) // the lease of the scheduler, and then that of the backup
			synctest.Wait()
			second := w.at("ds-p")
			w.mu.Lock()
			first = *w.backups[first.id]
			w.mu.Unlock()
			if first.id == second.id || second.state != "running" || first.state != "interrupted" {
				if len(nodes) == 1 {
					break // two have died at it
				}
				t.Errorf("after who made it died %+v is at work: %+v", second, w.last("p"))
				break
			}
		}
		time.Sleep(15 * time.Minute)
		for n := range nodes {
			n.end()
		}
		w.expect("p", "01T01:00 failed 2 attempts")
		if r := w.last("p"); !r.Attempts[0].Lost || !r.Attempts[1].Lost || !strings.Contains(r.Attempts[0].Error, "died") {
			t.Errorf("%+v", r)
		}
	})
}

// A scheduler that died when its backup was ready, and couldn't say so.
func TestTakeoverOfReady(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		a := w.node("a", nil)
		a.set(hourly("p"))
		a.after = func(int) {
			w.mu.Lock()
			over := len(w.ready) > 0
			w.mu.Unlock()
			a.gate.Lock()
			a.dead = a.dead || over
			a.gate.Unlock()
		}
		a.run()
		time.Sleep(62 * time.Minute)
		a.kill()
		b := w.start("b", nil)
		time.Sleep(time.Minute)
		b.end()
		w.expect("p", "01T01:00 done")
		if w.begun != 1 || w.last("p").Backup == "" {
			t.Errorf("%d backups were begun: %+v", w.begun, w.last("p"))
		}
	})
}

// An attempt after a death finds the data store busy, because the dead one's own lease hasn't ended: that is no attempt that failed.
func TestTakeoverFindsBusy(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		a := w.start("a", func(c *Config) { c.LeaseTTL = 5 * time.Second })
		a.set(hourly("p"))
		time.Sleep(60*time.Minute + 10*time.Second)
		a.kill()
		b := w.start("b", func(c *Config) { c.LeaseTTL = 5 * time.Second })
		time.Sleep(14 * time.Minute)
		b.end()
		w.expect("p", "01T01:00 done 2 attempts")
	})
}

// With nothing due, the Journal is asked once a minute, and for nothing else: however many policies there are.
func TestIdle(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		for i := range 1000 {
			w.put(Policy{ID: fmt.Sprint("p", i), DataStore: fmt.Sprint("ds", i), Enabled: i%2 == 0, When: When{Cron: "0 0 1 7 *"}, CreatedAt: time.Now().UTC(),
				ChangedAt: time.Now().UTC()})
		}
		n := w.start("a", nil)
		time.Sleep(time.Minute / 2)
		synctest.Wait()
		w.memory.mu.Lock()
		begun := fmt.Sprint(w.calls)
		for call, most := range map[string]int{"GetPolicy": 1000, "Runs": 1000, "Policies": 1} {
			if w.calls[call] > most {
				t.Errorf("at the start %s was called %d times", call, w.calls[call])
			}
		}
		clear(w.calls)
		w.memory.mu.Unlock()
		hours := 4
		if campaign {
			hours = 24
		}
		time.Sleep(time.Duration(hours) * time.Hour)
		n.end()
		if w.calls["Policies"] > hours*60 || len(w.calls) != 1 {
			t.Errorf("in %d hours: %v", hours, w.calls)
		}
		t.Logf("1,000 policies: at the start %s, in %d hours after that %v", begun, hours, w.calls)
	})
}

// Old records are removed, by a clock that is to be trusted.
func TestTrim(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		n := w.start("a", func(c *Config) { c.Keep = 48 * time.Hour })
		n.set(hourly("p"))
		time.Sleep(10*24*time.Hour + time.Minute)
		n.end()
		if runs := len(w.all("p")); runs < 48 || runs > 48+24 {
			t.Errorf("%d runs are kept", runs)
		}
	})
}

// A record that can't be read counts as one: its due time isn't run again, and what comes after it is.
func TestCorruptRecord(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		n := w.start("a", nil)
		n.set(hourly("p"))
		time.Sleep(2*time.Hour + 5*time.Minute)
		n.end()
		w.runs["p"][1].value.DataStore = "" // unreadable
		n.run()
		time.Sleep(time.Hour)
		n.end()
		if w.begun != 3 || len(w.ready[key("p", time.Date(2000, 1, 1, 2, 0, 0, 0, time.UTC))]) != 1 {
			t.Errorf("%d backups were begun: %v", w.begun, w.ready)
		}
	})
}
