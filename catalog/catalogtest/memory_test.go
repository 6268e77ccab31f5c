package catalogtest_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/catalogtest"
)

// A memory is a catalog and its leases in memory, to show that the suite asks for nothing that only storecatalog has. Its
// flags each break one rule.
type memory struct {
	clock  *catalogtest.Clock
	broken string

	mu        sync.Mutex
	rev       int
	manifests map[catalog.ID]entry
	old       map[catalog.ID]entry // as before the last Put
	kept      map[catalog.ID]*catalog.Backup
	leases    map[string]*held
	pages     map[string][]*catalog.Backup
	shares    map[*memoryShare]bool
	ledger    memoryLedger
}

type entry struct {
	data []byte
	rev  int
}

type held struct {
	token    int64
	expires  time.Time
	released bool
}

func newMemory(clock *catalogtest.Clock, broken string) *memory {
	return &memory{clock: clock, broken: broken, manifests: map[catalog.ID]entry{}, old: map[catalog.ID]entry{},
		kept: map[catalog.ID]*catalog.Backup{}, leases: map[string]*held{}, pages: map[string][]*catalog.Backup{}, shares: map[*memoryShare]bool{},
		ledger: memoryLedger{began: map[catalog.ID][]time.Time{}}}
}

func (m *memory) is(fault string) bool { return m.broken == fault }

func revision(e entry) catalog.Revision {
	if e.rev == 0 {
		return ""
	}
	return catalog.Revision(fmt.Sprintf("r%d", e.rev))
}

