package schedule

import "time"

// A timetable is a policy's schedule as the engine uses it.
type timetable struct {
	next func(after time.Time) time.Time
	slot func(due time.Time) Slot
}

// A span is a row of due times.
type span struct {
	first, prev, last time.Time // prev is the last but one, if there is one
	count             int       // at most MaxCount
}

// span finds the due times after one moment until another, which may be many years later.
func (t *timetable) span(after, until time.Time) span {
	var sp span
	walk := func(from time.Time, most int) (end bool) {
		for range most {
			due := t.next(from)
			if due.IsZero() || due.After(until) {
				return true
			}
			if sp.first.IsZero() {
				sp.first = due
			}
			sp.prev, sp.last, from = sp.last, due, due
			sp.count++
		}
		return false
	}
	if walk(after, MaxCount) {
		return sp
	}
	// There are more than are counted. The last two are looked for from the end.
	for back := time.Hour; ; back *= 2 {
		from := until.Add(-back)
		if from.Before(sp.last) {
			from = sp.last
		}
		tail := t.tail(from, until)
		if !tail.prev.IsZero() || from.Equal(sp.last) {
			if !tail.last.IsZero() {
				sp.prev, sp.last = tail.prev, tail.last
				if sp.prev.IsZero() {
					sp.prev = from
				}
			}
			return sp
		}
	}
}

// tail finds the last two due times after one moment until another.
func (t *timetable) tail(after, until time.Time) (sp span) {
	for due := t.next(after); !due.IsZero() && !due.After(until); due = t.next(due) {
		sp.prev, sp.last = sp.last, due
	}
	return sp
}

func compile(p *Policy) (*timetable, error) {
	t, err := p.Trigger()
	if err != nil {
		return nil, err
	}
	return &timetable{next: t.Next, slot: func(due time.Time) Slot { return p.Slot(t, due) }}, nil
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
