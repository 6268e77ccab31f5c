package dumpfile_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/dumpfile"
	"github.com/amberkv/amber/internal/testserver"
)

// A snapshot is of one moment while clients write, and every key is as a server says that loads the file itself.
func TestSaveWriteLoad(t *testing.T) {
	otherServers(t, func(t *testing.T, version string) {
		srv := testserver.Start(t, version)
		c := srv.Client(t)
		testserver.Generate(t, c, 200, 1)
		slow(t, srv, 500, 200)
		stop := testserver.WriteLoad(t, srv.Client(t))
		testserver.Eventually(t, 20*time.Second, "there are writes", func() error { return c.Get(t.Context(), "load:b").Err() })
		s, _ := saverOf(t, srv, nil)
		for range 2 {
			acknowledged, _ := c.Get(t.Context(), "load:b").Int()
			data, src := grab(t, s)
			after, _ := c.Get(t.Context(), "load:b").Int()
			back := loaded(t, version, data).Client(t)
			a, err1 := back.Get(t.Context(), "load:a").Int()
			b, err2 := back.Get(t.Context(), "load:b").Int()
			if a != b || err1 != nil || err2 != nil || b < acknowledged || b > after {
				t.Errorf("the counters are %d (%v) and %d (%v), were %d before and %d after", a, err1, b, err2, acknowledged, after)
			}
			if src.Cost.CopyOnWrite <= 0 || src.Cost.Fork <= 0 {
				t.Errorf("cost %+v", src.Cost)
			}
			// What isn't written to is the same.
			want, got := testserver.Snapshot(t, c), testserver.Snapshot(t, back)
			for _, snap := range []map[string]string{want, got} {
				for key := range snap {
					if strings.HasPrefix(key, "0/load:") {
						delete(snap, key)
					}
				}
			}
			if diff := testserver.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		}
		if stop() == 0 {
			t.Error("nothing was written")
		}
	})
}

// A replica can be the source. Its file tells of which moment of the replication it is.
func TestSaveReplica(t *testing.T) {
	eachServer(t, func(t *testing.T, version string) {
		primary := testserver.Start(t, version)
		c := primary.Client(t)
		testserver.Generate(t, c, 100, 1)
		second := testserver.StartReplica(t, version, primary)
		do(t, primary, "SET", "last", "1")
		there := second.Client(t)
		testserver.Eventually(t, 20*time.Second, "the replica has what was written last", func() error { return there.Get(t.Context(), "last").Err() })
		s, _ := saverOf(t, second, nil)
		data, src := grab(t, s)
		if diff := testserver.Diff(testserver.Snapshot(t, c), testserver.Snapshot(t, loaded(t, version, data).Client(t))); diff != "" {
			t.Error(diff)
		}
		offset, _ := strconv.ParseInt(infoOf(t, primary, "master_repl_offset"), 10, 64)
		if src.Role != "replica" || src.Topology != "replicated" || src.Address != second.Addr || src.ReplicationID != infoOf(t, primary, "master_replid") ||
			src.ReplicationOffset <= 0 || src.ReplicationOffset > offset {
			t.Errorf("source %+v, the offset is %d", src, offset)
		}
		if n := infoOf(t, primary, "rdb_saves"); n != "0" {
			t.Errorf("the primary saved %s times", n)
		}
		s, _ = saverOf(t, primary, nil)
		if _, src := grab(t, s); src.Role != "primary" || src.Topology != "replicated" || src.ReplicationOffset <= 0 {
			t.Errorf("source %+v", src)
		}

		// It becomes a primary while it saves, and it has lost its primary.
		slow(t, primary, 200, 0)
		do(t, second, "CONFIG", "SET", "rdb-key-save-delay", 20_000)
		s, _ = saverOf(t, second, nil)
		result := inBackground(t.Context(), s)
		until(t, second, "rdb_bgsave_in_progress", "1")
		do(t, second, "REPLICAOF", "NO", "ONE")
		_, err := result()
		fails(t, "a failover", err, backup.ErrTransient, "was a slave and is a master")
		do(t, second, "CONFIG", "SET", "rdb-key-save-delay", 0)
		do(t, second, "REPLICAOF", primary.Host, "1")
		_, err = s.Snapshot(t.Context())
		fails(t, "a replica without a primary", err, backup.ErrTransient, "in sync")
	})
}

