package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/crashpoint"
	"github.com/amberkv/amber/internal/testserver"
)

const crashVersion = "redis-8.0"

func TestCrash(t *testing.T) {
	t.Parallel()
	source := testserver.Start(t, crashVersion)
	testserver.Generate(t, source.Client(t), 200, 7)
	// Enough noise for compressed bytes to be with the store before the last ones came from the server.
	noise := rand.NewChaCha8([32]byte{7})
	for i := range 6 {
		value := make([]byte, 512<<10)
		noise.Read(value)
		if err := source.Client(t).Set(t.Context(), fmt.Sprint("noise:", i), value, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	want := testserver.Snapshot(t, source.Client(t))

	// Once at every place in a directory and, at every third place, others each day, in S3; the whole campaign twenty times everywhere.
	rounds, every := 1, 3
	if os.Getenv("CAMPAIGN") != "" {
		rounds, every = 20, 1
	}
	var kills, lost atomic.Int64
	t.Cleanup(func() { t.Logf("%d kills, %d lost", kills.Load(), lost.Load()) })
	for i, place := range crashpoint.All() {
		if place == crashpoint.AdoptParsed || place == crashpoint.PrunePlanned {
			continue // TestCrashAdopting and TestCrashPruning get there
		}
		for round := range rounds {
			t.Run(fmt.Sprintf("%s/directory/%d", place, round+1), func(t *testing.T) {
				t.Parallel()
				killAt(t, newCtl(t), place, source, want, &kills, &lost)
			})
			if (i+time.Now().YearDay())%every == 0 {
				t.Run(fmt.Sprintf("%s/S3/%d", place, round+1), func(t *testing.T) {
					t.Parallel()
					killAt(t, newS3Ctl(t), place, source, want, &kills, &lost)
				})
			}
		}
	}
}

// killAt kills the program at a place, and looks at what that leaves.
func killAt(t *testing.T, c *ctl, place string, source *testserver.Server, want map[string]string, kills, lost *atomic.Int64) {
	defer func() {
		if t.Failed() {
			lost.Add(1)
		}
	}()
	first := c.backUp(t, source, "--name", "first")
	backUp := []string{"backup", "--from", source.URL(), "--id", "orders", "--lease-ttl", "3s"}
	crash := func(args ...string) {
		t.Helper()
		p := c.start(t, program, []string{"AMBER_CRASHPOINT=" + place}, args...)
		if p.wait(t, patience); !p.killed() {
			t.Fatalf("%v did not die at %s: %v\n%s", args, place, p.ProcessState, p.stderr.String())
		}
		kills.Add(1)
	}
	listed := []string{first} // what has to be there in the end, and what may be
	switch operation, _, _ := strings.Cut(place, "-"); operation {
	case "backup":
		crash(backUp...)
		// The dead run still has its lease: the next one is refused, until the lease has ended.
		if _, stderr := c.run(t, exitFailed, backUp...); !strings.Contains(stderr, "being backed up already") {
			t.Errorf("a backup while the dead run has its lease: %s", stderr)
		}
		if place == crashpoint.BackupPublished {
			listed = c.list(t)
			if len(listed) != 2 {
				t.Fatalf("listed: %v, want the backup that was published", listed)
			}
		}
		c.listsExactly(t, listed)
		listed = slices.Concat([]string{c.backUpAfterLease(t, backUp)}, listed)
	case "delete":
		crash("delete", first)
		listed = nil
		c.listsExactly(t, nil)
		if place == crashpoint.DeleteMarked { // it can be finished by hand, and otherwise by the sweep
			c.run(t, exitDone, "delete", first)
		}
		listed = []string{c.backUp(t, source)}
	case "sweep":
		// A run that died, and a sweep that dies over it.
		p := c.start(t, program, []string{"AMBER_CRASHPOINT=" + crashpoint.BackupMidPart}, backUp...)
		if p.wait(t, patience); !p.killed() {
			t.Fatalf("the backup did not die: %v\n%s", p.ProcessState, p.stderr.String())
		}
		kills.Add(1)
		c.run(t, exitDone, "sweep", "--grace", "0") // the dead run has its lease: nothing happens to it
		if states := c.states(t); states[catalog.StateRunning] != 1 {
			t.Errorf("after a sweep while the lease lasts there are %v", states)
		}
		testserver.Eventually(t, patience, "a sweep dies at "+place, func() error {
			p := c.start(t, program, []string{"AMBER_CRASHPOINT=" + place}, "sweep", "--grace", "0")
			if p.wait(t, patience); !p.killed() {
				time.Sleep(time.Second)
				return fmt.Errorf("%v: %s%s", p.ProcessState, p.stdout.String(), p.stderr.String())
			}
			kills.Add(1)
			return nil
		})
		if states := c.states(t); states[catalog.StateInterrupted] != 1 {
			t.Errorf("after the sweep died there are %v", states)
		}
	case "copy":
		other := newCtl(t)
		if strings.HasPrefix(c.url, "s3://") {
			other = newS3Ctl(t)
		}
		args := []string{"copy", first, "--to-store", other.url, "--lease-ttl", "3s"}
		crash(args...)
		if place == crashpoint.CopyPublished {
			other.listsExactly(t, []string{first})
		} else {
			// It isn't listed, and still has its lease: another copy is refused until the lease has ended.
			if _, stderr := c.run(t, exitFailed, args...); !strings.Contains(stderr, "being backed up already") {
				t.Errorf("a copy while the dead one has its lease: %s", stderr)
			}
			other.listsExactly(t, nil)
			other.run(t, exitDone, "sweep", "--grace", "0")
			other.listsExactly(t, nil)
		}
		testserver.Eventually(t, patience, "a copy is made after the lease has ended", func() error {
			p := c.start(t, program, nil, args...)
			if p.wait(t, patience) != exitDone {
				time.Sleep(500 * time.Millisecond)
				return errors.New(p.stderr.String())
			}
			return nil
		})
		other.listsExactly(t, []string{first})
		other.onlyBackups(t)
		other.run(t, exitDone, "sweep", "--grace", "0")
		other.restores(t, first, crashVersion, want)
	case "restore":
		target := testserver.Start(t, crashVersion)
		testserver.Generate(t, target.Client(t), 30, 8)
		before := testserver.Snapshot(t, target.Client(t))
		crash("restore", first, "--to", target.URL(), "--replace")
		if diff := testserver.Diff(before, testserver.Snapshot(t, target.Client(t))); diff != "" {
			t.Errorf("the target was touched:\n%s", diff)
		}
	default:
		t.Fatalf("nobody knows how to get to %s", place)
	}
	c.listsExactly(t, listed)
	c.run(t, exitDone, "sweep", "--grace", "0")
	c.onlyBackups(t)
	c.listsExactly(t, listed)
	if len(listed) > 1 {
		listed = listed[:len(listed)-1] // the oldest is the same in all of these tests, and verified
	}
	for _, id := range listed {
		c.restores(t, id, crashVersion, want)
	}
}

// listsExactly fails the test unless these backups are listed, and all of them verify.
func (c *ctl) listsExactly(t *testing.T, want []string) {
	t.Helper()
	if got := c.list(t); !slices.Equal(got, want) {
		t.Fatalf("listed: %v, want %v", got, want)
	}
	c.run(t, exitDone, "verify", "--all", "--quiet")
}

// states counts the records by their state.
func (c *ctl) states(t *testing.T) map[catalog.State]int {
	t.Helper()
	states := map[catalog.State]int{}
	for _, b := range parse[[]listed](t, c, exitDone, "list", "--all") {
		states[b.State]++
	}
	return states
}

// backUpAfterLease waits for the end of somebody's lease with a backup, and returns its ID.
func (c *ctl) backUpAfterLease(t *testing.T, args []string) (id string) {
	t.Helper()
	testserver.Eventually(t, patience, "a backup is made after the lease has ended", func() error {
		p := c.start(t, program, nil, append(args, "--quiet")...)
		if p.wait(t, patience) != exitDone {
			if !strings.Contains(p.stderr.String(), "being backed up already") {
				t.Fatalf("while the lease lasts: %s", p.stderr.String())
			}
			time.Sleep(500 * time.Millisecond)
			return errors.New(p.stderr.String())
		}
		id = strings.TrimSpace(p.stdout.String())
		return nil
	})
	return id
}

// slowServer starts a server that takes about so long to send a snapshot.
func slowServer(t *testing.T, takes time.Duration) *testserver.Server {
	t.Helper()
	const keys = 500
	s := testserver.Start(t, crashVersion, "--rdb-key-save-delay", fmt.Sprint((takes / keys).Microseconds()))
	testserver.Generate(t, s.Client(t), keys, 9)
	return s
}

// transferring waits until a backup of c has begun to receive.
func (p *process) transferring(t *testing.T) {
	t.Helper()
	testserver.Eventually(t, patience, "the snapshot is on its way", func() error {
		if !strings.Contains(p.stderr.String(), ": transfer") {
			return errors.New("it says " + p.stderr.String())
		}
		return nil
	})
}

func TestTwoAtOnce(t *testing.T) {
	t.Parallel()
	c, s := newCtl(t), slowServer(t, 2*time.Second)
	args := []string{"backup", "--from", s.URL(), "--id", "orders"}
	var made []string
	for tries := 1; ; tries++ {
		both := []*process{c.start(t, program, nil, args...), c.start(t, program, nil, args...)}
		var winners []catalog.Backup
		for _, p := range both {
			switch p.wait(t, patience) {
			case exitDone:
				made = append(made, strings.Fields(p.stdout.String())[0])
				winners = append(winners, parse[catalog.Backup](t, c, exitDone, "show", made[len(made)-1]))
			case exitFailed:
				if !strings.Contains(p.stderr.String(), "being backed up already") || p.stdout.String() != "" {
					t.Errorf("the loser says %s%s", p.stdout.String(), p.stderr.String())
				}
			default:
				t.Errorf("%v: %s", p.ProcessState, p.stderr.String())
			}
		}
		if len(winners) == 1 {
			break
		}
		// On a busy machine one may have ended before the other has begun: those were not two at once.
		began := func(i int) time.Time { return winners[i].CreatedAt.Add(time.Second) } // or a little before it has its lease; the snapshot takes longer
		if len(winners) == 0 || began(0).Before(winners[1].ReadyAt) && began(1).Before(winners[0].ReadyAt) || tries == 5 {
			t.Fatalf("%d of two won: %+v", len(winners), winners)
		}
	}
	slices.Sort(made)
	slices.Reverse(made)
	c.listsExactly(t, made)
	// Another data store is not held up.
	p := c.start(t, program, nil, args...)
	p.transferring(t)
	c.run(t, exitDone, "backup", "--from", testserver.Start(t, crashVersion).URL(), "--id", "carts")
	if p.wait(t, patience) != exitDone {
		t.Error(p.stderr.String())
	}
}

// A process that is paused past its lease and wakes up late can't publish, and leaves nothing.
func TestPausedPastLease(t *testing.T) {
	t.Parallel()
	c, s, quick := newCtl(t), slowServer(t, 4*time.Second), slowServer(t, 0)
	late := c.start(t, program, nil, "backup", "--from", s.URL(), "--id", "orders", "--lease-ttl", "3s")
	late.transferring(t)
	if err := late.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	other := c.backUpAfterLease(t, []string{"backup", "--from", quick.URL(), "--id", "orders"})
	testserver.Eventually(t, patience, "all is on its way to the late one", func() error {
		if info, err := s.Client(t).Info(t.Context(), "persistence").Result(); err != nil || !strings.Contains(info, "rdb_bgsave_in_progress:0") {
			return fmt.Errorf("%v\n%s", err, info)
		}
		return nil
	})
	if err := late.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if status := late.wait(t, patience); status != exitFailed || late.stdout.String() != "" || !strings.Contains(late.stderr.String(), "lease was lost") {
		t.Errorf("the late one: exit status %d\n%s%s", status, late.stdout.String(), late.stderr.String())
	}
	c.listsExactly(t, []string{other})
	c.run(t, exitDone, "sweep", "--grace", "0")
	c.onlyBackups(t)
	c.restores(t, other, crashVersion, testserver.Snapshot(t, quick.Client(t)))
}

func TestInterrupt(t *testing.T) {
	for name, signal := range map[string]syscall.Signal{"SIGINT": syscall.SIGINT, "SIGTERM": syscall.SIGTERM} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, s := newCtl(t), slowServer(t, 20*time.Second)
			p := c.start(t, program, nil, "backup", "--from", s.URL(), "--id", "orders")
			p.transferring(t)
			if err := p.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			if status := p.wait(t, patience); status != exitFailed {
				t.Errorf("exit status %d: %s", status, p.stderr.String())
			}
			if !strings.Contains(p.stderr.String(), "amberctl: interrupted: nothing was listed") || p.stdout.String() != "" {
				t.Errorf("it says %s%s", p.stdout.String(), p.stderr.String())
			}
			c.listsExactly(t, []string{})
			c.run(t, exitDone, "sweep", "--grace", "0")
			c.onlyBackups(t)
		})
	}
}

