package storejournal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/schedule"
	"github.com/amberkv/amber/storage"
)

// PutRun writes what became of a due time, as schedule.Journal says.
func (j *Journal) PutRun(ctx context.Context, r *schedule.Run, prev schedule.Revision) (schedule.Revision, error) {
	dir, err := runDir(r.Policy, r.Due)
	if err != nil {
		return "", fmt.Errorf("storejournal: put run: %w", err)
	}
	rev, err := j.put(ctx, dir, prev, &record{Run: r})
	if err != nil {
		return "", fmt.Errorf("storejournal: put run of policy %s due at %s: %w", r.Policy, r.Due.UTC().Format(time.RFC3339), err)
	}
	return rev, nil
}

// GetRun returns what became of a due time, as schedule.Journal says.
func (j *Journal) GetRun(ctx context.Context, policy string, due time.Time) (*schedule.Run, schedule.Revision, error) {
	dir, err := runDir(policy, due)
	if err != nil {
		return nil, "", fmt.Errorf("storejournal: get run: %w: %w", errNone, err)
	}
	r := dueRun{policy: policy, due: due}
	rec, rev, err := j.get(ctx, dir, r.check)
	if err != nil {
		return nil, rev, fmt.Errorf("storejournal: get run of policy %s due at %s: %w", policy, due.UTC().Format(time.RFC3339), err)
	}
	return rec.Run, rev, nil
}

// Runs gives the runs that q selects, as schedule.Journal says. For one policy it lists the runs of that, reads one after the other and stops
// at the limit, or before From; so the latest ones cost little, however many there are. For all policies it lists all of them first.
func (j *Journal) Runs(ctx context.Context, q schedule.RunQuery) iter.Seq2[*schedule.Run, error] {
	return func(yield func(*schedule.Run, error) bool) {
		if q.Limit < 0 {
			yield(nil, fmt.Errorf("storejournal: runs: RunQuery.Limit is negative: %d", q.Limit))
			return
		}
		given := 0
		for r, err := range j.dueRuns(ctx, q) {
			var run *schedule.Run
			if err == nil {
				run, err = j.readRun(ctx, r)
			}
			switch {
			case errors.Is(err, schedule.ErrNotFound):
				continue
			case err != nil:
				if !yield(nil, fmt.Errorf("storejournal: runs: %w", err)) || !errors.Is(err, schedule.ErrCorrupt) {
					return
				}
				continue
			case len(q.States) > 0 && !slices.Contains(q.States, run.State), q.DataStore != "" && q.DataStore != run.DataStore:
				continue
			}
			given++
			if !yield(run, nil) || given == q.Limit {
				return
			}
		}
	}
}

// TrimRuns removes old runs, as schedule.Journal says. Those that can't be read are removed too. When it is cut short, a later
// TrimRuns goes on.
func (j *Journal) TrimRuns(ctx context.Context, policy string, before time.Time) (int, error) {
	removed := 0
	err := catalog.ValidName(policy)
	if err == nil {
		removed, err = j.trimRuns(ctx, policy, before)
	}
	if err != nil {
		return removed, fmt.Errorf("storejournal: trim runs of policy %.40q: %w", policy, err)
	}
	return removed, nil
}

func (j *Journal) trimRuns(ctx context.Context, policy string, before time.Time) (removed int, err error) {
	latest := true
	for r, err := range j.dueRuns(ctx, schedule.RunQuery{Policy: policy}) {
		if err != nil {
			return removed, err
		}
		if latest || !r.due.Before(before) {
			latest = false
			continue
		}
		was, err := j.trim(ctx, r)
		if err != nil {
			return removed, err
		}
		if was {
			removed++
		}
	}
	return removed, nil
}

// trim removes a run, unless it is running.
func (j *Journal) trim(ctx context.Context, r dueRun) (bool, error) {
	rec, rev, err := j.get(ctx, r.dir(), r.check)
	switch {
	case errors.Is(err, schedule.ErrNotFound):
		// It was removed meanwhile, or but for its tombstone.
		v, err := j.look(ctx, r.dir())
		if err != nil || !v.deleted() {
			return false, err
		}
		return false, j.tidy(ctx, r.dir(), v.below(v.highest+1))
	case err != nil && !errors.Is(err, schedule.ErrCorrupt):
		return false, err
	case err == nil && rec.Run.State == schedule.RunRunning:
		return false, nil
	}
	after, err := j.bury(ctx, r.dir(), rev)
	switch {
	case errors.Is(err, schedule.ErrConflict), errors.Is(err, schedule.ErrNotFound), errors.Is(err, errUnknown):
		return false, nil // somebody else is at it
	case err != nil:
		return false, err
	}
	return true, j.tidy(ctx, r.dir(), after.below(after.highest+1))
}

// A dueRun is a run that was listed.
type dueRun struct {
	policy string
	due    time.Time
	versions
}

func (r dueRun) dir() string { return runsPrefix + r.policy + "/" + dueName(r.due) + "/" }

