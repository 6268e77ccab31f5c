package chaos

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
)

// A DuePolicy is a policy as a look from outside knows it: it is due at every so many whole minutes of Unix time after Since.
type DuePolicy struct {
	ID, DataStore string
	Minutes       int
	Since         time.Time
}

// dueTimes returns the due times from the first after Since until a moment.
func (p *DuePolicy) dueTimes(until time.Time) []int64 {
	var out []int64
	step := int64(p.Minutes) * 60
	for due := (p.Since.Unix()/step + 1) * step; due <= until.Unix(); due += step {
		out = append(out, due)
	}
	return out
}

// A DueRun is what the store says became of a due time.
type DueRun struct {
	Policy, DataStore, State, Reason string
	Due, First                       time.Time
	Count                            int
	Backup                           string
	Attempts                         []struct{ Owner, Backup, Error string }
}

// Runs decodes the records of due times, by themselves: the highest version of each is the record. What can't be trusted is told.
func (st *State) Runs() (runs []*DueRun, wrong []string) {
	highest := map[string]string{}
	for key := range st.Objects {
		if strings.HasPrefix(key, "_schedule/runs/") {
			dir := path.Dir(key)
			highest[dir] = max(highest[dir], key)
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(highest)) {
		data := st.Objects[highest[dir]].data
		const field = ",\n  \"sha256\": \""
		var rec struct{ Run *DueRun }
		at := bytes.LastIndex(data, []byte(field))
		if at < 0 {
			wrong = append(wrong, highest[dir]+": it has no hash in its end")
			continue
		}
		sum := sha256.Sum256(data[:at])
		switch err := json.Unmarshal(data, &rec); {
		case string(data[at:]) != field+hex.EncodeToString(sum[:])+"\"\n}\n":
			wrong = append(wrong, highest[dir]+": its hash is not that of what is before it")
		case err != nil || rec.Run == nil:
			wrong = append(wrong, fmt.Sprintf("%s: it has no run: %v", highest[dir], err))
		default:
			runs = append(runs, rec.Run)
		}
	}
	return runs, wrong
}

// A DueCount says what became of due times, and of the attempts at them.
type DueCount struct {
	Due, Done, Failed, Skipped, Missed int
	Attempts                           int
	TakenOver                          int // runs that several schedulers had
	Ready                              int // backups
}

// JudgeSchedule holds a store against what is promised about due times: each until a moment is accounted for once, with the backup that it got or the
// reason why it got none; no due time has two backups, none has that of another, and every backup is whole.
func (st *State) JudgeSchedule(policies []*DuePolicy, until time.Time) (n DueCount, wrong []string) {
	complain := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	wrong = st.Violations()
	runs, bad := st.Runs()
	wrong = append(wrong, bad...)
	type key struct {
		policy string
		due    int64
	}
	name := func(k key) string {
		return fmt.Sprintf("policy %s due at %s", k.policy, time.Unix(k.due, 0).UTC().Format(time.RFC3339))
	}
	backups := map[key][]string{} // ready ones
	for _, dir := range st.Ready() {
		b := st.Backups[dir]
		k := key{b.Policy, b.DueTime.Unix()}
		backups[k] = append(backups[k], b.ID)
		n.Ready++
		if why := st.stamped(b); why != "" {
			complain("%s: %s", dir, why)
		}
	}
	byID := map[string]*DuePolicy{}
	expected := map[key]bool{}
	for _, p := range policies {
		byID[p.ID] = p
		for _, due := range p.dueTimes(until.Add(24 * time.Hour)) {
			expected[key{p.ID, due}] = true
		}
	}
	done, seen := map[key]string{}, map[key]string{}
	for _, r := range runs {
		k := key{r.Policy, r.Due.Unix()}
		p := byID[r.Policy]
		if p == nil || p.DataStore != r.DataStore {
			complain("%s: there is a run of data store %s, and no such policy", name(k), r.DataStore)
			continue
		}
		first := k.due
		if r.Count > 1 {
			first = r.First.Unix()
		}
		covered := 0
		for due := first; due <= k.due; due += int64(p.Minutes) * 60 {
			at := key{r.Policy, due}
			covered++
			switch {
			case !expected[at]:
				complain("%s: it is %s, and isn't due", name(at), r.State)
			case seen[at] != "":
				complain("%s: it is accounted for twice, as %s and as %s", name(at), seen[at], r.State)
			}
			seen[at] = r.State
		}
		if covered != max(1, r.Count) || r.Count > 1 && r.State != "missed" {
			complain("%s: a run that is %s says that there are %d due times since %s, there are %d", name(k), r.State, r.Count, r.First, covered)
		}
		n.Attempts += len(r.Attempts)
		owners := map[string]bool{}
		for _, a := range r.Attempts {
			owners[a.Owner] = true
		}
		if len(owners) > 1 {
			n.TakenOver++
		}
		switch r.State {
		case "done":
			n.Done++
			done[k] = r.Backup
			if got := backups[k]; len(got) != 1 || got[0] != r.Backup {
				complain("%s: it is done with backup %q, and ready are %q", name(k), r.Backup, got)
			}
		case "failed":
			n.Failed++
			if r.Reason == "" || len(r.Attempts) == 0 {
				complain("%s: it has failed, and there is no reason or no attempt: %+v", name(k), r)
			}
		case "skipped":
			n.Skipped++
			if r.Reason == "" {
				complain("%s: it was skipped without a reason", name(k))
			}
		case "missed":
			n.Missed += covered
			if r.Reason == "" {
				complain("%s: it was missed without a reason", name(k))
			}
		default:
			complain("%s: it is still %s", name(k), r.State)
		}
	}
	for k, got := range backups {
		if len(got) > 1 {
			complain("%s: it has %d backups that are ready: %q", name(k), len(got), got)
		}
		if done[k] == "" {
			complain("%s: it has the backups %q, and its run is %q", name(k), got, seen[k])
		}
	}
	for _, p := range policies {
		for _, due := range p.dueTimes(until) {
			n.Due++
			if k := (key{p.ID, due}); seen[k] == "" {
				complain("%s: it is lost: there is no run", name(k))
			}
		}
	}
	slices.Sort(wrong)
	return n, wrong
}

// stamped says what is wrong with what a backup holds: that of its due time, or at least of its data store.
func (st *State) stamped(b *Backup) string {
	want := stamp(b.Policy, b.DueTime)
	for _, p := range b.Parts {
		z, err := zstd.NewReader(bytes.NewReader(st.Objects[p.Key].data))
		if err != nil {
			return err.Error()
		}
		defer z.Close()
		raw, err := io.ReadAll(z)
		if err != nil {
			return err.Error()
		}
		if !bytes.Contains(raw, want) && !bytes.Contains(raw, storeStamp(b.DataStore)) {
			return fmt.Sprintf("it is not %s", want)
		}
	}
	return ""
}
