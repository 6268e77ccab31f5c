package schedule

import (
	"fmt"
	"math/bits"
	"time"
)

const (
	manyADay = 24   // due times of a day that look like a mistake beyond that
	manyKept = 5000 // backups likewise
)

// Warnings returns what is allowed about a valid policy but looks like a mistake, each as a sentence without a full stop; none if nothing does.
func (p *Policy) Warnings() []string {
	t, err := p.When.trigger(time.UTC)
	if err != nil {
		return nil
	}
	var out []string
	warn := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if !p.Enabled {
		warn("the policy is not enabled: nothing is due until it is")
	}
	perDay, days := frequency(t)
	if perDay > manyADay {
		hint := ""
		if c, ok := t.(*calendar); ok && c.wholeHour() {
			hint = "; for once an hour the minute has to be a number"
		}
		warn("%s is due %d times a day%s", p.When.text(), perDay, hint)
	}
	if c, ok := t.(*calendar); ok {
		if c.either {
			warn("%s is due on those days of the month and on those days of the week: if both are restricted, crontab(5) takes one of them for enough", p.When.text())
		} else if first := bits.TrailingZeros32(c.days); first > 28 && c.weekdays == 1<<7-1 {
			warn("%s is not due in months that have no day %d", p.When.text(), first)
		}
	}
	out = append(out, p.retentionWarnings(t, float64(perDay)*days)...)
	return out
}

// retentionWarnings are about rules that keep less or more than anybody may want, of a policy that is due so often a day on average.
func (p *Policy) retentionWarnings(t Trigger, perDay float64) []string {
	r := p.Retention
	if r.Empty() {
		return []string{fmt.Sprintf("its retention is empty: every backup is kept for ever, about %.0f of each year", max(1, perDay*365.2425))}
	}
	var out []string
	finer := r.Hourly > 0 || r.Daily > 0 || r.Weekly > 0 || r.Monthly > 0 || r.Yearly > 0
	distance, _ := nominal(t)
	switch {
	case r.Count == 1 && r.Days == 0 && !finer:
		out = append(out, "retention.count is 1: only the newest backup is kept, so that a damage that is found after it can't be undone")
	case r.Days > 0 && r.Count <= 1 && !finer && time.Duration(r.Days)*24*time.Hour < distance:
		out = append(out, fmt.Sprintf("retention.days is %d, and backups are due %s apart: only the newest one is kept", r.Days, lengthText(distance)))
	}
	if kept := max(perDay*float64(r.Days), float64(r.Count)); kept > manyKept {
		out = append(out, fmt.Sprintf("its retention keeps about %.0f backups at a time", kept))
	}
	return out
}

// wholeHour says whether there is an hour of which every minute is due.
func (c *calendar) wholeHour() bool {
	for _, mask := range c.minutes {
		if mask == 1<<60-1 {
			return true
		}
	}
	return false
}

// frequency returns how often a trigger is due on a day on which it is, and the share of days on which it is.
func frequency(t Trigger) (perDay int, days float64) {
	c, ok := t.(*calendar)
	if !ok {
		between := t.Next(time.Unix(0, 0).UTC()).Sub(time.Unix(0, 0))
		return max(1, int(24*time.Hour/between)), min(1, float64(24*time.Hour)/float64(between))
	}
	for _, mask := range c.minutes {
		perDay += bits.OnesCount64(mask)
	}
	count := 0
	first := int64(10957) // 2000-01-01
	for year := 2000; year < 2400; year++ {
		for month := 1; month <= 12; month++ {
			count += bits.OnesCount32(c.dates(year, month, first))
			first += int64(monthLength(year, month))
		}
	}
	return perDay, float64(count) / 146097
}
