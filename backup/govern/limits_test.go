package govern_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/govern"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
)

// After a BGSAVE that failed, nothing more is asked of the server, unless that is said to be ignored.
func TestLastSave(t *testing.T) {
	someServers(t, 0, func(t *testing.T, version string) {
		srv := testserver.Start(t, version)
		c := srv.Client(t)
		testserver.Generate(t, c, 50, 1)
		// Where the file would be there is a directory: that keeps root from writing it, too.
		if err := os.MkdirAll(filepath.Join(srv.Dir, "dump.rdb", "x"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := c.BgSave(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		testserver.Eventually(t, 10*time.Second, "the BGSAVE has failed", func() error {
			if status := info(t, srv)["rdb_last_bgsave_status"]; status != "err" {
				return errors.New(status)
			}
			return nil
		})
		s, _ := governed(t, srv, nil)
		_, err := s.Snapshot(t.Context())
		limited(t, err, govern.LastSave)
		if !strings.Contains(err.Error(), "stop-writes-on-bgsave-error") {
			t.Errorf("the advice is missing: %v", err)
		}
		unharmed(t, srv, 0)

		s, l := governed(t, srv, func(c *govern.Config) { c.Limits.Ignore = []string{govern.LastSave} })
		take(t, s)
		if !strings.Contains(l.String(), "ignored") {
			t.Errorf("nothing tells what was ignored: %s", l)
		}
		unharmed(t, srv, 1)
	})
}

// What is written while the snapshot is taken matters only where it is kept for us.
func TestOutputBuffer(t *testing.T) {
	someServers(t, 1, func(t *testing.T, version string) {
		srv := testserver.Start(t, version, "--client-output-buffer-limit", "replica 1mb 0 0", "--repl-backlog-size", "16kb")
		c := srv.Client(t)
		if err := c.Do(t.Context(), "DEBUG", "POPULATE", "2000", "big", "4096").Err(); err != nil {
			t.Fatal(err)
		}
		stop := testserver.WriteLoad(t, srv.Client(t))
		expect := func(c *govern.Config) { c.Expected, c.Limits.Wait = 10*time.Minute, -1 }
		old, _ := governed(t, srv, expect)
		govern.SetTuning(old, true, time.Second, time.Second, time.Second)
		testserver.Eventually(t, 20*time.Second, "the governor sees that the buffer won't hold", func() error {
			points, err := old.Check(t.Context())
			if err != nil {
				return err
			}
			for _, p := range points {
				if p.Name == govern.Buffer && p.Level == govern.Wait && strings.Contains(p.Limit, "1.0 MiB") && !strings.Contains(p.Limit, "by default") {
					return nil
				}
			}
			return fmt.Errorf("%+v", points)
		})
		_, err := old.Snapshot(t.Context())
		limited(t, err, govern.Buffer)
		unharmed(t, srv, 0)

		s, _ := governed(t, srv, expect)
		take(t, s)
		stop()
		unharmed(t, srv, 1)
	})
}

func TestMemory(t *testing.T) {
	srv := testserver.Start(t, "valkey-8.1")
	s, _ := governed(t, srv, func(c *govern.Config) { c.Limits.Memory = 1 << 20 })
	_, err := s.Snapshot(t.Context())
	limited(t, err, govern.Memory)
	s, _ = governed(t, srv, func(c *govern.Config) { c.Limits.Memory, c.Several = 1<<20, true })
	if _, err = s.Snapshot(t.Context()); !errors.Is(err, govern.ErrLimit) || errors.Is(err, backup.ErrSpared) {
		t.Errorf("a server of several: %v", err)
	}
	unharmed(t, srv, 0)
}

func TestForkTime(t *testing.T) {
	srv := testserver.Start(t, "redis-7.0")
	s, _ := governed(t, srv, func(c *govern.Config) { c.Limits.Fork = 1 })
	take(t, s) // it has not forked yet
	unharmed(t, srv, 1)
	_, err := s.Snapshot(t.Context())
	limited(t, err, govern.ForkTime)
	unharmed(t, srv, 1)
}

// A server that doesn't let us see is taken as it is.
func TestFewRights(t *testing.T) {
	someServers(t, 0, func(t *testing.T, version string) {
		srv := testserver.Start(t, version)
		testserver.Generate(t, srv.Client(t), 20, 1)
		for _, rights := range [][]string{{"+psync", "+replconf"}, {"+psync", "+replconf", "+info"}, {"+psync", "+replconf", "+ping"}} {
			srv.AddUser(t, "amber", canary, rights...)
			s, l := governed(t, srv, func(c *govern.Config) {
				c.Options.Username, c.Options.Password = "amber", canary
				c.Limits.Latency = time.Minute
			})
			_, src := take(t, s)
			if pinged := src.Cost.LatencyBefore > 0 && src.Cost.LatencyDuring > 0; pinged != (rights[len(rights)-1] == "+ping") {
				t.Errorf("%v: %+v", rights, src.Cost)
			}
			if !strings.Contains(l.String(), "isn't clear") || strings.Contains(l.String(), canary) {
				t.Errorf("%v: the log: %s", rights, l)
			}
		}
	})
}

// Where a replica sends the snapshot it is looked at, not the primary.
func TestReplicaInItsPlace(t *testing.T) {
	primary := testserver.Start(t, "redis-8.0")
	testserver.Generate(t, primary.Client(t), 100, 1)
	second := testserver.StartReplica(t, "redis-8.0", primary)
	testserver.Eventually(t, 10*time.Second, "the replica is online", func() error {
		if i := info(t, primary); !strings.Contains(i["slave0"], "state=online") || i.Int("rdb_bgsave_in_progress") != 0 {
			return fmt.Errorf("%s, %s children", i["slave0"], i["rdb_bgsave_in_progress"])
		}
		return nil
	})
	if err := primary.Client(t).ConfigSet(t.Context(), "rdb-key-save-delay", "100000").Err(); err != nil {
		t.Fatal(err)
	}
	if err := primary.Client(t).BgSave(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	s, l := governed(t, primary, func(c *govern.Config) { c.Limits.Wait, c.Replica = -1, true })
	_, src := take(t, s)
	if src.Address != second.Addr || src.Cost.Fork <= 0 || src.Cost.LatencyDuring <= 0 {
		t.Errorf("the source is %+v, its cost %+v, want that of %s: %s", src, src.Cost, second.Addr, l)
	}
	s, _ = governed(t, primary, func(c *govern.Config) { c.Limits.Wait = -1 })
	_, err := s.Snapshot(t.Context())
	limited(t, err, govern.ForkRunning)
}

// stopped stops a server as a whole, for a while.
func stopped(t *testing.T, srv *testserver.Server) (cont func()) {
	t.Helper()
	pid := srv.Cmd.Process.Pid
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	cont = func() { syscall.Kill(pid, syscall.SIGCONT) }
	t.Cleanup(cont)
	return cont
}

// big makes a server hold more than sockets do.
func big(t *testing.T, srv *testserver.Server) {
	t.Helper()
	c := srv.Client(t)
	if err := c.ConfigSet(t.Context(), "rdbcompression", "no").Err(); err != nil {
		t.Fatal(err)
	}
	if err := c.Do(t.Context(), "DEBUG", "POPULATE", "6000", "big", "4096").Err(); err != nil {
		t.Fatal(err)
	}
}

// begin takes a snapshot and reads its beginning.
func begin(t *testing.T, s backup.Snapshotter) (backup.Snapshot, io.ReadCloser) {
	t.Helper()
	sn, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sn.Close() })
	r, err := sn.Open(t.Context(), sn.Parts()[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 1<<10)); err != nil {
		t.Fatal(err)
	}
	return sn, r
}

// A server that answers too slowly for too long has the snapshot given up, and its peace.
func TestTooSlow(t *testing.T) {
	someServers(t, 1, func(t *testing.T, version string) {
		srv := testserver.Start(t, version)
		big(t, srv)
		s, l := governed(t, srv, func(c *govern.Config) {
			c.Limits.Latency, c.Limits.LatencyFor = time.Second, time.Second // so long a busy machine makes nobody wait
		})
		sn, r := begin(t, s)
		cont := stopped(t, srv)
		read := make(chan error, 1)
		go func() {
			_, err := io.Copy(io.Discard, r)
			read <- err
		}()
		select {
		case err := <-read:
			var e *govern.LimitError
			if !errors.As(err, &e) || e.Name != govern.Latency || errors.Is(err, backup.ErrSpared) || !errors.Is(err, backup.ErrTransient) || !strings.Contains(err.Error(), srv.Addr) {
				t.Errorf("reading on: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Errorf("the snapshot is read on: %s", l)
		}
		cont()
		if _, err := sn.Open(t.Context(), sn.Parts()[0]); !errors.Is(err, govern.ErrLimit) {
			t.Errorf("Open after that: %v", err)
		}
		if err := sn.Close(); err != nil {
			t.Error(err)
		}
		unharmed(t, srv, 1)
	})
}

// One that is slow for a while is read slowly, and then goes on; so does one whose slowness is ignored.
func TestSlowForAWhile(t *testing.T) {
	for _, ignored := range []bool{false, true} {
		srv := testserver.Start(t, "valkey-9.1")
		big(t, srv)
		s, l := governed(t, srv, func(c *govern.Config) {
			c.Limits.Latency, c.Limits.LatencyFor = 250*time.Millisecond, 20*time.Second
			if ignored {
				c.Limits.LatencyFor, c.Limits.Ignore = 1, []string{govern.Latency}
			}
		})
		sn, r := begin(t, s)
		cont := stopped(t, srv)
		testserver.Eventually(t, 10*time.Second, "it is noticed", func() error {
			if !strings.Contains(l.String(), "has become slow") {
				return errors.New(l.String())
			}
			return nil
		})
		time.AfterFunc(300*time.Millisecond, cont) // when it is read on already
		if _, err := io.Copy(io.Discard, r); err != nil {
			t.Fatalf("ignored %v: %v", ignored, err)
		}
		c := sn.Source().Cost
		if c == nil || c.Slowed <= 0 && !ignored || c.LatencyDuring < 250*time.Millisecond || c.Fork <= 0 {
			t.Errorf("ignored %v: the cost is %+v", ignored, c)
		}
		sn.Close()
		unharmed(t, srv, 1)
	}
}

// Who waits for a slow server is woken by the end of the context, of the part or of the snapshot.
func TestCancelSlow(t *testing.T) {
	srv := testserver.Start(t, "redis-8.0")
	big(t, srv)
	s, l := governed(t, srv, func(c *govern.Config) { c.Limits.Latency, c.Limits.LatencyFor = 250*time.Millisecond, time.Minute })
	for _, how := range []string{"context", "part", "snapshot"} {
		before := strings.Count(l.String(), "has become slow") // which a busy machine may be sooner
		sn, err := s.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		r, err := sn.Open(ctx, sn.Parts()[0])
		if err != nil {
			t.Fatal(err)
		}
		cont := stopped(t, srv)
		testserver.Eventually(t, 10*time.Second, "it is noticed", func() error {
			if strings.Count(l.String(), "has become slow") == before {
				return errors.New(l.String())
			}
			return nil
		})
		done := make(chan error, 1)
		go func() {
			_, err := io.Copy(io.Discard, r)
			done <- err
		}()
		time.Sleep(100 * time.Millisecond) // of the two seconds that it waits at least
		map[string]func(){"context": cancel, "part": func() { r.Close() }, "snapshot": func() { sn.Close() }}[how]()
		select {
		case err := <-done:
			if err == nil || how == "context" && !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", how, err)
			}
		case <-time.After(1500 * time.Millisecond): // of those two seconds
			t.Errorf("the end of the %s: it waits on", how)
		}
		cont()
		sn.Close()
	}
}

// Before a snapshot, a slow server is waited for.
func TestSlowBefore(t *testing.T) {
	srv := testserver.Start(t, "redis-8.0")
	s, _ := governed(t, srv, func(c *govern.Config) { c.Limits.Latency, c.Limits.Wait = 1, 200*time.Millisecond })
	_, err := s.Snapshot(t.Context())
	limited(t, err, govern.Latency)
	unharmed(t, srv, 0)
}

// Losing the watching connection is no reason to end a snapshot.
func TestWatchIsLost(t *testing.T) {
	srv := testserver.Start(t, "redis-7.0")
	big(t, srv)
	s, l := governed(t, srv, func(c *govern.Config) { c.Limits.Latency, c.ConnectTimeout = time.Minute, 2*time.Second })
	sn, r := begin(t, s)
	c := srv.Client(t)
	if err := c.Do(t.Context(), "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes").Err(); err != nil {
		t.Fatal(err)
	}
	// The child that saves has the connection, too, so that no end of it comes: no answer does.
	testserver.Eventually(t, 20*time.Second, "it is watched again", func() error {
		if !strings.Contains(l.String(), "isn't watched for a moment") || !strings.Contains(l.String(), "watched again") {
			return errors.New(l.String())
		}
		return nil
	})
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Fatal(err)
	}
	if c := sn.Source().Cost; c == nil || c.Fork <= 0 {
		t.Errorf("the cost is %+v", c)
	}
	sn.Close()
	unharmed(t, srv, 1)
}

// A snapshot is read no faster than is allowed, all parts together, and can be cancelled meanwhile.
func TestRate(t *testing.T) {
	const rate = 4 << 20
	parts := &several{size: 1 << 20, n: 4}
	s, err := govern.New(govern.Config{Snapshotter: parts, Limits: govern.Limits{BytesPerSecond: rate}})
	if err != nil {
		t.Fatal(err)
	}
	sn, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	done := make(chan error, 4)
	for _, p := range sn.Parts() {
		go func() {
			r, err := sn.Open(t.Context(), p)
			if err == nil {
				_, err = io.Copy(io.Discard, r)
				r.Close()
			}
			done <- err
		}()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	took := time.Since(began)
	// Each of the parts may be a burst ahead, and all together the credit.
	if took < 400*time.Millisecond || took > 10*time.Second {
		t.Errorf("4 MiB at 4 MiB a second took %v", took)
	}
	c := sn.Source().Cost
	if c == nil || c.Bytes != 4<<20 || c.Slowed <= 0 || c.Slowed > took || c.Duration <= 0 || c.Duration > took+time.Second {
		t.Errorf("after %v the cost is %+v", took, c)
	}
	if shard := sn.(backup.Sharded).Shard(sn.Parts()[1]); shard == nil || shard.ID != "part-1.rdb" {
		t.Errorf("the shard is %+v", shard)
	}
	if c := sn.(backup.Counted); c.Count(7) != nil || !errors.Is(c.Count(6), errFewKeys) {
		t.Error("what the driver says of the number of keys doesn't come through")
	}
	sn.Close()

	if sn, err = s.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	parts.size = 1 << 40
	for _, how := range []string{"cancel", "close the part", "close the snapshot"} {
		ctx, cancel := context.WithCancel(t.Context())
		r, err := sn.Open(ctx, sn.Parts()[0])
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			_, err := io.Copy(io.Discard, r)
			done <- err
		}()
		time.Sleep(50 * time.Millisecond)
		switch how {
		case "cancel":
			cancel()
		case "close the part":
			r.Close()
		default:
			sn.Close()
		}
		select {
		case err := <-done:
			if err == nil {
				t.Errorf("%s: no error", how)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("%s: it is read on", how)
		}
		cancel()
		r.Close()
	}
}

// Flows are never read slower: Dragonfly would freeze.
func TestFlowsAreNotSlowed(t *testing.T) {
	parts := &several{size: 4 << 20, n: 1, method: "flows"}
	l := &log{}
	s, err := govern.New(govern.Config{Snapshotter: parts, Method: "flows", Limits: govern.Limits{BytesPerSecond: 64 << 10}, Logger: newLogger(l)})
	if err != nil {
		t.Fatal(err)
	}
	_, src := take(t, s)
	if src.Cost == nil || src.Cost.Bytes != 4<<20 || src.Cost.Slowed != 0 || !strings.Contains(l.String(), "flows") {
		t.Errorf("the cost is %+v; the log: %s", src.Cost, l)
	}
}

// A part that is lost and read again passes through, and what was read in vain is counted too.
func TestAgain(t *testing.T) {
	parts := &several{size: 1 << 20, n: 2}
	parts.lose.Store(1)
	s, err := govern.New(govern.Config{Snapshotter: parts})
	if err != nil {
		t.Fatal(err)
	}
	sn, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer sn.Close()
	if _, err = read(t, sn); !errors.Is(err, backup.ErrAgain) {
		t.Fatalf("reading what is lost: %v", err)
	}
	if n, err := read(t, sn); n != 2<<20 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	if c := sn.Source().Cost; c == nil || c.Bytes != 2<<20+1<<19 {
		t.Errorf("the cost is %+v", c)
	}
}

// What the other Snapshotter knows of the cost stays.
func TestInnerCost(t *testing.T) {
	parts := &several{size: 1 << 20, n: 1, cost: &catalog.Cost{Bytes: 42, Fork: 7, Slowed: 9, Waited: 3}}
	s, err := govern.New(govern.Config{Snapshotter: parts})
	if err != nil {
		t.Fatal(err)
	}
	if _, src := take(t, s); src.Cost == nil || src.Cost.Bytes != 42 || src.Cost.Fork != 7 || src.Cost.Slowed != 9 || src.Cost.Waited != 3 || src.Cost.Duration <= 0 {
		t.Errorf("the cost is %+v", src.Cost)
	}
}

func TestConfig(t *testing.T) {
	inner := &several{}
	for want, cfg := range map[string]govern.Config{
		"govern: Config.Snapshotter is required":                                                                       {},
		"govern: Config.Expected is negative: -1ns":                                                                    {Snapshotter: inner, Expected: -1},
		"govern: Config.ConnectTimeout is negative: -1ns":                                                              {Snapshotter: inner, ConnectTimeout: -1},
		"govern: Config.Limits: its Latency is negative: -1ns":                                                         {Snapshotter: inner, Limits: govern.Limits{Latency: -1}},
		"govern: Config.Limits: its LatencyFor is negative: -1ns":                                                      {Snapshotter: inner, Limits: govern.Limits{LatencyFor: -1}},
		"govern: Config.Limits: its Fork is negative: -1ns":                                                            {Snapshotter: inner, Limits: govern.Limits{Fork: -1}},
		"govern: Config.Limits: its Memory is negative: -1":                                                            {Snapshotter: inner, Limits: govern.Limits{Memory: -1}},
		"govern: Config.Limits: its BytesPerSecond is 100, it has to be at least 65536: servers drop who reads slower": {Snapshotter: inner, Limits: govern.Limits{BytesPerSecond: 100}},
		`govern: Config.Limits: its Ignore has "x", which is no point: there are [fork-running memory buffer last-save latency fork-time budget]`: {Snapshotter: inner, Limits: govern.Limits{Ignore: []string{"x"}}},
	} {
		if _, err := govern.New(cfg); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// several is a Snapshotter of parts of zeroes.
type several struct {
	size   int64
	n      int
	method string
	cost   *catalog.Cost
	lose   atomic.Int64 // so many reads are lost in their middle
}

func (s *several) Snapshot(context.Context) (backup.Snapshot, error) {
	return &severalSnapshot{s: s, closed: make(chan struct{})}, nil
}

type severalSnapshot struct {
	s      *several
	closed chan struct{}
}

func (s *severalSnapshot) Source() catalog.Source {
	return catalog.Source{Method: s.s.method, Cost: s.s.cost}
}

func (s *severalSnapshot) Parts() (parts []backup.Part) {
	for i := range s.s.n {
		parts = append(parts, backup.Part{Name: fmt.Sprintf("part-%d.rdb", i), Size: -1})
	}
	return parts
}

func (s *severalSnapshot) Open(ctx context.Context, p backup.Part) (io.ReadCloser, error) {
	r := &zeroes{left: s.s.size, ctx: ctx, closed: make(chan struct{}), snapshot: s.closed}
	if s.s.lose.Add(-1) >= 0 {
		r.lost = s.s.size / 2
	}
	return r, nil
}

func (s *severalSnapshot) Shard(p backup.Part) *catalog.Shard { return &catalog.Shard{ID: p.Name} }

func (s *severalSnapshot) Count(keys int64) error {
	if keys < 7 {
		return errFewKeys
	}
	return nil
}

var errFewKeys = errors.New("keys are missing")

func (s *severalSnapshot) Close() error {
	select {
	case <-s.closed:
	default:
		close(s.closed)
	}
	return nil
}

type zeroes struct {
	left, lost       int64
	ctx              context.Context
	closed, snapshot chan struct{}
}

func (z *zeroes) Read(p []byte) (int, error) {
	select {
	case <-z.ctx.Done():
		return 0, z.ctx.Err()
	case <-z.closed:
		return 0, os.ErrClosed
	case <-z.snapshot:
		return 0, os.ErrClosed
	default:
	}
	if z.lost > 0 && z.left == z.lost {
		return 0, fmt.Errorf("%w: lost", backup.ErrAgain)
	}
	if z.left == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), z.left-z.lost)
	z.left -= n
	return int(n), nil
}

func (z *zeroes) Close() error {
	select {
	case <-z.closed:
	default:
		close(z.closed)
	}
	return nil
}
