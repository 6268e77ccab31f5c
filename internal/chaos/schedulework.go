package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"time"

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
	Offset time.Duration // by how much the clock of due times differs from the machine's
	// Dawdle is how long a backup takes at most at each of its steps, at random.
	Dawdle time.Duration
	Log    io.Writer // warnings; nil: nowhere

	runner *backup.Runner
}

// Scheduler returns the worker's scheduler. Leases go by the machine's clock.
func (w *ScheduleWorker) Scheduler() (*schedule.Scheduler, error) {
	store := retry.New(w.Store, nil)
	log := slog.New(slog.DiscardHandler)
	if w.Log != nil {
		log = slog.New(slog.NewTextHandler(w.Log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	cat, err := storecatalog.New(storecatalog.Config{Store: store, Owner: w.Name, ClockSkew: clockSkew})
	if err != nil {
		return nil, err
	}
	journal, err := storejournal.New(storejournal.Config{Store: store})
	if err != nil {
		return nil, err
	}
	w.runner, err = backup.NewRunner(backup.Config{Store: store, Catalog: cat, Leaser: cat, LeaseTTL: leaseTTL, Logger: log})
	if err != nil {
		return nil, err
	}
	return schedule.New(schedule.Config{Journal: journal, Leaser: cat, Job: w, Owner: w.Name, LeaseTTL: leaseTTL, Poll: time.Second, Logger: log,
		Now: func() time.Time { return time.Now().Add(w.Offset) }})
}

// dawdle takes some time.
func (w *ScheduleWorker) dawdle() { time.Sleep(rand.N(w.Dawdle + 1)) }

// Backup is that of schedule.Job. The snapshot says what it is of, so that no other can be taken for it.
func (w *ScheduleWorker) Backup(ctx context.Context, d schedule.Due) (catalog.ID, error) {
	noise := make([]byte, 20_000)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	b, err := w.runner.Run(ctx, backup.Request{
		DataStore: d.Policy.DataStore, Kind: catalog.KindAutomatic, Policy: d.Policy.ID, DueTime: d.Due, Labels: d.Policy.Labels,
		Snapshotter: slow{Bytes: rdbOf(stamp(d.Policy.ID, d.Due), noise), pause: w.dawdle},
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

// stamp is what the snapshot of a due time has in it.
func stamp(policy string, due time.Time) []byte {
	return fmt.Appendf(nil, "the backup of policy %s due at %s", policy, due.UTC().Format(time.RFC3339))
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
