package replica_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/replica"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/redis/go-redis/v9"
)

func TestLoading(t *testing.T) {
	someServers(t, 0, func(t *testing.T, version string) {
		srv := testserver.Start(t, version)
		testserver.Generate(t, srv.Client(t), 300, 1)
		srv.AddUser(t, "x", canary, "+psync", "+replconf")
		data, _ := take(t, of(t, srv, nil))
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "dump.rdb"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		// The delay is waited for in pieces between which the server answers.
		loading := testserver.StartLoading(t, version, dir, "--key-load-delay", "50000", "--loading-process-events-interval-bytes", "1024",
			"--user", "x", "on", ">"+canary, "+psync", "+replconf")
		for name, change := range map[string]func(*replica.Config){
			"by INFO":  nil,
			"by PSYNC": func(c *replica.Config) { c.Options.Username, c.Options.Password = "x", canary },
		} {
			_, err := of(t, loading, change).Snapshot(t.Context())
			var e *backup.SourceError
			if !errors.Is(err, backup.ErrTransient) || !errors.As(err, &e) || !strings.Contains(err.Error(), "loading") {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestTLS(t *testing.T) {
	someServers(t, 1, func(t *testing.T, version string) {
		srv := testserver.StartTLS(t, version, "--tls-auth-clients", "yes", "--requirepass", canary)
		c := srv.Client(t)
		testserver.Generate(t, c, 200, 1)
		for name, s := range map[string]*replica.Snapshotter{
			"options":             of(t, srv, nil),
			"options of a client": of(t, srv, func(cfg *replica.Config) { cfg.Options = c.Options() }),
		} {
			data, _ := take(t, s)
			if stats, _ := parse(t, bytes.NewReader(data)); stats.Keys < 190 {
				t.Errorf("%s: %d keys", name, stats.Keys)
			}
			released(t, srv)
		}
		old := of(t, srv, nil)
		replica.SetTuning(old, true, 300*time.Millisecond) // read deadlines must not hurt TLS
		if err := c.ConfigSet(t.Context(), "repl-ping-replica-period", "1").Err(); err != nil {
			t.Fatal(err)
		}
		data, _ := take(t, old)
		parse(t, bytes.NewReader(data))

		plain := testserver.Start(t, version)
		for name, test := range map[string]struct {
			srv    *testserver.Server
			change func(*redis.Options)
			hint   string
		}{
			"no certificate":    {srv, func(o *redis.Options) { o.TLSConfig.Certificates = nil }, "client certificate"},
			"no trust":          {srv, func(o *redis.Options) { o.TLSConfig.RootCAs = nil }, "RootCAs"},
			"other name":        {srv, func(o *redis.Options) { o.TLSConfig.ServerName = "other.example" }, "ServerName"},
			"TLS to plain port": {plain, func(o *redis.Options) { o.TLSConfig = srv.Options().TLSConfig; o.Password = canary }, "TLS"},
			"plain to TLS port": {srv, func(o *redis.Options) { o.TLSConfig = nil }, "with TLS (rediss://"},
		} {
			for _, viaClient := range []bool{false, true} {
				_, err := of(t, test.srv, func(cfg *replica.Config) {
					test.change(cfg.Options)
					if test.srv == plain { // which waits for more
						cfg.ConnectTimeout = 300 * time.Millisecond
					}
					if viaClient {
						client := redis.NewClient(cfg.Options)
						defer client.Close()
						cfg.Options = client.Options()
					}
				}).Snapshot(t.Context())
				checkSecret(t, err)
				var e *backup.SourceError
				if !errors.As(err, &e) || !strings.Contains(e.Hint, test.hint) {
					t.Errorf("%s (via client %v): %v", name, viaClient, err)
				}
			}
		}
	})
}

// A server that is killed while it sends, its child too.
func TestKilled(t *testing.T) {
	someServers(t, 0, func(t *testing.T, version string) {
		for _, args := range [][]string{nil, {"--repl-diskless-sync", "no"}} {
			srv := testserver.Start(t, version, append(args, "--rdb-key-save-delay", "20000")...) // six seconds in all
			testserver.Generate(t, srv.Client(t), 300, 1)
			var killer sync.WaitGroup
			killer.Go(func() {
				for i := 0; i < 3000 && !strings.Contains(srv.Log(), "started by pid"); i++ {
					time.Sleep(10 * time.Millisecond)
				}
				time.Sleep(200 * time.Millisecond)
				killAll(srv)
			})
			sn, err := of(t, srv, nil).Snapshot(t.Context())
			if err == nil {
				r, oerr := sn.Open(t.Context(), sn.Parts()[0])
				if oerr != nil {
					t.Fatal(oerr)
				}
				_, err = io.Copy(io.Discard, r)
				sn.Close()
			}
			var e *backup.SourceError
			if !errors.As(err, &e) || !cutOff(err) || !strings.Contains(e.Hint, "log") {
				t.Errorf("%v: %v", args, err)
			}
			killer.Wait()
			srv.Kill()
		}
	})
}

// A saving child that fails makes the server end the connection.
func TestChildFails(t *testing.T) {
	someServers(t, 1, func(t *testing.T, version string) {
		srv := testserver.Start(t, version, "--rdb-key-save-delay", "20000")
		c := srv.Client(t)
		testserver.Generate(t, c, 300, 1)
		_, r := open(t, of(t, srv, nil))
		killChildren(t, srv)
		_, err := io.Copy(io.Discard, r)
		if !cutOff(err) {
			t.Errorf("got %v", err)
		}
	})
}

// The connection is cut somewhere in the snapshot.
func TestCutConnection(t *testing.T) {
	someServers(t, 0, func(t *testing.T, version string) {
		for _, mode := range modes[:2] {
			srv := testserver.Start(t, version, mode.args...)
			testserver.Generate(t, srv.Client(t), 300, 1)
			whole, _ := take(t, of(t, srv, nil))
			for name, cut := range map[string]cutter{
				"at byte 0":            {keep: 0},
				"at byte 1":            {keep: 1},
				"in the middle":        {keep: int64(len(whole)) / 2},
				"one byte before":      {dropLast: 1},
				"where the mark began": {dropLast: 40},
			} {
				if len(mode.args) > 0 && cut.dropLast == 40 {
					continue // there is no mark
				}
				addr := cut.listen(t, srv.Addr)
				sn, err := of(t, srv, func(c *replica.Config) { c.Options.Addr = addr }).Snapshot(t.Context())
				if err != nil {
					t.Errorf("%s, %s: Snapshot: %v", mode.name, name, err)
					continue
				}
				r, err := sn.Open(t.Context(), sn.Parts()[0])
				if err != nil {
					t.Fatal(err)
				}
				n, err := io.Copy(io.Discard, r)
				if !cutOff(err) || n > int64(len(whole)) {
					t.Errorf("%s, %s: %d bytes of about %d, %v", mode.name, name, n, len(whole), err)
				}
				sn.Close()
			}
			released(t, srv)
		}
	})
}

// A reader that is slower than the server holds it up; nothing grows here, and nothing there but what is written meanwhile.
func TestSlowReader(t *testing.T) {
	someServers(t, 1, func(t *testing.T, version string) {
		srv := testserver.Start(t, version, "--rdbcompression", "no")
		c := srv.Client(t)
		if err := c.Do(t.Context(), "DEBUG", "POPULATE", "10000", "key", "4096").Err(); err != nil {
			t.Fatal(err)
		}
		sn, r := open(t, of(t, srv, nil))
		var before, now runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := io.ReadFull(r, make([]byte, 9)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(500 * time.Millisecond)
		rest := &slow{r: r}
		stats, _ := parse(t, io.MultiReader(strings.NewReader(header(version)), rest))
		runtime.ReadMemStats(&now)
		if stats.Keys != 10000 || stats.Bytes < 40_000_000 {
			t.Errorf("read %+v", stats)
		}
		if rest.peak > before.HeapAlloc+(16<<20) { // the other versions are tested meanwhile
			t.Errorf("the heap grew from %d to %d bytes", before.HeapAlloc, rest.peak)
		}
		sn.Close()
		released(t, srv)
	})
}

// header is what a version's snapshots begin with.
func header(version string) string {
	return map[string]string{"redis-7.0": "REDIS0010", "redis-8.0": "REDIS0012", "valkey-8.1": "REDIS0011", "valkey-9.1": "VALKEY080"}[version]
}

func TestNoGoroutineLeft(t *testing.T) {
	srv := testserver.Start(t, "valkey-9.1", "--rdb-key-save-delay", "100000")
	testserver.Generate(t, srv.Client(t), 60, 1)
	s := of(t, srv, nil)
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		sn, err := s.Snapshot(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := sn.Open(ctx, sn.Parts()[0]); err != nil {
			t.Fatal(err)
		}
		sn.Close() // the reader is not closed
		cancel()
	}
	noGoroutines(t)
	released(t, srv)
}

// cutOff says whether an error is one of a connection that the other end ended.
func cutOff(err error) bool {
	var e *backup.SourceError
	return errors.As(err, &e) && e.Hint != "" &&
		(errors.Is(err, io.ErrUnexpectedEOF) || strings.Contains(err.Error(), "connection reset"))
}

// slow sleeps now and then, and watches the heap.
type slow struct {
	r    io.Reader
	n    int64
	peak uint64
}

func (s *slow) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if s.n>>22 != (s.n+int64(n))>>22 {
		time.Sleep(20 * time.Millisecond)
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		s.peak = max(s.peak, m.HeapAlloc)
	}
	s.n += int64(n)
	return n, err
}

// A cutter is a proxy that cuts the connection in the snapshot: after keep bytes, or, if dropLast is set, that many before
// the server ends it.
type cutter struct{ keep, dropLast int64 }

func (c cutter) listen(t *testing.T, to string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		client, err := l.Accept()
		if err != nil {
			return
		}
		defer client.Close()
		server, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		defer server.Close()
		go io.Copy(server, client)
		c.relay(client, server)
	}()
	return l.Addr().String()
}

// after returns what follows the first sep in b, or nothing.
func after(b []byte, sep string) []byte {
	_, rest, _ := bytes.Cut(b, []byte(sep))
	return rest
}

// relay passes on what the server sends, up to the cut.
func (c cutter) relay(client io.Writer, server io.Reader) {
	var seen []byte // all of it: the snapshots are small
	sent := 0
	buf := make([]byte, 4096)
	for {
		n, err := server.Read(buf)
		seen = append(seen, buf[:n]...)
		until := len(seen)
		if i := bytes.Index(seen, []byte("+FULLRESYNC")); i >= 0 {
			// Behind that line a server that is busy sends line feeds, until its snapshot is ready.
			line := len(seen[i:]) - len(bytes.TrimLeft(after(seen[i:], "\r\n"), "\n"))
			if rest := seen[i+line:]; len(rest) > 0 && rest[0] == '$' {
				if k := bytes.Index(rest, []byte("\r\n")); k >= 0 {
					begin := i + line + k + 2
					if c.dropLast > 0 {
						until = max(begin, len(seen)-int(c.dropLast))
					} else if until = begin + int(c.keep); until <= len(seen) {
						client.Write(seen[sent:until])
						return
					}
				}
			}
		}
		until = min(until, len(seen))
		if until > sent {
			client.Write(seen[sent:until])
			sent = until
		}
		if err != nil {
			return
		}
	}
}
