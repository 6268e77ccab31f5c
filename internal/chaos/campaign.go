package chaos

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/storetest"
)

// A kind is a way in which a call fails.
type kind struct {
	name  string
	fault storetest.Fault
	ops   []storetest.Op // empty: all that the mode is for

	harmless bool // nobody but a part's writer may notice
	lies     bool // the store says something that isn't so
	corrupts bool // the store keeps something else than it was given
	cancel   bool // the caller goes away when the call hangs
}

var everyOp = []storetest.Op{storetest.OpCreate, storetest.OpWrite, storetest.OpCommit, storetest.OpAbort, storetest.OpOpen, storetest.OpRead,
	storetest.OpStat, storetest.OpList, storetest.OpDelete, storetest.OpSweep}

func kinds() []kind {
	lists, reads, writes := []storetest.Op{storetest.OpList}, []storetest.Op{storetest.OpRead}, []storetest.Op{storetest.OpWrite}
	transient := storage.ErrTransient
	return []kind{
		{name: "before", fault: storetest.Fault{Mode: storetest.Before}},
		{name: "after", fault: storetest.Fault{Mode: storetest.After}},
		{name: "from then on", fault: storetest.Fault{Mode: storetest.Before, On: true}},
		{name: "transient before", fault: storetest.Fault{Mode: storetest.Before, Err: transient}, harmless: true},
		{name: "transient after", fault: storetest.Fault{Mode: storetest.After, Err: transient}, harmless: true},
		{name: "transient from then on", fault: storetest.Fault{Mode: storetest.After, Err: transient, On: true}},
		{name: "hang", fault: storetest.Fault{Mode: storetest.Hang}, harmless: true},
		{name: "hang, cancelled", fault: storetest.Fault{Mode: storetest.Hang}, cancel: true},
		{name: "stall", fault: storetest.Fault{Mode: storetest.Stall, For: 5 * time.Millisecond}, harmless: true},
		{name: "short write", fault: storetest.Fault{Mode: storetest.ShortWrite}, ops: writes},
		{name: "transient short write", fault: storetest.Fault{Mode: storetest.ShortWrite, Err: transient}, ops: writes, harmless: true},
		{name: "flipped on write", fault: storetest.Fault{Mode: storetest.Flip}, ops: writes, lies: true, corrupts: true},
		{name: "lost on write", fault: storetest.Fault{Mode: storetest.Cut}, ops: writes, lies: true, corrupts: true},
		{name: "flipped on read", fault: storetest.Fault{Mode: storetest.Flip}, ops: reads, lies: true},
		{name: "cut on read", fault: storetest.Fault{Mode: storetest.Cut}, ops: reads, harmless: true},
		{name: "list without the newest", fault: storetest.Fault{Mode: storetest.Unseen}, ops: lists, lies: true},
		{name: "list with the deleted", fault: storetest.Fault{Mode: storetest.Undead}, ops: lists, lies: true},
		{name: "list doubled", fault: storetest.Fault{Mode: storetest.Doubled}, ops: lists, harmless: true},
		{name: "list broken off", fault: storetest.Fault{Mode: storetest.Midway}, ops: lists},
		{name: "list broken off for the moment", fault: storetest.Fault{Mode: storetest.Midway, Err: transient}, ops: lists, harmless: true},
	}
}

// A Campaign makes every call of a store fail in every way, for every operation.
type Campaign struct {
	// Open returns an empty store that nothing else uses, and what removes it.
	Open func(t testing.TB) (s storage.Store, remove func())
	// Data is the snapshot that is backed up and restored; nil: one of 300 keys, and 300 KiB.
	Data []byte
	// Operations are those that are tried, by name; empty: all.
	Operations []string
	// Full tries every kind of fault at every call. Else each call fails in one way, which Turn chooses: with one turn after the other all ways at all calls have theirs.
	Full bool
	Turn int
	// Every leaves out all but each so-many-th call; 0: none is left out.
	Every int
	// Secrets must not show anywhere.
	Secrets []string
	// Parallel is how many faults are tried at the same time; 0: 4.
	Parallel int
}

// A Count says how much a campaign did.
type Count struct {
	Sites      int // calls that were made to fail
	Kinds      int // ways in which they were
	Injections int // of a way at a call
	Failed     int // operations that failed for it
	Violations int
}

// Run runs the campaign. Every violation fails the test.
func (c *Campaign) Run(t *testing.T) Count {
	t.Helper()
	var total Count
	if c.Data == nil {
		c.Data = Snapshot(300, 1000)
	}
	s := newScene(t, time.Now(), c.Data)
	used := map[string]bool{}
	for _, op := range operations(c.Operations...) {
		name := op().Name
		one := c.run(t, s, op, used)
		t.Logf("%-8s %4d calls, %5d faults, %5d of them made it fail, %d violations", name, one.Sites, one.Injections, one.Failed, one.Violations)
		total.Sites += one.Sites
		total.Injections += one.Injections
		total.Failed += one.Failed
		total.Violations += one.Violations
	}
	total.Kinds = len(used)
	return total
}

