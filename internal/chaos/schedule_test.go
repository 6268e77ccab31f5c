//go:build linux

package chaos

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/amberkv/amber/storage/filestore"
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
		n := campaign(t, ScheduleCampaign{Processes: 3, Policies: 6, For: 4 * time.Second, Dawdle: 100 * time.Millisecond, Harm: 300 * time.Millisecond})
		if n.Due < 4 || n.Processes < 3 || n.Ready == 0 {
			t.Error("nothing was tried")
		}
		return
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
