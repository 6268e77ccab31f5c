package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/govern"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/seal"
)

// The exit statuses.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// app is one run of the program.
type app struct {
	stdin   io.Reader
	out     *output
	console *console
	env     func(string) string

	store   string
	json    bool
	quiet   bool
	verbose bool
}

// run is the program without its process: it returns the exit status.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer, env func(string) string) int {
	a := &app{stdin: stdin, out: &output{w: stdout}, console: newConsole(stderr, env), env: env}
	a.console.hide(secretsOf(args)...)

	root := a.root()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(a.out)
	root.SetErr(a.console)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil && a.out.err != nil {
		err = fmt.Errorf("writing the result: %w", a.out.err)
	}
	if err == nil {
		return exitDone
	}
	a.console.fail(err)
	if usage := (*usageError)(nil); errors.As(err, &usage) {
		fmt.Fprintf(a.console, "Run '%s --help' for usage.\n", cmd.CommandPath())
		return exitUsage
	}
	return exitFailed
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "amberctl",
		Short: "Back up Redis and Valkey, prove it, put it back",
		Long: `Amberctl backs up living Redis and Valkey servers over the network, proves every backup while it is made, keeps it in
a store, and puts it back.

A store is a directory, or a bucket of S3 and what speaks its protocol, of Google Cloud Storage or of Azure. Its URL holds no
secrets: credentials are found where the provider's own tools find them. 'amberctl doctor --help' shows URLs of each kind, and
'amberctl doctor' tries a store out.

The exit status is 0 when the work is done, 1 when it failed and 2 when the command line is wrong. Results go to
standard output, as one JSON document with --json; progress and errors go to standard error.`,
		Example: `  export AMBER_STORE=file:///var/backups
  amberctl backup --from redis://user@db:6379 --id orders --name before-upgrade
  amberctl list
  amberctl restore before-upgrade --to redis://db2:6379`,
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE:          needCommand,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.SetVersionTemplate("amberctl {{.Version}}\n")
	flags := root.PersistentFlags()
	flags.StringVar(&a.store, "store", "", "where the backups are: file:///directory or a path, s3://bucket/prefix, gs://bucket/prefix, azblob://container/prefix ($AMBER_STORE)")
	flags.BoolVar(&a.json, "json", false, "print one JSON document")
	flags.BoolVarP(&a.quiet, "quiet", "q", false, "no progress, and nothing but the necessary")
	flags.BoolVarP(&a.verbose, "verbose", "v", false, "tell more of what happens")
	root.AddCommand(a.backupCommand(), a.importCommand(), a.listCommand(), a.showCommand(), a.verifyCommand(), a.restoreCommand(),
		a.copyCommand(), a.exportCommand(), a.pinCommand(true), a.pinCommand(false), a.editCommand(), a.deleteCommand(), a.datastoreCommand(), a.pruneCommand(), a.sweepCommand(), a.usageCommand(), a.policyCommand(), a.runsCommand(), a.scheduleCommand(), a.keygenCommand(), a.doctorCommand(), a.rdbCommand())
	return root
}

// needCommand is what a command does that has nothing but commands of its own.
func needCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		cmd.SetOut(cmd.ErrOrStderr())
		_ = cmd.Help() // to standard error, where its failure would have to be told as well
		return usagef("a command is missing")
	}
	text := fmt.Sprintf("unknown command %q", args[0])
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		text += fmt.Sprintf(", did you mean %q?", near[0])
	}
	return usagef("%s", text)
}

// version is what the Go tool recorded in the binary.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// A usageError is a command line that is wrong.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// takes says how many arguments a command takes and what they are.
func takes(least, most int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return usagef("%s is missing", what)
		case len(args) > most && most == 0:
			return usagef("unexpected argument %q", args[0])
		case len(args) > most:
			return usagef("unexpected argument %q after %s", args[most], what)
		}
		return nil
	}
}

// openStore opens the store that --store or AMBER_STORE names.
func (a *app) openStore(ctx context.Context) (storage.StoreCloser, error) {
	if a.store == "" {
		a.store = a.env("AMBER_STORE")
	}
	if a.store == "" {
		return nil, usagef("--store (or AMBER_STORE) is missing: say where the backups are, as in --store file:///var/backups")
	}
	store, err := openStore(ctx, a.store)
	if err != nil {
		return nil, fmt.Errorf("--store: %w", err)
	}
	return store, nil
}

// service opens the store. The caller calls done in the end.
func (a *app) service(ctx context.Context, cfg amber.Config) (svc *amber.Service, done func(), err error) {
	store, err := a.openStore(ctx)
	if err != nil {
		return nil, nil, err
	}
	return a.serviceOver(store, cfg)
}

