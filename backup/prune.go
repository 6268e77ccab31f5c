package backup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/retention"
	"github.com/amberkv/amber/internal/crashpoint"
	"github.com/amberkv/amber/storage"
)

// ErrClock: the clock of this machine and that of the store are too far apart for anything to be deleted because its time is over.
var ErrClock = errors.New("clock is not to be trusted")

const (
	// clockApart is how far the clock and the store's may be apart.
	clockApart = 10 * time.Minute
	// clockKey is that of the object by which the store is asked for its time. It stays, and has the key of no lease.
	clockKey = "_leases/clock"
	// planLasts is for how long deletions go on by a plan, before the data store is looked at again.
	planLasts = 10 * time.Second
	// maxPlans is how often a plan is made anew for a data store because something changed, before that is left to the next prune.
	maxPlans = 10
)

// A PruneRequest says what retention is to be carried out on.
type PruneRequest struct {
	DataStore string // empty: all of them
	// Promises tells what was promised about the backups of a data store. It may be asked more than once. Who reads a backup Prune finds out
	// itself. nil: nothing but their DeleteAfter, so that what a policy has made is kept.
	Promises func(ctx context.Context, dataStore string) (retention.Promises, error)
	// AcceptFall accepts the falls in keys that there are now: see retention.Promises.
	AcceptFall bool
	// DryRun says what would be done, and does nothing: it writes nothing, so that the store isn't asked for its time.
	DryRun bool
}

// A PruneReport says what retention makes of backups. But for what says whether it is done, that of a dry run is the same.
type PruneReport struct {
	DryRun  bool   `json:"dryRun"`
	Fates   []Fate `json:"fates"` // of all backups that were ready, by data store, newest first
	Held    []Held `json:"held"`  // the data stores of which nothing is let go of
	Deleted int    `json:"deleted"`
	Bytes   int64  `json:"bytes"` // as stored, of those that were deleted
}

// Add adds what another prune made of the backups of another store, of which it says the name.
func (r *PruneReport) Add(o PruneReport, store string) {
	for _, f := range o.Fates {
		f.Store = store
		r.Fates = append(r.Fates, f)
	}
	for _, h := range o.Held {
		h.Store = store
		r.Held = append(r.Held, h)
	}
	r.Deleted += o.Deleted
	r.Bytes += o.Bytes
}

// A Fate says what is to become of a backup and why, and what was done. The Backup of one that stays may lack what retention doesn't look at.
type Fate struct {
	retention.Verdict
	Store     string       `json:"store,omitempty"` // its name, where there are several
	DataStore string       `json:"dataStore"`
	ID        catalog.ID   `json:"id"`
	Name      string       `json:"name,omitempty"`
	Kind      catalog.Kind `json:"kind"`
	Policy    string       `json:"policy,omitempty"`
	CreatedAt time.Time    `json:"createdAt"`
	Bytes     int64        `json:"bytes"`             // as stored
	Deleted   bool         `json:"deleted,omitempty"` // it is not listed any more
	Error     string       `json:"error,omitempty"`   // why it is still there or, if it was deleted, why its objects are left to a sweep
}

// Held says why retention is held for a data store.
type Held struct {
	DataStore string `json:"dataStore"`
	Store     string `json:"store,omitempty"` // its name, where there are several
	Reason    string `json:"reason"`
}

