package retention

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/amberkv/amber/catalog"
)

const (
	// clockTolerance is how far a backup may be in the future: so far the clocks of a host's machines may be apart.
	clockTolerance = time.Minute
	// clockGap is how long after the one before it a backup may come, without anybody having to ask whether its clock was right. Backups that are
	// made once a year come sooner.
	clockGap = 400 * 24 * time.Hour
	// clockTrust is after which time a backup that came so late is believed: a clock that was wrong for so long, with nobody noticing, is beyond help.
	clockTrust = 7 * 24 * time.Hour
)

// Plan says what is to become of the backups of one data store, given in any order, and why. Only those that are ready count and have a
// verdict. Plan looks at nothing but what it is given: the same gives the same.
//
// A backup of catalog.KindAutomatic that has a policy follows that policy's rules: one that any rule keeps is kept. If the policy isn't there,
// or its rules say nothing, the backup is kept. All others follow Backup.DeleteAfter: they are kept until then, or for ever if there is none.
//
// Whatever these say, some are never let go of: what is pinned, what somebody reads, the newest backup of the data store, and the newest of those
// that aren't adopted. What is adopted a server may overwrite at any moment, so it must not be what the last copy of Amber's own is let go for.
//
// Nothing at all is let go of while retention is held:
//   - when the clock isn't to be trusted: Promises.Distrust says so, a backup is more than a minute in the future, or the newest one came
//     more than 400 days after the one before it, among all or among those of its policy, less than a week ago: then the clock may have been
//     wrong when that was made, and may be so still. In that case Held is told only if something would be let go of.
//   - when the keys have fallen: the newest backup of a policy has fewer of them, by Rules.FallPercent or more, than one of that
//     policy which is older and still there. Each policy's are compared among themselves, as they may be of different hours; a fall that one of
//     them shows holds them all. Manual and shutdown backups, and automatic ones without a policy, are compared among themselves likewise, by
//     DefaultFall. Imports and safety copies tell nothing about the data store and aren't looked at; nor are those of a policy that isn't there.
//     That ends when the keys are back, when it is accepted (see Rules and Promises), or when a person has deleted the larger ones.
func Plan(backups []*catalog.Backup, p Promises, now time.Time) Result {
	var ready []*catalog.Backup
	for _, b := range backups {
		if b != nil && b.State == catalog.StateReady {
			ready = append(ready, b)
		}
	}
	slices.SortFunc(ready, newestFirst)
	if len(ready) == 0 {
		return Result{}
	}
	all := split(ready, p)
	verdicts := map[*catalog.Backup]Verdict{}
	for _, s := range all {
		for i, v := range s.judge(now) {
			verdicts[s.backups[i]] = v
		}
	}
	res := Result{Verdicts: make([]Verdict, len(ready))}
	own := slices.IndexFunc(ready, func(b *catalog.Backup) bool { return !adopted(b) })
	deletes := false
	for i, b := range ready {
		res.Verdicts[i] = guard(b, verdicts[b], guards(b, i == 0, i == own, p))
		deletes = deletes || res.Verdicts[i].Delete
	}
	res.Held = strings.Join(held(ready, all, p, now, deletes), "; ")
	if res.Held == "" {
		return res
	}
	for i, v := range res.Verdicts {
		if v.Delete {
			res.Verdicts[i] = guard(ready[i], v, []string{"held: " + res.Held})
		}
	}
	return res
}

// newestFirst orders backups by when they began.
func newestFirst(a, b *catalog.Backup) int {
	return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(b.ID, a.ID))
}

// guards says what keeps a backup whatever was promised about it.
func guards(b *catalog.Backup, newest, newestOwn bool, p Promises) []string {
	var why []string
	if newest {
		why = append(why, "the newest good one of its data store")
	} else if newestOwn {
		why = append(why, "the newest good one of its data store that is Amber's own: those after it are adopted")
	}
	if b.Pinned {
		why = append(why, "pinned")
	}
	if reader, ok := p.InUse[b.ID]; ok {
		why = append(why, "in use by "+cmp.Or(reader, "somebody"))
	}
	return why
}

// guard keeps a backup if there are reasons to. Those that let it go are told still, behind them.
func guard(b *catalog.Backup, v Verdict, why []string) Verdict {
	if len(why) > 0 && v.Delete {
		for _, over := range v.Reasons {
			why = append(why, "otherwise it would go: "+over)
		}
		return Verdict{Backup: b, Reasons: why}
	}
	return Verdict{Backup: b, Delete: v.Delete, Reasons: append(why, v.Reasons...)}
}

// adopted tells whether a backup has a part that isn't its own.
func adopted(b *catalog.Backup) bool {
	return slices.ContainsFunc(b.Parts, func(p catalog.Part) bool { return p.Adopted })
}

// A series are backups that go by the same promise.
type series struct {
	policy  string // the ID of theirs, if they have one
	gone    bool   // it isn't there
	rules   PolicyRules
	backups []*catalog.Backup // newest first
}

// split makes series of the backups of a data store: one of each policy, by ID, and before them that of those without.
func split(ready []*catalog.Backup, p Promises) []*series {
	byPolicy := map[string]*series{}
	var all []*series
	for _, b := range ready {
		id := ""
		if b.Kind == catalog.KindAutomatic {
			id = b.Policy
		}
		s := byPolicy[id]
		if s == nil {
			s = &series{policy: id}
			if id != "" {
				rules, ok := p.Policies[id]
				s.rules, s.gone = rules, !ok
			}
			byPolicy[id] = s
			all = append(all, s)
		}
		s.backups = append(s.backups, b)
	}
	slices.SortFunc(all, func(a, b *series) int { return strings.Compare(a.policy, b.policy) })
	for _, s := range all {
		if s.policy != "" {
			slices.SortStableFunc(s.backups, func(a, b *catalog.Backup) int { return at(b).Compare(at(a)) })
		}
	}
	return all
}

