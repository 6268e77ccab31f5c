package retention_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/retention"
)

// begin is a Monday.
var begin = time.Date(2026, 11, 23, 2, 0, 0, 0, time.UTC)

// made returns a ready backup with 1000 keys that began at a time.
func made(at time.Time, change ...func(b *catalog.Backup)) *catalog.Backup {
	b := &catalog.Backup{ID: catalog.ID(at.UTC().Format("20060102T150405.000Z") + "-aaaa"), DataStore: "orders", State: catalog.StateReady,
		Kind: catalog.KindManual, CreatedAt: at, ReadyAt: at.Add(time.Second), Keys: 1000}
	for _, c := range change {
		c(b)
	}
	return b
}

// by makes a backup one of a policy.
func by(policy string) func(b *catalog.Backup) {
	return func(b *catalog.Backup) { b.Kind, b.Policy = catalog.KindAutomatic, policy }
}

func keys(n int64) func(b *catalog.Backup) { return func(b *catalog.Backup) { b.Keys = n } }

func until(t time.Time) func(b *catalog.Backup) {
	return func(b *catalog.Backup) { b.DeleteAfter = t }
}

func pinned(b *catalog.Backup) { b.Pinned = true }

func kind(k catalog.Kind) func(b *catalog.Backup) {
	return func(b *catalog.Backup) { b.Kind = k }
}

// daily are n backups of a policy, a day apart, of which the newest began at a time.
func daily(policy string, n int, newest time.Time) []*catalog.Backup {
	var all []*catalog.Backup
	for i := range n {
		all = append(all, made(newest.AddDate(0, 0, -i), by(policy)))
	}
	return all
}

// rules are the promises of one policy, "p".
func rules(r retention.Rules) retention.Promises {
	return retention.Promises{Policies: map[string]retention.PolicyRules{"p": {Rules: r}}}
}

// kept are the ages, in days, of what a plan keeps.
func kept(res retention.Result) []int {
	var ages []int
	for _, v := range res.Verdicts {
		if !v.Delete {
			ages = append(ages, int(res.Verdicts[0].Backup.CreatedAt.Sub(v.Backup.CreatedAt)/(24*time.Hour)))
		}
	}
	return ages
}

func TestRules(t *testing.T) {
	for _, c := range []struct {
		rules retention.Rules
		kept  []int
		why   string // of the newest
		over  string // of the oldest
	}{
		{retention.Rules{Days: 3}, []int{0, 1, 2, 3}, "at most 3 days older than its policy's newest", "39 days older than its policy's newest, the rule is 3 days"},
		{retention.Rules{Days: 1}, []int{0, 1}, "at most 1 day older than its policy's newest", "39 days older than its policy's newest, the rule is 1 day"},
		{retention.Rules{Count: 3}, []int{0, 1, 2}, "one of the newest 3 of its policy", "not one of the newest 3 of its policy"},
		{retention.Rules{Count: 1}, []int{0}, "the newest one of its policy", "not the newest one of its policy"},
		{retention.Rules{Hourly: 2}, []int{0, 1}, "the last of the hour 2026-11-23 02:00 +0000", "not the last of one of the newest 2 hours"},
		{retention.Rules{Daily: 2}, []int{0, 1}, "the last of the day 2026-11-23", "not the last of one of the newest 2 days"},
		{retention.Rules{Weekly: 3}, []int{0, 1, 8}, "the last of the week of 2026-11-23", "not the last of one of the newest 3 weeks"},
		{retention.Rules{Monthly: 2}, []int{0, 23}, "the last of the month 2026-11", "not the last of one of the newest 2 months"},
		{retention.Rules{Yearly: 1}, []int{0}, "the last of the year 2026", "not the last of the newest year"},
		{retention.Rules{Days: 2, Weekly: 2, Monthly: 2}, []int{0, 1, 2, 23},
			"at most 2 days older than its policy's newest|the last of the week of 2026-11-23|the last of the month 2026-11",
			"39 days older than its policy's newest, the rule is 2 days; not the last of one of the newest 2 weeks; not the last of one of the newest 2 months"},
	} {
		t.Run(fmt.Sprintf("%+v", c.rules), func(t *testing.T) {
			res := retention.Plan(daily("p", 40, begin), rules(c.rules), begin.Add(time.Hour))
			if got := kept(res); !slices.Equal(got, c.kept) || res.Held != "" {
				t.Errorf("kept are those of %v days, want %v; held: %q", got, c.kept, res.Held)
			}
			first, last := res.Verdicts[0], res.Verdicts[39]
			if got := strings.Join(first.Reasons, "|"); got != "the newest good one of its data store|"+c.why {
				t.Errorf("the newest is kept because it is %q", got)
			}
			if got := strings.Join(last.Reasons, "|"); got != c.over || !last.Delete {
				t.Errorf("the oldest goes (%v) because it is %q", last.Delete, got)
			}
		})
	}
}

func TestValidate(t *testing.T) {
	for _, c := range []struct {
		rules retention.Rules
		max   int
		want  string // "" if they are right
	}{
		{retention.Rules{}, 0, ""},
		{retention.Rules{Days: 730, Count: 10000, Hourly: 17520, Daily: 730, Weekly: 105, Monthly: 24, Yearly: 2, FallPercent: 100}, 0, ""},
		{retention.Rules{Days: 731}, 0, "Rules.Days is 731, the limit is 730 days"},
		{retention.Rules{Days: 731}, 731, ""},
		{retention.Rules{Days: 8}, 7, "Rules.Days is 8, the limit is 7 days"},
		{retention.Rules{Days: -1}, 0, "Rules.Days is -1, it can't be negative: use 0 to 730 days"},
		{retention.Rules{Count: 10001}, 0, "Rules.Count is 10001, the limit is 10000 backups"},
		{retention.Rules{Count: -5}, 0, "Rules.Count is -5"},
		{retention.Rules{Hourly: 169}, 7, "Rules.Hourly is 169, the limit is 168 hours, for backups may be kept for 7 days"},
		{retention.Rules{Hourly: -1}, 7, "Rules.Hourly is -1"},
		{retention.Rules{Daily: 8}, 7, "Rules.Daily is 8, the limit is 7 days"},
		{retention.Rules{Daily: math.MinInt}, 7, "Rules.Daily is -9223372036854775808"},
		{retention.Rules{Weekly: 2}, 7, "Rules.Weekly is 2, the limit is 1 week"},
		{retention.Rules{Weekly: 2}, 8, ""},
		{retention.Rules{Weekly: -1}, 8, "Rules.Weekly is -1"},
		{retention.Rules{Monthly: 25}, 0, "Rules.Monthly is 25, the limit is 24 months"},
		{retention.Rules{Monthly: -1}, 0, "Rules.Monthly is -1"},
		{retention.Rules{Yearly: 3}, 0, "Rules.Yearly is 3, the limit is 2 years"},
		{retention.Rules{Yearly: 10}, 3650, ""},
		{retention.Rules{Yearly: -1}, 0, "Rules.Yearly is -1"},
		{retention.Rules{Days: math.MaxInt}, math.MaxInt, "Rules.Days is 9223372036854775807, the limit is 100000 days"},
		{retention.Rules{FallPercent: -1}, 0, ""},
		{retention.Rules{FallPercent: -2}, 0, "Rules.FallPercent is -2, it has to be 1 to 100"},
		{retention.Rules{FallPercent: 101}, 0, "Rules.FallPercent is 101, it has to be 1 to 100"},
	} {
		err := c.rules.Validate(c.max)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v.Validate(%d): %v, want %q", c.rules, c.max, err, c.want)
		}
	}
}
