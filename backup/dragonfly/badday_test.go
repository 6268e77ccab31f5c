package dragonfly_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/dragonfly"
	"github.com/amberkv/amber/internal/dflymaster"
	"github.com/amberkv/amber/rdb"
)

// campaign says whether the long forms run.
func campaign() bool { return os.Getenv("CAMPAIGN") != "" }

// cutAfter sends the flow up to a byte and then ends its connection.
func cutAfter(flow int, n int64, m **dflymaster.Master) func(int, io.Writer, []byte) error {
	var sent atomic.Int64
	return func(f int, w io.Writer, p []byte) error {
		if f != flow {
			_, err := w.Write(p)
			return err
		}
		part := p[:min(int64(len(p)), max(n-sent.Load(), 0))]
		sent.Add(int64(len(p)))
		_, err := w.Write(part)
		if len(part) < len(p) {
			(*m).KickFlow(flow)
			return io.ErrClosedPipe
		}
		return err
	}
}

// TestCutAtEveryByte ends each flow at every byte. Only behind the last is there a snapshot.
func TestCutAtEveryByte(t *testing.T) {
	goroutines(t)
	flows := dflymaster.Keys(2, 2)
	for i := range flows {
		flows[i].Static = slices.Concat(flows[i].Static[:len(flows[i].Static)-9], dflymaster.Block(bytes.Repeat([]byte{0xfe, 0}, 100)), dflymaster.SyncEnd())
		flows[i].After = dflymaster.Journal(0, 1, "SET", "k", "v")
	}
	for flow := range 2 {
		whole := int64(len(flows[flow].Static) + len(flows[flow].After) + len(flows[flow].Final) + 40)
		step := int64(3)
		if campaign() {
			step = 1
		}
		for n := int64(flow); n <= whole; n += step {
			if n+step > whole {
				n = whole
			}
			var m *dflymaster.Master
			m = dflymaster.Start(t, dflymaster.Config{Flows: flows, Send: cutAfter(flow, n, &m)})
			_, parts, err := take(t, snapshotter(t, m, nil))
			var e *backup.SourceError
			switch {
			case n == whole && err != nil:
				t.Errorf("flow %d is whole: %v", flow, err)
			case n < whole && (err == nil || !errors.As(err, &e) || errors.Is(err, io.EOF)):
				t.Errorf("flow %d of %d bytes was cut after %d: %v, parts %d", flow, whole, n, err, len(parts))
			}
			gone(t, m)
			m.Close()
		}
	}
}

// TestRecordedCuts cuts the recorded flows at the boundaries of what was recorded, and makes no backup of it.
func TestRecordedCuts(t *testing.T) {
	rec := recordings(t)
	every := 24
	if campaign() {
		every = 1
	}
	for flow, r := range rec {
		for i := 0; i < len(r.events); i += every {
			n := int64(r.events[i])
			if n >= int64(len(r.whole)+40) {
				break
			}
			var m *dflymaster.Master
			m, _ = replay(t, cutAfter(flow, n, &m))
			if _, _, err := run(t, snapshotter(t, m, nil), nil); !errors.Is(err, backup.ErrSource) {
				t.Errorf("flow %d was cut after %d bytes of %d: %v", flow, n, len(r.whole), err)
			}
			gone(t, m)
			m.Close()
		}
	}
}

