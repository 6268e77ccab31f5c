package schedule

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/amberkv/amber/catalog"
)

const backupTTL = 30 * time.Second // after which a backup's process that died or sleeps keeps no other from beginning

// A world is what schedulers share: a Journal, leases, data stores, and the backups that were made of them.
type world struct {
	*memory
	t       *testing.T
	plan    func(d Due) (takes time.Duration, err error) // what becomes of an attempt
	mu      sync.Mutex
	seq     int
	backups map[catalog.ID]*made
	busy    map[string]*made // data stores that are being backed up
	ready   map[string][]catalog.ID
	ended   map[string]int // by the due time: how often the host was told
	begun   int
	nodes   []*node
	slept   bool // one of them slept in the midst of something
}

// made is a backup in a world.
type made struct {
	id     catalog.ID
	by     *node
	key    string
	state  string
	begun  time.Time
	policy string
}

func newWorld(t *testing.T) *world {
	return &world{memory: newMemory(), t: t, backups: map[catalog.ID]*made{}, busy: map[string]*made{}, ready: map[string][]catalog.ID{}, ended: map[string]int{},
		plan: func(Due) (time.Duration, error) { return time.Minute, nil }}
}

func key(policy string, due time.Time) string { return policy + " " + due.UTC().Format(time.RFC3339) }

// A node is a process with a scheduler. It can be paused, as by SIGSTOP, and killed.
type node struct {
	*world
	name string
	s    *Scheduler

	gate   sync.Mutex
	awake  chan struct{} // closed while it isn't paused
	asleep time.Time     // since when it is, or is dead
	dead   bool
	calls  int
	hook   func(call string, n int) fault // what becomes of a call
	after  func(n int)                    // called when a call has had its effect

	stop    context.CancelFunc
	running sync.WaitGroup
}

// A fault is what goes wrong with a call.
type fault int

const (
	faultNone   fault = iota
	faultBefore       // an error, and no effect
	faultAfter        // an error after the effect
)

var errFault = errors.New("injected fault")
var errDead = errors.New("the process is dead")

// start starts a scheduler.
func (w *world) start(name string, change func(*Config)) *node {
	n := w.node(name, change)
	n.run()
	return n
}

func (w *world) node(name string, change func(*Config)) *node {
	w.t.Helper()
	n := &node{world: w, name: name, awake: make(chan struct{})}
	close(n.awake)
	cfg := Config{Journal: n, Leaser: n, Job: n, Owner: name, Ended: n.told}
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	n.s = s
	w.mu.Lock()
	w.nodes = append(w.nodes, n)
	w.mu.Unlock()
	return n
}

// run lets the scheduler run until it is stopped or killed.
func (n *node) run() {
	ctx, stop := context.WithCancel(context.Background())
	n.stop = stop
	n.running.Go(func() {
		if err := n.s.Run(ctx); err != nil {
			n.t.Error(err)
		}
	})
}

// end stops it as SIGTERM does.
func (n *node) end() {
	n.stop()
	n.running.Wait()
}

// kill ends it as SIGKILL does.
func (n *node) kill() {
	n.gate.Lock()
	n.dead, n.asleep = true, time.Now()
	n.gate.Unlock()
	n.stop()
	n.running.Wait()
}

func (n *node) pause() {
	n.gate.Lock()
	defer n.gate.Unlock()
	n.awake, n.asleep = make(chan struct{}), time.Now()
}

func (n *node) wake() {
	n.gate.Lock()
	defer n.gate.Unlock()
	close(n.awake)
	n.asleep = time.Time{}
}

// out says whether it has been away for so long that its leases have ended.
func (n *node) out() bool {
	n.gate.Lock()
	defer n.gate.Unlock()
	return !n.asleep.IsZero() && time.Since(n.asleep) >= backupTTL
}

