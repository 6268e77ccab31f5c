package fetch_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/fetch"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/storecatalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/filestore"
	"github.com/amberkv/amber/storage/memstore"
)

// house is a store with what keeps backups in it.
type house struct {
	store   storage.Store
	catalog *storecatalog.Catalog
	runner  *backup.Runner
	log     *bytes.Buffer
}

func newHouse(t *testing.T, store storage.Store) *house {
	t.Helper()
	h := &house{store: store, log: &bytes.Buffer{}}
	var err error
	if h.catalog, err = storecatalog.New(storecatalog.Config{Store: store}); err != nil {
		t.Fatal(err)
	}
	h.runner, err = backup.NewRunner(backup.Config{Store: store, Catalog: h.catalog, Leaser: h.catalog, Logger: slog.New(slog.NewTextHandler(h.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *house) run(t *testing.T, cfg fetch.Config) (*catalog.Backup, error) {
	t.Helper()
	cfg.Logger = slog.New(slog.NewTextHandler(h.log, nil))
	return h.runner.Run(t.Context(), backup.Request{DataStore: "orders", Kind: catalog.KindManual, Snapshotter: newSnapshotter(t, cfg)})
}

// TestRun imports what real servers wrote, through connections that are cut, into a directory and into memory.
func TestRun(t *testing.T) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			redis := testserver.Start(t, version, "--dir", t.TempDir(), "--dbfilename", "dump.rdb")
			c := redis.Client(t)
			testserver.Generate(t, c, 800, 7)
			if err := c.Save(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
			dir := c.ConfigGet(t.Context(), "dir").Val()["dir"]
			file, err := os.ReadFile(filepath.Join(dir, "dump.rdb"))
			if err != nil {
				t.Fatal(err)
			}
			// What was modified just now may be modified again unseen, so nothing would go on after a cut.
			if err := os.Chtimes(filepath.Join(dir, "dump.rdb"), t0, t0); err != nil {
				t.Fatal(err)
			}
			var keys int64
			for k := range testserver.Snapshot(t, c) {
				if k != "" {
					keys++
				}
			}
			root := t.TempDir()
			files, err := filestore.New(root, nil)
			if err != nil {
				t.Fatal(err)
			}
			for name, store := range map[string]storage.Store{"filestore": files, "memstore": memstore.New(nil)} {
				h := newHouse(t, store)
				srv, cuts := cutting(t, http.FileServer(http.Dir(dir)), 3000, int64(len(file))/2, int64(len(file))/3)
				b, err := h.run(t, fetch.Config{URL: srv.URL + "/dump.rdb" + query, Policy: loopback()})
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if b.State != catalog.StateReady || b.Keys != keys || b.RawBytes != int64(len(file)) || b.Source.Method != "fetch" || b.Source.Address != srv.URL+"/dump.rdb" {
					t.Errorf("%s: %+v, want %d keys", name, b, keys)
				}
				if n := cuts.conns.Load(); n < 3 {
					t.Errorf("%s: %d connections", name, n)
				}
				manifest, err := json.Marshal(b)
				if err != nil {
					t.Fatal(err)
				}
				tells(t, "the manifest", string(manifest))
				tells(t, "the log", h.log.String())
			}
			nowhere(t, root)
		})
	}
}

// nowhere fails the test if the secret is in any file.
func nowhere(t *testing.T, root string) {
	t.Helper()
	n := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		n++
		text, err := os.ReadFile(path)
		tells(t, path, path)
		if bytes.Contains(text, []byte(canary)) {
			t.Errorf("%s holds the secret", path)
		}
		return err
	})
	if err != nil || n == 0 {
		t.Errorf("%d files, %v", n, err)
	}
}

