package amber_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup/fetch"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/internal/teststore"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/rdb/dfs"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/filestore"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/storetest"
)

// loopback lets a service reach servers of this machine.
var loopback = fetch.Policy{AllowHTTP: true, Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}

// letterbox takes files by PUT, as S3 does: only if their size was told, and only whole.
type letterbox struct {
	*httptest.Server
	mu    sync.Mutex
	taken map[string][]byte // by path
}

func newLetterbox(t *testing.T) *letterbox {
	l := &letterbox{taken: map[string][]byte{}}
	end := make(chan struct{})
	l.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method != http.MethodPut || r.ContentLength < 0 || len(r.TransferEncoding) > 0:
			http.Error(w, "the size has to be told", http.StatusLengthRequired)
			return
		case r.URL.Path == "/denied":
			http.Error(w, "not signed: "+r.URL.RawQuery, http.StatusForbidden)
			return
		case r.URL.Path == "/hangs":
			<-end
			return
		}
		data, err := io.ReadAll(r.Body)
		if err != nil || int64(len(data)) != r.ContentLength {
			return
		}
		l.mu.Lock()
		l.taken[r.URL.Path] = data
		l.mu.Unlock()
		if r.URL.Path == "/mute" { // it has all of it, and its answer gets lost
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				conn.Close()
			}
		}
	}))
	t.Cleanup(func() { close(end); l.Close() })
	return l
}

func (l *letterbox) got(path string) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.taken[path]
}

// exporter is a service over memory that can reach this machine.
func exporter(t *testing.T) (*amber.Service, *memstore.Store) {
	t.Helper()
	store := memstore.New(nil)
	service, err := amber.New(amber.Config{Store: store, Web: loopback})
	if err != nil {
		t.Fatal(err)
	}
	return service, store
}

