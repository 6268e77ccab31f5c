package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/internal/replication"
	"github.com/amberkv/amber/rdb"
)

// A Viewer is a Loader whose target can be looked at by commands once it is loaded. Without it nothing is compared but what the
// loader itself counts.
type Viewer interface {
	// View returns how a client reaches the target. They aren't changed.
	View() *redis.Options
}

// sampleKeys is about how many keys are compared unless the caller says all.
const sampleKeys = 1000

// sampled is a source that a sampler looks at while the loader reads it.
type sampled struct {
	Source
	sampler *sampler
}

func (s *sampled) Open(ctx context.Context, p catalog.Part) (io.ReadCloser, error) {
	in, err := s.Source.Open(ctx, p)
	if err != nil {
		return nil, err
	}
	return &sampledPart{ReadCloser: s.sampler.reader(in), in: in}, nil
}

// sampledPart is a part of it.
type sampledPart struct {
	io.ReadCloser
	in io.Closer
}

func (p *sampledPart) Close() error {
	err := p.in.Close() // first, as it ends a Read that waits
	return errors.Join(err, p.ReadCloser.Close())
}

// loadAndCompare lets the loader write, and holds what the target has then against what it got.
func loadAndCompare(ctx context.Context, p *Plan, loader Loader, opts *Options) (*Report, error) {
	src, s := p.src, (*sampler)(nil)
	view, ok := loader.(Viewer)
	if ok && opts.Compare == CompareSample {
		s = newSampler(p.Report.Keys, sampleKeys)
		s.commands = p.src.Backup().Commands > 0 || live(p.src.Backup())
		src = &sampled{Source: src, sampler: s}
	}
	rep, err := loader.Load(ctx, src, opts)
	if err != nil {
		return nil, err
	}
	var known int64 // values that the loader says aren't in the target as they are in the backup
	for _, l := range rep.Losses {
		known += l.Count
	}
	plan := p.Report
	rep.Verify, rep.Filtered, rep.Expired = plan.Verify, plan.Filtered, plan.Expired
	rep.Dialect = plan.Dialect
	rep.Converted = min(rep.Converted+plan.Converted, rep.Keys) // a key may be both converted and written by commands
	rep.Losses = append(plan.Losses, rep.Losses...)
	if rep.DBs == nil {
		rep.DBs, rep.Functions = plan.DBs, plan.Functions
	}
	if !ok || opts.Compare == CompareNone {
		return rep, nil
	}
	return rep, compareLoaded(ctx, p.src, s, view.View(), rep, known, opts)
}

// compareLoaded compares values, of the sample or all, and takes down in the report what that found.
func compareLoaded(ctx context.Context, src Source, s *sampler, to *redis.Options, rep *Report, known int64, opts *Options) error {
	start := clock.System()
	c := newComparer(to)
	defer c.close()
	total := rep.Keys
	progress := func(keys int64) {
		report(opts.Progress, Progress{Stage: StageCompare, Bytes: 0, Total: 0, Keys: keys})
	}
	var found *comparison
	var err error
	if s != nil {
		found, err = compareSample(ctx, c, s, progress)
	} else {
		found, err = comparePart(ctx, c, src, progress)
	}
	rep.Proof.Took = clock.Since(start)
	if err != nil {
		return &PartialError{Target: replication.Address(to), State: TargetLoaded, Keys: -1,
			Err: fmt.Errorf("all is loaded, but values could not be compared: %w", err)}
	}
	rep.Proof.Compared, rep.Proof.Expired = found.compared, found.expired
	rep.Warnings = append(rep.Warnings, found.notes...)
	if found.different == 0 {
		return nil
	}
	text := fmt.Sprintf("of %d keys that were compared %d differ from the backup: %s", found.compared, found.different, strings.Join(found.differences, "; "))
	switch {
	case opts.Conflict == MergeSkip && rep.Skipped >= found.different, found.different == found.details && found.details <= known:
		rep.Proof.Changed = found.different // the target's own, and what the loader told of
		return nil
	case opts.Conflict.Merges():
		// Its clients have gone on writing: that is what merging is for.
		rep.Proof.Changed = found.different
		rep.Warnings = append(rep.Warnings, text)
		return nil
	}
	return &PartialError{Target: replication.Address(to), State: TargetPartial, Keys: total, Failed: found.differences,
		Err:    fmt.Errorf("of %d keys that were compared %d differ from the backup", found.compared, found.different),
		Detail: "somebody else wrote to it during the restore, or it doesn't keep what it is given: look, and restore again with Replace"}
}

// comparePart compares all that a source has.
func comparePart(ctx context.Context, c *comparer, src Source, progress func(int64)) (*comparison, error) {
	all := &comparison{}
	touched, err := touchedBy(ctx, src)
	if err != nil {
		return nil, err
	}
	for _, p := range src.Backup().Parts {
		in, err := src.Open(ctx, p)
		if err != nil {
			return nil, err
		}
		found, err := compareAll(ctx, c, rdb.NewReader(in, &rdb.ReaderOptions{Commands: true}), touched, func(keys int64) { progress(all.compared + keys) })
		if err == nil {
			_, err = io.Copy(io.Discard, in) // its end proves it
		}
		in.Close()
		if err != nil {
			return nil, fmt.Errorf("part %s: %w", p.Name, err)
		}
		all.compared += found.compared
		all.expired += found.expired
		all.different += found.different
		all.details += found.details
		all.differences = append(all.differences, found.differences[:min(len(found.differences), 10-len(all.differences))]...)
		all.notes = append(all.notes, found.notes...)
	}
	return all, nil
}
