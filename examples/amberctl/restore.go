package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/restore/dumpfile"
	"github.com/amberkv/amber/storage/filestore"
)

// restoreFlags are what the command line says about a restore.
type restoreFlags struct {
	to                 serverFlags
	opened             openFlags
	safety             sealFlags // of the backup of what the target holds
	limited            limitFlags
	id, method         string
	listenCert, lisKey string
	replace, dryRun    bool
	merge              string
	keys               keyFlags
	compare            string
	file, dialect      string
	shards             int
	appendOnly         string
	appendFile         string
}

func (a *app) restoreCommand() *cobra.Command {
	var (
		f restoreFlags
		q amber.RestoreRequest
	)
	cmd := &cobra.Command{
		Use:   "restore BACKUP --to URL | --file OUT | --appendonly DIR",
		Short: "Put a backup into a server, a cluster or a file",
		Long: `Put a backup, or some of its keys, into a server, a cluster or a file for a server to start from, of the same engine and
version or another. Before anything is written the whole backup is proved, and it is found out whether the target can take it:
--dry-run shows that and ends there. In the end the keys are counted, and values compared.

What the target can't hold, and other things that somebody should agree to, are warnings, which stop the restore unless they are
accepted by their names: --accept field-expiry, or --accept all.

A target that holds data is refused, unless --replace says to let go of all of it, of which a backup is made before, or
--merge says what becomes of keys that both have. If BACKUP is encrypted, that backup has to be as well: --encrypt-to says for whom. It keeps the limits of
any backup, --max-syncs and so on, and if it is refused, so is the restore: --ignore-limit goes on all the same.

With --method feed the server replicates from amberctl for the time of the restore, so it has to reach this machine: --listen and
--advertise say how, where that is not evident. With --method command it is sent commands, which clusters and managed services need. The
default is feed if the server can, else command.

With --appendonly the files are written that a server starts from which runs with appendonly yes, as its settings dir and appenddirname say: DIR is such as
/var/lib/redis/appendonlydir. A backup of append-only files can be restored in this way, and the server executes their commands itself.

BACKUP "latest" is the newest of the data store --id that verifies, for a data store that starts empty: it never replaces
anything, and that there is no such backup is an error.` + backupArg + fmt.Sprintf(passwordHelp, "AMBER_TO_PASSWORD"),
		Example: `  amberctl restore before-upgrade --to redis://host:6380 --dry-run
  amberctl restore before-upgrade --to redis://host:6380 --replace
  amberctl restore before-upgrade --to redis://host:6380 --merge skip --match 'user:*' --rename-prefix user:=restored:
  amberctl restore latest --id orders --to redis://new:6379
  amberctl restore before-upgrade --file /var/lib/redis/dump.rdb --dialect redis:11
  amberctl restore before-upgrade --appendonly /var/lib/redis/appendonlydir`,
		Args:              takes(1, 1, "BACKUP"),
		ValidArgsFunction: a.completeBackup,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.restoreRequest(cmd, &f, &q); err != nil {
				return err
			}
			var cfg amber.Config
			if err := a.opening(&f.opened, &cfg); err != nil {
				return err
			}
			if err := a.sealing(&f.safety, &cfg); err != nil {
				return err
			}
			if err := f.limited.apply(&cfg); err != nil {
				return err
			}
			svc, done, err := a.service(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			defer done()
			return a.restore(cmd.Context(), svc, &f, &q, args[0])
		},
	}
	f.to.add(cmd, "to", "the server that takes the data, or any node of the cluster that does")
	f.opened.add(cmd)
	f.limited.add(cmd)
	flags := cmd.Flags()
	flags.StringArrayVar(&f.safety.encryptTo, "encrypt-to", nil, "with --replace, "+encryptToHelp)
	flags.StringVar(&f.safety.signKey, "sign-key", "", "with --replace, "+signKeyHelp)
	flags.StringVar(&f.id, "id", "", "the data store, if BACKUP is a name or latest")
	flags.StringVar(&f.method, "method", "auto", "how the data goes into the server: auto, feed or command")
	flags.BoolVar(&f.dryRun, "dry-run", false, "prove the backup, look at the target, and tell what would be done")
	flags.BoolVar(&f.replace, "replace", false, "let go of all data that the target holds, after a backup of it")
	flags.StringVar(&f.merge, "merge", "", "keep what the target holds; of keys that both have: skip, overwrite or fail")
	flags.StringSliceVar(&q.Accept, "accept", nil, "warnings that don't stop the restore, by their names, or all")
	flags.BoolVar(&q.NoSafetyBackup, "no-safety-backup", false, "with --replace, make no backup of what the target holds")
	flags.StringVar(&q.TargetStore, "target-id", "", "the data store that this backup is filed under; that of BACKUP by default")
	f.keys.add(cmd, &q.Select)
	flags.StringVar(&f.compare, "compare", "sample", "compare the values of a sample of the keys afterwards, of all, or of none")
	flags.IntVar(&q.Connections, "connections", 0, "connections to each node, with command (default 2)")
	flags.StringVar(&q.Listen, "listen", "", "with feed, host:port to listen on for the server; any free port of all interfaces by default")
	flags.StringVar(&q.Advertise, "advertise", "", "with feed, host or host:port under which the server reaches this machine; found out by default")
	flags.StringVar(&f.listenCert, "listen-cert", "", "PEM file of this machine's certificate, for a server that replicates over TLS")
	flags.StringVar(&f.lisKey, "listen-key", "", "PEM file of that certificate's key")
	flags.StringVar(&f.file, "file", "", "write a file for a server to start from; with --dialect dfs the path of a set, without its endings")
	flags.StringVar(&f.dialect, "dialect", "", "of the file: redis:6 to redis:15, valkey:80, dragonfly:9 or dfs; that of the backup by default")
	flags.IntVar(&f.shards, "shards", 0, "files for keys in a set; as many as the backup has by default, if it is a set itself, else 4")
	flags.StringVar(&f.appendOnly, "appendonly", "", "write the append-only files of a server to this directory, for it to start from")
	flags.StringVar(&f.appendFile, "appendfilename", dumpfile.DefaultAOFName, "with --appendonly, the server's setting of that name")
	return cmd
}

