package storecatalog

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/storage"
)

// maxTaken is how many marks one summary takes at most.
const maxTaken = 1000

// maxRounds is how often making a summary is begun anew because others were quicker.
const maxRounds = 20

// summarize makes summaries of the month that has too many marks. That it can't is of no interest to who reads a page.
func (c *Catalog) summarize(ctx context.Context, v *view) {
	for i := 0; i < len(v.marks); {
		month := v.marks[i].month()
		end := i
		for end < len(v.marks) && v.marks[end].month() == month {
			end++
		}
		if end-i > maxMarks {
			ctx, cancel := context.WithTimeout(ctx, mendTime)
			defer cancel()
			_, _ = c.mendMonth(ctx, month, nil, false)
			return
		}
		i = end
	}
}

// Reindex compares the index with the names of all objects, as catalog.Indexer says, and reads the manifests that differ. It leaves an index
// alone that a newer Amber has made.
func (c *Catalog) Reindex(ctx context.Context) (mended int, err error) {
	mended, err = c.reindex(ctx)
	if err != nil {
		return mended, fmt.Errorf("storecatalog: reindex: %w", err)
	}
	return mended, nil
}

func (c *Catalog) reindex(ctx context.Context) (mended int, err error) {
	c.remind(ctx)
	v, err := c.look(ctx)
	if errors.Is(err, errForeign) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	records, err := c.records(ctx, "")
	if err != nil {
		return 0, err
	}
	walked := make(map[string][]record) // by month, each in the order of refs
	for _, r := range records {
		month := ref{r.id, r.dataStore}.month()
		walked[month] = append(walked[month], r)
	}
	months := slices.Collect(maps.Keys(walked))
	months = slices.AppendSeq(months, maps.Keys(v.summaries))
	for _, n := range v.marks {
		months = append(months, n.month())
	}
	slices.Sort(months)
	for _, month := range slices.Compact(months) {
		n, err := c.mendMonth(ctx, month, walked[month], true)
		if errors.Is(err, errForeign) {
			return mended, nil
		}
		if err != nil {
			return mended, err
		}
		mended += n
	}
	if v.complete {
		return mended, nil
	}
	err = createOnce(ctx, c.store, completeKey, []byte("The summaries and the marks tell of all backups.\n"))
	if errors.Is(err, storage.ErrExists) { // another one has walked as well
		err = nil
	}
	return mended, err
}

// mendMonth makes summaries of a month until no mark is left that was there when it began, and returns how many backups the index was wrong about.
// With a walk it also looks at all whose objects are not what the summary says.
func (c *Catalog) mendMonth(ctx context.Context, month string, walked []record, walk bool) (mended int, err error) {
	left := 3 // as long as new marks come
	for range maxRounds {
		m := &mending{c: c, month: month, walked: walked, walk: walk}
		err := m.run(ctx)
		switch {
		case errors.Is(err, storage.ErrExists), errors.Is(err, storage.ErrNotFound):
			continue // somebody was quicker
		case err != nil:
			return mended, err
		}
		mended += m.mended
		walk = false // it is in the summary by now
		if left--; m.taken == 0 || left == 0 {
			return mended, nil
		}
	}
	return mended, fmt.Errorf("month %s: others were quicker %d times", month, maxRounds)
}

// A mending makes one summary after another one.
type mending struct {
	c      *Catalog
	month  string
	walked []record
	walk   bool

	damaged bool // what the last one says isn't known

	base   []entry
	reads  []candidate
	marked map[ref]bool // their changes are known of: they are no news
	taken  int          // marks that went into it
	mended int
}

// run makes a summary. It deletes the marks that the last one has taken, and only then reads the manifests they are about. So whoever finds its mark after
// it has put a manifest knows that this manifest is read; see confirm. The marks that are there by now are taken, to be looked at by the
// next one. The error wraps storage.ErrExists or storage.ErrNotFound if somebody else has made one meanwhile.
func (m *mending) run(ctx context.Context) error {
	v, err := m.c.look(ctx)
	if err != nil {
		return err
	}
	number := v.highest(m.month)
	last, err := m.c.load(ctx, m.month, number)
	if err == nil {
		for e, eerr := range last.all(m.month) {
			if err = eerr; err != nil {
				break
			}
			m.base = append(m.base, *e)
		}
	}
	m.damaged = errors.Is(err, errDamaged)
	if m.damaged && m.walk {
		// What it had taken isn't known. Marks that are gone were so before the manifests are read, and all others are taken anew.
		last, m.base, err = &summary{}, nil, nil
	}
	if err != nil {
		return err
	}
	kept, err := m.c.removeMarks(ctx, last.taken)
	if err != nil {
		return err
	}
	taken := v.of(m.month)
	m.marked = make(map[ref]bool)
	for _, n := range taken {
		m.marked[n.ref] = true
	}
	taken = slices.DeleteFunc(taken, func(n mark) bool { return slices.Contains(last.taken, n) })
	taken = taken[:min(len(taken), maxTaken)]
	m.taken = len(taken)
	m.plan(last.taken)
	versions, errs, err := m.c.readAll(ctx, m.reads)
	if err != nil {
		return err
	}
	entries, changed := m.merge(versions, errs)
	if !changed && len(last.taken) == len(kept) && len(taken) == 0 && !m.damaged {
		return nil
	}
	data, err := encode(append(kept, taken...), entries)
	if err != nil {
		return err
	}
	if err := createOnce(ctx, m.c.store, summaryKey(m.month, number+1), data); err != nil {
		return err
	}
	// The number may be one that was used and cleaned up since we looked. Then there is a higher one, which knows nothing of ours.
	now, err := m.c.look(ctx)
	if err != nil {
		return err
	}
	if now.highest(m.month) != number+1 {
		return fmt.Errorf("%w: summary %d of month %s", storage.ErrExists, now.highest(m.month), m.month)
	}
	for _, old := range v.summaries[m.month] {
		_ = m.c.remove(ctx, summaryKey(m.month, old)) // it counts for nothing any more
	}
	return nil
}