// Our save comes after one that is under way, and is another one.
func TestSaveWhileSaving(t *testing.T) {
	someServers(t, func(t *testing.T, version string) {
		srv := testserver.Start(t, version)
		slow(t, srv, 100, 15_000)
		do(t, srv, "BGSAVE")
		do(t, srv, "SET", "later", "1")
		do(t, srv, "CONFIG", "SET", "rdb-key-save-delay", 0) // for the next one
		s, book := saverOf(t, srv, nil)
		data, src := grab(t, s)
		if got := loaded(t, version, data).Client(t).Get(t.Context(), "later").Val(); got != "1" {
			t.Errorf("what was written after the other save: %q", got)
		}
		if src.Cost.Waited <= 0 || !book.has("waiting for a save") || infoOf(t, srv, "rdb_saves") != "2" {
			t.Errorf("cost %+v, %s saves", src.Cost, infoOf(t, srv, "rdb_saves"))
		}
	})
}

// While the append-only file is rewritten a save is scheduled.
func TestSaveWhileRewriting(t *testing.T) {
	otherServers(t, func(t *testing.T, version string) {
		srv := testserver.Start(t, version)
		slow(t, srv, 100, 15_000)
		do(t, srv, "BGREWRITEAOF")
		until(t, srv, "aof_rewrite_in_progress", "1")
		do(t, srv, "CONFIG", "SET", "rdb-key-save-delay", 0) // for the save
		s, _ := saverOf(t, srv, nil)
		start := time.Now()
		data, src := grab(t, s)
		if n := parse(t, data).Keys; n != 100 || infoOf(t, srv, "rdb_saves") != "1" {
			t.Errorf("%d keys, %s saves", n, infoOf(t, srv, "rdb_saves"))
		}
		if src.Time.Before(start.Truncate(time.Second)) || src.Time.Nanosecond() != 0 {
			t.Errorf("the instant is %v, which the file tells to the second", src.Time)
		}
	})
}

// A save that fails, or is ended, says what that means for the server.
func TestSaveFails(t *testing.T) {
	someServers(t, func(t *testing.T, version string) {
		for _, points := range []string{"", "3600 1"} {
			srv := testserver.Start(t, version, "--save", points)
			slow(t, srv, 200, 20_000)
			s, book := saverOf(t, srv, nil)
			result := inBackground(t.Context(), s)
			killChild(t, srv)
			_, err := result()
			fails(t, "killed child", err, nil, "rdb_last_bgsave_status is err", "want of memory")
			if misconf := strings.Contains(err.Error(), "MISCONF"); misconf != (points != "") {
				t.Errorf("with save points %q: %v", points, err)
			}
			// The next one is warned of, and waits for nothing.
			do(t, srv, "CONFIG", "SET", "rdb-key-save-delay", 0)
			grab(t, s)
			if !book.has("last save failed") {
				t.Error("no warning")
			}
		}

		// FLUSHALL ends a save. With save points the server writes an empty file then, by itself.
		for _, points := range []string{"", "3600 1"} {
			srv := testserver.Start(t, version, "--save", points)
			slow(t, srv, 200, 20_000)
			time.Sleep(1100 * time.Millisecond) // the server tells times in seconds
			s, _ := saverOf(t, srv, nil)
			result := inBackground(t.Context(), s)
			saveChild(t, srv)
			do(t, srv, "FLUSHALL")
			sn, err := result()
			if points != "" && err == nil {
				err = sn.(backup.Counted).Count(0)
				fails(t, "flushed", err, dumpfile.ErrKeysMissing, "flushed", "it has 0")
				sn.Close()
				continue
			}
			fails(t, "ended by FLUSHALL", err, backup.ErrTransient, "FLUSHALL")
		}
	})
}

// A disk without room, or a directory that is gone.
func TestSaveDiskFull(t *testing.T) {
	otherServers(t, func(t *testing.T, version string) {
		srv := testserver.Start(t, version, "--enable-protected-configs", "local")
		dir := t.TempDir()
		full := syscall.Mount("none", dir, "tmpfs", 0, "size=64k") == nil
		if full {
			t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
		}
		do(t, srv, "DEBUG", "POPULATE", 3000, "k", 200)
		do(t, srv, "CONFIG", "SET", "rdbcompression", "no", "dir", dir)
		if !full {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}
		store := memory()
		s, _ := saverOf(t, srv, func(c *dumpfile.SaveConfig) { c.Store = store })
		_, err := s.Snapshot(t.Context())
		fails(t, "disk full", err, nil, "save failed", "disk is full")
		if n := infoOf(t, srv, "rdb_saves"); n != "1" {
			t.Errorf("%s saves were tried", n)
		}
	})
}

