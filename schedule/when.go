package schedule

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The limits of Every.
const (
	minEvery = time.Minute
	maxEvery = 366 * 24 * time.Hour
)

// Trigger returns what says when the policy is due, by the wall clock of its time zone. All that a Trigger gives are whole seconds in UTC, each
// later than the one before; wherever clocks differ from UTC by whole minutes, as they do everywhere today, they are whole minutes. It can be used by
// several goroutines. Nothing but When and TimeZone is looked at.
func (p *Policy) Trigger() (Trigger, error) {
	location, err := p.Location()
	if err != nil {
		return nil, err
	}
	return p.When.trigger(location)
}

func (w *When) trigger(location *time.Location) (Trigger, error) {
	if err := w.one(); err != nil {
		return nil, err
	}
	if w.Every != 0 {
		return newEvery(w.Every)
	}
	c, err := w.calendar()
	if err != nil {
		return nil, err
	}
	c.zone = &zone{location: location}
	return c, nil
}

// one returns an error unless exactly one of the fields is set.
func (w *When) one() error {
	var set []string
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"cron", w.Cron != ""}, {"weekly", w.Weekly != nil}, {"daily", len(w.Daily) > 0}, {"saveSchedule", w.SaveSchedule != ""}, {"every", w.Every != 0},
	} {
		if f.set {
			set = append(set, f.name)
		}
	}
	switch len(set) {
	case 1:
		return nil
	case 0:
		return errors.New("when is empty: set one of cron, weekly, daily, saveSchedule and every")
	}
	return fmt.Errorf("when has %s: only one of them can be set; make a policy of each", strings.Join(set, " and "))
}

// calendar returns the dates and times of the day of any field but Every, without a zone.
func (w *When) calendar() (*calendar, error) {
	var c *calendar
	var err error
	switch {
	case w.Cron != "":
		if c, err = parseCron(w.Cron); err != nil {
			return nil, fmt.Errorf("when.cron %s: %w", quoted(w.Cron), err)
		}
	case w.Weekly != nil:
		c, err = w.Weekly.calendar()
	case w.SaveSchedule != "":
		if c, err = parseSaveSchedule(w.SaveSchedule); err != nil {
			return nil, fmt.Errorf("when.saveSchedule %s: %w", quoted(w.SaveSchedule), err)
		}
	default:
		c, err = parseDaily(w.Daily)
	}
	if err != nil {
		return nil, err
	}
	c.elapsed = !slices.Contains(c.minutes[:], 0)
	return c, nil
}

// text returns the field that is set as an error or a person names it.
func (w *When) text() string {
	switch {
	case w.Cron != "":
		return "when.cron " + quoted(w.Cron)
	case w.Weekly != nil:
		return "when.weekly"
	case w.SaveSchedule != "":
		return "when.saveSchedule " + quoted(w.SaveSchedule)
	case w.Every != 0:
		return "when.every " + lengthText(w.Every)
	}
	return "when.daily"
}

// quoted is text of whatever length and content, for an error.
func quoted(s string) string {
	const most = 60
	if len(s) <= most {
		return strconv.QuoteToASCII(s)
	}
	return strconv.QuoteToASCII(s[:most]) + "…"
}

func (w *Weekly) calendar() (*calendar, error) {
	c := everyDay()
	if len(w.Days) > 0 {
		c.weekdays = 0
	}
	for i, d := range w.Days {
		if d < time.Sunday || d > time.Saturday {
			return nil, fmt.Errorf("when.weekly.days[%d] is %d: days are 0, Sunday, to 6, Saturday", i, int(d))
		}
		c.weekdays |= 1 << d
	}
	if w.Minute < 0 || w.Minute > 59 {
		return nil, fmt.Errorf("when.weekly.minute is %d: it must be from 0 to 59", w.Minute)
	}
	for i, h := range w.Hours {
		if h < 0 || h > 23 {
			return nil, fmt.Errorf("when.weekly.hours[%d] is %d: hours are 0 to 23", i, h)
		}
		c.minutes[h] = 1 << w.Minute
	}
	if len(w.Hours) == 0 {
		for h := range c.minutes {
			c.minutes[h] = 1 << w.Minute
		}
	}
	return c, nil
}

func parseDaily(times []string) (*calendar, error) {
	c := everyDay()
	for i, s := range times {
		h, m, ok := parseClock(s)
		if !ok {
			return nil, fmt.Errorf("when.daily[%d] is %s: a time of the day is of the form HH:MM, from 00:00 to 23:59", i, quoted(s))
		}
		if c.minutes[h]>>m&1 != 0 {
			return nil, fmt.Errorf("when.daily[%d] is %s, which is there already", i, quoted(s))
		}
		c.minutes[h] |= 1 << m
	}
	return c, nil
}

