package dumpfile_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/dumpfile"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
	restorefile "github.com/amberkv/amber/restore/dumpfile"
)

func newAOF(t testing.TB, cfg dumpfile.AOFConfig) *dumpfile.AOFSnapshotter {
	t.Helper()
	s, err := dumpfile.NewAOF(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// appendOnly are settings of a server that writes append-only files.
func appendOnly(more ...string) []string {
	return append([]string{"--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0"}, more...)
}

// restored writes a backup as the append-only files of a new server, lets the server's own program check them, starts it and returns a client.
func (h *house) restored(t *testing.T, version string, b *catalog.Backup) *redis.Client {
	t.Helper()
	dir := t.TempDir()
	loader, err := restorefile.NewAOF(restorefile.AOFConfig{Store: openDir(t, dir), Dir: "appendonlydir"})
	if err != nil {
		t.Fatal(err)
	}
	rep, err := h.restorer.Restore(t.Context(), b.ID, loader, nil)
	if err != nil {
		t.Fatalf("restore of %+v: %v", b.Parts, err)
	}
	if rep.Keys != b.Keys || rep.Bytes != b.RawBytes || rep.Target != "appendonlydir/appendonly.aof.manifest" {
		t.Errorf("%+v", rep)
	}
	checkAOF(t, version, filepath.Join(dir, "appendonlydir", "appendonly.aof.manifest"))
	// What is cut off anywhere would end it.
	return testserver.StartIn(t, version, dir, appendOnly("--aof-load-truncated", "no")...).Client(t)
}

// checkAOF lets redis-check-aof look at a manifest and the files that it names.
func checkAOF(t *testing.T, version, manifest string) {
	t.Helper()
	if version == "valkey-9.1" {
		if rdbs, _ := filepath.Glob(filepath.Join(filepath.Dir(manifest), "*.base.rdb")); len(rdbs) > 0 {
			return // it takes its own bases, which begin with VALKEY080, for no RDB files
		}
	}
	// The program is the one of check-rdb, which looks at its own name.
	wrapper := testserver.Program(t, version, "check-rdb")
	script, err := os.ReadFile(wrapper)
	if err != nil {
		t.Fatal(err)
	}
	product, _, _ := strings.Cut(version, "-")
	text := strings.Replace(string(script), `--argv0 "`+product+`-check-rdb"`, `--argv0 "`+product+`-check-aof"`, 1)
	out, err := exec.Command("/bin/sh", "-c", text, "sh", manifest).CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("All AOF files and manifest are valid")) {
		t.Errorf("check-aof of %s: %v\n%s", version, err, out)
	}
}

// A writer counts in transactions that keep two keys in step, and remembers what the server has confirmed.
type writer struct {
	confirmed atomic.Int64
	stop      context.CancelFunc
	group     sync.WaitGroup
	err       error
}

func startWriter(t *testing.T, c *redis.Client, pad string) *writer {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &writer{stop: cancel}
	w.group.Go(func() {
		for n := int64(1); ctx.Err() == nil; n++ {
			_, err := c.TxPipelined(context.WithoutCancel(ctx), func(p redis.Pipeliner) error {
				p.Incr(ctx, "seq")
				p.RPush(ctx, "log", n)
				p.Set(ctx, fmt.Sprintf("pad:%d", n%50), pad, 0)
				return nil
			})
			if err != nil {
				w.err = err
				return
			}
			w.confirmed.Store(n)
		}
	})
	t.Cleanup(w.end)
	return w
}

func (w *writer) end() {
	w.stop()
	w.group.Wait()
}

// inStep fails the test unless what a server holds is what the writer had written at one moment, and at least so much.
func inStep(t *testing.T, c *redis.Client, least int64) {
	t.Helper()
	log, err := c.LRange(t.Context(), "log", 0, -1).Result()
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range log {
		if v != strconv.Itoa(i+1) {
			t.Fatalf("entry %d of the log is %s", i, v)
		}
	}
	seq, err := c.Get(t.Context(), "seq").Int64()
	if err != nil && !errors.Is(err, redis.Nil) {
		t.Fatal(err)
	}
	if seq != int64(len(log)) || seq < least {
		t.Errorf("the counter is %d, the log has %d entries, and %d were confirmed before the snapshot", seq, len(log), least)
	}
}

// rewrites lets a server rewrite its files again and again.
func rewrites(t *testing.T, c *redis.Client) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() {
		for ctx.Err() == nil {
			c.BgRewriteAOF(context.WithoutCancel(ctx)) // while one is at work it is refused
			select {
			case <-time.After(5 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	})
	stop = func() { cancel(); group.Wait() }
	t.Cleanup(stop)
	return stop
}

const library = "#!lua name=lib\nredis.register_function('f', function(keys, args) return args[1] end)"

// Under write load and while the server rewrites its files all the time, every backup is one moment of it, with all that was confirmed before; a server starts from it
// and has that.
func TestAOFUnderLoad(t *testing.T) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			s := testserver.Start(t, version, appendOnly("--aof-timestamp-enabled", "yes")...)
			c := s.Client(t)
			if err := c.FunctionLoad(t.Context(), library).Err(); err != nil {
				t.Fatal(err)
			}
			w := startWriter(t, s.Client(t), strings.Repeat("x", 3000))
			stop := rewrites(t, s.Client(t))
			h := newHouse(t, memory())
			from := newAOF(t, dumpfile.AOFConfig{Store: openDir(t, s.Dir), Dir: "appendonlydir"})
			var last *catalog.Backup
			for range 3 {
				testserver.Eventually(t, 30*time.Second, "something is written", func() error {
					if last != nil && w.confirmed.Load() < 20 {
						return errors.New("not yet")
					}
					return nil
				})
				least := w.confirmed.Load()
				begin := time.Now().Add(-2 * time.Second)
				b, err := h.keep(t, from)
				if errors.Is(err, dumpfile.ErrChanged) && errors.Is(err, backup.ErrTransient) {
					continue // it was overtaken five times; there are more rewrites here than anywhere else
				}
				if err != nil {
					t.Fatal(err)
				}
				if src := b.Source; src.Method != "aof" || src.Engine != strings.Split(version, "-")[0] || src.Version == "" || src.Time.Before(begin) || src.Time.After(time.Now()) || src.File != "appendonlydir/appendonly.aof.manifest" {
					t.Errorf("%+v", src)
				}
				if !b.Verification.Structure || b.Verification.Checksum != "absent" && len(b.Parts) > 1 {
					t.Errorf("%+v", b.Verification)
				}
				inStep(t, h.restored(t, version, b), least)
				last = b
			}
			if last == nil {
				t.Fatal("no backup was made")
			}
			stop()
			w.end()
			if w.err != nil {
				t.Fatal(w.err)
			}
			b, err := h.keep(t, from)
			if err != nil {
				t.Fatal(err)
			}
			r := h.restored(t, version, b)
			inStep(t, r, w.confirmed.Load())
			if diff := testserver.Diff(testserver.Snapshot(t, c), testserver.Snapshot(t, r)); diff != "" {
				t.Error(diff)
			}
			if got := testserver.Functions(t, r); len(got) != 1 || got["lib"] != library {
				t.Errorf("functions: %q", got)
			}
		})
	}
}

