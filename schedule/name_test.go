package schedule

import (
	"testing"
	"time"

	"github.com/amberkv/amber/catalog"
)

func TestExpandName(t *testing.T) {
	berlin := location(t, "Europe/Berlin")
	fold := time.Date(2026, 10, 25, 0, 30, 0, 0, time.UTC)
	for _, test := range []struct {
		template string
		at       time.Time
		want     string
	}{
		{"dump-{timestamp}", time.Date(2026, 11, 27, 20, 4, 5, 0, time.UTC), "dump-2026-11-27T20-04-05"},
		{"dump-{timestamp}", time.Date(2026, 11, 27, 20, 4, 5, 0, time.UTC).In(berlin), "dump-2026-11-27T21-04-05"},
		{"orders.{Y}{m}{d}", time.Date(2026, 2, 3, 0, 0, 0, 0, time.UTC), "orders.20260203"},
		{"{d}", time.Date(2026, 2, 3, 0, 0, 0, 0, time.UTC), ""},
		{"plain", time.Time{}, "plain"},
		{"n{timestamp}", fold.In(berlin), "n2026-10-25T02-30-00"},
		{"n{timestamp}", fold.Add(time.Hour).In(berlin), "n2026-10-25T02-30-00-2"},
		{"n{timestamp}", fold.Add(2 * time.Hour).In(berlin), "n2026-10-25T03-30-00"},
		{"n{timestamp}", fold.Add(time.Hour), "n2026-10-25T01-30-00"},
		{"", time.Time{}, ""},
		{"n{", time.Time{}, ""},
		{"n{timestamp", time.Time{}, ""},
		{"n{H}", time.Time{}, ""},
		{"n}", time.Time{}, ""},
		{"a/b", time.Time{}, ""},
		{"snapshot {Y}", time.Time{}, ""},
	} {
		got, err := ExpandName(test.template, test.at)
		if got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%q at %s: %q, %v, want %q", test.template, test.at, got, err, test.want)
		}
		if err == nil && catalog.ValidBackupName(got) != nil {
			t.Errorf("%q can't name a backup", got)
		}
	}
}

// TestNamesDiffer: no two due times of a valid policy make the same name, however its clocks are set.
func TestNamesDiffer(t *testing.T) {
	for zone, start := range map[string]string{
		"Europe/Berlin": "2026-10-24", "Australia/Lord_Howe": "2026-04-04", "Pacific/Apia": "2011-12-29", "Antarctica/Troll": "2026-10-24", "America/Sao_Paulo": "2018-02-16",
	} {
		for _, test := range []struct {
			cron, template string
		}{{"*/10 * * * *", "n-{timestamp}"}, {"30 2 * * *", "n-{Y}{m}{d}"}, {"0 0 * * *", "n-{d}.{m}.{Y}"}} {
			p := Policy{ID: "p", DataStore: "d", When: When{Cron: test.cron}, TimeZone: zone, BackupName: test.template}
			if err := p.Validate(Limits{}); err != nil {
				t.Fatal(err)
			}
			location := location(t, zone)
			at, err := time.ParseInLocation(time.DateOnly, start, location)
			if err != nil {
				t.Fatal(err)
			}
			trigger, seen := mustTrigger(t, &p), map[string]time.Time{}
			end := at.AddDate(0, 0, 4)
			for at = trigger.Next(at); at.Before(end); at = trigger.Next(at) {
				name, err := ExpandName(test.template, at.In(location))
				if err != nil {
					t.Fatal(err)
				}
				// Where a whole day is left out, its backup is made at the beginning of the next: a date is no time.
				if other, ok := seen[name]; ok && !(zone == "Pacific/Apia" && name == "n-20111231") {
					t.Errorf("%s %s: %s and %s are both called %s", zone, test.cron, other.In(location), at.In(location), name)
				}
				seen[name] = at
			}
		}
	}
}
