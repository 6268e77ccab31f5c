package scan

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/internal/link"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/internal/resp"
)

// partName names the only part of a snapshot.
const partName = "part-0000.rdb"

// maxAgain is how often a part is read again from its beginning.
const maxAgain = 2

// A snapshot is a server that is, or will be, scanned.
type snapshot struct {
	s *Snapshotter

	mu      sync.Mutex
	node    *node // connected, before the part is opened; nil then
	source  catalog.Source
	stream  *stream
	again   int  // the part was lost so often
	mayOpen bool // again
	closed  bool
}

func (sn *snapshot) Source() catalog.Source {
	sn.mu.Lock()
	defer sn.mu.Unlock()
	src := sn.source
	if src.Scan != nil {
		counts := *src.Scan
		src.Scan = &counts
	}
	if src.Cost != nil {
		cost := *src.Cost
		src.Cost = &cost
	}
	return src
}

func (sn *snapshot) Parts() []backup.Part { return []backup.Part{{Name: partName, Size: -1}} }

func (sn *snapshot) fail(step string, err error) error {
	return &backup.SourceError{Addr: sn.source.Address, Step: step, Err: err}
}

func (sn *snapshot) Open(ctx context.Context, p backup.Part) (io.ReadCloser, error) {
	if p.Name != partName {
		return nil, sn.fail("open", fmt.Errorf("the snapshot has no part %q", p.Name))
	}
	if err := ctx.Err(); err != nil {
		return nil, sn.fail("open", err)
	}
	sn.mu.Lock()
	defer sn.mu.Unlock()
	n := sn.node
	sn.node = nil
	switch {
	case sn.closed:
		return nil, sn.fail("open", net.ErrClosed)
	case n == nil && !sn.mayOpen:
		return nil, sn.fail("open", errors.New("the part was opened before: it can be read once"))
	case n == nil:
		sn.mayOpen = false
		var err error
		if n, err = sn.s.open(ctx, sn.source.Address); err == nil {
			if err = sn.s.probe(n); err == nil {
				err = n.Release()
			}
			if err != nil {
				n.Close()
			}
		}
		if err != nil {
			return nil, err
		}
		sn.source.Time = sn.s.now()
	}
	sn.stream = sn.start(ctx, n)
	return sn.stream, nil
}

func (sn *snapshot) Close() error {
	sn.mu.Lock()
	n, st := sn.node, sn.stream
	sn.node, sn.closed = nil, true
	sn.mu.Unlock()
	if n != nil {
		n.Close()
	}
	if st != nil {
		st.Close()
	}
	return nil
}

// lost takes note that the part is lost, and tells whether it may be opened again.
func (sn *snapshot) lost() bool {
	sn.mu.Lock()
	defer sn.mu.Unlock()
	sn.again++
	sn.mayOpen = sn.again <= maxAgain
	return sn.mayOpen
}

// A stream reads what a scanner makes.
type stream struct {
	sn      *snapshot
	scanner *scanner
	out     *output
	ctx     context.Context
	cancel  context.CancelFunc
	ended   chan struct{} // the scanner has
	closing sync.Once
}

// start begins to scan a node, which is the stream's.
func (sn *snapshot) start(ctx context.Context, n *node) *stream {
	inner, cancel := context.WithCancel(ctx)
	st := &stream{sn: sn, out: newOutput(), ctx: inner, cancel: cancel, ended: make(chan struct{})}
	cfg := sn.s.cfg
	sc := &scanner{s: sn.s, ctx: inner, node: n, out: st.out, seen: newSeen(cfg.TempDir), keys: newBucket(inner, cfg.KeysPerSecond), info: n.Info,
		average: 64 << 10, window: 1}
	sc.bytes, sc.lost = newBucket(inner, cfg.BytesPerSecond), sn.lost
	if sn.s.tuning.strings {
		for i := range sc.likely {
			sc.likely[i] = 3
		}
	}
	st.scanner = sc
	started := clock.System()
	go func() {
		defer close(st.ended)
		n.Release = n.Guard(inner)
		sc.connect(n)
		err := sc.run()
		sc.wire.stop()
		if cerr := sc.seen.close(); err == nil && cerr != nil {
			err = sc.node.Fail("tell names apart", cerr)
		}
		sn.finished(sc, clock.Since(started))
		st.out.close(err)
	}()
	return st
}

