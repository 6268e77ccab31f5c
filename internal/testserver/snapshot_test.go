package testserver

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// TestGenerateAndSnapshot makes every kind of key, lets the server save and load them, and compares.
func TestGenerateAndSnapshot(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		s := Start(t, version)
		c := s.Client(t)
		const keys = 700
		Generate(t, c, keys, 42)
		LoadFunction(t, c, "amberlib")
		before := Snapshot(t, c)
		if len(before) != keys {
			t.Errorf("%d keys in the snapshot, %d were generated", len(before), keys)
		}
		hasEveryKind(t, c, before)

		if err := c.Save(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		s.Restart(t)
		if diff := Diff(before, Snapshot(t, c)); diff != "" {
			t.Errorf("after saving and loading: %s", diff)
		}
		if code := Functions(t, c)["amberlib"]; !strings.Contains(code, "amberlib_echo") {
			t.Errorf("the function's code is %q", code)
		}

		other := Start(t, version)
		Generate(t, other.Client(t), keys, 42)
		if diff := Diff(withoutSeen(before), withoutSeen(Snapshot(t, other.Client(t)))); diff != "" {
			t.Errorf("the same seed made something else: %s", diff)
		}
		third := Start(t, version)
		Generate(t, third.Client(t), keys, 43)
		if maps.Equal(withoutSeen(before), withoutSeen(Snapshot(t, third.Client(t)))) {
			t.Error("another seed made the same")
		}
	})
}

// withoutSeen drops the lines of consumers, whose seen-time is the server's.
func withoutSeen(snap map[string]string) map[string]string {
	out := make(map[string]string, len(snap))
	for k, v := range snap {
		var lines []string
		for line := range strings.Lines(v) {
			if !strings.HasPrefix(line, "consumer ") {
				lines = append(lines, line)
			}
		}
		out[k] = strings.Join(lines, "")
	}
	return out
}

func hasEveryKind(t *testing.T, c *redis.Client, snap map[string]string) {
	t.Helper()
	types, dbs := make(map[string]int), make(map[string]int)
	expires := 0
	for k, v := range snap {
		typ, rest, _ := strings.Cut(v, "\n")
		types[typ]++
		db, _, _ := strings.Cut(k, "/")
		dbs[db]++
		if strings.HasPrefix(rest, "expires ") {
			expires++
		}
	}
	want := []string{"string", "list", "hash", "set", "zset", "stream"}
	if ok, err := knows(t.Context(), c, "VADD"); err != nil {
		t.Fatal(err)
	} else if ok {
		want = append(want, "vectorset")
	}
	for _, typ := range want {
		if types[typ] == 0 {
			t.Errorf("no %s among %v", typ, types)
		}
	}
	if len(dbs) < 3 {
		t.Errorf("keys in databases %v only", dbs)
	}
	if expires < len(snap)/5 || expires > len(snap)/2 {
		t.Errorf("%d of %d keys expire", expires, len(snap))
	}
	encodings := make(map[string]int)
	for _, db := range []int{0, 1} {
		opts := *c.Options()
		opts.DB = db
		inDB := redis.NewClient(&opts)
		defer inDB.Close()
		for k := range snap {
			if name, ok := strings.CutPrefix(k, fmt.Sprint(db)+"/"); ok {
				e, err := inDB.ObjectEncoding(t.Context(), name).Result()
				if err != nil {
					t.Fatalf("OBJECT ENCODING %q: %v", name, err)
				}
				encodings[e]++
			}
		}
	}
	for _, e := range []string{"int", "embstr", "raw", "listpack", "quicklist", "hashtable", "intset", "skiplist", "stream"} {
		if encodings[e] == 0 {
			t.Errorf("no value is encoded as %s: %v", e, encodings)
		}
	}
	if ok, err := knows(t.Context(), c, "HPEXPIREAT"); err != nil {
		t.Fatal(err)
	} else if ok && !strings.Contains(strings.Join(values(snap), ""), " expires 4") {
		t.Error("no field of a hash expires")
	}
}

