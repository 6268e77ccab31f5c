package clock

import (
	"sync"
	"time"
)

// Every calls f after each d, from one goroutine, until the returned function is called. That function waits for a call
// that is under way, and may be called again.
func Every(d time.Duration, f func()) (stop func()) {
	done := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		ticker := time.NewTicker(d)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				f()
			case <-done:
				return
			}
		}
	})
	return sync.OnceFunc(func() {
		close(done)
		group.Wait()
	})
}
