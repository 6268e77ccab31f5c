package govern

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/clock"
)

// maxWatched bounds how many servers are watched for one snapshot: of a cluster's the first.
const maxWatched = 32

// A snapshot is one of the governed Snapshotter that is watched.
type snapshot struct {
	s      *Snapshotter
	inner  backup.Snapshot
	source catalog.Source // as it was at the beginning
	began  time.Time
	before *before
	pace   pace
	gentle bool // it may be read slowly

	ctx    context.Context // ends with the snapshot
	cancel context.CancelCauseFunc

	mu      sync.Mutex
	watches []*watch
	stopped error // why it was given up
	closed  bool
	parts   int
	whole   map[string]bool // parts that were read to their end
	ended   time.Duration   // when all were; 0: not yet
	final   *catalog.Cost   // when that is known
}

// sharded is a snapshot whose parts come from several servers.
type sharded struct {
	*snapshot
	backup.Sharded
}

// take takes the snapshot, while the source is watched already: forking is what costs it most.
func (s *Snapshotter) take(ctx context.Context, b *before) (backup.Snapshot, error) {
	sn := &snapshot{s: s, before: b, began: clock.System(), whole: map[string]bool{}}
	sn.ctx, sn.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	sn.pace.rate = s.cfg.Limits.BytesPerSecond
	asking, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var first *watch
	if b.conn != nil {
		first = s.watch(ctx, b.conn.Addr, b.conn, b.mute, func(w *watch, seen time.Duration) {
			sn.giveUp(w, seen)
			stop(sn.why())
		})
	}
	inner, err := s.cfg.Snapshotter.Snapshot(asking)
	if err != nil {
		if first != nil {
			first.end()
		}
		sn.cancel(errClosed)
		if why := sn.why(); why != nil && ctx.Err() == nil {
			err = why
		}
		return nil, err
	}
	sn.mu.Lock()
	sn.inner, sn.source, sn.parts = inner, inner.Source(), len(inner.Parts())
	sn.mu.Unlock()
	sn.gentle = sn.source.Method != "flows"
	if !sn.gentle && sn.pace.rate > 0 {
		s.log.WarnContext(ctx, "flows have to be taken as they come: the limit of bytes a second doesn't apply", "node", sn.source.Address)
		sn.pace.rate = 0
	}
	parts, ok := inner.(backup.Sharded)
	if first != nil {
		sn.follow(ctx, first, parts)
	}
	if why := sn.why(); why != nil { // while it was being opened
		sn.Close()
		return nil, why
	}
	if ok {
		return sharded{sn, parts}, nil
	}
	return sn, nil
}

// follow watches the servers that send the snapshot, as far as they are known by now.
func (sn *snapshot) follow(ctx context.Context, first *watch, parts backup.Sharded) {
	addrs := []string{sn.source.Address}
	if parts != nil {
		for _, p := range sn.inner.Parts() {
			if shard := parts.Shard(p); shard != nil {
				addrs = append(addrs, shard.Address)
			}
		}
	}
	sends := false
	for _, addr := range addrs {
		sends = sends || addr == first.addr
	}
	if sends || len(addrs) == 1 && addrs[0] == "" {
		sn.mu.Lock()
		sn.watches = append(sn.watches, first)
		sn.mu.Unlock()
	} else {
		first.end()
	}
	for _, addr := range addrs {
		sn.also(ctx, addr)
	}
}

// also watches a server, unless it is watched already.
func (sn *snapshot) also(ctx context.Context, addr string) {
	sn.mu.Lock()
	defer sn.mu.Unlock()
	if addr == "" || sn.s.cfg.Options == nil || sn.closed || sn.ended != 0 || len(sn.watches) == maxWatched {
		return
	}
	for _, w := range sn.watches {
		if w.addr == addr {
			return
		}
	}
	sn.watches = append(sn.watches, sn.s.watch(ctx, addr, nil, sn.before.mute, sn.giveUp))
}

// giveUp ends the snapshot, because a server has been slow for too long.
func (sn *snapshot) giveUp(w *watch, seen time.Duration) {
	sn.mu.Lock()
	first := sn.stopped == nil
	if first {
		sn.stopped = w.tooSlow(seen)
	}
	inner := sn.inner
	sn.mu.Unlock()
	if first {
		sn.cancel(sn.why())
		if inner != nil {
			inner.Close() // so that the server has its peace at once; whoever reads finds out why
		}
	}
}

// why returns why the snapshot was given up, or nil.
func (sn *snapshot) why() error {
	sn.mu.Lock()
	defer sn.mu.Unlock()
	return sn.stopped
}

