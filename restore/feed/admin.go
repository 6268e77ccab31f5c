package feed

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

// An admin sends commands to the target, one at a time. It connects when it needs to, and again after a failure.
// go-redis is not used for it because a command has to end when its context does.
type admin struct {
	opts    *redis.Options
	dial    time.Duration // longest time of connecting
	timeout time.Duration // longest time of one command
	conn    net.Conn
	in      *resp.Reader
	local   net.Addr // our end of the last connection
	remote  net.Addr // the target's
	reached bool     // it was connected and let in at least once
	secrets []string // that no error may quote
}

func newAdmin(opts *redis.Options, timeout time.Duration) *admin {
	dial := 5 * time.Second // go-redis's default
	if opts.DialTimeout > 0 {
		dial = opts.DialTimeout
	}
	return &admin{opts: opts, dial: min(dial, timeout), timeout: timeout}
}

// do sends a command and returns its reply. It ends with ctx. An error reply is a resp.Error; after any other error
// it is not known whether the target got the command.
func (a *admin) do(ctx context.Context, args ...string) (resp.Reply, error) {
	late := fmt.Errorf("no answer within %v: %w", a.timeout, os.ErrDeadlineExceeded)
	ctx, cancel := context.WithTimeoutCause(ctx, a.timeout, late)
	defer cancel()
	if a.conn == nil {
		if err := a.connect(ctx); err != nil {
			return resp.Reply{}, fmt.Errorf("connecting to the target: %w", err)
		}
	}
	reply, err := a.exchange(ctx, args...)
	if err != nil {
		return reply, fmt.Errorf("%s: %w", name(args), err)
	}
	return reply, nil
}

// connect opens and authenticates a connection.
func (a *admin) connect(ctx context.Context) error {
	conn, err := replication.Dial(ctx, a.opts, "", a.dial)
	if err != nil {
		return a.why(ctx, err)
	}
	a.conn, a.in = conn, resp.NewReader(conn, nil)
	a.local, a.remote = conn.LocalAddr(), conn.RemoteAddr()
	user, password, err := replication.Credentials(ctx, a.opts)
	if err != nil {
		if text := redact.String(err.Error(), password); text != err.Error() {
			err = errors.New(text)
		}
	} else if user+password != "" {
		a.secrets = append(a.secrets[:0:0], password)
		args := []string{"AUTH", user, password}
		if user == "" {
			args = []string{"AUTH", password}
		}
		_, err = a.exchange(ctx, args...)
	}
	if err != nil {
		a.close()
		return fmt.Errorf("authentication: %w", err)
	}
	a.reached = true
	return nil
}

// exchange sends a command on the open connection, and closes it if it can't be used any more.
func (a *admin) exchange(ctx context.Context, args ...string) (resp.Reply, error) {
	conn := a.conn
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	_, err := conn.Write(resp.AppendCommand(nil, args...))
	var reply resp.Reply
	if err == nil {
		reply, err = a.in.ReadReply()
	}
	var refused resp.Error
	switch intact := stop(); {
	case err == nil || errors.As(err, &refused):
		if !intact {
			a.close() // its deadline may have been moved
		}
		if err != nil {
			err = resp.Error(redact.String(string(refused), append(a.secrets, values(args)...)...))
		}
	default:
		a.close()
		err = a.why(ctx, err)
	}
	return reply, err
}

// why returns what ended ctx if that is why err happened.
func (a *admin) why(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (a *admin) close() {
	if a.conn != nil {
		a.conn.Close()
		a.conn = nil
	}
}

// info returns the target's INFO and its text.
func (a *admin) info(ctx context.Context) (resp.Info, string, error) {
	reply, err := a.do(ctx, "INFO")
	if err != nil {
		return nil, "", err
	}
	return resp.ParseInfo(reply.Text), reply.Text, nil
}

// setting returns a setting of the target by CONFIG GET, and whether there is one by that name.
func (a *admin) setting(ctx context.Context, name string) (value string, ok bool, err error) {
	reply, err := a.do(ctx, "CONFIG", "GET", name)
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
	case "AUTH":
		return "AUTH"
	}
	return strings.Join(args, " ")
}

// values returns what a command sets and no error may quote.
func values(args []string) []string {
	if len(args) > 3 && args[0] == "CONFIG" && args[1] == "SET" && strings.HasPrefix(args[2], "master") {
		return args[3:]
	}
	return nil
}

// denied tells whether the target refuses a command to us, for good: by its rules for users or because it doesn't have it.
func denied(err error) bool {
	var e resp.Error
	return errors.As(err, &e) && (e.Code() == "NOPERM" || unknown(e))
}

func unknown(e resp.Error) bool {
	return strings.Contains(strings.ToLower(string(e)), "unknown command")
}
