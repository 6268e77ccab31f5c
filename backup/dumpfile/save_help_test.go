package dumpfile_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/dumpfile"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/storage"
)

// canary is the password of the tests: it must not be found in any error or log.
const canary = "CANARY-5ave-secret"

// eachServer runs a test against every version.
func eachServer(t *testing.T, f func(t *testing.T, version string)) { servers(t, testserver.All(), f) }

func servers(t *testing.T, versions []string, f func(t *testing.T, version string)) {
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			f(t, version)
		})
	}
}

// someServers runs a test against the oldest Redis and the newest Valkey, otherServers against the two between, and both against every version
// with CAMPAIGN=1.
func someServers(t *testing.T, f func(t *testing.T, version string)) {
	servers(t, testserver.Half(0), f)
}

func otherServers(t *testing.T, f func(t *testing.T, version string)) {
	servers(t, testserver.Half(1), f)
}

// A logBook keeps what was logged, and fails the test if the password is in it.
type logBook struct {
	t    *testing.T
	mu   sync.Mutex
	text strings.Builder
}

func (l *logBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if bytes.Contains(p, []byte(canary)) {
		l.t.Error("the log holds the password")
	}
	return l.text.Write(p)
}

func (l *logBook) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.text.String(), text)
}

// saverOf returns a snapshotter of a server whose directory is the store, and what it logs.
func saverOf(t *testing.T, srv *testserver.Server, change func(*dumpfile.SaveConfig)) (*dumpfile.SaveSnapshotter, *logBook) {
	t.Helper()
	book := &logBook{t: t}
	cfg := dumpfile.SaveConfig{Options: srv.Options(), Store: openDir(t, srv.Dir), Logger: slog.New(slog.NewTextHandler(book, nil)), VisibleTimeout: 10 * time.Second}
	if change != nil {
		change(&cfg)
	}
	s, err := dumpfile.NewSave(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s, book
}

// grab takes a whole snapshot of one part, counts its keys, and closes it.
func grab(t *testing.T, s backup.Snapshotter) ([]byte, catalog.Source) {
	t.Helper()
	sn, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatalf("Snapshot: %v", err)
	}
	return drain(t, sn)
}

// drain reads a snapshot of one part.
func drain(t *testing.T, sn backup.Snapshot) ([]byte, catalog.Source) {
	t.Helper()
	defer sn.Close()
	r, err := sn.Open(t.Context(), sn.Parts()[0])
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("after %d bytes: %v", len(data), err)
	}
	if err := r.Close(); err != nil {
		t.Errorf("closing the part: %v", err)
	}
	if err := sn.(backup.Counted).Count(parse(t, data).Keys); err != nil {
		t.Error(err)
	}
	if err := sn.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	return data, sn.Source()
}

// parse fails the test unless data is a whole RDB file.
func parse(t *testing.T, data []byte) rdb.Stats {
	t.Helper()
	r := rdb.NewReader(bytes.NewReader(data), nil)
	for _, err := range r.Entries() {
		if err != nil {
			t.Errorf("the snapshot is no whole RDB file: %v", err)
			break
		}
	}
	return r.Stats()
}

// loaded starts a server with the data.
func loaded(t *testing.T, version string, data []byte) *testserver.Server {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "dump.rdb"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	return testserver.StartIn(t, version, dir)
}

// do sends a command that has to succeed.
func do(t *testing.T, srv *testserver.Server, args ...any) {
	t.Helper()
	if err := srv.Client(t).Do(t.Context(), args...).Err(); err != nil {
		t.Fatalf("%v: %v", args, err)
	}
}

// infoOf returns a field of INFO.
func infoOf(t *testing.T, srv *testserver.Server, field string) string {
	t.Helper()
	text, err := srv.Client(t).Info(t.Context()).Result()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(text, "\r\n") {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			return value
		}
	}
	return ""
}

// until waits for a field of INFO to be something.
func until(t *testing.T, srv *testserver.Server, field, want string) {
	t.Helper()
	testserver.Eventually(t, 20*time.Second, field+" is "+want, func() error {
		if got := infoOf(t, srv, field); got != want {
			return fmt.Errorf("it is %s", got)
		}
		return nil
	})
}

// slow makes each save of a server last: a key takes so many microseconds.
func slow(t *testing.T, srv *testserver.Server, keys, delay int) {
	t.Helper()
	do(t, srv, "DEBUG", "POPULATE", keys, "slow", 50)
	do(t, srv, "CONFIG", "SET", "rdb-key-save-delay", delay)
}

