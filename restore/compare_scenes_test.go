package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/internal/resp"
	"github.com/amberkv/amber/internal/target"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/rdb"
	"github.com/redis/go-redis/v9"
)

// peak runs a function and returns the most that the heap held meanwhile, beyond what it held before.
func peak(f func()) int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	before, most := m.HeapAlloc, m.HeapAlloc
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapAlloc)
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	}()
	f()
	close(stop)
	<-done
	return int64(most - before)
}

func noise(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

// TestCompareLargeValuesInLittleMemory compares a string of 100 MB, a million members, and values and items of 30 MB each; of the older server less of the
// first two, unless CAMPAIGN=1.
func TestCompareLargeValuesInLittleMemory(t *testing.T) {
	for k, version := range []string{"redis-7.0", "valkey-9.1"} {
		megabytes, members := 100, 1_000_000
		if k == 0 && os.Getenv("CAMPAIGN") == "" {
			megabytes, members = 20, 100_000
		}
		t.Run(version, func(t *testing.T) {
			s := testserver.Start(t, version, "--rdbcompression", "no")
			c := s.Client(t)
			piece := noise(1 << 20)
			p := c.Pipeline()
			flush := func() {
				t.Helper()
				if _, err := p.Exec(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			for range megabytes {
				p.Append(t.Context(), "string", string(piece))
				if p.Len() == 10 {
					flush()
				}
			}
			p.Do(t.Context(), "HSET", "hash", "a", "1", "wide", bytes.Repeat(piece, 30), "z", "2")
			p.Do(t.Context(), "RPUSH", "list", "a", bytes.Repeat(piece, 30), "z")
			flush()
			for i := 0; i < members; i += 1000 {
				args := []any{"ZADD", "zset"}
				for j := i; j < i+1000; j++ {
					args = append(args, float64(j)/7, fmt.Sprintf("member:%d", j))
				}
				p.Do(t.Context(), args...)
			}
			flush()
			if err := c.Save(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
			for i, change := range [][]any{nil, {"SETRANGE", "string", megabytes * 777_777, "amber"}, {"ZINCRBY", "zset", 1, fmt.Sprintf("member:%d", members/9*7)}} {
				if change != nil {
					if err := c.Do(t.Context(), change...).Err(); err != nil {
						t.Fatal(err)
					}
				}
				f, err := os.Open(filepath.Join(s.Dir, "dump.rdb"))
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				var res *comparison
				begin := time.Now()
				most := peak(func() {
					cmp := newComparer(s.Options())
					defer cmp.close()
					res, err = compareAll(t.Context(), cmp, rdb.NewReader(f, nil), nil, nil)
				})
				if err != nil || res.compared != 4 || res.different != int64(i) {
					t.Fatal(res, err)
				}
				t.Logf("%d MiB of heap, %v, %q", most>>20, time.Since(begin), res.differences)
				if most > 16<<20 {
					t.Errorf("it took %d MiB of heap", most>>20)
				}
			}
		})
	}
}

// TestCompareCluster compares a cluster with the snapshots of its nodes, also while slots have moved since the comparer asked who has them, and are
// on their way.
func TestCompareCluster(t *testing.T) {
	for _, version := range []string{"redis-8.0", "valkey-9.1"} {
		t.Run(version, func(t *testing.T) {
			cluster := testserver.StartCluster(t, version, 3, 0)
			cluster.Generate(t, 1200, 11)
			client := cluster.Client(t)
			if err := client.Set(t.Context(), testserver.KeyFor(1, "moves"), "x", 0).Err(); err != nil {
				t.Fatal(err)
			}
			var snapshots [][]byte
			for _, s := range cluster.Primaries() {
				snapshots = append(snapshots, saved(t, s))
			}
			c := newComparer(cluster.Nodes()[1].Options())
			defer c.close()
			all := func() (keys int64, differences []string) {
				t.Helper()
				for _, data := range snapshots {
					res, err := compareAll(t.Context(), c, rdb.NewReader(bytes.NewReader(data), nil), nil, nil)
					if err != nil {
						t.Fatal(err)
					}
					keys, differences = keys+res.compared, append(differences, res.differences...)
				}
				return keys, differences
			}
			if keys, diff := all(); keys != 1201 || diff != nil {
				t.Fatal(keys, diff)
			}
			moveSlots(t, cluster)
			if keys, diff := all(); keys != 1201 || diff != nil {
				t.Fatal(keys, diff)
			}
			key := testserver.KeyFor(1, "moves")
			if err := client.Set(t.Context(), key, "y", 0).Err(); err != nil {
				t.Fatal(err)
			}
			want := []string{fmt.Sprintf(`database 0, key %q: is "y", the backup has "x"`, key)}
			if keys, diff := all(); keys != 1201 || !slices.Equal(diff, want) {
				t.Error(keys, diff)
			}
		})
	}
}

// moveSlots moves slots with keys of the first primary: one wholly, and one whose keys have gone but which isn't given away yet.
func moveSlots(t *testing.T, cluster *testserver.Cluster) {
	t.Helper()
	primaries := cluster.Primaries()
	cluster.Move(t, 1, primaries[2])
	key, err := primaries[0].Client(t).RandomKey(t.Context()).Result()
	if err != nil {
		t.Fatal(err)
	}
	slot := testserver.Slot(key)
	cluster.BeginMove(t, slot, primaries[1])
	if n := cluster.MoveKeys(t, slot, -1); n == 0 {
		t.Fatal("no key was moved")
	}
}

// TestCompareWithOlderCommands compares with servers that lack what older ones do.
func TestCompareWithOlderCommands(t *testing.T) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			var args []string
			for _, command := range []string{"PEXPIRETIME", "SMISMEMBER", "ZMSCORE"} {
				args = append(args, "--rename-command", command, "")
			}
			s := testserver.Start(t, version)
			testserver.Generate(t, s.Client(t), 1500, 13)
			old := testserver.Start(t, version, args...)
			data := saved(t, s)
			reload(t, old, data)
			res := compareSnapshot(t, old, data)
			if res.different != 0 || res.compared != 1500 {
				t.Fatalf("%+v", res)
			}
			c := old.Client(t)
			for _, change := range []string{"SET new x", "SET new x PX 100000", "SADD set a", "ZADD zset 1 a"} {
				var args []any
				for _, w := range strings.Fields(change) {
					args = append(args, w)
				}
				if err := c.Do(t.Context(), args...).Err(); err != nil {
					t.Fatal(err)
				}
				data := saved(t, old)
				switch key := args[1].(string); {
				case strings.Contains(change, "PX"):
					c.PExpire(t.Context(), key, time.Hour)
				case args[0] == "SET":
					c.PExpire(t.Context(), key, time.Hour)
				case args[0] == "SADD":
					c.Do(t.Context(), "SREM", key, "a")
					c.Do(t.Context(), "SADD", key, "b")
				default:
					c.Do(t.Context(), "ZADD", key, 2, "a")
				}
				if res := compareSnapshot(t, old, data); res.different != 1 {
					t.Errorf("after %s: %q", change, res.differences)
				} else {
					t.Log(res.differences)
				}
			}
		})
	}
}

