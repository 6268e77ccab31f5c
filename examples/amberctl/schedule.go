package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/schedule"
)

func (a *app) scheduleCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "schedule",
		Short: "Make backups when policies say that they are due",
		Args:  cobra.ArbitraryArgs,
		RunE:  needCommand,
	}
	cmd.AddCommand(a.scheduleRunCommand())
	return cmd
}

// scheduleFlags are those of "schedule run".
type scheduleFlags struct {
	sources    sourceFlags
	sealed     sealFlags
	limited    limitFlags
	flagFile   string
	id, zone   string // with flagFile
	grace      time.Duration
	workers    int
	leaseTTL   time.Duration
	tidyEvery  time.Duration
	onShutdown bool
}

func (a *app) scheduleRunCommand() *cobra.Command {
	var f scheduleFlags
	cmd := &cobra.Command{
		Use:   "run --source ID=URL",
		Short: "Make the backups of all policies when they are due, until a signal comes",
		Long: `Make the backups of all policies in the store when they are due, delete what their retention doesn't keep, and sweep, until SIGTERM or
SIGINT comes. Any number of machines may do this on one store: each due time is dealt with once, and what one of them had begun that
died another one takes over when its lease has ended. A line on standard output tells what became of each due time; with --json it is
a document. 'amberctl runs' tells later.

At the first signal no more backups begin; those that are being made may go on for the grace time. With --on-shutdown each data store of
--source and --sources is backed up then. The second signal ends all at once; what that leaves a sweep removes.

With --flagfile the server's own flag file says what it says to Dragonfly: snapshot_cron and save_schedule make policies, of which 'policy set'
can say how long backups are kept; dbfilename names the backups, and there is one at the end unless it is empty; dir is where
they are kept, if neither --store nor AMBER_STORE is given; and the server is reached at its port with its password, if there is no --source.` + fmt.Sprintf(passwordHelp, "AMBER_SOURCE_PASSWORD"),
		Example: `  amberctl schedule run --source orders=redis://db:6379 --source 'carts=redis://db2:6379 @/run/secrets/carts'
  amberctl schedule run --sources /etc/amber/sources --grace 10m
  amberctl schedule run --source 'orders=redis://db:6379 method=save save-store=file:///mnt/redis'
  amberctl schedule run --flagfile dragonfly.flags --source orders=redis://localhost:6379`,
		Args: takes(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case f.grace < 0:
				return usagef("--grace %v: it can't be negative", f.grace)
			case f.workers < 1:
				return usagef("--workers %d: it has to be at least 1", f.workers)
			case f.leaseTTL < 3*time.Second:
				return usagef("--lease-ttl %v is too short, it has to be at least 3s", f.leaseTTL)
			case f.tidyEvery < time.Minute:
				return usagef("--tidy-every %v: it has to be at least 1m", f.tidyEvery)
			}
			if err := checkID(f.id); err != nil {
				return err
			}
			var flags *dragonfly
			switch {
			case f.flagFile != "":
				var err error
				if flags, err = a.dragonfly(&f); err != nil {
					return err
				}
			case f.id != "" || f.zone != "":
				return usagef("--id and --time-zone go with --flagfile; policies have their own")
			}
			src, err := a.sources(cmd.Context(), &f.sources)
			if err != nil {
				return err
			}
			defer src.close()
			return a.runSchedules(cmd.Context(), &f, src, flags)
		},
	}
	f.sources.add(cmd)
	f.sealed.add(cmd)
	f.limited.add(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.flagFile, "flagfile", "", "flag file of a Dragonfly server, whose schedule is run and kept as policies")
	flags.StringVar(&f.id, "id", "", "the data store that the server of --flagfile is, if no --source says so")
	flags.StringVar(&f.zone, "time-zone", "", "by whose wall clock the server's snapshot_cron goes, as Europe/Berlin; UTC by default")
	flags.DurationVar(&f.grace, "grace", time.Minute, "how long backups that are being made may go on after a signal")
	flags.IntVar(&f.workers, "workers", 4, "how many backups are made at a time")
	flags.DurationVar(&f.leaseTTL, "lease-ttl", 30*time.Second, "how long others wait before they take over what was begun here, if this process dies; at least 3s")
	flags.DurationVar(&f.tidyEvery, "tidy-every", time.Hour, "how often retention is applied to everything, and the store swept")
	flags.BoolVar(&f.onShutdown, "on-shutdown", false, "back up each data store of --source and --sources after the signal")
	return cmd
}

