package scan_test

import (
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/scan"
	"github.com/amberkv/amber/backup/snapshottest"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/rdb"
)

func TestContents(t *testing.T) {
	eachServer(t, func(t *testing.T, version string) {
		srv := testserver.Start(t, version)
		c := srv.Client(t)
		testserver.Generate(t, c, 300, 1)
		testserver.LoadFunction(t, c, "amber")
		for name, tuning := range map[string]scan.Tuning{"as it is": {}, "strings": {Strings: true}, "old": {Old: true}, "old, strings": {Old: true, Strings: true}, "names put off": {Filter: 9}, "one by one": {Group: 1, Strings: true}} {
			t.Run(name, func(t *testing.T) {
				s := of(t, srv, nil)
				scan.SetTuning(s, tuning)
				data, src := take(t, s)
				stats, dialect := parse(t, read(data))
				if stats.Functions != 1 || stats.Checksum != rdb.ChecksumCRC64 {
					t.Errorf("the snapshot has %+v", stats)
				}
				wantDialect := map[string]string{"redis-7.0": "redis:10", "redis-8.0": "redis:12", "valkey-8.1": "redis:11", "valkey-9.1": "valkey:80"}
				if dialect != wantDialect[version] {
					t.Errorf("the dialect is %s", dialect)
				}
				slack := int64(0)
				if tuning.Old {
					slack = 100 // the clock of TIME goes on until the last PTTL
				}
				same(t, version, srv, data, slack)
				engine, number, _ := strings.Cut(version, "-")
				if src.Engine != engine || !strings.HasPrefix(src.Version, number+".") || src.Topology != "standalone" || src.Address != srv.Addr ||
					src.Role != "primary" || src.Method != "scan" || src.UsedMemory < 100_000 || !src.Fuzzy || src.Time.IsZero() || src.Spread <= 0 ||
					src.Scan == nil || src.Scan.Listed != stats.Keys || src.Scan.Gone != 0 || src.Cost.Bytes < int64(len(data)) {
					t.Errorf("source %+v, %+v", src, src.Scan)
				}
			})
		}
		c.Close()
		released(t, srv)
	})
}

// rights are what the documentation says that a user needs.
var rights = []string{"+scan", "+dump", "+pexpiretime", "+multi", "+exec", "+select", "+info", "+function|dump", "%R~*"}

func TestConformance(t *testing.T) {
	eachServer(t, func(t *testing.T, version string) {
		start := func(t *testing.T, args ...string) *testserver.Server {
			srv := testserver.Start(t, version, args...)
			c := srv.Client(t)
			testserver.Generate(t, c, 60, 1)
			c.Close()
			srv.AddUser(t, "amber", canary, rights...)
			return srv
		}
		by := func(srv *testserver.Server, change func(*scan.Config)) func(t *testing.T) backup.Snapshotter {
			return func(t *testing.T) backup.Snapshotter {
				return of(t, srv, func(c *scan.Config) {
					c.Options.Username, c.Options.Password = "amber", canary
					if change != nil {
						change(c)
					}
				})
			}
		}
		srv := start(t)
		locked := start(t, "--requirepass", canary+"2")
		failing := map[string]func(t *testing.T) backup.Snapshotter{
			"wrong password": func(t *testing.T) backup.Snapshotter {
				return of(t, locked, func(c *scan.Config) { c.Options.Password = canary })
			},
			"no password": func(t *testing.T) backup.Snapshotter {
				return of(t, locked, func(c *scan.Config) { c.Options.Password = "" })
			},
		}
		frozen := start(t)
		snapshottest.Run(t, by(srv, nil), &snapshottest.Options{
			Secret: canary,
			Check: func(t *testing.T, p backup.Part, r io.Reader) {
				if stats, _ := parse(t, r); stats.Keys < 40 {
					t.Errorf("the snapshot has %d keys", stats.Keys)
				}
			},
			Released: func(t *testing.T) { released(t, srv) },
			// One key in ten seconds.
			Stalled: by(srv, func(c *scan.Config) { c.KeysPerSecond = 1 }),
			Waiting: func(t *testing.T) backup.Snapshotter {
				if err := frozen.Cmd.Process.Signal(syscall.SIGSTOP); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { frozen.Cmd.Process.Signal(syscall.SIGCONT) })
				return by(frozen, func(c *scan.Config) { c.ConnectTimeout = time.Minute })(t)
			},
			Failing: failing,
		})
		for reason, failing := range failing {
			if _, err := failing(t).Snapshot(t.Context()); !errors.Is(err, backup.ErrAuth) {
				t.Errorf("%s: %v", reason, err)
			}
		}
	})
}
