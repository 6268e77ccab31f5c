// Package flows is the full synchronisation of a Dragonfly's replica, as far as a snapshot needs it: one connection that leads, and one for each
// of the master's shards, on which the shard's keys come as an RDB stream (dfs-format 6).
//
// Some orders of commands crash a master, and a flow that isn't read while others wait freezes it. Neither can be written down here: each step
// is a type, which has only the steps that may follow, and is used up by the one that is taken.
//
//	Greet ─▶ Greeted ─Announce─▶ Session ─Attach─▶ Attached ─Sync─▶ Syncing ─Static─▶ Static ─Cut─▶ Cut ─▶ Ends
//
// So DFLY SYNC is said only when every flow is attached, and every flow has its reader from then on; DFLY STARTSTABLE only when every one of
// these has seen the record that ends the static part; CLIENT-VERSION only behind capa dragonfly, which is said once on its connection. What fails
// anywhere closes all connections: a master ends a synchronisation with the first of them, and is rid of it.
package flows

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/internal/link"
	"github.com/amberkv/amber/internal/clock"
)

// Options say how to connect, and how long to wait.
type Options struct {
	Redis   *redis.Options // of the host's client; required
	Connect time.Duration  // bounds connecting, and the answers that come at once; required
	Stall   time.Duration  // bounds the silence of what has to send, and the answers that all of the master's clients wait for; required
	Now     clock.Func     // required
}

// maxShards is how many shards a Dragonfly can have.
const maxShards = 1024

// known is the newest version of the protocol that this package knows, in the numbers of Dragonfly 1.22 and later: VER6, of 1.37 to 1.40. It
// makes every flow have the definitions of search indexes. What came before changes no byte of a full synchronisation, so the numbers of
// Dragonfly 1.4 to 1.21, which mean something else by 2 to 4, needn't be told from these.
const known = 5

// core is what the steps hand on.
type core struct {
	o       Options
	control *link.Conn
	id      string                  // the master's replication ID
	name    string                  // of the session, such as SYNC1
	stop    context.CancelCauseFunc // ends what attaches flows; nil before
	asked   string                  // INFO's master_replid, before; empty if it can't be seen

	group  sync.WaitGroup // the readers of the flows
	failed chan struct{}  // closed with the first failure
	static chan struct{}  // closed when every flow has ended its static part
	ended  chan struct{}  // closed when every flow has ended

	mu       sync.Mutex
	flows    []*flow // an element is nil until its flow is attached
	err      error   // the first failure
	statics  int     // flows whose static part has ended
	ends     int     // flows that have ended
	cutting  bool    // STARTSTABLE was said, or is about to be
	draining bool    // all is done, and what fails from here on is of no interest
}

// A step is used up by the first that takes it.
type step struct {
	mu sync.Mutex
	c  *core
}

// errUsed is what who takes a step twice gets, instead of a command that is sent twice.
var errUsed = errors.New("flows: this step was taken already")

func (s *step) take() (*core, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.c
	s.c = nil
	if c == nil {
		return nil, errUsed
	}
	return c, nil
}

// Close ends what the step would have gone on with. It does nothing if that was handed on.
func (s *step) Close() {
	if c, err := s.take(); err == nil {
		c.close(net.ErrClosed)
	}
}

// fail ends everything because of err, unless it has failed before. It returns why it failed first.
func (c *core) fail(err error) error {
	c.mu.Lock()
	first := c.err == nil && !c.draining
	if first {
		c.err = err
		close(c.failed)
	}
	why := c.err
	c.mu.Unlock()
	if first {
		c.abort(err)
	}
	if why == nil {
		return err
	}
	return why
}

// abort closes all connections, for a reason that whoever waits on one is told.
func (c *core) abort(reason error) {
	if c.stop != nil {
		c.stop(reason)
	}
	c.control.Abort(reason)
	c.mu.Lock()
	flows := slices.Clone(c.flows)
	c.mu.Unlock()
	for _, f := range flows {
		if f != nil {
			f.conn.Abort(reason)
		}
	}
}

