package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog/retention"
	"github.com/amberkv/amber/schedule"
)

// limits are what a person who has the store to themselves may want: a hundred years. A managed service chooses its own.
var limits = schedule.Limits{MaxRetentionDays: 36525}

func (a *app) policyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Say when data stores are backed up, and how long backups are kept",
		Long: `Say when data stores are backed up, and how long these backups are kept. A data store may have any number of policies. They are kept
in the store, and 'amberctl schedule run' makes the backups.`,
		Example: `  amberctl policy set nightly --id orders --daily 02:30 --window 2h --retries 3 --keep-days 14
  amberctl policy explain nightly
  amberctl policy set nightly --keep-days 7
  amberctl policy list --id orders`,
		Args: cobra.ArbitraryArgs,
		RunE: needCommand,
	}
	cmd.AddCommand(a.policySetCommand(), a.policyGetCommand(), a.policyListCommand(), a.policyRemoveCommand(), a.policyExplainCommand())
	return cmd
}

func (a *app) policySetCommand() *cobra.Command {
	var f policyFlags
	cmd := &cobra.Command{
		Use:   "set POLICY [--id DATASTORE] [flags]",
		Short: "Create a policy, or change what is given of one",
		Long: `Create a policy of that name, or change the one that there is: what isn't given stays as it is. A change takes effect at once, on all
machines that run schedules, and backups that the policy doesn't keep any more are deleted at once.

Of the flags that say when, one way is given: --cron; --days and --hours; --daily; --every; --save-schedule. A new policy needs
that, and --id. Backups that any of the --keep flags keeps are kept; without any all of them are. 0 takes a rule away. The newest backup of
a data store is never deleted, nor anything that is pinned or being read.`,
		Example: `  amberctl policy set nightly --id orders --daily 02:30 --time-zone Europe/Berlin --window 2h --retries 3 --keep-days 14
  amberctl policy set hourly --id orders --cron '15 * * * *' --keep-hourly 24 --keep-daily 7 --keep-weekly 4
  amberctl policy set weekend --id carts --days sat,sun --hours 4,16 --label tier=gold
  amberctl policy set nightly --disabled`,
		Args:              takes(1, 1, "POLICY"),
		ValidArgsFunction: a.completePolicy,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkPolicy(args[0]); err != nil {
				return err
			}
			if err := checkID(f.id); err != nil {
				return err
			}
			if !f.any() {
				return usagef("nothing is given that could be set: see the flags")
			}
			svc, done, err := a.service(cmd.Context(), amber.Config{})
			if err != nil {
				return err
			}
			defer done()
			p, err := svc.Policy(cmd.Context(), args[0])
			created := errors.Is(err, schedule.ErrNotFound)
			switch {
			case created:
				p = &schedule.Policy{ID: args[0], Enabled: true}
				if f.id == "" {
					return usagef("there is no policy %s yet: --id says which data store a new one is of", args[0])
				}
			case err != nil:
				return explain(cmd.Context(), err, "nothing was changed")
			}
			if err := f.apply(p, time.Now()); err != nil {
				return err
			}
			if err := p.Validate(limits); err != nil {
				return &usageError{err}
			}
			change, err := svc.SetPolicy(cmd.Context(), *p)
			if change == nil {
				return explain(cmd.Context(), err, "look at the policy: it may have been set")
			}
			perr := a.print(change, func(w io.Writer) {
				if a.quiet {
					return
				}
				verb := "changed"
				if created {
					verb = "created"
				}
				fmt.Fprintf(w, "policy %s of %s is %s\n", p.ID, p.DataStore, verb)
				prunedLines(w, change.Prune)
			})
			if err != nil {
				return explain(cmd.Context(), err, "the policy is set; 'amberctl prune' applies its retention")
			}
			return perr
		},
	}
	f.add(cmd)
	return cmd
}

