package amber

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"time"

	"filippo.io/age"
	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/fetch"
	"github.com/amberkv/amber/backup/govern"
	"github.com/amberkv/amber/backup/replica"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/schedule"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/seal"
)

// Config wires a Service. Only Store is required.
type Config struct {
	// Store keeps the backups that are asked for without a store's name. It stays the caller's. What fails for the moment or hangs is tried again, as package
	// retry says; a *retry.Store, made with a host's own choices, is taken as it is.
	Store storage.Store
	// Stores are further ones, by name.
	Stores []NamedStore
	// Catalog and Leaser know the backups in Store and keep runs apart, those into Stores too. nil: both are kept in Store, so that a copy
	// of it is all that a restore needs. They are set together or not at all.
	Catalog catalog.Catalog
	Leaser  catalog.Leaser
	// Logger gets what an operator may want to know. nil: nothing is logged.
	Logger *slog.Logger
	// TempDir is where a restore holds values that have to be encoded anew and are too large for memory, and a backup what it can't hold otherwise;
	// empty: the system's.
	TempDir string

	// Compression is "zstd" or "none"; empty: "zstd". Level is that of zstd: "fastest", "fast", "better" or "best"; empty: "fastest".
	Compression, Level string
	// Recipients are those who can open backups, each alone; none: backups are not encrypted. Whoever makes backups needs no secret:
	// Identities open what is encrypted, to restore and verify it. See package seal for both.
	Recipients []age.Recipient
	Identities []age.Identity
	// Signer signs the manifests of backups, with an Ed25519 key; nil: they aren't signed. If Trust has any keys, a backup that is signed by none
	// of them is neither restored nor verified: what this Service makes, safety backups too, needs a Signer whose key is among them.
	Signer crypto.Signer
	Trust  []ed25519.PublicKey

	// SourceLimits are what a server may be put to by its backup, as package govern says. The zero value waits for a fork that is running and refuses what can't
	// go well. SyncBudget is how often a data store may be asked for a snapshot, whoever wants it; the zero value is as often as somebody does. Both are those of
	// requests that say nothing else. They hold for every snapshot that is taken of an address: manual, automatic and shutdown backups, and the safety backup of
	// a restore. Of a Snapshotter that the host gives only the budget applies, see BackupRequest.Snapshotter; of a cluster the limits are those of each node.
	SourceLimits govern.Limits
	SyncBudget   backup.Budget

	// Web says what imports by URL may reach. The zero value: https and public addresses.
	Web fetch.Policy

	// Events are told what happens.
	Events Events

	// Journal keeps policies and what became of their due times, for this Service and all others that share it. nil: they are kept in Store, which has to
	// have exclusive creates then; where it doesn't, what has to do with policies is refused, and everything else works.
	Journal schedule.Journal
	// DataStores says how a data store is reached when a policy's backup of it is due, or that of BackupOnShutdown: by From, Prefer and SnapshotOptions, or by a Snapshotter;
	// Description, Labels, Recipients and Progress may be set as well, all else comes from the policy. It is asked for each attempt, so that passwords
	// may change; policies hold none. Its error is that of the attempt. RunSchedules needs it.
	DataStores func(ctx context.Context, dataStore string) (BackupRequest, error)
	// Limits are those of policies. Workers are how many due backups are made at a time; 0: 4. ScheduleGrace is how long these may go on when
	// RunSchedules is to end; 0: they are stopped at once, and their due times are left to others or to a later start.
	Limits        schedule.Limits
	Workers       int
	ScheduleGrace time.Duration
	// SchedulePoll is how often the Journal is asked for policies that were changed elsewhere, while schedules run; 0: a minute. Those that
	// this Service changes it knows at once.
	SchedulePoll time.Duration
	// TidyEvery is how often retention and a sweep are run while schedules run, by one Service of those that share a Leaser; 0: an hour.
	TidyEvery time.Duration
	// Background is how many backups of Start are made at a time; 0: 4.
	Background int
	// BackupOnShutdown are the backups that Close makes, of kind "shutdown". Where neither From nor Snapshotter is set DataStores is asked. A Name may have in it
	// what schedule.ExpandName replaces, by UTC; if it is taken the backup gets a number behind it.
	BackupOnShutdown []BackupRequest

	// LeaseTTL is how long a run that died keeps others from its data store; 0: backup.DefaultLeaseTTL.
	LeaseTTL time.Duration
	// Now tells the time. nil: the machine's clock.
	Now func() time.Time
}

