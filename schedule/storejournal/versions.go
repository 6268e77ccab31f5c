package storejournal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/amberkv/amber/schedule"
	"github.com/amberkv/amber/storage"
)

// Superseded versions stay as long as they are among the last few or counted not long ago. Who was paused between looking and creating then meets the
// version that beat it; and a listing, which is no snapshot, doesn't miss every version because newer ones came and older ones went
// while it was made.
const (
	keep    = 8
	keepFor = time.Hour
)

// errNone: there is no such policy or run.
var errNone = fmt.Errorf("it %w", schedule.ErrNotFound)

// errUnknown: what became of a version isn't known.
var errUnknown = errors.New("others have changed it meanwhile, so that the outcome is not known: read it again")

func conflict(format string, args ...any) error {
	return fmt.Errorf("it %w: "+format, append([]any{schedule.ErrConflict}, args...)...)
}

// A checkFunc says what is wrong with a record that could be read.
type checkFunc func(rec *record) error

// errAlone: a version has lost the one before it, which every version that counts has beside it, unless it is the first or a tombstone.
var errAlone = errors.New("the revision before it is not there: it was created after the others had been removed, or that one was lost")

// look lists the versions in a directory.
func (j *Journal) look(ctx context.Context, dir string) (versions, error) {
	var v versions
	for info, err := range j.store.List(ctx, dir) {
		if err != nil {
			return versions{}, err
		}
		if n, ok := parseVersion(info.Key[len(dir):]); ok {
			v.add(n, info)
		}
	}
	return v, nil
}

// get reads the highest version. With an error that wraps schedule.ErrCorrupt there is a revision.
func (j *Journal) get(ctx context.Context, dir string, check checkFunc) (*record, schedule.Revision, error) {
	alone := 0 // the version that was found so last
	for range 100 {
		v, err := j.look(ctx, dir)
		if err != nil {
			return nil, "", err
		}
		rec, err := j.read(ctx, dir, v, check)
		switch {
		case errors.Is(err, storage.ErrNotFound):
			continue // it was removed meanwhile, so there is a higher one, or none
		case errors.Is(err, errAlone) && alone != v.highest:
			alone = v.highest
			continue // a listing is no snapshot: what removes the others may be above them by now
		case errors.Is(err, schedule.ErrCorrupt):
			return nil, v.revision(), err
		case err != nil:
			return nil, "", err
		}
		return rec, v.revision(), nil
	}
	return nil, "", fmt.Errorf("%s: every version was removed before it could be read", dir)
}

// read reads the highest of some versions. The error wraps schedule.ErrNotFound if that is a tombstone or there is none, and storage.ErrNotFound if it
// was removed meanwhile.
func (j *Journal) read(ctx context.Context, dir string, v versions, check checkFunc) (*record, error) {
	if v.highest == 0 {
		return nil, errNone
	}
	key := dir + versionName(v.highest)
	corrupt := func(err error) (*record, error) {
		return nil, fmt.Errorf("%s: %w: %w", key, schedule.ErrCorrupt, err)
	}
	if v.size > maxLen {
		return corrupt(fmt.Errorf("it has %d bytes, the limit is %d", v.size, maxLen))
	}
	data, err := storage.ReadFile(ctx, j.store, key, maxLen)
	if err != nil {
		return nil, err
	}
	rec, err := decode(data)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", key, err)
	case rec.Deleted:
		return nil, errNone
	}
	if err := check(rec); err != nil {
		return corrupt(err)
	}
	if v.highest > 1 && !v.has(v.highest-1) {
		return corrupt(errAlone)
	}
	return rec, nil
}

// put creates the version after prev.
func (j *Journal) put(ctx context.Context, dir string, prev schedule.Revision, rec *record) (schedule.Revision, error) {
	data, err := encode(rec)
	if err != nil {
		return "", err
	}
	v, err := j.look(ctx, dir)
	if err != nil {
		return "", err
	}
	switch {
	case prev == "" && !v.deleted():
		return "", conflict("it exists already, at revision %s", v.revision())
	case prev != "" && v.deleted():
		return "", conflict("there is none any more")
	case prev != "" && prev != v.revision():
		return "", conflict("it is at revision %s, not at %.20q", v.revision(), prev)
	}
	after, err := j.succeed(ctx, dir, v, data)
	if err != nil {
		return "", err
	}
	// What can't be removed now is removed with the next version.
	j.tidy(ctx, dir, after.superseded(keep))
	return versions{highest: v.highest + 1}.revision(), nil
}

