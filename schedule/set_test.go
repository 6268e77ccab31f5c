package schedule

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/catalog"
)

func TestSet(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		n := w.node("a", nil)
		ctx := t.Context()
		p := hourly("p")
		p.CreatedAt = time.Unix(1, 0) // not the caller's to say
		first := n.set(p)
		if !first.CreatedAt.Equal(time.Now()) || !first.ChangedAt.Equal(time.Now()) {
			t.Errorf("%+v", first)
		}
		created := time.Now()
		time.Sleep(time.Minute)
		for name, change := range map[string]func(p *Policy){
			"labels": func(p *Policy) { p.Labels = map[string]string{"a": "b"} }, "retries": func(p *Policy) { p.Retries = 3 },
			"retention": func(p *Policy) { p.Retention.Days = 3 }, "catchUp": func(p *Policy) { p.CatchUp = CatchUpNone }, "store": func(p *Policy) { p.Store = "s" },
		} {
			c := hourly("p")
			change(&c)
			if got := n.set(c); !got.ChangedAt.Equal(created) || !got.CreatedAt.Equal(created) {
				t.Errorf("%s: the schedule changed: %+v", name, got)
			}
		}
		for name, change := range map[string]func(p *Policy){
			"when": func(p *Policy) { p.When.Cron = "1 * * * *" }, "timeZone": func(p *Policy) { p.TimeZone = "Asia/Seoul" },
			"window": func(p *Policy) { p.Window = 20 * time.Minute }, "enabled": func(p *Policy) { p.Enabled = false },
		} {
			n.set(hourly("p"))
			time.Sleep(time.Minute)
			c := hourly("p")
			change(&c)
			if got := n.set(c); !got.ChangedAt.Equal(time.Now()) || !got.CreatedAt.Equal(created) {
				t.Errorf("%s: the schedule didn't change: %+v", name, got)
			}
		}
		c := hourly("p")
		c.DataStore = "other"
		if _, err := n.s.Set(ctx, c); err == nil || !strings.Contains(err.Error(), `"other"`) || !strings.Contains(err.Error(), `"ds-p"`) {
			t.Errorf("moved to another data store: %v", err)
		}
		c.Retries = 11
		if _, err := n.s.Set(ctx, c); err == nil || !strings.Contains(err.Error(), "retries is 11") {
			t.Errorf("%v", err)
		}
		if _, err := n.s.Get(ctx, "none"); !errors.Is(err, ErrNotFound) {
			t.Errorf("%v", err)
		}
		if err := n.s.Remove(ctx, "none"); !errors.Is(err, ErrNotFound) {
			t.Errorf("%v", err)
		}
		n.set(hourly("q"))
		w.policies["bad"] = kept[*Policy]{nil, "r"}
		var all []string
		for p, err := range n.s.List(ctx) {
			if err != nil && !errors.Is(err, ErrCorrupt) {
				t.Error(err)
			}
			if err != nil {
				all = append(all, "corrupt")
				continue
			}
			all = append(all, p.ID)
		}
		if got := strings.Join(all, " "); got != "corrupt p q" {
			t.Errorf("%s", got)
		}
		n.set(hourly("bad")) // replaces what can't be read
		if err := n.s.Remove(ctx, "bad"); err != nil {
			t.Error(err)
		}
	})
}

// Set and Remove take effect at once in this process, and within a minute in others: no backup is begun by what a policy said before.
func TestSetTakesEffect(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.plan = func(Due) (time.Duration, error) { return 5 * time.Second, nil }
		a, b := w.start("a", nil), w.start("b", nil)
		time.Sleep(30*time.Minute + time.Second)
		b.end()
		p := hourly("p")
		p.When.Cron = "31 * * * *"
		a.set(p)
		time.Sleep(70 * time.Second)
		w.expect("p", "01T00:31 done")
		p.When.Cron = "32 * * * *"
		a.set(p)
		p.When.Cron = "33 * * * *"
		a.set(p)
		time.Sleep(90 * time.Second)
		w.expect("p", "01T00:31 done") // and not at 00:32
		time.Sleep(time.Minute)
		w.expect("p", "01T00:31 done", "01T00:33 done")
		b.run()
		time.Sleep(10 * time.Second)
		if err := a.s.Remove(t.Context(), "p"); err != nil {
			t.Error(err)
		}
		a.end()
		time.Sleep(3 * time.Hour) // b must learn of it
		w.expect("p", "01T00:31 done", "01T00:33 done")
		q := hourly("q")
		if _, err := b.s.Set(t.Context(), q); err != nil {
			t.Error(err)
		}
		a.run()
		time.Sleep(time.Minute)
		b.end() // a must learn of it
		time.Sleep(time.Hour)
		a.end()
		w.expect("q", "01T04:00 done")
	})
}

