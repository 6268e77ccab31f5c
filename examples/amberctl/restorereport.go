package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/restore"
)

// printReport tells what a restore did.
func (a *app) printReport(rep *restore.Report) error {
	for _, warning := range rep.Warnings {
		fmt.Fprintln(a.console, "amberctl: warning: "+clean(warning))
	}
	return a.print(rep, func(w io.Writer) {
		if a.quiet {
			return
		}
		fmt.Fprintf(w, "%s is restored into %s by %s: %s, %s; proved in %s, loaded in %s\n", rep.Backup, rep.Target, rep.Method,
			plural(rep.Keys, "key"), size(rep.Bytes), took(rep.Verify), tookFor(rep.Load, rep.Bytes))
		aside(w, rep)
		switch p := rep.Proof; {
		case p.Compared > 0:
			fmt.Fprintf(w, "  counted, and the values of %s compared in %s\n", plural(p.Compared, "key"), took(p.Took))
		case p.Counted:
			fmt.Fprintln(w, "  counted")
		}
		if rep.Safety != "" {
			fmt.Fprintf(w, "  what was there before is backup %s\n", rep.Safety)
		}
	})
}

// aside tells what became of keys besides being written as they were.
func aside(w io.Writer, rep *restore.Report) {
	for _, part := range []struct {
		n    int64
		text string
	}{
		{rep.Filtered, "left out: not selected"},
		{rep.Expired, "left out: expired"},
		{rep.Skipped, "left alone: the target had them"},
		{rep.Converted, "encoded anew for the target"},
	} {
		if part.n > 0 {
			fmt.Fprintf(w, "  %s %s\n", plural(part.n, "key"), part.text)
		}
	}
	if rep.Commands > 0 {
		fmt.Fprintf(w, "  %s on top of these\n", plural(rep.Commands, "command"))
	}
	for _, l := range rep.Losses {
		fmt.Fprintf(w, "  lost: %s of %s\n", clean(l.Name), count(l.Count))
		for _, key := range l.Keys {
			fmt.Fprintf(w, "    %s\n", clean(key))
		}
	}
}

// errWouldStop is the end of a dry run of a restore that wouldn't be done.
var errWouldStop = errors.New("the restore would stop")

// printPlan tells what a restore would do, as a table of everything that was looked at. The error says whether it would stop.
func (a *app) printPlan(plan *restore.Plan, q *amber.RestoreRequest) error {
	stops := plan.Verdict.Err(&restore.Options{Accept: q.Accept})
	err := a.print(plan, func(w io.Writer) {
		rows := [][]string{{"POINT", "VERDICT", "DETAIL"}}
		for _, p := range plan.Verdict.Points {
			rows = append(rows, []string{p.Name, string(p.Level), p.Detail})
		}
		table(w, rows...)
		if rep := plan.Report; !plan.Verdict.Failed() {
			fmt.Fprintf(w, "\n%s of %s would be written", plural(rep.Keys, "key"), count(plan.Backup.Keys))
			if plan.Memory > 0 {
				fmt.Fprintf(w, ", about %s of memory", size(plan.Memory))
			}
			fmt.Fprintf(w, "; the backup was proved in %s\n", took(rep.Verify.Round(time.Microsecond)))
			aside(w, &rep)
		}
	})
	if err == nil && stops != nil {
		return fmt.Errorf("%w: %w", errWouldStop, stops)
	}
	return err
}
