// Package target is what every way of restoring needs to know of a server: it asks it, one command at a time, and reads what it says
// of itself.
package target

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/amberkv/amber/internal/redact"
	"github.com/amberkv/amber/internal/replication"
	"github.com/amberkv/amber/internal/resp"
	"github.com/redis/go-redis/v9"
)

// A Conn sends commands to a server, one at a time. It connects when it needs to, and again after a failure. It is used by one
// goroutine at a time.
//
// go-redis is not used for it because a command has to end when its context does.
type Conn struct {
	opts    *redis.Options
	dial    time.Duration // longest time of connecting
	timeout time.Duration // longest time of one command
	conn    net.Conn
	in      *resp.Reader
	local   net.Addr // our end of the last connection
	remote  net.Addr // the server's
	reached bool     // it was connected and let in at least once
	secrets []string // that no error may quote
}

// New returns a Conn to the server that the options of a client name. A command may take as long as timeout.
func New(opts *redis.Options, timeout time.Duration) *Conn {
	dial := 5 * time.Second // go-redis's default
	if opts.DialTimeout > 0 {
		dial = opts.DialTimeout
	}
	return &Conn{opts: opts, dial: min(dial, timeout), timeout: timeout}
}

// Do sends a command and returns its reply. It ends with ctx. An error reply is a resp.Error; after any other error
// it is not known whether the target got the command.
func (c *Conn) Do(ctx context.Context, args ...string) (resp.Reply, error) {
	late := fmt.Errorf("no answer within %v: %w", c.timeout, os.ErrDeadlineExceeded)
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout, late)
	defer cancel()
	if c.conn == nil {
		if err := c.connect(ctx); err != nil {
			return resp.Reply{}, fmt.Errorf("connecting to the server: %w", err)
		}
	}
	reply, err := c.exchange(ctx, args...)
	if err != nil {
		return reply, fmt.Errorf("%s: %w", name(args), err)
	}
	return reply, nil
}

// connect opens and authenticates a connection.
func (c *Conn) connect(ctx context.Context) error {
	conn, err := replication.Dial(ctx, c.opts, "", c.dial)
	if err != nil {
		return c.why(ctx, err)
	}
	c.conn, c.in = conn, resp.NewReader(conn, nil)
	c.local, c.remote = conn.LocalAddr(), conn.RemoteAddr()
	user, password, err := replication.Credentials(ctx, c.opts)
	if err != nil {
		if text := redact.String(err.Error(), password); text != err.Error() {
			err = errors.New(text)
		}
	} else if user+password != "" {
		c.secrets = append(c.secrets[:0:0], password)
		args := []string{"AUTH", user, password}
		if user == "" {
			args = []string{"AUTH", password}
		}
		_, err = c.exchange(ctx, args...)
	}
	if err != nil {
		c.Close()
		return fmt.Errorf("authentication: %w", err)
	}
	c.reached = true
	return nil
}

// exchange sends a command on the open connection, and closes it if it can't be used any more.
func (c *Conn) exchange(ctx context.Context, args ...string) (resp.Reply, error) {
	conn := c.conn
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	_, err := conn.Write(resp.AppendCommand(nil, args...))
	var reply resp.Reply
	if err == nil {
		reply, err = c.in.ReadReply()
	}
	var refused resp.Error
	switch intact := stop(); {
	case err == nil || errors.As(err, &refused):
		if !intact {
			c.Close() // its deadline may have been moved
		}
		if err != nil {
			err = resp.Error(redact.String(string(refused), append(c.secrets, values(args)...)...))
		}
	default:
		c.Close()
		err = c.why(ctx, err)
	}
	return reply, err
}

// why returns what ended ctx if that is why err happened.
func (c *Conn) why(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// Close closes the connection. The next command opens it again.
func (c *Conn) Close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// Info returns the server's INFO and its text.
func (c *Conn) Info(ctx context.Context) (resp.Info, string, error) {
	reply, err := c.Do(ctx, "INFO")
	if err != nil {
		return nil, "", err
	}
	return resp.ParseInfo(reply.Text), reply.Text, nil
}

// Reached tells whether it was connected and let in at least once.
func (c *Conn) Reached() bool { return c.reached }

// Local and Remote are the addresses of the last connection's ends; nil if there was none.
func (c *Conn) Local() net.Addr  { return c.local }
func (c *Conn) Remote() net.Addr { return c.remote }

// Setting returns a setting of the server by CONFIG GET, and whether there is one by that name.
func (c *Conn) Setting(ctx context.Context, name string) (value string, ok bool, err error) {
	reply, err := c.Do(ctx, "CONFIG", "GET", name)
	if err != nil || len(reply.Elems) < 2 {
		return "", false, err
	}
	return reply.Elems[1].Text, true, nil
}

// name returns the words of a command that may be told.
func name(args []string) string {
	switch args[0] {
	case "CONFIG", "ACL", "CLIENT", "FUNCTION":
		return strings.Join(args[:min(len(args), 2)], " ")
	case "REPLICAOF", "SELECT":
		return strings.Join(args, " ")
	}
	return args[0]
}

// values returns what a command sets and no error may quote.
func values(args []string) []string {
	if len(args) > 3 && args[0] == "CONFIG" && args[1] == "SET" && strings.HasPrefix(args[2], "master") {
		return args[3:]
	}
	return nil
}

// Denied tells whether the server refuses a command to us, for good: by its rules for users or because it doesn't have it.
func Denied(err error) bool {
	var e resp.Error
	return errors.As(err, &e) && (e.Code() == "NOPERM" || unknown(e))
}

// Refused tells whether err is the server's answer, and not that there was none.
func Refused(err error) bool {
	var e resp.Error
	return errors.As(err, &e)
}

// Code returns the first word of a server's answer that is an error, such as "NOPERM"; see resp.Error.
func Code(err error) string {
	var e resp.Error
	errors.As(err, &e)
	return e.Code()
}

func unknown(e resp.Error) bool {
	return strings.Contains(strings.ToLower(string(e)), "unknown command")
}