func values(m map[string]string) []string {
	var out []string
	for _, v := range m {
		out = append(out, v)
	}
	return out
}

// TestSnapshotSeesChanges makes one small change after the other, each of which must show.
func TestSnapshotSeesChanges(t *testing.T) {
	s := Start(t, "valkey-9.1")
	c := s.Client(t)
	for _, setup := range []string{
		"SET str v", "RPUSH list a b", "SADD set a b", "ZADD zset 1 a", "HSET hash f v", "XADD stream 1-1 f v", "XADD stream 2-1 f v",
		"XGROUP CREATE stream g 0", "XGROUP CREATECONSUMER stream g c",
	} {
		run(t, c, setup)
	}
	before := Snapshot(t, c)
	for _, change := range []struct{ key, command string }{
		{"str", "APPEND str x"}, {"str", "PEXPIREAT str 4102444800001"}, {"str", "PEXPIREAT str 4102444800002"},
		{"list", "LSET list 1 c"}, {"list", "RPUSH list a"}, {"set", "SADD set c"}, {"zset", "ZADD zset 1.0000000000000002 a"},
		{"hash", "HSET hash f w"}, {"hash", "HPEXPIREAT hash 4102444800001 FIELDS 1 f"}, {"hash", "HSET hash g v"},
		{"stream", "XADD stream 3-1 f v"}, {"stream", "XDEL stream 3-1"}, {"stream", "XSETID stream 9-9"},
		{"stream", "XGROUP SETID stream g 1-1"}, {"stream", "XGROUP CREATECONSUMER stream g d"},
		{"stream", "XCLAIM stream g c 0 2-1 TIME 1700000000000 RETRYCOUNT 1 FORCE JUSTID"},
		{"stream", "XCLAIM stream g c 0 2-1 TIME 1700000000000 RETRYCOUNT 2 FORCE JUSTID"},
		{"stream", "XGROUP DESTROY stream g"}, {"str", "DEL str"}, {"str", "LPUSH str v"},
	} {
		run(t, c, change.command)
		after := Snapshot(t, c)
		diff := Diff(before, after)
		if diff == "" || !strings.Contains(diff, `"0/`+change.key+`"`) || !strings.Contains(diff, "1 of ") {
			t.Errorf("%s: the difference is\n%s", change.command, diff)
		}
		before = after
	}
	inOther := s.Options()
	inOther.DB = 7
	other := redis.NewClient(inOther)
	defer other.Close()
	run(t, other, "SET str v")
	if got := Snapshot(t, c)["7/str"]; got != "string\n\"v\"" {
		t.Errorf("7/str is %q", got)
	}
}

func run(t *testing.T, c *redis.Client, command string) {
	t.Helper()
	var args []any
	for _, f := range strings.Fields(command) {
		args = append(args, f)
	}
	if err := c.Do(t.Context(), args...).Err(); err != nil {
		t.Fatalf("%s: %v", command, err)
	}
}

// TestSnapshotsOfVersionsAgree loads what one version saved into all that read it: the texts must be equal, or tests
// that restore across versions would see differences that are none.
func TestSnapshotsOfVersionsAgree(t *testing.T) {
	for _, pair := range []struct {
		from string
		to   []string
	}{
		{"redis-7.0", []string{"redis-8.0", "valkey-8.1", "valkey-9.1"}},
		{"valkey-8.1", []string{"redis-8.0", "valkey-9.1"}},
	} {
		source := Start(t, pair.from)
		c := source.Client(t)
		Generate(t, c, 500, 7)
		want := Snapshot(t, c)
		if err := c.Save(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		rdb, err := os.ReadFile(filepath.Join(source.Dir, "dump.rdb"))
		if err != nil {
			t.Fatal(err)
		}
		for _, to := range pair.to {
			t.Run(pair.from+" to "+to, func(t *testing.T) {
				dir := t.TempDir()
				if err := os.WriteFile(filepath.Join(dir, "dump.rdb"), rdb, 0o600); err != nil {
					t.Fatal(err)
				}
				if diff := Diff(want, Snapshot(t, StartIn(t, to, dir).Client(t))); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}
