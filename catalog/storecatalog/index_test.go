package storecatalog_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

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

// A stage is a store whose calls are made one at a time, in an order that chance gives, so that any number of actors meet in all ways.
type stage struct {
	storage.Store
	random *rand.Rand

	mu      sync.Mutex
	waiting []chan struct{}
	actors  int
}

// run has actors at work until all have ended. An actor that is killed makes no more calls: each is an error without effect.
func (s *stage) run(actors ...func(s storage.Store)) {
	s.actors = len(actors)
	var all sync.WaitGroup
	for _, act := range actors {
		left := -1
		if s.random.IntN(3) == 0 {
			left = s.random.IntN(40)
		}
		all.Go(func() {
			act(&actor{stage: s, left: left})
			s.mu.Lock()
			s.actors--
			s.mu.Unlock()
		})
	}
	for {
		time.Sleep(20 * time.Microsecond) // others come to their next call
		s.mu.Lock()
		switch {
		case s.actors == 0:
			s.mu.Unlock()
			all.Wait()
			return
		case len(s.waiting) > 0:
			i := s.random.IntN(len(s.waiting))
			turn := s.waiting[i]
			s.waiting = slices.Delete(s.waiting, i, i+1)
			s.mu.Unlock()
			turn <- struct{}{}
			<-turn // it is done
		default:
			s.mu.Unlock()
		}
	}
}

var errKilled = errors.New("the process was killed")

// An actor is the store as one actor has it.
type actor struct {
	*stage
	mu   sync.Mutex
	left int // calls until it is killed; negative: it isn't
}

// turn makes a call when it is its turn.
func (a *actor) turn(call func() error) error {
	turn := make(chan struct{})
	a.stage.mu.Lock()
	a.waiting = append(a.waiting, turn)
	a.stage.mu.Unlock()
	<-turn
	defer func() { turn <- struct{}{} }()
	a.mu.Lock()
	killed := a.left == 0
	if a.left > 0 {
		a.left--
	}
	a.mu.Unlock()
	if killed {
		return errKilled
	}
	return call()
}

func (a *actor) Create(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
	w, err := a.Store.Create(ctx, key, opts)
	return &actorWriter{w, a}, err
}

type actorWriter struct {
	storage.Writer
	a *actor
}

func (w *actorWriter) Commit(ctx context.Context) (info storage.Info, err error) {
	err = w.a.turn(func() error { info, err = w.Writer.Commit(ctx); return err })
	return info, err
}

func (a *actor) Open(ctx context.Context, key string, off, n int64) (r io.ReadCloser, err error) {
	err = a.turn(func() error { r, err = a.Store.Open(ctx, key, off, n); return err })
	return r, err
}

func (a *actor) Stat(ctx context.Context, key string) (info storage.Info, err error) {
	err = a.turn(func() error { info, err = a.Store.Stat(ctx, key); return err })
	return info, err
}

func (a *actor) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		var infos []storage.Info
		err := a.turn(func() error {
			for info, err := range a.Store.List(ctx, prefix) {
				if err != nil {
					return err
				}
				infos = append(infos, info)
			}
			return nil
		})
		if err != nil {
			yield(storage.Info{}, err)
			return
		}
		for _, info := range infos {
			if !yield(info, nil) {
				return
			}
		}
	}
}

func (a *actor) Delete(ctx context.Context, key string) error {
	return a.turn(func() error { return a.Store.Delete(ctx, key) })
}

// TestIndexMeetings has writers, readers and those who make summaries and indexes meet at every call of the store, some killed at one: whatever Put has
// returned nil for is on the pages in the end, and after a Reindex the pages are the list. With CAMPAIGN=1 there are many more meetings.
func TestIndexMeetings(t *testing.T) {
	meetings := 120
	if os.Getenv("CAMPAIGN") != "" {
		meetings = 20_000
	}
	for seed := range meetings {
		if !t.Run(fmt.Sprint("seed-", seed), func(t *testing.T) { t.Parallel(); meet(t, uint64(seed)) }) {
			return
		}
	}
}

// A witness knows what Put has returned nil for.
type witness struct {
	mu   sync.Mutex
	said map[catalog.ID]*catalog.Backup // nil: deleted
	busy map[catalog.ID]bool            // somebody is about to change it, or nobody knows what came of that
}

// put puts a backup, or deletes it if it has no state.
func (w *witness) put(ctx context.Context, c *storecatalog.Catalog, b *catalog.Backup, rev catalog.Revision) (catalog.Revision, error) {
	w.mu.Lock()
	w.busy[b.ID] = true
	w.mu.Unlock()
	var err error
	put := *b
	said := &put
	if b.State == "" {
		said, err = nil, c.Delete(ctx, b.ID, rev)
	} else {
		rev, err = c.Put(ctx, b, rev)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		w.said[b.ID], w.busy[b.ID] = said, false
	}
	return rev, err
}