// restoreRequest makes a request of the command line.
func (a *app) restoreRequest(cmd *cobra.Command, f *restoreFlags, q *amber.RestoreRequest) error {
	if err := checkID(f.id); err != nil {
		return err
	}
	switch f.method {
	case "auto", "feed", "command":
		q.Method = amber.Method(strings.TrimPrefix(f.method, "auto"))
	default:
		return usagef("--method %q: auto, feed or command", f.method)
	}
	switch f.merge {
	case "":
	case "skip", "overwrite", "fail":
		if f.replace {
			return usagef("--replace and --merge exclude each other")
		}
		q.Conflict = restore.Conflict(f.merge)
	default:
		return usagef("--merge %q: skip, overwrite or fail", f.merge)
	}
	if f.replace {
		q.Conflict = restore.Replace
	}
	for _, name := range append([]string{"encrypt-to", "sign-key"}, limitNames...) {
		if cmd.Flags().Changed(name) && (!f.replace || q.NoSafetyBackup) {
			return usagef("--%s is for the backup that --replace makes of what the target holds", name)
		}
	}
	switch f.compare {
	case "sample", "all", "none":
		q.Compare = restore.Compare(strings.TrimPrefix(f.compare, "sample"))
	default:
		return usagef("--compare %q: sample, all or none", f.compare)
	}
	var err error
	if q.Expiry, err = f.keys.read(&q.Select); err != nil {
		return err
	}
	if f.appendOnly != "" {
		return f.appendOnlyLoader(cmd, q)
	}
	if cmd.Flags().Changed("appendfilename") {
		return usagef("--appendfilename is for --appendonly")
	}
	if f.file != "" {
		return f.fileLoader(cmd, q)
	}
	if f.dialect != "" || cmd.Flags().Changed("shards") {
		return usagef("--dialect and --shards are for --file: a server takes what it can read")
	}
	if q.To, err = a.options(&f.to); err != nil {
		return err
	}
	q.TLS, err = listenerTLS(f.listenCert, f.lisKey, f.to.caCert)
	return err
}

// serverOnly are the flags of a restore into a server.
var serverOnly = []string{"to", "method", "merge", "connections", "listen", "advertise", "listen-cert", "listen-key", "target-id", "compare"}