// serviceOver makes a service over a store, which done closes.
func (a *app) serviceOver(store storage.StoreCloser, cfg amber.Config) (svc *amber.Service, done func(), err error) {
	cfg.Store, cfg.Logger, cfg.Limits = store, a.logger(), limits
	if svc, err = amber.New(cfg); err != nil {
		store.Close()
		return nil, nil, err
	}
	return svc, func() { store.Close() }, nil
}

// logger writes what happens to the console.
func (a *app) logger() *slog.Logger {
	level := slog.LevelWarn
	switch {
	case a.quiet:
		level = slog.LevelError
	case a.verbose:
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(a.console, &slog.HandlerOptions{Level: level}))
}

// find turns the argument that names a backup into its ID. The argument is an ID, or a name that only one ready backup
// has, of all or of one data store.
func find(ctx context.Context, svc *amber.Service, arg, dataStore string) (catalog.ID, error) {
	if _, ok := catalog.ID(arg).Time(); ok {
		return catalog.ID(arg), nil
	}
	var ids []string
	for b, err := range svc.List(ctx, catalog.Query{DataStore: dataStore}) {
		if errors.Is(err, catalog.ErrCorrupt) {
			continue // of no use to find a name; "list" tells about it
		}
		if err != nil {
			return "", err
		}
		if b.Name == arg && !slices.Contains(ids, string(b.ID)) { // it may be in two stores
			ids = append(ids, string(b.ID))
		}
	}
	switch len(ids) {
	case 0:
		return "", fmt.Errorf("%w: nothing has the ID or the name %q", catalog.ErrNotFound, arg)
	case 1:
		return catalog.ID(ids[0]), nil
	}
	return "", fmt.Errorf("%d backups have the name %q: give one's ID (%s), or a data store by --id", len(ids), arg, strings.Join(ids, ", "))
}

// completeBackup offers a shell the backups that there are.
func (a *app) completeBackup(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
	const none = cobra.ShellCompDirectiveNoFileComp
	if len(args) > 0 {
		return nil, none
	}
	svc, done, err := a.service(cmd.Context(), amber.Config{})
	if err != nil {
		return nil, none
	}
	defer done()
	var found []cobra.Completion
	for b, err := range svc.List(cmd.Context(), catalog.Query{}) {
		if err == nil && strings.HasPrefix(string(b.ID), begun) {
			about := fmt.Sprintf("%s %s, %s", b.DataStore, b.Name, plural(b.Keys, "key"))
			found = append(found, cobra.CompletionWithDesc(string(b.ID), about))
		}
	}
	return found, none
}

// backupArg is the part of a command's help that says what BACKUP is.
const backupArg = "\n\nBACKUP is the backup's ID, or its name if only one ready backup has it; --id narrows that to one data store."

// checkID refuses a data store that can't exist.
func checkID(id string) error {
	if id == "" {
		return nil
	}
	if err := catalog.ValidName(id); err != nil {
		return usagef("--id %q: %w", id, err)
	}
	return nil
}

// explain adds to an error of a command what to do about it, or, if the command was interrupted, what is left.
func explain(ctx context.Context, err error, left string) error {
	partial := (*restore.PartialError)(nil)
	limit := (*govern.LimitError)(nil)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil && errors.As(err, &partial): // it says itself what is left
		return fmt.Errorf("interrupted: %w", err)
	case ctx.Err() != nil:
		return fmt.Errorf("interrupted: %s (%w)", left, err)
	case errors.Is(err, restore.ErrNotEmpty):
		return fmt.Errorf("%w; --replace lets go of what is there, --merge keeps it", err)
	case errors.Is(err, seal.ErrNoIdentity):
		return fmt.Errorf("%w; --identity FILE says where that is, or --passphrase if it is one", err)
	case errors.Is(err, restore.ErrNotAccepted):
		return fmt.Errorf("%w; --accept NAME goes on all the same, --dry-run shows all points", err)
	case errors.Is(err, backup.ErrBudget):
		return fmt.Errorf("%w; --ignore-limit %s goes on all the same", err, govern.Budget)
	case errors.As(err, &limit):
		return fmt.Errorf("%w; --ignore-limit %s goes on all the same", err, limit.Name)
	case errors.Is(err, catalog.ErrNotFound):
		return fmt.Errorf("%w; 'amberctl list --all' shows what there is", err)
	}
	return err
}

// print writes a result: as JSON, or by the given function.
func (a *app) print(v any, human func(w io.Writer)) error {
	if !a.json {
		human(a.out)
		return nil
	}
	enc := json.NewEncoder(a.out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// output remembers that a result could not be written, so that a full disk is not taken for success.
type output struct {
	w   io.Writer
	err error
}

func (o *output) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	if err != nil && o.err == nil {
		o.err = err
	}
	return n, err
}
