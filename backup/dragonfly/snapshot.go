package dragonfly

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/internal/flows"
	"github.com/amberkv/amber/catalog"
)

// summaryPart names the part that we write: what makes a DFS set of the flows.
const summaryPart = "summary.dfs"

// A snapshot is a synchronisation that goes on in the background, and what has come of it.
type snapshot struct {
	s       *Snapshotter
	facts   flows.Facts
	session string // the master's ID
	start   time.Time
	spool   *spool
	cancel  context.CancelCauseFunc // of what goes on
	done    chan struct{}           // closed when nothing goes on any more
	closed  func()                  // closes the snapshot once

	mu     sync.Mutex
	source catalog.Source
	cost   catalog.Cost
	opened map[string]bool
	err    error          // why it failed
	over   bool           // all flows have ended, and well
	cut    time.Time      // the instant
	ends   []flows.End    // of the flows
	shut   bool           // it was closed
	unread int            // parts that weren't read to their end
	reads  map[*part]bool // that are open
}

func newSnapshot(s *Snapshotter, facts flows.Facts, session *flows.Session, start time.Time) *snapshot {
	sn := &snapshot{
		s: s, facts: facts, session: session.ID, start: start, done: make(chan struct{}), opened: map[string]bool{}, reads: map[*part]bool{},
		unread: session.Shards + 1,
		spool:  newSpool(s.cfg.SpoolDir, s.cfg.SpoolLimit, s.memory, session.Shards),
		source: catalog.Source{
			Engine: "dragonfly", Version: facts.Version, Topology: "standalone", Address: facts.Addr, Role: "primary", Method: "flows",
			ReplicationID: session.ID, UsedMemory: facts.UsedMemory,
		},
	}
	if facts.Replicas > 0 {
		sn.source.Topology = "replicated"
	}
	return sn
}

func (sn *snapshot) sinks() []flows.Sink {
	var out []flows.Sink
	for _, q := range sn.spool.queues {
		out = append(out, q)
	}
	return out
}

// begin goes on with the synchronisation in the background. Its end ends with Close.
func (sn *snapshot) begin(ctx context.Context, syncing *flows.Syncing) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	sn.cancel = cancel
	sn.closed = sync.OnceFunc(func() {
		cancel(net.ErrClosed)
		<-sn.done
		sn.spool.close()
	})
	go func() {
		defer close(sn.done)
		err := sn.run(ctx, syncing)
		sn.mu.Lock()
		sn.err, sn.over = err, err == nil
		open := slices.Collect(maps.Keys(sn.reads))
		sn.mu.Unlock()
		for _, r := range open {
			r.queue.tell()
		}
		if err != nil && !errors.Is(err, net.ErrClosed) {
			sn.s.log.WarnContext(ctx, "the snapshot failed", "node", sn.facts.Addr, "error", err)
		}
	}()
}

// run takes the synchronisation to its end.
func (sn *snapshot) run(ctx context.Context, syncing *flows.Syncing) error {
	keys := syncing.Keys(ctx)
	static, err := syncing.Static(ctx)
	if err != nil {
		return sn.advise(err)
	}
	cut, err := static.Cut(ctx)
	if err != nil {
		return sn.advise(err)
	}
	ends, err := cut.Ends(ctx)
	if err != nil {
		return sn.advise(err)
	}
	now := sn.s.now()
	var bytes, commands, came int64
	for _, e := range ends {
		bytes += e.Size
		commands += e.Journal
		came += e.Keys + e.Pieces
	}
	if commands == 0 && came < keys {
		// Without a record in a journal no key can have gone since; but what is counted is the server's word.
		sn.s.log.WarnContext(ctx, "fewer keys came than the server said that it has, though none was deleted meanwhile", "node", sn.facts.Addr, "keys", keys, "came", came)
	}
	sn.s.log.InfoContext(ctx, "the snapshot was sent", "node", sn.facts.Addr, "bytes", bytes, "commands", commands, "spooled", sn.spool.most.Load())
	sn.mu.Lock()
	defer sn.mu.Unlock()
	sn.cut, sn.ends = cut.Time.UTC(), ends
	sn.cost = catalog.Cost{Bytes: bytes, Duration: now.Sub(sn.start)}
	return nil
}

// advise says what to do about errors of our own side.
func (sn *snapshot) advise(err error) error {
	var e *backup.SourceError
	if errors.Is(err, errSpoolFull) && errors.As(err, &e) && e.Hint == "" {
		e.Hint = "the synchronisation was ended, and the server is as before"
	}
	return err
}

// Source implements backup.Snapshot. Its Time and Cost are known when all parts were read.
func (sn *snapshot) Source() catalog.Source {
	sn.mu.Lock()
	defer sn.mu.Unlock()
	src := sn.source
	if sn.unread == 0 {
		cost := sn.cost
		src.Time, src.Cost = sn.cut, &cost
	}
	return src
}

