package scan_test

import (
	"context"
	"errors"
	"io"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/scan"
	"github.com/amberkv/amber/internal/testserver"
)

// populate fills a server with keys whose values are of a size.
func populate(t *testing.T, srv *testserver.Server, keys, size int) {
	t.Helper()
	c := srv.Client(t)
	defer c.Close()
	if err := c.Do(t.Context(), "DEBUG", "POPULATE", keys, "key", size).Err(); err != nil {
		t.Fatal(err)
	}
}

// kill ends the connections of a user.
func kill(t *testing.T, srv *testserver.Server, user string) {
	t.Helper()
	c := srv.Client(t)
	defer c.Close()
	if err := c.Do(t.Context(), "CLIENT", "KILL", "USER", user).Err(); err != nil {
		t.Fatal(err)
	}
}

var quick = []time.Duration{time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond}

// as lets a snapshotter scan as a user.
func as(user string) func(*scan.Config) {
	return func(c *scan.Config) { c.Options.Username, c.Options.Password = user, canary }
}

// A connection that breaks again and again costs nothing but time.
func TestBrokenConnections(t *testing.T) {
	eachServer(t, func(t *testing.T, version string) {
		srv := testserver.Start(t, version, "--rdbcompression", "no")
		populate(t, srv, 40_000, 300)
		how := rights
		if strings.HasSuffix(version, ".1") {
			how = append(slices.Clone(rights), "+mget")
		}
		srv.AddUser(t, "amber", canary, how...)
		s := of(t, srv, as("amber"))
		scan.SetTuning(s, scan.Tuning{Pauses: quick})
		sn, err := s.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer sn.Close()
		r, err := sn.Open(t.Context(), sn.Parts()[0])
		if err != nil {
			t.Fatal(err)
		}
		var data []byte
		for len(data) < 8<<20 {
			piece := make([]byte, 2<<20)
			n, err := io.ReadFull(r, piece)
			data = append(data, piece[:n]...)
			if err != nil {
				t.Fatal(err)
			}
			kill(t, srv, "amber")
		}
		rest, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		data = append(data, rest...)
		stats, _ := parse(t, read(data)) // no key is there twice
		if src := sn.Source(); stats.Keys != 40_000 || src.Scan.Gone != 0 || src.Scan.Listed != 40_000 {
			t.Errorf("%d keys, counts %+v", stats.Keys, src.Scan)
		}
	})
}

// Within a value that was handed on in part, a broken connection spoils the stream: the part has to be read again, twice at most.
func TestBrokenValue(t *testing.T) {
	t.Run("DUMP", func(t *testing.T) { brokenValue(t, rights) })
	t.Run("MGET", func(t *testing.T) { brokenValue(t, append(slices.Clone(rights), "+mget")) })
}

