package amber

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/govern"
	"github.com/amberkv/amber/backup/replica"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/reading"
	"github.com/amberkv/amber/restore"
)

// ErrNoBackup: there is no backup of a data store that can be restored. Whether that means a new data store or a disaster is for the
// host to know; it never means "start empty" by itself.
var ErrNoBackup = errors.New("no backup can be restored")

// A RestoreRequest says which backup goes where, and how.
type RestoreRequest struct {
	Backup catalog.ID // required

	// To is the server that takes the data, or any node of the cluster that does. Either To or Loader is required.
	To *redis.Options
	// Method says how the data gets into it. The zero value lets the target say: by feed if it can, which is
	// the quickest and restores everything, else by command.
	Method Method
	// With feed the target connects back to Amber, see package feed: these say how, and may be left empty where it can reach the address that
	// Amber's connection to it comes from.
	Listen    string      // host:port to listen on; empty: any port of all interfaces
	Advertise string      // host or host:port under which the target reaches Amber; empty: found out
	TLS       *tls.Config // for a target that replicates over TLS
	// Connections is how many are used with command, to each node; 0: package command's default.
	Connections int
	// Loader puts the data into the target in another way.
	Loader restore.Loader

	// Conflict says what becomes of data that the target holds. Without it a target with data is refused.
	Conflict restore.Conflict
	// Expiry says what becomes of the times at which keys expire.
	Expiry restore.Expiry
	// Select says which keys are restored, and under which names; the zero value: all.
	Select restore.Selection
	// Accept lists the warnings that don't stop the restore, by their names; "all" accepts every one. See restore.Options.
	Accept []string
	// Compare says how many values are compared afterwards.
	Compare restore.Compare

	// When data is replaced, it is backed up before, as a backup of kind "safety" of the data store TargetStore; empty: that of
	// Backup. It is encrypted for Config.Recipients; if Backup is encrypted and there are none of these, the restore is refused.
	// NoSafetyBackup leaves that out. With a Loader of the caller's there is none either, unless To is set as well.
	// Safety says how its snapshot is taken; the zero value finds that out. SafetyLimits and SafetyBudget are what the target may be put to for it, as for any
	// other backup; nil: those of the Config. Where they refuse it the restore is refused, the target wasn't touched, and the error wraps
	// govern.ErrLimit or backup.ErrBudget.
	NoSafetyBackup bool
	TargetStore    string
	Safety         SnapshotOptions
	SafetyLimits   *govern.Limits
	SafetyBudget   *backup.Budget

	// Progress is called about five times a second, from one goroutine at a time. It may be nil.
	Progress func(Progress)
}

// A Method says how data gets into a target.
type Method string

// The methods.
const (
	MethodAuto    Method = ""        // feed if the target can, else command
	MethodFeed    Method = "feed"    // the target replicates from Amber; see package feed
	MethodCommand Method = "command" // Amber sends commands; see package command
)