// TestCompareExpired has keys, fields and all fields of a hash go when their time has come, and others before.
func TestCompareExpired(t *testing.T) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			s := testserver.Start(t, version)
			c := s.Client(t)
			do := func(args ...any) {
				t.Helper()
				if err := c.Do(t.Context(), args...).Err(); err != nil {
					t.Fatal(err)
				}
			}
			do("DEBUG", "SET-ACTIVE-EXPIRE", "0") // all of it is saved, however long that takes
			begin := time.Now()
			do("SET", "goes", "x", "PX", 1000)
			do("SET", "stays", "x")
			do("SET", "removed", "x", "PX", 1000000)
			do("SET", "replaced", "x", "PX", 1000)
			fields := version == "redis-8.0" || version == "valkey-9.1"
			want := []string{`database 0, key "removed": is missing`, `database 0, key "replaced": never expires, in the backup at `}
			if fields {
				do("HSET", "some", "goes", "x", "stays", "y", "removed", "z")
				do("HPEXPIRE", "some", 1000, "FIELDS", 1, "goes")
				do("HSET", "all", "a", "x", "b", "y")
				do("HPEXPIRE", "all", 1000, "FIELDS", 2, "a", "b")
			}
			data := saved(t, s)
			if res := compareSnapshot(t, s, data); res.different != 0 || res.expired != 0 && time.Since(begin) < time.Second {
				t.Fatalf("%+v", res)
			}
			do("DEBUG", "SET-ACTIVE-EXPIRE", "1")
			do("DEL", "removed")
			do("SET", "replaced", "x")
			expired := int64(1)
			if fields {
				do("HDEL", "some", "removed")
				want = append(want, `database 0, key "some": field "removed" is missing`)
				expired = 2
			}
			time.Sleep(1100 * time.Millisecond)
			res := compareSnapshot(t, s, data)
			slices.Sort(res.differences)
			// What replaced a key whose time has come is another one: it can't be told from one that should have gone.
			if len(res.differences) != len(want)-1 || res.differences[0] != want[0] || fields && res.differences[1] != want[2] {
				t.Errorf("%q", res.differences)
			}
			if res.expired != expired+1 {
				t.Errorf("%d expired", res.expired)
			}
		})
	}
}