// run tries one operation.
func (c *Campaign) run(t *testing.T, s *scene, op func() *Operation, used map[string]bool) Count {
	var total Count
	calm := c.try(t, s, op, kind{name: "nothing"}, "", 0)
	for _, v := range calm.violations {
		t.Errorf("%s, without a fault: %s", op().Name, v)
	}
	if calm.err != nil {
		t.Errorf("%s, without a fault: %v", op().Name, calm.err)
	}
	type job struct {
		kind kind
		op   storetest.Op
		call int
	}
	var jobs []job
	for _, o := range everyOp {
		var fit []kind
		for _, k := range kinds() {
			if len(k.ops) == 0 || slices.Contains(k.ops, o) {
				fit = append(fit, k)
			}
		}
		for call := 1; call <= calm.calls[o]; call++ {
			total.Sites++
			if c.Every > 0 && (total.Sites+c.Turn)%c.Every != 0 {
				continue
			}
			if !c.Full {
				jobs = append(jobs, job{fit[(call+c.Turn/max(c.Every, 1))%len(fit)], o, call})
				continue
			}
			for _, k := range fit {
				jobs = append(jobs, job{k, o, call})
			}
		}
	}
	results := make(chan outcome)
	work := make(chan job)
	for range max(c.Parallel, 4) {
		go func() {
			for j := range work {
				results <- c.try(t, s, op, j.kind, j.op, j.call)
			}
		}()
	}
	go func() {
		for _, j := range jobs {
			work <- j
		}
		close(work)
	}()
	for range jobs {
		r := <-results
		if len(r.hits) == 0 {
			continue
		}
		used[r.kind] = true
		total.Injections++
		if r.err != nil {
			total.Failed++
		}
		for _, v := range r.violations {
			total.Violations++
			t.Errorf("%s, %s at call %d of %s (%s): %s\n\tthe error: %v", op().Name, r.kind, r.call, r.op, r.hits[0], v, r.err)
		}
	}
	return total
}

// An outcome is what came of one fault.
type outcome struct {
	kind       string
	op         storetest.Op
	call       int
	hits       []string
	calls      map[storetest.Op]int
	err        error
	violations []string
}

// try does an operation on a store that has one fault, and judges what is left; and then, what the next run and a sweep leave.
func (c *Campaign) try(t testing.TB, s *scene, op func() *Operation, k kind, at storetest.Op, call int) outcome {
	if k.fault.Mode != storetest.Hang || k.cancel {
		return c.tryOnce(t, s, op(), k, at, call, time.Hour)
	}
	// That a call hangs is found out soon, for it is to be waited for. On a busy machine calls that don't hang may take as long: what counts then is what
	// comes when more time is left to each.
	out := c.tryOnce(t, s, op(), k, at, call, 100*time.Millisecond)
	if len(out.violations) > 0 {
		out = c.tryOnce(t, s, op(), k, at, call, 5*time.Second)
	}
	return out
}

