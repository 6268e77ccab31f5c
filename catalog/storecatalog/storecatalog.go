// Package storecatalog is a catalog without a database: it keeps the manifests in the store that holds the backups
// themselves, so that a bucket or a directory describes itself. It needs nothing of the store but what every
// [storage.Store] does; whatever it remembers besides can be lost at any time.
//
// # Layout
//
// Every version of a manifest is an object of its own, created exclusively, so that of several writers one wins:
//
//	<data store>/<id>/run.json               revision 1: the run has begun; it exists as long as the backup does
//	<data store>/<id>/manifest.json          revision 2: how the run ended; the commit point of a backup
//	<data store>/<id>/manifest-000003.json   revision 3, and so on: what changed later
//	_leases/<name>/<token>.json              a lease; the highest token counts
//	_index/marks/<id>-<nonce>-<data store>   the index: this backup is about to be put
//	_index/months/<yyyy-mm>.<number>         the index: the backups of a month; the highest number counts
//	_index/months/complete-1                 the index tells of all backups
//	_leases/<name>/shared-<nonce>.json       a shared lease, until it is released or has ended
//	_usage/…                                 how long the store had the backups that are deleted by now
//
// The highest revision is the manifest, and a backup is there only with its run.json. Delete puts a last revision, which says
// deleting, and removes it after all others, so that no older one appears again. Should a writer that slept through the
// deletion put one more and be killed before it noticed, that one has no run.json beside it and is an error in List and
// Get, not a backup that has come back. A copy of a backup for another store therefore has to have its run.json.
//
// # The index
//
// It only spares Page to look at all backups, and everything that decides about backups goes by List. A Put of what is not a run yet, or has
// ended, writes a mark before it writes the manifest; while a mark names a backup, or a summary says that it runs, a page looks at its manifest. Who reads a page with many
// marks in a month makes the month's next summary, in two steps: one that takes the marks, which are deleted when it is there, and one that tells what
// the manifests said after that. A writer looks after its change whether its mark is still there, and writes another one if it isn't; so whatever
// was put is either marked or in a summary. Summaries are created exclusively under the number that follows the one they are made from. All that is shown is read from the
// manifests themselves: what an index lacks for whatever reason isn't shown until Reindex, which a sweep calls, has compared it with the names of
// all objects; and if it is damaged, or isn't there, pages come from those names.
//
// # What safety rests on
//
// Only on the exclusive create. A lease needs clocks that differ by no more than Config.ClockSkew to be exclusive; it
// keeps two runs from wasting each other's time. That a run which lost its lease can't publish does not depend on
// clocks: who takes over puts a new revision of the dead run's manifest, after which the dead run's own Put finds its
// revision taken.
//
// A lease has a nonce in it, so that no two attempts to take one write the same bytes. Manifests have none: if two writers put the very same
// manifest at the same revision and the answer to one of them is lost, what is there can't tell them apart, and both are told that they
// won. They have then done the same thing, and hold the same revision, after which one of them wins again. Nothing in Amber
// rests on which of them it was: a run alone writes its own record, whoever marks a run as dead or a backup as deleted goes on with what may be done
// twice, and the record of a copy has the moment at which it began.
package storecatalog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/storage"
)

// Config says what a Catalog works with.
type Config struct {
	// Store holds the backups, and the manifests and leases with them. Required.
	Store storage.Store
	// Owner names this process to others that ask who has a lease. Empty means its host and process ID.
	Owner string
	// Now is the clock that leases go by. Nil means the machine's.
	Now func() time.Time
	// ClockSkew is how far the clocks of all processes that share the store may be apart: a lease is taken
	// from a silent holder only so much after its end. Zero means 5 seconds; it can't be negative.
	ClockSkew time.Duration
}

// A Catalog is a catalog.Catalog and a catalog.Leaser in a store. It is safe for use by several goroutines; any number of
// Catalogs in any number of processes can share a store. Make one with New.
type Catalog struct {
	store storage.Store
	owner string
	now   clock.Func
	skew  time.Duration

	mu         sync.Mutex
	dataStores map[catalog.ID]string // where backups were seen last; only saves listings
	unmarked   map[ref]bool          // backups whose change the index couldn't be told of
	indexTried bool                  // it was tried to make an index, and that failed or isn't done
	month      string                // that the ledger has a mark of
}

