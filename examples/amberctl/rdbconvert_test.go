package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/internal/testserver"
)

// TestConvert converts what a real server saved, and lets others load the result.
func TestConvert(t *testing.T) {
	t.Parallel()
	c := newCtl(t)
	s := testserver.Start(t, "redis-7.0")
	testserver.Generate(t, s.Client(t), 300, 5)
	if err := s.Client(t).Save(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	keys := testserver.Snapshot(t, s.Client(t))
	dump, dir := filepath.Join(s.Dir, "dump.rdb"), t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }

	// Through a set of files, and from it into the server of another family.
	to := parse[converted](t, c, exitDone, "rdb", "convert", "--to", "dfs", "--shards", "3", dump, path("set"))
	if to.Keys != int64(len(keys)) || to.From != "redis:10" || to.To != "dragonfly:9" || len(to.Losses) > 0 {
		t.Errorf("to a set: %+v", to)
	}
	back := parse[converted](t, c, exitDone, "rdb", "convert", "--to", "redis:11", path("set-summary.dfs"), path("back.rdb"))
	if back.Keys != int64(len(keys)) || back.From != "dragonfly:9" {
		t.Errorf("from a set: %+v", back)
	}
	home := t.TempDir()
	data, err := os.ReadFile(path("back.rdb"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, "dump.rdb"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	valkey, err := testserver.Launch("valkey-8.1", home)
	if err != nil {
		t.Fatal(err)
	}
	defer valkey.Close()
	if diff := testserver.Diff(keys, testserver.Snapshot(t, valkey.Client(t))); diff != "" {
		t.Error(diff)
	}

	for _, args := range [][]string{{"--deep"}, nil} {
		files := parse[[]rdbFile](t, c, exitDone, append([]string{"rdb", "verify", path("set-summary.dfs"), path("back.rdb")}, args...)...)
		if len(files) != 2 || !files[0].OK || files[0].Keys != int64(len(keys)) || files[0].Dialect != "dragonfly:9" || files[0].Checksum != "crc64" || files[1].Keys != int64(len(keys)) {
			t.Errorf("rdb verify %v: %+v", args, files)
		}
	}
	if stat := parse[rdbStat](t, c, exitDone, "rdb", "stat", path("set-summary.dfs")); stat.Keys != int64(len(keys)) || stat.Aux["shard-count"] != "3" {
		t.Errorf("rdb stat of a set: %+v", stat)
	}

	// Some keys, under other names, in a pipe.
	var out, stderr bytes.Buffer
	args := []string{"rdb", "convert", "--to", "redis:12", "--type", "string,hash", "--db", "0", "--map-db", "0:7", "--add-prefix", "new:", "-", "-"}
	source, err := os.ReadFile(dump)
	if err != nil {
		t.Fatal(err)
	}
	if status := run(t.Context(), args, bytes.NewReader(source), &out, &stderr, noEnv); status != exitDone || !strings.Contains(stderr.String(), "Left out") {
		t.Fatalf("%d, %s", status, stderr.String())
	}
	if err := os.WriteFile(path("some.rdb"), out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	stat := parse[rdbStat](t, c, exitDone, "rdb", "stat", path("some.rdb"))
	if len(stat.DBs) != 1 || stat.DBs[0].Index != 7 || stat.Keys == 0 || stat.Keys >= int64(len(keys)) || len(stat.DBs[0].Types) != 2 {
		t.Errorf("some keys: %+v", stat)
	}

	// Nothing is replaced, and nothing left behind.
	if _, stderr := c.run(t, exitFailed, "rdb", "convert", "--to", "redis:12", dump, path("back.rdb")); !strings.Contains(stderr, "--force") {
		t.Errorf("over a file: %s", stderr)
	}
	c.run(t, exitDone, "rdb", "convert", "--to", "redis:12", "--force", dump, path("back.rdb"))
	if _, stderr := c.run(t, exitFailed, "rdb", "convert", "--to", "dfs", dump, path("set-summary.dfs")); !strings.Contains(stderr, "exist") {
		t.Errorf("over a set: %s", stderr)
	}
	if err := os.WriteFile(path("cut.rdb"), source[:len(source)/2], 0o644); err != nil {
		t.Fatal(err)
	}
	before := names(t, dir)
	for _, to := range []string{"redis:12", "dfs"} {
		if _, stderr := c.run(t, exitFailed, "rdb", "convert", "--to", to, path("cut.rdb"), path("never")); !strings.Contains(stderr, "cut.rdb") || !strings.Contains(stderr, "byte") {
			t.Errorf("a file that was cut: %s", stderr)
		}
	}
	if err := os.Remove(path("set-0001.dfs")); err != nil {
		t.Fatal(err)
	}
	if _, stderr := c.run(t, exitFailed, "rdb", "convert", "--to", "redis:12", path("set-summary.dfs"), path("never")); !strings.Contains(stderr, "set-0001.dfs") {
		t.Errorf("a set of which a file is missing: %s", stderr)
	}
	before = slices.DeleteFunc(before, func(name string) bool { return name == "set-0001.dfs" })
	if after := names(t, dir); !slices.Equal(after, before) {
		t.Errorf("left behind: %v, were %v", after, before)
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// TestConvertLoss loses the expiry of hash fields, or not.
func TestConvertLoss(t *testing.T) {
	t.Parallel()
	c := newCtl(t)
	s := testserver.Start(t, "redis-8.0")
	db := s.Client(t)
	for _, cmd := range [][]any{{"hset", "h", "f", "1", "g", "2"}, {"hpexpireat", "h", 4102444800000, "fields", 1, "f"}, {"set", "s", "v"}, {"save"}} {
		if err := db.Do(t.Context(), cmd...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	dump, dir := filepath.Join(s.Dir, "dump.rdb"), t.TempDir()
	if _, stderr := c.run(t, exitFailed, "rdb", "convert", "--to", "redis:10", dump, filepath.Join(dir, "a")); !strings.Contains(stderr, `key "h"`) || !strings.Contains(stderr, "--on-loss") {
		t.Errorf("%s", stderr)
	}
	for policy, want := range map[string]int64{"drop": 2, "skip": 1} {
		got := parse[converted](t, c, exitDone, "rdb", "convert", "--to", "redis:10", "--on-loss", policy, dump, filepath.Join(dir, policy))
		if got.Keys != want || len(got.Losses) != 1 || got.Losses[0].Loss != "field-expiry" || got.Losses[0].Count != 1 || got.Losses[0].Skipped != 2-want || got.Losses[0].Keys[0] != "0/h" {
			t.Errorf("%s: %+v", policy, got)
		}
	}
	if out, _ := c.run(t, exitDone, "rdb", "convert", "--to", "redis:10", "--on-loss", "drop", dump, filepath.Join(dir, "b")); !strings.Contains(out, "field-expiry") || !strings.Contains(out, "0/h") {
		t.Errorf("%s", out)
	}
}

// TestConvertInterrupted stops while standard input has nothing more to give.
func TestConvertInterrupted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, to := range []string{"redis:12", "dfs"} {
		ctx, cancel := context.WithCancel(t.Context())
		in, feed := io.Pipe()
		defer feed.Close()
		go func() {
			feed.Write([]byte("REDIS0011\xfa\x09redis-ver"))
			cancel()
		}()
		start := time.Now()
		var out, stderr bytes.Buffer
		if status := run(ctx, []string{"rdb", "convert", "--to", to, "-", filepath.Join(dir, "never")}, in, &out, &stderr, noEnv); status != exitFailed || !strings.Contains(stderr.String(), "interrupted") || out.Len() > 0 {
			t.Errorf("%d, %s", status, stderr.String())
		}
		if took := time.Since(start); took > time.Minute {
			t.Errorf("it took %v", took)
		}
	}
	if left := names(t, dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestVerifyDeep finds what only a look at the values finds.
func TestVerifyDeep(t *testing.T) {
	t.Parallel()
	c := newCtl(t)
	file := filepath.Join(t.TempDir(), "twice.rdb")
	twice := "REDIS0011\x02\x03set\x02\x01a\x01a\xff\x00\x00\x00\x00\x00\x00\x00\x00"
	if err := os.WriteFile(file, []byte(twice), 0o644); err != nil {
		t.Fatal(err)
	}
	c.run(t, exitDone, "rdb", "verify", file)
	if _, stderr := c.run(t, exitFailed, "rdb", "verify", "--deep", file); !strings.Contains(stderr, `key "set"`) || !strings.Contains(stderr, "twice.rdb") {
		t.Errorf("%s", stderr)
	}
}
