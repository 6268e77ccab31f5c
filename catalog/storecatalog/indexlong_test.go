package storecatalog_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/storecatalog"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/storetest"
)

// fill writes the manifests of many backups, as a store that was filled before there was an index has them: of twenty data stores, one
// each so many minutes, until a day in November 2026. One of 97 has failed.
func fill(t testing.TB, backups int, every time.Duration, write func(key string, data []byte) error) {
	t.Helper()
	last := time.Date(2026, 11, 23, 22, 17, 0, 0, time.UTC)
	sum := strings.Repeat("0123456789abcdef", 4)
	for n := range backups {
		at := last.Add(-time.Duration(n) * every)
		b := &catalog.Backup{ID: catalog.NewID(at), DataStore: fmt.Sprintf("store-%02d", n%20), Name: fmt.Sprintf("nightly-%05d", n), Kind: catalog.KindAutomatic,
			State: catalog.StateRunning, CreatedAt: at, Policy: "nightly", Description: "the backup of a night", Keys: int64(n),
			Labels: map[string]string{"team": fmt.Sprintf("team-%d", n%7), "env": "eu"}, Source: catalog.Source{Engine: "redis", Version: "8.0.2", Dialect: "redis:12"}}
		for name, state := range map[string]catalog.State{"run.json": catalog.StateRunning, "manifest.json": catalog.StateReady} {
			b.State = state
			if state == catalog.StateReady {
				b.Parts = []catalog.Part{{Name: "part-0000.rdb.zst", Key: b.Prefix() + "part-0000.rdb.zst", Compression: "zstd", SHA256: sum, RawSHA256: sum}}
				if n%97 == 96 {
					b.State, b.Error = catalog.StateFailed, "on purpose"
				}
			}
			data, err := catalog.Encode(b)
			if err != nil {
				t.Fatal(err)
			}
			if err := write(b.Prefix()+name, data); err != nil {
				t.Fatal(err)
			}
			b.Parts = nil
		}
	}
}

// A look is what one page took.
type look struct {
	page  []*catalog.Backup
	took  time.Duration
	opens int
	lists int
	heap  uint64 // bytes that were allocated for it
}

// cold reads a page with a catalog that knows nothing yet.
func cold(t *testing.T, open func() storage.Store, q catalog.Query, from catalog.Cursor, limit int) look {
	t.Helper()
	s := storetest.NewFaulty(open())
	c := newCatalog(t, s, nil)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	page, unreadable, err := c.Page(t.Context(), q, from, limit)
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	if err != nil || len(unreadable) > 0 {
		t.Fatalf("Page %+v: %v, %v", q, unreadable, err)
	}
	return look{page, took, s.Calls(storetest.OpOpen), s.Calls(storetest.OpList), after.TotalAlloc - before.TotalAlloc}
}

