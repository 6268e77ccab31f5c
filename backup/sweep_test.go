package backup_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
)

// dead leaves in the store what a run that was killed after committing its part leaves.
func (h *house) dead(t *testing.T, dataStore string, began time.Time) catalog.ID {
	t.Helper()
	b := &catalog.Backup{Format: catalog.Format, ID: catalog.NewID(began), DataStore: dataStore, Kind: catalog.KindManual,
		State: catalog.StateRunning, CreatedAt: began.UTC()}
	if _, err := h.catalog.Put(t.Context(), b, ""); err != nil {
		t.Fatal(err)
	}
	if err := storage.WriteFile(t.Context(), h.store, b.Prefix()+"part-0000.rdb.zst", []byte("bytes"), nil); err != nil {
		t.Fatal(err)
	}
	return b.ID
}

func (h *house) state(t *testing.T, id catalog.ID) catalog.State {
	t.Helper()
	b, _, err := h.catalog.Get(t.Context(), id)
	if errors.Is(err, catalog.ErrNotFound) {
		return "gone"
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.State
}

func TestSweep(t *testing.T) {
	h := newHouse(t, memstore.New(nil), nil)
	now := time.Now()
	ready, err := h.runner.Run(t.Context(), request(&source{data: snapshotOf(100, 100)}))
	if err != nil {
		t.Fatal(err)
	}
	fresh := h.dead(t, "orders", now.Add(-time.Minute))
	old := h.dead(t, "sessions", now.Add(-48*time.Hour))
	busy := h.dead(t, "carts", now.Add(-48*time.Hour))
	lease, err := h.catalog.Acquire(t.Context(), "backup-carts", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	// A part that no record speaks of, old and new, and objects of somebody else.
	orphan := "orders/" + string(catalog.NewID(now.Add(-72*time.Hour))) + "/part-0000.rdb.zst"
	foreign := []string{"orders/notes.txt", "elsewhere/part-0000.rdb", "orders/" + string(catalog.NewID(now)) + "/part-0000.rdb"}
	for _, key := range append(foreign, orphan) {
		if err := storage.WriteFile(t.Context(), h.store, key, []byte("bytes"), nil); err != nil {
			t.Fatal(err)
		}
	}
	// A manifest that can't be read: its parts may be the only copy of something.
	corrupt := h.dead(t, "lost", now.Add(-48*time.Hour))
	record := "lost/" + string(corrupt) + "/run.json"
	if err := storage.WriteFile(t.Context(), h.store, record, []byte("not a manifest"), nil); err != nil {
		t.Fatal(err)
	}

	h.corrupt = 1

	rep, err := h.runner.Sweep(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if rep.Interrupted != 2 || rep.Records != 1 || rep.Objects != 2 || rep.Bytes != 10 {
		t.Errorf("report: %+v", rep)
	}
	for id, want := range map[catalog.ID]catalog.State{ready.ID: catalog.StateReady, fresh: catalog.StateInterrupted, old: "gone", busy: catalog.StateRunning} {
		if got := h.state(t, id); got != want {
			t.Errorf("backup %s is %s, want %s", id, got, want)
		}
	}
	if n := len(h.check(t)); n != 1 {
		t.Errorf("%d backups are listed", n)
	}
	for _, key := range append(foreign, "lost/"+string(corrupt)+"/part-0000.rdb.zst", "carts/"+string(busy)+"/part-0000.rdb.zst") {
		if _, err := h.store.Stat(t.Context(), key); err != nil {
			t.Errorf("the sweep took %s: %v", key, err)
		}
	}
	// An orphan's age is counted from its last byte too, which is now.
	if _, err := h.store.Stat(t.Context(), orphan); err != nil {
		t.Errorf("the sweep took an orphan that was written a moment ago: %v", err)
	}

	if err := lease.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rep, err = h.runner.Sweep(t.Context(), -1); err != nil {
		t.Fatal(err)
	}
	if h.state(t, busy) != "gone" || h.state(t, fresh) != "gone" {
		t.Errorf("after a sweep without grace there are still records: %+v", rep)
	}
	if _, err := h.store.Stat(t.Context(), orphan); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("the orphan is still there: %v", err)
	}
	if _, err := h.store.Stat(t.Context(), "lost/"+string(corrupt)+"/part-0000.rdb.zst"); err != nil {
		t.Errorf("the sweep took a part whose manifest can't be read: %v", err)
	}
	if _, err := h.runner.Sweep(t.Context(), time.Second); err == nil {
		t.Error("a grace of a second was taken")
	}
	if n := len(h.check(t)); n != 1 {
		t.Errorf("%d backups are listed at the end", n)
	}
}

func TestDelete(t *testing.T) {
	h := newHouse(t, memstore.New(nil), nil)
	var ids []catalog.ID
	for range 2 {
		b, err := h.runner.Run(t.Context(), request(&source{data: snapshotOf(10, 10)}))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, b.ID)
	}
	if err := h.runner.Delete(t.Context(), ids[0]); err != nil {
		t.Fatal(err)
	}
	if ready := h.check(t); len(ready) != 1 || ready[0].ID != ids[1] {
		t.Errorf("listed: %v", ready)
	}
	if left := h.parts(t); len(left) != 1 {
		t.Errorf("parts: %v", left)
	}
	if err := h.runner.Delete(t.Context(), ids[0]); !errors.Is(err, catalog.ErrNotFound) {
		t.Errorf("deleting it again: %v", err)
	}
	running := h.dead(t, "orders", time.Now())
	if err := h.runner.Delete(t.Context(), running); !errors.Is(err, backup.ErrBusy) {
		t.Errorf("deleting a run: %v", err)
	}
}

// Cancelling at any stage returns within a second, lists nothing and leaves nothing.
func TestCancel(t *testing.T) {
	data := snapshotOf(3000, 1000)
	for _, where := range []string{"snapshot", "read", "create", "write", "commit", "open", "put running", "put ready", "lease"} {
		t.Run(where, func(t *testing.T) {
			blocked := make(chan struct{})
			block := func(ctx context.Context) error { close(blocked); <-ctx.Done(); return ctx.Err() }
			s := &source{data: data, piece: 10_000}
			store := &stuckStore{Store: memstore.New(nil), where: where, block: block}
			h := newHouse(t, store, nil)
			switch where {
			case "snapshot":
				s.snapshot = block
			case "read":
				s.read = func(ctx context.Context, at int) error {
					if at > len(data)/2 {
						return block(ctx)
					}
					return nil
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			var err error
			var group sync.WaitGroup
			group.Go(func() { _, err = h.runner.Run(ctx, request(s)) })
			<-blocked
			start := time.Now()
			cancel()
			group.Wait()
			if took := time.Since(start); took > 3*time.Second {
				t.Errorf("it took %v", took)
			}
			if !errors.Is(err, context.Canceled) {
				t.Errorf("error: %v", err)
			}
			s.released(t)
			if ready := h.check(t); len(ready) > 0 {
				t.Errorf("listed: %v", ready)
			}
			if left := h.parts(t); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// stuckStore blocks one kind of call until its context ends, the first time.
type stuckStore struct {
	storage.Store
	where string
	block func(context.Context) error
	once  sync.Once
}

func (s *stuckStore) stuck(ctx context.Context, where string) (err error) {
	if where == s.where {
		s.once.Do(func() { err = s.block(ctx) })
	}
	return err
}

func (s *stuckStore) Create(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
	part := strings.Contains(key, "/part-")
	where := "create"
	switch {
	case part:
	case strings.HasPrefix(key, "_leases/"):
		where = "lease"
	case strings.HasSuffix(key, "/run.json"):
		where = "put running"
	default:
		where = "put ready"
	}
	if err := s.stuck(ctx, where); err != nil {
		return nil, err
	}
	w, err := s.Store.Create(ctx, key, opts)
	if err != nil || !part {
		return w, err
	}
	return &stuckWriter{w, ctx, s}, nil
}

func (s *stuckStore) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if strings.Contains(key, "/part-") {
		if err := s.stuck(ctx, "open"); err != nil {
			return nil, err
		}
	}
	return s.Store.Open(ctx, key, off, n)
}

type stuckWriter struct {
	storage.Writer
	ctx context.Context
	s   *stuckStore
}

func (w *stuckWriter) Write(p []byte) (int, error) {
	if err := w.s.stuck(w.ctx, "write"); err != nil {
		return 0, err
	}
	return w.Writer.Write(p)
}

func (w *stuckWriter) Commit(ctx context.Context) (storage.Info, error) {
	if err := w.s.stuck(ctx, "commit"); err != nil {
		return storage.Info{}, err
	}
	return w.Writer.Commit(ctx)
}
