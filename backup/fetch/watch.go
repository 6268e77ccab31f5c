package fetch

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/amberkv/amber/internal/clock"
)

// errStalled ends an exchange in which nothing moves.
var errStalled = errors.New("next to nothing moved for as long as Policy.StallTimeout allows")

// stallFloor is how much has to come in a StallTimeout: a byte now and then is no progress.
const stallFloor = 1 << 10

// A watch ends an exchange that stands still. Time in which nobody waits for the other side doesn't count.
type watch struct {
	cancel context.CancelCauseFunc
	limit  time.Duration

	mu     sync.Mutex
	timer  *time.Timer
	began  time.Time
	waited time.Duration // since moved was 0
	moved  int
	ended  bool
}

func newWatch(cancel context.CancelCauseFunc, limit time.Duration) *watch {
	return &watch{cancel: cancel, limit: limit}
}

// start says that the other side is waited for, from now on for extra longer than usually.
func (w *watch) start(extra time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return
	}
	if w.moved >= stallFloor {
		w.moved, w.waited = 0, 0
	}
	w.began = clock.System()
	if left := w.limit + extra - w.waited; w.timer == nil {
		w.timer = clock.AfterFunc(left, func() { w.cancel(errStalled) })
	} else {
		w.timer.Reset(left)
	}
}

// stop says that n bytes have moved and nobody waits now.
func (w *watch) stop(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
		w.waited += clock.Since(w.began)
		w.moved += n
	}
}

// end stops the watch for good.
func (w *watch) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	if w.timer != nil {
		w.timer.Stop()
	}
}

// A receivedBody is watched while it is read.
type receivedBody struct {
	body   io.ReadCloser
	ctx    context.Context // of the exchange
	cancel context.CancelCauseFunc
	watch  *watch
}

func (b *receivedBody) Read(p []byte) (int, error) {
	b.watch.start(0)
	n, err := b.body.Read(p)
	b.watch.stop(n)
	if err != nil && err != io.EOF {
		if cause := context.Cause(b.ctx); cause != nil {
			err = cause
		}
	}
	return n, err
}

// Close ends the exchange, a Read that waits too.
func (b *receivedBody) Close() error {
	b.cancel(nil)
	return b.body.Close()
}

// A sentBody is watched between two reads of it, for that is when it is being sent, and after the last of them until there is an answer.
type sentBody struct {
	body  io.ReadCloser
	watch *watch
	last  time.Duration // how long the answer may take
}

func (b *sentBody) Read(p []byte) (int, error) {
	b.watch.stop(stallFloor) // what was read before has been sent
	n, err := b.body.Read(p)
	b.watch.start(0)
	return n, err
}

func (b *sentBody) Close() error {
	b.watch.stop(stallFloor)
	b.watch.start(b.last)
	return b.body.Close()
}