func TestCompareFunctions(t *testing.T) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			s := testserver.Start(t, version)
			c := s.Client(t)
			code := "#!lua name=lib\nserver = redis\nredis.register_function('f', function() return %d end)"
			code = strings.Replace(code, "server = redis\n", "", 1)
			for _, lib := range []string{fmt.Sprintf(code, 1), strings.Replace(fmt.Sprintf(code, 2), "lib", "other", 1)} {
				if err := c.Do(t.Context(), "FUNCTION", "LOAD", strings.Replace(lib, "'f'", fmt.Sprintf("'f%d'", len(lib)), 1)).Err(); err != nil {
					t.Fatal(err)
				}
			}
			data := saved(t, s)
			if res := compareSnapshot(t, s, data); res.different != 0 {
				t.Fatal(res.differences)
			}
			if err := c.Do(t.Context(), "FUNCTION", "LOAD", "REPLACE", fmt.Sprintf(code, 3)).Err(); err != nil {
				t.Fatal(err)
			}
			want := `function library "lib" is missing, or is another than in the backup`
			if res := compareSnapshot(t, s, data); res.different != 1 || res.differences[0] != want {
				t.Error(res.differences)
			}
		})
	}
}

// TestCompareSaysWhatIsInTheWay has a target without a database, one that refuses a command, and one that goes away.
func TestCompareSaysWhatIsInTheWay(t *testing.T) {
	s := testserver.Start(t, "redis-8.0", "--requirepass", "CANARY-compare")
	testserver.Generate(t, s.Client(t), 500, 1)
	data := saved(t, s)

	small := testserver.Start(t, "redis-8.0", "--databases", "1")
	c := newComparer(small.Options())
	e := &rdb.Entry{Kind: rdb.KindKey, Type: rdb.TypeString, DB: 3, Key: []byte("x")}
	elements := func(yield func(*rdb.Element, error) bool) {
		yield(&rdb.Element{Kind: rdb.ElementBytes, Value: []byte("v")}, nil)
	}
	got, _, err := c.key(t.Context(), e, elements)
	if want := `database 3, key "x": the target lets nobody select the database: ERR DB index is out of range`; got != want || err != nil {
		t.Errorf("without the database: %q, %v", got, err)
	}
	e.DB = 0
	if got, _, err := c.key(t.Context(), e, elements); got != `database 0, key "x": is missing` || err != nil {
		t.Errorf("after that: %q, %v", got, err)
	}
	c.close()

	s.AddUser(t, "reader", "CANARY-reader", "~*", "+@all", "-xinfo")
	opts := s.Options()
	opts.Username, opts.Password = "reader", "CANARY-reader"
	c = newComparer(opts)
	_, err = compareAll(t.Context(), c, rdb.NewReader(bytes.NewReader(data), nil), nil, nil)
	c.close()
	if err == nil || !strings.Contains(err.Error(), "NOPERM") || !strings.Contains(err.Error(), "XINFO") || strings.Contains(err.Error(), "CANARY") {
		t.Errorf("without a right to XINFO: %v", err)
	}

	opts.Password = "CANARY-wrong"
	c = newComparer(opts)
	_, _, err = c.key(t.Context(), &rdb.Entry{Kind: rdb.KindKey, Type: rdb.TypeString, Key: []byte("x")}, nil)
	c.close()
	if err == nil || !strings.Contains(err.Error(), "WRONGPASS") || strings.Contains(err.Error(), "CANARY") {
		t.Errorf("with a wrong password: %v", err)
	}
}

