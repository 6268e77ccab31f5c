package backup

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/internal/crashpoint"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/seal"
)

// DefaultLeaseTTL is how long a run that died keeps others from backing up its data store.
const DefaultLeaseTTL = 30 * time.Second

// A run that has ended takes back what it stored, if it failed, and gives its lease back. tidyTime is how long each may take when the caller has gone, and
// patience while he waits, since others would have to wait much longer for a lease that ends by itself. What isn't managed is left to Sweep.
const (
	tidyTime = 800 * time.Millisecond
	patience = 10 * time.Second
)

// Errors of a run. They wrap their cause.
var (
	// ErrBusy: another run is at work on the data store; then it also wraps a *catalog.HeldError, which says who and until when. Or a backup that
	// is to be deleted is being read.
	ErrBusy = errors.New("data store is being backed up already")
	// ErrSource: the source failed or ended the snapshot early. The store is well.
	ErrSource = errors.New("source failed")
	// ErrNotSound: the source sent something that is no sound snapshot. Try again; if it stays, check the source.
	ErrNotSound = errors.New("source sent a snapshot that does not verify")
	// ErrStore: the store failed, or gave back something else than it was given.
	ErrStore = errors.New("store failed")
)

// Config is what a Runner works with.
type Config struct {
	Store    storage.Store    // takes the parts; required
	Catalog  catalog.Catalog  // takes the manifests; required
	Leaser   catalog.Leaser   // keeps runs of one data store apart; required
	Logger   *slog.Logger     // nil: discard
	Now      func() time.Time // nil: the machine's clock
	LeaseTTL time.Duration    // 0: DefaultLeaseTTL; at least 3 seconds
	Seal     seal.Options     // how parts are compressed, and who can open them if they are to be encrypted
	Signer   crypto.Signer    // signs the manifests, with an Ed25519 key; nil: they aren't signed. See catalog.Sign

	// Trust are further keys whose signatures the Signer may replace by its own: see Runner.Edit.
	Trust []ed25519.PublicKey
}

// A Runner turns snapshots into backups. It is safe for use by several goroutines.
type Runner struct {
	cfg Config
	log *slog.Logger
	now clock.Func
}

