package feed

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/internal/resp"
	"github.com/amberkv/amber/internal/target"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/restore"
)

// dragonfly tells whether the target is a Dragonfly.
func (r *run) dragonfly() bool { return r.target.engine == "dragonfly" }

// headSize is how much of the head of a stream is looked at before it is fed to a Dragonfly.
const headSize = 64 << 10

// bare refuses a stream whose head has what a Dragonfly doesn't survive when a primary sends it. A conversion leaves it out.
func bare(head []byte) error {
	in := rdb.NewReader(bytes.NewReader(head), nil)
	for {
		e, err := in.Next()
		switch {
		case err != nil || e.Kind == rdb.KindKey: // also where the head ends
			return nil
		case e.Kind == rdb.KindAux && (string(e.Key) == "search-index" || string(e.Key) == "search-synonyms"),
			e.Kind == rdb.KindJournal:
			return fmt.Errorf("%w: it holds a search index, or commands of a journal, by which Dragonfly ends if it gets them as a replica; a conversion leaves them out", restore.ErrRefused)
		case e.Kind == rdb.KindFunction:
			return fmt.Errorf("%w: it holds a library of functions, on which Dragonfly fails; a conversion leaves it out", restore.ErrRefused)
		}
	}
}

// expired returns how many keys of each database have expired by now, or have no field or member left that hasn't. Dragonfly leaves out
// what has expired when it loads it.
func (r *run) expired(ctx context.Context) (target.Counts, error) {
	part := r.backup.Parts[0]
	in, err := r.src.Open(ctx, part)
	if err != nil {
		return nil, fmt.Errorf("counting the keys that have expired: opening part %s: %w", part.Name, err)
	}
	defer in.Close()
	gone := target.Counts{}
	keys := rdb.NewReader(in, nil)
	for {
		now := clock.System().UnixMilli()
		e, err := keys.Next()
		if err == io.EOF {
			return gone, nil
		}
		if err == nil && e.Kind == rdb.KindKey {
			db, dead := e.DB, e.HasExpiry && e.ExpireAt <= now
			if !dead && (e.Type == rdb.TypeHash || e.Type == rdb.TypeSet) {
				dead, err = deserted(keys, now)
			}
			if dead {
				gone[db]++
			}
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			return nil, fmt.Errorf("counting the keys that have expired: %w", err)
		}
	}
}

// deserted tells whether all fields of a hash or members of a set have expired.
func deserted(in *rdb.Reader, now int64) (bool, error) {
	for n := 0; ; n++ {
		e, err := in.Element()
		if err == io.EOF {
			return n > 0, nil
		}
		if err != nil {
			return false, err
		}
		if e.ExpireAt == 0 || e.ExpireAt > now {
			return false, nil // the rest is skipped by Next
		}
	}
}

// fits tells whether got is want without some of the keys that are gone.
func fits(want, got, gone target.Counts) bool {
	for db, n := range got {
		if n > want[db] {
			return false
		}
	}
	for db, n := range want {
		if got[db] < n-gone[db] {
			return false
		}
	}
	return true
}

// noticedBegin tells whether a Dragonfly, whose link is closed, has come so far as to know our replication ID. It may have to read what the
// link still held. In doubt it has.
func (r *run) noticedBegin(ctx context.Context) bool {
	begun := clock.System()
	for {
		info, _, err := r.admin.Info(ctx)
		if err != nil || info["master_replid"] == r.link.ID() {
			return true
		}
		if info["master_link_status"] != "up" {
			return false
		}
		if clock.Since(begun) > settle || clock.Sleep(ctx, pollEvery) != nil {
			return true
		}
	}
}

// stateOfDragonfly says what a Dragonfly holds after it was told to stop replicating. It forgets then what it replicated, so that
// only what it said before counts.
func (r *run) stateOfDragonfly(info resp.Info) restore.TargetState {
	now := target.Keyspace(info)
	switch {
	case r.loaded, r.took && !r.differs && target.Differ(r.want, now) == "":
		return restore.TargetLoaded
	case r.link == nil || !r.link.Began() || !r.noticed:
		return restore.TargetUnchanged // some keys may have expired meanwhile
	case now.Total() == 0:
		return restore.TargetEmpty
	}
	return restore.TargetPartial
}
