package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/internal/link"
	"github.com/amberkv/amber/backup/internal/retake"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/clock"
)

// A snapshot is one of all shards.
type snapshot struct {
	s      *Snapshotter
	start  *layout // before anything was begun
	addr   string  // of the node that told it
	shards []*shard

	mu      sync.Mutex
	count   int // how many snapshots of nodes have begun so far
	checked int // how many of them had when no slot had moved
	closed  bool
	doing   map[*context.CancelCauseFunc]struct{} // what Close ends
}

// A shard is a part.
type shard struct {
	layout *shardLayout
	name   string
	part   *retake.Part

	// Under the snapshot's mu:
	id    string // of the primary now
	found bool   // the layout's primary was taken once
	begun bool
	done  bool // read to its end
}

// explain says which shard an error is of.
func (sh *shard) explain(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return fmt.Errorf("shard of %s: %w", name(sh.layout.slots), err)
}

// fresh refuses the snapshot of a replica that was behind its primary when that was asked for its slots: it could have keys of a slot that had left
// before, or lack those of one that had come.
func (sh *shard) fresh(src catalog.Source) error {
	l := sh.layout
	if l.replID == "" || src.ReplicationID != l.replID || src.ReplicationOffset >= l.offset {
		return nil
	}
	err := link.As(backup.ErrTransient, fmt.Errorf("the snapshot is of offset %d, and the primary was at %d before", src.ReplicationOffset, l.offset))
	return &backup.SourceError{Addr: src.Address, Step: "begin", Err: err, Hint: "the replica lags: try again, or take the snapshot from the primary"}
}

// begun counts a snapshot that was begun.
func (sn *snapshot) begun(sh *shard) {
	sn.mu.Lock()
	defer sn.mu.Unlock()
	sn.count++
	sh.begun = true
}

// errClosed is the error of who waits for a snapshot that is closed.
var errClosed = fmt.Errorf("the snapshot was closed: %w", net.ErrClosed)

// until returns a context that ends when the snapshot is closed, too.
func (sn *snapshot) until(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	sn.mu.Lock()
	defer sn.mu.Unlock()
	if sn.closed {
		cancel(errClosed)
	}
	sn.doing[&cancel] = struct{}{}
	return ctx, func() {
		cancel(nil)
		sn.mu.Lock()
		defer sn.mu.Unlock()
		delete(sn.doing, &cancel)
	}
}

// find returns options for the primary that has a shard's slots. The first time that is known.
func (sn *snapshot) find(ctx context.Context, sh *shard) (*redis.Options, error) {
	sn.mu.Lock()
	first := !sh.found
	sh.found = true
	sn.mu.Unlock()
	if first {
		return sn.s.options(sh.layout.addr), nil
	}
	wait, cancel := context.WithTimeout(ctx, sn.s.cfg.FailoverWait)
	defer cancel()
	var last error // why there was none, before time was up
	for {
		m, why, err := sn.primary(wait, sh)
		if last == nil || wait.Err() == nil {
			last = cmp.Or(why, err)
		}
		switch {
		case err != nil && wait.Err() == nil:
			return nil, err
		case m != nil:
			sn.mu.Lock()
			sh.id = m.id
			sn.mu.Unlock()
			return sn.s.options(m.addr), nil
		}
		if clock.Sleep(wait, poll) != nil {
			if ctx.Err() != nil {
				return nil, &backup.SourceError{Addr: sn.addr, Step: "wait for a primary", Err: context.Cause(ctx)}
			}
			err := link.As(backup.ErrTransient, fmt.Errorf("%s have no primary that answers for %v: %w", name(sh.layout.slots), sn.s.cfg.FailoverWait, last))
			return nil, &backup.SourceError{Addr: sn.addr, Step: "wait for a primary", Err: err, Hint: "bring the node back, or promote a replica of it"}
		}
	}
}

