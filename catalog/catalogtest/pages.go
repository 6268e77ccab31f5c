package catalogtest

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/amberkv/amber/catalog"
)

// pages returns all that a query selects, in pages of so many.
func (c *check) pages(cat catalog.Catalog, q catalog.Query, size int) (list []*catalog.Backup, unreadable []error) {
	c.Helper()
	pager := cat.(catalog.Pager)
	var from catalog.Cursor
	for range 1000 {
		page, errs, err := pager.Page(c.ctx, q, from, size)
		c.is("Page", err, nil)
		for _, err := range errs {
			c.is("what Page says of a manifest", err, catalog.ErrCorrupt)
		}
		if len(page) > size {
			c.broken("Page gives %d backups, and %d were asked for", len(page), size)
		}
		list, unreadable = append(list, page...), append(unreadable, errs...)
		if len(page) < size {
			return list, unreadable
		}
		last := page[len(page)-1]
		from = catalog.Cursor{ID: last.ID, DataStore: last.DataStore}
	}
	c.broken("a thousand pages of %d come to no end", size)
	return nil, nil
}

// paged checks that the pages of a query are what List gives.
func (c *check) paged(q catalog.Query, size int) {
	c.Helper()
	want := c.list(q)
	for i, cat := range []catalog.Catalog{c.cat, c.other} {
		got, _ := c.pages(cat, q, size)
		if len(got) != len(want) {
			c.broken("client %d: the pages of %+v, of %d each, have %s; List gives %s", i, q, size, names(got), names(want))
		}
		for j := range got {
			if !reflect.DeepEqual(got[j], want[j]) {
				c.broken("client %d: in the pages of %+v, of %d each, number %d is\n%+v; List gives\n%+v", i, q, size, j, got[j], want[j])
			}
		}
	}
}

func names(list []*catalog.Backup) string {
	var ids []catalog.ID
	for _, b := range list {
		ids = append(ids, b.ID)
	}
	return fmt.Sprint(len(list), " ", ids)
}

func pageOrder(c *check) {
	c.paged(catalog.Query{}, 10)
	c.various()
	for _, size := range []int{1, 3, 8, 23, 24, 25, 1000} {
		c.paged(catalog.Query{States: allStates}, size)
	}
	c.paged(catalog.Query{}, 5)
	// A cursor needs no backup that is there.
	list := c.list(catalog.Query{States: allStates})
	for at, want := range map[catalog.Cursor]int{
		{ID: list[3].ID}: 3, {ID: list[3].ID, DataStore: "aaa"}: 3, {ID: list[3].ID, DataStore: list[3].DataStore}: 4, {ID: list[3].ID, DataStore: "zzz"}: 4,
		{ID: "29991231T235959.999Z-zzzz"}: 0, {ID: "19700101T000000.000Z-aaaa"}: len(list),
	} {
		page, _, err := c.other.(catalog.Pager).Page(c.ctx, catalog.Query{States: allStates}, at, 1000)
		c.is("Page", err, nil)
		if len(page) != len(list)-want {
			c.broken("Page from %+v on gives %d backups, want %d", at, len(page), len(list)-want)
		}
	}
}

func pageQuery(c *check) {
	list := c.various()
	from, until := list[15].CreatedAt, list[5].CreatedAt
	for _, q := range []catalog.Query{
		{DataStore: "orders"}, {DataStore: "orders-2", States: allStates}, {DataStore: "nothing"}, {States: []catalog.State{catalog.StateFailed}},
		{Kinds: []catalog.Kind{catalog.KindAutomatic, "of-the-host"}}, {Policy: "nightly"}, {Name: "Before-v2"}, {Labels: map[string]string{"team": ""}},
		{Labels: map[string]string{"team": "", "env": "us"}}, {From: from}, {Until: until, States: allStates}, {From: from, Until: until}, {From: list[0].CreatedAt.Add(1)},
		{Text: "ÜBERGABE"}, {Text: "payments", States: allStates}, {Text: "payments", DataStore: "orders", Kinds: []catalog.Kind{catalog.KindManual}}, {Text: "nothing"},
	} {
		c.paged(q, 3)
	}
}

