package restore

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/rdb"
)

// loadedAs is the dialect of each server that takes most.
func loadedAs(version string) rdb.Dialect {
	return map[string]rdb.Dialect{
		"redis-7.0":  {Family: rdb.Redis, Version: 10},
		"redis-8.0":  {Family: rdb.Redis, Version: 12},
		"valkey-8.1": {Family: rdb.Redis, Version: 11},
		"valkey-9.1": {Family: rdb.Valkey, Version: 80},
	}[version]
}

// startStill starts a server that removes nothing because its time has come.
func startStill(t testing.TB, version string, args ...string) *testserver.Server {
	t.Helper()
	s := testserver.Start(t, version, append([]string{"--databases", "1000"}, args...)...)
	if err := s.Client(t).Do(t.Context(), "DEBUG", "SET-ACTIVE-EXPIRE", "0").Err(); err != nil {
		t.Fatal(err)
	}
	return s
}

// reload makes a server forget what it has and load a snapshot.
func reload(t testing.TB, s *testserver.Server, snapshot []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.Dir, "dump.rdb"), snapshot, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Client(t).Do(t.Context(), "DEBUG", "RELOAD", "NOSAVE").Err(); err != nil {
		t.Fatal(err)
	}
}

// convertedTo converts a snapshot, without what the dialect can't express.
func convertedTo(t testing.TB, snapshot []byte, d rdb.Dialect) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := rdb.NewWriter(&out, d, nil)
	if err != nil {
		t.Fatal(err)
	}
	opts := &rdb.ConvertOptions{Policy: rdb.SkipKey}
	if _, err := rdb.Convert(w, rdb.NewReader(bytes.NewReader(snapshot), nil), opts); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// compareSnapshot compares all of a snapshot with what a server has.
func compareSnapshot(t testing.TB, s *testserver.Server, snapshot []byte) *comparison {
	t.Helper()
	c := newComparer(s.Options())
	defer c.close()
	res, err := compareAll(t.Context(), c, rdb.NewReader(bytes.NewReader(snapshot), nil), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// TestCompareFixtures has every server load every snapshot of the fixtures, as far as its dialect can express it, and finds no
// difference.
func TestCompareFixtures(t *testing.T) {
	files, err := filepath.Glob("../rdb/testdata/*/*.rdb")
	if err != nil || len(files) < 50 {
		t.Fatal(len(files), err)
	}
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			s := startStill(t, version)
			keys := int64(0)
			for _, file := range files {
				data, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				data = convertedTo(t, data, loadedAs(version))
				reload(t, s, data)
				res := compareSnapshot(t, s, data)
				for _, d := range res.differences {
					t.Errorf("%s: %s", file, d)
				}
				for _, n := range res.notes {
					t.Logf("%s: %s", file, n)
				}
				keys += res.compared
			}
			t.Logf("%d keys", keys)
		})
	}
}

// TestCompareEveryKind fills servers with keys of every kind that they have, and compares what they save.
func TestCompareEveryKind(t *testing.T) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			s := testserver.Start(t, version)
			testserver.Generate(t, s.Client(t), 3000, 7)
			res := compareSnapshot(t, s, saved(t, s))
			if res.different > 0 || res.compared != 3000 || res.expired != 0 {
				t.Errorf("%+v", res)
			}
			t.Log(res.notes)
		})
	}
}

