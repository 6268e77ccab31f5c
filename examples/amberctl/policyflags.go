package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/schedule"
)

// policyFlags are the fields of a policy. Only what is given is changed in a policy that there is.
type policyFlags struct {
	set *pflag.FlagSet

	id       string
	disabled bool

	cron, save string
	days       []string
	hours      []string
	minute     int
	daily      []string
	every      time.Duration

	zone    string
	window  time.Duration
	retries int
	catchUp string

	keep       map[string]*int // by the name of the flag
	fall       int
	acceptFall bool

	name     string
	labels   []string
	unlabels []string
}

func (f *policyFlags) add(cmd *cobra.Command) {
	f.set = cmd.Flags()
	f.set.StringVar(&f.id, "id", "", "the data store that the policy is of")
	f.set.BoolVar(&f.disabled, "disabled", false, "make no backups by this policy, but go on with its retention; --disabled=false makes them again")

	f.set.StringVar(&f.cron, "cron", "", "when: five fields of crontab, as '30 2 * * *', or @daily and the like")
	f.set.StringSliceVar(&f.days, "days", nil, "when: days of the week, as mon,thu; every by default; with --hours")
	f.set.StringSliceVar(&f.hours, "hours", nil, "when: hours of the day, as 2,14; every by default; with --days")
	f.set.IntVar(&f.minute, "minute", 0, "of these hours, the minute")
	f.set.StringSliceVar(&f.daily, "daily", nil, "when: times of every day, as 02:30,14:30")
	f.set.DurationVar(&f.every, "every", 0, "when: so often, as 6h")
	f.set.StringVar(&f.save, "save-schedule", "", "when: HH:MM with * and ? in it, as Dragonfly's flag of that name: '*:15'")

	f.set.StringVar(&f.zone, "time-zone", "", "whose wall clock that is, as Europe/Berlin; UTC by default")
	f.set.DurationVar(&f.window, "window", 0, "how long after its due time a backup may start: it is spread over the first half, retries have the rest")
	f.set.IntVar(&f.retries, "retries", 0, fmt.Sprintf("how often a backup that failed is begun again while its window lasts, up to %d", schedule.MaxRetries))
	f.set.StringVar(&f.catchUp, "catch-up", string(schedule.CatchUpLatest), "what becomes of due times at which nothing ran: latest runs the last one if its window lasts, none lets them go")

	f.keep = map[string]*int{}
	for _, k := range []struct{ name, help string }{
		{"keep-days", "keep backups for so many days"},
		{"keep-count", "keep so many backups"},
		{"keep-hourly", "keep the last backup of so many hours"},
		{"keep-daily", "keep the last backup of so many days"},
		{"keep-weekly", "keep the last backup of so many weeks"},
		{"keep-monthly", "keep the last backup of so many months"},
		{"keep-yearly", "keep the last backup of so many years"},
	} {
		f.keep[k.name] = f.set.Int(k.name, 0, k.help)
	}
	f.set.IntVar(&f.fall, "fall-percent", 0, "let go of nothing when the keys have fallen by so many percent; 90 by default, -1 for never minding")
	f.set.BoolVar(&f.acceptFall, "accept-fall", false, "the fall in keys that holds retention now is as it should be")

	f.set.StringVar(&f.name, "backup-name", "", "name of each backup, with {timestamp} in it or {Y}, {m} and {d}")
	f.set.StringArrayVar(&f.labels, "label", nil, "label of each backup, KEY=VALUE; repeatable")
	f.set.StringArrayVar(&f.unlabels, "no-label", nil, "KEY of a label to take away; repeatable")
}

// given tells whether any of the flags is.
func (f *policyFlags) given(names ...string) bool { return slices.ContainsFunc(names, f.set.Changed) }

// any tells whether any field of a policy is given.
func (f *policyFlags) any() bool {
	names := []string{"id", "disabled", "cron", "days", "hours", "minute", "daily", "every", "save-schedule", "time-zone", "window", "retries", "catch-up",
		"fall-percent", "accept-fall", "backup-name", "label", "no-label"}
	for name := range f.keep {
		names = append(names, name)
	}
	return f.given(names...)
}

