package retention_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/retention"
)

// why is all that a plan says of the backup that began at a time.
func why(t *testing.T, res retention.Result, at time.Time) (deleted bool, reasons string) {
	t.Helper()
	for _, v := range res.Verdicts {
		if v.Backup.CreatedAt.Equal(at) {
			return v.Delete, strings.Join(v.Reasons, " | ")
		}
	}
	t.Fatalf("there is no verdict on the backup of %v", at)
	return false, ""
}

const day = 24 * time.Hour

func TestGuards(t *testing.T) {
	ago := func(days int) time.Time { return begin.AddDate(0, 0, -days) }
	over := until(begin.AddDate(0, 0, -1))
	adopted := func(b *catalog.Backup) { b.Parts = []catalog.Part{{Name: "part-0000.rdb", Adopted: true}} }
	backups := []*catalog.Backup{
		made(ago(2), over, adopted), made(ago(3), over, adopted), made(ago(4), over), made(ago(5), over),
		made(ago(6), over, pinned), made(ago(7), over), made(ago(8)), made(ago(9), until(begin.Add(time.Hour))), made(ago(10), over, by("")),
		made(ago(11), over, by("removed")), made(ago(12), over, kind(catalog.KindImport)), made(ago(13), kind(catalog.KindSafety)),
		made(ago(14), by("empty")), made(ago(15), by("p")), made(ago(1), func(b *catalog.Backup) { b.State = catalog.StateFailed }), nil,
	}
	res := retention.Plan(backups, retention.Promises{InUse: map[catalog.ID]string{backups[5].ID: "host:17 until noon"},
		Policies: map[string]retention.PolicyRules{"p": {Rules: retention.Rules{Days: 1}}, "empty": {}}}, begin)
	if len(res.Verdicts) != 14 || res.Held != "" {
		t.Fatalf("%d verdicts, held %q", len(res.Verdicts), res.Held)
	}
	for days, want := range map[int]string{
		2:  "the newest good one of its data store | otherwise it would go: it was to be kept until 2026-11-22T02:00:00Z",
		3:  "DELETE it was to be kept until 2026-11-22T02:00:00Z",
		4:  "the newest good one of its data store that is Amber's own: those after it are adopted | otherwise it would go: it was to",
		5:  "DELETE it was to be kept until",
		6:  "pinned | otherwise it would go: it was to be kept until",
		7:  "in use by host:17 until noon | otherwise it would go: it was",
		8:  "kept until somebody deletes it",
		9:  "kept until 2026-11-23T03:00:00Z",
		10: "DELETE it was to be kept until",
		11: "its policy removed is not there",
		12: "DELETE it was to be kept until",
		13: "kept until somebody deletes it",
		14: "its policy says nothing about how long",
		15: "at most 1 day older than its policy's newest",
	} {
		deleted, reasons := why(t, res, ago(days))
		if deleted {
			reasons = "DELETE " + reasons
		}
		if !strings.HasPrefix(reasons, want) {
			t.Errorf("%d days: %s\nwant %s", days, reasons, want)
		}
	}
	// A time that has come is over.
	res = retention.Plan([]*catalog.Backup{made(ago(1)), made(ago(2), until(begin))}, retention.Promises{}, begin)
	if deleted, _ := why(t, res, ago(2)); !deleted {
		t.Error("a backup that was to be kept until now is kept")
	}
	if res := retention.Plan(nil, retention.Promises{Distrust: "of nothing"}, begin); len(res.Verdicts) != 0 || res.Held != "" {
		t.Errorf("of no backups: %+v", res)
	}
}

