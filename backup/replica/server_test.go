package replica_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/replica"
	"github.com/amberkv/amber/backup/snapshottest"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/rdb"
)

// eachServer runs a test against every version.
func eachServer(t *testing.T, f func(t *testing.T, version string)) { servers(t, testserver.All(), f) }

// someServers runs a test against half of the versions, with CAMPAIGN=1 against all.
func someServers(t *testing.T, turn int, f func(t *testing.T, version string)) {
	servers(t, testserver.Half(turn), f)
}

func servers(t *testing.T, versions []string, f func(t *testing.T, version string)) {
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			f(t, version)
		})
	}
}

// of returns a Snapshotter of a server.
func of(t *testing.T, srv *testserver.Server, change func(*replica.Config)) *replica.Snapshotter {
	t.Helper()
	return snapshotter(t, srv.Addr, func(c *replica.Config) {
		c.Options = srv.Options()
		if change != nil {
			change(c)
		}
	})
}

// take takes a whole snapshot and closes it.
func take(t *testing.T, s *replica.Snapshotter) ([]byte, catalog.Source) {
	t.Helper()
	sn, r := open(t, s)
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("reading the snapshot: after %d bytes: %v", len(data), err)
	}
	if size := sn.Parts()[0].Size; size >= 0 && size != int64(len(data)) {
		t.Errorf("Size was %d, there are %d bytes", size, len(data))
	}
	if err := sn.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	return data, sn.Source()
}

// parse fails the test unless data is a whole RDB file.
func parse(t *testing.T, data io.Reader) (rdb.Stats, string) {
	t.Helper()
	r := rdb.NewReader(data, nil)
	for _, err := range r.Entries() {
		if err != nil {
			t.Errorf("the snapshot is no whole RDB file: %v", err)
			break
		}
	}
	return r.Stats(), r.Dialect().String()
}

// accepted fails the test unless the server's own checker accepts data and the server loads it. It returns the server.
func accepted(t *testing.T, version string, data []byte) *testserver.Server {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "dump.rdb")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(testserver.Program(t, version, "check-rdb"), file).CombinedOutput(); err != nil {
		t.Errorf("check-rdb: %v\n%s", err, out)
	}
	return testserver.StartIn(t, version, dir)
}

// released fails the test unless the server has no replicas.
func released(t *testing.T, srv *testserver.Server) {
	t.Helper()
	c := srv.Client(t)
	testserver.Eventually(t, 20*time.Second, "the server has no replica", func() error {
		info, err := c.Info(t.Context(), "replication").Result()
		if err == nil && !strings.Contains(info, "connected_slaves:0\r\n") {
			err = errors.New(info)
		}
		return err
	})
}

var modes = []struct {
	name      string
	args      []string
	noRDBOnly bool
}{
	{"diskless", nil, false},
	{"disk", []string{"--repl-diskless-sync", "no"}, false},
	{"diskless, old", []string{"--repl-ping-replica-period", "1"}, true},
	{"disk, old", []string{"--repl-diskless-sync", "no", "--repl-ping-replica-period", "1"}, true},
	{"no PSYNC", []string{"--rename-command", "PSYNC", ""}, false},
	{"no PSYNC, disk, old", []string{"--rename-command", "PSYNC", "", "--repl-diskless-sync", "no"}, true},
}

// TestContents takes snapshots of every version, of each in two of the six modes, which differ: with CAMPAIGN=1 in all.
func TestContents(t *testing.T) {
	eachServer(t, func(t *testing.T, version string) {
		for i, mode := range modes {
			if (slices.Index(testserver.All(), version)+i)%3 > 0 && os.Getenv("CAMPAIGN") == "" {
				continue
			}
			t.Run(mode.name, func(t *testing.T) {
				srv := testserver.Start(t, version, mode.args...)
				c := srv.Client(t)
				testserver.Generate(t, c, 300, 1)
				testserver.LoadFunction(t, c, "amber")
				s := of(t, srv, nil)
				replica.SetTuning(s, mode.noRDBOnly, time.Second)
				data, src := take(t, s)
				released(t, srv)

				stats, dialect := parse(t, bytes.NewReader(data))
				if stats.Functions != 1 || stats.Checksum != rdb.ChecksumCRC64 {
					t.Errorf("the snapshot has %+v", stats)
				}
				wantDialect := map[string]string{"redis-7.0": "redis:10", "redis-8.0": "redis:12", "valkey-8.1": "redis:11", "valkey-9.1": "valkey:80"}
				if dialect != wantDialect[version] {
					t.Errorf("the dialect is %s", dialect)
				}
				back := accepted(t, version, data).Client(t)
				if diff := testserver.Diff(testserver.Snapshot(t, c), testserver.Snapshot(t, back)); diff != "" {
					t.Error(diff)
				}

				engine, number, _ := strings.Cut(version, "-")
				if src.Engine != engine || !strings.HasPrefix(src.Version, number+".") || src.Topology != "standalone" || src.Address != srv.Addr ||
					src.Role != "primary" || src.Method != "replica" || src.UsedMemory < 100_000 || src.Dialect != "" {
					t.Errorf("source %+v", src)
				}
				if withID := !strings.HasPrefix(mode.name, "no PSYNC"); withID != (len(src.ReplicationID) == 40) {
					t.Errorf("replication ID %q", src.ReplicationID)
				}
			})
		}
	})
}

