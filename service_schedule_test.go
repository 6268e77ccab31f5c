package amber_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/replica"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/retention"
	"github.com/amberkv/amber/catalog/storecatalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/schedule"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/filestore"
	"github.com/amberkv/amber/storage/memstore"
)

// clockAt returns a clock that goes as the machine's does and says now that it is t.
func clockAt(t time.Time) func() time.Time {
	start := time.Now()
	return func() time.Time { return t.Add(time.Since(start)) }
}

// A heldClock is a clock that stands until it is let go: what a test has to do before a due time it does before it, however long that takes.
type heldClock struct {
	at time.Time
	mu sync.Mutex
	// went is when it was let go.
	went time.Time
}

// heldAt returns a clock that stands at t.
func heldAt(t time.Time) *heldClock { return &heldClock{at: t} }

func (c *heldClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.went.IsZero() {
		return c.at
	}
	return c.at.Add(time.Since(c.went))
}

// letGo has it go on as the machine's does.
func (c *heldClock) letGo() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.went = time.Now()
}

// night is when the policies of these tests are due.
var night = time.Date(2026, 11, 27, 2, 30, 0, 0, time.UTC)

func nightly(id, dataStore string) schedule.Policy {
	return schedule.Policy{ID: id, DataStore: dataStore, Enabled: true, When: schedule.When{Daily: []string{"02:30"}}}
}

// scheduling is a Service in a directory that a test has schedules run by.
type scheduling struct {
	*amber.Service
	runs chan *schedule.Run
	end  func() error // ends RunSchedules and returns what that does
}

