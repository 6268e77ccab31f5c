package schedule

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A reference is a schedule as a person would look it up: whether a reading of the wall clock is in it, whatever the clock did.
type reference struct {
	when    When
	in      func(wall time.Time) bool // of a wall clock's reading, as a time in UTC
	elapsed bool                      // see calendar
}

// due walks through time by small steps and notes all that is due after from, until to. It knows of clocks only what they read.
func (r *reference) due(location *time.Location, from, to time.Time, step time.Duration) []int64 {
	var out []int64
	read := func(t time.Time) time.Time {
		_, offset := t.In(location).Zone()
		return time.Unix(t.Unix()+int64(offset), 0).UTC()
	}
	t := from.Add(-27 * time.Hour).Truncate(step) // no clock is set back by more than a day
	high := read(t)                               // all that the clock has read until now is before it, or is it
	for ; !t.After(to); t = t.Add(step) {
		wall := read(t)
		due := false
		switch {
		case r.when.Every != 0:
			due = t.Unix()%int64(r.when.Every/time.Second) == 0
		case r.elapsed:
			due = wall.Second() == 0 && r.in(wall)
		default:
			for w := high.Add(time.Minute).Truncate(time.Minute); !due && !w.After(wall); w = w.Add(time.Minute) {
				due = r.in(w)
			}
		}
		if wall.After(high) {
			high = wall
		}
		if due && t.After(from) {
			out = append(out, t.Unix())
		}
	}
	return out
}

// randomField returns a field of cron, as text and as what it means.
func randomField(r *rand.Rand, least, most int, stars float64) (string, map[int]bool) {
	set := map[int]bool{}
	add := func(from, to, step int) {
		for v := from; v <= to; v += step {
			if most == 7 {
				set[v%7] = true
			} else {
				set[v] = true
			}
		}
	}
	top := most
	if most == 7 {
		top = 6
	}
	if r.Float64() < stars {
		if r.IntN(3) > 0 {
			add(least, top, 1)
			return "*", set
		}
		step := 1 + r.IntN(top-least)
		add(least, top, step)
		return "*/" + strconv.Itoa(step), set
	}
	var parts []string
	for range 1 + r.IntN(3) {
		from := least + r.IntN(most-least+1)
		switch r.IntN(4) {
		case 0:
			to := from + r.IntN(most-from+1)
			add(from, to, 1)
			parts = append(parts, fmt.Sprintf("%d-%d", from, to))
		case 1:
			to, step := from+r.IntN(most-from+1), 1+r.IntN(6)
			add(from, to, step)
			parts = append(parts, fmt.Sprintf("%d-%d/%d", from, to, step))
		default:
			add(from, from, 1)
			parts = append(parts, strconv.Itoa(from))
		}
	}
	return strings.Join(parts, ","), set
}

func randomReference(r *rand.Rand) reference {
	ref := reference{}
	clock := func(minute int) string { return fmt.Sprintf("%02d:%02d", minute/60, minute%60) }
	switch r.IntN(6) {
	case 0:
		times := map[string]bool{}
		for range 1 + r.IntN(4) {
			times[clock(r.IntN(5)*60+r.IntN(60))] = true
		}
		for s := range times {
			ref.when.Daily = append(ref.when.Daily, s)
		}
		ref.in = func(w time.Time) bool { return times[w.Format("15:04")] }
	case 1:
		w := Weekly{Minute: r.IntN(60)}
		for d := range 7 {
			if r.IntN(3) == 0 {
				w.Days = append(w.Days, time.Weekday(d))
			}
		}
		if r.IntN(2) == 0 {
			w.Hours = []int{r.IntN(5), r.IntN(24)}
		}
		ref.when.Weekly = &w
		ref.elapsed = w.Hours == nil
		ref.in = func(t time.Time) bool {
			return t.Minute() == w.Minute && (w.Days == nil || slices.Contains(w.Days, t.Weekday())) && (w.Hours == nil || slices.Contains(w.Hours, t.Hour()))
		}
	case 2:
		// The pattern is made of a time that is like it, so that there is one.
		at := clock(r.IntN(24 * 60))
		h, m := at[:2], at[3:]
		if r.IntN(3) == 0 {
			h = "*"
		} else if r.IntN(2) == 0 {
			h = "?" + h[1:]
		}
		if r.IntN(3) == 0 {
			m = m[:1] + "*"
		}
		ref.when.SaveSchedule = h + ":" + m
		ref.elapsed = h == "*"
		ref.in = func(t time.Time) bool {
			at := t.Format("15:04")
			return (h == "*" || h[1] == at[1] && (h[0] == '?' || h[0] == at[0])) && m[0] == at[3] && (m[1] == '*' || m[1] == at[4])
		}
	case 3:
		ref.when.Every = time.Duration(1+r.IntN(3000)) * time.Minute
	default:
		minute, minutes := randomField(r, 0, 59, 0.2)
		hour, hours := randomField(r, 0, 23, 0.4)
		day, days := randomField(r, 1, 31, 0.6)
		month, months := randomField(r, 1, 12, 0.8)
		weekday, weekdays := randomField(r, 0, 7, 0.6)
		ref.when.Cron = strings.Join([]string{minute, hour, day, month, weekday}, " ")
		ref.elapsed = len(hours) == 24
		either := day[0] != '*' && weekday[0] != '*'
		ref.in = func(t time.Time) bool {
			d, w := days[t.Day()], weekdays[int(t.Weekday())]
			return minutes[t.Minute()] && hours[t.Hour()] && months[int(t.Month())] && (d && w || either && (d || w))
		}
	}
	return ref
}

