package restore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/internal/redact"
	"github.com/amberkv/amber/internal/resp"
	"github.com/amberkv/amber/internal/target"
	"github.com/amberkv/amber/rdb"
	"github.com/redis/go-redis/v9"
)

// A comparer holds values of a snapshot against those of a target, by commands that read, in bounded memory: what the snapshot has are
// the questions, and no answer is kept. It doesn't list what the target has, so that it doesn't see keys that are there besides; those
// are for the counts to show.
//
// Questions are collected, of several keys in one batch or of a part of a large value, and sent at once; a goroutine for each node
// of the target sends them, and holds the answers against what is wanted as they come in.
//
// Idle times and frequencies of access aren't compared, nor when consumers were last seen. They stay as they are, but in clusters and in
// servers before Redis 7.2, which take a question for an access.
//
// It is used by one goroutine. After an error it can only be closed.
type comparer struct {
	opts    *redis.Options
	facts   compareFacts
	nodes   map[string]*compareNode // by address; the first one's is ""
	slots   []string                // who serves which, in a cluster
	asker   asker                   // of the key at hand
	workers sync.WaitGroup
	broken  chan struct{}   // closed after an error
	closing context.Context // ends what is under way
	end     context.CancelFunc

	mu       sync.Mutex
	err      error
	moved    map[int]string   // slots that are elsewhere than slots says
	notes    map[string]int64 // what wasn't compared, and of how many keys
	finished func(k *comparedKey)
}

// compareFacts is what the target can be asked.
type compareFacts struct {
	pexpiretime, smismember, zmscore, hpexpiretime, fieldttl, time bool
	dragonfly                                                      bool
}

// Bounds of a comparison.
const (
	compareTimeout   = 30 * time.Second   // for what is no batch, and for a batch beyond its transfer
	compareGroup     = 500                // elements that one command asks for
	compareOut       = 128 << 10          // bytes of commands in a batch
	compareReplies   = 512 << 10          // bytes that the answers to a batch are expected to take
	compareQuestions = 4096               // commands in a batch
	compareWhole     = 64 << 20           // the largest hash value or list item that the target is asked for: it holds it in memory twice then
	compareSlack     = 10_000             // ms within which it isn't known whether a field had expired when the target was asked
	compareTolerance = 5_000              // ms by which times may differ that servers tell only as how long ago or ahead
	compareFarthest  = (1<<28 - 1) * 1000 // ms to the latest expiry that Dragonfly gives a key
)

// newComparer returns a comparer of what the server has that the options name, or the cluster of which it is a node.
func newComparer(opts *redis.Options) *comparer {
	return &comparer{opts: opts, broken: make(chan struct{}), moved: map[int]string{}, notes: map[string]int64{}}
}

// A comparedKey is a key that is being compared.
type comparedKey struct {
	db        int
	name      string
	typ       rdb.Type
	module    string
	hasExpiry bool
	expireAt  int64
	failed    atomic.Bool   // there is a difference: more questions aren't needed
	done      chan struct{} // closed in the end; may be nil

	// What the questions found; the node's goroutine's until done.
	rank      int    // of the question whose difference it is: the smallest counts
	text      string // the difference
	detail    int    // the rank of a difference in a detail, 0 if there is none
	wrongType bool   // text is to say so, once the target told the type
	soon      int64  // fields or members that may have expired by now
	fieldsEnd int64  // when the last field expires, if all do
	number    bool   // a JSON document that is a number
	expired   bool
}

// fail notes a difference.
func (k *comparedKey) fail(rank int, format string, args ...any) {
	k.failed.Store(true)
	if k.text == "" || rank < k.rank {
		k.rank, k.text = rank, fmt.Sprintf(format, args...)
	}
}

// String names the key.
func (k *comparedKey) String() string {
	return fmt.Sprintf("database %d, key %s", k.db, quoteUpTo(k.name, 128))
}

// Ranks of what is said first of a key that differs in several ways.
const (
	rankDB = iota
	rankMissing
	rankType
	rankExpiry
	rankValue // and those behind it
)

// key compares one key: type, expiry, value. Of elements no more is read than it takes to find a difference. The difference is empty if there
// is none, and the key may have expired since the backup.
func (c *comparer) key(ctx context.Context, e *rdb.Entry, elements iter.Seq2[*rdb.Element, error]) (difference string, expired bool, err error) {
	k, err := c.ask(ctx, e, elements, make(chan struct{}))
	if err != nil {
		return "", false, err
	}
	if err := c.flush(ctx); err != nil {
		return "", false, err
	}
	select {
	case <-k.done:
	case <-c.broken:
		return "", false, c.failure()
	case <-ctx.Done():
		return "", false, context.Cause(ctx)
	}
	if k.text != "" {
		difference = k.String() + ": " + k.text
	}
	return difference, k.expired, nil
}

