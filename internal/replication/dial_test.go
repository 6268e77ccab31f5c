package replication

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// go-redis's own TLS dialer returns a nil *tls.Conn as a net.Conn beside its error. One that ends after its caller has gone must not be
// touched.
func TestDialThatFailsLate(t *testing.T) {
	release, returned := make(chan struct{}), make(chan struct{})
	opts := &redis.Options{Addr: "127.0.0.1:1", Dialer: func(context.Context, string, string) (net.Conn, error) {
		defer close(returned)
		<-release
		var none *tls.Conn
		return none, errors.New("no connection")
	}}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if conn, err := Dial(ctx, opts, "", time.Minute); !errors.Is(err, context.Canceled) || conn != nil {
		t.Errorf("Dial returned %v, %v", conn, err)
	}
	close(release)
	<-returned
	time.Sleep(20 * time.Millisecond) // the goroutine that would panic
}

func TestDialTimesOut(t *testing.T) {
	opts := &redis.Options{Dialer: func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	if _, err := Dial(t.Context(), opts, "", 10*time.Millisecond); err == nil || err.Error() != "no connection within 10ms: i/o timeout" {
		t.Errorf("Dial returned %v", err)
	}
}
