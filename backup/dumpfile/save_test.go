package dumpfile_test

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/dumpfile"
	"github.com/amberkv/amber/backup/snapshottest"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/rdb"
)

// What the server has is in the file, and the manifest tells where it came from and what that took.
func TestSaveContents(t *testing.T) {
	eachServer(t, func(t *testing.T, version string) {
		srv := testserver.Start(t, version)
		c := srv.Client(t)
		testserver.Generate(t, c, 300, 1)
		testserver.LoadFunction(t, c, "amber")
		s, _ := saverOf(t, srv, nil)
		start := time.Now()
		data, src := grab(t, s)
		if diff := testserver.Diff(testserver.Snapshot(t, c), testserver.Snapshot(t, loaded(t, version, data).Client(t))); diff != "" {
			t.Error(diff)
		}
		engine, number, _ := strings.Cut(version, "-")
		if src.Engine != engine || !strings.HasPrefix(src.Version, number+".") || src.Topology != "standalone" || src.Address != srv.Addr || src.Role != "primary" ||
			src.Method != "save" || src.UsedMemory < 100_000 || src.File != "dump.rdb" || src.ReplicationID != "" {
			t.Errorf("source %+v", src)
		}
		if src.Time.Before(start.Add(-time.Second)) || src.Time.After(time.Now()) || src.Time.Nanosecond()%1e9 == 0 || src.Time.Location() != time.UTC {
			t.Errorf("the instant is %v, the test began at %v", src.Time, start)
		}
		if src.Cost == nil || src.Cost.Fork <= 0 || src.Cost.Bytes != int64(len(data)) || src.Cost.Duration <= 0 {
			t.Errorf("cost %+v", src.Cost)
		}
		if n := infoOf(t, srv, "rdb_saves"); n != "1" {
			t.Errorf("the server saved %s times", n)
		}
		if _, err := os.Stat(filepath.Join(srv.Dir, "dump.rdb")); err != nil {
			t.Errorf("the server's own file: %v", err)
		}
	})
}

// The whole way to a backup, by the file's name in a store that shows more than the directory, without CONFIG.
func TestSaveToBackup(t *testing.T) {
	someServers(t, func(t *testing.T, version string) {
		srv := testserver.Start(t, version, "--dbfilename", "orders.rdb")
		testserver.Generate(t, srv.Client(t), 100, 1)
		srv.AddUser(t, "amber", canary, "+info", "+bgsave")
		h := newHouse(t, memory())
		s, _ := saverOf(t, srv, func(c *dumpfile.SaveConfig) {
			c.Options.Username, c.Options.Password = "amber", canary
			c.Store, c.Name = openDir(t, filepath.Dir(srv.Dir)), filepath.Base(srv.Dir)+"/orders.rdb"
		})
		b, err := h.runner.Run(t.Context(), backup.Request{DataStore: "orders", Kind: catalog.KindManual, Snapshotter: s})
		if err != nil {
			t.Fatal(err)
		}
		if b.Keys < 90 || b.Source.Method != "save" || b.Source.Cost.Bytes != b.RawBytes {
			t.Errorf("%d keys of %d bytes, source %+v", b.Keys, b.RawBytes, b.Source)
		}
		if _, err := h.restorer.Verify(t.Context(), b.ID, nil); err != nil {
			t.Error(err)
		}
	})
}

func TestSaveConformance(t *testing.T) {
	otherServers(t, func(t *testing.T, version string) {
		start := func() *testserver.Server {
			srv := testserver.Start(t, version)
			do(t, srv, "DEBUG", "POPULATE", 60, "key", 50)
			srv.AddUser(t, "amber", canary, "+info", "+bgsave", "+config|get")
			return srv
		}
		by := func(srv *testserver.Server, change func(*dumpfile.SaveConfig)) func(t *testing.T) backup.Snapshotter {
			return func(t *testing.T) backup.Snapshotter {
				s, _ := saverOf(t, srv, func(c *dumpfile.SaveConfig) {
					c.Options.Username, c.Options.Password = "amber", canary
					if change != nil {
						change(c)
					}
				})
				return s
			}
		}
		srv, waiting := start(), start()
		slow(t, waiting, 1000, 20_000)
		snapshottest.Run(t, by(srv, nil), &snapshottest.Options{
			Secret: canary,
			Check: func(t *testing.T, p backup.Part, r io.Reader) {
				rd := rdb.NewReader(r, nil)
				for _, err := range rd.Entries() {
					if err != nil {
						t.Fatal(err)
					}
				}
				if n := rd.Stats().Keys; n < 60 {
					t.Errorf("%d keys", n)
				}
			},
			Stalled: by(srv, func(c *dumpfile.SaveConfig) { c.Store = &stalled{Store: c.Store, after: 600} }),
			Waiting: by(waiting, nil),
			Failing: map[string]func(t *testing.T) backup.Snapshotter{
				"wrong password": by(srv, func(c *dumpfile.SaveConfig) { c.Options.Password = "not " + canary }),
				"elsewhere":      by(srv, func(c *dumpfile.SaveConfig) { c.Store, c.VisibleTimeout = memory(), time.Millisecond }),
			},
		})
	})
}
