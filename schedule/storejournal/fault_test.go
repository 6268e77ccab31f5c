package storejournal_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/amberkv/amber/schedule"
	"github.com/amberkv/amber/schedule/storejournal"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/storetest"
)

var ops = []storetest.Op{
	storetest.OpCreate, storetest.OpWrite, storetest.OpCommit, storetest.OpOpen, storetest.OpRead, storetest.OpStat, storetest.OpList, storetest.OpDelete,
}

// eachFault runs f once without a fault, and then once for every call of the store that it made, failing before and after its
// effect, once or from then on. f gets the store without the fault too.
func eachFault(t *testing.T, f func(t *testing.T, m *memstore.Store, s *storetest.Faulty)) {
	open := func() *memstore.Store {
		now := someDue
		// So fast that old versions are removed.
		return memstore.New(&memstore.Options{Now: func() time.Time { now = now.Add(20 * time.Minute); return now }})
	}
	m := open()
	calm := storetest.NewFaulty(m)
	f(t, m, calm)
	n := 0
	for _, op := range ops {
		for call := 1; call <= calm.Calls(op); call++ {
			for _, fault := range []storetest.Fault{{Mode: storetest.Before}, {Mode: storetest.After}, {Mode: storetest.Before, On: true}} {
				n++
				fault.Op, fault.Call = op, call
				t.Run(fmt.Sprintf("%s-%d-mode-%d-%v", op, call, fault.Mode, fault.On), func(t *testing.T) {
					m := open()
					s := storetest.NewFaulty(m, fault)
					f(t, m, s)
					if s.Fired() == 0 {
						t.Error("no fault fired")
					}
				})
			}
		}
	}
	if n < 20 {
		t.Errorf("only %d faults were tried", n)
	}
	t.Logf("%d faults", n)
}

// TestPolicyFaults: whatever call of the store fails, the errors of PutPolicy and DeletePolicy don't lie, a policy is as before or as it was to be, and
// Policies agrees.
func TestPolicyFaults(t *testing.T) {
	eachFault(t, func(t *testing.T, m *memstore.Store, s *storetest.Faulty) {
		faulty, calm := newJournal(t, s), newJournal(t, m)
		var now *schedule.Policy // nil: there is none
		rev := schedule.Revision("")
		for step := range 14 {
			var want *schedule.Policy
			var told schedule.Revision
			var err error
			if step == 10 || step == 12 {
				if now == nil {
					continue
				}
				err = faulty.DeletePolicy(t.Context(), "nightly", rev)
			} else {
				want = policy("nightly")
				want.Retries = step
				told, err = faulty.PutPolicy(t.Context(), want, rev)
			}
			got, at, getErr := calm.GetPolicy(t.Context(), "nightly")
			if getErr != nil && !errors.Is(getErr, schedule.ErrNotFound) {
				t.Fatalf("step %d, whose error is %v: GetPolicy: %v", step, err, getErr)
			}
			done := reflect.DeepEqual(got, want)
			switch {
			case err == nil && (!done || told != at):
				t.Fatalf("step %d returned nil and revision %q; GetPolicy returns %+v, %s", step, told, got, at)
			case errors.Is(err, schedule.ErrConflict) || errors.Is(err, schedule.ErrNotFound) || errors.Is(err, schedule.ErrCorrupt):
				t.Fatalf("step %d: there is nobody else, and the error is %v", step, err)
			case err != nil && !errors.Is(err, storetest.ErrInjected):
				t.Fatalf("step %d: the error is %v", step, err)
			case !done && !reflect.DeepEqual(got, now):
				t.Fatalf("step %d, whose error is %v, made %+v of %+v", step, err, got, now)
			}
			listed := []schedule.PolicyRevision(nil)
			for p, err := range calm.Policies(t.Context()) {
				if err != nil {
					t.Fatal(err)
				}
				listed = append(listed, p)
			}
			if there := got != nil; there != (len(listed) == 1) || there && listed[0] != (schedule.PolicyRevision{ID: "nightly", Revision: at}) {
				t.Fatalf("step %d: GetPolicy returns revision %q, Policies gives %v", step, at, listed)
			}
			now, rev = got, at
			if now == nil {
				rev = ""
			}
		}
	})
}

