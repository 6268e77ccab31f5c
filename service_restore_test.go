package amber_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/restore/localserver"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
)

// take backs up a server.
func take(t *testing.T, service *amber.Service, dataStore string, s *testserver.Server) *catalog.Backup {
	t.Helper()
	b, err := service.Backup(t.Context(), amber.BackupRequest{DataStore: dataStore, From: s.Options()})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func serviceOver(t *testing.T, store storage.Store) *amber.Service {
	t.Helper()
	service, err := amber.New(amber.Config{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	return service
}

// What a target holds is backed up before it is replaced, and that backup restores.
func TestSafetyBackup(t *testing.T) {
	ctx := t.Context()
	service := serviceOver(t, memstore.New(nil))
	from, to := testserver.Start(t, "redis-8.0"), testserver.Start(t, "redis-8.0")
	testserver.Generate(t, from.Client(t), 500, 1)
	testserver.Generate(t, to.Client(t), 400, 2)
	want, former := testserver.Snapshot(t, from.Client(t)), testserver.Snapshot(t, to.Client(t))
	b := take(t, service, "orders", from)
	q := amber.RestoreRequest{Backup: b.ID, To: to.Options()}
	if _, err := service.Restore(ctx, q); !errors.Is(err, restore.ErrNotEmpty) {
		t.Fatalf("into a target with data: %v", err)
	}
	q.Conflict, q.TargetStore = restore.Replace, "staging"
	rep, err := service.Restore(ctx, q)
	if err != nil {
		t.Fatal(err)
	}
	if diff := testserver.Diff(want, testserver.Snapshot(t, to.Client(t))); diff != "" {
		t.Errorf("the target holds something else than the backup: %s", diff)
	}
	safety, err := service.Get(ctx, rep.Safety)
	if err != nil || safety.Kind != catalog.KindSafety || safety.DataStore != "staging" || safety.Keys != int64(len(former)) {
		t.Fatalf("the safety backup is %+v, %v", safety, err)
	}
	q.Backup, q.NoSafetyBackup = rep.Safety, true
	if rep, err = service.Restore(ctx, q); err != nil || rep.Safety != "" {
		t.Fatalf("restoring the safety backup: %+v, %v", rep, err)
	}
	if diff := testserver.Diff(former, testserver.Snapshot(t, to.Client(t))); diff != "" {
		t.Errorf("the safety backup brought something else back: %s", diff)
	}

	// Where it can't be taken nothing is touched.
	to.AddUser(t, "nosync", "pw", "~*", "&*", "+@all", "-psync", "-sync", "-dump")
	q.NoSafetyBackup, q.To = false, to.Options()
	q.To.Username, q.To.Password = "nosync", "pw"
	if _, err = service.Restore(ctx, q); err == nil || !strings.Contains(err.Error(), "not touched") || !strings.Contains(err.Error(), "safety backup") {
		t.Errorf("without the right to take it: %v", err)
	}
	if diff := testserver.Diff(former, testserver.Snapshot(t, to.Client(t))); diff != "" {
		t.Errorf("the target was touched: %s", diff)
	}

	// The error of a restore that fails then names it.
	q.To = to.Options()
	q.Backup = b.ID
	q.Progress = func(p amber.Progress) {
		if p.Stage == string(restore.StageLoad) {
			to.Kill()
		}
	}
	_, err = service.Restore(ctx, q)
	var partial *restore.PartialError
	if !errors.As(err, &partial) || partial.Safety == "" || !strings.Contains(err.Error(), string(partial.Safety)) {
		t.Errorf("the target was killed: %v", err)
	}
}

// The newest backup that verifies is what a data store that starts empty gets. None that can be read is never the same as none needed.
func TestRestoreLatest(t *testing.T) {
	ctx := t.Context()
	store := memstore.New(nil)
	service := serviceOver(t, store)
	from := testserver.Start(t, "valkey-8.1")
	c := from.Client(t)
	var ids []catalog.ID
	for _, value := range []string{"first", "second", "third"} {
		if err := c.Set(ctx, "which", value, 0).Err(); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, take(t, service, "orders", from).ID)
	}
	latest := func() (string, *restore.Report, error) {
		t.Helper()
		to := testserver.Start(t, "valkey-8.1")
		rep, err := service.RestoreLatest(ctx, "orders", amber.RestoreRequest{To: to.Options()})
		got := to.Client(t).Get(ctx, "which").Val()
		if err != nil && got != "" {
			t.Errorf("beside %v the target has %q", err, got)
		}
		return got, rep, err
	}
	if got, rep, err := latest(); err != nil || got != "third" || rep.Backup != ids[2] {
		t.Fatalf("the latest is %q: %+v, %v", got, rep, err)
	}
	spoil := func(id catalog.ID) {
		b, err := service.Get(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		data, err := storage.ReadFile(ctx, store, b.Parts[0].Key, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		data = bytes.Clone(data)
		data[len(data)/2] ^= 1
		if err := storage.WriteFile(ctx, store, b.Parts[0].Key, data, nil); err != nil {
			t.Fatal(err)
		}
	}
	spoil(ids[2])
	if got, rep, err := latest(); err != nil || got != "second" || len(rep.Warnings) == 0 || !strings.Contains(strings.Join(rep.Warnings, " "), string(ids[2])) {
		t.Fatalf("after the newest was spoilt the latest is %q: %+v, %v", got, rep, err)
	}
	spoil(ids[0])
	spoil(ids[1])
	if got, _, err := latest(); !errors.Is(err, amber.ErrNoBackup) || !errors.Is(err, restore.ErrNotVerified) || got != "" {
		t.Errorf("with nothing but spoilt backups: %q, %v", got, err)
	}
	if _, err := service.RestoreLatest(ctx, "nobody", amber.RestoreRequest{To: from.Options()}); !errors.Is(err, amber.ErrNoBackup) {
		t.Errorf("of a data store without backups: %v", err)
	}
	// What a restore kept of a target is no backup of the data store's own.
	take(t, service, "orders", from)
	to := testserver.Start(t, "valkey-8.1")
	if err := to.Client(t).Set(ctx, "which", "another's", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := service.RestoreLatest(ctx, "orders", amber.RestoreRequest{To: to.Options()}); !errors.Is(err, restore.ErrNotEmpty) {
		t.Errorf("into a target with data: %v", err)
	}
	var newest *catalog.Backup
	for b, err := range service.List(ctx, catalog.Query{DataStore: "orders"}) {
		if err != nil {
			t.Fatal(err)
		}
		newest = b
		break
	}
	if _, err := service.Restore(ctx, amber.RestoreRequest{Backup: newest.ID, To: to.Options(), Conflict: restore.Replace}); err != nil {
		t.Fatal(err)
	}
	if got, rep, err := latest(); err != nil || got != "third" || rep.Backup != newest.ID {
		t.Errorf("with a newer safety backup the latest is %q: %+v, %v", got, rep, err)
	}
	// A manifest that can't be read is passed over as well, and told of.
	if err := c.Set(ctx, "which", "fourth", 0).Err(); err != nil {
		t.Fatal(err)
	}
	unreadable := take(t, service, "orders", from)
	if err := storage.WriteFile(ctx, store, unreadable.Prefix()+"manifest.json", []byte("{"), nil); err != nil {
		t.Fatal(err)
	}
	if got, rep, err := latest(); err != nil || got != "third" || !strings.Contains(strings.Join(rep.Warnings, " "), string(unreadable.ID)) {
		t.Errorf("with a newer manifest that can't be read the latest is %q: %+v, %v", got, rep, err)
	}
}

// A new data store is made for a backup, and doesn't stay if the restore fails, unless the caller wants to look at it.
func TestRestoreNew(t *testing.T) {
	ctx := t.Context()
	store := memstore.New(nil)
	service := serviceOver(t, store)
	from := testserver.Start(t, "redis-7.0")
	testserver.Generate(t, from.Client(t), 300, 3)
	want := testserver.Snapshot(t, from.Client(t))
	b := take(t, service, "orders", from)
	prov, err := localserver.New(localserver.Config{Program: testserver.Program(t, "redis-7.0", "server"), Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	made, rep, err := service.RestoreNew(ctx, amber.RestoreRequest{Backup: b.ID}, amber.NewRequest{Provisioner: prov, Parameters: map[string]string{"maxmemory-policy": "allkeys-lru"}})
	if err != nil {
		t.Fatal(err)
	}
	c := redis.NewClient(made.Options())
	defer c.Close()
	if diff := testserver.Diff(want, testserver.Snapshot(t, c)); diff != "" || rep.Keys != b.Keys {
		t.Errorf("%d keys were restored: %s", rep.Keys, diff)
	}
	if policy := c.ConfigGet(ctx, "maxmemory-policy").Val()["maxmemory-policy"]; policy != "allkeys-lru" {
		t.Errorf("the policy that was asked for is %q", policy)
	}
	for range 2 {
		if err := made.Remove(ctx); err != nil {
			t.Error(err)
		}
	}
	if err := c.Ping(ctx).Err(); err == nil {
		t.Error("a data store that was removed answers")
	}

	// The part is gone: the restore fails.
	data, err := storage.ReadFile(ctx, store, b.Parts[0].Key, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := storage.WriteFile(ctx, store, b.Parts[0].Key, data[:len(data)-1], nil); err != nil {
		t.Fatal(err)
	}
	for _, keep := range []bool{false, true} {
		watched := &watchedProvisioner{Provisioner: prov}
		made, _, err := service.RestoreNew(ctx, amber.RestoreRequest{Backup: b.ID}, amber.NewRequest{Provisioner: watched, KeepFailed: keep})
		if !errors.Is(err, restore.ErrNotVerified) || !strings.Contains(err.Error(), watched.made.ID()) || (made != nil) != keep {
			t.Fatalf("keep %v: %v, %v", keep, made, err)
		}
		c := redis.NewClient(watched.made.Options())
		if alive := c.Ping(ctx).Err() == nil; alive != keep {
			t.Errorf("keep %v: the server answers: %v", keep, alive)
		}
		c.Close()
		if keep {
			if err := made.Remove(ctx); err != nil {
				t.Error(err)
			}
		}
	}
}

type watchedProvisioner struct {
	restore.Provisioner
	made restore.Provisioned
}

func (w *watchedProvisioner) Provision(ctx context.Context, need restore.Need) (restore.Provisioned, error) {
	made, err := w.Provisioner.Provision(ctx, need)
	w.made = made
	return made, err
}
