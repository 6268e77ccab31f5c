package sentinel_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/replica"
	"github.com/amberkv/amber/backup/sentinel"
	"github.com/amberkv/amber/backup/snapshottest"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/storecatalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/restore/command"
	"github.com/amberkv/amber/storage/memstore"
)

// The passwords of tests: of the servers and of the sentinels.
const (
	canary = "CANARY-pw-9204"
	other  = "CANARY-pw-9204-sentinel"
)

func someVersions(t *testing.T, f func(t *testing.T, version string)) {
	var all sync.WaitGroup
	for _, version := range testserver.Half(0) { // the other tests have the others
		all.Go(func() { t.Run(version, func(t *testing.T) { f(t, version) }) })
	}
	all.Wait()
}

type logWriter struct{ t *testing.T }

func (w logWriter) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("CANARY")) {
		w.t.Error("the log holds a password")
	}
	return w.t.Output().Write(p)
}

// of returns a Snapshotter of a group.
func of(t *testing.T, addrs []string, options *redis.Options, change func(*sentinel.Config)) *sentinel.Snapshotter {
	t.Helper()
	o := *options
	o.Addr = ""
	cfg := sentinel.Config{Sentinels: addrs, Group: testserver.SentinelGroup, Options: &o, SentinelPassword: other, Pause: 20 * time.Millisecond,
		FailoverWait: 40 * time.Second, Logger: slog.New(slog.NewTextHandler(logWriter{t}, nil)),
		Node: func(o *redis.Options) (backup.Snapshotter, error) {
			return replica.New(replica.Config{Options: o, Prefer: replica.PreferExact, StallTimeout: 20 * time.Second})
		}}
	if change != nil {
		change(&cfg)
	}
	s, err := sentinel.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A group is a primary with two replicas, under sentinels.
type group struct {
	primary, second, third *testserver.Server
	sentinels              *testserver.Sentinels
}

func startGroup(t *testing.T, version string) *group {
	g := &group{primary: testserver.Start(t, version, "--requirepass", canary, "--masterauth", canary)}
	g.second = testserver.StartReplica(t, version, g.primary, "--requirepass", canary)
	g.third = testserver.StartReplica(t, version, g.primary, "--requirepass", canary)
	g.sentinels = testserver.StartSentinels(t, version, 3, g.primary, &testserver.SentinelOptions{Password: other})
	return g
}

// killing makes Node's snapshots call a function when their first bytes were read.
func killing(kill func(addr string)) func(*sentinel.Config) {
	return func(c *sentinel.Config) {
		make := c.Node
		c.Node = func(o *redis.Options) (backup.Snapshotter, error) {
			s, err := make(o)
			return killer{s, o.Addr, kill}, err
		}
	}
}

type killer struct {
	backup.Snapshotter
	addr string
	kill func(addr string)
}

func (k killer) Snapshot(ctx context.Context) (backup.Snapshot, error) {
	sn, err := k.Snapshotter.Snapshot(ctx)
	return killerSnapshot{sn, k}, err
}

type killerSnapshot struct {
	backup.Snapshot
	k killer
}

func (k killerSnapshot) Open(ctx context.Context, p backup.Part) (io.ReadCloser, error) {
	r, err := k.Snapshot.Open(ctx, p)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(io.LimitReader(r, 100), after{k.k}, r), r}, nil
}

// after is an empty reader that calls kill.
type after struct{ k killer }

func (a after) Read([]byte) (int, error) {
	a.k.kill(a.k.addr)
	return 0, io.EOF
}

func refused(t *testing.T, what string, err, kind error, words ...string) {
	t.Helper()
	var e *backup.SourceError
	if !errors.As(err, &e) || kind != nil && !errors.Is(err, kind) {
		t.Errorf("%s: %v, want a *backup.SourceError that wraps %v", what, err, kind)
		return
	}
	text := fmt.Sprintf("%v %#v", err, err)
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%s: %v, want it to say %q", what, err, w)
		}
	}
	if strings.Contains(text, "CANARY") {
		t.Errorf("%s: the error holds a password", what)
	}
}

