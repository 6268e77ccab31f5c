package schedule

import (
	"fmt"
	"testing"
	"time"
)

// A regime is a time in which a policy's schedule was the same.
type regime struct {
	p     Policy    // with its ChangedAt
	until time.Time // due times after that are of the next one, or not asked for
}

// A tally says what became of due times.
type tally struct {
	due, done, failed, skipped, missed int
	attempts                           int
}

func (a tally) String() string {
	return fmt.Sprintf("%d due times: %d done, %d failed, %d skipped, %d missed; %d attempts", a.due, a.done, a.failed, a.skipped, a.missed, a.attempts)
}

func (a *tally) add(b tally) {
	a.due += b.due
	a.done += b.done
	a.failed += b.failed
	a.skipped += b.skipped
	a.missed += b.missed
	a.attempts += b.attempts
}

// account goes through all due times that a policy had, one by one, and demands that the Journal tells of each exactly once what became of it, and that what it
// tells is so: there is one ready backup of a due time that is done, and none of any other.
func (w *world) account(t *testing.T, regimes ...regime) (a tally) {
	t.Helper()
	id := regimes[0].p.ID
	fail := func(due time.Time, format string, args ...any) {
		t.Helper()
		t.Errorf("%s due at %s: %s", id, due.Format(time.RFC3339), fmt.Sprintf(format, args...))
	}
	end := regimes[len(regimes)-1].until
	own, ranges := map[time.Time]*Run{}, []*Run{}
	for _, r := range w.all(id) {
		if r.Due.After(end) {
			continue
		}
		own[r.Due] = r
		if r.Count > 0 {
			ranges = append(ranges, r)
		}
	}
	counted := map[*Run]int{}
	for _, e := range regimes {
		trigger, err := e.p.Trigger()
		if err != nil {
			t.Fatal(err)
		}
		if !e.p.Enabled {
			continue
		}
		for due := trigger.Next(e.p.ChangedAt); !due.IsZero() && !due.After(e.until); due = trigger.Next(due) {
			a.due++
			r := own[due]
			delete(own, due)
			for len(ranges) > 0 && ranges[0].Due.Before(due) {
				ranges = ranges[1:]
			}
			if len(ranges) > 0 && !due.Before(ranges[0].First) {
				in := ranges[0]
				counted[in]++
				if counted[in] > in.Count || due.Equal(in.Due) && counted[in] != in.Count {
					fail(due, "it is number %d in a row of which the record says that there are %d", counted[in], in.Count)
				}
				if r != nil && r != in && !(w.slept && r.State == RunMissed) {
					fail(due, "it was missed, by the record of %s, and %s", in.Due.Format(time.RFC3339), r.State)
				}
				r = in // of one who slept while another one was quicker there may be both
			}
			if r == nil {
				fail(due, "nobody knows what became of it")
				continue
			}
			ready := w.ready[key(id, due)]
			switch {
			case r.State == RunDone && (len(ready) != 1 || ready[0] != r.Backup):
				fail(due, "it is done by %s, and the ready backups of it are %s", r.Backup, ready)
			case r.State != RunDone && len(ready) > 0:
				fail(due, "it is %s (%s), and there are ready backups of it: %s", r.State, r.Reason, ready)
			}
			a.attempts += len(r.Attempts)
			switch r.State {
			case RunDone:
				a.done++
			case RunFailed:
				a.failed++
				if len(r.Attempts) == 0 || r.Attempts[0].Error == "" {
					fail(due, "it failed, and nobody knows why: %+v", r)
				}
			case RunSkipped:
				a.skipped++
			case RunMissed:
				a.missed++
			default:
				fail(due, "it is %s: %+v", r.State, r)
			}
			if (r.State == RunSkipped || r.State == RunMissed) && r.Reason == "" {
				fail(due, "it was %s without a reason", r.State)
			}
			if r.State != RunRunning && w.ended[key(id, r.Due)] > 1 {
				fail(due, "the host was told %d times what became of it", w.ended[key(id, r.Due)])
			}
			for _, at := range r.Attempts {
				if !at.BeganAt.Before(r.WindowEnd) || at.BeganAt.Before(r.Start) {
					fail(due, "an attempt was made at %s, outside its window from %s to %s", at.BeganAt, r.Start, r.WindowEnd)
				}
			}
		}
	}
	for due, r := range own {
		fail(due, "it was no due time, and it is %s", r.State)
	}
	return a
}