// parseClock reads HH:MM.
func parseClock(s string) (hour, minute int, ok bool) {
	if len(s) != len("02:30") || s[2] != ':' {
		return 0, 0, false
	}
	for _, i := range []int{0, 1, 3, 4} {
		if s[i] < '0' || s[i] > '9' {
			return 0, 0, false
		}
	}
	hour, minute = int(s[0]-'0')*10+int(s[1]-'0'), int(s[3]-'0')*10+int(s[4]-'0')
	return hour, minute, hour < 24 && minute < 60
}

// parseSaveSchedule reads what Dragonfly's flag of that name had: HH:MM, in which "*" alone stands for all hours or minutes, and as one of two
// characters for any digit, as "?" does. As there, an hour or minute of one digit is taken to begin with 0.
func parseSaveSchedule(s string) (*calendar, error) {
	hours, minutes, ok := strings.Cut(s, ":")
	if !ok || !nibble(hours) || !nibble(minutes) {
		return nil, errors.New(`it must be of the form HH:MM, where "*" stands for all hours or minutes, and "*" or "?" for a digit, as 23:45, *:15, 0?:00`)
	}
	c := everyDay()
	var mask uint64
	for m := range 60 {
		if nibbleMatches(minutes, m) {
			mask |= 1 << m
		}
	}
	matched := false
	for h := range c.minutes {
		if nibbleMatches(hours, h) {
			c.minutes[h] = mask
			matched = matched || mask != 0
		}
	}
	if !matched {
		return nil, errors.New("no time from 00:00 to 23:59 is like that, so it would never be due")
	}
	return c, nil
}

func nibble(s string) bool {
	return len(s) >= 1 && len(s) <= 2 && strings.Trim(s, "0123456789*?") == ""
}

func nibbleMatches(pattern string, n int) bool {
	if pattern == "*" {
		return true
	}
	if len(pattern) == 1 {
		return pattern == strconv.Itoa(n)
	}
	digit := func(c byte, n int) bool { return c == '*' || c == '?' || int(c-'0') == n }
	return digit(pattern[0], n/10) && digit(pattern[1], n%10)
}

// An every is a number of seconds between due times, which are its multiples in Unix time.
type every int64

func newEvery(d time.Duration) (every, error) {
	if d < minEvery || d > maxEvery {
		return 0, fmt.Errorf("when.every is %s: it must be from 1m to %dh", lengthText(d), maxEvery/time.Hour)
	}
	if d%time.Minute != 0 {
		return 0, fmt.Errorf("when.every is %s: it must be of whole minutes", lengthText(d))
	}
	return every(d / time.Second), nil
}

func (e every) Next(after time.Time) time.Time {
	due := (floorDiv(clamp(after), int64(e)) + 1) * int64(e)
	if due > lastSecond {
		return time.Time{}
	}
	return time.Unix(due, 0).UTC()
}

// A Slot is the time in which the backup of a due time may start: from Start, and before End.
type Slot struct {
	Due   time.Time // as the Trigger gave it
	Start time.Time // when its first attempt begins if nothing is in the way; Due itself if the policy has no window
	End   time.Time // no attempt begins at End or after it
}

// Slot returns the slot of a due time, of which t is the policy's Trigger.
//
// End is Due + Window, or Due + DefaultLate if there is no window; or the next due time, if that is earlier, as it may be where clocks are changed. Start is Due +
// a number of whole seconds, below half of the window, that the policy's ID and its data store determine: a thousand data stores don't start at
// once, and each always starts as long after its due time as ever, from day to day, from one process and from one version of this package to
// another. (Where clocks cut a window short, the number is taken to fit into half of what is left.)
func (p *Policy) Slot(t Trigger, due time.Time) Slot {
	length := p.Window
	if length <= 0 {
		length = DefaultLate
	}
	if next := t.Next(due); !next.IsZero() {
		length = min(length, next.Sub(due))
	}
	s := Slot{Due: due, Start: due, End: due.Add(length)}
	if p.Window > 0 {
		spread := p.spread(p.Window / 2)
		if spread > 0 && spread >= length/2 {
			spread = p.spread(length / 2)
		}
		s.Start = due.Add(spread)
	}
	return s
}

// spread returns a number of whole seconds below a limit, which is 0 if that is below a second.
func (p *Policy) spread(limit time.Duration) time.Duration {
	seconds := uint64(limit / time.Second)
	if limit < time.Second {
		return 0
	}
	// No ID has a zero byte in it, so that no two pairs are the same text.
	sum := sha256.Sum256([]byte("amber-spread\x00" + p.DataStore + "\x00" + p.ID))
	high, _ := bits.Mul64(binary.BigEndian.Uint64(sum[:]), seconds)
	return time.Duration(high) * time.Second
}
