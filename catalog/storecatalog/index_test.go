package storecatalog_test

import (
	"context"
	"errors"
	"iter"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/storecatalog"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/storetest"
)

const november = "2026-11" // the month of the backups here

// everything is all that a catalog lists or pages, by ID.
func everything(t *testing.T, c *storecatalog.Catalog) (listed, paged []*catalog.Backup) {
	t.Helper()
	q := catalog.Query{States: allStates}
	for b, err := range c.List(t.Context(), q) {
		if err != nil {
			t.Fatal(err)
		}
		listed = append(listed, b)
	}
	var from catalog.Cursor
	for {
		page, unreadable, err := c.Page(t.Context(), q, from, 7)
		if err != nil || len(unreadable) > 0 {
			t.Fatalf("Page: %v, %v", unreadable, err)
		}
		paged = append(paged, page...)
		if len(page) < 7 {
			return listed, paged
		}
		from = catalog.Cursor{ID: page[6].ID, DataStore: page[6].DataStore}
	}
}

// samePages fails the test unless the pages of a store are what it lists, also those of single states.
func samePages(t *testing.T, s storage.Store) {
	t.Helper()
	c := newCatalog(t, s, nil)
	listed, paged := everything(t, c)
	if !reflect.DeepEqual(listed, paged) {
		t.Fatalf("the pages have %d backups, %v; listed are %d, %v", len(paged), states(paged), len(listed), states(listed))
	}
	for _, state := range allStates {
		page, _, err := c.Page(t.Context(), catalog.Query{States: []catalog.State{state}}, catalog.Cursor{}, 1000)
		want := slices.DeleteFunc(slices.Clone(listed), func(b *catalog.Backup) bool { return b.State != state })
		if err != nil || len(page) != len(want) {
			t.Fatalf("the page of what is %s has %v, %v; listed are %v", state, states(page), err, states(want))
		}
	}
}

func states(list []*catalog.Backup) (out []string) {
	for _, b := range list {
		out = append(out, string(b.ID[15:])+" "+string(b.State))
	}
	return out
}

// indexed makes an index of a store, so that pages come from it.
func indexed(t *testing.T, s storage.Store) {
	t.Helper()
	if _, err := newCatalog(t, s, nil).Reindex(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestIndexWalkIsOld: between the walk of a Reindex and its look at the index a backup is changed and a summary made of that. The walk doesn't bring back
// what was.
func TestIndexWalkIsOld(t *testing.T) {
	m := memstore.New(nil)
	calm := newCatalog(t, m, nil)
	b := backup(1, catalog.StateReady)
	rev := mustPut(t, calm, b, "")
	indexed(t, m)
	walked := &walkedStore{Store: m, after: func() {
		b.Labels = map[string]string{"a": "b"}
		mustPut(t, calm, b, rev)
		if err := calm.Summarize(t.Context(), november); err != nil {
			t.Fatal(err)
		}
	}}
	indexed(t, walked)
	page, _, err := calm.Page(t.Context(), catalog.Query{Labels: b.Labels}, catalog.Cursor{}, 10)
	if err != nil || len(page) != 1 || walked.after != nil {
		t.Errorf("the page of the changed backup has %v, %v", states(page), err)
	}
}

// TestIndexTwoMakers: two make the index of a store that has none at the same time. Whoever is later is done as well.
func TestIndexTwoMakers(t *testing.T) {
	m := memstore.New(nil)
	mustPut(t, newCatalog(t, m, nil), backup(1, catalog.StateReady), "")
	walked := &walkedStore{Store: m, after: func() { indexed(t, m) }}
	indexed(t, walked)
	if walked.after != nil {
		t.Error("the first one didn't walk")
	}
	samePages(t, m)
}

// A walkedStore calls after, once, when all of it was listed.
type walkedStore struct {
	*memstore.Store
	after func()
}

func (s *walkedStore) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		s.Store.List(ctx, prefix)(yield)
		if after := s.after; prefix == "" && after != nil {
			s.after = nil
			after()
		}
	}
}

