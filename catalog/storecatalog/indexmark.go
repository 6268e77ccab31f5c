package storecatalog

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"strings"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/storage"
)

// The places of the index.
const (
	markPrefix    = "_index/marks/"
	summaryPrefix = "_index/months/"
)

// A ref names a backup, or what may be one.
type ref struct {
	id        catalog.ID
	dataStore string
}

// compare orders refs as a catalog.Cursor does: the newest is the first.
func (r ref) compare(o ref) int {
	return cmp.Or(cmp.Compare(o.id, r.id), cmp.Compare(r.dataStore, o.dataStore))
}

// month is that of the ID's time, by which the index is divided, such as "2026-11".
func (r ref) month() string { return string(r.id[:4] + "-" + r.id[4:6]) }

// A mark says that a backup is about to be put, so that a page looks at its manifest, whatever a summary says.
type mark struct {
	ref
	nonce string // lower-case letters and digits, of nonceLen
}

const (
	idLen    = len("20060102T150405.000Z-k7f3")
	nonceLen = 10
)

func (n mark) key() string {
	return markPrefix + string(n.id) + "-" + n.nonce + "-" + n.dataStore
}

// parseMark takes the key of a mark apart; ok is false for every other key.
func parseMark(key string) (n mark, ok bool) {
	name, ok := strings.CutPrefix(key, markPrefix)
	if !ok || len(name) < idLen+nonceLen+3 {
		return mark{}, false
	}
	n = mark{ref{catalog.ID(name[:idLen]), name[idLen+nonceLen+2:]}, name[idLen+1 : idLen+1+nonceLen]}
	_, valid := n.id.Time()
	return n, valid && catalog.ValidName(n.dataStore) == nil && n.key() == key
}

// announce marks that a backup is about to be put. What comes of it is for confirm to look at: a backup that can't be marked is put all the same.
func (c *Catalog) announce(ctx context.Context, r ref) mark {
	c.remind(ctx)
	n := mark{r, strings.ToLower(rand.Text()[:nonceLen])}
	if storage.WriteFile(ctx, c.store, n.key(), nil, nil) != nil {
		n.nonce = ""
	}
	return n
}

// confirm looks, after the backup was put, whether its mark is there. Whoever makes a summary deletes the marks that go into it before it reads
// the manifests. So either the mark is found here, and then the manifest that was put is in every summary that comes to be without it, or it is
// written once more.
func (c *Catalog) confirm(ctx context.Context, n mark) {
	if n.nonce != "" {
		_, err := c.store.Stat(ctx, n.key())
		if err == nil {
			return
		}
	}
	n.nonce = strings.ToLower(rand.Text()[:nonceLen])
	if storage.WriteFile(ctx, c.store, n.key(), nil, nil) != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.unmarked) < maxUnmarked {
			c.unmarked[n.ref] = true
		}
	}
}

// maxUnmarked bounds the memory for backups that couldn't be marked. What is beyond it, or what a process that ended remembered, is for Reindex.
const maxUnmarked = 1000

// remind marks what couldn't be marked when it was put.
func (c *Catalog) remind(ctx context.Context) {
	for _, r := range c.late() {
		n := mark{r, strings.ToLower(rand.Text()[:nonceLen])}
		if storage.WriteFile(ctx, c.store, n.key(), nil, nil) != nil {
			return
		}
		c.mu.Lock()
		delete(c.unmarked, r)
		c.mu.Unlock()
	}
}

// late returns what couldn't be marked, in no order.
func (c *Catalog) late() []ref {
	c.mu.Lock()
	defer c.mu.Unlock()
	var refs []ref
	for r := range c.unmarked {
		refs = append(refs, r)
	}
	return refs
}

// A view is what the index's objects are called.
type view struct {
	marks     []mark           // in the order of their refs
	summaries map[string][]int // the numbers of each month's, in ascending order; the highest counts
	complete  bool             // what no mark and no summary names is not there
}

// errForeign is why the index is left alone.
var errForeign = errors.New("the index was made by a newer Amber")

// completeKey is there when the index tells of all backups. Its number is that of the form that the index has.
const completeKey = summaryPrefix + "complete-1"

// look lists the index. The marks come first: one that is gone by then is in a summary that is listed after it.
func (c *Catalog) look(ctx context.Context) (*view, error) {
	v := &view{summaries: make(map[string][]int)}
	for info, err := range c.store.List(ctx, markPrefix) {
		if err != nil {
			return nil, err
		}
		if n, ok := parseMark(info.Key); ok {
			v.marks = append(v.marks, n)
		}
	}
	for info, err := range c.store.List(ctx, summaryPrefix) {
		if err != nil {
			return nil, err
		}
		switch month, number, ok := parseSummary(info.Key); {
		case ok:
			v.summaries[month] = append(v.summaries[month], number)
		case info.Key == completeKey:
			v.complete = true
		case strings.HasPrefix(info.Key, summaryPrefix+"complete-"):
			return nil, errForeign
		}
	}
	sortMarks(v.marks)
	return v, nil
}

// highest returns the number of a month's summary; 0 if it has none.
func (v *view) highest(month string) int {
	if numbers := v.summaries[month]; len(numbers) > 0 {
		return numbers[len(numbers)-1]
	}
	return 0
}

// of returns a month's marks.
func (v *view) of(month string) []mark {
	var marks []mark
	for _, n := range v.marks {
		if n.month() == month {
			marks = append(marks, n)
		}
	}
	return marks
}
