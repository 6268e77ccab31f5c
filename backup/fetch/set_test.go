package fetch_test

import (
	"bytes"
	"errors"
	"maps"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/fetch"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/rdb/dfs"
)

func TestSet(t *testing.T) {
	all := set(t)
	want := []string{"mini-summary.dfs", "mini-0000.dfs", "mini-0001.dfs"}
	var signed atomic.Int64
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if "?"+r.URL.RawQuery == query {
			signed.Add(1)
		}
		http.ServeContent(w, r, "", t0, bytes.NewReader(all[r.URL.Path]))
	})
	for name, cfg := range map[string]fetch.Config{
		"beside it": {URL: srv.URL + "/dir/mini-summary.dfs" + query},
		"more": {URL: srv.URL + "/dir/mini-summary.dfs" + query,
			More: []string{srv.URL + "/dir/mini-0000.dfs" + query, srv.URL + "/dir/mini-0001.dfs" + query}},
	} {
		cfg.Policy = loopback()
		sn, err := newSnapshotter(t, cfg).Snapshot(t.Context())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for i, p := range sn.Parts() {
			if p.Name != want[i] || p.Size != int64(len(all["/dir/"+want[i]])) {
				t.Errorf("%s: part %d is %+v", name, i, p)
			}
		}
		got, err := readParts(t.Context(), sn)
		if err != nil || len(got) != 3 {
			t.Errorf("%s: %d parts, %v", name, len(got), err)
		}
		for part, b := range got {
			if !bytes.Equal(b, all["/dir/"+part]) {
				t.Errorf("%s: %s has %d bytes", name, part, len(b))
			}
		}
		if src := sn.Source(); src.Address != srv.URL+"/dir/mini-summary.dfs" {
			t.Errorf("%s: %+v", name, src)
		}
		sn.Close()
	}
	if signed.Load() == 0 {
		t.Error("no request had the query")
	}
}

// TestSetOfNamelessURLs: what is signed by itself may have any path.
func TestSetOfNamelessURLs(t *testing.T) {
	all := set(t)
	srv := files(t, map[string][]byte{"/0": all["/dir/mini-summary.dfs"], "/1": all["/dir/mini-0000.dfs"], "/2": all["/dir/mini-0001.dfs"]})
	cfg := func(more ...string) fetch.Config {
		c := fetch.Config{URL: srv.URL + "/0" + query, Policy: loopback()}
		for _, m := range more {
			c.More = append(c.More, srv.URL+m+query)
		}
		return c
	}
	got, err := read(t, cfg("/1", "/2"))
	if err != nil || !bytes.Equal(got["dump-0001.dfs"], all["/dir/mini-0001.dfs"]) || !bytes.Equal(got["dump-summary.dfs"], all["/dir/mini-summary.dfs"]) {
		t.Errorf("%d parts, %v", len(got), err)
	}
	for name, c := range map[string]fetch.Config{"in another order": cfg("/2", "/1"), "one is missing": cfg("/1"), "one is not there": cfg("/1", "/3"),
		"the same twice": cfg("/1", "/1"), "the summary among them": cfg("/1", "/0")} {
		_, err := read(t, c)
		refused(t, err, dfs.ErrIncomplete)
		t.Logf("%s: %v", name, err)
	}
	if _, err := read(t, cfg("/1", "/2", "/2")); err != nil { // as on a disk: left over from a save with more shards, says the summary
		refused(t, err, dfs.ErrIncomplete)
	}
}

// TestSetBesideOddNames: names are kept as they are escaped.
func TestSetBesideOddNames(t *testing.T) {
	all := set(t)
	asked := map[string]int{}
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked[r.URL.EscapedPath()]++
		b := all["/dir/mini"+strings.TrimPrefix(r.URL.EscapedPath(), "/x%2Fy/a%20b%2Fc-summary.dfs-%C3%A4")]
		http.ServeContent(w, r, "", t0, bytes.NewReader(b))
	})
	got, err := read(t, fetch.Config{URL: srv.URL + "/x%2Fy/a%20b%2Fc-summary.dfs-%C3%A4-summary.dfs" + query, Policy: loopback()})
	if err != nil || len(got) != 3 || len(asked) != 3 {
		t.Errorf("%d parts, %v; asked for %v", len(got), err, asked)
	}
}

