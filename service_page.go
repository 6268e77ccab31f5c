package amber

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/amberkv/amber/catalog"
)

// The limits of PageRequest.Limit: what 0 means, and the most.
const (
	DefaultPageLimit = 100
	MaxPageLimit     = 1000
)

// A PageRequest says which page of a list is asked for.
type PageRequest struct {
	catalog.Query
	Limit  int    // how many backups at most: up to MaxPageLimit; 0: DefaultPageLimit
	Cursor string // where it begins: Page.Next of the page before, or Found.Cursor; empty: with the newest
}

// A Page is a part of a list.
type Page struct {
	Backups []Found // newest first
	Next    string  // the Cursor of the next page; empty: there is none
	// Errors are those of manifests that can't be read, of those that were met, which wrap catalog.ErrCorrupt, and of stores that can't be listed:
	// what the page may lack. A manifest may be told on two pages.
	Errors []error
}

// Cursor is where a page begins that goes on after this backup.
func (f Found) Cursor() string { return string(f.ID) + "/" + f.Store.Name + "/" + f.DataStore }

// Page gives a page of the backups of all stores that the query selects, newest first; the zero Query selects all that are ready. A backup that was copied to
// another store is on it once for each. A page of a store whose catalog is a catalog.Pager is read without reading the whole store; it may lack, until the
// next Sweep, what a killed process has written in its last moment. Of other catalogs all is listed, up to the end of the page.
//
// The error is about the request, or what no store can be listed for.
func (s *Service) Page(ctx context.Context, q PageRequest) (Page, error) {
	if q.Limit == 0 {
		q.Limit = DefaultPageLimit
	}
	if q.Limit < 0 || q.Limit > MaxPageLimit {
		return Page{}, fmt.Errorf("amber: PageRequest.Limit is %d, it has to be 1 to %d, or 0 for %d", q.Limit, MaxPageLimit, DefaultPageLimit)
	}
	if err := q.Query.Validate(); err != nil {
		return Page{}, fmt.Errorf("amber: PageRequest: %w", err)
	}
	from, err := s.cursors(q.Cursor)
	if err != nil {
		return Page{}, err
	}
	// One more than is wanted of each, to know whether there are more.
	type share struct {
		backups []*catalog.Backup
		errs    []error
		err     error
	}
	shares := make([]share, len(s.places))
	var asking sync.WaitGroup
	for i, at := range s.places {
		asking.Go(func() {
			one := &shares[i]
			one.backups, one.errs, one.err = pageOf(ctx, at.Catalog, q.Query, from[i], q.Limit+1)
		})
	}
	asking.Wait()
	if err := ctx.Err(); err != nil {
		return Page{}, fmt.Errorf("amber: page: %w", err)
	}
	type item struct {
		Found
		place int
	}
	var page Page
	var items []item
	failed := 0
	for i, at := range s.places {
		for _, err := range shares[i].errs {
			page.Errors = append(page.Errors, at.wrap(err))
		}
		if err := shares[i].err; err != nil {
			failed++
			page.Errors = append(page.Errors, at.wrap(err))
		}
		for _, b := range shares[i].backups {
			items = append(items, item{Found{Backup: b, Store: at.told()}, i})
		}
	}
	if failed == len(s.places) {
		return Page{}, errors.Join(page.Errors...)
	}
	slices.SortFunc(items, func(a, b item) int {
		return cmp.Or(cmp.Compare(b.ID, a.ID), cmp.Compare(a.place, b.place), cmp.Compare(a.DataStore, b.DataStore))
	})
	for _, i := range items[:min(len(items), q.Limit)] {
		page.Backups = append(page.Backups, i.Found)
	}
	if len(items) > q.Limit {
		page.Next = page.Backups[q.Limit-1].Cursor()
	}
	return page, nil
}

// cursors returns where a page begins in each store: backups of the same ID are in the order of the stores.
func (s *Service) cursors(cursor string) ([]catalog.Cursor, error) {
	from := make([]catalog.Cursor, len(s.places))
	if cursor == "" {
		return from, nil
	}
	bad := func(why string) ([]catalog.Cursor, error) {
		return nil, fmt.Errorf("amber: PageRequest.Cursor %.300q is none that a page has given: %s", cursor, why)
	}
	parts := strings.Split(cursor, "/")
	if len(parts) != 3 {
		return bad("it hasn't three parts, with a slash between them")
	}
	at := slices.IndexFunc(s.places, func(p *place) bool { return p.Name == parts[1] })
	id := catalog.ID(parts[0])
	_, valid := id.Time()
	switch {
	case !valid:
		return bad("it doesn't begin with the ID of a backup")
	case at < 0:
		return bad(fmt.Sprintf("there is no store %q", parts[1]))
	case catalog.ValidName(parts[2]) != nil:
		return bad("it doesn't end with the name of a data store")
	}
	for i := range from {
		switch {
		case i < at:
			from[i] = catalog.Cursor{ID: id, DataStore: "~"} // behind every name
		case i == at:
			from[i] = catalog.Cursor{ID: id, DataStore: parts[2]}
		default:
			from[i] = catalog.Cursor{ID: id}
		}
	}
	return from, nil
}

// pageOf gives a page of a catalog, of one that is no catalog.Pager from its list.
func pageOf(ctx context.Context, c catalog.Catalog, q catalog.Query, from catalog.Cursor, limit int) (page []*catalog.Backup, unreadable []error, err error) {
	if pager, ok := c.(catalog.Pager); ok {
		return pager.Page(ctx, q, from, limit)
	}
	for b, err := range c.List(ctx, q) {
		switch {
		case errors.Is(err, catalog.ErrCorrupt):
			unreadable = append(unreadable, err)
		case err != nil:
			return nil, unreadable, err
		case from.Before(b.ID, b.DataStore):
			page = append(page, b)
		}
		if len(page) == limit {
			break
		}
	}
	return page, unreadable, nil
}
