package amber_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/dumpfile"
	"github.com/amberkv/amber/backup/govern"
	"github.com/amberkv/amber/backup/replica"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/resp"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/schedule"
	"github.com/amberkv/amber/storage/filestore"
	"github.com/amberkv/amber/storage/memstore"
)

// hapless takes snapshots of a server that break after their beginning: each costs it a full sync.
type hapless struct {
	backup.Snapshotter
	begun atomic.Int64
}

var errHapless = errors.New("the network is cut")

func (h *hapless) Snapshot(ctx context.Context) (backup.Snapshot, error) {
	sn, err := h.Snapshotter.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	h.begun.Add(1)
	return haplessSnapshot{sn}, nil
}

type haplessSnapshot struct{ backup.Snapshot }

func (s haplessSnapshot) Open(ctx context.Context, p backup.Part) (io.ReadCloser, error) {
	r, err := s.Snapshot.Open(ctx, p)
	if err != nil {
		return nil, err
	}
	return haplessReader{r, io.LimitReader(r, 100)}, nil
}

type haplessReader struct {
	io.Closer
	r io.Reader
}

func (r haplessReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err == io.EOF {
		err = errHapless
	}
	return n, err
}

func newHapless(t *testing.T, server *testserver.Server) *hapless {
	t.Helper()
	inner, err := replica.New(replica.Config{Options: server.Options()})
	if err != nil {
		t.Fatal(err)
	}
	return &hapless{Snapshotter: inner}
}

func infoOf(t *testing.T, server *testserver.Server) resp.Info {
	t.Helper()
	text, err := server.Client(t).Info(t.Context()).Result()
	if err != nil {
		t.Fatal(err)
	}
	return resp.ParseInfo(text)
}

// Promise 8: no full sync is retried in a tight loop, by however many Services, with and without policies.
func TestNoTightLoop(t *testing.T) {
	t.Parallel()
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			server := testserver.Start(t, version)
			testserver.Generate(t, server.Client(t), 50, 1)
			source := newHapless(t, server)
			dir := t.TempDir()
			cfg := func(now func() time.Time) amber.Config {
				return amber.Config{Store: fileStore(t, dir), Now: now, SyncBudget: backup.Budget{Syncs: 3, Window: time.Hour},
					DataStores: func(context.Context, string) (amber.BackupRequest, error) {
						return amber.BackupRequest{Snapshotter: source}, nil
					}}
			}
			var group sync.WaitGroup
			var failed atomic.Int64
			for range 2 {
				s, err := amber.New(cfg(clockAt(night.Add(-time.Minute))))
				if err != nil {
					t.Fatal(err)
				}
				group.Go(func() {
					for tries := 0; tries < 15 && t.Context().Err() == nil; tries++ {
						_, err := s.Backup(t.Context(), amber.BackupRequest{DataStore: "orders", Snapshotter: source})
						switch {
						case errors.Is(err, errHapless):
							failed.Add(1)
						case errors.Is(err, backup.ErrBusy): // the other one's turn, which is no try
							tries--
							time.Sleep(time.Millisecond)
						case !errors.Is(err, backup.ErrBudget):
							t.Errorf("a backup: %v", err)
						}
					}
				})
			}
			group.Wait()
			if n := infoOf(t, server).Int("sync_full"); n != 3 || failed.Load() != 3 || source.begun.Load() != 3 {
				t.Errorf("%d full syncs, %d failed backups of 30: want 3", n, failed.Load())
			}

			// A policy's backup is due a minute later: it may begin in an hour, when its window is over.
			clock := heldAt(night.Add(-1500 * time.Millisecond))
			s := runSchedules(t, cfg(clock.now))
			p := nightly("nightly", "orders")
			p.Retries = 10
			if _, err := s.SetPolicy(t.Context(), p); err != nil {
				t.Fatal(err)
			}
			clock.letGo()
			r := s.next(t)
			if r.State != schedule.RunFailed || len(r.Attempts) != 1 || r.Attempts[0].Backup != "" || !strings.Contains(r.Reason, "the next backup may begin at") {
				t.Errorf("the due time: %+v", r)
			} else if next := r.Attempts[0].NotBefore; next.Before(night.Add(55*time.Minute)) || next.After(night.Add(time.Hour)) {
				t.Errorf("the next may begin at %s", next)
			}
			if n := infoOf(t, server).Int("sync_full"); n != 3 {
				t.Errorf("%d full syncs after the policy's due time, want 3", n)
			}
		})
	}
}

