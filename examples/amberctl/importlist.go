package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/amberkv/amber/backup/dumpfile"
)

// listDumps shows what a directory or a store has.
func (a *app) listDumps(cmd *cobra.Command, f *importFlags, args []string) error {
	var wrong []string
	for _, flag := range []string{"id", "name", "description", "retain", "adopt", "allow-http", "allow-private", "cacert", "max-bytes", "lease-ttl"} {
		if cmd.Flags().Changed(flag) {
			wrong = append(wrong, "--"+flag)
		}
	}
	where, prefix := f.fromStore, ""
	switch {
	case len(wrong) > 0:
		return usagef("%s: with --list nothing is imported", strings.Join(wrong, ", "))
	case len(args) > 1:
		return usagef("there are %d arguments: --list takes a directory, or with --from-store what the files' names begin with", len(args))
	case where != "" && len(args) == 1:
		prefix = args[0]
	case where == "" && len(args) == 0:
		return usagef("--list takes a directory, or --from-store")
	case where == "":
		where = args[0]
	}
	dir, local := storeDir(where)
	if local {
		// A directory that is looked at is not made.
		if info, err := os.Stat(dir); err != nil {
			return err
		} else if !info.IsDir() {
			return &fs.PathError{Op: "list", Path: dir, Err: errors.New("it is no directory")}
		}
	}
	store, err := openStore(cmd.Context(), where)
	if err != nil {
		return err
	}
	defer store.Close()
	found, err := dumpfile.List(cmd.Context(), store, prefix, &dumpfile.ListOptions{DBFilename: f.dbfilename, Cloud: !local})
	if err != nil {
		return explain(cmd.Context(), err, "listing changes nothing")
	}
	if err := a.print(found, func(w io.Writer) { dumpTable(w, found) }); err != nil {
		return err
	}
	if len(found) == 0 && !a.json && !a.quiet {
		fmt.Fprintf(a.console, "nothing to import in %s\n", describeStore(where))
	}
	return nil
}

func dumpTable(w io.Writer, found []dumpfile.Dump) {
	if len(found) == 0 {
		return
	}
	rows := [][]string{{"NAME", "KIND", "WRITTEN (UTC)", "SIZE", "SERVER", "AT START", "STATE"}}
	for _, d := range found {
		start, state := "", "complete"
		if d.AtStart {
			start = "loaded"
		}
		if !d.Complete {
			state = "not complete: " + d.Problem
		}
		rows = append(rows, []string{d.Name, string(d.Kind), when(d.Time), size(d.Size), source(d.Engine, d.Version), start,
			strings.Join(append([]string{state}, d.Notes...), "; ")})
	}
	table(w, rows...)
}
