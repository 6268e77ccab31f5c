package govern

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/internal/link"
	"github.com/amberkv/amber/internal/clock"
)

// While a snapshot is read its server is asked for INFO so often. When it has been read its child is waited for, to know its cost, for a while.
const (
	infoEvery = time.Second
	lastLook  = time.Second
	lookPause = 20 * time.Millisecond

	reconnectPause = time.Second
)

// A watch is a server that is watched.
type watch struct {
	s      *Snapshotter
	addr   string
	forks  bool
	exceed func(w *watch, seen time.Duration) // the latency has been above its limit for too long
	cancel context.CancelFunc
	last   chan struct{} // closed when the snapshot was read
	ended  chan struct{} // closed when the watch has ended

	times latencies
	over  atomic.Bool // the latency is above its limit
	mute  bool        // PING isn't allowed

	mu   sync.Mutex
	peak int64         // of the memory of a child that is at work
	cow  int64         // that of the last one, if that has ended
	fork time.Duration // that it took
}

// watch begins to watch a server, on a connection if there is one already. The caller ends it.
func (s *Snapshotter) watch(ctx context.Context, addr string, conn *link.Conn, mute bool, exceed func(*watch, time.Duration)) *watch {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	w := &watch{s: s, addr: addr, forks: forks(s.cfg.Method), exceed: exceed, cancel: cancel, mute: mute, last: make(chan struct{}), ended: make(chan struct{}),
		times: latencies{window: s.tuning.window}}
	if conn != nil {
		conn.Release() // from the context of Snapshot
		conn.Release = conn.Guard(ctx)
	}
	var group sync.WaitGroup
	group.Go(func() { w.run(ctx, conn) })
	group.Go(func() { w.guard(ctx) })
	go func() {
		group.Wait()
		close(w.ended)
	}()
	return w
}

// end ends the watch and waits for it.
func (w *watch) end() {
	w.cancel()
	<-w.ended
}

// run asks the server, until it is told that it is the last time. Losing the connection is no reason to stop anything: the server may be as well as before.
func (w *watch) run(ctx context.Context, conn *link.Conn) {
	defer w.cancel() // of guard
	defer func() {
		if conn != nil {
			conn.Close()
		}
	}()
	var looked time.Time
	lost := false
	for {
		if conn == nil {
			var err error
			w.times.ask()
			conn, err = w.s.connect(ctx, w.addr)
			w.times.answered(err == nil || link.TimedOut(err))
			if err != nil {
				if ctx.Err() != nil {
					return
				}
				if !lost {
					w.s.log.WarnContext(ctx, "the source can't be watched, the snapshot goes on", "node", w.addr, "error", err)
				}
				lost = true
				if w.pause(ctx, reconnectPause) {
					return // what it would tell at last it can't be asked
				}
				continue
			}
			if lost {
				w.s.log.InfoContext(ctx, "the source is watched again", "node", w.addr)
			}
			lost = false
		}
		err := w.ping(conn)
		if err == nil && clock.Since(looked) >= infoEvery {
			looked = clock.System()
			_, err = w.look(conn)
		}
		if err == nil && w.pause(ctx, w.s.tuning.ping) {
			if ctx.Err() == nil {
				w.lastLook(ctx, conn)
			}
			return
		}
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			if !errors.Is(conn.Aborted(), context.Canceled) { // else the snapshot is about to end
				w.s.log.WarnContext(ctx, "the source isn't watched for a moment, the snapshot goes on", "node", w.addr, "error", conn.Fail("watch", err))
			}
			lost = true
			conn.Close()
			conn = nil
			if w.pause(ctx, w.s.tuning.ping) {
				return
			}
		}
	}
}

// pause waits; true means that the watch is to end.
func (w *watch) pause(ctx context.Context, d time.Duration) bool {
	over := make(chan struct{})
	timer := clock.AfterFunc(d, func() { close(over) })
	defer timer.Stop()
	select {
	case <-over:
		return false
	case <-w.last:
	case <-ctx.Done():
	}
	return true
}

func (w *watch) ping(conn *link.Conn) error {
	if w.mute {
		return nil
	}
	w.times.ask()
	took, ok, err := ping(conn)
	w.times.answered(took > 0 || link.TimedOut(err)) // it has taken that long, if not longer
	if err == nil && !ok {
		w.mute = true
	}
	return err
}

// look asks for INFO and tells whether a child is at work.
func (w *watch) look(conn *link.Conn) (saving bool, err error) {
	seen, _, err := conn.AskInfo()
	if link.IsReply(err) { // it is loading, or busy: later
		return false, nil
	}
	if err != nil || !seen {
		return false, err
	}
	i := conn.Info
	saving = i.Int("rdb_bgsave_in_progress") != 0
	w.mu.Lock()
	defer w.mu.Unlock()
	if saving {
		w.peak, w.cow = max(w.peak, i.Int("current_cow_size"), i.Int("current_cow_peak")), 0
	} else {
		w.cow = i.Int("rdb_last_cow_size")
	}
	w.fork = time.Duration(i.Int("latest_fork_usec")) * time.Microsecond
	return saving, nil
}

// lastLook waits for the end of the child, which tells what it took, for a moment.
func (w *watch) lastLook(ctx context.Context, conn *link.Conn) {
	for began := clock.System(); ; {
		saving, err := w.look(conn)
		if err != nil || !saving || clock.Since(began) >= lastLook || clock.Sleep(ctx, lookPause) != nil {
			return
		}
	}
}

// cost is what the server told of its child.
func (w *watch) cost() (fork time.Duration, cow int64) {
	if !w.forks {
		return 0, 0
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fork, max(w.cow, w.peak)
}

// guard holds the latency against its limit.
func (w *watch) guard(ctx context.Context) {
	limits := &w.s.cfg.Limits
	if limits.Latency == 0 {
		return
	}
	var since time.Time
	for clock.Sleep(ctx, w.s.tuning.ping) == nil {
		seen := w.times.recent()
		switch {
		case seen <= limits.Latency:
			if w.over.Swap(false) {
				w.s.log.InfoContext(ctx, "the source answers in time again", "node", w.addr, "latency", seen)
			}
			since = time.Time{}
			continue
		case since.IsZero():
			since = clock.System()
			w.over.Store(true)
			w.s.log.WarnContext(ctx, "the source has become slow", "node", w.addr, "latency", seen, "limit", limits.Latency, "ignored", limits.ignores(Latency))
		}
		if clock.Since(since) >= limits.LatencyFor && !limits.ignores(Latency) {
			w.exceed(w, seen)
			return
		}
	}
}

// tooSlow is the error of a snapshot that was given up.
func (w *watch) tooSlow(seen time.Duration) error {
	l := &w.s.cfg.Limits
	e := &LimitError{Name: Latency, Seen: fmt.Sprintf("PING took %v for %v", seen.Round(time.Microsecond), l.LatencyFor), Limit: l.Latency.String()}
	return &backup.SourceError{Addr: w.addr, Step: "watch the source", Err: e,
		Hint: "the snapshot was given up to spare the server: take it when it is less busy, or from a replica"}
}

var errClosed = errors.New("the snapshot is closed")
