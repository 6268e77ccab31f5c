package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup/replica"
	"github.com/amberkv/amber/catalog"
)

func (a *app) backupCommand() *cobra.Command {
	var (
		from     serverFlags
		sealed   sealFlags
		limited  limitFlags
		take     takeFlags
		id, name string
		about    string
		prefer   string
		retain   string
		labels   []string
		leaseTTL time.Duration
	)
	cmd := &cobra.Command{
		Use:   "backup --from URL --id DATASTORE",
		Short: "Back up a server",
		Long: `Back up a Redis, Valkey or Dragonfly server, a cluster of which the server is any node, or the group that a Sentinel watches: take a
snapshot, prove it on its way, store it, read it back.

The backup is listed when all that is done, and not before. One data store has one backup at a time.

How the snapshot is taken depends on what the server is and allows: 'amberctl doctor --from' tells beforehand, 'amberctl show' afterwards. By
scan, which servers allow that refuse PSYNC, each key is as it was at some instant, but all together are of none.

With --encrypt-to the backup is encrypted for age public keys, of which any opens it: this machine needs no secret. "amberctl keygen" makes
a key.

The server is spared: a backup waits while another child of it is at work, and is refused where one can't go well, as when memory is short or the
last BGSAVE failed. --max-latency, --max-rate, --max-fork and --max-syncs are further limits, --ignore-limit goes on all the same. 'amberctl show' tells
what a backup took of its server.` + fmt.Sprintf(passwordHelp, "AMBER_FROM_PASSWORD"),
		Example: "  amberctl --store file:///var/backups backup --from redis://user:pw@host:6379 --id orders --name before-upgrade",
		Args:    takes(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			q := amber.BackupRequest{DataStore: id, Name: name, Description: about}
			switch {
			case id == "":
				return usagef("--id is missing: say which data store this is, as in --id orders")
			case leaseTTL < 3*time.Second:
				return usagef("--lease-ttl %v is too short, it has to be at least 3s", leaseTTL)
			case len(about) > 1000:
				return usagef("--description has %d bytes, the limit is 1000", len(about))
			}
			if err := checkID(id); err != nil {
				return err
			}
			if name != "" {
				if err := catalog.ValidBackupName(name); err != nil {
					return usagef("--name %q: %w", name, err)
				}
			}
			var err error
			if q.Prefer, err = preferred(prefer); err != nil {
				return err
			}
			if q.Retain, err = keepFor(retain); err != nil {
				return err
			}
			if q.Labels, err = readLabels(labels); err != nil {
				return err
			}
			if q.From, err = a.options(&from); err != nil {
				return err
			}
			var taken func()
			if q.SnapshotOptions, taken, err = take.options(cmd.Context()); err != nil {
				return err
			}
			defer taken()
			cfg := amber.Config{LeaseTTL: leaseTTL}
			if err := a.sealing(&sealed, &cfg); err != nil {
				return err
			}
			if err := limited.apply(&cfg); err != nil {
				return err
			}
			svc, done, err := a.service(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			defer done()
			var stop func()
			q.Progress, stop = a.progress("backup of " + id)
			b, err := svc.Backup(cmd.Context(), q)
			stop()
			if err != nil {
				return explain(cmd.Context(), err, "nothing was listed; what was stored was taken back as far as there was time, "+
					"'amberctl sweep' removes the rest")
			}
			return a.print(b, func(w io.Writer) {
				if a.quiet {
					fmt.Fprintln(w, b.ID)
					return
				}
				fmt.Fprintf(w, "%s is ready: %s, %s stored (%s raw) in %s, %s\n", b.ID, contents(b),
					size(b.StoredBytes), size(b.RawBytes), describeStore(a.store), took(b.Timings.Total))
			})
		},
	}
	from.add(cmd, "from", "the server to back up, any node of a cluster, or a Sentinel")
	take.add(cmd)
	sealed.add(cmd)
	limited.add(cmd)
	flags := cmd.Flags()
	flags.StringVar(&id, "id", "", "your name for the data store: letters, digits, -, _ and .; required")
	flags.StringVar(&name, "name", "", "a name for the backup, of the same characters, a letter first; no other backup of the data store has it")
	flags.StringVar(&about, "description", "", "a text for the backup, at most 1000 bytes")
	flags.StringArrayVar(&labels, "label", nil, labelHelp)
	flags.StringVar(&retain, "retain", "", retainHelp)
	flags.StringVar(&prefer, "prefer", "replica",
		"who sends the snapshot: a replica in sync if there is one, the primary, or exact(ly) this server")
	flags.DurationVar(&leaseTTL, "lease-ttl", 30*time.Second,
		"how long this run, if it dies, keeps others from the data store; at least 3s")
	return cmd
}

// preferred reads what --prefer says.
func preferred(text string) (replica.Prefer, error) {
	switch text {
	case "replica":
		return replica.PreferReplica, nil
	case "primary":
		return replica.PreferPrimary, nil
	case "exact":
		return replica.PreferExact, nil
	}
	return 0, usagef("--prefer %q: it can be replica, primary or exact", text)
}
