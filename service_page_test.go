package amber_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/storecatalog"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/storetest"
)

// plain is a catalog without any ability but what every catalog has.
type plain struct{ catalog.Catalog }

// paged is a service over three stores, of which the last has a catalog that gives no pages, with backups and copies of them.
func paged(t *testing.T, gone string) (*amber.Service, [3]storage.Store, []*catalog.Backup) {
	t.Helper()
	stores := [3]storage.Store{memstore.New(nil), memstore.New(nil), memstore.New(nil)}
	var made []*catalog.Backup
	var catalogs []*storecatalog.Catalog
	for _, s := range stores {
		c, err := storecatalog.New(storecatalog.Config{Store: s})
		if err != nil {
			t.Fatal(err)
		}
		catalogs = append(catalogs, c)
	}
	began := time.Date(2026, 10, 25, 0, 0, 0, 0, time.UTC)
	for n := range 40 {
		at := began.Add(time.Duration(n) * 7 * time.Hour)
		b := &catalog.Backup{ID: catalog.NewID(at), DataStore: []string{"orders", "carts"}[n%2], Kind: catalog.KindManual, State: catalog.StateReady, CreatedAt: at,
			Labels: map[string]string{"number": fmt.Sprint(n % 4)}}
		sum := strings.Repeat("0123456789abcdef", 4)
		b.Parts = []catalog.Part{{Name: "part-0", Key: b.Prefix() + "part-0", SHA256: sum, RawSHA256: sum}}
		made = append(made, b)
		for i, c := range catalogs {
			if n%3 == i || n%4 == 0 {
				if _, err := c.Put(t.Context(), b, ""); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	var used []storage.Store
	for i, s := range stores {
		if name := []string{"first", "near", "far"}[i]; name == gone {
			s = storetest.NewFaulty(s, storetest.Fault{Op: storetest.OpList}, storetest.Fault{Op: storetest.OpOpen})
		}
		used = append(used, s)
	}
	far, err := storecatalog.New(storecatalog.Config{Store: used[2]})
	if err != nil {
		t.Fatal(err)
	}
	s, err := amber.New(amber.Config{Store: used[0], Stores: []amber.NamedStore{{Name: "near", Store: used[1]}, {Name: "far", Store: used[2], Catalog: plain{far}}}})
	if err != nil {
		t.Fatal(err)
	}
	return s, stores, made
}

// all returns what all pages have, each as its store and ID, and what was told beside them.
func all(t *testing.T, s *amber.Service, q amber.PageRequest) (found []string, errs []error) {
	t.Helper()
	for range 200 {
		page, err := s.Page(t.Context(), q)
		if err != nil {
			t.Fatalf("Page %+v: %v", q, err)
		}
		if len(page.Backups) > q.Limit || page.Next != "" && len(page.Backups) != q.Limit {
			t.Fatalf("Page %+v has %d backups, and goes on with %q", q, len(page.Backups), page.Next)
		}
		for _, f := range page.Backups {
			found = append(found, f.Store.Name+"/"+string(f.ID))
		}
		errs = append(errs, page.Errors...)
		if page.Next == "" {
			return found, errs
		}
		if last := page.Backups[len(page.Backups)-1]; page.Next != last.Cursor() {
			t.Fatalf("the next page begins at %q, behind %q", page.Next, last.Cursor())
		}
		q.Cursor = page.Next
	}
	t.Fatal("200 pages come to no end")
	return nil, nil
}

// TestPages: pages of any size are together what ListAll gives, a copy once for each store also where a page ends between two of them.
func TestPages(t *testing.T) {
	s, _, _ := paged(t, "")
	for _, q := range []catalog.Query{{}, {DataStore: "carts"}, {Labels: map[string]string{"number": "0"}}, {Text: "nothing"},
		{From: time.Date(2026, 10, 28, 0, 0, 0, 0, time.UTC), Until: time.Date(2026, 11, 2, 0, 0, 0, 0, time.UTC)}} {
		want, errs := listed(s.ListAll(t.Context(), q))
		if len(errs) > 0 {
			t.Fatal(errs)
		}
		for _, limit := range []int{1, 2, 3, 5, len(want), len(want) + 1, 1000} {
			got, errs := all(t, s, amber.PageRequest{Query: q, Limit: max(limit, 1)})
			if !slices.Equal(got, want) || len(errs) > 0 {
				t.Errorf("the pages of %+v, of %d each, have\n%v, %v; listed are\n%v", q, limit, got, errs, want)
			}
		}
	}
	page, err := s.Page(t.Context(), amber.PageRequest{})
	if err != nil || len(page.Backups) != 60 || page.Next != "" {
		t.Errorf("the page of a zero request has %d backups, %q, %v", len(page.Backups), page.Next, err)
	}
}

// TestPagesBeside: what can't be read is told beside the page, not instead of it.
func TestPagesBeside(t *testing.T) {
	for _, gone := range []string{"first", "near", "far"} {
		s, _, _ := paged(t, gone)
		want, _ := listed(s.ListAll(t.Context(), catalog.Query{}))
		page, err := s.Page(t.Context(), amber.PageRequest{Limit: 1000})
		if err != nil || len(page.Errors) != 1 || !errors.Is(page.Errors[0], storetest.ErrInjected) || gone != "first" && !strings.Contains(page.Errors[0].Error(), "store "+gone) {
			t.Errorf("without %s there are %v, %v", gone, page.Errors, err)
		}
		if len(want) == 0 || len(page.Backups) != len(want) {
			t.Errorf("without %s the page has %d backups, listed are %d", gone, len(page.Backups), len(want))
		}
	}
	s, stores, made := paged(t, "")
	if _, errs := all(t, s, amber.PageRequest{Limit: 10}); len(errs) > 0 { // so that the index knows them
		t.Fatal(errs)
	}
	spoil(t, stores[0], made[3].Prefix()+"manifest.json")
	spoil(t, stores[1], made[4].Prefix()+"manifest.json")
	spoil(t, stores[2], made[5].Prefix()+"manifest.json")
	got, errs := all(t, s, amber.PageRequest{Limit: 7})
	if len(got) != 57 || len(errs) < 3 {
		t.Errorf("beside three manifests that can't be read there are %d backups, %v", len(got), errs)
	}
	for _, err := range errs {
		if !errors.Is(err, catalog.ErrCorrupt) {
			t.Errorf("an error of a page is %v", err)
		}
	}
}

func TestPageRefused(t *testing.T) {
	s, _, made := paged(t, "")
	id := string(made[0].ID)
	for want, q := range map[string]amber.PageRequest{
		"PageRequest.Limit is -1":                        {Limit: -1},
		"PageRequest.Limit is 1001":                      {Limit: 1001},
		"PageRequest: catalog: Query.DataStore \"../x\"": {Query: catalog.Query{DataStore: "../x"}},
		"three parts":                                    {Cursor: id},
		"the ID of a backup":                             {Cursor: "x//orders"},
		"no store \"gone\"":                              {Cursor: id + "/gone/orders"},
		"the name of a data store":                       {Cursor: id + "/near/.."},
		"PageRequest.Cursor":                             {Cursor: strings.Repeat("/", 1000)},
	} {
		if page, err := s.Page(t.Context(), q); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Page %+v gives %d backups, and the error %v; want one with %q", q, len(page.Backups), err, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Page(ctx, amber.PageRequest{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Page with a context that has ended: %v", err)
	}
}
