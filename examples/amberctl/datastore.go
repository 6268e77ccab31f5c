package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/catalog"
)

func (a *app) datastoreCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "datastore",
		Short: "What belongs to a data store",
		Args:  cobra.ArbitraryArgs,
		RunE:  needCommand,
	}
	cmd.AddCommand(a.datastoreDeleteCommand())
	return cmd
}

func (a *app) datastoreDeleteCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "delete DATASTORE",
		Short: "Let go of what belongs to a data store that is no more",
		Long: `Let go of what belongs to a data store that is no more: its policies, and its automatic backups. Manual and imported backups, safety
backups and those made at a shutdown stay, and so do automatic ones that are pinned. The server itself isn't touched.

Nothing is done while the data store is being backed up.`,
		Args: takes(1, 1, "DATASTORE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := catalog.ValidName(args[0]); err != nil {
				return usagef("DATASTORE %.110q: %w", args[0], err)
			}
			svc, done, err := a.service(cmd.Context(), amber.Config{})
			if err != nil {
				return err
			}
			defer done()
			rep, err := svc.DeleteDatastore(cmd.Context(), args[0])
			if err != nil && len(rep.Backups)+len(rep.Policies) == 0 {
				return explain(cmd.Context(), err, "nothing was deleted")
			}
			printed := a.print(rep, func(w io.Writer) {
				deleted := int64(0)
				for _, b := range rep.Backups {
					if b.Deleted {
						deleted++
					} else if !a.quiet {
						fmt.Fprintf(w, "%s stays: %s\n", b.ID, b.Reason)
					}
				}
				policies := "1 policy"
				if len(rep.Policies) != 1 {
					policies = fmt.Sprintf("%d policies", len(rep.Policies))
				}
				if !a.quiet {
					fmt.Fprintf(w, "removed %s and %s of %s\n", policies, plural(deleted, "automatic backup"), rep.DataStore)
				}
			})
			if err != nil {
				return explain(cmd.Context(), err, "give it again for the rest")
			}
			return printed
		},
	}
}
