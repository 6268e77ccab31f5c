package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/amberkv/amber"
)

func (a *app) usageCommand() *cobra.Command {
	var (
		q           amber.UsageRequest
		from, until string
	)
	cmd := &cobra.Command{
		Use:   "usage",
		Short: "Tell how much of the store backups take, and took over a period, for a bill",
		Long: `Tell how many bytes the backups in the store have now, and how many GiB-hours they had over a period, also those that are
deleted by now: by data store and kind. A backup counts from the second in which it was ready until the one in which it was deleted.

The period is this month, unless --from and --until say otherwise: with a month, a day or a time, such as 2026-11, 2026-11-23 or
2026-11-23T22:17:00Z, each meaning its beginning in UTC. --until alone means the month that ends there, or the one that it is in. With --json
there are byte-seconds too, which are exact; GiB-hours are rounded to six decimals.`,
		Example: `  amberctl usage
  amberctl usage --from 2026-11 --until 2026-12 --json`,
		Args: takes(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if err := checkID(q.DataStore); err != nil {
				return err
			}
			if q.From, err = instant("--from", from); err != nil {
				return err
			}
			if q.Until, err = instant("--until", until); err != nil {
				return err
			}
			if !q.From.IsZero() && !q.Until.IsZero() && q.From.After(q.Until) {
				return usagef("--from %s is after --until %s", from, until)
			}
			svc, done, err := a.service(cmd.Context(), amber.Config{})
			if err != nil {
				return err
			}
			defer done()
			u, err := svc.Usage(cmd.Context(), q)
			if u != nil {
				if perr := a.print(u, func(w io.Writer) { a.usageTable(w, u) }); perr != nil {
					return perr
				}
			}
			return explain(cmd.Context(), err, "what could be read is told")
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&q.DataStore, "id", "", "only of this data store")
	flags.StringVar(&from, "from", "", "the beginning of the period")
	flags.StringVar(&until, "until", "", "its end, which doesn't belong to it (default now)")
	return cmd
}

// instant reads a time from a flag.
func instant(flag, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{"2006-01", time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usagef("%s %.40q: it is a month, a day or a time in UTC: 2026-11, 2026-11-23 or 2026-11-23T22:17:00Z", flag, text)
}

func (a *app) usageTable(w io.Writer, u *amber.Usage) {
	if !a.quiet {
		fmt.Fprintf(w, "%s until %s (UTC)\n", when(u.From), when(u.Until))
	}
	rows := [][]string{{"DATA STORE", "KIND", "BACKUPS", "SIZE", "GIB-HOURS"}}
	for _, r := range u.Rows {
		rows = append(rows, []string{r.DataStore, string(r.Kind), count(r.Backups), size(r.Bytes), r.GiBHours})
	}
	rows = append(rows, []string{"TOTAL", "", count(u.Total.Backups), size(u.Total.Bytes), u.Total.GiBHours})
	table(w, rows...)
}
