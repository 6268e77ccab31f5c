package testserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

func TestMain(m *testing.M) {
	if err := MoreAtOnce(4); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func eachVersion(t *testing.T, f func(t *testing.T, version string)) {
	for _, v := range All() {
		t.Run(v, func(t *testing.T) {
			t.Parallel()
			f(t, v)
		})
	}
}

func TestStartsEveryVersion(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		s := Start(t, version)
		info, err := s.Client(t).Info(t.Context(), "server").Result()
		if err != nil {
			t.Fatal(err)
		}
		product, number, _ := strings.Cut(version, "-")
		if want := product + "_version:" + number + "."; !strings.Contains(info, want) {
			t.Errorf("INFO server has no %q:\n%s", want, info)
		}
		if want := fmt.Sprintf("process_id:%d\r\n", s.Cmd.Process.Pid); !strings.Contains(info, want) {
			t.Errorf("Cmd is not the server: INFO server has no %q:\n%s", want, info)
		}
		out, err := exec.Command(Program(t, version, "cli"), "-u", s.URL(), "SAVE").CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != "OK" {
			t.Errorf("SAVE by the command line: %v\n%s", err, out)
		}
		if out, err := exec.Command(Program(t, version, "check-rdb"), filepath.Join(s.Dir, "dump.rdb")).CombinedOutput(); err != nil {
			t.Errorf("check-rdb: %v\n%s", err, out)
		}
	})
}

func TestArgumentsWin(t *testing.T) {
	s := Start(t, "redis-7.0", "--save", "60 1000", "--databases", "3", "--requirepass", "p w", "--user", "bob", "on", ">secret", "~*", "+@all")
	if s.Password != "p w" {
		t.Errorf("Password is %q", s.Password)
	}
	c := s.Client(t)
	for name, want := range map[string]string{"save": "60 1000", "databases": "3"} {
		if got, err := c.ConfigGet(t.Context(), name).Result(); err != nil || got[name] != want {
			t.Errorf("CONFIG GET %s: %v, %v, want %s", name, got, err, want)
		}
	}
	opts := s.Options()
	opts.Username, opts.Password = "bob", "secret"
	bob := redis.NewClient(opts)
	defer bob.Close()
	if err := bob.Ping(t.Context()).Err(); err != nil {
		t.Errorf("PING as bob: %v", err)
	}
	s.AddUser(t, "eve", "x", "~*", "+get")
	opts.Username, opts.Password = "eve", "x"
	eve := redis.NewClient(opts)
	defer eve.Close()
	if err := eve.Set(t.Context(), "k", "v", 0).Err(); err == nil || !strings.Contains(err.Error(), "NOPERM") {
		t.Errorf("SET as eve, who may only GET: %v", err)
	}
}

func TestOptionsAreQuiet(t *testing.T) {
	s := Start(t, "redis-7.0")
	c := s.Client(t)
	if err := c.Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	info, err := c.Info(t.Context(), "errorstats").Result()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(info, "errorstat_") {
		t.Errorf("the client made the server count errors:\n%s", info)
	}
}

func TestKillAndRestart(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		s := Start(t, version)
		c := s.Client(t)
		if err := c.Set(t.Context(), "k", "saved", 0).Err(); err != nil {
			t.Fatal(err)
		}
		if err := c.Save(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		if err := c.Set(t.Context(), "k", "lost", 0).Err(); err != nil {
			t.Fatal(err)
		}
		addr, pid := s.Addr, s.Cmd.Process.Pid
		s.Kill()
		s.Kill() // harmless
		if _, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
			t.Error("somebody listens there after Kill")
		}
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("process %d is still there: %v", pid, err)
		}
		s.Restart(t)
		if s.Addr != addr {
			t.Errorf("restarted at %s instead of %s", s.Addr, addr)
		}
		if got, err := c.Get(t.Context(), "k").Result(); err != nil || got != "saved" {
			t.Errorf("GET k after the restart: %q, %v", got, err)
		}
	})
}

