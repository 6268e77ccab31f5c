package amber_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/replica"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
)

// gate is a snapshotter of a real server that waits, before it asks that, until it is opened or cancelled.
type gate struct {
	backup.Snapshotter
	open    chan struct{}
	waiting atomic.Int32
	most    atomic.Int32
}

func newGate(t *testing.T, server *testserver.Server) *gate {
	t.Helper()
	from, err := replica.New(replica.Config{Options: server.Options()})
	if err != nil {
		t.Fatal(err)
	}
	return &gate{Snapshotter: from, open: make(chan struct{})}
}

func (g *gate) Snapshot(ctx context.Context) (backup.Snapshot, error) {
	n := g.waiting.Add(1)
	for m := g.most.Load(); n > m && !g.most.CompareAndSwap(m, n); m = g.most.Load() {
	}
	defer g.waiting.Add(-1)
	select {
	case <-g.open:
		return g.Snapshotter.Snapshot(ctx)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (g *gate) await(t *testing.T, n int32) {
	t.Helper()
	testserver.Eventually(t, time.Minute, fmt.Sprintf("%d backups at work", n), func() error {
		if got := g.waiting.Load(); got != n {
			return fmt.Errorf("%d are", got)
		}
		return nil
	})
}

// Backups that are started are made some at a time, whatever becomes of the context of who started them, and their handles tell of them.
func TestStart(t *testing.T) {
	t.Parallel()
	server := testserver.Start(t, "valkey-8.1")
	testserver.Generate(t, server.Client(t), 500, 1)
	var mu sync.Mutex
	begun, ended := map[string]int{}, map[string]int{}
	count := func(in map[string]int) func(context.Context, amber.Event) {
		return func(_ context.Context, e amber.Event) {
			mu.Lock()
			defer mu.Unlock()
			in[e.DataStore]++
		}
	}
	service, err := amber.New(amber.Config{Store: fileStore(t, t.TempDir()), Background: 2, Events: amber.Events{Begin: count(begun), End: count(ended)}})
	if err != nil {
		t.Fatal(err)
	}
	g := newGate(t, server)
	var all []*amber.Started
	for i := range 5 {
		ctx, cancel := context.WithCancel(t.Context())
		st, err := service.Start(ctx, amber.BackupRequest{DataStore: fmt.Sprintf("store-%d", i), Snapshotter: g})
		cancel() // as that of a request that was answered
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, st)
	}
	g.await(t, 2)
	var queued, known int
	for _, st := range all {
		if st.Progress().Stage == amber.StageQueued && st.ID() == "" {
			queued++
		}
		if id := st.ID(); id != "" {
			if b, err := service.Get(t.Context(), id); err != nil || b.State != catalog.StateRunning {
				t.Errorf("the catalog has %v of %s: %v", b, id, err)
			}
			known++
		}
	}
	if queued != 3 || known != 2 {
		t.Errorf("%d wait for their turn and %d are known, want 3 and 2", queued, known)
	}
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if b, err := all[0].Wait(short); b != nil || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait gave %v, %v before the end", b, err)
	}
	close(g.open)
	for i, st := range all {
		b, err := st.Wait(t.Context())
		if err != nil {
			t.Errorf("store %d: %v", i, err)
			continue
		}
		if p := st.Progress(); b.ID != st.ID() || b.State != catalog.StateReady || p.Stage != string(backup.StageDone) || p.Keys != b.Keys {
			t.Errorf("store %d: backup %s of %d keys is %s; its handle says %s, %+v", i, b.ID, b.Keys, b.State, st.ID(), p)
		}
		if again, err := st.Wait(short); again != b || err != nil { // even with a context that has ended
			t.Errorf("a second Wait gave %v, %v", again, err)
		}
		st.Cancel() // too late for anything
	}
	if n := g.most.Load(); n > 2 {
		t.Errorf("%d were at work at a time", n)
	}
	if err := service.Close(t.Context()); err != nil {
		t.Error(err)
	}
	for i := range all {
		if name := fmt.Sprintf("store-%d", i); begun[name] != 1 || ended[name] != 1 {
			t.Errorf("%s: %d beginnings and %d ends were told", name, begun[name], ended[name])
		}
	}
}