func brokenValue(t *testing.T, rights []string) {
	srv := testserver.Start(t, "redis-7.0", "--rdbcompression", "no")
	populate(t, srv, 1, 32<<20)
	srv.AddUser(t, "amber", canary, rights...)
	s := of(t, srv, as("amber"))
	scan.SetTuning(s, scan.Tuning{Strings: true})
	sn, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer sn.Close()
	for attempt := range 4 {
		r, err := sn.Open(t.Context(), sn.Parts()[0])
		if attempt == 3 {
			if err == nil || errors.Is(err, backup.ErrAgain) {
				t.Errorf("it can be opened once more: %v", err)
			}
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(r, make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
		kill(t, srv, "amber")
		_, err = io.Copy(io.Discard, r)
		if errors.Is(err, backup.ErrAgain) != (attempt < 2) || err == nil {
			t.Errorf("attempt %d: %v", attempt, err)
		}
		r.Close()
	}

	// And a part that is read again is whole.
	if sn, err = s.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer sn.Close()
	for attempt := range 2 {
		r, err := sn.Open(t.Context(), sn.Parts()[0])
		if err != nil {
			t.Fatal(err)
		}
		if attempt == 0 {
			kill(t, srv, "amber") // before a byte is read: that is no reason to begin again
		}
		data, err := io.ReadAll(r)
		r.Close()
		if err == nil {
			if stats, _ := parse(t, read(data)); stats.Keys != 1 {
				t.Errorf("there are %d keys", stats.Keys)
			}
			return
		}
		if !errors.Is(err, backup.ErrAgain) {
			t.Fatal(err)
		}
	}
	t.Error("the second attempt failed, too")
}

// A server that was restarted holds other data, by its replication ID.
func TestRestartedServer(t *testing.T) {
	srv := testserver.Start(t, "redis-7.0")
	populate(t, srv, 100_000, 100)
	s := of(t, srv, nil)
	scan.SetTuning(s, scan.Tuning{Pauses: []time.Duration{time.Second, 5 * time.Second, 10 * time.Second}})
	sn, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer sn.Close()
	r, err := sn.Open(t.Context(), sn.Parts()[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	srv.Restart(t)
	if _, err := io.Copy(io.Discard, r); err == nil || !strings.Contains(err.Error(), "another process with other data") {
		t.Errorf("reading on: %v", err)
	}
	srv.Kill()
	if _, err := s.Snapshot(t.Context()); err == nil {
		t.Error("a server that is down can be scanned")
	}
}

func TestPermissions(t *testing.T) {
	eachServer(t, func(t *testing.T, version string) {
		srv := testserver.Start(t, version)
		testserver.Generate(t, srv.Client(t), 60, 1)
		testserver.LoadFunction(t, srv.Client(t), "amber")
		without := func(right string, more ...string) []string {
			var rest []string
			for _, r := range rights {
				if r != right {
					rest = append(rest, r)
				}
			}
			return append(rest, more...)
		}
		for name, test := range map[string]struct {
			rules []string
			want  string // of the error
		}{
			"all needed":      {rights, ""},
			"MGET, too":       {without("", "+mget"), ""},
			"no functions":    {without("+function|dump"), ""},
			"no INFO":         {without("+info", "+config|get"), ""},
			"no CONFIG":       {without("+info"), ""},
			"no SCAN":         {without("+scan"), "+scan"},
			"no DUMP":         {without("+dump"), "+dump"},
			"no expiries":     {without("+pexpiretime"), "+pexpiretime"},
			"no transactions": {without("+multi"), "+multi"},
			"no SELECT":       {without("+select"), "+select"},
			"some keys":       {without("%R~*", "%R~amber:*"), "may not read all keys"},
		} {
			if err := srv.Client(t).Do(t.Context(), "ACL", "DELUSER", "amber").Err(); err != nil {
				t.Fatal(err)
			}
			srv.AddUser(t, "amber", canary, test.rules...)
			data, src, err := try(t, of(t, srv, as("amber")))
			if test.want != "" {
				if !errors.Is(err, backup.ErrPermission) || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), canary) {
					t.Errorf("%s: %v", name, err)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			stats, _ := parse(t, read(data))
			if stats.Keys != 60 || (stats.Functions == 1) != (name != "no functions") || (src.Version == "") != (name == "no INFO" || name == "no CONFIG") {
				t.Errorf("%s: %+v of %+v", name, stats, src)
			}
		}
	})
}

// A value is not held, however large, and neither is what a slow reader leaves.
func TestMemory(t *testing.T) {
	srv := testserver.Start(t, "redis-7.0", "--rdbcompression", "no")
	populate(t, srv, 2, 100<<20)
	sn, err := of(t, srv, nil).Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer sn.Close()
	r, err := sn.Open(t.Context(), sn.Parts()[0])
	if err != nil {
		t.Fatal(err)
	}
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	var n int64
	for {
		k, err := io.CopyN(io.Discard, r, 16<<20)
		n += k
		runtime.ReadMemStats(&now)
		if now.HeapInuse > before.HeapInuse+16<<20 {
			t.Fatalf("%d MiB of heap after %d bytes", now.HeapInuse>>20, n)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if n < 200<<20 {
		t.Errorf("%d bytes", n)
	}
}

// A reader that doesn't read makes the server asked for no more.
func TestBackPressure(t *testing.T) {
	srv := testserver.Start(t, "redis-7.0", "--rdbcompression", "no")
	populate(t, srv, 3000, 64<<10) // 200 MB
	sn, err := of(t, srv, nil).Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer sn.Close()
	if _, err := sn.Open(t.Context(), sn.Parts()[0]); err != nil {
		t.Fatal(err)
	}
	c := srv.Client(t)
	calls := func() int64 {
		text, err := c.Info(t.Context(), "commandstats").Result()
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(text, "cmdstat_dump:calls=")
		number, _, _ := strings.Cut(rest, ",")
		n, _ := strconv.ParseInt(number, 10, 64)
		return n
	}
	var last int64
	testserver.Eventually(t, 20*time.Second, "nothing more is asked for", func() error {
		time.Sleep(100 * time.Millisecond)
		n := calls()
		if n != last || n < 10 {
			last = n
			return errors.New(strconv.FormatInt(n, 10))
		}
		return nil
	})
	if last > 1000 {
		t.Errorf("%d of 3000 values were asked for while nobody read", last)
	}
}

// Rates are kept, on average, and waiting for them ends with the context.
func TestRates(t *testing.T) {
	srv := testserver.Start(t, "redis-7.0", "--rdbcompression", "no")
	populate(t, srv, 1000, 1000)
	for name, change := range map[string]func(*scan.Config){
		"keys":  func(c *scan.Config) { c.KeysPerSecond = 2000 },
		"bytes": func(c *scan.Config) { c.BytesPerSecond = 2 << 20 },
	} {
		start := time.Now()
		data, _ := take(t, of(t, srv, change))
		if took := time.Since(start); took < 300*time.Millisecond || took > 10*time.Second {
			t.Errorf("%s: it took %v", name, took)
		}
		if stats, _ := parse(t, read(data)); stats.Keys != 1000 {
			t.Errorf("%s: %d keys", name, stats.Keys)
		}
	}
	for name, change := range map[string]func(*scan.Config){
		"keys":  func(c *scan.Config) { c.KeysPerSecond = 1 },
		"bytes": func(c *scan.Config) { c.BytesPerSecond = 1 },
	} {
		sn, err := of(t, srv, change).Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		r, err := sn.Open(ctx, sn.Parts()[0])
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(50*time.Millisecond, cancel)
		start := time.Now()
		if _, err := io.Copy(io.Discard, r); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
		sn.Close()
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("%s: it took %v to end", name, took)
		}
	}
}

// A server whose user's password was changed ends the scan with an error that says so.
func TestChangedPassword(t *testing.T) {
	srv := testserver.Start(t, "valkey-8.1")
	populate(t, srv, 100_000, 100)
	srv.AddUser(t, "amber", canary, rights...)
	s := of(t, srv, as("amber"))
	scan.SetTuning(s, scan.Tuning{Pauses: quick})
	sn, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer sn.Close()
	r, err := sn.Open(t.Context(), sn.Parts()[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Client(t).Do(t.Context(), "ACL", "SETUSER", "amber", "resetpass", ">another").Err(); err != nil {
		t.Fatal(err)
	}
	kill(t, srv, "amber")
	if _, err := io.Copy(io.Discard, r); !errors.Is(err, backup.ErrAuth) || strings.Contains(err.Error(), canary) {
		t.Errorf("reading on: %v", err)
	}
}
