package storecatalog_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
)

// TestIndexMeetings has writers, readers and those who make summaries and indexes meet at every call of the store, some killed at one: whatever Put has
// returned nil for is on the pages in the end, and after a Reindex the pages are the list. With CAMPAIGN=1 there are many more meetings.
func TestIndexMeetings(t *testing.T) {
	meetings := 60
	if os.Getenv("CAMPAIGN") != "" {
		meetings = 20_000
	}
	for seed := range meetings {
		if !t.Run(fmt.Sprint("seed-", seed), func(t *testing.T) { t.Parallel(); meet(t, uint64(seed)) }) {
			return
		}
	}
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
		rev, err := w.put(t.Context(), m, calm, backups[n], revs[backups[n].ID])
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
				if rev, err = w.put(t.Context(), s, c, &b, rev); err != nil {
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

// TestIndexPairs has two at work, of whom the first makes some calls, then the second some, and then each the rest: for all numbers of calls that there
// are; without CAMPAIGN=1 an eighth of them. What was put is on the pages afterwards, and on those that were asked for in between.
func TestIndexPairs(t *testing.T) {
	t.Parallel()
	edit := func(n int, state catalog.State) func(t *testing.T, w *witness, revs []catalog.Revision, list []*catalog.Backup, s storage.Store) {
		return func(t *testing.T, w *witness, revs []catalog.Revision, list []*catalog.Backup, s storage.Store) {
			b := *list[n]
			b.State, b.Labels, b.Kind = state, map[string]string{"changed": "x"}, catalog.KindImport
			if _, err := w.put(t.Context(), s, newCatalog(t, s, nil), &b, revs[n]); err != nil {
				t.Errorf("Put: %v", err)
			}
		}
	}
	type does = func(t *testing.T, w *witness, revs []catalog.Revision, list []*catalog.Backup, s storage.Store)
	summarizes := func(t *testing.T, _ *witness, _ []catalog.Revision, _ []*catalog.Backup, s storage.Store) {
		if err := newCatalog(t, s, nil).Summarize(t.Context(), november); err != nil {
			t.Errorf("Summarize: %v", err)
		}
	}
	reindexes := func(t *testing.T, _ *witness, _ []catalog.Revision, _ []*catalog.Backup, s storage.Store) {
		if _, err := newCatalog(t, s, nil).Reindex(t.Context()); err != nil {
			t.Errorf("Reindex: %v", err)
		}
	}
	reads := func(t *testing.T, w *witness, _ []catalog.Revision, _ []*catalog.Backup, s storage.Store) {
		if err := w.wrong(t.Context(), newCatalog(t, s, nil)); err != nil {
			t.Errorf("meanwhile: %v", err)
		}
	}
	for name, pair := range map[string][2]does{
		"edit, summary":      {edit(0, catalog.StateReady), summarizes},
		"edit noted one":     {edit(1, catalog.StateReady), summarizes},
		"publish, summary":   {edit(2, catalog.StateReady), summarizes},
		"edit, reindex":      {edit(0, catalog.StateFailed), reindexes},
		"read, summary":      {reads, summarizes},
		"read, reindex":      {reads, reindexes},
		"summary, summary":   {summarizes, summarizes},
		"summary, edit":      {summarizes, edit(1, catalog.StateReady)},
		"read, edit":         {reads, edit(0, catalog.StateReady)},
		"publish, reindex":   {edit(2, catalog.StateReady), reindexes},
		"reindex, summary":   {reindexes, summarizes},
		"summary, published": {summarizes, edit(2, catalog.StateFailed)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for a := range 12 {
				for b := 1; b < 20; b++ {
					if (3*a+b)%8 != 0 && os.Getenv("CAMPAIGN") == "" {
						continue
					}
					m := memstore.New(nil)
					calm := newCatalog(t, m, nil)
					w := &witness{said: map[catalog.ID]*catalog.Backup{}, busy: map[catalog.ID]bool{}}
					var list []*catalog.Backup
					var revs []catalog.Revision
					put := func(n int, state catalog.State) {
						list[n].State = state
						rev, err := w.put(t.Context(), m, calm, list[n], revs[n])
						if err != nil {
							t.Fatal(err)
						}
						revs[n] = rev
					}
					for n := range 3 {
						list, revs = append(list, backup(n, "")), append(revs, "")
						put(n, []catalog.State{catalog.StateReady, catalog.StateReady, catalog.StateRunning}[n])
					}
					indexed(t, m)
					list[1].Labels = map[string]string{"changed": "y"}
					put(1, catalog.StateReady)
					script := append(slices.Repeat([]int{0}, a), slices.Repeat([]int{1}, b)...)
					(&stage{Store: m, script: append(script, slices.Repeat([]int{0}, 200)...)}).run(
						func(s storage.Store) { pair[0](t, w, revs, list, s) }, func(s storage.Store) { pair[1](t, w, revs, list, s) })
					for range 3 {
						if err := w.wrong(t.Context(), newCatalog(t, m, nil)); err != nil {
							t.Fatalf("after %d calls of the first and %d of the second: %v", a, b, err)
						}
						if err := calm.Summarize(t.Context(), november); err != nil {
							t.Fatal(err)
						}
					}
					if t.Failed() {
						t.Fatalf("after %d calls of the first and %d of the second", a, b)
					}
				}
			}
		})
	}
}
