package backup_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/storetest"
)

// found is a snapshot of an object that somebody else wrote into the store.
type found struct {
	store storage.Store
	key   string
	from  string // the key that is read instead, if not empty
}

func (f found) Snapshot(context.Context) (backup.Snapshot, error) { return f, nil }
func (f found) Source() catalog.Source                            { return catalog.Source{Method: "dumpfile"} }
func (f found) Close() error                                      { return nil }
func (f found) Parts() []backup.Part {
	return []backup.Part{{Name: "dump.rdb", Size: -1, Key: f.key}}
}
func (f found) Open(ctx context.Context, _ backup.Part) (io.ReadCloser, error) {
	key := f.key
	if f.from != "" {
		key = f.from
	}
	r, err := f.store.Open(ctx, key, 0, -1)
	return &foundReader{in: r}, err
}

// foundReader is an object's reader that may be closed while it is read.
type foundReader struct {
	mu sync.Mutex
	in io.ReadCloser
}

func (r *foundReader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.in.Read(p)
}

func (r *foundReader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.in.Close()
}

const dumpKey = "dumps/dump.rdb"

// written puts an object into a store as a server would.
func written(t *testing.T, s storage.Store, key string, data []byte) {
	t.Helper()
	if err := storage.WriteFile(t.Context(), s, key, data, nil); err != nil {
		t.Fatal(err)
	}
}

// untouched fails the test unless the object is as it was written.
func untouched(t *testing.T, s storage.Store, key string, data []byte) {
	t.Helper()
	if got, err := storage.ReadFile(t.Context(), s, key, 1<<30); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%s is not as it was: %d bytes, %v", key, len(got), err)
	}
}

// notAdopted counts backups that have parts of their own.
func notAdopted(all []*catalog.Backup) (n int) {
	for _, b := range all {
		if !b.Parts[0].Adopted {
			n++
		}
	}
	return n
}

func TestAdopt(t *testing.T) {
	h := newHouse(t, memstore.New(nil), nil)
	data := snapshotOf(3000, 300)
	written(t, h.store, dumpKey, data)
	adopt := func() *catalog.Backup {
		t.Helper()
		b, err := h.runner.Run(t.Context(), backup.Request{DataStore: "orders", Kind: catalog.KindImport, Snapshotter: found{store: h.store, key: dumpKey}})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	b := adopt()
	if p := b.Parts[0]; len(b.Parts) != 1 || !p.Adopted || p.Key != dumpKey || p.Size != int64(len(data)) || p.Compression != "none" || p.Keys != 3000 || p.Dialect != "redis:10" {
		t.Errorf("parts: %+v", b.Parts)
	}
	if b.Keys != 3000 || b.StoredBytes != int64(len(data)) || b.RawBytes != b.StoredBytes || !b.Verification.ReadBack || b.Kind != catalog.KindImport {
		t.Errorf("manifest: %+v", b)
	}
	if parts := h.parts(t); len(parts) > 0 {
		t.Errorf("it was stored again: %v", parts)
	}
	if n := len(h.check(t)); n != 1 {
		t.Errorf("%d backups are listed", n)
	}
	// Neither deleting nor sweeping takes it, nor one backup from another.
	other := adopt()
	if err := h.runner.Delete(t.Context(), b.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := h.runner.Sweep(t.Context(), -1); err != nil {
		t.Fatal(err)
	}
	untouched(t, h.store, dumpKey, data)
	if ready := h.check(t); len(ready) != 1 || ready[0].ID != other.ID {
		t.Errorf("listed: %v", ready)
	}

	// What becomes of the object afterwards shows.
	written(t, h.store, dumpKey, snapshotOf(3000, 301))
	if _, err := h.restorer.Verify(t.Context(), other.ID, nil); !errors.Is(err, restore.ErrNotVerified) || !strings.Contains(err.Error(), "adopted") {
		t.Errorf("the object was replaced: %v", err)
	}
	if err := h.store.Delete(t.Context(), dumpKey); err != nil {
		t.Fatal(err)
	}
	if _, err := h.restorer.Verify(t.Context(), other.ID, nil); !errors.Is(err, restore.ErrNotVerified) || !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("the object was deleted: %v", err)
	}
}

// A run that would adopt what isn't there as it was read, or what may not be adopted, fails; nothing is listed, and nothing is taken.
func TestAdoptRefused(t *testing.T) {
	good := snapshotOf(100, 100)
	broken := bytes.Clone(good)
	broken[len(broken)/2] ^= 1
	for name, test := range map[string]struct {
		data []byte
		from found
		want error
	}{
		"not sound":              {broken, found{key: dumpKey}, backup.ErrNotSound},
		"empty":                  {nil, found{key: dumpKey}, backup.ErrNotSound},
		"not there":              {good, found{key: "dumps/other.rdb"}, backup.ErrSource},
		"read from elsewhere":    {good, found{key: dumpKey, from: "elsewhere"}, backup.ErrSource},
		"adopted from elsewhere": {good, found{key: "dumps/other.rdb", from: dumpKey}, backup.ErrSource},
		"key of a backup":        {good, found{key: "orders/20261123T221700.123Z-k7f3/part-0000.rdb", from: dumpKey}, nil},
		"key of a lease":         {good, found{key: "_leases/x/1.json", from: dumpKey}, nil},
		"key that leads away":    {good, found{key: "../dump.rdb", from: dumpKey}, storage.ErrInvalidKey},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, memstore.New(nil), nil)
			written(t, h.store, dumpKey, test.data)
			written(t, h.store, "elsewhere", snapshotOf(100, 101))
			test.from.store = h.store
			_, err := h.runner.Run(t.Context(), backup.Request{DataStore: "orders", Snapshotter: test.from})
			if err == nil || test.want != nil && !errors.Is(err, test.want) || test.want == nil && !strings.Contains(err.Error(), "adopting "+test.from.key) {
				t.Errorf("error: %v, want one that wraps %v", err, test.want)
			}
			if n := len(h.check(t)); n > 0 {
				t.Errorf("%d backups are listed", n)
			}
			if _, err := h.runner.Sweep(t.Context(), -1); err != nil {
				t.Error(err)
			}
			untouched(t, h.store, dumpKey, test.data)
		})
	}
}