// A group is backed up through its sentinels; then its primary dies in the middle, and then all sentinels.
func TestGroup(t *testing.T) {
	someVersions(t, func(t *testing.T, version string) {
		g := startGroup(t, version)
		testserver.Generate(t, g.primary.Client(t), 200, 1)
		stop := testserver.WriteLoad(t, g.primary.Client(t))
		store := memstore.New(nil)
		c, err := storecatalog.New(storecatalog.Config{Store: store})
		if err != nil {
			t.Fatal(err)
		}
		runner, err := backup.NewRunner(backup.Config{Store: store, Catalog: c, Leaser: c})
		if err != nil {
			t.Fatal(err)
		}
		run := func(s backup.Snapshotter) (*catalog.Backup, error) {
			return runner.Run(t.Context(), backup.Request{DataStore: "orders", Snapshotter: s})
		}
		addrs := g.sentinels.Addrs()
		free, err := testserver.FreeAddr()
		if err != nil {
			t.Fatal(err)
		}

		// One sentinel that answers is enough. The options of go-redis's client will do. Replicas acknowledge once a second what they have.
		g.primary.AwaitReplicas(t, 2)
		failover := sentinel.FromFailover(&redis.FailoverOptions{MasterName: testserver.SentinelGroup, SentinelAddrs: []string{free, addrs[2]}, SentinelPassword: other, Password: canary})
		b, err := run(of(t, nil, failover.Options, func(c *sentinel.Config) {
			c.Sentinels, c.Group, c.SentinelPassword, c.Options = failover.Sentinels, failover.Group, failover.SentinelPassword, failover.Options
			c.Node = func(o *redis.Options) (backup.Snapshotter, error) { return replica.New(replica.Config{Options: o}) }
		}))
		if err != nil {
			t.Fatal(err)
		}
		if src := b.Source; src.Topology != "sentinel" || src.Role != "replica" || src.Address != g.second.Addr && src.Address != g.third.Addr || b.Parts[0].Shard != nil || src.Time.IsZero() {
			t.Errorf("source %+v, shard %+v", src, b.Parts[0].Shard)
		}

		// A failover in the middle.
		delay := func(s *testserver.Server) { // so that all is not in the sockets when it dies, however late that is
			if err := s.Client(t).ConfigSet(t.Context(), "rdb-key-save-delay", "20000").Err(); err != nil {
				t.Fatal(err)
			}
		}
		delay(g.primary)
		stop()
		want := testserver.Snapshot(t, g.primary.Client(t))
		testserver.Eventually(t, 10*time.Second, "the replicas have all", func() error {
			if n, err := g.primary.Client(t).Wait(t.Context(), 2, time.Second).Result(); n < 2 || err != nil {
				return fmt.Errorf("%d, %v", n, err)
			}
			return nil
		})
		var once sync.Once
		b, err = run(of(t, addrs, g.primary.Options(), killing(func(string) { once.Do(g.primary.Kill) })))
		if err != nil {
			t.Fatal(err)
		}
		sh := b.Parts[0].Shard
		if sh == nil || sh.Attempts != 2 || sh.Role != "primary" || sh.Address != g.second.Addr && sh.Address != g.third.Addr || sh.Address != b.Source.Address {
			t.Fatalf("the backup has %+v of %+v", sh, b.Source)
		}
		one := testserver.Start(t, version)
		restorer, err := restore.New(restore.Config{Store: store, Catalog: c})
		if err != nil {
			t.Fatal(err)
		}
		loader, err := command.New(command.Config{Options: one.Options()})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := restorer.Restore(t.Context(), b.ID, loader, nil); err != nil {
			t.Fatal(err)
		}
		got := testserver.Snapshot(t, one.Client(t))
		for k := range want { // streams tell when a consumer was seen by the clock of the server
			if strings.Contains(want[k], "seen-time") && got[k] != "" {
				delete(want, k)
				delete(got, k)
			}
		}
		if diff := testserver.Diff(want, got); diff != "" {
			t.Error(diff)
		}

		// The budget, and a password that isn't right any more.
		delay(g.second)
		delay(g.third)
		kills := 0
		_, err = run(of(t, addrs, g.primary.Options(), func(c *sentinel.Config) {
			killing(func(addr string) {
				kills++
				for _, s := range []*testserver.Server{g.second, g.third} {
					if s.Addr == addr {
						if err := s.Client(t).ClientKillByFilter(t.Context(), "TYPE", "slave").Err(); err != nil {
							t.Error(err)
						}
					}
				}
			})(c)
		}))
		refused(t, "a connection that is killed each time", err, nil, "given up after 3 attempts", "the server closed the connection")
		if kills != 3 || errors.Is(err, backup.ErrAgain) {
			t.Errorf("%d attempts: %v", kills, err)
		}

		// Sentinels that are no help.
		_, err = run(of(t, addrs, g.primary.Options(), func(c *sentinel.Config) { c.Group = "nobody" }))
		refused(t, "a wrong group", err, backup.ErrUnsupported, "none knows the group", "group nobody", addrs[0], addrs[1], addrs[2])
		_, err = run(of(t, addrs, g.primary.Options(), func(c *sentinel.Config) { c.SentinelPassword = canary + "1" }))
		refused(t, "a wrong password of the sentinels", err, backup.ErrAuth)
		_, err = run(of(t, []string{sh.Address}, g.primary.Options(), func(c *sentinel.Config) { c.SentinelPassword = canary }))
		refused(t, "no sentinel", err, backup.ErrUnsupported, "give the addresses of sentinels")
		o := g.primary.Options()
		o.Password = canary + "1"
		_, err = run(of(t, addrs, o, nil))
		refused(t, "a wrong password", err, backup.ErrAuth, "snapshot of 127.0.0.1:")
		for _, s := range g.sentinels.Nodes {
			s.Kill()
		}
		_, err = run(of(t, addrs, g.primary.Options(), nil))
		refused(t, "sentinels that are down", err, nil, "none tells the primary", addrs[0], addrs[1], addrs[2])
	})
}

