package schedule

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/amberkv/amber/catalog"
)

// A memory is a Journal and a Leaser in memory. Leases go by time.Now, which in a bubble of synctest is the bubble's.
type memory struct {
	mu       sync.Mutex
	rev      int
	policies map[string]kept[*Policy]
	runs     map[string][]kept[*Run] // by the policy, in the order of due times
	leases   map[string]*memoryLease
	calls    map[string]int
}

type kept[T any] struct {
	value T // nobody changes it
	rev   Revision
}

func newMemory() *memory {
	return &memory{policies: map[string]kept[*Policy]{}, runs: map[string][]kept[*Run]{}, leases: map[string]*memoryLease{}, calls: map[string]int{}}
}

func (m *memory) begin(ctx context.Context, call string) error {
	m.mu.Lock()
	m.calls[call]++
	return ctx.Err()
}

func (m *memory) next() Revision {
	m.rev++
	return Revision(fmt.Sprint(m.rev))
}

// stored is a value as it comes out of a store.
func stored[T any](v *T) *T {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	var c T
	if err := json.Unmarshal(data, &c); err != nil {
		panic(err)
	}
	return &c
}

func (m *memory) PutPolicy(ctx context.Context, p *Policy, prev Revision) (Revision, error) {
	defer m.mu.Unlock()
	if err := m.begin(ctx, "PutPolicy"); err != nil {
		return "", err
	}
	if m.policies[p.ID].rev != prev {
		return "", fmt.Errorf("policy %s %w", p.ID, ErrConflict)
	}
	k := kept[*Policy]{stored(p), m.next()}
	m.policies[p.ID] = k
	return k.rev, nil
}

func (m *memory) GetPolicy(ctx context.Context, id string) (*Policy, Revision, error) {
	defer m.mu.Unlock()
	if err := m.begin(ctx, "GetPolicy"); err != nil {
		return nil, "", err
	}
	k, ok := m.policies[id]
	if !ok {
		return nil, "", fmt.Errorf("policy %s %w", id, ErrNotFound)
	}
	if k.value == nil {
		return nil, k.rev, ErrCorrupt
	}
	return k.value.clone(), k.rev, nil
}

func (m *memory) DeletePolicy(ctx context.Context, id string, rev Revision) error {
	defer m.mu.Unlock()
	if err := m.begin(ctx, "DeletePolicy"); err != nil {
		return err
	}
	switch k, ok := m.policies[id]; {
	case !ok:
		return ErrNotFound
	case k.rev != rev:
		return ErrConflict
	}
	delete(m.policies, id)
	return nil
}

func (m *memory) Policies(ctx context.Context) iter.Seq2[PolicyRevision, error] {
	return func(yield func(PolicyRevision, error) bool) {
		err := m.begin(ctx, "Policies")
		var all []PolicyRevision
		for _, id := range slices.Sorted(maps.Keys(m.policies)) {
			all = append(all, PolicyRevision{id, m.policies[id].rev})
		}
		m.mu.Unlock()
		if err != nil {
			yield(PolicyRevision{}, err)
			return
		}
		for _, at := range all {
			if !yield(at, nil) {
				return
			}
		}
	}
}

func byDue(k kept[*Run], due time.Time) int { return k.value.Due.Compare(due) }

func (m *memory) PutRun(ctx context.Context, r *Run, prev Revision) (Revision, error) {
	defer m.mu.Unlock()
	if err := m.begin(ctx, "PutRun"); err != nil {
		return "", err
	}
	runs := m.runs[r.Policy]
	i, found := slices.BinarySearchFunc(runs, r.Due, byDue)
	if !found && prev != "" || found && runs[i].rev != prev {
		return "", fmt.Errorf("the run of %s due at %s %w", r.Policy, r.Due, ErrConflict)
	}
	if found && (runs[i].value.State == RunDone || runs[i].value.State == RunFailed) {
		panic(fmt.Sprintf("%s due at %s was %s, and becomes %s", r.Policy, r.Due, runs[i].value.State, r.State))
	}
	k := kept[*Run]{r.clone(), m.next()}
	if found {
		runs[i] = k
	} else {
		m.runs[r.Policy] = slices.Insert(runs, i, k)
	}
	return k.rev, nil
}

