package schedule

import (
	"fmt"
	"testing"
	"time"
)

func mustTrigger(t testing.TB, p *Policy) Trigger {
	t.Helper()
	trigger, err := p.Trigger()
	if err != nil {
		t.Fatal(err)
	}
	return trigger
}

// TestSlotSpread: a thousand data stores of one schedule start all over the first half of the window, each on every day at the same minute.
func TestSlotSpread(t *testing.T) {
	const window = time.Hour
	var tenths [10]int
	for i := range 1000 {
		p := Policy{ID: "nightly", DataStore: fmt.Sprintf("store-%d", i), When: When{Daily: []string{"02:30", "14:30"}}, TimeZone: "Europe/Berlin", Window: window}
		trigger := mustTrigger(t, &p)
		due := trigger.Next(time.Date(2026, 3, 27, 12, 0, 0, 0, time.UTC))
		first := p.Slot(trigger, due)
		spread := first.Start.Sub(due)
		if spread < 0 || spread >= window/2 || spread%time.Second != 0 {
			t.Fatalf("%s starts %v after it is due", p.DataStore, spread)
		}
		tenths[spread*10/(window/2)]++
		// Over the day on which 02:30 doesn't exist, too.
		for range 6 {
			due = trigger.Next(due)
			s := p.Slot(trigger, due)
			if s.Due != due || s.Start.Sub(due) != spread || s.End.Sub(due) != window {
				t.Fatalf("%s: %+v, but it started %v after its due time first", p.DataStore, s, spread)
			}
		}
	}
	for i, n := range tenths {
		if n < 60 || n > 140 { // 100 are expected, with a standard deviation of 9.5
			t.Errorf("%d of 1000 start in tenth %d: %v", n, i, tenths)
		}
	}
}

// TestSlotGolden keeps starting points where they are: another version of Amber that computed them anew would move every backup.
func TestSlotGolden(t *testing.T) {
	for _, test := range []struct {
		store, policy string
		window        time.Duration
		want          time.Duration
	}{
		{"orders", "nightly", time.Hour, 15*time.Minute + 36*time.Second},
		{"orders", "nightly", 2 * time.Hour, 31*time.Minute + 12*time.Second},
		{"orders", "weekly", time.Hour, 16*time.Minute + 43*time.Second},
		{"carts", "nightly", time.Hour, 57 * time.Second},
		{"orders", "nightly", 0, 0},
		{"orders", "nightly", time.Minute, 15 * time.Second},
	} {
		p := Policy{ID: test.policy, DataStore: test.store, When: When{Daily: []string{"02:30"}}, Window: test.window}
		due := time.Date(2026, 11, 27, 2, 30, 0, 0, time.UTC)
		if got := p.Slot(mustTrigger(t, &p), due).Start.Sub(due); got != test.want {
			t.Errorf("%s of %s in %v: %v after its due time, want %v", test.policy, test.store, test.window, got, test.want)
		}
	}
}

func TestSlotEnd(t *testing.T) {
	for name, test := range map[string]struct {
		p     Policy
		after string // UTC
		end   time.Duration
	}{
		"no window":                      {Policy{When: When{Daily: []string{"02:30"}}}, "2026-11-27 00:00", DefaultLate},
		"no window, every five minutes":  {Policy{When: When{Cron: "*/5 * * * *"}}, "2026-11-27 00:00", 5 * time.Minute},
		"a window":                       {Policy{When: When{Daily: []string{"02:30"}}, Window: 6 * time.Hour}, "2026-11-27 00:00", 6 * time.Hour},
		"cut short by clocks":            {Policy{When: When{Daily: []string{"01:30", "02:30"}}, TimeZone: "Europe/Berlin", Window: time.Hour}, "2026-03-29 00:00", 30 * time.Minute},
		"not made longer by clocks":      {Policy{When: When{Daily: []string{"01:30", "03:30"}}, TimeZone: "Europe/Berlin", Window: time.Hour}, "2026-10-24 23:00", time.Hour},
		"the last one there is":          {Policy{When: When{Cron: "0 0 31 12 *"}, Window: time.Hour}, "9999-01-01 00:00", time.Hour},
		"as long as the time in between": {Policy{When: When{Every: time.Hour}, Window: time.Hour}, "2026-11-27 00:00", time.Hour},
	} {
		test.p.ID, test.p.DataStore = "p", "d"
		after, err := time.Parse("2006-01-02 15:04", test.after)
		if err != nil {
			t.Fatal(err)
		}
		trigger := mustTrigger(t, &test.p)
		s := test.p.Slot(trigger, trigger.Next(after))
		if got := s.End.Sub(s.Due); got != test.end {
			t.Errorf("%s: %v, want %v", name, got, test.end)
		}
	}
}

// TestSlotCut: where clocks cut a window short, the start is still in what is left of it, whatever the data store.
func TestSlotCut(t *testing.T) {
	for i := range 200 {
		p := Policy{ID: "p", DataStore: fmt.Sprint("d", i), When: When{Daily: []string{"00:30", "23:00"}}, TimeZone: "Pacific/Apia", Window: 90 * time.Minute}
		trigger := mustTrigger(t, &p)
		due := trigger.Next(time.Date(2011, 12, 30, 9, 30, 0, 0, time.UTC))
		s := p.Slot(trigger, due)
		if due.Format(time.DateTime) != "2011-12-30 10:00:00" || s.End.Sub(due) != 30*time.Minute {
			t.Fatalf("%+v", s)
		}
		if s.Start.Before(due) || s.Start.Sub(due) > 15*time.Minute {
			t.Errorf("%s: due %s, starts %s", p.DataStore, due, s.Start)
		}
	}
}
