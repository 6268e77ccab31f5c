package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/amberkv/amber/internal/testserver"
)

// TestRDBReport inspects what a server saved, as one file and as a set of several.
func TestRDBReport(t *testing.T) {
	t.Parallel()
	c := newCtl(t)
	s := testserver.Start(t, "redis-7.0")
	client := s.Client(t)
	for _, command := range [][]any{
		{"SET", "user:1", strings.Repeat("x", 100)}, {"SET", "user:2:name", "short", "EX", 60}, {"SET", "user:2:mail", "a@b"},
		{"RPUSH", "plain", "a", "b", "c"}, {"SADD", "tags/\x00\xff", 1, 2, 3, 4},
		{"SELECT", 3}, {"HSET", "user:3", "f", strings.Repeat("long", 1000)}, {"SELECT", 0}, {"SAVE"},
	} {
		if err := client.Do(t.Context(), command...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	dump := filepath.Join(s.Dir, "dump.rdb")
	stat := parse[rdbStat](t, c, exitDone, "rdb", "stat", dump)
	r := stat.Report
	if r == nil || r.Total.Keys != 6 || r.Total.Expires != 1 || len(r.Types) != 4 || len(r.DBs) != 2 || r.DBs[1].DB != 3 || !r.Exact {
		t.Fatalf("%+v", r)
	}
	if b := r.Biggest[0]; b.Key != "user:3" || b.DB != 3 || b.Type != "hash" || b.Encoding != "hashtable" || b.Elements != 1 || b.Memory < 4000 || b.Bytes > 500 {
		t.Errorf("biggest: %+v", b)
	}
	if len(r.Prefixes) != 2 || r.Prefixes[0].Prefix != "user:" || r.Prefixes[0].Keys != 4 {
		t.Errorf("prefixes: %+v", r.Prefixes)
	}
	for _, b := range r.Expiry {
		if want := map[string]int64{"none": 5, "<1h": 1}[b.Name]; b.Keys != want {
			t.Errorf("expiry: %+v", b)
		}
	}
	stat = parse[rdbStat](t, c, exitDone, "rdb", "stat", dump, "--depth", "2", "--top", "1")
	if len(stat.Report.Prefixes) != 3 || len(stat.Report.Biggest) != 1 {
		t.Errorf("two levels: %+v", stat.Report)
	}
	stat = parse[rdbStat](t, c, exitDone, "rdb", "stat", dump, "--separator", "\xff", "--top", "0")
	if p := stat.Report.Prefixes; len(p) != 2 || p[1].Prefix != `tags/\x00\xff` || len(stat.Report.Biggest) != 0 {
		t.Errorf("bytes: %+v", p)
	}
	out, _ := c.run(t, exitDone, "rdb", "stat", dump)
	for _, want := range []string{"TYPE ", "ENCODING ", "PREFIX ", "BIGGEST KEYS ", "EXPIRES IN ", "(none)", "user:", `tags/\x00\xff`, "intset"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}

	set := filepath.Join(t.TempDir(), "set")
	c.run(t, exitDone, "rdb", "convert", "--to", "dfs", "--shards", "3", dump, set)
	sharded := parse[rdbStat](t, c, exitDone, "rdb", "stat", set+"-summary.dfs").Report
	if sharded.Total.Keys != 6 || sharded.Total.Elements != r.Total.Elements {
		t.Errorf("a set: %+v", sharded)
	}
	for i := range r.Biggest {
		if sharded.Biggest[i].Key != r.Biggest[i].Key {
			t.Errorf("biggest of a set: %+v, want %+v", sharded.Biggest[i], r.Biggest[i])
		}
	}
}
