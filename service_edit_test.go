package amber_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/storecatalog"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/storetest"
)

// TestEditInAllStores: an edit is done to every copy of a backup, which stay the same; a store that can't be reached is told.
func TestEditInAllStores(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := withStores(t, nil)
	b := kept(t, s.Service, amber.ImportRequest{Name: "monthly", Labels: map[string]string{"team": "a"}})
	if _, err := s.CopyBackup(ctx, amber.CopyBackupRequest{Backup: b.ID, To: "far"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Pin(ctx, b.ID); err != nil {
		t.Fatal(err)
	}
	text := "the night before"
	if got, err := s.Edit(ctx, b.ID, backup.Edit{Description: &text, SetLabels: map[string]string{"env": "eu"}}); err != nil || got.Description != text || !got.Pinned {
		t.Errorf("Edit: %+v, %v", got, err)
	}
	n := 0
	for f, err := range s.ListAll(ctx, catalog.Query{Labels: map[string]string{"team": "a", "env": "eu"}}) {
		if n++; err != nil || !f.Pinned || f.Description != text {
			t.Errorf("in store %q it is %+v, %v", f.Store.Name, f.Backup, err)
		}
	}
	if n != 2 {
		t.Errorf("%d copies are listed", n)
	}
	if rep, err := s.CopyBackup(ctx, amber.CopyBackupRequest{Backup: b.ID, To: "far"}); err != nil || !rep.Existing {
		t.Errorf("copying again what was edited in both: %+v, %v", rep, err)
	}
	if _, err := s.Verify(ctx, b.ID, nil); err != nil {
		t.Error(err)
	}
	if err := s.without(t, "far").Unpin(ctx, b.ID); !errors.Is(err, storetest.ErrInjected) || !strings.Contains(err.Error(), "far") || !strings.Contains(err.Error(), "again") {
		t.Errorf("unpinning where one store can't be reached: %v", err)
	}
	if err := s.Unpin(ctx, b.ID); err != nil {
		t.Error(err)
	}
	for f, err := range s.ListAll(ctx, catalog.Query{}) {
		if err != nil || f.Pinned {
			t.Errorf("in store %q it is %+v, %v", f.Store.Name, f.Backup, err)
		}
	}
	if err := s.Pin(ctx, catalog.NewID(time.Now())); !errors.Is(err, catalog.ErrNotFound) {
		t.Errorf("pinning what isn't there: %v", err)
	}
	// Its name is taken in all stores.
	if _, err := s.Import(ctx, amber.ImportRequest{DataStore: "orders", Reader: bytes.NewReader(rdbOf(1)), Name: "monthly", Store: "near"}); !errors.Is(err, backup.ErrNameTaken) {
		t.Errorf("a name that another store has: %v", err)
	}
}

// TestEditKeepsTrust: a host that trusts only its own keys restores what it has edited.
func TestEditKeepsTrust(t *testing.T) {
	t.Parallel()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s, err := amber.New(amber.Config{Store: fileStore(t, dir), Signer: private, Trust: []ed25519.PublicKey{public}})
	if err != nil {
		t.Fatal(err)
	}
	b := kept(t, s, amber.ImportRequest{})
	if err := s.Pin(t.Context(), b.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Verify(t.Context(), b.ID, nil); err != nil {
		t.Errorf("Verify after an edit: %v", err)
	}
	if err := over(t, dir, nil).Unpin(t.Context(), b.ID); !errors.Is(err, backup.ErrSigned) {
		t.Errorf("an edit without the key: %v", err)
	}
}

// TestDeleteDatastore: the automatic backups of a data store go with it, in all stores; all others, and what is pinned, outlive it.
func TestDeleteDatastore(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := withStores(t, nil)
	manual := kept(t, s.Service, amber.ImportRequest{})
	made := func(dataStore string, pinned bool) catalog.ID {
		t.Helper()
		b := kept(t, s.Service, amber.ImportRequest{})
		// What a policy has made differs in what its manifest says.
		auto := *b
		auto.ID, auto.DataStore, auto.Kind, auto.Policy, auto.Pinned = catalog.NewID(time.Now()), dataStore, catalog.KindAutomatic, "nightly", pinned
		auto.Parts = []catalog.Part{b.Parts[0]}
		auto.Parts[0].Key = auto.Prefix() + "part-0000.rdb.zst"
		if _, err := catalogIn(t, s.first).Put(ctx, &auto, ""); err != nil {
			t.Fatal(err)
		}
		if err := s.Delete(ctx, b.ID); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Millisecond)
		return auto.ID
	}
	auto, pinned, others := made("orders", false), made("orders", true), made("invoices", false)

	// A reader keeps it, and so does a backup that is being made.
	lease, err := catalogIn(t, s.first).Share(ctx, catalog.ReadLease(auto), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	rep, err := s.DeleteDatastore(ctx, "orders")
	if !errors.Is(err, backup.ErrBusy) || len(rep.Backups) != 3 {
		t.Errorf("while one is read: %+v, %v", rep, err)
	}
	if err := lease.Release(ctx); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"backup-orders", "copy-orders"} {
		run, err := catalogIn(t, s.first).Acquire(ctx, name, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if rep, err := s.DeleteDatastore(ctx, "orders"); !errors.Is(err, backup.ErrBusy) || len(rep.Backups) != 0 {
			t.Errorf("while %s is held: %+v, %v", name, rep, err)
		}
		if err := run.Release(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for again := range 2 {
		rep, err := s.DeleteDatastore(ctx, "orders")
		if err != nil {
			t.Fatal(err)
		}
		fates := map[catalog.ID]bool{}
		for _, b := range rep.Backups {
			if fates[b.ID] = b.Deleted; b.Reason == "" {
				t.Errorf("no reason: %+v", b)
			}
		}
		want := map[catalog.ID]bool{manual.ID: false, pinned: false}
		if again == 0 {
			want[auto] = true
		}
		if len(fates) != len(want) || fates[auto] != want[auto] || fates[manual.ID] || fates[pinned] {
			t.Errorf("round %d: %+v", again, rep)
		}
	}
	for id, there := range map[catalog.ID]bool{auto: false, pinned: true, manual.ID: true, others: true} {
		if _, err := s.Get(ctx, id); (err == nil) != there {
			t.Errorf("%s, there %v: %v", id, there, err)
		}
	}
	if _, err := s.DeleteDatastore(ctx, "../orders"); err == nil {
		t.Error("a data store that can't be was deleted")
	}
}

func catalogIn(t *testing.T, s storage.Store) *storecatalog.Catalog {
	t.Helper()
	c, err := storecatalog.New(storecatalog.Config{Store: s})
	if err != nil {
		t.Fatal(err)
	}
	return c
}