// wrong says what is not on pages that has to be: what was put before they were asked for, and not changed since. Each is looked for by what it alone has,
// so that what an index says of it matters.
func (w *witness) wrong(ctx context.Context, c *storecatalog.Catalog) error {
	w.mu.Lock()
	known := map[catalog.ID]*catalog.Backup{}
	for id, b := range w.said {
		if !w.busy[id] {
			known[id] = b
		}
	}
	w.mu.Unlock()
	for id, b := range known {
		q := catalog.Query{States: allStates, Text: string(id)}
		if b != nil {
			q = catalog.Query{States: []catalog.State{b.State}, Labels: b.Labels, Kinds: []catalog.Kind{b.Kind}, Text: string(id[10:])}
		}
		page, _, err := c.Page(ctx, q, catalog.Cursor{}, 2)
		if err != nil {
			return nil // it was killed
		}
		w.mu.Lock()
		still := !w.busy[id] && w.said[id] == b
		w.mu.Unlock()
		if still && (b == nil && len(page) > 0 || b != nil && (len(page) != 1 || !reflect.DeepEqual(page[0], b))) {
			return fmt.Errorf("backup %s was put as %+v, and the page of %+v has %v", id, b, q, states(page))
		}
	}
	return nil
}

func meet(t *testing.T, seed uint64) {
	m := memstore.New(nil)
	calm := newCatalog(t, m, nil)
	random := rand.New(rand.NewPCG(seed, 11))
	w := &witness{said: map[catalog.ID]*catalog.Backup{}, busy: map[catalog.ID]bool{}}
	revs := map[catalog.ID]catalog.Revision{}
	backups := make([]*catalog.Backup, 4)
	put := func(n int, state catalog.State) {
		backups[n].State = state
		rev, err := w.put(t.Context(), calm, backups[n], revs[backups[n].ID])
		if err != nil {
			t.Fatal(err)
		}
		revs[backups[n].ID] = rev
	}
	for n := range backups {
		backups[n] = backup(n, "")
		put(n, []catalog.State{catalog.StateReady, catalog.StateRunning}[random.IntN(2)])
	}
	if random.IntN(4) > 0 {
		indexed(t, m)
	} else { // an older Amber has made these backups
		for info := range m.List(t.Context(), "_index/") {
			if err := m.Delete(t.Context(), info.Key); err != nil {
				t.Fatal(err)
			}
		}
	}
	if random.IntN(3) == 0 {
		put(0, catalog.StateReady)
	}
	var actors []func(storage.Store)
	for n, do := range [][]catalog.State{{catalog.StateReady, catalog.StateDeleting, ""}, {catalog.StateFailed}, {catalog.StateReady, catalog.StateReady}, {catalog.StateRunning, catalog.StateReady}} {
		if random.IntN(3) == 0 {
			continue
		}
		actors = append(actors, func(s storage.Store) {
			c := newCatalog(t, s, nil)
			b, rev := *backups[n], revs[backups[n].ID]
			if n == 3 {
				b, rev = *backup(50, ""), ""
			}
			for i, state := range do {
				b.State, b.Labels = state, map[string]string{"changed": fmt.Sprint(i)}
				if state != catalog.StateRunning {
					b.Kind = catalog.KindImport
				}
				var err error
				if rev, err = w.put(t.Context(), c, &b, rev); err != nil {
					return
				}
			}
		})
	}
	for range 1 + random.IntN(2) {
		actors = append(actors, func(s storage.Store) { _ = newCatalog(t, s, nil).Summarize(t.Context(), november) })
	}
	if random.IntN(2) == 0 {
		actors = append(actors, func(s storage.Store) { _, _ = newCatalog(t, s, nil).Reindex(t.Context()) })
	}
	if random.IntN(2) == 0 {
		actors = append(actors, func(s storage.Store) {
			for range 2 {
				if err := w.wrong(t.Context(), newCatalog(t, s, nil)); err != nil {
					t.Errorf("meanwhile: %v", err)
				}
			}
		})
	}
	(&stage{Store: m, random: random}).run(actors...)

	check := func(when string) {
		if err := w.wrong(t.Context(), newCatalog(t, m, nil)); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
	}
	check("at once")
	for range 2 {
		_ = calm.Summarize(t.Context(), november)
		check("after a summary")
	}
	indexed(t, m)
	samePages(t, m)
	check("after a Reindex")
	if mended, err := calm.Reindex(t.Context()); mended != 0 || err != nil {
		t.Fatalf("a second Reindex mends %d, %v", mended, err)
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
	mustPut(t, c, backup(20, catalog.StateReady), "")
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
