package restore

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/internal/resp"
	"github.com/amberkv/amber/internal/target"
)

// A compareNode is a server of the target that is asked.
type compareNode struct {
	c        *comparer
	conn     *target.Conn
	building *compareBatch
	buildDB  int                // the database that is selected behind the last question
	queue    chan *compareBatch // to be sent
	free     chan *compareBatch

	// What follows is of the goroutine that sends.
	in         answers
	db         int    // that is selected
	noDB       string // why it isn't
	now        int64  // the target's clock when it was last asked, in ms
	redirected []redirection
	done       []*comparedKey
	others     map[string]*target.Conn // nodes that we were sent to
}

// A redirection is a question that another node has to be asked.
type redirection struct {
	question int
	addr     string
	ask      bool // by ASKING
}

// A span is a part of a batch's commands or texts.
type span struct{ from, to int }

// A compareBatch is questions that are sent at once.
type compareBatch struct {
	ctx     context.Context
	out     []byte // the commands
	text    []byte // what elements are made of
	elems   []wantElem
	asks    []question
	replies int // bytes that the answers are expected to take
	timed   bool
}

// A wantElem is an element that the target has to have.
type wantElem struct {
	name, want span // in the text
	score      float64
	number     int64
	at         int64 // a time in ms, 0 if there is none
}

// A question is a command and what the target has to answer.
type question struct {
	kind  questionKind
	rank  int
	key   *comparedKey
	db    int
	cmd   span // in the commands
	elems span // indices of elements
	n     int64
	more  any
}

func (b *compareBatch) bytes(s span) []byte { return b.text[s.from:s.to] }

// keep copies into the text of the batch.
func (b *compareBatch) keep(p []byte) span {
	from := len(b.text)
	b.text = append(b.text, p...)
	return span{from, len(b.text)}
}

func (b *compareBatch) reset() {
	if cap(b.text) > 1<<20 {
		b.text = nil
	}
	if cap(b.out) > 1<<20 {
		b.out = nil
	}
	clear(b.asks)
	*b = compareBatch{out: b.out[:0], text: b.text[:0], elems: b.elems[:0], asks: b.asks[:0]}
}

// full tells whether a batch is to be sent.
func (b *compareBatch) full() bool {
	return len(b.out) >= compareOut || len(b.text) >= compareReplies || b.replies >= compareReplies || len(b.asks) >= compareQuestions
}

// submit hands the batch over that was built.
func (n *compareNode) submit(ctx context.Context) error {
	n.building.ctx = ctx
	select {
	case n.queue <- n.building:
	case <-n.c.broken:
		return n.c.failure()
	}
	b, err := n.take(ctx)
	if err != nil {
		return err
	}
	n.building = b
	return nil
}

