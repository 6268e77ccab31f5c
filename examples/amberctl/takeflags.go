package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup/dumpfile"
	"github.com/amberkv/amber/backup/replica"
)

// takeFlags say how a snapshot of a server is taken.
type takeFlags struct {
	method       string
	group        string
	syncCommands []string
	parallel     int
	saveStore    string
	saveName     string
}

// methods are what --method can be.
const methods = "auto, replica, flows, save or scan"

func (f *takeFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.method, "method", "auto", "how the snapshot is taken: "+methods+"; auto asks the server and takes the best that it allows, see 'amberctl doctor --from'")
	f.addServer(cmd)
	flags.IntVar(&f.parallel, "parallel", 0, "how many shards are read at a time (default 4)")
}

// addServer adds what has to be known to ask a server how a snapshot of it can be taken.
func (f *takeFlags) addServer(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.group, "group", "", "if the server is a Sentinel: which of the groups that it watches; the only one by default")
	flags.StringArrayVar(&f.syncCommands, "sync-command", nil, "what PSYNC was renamed to on the server; HOST:PORT=NAME for one node only; repeatable")
	flags.StringVar(&f.saveStore, "save-store", "", "with method save, where the files appear that the server saves: a directory, or a bucket's URL as --store has it")
	flags.StringVar(&f.saveName, "save-name", "", "with method save, the file's name there; what the server says by default")
}

// options returns what the flags say, and a function that closes what they opened.
func (f *takeFlags) options(ctx context.Context) (o amber.SnapshotOptions, done func(), err error) {
	done = func() {}
	if o.Method, err = methodOf("--method", f.method); err != nil {
		return o, done, err
	}
	o.Group, o.Parallel = f.group, f.parallel
	if o.SyncCommand, o.SyncCommands, err = syncCommands("--sync-command", f.syncCommands); err != nil {
		return o, done, err
	}
	switch {
	case f.parallel < 0:
		return o, done, usagef("--parallel %d: it can't be negative", f.parallel)
	case o.Method == amber.SnapshotSave && f.saveStore == "":
		return o, done, usagef("--method save needs --save-store: say where the files appear that the server saves, as in --save-store file:///mnt/redis")
	case f.saveStore == "" && f.saveName != "":
		return o, done, usagef("--save-name goes with --save-store")
	case f.saveStore == "":
		return o, done, nil
	}
	store, err := openStore(ctx, f.saveStore)
	if err != nil {
		return o, done, fmt.Errorf("--save-store: %w", err)
	}
	o.Save = &dumpfile.SaveConfig{Store: store, Name: f.saveName}
	return o, func() { store.Close() }, nil
}

// methodOf reads the name of a method. where names it in the error.
func methodOf(where, text string) (amber.SnapshotMethod, error) {
	switch m := amber.SnapshotMethod(text); m {
	case "auto", "":
		return amber.SnapshotAuto, nil
	case amber.SnapshotReplica, amber.SnapshotFlows, amber.SnapshotSave, amber.SnapshotScan:
		return m, nil
	}
	return "", usagef("%s %q: it can be %s", where, text, methods)
}

// syncCommands reads NAME and HOST:PORT=NAME.
func syncCommands(where string, list []string) (name string, nodes map[string]string, err error) {
	for _, text := range list {
		addr, of, ofNode := strings.Cut(text, "=")
		if !ofNode {
			addr, of = "", text
		}
		_, port, hasPort := cutLast(addr, ":")
		if n, err := strconv.Atoi(port); ofNode && (!hasPort || err != nil || n < 1 || n > 65535) {
			return "", nil, usagef("%s %q: write NAME, or HOST:PORT=NAME for one node", where, text)
		}
		if err := replica.ValidSyncCommand(of); err != nil {
			return "", nil, usagef("%s %q: %w", where, text, err)
		}
		switch {
		case ofNode && nodes[addr] != "":
			return "", nil, usagef("%s names %s twice", where, addr)
		case ofNode && nodes == nil:
			nodes = map[string]string{addr: of}
		case ofNode:
			nodes[addr] = of
		case name != "":
			return "", nil, usagef("%s is there twice: of several names all but one are of nodes, as HOST:PORT=NAME", where)
		default:
			name = of
		}
	}
	return name, nodes, nil
}

// cutLast cuts a text at the last separator.
func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
