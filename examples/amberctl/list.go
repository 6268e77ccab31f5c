package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
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
	Policy      string        `json:"policy,omitempty"`
	DueTime     time.Time     `json:"dueTime,omitzero"`
	Pinned      bool          `json:"pinned,omitempty"`
	Engine      string        `json:"engine,omitempty"`
	Version     string        `json:"version,omitempty"`
	Dialect     string        `json:"dialect,omitempty"`
	Keys        int64         `json:"keys"`
	Bytes       int64         `json:"bytes"`    // as stored
	RawBytes    int64         `json:"rawBytes"` // as the server sent them

	Labels map[string]string `json:"labels,omitempty"`
	Cursor string            `json:"cursor"` // where a page begins that goes on after this one
}

// defaultList is how many backups a table has.
const defaultList = 100

// listFlags are those of list.
type listFlags struct {
	query        catalog.Query
	kinds        []string
	states       []string
	labels       []string
	since, until string
	all          bool
	limit        int
	cursor       string
}

func (a *app) listCommand() *cobra.Command {
	var f listFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the backups, newest first",
		Long: `List the backups that are ready, newest first; with --all also runs that are at work, have failed or died, and backups
whose deletion was cut short. Times are in UTC.

A table has the first 100, and its last line says how to go on; --limit 0 lists all. With --json all are listed, unless --limit says otherwise: each
has a "cursor" that the next list can begin behind, by --cursor.

A manifest that can't be read is an error on standard error and in the exit status; the others are listed all the same.`,
		Example: `  amberctl list --id orders --kind automatic --since 7d
  amberctl list --label team=payments --label env=eu --state failed --state interrupted
  amberctl list --text upgrade --since 2026-11-01 --until 2026-12 --json`,
		Args: takes(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.read(time.Now()); err != nil {
				return err
			}
			if a.json && !cmd.Flags().Changed("limit") {
				f.limit = 0
			}
			svc, done, err := a.service(cmd.Context(), amber.Config{})
			if err != nil {
				return err
			}
			defer done()
			found, next, unreadable, err := pages(cmd.Context(), svc, f)
			if err != nil {
				return explain(cmd.Context(), err, "listing changes nothing")
			}
			backups := []listed{}
			for _, b := range found {
				backups = append(backups, listed{ID: b.ID, DataStore: b.DataStore, Name: b.Name, Description: b.Description,
					Kind: b.Kind, State: b.State, Error: b.Error, CreatedAt: b.CreatedAt.UTC(), ReadyAt: b.ReadyAt, DeleteAfter: b.DeleteAfter,
					Policy: b.Policy, DueTime: b.DueTime, Pinned: b.Pinned, Engine: b.Source.Engine, Version: b.Source.Version, Dialect: b.Source.Dialect,
					Keys: b.Keys, Bytes: b.StoredBytes, RawBytes: b.RawBytes, Labels: b.Labels, Cursor: b.Cursor()})
			}
			if err := a.print(backups, func(w io.Writer) { listTable(w, backups, f.all || len(f.states) > 0) }); err != nil {
				return err
			}
			switch {
			case next != "" && !a.json && !a.quiet:
				fmt.Fprintf(a.console, "there are more: the same with --cursor %s, or with --limit 0\n", next)
			case len(backups) == 0 && len(unreadable) == 0 && !a.json && !a.quiet:
				fmt.Fprintf(a.console, "no backups in %s%s\n", describeStore(a.store), f.narrowed())
			}
			return errors.Join(unreadable...)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.query.DataStore, "id", "", "only of this data store")
	flags.StringArrayVar(&f.kinds, "kind", nil, "only of this kind: manual, automatic, import, safety, shutdown or copy; repeatable")
	flags.StringArrayVar(&f.states, "state", nil, "in this state: running, ready, failed, interrupted or deleting; repeatable (default ready)")
	flags.BoolVar(&f.all, "all", false, "in every state, not only those that are ready")
	flags.StringVar(&f.query.Policy, "policy", "", "only those that this policy has made")
	flags.StringVar(&f.query.Name, "name", "", "only of this name")
	flags.StringArrayVar(&f.labels, "label", nil, "only with this label, KEY=VALUE; repeatable: with all of them")
	flags.StringVar(&f.since, "since", "", "only those that began at this time or later: a day or time in UTC, or how long ago, such as 7d or 12h")
	flags.StringVar(&f.until, "until", "", "only those that began before this time")
	flags.StringVar(&f.query.Text, "text", "", "only with this text in the ID, data store, name, description or a label, in whatever case")
	flags.IntVar(&f.limit, "limit", defaultList, "how many at most; 0: all")
	flags.StringVar(&f.cursor, "cursor", "", "begin behind this one, as the list before has said")
	return cmd
}

