package dragonfly

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
)

// What a flow may have in memory before it goes to the spool, and the pieces in which it lies there.
const (
	memoryOfAll = 8 << 20   // of all flows of a snapshot, but
	memoryLeast = 128 << 10 // of each
	pieceSize   = 64 << 10
)

// How large a file of the spool gets: what was read is free when all of its file was.
const (
	fileLeast = 64 << 20
	filesMost = 256 // at the limit
)

// errSpoolFull: the flows came faster than the parts were read, for too long.
var errSpoolFull = errors.New("the spool is full")

// A spool is what the files of all flows have in common.
type spool struct {
	dir   string
	limit int64
	file  int64 // how large one gets
	used  atomic.Int64
	most  atomic.Int64 // that was used

	queues []*queue
}

func newSpool(dir string, limit, memory int64, queues int) *spool {
	s := &spool{dir: dir, limit: limit, file: max(fileLeast, limit/filesMost)}
	for range queues {
		q := &queue{spool: s, memory: int(max(memoryLeast, memory/int64(queues)) / pieceSize)}
		q.wake.L = &q.mu
		s.queues = append(s.queues, q)
	}
	return s
}

// take takes room for n bytes, or says that there is none.
func (s *spool) take(n int64) error {
	used := s.used.Add(n)
	if used > s.limit {
		s.used.Add(-n)
		return fmt.Errorf("%w: %d bytes wait in it, and %d more don't fit: the store is slower than the server sends, and the server must not wait: "+
			"raise SpoolLimit, read more parts at a time (Parallel), or use a faster store", errSpoolFull, used-n, n)
	}
	for {
		most := s.most.Load()
		if used <= most || s.most.CompareAndSwap(most, used) {
			return nil
		}
	}
}

// close drops everything.
func (s *spool) close() {
	for _, q := range s.queues {
		q.drop()
	}
}

// A piece is a run of bytes in a queue, in memory or in a file.
type piece struct {
	mem  []byte
	file *os.File // nil: in memory
	size int64    // of what is in it
	read int64    // of that

	writing bool // more is being written to the file
}

// A queue takes the bytes of a flow from the one who reads it and gives them to the one who stores them. Who appends never waits for who reads.
type queue struct {
	spool  *spool
	memory int // pieces that it may have in memory

	mu      sync.Mutex
	wake    sync.Cond // something changed that who reads waits for
	pieces  []*piece
	held    int    // of them in memory
	spare   []byte // the memory of one that was read
	size    int64  // bytes appended
	valid   int64  // of them that are known to belong to the stream
	read    int64
	dropped bool // nobody reads it: what is appended is forgotten
}

// errDropped is what a reader of a queue that was dropped gets.
var errDropped = errors.New("the part was closed")

// Append implements flows.Sink.
func (q *queue) Append(p []byte) error {
	for len(p) > 0 {
		q.mu.Lock()
		if q.dropped {
			q.mu.Unlock()
			return nil
		}
		to, err := q.tail()
		if err != nil {
			q.mu.Unlock()
			return err
		}
		if to.file == nil {
			n := copy(to.mem[to.size:], p)
			p = p[n:]
			to.size += int64(n)
			q.size += int64(n)
			q.mu.Unlock()
			continue
		}
		at := to.size
		n := min(int64(len(p)), q.spool.file-at)
		if err := q.spool.take(n); err != nil {
			q.mu.Unlock()
			return err
		}
		to.writing = true
		q.mu.Unlock()
		_, err = to.file.WriteAt(p[:n], at)
		q.mu.Lock()
		to.writing = false
		dropped := q.dropped
		if err == nil && !dropped {
			to.size += n
			q.size += n
		} else {
			q.spool.used.Add(-n)
		}
		q.mu.Unlock()
		switch {
		case dropped:
			return nil
		case err != nil:
			return fmt.Errorf("writing to the spool: %w", err)
		}
		p = p[n:]
	}
	return nil
}

// tail returns the piece that has room for the next byte. What began to go to files does so until all of a file was read or filled: else there were many
// small ones.
func (q *queue) tail() (*piece, error) {
	if n := len(q.pieces); n > 0 {
		last := q.pieces[n-1]
		switch {
		case last.file == nil && last.size < pieceSize, last.file != nil && last.size < q.spool.file:
			return last, nil
		}
	}
	p := &piece{}
	if q.held < q.memory {
		q.held++
		if p.mem = q.spare; p.mem == nil {
			p.mem = make([]byte, pieceSize)
		}
		q.spare = nil
	} else {
		f, err := os.CreateTemp(q.spool.dir, "amber-flow-")
		if err != nil {
			return nil, fmt.Errorf("making a file for the spool: %w", err)
		}
		if err := os.Remove(f.Name()); err != nil { // from here on it goes with this process
			f.Close()
			return nil, fmt.Errorf("unlinking a file of the spool: %w", err)
		}
		p.file = f
	}
	q.pieces = append(q.pieces, p)
	return p, nil
}

// Valid implements flows.Sink.
func (q *queue) Valid(n int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if n > q.valid {
		q.valid = n
		q.wake.Broadcast()
	}
}

// take reads what is there, or waits for more until stop returns an error. It is called by one goroutine at a time.
func (q *queue) take(b []byte, stop func() error) (int, error) {
	q.mu.Lock()
	for {
		if err := stop(); err != nil {
			q.mu.Unlock()
			return 0, err
		}
		if q.dropped {
			q.mu.Unlock()
			return 0, errDropped
		}
		if q.read < q.valid {
			break
		}
		q.wake.Wait()
	}
	p := q.pieces[0]
	n := min(int64(len(b)), p.size-p.read, q.valid-q.read)
	if p.file == nil {
		copy(b[:n], p.mem[p.read:])
	} else {
		q.mu.Unlock()
		_, err := p.file.ReadAt(b[:n], p.read)
		q.mu.Lock()
		if q.dropped {
			err = errDropped
		}
		if err != nil && err != io.EOF {
			q.mu.Unlock()
			return 0, fmt.Errorf("reading the spool: %w", err)
		}
	}
	p.read += n
	q.read += n
	switch {
	case p.read < p.size || p.writing:
	case len(q.pieces) > 1 || p.file != nil:
		q.pop(p)
	default:
		p.read, p.size = 0, 0 // who appends goes on at its beginning
	}
	q.mu.Unlock()
	return int(n), nil
}

// pop removes the first piece, all of which was read.
func (q *queue) pop(p *piece) {
	q.pieces[0] = nil
	q.pieces = q.pieces[1:]
	q.free(p)
}

func (q *queue) free(p *piece) {
	if p.file == nil {
		q.held--
		q.spare = p.mem
		return
	}
	q.spool.used.Add(-p.size)
	p.file.Close() // it has no name any more, and its bytes were read
}

// drop forgets everything, now and from now on.
func (q *queue) drop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.dropped = true
	for _, p := range q.pieces {
		q.free(p)
	}
	q.pieces, q.spare = nil, nil
	q.wake.Broadcast()
}

// tell wakes who reads, because what stop says may have changed.
func (q *queue) tell() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.wake.Broadcast()
}