// Every kind of value comes through: what is in the base, and what was written after it, also where the base is one of commands, and with arguments that aren't held.
func TestAOFKinds(t *testing.T) {
	for _, version := range testserver.All() {
		for _, preamble := range []string{"yes", "no"} {
			t.Run(version+"/"+preamble, func(t *testing.T) {
				t.Parallel()
				s := testserver.Start(t, version, appendOnly("--aof-use-rdb-preamble", preamble, "--appendfilename", "my file.aof", "--appenddirname", "aof", "--appendfsync", "no")...)
				c := s.Client(t)
				h := newHouse(t, memory())
				from := newAOF(t, dumpfile.AOFConfig{Store: openDir(t, s.Dir), Dir: "aof/", Name: "my file.aof"})
				// A server in which nothing is.
				b, err := h.keep(t, from)
				if err != nil {
					t.Fatal(err)
				}
				if n := h.restored(t, version, b).DBSize(t.Context()).Val(); n != 0 || b.Keys != 0 {
					t.Errorf("%d keys, %d in the manifest", n, b.Keys)
				}
				testserver.Generate(t, c, 300, 1)
				if version == "redis-8.0" && preamble == "no" {
					// The child that writes vector sets as commands crashes.
					for db := range 16 {
						one := s.Options()
						one.DB = db
						in := redis.NewClient(one)
						keys, err := in.Keys(t.Context(), "vector*").Result()
						if err == nil && len(keys) > 0 {
							err = in.Del(t.Context(), keys...).Err()
						}
						in.Close()
						if err != nil {
							t.Fatal(err)
						}
					}
				}
				if err := c.BgRewriteAOF(t.Context()).Err(); err != nil {
					t.Fatal(err)
				}
				testserver.Eventually(t, 30*time.Second, "the rewrite is done", func() error {
					info := c.Info(t.Context(), "persistence").Val()
					if !strings.Contains(info, "aof_rewrite_in_progress:0") || !strings.Contains(info, "aof_rewrite_scheduled:0") {
						return errors.New("it isn't")
					}
					return nil
				})
				many := make([]any, 5000)
				for i := range many {
					many[i] = i
				}
				pipe := c.Pipeline()
				pipe.Do(t.Context(), "SELECT", 7)
				pipe.Set(t.Context(), "large", strings.Repeat("0123456789abcdef", 300_000), 0)
				pipe.RPush(t.Context(), "many", many...)
				pipe.HSet(t.Context(), "h", "a", 1, "b", strings.Repeat("\r\n*1\r\n", 100))
				pipe.XAdd(t.Context(), &redis.XAddArgs{Stream: "x", ID: "5-5", Values: []any{"a", "b"}})
				pipe.Set(t.Context(), "expires", "", time.Hour)
				pipe.Do(t.Context(), "SELECT", 0)
				pipe.Del(t.Context(), c.RandomKey(t.Context()).Val())
				if _, err := pipe.Exec(t.Context()); err != nil {
					t.Fatal(err)
				}
				if b, err = h.keep(t, from); err != nil {
					t.Fatal(err)
				}
				if n := len(b.Parts); n != 2 || b.Commands == 0 || (b.Parts[0].Dialect == catalog.DialectAOF) != (preamble == "no") || b.Parts[1].Dialect != catalog.DialectAOF {
					t.Errorf("%+v", b.Parts)
				}
				want, got := testserver.Snapshot(t, c), testserver.Snapshot(t, h.restored(t, version, b))
				if preamble == "no" {
					// A server that executes commands sets anew when consumers of streams were active, and forgets pending entries that were deleted: so it does
					// with its own files.
					for key := range maps.Clone(want) {
						if strings.Contains(want[key]+got[key], "consumer name=") {
							delete(want, key)
							delete(got, key)
						}
					}
				}
				if diff := testserver.Diff(want, got); diff != "" || len(want) < 200 {
					t.Error(diff, len(want))
				}
			})
		}
	}
}
