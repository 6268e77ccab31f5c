package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
)

const labelHelp = "a label of the backup, KEY=VALUE; repeatable"

// readLabels reads what --label says.
func readLabels(texts []string) (map[string]string, error) {
	if len(texts) == 0 {
		return nil, nil
	}
	labels := map[string]string{}
	for _, text := range texts {
		key, value, ok := strings.Cut(text, "=")
		if _, twice := labels[key]; !ok || twice {
			return nil, usagef("--label %q: write KEY=VALUE, and each key once", text)
		}
		labels[key] = value
	}
	if err := catalog.ValidLabels(labels); err != nil {
		return nil, usagef("--label: %w", err)
	}
	return labels, nil
}

// editFlags say which backup is edited, and who signs it.
type editFlags struct {
	id      string
	signKey string
	trust   []string
}

func (f *editFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.id, "id", "", "the data store, if BACKUP is a name")
	flags.StringVar(&f.signKey, "sign-key", "", "sign a backup that is signed anew, with the Ed25519 key in a PEM file")
	flags.StringArrayVar(&f.trust, "trust", nil, "a further public key, or those in a file (@FILE), whose signature may be replaced by that of --sign-key; repeatable")
}

// edit edits a backup and prints it.
func (a *app) edit(cmd *cobra.Command, f *editFlags, arg string, e backup.Edit, done func(b *catalog.Backup) string) error {
	if err := checkID(f.id); err != nil {
		return err
	}
	var cfg amber.Config
	if len(f.trust) > 0 {
		if err := a.opening(&openFlags{trust: f.trust}, &cfg); err != nil {
			return err
		}
	}
	if f.signKey != "" {
		var err error
		if cfg.Signer, err = signingKey(f.signKey); err != nil {
			return err
		}
	}
	svc, end, err := a.service(cmd.Context(), cfg)
	if err != nil {
		return err
	}
	defer end()
	id, err := find(cmd.Context(), svc, arg, f.id)
	if err != nil {
		return explain(cmd.Context(), err, "nothing was changed")
	}
	b, err := svc.Edit(cmd.Context(), id, e)
	if err != nil {
		return explain(cmd.Context(), err, "the backup is as before or as it was to be: give it again")
	}
	return a.print(b, func(w io.Writer) {
		if !a.quiet {
			fmt.Fprintln(w, done(b))
		}
	})
}

const signedHelp = "\n\nA backup that is signed needs --sign-key, to be signed anew."

func (a *app) pinCommand(pin bool) *cobra.Command {
	var f editFlags
	cmd := &cobra.Command{
		Use:   "pin BACKUP",
		Short: "Keep a backup whatever its retention says",
		Long: "Pin a backup: retention leaves it alone, and it outlives its data store, until it is unpinned. 'amberctl delete' deletes it all the same." +
			signedHelp + backupArg,
		Args:              takes(1, 1, "BACKUP"),
		ValidArgsFunction: a.completeBackup,
	}
	if !pin {
		cmd.Use, cmd.Short = "unpin BACKUP", "Leave a backup to its retention again"
		cmd.Long = "Unpin a backup: 'amberctl prune' may delete it, if its retention says so." + signedHelp + backupArg
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.edit(cmd, &f, args[0], backup.Edit{Pinned: &pin}, func(b *catalog.Backup) string {
			if pin {
				return fmt.Sprintf("%s is pinned", b.ID)
			}
			return fmt.Sprintf("%s is not pinned, it is kept %s", b.ID, keptText(b))
		})
	}
	f.add(cmd)
	return cmd
}

func (a *app) editCommand() *cobra.Command {
	var (
		f             editFlags
		about, retain string
		labels        []string
		unlabels      []string
	)
	cmd := &cobra.Command{
		Use:   "edit BACKUP",
		Short: "Change a backup's description, labels or retention",
		Long: "Change what a person says of a backup; its data stay what they are. An automatic backup is kept as long as its policy says: 'amberctl pin' keeps " +
			"it longer." + signedHelp + backupArg,
		Example: `  amberctl edit before-upgrade --description "before the upgrade to 8.0" --label ticket=4711 --retain 90d
  amberctl edit before-upgrade --remove-label ticket --retain forever`,
		Args:              takes(1, 1, "BACKUP"),
		ValidArgsFunction: a.completeBackup,
		RunE: func(cmd *cobra.Command, args []string) error {
			e := backup.Edit{RemoveLabels: unlabels}
			if cmd.Flags().Changed("description") {
				e.Description = &about
				if len(about) > 1000 {
					return usagef("--description has %d bytes, the limit is 1000", len(about))
				}
			}
			var err error
			if e.SetLabels, err = readLabels(labels); err != nil {
				return err
			}
			for _, key := range unlabels {
				if err := catalog.ValidName(key); err != nil {
					return usagef("--remove-label %q: %w", key, err)
				}
				if _, both := e.SetLabels[key]; both {
					return usagef("--label and --remove-label: %q is in both", key)
				}
			}
			if cmd.Flags().Changed("retain") {
				days := 0
				if retain != "forever" {
					keep, err := keepFor(retain)
					if err != nil {
						return err
					}
					days = int(keep / (24 * time.Hour))
					if days == 0 || keep%(24*time.Hour) != 0 || days > backup.MaxRetainDays {
						return usagef("--retain %q: write a number of days, 1d to %dd, or forever", retain, backup.MaxRetainDays)
					}
				}
				e.RetainDays = &days
			}
			if e.Description == nil && e.SetLabels == nil && e.RemoveLabels == nil && e.RetainDays == nil {
				return usagef("nothing to change: give --description, --label, --remove-label or --retain")
			}
			return a.edit(cmd, &f, args[0], e, func(b *catalog.Backup) string { return fmt.Sprintf("%s is edited, it is kept %s", b.ID, keptText(b)) })
		},
	}
	f.add(cmd)
	flags := cmd.Flags()
	flags.StringVar(&about, "description", "", "a text for the backup, at most 1000 bytes")
	flags.StringArrayVar(&labels, "label", nil, labelHelp)
	flags.StringArrayVar(&unlabels, "remove-label", nil, "KEY of a label that goes; repeatable")
	flags.StringVar(&retain, "retain", "", "for how many days from its beginning the backup is kept, such as 30d, or forever")
	return cmd
}

// keptText says how long a backup is kept.
func keptText(b *catalog.Backup) string {
	switch {
	case b.Pinned:
		return "until it is unpinned"
	case b.Kind == catalog.KindAutomatic:
		return "as long as its policy says"
	case b.DeleteAfter.IsZero():
		return "for ever"
	}
	return "until " + when(b.DeleteAfter) + " UTC"
}