// TestCompareGoesOnAfterABreak cuts the connection again and again.
func TestCompareGoesOnAfterABreak(t *testing.T) {
	s := testserver.Start(t, "valkey-9.1")
	testserver.Generate(t, s.Client(t), 6000, 1)
	data := saved(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int64)
	go func() {
		n := int64(0)
		for pause := 100 * time.Millisecond; ctx.Err() == nil; pause = min(2*pause, time.Second) { // so that some of it gets done between two
			killed, _ := s.Client(t).Do(ctx, "CLIENT", "KILL", "TYPE", "normal").Int64()
			n += killed
			time.Sleep(pause)
		}
		done <- n
	}()
	res := compareSnapshot(t, s, data)
	cancel()
	killed := <-done
	if res.different != 0 || res.compared != 6000 || killed == 0 {
		t.Errorf("%+v, %d killed", res, killed)
	}

	if err := s.Client(t).ConfigSet(t.Context(), "busy-reply-threshold", "20").Err(); err != nil {
		t.Fatal(err)
	}
	go s.Client(t).Do(t.Context(), "EVAL", "while true do end", 0) // which makes it answer BUSY
	testserver.Eventually(t, 20*time.Second, "the server is busy", func() error {
		if err := s.Client(t).Ping(t.Context()).Err(); err == nil || !strings.HasPrefix(err.Error(), "BUSY") {
			return fmt.Errorf("it answers %v", err)
		}
		return nil
	})
	time.AfterFunc(800*time.Millisecond, func() { s.Client(t).Do(t.Context(), "SCRIPT", "KILL") })
	if res := compareSnapshot(t, s, data); res.different != 0 || res.compared != 6000 {
		t.Errorf("%+v", res)
	}

	begin := time.Now()
	c := newComparer(s.Options())
	defer c.close()
	pr := &killer{Reader: bytes.NewReader(data), at: len(data) / 2, f: s.Kill}
	if _, err := compareAll(t.Context(), c, rdb.NewReader(pr, nil), nil, nil); err == nil {
		t.Error("a target that is gone was compared")
	} else {
		t.Logf("after %v: %v", time.Since(begin), err)
	}
}

// killer does something after some bytes.
type killer struct {
	*bytes.Reader
	at int
	f  func()
}

func (k *killer) Read(p []byte) (int, error) {
	n, err := k.Reader.Read(p)
	if k.at -= n; k.at < 0 && k.f != nil {
		k.f()
		k.f = nil
	}
	return n, err
}

func TestSameJSON(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		same bool
	}{
		{`{"a":1,"b":[true,null,"x"]}`, ` { "b" : [ true , null , "x" ] , "a" : 1.0 } `, true},
		{`1e2`, `100`, true},
		{`"\u00e9"`, `"é"`, true},
		{`18446744073709551615`, `18446744073709551614`, false},
		{`0.1`, `0.1000`, true},
		{`0.1`, `0.10000000001`, false},
		{`[1,2]`, `[2,1]`, false},
		{`{"a":1}`, `{"a":1,"b":2}`, false},
		{`{`, `{`, true},
		{`{`, `[`, false},
		{`1e999999999`, `1e999999999`, true},
		{`1e999999999`, `2e999999999`, false},
	} {
		if got := sameJSON([]byte(tt.a), []byte(tt.b)); got != tt.same {
			t.Errorf("%s and %s: %v", tt.a, tt.b, got)
		}
	}
}

