package storejournal_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/schedule"
	"github.com/amberkv/amber/schedule/journaltest"
	"github.com/amberkv/amber/schedule/storejournal"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/filestore"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/storetest"
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
	now := someDue
	m := memstore.New(&memstore.Options{Now: func() time.Time { return now }})
	j := newJournal(t, m)
	seen := map[schedule.Revision]bool{}
	rev := schedule.Revision("")
	for n := range 60 {
		now = now.Add(20 * time.Minute)
		var err error
		rev, err = j.PutPolicy(t.Context(), policy("nightly"), rev)
		if err != nil || seen[rev] {
			t.Fatalf("put %d: revision %s, %v; it was there: %v", n, rev, err, seen[rev])
		}
		seen[rev] = true
		if n%20 == 19 {
			if err := j.DeletePolicy(t.Context(), "nightly", rev); err != nil {
				t.Fatal(err)
			}
			if left := keys(t, m); len(left) != 5 { // 20, 40 and 60 minutes ago, and just now
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

// TestVersionsStayForAnHour: what counted within the last hour stays, however many there are, and goes later.
func TestVersionsStayForAnHour(t *testing.T) {
	now := someDue
	m := memstore.New(&memstore.Options{Now: func() time.Time { return now }})
	j := newJournal(t, m)
	rev := schedule.Revision("")
	put := func() {
		var err error
		if rev, err = j.PutRun(t.Context(), run(schedule.RunRunning), rev); err != nil {
			t.Fatal(err)
		}
	}
	for range 30 {
		now = now.Add(time.Minute)
		put()
	}
	if n := len(keys(t, m)); n != 30 {
		t.Errorf("after 30 versions in half an hour there are %d", n)
	}
	now = now.Add(50 * time.Minute)
	put() // number 19 was superseded an hour ago
	if n := len(keys(t, m)); n != 12 {
		t.Errorf("50 minutes later there are %d versions, want 12: %q", n, keys(t, m))
	}
	now = now.Add(time.Hour)
	put()
	if n := len(keys(t, m)); n != 8 {
		t.Errorf("another hour later there are %d versions, want 8: %q", n, keys(t, m))
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

// damage changes a byte of the object that counts below a prefix.
func damage(t *testing.T, s storage.Store, prefix string) {
	t.Helper()
	key := ""
	for info, err := range s.List(t.Context(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		key = info.Key
	}
	data, err := storage.ReadFile(t.Context(), s, key, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := storage.WriteFile(t.Context(), s, key, data, nil); err != nil {
		t.Fatal(err)
	}
}

// conform runs the suite on journals in stores.
func conform(t *testing.T, open func(t *testing.T) storage.Store) {
	stores := map[schedule.Journal]storage.Store{}
	journaltest.Run(t, func(t *testing.T) schedule.Journal {
		s := open(t)
		j := newJournal(t, s)
		stores[j] = s
		return j
	}, &journaltest.Options{
		Another: func(t *testing.T, j schedule.Journal) schedule.Journal { return newJournal(t, stores[j]) },
		CorruptPolicy: func(t *testing.T, j schedule.Journal, id string) {
			damage(t, stores[j], "_schedule/policies/"+id+"/")
		},
		CorruptRun: func(t *testing.T, j schedule.Journal, policy string, due time.Time) {
			name := due.UTC().Format("20060102T150405Z")
			for info, err := range stores[j].List(t.Context(), "_schedule/runs/"+policy+"/") {
				if err != nil {
					t.Fatal(err)
				}
				if dir, _, ok := strings.Cut(info.Key, name+"/"); ok {
					damage(t, stores[j], dir+name+"/")
					return
				}
			}
			t.Fatal("there is no such run")
		},
	})
}

func TestConformance(t *testing.T) {
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		conform(t, func(*testing.T) storage.Store { return memstore.New(nil) })
	})
	t.Run("directory", func(t *testing.T) {
		t.Parallel()
		conform(t, func(t *testing.T) storage.Store { return openDirectory(t, directory(t)) })
	})
}

// directory returns an empty directory in memory, where there is such a file system: how long a disk takes is of no interest here.
func directory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "amber-journal-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func openDirectory(t *testing.T, dir string) storage.Store {
	t.Helper()
	s, err := filestore.New(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// TestCost: policies are listed without reading any, and the latest runs are read without reading others, however many there are.
func TestCost(t *testing.T) {
	m := memstore.New(nil)
	calm := newJournal(t, m)
	for n := range 200 {
		r := run(schedule.RunDone)
		r.Due = someDue.Add(time.Duration(n) * time.Hour)
		if _, err := calm.PutRun(t.Context(), r, ""); err != nil {
			t.Fatal(err)
		}
		if _, err := calm.PutPolicy(t.Context(), policy(fmt.Sprint("p", n)), ""); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		do           func(j *storejournal.Journal) error
		lists, opens int
	}{
		"Policies": {func(j *storejournal.Journal) (err error) {
			for _, err = range j.Policies(t.Context()) {
			}
			return err
		}, 1, 0},
		"GetPolicy": {func(j *storejournal.Journal) error { _, _, err := j.GetPolicy(t.Context(), "p7"); return err }, 1, 1},
		"PutPolicy": {func(j *storejournal.Journal) error {
			_, err := j.PutPolicy(t.Context(), policy("p7"), "1")
			return err
		}, 2, 0},
		"the latest run": {func(j *storejournal.Journal) (err error) {
			for _, err = range j.Runs(t.Context(), schedule.RunQuery{Policy: "nightly", Limit: 1}) {
			}
			return err
		}, 1, 1},
		"three of the past": {func(j *storejournal.Journal) (err error) {
			for _, err = range j.Runs(t.Context(), schedule.RunQuery{Policy: "nightly", From: someDue.Add(10 * time.Hour), Until: someDue.Add(13 * time.Hour)}) {
			}
			return err
		}, 1, 3},
		"one of all": {func(j *storejournal.Journal) (err error) {
			for _, err = range j.Runs(t.Context(), schedule.RunQuery{Limit: 1}) {
			}
			return err
		}, 1, 1},
		"nothing to trim": {func(j *storejournal.Journal) error {
			_, err := j.TrimRuns(t.Context(), "nightly", someDue)
			return err
		}, 1, 0},
	} {
		s := storetest.NewFaulty(m)
		if err := c.do(newJournal(t, s)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if lists, opens := s.Calls(storetest.OpList), s.Calls(storetest.OpOpen); lists != c.lists || opens != c.opens {
			t.Errorf("%s lists %d times and opens %d objects, want %d and %d", name, lists, opens, c.lists, c.opens)
		}
	}
}

// A counting store counts what listings give.
type counting struct {
	storage.Store
	listed int
}

func (c *counting) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		for info, err := range c.Store.List(ctx, prefix) {
			c.listed++
			if !yield(info, err) {
				return
			}
		}
	}
}

// TestListingsEndEarly: who wants the latest runs, or those from some time on, doesn't wait for the keys of all.
func TestListingsEndEarly(t *testing.T) {
	c := &counting{Store: memstore.New(nil)}
	j := newJournal(t, c)
	for n := range 100 {
		r := run(schedule.RunDone)
		r.Due = someDue.Add(time.Duration(n) * time.Hour)
		if _, err := j.PutRun(t.Context(), r, ""); err != nil {
			t.Fatal(err)
		}
	}
	for _, q := range []schedule.RunQuery{{Policy: "nightly", Limit: 3}, {Policy: "nightly", From: someDue.Add(97 * time.Hour)}} {
		c.listed = 0
		n := 0
		for _, err := range j.Runs(t.Context(), q) {
			if n++; err != nil {
				t.Fatal(err)
			}
		}
		if n != 3 || c.listed > 6 {
			t.Errorf("%+v gives %d runs, of which %d keys were listed", q, n, c.listed)
		}
	}
}

// TestRecordsInTheWrongPlace: a record that somebody has put in the place of another one isn't taken for that.
func TestRecordsInTheWrongPlace(t *testing.T) {
	m := memstore.New(nil)
	j := newJournal(t, m)
	other := run(schedule.RunDone)
	other.Due = someDue.Add(time.Hour)
	for _, id := range []string{"nightly", "hourly"} {
		if _, err := j.PutPolicy(t.Context(), policy(id), ""); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range []*schedule.Run{run(schedule.RunDone), other} {
		if _, err := j.PutRun(t.Context(), r, ""); err != nil {
			t.Fatal(err)
		}
	}
	all := keys(t, m) // hourly, nightly, the later run, the earlier one
	move := func(from, to string) {
		t.Helper()
		data, err := storage.ReadFile(t.Context(), m, from, 1<<20)
		if err == nil {
			err = storage.WriteFile(t.Context(), m, to, data, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	policies := func() error { _, _, err := j.GetPolicy(t.Context(), "nightly"); return err }
	runs := func() error { _, _, err := j.GetRun(t.Context(), "nightly", someDue); return err }
	for _, c := range []struct {
		from, to string
		get      func() error
		says     string
	}{
		{all[0], all[1], policies, "it is policy"},
		{all[2], all[1], policies, "no policy in it"},
		{all[2], all[3], runs, "it is the run of policy"},
		{all[0], all[3], runs, "no run in it"},
	} {
		move(c.from, c.to)
		if err := c.get(); !errors.Is(err, schedule.ErrCorrupt) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), c.to) {
			t.Errorf("%s in the place of %s: %v, want ErrCorrupt and %q", c.from, c.to, err, c.says)
		}
	}
}

// TestDeletionIsFinished: what a deletion that was cut short has left goes with the next one, which finds that the policy doesn't exist.
func TestDeletionIsFinished(t *testing.T) {
	now := someDue
	m := memstore.New(&memstore.Options{Now: func() time.Time { return now }})
	calm := newJournal(t, m)
	rev := schedule.Revision("")
	for range 5 {
		now = now.Add(2 * time.Hour)
		var err error
		if rev, err = calm.PutPolicy(t.Context(), policy("nightly"), rev); err != nil {
			t.Fatal(err)
		}
	}
	now = now.Add(2 * time.Hour)
	faulty := newJournal(t, storetest.NewFaulty(m, storetest.Fault{Op: storetest.OpDelete}))
	if err := faulty.DeletePolicy(t.Context(), "nightly", rev); !errors.Is(err, storetest.ErrInjected) {
		t.Errorf("DeletePolicy of a store that deletes nothing: %v", err)
	}
	if left := keys(t, m); len(left) != 6 {
		t.Errorf("there are %q", left)
	}
	if err := calm.DeletePolicy(t.Context(), "nightly", rev); !errors.Is(err, schedule.ErrNotFound) {
		t.Errorf("DeletePolicy again: %v", err)
	}
	if left := keys(t, m); len(left) != 2 {
		t.Errorf("after DeletePolicy again there are %q, want the tombstone and what it ended", left)
	}
}
