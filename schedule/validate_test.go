package schedule

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/catalog/retention"
)

func valid() Policy {
	return Policy{ID: "nightly", DataStore: "orders", When: When{Daily: []string{"02:30"}}}
}

// TestValidateErrors breaks each field in turn.
func TestValidateErrors(t *testing.T) {
	for _, test := range []struct {
		change func(p *Policy)
		limits Limits
		want   string // after the name of the policy
	}{
		{func(p *Policy) { p.DataStore = "" }, Limits{}, `dataStore "": it is empty`},
		{func(p *Policy) { p.DataStore = "a b" }, Limits{}, `dataStore "a b": character 2, ' ', is not allowed: letters, digits, "-", "_" and "." are, and it begins with a letter or digit`},
		{func(p *Policy) { p.DataStore = strings.Repeat("x", 101) }, Limits{},
			`dataStore "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"…: it has 101 characters, the limit is 100`},

		{func(p *Policy) { p.TimeZone = "Berlin" }, Limits{}, `timeZone "Berlin": the IANA's database on this machine has no such zone: names are like Europe/Berlin, letter by letter; if it is new, the machine's tzdata may be too old`},
		{func(p *Policy) { p.TimeZone = "Europe/../Berlin" }, Limits{}, `timeZone "Europe/../Berlin": character 8 is in no zone's name: these are like Europe/Berlin`},
		{func(p *Policy) { p.TimeZone = "Local" }, Limits{}, `timeZone "Local": a policy needs a zone that is the same on every machine, like Europe/Berlin; empty is UTC`},
		{func(p *Policy) { p.TimeZone = "right/Europe/Berlin" }, Limits{}, `timeZone "right/Europe/Berlin": a policy needs a zone that is the same on every machine, like Europe/Berlin; empty is UTC`},
		{func(p *Policy) { p.TimeZone = strings.Repeat("a", 65) }, Limits{}, `timeZone "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"…: it has 65 bytes, the limit is 64`},

		{func(p *Policy) { p.Retries = -1 }, Limits{}, `retries is -1: it must be from 0 to 10`},
		{func(p *Policy) { p.Retries = 11 }, Limits{}, `retries is 11: it must be from 0 to 10`},
		{func(p *Policy) { p.CatchUp = "all" }, Limits{}, `catchUp is "all": it must be "latest", "none", or empty, which is "latest"`},

		{func(p *Policy) { p.Window = -time.Hour }, Limits{}, `window is -1h: it must be 0 or at least 1m`},
		{func(p *Policy) { p.Window = time.Minute - 1 }, Limits{}, `window is 59.999999999s: it must be 0 or at least 1m`},
		{func(p *Policy) { p.Window = time.Minute + 1 }, Limits{}, `window is 1m0.000000001s: it must be of whole seconds`},

		{func(p *Policy) { p.When = When{} }, Limits{}, `when is empty: set one of cron, weekly, daily, saveSchedule and every`},
		{func(p *Policy) { p.When.Cron, p.When.Every = "@daily", time.Hour }, Limits{}, `when has cron and daily and every: only one of them can be set; make a policy of each`},

		{func(p *Policy) { p.When.Daily = []string{"02:30", "2:30"} }, Limits{}, `when.daily[1] is "2:30": a time of the day is of the form HH:MM, from 00:00 to 23:59`},
		{func(p *Policy) { p.When.Daily = []string{"24:00"} }, Limits{}, `when.daily[0] is "24:00": a time of the day is of the form HH:MM, from 00:00 to 23:59`},
		{func(p *Policy) { p.When.Daily = []string{"02:60"} }, Limits{}, `when.daily[0] is "02:60": a time of the day is of the form HH:MM, from 00:00 to 23:59`},
		{func(p *Policy) { p.When.Daily = []string{"02:30", "02:30"} }, Limits{}, `when.daily[1] is "02:30", which is there already`},
		{func(p *Policy) { p.When.Daily, p.Window = []string{"02:30", "03:15"}, time.Hour }, Limits{},
			`window is 1h: when.daily is due at 02:30 and at 03:15, which are 45m apart, and windows may not overlap`},
		{func(p *Policy) { p.When.Daily, p.Window = []string{"00:15", "12:00", "23:30"}, time.Hour }, Limits{},
			`window is 1h: when.daily is due at 23:30 and at 00:15 of the next day, which are 45m apart, and windows may not overlap`},
		{func(p *Policy) { p.Window = 24*time.Hour + time.Second }, Limits{},
			`window is 24h0m1s: when.daily is due at 02:30 and at 02:30 of the next day, which are 24h apart, and windows may not overlap`},
		{func(p *Policy) { p.When.Daily = []string{"02:30", "03:15"} }, Limits{MinInterval: time.Hour},
			`when.daily is due at 02:30 and at 03:15, which are 45m apart: the limit is 1h`},

		{func(p *Policy) { p.When = When{Weekly: &Weekly{Days: []time.Weekday{1, 7}}} }, Limits{}, `when.weekly.days[1] is 7: days are 0, Sunday, to 6, Saturday`},
		{func(p *Policy) { p.When = When{Weekly: &Weekly{Days: []time.Weekday{-1}}} }, Limits{}, `when.weekly.days[0] is -1: days are 0, Sunday, to 6, Saturday`},
		{func(p *Policy) { p.When = When{Weekly: &Weekly{Hours: []int{24}}} }, Limits{}, `when.weekly.hours[0] is 24: hours are 0 to 23`},
		{func(p *Policy) { p.When = When{Weekly: &Weekly{Hours: []int{0, -1}}} }, Limits{}, `when.weekly.hours[1] is -1: hours are 0 to 23`},
		{func(p *Policy) { p.When = When{Weekly: &Weekly{Minute: 60}} }, Limits{}, `when.weekly.minute is 60: it must be from 0 to 59`},
		{func(p *Policy) {
			p.When, p.Window = When{Weekly: &Weekly{Days: []time.Weekday{1, 4}, Hours: []int{3}}}, 100*time.Hour
		}, Limits{},
			`window is 100h: when.weekly is due at 03:00 and at 03:00 3 days later, which are 72h apart, and windows may not overlap`},

		{func(p *Policy) { p.When = When{SaveSchedule: "23:61"} }, Limits{}, `when.saveSchedule "23:61": no time from 00:00 to 23:59 is like that, so it would never be due`},
		{func(p *Policy) { p.When = When{SaveSchedule: "?:15"} }, Limits{}, `when.saveSchedule "?:15": no time from 00:00 to 23:59 is like that, so it would never be due`},
		{func(p *Policy) { p.When = When{SaveSchedule: "*"} }, Limits{}, `when.saveSchedule "*": it must be of the form HH:MM, where "*" stands for all hours or minutes, and "*" or "?" for a digit, as 23:45, *:15, 0?:00`},

		{func(p *Policy) { p.When = When{Every: time.Minute - 1} }, Limits{}, `when.every is 59.999999999s: it must be from 1m to 8784h`},
		{func(p *Policy) { p.When = When{Every: -time.Hour} }, Limits{}, `when.every is -1h: it must be from 1m to 8784h`},
		{func(p *Policy) { p.When = When{Every: 8785 * time.Hour} }, Limits{}, `when.every is 8785h: it must be from 1m to 8784h`},
		{func(p *Policy) { p.When = When{Every: 90 * time.Second} }, Limits{}, `when.every is 1m30s: it must be of whole minutes`},
		{func(p *Policy) { p.When, p.Window = When{Every: time.Hour}, 2*time.Hour }, Limits{},
			`window is 2h: when.every 1h is due at 01:00 and 02:00, which are 1h apart, and windows may not overlap`},

		{func(p *Policy) { p.When = When{Cron: "*/5 * * * *"} }, Limits{MinInterval: 15 * time.Minute},
			`when.cron "*/5 * * * *" is due at 00:00 and at 00:05, which are 5m apart: the limit is 15m`},
		{func(p *Policy) { p.When, p.Window = When{Cron: "0 0 29 2 *"}, 2*365*24*time.Hour }, Limits{}, ""},
		{func(p *Policy) { p.When, p.Window = When{Cron: "0 0 30,31 * *"}, 25*time.Hour }, Limits{},
			`window is 25h: when.cron "0 0 30,31 * *" is due at 00:00 and at 00:00 of the next day, which are 24h apart, and windows may not overlap`},

		{func(p *Policy) { p.Retention.Days = 731 }, Limits{}, `retention: Rules.Days is 731, the limit is 730 days, for backups may be kept for 730 days`},
		{func(p *Policy) { p.Retention.Days = 31 }, Limits{MaxRetentionDays: 30}, `retention: Rules.Days is 31, the limit is 30 days, for backups may be kept for 30 days`},
		{func(p *Policy) { p.Retention = retention.Rules{Days: 730} }, Limits{}, ""},

		{func(p *Policy) { p.Store = "s3://b" }, Limits{}, `store "s3://b": character 3, ':', is not allowed: letters, digits, "-", "_" and "." are, and it begins with a letter or digit`},
		{func(p *Policy) { p.Labels = map[string]string{"team": "a\nb"} }, Limits{}, `labels: label team: its value "a\nb" has something in it that can't be printed`},

		{func(p *Policy) { p.BackupName = "nightly" }, Limits{}, `backupName "nightly": it needs {timestamp} in it, or all of {Y}, {m} and {d}: else backups of different days have the same name`},
		{func(p *Policy) { p.BackupName = "n-{Y}-{m}" }, Limits{}, `backupName "n-{Y}-{m}": it needs {timestamp} in it, or all of {Y}, {m} and {d}: else backups of different days have the same name`},
		{func(p *Policy) { p.BackupName = "n-{Y}{m}{d}" }, Limits{}, ""},
		{func(p *Policy) { p.BackupName, p.When = "n-{Y}{m}{d}", When{Cron: "0 */6 * * *"} }, Limits{},
			`backupName "n-{Y}{m}{d}": it needs {timestamp} in it: the policy is due more than once a day, after 6h already, and these backups would have the same name`},
		{func(p *Policy) { p.BackupName = "n-{date}" }, Limits{}, `backupName "n-{date}": "{date": there are {timestamp}, {Y}, {m} and {d}, and no other "{"`},
		{func(p *Policy) { p.BackupName = "{timestamp}" }, Limits{}, `backupName "{timestamp}": it makes the name "2026-10-25T02-30-00": character 1, '2', is not allowed: the name of a backup begins with a letter`},
		{func(p *Policy) { p.BackupName = strings.Repeat("n", 80) + "{timestamp}" }, Limits{},
			`backupName "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"…: it makes the name "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"…: it has 101 characters, the limit is 100`},
		{func(p *Policy) { p.BackupName = strings.Repeat("n", 201) }, Limits{},
			`backupName "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"…: it has 201 bytes, the limit is 200`},

		// At the limits.
		{func(p *Policy) { p.Retries, p.Window, p.CatchUp = 10, 24*time.Hour, CatchUpNone }, Limits{MinInterval: 24 * time.Hour}, ""},
		{func(p *Policy) { p.When, p.Window = When{Every: time.Minute}, time.Minute }, Limits{}, ""},
		{func(p *Policy) { p.When.Daily, p.Window = []string{"00:00", "23:00"}, time.Hour }, Limits{}, ""},
		{func(p *Policy) {
			p.TimeZone, p.Store, p.BackupName = "America/Argentina/ComodRivadavia", "bucket-2", "n-{timestamp}"
		}, Limits{}, ""},
	} {
		p := valid()
		test.change(&p)
		err := p.Validate(test.limits)
		if test.want == "" {
			if err != nil {
				t.Errorf("%+v: %v", p, err)
			}
			continue
		}
		if want := `policy "nightly": ` + test.want; err == nil || err.Error() != want {
			t.Errorf("%v\nwant %s", err, want)
		}
	}
}

func TestValidateAll(t *testing.T) {
	p := Policy{ID: "_x", DataStore: "orders", When: When{Cron: "99 * * * *"}, Retries: 11}
	err := p.Validate(Limits{})
	want := "policy \"_x\": id \"_x\": character 1, '_', is not allowed: letters, digits, \"-\", \"_\" and \".\" are, and it begins with a letter or digit\n" +
		"retries is 11: it must be from 0 to 10\n" +
		`when.cron "99 * * * *": minute "99": 99 is not from 0 to 59`
	if err == nil || err.Error() != want {
		t.Errorf("%v\nwant %s", err, want)
	}
}

// TestNoZones runs without any database of time zones, as a program in an empty container does.
func TestNoZones(t *testing.T) {
	const want = `timeZone "Europe/Rome": there is no database of time zones on this machine: install it (on Debian, the package tzdata), or link one into the program: import _ "time/tzdata"`
	err := zoneError("Europe/Rome", func(string) (*time.Location, error) { return nil, errors.New("unknown") })
	if err == nil || err.Error() != want {
		t.Errorf("%v\nwant %s", err, want)
	}
}
