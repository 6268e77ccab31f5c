package catalogtest_test

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/amberkv/amber/catalog"
)

// A memoryShare is a shared lease of a memory, with faults of its own.
type memoryShare struct {
	m       *memory
	name    string
	ttl     time.Duration
	expires time.Time
	over    bool
}

func (m *memory) Share(ctx context.Context, name string, ttl time.Duration) (catalog.Lease, error) {
	if err := ctx.Err(); err != nil && !m.is("share ignores the context") {
		return nil, err
	}
	if (name == "" || name == ".." || strings.Contains(name, "/") || ttl <= 0) && !m.is("share of anything") {
		return nil, errors.New("invalid")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &memoryShare{m: m, name: name, ttl: ttl, expires: m.clock.Now().Add(ttl)}
	add := func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.shares[s] = true
	}
	switch {
	case m.is("one share at a time"):
		for other := range m.shares {
			if other.name == name {
				delete(m.shares, other)
			}
		}
	case m.is("share keeps others out"):
		m.leases[name] = &held{token: 1, expires: s.expires}
	case m.is("look and share"):
		shares := make(map[*memoryShare]bool)
		for other := range m.shares {
			shares[other] = true
		}
		m.mu.Unlock()
		time.Sleep(time.Millisecond)
		m.mu.Lock()
		m.shares = shares
	case m.is("share comes late"):
		go func() {
			time.Sleep(20 * time.Millisecond)
			add()
		}()
		return s, nil
	case m.is("share ends early"):
		s.expires = s.expires.Add(-ttl / 2)
	}
	m.shares[s] = true
	return s, nil
}

func (m *memory) Sharers(ctx context.Context, name string) ([]catalog.HeldError, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []catalog.HeldError
	for s := range m.shares {
		until := s.expires
		if m.is("share ends early") {
			until = until.Add(s.ttl / 2) // what it tells isn't so
		}
		switch {
		case s.name != name && !m.is("shares of any name"):
		case !m.clock.Now().Before(s.expires) && !m.is("share has no end"):
		case m.is("share without an owner"):
			list = append(list, catalog.HeldError{Name: name, Until: until})
		default:
			list = append(list, catalog.HeldError{Name: name, Owner: "memory", Until: until})
		}
	}
	return list, nil
}

func (s *memoryShare) Token() int64 { return 0 }

func (s *memoryShare) Renew(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	switch now := s.m.clock.Now(); {
	case s.over && !s.m.is("Renew of a released share"):
		return catalog.ErrLeaseLost
	case !now.Before(s.expires) && !s.m.is("Renew of a share that ended"):
		return catalog.ErrLeaseLost
	case !s.m.is("share isn't renewed"):
		s.expires = now.Add(s.ttl)
	}
	return nil
}

func (s *memoryShare) Release(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	s.over = true
	if s.m.is("Release of all shares") {
		for other := range s.m.shares {
			if other.name == s.name {
				delete(s.m.shares, other)
			}
		}
	}
	if s.m.is("Release brings a share back") && !s.m.clock.Now().Before(s.expires) {
		s.expires = s.m.clock.Now().Add(s.ttl)
		return nil
	}
	if !s.m.is("share released is told") {
		delete(s.m.shares, s)
	}
	return nil
}