func TestInterruptRestore(t *testing.T) {
	t.Parallel()
	c, s := newCtl(t), testserver.Start(t, crashVersion)
	testserver.Generate(t, s.Client(t), 2000, 10)
	id := c.backUp(t, s)
	// It would load for 20 s, and looks at its connections now and then.
	target := testserver.Start(t, crashVersion, "--key-load-delay", "10000", "--loading-process-events-interval-bytes", "4096")
	testserver.Generate(t, target.Client(t), 10, 11)
	p := c.start(t, program, nil, "restore", id, "--to", target.URL(), "--replace")
	testserver.Eventually(t, patience, "the target loads", func() error {
		if !strings.Contains(target.Log(), "Loading DB in memory") {
			return errors.New(target.Log())
		}
		return nil
	})
	if err := p.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	status := p.wait(t, 10*time.Second)
	if said := p.stderr.String(); status != exitFailed || !strings.Contains(said, "interrupted: restore") || !strings.Contains(said, "the target's data: ") {
		t.Errorf("exit status %d, and it doesn't say what the target holds:\n%s", status, said)
	}
	info, err := target.Client(t).Info(t.Context(), "replication").Result()
	if err != nil || !strings.Contains(info, "role:master") {
		t.Errorf("the target still replicates: %v\n%s", err, info)
	}
	if err := target.Client(t).ConfigSet(t.Context(), "key-load-delay", "0").Err(); err != nil {
		t.Fatal(err)
	}
	c.run(t, exitDone, "restore", id, "--to", target.URL(), "--replace")
	if diff := testserver.Diff(testserver.Snapshot(t, s.Client(t)), testserver.Snapshot(t, target.Client(t))); diff != "" {
		t.Error(diff)
	}
}