// close ends everything and waits for it.
func (c *core) close(reason error) {
	c.fail(c.stopped("read the flows", reason))
	c.abort(reason)
	c.group.Wait()
	c.control.Close()
	for _, f := range c.flows {
		if f != nil {
			f.conn.Close()
		}
	}
}

// stopped is the error of who didn't fail but was stopped. Other than what the connections say about errors it may be made by any goroutine.
func (c *core) stopped(step string, reason error) error {
	var e *backup.SourceError
	if errors.As(reason, &e) {
		return reason
	}
	return &backup.SourceError{Addr: c.control.Addr, Step: step, Err: reason}
}

// because returns err, or the end of ctx if that came before: it closes one connection after the other, and the master may have said something about that on
// one that was open still.
func (c *core) because(ctx context.Context, step string, err error) error {
	if ctx.Err() == nil || errors.Is(err, ctx.Err()) {
		return err
	}
	return c.stopped(step, ctx.Err())
}

// refuse is an error with a kind and advice.
func (c *core) refuse(kind error, step, what, hint string) error {
	err := errors.New(what)
	if kind != nil {
		err = link.As(kind, err)
	}
	return &backup.SourceError{Addr: c.control.Addr, Step: step, Err: err, Hint: hint}
}

// Facts are what the server says about itself.
type Facts struct {
	Addr       string
	Engine     string // "dragonfly"; empty if INFO can't be seen
	Version    string // such as "1.40.0"
	FullName   string // such as "df-v1.40.0"
	Replicas   int64  // that it has
	UsedMemory int64
	Cluster    bool  // it says that it is a node of a cluster
	InfoError  error // why INFO can't be seen; nil if it can
}

// Greeted is a connection to a server that is known, and that may be a Dragonfly.
type Greeted struct {
	step
	Facts Facts
}

var advice = link.Advice{
	Rights:      "+info +replconf +dfly",
	Unsupported: "the server doesn't let others replicate in Dragonfly's way: it is no Dragonfly, or the commands are taken away; use another snapshotter",
	Cut:         "the server's log tells why: it was restarted, the connection was killed, or it ended the synchronisation because of another connection's end",
}

// Greet connects and asks what the server is. Until Sync returns, ctx's end closes the connection.
func Greet(ctx context.Context, o Options) (*Greeted, error) {
	conn, err := open(ctx, o)
	if err != nil {
		return nil, err
	}
	c := &core{o: o, control: conn, failed: make(chan struct{}), static: make(chan struct{}), ended: make(chan struct{})}
	g := &Greeted{step: step{c: c}}
	if err := c.greet(&g.Facts); err != nil {
		err = conn.Fail("INFO", err)
		g.Close()
		return nil, err
	}
	return g, nil
}

func open(ctx context.Context, o Options) (*link.Conn, error) {
	return link.Open(ctx, link.Options{Redis: o.Redis, Timeout: o.Connect, Advice: advice})
}

func (c *core) greet(f *Facts) error {
	f.Addr = c.control.Addr
	seen, why, err := c.control.AskInfo()
	if err != nil {
		return err
	}
	if !seen {
		f.InfoError = why
		return nil
	}
	info := c.control.Info
	f.Engine, f.Version = c.control.Engine()
	f.FullName = info["dragonfly_version"]
	f.Replicas, f.UsedMemory, f.Cluster = info.Int("connected_slaves"), info.Int("used_memory"), info.Int("cluster_enabled") == 1
	c.asked = info["master_replid"]
	switch {
	case f.FullName == "":
		what := "this is no Dragonfly"
		if f.Engine != "" {
			what += " but " + f.Engine + " " + f.Version
		}
		return c.refuse(backup.ErrUnsupported, "INFO", what, "use the snapshotter for Redis and Valkey, backup/replica")
	case info.Int("loading") == 1:
		return c.refuse(backup.ErrTransient, "INFO", "the server is loading its data", "try again when it is done")
	}
	return nil
}

// readers returns an error if the flows' readers and the flows aren't as many.
func (c *core) readers(n int) error {
	if n != len(c.flows) {
		return fmt.Errorf("flows: %d sinks for %d flows", n, len(c.flows))
	}
	return nil
}
