package amber_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/dumpfile"
	"github.com/amberkv/amber/backup/fetch"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/rdb/dfs"
	"github.com/amberkv/amber/restore"
	writer "github.com/amberkv/amber/restore/dumpfile"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/filestore"
	"github.com/amberkv/amber/storage/memstore"
)

const (
	someRDB = "rdb/testdata/redis-8.0.2/streams.rdb"
	someSet = "rdb/dfs/testdata/dragonfly-1.40/mini"
)

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func putFile(t *testing.T, s storage.Store, key string, data []byte) {
	t.Helper()
	if err := storage.WriteFile(t.Context(), s, key, data, nil); err != nil {
		t.Fatal(err)
	}
}

func putSet(t *testing.T, s storage.Store, name string) {
	t.Helper()
	for _, end := range []string{"-0000.dfs", "-0001.dfs", "-summary.dfs"} {
		putFile(t, s, name+end, readFile(t, someSet+end))
	}
}

// web serves some files over TLS to those who have the secret query, and returns a policy that lets it be reached.
func web(t *testing.T) (url string, policy fetch.Policy) {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("X-Amz-Signature") != "CANARY" {
			http.Error(w, "<Error><Code>SignatureDoesNotMatch</Code><Message>not signed by "+r.URL.Query().Get("X-Amz-Signature")+"</Message></Error>", http.StatusForbidden)
			return
		}
		name := someRDB
		if strings.HasPrefix(r.URL.Path, "/mini") {
			name = strings.TrimSuffix(someSet, "mini") + strings.TrimPrefix(r.URL.Path, "/")
		} else if r.URL.Path == "/cut.rdb" {
			w.Write(readFile(t, name)[:3000])
			return
		}
		http.ServeFile(w, r, name)
	}))
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	return server.URL, fetch.Policy{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, TLS: &tls.Config{RootCAs: roots}}
}

