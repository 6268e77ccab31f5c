package flows

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/internal/link"
	"github.com/amberkv/amber/internal/resp"
	"github.com/amberkv/amber/rdb"
)

// A Sink takes the bytes of a flow. It is called by one goroutine, which is the one that reads the flow: a Sink that waits stops the master.
type Sink interface {
	// Append takes the bytes that come next. They are borrowed. An error ends the synchronisation.
	Append(p []byte) error
	// Valid says that the stream has at least n bytes; those behind may not belong to it.
	Valid(n int64)
}

// Syncing reads all flows. The master sends what it has.
type Syncing struct{ step }

// Sync begins to read all flows, each into its sink, and then lets the master send. From here on nothing depends on ctx any more.
func (a *Attached) Sync(ctx context.Context, sinks []Sink) (*Syncing, error) {
	c, err := a.take()
	if err != nil {
		return nil, err
	}
	if err := c.readers(len(sinks)); err != nil {
		c.close(err)
		return nil, err
	}
	for i, f := range c.flows {
		f.begin(sinks[i])
	}
	err = c.command("DFLY SYNC", "DFLY", "SYNC", c.name)
	for _, f := range c.flows {
		if rerr := f.conn.Release(); err == nil {
			err = rerr
		}
	}
	if rerr := c.control.Release(); err == nil {
		err = rerr
	}
	if err != nil {
		err = c.because(ctx, "DFLY SYNC", c.fail(err)) // a flow that has failed ends the guards too
		c.close(err)
		var e *backup.SourceError
		if errors.As(err, &e) {
			begun := *e
			begun.Err = link.As(backup.ErrBegun, e.Err)
			err = &begun
		}
		return nil, err
	}
	return &Syncing{step{c: c}}, nil
}

// command says a command on the control connection for whose answer the master's clients may wait. If a flow has failed that is the error.
func (c *core) command(step string, args ...string) error {
	reply, err := c.control.CommandWithin(c.o.Stall, args...)
	if err == nil && (reply.Kind != resp.Status || reply.Text != "OK") {
		err = fmt.Errorf("%w: the answer is not OK", resp.ErrProtocol)
	}
	if err == nil {
		return nil
	}
	err = c.control.Fail(step, err)
	var refused resp.Error
	var e *backup.SourceError
	if errors.As(err, &refused) && errors.As(err, &e) && e.Hint == "" {
		e.Hint = "the master has ended the synchronisation, as it does when one of its connections ends: try again, its log may tell more"
	}
	return c.fail(err)
}

// Keys asks how many keys the master has, in all databases, or -1 if it doesn't tell. Until the cut none can go without a record in a journal.
func (y *Syncing) Keys(ctx context.Context) int64 {
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.c == nil {
		return -1
	}
	c := y.c
	stop := context.AfterFunc(ctx, func() { c.fail(c.stopped("INFO", context.Cause(ctx))) })
	defer stop()
	seen, _, err := y.c.control.AskInfo("KEYSPACE")
	if err != nil {
		y.c.fail(y.c.control.Fail("INFO", err))
		return -1
	}
	if !seen {
		return -1
	}
	var n int64
	for field := range y.c.control.Info {
		var db int
		if _, err := fmt.Sscanf(field, "db%d", &db); err != nil {
			continue
		}
		for name, value := range y.c.control.Info.Attributes(field) {
			var keys int64
			if name == "keys" {
				fmt.Sscan(value, &keys) // 0 if it is none
			}
			n += keys
		}
	}
	return n
}

// Static is a synchronisation of which all keys were sent, and whose journal goes on.
type Static struct{ step }

// Static waits until every flow has sent its static part.
func (y *Syncing) Static(ctx context.Context) (*Static, error) {
	c, err := y.take()
	if err != nil {
		return nil, err
	}
	if err := c.wait(ctx, c.static); err != nil {
		return nil, err
	}
	return &Static{step{c: c}}, nil
}

// wait waits for something, or closes everything.
func (c *core) wait(ctx context.Context, for_ <-chan struct{}) error {
	select {
	case <-for_:
		return nil
	case <-c.failed:
	case <-ctx.Done():
		c.fail(c.stopped("read the flows", context.Cause(ctx)))
	}
	c.mu.Lock()
	err := c.err
	c.mu.Unlock()
	c.close(err)
	return err
}

