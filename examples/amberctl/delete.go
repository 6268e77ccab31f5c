package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/catalog"
)

func (a *app) deleteCommand() *cobra.Command {
	var id string
	cmd := &cobra.Command{
		Use:   "delete BACKUP",
		Short: "Delete a backup for good",
		Long: `Delete a backup for good. It is unlisted first and then removed, so that what is listed can always be restored; a deletion
that is cut short is finished by giving it again with the ID, or by a sweep.` + backupArg,
		Args:              takes(1, 1, "BACKUP"),
		ValidArgsFunction: a.completeBackup,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkID(id); err != nil {
				return err
			}
			svc, done, err := a.service(cmd.Context(), amber.Config{})
			if err != nil {
				return err
			}
			defer done()
			backup, err := find(cmd.Context(), svc, args[0], id)
			if err != nil {
				return explain(cmd.Context(), err, "nothing was deleted")
			}
			if err := svc.Delete(cmd.Context(), backup); err != nil {
				return explain(cmd.Context(), err, "the backup is either whole or unlisted; delete it again")
			}
			result := struct {
				ID      catalog.ID `json:"id"`
				Deleted bool       `json:"deleted"`
			}{backup, true}
			return a.print(result, func(w io.Writer) {
				if !a.quiet {
					fmt.Fprintf(w, "%s is deleted\n", backup)
				}
			})
		},
	}
	cmd.Flags().StringVar(&id, "id", "", "the data store, if BACKUP is a name")
	return cmd
}

func (a *app) sweepCommand() *cobra.Command {
	var grace time.Duration
	cmd := &cobra.Command{
		Use:   "sweep",
		Short: "Remove what killed and failed runs left",
		Long: `Remove what runs left that were killed, failed or cancelled, and what is left of backups that were deleted. Backups that are
listed, and runs that are at work, are never touched; sweeping often does no harm. Backups that are to be kept no longer are deleted by
'amberctl prune'.

The data go at once; the records of such runs, and files that nobody has written to, stay for the grace time. A grace of 0 keeps
nothing: it is safe only when no run is paused anywhere.`,
		Args: takes(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case grace < 0 || grace > 0 && grace < time.Minute:
				return usagef("--grace %v: it can be 0 or at least 1m", grace)
			case grace == 0:
				grace = -1 // that is what the service calls it; its 0 is the default
			}
			svc, done, err := a.service(cmd.Context(), amber.Config{})
			if err != nil {
				return err
			}
			defer done()
			rep, err := svc.Sweep(cmd.Context(), grace)
			if err != nil {
				return explain(cmd.Context(), err, "what was not removed yet is for the next sweep")
			}
			return a.print(rep, func(w io.Writer) {
				if a.quiet {
					return
				}
				fmt.Fprintf(w, "removed %s and %s (%s); %s marked as interrupted\n", plural(int64(rep.Records), "record"),
					plural(int64(rep.Objects), "object"), size(rep.Bytes), plural(int64(rep.Interrupted), "dead run"))
			})
		},
	}
	cmd.Flags().DurationVar(&grace, "grace", 24*time.Hour, "how long records stay, counted from their run's beginning")
	return cmd
}
