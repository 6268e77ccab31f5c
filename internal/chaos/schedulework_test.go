package chaos

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup/dumpfile"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/schedule"
	"github.com/amberkv/amber/schedule/storejournal"
	"github.com/amberkv/amber/storage/memstore"
)

// TestJournalsAreLeftAlone: nothing takes policies and runs for backups, garbage or dumps, not even if a policy is called as a backup might be.
func TestJournalsAreLeftAlone(t *testing.T) {
	t.Parallel()
	m, other := memstore.New(nil), memstore.New(nil)
	long := time.Now().Add(-100 * 24 * time.Hour)
	j, err := storejournal.New(storejournal.Config{Store: m})
	if err != nil {
		t.Fatal(err)
	}
	var policies []string
	for _, id := range []string{"nightly", "manifest.json", "part-0000.rdb", string(catalog.NewID(long))} {
		policies = append(policies, id)
		if _, err := j.PutPolicy(t.Context(), &schedule.Policy{ID: id, DataStore: "orders", When: schedule.When{Cron: "@daily"}}, ""); err != nil {
			t.Fatal(err)
		}
		r := &schedule.Run{Policy: id, DataStore: "orders", Due: long.Truncate(time.Second), State: schedule.RunDone, Backup: catalog.NewID(long)}
		if _, err := j.PutRun(t.Context(), r, ""); err != nil {
			t.Fatal(err)
		}
	}
	svc, err := amber.New(amber.Config{Store: m, Stores: []amber.NamedStore{{Name: "other", Store: other}}})
	if err != nil {
		t.Fatal(err)
	}
	mine := func() map[string]Object {
		st, err := Look(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		if wrong := st.Violations(); len(wrong) > 0 {
			t.Errorf("a look from outside finds %q", wrong)
		}
		if garbage := st.Garbage(); len(garbage) > 0 {
			t.Errorf("a look from outside finds the garbage %q", garbage)
		}
		maps.DeleteFunc(st.Objects, func(key string, _ Object) bool { return !strings.HasPrefix(key, "_schedule/") })
		return st.Objects
	}
	before := mine()
	if len(before) != 2*len(policies) {
		t.Errorf("there are %q", slices.Sorted(maps.Keys(before)))
	}
	b, err := svc.Backup(t.Context(), amber.BackupRequest{DataStore: "orders", Snapshotter: Bytes(Snapshot(10, 10))})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := svc.CopyBackup(t.Context(), amber.CopyBackupRequest{Backup: b.ID, To: "other"}); err != nil {
		t.Fatal(err)
	}
	if rep, err := svc.Sweep(t.Context(), -1); err != nil || rep.Objects+rep.Records+rep.Interrupted > 0 {
		t.Errorf("Sweep removes %+v, %v", rep, err)
	}
	for got, err := range svc.ListAll(t.Context(), catalog.Query{States: []catalog.State{catalog.StateRunning, catalog.StateReady, catalog.StateFailed, catalog.StateInterrupted, catalog.StateDeleting}}) {
		if err != nil || got.ID != b.ID {
			t.Errorf("ListAll gives %+v, %v", got, err)
		}
	}
	if dumps, err := dumpfile.List(t.Context(), m, "", nil); err != nil || len(dumps) > 0 {
		t.Errorf("dumps are found: %+v, %v", dumps, err)
	}
	if err := svc.Delete(t.Context(), b.ID); err != nil {
		t.Fatal(err)
	}
	if after := mine(); !maps.EqualFunc(after, before, func(a, b Object) bool { return a.SHA256 == b.SHA256 && a.ModTime.Equal(b.ModTime) }) {
		t.Errorf("there are %q, there were %q", slices.Sorted(maps.Keys(after)), slices.Sorted(maps.Keys(before)))
	}
	for info, err := range other.List(t.Context(), "_schedule/") {
		t.Errorf("a copy of a backup has taken %s with it: %v", info.Key, err)
	}
	for id := range policies {
		if _, _, err := j.GetPolicy(t.Context(), policies[id]); err != nil {
			t.Error(err)
		}
	}
}
