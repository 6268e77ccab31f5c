package scan

import (
	"context"
	"time"

	"github.com/amberkv/amber/internal/clock"
)

// burst is for how long a bucket may be ahead, after a time in which less was taken than allowed.
const burst = 100 * time.Millisecond

// A bucket bounds a rate. Nil is no bound. It is used by one goroutine.
type bucket struct {
	ctx  context.Context
	rate float64   // a second
	at   time.Time // when all that was taken will have been allowed
}

// newBucket returns nil for a rate of 0.
func newBucket(ctx context.Context, rate int64) *bucket {
	if rate == 0 {
		return nil
	}
	return &bucket{ctx: ctx, rate: float64(rate), at: clock.System()}
}

// take waits until what was taken before is allowed, and takes n more. It doesn't wait on once ctx has ended, which is for the caller to notice.
func (b *bucket) take(n int) {
	if b == nil {
		return
	}
	if ahead := clock.Since(b.at); ahead > burst {
		b.at = b.at.Add(ahead - burst)
	} else if ahead < 0 {
		clock.Sleep(b.ctx, -ahead)
	}
	b.at = b.at.Add(time.Duration(float64(n) / b.rate * float64(time.Second)))
}
