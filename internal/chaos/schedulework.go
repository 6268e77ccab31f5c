package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/storecatalog"
	"github.com/amberkv/amber/schedule"
	"github.com/amberkv/amber/schedule/storejournal"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/retry"
)

// The time to live of the leases in a campaign of schedulers, and how far clocks may be apart there.
const (
	leaseTTL  = 3 * time.Second
	clockSkew = 200 * time.Millisecond
)

// A ScheduleWorker is one scheduler of a campaign: everything that a host wires for it, with a store.
type ScheduleWorker struct {
	Store  storage.Store
	Name   string
	Offset time.Duration // by how much its clock differs from the machine's
	// Dawdle is how long a backup takes at most at each of its steps, at random.
	Dawdle time.Duration
	Log    io.Writer // warnings; nil: nowhere

	runner *backup.Runner
}

// store returns the store as the worker uses it.
func (w *ScheduleWorker) store() storage.Store {
	return retry.New(lagging{w.Store, w.Dawdle / 20}, nil)
}

func (w *ScheduleWorker) now() time.Time { return time.Now().Add(w.Offset) }

func (w *ScheduleWorker) log() *slog.Logger {
	if w.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(w.Log, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// Service returns a service that does the same as the worker's scheduler, and applies retention besides.
func (w *ScheduleWorker) Service() (*amber.Service, error) {
	store := w.store()
	cat, err := storecatalog.New(storecatalog.Config{Store: store, Owner: w.Name, ClockSkew: clockSkew, Now: w.now})
	if err != nil {
		return nil, err
	}
	return amber.New(amber.Config{Store: store, Catalog: cat, Leaser: cat, LeaseTTL: leaseTTL, SchedulePoll: time.Second, TidyEvery: 20 * time.Second, Logger: w.log(), Now: w.now,
		DataStores: func(_ context.Context, dataStore string) (amber.BackupRequest, error) {
			return amber.BackupRequest{Snapshotter: slow{Bytes: rdbOf(storeStamp(dataStore), noise()), pause: w.dawdle}}, nil
		}})
}

// Scheduler returns the worker's scheduler.
func (w *ScheduleWorker) Scheduler() (*schedule.Scheduler, error) {
	store, log := w.store(), w.log()
	cat, err := storecatalog.New(storecatalog.Config{Store: store, Owner: w.Name, ClockSkew: clockSkew, Now: w.now})
	if err != nil {
		return nil, err
	}
	journal, err := storejournal.New(storejournal.Config{Store: store})
	if err != nil {
		return nil, err
	}
	w.runner, err = backup.NewRunner(backup.Config{Store: store, Catalog: cat, Leaser: cat, LeaseTTL: leaseTTL, Logger: log, Now: w.now})
	if err != nil {
		return nil, err
	}
	return schedule.New(schedule.Config{Journal: journal, Leaser: cat, Job: w, Owner: w.Name, LeaseTTL: leaseTTL, Poll: time.Second, Logger: log, Now: w.now})
}

// dawdle takes some time.
func (w *ScheduleWorker) dawdle() { time.Sleep(rand.N(w.Dawdle + 1)) }

// Backup is that of schedule.Job. The snapshot says what it is of, so that no other can be taken for it.
func (w *ScheduleWorker) Backup(ctx context.Context, d schedule.Due) (catalog.ID, error) {
	b, err := w.runner.Run(ctx, backup.Request{
		DataStore: d.Policy.DataStore, Kind: catalog.KindAutomatic, Policy: d.Policy.ID, DueTime: d.Due, Labels: d.Policy.Labels,
		Snapshotter: slow{Bytes: rdbOf(stamp(d.Policy.ID, d.Due), noise()), pause: w.dawdle},
		Registered: func(ctx context.Context, id catalog.ID) error {
			w.dawdle()
			err := d.Registered(ctx, id)
			w.dawdle()
			return err
		},
	})
	w.dawdle()
	switch {
	case errors.Is(err, backup.ErrBusy):
		return "", fmt.Errorf("%w: %w", schedule.ErrOverlap, err)
	case err != nil:
		return "", err
	}
	return b.ID, nil
}

// Settle is that of schedule.Job.
func (w *ScheduleWorker) Settle(ctx context.Context, _ *schedule.Policy, id catalog.ID) (bool, error) {
	b, err := w.runner.Settle(ctx, id)
	return b != nil, err
}

// A lagging store takes its time before it writes, lists or deletes something, and after that: so a process is more often met between two of its steps.
type lagging struct {
	storage.Store
	lag time.Duration
}

func (s lagging) wait() { time.Sleep(rand.N(s.lag + 1)) }

// Unwrap is for what the store is able to do besides.
func (s lagging) Unwrap() storage.Store { return s.Store }

// Create waits before and after.
func (s lagging) Create(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
	s.wait()
	defer s.wait()
	return s.Store.Create(ctx, key, opts)
}

// List waits before and after.
func (s lagging) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		s.wait()
		for info, err := range s.Store.List(ctx, prefix) {
			if !yield(info, err) {
				return
			}
		}
		s.wait()
	}
}

// Delete waits before and after.
func (s lagging) Delete(ctx context.Context, key string) error {
	s.wait()
	defer s.wait()
	return s.Store.Delete(ctx, key)
}

// stamp is what the snapshot of a due time has in it.
func stamp(policy string, due time.Time) []byte {
	return fmt.Appendf(nil, "the backup of policy %s due at %s", policy, due.UTC().Format(time.RFC3339))
}

// storeStamp is what the snapshot of a data store has in it of which nobody says what due time it is for.
func storeStamp(dataStore string) []byte { return []byte("a backup of data store " + dataStore) }

// noise is something that can't be compressed.
func noise() []byte {
	b := make([]byte, 20_000)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

// A slow is a Bytes that comes in a few pieces, with a pause before each.
type slow struct {
	Bytes
	pause func()
}

// Snapshot returns the snapshot.
func (s slow) Snapshot(ctx context.Context) (backup.Snapshot, error) { return s, ctx.Err() }

// Open reads it.
func (s slow) Open(ctx context.Context, _ backup.Part) (io.ReadCloser, error) {
	return io.NopCloser(&pieces{ctx: ctx, r: bytes.NewReader(s.Bytes), size: max(1, len(s.Bytes)/4), pause: s.pause}), nil
}

type pieces struct {
	ctx   context.Context
	r     *bytes.Reader
	size  int
	pause func()
}

func (p *pieces) Read(b []byte) (int, error) {
	if p.r.Len() > 0 {
		p.pause()
	}
	if err := p.ctx.Err(); err != nil {
		return 0, err
	}
	return p.r.Read(b[:min(len(b), p.size)])
}
