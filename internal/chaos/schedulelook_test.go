package chaos

import (
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/storecatalog"
	"github.com/amberkv/amber/schedule"
	"github.com/amberkv/amber/schedule/storejournal"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
)

// TestJudgeSchedule: a look from outside finds nothing wrong with a sound history of due times, and finds each way in which one can be wrong.
func TestJudgeSchedule(t *testing.T) {
	t.Parallel()
	since := time.Date(2026, 11, 28, 3, 0, 30, 0, time.UTC)
	due := func(minute int) time.Time {
		return since.Truncate(time.Minute).Add(time.Duration(minute) * time.Minute)
	}
	policies := []*DuePolicy{{ID: "p", DataStore: "ds", Minutes: 1, Since: since}, {ID: "q", DataStore: "ds", Minutes: 2, Since: since}}
	m := memstore.New(nil)
	journal, err := storejournal.New(storejournal.Config{Store: m})
	if err != nil {
		t.Fatal(err)
	}
	cat, err := storecatalog.New(storecatalog.Config{Store: m})
	if err != nil {
		t.Fatal(err)
	}
	runner, err := backup.NewRunner(backup.Config{Store: m, Catalog: cat, Leaser: cat})
	if err != nil {
		t.Fatal(err)
	}
	makes := func(policy string, at time.Time, text []byte) catalog.ID {
		b, err := runner.Run(t.Context(), backup.Request{DataStore: "ds", Kind: catalog.KindAutomatic, Policy: policy, DueTime: at, Snapshotter: Bytes(rdbOf(text))})
		if err != nil {
			t.Fatal(err)
		}
		return b.ID
	}
	put := func(r *schedule.Run) {
		r.DataStore = "ds"
		_, rev, _ := journal.GetRun(t.Context(), r.Policy, r.Due)
		if _, err := journal.PutRun(t.Context(), r, rev); err != nil {
			t.Fatal(err)
		}
	}
	done := func(policy string, minute int) *schedule.Run {
		id := makes(policy, due(minute), stamp(policy, due(minute)))
		return &schedule.Run{Policy: policy, Due: due(minute), State: schedule.RunDone, Backup: id, Attempts: []schedule.Attempt{{Owner: "a", Backup: id}}}
	}
	first, other := done("p", 1), done("p", 6)
	put(first)
	put(other)
	put(&schedule.Run{Policy: "p", Due: due(2), State: schedule.RunSkipped, Reason: "busy"})
	put(&schedule.Run{Policy: "p", Due: due(4), State: schedule.RunMissed, Reason: "nobody was there", First: due(3), Count: 2})
	put(&schedule.Run{Policy: "p", Due: due(5), State: schedule.RunFailed, Reason: "no further attempts", Attempts: []schedule.Attempt{{Owner: "a", Error: "x"}, {Owner: "b", Error: "y"}}})
	put(&schedule.Run{Policy: "q", Due: due(6), State: schedule.RunMissed, Reason: "nobody was there", First: due(2), Count: 3})
	scene := map[string][]byte{}
	for info, err := range m.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if scene[info.Key], err = storage.ReadFile(t.Context(), m, info.Key, 1<<20); err != nil {
			t.Fatal(err)
		}
	}
	judge := func() (DueCount, []string) {
		st, err := Look(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		return st.JudgeSchedule(policies, due(6))
	}
	n, wrong := judge()
	if want := (DueCount{Due: 9, Done: 2, Failed: 1, Skipped: 1, Missed: 5, Attempts: 4, TakenOver: 1, Ready: 2}); n != want || len(wrong) > 0 {
		t.Fatalf("of a sound history it says %+v, %q; want %+v", n, wrong, want)
	}
	dir := func(b catalog.ID) string { return "ds/" + string(b) + "/" }
	for want, spoil := range map[string]func(){
		"it is lost: there is no run": func() {
			for info := range m.List(t.Context(), "_schedule/runs/p/") {
				if strings.Contains(info.Key, "T030200Z") {
					m.Delete(t.Context(), info.Key)
				}
			}
		},
		"it has 2 backups that are ready": func() { makes("p", due(1), stamp("p", due(1))) },
		`its run is "skipped"`:            func() { makes("p", due(2), stamp("p", due(2))) },
		`its run is "failed"`:             func() { makes("p", due(5), stamp("p", due(5))) },
		`its run is ""`:                   func() { makes("p", due(9), stamp("p", due(9))) },
		"it is not the backup of policy": func() {
			put(&schedule.Run{Policy: "p", Due: due(7), State: schedule.RunDone, Backup: makes("p", due(7), []byte("another"))})
		},
		"and ready are []": func() {
			if err := runner.Delete(t.Context(), first.Backup); err != nil {
				t.Fatal(err)
			}
		},
		"it is done with backup": func() { put(&schedule.Run{Policy: "p", Due: due(1), State: schedule.RunDone, Backup: other.Backup}) },
		"it is still running":    func() { put(&schedule.Run{Policy: "p", Due: due(2), State: schedule.RunRunning}) },
		"it was skipped without": func() { put(&schedule.Run{Policy: "p", Due: due(2), State: schedule.RunSkipped}) },
		"it was missed without": func() {
			put(&schedule.Run{Policy: "p", Due: due(4), State: schedule.RunMissed, First: due(3), Count: 2})
		},
		"no reason or no attempt": func() {
			put(&schedule.Run{Policy: "p", Due: due(5), State: schedule.RunFailed, Reason: "x"})
		},
		"it is accounted for twice": func() {
			put(&schedule.Run{Policy: "p", Due: due(4), State: schedule.RunMissed, Reason: "nobody was there", First: due(2), Count: 3})
		},
		"there are 4 due times since": func() {
			put(&schedule.Run{Policy: "p", Due: due(4), State: schedule.RunMissed, Reason: "nobody was there", First: due(3), Count: 4})
		},
		"isn't due": func() {
			put(&schedule.Run{Policy: "p", Due: due(1).Add(time.Second), State: schedule.RunSkipped, Reason: "x"})
		},
		"no such policy":                    func() { put(&schedule.Run{Policy: "r", Due: due(1), State: schedule.RunSkipped, Reason: "x"}) },
		"its hash is not that of what is":   func() { flip(t, m, "_schedule/runs/p/", 100) },
		"it has no hash in its end":         func() { flip(t, m, "_schedule/runs/p/", -10) },
		"the manifest says":                 func() { flip(t, m, dir(first.Backup)+"part", 30) },
		"manifest: its hash is not that of": func() { flip(t, m, dir(first.Backup)+"manifest", 30) },
	} {
		spoil()
		if _, wrong := judge(); !strings.Contains(strings.Join(wrong, "\n"), want) {
			t.Errorf("of a history in which %q, it says %q", want, wrong)
		}
		for info := range m.List(t.Context(), "") {
			m.Delete(t.Context(), info.Key)
		}
		for key, data := range scene {
			if err := storage.WriteFile(t.Context(), m, key, data, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, wrong := judge(); len(wrong) > 0 {
		t.Errorf("in the end it says %q", wrong)
	}
}

// flip changes a byte of the last object below a prefix; a negative one counts from the end, and cuts the object there.
func flip(t *testing.T, m *memstore.Store, prefix string, at int) {
	t.Helper()
	key := ""
	for info := range m.List(t.Context(), prefix) {
		key = info.Key
	}
	data, err := storage.ReadFile(t.Context(), m, key, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if at < 0 {
		data = data[:len(data)-80]
	} else {
		data[at] ^= 1
	}
	if err := storage.WriteFile(t.Context(), m, key, data, nil); err != nil {
		t.Fatal(err)
	}
}
