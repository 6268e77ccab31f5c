package journaltest_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/schedule"
)

// A memory is a journal in memory, to show that the suite asks for nothing that only storejournal has. Its flag breaks one rule.
type memory struct {
	broken string

	mu       sync.Mutex
	rev      int
	policies map[string]entry
	runs     map[runKey]entry
	kept     map[string]*schedule.Policy
	keptRuns map[runKey]*schedule.Run
	puts     int
}

type runKey struct {
	policy string
	due    int64
}

type entry struct {
	data []byte
	rev  int
}

func newMemory(broken string) *memory {
	return &memory{broken: broken, policies: map[string]entry{}, runs: map[runKey]entry{}, kept: map[string]*schedule.Policy{}, keptRuns: map[runKey]*schedule.Run{}}
}

func (m *memory) is(fault string) bool { return m.broken == fault }

func (e entry) revision() schedule.Revision {
	if e.rev == 0 {
		return ""
	}
	return schedule.Revision(strconv.Itoa(e.rev))
}

func (m *memory) ctxErr(ctx context.Context) error {
	if m.is("context ignored") {
		return nil
	}
	return ctx.Err()
}

// conflicts says whether a put with prev has to fail, where now is what is there. kind is "policy" or "run".
func (m *memory) conflicts(kind string, now entry, prev schedule.Revision) bool {
	if now.revision() == prev {
		return false
	}
	switch {
	case m.is(kind+" new over old") && prev == "", m.is(kind+" any revision") && now.rev != 0 && prev != "", m.is("deleted comes back") && now.rev == 0:
		return false
	case m.is("successor takes it") && prev != "" && len(prev) <= len(now.revision()):
		return false
	}
	return true
}

// pause lets others in between looking and putting.
func (m *memory) pause() {
	m.mu.Unlock()
	time.Sleep(time.Millisecond)
	m.mu.Lock()
}

// next returns the entry that follows one.
func (m *memory) next(kind string, now entry, data []byte) entry {
	m.rev++
	rev := m.rev
	if m.is(kind+" same revision") && now.rev > 0 {
		rev = now.rev
	}
	return entry{data, rev}
}

