package replica

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/internal/link"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/internal/crc64"
)

// partName names the only part of a snapshot.
const partName = "part-0000.rdb"

// A snapshot is one connection over which a server is sending its data.
type snapshot struct {
	link   *node
	source catalog.Source
	sync   syncing
	stall  time.Duration
	probe  time.Duration

	mu     sync.Mutex
	opened bool
}

func (s *snapshot) Source() catalog.Source { return s.source }

func (s *snapshot) Parts() []backup.Part {
	return []backup.Part{{Name: partName, Size: s.sync.size}}
}

func (s *snapshot) Open(ctx context.Context, p backup.Part) (io.ReadCloser, error) {
	if p.Name != partName {
		return nil, s.link.Fail("open", fmt.Errorf("the snapshot has no part %q", p.Name))
	}
	if err := ctx.Err(); err != nil {
		return nil, s.link.Fail("open", err)
	}
	s.mu.Lock()
	again := s.opened
	s.opened = true
	s.mu.Unlock()
	if again {
		return nil, s.link.Fail("open", errors.New("the part was opened before: its bytes come only once"))
	}
	if err := s.link.Aborted(); err != nil {
		return nil, s.link.Fail("open", err)
	}
	st := &stream{link: s.link, sync: s.sync, stall: s.stall, probe: s.probe, left: s.sync.size}
	st.release = s.link.Guard(ctx)
	return st, nil
}

func (s *snapshot) Close() error {
	s.link.Close()
	return nil
}

// A stream reads the snapshot's bytes off the connection.
//
// With a known size those are the next so many bytes. Else they are all up to the mark, which is the mark only if the
// checksum before it is that of all that came, or nothing but the connection's end or a command comes after it. So the last bytes
// received are held back until more come.
type stream struct {
	link    *node
	sync    syncing
	stall   time.Duration
	probe   time.Duration
	release func() error

	left int64 // of a snapshot of known size
	got  int64 // bytes received
	err  error // sticky

	held  [tailLen]byte // received and held back
	nheld int
	sum   uint64 // CRC64 of what was received and isn't held back, unless the size is known
	quick bool   // the last read brought little: the next one gives the source time to send more
	small []byte // for callers whose buffers are too small to hold back from
	rest  []byte // of small, not yet given to the caller
}

// minRead is the smallest buffer that is read into directly. It has to be larger than what is held back.
const minRead = 4 << 10

const readStep = "read the snapshot"

func (st *stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if reason := st.link.Aborted(); st.err == nil && reason != nil {
		st.err = st.link.Fail(readStep, reason)
		st.rest = nil
	}
	var n int
	switch {
	case st.err != nil && len(st.rest) == 0:
		return 0, st.err
	case len(st.rest) > 0:
		n = copy(p, st.rest)
		st.rest = st.rest[n:]
	case st.sync.size >= 0:
		n, st.err = st.readSized(p)
	case len(p) >= minRead:
		n, st.err = st.readMarked(p)
	default:
		if st.small == nil {
			st.small = make([]byte, minRead)
		}
		n, st.err = st.readMarked(st.small)
		st.rest = st.small[:n]
		n = copy(p, st.rest)
		st.rest = st.rest[n:]
	}
	if st.err != nil && st.err != io.EOF {
		st.err = st.explain(st.err)
	}
	if n > 0 {
		return n, nil // the error comes with the next call
	}
	return 0, st.err
}

// Close ends the connection: a snapshot has only this part.
func (st *stream) Close() error {
	st.link.Close()
	st.release()
	return nil
}

// A server sends a snapshot in pieces of 16 KiB, and a reader that takes each at once is woken thousands of times a
// second, which costs more than reading does. So after a piece of less than littleRead the next read lets batchTime pass, in which
// the socket's buffer takes what comes.
const (
	littleRead = 64 << 10
	batchTime  = 300 * time.Microsecond
)

// receive reads what there is, or waits for more.
func (st *stream) receive(p []byte) (int, error) {
	if st.link.R.Buffered() == 0 {
		if st.quick && len(p) > littleRead {
			clock.Pause(batchTime)
		}
		st.link.Within(st.stall)
	}
	n, err := st.link.R.Read(p)
	st.got += int64(n)
	st.quick = n < littleRead
	return n, err
}

func (st *stream) readSized(p []byte) (int, error) {
	if st.left == 0 {
		return 0, io.EOF
	}
	n, err := st.receive(p[:min(int64(len(p)), st.left)])
	st.left -= int64(n)
	if err != nil && st.left > 0 {
		return n, unexpected(err)
	}
	return n, nil
}

