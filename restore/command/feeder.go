package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/amberkv/amber/rdb"
)

// A feeder reads a stream and makes commands of its entries. It is used by one goroutine; the links tell it of answers.
type feeder struct {
	r    *run
	ctx  context.Context
	in   *rdb.Reader
	ask  bool             // it only asks which keys there are
	only map[string]int64 // if not nil, the keys that are to be made anew, by database and name; see run.redo

	open      []*chunk    // by the number of the link
	next      []int       // by the number of the node, which of its links gets the next chunk
	dialect   rdb.Dialect // of the stream
	takes     [256]bool   // by encoding, whether RESTORE takes it
	digits    int         // of the length of the last payload
	collect   collector
	rebuilder *rebuilder

	ordered  bool            // commands have begun: everything for a node goes over one link
	building map[string]bool // keys that are being made by several commands since then, by database and name
	words    []byte          // of a command
	ends     []int
	args     [][]byte
	keys     []int

	pending atomic.Int64  // chunks that were sent and not answered
	wake    chan struct{} // there is something new in ready, or pending is zero

	mu    sync.Mutex
	ready []*job // all commands so far were answered
	jobs  int    // that are not done
}

func newFeeder(ctx context.Context, r *run) *feeder {
	return &feeder{r: r, ctx: ctx, digits: 2, wake: make(chan struct{}, 1)}
}

