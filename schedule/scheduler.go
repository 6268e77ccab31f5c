package schedule

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/clock"
)

// ErrOverlap is what a Job's error wraps if the data store is being backed up by somebody else: the due time is skipped.
var ErrOverlap = errors.New("a backup of the data store has not ended")

// A LaterError is what a Job's error wraps if the backup may not begin yet, and nothing was asked of the data store: the attempt is made again at that time if the
// window lasts as long, and is no retry of those that Policy.Retries counts. It counts only if Due.Registered wasn't called.
type LaterError struct {
	At  time.Time // when it may begin
	Err error     // why not now
}

// Error tells why the backup may not begin yet.
func (e *LaterError) Error() string { return e.Err.Error() }

// Unwrap returns why the backup may not begin yet.
func (e *LaterError) Unwrap() error { return e.Err }

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

// A Scheduler waits for the due times of policies and has their backups made. It is safe for use by several goroutines. Any number of schedulers, in any
// number of processes, share a Journal and a Leaser.
type Scheduler struct {
	cfg   Config
	log   *slog.Logger
	now   clock.Func
	owner string // differs from that of every other Scheduler: records that are equal were written by the same one
	clock clockWatch

	mu     sync.Mutex
	engine *engine // nil: Run isn't under way
}

// New returns a Scheduler. The error says which field of the configuration is missing or wrong.
func New(cfg Config) (*Scheduler, error) {
	switch {
	case cfg.Journal == nil:
		return nil, errors.New("schedule: Config.Journal is required")
	case cfg.Leaser == nil:
		return nil, errors.New("schedule: Config.Leaser is required")
	case cfg.Job == nil:
		return nil, errors.New("schedule: Config.Job is required")
	case cfg.LeaseTTL != 0 && cfg.LeaseTTL < 3*time.Second:
		return nil, fmt.Errorf("schedule: Config.LeaseTTL is %v, it has to be at least 3s: a lease is renewed every third of it", cfg.LeaseTTL)
	case cfg.Poll != 0 && cfg.Poll < time.Second:
		return nil, fmt.Errorf("schedule: Config.Poll is %v, it has to be at least 1s: each time the policies are listed", cfg.Poll)
	case cfg.Workers < 0:
		return nil, fmt.Errorf("schedule: Config.Workers is negative: %d", cfg.Workers)
	case cfg.Grace < 0:
		return nil, fmt.Errorf("schedule: Config.Grace is negative: %v", cfg.Grace)
	case cfg.Keep < 0:
		return nil, fmt.Errorf("schedule: Config.Keep is negative: %v", cfg.Keep)
	}
	cfg.LeaseTTL = cmp.Or(cfg.LeaseTTL, 30*time.Second)
	cfg.Poll = cmp.Or(cfg.Poll, time.Minute)
	cfg.Workers = cmp.Or(cfg.Workers, 4)
	cfg.Keep = cmp.Or(cfg.Keep, 400*24*time.Hour)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Owner == "" {
		host, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("schedule: Config.Owner is empty, and this host has no name: %w", err)
		}
		cfg.Owner = fmt.Sprintf("%s/%d", host, os.Getpid())
	}
	return &Scheduler{cfg: cfg, log: cfg.Logger, now: clock.Or(cfg.Now), owner: cfg.Owner + "/" + rand.Text()[:6]}, nil
}

// Get returns a policy. The error wraps ErrNotFound or ErrCorrupt.
func (s *Scheduler) Get(ctx context.Context, id string) (*Policy, error) {
	p, _, err := s.cfg.Journal.GetPolicy(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("schedule: policy %.100q: %w", id, err)
	}
	return p, nil
}

// List gives all policies in the order of their IDs. One that can't be read is an error in the sequence that wraps ErrCorrupt, after which
// the sequence goes on.
func (s *Scheduler) List(ctx context.Context) iter.Seq2[*Policy, error] {
	return func(yield func(*Policy, error) bool) {
		for at, err := range s.cfg.Journal.Policies(ctx) {
			if err != nil {
				yield(nil, fmt.Errorf("schedule: policies: %w", err))
				return
			}
			p, err := s.Get(ctx, at.ID)
			if errors.Is(err, ErrNotFound) {
				continue // it was removed meanwhile
			}
			if !yield(p, err) || err != nil && !errors.Is(err, ErrCorrupt) {
				return
			}
		}
	}
}

// Runs gives the runs that q selects, those of the latest due times first, as Journal.Runs does.
func (s *Scheduler) Runs(ctx context.Context, q RunQuery) iter.Seq2[*Run, error] {
	return s.cfg.Journal.Runs(ctx, q)
}