// inBackground takes a snapshot while the test does something else.
func inBackground(ctx context.Context, s backup.Snapshotter) (result func() (backup.Snapshot, error)) {
	type answer struct {
		sn  backup.Snapshot
		err error
	}
	done := make(chan answer, 1)
	go func() {
		sn, err := s.Snapshot(ctx)
		done <- answer{sn, err}
	}()
	return func() (backup.Snapshot, error) {
		a := <-done
		return a.sn, a.err
	}
}

// saveChild returns the process that a server forked.
func saveChild(t *testing.T, srv *testserver.Server) (pid int) {
	t.Helper()
	testserver.Eventually(t, 20*time.Second, "the server has a child", func() error {
		list, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", srv.Cmd.Process.Pid, srv.Cmd.Process.Pid))
		if err != nil {
			return err
		}
		fields := strings.Fields(string(list))
		if len(fields) == 0 {
			return errors.New("it has none")
		}
		pid, err = strconv.Atoi(fields[0])
		return err
	})
	return pid
}

// killChild kills the process that saves.
func killChild(t *testing.T, srv *testserver.Server) {
	t.Helper()
	if err := syscall.Kill(saveChild(t, srv), syscall.SIGKILL); err != nil {
		t.Error(err)
	}
}

// fails fails the test unless an error is of a kind and tells something, and not the password.
func fails(t *testing.T, what string, err, kind error, parts ...string) {
	t.Helper()
	if err == nil || kind != nil && !errors.Is(err, kind) {
		t.Errorf("%s: %v, want %v", what, err, kind)
		return
	}
	text := fmt.Sprintf("%v %+v", err, err)
	if strings.Contains(text, canary) {
		t.Errorf("%s: the error holds the password", what)
	}
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%s: %q is not in %q", what, part, text)
		}
	}
}

// onStat is a store in which something happens when it was asked for an object the first time, or that fails then.
type onStat struct {
	storage.Store
	do  func()
	err error
}

func (s *onStat) Stat(ctx context.Context, key string) (storage.Info, error) {
	if s.err != nil {
		return storage.Info{}, s.err
	}
	info, err := s.Store.Stat(ctx, key)
	if do := s.do; do != nil {
		s.do = nil
		do()
	}
	return info, err
}

// onOpen is a store in which something happens before an object is opened the first time.
type onOpen struct {
	storage.Store
	do func()
}

func (s *onOpen) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if do := s.do; do != nil {
		s.do = nil
		do()
	}
	return s.Store.Open(ctx, key, off, n)
}

// A cutter is between us and a server, and can cut the connections.
type cutter struct {
	addr  string
	mu    sync.Mutex
	gate  sync.Mutex // held while nobody may connect
	conns []net.Conn
	said  bytes.Buffer // by us
}

// Write notes what is said to the server.
func (c *cutter) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.said.Write(p)
}

// waits returns when a save was begun, and its end is asked for.
func (c *cutter) waits(t *testing.T) {
	t.Helper()
	testserver.Eventually(t, 20*time.Second, "the end of the save is waited for", func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		said := c.said.String()
		i := strings.LastIndex(said, "BGSAVE")
		if i < 0 || strings.Count(said[i:], "INFO") < 2 { // the first one is asked before the settings
			return fmt.Errorf("%q", said)
		}
		return nil
	})
}

func newCutter(t *testing.T, to string) *cutter {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{addr: l.Addr().String()}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			c.gate.Lock()
			server, err := net.Dial("tcp", to)
			c.gate.Unlock()
			if err != nil {
				client.Close()
				continue
			}
			c.mu.Lock()
			c.conns = append(c.conns, client, server)
			c.mu.Unlock()
			for _, pair := range [][2]net.Conn{{client, server}, {server, client}} {
				group.Go(func() {
					if pair[1] == client {
						io.Copy(server, io.TeeReader(client, c))
					} else {
						io.Copy(pair[0], pair[1])
					}
					pair[0].Close()
				})
			}
		}
	})
	t.Cleanup(func() {
		l.Close()
		c.cut()
		group.Wait()
	})
	return c
}

// cut closes all connections.
func (c *cutter) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		conn.Close()
	}
	c.conns = nil
}

// hold keeps new connections waiting until resume, for a server that is restarted.
func (c *cutter) hold()   { c.gate.Lock() }
func (c *cutter) resume() { c.gate.Unlock() }