// apply changes in a policy what is given.
func (f *policyFlags) apply(p *schedule.Policy, now time.Time) error {
	for _, c := range []struct {
		name string
		set  func()
	}{
		{"id", func() { p.DataStore = f.id }},
		{"disabled", func() { p.Enabled = !f.disabled }},
		{"time-zone", func() { p.TimeZone = f.zone }},
		{"window", func() { p.Window = f.window }},
		{"retries", func() { p.Retries = f.retries }},
		{"catch-up", func() { p.CatchUp = schedule.CatchUp(f.catchUp) }},
		{"keep-days", func() { p.Retention.Days = *f.keep["keep-days"] }},
		{"keep-count", func() { p.Retention.Count = *f.keep["keep-count"] }},
		{"keep-hourly", func() { p.Retention.Hourly = *f.keep["keep-hourly"] }},
		{"keep-daily", func() { p.Retention.Daily = *f.keep["keep-daily"] }},
		{"keep-weekly", func() { p.Retention.Weekly = *f.keep["keep-weekly"] }},
		{"keep-monthly", func() { p.Retention.Monthly = *f.keep["keep-monthly"] }},
		{"keep-yearly", func() { p.Retention.Yearly = *f.keep["keep-yearly"] }},
		{"fall-percent", func() { p.Retention.FallPercent = f.fall }},
		{"backup-name", func() { p.BackupName = f.name }},
	} {
		if f.given(c.name) {
			c.set()
		}
	}
	if f.acceptFall {
		p.Retention.FallAccepted = now.UTC()
	}
	for _, label := range f.labels {
		key, value, ok := strings.Cut(label, "=")
		if !ok {
			return usagef("--label %q: write KEY=VALUE", label)
		}
		if p.Labels == nil {
			p.Labels = map[string]string{}
		}
		p.Labels[key] = value
	}
	for _, key := range f.unlabels {
		delete(p.Labels, key)
	}
	return f.when(&p.When)
}

// when changes when backups are due, if that is given: one way takes the place of another.
func (f *policyFlags) when(w *schedule.When) error {
	var ways []string
	for name, flags := range map[string][]string{"--cron": {"cron"}, "--days, --hours and --minute": {"days", "hours", "minute"}, "--daily": {"daily"},
		"--every": {"every"}, "--save-schedule": {"save-schedule"}} {
		if f.given(flags...) {
			ways = append(ways, name)
		}
	}
	slices.Sort(ways)
	switch {
	case len(ways) == 0:
		return nil
	case len(ways) > 1:
		return usagef("%s exclude each other: a policy is due in one way, and a data store may have several policies", strings.Join(ways, " and "))
	case f.given("cron"):
		*w = schedule.When{Cron: f.cron}
	case f.given("daily"):
		*w = schedule.When{Daily: f.daily}
	case f.given("every"):
		*w = schedule.When{Every: f.every}
	case f.given("save-schedule"):
		*w = schedule.When{SaveSchedule: f.save}
	default:
		return f.weekly(w)
	}
	return nil
}

func (f *policyFlags) weekly(w *schedule.When) error {
	weekly := schedule.Weekly{}
	if w.Weekly != nil {
		weekly = *w.Weekly
	}
	if f.given("days") {
		weekly.Days = nil
		for _, text := range f.days {
			if strings.EqualFold(text, "every") && len(f.days) == 1 {
				break
			}
			day, ok := weekday(text)
			if !ok {
				return usagef("--days %q: write days of the week, as mon,thu, or every", text)
			}
			weekly.Days = append(weekly.Days, day)
		}
	}
	if f.given("hours") {
		weekly.Hours = nil
		for _, text := range f.hours {
			if strings.EqualFold(text, "every") && len(f.hours) == 1 {
				break
			}
			hour, err := strconv.Atoi(text)
			if err != nil || hour < 0 || hour > 23 {
				return usagef("--hours %q: write hours of the day from 0 to 23, as 2,14, or every", text)
			}
			weekly.Hours = append(weekly.Hours, hour)
		}
	}
	if f.given("minute") {
		weekly.Minute = f.minute
	}
	*w = schedule.When{Weekly: &weekly}
	return nil
}

// weekday reads a day of the week: its name, or three letters of that or more.
func weekday(text string) (time.Weekday, bool) {
	for d := time.Sunday; d <= time.Saturday; d++ {
		if len(text) >= 3 && strings.HasPrefix(strings.ToLower(d.String()), strings.ToLower(text)) {
			return d, true
		}
	}
	return 0, false
}

// checkPolicy refuses the ID of a policy that can't exist.
func checkPolicy(id string) error {
	if err := catalog.ValidName(id); err != nil {
		return usagef("POLICY %.60q: %w", id, err)
	}
	return nil
}
