package amber_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/storetest"
)

// A backup is copied from whichever store has it in order, as it is, and restores from there when the others are gone.
func TestCopyBackup(t *testing.T) {
	ctx := t.Context()
	s := withStores(t, nil)
	server := testserver.Start(t, "redis-8.0")
	testserver.Generate(t, server.Client(t), 300, 3)
	b := s.take(t, "near", server)
	copyTo := func(service *amber.Service, to string) (*amber.CopyBackupReport, error) {
		return service.CopyBackup(ctx, amber.CopyBackupRequest{Backup: b.ID, To: to})
	}
	rep, err := copyTo(s.Service, "far")
	if err != nil || rep.From != "near" || rep.To != "far" || rep.Existing || rep.Backup.ID != b.ID {
		t.Fatalf("%+v, %v", rep, err)
	}
	for _, key := range []string{b.Prefix() + "manifest.json", b.Parts[0].Key} {
		one, err1 := storage.ReadFile(ctx, s.near, key, 1<<30)
		two, err2 := storage.ReadFile(ctx, s.far, key, 1<<30)
		if err1 != nil || err2 != nil || !bytes.Equal(one, two) {
			t.Errorf("%s is not the same: %v, %v", key, err1, err2)
		}
	}
	if rep, err := copyTo(s.Service, "far"); err != nil || !rep.Existing {
		t.Errorf("again: %+v, %v", rep, err)
	}
	// Onto itself, when no other has it.
	if rep, err := copyTo(s.without(t, "far"), "near"); !errors.Is(err, storetest.ErrInjected) {
		t.Errorf("onto itself beside a store that can't be asked: %+v, %v", rep, err)
	}
	// Bytes that are not those of the manifest aren't copied; those of another store are.
	spoil(t, s.near, b.Parts[0].Key)
	rep, err = copyTo(s.Service, "")
	if err != nil || rep.From != "far" || rep.To != "" || rep.Existing {
		t.Errorf("beside a copy that is spoilt: %+v, %v", rep, err)
	}
	to := testserver.Start(t, "redis-8.0")
	if _, err := s.without(t, "far").Restore(ctx, amber.RestoreRequest{Backup: b.ID, To: to.Options()}); err != nil {
		t.Fatal(err)
	}
	if diff := testserver.Diff(testserver.Snapshot(t, server.Client(t)), testserver.Snapshot(t, to.Client(t))); diff != "" {
		t.Error(diff)
	}

	other := s.take(t, "near", server)
	if rep, err := s.CopyBackup(ctx, amber.CopyBackupRequest{Backup: other.ID, To: "near"}); err != nil || !rep.Existing || rep.Backup.ID != other.ID {
		t.Errorf("onto itself: %+v, %v", rep, err)
	}
	spoil(t, s.near, other.Parts[0].Key)
	if _, err := s.CopyBackup(ctx, amber.CopyBackupRequest{Backup: other.ID, To: "far"}); !errors.Is(err, backup.ErrNotSound) {
		t.Errorf("what is spoilt: %v", err)
	}
	if _, err := s.CopyBackup(ctx, amber.CopyBackupRequest{Backup: other.ID, To: "nowhere"}); err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("into a store that there is not: %v", err)
	}
	if _, err := s.CopyBackup(ctx, amber.CopyBackupRequest{Backup: catalog.NewID(time.Now())}); !errors.Is(err, catalog.ErrNotFound) {
		t.Errorf("a backup that there is not: %v", err)
	}
	if _, err := s.CopyBackup(ctx, amber.CopyBackupRequest{}); err == nil {
		t.Error("a copy of nothing")
	}
}