// Prune deletes the backups that were promised to be kept no longer: retention.Plan decides, and every decision carries its reason. It is
// safe at any time, also beside runs, readers, deletions and other prunes, in this process or elsewhere: just before each deletion the backup, those who
// read it and the newest one are looked at again, and where something is otherwise than the plan had it a new one is made.
//
// Nothing is deleted if the clock and the store's own are more than ten minutes apart: the error wraps ErrClock then, and names both times. Manifests
// that can't be read count for nothing and stay. What fails for one data store, or one backup, doesn't keep the others from their fate; the
// error tells of all that failed, and the report says what was done all the same.
func (r *Runner) Prune(ctx context.Context, q PruneRequest) (PruneReport, error) {
	if q.DataStore != "" {
		if err := catalog.ValidName(q.DataStore); err != nil {
			return PruneReport{}, fmt.Errorf("backup: PruneRequest.DataStore %.40q: %w", q.DataStore, err)
		}
	}
	p := &pruning{Runner: r, q: q, rep: PruneReport{DryRun: q.DryRun, Fates: []Fate{}, Held: []Held{}}}
	all, err := p.ready(ctx, q.DataStore)
	if err != nil {
		return p.rep, fmt.Errorf("%w: pruning: %w", ErrStore, err)
	}
	var errs []error
	for _, dataStore := range slices.Sorted(maps.Keys(all)) {
		if err := p.dataStore(ctx, dataStore, all[dataStore]); err != nil {
			errs = append(errs, fmt.Errorf("pruning data store %s: %w", dataStore, err))
		}
		delete(all, dataStore)
		if ctx.Err() != nil {
			break
		}
	}
	return p.rep, errors.Join(append(errs, p.clock)...)
}

// pruning is one call of Prune.
type pruning struct {
	*Runner
	q   PruneRequest
	rep PruneReport

	asked    bool   // the store was asked for its time
	distrust string // why the clock isn't to be trusted by that
	clock    error  // the same, as an error
}

// ready lists the backups that are ready, by data store, newest first. Of those of many data stores only what a plan needs is kept in memory.
func (p *pruning) ready(ctx context.Context, dataStore string) (map[string][]*catalog.Backup, error) {
	all := map[string][]*catalog.Backup{}
	for b, err := range p.cfg.Catalog.List(ctx, catalog.Query{DataStore: dataStore}) {
		if errors.Is(err, catalog.ErrCorrupt) {
			p.log.WarnContext(ctx, "a manifest can't be read, what it tells of is kept", "error", err)
			continue
		}
		if err != nil {
			return nil, err
		}
		if dataStore == "" {
			b.Source, b.DBs, b.Modules, b.Recipients, b.Labels, b.Signature = catalog.Source{}, nil, nil, nil, nil, nil
		}
		all[b.DataStore] = append(all[b.DataStore], b)
	}
	return all, nil
}

// plan decides about the backups of a data store.
func (p *pruning) plan(ctx context.Context, dataStore string, ready []*catalog.Backup) (retention.Result, error) {
	var promises retention.Promises
	if p.q.Promises != nil {
		var err error
		if promises, err = p.q.Promises(ctx, dataStore); err != nil {
			return retention.Result{}, fmt.Errorf("what was promised can't be found out: %w", err)
		}
	}
	now := p.now()
	if p.q.AcceptFall {
		promises.FallAccepted = now
	}
	if promises.Distrust == "" {
		promises.Distrust = p.distrust
	}
	plan := retention.Plan(ready, promises, now)
	inUse := maps.Clone(promises.InUse)
	for _, v := range plan.Verdicts {
		if !v.Delete {
			continue
		}
		reader, err := p.reader(ctx, v.Backup.ID)
		if err != nil {
			return retention.Result{}, fmt.Errorf("%w: finding out who reads backup %s: %w", ErrStore, v.Backup.ID, err)
		}
		if reader != "" {
			if inUse == nil {
				inUse = map[catalog.ID]string{}
			}
			inUse[v.Backup.ID] = reader
		}
	}
	if len(inUse) > len(promises.InUse) {
		promises.InUse = inUse
		plan = retention.Plan(ready, promises, now)
	}
	if p.q.DryRun || p.asked || !slices.ContainsFunc(plan.Verdicts, func(v retention.Verdict) bool { return v.Delete }) {
		return plan, nil
	}
	var err error
	if promises.Distrust, err = p.askClock(ctx); err != nil {
		return retention.Result{}, fmt.Errorf("%w: asking the store for its time: %w", ErrStore, err)
	}
	p.asked, p.distrust = true, promises.Distrust
	if p.distrust != "" {
		p.clock = fmt.Errorf("%w: %s", ErrClock, p.distrust)
		plan = retention.Plan(ready, promises, now)
	}
	return plan, nil
}

