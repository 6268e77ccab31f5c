package schedule

import (
	"strings"
	"testing"
	"time"
)

// TestCron says when schedules are due first after New Year of 2026, a Thursday.
func TestCron(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		cron string
		want string // what follows, separated by commas
	}{
		{"@yearly", "2027-01-01 00:00"},
		{"@annually", "2027-01-01 00:00"},
		{"@monthly", "2026-02-01 00:00"},
		{"@weekly", "2026-01-04 00:00"},
		{"@daily", "2026-01-02 00:00"},
		{"@midnight", "2026-01-02 00:00"},
		{" @hourly\t", "2026-01-01 01:00"},
		{"* * * * *", "2026-01-01 00:01, 2026-01-01 00:02"},
		{"*/20\t*  * * *", "2026-01-01 00:20, 2026-01-01 00:40, 2026-01-01 01:00"},
		{"5/20 * * * *", "2026-01-01 00:05, 2026-01-01 00:25, 2026-01-01 00:45, 2026-01-01 01:05"},
		{"10-30/10 * * * *", "2026-01-01 00:10, 2026-01-01 00:20, 2026-01-01 00:30, 2026-01-01 01:10"},
		{"0 0 ? * ?", "2026-01-02 00:00"},
		{"05 04 * * *", "2026-01-01 04:05"},
		// Sunday is 0, 7 and its name, in ranges too.
		{"0 0 * * 7", "2026-01-04 00:00, 2026-01-11 00:00"},
		{"0 0 * * 0", "2026-01-04 00:00, 2026-01-11 00:00"},
		{"0 0 * * SUN", "2026-01-04 00:00, 2026-01-11 00:00"},
		{"0 0 * * 6-7", "2026-01-03 00:00, 2026-01-04 00:00, 2026-01-10 00:00"},
		{"0 0 * * sat-sun", "2026-01-03 00:00, 2026-01-04 00:00, 2026-01-10 00:00"},
		{"0 0 * * 3-7/2", "2026-01-02 00:00, 2026-01-04 00:00, 2026-01-07 00:00"},
		{"0 0 * * 0-7", "2026-01-02 00:00, 2026-01-03 00:00"},
		{"0 0 * * mon-fri", "2026-01-02 00:00, 2026-01-05 00:00"},
		{"0 7 * * *", "2026-01-01 07:00, 2026-01-02 07:00"},
		{"7 0,7 7 7 *", "2026-07-07 00:07, 2026-07-07 07:07"},
		{"0 0 1 Feb,aug *", "2026-02-01 00:00, 2026-08-01 00:00"},
		{"0 0 1 jun-aug *", "2026-06-01 00:00, 2026-07-01 00:00"},
		// Two restricted days are one or the other; with a star in front of one, it is both.
		{"0 0 13 * 5", "2026-01-02 00:00, 2026-01-09 00:00, 2026-01-13 00:00"},
		{"0 0 */2 * 5", "2026-01-09 00:00, 2026-01-23 00:00"},
		{"0 0 13 * */5", "2026-02-13 00:00, 2026-03-13 00:00, 2026-09-13 00:00"},
		// Ends of months, leap days.
		{"0 0 31 * *", "2026-01-31 00:00, 2026-03-31 00:00, 2026-05-31 00:00"},
		{"0 0 30 * *", "2026-01-30 00:00, 2026-03-30 00:00"},
		{"0 0 28-31 2 *", "2026-02-28 00:00, 2027-02-28 00:00, 2028-02-28 00:00, 2028-02-29 00:00"},
		{"0 0 29 2 *", "2028-02-29 00:00, 2032-02-29 00:00"},
		{"0 0 29 2 */6", "2032-02-29 00:00, 2048-02-29 00:00, 2060-02-29 00:00"}, // Sundays and Saturdays
		{"0 0 31 2 5", "2026-02-06 00:00"},                                       // there is no such date, but a Friday
	} {
		p := Policy{When: When{Cron: test.cron}}
		trigger, err := p.Trigger()
		if err != nil {
			t.Errorf("%q: %v", test.cron, err)
			continue
		}
		at := start
		var got []string
		for range strings.Count(test.want, ",") + 1 {
			at = trigger.Next(at)
			got = append(got, at.Format("2006-01-02 15:04"))
		}
		if got := strings.Join(got, ", "); got != test.want {
			t.Errorf("%q is due %s, want %s", test.cron, got, test.want)
		}
	}
}

