package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/amberkv/amber/internal/redact"
	"github.com/amberkv/amber/internal/replication"
	"github.com/amberkv/amber/internal/resp"
)

// limits are enough for the longest INFO, and little enough for a peer that isn't what we take it for.
var limits = &resp.Limits{Line: 64 << 10, Message: 4 << 20, Elements: 64 << 10}

// Open connects to a server and authenticates. Until Release is called, ctx's end closes the connection.
func Open(ctx context.Context, o Options) (*Conn, error) {
	addr := o.Addr
	if addr == "" {
		addr = replication.Address(o.Redis)
	}
	c := &Conn{Addr: addr, advice: o.Advice, secure: o.Redis.TLSConfig != nil, timeout: o.Timeout, Info: resp.Info{}}
	var err error
	if c.conn, err = replication.Dial(ctx, o.Redis, addr, o.Timeout); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, c.Fail("connect", err)
	}
	if _, _, err := net.SplitHostPort(addr); err != nil && !strings.HasPrefix(addr, "/") {
		// go-redis' failover clients have a name for an address, and a Dialer that finds the primary.
		c.Addr = c.conn.RemoteAddr().String()
	}
	c.R = resp.NewReader(c.conn, limits)
	c.Release = c.Guard(ctx)
	if err := c.authenticate(ctx, o); err != nil {
		err = c.Fail("authenticate", err)
		c.Close()
		return nil, err
	}
	return c, nil
}

// authenticate proves who we are, if there is something to prove it with.
func (c *Conn) authenticate(ctx context.Context, o Options) error {
	user, password, err := replication.Credentials(ctx, o.Redis)
	if err != nil {
		if text := redact.String(err.Error(), password); text != err.Error() {
			err = errors.New(text)
		}
		return err
	}
	if password == "" { // a user name alone is ignored, as go-redis does
		return nil
	}
	args := []string{"AUTH", user, password}
	if user == "" {
		args = []string{"AUTH", password}
	}
	c.secrets = append(c.secrets, password)
	_, err = c.Command(args...)
	return err
}

// AskInfo gets the server's INFO. Where the server doesn't let us see it, seen is false and why tells the reason.
func (c *Conn) AskInfo(sections ...string) (seen bool, why, err error) {
	reply, err := c.Command(append([]string{"INFO"}, sections...)...)
	var e resp.Error
	switch {
	case err == nil && reply.Kind == resp.Bulk:
		c.Info = resp.ParseInfo(reply.Text)
		return true, nil, nil
	case err == nil:
		return false, nil, fmt.Errorf("%w: INFO was not answered with a text", resp.ErrProtocol)
	case errors.As(err, &e) && (e.Code() == "NOPERM" || UnknownCommand(err)):
		c.Info = resp.Info{}
		return false, err, nil
	}
	return false, nil, err
}

// Engine returns the engine and version of the server, or "" if unknown.
func (c *Conn) Engine() (engine, version string) {
	switch {
	case c.Info["dragonfly_version"] != "":
		version, _, _ = strings.Cut(strings.TrimPrefix(c.Info["dragonfly_version"], "df-v"), "-")
		return "dragonfly", version
	case c.Info["valkey_version"] != "":
		return "valkey", c.Info["valkey_version"]
	case c.Info["redis_version"] != "":
		return "redis", c.Info["redis_version"]
	}
	return "", ""
}

// Role is "primary", "replica" or "" if unknown.
func (c *Conn) Role() string {
	switch c.Info["role"] {
	case "master":
		return "primary"
	case "slave", "replica":
		return "replica"
	}
	return ""
}