// TestIndexForgets: what is deleted is not looked for any more when a summary was made since.
func TestIndexForgets(t *testing.T) {
	m := memstore.New(nil)
	c := newCatalog(t, m, nil)
	indexed(t, m)
	revs := map[catalog.ID]catalog.Revision{}
	for n := range 10 {
		b := backup(n, catalog.StateReady)
		rev := mustPut(t, c, b, "")
		revs[b.ID] = mustPut(t, c, as(b, catalog.StateDeleting), rev)
	}
	if err := c.Summarize(t.Context(), november); err != nil { // it knows them as what is being deleted
		t.Fatal(err)
	}
	for id, rev := range revs {
		if err := c.Delete(t.Context(), id, rev); err != nil {
			t.Fatal(err)
		}
	}
	running := backup(20, catalog.StateRunning)
	rev := mustPut(t, c, running, "")
	if err := c.Summarize(t.Context(), november); err != nil { // and this one as a run
		t.Fatal(err)
	}
	mustPut(t, c, as(running, catalog.StateReady), rev)
	mustPut(t, c, backup(21, catalog.StateReady), "")
	if err := c.Summarize(t.Context(), november); err != nil {
		t.Fatal(err)
	}
	s := storetest.NewFaulty(m)
	page, _, err := newCatalog(t, s, nil).Page(t.Context(), catalog.Query{States: []catalog.State{catalog.StateDeleting}}, catalog.Cursor{}, 10)
	if err != nil || len(page) > 0 || s.Calls(storetest.OpList) != 2 {
		t.Errorf("the page of what is being deleted has %v, %v, after %d listings", states(page), err, s.Calls(storetest.OpList))
	}
}

// TestIndexFaults: whatever call of the store fails, a backup is put as without an index, and pages show it; and no fault while a page is read or an
// index is made spoils what is there.
func TestIndexFaults(t *testing.T) {
	eachFault(t, func(t *testing.T, m *memstore.Store, s *storetest.Faulty) {
		indexed(t, m)
		c := newCatalog(t, s, nil)
		for n := range 3 {
			b := backup(n, catalog.StateReady)
			for _, fault := range []catalog.Catalog{c, newCatalog(t, m, nil)} {
				rev, err := fault.Put(t.Context(), b, "")
				if err == nil {
					edited := *b
					edited.Labels = map[string]string{"a": "b"}
					if _, err = fault.Put(t.Context(), &edited, rev); err != nil && !errors.Is(err, storetest.ErrInjected) {
						t.Fatal(err)
					}
					break
				}
				if !errors.Is(err, storetest.ErrInjected) {
					t.Fatal(err)
				}
				b = backup(n+100, catalog.StateReady)
			}
		}
		if _, _, err := c.Page(t.Context(), catalog.Query{}, catalog.Cursor{}, 10); err != nil && !errors.Is(err, storetest.ErrInjected) {
			t.Fatal(err)
		}
		if err := c.Summarize(t.Context(), november); err != nil && !errors.Is(err, storetest.ErrInjected) {
			t.Fatal(err)
		}
		if _, err := c.Reindex(t.Context()); err != nil && !errors.Is(err, storetest.ErrInjected) {
			t.Fatal(err)
		}
		indexed(t, m)
		samePages(t, m)
	})
}

// TestIndexIsNotNeeded: a store that takes nothing below _index is as good as any: backups are put, and pages come from all names.
func TestIndexIsNotNeeded(t *testing.T) {
	m := memstore.New(nil)
	s := storetest.NewFaulty(m, storetest.Fault{Op: storetest.OpCreate, Key: "_index/", Err: storage.ErrDenied})
	c := newCatalog(t, s, nil)
	for n := range 20 {
		rev := mustPut(t, c, backup(n, catalog.StateRunning), "")
		_ = rev
	}
	samePages(t, s)
	if _, err := c.Reindex(t.Context()); !errors.Is(err, storage.ErrDenied) {
		t.Errorf("Reindex: %v", err)
	}
	samePages(t, s)
	// With an index that others have made, this process knows what it couldn't tell, and tells it as soon as it can.
	indexed(t, m)
	late := backup(30, catalog.StateReady)
	mustPut(t, c, late, "")
	first := func(c *storecatalog.Catalog) catalog.ID {
		page, _, err := c.Page(t.Context(), catalog.Query{}, catalog.Cursor{}, 1)
		if err != nil || len(page) == 0 {
			return ""
		}
		return page[0].ID
	}
	if got := first(c); got != late.ID {
		t.Errorf("the first page begins with %q", got)
	}
}

// TestIndexRetained: where nothing can be deleted for a time, the index grows, and is right.
func TestIndexRetained(t *testing.T) {
	m := memstore.New(nil)
	s := storetest.NewFaulty(m, storetest.Fault{Op: storetest.OpDelete, Err: storage.ErrRetained})
	for n := range 10 {
		c := newCatalog(t, s, nil)
		b := backup(n, catalog.StateReady)
		rev := mustPut(t, c, b, "")
		mustPut(t, c, as(b, []catalog.State{catalog.StateDeleting, catalog.StateReady}[n%2]), rev)
		if _, err := c.Reindex(t.Context()); err != nil {
			t.Fatal(err)
		}
		samePages(t, s)
	}
	indexed(t, m)
	samePages(t, m)
	if left, err := m.Stat(t.Context(), "x"); err == nil {
		t.Error(left)
	}
}

