package feed

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/storecatalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/seal"
)

// kept puts the parts of a backup into a store, and returns what restores it.
func kept(t *testing.T, parts ...*image) (*restore.Restorer, catalog.ID) {
	t.Helper()
	store := memstore.New(nil)
	list, err := storecatalog.New(storecatalog.Config{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	b := *parts[0].backup
	b.Parts, b.RawBytes, b.StoredBytes = nil, 0, 0
	b.CreatedAt = time.Now().Add(-time.Hour)
	b.ReadyAt = b.CreatedAt
	b.ID = catalog.NewID(b.CreatedAt)
	var all catalog.Contents
	for i, img := range parts {
		var stored bytes.Buffer
		w, err := seal.NewWriter(&stored, nil)
		if err != nil {
			t.Fatal(err)
		}
		w.Write(img.data)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		found, err := catalog.Inspect(bytes.NewReader(img.data), nil)
		if err != nil {
			t.Fatal(err)
		}
		all.Add(found)
		sum, hash, name := w.Sum(), sha256.Sum256(img.data), fmt.Sprintf("part-%04d.rdb.zst", i)
		b.Parts = append(b.Parts, catalog.Part{Name: name, Key: b.Prefix() + name, Dialect: found.Dialect, Compression: sum.Compression,
			Size: sum.Size, SHA256: sum.SHA256, RawSize: sum.RawSize, RawSHA256: hex.EncodeToString(hash[:]), Keys: found.Keys})
		b.RawBytes, b.StoredBytes = b.RawBytes+sum.RawSize, b.StoredBytes+sum.Size
		if err := storage.WriteFile(t.Context(), store, b.Parts[i].Key, stored.Bytes(), nil); err != nil {
			t.Fatal(err)
		}
	}
	all.Record(&b)
	if _, err := list.Put(t.Context(), &b, ""); err != nil {
		t.Fatal(err)
	}
	r, err := restore.New(restore.Config{Store: store, Catalog: list})
	if err != nil {
		t.Fatal(err)
	}
	return r, b.ID
}

// filled starts a server on which commands were executed.
func filled(t *testing.T, version string, commands ...[]any) *testserver.Server {
	t.Helper()
	s := testserver.Start(t, version)
	c := s.Client(t).Conn() // one that selects databases
	defer c.Close()
	for _, args := range commands {
		if err := c.Do(t.Context(), args...).Err(); err != nil {
			t.Fatalf("%v: %v", args, err)
		}
	}
	return s
}

func contents(t *testing.T, s *testserver.Server) map[string]string {
	return testserver.Snapshot(t, s.Client(t))
}

// compareAll compares every value, too, as the Restorer does it.
func compareAll(opts restore.Options) *restore.Options {
	opts.Compare = restore.CompareAll
	return &opts
}

// What an older server can't hold is told by name before anything is done, and left out once that is accepted.
func TestConvertedForAnOlderServer(t *testing.T) {
	src := filled(t, "redis-8.0",
		[]any{"HSET", "expiring", "a", "1", "b", "2"}, []any{"HEXPIRE", "expiring", "10000", "FIELDS", "1", "a"},
		[]any{"HSET", "plain", "a", "1"}, []any{"XADD", "stream", "*", "a", "1"}, []any{"XGROUP", "CREATE", "stream", "g", "0"},
		[]any{"SADD", "set", "a", "b"}, []any{"SET", "string", "1", "EX", "10000"}, []any{"SELECT", "3"}, []any{"RPUSH", "list", "1", "2"})
	testserver.LoadFunction(t, src.Client(t), "shop")
	img := take(t, src)
	if err := src.Client(t).Do(t.Context(), "HPERSIST", "expiring", "FIELDS", "1", "a").Err(); err != nil {
		t.Fatal(err)
	}
	want := contents(t, src) // without what gets lost
	r, id := kept(t, img)

	s := testserver.Start(t, "redis-7.0")
	l := loader(t, s, nil)
	_, err := r.Restore(t.Context(), id, l, nil)
	if !errors.Is(err, restore.ErrNotAccepted) || !strings.Contains(err.Error(), "field-expiry") || !strings.Contains(err.Error(), "0/expiring") {
		t.Fatalf("the error is %v", err)
	}
	if n := info(t, s.Client(t))["second_repl_offset"]; n != "-1" {
		t.Error("it was told to replicate")
	}
	report, err := r.Restore(t.Context(), id, l, compareAll(restore.Options{Accept: []string{"field-expiry"}}))
	if err != nil {
		t.Fatal(err)
	}
	if diff := testserver.Diff(want, contents(t, s)); diff != "" {
		t.Error(diff)
	}
	if got := testserver.Functions(t, s.Client(t)); !maps.Equal(got, img.functions) {
		t.Errorf("it has the functions %v", got)
	}
	if report.Dialect != "redis:10" || report.Converted == 0 || len(report.Losses) == 0 || report.Keys != int64(len(want)) || report.Functions != 1 || report.Proof.Compared != report.Keys {
		t.Errorf("the report is %+v", report)
	}
}

// Redis and Valkey encode expiring hash fields each in its own way. Both ways nothing is lost.
func TestFieldExpiryAcrossProducts(t *testing.T) {
	commands := [][]any{
		{"HSET", "packed", "a", "1", "b", "2"}, {"HEXPIRE", "packed", "10000", "FIELDS", "1", "a"},
		{"HSET", "long", "a", strings.Repeat("x", 100), "b", "2"}, {"HEXPIRE", "long", "20000", "FIELDS", "1", "a"},
		{"HSET", "plain", "a", "1"}, {"ZADD", "zset", "1.5", "a"}, {"SADD", "set", "a", "b"}, {"XADD", "stream", "*", "a", "1"},
		{"SELECT", "2"}, {"SET", "string", "1", "EX", "10000"},
	}
	for from, to := range map[string]string{"redis-8.0": "valkey-9.1", "valkey-9.1": "redis-8.0"} {
		t.Run(from+" into "+to, func(t *testing.T) {
			src := filled(t, from, commands...)
			img := take(t, src)
			r, id := kept(t, img)
			s := testserver.Start(t, to)
			report, err := r.Restore(t.Context(), id, loader(t, s, nil), compareAll(restore.Options{}))
			if err != nil {
				t.Fatal(err)
			}
			holds(t, s, img)
			if len(report.Losses) > 0 || report.Converted != 2 {
				t.Errorf("the report is %+v", report)
			}
			for _, key := range []string{"packed", "long"} {
				at := func(s *testserver.Server) string {
					return fmt.Sprint(s.Client(t).Do(t.Context(), "HPEXPIRETIME", key, "FIELDS", 2, "a", "b").Val())
				}
				if want := at(src); at(s) != want || !strings.Contains(want, "-1") || strings.HasPrefix(want, "[-") {
					t.Errorf("the fields of %s expire at %s, in the source at %s", key, at(s), want)
				}
			}
		})
	}
}

// Everything that servers hold goes from each into each other, less what is told.
func TestEveryPairConverted(t *testing.T) {
	for _, from := range testserver.All() {
		img := sample(t, from, 200)
		r, id := kept(t, img)
		for _, to := range testserver.All() {
			t.Run(from+" into "+to, func(t *testing.T) {
				t.Parallel()
				s := testserver.Start(t, to)
				report, err := r.Restore(t.Context(), id, loader(t, s, nil), compareAll(restore.Options{Accept: []string{"all"}}))
				if err != nil {
					t.Fatal(err)
				}
				skipped := int64(0)
				for _, l := range report.Losses {
					skipped += l.Skipped
				}
				if report.Keys+skipped != img.backup.Keys || report.Keys != int64(len(contents(t, s))) {
					t.Errorf("%d keys of %d are there, %d are reported as left out: %+v", len(contents(t, s)), img.backup.Keys, skipped, report)
				}
				if len(report.Losses) == 0 {
					holds(t, s, img)
				}
				if got := testserver.Functions(t, s.Client(t)); !maps.Equal(got, img.functions) {
					t.Errorf("it has the functions %v", got)
				}
			})
		}
	}
}

// Keys are selected, renamed and let live longer on their way to the target.
func TestSelectionByFeed(t *testing.T) {
	src := filled(t, "valkey-8.1",
		[]any{"SET", "app:a", "1"}, []any{"SET", "app:b", "2", "EX", "5000"}, []any{"HSET", "app:h", "f", "v"}, []any{"SET", "other", "3"},
		[]any{"SELECT", "5"}, []any{"SET", "app:c", "4"}, []any{"LPUSH", "app:l", "5"})
	r, id := kept(t, take(t, src))
	for name, c := range map[string]struct {
		opts restore.Options
		want []string // keys
		ttl  bool     // those that expire do
	}{
		"database":          {restore.Options{Select: restore.Selection{DBs: []int{5}}}, []string{"5/app:c", "5/app:l"}, true},
		"pattern":           {restore.Options{Select: restore.Selection{Match: "app:[ab]"}}, []string{"0/app:a", "0/app:b"}, true},
		"type":              {restore.Options{Select: restore.Selection{Types: []string{"list", "hash"}}}, []string{"0/app:h", "5/app:l"}, true},
		"database map":      {restore.Options{Select: restore.Selection{MapDB: map[int]int{5: 1}}}, []string{"0/app:a", "0/app:b", "0/app:h", "0/other", "1/app:c", "1/app:l"}, true},
		"prefix":            {restore.Options{Select: restore.Selection{TrimPrefix: "app:", AddPrefix: "new:"}}, []string{"0/new:a", "0/new:b", "0/new:h", "5/new:c", "5/new:l"}, true},
		"nothing expires":   {restore.Options{Expiry: restore.ExpiryDrop, Select: restore.Selection{DBs: []int{0}}}, []string{"0/app:a", "0/app:b", "0/app:h", "0/other"}, false},
		"expiry is shifted": {restore.Options{Expiry: restore.ExpiryShift, Select: restore.Selection{Match: "*b"}}, []string{"0/app:b"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// Too few databases for what isn't selected, or becomes another.
			databases := "6"
			if c.opts.Select.MapDB != nil || strings.HasPrefix(c.want[len(c.want)-1], "0/") {
				databases = "2"
			}
			s := testserver.Start(t, "redis-7.0", "--databases", databases)
			report, err := r.Restore(t.Context(), id, loader(t, s, nil), compareAll(c.opts))
			if err != nil {
				t.Fatal(err)
			}
			got := contents(t, s)
			if keys := slices.Sorted(maps.Keys(got)); !slices.Equal(keys, c.want) {
				t.Errorf("the target has %q, want %q", keys, c.want)
			}
			if report.Keys != int64(len(c.want)) || report.Proof.Compared != report.Keys {
				t.Errorf("the report is %+v", report)
			}
			ttl := s.Client(t).TTL(t.Context(), strings.TrimPrefix(c.want[min(1, len(c.want)-1)], "0/")).Val()
			switch {
			case name == "nothing expires" && ttl != -1:
				t.Errorf("a key expires in %v", ttl)
			case name == "pattern" && (ttl > 5000*time.Second || ttl < 4900*time.Second):
				t.Errorf("a key expires in %v, which was 5000 s", ttl)
			case name == "expiry is shifted" && (ttl > 8601*time.Second || ttl < 8500*time.Second):
				t.Errorf("a key expires in %v, which was 5000 s an hour ago", ttl)
			}
		})
	}
}

// What isn't selected needs no room and no module in the target.
func TestSelectionNeedsLess(t *testing.T) {
	src := filled(t, "redis-8.0", []any{"SET", "small", "1"}, []any{"VADD", "vectors", "VALUES", "2", "1", "1", "a"})
	img := altered(take(t, src), func(b *catalog.Backup) { b.Source.UsedMemory, b.Source.Version = 900_000_000, "8.0.99" })
	r, id := kept(t, img)
	s := testserver.Start(t, "redis-8.0", "--maxmemory", "100000000", "--maxmemory-policy", "allkeys-lru")
	testserver.Generate(t, s.Client(t), 20, 1)
	l := loader(t, s, nil)
	p, err := r.Plan(t.Context(), id, l, replace)
	if err != nil {
		t.Fatal(err)
	}
	if got := verdictPoint(p.Verdict, "memory"); got.Level != restore.Fail {
		t.Errorf("of the whole backup the verdict is %+v", got)
	}
	modes := map[string]bool{}
	opts := compareAll(restore.Options{Conflict: restore.Replace, Select: restore.Selection{Types: []string{"string"}}})
	opts.Progress = func(p restore.Progress) {
		if p.Stage == restore.StageLoad {
			modes[state(t, s.Client(t))[setDiskless]] = true
		}
	}
	if _, err := r.Restore(t.Context(), id, l, opts); err != nil {
		t.Fatal(err)
	}
	if got := slices.Sorted(maps.Keys(contents(t, s))); !slices.Equal(got, []string{"0/small"}) {
		t.Errorf("the target has %q", got)
	}
	if !modes[loadSwap] {
		t.Errorf("there is room for the old data and the new, and it loads by %v", modes)
	}
}

// The shards of a cluster become one server, of another product and version.
func TestClusterIntoOneServer(t *testing.T) {
	t.Parallel()
	cluster := testserver.StartCluster(t, "redis-8.0", 3, 0)
	cluster.Generate(t, 300, 1)
	var parts []*image
	for _, s := range cluster.Primaries() {
		testserver.LoadFunction(t, s.Client(t), "shop") // on each, as in a cluster
		parts = append(parts, take(t, s))
	}
	want := cluster.Contents(t)
	r, id := kept(t, parts...)
	for _, version := range []string{"redis-8.0", "valkey-9.1"} {
		s := testserver.Start(t, version)
		report, err := r.Restore(t.Context(), id, loader(t, s, nil), compareAll(restore.Options{Accept: []string{"module"}}))
		if err != nil {
			t.Fatal(err)
		}
		got, want := contents(t, s), maps.Clone(want)
		if version != "redis-8.0" { // what it can't hold is told
			for key := range want {
				if strings.Contains(key, "vectorset") {
					delete(want, key)
				}
			}
		}
		if diff := testserver.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", version, diff)
		}
		if report.Keys != int64(len(want)) || report.Functions != 1 || len(testserver.Functions(t, s.Client(t))) != 1 {
			t.Errorf("%s: the report is %+v", version, report)
		}
	}
}

// A key that two parts have would end a server that loads both. It is refused before the target hears of it.
func TestKeyInTwoParts(t *testing.T) {
	a := take(t, filled(t, "redis-7.0", []any{"SET", "a", "1"}, []any{"SET", "twice", "1"}))
	b := take(t, filled(t, "redis-7.0", []any{"SET", "b", "1"}, []any{"SET", "twice", "2"}))
	r, id := kept(t, a, b)
	s := testserver.Start(t, "redis-7.0")
	_, err := r.Restore(t.Context(), id, loader(t, s, nil), nil)
	if !errors.Is(err, restore.ErrNotVerified) || !strings.Contains(err.Error(), "twice") {
		t.Errorf("the error is %v", err)
	}
	if n := info(t, s.Client(t))["second_repl_offset"]; n != "-1" || len(contents(t, s)) > 0 {
		t.Error("it was told to replicate")
	}
}
