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
	"github.com/amberkv/amber/storage/retry"
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

// place is a store with what works on it. What is done with its Store is tried again when that fails for the moment.
type place struct {
	NamedStore
	given    storage.Store // what the host knows
	runner   *backup.Runner
	restorer *restore.Restorer
}

// told returns the store as the host gave it.
func (p *place) told() NamedStore {
	n := p.NamedStore
	n.Store = p.given
	return n
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
	given := n.Store
	if _, ok := given.(*retry.Store); !ok { // else the host has chosen how often and how long
		n.Store = retry.New(given, &retry.Options{Logger: s.cfg.Logger})
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
		Logger: s.cfg.Logger, Now: s.cfg.Now, LeaseTTL: s.cfg.LeaseTTL, Seal: *s.seal(nil), Signer: s.cfg.Signer, Trust: s.cfg.Trust})
	if err != nil {
		return err
	}
	restorer, err := restore.New(restore.Config{Store: n.Store, Catalog: n.Catalog, Leaser: s.cfg.Leaser, LeaseTTL: s.cfg.LeaseTTL, Logger: s.cfg.Logger, Now: s.cfg.Now, TempDir: s.cfg.TempDir,
		Identities: s.cfg.Identities, Trust: s.cfg.Trust})
	if err != nil {
		return err
	}
	s.places = append(s.places, &place{NamedStore: n, given: given, runner: runner, restorer: restorer})
	return nil
}

// Stores returns the stores: first that of Config.Store, which has no name, then those of Config.Stores.
func (s *Service) Stores() []NamedStore {
	out := make([]NamedStore, len(s.places))
	for i, p := range s.places {
		out[i] = p.told()
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

// kept is what a store has of a backup.
type kept struct {
	at  *place
	b   *catalog.Backup // nil beside an error
	err error           // why that couldn't be found out
}

// copies asks the stores for a backup, one after the other, and gives what those have that have it or can't be asked.
func (s *Service) copies(ctx context.Context, id catalog.ID) iter.Seq[kept] {
	return func(yield func(kept) bool) {
		for _, at := range s.places {
			b, _, err := at.Catalog.Get(ctx, id)
			if !errors.Is(err, catalog.ErrNotFound) && !yield(kept{at, b, at.wrap(err)}) {
				return
			}
		}
	}
}

func noBackup(id catalog.ID) error {
	return fmt.Errorf("%w: no store has one of ID %.60q", catalog.ErrNotFound, id)
}

func notReady(b *catalog.Backup) error {
	return fmt.Errorf("%w: backup %s is %s, not ready", restore.ErrNotVerified, b.ID, b.State)
}

// withCopy calls do with a store that has a backup ready and, if that copy turns out to be bad, with the next that has one. The error is
// that of do or, if no store has a good copy, tells of all that have one or can't be asked.
func (s *Service) withCopy(ctx context.Context, id catalog.ID, do func(at *place, b *catalog.Backup) error) error {
	var errs []error
	for c := range s.copies(ctx, id) {
		err := c.err
		if err == nil {
			err = notReady(c.b)
			if c.b.State == catalog.StateReady {
				err = do(c.at, c.b)
			}
			if !isBad(err) {
				return err
			}
			err = c.at.wrap(err)
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return noBackup(id)
	}
	return errors.Join(errs...)
}

// isBad tells whether an error means that a copy of a backup can't be restored, that another one may be, and that no target was touched.
func isBad(err error) bool {
	var partial *restore.PartialError
	return !errors.As(err, &partial) &&
		(errors.Is(err, restore.ErrNotVerified) || errors.Is(err, catalog.ErrNotFound) || errors.Is(err, catalog.ErrCorrupt))
}

// A Found is a backup, and the store that it is in.
type Found struct {
	*catalog.Backup // nil beside an error
	Store           NamedStore
}

// ListAll is List that also tells which store each backup, or error, is of. A store that can't be listed is an error in the sequence, after
// which it goes on with those of the other stores.
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
			if !yield(Found{Backup: first.b, Store: first.at.told()}, first.at.wrap(first.err)) {
				return
			}
			first.b, first.err, first.more = first.next()
		}
	}
}
