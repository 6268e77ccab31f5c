package amber_test

import (
	"bytes"
	"errors"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/storecatalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/storetest"
)

// stores are three of a host: the first without a name, and two in other places.
type stores struct {
	first, near, far *memstore.Store
	*amber.Service
}

// withStores returns a service over three stores, of which fault may make one fail.
func withStores(t *testing.T, fault func(name string, s storage.Store) storage.Store) *stores {
	t.Helper()
	s := &stores{first: memstore.New(nil), near: memstore.New(nil), far: memstore.New(nil)}
	s.Service = s.open(t, fault)
	return s
}

func (s *stores) open(t *testing.T, fault func(name string, s storage.Store) storage.Store) *amber.Service {
	t.Helper()
	if fault == nil {
		fault = func(_ string, s storage.Store) storage.Store { return s }
	}
	service, err := amber.New(amber.Config{Store: fault("", s.first), Stores: []amber.NamedStore{
		{Name: "near", Cloud: "aws", Region: "eu-central-1", Store: fault("near", s.near)},
		{Name: "far", Cloud: "gcp", Region: "us-east1", Store: fault("far", s.far)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return service
}

// without returns a service in which one of the stores can't be reached.
func (s *stores) without(t *testing.T, gone string) *amber.Service {
	t.Helper()
	return s.open(t, func(name string, s storage.Store) storage.Store {
		if name != gone {
			return s
		}
		var faults []storetest.Fault
		for _, op := range []storetest.Op{storetest.OpCreate, storetest.OpOpen, storetest.OpStat, storetest.OpList, storetest.OpDelete, storetest.OpSweep} {
			faults = append(faults, storetest.Fault{Op: op})
		}
		return storetest.NewFaulty(s, faults...)
	})
}

func (s *stores) take(t *testing.T, store string, from *testserver.Server) *catalog.Backup {
	t.Helper()
	b, err := s.Backup(t.Context(), amber.BackupRequest{DataStore: "orders", From: from.Options(), Store: store})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Millisecond) // IDs tell milliseconds apart
	return b
}

// clone makes a store have all that another one has below a prefix.
func clone(t *testing.T, from, to storage.Store, prefix string) {
	t.Helper()
	for info, err := range from.List(t.Context(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		data, err := storage.ReadFile(t.Context(), from, info.Key, 1<<30)
		if err == nil {
			err = storage.WriteFile(t.Context(), to, info.Key, data, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// spoil changes a bit of an object.
func spoil(t *testing.T, store storage.Store, key string) {
	t.Helper()
	data, err := storage.ReadFile(t.Context(), store, key, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	data = bytes.Clone(data)
	data[len(data)/2] ^= 1
	if err := storage.WriteFile(t.Context(), store, key, data, nil); err != nil {
		t.Fatal(err)
	}
}

// listed is what a sequence gives: where each backup is, and the errors.
func listed(seq iter.Seq2[amber.Found, error]) (found []string, errs []error) {
	for f, err := range seq {
		if err != nil {
			errs = append(errs, err)
			continue
		}
		found = append(found, f.Store.Name+"/"+string(f.ID))
	}
	return found, errs
}

// Backups of all stores are listed as of one, newest first; neither a manifest that can't be read nor a store that can't be reached hides
// the others, and both are told.
func TestStoresListed(t *testing.T) {
	ctx := t.Context()
	s := withStores(t, nil)
	server := testserver.Start(t, "redis-8.0")
	var want []string
	var last *catalog.Backup
	for _, store := range []string{"", "far", "near", "near", "", "far"} {
		last = s.take(t, store, server)
		want = append(want, store+"/"+string(last.ID))
	}
	clone(t, s.far, s.near, last.Prefix()) // a copy, of which the nearer is listed first
	want = slices.Insert(want, len(want)-1, "")
	want[5], want[6] = want[6], "near/"+string(last.ID)
	slices.Reverse(want)
	found, errs := listed(s.ListAll(ctx, catalog.Query{DataStore: "orders"}))
	if len(errs) > 0 || !slices.Equal(found, want) {
		t.Errorf("listed %v, %v; want %v", found, errs, want)
	}
	n := 0
	for b, err := range s.List(ctx, catalog.Query{}) {
		if err != nil || !strings.HasSuffix(want[n], string(b.ID)) {
			t.Errorf("number %d is %+v, %v; want %s", n, b, err, want[n])
		}
		n++
	}
	for f := range s.ListAll(ctx, catalog.Query{}) { // a sequence that is left early
		if f.Store.Region == "" || f.Store.Name != "near" {
			t.Errorf("the first is in %+v", f.Store)
		}
		break
	}
	if names := s.Stores(); len(names) != 3 || names[0].Name != "" || names[1].Cloud != "aws" || names[2].Region != "us-east1" {
		t.Errorf("the stores are %+v", names)
	}

	for _, gone := range []string{"", "near", "far"} {
		found, errs := listed(s.without(t, gone).ListAll(ctx, catalog.Query{}))
		rest := slices.DeleteFunc(slices.Clone(want), func(f string) bool { return strings.HasPrefix(f, gone+"/") })
		if !slices.Equal(found, rest) || len(errs) != 1 || !errors.Is(errs[0], storetest.ErrInjected) || gone != "" && !strings.Contains(errs[0].Error(), "store "+gone) {
			t.Errorf("without %q there are %v, %v; want %v", gone, found, errs, rest)
		}
	}
	oldest := want[len(want)-1][1:]
	spoil(t, s.first, "orders/"+oldest+"/manifest.json")
	spoil(t, s.near, last.Prefix()+"manifest.json")
	found, errs = listed(s.ListAll(ctx, catalog.Query{}))
	if !slices.Equal(found, want[1:len(want)-1]) || len(errs) != 2 {
		t.Errorf("beside two manifests that can't be read there are %v, %v", found, errs)
	}
	for _, err := range errs {
		if !errors.Is(err, catalog.ErrCorrupt) {
			t.Errorf("the error is %v", err)
		}
	}
}

// One of several copies is found whatever became of the others, and what can't be known is an error.
func TestStoresFind(t *testing.T) {
	ctx := t.Context()
	s := withStores(t, nil)
	server := testserver.Start(t, "redis-8.0")
	if err := server.Client(t).Set(ctx, "a", "1", 0).Err(); err != nil {
		t.Fatal(err)
	}
	b := s.take(t, "far", server)
	for _, gone := range []string{"", "near"} {
		service := s.without(t, gone)
		if got, err := service.Get(ctx, b.ID); err != nil || got.ID != b.ID {
			t.Errorf("without %q: %v", gone, err)
		}
		// A copy that can't be looked at isn't proved.
		if _, err := service.Verify(ctx, b.ID, nil); !errors.Is(err, storetest.ErrInjected) {
			t.Errorf("verifying without %q: %v", gone, err)
		}
	}
	if _, err := s.without(t, "far").Get(ctx, b.ID); !errors.Is(err, storetest.ErrInjected) || errors.Is(err, catalog.ErrNotFound) || !strings.Contains(err.Error(), "store far") {
		t.Errorf("without the only store that has it: %v", err)
	}
	if _, err := s.Get(ctx, catalog.NewID(time.Now())); !errors.Is(err, catalog.ErrNotFound) {
		t.Errorf("a backup that isn't there: %v", err)
	}

	// A copy that is not ready doesn't count beside one that is.
	unfinished := *b
	unfinished.State, unfinished.Parts = catalog.StateInterrupted, nil
	near, err := storecatalog.New(storecatalog.Config{Store: s.near})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := near.Put(ctx, &unfinished, ""); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get(ctx, b.ID); err != nil || got.State != catalog.StateReady {
		t.Errorf("beside an unfinished copy: %+v, %v", got, err)
	}
	if v, err := s.Verify(ctx, b.ID, nil); err != nil || v.Keys != b.Keys {
		t.Errorf("beside an unfinished copy: %+v, %v", v, err)
	}
	far := s.without(t, "far")
	if got, err := far.Get(ctx, b.ID); err != nil || got.State != catalog.StateInterrupted {
		t.Errorf("nothing but an unfinished copy: %+v, %v", got, err)
	}
	to := testserver.Start(t, "redis-8.0")
	q := amber.RestoreRequest{Backup: b.ID, To: to.Options()}
	if _, err := far.Restore(ctx, q); !errors.Is(err, storetest.ErrInjected) || !errors.Is(err, restore.ErrNotVerified) {
		t.Errorf("restoring nothing but an unfinished copy: %v", err)
	}

	// Of two copies the one that verifies is restored, and Verify tells of the other.
	clone(t, s.far, s.first, b.Prefix())
	for _, store := range []storage.Store{s.far, s.first} {
		spoil(t, store, b.Parts[0].Key)
		if _, err := s.Verify(ctx, b.ID, nil); !errors.Is(err, restore.ErrNotVerified) {
			t.Errorf("verifying with one copy spoilt: %v", err)
		}
		if store == s.far {
			spoil(t, store, b.Parts[0].Key) // which undoes it
		}
	}
	if plan, err := s.PlanRestore(ctx, q); err != nil || plan.Report.Keys != 1 {
		t.Errorf("planning with one copy spoilt: %+v, %v", plan, err)
	}
	rep, err := s.Restore(ctx, q)
	if err != nil || len(rep.Warnings) == 0 || !strings.Contains(strings.Join(rep.Warnings, " "), "passed over") {
		t.Errorf("restoring with one copy spoilt: %+v, %v", rep, err)
	}
	if got := to.Client(t).Get(ctx, "a").Val(); got != "1" {
		t.Errorf("the target has %q", got)
	}
	// What the target refuses is not a matter of the copy.
	if _, err := s.Restore(ctx, q); !errors.Is(err, restore.ErrNotEmpty) {
		t.Errorf("into a target with data: %v", err)
	}
	spoil(t, s.far, b.Parts[0].Key)
	if _, err := s.Restore(ctx, q); errors.Is(err, restore.ErrNotVerified) || !errors.Is(err, restore.ErrNotEmpty) {
		t.Errorf("the target is asked first: %v", err)
	}
	q.To = testserver.Start(t, "redis-8.0").Options()
	if _, err := s.Restore(ctx, q); !errors.Is(err, restore.ErrNotVerified) || !strings.Contains(err.Error(), "store far") {
		t.Errorf("with both copies spoilt: %v", err)
	}
}

// The latest backup is that of all stores; and where one can't be asked nobody takes an older one for it.
func TestStoresLatest(t *testing.T) {
	ctx := t.Context()
	s := withStores(t, nil)
	server := testserver.Start(t, "valkey-9.1")
	var made []*catalog.Backup
	for i, store := range []string{"near", "", "far"} {
		if err := server.Client(t).Set(ctx, "which", i, 0).Err(); err != nil {
			t.Fatal(err)
		}
		made = append(made, s.take(t, store, server))
	}
	latest := func(s *amber.Service) (string, *restore.Report, error) {
		t.Helper()
		to := testserver.Start(t, "valkey-9.1")
		rep, err := s.RestoreLatest(ctx, "orders", amber.RestoreRequest{To: to.Options()})
		return to.Client(t).Get(ctx, "which").Val(), rep, err
	}
	if got, rep, err := latest(s.Service); err != nil || got != "2" || rep.Backup != made[2].ID {
		t.Errorf("the latest is %q, %v", got, err)
	}
	if got, _, err := latest(s.without(t, "far")); !errors.Is(err, storetest.ErrInjected) || errors.Is(err, amber.ErrNoBackup) || got != "" || !strings.Contains(err.Error(), "far") {
		t.Errorf("without the store that has the latest: %q, %v", got, err)
	}
	// The first copy of the newest is spoilt, the second isn't.
	clone(t, s.far, s.near, made[2].Prefix())
	spoil(t, s.near, made[2].Parts[0].Key)
	if got, rep, err := latest(s.Service); err != nil || got != "2" || len(rep.Warnings) == 0 {
		t.Errorf("with one copy spoilt the latest is %q, %v", got, err)
	}
	spoil(t, s.far, made[2].Parts[0].Key)
	if got, rep, err := latest(s.Service); err != nil || got != "1" || rep.Backup != made[1].ID {
		t.Errorf("with both copies spoilt the latest is %q, %v", got, err)
	}
}

// What a target held is kept in the store that has what replaces it.
func TestStoresSafetyBackup(t *testing.T) {
	ctx := t.Context()
	s := withStores(t, nil)
	from, to := testserver.Start(t, "redis-8.0"), testserver.Start(t, "redis-8.0")
	for server, value := range map[*testserver.Server]string{from: "new", to: "old"} {
		if err := server.Client(t).Set(ctx, "which", value, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	b := s.take(t, "near", from)
	rep, err := s.Restore(ctx, amber.RestoreRequest{Backup: b.ID, To: to.Options(), Conflict: restore.Replace})
	if err != nil {
		t.Fatal(err)
	}
	found, errs := listed(s.ListAll(ctx, catalog.Query{}))
	if want := []string{"near/" + string(rep.Safety), "near/" + string(b.ID)}; !slices.Equal(found, want) || len(errs) > 0 {
		t.Errorf("there are %v, %v; want %v", found, errs, want)
	}
}

// One backup at a time per data store, whichever store it goes to: the first store's leases are for all.
func TestStoresShareLeases(t *testing.T) {
	ctx := t.Context()
	s := withStores(t, nil)
	server := testserver.Start(t, "redis-8.0")
	leases, err := storecatalog.New(storecatalog.Config{Store: s.first})
	if err != nil {
		t.Fatal(err)
	}
	held, err := leases.Acquire(ctx, "backup-orders", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	for _, store := range []string{"", "near", "far"} {
		q := amber.BackupRequest{DataStore: "orders", From: server.Options(), Store: store}
		if _, err := s.Backup(ctx, q); !errors.Is(err, backup.ErrBusy) {
			t.Errorf("into store %q while another run is at work: %v", store, err)
		}
	}
	if err := held.Release(ctx); err != nil {
		t.Fatal(err)
	}
	s.take(t, "far", server)
	for info, err := range s.far.List(ctx, "_leases/") {
		t.Errorf("a store that is not the first has %s, %v", info.Key, err)
	}
	if _, err := s.Backup(ctx, amber.BackupRequest{DataStore: "orders", From: server.Options(), Store: "nowhere"}); err == nil || !strings.Contains(err.Error(), `"nowhere"`) {
		t.Errorf("into a store that there is not: %v", err)
	}
}

// Delete takes every copy, and tells of stores in which it couldn't; Sweep goes through all stores.
func TestStoresDeleteAndSweep(t *testing.T) {
	ctx := t.Context()
	s := withStores(t, nil)
	server := testserver.Start(t, "redis-8.0")
	b := s.take(t, "near", server)
	clone(t, s.near, s.first, b.Prefix())
	clone(t, s.near, s.far, b.Prefix())
	left := func() (keys []string) {
		for _, store := range []storage.Store{s.first, s.near, s.far} {
			for info, err := range store.List(ctx, "orders/") {
				if err != nil {
					t.Fatal(err)
				}
				keys = append(keys, info.Key)
			}
		}
		return keys
	}
	if err := s.without(t, "near").Delete(ctx, b.ID); !errors.Is(err, storetest.ErrInjected) || !strings.Contains(err.Error(), "store near") {
		t.Errorf("deleting while a store can't be reached: %v", err)
	}
	if n := len(left()); n != 3 {
		t.Errorf("%d objects are left, of one copy there are 3", n)
	}
	if err := s.Delete(ctx, b.ID); err != nil || len(left()) > 0 {
		t.Errorf("deleting what is left: %v, %v", err, left())
	}
	if err := s.Delete(ctx, b.ID); !errors.Is(err, catalog.ErrNotFound) {
		t.Errorf("deleting what is gone: %v", err)
	}

	for _, store := range []storage.Store{s.first, s.near, s.far} {
		c, err := storecatalog.New(storecatalog.Config{Store: store})
		if err != nil {
			t.Fatal(err)
		}
		dead := &catalog.Backup{ID: catalog.NewID(time.Now()), DataStore: "orders", Kind: catalog.KindManual, State: catalog.StateRunning}
		if _, err := c.Put(ctx, dead, ""); err != nil {
			t.Fatal(err)
		}
		if err := storage.WriteFile(ctx, store, dead.Prefix()+"part-0000.rdb.zst", []byte("bytes"), nil); err != nil {
			t.Fatal(err)
		}
	}
	rep, err := s.without(t, "near").Sweep(ctx, -1)
	if !errors.Is(err, storetest.ErrInjected) || !errors.Is(err, backup.ErrStore) || rep.Interrupted != 2 || rep.Objects != 2 {
		t.Errorf("sweeping while a store can't be reached: %+v, %v", rep, err)
	}
	if rep, err = s.Sweep(ctx, -1); err != nil || rep.Interrupted != 1 || rep.Records != 1 || rep.Bytes != 5 || len(left()) > 0 {
		t.Errorf("sweeping: %+v, %v; left are %v", rep, err, left())
	}
}

func TestStoresConfigured(t *testing.T) {
	store := memstore.New(nil)
	for want, named := range map[string][]amber.NamedStore{
		"its name":               {{Store: store}},
		"not allowed":            {{Name: "a b", Store: store}},
		"Store is required":      {{Name: "a"}},
		`"a" is there twice`:     {{Name: "a", Store: store}, {Name: "b", Store: store}, {Name: "a", Store: store}},
		`Config.Stores: store "`: {{Name: strings.Repeat("a", 101), Store: store}},
	} {
		if _, err := amber.New(amber.Config{Store: store, Stores: named}); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "amber: ") {
			t.Errorf("%+v: %v, want %s", named, err, want)
		}
	}
}