// keep makes a backup of a file.
func keep(t *testing.T, service *amber.Service, data []byte) *catalog.Backup {
	t.Helper()
	b, err := service.Import(t.Context(), amber.ImportRequest{DataStore: "orders", Reader: bytes.NewReader(data), File: "dump.rdb"})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// allWays exports a backup into a store, to a writer and to a URL, and returns the file, which is the same in each, with its report.
func allWays(t *testing.T, service *amber.Service, box *letterbox, q amber.ExportRequest) ([]byte, *amber.ExportReport) {
	t.Helper()
	store := memstore.New(nil)
	var to bytes.Buffer
	byKey, byWriter, byURL := q, q, q
	byKey.Key, byKey.To, byWriter.Writer, byURL.URL = "exports/orders.rdb", store, &to, box.URL+"/orders.rdb?X-Amz-Signature=CANARY"
	var first []byte
	var last *amber.ExportReport
	for _, q := range []amber.ExportRequest{byKey, byWriter, byURL} {
		rep, err := service.Export(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		data := to.Bytes()
		switch rep.Method {
		case "dumpfile":
			if data, err = storage.ReadFile(t.Context(), store, "exports/orders.rdb", 1<<30); err != nil || rep.Files[0].Key != "exports/orders.rdb" {
				t.Fatal(rep.Files, err)
			}
		case "put":
			data = box.got("/orders.rdb")
		}
		if first == nil {
			first = data
		}
		sum := sha256.Sum256(data)
		if len(rep.Files) != 1 || rep.Bytes != int64(len(data)) || rep.Files[0].Bytes != rep.Bytes || rep.Files[0].SHA256 != hex.EncodeToString(sum[:]) || rep.Files[0].URL != "" {
			t.Errorf("%s wrote %d bytes, and tells of %d bytes and %+v", rep.Method, len(data), rep.Bytes, rep.Files)
		}
		if !bytes.Equal(data, first) {
			t.Errorf("%s wrote something else", rep.Method)
		}
		if text, err := json.Marshal(rep); err != nil || strings.Contains(string(text), "CANARY") || !strings.Contains(string(text), `"sha256"`) {
			t.Errorf("the report is %s, %v", text, err)
		}
		last = rep
	}
	return first, last
}

// What needs no conversion is exported byte for byte: also keys that have expired, and what Dragonfly pads its files with. And everything that is
// converted has the size that was told before.
func TestExportFixtures(t *testing.T) {
	files, err := filepath.Glob("rdb/testdata/*/*.rdb")
	if err != nil || len(files) < 55 {
		t.Fatalf("%d fixtures, %v", len(files), err)
	}
	service, _ := exporter(t)
	box := newLetterbox(t)
	dialects := []rdb.Dialect{{Family: rdb.Redis, Version: 6}, {Family: rdb.Redis, Version: 10}, {Family: rdb.Redis, Version: 12}, {Family: rdb.Valkey, Version: 80}, {Family: rdb.Dragonfly, Version: 9}}
	converted, expired := 0, 0
	for i, name := range files {
		data := readFile(t, name)
		b, err := service.Import(t.Context(), amber.ImportRequest{DataStore: "orders", Reader: bytes.NewReader(data), File: "dump.rdb"})
		if err != nil {
			continue // one that is unsound by intent; that is told of elsewhere
		}
		got, rep := allWays(t, service, box, amber.ExportRequest{Backup: b.ID})
		if !bytes.Equal(got, data) || rep.Keys != b.Keys || rep.Dialect != b.Parts[0].Dialect {
			t.Errorf("%s: %d bytes of %d are written, %+v", name, len(got), len(data), rep.Report)
		}
		to := dialects[i%len(dialects)]
		got, rep = allWays(t, service, box, amber.ExportRequest{Backup: b.ID, Dialect: to, Accept: []string{"all"}, Expiry: restore.ExpiryDrop})
		found, err := catalog.Inspect(bytes.NewReader(got), nil)
		if err != nil || found.Keys != rep.Keys || rep.Dialect != to.String() || found.Expires != 0 {
			t.Errorf("%s as %v: %+v, %v; the report says %+v", name, to, found, err, rep.Report)
		}
		converted++
		if b.FirstExpiry > 0 && b.FirstExpiry < time.Now().UnixMilli() {
			expired++
		}
	}
	if converted < 55 || expired == 0 {
		t.Errorf("only %d were converted, of which %d have keys that have expired", converted, expired)
	}
}

// The newest dialect that each server loads.
var newestDialect = map[string]rdb.Dialect{
	"redis-7.0": {Family: rdb.Redis, Version: 10}, "redis-8.0": {Family: rdb.Redis, Version: 12},
	"valkey-8.1": {Family: rdb.Redis, Version: 11}, "valkey-9.1": {Family: rdb.Valkey, Version: 80},
}

// Every server starts from what was exported for it, and has what the source had.
func TestExportForServers(t *testing.T) {
	ctx := t.Context()
	source := testserver.Start(t, "redis-7.0")
	testserver.Generate(t, source.Client(t), 1500, 11)
	testserver.LoadFunction(t, source.Client(t), "sums")
	want := testserver.Snapshot(t, source.Client(t))
	service, _ := exporter(t)
	b := take(t, service, "orders", source)
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			store, err := filestore.New(dir, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer store.Close()
			rep, err := service.Export(ctx, amber.ExportRequest{Backup: b.ID, Key: "dump.rdb", To: store, Dialect: newestDialect[version]})
			if err != nil || rep.Keys != b.Keys || rep.Dialect != newestDialect[version].String() {
				t.Fatalf("%+v, %v", rep, err)
			}
			server := testserver.StartIn(t, version, dir)
			if diff := testserver.Diff(want, testserver.Snapshot(t, server.Client(t))); diff != "" {
				t.Error(diff)
			}
			if n := len(testserver.Functions(t, server.Client(t))); n != 1 {
				t.Errorf("%d libraries", n)
			}
		})
	}
}