func TestHeldByTheClock(t *testing.T) {
	two := daily("p", 3, begin)
	manual := func(days ...int) (all []*catalog.Backup) {
		for _, d := range days {
			all = append(all, made(begin.AddDate(0, 0, -d), until(begin.Add(-time.Minute))))
		}
		return all
	}
	for name, c := range map[string]struct {
		backups  []*catalog.Backup
		distrust string
		now      time.Time
		held     string // "" if it is not
	}{
		"right":                    {two, "", begin.Add(time.Hour), ""},
		"a little behind":          {two, "", begin.Add(-58 * time.Second), ""},
		"a minute behind":          {two, "", begin.Add(-60 * time.Second), "it says 2026-11-23T01:59:00Z, and backup 20261123T020000.000Z-aaaa was made at 2026-11-23T02:00:01Z"},
		"a year behind":            {two, "", begin.AddDate(-1, 0, 0), "was made at"},
		"none at all":              {two, "", time.Time{}, "it says 0001-01-01"},
		"told":                     {two, "the store's is another", begin.Add(time.Hour), "the clock is not to be trusted: the store's is another"},
		"a year between":           {manual(0, 400), "", begin.Add(time.Hour), ""},
		"more than that":           {manual(0, 401), "", begin.Add(time.Hour), "comes 401 days after"},
		"more, and a second later": {manual(0, 1, 402), "", begin.Add(time.Hour), ""},
		"more, a week ago":         {manual(0, 401), "", begin.Add(7 * day), ""},
		"more, nearly a week ago":  {manual(0, 401), "", begin.Add(7*day - 1), "it is believed if it is still so on 2026-11-30"},
		"more, of a policy":        {append(daily("p", 3, begin), daily("p", 2, begin.AddDate(-3, 0, 0))...), "", begin.Add(time.Hour), "of policy p comes 1094 days after"},
		"more, and nothing to let go of": {[]*catalog.Backup{made(begin), made(begin.AddDate(-10, 0, 0), pinned, until(begin)), made(begin.AddDate(-20, 0, 0))}, "",
			begin.Add(time.Hour), ""},
		"more, to what is pinned": {append(daily("p", 3, begin), made(begin.AddDate(-3, 0, 0), by("p"), pinned)), "", begin.Add(time.Hour), ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := rules(retention.Rules{Count: 1})
			p.Distrust = c.distrust
			res := retention.Plan(c.backups, p, c.now)
			if c.held == "" != (res.Held == "") || !strings.Contains(res.Held, c.held) {
				t.Errorf("held: %q, want %q", res.Held, c.held)
			}
			for _, v := range res.Verdicts {
				if c.held != "" && (v.Delete || len(v.Reasons) == 2 && !strings.HasPrefix(v.Reasons[0], "held: ") && !strings.HasPrefix(v.Reasons[0], "the newest")) {
					t.Errorf("%+v", v)
				}
			}
		})
	}
	// A clock that is ten years ahead for two days, and makes backups: those from before are there when it is right again.
	all := daily("p", 8, begin)
	p := rules(retention.Rules{Days: 7})
	for hours := range 48 {
		late := begin.AddDate(10, 0, 0).Add(time.Duration(hours) * time.Hour)
		all = append(all, made(late, by("p")))
		if out := gone(retention.Plan(all, p, late.Add(time.Minute))); len(out) > 0 {
			t.Fatalf("after %d hours %v go", hours, out)
		}
	}
	if res := retention.Plan(all, p, begin.Add(3*day)); len(gone(res)) > 0 || res.Held == "" {
		t.Errorf("when it is right again: %+v", res)
	}
}

