package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/rdb"
)

// A LiveLoader is a Loader that can also take a snapshot that nobody has proved, because a stream that turns out to be broken does
// its target no more harm than keys that are missing. Without this method a loader only gets backups.
type LiveLoader interface {
	Loader
	// TakesLive does nothing: having it is what says so.
	TakesLive()
}

// A CopyConfig is what Copy works with besides its arguments. The zero value means the defaults.
type CopyConfig struct {
	Now     func() time.Time // nil: the machine's clock
	TempDir string           // where values are held that are too large for memory; empty: the system's
}

// Copy puts a snapshot into a target while it comes from its source, without keeping it: what Restore does, for a source that can be
// read once. Its manifest says where it comes from and which parts it has; counts and sizes aren't known.
//
// So nothing is proved before, and what the target can't hold shows only on the way: unless opts accept such a loss, the copy ends there. The
// target is looked at before, as with Restore, and counted after; values of a sample of keys are compared unless opts say none.
//
// Once anything was changed at the target every error is a *PartialError. It wraps an *rdb.LossError if something would have been lost.
func Copy(ctx context.Context, src Source, loader LiveLoader, opts *Options, cfg CopyConfig) (*Report, error) {
	if opts == nil {
		opts = &Options{}
	}
	if err := opts.check(); err != nil {
		return nil, err
	}
	if opts.Compare == CompareAll {
		return nil, errors.New("restore: a copy is read once: only a sample of it can be compared afterwards")
	}
	b := src.Backup()
	if len(b.Parts) == 0 {
		return nil, errors.New("restore: the snapshot has no parts")
	}
	if appends(b) || b.Source.Method == "aof" {
		return nil, errors.New("restore: a snapshot of append-only files can't be copied while it comes: make a backup of it and restore that")
	}
	report(opts.Progress, Progress{Stage: StageCheck})
	v, err := loader.Check(ctx, Requirements{Backup: b, Options: opts})
	if err != nil {
		return nil, fmt.Errorf("looking at the target: %w", err)
	}
	if err := v.Err(opts); err != nil {
		return nil, err
	}
	now := clock.Or(cfg.Now)()
	convert, err := convertOptions(b, &v, opts, now)
	if err != nil {
		return nil, err
	}
	convert.Policy, convert.Policies = rdb.Fail, accepted(opts)
	c := &conversion{from: b, open: src.Open, spool: func() (rdb.Spool, error) { return spoolIn(cfg.TempDir) }, to: v.Dialect, opts: convert}
	var mu sync.Mutex
	var done rdb.ConvertReport
	c.told = func(r *rdb.ConvertReport) {
		mu.Lock()
		defer mu.Unlock()
		done = *r
	}
	result := *b
	result.Parts = slices.Clone(b.Parts[:1])
	result.Parts[0].Name, result.Parts[0].Dialect, result.Parts[0].RawSize = convertedPart, v.Dialect.String(), 0
	c.result = &result

	p := &Plan{Backup: b, Verdict: v, src: c}
	rep, err := loadAndCompare(ctx, p, loader, opts)
	if err != nil {
		return nil, err
	}
	mu.Lock()
	defer mu.Unlock()
	rep.Dialect = done.To.String()
	rep.Filtered, rep.Expired = done.Filtered, done.Expired
	rep.Converted += done.Encoded
	rep.Losses = append(lossReports(&done), rep.Losses...)
	report(opts.Progress, Progress{Stage: StageDone, Bytes: rep.Bytes, Total: rep.Bytes, Keys: rep.Keys})
	return rep, nil
}

// accepted are the losses that don't end a copy.
func accepted(opts *Options) map[rdb.Loss]rdb.Policy {
	policies := map[rdb.Loss]rdb.Policy{}
	for loss := range lossTexts {
		if opts.accepts(string(loss)) || slices.Contains(harmless, loss) {
			policies[loss] = rdb.DropDetail
		}
	}
	return policies
}