// TestLeapDays goes over 2100, which has none, and to the end of time.
func TestLeapDays(t *testing.T) {
	p := Policy{When: When{Cron: "0 0 29 2 *"}}
	trigger, err := p.Trigger()
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2095, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, want := range []int{2096, 2104, 2108} {
		if at = trigger.Next(at); at.Format(time.DateOnly) != time.Date(want, 2, 29, 0, 0, 0, 0, time.UTC).Format(time.DateOnly) {
			t.Errorf("got %s, want the leap day of %d", at, want)
		}
	}
	if at := trigger.Next(time.Date(9996, 2, 29, 0, 0, 0, 0, time.UTC)); !at.IsZero() {
		t.Errorf("after 9996: %s", at)
	}
	for _, far := range []time.Time{{}, time.Date(-50000, 1, 1, 0, 0, 0, 0, time.UTC), time.Unix(-1<<62, 0)} {
		if at := trigger.Next(far); at.Format(time.DateOnly) != "0004-02-29" {
			t.Errorf("after %v: %v", far, at)
		}
	}
	if at := trigger.Next(time.Unix(1<<60, 0)); !at.IsZero() {
		t.Errorf("in some billion years: %s", at)
	}
}

func TestCronErrors(t *testing.T) {
	for cron, want := range map[string]string{
		"TZ=":                                   `TZ= is no field of it: the time zone is the policy's timeZone`,
		"TZ=UTC":                                `TZ= is no field of it: the time zone is the policy's timeZone`,
		"TZ=UTC 0 2 * * *":                      `TZ= is no field of it: the time zone is the policy's timeZone`,
		"CRON_TZ=Asia/Seoul@daily":              `CRON_TZ= is no field of it: the time zone is the policy's timeZone`,
		"@every 1h":                             `@every is no schedule of crontab(5): set when.every instead`,
		"@reboot":                               `@reboot is no time: a backup when a host shuts down is a matter of the host, not of a policy`,
		"@Daily":                                `there is no such name; there are @hourly, @daily (or @midnight), @weekly, @monthly and @yearly (or @annually)`,
		"@":                                     `there is no such name; there are @hourly, @daily (or @midnight), @weekly, @monthly and @yearly (or @annually)`,
		" ":                                     `it is empty; it must have 5 fields: minute, hour, day of the month, month, day of the week`,
		"0 2 * *":                               `it has 4 fields, it must have 5: minute, hour, day of the month, month, day of the week`,
		"0 0 2 * * *":                           `it has 6 fields, it must have 5: minute, hour, day of the month, month, day of the week. Seconds aren't taken: without them it is "0 2 * * *"`,
		"0 2 * * * root":                        `it has 6 fields, it must have 5: minute, hour, day of the month, month, day of the week. Seconds aren't taken: without them it is "2 * * * root"`,
		"5 2 * * * root":                        `it has 6 fields, it must have 5: minute, hour, day of the month, month, day of the week. Neither seconds, as a first field, nor years nor users nor commands are taken`,
		"5 2 * * * root backup":                 `it has 7 fields, it must have 5: minute, hour, day of the month, month, day of the week`,
		"60 * * * *":                            `minute "60": 60 is not from 0 to 59`,
		"0 24 * * *":                            `hour "24": 24 is not from 0 to 23`,
		"0 0 0 * *":                             `day of the month "0": 0 is not from 1 to 31`,
		"0 0 32 * *":                            `day of the month "32": 32 is not from 1 to 31`,
		"0 0 1 0 *":                             `month "0": 0 is not from 1 to 12`,
		"0 0 1 13 *":                            `month "13": 13 is not from 1 to 12`,
		"0 0 * * 8":                             `day of the week "8": 8 is not from 0 to 7`,
		"0 0 * * son":                           `day of the week "son": "son" is neither "*" nor a value: these are 0 to 7, or sun to sat`,
		"0 0 * * L":                             `day of the week "L": "L" is neither "*" nor a value: these are 0 to 7, or sun to sat`,
		"H 0 * * *":                             `minute "H": "H" is neither "*" nor a value: these are 0 to 59`,
		"? 0 * * *":                             `minute "?": "?" is for days only: use "*"`,
		"*/0 * * * *":                           `minute "*/0": the step "0" must be a number from 1 to 60: it counts within the field, and begins anew with each round of it; for longer intervals set when.every`,
		"*/90 * * * *":                          `minute "*/90": the step "90" must be a number from 1 to 60: it counts within the field, and begins anew with each round of it; for longer intervals set when.every`,
		"*/ * * * *":                            `minute "*/": the step "" must be a number from 1 to 60: it counts within the field, and begins anew with each round of it; for longer intervals set when.every`,
		"1/2/3 * * * *":                         `minute "1/2/3": the step "2/3" must be a number from 1 to 60: it counts within the field, and begins anew with each round of it; for longer intervals set when.every`,
		"0 22-6 * * *":                          `hour "22-6": the range 22-6 goes downwards: make two of it, as 22-23,0-6`,
		"0 0 * * fri-mon":                       `day of the week "fri-mon": the range fri-mon goes downwards: make two of it, as fri-6,0-mon`,
		"*-5 * * * *":                           `minute "*-5": *-5 is no range: these have a value at either end`,
		"1-2-3 * * * *":                         `minute "1-2-3": "2-3" is neither "*" nor a value: these are 0 to 59`,
		"1,,2 * * * *":                          `minute "1,,2": an element of the list is empty`,
		", * * * *":                             `minute ",": an element of the list is empty`,
		"-1 * * * *":                            `minute "-1": "" is neither "*" nor a value: these are 0 to 59`,
		"+1 * * * *":                            `minute "+1": "+1" is neither "*" nor a value: these are 0 to 59`,
		"18446744073709551617 * * * *":          `minute "18446744073709551617": "18446744073709551617" is neither "*" nor a value: these are 0 to 59`,
		"0 0 31 2 *":                            `there is no such date: day 31 of month 2`,
		"0 0 31 4,6,sep,11 ?":                   `there is no such date: day 31 of month 4,6,sep,11`,
		"0 0 30-31 2 */2":                       `there is no such date: day 30-31 of month 2`,
		"0 2 * * *\n":                           `character 10, "\n", is not allowed: fields consist of digits, names, "*", "/", "-" and ","`,
		"0\x002 * * *":                          `character 2, "\x00", is not allowed: fields consist of digits, names, "*", "/", "-" and ","`,
		"0 ２ * * *":                             `character 3, "\xef", is not allowed: fields consist of digits, names, "*", "/", "-" and ","`,
		strings.Repeat("1,", 250) + "1 * * * *": `it has 509 bytes, the limit is 500`,
	} {
		p := Policy{When: When{Cron: cron}}
		_, err := p.Trigger()
		if want := "when.cron " + quoted(cron) + ": " + want; err == nil || err.Error() != want {
			t.Errorf("%v\nwant %s", err, want)
		}
	}
}

