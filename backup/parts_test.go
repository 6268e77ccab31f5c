package backup_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
)

// shards is a Snapshotter of several parts, each from a shard of its own.
type shards struct {
	data [][]byte
	read func(ctx context.Context, part, attempt, at int) error // called by Read

	mu       sync.Mutex
	attempts map[string]int
	all      atomic.Bool // every part was read
}

func (s *shards) Snapshot(context.Context) (backup.Snapshot, error) {
	s.attempts = map[string]int{}
	return shardsSnapshot{s}, nil
}

type shardsSnapshot struct{ *shards }

func (s shardsSnapshot) Source() catalog.Source {
	src := catalog.Source{Engine: "redis", Topology: "cluster", Method: "test"}
	if s.all.Load() {
		src.Cost = &catalog.Cost{Bytes: 42}
	}
	return src
}

func (s shardsSnapshot) Parts() (parts []backup.Part) {
	for i := range s.data {
		parts = append(parts, backup.Part{Name: fmt.Sprintf("shard-%d.rdb", i), Size: -1})
	}
	return parts
}

func (s shardsSnapshot) Open(ctx context.Context, p backup.Part) (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attempts[p.Name]++
	var i int
	fmt.Sscanf(p.Name, "shard-%d.rdb", &i)
	attempt := s.attempts[p.Name]
	src := &source{data: s.data[i], piece: 10_000, read: func(ctx context.Context, at int) error {
		if s.read != nil {
			return s.read(ctx, i, attempt, at)
		}
		return nil
	}}
	ctx, cancel := context.WithCancel(ctx)
	return &reader{s: src, ctx: ctx, cancel: cancel}, nil
}

func (s shardsSnapshot) Shard(p backup.Part) *catalog.Shard {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all.Store(true)
	return &catalog.Shard{ID: p.Name, Attempts: s.attempts[p.Name]}
}

func (s shardsSnapshot) Close() error { return nil }

func eight() *shards {
	s := &shards{}
	for i := range 8 {
		s.data = append(s.data, snapshotOf(100+i, 1000))
	}
	return s
}

// Parts are read at a time, as many as asked for, and are in the manifest in their order.
func TestParts(t *testing.T) {
	for _, parallel := range []int{1, 3, 0, 100} {
		t.Run(fmt.Sprint(parallel), func(t *testing.T) {
			h := newHouse(t, memstore.New(nil), nil)
			s := eight()
			want := min(max(parallel, 1), 8)
			if parallel == 0 {
				want = backup.DefaultParallel
			}
			var now, most atomic.Int32
			met := make(chan struct{}) // closed when as many are read at a time as are wanted
			s.read = func(ctx context.Context, part, attempt, at int) error {
				switch at {
				case 0:
					n := now.Add(1)
					for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
					}
					if int(n) == want {
						select {
						case <-met:
						default:
							close(met)
						}
					}
					select {
					case <-met:
					case <-time.After(10 * time.Second):
						return errors.New("too few parts are read at a time")
					}
				case len(s.data[part]):
					now.Add(-1)
				}
				return nil
			}
			b, err := h.runner.Run(t.Context(), backup.Request{DataStore: "orders", Snapshotter: s, Parallel: parallel})
			if err != nil {
				t.Fatal(err)
			}
			if int(most.Load()) != want {
				t.Errorf("%d parts were read at a time, want %d", most.Load(), want)
			}
			if len(b.Parts) != 8 || b.Keys != 8*100+28 || b.Source.Cost == nil {
				t.Errorf("%d parts with %d keys, cost %v: want 8, 828 and what the source told at the end", len(b.Parts), b.Keys, b.Source.Cost)
			}
			for i, p := range b.Parts {
				if p.Keys != int64(100+i) || p.Shard == nil || p.Shard.ID != fmt.Sprintf("shard-%d.rdb", i) {
					t.Errorf("part %d is %s with %d keys of %+v", i, p.Name, p.Keys, p.Shard)
				}
			}
			h.check(t)
		})
	}
}