// A policy is changed, disabled or removed at each stage of a due time, by a scheduler that is at it, or by another process that isn't.
func TestChangedAtEachStage(t *testing.T) {
	at := func(h, m int) time.Duration {
		return time.Duration(h)*time.Hour + time.Duration(m)*time.Minute + time.Second
	}
	for _, stage := range []struct {
		name  string
		when  time.Duration // window of 40 minutes, due at 01:00; what is due at 02:00 fails twice, at 03:00 it takes 50 minutes
		state string
	}{
		{"before it is due", at(0, 50), ""},
		{"due and not begun", at(1, 0), "01T01:00 skipped"},
		{"in a pause before a retry", 0, "01T02:00 failed 1 attempts"},
		{"while its backup is made", at(3, 25), "01T03:00 done"},
	} {
		for _, kind := range []string{"changed", "disabled", "removed"} {
			for _, who := range []string{"same", "other", "nobody"} {
				t.Run(stage.name+", "+kind+" by "+who, func(t *testing.T) {
					in(t, func(t *testing.T, w *world) {
						w.plan = func(d Due) (time.Duration, error) {
							if d.Due.Hour() == 2 {
								return time.Second, errors.New("it failed")
							}
							return 50 * time.Minute, nil
						}
						a := w.start("a", func(c *Config) {
							if stage.when == 0 {
								c.Poll = 10 * time.Minute // it doesn't hear of the change before it asks
							}
						})
						p := hourly("p")
						hour := 1
						switch {
						case stage.when == 0:
							hour = 2
						case stage.when > at(3, 0):
							hour = 3
						}
						p.When.Cron = fmt.Sprintf("0 %d * * *", hour)
						p.Window, p.Retries = 40*time.Minute, 3
						set := a.set(p)
						if stage.when != 0 {
							time.Sleep(stage.when)
						} else {
							trigger, _ := set.Trigger()
							time.Sleep(time.Until(set.Slot(trigger, time.Date(2000, 1, 1, 2, 0, 0, 0, time.UTC)).Start) + 10*time.Second)
						}
						by := a
						switch who {
						case "other":
							by = w.node("b", nil)
						case "nobody":
							if stage.state != "" && stage.state != "01T01:00 skipped" {
								break // a run that was left behind is another matter
							}
							by = w.node("b", nil)
							a.end()
						}
						var err error
						switch kind {
						case "changed":
							p.When.Cron = "0 20 * * *"
							_, err = by.s.Set(t.Context(), p)
						case "disabled":
							p.Enabled = false
							_, err = by.s.Set(t.Context(), p)
						case "removed":
							err = by.s.Remove(t.Context(), "p")
						}
						if err != nil {
							t.Error(err)
						}
						time.Sleep(90 * time.Second)
						early := w.story("p")
						if hour != 3 && strings.Join(early, ", ") != stage.state {
							t.Errorf("a minute later: %q", early)
						}
						time.Sleep(10 * time.Hour)
						a.end()
						if stage.state == "" {
							w.expect("p")
							return
						}
						w.expect("p", stage.state)
						if r := w.last("p"); r.State != RunDone && !strings.Contains(r.Reason, kind) {
							t.Errorf("the reason is %q", r.Reason)
						}
					})
				})
			}
		}
	}
}

// What was missed before a change is recorded when it is made, for nobody looks back beyond it.
func TestSetAfterDowntime(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		n := w.node("a", nil)
		n.set(hourly("p"))
		time.Sleep(5*time.Hour + 5*time.Minute)
		n.hook = func(call string, _ int) fault {
			if call == "PutPolicy" {
				w.expect("p", "01T01:00..01T04:00 missed (4)")
			}
			return faultNone
		}
		p := hourly("p")
		p.When.Cron = "30 * * * *"
		n.set(p)
		w.expect("p", "01T01:00..01T04:00 missed (4)", "01T05:00 skipped")
		n.run()
		time.Sleep(time.Hour)
		n.end()
		w.expect("p", "01T01:00..01T04:00 missed (4)", "01T05:00 skipped", "01T05:30 done")
	})
}

