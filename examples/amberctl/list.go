package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/catalog"
)

// listed is what "list --json" says of a backup; "show --json" gives the whole manifest.
type listed struct {
	ID          catalog.ID    `json:"id"`
	DataStore   string        `json:"dataStore"`
	Name        string        `json:"name"`
	Description string        `json:"description,omitempty"`
	Kind        catalog.Kind  `json:"kind"`
	State       catalog.State `json:"state"`
	Error       string        `json:"error,omitempty"`
	CreatedAt   time.Time     `json:"createdAt"`
	ReadyAt     time.Time     `json:"readyAt,omitzero"`
	DeleteAfter time.Time     `json:"deleteAfter,omitzero"`
	Engine      string        `json:"engine,omitempty"`
	Version     string        `json:"version,omitempty"`
	Dialect     string        `json:"dialect,omitempty"`
	Keys        int64         `json:"keys"`
	Bytes       int64         `json:"bytes"`    // as stored
	RawBytes    int64         `json:"rawBytes"` // as the server sent them
}

func (a *app) listCommand() *cobra.Command {
	var (
		id  string
		all bool
	)
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the backups, newest first",
		Long: `List the backups that are ready, newest first; with --all also runs that are at work, have failed or died, and backups
whose deletion was cut short. Times are in UTC.

A manifest that can't be read is an error on standard error and in the exit status; the others are listed all the same.`,
		Args: takes(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkID(id); err != nil {
				return err
			}
			svc, done, err := a.service(cmd.Context(), amber.Config{})
			if err != nil {
				return err
			}
			defer done()
			list, unreadable, err := list(cmd, svc, catalog.Query{DataStore: id, States: states(all)})
			if err != nil {
				return explain(cmd.Context(), err, "listing changes nothing")
			}
			backups := []listed{}
			for _, b := range list {
				backups = append(backups, listed{ID: b.ID, DataStore: b.DataStore, Name: b.Name, Description: b.Description,
					Kind: b.Kind, State: b.State, Error: b.Error, CreatedAt: b.CreatedAt.UTC(), ReadyAt: b.ReadyAt, DeleteAfter: b.DeleteAfter,
					Engine: b.Source.Engine, Version: b.Source.Version, Dialect: b.Source.Dialect,
					Keys: b.Keys, Bytes: b.StoredBytes, RawBytes: b.RawBytes})
			}
			if err := a.print(backups, func(w io.Writer) { listTable(w, backups, all) }); err != nil {
				return err
			}
			if len(backups) == 0 && len(unreadable) == 0 && !a.json && !a.quiet {
				fmt.Fprintf(a.console, "no backups in %s\n", describeStore(a.store))
			}
			return errors.Join(unreadable...)
		},
	}
	cmd.Flags().StringVar(&id, "id", "", "only of this data store")
	cmd.Flags().BoolVar(&all, "all", false, "in every state, not only those that are ready")
	return cmd
}

// states are those that a list is about.
func states(all bool) []catalog.State {
	if !all {
		return nil
	}
	return []catalog.State{catalog.StateRunning, catalog.StateReady, catalog.StateFailed, catalog.StateInterrupted, catalog.StateDeleting}
}

// list collects backups, and the errors of manifests that can't be read.
func list(cmd *cobra.Command, svc *amber.Service, q catalog.Query) (backups []*catalog.Backup, unreadable []error, err error) {
	for b, err := range svc.List(cmd.Context(), q) {
		switch {
		case errors.Is(err, catalog.ErrCorrupt):
			unreadable = append(unreadable, err)
		case err != nil:
			return nil, nil, err
		default:
			backups = append(backups, b)
		}
	}
	return backups, unreadable, nil
}

func listTable(w io.Writer, backups []listed, all bool) {
	if len(backups) == 0 {
		return
	}
	head := []string{"ID", "DATA STORE", "NAME", "CREATED (UTC)", "KEYS", "SIZE", "SOURCE"}
	if all {
		head = append(head, "STATE")
	}
	rows := [][]string{head}
	for _, b := range backups {
		row := []string{string(b.ID), b.DataStore, b.Name, when(b.CreatedAt), count(b.Keys), size(b.Bytes), source(b.Engine, b.Version)}
		if all {
			row = append(row, string(b.State))
		}
		rows = append(rows, row)
	}
	table(w, rows...)
}

// source names a server's software.
func source(engine, version string) string {
	if engine == "" || version == "" {
		return engine
	}
	return engine + " " + version
}
