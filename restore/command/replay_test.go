package command_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/restore"
	"github.com/redis/go-redis/v9"
)

// TestAppendOnly restores append-only directories of every server into the same and another one (both with CAMPAIGN=1): the base, with an RDB file or without, and its increments.
func TestAppendOnly(t *testing.T) {
	for i, version := range testserver.All() {
		for _, preamble := range []string{"yes", "no"} {
			t.Run(version+"/"+preamble, func(t *testing.T) {
				t.Parallel()
				s := testserver.Start(t, version, "--appendonly", "yes", "--aof-use-rdb-preamble", preamble, "--auto-aof-rewrite-percentage", "0", "--aof-timestamp-enabled", "yes")
				c := s.Client(t)
				w := &workload{r: rand.New(rand.NewPCG(uint64(i), 7)), dbs: 3, fields: fieldsExpire(version)}
				testserver.Generate(t, c, 60, 1)
				w.run(t, c, 500)
				rewrite(t, c)
				w.run(t, c, 4000)
				if i%2 == 0 {
					testserver.LoadFunction(t, c, "shop")
				}
				time.Sleep(450 * time.Millisecond) // keys that were to expire soon are gone
				c.Do(t.Context(), "SET", "last", "1")
				testserver.Snapshot(t, c) // and it has noticed
				b := keep(t, appended(t, s)...)
				if b.backup.Commands < 1500 {
					t.Fatalf("the backup has %d commands", b.backup.Commands)
				}
				targets := []string{version, testserver.All()[(i+1)%4]}
				if os.Getenv("CAMPAIGN") != "1" {
					targets = targets[len(preamble)%2:][:1] // "yes" into the other, "no" into its own
				}
				for _, to := range targets {
					if version == "valkey-9.1" && to == "redis-7.0" || version == "redis-8.0" && to == "valkey-8.1" {
						to = map[string]string{"valkey-9.1": "redis-8.0", "redis-8.0": "valkey-9.1"}[version]
					}
					reference := version
					if product, _, _ := strings.Cut(version, "-"); strings.HasPrefix(to, product) {
						reference = to // releases differ in what they make of XCLAIM
					}
					target := testserver.Start(t, to)
					rep, err := b.restorer.Restore(t.Context(), b.backup.ID, loaderFor(t, target.Options(), nil), accept("module", "command")) // vector sets in a Valkey
					if err != nil {
						t.Errorf("into %s: %v", to, err)
						continue
					}
					if rep.Commands < b.backup.Commands/2 || rep.Proof.Counted || len(rep.Warnings) == 0 {
						t.Errorf("into %s: the report is %+v", to, rep)
					}
					want := started(t, reference, s)
					for key := range testserver.Snapshot(t, want) {
						if db, name, _ := strings.Cut(key, "/"); strings.HasPrefix(name, "vectorset") && strings.HasPrefix(to, "valkey") {
							conn := want.Conn()
							conn.Do(t.Context(), "SELECT", db)
							conn.Do(t.Context(), "DEL", name)
							conn.Close()
						}
					}
					holds(t, "into "+to, target.Client(t), want)
				}
			})
		}
	}
}