// A set of Dragonfly's holds the same, in as many shards as were asked for.
func TestExportSet(t *testing.T) {
	service, store := exporter(t)
	b := keep(t, service, readFile(t, "rdb/testdata/redis-7.0.15/expires.rdb"))
	dir := t.TempDir()
	to, err := filestore.New(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	rep, err := service.Export(t.Context(), amber.ExportRequest{Backup: b.ID, Key: "sets/dump", Shards: 3, To: to, Accept: []string{"all"}})
	if err != nil {
		t.Fatal(err)
	}
	var total int64
	for i, want := range []string{"sets/dump-0000.dfs", "sets/dump-0001.dfs", "sets/dump-0002.dfs", "sets/dump-summary.dfs"} {
		data := readFile(t, filepath.Join(dir, filepath.FromSlash(want)))
		sum := sha256.Sum256(data)
		if f := rep.Files[i]; f.Key != want || f.Bytes != int64(len(data)) || f.SHA256 != hex.EncodeToString(sum[:]) {
			t.Errorf("file %d is %+v, want %s", i, f, want)
		}
		total += int64(len(data))
	}
	if rep.Bytes != total || len(rep.Files) != 4 || rep.Target != "sets/dump-summary.dfs" {
		t.Errorf("%+v", rep)
	}
	set, err := dfs.Open(os.DirFS(filepath.Join(dir, "sets")), "dump-summary.dfs")
	if err != nil || len(set.Shards) != 3 {
		t.Fatalf("%+v, %v", set, err)
	}
	var mu sync.Mutex
	keys := map[string]bool{}
	err = set.Read(t.Context(), 1, nil, func(_ string, r *rdb.Reader) error {
		for e, err := range r.Entries() {
			if err != nil {
				return err
			}
			if e.Kind == rdb.KindKey {
				mu.Lock()
				keys[fmt.Sprint(e.DB, "/", string(e.Key))] = true
				mu.Unlock()
			}
		}
		return nil
	})
	if err != nil || int64(len(keys)) != rep.Keys || rep.Keys != b.Keys {
		t.Errorf("the set has %d keys, %v; the report %+v", len(keys), err, rep.Report)
	}
	// And back again, as one file of Redis.
	_, err = service.Import(t.Context(), amber.ImportRequest{DataStore: "again", Key: "sets/dump-summary.dfs", From: to})
	if err != nil {
		t.Fatal(err)
	}
	again, _ := listed(service.ListAll(t.Context(), catalog.Query{DataStore: "again"}))
	got, plain := allWays(t, service, newLetterbox(t), amber.ExportRequest{Backup: catalog.ID(strings.TrimPrefix(again[0], "/")), Dialect: rdb.Dialect{Family: rdb.Redis, Version: 11}, Accept: []string{"all"}})
	if !strings.HasPrefix(string(got), "REDIS0011") || plain.Keys != rep.Keys {
		t.Errorf("%.9q, %+v", got, plain.Report)
	}
	if n := len(objects(t, store)); n == 0 {
		t.Error("there are no backups")
	}
}

func objects(t *testing.T, s storage.Store) (keys []string) {
	t.Helper()
	for info, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, info.Key)
	}
	return keys
}

// Some of the keys, under other names.
func TestExportSome(t *testing.T) {
	service, _ := exporter(t)
	b := keep(t, service, readFile(t, "rdb/testdata/redis-7.4/many_dbs.rdb"))
	got, rep := allWays(t, service, newLetterbox(t), amber.ExportRequest{Backup: b.ID, Select: restore.Selection{DBs: []int{299}, MapDB: map[int]int{299: 1}, AddPrefix: "copy:"}})
	found, err := catalog.Inspect(bytes.NewReader(got), nil)
	if err != nil || found.Keys != 1 || rep.Keys != 1 || rep.Filtered != b.Keys-1 || found.DBs[0].Index != 1 {
		t.Errorf("%+v, %v; %+v", found, err, rep.Report)
	}
}

// What is refused is refused before anything is written.
func TestExportRefused(t *testing.T) {
	service, store := exporter(t)
	b := keep(t, service, readFile(t, someRDB))
	other := memstore.New(nil)
	putFile(t, other, "there.rdb", []byte("former"))
	var w bytes.Buffer
	before := objects(t, store)
	for want, q := range map[string]amber.ExportRequest{
		"Backup is required":                       {Key: "a"},
		"exactly one":                              {Backup: b.ID},
		"exactly one is required":                  {Backup: b.ID, Key: "a", Writer: &w},
		"are for a Key":                            {Backup: b.ID, Writer: &w, Store: "near"},
		"Replace and SignFor are":                  {Backup: b.ID, URL: "https://example.com/x", SignFor: time.Minute},
		"exclude each other":                       {Backup: b.ID, Key: "a", To: other, Store: "near"},
		"Header is for a URL":                      {Backup: b.ID, Key: "a", Header: http.Header{}},
		"several files":                            {Backup: b.ID, Writer: &w, Shards: 2},
		"make several files":                       {Backup: b.ID, Writer: &w, Set: true},
		"negative":                                 {Backup: b.ID, Key: "a", SignFor: -1},
		`no store "near"`:                          {Backup: b.ID, Key: "a", Store: "near"},
		`rdb.zst" is one that Amber has itself`:    {Backup: b.ID, Key: b.Parts[0].Key},
		`"_leases/x" is one that Amber has itself`: {Backup: b.ID, Key: "_leases/x"},
		"invalid object key":                       {Backup: b.ID, Key: "../x"},
		"Config.Dialect":                           {Backup: b.ID, Key: "a", Dialect: rdb.Dialect{Family: rdb.Redis, Version: 99}},
		"ExportRequest.Dialect":                    {Backup: b.ID, Writer: &w, Dialect: rdb.Dialect{Family: rdb.Redis, Version: 99}},
		"is not a URL":                             {Backup: b.ID, URL: "CANARY"},
		"is not empty":                             {Backup: b.ID, Key: "there.rdb", To: other},
		"not accepted":                             {Backup: b.ID, Key: "a", Dialect: rdb.Dialect{Family: rdb.Redis, Version: 7}},
		"store has no URLs":                        {Backup: b.ID, Key: "a", SignFor: time.Minute},
		"warning was not accepted":                 {Backup: b.ID, Writer: &w, Dialect: rdb.Dialect{Family: rdb.Redis, Version: 7}},
		"no store has one":                         {Backup: catalog.NewID(time.Now()), Writer: &w},
	} {
		rep, err := service.Export(t.Context(), q)
		var partial *restore.PartialError
		if err == nil || !strings.Contains(err.Error(), want) || errors.As(err, &partial) || strings.Contains(err.Error(), "CANARY") {
			t.Errorf("%v, want %s; %+v", err, want, rep)
		}
		if strings.Contains(want, "no URLs") && !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%v", err)
		}
	}
	if got := string(readBack(t, other, "there.rdb")); got != "former" || w.Len() > 0 || !slices.Equal(before, objects(t, store)) {
		t.Errorf("something was written: %q, %d, %v", got, w.Len(), objects(t, store))
	}
	if _, err := service.Export(t.Context(), amber.ExportRequest{Backup: b.ID, Key: "there.rdb", To: other, Replace: true}); err != nil || !bytes.Equal(readBack(t, other, "there.rdb"), readFile(t, someRDB)) {
		t.Errorf("replacing: %v", err)
	}
	// A backup that doesn't verify.
	spoil(t, store, b.Parts[0].Key)
	if _, err := service.Export(t.Context(), amber.ExportRequest{Backup: b.ID, Writer: &w}); !errors.Is(err, restore.ErrNotVerified) || w.Len() > 0 {
		t.Errorf("what doesn't verify: %v, and %d bytes are written", err, w.Len())
	}
}

