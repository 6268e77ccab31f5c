//go:build linux

package chaos

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/filestore"
	"github.com/amberkv/amber/storage/memstore"
)

// TestSchedulersInDirectory: several processes with schedulers on one directory, killed, stopped and paused for longer than their leases last. Every due time
// is accounted for once. The whole campaign goes on for minutes, with 2, 5 and 8 processes.
func TestSchedulersInDirectory(t *testing.T) {
	t.Parallel()
	campaign := func(t *testing.T, c ScheduleCampaign) ScheduleCount {
		dir, err := os.MkdirTemp("/dev/shm", "amber-schedulers-")
		if err != nil {
			dir = t.TempDir()
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		s, err := filestore.New(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		c.Store = s
		c.Process = func() *exec.Cmd {
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), childDir+"="+dir)
			return cmd
		}
		n := c.Run(t)
		t.Log(n)
		for _, why := range n.Violations {
			t.Error(why)
		}
		return n
	}
	if !whole() {
		// How much comes of it in a time is for the machine to say.
		for long := 4 * time.Second; ; long *= 2 {
			n := campaign(t, ScheduleCampaign{Processes: 3, Policies: 6, For: long, Dawdle: 100 * time.Millisecond, Harm: long / 13})
			if n.Due >= 4 && n.Processes >= 3 && n.Ready > 0 {
				return
			}
			if long > 30*time.Second {
				t.Fatal("nothing was tried")
			}
		}
	}
	for _, processes := range []int{2, 5, 8} {
		t.Run(fmt.Sprint(processes), func(t *testing.T) {
			n := campaign(t, ScheduleCampaign{Processes: processes, Policies: 30, For: 130 * time.Second, Dawdle: 400 * time.Millisecond, Harm: 700 * time.Millisecond})
			if n.Due < 40 || n.Kills < 10 || n.Pauses < 10 || n.Done < 20 || n.TakenOver == 0 {
				t.Error("the campaign has shown too little")
			}
		})
	}
}

// TestOverwrittenBackups: a campaign notices an object of a backup that is written again, with other bytes or with the same.
func TestOverwrittenBackups(t *testing.T) {
	t.Parallel()
	m := memstore.New(nil)
	key := "ds01/20261128T030000.000Z-k7f3/part-0000.rdb.zst"
	write := func(key, text string) {
		t.Helper()
		if err := storage.WriteFile(t.Context(), m, key, []byte(text), nil); err != nil {
			t.Fatal(err)
		}
	}
	r := &scheduleRun{ScheduleCampaign: &ScheduleCampaign{Store: m}, t: t, objects: map[string]Object{}}
	look := func() int {
		t.Helper()
		if err := r.see(t.Context()); err != nil {
			t.Fatal(err)
		}
		st, err := Look(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		before := len(r.n.Violations)
		r.compare(st)
		return len(r.n.Violations) - before
	}
	write(key, "as it was")
	write("ds01/latest", "a file")
	if n := look() + look(); n > 0 || len(r.n.Violations) > 0 || len(r.objects) != 1 {
		t.Errorf("of one object that stays as it is, it says %q, and has seen %d", r.n.Violations, len(r.objects))
	}
	write("ds01/latest", "another file")
	if look(); len(r.n.Violations) > 0 {
		t.Errorf("what isn't of a backup is watched: %q", r.n.Violations)
	}
	for _, text := range []string{"as it was", "as it is!"} {
		write(key, text)
		if n := look(); n != 1 || len(r.n.Violations) < 2 {
			t.Errorf("it was written again as %q, and a campaign says %q", text, r.n.Violations)
		}
		r.n.Violations = nil
	}
}
