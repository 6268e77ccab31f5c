package scan_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/backup/scan"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/rdb"
)

// canary is a password that must not be seen anywhere.
const canary = "CANARY-scan-7f3e"

// eachServer runs a test against every version.
func eachServer(t *testing.T, f func(t *testing.T, version string)) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			f(t, version)
		})
	}
}

// logger returns one that logs to the test, which fails if the password is logged.
func logger(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(logWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

type logWriter struct{ t *testing.T }

func (w logWriter) Write(p []byte) (int, error) {
	w.t.Helper()
	text := string(p)
	if strings.Contains(text, canary) {
		w.t.Errorf("the log holds the password: %s", strings.ReplaceAll(text, canary, "<PASSWORD>"))
	}
	w.t.Logf("%s", strings.TrimSuffix(strings.ReplaceAll(text, canary, "<PASSWORD>"), "\n"))
	return len(p), nil
}

// A snapshot that stands still fails its own test, and not all of them at the end of the package's time.
const (
	stall = 20 * time.Second // no answer for so long
	whole = 2 * time.Minute  // for a snapshot from its beginning to its end
)

// of returns a Snapshotter of a server.
func of(t *testing.T, srv *testserver.Server, change func(*scan.Config)) *scan.Snapshotter {
	t.Helper()
	cfg := scan.Config{Options: srv.Options(), TempDir: t.TempDir(), StallTimeout: stall, Logger: logger(t)}
	if change != nil {
		change(&cfg)
	}
	s, err := scan.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// take takes a whole snapshot and closes it.
func take(t *testing.T, s *scan.Snapshotter) ([]byte, catalog.Source) {
	t.Helper()
	data, src, err := try(t, s)
	if err != nil {
		t.Fatalf("reading the snapshot: after %d bytes: %v", len(data), err)
	}
	return data, src
}

// try is take for snapshots that may fail.
func try(t *testing.T, s *scan.Snapshotter) ([]byte, catalog.Source, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), whole)
	defer cancel()
	sn, err := s.Snapshot(ctx)
	if err != nil {
		return nil, catalog.Source{}, err
	}
	defer sn.Close()
	r, err := sn.Open(ctx, sn.Parts()[0])
	if err != nil {
		return nil, catalog.Source{}, err
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	return data, sn.Source(), err
}

// parse fails the test unless data is a whole RDB file in which nothing is wrong.
func parse(t *testing.T, data io.Reader) (rdb.Stats, string) {
	t.Helper()
	r := rdb.NewReader(data, nil)
	if err := rdb.Check(r, nil); err != nil {
		t.Errorf("the snapshot is no whole RDB file: %v", err)
	}
	return r.Stats(), r.Dialect().String()
}

// accepted fails the test unless the server's own checker accepts data and the server loads it. It returns the server.
func accepted(t *testing.T, version string, data []byte, args ...string) *testserver.Server {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "dump.rdb")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(testserver.Program(t, version, "check-rdb"), file).CombinedOutput(); err != nil {
		t.Errorf("check-rdb: %v\n%s", err, out)
	}
	return testserver.StartIn(t, version, dir, args...)
}

// ours are the last commands of connections that scan.
var ours = regexp.MustCompile(` cmd=(exec|multi|scan|dump|mget|info|select|pexpiretime|pttl|time|auth|function\|dump) `)

// released fails the test unless the server has no client that scans.
func released(t *testing.T, srv *testserver.Server) {
	t.Helper()
	c := srv.Client(t)
	defer c.Close()
	testserver.Eventually(t, 20*time.Second, "the server has no client that scans", func() error {
		list, err := c.ClientList(t.Context()).Result()
		if err == nil && ours.MatchString(list) {
			err = errors.New(list)
		}
		return err
	})
}

// expires is where testserver.Snapshot tells the expiry of a key.
var expires = regexp.MustCompile(`^[a-z]+\nexpires ([0-9]+)\n`)

// same fails the test unless a server that loads data holds what another does.
// An expiry may differ by so many milliseconds.
func same(t *testing.T, version string, srv *testserver.Server, data []byte, slack int64) {
	t.Helper()
	c := srv.Client(t)
	back := accepted(t, version, data).Client(t)
	want, got := testserver.Snapshot(t, c), testserver.Snapshot(t, back)
	if slack > 0 {
		for name, text := range got {
			a, b := expires.FindStringSubmatchIndex(want[name]), expires.FindStringSubmatchIndex(text)
			if a != nil && b != nil {
				was, _ := strconv.ParseInt(want[name][a[2]:a[3]], 10, 64)
				is, _ := strconv.ParseInt(text[b[2]:b[3]], 10, 64)
				if max(was-is, is-was) <= slack {
					got[name] = text[:b[2]] + want[name][a[2]:a[3]] + text[b[3]:]
				}
			}
		}
	}
	if diff := testserver.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if want, got := testserver.Functions(t, c), testserver.Functions(t, back); fmt.Sprint(want) != fmt.Sprint(got) {
		t.Errorf("functions are %v, not %v", got, want)
	}
}

func read(data []byte) io.Reader { return bytes.NewReader(data) }