// bury puts a tombstone if rev is the revision. It returns what was listed after that, or, with errNone, what there is instead.
func (j *Journal) bury(ctx context.Context, dir string, rev schedule.Revision) (versions, error) {
	data, err := encode(&record{Deleted: true})
	if err != nil {
		return versions{}, err
	}
	v, err := j.look(ctx, dir)
	switch {
	case err != nil:
		return versions{}, err
	case v.deleted():
		return v, errNone
	case rev != v.revision():
		return versions{}, conflict("it is at revision %s, not at %.20q", v.revision(), rev)
	}
	return j.succeed(ctx, dir, v, data)
}

// succeed creates the version after the highest of v, and returns what is listed after that.
func (j *Journal) succeed(ctx context.Context, dir string, v versions, data []byte) (versions, error) {
	n := v.highest + 1
	key := dir + versionName(n)
	err := j.createOnce(ctx, key, data)
	if errors.Is(err, storage.ErrExists) {
		return versions{}, conflict("somebody else put revision %d", n)
	}
	if err != nil {
		return versions{}, err
	}
	// The number may be one that was there and was removed long ago, if this process slept since it looked. It wasn't if the version that
	// it comes after is still there, for the lower ones are removed first; or, if it is the first, while it is one of the last few
	// and no tombstone is above it.
	after, err := j.look(ctx, dir)
	if err != nil {
		return versions{}, fmt.Errorf("%s was created, and whether that counts is not known: %w", key, err)
	}
	slept := after.highest-n >= keep || v.highest > 0 && !after.has(v.highest)
	for _, one := range after.all {
		slept = slept || one.tombstone && one.n > n
	}
	if !slept {
		return after, nil
	}
	// Or it was there for a moment, and others came after it while we were paused here. Which of the two it was can't be told any more.
	err = fmt.Errorf("revision %d: %w", n, errUnknown)
	if after.has(n - 1) {
		// Whoever put what is above removes it, after the lower ones: without it a listing that is being made could end with one of these.
		return versions{}, err
	}
	return versions{}, errors.Join(err, j.remove(ctx, key))
}

// createOnce creates an object exclusively. An error whose outcome is unknown is settled by looking: if the object is there, it
// is ours or somebody else's, by its bytes.
func (j *Journal) createOnce(ctx context.Context, key string, data []byte) error {
	err := storage.WriteFile(ctx, j.store, key, data, &storage.CreateOptions{IfNotExist: true})
	if err == nil || errors.Is(err, storage.ErrExists) {
		return err
	}
	there, readErr := storage.ReadFile(ctx, j.store, key, maxLen)
	switch {
	case readErr == nil && bytes.Equal(there, data):
		return nil
	case readErr == nil:
		return fmt.Errorf("%w: %w", storage.ErrExists, err)
	default:
		return err
	}
}

// below returns the numbers below n, in ascending order.
func (v versions) below(n int) []int {
	var numbers []int
	for _, one := range v.all {
		if one.n < n {
			numbers = append(numbers, one.n)
		}
	}
	return numbers
}

// superseded returns the numbers that needn't stay beside the last few, in ascending order.
func (v versions) superseded(few int) []int {
	created := make(map[int]time.Time)
	for _, one := range v.all {
		created[one.n] = one.created
	}
	numbers := v.below(v.highest - few + 1)
	for i, n := range numbers {
		if next, there := created[n+1]; there && v.created.Sub(next) < keepFor {
			return numbers[:i]
		}
	}
	return numbers
}

// tidy removes versions, in ascending order of their numbers: succeed relies on that.
func (j *Journal) tidy(ctx context.Context, dir string, numbers []int) error {
	for _, n := range numbers {
		if err := j.remove(ctx, dir+versionName(n)); err != nil {
			return err
		}
	}
	return nil
}

// remove deletes an object that may be gone already.
func (j *Journal) remove(ctx context.Context, key string) error {
	err := j.store.Delete(ctx, key)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	return err
}
