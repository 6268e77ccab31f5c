package retention_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/retention"
)

// TestHistories holds Plan against what its documentation says, told again without regard to speed, over histories of every kind.
func TestHistories(t *testing.T) {
	zones := zones(t)
	workers, each := uint64(4), 26_000
	if os.Getenv("CAMPAIGN") != "" {
		each = 1_000_000
	}
	var histories, backups, deleted, held atomic.Int64
	t.Cleanup(func() {
		t.Logf("%d histories with %d ready backups, of which %d go; %d are held", histories.Load(), backups.Load(), deleted.Load(), held.Load())
		if n := histories.Load(); deleted.Load() < n || held.Load() < n/25 || held.Load() > n/2 {
			t.Error("the histories show nothing")
		}
	})
	for w := range workers {
		t.Run(fmt.Sprint(w), func(t *testing.T) {
			t.Parallel()
			for i := range each {
				h := newHistory(rand.New(rand.NewPCG(w, uint64(i))), zones)
				res := h.check(t)
				if t.Failed() {
					t.Fatalf("history %d of %d:\n%s", i, w, h)
				}
				histories.Add(1)
				backups.Add(int64(len(res.Verdicts)))
				deleted.Add(int64(len(gone(res))))
				if res.Held != "" {
					held.Add(1)
				}
			}
		})
	}
}

// TestAppliedAtEveryBackup: retention that is carried out after each backup leaves what it leaves of the same history when it is carried out once, by
// any rules and in any zone, through a year and more of clocks that are set forward and back. And of one backup a day, "N days" leave N or N+1.
func TestAppliedAtEveryBackup(t *testing.T) {
	t.Parallel()
	zones := zones(t)
	for i := range 35 {
		r := rand.New(rand.NewPCG(7, uint64(i)))
		rules, loc := someRules(r), zones[i%len(zones)]
		rules.FallPercent = -1
		if i%5 == 0 {
			rules = retention.Rules{Days: 1 + r.IntN(40)}
		}
		p := retention.Promises{Policies: map[string]retention.PolicyRules{"p": {Rules: rules, Location: loc}}}
		if loc == nil {
			loc = time.UTC
		}
		var all, left []*catalog.Backup
		hours := []int{2, 0, 23, r.IntN(24)}[r.IntN(4)]
		for day := range 500 {
			due := time.Date(2025, 1, 1+day, hours, 30, 0, 0, loc).UTC()
			b := made(due.Add(time.Duration(r.IntN(90))*time.Minute), by("p"))
			b.DueTime = due
			all, left = append(all, b), append(left, b)
			res := retention.Plan(left, p, b.CreatedAt.Add(time.Hour))
			if res.Held != "" {
				t.Fatal(res.Held)
			}
			out := gone(res)
			left = slices.DeleteFunc(left, func(b *catalog.Backup) bool { return slices.Contains(out, b.ID) })
			if i%5 == 0 && day > rules.Days && len(left) != rules.Days && len(left) != rules.Days+1 {
				t.Fatalf("on day %d there are %d, the rule is %d days", day, len(left), rules.Days)
			}
			if day%90 != 0 && day < 495 {
				continue
			}
			out = gone(retention.Plan(all, p, b.CreatedAt.Add(time.Hour)))
			once := slices.DeleteFunc(slices.Clone(all), func(b *catalog.Backup) bool { return slices.Contains(out, b.ID) })
			if !slices.Equal(left, once) {
				t.Fatalf("by %+v in %s, day %d: daily %d are left, at once %d", rules, loc, day, len(left), len(once))
			}
		}
	}
}

// zones are some in which clocks are set forward and back, by an hour and by half of one, and one in which that was a minute after midnight.
func zones(t *testing.T) []*time.Location {
	t.Helper()
	all := []*time.Location{nil}
	for _, name := range []string{"Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Seoul", "America/St_Johns", "Pacific/Apia"} {
		loc, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, loc)
	}
	return all
}

// A history are backups of a data store, and what was promised about them.
type history struct {
	rand     *rand.Rand
	backups  []*catalog.Backup
	promises retention.Promises
	now      time.Time
}

