package target

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/amberkv/amber/internal/redact"
	"github.com/amberkv/amber/internal/resp"
)

// Open connects unless there is a connection, and tells whether it is a new one, whose database is 0.
func (c *Conn) Open(ctx context.Context) (fresh bool, err error) {
	if c.conn != nil {
		return false, nil
	}
	late := fmt.Errorf("no connection within %v: %w", c.timeout, os.ErrDeadlineExceeded)
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout, late)
	defer cancel()
	if err := c.connect(ctx); err != nil {
		return false, fmt.Errorf("connecting to the server: %w", err)
	}
	return true, nil
}

// Exchange sends commands, given as they are on the wire, and lets read take their replies meanwhile, so that neither side waits for the
// other however long both are. It ends with ctx, and after timeout. The connection has to be open: see Open.
//
// After an error it is closed: it isn't known then which commands the target got. Error replies are read's business; it returns
// those that it has no use for. The error doesn't quote our password.
func (c *Conn) Exchange(ctx context.Context, timeout time.Duration, commands []byte, read func(*resp.Reader) error) error {
	if c.conn == nil {
		return errors.New("there is no connection to the target")
	}
	late := fmt.Errorf("no answer within %v: %w", timeout, os.ErrDeadlineExceeded)
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, late)
	defer cancel()
	conn := c.conn
	end := func() { conn.SetDeadline(time.Unix(1, 0)) }
	stop := context.AfterFunc(ctx, end)
	written := make(chan error, 1)
	go func() {
		_, err := conn.Write(commands)
		if err != nil {
			end() // read would wait for what was never asked
		}
		written <- err
	}()
	err := read(c.in)
	if err != nil {
		end()
	}
	if failed := <-written; err == nil {
		err = failed
	}
	switch intact := stop(); {
	case err == nil && intact:
		return nil
	case err == nil:
		c.Close() // its deadline may have been moved
		return nil
	}
	c.Close()
	var refused resp.Error
	if errors.As(err, &refused) {
		if text := redact.String(err.Error(), c.secrets...); text != err.Error() {
			err = resp.Error(redact.String(string(refused), c.secrets...))
		}
		return err
	}
	return c.why(ctx, err)
}