// still waits while it is paused.
func (n *node) still() error {
	for {
		n.gate.Lock()
		awake, dead := n.awake, n.dead
		n.gate.Unlock()
		if dead {
			return errDead
		}
		select {
		case <-awake:
			return nil
		default:
			<-awake
		}
	}
}

// call is what all calls from the scheduler go through.
func (n *node) call(name string, do func() error) error {
	if err := n.still(); err != nil {
		return err
	}
	f := faultNone
	n.gate.Lock()
	n.calls++
	count, hook, after := n.calls, n.hook, n.after
	n.gate.Unlock()
	if hook != nil {
		f = hook(name, count)
		if err := n.still(); err != nil {
			return err
		}
	}
	if f == faultBefore {
		return errFault
	}
	err := do()
	if after != nil {
		after(count)
	}
	if serr := n.still(); serr != nil {
		return serr
	}
	if f == faultAfter {
		return errFault
	}
	return err
}

func (n *node) PutPolicy(ctx context.Context, p *Policy, prev Revision) (rev Revision, err error) {
	err = n.call("PutPolicy", func() (err error) { rev, err = n.memory.PutPolicy(ctx, p, prev); return err })
	return rev, err
}

func (n *node) GetPolicy(ctx context.Context, id string) (p *Policy, rev Revision, err error) {
	err = n.call("GetPolicy", func() (err error) { p, rev, err = n.memory.GetPolicy(ctx, id); return err })
	return p, rev, err
}

func (n *node) DeletePolicy(ctx context.Context, id string, rev Revision) error {
	return n.call("DeletePolicy", func() error { return n.memory.DeletePolicy(ctx, id, rev) })
}

func (n *node) Policies(ctx context.Context) iter.Seq2[PolicyRevision, error] {
	if err := n.call("Policies", func() error { return nil }); err != nil {
		return func(yield func(PolicyRevision, error) bool) { yield(PolicyRevision{}, err) }
	}
	return n.memory.Policies(ctx)
}

func (n *node) PutRun(ctx context.Context, r *Run, prev Revision) (rev Revision, err error) {
	err = n.call("PutRun", func() (err error) { rev, err = n.memory.PutRun(ctx, r, prev); return err })
	if err != nil {
		rev = ""
	}
	return rev, err
}

func (n *node) GetRun(ctx context.Context, policy string, due time.Time) (r *Run, rev Revision, err error) {
	err = n.call("GetRun", func() (err error) { r, rev, err = n.memory.GetRun(ctx, policy, due); return err })
	return r, rev, err
}

func (n *node) Runs(ctx context.Context, q RunQuery) iter.Seq2[*Run, error] {
	if err := n.call("Runs", func() error { return nil }); err != nil {
		return func(yield func(*Run, error) bool) { yield(nil, err) }
	}
	return n.memory.Runs(ctx, q)
}

func (n *node) TrimRuns(ctx context.Context, policy string, before time.Time) (count int, err error) {
	err = n.call("TrimRuns", func() (err error) { count, err = n.memory.TrimRuns(ctx, policy, before); return err })
	return count, err
}

type nodeLease struct {
	catalog.Lease
	n *node
}

func (n *node) Acquire(ctx context.Context, name string, ttl time.Duration) (catalog.Lease, error) {
	var lease catalog.Lease
	err := n.call("Acquire", func() (err error) { lease, err = n.memory.Acquire(ctx, name, ttl); return err })
	if err != nil {
		return nil, err
	}
	return nodeLease{lease, n}, nil
}

func (l nodeLease) Renew(ctx context.Context) error {
	return l.n.call("Renew", func() error { return l.Lease.Renew(ctx) })
}

func (l nodeLease) Release(ctx context.Context) error {
	return l.n.call("Release", func() error { return l.Lease.Release(ctx) })
}

