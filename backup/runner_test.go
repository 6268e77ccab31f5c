package backup_test

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/storecatalog"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/seal"
)

// house is everything that a run needs, over one store.
type house struct {
	store    storage.Store
	catalog  *storecatalog.Catalog
	runner   *backup.Runner
	restorer *restore.Restorer
	corrupt  int // manifests that a test made unreadable
}

func newHouse(t *testing.T, store storage.Store, now func() time.Time) *house {
	t.Helper()
	c, err := storecatalog.New(storecatalog.Config{Store: store, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	runner, err := backup.NewRunner(backup.Config{Store: store, Catalog: c, Leaser: c, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	restorer, err := restore.New(restore.Config{Store: store, Catalog: c, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return &house{store: store, catalog: c, runner: runner, restorer: restorer}
}

// check holds the promises that have to be true after anything: what is listed verifies, and nothing else is below a
// ready backup's prefix but what its manifest names. It returns the backups listed.
func (h *house) check(t *testing.T) []*catalog.Backup {
	t.Helper()
	var ready []*catalog.Backup
	corrupt := 0
	for b, err := range h.catalog.List(t.Context(), catalog.Query{}) {
		if errors.Is(err, catalog.ErrCorrupt) {
			corrupt++
			continue
		}
		if err != nil {
			t.Fatalf("listing: %v", err)
		}
		ready = append(ready, b)
		if _, err := h.restorer.Verify(t.Context(), b.ID, nil); err != nil {
			t.Errorf("backup %s is listed and does not verify: %v", b.ID, err)
		}
	}
	if corrupt != h.corrupt {
		t.Errorf("%d manifests can't be read, %d should be so", corrupt, h.corrupt)
	}
	return ready
}

// parts returns the keys of all parts in the store, whether a manifest names them or not.
func (h *house) parts(t *testing.T) (keys []string) {
	t.Helper()
	for info, err := range h.store.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(info.Key, "/part-") {
			keys = append(keys, info.Key)
		}
	}
	return keys
}

func request(s *source) backup.Request {
	return backup.Request{DataStore: "orders", Snapshotter: s}
}

func TestRun(t *testing.T) {
	for _, compression := range []string{"zstd", "none"} {
		h := newHouse(t, memstore.New(nil), nil)
		h.runner, _ = backup.NewRunner(backup.Config{Store: h.store, Catalog: h.catalog, Leaser: h.catalog, Seal: seal.Options{Compression: compression}})
		s := &source{data: snapshotOf(5000, 300), piece: 1000}
		var stages []backup.Stage
		q := request(s)
		q.Name, q.Description = "before-upgrade", "the night before"
		q.Progress = func(p backup.Progress) {
			if len(stages) == 0 || stages[len(stages)-1] != p.Stage {
				stages = append(stages, p.Stage)
			}
		}
		b, err := h.runner.Run(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		s.released(t)
		if len(stages) == 0 || stages[len(stages)-1] != backup.StageDone {
			t.Errorf("the last of the stages %v is not %q", stages, backup.StageDone)
		}
		listed := h.check(t)
		if len(listed) != 1 || listed[0].ID != b.ID {
			t.Fatalf("listed: %v", listed)
		}
		m := listed[0]
		if m.Keys != 5000 || m.RawBytes != int64(len(s.data)) || m.State != catalog.StateReady || m.Kind != catalog.KindManual ||
			m.Source.Dialect != "redis:10" || m.Source.Engine != "redis" || m.Name != "before-upgrade" || m.Description != "the night before" ||
			len(m.DBs) != 1 || m.DBs[0].Types["string"] != 5000 || len(m.Parts) != 1 || m.Parts[0].Compression != compression {
			t.Errorf("manifest: %+v", m)
		}
		if v := m.Verification; !v.Structure || !v.ReadBack || v.Checksum != "crc64" || v.At.IsZero() {
			t.Errorf("verification: %+v", v)
		}
		if m.Timings.Total <= 0 || m.ReadyAt.Before(m.CreatedAt) || m.Token != 1 {
			t.Errorf("timings %+v, token %d", m.Timings, m.Token)
		}
		data, err := storage.ReadFile(t.Context(), h.store, m.Parts[0].Key, 1<<30)
		if err != nil || int64(len(data)) != m.StoredBytes {
			t.Errorf("the part has %d bytes, error %v; the manifest says %d", len(data), err, m.StoredBytes)
		}
		if compression == "none" && !bytes.Equal(data, s.data) {
			t.Error("an uncompressed part is not what the source sent")
		}
	}
}

// What a source may do wrong ends the run with an error that says whose fault it was; nothing is listed, nothing is left.
func TestBadSource(t *testing.T) {
	good := snapshotOf(3000, 500)
	broken := errors.New("connection reset")
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 1
	readError := func(at int) func(context.Context, int) error {
		return func(_ context.Context, pos int) error {
			if pos >= at {
				return broken
			}
			return nil
		}
	}
	for name, test := range map[string]struct {
		source *source
		want   error
	}{
		"can't connect":           {&source{snapshot: func(context.Context) error { return broken }}, backup.ErrSource},
		"cut at byte 0":           {&source{data: good, read: readError(0)}, backup.ErrSource},
		"cut in the middle":       {&source{data: good, read: readError(len(good) / 2), piece: 4096}, backup.ErrSource},
		"cut before the end":      {&source{data: good, read: readError(len(good) - 1), piece: len(good) - 1}, backup.ErrSource},
		"cut at the end":          {&source{data: good, read: readError(len(good))}, backup.ErrSource},
		"claims to be whole at 0": {&source{data: nil}, backup.ErrNotSound},
		"claims to be whole":      {&source{data: good[:len(good)-1]}, backup.ErrNotSound},
		"one bit changed":         {&source{data: flipped}, backup.ErrNotSound},
		"bytes after the end":     {&source{data: append(bytes.Clone(good), 'x')}, backup.ErrNotSound},
		"not an RDB":              {&source{data: bytes.Repeat([]byte("hello "), 1<<18)}, backup.ErrNotSound},
		"a newer RDB":             {&source{data: []byte("REDIS0099\xff12345678")}, backup.ErrNotSound},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, memstore.New(nil), nil)
			_, err := h.runner.Run(t.Context(), request(test.source))
			if !errors.Is(err, test.want) {
				t.Fatalf("error: %v; want one that wraps %q", err, test.want)
			}
			test.source.released(t)
			if ready := h.check(t); len(ready) > 0 {
				t.Errorf("listed: %v", ready)
			}
			if left := h.parts(t); len(left) > 0 {
				t.Errorf("left in the store: %v", left)
			}
			for b, err := range h.catalog.List(t.Context(), catalog.Query{States: []catalog.State{catalog.StateFailed}}) {
				if err != nil || b.Error == "" {
					t.Errorf("the record of the run: %+v, error %v", b, err)
				}
			}
			if _, err := h.runner.Run(t.Context(), request(&source{data: good})); err != nil {
				t.Errorf("the next run failed: %v", err)
			}
		})
	}
}

func TestOneAtATime(t *testing.T) {
	h := newHouse(t, memstore.New(nil), nil)
	started, release := make(chan struct{}), make(chan struct{})
	slow := &source{data: snapshotOf(10, 10), read: func(ctx context.Context, at int) error {
		if at == 0 {
			close(started)
			<-release
		}
		return nil
	}}
	var group sync.WaitGroup
	group.Go(func() {
		if _, err := h.runner.Run(t.Context(), request(slow)); err != nil {
			t.Errorf("the first run: %v", err)
		}
	})
	<-started
	_, err := h.runner.Run(t.Context(), request(&source{data: slow.data}))
	var held *catalog.HeldError
	if !errors.Is(err, backup.ErrBusy) || !errors.As(err, &held) || held.Owner == "" {
		t.Errorf("the second run of the same data store: %v", err)
	}
	other := request(&source{data: slow.data})
	other.DataStore = "sessions"
	if _, err := h.runner.Run(t.Context(), other); err != nil {
		t.Errorf("a run of another data store: %v", err)
	}
	close(release)
	group.Wait()
	if ready := h.check(t); len(ready) != 2 {
		t.Errorf("listed: %d backups", len(ready))
	}
}

// A sweep that holds the lease for a moment, for a run that ended just then, doesn't make the next run fail.
func TestHeldForAMoment(t *testing.T) {
	t.Parallel()
	h := newHouse(t, memstore.New(nil), nil)
	lease, err := h.catalog.Acquire(t.Context(), "backup-orders", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(100*time.Millisecond, func() {
		if err := lease.Release(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("releasing: %v", err)
		}
	})
	if _, err := h.runner.Run(t.Context(), request(&source{data: few})); err != nil {
		t.Error(err)
	}
	h.check(t)
}

// A sweep takes no lease for a run that has ended since it was listed.
func TestSweepSeesTheEnd(t *testing.T) {
	t.Parallel()
	m := memstore.New(nil)
	h := newHouse(t, m, nil)
	b, err := h.runner.Run(t.Context(), request(&source{data: few}))
	if err != nil {
		t.Fatal(err)
	}
	asked := &askedLeaser{Catalog: h.catalog, stale: b.ID}
	other, err := backup.NewRunner(backup.Config{Store: m, Catalog: asked, Leaser: asked})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Sweep(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(asked.names, "backup-orders") || !asked.listed {
		t.Errorf("leases %q were asked for (listed as running: %v)", asked.names, asked.listed)
	}
	h.check(t)
}

// An askedLeaser is a catalog whose listing of a backup is of the time when it was running.
type askedLeaser struct {
	*storecatalog.Catalog
	stale  catalog.ID
	listed bool
	names  []string
}

func (a *askedLeaser) List(ctx context.Context, q catalog.Query) iter.Seq2[*catalog.Backup, error] {
	return func(yield func(*catalog.Backup, error) bool) {
		for b, err := range a.Catalog.List(ctx, catalog.Query{}) {
			if err == nil && b.ID == a.stale {
				was := *b
				was.State, a.listed = catalog.StateRunning, true
				b = &was
			}
			if !yield(b, err) {
				return
			}
		}
	}
}

func (a *askedLeaser) Acquire(ctx context.Context, name string, ttl time.Duration) (catalog.Lease, error) {
	a.names = append(a.names, name)
	return a.Catalog.Acquire(ctx, name, ttl)
}

// A run that sleeps past its lease, at any point, can't publish when it wakes up.
func TestPausedRun(t *testing.T) {
	data := snapshotOf(2000, 500)
	for _, swept := range []bool{false, true} {
		for _, at := range []int{0, len(data) / 2, len(data)} {
			var mu sync.Mutex
			clock := time.Date(2026, 11, 23, 22, 17, 0, 0, time.UTC)
			now := func() time.Time { mu.Lock(); defer mu.Unlock(); return clock }
			h := newHouse(t, memstore.New(nil), now)

			paused, wake := make(chan struct{}), make(chan struct{})
			var once sync.Once
			sleeper := &source{data: data, piece: 1000, read: func(_ context.Context, pos int) error {
				if pos >= at {
					once.Do(func() { close(paused); <-wake })
				}
				return nil
			}}
			var group sync.WaitGroup
			group.Go(func() {
				_, err := h.runner.Run(t.Context(), request(sleeper))
				if !errors.Is(err, catalog.ErrLeaseLost) {
					t.Errorf("the run that slept from byte %d: %v", at, err)
				}
			})
			<-paused
			mu.Lock()
			clock = clock.Add(time.Hour)
			mu.Unlock()
			b, err := h.runner.Run(t.Context(), request(&source{data: data}))
			if err != nil {
				t.Fatalf("the run after it: %v", err)
			}
			if swept {
				if _, err := h.runner.Sweep(t.Context(), -1); err != nil {
					t.Fatal(err)
				}
			}
			close(wake)
			group.Wait()
			if ready := h.check(t); len(ready) != 1 || ready[0].ID != b.ID {
				t.Errorf("listed: %v", ready)
			}
			if left := h.parts(t); len(left) != 1 {
				t.Errorf("parts in the store: %v", left)
			}
		}
	}
}

// A slow store slows the source down; it doesn't fill memory.
func TestBackPressure(t *testing.T) {
	store := &slowStore{Store: memstore.New(nil), gate: make(chan struct{})}
	h := newHouse(t, store, nil)
	var sent atomic.Int64
	endless := &source{data: snapshotOf(100_000, 1000), read: func(_ context.Context, at int) error {
		sent.Store(int64(at))
		return nil
	}}
	before := heap()
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() {
		if _, err := h.runner.Run(ctx, request(endless)); !errors.Is(err, context.Canceled) {
			t.Errorf("the run: %v", err)
		}
	})
	<-store.gate // the store has its first bytes and takes no more
	for last := int64(-1); last != sent.Load(); time.Sleep(50 * time.Millisecond) {
		last = sent.Load() // until nothing more is read from the source
		if used := heap() - before; used > 48<<20 {
			t.Errorf("%d MiB of memory are used while the store takes nothing", used>>20)
		}
	}
	cancel()
	group.Wait()
	if sent.Load() > 32<<20 {
		t.Errorf("%d MiB were read from the source though the store took nothing", sent.Load()>>20)
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// slowStore blocks the first write of a part until its context ends.
type slowStore struct {
	storage.Store
	gate chan struct{}
}

func (s *slowStore) Create(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
	w, err := s.Store.Create(ctx, key, opts)
	if err != nil || !strings.Contains(key, "/part-") {
		return w, err
	}
	return &slowWriter{Writer: w, ctx: ctx, s: s}, nil
}

type slowWriter struct {
	storage.Writer
	ctx context.Context
	s   *slowStore
}

func (w *slowWriter) Write(p []byte) (int, error) {
	select {
	case w.s.gate <- struct{}{}:
	case <-w.ctx.Done():
	}
	<-w.ctx.Done()
	return 0, w.ctx.Err()
}

func TestRequest(t *testing.T) {
	h := newHouse(t, memstore.New(nil), nil)
	s := &source{data: snapshotOf(1, 1)}
	for name, q := range map[string]backup.Request{
		"no data store":        {Snapshotter: s},
		"data store with path": {Snapshotter: s, DataStore: "../orders"},
		"long data store":      {Snapshotter: s, DataStore: strings.Repeat("a", 101)},
		"bad name":             {Snapshotter: s, DataStore: "orders", Name: "with space"},
		"name with a digit":    {Snapshotter: s, DataStore: "orders", Name: "7th"},
		"long name":            {Snapshotter: s, DataStore: "orders", Name: strings.Repeat("a", 101)},
		"long description":     {Snapshotter: s, DataStore: "orders", Description: strings.Repeat("a", 1001)},
		"no snapshotter":       {DataStore: "orders"},
	} {
		if _, err := h.runner.Run(t.Context(), q); err == nil || !strings.Contains(err.Error(), "Request.") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, cfg := range map[string]backup.Config{
		"no store":        {Catalog: h.catalog, Leaser: h.catalog},
		"no catalog":      {Store: h.store, Leaser: h.catalog},
		"no leaser":       {Store: h.store, Catalog: h.catalog},
		"short lease":     {Store: h.store, Catalog: h.catalog, Leaser: h.catalog, LeaseTTL: time.Second},
		"odd compression": {Store: h.store, Catalog: h.catalog, Leaser: h.catalog, Seal: seal.Options{Compression: "lzma"}},
	} {
		if _, err := backup.NewRunner(cfg); err == nil || !strings.Contains(err.Error(), "Config.") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
