package flows

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/internal/resp"
)

// Session is a synchronisation that the master knows of and that has no flow yet.
type Session struct {
	step
	ID     string // the master's replication ID, 40 hexadecimal digits
	Name   string // such as SYNC1
	Shards int    // of the master, which is how many flows there are
}

// Announce says that a Dragonfly replica is here. With that the master knows of a synchronisation; it costs it nothing yet.
func (g *Greeted) Announce() (*Session, error) {
	c, err := g.take()
	if err != nil {
		return nil, err
	}
	s := &Session{}
	if err := c.announce(s); err != nil {
		err = c.control.Fail("REPLCONF", err)
		c.close(err)
		return nil, err
	}
	c.id, c.name, c.flows = s.ID, s.Name, make([]*flow, s.Shards)
	s.c = c
	return s, nil
}

func (c *core) announce(s *Session) error {
	for _, command := range [][]string{{"PING"}, {"REPLCONF", "capa", "eof", "capa", "psync2"}} {
		if _, err := c.control.Command(command...); err != nil {
			return err
		}
	}
	reply, err := c.control.Command("REPLCONF", "capa", "dragonfly")
	var refused resp.Error
	switch {
	case errors.As(err, &refused) && strings.Contains(strings.ToLower(refused.Error()), "replicating a replica"):
		hint := "take the snapshot from its primary"
		if host := c.control.Info["master_host"]; host != "" {
			hint += ", " + host + ":" + c.control.Info["master_port"]
		}
		return c.refuse(backup.ErrUnsupported, "REPLCONF", "this Dragonfly is a replica, and those can't be replicated: "+refused.Error(), hint)
	case err != nil:
		return err
	case reply.Kind == resp.Status:
		return c.refuse(backup.ErrUnsupported, "REPLCONF", "this is no Dragonfly: it doesn't know of flows", "use the snapshotter for Redis and Valkey, backup/replica")
	}
	version, err := s.parse(reply)
	if err != nil {
		return err
	}
	if c.asked != "" && c.asked != s.ID {
		return c.refuse(nil, "REPLCONF", "the server's replication ID changed meanwhile: it became a replica or a primary", "try again")
	}
	if version > 0 {
		_, err = c.control.Command("REPLCONF", "CLIENT-VERSION", strconv.FormatInt(min(version, known), 10))
	}
	return err
}

// parse parses the answer to capa dragonfly: the master's ID, the session, the number of shards; since 1.4 the version of the protocol, 0 if it isn't
// there, and since 1.40 the ID of the first master.
func (s *Session) parse(reply resp.Reply) (version int64, err error) {
	e := reply.Elems
	bad := func(what string) (int64, error) {
		return 0, fmt.Errorf("%w: the answer to capa dragonfly %s", resp.ErrProtocol, what)
	}
	switch {
	case reply.Kind != resp.Array || len(e) < 3 || len(e) > 5:
		return bad("has not 3 to 5 elements")
	case !text(e[0]) || !hex40(e[0].Text):
		return bad("has no replication ID")
	case !text(e[1]) || !strings.HasPrefix(e[1].Text, "SYNC") || len(e[1].Text) > 64:
		return bad("names no session")
	case e[2].Kind != resp.Integer || e[2].Int < 1 || e[2].Int > maxShards:
		return bad(fmt.Sprintf("tells %d shards, and there are 1 to %d", e[2].Int, maxShards))
	case len(e) > 3 && (e[3].Kind != resp.Integer || e[3].Int < 0):
		return bad("has no version")
	case len(e) > 4 && !text(e[4]):
		return bad("has no lineage")
	}
	s.ID, s.Name, s.Shards = e[0].Text, e[1].Text, int(e[2].Int)
	if len(e) > 3 {
		version = e[3].Int
	}
	return version, nil
}

func text(r resp.Reply) bool { return r.Kind == resp.Status || r.Kind == resp.Bulk }

// tokenLen is the length of the token that a flow ends with.
const tokenLen = 40

func hex40(s string) bool {
	return len(s) == tokenLen && strings.Trim(s, "0123456789abcdefABCDEF") == ""
}

// Attached has a connection for each flow. The master has sent nothing on them, and keeps a journal of what is written from here on.
type Attached struct{ step }

// attaching is how many flows are attached at a time.
const attaching = 8

// Attach opens a connection for each of the master's shards. Until Sync returns, ctx's end closes them.
func (s *Session) Attach(ctx context.Context) (*Attached, error) {
	c, err := s.take()
	if err != nil {
		return nil, err
	}
	outer := ctx
	ctx, c.stop = context.WithCancelCause(ctx)
	var group errgroup.Group
	group.SetLimit(attaching)
	for i := range c.flows {
		group.Go(func() error {
			if ctx.Err() != nil {
				return c.fail(c.stopped("DFLY FLOW", context.Cause(ctx)))
			}
			f, err := c.attach(ctx, i)
			if err != nil {
				return c.fail(err)
			}
			c.mu.Lock()
			c.flows[i] = f
			c.mu.Unlock()
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		err = c.because(outer, "DFLY FLOW", err)
		c.close(err)
		return nil, err
	}
	return &Attached{step{c: c}}, nil
}

// attach opens one flow.
func (c *core) attach(ctx context.Context, i int) (*flow, error) {
	conn, err := open(ctx, c.o)
	if err != nil {
		return nil, err
	}
	f := &flow{core: c, conn: conn, index: i, lsn: -1, strict: true}
	if err := f.attach(); err != nil {
		err = conn.Fail(fmt.Sprintf("DFLY FLOW %d", i), err)
		conn.Close()
		return nil, err
	}
	return f, nil
}

func (f *flow) attach() error {
	reply, err := f.conn.Command("DFLY", "FLOW", f.core.id, f.core.name, strconv.Itoa(f.index))
	if err != nil {
		return err
	}
	e := reply.Elems
	switch {
	case reply.Kind != resp.Array || len(e) != 2 || !text(e[0]) || !text(e[1]) || !hex40(e[1].Text):
		return fmt.Errorf("%w: the answer to DFLY FLOW has not a kind and a token", resp.ErrProtocol)
	case e[0].Text != "FULL":
		return fmt.Errorf("%w: the master offers a %.20q synchronisation of the flow, and was asked for a full one", resp.ErrProtocol, e[0].Text)
	}
	f.token = e[1].Text
	return nil
}