// read makes the query of the flags.
func (f *listFlags) read(now time.Time) (err error) {
	if err := checkID(f.query.DataStore); err != nil {
		return err
	}
	if f.limit < 0 {
		return usagef("--limit %d: it is a number of backups, or 0 for all", f.limit)
	}
	if f.all && len(f.states) > 0 {
		return usagef("--all means every state: leave it out, or --state")
	}
	q := &f.query
	q.States = states(f.all)
	for _, state := range f.states {
		q.States = append(q.States, catalog.State(state))
	}
	for _, kind := range f.kinds {
		q.Kinds = append(q.Kinds, catalog.Kind(kind))
	}
	for _, label := range f.labels {
		key, value, ok := strings.Cut(label, "=")
		if has, twice := q.Labels[key]; !ok || twice && has != value {
			return usagef("--label %q: write KEY=VALUE, and each key once: a backup has one value of it", label)
		}
		if q.Labels == nil {
			q.Labels = map[string]string{}
		}
		q.Labels[key] = value
	}
	if q.From, err = ago("--since", f.since, now); err != nil {
		return err
	}
	if q.Until, err = ago("--until", f.until, now); err != nil {
		return err
	}
	if err := q.Validate(); err != nil {
		flags := strings.NewReplacer("Query.DataStore", "--id", "Query.States", "--state", "Query.Kinds", "--kind", "Query.Policy", "--policy", "Query.Name", "--name",
			"Query.Labels", "--label", "Query.From", "--since", "Query.Until", "--until", "Query.Text", "--text")
		return usagef("%s", flags.Replace(err.Error()))
	}
	return nil
}

// ago reads a time from a flag, which may tell how long ago it was.
func ago(flag, text string, now time.Time) (time.Time, error) {
	if d, err := keepFor(text); err == nil && d > 0 {
		return now.Add(-d), nil
	}
	return instant(flag, text)
}

// narrowed says that there may be others.
func (f *listFlags) narrowed() string {
	q := f.query
	if q.DataStore+q.Policy+q.Name+q.Text+f.since+f.until+f.cursor == "" && len(q.Kinds)+len(f.states)+len(q.Labels) == 0 {
		return ""
	}
	return " that are asked for"
}

// pages collects what is listed, where it goes on, and the errors of manifests that can't be read.
func pages(ctx context.Context, svc *amber.Service, f listFlags) (found []amber.Found, next string, unreadable []error, err error) {
	next = f.cursor
	told := map[string]bool{}
	for {
		limit := amber.MaxPageLimit
		if f.limit > 0 {
			limit = min(limit, f.limit-len(found))
		}
		page, err := svc.Page(ctx, amber.PageRequest{Query: f.query, Limit: limit, Cursor: next})
		if err != nil {
			return nil, "", nil, err
		}
		found, next = append(found, page.Backups...), page.Next
		for _, err := range page.Errors {
			if !errors.Is(err, catalog.ErrCorrupt) {
				return nil, "", nil, err
			}
			if !told[err.Error()] {
				told[err.Error()] = true
				unreadable = append(unreadable, err)
			}
		}
		if next == "" || f.limit > 0 && len(found) >= f.limit {
			return found, next, unreadable, nil
		}
	}
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

func listTable(w io.Writer, backups []listed, states bool) {
	if len(backups) == 0 {
		return
	}
	head := []string{"ID", "DATA STORE", "NAME", "KIND", "CREATED (UTC)", "KEYS", "SIZE", "SOURCE", "KEPT"}
	if states {
		head = append(head, "STATE")
	}
	rows := [][]string{head}
	for _, b := range backups {
		row := []string{string(b.ID), b.DataStore, b.Name, string(b.Kind), when(b.CreatedAt), count(b.Keys), size(b.Bytes), source(b.Engine, b.Version), b.kept()}
		if states {
			row = append(row, string(b.State))
		}
		rows = append(rows, row)
	}
	table(w, rows...)
}

// kept says in a few words how long a backup is kept. That the newest one of a data store is never deleted by itself is not told here.
func (b *listed) kept() string {
	switch {
	case b.State == catalog.StateDeleting:
		return "being deleted"
	case b.State != catalog.StateReady:
		return ""
	case b.Pinned:
		return "pinned"
	case b.Kind == catalog.KindAutomatic && b.Policy != "":
		return "policy " + b.Policy
	case !b.DeleteAfter.IsZero():
		return "until " + b.DeleteAfter.UTC().Format(time.DateOnly)
	}
	return "for ever"
}

// source names a server's software.
func source(engine, version string) string {
	if engine == "" || version == "" {
		return engine
	}
	return engine + " " + version
}
