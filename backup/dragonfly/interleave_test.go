package dragonfly_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/fstest"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/internal/dflymaster"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/rdb/dfs"
)

// made is a flow that was made up, and what is in it.
type made struct {
	flow           dflymaster.Flow
	keys, commands int64
}

// makeFlow makes the flow of a shard: keys, large values in pieces with anything between them, commands, and blocks around some of all that. Values and
// arguments hold what looks like the end of anything.
func makeFlow(rnd *rand.Rand, shard, shards int) made {
	bait := []string{"\xc8\x00\x00\x00\x00\x00\x00\x00\x00", "\xff\x00\x00\x00\x00\x00\x00\x00\x00", "\xd3\x01\x00\x00\x00\x00\x00\x00\x00", "FLUSHALL", "0123456789012345678901234567890123456789"}
	text := func() string { return bait[rnd.IntN(len(bait))] + fmt.Sprint(rnd.Uint64()) }
	m := made{}
	command := func() []byte {
		m.commands++
		return dflymaster.Journal(rnd.IntN(3), rnd.Uint64N(1000), "SET", text(), text())
	}
	key := func() []byte {
		m.keys++
		return dflymaster.String(dflymaster.String([]byte{0}, fmt.Sprintf("%d:%d:%s", shard, m.keys, text())), text())
	}
	chunk := func(id uint32, p []byte) []byte {
		b := binary.LittleEndian.AppendUint32([]byte{0xe0}, id)
		return append(binary.LittleEndian.AppendUint32(b, uint32(len(p))), p...)
	}
	type open struct {
		id   uint32
		left [][]byte
	}
	var values []open
	id := uint32(0)
	records := 5 + rnd.IntN(40)
	out := dflymaster.Head(shard, shards)
	for records > 0 || len(values) > 0 {
		var run []byte
		for range 1 + rnd.IntN(6) {
			switch n := rnd.IntN(6); {
			case n == 0 && records > 0:
				// A hash whose first chunk has its name, and each of the others a field.
				id++
				records--
				m.keys++
				fields := 2 + rnd.IntN(5)
				head := append(dflymaster.String([]byte{4}, fmt.Sprintf("%d:%d:hash", shard, m.keys)), byte(fields))
				v := open{id: id}
				for f := range fields {
					p := dflymaster.String(dflymaster.String(nil, fmt.Sprint("f", f)), text())
					if f == 0 {
						p = append(head, p...)
					}
					v.left = append(v.left, p)
				}
				run = append(run, chunk(v.id, v.left[0])...)
				v.left = v.left[1:]
				values = append(values, v)
			case n == 1 && len(values) > 0:
				i := rnd.IntN(len(values))
				run = append(run, chunk(values[i].id, values[i].left[0])...)
				if values[i].left = values[i].left[1:]; len(values[i].left) == 0 {
					values = slices.Delete(values, i, i+1)
				}
			case n == 2:
				run = append(run, 0xfe, byte(rnd.IntN(16)))
			case n == 3 && records > 0:
				records--
				run = append(run, command()...)
			case records > 0:
				records--
				run = append(run, key()...)
			}
		}
		if len(run) > 0 && rnd.IntN(2) == 0 {
			run = dflymaster.Block(run)
		}
		out = append(out, run...)
	}
	m.flow = dflymaster.FlowOf(append(out, dflymaster.End(0)[9:]...), m.keys)
	if rnd.IntN(2) == 0 { // the end of the static part in a block
		m.flow.Static = append(m.flow.Static[:len(m.flow.Static)-9], dflymaster.Block(append(command(), dflymaster.SyncEnd()...))...)
	}
	for range rnd.IntN(4) {
		if c := command(); rnd.IntN(2) == 0 {
			m.flow.After = append(m.flow.After, dflymaster.Block(c)...)
		} else {
			m.flow.After = append(m.flow.After, c...)
		}
	}
	end := dflymaster.End(rnd.Uint64N(1 << 40))
	m.flow.Final = end
	if rnd.IntN(2) == 0 {
		m.flow.Final = append(dflymaster.Block(append(command(), end[:9]...)), end[9:]...)
	}
	m.flow.Stable = dflymaster.Journal(0, 1, "FLUSHALL")
	return m
}