// errCompareClosed is why what was under way ended.
var errCompareClosed = errors.New("the comparison was given up")

// close ends the connections and waits for the goroutines.
func (c *comparer) close() {
	if c.nodes == nil {
		return
	}
	c.end()
	for _, n := range c.nodes {
		close(n.queue)
	}
	c.workers.Wait()
	c.nodes = nil
}

// start finds out what the target can be asked.
func (c *comparer) start(ctx context.Context) error {
	if c.nodes != nil {
		return nil
	}
	conn := target.New(c.opts, compareTimeout)
	defer conn.Close()
	if err := persist(ctx, func() error { return c.look(ctx, conn) }); err != nil {
		return err
	}
	c.closing, c.end = context.WithCancel(context.WithoutCancel(ctx))
	c.nodes = map[string]*compareNode{}
	return nil
}

func (c *comparer) look(ctx context.Context, conn *target.Conn) error {
	info, _, err := conn.Info(ctx)
	if err != nil {
		return err
	}
	engine, _ := target.Product(info)
	c.facts.dragonfly = engine == "dragonfly"
	if target.Mode(info) == "cluster" {
		ranges, err := conn.SlotRanges(ctx)
		if err != nil {
			return err
		}
		c.slots = make([]string, target.Slots)
		for _, r := range ranges {
			for slot := r.First; slot <= r.Last; slot++ {
				c.slots[slot] = r.Addr
			}
		}
	}
	const probe = "amber:compare:probe"
	for _, p := range []struct {
		has  *bool
		args []string
	}{
		{&c.facts.pexpiretime, []string{"PEXPIRETIME", probe}},
		{&c.facts.smismember, []string{"SMISMEMBER", probe, "m"}},
		{&c.facts.zmscore, []string{"ZMSCORE", probe, "m"}},
		{&c.facts.hpexpiretime, []string{"HPEXPIRETIME", probe, "FIELDS", "1", "f"}},
		{&c.facts.fieldttl, []string{"FIELDTTL", probe, "f"}},
		{&c.facts.time, []string{"TIME"}},
	} {
		_, err := conn.Do(ctx, p.args...)
		if err != nil && !target.Refused(err) {
			return err
		}
		// A redirection, or a name that we have no right to, means that there is the command.
		*p.has = err == nil || !target.Denied(err) || target.Code(err) == "NOPERM" && !strings.Contains(err.Error(), "to run the")
	}
	return nil
}

// fail ends the comparison.
func (c *comparer) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
		close(c.broken)
	}
}

func (c *comparer) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// note notes what wasn't compared of a key.
func (c *comparer) note(what string) {
	c.mu.Lock()
	c.notes[what]++
	c.mu.Unlock()
}

// noted returns what wasn't compared since it was called last, in alphabetical order.
func (c *comparer) noted() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, what := range slices.Sorted(maps.Keys(c.notes)) {
		out = append(out, fmt.Sprintf("%s (%d)", what, c.notes[what]))
	}
	clear(c.notes)
	return out
}