// TestRunFaults: as TestPolicyFaults, for PutRun and TrimRuns; and what was cut short is trimmed later.
func TestRunFaults(t *testing.T) {
	eachFault(t, func(t *testing.T, m *memstore.Store, s *storetest.Faulty) {
		faulty, calm := newJournal(t, s), newJournal(t, m)
		latest := run(schedule.RunDone)
		latest.Due = someDue.Add(time.Hour)
		if _, err := calm.PutRun(t.Context(), latest, ""); err != nil {
			t.Fatal(err)
		}
		rest := keys(t, m)
		var now *schedule.Run
		rev := schedule.Revision("")
		for step := range 11 {
			want := run(schedule.RunRunning)
			if step == 10 {
				want.State = schedule.RunDone
			}
			want.Reason = fmt.Sprint(step)
			told, err := faulty.PutRun(t.Context(), want, rev)
			got, at, getErr := calm.GetRun(t.Context(), "nightly", someDue)
			if getErr != nil && !errors.Is(getErr, schedule.ErrNotFound) {
				t.Fatalf("step %d, whose error is %v: GetRun: %v", step, err, getErr)
			}
			done := reflect.DeepEqual(got, want)
			switch {
			case err == nil && (!done || told != at):
				t.Fatalf("step %d returned nil and revision %q; GetRun returns %+v, %s", step, told, got, at)
			case err != nil && !errors.Is(err, storetest.ErrInjected):
				t.Fatalf("step %d: the error is %v", step, err)
			case !done && !reflect.DeepEqual(got, now):
				t.Fatalf("step %d, whose error is %v, made %+v of %+v", step, err, got, now)
			}
			now, rev = got, at
		}
		for range 2 {
			for r, err := range faulty.Runs(t.Context(), schedule.RunQuery{Policy: "nightly"}) {
				if err != nil && !errors.Is(err, storetest.ErrInjected) || err == nil && r.Due.Equal(someDue) && !reflect.DeepEqual(r, now) {
					t.Fatalf("Runs gives %+v, %v", r, err)
				}
			}
		}
		n, err := faulty.TrimRuns(t.Context(), "nightly", latest.Due)
		got, _, getErr := calm.GetRun(t.Context(), "nightly", someDue)
		switch {
		case err == nil && (now != nil && now.State == schedule.RunDone) != (n == 1):
			t.Fatalf("TrimRuns returned %d and nil; the run was %+v", n, now)
		case err != nil && !errors.Is(err, storetest.ErrInjected):
			t.Fatalf("the error of TrimRuns is %v", err)
		case n == 1 && !errors.Is(getErr, schedule.ErrNotFound), getErr == nil && !reflect.DeepEqual(got, now), getErr != nil && !errors.Is(getErr, schedule.ErrNotFound):
			t.Fatalf("after TrimRuns, which returned %d and %v, GetRun returns %+v, %v", n, err, got, getErr)
		}
		if now == nil || now.State == schedule.RunRunning {
			return
		}
		if _, err := calm.TrimRuns(t.Context(), "nightly", latest.Due); err != nil {
			t.Fatal(err)
		}
		if left := keys(t, m); !slices.Equal(left, rest) {
			t.Fatalf("after TrimRuns again there are %q", left)
		}
	})
}

// A hookedStore calls before ahead of the next Create of a key, beforeOpen ahead of the next Open, beforeList ahead of every List, and gives the next List the keys of listed.
type hookedStore struct {
	*memstore.Store
	before     func()
	beforeOpen func()
	beforeList func()
	listed     []string
}

func (h *hookedStore) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if f := h.beforeOpen; f != nil {
		h.beforeOpen = nil
		f()
	}
	return h.Store.Open(ctx, key, off, n)
}

func (h *hookedStore) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	if f := h.beforeList; f != nil {
		f()
	}
	listed := h.listed
	h.listed = nil
	return func(yield func(storage.Info, error) bool) {
		for info, err := range h.Store.List(ctx, prefix) {
			if listed != nil && !slices.Contains(listed, info.Key) {
				continue
			}
			if !yield(info, err) {
				return
			}
		}
	}
}

// TestAnswerLost: the answer of a create is lost, and what is there is another writer's. That one has won.
func TestAnswerLost(t *testing.T) {
	m := memstore.New(nil)
	calm := newJournal(t, m)
	theirs := policy("nightly")
	theirs.DataStore = "theirs"
	hooked := &hookedStore{Store: m, before: func() {
		if _, err := calm.PutPolicy(t.Context(), theirs, ""); err != nil {
			t.Fatal(err)
		}
	}}
	// The exclusive create is made to fail before anybody has seen that the object exists.
	s := storetest.NewFaulty(hooked, storetest.Fault{Op: storetest.OpWrite, Call: 1}, storetest.Fault{Op: storetest.OpCommit, Call: 1})
	lost := &lateExclusive{s}
	if _, err := newJournal(t, lost).PutPolicy(t.Context(), policy("nightly"), ""); !errors.Is(err, schedule.ErrConflict) {
		t.Errorf("PutPolicy of the one whose answer was lost: %v, want ErrConflict", err)
	}
	if p, _, err := calm.GetPolicy(t.Context(), "nightly"); err != nil || p.DataStore != "theirs" {
		t.Errorf("GetPolicy: %+v, %v", p, err)
	}
}