// Whatever call of the store fails in adopting, in deleting such a backup and in sweeping, the object stays as it is.
func TestStoreFailsAdopting(t *testing.T) {
	modes := map[string]storetest.Mode{"before": storetest.Before, "after": storetest.After} // one that hangs changes nothing either
	prepare := func(t *testing.T, h *house) { written(t, h.store, dumpKey, few) }
	run := func(ctx context.Context, h *house) error {
		_, err := h.runner.Run(ctx, backup.Request{DataStore: "orders", Snapshotter: found{store: h.store, key: dumpKey}})
		return err
	}
	t.Run("Run", func(t *testing.T) {
		campaignOf(t, modes, prepare, run, func(t *testing.T, h *house, err error) {
			if ready := h.check(t); (err == nil) != (len(ready) == 1) {
				t.Errorf("Run returned %v, and %d backups are listed", err, len(ready))
			}
			untouched(t, h.store, dumpKey, few)
		})
	})
	t.Run("DeleteAndSweep", func(t *testing.T) {
		campaignOf(t, modes, func(t *testing.T, h *house) {
			prepare(t, h)
			if err := run(t.Context(), h); err != nil {
				t.Fatal(err)
			}
			h.dead(t, "orders", time.Now().Add(-48*time.Hour))
		}, func(ctx context.Context, h *house) error {
			for b, err := range h.catalog.List(ctx, catalog.Query{}) {
				if err != nil {
					return err
				}
				if err := h.runner.Delete(ctx, b.ID); err != nil {
					return err
				}
			}
			_, err := h.runner.Sweep(ctx, 0)
			return err
		}, func(t *testing.T, h *house, err error) {
			if ready := h.check(t); err == nil && len(ready) > 0 {
				t.Error("Delete returned nil, and the backup is listed")
			}
			untouched(t, h.store, dumpKey, few)
		})
	})
}

// few is a snapshot that takes no time.
var few = snapshotOf(30, 30)
