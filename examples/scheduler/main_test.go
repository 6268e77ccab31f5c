package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/schedule"
)

var program string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "scheduler-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		program = filepath.Join(dir, "scheduler")
		if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building scheduler: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// The host goes on when one of its replicas is killed: no due time is dealt with twice, and none is lost. A minute lasts a second and a half, so the lease
// of what the killed one had begun may outlast the next due times of that data store: those are told as missed, together.
func TestKilledReplica(t *testing.T) {
	dir, temp := t.TempDir(), t.TempDir()
	servers := filepath.Join(filepath.Dir(testserver.Program(t, "valkey-9.1", "server")), "..", "..")
	var out buffer
	cmd := exec.Command(program, "-dir", dir, "-speed", "40")
	cmd.Env = append(os.Environ(), "AMBER_SERVERS="+servers, "TMPDIR="+temp)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // which ends the replicas too
	stores := []string{"orders", "carts", "sessions"}
	done := func(of, dataStore string) int {
		return len(regexp.MustCompile(of+": "+dataStore+` due \S+ is done`).FindAllString(out.String(), -1))
	}
	each := func(what string, enough func(dataStore string) bool) {
		t.Helper()
		testserver.Eventually(t, 2*time.Minute, what, func() error {
			for _, s := range stores {
				if !enough(s) {
					return fmt.Errorf("%s: %s", s, out.String())
				}
			}
			return nil
		})
	}
	each("both replicas make backups", func(s string) bool { return done("replica-a", s)+done("replica-b", s) >= 1 })

	pid := regexp.MustCompile(`replica-a is process (\d+)`).FindStringSubmatch(out.String())
	if pid == nil {
		t.Fatal(out.String())
	}
	n, err := strconv.Atoi(pid[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(n, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	before := map[string]int{}
	for _, s := range stores {
		before[s] = done("replica-b", s)
	}
	each("the other one goes on", func(s string) bool { return done("replica-b", s) >= before[s]+2 })
	testserver.Eventually(t, time.Minute, "somebody notices that it is gone", func() error {
		if !strings.Contains(out.String(), "replica-a is gone") {
			return errors.New(out.String())
		}
		return nil
	})

	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err = <-ended:
	case <-time.After(time.Minute):
		err = errors.New("it doesn't end")
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	// No due time was done twice.
	told := map[string]bool{}
	for _, m := range regexp.MustCompile(`: (\w+ due \S+) is (\w+)`).FindAllStringSubmatch(out.String(), -1) {
		if told[m[1]] {
			t.Errorf("%s is told twice", m[1])
		}
		told[m[1]] = true
	}
	// And of each there is a record: one follows the other.
	service, closeStore, err := options{Dir: dir, Speed: 1}.service(amber.Events{})
	if err != nil {
		t.Fatal(err)
	}
	defer closeStore()
	for _, p := range policies() {
		runs := map[time.Time]*schedule.Run{}
		for r, err := range service.Runs(t.Context(), schedule.RunQuery{Policy: p.ID}) {
			if err != nil {
				t.Fatal(err)
			}
			runs[r.Due] = r
		}
		dues := slices.SortedFunc(maps.Keys(runs), time.Time.Compare)
		for i, due := range dues {
			r := runs[due]
			switch {
			case r.State == schedule.RunDone:
			case r.State == schedule.RunMissed && strings.Contains(r.Reason, "no scheduler was there"):
			case r.State == schedule.RunSkipped && strings.Contains(r.Reason, "has not ended"): // a busy machine took a minute and a half second for the one before
			case r.State == schedule.RunRunning && i == len(dues)-1: // the host ended it
			default:
				t.Errorf("%s due %s is %s: %s", p.DataStore, due, r.State, r.Reason)
			}
			first := due
			if r.Count > 1 {
				first = r.First
			}
			if i > 0 && !first.Equal(dues[i-1].Add(time.Minute)) {
				t.Errorf("%s: after %s comes %s", p.DataStore, dues[i-1], first)
			}
		}
	}
	for _, s := range stores {
		if !regexp.MustCompile(s + `: due times map\[done:\d+( (missed|running|skipped):\d+)*\], done by map\[.*replica-b:\d+\]`).MatchString(out.String()) {
			t.Errorf("there is no summary of %s", s)
		}
	}
	if t.Failed() {
		t.Log(out.String())
	}
	if left, err := filepath.Glob(filepath.Join(dir, "servers", "*")); err != nil || len(left) > 0 {
		t.Errorf("servers are left: %v (%v)", left, err)
	}
}
