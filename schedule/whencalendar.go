package schedule

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// A calendar are dates, and times of the day, by the wall clock of a time zone.
//
// When these are due has two rules, and of each calendar one of them holds:
//
//   - If not all of the 24 hours have a time in them, a time is due at the first instant at which the wall clock reads it or a later one. So what
//     the clock passes over when it is set forward is due once it has been, together with whatever else the clock passed over; and what comes
//     again when it is set back has been due already.
//   - If all of the 24 hours have a time in them, it is due whenever the wall clock reads such a time, however often it does so on that day: by the
//     time that passes, hour after hour.
//
// The clock is a function of time with steps in it, and within a step, an era, it differs from UTC by a constant. Next needs the era that
// it begins in, and follows the steps from there on.
type calendar struct {
	zone *zone

	months   uint16     // bits 1 to 12
	days     uint32     // of the month, bits 1 to 31
	weekdays uint8      // bits 0 to 6
	either   bool       // a date has to be of days or of weekdays; else of both
	minutes  [24]uint64 // of each hour, bits 0 to 59
	elapsed  bool       // the second rule holds
}

// everyDay returns a calendar of all dates and no times.
func everyDay() *calendar {
	return &calendar{months: 1<<13 - 2, days: 1<<32 - 2, weekdays: 1<<7 - 1}
}

// The first and last seconds in which anything can be due: from the year 1 to 9999, as texts of times can have them.
const (
	firstSecond = -62135596800
	lastSecond  = 253402300799
)

// clamp returns the Unix time of t, or the nearest one that counts.
func clamp(t time.Time) int64 {
	switch y := t.UTC().Year(); {
	case y < 1:
		return firstSecond
	case y > 9999:
		return lastSecond
	}
	return t.Unix()
}

func (c *calendar) Next(after time.Time) time.Time {
	t := clamp(after)
	e := c.zone.at(t)
	var due int64
	var ok bool
	if c.elapsed {
		due, ok = c.nextReading(e, t)
	} else {
		// Only what is later than all that the clock has read until now wasn't due before.
		due, ok = c.from(max(t+e.offset+1, e.high))
		if ok {
			due = c.zone.reached(e, due)
		}
	}
	if !ok || due > lastSecond {
		return time.Time{}
	}
	return time.Unix(due, 0).UTC()
}

// nextReading returns the first instant after t, of era e, at which the clock reads a time of the calendar.
func (c *calendar) nextReading(e *era, t int64) (int64, bool) {
	for wall := t + e.offset + 1; ; wall = e.start + e.offset {
		due, ok := c.from(wall)
		if !ok || due-e.offset < e.end {
			return due - e.offset, ok
		}
		e = c.zone.at(e.end)
	}
}

// from returns the calendar's first time that is not before a reading of the wall clock, both as seconds since 1970 in that clock.
func (c *calendar) from(wall int64) (int64, bool) {
	minute := floorDiv(wall+59, 60)
	day := floorDiv(minute, 24*60)
	year, month, dom := civil(day)
	first := day - int64(dom) + 1 // of the month
	mask := c.dates(year, month, first)
	if mask>>dom&1 != 0 {
		if m, ok := c.minuteFrom(int(minute - day*24*60)); ok {
			return (day*24*60 + int64(m)) * 60, true
		}
	}
	mask &= ^uint32(0) << (dom + 1)
	for mask == 0 {
		first += int64(monthLength(year, month))
		if month++; month > 12 {
			month = 1
			if year++; year > 9999 {
				return 0, false
			}
		}
		mask = c.dates(year, month, first)
	}
	m, ok := c.minuteFrom(0)
	return ((first+int64(bits.TrailingZeros32(mask))-1)*24*60 + int64(m)) * 60, ok
}

// minuteFrom returns the calendar's first minute of the day that isn't before m.
func (c *calendar) minuteFrom(m int) (int, bool) {
	hour := m / 60
	mask := c.minutes[hour] >> (m % 60) << (m % 60)
	for mask == 0 {
		if hour++; hour == 24 {
			return 0, false
		}
		mask = c.minutes[hour]
	}
	return hour*60 + bits.TrailingZeros64(mask), true
}