// Parts implements backup.Snapshot: the flows, and the summary of their set.
func (sn *snapshot) Parts() []backup.Part {
	var out []backup.Part
	for i := range sn.spool.queues {
		out = append(out, backup.Part{Name: flowPart(i), Size: -1})
	}
	return append(out, backup.Part{Name: summaryPart, Size: int64(len(sn.summary()))})
}

func flowPart(i int) string { return fmt.Sprintf("%04d.dfs", i) }

// index returns the number of a part's flow, or -1.
func (sn *snapshot) index(p backup.Part) int {
	for i := range sn.spool.queues {
		if p.Name == flowPart(i) {
			return i
		}
	}
	return -1
}

// Shard implements backup.Sharded.
func (sn *snapshot) Shard(p backup.Part) *catalog.Shard {
	i := sn.index(p)
	sn.mu.Lock()
	defer sn.mu.Unlock()
	if i < 0 || !sn.over {
		return nil
	}
	return &catalog.Shard{ID: strconv.Itoa(i), Address: sn.facts.Addr, Role: "primary", ReplicationID: sn.session, ReplicationOffset: sn.ends[i].LSN, Time: sn.cut}
}

// Open implements backup.Snapshot.
func (sn *snapshot) Open(ctx context.Context, p backup.Part) (io.ReadCloser, error) {
	i := sn.index(p)
	if i < 0 && p.Name != summaryPart {
		return nil, sn.fail("open", fmt.Errorf("the snapshot has no part %.60q", p.Name))
	}
	if err := ctx.Err(); err != nil {
		return nil, sn.fail("open", err)
	}
	sn.mu.Lock()
	again := sn.opened[p.Name]
	sn.opened[p.Name] = true
	err := sn.err
	if err == nil && sn.shut {
		err = sn.fail("open", net.ErrClosed)
	}
	sn.mu.Unlock()
	switch {
	case again:
		return nil, sn.fail("open", errors.New("the part was opened before: its bytes come only once"))
	case err != nil:
		return nil, err
	}
	r := &part{sn: sn, name: p.Name}
	if i >= 0 {
		r.queue = sn.spool.queues[i]
	} else {
		// The summary waits for its snapshot's end as the flows do, in a queue that has all of it.
		all := newSpool("", 0, memoryOfAll, 1)
		r.queue = all.queues[0]
		b := sn.summary()
		if err := r.queue.Append(b); err != nil {
			return nil, sn.fail("open", err)
		}
		r.queue.Valid(int64(len(b)))
	}
	sn.mu.Lock()
	sn.reads[r] = true
	sn.mu.Unlock()
	r.release = context.AfterFunc(ctx, func() { r.end(sn.fail("read the flows", ctx.Err())) })
	return r, nil
}

// Close implements backup.Snapshot.
func (sn *snapshot) Close() error {
	sn.closed()
	sn.mu.Lock()
	sn.shut = true
	open := slices.Collect(maps.Keys(sn.reads))
	sn.mu.Unlock()
	for _, r := range open {
		r.end(sn.fail("read the flows", net.ErrClosed))
	}
	return nil
}

func (sn *snapshot) fail(step string, err error) error {
	return &backup.SourceError{Addr: sn.facts.Addr, Step: step, Err: err}
}

// A part reads one flow, or the summary.
type part struct {
	sn      *snapshot
	name    string
	queue   *queue
	release func() bool

	reading sync.Mutex // by one at a time
	whole   bool       // it was read to its end
	mu      sync.Mutex
	err     error // sticky
}

// end makes err what is read from now on, unless there is an error already.
func (r *part) end(err error) {
	r.mu.Lock()
	if r.err == nil {
		r.err = err
	}
	r.mu.Unlock()
	r.queue.tell()
}

// over returns why there is nothing more to read: the part's own end, or that of the snapshot, which is io.EOF if all flows have ended and
// all of this one was read.
func (r *part) over() error {
	r.mu.Lock()
	err := r.err
	r.mu.Unlock()
	if err != nil {
		return err
	}
	r.sn.mu.Lock()
	defer r.sn.mu.Unlock()
	switch {
	case r.sn.err != nil:
		return r.sn.err
	case r.sn.over && r.queue.read == r.queue.valid: // over is told under the lock of the queue
		return io.EOF
	}
	return nil
}

// Read implements io.Reader.
func (r *part) Read(p []byte) (int, error) {
	r.reading.Lock()
	defer r.reading.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	n, err := r.queue.take(p, r.over)
	if errors.Is(err, errDropped) {
		err = r.sn.fail("read the flows", net.ErrClosed)
	}
	if err != nil {
		r.end(err)
		r.mu.Lock()
		err = r.err
		r.mu.Unlock()
	}
	if err == io.EOF && !r.whole {
		r.whole = true
		r.sn.mu.Lock()
		r.sn.unread--
		r.sn.mu.Unlock()
	}
	return n, err
}

// Close implements io.Closer. What is left of the part is forgotten.
func (r *part) Close() error {
	r.release()
	r.end(r.sn.fail("read "+r.name, net.ErrClosed))
	r.queue.drop()
	r.sn.mu.Lock()
	delete(r.sn.reads, r)
	r.sn.mu.Unlock()
	return nil
}