// A lateExclusive is a store whose Create doesn't say yet that the object exists.
type lateExclusive struct{ storage.Store }

func (s *lateExclusive) Create(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
	w, err := s.Store.Create(ctx, key, opts)
	if errors.Is(err, storage.ErrExists) {
		return nil, storetest.ErrInjected
	}
	return w, err
}

// TestReadersMeetWriters: a version is removed after it was listed, and before it is read; and a listing has neither the newest version nor what was
// removed meanwhile. Readers find what there is.
func TestReadersMeetWriters(t *testing.T) {
	now := someDue
	m := memstore.New(&memstore.Options{Now: func() time.Time { return now }})
	calm := newJournal(t, m)
	rev, err := calm.PutRun(t.Context(), run(schedule.RunRunning), "")
	if err != nil {
		t.Fatal(err)
	}
	hooked := &hookedStore{Store: m}
	reader := newJournal(t, hooked)
	put := func(reason string) {
		for range 12 {
			now = now.Add(time.Hour)
			r := run(schedule.RunDone)
			r.Reason = reason
			if rev, err = calm.PutRun(t.Context(), r, rev); err != nil {
				t.Fatal(err)
			}
		}
	}
	hooked.beforeOpen = func() { put("get") }
	if r, at, err := reader.GetRun(t.Context(), "nightly", someDue); err != nil || at != rev || r.Reason != "get" {
		t.Errorf("GetRun: %+v, %s, %v; want revision %s", r, at, err, rev)
	}
	hooked.beforeOpen = func() { put("runs") }
	n := 0
	for r, err := range reader.Runs(t.Context(), schedule.RunQuery{Policy: "nightly"}) {
		if n++; err != nil || r.Reason != "runs" {
			t.Errorf("Runs gives %+v, %v", r, err)
		}
	}
	if n != 1 {
		t.Errorf("Runs gives %d runs", n)
	}
	// While a run is being trimmed, a listing may show only its last version, without the tombstone above it.
	all := keys(t, m)
	hooked.listed = all[len(all)-1:]
	if r, at, err := reader.GetRun(t.Context(), "nightly", someDue); err != nil || at != rev || r.Reason != "runs" {
		t.Errorf("GetRun by a listing without all others: %+v, %s, %v; want revision %s", r, at, err, rev)
	}
}

// TestReaderMeetsSleeper: a listing is made while a policy is deleted, and while one who slept for hours since it was at another revision puts its
// version and takes it back. It shows nothing but that version; who reads by it is told what there is.
func TestReaderMeetsSleeper(t *testing.T) {
	now := someDue
	m := memstore.New(&memstore.Options{Now: func() time.Time { return now }})
	calm := newJournal(t, m)
	rev := schedule.Revision("")
	put := func() {
		now = now.Add(time.Hour)
		var err error
		if rev, err = calm.PutPolicy(t.Context(), policy("nightly"), rev); err != nil {
			t.Fatal(err)
		}
	}
	put()
	put()
	reading := &hookedStore{Store: m}
	reader := newJournal(t, reading)
	read := 0
	sleeping := &hookedStore{Store: m, before: func() {
		for range 5 {
			put()
		}
		if err := calm.DeletePolicy(t.Context(), "nightly", rev); err != nil {
			t.Fatal(err)
		}
	}}
	sleeping.beforeList = func() {
		reading.listed = []string{"_schedule/policies/nightly/00000003.json"}
		if !slices.Contains(keys(t, m), reading.listed[0]) {
			return
		}
		read++
		if p, at, err := reader.GetPolicy(t.Context(), "nightly"); !errors.Is(err, schedule.ErrNotFound) {
			t.Errorf("GetPolicy of a deleted policy: %+v, %s, %v", p, at, err)
		}
	}
	if _, err := newJournal(t, sleeping).PutPolicy(t.Context(), policy("nightly"), rev); err == nil || errors.Is(err, schedule.ErrConflict) {
		t.Errorf("PutPolicy of the one who slept: %v, want that the outcome is not known", err)
	}
	if read != 1 {
		t.Errorf("it was read %d times", read)
	}
}

