package dragonfly_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/dragonfly"
	"github.com/amberkv/amber/backup/snapshottest"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/storecatalog"
	"github.com/amberkv/amber/internal/dflymaster"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/storage/memstore"
)

// TestContract runs the suite of all snapshotters.
func TestContract(t *testing.T) {
	goroutines(t)
	master := func(t *testing.T, change func(*dflymaster.Config)) *dflymaster.Master {
		cfg := dflymaster.Config{Flows: dflymaster.Keys(3, 50), Password: canary}
		if change != nil {
			change(&cfg)
		}
		return dflymaster.Start(t, cfg)
	}
	m := master(t, nil)
	// hold returns what waits until the test ends.
	hold := func(t *testing.T) chan struct{} {
		c := make(chan struct{})
		t.Cleanup(func() { close(c) })
		return c
	}
	snapshottest.Run(t, func(t *testing.T) backup.Snapshotter { return snapshotter(t, m, nil) }, &snapshottest.Options{
		Secret:   canary,
		Released: func(t *testing.T) { gone(t, m) },
		Check: func(t *testing.T, p backup.Part, r io.Reader) {
			in := rdb.NewReader(r, nil)
			for _, err := range in.Entries() {
				if err != nil {
					t.Errorf("part %s: %v", p.Name, err)
				}
			}
			want := int64(50)
			if p.Name == "summary.dfs" {
				want = 0
			}
			if n := in.Stats().Keys; n != want {
				t.Errorf("part %s has %d keys, want %d", p.Name, n, want)
			}
		},
		Stalled: func(t *testing.T) backup.Snapshotter {
			var until chan struct{}
			m := master(t, func(cfg *dflymaster.Config) {
				cfg.Send = func(flow int, w io.Writer, p []byte) error {
					if flow == 1 && len(p) > 9 {
						<-until
					}
					_, err := w.Write(p)
					return err
				}
			})
			until = hold(t)
			return snapshotter(t, m, nil)
		},
		Waiting: func(t *testing.T) backup.Snapshotter {
			var until chan struct{}
			m := master(t, func(cfg *dflymaster.Config) {
				cfg.Answer = func(args []string) []byte {
					if slices.Contains(args, "SYNC") {
						<-until
					}
					return nil
				}
			})
			until = hold(t)
			return snapshotter(t, m, nil)
		},
		Failing: map[string]func(t *testing.T) backup.Snapshotter{
			"wrong password": func(t *testing.T) backup.Snapshotter {
				m := master(t, func(cfg *dflymaster.Config) { cfg.Password = "another" })
				return snapshotter(t, m, func(cfg *dragonfly.Config) { cfg.Options.Password = canary })
			},
			"replica": func(t *testing.T) backup.Snapshotter {
				return snapshotter(t, master(t, func(cfg *dflymaster.Config) { cfg.Replica = true }), nil)
			},
			"quoted in an error": func(t *testing.T) backup.Snapshotter {
				return snapshotter(t, master(t, func(cfg *dflymaster.Config) {
					cfg.Answer = func(args []string) []byte {
						if slices.Contains(args, "FLOW") {
							return []byte("-ERR what is " + canary + "?\r\n")
						}
						return nil
					}
				}), nil)
			},
		},
	})
}