func newHistory(r *rand.Rand, zones []*time.Location) *history {
	h := &history{rand: r, promises: retention.Promises{Policies: map[string]retention.PolicyRules{}, InUse: map[catalog.ID]string{}}}
	some := func(one, of int) bool { return r.IntN(of) < one }
	for _, p := range []string{"p", "q"}[:r.IntN(3)] {
		h.promises.Policies[p] = retention.PolicyRules{Rules: someRules(r), Location: zones[r.IntN(len(zones))]}
	}
	steps := []time.Duration{20 * time.Minute, time.Hour, 5 * time.Hour, 24 * time.Hour, 24 * time.Hour, 7 * 24 * time.Hour, 31 * 24 * time.Hour, 380 * 24 * time.Hour}
	step := steps[r.IntN(len(steps))]
	adopts, falls, last := some(1, 4), some(1, 3), int64(1000)
	at := time.Date(2006+r.IntN(24), time.Month(1+r.IntN(12)), 1+r.IntN(31), r.IntN(24), r.IntN(60), r.IntN(60), 0, time.UTC)
	for i := range r.IntN(16) {
		switch {
		case some(1, 30): // at the same time
		case some(1, 60):
			at = at.Add(time.Duration(r.IntN(900)) * 24 * time.Hour)
		default:
			at = at.Add(step/2 + time.Duration(r.Int64N(int64(step))))
		}
		b := made(at)
		b.ID = catalog.ID(at.Format("20060102T150405.000Z-") + string([]byte{'a', 'a', 'a', byte('a' + i)}))
		h.backups = append(h.backups, b)
		if falls && some(1, 6) {
			last = int64(r.IntN(100)) * last / 50
		}
		b.Keys = last
		if some(3, 4) {
			b.Kind, b.Policy = catalog.KindAutomatic, []string{"p", "p", "q", "removed", ""}[r.IntN(5)]
			switch r.IntN(4) {
			case 0: // it doesn't say when it was due
			case 1:
				b.DueTime = at.Add(time.Duration(r.IntN(60)) * time.Second) // nor can it have been due then
			default:
				b.DueTime = at.Add(-time.Duration(r.IntN(7200)) * time.Second).Truncate(time.Minute)
			}
		} else {
			b.Kind = []catalog.Kind{catalog.KindManual, catalog.KindImport, catalog.KindSafety, catalog.KindShutdown}[r.IntN(4)]
			if some(1, 6) {
				b.Policy = "p" // which means nothing
			}
		}
		if some(1, 2) { // what a policy made may say it too, for nothing
			b.DeleteAfter = at.Add(time.Duration(r.Int64N(int64(8 * step))))
		}
		if some(1, 12) {
			b.State = []catalog.State{catalog.StateRunning, catalog.StateFailed, catalog.StateInterrupted, catalog.StateDeleting}[r.IntN(4)]
			b.ReadyAt = time.Time{}
		}
		b.Pinned = some(1, 25)
		if some(1, 25) {
			h.promises.InUse[b.ID] = []string{"a restore", ""}[r.IntN(2)]
		}
		b.Parts = []catalog.Part{{Name: "part-0000.rdb"}, {Name: "part-0001.rdb", Adopted: adopts && some(1, 2)}}
	}
	h.now = at.Add(2*time.Second + time.Duration(r.Int64N(int64(4*step))))
	switch {
	case some(1, 40):
		h.now = at.Add(time.Duration(r.IntN(300)-200) * time.Second)
	case some(1, 60):
		h.promises.Distrust = "somebody says so"
	case some(1, 15):
		h.promises.FallAccepted = at.Add(-time.Duration(r.Int64N(int64(8 * step))))
	}
	r.Shuffle(len(h.backups), func(i, j int) { h.backups[i], h.backups[j] = h.backups[j], h.backups[i] })
	return h
}

func someRules(r *rand.Rand) (rules retention.Rules) {
	for _, field := range fields(&rules) {
		if r.IntN(4) == 0 {
			*field = 1 + r.IntN(6)
		}
	}
	if rules.Days > 0 && r.IntN(2) == 0 {
		rules.Days *= 30
	}
	if r.IntN(4) == 0 {
		rules.FallPercent = []int{-1, 1, 50, 99, 100}[r.IntN(5)]
	}
	if r.IntN(20) == 0 {
		rules.FallAccepted = time.Date(2006+r.IntN(24), 6, 1, 0, 0, 0, 0, time.UTC)
	}
	return rules
}

// fields are those that keep backups.
func fields(r *retention.Rules) []*int {
	return []*int{&r.Days, &r.Count, &r.Hourly, &r.Daily, &r.Weekly, &r.Monthly, &r.Yearly}
}

func (h *history) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "now %v\npromises %+v\n", h.now, h.promises)
	for _, b := range h.backups {
		fmt.Fprintf(&s, "%s %s %s policy %q due %v until %v keys %d pinned %v adopted %v\n", b.ID, b.State, b.Kind, b.Policy, b.DueTime, b.DeleteAfter, b.Keys, b.Pinned, isAdopted(b))
	}
	return s.String()
}