// NewRunner returns a Runner. The error says which field of the configuration is missing or wrong.
func NewRunner(cfg Config) (*Runner, error) {
	switch {
	case cfg.Store == nil:
		return nil, errors.New("backup: Config.Store is required")
	case cfg.Catalog == nil:
		return nil, errors.New("backup: Config.Catalog is required")
	case cfg.Leaser == nil:
		return nil, errors.New("backup: Config.Leaser is required")
	case cfg.LeaseTTL != 0 && cfg.LeaseTTL < 3*time.Second:
		return nil, fmt.Errorf("backup: Config.LeaseTTL is %v, it has to be at least 3s: a lease is renewed every third of it", cfg.LeaseTTL)
	}
	if err := cfg.Seal.Validate(); err != nil {
		return nil, fmt.Errorf("backup: Config.Seal: %w", err)
	}
	if cfg.Signer != nil {
		if _, ok := cfg.Signer.Public().(ed25519.PublicKey); !ok {
			return nil, fmt.Errorf("backup: Config.Signer has a %T, it has to be an Ed25519 key", cfg.Signer.Public())
		}
	}
	if cfg.LeaseTTL == 0 {
		cfg.LeaseTTL = DefaultLeaseTTL
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Runner{cfg: cfg, log: cfg.Logger, now: clock.Or(cfg.Now)}, nil
}

// A Request says what to back up.
type Request struct {
	DataStore   string        // the host's ID of the data store, as catalog.ValidName says; required
	Snapshotter Snapshotter   // takes the snapshot; required
	Name        string        // what a person calls the backup, as catalog.ValidBackupName says, and no other backup of the data store; or empty
	Description string        // at most 1000 bytes
	Kind        catalog.Kind  // empty: catalog.KindManual
	Retain      time.Duration // after which retention may delete the backup; 0: it is kept for ever, or as long as its policy says
	Policy      string        // the ID of the policy that the backup is made by, as catalog.ValidName says; or empty
	DueTime     time.Time     // that the policy gave
	Labels      map[string]string
	Others      []catalog.Catalog // of other stores, in which no backup of the data store may have the name either
	Seal        *seal.Options     // nil: that of the Config
	Parallel    int               // how many parts of the snapshot are read at a time; 0: DefaultParallel
	Budget      Budget            // how often the data store may be asked for a snapshot; zero: as often as somebody wants
	Progress    func(Progress)    // called about five times a second, from one goroutine at a time; may be nil

	// Registered is called when the catalog knows the run and before the source is asked for anything, from one goroutine; may be nil. If it returns an
	// error the run fails with that.
	Registered func(ctx context.Context, id catalog.ID) error
}

// Validate says which field is missing or wrong, as Run does before it begins.
func (q *Request) Validate() error {
	if err := catalog.ValidName(q.DataStore); err != nil {
		return fmt.Errorf("backup: Request.DataStore %q: %w", q.DataStore, err)
	}
	if q.Name != "" {
		if err := catalog.ValidBackupName(q.Name); err != nil {
			return fmt.Errorf("backup: Request.Name %.110q: %w", q.Name, err)
		}
	}
	if q.Snapshotter == nil {
		return errors.New("backup: Request.Snapshotter is required")
	}
	if len(q.Description) > 1000 {
		return fmt.Errorf("backup: Request.Description has %d bytes, the limit is 1000", len(q.Description))
	}
	if q.Parallel < 0 {
		return fmt.Errorf("backup: Request.Parallel is negative: %d", q.Parallel)
	}
	if err := q.Budget.Validate(); err != nil {
		return fmt.Errorf("backup: Request.Budget: %w", err)
	}
	if q.Retain < 0 {
		return fmt.Errorf("backup: Request.Retain is negative: %v", q.Retain)
	}
	if q.Policy != "" {
		if err := catalog.ValidName(q.Policy); err != nil {
			return fmt.Errorf("backup: Request.Policy %.40q: %w", q.Policy, err)
		}
	}
	if err := catalog.ValidLabels(q.Labels); err != nil {
		return fmt.Errorf("backup: Request.Labels: %w", err)
	}
	if q.Seal != nil {
		if err := q.Seal.Validate(); err != nil {
			return fmt.Errorf("backup: Request.Seal: %w", err)
		}
	}
	return nil
}

// Run takes a snapshot and makes it a backup. It returns nil exactly when the backup is ready: every part was committed, parsed to
// its end with its checksum right, read back with its hash equal, and the manifest was written after all that.
//
// The error wraps ErrNameTaken if another backup of the data store has the name; one of kind automatic or shutdown gets "-2" or so behind its name then.
//
// One data store has one run at a time, over any number of processes: while another is at work the error wraps ErrBusy. A
// run that was killed blocks the next for at most the lease time; one that was paused past it can't publish any more.
//
// A run that Request.Budget doesn't allow is refused before anything is asked of the source or recorded: the error wraps ErrBudget and a *BudgetError.
//
// When Run fails or ctx is cancelled nothing is listed as ready. It then takes back what it stored: within a second of ctx's end, or while
// that lasts within 10 seconds of a failure, and as long again for its lease. What it doesn't manage is left to Sweep.
func (r *Runner) Run(ctx context.Context, q Request) (*catalog.Backup, error) {
	if err := q.Validate(); err != nil {
		return nil, err
	}
	if q.Kind == "" {
		q.Kind = catalog.KindManual
	}
	if q.Seal == nil {
		q.Seal = &r.cfg.Seal
	}
	if q.Parallel == 0 {
		q.Parallel = DefaultParallel
	}
	n := &run{Runner: r, q: q, start: r.now()}
	b, err := n.leased(ctx, leaseName(q.DataStore), n.do)
	if err != nil {
		return nil, fmt.Errorf("backup of %s: %w", q.DataStore, err)
	}
	n.done(b.RawBytes)
	return b, nil
}

// leased does something of which a backup comes while it holds a lease, and takes back what was done if that fails.
func (n *run) leased(ctx context.Context, name string, do func(ctx context.Context) error) (*catalog.Backup, error) {
	lease, err := n.acquire(ctx, n.q.DataStore, name)
	if err != nil {
		return nil, err
	}
	n.lease = lease
	caller := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := n.keep(ctx, lease, cancel)
	tell := clock.Every(progressInterval, func() { n.meter.tell(n.q.Progress) })
	err = do(ctx)
	tell()
	stop()
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
			err = fmt.Errorf("%w: %w", cause, err)
		}
		if n.undo(caller, err) {
			err = nil
		}
	}
	release, done := clock.Outlive(caller, patience, tidyTime)
	defer done()
	if rerr := lease.Release(release); rerr != nil {
		// The backup is what it is; the lease ends by itself.
		n.log.WarnContext(ctx, "lease was not released", "dataStore", n.q.DataStore, "error", rerr)
	}
	if err != nil {
		return nil, err
	}
	return n.b, nil
}

