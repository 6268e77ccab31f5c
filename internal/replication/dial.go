package replication

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/auth"
)

// Dial connects to addr as go-redis would with a host's options: by their Dialer, or their network and TLS configuration.
// An empty addr means the one that the options name. It returns at once when ctx ends, and after timeout at the latest. A
// Dialer of the host's may ignore ctx, as the one that go-redis sets for TLS does; then it is left to its own timeout, and
// what it connected is closed.
func Dial(ctx context.Context, opts *redis.Options, addr string, timeout time.Duration) (net.Conn, error) {
	network := opts.Network
	if addr == "" {
		addr = Address(opts)
	}
	switch {
	case strings.HasPrefix(addr, "/"):
		network = "unix"
	case network == "" || addr != Address(opts):
		network = "tcp"
	}
	dial := opts.Dialer
	if dial == nil && opts.TLSConfig != nil {
		dial = (&tls.Dialer{Config: opts.TLSConfig}).DialContext
	} else if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	slow := fmt.Errorf("no connection within %v: %w", timeout, os.ErrDeadlineExceeded)
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, slow)
	defer cancel()
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

// Address returns the address that a host's options name, which is go-redis's default if they name none.
func Address(opts *redis.Options) string {
	if opts.Addr == "" {
		return "localhost:6379"
	}
	return opts.Addr
}

// Credentials returns the user name and password that a host's options give, by go-redis's rules. Both may be empty, and a
// password may come without a name, or beside an error whose text must not be shown with the password in it.
func Credentials(ctx context.Context, opts *redis.Options) (user, password string, err error) {
	if opts.StreamingCredentialsProvider == nil && opts.CredentialsProviderContext == nil && opts.CredentialsProvider == nil {
		return opts.Username, opts.Password, nil
	}
	type credentials struct{ user, password string }
	c, err := detached(ctx, func() (c credentials, err error) {
		switch {
		case opts.StreamingCredentialsProvider != nil:
			// Each connection asks anew, so the first credentials are all that is needed.
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
	if err != nil {
		// The password comes too, so that the caller can keep it out of what the provider says.
		return c.user, c.password, fmt.Errorf("the options' credentials provider failed: %w", err)
	}
	return c.user, c.password, nil
}

// detached calls f, which belongs to the host and may not heed ctx, and returns its result, or the cause of ctx's end when
// that comes before. Then discard gets the result when it comes, unless it is an error.
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
