package schedule

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/amberkv/amber/catalog"
)

// ErrOverlap is what a Job's error wraps if the data store is being backed up by somebody else: the due time is skipped.
var ErrOverlap = errors.New("a backup of the data store has not ended")

// A Job makes the backups of due times.
type Job interface {
	// Backup makes the backup of a due time and returns when that is ready or has failed. It calls d.Registered before it asks the data store
	// for anything, and ends if that returns an error.
	Backup(ctx context.Context, d Due) (catalog.ID, error)
	// Settle finds out what became of a backup that an attempt of another scheduler, or of this one before it died, had begun: whether it is
	// ready, and if not, it sees to it that it never will be.
	Settle(ctx context.Context, p *Policy, id catalog.ID) (ready bool, err error)
}

// A Due is a backup that is to be made.
type Due struct {
	Policy  *Policy
	Due     time.Time
	Attempt int // 1 is the first
	// Registered records the ID of the backup that was begun, before it can become ready. An error means that another scheduler has taken over.
	Registered func(ctx context.Context, id catalog.ID) error
}

// Config is what a Scheduler works with.
type Config struct {
	Journal Journal          // required
	Leaser  catalog.Leaser   // keeps schedulers apart; required
	Job     Job              // required
	Owner   string           // names this scheduler to others; empty: its host and process ID
	Logger  *slog.Logger     // nil: discard
	Now     func() time.Time // nil: the machine's clock
	Limits  Limits

	// LeaseTTL is how long due times of a scheduler that died wait until another one takes over; 0: 30 seconds; at least 3.
	LeaseTTL time.Duration
	// Poll is how often the Journal is asked for changes that other processes made; 0: a minute. Changes made by Set and Remove of this
	// Scheduler are known at once.
	Poll time.Duration
	// Workers are how many backups are made at a time; 0: 4. Those that find none free wait while their windows last.
	Workers int
	// Grace is how long backups that are being made may go on when Run's context ends; then they are stopped, and their due times are left to others
	// or to a later start. 0: they are stopped at once.
	Grace time.Duration
	// Keep is how long the records of runs are kept; 0: 400 days. The latest of each policy is always kept.
	Keep time.Duration

	// Ended is told what became of a due time, from any goroutine; may be nil.
	Ended func(ctx context.Context, r *Run)
}