// TestFails has masters on which something goes wrong while they send.
func TestFails(t *testing.T) {
	goroutines(t)
	journal := func(args ...string) func(*dflymaster.Config) {
		return func(c *dflymaster.Config) { c.Flows[1].After = dflymaster.Journal(0, 7, args...) }
	}
	before := func(records []byte) func(*dflymaster.Config) {
		return func(c *dflymaster.Config) {
			s := c.Flows[2].Static
			c.Flows[2].Static = slices.Concat(s[:len(s)-9], records, s[len(s)-9:])
		}
	}
	for name, test := range map[string]struct {
		change func(*dflymaster.Config)
		want   string
	}{
		"FLUSHALL":            {journal("FLUSHALL"), "flow 1: FLUSHALL was executed while the data was sent"},
		"flushdb async":       {journal("flushdb", "async"), "FLUSHDB was executed"},
		"FLUSHSLOTS":          {journal("DFLYCLUSTER", "FLUSHSLOTS", "1", "5"), "DFLYCLUSTER FLUSHSLOTS was executed"},
		"FLUSHALL before":     {before(dflymaster.Journal(0, 7, "FLUSHALL")), "flow 2: FLUSHALL was executed"},
		"FLUSHALL in a block": {before(dflymaster.Block(dflymaster.Journal(0, 7, "FLUSHALL"))), "flow 2: FLUSHALL was executed"},
		"FLUSHALL at the end": {func(c *dflymaster.Config) {
			c.Flows[0].Final = slices.Concat(dflymaster.Journal(0, 7, "FLUSHALL"), c.Flows[0].Final)
		}, "flow 0: FLUSHALL was executed"},
		"another's token": {func(c *dflymaster.Config) {
			c.Flows[1].Final = slices.Concat(c.Flows[1].Final, []byte(strings.Repeat("0123456789", 4)))
		}, "doesn't end with the token of this flow"},
		"no journal offset": {func(c *dflymaster.Config) { c.Flows[1].Final = c.Flows[1].Final[9:] }, "without its position in the journal"},
		"absurd offset":     {func(c *dflymaster.Config) { c.Flows[1].Final = dflymaster.End(1 << 63) }, "ends at entry 9223372036854775808"},
		"two static ends":   {func(c *dflymaster.Config) { c.Flows[1].After = dflymaster.SyncEnd() }, "the static part ends twice"},
		"ends by itself":    {func(c *dflymaster.Config) { c.Flows[1].After = dflymaster.End(1) }, "before the master was asked to end it"},
		"ends too early":    {before(dflymaster.End(1)), "before its static part does"},
		"garbage":           {before([]byte{0xc7}), "opcode 199"},
		"no RDB":            {func(c *dflymaster.Config) { c.Flows[0].Static = []byte("-ERR nothing to be had here\r\n") }, "this is no RDB"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := dflymaster.Config{Flows: dflymaster.Keys(3, 20)}
			test.change(&cfg)
			m := dflymaster.Start(t, cfg)
			_, _, err := run(t, snapshotter(t, m, nil), nil)
			var e *backup.SourceError
			if !errors.As(err, &e) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
			gone(t, m)
			// Some end while the master still sends what it thinks to be static.
			if v := m.Violations(); len(v) > 0 && !strings.Contains(name, "ends") {
				t.Error(v)
			}
		})
	}
	t.Run("flow is lost", func(t *testing.T) {
		var m *dflymaster.Master
		m = dflymaster.Start(t, dflymaster.Config{Flows: dflymaster.Keys(3, 20), Answer: func(args []string) []byte {
			if strings.Join(args[:min(len(args), 2)], " ") == "DFLY STARTSTABLE" {
				m.KickFlow(1)
				return dflymaster.Hangup
			}
			return nil
		}})
		if _, _, err := run(t, snapshotter(t, m, nil), nil); !errors.Is(err, backup.ErrSource) || !strings.Contains(err.Error(), "closed the connection") {
			t.Error(err)
		}
		gone(t, m)
	})
	t.Run("another ID", func(t *testing.T) {
		var m *dflymaster.Master
		m = dflymaster.Start(t, dflymaster.Config{Flows: dflymaster.Keys(3, 20), Answer: func(args []string) []byte {
			if strings.Join(args[:min(len(args), 2)], " ") == "DFLY STARTSTABLE" {
				m.SetID(recordedID)
			}
			return nil
		}})
		if _, _, err := run(t, snapshotter(t, m, nil), nil); err == nil || !strings.Contains(err.Error(), "replication ID changed while it sent its data") {
			t.Error(err)
		}
		gone(t, m)
	})
	t.Run("STARTSTABLE is refused", func(t *testing.T) {
		m := dflymaster.Start(t, dflymaster.Config{Answer: func(args []string) []byte {
			if strings.Join(args[:min(len(args), 2)], " ") == "DFLY STARTSTABLE" {
				return []byte("-ERR invalid state\r\n")
			}
			return nil
		}})
		if _, _, err := run(t, snapshotter(t, m, nil), nil); err == nil || !strings.Contains(err.Error(), "DFLY STARTSTABLE: invalid state") && !strings.Contains(err.Error(), "DFLY STARTSTABLE: ERR invalid state") {
			t.Error(err)
		}
		gone(t, m)
	})
}

