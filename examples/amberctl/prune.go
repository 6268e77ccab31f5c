package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup"
)

func (a *app) pruneCommand() *cobra.Command {
	var (
		q   amber.PruneRequest
		all bool
	)
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Delete the backups that are to be kept no longer",
		Long: `Delete the backups that are to be kept no longer: those that a policy made by the policy's rules, all others by the --retain that
they were made with. Each backup's fate is told with all reasons for it. --dry-run tells the same and deletes nothing.

Never deleted are the newest good backup of a data store, what is pinned, and what is being restored, verified, exported or copied. While
the keys of a data store have fallen sharply nothing of it is deleted at all: look into that first. If it is as it should be,
--accept-fall goes on, this once. Nor is anything deleted while the clock isn't to be trusted.`,
		Example: `  amberctl prune --dry-run
  amberctl prune --id orders`,
		Args: takes(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkID(q.DataStore); err != nil {
				return err
			}
			svc, done, err := a.service(cmd.Context(), amber.Config{})
			if err != nil {
				return err
			}
			defer done()
			rep, err := svc.Prune(cmd.Context(), q)
			if perr := a.print(rep, func(w io.Writer) { a.pruneTable(w, rep, all || q.DryRun) }); perr != nil {
				return perr
			}
			return explain(cmd.Context(), err, "what was not deleted is for the next prune")
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&q.DataStore, "id", "", "only of this data store")
	flags.BoolVar(&q.DryRun, "dry-run", false, "tell what would be deleted, and why, and delete nothing")
	flags.BoolVar(&q.AcceptFall, "accept-fall", false, "the data stores may have as few keys as they have now")
	flags.BoolVar(&all, "all", false, "list what is kept, too")
	return cmd
}

// pruneTable prints the fates of backups: of all, or of those that are deleted.
func (a *app) pruneTable(w io.Writer, rep backup.PruneReport, all bool) {
	if a.quiet {
		return
	}
	rows := [][]string{{"ID", "DATA STORE", "NAME", "SIZE", "FATE", "WHY"}}
	over := 0
	for _, f := range rep.Fates {
		if f.Delete {
			over++
		}
		if all || f.Delete {
			rows = append(rows, []string{string(f.ID), f.DataStore, f.Name, size(f.Bytes), fate(f, rep.DryRun), strings.Join(f.Reasons, "; ")})
		}
	}
	if len(rows) > 1 {
		table(w, rows...)
	}
	for _, h := range rep.Held {
		fmt.Fprintf(w, "%s: nothing is deleted: %s\n", clean(h.DataStore), clean(h.Reason))
	}
	kept := len(rep.Fates) - over
	if rep.DryRun {
		fmt.Fprintf(w, "%s would be deleted, %s kept\n", plural(int64(over), "backup"), count(int64(kept)))
		return
	}
	fmt.Fprintf(w, "%s deleted (%s), %s kept\n", plural(int64(rep.Deleted), "backup"), size(rep.Bytes), count(int64(len(rep.Fates)-rep.Deleted)))
}

// fate says in a word what became of a backup.
func fate(f backup.Fate, dryRun bool) string {
	switch {
	case f.Deleted:
		return "deleted"
	case f.Error != "":
		return "not deleted"
	case f.Delete && dryRun:
		return "goes"
	case f.Delete:
		return "left"
	}
	return "stays"
}
