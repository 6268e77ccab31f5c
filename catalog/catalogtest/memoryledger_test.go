package catalogtest_test

import (
	"context"
	"iter"
	"slices"
	"time"

	"github.com/amberkv/amber/catalog"
)

// memoryLedger is what a memory remembers of stays.
type memoryLedger struct {
	began map[catalog.ID][]time.Time
	ended []catalog.Stay
}

func (m *memory) Began(ctx context.Context, b *catalog.Backup, at time.Time) error {
	if err := ctx.Err(); err != nil && !m.is("ledger ignores the context") {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.is("first copy counts") && len(m.ledger.began[b.ID]) > 0 {
		return nil
	}
	m.ledger.began[b.ID] = []time.Time{at}
	return nil
}

func (m *memory) Ended(ctx context.Context, b *catalog.Backup) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.stay(b)
	if !ok {
		return nil
	}
	noted := slices.ContainsFunc(m.ledger.ended, func(o catalog.Stay) bool {
		switch {
		case m.is("one stay for each backup"):
			return o.ID == s.ID
		case m.is("ends add up"):
			return false
		case m.is("the last end counts"):
			return o.ID == s.ID && o.Until.Equal(s.Until)
		}
		return o.ID == s.ID && (o.Until.Equal(s.Until) || o.From.Equal(s.From) && o.From.Before(o.Until))
	})
	if m.is("look and note") {
		m.mu.Unlock()
		time.Sleep(time.Millisecond)
		m.mu.Lock()
	}
	if !noted && !m.is("ends are forgotten") {
		m.ledger.ended = append(m.ledger.ended, s)
		delete(m.ledger.began, b.ID)
	}
	return nil
}

// stay is called with m.mu held.
func (m *memory) stay(b *catalog.Backup) (catalog.Stay, bool) {
	ready := b.State == catalog.StateReady || b.State == catalog.StateDeleting && !b.DeletedAt.IsZero()
	if (b.ReadyAt.IsZero() || !ready) && !m.is("all that is listed stays") && !(m.is("never ready, and yet") && b.State == catalog.StateDeleting) {
		return catalog.Stay{}, false
	}
	s := catalog.Stay{ID: b.ID, DataStore: b.DataStore, Kind: b.Kind, Bytes: b.StoredBytes, From: b.ReadyAt}
	for _, p := range b.Parts {
		if p.Adopted && !m.is("adopted bytes") {
			s.Bytes -= p.Size
		}
	}
	if at := m.ledger.began[b.ID]; len(at) > 0 && !m.is("copies are old") {
		s.From = at[0]
	}
	if b.State == catalog.StateDeleting {
		s.Until = b.DeletedAt
	}
	if !m.is("parts of seconds") {
		s.From, s.Until = s.From.Truncate(time.Second), s.Until.Truncate(time.Second)
	}
	return s, true
}

func (m *memory) Stays(ctx context.Context, from, until time.Time) iter.Seq2[catalog.Stay, error] {
	return func(yield func(catalog.Stay, error) bool) {
		if err := ctx.Err(); err != nil {
			yield(catalog.Stay{}, err)
			return
		}
		m.mu.Lock()
		all := slices.Clone(m.ledger.ended)
		if m.is("current comes later") {
			m.mu.Unlock()
			time.Sleep(time.Millisecond)
			m.mu.Lock()
		}
		for _, e := range m.manifests {
			b, err := catalog.Decode(e.data)
			if err != nil || m.is("deleting is over") && b.State == catalog.StateDeleting {
				continue
			}
			s, ok := m.stay(b)
			noted := slices.ContainsFunc(m.ledger.ended, func(o catalog.Stay) bool { return o.ID == s.ID && o.Until.Equal(s.Until) })
			if ok && (!noted || m.is("deleting is told twice")) {
				all = append(all, s)
			}
		}
		m.mu.Unlock()
		for i, s := range all {
			if !m.is("any time") && (!s.From.Before(until) || !s.Until.IsZero() && !s.Until.After(from)) {
				continue
			}
			if !yield(s, nil) {
				return
			}
			if m.is("short stays") && i == 3 {
				return
			}
		}
	}
}