// finish takes what was found of a key.
func (c *comparer) finish(k *comparedKey) {
	if k.done != nil {
		close(k.done)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.finished(k)
}

// node returns the node that has a key.
func (c *comparer) node(key []byte) *compareNode {
	addr := ""
	if c.slots != nil {
		slot := target.Slot(key)
		addr = c.slots[slot]
		c.mu.Lock()
		if to, ok := c.moved[slot]; ok {
			addr = to
		}
		c.mu.Unlock()
	}
	n := c.nodes[addr]
	if n == nil {
		n = &compareNode{c: c, conn: c.connTo(addr), queue: make(chan *compareBatch, 3), free: make(chan *compareBatch, 3), building: &compareBatch{}}
		n.free <- &compareBatch{}
		n.free <- &compareBatch{}
		c.nodes[addr] = n
		c.workers.Go(n.work)
	}
	return n
}

// connTo returns a connection to a node of the target.
func (c *comparer) connTo(addr string) *target.Conn {
	opts := *c.opts
	if addr != "" {
		opts.Addr, opts.Network = addr, "tcp"
	}
	return target.New(&opts, compareTimeout)
}

// flush sends the questions of all nodes.
func (c *comparer) flush(ctx context.Context) error {
	for _, n := range c.nodes {
		if len(n.building.asks) > 0 {
			if err := n.submit(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// drain waits until all questions were answered.
func (c *comparer) drain(ctx context.Context) error {
	if err := c.flush(ctx); err != nil {
		return err
	}
	for _, n := range c.nodes {
		for range 2 { // the third is the one that is being built
			b, err := n.take(ctx)
			if err != nil {
				return err
			}
			defer func() { n.free <- b }()
		}
	}
	return nil
}

// A comparison is what comparing many keys found.
type comparison struct {
	compared    int64    // keys
	expired     int64    // of these, gone because their time had come
	different   int64    // of these
	details     int64    // of these, with all elements as they should be: what differs is when some expire, groups, or what a stream knows of itself
	differences []string // the first of them, at most ten
	notes       []string // what wasn't compared, and of how many keys
}

// compareAll compares everything that a stream has, keys and functions. The progress gets the number of keys compared so far, now and
// then; it may be nil.
//
// Keys that commands touch are not compared, if these were read before: they are counted.
func compareAll(ctx context.Context, c *comparer, r *rdb.Reader, touched *touchedKeys, progress func(keys int64)) (*comparison, error) {
	var functions functionSet
	var t touch
	left := int64(0)
	res, err := c.compare(ctx, progress, func(ask func(e *rdb.Entry, elements iter.Seq2[*rdb.Element, error]) error) error {
		for e, err := range r.Entries() {
			switch {
			case err != nil:
				return err
			case e.Kind == rdb.KindKey && touched.has(e, &t):
				left++
			case e.Kind == rdb.KindKey:
				err = ask(e, r.Elements())
			case e.Kind == rdb.KindFunction:
				err = functions.add(r.Elements())
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && touched == nil { // commands may have changed them
		err = c.functions(ctx, &functions, res)
	}
	if err != nil {
		return nil, err
	}
	if touched != nil {
		res.notes = append(res.notes, fmt.Sprintf("%s (%d keys)", touchedNote, left))
	}
	return res, nil
}

// touchedNote says what wasn't compared.
const touchedNote = "keys on which commands were executed were not compared"

// compare compares all keys that a function asks for.
func (c *comparer) compare(ctx context.Context, progress func(keys int64),
	all func(ask func(e *rdb.Entry, elements iter.Seq2[*rdb.Element, error]) error) error) (*comparison, error) {
	res := &comparison{}
	c.mu.Lock()
	c.finished = func(k *comparedKey) {
		res.compared++
		switch {
		case k.expired:
			res.expired++
		case k.text != "":
			res.add(k.String() + ": " + k.text)
			if k.detail != 0 && k.detail == k.rank {
				res.details++
			}
		}
	}
	c.mu.Unlock()
	if err := c.start(ctx); err != nil {
		return nil, err
	}
	if progress != nil {
		defer clock.Every(progressInterval, func() {
			c.mu.Lock()
			n := res.compared
			c.mu.Unlock()
			progress(n)
		})()
	}
	err := all(func(e *rdb.Entry, elements iter.Seq2[*rdb.Element, error]) error {
		_, err := c.ask(ctx, e, elements, nil)
		return err
	})
	if err == nil {
		err = c.drain(ctx)
	}
	if err != nil {
		return nil, err
	}
	res.notes = c.noted()
	return res, nil
}

// add adds a difference.
func (r *comparison) add(text string) {
	if r.different++; len(r.differences) < 10 {
		r.differences = append(r.differences, text)
	}
}

// quoteUpTo quotes the beginning of what a user stores, which may be a secret, or long.
func quoteUpTo(s string, n int) string {
	if len(s) <= n {
		return fmt.Sprintf("%q", s)
	}
	q := fmt.Sprintf("%q", s[:n])
	return q[:len(q)-1] + `…"`
}

func short(b []byte) string { return quoteUpTo(string(b[:min(len(b), 33)]), 32) }

// serverError is an error reply in our own errors: without the arguments that servers quote.
func serverError(text string) error {
	text, _, _ = strings.Cut(text, ", with args")
	return resp.Error(redact.String(text[:min(len(text), 200)]))
}

var errUnexpectedReply = errors.New("the target's answer is of another kind than the question")

// moment writes a time of expiry.
func moment(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z") }