// Backup makes one as backup.Runner does, with its promises: one at a time of a data store, and what was settled is never ready.
func (n *node) Backup(ctx context.Context, d Due) (id catalog.ID, err error) {
	var b *made
	err = n.call("Backup", func() error {
		takes, fails := n.plan(d)
		if later := (*LaterError)(nil); errors.As(fails, &later) {
			return fails // before anything is begun
		}
		n.world.mu.Lock()
		if other := n.busy[d.Policy.DataStore]; other != nil && !other.by.out() {
			n.world.mu.Unlock()
			return fmt.Errorf("%w: %s is being backed up by %s since %s", ErrOverlap, d.Policy.DataStore, other.by.name, other.begun)
		} else if other != nil && other.state == "running" {
			other.state = "interrupted"
		}
		n.seq++
		b = &made{id: catalog.ID(fmt.Sprintf("b%d", n.seq)), by: n, key: key(d.Policy.ID, d.Due), state: "running", begun: time.Now(), policy: d.Policy.ID}
		n.backups[b.id], n.busy[d.Policy.DataStore] = b, b
		n.begun++
		n.world.mu.Unlock()
		err := d.Registered(ctx, b.id)
		if err == nil {
			err = n.sleep(ctx, takes)
		}
		if err == nil {
			err = fails
		}
		if serr := n.still(); serr != nil {
			return serr // its process can't say anything any more
		}
		n.world.mu.Lock()
		defer n.world.mu.Unlock()
		if n.busy[d.Policy.DataStore] == b {
			delete(n.busy, d.Policy.DataStore)
		}
		switch {
		case b.state != "running":
			return errors.New("another process declared this run dead")
		case err != nil:
			b.state = "failed"
			return err
		}
		b.state = "ready"
		n.ready[b.key] = append(n.ready[b.key], b.id)
		return nil
	})
	if err != nil {
		return "", err
	}
	return b.id, nil
}

func (n *node) sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (n *node) Settle(ctx context.Context, p *Policy, id catalog.ID) (ready bool, err error) {
	err = n.call("Settle", func() error {
		n.world.mu.Lock()
		defer n.world.mu.Unlock()
		if b := n.backups[id]; b != nil {
			ready = b.state == "ready"
			if b.state == "running" {
				b.state = "interrupted"
			}
		}
		return ctx.Err()
	})
	return ready && err == nil, err
}

func (n *node) told(_ context.Context, r *Run) {
	n.world.mu.Lock()
	defer n.world.mu.Unlock()
	n.ended[key(r.Policy, r.Due)]++
}

// at is the backup that is being made of a data store, if there is one, and what is known of it now.
func (w *world) at(dataStore string) made {
	w.mu.Lock()
	defer w.mu.Unlock()
	if b := w.busy[dataStore]; b != nil {
		return *b
	}
	return made{}
}

// put writes a policy as it is.
func (w *world) put(p Policy) *Policy {
	w.t.Helper()
	prev := w.policies[p.ID].rev
	if _, err := w.memory.PutPolicy(context.Background(), &p, prev); err != nil {
		w.t.Fatal(err)
	}
	return &p
}

// all returns the runs of a policy, those of the earliest due times first.
func (w *world) all(policy string) []*Run {
	var all []*Run
	for r, err := range w.memory.Runs(context.Background(), RunQuery{Policy: policy}) {
		if err != nil {
			w.t.Fatal(err)
		}
		all = append(all, r)
	}
	slices.Reverse(all)
	return all
}

// story is what became of a policy's due times, in short.
func (w *world) story(policy string) []string {
	var all []string
	for _, r := range w.all(policy) {
		s := r.Due.Format("02T15:04 ") + string(r.State)
		if r.Count > 1 {
			s = fmt.Sprintf("%s..%s (%d)", r.First.Format("02T15:04"), s, r.Count)
		}
		if len(r.Attempts) > 1 || len(r.Attempts) == 1 && r.State == RunFailed {
			s += fmt.Sprintf(" %d attempts", len(r.Attempts))
		}
		all = append(all, s)
	}
	return all
}