func TestHeldByTheKeys(t *testing.T) {
	of := func(policy string, n ...int64) (all []*catalog.Backup) {
		for i, k := range n {
			all = append(all, made(begin.AddDate(0, 0, -i), by(policy), keys(k)))
		}
		return all
	}
	mine := func(k catalog.Kind, hours int, n int64) *catalog.Backup {
		return made(begin.Add(time.Duration(-hours)*time.Hour-time.Minute), kind(k), keys(n))
	}
	for name, c := range map[string]struct {
		rules    retention.Rules
		accepted time.Time
		backups  []*catalog.Backup
		held     string
	}{
		"steady":                {retention.Rules{Count: 1}, time.Time{}, of("p", 1000, 1000, 1000), ""},
		"by less":               {retention.Rules{Count: 1}, time.Time{}, of("p", 101, 1000, 1000), ""},
		"by that":               {retention.Rules{Count: 1}, time.Time{}, of("p", 100, 10, 1000, 20), "fallen by 90 %, the limit is 90 %: the newest backup of policy p, 20261123T020000.000Z-aaaa, has 100 and 20261121T020000.000Z-aaaa has 1000"},
		"to nothing":            {retention.Rules{Count: 1}, time.Time{}, of("p", 0, 1), "fallen by 100 %"},
		"from nothing":          {retention.Rules{Count: 1}, time.Time{}, of("p", 0, 0), ""},
		"and back":              {retention.Rules{Count: 1}, time.Time{}, of("p", 1000, 0, 1000), ""},
		"half":                  {retention.Rules{Count: 1, FallPercent: 50}, time.Time{}, of("p", 50, 100), "the limit is 50 %"},
		"not half":              {retention.Rules{Count: 1, FallPercent: 50}, time.Time{}, of("p", 51, 100), ""},
		"all but one":           {retention.Rules{Count: 1, FallPercent: 100}, time.Time{}, of("p", 1, 1e15), ""},
		"all":                   {retention.Rules{Count: 1, FallPercent: 100}, time.Time{}, of("p", 0, 1e15), "fallen by 100 %, the limit is 100 %"},
		"however much":          {retention.Rules{Count: 1, FallPercent: -1}, time.Time{}, of("p", 0, 1e15), ""},
		"accepted":              {retention.Rules{Count: 1, FallAccepted: begin}, time.Time{}, of("p", 0, 1000), ""},
		"accepted, not all":     {retention.Rules{Count: 1, FallAccepted: begin.AddDate(0, 0, -1)}, time.Time{}, of("p", 0, 1000, 5000), "20261122T020000.000Z-aaaa has 1000"},
		"accepted by hand":      {retention.Rules{Count: 1}, begin, of("p", 0, 1000), ""},
		"of another policy":     {retention.Rules{Count: 1}, time.Time{}, append(of("p", 1000, 1000), of("q", 0, 1000)...), "of policy q"},
		"of one that is gone":   {retention.Rules{Count: 1}, time.Time{}, append(of("p", 1000, 1000), of("removed", 0, 1000)...), ""},
		"between policies":      {retention.Rules{Count: 1}, time.Time{}, append(of("p", 10, 10), of("q", 1000, 1000)...), ""},
		"by hand":               {retention.Rules{Count: 1}, time.Time{}, append(of("p", 1000, 1000), mine(catalog.KindManual, 0, 10), mine(catalog.KindShutdown, 1, 1000)), "the newest backup, 20261123T015900.000Z-aaaa, has 10"},
		"imports":               {retention.Rules{Count: 1}, time.Time{}, append(of("p", 1000, 1000), mine(catalog.KindImport, 0, 10), mine(catalog.KindManual, 1, 1000)), ""},
		"to a copy for safety":  {retention.Rules{Count: 1}, time.Time{}, append(of("p", 10, 10), mine(catalog.KindManual, 0, 10), mine(catalog.KindSafety, 1, 1000)), ""},
		"at the same moment":    {retention.Rules{Count: 1}, time.Time{}, []*catalog.Backup{made(begin, by("p"), keys(10)), made(begin, by("p"), keys(1000), func(b *catalog.Backup) { b.ID = "20261123T020000.000Z-0000" })}, ""},
		"nothing to let go of":  {retention.Rules{Count: 9}, time.Time{}, of("p", 10, 1000), "fallen by 99 %"},
		"not of those unready":  {retention.Rules{Count: 1}, time.Time{}, append(of("p", 10, 10), made(begin.Add(-day), by("p"), func(b *catalog.Backup) { b.State = catalog.StateDeleting })), ""},
		"the empty one is also": {retention.Rules{}, time.Time{}, of("p", 0, 1000), "fallen by 100 %"},
	} {
		t.Run(name, func(t *testing.T) {
			p := retention.Promises{FallAccepted: c.accepted, Policies: map[string]retention.PolicyRules{"p": {Rules: c.rules}, "q": {Rules: c.rules}}}
			res := retention.Plan(c.backups, p, begin.Add(time.Hour))
			if c.held == "" != (res.Held == "") || !strings.Contains(res.Held, c.held) {
				t.Errorf("held: %q, want %q", res.Held, c.held)
			}
			if out := gone(res); c.held != "" && len(out) > 0 {
				t.Errorf("%v go", out)
			}
		})
	}
}