// done tells of the end.
func (n *run) done(bytes int64) {
	n.meter.stage(StageDone, bytes)
	n.meter.bytes.Store(bytes)
	n.meter.tell(n.q.Progress)
}

func leaseName(dataStore string) string { return "backup-" + dataStore }

// heldPauses are waited for before a lease that is held is taken for one that stays so: a sweep holds it for a moment when a backup has just ended.
var heldPauses = []time.Duration{50 * time.Millisecond, 150 * time.Millisecond, 300 * time.Millisecond, 500 * time.Millisecond}

// acquire takes a lease of a data store. While somebody else is at work, the error wraps ErrBusy.
func (r *Runner) acquire(ctx context.Context, dataStore, name string) (catalog.Lease, error) {
	for i := 0; ; i++ {
		lease, err := r.cfg.Leaser.Acquire(ctx, name, r.cfg.LeaseTTL)
		switch {
		case err == nil:
			return lease, nil
		case !errors.Is(err, catalog.ErrHeld):
			return nil, fmt.Errorf("taking the lease of data store %s: %w", dataStore, err)
		case i == len(heldPauses) || clock.Sleep(ctx, heldPauses[i]) != nil:
			return nil, fmt.Errorf("%w: %w", ErrBusy, err)
		}
	}
}

// leaseOf is the lease that who is at work on a backup holds.
func leaseOf(b *catalog.Backup) string {
	if b.Kind == catalog.KindCopy {
		return "copy-" + b.DataStore
	}
	return leaseName(b.DataStore)
}