// take returns a batch whose questions were answered.
func (n *compareNode) take(ctx context.Context) (*compareBatch, error) {
	select {
	case b := <-n.free:
		return b, nil
	case <-n.c.broken:
		return nil, n.c.failure()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// work sends batches until there are no more.
func (n *compareNode) work() {
	defer func() {
		n.conn.Close()
		for _, conn := range n.others {
			conn.Close()
		}
	}()
	for b := range n.queue {
		if n.c.failure() != nil {
			continue
		}
		ctx, cancel := context.WithCancelCause(b.ctx)
		stop := context.AfterFunc(n.c.closing, func() { cancel(errCompareClosed) })
		b.ctx = ctx
		err := n.exchange(b)
		stop()
		cancel(nil)
		if err != nil {
			n.c.fail(err)
			continue
		}
		b.reset()
		n.free <- b
	}
}

// exchange sends a batch and deals with all answers.
func (n *compareNode) exchange(b *compareBatch) error {
	next := 0
	if err := persist(b.ctx, func() error { return n.send(b, &next) }); err != nil {
		return err
	}
	elsewhere := n.redirected
	n.redirected = nil
	for _, r := range elsewhere {
		if err := persist(b.ctx, func() error { return n.follow(b, r) }); err != nil {
			return err
		}
	}
	var now int64 // after all these answers
	for _, k := range n.done {
		if k.text != "" {
			if err := persist(b.ctx, func() error { return n.resolve(b.ctx, k, &now) }); err != nil {
				return err
			}
		}
		n.c.finish(k)
	}
	clear(n.done)
	n.done = n.done[:0]
	return nil
}

// persist does something again that can be done twice, if it failed because of the connection, or because the server can't answer just now.
func persist(ctx context.Context, f func() error) error {
	pause := time.Duration(0)
	for attempt := 0; ; attempt++ {
		err := f()
		var wrong *compareError
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case attempt == 5:
			return err
		case passing(err):
		case errors.As(err, &wrong) || target.Refused(err):
			return err
		}
		if err := clock.Sleep(ctx, pause); err != nil {
			return context.Cause(ctx)
		}
		pause = 2*pause + 125*time.Millisecond
	}
}

// passing tells whether a server's answer is one that it gives only for a while.
func passing(err error) bool {
	switch target.Code(err) {
	case "LOADING", "BUSY", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN":
		return true
	}
	return false
}

// compareError is an answer with which a comparison can't go on.
type compareError struct {
	key *comparedKey
	err error
}

func (e *compareError) Error() string { return fmt.Sprintf("comparing %v: %v", e.key, e.err) }
func (e *compareError) Unwrap() error { return e.err }

// send sends the questions from the next on, and counts it up as they are answered.
func (n *compareNode) send(b *compareBatch, next *int) error {
	if *next == len(b.asks) {
		return nil
	}
	if err := n.open(b.ctx, b.asks[*next].db); err != nil {
		return err
	}
	return n.conn.Exchange(b.ctx, b.timeout(), b.out[b.asks[*next].cmd.from:], func(r *resp.Reader) error {
		n.in.r = r
		for ; *next < len(b.asks); *next++ {
			if err := n.answer(b, *next); err != nil {
				return err
			}
		}
		return nil
	})
}

// timeout is how long a batch may take: also over a slow link.
func (b *compareBatch) timeout() time.Duration {
	return compareTimeout + time.Duration(len(b.out)+b.replies)*time.Second/(256<<10)
}

// open connects, if it isn't, and selects a database.
func (n *compareNode) open(ctx context.Context, db int) error {
	fresh, err := n.conn.Open(ctx)
	if err != nil {
		return err
	}
	if fresh {
		n.db, n.noDB = 0, ""
		if err := n.c.untouching(ctx, n.conn); err != nil {
			return err
		}
	}
	if n.db == db {
		return nil
	}
	_, err = n.conn.Do(ctx, "SELECT", strconv.Itoa(db))
	if err != nil && !target.Refused(err) {
		return err
	}
	n.selected(db, err)
	return nil
}

// untouching asks a server not to take our questions for accesses to keys, by which it chooses what to evict. Servers before Redis 7.2 can't
// leave that, and nodes of a cluster mustn't be asked: Redis 8.0 crashes when such a client asks for a key of a slot that is on its way.
func (c *comparer) untouching(ctx context.Context, conn *target.Conn) error {
	if c.slots != nil {
		return nil
	}
	_, err := conn.Do(ctx, "CLIENT", "NO-TOUCH", "ON")
	if target.Refused(err) {
		return nil
	}
	return err
}

func (n *compareNode) selected(db int, err error) {
	n.db, n.noDB = db, ""
	if err != nil {
		n.noDB = fmt.Sprintf("the target lets nobody select the database: %v", err)
	}
}

// follow asks a question where we were sent to.
func (n *compareNode) follow(b *compareBatch, r redirection) error {
	q := &b.asks[r.question]
	for range 5 {
		conn := n.other(r.addr)
		if _, err := conn.Open(b.ctx); err != nil {
			return err
		}
		var out []byte
		head := 1
		out = resp.AppendCommand(out, "SELECT", strconv.Itoa(q.db))
		if r.ask {
			head++
			out = resp.AppendCommand(out, "ASKING")
		}
		out = append(out, b.out[q.cmd.from:q.cmd.to]...)
		n.redirected = nil
		err := conn.Exchange(b.ctx, b.timeout(), out, func(in *resp.Reader) error {
			n.in.r = in
			for range head {
				if _, err := in.ReadReply(); err != nil {
					return err
				}
			}
			return n.answer(b, r.question)
		})
		if err != nil {
			return err
		}
		if len(n.redirected) == 0 {
			return nil
		}
		r, n.redirected = n.redirected[0], nil
	}
	return &compareError{q.key, errors.New("the nodes of the cluster sent us from one to the other: wait until no slots are being moved")}
}

func (n *compareNode) other(addr string) *target.Conn {
	conn := n.others[addr]
	if conn == nil {
		if n.others == nil {
			n.others = map[string]*target.Conn{}
		}
		conn = n.c.connTo(addr)
		n.others[addr] = conn
	}
	return conn
}

// refused deals with an error reply.
func (n *compareNode) refused(b *compareBatch, i int, text string) error {
	q := &b.asks[i]
	if addr, slot, ask, ok := n.conn.Redirected(text); ok {
		n.redirected = append(n.redirected, redirection{i, addr, ask})
		if !ask {
			n.c.mu.Lock()
			n.c.moved[slot] = addr
			n.c.mu.Unlock()
		}
		return nil
	}
	switch code := resp.Error(text).Code(); {
	case q.kind == askSelect:
		n.selected(q.db, serverError(text))
	case code == "WRONGTYPE":
		q.key.wrongType = true
		q.key.fail(rankType, "is of another type")
	case code == "NOGROUP":
		q.key.fail(q.rank, "%s is missing", q.subject())
	case q.kind == askStreamInfo || q.kind == askGroups || q.kind == askConsumers:
		if text == "ERR no such key" {
			q.key.fail(q.rank, "is missing")
			return nil
		}
		fallthrough
	default:
		return &compareError{q.key, fmt.Errorf("%v: %w", q.kind, serverError(text))}
	}
	return nil
}

// resolve asks what else there is to know of a key that differs. The target's clock is asked only if it isn't known yet.
func (n *compareNode) resolve(ctx context.Context, k *comparedKey, now *int64) error {
	end := k.expireAt
	if !k.hasExpiry || k.fieldsEnd > 0 && k.fieldsEnd < end {
		end = k.fieldsEnd
	}
	if end > 0 && *now == 0 {
		*now = clock.System().UnixMilli()
		if n.c.facts.time {
			reply, err := n.do(ctx, k, "TIME")
			if err == nil {
				*now, err = timeReply(reply)
			}
			if err != nil {
				return err
			}
		}
	}
	if end > 0 && *now >= end {
		k.expired, k.text = true, ""
		return nil
	}
	if !k.wrongType {
		return nil
	}
	reply, err := n.do(ctx, k, "TYPE", k.name)
	switch {
	case target.Refused(err):
		return nil // it is of another type, whatever that is
	case err != nil:
		return err
	case k.number && reply.Text == "string":
		n.c.note("documents that are a number, which Dragonfly keeps as strings")
		k.text = ""
	default:
		k.text = typeDiffers(reply.Text, k)
	}
	return nil
}

func typeDiffers(is string, k *comparedKey) string {
	want := k.typ.String()
	if k.module != "" {
		want = k.module
	}
	return fmt.Sprintf("is of type %s, the backup has a %s", short([]byte(is)), want)
}

// do sends one command about a key.
func (n *compareNode) do(ctx context.Context, k *comparedKey, args ...string) (resp.Reply, error) {
	if err := n.open(ctx, k.db); err != nil {
		return resp.Reply{}, err
	}
	reply, err := n.conn.Do(ctx, args...)
	if addr, _, _, ok := n.conn.Redirected(errorReply(err)); ok {
		reply, err = n.other(addr).Do(ctx, args...)
	}
	return reply, err
}

func errorReply(err error) string {
	var refused resp.Error
	errors.As(err, &refused)
	return string(refused)
}

// timeReply reads the answer to TIME, in ms.
func timeReply(reply resp.Reply) (int64, error) {
	if len(reply.Elems) == 2 {
		s, err1 := strconv.ParseInt(reply.Elems[0].Text, 10, 64)
		us, err2 := strconv.ParseInt(reply.Elems[1].Text, 10, 64)
		if err1 == nil && err2 == nil {
			return s*1000 + us/1000, nil
		}
	}
	return 0, errors.New("TIME: the target's answer is no time")
}

// ends tells whether a time is so near that what had it may be gone.
func (n *compareNode) ends(at int64) bool { return at != 0 && at <= n.now+compareSlack }

// subject names what a question is about, within its key.
func (q *question) subject() string {
	switch w := q.more.(type) {
	case *wantConsumers:
		return "group " + short([]byte(w.group))
	case *wantOwned:
		return "group " + short([]byte(w.group))
	case string:
		return "group " + short([]byte(w))
	}
	return "a group"
}
