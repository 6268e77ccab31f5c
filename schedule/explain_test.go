package schedule

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/catalog/retention"
)

// TestExplain has what a person reads about every way in which clocks and schedules meet.
func TestExplain(t *testing.T) {
	for name, test := range map[string]struct {
		when   When
		zone   string
		window time.Duration
		now    string // UTC
		want   []string
	}{
		"a daily backup in UTC": {When{Daily: []string{"23:45"}}, "", time.Hour, "2026-10-03 12:00", []string{
			"Sat 2026-10-03 23:45 UTC, starts at 2026-10-04 00:00:36, until 2026-10-04 00:45 at the latest.",
			"Sun 2026-10-04 23:45 UTC, starts at 2026-10-05 00:00:36, until 2026-10-05 00:45 at the latest."}},
		"a zone without letters": {When{Daily: []string{"02:00"}}, "Asia/Tehran", 0, "2026-10-03 12:00", []string{
			"Sun 2026-10-04 02:00 (+03:30, 2026-10-03 22:30 UTC), until 02:15 at the latest."}},
		"a time in the gap": {When{Daily: []string{"02:30"}}, "Europe/Berlin", 2 * time.Hour, "2026-03-28 00:00", []string{
			"Sat 2026-03-28 02:30 CET (+01:00, 01:30 UTC), starts at 03:01:12, until 04:30 at the latest.",
			"Sun 2026-03-29 03:00 CEST (+02:00, 01:00 UTC), starts at 03:31:12, until 05:00 at the latest. 02:30 does not exist on that day: clocks go forward from 02:00 to 03:00; it is due at 03:00.",
			"Mon 2026-03-30 02:30 CEST (+02:00, 00:30 UTC), starts at 03:01:12, until 04:30 at the latest."}},
		"two times in the gap": {When{Cron: "0,30 2 * * *"}, "America/New_York", 0, "2026-03-07 12:00", []string{
			"Sun 2026-03-08 03:00 EDT (-04:00, 07:00 UTC), until 03:15 at the latest. 02:00 and 02:30 do not exist on that day: clocks go forward from 02:00 to 03:00; they are due at 03:00.",
			"Mon 2026-03-09 02:00 EDT (-04:00, 06:00 UTC), until 02:15 at the latest."}},
		"many times in the gap": {When{Cron: "*/5 2 * * *"}, "Europe/Berlin", 0, "2026-03-28 12:00", []string{
			"Sun 2026-03-29 03:00 CEST (+02:00, 01:00 UTC), until 03:15 at the latest. 02:00, 02:05, 02:10 and more do not exist on that day: clocks go forward from 02:00 to 03:00; they are due at 03:00."}},
		"a time in the fold": {When{Daily: []string{"02:30"}}, "Europe/Berlin", 2 * time.Hour, "2026-10-24 12:00", []string{
			"Sun 2026-10-25 02:30 CEST (+02:00, 00:30 UTC), starts at 02:01:12 CET, until 03:30 CET at the latest. 02:30 comes twice: clocks go back from 03:00 to 02:00; it is due the first time only, which this is.",
			"Mon 2026-10-26 02:30 CET (+01:00, 01:30 UTC), starts at 03:01:12, until 04:30 at the latest."}},
		"half an hour forward": {When{Daily: []string{"02:15"}}, "Australia/Lord_Howe", 0, "2026-10-03 12:00", []string{
			"Sun 2026-10-04 02:30 (+11:00, 2026-10-03 15:30 UTC), until 02:45 at the latest. 02:15 does not exist on that day: clocks go forward from 02:00 to 02:30; it is due at 02:30."}},
		"half an hour back": {When{Daily: []string{"01:45"}}, "Australia/Lord_Howe", 0, "2026-04-04 12:00", []string{
			"Sun 2026-04-05 01:45 (+11:00, 2026-04-04 14:45 UTC), until 01:30 (+10:30) at the latest. 01:45 comes twice: clocks go back from 02:00 to 01:30; it is due the first time only, which this is."}},
		"every hour, back": {When{Cron: "@hourly"}, "Europe/Berlin", 0, "2026-10-24 23:30", []string{
			"Sun 2026-10-25 02:00 CEST (+02:00, 00:00 UTC), until 02:15 at the latest. 02:00 comes twice: clocks go back from 03:00 to 02:00; it is due both times, and this is the first.",
			"Sun 2026-10-25 02:00 CET (+01:00, 01:00 UTC), until 02:15 at the latest. 02:00 comes twice: clocks go back from 03:00 to 02:00; it is due both times, and this is the second.",
			"Sun 2026-10-25 03:00 CET (+01:00, 02:00 UTC), until 03:15 at the latest."}},
		"every hour, forward": {When{Cron: "30 * * * *"}, "Europe/Berlin", 0, "2026-03-29 00:30", []string{
			"Sun 2026-03-29 03:30 CEST (+02:00, 01:30 UTC), until 03:45 at the latest. 02:30 does not exist on that day: clocks go forward from 02:00 to 03:00; it is not due.",
			"Sun 2026-03-29 04:30 CEST (+02:00, 02:30 UTC), until 04:45 at the latest."}},
		"clocks go forward in the window": {When{Daily: []string{"01:30"}}, "Europe/Berlin", 2 * time.Hour, "2026-03-28 12:00", []string{
			"Sun 2026-03-29 01:30 CET (+01:00, 00:30 UTC), starts at 03:01:12 CEST, until 04:30 CEST at the latest. Clocks go forward from 02:00 to 03:00 before the window ends, which lasts 2h all the same."}},
		"a day that is left out": {When{Daily: []string{"02:15", "23:00"}}, "Pacific/Apia", 3 * time.Hour, "2011-12-30 09:30", []string{
			"Sat 2011-12-31 00:00 (+14:00, 2011-12-30 10:00 UTC), starts at 00:46:49, until 02:15 at the latest. 2011-12-30 02:15 and 2011-12-30 23:00 do not exist: clocks go forward from 2011-12-30 00:00 to 2011-12-31 00:00; they are due at 00:00. The window ends after 2h15m, when the next backup is due.",
			"Sat 2011-12-31 02:15 (+14:00, 2011-12-30 12:15 UTC), starts at 03:01:49, until 05:15 at the latest."}},
		"every": {When{Every: 36 * time.Hour}, "Asia/Seoul", 0, "2026-11-27 00:00", []string{
			"Sat 2026-11-28 21:00 KST (+09:00, 12:00 UTC), until 21:15 at the latest.",
			"Mon 2026-11-30 09:00 KST (+09:00, 00:00 UTC), until 09:15 at the latest."}},
	} {
		now, err := time.Parse("2006-01-02 15:04", test.now)
		if err != nil {
			t.Fatal(err)
		}
		p := &Policy{ID: "nightly", DataStore: "orders", When: test.when, TimeZone: test.zone, Window: test.window}
		list, err := Explain(p, now, len(test.want), Limits{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for i, e := range list {
			if e.String() != test.want[i] {
				t.Errorf("%s:\n%s\nwant\n%s", name, e, test.want[i])
			}
		}
		if len(list) != len(test.want) {
			t.Errorf("%s: %d due times, want %d", name, len(list), len(test.want))
		}
	}
}

func TestExplainJSON(t *testing.T) {
	p := &Policy{ID: "nightly", DataStore: "orders", When: When{Daily: []string{"02:30"}}, TimeZone: "Europe/Berlin", Window: 2 * time.Hour}
	list, err := Explain(p, time.Date(2026, 10, 24, 12, 0, 0, 0, time.UTC), 1, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(list[0])
	if err != nil {
		t.Fatal(err)
	}
	want := `{"due":{"utc":"2026-10-25T00:30:00Z","wall":"2026-10-25 02:30:00","abbreviation":"CEST","offset":"+02:00"},` +
		`"start":{"utc":"2026-10-25T01:01:12Z","wall":"2026-10-25 02:01:12","abbreviation":"CET","offset":"+01:00"},` +
		`"end":{"utc":"2026-10-25T02:30:00Z","wall":"2026-10-25 03:30:00","abbreviation":"CET","offset":"+01:00"},` +
		`"zone":"Europe/Berlin",` +
		`"notes":["02:30 comes twice: clocks go back from 03:00 to 02:00; it is due the first time only, which this is"],` +
		`"text":"Sun 2026-10-25 02:30 CEST (+02:00, 00:30 UTC), starts at 02:01:12 CET, until 03:30 CET at the latest. 02:30 comes twice: clocks go back from 03:00 to 02:00; it is due the first time only, which this is."}`
	if string(got) != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

func TestExplainErrors(t *testing.T) {
	p := valid()
	for _, n := range []int{0, -1, MaxExplain + 1} {
		if _, err := Explain(&p, time.Time{}, n, Limits{}); err == nil || !strings.HasSuffix(err.Error(), "it must be 1 to 1000") {
			t.Errorf("%d: %v", n, err)
		}
	}
	p.Retries = 11
	if _, err := Explain(&p, time.Time{}, 1, Limits{}); err == nil || err.Error() != `schedule: policy "nightly": retries is 11: it must be from 0 to 10` {
		t.Error(err)
	}
	p = Policy{ID: "last", DataStore: "d", When: When{Cron: "0 0 1 1 *"}}
	list, err := Explain(&p, time.Date(9997, 6, 1, 0, 0, 0, 0, time.UTC), 5, Limits{})
	if err != nil || len(list) != 2 {
		t.Errorf("%d of the last two due times there are, %v", len(list), err)
	}
}

func TestWarnings(t *testing.T) {
	month := retention.Rules{Days: 30}
	for _, test := range []struct {
		p    Policy
		want []string
	}{
		{Policy{Enabled: true, When: When{Daily: []string{"02:30"}}, Retention: month}, nil},
		{Policy{Enabled: true, When: When{Cron: "@hourly"}, Retention: month}, nil},
		{Policy{When: When{Daily: []string{"02:30"}}, Retention: month}, []string{"the policy is not enabled: nothing is due until it is"}},
		{Policy{Enabled: true, When: When{Daily: []string{"02:30"}}}, []string{"its retention is empty: every backup is kept for ever, about 365 of each year"}},
		{Policy{Enabled: true, When: When{Cron: "0 0 29 2 *"}}, []string{
			`when.cron "0 0 29 2 *" is not due in months that have no day 29`, "its retention is empty: every backup is kept for ever, about 1 of each year"}},
		{Policy{Enabled: true, When: When{Cron: "* 3 * * *"}, Retention: month}, []string{`when.cron "* 3 * * *" is due 60 times a day; for once an hour the minute has to be a number`}},
		{Policy{Enabled: true, When: When{Cron: "*/30 * * * *"}, Retention: month}, []string{`when.cron "*/30 * * * *" is due 48 times a day`}},
		{Policy{Enabled: true, When: When{Every: 30 * time.Minute}, Retention: month}, []string{`when.every 30m is due 48 times a day`}},
		{Policy{Enabled: true, When: When{Cron: "0 0 1 * 1"}, Retention: month}, []string{
			`when.cron "0 0 1 * 1" is due on those days of the month and on those days of the week: if both are restricted, crontab(5) takes one of them for enough`}},
		{Policy{Enabled: true, When: When{Cron: "0 0 31 * *"}, Retention: retention.Rules{Monthly: 12}}, []string{`when.cron "0 0 31 * *" is not due in months that have no day 31`}},
		{Policy{Enabled: true, When: When{Cron: "0 0 */31 * *"}, Retention: month}, nil},
		{Policy{Enabled: true, When: When{Cron: "@weekly"}, Retention: retention.Rules{Days: 3}}, []string{
			`retention.days is 3, and backups are due 168h apart: only the newest one is kept`}},
		{Policy{Enabled: true, When: When{Cron: "@weekly"}, Retention: retention.Rules{Days: 3, Count: 4}}, nil},
		{Policy{Enabled: true, When: When{Cron: "@daily"}, Retention: retention.Rules{Count: 1}}, []string{
			"retention.count is 1: only the newest backup is kept, so that a damage that is found after it can't be undone"}},
		{Policy{Enabled: true, When: When{Cron: "@hourly"}, Retention: retention.Rules{Days: 730}}, []string{"its retention keeps about 17520 backups at a time"}},
		{Policy{Enabled: true, When: When{Weekly: &Weekly{Days: []time.Weekday{1}}}, Retention: retention.Rules{Days: 365}}, nil},
	} {
		if got := test.p.Warnings(); !slices.Equal(got, test.want) {
			t.Errorf("%s: %q\nwant %q", test.p.When.text(), got, test.want)
		}
	}
}