// Cut is a synchronisation whose flows end at the same instant.
type Cut struct {
	step
	Time time.Time // the instant, as this machine's clock has it
}

// Cut lets the master end all flows at the same instant. While it does nothing is written there.
func (s *Static) Cut(ctx context.Context) (*Cut, error) {
	c, err := s.take()
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.fail(c.stopped("DFLY STARTSTABLE", context.Cause(ctx))) })
	defer stop()
	c.mu.Lock()
	c.cutting = true
	c.mu.Unlock()
	for _, f := range c.flows {
		f.expect() // it has to send now
	}
	err = c.command("DFLY STARTSTABLE", "DFLY", "STARTSTABLE", c.name)
	at := c.o.Now()
	if err == nil {
		err = c.sameMaster()
	}
	if err != nil {
		c.close(err)
		return nil, err
	}
	return &Cut{step: step{c: c}, Time: at}, nil
}

// sameMaster holds the master's ID against what it was.
func (c *core) sameMaster() error {
	if c.asked == "" {
		return nil
	}
	seen, _, err := c.control.AskInfo("REPLICATION")
	if err != nil {
		return c.fail(c.control.Fail("INFO", err))
	}
	if now := c.control.Info["master_replid"]; seen && now != c.id {
		return c.fail(c.refuse(nil, "INFO", "the master's replication ID changed while it sent its data: it became a replica or a primary meanwhile", "try again"))
	}
	return nil
}

// An End tells how a flow ended.
type End struct {
	Size    int64 // of its stream, in bytes
	LSN     int64 // its position in the shard's journal: the number of the entry that comes next
	Keys    int64 // in it, without those in pieces
	Pieces  int64 // of large values
	Journal int64 // commands on top of the keys
}

// Ends waits until every flow has ended with its own token, and leaves the master.
func (k *Cut) Ends(ctx context.Context) ([]End, error) {
	c, err := k.take()
	if err != nil {
		return nil, err
	}
	if err := c.wait(ctx, c.ended); err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.draining = true
	err = c.err
	c.mu.Unlock()
	c.close(net.ErrClosed)
	if err != nil {
		return nil, err
	}
	out := make([]End, len(c.flows))
	for i, f := range c.flows {
		out[i] = f.end
	}
	return out, nil
}

// A flow is the connection of one shard.
type flow struct {
	core  *core
	conn  *link.Conn
	index int
	token string
	sink  Sink
	rd    *rdb.Reader

	got     int64 // bytes received
	readErr error // of the connection
	sinkErr error
	static  bool  // its static part has ended
	lsn     int64 // -1: there was none
	end     End

	mu     sync.Mutex
	strict bool // it has to send within the stall time
}

// idle is the time that a flow may be silent whose static part has ended: until all have.
const idle = 10 * 365 * 24 * time.Hour

// begin begins to read the flow.
func (f *flow) begin(sink Sink) {
	f.sink = sink
	f.rd = rdb.NewReader(source{f}, &rdb.ReaderOptions{PassPieces: true})
	f.core.group.Go(func() {
		if err := f.scan(); err != nil {
			f.core.fail(f.explain(err))
			return
		}
		f.drain()
	})
}

// A source is what the parser of a flow reads: the connection, of which every byte goes to the sink too.
type source struct{ f *flow }

func (s source) Read(p []byte) (int, error) {
	f := s.f
	f.sink.Valid(f.rd.Offset())
	n, err := f.receive(p)
	if n > 0 {
		if f.sinkErr = f.sink.Append(p[:n]); f.sinkErr != nil {
			return n, f.sinkErr
		}
	}
	return n, err
}

func (f *flow) receive(p []byte) (int, error) {
	f.mu.Lock()
	if f.strict {
		f.conn.Within(f.core.o.Stall)
	} else {
		f.conn.Within(idle)
	}
	f.mu.Unlock()
	n, err := f.conn.R.Read(p)
	f.got += int64(n)
	f.readErr = err
	return n, err
}

// expect makes the flow one that has to send, also for a read that waits already.
func (f *flow) expect() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.strict = true
	f.conn.Within(f.core.o.Stall)
}