func (m *memory) Put(ctx context.Context, b *catalog.Backup, prev catalog.Revision) (catalog.Revision, error) {
	if m.is("context ignored") {
		ctx = context.Background()
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	data, err := catalog.Encode(b)
	if err != nil && !m.is("anything is put") {
		return "", err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.is("look and put") || m.is("look and put next") && prev != "" {
		now := m.manifests[b.ID]
		m.mu.Unlock()
		time.Sleep(time.Millisecond)
		m.mu.Lock()
		if revision(now) != prev {
			return "", catalog.ErrConflict
		}
	} else if now := m.manifests[b.ID]; revision(now) != prev {
		switch {
		case m.is("new over old") && prev == "":
		case m.is("any revision") && now.rev != 0 && prev != "":
		case m.is("deleted comes back") && now.rev == 0:
		case m.is("paused publishes") && b.State == catalog.StateReady && prev != "":
		default:
			return "", catalog.ErrConflict
		}
	}
	if m.is("same revision") && prev != "" {
		m.manifests[b.ID] = entry{data, m.manifests[b.ID].rev}
		return prev, nil
	}
	m.rev++
	m.old[b.ID] = m.manifests[b.ID]
	m.manifests[b.ID] = entry{data, m.rev}
	if m.is("ready is running") && prev == "" && b.State == catalog.StateReady {
		c := *b
		c.State = catalog.StateRunning
		data, _ := catalog.Encode(&c)
		m.manifests[b.ID] = entry{data, m.rev}
	}
	if m.is("rounds times") {
		c := *b
		c.ReadyAt = c.ReadyAt.Truncate(time.Millisecond)
		data, _ := catalog.Encode(&c)
		m.manifests[b.ID] = entry{data, m.rev}
	}
	if m.is("Put loses the state") && prev == "" {
		c := *b
		c.State = catalog.StateFailed
		data, _ := catalog.Encode(&c)
		m.manifests[b.ID] = entry{data, m.rev}
	}
	m.kept[b.ID] = b
	return revision(m.manifests[b.ID]), nil
}

func (m *memory) Get(ctx context.Context, id catalog.ID) (*catalog.Backup, catalog.Revision, error) {
	if err := ctx.Err(); err != nil {
		return nil, "", err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.manifests[id]
	if !ok {
		if m.is("nothing is found") {
			return &catalog.Backup{ID: id}, "", nil
		}
		return nil, "", catalog.ErrNotFound
	}
	if m.is("Put keeps the backup") {
		return m.kept[id], revision(e), nil
	}
	b, err := catalog.Decode(e.data)
	if err != nil && m.is("corrupt is missing") {
		return nil, "", catalog.ErrNotFound
	}
	if err != nil {
		return nil, revision(e), err
	}
	return b, revision(e), nil
}

func (m *memory) List(ctx context.Context, q catalog.Query) iter.Seq2[*catalog.Backup, error] {
	return func(yield func(*catalog.Backup, error) bool) {
		if err := q.Validate(); err != nil && !m.is("anything is asked for") {
			yield(nil, err)
			return
		}
		m.mu.Lock()
		var ids []catalog.ID
		for id := range m.manifests {
			ids = append(ids, id)
		}
		m.mu.Unlock()
		slices.SortFunc(ids, func(a, b catalog.ID) int { return cmp.Compare(b, a) })
		if m.is("oldest first") {
			slices.Reverse(ids)
		}
		for i, id := range ids {
			if err := ctx.Err(); err != nil {
				yield(nil, err)
				return
			}
			b, _, err := m.Get(ctx, id)
			switch {
			case errors.Is(err, catalog.ErrNotFound) && m.is("deleted is an error"):
				yield(nil, err)
				return
			case errors.Is(err, catalog.ErrNotFound):
				continue
			case err != nil:
				if !yield(nil, err) || m.is("corrupt hides others") {
					return
				}
				continue
			case q.DataStore != "" && b.DataStore != q.DataStore && !(m.is("data store by prefix") && strings.HasPrefix(b.DataStore, q.DataStore)):
				continue
			case !m.misread(q).Match(b):
				continue
			}
			if !yield(b, nil) {
				return
			}
			if m.is("short list") && i == 3 {
				return
			}
		}
	}
}

func (m *memory) Delete(ctx context.Context, id catalog.ID, rev catalog.Revision) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.manifests[id]
	switch {
	case !ok:
		return catalog.ErrNotFound
	case revision(e) != rev && !m.is("Delete of any revision"):
		return catalog.ErrConflict
	}
	if m.is("look and delete") {
		m.mu.Unlock()
		time.Sleep(time.Millisecond)
		m.mu.Lock()
	}
	if m.is("older shows") && m.old[id].rev != 0 {
		m.manifests[id] = m.old[id]
		m.mu.Unlock()
		time.Sleep(time.Millisecond)
		m.mu.Lock()
	}
	delete(m.manifests, id)
	return nil
}

func (m *memory) corrupt(id catalog.ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.manifests[id]
	data := slices.Clone(e.data)
	data[len(data)/2] ^= 1
	m.rev++
	m.manifests[id] = entry{data, m.rev}
}

func (m *memory) Acquire(ctx context.Context, name string, ttl time.Duration) (catalog.Lease, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if name == "" || strings.ContainsAny(name, "/.") || ttl <= 0 && !m.is("no time to live") {
		return nil, errors.New("invalid")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.leases[name]
	if m.is("look and acquire") {
		m.mu.Unlock()
		time.Sleep(time.Millisecond)
		m.mu.Lock()
	}
	now := m.clock.Now()
	free := h == nil || h.released || !now.Before(h.expires) && !m.is("no end")
	if !free && !m.is("no exclusion") {
		return nil, &catalog.HeldError{Name: name, Owner: "memory", Until: h.expires}
	}
	token := int64(1)
	if h != nil && !m.is("same token") {
		token = h.token + 1
	}
	h = &held{token: token, expires: now.Add(ttl)}
	m.leases[name] = h
	return &memoryLease{m, name, h, ttl}, nil
}

type memoryLease struct {
	m    *memory
	name string
	h    *held
	ttl  time.Duration
}

func (l *memoryLease) Token() int64 { return l.h.token }

func (l *memoryLease) Renew(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	if l.m.is("Renew of what is lost") {
		return nil
	}
	if l.m.leases[l.name] != l.h || l.h.released || !l.m.clock.Now().Before(l.h.expires) {
		return catalog.ErrLeaseLost
	}
	if !l.m.is("Renew does nothing") {
		l.h.expires = l.m.clock.Now().Add(l.ttl)
	}
	return nil
}

func (l *memoryLease) Release(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	if l.m.is("Release of another's") {
		if h := l.m.leases[l.name]; h != nil {
			h.released = true
		}
	}
	l.h.released = !l.m.is("Release does nothing")
	return nil
}

// inAnyDataStore is q without its data store, which a fault is about.
func inAnyDataStore(q catalog.Query) catalog.Query {
	q.DataStore = ""
	return q
}