// TestJournal restores flows of a Dragonfly with commands among the keys, and has a server execute the same.
func TestJournal(t *testing.T) {
	for seed := range 4 {
		seen := map[string]bool{}
		r := rand.New(rand.NewPCG(uint64(seed), 1))
		var flows [][]byte
		var all []string
		for shard := range 2 {
			var lines []string
			for i := range 3000 {
				key := fmt.Sprintf("k%d:%d", shard, r.IntN(200))
				switch db := r.IntN(2); r.IntN(10) {
				case 0, 1, 2: // a shard sends a key once, unless it is changed meanwhile
					if name := fmt.Sprint(db, key); seen[name] {
						lines = append(lines, fmt.Sprintf("%d>DEL %s", db, key))
					} else {
						seen[name] = true
					}
					lines = append(lines, fmt.Sprintf("%d>+%s v%d", db, key, i))
				case 3:
					seen[fmt.Sprint(0, key)] = true
					lines = append(lines, "DEL "+key)
					lines = append(lines, fmt.Sprintf("+%s v%d 4102444800000", key, i))
				case 4:
					lines = append(lines, "DEL "+key)
				case 5:
					lines = append(lines, fmt.Sprintf("SET %s n%d PXAT 4102444800001", key, i))
				case 6:
					lines = append(lines, fmt.Sprintf("APPEND %s a%d", key, i))
				case 7:
					lines = append(lines, fmt.Sprintf("%d>SADD t%d:%d m%d", r.IntN(2), shard, r.IntN(20), i))
				case 8:
					lines = append(lines, fmt.Sprintf("RPUSH l%d:%d m%d", shard, r.IntN(20), i))
				default:
					lines = append(lines, "PERSIST "+key)
				}
			}
			flows, all = append(flows, flow(t, lines...)), append(all, lines...)
		}
		reference := testserver.Start(t, "redis-7.0").Client(t)
		conn := reference.Conn()
		for _, line := range all {
			db := 0
			if line[1] == '>' {
				db, line = int(line[0]-'0'), line[2:]
			}
			conn.Select(t.Context(), db)
			f := words(line)
			if key, ok := strings.CutPrefix(line, "+"); ok {
				f = words(key)
				set := []any{"SET", f[0], f[1]}
				if len(f) > 2 {
					set = append(set, "PXAT", f[2])
				}
				f = set
			}
			if err := conn.Do(t.Context(), f...).Err(); err != nil {
				t.Fatal(line, err)
			}
		}
		conn.Close()
		target := testserver.Start(t, testserver.All()[seed])
		b := keep(t, flows...)
		rep, err := b.restorer.Restore(t.Context(), b.backup.ID, loaderFor(t, target.Options(), nil), accept("memory"))
		if err != nil {
			t.Fatal(err)
		}
		if rep.Commands != b.backup.Commands || rep.Commands == 0 {
			t.Errorf("%d commands of %d were executed", rep.Commands, b.backup.Commands)
		}
		holds(t, fmt.Sprint("seed ", seed), target.Client(t), reference)
	}
}

// TestSelectedCommands restores a part of an append-only file under other names.
func TestSelectedCommands(t *testing.T) {
	file := commandsPart(words("SELECT 1"), words("MSET a:1 x b:1 y a:2 z"), words("RENAME a:1 b:2"), words("SADD a:t m"), words("SMOVE a:t b:t m"), words("RPUSH a:l 1 2"),
		words("SELECT 0"), words("SET a:0 other"), words("SELECT 1"), words("DEL b:1 a:2"), words("SET a:3 v"))
	b := keep(t, file)
	target := testserver.Start(t, "redis-8.0")
	rep, err := b.restorer.Restore(t.Context(), b.backup.ID, loaderFor(t, target.Options(), nil), &restore.Options{
		Select: restore.Selection{DBs: []int{1}, MapDB: map[int]int{1: 3}, TrimPrefix: "a:", AddPrefix: "new:"}})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{"3/new:l": true, "3/new:3": true}
	got := testserver.Snapshot(t, target.Client(t))
	for key := range got {
		if !want[key] {
			t.Errorf("there is %s", key)
		}
	}
	if len(got) != len(want) {
		t.Errorf("it holds %v, report %+v", got, rep)
	}
	// What can't be done is told before, by its name.
	b = keep(t, commandsPart(words("SELECT 0"), words("SET b:1 x"), words("RENAME b:1 a:1"), words("NOSUCHCOMMAND a:1")))
	_, err = b.restorer.Restore(t.Context(), b.backup.ID, loaderFor(t, target.Options(), nil), &restore.Options{Conflict: restore.Replace, Select: restore.Selection{Match: "a:*"}})
	if !errors.Is(err, restore.ErrNotAccepted) || !strings.Contains(err.Error(), "command: 2 commands can't be executed") {
		t.Errorf("a RENAME from what isn't selected: %v", err)
	}
	if len(testserver.Snapshot(t, target.Client(t))) != len(want) {
		t.Error("the target was touched")
	}
}

