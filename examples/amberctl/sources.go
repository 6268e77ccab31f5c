package main

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup/dumpfile"
	"github.com/amberkv/amber/backup/replica"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/storage"
)

// sourceFlags say how each of several data stores is reached.
type sourceFlags struct {
	list   []string
	file   string
	prefer string
	server serverFlags // what is the same for all
}

func (f *sourceFlags) add(cmd *cobra.Command) {
	f.server.flag = "source"
	flags := cmd.Flags()
	flags.StringArrayVar(&f.list, "source", nil, "a data store, as 'orders=redis://user@db:6379', or rediss:// for TLS; ' @FILE' behind it names the file of its password, "+
		"and method=, prefer=, group=, sync-command=, save-store= and save-name= say what the flags of 'amberctl backup' do; repeatable")
	flags.StringVar(&f.file, "sources", "", "file with a line like that for each data store; it is read anew for each backup")
	flags.StringVar(&f.prefer, "prefer", "replica", "who sends the snapshot: a replica in sync if there is one, the primary, or exact(ly) the server of the URL")
	f.server.addTLS(cmd)
}

// sources finds out how data stores are reached.
type sources struct {
	app    *app
	flags  *sourceFlags
	prefer replica.Prefer
	fixed  map[string]sourced // of --source

	mu    sync.Mutex
	saves map[string]storage.StoreCloser // of save-store=, by their URLs; until close
}

// Sourced is how one data store is reached, and its snapshot taken.
type sourced struct {
	server serverFlags
	prefer replica.Prefer
	take   amber.SnapshotOptions

	saveStore, saveName string
}

// sources checks the flags, and the file if there is one.
func (a *app) sources(ctx context.Context, f *sourceFlags) (*sources, error) {
	s := &sources{app: a, flags: f, fixed: map[string]sourced{}}
	var err error
	if s.prefer, err = preferred(f.prefer); err != nil {
		return nil, err
	}
	if len(f.list) == 0 && f.file == "" {
		return nil, usagef("--source is missing: say how a data store is reached, as in --source orders=redis://host:6379, or in a file by --sources")
	}
	for _, text := range f.list {
		if err := s.parse(text, "--source", s.fixed); err != nil {
			return nil, &usageError{err}
		}
	}
	all, err := s.all()
	if err != nil {
		return nil, err
	}
	for _, id := range slices.Sorted(maps.Keys(all)) {
		if _, err := s.how(ctx, all[id]); err != nil {
			s.close()
			return nil, fmt.Errorf("data store %s: %w", id, err)
		}
	}
	return s, nil
}

// close closes what was opened to take snapshots.
func (s *sources) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, store := range s.saves {
		store.Close()
	}
	s.saves = nil
}

// saveStore returns the store where files appear that a server saves, opened once.
func (s *sources) saveStore(ctx context.Context, where string) (storage.Store, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if store := s.saves[where]; store != nil {
		return store, nil
	}
	store, err := openStore(ctx, where)
	if err != nil {
		return nil, fmt.Errorf("save-store: %w", err)
	}
	if s.saves == nil {
		s.saves = map[string]storage.StoreCloser{}
	}
	s.saves[where] = store
	return store, nil
}

// parse reads ID=URL, and what follows: @FILE, and how the snapshot is taken. No error quotes what may be a password.
func (s *sources) parse(text, where string, into map[string]sourced) error {
	id, rest, ok := strings.Cut(strings.TrimSpace(text), "=")
	if !ok {
		return fmt.Errorf("%s: write ID=URL, as orders=redis://host:6379", where)
	}
	if err := catalog.ValidName(id); err != nil {
		return fmt.Errorf("%s: the data store's ID %.60q: %w", where, id, err)
	}
	src := sourced{server: s.flags.server, prefer: s.prefer}
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return fmt.Errorf("%s: data store %s has no URL: write %s=redis://host:6379", where, id, id)
	}
	src.server.url = fields[0]
	var commands []string
	seen := map[string]bool{}
	for _, field := range fields[1:] {
		name, value, _ := strings.Cut(field, "=")
		if strings.HasPrefix(field, "@") {
			name, value = "@", field[1:]
		}
		if seen[name] && name != "sync-command" {
			return fmt.Errorf("%s: data store %s: %s is there twice", where, id, map[bool]string{true: "@FILE", false: name + "="}[name == "@"])
		}
		seen[name] = true
		var err error
		switch name {
		case "@":
			src.server.passwordFile = value
		case "method":
			src.take.Method, err = methodOf("method", value)
		case "prefer":
			if src.prefer, err = preferred(value); err != nil {
				err = fmt.Errorf("prefer %q: it can be replica, primary or exact", value)
			}
		case "group":
			src.take.Group = value
		case "sync-command":
			commands = append(commands, value)
		case "save-store":
			src.saveStore = value
		case "save-name":
			src.saveName = value
		default:
			return fmt.Errorf("%s: data store %s: behind the URL only @FILE can follow, which holds its password, and method=, prefer=, group=, sync-command=, save-store= and save-name=", where, id)
		}
		if err != nil {
			return fmt.Errorf("%s: data store %s: %w", where, id, err)
		}
	}
	var err error
	if src.take.SyncCommand, src.take.SyncCommands, err = syncCommands("sync-command", commands); err != nil {
		return fmt.Errorf("%s: data store %s: %w", where, id, err)
	}
	switch {
	case src.take.Method == amber.SnapshotSave && src.saveStore == "":
		return fmt.Errorf("%s: data store %s: method=save needs save-store=: say where the files appear that the server saves, as in save-store=file:///mnt/redis", where, id)
	case src.saveStore == "" && src.saveName != "":
		return fmt.Errorf("%s: data store %s: save-name= goes with save-store=", where, id)
	}
	if _, twice := into[id]; twice {
		return fmt.Errorf("%s: data store %s is there twice", where, id)
	}
	into[id] = src
	return nil
}

// all returns the data stores that are known now.
func (s *sources) all() (map[string]sourced, error) {
	all := maps.Clone(s.fixed)
	if s.flags.file == "" {
		return all, nil
	}
	in, err := s.app.open(s.flags.file)
	if err != nil {
		return nil, fmt.Errorf("--sources: %w", err)
	}
	defer in.Close()
	lines := bufio.NewScanner(in)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		s.app.console.hide(secretsOf(strings.Fields(line))...)
		if err := s.parse(line, fmt.Sprintf("%s, line %d", s.flags.file, n), all); err != nil {
			return nil, fmt.Errorf("--sources: %w", err)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("--sources: %w", err)
	}
	return all, nil
}

// request says how a data store is reached, as amber.Config.DataStores does.
func (s *sources) request(ctx context.Context, dataStore string) (amber.BackupRequest, error) {
	all, err := s.all()
	if err != nil {
		return amber.BackupRequest{}, err
	}
	src, ok := all[dataStore]
	if !ok {
		return amber.BackupRequest{}, fmt.Errorf("nothing says how data store %s is reached: add --source %s=URL, or a line to the file of --sources", dataStore, dataStore)
	}
	return s.how(ctx, src)
}

// how says how a data store is backed up.
func (s *sources) how(ctx context.Context, src sourced) (q amber.BackupRequest, err error) {
	q = amber.BackupRequest{Prefer: src.prefer, SnapshotOptions: src.take}
	if q.From, err = s.app.options(&src.server); err != nil || src.saveStore == "" {
		return q, err
	}
	store, err := s.saveStore(ctx, src.saveStore)
	q.Save = &dumpfile.SaveConfig{Store: store, Name: src.saveName}
	return q, err
}
