package restore_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/storage/memstore"
)

// losing is a loader that says of itself that something of many values is lost.
type losing struct{ *sender }

func (l losing) Load(ctx context.Context, src restore.Source, opts *restore.Options) (*restore.Report, error) {
	rep, err := l.sender.Load(ctx, src, opts)
	if err == nil {
		rep.Losses = append(rep.Losses, restore.LossReport{Name: "stream-pending", Count: 100})
	}
	return rep, err
}

// What a loader says that it couldn't write excuses that groups of a stream differ, but no entry.
func TestLossesExcuseDetailsOnly(t *testing.T) {
	s := testserver.Start(t, "redis-7.0")
	c := s.Client(t)
	do := func(ctx context.Context, c *redis.Client, line string) {
		var args []any
		for _, w := range strings.Fields(line) {
			args = append(args, w)
		}
		if err := c.Do(ctx, args...).Err(); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	for _, line := range []string{"XADD stream 1-1 f v", "XADD stream 2-1 f v", "XGROUP CREATE stream g 0", "XREADGROUP GROUP g alice STREAMS stream >"} {
		do(t.Context(), c, line)
	}
	store := memstore.New(nil)
	b := keep(t, store, saveOf(t, s), nil)
	to := losing{&sender{to: s.Options()}}
	for change, excused := range map[string]bool{"XACK stream g 1-1": true, "XGROUP DESTROY stream g": true, "XDEL stream 1-1": false, "DEL stream": false} {
		to.spoil = func(ctx context.Context, c *redis.Client) { do(ctx, c, change) }
		rep, err := newRestorer(t, store).Restore(t.Context(), b.ID, to, &restore.Options{Compare: restore.CompareAll})
		var partial *restore.PartialError
		if excused && (err != nil || rep.Proof.Changed != 1) || !excused && !errors.As(err, &partial) {
			t.Errorf("%s: %v, %+v", change, err, rep)
		}
	}
}

// saveOf returns the snapshot that a server saves.
func saveOf(t *testing.T, s *testserver.Server) []byte {
	t.Helper()
	if err := s.Client(t).Save(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(s.Dir, "dump.rdb"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}
