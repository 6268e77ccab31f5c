package schedule

import (
	"testing"
	"time"
)

// A span is what one finds who goes through the due times one by one, however many there are.
func TestSpan(t *testing.T) {
	base := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, when := range []When{{Cron: "* * * * *"}, {Cron: "0 0 29 2 *"}, {Every: 13 * time.Hour}, {Cron: "0 3 * * 1"}, {Daily: []string{"02:00", "02:01"}}} {
		for _, length := range []time.Duration{0, time.Minute, time.Hour, 25 * time.Hour, 40 * 24 * time.Hour, 80 * 24 * time.Hour} {
			p := Policy{When: when}
			table, err := compile(&p)
			if err != nil {
				t.Fatal(err)
			}
			for _, off := range []time.Duration{0, 30 * time.Second} {
				after := base.Add(off)
				until := after.Add(length)
				var want span
				for due := table.next(after); !due.IsZero() && !due.After(until); due = table.next(due) {
					if want.count++; want.count == 1 {
						want.first = due
					}
					want.prev, want.last = want.last, due
				}
				want.count = min(want.count, MaxCount)
				if got := table.span(after, until); got != want {
					t.Errorf("%+v after %s until %s:\ngot  %+v\nwant %+v", when, after, until, got, want)
				}
			}
		}
	}
}