// saved returns the snapshot that a server saves.
func saved(t testing.TB, s *testserver.Server) []byte {
	t.Helper()
	if err := s.Client(t).Save(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(s.Dir, "dump.rdb"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestCompareTells changes one thing after the other on a server, and has exactly that told.
func TestCompareTells(t *testing.T) {
	fill := []string{
		"SET string hello", "SET long " + strings.Repeat("l", 200000), "SET empty ''", "SET counted 12345", "SET ttl x PXAT 4102444800000",
		"RPUSH list a b c d", "SADD set a b c d", "ZADD zset 1 a 2.5 b -0 c inf d", "HSET hash f1 v1 f2 v2 f3 v3",
		"HSET wide f " + strings.Repeat("w", 100000), "RPUSH wide-list a " + strings.Repeat("w", 100000) + " c",
		"XADD stream 1-1 f v", "XADD stream 2-1 f v g w", "XADD stream 3-1 f v", "XGROUP CREATE stream g 0 ENTRIESREAD 0", "XGROUP CREATE stream other 2-1",
		"XREADGROUP GROUP g alice COUNT 2 STREAMS stream >", "XGROUP CREATECONSUMER stream g bob",
	}
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			s := testserver.Start(t, version)
			c := s.Client(t)
			do := func(line string) {
				t.Helper()
				var args []any
				for _, w := range strings.Fields(line) {
					if w == "''" {
						w = ""
					}
					args = append(args, w)
				}
				if err := c.Do(t.Context(), args...).Err(); err != nil {
					t.Fatalf("%.100s: %v", line, err)
				}
			}
			for _, line := range fill {
				do(line)
			}
			fields := version == "redis-8.0" || version == "valkey-9.1"
			if fields {
				do("HPEXPIREAT hash 4102444800000 FIELDS 1 f2")
			}
			vectors := version == "redis-8.0"
			if vectors {
				do("VADD vectors VALUES 3 1 2 3 a NOQUANT SETATTR {\"n\":1}")
				do("VADD vectors VALUES 3 1 2 4 b NOQUANT")
				do("VADD quantised VALUES 3 1 2 3 a Q8")
				do("VADD bits VALUES 3 1 2 3 a BIN")
			}
			snapshot := saved(t, s)
			if res := compareSnapshot(t, s, snapshot); res.different != 0 {
				t.Fatalf("before anything was changed: %q", res.differences)
			}
			at := "2100-01-01T00:00:00.000Z"
			for _, tt := range []struct{ change, want string }{
				{"DEL string", `key "string": is missing`},
				{"SET string hullo", `key "string": is "hullo", the backup has "hello"`},
				{"SET string hello!", `key "string": is longer than the 5 bytes that the backup has`},
				{"SET string hell", `key "string": is "hell", the backup has "hello"`},
				{"SET string ''", `key "string": is "", the backup has "hello"`},
				{"SET empty x", `key "empty": is longer than the 0 bytes that the backup has`},
				{"INCR counted", `key "counted": is "12346", the backup has "12345"`},
				{"SETRANGE long 150000 X", `key "long": from byte 150000 on is "Xlllllllllllllllllllllllllllllll…", the backup has "llllllllllllllllllllllllllllllll…"`},
				{"APPEND long l", `key "long": is longer than the 200000 bytes that the backup has`},
				{"PERSIST ttl", `key "ttl": never expires, in the backup at ` + at},
				{"PEXPIREAT ttl 4102444800001", `key "ttl": expires at 2100-01-01T00:00:00.001Z, in the backup at ` + at},
				{"PEXPIREAT string 4102444800000", `key "string": expires at ` + at + `, in the backup never`},
				{"RENAME list string", `key "list": is missing` + "\n" + `database 0, key "string": is of type "list", the backup has a string`},
				{"RENAME string hash", `key "hash": is of type "string", the backup has a hash` + "\n" + `database 0, key "string": is missing`},
				{"RENAME string list", `key "list": is of type "string", the backup has a list` + "\n" + `database 0, key "string": is missing`},
				{"RENAME string set", `key "set": is of type "string", the backup has a set` + "\n" + `database 0, key "string": is missing`},
				{"RENAME string zset", `key "string": is missing` + "\n" + `database 0, key "zset": is of type "string", the backup has a zset`},
				{"RENAME string stream", `key "stream": is of type "string", the backup has a stream` + "\n" + `database 0, key "string": is missing`},
				{"LSET list 2 C", `key "list": item 2 is "C", the backup has "c"`},
				{"RPOP list", `key "list": item 3 is missing, the backup has "d"`},
				{"RPUSH list e", `key "list": has 5 items, the backup has 4`},
				{"LSET wide-list 1 x", `key "wide-list": item 1 has 1 bytes, in the backup 100000`},
				{"LSET wide-list 2 x", `key "wide-list": item 2 is "x", the backup has "c"`},
				{"SREM set b", `key "set": member "b" is missing`},
				{"SADD set e", `key "set": has 5 members, the backup has 4`},
				{"ZADD zset 1.25 a", `key "zset": member "a" has the score "1.25", in the backup 1`},
				{"ZADD zset 0 c", ``}, // 0 is -0
				{"ZREM zset d", `key "zset": member "d" is missing`},
				{"ZADD zset 7 e", `key "zset": has 5 members, the backup has 4`},
				{"HSET hash f1 other", `key "hash": field "f1" is "other", the backup has "v1"`},
				{"HDEL hash f3", `key "hash": field "f3" is missing`},
				{"HSET hash f4 v4", `key "hash": has 4 fields, the backup has 3`},
				{"HSET wide f x", `key "wide": field "f" has 1 bytes, in the backup 100000`},
				{"HSET wide f " + strings.Repeat("x", 100000), `key "wide": field "f" is another than in the backup, of the same 100000 bytes`},
				{"HDEL wide f", `key "wide": is missing`},
				{"XDEL stream 2-1", `key "stream": entry 2-1 is missing`},
				{"XADD stream 4-1 f v", `key "stream": last-generated-id is 4-1, in the backup 3-1`},
				{"XSETID stream 9-1", `key "stream": last-generated-id is 9-1, in the backup 3-1`},
				{"XSETID stream 3-1 ENTRIESADDED 100 MAXDELETEDID 0-0", `key "stream": entries-added is 100, in the backup 3`},
				{"XSETID stream 3-1 ENTRIESADDED 3 MAXDELETEDID 1-0", `key "stream": max-deleted-entry-id is 1-0, in the backup 0-0`},
				{"XGROUP SETID stream g 1-1", `key "stream": group "g": last-delivered-id is 1-1, in the backup 2-1`},
				{"XGROUP SETID stream g 2-1 ENTRIESREAD 1", `key "stream": group "g": entries-read is 1, in the backup 2`},
				{"XGROUP CREATE stream new 0", `key "stream": has a group "new", which the backup doesn't have`},
				{"XGROUP DESTROY stream other", `key "stream": group "other" is missing`},
				{"XGROUP DESTROY stream g", `key "stream": group "g" is missing`},
				{"XGROUP CREATECONSUMER stream g eve", `key "stream": group "g" has a consumer "eve", which the backup doesn't have`},
				{"XGROUP DELCONSUMER stream g bob", `key "stream": group "g": consumer "bob" is missing`},
				{"XCLAIM stream g bob 0 2-1 RETRYCOUNT 1 JUSTID", `key "stream": group "g" doesn't have entry 2-1 pending for consumer "alice", as the backup has`},
				{"XCLAIM stream g alice 0 2-1 RETRYCOUNT 7 JUSTID", `key "stream": group "g", pending entry 2-1 was delivered 7 times, in the backup 1`},
				{"XCLAIM stream g alice 0 2-1 IDLE 60000 RETRYCOUNT 1 JUSTID", `key "stream": group "g", pending entry 2-1 was delivered at `},
				{"XACK stream g 1-1", `key "stream": group "g" doesn't have entry 1-1 pending, as the backup has`},
				{"XREADGROUP GROUP g bob STREAMS stream >", `key "stream": group "g", consumer "bob" has 1 pending entries, in the backup 0`},
				{"PERSIST-FIELD", `key "hash": field "f2" never expires, in the backup at ` + at},
				{"HPEXPIREAT hash 4102444801000 FIELDS 1 f2", `key "hash": field "f2" expires at 2100-01-01T00:00:01.000Z, in the backup at ` + at},
				{"HPEXPIREAT hash 4102444800000 FIELDS 1 f1", `key "hash": field "f1" expires at ` + at + `, in the backup never`},
				{"VADD vectors VALUES 3 1 2 5 b NOQUANT", `key "vectors": element "b" has another vector than in the backup`},
				{"VADD vectors VALUES 3 1 2 5 c NOQUANT", `key "vectors": has 3 elements, the backup has 2`},
				{"VREM vectors b", `key "vectors": element "b" is missing`},
				{"VSETATTR vectors a {\"n\":2}", `key "vectors": the attributes of element "a": is "{\"n\":2}", the backup has "{\"n\":1}"`},
				{"VSETATTR vectors b {\"n\":2}", `key "vectors": the attributes of element "b": is "{\"n\":2}", the backup has ""`},
				{"VADD quantised VALUES 3 1 2 5 a Q8", `key "quantised": element "a" has another vector than in the backup`},
				{"RENAME vectors string", `key "string": is of type "vectorset", the backup has a string` + "\n" + `database 0, key "vectors": is missing`},
				{"RENAME string vectors", `key "string": is missing` + "\n" + `database 0, key "vectors": is of type "string", the backup has a vectorset`},
			} {
				if strings.Contains(tt.change, "vectors ") && !vectors || strings.Contains(tt.change, " vectors") && !vectors || strings.Contains(tt.change, "quantised") && !vectors {
					continue
				}
				if strings.Contains(tt.change, "FIELD") && !fields {
					continue
				}
				reload(t, s, snapshot)
				do(strings.ReplaceAll(tt.change, "PERSIST-FIELD", "HPERSIST hash FIELDS 1 f2"))
				res := compareSnapshot(t, s, snapshot)
				detail := slices.ContainsFunc([]string{"group", "last-generated-id", "entries-added", "max-deleted-entry-id", `"f2" never expires`, `"f2" expires`,
					`"f1" expires`}, func(of string) bool { return strings.Contains(tt.want, of) })
				if detail != (res.details == 1) {
					t.Errorf("after %.100s: %d differ in a detail", tt.change, res.details)
				}
				slices.Sort(res.differences) // servers save in no order
				got := strings.Join(res.differences, "\n")
				want := "database 0, " + tt.want
				if tt.want == "" {
					want = ""
				}
				if got != want && (!strings.HasSuffix(want, " at ") || !strings.HasPrefix(got, want) || res.different != 1) {
					t.Errorf("after %.100s:\n got %q\nwant %q", tt.change, got, want)
				}
			}
		})
	}
}

func TestCompareEndsWithContext(t *testing.T) {
	s := testserver.Start(t, "redis-8.0")
	testserver.Generate(t, s.Client(t), 1000, 1)
	snapshot := saved(t, s)
	s.Client(t).Do(t.Context(), "CLIENT", "PAUSE", "60000", "ALL")
	c := newComparer(s.Options())
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(200*time.Millisecond, func() { cancel(why) })
	begin := time.Now()
	_, err := compareAll(ctx, c, rdb.NewReader(bytes.NewReader(snapshot), nil), nil, nil)
	c.close()
	if took := time.Since(begin); !errors.Is(err, why) || took > 3*time.Second {
		t.Errorf("after %v: %v", took, err)
	}
}
