// Package storejournal is a journal without a database: it keeps policies and runs in the store that holds the backups, so that whoever has
// the bucket or the directory has all of it. It needs nothing of the store but what every [storage.Store] does, and
// an exclusive create.
//
// # Layout
//
// Every version of a policy or a run is an object of its own, created exclusively, so that of several writers one wins; the highest
// number counts, and is the revision:
//
//	_schedule/policies/<id>/<number>.json
//	_schedule/runs/<policy>/<order>-<due time>/<number>.json
//
// The order of a due time falls as time goes on, so that a listing begins with the latest. Objects are sealed JSON, for people to read too: one
// that was cut or changed is an error that names its key, as is one that a newer Amber wrote.
//
// A policy that is deleted leaves a tombstone for ever, so that its numbers go on should the ID be used again: who slept since then can't
// change what has taken its place. A tombstone has a length that nothing else has, so that a listing shows which policies there are, and at
// which revisions. A run that is trimmed leaves nothing.
//
// # What safety rests on
//
// Only on the exclusive create. The last version but one and what counted within the last hour by the store's clock are kept, also below a
// tombstone; what is older is removed when the next version is put, in ascending order. So a listing, which is no snapshot, has what counted
// when it began or something newer; and who slept after looking at a version, and then creates a number that was removed, finds that the one before it
// isn't there, takes back what it created, and is told that nothing can be said about the outcome. Readers go by the same rule.
package storejournal

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/schedule"
	"github.com/amberkv/amber/storage"
)

// Config says what a Journal works with.
type Config struct {
	// Store keeps policies and runs, beside whatever else is in it. Required; it must have an exclusive create.
	Store storage.Store
}

// A Journal is a schedule.Journal in a store. It is safe for use by several goroutines; any number of Journals in any number of processes can
// share a store. Make one with New.
type Journal struct {
	store storage.Store
}

var _ schedule.Journal = (*Journal)(nil)

// New returns the journal in a store. It doesn't use the store yet.
func New(cfg Config) (*Journal, error) {
	switch {
	case cfg.Store == nil:
		return nil, errors.New("storejournal: Config.Store is required")
	case !storage.CapabilitiesOf(cfg.Store).Exclusive:
		return nil, errors.New("storejournal: this store has no exclusive create, on which the journal's safety rests: keep the journal in a database, or in another store")
	}
	return &Journal{store: cfg.Store}, nil
}

// PutPolicy writes a policy, as schedule.Journal says.
func (j *Journal) PutPolicy(ctx context.Context, p *schedule.Policy, prev schedule.Revision) (schedule.Revision, error) {
	if err := catalog.ValidName(p.ID); err != nil {
		return "", fmt.Errorf("storejournal: put policy %.40q: its ID: %w", p.ID, err)
	}
	rev, err := j.put(ctx, policyDir(p.ID), prev, &record{Policy: p})
	if err != nil {
		return "", fmt.Errorf("storejournal: put policy %s: %w", p.ID, err)
	}
	return rev, nil
}

// GetPolicy returns a policy, as schedule.Journal says.
func (j *Journal) GetPolicy(ctx context.Context, id string) (*schedule.Policy, schedule.Revision, error) {
	if catalog.ValidName(id) != nil {
		return nil, "", fmt.Errorf("storejournal: get policy %.40q: %w: no policy has such an ID", id, errNone)
	}
	rec, rev, err := j.get(ctx, policyDir(id), func(rec *record) error {
		switch {
		case rec.Policy == nil:
			return errors.New("it has no policy in it")
		case rec.Policy.ID != id:
			return fmt.Errorf("it is policy %.40q", rec.Policy.ID)
		}
		return nil
	})
	if err != nil {
		return nil, rev, fmt.Errorf("storejournal: get policy %s: %w", id, err)
	}
	return rec.Policy, rev, nil
}

// DeletePolicy removes a policy, as schedule.Journal says. When it is cut short the policy is there or not, and never comes back.
func (j *Journal) DeletePolicy(ctx context.Context, id string, rev schedule.Revision) error {
	if catalog.ValidName(id) != nil {
		return fmt.Errorf("storejournal: delete policy %.40q: %w: no policy has such an ID", id, errNone)
	}
	dir := policyDir(id)
	after, err := j.bury(ctx, dir, rev)
	if err == nil || errors.Is(err, errNone) { // a deletion may have been cut short
		err = errors.Join(err, j.tidy(ctx, dir, after.superseded(2)))
	}
	if err != nil {
		return fmt.Errorf("storejournal: delete policy %s: %w", id, err)
	}
	return nil
}

// Policies gives the policies that there are, as schedule.Journal says. It lists the store once, and reads nothing.
func (j *Journal) Policies(ctx context.Context) iter.Seq2[schedule.PolicyRevision, error] {
	return func(yield func(schedule.PolicyRevision, error) bool) {
		found := make(map[string]versions)
		for info, err := range j.store.List(ctx, policiesPrefix) {
			if err != nil {
				yield(schedule.PolicyRevision{}, fmt.Errorf("storejournal: policies: %w", err))
				return
			}
			id, n, ok := parsePolicyKey(info.Key)
			if !ok {
				continue
			}
			v := found[id]
			v.add(n, info)
			found[id] = v
		}
		// The order of keys is another one: "a-b/" comes before "a/".
		for _, id := range slices.Sorted(maps.Keys(found)) {
			if v := found[id]; !v.deleted() && !yield(schedule.PolicyRevision{ID: id, Revision: v.revision()}, nil) {
				return
			}
		}
	}
}

const (
	prefix         = "_schedule/"
	policiesPrefix = prefix + "policies/"
	runsPrefix     = prefix + "runs/"
)

func policyDir(id string) string { return policiesPrefix + id + "/" }

func parsePolicyKey(key string) (id string, n int, ok bool) {
	rest, ok := strings.CutPrefix(key, policiesPrefix)
	if !ok {
		return "", 0, false
	}
	id, name, ok := strings.Cut(rest, "/")
	if !ok || catalog.ValidName(id) != nil {
		return "", 0, false
	}
	n, ok = parseVersion(name)
	return id, n, ok
}
