package restore_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/storage/memstore"
)

// sender is a loader that sends RESTORE, one key after the other, and may do so badly.
type sender struct {
	to    *redis.Options
	spoil func(ctx context.Context, c *redis.Client)
}

func (s *sender) Check(context.Context, restore.Requirements) (restore.Verdict, error) {
	return restore.Verdict{}, nil
}

func (s *sender) View() *redis.Options { return s.to }

func (s *sender) Load(ctx context.Context, src restore.Source, _ *restore.Options) (*restore.Report, error) {
	c := redis.NewClient(s.to)
	defer c.Close()
	rep := &restore.Report{Backup: src.Backup().ID, Target: s.to.Addr, Method: "test"}
	in, err := src.Open(ctx, src.Backup().Parts[0])
	if err != nil {
		return nil, err
	}
	defer in.Close()
	r := rdb.NewReader(in, nil)
	for e, err := range r.Entries() {
		if err != nil {
			return nil, err
		}
		if e.Kind != rdb.KindKey {
			continue
		}
		key := string(e.Key)
		payload, err := r.AppendRaw(nil, -1)
		if err != nil {
			return nil, err
		}
		if err := c.RestoreReplace(ctx, key, 0, string(payload)).Err(); err != nil {
			return nil, err
		}
		rep.Keys++
	}
	if _, err := io.Copy(io.Discard, in); err != nil { // only what was read to its end is proved, and sampled
		return nil, err
	}
	if s.spoil != nil {
		s.spoil(ctx, c)
	}
	return rep, nil
}

// After loading, values are compared with the backup's: of all keys or of some, whatever the loader says.
func TestValuesAreComparedAfterLoading(t *testing.T) {
	raw := fixture(t, "redis-7.0.15/hashes")
	store := memstore.New(nil)
	b := keep(t, store, raw, nil)
	all, _ := names(t, raw)
	_, one, _ := strings.Cut(all[0], "/")
	_, one, _ = strings.Cut(one, "/")
	s := testserver.Start(t, "redis-7.0")
	spoil := func(ctx context.Context, c *redis.Client) {
		if err := c.HSet(ctx, one, "not in the backup", "x").Err(); err != nil {
			t.Error(err)
		}
	}
	for _, compare := range []restore.Compare{restore.CompareSample, restore.CompareAll, restore.CompareNone} {
		to := &sender{to: s.Options()}
		rep, err := newRestorer(t, store).Restore(t.Context(), b.ID, to, &restore.Options{Compare: compare})
		if err != nil {
			t.Fatalf("%q: %v", compare, err)
		}
		if want := b.Keys; compare != restore.CompareNone && (rep.Proof.Compared != want || rep.Proof.Took <= 0) {
			t.Errorf("%q: the proof is %+v, the backup has %d keys", compare, rep.Proof, want)
		}
		to.spoil = spoil
		_, err = newRestorer(t, store).Restore(t.Context(), b.ID, to, &restore.Options{Compare: compare})
		var partial *restore.PartialError
		switch {
		case compare == restore.CompareNone:
			if err != nil {
				t.Errorf("%q: %v", compare, err)
			}
		case !errors.As(err, &partial) || partial.State != restore.TargetPartial || len(partial.Failed) != 1 || !bytes.Contains([]byte(partial.Failed[0]), []byte(one)):
			t.Errorf("%q: a value that differs gives %v", compare, err)
		}
		// Where others go on writing by the caller's wish, it is told and no error.
		rep, err = newRestorer(t, store).Restore(t.Context(), b.ID, to, &restore.Options{Compare: compare, Conflict: restore.MergeOverwrite})
		if err != nil || compare != restore.CompareNone && (rep.Proof.Changed != 1 || len(rep.Warnings) != 1) {
			t.Errorf("%q, merging: %v, %+v", compare, err, rep)
		}
	}
}