func TestStartLoading(t *testing.T) {
	first := Start(t, "redis-8.0")
	c := first.Client(t)
	if err := c.Do(t.Context(), "DEBUG", "POPULATE", 5000).Err(); err != nil {
		t.Fatal(err)
	}
	if err := c.Save(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	first.Close()
	// The server answers clients now and then while it loads; the delay of 5000 keys is 50 s.
	s := StartLoading(t, "redis-8.0", first.Dir, "--key-load-delay", "10000", "--loading-process-events-interval-bytes", "1024")
	if err := s.Client(t).Get(t.Context(), "key:1").Err(); err == nil || !strings.Contains(err.Error(), "LOADING") {
		t.Errorf("a server that loads answers %v", err)
	}
}

func TestStartReplica(t *testing.T) {
	primary := Start(t, "valkey-9.1", "--requirepass", "pw")
	Generate(t, primary.Client(t), 100, 1)
	replica := StartReplica(t, "valkey-9.1", primary)
	if diff := Diff(Snapshot(t, primary.Client(t)), Snapshot(t, replica.Client(t))); diff != "" {
		t.Error(diff)
	}
}

func TestTLS(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		s := StartTLS(t, version, "--tls-auth-clients", "yes")
		if err := s.Client(t).Ping(t.Context()).Err(); err != nil {
			t.Errorf("with a certificate: %v", err)
		}
		opts := s.Options()
		opts.TLSConfig = &tls.Config{RootCAs: s.TLS.Client.RootCAs}
		none := redis.NewClient(opts)
		defer none.Close()
		if err := none.Ping(t.Context()).Err(); err == nil {
			t.Error("without a certificate: PONG")
		}
		if version != "redis-7.0" {
			return
		}
		out, err := exec.Command(Program(t, version, "cli"), "-u", s.URL(), "--cacert", s.TLS.CAFile, "--cert", s.TLS.CertFile,
			"--key", s.TLS.KeyFile, "PING").CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != "PONG" {
			t.Errorf("redis-cli: %v\n%s", err, out)
		}
	})
}

// TestServerTrustsListener lets a server be the client: as a replica with TLS it connects to a listener of ours.
func TestServerTrustsListener(t *testing.T) {
	s := StartTLS(t, "redis-7.0", "--tls-replication", "yes")
	l, err := tls.Listen("tcp", "127.0.0.1:0", s.TLS.Listener)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := make(chan string, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			got <- err.Error()
			return
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		buf := make([]byte, 64)
		n, err := conn.Read(buf)
		got <- fmt.Sprint(string(buf[:n]), err)
	}()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	if err := s.Client(t).Do(t.Context(), "REPLICAOF", "127.0.0.1", port).Err(); err != nil {
		t.Fatal(err)
	}
	if text := <-got; !strings.Contains(text, "PING") {
		t.Errorf("the server said %q", text)
	}
}

func TestManyAtOnce(t *testing.T) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := make(map[string]bool)
	for range 12 {
		wg.Go(func() {
			s, err := Launch("redis-7.0", t.TempDir())
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			c := redis.NewClient(s.Options())
			defer c.Close()
			info, err := c.Info(context.Background(), "server").Result()
			if err != nil || !strings.Contains(info, fmt.Sprintf("process_id:%d\r\n", s.Cmd.Process.Pid)) {
				t.Errorf("%s: %v, not our server:\n%s", s.Addr, err, info)
			}
			mu.Lock()
			defer mu.Unlock()
			if seen[s.Addr] {
				t.Errorf("two servers at %s", s.Addr)
			}
			seen[s.Addr] = true
			time.Sleep(200 * time.Millisecond)
		})
	}
	wg.Wait()
}

func TestTakenPortIsNoticed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	// The argument wins over the port that was found, so that no attempt can succeed.
	if _, err := Launch("valkey-8.1", t.TempDir(), "--port", port); !errors.Is(err, errPortTaken) {
		t.Errorf("starting on a port that is taken: %v", err)
	}
	if _, err := Launch("valkey-8.1", t.TempDir(), "--no-such-option", "x"); err == nil || errors.Is(err, errPortTaken) ||
		!strings.Contains(err.Error(), "no-such-option") {
		t.Errorf("starting with a wrong argument: %v", err)
	}
}