func (m *memory) PutPolicy(ctx context.Context, p *schedule.Policy, prev schedule.Revision) (schedule.Revision, error) {
	if err := m.ctxErr(ctx); err != nil {
		return "", err
	}
	if err := catalog.ValidName(p.ID); err != nil {
		return "", err
	}
	data, err := json.Marshal(p)
	if err != nil {
		return "", err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.policies[p.ID]
	if m.conflicts("policy", now, prev) {
		return "", schedule.ErrConflict
	}
	if m.is("policy look and put") && prev == "" || m.is("policy look and put next") && prev != "" || m.is("look and delete") && prev != "" {
		m.pause()
	}
	if m.is("policy loses a field") {
		less := *p
		less.TimeZone = ""
		data, _ = json.Marshal(&less)
	}
	if m.is("policy replaced in two steps") && prev != "" {
		delete(m.policies, p.ID)
		m.pause()
	}
	m.policies[p.ID] = m.next("policy", now, data)
	m.kept[p.ID] = p
	return m.policies[p.ID].revision(), nil
}

func (m *memory) GetPolicy(ctx context.Context, id string) (*schedule.Policy, schedule.Revision, error) {
	if err := m.ctxErr(ctx); err != nil {
		return nil, "", err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.policies[id]
	if !ok && m.is("policy by prefix") {
		for _, other := range m.policies {
			e, ok = other, true
		}
	}
	if !ok {
		return nil, "", schedule.ErrNotFound
	}
	if m.is("policy kept") {
		return m.kept[id], e.revision(), nil
	}
	p := new(schedule.Policy)
	if err := json.Unmarshal(e.data, p); err != nil {
		if m.is("corrupt policy is missing") {
			return nil, "", schedule.ErrNotFound
		}
		return nil, e.revision(), fmt.Errorf("%s: %w", id, schedule.ErrCorrupt)
	}
	return p, e.revision(), nil
}

func (m *memory) DeletePolicy(ctx context.Context, id string, rev schedule.Revision) error {
	if err := m.ctxErr(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.policies[id]
	switch {
	case !ok:
		return schedule.ErrNotFound
	case e.revision() != rev && !m.is("Delete of any revision"):
		return schedule.ErrConflict
	}
	if m.is("look and delete") {
		m.pause()
	}
	delete(m.policies, id)
	if m.is("Delete takes the runs") {
		for key := range m.runs {
			if key.policy == id {
				delete(m.runs, key)
			}
		}
	}
	return nil
}

func (m *memory) Policies(ctx context.Context) iter.Seq2[schedule.PolicyRevision, error] {
	return func(yield func(schedule.PolicyRevision, error) bool) {
		if err := m.ctxErr(ctx); err != nil {
			yield(schedule.PolicyRevision{}, err)
			return
		}
		m.mu.Lock()
		var list []schedule.PolicyRevision
		for id, e := range m.policies {
			rev := e.revision()
			if m.is("Policies without revisions") {
				rev = "1"
			}
			list = append(list, schedule.PolicyRevision{ID: id, Revision: rev})
		}
		m.mu.Unlock()
		slices.SortFunc(list, func(a, b schedule.PolicyRevision) int {
			if m.is("order of keys") {
				return strings.Compare(a.ID+"/", b.ID+"/")
			}
			return strings.Compare(a.ID, b.ID)
		})
		for i, p := range list {
			if m.is("short list of policies") && i == 2 {
				return
			}
			if !yield(p, nil) {
				return
			}
		}
	}
}

func (m *memory) PutRun(ctx context.Context, r *schedule.Run, prev schedule.Revision) (schedule.Revision, error) {
	if err := m.ctxErr(ctx); err != nil {
		return "", err
	}
	if err := catalog.ValidName(r.Policy); err != nil {
		return "", err
	}
	data, err := json.Marshal(r)
	if err != nil {
		return "", err
	}
	key := m.key(r.Policy, r.Due)
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.runs[key]
	if m.conflicts("run", now, prev) {
		return "", schedule.ErrConflict
	}
	m.puts++
	if m.is("run look and put") && prev == "" || m.is("run look and put next") && prev != "" || m.is("look and trim") && prev != "" {
		m.pause()
	}
	if m.is("write is lost") && m.puts%3 == 0 {
		return schedule.Revision(strconv.Itoa(now.rev + 1)), nil
	}
	if m.is("run loses a field") {
		less := *r
		less.First = time.Time{}
		data, _ = json.Marshal(&less)
	}
	m.runs[key] = m.next("run", now, data)
	m.keptRuns[key] = r
	return m.runs[key].revision(), nil
}

func (m *memory) key(policy string, due time.Time) runKey {
	if m.is("due by the minute") {
		due = due.Truncate(time.Minute)
	}
	return runKey{policy, due.Unix()}
}

func (m *memory) GetRun(ctx context.Context, policy string, due time.Time) (*schedule.Run, schedule.Revision, error) {
	if err := m.ctxErr(ctx); err != nil {
		return nil, "", err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	key := m.key(policy, due)
	e, ok := m.runs[key]
	if !ok {
		if m.is("no run is an empty run") {
			return &schedule.Run{}, "", nil
		}
		return nil, "", schedule.ErrNotFound
	}
	if m.is("run kept") {
		return m.keptRuns[key], e.revision(), nil
	}
	r, err := m.decode(key, e)
	if err != nil && m.is("corrupt run is missing") {
		return nil, "", schedule.ErrNotFound
	}
	return r, e.revision(), err
}

func (m *memory) decode(key runKey, e entry) (*schedule.Run, error) {
	r := new(schedule.Run)
	if err := json.Unmarshal(e.data, r); err != nil {
		return nil, fmt.Errorf("%s: %w", key.policy, schedule.ErrCorrupt)
	}
	return r, nil
}

func (m *memory) Runs(ctx context.Context, q schedule.RunQuery) iter.Seq2[*schedule.Run, error] {
	return func(yield func(*schedule.Run, error) bool) {
		if err := m.ctxErr(ctx); err != nil {
			yield(nil, err)
			return
		}
		m.mu.Lock()
		var keys []runKey
		for key := range m.runs {
			byPolicy := q.Policy == "" || q.Policy == key.policy || m.is("policy of runs by prefix") && strings.HasPrefix(key.policy, q.Policy)
			if byPolicy && (q.From.IsZero() || key.due >= q.From.Unix()) && (q.Until.IsZero() || key.due < q.Until.Unix() || m.is("until and with") && key.due == q.Until.Unix()) {
				keys = append(keys, key)
			}
		}
		m.mu.Unlock()
		slices.SortFunc(keys, func(a, b runKey) int {
			if m.is("runs by text") {
				return strings.Compare(strconv.FormatInt(b.due, 10), strconv.FormatInt(a.due, 10))
			}
			return cmp.Or(cmp.Compare(b.due, a.due), strings.Compare(a.policy, b.policy))
		})
		given := 0
		for _, key := range keys {
			m.mu.Lock()
			e, there := m.runs[key]
			m.mu.Unlock()
			if !there {
				if m.is("trimmed is an error") && !yield(nil, schedule.ErrNotFound) {
					return
				}
				continue
			}
			r, err := m.decode(key, e)
			if err != nil {
				if !yield(nil, err) || m.is("corrupt run hides others") {
					return
				}
				continue
			}
			if q.DataStore != "" && q.DataStore != r.DataStore || len(q.States) > 0 && !slices.Contains(q.States, r.State) {
				if m.is("limit counts all") {
					given++
				}
				continue
			}
			if q.Limit > 0 && given >= q.Limit {
				return
			}
			given++
			if !yield(r, nil) || m.is("short list of runs") && given == 2 {
				return
			}
		}
	}
}

func (m *memory) TrimRuns(ctx context.Context, policy string, before time.Time) (int, error) {
	if err := m.ctxErr(ctx); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	latest := int64(-1)
	for key := range m.runs {
		if key.policy == policy {
			latest = max(latest, key.due)
		}
	}
	n := 0
	for key, e := range m.runs {
		if key.policy != policy || key.due >= before.Unix() || key.due == latest && !m.is("trims the latest") {
			continue
		}
		if r, err := m.decode(key, e); err == nil && r.State == schedule.RunRunning && !m.is("trims what runs") {
			continue
		}
		if m.is("look and trim") {
			m.pause()
		}
		delete(m.runs, key)
		n++
	}
	return n, nil
}

func (m *memory) corruptPolicy(id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.policies[id]
	if !ok {
		return errors.New("there is none")
	}
	m.policies[id] = entry{e.data[:len(e.data)-1], e.rev}
	return nil
}

func (m *memory) corruptRun(policy string, due time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := m.key(policy, due)
	e, ok := m.runs[key]
	if !ok {
		return errors.New("there is none")
	}
	m.runs[key] = entry{e.data[:len(e.data)-1], e.rev}
	return nil
}