// A Service is the Backups page of a managed service, as calls. It is safe for use by several goroutines, and any number of
// processes may have one over the same stores.
type Service struct {
	cfg       Config
	places    []*place // the first is that of Config.Store
	now       clock.Func
	schedules schedules
	closing   closing

	background *background // what Start has begun
}

// New returns a Service. It touches nothing. The error says which field of the configuration is missing or wrong.
func New(cfg Config) (*Service, error) {
	if cfg.Store == nil {
		return nil, errors.New("amber: Config.Store is required")
	}
	if (cfg.Catalog == nil) != (cfg.Leaser == nil) {
		return nil, errors.New("amber: Config.Catalog and Config.Leaser are set together or not at all")
	}
	if _, err := cfg.Web.Client(); err != nil {
		return nil, fmt.Errorf("amber: Config.Web: %w", err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Background < 0 {
		return nil, fmt.Errorf("amber: Config.Background is negative: %d", cfg.Background)
	}
	s := &Service{cfg: cfg, now: clock.Or(cfg.Now), background: newBackground(cmp.Or(cfg.Background, defaultBackground))}
	if err := s.addPlace(NamedStore{Store: cfg.Store, Catalog: cfg.Catalog}); err != nil {
		return nil, err
	}
	for _, n := range cfg.Stores {
		if err := s.addPlace(n); err != nil {
			return nil, err
		}
	}
	if err := s.checkSources(); err != nil {
		return nil, err
	}
	if err := s.addSchedules(); err != nil {
		return nil, err
	}
	return s, nil
}

// A BackupRequest says what to back up.
type BackupRequest struct {
	DataStore   string            // the host's ID of the data store: letters, digits, "-", "_", "."; required
	Name        string            // what a person calls the backup: the same characters, a letter first, and no other backup of the data store has it; may be empty
	Description string            // at most 1000 bytes
	Labels      map[string]string // the host's own, as catalog.ValidLabels says

	// From is the server, any node of a cluster, or a Sentinel: its address, credentials, TLS and dialer are used, its pool is not. A host that has a
	// *redis.Client gives client.Options(). Either From or Snapshotter is required.
	From *redis.Options
	// Prefer says which node of the server's group sends the snapshot. The zero value prefers a replica.
	Prefer replica.Prefer
	// SnapshotOptions say how the snapshot is taken. The zero value finds that out.
	SnapshotOptions
	// Snapshotter takes the snapshot in another way. How its source is reached only it knows, so that nobody looks at that source before, or watches
	// it: of what spares a source the SyncBudget applies to it, and SourceLimits don't. A host that wants them makes it one of package govern, with the Options of
	// the server.
	Snapshotter backup.Snapshotter

	// SourceLimits and SyncBudget are those of this backup; nil: those of the Config. The name govern.Budget among what the limits ignore lifts the budget.
	SourceLimits *govern.Limits
	SyncBudget   *backup.Budget

	Store string // the name of one of Config.Stores; empty: Config.Store
	// Recipients are those who can open this backup; none: those of the Config.
	Recipients []age.Recipient

	// Retain is how long the backup is kept, from its beginning; then Prune deletes it, unless it is the newest ready one of its data
	// store. 0: it is kept for ever.
	Retain time.Duration

	// Progress is called about five times a second, from one goroutine at a time. It may be nil.
	Progress func(Progress)
}

// Backup takes a snapshot and keeps it. It blocks until the backup is ready, which is when it returns nil, or failed;
// cancelling ctx ends it within a second. Start does the same in the background. See backup.Runner.Run for what the errors wrap.
func (s *Service) Backup(ctx context.Context, q BackupRequest) (*catalog.Backup, error) {
	do, err := s.prepare(&q)
	if err != nil {
		return nil, err
	}
	return do(ctx, nil)
}

// prepare returns what makes a backup, or what is wrong with the request. registered is told the backup's ID; it may be nil.
func (s *Service) prepare(q *BackupRequest) (do func(ctx context.Context, registered func(catalog.ID)) (*catalog.Backup, error), err error) {
	snapshotter, err := s.snapshotter(q)
	if err != nil {
		return nil, err
	}
	at, err := s.place(q.Store)
	if err != nil {
		return nil, err
	}
	request := backup.Request{Budget: s.budget(q.SourceLimits, q.SyncBudget), DataStore: q.DataStore, Name: q.Name, Description: q.Description, Labels: q.Labels,
		Snapshotter: snapshotter, Seal: s.seal(q.Recipients), Retain: q.Retain, Parallel: q.Parallel}
	if err := request.Validate(); err != nil {
		return nil, err
	}
	progress := q.Progress
	return func(ctx context.Context, registered func(catalog.ID)) (*catalog.Backup, error) {
		if registered != nil {
			request.Registered = func(_ context.Context, id catalog.ID) error {
				registered(id)
				return nil
			}
		}
		return s.run(ctx, at, "backup", 0, progress, request)
	}, nil
}

// snapshotter returns what takes the snapshot that is asked for.
func (s *Service) snapshotter(q *BackupRequest) (backup.Snapshotter, error) {
	switch {
	case q.From == nil && q.Snapshotter == nil:
		return nil, errors.New("amber: BackupRequest.From or BackupRequest.Snapshotter is required")
	case q.From != nil && q.Snapshotter != nil:
		return nil, errors.New("amber: BackupRequest.From and BackupRequest.Snapshotter exclude each other")
	case q.Snapshotter != nil && q.Method != SnapshotAuto:
		return nil, errors.New("amber: BackupRequest.Method and BackupRequest.Snapshotter exclude each other")
	case q.Snapshotter != nil:
		return q.Snapshotter, nil
	}
	return newTaker("BackupRequest", taker{from: q.From, prefer: q.Prefer, options: q.SnapshotOptions, tempDir: s.cfg.TempDir, log: s.cfg.Logger, now: s.cfg.Now,
		limits: s.limits(q.SourceLimits), lasted: s.lasted(q.DataStore, q.Store), leave: s.leave})
}

// run makes a backup in a store, whatever it is made of, and tells of it. attempt is that of an automatic backup.
func (s *Service) run(ctx context.Context, at *place, operation string, attempt int, progress func(Progress), q backup.Request) (*catalog.Backup, error) {
	q.Kind = cmp.Or(q.Kind, catalog.KindManual)
	for _, other := range s.places {
		if other != at {
			q.Others = append(q.Others, other.Catalog)
		}
	}
	watch := s.watch(ctx, Event{Operation: operation, DataStore: q.DataStore, Kind: q.Kind, Store: at.Name, Policy: q.Policy, DueTime: q.DueTime, Attempt: attempt}, progress)
	registered := q.Registered
	q.Progress = watch.backup
	q.Registered = func(ctx context.Context, id catalog.ID) error {
		watch.registered(id)
		if registered == nil {
			return nil
		}
		return registered(ctx, id)
	}
	watch.begin()
	b, err := at.runner.Run(ctx, q)
	if attempt > 1 && s.outlived(ctx, err) {
		b, err = at.runner.Run(ctx, q)
	}
	if err != nil {
		watch.end(0, 0, err)
		return nil, err
	}
	s.cfg.Logger.InfoContext(ctx, operation+" is ready", "dataStore", b.DataStore, "backup", b.ID, "kind", b.Kind, "keys", b.Keys,
		"bytes", b.StoredBytes, "duration", b.Timings.Total)
	watch.end(b.Keys, b.StoredBytes, nil)
	return b, nil
}

// seal says how a backup for these recipients is sealed; none: for those of the Config.
func (s *Service) seal(recipients []age.Recipient) *seal.Options {
	if len(recipients) == 0 {
		recipients = s.cfg.Recipients
	}
	return &seal.Options{Compression: s.cfg.Compression, Level: s.cfg.Level, Recipients: recipients}
}

// List gives the backups of all stores that q selects, newest first; the zero Query selects all that are ready. A manifest that can't
// be read is an error in the sequence that wraps catalog.ErrCorrupt, after which the sequence goes on. A backup that was copied to another store
// is listed once for each.
func (s *Service) List(ctx context.Context, q catalog.Query) iter.Seq2[*catalog.Backup, error] {
	return func(yield func(*catalog.Backup, error) bool) {
		for f, err := range s.ListAll(ctx, q) {
			if !yield(f.Backup, err) {
				return
			}
		}
	}
}

// Get returns the manifest of a backup in any state, of copies in several stores that of one that is ready before others. The error
// wraps catalog.ErrNotFound or catalog.ErrCorrupt; others are those of a store that can't be asked, if no other has the backup.
func (s *Service) Get(ctx context.Context, id catalog.ID) (*catalog.Backup, error) {
	c := s.get(ctx, id)
	return c.b, c.err
}

func (s *Service) get(ctx context.Context, id catalog.ID) kept {
	var found kept
	var errs []error
	for c := range s.copies(ctx, id) {
		switch {
		case c.err != nil:
			errs = append(errs, c.err)
		case c.b.State == catalog.StateReady:
			return c
		case found.b == nil:
			found = c
		}
	}
	switch {
	case found.b != nil:
		return found
	case len(errs) == 0:
		return kept{err: noBackup(id)}
	}
	return kept{err: errors.Join(errs...)}
}

// Verify proves a backup from the stores alone, as a restore would before it touches its target: each copy that is ready. It returns
// what was found of the first, and an error if one of them doesn't verify or a store can't be asked. progress may be nil.
// See restore.Restorer.Verify for what the errors wrap.
func (s *Service) Verify(ctx context.Context, id catalog.ID, progress func(Progress)) (*restore.Verification, error) {
	watch := s.watch(ctx, Event{Operation: "verify", Backup: id}, progress)
	v, err := s.verify(ctx, id, watch)
	if err != nil {
		watch.end(0, 0, err)
		return nil, err
	}
	watch.end(v.Keys, v.StoredBytes, nil)
	return v, nil
}

func (s *Service) verify(ctx context.Context, id catalog.ID, watch *watch) (*restore.Verification, error) {
	var first *restore.Verification
	var errs []error
	var unready *catalog.Backup
	for c := range s.copies(ctx, id) {
		v, err := (*restore.Verification)(nil), c.err
		switch {
		case err != nil:
		case c.b.State != catalog.StateReady:
			unready = c.b
		default:
			watch.about(c.at, c.b)
			v, err = c.at.restorer.Verify(ctx, id, watch.restore)
			err = c.at.wrap(err)
		}
		if err != nil {
			errs = append(errs, err)
		}
		if first == nil {
			first = v
		}
	}
	switch {
	case len(errs) > 0:
		return nil, errors.Join(errs...)
	case first != nil:
		return first, nil
	case unready != nil:
		return nil, notReady(unready)
	}
	return nil, noBackup(id)
}

// Delete removes a backup for good, from every store that has it. See backup.Runner.Delete.
func (s *Service) Delete(ctx context.Context, id catalog.ID) error {
	var errs, missing []error
	for _, at := range s.places {
		switch err := at.runner.Delete(ctx, id); {
		case errors.Is(err, catalog.ErrNotFound):
			missing = append(missing, err)
		case err != nil:
			errs = append(errs, at.wrap(err))
		}
	}
	if len(missing) == len(s.places) {
		return missing[0]
	}
	return errors.Join(errs...)
}

// Sweep removes what killed, failed and cancelled runs left in the stores, and what deletions did. grace is how long the records
// of runs that came to nothing stay; 0 means a day. See backup.Runner.Sweep.
func (s *Service) Sweep(ctx context.Context, grace time.Duration) (backup.SweepReport, error) {
	var all backup.SweepReport
	var errs []error
	for _, at := range s.places {
		rep, err := at.runner.Sweep(ctx, grace)
		all.Add(rep)
		if err != nil {
			errs = append(errs, at.wrap(err))
		}
	}
	s.tellSwept(ctx, all)
	return all, errors.Join(errs...)
}