// The server dies, or comes back as another process, while it saves.
func TestSaveServerDies(t *testing.T) {
	someServers(t, func(t *testing.T, version string) {
		srv := testserver.Start(t, version)
		slow(t, srv, 200, 20_000)
		s, _ := saverOf(t, srv, nil)
		result := inBackground(t.Context(), s)
		saveChild(t, srv)
		srv.Kill()
		_, err := result()
		fails(t, "killed", err, nil, "the server's log tells why")

		srv.Restart(t)
		slow(t, srv, 200, 20_000)
		proxy := newCutter(t, srv.Addr)
		s, _ = saverOf(t, srv, func(c *dumpfile.SaveConfig) { c.Options.Addr = proxy.addr })
		result = inBackground(t.Context(), s)
		saveChild(t, srv)
		proxy.waits(t)
		proxy.hold()
		srv.Restart(t)
		proxy.resume()
		_, err = result()
		fails(t, "restarted", err, backup.ErrTransient, "restarted")

		// A connection that is cut is none of the save's business.
		slow(t, srv, 100, 10_000)
		result = inBackground(t.Context(), s)
		saveChild(t, srv)
		proxy.waits(t)
		proxy.cut()
		sn, err := result()
		if err != nil {
			t.Fatal(err)
		}
		if data, _ := drain(t, sn); parse(t, data).Keys != 100 {
			t.Error("not all keys")
		}
	})
}

// What users may do.
func TestSaveRights(t *testing.T) {
	someServers(t, func(t *testing.T, version string) {
		srv := testserver.Start(t, version)
		testserver.Generate(t, srv.Client(t), 50, 1)
		renamed := testserver.Start(t, version, "--rename-command", "BGSAVE", "")
		noConfig := testserver.Start(t, version, "--rename-command", "CONFIG", "")
		by := func(srv *testserver.Server, name string) *dumpfile.SaveSnapshotter {
			s, _ := saverOf(t, srv, func(c *dumpfile.SaveConfig) { c.Name = name })
			return s
		}
		as := func(name string, rules ...string) *dumpfile.SaveSnapshotter {
			srv.AddUser(t, "amber", canary, rules...)
			s, _ := saverOf(t, srv, func(c *dumpfile.SaveConfig) {
				c.Options.Username, c.Options.Password, c.Name = "amber", canary, name
			})
			return s
		}
		_, err := as("dump.rdb", "+info", "+config|get").Snapshot(t.Context())
		fails(t, "no BGSAVE", err, backup.ErrPermission, "+info +bgsave +config|get")
		_, err = as("", "+info", "+bgsave").Snapshot(t.Context())
		fails(t, "no CONFIG", err, backup.ErrPermission, "SaveConfig.Name")
		_, err = as("dump.rdb", "+bgsave", "+config|get").Snapshot(t.Context())
		fails(t, "no INFO", err, backup.ErrPermission, "+info")
		_, err = by(renamed, "").Snapshot(t.Context())
		fails(t, "BGSAVE renamed", err, backup.ErrUnsupported, "rename-command")
		_, err = by(noConfig, "").Snapshot(t.Context())
		fails(t, "CONFIG renamed", err, backup.ErrUnsupported, "SaveConfig.Name")
		for _, s := range []*testserver.Server{srv, renamed, noConfig} {
			if n := infoOf(t, s, "rdb_saves"); n != "0" {
				t.Errorf("a server saved %s times", n)
			}
		}
		grab(t, as("dump.rdb", "+info", "+bgsave"))
		grab(t, by(noConfig, "dump.rdb"))
	})
}

