package schedule

import (
	"fmt"
	"strings"
	"time"
)

// MaxExplain is the most due times that Explain explains at once.
const MaxExplain = 1000

// An Explanation tells of one due time: when it is by the policy's clock and in UTC, when its backup starts, and what the setting of clocks does to it.
type Explanation struct {
	Due   Reading  `json:"due"`
	Start Reading  `json:"start"`           // when its first attempt begins if nothing is in the way
	End   Reading  `json:"end"`             // no attempt begins then or later
	Zone  string   `json:"zone"`            // the policy's time zone: "Europe/Berlin", "UTC"
	Notes []string `json:"notes,omitempty"` // sentences about clocks being set forward or back, or a window that ends early
	Text  string   `json:"text"`            // all of it in a line
}

// String returns Text.
func (e Explanation) String() string { return e.Text }

// A Reading is an instant, and what the wall clock of a time zone reads then.
type Reading struct {
	UTC          time.Time `json:"utc"`
	Wall         string    `json:"wall"`         // "2026-10-25 02:30:00"
	Abbreviation string    `json:"abbreviation"` // "CEST"; "+0330" of a zone that has none
	Offset       string    `json:"offset"`       // of the wall clock from UTC: "+02:00"
}

// Explain tells of the next n due times of a policy after now, earlier ones first, as if it were enabled. There are fewer only if there are no more. The
// policy has to be valid; n is 1 to MaxExplain.
func Explain(p *Policy, now time.Time, n int, l Limits) ([]Explanation, error) {
	if n < 1 || n > MaxExplain {
		return nil, fmt.Errorf("schedule: %d due times can't be explained at once: it must be 1 to %d", n, MaxExplain)
	}
	if err := p.Validate(l); err != nil {
		return nil, fmt.Errorf("schedule: %w", err)
	}
	location, err := p.Location()
	if err != nil {
		return nil, fmt.Errorf("schedule: %w", err)
	}
	trigger, err := p.When.trigger(location)
	if err != nil {
		return nil, fmt.Errorf("schedule: %w", err)
	}
	var out []Explanation
	for at := now; len(out) < n; {
		if at = trigger.Next(at); at.IsZero() {
			break
		}
		out = append(out, p.explain(trigger, location, at))
	}
	return out, nil
}

func (p *Policy) explain(trigger Trigger, location *time.Location, due time.Time) Explanation {
	slot := p.Slot(trigger, due)
	e := Explanation{Due: reading(slot.Due, location), Start: reading(slot.Start, location), End: reading(slot.End, location), Zone: location.String()}
	z := &zone{location: location}
	if c, ok := trigger.(*calendar); ok {
		e.Notes = c.notes(z.at(due.Unix()), due.Unix())
	}
	if ends := z.at(due.Unix()).end; ends < slot.End.Unix() {
		if set := z.change(ends).text(); !strings.Contains(strings.Join(e.Notes, " "), set) {
			e.Notes = append(e.Notes, fmt.Sprintf("%s before the window ends, which lasts %s all the same", set, lengthText(slot.End.Sub(due))))
		}
	}
	if p.Window > 0 && slot.End.Sub(due) < p.Window {
		e.Notes = append(e.Notes, fmt.Sprintf("the window ends after %s, when the next backup is due", lengthText(slot.End.Sub(due))))
	}
	e.Text = e.text(location)
	return e
}

func (e *Explanation) text(location *time.Location) string {
	var b strings.Builder
	due := e.Due.UTC.In(location)
	fmt.Fprintf(&b, "%s %s", due.Format("Mon"), e.Due.text(time.Time{}, location))
	if e.Due.Offset != "+00:00" {
		fmt.Fprintf(&b, " (%s, %s UTC)", e.Due.Offset, e.Due.UTC.Format(pattern(e.Due.UTC, due)))
	}
	if e.Start.UTC.After(e.Due.UTC) {
		fmt.Fprintf(&b, ", starts at %s", e.Start.text(due, location))
	}
	fmt.Fprintf(&b, ", until %s at the latest", e.End.text(due, location))
	for _, note := range e.Notes {
		b.WriteString(". " + strings.ToUpper(note[:1]) + note[1:])
	}
	return b.String() + "."
}