// TestDeletedWhileListed: a policy is deleted, created and changed while a listing is being made, which shows a version that was there all the time,
// if nothing else.
func TestDeletedWhileListed(t *testing.T) {
	m := memstore.New(nil)
	j := newJournal(t, m)
	rev, err := j.PutPolicy(t.Context(), policy("nightly"), "")
	if err != nil {
		t.Fatal(err)
	}
	before := keys(t, m)
	for range 3 {
		if err := j.DeletePolicy(t.Context(), "nightly", rev); err != nil {
			t.Fatal(err)
		}
		if rev, err = j.PutPolicy(t.Context(), policy("nightly"), ""); err != nil {
			t.Fatal(err)
		}
	}
	if left := keys(t, m); !slices.Contains(left, before[0]) {
		t.Errorf("there are %q, and no more what counted a moment ago, %s", left, before[0])
	}
}

// TestPausedAfterCreating: a writer is paused after it has created a version, until the policy was changed and is about to be deleted. It can't say
// what became of it, and leaves it to who deletes the policy: a listing that is being made could miss what is above, and show what is below.
func TestPausedAfterCreating(t *testing.T) {
	m := memstore.New(nil)
	calm := newJournal(t, m)
	rev, err := calm.PutPolicy(t.Context(), policy("nightly"), "")
	if err != nil {
		t.Fatal(err)
	}
	pausing := &hookedStore{Store: m}
	pausing.before = func() {
		pausing.beforeList = func() {
			pausing.beforeList = nil
			at, err := calm.PutPolicy(t.Context(), policy("nightly"), "2")
			if err == nil {
				err = calm.DeletePolicy(t.Context(), "nightly", at)
			}
			if err != nil {
				t.Error(err)
			}
		}
	}
	_, err = newJournal(t, pausing).PutPolicy(t.Context(), policy("nightly"), rev)
	if err == nil || errors.Is(err, schedule.ErrConflict) {
		t.Errorf("PutPolicy of the one who was paused: %v, want that the outcome is not known", err)
	}
	if left := keys(t, m); len(left) != 4 {
		t.Errorf("there are %q, want all four versions", left)
	}
}

func (h *hookedStore) Create(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
	if f := h.before; f != nil {
		h.before = nil // once
		f()
	}
	return h.Store.Create(ctx, key, opts)
}