// TestHeldPorts: of what asks for ports, nobody is told one that another may still be about to listen on.
func TestHeldPorts(t *testing.T) {
	seen := map[string]bool{}
	ask := func(f func() (string, error)) {
		t.Helper()
		addr, err := f()
		if err != nil {
			t.Fatal(err)
		}
		if seen[addr] {
			t.Fatalf("%s is given twice", addr)
		}
		seen[addr] = true
	}
	var releases []func()
	for range 300 { // of 12,000 ports, so that some of them would surely be the same
		ask(FreeAddr)
		ask(func() (string, error) {
			addr, release, err := HoldAddr()
			releases = append(releases, release)
			return addr, err
		})
	}
	locked := func() (n int) {
		for addr := range seen {
			_, port, _ := net.SplitHostPort(addr)
			if _, err := os.Stat(filepath.Join(lockDir(), port)); err == nil {
				n++
			}
		}
		return n
	}
	if n := locked(); n != 600 {
		t.Errorf("%d of 600 ports have a lock", n)
	}
	for _, release := range releases {
		release()
		release() // does nothing
	}
	if n := locked(); n < 300 || n > 350 { // some may have been taken by others since
		t.Errorf("after 300 of 600 ports were let go, %d have a lock", n)
	}
}

// TestMissingServer runs in a process of its own, because it shall fail.
func TestMissingServer(t *testing.T) {
	cmd := exec.Command(os.Args[0], "-test.run", "^TestStartsEveryVersion$")
	cmd.Env = append(os.Environ(), "AMBER_SERVERS="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "run `make servers`") || strings.Contains(string(out), "SKIP") {
		t.Errorf("without servers: %v\n%s", err, out)
	}
	if _, err := ProgramPath("redis-6.2", "server"); err == nil {
		t.Error("a version that there isn't was found")
	}
}

// TestNoServerOutlivesItsTest kills a process that runs a server and a cluster and looks for them.
func TestNoServerOutlivesItsTest(t *testing.T) {
	if dir := os.Getenv("TESTSERVER_CHILD"); dir != "" {
		var pids []string
		for _, s := range append(StartCluster(t, "redis-8.0", 2, 1).Nodes(), StartIn(t, "redis-7.0", dir)) {
			pids = append(pids, strconv.Itoa(s.Cmd.Process.Pid))
		}
		if err := os.WriteFile(filepath.Join(dir, "pids"), []byte(strings.Join(pids, " ")+" all"), 0o600); err != nil {
			t.Fatal(err)
		}
		select {}
	}
	dir := t.TempDir()
	if err := os.MkdirAll(lockDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^TestNoServerOutlivesItsTest$")
	// Directories of tests that are killed stay, so they are put where this test removes them. Locks stay where they are.
	if err := os.Symlink(lockDir(), filepath.Join(dir, filepath.Base(lockDir()))); err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), "TESTSERVER_CHILD="+dir, "TMPDIR="+dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pids []int
	Eventually(t, readyWithin, "the child has servers", func() error {
		text, err := os.ReadFile(filepath.Join(dir, "pids"))
		if err != nil {
			return err
		}
		list, ok := strings.CutSuffix(string(text), " all")
		if !ok {
			return errors.New("it has not yet written all")
		}
		for word := range strings.FieldsSeq(list) {
			pid, err := strconv.Atoi(word)
			if err != nil {
				return err
			}
			pids = append(pids, pid)
		}
		return nil
	})
	if len(pids) != 5 {
		t.Fatalf("the child has servers %v", pids)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, 0); err != nil {
			t.Fatalf("server %d is not there: %v", pid, err)
		}
	}
	cmd.Process.Kill()
	cmd.Wait()
	for _, pid := range pids {
		Eventually(t, time.Minute, "the server is gone", func() error {
			if state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && strings.Contains(string(state), ") Z ") {
				return nil // dead; whoever adopted it has not asked yet
			}
			if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("process %d: %v", pid, err)
			}
			return nil
		})
	}
}

func TestWriteLoad(t *testing.T) {
	s := Start(t, "valkey-8.1")
	c := s.Client(t)
	stop := WriteLoad(t, c)
	Eventually(t, time.Minute, "something was written", func() error { return c.Get(t.Context(), "load:b").Err() })
	n := stop()
	snap := Snapshot(t, c)
	if n == 0 || snap["0/load:a"] != snap["0/load:b"] {
		t.Errorf("after %d transactions the counters are %q and %q", n, snap["0/load:a"], snap["0/load:b"])
	}
	if again := Snapshot(t, c); !maps.Equal(snap, again) {
		t.Error("the load goes on after stop:", Diff(snap, again))
	}
}