func (a *app) policyGetCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "get POLICY",
		Short:             "Show a policy",
		Args:              takes(1, 1, "POLICY"),
		ValidArgsFunction: a.completePolicy,
		RunE: func(cmd *cobra.Command, args []string) error {
			svc, done, err := a.service(cmd.Context(), amber.Config{})
			if err != nil {
				return err
			}
			defer done()
			p, err := svc.Policy(cmd.Context(), args[0])
			if err != nil {
				return explain(cmd.Context(), noPolicy(err), "showing changes nothing")
			}
			return a.print(p, func(w io.Writer) { showPolicy(w, p) })
		},
	}
}

// noPolicy adds to an error what to do about it.
func noPolicy(err error) error {
	if errors.Is(err, schedule.ErrNotFound) {
		return fmt.Errorf("%w; 'amberctl policy list' shows what there is", err)
	}
	return err
}

func (a *app) policyListCommand() *cobra.Command {
	var id string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List policies",
		Long: `List policies, in the order of their names. One that can't be read is an error on standard error and in the exit status; the others are
listed all the same.`,
		Args: takes(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkID(id); err != nil {
				return err
			}
			svc, done, err := a.service(cmd.Context(), amber.Config{})
			if err != nil {
				return err
			}
			defer done()
			policies := []*schedule.Policy{}
			var unreadable []error
			for p, err := range svc.Policies(cmd.Context(), id) {
				switch {
				case errors.Is(err, schedule.ErrCorrupt):
					unreadable = append(unreadable, err)
				case err != nil:
					return explain(cmd.Context(), err, "listing changes nothing")
				default:
					policies = append(policies, p)
				}
			}
			err = a.print(policies, func(w io.Writer) {
				if len(policies) == 0 {
					return
				}
				rows := [][]string{{"POLICY", "DATA STORE", "WHEN", "WINDOW", "KEEPS", "STATE"}}
				for _, p := range policies {
					rows = append(rows, []string{p.ID, p.DataStore, whenText(p), windowText(p), keepsText(p.Retention), enabledText(p)})
				}
				table(w, rows...)
			})
			if err != nil {
				return err
			}
			if len(policies) == 0 && len(unreadable) == 0 && !a.json && !a.quiet {
				fmt.Fprintf(a.console, "no policies in %s\n", describeStore(a.store))
			}
			return errors.Join(unreadable...)
		},
	}
	cmd.Flags().StringVar(&id, "id", "", "only of this data store")
	return cmd
}

func (a *app) policyRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "remove POLICY",
		Short: "Remove a policy; its backups stay",
		Long: `Remove a policy: nothing is due by it any more. A backup that is being made goes on. The policy's backups stay until they are deleted,
or their data store is: see 'amberctl delete' and 'amberctl datastore delete'.`,
		Args:              takes(1, 1, "POLICY"),
		ValidArgsFunction: a.completePolicy,
		RunE: func(cmd *cobra.Command, args []string) error {
			svc, done, err := a.service(cmd.Context(), amber.Config{})
			if err != nil {
				return err
			}
			defer done()
			if err := svc.RemovePolicy(cmd.Context(), args[0]); err != nil {
				return explain(cmd.Context(), noPolicy(err), "the policy is there or not; remove it again")
			}
			result := struct {
				ID      string `json:"id"`
				Removed bool   `json:"removed"`
			}{args[0], true}
			return a.print(result, func(w io.Writer) {
				if !a.quiet {
					fmt.Fprintf(w, "policy %s is removed; its backups are kept\n", args[0])
				}
			})
		},
	}
}

// completePolicy offers a shell the policies that there are.
func (a *app) completePolicy(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
	const none = cobra.ShellCompDirectiveNoFileComp
	if len(args) > 0 {
		return nil, none
	}
	svc, done, err := a.service(cmd.Context(), amber.Config{})
	if err != nil {
		return nil, none
	}
	defer done()
	var found []cobra.Completion
	for p, err := range svc.Policies(cmd.Context(), "") {
		if err == nil && strings.HasPrefix(p.ID, begun) {
			found = append(found, cobra.CompletionWithDesc(p.ID, p.DataStore+", "+whenText(p)))
		}
	}
	return found, none
}

