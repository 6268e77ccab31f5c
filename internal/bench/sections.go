package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/amberkv/amber/internal/testserver"
	"github.com/redis/go-redis/v9"
)

// A source is a server that holds a data set, and the RDB file that it saved.
type source struct {
	server  *testserver.Server
	version string // of the server
	rdb     string
	size    int64 // of the file, in bytes
}

// launch starts a server in a new directory.
func (b *bench) launch(args ...string) (*testserver.Server, error) {
	dir, err := os.MkdirTemp(b.dir, "server-")
	if err != nil {
		return nil, err
	}
	return testserver.Launch(b.server, dir, args...)
}

// load starts a server, fills it with the data set and lets it save that.
func (b *bench) load(ctx context.Context) (*source, error) {
	return b.prepare(ctx, fmt.Sprintf("%d keys", b.keys), nil, func(s *testserver.Server) error { return fill(ctx, s.Addr, b.keys) })
}

func (b *bench) prepare(ctx context.Context, what string, args []string, fill func(*testserver.Server) error) (_ *source, err error) {
	s, err := b.launch(args...)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	start := time.Now()
	if err := fill(s); err != nil {
		return nil, fmt.Errorf("filling the server with %s: %w", what, err)
	}
	filled := time.Since(start)
	opts := s.Options()
	opts.ReadTimeout = 10 * time.Minute
	c := redis.NewClient(opts)
	defer c.Close()
	if err := c.Save(ctx).Err(); err != nil {
		return nil, err
	}
	info, err := c.InfoMap(ctx, "server").Result()
	if err != nil {
		return nil, err
	}
	version := info["Server"]["redis_version"]
	if v := info["Server"]["valkey_version"]; v != "" {
		version = v
	}
	out := &source{server: s, version: version, rdb: filepath.Join(s.Dir, "dump.rdb")}
	file, err := os.Stat(out.rdb)
	if err != nil {
		return nil, err
	}
	out.size = file.Size()
	b.say("%s loaded in %.1f s and saved: %.1f MB", what, filled.Seconds(), float64(out.size)/1e6)
	return out, nil
}

// tool returns the path of one of the server's programs.
func (b *bench) tool(name string) (path, shown string, err error) {
	path, err = testserver.ProgramPath(b.server, name)
	return path, filepath.Base(path), err
}