// Alone does something while neither a run nor a copy of a data store is at work, and keeps others from beginning one. While one is, the error wraps
// ErrBusy, and nothing was done.
func (r *Runner) Alone(ctx context.Context, dataStore string, do func(ctx context.Context) error) error {
	caller := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	for _, name := range []string{leaseName(dataStore), "copy-" + dataStore} {
		lease, err := r.acquire(ctx, dataStore, name)
		if err != nil {
			return err
		}
		stop := r.keep(ctx, lease, cancel)
		defer func() {
			stop()
			release, done := clock.Outlive(caller, patience, tidyTime/2)
			defer done()
			if err := lease.Release(release); err != nil {
				r.log.WarnContext(ctx, "lease was not released, it ends by itself", "dataStore", dataStore, "error", err)
			}
		}()
	}
	err := do(ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

// keep renews the lease until stop is called. When the lease is lost, or can't be renewed while it lasts, it cancels the run.
func (r *Runner) keep(ctx context.Context, lease catalog.Lease, cancel context.CancelCauseFunc) (stop func()) {
	renewed := r.now()
	ctx, end := context.WithCancel(ctx)
	every := clock.Every(r.cfg.LeaseTTL/3, func() {
		err := lease.Renew(ctx)
		switch {
		case err == nil:
			renewed = r.now()
		case ctx.Err() != nil:
		case errors.Is(err, catalog.ErrLeaseLost):
			cancel(err)
		case r.now().Sub(renewed) >= r.cfg.LeaseTTL:
			cancel(fmt.Errorf("%w: it could not be renewed for %v: %w", catalog.ErrLeaseLost, r.now().Sub(renewed), err))
		}
	})
	return func() {
		end() // a renewal under way ends at once
		every()
	}
}

// run is one call of Run.
type run struct {
	*Runner
	q     Request
	lease catalog.Lease
	start time.Time
	meter meter

	b         *catalog.Backup
	rev       catalog.Revision // of b in the catalog; empty before it is registered
	chunks    int              // that each part which is read has for its memory
	published bool             // writing the manifest was begun: it may be there
	asked     bool             // the source was asked for a snapshot

	mu        sync.Mutex // parts are read at a time
	committed []string   // keys of the parts that may be in the store
}

func (n *run) do(ctx context.Context) error {
	crashpoint.Hit(crashpoint.BackupLeased)
	n.meter.stage(StageConnect, 0)
	if err := n.afford(ctx); err != nil {
		return err
	}
	if err := n.register(ctx); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.BackupRegistered)
	if n.q.Registered != nil {
		if err := n.q.Registered(ctx, n.b.ID); err != nil {
			return err
		}
	}

	n.asked = true
	snap, err := n.q.Snapshotter.Snapshot(ctx)
	if err != nil {
		n.asked = !errors.Is(err, ErrSpared) || errors.Is(err, ErrBegun)
		return fmt.Errorf("%w: %w", ErrSource, err)
	}
	defer snap.Close()
	n.b.Source = snap.Source()
	crashpoint.Hit(crashpoint.BackupSnapshot)

	if err := n.transfer(ctx, snap); err != nil {
		return err
	}
	if err := snap.Close(); err != nil {
		n.log.WarnContext(ctx, "closing the snapshot", "dataStore", n.q.DataStore, "error", err)
	}
	if err := n.readBack(ctx); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.BackupReadBack)
	if err := n.publish(ctx); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.BackupPublished)
	return nil
}

// register makes the run known to the catalog, and runs of this data store that died before unable to publish: whoever of
// them still sleeps finds its record changed. Only the holder of the lease does this, and only after its own record is there does
// it ask once more whether the lease is still its own; so either a later holder sees this record, or this run stops.
func (n *run) register(ctx context.Context) error {
	earlier := catalog.Query{DataStore: n.q.DataStore, States: []catalog.State{catalog.StateRunning}}
	if n.q.Name != "" {
		earlier.States = append(earlier.States, catalog.StateReady)
	}
	taken := names{}
	for b, err := range n.cfg.Catalog.List(ctx, earlier) {
		if errors.Is(err, catalog.ErrCorrupt) {
			n.log.WarnContext(ctx, "a manifest can't be read", "dataStore", n.q.DataStore, "error", err)
			continue
		}
		if err != nil {
			return fmt.Errorf("%w: looking for earlier runs: %w", ErrStore, err)
		}
		if b.State == catalog.StateReady || b.Kind == catalog.KindCopy { // a copy has a lease of its own, and may be at work
			taken.add(b)
			continue
		}
		if err := n.interrupt(ctx, b.ID); err != nil {
			return err
		}
	}
	name, err := n.chooseName(ctx, taken)
	if err != nil {
		return err
	}
	n.b = &catalog.Backup{
		Format: catalog.Format, ID: catalog.NewID(n.start), DataStore: n.q.DataStore, Name: name,
		Description: n.q.Description, Kind: n.q.Kind, State: catalog.StateRunning, CreatedAt: n.start.UTC(), Token: n.lease.Token(),
		Recipients: seal.Names(n.q.Seal.Recipients), Policy: n.q.Policy, DueTime: n.q.DueTime.UTC(), Labels: maps.Clone(n.q.Labels),
	}
	if n.q.Retain > 0 {
		n.b.DeleteAfter = n.b.CreatedAt.Add(n.q.Retain)
	}
	return n.claim(ctx)
}

// claim makes the catalog know what is at work.
func (n *run) claim(ctx context.Context) error {
	rev, err := n.cfg.Catalog.Put(ctx, n.b, "")
	if err != nil {
		return fmt.Errorf("%w: registering the run: %w", ErrStore, err)
	}
	n.rev = rev
	return n.lease.Renew(ctx)
}

