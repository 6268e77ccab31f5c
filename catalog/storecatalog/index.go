package storecatalog

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/storage"
)

const (
	// maxReads is how many manifests are read at the same time.
	maxReads = 16
	// minBatch is how many are read at least before it is looked whether the page is full.
	minBatch = 8
	// maxMarks is how many marks a month may have before who reads a page makes a summary of them.
	maxMarks = 200
	// maxWalked is of how many backups who reads a page makes an index that isn't there. Of more it is for Reindex.
	maxWalked = 2000
	// mendTime bounds how long a page may be held up by what is done for later ones.
	mendTime = 5 * time.Second
)

// Page gives a page of the backups that q selects, as catalog.Pager says. With the index it reads the summaries of the months that the page is
// from and the manifests that it shows, and without one it lists the whole store, as List does, and reads those manifests. It makes
// an index that is missing, of up to 2,000 backups, and summaries of marks that have come to be many; if that can't be done, as in a
// store that may only be read, it goes without.
func (c *Catalog) Page(ctx context.Context, q catalog.Query, from catalog.Cursor, limit int) ([]*catalog.Backup, []error, error) {
	page, unreadable, err := c.page(ctx, q, from, limit)
	if err != nil {
		return nil, nil, fmt.Errorf("storecatalog: page: %w", err)
	}
	return page, unreadable, nil
}

func (c *Catalog) page(ctx context.Context, q catalog.Query, from catalog.Cursor, limit int) ([]*catalog.Backup, []error, error) {
	if limit < 1 {
		return nil, nil, fmt.Errorf("a page of %d backups: it has at least 1", limit)
	}
	if err := q.Validate(); err != nil {
		return nil, nil, err
	}
	if _, ok := from.ID.Time(); !ok && from.ID != "" {
		return nil, nil, fmt.Errorf("the cursor's ID %.40q is not one that NewID makes", from.ID)
	}
	c.remind(ctx)
	for range 10 {
		p := &pager{c: c, ctx: ctx, q: q, from: from, limit: limit, narrow: narrow(q)}
		v, err := c.look(ctx)
		if err != nil || !v.complete {
			return c.pageWithout(p, errors.Is(err, errForeign))
		}
		err = p.byIndex(v)
		switch {
		case errors.Is(err, storage.ErrNotFound):
			continue // there is a newer summary by now
		case err != nil && (errors.Is(err, errDamaged) || errors.Is(err, errForeign)):
			return c.pageWithout(p, errors.Is(err, errForeign))
		case err != nil:
			return nil, nil, err
		}
		c.summarize(ctx, v)
		return p.page, p.unreadable, nil
	}
	return c.pageWithout(&pager{c: c, ctx: ctx, q: q, from: from, limit: limit}, true)
}

// pageWithout gives a page from the names of all objects.
func (c *Catalog) pageWithout(p *pager, foreign bool) ([]*catalog.Backup, []error, error) {
	p.page, p.unreadable = nil, nil
	records, err := c.records(p.ctx, p.q.DataStore)
	if err != nil {
		return nil, nil, err
	}
	for i := range records {
		if p.passes(ref{records[i].id, records[i].dataStore}) {
			p.batch = append(p.batch, candidate{record: &records[i]})
		}
		if err := p.fill(false); err != nil {
			return nil, nil, err
		}
		if p.full() {
			break
		}
	}
	if err := p.fill(true); err != nil {
		return nil, nil, err
	}
	if p.q.DataStore == "" && len(records) <= maxWalked && !foreign {
		c.makeIndex(p.ctx)
	}
	return p.page, p.unreadable, nil
}

// makeIndex makes an index, unless that was tried before and has failed, or is being tried.
func (c *Catalog) makeIndex(ctx context.Context) {
	c.mu.Lock()
	tried := c.indexTried
	c.indexTried = true
	c.mu.Unlock()
	if tried {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, mendTime)
	defer cancel()
	if _, err := c.Reindex(ctx); err != nil {
		return
	}
	c.mu.Lock()
	c.indexTried = false
	c.mu.Unlock()
}

// A pager collects a page.
type pager struct {
	c      *Catalog
	ctx    context.Context
	q      catalog.Query
	from   catalog.Cursor
	limit  int
	narrow *narrowed

	batch      []candidate // what is to be read next
	page       []*catalog.Backup
	unreadable []error
}

// A candidate is a backup that may belong on the page.
type candidate struct {
	ref
	record *record // if it was listed
}

func (p *pager) full() bool { return len(p.page) == p.limit }

// passes tells whether a backup may belong on the page by its names alone.
func (p *pager) passes(r ref) bool {
	return p.from.Before(r.id, r.dataStore) && (p.q.DataStore == "" || p.q.DataStore == r.dataStore) && begun(p.q, r.id)
}

// timeSlack is how far apart the time of an ID and the CreatedAt of its manifest may be. What Amber makes has the same in both, to the millisecond.
const timeSlack = time.Hour