// judge says what was promised about each of the backups.
func (s *series) judge(now time.Time) []Verdict {
	if s.policy != "" && !s.gone {
		return s.rules.Rules.judge(s.backups, s.rules.Location)
	}
	verdicts := make([]Verdict, len(s.backups))
	for i, b := range s.backups {
		v := &verdicts[i]
		switch after := b.DeleteAfter.UTC().Format(time.RFC3339); {
		case s.gone:
			v.Reasons = []string{fmt.Sprintf("its policy %s is not there, so nobody says how long it is kept", s.policy)}
		case b.DeleteAfter.IsZero():
			v.Reasons = []string{"kept until somebody deletes it"}
		case now.Before(b.DeleteAfter):
			v.Reasons = []string{"kept until " + after}
		default:
			v.Delete, v.Reasons = true, []string{"it was to be kept until " + after}
		}
	}
	return verdicts
}

// held says why nothing is to be let go of. deletes tells whether anything would be.
func held(ready []*catalog.Backup, all []*series, p Promises, now time.Time, deletes bool) []string {
	var why []string
	if p.Distrust != "" {
		why = append(why, "the clock is not to be trusted: "+p.Distrust)
	}
	if early := future(ready, now); early != "" {
		why = append(why, early)
	}
	if deletes {
		if late := gap(ready, "", now); late != "" {
			why = append(why, late)
		} else {
			for _, s := range all {
				if late := s.gap(now); late != "" {
					why = append(why, late)
				}
			}
		}
	}
	for _, s := range all {
		if fell := s.fell(p.FallAccepted); fell != "" {
			why = append(why, fell)
		}
	}
	return why
}

// future finds a backup that was made after now.
func future(ready []*catalog.Backup, now time.Time) string {
	for _, b := range ready {
		made := b.CreatedAt
		if b.ReadyAt.After(made) {
			made = b.ReadyAt
		}
		if made.After(now.Add(clockTolerance)) {
			return fmt.Sprintf("the clock is not to be trusted: it says %s, and backup %s was made at %s", stamp(now), b.ID, stamp(made))
		}
	}
	return ""
}

// gap finds out whether the newest of some backups came so long after the one before it that a clock may have been wrong.
func gap(backups []*catalog.Backup, what string, now time.Time) string {
	if len(backups) < 2 {
		return ""
	}
	after, before := backups[0], backups[1]
	d := after.CreatedAt.Sub(before.CreatedAt)
	if d <= clockGap || now.Sub(after.CreatedAt) >= clockTrust {
		return ""
	}
	return fmt.Sprintf("the clock may have been wrong: backup %s%s comes %s after %s, the one before it; it is believed if it is still so on %s",
		after.ID, what, long(d), before.ID, after.CreatedAt.Add(clockTrust).UTC().Format(time.DateOnly))
}

// gap looks for such a gap between the backups of a policy that its rules alone keep. As long as nothing is let go of, all that were made
// since are there: so the first of them counts, and a clock that stays wrong is not believed with the second backup.
func (s *series) gap(now time.Time) string {
	if s.policy == "" || s.gone || s.rules.Rules.Empty() {
		return ""
	}
	unpinned := slices.DeleteFunc(slices.Clone(s.backups), func(b *catalog.Backup) bool { return b.Pinned })
	for i := range unpinned {
		if late := gap(unpinned[i:], " of policy "+s.policy, now); late != "" {
			return late
		}
	}
	return ""
}

// fell says by how much the keys have fallen, if that is too much.
func (s *series) fell(accepted time.Time) string {
	percent, limited := s.rules.Rules.fall()
	if s.gone || !limited {
		return ""
	}
	if s.rules.Rules.FallAccepted.After(accepted) {
		accepted = s.rules.Rules.FallAccepted
	}
	var newest, most *catalog.Backup
	for _, b := range s.backups {
		switch {
		case b.Kind == catalog.KindImport || b.Kind == catalog.KindSafety:
		case newest == nil:
			newest = b
		case b.CreatedAt.Before(newest.CreatedAt) && !b.CreatedAt.Before(accepted) && (most == nil || b.Keys > most.Keys):
			most = b
		}
	}
	if most == nil || most.Keys <= 0 || float64(newest.Keys)*100 > float64(most.Keys)*float64(100-percent) {
		return ""
	}
	whose := ""
	if s.policy != "" {
		whose = " of policy " + s.policy
	}
	return fmt.Sprintf("the keys have fallen by %d %%, the limit is %d %%: the newest backup%s, %s, has %d and %s has %d; accept that if it is right, or delete those that have more",
		int(100-100*float64(newest.Keys)/float64(most.Keys)), percent, whose, newest.ID, newest.Keys, most.ID, most.Keys)
}

// count prints a number of things.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// oneOf prints which backups a count keeps.
func oneOf(n int) string {
	if n == 1 {
		return "the newest one of its policy"
	}
	return fmt.Sprintf("one of the newest %d of its policy", n)
}

// long prints a time for people, as exact as they need it.
func long(d time.Duration) string {
	days, hours, minutes := int(d/(24*time.Hour)), int(d/time.Hour)%24, int(d/time.Minute)%60
	switch {
	case days > 0 && hours == 0 && minutes == 0:
		return count(days, "day")
	case days > 0 && hours == 0:
		return fmt.Sprintf("%s %d min", count(days, "day"), minutes)
	case days > 0:
		return fmt.Sprintf("%s %d h", count(days, "day"), hours)
	case hours > 0:
		return fmt.Sprintf("%d h %d min", hours, minutes)
	}
	return fmt.Sprintf("%d min", minutes)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
