package backup

import (
	"context"
	"hash"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// chunk is a piece of the stream that several lanes read at the same time. The last of them gives it back.
type chunk struct {
	free  chan<- *chunk
	buf   []byte
	data  []byte // what of buf is filled
	users atomic.Int32
}

// fill reads until the chunk is full or r has no more: a socket gives small pieces, and handing on costs the same for any
// size. What was read before an error is in the chunk.
func (c *chunk) fill(r io.Reader) error {
	c.data = c.buf[:0]
	for len(c.data) < len(c.buf) {
		n, err := r.Read(c.buf[len(c.data):])
		c.data = c.buf[:len(c.data)+n]
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *chunk) release() {
	if c.users.Add(-1) == 0 {
		c.free <- c // never waits: there is room for every chunk
	}
}

// lane brings the chunks to one of their readers.
type lane struct {
	ctx context.Context
	ch  chan *chunk

	now  *chunk // being read by Read
	rest []byte // of it
}

func newLane(ctx context.Context) *lane {
	return &lane{ctx: ctx, ch: make(chan *chunk, chunks)} // no part has more
}

// next returns the next chunk, which the caller releases; io.EOF after the last.
func (l *lane) next() (*chunk, error) {
	select {
	case c, ok := <-l.ch:
		if !ok {
			return nil, io.EOF
		}
		return c, nil
	case <-l.ctx.Done():
		return nil, context.Cause(l.ctx)
	}
}

// Read makes a lane a stream.
func (l *lane) Read(p []byte) (int, error) {
	for len(l.rest) == 0 {
		if l.now != nil {
			l.now.release()
			l.now = nil
		}
		c, err := l.next()
		if err != nil {
			return 0, err
		}
		l.now, l.rest = c, c.data
	}
	n := copy(p, l.rest)
	l.rest = l.rest[n:]
	return n, nil
}

type hashingReader struct {
	r io.Reader
	h hash.Hash
}

func (r *hashingReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.h.Write(p[:n])
	return n, err
}

type countingReader struct {
	r io.Reader
	n *atomic.Int64
}

func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.n.Add(int64(n))
	return n, err
}

const progressInterval = 200 * time.Millisecond

// meter counts what a run does, for its progress.
type meter struct {
	bytes  atomic.Int64 // of this stage, beside those of the parts
	stored atomic.Int64 // likewise

	mu        sync.Mutex
	now       Stage
	total     int64
	parts     []*partMeter
	firstByte time.Time
}

// A partMeter counts what is read of a part.
type partMeter struct {
	bytes, stored, keys atomic.Int64
}

// stage begins a stage of total bytes; 0 if that isn't known. More of the same stage adds to it.
func (m *meter) stage(s Stage, total int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.now != s {
		m.now, m.total = s, 0
		m.bytes.Store(0)
	}
	m.total += total
}

// part returns what counts a part.
func (m *meter) part() *partMeter {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := new(partMeter)
	m.parts = append(m.parts, p)
	return p
}

// forget takes back what was counted of a part.
func (m *meter) forget(p *partMeter) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.parts = slices.DeleteFunc(m.parts, func(q *partMeter) bool { return q == p })
}

// begin notes when the first byte came; it returns true once.
func (m *meter) begin(t time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.firstByte.IsZero() {
		return false
	}
	m.firstByte = t
	return true
}

func (m *meter) tell(f func(Progress)) {
	if f == nil {
		return
	}
	m.mu.Lock()
	p := Progress{Stage: m.now, Bytes: m.bytes.Load(), Total: m.total, Stored: m.stored.Load()}
	for _, part := range m.parts {
		if m.now == StageTransfer {
			p.Bytes += part.bytes.Load()
		}
		p.Stored += part.stored.Load()
		p.Keys += part.keys.Load()
	}
	m.mu.Unlock()
	f(p)
}