// New returns the catalog in a store. It doesn't use the store yet.
func New(cfg Config) (*Catalog, error) {
	switch {
	case cfg.Store == nil:
		return nil, errors.New("storecatalog: Config.Store is required")
	case !storage.CapabilitiesOf(cfg.Store).Exclusive:
		return nil, errors.New("storecatalog: this store has no exclusive create, on which the catalog's safety rests: keep the catalog in a database, or in another store")
	case cfg.ClockSkew < 0:
		return nil, fmt.Errorf("storecatalog: Config.ClockSkew is negative: %v", cfg.ClockSkew)
	case cfg.ClockSkew == 0:
		cfg.ClockSkew = 5 * time.Second
	}
	if cfg.Owner == "" {
		host, err := os.Hostname()
		if err != nil {
			host = "unknown host"
		}
		cfg.Owner = host + " process " + strconv.Itoa(os.Getpid())
	}
	return &Catalog{
		store: cfg.Store, owner: cfg.Owner, now: clock.Or(cfg.Now), skew: cfg.ClockSkew,
		dataStores: make(map[catalog.ID]string), unmarked: make(map[ref]bool),
	}, nil
}

// Put writes a manifest, as catalog.Catalog says. A backup that is put as ready at once is claimed first with a
// run.json that says running. An ID is taken only once in a data store; that no two data stores use the same one is
// for catalog.NewID to see to.
func (c *Catalog) Put(ctx context.Context, b *catalog.Backup, prev catalog.Revision) (catalog.Revision, error) {
	rev, err := c.put(ctx, b, prev)
	if err != nil {
		return "", fmt.Errorf("storecatalog: put %s: %w", b.ID, err)
	}
	c.remember(b.ID, b.DataStore)
	return rev, nil
}

func (c *Catalog) put(ctx context.Context, b *catalog.Backup, prev catalog.Revision) (catalog.Revision, error) {
	data, err := catalog.Encode(b)
	if err != nil {
		return "", err
	}
	r, err := c.find(ctx, b.DataStore, b.ID)
	if err != nil {
		return "", err
	}
	if prev == "" {
		// To claim the ID of manifests that have lost their run.json would revive them.
		if r.highest > 0 {
			return "", fmt.Errorf("%w: it exists already", catalog.ErrConflict)
		}
		return c.marked(ctx, b, func() (catalog.Revision, error) { return c.putNew(ctx, b, r, data) })
	}
	if !r.run {
		return "", fmt.Errorf("%w: it was deleted", catalog.ErrConflict)
	}
	now, err := c.read(ctx, r)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return "", fmt.Errorf("%w: it is being deleted", catalog.ErrConflict)
	case err != nil && !errors.Is(err, catalog.ErrCorrupt):
		return "", err
	case now.rev != prev:
		return "", fmt.Errorf("%w: it is at revision %s, not at %s", catalog.ErrConflict, now.rev, prev)
	}
	if now.backup != nil && now.backup.State == catalog.StateRunning {
		// Whoever reads the index looks at a run himself, as long as it doesn't know how that has ended.
		c.remind(ctx)
		return c.succeed(ctx, r, r.highest, data)
	}
	return c.marked(ctx, b, func() (catalog.Revision, error) { return c.succeed(ctx, r, r.highest, data) })
}

// marked puts a manifest and tells the index of it.
func (c *Catalog) marked(ctx context.Context, b *catalog.Backup, put func() (catalog.Revision, error)) (catalog.Revision, error) {
	n := c.announce(ctx, ref{b.ID, b.DataStore})
	rev, err := put()
	if err == nil {
		c.confirm(ctx, n)
	}
	return rev, err
}

// putNew creates the first revision of a manifest, and the second if it is ready at once.
func (c *Catalog) putNew(ctx context.Context, b *catalog.Backup, r record, data []byte) (catalog.Revision, error) {
	if b.State != catalog.StateReady {
		return c.create(ctx, r, 1, data)
	}
	claim := *b
	claim.State = catalog.StateRunning
	claimed, err := catalog.Encode(&claim)
	if err != nil {
		return "", err
	}
	if _, err := c.create(ctx, r, 1, claimed); err != nil {
		return "", err
	}
	return c.succeed(ctx, r, 1, data)
}

// succeed creates the revision after n, unless the backup is gone by then.
func (c *Catalog) succeed(ctx context.Context, r record, n int, data []byte) (catalog.Revision, error) {
	rev, err := c.create(ctx, r, n+1, data)
	if err != nil {
		return "", err
	}
	// The backup may have been deleted, with the revision that would have beaten ours, since we looked. What we created
	// is no backup then, since there is no run.json; it is removed all the same.
	_, err = c.store.Stat(ctx, r.key(1))
	if errors.Is(err, storage.ErrNotFound) {
		if err := c.remove(ctx, r.key(n+1)); err != nil {
			return "", fmt.Errorf("%w: it was deleted meanwhile; %s is left behind and means nothing: %w", catalog.ErrConflict, r.key(n+1), err)
		}
		return "", fmt.Errorf("%w: it was deleted meanwhile", catalog.ErrConflict)
	}
	if err != nil {
		return "", err
	}
	return rev, nil
}