// gone are the IDs of what a plan lets go of.
func gone(res retention.Result) (ids []catalog.ID) {
	for _, v := range res.Verdicts {
		if v.Delete {
			ids = append(ids, v.Backup.ID)
		}
	}
	return ids
}

// check makes a plan for the history, and holds all that has to be true of it.
func (h *history) check(t *testing.T) retention.Result {
	given := slices.Clone(h.backups)
	res := retention.Plan(h.backups, h.promises, h.now)
	ready := ready(h.backups)
	if len(res.Verdicts) != len(ready) || !slices.Equal(given, h.backups) {
		t.Errorf("%d verdicts of %d backups; or they were moved", len(res.Verdicts), len(ready))
		return res
	}
	// By the documentation, told again.
	keep := make([]bool, len(ready))
	goes := false
	for i, b := range ready {
		keep[i] = h.keeps(ready, b)
		goes = goes || !keep[i]
	}
	held := h.held(ready, goes)
	for i, v := range res.Verdicts {
		if v.Backup != ready[i] {
			t.Errorf("verdict %d is of %s, want %s", i, v.Backup.ID, ready[i].ID)
		}
		if v.Delete != (!keep[i] && !held) {
			t.Errorf("%s: deleted %v for %q; it is to be kept: %v, held: %v", v.Backup.ID, v.Delete, v.Reasons, keep[i], held)
		}
		if len(v.Reasons) == 0 || slices.Contains(v.Reasons, "") {
			t.Errorf("%s has no reason: %q", v.Backup.ID, v.Reasons)
		}
		if v.Delete && (i == 0 || v.Backup.Pinned) {
			t.Errorf("%s, number %d, goes", v.Backup.ID, i)
		}
	}
	if (res.Held != "") != held {
		t.Errorf("held: %q, want %v", res.Held, held)
	}
	// The order in which they are given means nothing.
	if h.rand.IntN(4) == 0 {
		slices.Reverse(given)
		if again := retention.Plan(given, h.promises, h.now); !reflect.DeepEqual(again, res) {
			t.Errorf("in another order the plan is another one: %+v\n%+v", again, res)
		}
	}
	// What was let go of is no reason for anything: the rest stays.
	out := gone(res)
	if len(out) > 0 {
		left := slices.DeleteFunc(given, func(b *catalog.Backup) bool { return slices.Contains(out, b.ID) })
		if again := gone(retention.Plan(left, h.promises, h.now)); len(again) > 0 {
			t.Errorf("after that was done, %v go too", again)
		}
	}
	h.shorten(t, res)
	return res
}

// shorten makes a rule shorter, which keeps nothing more, unless it was the last: then there is no rule any more.
func (h *history) shorten(t *testing.T, before retention.Result) {
	p, ok := h.promises.Policies["p"]
	if !ok || before.Held != "" {
		return
	}
	set := slices.DeleteFunc(fields(&p.Rules), func(f *int) bool { return *f == 0 })
	if len(set) == 0 {
		return
	}
	*set[h.rand.IntN(len(set))]--
	if p.Rules.Empty() {
		return
	}
	shorter := h.promises
	shorter.Policies = maps.Clone(h.promises.Policies)
	shorter.Policies["p"] = p
	after := retention.Plan(h.backups, shorter, h.now)
	for _, id := range gone(before) {
		if after.Held == "" && !slices.Contains(gone(after), id) {
			t.Errorf("%s goes, and by the shorter rules %+v it stays", id, p.Rules)
		}
	}
}

// ready are the backups that count, newest first.
func ready(all []*catalog.Backup) (out []*catalog.Backup) {
	for _, b := range all {
		if b.State == catalog.StateReady {
			out = append(out, b)
		}
	}
	slices.SortFunc(out, func(a, b *catalog.Backup) int { return strings.Compare(string(b.ID), string(a.ID)) }) // as they begin with the time
	return out
}

func isAdopted(b *catalog.Backup) bool { return b.Parts[0].Adopted || b.Parts[1].Adopted }

// timeOf is the time of a backup in its policy's calendar.
func timeOf(b *catalog.Backup) time.Time {
	if !b.DueTime.IsZero() && !b.CreatedAt.Before(b.DueTime) {
		return b.DueTime
	}
	return b.CreatedAt
}

// later tells whether a backup is a later one of its policy than another.
func later(a, b *catalog.Backup) bool {
	if x, y := timeOf(a), timeOf(b); !x.Equal(y) {
		return x.After(y)
	}
	return a.ID > b.ID
}

