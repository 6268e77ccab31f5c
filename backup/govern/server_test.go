package govern_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/govern"
	"github.com/amberkv/amber/backup/replica"
	"github.com/amberkv/amber/backup/snapshottest"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/resp"
	"github.com/amberkv/amber/internal/testserver"
)

const canary = "CANARY-b7c1e0f2"

// someServers runs a test against half of the versions, with CAMPAIGN=1 against all.
func someServers(t *testing.T, turn int, f func(t *testing.T, version string)) {
	for _, version := range testserver.Half(turn) {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			f(t, version)
		})
	}
}

// A log is what was logged.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func newLogger(l *log) *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// governed is a replica's Snapshotter of a server with a governor in front of it.
func governed(t *testing.T, srv *testserver.Server, change func(*govern.Config)) (*govern.Snapshotter, *log) {
	t.Helper()
	l := &log{}
	cfg := govern.Config{Options: srv.Options(), Method: "replica", Logger: newLogger(l)}
	if change != nil {
		change(&cfg)
	}
	if cfg.Snapshotter == nil {
		inner, err := replica.New(replica.Config{Options: cfg.Options})
		if err != nil {
			t.Fatal(err)
		}
		cfg.Snapshotter = inner
	}
	s, err := govern.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	govern.SetTuning(s, false, 50*time.Millisecond, 20*time.Millisecond, 500*time.Millisecond)
	return s, l
}

func info(t *testing.T, srv *testserver.Server) resp.Info {
	t.Helper()
	text, err := srv.Client(t).Info(t.Context()).Result()
	if err != nil {
		t.Fatal(err)
	}
	return resp.ParseInfo(text)
}

