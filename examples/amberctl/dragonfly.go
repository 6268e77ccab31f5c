package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/schedule"
	"github.com/amberkv/amber/schedule/dragonflyflags"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/blobstore/s3store"
)

// dragonfly is what a Dragonfly server's flags say about one data store.
type dragonfly struct {
	flags     *dragonflyflags.Flags
	dataStore string
	policies  []schedule.Policy
}

// dragonfly reads a flag file. It adds the server to the sources if there is none.
func (a *app) dragonfly(f *scheduleFlags) (*dragonfly, error) {
	flags, err := dragonflyflags.Parse([]string{"--flagfile=" + f.flagFile}, os.ReadFile)
	if err != nil {
		return nil, fmt.Errorf("--flagfile: %w", err)
	}
	a.console.hide(string(flags.Password))
	d := &dragonfly{flags: flags, dataStore: f.id}
	switch {
	case f.sources.file != "" || len(f.sources.list) > 1:
		return nil, usagef("--flagfile is that of one server: give one --source, or leave it out for the server that the file describes")
	case len(f.sources.list) == 1:
		one := map[string]sourced{}
		if err := (&sources{flags: &f.sources}).parse(f.sources.list[0], "--source", one); err != nil {
			return nil, &usageError{err}
		}
		for id := range one {
			if d.dataStore != "" && d.dataStore != id {
				return nil, usagef("--id %s and --source %s=… are not the same data store", d.dataStore, id)
			}
			d.dataStore = id
		}
	case f.id == "":
		return nil, usagef("--id is missing: say which data store the server of the flag file is, as in --id orders")
	default:
		u := url.URL{Scheme: "redis", Host: flags.Address()}
		if flags.TLS {
			u.Scheme = "rediss"
			if f.sources.server.caCert == "" {
				f.sources.server.caCert = flags.TLSCACertFile
			}
		}
		if flags.Password != "" {
			u.User = url.UserPassword("", string(flags.Password))
		}
		f.sources.list = []string{f.id + "=" + u.String()}
	}
	if d.policies, err = flags.Policies(d.dataStore, f.zone); err != nil {
		return nil, fmt.Errorf("--flagfile: %w", err)
	}
	if !a.quiet {
		for _, text := range flags.Warnings {
			fmt.Fprintln(a.console, clean(text))
		}
		if flags.SnapshotCron != "" && f.zone == "" {
			fmt.Fprintln(a.console, "snapshot_cron goes by UTC here, and in Dragonfly by the local time of its machine: --time-zone says which that is")
		}
	}
	return d, nil
}

// store opens the server's dir, for backups to lie beside its snapshots.
func (d *dragonfly) store(ctx context.Context) (storage.StoreCloser, string, error) {
	if d.flags.S3 == nil {
		dir := d.flags.Dir
		if dir == "" {
			dir = "."
		}
		s, err := openStore(ctx, dir)
		if err != nil {
			err = fmt.Errorf("--flagfile: dir: %w", err)
		}
		return s, dir, err
	}
	cfg, err := s3store.FromDragonfly(d.flags.S3)
	if err != nil {
		return nil, "", fmt.Errorf("--flagfile: %w", err)
	}
	s, err := s3store.New(ctx, cfg)
	if err != nil {
		return nil, "", fmt.Errorf("--flagfile: dir: %w", err)
	}
	return s, d.flags.Dir, nil
}

// atShutdown is the backup at the end, if the server makes one.
func (d *dragonfly) atShutdown() []amber.BackupRequest {
	if !d.flags.OnShutdown() {
		return nil
	}
	q := amber.BackupRequest{DataStore: d.dataStore}
	for _, p := range d.policies {
		q.Name = p.BackupName
	}
	return []amber.BackupRequest{q}
}

// setPolicies makes the policies of the flags, or changes in those that there are what the flags say: how long backups are kept, windows and retries are
// for 'policy set'. One whose flag isn't given any more is disabled.
func (d *dragonfly) setPolicies(ctx context.Context, svc *amber.Service) error {
	flagged := map[string]bool{}
	for _, want := range d.policies {
		flagged[want.ID] = true
		p, err := svc.Policy(ctx, want.ID)
		switch {
		case errors.Is(err, schedule.ErrNotFound):
			p = &want
		case err != nil:
			return err
		default:
			p.DataStore, p.Enabled, p.When, p.TimeZone, p.BackupName = want.DataStore, true, want.When, want.TimeZone, want.BackupName
		}
		if _, err := svc.SetPolicy(ctx, *p); err != nil {
			return err
		}
	}
	for _, name := range []string{"snapshot_cron", "save_schedule"} {
		id := d.dataStore + "-" + name
		if flagged[id] {
			continue
		}
		p, err := svc.Policy(ctx, id)
		switch {
		case errors.Is(err, schedule.ErrNotFound):
			continue
		case err == nil && p.Enabled:
			p.Enabled = false
			_, err = svc.SetPolicy(ctx, *p)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
