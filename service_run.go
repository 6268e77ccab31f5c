package amber

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/schedule"
)

// RunSchedules makes the backups of all policies when they are due, applies retention and sweeps, until ctx ends or the Service is closed; then it returns nil, after
// Config.ScheduleGrace at the latest if backups are being made. Any number of Services that share stores, Journal and Leaser may do this at a
// time, in any number of processes: each due time is dealt with once, and what one of them had begun that died another one takes over within
// Config.LeaseTTL.
//
// After each backup that a policy has made the retention of its data store is applied. All of them are, and the stores swept, every Config.TidyEvery,
// by one of the Services. What becomes of due times Runs tells, and Events.Run.
func (s *Service) RunSchedules(ctx context.Context) error {
	scheduler, err := s.scheduler()
	if err != nil {
		return err
	}
	if s.cfg.DataStores == nil {
		return errNoDataStores
	}
	ctx, done, err := s.untilClose(ctx)
	if err != nil {
		return err
	}
	defer done()
	tidyCtx, stop := context.WithCancel(ctx)
	tidied := make(chan struct{})
	go func() {
		defer close(tidied)
		s.keepTidy(tidyCtx)
	}()
	err = scheduler.Run(ctx)
	stop()
	<-tidied
	return err
}

// runEnded is told what became of a due time.
func (s *Service) runEnded(ctx context.Context, r *schedule.Run) {
	s.tellRun(ctx, r)
	if r.State != schedule.RunDone || ctx.Err() != nil {
		return
	}
	if _, err := s.Prune(ctx, PruneRequest{DataStore: r.DataStore}); err != nil {
		s.cfg.Logger.WarnContext(ctx, "retention could not be applied after a backup, it will be later", "dataStore", r.DataStore, "error", err)
	}
}

// tidyLease is the lease of who applies retention to everything and sweeps the stores. It isn't given back: while it lasts the work is done.
const tidyLease = "tidy"

// keepTidy tidies now and then until ctx ends: whichever Service gets the lease next.
func (s *Service) keepTidy(ctx context.Context) {
	every := s.cfg.TidyEvery
	if every == 0 {
		every = time.Hour
	}
	for {
		wait := every
		lease, err := s.cfg.Leaser.Acquire(ctx, tidyLease, every)
		held := (*catalog.HeldError)(nil)
		switch {
		case err == nil:
			s.tidy(ctx, lease, every)
		case errors.As(err, &held):
			wait = min(max(held.Until.Sub(s.now()), every/60), every) // its owner may have given it back, and clocks differ
		case ctx.Err() == nil:
			s.cfg.Logger.WarnContext(ctx, "whether the stores are to be tidied could not be found out, it is tried again", "after", wait, "error", err)
		}
		if clock.Sleep(ctx, wait) != nil {
			return
		}
	}
}

// tidy applies retention to everything and sweeps, while the lease lasts. If it is cut short or fails, somebody else may do it at once.
func (s *Service) tidy(ctx context.Context, lease catalog.Lease, every time.Duration) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := clock.Every(every/3, func() {
		if err := lease.Renew(ctx); errors.Is(err, catalog.ErrLeaseLost) {
			cancel(err)
		}
	})
	_, err := s.Prune(ctx, PruneRequest{})
	_, serr := s.Sweep(ctx, 0)
	stop()
	if err = errors.Join(err, serr); err == nil {
		return
	}
	if ctx.Err() == nil {
		s.cfg.Logger.WarnContext(ctx, "the stores could not be tidied, it is tried again", "error", err)
	}
	release, done := clock.Outlive(ctx, 10*time.Second, releaseTime)
	defer done()
	if err := lease.Release(release); err != nil {
		s.cfg.Logger.DebugContext(ctx, "a lease was not given back, it ends by itself", "lease", tidyLease, "error", err)
	}
}

// releaseTime is how long giving back a lease may take when all is to end.
const releaseTime = 500 * time.Millisecond

var errNoDataStores = errors.New("amber: Config.DataStores is required: it says how a data store is reached that is to be backed up")

// request says how a data store is backed up of which only the ID is known.
func (s *Service) request(ctx context.Context, dataStore string) (*BackupRequest, error) {
	if s.cfg.DataStores == nil {
		return nil, errNoDataStores
	}
	q, err := s.cfg.DataStores(ctx, dataStore)
	if err != nil {
		return nil, fmt.Errorf("how data store %s is reached: %w", dataStore, err)
	}
	switch {
	case q.DataStore != "" && q.DataStore != dataStore:
		return nil, fmt.Errorf("amber: Config.DataStores was asked for %s and tells of %s", dataStore, q.DataStore)
	case q.Name != "" || q.Store != "" || q.Retain != 0:
		return nil, fmt.Errorf("amber: what Config.DataStores tells of %s has a Name, Store or Retain: these are the policy's to say", dataStore)
	}
	q.DataStore = dataStore
	return &q, nil
}

// job makes the backups of due times.
type job struct{ *Service }

// Backup makes the backup of a due time, as schedule.Job says.
func (s job) Backup(ctx context.Context, d schedule.Due) (catalog.ID, error) {
	q, err := s.request(ctx, d.Policy.DataStore)
	if err != nil {
		return "", err
	}
	snapshotter, err := s.snapshotter(q)
	if err != nil {
		return "", err
	}
	at, err := s.place(d.Policy.Store)
	if err != nil {
		return "", err
	}
	name := ""
	if template := d.Policy.BackupName; template != "" {
		zone, err := d.Policy.Location()
		if err != nil {
			return "", err
		}
		if name, err = schedule.ExpandName(template, d.Due.In(zone)); err != nil {
			return "", fmt.Errorf("the backup's name: %w", err)
		}
	}
	labels := maps.Clone(q.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, d.Policy.Labels)
	r := backup.Request{Budget: s.budget(q.SourceLimits, q.SyncBudget), DataStore: q.DataStore, Name: name, Description: q.Description, Kind: catalog.KindAutomatic, Snapshotter: snapshotter,
		Policy: d.Policy.ID, DueTime: d.Due, Labels: labels, Seal: s.seal(q.Recipients), Parallel: q.Parallel, Registered: d.Registered}
	b, err := s.run(ctx, at, "backup", d.Attempt, q.Progress, r)
	switch {
	case err == nil:
		return b.ID, nil
	case errors.Is(err, backup.ErrBusy):
		return "", fmt.Errorf("%w: %w", schedule.ErrOverlap, err)
	}
	return "", later(err)
}

// outlived waits for the end of the lease for which a further attempt was refused, if it was: who died at the attempt before may have left it, and then a due time isn't
// to be skipped for that. Whoever is alive renews it.
func (s *Service) outlived(ctx context.Context, err error) bool {
	held := (*catalog.HeldError)(nil)
	if !errors.Is(err, backup.ErrBusy) || !errors.As(err, &held) {
		return false
	}
	ttl := s.cfg.LeaseTTL
	if ttl == 0 {
		ttl = backup.DefaultLeaseTTL
	}
	wait := held.Until.Sub(s.now()) // by which clock that is, nobody knows
	return clock.Sleep(ctx, min(max(wait, time.Second), 2*ttl)) == nil
}

// Settle finds out what became of a backup that was begun, as schedule.Job says.
func (s job) Settle(ctx context.Context, p *schedule.Policy, id catalog.ID) (bool, error) {
	// The policy may have been changed since to keep its backups elsewhere: every store is asked.
	for _, at := range s.places {
		b, err := at.runner.Settle(ctx, id)
		if err != nil {
			return false, at.wrap(err)
		}
		if b != nil {
			return true, nil
		}
	}
	return false, nil
}