// begun tells whether a backup of this ID may have begun in the query's time.
func begun(q catalog.Query, id catalog.ID) bool {
	if q.From.IsZero() && q.Until.IsZero() {
		return true
	}
	t, _ := id.Time()
	return (q.From.IsZero() || !t.Before(q.From.Add(-timeSlack))) && (q.Until.IsZero() || t.Before(q.Until.Add(timeSlack)))
}

// byIndex collects the page by the index. The error wraps storage.ErrNotFound if a summary was replaced meanwhile.
func (p *pager) byIndex(v *view) error {
	marks := make(map[string][]ref)
	for _, n := range v.marks {
		marks[n.month()] = append(marks[n.month()], n.ref)
	}
	for _, r := range p.c.late() {
		marks[r.month()] = append(marks[r.month()], r)
	}
	months := make(map[string]bool)
	for month := range marks {
		months[month] = true
	}
	for month := range v.summaries {
		months[month] = true
	}
	for _, month := range slices.Backward(slices.Sorted(maps.Keys(months))) {
		if !p.reaches(month) {
			continue
		}
		if err := p.byMonth(month, v.highest(month), marks[month]); err != nil || p.full() {
			return err
		}
	}
	return p.fill(true)
}

// reaches tells whether anything of a month may belong on the page.
func (p *pager) reaches(month string) bool {
	compact := month[:4] + month[5:]
	if p.from.ID != "" && compact > string(p.from.ID[:6]) {
		return false
	}
	first, err := time.Parse("2006-01", month)
	if err != nil {
		return false
	}
	return (p.q.Until.IsZero() || first.Before(p.q.Until.Add(timeSlack))) && (p.q.From.IsZero() || !first.AddDate(0, 1, 0).Before(p.q.From.Add(-timeSlack)))
}

// byMonth collects what the page has of a month: what its summary says, and what has to be looked at whatever that says.
func (p *pager) byMonth(month string, number int, marked []ref) error {
	s, err := p.c.load(p.ctx, month, number)
	if err != nil {
		return err
	}
	for _, n := range s.taken {
		marked = append(marked, n.ref)
	}
	slices.SortFunc(marked, ref.compare)
	marked = slices.Compact(marked)
	add := func(r ref) error {
		if p.passes(r) {
			p.batch = append(p.batch, candidate{ref: r})
		}
		return p.fill(false)
	}
	for e, err := range s.all(month) {
		if err != nil {
			return err
		}
		for len(marked) > 0 && marked[0].compare(e.ref) < 0 {
			if err := add(marked[0]); err != nil {
				return err
			}
			marked = marked[1:]
		}
		isMarked := len(marked) > 0 && marked[0] == e.ref
		if isMarked {
			marked = marked[1:]
		}
		if isMarked || p.narrow.may(e) {
			if err := add(ref{catalog.ID(strings.Clone(string(e.id))), strings.Clone(e.dataStore)}); err != nil {
				return err
			}
		}
		if p.full() {
			return nil
		}
	}
	for _, r := range marked {
		if err := add(r); err != nil || p.full() {
			return err
		}
	}
	return nil
}

// fill reads the batch if there is enough in it, or if it is the last, and takes from it what belongs on the page.
func (p *pager) fill(last bool) error {
	if !last && len(p.batch) < max(p.limit-len(p.page), minBatch) {
		return nil
	}
	versions, errs, err := p.c.readAll(p.ctx, p.batch)
	if err != nil {
		return err
	}
	p.batch = p.batch[:0]
	for i, v := range versions {
		switch {
		case p.full():
			return nil
		case errors.Is(errs[i], catalog.ErrNotFound):
		case errs[i] != nil:
			p.unreadable = append(p.unreadable, fmt.Errorf("storecatalog: page: %w", errs[i]))
		case p.q.Match(v.backup):
			p.c.remember(v.backup.ID, v.backup.DataStore)
			p.page = append(p.page, v.backup)
		}
	}
	return nil
}

// readAll reads manifests, several at a time. The error of each is nil or wraps catalog.ErrNotFound or catalog.ErrCorrupt; every other one is that
// of the call.
func (c *Catalog) readAll(ctx context.Context, batch []candidate) ([]version, []error, error) {
	versions, errs := make([]version, len(batch)), make([]error, len(batch))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxReads)
	for i, one := range batch {
		group.Go(func() error {
			versions[i], errs[i] = c.readOne(ctx, one)
			if err := errs[i]; err != nil && !errors.Is(err, catalog.ErrNotFound) && !errors.Is(err, catalog.ErrCorrupt) {
				return err
			}
			return nil
		})
	}
	return versions, errs, group.Wait()
}

// readOne reads the manifest of a candidate as it is. With catalog.ErrCorrupt it returns what the names of its objects tell.
func (c *Catalog) readOne(ctx context.Context, one candidate) (version, error) {
	if one.record == nil {
		return c.current(ctx, one.dataStore, one.id)
	}
	v, err := c.read(ctx, *one.record)
	if errors.Is(err, storage.ErrNotFound) || errors.Is(err, errOrphan) {
		return c.current(ctx, one.record.dataStore, one.record.id)
	}
	return v, err
}
