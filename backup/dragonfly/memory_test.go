package dragonfly_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/dragonfly"
	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/internal/dflymaster"
)

// repeated is a Send that repeats the middle of a flow's static data, so that a master has much of it without holding it: what lies between the
// stream's head and its static end goes out so many times.
func repeated(flows []dflymaster.Flow, times int) func(int, io.Writer, []byte) error {
	return func(flow int, w io.Writer, p []byte) error {
		head := len(dflymaster.Head(flow, len(flows)))
		if len(p) != len(flows[flow].Static)-9 { // all but the first bytes
			_, err := w.Write(p)
			return err
		}
		if _, err := w.Write(p[:head-9]); err != nil {
			return err
		}
		for range times - 1 {
			// Under the eyes of the master's own count of what is static only the last one counts.
			if _, err := under(w).Write(p[head-9 : len(p)-9]); err != nil {
				return err
			}
		}
		_, err := w.Write(p[head-9:])
		return err
	}
}

func under(w io.Writer) io.Writer {
	if u, ok := w.(interface{ Unwrap() io.Writer }); ok {
		return u.Unwrap()
	}
	return w
}

// largeFlows makes flows of about a MiB each: keys that compress in blocks of LZ4, as a master sends them, and keys that don't.
func largeFlows(shards int) []dflymaster.Flow {
	var out []dflymaster.Flow
	rnd := rand.NewChaCha8([32]byte{2})
	value := make([]byte, 200)
	for i := range shards {
		b := dflymaster.Head(i, shards)
		for n := 0; len(b) < 1<<20; n++ {
			var block []byte
			for k := range 300 {
				block = dflymaster.String(dflymaster.String(append(block, 0), fmt.Sprintf("user:%d:%d", n, k)), fmt.Sprintf("{\"name\":\"user %d\",\"visits\":%d,\"active\":true}", k, n))
			}
			b = append(b, dflymaster.Block(block)...)
			for k := range 40 {
				rnd.Read(value)
				b = dflymaster.String(dflymaster.String(append(b, 0), fmt.Sprintf("blob:%d:%d", n, k)), string(value))
			}
			b = binary.LittleEndian.AppendUint32(append(b, 0xe0), uint32(n+1)) // a piece of a large value
			b = append(binary.LittleEndian.AppendUint32(b, 4096), make([]byte, 4096)...)
		}
		out = append(out, dflymaster.FlowOf(append(b, dflymaster.End(0)[9:]...), 0))
	}
	return out
}

// counting counts what it is given.
type counting struct{ n atomic.Int64 }

func (c *counting) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

// TestMemory holds the memory of a snapshot of 16 flows, of which few are read at a time and slowly, to its bound.
func TestMemory(t *testing.T) {
	times := 4 // 64 MiB in all
	if campaign() {
		times = 100
	}
	const shards = 16
	flows := largeFlows(shards)
	m := dflymaster.Start(t, dflymaster.Config{Flows: flows, Send: repeated(flows, times), Stall: time.Minute})
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	var most atomic.Uint64
	stop := clock.Every(20*time.Millisecond, func() {
		var now runtime.MemStats
		runtime.ReadMemStats(&now)
		most.Store(max(most.Load(), now.HeapInuse-min(now.HeapInuse, before.HeapInuse)))
	})
	started := time.Now()
	sn, err := snapshotter(t, m, nil).Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer sn.Close()
	var total counting
	for _, p := range sn.Parts() {
		r, err := sn.Open(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(&total, r); err != nil {
			t.Fatal(err)
		}
		r.Close()
	}
	took := time.Since(started)
	stop()
	t.Logf("%d MiB in %v, %d MiB/s; %d MiB of heap beside the master's %d", total.n.Load()>>20, took, int64(float64(total.n.Load()>>20)/took.Seconds()), most.Load()>>20, before.HeapInuse>>20)
	if most.Load() > 40<<20 { // which leaves a run 24 of its 64
		t.Errorf("%d MiB of heap, the bound is 40", most.Load()>>20)
	}
}

// BenchmarkFlow reads one flow, without a network and with a store that takes everything at once.
func BenchmarkFlow(b *testing.B) {
	flow := largeFlows(1)[0]
	const times = 64
	text := "redis_version:7.4.0\r\ndragonfly_version:df-v1.40.0\r\n"
	info := fmt.Sprintf("$%d\r\n%s\r\n", len(text), text)
	answers := info + "+PONG\r\n+OK\r\n*5\r\n+" + recordedID + "\r\n+SYNC1\r\n:1\r\n:5\r\n+" + recordedID + "\r\n+OK\r\n+OK\r\n" + info + "+OK\r\n"
	head := len(dflymaster.Head(0, 1))
	b.SetBytes(int64(times * (len(flow.Static) - head)))
	for b.Loop() {
		asked := make(chan struct{})
		dials := 0
		dial := func(context.Context, string, string) (net.Conn, error) {
			dials++
			if dials == 1 {
				return &canned{data: [][]byte{[]byte(answers)}, asked: asked, closed: make(chan struct{})}, nil
			}
			data := [][]byte{[]byte("*2\r\n+FULL\r\n+" + recordedID + "\r\n"), flow.Static[:head]}
			for range times {
				data = append(data, flow.Static[head:len(flow.Static)-9])
			}
			return &canned{data: append(data, flow.Static[len(flow.Static)-9:], nil, flow.Final, []byte(recordedID)), wait: asked, closed: make(chan struct{})}, nil
		}
		s, err := dragonfly.New(dragonfly.Config{Options: &redis.Options{Addr: "127.0.0.1:1", Dialer: dial}, SpoolDir: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		var sn backup.Snapshot
		if sn, err = s.Snapshot(b.Context()); err != nil {
			b.Fatal(err)
		}
		for _, p := range sn.Parts() {
			r, err := sn.Open(b.Context(), p)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, make([]byte, 256<<10)); err != nil {
				b.Fatal(err)
			}
			r.Close()
		}
		sn.Close()
	}
}

// canned is a connection on which everything was received before it began.
type canned struct {
	net.Conn
	data   [][]byte
	wait   chan struct{} // before what follows a nil
	asked  chan struct{} // closed when the end was asked for
	closed chan struct{}
}

func (c *canned) Read(p []byte) (int, error) {
	for len(c.data) > 0 && len(c.data[0]) == 0 {
		if c.data[0] == nil && c.wait != nil {
			select {
			case <-c.wait:
			case <-c.closed:
				return 0, net.ErrClosed
			}
		}
		c.data = c.data[1:]
	}
	if len(c.data) == 0 {
		<-c.closed
		return 0, net.ErrClosed
	}
	n := copy(p, c.data[0])
	if c.data[0] = c.data[0][n:]; len(c.data[0]) == 0 {
		c.data = c.data[1:]
	}
	return n, nil
}

func (c *canned) Write(p []byte) (int, error) {
	if c.asked != nil && string(p[:min(len(p), 22)]) == "*3\r\n$4\r\nDFLY\r\n$11\r\nSTA" {
		close(c.asked)
	}
	return len(p), nil
}

func (c *canned) Close() error {
	select {
	case <-c.closed:
	default:
		close(c.closed)
	}
	return nil
}
func (c *canned) SetDeadline(time.Time) error { return nil }
