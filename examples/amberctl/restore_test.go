package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/restore"
)

// set puts strings into a server.
func set(t *testing.T, s *testserver.Server, pairs ...string) {
	t.Helper()
	c := s.Client(t)
	for i := 0; i < len(pairs); i += 2 {
		if err := c.Set(t.Context(), pairs[i], pairs[i+1], 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

func has(t *testing.T, s *testserver.Server, key, want string) {
	t.Helper()
	if got := s.Client(t).Get(t.Context(), key).Val(); got != want {
		t.Errorf("key %s is %q instead of %q", key, got, want)
	}
}

// A dry run shows what was looked at, with what would be lost, and touches nothing; its exit status says whether the restore would be done.
func TestRestoreDryRun(t *testing.T) {
	t.Parallel()
	c := newCtl(t)
	from, to := testserver.Start(t, "valkey-9.1"), testserver.Start(t, "redis-7.0")
	set(t, from, "a", "1")
	if err := from.Client(t).Do(t.Context(), "HSETEX", "session", "EX", "100000", "FIELDS", "1", "token", "x").Err(); err != nil {
		t.Fatal(err)
	}
	id := c.backUp(t, from)
	out, stderr := c.run(t, exitFailed, "restore", id, "--to", to.URL(), "--dry-run")
	for _, want := range []string{"POINT", "reachable", "field-expiry", "warn", "0/session", "2 keys of 2 would be written"} {
		if !strings.Contains(out, want) {
			t.Errorf("the table doesn't tell %q:\n%s", want, out)
		}
	}
	if !strings.Contains(stderr, "would stop") || !strings.Contains(stderr, "field-expiry") {
		t.Errorf("the error is %q", stderr)
	}
	out, _ = c.run(t, exitDone, "restore", id, "--to", to.URL(), "--dry-run", "--accept", "field-expiry", "--json")
	plan := decode[restore.Plan](t, out)
	if string(plan.Backup.ID) != id || plan.Report.Keys != 2 || len(plan.Verdict.Points) < 5 || len(plan.Report.Losses) != 1 {
		t.Errorf("the plan is %+v", plan)
	}
	if n := to.Client(t).DBSize(t.Context()).Val(); n != 0 {
		t.Errorf("a dry run left %d keys", n)
	}
	_, stderr = c.run(t, exitFailed, "restore", id, "--to", to.URL())
	if !strings.Contains(stderr, "--accept") {
		t.Errorf("the error doesn't tell how to go on: %q", stderr)
	}
	out, _ = c.run(t, exitDone, "restore", id, "--to", to.URL(), "--accept", "field-expiry")
	if !strings.Contains(out, "lost: field-expiry of 1") || !strings.Contains(out, "encoded anew") || !strings.Contains(out, "compared") {
		t.Errorf("the report doesn't tell what was lost: %s", out)
	}
	has(t, to, "a", "1")
}

// Some keys only, under other names, in another database; and what was there is kept or goes as the command line says.
func TestRestoreSome(t *testing.T) {
	t.Parallel()
	c := newCtl(t)
	from := testserver.Start(t, "redis-8.0")
	set(t, from, "user:1", "one", "user:2", "two", "cart:1", "three")
	id := c.backUp(t, from)

	to := testserver.Start(t, "redis-8.0")
	rep := parse[restore.Report](t, c, exitDone, "restore", id, "--to", to.URL(), "--rename-prefix", "user:=u/", "--map-db", "0:5")
	if rep.Keys != 2 || rep.Filtered != 1 {
		t.Errorf("the report is %+v", rep)
	}
	client := to.Client(t).Conn()
	defer client.Close()
	if err := client.Select(t.Context(), 5).Err(); err != nil {
		t.Fatal(err)
	}
	if got := client.MGet(t.Context(), "u/1", "u/2").Val(); len(got) != 2 || got[0] != "one" || got[1] != "two" {
		t.Errorf("database 5 has %v", got)
	}

	merged := testserver.Start(t, "redis-8.0")
	set(t, merged, "user:1", "mine", "other", "stays")
	_, stderr := c.run(t, exitFailed, "restore", id, "--to", merged.URL(), "--merge", "fail")
	has(t, merged, "user:1", "mine")
	if n := merged.Client(t).DBSize(t.Context()).Val(); n != 2 || !strings.Contains(stderr, "user:1") {
		t.Errorf("after a merge that fails there are %d keys, the error is %q", n, stderr)
	}
	if rep := parse[restore.Report](t, c, exitDone, "restore", id, "--to", merged.URL(), "--merge", "skip"); rep.Skipped != 1 || rep.Keys != 2 || rep.Method != "command" {
		t.Errorf("merging by skip: %+v", rep)
	}
	has(t, merged, "user:1", "mine")
	has(t, merged, "user:2", "two")
	has(t, merged, "other", "stays")
	c.run(t, exitDone, "restore", id, "--to", merged.URL(), "--merge", "overwrite", "--method", "command", "--compare", "all")
	has(t, merged, "user:1", "one")
	has(t, merged, "other", "stays")
	out, _ := c.run(t, exitDone, "restore", id, "--to", merged.URL(), "--replace", "--method", "command")
	if n := merged.Client(t).DBSize(t.Context()).Val(); n != 3 || !strings.Contains(out, "what was there before is backup 2") {
		t.Errorf("after replacing there are %d keys: %s", n, out)
	}
}

// The newest backup, for a data store that starts empty; and into a file, for one that starts from it.
func TestRestoreLatestAndFile(t *testing.T) {
	t.Parallel()
	c := newCtl(t)
	from := testserver.Start(t, "redis-8.0")
	set(t, from, "which", "first")
	c.backUp(t, from)
	set(t, from, "which", "second")
	id := c.backUp(t, from)
	to := testserver.Start(t, "redis-8.0")
	if rep := parse[restore.Report](t, c, exitDone, "restore", "latest", "--id", "orders", "--to", to.URL()); string(rep.Backup) != id {
		t.Errorf("latest is %s", rep.Backup)
	}
	has(t, to, "which", "second")
	if _, stderr := c.run(t, exitFailed, "restore", "latest", "--id", "nobody", "--to", to.URL()); !strings.Contains(stderr, "nobody") {
		t.Errorf("latest of a data store without backups: %q", stderr)
	}

	dir := t.TempDir()
	file := filepath.Join(dir, "dump.rdb")
	c.run(t, exitDone, "restore", id, "--file", file, "--dialect", "redis:10")
	data, err := os.ReadFile(file)
	if err != nil || !strings.HasPrefix(string(data), "REDIS0010") {
		t.Fatalf("the file begins with %.9q, %v", data, err)
	}
	old := testserver.StartIn(t, "redis-7.0", dir)
	has(t, old, "which", "second")
	if _, stderr := c.run(t, exitFailed, "restore", id, "--file", file); !strings.Contains(stderr, "dump.rdb") {
		t.Errorf("a file that is there: %q", stderr)
	}
	c.run(t, exitDone, "restore", id, "--file", file, "--replace")
	c.run(t, exitDone, "restore", id, "--file", filepath.Join(dir, "set"), "--dialect", "dfs", "--shards", "2")
	if out, _ := c.run(t, exitDone, "rdb", "json", filepath.Join(dir, "set-summary.dfs")); !strings.Contains(out, "second") {
		t.Errorf("the set holds %s", out)
	}
}
