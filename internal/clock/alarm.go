package clock

import "time"

// An Alarm calls a function when a time has passed for which it was set. It is used by one goroutine.
type Alarm struct{ timer *time.Timer }

// NewAlarm returns an Alarm that is not set. The function is called from a goroutine of its own.
func NewAlarm(f func()) *Alarm {
	a := &Alarm{timer: time.AfterFunc(time.Hour, f)}
	a.timer.Stop()
	return a
}

// Set lets the alarm go off after d, and not when it was set to before.
func (a *Alarm) Set(d time.Duration) { a.timer.Reset(d) }

// Stop keeps the alarm from going off. It may be about to.
func (a *Alarm) Stop() { a.timer.Stop() }