// TestCommandRefused: a command that the target refuses ends the restore, with its name, its key and its place, and never a value.
func TestCommandRefused(t *testing.T) {
	file := commandsPart(words("SELECT 0"), words("RPUSH k CANARY-value"), words("INCR n"), words("INCR k"), words("SET last 1"))
	b := keep(t, file)
	target := testserver.Start(t, "valkey-9.1")
	loader := loaderFor(t, target.Options(), nil)
	_, err := b.restorer.Restore(t.Context(), b.backup.ID, loader, nil)
	var partial *restore.PartialError
	if !errors.As(err, &partial) || partial.State != restore.TargetPartial {
		t.Fatalf("%v", err)
	}
	for _, want := range []string{"INCR of key 0/k", fmt.Sprint("byte ", bytes.LastIndex(file, []byte("*2\r\n$4\r\nINCR"))), "WRONGTYPE", "Replace"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q isn't in: %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "CANARY") {
		t.Errorf("a value is in: %v", err)
	}
	// It can't be carried on, and says so; replacing all begins anew.
	_, err = b.restorer.Restore(t.Context(), b.backup.ID, loader, nil)
	if !errors.Is(err, restore.ErrRefused) || !strings.Contains(err.Error(), "can't be executed twice: replace all data") {
		t.Errorf("carrying on: %v", err)
	}
	good := keep(t, commandsPart(words("SELECT 0"), words("INCR n")))
	if _, err = good.restorer.Restore(t.Context(), good.backup.ID, loader, &restore.Options{Conflict: restore.Replace}); err != nil {
		t.Fatal(err)
	}
	if snap := testserver.Snapshot(t, target.Client(t)); len(snap) != 1 {
		t.Errorf("it holds %v", snap)
	}
	// Nothing is merged.
	if _, err = good.restorer.Restore(t.Context(), good.backup.ID, loader, &restore.Options{Conflict: restore.MergeOverwrite}); !errors.Is(err, restore.ErrRefused) {
		t.Errorf("merging an append-only file: %v", err)
	}
	flow := keep(t, flow(t, "+a 1", "SET b 1"))
	if _, err = flow.restorer.Restore(t.Context(), flow.backup.ID, loader, &restore.Options{Conflict: restore.MergeOverwrite}); !errors.Is(err, restore.ErrNotAccepted) || !strings.Contains(err.Error(), "journal") {
		t.Errorf("merging a flow: %v", err)
	}
}

// TestFlushAndSwap: the mark of a restore outlives the commands that would take it away, and they do what they did.
func TestFlushAndSwap(t *testing.T) {
	file := commandsPart(words("SELECT 0"), words("SET a 1"), words("SELECT 2"), words("SET b 1"), words("SWAPDB 0 2"), words("FLUSHDB"), words("SET c 1"), words("SWAPDB 1 2"),
		words("SELECT 0"), words("SET d 1"), words("FLUSHDB"), words("SET e 1"), words("FLUSHALL"), words("SET f 1"), words("SELECT 3"), words("SET g 1"), words("SWAPDB 3 0"), words("SET h 1"))
	b := keep(t, file)
	target, reference := testserver.Start(t, "redis-7.0"), testserver.Start(t, "redis-7.0").Client(t)
	conn := reference.Conn()
	defer conn.Close()
	for _, cmd := range []string{"SELECT 0", "SET f 1", "SELECT 3", "SET g 1", "SWAPDB 3 0", "SET h 1"} {
		conn.Do(t.Context(), words(cmd)...)
	}
	if _, err := b.restorer.Restore(t.Context(), b.backup.ID, loaderFor(t, target.Options(), nil), nil); err != nil {
		t.Fatal(err)
	}
	holds(t, "swapped and flushed", target.Client(t), reference)
	// Of several shards none removes what the others have.
	shards := keep(t, flow(t, "+a 1"), flow(t, "+b 1", "FLUSHALL", "SET c 1"))
	_, err := shards.restorer.Restore(t.Context(), shards.backup.ID, loaderFor(t, target.Options(), nil), &restore.Options{Conflict: restore.Replace})
	if !errors.Is(err, restore.ErrNotAccepted) {
		t.Errorf("FLUSHALL in one of two shards: %v", err)
	}
}