// create creates a revision, if there is none of its number.
func (c *Catalog) create(ctx context.Context, r record, n int, data []byte) (catalog.Revision, error) {
	err := createOnce(ctx, c.store, r.key(n), data)
	if errors.Is(err, storage.ErrExists) {
		return "", fmt.Errorf("%w: revision %d of it was taken", catalog.ErrConflict, n)
	}
	if err != nil {
		return "", err
	}
	return revision(n, data), nil
}

// createOnce creates an object exclusively. An error whose outcome is unknown is settled by looking: if the object is there, it
// is ours or somebody else's, by its bytes.
func createOnce(ctx context.Context, s storage.Store, key string, data []byte) error {
	err := storage.WriteFile(ctx, s, key, data, &storage.CreateOptions{IfNotExist: true})
	if err == nil || errors.Is(err, storage.ErrExists) {
		return err
	}
	there, readErr := storage.ReadFile(ctx, s, key, catalog.MaxManifestLen)
	switch {
	case readErr == nil && bytes.Equal(there, data):
		return nil
	case readErr == nil:
		return fmt.Errorf("%w: %w", storage.ErrExists, err)
	default:
		return err
	}
}

// Get returns a manifest, as catalog.Catalog says. With an error that wraps ErrCorrupt it also returns the revision, so that
// Delete can remove what can't be read.
func (c *Catalog) Get(ctx context.Context, id catalog.ID) (*catalog.Backup, catalog.Revision, error) {
	v, err := c.get(ctx, id)
	if err != nil {
		return nil, v.rev, fmt.Errorf("storecatalog: get %.60s: %w", id, err)
	}
	return v.backup, v.rev, nil
}

func (c *Catalog) get(ctx context.Context, id catalog.ID) (version, error) {
	if _, ok := id.Time(); !ok {
		return version{}, fmt.Errorf("%w: no backup has such an ID", catalog.ErrNotFound)
	}
	c.mu.Lock()
	dataStore := c.dataStores[id]
	c.mu.Unlock()
	if dataStore == "" {
		found, err := c.search(ctx, id)
		if err != nil {
			return version{}, err
		}
		dataStore = found
	}
	v, err := c.current(ctx, dataStore, id)
	if errors.Is(err, catalog.ErrNotFound) {
		c.forget(id)
	} else {
		c.remember(id, dataStore)
	}
	return v, err
}

// search looks through the whole store for the data store that a backup is of.
func (c *Catalog) search(ctx context.Context, id catalog.ID) (string, error) {
	found := make(map[string]bool)
	for info, err := range c.store.List(ctx, "") {
		if err != nil {
			return "", err
		}
		if dataStore, other, _, ok := parseKey(info.Key); ok && other == id {
			found[dataStore] = true
		}
	}
	switch len(found) {
	case 0:
		return "", catalog.ErrNotFound
	case 1:
		for dataStore := range found {
			return dataStore, nil
		}
	}
	return "", fmt.Errorf("%w: more than one data store has a backup of this ID, which is to be unique: %s", catalog.ErrCorrupt,
		strings.Join(slices.Sorted(maps.Keys(found)), ", "))
}

// current returns the manifest of a backup, or catalog.ErrNotFound.
//
// A listing is no snapshot: while a backup is being deleted it may miss the tombstone, which was created after the listing began, and
// what was deleted since. But revisions are deleted from the lowest to the highest, after the tombstone was created.
// So if anything is missing in a listing, the highest revision that it has is gone as well and can't be read,
// or it lacks its run.json; and a second listing has the tombstone.
//
// A manifest without a run.json may also be that of somebody who lost against a deletion, and who is about to remove it: one that was written just
// now is given a moment.
func (c *Catalog) current(ctx context.Context, dataStore string, id catalog.ID) (version, error) {
	for try := range 100 {
		r, err := c.find(ctx, dataStore, id)
		if err != nil {
			return version{}, err
		}
		v, err := c.read(ctx, r)
		switch {
		case errors.Is(err, storage.ErrNotFound), errors.Is(err, errOrphan) && try == 0:
		case errors.Is(err, errOrphan) && try < 4 && c.now().Sub(r.written) < loserTime:
			if serr := clock.Sleep(ctx, time.Duration(try)*50*time.Millisecond); serr != nil {
				return version{}, serr
			}
		default:
			return v, err
		}
	}
	return version{}, fmt.Errorf("%w: every revision vanished before it could be read", catalog.ErrNotFound)
}

// loserTime is how old a manifest can be that is still looked at again, by clocks that may differ a little.
const loserTime = 10 * time.Second

