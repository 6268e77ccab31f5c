package main

import (
	"errors"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/catalog"
)

// verified is what "verify --json" says of a backup.
type verified struct {
	ID        catalog.ID    `json:"id"`
	DataStore string        `json:"dataStore,omitempty"`
	Name      string        `json:"name,omitempty"`
	OK        bool          `json:"ok"`
	Error     string        `json:"error,omitempty"`
	Keys      int64         `json:"keys"`
	Bytes     int64         `json:"bytes"`            // read from the store
	RawBytes  int64         `json:"rawBytes"`         // parsed
	Sealed    bool          `json:"sealed,omitempty"` // it is encrypted and was not opened: only the stored bytes were hashed
	Duration  time.Duration `json:"duration"`         // in nanoseconds
}

func (a *app) verifyCommand() *cobra.Command {
	var (
		open openFlags
		id   string
		all  bool
	)
	cmd := &cobra.Command{
		Use:   "verify BACKUP | --all",
		Short: "Prove backups from the store alone",
		Long: `Prove that a backup can be restored: every stored byte is read and hashed, every part decompressed, parsed to its end
and held against its checksum, and its contents are counted and compared with the manifest.

Encrypted backups are opened by --identity or --passphrase. Without either only the stored bytes are hashed: that they are those that were proved
when the backup was made; whether somebody can still open them isn't known then.

With --json the result is on standard output also when a backup doesn't verify: "ok" is false and "error" says why.` + backupArg,
		Args:              takes(0, 1, "BACKUP"),
		ValidArgsFunction: a.completeBackup,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case all && len(args) > 0:
				return usagef("give a BACKUP or --all, not both")
			case !all && len(args) == 0:
				return usagef("BACKUP is missing: give one, or --all")
			}
			if err := checkID(id); err != nil {
				return err
			}
			var cfg amber.Config
			if err := a.opening(&open, &cfg); err != nil {
				return err
			}
			svc, done, err := a.service(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			defer done()
			if all {
				return a.verifyAll(cmd, svc, id)
			}
			backup, err := find(cmd.Context(), svc, args[0], id)
			if err != nil {
				return explain(cmd.Context(), err, "verifying changes nothing")
			}
			v, err := a.verify(cmd, svc, backup)
			if cmd.Context().Err() != nil && err != nil {
				return err
			}
			return errors.Join(err, a.print(v, func(w io.Writer) { verifyTable(w, v) }))
		},
	}
	open.add(cmd)
	cmd.Flags().StringVar(&id, "id", "", "the data store, if BACKUP is a name, or with --all")
	cmd.Flags().BoolVar(&all, "all", false, "every backup that is ready")
	return cmd
}

// verify proves one backup.
func (a *app) verify(cmd *cobra.Command, svc *amber.Service, id catalog.ID) (verified, error) {
	tell, stop := a.progress("verifying " + string(id))
	proof, err := svc.Verify(cmd.Context(), id, tell)
	stop()
	if err != nil {
		err = explain(cmd.Context(), err, "verifying changes nothing")
		return verified{ID: id, Error: err.Error()}, err
	}
	return verified{ID: id, DataStore: proof.Backup.DataStore, Name: proof.Backup.Name, OK: true, Keys: proof.Keys,
		Bytes: proof.StoredBytes, RawBytes: proof.RawBytes, Sealed: proof.Sealed, Duration: proof.Duration}, nil
}

func (a *app) verifyAll(cmd *cobra.Command, svc *amber.Service, id string) error {
	backups, unreadable, err := list(cmd, svc, catalog.Query{DataStore: id})
	if err != nil {
		return explain(cmd.Context(), err, "verifying changes nothing")
	}
	results, errs := []verified{}, unreadable
	for _, b := range backups {
		v, err := a.verify(cmd, svc, b.ID)
		if err != nil && cmd.Context().Err() != nil {
			return err
		}
		v.DataStore, v.Name = b.DataStore, b.Name
		results = append(results, v)
		if err != nil {
			errs = append(errs, err)
		}
	}
	err = a.print(results, func(w io.Writer) { verifyTable(w, results...) })
	return errors.Join(append(errs, err)...)
}

func verifyTable(w io.Writer, results ...verified) {
	if len(results) == 0 {
		return
	}
	rows := [][]string{{"ID", "RESULT", "KEYS", "SIZE", "TOOK"}}
	for _, v := range results {
		if !v.OK {
			rows = append(rows, []string{string(v.ID), "FAILED"})
			continue
		}
		result, read := "ok", v.RawBytes
		if v.Sealed {
			result, read = "ok, not opened", v.Bytes
		}
		rows = append(rows, []string{string(v.ID), result, count(v.Keys), size(v.Bytes), tookFor(v.Duration, read)})
	}
	table(w, rows...)
}