// TestReplayCanceled: a restore that ends while commands are executed says what there is.
func TestReplayCanceled(t *testing.T) {
	var commands [][]any
	commands = append(commands, words("SELECT 0"))
	for i := range 200_000 {
		commands = append(commands, []any{"RPUSH", fmt.Sprintf("l%d", i%100), strings.Repeat("x", 100)})
	}
	b := keep(t, commandsPart(commands...))
	target := testserver.Start(t, "redis-7.0")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	begun := make(chan struct{})
	go func() {
		<-begun
		c := redis.NewClient(target.Options())
		defer c.Close()
		for c.LLen(ctx, "l1").Val() == 0 && ctx.Err() == nil {
		}
		cancel()
	}()
	opts := &restore.Options{Progress: func(p restore.Progress) {
		if p.Stage == restore.StageLoad {
			select {
			case <-begun:
			default:
				close(begun)
			}
		}
	}}
	_, err := b.restorer.Restore(ctx, b.backup.ID, loaderFor(t, target.Options(), nil), opts)
	var partial *restore.PartialError
	if !errors.As(err, &partial) || !errors.Is(err, context.Canceled) || partial.State != restore.TargetPartial || !strings.Contains(err.Error(), "can't be done twice") {
		t.Errorf("%v", err)
	}
}

// live is a snapshot that comes straight from its source.
type live struct {
	backup *catalog.Backup
	data   map[string][]byte
}

func (l *live) Backup() *catalog.Backup { return l.backup }

func (l *live) Open(_ context.Context, p catalog.Part) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(l.data[p.Name])), nil
}

// TestCopyOfFlows: a Dragonfly's flows are copied while they come, with what was executed meanwhile.
func TestCopyOfFlows(t *testing.T) {
	past := time.Now().Add(-time.Hour).UnixMilli()
	l := &live{backup: &catalog.Backup{Format: catalog.Format, ID: "20261127T221700.123Z-k7f3", Parts: []catalog.Part{{Name: "a"}, {Name: "b"}},
		Source: catalog.Source{Engine: "dragonfly", Method: "flows"}},
		data: map[string][]byte{
			"a": flow(t, "+a 1", fmt.Sprintf("+dead 1 %d", past), "APPEND a 2", "1>RPUSH l x", fmt.Sprintf("+kept 1 %d", past), "PERSIST kept", "DEL gone"),
			"b": flow(t, "+b 1", "RENAME b c", "INCR n"),
		}}
	for _, version := range []string{"redis-7.0", "valkey-9.1"} {
		target := testserver.Start(t, version)
		rep, err := restore.Copy(t.Context(), l, loaderFor(t, target.Options(), nil), nil, restore.CopyConfig{TempDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		got := testserver.Snapshot(t, target.Client(t))
		if len(got) != 5 || got["0/a"] == "" || got["0/kept"] == "" || got["0/c"] == "" || got["0/n"] == "" || got["1/l"] == "" || rep.Commands != 6 {
			t.Errorf("%s holds %v; the report is %+v", version, got, rep)
		}
	}
	// What can't be executed ends it, unless that was accepted.
	l.data["b"] = flow(t, "+b 1", "SADDEX s 9 m")
	target := testserver.Start(t, "redis-7.0")
	var loss *rdb.LossError
	if _, err := restore.Copy(t.Context(), l, loaderFor(t, target.Options(), nil), nil, restore.CopyConfig{}); !errors.As(err, &loss) {
		t.Errorf("a loss on the way: %v", err)
	}
}