// A part that is lost and can be had again is read from its beginning, as often as its source offers that, and counts once.
func TestPartAgain(t *testing.T) {
	h := newHouse(t, memstore.New(nil), nil)
	s := eight()
	s.data[5] = snapshotOf(10_000, 100) // of which thousands were counted when it is lost
	lost := errors.New("its server failed over")
	s.read = func(_ context.Context, part, attempt, at int) error {
		if part == 5 && attempt < 4 && at > 250_000*attempt {
			return fmt.Errorf("%w: %w", backup.ErrAgain, lost)
		}
		return nil
	}
	var last backup.Progress
	b, err := h.runner.Run(t.Context(), backup.Request{DataStore: "orders", Snapshotter: s, Progress: func(p backup.Progress) { last = p }})
	if err != nil {
		t.Fatal(err)
	}
	if got := b.Parts[5].Shard.Attempts; got != 4 || b.Parts[4].Shard.Attempts != 1 {
		t.Errorf("parts 5 and 4 were begun %d and %d times, want 4 and 1", got, b.Parts[4].Shard.Attempts)
	}
	if b.Keys != 10_723 || last.Keys != 10_723 {
		t.Errorf("%d keys, and %d keys in the end's progress, want 10723", b.Keys, last.Keys)
	}
	h.check(t)

	s.read = func(_ context.Context, part, attempt, at int) error {
		if part == 5 && attempt < 3 {
			return fmt.Errorf("%w: %w", backup.ErrAgain, lost)
		}
		if part == 5 {
			return lost
		}
		return nil
	}
	_, err = h.runner.Run(t.Context(), backup.Request{DataStore: "orders", Snapshotter: s})
	if !errors.Is(err, backup.ErrSource) || !errors.Is(err, lost) || errors.Is(err, backup.ErrAgain) || !strings.Contains(err.Error(), "shard-5.rdb") {
		t.Errorf("a part that stays lost: %v", err)
	}
	h.check(t)
}

// Parts that are read at a time share the memory that one has alone.
func TestPartsTakeLittleMemory(t *testing.T) {
	s := &shards{}
	one := snapshotOf(2000, 10_000) // 20 MB
	for range 16 {
		s.data = append(s.data, one)
	}
	before := heap()
	var peak atomic.Int64
	s.read = func(_ context.Context, part, _, at int) error {
		if at%1_000_000 < 10_000 {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak.Store(max(peak.Load(), int64(m.HeapAlloc)-before))
		}
		return nil
	}
	h := newHouse(t, discard{memstore.New(nil)}, nil)
	_, err := h.runner.Run(t.Context(), backup.Request{DataStore: "orders", Snapshotter: s})
	if !errors.Is(err, backup.ErrStore) { // nothing can be read back
		t.Fatal(err)
	}
	if peak.Load() > 64<<20 {
		t.Errorf("%d parts at a time took %d MiB of heap", backup.DefaultParallel, peak.Load()>>20)
	}
}

// discard is a store that forgets the bytes of parts.
type discard struct{ storage.Store }

func (s discard) Create(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
	w, err := s.Store.Create(ctx, key, opts)
	if err == nil && strings.Contains(key, "/part-") {
		return discarding{w}, nil
	}
	return w, err
}

func (s discard) Unwrap() storage.Store { return s.Store }

type discarding struct{ storage.Writer }

func (discarding) Write(p []byte) (int, error) { return len(p), nil }

// counted is a Snapshotter that knows how many keys there are.
type counted struct {
	*shards
	want int64
}

type countedSnapshot struct {
	backup.Snapshot
	want int64
}

func (c counted) Snapshot(ctx context.Context) (backup.Snapshot, error) {
	sn, err := c.shards.Snapshot(ctx)
	return countedSnapshot{sn, c.want}, err
}

var errFewer = errors.New("keys are missing")

func (c countedSnapshot) Count(keys int64) error {
	if keys != c.want {
		return errFewer
	}
	return nil
}

// A snapshot that lacks keys is no backup.
func TestCounted(t *testing.T) {
	h := newHouse(t, memstore.New(nil), nil)
	if _, err := h.runner.Run(t.Context(), backup.Request{DataStore: "orders", Snapshotter: counted{eight(), 828}}); err != nil {
		t.Error(err)
	}
	if _, err := h.runner.Run(t.Context(), backup.Request{DataStore: "orders", Snapshotter: counted{eight(), 829}}); !errors.Is(err, errFewer) || !errors.Is(err, backup.ErrSource) {
		t.Errorf("with a key less than the source had: %v", err)
	}
	h.check(t)
}