func readBack(t *testing.T, s storage.Store, key string) []byte {
	t.Helper()
	data, err := storage.ReadFile(t.Context(), s, key, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// failing is a writer that takes some bytes and then fails, or waits until it is let go.
type failing struct {
	n    int
	wait chan struct{}
}

func (f *failing) Write(p []byte) (int, error) {
	if len(p) <= f.n {
		f.n -= len(p)
		return len(p), nil
	}
	if f.wait != nil {
		<-f.wait
	}
	return f.n, errors.New("the disk is full")
}

// Whoever fails to take the file, the error says what is there; and no secret is in it, nor in the log.
func TestExportFails(t *testing.T) {
	t.Parallel() // it waits for what is tried again
	var log bytes.Buffer
	store := memstore.New(nil)
	service, err := amber.New(amber.Config{Store: store, Web: loopback, Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err != nil {
		t.Fatal(err)
	}
	box := newLetterbox(t)
	b := keep(t, service, readFile(t, someRDB))
	const secret = "?X-Amz-Signature=CANARY"
	var group sync.WaitGroup
	for name, test := range map[string]struct {
		q     amber.ExportRequest
		state restore.TargetState // empty: nothing is there
		want  string
	}{
		"writer, at once":     {amber.ExportRequest{Writer: &failing{}}, restore.TargetPartial, "disk is full"},
		"writer, later":       {amber.ExportRequest{Writer: &failing{n: 1000}}, restore.TargetPartial, "disk is full"},
		"denied":              {amber.ExportRequest{URL: box.URL + "/denied" + secret}, "", "403"},
		"the answer is lost":  {amber.ExportRequest{URL: box.URL + "/mute" + secret}, restore.TargetUnknown, "/mute"},
		"an internal address": {amber.ExportRequest{URL: "http://169.254.169.254/x" + secret}, "", "169.254.169.254"},
	} {
		group.Go(func() {
			test.q.Backup = b.ID
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second) // longer than one try takes
			defer cancel()
			_, err := service.Export(ctx, test.q)
			var partial *restore.PartialError
			state := restore.TargetState("")
			if errors.As(err, &partial) {
				state = partial.State
			}
			if err == nil || state != test.state || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "CANARY") {
				t.Errorf("%s: state %q, %v", name, state, err)
			}
		})
	}
	group.Wait()
	if strings.Contains(log.String(), "CANARY") {
		t.Errorf("the log tells a secret: %s", log.String())
	}
	// A store whose answer to the last commit is lost, which looking settles.
	to := memstore.New(nil)
	faulty := storetest.NewFaulty(to, storetest.Fault{Op: storetest.OpCommit, Mode: storetest.After, Err: storage.ErrTransient})
	if rep, err := service.Export(t.Context(), amber.ExportRequest{Backup: b.ID, Key: "a.rdb", To: faulty}); err != nil || len(rep.Files) != 1 {
		t.Errorf("a commit whose answer is lost: %+v, %v", rep, err)
	}
}

// Cancelling ends an export within a second, whatever hangs.
func TestExportCancelled(t *testing.T) {
	service, _ := exporter(t)
	box := newLetterbox(t)
	b := keep(t, service, readFile(t, someRDB))
	stuck := &failing{wait: make(chan struct{})}
	defer close(stuck.wait)
	to := memstore.New(nil)
	for name, q := range map[string]amber.ExportRequest{
		"writer": {Writer: stuck},
		"put":    {URL: box.URL + "/hangs"},
		"create": {Key: "a.rdb", To: storetest.NewFaulty(to, storetest.Fault{Op: storetest.OpCreate, Mode: storetest.Hang})},
		"write":  {Key: "a.rdb", To: storetest.NewFaulty(to, storetest.Fault{Op: storetest.OpWrite, Mode: storetest.Hang})},
		"commit": {Key: "a", Shards: 2, To: storetest.NewFaulty(to, storetest.Fault{Op: storetest.OpCommit, Key: "summary", Mode: storetest.Hang}), Accept: []string{"all"}},
	} {
		t.Run(name, func(t *testing.T) {
			q.Backup = b.ID
			ctx, cancel := context.WithCancel(t.Context())
			timer := time.AfterFunc(50*time.Millisecond, cancel)
			defer timer.Stop()
			start := time.Now()
			_, err := service.Export(ctx, q)
			if took := time.Since(start); took > 3*time.Second || !errors.Is(err, context.Canceled) {
				t.Errorf("%v after %v", err, took)
			}
		})
	}
	if left := objects(t, to); len(left) > 0 {
		t.Errorf("left are %v", left)
	}
}

// A real server of S3 takes the file by a URL that is signed for it, and gives it back by another.
func TestExportToSignedURL(t *testing.T) {
	s3 := teststore.StartS3(t)
	bucket := s3.Bucket("exports")
	service, _ := exporter(t)
	data := readFile(t, someRDB)
	b := keep(t, service, data)
	for _, q := range []amber.ExportRequest{{}, {Dialect: rdb.Dialect{Family: rdb.Redis, Version: 12}, Expiry: restore.ExpiryDrop, Accept: []string{"all"}}} {
		q.Backup, q.URL = b.ID, s3.SignedURL(http.MethodPut, bucket, "a b/dump.rdb", time.Now(), time.Minute)
		rep, err := service.Export(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.Get(s3.SignedURL(http.MethodGet, bucket, "a b/dump.rdb", time.Now(), time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		sum := sha256.Sum256(got)
		if err != nil || resp.StatusCode != http.StatusOK || hex.EncodeToString(sum[:]) != rep.Files[0].SHA256 || q.Expiry == "" && !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes, %v; the report %+v", resp.Status, len(got), err, rep)
		}
	}
	_, err := service.Export(t.Context(), amber.ExportRequest{Backup: b.ID, URL: s3.SignedURL(http.MethodPut, bucket, "late.rdb", time.Now().Add(-time.Hour), time.Minute)})
	if err == nil || !strings.Contains(err.Error(), "403") || strings.Contains(err.Error(), "X-Amz-Signature") {
		t.Errorf("a URL whose time is over: %v", err)
	}
}

// What is encrypted is exported in the clear to those who can open it, and to nobody else; and the copy that can be read is taken.
func TestExportEncrypted(t *testing.T) {
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	store, near := memstore.New(nil), memstore.New(nil)
	cfg := amber.Config{Store: store, Stores: []amber.NamedStore{{Name: "near", Store: near}}, Recipients: []age.Recipient{key.Recipient()}}
	blind, err := amber.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Identities = []age.Identity{key}
	service, err := amber.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	data := readFile(t, someRDB)
	b := keep(t, blind, data)
	var w bytes.Buffer
	if _, err := blind.Export(t.Context(), amber.ExportRequest{Backup: b.ID, Writer: &w}); err == nil || w.Len() > 0 {
		t.Errorf("without a key: %v, and %d bytes are written", err, w.Len())
	}
	// A copy needs no key.
	if _, err := blind.CopyBackup(t.Context(), amber.CopyBackupRequest{Backup: b.ID, To: "near"}); err != nil {
		t.Fatal(err)
	}
	spoil(t, store, b.Parts[0].Key)
	rep, err := service.Export(t.Context(), amber.ExportRequest{Backup: b.ID, Writer: &w})
	if err != nil || !bytes.Equal(w.Bytes(), data) {
		t.Errorf("with the key: %+v, %v, %d bytes", rep, err, w.Len())
	}
}