// run makes a backup of a master in a new store.
func run(t *testing.T, s backup.Snapshotter, change func(*backup.Request)) (*catalog.Backup, *memstore.Store, error) {
	t.Helper()
	store := memstore.New(nil)
	c, err := storecatalog.New(storecatalog.Config{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	runner, err := backup.NewRunner(backup.Config{Store: store, Catalog: c, Leaser: c})
	if err != nil {
		t.Fatal(err)
	}
	q := backup.Request{DataStore: "ds", Snapshotter: s}
	if change != nil {
		change(&q)
	}
	b, err := runner.Run(t.Context(), q)
	if err != nil {
		for b, lerr := range c.List(t.Context(), catalog.Query{DataStore: "ds"}) {
			if lerr != nil || b.State == catalog.StateReady {
				t.Errorf("the run failed, and there is %+v, %v", b, lerr)
			}
		}
	}
	return b, store, err
}

// TestRunner makes a backup of a master of many shards that is written to.
func TestRunner(t *testing.T) {
	goroutines(t)
	flows := dflymaster.Keys(16, 100)
	for i := range flows {
		before := dflymaster.Block(append(dflymaster.Journal(0, 1, "SET", "a", "b"), dflymaster.Journal(0, 2, "DEL", "a")...))
		end := len(flows[i].Static) - len(dflymaster.SyncEnd())
		flows[i].Static = slices.Concat(flows[i].Static[:end], before, dflymaster.SyncEnd())
		flows[i].After = dflymaster.Journal(3, 3, "HSET", "h", "f", "\xc8\x00\x00\x00\x00\x00\x00\x00\x00")
		flows[i].Final = slices.Concat(dflymaster.Journal(0, 4, "SET", "last", "one"), dflymaster.End(uint64(100+i)))
		flows[i].Stable = dflymaster.Journal(0, 5, "SET", "not", "ours")
	}
	m := dflymaster.Start(t, dflymaster.Config{Flows: flows, Send: dflymaster.Pieces(700)})
	b, _, err := run(t, snapshotter(t, m, nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	if b.State != catalog.StateReady || len(b.Parts) != 17 || b.Keys != 1600 || b.Commands != 16*4 || b.Source.Dialect != "dragonfly:9" {
		t.Errorf("%s, %d parts, %d keys, %d commands, %s", b.State, len(b.Parts), b.Keys, b.Commands, b.Source.Dialect)
	}
	if b.Source.Time.IsZero() || b.Source.Cost == nil || b.Source.Cost.Bytes == 0 || b.Source.Method != "flows" || b.Source.ReplicationID != m.ID() {
		t.Errorf("source %+v", b.Source)
	}
	for i, p := range b.Parts[:16] {
		if p.Shard == nil || p.Shard.ReplicationOffset != int64(100+i) || p.Commands != 4 || p.Keys != 100 || p.Dialect != "dragonfly:9" {
			t.Errorf("part %d: %+v, shard %+v", i, p, p.Shard)
		}
	}
	if last := b.Parts[16]; last.Shard != nil || last.Keys != 0 || last.Dialect != "dragonfly:9" {
		t.Errorf("summary: %+v", last)
	}
	gone(t, m)
}

// TestLongValue makes a backup of a flow in which a value was on its way for long: so much came between its pieces that memory doesn't hold it.
func TestLongValue(t *testing.T) {
	const fields = 3
	piece := func(p []byte) []byte {
		b := binary.LittleEndian.AppendUint32([]byte{0xe0}, 1)
		return append(binary.LittleEndian.AppendUint32(b, uint32(len(p))), p...)
	}
	field := func(b []byte, n int) []byte { return dflymaster.String(append(b, 1, byte('a'+n)), "value") }
	stream := dflymaster.Head(0, 1)
	stream = append(stream, piece(field(append(dflymaster.String([]byte{4}, "long"), fields), 0))...)
	keys := int64(1)
	for f := 1; f < fields; f++ {
		for range 300 {
			stream = dflymaster.String(dflymaster.String(append(stream, 0), fmt.Sprint("key", keys)), strings.Repeat("x", 10000))
			keys++
		}
		stream = append(stream, piece(field(nil, f))...)
	}
	m := dflymaster.Start(t, dflymaster.Config{Flows: []dflymaster.Flow{dflymaster.FlowOf(append(stream, dflymaster.End(0)[9:]...), keys)}, Stall: 20 * time.Second})
	b, _, err := run(t, snapshotter(t, m, nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	if b.Keys != keys {
		t.Errorf("%d keys, want %d", b.Keys, keys)
	}
}