// run makes a Service of a configuration, fills that in, and has it run schedules.
func runSchedules(t *testing.T, cfg amber.Config) *scheduling {
	t.Helper()
	s := &scheduling{runs: make(chan *schedule.Run, 100)}
	told := cfg.Events.Run
	cfg.Events.Run = func(ctx context.Context, r *schedule.Run) {
		if told != nil {
			told(ctx, r)
		}
		s.runs <- r
	}
	cfg.SchedulePoll = time.Second
	var err error
	if s.Service, err = amber.New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.RunSchedules(ctx) }()
	s.end = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(30 * time.Second):
			return errors.New("RunSchedules doesn't end")
		}
	})
	t.Cleanup(func() {
		if err := s.end(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// next returns what became of the next due time.
func (s *scheduling) next(t *testing.T) *schedule.Run {
	t.Helper()
	select {
	case r := <-s.runs:
		return r
	case <-time.After(time.Minute):
		t.Fatal("nothing became of a due time")
		return nil
	}
}

func fileStore(t *testing.T, dir string) *filestore.Store {
	t.Helper()
	store, err := filestore.New(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}

// reach says how data stores are reached: all of them are one server.
func reach(s *testserver.Server) func(context.Context, string) (amber.BackupRequest, error) {
	return func(context.Context, string) (amber.BackupRequest, error) {
		return amber.BackupRequest{From: s.Options()}, nil
	}
}

// A policy makes a backup at its due time, which is all that the policy says, and the host hears of it.
func TestPolicyMakesBackups(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := testserver.Start(t, "redis-8.0")
	testserver.Generate(t, server.Client(t), 50, 1)
	var h heard
	clock := heldAt(night.Add(-1500 * time.Millisecond))
	s := runSchedules(t, amber.Config{Store: fileStore(t, t.TempDir()), Now: clock.now, Events: h.events(), DataStores: reach(server)})
	p := nightly("nightly", "orders")
	p.BackupName, p.Labels = "orders-{timestamp}", map[string]string{"tier": "gold"}
	change, err := s.SetPolicy(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	clock.letGo()
	if change.Policy.CreatedAt.IsZero() || change.Policy.ID != "nightly" {
		t.Errorf("the policy is %+v", change.Policy)
	}
	r := s.next(t)
	if r.State != schedule.RunDone || !r.Due.Equal(night) || r.Policy != "nightly" || r.DataStore != "orders" || len(r.Attempts) != 1 {
		t.Fatalf("the run is %+v", r)
	}
	b, err := s.Get(ctx, r.Backup)
	if err != nil {
		t.Fatal(err)
	}
	if b.State != catalog.StateReady || b.Kind != catalog.KindAutomatic || b.Policy != "nightly" || !b.DueTime.Equal(night) || b.Labels["tier"] != "gold" ||
		b.Name != "orders-2026-11-27T02-30-00" || b.Keys == 0 {
		t.Errorf("the backup is %+v", b)
	}
	if lines, ends := h.take(); !slices.Equal(lines, []string{"begin backup orders automatic", "end backup orders automatic"}) ||
		ends[0].Policy != "nightly" || !ends[0].DueTime.Equal(night) || ends[0].Attempt != 1 {
		t.Errorf("heard %q, %+v", lines, ends)
	}
	var runs []*schedule.Run
	for r, err := range s.Runs(ctx, schedule.RunQuery{DataStore: "orders"}) {
		if err != nil {
			t.Fatal(err)
		}
		runs = append(runs, r)
	}
	if len(runs) != 1 || runs[0].State != schedule.RunDone || runs[0].Backup != b.ID {
		t.Errorf("runs: %+v", runs)
	}

	// Policies are listed, found and removed; the backup stays.
	for q, want := range map[string]int{"": 1, "orders": 1, "carts": 0} {
		n := 0
		for p, err := range s.Policies(ctx, q) {
			if err != nil || p.ID != "nightly" {
				t.Errorf("policies: %+v, %v", p, err)
			}
			n++
		}
		if n != want {
			t.Errorf("policies of %q: %d, want %d", q, n, want)
		}
	}
	if err := s.RemovePolicy(ctx, "nightly"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Policy(ctx, "nightly"); !errors.Is(err, schedule.ErrNotFound) {
		t.Errorf("a policy that was removed: %v", err)
	}
	if err := s.RemovePolicy(ctx, "nightly"); !errors.Is(err, schedule.ErrNotFound) {
		t.Errorf("removing it again: %v", err)
	}
	if _, err := s.Get(ctx, b.ID); err != nil {
		t.Error(err)
	}
}

// What can't be backed up is a run that failed, with its cause: also that the host can't say how a data store is reached, or says too much.
func TestPolicyFails(t *testing.T) {
	t.Parallel()
	clock := heldAt(night.Add(-1500 * time.Millisecond))
	s := runSchedules(t, amber.Config{Store: fileStore(t, t.TempDir()), Now: clock.now,
		DataStores: func(_ context.Context, dataStore string) (amber.BackupRequest, error) {
			switch dataStore {
			case "orders":
				return amber.BackupRequest{}, errors.New("the vault is sealed")
			case "carts":
				return amber.BackupRequest{DataStore: "orders"}, nil
			case "sessions":
				return amber.BackupRequest{Name: "mine"}, nil
			}
			return amber.BackupRequest{}, nil
		}})
	want := map[string]string{"orders": "vault is sealed", "carts": "tells of orders", "sessions": "the policy's to say", "users": "BackupRequest.From"}
	for dataStore := range want {
		if _, err := s.SetPolicy(t.Context(), nightly(dataStore, dataStore)); err != nil {
			t.Fatal(err)
		}
	}
	clock.letGo()
	for range want {
		if r := s.next(t); r.State != schedule.RunFailed || len(r.Attempts) != 1 || !strings.Contains(r.Attempts[0].Error, want[r.DataStore]) {
			t.Errorf("the run is %+v", r)
		}
	}
}

// A due time at which the data store is being backed up is skipped, with the reason.
func TestPolicySkipsOverlap(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := testserver.Start(t, "redis-8.0")
	clock := heldAt(night.Add(-1500 * time.Millisecond))
	s := runSchedules(t, amber.Config{Store: fileStore(t, t.TempDir()), Now: clock.now, DataStores: reach(server)})
	begun, release, ended := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		_, err := s.Backup(ctx, amber.BackupRequest{DataStore: "orders", Snapshotter: snapshotFunc(func(context.Context) (backup.Snapshot, error) {
			close(begun)
			<-release
			return nil, errors.New("that was all")
		})})
		ended <- err
	}()
	<-begun
	if _, err := s.SetPolicy(ctx, nightly("nightly", "orders")); err != nil {
		t.Fatal(err)
	}
	clock.letGo()
	if r := s.next(t); r.State != schedule.RunSkipped || !strings.Contains(r.Reason, "has not ended") || r.Backup != "" {
		t.Errorf("the run is %+v", r)
	}
	close(release)
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "that was all") {
		t.Error(err)
	}
}

// Two Services of one directory make one backup of each due time.
func TestTwoServicesOneBackup(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := testserver.Start(t, "redis-8.0")
	testserver.Generate(t, server.Client(t), 20, 1)
	dir := t.TempDir()
	var mu sync.Mutex
	got := map[string]*schedule.Run{}
	all := make(chan struct{})
	const stores = 6
	events := amber.Events{Run: func(_ context.Context, r *schedule.Run) {
		mu.Lock()
		defer mu.Unlock()
		if got[r.DataStore] != nil {
			t.Errorf("the host hears twice of %s: %+v and %+v", r.DataStore, got[r.DataStore], r)
		}
		if got[r.DataStore] = r; len(got) == stores {
			close(all)
		}
	}}
	clock := heldAt(night.Add(-2 * time.Second))
	var services []*scheduling
	for range 2 {
		services = append(services, runSchedules(t, amber.Config{Store: fileStore(t, dir), Now: clock.now, Events: events, DataStores: reach(server)}))
	}
	for i := range stores {
		name := fmt.Sprint("store-", i)
		if _, err := services[i%2].SetPolicy(ctx, nightly(name, name)); err != nil {
			t.Fatal(err)
		}
	}
	clock.letGo()
	select {
	case <-all:
	case <-time.After(time.Minute):
		t.Fatalf("only %d of %d", len(got), stores)
	}
	backups := map[string]int{}
	for b, err := range services[0].List(ctx, catalog.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		backups[b.DataStore]++
		if r := got[b.DataStore]; r.State != schedule.RunDone || r.Backup != b.ID {
			t.Errorf("the run is %+v, the backup %s", r, b.ID)
		}
	}
	for i := range stores {
		if n := backups[fmt.Sprint("store-", i)]; n != 1 {
			t.Errorf("store-%d has %d backups", i, n)
		}
	}
}

// When the retention of a policy is shortened what is over it is deleted at once; the newest one never is.
func TestSetPolicyPrunesAtOnce(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := testserver.Start(t, "redis-8.0")
	testserver.Generate(t, server.Client(t), 20, 1)
	store := fileStore(t, t.TempDir())
	var ids []catalog.ID // of ten days, newest first; a clock that the store's files don't agree with isn't trusted
	today := time.Now().Add(-time.Minute)
	for day := 9; day >= 0; day-- {
		ids = slices.Insert(ids, 0, automatic(t, store, server, "nightly", today.AddDate(0, 0, -day)))
	}
	var mu sync.Mutex
	var pruned []catalog.ID
	service, err := amber.New(amber.Config{Store: store, Events: amber.Events{Pruned: func(_ context.Context, p amber.Pruned) {
		mu.Lock()
		defer mu.Unlock()
		if p.Reason == "" || p.Backup.DataStore != "orders" {
			t.Errorf("pruned: %+v", p)
		}
		pruned = append(pruned, p.Backup.ID)
	}}})
	if err != nil {
		t.Fatal(err)
	}
	listed := func() (out []catalog.ID) {
		for b, err := range service.List(ctx, catalog.Query{DataStore: "orders"}) {
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, b.ID)
		}
		return out
	}
	p := nightly("nightly", "orders")
	for _, test := range []struct {
		rules retention.Rules
		left  int
	}{{retention.Rules{}, 10}, {retention.Rules{Days: 30}, 10}, {retention.Rules{Days: 6}, 7}, {retention.Rules{Count: 3}, 3}, {retention.Rules{Days: 30}, 3}, {retention.Rules{Daily: 1}, 1}} {
		before := listed()
		p.Retention = test.rules
		pruned = nil
		change, err := service.SetPolicy(ctx, p)
		if err != nil {
			t.Fatal(err)
		}
		if got := listed(); !slices.Equal(got, ids[:test.left]) {
			t.Fatalf("with %+v there are %v, want %v", test.rules, got, ids[:test.left])
		}
		slices.Sort(pruned)
		slices.Reverse(pruned)
		if !slices.Equal(pruned, before[test.left:]) {
			t.Errorf("with %+v: heard of %v, want %v", test.rules, pruned, before[test.left:])
		}
		if told := change.Prune; len(pruned) > 0 && told == nil {
			t.Errorf("with %+v the change doesn't tell what was deleted", test.rules)
		}
	}
	// A policy that is removed promises nothing: what it made is kept.
	if err := service.RemovePolicy(ctx, "nightly"); err != nil {
		t.Fatal(err)
	}
	if _, err := service.Prune(ctx, amber.PruneRequest{}); err != nil || len(listed()) != 1 {
		t.Errorf("after its policy was removed: %v, %v", listed(), err)
	}
}

// automatic makes a backup as a policy does.
func automatic(t *testing.T, store storage.Store, server *testserver.Server, policy string, due time.Time) catalog.ID {
	t.Helper()
	now := clockAt(due)
	c, err := storecatalog.New(storecatalog.Config{Store: store, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	runner, err := backup.NewRunner(backup.Config{Store: store, Catalog: c, Leaser: c, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	snapshotter, err := replica.New(replica.Config{Options: server.Options()})
	if err != nil {
		t.Fatal(err)
	}
	b, err := runner.Run(t.Context(), backup.Request{DataStore: "orders", Kind: catalog.KindAutomatic, Policy: policy, DueTime: due, Snapshotter: snapshotter})
	if err != nil {
		t.Fatal(err)
	}
	return b.ID
}

// Policies are refused whole, with each field that is wrong.
func TestSetPolicyRefuses(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	service, err := amber.New(amber.Config{Store: memstore.New(nil), Limits: schedule.Limits{MaxRetentionDays: 30}})
	if err != nil {
		t.Fatal(err)
	}
	p := nightly("a/b", "")
	p.Retries, p.Retention.Days, p.Store = 11, 31, "far"
	_, err = service.SetPolicy(ctx, p)
	for _, text := range []string{"a/b", "dataStore", "11", "31", "30", `"far"`} {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("the error doesn't tell of %s: %v", text, err)
		}
	}
	for p, err := range service.Policies(ctx, "") {
		t.Errorf("there is a policy: %+v, %v", p, err)
	}
	if err := service.RunSchedules(ctx); err == nil || !strings.Contains(err.Error(), "Config.DataStores") {
		t.Errorf("running schedules without DataStores: %v", err)
	}

	// A store without exclusive creates can't keep policies. That is told by what needs them, and everything else works.
	limited, err := amber.New(amber.Config{Store: noExclusive{memstore.New(nil)}, Catalog: catalogOf(t), Leaser: catalogOf(t)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := limited.SetPolicy(ctx, nightly("nightly", "orders")); err == nil || !strings.Contains(err.Error(), "Config.Journal") {
		t.Errorf("a policy without a journal: %v", err)
	}
	if err := limited.RunSchedules(ctx); err == nil || !strings.Contains(err.Error(), "Config.Journal") {
		t.Errorf("schedules without a journal: %v", err)
	}
	if _, err := limited.Prune(ctx, amber.PruneRequest{}); err != nil {
		t.Errorf("retention without a journal: %v", err)
	}
}

// noExclusive is a store that can't create exclusively.
type noExclusive struct{ storage.Store }

func (noExclusive) Capabilities() storage.Capabilities { return storage.Capabilities{} }

func catalogOf(t *testing.T) *storecatalog.Catalog {
	t.Helper()
	c, err := storecatalog.New(storecatalog.Config{Store: memstore.New(nil)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Close ends schedules, and backs up what is to be backed up then: once, however often it is called.
func TestClose(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := testserver.Start(t, "redis-8.0")
	testserver.Generate(t, server.Client(t), 20, 1)
	store := fileStore(t, t.TempDir())
	clock := heldAt(night.Add(-time.Second))
	s := runSchedules(t, amber.Config{Store: store, Now: clock.now, DataStores: reach(server),
		BackupOnShutdown: []amber.BackupRequest{{DataStore: "orders", Name: "last"}, {DataStore: "carts", From: server.Options(), Retain: time.Hour}}})
	if _, err := s.SetPolicy(ctx, nightly("nightly", "users")); err != nil {
		t.Fatal(err)
	}
	clock.letGo()
	s.next(t)
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			if err := s.Close(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if err := s.end(); err != nil { // it has ended already
		t.Error(err)
	}
	found := map[string]*catalog.Backup{}
	for b, err := range s.List(ctx, catalog.Query{Kinds: []catalog.Kind{catalog.KindShutdown}}) {
		if err != nil || found[b.DataStore] != nil {
			t.Fatalf("%v, %v and %v", err, b, found[b.DataStore])
		}
		found[b.DataStore] = b
	}
	if len(found) != 2 || found["orders"] == nil || found["orders"].Name != "last" || !found["orders"].DeleteAfter.IsZero() || found["carts"].DeleteAfter.IsZero() {
		t.Errorf("the backups at the end are %+v", found)
	}
	if err := s.RunSchedules(ctx); !errors.Is(err, amber.ErrClosed) {
		t.Errorf("running schedules afterwards: %v", err)
	}
	if _, err := s.Verify(ctx, found["orders"].ID, nil); err != nil {
		t.Errorf("what isn't about schedules doesn't work afterwards: %v", err)
	}
}

// Close returns when the backups have ended that were being made, for which there is the grace time, and not before.
func TestCloseWaits(t *testing.T) {
	t.Parallel()
	begun, release := make(chan struct{}), make(chan struct{})
	clock := heldAt(night.Add(-time.Second))
	s := runSchedules(t, amber.Config{Store: fileStore(t, t.TempDir()), Now: clock.now, ScheduleGrace: time.Minute,
		DataStores: func(context.Context, string) (amber.BackupRequest, error) {
			return amber.BackupRequest{Snapshotter: snapshotFunc(func(ctx context.Context) (backup.Snapshot, error) {
				close(begun)
				<-release
				return nil, errors.New("that was all")
			})}, nil
		}})
	if _, err := s.SetPolicy(t.Context(), nightly("nightly", "orders")); err != nil {
		t.Fatal(err)
	}
	clock.letGo()
	<-begun
	closed := make(chan error, 1)
	go func() { closed <- s.Close(t.Context()) }()
	select {
	case err := <-closed:
		t.Fatalf("it doesn't wait: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Close(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second one doesn't give up with its context: %v", err)
	}
	close(release)
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if r := s.next(t); r.State != schedule.RunFailed || !strings.Contains(r.Attempts[0].Error, "that was all") {
		t.Errorf("the run is %+v", r)
	}
}

// What couldn't be backed up at the end is told, with the data store; what could be is.
func TestCloseThatFails(t *testing.T) {
	t.Parallel()
	server := testserver.Start(t, "redis-8.0")
	service, err := amber.New(amber.Config{Store: fileStore(t, t.TempDir()), DataStores: func(_ context.Context, dataStore string) (amber.BackupRequest, error) {
		if dataStore == "carts" {
			return amber.BackupRequest{}, errors.New("nobody knows carts")
		}
		return amber.BackupRequest{From: server.Options()}, nil
	}, BackupOnShutdown: []amber.BackupRequest{{DataStore: "carts"}, {DataStore: "orders"}}})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := service.Close(t.Context()); err == nil || !strings.Contains(err.Error(), "nobody knows carts") || strings.Contains(err.Error(), "orders") {
			t.Errorf("closing: %v", err)
		}
	}
	n := 0
	for b, err := range service.List(t.Context(), catalog.Query{}) {
		if err != nil || b.DataStore != "orders" {
			t.Errorf("%+v, %v", b, err)
		}
		n++
	}
	if n != 1 {
		t.Errorf("%d backups", n)
	}
	for name, q := range map[string]amber.BackupRequest{"no source": {DataStore: "orders"}, "no data store": {From: server.Options()},
		"no store": {DataStore: "orders", From: server.Options(), Store: "far"}} {
		if _, err := amber.New(amber.Config{Store: memstore.New(nil), BackupOnShutdown: []amber.BackupRequest{q}}); err == nil || !strings.HasPrefix(err.Error(), "amber: Config.BackupOnShutdown[0]: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