// primary asks the shard's nodes, and some others, who the primary is, and that one whether it is that. The newest claim counts. Without a primary it tells why.
func (sn *snapshot) primary(ctx context.Context, sh *shard) (m *member, why, err error) {
	ask := slices.Clone(sh.layout.nodes)
	for _, addr := range append(sn.s.seeds(), sn.start.nodes...) {
		if !slices.Contains(ask, addr) && len(ask) < together {
			ask = append(ask, addr)
		}
	}
	views, errs := make([]*view, len(ask)), make([]error, len(ask))
	var group errgroup.Group
	for i, addr := range ask {
		group.Go(func() error {
			views[i], errs[i] = sn.s.ask(ctx, addr, false)
			return nil
		})
	}
	group.Wait()
	slot := sh.layout.slots[0].First
	for i, v := range views {
		switch {
		case v == nil && !retake.Again(errs[i]) && ctx.Err() == nil:
			return nil, nil, errs[i]
		case v == nil:
			continue
		}
		for _, other := range v.members {
			if other.isPrimary && !other.failed && covers(other.slots, slot) && (m == nil || other.epoch > m.epoch) {
				m = other
			}
		}
	}
	if m == nil {
		return nil, cmp.Or(joined(errs), errors.New("all say that it has failed")), nil
	}
	v, err := sn.s.ask(ctx, m.addr, false)
	switch {
	case err != nil && !retake.Again(err):
		return nil, nil, err
	case err != nil:
		return nil, err, nil
	case v.self.id != m.id || !v.self.isPrimary:
		return nil, fmt.Errorf("the node at %s doesn't say that it is", m.addr), nil
	case !slices.Equal(v.self.slots, sh.layout.slots):
		err := link.As(backup.ErrTransient, fmt.Errorf("slots moved while the snapshot was taken: %s at %s has %s and not %s", m.id, m.addr, name(v.self.slots), name(sh.layout.slots)))
		return nil, nil, &backup.SourceError{Addr: m.addr, Step: "CLUSTER NODES", Err: err, Hint: "take the snapshot again"}
	}
	return v.self, nil, nil
}

// check looks whether a slot has moved since nothing was begun, if all shards have begun and more of them than when that was last found. It waits
// for nodes that don't answer only if it has to be known now.
func (sn *snapshot) check(ctx context.Context, now bool) error {
	sn.mu.Lock()
	count := sn.count
	all := !slices.ContainsFunc(sn.shards, func(sh *shard) bool { return !sh.begun })
	known := sn.checked == count && !now
	sn.mu.Unlock()
	if !all || known {
		return nil
	}
	addrs := append(sn.s.seeds(), sn.start.nodes...)
	for begin := clock.System(); ; {
		l, troubles, err := sn.s.look(ctx, addrs)
		var why string
		switch {
		case ctx.Err() != nil:
			return sn.fail(context.Cause(ctx), "")
		case err != nil && (!retake.Again(err) || !now):
			return err
		case err != nil:
			troubles = []trouble{{text: err.Error()}}
		}
		for _, t := range troubles {
			if t.moving {
				why = texts(troubles)
			}
		}
		if why == "" && len(troubles) == 0 {
			why = moved(sn.start, l)
		}
		switch {
		case why != "":
			return sn.fail(link.As(backup.ErrTransient, fmt.Errorf("slots moved while the snapshot was taken, so that it could lack keys or have them twice: %s", why)),
				"take the snapshot again when they have arrived")
		case len(troubles) == 0:
			sn.mu.Lock()
			sn.checked = max(sn.checked, count)
			sn.mu.Unlock()
			return nil
		case !now:
			sn.s.log.InfoContext(ctx, "whether slots have moved is found out when all shards were read", "reason", texts(troubles))
			return nil
		case clock.Since(begin) >= sn.s.cfg.SlotWait:
			return sn.fail(link.As(backup.ErrTransient, fmt.Errorf("whether slots moved while the snapshot was taken is not known after %v: %s", sn.s.cfg.SlotWait, texts(troubles))),
				"take the snapshot again when all nodes are well")
		}
		if clock.Sleep(ctx, poll) != nil {
			return sn.fail(context.Cause(ctx), "")
		}
	}
}

func (sn *snapshot) fail(err error, hint string) error {
	return &backup.SourceError{Addr: sn.addr, Step: "look for slots that moved", Err: err, Hint: hint}
}

// finish is called when a shard was read to its end.
func (sn *snapshot) finish(ctx context.Context, sh *shard) error {
	src, _ := sh.part.Source()
	sn.mu.Lock()
	sh.done = true
	last := !slices.ContainsFunc(sn.shards, func(sh *shard) bool { return !sh.done })
	// Of a snapshot that reads keys one by one the instant is all of the time.
	unknown := sn.checked != sn.count || src.Fuzzy
	sn.mu.Unlock()
	if !last || !unknown {
		return nil
	}
	return sn.check(ctx, true)
}

func (sn *snapshot) Parts() []backup.Part {
	var out []backup.Part
	for _, sh := range sn.shards {
		out = append(out, backup.Part{Name: sh.name, Size: -1})
	}
	return out
}

