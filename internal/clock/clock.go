// Package clock is the only place in Amber's production code that asks what time it is or waits for it to pass.
//
// A host sets Now in a Config; nil means System.
package clock

import (
	"context"
	"time"
)

// A Func tells the time.
type Func func() time.Time

// System tells the time of this machine.
func System() time.Time { return time.Now() }

// Or returns f, or System if f is nil.
func Or(f Func) Func {
	if f == nil {
		return System
	}
	return f
}

// Since returns the time since t by the machine's monotonic clock, if t came from System.
func Since(t time.Time) time.Duration { return time.Since(t) }

// Sleep waits for d or until ctx ends; then it returns ctx's error.
func Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Pause waits for a d that is too short for anybody to want to cancel it.
func Pause(d time.Duration) { time.Sleep(d) }

// AfterFunc calls f in its own goroutine after d, unless the timer is stopped.
func AfterFunc(d time.Duration, f func()) *time.Timer { return time.AfterFunc(d, f) }