// askClock finds out whether the clock and the store's agree, and says if they don't.
func (p *pruning) askClock(ctx context.Context) (string, error) {
	before := p.now()
	if err := storage.WriteFile(ctx, p.cfg.Store, clockKey, []byte(before.UTC().Format(time.RFC3339)+"\n"), nil); err != nil {
		return "", err
	}
	info, err := p.cfg.Store.Stat(ctx, clockKey)
	if err != nil {
		return "", err
	}
	there, after := info.ModTime, p.now()
	if there.IsZero() || !there.Before(before.Add(-clockApart)) && !there.After(after.Add(clockApart)) {
		return "", nil // a store that tells no time can't be asked
	}
	return fmt.Sprintf("it says %s and the store's says %s; nothing is deleted until they agree to %v",
		after.UTC().Format(time.RFC3339), there.UTC().Format(time.RFC3339), clockApart), nil
}

// dataStore carries out retention on a data store, of which these are the ready backups as of a while ago.
func (p *pruning) dataStore(ctx context.Context, dataStore string, ready []*catalog.Backup) error {
	fates := map[catalog.ID]Fate{}
	plan, err := p.plan(ctx, dataStore, ready)
	if err == nil {
		p.note(plan, fates)
		crashpoint.Hit(crashpoint.PrunePlanned)
		if !p.q.DryRun && len(doomed(plan, fates)) > 0 {
			plan, err = p.carryOut(ctx, dataStore, fates)
		}
	}
	if plan.Held != "" {
		p.rep.Held = append(p.rep.Held, Held{DataStore: dataStore, Reason: plan.Held})
		p.log.WarnContext(ctx, "retention is held: nothing of the data store is let go of", "dataStore", dataStore, "reason", plan.Held)
	}
	p.rep.Fates = slices.AppendSeq(p.rep.Fates, slices.Values(slices.SortedFunc(maps.Values(fates), func(a, b Fate) int {
		if c := b.CreatedAt.Compare(a.CreatedAt); c != 0 {
			return c
		}
		return strings.Compare(string(b.ID), string(a.ID))
	})))
	return err
}

// note takes down what a plan makes of the backups, but for those of which it is settled.
func (p *pruning) note(plan retention.Result, fates map[catalog.ID]Fate) {
	there := map[catalog.ID]bool{}
	for _, v := range plan.Verdicts {
		b := v.Backup
		there[b.ID] = true
		if f := fates[b.ID]; !f.Deleted && f.Error == "" {
			fates[b.ID] = Fate{Verdict: v, DataStore: b.DataStore, ID: b.ID, Name: b.Name, Kind: b.Kind, Policy: b.Policy, CreatedAt: b.CreatedAt, Bytes: b.StoredBytes}
		}
	}
	maps.DeleteFunc(fates, func(id catalog.ID, f Fate) bool { return !there[id] && !f.Deleted && f.Error == "" })
}

// doomed are the backups that are to be deleted by a plan and were not tried yet, oldest first.
func doomed(plan retention.Result, fates map[catalog.ID]Fate) []*catalog.Backup {
	var out []*catalog.Backup
	for _, v := range slices.Backward(plan.Verdicts) {
		if f := fates[v.Backup.ID]; v.Delete && !f.Deleted && f.Error == "" {
			out = append(out, v.Backup)
		}
	}
	return out
}

