package schedule

import (
	"testing"
	"time"
)

func location(t testing.TB, name string) *time.Location {
	t.Helper()
	l, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestDSTTables has the due times around each change of the clocks, written by hand: wall clock, offset.
func TestDSTTables(t *testing.T) {
	const form = "2006-01-02 15:04 -0700"
	for _, test := range []struct {
		zone string
		when When
		from string // exclusive
		want []string
	}{
		{"America/New_York", When{Daily: []string{"02:30"}}, "2026-03-07 03:00 -0500", []string{"2026-03-08 03:00 -0400", "2026-03-09 02:30 -0400"}},
		{"America/New_York", When{Cron: "0,30 1-3 * * *"}, "2026-03-08 00:59 -0500", []string{
			"2026-03-08 01:00 -0500", "2026-03-08 01:30 -0500", "2026-03-08 03:00 -0400", "2026-03-08 03:30 -0400", "2026-03-09 01:00 -0400"}},
		{"America/New_York", When{Daily: []string{"01:30"}}, "2026-10-31 03:00 -0400", []string{"2026-11-01 01:30 -0400", "2026-11-02 01:30 -0500"}},
		{"America/New_York", When{Cron: "30 * * * *"}, "2026-03-08 01:00 -0500", []string{"2026-03-08 01:30 -0500", "2026-03-08 03:30 -0400"}},
		{"America/New_York", When{Weekly: &Weekly{Minute: 30}}, "2026-11-01 01:00 -0400", []string{
			"2026-11-01 01:30 -0400", "2026-11-01 01:30 -0500", "2026-11-01 02:30 -0500"}},

		{"Europe/Berlin", When{Cron: "30 2 * * *"}, "2026-03-28 03:00 +0100", []string{"2026-03-29 03:00 +0200", "2026-03-30 02:30 +0200"}},
		{"Europe/Berlin", When{Cron: "30 2 * * *"}, "2026-10-24 03:00 +0200", []string{"2026-10-25 02:30 +0200", "2026-10-26 02:30 +0100"}},
		{"Europe/Berlin", When{Cron: "0 */2 * * *"}, "2026-03-28 23:00 +0100", []string{
			"2026-03-29 00:00 +0100", "2026-03-29 03:00 +0200", "2026-03-29 04:00 +0200"}},
		{"Europe/Berlin", When{Cron: "0 */2 * * *"}, "2026-10-24 23:00 +0200", []string{
			"2026-10-25 00:00 +0200", "2026-10-25 02:00 +0200", "2026-10-25 04:00 +0100"}},
		{"Europe/Berlin", When{SaveSchedule: "*:15"}, "2026-10-25 01:59 +0200", []string{
			"2026-10-25 02:15 +0200", "2026-10-25 02:15 +0100", "2026-10-25 03:15 +0100"}},
		{"Europe/Berlin", When{SaveSchedule: "02:15"}, "2026-10-25 01:59 +0200", []string{"2026-10-25 02:15 +0200", "2026-10-26 02:15 +0100"}},
		{"Europe/Berlin", When{Every: 90 * time.Minute}, "2026-03-29 00:30 +0100", []string{
			"2026-03-29 01:00 +0100", "2026-03-29 03:30 +0200", "2026-03-29 05:00 +0200"}},

		{"Australia/Lord_Howe", When{Daily: []string{"02:15"}}, "2026-10-03 03:00 +1030", []string{"2026-10-04 02:30 +1100", "2026-10-05 02:15 +1100"}},
		{"Australia/Lord_Howe", When{Daily: []string{"01:45"}}, "2026-04-04 03:00 +1100", []string{"2026-04-05 01:45 +1100", "2026-04-06 01:45 +1030"}},
		{"Australia/Lord_Howe", When{Cron: "45 * * * *"}, "2026-04-05 01:00 +1100", []string{
			"2026-04-05 01:45 +1100", "2026-04-05 01:45 +1030", "2026-04-05 02:45 +1030"}},

		{"Asia/Seoul", When{Daily: []string{"02:30"}}, "2026-03-28 03:00 +0900", []string{"2026-03-29 02:30 +0900", "2026-03-30 02:30 +0900"}},
		{"Asia/Seoul", When{Daily: []string{"02:30"}}, "1988-05-07 03:00 +0900", []string{"1988-05-08 03:00 +1000", "1988-05-09 02:30 +1000"}},

		{"Antarctica/Troll", When{Daily: []string{"01:30", "02:30", "03:00"}}, "2026-03-28 12:00 +0000", []string{"2026-03-29 03:00 +0200", "2026-03-30 01:30 +0200"}},
		{"Pacific/Apia", When{Daily: []string{"02:30"}}, "2011-12-29 00:00 -1000", []string{
			"2011-12-29 02:30 -1000", "2011-12-31 00:00 +1400", "2011-12-31 02:30 +1400"}},
		{"Pacific/Apia", When{Cron: "0 12 * * fri"}, "2011-12-24 00:00 -1000", []string{"2011-12-31 00:00 +1400", "2012-01-06 12:00 +1400"}},
		{"America/Sao_Paulo", When{Cron: "@daily"}, "2018-11-03 12:00 -0300", []string{"2018-11-04 01:00 -0200", "2018-11-05 00:00 -0200"}},
		{"America/Sao_Paulo", When{Daily: []string{"23:30"}}, "2018-02-17 12:00 -0200", []string{"2018-02-17 23:30 -0200", "2018-02-18 23:30 -0300"}},
		{"Asia/Beirut", When{Cron: "15 0 * * sun"}, "2026-03-23 00:00 +0200", []string{"2026-03-29 01:00 +0300", "2026-04-05 00:15 +0300"}},
	} {
		zone := location(t, test.zone)
		p := Policy{When: test.when, TimeZone: test.zone}
		trigger, err := p.Trigger()
		if err != nil {
			t.Errorf("%s %+v: %v", test.zone, test.when, err)
			continue
		}
		at, err := time.Parse(form, test.from)
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range test.want {
			at = trigger.Next(at)
			if got := at.In(zone).Format(form); got != want {
				t.Errorf("%s %s %q: due time %d after %s is %s, want %s", test.zone, test.when.text(), test.when.Daily, i+1, test.from, got, want)
			}
		}
	}
}

func benchmarkNext(b *testing.B, when When, zone string) {
	p := Policy{When: when, TimeZone: zone}
	trigger, err := p.Trigger()
	if err != nil {
		b.Fatal(err)
	}
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at, end := start, start.AddDate(5, 0, 0)
	for b.Loop() {
		if at = trigger.Next(at); at.After(end) {
			at = start
		}
	}
}

func BenchmarkNext(b *testing.B) {
	for name, when := range map[string]When{
		"daily": {Daily: []string{"02:30"}}, "hourly": {Cron: "@hourly"}, "monthly": {Cron: "30 2 1 * *"}, "leap": {Cron: "0 0 29 2 *"}, "every": {Every: time.Hour},
	} {
		b.Run(name, func(b *testing.B) { benchmarkNext(b, when, "Europe/Berlin") })
	}
}

// Beyond the tables of time zones Go counts 365 days in every year.
func TestLastDayOfLeapYears(t *testing.T) {
	for _, zone := range []string{"America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Seoul"} {
		for _, year := range []int{2028, 2036, 2040, 2044, 2096} {
			location := location(t, zone)
			for cron, want := range map[string]int{"0 * * * *": 4 * 24, "30 23 * * *": 4, "0 0 31 12 *": 1} {
				p := Policy{When: When{Cron: cron}, TimeZone: zone}
				trigger, err := p.Trigger()
				if err != nil {
					t.Fatal(err)
				}
				from, until := time.Date(year, 12, 29, 0, 0, 0, 0, location), time.Date(year+1, 1, 2, 0, 0, 0, 0, location)
				n := 0
				for at := trigger.Next(from.Add(-time.Second)); at.Before(until); at = trigger.Next(at) {
					if n++; n > want {
						break
					}
				}
				if n != want {
					t.Errorf("%s in %s from %s until %s: due %d times, want %d", cron, zone, from, until, n, want)
				}
			}
		}
	}
}
