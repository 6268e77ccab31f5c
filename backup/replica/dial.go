package replica

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/amberkv/amber/internal/redact"
	"github.com/amberkv/amber/internal/resp"
	"github.com/redis/go-redis/v9/auth"
)

// limits are enough for the longest INFO, and little enough for a peer that isn't what we take it for.
var limits = &resp.Limits{Line: 64 << 10, Message: 4 << 20, Elements: 1 << 10}

// address returns the given server's, as go-redis understands the options.
func (s *Snapshotter) address() string {
	if addr := s.cfg.Options.Addr; addr != "" {
		return addr
	}
	return "localhost:6379"
}

// open connects to a server, authenticates and asks it what it is. Until release is called on the link, ctx's end closes
// it.
func (s *Snapshotter) open(ctx context.Context, addr string) (*link, error) {
	l := &link{addr: addr, secure: s.cfg.Options.TLSConfig != nil, timeout: s.cfg.ConnectTimeout}
	var err error
	if l.conn, err = s.dial(ctx, addr); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, l.fail("connect", err)
	}
	if _, _, err := net.SplitHostPort(addr); err != nil && !strings.HasPrefix(addr, "/") {
		// go-redis' failover clients have a name for an address, and a Dialer that finds the primary.
		l.addr = l.conn.RemoteAddr().String()
	}
	l.r = resp.NewReader(l.conn, limits)
	l.release = l.guard(ctx)
	if err := s.authenticate(ctx, l); err != nil {
		err = l.fail("authenticate", err)
		l.close()
		return nil, err
	}
	if err := s.ask(l); err != nil {
		err = l.fail("INFO", err)
		l.close()
		return nil, err
	}
	return l, nil
}

// dial connects as go-redis would. Cancelling ctx ends it at once: a Dialer of the host's may ignore ctx, as the one that
// go-redis sets for TLS does; then it is left to end by its own timeout, and what it connected is closed.
func (s *Snapshotter) dial(ctx context.Context, addr string) (net.Conn, error) {
	opts := s.cfg.Options
	network := opts.Network
	if strings.HasPrefix(addr, "/") {
		network = "unix"
	} else if network == "" || addr != opts.Addr {
		network = "tcp"
	}
	errSlow := fmt.Errorf("no connection within %v: %w", s.cfg.ConnectTimeout, os.ErrDeadlineExceeded)
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.ConnectTimeout, errSlow)
	defer cancel()
	dial := opts.Dialer
	if dial == nil && opts.TLSConfig != nil {
		dial = (&tls.Dialer{Config: opts.TLSConfig}).DialContext
	} else if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	conn, err := detached(ctx, func() (net.Conn, error) { return dial(ctx, network, addr) },
		func(conn net.Conn) { conn.Close() })
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err == nil && conn == nil {
		err = errors.New("the options' Dialer returned no connection")
	}
	return conn, err
}

// detached calls f, which belongs to the host and may not heed ctx, and returns its result, or ctx's error when that ends
// before. Then discard gets the result when it comes, unless it is an error.
func detached[T any](ctx context.Context, f func() (T, error), discard func(T)) (T, error) {
	type result struct {
		value T
		err   error
	}
	results := make(chan result)
	go func() {
		value, err := f()
		select {
		case results <- result{value, err}:
		case <-ctx.Done():
			if err == nil { // else value may be anything: a nil *tls.Conn in a net.Conn, with go-redis
				discard(value)
			}
		}
	}()
	select {
	case r := <-results:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
}

// credentials are a user name, which may be empty, and a password, which may be empty too.
type credentials struct{ user, password string }

// credentials asks the host for them, by the rules of go-redis.
func (s *Snapshotter) credentials(ctx context.Context) (credentials, error) {
	opts := s.cfg.Options
	if opts.StreamingCredentialsProvider == nil && opts.CredentialsProviderContext == nil && opts.CredentialsProvider == nil {
		return credentials{opts.Username, opts.Password}, nil
	}
	return detached(ctx, func() (c credentials, err error) {
		switch {
		case opts.StreamingCredentialsProvider != nil:
			// A replica's connection can't be authenticated anew, so the first credentials are all we need.
			first, unsubscribe, err := opts.StreamingCredentialsProvider.Subscribe(auth.NewReAuthCredentialsListener(nil, nil))
			if err != nil {
				return c, err
			}
			c.user, c.password = first.BasicAuth()
			return c, unsubscribe()
		case opts.CredentialsProviderContext != nil:
			c.user, c.password, err = opts.CredentialsProviderContext(ctx)
		default:
			c.user, c.password = opts.CredentialsProvider()
		}
		return c, err
	}, func(credentials) {})
}

// authenticate proves who we are, if there is something to prove it with.
func (s *Snapshotter) authenticate(ctx context.Context, l *link) error {
	c, err := s.credentials(ctx)
	if err != nil {
		if text := redact.String(err.Error(), c.password); text != err.Error() {
			err = errors.New(text)
		}
		return fmt.Errorf("the options' credentials provider failed: %w", err)
	}
	if c.password == "" { // a user name alone is ignored, as go-redis does
		return nil
	}
	args := []string{"AUTH", c.user, c.password}
	if c.user == "" {
		args = []string{"AUTH", c.password}
	}
	l.secrets = append(l.secrets, c.password)
	_, err = l.command(args...)
	return err
}