// finished takes over what is known at the end.
func (sn *snapshot) finished(sc *scanner, took time.Duration) {
	sn.mu.Lock()
	defer sn.mu.Unlock()
	counts := sc.counts
	sn.source.Scan = &counts
	sn.source.Spread = took
	sn.source.Cost = &catalog.Cost{Bytes: sc.received + sc.wire.conn.R.Offset(), Duration: took}
}

func (st *stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := st.out.read(p)
	if errors.Is(err, errClosed) {
		err = st.sn.fail("read keys", net.ErrClosed)
	}
	return n, err
}

// Close ends the scan, if it is not at its end, and waits for that.
func (st *stream) Close() error {
	st.closing.Do(func() {
		st.cancel()
		st.out.end()
	})
	<-st.ended
	return nil
}

// connect makes a node that which is scanned.
func (sc *scanner) connect(n *node) {
	sc.node = n
	sc.wire = newWire(n.Conn, sc.s.cfg.StallTimeout)
	sc.wire.rate = sc.bytes
}

// recover connects again if that can help against an error of the connection, and makes what was under way be asked for again.
func (sc *scanner) recover(err error) error {
	var told *backup.SourceError
	if errors.As(err, &told) || errors.Is(err, errClosed) {
		return err
	}
	failed := sc.node.Fail("read keys", err)
	if sc.ctx.Err() != nil || link.IsReply(err) || errors.Is(err, resp.ErrProtocol) || link.TimedOut(err) {
		return failed
	}
	if sc.spoilt {
		if sc.lost() {
			return link.As(backup.ErrAgain, failed)
		}
		return failed
	}
	sc.wire.stop()
	sc.received += sc.wire.conn.R.Offset()
	if sc.progress > sc.before {
		sc.attempts = 0
	}
	sc.before = sc.progress
	for sc.attempts < len(sc.s.tuning.pauses) {
		pause := sc.s.tuning.pauses[sc.attempts]
		sc.attempts++
		sc.s.log.Warn("the connection broke: connecting again", "node", sc.node.Addr, "error", failed, "pause", pause)
		if err := clock.Sleep(sc.ctx, pause); err != nil {
			return sc.node.Fail("read keys", err)
		}
		n, err := sc.s.open(sc.ctx, sc.node.Addr)
		if err != nil {
			failed = err
			if sc.ctx.Err() != nil || errors.Is(err, backup.ErrAuth) || errors.Is(err, backup.ErrPermission) {
				return err
			}
			continue
		}
		if err := sc.resume(n); err == nil || !link.Cut(err) {
			return err
		} else {
			failed = err
		}
		sc.wire.stop()
	}
	return failed
}

// resume goes on with the scan on another connection.
func (sc *scanner) resume(n *node) error {
	same, err := n.sameData(sc.info)
	if err != nil {
		err = n.Fail("go on", err)
		n.Close()
		return err
	}
	n.dialect, n.old, n.mget, n.dbs = sc.node.dialect, sc.node.old, sc.node.mget, sc.node.dbs
	sc.connect(n)
	if err := sc.selectDB(); err != nil {
		return n.Fail("SELECT", err)
	}
	if !same && !sc.listed {
		// Another process has the keys in another order. What was read already is known.
		sc.cursor = "0"
	}
	sc.info = n.Info
	for _, r := range sc.pending[sc.head:] {
		if r.page == nil {
			sc.scanning = false
		} else {
			sc.again = append(sc.again, r)
		}
	}
	sc.pending, sc.head, sc.inFlight = sc.pending[:0], 0, 0
	return nil
}

// countExpired counts those of the keys that were gone that may have been so because their time was over.
func (sc *scanner) countExpired() error {
	if sc.counts.Gone == 0 || !sc.node.seen {
		return nil
	}
	sc.wire.command("INFO", "stats")
	text, ok, err := sc.wire.text(maxLine)
	if link.IsReply(err) {
		return nil
	}
	if err != nil {
		return sc.node.Fail("INFO", err)
	}
	if now := resp.ParseInfo(string(text)); ok {
		sc.counts.Expired = min(sc.counts.Gone, max(now.Int("expired_keys")-sc.info.Int("expired_keys"), 0))
	}
	return nil
}
