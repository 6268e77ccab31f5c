package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/filestore"
)

// exportFlags are those of "export".
type exportFlags struct {
	id, to, dialect string
	shards          int
	headers         []string
	keys            keyFlags
	web             webFlags
	opened          openFlags
}

func (a *app) exportCommand() *cobra.Command {
	var (
		f exportFlags
		q amber.ExportRequest
	)
	cmd := &cobra.Command{
		Use:   "export BACKUP --to TARGET",
		Short: "Write a backup as a file that a server loads",
		Long: `Write a backup, or some of its keys, as an RDB file that any server of its kind loads, or as one for servers of another engine or version, or as a
set of Dragonfly's. The whole backup is proved before anything is written. A backup that is one RDB file and needs no conversion is written byte
for byte, and so is one that is a set of Dragonfly's, from its files or its flows, as a set of as many files: with the commands that Dragonfly
executed while the snapshot was taken, which any other file lacks. TARGET is one of:

  PATH           a file of this machine
  -              standard output
  STORE-URL/KEY  an object in a store, whose URL is written as --store has it, such as file:///exports/orders.rdb
  https://…      a URL that takes it by PUT, such as one that is signed for this
  @FILE          a file that holds that URL; @- is standard input

Everybody on a machine can see command lines: prefer @FILE for a signed URL. Its query is told to nobody. By URL nothing is reached but public
addresses by https, unless --allow-http and --allow-private say so.

What the dialect can't hold are warnings, which stop the export unless they are accepted by their names: --accept field-expiry, or
--accept all. A file that is there is refused unless --replace is given.

--sign prints a URL that reads the file for so long, to whoever has it, if the store can make one.` + backupArg,
		Example: `  amberctl export before-upgrade --to dump.rdb
  amberctl export before-upgrade --to - --dialect redis:11 | gzip > dump.rdb.gz
  amberctl export before-upgrade --to /var/lib/dragonfly/dump --dialect dfs --shards 4
  amberctl export before-upgrade --to @signed-url.txt --match 'user:*'`,
		Args:              takes(1, 1, "BACKUP"),
		ValidArgsFunction: a.completeBackup,
		RunE: func(cmd *cobra.Command, args []string) error {
			done, err := a.exportRequest(cmd, &f, &q)
			defer done()
			if err != nil {
				return err
			}
			cfg := amber.Config{}
			if cfg.Web, err = f.web.policy(); err != nil {
				return err
			}
			if err := a.opening(&f.opened, &cfg); err != nil {
				return err
			}
			svc, end, err := a.service(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			defer end()
			return a.export(cmd.Context(), svc, &f, &q, args[0])
		},
	}
	f.keys.add(cmd, &q.Select)
	f.web.add(cmd)
	f.opened.add(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.to, "to", "", "where the file goes; required")
	flags.StringVar(&f.id, "id", "", "the data store, if BACKUP is a name")
	flags.StringVar(&f.dialect, "dialect", "", "redis:6 to redis:15, valkey:80, dragonfly:9, or dfs for a set; that of the backup by default")
	flags.IntVar(&f.shards, "shards", 0, "files for keys in a set; as many as the backup has by default, if it is a set itself, else 4")
	flags.BoolVar(&q.Replace, "replace", false, "replace a file that is there")
	flags.DurationVar(&q.SignFor, "sign", 0, "print a URL that reads the file for so long, such as 15m")
	flags.StringArrayVar(&f.headers, "header", nil, `with a URL, a header to send, such as "x-ms-blob-type: BlockBlob"; repeatable`)
	flags.StringSliceVar(&q.Accept, "accept", nil, "warnings that don't stop the export, by their names, or all")
	return cmd
}

// exportRequest makes a request of the command line. The caller calls done in the end.
func (a *app) exportRequest(cmd *cobra.Command, f *exportFlags, q *amber.ExportRequest) (done func(), err error) {
	done = func() {}
	if err := checkID(f.id); err != nil {
		return done, err
	}
	if q.Expiry, err = f.keys.read(&q.Select); err != nil {
		return done, err
	}
	switch {
	case f.to == "":
		return done, usagef("--to is missing: say where the file goes, as in --to dump.rdb")
	case f.dialect == "dfs":
		q.Set, q.Shards = true, f.shards
		if f.shards < 0 || f.shards > 1024 || f.shards == 0 && cmd.Flags().Changed("shards") {
			return done, usagef("--shards %d: 1 to 1024", f.shards)
		}
	case cmd.Flags().Changed("shards"):
		return done, usagef("--shards is for --dialect dfs")
	case f.dialect != "":
		if q.Dialect, err = rdb.ParseDialect(f.dialect); err == nil {
			_, err = rdb.NewWriter(io.Discard, q.Dialect, nil)
		}
		if err != nil {
			return done, usagef("--dialect %q: redis:6 to redis:15, valkey:80, dragonfly:9 or dfs", f.dialect)
		}
	}
	if q.SignFor < 0 {
		return done, usagef("--sign is negative")
	}
	to := f.to
	if file, ok := strings.CutPrefix(to, "@"); ok {
		urls, err := a.urlsIn(file)
		if err != nil {
			return done, fmt.Errorf("--to %w", err)
		}
		if len(urls) > 1 {
			return done, usagef("--to @%s: the file holds %d URLs, and one is needed", file, len(urls))
		}
		to = urls[0]
	}
	scheme, _, isURL := strings.Cut(strings.ToLower(to), "://")
	web := isURL && (scheme == "https" || scheme == "http")
	switch {
	case !web && (f.web.given() || len(f.headers) > 0):
		return done, usagef("--allow-http, --allow-private, --cacert and --header are for a URL that takes the file by PUT")
	case (web || to == "-") && (q.Replace || q.SignFor != 0 || q.Set):
		return done, usagef("--replace, --sign and --dialect dfs are for a file or a store")
	case to == "-" && a.json:
		return done, usagef("--json and --to - both mean standard output")
	case to == "-":
		q.Writer = a.out
		return done, nil
	case web:
		a.console.hide(secretsOfURL(to)...)
		q.URL = to
		q.Header, err = headers(f.headers)
		return done, err
	}
	store, key, err := exportStore(cmd.Context(), to, isURL)
	if err != nil {
		return done, err
	}
	q.To, q.Key = store, key
	return func() { store.Close() }, nil
}

// exportStore opens the store of a file or object, and returns its key there.
func exportStore(ctx context.Context, to string, isURL bool) (storage.StoreCloser, string, error) {
	if !isURL {
		// The directory is not made: a path that is wrong shouldn't become a place for data.
		dir := filepath.Dir(to)
		if _, err := os.Stat(dir); err != nil {
			return nil, "", fmt.Errorf("--to: %w", err)
		}
		store, err := filestore.New(dir, nil)
		if err != nil {
			return nil, "", fmt.Errorf("--to: %w", err)
		}
		return store, filepath.Base(to), nil
	}
	u, err := url.Parse(to)
	if err != nil {
		return nil, "", usagef("--to is not a URL") // without what was parsed, which may be a secret
	}
	dir, key := path.Split(u.Path)
	if key == "" {
		return nil, "", usagef("--to: %s ends in no key: write the store's URL, a slash and the file's name", describeStore(to))
	}
	u.Path, u.RawPath = strings.TrimSuffix(dir, "/"), ""
	store, err := openStore(ctx, u.String())
	if err != nil {
		return nil, "", fmt.Errorf("--to: %w", err)
	}
	return store, key, nil
}

// headers reads lines such as "Name: value". Errors quote no values.
func headers(lines []string) (http.Header, error) {
	h := http.Header{}
	for _, line := range lines {
		name, value, ok := strings.Cut(line, ":")
		if name = strings.TrimSpace(name); !ok || name == "" || strings.ContainsAny(name, " \t") {
			return nil, usagef("--header is written as \"Name: value\"")
		}
		h.Add(name, strings.TrimSpace(value))
	}
	return h, nil
}

// export does what a request says.
func (a *app) export(ctx context.Context, svc *amber.Service, f *exportFlags, q *amber.ExportRequest, arg string) error {
	const left = "nothing was written that anybody takes for a file"
	var err error
	if q.Backup, err = find(ctx, svc, arg, f.id); err != nil {
		return explain(ctx, err, left)
	}
	var stop func()
	q.Progress, stop = a.progress("export of " + string(q.Backup))
	rep, err := svc.Export(ctx, *q)
	stop()
	switch {
	case err == nil:
	case errors.Is(err, errors.ErrUnsupported) && q.SignFor > 0:
		return fmt.Errorf("%w; leave out --sign", err)
	case errors.Is(err, restore.ErrNotEmpty):
		return fmt.Errorf("%w; --replace does that", err)
	case errors.Is(err, restore.ErrNotAccepted):
		return fmt.Errorf("%w; --accept NAME goes on all the same", err)
	default:
		return explain(ctx, hint(err), left)
	}
	for _, warning := range rep.Warnings {
		fmt.Fprintln(a.console, "amberctl: warning: "+clean(warning))
	}
	human := func(w io.Writer) {
		if a.quiet {
			return
		}
		fmt.Fprintf(w, "%s is exported as %s: %s, %s; proved in %s, written in %s\n", rep.Backup, rep.Dialect, plural(rep.Keys, "key"), size(rep.Bytes), took(rep.Verify),
			tookFor(rep.Load, rep.Bytes))
		aside(w, rep.Report)
		for _, file := range rep.Files {
			name := file.Key
			if name == "" {
				name = rep.Target
			}
			fmt.Fprintf(w, "  %s  %s, %s\n", file.SHA256, clean(name), size(file.Bytes))
		}
	}
	if q.Writer != nil {
		human(a.console)
		return nil
	}
	return a.print(rep, func(w io.Writer) {
		human(w)
		for _, file := range rep.Files {
			if file.URL != "" {
				fmt.Fprintln(w, file.URL)
			}
		}
	})
}
