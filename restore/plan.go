package restore

import (
	"context"
	"errors"
	"fmt"

	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/internal/crashpoint"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/rdb/inspect"
)

// A Plan says what a restore would do, before anything is done.
type Plan struct {
	Backup  *catalog.Backup `json:"backup"`
	Verdict Verdict         `json:"verdict"`
	// Report is what a restore would report, as far as that is known before: what is written, left out, converted and lost. The
	// sizes and counts are zero if the Verdict failed before the backup was read.
	Report Report `json:"report"`
	// Memory is how much memory the data takes in the target, in bytes, by an estimate; 0 if the backup was not read key by key.
	// MemoryByType splits it by type. See package inspect for how far it can be off.
	Memory       int64            `json:"memory,omitempty"`
	MemoryByType map[string]int64 `json:"memoryByType,omitempty"`

	src Source
}

// Plan does everything that Restore does up to the first write: it looks at the target, proves the whole backup, and finds out what is
// selected, converted and lost on the way. A target that can't take the backup is a failed point of the Verdict, not an error. When the
// first look at the target fails, the backup is not read.
//
// The error wraps ErrNotVerified if the backup is not what its manifest says; others are those of the store, of the options, or of asking
// the target.
func (r *Restorer) Plan(ctx context.Context, id catalog.ID, loader Loader, opts *Options) (p *Plan, err error) {
	ctx, end := r.hold(ctx, id)
	defer func() { err = end(err) }()
	return r.plan(ctx, id, loader, opts)
}

