package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/schedule"
)

func (a *app) runsCommand() *cobra.Command {
	var (
		q           schedule.RunQuery
		states      []string
		from, until string
	)
	cmd := &cobra.Command{
		Use:   "runs",
		Short: "Tell what became of due times, the latest first",
		Long: `Tell what became of the due times of policies, the latest first: each was done, failed, skipped with a reason, or missed, or is running. Due
times that were missed one after the other are one line. Times are in UTC.`,
		Example: `  amberctl runs --id orders
  amberctl runs --state failed,missed --from 2026-11-01`,
		Args: takes(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkID(q.DataStore); err != nil {
				return err
			}
			all := []schedule.RunState{schedule.RunRunning, schedule.RunDone, schedule.RunFailed, schedule.RunSkipped, schedule.RunMissed}
			for _, text := range states {
				if !slices.Contains(all, schedule.RunState(text)) {
					return usagef("--state %q: it can be running, done, failed, skipped or missed", text)
				}
				q.States = append(q.States, schedule.RunState(text))
			}
			var err error
			if q.From, err = instant("--from", from); err != nil {
				return err
			}
			if q.Until, err = instant("--until", until); err != nil {
				return err
			}
			if q.Limit < 0 {
				return usagef("--limit %d: it can't be negative; 0 means all", q.Limit)
			}
			svc, done, err := a.service(cmd.Context(), amber.Config{})
			if err != nil {
				return err
			}
			defer done()
			runs := []*schedule.Run{}
			var unreadable []error
			for r, err := range svc.Runs(cmd.Context(), q) {
				switch {
				case errors.Is(err, schedule.ErrCorrupt):
					unreadable = append(unreadable, err)
				case err != nil:
					return explain(cmd.Context(), err, "listing changes nothing")
				default:
					runs = append(runs, r)
				}
			}
			err = a.print(runs, func(w io.Writer) {
				if len(runs) == 0 {
					return
				}
				rows := [][]string{{"DUE (UTC)", "DATA STORE", "POLICY", "STATE", "TRIES", "BACKUP", ""}}
				for _, r := range runs {
					tries := ""
					if n := len(r.Attempts); n > 0 {
						tries = strconv.Itoa(n)
					}
					rows = append(rows, []string{when(r.Due), r.DataStore, r.Policy, string(r.State), tries, string(r.Backup), runDetail(r)})
				}
				table(w, rows...)
			})
			if err != nil {
				return err
			}
			if len(runs) == 0 && len(unreadable) == 0 && !a.json && !a.quiet {
				fmt.Fprintln(a.console, "no due times")
			}
			return errors.Join(unreadable...)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&q.DataStore, "id", "", "only of this data store")
	flags.StringVar(&q.Policy, "policy", "", "only of this policy")
	flags.StringSliceVar(&states, "state", nil, "only in these states: running, done, failed, skipped, missed")
	flags.StringVar(&from, "from", "", "only those due at this time or later, as 2026-11-30 or 2026-11-30T02:30:00Z")
	flags.StringVar(&until, "until", "", "only those due before this time")
	flags.IntVar(&q.Limit, "limit", 100, "at most so many; 0 means all")
	return cmd
}

// runDetail says what a person wants to know of a run beside its state.
func runDetail(r *schedule.Run) string {
	switch {
	case r.Count > 1:
		return fmt.Sprintf("%d due times since %s: %s", r.Count, when(r.First), r.Reason)
	case r.State == schedule.RunDone && !r.Start.IsZero() && !r.EndedAt.IsZero():
		return "ended " + when(r.EndedAt)
	}
	text := r.Reason
	for i := len(r.Attempts) - 1; i >= 0; i-- {
		if e := r.Attempts[i].Error; e != "" {
			if text != "" {
				text += "; "
			}
			return text + e
		}
	}
	return text
}
