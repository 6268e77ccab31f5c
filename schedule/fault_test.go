package schedule

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// shift is four hours in the life of a policy: when two schedulers start, five due times have been missed, and the sixth is caught up with; of one the first two
// attempts fail, and one takes so long that the next is skipped.
func shift(t *testing.T, before func(w *world, a *node)) (w *world, sum tally, calls int) {
	w = newWorld(t)
	began := time.Now().UTC()
	time.Sleep(5*time.Hour + 40*time.Minute)
	p := Policy{ID: "p", DataStore: "ds", Enabled: true, When: When{Cron: "30 * * * *"}, Window: 40 * time.Minute, Retries: 3, CreatedAt: began, ChangedAt: began}
	w.put(p)
	w.plan = func(d Due) (time.Duration, error) {
		switch {
		case d.Due.Hour() == 6 && d.Attempt <= 2:
			return time.Minute, errors.New("the source went away")
		case d.Due.Hour() == 7:
			return 70 * time.Minute, nil
		}
		return 2 * time.Minute, nil
	}
	change := func(c *Config) { c.LeaseTTL, c.Poll = 3*time.Minute, 10*time.Minute }
	a, b := w.node("a", change), w.node("b", change)
	if before != nil {
		before(w, a)
	}
	a.run()
	time.Sleep(time.Second)
	b.run()
	until := time.Now().UTC().Add(4 * time.Hour)
	time.Sleep(6 * time.Hour)
	a.end()
	b.end()
	return w, w.account(t, regime{p, until}), a.calls
}

// clean is what becomes of a shift when nothing goes wrong.
var clean = tally{due: 10, done: 4, skipped: 1, missed: 5, attempts: 6}

func TestShift(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if w, sum, calls := shift(t, nil); sum != clean || calls < 50 {
			t.Errorf("%v, %d calls: %q", sum, calls, w.story("p"))
		}
	})
}

// steps runs a shift for every call that the first scheduler makes, or, outside of campaigns, some of them.
func steps(t *testing.T, stride int, one func(t *testing.T, k int)) {
	if campaign {
		stride = 1
	}
	calls := 0
	synctest.Test(t, func(t *testing.T) { _, _, calls = shift(t, nil) })
	for k := 1; k <= calls; k += stride {
		t.Run(fmt.Sprint(k), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { one(t, k) })
		})
	}
	t.Logf("%d shifts", (calls+stride-1)/stride)
}

// Every call that the scheduler makes fails once, before it has an effect or after that: nothing is lost by it, nor done twice.
func TestCallFails(t *testing.T) {
	for name, f := range map[string]fault{"before": faultBefore, "after": faultAfter} {
		t.Run(name, func(t *testing.T) {
			steps(t, 2, func(t *testing.T, k int) {
				what := ""
				w, sum, _ := shift(t, func(w *world, a *node) {
					a.hook = func(call string, n int) fault {
						if n != k {
							return faultNone
						}
						what = call
						return f
					}
				})
				// A call of the Job that fails is an attempt that failed.
				if what == "PutRun" && f == faultAfter && sum.attempts != clean.attempts {
					t.Errorf("what was written counts as not written: %v: %q", sum, w.story("p"))
				}
				sum.attempts = clean.attempts
				if sum != clean {
					t.Errorf("%s failed: %v: %q", what, sum, w.story("p"))
				}
			})
		})
	}
}

// A scheduler sleeps for longer than its lease lasts, at every call, before it has an effect or after that. The other one goes on with what it was at, and when it
// wakes it does nothing twice.
func TestSleeper(t *testing.T) {
	for name, after := range map[string]bool{"before": false, "after": true} {
		for _, nap := range []time.Duration{4 * time.Minute, 75 * time.Minute} {
			t.Run(fmt.Sprint(name, nap), func(t *testing.T) {
				steps(t, 11, func(t *testing.T, k int) {
					what := ""
					w, sum, _ := shift(t, func(w *world, a *node) {
						w.slept = true
						sleep := func() {
							a.pause()
							time.AfterFunc(nap, a.wake)
						}
						a.hook = func(call string, n int) fault {
							if n == k {
								if what = call; !after {
									sleep()
								}
							}
							return faultNone
						}
						a.after = func(n int) {
							if n == k && after {
								sleep()
							}
						}
					})
					// The other one is there: nothing more is missed. What takes long may have no time left in its window when it is taken over, and
					// the next may be skipped before that.
					if sum.missed > clean.missed || sum.failed > 1 || sum.done+sum.failed < clean.done || sum.due != clean.due {
						t.Errorf("asleep at %s: %v: %q", what, sum, w.story("p"))
					}
				})
			})
		}
	}
}

// A scheduler is killed at every call. The other one goes on.
func TestKilled(t *testing.T) {
	for name, after := range map[string]bool{"before": false, "after": true} {
		t.Run(name, func(t *testing.T) {
			steps(t, 7, func(t *testing.T, k int) {
				what := ""
				w, sum, _ := shift(t, func(w *world, a *node) {
					die := func() {
						a.gate.Lock()
						defer a.gate.Unlock()
						a.dead, a.asleep = true, time.Now()
						a.stop()
					}
					a.hook = func(call string, n int) fault {
						if n == k {
							if what = call; !after {
								die()
							}
						}
						return faultNone
					}
					a.after = func(n int) {
						if n == k && after {
							die()
						}
					}
				})
				if sum.missed > clean.missed || sum.failed > 1 || sum.done+sum.failed < clean.done || sum.due != clean.due {
					t.Errorf("killed at %s: %v: %q", what, sum, w.story("p"))
				}
			})
		})
	}
}
