package replica

import (
	"context"
	"errors"
	"net"
	"strings"

	"github.com/amberkv/amber/internal/redact"
	"github.com/amberkv/amber/internal/replication"
	"github.com/amberkv/amber/internal/resp"
)

// limits are enough for the longest INFO, and little enough for a peer that isn't what we take it for.
var limits = &resp.Limits{Line: 64 << 10, Message: 4 << 20, Elements: 1 << 10}

// open connects to a server, authenticates and asks it what it is. Until release is called on the link, ctx's end closes
// it.
func (s *Snapshotter) open(ctx context.Context, addr string) (*link, error) {
	l := &link{addr: addr, secure: s.cfg.Options.TLSConfig != nil, timeout: s.cfg.ConnectTimeout}
	var err error
	if l.conn, err = replication.Dial(ctx, s.cfg.Options, addr, s.cfg.ConnectTimeout); err != nil {
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

// authenticate proves who we are, if there is something to prove it with.
func (s *Snapshotter) authenticate(ctx context.Context, l *link) error {
	user, password, err := replication.Credentials(ctx, s.cfg.Options)
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
	l.secrets = append(l.secrets, password)
	_, err = l.command(args...)
	return err
}
