package fetch_test

import (
	"bytes"
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/fetch"
	"github.com/amberkv/amber/backup/snapshottest"
	"github.com/amberkv/amber/catalog"

	"io"
)

// stalledAfter is a server that sends the head and n bytes, and then nothing for a minute.
func stalledAfter(t *testing.T, b []byte, n int) func(t *testing.T) backup.Snapshotter {
	return func(t *testing.T) backup.Snapshotter {
		srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if n >= 0 {
				w.Header().Set("Content-Length", "1000000")
				w.Write(b[:n])
				w.(http.Flusher).Flush()
			}
			select {
			case <-r.Context().Done():
			case <-time.After(time.Minute):
			}
		})
		p := loopback()
		p.StallTimeout, p.HeaderTimeout = time.Minute, time.Minute
		return newSnapshotter(t, fetch.Config{URL: srv.URL + "/a.rdb" + query, Policy: p})
	}
}

func TestConformance(t *testing.T) {
	want := rdbFile(t)
	check := func(t *testing.T, _ backup.Part, r io.Reader) {
		if _, err := catalog.Inspect(r, nil); err != nil {
			t.Error(err)
		}
	}
	status := func(code int) func(t *testing.T) backup.Snapshotter {
		return func(t *testing.T) backup.Snapshotter {
			srv := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Error(w, r.URL.String(), code) })
			return newSnapshotter(t, fetch.Config{URL: srv.URL + "/a.rdb" + query, Policy: loopback()})
		}
	}
	t.Run("File", func(t *testing.T) {
		srv := files(t, map[string][]byte{"/dir/a.rdb": want})
		snapshottest.Run(t, func(t *testing.T) backup.Snapshotter {
			return newSnapshotter(t, fetch.Config{URL: srv.URL + "/dir/a.rdb" + query, Policy: loopback()})
		}, &snapshottest.Options{
			Secret: canary, Check: check, Stalled: stalledAfter(t, want, 600), Waiting: stalledAfter(t, want, -1),
			Failing: map[string]func(t *testing.T) backup.Snapshotter{"Forbidden": status(403), "Unavailable": status(503), "Missing": status(404)},
		})
	})
	t.Run("Set", func(t *testing.T) {
		srv := files(t, set(t))
		snapshottest.Run(t, func(t *testing.T) backup.Snapshotter {
			return newSnapshotter(t, fetch.Config{URL: srv.URL + "/dir/mini-summary.dfs" + query, Policy: loopback()})
		}, &snapshottest.Options{Secret: canary, Check: check})
	})
}

// set is a DFS set by path.
func set(t testing.TB) map[string][]byte {
	all := make(map[string][]byte)
	for _, name := range []string{"mini-summary.dfs", "mini-0000.dfs", "mini-0001.dfs"} {
		all["/dir/"+name] = fixture(t, "dfs/testdata/dragonfly-1.40/"+name)
	}
	return all
}

func TestFetch(t *testing.T) {
	want := rdbFile(t)
	srv := files(t, map[string][]byte{"/dir/a.rdb": want})
	s := newSnapshotter(t, fetch.Config{URL: srv.URL + "/dir/a.rdb" + query, Policy: loopback()})
	sn, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer sn.Close()
	if src := sn.Source(); src.Method != "fetch" || src.Address != srv.URL+"/dir/a.rdb" {
		t.Errorf("%+v", src)
	}
	if p := sn.Parts(); len(p) != 1 || p[0].Size != int64(len(want)) || p[0].Name != "dump.rdb" {
		t.Errorf("%+v", p)
	}
	got, err := readParts(context.Background(), sn)
	if err != nil || !bytes.Equal(got["dump.rdb"], want) {
		t.Errorf("%d bytes of %d, %v", len(got["dump.rdb"]), len(want), err)
	}
}