// A snapshot is of one moment, also while the server is written to; and what is written meanwhile is not kept for us, so
// that the limit of the server's output buffer isn't reached.
func TestWriteLoad(t *testing.T) {
	someServers(t, 0, func(t *testing.T, version string) {
		srv := testserver.Start(t, version, "--client-output-buffer-limit", "replica 64kb 0 0", "--repl-backlog-size", "16kb",
			"--rdbcompression", "no", "--repl-diskless-sync", "yes")
		c := srv.Client(t)
		testserver.Generate(t, c, 300, 1)
		if err := c.Do(t.Context(), "DEBUG", "POPULATE", "5000", "big", "4096").Err(); err != nil { // more than sockets hold
			t.Fatal(err)
		}
		stop := testserver.Flood(t, srv.Client(t))
		writes := func() {
			t.Helper()
			from, _ := c.Get(t.Context(), "load:b").Int()
			testserver.Eventually(t, 20*time.Second, "there are writes", func() error {
				if n, err := c.Get(t.Context(), "load:b").Int(); err != nil || n < from+2000 {
					return fmt.Errorf("%d (%v)", n-from, err)
				}
				return nil
			})
		}
		writes()
		sn, r := open(t, of(t, srv, nil))
		writes()
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatalf("after %d bytes: %v", len(data), err)
		}
		sn.Close()

		old := of(t, srv, nil)
		replica.SetTuning(old, true, time.Second)
		// On a busy machine the limit is reached before the first byte comes.
		if sn, err = old.Snapshot(t.Context()); err == nil {
			if r, err = sn.Open(t.Context(), sn.Parts()[0]); err != nil {
				t.Fatal(err)
			}
			writes()
			_, err = io.Copy(io.Discard, r)
			sn.Close()
		}
		if !cutOff(err) || !strings.Contains(err.Error(), "client-output-buffer-limit") {
			t.Errorf("with what is written meanwhile: %v", err)
		}
		released(t, srv)
		stop()

		back := accepted(t, version, data).Client(t)
		a, err1 := back.Get(t.Context(), "load:a").Result()
		b, err2 := back.Get(t.Context(), "load:b").Result()
		if a != b || err1 != nil || err2 != nil {
			t.Errorf("the counters are %s (%v) and %s (%v)", a, err1, b, err2)
		}
	})
}

func TestConformance(t *testing.T) {
	someServers(t, 1, func(t *testing.T, version string) {
		const user = "amber"
		rights := []string{"+psync", "+replconf", "+info"}
		start := func(t *testing.T, args ...string) *testserver.Server {
			srv := testserver.Start(t, version, args...)
			testserver.Generate(t, srv.Client(t), 60, 1)
			srv.AddUser(t, user, canary, rights...)
			return srv
		}
		by := func(srv *testserver.Server) func(t *testing.T) backup.Snapshotter {
			return func(t *testing.T) backup.Snapshotter {
				return of(t, srv, func(c *replica.Config) { c.Options.Username, c.Options.Password = user, canary })
			}
		}
		srv := start(t)
		waiting := start(t, "--repl-diskless-sync-delay", "60")
		locked := start(t, "--requirepass", canary+"2")
		failing := map[string]func(t *testing.T) backup.Snapshotter{
			"wrong password": func(t *testing.T) backup.Snapshotter {
				return of(t, locked, func(c *replica.Config) { c.Options.Password = canary })
			},
			"no password": func(t *testing.T) backup.Snapshotter {
				return of(t, locked, func(c *replica.Config) { c.Options.Password = "" })
			},
			"password too many": func(t *testing.T) backup.Snapshotter {
				return of(t, srv, func(c *replica.Config) { c.Options.Password = canary })
			},
		}
		snapshottest.Run(t, by(srv), &snapshottest.Options{
			Secret: canary,
			Check: func(t *testing.T, p backup.Part, r io.Reader) {
				if stats, _ := parse(t, r); stats.Keys < 40 {
					t.Errorf("the snapshot has %d keys", stats.Keys)
				}
			},
			Released: func(t *testing.T) {
				for _, s := range []*testserver.Server{srv, waiting, locked} {
					released(t, s)
				}
			},
			Waiting: by(waiting),
			Failing: failing,
		})
		for reason, failing := range failing {
			if _, err := failing(t).Snapshot(t.Context()); !errors.Is(err, backup.ErrAuth) {
				t.Errorf("%s: %v", reason, err)
			}
		}
	})
}

