package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup/dumpfile"
	"github.com/amberkv/amber/backup/fetch"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/storage/filestore"
)

// importFlags are those of "import".
type importFlags struct {
	id, name, about string
	retain          string
	labels          []string
	fromStore       string
	adopt, list     bool
	dbfilename      string
	web             webFlags
	maxBytes        int64
	leaseTTL        time.Duration
	sealed          sealFlags
}

func (a *app) importCommand() *cobra.Command {
	f := &importFlags{}
	cmd := &cobra.Command{
		Use:   "import --id DATASTORE SOURCE | --list [DIRECTORY]",
		Short: "Make a backup of what a server wrote itself",
		Long: `Make a backup of a snapshot that a server wrote itself: an RDB file such as dump.rdb, or a set of Dragonfly's, by the name of its
summary (NAME-summary.dfs), or append-only files, by their directory or manifest. It is proved on its way, and listed when it is stored, as a
backup of a server is. SOURCE is one of:

  PATH           a file of this machine; the shards of a set are beside its summary. Of append-only files, their directory (appendonlydir), their
                 manifest, or the single NAME.aof of Redis 6.2 and older; their server may be running
  -              an RDB file from standard input
  https://…      a URL, which may be signed; the shards of a set are beside its summary, or are given as further URLs
  @FILE          a file that holds the URL, and in further lines those of shards; @- is standard input
  KEY            with --from-store or --adopt, the name of a file in that store; of append-only files, that of their manifest

Everybody on a machine can see command lines: prefer @FILE for a signed URL. Its query is told to nobody.

By URL nothing is reached but public addresses by https, whatever name or redirect leads elsewhere, unless --allow-http and
--allow-private say so. With --adopt the files stay where they are, in the store itself, and the backup refers to them: deleting it leaves them
alone, and whoever changes them makes it one that doesn't verify.

With --list nothing is imported: it shows what a directory or --from-store has, what of it is complete, and what a server would load when it
starts.`,
		Example: `  amberctl import --list /var/lib/redis
  amberctl import --id orders --name from-the-old-host /var/lib/redis/dump.rdb
  amberctl import --id orders /var/lib/redis/appendonlydir
  amberctl import --id sessions --retain 30d @signed-url.txt
  amberctl import --id carts --from-store file:///snapshots dump-2026-08-22T11:55:03-summary.dfs`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 && !f.list {
				return usagef("SOURCE is missing: give a path, a URL, @FILE, - or a KEY")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.list {
				return a.listDumps(cmd, f, args)
			}
			q, policy, done, err := a.importRequest(cmd.Context(), f, args)
			if err != nil {
				return err
			}
			defer done()
			cfg := amber.Config{LeaseTTL: f.leaseTTL, Web: policy}
			if err := a.sealing(&f.sealed, &cfg); err != nil {
				return err
			}
			svc, end, err := a.service(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			defer end()
			var stop func()
			q.Progress, stop = a.progress("import of " + f.id)
			b, err := svc.Import(cmd.Context(), *q)
			stop()
			if err != nil {
				return explain(cmd.Context(), hint(err), "nothing was listed; what was stored was taken back as far as there was time, "+
					"'amberctl sweep' removes the rest")
			}
			return a.print(b, func(w io.Writer) {
				if a.quiet {
					fmt.Fprintln(w, b.ID)
					return
				}
				stored := "stored"
				if f.adopt {
					stored = "adopted"
				}
				fmt.Fprintf(w, "%s is ready: %s, %s %s (%s raw) in %s, %s\n", b.ID, contents(b),
					size(b.StoredBytes), stored, size(b.RawBytes), describeStore(a.store), took(b.Timings.Total))
			})
		},
	}
	f.sealed.add(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.id, "id", "", "your name for the data store: letters, digits, -, _ and .; required")
	flags.StringVar(&f.name, "name", "", "a name for the backup, of the same characters, a letter first; no other backup of the data store has it")
	flags.StringVar(&f.about, "description", "", "a text for the backup, at most 1000 bytes")
	flags.StringArrayVar(&f.labels, "label", nil, labelHelp)
	flags.StringVar(&f.retain, "retain", "", retainHelp)
	flags.StringVar(&f.fromStore, "from-store", "", "the store that has the file, as --store is written; SOURCE is a KEY then")
	flags.BoolVar(&f.adopt, "adopt", false, "refer to the file where it is, in --store, instead of storing it again; SOURCE is a KEY then")
	flags.BoolVar(&f.list, "list", false, "show what there is to import")
	flags.StringVar(&f.dbfilename, "dbfilename", "", "with --list, the server's setting of that name; dump.rdb and dump-{timestamp} by default")
	f.web.add(cmd)
	flags.Int64Var(&f.maxBytes, "max-bytes", 0, "how large a file or set may be that is fetched by URL (default 1 TiB)")
	flags.DurationVar(&f.leaseTTL, "lease-ttl", 30*time.Second,
		"how long this run, if it dies, keeps others from the data store; at least 3s")
	return cmd
}

const retainHelp = "how long to keep the backup, such as 30d or 12h; then 'amberctl prune' deletes it, unless it is the newest of its data store"

// keepFor reads what --retain says.
func keepFor(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	var d time.Duration
	days, ok := strings.CutSuffix(text, "d")
	n, err := strconv.ParseUint(days, 10, 32)
	if ok && err == nil {
		d = time.Duration(min(n, 100*366)) * 24 * time.Hour
	} else {
		d, err = time.ParseDuration(text)
	}
	if err != nil || d <= 0 || ok && n > 100*366 {
		return 0, usagef("--retain %q: write a number of days, such as 30d, or hours, such as 12h", text)
	}
	return d, nil
}

// importRequest makes a request of the command line. The caller calls done in the end.
func (a *app) importRequest(ctx context.Context, f *importFlags, args []string) (q *amber.ImportRequest, policy fetch.Policy, done func(), err error) {
	done = func() {}
	q = &amber.ImportRequest{DataStore: f.id, Name: f.name, Description: f.about, Adopt: f.adopt, MaxBytes: f.maxBytes}
	if err = f.check(); err != nil {
		return q, policy, done, err
	}
	if q.Retain, err = keepFor(f.retain); err != nil {
		return q, policy, done, err
	}
	if q.Labels, err = readLabels(f.labels); err != nil {
		return q, policy, done, err
	}
	if policy, err = f.web.policy(); err != nil {
		return q, policy, done, err
	}
	urls := args
	if file, ok := strings.CutPrefix(args[0], "@"); ok && len(args) == 1 && f.fromStore == "" && !f.adopt {
		if urls, err = a.urlsIn(file); err != nil {
			return q, policy, done, err
		}
	}
	scheme, _, _ := strings.Cut(strings.ToLower(urls[0]), "://")
	isURL := scheme == "https" || scheme == "http"
	switch {
	case isURL && (f.fromStore != "" || f.adopt):
		return q, policy, done, usagef("a URL doesn't go with --from-store and --adopt, which take a KEY")
	case isURL:
		for _, u := range urls {
			a.console.hide(secretsOfURL(u)...)
		}
		q.URL, q.More = urls[0], urls[1:]
		return q, policy, done, nil
	case f.maxBytes != 0 || f.web.given():
		return q, policy, done, usagef("--allow-http, --allow-private, --cacert and --max-bytes are for a URL")
	case len(args) > 1:
		return q, policy, done, usagef("there are %d arguments: of what isn't a URL there is one", len(args))
	case f.adopt:
		q.Key = args[0]
		return q, policy, done, nil
	case f.fromStore != "":
		store, err := openStore(ctx, f.fromStore)
		if err != nil {
			return q, policy, done, fmt.Errorf("--from-store: %w", err)
		}
		q.Key, q.From = args[0], store
		return q, policy, func() { store.Close() }, nil
	case args[0] == "-":
		q.Reader, q.File = a.stdin, "standard input"
		return q, policy, done, nil
	case strings.Contains(args[0], "://"):
		return q, policy, done, usagef("SOURCE is neither a path nor an https:// URL: what is in a store is given as --from-store URL KEY")
	}
	done, err = importPath(q, args[0])
	return q, policy, done, err
}

func (f *importFlags) check() error {
	switch {
	case f.id == "":
		return usagef("--id is missing: say which data store this is, as in --id orders")
	case f.leaseTTL < 3*time.Second:
		return usagef("--lease-ttl %v is too short, it has to be at least 3s", f.leaseTTL)
	case len(f.about) > 1000:
		return usagef("--description has %d bytes, the limit is 1000", len(f.about))
	case f.adopt && f.fromStore != "":
		return usagef("--adopt and --from-store exclude each other: what is adopted lies in --store")
	case f.adopt && (len(f.sealed.encryptTo) > 0 || f.sealed.passphrase):
		return usagef("--adopt leaves the file as it is, so it can't be encrypted: leave one of them out")
	case f.dbfilename != "":
		return usagef("--dbfilename goes with --list")
	case f.maxBytes < 0:
		return usagef("--max-bytes is negative")
	}
	if f.name != "" {
		if err := catalog.ValidBackupName(f.name); err != nil {
			return usagef("--name %q: %w", f.name, err)
		}
	}
	return checkID(f.id)
}

// urlsIn reads the URLs in a file, one in each line. Errors quote nothing of it.
func (a *app) urlsIn(file string) ([]string, error) {
	in, err := a.open(file)
	if err != nil {
		return nil, fmt.Errorf("@%s: %w", file, err)
	}
	defer in.Close()
	const limit = 1 << 20
	text, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err != nil {
		return nil, fmt.Errorf("@%s: %w", file, err)
	}
	var urls []string
	for line := range bytes.Lines(text) {
		if line = bytes.TrimSpace(line); len(line) > 0 {
			urls = append(urls, string(line))
		}
	}
	if len(urls) == 0 || len(text) > limit || !strings.HasPrefix(strings.ToLower(urls[0]), "http") || !strings.Contains(urls[0], "://") {
		return nil, fmt.Errorf("@%s holds no URL that begins with https://, as its first line should", file)
	}
	return urls, nil
}

// secretsOfURL returns what of a URL nobody may see.
func secretsOfURL(text string) []string {
	_, query, ok := strings.Cut(text, "?")
	if !ok {
		return nil
	}
	secrets := []string{query}
	for pair := range strings.SplitSeq(query, "&") {
		if _, value, _ := strings.Cut(pair, "="); len(value) >= 8 {
			secrets = append(secrets, value)
			if plain, err := url.QueryUnescape(value); err == nil {
				secrets = append(secrets, plain)
			}
		}
	}
	return secrets
}

// importPath makes the request one for a file of this machine. What is no regular file, such as a named pipe, is read as it comes.
func importPath(q *amber.ImportRequest, name string) (done func(), err error) {
	done = func() {}
	path, err := filepath.EvalSymlinks(name)
	if err != nil {
		return done, err
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return done, err
	case info.IsDir():
		manifests, err := filepath.Glob(filepath.Join(escapeGlob(path), "*.manifest"))
		if err != nil || len(manifests) == 0 {
			return done, usagef("%s is a directory without append-only files: 'amberctl import --list %s' shows what is in it", name, name)
		}
		return importAOF(q, name, path)
	case !info.Mode().IsRegular():
		in, err := os.Open(path)
		if err != nil {
			return done, err
		}
		q.Reader, q.File = in, filepath.Base(name)
		return func() { in.Close() }, nil
	}
	dir, base := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	store, err := filestore.New(dir, nil)
	if err != nil {
		return done, err
	}
	done = func() { store.Close() }
	if q.Snapshotter, err = dumpfile.Of(dumpfile.Config{Store: store, Name: base}); err != nil {
		done()
		return func() {}, usagef("%s: %w", name, err)
	}
	return done, nil
}

// importAOF makes the request one for a directory of append-only files.
func importAOF(q *amber.ImportRequest, name, dir string) (done func(), err error) {
	store, err := filestore.New(dir, nil)
	if err != nil {
		return func() {}, err
	}
	if q.Snapshotter, err = dumpfile.NewAOF(dumpfile.AOFConfig{Store: store}); err != nil {
		store.Close()
		return func() {}, usagef("%s: %w", name, err)
	}
	return func() { store.Close() }, nil
}

// escapeGlob takes the meaning from what has one in a pattern.
func escapeGlob(path string) string {
	return strings.NewReplacer(`*`, `\*`, `?`, `\?`, `[`, `\[`, `\`, `\\`).Replace(path)
}

// hint adds to an error of an import what to change on the command line.
func hint(err error) error {
	switch {
	case errors.Is(err, fetch.ErrRefused):
		return fmt.Errorf("%w; --allow-http and --allow-private say what may be reached besides public addresses by https", err)
	case errors.Is(err, dumpfile.ErrChanged):
		return fmt.Errorf("%w; import it again when nobody writes it", err)
	}
	return err
}
