package amber

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/schedule"
)

// ErrClosed: the Service was closed.
var ErrClosed = errors.New("service is closed")

// closing is the end of a Service.
type closing struct {
	mu     sync.Mutex
	begun  bool
	end    []context.CancelCauseFunc // of what runs until then
	active sync.WaitGroup            // that
	done   chan struct{}             // closed when Close has done its work; nil before that has begun
	err    error                     // what came of it
	left   []io.Closer               // snapshotters that failed and may be at tidying up
}

// Close ends what the Service does of itself: it lets RunSchedules end, with Config.ScheduleGrace for backups that are being made, and waits for that.
// It lets backups of Start that are at work end, too; those that wait for their turn never begin. Then it makes the backups of Config.BackupOnShutdown, so that what data stores held when the host went down is kept, and returns when these are
// ready. It gives up when ctx ends, which cancels backups of Start: the error tells what didn't get done. A second Close waits for the first one and returns the same.
//
// It closes nothing that it was given: stores, catalogs, leasers and the Journal are the host's, and to be closed after this. Calls that are under way
// go on, and all that isn't about running schedules works afterwards as before.
func (s *Service) Close(ctx context.Context) error {
	c := &s.closing
	c.mu.Lock()
	first := c.done == nil
	if first {
		c.done = make(chan struct{})
	}
	c.begun = true
	done, end := c.done, c.end
	c.mu.Unlock()
	if !first {
		select {
		case <-done:
			return c.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	defer close(done)
	s.background.close()
	for _, stop := range end {
		stop(ErrClosed)
	}
	ended := make(chan struct{})
	go func() {
		c.active.Wait()
		close(ended)
	}()
	var errs []error
	select {
	case <-ended:
	case <-ctx.Done():
		errs = append(errs, fmt.Errorf("waiting for schedules to end: %w", context.Cause(ctx)))
	}
	if err := s.background.wait(ctx); err != nil {
		errs = append(errs, err)
	}
	errs = append(errs, s.shutdownBackups(ctx)...)
	c.mu.Lock()
	left := c.left
	c.left = nil
	c.mu.Unlock()
	for _, l := range left {
		s.endTidying(l)
	}
	c.err = errors.Join(errs...)
	return c.err
}

// untilClose returns a context that ends with ctx or when the Service is closed, and what has to be called then.
func (s *Service) untilClose(ctx context.Context) (context.Context, func(), error) {
	c := &s.closing
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.begun {
		return nil, nil, fmt.Errorf("amber: %w", ErrClosed)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	c.end = append(c.end, cancel)
	c.active.Add(1)
	return ctx, func() {
		cancel(nil)
		c.active.Done()
	}, nil
}

// checkShutdown says what is missing or wrong in a request for a backup at the end.
func (s *Service) checkShutdown(q *BackupRequest) error {
	if err := catalog.ValidName(q.DataStore); err != nil {
		return fmt.Errorf("DataStore %.60q: %w", q.DataStore, err)
	}
	if _, err := s.place(q.Store); err != nil {
		return err
	}
	if q.Name != "" {
		if _, err := schedule.ExpandName(q.Name, s.now().UTC()); err != nil {
			return fmt.Errorf("its Name: %w", err)
		}
	}
	if q.From == nil && q.Snapshotter == nil && s.cfg.DataStores != nil {
		return nil
	}
	_, err := s.snapshotter(q)
	return err
}

// shutdownBackups makes the backups that are to be made at the end.
func (s *Service) shutdownBackups(ctx context.Context) []error {
	all := s.cfg.BackupOnShutdown
	errs := make([]error, len(all))
	var group errgroup.Group
	group.SetLimit(s.workers())
	for i := range all {
		group.Go(func() error {
			if errs[i] = s.shutdownBackup(ctx, all[i]); errs[i] != nil {
				errs[i] = fmt.Errorf("backup of %s at the end: %w", all[i].DataStore, errs[i])
			}
			return nil
		})
	}
	_ = group.Wait() // each error is in its place
	return errs
}

func (s *Service) shutdownBackup(ctx context.Context, q BackupRequest) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if q.From == nil && q.Snapshotter == nil {
		how, err := s.request(ctx, q.DataStore)
		if err != nil {
			return err
		}
		q.From, q.Prefer, q.SnapshotOptions, q.Snapshotter = how.From, how.Prefer, how.SnapshotOptions, how.Snapshotter
		q.SourceLimits, q.SyncBudget = cmp.Or(q.SourceLimits, how.SourceLimits), cmp.Or(q.SyncBudget, how.SyncBudget)
		if len(q.Recipients) == 0 {
			q.Recipients = how.Recipients
		}
		if q.Progress == nil {
			q.Progress = how.Progress
		}
		if q.Labels == nil {
			q.Labels = how.Labels
		}
		q.Description = cmp.Or(q.Description, how.Description)
	}
	snapshotter, err := s.snapshotter(&q)
	if err != nil {
		return err
	}
	at, err := s.place(q.Store)
	if err != nil {
		return err
	}
	name := ""
	if q.Name != "" {
		if name, err = schedule.ExpandName(q.Name, s.now().UTC()); err != nil {
			return fmt.Errorf("its Name: %w", err)
		}
	}
	_, err = s.run(ctx, at, "backup", 0, q.Progress, backup.Request{Budget: s.budget(q.SourceLimits, q.SyncBudget), DataStore: q.DataStore, Name: name, Description: q.Description, Labels: q.Labels, Kind: catalog.KindShutdown,
		Snapshotter: snapshotter, Seal: s.seal(q.Recipients), Retain: q.Retain, Parallel: q.Parallel})
	return err
}

// maxLeft is how many snapshotters that failed are kept at most, for what they may have to tidy up.
const maxLeft = 64

// leave keeps what is still at tidying up after a snapshot that failed, until the Service is closed.
func (s *Service) leave(l io.Closer) {
	c := &s.closing
	c.mu.Lock()
	c.left = append(c.left, l)
	var oldest io.Closer
	if len(c.left) > maxLeft {
		oldest, c.left = c.left[0], c.left[1:]
	}
	c.mu.Unlock()
	if oldest != nil {
		s.endTidying(oldest)
	}
}

func (s *Service) endTidying(l io.Closer) {
	if err := l.Close(); err != nil {
		s.cfg.Logger.Warn("something of a snapshot that failed is left", "error", err)
	}
}

// workers are how many backups are made at a time.
func (s *Service) workers() int {
	if s.cfg.Workers == 0 {
		return defaultWorkers
	}
	return s.cfg.Workers
}

// defaultWorkers is how many backups are made at a time where the configuration says nothing.
const defaultWorkers = 4