func showPolicy(w io.Writer, p *schedule.Policy) {
	rows := [][]string{{"Policy", p.ID}, {"Data store", p.DataStore}, {"State", enabledText(p)}, {"When", whenText(p)}, {"Time zone", zoneText(p)}, {"Window", windowText(p)},
		{"Retries", strconv.Itoa(p.Retries)}, {"Catch up", string(p.CatchUp)}, {"Keeps", keepsText(p.Retention)}, {"Fall in keys", fallText(p.Retention)},
		{"Backup name", p.BackupName}, {"Labels", labelsText(p.Labels)}, {"Store", p.Store}}
	rows = slices.DeleteFunc(rows, func(r []string) bool { return r[1] == "" })
	rows = append(rows, []string{"Created", when(p.CreatedAt) + " UTC"}, []string{"Changed", when(p.ChangedAt) + " UTC"})
	table(w, rows...)
}

func enabledText(p *schedule.Policy) string {
	if p.Enabled {
		return "enabled"
	}
	return "disabled"
}

func zoneText(p *schedule.Policy) string {
	if p.TimeZone == "" {
		return "UTC"
	}
	return p.TimeZone
}

func whenText(p *schedule.Policy) string {
	w := p.When
	switch {
	case w.Cron != "":
		return "cron " + w.Cron
	case len(w.Daily) > 0:
		return "daily " + strings.Join(w.Daily, ", ")
	case w.Every != 0:
		return "every " + short(w.Every)
	case w.SaveSchedule != "":
		return "save_schedule " + w.SaveSchedule
	case w.Weekly == nil:
		return "never"
	}
	days, hours := "every day", "every hour"
	if len(w.Weekly.Days) > 0 {
		var names []string
		for _, d := range w.Weekly.Days {
			names = append(names, d.String()[:3])
		}
		days = strings.Join(names, ", ")
	}
	if len(w.Weekly.Hours) > 0 {
		var times []string
		for _, h := range w.Weekly.Hours {
			times = append(times, fmt.Sprintf("%02d:%02d", h, w.Weekly.Minute))
		}
		return days + " at " + strings.Join(times, ", ")
	}
	if w.Weekly.Minute != 0 {
		hours += fmt.Sprintf(" at :%02d", w.Weekly.Minute)
	}
	return days + " " + hours
}

func windowText(p *schedule.Policy) string {
	if p.Window == 0 {
		return ""
	}
	return short(p.Window)
}

// short prints a duration without zeros at its end.
func short(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = text[:len(text)-2]
	}
	if strings.HasSuffix(text, "h0m") {
		text = text[:len(text)-2]
	}
	return text
}

func keepsText(r retention.Rules) string {
	var parts []string
	for _, f := range []struct {
		n    int
		text string
	}{{r.Days, "day"}, {r.Count, "backup"}, {r.Hourly, "hourly"}, {r.Daily, "daily"}, {r.Weekly, "weekly"}, {r.Monthly, "monthly"}, {r.Yearly, "yearly"}} {
		switch {
		case f.n == 0:
		case strings.HasSuffix(f.text, "ly"):
			parts = append(parts, fmt.Sprintf("%d %s", f.n, f.text))
		default:
			parts = append(parts, plural(int64(f.n), f.text))
		}
	}
	if len(parts) == 0 {
		return "all"
	}
	return strings.Join(parts, ", ")
}

func fallText(r retention.Rules) string {
	switch {
	case r.FallPercent < 0:
		return "doesn't matter"
	case r.FallPercent == 0:
		return fmt.Sprintf("by %d%% holds retention", retention.DefaultFall)
	}
	return fmt.Sprintf("by %d%% holds retention", r.FallPercent)
}

func labelsText(labels map[string]string) string {
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		parts = append(parts, key+"="+labels[key])
	}
	return strings.Join(parts, ", ")
}

// prunedLines tell what retention has deleted at once.
func prunedLines(w io.Writer, rep *backup.PruneReport) {
	if rep == nil {
		return
	}
	for _, f := range rep.Fates {
		if f.Deleted {
			fmt.Fprintln(w, clean(fmt.Sprintf("%s is deleted: %s", f.ID, strings.Join(f.Reasons, "; "))))
		}
	}
	for _, h := range rep.Held {
		fmt.Fprintln(w, clean("nothing is let go of: "+h.Reason))
	}
}