func TestSaveSchedule(t *testing.T) {
	for pattern, want := range map[string]string{
		"23:45": "23:45, 23:45",
		"*:15":  "00:15, 01:15",
		"*:*":   "00:01, 00:02",
		"**:**": "00:01, 00:02",
		"5:30":  "05:30, 05:30",
		"1*:00": "10:00, 11:00",
		"?3:59": "03:59, 13:59, 23:59, 03:59",
		"2?:00": "20:00, 21:00, 22:00, 23:00, 20:00",
		"*:*5":  "00:05, 00:15",
		"*:5":   "00:05, 01:05",
	} {
		p := Policy{When: When{SaveSchedule: pattern}}
		trigger, err := p.Trigger()
		if err != nil {
			t.Errorf("%q: %v", pattern, err)
			continue
		}
		at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		var got []string
		for range strings.Count(want, ",") + 1 {
			at = trigger.Next(at)
			got = append(got, at.Format("15:04"))
		}
		if got := strings.Join(got, ", "); got != want {
			t.Errorf("%q is due %s, want %s", pattern, got, want)
		}
	}
	for _, pattern := range []string{":", "23:", ":45", "2345", "023:45", "23:045", "a:15", "24:00", "?:00", "3?:00", "*:6?", "23:45:00", "[0-2]:00", "23 :45"} {
		p := Policy{When: When{SaveSchedule: pattern}}
		if _, err := p.Trigger(); err == nil {
			t.Errorf("%q is taken", pattern)
		}
	}
}

// FuzzCron gives the parser anything: it takes or refuses it, and what it takes is due in order, at whole minutes that are in the fields.
func FuzzCron(f *testing.F) {
	for _, s := range []string{
		"TZ=0", "CRON_TZ=", "@every -1s", "*/5 0-23/2 1,15 jan-dec mon-fri", "0 0 29 2 7", "0 0 31 2 *", "@weekly", "1,,2 * * * *", ", , , , ,", "*-5 * * * *", "7-7/7 7 7 7 7",
		"0 0 ? * ?", "59 23 31 12 6",
	} {
		f.Add(s, int64(1_700_000_000))
	}
	berlin := location(f, "Europe/Berlin")
	f.Fuzz(func(t *testing.T, s string, from int64) {
		w := When{Cron: s}
		trigger, err := w.trigger(berlin)
		if err != nil {
			if s != "" && !strings.HasPrefix(err.Error(), "when.cron "+quoted(s)+": ") {
				t.Errorf("the error doesn't name the field: %v", err)
			}
			return
		}
		c := trigger.(*calendar)
		at := time.Unix(from%(1<<36), 0)
		for range 5 {
			next := trigger.Next(at)
			if next.IsZero() {
				if at.Year() < 9900 {
					t.Fatalf("%q is never due after %s", s, at)
				}
				return
			}
			if !next.After(at) || next.Nanosecond() != 0 {
				t.Fatalf("%q after %s is due at %s", s, at, next)
			}
			// A due time is in the fields unless clocks were set forward at that very moment.
			local := next.In(berlin)
			start, _ := local.ZoneBounds()
			in := local.Second() == 0 && c.minutes[local.Hour()]>>local.Minute()&1 != 0 && c.months>>local.Month()&1 != 0
			if !in && !start.Equal(next) {
				t.Fatalf("%q is due at %s", s, local)
			}
			at = next
		}
		if d, _ := nominal(trigger); d < time.Minute {
			t.Fatalf("%q: shortest distance is %s", s, d)
		}
	})
}
