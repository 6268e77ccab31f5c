package command

import (
	"fmt"

	"github.com/amberkv/amber/rdb"
)

// A head says what a RESTORE of an entry says beside the payload.
type head struct {
	op
	ttl             int64
	replace, absTTL bool
	idle, freq      bool
}

// head returns what the RESTORE of an entry says.
func (f *feeder) head(e *rdb.Entry) head {
	h := head{op: op{kind: opWrite, db: int32(e.DB), typ: e.Type}, replace: f.r.replaces()}
	h.freq = e.Freq >= 0 && f.r.can.freq
	h.idle = e.Idle >= 0 && f.r.can.idleTime && !h.freq
	if e.HasExpiry {
		if h.absTTL = f.r.can.absTTL; h.absTTL {
			h.ttl = f.r.parked(max(e.ExpireAt, 1))
		} else {
			h.ttl = max(e.ExpireAt-f.r.millis(), 1)
		}
		h.minute = f.r.tally.minuteOf(e.ExpireAt)
	}
	return h
}

// appendHead appends a RESTORE up to its payload.
func (f *feeder) appendHead(b []byte, e *rdb.Entry, h head) []byte {
	args := 4
	if h.replace {
		args++
	}
	if h.absTTL {
		args++
	}
	if h.idle || h.freq {
		args += 2
	}
	b = append(b, '*', byte('0'+args), '\r', '\n')
	b = append(b, "$7\r\nRESTORE\r\n"...)
	b = appendBytes(b, e.Key)
	return appendNumber(b, h.ttl)
}

// appendTail appends what follows the payload of a RESTORE.
func (f *feeder) appendTail(b []byte, e *rdb.Entry, h head) []byte {
	b = append(b, '\r', '\n')
	if h.replace {
		b = append(b, "$7\r\nREPLACE\r\n"...)
	}
	if h.absTTL {
		b = append(b, "$6\r\nABSTTL\r\n"...)
	}
	switch {
	case h.idle:
		b = append(b, "$8\r\nIDLETIME\r\n"...)
		b = appendNumber(b, e.Idle)
	case h.freq:
		b = append(b, "$4\r\nFREQ\r\n"...)
		b = appendNumber(b, int64(e.Freq))
	}
	return b
}

// stream sends a RESTORE of a payload whose size is known while it is read: for values that only RESTORE makes, and that have no
// room in memory. When the connection breaks meanwhile it is done once more, when all parts were read.
func (f *feeder) stream(e *rdb.Entry, size int64) error {
	j := f.newJob(e)
	j.size = size
	c, err := f.chunk(j.link, e.DB)
	if err != nil {
		return err
	}
	h := f.head(e)
	if f.r.opts.Conflict == "" && f.r.can.replace {
		h.replace = true // it may have been written before its answer was lost
	}
	c.span, c.head = j, true
	c.buf = f.appendHead(c.buf, e, h)
	c.buf = appendCount(c.buf, '$', int(size))
	w := &spanner{f, j}
	n, err := f.in.WriteRaw(w)
	if err == nil && n != size {
		err = fmt.Errorf("the value of key %s has %d bytes, and had %d when it was read before", f.r.name(int32(e.DB), e.Key), n, size)
	}
	if err != nil {
		f.r.stop(err) // the rest of the command will never come
		return err
	}
	if c, err = w.chunk(); err != nil {
		return err
	}
	c.buf = f.appendTail(c.buf, e, h)
	o := op{kind: opBuild, db: int32(e.DB), job: j}
	j.mu.Lock()
	j.left++
	j.mu.Unlock()
	c.add(o)
	if err := f.send(j.link); err != nil {
		return err
	}
	j.mu.Lock()
	j.settle(1)
	return nil
}

// A spanner writes a command that goes over several chunks.
type spanner struct {
	f *feeder
	j *job
}

// chunk returns the chunk that is being filled.
func (w *spanner) chunk() (*chunk, error) {
	l := w.j.link
	if c := w.f.open[l.id]; c != nil {
		return c, nil
	}
	c, err := w.f.r.depot.get(w.f.ctx, w.f, l)
	if err != nil {
		return nil, err
	}
	c.span = w.j
	w.f.open[l.id] = c
	return c, nil
}

func (w *spanner) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		c, err := w.chunk()
		if err != nil {
			return done, err
		}
		n := min(len(p)-done, w.f.r.depot.size-len(c.buf))
		if n <= 0 {
			if err := w.f.sendTo(w.j.link); err != nil {
				return done, err
			}
			continue
		}
		c.buf = append(c.buf, p[done:done+n]...)
		done += n
	}
	return len(p), nil
}

// sendTo gives the open chunk of a link to it, and lets the next go to the same.
func (f *feeder) sendTo(l *link) error {
	next := f.next[l.node.id]
	err := f.send(l)
	f.next[l.node.id] = next
	return err
}

// A span is what a connection has of a command that goes over several chunks.
type span struct{ job *job }

// fits tells whether a chunk can be sent on this connection: the rest of a command can't without its beginning. What it holds of that
// command is lost then.
func (s *span) fits(c *chunk) bool {
	switch {
	case c.span == nil:
		return true
	case c.head:
		s.job = c.span
		return true
	case s.job == c.span:
		return true
	}
	for i := c.done; i < len(c.ops); i++ {
		if o := &c.ops[i]; o.job != nil {
			o.job.interrupted(o.replies)
		}
	}
	c.ops, c.buf = c.ops[:0], c.buf[:c.from]
	return false
}