// appendOnlyLoader makes the request one for a directory of append-only files.
func (f *restoreFlags) appendOnlyLoader(cmd *cobra.Command, q *amber.RestoreRequest) error {
	for _, name := range append([]string{"file", "dialect", "shards"}, serverOnly...) {
		if cmd.Flags().Changed(name) {
			return usagef("--appendonly and --%s exclude each other", name)
		}
	}
	// As below: what is made is the directory itself alone.
	dir := filepath.Clean(f.appendOnly)
	if _, err := os.Stat(filepath.Dir(dir)); err != nil {
		return fmt.Errorf("--appendonly: %w", err)
	}
	store, err := filestore.New(dir, nil)
	if err != nil {
		return fmt.Errorf("--appendonly: %w", err)
	}
	if q.Loader, err = dumpfile.NewAOF(dumpfile.AOFConfig{Store: store, Name: f.appendFile}); err != nil {
		return usagef("--appendonly %q: %w", f.appendOnly, err)
	}
	return nil
}

// fileLoader makes the request one for a file.
func (f *restoreFlags) fileLoader(cmd *cobra.Command, q *amber.RestoreRequest) error {
	for _, name := range serverOnly {
		if cmd.Flags().Changed(name) {
			return usagef("--file and --%s exclude each other", name)
		}
	}
	cfg := dumpfile.Config{Name: filepath.Base(f.file)}
	var err error
	switch {
	case f.dialect == "dfs":
		cfg.Set, cfg.Shards = true, f.shards
	case cmd.Flags().Changed("shards"):
		return usagef("--shards is for --dialect dfs")
	case f.dialect != "":
		if cfg.Dialect, err = rdb.ParseDialect(f.dialect); err != nil {
			return usagef("--dialect %q: redis:6 to redis:15, valkey:80, dragonfly:9 or dfs", f.dialect)
		}
	}
	// The directory is not made: a path that is wrong shouldn't become a place for data.
	dir := filepath.Dir(f.file)
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("--file: %w", err)
	}
	if cfg.Store, err = filestore.New(dir, nil); err != nil {
		return fmt.Errorf("--file: %w", err)
	}
	if q.Loader, err = dumpfile.New(cfg); err != nil {
		return usagef("--file %q: %w", f.file, err)
	}
	return nil
}

// restore does what a request says.
func (a *app) restore(ctx context.Context, svc *amber.Service, f *restoreFlags, q *amber.RestoreRequest, arg string) error {
	const untouched = "the target was not touched"
	var err error
	latest := arg == "latest"
	switch {
	case latest && f.id == "":
		return usagef("latest of which data store? Give it by --id")
	case latest && (q.Conflict != restore.IntoEmpty || f.dryRun):
		return usagef("latest is for a target that is empty: --replace, --merge and --dry-run are not for it")
	case !latest:
		if q.Backup, err = find(ctx, svc, arg, f.id); err != nil {
			return explain(ctx, err, untouched)
		}
	}
	var stop func()
	q.Progress, stop = a.progress("restore of " + cmp.Or(string(q.Backup), f.id))
	if f.dryRun {
		plan, err := svc.PlanRestore(ctx, *q)
		stop()
		if err != nil {
			return explain(ctx, err, untouched)
		}
		return a.printPlan(plan, q)
	}
	var rep *restore.Report
	if latest {
		rep, err = svc.RestoreLatest(ctx, f.id, *q)
	} else {
		rep, err = svc.Restore(ctx, *q)
	}
	stop()
	if err != nil {
		return explain(ctx, err, untouched)
	}
	return a.printReport(rep)
}

// listenerTLS is how a target that replicates over TLS is answered; nil if nothing is said about it.
func listenerTLS(cert, key, caCert string) (*tls.Config, error) {
	pair, err := keyPair("--listen-cert", cert, "--listen-key", key)
	if pair == nil || err != nil {
		return nil, err
	}
	cfg := &tls.Config{Certificates: []tls.Certificate{*pair}, MinVersion: tls.VersionTLS12}
	if caCert != "" { // the target's certificate, if it shows one, has to be by the authority that its clients trust
		pem, err := os.ReadFile(caCert)
		if err != nil {
			return nil, fmt.Errorf("--cacert: %w", err)
		}
		cfg.ClientCAs = x509.NewCertPool()
		if !cfg.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("--cacert holds no certificate in PEM form")
		}
		cfg.ClientAuth = tls.VerifyClientCertIfGiven
	}
	return cfg, nil
}
