//go:build unix

package storejournal_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/amberkv/amber/schedule"
	"github.com/amberkv/amber/schedule/storejournal"
	"github.com/amberkv/amber/storage/filestore"
)

// A child process of these tests finds its directory and its name in the environment.
const (
	childDir  = "STOREJOURNAL_CHILD_DIR"
	childName = "STOREJOURNAL_CHILD_NAME"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		if err := write(dir, os.Getenv(childName)); err != nil {
			fmt.Println("error", err)
		}
		return
	}
	os.Exit(m.Run())
}

// write adds attempts to the run, and changes, deletes and creates the policy, until it is killed. It tells of each that it has done.
func write(dir, name string) error {
	s, err := filestore.New(dir, nil)
	if err != nil {
		return err
	}
	j, err := storejournal.New(storejournal.Config{Store: s})
	if err != nil {
		return err
	}
	ctx := context.Background()
	for n := 0; ; n++ {
		r, rev, err := j.GetRun(ctx, "nightly", someDue)
		if errors.Is(err, schedule.ErrNotFound) {
			r, rev, err = run(schedule.RunRunning), "", nil
		}
		if err != nil {
			return err
		}
		mine := fmt.Sprintf("%s-%d", name, n)
		r.Attempts = append(r.Attempts, schedule.Attempt{Owner: mine, BeganAt: someDue})
		switch _, err := j.PutRun(ctx, r, rev); {
		case err == nil:
			fmt.Println("won", mine)
		case errors.Is(err, schedule.ErrConflict):
			fmt.Println("lost", mine)
		case strings.Contains(err.Error(), "outcome is not known"): // as it may be after a pause
		default:
			return err
		}
		p, at, err := j.GetPolicy(ctx, "nightly")
		switch {
		case errors.Is(err, schedule.ErrNotFound):
			_, err = j.PutPolicy(ctx, policy("nightly"), "")
		case err == nil && rand.IntN(4) == 0:
			err = j.DeletePolicy(ctx, "nightly", at)
		case err == nil:
			p.Retries = n % 10
			_, err = j.PutPolicy(ctx, p, at)
		}
		if err != nil && !errors.Is(err, schedule.ErrConflict) && !errors.Is(err, schedule.ErrNotFound) && !strings.Contains(err.Error(), "outcome is not known") {
			return err
		}
	}
}

// TestKilledWriters: several processes write the same policy and the same run, and are killed and paused at any moment. What was won is there, once; what was
// lost isn't; and whatever there is can be read at any time.
func TestKilledWriters(t *testing.T) {
	t.Parallel()
	rounds := 24
	if os.Getenv("CAMPAIGN") != "" {
		rounds = 600
	}
	dir := directory(t)
	j := newJournal(t, openDirectory(t, dir))
	var mu sync.Mutex
	won, lost := map[string]bool{}, map[string]bool{}
	var readers sync.WaitGroup
	start := func(name string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), childDir+"="+dir, childName+"="+name)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		readers.Go(func() {
			for lines := bufio.NewScanner(out); lines.Scan(); {
				what, name, ok := strings.Cut(lines.Text(), " ")
				mu.Lock()
				switch {
				case ok && what == "won":
					won[name] = true
				case ok && what == "lost":
					lost[name] = true
				default:
					t.Errorf("a process says %q", lines.Text())
				}
				mu.Unlock()
			}
			cmd.Wait()
		})
		return cmd
	}
	children := []*exec.Cmd{start("a"), start("b"), start("c")}
	defer func() {
		for _, cmd := range children {
			cmd.Process.Kill()
		}
		readers.Wait()
	}()
	tried := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(won) >= 5 && len(lost) > 0
	}
	highest := 0
	for round := 0; round < rounds || !tried() && round < 10*rounds; round++ {
		time.Sleep(time.Duration(5+rand.IntN(40)) * time.Millisecond)
		victim := rand.IntN(len(children))
		if round%3 == 0 {
			paused := children[victim].Process
			paused.Signal(syscall.SIGSTOP)
			time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
			paused.Signal(syscall.SIGCONT)
		} else {
			children[victim].Process.Kill()
			children[victim] = start(fmt.Sprintf("r%d", round))
		}
		p, rev, err := j.GetPolicy(t.Context(), "nightly")
		if err != nil && !errors.Is(err, schedule.ErrNotFound) || err == nil && p.ID != "nightly" {
			t.Fatalf("round %d: GetPolicy: %+v, %v", round, p, err)
		}
		n := 0
		if fmt.Sscan(string(rev), &n); err == nil && n < highest {
			t.Fatalf("round %d: the policy is at revision %d, and was at %d", round, n, highest)
		}
		highest = max(highest, n)
		if _, _, err := j.GetRun(t.Context(), "nightly", someDue); err != nil && !errors.Is(err, schedule.ErrNotFound) {
			t.Fatalf("round %d: GetRun: %v", round, err)
		}
	}
	for _, cmd := range children {
		cmd.Process.Kill()
	}
	readers.Wait()
	r, _, err := j.GetRun(t.Context(), "nightly", someDue)
	if err != nil {
		t.Fatal(err)
	}
	times := map[string]int{}
	for _, a := range r.Attempts {
		times[a.Owner]++
	}
	for name := range won {
		if times[name] != 1 {
			t.Errorf("attempt %s was won, and is there %d times", name, times[name])
		}
	}
	for name := range lost {
		if times[name] != 0 {
			t.Errorf("attempt %s was lost, and is there", name)
		}
	}
	t.Logf("%d rounds: %d puts won, %d lost; the policy came to revision %d", rounds, len(won), len(lost), highest)
	if !tried() {
		t.Error("nothing was tried")
	}
}