// A group without a primary is waited for, no longer than was given.
func TestNoPrimary(t *testing.T) {
	t.Parallel()
	primary := testserver.Start(t, "redis-7.0")
	s := testserver.StartSentinels(t, "redis-7.0", 1, primary, nil)
	primary.Kill()
	_, err := of(t, s.Addrs(), primary.Options(), func(c *sentinel.Config) { c.SentinelPassword, c.FailoverWait = "", time.Second }).Snapshot(t.Context())
	refused(t, "no primary", err, backup.ErrTransient, "there is no primary for 1s", primary.Addr, "SENTINEL MASTER "+testserver.SentinelGroup)

	// A replica in the place of the primary, as in the middle of a failover, is none.
	other := testserver.Start(t, "redis-7.0")
	if err := other.Client(t).Do(t.Context(), "REPLICAOF", primary.Host, primary.Port).Err(); err != nil {
		t.Fatal(err)
	}
	s = testserver.StartSentinels(t, "redis-7.0", 1, testserver.Start(t, "redis-7.0"), nil)
	if err := s.Nodes[0].Client(t).Do(t.Context(), "SENTINEL", "REMOVE", testserver.SentinelGroup).Err(); err != nil {
		t.Fatal(err)
	}
	if err := s.Nodes[0].Client(t).Do(t.Context(), "SENTINEL", "MONITOR", testserver.SentinelGroup, other.Host, other.Port, 1).Err(); err != nil {
		t.Fatal(err)
	}
	_, err = of(t, s.Addrs(), primary.Options(), func(c *sentinel.Config) { c.SentinelPassword, c.FailoverWait = "", 300*time.Millisecond }).Snapshot(t.Context())
	refused(t, "a replica", err, backup.ErrTransient, `it says that it is "slave"`, other.Addr)
}

// A sentinel that was cut off knows an old primary, which may think still that it is one: the sentinel that has seen the last failover is believed.
func TestStaleSentinel(t *testing.T) {
	t.Parallel()
	old, now := testserver.Start(t, "redis-8.0"), testserver.Start(t, "redis-8.0")
	stale := testserver.StartSentinels(t, "redis-8.0", 1, old, nil)
	fresh := testserver.StartSentinels(t, "redis-8.0", 1, now, &testserver.SentinelOptions{Lines: []string{"sentinel config-epoch group 7"}})
	for _, addrs := range [][]string{{stale.Addrs()[0], fresh.Addrs()[0]}, {fresh.Addrs()[0], stale.Addrs()[0]}} {
		sn, err := of(t, addrs, now.Options(), func(c *sentinel.Config) { c.SentinelPassword = "" }).Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := sn.Source().Address; got != now.Addr {
			t.Errorf("the primary is %s, want %s", got, now.Addr)
		}
		sn.Close()
	}
}