// TestCompareLeavesIdleTimes compares keys that nobody has used for long.
func TestCompareLeavesIdleTimes(t *testing.T) {
	for _, version := range testserver.All()[1:] { // Redis 7.0 can't
		t.Run(version, func(t *testing.T) {
			s := testserver.Start(t, version)
			c := s.Client(t)
			testserver.Generate(t, c, 100, 1)
			data := saved(t, s)
			keys, err := c.Keys(t.Context(), "*").Result()
			if err != nil {
				t.Fatal(err)
			}
			for _, key := range keys {
				if err := c.Do(t.Context(), "RESTORE", key, 0, c.Dump(t.Context(), key).Val(), "REPLACE", "IDLETIME", 5000).Err(); err != nil {
					t.Fatal(err)
				}
			}
			compareSnapshot(t, s, data) // of which those that had an expiry differ now
			for _, key := range keys {
				if idle, err := c.Do(t.Context(), "OBJECT", "IDLETIME", key).Int64(); err != nil || idle < 5000 {
					t.Fatalf("%q is idle for %d s: %v", key, idle, err)
				}
			}
		})
	}
}

// TestCompareIsGivenUp closes a comparer whose stream ends in the middle, while the target doesn't answer.
func TestCompareIsGivenUp(t *testing.T) {
	s := testserver.Start(t, "redis-7.0")
	testserver.Generate(t, s.Client(t), 5000, 1)
	data := saved(t, s)
	c := newComparer(s.Options())
	r := &killer{Reader: bytes.NewReader(data[:300<<10]), f: func() { // two batches
		s.Client(t).Do(t.Context(), "CLIENT", "PAUSE", "60000", "ALL")
	}}
	done := make(chan error)
	go func() {
		_, err := compareAll(t.Context(), c, rdb.NewReader(r, nil), nil, nil)
		c.close()
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil {
			t.Error("half a stream was compared")
		}
	case <-time.After(20 * time.Second):
		t.Error("it waits for the target")
		s.Kill()
		<-done
	}
}

// dragonflyLike passes commands on to a real server and answers as Dragonfly does where that has other commands: FIELDTTL for the expiry of
// fields, in seconds, and JSON.GET, of strings here.
func dragonflyLike(t *testing.T, s *testserver.Server) *redis.Options {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				to := target.New(s.Options(), 10*time.Second)
				defer to.Close()
				for in := resp.NewReader(conn, nil); ; {
					args, err := in.ReadCommand()
					if err != nil {
						return
					}
					if _, err := conn.Write(asDragonfly(to, args)); err != nil {
						return
					}
				}
			}()
		}
	}()
	opts := s.Options()
	opts.Addr = l.Addr().String()
	return opts
}

func asDragonfly(to *target.Conn, args []string) []byte {
	switch args[0] {
	case "HPEXPIRETIME":
		return resp.AppendError(nil, "ERR unknown command `HPEXPIRETIME`")
	case "FIELDTTL":
		reply, err := to.Do(context.Background(), "HTTL", args[1], "FIELDS", "1", args[2])
		if err != nil {
			return resp.AppendError(nil, err.Error())
		}
		ttl := reply.Elems[0].Int
		if ttl == -2 {
			ttl = -3
		}
		return fmt.Appendf(nil, ":%d\r\n", ttl)
	case "JSON.GET":
		args = []string{"GET", args[1]}
	}
	reply, err := to.Do(context.Background(), args...)
	if err != nil {
		var refused resp.Error
		errors.As(err, &refused)
		return resp.AppendError(nil, string(refused))
	}
	if args[0] == "INFO" {
		reply.Text += "\r\ndragonfly_version:df-v1.40.0\r\n"
	}
	return encoded(nil, reply)
}

func encoded(out []byte, r resp.Reply) []byte {
	switch r.Kind {
	case resp.Status:
		return resp.AppendStatus(out, r.Text)
	case resp.Integer:
		return fmt.Appendf(out, ":%d\r\n", r.Int)
	case resp.Bulk:
		return fmt.Appendf(out, "$%d\r\n%s\r\n", len(r.Text), r.Text)
	case resp.Array:
		out = fmt.Appendf(out, "*%d\r\n", len(r.Elems))
		for _, e := range r.Elems {
			out = encoded(out, e)
		}
		return out
	}
	return append(out, "$-1\r\n"...)
}