// pageFresh changes backups in all ways, and looks after each change whether both clients' pages show it.
func pageFresh(c *check) {
	random := rand.New(rand.NewPCG(6, 11))
	revs := map[catalog.ID]catalog.Revision{}
	var all []*catalog.Backup
	for n := range 80 {
		cat := c.client(random.IntN(2))
		one := random.IntN(max(1, len(all)))
		switch do := random.IntN(10); {
		case len(all) == 0 || do < 4:
			b := backup([]string{"orders", "carts"}[n%2], n*40000, allStates[random.IntN(2)])
			rev, err := cat.Put(c.ctx, b, "")
			c.is("Put", err, nil)
			all, revs[b.ID] = append(all, b), rev
		case do < 9:
			b := *all[one]
			switch b.State {
			case catalog.StateRunning:
				b.State = allStates[1+random.IntN(3)]
				b.Kind = []catalog.Kind{catalog.KindManual, catalog.KindImport}[random.IntN(2)]
			case catalog.StateReady:
				if b.Labels = map[string]string{"number": fmt.Sprint(n % 5)}; random.IntN(3) == 0 {
					b.State = catalog.StateDeleting
				}
			case catalog.StateDeleting:
				b.Name = fmt.Sprint("gone-", n)
			default:
				b.State, b.Description = catalog.StateDeleting, fmt.Sprint("number ", n)
			}
			rev, err := cat.Put(c.ctx, &b, revs[b.ID])
			c.is("Put", err, nil)
			all[one], revs[b.ID] = &b, rev
		default:
			c.is("Delete", cat.Delete(c.ctx, all[one].ID, revs[all[one].ID]), nil)
			all = slices.Delete(all, one, one+1)
		}
		if every := 80 / c.rounds(20); n%every == every-1 {
			c.paged(catalog.Query{States: allStates}, 1+random.IntN(50))
			c.paged(catalog.Query{States: allStates[:1]}, 100)
			c.paged(catalog.Query{States: allStates[2:], Kinds: []catalog.Kind{catalog.KindManual}}, 100)
			c.paged(catalog.Query{Labels: map[string]string{"number": fmt.Sprint(n % 5)}, States: allStates}, 100)
		}
	}
}

func pageCorrupt(c *check) {
	var list []*catalog.Backup
	for n := range 9 {
		b := backup("orders", n, catalog.StateReady)
		list = append(list, b)
		c.put(b, "")
	}
	c.paged(catalog.Query{}, 3) // so that the catalog knows them
	for _, n := range []int{0, 3, 8} {
		c.opts.Corrupt(c.T, c.cat, list[n].ID)
	}
	for _, size := range []int{1, 2, 6, 100} {
		for _, cat := range []catalog.Catalog{c.cat, c.other} {
			got, unreadable := c.pages(cat, catalog.Query{}, size)
			if len(got) != 6 || len(unreadable) < 3 {
				c.broken("the pages, of %d each, of 9 backups of which 3 are corrupt have %s, and say of manifests %v", size, names(got), unreadable)
			}
		}
	}
}

func pageInvalid(c *check) {
	c.put(backup("orders", 1, catalog.StateReady), "")
	pager := c.other.(catalog.Pager)
	for what, q := range oddQueries() {
		if page, _, err := pager.Page(c.ctx, q, catalog.Cursor{}, 10); err == nil {
			c.broken("Page with %s gives %s", what, names(page))
		}
	}
	for _, limit := range []int{0, -1} {
		if page, _, err := pager.Page(c.ctx, catalog.Query{}, catalog.Cursor{}, limit); err == nil {
			c.broken("a page of %d is %s", limit, names(page))
		}
	}
	if page, _, err := pager.Page(c.ctx, catalog.Query{}, catalog.Cursor{ID: "../x"}, 10); err == nil {
		c.broken("a page from an ID that is none on is %s", names(page))
	}
}

// pageRace has writers and readers at work at once: what Put has returned nil for is on every page that is asked for later.
func pageRace(c *check) {
	const writers, each = 4, 12
	type said struct {
		id    catalog.ID
		state catalog.State
	}
	var mu sync.Mutex
	done := map[catalog.ID]catalog.State{} // put, and not to be changed any more
	var writing, reading sync.WaitGroup
	var over atomic.Bool
	for w := range writers {
		writing.Go(func() {
			cat := c.client(w)
			for n := range each {
				b := backup(fmt.Sprint("store-", w), w*100+n*7000, catalog.StateRunning)
				rev, err := cat.Put(c.ctx, b, "")
				for _, state := range []catalog.State{catalog.StateReady, catalog.StateDeleting}[:1+n%2] {
					if err == nil {
						rev, err = cat.Put(c.ctx, as(b, state), rev)
					}
				}
				last := said{b.ID, []catalog.State{catalog.StateReady, catalog.StateDeleting}[n%2]}
				if err == nil && n%4 == 3 {
					last.state = ""
					err = cat.Delete(c.ctx, b.ID, rev)
				}
				if err != nil {
					c.report("a writer's Put or Delete: %v", err)
					return
				}
				mu.Lock()
				done[last.id] = last.state
				mu.Unlock()
			}
		})
	}
	for r := range 2 {
		reading.Go(func() {
			for last := false; !last; {
				last = over.Load()
				mu.Lock()
				want := make(map[catalog.ID]catalog.State, len(done))
				for id, state := range done {
					want[id] = state
				}
				mu.Unlock()
				got := map[catalog.ID]catalog.State{}
				page, _, err := c.client(r).(catalog.Pager).Page(c.ctx, catalog.Query{States: allStates}, catalog.Cursor{}, 1000)
				if err != nil {
					c.report("Page while others write: %v", err)
					return
				}
				for _, b := range page {
					got[b.ID] = b.State
				}
				for id, state := range want {
					if got[id] != state {
						c.report("backup %s was put as %q, and on a page that was asked for later it is %q", id, state, got[id])
						return
					}
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
	writing.Wait()
	over.Store(true)
	reading.Wait()
	if !c.Failed() {
		c.paged(catalog.Query{States: allStates}, 10)
	}
}