// TestSleepers: a writer sleeps after it has looked, and wakes up in another world. Whatever that is, and also if it is killed right after
// it has created its version, it changes nothing, and isn't told that it has won.
func TestSleepers(t *testing.T) {
	now := someDue
	world := func(t *testing.T, empty bool) (*memstore.Store, *storejournal.Journal, schedule.Revision) {
		m := memstore.New(&memstore.Options{Now: func() time.Time { return now }})
		j := newJournal(t, m)
		if empty {
			return m, j, ""
		}
		rev, err := j.PutPolicy(t.Context(), policy("nightly"), "")
		if err != nil {
			t.Fatal(err)
		}
		return m, j, rev
	}
	fatal := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	// Each makes the version that the sleeper is about to create, and others; and returns what is there in the end.
	others := map[string]func(t *testing.T, j *storejournal.Journal, rev schedule.Revision) schedule.Revision{
		"changed": func(t *testing.T, j *storejournal.Journal, rev schedule.Revision) schedule.Revision {
			rev, err := j.PutPolicy(t.Context(), policy("nightly"), rev)
			fatal(t, err)
			return rev
		},
		"changed for a day": func(t *testing.T, j *storejournal.Journal, rev schedule.Revision) schedule.Revision {
			for range 30 {
				now = now.Add(time.Hour)
				var err error
				rev, err = j.PutPolicy(t.Context(), policy("nightly"), rev)
				fatal(t, err)
			}
			return rev
		},
		"deleted": func(t *testing.T, j *storejournal.Journal, rev schedule.Revision) schedule.Revision {
			fatal(t, j.DeletePolicy(t.Context(), "nightly", rev))
			return ""
		},
		"changed and deleted": func(t *testing.T, j *storejournal.Journal, rev schedule.Revision) schedule.Revision {
			rev, err := j.PutPolicy(t.Context(), policy("nightly"), rev)
			fatal(t, err)
			fatal(t, j.DeletePolicy(t.Context(), "nightly", rev))
			return ""
		},
		"deleted and created": func(t *testing.T, j *storejournal.Journal, rev schedule.Revision) schedule.Revision {
			fatal(t, j.DeletePolicy(t.Context(), "nightly", rev))
			rev, err := j.PutPolicy(t.Context(), policy("nightly"), "")
			fatal(t, err)
			return rev
		},
		"deleted, created and changed": func(t *testing.T, j *storejournal.Journal, rev schedule.Revision) schedule.Revision {
			fatal(t, j.DeletePolicy(t.Context(), "nightly", rev))
			rev = ""
			for range 12 {
				now = now.Add(time.Hour)
				var err error
				rev, err = j.PutPolicy(t.Context(), policy("nightly"), rev)
				fatal(t, err)
			}
			return rev
		},
	}
	for name, happens := range others {
		for _, killed := range []bool{false, true} {
			for _, does := range []string{"puts", "deletes", "creates", "creates the first"} {
				t.Run(fmt.Sprintf("%s-%s-%v", name, does, killed), func(t *testing.T) {
					m, calm, rev := world(t, does == "creates the first")
					prev := rev
					if does == "creates" { // it saw none, before the first was created
						fatal(t, calm.DeletePolicy(t.Context(), "nightly", rev))
						prev = ""
					}
					var want schedule.Revision
					hooked := &hookedStore{Store: m, before: func() {
						at := rev
						if prev == "" {
							var err error
							at, err = calm.PutPolicy(t.Context(), policy("nightly"), "")
							fatal(t, err)
						}
						want = happens(t, calm, at)
					}}
					var s storage.Store = hooked
					if killed { // from its creation on, nothing that it does has an effect
						s = storetest.NewFaulty(hooked, storetest.Fault{Op: storetest.OpList, Call: 2, On: true}, storetest.Fault{Op: storetest.OpDelete})
					}
					sleeper := newJournal(t, s)
					err := error(nil)
					stale := policy("nightly")
					stale.DataStore = "stale"
					if does == "deletes" {
						err = sleeper.DeletePolicy(t.Context(), "nightly", prev)
					} else {
						_, err = sleeper.PutPolicy(t.Context(), stale, prev)
					}
					if err == nil {
						t.Error("the sleeper is told that it has won")
					}
					check := func() {
						t.Helper()
						p, at, err := calm.GetPolicy(t.Context(), "nightly")
						switch {
						case want == "" && !errors.Is(err, schedule.ErrNotFound):
							t.Errorf("GetPolicy of a policy that was deleted: %+v, %s, %v", p, at, err)
						case want != "" && (err != nil || at != want || p.DataStore == "stale"):
							t.Errorf("GetPolicy: %+v, %s, %v; want revision %s", p, at, err, want)
						}
					}
					check()
					if want == "" {
						want, err = calm.PutPolicy(t.Context(), policy("nightly"), "")
					} else {
						want, err = calm.PutPolicy(t.Context(), policy("nightly"), want)
					}
					fatal(t, err)
					check()
				})
			}
		}
	}
}

// TestSleeperAcrossTrim: a writer sleeps after it has looked at a run, until that is trimmed. It doesn't revive it; and if it is killed right
// after it has created its version, what it leaves is an error that says so, until it is trimmed too.
func TestSleeperAcrossTrim(t *testing.T) {
	for _, killed := range []bool{false, true} {
		m := memstore.New(nil)
		calm := newJournal(t, m)
		latest := run(schedule.RunDone)
		latest.Due = someDue.Add(time.Hour)
		if _, err := calm.PutRun(t.Context(), latest, ""); err != nil {
			t.Fatal(err)
		}
		rest := keys(t, m)
		rev, err := calm.PutRun(t.Context(), run(schedule.RunMissed), "")
		if err != nil {
			t.Fatal(err)
		}
		hooked := &hookedStore{Store: m, before: func() {
			if n, err := calm.TrimRuns(t.Context(), "nightly", latest.Due); n != 1 || err != nil {
				t.Fatal(n, err)
			}
		}}
		var s storage.Store = hooked
		if killed {
			s = storetest.NewFaulty(hooked, storetest.Fault{Op: storetest.OpList, Call: 2, On: true}, storetest.Fault{Op: storetest.OpDelete})
		}
		if _, err := newJournal(t, s).PutRun(t.Context(), run(schedule.RunRunning), rev); err == nil {
			t.Error("the sleeper is told that it has won")
		}
		want := schedule.ErrNotFound
		if killed {
			want = schedule.ErrCorrupt
		}
		if _, _, err := calm.GetRun(t.Context(), "nightly", someDue); !errors.Is(err, want) {
			t.Errorf("killed: %v: GetRun: %v, want %v", killed, err, want)
		}
		if _, err := calm.TrimRuns(t.Context(), "nightly", latest.Due); err != nil {
			t.Error(err)
		}
		if left := keys(t, m); !slices.Equal(left, rest) {
			t.Errorf("killed: %v: there are %q", killed, left)
		}
	}
}