// TestCompareInWordsOfDragonfly asks for expiries and documents as Dragonfly has them. The server behind is another: it shows that the
// questions and answers are dealt with, not that Dragonfly gives them.
func TestCompareInWordsOfDragonfly(t *testing.T) {
	s := testserver.Start(t, "valkey-9.1")
	client := s.Client(t)
	testserver.Generate(t, client, 500, 1)
	at := time.Now().Add(time.Hour).UnixMilli()
	for _, args := range [][]any{{"HSET", "h", "a", "1", "b", "2"}, {"HPEXPIREAT", "h", at, "FIELDS", 1, "a"}} {
		if err := client.Do(t.Context(), args...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	data := saved(t, s)
	c := newComparer(dragonflyLike(t, s))
	defer c.close()
	res, err := compareAll(t.Context(), c, rdb.NewReader(bytes.NewReader(data), nil), nil, nil)
	if err != nil || res.different != 0 {
		t.Fatal(res, err)
	}
	if err := client.Do(t.Context(), "HPEXPIREAT", "h", at+60_000, "FIELDS", 1, "a").Err(); err != nil {
		t.Fatal(err)
	}
	res, err = compareAll(t.Context(), c, rdb.NewReader(bytes.NewReader(data), nil), nil, nil)
	if err != nil || res.different != 1 || !strings.HasPrefix(res.differences[0], `database 0, key "h": field "a" expires at `) {
		t.Fatal(res, err)
	}
	for _, tt := range []struct{ has, want, says string }{
		{`{"b":[1.0,2],"a":null}`, `{"a":null,"b":[1,2]}`, ""},
		{`{"a":2}`, `{"a":1}`, `database 0, key "doc": is "{\"a\":2}", the backup has "{\"a\":1}"`},
	} {
		if err := client.Set(t.Context(), "doc", tt.has, 0).Err(); err != nil {
			t.Fatal(err)
		}
		e := &rdb.Entry{Kind: rdb.KindKey, Type: rdb.TypeJSON, Key: []byte("doc")}
		says, _, err := c.key(t.Context(), e, func(yield func(*rdb.Element, error) bool) {
			yield(&rdb.Element{Kind: rdb.ElementBytes, Value: []byte(tt.want)}, nil)
		})
		if says != tt.says || err != nil {
			t.Errorf("%q, %v", says, err)
		}
	}
}

// TestVectorSetsInPiecesAndBroken takes a vector set apart as it comes, in pieces of every size, and with bytes changed.
func TestVectorSetsInPiecesAndBroken(t *testing.T) {
	s := testserver.Start(t, "redis-8.0")
	for i := range 40 {
		args := []any{"VADD", "v", "VALUES", 3, i, 2, 3, fmt.Sprint("element ", i), "SETATTR", strings.Repeat("compressible ", i)}
		if err := s.Client(t).Do(t.Context(), args...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	r := rdb.NewReader(bytes.NewReader(saved(t, s)), nil)
	var raw []byte
	for e, err := range r.Entries() {
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind != rdb.KindKey {
			continue
		}
		for el, err := range r.Elements() {
			if err != nil {
				t.Fatal(err)
			}
			raw = append(raw, el.Value...)
		}
	}
	c := newComparer(s.Options())
	if err := c.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer c.close()
	take := func(raw []byte, size int) (v *vectorAsker, asked int) {
		n := &compareNode{c: c, building: &compareBatch{}}
		a := &asker{c: c, n: n, b: n.building, ctx: t.Context(), key: &comparedKey{}, name: []byte("v")}
		for p := range slices.Chunk(raw, size) {
			if err := a.vectors(p); err != nil {
				t.Fatal(err)
			}
		}
		return &a.vector, len(a.b.asks)
	}
	for size := 1; size < len(raw); size += 1 + size/3 {
		if v, asked := take(raw, size); !v.ended || v.unknown || asked != 80 || v.elements != 40 {
			t.Fatalf("in pieces of %d: %d questions, %+v", size, asked, v)
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	unknown := 0
	for range 3000 {
		broken := bytes.Clone(raw)
		for range 1 + random.IntN(3) {
			broken[random.IntN(len(broken))] = byte(random.Uint32())
		}
		if v, _ := take(broken, 1+random.IntN(len(raw))); v.unknown {
			unknown++
		}
	}
	if unknown == 0 {
		t.Error("nothing was found to be unknown")
	}
}
