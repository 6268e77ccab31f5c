package backup_test

import (
	"context"
	"errors"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/storage/memstore"
)

// named makes a backup of a name.
func (h *house) named(t *testing.T, q backup.Request) (*catalog.Backup, error) {
	t.Helper()
	if q.DataStore == "" {
		q.DataStore = "orders"
	}
	q.Snapshotter = &source{data: few}
	return h.runner.Run(t.Context(), q)
}

// takenBy checks that a name is refused, by the backup that has it.
func (h *house) takenBy(t *testing.T, by catalog.ID, q backup.Request) {
	t.Helper()
	if _, err := h.named(t, q); !errors.Is(err, backup.ErrNameTaken) || !strings.Contains(err.Error(), string(by)) || !strings.Contains(err.Error(), q.Name) {
		t.Errorf("a second backup of the name %q: %v, want ErrNameTaken by %s", q.Name, err, by)
	}
	for b, err := range h.catalog.List(t.Context(), catalog.Query{States: []catalog.State{catalog.StateRunning, catalog.StateFailed}}) {
		if err != nil || b.Name == q.Name && b.ID != by {
			t.Errorf("a backup that was refused for its name has left a record: %+v, %v", b, err)
		}
	}
}

// TestNames: of the backups of a data store that are ready or being made each name is that of one, and who is deleted gives it back.
func TestNames(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	h, far := newHouse(t, memstore.New(nil), nil), newHouse(t, memstore.New(nil), nil)
	first, err := h.named(t, backup.Request{Name: "monthly"})
	if err != nil {
		t.Fatal(err)
	}
	h.takenBy(t, first.ID, backup.Request{Name: "monthly"})
	h.takenBy(t, first.ID, backup.Request{Name: "monthly", Kind: catalog.KindImport})
	far.takenBy(t, first.ID, backup.Request{Name: "monthly", Others: []catalog.Catalog{h.catalog}})
	for _, q := range []backup.Request{{Name: "Monthly"}, {Name: "monthly-2"}, {Name: "monthly", DataStore: "invoices"}, {}, {}} {
		if b, err := h.named(t, q); err != nil || b.Name != q.Name {
			t.Errorf("a backup called %q: %+v, %v", q.Name, b, err)
		}
	}
	// What has failed, died or is being deleted has no name.
	for n, state := range []catalog.State{catalog.StateFailed, catalog.StateInterrupted, catalog.StateDeleting, catalog.StateRunning} {
		id := h.dead(t, "orders", time.Now().Add(time.Duration(-n)*time.Minute))
		b, rev, err := h.catalog.Get(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		b.State, b.Name = state, "weekly"
		if _, err := h.catalog.Put(ctx, b, rev); err != nil {
			t.Fatal(err)
		}
	}
	weekly, err := h.named(t, backup.Request{Name: "weekly"})
	if err != nil {
		t.Fatal(err)
	}
	// But in another store it may not be known whether it has.
	id := far.dead(t, "orders", time.Now())
	b, rev, err := far.catalog.Get(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	b.Name = "yearly"
	if _, err := far.catalog.Put(ctx, b, rev); err != nil {
		t.Fatal(err)
	}
	h.takenBy(t, id, backup.Request{Name: "yearly", Others: []catalog.Catalog{far.catalog}})

	if err := h.runner.Delete(ctx, weekly.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := h.named(t, backup.Request{Name: "weekly", Others: []catalog.Catalog{far.catalog}}); err != nil {
		t.Errorf("the name of what was deleted: %v", err)
	}
	// A copy keeps its name, also where that is taken, and while it is copied.
	if _, err := far.named(t, backup.Request{Name: "monthly"}); err != nil {
		t.Fatal(err)
	}
	if b, _, err := h.copyTo(ctx, far, first.ID); err != nil || b.Name != "monthly" {
		t.Errorf("copy of a backup whose name is taken: %+v, %v", b, err)
	}
	h.check(t)
}

// TestNameOfAutomatic: no due time fails for its name.
func TestNameOfAutomatic(t *testing.T) {
	t.Parallel()
	h, far := newHouse(t, memstore.New(nil), nil), newHouse(t, memstore.New(nil), nil)
	long := strings.Repeat("n", catalog.MaxNameLen)
	if _, err := far.named(t, backup.Request{Name: "nightly-3"}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"nightly", "nightly-2", "nightly-4", "nightly-5"} {
		b, err := h.named(t, backup.Request{Name: "nightly", Kind: catalog.KindAutomatic, Policy: "p", Others: []catalog.Catalog{far.catalog}})
		if err != nil || b.Name != want {
			t.Fatalf("an automatic backup: %+v, %v, want the name %s", b, err, want)
		}
	}
	for i := range 12 {
		b, err := h.named(t, backup.Request{Name: long, Kind: catalog.KindAutomatic, Policy: "p"})
		if err != nil || catalog.ValidBackupName(b.Name) != nil || i == 11 && b.Name != long[:97]+"-12" {
			t.Fatalf("number %d of a long name: %+v, %v", i, b, err)
		}
	}
	// Nor because another store can't be asked.
	if b, err := h.named(t, backup.Request{Name: "hourly", Kind: catalog.KindAutomatic, Others: []catalog.Catalog{unlisted{}}}); err != nil || b.Name != "hourly" {
		t.Errorf("beside a store that can't be listed: %+v, %v", b, err)
	}
	seen := map[string]bool{}
	for _, b := range h.check(t) {
		if seen[b.Name] {
			t.Errorf("two backups are called %s", b.Name)
		}
		seen[b.Name] = true
	}
}

// unlisted is a catalog that can't be listed.
type unlisted struct{ catalog.Catalog }

func (unlisted) List(context.Context, catalog.Query) iter.Seq2[*catalog.Backup, error] {
	return func(yield func(*catalog.Backup, error) bool) { yield(nil, errors.New("no connection")) }
}

// TestNameOfRunning: who asks for a name while a copy that has it is under way is told so.
func TestNameOfRunning(t *testing.T) {
	t.Parallel()
	h, far := newHouse(t, memstore.New(nil), nil), newHouse(t, memstore.New(nil), nil)
	b, err := h.named(t, backup.Request{Name: "monthly"})
	if err != nil {
		t.Fatal(err)
	}
	record := *b
	record.Kind, record.State, record.Parts = catalog.KindCopy, catalog.StateRunning, nil
	if _, err := far.catalog.Put(t.Context(), &record, ""); err != nil {
		t.Fatal(err)
	}
	far.takenBy(t, b.ID, backup.Request{Name: "monthly"})
}