// notify wakes a feeder that waits.
func (f *feeder) notify() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// feed reads a stream to its end.
func (f *feeder) feed(src io.Reader) error {
	f.in = rdb.NewReader(src, f.r.readerOptions())
	for {
		e, err := f.in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		switch e.Kind {
		case rdb.KindKey:
			err = f.key(e)
		case rdb.KindFunction:
			err = f.function(e)
		case rdb.KindJournal:
			if err = f.command(e); err == errCommands {
				return nil
			}
		}
		if err != nil {
			return err
		}
		if f.jobs > 0 {
			if err := f.finishReady(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *feeder) key(e *rdb.Entry) error {
	if f.only != nil {
		switch size, ok := f.only[jobKey(e.DB, e.Key)]; {
		case !ok:
			return nil
		case size > 0:
			return f.stream(e, size)
		}
	}
	if f.ordered {
		name := jobKey(e.DB, e.Key)
		if f.building[name] {
			if err := f.flush(); err != nil {
				return err
			}
		}
	}
	switch {
	case f.ask:
		return f.exists(e)
	case f.restorable(e):
		return f.restore(e)
	}
	return f.build(e)
}

// restorable tells whether an entry goes by RESTORE: the target takes its encoding, and no expiries in it are to be put off.
func (f *feeder) restorable(e *rdb.Entry) bool {
	// What is Dragonfly's is seen in the middle of the stream.
	if d := f.in.Dialect(); d != f.dialect {
		f.dialect = d
		for code := range f.takes {
			f.takes[code] = f.r.restores(d, uint8(code)) && !(f.r.parksFields && encodingOf(d, uint8(code)).expiring())
		}
	}
	return f.takes[e.Encoding]
}

// linkFor returns the link over which a key goes now.
func (f *feeder) linkFor(key []byte) *link {
	n := f.r.topo.Load().of(key)
	for n.id >= len(f.next) {
		f.next = append(f.next, 0)
	}
	if f.ordered {
		return n.links[0]
	}
	return n.links[f.next[n.id]]
}

// chunk returns the open chunk of a link, with the database selected, and room for a command of common size.
func (f *feeder) chunk(l *link, db int) (*chunk, error) {
	for l.id >= len(f.open) {
		f.open = append(f.open, nil)
	}
	c := f.open[l.id]
	if c != nil && (len(c.buf) > f.r.depot.size*3/4 || len(c.ops) >= chunkOps) {
		if err := f.send(l); err != nil {
			return nil, err
		}
		c = nil
	}
	if c == nil {
		var err error
		if c, err = f.r.depot.get(f.ctx, f, l); err != nil {
			return nil, err
		}
		f.open[l.id] = c
	}
	f.r.selectDB(c, db)
	return c, nil
}

// selectDB adds what selects a database if it isn't selected.
func (r *run) selectDB(c *chunk, db int) {
	if c.db < 0 && r.cluster() {
		c.db = 0 // a cluster's connection begins there; most clusters have no other
		if r.manyDBs {
			c.db = -1
		}
	}
	if c.db == db {
		return
	}
	var digits [20]byte
	c.buf = append(c.buf, "*2\r\n$6\r\nSELECT\r\n"...)
	c.buf = appendBytes(c.buf, strconv.AppendInt(digits[:0], int64(db), 10))
	c.add(op{kind: opSelect, db: int32(db)})
	c.db = db
}

// send gives the open chunk of a link to it; the next one is for another link of the same node.
func (f *feeder) send(l *link) error {
	c := f.open[l.id]
	if c == nil {
		return nil
	}
	f.open[l.id] = nil
	if err := f.r.depot.grown(f.ctx, c); err != nil {
		return err
	}
	f.pending.Add(1)
	select {
	case l.queue <- c:
	case <-f.ctx.Done():
		return context.Cause(f.ctx)
	}
	f.next[l.node.id] = (f.next[l.node.id] + 1) % len(l.node.links)
	return nil
}

// restore makes a RESTORE command of a value. One that is too large for that is made by other commands.
func (f *feeder) restore(e *rdb.Entry) error {
	l := f.linkFor(e.Key)
	c, err := f.chunk(l, e.DB)
	if err != nil {
		return err
	}
	start := len(c.buf)
	h := f.head(e)
	b := f.appendHead(c.buf, e, h)
	length := len(b) + 1
	b = append(b, "$0000000000"[:1+f.digits]...)
	b = append(b, '\r', '\n')

	f.collect = collector{feeder: f, entry: e, buf: b, start: start, payload: len(b), limit: f.r.limit(e)}
	n, err := f.in.WriteRaw(&f.collect)
	switch {
	case err != nil && f.collect.err != nil:
		return f.collect.err
	case errors.Is(err, rdb.ErrUnsupported) && f.collect.large == nil:
		c.buf = b[:start]
		return f.r.failKey(int32(e.DB), e.Key, err.Error())
	case err != nil:
		if f.collect.large != nil {
			f.collect.large.abandon()
		}
		return err
	case f.collect.large != nil:
		return f.collect.large.finish(n)
	}
	b = f.collect.buf
	b = f.setLength(b, length, f.collect.payload, int(n))
	b = f.appendTail(b, e, h)
	f.put(l, c, b, start, h.op)
	return nil
}

// put makes b the contents of a chunk, of which what begins at start is a new command. If it had to be moved for lack of room, the
// commands before it stay where they are, for they may be on their way already, and the chunk is two now.
func (f *feeder) put(l *link, c *chunk, b []byte, start int, o op) {
	if cap(b) == cap(c.buf) || start == c.from {
		c.buf = b
		c.add(o)
		return
	}
	n := &chunk{buf: b, from: start, db: c.db, cost: c.cost, feed: f, link: l}
	c.cost = 0
	n.add(o)
	f.open[l.id] = n
	f.pending.Add(1)
	select {
	case l.queue <- c:
	case <-f.ctx.Done():
	}
}

// setLength writes the length of a payload of n bytes that begins at payload, where room for f.digits digits was left.
func (f *feeder) setLength(b []byte, at, payload, n int) []byte {
	var digits [20]byte
	text := strconv.AppendInt(digits[:0], int64(n), 10)
	if d := len(text) - f.digits; d != 0 {
		f.digits = len(text)
		for range d {
			b = append(b, 0)
		}
		copy(b[payload+d:], b[payload:payload+n])
		b = b[:payload+d+n]
		copy(b[at+len(text):], "\r\n")
	}
	copy(b[at:], text)
	return b
}

// A collector takes a payload behind the beginning of its command, and what is too large elsewhere.
type collector struct {
	feeder  *feeder
	entry   *rdb.Entry
	buf     []byte
	start   int // of the command
	payload int
	limit   int
	large   *large // takes the payload since it is known to be larger than limit
	err     error  // that isn't the source's
}

func (c *collector) Write(p []byte) (int, error) {
	if c.large == nil && len(c.buf)-c.payload+len(p) <= c.limit {
		c.buf = append(c.buf, p...)
		return len(p), nil
	}
	if c.large == nil {
		if c.large, c.err = c.feeder.enlarge(c.buf[c.payload:]); c.err != nil {
			return 0, c.err
		}
	}
	n, err := c.large.Write(p)
	if err != nil {
		c.err = err
	}
	return n, err
}

// exists asks whether there is a key.
func (f *feeder) exists(e *rdb.Entry) error {
	l := f.linkFor(e.Key)
	c, err := f.chunk(l, e.DB)
	if err != nil {
		return err
	}
	c.buf = append(c.buf, "*2\r\n$6\r\nEXISTS\r\n"...)
	c.buf = appendBytes(c.buf, e.Key)
	c.add(op{kind: opExists, db: int32(e.DB), typ: e.Type})
	return nil
}

// flush sends all that is open, and returns when everything was answered and every value has its name.
func (f *feeder) flush() error {
	for {
		for _, c := range f.open {
			if c != nil {
				if err := f.send(c.link); err != nil {
					return err
				}
			}
		}
		if err := f.finishReady(); err != nil {
			return err
		}
		if slices.ContainsFunc(f.open, func(c *chunk) bool { return c != nil }) {
			continue
		}
		f.mu.Lock()
		done := f.jobs == 0 && f.pending.Load() == 0
		f.mu.Unlock()
		if done {
			clear(f.building)
			return nil
		}
		select {
		case <-f.wake:
		case <-f.ctx.Done():
			return context.Cause(f.ctx)
		}
	}
}

// function loads a library into every primary.
func (f *feeder) function(e *rdb.Entry) error {
	if f.only != nil {
		return nil
	}
	var source []byte
	for el, err := range f.in.Elements() {
		if err != nil {
			return err
		}
		if len(source)+len(el.Value) > maxFunction {
			return fmt.Errorf("a function library of more than %d bytes", maxFunction)
		}
		source = append(source, el.Value...)
	}
	if f.ask {
		return f.r.askFunction(f.ctx, source)
	}
	return f.r.loadFunction(f.ctx, source)
}

// maxFunction is the largest source of a library, in bytes, that is held in memory.
const maxFunction = 8 << 20
