package dumpfile_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/backup/dumpfile"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/storetest"
)

// hours is a store whose objects are an hour apart.
func hours() *memstore.Store {
	now := time.Date(2026, 8, 22, 0, 0, 0, 0, time.UTC)
	return memstore.New(&memstore.Options{Now: func() time.Time { now = now.Add(time.Hour); return now }})
}

// list lists, and returns what was found by name, each with "kind problem".
func list(t *testing.T, s storage.Store, prefix string, opts *dumpfile.ListOptions) (all []dumpfile.Dump, byName map[string]dumpfile.Dump) {
	t.Helper()
	all, err := dumpfile.List(t.Context(), s, prefix, opts)
	if err != nil {
		t.Fatal(err)
	}
	byName = map[string]dumpfile.Dump{}
	for _, d := range all {
		if d.Complete != (d.Problem == "") {
			t.Errorf("%s: complete %v, problem %q", d.Name, d.Complete, d.Problem)
		}
		byName[d.Name] = d
	}
	return all, byName
}

// atStart returns what is marked.
func atStart(all []dumpfile.Dump) (names []string) {
	for _, d := range all {
		if d.AtStart {
			names = append(names, d.Name)
		}
	}
	return names
}

func TestList(t *testing.T) {
	id, other := strings.Repeat("a", 32), strings.Repeat("b", 32)
	s := hours()
	putSet(t, s, "d/dump-2026-08-22T11:55:03")
	for key, data := range map[string][]byte{
		"d/dump.rdb":       read(t, testdata+"redis-8.0.2/sets.rdb"),
		"d/cut.rdb":        read(t, testdata+"redis-8.0.2/sets.rdb")[:200],
		"d/old.rdb":        read(t, testdata+"redis-2.8/empty.rdb"),
		"d/valkey.rdb":     read(t, testdata+"valkey-9.1.2/"+filepath.Base(glob(t, testdata+"valkey-9.1.2/*.rdb")[0])),
		"d/df.rdb":         read(t, testdata+"dragonfly-1.40/mini.rdb"),
		"d/empty.rdb":      {},
		"d/text.rdb":       []byte("REDISTRIBUTE"),
		"d/newer.rdb":      []byte("REDIS0099\xfa\x01a\x01b\xff12345678"),
		"d/shard.rdb":      shard("a", "snapshot-id", id),
		"d/cut-sum.rdb":    []byte("REDIS0011"),
		"d/temp-123.rdb":   []byte("REDIS0011"),
		"d/x.rdb.tmp":      []byte("REDIS0009"),
		"d/y-0000.dfs.tmp": []byte("REDIS0009"),
		"d/notes.txt":      []byte("notes"),
		"d/s.dfs":          []byte("not one of a set"),

		"d/appendonlydir/appendonly.aof.1.base.rdb": read(t, testdata+"redis-8.0.2/aof_base.rdb"),
		"d/appendonlydir/appendonly.aof.1.incr.aof": []byte("*1\r\n"),

		"d/missing-summary.dfs":   shard("", "snapshot-id", id, "shard-count", "2"),
		"d/missing-0001.dfs":      shard("a", "snapshot-id", id, "shard-id", "1"),
		"d/foreign-summary.dfs":   shard("", "snapshot-id", id, "shard-count", "1"),
		"d/foreign-0000.dfs":      shard("a", "snapshot-id", other, "shard-id", "0"),
		"d/stale-summary.dfs":     shard("", "snapshot-id", id, "shard-count", "1"),
		"d/stale-0000.dfs":        shard("a", "snapshot-id", id, "shard-id", "0"),
		"d/stale-0001.dfs":        shard("a", "snapshot-id", other, "shard-id", "1"),
		"d/uncounted-0000.dfs":    shard("a", "df-ver", "df-v1.30.0"),
		"d/uncounted-summary.dfs": shard("", "redis-ver", "6.2.11", "df-ver", "df-v1.30.0"),
		"d/orphan-0000.dfs":       shard("a", "snapshot-id", id),
		"d/broken-summary.dfs":    []byte("REDIS0009\xfa"),
		"d/broken-0000.dfs":       shard("a"),

		// Amber's own are none.
		"orders/20261123T221700.123Z-k7f3/part-0000.rdb":   rdbOf([]byte("v"), true),
		"d/orders/20261123T221700.123Z-k7f3/part-0000.rdb": rdbOf([]byte("v"), true),
		"elsewhere/dump.rdb":                               rdbOf([]byte("v"), true),
	} {
		put(t, s, key, data)
	}
	all, byName := list(t, s, "d/", nil)
	for name, want := range map[string]string{
		"d/dump.rdb": "rdb ", "d/old.rdb": "rdb ", "d/valkey.rdb": "rdb ", "d/df.rdb": "rdb ",
		"d/cut.rdb": "rdb doesn't end", "d/empty.rdb": "rdb no RDB file", "d/text.rdb": "rdb no RDB file", "d/newer.rdb": "rdb no RDB file", "d/cut-sum.rdb": "rdb ends here",
		"d/shard.rdb": "rdb one of a DFS set", "d/temp-123.rdb": "unfinished being written", "d/x.rdb.tmp": "unfinished being written", "d/y-0000.dfs.tmp": "unfinished being written",
		"d/appendonlydir/appendonly.aof.1.base.rdb": "aof-base ", "d/dump-2026-08-22T11:55:03-summary.dfs": "dfs ", "d/missing-summary.dfs": "dfs missing are d/missing-0000.dfs",
		"d/foreign-summary.dfs": "dfs d/foreign-0000.dfs is of snapshot " + other, "d/stale-summary.dfs": "dfs ", "d/uncounted-summary.dfs": "dfs ",
		"d/orphan-summary.dfs": "dfs its summary is missing", "d/broken-summary.dfs": "dfs corrupt",
	} {
		kind, problem, _ := strings.Cut(want, " ")
		d, ok := byName[name]
		if !ok || string(d.Kind) != kind || (problem == "") != d.Complete || !strings.Contains(d.Problem, problem) {
			t.Errorf("%s: %+v, want %s", name, d, want)
		}
		delete(byName, name)
	}
	for name, d := range byName {
		t.Errorf("%s is listed: %+v", name, d)
	}
	_, byName = list(t, s, "d/", nil)
	if d := byName["d/dump-2026-08-22T11:55:03-summary.dfs"]; len(d.Files) != 3 || d.Size != 16384 || d.Engine != "dragonfly" || d.Version == "" || !d.Time.Equal(time.Date(2026, 8, 22, 3, 0, 0, 0, time.UTC)) {
		t.Errorf("%+v", d)
	}
	if d := byName["d/dump.rdb"]; d.Engine != "redis" || d.Version != "8.0.2" || d.Dialect != "redis:12" || len(d.Files) != 1 {
		t.Errorf("%+v", d)
	}
	for name, note := range map[string]string{"d/stale-summary.dfs": "d/stale-0001.dfs", "d/uncounted-summary.dfs": "how many", "d/appendonlydir/appendonly.aof.1.base.rdb": "appended"} {
		if d := byName[name]; !strings.Contains(strings.Join(d.Notes, " "), note) {
			t.Errorf("%s: %q, want %q", name, d.Notes, note)
		}
	}
	if !slices.IsSortedFunc(all, func(a, b dumpfile.Dump) int { return b.Time.Compare(a.Time) }) {
		t.Error("they are not listed newest first")
	}
	if names := atStart(all); len(names) != 2 || !slices.Contains(names, "d/dump.rdb") {
		t.Errorf("at start: %q", names)
	}
	if data, err := json.Marshal(all); err != nil || !strings.Contains(string(data), `"problem":"`) {
		t.Errorf("%s, %v", data, err)
	}
	// What is said to be complete is a backup in the end, and nothing else.
	h := newHouse(t, memory())
	for _, d := range all {
		if d.Kind == dumpfile.Unfinished {
			continue
		}
		_, err := h.keep(t, newSnapshotter(t, s, d.Name, false))
		if (err == nil) != d.Complete {
			t.Errorf("%s is complete: %v, and as a backup: %v", d.Name, d.Complete, err)
		}
	}
}