// brokenSource is asked for a snapshot, and breaks.
type brokenSource struct {
	mu    sync.Mutex
	asked []time.Time
}

func (b *brokenSource) Snapshot(context.Context) (backup.Snapshot, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked = append(b.asked, time.Now())
	return nil, errHapless
}

// A policy whose backup always fails is retried for as long as its window lasts, and the source asked as often as the budget allows in any hour, and not
// less: what the budget put off is no retry. A sweep in between forgets nothing.
func TestRetriesWithinBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &brokenSource{}
		s, err := amber.New(amber.Config{Store: memstore.New(nil), SyncBudget: backup.Budget{Syncs: 2, Window: time.Hour}, TidyEvery: 10 * time.Minute,
			DataStores: func(context.Context, string) (amber.BackupRequest, error) {
				return amber.BackupRequest{Snapshotter: source}, nil
			}})
		if err != nil {
			t.Fatal(err)
		}
		p := nightly("nightly", "orders")
		p.Retries, p.Window = 10, 8*time.Hour
		if _, err := s.SetPolicy(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.RunSchedules(ctx) }()
		time.Sleep(23 * time.Hour)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		// The backup starts in the first half of its window.
		if n := len(source.asked); n < 8 || n > 11 {
			t.Errorf("the source was asked %d times, want it twice an hour for at least 4, and 11 times at most", n)
		}
		for i, at := range source.asked {
			if i >= 2 && at.Sub(source.asked[i-2]) < time.Hour {
				t.Errorf("the source was asked at %s, %s and %s: that is thrice in an hour", source.asked[i-2], source.asked[i-1], at)
			}
		}
		for r, err := range s.Runs(t.Context(), schedule.RunQuery{}) {
			if err != nil {
				t.Fatal(err)
			}
			if r.State != schedule.RunFailed {
				t.Errorf("%+v", r)
			}
		}
	})
}

// What a backup took of its source is in its manifest, also when the store is slow, and the source is as it was.
func TestCostOfSource(t *testing.T) {
	t.Parallel()
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			server := testserver.Start(t, version, "--rdbcompression", "no")
			if err := server.Client(t).Do(t.Context(), "DEBUG", "POPULATE", "1500", "big", "1024").Err(); err != nil {
				t.Fatal(err)
			}
			slow := &slowStore{Store: fileStore(t, t.TempDir())}
			slow.rate.Store(1 << 20)
			s, err := amber.New(amber.Config{Store: slow, Compression: "none", SourceLimits: govern.Limits{Latency: time.Minute}})
			if err != nil {
				t.Fatal(err)
			}
			b, err := s.Backup(t.Context(), amber.BackupRequest{DataStore: "orders", From: server.Options()})
			if err != nil {
				t.Fatal(err)
			}
			c := b.Source.Cost
			if c == nil || c.Fork <= 0 || c.CopyOnWrite <= 0 || c.Bytes != b.RawBytes || c.Duration <= 0 || c.Duration > b.Timings.Total || c.LatencyBefore <= 0 || c.LatencyDuring <= 0 {
				t.Errorf("of %d bytes in %v the cost is %+v", b.RawBytes, b.Timings.Total, c)
			}
			testserver.Eventually(t, 20*time.Second, "the source is as it was", func() error {
				i := infoOf(t, server)
				if i.Int("connected_slaves") != 0 || i.Int("rdb_bgsave_in_progress") != 0 || i.Int("rejected_connections") != 0 || i.Int("sync_full") != 1 {
					return fmt.Errorf("%v", i)
				}
				return nil
			})

			// A request's own limits win over the configuration's.
			_, err = s.Backup(t.Context(), amber.BackupRequest{DataStore: "orders", From: server.Options(), SourceLimits: &govern.Limits{Memory: 1 << 20}})
			if !errors.Is(err, govern.ErrLimit) {
				t.Errorf("with too little memory: %v", err)
			}
			budget := backup.Budget{Syncs: 1, Window: time.Hour}
			if _, err = s.Backup(t.Context(), amber.BackupRequest{DataStore: "orders", From: server.Options(), SyncBudget: &budget}); !errors.Is(err, backup.ErrBudget) {
				t.Errorf("beyond its budget: %v", err)
			}
			spared := 0
			for m, err := range s.List(t.Context(), catalog.Query{States: []catalog.State{catalog.StateFailed}}) {
				if err != nil {
					t.Fatal(err)
				}
				if m.Spared {
					spared++
				}
			}
			if spared != 1 {
				t.Errorf("%d runs spared their source, want 1: that of too little memory", spared)
			}
		})
	}
}