// registered finds out whether the catalog has taken the run's record after all: the answer to that may have been lost, or not been waited for.
func (n *run) registered(ctx context.Context) catalog.Revision {
	there, rev, err := n.cfg.Catalog.Get(ctx, n.b.ID)
	if err != nil {
		return ""
	}
	is, err := catalog.Encode(there)
	if err != nil {
		return ""
	}
	ours, err := catalog.Encode(n.b)
	if err != nil || !bytes.Equal(is, ours) {
		return ""
	}
	return rev
}

// interrupt marks a dead run, so that it can't publish. The caller holds the lease of its data store.
func (r *Runner) interrupt(ctx context.Context, id catalog.ID) error {
	b, rev, err := r.cfg.Catalog.Get(ctx, id)
	if errors.Is(err, catalog.ErrNotFound) || err == nil && b.State != catalog.StateRunning {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: looking at the dead run %s: %w", ErrStore, id, err)
	}
	b.State, b.Error = catalog.StateInterrupted, "its run ended without a word: it was killed, or it lost its lease"
	_, err = r.cfg.Catalog.Put(ctx, b, rev)
	if err != nil && !errors.Is(err, catalog.ErrConflict) { // in a conflict the run said itself how it ended
		return fmt.Errorf("%w: marking the dead run %s: %w", ErrStore, id, err)
	}
	r.log.InfoContext(ctx, "a run that died was marked as interrupted", "dataStore", b.DataStore, "backup", id)
	crashpoint.Hit(crashpoint.SweepMarked)
	return nil
}