// plan finds out which manifests have to be read: of what was marked or may have changed without a mark, and of what the walk has found otherwise than the
// last summary says.
func (m *mending) plan(taken []mark) {
	fresh := make(map[ref]bool)
	add := func(r ref, rec *record) {
		if !fresh[r] {
			fresh[r] = true
			m.reads = append(m.reads, candidate{r, rec})
		}
	}
	for _, n := range taken {
		m.marked[n.ref] = true
		add(n.ref, nil)
	}
	for _, e := range m.base {
		if e.open() {
			m.marked[e.ref] = true
			add(e.ref, nil)
		}
	}
	if !m.walk {
		return
	}
	base, walked := m.base, m.walked
	for len(base) > 0 || len(walked) > 0 {
		order := 0
		switch {
		case len(walked) == 0:
			order = -1
		case len(base) == 0:
			order = 1
		default:
			order = base[0].compare(ref{walked[0].id, walked[0].dataStore})
		}
		switch {
		case order < 0: // the walk hasn't found it
			add(base[0].ref, nil)
			base = base[1:]
		case order > 0: // of what the summary doesn't know nothing has changed since the walk but with a mark
			r, found := ref{walked[0].id, walked[0].dataStore}, &walked[0]
			if m.damaged { // it may have known, though
				found = nil
			}
			add(r, found)
			walked = walked[1:]
		default:
			if base[0].revision != walked[0].highest || base[0].size != walked[0].size || !walked[0].run {
				add(base[0].ref, nil)
			}
			base, walked = base[1:], walked[1:]
		}
	}
}

// merge puts what was read into the place of what the last summary says, and tells whether that makes a difference.
func (m *mending) merge(versions []version, errs []error) (entries []entry, changed bool) {
	read := make(map[ref]*entry, len(versions))
	var news []entry
	for i, v := range versions {
		r := m.reads[i].ref
		read[r] = nil
		if errors.Is(errs[i], catalog.ErrNotFound) {
			continue
		}
		v.id, v.dataStore = r.id, r.dataStore
		e := entryOf(v, errs[i])
		read[r] = &e
		news = append(news, e)
	}
	slices.SortFunc(news, func(a, b entry) int { return a.compare(b.ref) })
	mark := func(r ref) {
		changed = true
		if !m.marked[r] {
			m.mended++
		}
	}
	for _, e := range m.base {
		now, was := read[e.ref]
		if !was {
			for len(news) > 0 && news[0].compare(e.ref) < 0 {
				mark(news[0].ref)
				entries, news = append(entries, news[0]), news[1:]
			}
			entries = append(entries, e)
			continue
		}
		if now == nil {
			mark(e.ref)
			continue
		}
		for len(news) > 0 && news[0].compare(e.ref) <= 0 {
			if news[0].ref != e.ref || !now.equal(e) {
				mark(news[0].ref)
			}
			entries, news = append(entries, news[0]), news[1:]
		}
	}
	for _, e := range news {
		mark(e.ref)
		entries = append(entries, e)
	}
	return entries, changed
}

// removeMarks deletes marks, several at a time; they may be gone. It returns those that the store doesn't let go of, if only for a time: what they name is
// looked at as long as they are there.
func (c *Catalog) removeMarks(ctx context.Context, marks []mark) (kept []mark, err error) {
	errs := make([]error, len(marks))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxReads)
	for i, n := range marks {
		group.Go(func() error {
			errs[i] = c.remove(ctx, n.key())
			if errors.Is(errs[i], storage.ErrRetained) || errors.Is(errs[i], storage.ErrDenied) {
				return nil
			}
			return errs[i]
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	for i, n := range marks {
		if errs[i] != nil {
			kept = append(kept, n)
		}
	}
	return kept, nil
}
