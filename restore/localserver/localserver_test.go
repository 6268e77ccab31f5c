package localserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
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

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/restore"
)

// maker returns a Provisioner of a version's servers, and the directory in which it has theirs.
func maker(t *testing.T, version string, change func(*Config)) (*Provisioner, string) {
	t.Helper()
	cfg := Config{Program: testserver.Program(t, version, "server"), Dir: t.TempDir(), Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
	if change != nil {
		change(&cfg)
	}
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p, cfg.Dir
}

func provision(t *testing.T, p *Provisioner, need restore.Need) *Server {
	t.Helper()
	made, err := p.Provision(t.Context(), need)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := made.Remove(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return made.(*Server)
}

func client(t *testing.T, s *Server) *redis.Client {
	c := redis.NewClient(s.Options())
	t.Cleanup(func() { c.Close() })
	return c
}

// nothingLeft fails the test if a directory has anything in it.
func nothingLeft(t *testing.T, dir string) {
	t.Helper()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%v is left (%v)", left, err)
	}
}

// gone fails the test if there is a process of that group.
func gone(t *testing.T, group int) {
	t.Helper()
	testserver.Eventually(t, 20*time.Second, "the process and its children are gone", func() error {
		files, err := filepath.Glob("/proc/[0-9]*/stat")
		if err != nil || len(files) == 0 {
			t.Fatal("no processes:", err)
		}
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				continue // it ended just now
			}
			// Behind the name in parentheses: the state, the parent and the group. Z is dead; whoever adopted it has not asked yet.
			fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
			if fields[0] != "Z" && fields[2] == strconv.Itoa(group) {
				return fmt.Errorf("there is %s", text)
			}
		}
		return nil
	})
}

func TestServerIsWhatIsNeeded(t *testing.T) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			p, dir := maker(t, version, func(cfg *Config) { cfg.Args = []string{"--hz", "77"} })
			engine, number, _ := strings.Cut(version, "-")
			s := provision(t, p, restore.Need{Engine: engine, Version: number + ".0", Memory: 1 << 20, Databases: 40,
				Parameters: map[string]string{"maxmemory-policy": "allkeys-lfu", "MaxMemory": "64mb", "notify-keyspace-events": "", "save": "3600 1 60 100"}})
			if s.Engine != engine || !strings.HasPrefix(s.Version, number+".") {
				t.Errorf("it is %q %q", s.Engine, s.Version)
			}
			c := client(t, s)
			for name, want := range map[string]string{
				"databases": "40", "maxmemory": "67108864", "maxmemory-policy": "allkeys-lfu", "hz": "77", "bind": "127.0.0.1", "appendonly": "no",
				"notify-keyspace-events": "", "save": "3600 1 60 100",
			} {
				if got, err := c.ConfigGet(t.Context(), name).Result(); err != nil || got[name] != want {
					t.Errorf("CONFIG GET %s: %v, %v, want %q", name, got, err, want)
				}
			}
			if n, err := c.DBSize(t.Context()).Result(); err != nil || n != 0 {
				t.Errorf("it has %d keys: %v", n, err)
			}
			open := redis.NewClient(&redis.Options{Addr: s.Options().Addr})
			defer open.Close()
			if err := open.Ping(t.Context()).Err(); err == nil || !strings.Contains(err.Error(), "NOAUTH") {
				t.Errorf("without a password: %v", err)
			}
			if err := c.Do(t.Context(), "SAVE").Err(); err != nil { // more for Remove to remove
				t.Error(err)
			}
			hidesPassword(t, s)
			if err := s.Remove(t.Context()); err != nil {
				t.Error(err)
			}
			if err := s.Remove(t.Context()); err != nil {
				t.Errorf("once more: %v", err)
			}
			nothingLeft(t, dir)
			gone(t, s.cmd.Process.Pid)
		})
	}
}

// hidesPassword looks for the password where other users, or those who find a directory, could read it.
func hidesPassword(t *testing.T, s *Server) {
	t.Helper()
	password := s.Options().Password
	if len(password) < 20 {
		t.Errorf("the password %q is short", password)
	}
	for _, name := range []string{"cmdline", "environ"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", s.cmd.Process.Pid, name))
		if err != nil || strings.Contains(string(text), password) {
			t.Errorf("%s of the process: %v, %q", name, err, text)
		}
	}
	if info, err := os.Stat(s.dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory: %v, %v", info.Mode(), err)
	}
	files, err := os.ReadDir(s.dir)
	if err != nil || len(files) < 2 {
		t.Errorf("the directory has %v: %v", files, err)
	}
	for _, f := range files {
		if text, err := os.ReadFile(filepath.Join(s.dir, f.Name())); err != nil || strings.Contains(string(text), password) {
			t.Errorf("file %s has the password, or can't be read: %v", f.Name(), err)
		}
	}
}

