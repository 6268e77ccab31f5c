package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/amberkv/amber/restore"
)

// keyFlags say which keys of a backup are written, under which names, and when they expire.
type keyFlags struct {
	mapDB          []string
	rename, expiry string
}

func (f *keyFlags) add(cmd *cobra.Command, sel *restore.Selection) {
	flags := cmd.Flags()
	flags.StringVar(&sel.Match, "match", "", "only keys whose names match a pattern, as the KEYS command has it")
	flags.IntSliceVar(&sel.DBs, "db", nil, "only keys of these databases")
	flags.StringSliceVar(&sel.Types, "type", nil, "only values of these types: string, list, set, zset, hash, stream ...")
	flags.StringSliceVar(&f.mapDB, "map-db", nil, "give databases another number: FROM:TO")
	flags.StringVar(&f.rename, "rename-prefix", "", "OLD=NEW: only keys whose names begin with OLD, which NEW takes the place of; either may be empty")
	flags.StringVar(&f.expiry, "expiry", "keep", "keep the times at which keys expire, drop them, or shift them by the backup's age")
}

// read completes the selection, and returns what becomes of expiries.
func (f *keyFlags) read(sel *restore.Selection) (restore.Expiry, error) {
	var err error
	if sel.MapDB, err = mapped(f.mapDB); err != nil {
		return "", err
	}
	if slices.ContainsFunc(sel.DBs, func(n int) bool { return n < 0 }) {
		return "", usagef("--db: no database has a number below 0")
	}
	for _, name := range sel.Types {
		if _, ok := typeNamed(name); !ok {
			return "", usagef("--type %q: no type of values has this name", name)
		}
	}
	if f.rename != "" {
		before, after, ok := strings.Cut(f.rename, "=")
		if !ok || before == "" && after == "" {
			return "", usagef("--rename-prefix %q: it has to be OLD=NEW", f.rename)
		}
		sel.TrimPrefix, sel.AddPrefix = before, after
	}
	switch f.expiry {
	case "keep", "drop", "shift":
		return restore.Expiry(strings.TrimPrefix(f.expiry, "keep")), nil
	}
	return "", usagef("--expiry %q: keep, drop or shift", f.expiry)
}