// The store shows another directory, another server's, or an old file.
func TestSaveElsewhere(t *testing.T) {
	someServers(t, func(t *testing.T, version string) {
		srv, other := testserver.Start(t, version), testserver.Start(t, version)
		testserver.Generate(t, srv.Client(t), 50, 1)
		look := func(what, text string, change func(*dumpfile.SaveConfig)) {
			t.Helper()
			s, _ := saverOf(t, srv, func(c *dumpfile.SaveConfig) {
				c.VisibleTimeout = 200 * time.Millisecond
				change(c)
			})
			_, err := s.Snapshot(t.Context())
			fails(t, what, err, dumpfile.ErrElsewhere, text, srv.Dir+"/dump.rdb", "Prefix")
		}
		look("an empty store", "does not exist", func(c *dumpfile.SaveConfig) { c.Store = memory() })
		look("another name", "does not exist", func(c *dumpfile.SaveConfig) { c.Name = "other.rdb" })
		do(t, other, "SAVE")
		look("another server's", "is what it was before", func(c *dumpfile.SaveConfig) { c.Store = openDir(t, other.Dir) })
		// Somebody copies an old file there meanwhile.
		copied := memory()
		put(t, copied, "dump.rdb", rdbOf([]byte("old"), true))
		look("an old file that is put there meanwhile", "by its own words", func(c *dumpfile.SaveConfig) {
			c.Store = &onStat{Store: copied, do: func() {
				put(t, copied, "dump.rdb", read(t, testdata+"redis-8.0.2/sets.rdb"))
			}}
		})
		// A network file system shows it later.
		late := memory()
		s, _ := saverOf(t, srv, func(c *dumpfile.SaveConfig) { c.Store, c.VisibleTimeout = late, 20*time.Second })
		saves := infoOf(t, srv, "rdb_saves")
		result := inBackground(t.Context(), s)
		testserver.Eventually(t, 20*time.Second, "it has saved", func() error {
			if infoOf(t, srv, "rdb_saves") == saves || infoOf(t, srv, "rdb_bgsave_in_progress") != "0" {
				return errors.New("not yet")
			}
			return nil
		})
		time.Sleep(50 * time.Millisecond)
		put(t, late, "dump.rdb", read(t, filepath.Join(srv.Dir, "dump.rdb")))
		sn, err := result()
		if err != nil {
			t.Fatal(err)
		}
		drain(t, sn)
		// The store can't be read: the server doesn't get the work.
		saves = infoOf(t, srv, "rdb_saves")
		s, _ = saverOf(t, srv, func(c *dumpfile.SaveConfig) { c.Store = &onStat{Store: copied, err: os.ErrPermission} })
		_, err = s.Snapshot(t.Context())
		fails(t, "unreadable", err, os.ErrPermission, "before the save")
		if infoOf(t, srv, "rdb_saves") != saves {
			t.Error("the server saved for nothing")
		}
	})
}

// dbfilename is changed: just before the save is begun, which is noticed, and while it lasts, which doesn't matter.
func TestSaveRenamedMeanwhile(t *testing.T) {
	someServers(t, func(t *testing.T, version string) {
		srv := testserver.Start(t, version, "--enable-protected-configs", "local")
		slow(t, srv, 100, 0)
		rename := func(to string) func() {
			return func() { do(t, srv, "CONFIG", "SET", "dbfilename", to) }
		}
		s, _ := saverOf(t, srv, func(c *dumpfile.SaveConfig) { c.Store = &onStat{Store: c.Store, do: rename("new.rdb")} })
		_, err := s.Snapshot(t.Context())
		fails(t, "renamed before", err, dumpfile.ErrChanged, "dump.rdb", "new.rdb")

		until(t, srv, "rdb_bgsave_in_progress", "0")
		do(t, srv, "CONFIG", "SET", "rdb-key-save-delay", 10_000)
		proxy := newCutter(t, srv.Addr)
		s, _ = saverOf(t, srv, func(c *dumpfile.SaveConfig) { c.Options.Addr = proxy.addr })
		result := inBackground(t.Context(), s)
		saveChild(t, srv)
		proxy.waits(t)
		rename("newer.rdb")()
		sn, err := result()
		if err != nil {
			t.Fatal(err)
		}
		if data, src := drain(t, sn); src.File != "new.rdb" || parse(t, data).Keys != 100 {
			t.Errorf("source %+v", src)
		}
	})
}

// Others save right after us. What was opened stays what it is; what wasn't yet is the later one, and says so.
func TestSaveFollowedByAnother(t *testing.T) {
	someServers(t, func(t *testing.T, version string) {
		srv := testserver.Start(t, version)
		slow(t, srv, 100, 0)
		again := func(value string) func() {
			return func() {
				time.Sleep(1100 * time.Millisecond) // in which the server's clock goes on
				do(t, srv, "SET", "after", value)
				do(t, srv, "SAVE")
			}
		}
		s, book := saverOf(t, srv, nil)
		sn, err := s.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		again("1")()
		data, src := drain(t, sn)
		if n := parse(t, data).Keys; n != 100 || src.Time.Nanosecond() == 0 || book.has("another save") {
			t.Errorf("%d keys, source %+v", n, src)
		}

		// SAVE counts as a save from Redis 7.0 on.
		s, book = saverOf(t, srv, func(c *dumpfile.SaveConfig) { c.Store = &onOpen{Store: c.Store, do: again("2")} })
		data, src = grab(t, s)
		if n := parse(t, data).Keys; n != 101 || src.Time.Nanosecond() != 0 || !book.has("another save") {
			t.Errorf("%d keys, source %+v", n, src)
		}
		if got := loaded(t, version, data).Client(t).Get(t.Context(), "after").Val(); got != "2" {
			t.Errorf("it is of before: %q", got)
		}
	})
}