// readMarked reads at least one byte into p, or returns an error, which is io.EOF only at the confirmed end.
func (st *stream) readMarked(p []byte) (int, error) {
	for {
		if st.sync.atEnd(st.held[:st.nheld]) {
			ended, err := st.checksumFits(), error(nil)
			if !ended {
				ended, err = st.confirm()
			}
			if err != nil {
				return 0, err
			}
			if ended {
				return copy(p, st.held[:st.nheld-markLen]), io.EOF
			}
		}
		copy(p, st.held[:st.nheld])
		n, err := st.receive(p[st.nheld:])
		total := st.nheld + n
		keep := min(total, tailLen)
		st.nheld = copy(st.held[:], p[total-keep:total])
		st.sum = crc64.Update(st.sum, p[:total-keep])
		if err != nil {
			return total - keep, unexpected(err)
		}
		if total > keep {
			return total - keep, nil
		}
	}
}

// checksumFits says whether the checksum that stands before the mark is that of everything before it. Then the snapshot
// has ended, and its source needn't be waited for. No value can have it but by a chance of 1 in 2^64: it would have to know all
// that comes before it in the stream. A server that writes no checksums leaves a zero.
func (st *stream) checksumFits() bool {
	want := binary.LittleEndian.Uint64(st.held[1:])
	return want != 0 && want == crc64.Update(st.sum, st.held[:1])
}

// confirm waits for what comes after the mark and says whether that means the end of the snapshot.
//
// Asked for nothing but the snapshot (rdb-only), Redis 7.0 and 8.0 and Valkey 8.1 and 9.1 close the connection within a
// tenth of a second after the mark. Servers that don't know that option wait for an acknowledgement and then send commands,
// the first of which is a PING after at most repl-ping-replica-period, by default 10 s. Nothing else may be sent to
// them: a server drops a replica whose command it had to answer.
func (st *stream) confirm() (ended bool, err error) {
	ack := !st.sync.rdbOnly
	for waited := time.Duration(0); waited < st.stall; waited += st.probe {
		if ack {
			// Again each time: an acknowledgement that comes before the server has seen its child's end is lost.
			if err := st.link.Send("REPLCONF", "ACK", strconv.FormatInt(st.sync.offset, 10)); err != nil && !link.Cut(err) {
				return false, err
			}
		}
		ack = true
		st.link.Within(st.probe)
		next, err := st.link.R.Peek(1)
		if err == nil && next[0] == '*' {
			next, err = st.peekCommand()
		}
		switch {
		case st.link.Aborted() != nil:
			return false, st.link.Aborted()
		case len(next) > 0:
			return isCommand(next), nil
		case link.Cut(err):
			return true, nil
		case !link.TimedOut(err):
			return false, err
		}
	}
	return false, link.As(backup.ErrStalled, errors.New("the server sent the end of the snapshot but does not confirm it"))
}

// peekCommand looks at as much of what comes next as it takes to tell whether it is a command.
func (st *stream) peekCommand() ([]byte, error) {
	for n := 2; ; n++ {
		next, err := st.link.R.Peek(n)
		if err != nil || !commandBegins(next) || isCommand(next) {
			return next, err
		}
	}
}

// isCommand says whether b is how every command begins that a primary sends: "*2\r\n$".
func isCommand(b []byte) bool { return commandBegins(b) && b[len(b)-1] == '$' }

// commandBegins says whether b is the beginning of "*2\r\n$" with any number of up to eight digits.
func commandBegins(b []byte) bool {
	if len(b) == 0 || b[0] != '*' {
		return false
	}
	i := 1
	for i < len(b) && i <= 8 && b[i] >= '0' && b[i] <= '9' {
		i++
	}
	rest := string(b[i:])
	return rest == "" || i > 1 && len(rest) <= 3 && "\r\n$"[:len(rest)] == rest
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// explain tells where a stream broke and what to do.
func (st *stream) explain(err error) error {
	wrapped := st.link.Fail(readStep, err)
	var e *backup.SourceError
	if st.link.Aborted() != nil || !errors.As(wrapped, &e) {
		return wrapped
	}
	where := fmt.Sprintf("after %d bytes", st.got)
	if st.sync.size >= 0 {
		where += fmt.Sprintf(" of %d", st.sync.size)
	}
	e.Err = fmt.Errorf("%s: %w", where, e.Err)
	return e
}
