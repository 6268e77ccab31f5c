package command

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"

	"github.com/amberkv/amber/rdb"
)

// Sizes of what is in memory. A command is kept until the target has answered it, for it may have to be sent again.
const (
	unitSize    = 256 << 10 // that commands are collected in, and written at once
	chunkFloor  = 16 << 10  // with very many connections
	chunkOps    = 4096      // commands of a chunk
	windowBytes = 4 << 20   // of a connection, without an answer
	budgetBytes = 16 << 20  // of all connections together
)

// An opKind says what a command is for.
type opKind uint8

const (
	opSelect opKind = iota // it sets the connection up for those behind it
	opWrite                // it writes a key, all of it
	opExists               // it asks whether there is a key
	opBuild                // it makes a part of a value, under a temporary name
	opFinish               // it gives that value its name
	opDrop                 // it removes a temporary name
	opReplay               // it is a command of the backup
)

// An op is a command of a chunk, or several that belong together.
type op struct {
	end     int32 // of the command, in the chunk
	db      int32
	minute  int32 // in which the key expires, counted from the beginning of the restore; 0: not soon
	replies int32 // that were not read yet
	kind    opKind
	typ     rdb.Type
	again   bool  // it was sent before, and may have been executed
	blind   bool  // of opReplay: it may be executed twice
	job     *job  // of opBuild, opFinish and opDrop
	offset  int64 // of opReplay, in the stream that it comes from
}

// A chunk holds commands of one feeder for one connection.
type chunk struct {
	buf   []byte
	from  int // where its commands begin
	ops   []op
	done  int // ops that were answered
	db    int // that is selected behind the last command; -1: not known
	cost  int64
	feed  *feeder      // that is told when all is answered
	users atomic.Int32 // of the writer and the reader of a connection, those who still need it

	link *link

	span *job // the command that it ends with, or is a piece of, goes over several chunks
	head bool // and begins here
}

// start returns where an op's command begins.
func (c *chunk) start(i int) int {
	if i == 0 {
		return c.from
	}
	return int(c.ops[i-1].end)
}

// command returns the bytes of an op.
func (c *chunk) command(i int) []byte { return c.buf[c.start(i):c.ops[i].end] }

// add says that the bytes from the last op on are a command.
func (c *chunk) add(o op) {
	o.end = int32(len(c.buf))
	if o.replies == 0 {
		o.replies = 1
	}
	c.ops = append(c.ops, o)
}

// A depot hands out chunks, of limited size in all, and takes them back.
type depot struct {
	size   int // of a chunk
	budget *semaphore.Weighted

	mu    sync.Mutex
	free  []*chunk
	small [][]byte // buffers of chunks that needed larger ones
	large [][]byte // those, at most keepLarge
}

// Buffers of pieces of large strings are used again: up to so many, of at most that size.
const (
	keepLarge    = 4
	maxKeptBytes = 2 << 20
)

// room lets a chunk have room for n bytes more.
func (d *depot) room(c *chunk, n int) {
	if need := len(c.buf) + n; need > cap(c.buf) && need <= maxKeptBytes {
		d.mu.Lock()
		defer d.mu.Unlock()
		i := slices.IndexFunc(d.large, func(b []byte) bool { return cap(b) >= need })
		var b []byte
		if i >= 0 {
			b = d.large[i]
			d.large = slices.Delete(d.large, i, i+1)
		} else {
			b = make([]byte, 0, need+need/16)
		}
		d.small = append(d.small, c.buf[:0])
		c.buf = append(b[:0], c.buf...)
	}
}

// newDepot returns a depot for that many connections that are filled by that many feeders at a time.
func newDepot(connections, feeders int) *depot {
	// What is collected for all connections takes at most half, so that there are always chunks on their way.
	size := budgetBytes / 2 / max(connections*feeders, 1)
	return &depot{size: min(max(size, chunkFloor), unitSize), budget: semaphore.NewWeighted(budgetBytes)}
}

// window is how many chunks a connection may have without an answer.
func (d *depot) window() int { return windowBytes / d.size }

// get waits for room and returns an empty chunk.
func (d *depot) get(ctx context.Context, f *feeder, l *link) (*chunk, error) {
	if err := d.budget.Acquire(ctx, int64(d.size)); err != nil {
		return nil, context.Cause(ctx)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := len(d.free); n > 0 {
		c := d.free[n-1]
		d.free = d.free[:n-1]
		*c = chunk{buf: c.buf[:0], ops: c.ops[:0], db: -1, cost: int64(d.size), feed: f, link: l}
		return c, nil
	}
	return &chunk{buf: make([]byte, 0, d.size+1<<10), db: -1, cost: int64(d.size), feed: f, link: l}, nil
}

// grown accounts for a chunk that became larger.
func (d *depot) grown(ctx context.Context, c *chunk) error {
	more := min(int64(cap(c.buf)), budgetBytes/2) - c.cost
	if more <= 0 || cap(c.buf) <= d.size+1<<10 {
		return nil
	}
	if err := d.budget.Acquire(ctx, more); err != nil {
		return context.Cause(ctx)
	}
	c.cost += more
	return nil
}

// put takes a chunk back. Those that are larger than usual are let go.
func (d *depot) put(c *chunk) {
	d.budget.Release(c.cost)
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := cap(c.buf); n > d.size+1<<10 {
		if n <= maxKeptBytes && len(d.large) < keepLarge {
			d.large = append(d.large, c.buf)
		}
		if c.buf = nil; len(d.small) == 0 {
			return
		}
		c.buf = d.small[len(d.small)-1]
		d.small = d.small[:len(d.small)-1]
	}
	if cap(c.buf) < d.size {
		return // a chunk that was sent again
	}
	clear(c.ops) // of jobs
	d.free = append(d.free, c)
}

// The functions below append to commands.

// appendCommand appends a whole command.
func appendCommand(b []byte, args ...string) []byte {
	b = appendCount(b, '*', len(args))
	for _, a := range args {
		b = appendWord(b, a)
	}
	return b
}

// appendCount appends the line that begins a command or an argument.
func appendCount(b []byte, kind byte, n int) []byte {
	b = append(b, kind)
	b = strconv.AppendInt(b, int64(n), 10)
	return append(b, '\r', '\n')
}

func appendWord(b []byte, s string) []byte {
	b = appendCount(b, '$', len(s))
	b = append(b, s...)
	return append(b, '\r', '\n')
}

func appendBytes(b, p []byte) []byte {
	b = appendCount(b, '$', len(p))
	b = append(b, p...)
	return append(b, '\r', '\n')
}

func appendNumber(b []byte, n int64) []byte {
	var digits [20]byte
	return appendBytes(b, strconv.AppendInt(digits[:0], n, 10))
}

// withReplace returns a copy of a RESTORE command with REPLACE behind it.
func withReplace(command []byte) []byte {
	out := make([]byte, 0, len(command)+16)
	out = append(out, command...)
	out[1]++ // the number of arguments, which has one digit
	return append(out, "$7\r\nREPLACE\r\n"...)
}