func TestImportURL(t *testing.T) {
	url, policy := web(t)
	var log bytes.Buffer
	store, near := memstore.New(nil), memstore.New(nil)
	service, err := amber.New(amber.Config{Store: store, Stores: []amber.NamedStore{{Name: "near", Store: near}}, Web: policy,
		Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	b, err := service.Import(t.Context(), amber.ImportRequest{DataStore: "orders", Name: "before", Description: "from elsewhere",
		URL: url + "/backups/dump.rdb?X-Amz-Signature=CANARY", Store: "near", Retain: 30 * 24 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if b.Kind != catalog.KindImport || b.State != catalog.StateReady || b.Name != "before" || b.Description != "from elsewhere" || b.Keys == 0 || b.Source.Version != "8.0.2" {
		t.Errorf("manifest: %+v", b)
	}
	if after := b.DeleteAfter.Sub(begin); after < 30*24*time.Hour-time.Second || after > 30*24*time.Hour+time.Minute {
		t.Errorf("it is kept for %v", after)
	}
	if _, err := near.Stat(t.Context(), b.Parts[0].Key); err != nil {
		t.Errorf("it isn't in the store that was asked for: %v", err)
	}
	set, err := service.Import(t.Context(), amber.ImportRequest{DataStore: "sessions", URL: url + "/mini-summary.dfs?X-Amz-Signature=CANARY"})
	if err != nil || set.Keys != 39 || len(set.Parts) != 3 || !set.DeleteAfter.IsZero() {
		t.Errorf("a set: %+v, %v", set, err)
	}
	for _, id := range []catalog.ID{b.ID, set.ID} {
		if _, err := service.Verify(t.Context(), id, nil); err != nil {
			t.Error(err)
		}
	}

	// What fails is in the catalog with its reason, and without the secret.
	for path, want := range map[string]string{"/dump.rdb?X-Amz-Signature=CANARY-2": "403", "/cut.rdb?X-Amz-Signature=CANARY": "not sound"} {
		_, err := service.Import(t.Context(), amber.ImportRequest{DataStore: "failing", URL: url + path})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "CANARY") {
			t.Errorf("%s: %v", path, err)
		}
	}
	failed := 0
	for b, err := range service.List(t.Context(), catalog.Query{DataStore: "failing", States: []catalog.State{catalog.StateFailed, catalog.StateReady, catalog.StateRunning}}) {
		if err != nil || b.State != catalog.StateFailed || b.Kind != catalog.KindImport || !strings.Contains(b.Error, "403") && !strings.Contains(b.Error, "not sound") {
			t.Errorf("%+v, %v", b, err)
		}
		failed++
	}
	if failed != 2 {
		t.Errorf("%d imports failed", failed)
	}
	for _, s := range []*memstore.Store{store, near} {
		for info, err := range s.List(t.Context(), "") {
			if err != nil {
				t.Fatal(err)
			}
			if data, err := storage.ReadFile(t.Context(), s, info.Key, 1<<20); err != nil || bytes.Contains(data, []byte("CANARY")) {
				t.Errorf("%s holds the secret, %v", info.Key, err)
			}
		}
	}
	if strings.Contains(log.String(), "CANARY") {
		t.Errorf("the log holds the secret:\n%s", log.String())
	}

	// Without leave nothing inside is reached, and nothing is registered.
	strict := newService(t)
	if _, err := strict.Import(t.Context(), amber.ImportRequest{DataStore: "orders", URL: url + "/dump.rdb?X-Amz-Signature=CANARY"}); !errors.Is(err, fetch.ErrRefused) || strings.Contains(err.Error(), "CANARY") {
		t.Errorf("loopback: %v", err)
	}
	if _, err := amber.New(amber.Config{Store: store, Web: fetch.Policy{StallTimeout: -1}}); err == nil || !strings.Contains(err.Error(), "Config.Web") {
		t.Errorf("a policy that is wrong: %v", err)
	}
}

func TestImportFromStores(t *testing.T) {
	s := withStores(t, nil)
	elsewhere := memstore.New(nil)
	putFile(t, s.first, "in/dump.rdb", readFile(t, someRDB))
	putSet(t, s.near, "in/dump-2026-08-22T11:55:03")
	putFile(t, elsewhere, "dump.rdb", readFile(t, someRDB))
	for name, test := range map[string]struct {
		q    amber.ImportRequest
		at   *memstore.Store
		keys int64
	}{
		"copied":              {amber.ImportRequest{Key: "in/dump.rdb"}, s.first, 12},
		"adopted":             {amber.ImportRequest{Key: "in/dump.rdb", Adopt: true}, s.first, 12},
		"to another":          {amber.ImportRequest{Key: "in/dump.rdb", Store: "far"}, s.far, 12},
		"a set":               {amber.ImportRequest{Key: "in/dump-2026-08-22T11:55:03-summary.dfs", FromStore: "near"}, s.first, 39},
		"a set, adopted":      {amber.ImportRequest{Key: "in/dump-2026-08-22T11:55:03-summary.dfs", FromStore: "near", Store: "near", Adopt: true}, s.near, 39},
		"from another one":    {amber.ImportRequest{Key: "dump.rdb", From: elsewhere, Store: "near"}, s.near, 12},
		"a reader":            {amber.ImportRequest{Reader: bytes.NewReader(readFile(t, someRDB)), File: "dump.rdb", Store: "near"}, s.near, 12},
		"another snapshotter": {amber.ImportRequest{Snapshotter: dumpfile.Stream("x", bytes.NewReader(readFile(t, someRDB)))}, s.first, 12},
	} {
		test.q.DataStore = strings.ReplaceAll(strings.ReplaceAll(name, " ", "-"), ",", "")
		stages := map[string]bool{}
		test.q.Progress = func(p amber.Progress) {
			if p.Operation != "import" {
				t.Errorf("operation %q", p.Operation)
			}
			stages[p.Stage] = true
		}
		b, err := s.Import(t.Context(), test.q)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if b.Kind != catalog.KindImport || b.Keys != test.keys || b.Parts[0].Adopted != test.q.Adopt || !stages["done"] {
			t.Errorf("%s: %+v, %v", name, b, stages)
		}
		if _, err := test.at.Stat(t.Context(), b.Prefix()+"manifest.json"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := s.Verify(t.Context(), b.ID, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := s.Delete(t.Context(), b.ID); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, store := range []*memstore.Store{s.first, s.near, s.far, elsewhere} {
		for info := range store.List(t.Context(), "") {
			if strings.Contains(info.Key, "/part-") {
				t.Errorf("%s is left", info.Key)
			}
		}
	}
	if data, err := storage.ReadFile(t.Context(), s.first, "in/dump.rdb", 1<<20); err != nil || !bytes.Equal(data, readFile(t, someRDB)) {
		t.Errorf("what was imported is not as it was: %v", err)
	}
	if err := s.near.Delete(t.Context(), "in/dump-2026-08-22T11:55:03-0001.dfs"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Import(t.Context(), amber.ImportRequest{DataStore: "orders", Key: "in/dump-2026-08-22T11:55:03-summary.dfs", FromStore: "near"}); !errors.Is(err, dfs.ErrIncomplete) {
		t.Errorf("a shard is missing: %v", err)
	}
}

func TestImportRequests(t *testing.T) {
	s := withStores(t, nil)
	r := strings.NewReader("")
	for want, q := range map[string]amber.ImportRequest{
		"0 are given":       {},
		"2 are given":       {Key: "a", URL: "https://example.com/a"},
		"3 are given":       {Key: "a", URL: "https://example.com/a", Reader: r},
		"go with URL":       {Key: "a", MaxBytes: 1},
		"Adopt go with Key": {Reader: r, Adopt: true},
		"goes with Reader":  {Key: "a", File: "b"},
		"exclude":           {Key: "a", From: s.near, FromStore: "near"},
		`be "far"`:          {Key: "a", FromStore: "near", Store: "far", Adopt: true},
		`be "near" like`:    {Key: "a", Store: "near", Adopt: true},
		"From nil":          {Key: "a", From: s.near, Store: "near", Adopt: true},
		`no store "x"`:      {Key: "a", Store: "x"},
		`no store "y"`:      {Key: "a", FromStore: "y"},
		"Config.Name":       {Key: "../a"},
		"Config.URL":        {URL: "ftp://example.com/a"},
		"DataStore":         {Key: "a"},
		"negative":          {Key: "a", DataStore: "orders", Retain: -1},
	} {
		if _, err := s.Import(t.Context(), q); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", q, err, want)
		}
	}
}

// An import is running while it is read, and keeps others from its data store. Cancelling ends it soon, and says in the catalog what it was.
func TestImportUnderWay(t *testing.T) {
	s := newService(t)
	in, out := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := s.Import(ctx, amber.ImportRequest{DataStore: "orders", Reader: in, File: "dump.rdb"})
		done <- err
	}()
	if _, err := out.Write(readFile(t, someRDB)[:2000]); err != nil {
		t.Fatal(err)
	}
	state := func() (found []catalog.State) {
		for b, err := range s.List(t.Context(), catalog.Query{States: []catalog.State{catalog.StateRunning, catalog.StateReady, catalog.StateFailed}}) {
			if err != nil {
				t.Fatal(err)
			}
			if b.Kind != catalog.KindImport {
				t.Errorf("kind %s", b.Kind)
			}
			found = append(found, b.State)
		}
		return found
	}
	if found := state(); len(found) != 1 || found[0] != catalog.StateRunning {
		t.Errorf("while it is read: %v", found)
	}
	if _, err := s.Import(t.Context(), amber.ImportRequest{DataStore: "orders", Reader: strings.NewReader("")}); !errors.Is(err, backup.ErrBusy) {
		t.Errorf("another one: %v", err)
	}
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it did not end soon")
	}
	out.Close()
	if found := state(); len(found) != 1 || found[0] != catalog.StateFailed {
		t.Errorf("afterwards: %v", found)
	}
}

// What Redis and Valkey write into their own directories is imported while they write it anew, and restored.
func TestImportWhatServersWrite(t *testing.T) {
	for _, version := range []string{"redis-8.0", "valkey-9.1"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			from := testserver.Start(t, version)
			client := from.Client(t)
			testserver.Generate(t, client, 1000, 11)
			testserver.LoadFunction(t, client, "sums")
			want := testserver.Snapshot(t, client)
			dir, err := filestore.New(from.Dir, nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { dir.Close() })
			if err := client.Save(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
			service, err := amber.New(amber.Config{Store: memstore.New(nil), Stores: []amber.NamedStore{{Name: "dir", Store: dir}}})
			if err != nil {
				t.Fatal(err)
			}
			saves, stop := saveOnAndOn(t, client)
			var last *catalog.Backup
			for i := 0; i < 5 || saves() < 3; i++ {
				if last, err = service.Import(t.Context(), amber.ImportRequest{DataStore: "orders", Key: "dump.rdb", FromStore: "dir"}); err != nil {
					t.Fatal(err)
				}
				if last.Keys != int64(len(want)) || last.Functions != 1 || last.Source.Time.IsZero() {
					t.Errorf("manifest: %+v", last)
				}
			}
			stop()
			adopted, err := service.Import(t.Context(), amber.ImportRequest{DataStore: "orders", Key: "dump.rdb", FromStore: "dir", Store: "dir", Adopt: true})
			if err != nil {
				t.Fatal(err)
			}
			found, err := dumpfile.List(t.Context(), dir, "", nil)
			if err != nil || len(found) != 1 || !found[0].Complete || !found[0].AtStart || found[0].Name != "dump.rdb" {
				t.Errorf("the directory: %+v, %v", found, err)
			}
			target := testserver.Start(t, version)
			for method, b := range map[amber.Method]*catalog.Backup{amber.MethodCommand: last, amber.MethodFeed: adopted} {
				if _, err := service.Restore(t.Context(), amber.RestoreRequest{Backup: b.ID, To: target.Options(), Method: method, Conflict: restore.Replace, NoSafetyBackup: true}); err != nil {
					t.Fatal(err)
				}
				if diff := testserver.Diff(want, testserver.Snapshot(t, target.Client(t))); diff != "" {
					t.Errorf("%s: %s", method, diff)
				}
			}
			// The server's next save takes the adopted file away from its backup: no target is touched for it any more. With the same data, in the
			// same second, it would be the same file.
			if err := client.Set(t.Context(), "one more", "x", 0).Err(); err != nil {
				t.Fatal(err)
			}
			if err := client.Save(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
			if err := target.Client(t).Set(t.Context(), "mark", "here", 0).Err(); err != nil {
				t.Fatal(err)
			}
			_, err = service.Restore(t.Context(), amber.RestoreRequest{Backup: adopted.ID, To: target.Options(), Conflict: restore.Replace, NoSafetyBackup: true})
			if !errors.Is(err, restore.ErrNotVerified) || !strings.Contains(err.Error(), "adopted") {
				t.Errorf("after the next save: %v", err)
			}
			if got := target.Client(t).Get(t.Context(), "mark").Val(); got != "here" {
				t.Error("the target was touched")
			}
		})
	}
}

// saveOnAndOn makes a server save without a pause; saves says how often it did, and stop ends that.
func saveOnAndOn(t *testing.T, client *redis.Client) (saves func() int64, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var n atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if err := client.BgSave(ctx).Err(); err == nil {
				n.Add(1)
			}
			for ctx.Err() == nil {
				if info, err := client.Info(ctx, "persistence").Result(); err == nil && strings.Contains(info, "rdb_bgsave_in_progress:0") {
					break
				}
				time.Sleep(time.Millisecond)
			}
		}
	}()
	return n.Load, func() {
		cancel()
		<-done
		testserver.Eventually(t, time.Minute, "the last save has ended", func() error {
			info, err := client.Info(t.Context(), "persistence").Result()
			if err == nil && !strings.Contains(info, "rdb_bgsave_in_progress:0") {
				err = fmt.Errorf("it has not:\n%s", info)
			}
			return err
		})
	}
}

// A backup of a server is written as one of Dragonfly's sets, by its default name, into a directory; there it is what a server would load. Imported
// again, copied and adopted, it restores to the same keys.
func TestImportSetThatWasWritten(t *testing.T) {
	from := testserver.Start(t, "valkey-8.1")
	client := from.Client(t)
	pipe := client.Pipeline()
	for i := range 300 {
		n := fmt.Sprint(i)
		pipe.Set(t.Context(), "string:"+n, strings.Repeat(n, i), time.Duration(i%3)*time.Hour)
		pipe.RPush(t.Context(), "list:"+n, "a", n, strings.Repeat("x", i))
		pipe.SAdd(t.Context(), "set:"+n, "a", n, i)
		pipe.HSet(t.Context(), "hash:"+n, "a", n, n, "b")
		pipe.ZAdd(t.Context(), "zset:"+n, redis.Z{Score: float64(i) / 3, Member: n}, redis.Z{Score: -1, Member: "m"})
	}
	if _, err := pipe.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := testserver.Snapshot(t, client)
	dir, err := filestore.New(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	service, err := amber.New(amber.Config{Store: dir})
	if err != nil {
		t.Fatal(err)
	}
	b, err := service.Backup(t.Context(), amber.BackupRequest{DataStore: "orders", From: from.Options()})
	if err != nil {
		t.Fatal(err)
	}
	loader, err := writer.New(writer.Config{Store: dir, Name: "snapshots/" + dfs.DefaultName, Shards: 3})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := service.Restore(t.Context(), amber.RestoreRequest{Backup: b.ID, Loader: loader}); err != nil {
		t.Fatal(err)
	}
	found, err := dumpfile.List(t.Context(), dir, "snapshots/", nil)
	if err != nil || len(found) != 1 || !found[0].Complete || !found[0].AtStart || found[0].Kind != dumpfile.DFS || len(found[0].Files) != 4 {
		t.Fatalf("%+v, %v", found, err)
	}
	for _, adopt := range []bool{false, true} {
		set, err := service.Import(t.Context(), amber.ImportRequest{DataStore: "imported", Key: found[0].Name, Adopt: adopt})
		if err != nil {
			t.Fatal(err)
		}
		target := testserver.Start(t, "redis-7.0")
		if _, err := service.Restore(t.Context(), amber.RestoreRequest{Backup: set.ID, To: target.Options(), Method: amber.MethodCommand}); err != nil {
			t.Fatal(err)
		}
		if diff := testserver.Diff(want, testserver.Snapshot(t, target.Client(t))); diff != "" {
			t.Errorf("adopted %v: %s", adopt, diff)
		}
	}
}