// check says what is wrong with the record of a run.
func (r dueRun) check(rec *record) error {
	switch {
	case rec.Run == nil:
		return errors.New("it has no run in it")
	case rec.Run.Policy != r.policy || !rec.Run.Due.Equal(r.due):
		return fmt.Errorf("it is the run of policy %.40q due at %s", rec.Run.Policy, rec.Run.Due.UTC().Format(time.RFC3339))
	}
	return nil
}

// readRun reads a run that was listed.
func (j *Journal) readRun(ctx context.Context, r dueRun) (*schedule.Run, error) {
	rec, err := j.read(ctx, r.dir(), r.versions, r.check)
	if errors.Is(err, storage.ErrNotFound) || errors.Is(err, errAlone) {
		rec, _, err = j.get(ctx, r.dir(), r.check)
	}
	if err != nil {
		return nil, err
	}
	return rec.Run, nil
}

// dueRuns lists the due times that q selects by its policy and times, the latest first.
func (j *Journal) dueRuns(ctx context.Context, q schedule.RunQuery) iter.Seq2[dueRun, error] {
	return func(yield func(dueRun, error) bool) {
		listed := func(r dueRun) bool {
			return (q.From.IsZero() || !r.due.Before(q.From)) && (q.Until.IsZero() || r.due.Before(q.Until))
		}
		if q.Policy != "" {
			if err := catalog.ValidName(q.Policy); err != nil {
				yield(dueRun{}, fmt.Errorf("RunQuery.Policy %.40q: %w", q.Policy, err))
				return
			}
			for r, err := range j.grouped(ctx, runsPrefix+q.Policy+"/") {
				switch {
				case err == nil && !q.From.IsZero() && r.due.Before(q.From):
					return // as are all that come after it
				case err == nil && !listed(r):
				case !yield(r, err) || err != nil:
					return
				}
			}
			return
		}
		var all []dueRun
		for r, err := range j.grouped(ctx, runsPrefix) {
			if err != nil {
				yield(dueRun{}, err)
				return
			}
			if listed(r) {
				all = append(all, r)
			}
		}
		slices.SortFunc(all, func(a, b dueRun) int { return cmp.Or(b.due.Compare(a.due), cmp.Compare(a.policy, b.policy)) })
		for _, r := range all {
			if !yield(r, nil) {
				return
			}
		}
	}
}

// grouped lists the runs below a prefix in the order of their keys, which is that of a policy's due times from the latest on.
func (j *Journal) grouped(ctx context.Context, prefix string) iter.Seq2[dueRun, error] {
	return func(yield func(dueRun, error) bool) {
		var at dueRun // that is being listed; its keys are together
		for info, err := range j.store.List(ctx, prefix) {
			if err != nil {
				yield(dueRun{}, err)
				return
			}
			policy, due, n, ok := parseRunKey(info.Key)
			if !ok {
				continue
			}
			if at.policy != policy || !at.due.Equal(due) {
				if at.highest > 0 && !yield(at, nil) {
					return
				}
				at = dueRun{policy: policy, due: due}
			}
			at.add(n, info)
		}
		if at.highest > 0 {
			yield(at, nil)
		}
	}
}

// lastSecond is the last of the year 9999, in Unix time: the order of a due time is how far it is from that.
const lastSecond = 253402300799

const dueLayout = "20060102T150405Z"

// dueName is the segment of a run's key that is for its due time, in twelve digits and for people to read.
func dueName(due time.Time) string {
	return fmt.Sprintf("%012d-%s", lastSecond-due.Unix(), due.UTC().Format(dueLayout))
}

func parseDue(name string) (time.Time, bool) {
	_, text, ok := strings.Cut(name, "-")
	if !ok {
		return time.Time{}, false
	}
	due, err := time.Parse(dueLayout, text)
	return due, err == nil && dueName(due) == name // only the one spelling
}

// runDir returns where the versions of a run are.
func runDir(policy string, due time.Time) (string, error) {
	if err := catalog.ValidName(policy); err != nil {
		return "", fmt.Errorf("policy %.40q: %w", policy, err)
	}
	if due.Nanosecond() != 0 || due.Unix() < 0 || due.Unix() > lastSecond {
		return "", fmt.Errorf("policy %s: the due time %s is not a whole second of the years 1970 to 9999", policy, strconv.Quote(due.Format(time.RFC3339Nano)))
	}
	return dueRun{policy: policy, due: due}.dir(), nil
}

func parseRunKey(key string) (policy string, due time.Time, n int, ok bool) {
	rest, ok := strings.CutPrefix(key, runsPrefix)
	parts := strings.Split(rest, "/")
	if !ok || len(parts) != 3 || catalog.ValidName(parts[0]) != nil {
		return "", time.Time{}, 0, false
	}
	due, ok = parseDue(parts[1])
	if !ok {
		return "", time.Time{}, 0, false
	}
	n, ok = parseVersion(parts[2])
	return parts[0], due, n, ok
}