func (sn *snapshot) Open(ctx context.Context, p backup.Part) (io.ReadCloser, error) {
	i := slices.IndexFunc(sn.shards, func(sh *shard) bool { return sh.name == p.Name })
	if i < 0 {
		return nil, sn.open(fmt.Errorf("the snapshot has no part %q", p.Name))
	}
	if ctx.Err() != nil {
		return nil, sn.open(ctx.Err())
	}
	sh := sn.shards[i]
	until, release := sn.until(ctx)
	in, err := sh.part.Open(until)
	if err == nil {
		if err = sn.check(until, false); err != nil {
			in.Close()
		}
	}
	if err != nil {
		release()
		return nil, sh.explain(err)
	}
	return &reader{sn: sn, sh: sh, in: in, ctx: until, release: release}, nil
}

func (sn *snapshot) open(err error) error {
	return &backup.SourceError{Addr: sn.addr, Step: "open", Err: err}
}

// Shard tells where a part came from.
func (sn *snapshot) Shard(p backup.Part) *catalog.Shard {
	i := slices.IndexFunc(sn.shards, func(sh *shard) bool { return sh.name == p.Name })
	if i < 0 {
		return nil
	}
	sh := sn.shards[i]
	src, attempts := sh.part.Source()
	sn.mu.Lock()
	defer sn.mu.Unlock()
	out := &catalog.Shard{ID: sh.id, Address: src.Address, Role: src.Role, Slots: slices.Clone(sh.layout.slots), ReplicationID: src.ReplicationID,
		ReplicationOffset: src.ReplicationOffset, Time: src.Time}
	if attempts > 1 {
		out.Attempts = attempts
	}
	return out
}

// Source puts together what the nodes tell.
func (sn *snapshot) Source() catalog.Source {
	out := catalog.Source{Topology: "cluster", Address: sn.addr}
	var cost catalog.Cost
	var last time.Time
	for i, sh := range sn.shards {
		src, attempts := sh.part.Source()
		if attempts == 0 {
			continue
		}
		if i == 0 {
			out.Engine, out.Version, out.Method, out.Role, out.Reason = src.Engine, src.Version, src.Method, src.Role, src.Reason
		}
		if src.Role != out.Role {
			out.Role = "" // some by one, some by the other
		}
		out.UsedMemory += src.UsedMemory
		out.Fuzzy = out.Fuzzy || src.Fuzzy
		if !src.Time.IsZero() {
			if out.Time.IsZero() || src.Time.Before(out.Time) {
				out.Time = src.Time
			}
			if src.Time.After(last) {
				last = src.Time
			}
		}
		if src.Scan != nil {
			if out.Scan == nil {
				out.Scan = &catalog.Scan{}
			}
			out.Scan.Listed += src.Scan.Listed
			out.Scan.Gone += src.Scan.Gone
			out.Scan.Expired += src.Scan.Expired
			out.Scan.Changed += src.Scan.Changed
			out.Scan.Moved += src.Scan.Moved
		}
		if c := src.Cost; c != nil { // of nodes side by side: the worst of each, and the sums of what they sent and took
			out.Cost = &cost
			cost.Bytes += c.Bytes
			cost.CopyOnWrite += c.CopyOnWrite
			cost.Fork = max(cost.Fork, c.Fork)
			cost.Duration = max(cost.Duration, c.Duration)
			cost.Waited = max(cost.Waited, c.Waited)
			cost.Slowed = max(cost.Slowed, c.Slowed)
			cost.LatencyBefore = max(cost.LatencyBefore, c.LatencyBefore)
			cost.LatencyDuring = max(cost.LatencyDuring, c.LatencyDuring)
		}
	}
	if !out.Time.IsZero() {
		out.Spread = last.Sub(out.Time)
	}
	return out
}

func (sn *snapshot) Close() error {
	sn.mu.Lock()
	sn.closed = true
	for cancel := range sn.doing {
		(*cancel)(errClosed)
	}
	sn.mu.Unlock()
	errs := make([]error, len(sn.shards))
	var group sync.WaitGroup
	for i, sh := range sn.shards {
		group.Go(func() { errs[i] = sh.part.Close() })
	}
	group.Wait()
	return errors.Join(errs...)
}

// A reader reads one part, and the last of them all looks at the slots before it says that it is whole.
type reader struct {
	sn      *snapshot
	sh      *shard
	in      io.ReadCloser
	ctx     context.Context
	release func()
	err     error // sticky
}

func (r *reader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.in.Read(p)
	if err == io.EOF {
		if late := r.sn.finish(r.ctx, r.sh); late != nil {
			err = late
		}
	}
	r.err = r.sh.explain(err)
	return n, r.err
}

func (r *reader) Close() error {
	r.release()
	return r.in.Close()
}
