package amber_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/storecatalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/schedule"
	"github.com/amberkv/amber/schedule/storejournal"
	"github.com/amberkv/amber/storage/memstore"
)

// While schedules run one of the Services carries out retention and sweeps, now and then; a further one does neither.
func TestTidy(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := testserver.Start(t, "redis-8.0")
	testserver.Generate(t, server.Client(t), 20, 1)
	dir := t.TempDir()
	store := fileStore(t, dir)
	var ids []catalog.ID
	for hour := 3; hour > 0; hour-- {
		ids = append(ids, automatic(t, store, server, "nightly", time.Now().Add(-time.Duration(hour)*time.Hour)))
	}
	// The policy is put where the Service doesn't see it, so that nothing is applied at once.
	journal, err := storejournal.New(storejournal.Config{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	p := nightly("nightly", "orders")
	p.Enabled, p.Retention.Count = false, 1
	if _, err := journal.PutPolicy(ctx, &p, ""); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	swept, pruned := 0, map[catalog.ID]int{}
	events := amber.Events{
		Swept: func(context.Context, backup.SweepReport) {
			mu.Lock()
			defer mu.Unlock()
			swept++
		},
		Pruned: func(_ context.Context, p amber.Pruned) {
			mu.Lock()
			defer mu.Unlock()
			pruned[p.Backup.ID]++
		},
	}
	told := func() (int, int) {
		mu.Lock()
		defer mu.Unlock()
		return swept, len(pruned)
	}
	run := func() {
		runSchedules(t, amber.Config{Store: fileStore(t, dir), Events: events, DataStores: reach(server), TidyEvery: time.Hour})
	}
	run()
	run()
	testserver.Eventually(t, time.Minute, "one of two tidies", func() error {
		if s, p := told(); s != 1 || p != 2 {
			return fmt.Errorf("swept %d times, %d deleted", s, p)
		}
		return nil
	})
	run()                   // one that comes later has nothing to do for an hour
	time.Sleep(time.Second) // what they do later isn't seen otherwise
	if s, p := told(); s != 1 || p != 2 || pruned[ids[0]] != 1 || pruned[ids[1]] != 1 {
		t.Errorf("swept %d times, deleted %v", s, pruned)
	}
}

// After each backup of a policy its retention is applied.
func TestPruneAfterBackup(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := testserver.Start(t, "redis-8.0")
	testserver.Generate(t, server.Client(t), 20, 1)
	store := fileStore(t, t.TempDir())
	old := automatic(t, store, server, "often", time.Now().Add(-3*time.Hour))
	// It became due some minutes ago while nothing ran, and is caught up with: a clock that is set forward for a test isn't trusted with deletions.
	journal, err := storejournal.New(storejournal.Config{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	now, every := time.Now().UTC(), 5*time.Minute
	since := func() time.Duration { return time.Duration(now.Unix()%int64(every/time.Second)) * time.Second }
	for since() < time.Minute || every-since() < 3*time.Minute {
		every += time.Minute
	}
	p := schedule.Policy{ID: "often", DataStore: "orders", Enabled: true, When: schedule.When{Every: every}, ChangedAt: now.Add(-since() - 2*time.Second)}
	p.Retention.Count = 1
	if _, err := journal.PutPolicy(ctx, &p, ""); err != nil {
		t.Fatal(err)
	}
	s := runSchedules(t, amber.Config{Store: store, DataStores: reach(server)})
	r := s.next(t)
	if r.State != schedule.RunDone {
		t.Fatalf("the run is %+v", r)
	}
	testserver.Eventually(t, time.Minute, "the former one is deleted", func() error {
		_, err := s.Get(ctx, old)
		if errors.Is(err, catalog.ErrNotFound) {
			return nil
		}
		return fmt.Errorf("it is there: %w", err)
	})
	if b, err := s.Get(ctx, r.Backup); err != nil || b.State != catalog.StateReady {
		t.Errorf("the new one: %+v, %v", b, err)
	}
}

// The one that tidies does it again after the time, and another one when that has died.
func TestTidyAgain(t *testing.T) {
	t.Parallel()
	server := testserver.Start(t, "redis-8.0")
	store := fileStore(t, t.TempDir())
	c, err := storecatalog.New(storecatalog.Config{Store: store, ClockSkew: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	swept := make(chan string, 100)
	cfg := func(name string) amber.Config {
		return amber.Config{Store: store, Catalog: c, Leaser: c, DataStores: reach(server), TidyEvery: 300 * time.Millisecond,
			Events: amber.Events{Swept: func(context.Context, backup.SweepReport) { swept <- name }}}
	}
	next := func() string {
		t.Helper()
		select {
		case name := <-swept:
			return name
		case <-time.After(time.Minute):
			t.Fatal("nothing is swept any more")
			return ""
		}
	}
	first := runSchedules(t, cfg("first"))
	for range 3 {
		next()
	}
	runSchedules(t, cfg("second"))
	if err := first.end(); err != nil {
		t.Fatal(err)
	}
	for next() != "second" {
	}
}

// While policies can't be read nothing is let go of: neither by a Journal that fails, nor of a policy that is broken.
func TestPromisesOfABrokenJournal(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := testserver.Start(t, "redis-8.0")
	testserver.Generate(t, server.Client(t), 20, 1)
	store := fileStore(t, t.TempDir())
	for hour := 3; hour > 0; hour-- {
		automatic(t, store, server, "nightly", time.Now().Add(-time.Duration(hour)*time.Hour))
	}
	inner, err := storejournal.New(storejournal.Config{Store: memstore.New(nil)})
	if err != nil {
		t.Fatal(err)
	}
	journal := &failingJournal{Journal: inner}
	service, err := amber.New(amber.Config{Store: store, Journal: journal})
	if err != nil {
		t.Fatal(err)
	}
	p := nightly("nightly", "orders")
	p.Retention.Count = 3
	if _, err := service.SetPolicy(ctx, p); err != nil {
		t.Fatal(err)
	}
	count := func() (n int) {
		for _, err := range service.List(ctx, catalog.Query{}) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		return n
	}
	// Somebody else shortens it, and it would be pruned but for the Journal.
	p.Retention.Count = 1
	_, rev, err := inner.GetPolicy(ctx, "nightly")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := inner.PutPolicy(ctx, &p, rev); err != nil {
		t.Fatal(err)
	}
	for name, set := range map[string]func(){
		"the list fails":       func() { journal.list = errors.New("the database is down") },
		"a policy fails":       func() { journal.get = errors.New("the database is down") },
		"a policy is corrupt":  func() { journal.get = schedule.ErrCorrupt },
		"a policy was removed": func() { journal.get = schedule.ErrNotFound },
	} {
		*journal = failingJournal{Journal: inner}
		set()
		_, err := service.Prune(ctx, amber.PruneRequest{})
		if down := strings.Contains(name, "fails"); (err != nil) != down || down && !strings.Contains(err.Error(), "the database is down") {
			t.Errorf("%s: %v", name, err)
		}
		if n := count(); n != 3 {
			t.Errorf("%s: %d backups are left of 3", name, n)
		}
	}
	// One of that ID that is another data store's by now promises nothing about these.
	*journal = failingJournal{Journal: inner}
	move := func(dataStore string) {
		t.Helper()
		p, rev, err := inner.GetPolicy(ctx, "nightly")
		if err != nil {
			t.Fatal(err)
		}
		p.DataStore = dataStore
		if _, err := inner.PutPolicy(ctx, p, rev); err != nil {
			t.Fatal(err)
		}
	}
	move("carts")
	if _, err := service.Prune(ctx, amber.PruneRequest{}); err != nil || count() != 3 {
		t.Errorf("with a policy of another data store: %v, %d are left", err, count())
	}
	move("orders")
	if _, err := service.Prune(ctx, amber.PruneRequest{}); err != nil || count() != 1 {
		t.Errorf("with a Journal that works: %v, %d are left", err, count())
	}
}

// failingJournal is a Journal whose answers a test can take away.
type failingJournal struct {
	schedule.Journal
	list, get error
}

func (j *failingJournal) Policies(ctx context.Context) iter.Seq2[schedule.PolicyRevision, error] {
	if j.list != nil {
		return func(yield func(schedule.PolicyRevision, error) bool) { yield(schedule.PolicyRevision{}, j.list) }
	}
	return j.Journal.Policies(ctx)
}

func (j *failingJournal) GetPolicy(ctx context.Context, id string) (*schedule.Policy, schedule.Revision, error) {
	if j.get != nil {
		return nil, "", j.get
	}
	return j.Journal.GetPolicy(ctx, id)
}