// TestDaysOfTheCalendar: days begin and end by the clocks of the policy's zone, and a backup belongs to the day on which it was due.
func TestDaysOfTheCalendar(t *testing.T) {
	at := func(s string) time.Time {
		at, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	for name, c := range map[string]struct {
		zone   string
		rules  retention.Rules
		times  []string // of the backups; "due/began" where they aren't the same
		stay   string   // a letter for each: x if it stays
		reason string   // among those of the first
	}{
		"by UTC":               {"", retention.Rules{Daily: 2}, []string{"2026-11-23T23:30:00Z", "2026-11-23T00:30:00Z", "2026-11-22T23:30:00Z"}, "x-x", "the last of the day 2026-11-23"},
		"by Berlin":            {"Europe/Berlin", retention.Rules{Daily: 2}, []string{"2026-11-23T23:30:00Z", "2026-11-23T00:30:00Z", "2026-11-22T23:30:00Z"}, "xx-", "the last of the day 2026-11-24"},
		"begun after midnight": {"", retention.Rules{Daily: 2}, []string{"2026-11-23T23:59:00Z/2026-11-24T00:01:00Z", "2026-11-23T22:00:00Z", "2026-11-22T22:00:00Z"}, "x-x", "the last of the day 2026-11-23"},
		"due later than begun": {"", retention.Rules{Daily: 2}, []string{"2026-11-24T00:01:00Z/2026-11-23T23:59:00Z", "2026-11-23T22:00:00Z", "2026-11-22T22:00:00Z"}, "x-x", "the last of the day 2026-11-23"},
		"due in another order": {"", retention.Rules{Count: 1}, []string{"2026-11-23T12:00:00Z/2026-11-23T12:01:00Z", "2026-11-22T12:00:00Z/2026-11-23T12:02:00Z", "2026-11-21T12:00:00Z"}, "xx-", "the newest one"},
		"days that were short": {"Europe/Berlin", retention.Rules{Days: 1}, []string{"2026-03-29T02:30:00+02:00", "2026-03-28T02:30:00+01:00", "2026-03-27T02:30:00+01:00"}, "xx-", "at most 1 day"},
		"days that were long":  {"Europe/Berlin", retention.Rules{Days: 1}, []string{"2026-10-25T03:30:00+01:00", "2026-10-24T03:30:00+02:00", "2026-10-23T03:30:00+02:00"}, "x--", "at most 1 day"},
		"a second too early":   {"", retention.Rules{Daily: 3}, []string{"2026-11-23T02:00:00Z", "2026-11-22T01:59:59Z", "2026-11-21T02:00:00Z"}, "xxx", "the last of the day"},
		"an hour twice":        {"Europe/Berlin", retention.Rules{Hourly: 2}, []string{"2026-10-25T01:30:00Z", "2026-10-25T00:30:00Z", "2026-10-24T23:30:00Z"}, "xx-", "the last of the hour 2026-10-25 02:00 +0100"},
		"half an hour twice":   {"Australia/Lord_Howe", retention.Rules{Hourly: 2}, []string{"2026-04-04T15:20:00Z", "2026-04-04T14:50:00Z", "2026-04-04T14:20:00Z"}, "xx-", "2026-04-05 01:00 +1030"},
		"a midnight twice":     {"America/St_Johns", retention.Rules{Daily: 2}, []string{"2010-11-07T03:00:00Z", "2010-11-07T02:30:45Z", "2010-11-07T02:29:00Z", "2010-11-06T02:00:00Z"}, "xx--", "the last of the day 2010-11-06"},
		"weeks of two years":   {"", retention.Rules{Weekly: 2}, []string{"2027-01-03T12:00:00Z", "2026-12-28T00:00:00Z", "2026-12-27T23:00:00Z"}, "x-x", "the last of the week of 2026-12-28"},
		"a leap day":           {"", retention.Rules{Monthly: 2}, []string{"2028-03-01T00:00:00Z", "2028-02-29T23:59:59Z", "2028-02-28T00:00:00Z"}, "xx-", "the last of the month 2028-03"},
		"a year's end":         {"Asia/Seoul", retention.Rules{Yearly: 2}, []string{"2026-12-31T15:00:00Z", "2026-12-31T14:59:59Z", "2026-01-01T00:00:00Z"}, "xx-", "the last of the year 2027"},
		"another year's day":   {"", retention.Rules{Daily: 2}, []string{"2026-11-23T12:00:00Z", "2025-11-23T12:00:00Z", "2024-11-23T12:00:00Z"}, "xx-", "the last of the day 2026-11-23"},
	} {
		t.Run(name, func(t *testing.T) {
			loc, err := time.LoadLocation(c.zone)
			if err != nil {
				t.Fatal(err)
			}
			var backups []*catalog.Backup
			for i, s := range c.times {
				due, began, both := strings.Cut(s, "/")
				b := made(at(due), by("p"), func(b *catalog.Backup) { b.ID = catalog.ID(fmt.Sprint(9 - i)) })
				if both {
					b.DueTime, b.CreatedAt = b.CreatedAt, at(began)
				}
				b.ReadyAt = b.CreatedAt
				backups = append(backups, b)
			}
			res := retention.Plan(backups, retention.Promises{Policies: map[string]retention.PolicyRules{"p": {Rules: c.rules, Location: loc}}}, backups[0].CreatedAt.Add(8*day))
			stay := []byte(strings.Repeat("x", len(backups)))
			for _, v := range res.Verdicts {
				i := int('9' - v.Backup.ID[0])
				if v.Delete {
					stay[i] = '-'
				}
				if reasons := strings.Join(v.Reasons, "|"); i == 0 && !strings.Contains(reasons, c.reason) {
					t.Errorf("the first stays because it is %q", reasons)
				}
			}
			if string(stay) != c.stay || res.Held != "" {
				t.Errorf("%s stay, want %s; held: %q", stay, c.stay, res.Held)
			}
		})
	}
}