func TestNoParametersMeansNoLimits(t *testing.T) {
	p, _ := maker(t, "valkey-9.1", nil)
	c := client(t, provision(t, p, restore.Need{Engine: "valkey", Version: "9.1.0"}))
	for name, want := range map[string]string{"databases": "16", "maxmemory": "0", "save": ""} {
		if got, err := c.ConfigGet(t.Context(), name).Result(); err != nil || got[name] != want {
			t.Errorf("CONFIG GET %s: %v, %v, want %q", name, got, err, want)
		}
	}
}

func TestServerThatDoesNotSuitIsRefused(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	for name, test := range map[string]struct {
		version string
		need    restore.Need
		change  func(*Config)
		want    []string
	}{
		"older":           {"redis-7.0", restore.Need{Engine: "redis", Version: "8.0.2"}, nil, []string{"redis 7.0.", "older", "8.0.2", "newer"}},
		"older patch":     {"valkey-8.1", restore.Need{Engine: "valkey", Version: "8.1.99"}, nil, []string{"valkey 8.1.", "older", "8.1.99"}},
		"other engine":    {"valkey-9.1", restore.Need{Engine: "redis", Version: "7.0.0"}, nil, []string{"valkey 9.1.", "redis 7.0.0", "use a program"}},
		"Dragonfly":       {"redis-8.0", restore.Need{Engine: "dragonfly", Version: "1.40.0"}, nil, []string{"dragonfly 1.40.0"}},
		"module":          {"redis-7.0", restore.Need{Modules: []string{"ReJSON-RL"}}, nil, []string{"ReJSON-RL", "loadmodule"}},
		"unknown module":  {"redis-7.0", restore.Need{Modules: []string{"strange--"}}, nil, []string{"strange--", "that has it"}},
		"memory":          {"redis-8.0", restore.Need{Memory: 1 << 60}, nil, []string{"1152921504606846976 bytes"}},
		"cluster":         {"redis-8.0", restore.Need{Parameters: map[string]string{"cluster-enabled": "yes"}}, nil, []string{"cluster mode"}},
		"wrong parameter": {"redis-8.0", restore.Need{Parameters: map[string]string{"maxmemory-policy": "nonsense"}}, nil, []string{"ended (exit status 1)", "nonsense"}},
		"secret":          {"redis-8.0", restore.Need{Parameters: map[string]string{"masterauth": "CANARY1 CANARY2"}}, nil, []string{"ended", "masterauth"}},
		"wrong argument":  {"valkey-8.1", restore.Need{}, func(cfg *Config) { cfg.Args = []string{"--no-such-thing", "1"} }, []string{"ended", "no-such-thing"}},
		"other password":  {"redis-8.0", restore.Need{}, func(cfg *Config) { cfg.Args = []string{"--requirepass", "CANARY"} }, []string{"does not let us in", "WRONGPASS"}},
		"taken port":      {"redis-8.0", restore.Need{}, func(cfg *Config) { cfg.Args = []string{"--port", port} }, []string{"port is taken", "already in use"}},
		"own address":     {"redis-8.0", restore.Need{Parameters: map[string]string{"Port": "1"}}, nil, []string{"Port", "can't be chosen"}},
		"two lines":       {"redis-8.0", restore.Need{Parameters: map[string]string{"save": "1 1\nport 1"}}, nil, []string{"save", "more than one line"}},
		"no name":         {"redis-8.0", restore.Need{Parameters: map[string]string{"save 1 1\nport": "1"}}, nil, []string{"not the name of a setting"}},
		"no program":      {"redis-8.0", restore.Need{}, func(cfg *Config) { cfg.Program = "/no/such/redis-server" }, []string{"/no/such/redis-server", "no such file"}},
	} {
		t.Run(name, func(t *testing.T) {
			p, dir := maker(t, test.version, test.change)
			made, err := p.Provision(t.Context(), test.need)
			if err == nil || made != nil {
				t.Fatalf("made %v, %v", made, err)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error has no %q: %v", want, err)
				}
			}
			if strings.Contains(err.Error(), "CANARY") {
				t.Errorf("the error has the secret: %v", err)
			}
			nothingLeft(t, dir)
		})
	}
	p, _ := maker(t, "redis-8.0", func(cfg *Config) { cfg.Dir = "/no/such/dir" })
	if _, err := p.Provision(t.Context(), restore.Need{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	if _, err := New(Config{}); err == nil || !strings.Contains(err.Error(), "Config.Program") {
		t.Errorf("no program: %v", err)
	}
}

func TestAnyServerWillDoForALoaderThatConverts(t *testing.T) {
	p, _ := maker(t, "redis-7.0", func(cfg *Config) { cfg.AnyServer = true })
	s := provision(t, p, restore.Need{Engine: "valkey", Version: "9.1.0", Modules: []string{"vectorset"}})
	if s.Engine != "redis" || !strings.HasPrefix(s.Version, "7.0.") {
		t.Errorf("it is %s %s", s.Engine, s.Version)
	}
}

func TestNeedOfABackupIsMet(t *testing.T) {
	source := testserver.Start(t, "redis-8.0")
	testserver.Generate(t, source.Client(t), 100, 3)
	info, err := source.Client(t).InfoMap(t.Context(), "server", "memory").Result()
	if err != nil {
		t.Fatal(err)
	}
	used, err := strconv.ParseInt(info["Memory"]["used_memory"], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	b := &catalog.Backup{Source: catalog.Source{Engine: "redis", Version: info["Server"]["redis_version"], UsedMemory: used}}
	b.Modules = append(b.Modules, catalog.Module{Name: "vectorset"})
	p, _ := maker(t, "redis-8.0", nil)
	c := client(t, provision(t, p, restore.NeedOf(b, map[string]string{"maxmemory-policy": "volatile-ttl"})))
	// The new server takes what the old one has.
	if err := c.Do(t.Context(), "REPLICAOF", source.Host, source.Port).Err(); err != nil {
		t.Fatal(err)
	}
	testserver.Eventually(t, 20*time.Second, "the server holds the same", func() error {
		if diff := testserver.Diff(testserver.Snapshot(t, source.Client(t)), testserver.Snapshot(t, c)); diff != "" {
			return errors.New(diff)
		}
		return nil
	})
}

// hanging is a program that starts a child, as a server does that saves, and never answers. It keeps what it was told.
func hanging(t *testing.T) (program, told string) {
	t.Helper()
	dir := t.TempDir()
	program, told = filepath.Join(dir, "hang"), filepath.Join(dir, "told")
	text := "#!/bin/sh\ncat > " + told + ".part\nmv " + told + ".part " + told + "\ncat " + told + "\necho $$ > " + dir + "/pid\nsleep 600 & wait\n"
	if err := os.WriteFile(program, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return program, told
}

func TestServerThatDoesNotAnswerIsKilled(t *testing.T) {
	program, told := hanging(t)
	p, dir := maker(t, "redis-8.0", func(cfg *Config) { cfg.Program, cfg.Timeout = program, 2*time.Second })
	_, err := p.Provision(t.Context(), restore.Need{Parameters: map[string]string{"masterauth": "CANARY"}})
	if err == nil || !strings.Contains(err.Error(), "does not answer") || !strings.Contains(err.Error(), "after 2s") {
		t.Errorf("%v", err)
	}
	config, readErr := os.ReadFile(told)
	if readErr != nil {
		t.Fatal(readErr)
	}
	_, password, ok := strings.Cut(strings.TrimSpace(string(config)), "requirepass ")
	if !ok || strings.Contains(err.Error(), password) || strings.Contains(err.Error(), "CANARY") || !strings.Contains(err.Error(), "requirepass ***") {
		t.Errorf("the program was told\n%s, and the error is %v", config, err)
	}
	nothingLeft(t, dir)
	gone(t, pidIn(t, filepath.Join(filepath.Dir(program), "pid")))
}

func pidIn(t *testing.T, file string) int {
	t.Helper()
	var pid int
	testserver.Eventually(t, 30*time.Second, "a process has written its number", func() error {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		line, ok := strings.CutSuffix(string(text), "\n")
		if !ok {
			return errors.New("not yet")
		}
		pid, err = strconv.Atoi(line)
		return err
	})
	return pid
}

func TestProvisionEndsWithItsContext(t *testing.T) {
	program, _ := hanging(t)
	p, dir := maker(t, "redis-8.0", func(cfg *Config) { cfg.Program = program })
	why := errors.New("the user has changed his mind")
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := p.Provision(ctx, restore.Need{})
		done <- err
	}()
	pid := pidIn(t, filepath.Join(filepath.Dir(program), "pid"))
	cancel(why)
	select {
	case err := <-done:
		if !errors.Is(err, why) {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(3 * time.Second):
		t.Error("it doesn't end")
	}
	nothingLeft(t, dir)
	gone(t, pid)
	if _, err := p.Provision(ctx, restore.Need{}); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
	nothingLeft(t, dir)
}

func TestServerThatDiedIsToldAndRemoved(t *testing.T) {
	var told syncBuffer
	p, dir := maker(t, "valkey-9.1", func(cfg *Config) { cfg.Logger = slog.New(slog.NewTextHandler(&told, nil)) })
	s := provision(t, p, restore.Need{})
	if err := syscall.Kill(s.cmd.Process.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-s.exited
	if text := told.String(); !strings.Contains(text, "level=WARN") || !strings.Contains(text, "ended by itself") || !strings.Contains(text, "killed") {
		t.Errorf("the log says\n%s", text)
	}
	if err := s.Remove(t.Context()); err != nil {
		t.Error(err)
	}
	nothingLeft(t, dir)
	other := provision(t, p, restore.Need{})
	if err := other.Remove(t.Context()); err != nil {
		t.Error(err)
	}
	if text := told.String(); strings.Count(text, "ended by itself") != 1 || strings.Contains(text, other.password) {
		t.Errorf("the log says\n%s", text)
	}
}

type syncBuffer struct {
	mu  sync.Mutex
	out strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.out.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.out.String()
}

func TestManyServersAtOnce(t *testing.T) {
	p, dir := maker(t, "redis-8.0", nil)
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := make(map[string]bool)
	for range 8 {
		wg.Go(func() {
			made, err := p.Provision(t.Context(), restore.Need{})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			for _, name := range []string{made.ID(), made.Options().Addr, made.Options().Password} {
				if seen[name] {
					t.Errorf("two servers have %q", name)
				}
				seen[name] = true
			}
			mu.Unlock()
			for range 2 { // Remove at the same time
				wg.Go(func() {
					if err := made.Remove(t.Context()); err != nil {
						t.Error(err)
					}
				})
			}
		})
	}
	wg.Wait()
	nothingLeft(t, dir)
}

// TestNothingOutlivesTheProcess kills a process that has started servers, of which one has died before and one was removed.
func TestNothingOutlivesTheProcess(t *testing.T) {
	if dir := os.Getenv("LOCALSERVER_CHILD"); dir != "" {
		p, _ := maker(t, "valkey-9.1", func(cfg *Config) { cfg.Dir = filepath.Join(dir, "servers") })
		lives, died, removed := provision(t, p, restore.Need{}), provision(t, p, restore.Need{}), provision(t, p, restore.Need{})
		if err := syscall.Kill(died.cmd.Process.Pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-died.exited
		if err := removed.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "pid"), []byte(strconv.Itoa(lives.cmd.Process.Pid)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		select {}
	}
	dir := t.TempDir()
	servers := filepath.Join(dir, "servers")
	if err := os.Mkdir(servers, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^TestNothingOutlivesTheProcess$")
	cmd.Env = append(os.Environ(), "LOCALSERVER_CHILD="+dir, "TMPDIR="+dir) // directories of tests that are killed stay
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := pidIn(t, filepath.Join(dir, "pid"))
	if left, err := os.ReadDir(servers); err != nil || len(left) != 2 {
		t.Errorf("before: %v, %v", left, err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	gone(t, pid)
	testserver.Eventually(t, 10*time.Second, "the directories are gone", func() error {
		if left, err := os.ReadDir(servers); err != nil || len(left) > 0 {
			return fmt.Errorf("%v is left (%v)", left, err)
		}
		return nil
	})
}

func TestOlder(t *testing.T) {
	for _, test := range []struct {
		version, than string
		want          bool
	}{
		{"8.0.2", "8.0.2", false}, {"8.0.2", "8.0.10", true}, {"8.0.10", "8.0.2", false}, {"7.4.9", "8.0.0", true}, {"8.0.0", "7.4.9", false},
		{"9.1.0-rc1", "9.1.0", false}, {"9.1", "9.1.0", false}, {"9.1.2", "9.1", false}, {"", "8.0.2", false}, {"8.0.2", "", false}, {"8.0.2", "unknown", false}, {"255.255.255", "8.0.2", false},
	} {
		if got := older(test.version, test.than); got != test.want {
			t.Errorf("%q older than %q: %v", test.version, test.than, got)
		}
	}
}