// carryOut deletes what is to be deleted of a data store. It returns the last plan that it went by.
func (p *pruning) carryOut(ctx context.Context, dataStore string, fates map[catalog.ID]Fate) (plan retention.Result, err error) {
	var errs []error
	for changes := 0; ; {
		ready, err := p.ready(ctx, dataStore)
		if err != nil {
			return plan, errors.Join(append(errs, fmt.Errorf("%w: %w", ErrStore, err))...)
		}
		if plan, err = p.plan(ctx, dataStore, ready[dataStore]); err != nil {
			return plan, errors.Join(append(errs, err)...)
		}
		made := p.now()
		p.note(plan, fates)
		anew := false
		for _, b := range doomed(plan, fates) {
			age := p.now().Sub(made)
			if anew = age < 0 || age > planLasts; anew {
				break
			}
			done, err := p.letGo(ctx, b, plan)
			f := fates[b.ID]
			if f.Deleted = done; done {
				p.rep.Deleted++
				p.rep.Bytes += b.StoredBytes
				p.log.InfoContext(ctx, "a backup was deleted by retention", "dataStore", dataStore, "backup", b.ID, "createdAt", b.CreatedAt,
					"policy", b.Policy, "reason", strings.Join(f.Reasons, "; "))
			}
			if anew = errors.Is(err, errChanged); anew {
				if changes++; changes < maxPlans {
					break
				}
				return plan, errors.Join(append(errs, fmt.Errorf("its backups change all the time, the last was %s: prune it again", b.ID))...)
			}
			if err != nil {
				f.Error = err.Error()
			}
			if err != nil && !(done && errors.Is(err, ErrBusy)) { // else somebody has just begun to read it, and a sweep removes the rest
				errs = append(errs, err)
			}
			fates[b.ID] = f
			if ctx.Err() != nil {
				return plan, errors.Join(errs...)
			}
		}
		if !anew {
			return plan, errors.Join(errs...)
		}
	}
}

// errChanged: a plan is out of date.
var errChanged = errors.New("it was changed meanwhile")

// letGo deletes a backup, if all is as it was when the plan was made. It tells whether the backup isn't listed any more because of
// that, whatever the error says.
//
// That the newest is there is looked at last: what others delete then they delete knowing that this one is on its way.
func (p *pruning) letGo(ctx context.Context, b *catalog.Backup, plan retention.Result) (bool, error) {
	now, rev, err := p.cfg.Catalog.Get(ctx, b.ID)
	switch {
	case errors.Is(err, catalog.ErrNotFound):
		return false, errChanged
	case err != nil:
		return false, fmt.Errorf("%w: looking at backup %s: %w", ErrStore, b.ID, err)
	case !likewise(now, b):
		return false, errChanged
	}
	if reader, err := p.reader(ctx, b.ID); err != nil {
		return false, fmt.Errorf("%w: finding out who reads backup %s: %w", ErrStore, b.ID, err)
	} else if reader != "" {
		return false, errChanged
	}
	for _, last := range lasts(plan) {
		there, _, err := p.cfg.Catalog.Get(ctx, last.ID)
		if err != nil && !errors.Is(err, catalog.ErrNotFound) {
			return false, fmt.Errorf("%w: looking whether backup %s is there, before an older one is deleted: %w", ErrStore, last.ID, err)
		}
		if err != nil || !likewise(there, last) {
			return false, errChanged
		}
	}
	done, err := p.delete(ctx, now, rev, &SweepReport{})
	if !done && errors.Is(err, catalog.ErrConflict) {
		err = errChanged
	}
	return done, err
}

// likewise tells whether retention would make the same of a backup as it is now.
func likewise(now, then *catalog.Backup) bool {
	return now.State == then.State && now.Kind == then.Kind && now.Policy == then.Policy && now.DueTime.Equal(then.DueTime) &&
		now.DeleteAfter.Equal(then.DeleteAfter) && now.Pinned == then.Pinned && now.CreatedAt.Equal(then.CreatedAt) && now.Keys == then.Keys
}

// lasts are those of a plan's backups that are never let go of: the newest, and the newest of Amber's own.
func lasts(plan retention.Result) []*catalog.Backup {
	var out []*catalog.Backup
	for i, v := range plan.Verdicts {
		own := !slices.ContainsFunc(v.Backup.Parts, func(p catalog.Part) bool { return p.Adopted })
		if i == 0 || own {
			out = append(out, v.Backup)
		}
		if own {
			break
		}
	}
	return out
}
