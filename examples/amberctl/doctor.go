package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/amberkv/amber/storage"
)

// examined is what "doctor --json" prints.
type examined struct {
	Store string `json:"store"`
	*storage.Diagnosis
}

func (a *app) doctorCommand() *cobra.Command {
	var (
		large   int64
		objects int
		timeout time.Duration
		from    serverFlags
		take    takeFlags
	)
	cmd := &cobra.Command{
		Use:   "doctor [--from URL]",
		Short: "Try out what Amber needs of the store, or of a server, and tell what to change",
		Long: `Try out what Amber needs of the store: that objects can be created, also in several pieces, read, read in part, listed,
replaced and deleted, that a create can be exclusive, that an aborted write leaves nothing, and that clocks agree. For each
check that fails there is advice what to change: a right that the credentials lack, a region, a clock.

The doctor works below _doctor/ in the store and removes what it has made, so it can be called at any time, also beside
backups at work. It moves about three times the size of its large object. With --verbose, and whenever something fails, it
tells how the store is reached: endpoint, region, and where the credentials came from.

With --from it looks at a server instead, and needs no store: what it is, by which methods a snapshot of it can be taken, which of
them a backup would take and why, and why not by the others. It asks by INFO, COMMAND INFO, ACL WHOAMI and ACL DRYRUN; nothing is begun
and nothing written, and no secret is in what it prints. The server may be a Sentinel, or any node of a cluster.

The exit status is 1 if a check failed, or no method can be used. A warning is not a failure.` + fmt.Sprintf(passwordHelp, "AMBER_FROM_PASSWORD"),
		Example: `  amberctl doctor --store file:///var/backups

  # AWS S3; credentials as the aws command finds them: environment, ~/.aws (profile=NAME), web identity, container.
  # ec2_metadata=true asks the EC2 instance as well.
  amberctl doctor --store 's3://bucket/backups?region=eu-central-1'

  # MinIO, Ceph and others that speak S3
  export AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=…
  amberctl doctor --store 's3://bucket/backups?preset=minio&endpoint=https://minio.example.com:9000'

  # Cloudflare R2
  amberctl doctor --store 's3://bucket/backups?endpoint=ACCOUNT.r2.cloudflarestorage.com'

  # Google Cloud Storage; credentials as of 'gcloud auth application-default login', or GOOGLE_APPLICATION_CREDENTIALS
  amberctl doctor --store gs://bucket/backups

  # Azure Blob Storage; credentials as of 'az login', or AZURE_STORAGE_KEY
  amberctl doctor --store 'azblob://container/backups?account=NAME'

  # How a server can be backed up
  amberctl doctor --from redis://user@host:6379`,
		Args: takes(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case large < 1:
				return usagef("--large %d: the large object has at least 1 MiB", large)
			case objects < 0:
				return usagef("--objects %d: that is no number of objects", objects)
			case timeout <= 0:
				return usagef("--timeout %v: a check needs some time", timeout)
			case from.url != "" && cmd.Flags().Changed("store"):
				return usagef("--store and --from are looked at one at a time: leave one of them out")
			case from.url != "":
				return a.doctorSource(cmd.Context(), &from, &take)
			case a.store == "" && a.env("AMBER_STORE") == "":
				return usagef("--store (or AMBER_STORE) or --from is missing: say what to look at, as in --store file:///var/backups or --from redis://host:6379")
			}
			store, err := a.openStore(cmd.Context())
			if err != nil {
				return err
			}
			defer store.Close()
			d := storage.Doctor(cmd.Context(), store, &storage.DoctorOptions{LargeSize: large << 20, Objects: objects, Timeout: timeout})
			if err := a.print(examined{describeStore(a.store), d}, func(w io.Writer) { a.doctorTable(w, d) }); err != nil {
				return err
			}
			if cmd.Context().Err() != nil {
				return fmt.Errorf("interrupted: the checks are not complete (%w)", cmd.Context().Err())
			}
			if failed := with(d, "fail"); len(failed) > 0 {
				return fmt.Errorf("%d of %d checks of %s failed: %s", len(failed), len(d.Findings), describeStore(a.store), strings.Join(failed, ", "))
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.Int64Var(&large, "large", 20, "size of the large object in MiB; larger than two pieces of an upload, to see that those work")
	flags.IntVar(&objects, "objects", 0, "how many small objects to make and list besides; 1100 are more than a page at most providers")
	flags.DurationVar(&timeout, "timeout", time.Minute, "how long each check may take")
	from.addOptional(cmd, "from", "a server to look at instead of a store")
	take.addServer(cmd)
	return cmd
}

// with returns the names of the checks with a result.
func with(d *storage.Diagnosis, result string) []string {
	var names []string
	for _, f := range d.Findings {
		if f.Result == result {
			names = append(names, f.Check)
		}
	}
	return names
}

func (a *app) doctorTable(w io.Writer, d *storage.Diagnosis) {
	if a.verbose || !d.OK {
		rows := [][]string{{"store", describeStore(a.store)}}
		for _, f := range d.Facts {
			rows = append(rows, []string{f.Name, f.Value})
		}
		table(w, rows...)
		fmt.Fprintln(w)
	}
	rows := [][]string{{"CHECK", "RESULT", "TOOK", "SEEN"}}
	failures, advice, of := "", []string{}, map[string][]string{}
	for _, f := range d.Findings {
		seen := f.Seen
		if f.Err != nil { // which may be long
			failures += fmt.Sprintf("  %s: %s\n", f.Check, clean(f.Seen))
			seen = "see below"
		}
		if !a.quiet || f.Result != "ok" {
			rows = append(rows, []string{f.Check, mark(f.Result), tookFor(f.Duration, f.Bytes), seen})
		}
		if f.Advice == "" {
			continue
		}
		if of[f.Advice] == nil {
			advice = append(advice, f.Advice)
		}
		of[f.Advice] = append(of[f.Advice], f.Check)
	}
	if len(rows) > 1 {
		table(w, rows...)
	}
	if failures != "" {
		fmt.Fprintf(w, "\nWhat went wrong:\n%s", failures)
	}
	if len(advice) > 0 {
		fmt.Fprint(w, "\nWhat to change:\n")
	}
	for _, text := range advice {
		fmt.Fprintf(w, "  %s: %s.\n", strings.Join(of[text], ", "), clean(text))
	}
}

// mark makes what is not well stand out.
func mark(result string) string {
	if result == "fail" {
		return "FAILED"
	}
	return result
}