// Sentinels are connected to as the servers are, unless they have a TLS configuration of their own or speak none.
func TestTLS(t *testing.T) {
	t.Parallel()
	primary := testserver.StartTLS(t, "valkey-9.1")
	s := testserver.StartSentinels(t, "valkey-9.1", 1, primary, nil)
	take := func(change func(*sentinel.Config)) error {
		sn, err := of(t, s.Addrs(), primary.Options(), func(c *sentinel.Config) {
			c.SentinelPassword = ""
			change(c)
		}).Snapshot(t.Context())
		if err == nil {
			err = sn.Close()
		}
		return err
	}
	if err := take(func(*sentinel.Config) {}); err != nil {
		t.Errorf("as the servers: %v", err)
	}
	if err := take(func(c *sentinel.Config) { c.SentinelTLS = primary.TLS.Client.Clone() }); err != nil {
		t.Errorf("with a configuration of their own: %v", err)
	}
	refused(t, "plain", take(func(c *sentinel.Config) { c.SentinelPlain = true }), nil, "if the port speaks TLS")
}

func TestConformance(t *testing.T) {
	t.Parallel()
	g := startGroup(t, "valkey-8.1")
	testserver.Generate(t, g.primary.Client(t), 60, 1)
	waiting := testserver.Start(t, "valkey-8.1", "--repl-diskless-sync-delay", "60", "--requirepass", canary)
	other1 := testserver.StartSentinels(t, "valkey-8.1", 1, waiting, &testserver.SentinelOptions{Password: other})
	by := func(addrs []string) func(t *testing.T) backup.Snapshotter {
		return func(t *testing.T) backup.Snapshotter { return of(t, addrs, g.primary.Options(), nil) }
	}
	snapshottest.Run(t, by(g.sentinels.Addrs()), &snapshottest.Options{
		Secret: canary,
		Check: func(t *testing.T, p backup.Part, r io.Reader) {
			in := rdb.NewReader(r, nil)
			for _, err := range in.Entries() {
				if err != nil {
					t.Errorf("no whole RDB file: %v", err)
					return
				}
			}
			if in.Stats().Keys < 40 {
				t.Errorf("%d keys", in.Stats().Keys)
			}
		},
		Released: func(t *testing.T) {
			for s, want := range map[*testserver.Server]string{g.primary: "2", waiting: "0"} {
				testserver.Eventually(t, 10*time.Second, "the server has its own replicas only", func() error {
					info, err := s.Client(t).InfoMap(t.Context(), "replication").Result()
					if n := info["Replication"]["connected_slaves"]; err == nil && n != want {
						err = fmt.Errorf("it has %s", n)
					}
					return err
				})
			}
		},
		Waiting: by(other1.Addrs()),
		Failing: map[string]func(t *testing.T) backup.Snapshotter{
			"wrong group": func(t *testing.T) backup.Snapshotter {
				return of(t, g.sentinels.Addrs(), g.primary.Options(), func(c *sentinel.Config) { c.Group = "x" })
			},
			"wrong password": func(t *testing.T) backup.Snapshotter {
				o := g.primary.Options()
				o.Password = canary + "2"
				return of(t, g.sentinels.Addrs(), o, nil)
			},
		},
	})
}

func TestConfig(t *testing.T) {
	for _, test := range []struct {
		change func(*sentinel.Config)
		want   string
	}{
		{func(c *sentinel.Config) { c.Sentinels = nil }, "sentinel: Config.Sentinels is required: the host:port of each sentinel"},
		{func(c *sentinel.Config) { c.Sentinels = []string{"a:1", "b"} }, `sentinel: Config.Sentinels: "b" is no host:port`},
		{func(c *sentinel.Config) { c.Group = "" }, "sentinel: Config.Group is required: the name that the sentinels have for the group"},
		{func(c *sentinel.Config) { c.Options = nil }, "sentinel: Config.Options is required: those of a client of the group's servers"},
		{func(c *sentinel.Config) { c.Node = nil }, "sentinel: Config.Node is required: it makes what takes the snapshot of one node"},
		{func(c *sentinel.Config) { c.Attempts = -1 }, "sentinel: Config.Attempts is negative: -1"},
		{func(c *sentinel.Config) { c.Pause = -1 }, "sentinel: a time of Config is negative"},
	} {
		cfg := sentinel.Config{Sentinels: []string{"a:1"}, Group: "g", Options: &redis.Options{}, Node: func(*redis.Options) (backup.Snapshotter, error) { return nil, os.ErrInvalid }}
		test.change(&cfg)
		if _, err := sentinel.New(cfg); fmt.Sprint(err) != test.want {
			t.Errorf("%v, want %s", err, test.want)
		}
	}
}