// TestMasterStalls ends with an error when what has to send is silent.
func TestMasterStalls(t *testing.T) {
	goroutines(t)
	flows := dflymaster.Keys(3, 20)
	for name, at := range map[string]int{
		"at its head": 3, "among keys": 300, "before the static end": len(flows[1].Static) - 4,
		"before the end": len(flows[1].Static) + 10, "before the token": len(flows[1].Static) + len(flows[1].Final), "in the token": len(flows[1].Static) + len(flows[1].Final) + 39,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			until := make(chan struct{})
			sent := 0
			m := dflymaster.Start(t, dflymaster.Config{Flows: flows, Send: func(flow int, w io.Writer, p []byte) error {
				if flow == 1 && sent+len(p) > at {
					_, err := w.Write(p[:max(at-sent, 0)])
					<-until
					return cmpError(err, io.ErrClosedPipe)
				}
				if flow == 1 {
					sent += len(p)
				}
				_, err := w.Write(p)
				return err
			}})
			t.Cleanup(func() { close(until) })
			_, _, err := run(t, snapshotter(t, m, func(c *dragonfly.Config) { c.StallTimeout = 400 * time.Millisecond }), nil)
			if !errors.Is(err, backup.ErrStalled) {
				t.Errorf("%v, want one that wraps ErrStalled", err)
			}
		})
	}
}

