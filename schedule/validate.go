package schedule

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/amberkv/amber/catalog"
)

const (
	defaultMinInterval = time.Minute // where a host sets no limit
	minWindow          = time.Minute
)

// Validate returns nil for a policy that a Scheduler takes, and else all that is wrong with it: each error names the field, as in JSON, its value and the
// limit.
func (p *Policy) Validate(l Limits) error {
	if l.MinInterval == 0 {
		l.MinInterval = defaultMinInterval
	}
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if err := catalog.ValidName(p.ID); err != nil {
		fail("id %s: %w", quoted(p.ID), err)
	}
	if err := catalog.ValidName(p.DataStore); err != nil {
		fail("dataStore %s: %w", quoted(p.DataStore), err)
	}
	if err := validZone(p.TimeZone); err != nil {
		errs = append(errs, err)
	}
	if p.Retries < 0 || p.Retries > MaxRetries {
		fail("retries is %d: it must be from 0 to %d", p.Retries, MaxRetries)
	}
	if p.CatchUp != "" && p.CatchUp != CatchUpLatest && p.CatchUp != CatchUpNone {
		fail("catchUp is %s: it must be %q, %q, or empty, which is %[2]q", quoted(string(p.CatchUp)), CatchUpLatest, CatchUpNone)
	}
	switch {
	case p.Window < 0 || p.Window > 0 && p.Window < minWindow:
		fail("window is %s: it must be 0 or at least 1m", lengthText(p.Window))
	case p.Window%time.Second != 0:
		fail("window is %s: it must be of whole seconds", lengthText(p.Window))
	}
	distance := p.validDistance(l, fail)
	if err := p.Retention.Validate(l.MaxRetentionDays); err != nil {
		errs = append(errs, err)
	}
	if p.Store != "" {
		if err := catalog.ValidName(p.Store); err != nil {
			fail("store %s: %w", quoted(p.Store), err)
		}
	}
	if p.BackupName != "" {
		if err := validTemplate(p.BackupName, distance); err != nil {
			fail("backupName %s: %w", quoted(p.BackupName), err)
		}
	}
	if err := catalog.ValidLabels(p.Labels); err != nil {
		fail("labels: %w", err)
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("policy %s: %w", quoted(p.ID), errors.Join(errs...))
}

// validDistance looks at When, and at how close its due times are. It returns that, or 0 if there is no knowing.
func (p *Policy) validDistance(l Limits, fail func(string, ...any)) time.Duration {
	t, err := p.When.trigger(time.UTC)
	if err != nil {
		fail("%w", err)
		return 0
	}
	d, between := nominal(t)
	if d < l.MinInterval {
		fail("%s is due %s, which are %s apart: the limit is %s", p.When.text(), between, lengthText(d), lengthText(l.MinInterval))
	}
	if p.Window > d {
		fail("window is %s: %s is due %s, which are %s apart, and windows may not overlap", lengthText(p.Window), p.When.text(), between, lengthText(d))
	}
	return d
}

// nominal returns the shortest distance between due times of a trigger, as a clock has it that is never changed, and two that are so close.
func nominal(t Trigger) (time.Duration, string) {
	c, ok := t.(*calendar)
	if !ok {
		first := t.Next(time.Unix(0, 0).UTC())
		second := t.Next(first)
		return second.Sub(first), fmt.Sprintf("at %s and %s", first.Format("15:04"), second.Format("15:04"))
	}
	closest, from, to := 0, 0, 0
	first, _ := c.minuteFrom(0)
	last := first
	for {
		if last == 24*60-1 {
			break
		}
		m, ok := c.minuteFrom(last + 1)
		if !ok {
			break
		}
		if closest == 0 || m-last < closest {
			closest, from, to = m-last, last, m
		}
		last = m
	}
	days := c.closestDates()
	if night := days*24*60 - last + first; closest == 0 || night < closest {
		closest, from, to = night, last, first
		after := "of the next day"
		if days > 1 {
			after = fmt.Sprintf("%d days later", days)
		}
		return time.Duration(closest) * time.Minute, fmt.Sprintf("at %s and at %s %s", clockText(from), clockText(to), after)
	}
	return time.Duration(closest) * time.Minute, fmt.Sprintf("at %s and at %s", clockText(from), clockText(to))
}

// closestDates returns the least number of days between two dates of the calendar. It looks at 408 years: after 400 all repeats, and within 8 more there
// is a further leap day, unless a weekday has to fall on it, which then is at most 40 years away and never the closest.
func (c *calendar) closestDates() int {
	closest, before := 1<<31, -1<<31
	day := 0
	for year := 2000; year < 2408 && closest > 1; year++ {
		for month := 1; month <= 12; month++ {
			mask := c.dates(year, month, int64(day)+10957) // 2000-01-01 is that many days after 1970
			for d := 1; mask>>d != 0 && d < 32; d++ {
				if mask>>d&1 != 0 {
					closest, before = min(closest, day+d-before), day+d
				}
			}
			day += monthLength(year, month)
		}
	}
	return closest
}

func clockText(minute int) string { return fmt.Sprintf("%02d:%02d", minute/60, minute%60) }

// lengthText is a duration without the zeros at its end: "1h30m".
func lengthText(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Location returns the policy's time zone.
func (p *Policy) Location() (*time.Location, error) {
	if err := validZone(p.TimeZone); err != nil {
		return nil, err
	}
	return time.LoadLocation(p.TimeZone)
}

// maxZoneLen is longer than the name of any zone, which has 32 bytes.
const maxZoneLen = 64

func validZone(name string) error { return zoneError(name, time.LoadLocation) }

func zoneError(name string, load func(string) (*time.Location, error)) error {
	if name == "" {
		return nil // UTC
	}
	bad := func(format string, args ...any) error {
		return fmt.Errorf("timeZone %s: %w", quoted(name), fmt.Errorf(format, args...))
	}
	if len(name) > maxZoneLen {
		return bad("it has %d bytes, the limit is %d", len(name), maxZoneLen)
	}
	for i, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("/_+-", rune(c)) {
			return bad("character %d is in no zone's name: these are like Europe/Berlin", i+1)
		}
	}
	// Directories and files that are beside the zones on some machines. Those of "right" count leap seconds, which Unix time doesn't.
	if name == "Local" || name == "localtime" || name == "posixrules" || name == "Factory" || strings.HasPrefix(name, "posix/") || strings.HasPrefix(name, "right/") {
		return bad("a policy needs a zone that is the same on every machine, like Europe/Berlin; empty is UTC")
	}
	if _, err := load(name); err == nil {
		return nil
	}
	if _, err := load("Europe/Berlin"); err != nil {
		return bad(`there is no database of time zones on this machine: install it (on Debian, the package tzdata), or link one into the program: import _ "time/tzdata"`)
	}
	return bad("the IANA's database on this machine has no such zone: names are like Europe/Berlin, letter by letter; if it is new, the machine's tzdata may be too old")
}