// While a backup is made its scheduler has the lease, and sees to what the former schedule had left.
func TestSetDuringBackup(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.plan = func(Due) (time.Duration, error) { return 100 * time.Minute, nil }
		n := w.start("a", nil)
		p := hourly("p")
		p.Window = 50 * time.Minute
		set := n.set(p)
		trigger, _ := set.Trigger()
		time.Sleep(time.Until(set.Slot(trigger, time.Date(2000, 1, 1, 2, 0, 0, 0, time.UTC)).Start) - 10*time.Second)
		p.When.Cron = "0 20 * * *"
		n.set(p)
		time.Sleep(5 * time.Hour)
		n.end()
		w.expect("p", "01T01:00 done", "01T02:00 skipped")
		if r := w.last("p"); r.Reason != whyChanged || r.Behind.Hour() != 1 {
			t.Errorf("%+v", r)
		}
	})
}

// Who has lost its lease ends what it is at, soon after it can know.
func TestLeaseLost(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		n := w.node("a", nil)
		ended := make(chan time.Time, 9)
		n.s.cfg.Job = jobFunc{n, func(ctx context.Context, d Due) (catalog.ID, error) {
			<-ctx.Done()
			ended <- time.Now()
			return "", ctx.Err()
		}}
		n.run()
		n.set(hourly("p"))
		time.Sleep(time.Hour + time.Second)
		n.pause()
		time.Sleep(40 * time.Second)
		w.memory.mu.Lock()
		w.leases[leaseName("p")] = &memoryLease{m: w.memory, name: leaseName("p"), until: time.Now().Add(time.Hour)}
		w.memory.mu.Unlock()
		n.wake()
		woke := time.Now()
		time.Sleep(15 * time.Second)
		select {
		case at := <-ended:
			if at.Sub(woke) > 10*time.Second {
				t.Errorf("it went on for %v", at.Sub(woke))
			}
		default:
			t.Error("it goes on")
		}
		n.end()
	})
}

// Every call of Set and Remove fails once. If they say that all is well then it is.
func TestSetFails(t *testing.T) {
	for _, f := range []fault{faultBefore, faultAfter} {
		for _, kind := range []string{"changed", "removed"} {
			for k := 1; k < 20; k++ {
				t.Run(fmt.Sprint(f, kind, k), func(t *testing.T) {
					in(t, func(t *testing.T, w *world) {
						n := w.node("a", nil)
						p := hourly("p")
						n.set(p)
						time.Sleep(3*time.Hour + time.Minute)
						from := n.calls
						n.hook = func(_ string, c int) fault {
							if c == from+k {
								return f
							}
							return faultNone
						}
						do := func() error {
							if kind == "removed" {
								return n.s.Remove(context.Background(), "p")
							}
							p.When.Cron = "30 * * * *"
							_, err := n.s.Set(context.Background(), p)
							return err
						}
						err := do()
						if err != nil {
							if again := do(); again != nil && !errors.Is(again, ErrNotFound) && !strings.Contains(again.Error(), "lease") {
								t.Errorf("once more: %v", again)
							}
						}
						story := strings.Join(w.story("p"), ", ")
						if want := "01T01:00..01T02:00 missed (2), 01T03:00 skipped"; story != want && !(err != nil && strings.HasPrefix(want, story)) {
							t.Errorf("%v, and then %q", err, story)
						}
					})
				})
			}
		}
	}
}

// TestLeaseOnASlowDisk: giving a policy's lease back takes seconds. Whoever waits for Set waits for that, so that the lease isn't in the way of others until it
// ends by itself; if he goes, it is left to end.
func TestLeaseOnASlowDisk(t *testing.T) {
	for _, goes := range []bool{false, true} {
		in(t, func(t *testing.T, w *world) {
			n := w.node("a", nil)
			n.set(hourly("p"))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			n.hook = func(call string, _ int) fault {
				if call == "Release" {
					if goes {
						cancel()
					}
					time.Sleep(3 * time.Second)
				}
				return faultNone
			}
			p := hourly("p")
			p.When.Cron = "1 * * * *"
			if _, err := n.s.Set(ctx, p); err != nil {
				t.Errorf("the caller goes: %v; Set: %v", goes, err)
			}
			if _, err := w.Acquire(t.Context(), leaseName("p"), time.Minute); errors.Is(err, catalog.ErrHeld) != goes {
				t.Errorf("the caller goes: %v; the lease after it: %v", goes, err)
			}
		})
	}
}