// A copy spares its source as a backup does, and tells what it cost it.
func TestCopyIsGoverned(t *testing.T) {
	t.Parallel()
	from, to := testserver.Start(t, "valkey-8.1"), testserver.Start(t, "redis-8.0")
	testserver.Generate(t, from.Client(t), 50, 1)
	q := amber.CopyRequest{From: from.Options(), To: to.Options(), SourceLimits: &govern.Limits{Memory: 1 << 20}}
	if _, err := amber.Copy(t.Context(), q); !errors.Is(err, govern.ErrLimit) || !errors.Is(err, backup.ErrSpared) {
		t.Errorf("with too little memory: %v", err)
	}
	if n := infoOf(t, from).Int("sync_full"); n != 0 || to.Client(t).DBSize(t.Context()).Val() != 0 {
		t.Errorf("the source was asked for %d full syncs, want none, or the target was touched", n)
	}
	q.SourceLimits.Ignore = []string{govern.Memory}
	rep, err := amber.Copy(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	if s := rep.Source; s == nil || s.Engine != "valkey" || s.Method != "replica" || s.Cost == nil || s.Cost.Fork <= 0 || s.Cost.Bytes <= 0 {
		t.Errorf("the source is %+v", s)
	}
	q.SourceLimits = nil
	q.Conflict = restore.Replace
	if rep, err = amber.Copy(t.Context(), q); err != nil || rep.Source.Cost == nil {
		t.Errorf("with the default limits: %+v, %v", rep, err)
	}
	q.SourceLimits = &govern.Limits{Latency: -1}
	if _, err := amber.Copy(t.Context(), q); err == nil || !strings.Contains(err.Error(), "SourceLimits") {
		t.Errorf("limits that are none: %v", err)
	}
	q.SourceLimits, q.From, q.Snapshotter = &govern.Limits{}, nil, dumpfile.Stream("x", strings.NewReader(""))
	if _, err := amber.Copy(t.Context(), q); err == nil || !strings.Contains(err.Error(), "a Snapshotter has its own") {
		t.Errorf("limits of a Snapshotter: %v", err)
	}
}

// The safety backup of a restore asks the target, which may be in use, for a snapshot: its limits and its budget are kept as those of any other backup, and
// what they refuse leaves the target as it is.
func TestSafetyBackupIsGoverned(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	from, to := testserver.Start(t, "valkey-8.1"), testserver.Start(t, "redis-7.0")
	testserver.Generate(t, from.Client(t), 50, 1)
	testserver.Generate(t, to.Client(t), 60, 2)
	store := memstore.New(nil)
	service := func(cfg amber.Config) *amber.Service {
		cfg.Store = store
		s, err := amber.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	b := take(t, service(amber.Config{}), "orders", from)
	former := testserver.Snapshot(t, to.Client(t))
	q := amber.RestoreRequest{Backup: b.ID, To: to.Options(), Conflict: restore.Replace, TargetStore: "staging", Accept: []string{"all"}}
	tight := govern.Limits{Memory: 1 << 20}
	refused := func(what string, s *amber.Service, q amber.RestoreRequest, want error) {
		t.Helper()
		if _, err := s.Restore(ctx, q); !errors.Is(err, want) || !strings.Contains(err.Error(), "not touched") {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
		if diff := testserver.Diff(former, testserver.Snapshot(t, to.Client(t))); diff != "" {
			t.Fatalf("%s: the target was touched: %s", what, diff)
		}
	}
	refused("with too little memory", service(amber.Config{SourceLimits: tight}), q, govern.ErrLimit)
	own := q
	own.SafetyLimits = &tight
	refused("with too little memory, by the request", service(amber.Config{}), own, govern.ErrLimit)
	if n := infoOf(t, to).Int("sync_full"); n != 0 {
		t.Errorf("the target was asked for %d full syncs, want none", n)
	}

	// What was spared costs nothing of the budget; the safety backup that is taken does, and the next restore is beyond it.
	s := service(amber.Config{SourceLimits: tight, SyncBudget: backup.Budget{Syncs: 1, Window: time.Hour}})
	own.SafetyLimits = &govern.Limits{Latency: time.Minute}
	rep, err := s.Restore(ctx, own)
	if err != nil {
		t.Fatal(err)
	}
	safety, err := s.Get(ctx, rep.Safety)
	if err != nil {
		t.Fatal(err)
	}
	if c := safety.Source.Cost; c == nil || c.Fork <= 0 || c.LatencyBefore <= 0 || c.LatencyDuring <= 0 {
		t.Errorf("what the safety backup cost the target: %+v", c)
	}
	former = testserver.Snapshot(t, to.Client(t))
	refused("beyond the budget", s, own, backup.ErrBudget)
	refused("beyond a budget of its own", service(amber.Config{}), amber.RestoreRequest{Backup: b.ID, To: to.Options(), Conflict: restore.Replace, TargetStore: "staging",
		Accept: []string{"all"}, SafetyBudget: &backup.Budget{Syncs: 1, Window: time.Hour}}, backup.ErrBudget)
	own.SafetyLimits = &govern.Limits{Ignore: []string{govern.Budget}}
	if _, err := s.Restore(ctx, own); err != nil {
		t.Errorf("with the budget ignored: %v", err)
	}
	own.SafetyLimits, own.SafetyBudget = &govern.Limits{}, &backup.Budget{}
	if _, err := s.Restore(ctx, own); err != nil {
		t.Errorf("with a budget of its own: %v", err)
	}

	for want, bad := range map[string]amber.RestoreRequest{
		"amber: RestoreRequest.SafetyLimits: its Latency is negative: -1ns":          {SafetyLimits: &govern.Limits{Latency: -1}},
		"amber: RestoreRequest.SafetyBudget: its Window is 0s, it has to be above 0": {SafetyBudget: &backup.Budget{Syncs: 1}},
	} {
		bad.Backup, bad.To = b.ID, to.Options()
		if _, err := s.PlanRestore(ctx, bad); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestSourceLimitsConfig(t *testing.T) {
	store, err := filestore.New(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	for want, cfg := range map[string]amber.Config{
		"amber: Config.SourceLimits: its Latency is negative: -1ns":         {Store: store, SourceLimits: govern.Limits{Latency: -1}},
		"amber: Config.SyncBudget: its Syncs is 0, it has to be at least 1": {Store: store, SyncBudget: backup.Budget{Window: time.Hour}},
	} {
		if _, err := amber.New(cfg); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// Of a cluster each node is looked at, watched and paced, and the cost is that of all.
func TestCostOfCluster(t *testing.T) {
	t.Parallel()
	c := testserver.StartCluster(t, "valkey-8.1", 3, 0)
	for _, node := range c.Primaries() {
		if err := node.Client(t).ConfigSet(t.Context(), "rdbcompression", "no").Err(); err != nil {
			t.Fatal(err)
		}
	}
	s, err := amber.New(amber.Config{Store: memstore.New(nil), SourceLimits: govern.Limits{Latency: time.Minute}, SyncBudget: backup.Budget{Syncs: 2, Window: time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	from := c.Nodes()[0].Options()
	b, err := s.Backup(t.Context(), amber.BackupRequest{DataStore: "orders", From: from})
	if err != nil {
		t.Fatal(err)
	}
	if k := b.Source.Cost; b.Source.Topology != "cluster" || len(b.Parts) != 3 || k == nil || k.Fork <= 0 || k.Bytes != b.RawBytes || k.Duration <= 0 ||
		k.LatencyBefore <= 0 || k.LatencyDuring <= 0 {
		t.Errorf("%d parts of %d bytes of %+v cost %+v", len(b.Parts), b.RawBytes, b.Source, k)
	}
	_, err = s.Backup(t.Context(), amber.BackupRequest{DataStore: "orders", From: from, SourceLimits: &govern.Limits{Memory: 1 << 20}})
	if !errors.Is(err, govern.ErrLimit) {
		t.Errorf("with too little memory: %v", err)
	}
	for _, node := range c.Primaries() {
		if n := infoOf(t, node).Int("sync_full"); n != 1 {
			t.Errorf("%s was asked for %d full syncs, want 1", node.Addr, n)
		}
	}
}