// runSchedules is the daemon.
func (a *app) runSchedules(ctx context.Context, f *scheduleFlags, src *sources, flags *dragonfly) error {
	tell := &teller{app: a}
	cfg := amber.Config{DataStores: src.request, Workers: f.workers, ScheduleGrace: f.grace, LeaseTTL: f.leaseTTL, TidyEvery: f.tidyEvery,
		Events: amber.Events{Run: tell.run, Pruned: tell.pruned, Held: tell.held, End: tell.end}}
	all, err := src.all()
	if err != nil {
		return err
	}
	switch {
	case f.onShutdown:
		for _, id := range slices.Sorted(maps.Keys(all)) {
			cfg.BackupOnShutdown = append(cfg.BackupOnShutdown, amber.BackupRequest{DataStore: id})
		}
	case flags != nil:
		cfg.BackupOnShutdown = flags.atShutdown()
	}
	if err := a.sealing(&f.sealed, &cfg); err != nil {
		return err
	}
	if err := f.limited.apply(&cfg); err != nil {
		return err
	}
	svc, done, err := a.scheduler(ctx, cfg, flags)
	if err != nil {
		return err
	}
	defer done()
	if flags != nil {
		if err := flags.setPolicies(ctx, svc); err != nil {
			return explain(ctx, err, "policies may be set or not")
		}
	}
	if !a.quiet {
		fmt.Fprintf(a.console, "running schedules in %s for %s; a signal ends it\n", describeStore(a.store), plural(int64(len(all)), "data store"))
	}
	err = svc.RunSchedules(ctx)
	if !a.quiet && ctx.Err() != nil {
		what := "the signal came"
		if n := len(cfg.BackupOnShutdown); n > 0 {
			what += fmt.Sprintf(", backing up %s", plural(int64(n), "data store"))
		}
		fmt.Fprintln(a.console, what+"; another one ends this at once")
	}
	if cerr := svc.Close(context.WithoutCancel(ctx)); err == nil {
		err = cerr
	}
	return err
}

// scheduler opens the store, which a Dragonfly server's flags may name.
func (a *app) scheduler(ctx context.Context, cfg amber.Config, flags *dragonfly) (*amber.Service, func(), error) {
	if flags == nil || a.store != "" || a.env("AMBER_STORE") != "" {
		return a.service(ctx, cfg)
	}
	store, where, err := flags.store(ctx)
	if err != nil {
		return nil, nil, err
	}
	a.store = where
	return a.serviceOver(store, cfg)
}

// teller writes what happens while schedules run.
type teller struct {
	app *app
	mu  sync.Mutex
}

// line writes a line, or a document in one.
func (t *teller) line(v any, human func(w io.Writer)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.app.json:
		enc := json.NewEncoder(t.app.out)
		enc.SetEscapeHTML(false)
		_ = enc.Encode(v) // output remembers what went wrong
	case !t.app.quiet:
		human(t.app.out)
	}
}

func (t *teller) run(_ context.Context, r *schedule.Run) {
	t.line(r, func(w io.Writer) {
		text := fmt.Sprintf("%s %s by %s: %s", when(r.Due), r.DataStore, r.Policy, r.State)
		if r.Backup != "" {
			text += ", " + string(r.Backup)
		}
		if detail := runDetail(r); detail != "" {
			text += ", " + detail
		}
		fmt.Fprintln(w, clean(text))
	})
}

func (t *teller) pruned(_ context.Context, p amber.Pruned) {
	type pruned struct {
		Pruned string `json:"pruned"`
		Reason string `json:"reason"`
	}
	t.line(pruned{string(p.Backup.ID), p.Reason}, func(w io.Writer) {
		fmt.Fprintln(w, clean(fmt.Sprintf("%s of %s is deleted: %s", p.Backup.ID, p.Backup.DataStore, p.Reason)))
	})
}

func (t *teller) held(_ context.Context, h amber.Held) {
	fmt.Fprintln(t.app.console, clean(fmt.Sprintf("nothing of %s is let go of: %s", h.DataStore, h.Reason)))
}

// end tells of backups that no policy has made: those at the end.
func (t *teller) end(_ context.Context, e amber.Event) {
	if e.Operation != "backup" || e.Policy != "" || e.Err != nil {
		return
	}
	type ended struct {
		Backup    string `json:"backup"`
		DataStore string `json:"dataStore"`
		Kind      string `json:"kind"`
	}
	t.line(ended{string(e.Backup), e.DataStore, string(e.Kind)}, func(w io.Writer) {
		fmt.Fprintf(w, "%s %s: ready, %s, %s\n", e.DataStore, e.Kind, e.Backup, plural(e.Keys, "key"))
	})
}