// tryOnce is try; a call of which nothing comes for the time of stall counts as hung.
func (c *Campaign) tryOnce(t testing.TB, s *scene, op *Operation, k kind, at storetest.Op, call int, stall time.Duration) (out outcome) {
	out = outcome{kind: k.name, op: at, call: call, calls: map[storetest.Op]int{}}
	wrong := func(format string, args ...any) {
		out.violations = append(out.violations, fmt.Sprintf(format, args...))
	}
	ctx := t.Context()
	w := &world{scene: s}
	var remove func()
	w.sound, remove = c.Open(t)
	defer remove()
	if err := s.put(ctx, w.sound); err != nil {
		wrong("making the scene: %v", err)
		return out
	}
	var err error
	if w.before, err = Look(ctx, w.sound); err != nil {
		wrong("looking at the scene: %v", err)
		return out
	}
	faulty := storetest.NewFaulty(w.sound)
	if at != "" {
		fault := k.fault
		fault.Op, fault.Call = at, call
		faulty = storetest.NewFaulty(w.sound, fault)
	}
	svc, err := w.service(faulty, stall)
	if err != nil {
		wrong("%v", err)
		return out
	}
	id, took, err := c.do(ctx, w, op, svc, faulty, k)
	out.err, out.hits = err, faulty.Hits()
	for _, o := range everyOp {
		out.calls[o] = faulty.Calls(o)
	}
	if took > 5*time.Second {
		wrong("it took %v after its context had ended", took)
	}
	noticed := len(out.hits) == 0 || !k.harmless || (at == storetest.OpWrite || at == storetest.OpCommit) && strings.Contains(out.hits[0], "/part-")
	if err != nil && !noticed {
		wrong("a fault that is none to those who try again made it fail")
	}
	if len(out.hits) == 0 && err != nil {
		wrong("it failed without a fault")
	}
	after, lerr := Look(ctx, w.sound)
	if lerr != nil {
		wrong("looking at what is left: %v", lerr)
		return out
	}
	c.judge(w, op, k, id, err, after, wrong)

	if !c.Full && out.err == nil && (call+c.Turn)%3 != 0 {
		return out
	}

	// Whatever was left doesn't stand in the way of the next run, once the lease has ended, and a sweep takes it.
	w.late.Store(int64(time.Hour))
	clean, err := w.service(w.sound, time.Minute)
	if err != nil {
		wrong("%v", err)
		return out
	}
	next, err := clean.Backup(ctx, amber.BackupRequest{DataStore: "orders", Snapshotter: Bytes(Snapshot(20, 50))})
	if err != nil {
		wrong("the next run: %v", err)
		return out
	}
	if _, err := clean.Sweep(ctx, -1); err != nil {
		wrong("the next sweep: %v", err)
	}
	end, lerr := Look(ctx, w.sound)
	if lerr != nil {
		wrong("looking at what is left in the end: %v", lerr)
		return out
	}
	for _, v := range end.Violations() {
		if !k.corrupts || !strings.Contains(v, "the manifest:") {
			wrong("in the end: %s", v)
		}
	}
	for _, key := range end.Garbage() {
		if !end.unreadable(key) { // nobody knows what that needs
			wrong("in the end a sweep has left %s", key)
		}
	}
	listed := map[catalog.ID]bool{}
	for b, err := range clean.ListAll(ctx, catalog.Query{}) {
		if err != nil && !errors.Is(err, catalog.ErrCorrupt) {
			wrong("listing: %v", err)
		} else if err == nil && b.Store.Name == "" {
			listed[b.ID] = true
		}
	}
	ready := end.Ready()
	if len(ready) != len(listed) {
		wrong("the service lists %v, the store has %v", slices.Collect(maps.Keys(listed)), ready)
	}
	for _, want := range []string{below("orders", next.ID), below("carts", w.other)} {
		if !slices.Contains(ready, want) {
			wrong("in the end backup %s is gone", want)
		}
	}
	return out
}

// do does the operation. It returns how long that took after its context had ended.
func (c *Campaign) do(ctx context.Context, w *world, op *Operation, svc *amber.Service, faulty *storetest.Faulty, k kind) (catalog.ID, time.Duration, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watching, end := make(chan struct{}), make(chan time.Time, 1)
	var cancelled time.Time
	go func() {
		defer func() { end <- cancelled }()
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-watching:
				return
			case <-tick.C:
			}
			// How long a part may be on its way is not to be waited for.
			for _, hit := range faulty.Hits() {
				if k.cancel || k.fault.Mode == storetest.Hang && strings.Contains(hit, "/part-") && (strings.HasPrefix(hit, "write") || strings.HasPrefix(hit, "commit")) {
					cancelled = time.Now()
					cancel()
					return
				}
			}
		}
	}()
	id, err := op.do(ctx, w, svc)
	close(watching)
	if at := <-end; !at.IsZero() {
		return id, time.Since(at), err
	}
	return id, 0, err
}

// judge holds what an operation left against what is promised.
func (c *Campaign) judge(w *world, op *Operation, k kind, id catalog.ID, err error, after *State, wrong func(format string, args ...any)) {
	for _, v := range after.Violations() {
		if !k.corrupts || !strings.Contains(v, "the manifest:") {
			wrong("%s", v)
		}
	}
	for _, key := range after.Touched(w.before, func(key string) bool { return op.mine(w, key) }) {
		wrong("%s was touched, and is not its own", key)
	}
	for _, where := range after.Secrets(c.Secrets, err) {
		wrong("a secret is %s", where)
	}
	ready := after.Ready()
	var fresh []string
	for _, dir := range ready {
		if !slices.Contains(w.before.Ready(), dir) {
			fresh = append(fresh, dir)
		}
	}
	if newest := below("orders", w.newer); !slices.Contains(ready, newest) {
		wrong("the newest backup, %s, is gone", newest)
	}
	switch {
	case !op.makes && len(fresh) > 0:
		wrong("it made backups: %v", fresh)
	case op.makes && err == nil && (len(fresh) != 1 || fresh[0] != below("orders", id)):
		wrong("it returned nil and backup %s, and ready are, beside those of before, %v", id, fresh)
	case op.makes && err != nil && len(fresh) > 0:
		wrong("it returned an error, and %v is ready", fresh)
	}
	if op.done != nil && err == nil && !k.lies {
		for _, v := range op.done(w, after) {
			wrong("%s", v)
		}
	}
	if op.outcome != nil {
		for _, v := range op.outcome(w, err) {
			wrong("%s", v)
		}
	}
}

// unreadable tells whether a key is of a backup whose manifest can't be read.
func (st *State) unreadable(key string) bool {
	for dir, b := range st.Backups {
		if strings.HasPrefix(key, dir) && b.broken != nil {
			return true
		}
	}
	return false
}