func TestRunSet(t *testing.T) {
	h := newHouse(t, memstore.New(nil))
	srv := files(t, set(t))
	b, err := h.run(t, fetch.Config{URL: srv.URL + "/dir/mini-summary.dfs" + query, Policy: loopback()})
	if err != nil {
		t.Fatal(err)
	}
	if b.State != catalog.StateReady || len(b.Parts) != 3 || b.Keys == 0 || !strings.HasPrefix(b.Source.Dialect, "dragonfly") {
		t.Errorf("%+v", b)
	}
	for _, p := range b.Parts {
		if !strings.HasPrefix(p.Name, "part-") || !strings.Contains(p.Name, ".dfs") {
			t.Errorf("a part is called %s", p.Name)
		}
	}
}

// TestRunFails: what goes wrong is recorded as the reason, without the query, and leaves nothing else.
func TestRunFails(t *testing.T) {
	t.Parallel()
	file := rdbFile(t)
	spoiled := bytes.Clone(file)
	spoiled[len(spoiled)-3] ^= 1
	root := t.TempDir()
	store, err := filestore.New(root, nil)
	if err != nil {
		t.Fatal(err)
	}
	h := newHouse(t, store)
	served := files(t, map[string][]byte{"/spoiled.rdb": spoiled, "/short.rdb": file[:len(file)-20], "/long.rdb": append(bytes.Clone(file), "more"...)})
	lost := set(t)
	delete(lost, "/dir/mini-0001.dfs")
	incomplete := files(t, lost)
	forbidden := serve(t, fails(403))
	page := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<html>"+r.URL.String()) })
	cut := rawServer(t, func(_ int, _ string, c net.Conn) {
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
		c.Write(file)
	})
	inside := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://169.254.169.254/?"+canary, http.StatusFound)
	})
	for name, test := range map[string]struct {
		url  string
		kind error
		says string
	}{
		"a spoiled byte":  {served.URL + "/spoiled.rdb", backup.ErrNotSound, "checksum"},
		"cut before":      {served.URL + "/short.rdb", backup.ErrNotSound, ""},
		"more behind":     {served.URL + "/long.rdb", backup.ErrNotSound, ""},
		"not there":       {served.URL + "/none.rdb", fetch.ErrStatus, "404"},
		"expired":         {forbidden.URL + "/a.rdb", fetch.ErrStatus, "expired"},
		"a page":          {page.URL + "/a.rdb", fetch.ErrNotSnapshot, "web page"},
		"cut":             {cut + "/a.rdb", fetch.ErrCut, "unexpected EOF"},
		"led inside":      {inside.URL + "/a.rdb", fetch.ErrRefused, "metadata"},
		"no whole set":    {incomplete.URL + "/dir/mini-summary.dfs", backup.ErrSource, "missing are mini-0001.dfs"},
		"nothing listens": {"http://127.0.0.1:1/a.rdb", backup.ErrSource, "refused"},
	} {
		_, err := h.run(t, fetch.Config{URL: test.url + query, Policy: loopback()})
		refused(t, err, test.kind, test.says)
		if name != "a spoiled byte" && name != "cut before" && name != "more behind" && !errors.Is(err, backup.ErrSource) {
			t.Errorf("%s: %v, want that the source failed", name, err)
		}
		recorded := false
		for b, lerr := range h.catalog.List(t.Context(), catalog.Query{States: []catalog.State{catalog.StateFailed}}) {
			if lerr != nil {
				t.Fatal(lerr)
			}
			tells(t, "the record", b.Error)
			recorded = recorded || err != nil && strings.Contains(err.Error(), b.Error)
		}
		if !recorded {
			t.Errorf("%s: the reason isn't recorded: %v", name, err)
		}
		for b := range h.catalog.List(t.Context(), catalog.Query{}) {
			t.Errorf("%s: there is a backup, %s", name, b.ID)
		}
		time.Sleep(2 * time.Millisecond) // IDs sort by milliseconds
	}
	for info, err := range store.List(t.Context(), "") {
		if err != nil || strings.Contains(info.Key, "part-") {
			t.Errorf("%s was left, %v", info.Key, err)
		}
	}
	tells(t, "the log", h.log.String())
	nowhere(t, root)
}