func (m *memory) GetRun(ctx context.Context, policy string, due time.Time) (*Run, Revision, error) {
	defer m.mu.Unlock()
	if err := m.begin(ctx, "GetRun"); err != nil {
		return nil, "", err
	}
	i, found := slices.BinarySearchFunc(m.runs[policy], due, byDue)
	if !found {
		return nil, "", ErrNotFound
	}
	k := m.runs[policy][i]
	if k.value.DataStore == "" {
		return nil, k.rev, ErrCorrupt
	}
	return k.value.clone(), k.rev, nil
}

func (m *memory) Runs(ctx context.Context, q RunQuery) iter.Seq2[*Run, error] {
	return func(yield func(*Run, error) bool) {
		if q.Policy == "" {
			panic("not needed")
		}
		err := m.begin(ctx, "Runs")
		runs := m.runs[q.Policy]
		last := len(runs)
		if !q.Until.IsZero() {
			last, _ = slices.BinarySearchFunc(runs, q.Until, byDue)
		}
		var some []*Run
		for i := last - 1; i >= 0 && (q.Limit == 0 || len(some) < q.Limit) && !runs[i].value.Due.Before(q.From); i-- {
			some = append(some, runs[i].value.clone())
		}
		m.mu.Unlock()
		if err != nil {
			yield(nil, err)
			return
		}
		for _, r := range some {
			if r.DataStore == "" && !yield(nil, ErrCorrupt) || r.DataStore != "" && !yield(r, nil) {
				return
			}
		}
	}
}

func (m *memory) TrimRuns(ctx context.Context, policy string, before time.Time) (int, error) {
	defer m.mu.Unlock()
	if err := m.begin(ctx, "TrimRuns"); err != nil {
		return 0, err
	}
	runs := m.runs[policy]
	kept := slices.Clone(runs[:0])
	for i, k := range runs {
		if i == len(runs)-1 || k.value.State == RunRunning || !k.value.Due.Before(before) {
			kept = append(kept, k)
		}
	}
	m.runs[policy] = kept
	return len(runs) - len(kept), nil
}

// A memoryLease is one in memory.
type memoryLease struct {
	m     *memory
	name  string
	token int64
	ttl   time.Duration
	until time.Time
}

func (m *memory) Acquire(ctx context.Context, name string, ttl time.Duration) (catalog.Lease, error) {
	defer m.mu.Unlock()
	if err := m.begin(ctx, "Acquire"); err != nil {
		return nil, err
	}
	old := m.leases[name]
	if old != nil && time.Now().Before(old.until) {
		return nil, &catalog.HeldError{Name: name, Owner: "somebody", Until: old.until}
	}
	l := &memoryLease{m: m, name: name, ttl: ttl, token: 1, until: time.Now().Add(ttl)}
	if old != nil {
		l.token = old.token + 1
	}
	m.leases[name] = l
	return l, nil
}

func (l *memoryLease) Token() int64 { return l.token }

func (l *memoryLease) Renew(ctx context.Context) error {
	defer l.m.mu.Unlock()
	if err := l.m.begin(ctx, "Renew"); err != nil {
		return err
	}
	if l.m.leases[l.name] != l || !time.Now().Before(l.until) {
		return catalog.ErrLeaseLost
	}
	l.until = time.Now().Add(l.ttl)
	return nil
}

func (l *memoryLease) Release(ctx context.Context) error {
	defer l.m.mu.Unlock()
	if err := l.m.begin(ctx, "Release"); err != nil {
		return err
	}
	if l.m.leases[l.name] == l && time.Now().Before(l.until) {
		l.until = time.Time{}
	}
	return nil
}