// What is cancelled ends within a second, and what waits for its turn at once.
func TestStartCancel(t *testing.T) {
	t.Parallel()
	service, err := amber.New(amber.Config{Store: fileStore(t, t.TempDir()), Background: 1})
	if err != nil {
		t.Fatal(err)
	}
	g := newGate(t, testserver.Start(t, "redis-7.0"))
	first, err := service.Start(t.Context(), amber.BackupRequest{DataStore: "orders", Snapshotter: g})
	if err != nil {
		t.Fatal(err)
	}
	g.await(t, 1)
	second, err := service.Start(t.Context(), amber.BackupRequest{DataStore: "carts", Snapshotter: g})
	if err != nil {
		t.Fatal(err)
	}
	for _, st := range []*amber.Started{second, first} {
		st.Cancel()
		select {
		case <-st.Done():
		case <-time.After(10 * time.Second):
			t.Fatal("it goes on")
		}
		if b, err := st.Wait(t.Context()); b != nil || !errors.Is(err, context.Canceled) {
			t.Errorf("Wait gave %v, %v", b, err)
		}
	}
	if n := g.most.Load(); n != 1 {
		t.Errorf("%d were begun", n)
	}
	if second.ID() != "" {
		t.Errorf("what was never begun has the ID %s", second.ID())
	}
	// The places are free again.
	close(g.open)
	third, err := service.Start(t.Context(), amber.BackupRequest{DataStore: "orders", Snapshotter: g})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := third.Wait(t.Context()); err != nil {
		t.Error(err)
	}
}

// Close waits for what is at work, and lets nothing begin any more.
func TestStartAndClose(t *testing.T) {
	t.Parallel()
	service, err := amber.New(amber.Config{Store: fileStore(t, t.TempDir()), Background: 1})
	if err != nil {
		t.Fatal(err)
	}
	g := newGate(t, testserver.Start(t, "redis-8.0"))
	first, err := service.Start(t.Context(), amber.BackupRequest{DataStore: "orders", Snapshotter: g})
	if err != nil {
		t.Fatal(err)
	}
	g.await(t, 1)
	second, err := service.Start(t.Context(), amber.BackupRequest{DataStore: "carts", Snapshotter: g})
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	go func() { closed <- service.Close(t.Context()) }()
	if b, err := second.Wait(t.Context()); b != nil || !errors.Is(err, amber.ErrClosed) {
		t.Errorf("what waited for its turn: %v, %v", b, err)
	}
	if st, err := service.Start(t.Context(), amber.BackupRequest{DataStore: "users", Snapshotter: g}); st != nil || !errors.Is(err, amber.ErrClosed) {
		t.Errorf("Start after Close: %v, %v", st, err)
	}
	select {
	case err := <-closed:
		t.Fatalf("Close doesn't wait: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	close(g.open)
	if err := <-closed; err != nil {
		t.Error(err)
	}
	select {
	case <-first.Done():
	default:
		t.Error("Close has returned before the backup had ended")
	}
	if _, err := first.Wait(t.Context()); err != nil {
		t.Error(err)
	}
}

// A Close that has no more time cancels what is at work, and tells.
func TestStartAndCloseInHaste(t *testing.T) {
	t.Parallel()
	service, err := amber.New(amber.Config{Store: fileStore(t, t.TempDir())})
	if err != nil {
		t.Fatal(err)
	}
	g := newGate(t, testserver.Start(t, "valkey-9.1"))
	st, err := service.Start(t.Context(), amber.BackupRequest{DataStore: "orders", Snapshotter: g})
	if err != nil {
		t.Fatal(err)
	}
	g.await(t, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err = service.Close(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "1 of them") {
		t.Errorf("Close: %v", err)
	}
	select {
	case <-st.Done():
	default:
		t.Error("Close has returned before the backup had ended")
	}
	if b, err := st.Wait(t.Context()); b != nil || !errors.Is(err, amber.ErrClosed) {
		t.Errorf("Wait gave %v, %v", b, err)
	}
	if b, err := service.Get(t.Context(), st.ID()); err != nil || b.State != catalog.StateFailed {
		t.Errorf("the catalog has %v, %v", b, err)
	}
}

// What is wrong with a request is told at once.
func TestStartRefused(t *testing.T) {
	t.Parallel()
	store := fileStore(t, t.TempDir())
	if _, err := amber.New(amber.Config{Store: store, Background: -1}); err == nil || err.Error() != "amber: Config.Background is negative: -1" {
		t.Errorf("Background -1: %v", err)
	}
	service, err := amber.New(amber.Config{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	g := newGate(t, testserver.Start(t, "redis-7.0"))
	for want, q := range map[string]amber.BackupRequest{
		"amber: BackupRequest.From or BackupRequest.Snapshotter is required": {DataStore: "orders"},
		`backup: Request.DataStore "": it is empty`:                          {Snapshotter: g},
		`amber: there is no store "moon": see Config.Stores`:                 {DataStore: "orders", Snapshotter: g, Store: "moon"},
		`backup: Request.Name "9": `:                                         {DataStore: "orders", Snapshotter: g, Name: "9"},
	} {
		if st, err := service.Start(t.Context(), q); st != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, %v, want %s", st, err, want)
		}
	}
	if err := service.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