func reading(t time.Time, location *time.Location) Reading {
	local := t.In(location)
	abbreviation, _ := local.Zone()
	return Reading{UTC: t.UTC(), Wall: local.Format(time.DateTime), Abbreviation: abbreviation, Offset: local.Format("-07:00")}
}

// text is the time of the day, and the date where it isn't that of another time; and by which clock, where that differs from the other's.
func (r *Reading) text(other time.Time, location *time.Location) string {
	t := r.UTC.In(location)
	s := t.Format(pattern(t, other))
	abbreviation, offset := other.Zone()
	_, own := t.Zone()
	switch letters := strings.Trim(r.Abbreviation, "+-0123456789") != ""; {
	case letters && (other.IsZero() || abbreviation != r.Abbreviation):
		s += " " + r.Abbreviation
	case !letters && !other.IsZero() && offset != own:
		s += " (" + r.Offset + ")"
	}
	return s
}

// pattern returns the form in which t says all that another time, by another clock or none, doesn't say.
func pattern(t, other time.Time) string {
	s := "15:04"
	if t.Second() != 0 {
		s = time.TimeOnly
	}
	if t.Format(time.DateOnly) != other.Format(time.DateOnly) {
		s = time.DateOnly + " " + s
	}
	return s
}

// notes are what the setting of clocks does to a due time, of era e.
func (c *calendar) notes(e *era, due int64) []string {
	var notes []string
	if note := c.gapNote(e, due); note != "" {
		notes = append(notes, note)
	}
	wall := due + e.offset
	switch twice := wallText(wall, wall) + " comes twice"; {
	case c.elapsed && wall < e.high:
		notes = append(notes, fmt.Sprintf("%s: %s; it is due both times, and this is the second", twice, c.zone.change(e.start).text()))
	case e.end != maxTime && wall >= c.zone.change(e.end).to:
		which := "it is due the first time only, which this is"
		if c.elapsed {
			which = "it is due both times, and this is the first"
		}
		notes = append(notes, fmt.Sprintf("%s: %s; %s", twice, c.zone.change(e.end).text(), which))
	}
	return notes
}

// gapNote is about times that clocks have passed over just before a due time.
func (c *calendar) gapNote(e *era, due int64) string {
	if e.start == minTime {
		return ""
	}
	if first, _ := c.from(e.start + e.offset); due != e.start && !(c.elapsed && due == first-e.offset) {
		return ""
	}
	change := c.zone.change(e.start)
	const most = 3
	var missing []string
	more := false
	for wall, ok := c.from(max(change.from, e.high)); ok && wall < change.to; wall, ok = c.from(wall + 1) {
		if more = len(missing) == most; more {
			break
		}
		missing = append(missing, wallText(wall, change.to))
	}
	if len(missing) == 0 {
		return ""
	}
	list, those := strings.Join(missing, ", "), "does not exist%s: %s; it is"
	if n := len(missing); more {
		list += " and more"
	} else if n > 1 {
		list = strings.Join(missing[:n-1], ", ") + " and " + missing[n-1]
	}
	if len(missing) > 1 {
		those = "do not exist%s: %s; they are"
	}
	day := " on that day"
	if strings.Contains(missing[0], "-") {
		day = "" // it has the date already
	}
	note := list + " " + fmt.Sprintf(those, day, change.text())
	if c.elapsed {
		return note + " not due"
	}
	return note + " due at " + wallText(change.to, change.to)
}

// A change is a step of the wall clock, from one reading to another.
type change struct{ from, to int64 }

// change returns the one at the start of an era.
func (z *zone) change(start int64) change {
	before, after := z.look(start-1), z.look(start)
	return change{start + before.offset, start + after.offset}
}

func (c change) text() string {
	switch {
	case c.from < c.to:
		return fmt.Sprintf("clocks go forward from %s to %s", wallText(c.from, c.to), wallText(c.to, c.from))
	case c.from > c.to:
		return fmt.Sprintf("clocks go back from %s to %s", wallText(c.from, c.to), wallText(c.to, c.from))
	}
	return "the zone changes its name"
}

// wallText is a reading of the wall clock, with its date if that isn't the other's.
func wallText(wall, other int64) string {
	t := time.Unix(wall, 0).UTC()
	return t.Format(pattern(t, time.Unix(other, 0).UTC()))
}