// read reads all of a snapshot.
func read(t *testing.T, sn backup.Snapshot) (total int64, err error) {
	t.Helper()
	for _, p := range sn.Parts() {
		r, err := sn.Open(t.Context(), p)
		if err != nil {
			return total, err
		}
		n, err := io.Copy(io.Discard, r)
		total += n
		r.Close()
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// take takes a whole snapshot and tells what it says in the end.
func take(t *testing.T, s backup.Snapshotter) (int64, catalog.Source) {
	t.Helper()
	sn, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer sn.Close()
	n, err := read(t, sn)
	if err != nil {
		t.Fatal(err)
	}
	return n, sn.Source()
}

// unharmed fails the test unless the server has none of our connections, has refused nobody, and was asked for so many full syncs.
func unharmed(t *testing.T, srv *testserver.Server, syncs int64) {
	t.Helper()
	var i resp.Info
	testserver.Eventually(t, 10*time.Second, "the server is as it was", func() error {
		i = info(t, srv)
		if i.Int("connected_slaves") != 0 || i.Int("rdb_bgsave_in_progress") != 0 {
			return fmt.Errorf("%d replicas, %d children", i.Int("connected_slaves"), i.Int("rdb_bgsave_in_progress"))
		}
		return nil
	})
	if i.Int("rejected_connections") != 0 || i.Int("sync_full") != syncs {
		t.Errorf("%d connections were rejected, %d full syncs, want %d", i.Int("rejected_connections"), i.Int("sync_full"), syncs)
	}
}

// limited fails the test unless err says that a point stands in the way, before the server was asked.
func limited(t *testing.T, err error, point string) {
	t.Helper()
	var l *govern.LimitError
	var e *backup.SourceError
	switch {
	case !errors.As(err, &l) || !errors.Is(err, govern.ErrLimit) || !errors.Is(err, backup.ErrTransient) || !errors.Is(err, backup.ErrSpared):
		t.Fatalf("want a refusal for %s: %v", point, err)
	case l.Name != point || l.Seen == "":
		t.Errorf("want a refusal for %s: %+v", point, *l)
	case !errors.As(err, &e) || e.Hint == "" || e.Addr == "":
		t.Errorf("the error has no advice or address: %v", err)
	}
}

// A snapshot through a governor is what it is without one, and tells what it cost.
func TestConformance(t *testing.T) {
	someServers(t, 0, func(t *testing.T, version string) {
		start := func(args ...string) *testserver.Server {
			srv := testserver.Start(t, version, args...)
			testserver.Generate(t, srv.Client(t), 60, 1)
			srv.AddUser(t, "amber", canary, "+psync", "+replconf", "+info", "+ping")
			return srv
		}
		srv, waiting, locked := start(), start("--repl-diskless-sync-delay", "60"), start("--requirepass", canary+"2")
		by := func(srv *testserver.Server, password string) func(t *testing.T) backup.Snapshotter {
			return func(t *testing.T) backup.Snapshotter {
				s, _ := governed(t, srv, func(c *govern.Config) { c.Options.Username, c.Options.Password = "amber", password })
				return s
			}
		}
		snapshottest.Run(t, by(srv, canary), &snapshottest.Options{
			Secret: canary,
			Released: func(t *testing.T) {
				for _, s := range []*testserver.Server{srv, waiting, locked} {
					testserver.Eventually(t, 20*time.Second, "the server has no replica", func() error {
						if n := info(t, s).Int("connected_slaves"); n != 0 {
							return fmt.Errorf("it has %d", n)
						}
						return nil
					})
				}
			},
			Waiting: by(waiting, canary),
			Failing: map[string]func(t *testing.T) backup.Snapshotter{"wrong password": by(locked, canary+"3")},
		})
		if _, err := by(locked, canary+"3")(t).Snapshot(t.Context()); !errors.Is(err, backup.ErrAuth) || !errors.Is(err, backup.ErrSpared) {
			t.Errorf("a wrong password: %v", err)
		}
	})
}

func TestCost(t *testing.T) {
	someServers(t, 1, func(t *testing.T, version string) {
		for _, args := range [][]string{nil, {"--repl-diskless-sync", "no"}} {
			srv := testserver.Start(t, version, args...)
			if err := srv.Client(t).Do(t.Context(), "DEBUG", "POPULATE", "5000", "big", "4096").Err(); err != nil {
				t.Fatal(err)
			}
			stop := testserver.WriteLoad(t, srv.Client(t))
			s, _ := governed(t, srv, nil)
			n, src := take(t, s)
			stop()
			c := src.Cost
			if c == nil || c.Fork <= 0 || c.Fork > 10*time.Second || c.CopyOnWrite <= 0 || c.CopyOnWrite > 1<<30 || c.Bytes != n || n < 1000 ||
				c.Duration <= 0 || c.Duration > time.Minute || c.LatencyBefore <= 0 || c.LatencyDuring <= 0 || c.LatencyDuring > time.Minute || c.Waited != 0 || c.Slowed != 0 {
				t.Errorf("%v: the cost of %d bytes is %+v", args, n, c)
			}
			unharmed(t, srv, 1)
		}
	})
}

// While a child of the server is at work the snapshot waits for it, and not for ever.
func TestForkRunning(t *testing.T) {
	someServers(t, 0, func(t *testing.T, version string) {
		for name, begin := range map[string][]any{"save": {"BGSAVE"}, "rewrite": {"BGREWRITEAOF"}} {
			srv := testserver.Start(t, version, "--aof-use-rdb-preamble", "yes")
			c := srv.Client(t)
			testserver.Generate(t, c, 100, 1)
			delay := func(us string) {
				if err := c.ConfigSet(t.Context(), "rdb-key-save-delay", us).Err(); err != nil {
					t.Fatal(err)
				}
			}
			delay("300000") // of each key: half a minute
			if err := c.Do(t.Context(), begin...).Err(); err != nil {
				t.Fatal(err)
			}
			field := map[string]string{"save": "rdb_bgsave_in_progress", "rewrite": "aof_rewrite_in_progress"}[name]
			testserver.Eventually(t, 20*time.Second, "the child is at work", func() error {
				if info(t, srv).Int(field) != 1 {
					return errors.New("it is not")
				}
				return nil
			})
			for _, wait := range []time.Duration{-1, 300 * time.Millisecond} {
				s, _ := governed(t, srv, func(c *govern.Config) { c.Limits.Wait = wait })
				_, err := s.Snapshot(t.Context())
				limited(t, err, govern.ForkRunning)
			}
			scan, _ := governed(t, srv, func(c *govern.Config) { c.Method = "scan" })
			if points, err := scan.Check(t.Context()); err != nil || points[0].Level != govern.Pass {
				t.Errorf("%s: a method that doesn't fork has %+v, %v", name, points, err)
			}

			// It is waited for until it ends.
			s, l := governed(t, srv, nil)
			type result struct {
				sn  backup.Snapshot
				err error
			}
			done := make(chan result, 1)
			go func() {
				sn, err := s.Snapshot(t.Context())
				done <- result{sn, err}
			}()
			testserver.Eventually(t, 20*time.Second, "the snapshot waits", func() error {
				if !strings.Contains(l.String(), "waits for its source") || !strings.Contains(l.String(), govern.ForkRunning) {
					return errors.New(l.String())
				}
				return nil
			})
			if n := info(t, srv).Int("sync_full"); n != 0 {
				t.Errorf("%s: %d full syncs while the child was at work", name, n)
			}
			delay("0")
			killChildren(t, srv)
			select {
			case r := <-done:
				if r.err != nil {
					// A child that was killed has failed, by what the server says of it: that is another point.
					t.Fatalf("%s: %v", name, r.err)
				}
				if _, err := read(t, r.sn); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				if cost := r.sn.Source().Cost; cost == nil || cost.Waited < 50*time.Millisecond {
					t.Errorf("%s: the cost is %+v, it has waited", name, cost)
				}
				r.sn.Close()
			case <-time.After(20 * time.Second):
				t.Fatalf("%s: the snapshot still waits", name)
			}
			unharmed(t, srv, 1)
		}
	})
}

// Whoever waits is woken by the end of its context.
func TestCancelWait(t *testing.T) {
	srv := testserver.Start(t, "valkey-9.1", "--rdb-key-save-delay", "100000")
	c := srv.Client(t)
	testserver.Generate(t, c, 100, 1)
	if err := c.BgSave(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	s, l := governed(t, srv, nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := s.Snapshot(ctx)
		done <- err
	}()
	testserver.Eventually(t, 20*time.Second, "the snapshot waits", func() error {
		if !strings.Contains(l.String(), "waits") {
			return errors.New(l.String())
		}
		return nil
	})
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) || !errors.Is(err, backup.ErrSpared) {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("it waits on")
	}
}
