package amber

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/storecatalog"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/storage"
)

// A NamedStore is one of a host's stores, for backups that are to be kept in a certain cloud or region.
type NamedStore struct {
	Name   string `json:"name"` // as catalog.ValidName says; required
	Cloud  string `json:"cloud,omitempty"`
	Region string `json:"region,omitempty"`

	Store storage.Store `json:"-"` // required; it stays the caller's
	// Catalog knows the backups in Store. nil: it is kept in Store.
	Catalog catalog.Catalog `json:"-"`
}

// place is a store with what works on it.
type place struct {
	NamedStore
	runner   *backup.Runner
	restorer *restore.Restorer
}

// wrap says which store an error is about, if there are several.
func (p *place) wrap(err error) error {
	if err == nil || p.Name == "" {
		return err
	}
	return fmt.Errorf("store %s: %w", p.Name, err)
}

// addPlace wires what works on a store. The first store's leases are for all.
func (s *Service) addPlace(n NamedStore) error {
	what := "Config.Store"
	if len(s.places) > 0 {
		what = fmt.Sprintf("Config.Stores: store %q", n.Name)
		if err := catalog.ValidName(n.Name); err != nil {
			return fmt.Errorf("amber: %s: its name: %w", what, err)
		}
		for _, other := range s.places {
			if other.Name == n.Name {
				return fmt.Errorf("amber: %s is there twice", what)
			}
		}
		if n.Store == nil {
			return fmt.Errorf("amber: %s: NamedStore.Store is required", what)
		}
	}
	if n.Catalog == nil {
		c, err := storecatalog.New(storecatalog.Config{Store: n.Store, Now: s.cfg.Now})
		if err != nil {
			return fmt.Errorf("amber: %s: %w", what, err)
		}
		n.Catalog = c
		if s.cfg.Leaser == nil {
			s.cfg.Leaser = c
		}
	}
	runner, err := backup.NewRunner(backup.Config{Store: n.Store, Catalog: n.Catalog, Leaser: s.cfg.Leaser,
		Logger: s.cfg.Logger, Now: s.cfg.Now, LeaseTTL: s.cfg.LeaseTTL})
	if err != nil {
		return err
	}
	restorer, err := restore.New(restore.Config{Store: n.Store, Catalog: n.Catalog, Logger: s.cfg.Logger, Now: s.cfg.Now, TempDir: s.cfg.TempDir})
	if err != nil {
		return err
	}
	s.places = append(s.places, &place{NamedStore: n, runner: runner, restorer: restorer})
	return nil
}

// Stores returns the stores: first that of Config.Store, which has no name, then those of Config.Stores.
func (s *Service) Stores() []NamedStore {
	out := make([]NamedStore, len(s.places))
	for i, p := range s.places {
		out[i] = p.NamedStore
	}
	return out
}

// place returns the store of a name.
func (s *Service) place(name string) (*place, error) {
	for _, p := range s.places {
		if p.Name == name {
			return p, nil
		}
	}
	return nil, fmt.Errorf("amber: there is no store %q: see Config.Stores", name)
}

// find returns a backup and a store that has it. Of copies in several stores a ready one counts before others.
func (s *Service) find(ctx context.Context, id catalog.ID) (*place, *catalog.Backup, error) {
	var at *place
	var found *catalog.Backup
	var missing, failed error
	for _, p := range s.places {
		b, _, err := p.Catalog.Get(ctx, id)
		switch {
		case err == nil && b.State == catalog.StateReady:
			return p, b, nil
		case err == nil && found == nil:
			at, found = p, b
		case errors.Is(err, catalog.ErrNotFound) && missing == nil:
			missing = err
		case err != nil && failed == nil && !errors.Is(err, catalog.ErrNotFound):
			failed = p.wrap(err)
		}
	}
	switch {
	case found != nil:
		return at, found, nil
	case failed != nil:
		return nil, nil, failed
	}
	return nil, nil, missing
}

// A Found is a backup, and the store that it is in.
type Found struct {
	*catalog.Backup
	Store NamedStore
}

// ListAll is List that also tells which store each backup is in.
func (s *Service) ListAll(ctx context.Context, q catalog.Query) iter.Seq2[Found, error] {
	return func(yield func(Found, error) bool) {
		// One look ahead into each store; the newest of these comes next.
		type ahead struct {
			at   *place
			b    *catalog.Backup
			err  error
			more bool
			next func() (*catalog.Backup, error, bool)
		}
		var heads []*ahead
		for _, p := range s.places {
			next, stop := iter.Pull2(p.Catalog.List(ctx, q))
			defer stop()
			h := &ahead{at: p, next: next}
			h.b, h.err, h.more = next()
			heads = append(heads, h)
		}
		for {
			var first *ahead
			for _, h := range heads {
				switch {
				case !h.more:
				case first == nil, h.err != nil && first.err == nil:
					first = h
				case h.err == nil && first.err == nil && h.b.ID > first.b.ID:
					first = h
				}
			}
			if first == nil {
				return
			}
			if !yield(Found{Backup: first.b, Store: first.at.NamedStore}, first.at.wrap(first.err)) {
				return
			}
			first.b, first.err, first.more = first.next()
		}
	}
}