var oddZones = []string{
	"UTC", "America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Seoul", "Antarctica/Troll", "Pacific/Apia", "America/Sao_Paulo",
	"Asia/Beirut", "Africa/Casablanca", "Asia/Tehran", "Pacific/Kwajalein", "Asia/Pyongyang", "America/Caracas", "Europe/Dublin", "Pacific/Fakaofo", "America/St_Johns",
}

// randomSpan returns a stretch of time, mostly around a change of the clocks.
func randomSpan(r *rand.Rand, location *time.Location, firstYear, years int, most time.Duration) (from, to time.Time) {
	t := time.Date(firstYear, 1, 1, 0, r.IntN(years*365*24*60), 0, 0, time.UTC)
	if _, end := t.In(location).ZoneBounds(); r.IntN(5) > 0 && !end.IsZero() {
		t = end.UTC()
	}
	some := func() time.Duration { return time.Duration(r.Int64N(int64(most/time.Minute))) * time.Minute }
	return t.Add(-some()), t.Add(some())
}

// compare has Next walk through a stretch of time, and begin within it in many places.
func (r *reference) compare(t *testing.T, random *rand.Rand, zone string, from, to time.Time, step time.Duration) {
	t.Helper()
	location := location(t, zone)
	want := r.due(location, from, to, step)
	p := Policy{When: r.when, TimeZone: zone}
	trigger, err := p.Trigger()
	if err != nil {
		if strings.Contains(err.Error(), "there is no such date") {
			return
		}
		t.Fatalf("%+v: %v", r.when, err)
	}
	var got []int64
	for at := trigger.Next(from); !at.IsZero() && !at.After(to); at = trigger.Next(at) {
		if len(got) > len(want) || len(got) > 0 && at.Unix() <= got[len(got)-1] {
			break
		}
		got = append(got, at.Unix())
	}
	text := func(at []int64, i int) string {
		if i >= len(at) {
			return "none"
		}
		return time.Unix(at[i], 0).In(location).Format("2006-01-02 15:04:05 -0700")
	}
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Fatalf("%s %q in %s after %s until %s: due time %d is %s, want %s",
				r.when.text(), r.when.Daily, zone, from, to, i+1, text(got, i), text(want, i))
		}
	}
	for range 20 {
		// Where the next one is after the end of the stretch, the reference doesn't know it.
		at := from.Add(time.Duration(random.Int64N(int64(to.Sub(from)) + 1)))
		i := slices.IndexFunc(want, func(due int64) bool { return time.Unix(due, 0).After(at) })
		next := trigger.Next(at)
		if i >= 0 && next.Unix() != want[i] || i < 0 && !next.IsZero() && !next.After(to) {
			t.Fatalf("%s %q in %s: Next(%s) is %s, want %s", r.when.text(), r.when.Daily, zone, at.In(location), next.In(location), text(want, max(i, 0)))
		}
	}
}

// TestNextReference compares Next with a walk through all minutes: random schedules, zones and years.
func TestNextReference(t *testing.T) {
	t.Parallel()
	n := 400
	if os.Getenv("CAMPAIGN") != "" {
		n = 5000
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range n {
		ref := randomReference(r)
		zone := oddZones[r.IntN(len(oddZones))]
		from, to := randomSpan(r, location(t, zone), 1985, 60, 60*time.Hour)
		ref.compare(t, r, zone, from, to, time.Minute)
	}
}

// TestNextSeconds does so by seconds, in years in which clocks went by the sun and differed from UTC by seconds.
func TestNextSeconds(t *testing.T) {
	t.Parallel()
	n := 8
	if os.Getenv("CAMPAIGN") != "" {
		n = 50
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for _, c := range []struct {
		zone  string
		first int
	}{{"Europe/Amsterdam", 1935}, {"Africa/Monrovia", 1971}, {"America/New_York", 1883}, {"Asia/Manila", 1844}, {"America/Anchorage", 1867}, {"Asia/Kolkata", 1905}} {
		for range n {
			ref := randomReference(r)
			from, to := randomSpan(r, location(t, c.zone), c.first, 3, 5*time.Hour)
			ref.compare(t, r, c.zone, from, to, time.Second)
		}
	}
}