// TestInterleaved takes snapshots of made-up masters of 1 to 16 shards, with everything interleaved and in pieces of random sizes, and holds the set of files
// that they are against what was sent.
func TestInterleaved(t *testing.T) {
	goroutines(t)
	seeds := uint64(16)
	if campaign() {
		seeds = 1000
	}
	for seed := range seeds {
		rnd := rand.New(rand.NewPCG(seed, 3))
		shards := 1 + int(seed%16)
		var all []made
		cfg := dflymaster.Config{Version: 1 + rnd.IntN(5)}
		var keys, commands int64
		for i := range shards {
			all = append(all, makeFlow(rnd, i, shards))
			cfg.Flows = append(cfg.Flows, all[i].flow)
			keys, commands = keys+all[i].keys, commands+all[i].commands
		}
		sizes := []int{1, 2, 7, 31, 1000, 1 << 20}
		size := sizes[rnd.IntN(len(sizes))]
		cfg.Send = func(flow int, w io.Writer, p []byte) error {
			if flow%5 == 4 {
				time.Sleep(time.Millisecond) // others are done long before
			}
			return dflymaster.Pieces(size)(flow, w, p)
		}
		m := dflymaster.Start(t, cfg)
		sn, parts := mustTake(t, snapshotter(t, m, nil))
		files := fstest.MapFS{}
		for i := range shards {
			name := fmt.Sprintf("%04d.dfs", i)
			if want := slices.Concat(all[i].flow.Static, all[i].flow.After, all[i].flow.Final); !bytes.Equal(parts[name], want) {
				t.Fatalf("seed %d: flow %d came as %d bytes that aren't the %d that were sent", seed, i, len(parts[name]), len(want))
			}
			files["x-"+name] = &fstest.MapFile{Data: parts[name]}
		}
		files["x-summary.dfs"] = &fstest.MapFile{Data: parts["summary.dfs"]}
		asSet(t, files, shards, keys, commands)
		if id := sn.Source().ReplicationID; id != m.ID() {
			t.Errorf("seed %d: replication ID %s", seed, id)
		}
		m.Close()
	}
}

// asSet reads files as one of Dragonfly's sets.
func asSet(t *testing.T, files fstest.MapFS, shards int, keys, commands int64) {
	t.Helper()
	set, err := dfs.Open(files, "x-summary.dfs")
	if err != nil {
		t.Fatal(err)
	}
	if !set.Counted || len(set.Shards) != shards || len(set.Stale) > 0 {
		t.Errorf("the set: %+v", set)
	}
	var all rdb.Stats
	err = set.Read(t.Context(), 1, nil, func(_ string, r *rdb.Reader) error {
		for _, err := range r.Entries() {
			if err != nil {
				return err
			}
		}
		all.Add(r.Stats())
		return nil
	})
	if err != nil || all.Keys != keys || all.Journal != commands {
		t.Errorf("%d keys and %d commands, %v; want %d and %d", all.Keys, all.Journal, err, keys, commands)
	}
	delete(files, fmt.Sprintf("x-%04d.dfs", shards-1))
	if _, err := dfs.Open(files, "x-summary.dfs"); !errors.Is(err, dfs.ErrIncomplete) {
		t.Errorf("a set without its last file: %v", err)
	}
}

// TestRandomRuns makes backups of masters whose connections end at random, with parts that are read by many or few: each is whole or none.
func TestRandomRuns(t *testing.T) {
	goroutines(t)
	seeds := uint64(16)
	if campaign() {
		seeds = 500
	}
	whole := 0
	for seed := range seeds {
		rnd := rand.New(rand.NewPCG(seed, 5))
		shards := 1 + rnd.IntN(8)
		cfg := dflymaster.Config{}
		var keys, commands int64
		size := 0
		for i := range shards {
			one := makeFlow(rnd, i, shards)
			cfg.Flows = append(cfg.Flows, one.flow)
			keys, commands, size = keys+one.keys, commands+one.commands, size+len(one.flow.Static)
		}
		var m *dflymaster.Master
		cfg.Send = cutAfter(rnd.IntN(shards), int64(rnd.IntN(2*size/shards)), &m)
		m = dflymaster.Start(t, cfg)
		b, _, err := run(t, snapshotter(t, m, nil), func(q *backup.Request) { q.Parallel = 1 + rnd.IntN(10) })
		switch {
		case err == nil:
			whole++
			if b.Keys != keys || b.Commands != commands || len(b.Parts) != shards+1 {
				t.Errorf("seed %d: %d keys and %d commands, want %d and %d", seed, b.Keys, b.Commands, keys, commands)
			}
		case !errors.Is(err, backup.ErrSource) || errors.Is(err, context.Canceled):
			t.Errorf("seed %d: %v", seed, err)
		}
		gone(t, m)
		m.Close()
	}
	if whole == 0 || whole == int(seeds) {
		t.Errorf("%d of %d backups are whole: this tests nothing", whole, seeds)
	}
}
