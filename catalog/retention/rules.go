package retention

import (
	"fmt"
	"strings"
	"time"

	"github.com/amberkv/amber/catalog"
)

// Validate returns nil for rules that a policy can have where backups may be kept for maxDays days; 0 means DefaultMaxDays. Of hours, days,
// weeks, months and years there may be as many as begin in that time. The error names the field, its value and the limit.
func (r Rules) Validate(maxDays int) error {
	if maxDays <= 0 {
		maxDays = DefaultMaxDays
	}
	maxDays = min(maxDays, mostDays)
	for _, f := range []struct {
		name         string
		value, limit int
		unit         string
	}{
		{"Days", r.Days, maxDays, "day"},
		{"Count", r.Count, MaxCount, "backup"},
		{"Hourly", r.Hourly, maxDays * 24, "hour"},
		{"Daily", r.Daily, maxDays, "day"},
		{"Weekly", r.Weekly, (maxDays + 6) / 7, "week"},
		{"Monthly", r.Monthly, (maxDays*12 + 364) / 365, "month"},
		{"Yearly", r.Yearly, (maxDays + 364) / 365, "year"},
	} {
		if f.value < 0 {
			return fmt.Errorf("retention: Rules.%s is %d, it can't be negative: use 0 to %s, 0 for no such rule", f.name, f.value, count(f.limit, f.unit))
		}
		if f.value > f.limit {
			why := ""
			if f.name != "Count" {
				why = fmt.Sprintf(", for backups may be kept for %d days", maxDays)
			}
			return fmt.Errorf("retention: Rules.%s is %d, the limit is %s%s", f.name, f.value, count(f.limit, f.unit), why)
		}
	}
	if r.FallPercent < -1 || r.FallPercent > 100 {
		return fmt.Errorf("retention: Rules.FallPercent is %d, it has to be 1 to 100 percent, 0 for %d or -1 for no such limit", r.FallPercent, DefaultFall)
	}
	return nil
}

// mostDays keeps a number of days from overflowing a time.Duration.
const mostDays = 100_000

// Empty tells whether r says nothing about how long backups are kept.
func (r Rules) Empty() bool {
	return r.Days <= 0 && r.Count <= 0 && r.Hourly <= 0 && r.Daily <= 0 && r.Weekly <= 0 && r.Monthly <= 0 && r.Yearly <= 0
}

// fall returns the percentage of FallPercent, false if there is no limit.
func (r Rules) fall() (int, bool) {
	switch {
	case r.FallPercent == 0:
		return DefaultFall, true
	case r.FallPercent < 0 || r.FallPercent > 100:
		return 0, false
	}
	return r.FallPercent, true
}

// at is the time of a backup in its policy's calendar.
func at(b *catalog.Backup) time.Time {
	if b.DueTime.IsZero() || b.DueTime.After(b.CreatedAt) {
		return b.CreatedAt
	}
	return b.DueTime
}

// judge says of the ready backups of a policy, newest first, what its rules make of them.
func (r Rules) judge(backups []*catalog.Backup, loc *time.Location) []Verdict {
	verdicts := make([]Verdict, len(backups))
	if r.Empty() {
		for i := range verdicts {
			verdicts[i].Reasons = []string{"its policy says nothing about how long backups are kept"}
		}
		return verdicts
	}
	if loc == nil {
		loc = time.UTC
	}
	periods := r.periods()
	for i, b := range backups {
		v := &verdicts[i]
		age := at(backups[0]).Sub(at(b))
		if r.Days > 0 && age <= time.Duration(min(r.Days, mostDays))*24*time.Hour {
			v.Reasons = append(v.Reasons, "at most "+count(r.Days, "day")+" older than its policy's newest")
		}
		if i < r.Count {
			v.Reasons = append(v.Reasons, oneOf(r.Count))
		}
		local := at(b).In(loc)
		for p := range periods {
			if periods[p].last(local) {
				v.Reasons = append(v.Reasons, "the last of the "+periods[p].which(local))
			}
		}
		if len(v.Reasons) == 0 {
			v.Delete = true
			v.Reasons = []string{r.over(age, periods)}
		}
	}
	return verdicts
}

// over says why no rule keeps a backup.
func (r Rules) over(age time.Duration, periods []period) string {
	var why []string
	if r.Days > 0 {
		why = append(why, long(age)+" older than its policy's newest, the rule is "+count(r.Days, "day"))
	}
	if r.Count > 0 {
		why = append(why, "not "+oneOf(r.Count))
	}
	for _, p := range periods {
		if p.n == 1 {
			why = append(why, "not the last of the newest "+p.name)
		} else {
			why = append(why, fmt.Sprintf("not the last of one of the newest %d %ss", p.n, p.name))
		}
	}
	return strings.Join(why, "; ")
}

// A period is a rule of the calendar at work.
type period struct {
	name   string
	n      int
	key    func(local time.Time) [2]int // which one a time is in
	layout string                       // of time.Format, for its name
	seen   map[[2]int]bool
}

// periods returns the rules of the calendar that r has.
func (r Rules) periods() []period {
	var set []period
	for _, p := range [...]period{
		{name: "hour", n: r.Hourly, key: hour, layout: "2006-01-02 15:00 -0700"},
		{name: "day", n: r.Daily, key: day, layout: "2006-01-02"},
		{name: "week", n: r.Weekly, key: week, layout: "of 2006-01-02"},
		{name: "month", n: r.Monthly, key: month, layout: "2006-01"},
		{name: "year", n: r.Yearly, key: year, layout: "2006"},
	} {
		if p.n > 0 {
			p.seen = map[[2]int]bool{}
			set = append(set, p)
		}
	}
	return set
}

// last tells whether the backup of a time is the last of one of the newest periods. It is asked for each backup, newest first. Where clocks
// are set back past midnight the days come in no order, so all that were seen are known.
func (p *period) last(local time.Time) bool {
	if len(p.seen) >= p.n {
		return false
	}
	key := p.key(local)
	if p.seen[key] {
		return false
	}
	p.seen[key] = true
	return true
}

// which names the period that a time is in. A week has the name of its Monday.
func (p *period) which(local time.Time) string {
	if p.name == "week" { // by UTC, for in some zone that day may be missing
		local = time.Date(local.Year(), local.Month(), local.Day()-(int(local.Weekday())+6)%7, 0, 0, 0, 0, time.UTC)
	}
	return p.name + " " + local.Format(p.layout)
}

func hour(t time.Time) [2]int {
	_, offset := t.Zone()
	return [2]int{(t.Year()*1000+t.YearDay())*24 + t.Hour(), offset}
}

func day(t time.Time) [2]int { return [2]int{t.Year(), t.YearDay()} }

func week(t time.Time) [2]int {
	y, w := t.ISOWeek()
	return [2]int{y, w}
}

func month(t time.Time) [2]int { return [2]int{t.Year(), int(t.Month())} }

func year(t time.Time) [2]int { return [2]int{t.Year(), 0} }