// What is marked is what a server would load, by both of its rules.
func TestListAtStart(t *testing.T) {
	s := hours()
	for _, name := range []string{"dump-2026-08-23T11:55:03", "dump-2026-08-22T11:55:03", "dump-old", "sub/dump-2026-08-24T11:55:03"} {
		putSet(t, s, name)
	}
	put(t, s, "x.rdb", rdbOf([]byte("v"), true))
	put(t, s, "latest", rdbOf([]byte("v"), true))
	for _, test := range []struct {
		opts dumpfile.ListOptions
		want string
	}{
		{dumpfile.ListOptions{}, "dump-old-summary.dfs"},
		{dumpfile.ListOptions{Cloud: true}, "dump-2026-08-22T11:55:03-summary.dfs"},
		{dumpfile.ListOptions{DBFilename: "dump-{timestamp}", Cloud: true}, "dump-2026-08-22T11:55:03-summary.dfs"},
		{dumpfile.ListOptions{DBFilename: "x"}, "x.rdb"},
		{dumpfile.ListOptions{DBFilename: "x.rdb", Cloud: true}, "x.rdb"},
		{dumpfile.ListOptions{DBFilename: "latest"}, "latest"},
		{dumpfile.ListOptions{DBFilename: "none"}, ""},
	} {
		all, byName := list(t, s, "", &test.opts)
		if got := strings.Join(atStart(all), " "); got != test.want {
			t.Errorf("%+v: %q, want %q", test.opts, got, test.want)
		}
		if _, ok := byName["latest"]; ok != (test.opts.DBFilename == "latest") {
			t.Errorf("%+v: a file of any name is listed: %v", test.opts, ok)
		}
	}
	// A directory's files are not those of another one.
	if all, _ := list(t, s, "sub/", nil); len(all) != 1 || !all[0].AtStart {
		t.Errorf("%+v", all)
	}
	if all, _ := list(t, s, "nothing/", nil); all == nil || len(all) != 0 {
		t.Errorf("%+v", all)
	}
}

