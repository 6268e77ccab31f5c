package clock

import (
	"context"
	"time"
)

// Outlive returns a context for what is to be done when something has ended, such as to give a lease back. Whoever waits for that waits for up to most;
// once ctx has ended, before or meanwhile, there is no more than within. The context has ctx's values. end is to be called when all is done.
func Outlive(ctx context.Context, most, within time.Duration) (out context.Context, end func()) {
	out, cancel := context.WithTimeout(context.WithoutCancel(ctx), most)
	alarm := NewAlarm(cancel)
	gone := context.AfterFunc(ctx, func() { alarm.Set(within) })
	return out, func() {
		gone()
		cancel()
	}
}
