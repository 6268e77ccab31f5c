package fetch_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/fetch"
)

// canary is in every secret of these tests. No error, log or manifest may hold any piece of it.
const canary = "CANARYzQ7xW4pLm2vK9"

const query = "?X-Amz-Signature=" + canary + "&X-Amz-Expires=60"

// loopback lets tests reach their own servers.
func loopback() fetch.Policy {
	return fetch.Policy{AllowHTTP: true, Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")},
		ConnectTimeout: 15 * time.Second, HeaderTimeout: 15 * time.Second, StallTimeout: 15 * time.Second}
}

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../../rdb", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func rdbFile(t testing.TB) []byte { return fixture(t, "testdata/redis-8.0.2/cluster.rdb") }

// serve starts a server whose address is on loopback.
func serve(t testing.TB, h http.HandlerFunc) *httptest.Server {
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv
}

// files serves files by their paths, with ranges and strong ETags.
func files(t testing.TB, byPath map[string][]byte) *httptest.Server {
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, ok := byPath[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("ETag", fmt.Sprintf(`"%d-%s"`, len(b), r.URL.Path))
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
	})
}

func newSnapshotter(t testing.TB, cfg fetch.Config) *fetch.Snapshotter {
	t.Helper()
	s, err := fetch.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return fetch.Quick(s)
}

// read takes a snapshot and reads all of its parts.
func read(t testing.TB, cfg fetch.Config) (map[string][]byte, error) {
	t.Helper()
	s, err := fetch.New(cfg)
	if err != nil {
		return nil, err
	}
	sn, err := fetch.Quick(s).Snapshot(t.Context())
	if err != nil {
		return nil, err
	}
	defer sn.Close()
	return readParts(t.Context(), sn)
}

func readParts(ctx context.Context, sn backup.Snapshot) (map[string][]byte, error) {
	all := make(map[string][]byte)
	for _, p := range sn.Parts() {
		r, err := sn.Open(ctx, p)
		if err != nil {
			return nil, err
		}
		b, err := io.ReadAll(r)
		if cerr := r.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return nil, err
		}
		all[p.Name] = b
	}
	return all, nil
}

// tells fails the test if a text holds a piece of the canary.
func tells(t testing.TB, what, text string) {
	t.Helper()
	tellsMuch(t, what, text, 5)
}

// tellsMuch fails the test if a text holds n letters in a row of the canary.
func tellsMuch(t testing.TB, what, text string, n int) {
	t.Helper()
	for i := 0; i+n <= len(canary); i++ {
		if strings.Contains(strings.ToLower(text), strings.ToLower(canary[i:i+n])) {
			t.Errorf("%s holds a piece of the secret, %s: %s", what, canary[i:i+n], text)
			return
		}
	}
}

// refused checks an error: that it is of a kind, says something, and doesn't tell the secret.
func refused(t testing.TB, err error, kind error, says ...string) {
	t.Helper()
	if err == nil {
		t.Error("no error")
		return
	}
	tells(t, "the error", fmt.Sprintf("%v %+v %#v", err, err, err))
	for e := err; e != nil; e = errors.Unwrap(e) {
		tells(t, "what the error wraps", fmt.Sprintf("%v %+v %#v", e, e, e))
	}
	if kind != nil && !errors.Is(err, kind) {
		t.Errorf("%v, want an error that is %q", err, kind)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("%v, want it to say %q", err, s)
		}
	}
}

// A cutter hands connections on to a server, and cuts what comes back.
type cutter struct {
	net.Listener
	cuts  chan int64 // after how many bytes the next connections are cut; afterwards they live
	conns atomic.Int64
}

func (c *cutter) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c.conns.Add(1)
	select {
	case n := <-c.cuts:
		return &cutConn{Conn: conn, left: n}, nil
	default:
		return conn, nil
	}
}

// cutConn is cut after as many bytes were written, of the body: the head doesn't count.
type cutConn struct {
	net.Conn
	mu   sync.Mutex
	left int64
	head bool // is over
}

func (c *cutConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	skip := 0
	if !c.head {
		if i := bytes.Index(p, []byte("\r\n\r\n")); i >= 0 {
			c.head, skip = true, i+4
		} else {
			skip = len(p)
		}
	}
	if n := int64(skip) + c.left; int64(len(p)) > n {
		c.Conn.Write(p[:n])
		c.Conn.Close()
		return 0, io.ErrClosedPipe
	}
	c.left -= int64(len(p) - skip)
	return c.Conn.Write(p)
}

// cutting is files on connections that are cut.
func cutting(t testing.TB, h http.Handler, cuts ...int64) (*httptest.Server, *cutter) {
	srv := httptest.NewUnstartedServer(h)
	c := &cutter{Listener: srv.Listener, cuts: make(chan int64, 10000)}
	for _, n := range cuts {
		c.cuts <- n
	}
	srv.Listener = c
	srv.Start()
	t.Cleanup(srv.Close)
	return srv, c
}
