package main

import (
	"context"
	"fmt"
	"io"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup/probe"
)

// doctorSource tells how a snapshot of a server can be taken.
func (a *app) doctorSource(ctx context.Context, from *serverFlags, take *takeFlags) error {
	options, done, err := take.options(ctx)
	if err != nil {
		return err
	}
	defer done()
	q := amber.SourceRequest{SnapshotOptions: options, Logger: a.logger()}
	if q.From, err = a.options(from); err != nil {
		return err
	}
	rep, err := amber.CheckSource(ctx, q)
	if err != nil {
		return explain(ctx, err, "looking changes nothing")
	}
	if err := a.print(rep, func(w io.Writer) { a.sourceTable(w, rep) }); err != nil {
		return err
	}
	return rep.Err()
}

func (a *app) sourceTable(w io.Writer, rep *probe.Report) {
	rows := [][]string{{"POINT", "RESULT", "SEEN"}}
	for _, p := range rep.Points {
		if !a.quiet || p.Level != probe.Pass {
			rows = append(rows, []string{p.Name, mark(string(p.Level)), p.Detail})
		}
	}
	if len(rows) > 1 {
		table(w, rows...)
	}
	var advice []string
	rows = [][]string{{"METHOD", "USABLE", "WHY"}}
	for _, m := range rep.Methods {
		usable := "no"
		switch {
		case m.Unsure:
			usable = "maybe"
		case m.Usable:
			usable = "yes"
		}
		if m.Name == rep.Chosen {
			usable += ", chosen"
		}
		rows = append(rows, []string{m.Name, usable, m.Why})
		if m.Advice != "" {
			advice = append(advice, m.Name+": "+m.Advice)
		}
	}
	if !a.quiet {
		fmt.Fprintln(w)
		table(w, rows...)
	}
	if len(advice) > 0 && (!a.quiet || rep.Chosen == "") {
		fmt.Fprintln(w, "\nFor those that can't be used:")
		for _, text := range advice {
			fmt.Fprintln(w, "  "+clean(text))
		}
	}
}