// Whenever it is cancelled: it returns soon, leaves the server to its save, and the next one works.
func TestSaveCancelled(t *testing.T) {
	someServers(t, func(t *testing.T, version string) {
		srv := testserver.Start(t, version)
		slow(t, srv, 100, 1000)
		s, _ := saverOf(t, srv, nil)
		for i := range 8 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i*i)*5*time.Millisecond)
			start := time.Now()
			sn, err := s.Snapshot(ctx)
			if took := time.Since(start); took > 3*time.Second+time.Duration(i*i)*5*time.Millisecond {
				t.Errorf("it took %v", took)
			}
			if err == nil {
				sn.Close()
			} else if !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			cancel()
		}
		grab(t, s)
		testserver.Eventually(t, 10*time.Second, "no connection is left", func() error {
			list, err := srv.Client(t).ClientList(t.Context()).Result()
			if err == nil && strings.Count(list, "cmd=info") > 0 && strings.Count(list, "\n") > 4 {
				err = fmt.Errorf("%s", list)
			}
			return err
		})
	})
}

// A save that takes too long is given up, as is waiting for another one's.
func TestSaveTimeout(t *testing.T) {
	srv := testserver.Start(t, testserver.All()[0])
	slow(t, srv, 200, 20_000)
	s, _ := saverOf(t, srv, func(c *dumpfile.SaveConfig) { c.SaveTimeout = 100 * time.Millisecond })
	_, err := s.Snapshot(t.Context())
	fails(t, "a slow save", err, backup.ErrStalled, "the save has not ended after 100ms")
	_, err = s.Snapshot(t.Context())
	fails(t, "another's", err, backup.ErrStalled, "a save that was under way before")
	if n := infoOf(t, srv, "rdb_saves"); n != "1" {
		t.Errorf("%s saves", n)
	}
}

// FORKLESS is not what any of these servers has.
func TestSaveForkless(t *testing.T) {
	eachServer(t, func(t *testing.T, version string) {
		srv := testserver.Start(t, version)
		testserver.Generate(t, srv.Client(t), 20, 1)
		s, book := saverOf(t, srv, func(c *dumpfile.SaveConfig) { c.Forkless = true })
		grab(t, s)
		if !book.has("doesn't know BGSAVE FORKLESS") || infoOf(t, srv, "rdb_saves") != "1" {
			t.Errorf("%s saves", infoOf(t, srv, "rdb_saves"))
		}
	})
}

// Without a checksum in the file it is proved by its size and time.
func TestSaveNoChecksum(t *testing.T) {
	srv := testserver.Start(t, testserver.All()[0], "--rdbchecksum", "no")
	slow(t, srv, 100, 0)
	s, _ := saverOf(t, srv, nil)
	if data, _ := grab(t, s); parse(t, data).Keys != 100 {
		t.Error("not all keys")
	}
}

func TestSaveRefusesServers(t *testing.T) {
	version := testserver.All()[0]
	node := testserver.Start(t, version, "--cluster-enabled", "yes")
	s, _ := saverOf(t, node, nil)
	_, err := s.Snapshot(t.Context())
	fails(t, "a node of a cluster", err, backup.ErrUnsupported, "its own slots")
	s, _ = saverOf(t, testserver.Start(t, version), func(c *dumpfile.SaveConfig) { c.Location = "s3://bucket/p" })
	_, err = s.Snapshot(t.Context())
	fails(t, "a location", err, backup.ErrUnsupported, "SaveConfig.Location")
	addr, err := testserver.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	s, _ = saverOf(t, node, func(c *dumpfile.SaveConfig) { c.Options.Addr = addr })
	_, err = s.Snapshot(t.Context())
	fails(t, "nothing there", err, syscall.ECONNREFUSED)
}