// A record is what the names of a backup's objects tell about its manifest.
type record struct {
	dataStore string
	id        catalog.ID
	revisions []int     // that there are, in no order
	highest   int       // of them; 0 if there is none
	size      int64     // of the highest, in bytes
	written   time.Time // the highest, by the store's clock
	run       bool      // there is a run.json
}

// find lists the objects of a backup.
func (c *Catalog) find(ctx context.Context, dataStore string, id catalog.ID) (record, error) {
	r := record{dataStore: dataStore, id: id}
	for info, err := range c.store.List(ctx, dataStore+"/"+string(id)+"/") {
		if err != nil {
			return record{}, err
		}
		if _, _, n, ok := parseKey(info.Key); ok {
			r.add(n, info)
		}
	}
	return r, nil
}

func (r *record) add(n int, info storage.Info) {
	r.revisions = append(r.revisions, n)
	if n > r.highest {
		r.highest, r.size, r.written = n, info.Size, info.ModTime
	}
	r.run = r.run || n == 1
}

// key returns the key of revision n.
func (r record) key(n int) string {
	prefix := r.dataStore + "/" + string(r.id) + "/"
	switch n {
	case 1:
		return prefix + "run.json"
	case 2:
		return prefix + "manifest.json"
	default:
		return fmt.Sprintf("%smanifest-%06d.json", prefix, n)
	}
}

// parseKey takes the key of a manifest apart; ok is false for every other key.
func parseKey(key string) (dataStore string, id catalog.ID, n int, ok bool) {
	parts := strings.Split(key, "/")
	if len(parts) != 3 || catalog.ValidName(parts[0]) != nil {
		return "", "", 0, false
	}
	id = catalog.ID(parts[1])
	if _, valid := id.Time(); !valid {
		return "", "", 0, false
	}
	switch name := parts[2]; name {
	case "run.json":
		n = 1
	case "manifest.json":
		n = 2
	default:
		digits := strings.TrimSuffix(strings.TrimPrefix(name, "manifest-"), ".json")
		n, _ = strconv.Atoi(digits)
		if n < 3 {
			return "", "", 0, false
		}
	}
	r := record{dataStore: parts[0], id: id}
	return parts[0], id, n, r.key(n) == key // only the one spelling
}

// A version is a manifest at a revision.
type version struct {
	record
	backup *catalog.Backup // nil if it can't be read
	rev    catalog.Revision
}

// errOrphan is why a manifest without a run.json doesn't count.
var errOrphan = errors.New("there is no run.json beside it: a deletion has left it, or a copy is not complete")

// read reads the highest revision. The error wraps storage.ErrNotFound if it was deleted meanwhile, catalog.ErrNotFound
// if there is none, and catalog.ErrCorrupt, naming the key, if it can't be trusted; the last comes with a revision.
func (c *Catalog) read(ctx context.Context, r record) (version, error) {
	if r.highest == 0 {
		return version{}, catalog.ErrNotFound
	}
	key := r.key(r.highest)
	corrupt := func(data []byte, err error) (version, error) {
		if !errors.Is(err, catalog.ErrCorrupt) {
			err = fmt.Errorf("%w: %w", catalog.ErrCorrupt, err)
		}
		return version{record: r, rev: revision(r.highest, data)}, fmt.Errorf("%s: %w", key, err)
	}
	if r.size > catalog.MaxManifestLen {
		return corrupt(nil, fmt.Errorf("it has %d bytes, the limit is %d", r.size, catalog.MaxManifestLen))
	}
	data, err := storage.ReadFile(ctx, c.store, key, catalog.MaxManifestLen)
	if err != nil {
		return version{}, err
	}
	b, err := catalog.Decode(data)
	switch {
	case err != nil:
		return corrupt(data, err)
	case b.ID != r.id || b.DataStore != r.dataStore:
		return corrupt(data, fmt.Errorf("it is the manifest of backup %s of data store %s", b.ID, b.DataStore))
	case !r.run && b.State != catalog.StateDeleting:
		return corrupt(data, errOrphan)
	}
	return version{record: r, backup: b, rev: revision(r.highest, data)}, nil
}

// revision names a version by its number and its bytes.
func revision(n int, data []byte) catalog.Revision {
	sum := sha256.Sum256(data)
	return catalog.Revision(strconv.Itoa(n) + "-" + hex.EncodeToString(sum[:8]))
}

// maxRemembered bounds the memory for backups' data stores. Forgetting costs a listing.
const maxRemembered = 10_000

func (c *Catalog) remember(id catalog.ID, dataStore string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.dataStores) >= maxRemembered {
		clear(c.dataStores)
	}
	c.dataStores[id] = dataStore
}

func (c *Catalog) forget(id catalog.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.dataStores, id)
}
