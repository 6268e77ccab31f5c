package command_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/restore/command"
	"github.com/redis/go-redis/v9"
)

// A breaker cuts one connection that writes much, after some bytes of answers.
type breaker struct {
	after int64
	cut   atomic.Int64
}

func (b *breaker) options(opts *redis.Options) *redis.Options {
	opts.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		return &breaking{Conn: conn, b: b}, err
	}
	return opts
}

type breaking struct {
	net.Conn
	b    *breaker
	sent int64
	read int64
}

func (c *breaking) Write(p []byte) (int, error) {
	atomic.AddInt64(&c.sent, int64(len(p)))
	return c.Conn.Write(p)
}

func (c *breaking) Read(p []byte) (int, error) {
	if atomic.LoadInt64(&c.sent) > 100<<10 { // it isn't one that asks
		left := c.b.after - c.read
		if left <= 0 && c.b.cut.CompareAndSwap(0, 1) {
			c.Conn.Close()
		}
		if left > 0 && c.b.cut.Load() == 0 {
			p = p[:min(int64(len(p)), left)]
		}
	}
	n, err := c.Conn.Read(p)
	if atomic.LoadInt64(&c.sent) > 100<<10 {
		c.read += int64(n)
	}
	return n, err
}

// TestBrokenConnection: when a connection breaks, commands that come to the same when they are executed twice are; others end the restore.
func TestBrokenConnection(t *testing.T) {
	for _, blind := range []bool{true, false} {
		r := rand.New(rand.NewPCG(5, 5))
		commands := [][]any{words("SELECT 0")}
		for i := range 60_000 {
			k := r.IntN(500)
			switch {
			case !blind && r.IntN(100) == 0:
				commands = append(commands, []any{"INCR", fmt.Sprint("n", k)})
			case r.IntN(3) == 0:
				commands = append(commands, []any{"DEL", fmt.Sprint("s", k)})
			case r.IntN(3) == 0:
				commands = append(commands, []any{"SADD", fmt.Sprint("t", k), fmt.Sprint("m", r.IntN(10))})
			case r.IntN(3) == 0:
				commands = append(commands, []any{"SREM", fmt.Sprint("t", k), fmt.Sprint("m", r.IntN(10))})
			case r.IntN(3) == 0:
				commands = append(commands, []any{"HSET", fmt.Sprint("h", k), fmt.Sprint("m", r.IntN(10)), i})
			default:
				commands = append(commands, []any{"SET", fmt.Sprint("s", k), i, "PXAT", 4102444800000})
			}
		}
		reference := testserver.Start(t, "redis-7.0").Client(t)
		if _, err := reference.Pipelined(t.Context(), func(p redis.Pipeliner) error {
			for _, c := range commands {
				p.Do(t.Context(), c...)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		b := keep(t, commandsPart(commands...))
		for _, after := range []int64{1, 700, 5_003, 50_001} {
			target := testserver.Start(t, "redis-7.0")
			cut := &breaker{after: after}
			_, err := b.restorer.Restore(t.Context(), b.backup.ID, loaderFor(t, cut.options(target.Options()), nil), nil)
			if cut.cut.Load() == 0 {
				t.Fatalf("after %d bytes nothing broke: %v", after, err)
			}
			if blind {
				if err != nil {
					t.Errorf("after %d bytes: %v", after, err)
					continue
				}
				holds(t, fmt.Sprint("after ", after), target.Client(t), reference)
				continue
			}
			var partial *restore.PartialError
			if !errors.As(err, &partial) || partial.State != restore.TargetPartial || !strings.Contains(err.Error(), "INCR of key 0/n") || !strings.Contains(err.Error(), "isn't known") {
				t.Errorf("after %d bytes: %v", after, err)
			}
		}
	}
}

// TestIntoCluster: commands go to the node that has their keys; those with keys in several slots are split, or end the restore where they can't be.
func TestIntoCluster(t *testing.T) {
	t.Parallel()
	source := testserver.Start(t, "valkey-9.1", "--appendonly", "yes", "--auto-aof-rewrite-percentage", "0")
	c := source.Client(t)
	w := &workload{r: rand.New(rand.NewPCG(9, 9)), dbs: 1, fields: true, slots: true}
	w.run(t, c, 300)
	rewrite(t, c)
	w.run(t, c, 3000)
	if err := c.Do(t.Context(), words("MSET a 1 b 2 c 3 d 4")...).Err(); err != nil {
		t.Fatal(err)
	}
	c.Do(t.Context(), words("DEL a c nosuch")...)
	b := keep(t, appended(t, source)...)
	cluster := testserver.StartCluster(t, "valkey-9.1", 3, 0)
	rep, err := b.restorer.Restore(t.Context(), b.backup.ID, loaderFor(t, cluster.Primaries()[1].Options(), nil), &restore.Options{Compare: restore.CompareAll})
	if err != nil {
		t.Fatal(err)
	}
	if rep.Commands < 1000 {
		t.Errorf("%d commands were executed", rep.Commands)
	}
	if diff := testserver.Diff(unseen(testserver.Snapshot(t, started(t, "valkey-9.1", source))), unseen(cluster.Contents(t))); diff != "" {
		t.Error(diff)
	}
	b = keep(t, commandsPart(words("SELECT 0"), words("SADD a 1"), words("SMOVE a b 1")))
	_, err = b.restorer.Restore(t.Context(), b.backup.ID, loaderFor(t, cluster.Primaries()[0].Options(), nil), &restore.Options{Conflict: restore.Replace})
	var partial *restore.PartialError
	if !errors.As(err, &partial) || !strings.Contains(err.Error(), "SMOVE of key 0/a") || !strings.Contains(err.Error(), "in 2 slots") {
		t.Errorf("a command of two slots: %v", err)
	}
	// A FLUSHALL is for all of its nodes, and the mark stays.
	b = keep(t, commandsPart(words("SELECT 0"), words("SET a 1"), words("SET b 1"), words("SET c 1"), words("FLUSHALL"), words("SET b 2")))
	if _, err := b.restorer.Restore(t.Context(), b.backup.ID, loaderFor(t, cluster.Primaries()[0].Options(), nil), &restore.Options{Conflict: restore.Replace}); err != nil {
		t.Fatal(err)
	}
	if got := cluster.Contents(t); len(got) != 1 {
		t.Errorf("it holds %v", got)
	}
}

// TestSlotsThatMove: a cluster that is moving slots isn't given commands, whose order would be lost.
func TestSlotsThatMove(t *testing.T) {
	t.Parallel()
	cluster := testserver.StartCluster(t, "redis-7.0", 2, 0)
	slot := testserver.Slot("a")
	to := cluster.Primaries()[0]
	if cluster.Owner(t, slot) == to {
		to = cluster.Primaries()[1]
	}
	cluster.BeginMove(t, slot, to)
	b := keep(t, commandsPart(words("SELECT 0"), words("SET a 1")))
	_, err := b.restorer.Restore(t.Context(), b.backup.ID, loaderFor(t, cluster.Primaries()[0].Options(), nil), nil)
	if !errors.Is(err, restore.ErrRefused) || !strings.Contains(err.Error(), "slots") {
		t.Errorf("%v", err)
	}
}

// TestLargeValuesBetweenCommands: values that take several commands are whole before a command is executed on them, and not mixed up with it.
func TestLargeValuesBetweenCommands(t *testing.T) {
	source := testserver.Start(t, "redis-7.0")
	c := source.Client(t)
	r := rand.New(rand.NewPCG(3, 3))
	for i := range 20 {
		key := fmt.Sprint("big", i)
		for range 20 {
			noise := make([]byte, 5000) // which can't be compressed
			for i := range noise {
				noise[i] = byte(r.Uint32())
			}
			c.RPush(t.Context(), key, noise, "y")
		}
	}
	dump := func(key string) string { return c.Dump(t.Context(), key).Val() }
	var commands [][]any
	commands = append(commands, words("SELECT 0"), words("SET a 1"))
	for i := range 20 {
		key := fmt.Sprint("big", i)
		commands = append(commands, []any{"RPUSH", key, "old"}, []any{"RESTORE", key, 0, dump(key), "REPLACE", "ABSTTL"}, []any{"RPUSH", key, "last"}, []any{"LPOP", key})
		c.RPush(t.Context(), key, "last")
		c.LPop(t.Context(), key)
	}
	c.Set(t.Context(), "a", "1", 0)
	b := keep(t, commandsPart(commands...))
	for _, size := range []int{0, 4 << 10} {
		target := testserver.Start(t, "redis-8.0")
		l := loaderFor(t, target.Options(), func(cfg *command.Config) { cfg.MaxValue = size })
		if _, err := b.restorer.Restore(t.Context(), b.backup.ID, l, nil); err != nil {
			t.Fatal(err)
		}
		holds(t, fmt.Sprint("values above ", size), target.Client(t), c)
	}
}

// TestDragonflyFixtures executes a journal on top of what a real Dragonfly wrote.
func TestJournalOnDragonflysFile(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", "..", "rdb", "testdata", "dragonfly-1.40", "mini.rdb"))
	if err != nil {
		t.Fatal(err)
	}
	plain := keep(t, data)
	with := keep(t, data, flow(t, "SADDEX new 100 m", "SET more 1", "STICK more", "HSETEX h 100 f v"))
	first, second := testserver.Start(t, "valkey-9.1"), testserver.Start(t, "valkey-9.1")
	if _, err := plain.restorer.Restore(t.Context(), plain.backup.ID, loaderFor(t, first.Options(), nil), accept("all")); err != nil {
		t.Fatal(err)
	}
	_, err = with.restorer.Restore(t.Context(), with.backup.ID, loaderFor(t, second.Options(), nil), nil)
	for _, name := range []string{"member-expiry", "flags", "relative-ttl"} {
		if !errors.Is(err, restore.ErrNotAccepted) || !strings.Contains(err.Error(), name+":") {
			t.Errorf("%s is not told: %v", name, err)
		}
	}
	if _, err := with.restorer.Restore(t.Context(), with.backup.ID, loaderFor(t, second.Options(), nil), accept("all")); err != nil {
		t.Fatal(err)
	}
	c := first.Client(t)
	c.SAdd(t.Context(), "new", "m")
	c.Set(t.Context(), "more", "1", 0)
	c.HSet(t.Context(), "h", "f", "v")
	c2 := second.Client(t)
	ttl, err := c2.Do(t.Context(), "HTTL", "h", "FIELDS", 1, "f").Slice()
	if err != nil || ttl[0].(int64) < 50 || ttl[0].(int64) > 100 {
		t.Errorf("the field expires in %v, %v", ttl, err)
	}
	c2.Do(t.Context(), "HPERSIST", "h", "FIELDS", 1, "f")
	holds(t, "with a journal", c2, c)
}

// TestCommandsWaitForKeys: the first command is executed when all keys before it are there, over however many connections they go.
func TestCommandsWaitForKeys(t *testing.T) {
	var lines []string
	const n = 20_000
	for i := range n {
		lines = append(lines, fmt.Sprintf("+k%d %s", i, strings.Repeat("v", 200)))
	}
	for i := range n {
		lines = append(lines, fmt.Sprintf("APPEND k%d end", n-1-i))
	}
	b := keep(t, flow(t, lines...))
	target := testserver.Start(t, "redis-8.0")
	l := loaderFor(t, target.Options(), func(cfg *command.Config) { cfg.Connections = 8 })
	if _, err := b.restorer.Restore(t.Context(), b.backup.ID, l, &restore.Options{Compare: restore.CompareNone}); err != nil {
		t.Fatal(err)
	}
	want := "string " + strconv.Quote(strings.Repeat("v", 200)+"end")
	for key, text := range testserver.Snapshot(t, target.Client(t)) {
		if !strings.Contains(text, "vend") || len(text) > len(want)+20 {
			t.Fatalf("%s is %s", key, text)
		}
	}
}

// TestMarkOutlivesFlushes: what shows that a restore is under way is there after the commands that remove everything, or swap databases.
func TestMarkOutlivesFlushes(t *testing.T) {
	for _, before := range []string{"FLUSHALL", "FLUSHDB", "SWAPDB 0 1", "SWAPDB 2 0"} {
		b := keep(t, commandsPart(words("SELECT 0"), words("SET a 1"), words(before), words("RPUSH k 1"), words("INCR k")))
		target := testserver.Start(t, "valkey-8.1")
		l := loaderFor(t, target.Options(), nil)
		_, err := b.restorer.Restore(t.Context(), b.backup.ID, l, nil)
		var partial *restore.PartialError
		if !errors.As(err, &partial) || partial.Keys != 1 && !strings.HasPrefix(before, "SWAPDB") {
			t.Errorf("%s: %v", before, err)
		}
		snap := testserver.Snapshot(t, target.Client(t))
		for key := range snap {
			if db, name, _ := strings.Cut(key, "/"); strings.HasPrefix(name, "amber:") && db != "0" {
				t.Errorf("%s: there is %s", before, key)
			}
		}
		if !strings.Contains(snap["0/amber:restoring"], "replaying") {
			t.Errorf("%s: the mark is %q", before, snap["0/amber:restoring"])
		}
		if _, err = b.restorer.Restore(t.Context(), b.backup.ID, l, nil); !errors.Is(err, restore.ErrRefused) {
			t.Errorf("%s: again: %v", before, err)
		}
	}
}

// TestDatabasesOfCommands: a target that lacks a database of which only commands tell is refused before it is touched.
func TestDatabasesOfCommands(t *testing.T) {
	t.Parallel()
	b := keep(t, commandsPart(words("SELECT 0"), words("SET a 1"), words("SELECT 5"), words("SET b 1")))
	few := testserver.Start(t, "redis-7.0", "--databases", "2")
	cluster := testserver.StartCluster(t, "redis-7.0", 1, 0)
	for name, opts := range map[string]*redis.Options{"few": few.Options(), "cluster": cluster.Primaries()[0].Options()} {
		_, err := b.restorer.Restore(t.Context(), b.backup.ID, loaderFor(t, opts, nil), nil)
		if !errors.Is(err, restore.ErrRefused) || !strings.Contains(err.Error(), "database 5") {
			t.Errorf("%s: %v", name, err)
		}
		only := &restore.Options{Select: restore.Selection{DBs: []int{5}, MapDB: map[int]int{5: 0}}}
		rep, err := b.restorer.Restore(t.Context(), b.backup.ID, loaderFor(t, opts, nil), only)
		if err != nil || rep.Commands != 1 {
			t.Errorf("%s, one database: %+v, %v", name, rep, err)
		}
	}
}
