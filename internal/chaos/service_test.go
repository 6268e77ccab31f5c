package chaos

import (
	"errors"
	"testing"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/retry"
	"github.com/amberkv/amber/storage/storetest"
)

// TestStoresAreTriedAgain: what fails for the moment is made again, in every store; a host that has its own way of doing so keeps it; and a host
// gets back what it gave.
func TestStoresAreTriedAgain(t *testing.T) {
	once := func() *storetest.Faulty {
		return storetest.NewFaulty(memstore.New(nil), storetest.Fault{Op: storetest.OpCommit, Call: 1, Mode: storetest.After, Err: storage.ErrTransient},
			storetest.Fault{Op: storetest.OpList, Call: 2, Err: storage.ErrTransient})
	}
	first, second := once(), once()
	own := retry.New(once(), &retry.Options{Attempts: 1})
	s, err := amber.New(amber.Config{Store: first, Stores: []amber.NamedStore{{Name: "second", Store: second}, {Name: "own", Store: own}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "second"} {
		if _, err := s.Backup(t.Context(), amber.BackupRequest{DataStore: "orders", Snapshotter: Bytes(Snapshot(10, 10)), Store: name}); err != nil {
			t.Errorf("store %q: %v", name, err)
		}
	}
	if first.Fired() != 2 || second.Fired() != 2 {
		t.Errorf("%d and %d calls failed, want 2 and 2", first.Fired(), second.Fired())
	}
	if _, err := s.Backup(t.Context(), amber.BackupRequest{DataStore: "orders", Snapshotter: Bytes(Snapshot(10, 10)), Store: "own"}); !errors.Is(err, storage.ErrTransient) {
		t.Errorf("a store whose host wants no second try: %v", err)
	}
	for i, want := range []storage.Store{first, second, own} {
		if got := s.Stores()[i].Store; got != want {
			t.Errorf("store %d is another one", i)
		}
	}
	for b, err := range s.ListAll(t.Context(), catalog.Query{}) {
		if err == nil && b.Store.Store != storage.Store(first) && b.Store.Store != storage.Store(second) {
			t.Errorf("backup %s is in another store", b.ID)
		}
	}
}