// dates returns the days of a month that are in the calendar, as bits 1 to 31; first is the day, since 1970, that the month begins with.
func (c *calendar) dates(year, month int, first int64) uint32 {
	if c.months>>month&1 == 0 {
		return 0
	}
	length := monthLength(year, month)
	all := uint32(1)<<(length+1) - 2      // of 31 days too: the shift overflows to 0
	weekday := uint(floorMod(first+4, 7)) // 1970-01-01 was a Thursday
	week := (uint64(c.weekdays)>>weekday | uint64(c.weekdays)<<(7-weekday)) & (1<<7 - 1)
	weekdays := uint32((week * (1 | 1<<7 | 1<<14 | 1<<21 | 1<<28)) << 1)
	if c.either {
		return (c.days | weekdays) & all
	}
	return c.days & weekdays & all
}

// A zone is a time zone that remembers the era in which it was asked last.
type zone struct {
	location *time.Location
	last     atomic.Pointer[era]
}

// An era is a stretch of time in which clocks differ from UTC by a constant.
type era struct {
	start, end int64 // in Unix seconds; it begins at start and ends before end
	offset     int64 // of the clock from UTC, in seconds
	high       int64 // the clock read all times until that, but not that itself, before the era began
}

// farthest is more than a clock can ever differ from UTC, in seconds: not quite 16 hours is the most there was.
const farthest = 26 * 3600

// at returns the era of a Unix time.
func (z *zone) at(t int64) *era {
	if e := z.last.Load(); e != nil && t >= e.start && t < e.end {
		return e
	}
	e := z.look(t)
	e.high = minTime
	for before := e; before.start > e.start-2*farthest && before.start != minTime; {
		before = z.look(before.start - 1)
		e.high = max(e.high, before.end+before.offset)
	}
	z.last.Store(e)
	return e
}

// Unix times before and after all others, from which something can still be taken or added.
const (
	minTime = -1 << 62
	maxTime = 1 << 62
)

// look finds the era of a Unix time, but not its high.
func (z *zone) look(t int64) *era {
	at := time.Unix(t, 0).In(z.location)
	start, end := at.ZoneBounds()
	_, offset := at.Zone()
	e := &era{start: minTime, end: maxTime, offset: int64(offset)}
	if !start.IsZero() {
		e.start = start.Unix()
		// After the last change in the table of a zone Go tells where the year's rule would have begun, which may be before that change.
		if _, before := time.Unix(e.start-1, 0).In(z.location).ZoneBounds(); !before.IsZero() && before.Unix() <= t {
			e.start = max(e.start, before.Unix())
		}
	}
	if !end.IsZero() {
		e.end = end.Unix()
		// Beyond the table of a zone Go takes all years to have 365 days: on the last day of a leap year the end it tells is over.
		if _, next := time.Unix(e.end, 0).In(z.location).ZoneBounds(); !next.IsZero() && next.Unix() <= e.end {
			e.end += 24 * 3600
		}
	}
	return e
}

// reached returns the first instant at which the clock reads a time or a later one, in e or a later era. It hasn't read one before.
func (z *zone) reached(e *era, wall int64) int64 {
	if sure := wall - farthest; sure >= e.end {
		e = z.at(sure) // before that no clock reads it
	}
	for {
		t := max(wall-e.offset, e.start)
		if t < e.end {
			return t
		}
		e = z.at(e.end)
	}
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

func floorMod(a, b int64) int64 { return a - floorDiv(a, b)*b }

func monthLength(year, month int) int {
	switch {
	case month == 2 && year%4 == 0 && (year%100 != 0 || year%400 == 0):
		return 29
	case month == 2:
		return 28
	case month == 4 || month == 6 || month == 9 || month == 11:
		return 30
	}
	return 31
}

// civil returns the date of a day since 1970. It counts years from March on, so that a leap day is the last of its year, and by the 146097 days
// of 400 years, after which all repeats.
func civil(day int64) (year, month, dom int) {
	day += 719468 // since 0000-03-01
	cycle := floorDiv(day, 146097)
	d := day - cycle*146097
	y := (d - d/1460 + d/36524 - d/146096) / 365
	d -= 365*y + y/4 - y/100
	m := (5*d + 2) / 153 // since March
	dom = int(d-(153*m+2)/5) + 1
	year, month = int(y+cycle*400), int(m)+3
	if month > 12 {
		year, month = year+1, month-12
	}
	return year, month, dom
}