// Source describes the data store; when all parts were read, with what that cost it. It waits a moment for the servers to tell that.
func (sn *snapshot) Source() catalog.Source {
	sn.mu.Lock()
	closed, ended, watches, final := sn.closed, sn.ended, sn.watches, sn.final
	sn.mu.Unlock()
	src := sn.inner.Source()
	if ended == 0 || closed && final == nil {
		if src.Cost = sn.cost(src.Cost); *src.Cost == (catalog.Cost{}) {
			src.Cost = nil
		}
		return src
	}
	if final == nil {
		sn.settle(sn.ctx)
		final = sn.cost(src.Cost)
		final.Duration = max(final.Duration, ended)
		for _, w := range watches {
			fork, cow := w.cost()
			final.Fork = max(final.Fork, fork)
			final.CopyOnWrite += cow
			final.LatencyDuring = max(final.LatencyDuring, w.times.all())
		}
		if src.Cost != nil { // the other Snapshotter knows its own better
			final.Fork, final.CopyOnWrite = keep(src.Cost.Fork, final.Fork), keep(src.Cost.CopyOnWrite, final.CopyOnWrite)
			final.Bytes = keep(src.Cost.Bytes, final.Bytes)
		}
		sn.mu.Lock()
		sn.final = final
		sn.mu.Unlock()
	}
	cost := *final
	src.Cost = &cost
	return src
}

// settle waits until the servers have told what the snapshot took them, if all of it was read, for a moment.
func (sn *snapshot) settle(ctx context.Context) {
	sn.mu.Lock()
	watches, ended := sn.watches, sn.ended
	sn.mu.Unlock()
	if ended == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lastLook+lastLook/2)
	defer cancel()
	for _, w := range watches {
		select {
		case <-w.ended:
		case <-ctx.Done():
			w.end()
		}
	}
}

func keep[T int64 | time.Duration](known, found T) T {
	if known != 0 {
		return known
	}
	return found
}

// cost adds what we know to what the other Snapshotter does.
func (sn *snapshot) cost(inner *catalog.Cost) *catalog.Cost {
	var c catalog.Cost
	if inner != nil {
		c = *inner
	}
	c.Waited += sn.before.waited
	c.LatencyBefore = keep(c.LatencyBefore, sn.before.ping)
	sn.mu.Lock()
	ended := sn.ended
	sn.mu.Unlock()
	if ended != 0 {
		bytes, slowed := sn.pace.sum()
		c.Bytes = keep(c.Bytes, bytes)
		c.Slowed += slowed
	}
	return &c
}

func (sn *snapshot) Parts() []backup.Part { return sn.inner.Parts() }

// Count lets the driver compare the keys that were found with those that there were, if it knows.
func (sn *snapshot) Count(keys int64) error {
	if c, ok := sn.inner.(backup.Counted); ok {
		return c.Count(keys)
	}
	return nil
}

func (sn *snapshot) Open(ctx context.Context, p backup.Part) (io.ReadCloser, error) {
	if why := sn.why(); why != nil {
		return nil, why
	}
	r, err := sn.inner.Open(ctx, p)
	if err != nil {
		if why := sn.why(); why != nil {
			err = why
		}
		return nil, err
	}
	if parts, ok := sn.inner.(backup.Sharded); ok {
		if shard := parts.Shard(p); shard != nil {
			sn.also(ctx, shard.Address)
		}
	}
	st := &stream{sn: sn, inner: r, name: p.Name}
	st.ctx, st.cancel = context.WithCancel(ctx)
	st.unhook = context.AfterFunc(sn.ctx, st.cancel)
	return st, nil
}

func (sn *snapshot) Close() error {
	sn.mu.Lock()
	sn.closed = true
	watches := sn.watches
	sn.mu.Unlock()
	sn.cancel(errClosed)
	err := sn.inner.Close()
	for _, w := range watches {
		w.end()
	}
	return err
}

// read notes that a part was read to its end. After the last one the servers are asked what that took them.
func (sn *snapshot) read(name string) {
	sn.mu.Lock()
	defer sn.mu.Unlock()
	sn.whole[name] = true
	if len(sn.whole) < sn.parts || sn.ended != 0 {
		return
	}
	sn.ended = max(clock.Since(sn.began), 1)
	for _, w := range sn.watches {
		close(w.last)
	}
}

// slow tells whether a server answers too slowly.
func (sn *snapshot) slow() bool {
	if !sn.gentle {
		return false
	}
	sn.mu.Lock()
	defer sn.mu.Unlock()
	for _, w := range sn.watches {
		if w.over.Load() {
			return true
		}
	}
	return false
}

// A stream is a part that is read as fast as it may be.
type stream struct {
	sn     *snapshot
	inner  io.ReadCloser
	name   string
	ctx    context.Context // ends with the part, its Open's context, or the snapshot
	cancel context.CancelFunc
	unhook func() bool
	over   bool // io.EOF was returned
}

func (st *stream) Read(p []byte) (int, error) {
	if len(p) > 0 && !st.over {
		p = st.sn.wait(st.ctx, p)
	}
	n, err := st.inner.Read(p)
	st.sn.pace.took(n)
	if err == nil {
		return n, nil
	}
	if err == io.EOF {
		st.over = true
		st.sn.read(st.name)
		return n, err
	}
	if why := st.sn.why(); why != nil && !errors.Is(err, why) {
		err = why
	}
	return n, err
}

// Close ends the reading. After the last part it lets the server's child end first, for a moment: a server whose last replica goes kills the child, which then tells
// nothing of what it took.
func (st *stream) Close() error {
	if st.over {
		st.sn.settle(st.ctx)
	}
	st.unhook()
	st.cancel()
	return st.inner.Close()
}
