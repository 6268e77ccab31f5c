package storejournal_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/schedule"
	"github.com/amberkv/amber/schedule/storejournal"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
)

func newJournal(t *testing.T, s storage.Store) *storejournal.Journal {
	t.Helper()
	j, err := storejournal.New(storejournal.Config{Store: s})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// keys lists what a store has.
func keys(t *testing.T, s storage.Store) []string {
	t.Helper()
	var list []string
	for info, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, info.Key)
	}
	return list
}

func policy(id string) *schedule.Policy {
	return &schedule.Policy{ID: id, DataStore: "orders", Enabled: true, When: schedule.When{Cron: "0 3 * * *"}}
}

var someDue = time.Date(2026, 11, 28, 3, 0, 0, 0, time.UTC)

func run(state schedule.RunState) *schedule.Run {
	return &schedule.Run{Policy: "nightly", DataStore: "orders", Due: someDue, State: state}
}

// limited is a store that promises nothing.
type limited struct{ storage.Store }

func (limited) Capabilities() storage.Capabilities { return storage.Capabilities{} }

// TestNew: what a journal can't do without.
func TestNew(t *testing.T) {
	if _, err := storejournal.New(storejournal.Config{}); err == nil || !strings.Contains(err.Error(), "Config.Store is required") {
		t.Errorf("without a store: %v", err)
	}
	if _, err := storejournal.New(storejournal.Config{Store: limited{memstore.New(nil)}}); err == nil || !strings.Contains(err.Error(), "exclusive create") {
		t.Errorf("with a store that has no exclusive create: %v", err)
	}
}

// TestNumbersGoOn: the revisions of a policy go on when it is deleted and created again, and old versions don't pile up.
func TestNumbersGoOn(t *testing.T) {
	m := memstore.New(nil)
	j := newJournal(t, m)
	seen := map[schedule.Revision]bool{}
	rev := schedule.Revision("")
	for n := range 50 {
		var err error
		rev, err = j.PutPolicy(t.Context(), policy("nightly"), rev)
		if err != nil || seen[rev] {
			t.Fatalf("put %d: revision %s, %v; it was there: %v", n, rev, err, seen[rev])
		}
		seen[rev] = true
		if n%10 == 9 {
			if err := j.DeletePolicy(t.Context(), "nightly", rev); err != nil {
				t.Fatal(err)
			}
			if left := keys(t, m); len(left) != 1 {
				t.Errorf("a policy that was deleted leaves %q", left)
			}
			if _, err := j.PutPolicy(t.Context(), policy("nightly"), rev); !errors.Is(err, schedule.ErrConflict) {
				t.Errorf("PutPolicy with the revision before the deletion: %v", err)
			}
			rev = ""
		}
		if left := keys(t, m); len(left) > 8 {
			t.Fatalf("there are %d versions: %q", len(left), left)
		}
	}
}

// TestTrimLeavesNothing: a run that is trimmed is gone with all its versions.
func TestTrimLeavesNothing(t *testing.T) {
	m := memstore.New(nil)
	j := newJournal(t, m)
	latest := run(schedule.RunDone)
	latest.Due = someDue.Add(time.Hour)
	if _, err := j.PutRun(t.Context(), latest, ""); err != nil {
		t.Fatal(err)
	}
	left := keys(t, m)
	rev := schedule.Revision("")
	for n := range 20 {
		r := run(schedule.RunRunning)
		if n == 19 {
			r.State = schedule.RunDone
		}
		var err error
		if rev, err = j.PutRun(t.Context(), r, rev); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := j.TrimRuns(t.Context(), "nightly", someDue.Add(time.Minute)); n != 1 || err != nil {
		t.Fatalf("TrimRuns: %d, %v", n, err)
	}
	if now := keys(t, m); !slices.Equal(now, left) {
		t.Errorf("there are %q, want %q", now, left)
	}
}