// scan reads the stream to its end and its token. It looks at nothing but what a synchronisation consists of: the keys are for who reads the sink.
func (f *flow) scan() error {
	for {
		e, err := f.rd.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		switch e.Kind {
		case rdb.KindSyncEnd:
			if f.static {
				return fmt.Errorf("%w: the static part ends twice", rdb.ErrCorrupt)
			}
			f.static = true
			f.mu.Lock()
			f.strict = false
			f.mu.Unlock()
			f.core.count(&f.core.statics, f.core.static)
		case rdb.KindJournalOffset:
			if e.LSN > math.MaxInt64 {
				return fmt.Errorf("%w: the stream ends at entry %d of the journal", rdb.ErrCorrupt, e.LSN)
			}
			f.lsn = int64(e.LSN)
		case rdb.KindJournal:
			if err := f.journal(); err != nil {
				return err
			}
		}
	}
	f.core.mu.Lock()
	asked := f.core.cutting
	f.core.mu.Unlock()
	switch {
	case !f.static:
		return fmt.Errorf("%w: the stream ends before its static part does", rdb.ErrCorrupt)
	case !asked:
		return fmt.Errorf("%w: the stream ends before the master was asked to end it", rdb.ErrCorrupt)
	case f.lsn < 0:
		return fmt.Errorf("%w: the stream ends without its position in the journal", rdb.ErrCorrupt)
	}
	token := make([]byte, tokenLen)
	for n := copy(token, f.rd.Buffered()); n < tokenLen; {
		got, err := f.receive(token[n:])
		n += got
		if err != nil && n < tokenLen {
			return err
		}
	}
	if string(token) != f.token {
		return fmt.Errorf("%w: the stream doesn't end with the token of this flow", rdb.ErrCorrupt)
	}
	s := f.rd.Stats()
	f.end = End{Size: s.Bytes, LSN: f.lsn, Keys: s.Keys, Pieces: s.Pieces, Journal: s.Journal}
	f.sink.Valid(s.Bytes)
	f.core.count(&f.core.ends, f.core.ended)
	return nil
}

// count counts a flow, and tells when it was the last.
func (c *core) count(n *int, all chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if *n++; *n == len(c.flows) {
		close(all)
	}
}

// journal looks at a command that was executed meanwhile.
func (f *flow) journal() error {
	var words [2]string
	for i := range words {
		e, err := f.rd.Element()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		words[i] = strings.ToUpper(string(e.Value[:min(len(e.Value), 20)]))
		if i == 0 && words[0] != "DFLYCLUSTER" {
			break
		}
	}
	switch {
	case words[0] == "FLUSHALL" || words[0] == "FLUSHDB" || words[1] == "FLUSHSLOTS":
		return &flushedError{strings.TrimSpace(words[0] + " " + words[1])}
	}
	return nil
}

// A flushedError: no server loads a stream that empties a database.
type flushedError struct{ command string }

func (e *flushedError) Error() string {
	return e.command + " was executed while the data was sent, and what came before it isn't there any more"
}

// drain reads what follows the stream, and forgets it, so that the master never waits for us while the others end.
func (f *flow) drain() {
	f.mu.Lock()
	f.strict = false
	f.mu.Unlock()
	b := make([]byte, 32<<10)
	for {
		if _, err := f.receive(b); err != nil {
			return // that the flow ended early is of interest only where it hadn't ended
		}
	}
}

// explain tells where a flow broke and what to do.
func (f *flow) explain(err error) error {
	step := fmt.Sprintf("flow %d", f.index)
	if f.sinkErr != nil {
		return &backup.SourceError{Addr: f.conn.Addr, Step: step, Err: f.sinkErr}
	}
	var flushed *flushedError
	if errors.As(err, &flushed) {
		return &backup.SourceError{Addr: f.conn.Addr, Step: step, Err: flushed, Hint: "take the snapshot again"}
	}
	if f.readErr != nil {
		err = f.readErr // the parser says no more than that the stream isn't whole
	}
	wrapped := f.conn.Fail(step, err)
	var e *backup.SourceError
	if f.conn.Aborted() != nil || !errors.As(wrapped, &e) {
		return wrapped
	}
	e.Err = fmt.Errorf("after %d bytes: %w", f.got, e.Err)
	return e
}