// PlanRestore does everything that Restore does up to the first write, and tells what was found: whether the target can take the
// backup, and what would be written, left out, converted and lost. See restore.Restorer.Plan.
func (s *Service) PlanRestore(ctx context.Context, q RestoreRequest) (*restore.Plan, error) {
	if err := q.check(); err != nil {
		return nil, err
	}
	var plan *restore.Plan
	err := s.withCopy(ctx, q.Backup, func(at *place, b *catalog.Backup) error {
		loader, opts, err := s.restoreOptions(at, b, &q, silent("restore", q.Progress, s.now))
		if err == nil {
			plan, err = at.restorer.Plan(ctx, b.ID, loader, opts)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("restore of %s: %w", q.Backup, err)
	}
	return plan, nil
}

// Restore proves a backup and puts it into a target. It returns nil only if the target has taken all of it that was asked for, counted, and
// compared as far as q.Compare says. If several stores have the backup, the first copy that verifies is taken. See
// restore.Restorer.Restore for what the errors wrap.
func (s *Service) Restore(ctx context.Context, q RestoreRequest) (*restore.Report, error) {
	if err := q.check(); err != nil {
		return nil, err
	}
	watch := s.watch(ctx, Event{Operation: "restore", Backup: q.Backup}, q.Progress)
	return watch.restored(s.restoreCopy(ctx, &q, watch))
}

// restored tells of the end of a restore, and returns the same.
func (w *watch) restored(rep *restore.Report, err error) (*restore.Report, error) {
	if err != nil {
		w.end(0, 0, err)
		return nil, err
	}
	w.end(rep.Keys, rep.Bytes, nil)
	return rep, nil
}

// restoreCopy restores the first copy of a backup that verifies.
func (s *Service) restoreCopy(ctx context.Context, q *RestoreRequest, watch *watch) (*restore.Report, error) {
	var rep *restore.Report
	var passed []error
	err := s.withCopy(ctx, q.Backup, func(at *place, b *catalog.Backup) (err error) {
		rep, err = s.restore(ctx, at, b, q, watch)
		if isBad(err) {
			s.cfg.Logger.WarnContext(ctx, "a copy of a backup can't be restored", "backup", b.ID, "store", at.Name, "error", err)
			passed = append(passed, at.wrap(err))
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("restore of %s: %w", q.Backup, err)
	}
	for _, e := range passed {
		rep.Warnings = append(rep.Warnings, "a copy of the backup was passed over: "+e.Error())
	}
	return rep, nil
}

// restore restores the copy of a backup that a store has.
func (s *Service) restore(ctx context.Context, at *place, b *catalog.Backup, q *RestoreRequest, watch *watch) (*restore.Report, error) {
	watch.about(at, b)
	loader, opts, err := s.restoreOptions(at, b, q, watch)
	if err != nil {
		return nil, err
	}
	rep, err := at.restorer.Restore(ctx, b.ID, loader, opts)
	if err != nil {
		return nil, err
	}
	s.cfg.Logger.InfoContext(ctx, "backup is restored", "backup", b.ID, "target", rep.Target, "method", rep.Method, "keys", rep.Keys, "duration", rep.Load)
	return rep, nil
}

// check says what is missing or wrong in a request for a certain backup.
func (q *RestoreRequest) check() error {
	if q.Backup == "" {
		return errors.New("amber: RestoreRequest.Backup is required")
	}
	return q.checkTarget()
}

func (q *RestoreRequest) checkTarget() error {
	switch {
	case q.To == nil && q.Loader == nil:
		return errors.New("amber: RestoreRequest.To or RestoreRequest.Loader is required")
	case q.Loader != nil && q.Method != MethodAuto:
		return errors.New("amber: RestoreRequest.Method and RestoreRequest.Loader exclude each other")
	}
	if err := q.Safety.validate(); err != nil {
		return fmt.Errorf("amber: RestoreRequest.Safety: %w", err)
	}
	if q.SafetyLimits != nil {
		if err := q.SafetyLimits.Validate(); err != nil {
			return fmt.Errorf("amber: RestoreRequest.SafetyLimits: %w", err)
		}
	}
	if q.SafetyBudget != nil {
		if err := q.SafetyBudget.Validate(); err != nil {
			return fmt.Errorf("amber: RestoreRequest.SafetyBudget: %w", err)
		}
	}
	return nil
}

// restoreOptions makes of a request what a Restorer takes.
func (s *Service) restoreOptions(at *place, b *catalog.Backup, q *RestoreRequest, watch *watch) (restore.Loader, *restore.Options, error) {
	opts := &restore.Options{Conflict: q.Conflict, Expiry: q.Expiry, Select: q.Select, Accept: q.Accept, Compare: q.Compare,
		Progress: watch.restore}
	if q.Conflict == restore.Replace && !q.NoSafetyBackup && q.To != nil {
		opts.Safety = func(ctx context.Context) (catalog.ID, error) { return s.safetyBackup(ctx, at, b, q) }
	}
	if q.Loader != nil {
		return q.Loader, opts, nil
	}
	loader, err := s.loader(q)
	return loader, opts, err
}

// safetyBackup backs up what a target holds, before it is replaced, into the store that has what replaces it.
func (s *Service) safetyBackup(ctx context.Context, at *place, of *catalog.Backup, q *RestoreRequest) (catalog.ID, error) {
	if len(of.Recipients) > 0 && len(s.cfg.Recipients) == 0 {
		// Who encrypts backups of this data doesn't expect to find some of it in the store as it is.
		return "", errors.New("the backup to be restored is encrypted, and this one wouldn't be: set Config.Recipients, or leave the safety backup out")
	}
	dataStore := cmp.Or(q.TargetStore, of.DataStore)
	snapshotter, err := newTaker("RestoreRequest.Safety", taker{from: q.To, prefer: replica.PreferPrimary, options: q.Safety, tempDir: s.cfg.TempDir, log: s.cfg.Logger, now: s.cfg.Now,
		limits: s.limits(q.SafetyLimits), lasted: s.lasted(dataStore, at.Name), leave: s.leave})
	if err != nil {
		return "", err
	}
	b, err := s.run(ctx, at, "backup", 0, nil, backup.Request{Budget: s.budget(q.SafetyLimits, q.SafetyBudget), DataStore: dataStore, Kind: catalog.KindSafety,
		Snapshotter: snapshotter, Parallel: q.Safety.Parallel, Description: "what the target held before " + string(of.ID) + " was restored into it"})
	if err != nil {
		return "", fmt.Errorf("%w; without a safety backup the restore works if it is told so", err)
	}
	s.cfg.Logger.InfoContext(ctx, "the target's data is backed up", "backup", b.ID, "keys", b.Keys)
	return b.ID, nil
}

// RestoreLatest restores the newest backup of a data store that can be read, into a target that is empty: for a data store that
// starts without data. q.Backup is found and q.Conflict is not used. Backups of kind "safety" don't count.
//
// A backup that doesn't verify is passed over for another copy of it, or the one before it, which is logged and in the report's warnings. When
// none can be read, or there is none, the error wraps ErrNoBackup, and the reasons. The data store must then not start empty, as if that
// were its data. A store that can't be listed ends it with another error, for it may have a newer one: Restore then takes one by its ID.
func (s *Service) RestoreLatest(ctx context.Context, dataStore string, q RestoreRequest) (*restore.Report, error) {
	if err := catalog.ValidName(dataStore); err != nil {
		return nil, fmt.Errorf("amber: the data store's ID %q: %w", dataStore, err)
	}
	if q.Backup != "" || q.Conflict != restore.IntoEmpty {
		return nil, errors.New("amber: RestoreLatest finds the backup itself, and takes only an empty target: leave Backup and Conflict out")
	}
	if err := q.checkTarget(); err != nil {
		return nil, err
	}
	watch := s.watch(ctx, Event{Operation: "restore", DataStore: dataStore}, q.Progress)
	return watch.restored(s.restoreLatest(ctx, dataStore, &q, watch))
}

func (s *Service) restoreLatest(ctx context.Context, dataStore string, q *RestoreRequest, watch *watch) (*restore.Report, error) {
	var bad []error
	for f, err := range s.ListAll(ctx, catalog.Query{DataStore: dataStore}) {
		switch {
		case errors.Is(err, catalog.ErrCorrupt):
			bad = append(bad, err)
			continue
		case err != nil:
			return nil, fmt.Errorf("looking for backups of %s, of which there may be newer ones than those that can be seen: %w", dataStore, err)
		case f.Kind == catalog.KindSafety:
			continue
		}
		at, err := s.place(f.Store.Name)
		if err != nil {
			return nil, err
		}
		rep, err := s.restore(ctx, at, f.Backup, q, watch)
		if err == nil {
			for _, e := range bad {
				rep.Warnings = append(rep.Warnings, "a newer backup was passed over: "+e.Error())
			}
			return rep, nil
		}
		err = fmt.Errorf("restore of %s: %w", f.ID, at.wrap(err))
		if !isBad(err) {
			return nil, err
		}
		s.cfg.Logger.WarnContext(ctx, "a backup can't be restored, the one before it is tried", "backup", f.ID, "store", at.Name, "error", err)
		bad = append(bad, err)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(bad) == 0 {
		return nil, fmt.Errorf("%w: there is none of data store %s", ErrNoBackup, dataStore)
	}
	return nil, fmt.Errorf("%w: none of the %d of data store %s verifies: %w", ErrNoBackup, len(bad), dataStore, errors.Join(bad...))
}

// removeTime is how long removing a new data store may take after a restore that failed or was cancelled.
const removeTime = 30 * time.Second

// A NewRequest says where a new data store comes from.
type NewRequest struct {
	Provisioner restore.Provisioner // makes it; required
	Parameters  map[string]string   // settings to ask for
	KeepFailed  bool                // keep it when the restore fails; else it is removed
}

// RestoreNew lets a new data store be made and restores a backup into it. q.To, q.Loader and q.Conflict are not used. It returns
// the data store, which is the caller's then; beside an error it is nil, or with n.KeepFailed what was made.
func (s *Service) RestoreNew(ctx context.Context, q RestoreRequest, n NewRequest) (restore.Provisioned, *restore.Report, error) {
	switch {
	case n.Provisioner == nil:
		return nil, nil, errors.New("amber: NewRequest.Provisioner is required")
	case q.To != nil || q.Loader != nil || q.Conflict != restore.IntoEmpty:
		return nil, nil, errors.New("amber: RestoreNew restores into what the Provisioner makes: leave To, Loader and Conflict out")
	case q.Backup == "":
		return nil, nil, errors.New("amber: RestoreRequest.Backup is required")
	}
	watch := s.watch(ctx, Event{Operation: "restore", Backup: q.Backup}, q.Progress)
	// Making a data store can take long, and is for nothing if the backup is deleted meanwhile.
	guard := reading.Guard{Leaser: s.cfg.Leaser, TTL: s.cfg.LeaseTTL, Logger: s.cfg.Logger, Now: s.cfg.Now}
	held, end := guard.Hold(ctx, q.Backup)
	made, rep, err := s.restoreNew(held, &q, &n, watch)
	rep, err = watch.restored(rep, end(err))
	return made, rep, err
}

func (s *Service) restoreNew(ctx context.Context, q *RestoreRequest, n *NewRequest, watch *watch) (restore.Provisioned, *restore.Report, error) {
	c := s.get(ctx, q.Backup)
	if c.err != nil {
		return nil, nil, c.err
	}
	watch.about(c.at, c.b)
	made, err := n.Provisioner.Provision(ctx, restore.NeedOf(c.b, n.Parameters))
	if err != nil {
		return nil, nil, fmt.Errorf("making a data store for %s: %w", q.Backup, err)
	}
	q.To = made.Options()
	var rep *restore.Report
	if err = q.checkTarget(); err == nil {
		rep, err = s.restoreCopy(ctx, q, watch)
	}
	if err == nil {
		return made, rep, nil
	}
	err = fmt.Errorf("into the new data store %s: %w", made.ID(), err)
	if n.KeepFailed {
		return made, nil, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTime)
	defer cancel()
	if removing := made.Remove(ctx); removing != nil {
		return made, nil, errors.Join(err, fmt.Errorf("removing the new data store %s: %w", made.ID(), removing))
	}
	return nil, nil, fmt.Errorf("%w; it was removed", err)
}