// warm reads a file, so that the first program doesn't wait for the disk.
func warm(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(io.Discard, f)
	return err
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// takeBackup backs a server up into a new directory.
func (b *bench) takeBackup(ctx context.Context, s *testserver.Server) (store, id string, took cost, err error) {
	dir, err := os.MkdirTemp(b.dir, "store-")
	if err != nil {
		return "", "", cost{}, err
	}
	store = "file://" + dir
	took, out, err := measure(ctx, b.amberctl, "--store", store, "--json", "backup", "--from", s.URL(), "--id", "bench")
	if err != nil {
		return "", "", cost{}, err
	}
	var made struct{ ID string }
	if err := json.Unmarshal(out, &made); err != nil || made.ID == "" {
		return "", "", cost{}, fmt.Errorf("amberctl backup --json wrote no id: %w\n%s", err, tail(out))
	}
	return store, made.ID, took, nil
}

// backup compares fetching a snapshot of the same server.
func (b *bench) backup(ctx context.Context, s *source) error {
	cli, shown, err := b.tool("cli")
	if err != nil {
		return err
	}
	c := comparison{name: "backup into a directory: zstd, verified, read back", amber: "amberctl backup", peer: shown + " --rdb FILE", wanted: "≤ 1.10"}
	file := filepath.Join(b.dir, "cli.rdb")
	var stored int64
	for i := range b.runs {
		store, _, a, err := b.takeBackup(ctx, s.server)
		if err != nil {
			return err
		}
		if stored, err = sizeBelow(strings.TrimPrefix(store, "file://")); err != nil {
			return err
		}
		if err := os.RemoveAll(strings.TrimPrefix(store, "file://")); err != nil {
			return err
		}
		p, _, err := measure(ctx, cli, "-h", s.server.Host, "-p", strconv.Itoa(s.server.Port), "--rdb", file)
		if err != nil {
			return err
		}
		if err := os.Remove(file); err != nil {
			return err
		}
		c.pairs = append(c.pairs, [2]time.Duration{a.Wall, p.Wall})
		b.say("backup %d: %.2f s, %s %.2f s", i+1, a.Wall.Seconds(), shown, p.Wall.Seconds())
	}
	b.table(c)
	fmt.Fprintf(b.out, "A backup keeps %.1f MB of the %.1f MB.\n\n", float64(stored)/1e6, float64(s.size)/1e6)
	return nil
}

func sizeBelow(dir string) (int64, error) {
	var n int64
	err := filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
	return n, err
}

var loadedLine = regexp.MustCompile(`DB loaded from disk: ([0-9.]+) seconds`)

// restore compares loading the same snapshot into an empty server.
func (b *bench) restore(ctx context.Context, s *source) error {
	store, id, _, err := b.takeBackup(ctx, s.server)
	if err != nil {
		return err
	}
	peer := "DB loaded from disk"
	load := comparison{name: "restore by feed, from the first command to the target until it serves", amber: "amberctl restore", peer: peer, wanted: "≤ 1.20"}
	whole := comparison{name: "the same with the proof of the whole backup before it", amber: "amberctl restore", peer: peer, wanted: "–"}
	for i := range b.runs {
		took, loading, err := b.restoreOnce(ctx, store, id)
		if err != nil {
			return err
		}
		p, err := b.ownLoad(s.rdb)
		if err != nil {
			return err
		}
		load.pairs = append(load.pairs, [2]time.Duration{loading, p})
		whole.pairs = append(whole.pairs, [2]time.Duration{took.Wall, p})
		b.say("restore %d: %.2f s of which loading %.2f s, the server itself %.2f s", i+1, took.Wall.Seconds(), loading.Seconds(), p.Seconds())
	}
	b.table(load, whole)
	return os.RemoveAll(strings.TrimPrefix(store, "file://"))
}

// restoreOnce restores into a new server and returns what it took, and the part of the time that it spent loading.
func (b *bench) restoreOnce(ctx context.Context, store, id string, args ...string) (cost, time.Duration, error) {
	target, err := b.launch(args...)
	if err != nil {
		return cost{}, 0, err
	}
	defer os.RemoveAll(target.Dir)
	defer target.Close()
	took, out, err := measure(ctx, b.amberctl, "--store", store, "--json", "restore", id, "--to", target.URL())
	if err != nil {
		return cost{}, 0, err
	}
	var report struct{ Load time.Duration }
	if err := json.Unmarshal(out, &report); err != nil || report.Load == 0 {
		return cost{}, 0, fmt.Errorf("amberctl restore --json wrote no loading time: %w\n%s", err, tail(out))
	}
	return took, report.Load, nil
}

// ownLoad starts a server with an RDB file and returns how long it says that loading took.
func (b *bench) ownLoad(rdb string) (_ time.Duration, err error) {
	dir, err := os.MkdirTemp(b.dir, "load-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Link(rdb, filepath.Join(dir, "dump.rdb")); err != nil {
		return 0, err
	}
	s, err := testserver.Launch(b.server, dir)
	if err != nil {
		return 0, err
	}
	defer s.Close()
	m := loadedLine.FindStringSubmatch(s.Log())
	if m == nil {
		return 0, fmt.Errorf("the log says nothing of loading:\n%s", tail([]byte(s.Log())))
	}
	seconds, err := strconv.ParseFloat(m[1], 64)
	return time.Duration(seconds * float64(time.Second)), err
}

// memory measures the peak memory of each command with little, with much, and with one large value.
func (b *bench) memory(ctx context.Context, full *source) error {
	type row struct {
		what  string
		peaks [2]int64
		files []int64
	}
	var rows []row
	one := func(what string, s *source, args ...string) error {
		store, id, backup, err := b.takeBackup(ctx, s.server)
		if err != nil {
			return err
		}
		restore, _, err := b.restoreOnce(ctx, store, id, args...)
		if err != nil {
			return err
		}
		files, err := b.fileMemory(ctx, s.rdb)
		if err != nil {
			return err
		}
		b.say("memory with %s: measured", what)
		rows = append(rows, row{what, [2]int64{backup.PeakRSS, restore.PeakRSS}, files})
		return os.RemoveAll(strings.TrimPrefix(store, "file://"))
	}
	small, err := b.prepare(ctx, "10 keys", nil, func(s *testserver.Server) error { return fill(ctx, s.Addr, 10) })
	if err != nil {
		return err
	}
	defer small.server.Close()
	if err := one("10 keys", small); err != nil {
		return err
	}
	if err := one(fmt.Sprintf("%d keys", b.keys), full); err != nil {
		return err
	}
	// A value this large needs a higher limit, and random bytes are not worth the server's attempt at compressing them.
	args := []string{"--proto-max-bulk-len", strconv.FormatInt(2*b.big+1<<20, 10), "--rdbcompression", "no"}
	what := fmt.Sprintf("one value of %.4g MiB", float64(b.big)/(1<<20))
	big, err := b.prepare(ctx, what, args, func(s *testserver.Server) error { return fillBig(ctx, s.Addr, b.big) })
	if err != nil {
		return err
	}
	defer big.server.Close()
	if err := one(what, big, args...); err != nil {
		return err
	}
	fmt.Fprintln(b.out, "| peak memory, MiB | backup | restore | wanted |")
	fmt.Fprintln(b.out, "|---|---|---|---|")
	for _, r := range rows {
		fmt.Fprintf(b.out, "| %s | %.1f | %.1f | ≤ 100 |\n", r.what, mib(r.peaks[0]), mib(r.peaks[1]))
	}
	fmt.Fprintln(b.out)
	fmt.Fprint(b.out, "| peak memory of rdb, MiB |")
	for _, c := range fileCommands {
		fmt.Fprintf(b.out, " %s |", strings.Join(c, " "))
	}
	fmt.Fprintln(b.out, " wanted |\n|---|"+strings.Repeat("---|", len(fileCommands)+1))
	for _, r := range rows {
		fmt.Fprintf(b.out, "| %s |", r.what)
		for _, n := range r.files {
			fmt.Fprintf(b.out, " %.1f |", mib(n))
		}
		fmt.Fprintln(b.out, " ≤ 16 |")
	}
	fmt.Fprintln(b.out)
	return nil
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }
