package command

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/internal/resp"
	srv "github.com/amberkv/amber/internal/target"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/restore"
)

// finish counts what the target has, and removes the mark.
func (r *run) finish(ctx context.Context, report *restore.Report) error {
	r.fix.Lock()
	defer r.fix.Unlock()
	if err := r.putBack(ctx); err != nil {
		report.Warnings = append(report.Warnings, err.Error())
	}
	if err := r.unpark(ctx); err != nil {
		return err
	}
	if r.commanded.Load() {
		got, _, err := r.census(ctx)
		if err != nil {
			return err
		}
		report.Warnings = append(report.Warnings, fmt.Sprintf("the target holds %d keys: how many there have to be after %d commands isn't known", got.Total(), report.Commands))
	} else if !r.opts.Conflict.Merges() {
		got, err := r.count(ctx)
		if err != nil {
			return err
		}
		report.Proof.Counted = true
		if r.opts.Progress != nil {
			r.opts.Progress(restore.Progress{Stage: restore.StageCount, Bytes: r.backup.RawBytes, Total: r.backup.RawBytes, Keys: got.Total()})
		}
	}
	return r.unmark(ctx)
}

// count compares the keys of each database with those that were written. Those that expire meanwhile may be gone.
func (r *run) count(ctx context.Context) (srv.Counts, error) {
	begin := clock.System()
	for {
		got, libraries, err := r.census(ctx)
		if err != nil {
			return nil, err
		}
		why := r.differs(got)
		if why == "" && libraries < r.functions {
			why = fmt.Sprintf("%d function libraries instead of %d", libraries, r.functions)
		}
		if why == "" {
			return got, nil
		}
		if why = r.differs(r.without(ctx, got)); why == "" {
			return got, nil
		}
		// A slot that is just being moved may be counted twice, or a node be asked before it has what it was sent by another.
		if !r.cluster() || clock.Since(begin) > r.cfg.Grace {
			return nil, fmt.Errorf("what the target holds is not what was written to it: %s. Did somebody else write to it, or does it evict keys?", why)
		}
		if err := clock.Sleep(ctx, 100*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// without takes off the keys that others are trying something with, under reserved names.
func (r *run) without(ctx context.Context, got srv.Counts) srv.Counts {
	got = maps.Clone(got)
	for _, n := range r.topo.Load().nodes {
		for db := range got {
			names, err := scan(ctx, r.admin(n.addr), db, r.cluster(), probePrefix+"*")
			if err == nil {
				got[db] -= int64(len(names))
			}
		}
	}
	return got
}

// differs compares counts with what was written.
func (r *run) differs(got srv.Counts) string {
	got = maps.Clone(got)
	wrote, expired := r.tally.wrote(clock.System())
	for db, n := range got {
		if n == 0 {
			delete(got, db)
			continue
		}
		if wrote[db]-expired[db] <= n && n <= wrote[db] {
			wrote[db] = n
		}
	}
	for db, n := range wrote {
		if got[db] == 0 && n <= expired[db] {
			delete(wrote, db)
		}
	}
	return srv.Differ(wrote, got)
}

// report says what was done.
func (r *run) report(load time.Duration) *restore.Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	rep := &restore.Report{
		Backup: r.backup.ID, Target: r.facts.addr, Method: "command", Keys: r.tally.keys.Load(), Functions: r.functions,
		DBs: r.tally.report(), Skipped: r.tally.skipped.Load(), Converted: r.converted, Commands: r.tally.commands.Load(), Bytes: r.read.Load(), Load: max(load, 1), Warnings: r.warnings,
	}
	if d := r.facts.dialect; d != (rdb.Dialect{}) {
		rep.Dialect = d.String()
	}
	for _, l := range r.losses {
		rep.Losses = append(rep.Losses, *l)
	}
	slices.SortFunc(rep.Losses, func(a, b restore.LossReport) int { return strings.Compare(a.Name, b.Name) })
	if n := r.skippedFn; n > 0 {
		rep.Warnings = append(rep.Warnings, fmt.Sprintf("%d function libraries were left alone because the target has libraries of these names", n))
	}
	return rep
}

func sortDBs(dbs []catalog.DB) {
	slices.SortFunc(dbs, func(a, b catalog.DB) int { return a.Index - b.Index })
}

func join(names []string) string { return strings.Join(names, ", ") }

// libraryName returns the name of a library by the first line of its source: "#!lua name=shop".
func libraryName(source []byte) string {
	line, _, _ := bytes.Cut(source, []byte("\n"))
	for _, f := range strings.Fields(string(line)) {
		if name, ok := strings.CutPrefix(f, "name="); ok {
			return strings.Trim(name, `"'`)
		}
	}
	return ""
}

// askFunction notes a library that both have.
func (r *run) askFunction(ctx context.Context, source []byte) error {
	r.fix.Lock()
	defer r.fix.Unlock()
	name := libraryName(source)
	reply, err := r.do(ctx, r.topo.Load().nodes[0].addr, "FUNCTION", "LIST", "LIBRARYNAME", name)
	if err != nil {
		return fmt.Errorf("looking for the function library %s: %w", name, err)
	}
	if len(reply.Elems) > 0 {
		r.mu.Lock()
		r.conflicts++
		r.both = append(r.both, "function library "+name)
		r.mu.Unlock()
	}
	return nil
}

// loadFunction loads a library into every primary. Each shard of a cluster has the same libraries, of which one is enough.
func (r *run) loadFunction(ctx context.Context, source []byte) error {
	r.fix.Lock()
	defer r.fix.Unlock()
	args := []string{"FUNCTION", "LOAD", string(source)}
	if r.opts.Conflict != restore.MergeSkip && r.opts.Conflict != restore.MergeFail || r.carriesOn {
		args = []string{"FUNCTION", "LOAD", "REPLACE", string(source)}
	}
	name := libraryName(source)
	sum := sha256.Sum256(source)
	if had, ok := r.libraries[name]; ok && had == sum {
		return nil
	}
	skipped := false
	if !slices.Contains(r.tried, name) {
		r.tried = append(r.tried, name)
	}
	r.touch()
	for _, n := range r.topo.Load().nodes {
		tries := 0
		err := r.patiently(ctx, func() error {
			tries++
			_, err := r.admin(n.addr).Do(ctx, args...)
			return err
		})
		switch {
		case err == nil:
		case tries > 1 && strings.Contains(err.Error(), "already exists") && r.hasLibrary(ctx, n.addr, name, source):
		case strings.Contains(err.Error(), "already exists") && r.opts.Conflict == restore.MergeSkip:
			skipped = true
		default:
			return fmt.Errorf("loading the function library %s into %s: %w", name, n.addr, err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.libraries == nil {
		r.libraries = make(map[string][sha256.Size]byte)
	}
	_, again := r.libraries[name]
	r.libraries[name] = sum
	switch {
	case again: // another code of the same name, which has taken its place
	case skipped:
		r.skippedFn++
	default:
		r.functions++
	}
	return nil
}

// hasLibrary tells whether a node has a library with just this source.
func (r *run) hasLibrary(ctx context.Context, addr, name string, source []byte) bool {
	reply, err := r.do(ctx, addr, "FUNCTION", "LIST", "LIBRARYNAME", name, "WITHCODE")
	if err != nil || len(reply.Elems) != 1 {
		return false
	}
	return slices.ContainsFunc(reply.Elems[0].Elems, func(e resp.Reply) bool { return e.Text == string(source) })
}

// do asks a node something that may be asked twice, until it answers. The caller has r.fix.
func (r *run) do(ctx context.Context, addr string, args ...string) (reply resp.Reply, err error) {
	err = r.patiently(ctx, func() error {
		reply, err = r.admin(addr).Do(ctx, args...)
		return err
	})
	return reply, err
}

// patiently calls f until it does without an error that passes, for Config.Stall at most.
func (r *run) patiently(ctx context.Context, f func() error) error {
	begin, pause := clock.System(), firstPause
	for {
		err := f()
		if err == nil || ctx.Err() != nil || srv.Refused(err) && !passing(srv.Code(err)) || clock.Since(begin) > r.cfg.Stall {
			return err
		}
		if clock.Sleep(ctx, pause) != nil {
			return context.Cause(ctx)
		}
		pause = min(2*pause, longestPause)
	}
}

const setMaxBulk = "proto-max-bulk-len"

// raise lets the target take a string of some size, and tells why not.
func (r *run) raise(ctx context.Context, size int64) (bool, error) {
	r.fix.Lock()
	defer r.fix.Unlock()
	to := size + 1<<20
	for _, n := range r.topo.Load().nodes {
		reply, err := r.do(ctx, n.addr, "CONFIG", "GET", setMaxBulk)
		if err == nil && len(reply.Elems) < 2 {
			err = errors.New("the target has no such setting")
		}
		if err == nil {
			_, err = r.do(ctx, n.addr, "CONFIG", "SET", setMaxBulk, itoa(to))
		}
		if err != nil {
			return false, fmt.Errorf("raising %s: %w", setMaxBulk, err)
		}
		former := reply.Elems[1].Text
		if _, was := r.raised[n.addr]; !was {
			r.raised[n.addr] = former
		}
		r.log.Info("the target takes larger strings for the time of the restore", "target", n.addr, "bytes", to)
	}
	r.facts.caps.maxArg = to
	return true, nil
}

// putBack gives settings their former values.
func (r *run) putBack(ctx context.Context) error {
	var errs []error
	for addr, former := range r.raised {
		if _, err := r.do(ctx, addr, "CONFIG", "SET", setMaxBulk, former); err != nil {
			errs = append(errs, fmt.Errorf("%s of %s was %s and is higher now: %w", setMaxBulk, addr, former, err))
			continue
		}
		delete(r.raised, addr)
	}
	return errors.Join(errs...)
}

// fail brings the target into a known state after cause, and says which.
func (r *run) fail(ctx context.Context, cause error) error {
	r.fix.Lock()
	defer r.fix.Unlock()
	if !r.changed {
		return cause
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.cfg.Grace)
	defer cancel()
	r.closeAdmins() // those that were used so far may hang
	partial := &restore.PartialError{Target: r.facts.addr, State: restore.TargetUnknown, Keys: -1, Err: cause, Failed: r.failed}
	var todo []string
	if err := r.putBack(ctx); err != nil {
		todo = append(todo, err.Error())
	}
	got, err := r.tidy(ctx)
	if err != nil {
		todo = append(todo, fmt.Sprintf("it could not be asked within %v (%v)", r.cfg.Grace, err))
	} else {
		partial.State, partial.Keys = r.state(ctx, got), got.Total()
	}
	if r.marked && r.commanded.Load() {
		todo = append(todo, fmt.Sprintf("the key %s in database 0 marks what is there as incomplete. %d commands of the backup were executed, which can't be done twice: restore again with Replace",
			markKey, r.tally.commands.Load()))
	} else if r.marked {
		todo = append(todo, fmt.Sprintf("the key %s in database 0 marks what is there as incomplete. Restore the same backup again to carry on", markKey))
	}
	partial.Detail = strings.Join(todo, "; ")
	return partial
}

// tidy removes the temporary names of this run and counts the keys.
func (r *run) tidy(ctx context.Context) (srv.Counts, error) {
	var got srv.Counts
	var err error
	for {
		if r.temps > 0 {
			err = r.removeTemps(ctx)
		}
		if err == nil {
			got, _, err = r.census(ctx)
		}
		if err == nil {
			break
		}
		var refused resp.Error
		if errors.As(err, &refused) && !passing(refused.Code()) || clock.Sleep(ctx, firstPause) != nil {
			return nil, err
		}
	}
	return got, nil
}

// state says what the target holds, and removes the mark where there is nothing to carry on with.
func (r *run) state(ctx context.Context, got srv.Counts) restore.TargetState {
	wrote, _ := r.tally.wrote(clock.System())
	none := !r.sent.Load()
	switch {
	case none && !r.flushed && !r.carriesOn:
		if r.unmark(ctx) == nil && r.opts.Conflict.Merges() && got.Total() > 0 {
			return restore.TargetUnchanged
		}
	case got.Total() == 0 && r.forgetFunctions(ctx):
		r.unmark(ctx)
	}
	switch {
	case got.Total() == 0 && !r.marked:
		return restore.TargetEmpty
	case none && !r.flushed:
		return restore.TargetUnchanged
	case r.backup.Commands > 0 && len(r.failed) == 0 && r.complete:
		return restore.TargetLoaded
	case r.backup.Commands > 0:
		return restore.TargetPartial
	case len(r.failed) == 0 && r.tally.keys.Load() == r.backup.Keys && srv.Differ(want(r.backup), wrote) == "" && r.differs(got) == "":
		return restore.TargetLoaded
	}
	return restore.TargetPartial
}

// forgetFunctions removes the libraries that were loaded into a target that had none before, and tells whether none is left.
func (r *run) forgetFunctions(ctx context.Context) bool {
	if len(r.tried) == 0 {
		return true
	}
	if r.opts.Conflict.Merges() {
		return false
	}
	for _, n := range r.topo.Load().nodes {
		for _, name := range r.tried {
			if _, err := r.do(ctx, n.addr, "FUNCTION", "DELETE", name); err != nil && !strings.Contains(err.Error(), "not found") {
				return false
			}
		}
	}
	return true
}

// want returns the counts that the manifest tells.
func want(b *catalog.Backup) srv.Counts {
	c := srv.Counts{}
	for _, db := range b.DBs {
		if db.Keys > 0 {
			c[db.Index] = db.Keys
		}
	}
	return c
}