// TestSetRefused: what is no whole set is refused before a part is read, with what to do.
func TestSetRefused(t *testing.T) {
	without := func(names ...string) map[string][]byte {
		m := set(t)
		for _, n := range names {
			delete(m, "/dir/"+n)
		}
		return m
	}
	with := func(name string, b []byte) map[string][]byte {
		m := set(t)
		m["/dir/"+name] = b
		return m
	}
	whole := set(t)
	// A summary as Dragonfly before 1.32 wrote it, which doesn't say how many shards there are.
	old := bytes.Replace(whole["/dir/mini-summary.dfs"], []byte("shard-count"), []byte("shard-c0unt"), 1)
	for name, test := range map[string]struct {
		files map[string][]byte
		kind  error
		says  string
	}{
		"no summary":           {without("mini-summary.dfs"), fetch.ErrStatus, "404"},
		"no first shard":       {without("mini-0000.dfs"), dfs.ErrIncomplete, "missing are mini-0000.dfs"},
		"no last shard":        {without("mini-0001.dfs"), dfs.ErrIncomplete, "missing are mini-0001.dfs"},
		"an empty shard":       {with("mini-0001.dfs", nil), rdb.ErrCorrupt, "mini-0001.dfs"},
		"another number":       {with("mini-0001.dfs", whole["/dir/mini-0000.dfs"]), dfs.ErrIncomplete, "holds shard 0"},
		"the summary as shard": {with("mini-0001.dfs", whole["/dir/mini-summary.dfs"]), dfs.ErrIncomplete, ""},
		"another snapshot":     {with("mini-0001.dfs", bytes.Replace(whole["/dir/mini-0001.dfs"], idOf(whole["/dir/mini-0001.dfs"]), bytes.Repeat([]byte("0"), 32), 1)), dfs.ErrIncomplete, "is of snapshot 0000"},
		"a page for a summary": {with("mini-summary.dfs", []byte("<html>")), nil, "mini-summary.dfs"},
		"no count":             {with("mini-summary.dfs", old), dfs.ErrIncomplete, "Config.More"},
		"a count that is none": {with("mini-summary.dfs", bytes.Replace(whole["/dir/mini-summary.dfs"], []byte("shard-count\xc0\x02"), []byte("shard-count\x01x"), 1)), nil, "shard-count"},
	} {
		t.Run(name, func(t *testing.T) {
			srv := files(t, test.files)
			_, err := newSnapshotter(t, fetch.Config{URL: srv.URL + "/dir/mini-summary.dfs" + query, Policy: loopback()}).Snapshot(t.Context())
			refused(t, err, test.kind, test.says)
			t.Log(err)
		})
	}
	t.Run("a query for the summary alone", func(t *testing.T) {
		srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "-summary.dfs") {
				http.ServeContent(w, r, "", t0, bytes.NewReader(whole[r.URL.Path]))
				return
			}
			http.Error(w, r.URL.String(), http.StatusForbidden)
		})
		_, err := newSnapshotter(t, fetch.Config{URL: srv.URL + "/dir/mini-summary.dfs" + query, Policy: loopback()}).Snapshot(t.Context())
		refused(t, err, fetch.ErrStatus, "mini-0000.dfs", "Config.More")
	})
	t.Run("larger than allowed together", func(t *testing.T) {
		srv := files(t, whole)
		_, err := newSnapshotter(t, fetch.Config{URL: srv.URL + "/dir/mini-summary.dfs" + query, Policy: loopback(),
			MaxBytes: int64(len(whole["/dir/mini-summary.dfs"])+len(whole["/dir/mini-0000.dfs"])+len(whole["/dir/mini-0001.dfs"])) - 1}).Snapshot(t.Context())
		refused(t, err, fetch.ErrTooLarge)
		got, err := read(t, fetch.Config{URL: srv.URL + "/dir/mini-summary.dfs" + query, Policy: loopback(),
			MaxBytes: int64(len(whole["/dir/mini-summary.dfs"]) + len(whole["/dir/mini-0000.dfs"]) + len(whole["/dir/mini-0001.dfs"]))})
		if err != nil || len(got) != 3 {
			t.Errorf("%d parts, %v", len(got), err)
		}
	})
}

// idOf is the snapshot's id in a file of a set.
func idOf(b []byte) []byte {
	at := bytes.Index(b, []byte("snapshot-id ")) + len("snapshot-id ")
	return b[at : at+32]
}

// TestSetChanges: a set that was whole is written anew before its parts are read.
func TestSetChanges(t *testing.T) {
	all := set(t)
	var now atomic.Pointer[map[string][]byte]
	now.Store(&all)
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b := (*now.Load())[r.URL.Path]
		w.Header().Set("ETag", `"`+string(idOf(b))+`"`)
		http.ServeContent(w, r, "", t0, bytes.NewReader(b))
	})
	sn, err := newSnapshotter(t, fetch.Config{URL: srv.URL + "/dir/mini-summary.dfs" + query, Policy: loopback()}).Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer sn.Close()
	anew := maps.Clone(all)
	for name, b := range anew {
		anew[name] = bytes.Replace(b, idOf(b), bytes.Repeat([]byte("0"), 32), 1)
	}
	now.Store(&anew)
	for _, p := range sn.Parts() {
		_, err := sn.Open(t.Context(), p)
		refused(t, err, fetch.ErrChanged, "ETag")
	}
	_, err = sn.Open(t.Context(), backup.Part{Name: "mini-0000.dfs"})
	if err == nil || errors.Is(err, fetch.ErrChanged) {
		t.Errorf("a part was opened twice: %v", err)
	}
}
