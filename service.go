package amber

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/replica"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/storecatalog"
	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/storage"
)

// Config wires a Service. Only Store is required.
type Config struct {
	// Store keeps the backups. It stays the caller's.
	Store storage.Store
	// Catalog and Leaser know the backups and keep runs apart. nil: both are kept in Store, so that a copy of it is
	// all that a restore needs. They are set together or not at all.
	Catalog catalog.Catalog
	Leaser  catalog.Leaser
	// Logger gets what an operator may want to know. nil: nothing is logged.
	Logger *slog.Logger
	// TempDir is where a restore holds values that have to be encoded anew and are too large for memory; empty: the system's.
	TempDir string
	// LeaseTTL is how long a run that died keeps others from its data store; 0: backup.DefaultLeaseTTL.
	LeaseTTL time.Duration
	// Now tells the time. nil: the machine's clock.
	Now func() time.Time
}

// A Service is the Backups page of a managed service, as calls. It is safe for use by several goroutines, and any number of
// processes may have one over the same store.
type Service struct {
	cfg      Config
	runner   *backup.Runner
	restorer *restore.Restorer
	now      clock.Func
}

// New returns a Service. It touches nothing. The error says which field of the configuration is missing or wrong.
func New(cfg Config) (*Service, error) {
	if cfg.Store == nil {
		return nil, errors.New("amber: Config.Store is required")
	}
	if (cfg.Catalog == nil) != (cfg.Leaser == nil) {
		return nil, errors.New("amber: Config.Catalog and Config.Leaser are set together or not at all")
	}
	if cfg.Catalog == nil {
		c, err := storecatalog.New(storecatalog.Config{Store: cfg.Store, Now: cfg.Now})
		if err != nil {
			return nil, err
		}
		cfg.Catalog, cfg.Leaser = c, c
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	runner, err := backup.NewRunner(backup.Config{Store: cfg.Store, Catalog: cfg.Catalog, Leaser: cfg.Leaser,
		Logger: cfg.Logger, Now: cfg.Now, LeaseTTL: cfg.LeaseTTL})
	if err != nil {
		return nil, err
	}
	restorer, err := restore.New(restore.Config{Store: cfg.Store, Catalog: cfg.Catalog, Logger: cfg.Logger, Now: cfg.Now, TempDir: cfg.TempDir})
	if err != nil {
		return nil, err
	}
	return &Service{cfg: cfg, runner: runner, restorer: restorer, now: clock.Or(cfg.Now)}, nil
}

// A BackupRequest says what to back up.
type BackupRequest struct {
	DataStore   string // the host's ID of the data store: letters, digits, "-", "_", "."; required
	Name        string // what a person calls the backup, of the same characters; may be empty
	Description string // at most 1000 bytes

	// From is the server: its address, credentials, TLS and dialer are used, its pool is not. A host that has a
	// *redis.Client gives client.Options(). Either From or Snapshotter is required.
	From *redis.Options
	// Prefer says which node of the server's group sends the snapshot. The zero value prefers a replica.
	Prefer replica.Prefer
	// Snapshotter takes the snapshot in another way.
	Snapshotter backup.Snapshotter

	// Progress is called about five times a second, from one goroutine at a time. It may be nil.
	Progress func(Progress)
}

// Backup takes a snapshot and keeps it. It blocks until the backup is ready, which is when it returns nil, or failed;
// cancelling ctx ends it within a second. See backup.Runner.Run for what the errors wrap.
func (s *Service) Backup(ctx context.Context, q BackupRequest) (*catalog.Backup, error) {
	switch {
	case q.From == nil && q.Snapshotter == nil:
		return nil, errors.New("amber: BackupRequest.From or BackupRequest.Snapshotter is required")
	case q.From != nil && q.Snapshotter != nil:
		return nil, errors.New("amber: BackupRequest.From and BackupRequest.Snapshotter exclude each other")
	}
	if q.Snapshotter == nil {
		var err error
		if q.Snapshotter, err = replica.New(replica.Config{Options: q.From, Prefer: q.Prefer, Logger: s.cfg.Logger}); err != nil {
			return nil, err
		}
	}
	watch := s.watch("backup", q.Progress)
	b, err := s.runner.Run(ctx, backup.Request{DataStore: q.DataStore, Name: q.Name, Description: q.Description,
		Snapshotter: q.Snapshotter, Progress: watch.backup})
	if err != nil {
		return nil, err
	}
	s.cfg.Logger.InfoContext(ctx, "backup is ready", "dataStore", b.DataStore, "backup", b.ID, "keys", b.Keys,
		"bytes", b.StoredBytes, "duration", b.Timings.Total)
	return b, nil
}

// List gives the backups that q selects, newest first; the zero Query selects all that are ready. A manifest that can't
// be read is an error in the sequence that wraps catalog.ErrCorrupt, after which the sequence goes on.
func (s *Service) List(ctx context.Context, q catalog.Query) iter.Seq2[*catalog.Backup, error] {
	return s.cfg.Catalog.List(ctx, q)
}

// Get returns the manifest of a backup in any state. The error wraps catalog.ErrNotFound or catalog.ErrCorrupt.
func (s *Service) Get(ctx context.Context, id catalog.ID) (*catalog.Backup, error) {
	b, _, err := s.cfg.Catalog.Get(ctx, id)
	return b, err
}

// Verify proves a backup from the store alone, as a restore would before it touches its target. progress may be nil.
// See restore.Restorer.Verify for what the errors wrap.
func (s *Service) Verify(ctx context.Context, id catalog.ID, progress func(Progress)) (*restore.Verification, error) {
	return s.restorer.Verify(ctx, id, s.watch("verify", progress).restore)
}

// Delete removes a backup for good. See backup.Runner.Delete.
func (s *Service) Delete(ctx context.Context, id catalog.ID) error {
	return s.runner.Delete(ctx, id)
}

// Sweep removes what killed, failed and cancelled runs left in the store. grace is how long their records stay; 0 means a
// day. See backup.Runner.Sweep.
func (s *Service) Sweep(ctx context.Context, grace time.Duration) (backup.SweepReport, error) {
	return s.runner.Sweep(ctx, grace)
}