// Settle finds out what became of a run: it returns the backup if that is ready, and nil if it isn't and never will be. A run that is at work, or was when it
// died, can't publish after that, whatever the clocks say. It waits for nobody and needs no lease.
func (r *Runner) Settle(ctx context.Context, id catalog.ID) (*catalog.Backup, error) {
	for range 2 {
		b, _, err := r.cfg.Catalog.Get(ctx, id)
		switch {
		case errors.Is(err, catalog.ErrNotFound):
			return nil, nil
		case err != nil:
			return nil, fmt.Errorf("%w: looking at run %s: %w", ErrStore, id, err)
		case b.State == catalog.StateReady:
			return b, nil
		case b.State != catalog.StateRunning:
			return nil, nil
		}
		if err := r.interrupt(ctx, id); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: run %s was marked as interrupted and still says that it is running", ErrStore, id)
}

// readBack reads every part from the store and compares its hash.
func (n *run) readBack(ctx context.Context) error {
	start := n.now()
	n.meter.stage(StageVerify, n.b.StoredBytes)
	for _, p := range n.b.Parts {
		switch err := n.readBackPart(ctx, p, &n.meter.bytes); {
		case err != nil && p.Adopted && ctx.Err() == nil:
			return fmt.Errorf("%w: %s is not in the store as it was read: it was changed meanwhile, or read from elsewhere: %w", ErrSource, p.Key, err)
		case err != nil:
			return fmt.Errorf("%w: reading back %s: %w", ErrStore, p.Key, err)
		}
	}
	n.b.Verification.ReadBack = true
	n.b.Timings.ReadBack = n.now().Sub(start)
	return nil
}

// readBackPart reads a part from the store, counts its bytes and compares its hash.
func (n *run) readBackPart(ctx context.Context, p catalog.Part, count *atomic.Int64) error {
	in, err := n.cfg.Store.Open(ctx, p.Key, 0, -1)
	if err != nil {
		return err
	}
	defer in.Close()
	return seal.Check(&countingReader{r: in, n: count}, seal.Sum{Size: p.Size, SHA256: p.SHA256})
}

// publish writes the manifest: from then on there is a backup.
func (n *run) publish(ctx context.Context) error {
	n.meter.stage(StagePublish, 0)
	if err := n.lease.Renew(ctx); err != nil {
		return fmt.Errorf("before publishing: %w", err)
	}
	b := *n.b
	b.State = catalog.StateReady
	b.ReadyAt = n.now().UTC()
	b.Verification.At = b.ReadyAt
	b.Timings.Total = n.now().Sub(n.start)
	if n.cfg.Signer != nil {
		if err := catalog.Sign(&b, n.cfg.Signer); err != nil {
			return err
		}
	}
	return n.replace(ctx, &b)
}

// replace puts a manifest in the place of the run's record.
func (n *run) replace(ctx context.Context, b *catalog.Backup) error {
	n.published = true
	_, err := n.cfg.Catalog.Put(ctx, b, n.rev)
	if errors.Is(err, catalog.ErrConflict) {
		return fmt.Errorf("%w: another process declared this run dead, because its lease ran out: %w", catalog.ErrLeaseLost, err)
	}
	if err != nil {
		return fmt.Errorf("%w: writing the manifest: %w", ErrStore, err)
	}
	// The manifest is read back too: one that is not what was written is no backup. If the store can't be read now, it has still
	// confirmed the writing.
	switch _, _, err := n.cfg.Catalog.Get(ctx, b.ID); {
	case errors.Is(err, catalog.ErrCorrupt) || errors.Is(err, catalog.ErrNotFound):
		return fmt.Errorf("%w: reading back the manifest: %w", ErrStore, err)
	case err != nil:
		n.log.WarnContext(ctx, "the manifest is written and can't be read back now", "backup", b.ID, "error", err)
	}
	n.b = b
	return nil
}

// undo records why the run failed and takes back what it stored. It does what it can in the time it has. If it finds that
// the backup was published after all, because writing the manifest had an error but an effect too, it returns true.
func (n *run) undo(ctx context.Context, cause error) (published bool) {
	if n.b == nil {
		return false
	}
	ctx, done := clock.Outlive(ctx, patience, tidyTime)
	defer done()
	if n.rev == "" {
		if n.rev = n.registered(ctx); n.rev == "" {
			return false
		}
	}
	// First the record: this and the manifest exclude each other, so from here on it is settled which of the two it is.
	b := *n.b
	b.State, b.Error, b.Parts, b.Spared = catalog.StateFailed, cause.Error(), nil, !n.asked && b.Kind != catalog.KindCopy
	if len(b.Recipients) > 0 && errors.Is(cause, ErrNotSound) {
		// It names the key where the snapshot is broken, which only the recipients may read.
		b.Error = ErrNotSound.Error() + "; what it was is not recorded, for the data is encrypted"
	}
	rev, err := n.cfg.Catalog.Put(ctx, &b, n.rev)
	for try := 0; try < 3 && errors.Is(err, catalog.ErrConflict); try++ {
		now, at, gerr := n.cfg.Catalog.Get(ctx, b.ID)
		if gerr == nil && now.State == catalog.StateReady {
			n.b = now
			return true
		}
		if err = gerr; errors.Is(gerr, catalog.ErrCorrupt) && at != "" {
			// The store has kept something else than this run wrote. If that is so still, it is replaced.
			rev, err = n.cfg.Catalog.Put(ctx, &b, at)
		}
	}
	if err != nil && !errors.Is(err, catalog.ErrNotFound) {
		n.log.WarnContext(ctx, "a failed run was not recorded, a sweep will remove it", "backup", b.ID, "error", err)
		if n.published {
			return false // a manifest may be there, or still arrive: its parts have to stay
		}
	}
	if b.Kind == catalog.KindCopy {
		// Another copy of the backup has the same keys: the parts are ours only while the record is.
		if rev == "" {
			rev = n.rev
		}
		if err := n.removeParts(ctx, &b, rev, &SweepReport{}); err != nil {
			n.log.WarnContext(ctx, "parts of a failed copy may be left, a sweep will remove them", "backup", b.ID, "error", err)
		}
		return false
	}
	for _, key := range n.committed {
		if err := n.cfg.Store.Delete(ctx, key); err != nil && !errors.Is(err, storage.ErrNotFound) {
			n.log.WarnContext(ctx, "a part of a failed run was left, a sweep will remove it", "key", key, "error", err)
		}
	}
	return false
}