// TestLongList: of a long list no more is read than a page shows, and the index; and without an index the names of all objects, but no more manifests.
// With CAMPAIGN=1 the list has 100,000 backups and is in a directory, and the times are told.
func TestLongList(t *testing.T) {
	backups, every := 5000, 13*time.Minute
	m := memstore.New(nil)
	open := func() storage.Store { return m }
	write := func(key string, data []byte) error { return storage.WriteFile(t.Context(), m, key, data, nil) }
	dir := ""
	if os.Getenv("CAMPAIGN") != "" {
		backups, dir = 100_000, t.TempDir()
		open = func() storage.Store { return openFile(t, dir) }
		write = func(key string, data []byte) error {
			file := filepath.Join(dir, filepath.FromSlash(key))
			if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
				return err
			}
			return os.WriteFile(file, data, 0o600)
		}
	}
	fill(t, backups, every, write)
	month := time.Date(2026, 11, 23, 22, 17, 0, 0, time.UTC).Add(-time.Duration(backups) * every)
	months := 11 + 12*(2026-month.Year()) - int(month.Month()) + 1
	tell := func(what string, l look) {
		t.Logf("%-42s %8.1f ms, %6d objects read, %3d listings, %6.1f MB allocated, %d backups", what, float64(l.took.Microseconds())/1000, l.opens, l.lists,
			float64(l.heap)/1e6, len(l.page))
	}
	first := cold(t, open, catalog.Query{}, catalog.Cursor{}, 100)
	tell("first page without an index", first)
	if first.opens > 110 || len(first.page) != 100 {
		t.Errorf("without an index a page of %d took %d reads", len(first.page), first.opens)
	}
	start := time.Now()
	mended, err := newCatalog(t, open(), nil).Reindex(t.Context())
	if err != nil || mended != backups {
		t.Fatalf("Reindex: %d, %v", mended, err)
	}
	t.Logf("Reindex of %d backups in %d months took %v", backups, months, time.Since(start))
	start = time.Now()
	if mended, err = newCatalog(t, open(), nil).Reindex(t.Context()); err != nil || mended != 0 {
		t.Errorf("Reindex again: %d, %v", mended, err)
	}
	t.Logf("Reindex when there is nothing to do took %v", time.Since(start))

	same := func(got, want []*catalog.Backup) bool {
		return slices.EqualFunc(got, want, func(a, b *catalog.Backup) bool { return a.ID == b.ID && a.DataStore == b.DataStore })
	}
	one := cold(t, open, catalog.Query{}, catalog.Cursor{}, 100)
	tell("first page", one)
	if !same(one.page, first.page) || one.opens > 110 || one.lists > 110 {
		t.Errorf("the first page of %d took %d reads and %d listings", len(one.page), one.opens, one.lists)
	}
	end := one.page[99]
	two := cold(t, open, catalog.Query{}, catalog.Cursor{ID: end.ID, DataStore: end.DataStore}, 100)
	tell("second page", two)
	if two.opens > 110 || len(two.page) != 100 || two.page[0].ID >= end.ID {
		t.Errorf("the second page of %d took %d reads", len(two.page), two.opens)
	}
	for what, c := range map[string]struct {
		q    catalog.Query
		want int
	}{
		"a label that no backup has":         {catalog.Query{Labels: map[string]string{"team": "nobody"}}, 0},
		"a text that no backup has":          {catalog.Query{Text: "nothing"}, 0},
		"the text of one backup, the oldest": {catalog.Query{Text: fmt.Sprintf("NIGHTLY-%05d", backups-1), States: allStates}, 1},
		"what has failed":                    {catalog.Query{States: []catalog.State{catalog.StateFailed}}, min(100, backups/97)},
		"a data store and a label":           {catalog.Query{DataStore: "store-03", Labels: map[string]string{"team": "team-3"}}, min(100, backups/20/7)},
		"a week":                             {catalog.Query{From: first.page[0].CreatedAt.AddDate(0, 0, -30), Until: first.page[0].CreatedAt.AddDate(0, 0, -23), DataStore: "store-03"}, 38},
	} {
		l := cold(t, open, c.q, catalog.Cursor{}, 100)
		tell("page of "+what, l)
		if l.opens > months+c.want+10 || len(l.page) < c.want-1 || len(l.page) > c.want+1 {
			t.Errorf("a page of %s has %d backups, want %d, and took %d reads", what, len(l.page), c.want, l.opens)
		}
	}
	if dir == "" {
		return
	}
	start = time.Now()
	n := 0
	c := newCatalog(t, open(), nil)
	for _, err := range c.List(t.Context(), catalog.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	t.Logf("List of all %d took %v", n, time.Since(start))
	start = time.Now()
	for range c.List(t.Context(), catalog.Query{}) {
		break
	}
	t.Logf("the first of List took %v", time.Since(start))
	if err := os.RemoveAll(filepath.Join(dir, "_index")); err != nil {
		t.Fatal(err)
	}
	tell("first page after the index was lost", cold(t, open, catalog.Query{}, catalog.Cursor{}, 100))
}

var _ catalog.Pager = (*storecatalog.Catalog)(nil)
var _ catalog.Indexer = (*storecatalog.Catalog)(nil)