// plan is Plan of a backup that is held.
func (r *Restorer) plan(ctx context.Context, id catalog.ID, loader Loader, opts *Options) (*Plan, error) {
	if opts == nil {
		opts = &Options{}
	}
	if err := opts.check(); err != nil {
		return nil, err
	}
	b, err := r.ready(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := r.mayOpen(b); err != nil {
		return nil, err
	}
	p := &Plan{Backup: b, Report: Report{Backup: b.ID}}
	// The target is asked first, because a refusal should not wait for the verification of a large backup.
	report(opts.Progress, Progress{Stage: StageCheck})
	if p.Verdict, err = loader.Check(ctx, Requirements{Backup: b, Options: opts}); err != nil {
		return nil, fmt.Errorf("looking at the target: %w", err)
	}
	if p.Verdict.Failed() {
		return p, nil
	}
	start := r.now()
	untouched := asIs(b, &p.Verdict, opts, start)
	if judgeAppends(&p.Verdict, b, untouched); p.Verdict.Failed() {
		return p, nil
	}
	if untouched {
		err = r.planAsIs(ctx, p, opts)
	} else {
		err = r.planConversion(ctx, p, loader, opts)
	}
	p.Report.Verify = r.now().Sub(start)
	return p, err
}

// planAsIs proves a backup that the target gets as it is. If the manifest says that its run parsed these very bytes to their end, their
// hash proves them sound; else they are parsed, too.
func (r *Restorer) planAsIs(ctx context.Context, p *Plan, opts *Options) error {
	b := p.Backup
	prove := r.verify
	if b.Verification.Structure {
		prove = r.verifyHashes
	}
	if _, err := prove(ctx, b, opts.Progress); err != nil {
		return err
	}
	if err := r.opens(ctx, b); err != nil {
		return err
	}
	p.src = &untouched{r: r, b: b}
	p.Report.Keys, p.Report.Functions, p.Report.DBs, p.Report.Bytes = b.Keys, b.Functions, b.DBs, b.RawBytes
	p.Report.Dialect = b.Source.Dialect
	return nil
}

// planConversion converts the backup without writing it anywhere, and asks the target again about what came out.
func (r *Restorer) planConversion(ctx context.Context, p *Plan, loader Loader, opts *Options) error {
	b := p.Backup
	to := p.Verdict.Dialect
	if to == (rdb.Dialect{}) {
		var err error
		if to, err = rdb.ParseDialect(b.Parts[0].Dialect); err != nil {
			return fmt.Errorf("%w: part %s: %w", ErrNotVerified, b.Parts[0].Name, err)
		}
	}
	convert, err := convertOptions(b, &p.Verdict, opts, r.now())
	if err != nil {
		return err
	}
	convert.Sizes = []rdb.DBStats{} // not yet known, and the source's don't hold for what is left of it
	c := &conversion{from: b, open: r.openPart, spool: func() (rdb.Spool, error) { return spoolIn(r.temp) }, to: to, opts: convert}
	var stored, keys atomic.Int64
	stop := clock.Every(progressInterval, func() {
		report(opts.Progress, Progress{Stage: StageVerify, Bytes: stored.Load(), Total: b.StoredBytes, Keys: keys.Load()})
	})
	watch := &watcher{
		inspect: inspect.New(&inspect.Options{Top: -1, Prefixes: -1}),
		stored:  stored.Store, keys: func(n int64) { keys.Add(n) },
	}
	var size sizer
	report, err := c.run(ctx, &size, nil, watch)
	stop()
	if err != nil {
		return fmt.Errorf("backup %s: %w", b.ID, r.noIdentity(b, err))
	}
	if why := watch.all.Differs(b); why != "" {
		return fmt.Errorf("%w: backup %s: %s", ErrNotVerified, b.ID, why)
	}
	// Now the sizes of the databases are known: the stream tells them to the target.
	c.opts.Sizes = slices.DeleteFunc(slices.Clone(report.DBs), func(db rdb.DBStats) bool { return db.Keys == 0 }) // of which commands alone tell
	size += sizer(len(rdb.AppendSizes(nil, to, c.opts.Sizes)))
	c.result = manifestOf(b, to, report, int64(size))
	p.src = c
	c.open = r.again
	p.found(c.result, report, watch.inspect.Report())
	verdict, err := loader.Check(ctx, Requirements{Backup: c.result, Options: opts, Memory: p.Memory, Final: true})
	if err != nil {
		return fmt.Errorf("looking at the target: %w", err)
	}
	p.Verdict = verdict
	p.losses()
	return nil
}

// sizer counts what is written to it.
type sizer int64

func (s *sizer) Write(p []byte) (int, error) {
	*s += sizer(len(p))
	return len(p), nil
}

// manifestOf returns the manifest of what a conversion makes.
func manifestOf(b *catalog.Backup, to rdb.Dialect, r *rdb.ConvertReport, size int64) *catalog.Backup {
	c := *b
	stats := rdb.Stats{Keys: r.Keys, Functions: r.Functions, DBs: r.DBs, Modules: r.Modules}
	for _, db := range r.DBs {
		stats.Expires += db.Expires
	}
	found := catalog.ContentsOf(to, stats)
	c.Keys, c.Expires, c.Functions, c.DBs, c.Modules = found.Keys, found.Expires, found.Functions, found.DBs, found.Modules
	c.RawBytes, c.StoredBytes, c.Commands = size, 0, r.Commands
	c.Parts = []catalog.Part{{Name: convertedPart, Dialect: to.String(), RawSize: size, Keys: found.Keys, Commands: r.Commands}}
	return &c
}

// found takes down what a conversion makes.
func (p *Plan) found(b *catalog.Backup, r *rdb.ConvertReport, in *inspect.Report) {
	rep := &p.Report
	rep.Dialect = r.To.String()
	rep.Keys, rep.Functions, rep.DBs, rep.Bytes = b.Keys, b.Functions, b.DBs, b.RawBytes
	rep.Filtered, rep.Expired, rep.Converted, rep.Commands = r.Filtered, r.Expired, r.Encoded, r.Commands
	rep.Losses = lossReports(r)
	p.Memory, p.MemoryByType = in.Total.Memory, map[string]int64{}
	for _, t := range in.Types {
		p.MemoryByType[t.Type] = t.Memory
	}
}

func lossReports(r *rdb.ConvertReport) (losses []LossReport) {
	for _, l := range r.Losses {
		losses = append(losses, LossReport{Name: string(l.Loss), Count: l.Count, Skipped: l.Skipped, Keys: l.Keys})
	}
	return losses
}

// lossTexts tell what accepting a loss means.
var lossTexts = map[rdb.Loss]string{
	rdb.LossType:         "keys have a value of a type that the target doesn't have: they are left out",
	rdb.LossModule:       "keys or data belong to modules that the target doesn't have: they are left out",
	rdb.LossFieldExpiry:  "hashes have fields that expire, which the target can't: those that haven't yet stay for ever",
	rdb.LossMemberExpiry: "sets have members that expire, which the target can't: those that haven't yet stay for ever",
	rdb.LossStreamCounts: "streams lose how many entries were ever added, the highest ID deleted, and what groups have read",
	rdb.LossStreamTimes:  "streams lose when their consumers were active",
	rdb.LossStreamNacks:  "pending entries of streams that have no owner are given to a consumer named \"nacked\"",
	rdb.LossStreamIDMP:   "streams lose what makes adding entries idempotent",
	rdb.LossFunction:     "function libraries are left out, which the target can't run",
	rdb.LossFlags:        "keys lose flags that only Dragonfly has",
	rdb.LossJournal:      "commands that were executed while the snapshot was taken are left out: the keys are not of one moment",
	rdb.LossIndex:        "definitions of search indexes are left out",
	rdb.LossCommand:      "commands can't be executed on the target, and are left out: the keys that they change are not as they were",
	rdb.LossRelative:     "commands only say in how long something expires, not when: it counts from the restore",
}

// harmless are losses that no client can see, or only one that looks at INFO-like details: they need nobody's consent.
var harmless = []rdb.Loss{rdb.LossStreamCounts, rdb.LossStreamTimes}

// losses makes points of the verdict of what the target can't hold.
func (p *Plan) losses() {
	for _, l := range p.Report.Losses {
		level := Warn
		if slices.Contains(harmless, rdb.Loss(l.Name)) {
			level = Pass
		}
		text := lossTexts[rdb.Loss(l.Name)]
		if text == "" {
			text = "can't be held by the target, and are left out"
		}
		if files := p.Backup.SetFiles(); len(files) > 0 && rdb.Loss(l.Name) == rdb.LossJournal {
			text += fmt.Sprintf("; the loader that writes by commands executes them (--method command), and a set of %d shards keeps them, of all keys as they are", len(files)-1)
		}
		if len(l.Keys) > 0 {
			text += " (such as " + strings.Join(l.Keys[:min(len(l.Keys), 3)], ", ") + ")"
		}
		p.Verdict.Add(level, l.Name, "%d %s", l.Count, text)
	}
	if p.Report.Commands > 0 {
		p.Verdict.Pass("commands", "%d commands are executed on top of the keys, in their order", p.Report.Commands)
	}
	if p.Report.Converted > 0 {
		p.Verdict.Pass("conversion", "%d keys are encoded anew, as %s", p.Report.Converted, p.Report.Dialect)
	}
}

// Restore verifies a backup and then lets loader put it into its target. A nil opts means the defaults.
//
// Before the target is touched everything is done that Plan does. A point of the verdict that failed ends the restore, and
// so does a warning that opts don't accept.
//
// When the error wraps ErrNotVerified, ErrNotEmpty, ErrRefused or ErrNotAccepted the target was not touched. Once anything was changed
// there, every error is a *PartialError that says what state the target is in.
//
// Until Restore returns it has the backup's read lease, if there is one to be had (see Config.Leaser), and so have Plan and Verify: whoever deletes
// it waits for that. A process that was paused for so long that it lost the lease goes on if the backup is ready still; else the error wraps
// reading.ErrDeleted.
func (r *Restorer) Restore(ctx context.Context, id catalog.ID, loader Loader, opts *Options) (rep *Report, err error) {
	if opts == nil {
		opts = &Options{}
	}
	ctx, end := r.hold(ctx, id)
	defer func() { err = end(err) }()
	p, err := r.plan(ctx, id, loader, opts)
	if err != nil {
		return nil, err
	}
	if err := p.Verdict.Err(opts); err != nil {
		return nil, err
	}
	crashpoint.Hit(crashpoint.RestoreVerified)
	var safety catalog.ID
	if opts.Conflict == Replace && p.Verdict.Holds > 0 && opts.Safety != nil {
		report(opts.Progress, Progress{Stage: StageSafety})
		if safety, err = opts.Safety(ctx); err != nil {
			return nil, fmt.Errorf("backing up what the target holds: %w; the target was not touched", err)
		}
	}
	rep, err = loadAndCompare(ctx, p, loader, opts)
	if err != nil {
		var partial *PartialError
		if errors.As(err, &partial) {
			partial.Safety = safety
		} else if safety != "" {
			err = fmt.Errorf("%w; the target was not touched, and its data is backup %s as well", err, safety)
		}
		return nil, err
	}
	rep.Safety = safety
	report(opts.Progress, Progress{Stage: StageDone, Bytes: rep.Bytes, Total: rep.Bytes, Keys: rep.Keys})
	return rep, nil
}

// ageOf is how old a backup is.
func ageOf(b *catalog.Backup, now time.Time) time.Duration { return max(now.Sub(b.CreatedAt), 0) }