func cmpError(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// TestSlowShard waits for a shard that is slower than the stall time while the others have nothing to send.
func TestSlowShard(t *testing.T) {
	m := dflymaster.Start(t, dflymaster.Config{Flows: dflymaster.Keys(3, 20), Send: func(flow int, w io.Writer, p []byte) error {
		if flow != 1 || len(p) < 100 {
			_, err := w.Write(p)
			return err
		}
		for c := range slices.Chunk(p, len(p)/6+1) {
			time.Sleep(250 * time.Millisecond)
			if _, err := w.Write(c); err != nil {
				return err
			}
		}
		return nil
	}})
	// The slow one sends for 1.5 s, never silent for a second; the others are done at once.
	mustTake(t, snapshotter(t, m, func(c *dragonfly.Config) { c.StallTimeout = time.Second }))
}

// big makes flows of so many bytes each, of keys that don't compress.
func big(shards, size int) []dflymaster.Flow {
	var out []dflymaster.Flow
	rnd := rand.NewChaCha8([32]byte{1})
	for i := range shards {
		b := dflymaster.Head(i, shards)
		value := make([]byte, 1000)
		keys := int64(0)
		for len(b) < size {
			rnd.Read(value)
			copy(value[500:], "\xc8\x00\x00\x00\x00\x00\x00\x00\x00") // what looks like the end
			b = dflymaster.String(dflymaster.String(append(b, 0), fmt.Sprintf("key:%d:%d", i, keys)), string(value))
			keys++
		}
		out = append(out, dflymaster.FlowOf(append(b, dflymaster.End(0)[9:]...), keys))
	}
	return out
}

// TestNobodyReads lets the flows come though no part is read, and then reads them: from memory and the spool.
func TestNobodyReads(t *testing.T) {
	goroutines(t)
	flows := big(5, 2200<<10)
	m := dflymaster.Start(t, dflymaster.Config{Flows: flows, Stall: 20 * time.Second})
	dir := t.TempDir()
	s := snapshotter(t, m, func(c *dragonfly.Config) { c.SpoolDir = dir })
	sn, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer sn.Close()
	gone(t, m) // the master has sent all, though nobody has read a byte
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 {
		t.Errorf("files of the spool have names: %v", left)
	}
	if used := dragonfly.Spooled(sn); used == 0 || used > 16<<20 {
		t.Errorf("%d bytes are in the spool", used)
	}
	parts := sn.Parts()
	slices.Reverse(parts)
	for _, p := range parts {
		r, err := sn.Open(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		for i, f := range flows {
			if p.Name == fmt.Sprintf("%04d.dfs", i) && !bytes.Equal(b, slices.Concat(f.Static, f.Final)) {
				t.Errorf("part %s has %d bytes, which aren't those of its flow", p.Name, len(b))
			}
		}
	}
	if used := dragonfly.Spooled(sn); used != 0 {
		t.Errorf("%d bytes are in the spool after all was read", used)
	}
}

// TestSlowStore reads at some KiB a second, which is nothing to the master.
func TestSlowStore(t *testing.T) {
	goroutines(t)
	m := dflymaster.Start(t, dflymaster.Config{Flows: dflymaster.Keys(6, 300), Stall: 20 * time.Second})
	sn, err := snapshotter(t, m, nil).Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer sn.Close()
	var group sync.WaitGroup
	for _, p := range sn.Parts() {
		group.Go(func() {
			r, err := sn.Open(t.Context(), p)
			if err != nil {
				t.Error(err)
				return
			}
			in := rdb.NewReader(&slow{r}, nil)
			for _, err := range in.Entries() {
				if err != nil {
					t.Errorf("part %s: %v", p.Name, err)
				}
			}
			if _, err := io.Copy(io.Discard, r); err != nil {
				t.Error(err)
			}
		})
	}
	gone(t, m)
	group.Wait()
}

type slow struct{ r io.Reader }

func (s *slow) Read(p []byte) (int, error) {
	time.Sleep(20 * time.Millisecond)
	return s.r.Read(p[:min(len(p), 1024)])
}

// TestSpoolFull fails and leaves the master when the store is too slow for too long, be that before the master has said that it sends or after.
func TestSpoolFull(t *testing.T) {
	for range 10 {
		spoolFull(t)
	}
}

func spoolFull(t *testing.T) {
	goroutines(t)
	m := dflymaster.Start(t, dflymaster.Config{Flows: big(4, 4<<20), Stall: 20 * time.Second})
	s := snapshotter(t, m, func(c *dragonfly.Config) { c.SpoolLimit = 1 << 20 })
	sn, err := s.Snapshot(t.Context())
	if err == nil {
		defer sn.Close()
		gone(t, m)
		var r io.ReadCloser
		if r, err = sn.Open(t.Context(), sn.Parts()[0]); err == nil {
			_, err = io.ReadAll(r)
		}
	}
	gone(t, m)
	var e *backup.SourceError
	if !errors.As(err, &e) || !strings.Contains(err.Error(), "raise SpoolLimit") || !strings.Contains(err.Error(), "the synchronisation was ended") {
		t.Errorf("%v", err)
	}
}

// TestSpoolFails has no place for the spool.
func TestSpoolFails(t *testing.T) {
	m := dflymaster.Start(t, dflymaster.Config{Flows: big(4, 4<<20), Stall: 20 * time.Second})
	s := snapshotter(t, m, func(c *dragonfly.Config) { c.SpoolDir = filepath.Join(t.TempDir(), "none") })
	sn, err := s.Snapshot(t.Context())
	if err == nil {
		defer sn.Close()
		gone(t, m)
		var r io.ReadCloser
		if r, err = sn.Open(t.Context(), sn.Parts()[0]); err == nil {
			_, err = io.ReadAll(r)
		}
	}
	gone(t, m)
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// TestCancelAnywhere cancels at every command and at random bytes: a call returns within a second, and all connections are closed.
func TestCancelAnywhere(t *testing.T) {
	goroutines(t)
	for seed := range uint64(40) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		ctx, cancel := context.WithCancel(t.Context())
		var commands, bytes atomic.Int64
		stopAt, stopBytes := int64(1+rnd.IntN(30)), int64(1+rnd.IntN(20000))
		m := dflymaster.Start(t, dflymaster.Config{
			Flows: dflymaster.Keys(8, 100),
			Answer: func([]string) []byte {
				if commands.Add(1) == stopAt && seed%2 == 0 {
					cancel()
				}
				return nil
			},
			Send: func(_ int, w io.Writer, p []byte) error {
				for c := range slices.Chunk(p, 97) {
					if bytes.Add(int64(len(c))) > stopBytes && seed%2 == 1 {
						cancel()
					}
					if _, err := w.Write(c); err != nil {
						return err
					}
				}
				return nil
			},
		})
		var cancelled atomic.Int64
		stop := context.AfterFunc(ctx, func() { cancelled.Store(time.Now().UnixNano()) })
		sn, err := snapshotter(t, m, nil).Snapshot(ctx)
		for p := 0; err == nil && p < len(sn.Parts()); p++ {
			var r io.ReadCloser
			if r, err = sn.Open(ctx, sn.Parts()[p]); err == nil {
				_, err = io.Copy(io.Discard, r)
				r.Close()
			}
		}
		if sn != nil {
			sn.Close()
		}
		ended := time.Now()
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("seed %d: %v", seed, err)
		}
		if at := cancelled.Load(); !stop() && err != nil && at > 0 {
			if took := ended.Sub(time.Unix(0, at)); took > 3*time.Second {
				t.Errorf("seed %d: it took %v", seed, took)
			}
		}
		gone(t, m)
		cancel()
		m.Close()
	}
}

// TestEndNeverComes has a master that says that it ends the flows, and doesn't.
func TestEndNeverComes(t *testing.T) {
	cfg := dflymaster.Config{Flows: dflymaster.Keys(3, 20)}
	answers("DFLY STARTSTABLE", "+OK\r\n")(&cfg)
	m := dflymaster.Start(t, cfg)
	_, _, err := take(t, snapshotter(t, m, func(c *dragonfly.Config) { c.StallTimeout = 300 * time.Millisecond }))
	if !errors.Is(err, backup.ErrStalled) {
		t.Errorf("%v, want one that wraps ErrStalled", err)
	}
	gone(t, m)
}

// TestJournalGoesOn reads what follows the ends of the flows, and forgets it, until all have ended: the master waits for that.
func TestJournalGoesOn(t *testing.T) {
	flows := dflymaster.Keys(3, 20)
	flows[0].Stable = make([]byte, 32<<20)
	m := dflymaster.Start(t, dflymaster.Config{Flows: flows, Stall: 10 * time.Second})
	_, parts := mustTake(t, snapshotter(t, m, nil))
	if n := len(parts["0000.dfs"]); n != len(flows[0].Static)+len(flows[0].Final) {
		t.Errorf("the flow has %d bytes", n)
	}
}

// TestOneFlowRefused doesn't wait for flows that hang when another was refused.
func TestOneFlowRefused(t *testing.T) {
	until := make(chan struct{})
	m := dflymaster.Start(t, dflymaster.Config{Flows: dflymaster.Keys(6, 1), Answer: func(args []string) []byte {
		if len(args) == 5 && args[1] == "FLOW" {
			if args[4] == "3" {
				time.Sleep(50 * time.Millisecond)
				return []byte("-ERR invalid state\r\n")
			}
			<-until
		}
		return nil
	}})
	t.Cleanup(func() { close(until) })
	started := time.Now()
	_, _, err := take(t, snapshotter(t, m, func(c *dragonfly.Config) { c.ConnectTimeout = time.Minute }))
	if err == nil || !strings.Contains(err.Error(), "DFLY FLOW 3") || time.Since(started) > 20*time.Second {
		t.Errorf("after %v: %v", time.Since(started), err)
	}
}