// TestIndexDamaged: an index that is lost, damaged or newer than this Amber is not believed, and what can be made anew is.
func TestIndexDamaged(t *testing.T) {
	summary := func(t *testing.T, m *memstore.Store) string {
		key := ""
		for info := range m.List(t.Context(), "_index/months/"+november) {
			key = info.Key
		}
		if key == "" {
			t.Fatal("there is no summary")
		}
		return key
	}
	change := func(f func(data []byte) []byte) func(t *testing.T, m *memstore.Store) {
		return func(t *testing.T, m *memstore.Store) {
			key := summary(t, m)
			data, err := storage.ReadFile(t.Context(), m, key, 1<<20)
			if err == nil {
				err = storage.WriteFile(t.Context(), m, key, f(slices.Clone(data)), nil)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, spoil := range map[string]func(t *testing.T, m *memstore.Store){
		"empty":       change(func([]byte) []byte { return nil }),
		"cut":         change(func(data []byte) []byte { return data[:len(data)/2] }),
		"one bit":     change(func(data []byte) []byte { data[len(data)-3] ^= 4; return data }),
		"other words": change(func(data []byte) []byte { return []byte(strings.Replace(string(data), "amber", "ambre", 1)) }),
		"lost": func(t *testing.T, m *memstore.Store) {
			for info := range m.List(t.Context(), "_index/") {
				if err := m.Delete(t.Context(), info.Key); err != nil {
					t.Fatal(err)
				}
			}
		},
		"summary of another month": func(t *testing.T, m *memstore.Store) {
			data, err := storage.ReadFile(t.Context(), m, summary(t, m), 1<<20)
			if err == nil {
				err = storage.WriteFile(t.Context(), m, "_index/months/2026-12.000000000009", data, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
		},
		"newer": change(func(data []byte) []byte { return []byte(strings.Replace(string(data), "index 1 ", "index 2 ", 1)) }),
		"newer all": func(t *testing.T, m *memstore.Store) {
			if err := storage.WriteFile(t.Context(), m, "_index/months/complete-2", nil, nil); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := memstore.New(nil)
			c := newCatalog(t, m, nil)
			for n := range 20 {
				mustPut(t, c, backup(n, catalog.StateReady), "")
			}
			indexed(t, m)
			mustPut(t, c, backup(20, catalog.StateReady), "")
			spoil(t, m)
			samePages(t, m)
			newer := ""
			if strings.HasPrefix(name, "newer") {
				newer = summary(t, m)
			}
			indexed(t, m)
			mustPut(t, c, backup(21, catalog.StateFailed), "")
			samePages(t, m)
			if newer != "" && summary(t, m) != newer {
				t.Error("an index of a newer Amber was replaced")
			}
			if newer == "" { // it is in use again
				s := storetest.NewFaulty(m, storetest.Fault{Op: storetest.OpList, Key: "orders/", Call: 100})
				if _, _, err := newCatalog(t, s, nil).Page(t.Context(), catalog.Query{DataStore: "orders", Text: "nothing"}, catalog.Cursor{}, 1); err != nil {
					t.Fatal(err)
				}
				if opens := s.Calls(storetest.OpOpen); opens > 3 {
					t.Errorf("a page of nothing took %d reads", opens)
				}
			}
		})
	}
}

// TestIndexMends: what came into the store behind the catalog's back, or went, is on the pages after a Reindex, and in the list at once.
func TestIndexMends(t *testing.T) {
	m := memstore.New(nil)
	c := newCatalog(t, m, nil)
	var all []*catalog.Backup
	for n := range 10 {
		all = append(all, backup(n, catalog.StateReady))
		mustPut(t, c, all[n], "")
	}
	indexed(t, m)
	strange := backup(40, catalog.StateReady)
	for name, state := range map[string]catalog.State{"run.json": catalog.StateRunning, "manifest.json": catalog.StateReady} {
		data, err := catalog.Encode(as(strange, state))
		if err == nil {
			err = storage.WriteFile(t.Context(), m, strange.Prefix()+name, data, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	edited := as(all[3], catalog.StateReady)
	edited.Keys = 4 // of the same length
	data, err := catalog.Encode(edited)
	if err == nil {
		err = storage.WriteFile(t.Context(), m, edited.Prefix()+"manifest-000003.json", data, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"run.json", "manifest.json"} {
		if err := m.Delete(t.Context(), all[5].Prefix()+name); err != nil {
			t.Fatal(err)
		}
	}
	if mended, err := c.Reindex(t.Context()); err != nil || mended != 3 {
		t.Errorf("Reindex mended %d, %v", mended, err)
	}
	samePages(t, m)
}

// TestIndexTwoDataStores: an ID that two data stores have is on two pages, if one ends between them.
func TestIndexTwoDataStores(t *testing.T) {
	m := memstore.New(nil)
	b := backup(1, catalog.StateReady)
	for _, dataStore := range []string{"orders", "invoices", "carts"} {
		one := *b
		one.DataStore, one.Parts = dataStore, slices.Clone(b.Parts)
		one.Parts[0].Key = one.Prefix() + "part-0"
		mustPut(t, newCatalog(t, m, nil), &one, "")
	}
	for range 2 {
		var got []string
		var from catalog.Cursor
		for range 4 {
			page, _, err := newCatalog(t, m, nil).Page(t.Context(), catalog.Query{}, from, 1)
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range page {
				got, from = append(got, b.DataStore), catalog.Cursor{ID: b.ID, DataStore: b.DataStore}
			}
		}
		if !slices.Equal(got, []string{"carts", "invoices", "orders"}) {
			t.Errorf("the pages have %v", got)
		}
		indexed(t, m)
	}
}

// TestIndexStaysSmall: who reads pages makes a summary of what others have noted, a backup costs the store two calls more than without an index, and long
// texts are looked for in the manifests.
func TestIndexStaysSmall(t *testing.T) {
	m := memstore.New(nil)
	indexed(t, m)
	s := storetest.NewFaulty(m)
	c := newCatalog(t, s, nil)
	for n := range 450 {
		before := s.Calls(storetest.OpCommit) + s.Calls(storetest.OpStat) + s.Calls(storetest.OpList) + s.Calls(storetest.OpOpen)
		rev := mustPut(t, c, backup(n, catalog.StateRunning), "")
		b := as(backup(n, ""), catalog.StateReady)
		b.ID = latest(t, m)
		b.Parts[0].Key = b.Prefix() + "part-0"
		if n == 5 {
			b.Description = strings.Repeat("a long story ", 200) + "with a point"
		}
		mustPut(t, c, b, rev)
		calls := s.Calls(storetest.OpCommit) + s.Calls(storetest.OpStat) + s.Calls(storetest.OpList) + s.Calls(storetest.OpOpen) - before
		if without := 6; calls != without+2 {
			t.Fatalf("a backup takes %d calls of the store, want %d and 2 for the index", calls, without)
		}
	}
	if _, _, err := newCatalog(t, m, nil).Page(t.Context(), catalog.Query{}, catalog.Cursor{}, 10); err != nil {
		t.Fatal(err)
	}
	left := 0
	for info := range m.List(t.Context(), "_index/") {
		left++
		_ = info
	}
	if left > 3 {
		t.Errorf("the index of one month has %d objects", left)
	}
	samePages(t, m)
	for text, want := range map[string]int{"with a POINT": 1, "with no point": 0} {
		page, _, err := c.Page(t.Context(), catalog.Query{Text: text}, catalog.Cursor{}, 10)
		if err != nil || len(page) != want {
			t.Errorf("the page of %q has %d backups, %v", text, len(page), err)
		}
	}
}

// latest returns the ID of the newest backup in a store.
func latest(t *testing.T, s storage.Store) (id catalog.ID) {
	t.Helper()
	for info, err := range s.List(t.Context(), "orders/") {
		if err != nil {
			t.Fatal(err)
		}
		id = catalog.ID(strings.Split(info.Key, "/")[1])
	}
	return id
}

// TestIndexSleeperMends: a Reindex sleeps before it makes its summary, and others make that one and the next meanwhile, and clean it up. What it has found
// isn't lost in a number that counts for nothing any more.
func TestIndexSleeperMends(t *testing.T) {
	m := memstore.New(nil)
	calm := newCatalog(t, m, nil)
	mustPut(t, calm, backup(1, catalog.StateReady), "")
	indexed(t, m)
	strange := backup(40, catalog.StateReady)
	for name, state := range map[string]catalog.State{"run.json": catalog.StateRunning, "manifest.json": catalog.StateReady} {
		data, err := catalog.Encode(as(strange, state))
		if err == nil {
			err = storage.WriteFile(t.Context(), m, strange.Prefix()+name, data, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	hooked := &hookedStore{Store: m, before: func(key string) {
		if !strings.HasPrefix(key, "_index/months/") {
			t.Fatalf("the first that Reindex creates is %s", key)
		}
		mustPut(t, calm, backup(2, catalog.StateReady), "")
		if err := calm.Summarize(t.Context(), november); err != nil {
			t.Fatal(err)
		}
	}}
	indexed(t, hooked)
	samePages(t, m)
}
