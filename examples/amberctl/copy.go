package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/catalog"
)

func (a *app) copyCommand() *cobra.Command {
	var (
		id, to   string
		leaseTTL time.Duration
	)
	cmd := &cobra.Command{
		Use:   "copy BACKUP --to-store URL",
		Short: "Copy a backup into another store",
		Long: `Copy a backup into another store, as it is: the stored bytes, neither decrypted nor decompressed, under the same ID. They are held against
the manifest's hashes on their way, and read back. The copy is listed there when all that is done, and not before.

That the other store has the same backup already is no failure. A copy that was killed is made again, or removed by 'amberctl sweep'
with the other store.` + backupArg,
		Example: `  amberctl copy before-upgrade --to-store file:///mnt/elsewhere
  amberctl --store file:///mnt/elsewhere verify --all`,
		Args:              takes(1, 1, "BACKUP"),
		ValidArgsFunction: a.completeBackup,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			switch {
			case to == "":
				return usagef("--to-store is missing: say where the copy goes, as in --to-store file:///mnt/elsewhere")
			case leaseTTL < 3*time.Second:
				return usagef("--lease-ttl %v is too short, it has to be at least 3s", leaseTTL)
			}
			if err := checkID(id); err != nil {
				return err
			}
			from, err := a.openStore(ctx)
			if err != nil {
				return err
			}
			defer from.Close()
			target, err := openStore(ctx, to)
			if err != nil {
				return fmt.Errorf("--to-store: %w", err)
			}
			defer target.Close()
			// The first store is the one that has the leases: that which is written to.
			svc, err := amber.New(amber.Config{Store: target, Stores: []amber.NamedStore{{Name: "from", Store: from}}, LeaseTTL: leaseTTL, Logger: a.logger()})
			if err != nil {
				return err
			}
			const left = "nothing was listed; what was stored was taken back as far as there was time, " +
				"the next copy or 'amberctl sweep' removes the rest"
			q := amber.CopyBackupRequest{}
			if q.Backup, err = find(ctx, svc, args[0], id); err != nil {
				return explain(ctx, err, left)
			}
			var stop func()
			q.Progress, stop = a.progress("copy of " + string(q.Backup))
			rep, err := svc.CopyBackup(ctx, q)
			stop()
			if err != nil {
				return explain(ctx, err, left)
			}
			result := struct {
				ID       catalog.ID    `json:"id"`
				Store    string        `json:"store"`
				Bytes    int64         `json:"bytes"`
				Existing bool          `json:"existing"`
				Took     time.Duration `json:"took"`
			}{rep.Backup.ID, describeStore(to), rep.Backup.StoredBytes, rep.Existing, rep.Took}
			return a.print(result, func(w io.Writer) {
				switch {
				case a.quiet:
				case rep.Existing:
					fmt.Fprintf(w, "%s is in %s already, and the same\n", result.ID, result.Store)
				default:
					fmt.Fprintf(w, "%s is copied to %s: %s in %s\n", result.ID, result.Store, size(result.Bytes), tookFor(rep.Took, result.Bytes))
				}
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&to, "to-store", "", "where the copy goes: the URL of a store, as --store has it; required")
	flags.StringVar(&id, "id", "", "the data store, if BACKUP is a name")
	flags.DurationVar(&leaseTTL, "lease-ttl", 30*time.Second,
		"how long this run, if it dies, keeps other copies of the data store's backups from that store; at least 3s")
	return cmd
}