// keeps tells whether something keeps a backup if retention isn't held.
func (h *history) keeps(ready []*catalog.Backup, b *catalog.Backup) bool {
	newest, newestOwn := true, !isAdopted(b)
	var policy []*catalog.Backup
	for _, c := range ready {
		if c.ID > b.ID {
			newest = false
			newestOwn = newestOwn && isAdopted(c)
		}
		if c.Kind == catalog.KindAutomatic && c.Policy == b.Policy {
			policy = append(policy, c)
		}
	}
	if _, used := h.promises.InUse[b.ID]; used || newest || newestOwn || b.Pinned {
		return true
	}
	if b.Kind != catalog.KindAutomatic || b.Policy == "" {
		return b.DeleteAfter.IsZero() || b.DeleteAfter.After(h.now)
	}
	rules, there := h.promises.Policies[b.Policy]
	r := rules.Rules
	if !there || r.Days+r.Count+r.Hourly+r.Daily+r.Weekly+r.Monthly+r.Yearly == 0 {
		return true
	}
	loc := rules.Location
	if loc == nil {
		loc = time.UTC
	}
	laterOnes := 0
	for _, c := range policy {
		if later(c, b) {
			laterOnes++
		}
		if timeOf(c).Sub(timeOf(b)) > time.Duration(r.Days)*24*time.Hour {
			r.Days = 0
		}
	}
	if r.Days > 0 || laterOnes < r.Count {
		return true
	}
	for n, name := range map[*int]func(t time.Time) string{
		&r.Hourly: func(t time.Time) string { return t.Format("2006-01-02 15 -0700") },
		&r.Daily:  func(t time.Time) string { return t.Format("2006-01-02") },
		&r.Weekly: func(t time.Time) string {
			t = time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC)
			for t.Weekday() != time.Monday {
				t = t.AddDate(0, 0, -1)
			}
			return t.Format("2006-01-02")
		},
		&r.Monthly: func(t time.Time) string { return t.Format("2006-01") },
		&r.Yearly:  func(t time.Time) string { return t.Format("2006") },
	} {
		if *n == 0 {
			continue
		}
		mine := name(timeOf(b).In(loc))
		newer := map[string]bool{} // the periods that have a later one
		for _, c := range policy {
			if later(c, b) {
				newer[name(timeOf(c).In(loc))] = true
			}
		}
		if !newer[mine] && len(newer) < *n {
			return true
		}
	}
	return false
}

// held tells whether nothing may be let go of.
func (h *history) held(ready []*catalog.Backup, goes bool) bool {
	if len(ready) == 0 {
		return false
	}
	if h.promises.Distrust != "" {
		return true
	}
	for _, b := range ready {
		if b.CreatedAt.Sub(h.now) > time.Minute || b.ReadyAt.Sub(h.now) > time.Minute {
			return true
		}
	}
	// late tells whether a backup came long after another, and not long ago.
	late := func(after, before *catalog.Backup) bool {
		return after.CreatedAt.Sub(before.CreatedAt) > 400*24*time.Hour && h.now.Sub(after.CreatedAt) < 7*24*time.Hour
	}
	if goes && len(ready) > 1 && late(ready[0], ready[1]) {
		return true
	}
	for _, policy := range []string{"", "p", "q"} {
		rules, there := h.promises.Policies[policy]
		if policy != "" && !there {
			continue
		}
		var all []*catalog.Backup
		for _, b := range ready {
			if own := b.Kind == catalog.KindAutomatic; own && b.Policy == policy || !own && policy == "" && b.Kind != catalog.KindImport && b.Kind != catalog.KindSafety {
				all = append(all, b)
			}
		}
		if policy != "" {
			slices.SortFunc(all, func(a, b *catalog.Backup) int {
				if later(a, b) {
					return -1
				}
				return 1
			})
		}
		percent := int64(rules.Rules.FallPercent)
		if percent == 0 {
			percent = 90
		}
		if percent > 0 && len(all) > 0 {
			for _, b := range all[1:] {
				if b.CreatedAt.Before(all[0].CreatedAt) && !b.CreatedAt.Before(h.promises.FallAccepted) &&
					!b.CreatedAt.Before(rules.Rules.FallAccepted) && b.Keys > 0 && all[0].Keys*100 <= b.Keys*(100-percent) {
					return true
				}
			}
		}
		if policy == "" || !goes || rules.Rules == (retention.Rules{FallPercent: rules.Rules.FallPercent, FallAccepted: rules.Rules.FallAccepted}) {
			continue
		}
		unpinned := slices.DeleteFunc(all, func(b *catalog.Backup) bool { return b.Pinned })
		for i := 1; i < len(unpinned); i++ {
			if late(unpinned[i-1], unpinned[i]) {
				return true
			}
		}
	}
	return false
}
