package storecatalog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/storage"
)

// List gives the backups that q selects, newest first by ID, as catalog.Catalog says. It lists the store once
// and then reads one manifest after the other. An error that doesn't wrap catalog.ErrCorrupt is the store's and ends the
// sequence.
func (c *Catalog) List(ctx context.Context, q catalog.Query) iter.Seq2[*catalog.Backup, error] {
	return func(yield func(*catalog.Backup, error) bool) {
		fail := func(err error) bool { return yield(nil, fmt.Errorf("storecatalog: list: %w", err)) }
		if err := q.Validate(); err != nil {
			fail(err)
			return
		}
		records, err := c.records(ctx, q.DataStore)
		if err != nil {
			fail(err)
			return
		}
		for _, r := range records {
			if !begun(q, r.id) {
				continue
			}
			v, err := c.read(ctx, r)
			if errors.Is(err, storage.ErrNotFound) || errors.Is(err, errOrphan) {
				v, err = c.current(ctx, r.dataStore, r.id)
			}
			more := true
			switch {
			case errors.Is(err, catalog.ErrNotFound):
			case errors.Is(err, catalog.ErrCorrupt):
				more = fail(err)
			case err != nil:
				fail(err)
				return
			case q.Match(v.backup):
				more = yield(v.backup, nil)
			}
			if !more {
				return
			}
		}
	}
}

// records lists the backups of a data store, or of all if it is empty, newest first.
func (c *Catalog) records(ctx context.Context, dataStore string) ([]record, error) {
	prefix := ""
	if dataStore != "" {
		prefix = dataStore + "/"
	}
	var records []record
	for info, err := range c.store.List(ctx, prefix) {
		if err != nil {
			return nil, err
		}
		dataStore, id, n, ok := parseKey(info.Key)
		if !ok {
			continue
		}
		// Keys are in order, so those of one backup are together.
		if last := len(records) - 1; last < 0 || records[last].id != id || records[last].dataStore != dataStore {
			records = append(records, record{dataStore: dataStore, id: id})
		}
		records[len(records)-1].add(n, info)
	}
	slices.SortFunc(records, func(a, b record) int {
		return cmp.Or(cmp.Compare(b.id, a.id), cmp.Compare(a.dataStore, b.dataStore))
	})
	return records, nil
}

// Delete removes a manifest, as catalog.Catalog says. It puts a last revision that says deleting, which is how it wins or loses
// against other writers, and then removes all of them. When it is cut short the backup is either still listed as
// deleting, so that Delete can be called again with the revision that Get returns, or gone.
func (c *Catalog) Delete(ctx context.Context, id catalog.ID, rev catalog.Revision) error {
	if err := c.delete(ctx, id, rev); err != nil {
		return fmt.Errorf("storecatalog: delete %.60s: %w", id, err)
	}
	c.forget(id)
	return nil
}

func (c *Catalog) delete(ctx context.Context, id catalog.ID, rev catalog.Revision) error {
	v, err := c.get(ctx, id)
	switch {
	case err != nil && (!errors.Is(err, catalog.ErrCorrupt) || v.rev == ""):
		return err
	case v.rev != rev:
		return fmt.Errorf("%w: it is at revision %s, not at %s", catalog.ErrConflict, v.rev, rev)
	}
	tombstone := v.backup
	if tombstone == nil {
		began, _ := id.Time()
		tombstone = &catalog.Backup{ID: id, DataStore: v.dataStore, Kind: catalog.KindManual, CreatedAt: began}
	}
	tombstone.State = catalog.StateDeleting
	data, err := catalog.Encode(tombstone)
	if err != nil {
		return err
	}
	if _, err := c.create(ctx, v.record, v.highest+1, data); err != nil {
		return err
	}
	// As in succeed: another Delete may have come and gone since we looked.
	_, err = c.store.Stat(ctx, v.key(v.highest))
	if errors.Is(err, storage.ErrNotFound) {
		if err := c.remove(ctx, v.key(v.highest+1)); err != nil {
			return err
		}
		return fmt.Errorf("%w: it was deleted meanwhile", catalog.ErrNotFound)
	}
	if err != nil {
		return err
	}
	if tombstone.Kind == catalog.KindCopy {
		// A copy that came to nothing: no stay began with it. A copy that is made anew begins after all this.
		notes, err := c.notes(ctx, id)
		if err == nil {
			err = c.forgetNotes(ctx, id, notes)
		}
		if err != nil {
			return err
		}
	}
	// From here on nobody can put. The order is what current relies on; and whatever is left at any moment, the
	// highest revision is the tombstone, which counts without a run.json too, so that the deletion can be finished.
	for _, n := range slices.Sorted(slices.Values(v.revisions)) {
		if err := c.remove(ctx, v.key(n)); err != nil {
			return err
		}
	}
	return c.remove(ctx, v.key(v.highest+1))
}

// remove deletes an object that may be gone already.
func (c *Catalog) remove(ctx context.Context, key string) error {
	err := c.store.Delete(ctx, key)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	return err
}