func TestPermissions(t *testing.T) {
	someServers(t, 0, func(t *testing.T, version string) {
		srv := testserver.Start(t, version)
		testserver.Generate(t, srv.Client(t), 60, 1)
		for name, test := range map[string]struct {
			rules     []string
			forbidden bool
		}{
			"all needed": {[]string{"+psync", "+replconf", "+info"}, false},
			"with ping":  {[]string{"+psync", "+replconf", "+ping", "+info"}, false},
			"no INFO":    {[]string{"+psync", "+replconf"}, false},
			"no PSYNC":   {[]string{"+sync", "+replconf", "+info"}, true},
			"no options": {[]string{"+psync", "+info"}, true},
		} {
			srv.AddUser(t, "amber", canary, test.rules...)
			s := of(t, srv, func(c *replica.Config) { c.Options.Username, c.Options.Password = "amber", canary })
			if test.forbidden {
				_, err := s.Snapshot(t.Context())
				checkSecret(t, err)
				if !errors.Is(err, backup.ErrPermission) || !strings.Contains(err.Error(), "ACL SETUSER <user> +info +replconf +psync") {
					t.Errorf("%s: %v", name, err)
				}
				continue
			}
			data, src := take(t, s)
			if _, dialect := parse(t, bytes.NewReader(data)); version == "valkey-9.1" && dialect != "valkey:80" {
				t.Errorf("%s: dialect %s", name, dialect)
			}
			if known := name != "no INFO"; known != (src.Engine != "") || known != (src.Role != "") || known != (src.Topology != "") {
				t.Errorf("%s: source %+v", name, src)
			}
		}
		released(t, srv)
	})
}

