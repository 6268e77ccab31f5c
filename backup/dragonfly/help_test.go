package dragonfly_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/dragonfly"
	"github.com/amberkv/amber/internal/dflymaster"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/rdb/jsonl"
)

const canary = "CANARY two words"

// snapshotter makes one of the master, with what change changes.
func snapshotter(t *testing.T, m *dflymaster.Master, change func(*dragonfly.Config)) *dragonfly.Snapshotter {
	t.Helper()
	cfg := dragonfly.Config{Options: m.Options(), ConnectTimeout: 10 * time.Second, StallTimeout: 20 * time.Second, SpoolDir: t.TempDir()}
	if change != nil {
		change(&cfg)
	}
	s, err := dragonfly.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// take takes a snapshot and reads its parts, one after the other in the given order, or in theirs.
func take(t *testing.T, s backup.Snapshotter) (backup.Snapshot, map[string][]byte, error) {
	t.Helper()
	sn, err := s.Snapshot(t.Context())
	if err != nil {
		return nil, nil, err
	}
	t.Cleanup(func() { sn.Close() })
	out := map[string][]byte{}
	for _, p := range sn.Parts() {
		r, err := sn.Open(t.Context(), p)
		if err != nil {
			return sn, out, err
		}
		b, err := io.ReadAll(r)
		r.Close()
		if err != nil {
			return sn, out, err
		}
		out[p.Name] = b
	}
	return sn, out, nil
}

// mustTake is take for what has to succeed.
func mustTake(t *testing.T, s backup.Snapshotter) (backup.Snapshot, map[string][]byte) {
	t.Helper()
	sn, parts, err := take(t, s)
	if err != nil {
		t.Fatal(err)
	}
	if err := sn.Close(); err != nil {
		t.Fatal(err)
	}
	return sn, parts
}

// gone fails the test unless the master is rid of all connections within a while.
func gone(t *testing.T, m *dflymaster.Master) {
	t.Helper()
	for range 500 {
		if m.Connections() == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d connections to the master are left", m.Connections())
}

// goroutines fails the test if there are more when it ends than there are now.
func goroutines(t *testing.T) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		for range 300 {
			if runtime.NumGoroutine() <= before {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		var b bytes.Buffer
		buf := make([]byte, 1<<20)
		b.Write(buf[:runtime.Stack(buf, true)])
		t.Errorf("%d goroutines were left of %d:\n%s", runtime.NumGoroutine(), before, b.String())
	})
}

// fixture reads a file of testdata.
func fixture(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// contents returns a line for each key of the streams, sorted: its database and name, and the hash of its line of JSON.
func contents(t testing.TB, streams ...[]byte) []string {
	t.Helper()
	var out []string
	for _, s := range streams {
		r := rdb.NewReader(bytes.NewReader(s), &rdb.ReaderOptions{MaxHeld: 64 << 20})
		for e, err := range r.Entries() {
			if err != nil {
				t.Fatal(err)
			}
			if e.Kind != rdb.KindKey {
				continue
			}
			var line bytes.Buffer
			w := jsonl.NewWriter(&line, &jsonl.Options{MaxHeld: 64 << 20})
			name := fmt.Sprintf("%d %q", e.DB, e.Key)
			if err := w.WriteKey(e, r); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			sum := sha256.Sum256(line.Bytes())
			out = append(out, fmt.Sprintf("%x %s", sum[:8], name))
		}
	}
	slices.SortFunc(out, func(a, b string) int { return strings.Compare(a[17:], b[17:]) })
	return out
}

// recorded returns what a Dragonfly 1.40 sent on a connection: the control connection, the flow of shard 1, or that of shard 0. See testdata/README.md.
func recorded(t testing.TB, conn int) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(fixture(t, fmt.Sprintf("conn%d.s2c.bin.gz", conn))))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