// A store that fails is an error, not a dump with a problem; and it returns soon after it was cancelled.
func TestListFails(t *testing.T) {
	s := memory()
	for i := range 20 {
		putSet(t, s, fmt.Sprintf("dump-%d", i))
	}
	put(t, s, "dump.rdb", rdbOf([]byte("v"), true))
	for _, op := range []storetest.Op{storetest.OpList, storetest.OpOpen, storetest.OpStat, storetest.OpRead} {
		for _, call := range []int{1, 2, 7} {
			faulty := storetest.NewFaulty(s, storetest.Fault{Op: op, Call: call, Mode: storetest.Before})
			if _, err := dumpfile.List(t.Context(), faulty, "", nil); !errors.Is(err, storetest.ErrInjected) {
				t.Errorf("%s %d: %v", op, call, err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(20*time.Millisecond, cancel)
		start := time.Now()
		if _, err := dumpfile.List(ctx, storetest.NewFaulty(s, storetest.Fault{Op: op, Call: 3 - 2*len(op)/5, Mode: storetest.Hang}), "", nil); op != storetest.OpList && !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", op, err)
		}
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("%s: it took %v", op, took)
		}
		cancel()
	}
}

// A directory as servers and people leave it: links, pipes and names that no store has don't disturb.
func TestListDirectory(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"dump.rdb", ".hidden.rdb", "with space.rdb", "ümlaut:1.rdb"} {
		if err := os.WriteFile(filepath.Join(dir, name), rdbOf([]byte("v"), true), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/hostname", filepath.Join(dir, "link.rdb")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "dir.rdb"), 0o700); err != nil {
		t.Fatal(err)
	}
	s := openDir(t, dir)
	all, byName := list(t, s, "", nil)
	if len(all) != 3 || !byName["dump.rdb"].AtStart || !byName["with space.rdb"].Complete || !byName["ümlaut:1.rdb"].Complete {
		t.Errorf("%+v", all)
	}
	h := newHouse(t, s)
	for name := range byName {
		if _, err := h.keep(t, newSnapshotter(t, s, name, true)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := newSnapshotter(t, s, "link.rdb", false).Snapshot(t.Context()); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("a link that leads away: %v", err)
	}
}