func TestUnsupportedServers(t *testing.T) {
	someServers(t, 1, func(t *testing.T, version string) {
		for name, args := range map[string][]string{
			"no PSYNC and no SYNC": {"--rename-command", "PSYNC", "", "--rename-command", "SYNC", ""},
			"cluster":              {"--cluster-enabled", "yes"},
		} {
			_, err := of(t, testserver.Start(t, version, args...), nil).Snapshot(t.Context())
			var e *backup.SourceError
			if !errors.Is(err, backup.ErrUnsupported) || !errors.As(err, &e) || e.Hint == "" {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// A node of a cluster is taken where that is asked for, from its replica if there is one.
func TestClusterNode(t *testing.T) {
	someServers(t, 0, func(t *testing.T, version string) {
		srv := testserver.Start(t, version, "--cluster-enabled", "yes")
		c := srv.Client(t)
		if err := c.ClusterAddSlotsRange(t.Context(), 0, testserver.Slots-1).Err(); err != nil {
			t.Fatal(err)
		}
		testserver.Eventually(t, 20*time.Second, "the node takes writes", func() error { return c.Set(t.Context(), "a", "1", 0).Err() })
		before := time.Now()
		data, src := take(t, of(t, srv, func(c *replica.Config) { c.ClusterNode = true }))
		if stats, _ := parse(t, bytes.NewReader(data)); stats.Keys != 1 {
			t.Errorf("%d keys", stats.Keys)
		}
		if src.Address != srv.Addr || src.Role != "primary" || src.Time.Before(before) || src.Time.After(time.Now()) {
			t.Errorf("source %+v", src)
		}
	})
}

func TestReplicas(t *testing.T) {
	someServers(t, 1, func(t *testing.T, version string) {
		primary := testserver.Start(t, version)
		c := primary.Client(t)
		testserver.Generate(t, c, 100, 1)
		second := testserver.StartReplica(t, version, primary)
		online(t, primary)
		for name, test := range map[string]struct {
			given, want *testserver.Server
			prefer      replica.Prefer
			role        string
		}{
			"replica of the primary": {primary, second, replica.PreferReplica, "replica"},
			"replica of a replica":   {second, second, replica.PreferReplica, "replica"},
			"primary of a replica":   {second, primary, replica.PreferPrimary, "primary"},
			"primary of the primary": {primary, primary, replica.PreferPrimary, "primary"},
			"exactly the primary":    {primary, primary, replica.PreferExact, "primary"},
			"exactly the replica":    {second, second, replica.PreferExact, "replica"},
		} {
			data, src := take(t, of(t, test.given, func(c *replica.Config) { c.Prefer = test.prefer }))
			if src.Address != test.want.Addr || src.Role != test.role || src.Topology != "replicated" {
				t.Errorf("%s: source %+v, want %s at %s", name, src, test.role, test.want.Addr)
			}
			if stats, _ := parse(t, bytes.NewReader(data)); stats.Keys < 90 {
				t.Errorf("%s: %d keys", name, stats.Keys)
			}
		}

		// A replica that doesn't know our user, because users are not replicated.
		primary.AddUser(t, "amber", canary, "+psync", "+replconf", "+info")
		asUser := func(c *replica.Config) { c.Options.Username, c.Options.Password = "amber", canary }
		if _, src := take(t, of(t, primary, asUser)); src.Address != primary.Addr {
			t.Errorf("replica without the user: source %+v", src)
		}
		second.AddUser(t, "amber", canary, "+info", "+replconf")
		if _, src := take(t, of(t, primary, asUser)); src.Address != primary.Addr {
			t.Errorf("replica that doesn't let the user PSYNC: source %+v", src)
		}

		// A replica that lost its primary has old data.
		primary.Kill()
		testserver.Eventually(t, 10*time.Second, "the replica sees that its primary is down", func() error {
			_, err := of(t, second, nil).Snapshot(t.Context())
			if !errors.Is(err, backup.ErrTransient) {
				return fmt.Errorf("%v", err)
			}
			return nil
		})
	})
}

// online waits until a server lists a replica that is in sync.
func online(t *testing.T, srv *testserver.Server) {
	t.Helper()
	c := srv.Client(t)
	testserver.Eventually(t, 10*time.Second, "the replica is online", func() error {
		info, err := c.Info(t.Context(), "replication").Result()
		if err == nil && !strings.Contains(info, "state=online") {
			err = errors.New(info)
		}
		return err
	})
}

// PSYNC that has another name is called by that, each node's by its own.
func TestRenamed(t *testing.T) {
	someServers(t, 0, func(t *testing.T, version string) {
		srv := testserver.Start(t, version, "--rename-command", "PSYNC", canary+"-psync")
		testserver.Generate(t, srv.Client(t), 60, 1)
		want := testserver.Snapshot(t, srv.Client(t))
		for name, change := range map[string]func(*replica.Config){
			"by name": func(c *replica.Config) { c.SyncCommand = canary + "-psync" },
			"by node": func(c *replica.Config) {
				c.SyncCommand, c.SyncCommands = "another", map[string]string{srv.Addr: canary + "-psync", "elsewhere:1": "x"}
			},
		} {
			data, _ := take(t, of(t, srv, change))
			if diff := testserver.Diff(want, testserver.Snapshot(t, accepted(t, version, data).Client(t))); diff != "" {
				t.Errorf("%s: %s", name, diff)
			}
		}
		for _, test := range []struct{ name, want string }{
			{"xyz", "PSYNC: ERR unknown command 'xyz': the server doesn't know the command that was given as its renamed PSYNC: check the name, which may differ from node to node"},
			{"SET", "COMMAND INFO: the command that was given as the renamed PSYNC is another one: check the name, which may differ from node to node"},
			{"GET", "COMMAND INFO: the command that was given as the renamed PSYNC is another one: check the name, which may differ from node to node"},
		} {
			_, err := of(t, srv, func(c *replica.Config) { c.SyncCommand = test.name }).Snapshot(t.Context())
			if !errors.Is(err, backup.ErrUnsupported) || errors.Is(err, backup.ErrBegun) || err.Error() != "snapshot of "+srv.Addr+": "+test.want {
				t.Errorf("%s: %v", test.name, err)
			}
		}
		if diff := testserver.Diff(want, testserver.Snapshot(t, srv.Client(t))); diff != "" {
			t.Errorf("the server was written to: %s", diff)
		}
		// A user that may not ask what the command is.
		srv.AddUser(t, "amber", canary, "+info", "+replconf", "+psync") // rules go by the first name
		take(t, of(t, srv, func(c *replica.Config) {
			c.Options.Username, c.Options.Password, c.SyncCommand = "amber", canary, canary+"-psync"
		}))
		released(t, srv)
	})
}
