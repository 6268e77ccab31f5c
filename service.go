package amber

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
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
	"github.com/amberkv/amber/restore/feed"
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
	restorer, err := restore.New(restore.Config{Store: cfg.Store, Catalog: cfg.Catalog, Logger: cfg.Logger, Now: cfg.Now})
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

// A RestoreRequest says which backup goes where.
type RestoreRequest struct {
	Backup catalog.ID // required

	// To is the server that takes the data. Either To or Loader is required. The target connects back to Amber, see
	// package feed: Listen, Advertise and TLS say how, and may be left empty where it can reach the address that
	// Amber's connection to it comes from.
	To        *redis.Options
	Listen    string      // host:port to listen on; empty: any port of all interfaces
	Advertise string      // host or host:port under which the target reaches Amber; empty: found out
	TLS       *tls.Config // for a target that replicates over TLS
	// Loader puts the data into the target in another way.
	Loader restore.Loader

	// Conflict says what becomes of data that the target holds. Without it a target with data is refused.
	Conflict restore.Conflict
	// Progress is called about five times a second, from one goroutine at a time. It may be nil.
	Progress func(Progress)
}

// Restore proves a backup and puts it into a target. It returns nil only if the target holds exactly what the backup does.
// See restore.Restorer.Restore for what the errors wrap.
func (s *Service) Restore(ctx context.Context, q RestoreRequest) (*restore.Report, error) {
	switch {
	case q.Backup == "":
		return nil, errors.New("amber: RestoreRequest.Backup is required")
	case q.To == nil && q.Loader == nil:
		return nil, errors.New("amber: RestoreRequest.To or RestoreRequest.Loader is required")
	case q.To != nil && q.Loader != nil:
		return nil, errors.New("amber: RestoreRequest.To and RestoreRequest.Loader exclude each other")
	}
	if q.Loader == nil {
		var err error
		q.Loader, err = feed.New(feed.Config{Options: q.To, Listen: q.Listen, Advertise: q.Advertise, TLS: q.TLS, Logger: s.cfg.Logger})
		if err != nil {
			return nil, err
		}
	}
	rep, err := s.restorer.Restore(ctx, q.Backup, q.Loader, &restore.Options{Conflict: q.Conflict, Progress: s.watch("restore", q.Progress).restore})
	if err != nil {
		return nil, fmt.Errorf("restore of %s: %w", q.Backup, err)
	}
	s.cfg.Logger.InfoContext(ctx, "backup is restored", "backup", q.Backup, "target", rep.Target, "keys", rep.Keys, "duration", rep.Load)
	return rep, nil
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
