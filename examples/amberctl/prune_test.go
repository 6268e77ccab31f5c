package main

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/crashpoint"
	"github.com/amberkv/amber/internal/testserver"
)

// expiring makes backups of "orders" whose time is over but for the last, from a file, and returns their IDs, oldest first.
func (c *ctl) expiring(t *testing.T, n int) (ids []string) {
	t.Helper()
	plain := writeFile(t, filepath.Join(t.TempDir(), "dump.rdb"), readFile(t, someRDB))
	for i := range n {
		args := []string{"import", "--id", "orders", plain}
		if i < n-1 {
			args = append(args, "--retain", "1ms")
		}
		ids = append(ids, string(parse[catalog.Backup](t, c, exitDone, args...).ID))
		time.Sleep(2 * time.Millisecond)
	}
	return ids
}

func TestPrune(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]*ctl{"directory": newCtl(t), "S3": newS3Ctl(t)} {
		t.Run(name, func(t *testing.T) {
			ids := c.expiring(t, 3)
			would := parse[backup.PruneReport](t, c, exitDone, "prune", "--dry-run")
			if len(would.Fates) != 3 || !would.DryRun || would.Deleted != 0 || len(would.Held) != 0 {
				t.Fatalf("a dry run: %+v", would)
			}
			for i, f := range would.Fates {
				if string(f.ID) != ids[2-i] || f.Delete != (i > 0) || f.Deleted || len(f.Reasons) == 0 || f.DataStore != "orders" || f.Bytes == 0 {
					t.Errorf("fate %d: %+v", i, f)
				}
			}
			out, _ := c.run(t, exitDone, "prune", "--dry-run", "--id", "orders")
			for _, want := range []string{"FATE", ids[0], ids[2], "goes", "stays", "it was to be kept until", "the newest good one of its data store", "2 backups would be deleted, 1 kept"} {
				if !strings.Contains(out, want) {
					t.Errorf("no %q in\n%s", want, out)
				}
			}
			if out, _ := c.run(t, exitDone, "prune", "--id", "carts"); out != "0 backups deleted (0 B), 0 kept\n" {
				t.Errorf("of another data store: %q", out)
			}
			c.listsExactly(t, []string{ids[2], ids[1], ids[0]})
			out, _ = c.run(t, exitDone, "prune")
			if !strings.Contains(out, "2 backups deleted") || strings.Contains(out, ids[2]) || !strings.Contains(out, ids[1]) {
				t.Errorf("it says\n%s", out)
			}
			c.listsExactly(t, ids[2:])
			if rep := parse[backup.PruneReport](t, c, exitDone, "prune"); rep.Deleted != 0 || len(rep.Fates) != 1 {
				t.Errorf("the second time: %+v", rep)
			}
			c.onlyBackups(t)
			c.run(t, exitUsage, "prune", "--id", "/")
			c.run(t, exitUsage, "prune", ids[2])
		})
	}
}

// Several prunes and sweeps at once, by processes that know nothing of each other, leave what one leaves.
func TestPruneProcesses(t *testing.T) {
	t.Parallel()
	c := newCtl(t)
	ids := c.expiring(t, 6)
	var all []*process
	for i := range 5 {
		all = append(all, c.start(t, program, nil, []string{"prune", "sweep"}[i%2]))
	}
	for _, p := range all {
		if p.wait(t, patience) != exitDone {
			t.Errorf("%v: %s", p.Args, p.stderr.String())
		}
	}
	c.listsExactly(t, ids[5:])
	c.run(t, exitDone, "sweep", "--grace", "0")
	c.onlyBackups(t)
}

// Whoever finds a server flushed finds its backups of before, however often it was backed up since.
func TestPruneAfterFlush(t *testing.T) {
	t.Parallel()
	c, s := newCtl(t), testserver.Start(t, crashVersion)
	testserver.Generate(t, s.Client(t), 200, 12)
	want := testserver.Snapshot(t, s.Client(t))
	good := c.backUp(t, s, "--retain", "1ms")
	if err := s.Client(t).FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		c.backUp(t, s, "--retain", "1ms")
	}
	out, _ := c.run(t, exitDone, "prune")
	for _, want := range []string{"orders: nothing is deleted: the keys have fallen by 100 %, the limit is 90 %", "has 200", "0 backups deleted", "3 kept"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	c.restores(t, good, crashVersion, want)
	if rep := parse[backup.PruneReport](t, c, exitDone, "prune", "--accept-fall"); rep.Deleted != 2 || len(rep.Held) != 0 {
		t.Errorf("accepted: %+v", rep)
	}
}

// A prune that is killed leaves nothing that a sweep doesn't take, and the next one goes on.
func TestCrashPruning(t *testing.T) {
	t.Parallel()
	for _, place := range []string{crashpoint.PrunePlanned, crashpoint.DeleteMarked, crashpoint.DeleteNoted, crashpoint.DeleteObjects} {
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			c := newCtl(t)
			ids := c.expiring(t, 3)
			slices.Reverse(ids)
			p := c.start(t, program, []string{"AMBER_CRASHPOINT=" + place}, "prune")
			if p.wait(t, patience); !p.killed() {
				t.Fatalf("it did not die: %v\n%s", p.ProcessState, p.stderr.String())
			}
			left := ids[:2] // the oldest goes first
			if place == crashpoint.PrunePlanned {
				left = ids
			}
			c.listsExactly(t, left)
			c.run(t, exitDone, "sweep", "--grace", "0")
			c.onlyBackups(t)
			c.listsExactly(t, left)
			if rep := parse[backup.PruneReport](t, c, exitDone, "prune"); rep.Deleted != len(left)-1 {
				t.Errorf("the next one deleted %d, want %d", rep.Deleted, len(left)-1)
			}
			c.listsExactly(t, ids[:1])
			c.onlyBackups(t)
		})
	}
}
