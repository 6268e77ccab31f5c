package dumpfile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"strings"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/rdb/aof"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/retry"
)

// methodAOF is what catalog.Source.Method says of snapshots of append-only files.
const methodAOF = "aof"

// ErrMissing: a file that the manifest of append-only files names is not there. There is no snapshot without it.
var ErrMissing = errors.New("append-only file is missing")

// AOFConfig says which append-only files are taken from where: either those of a directory (Redis 7.0 and later, Valkey), or a single file as Redis 6.2 and
// older have it.
type AOFConfig struct {
	// Store has the files. Required.
	Store storage.Store
	// Dir is where they are, such as "appendonlydir/", with or without the slash at its end; empty: where the store begins.
	Dir string
	// Name is the server's setting appendfilename, such as "appendonly.aof", whose manifest is NAME.manifest. Empty: that of the only manifest in Dir.
	Name string
	// File is the key of a single file; Dir and Name are empty then.
	File string
	// Logger is told what is cut off and what is taken again. nil: nobody is.
	Logger *slog.Logger
}

// An AOFSnapshotter takes snapshots of a data store's append-only files. It is safe for use by several goroutines.
//
// # What a snapshot is
//
// The parts are the files in the order in which a server loads them: the base, which is an RDB file or one of commands, and the increments. Empty files are left out, and
// so is history. The manifest is no part: the order of the parts says all that is in it, and a restore writes a new one. A single file that begins with an RDB file
// becomes two parts.
//
// # One instant
//
// A server that rewrites its files makes new ones, names them in the manifest in one step, and deletes the old ones. Snapshot opens all files before it reads the first,
// and looks at the manifest again after that: if it names other members the snapshot is taken again, five times at most; then the error wraps ErrChanged
// and backup.ErrTransient. From a directory what was opened stays what it was, so that a rewrite that comes later disturbs nobody; from a bucket whose objects are
// deleted or replaced while they are read, reading ends with ErrChanged.
//
// The last file grows meanwhile. It is taken up to where it was whole when the snapshot was taken: up to the end of its last whole command outside of an open
// transaction, which is where a server cuts it off that starts after a crash. In any other file an end that is cut off is an error, as it is for a server. So everything is in
// the snapshot that was written to the files before Snapshot was called: with appendfsync always, every write that the server had confirmed.
//
// Source.Time is the latest moment that is known of the files: when they were last written, by the store's clock, or what they say themselves. For files
// that were copied that is when they were copied, if their times weren't kept.
//
// A directory that a server left behind which runs with appendonly no by now can't be told from one that is in use. Look at Source.Time.
type AOFSnapshotter struct {
	cfg AOFConfig
	dir string // with its slash
	log *slog.Logger
}

// NewAOF returns an AOFSnapshotter. It touches nothing. The error says what is wrong with the configuration.
func NewAOF(cfg AOFConfig) (*AOFSnapshotter, error) {
	s := &AOFSnapshotter{cfg: cfg, dir: cfg.Dir, log: cfg.Logger}
	switch {
	case cfg.Store == nil:
		return nil, errors.New("dumpfile: AOFConfig.Store is required")
	case cfg.File != "" && (cfg.Dir != "" || cfg.Name != ""):
		return nil, errors.New("dumpfile: AOFConfig.File is a single file, and excludes Dir and Name")
	}
	if cfg.File != "" {
		if err := storage.ValidKey(cfg.File); err != nil {
			return nil, fmt.Errorf("dumpfile: AOFConfig.File: %w", err)
		}
	}
	if cfg.Dir != "" {
		if err := storage.ValidKey(strings.TrimSuffix(cfg.Dir, "/")); err != nil {
			return nil, fmt.Errorf("dumpfile: AOFConfig.Dir: %w", err)
		}
		s.dir = strings.TrimSuffix(cfg.Dir, "/") + "/"
	}
	if cfg.Name != "" {
		if strings.Contains(cfg.Name, "/") {
			return nil, fmt.Errorf("dumpfile: AOFConfig.Name: %q is a path, and has to be the name of files in Dir", cfg.Name)
		}
		if err := storage.ValidKey(s.dir + cfg.Name + manifestSuffix); err != nil {
			return nil, fmt.Errorf("dumpfile: AOFConfig.Name: %w", err)
		}
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s, nil
}

// Of takes the snapshotter of what a name says: NewAOF's of a manifest (NAME.manifest), of a directory's name with its slash, and of a single file NAME.aof;
// New's of everything else.
func Of(cfg Config) (backup.Snapshotter, error) {
	aofs := AOFConfig{Store: cfg.Store}
	switch dir, base := path.Split(cfg.Name); {
	case base == "" && cfg.Name != "" && cfg.Name != "/":
		aofs.Dir = dir
	case strings.HasSuffix(base, manifestSuffix) && base != manifestSuffix:
		aofs.Dir, aofs.Name = dir, strings.TrimSuffix(base, manifestSuffix)
	case strings.HasSuffix(base, ".aof"):
		aofs.File = cfg.Name
	default:
		return New(cfg)
	}
	if cfg.Adopt {
		return nil, fmt.Errorf("dumpfile: Config.Adopt: %s: append-only files can't be adopted, for their server goes on writing and deletes them", cfg.Name)
	}
	return NewAOF(aofs)
}

// How often a snapshot is taken at most that rewrites overtake, and the wait between.
const (
	aofAttempts = 5
	aofPause    = 10 * time.Millisecond // before the second attempt; twice as long each time
)

// Snapshot opens the files, and finds out where the last one is whole. The error wraps storage.ErrNotFound if there are none, ErrMissing if one that the manifest
// names isn't there, aof.ErrCorrupt if the manifest or the last file is no server's, and ErrChanged and backup.ErrTransient if rewrites overtook it again and again.
func (s *AOFSnapshotter) Snapshot(ctx context.Context) (backup.Snapshot, error) {
	for attempt := 1; ; attempt++ {
		sn, err := s.take(ctx)
		if err == nil {
			return sn, nil
		}
		if ctx.Err() != nil {
			if !errors.Is(err, ctx.Err()) {
				err = fmt.Errorf("%w: %w", ctx.Err(), err)
			}
			return nil, s.wrap(err)
		}
		if !errors.Is(err, ErrChanged) {
			return nil, s.wrap(err)
		}
		if attempt == aofAttempts {
			return nil, s.wrap(fmt.Errorf("%w: %w; it was tried %d times: back up when the server doesn't rewrite its files all the time", backup.ErrTransient, err, attempt))
		}
		s.log.InfoContext(ctx, "append-only files were rewritten meanwhile and are taken again", "files", s.where(), "error", err)
		if err := clock.Sleep(ctx, aofPause<<(attempt-1)); err != nil {
			return nil, s.wrap(err)
		}
	}
}

// where names the files.
func (s *AOFSnapshotter) where() string {
	switch {
	case s.cfg.File != "":
		return s.cfg.File
	case s.cfg.Name != "":
		return s.dir + s.cfg.Name + manifestSuffix
	case s.dir != "":
		return s.dir
	}
	return "append-only files"
}

func (s *AOFSnapshotter) wrap(err error) error { return fmt.Errorf("dumpfile: %s: %w", s.where(), err) }

// take takes a snapshot, once.
func (s *AOFSnapshotter) take(ctx context.Context) (*aofSnapshot, error) {
	sn := &aofSnapshot{store: s.cfg.Store, parts: map[string]*aofPart{}}
	sn.ctx, sn.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { sn.cancel(context.Cause(ctx)) })
	err := s.fill(ctx, sn)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		sn.Close()
		return nil, err
	}
	return sn, nil
}

// fill opens the files and makes parts of them.
func (s *AOFSnapshotter) fill(ctx context.Context, sn *aofSnapshot) error {
	set := &aofSet{store: s.cfg.Store, sn: sn, dir: s.dir}
	if s.cfg.File != "" {
		sn.source.File = s.cfg.File
		if err := set.pin(s.cfg.File, aof.Base, true); err != nil {
			return err
		}
		if err := set.sameVersion(); err != nil {
			return err
		}
	} else {
		if err := s.pinSet(ctx, set); err != nil {
			return err
		}
	}
	return set.divide(ctx, s.log)
}

// pinSet opens all members of the directory's set, and makes sure that they are those that its manifest names.
func (s *AOFSnapshotter) pinSet(ctx context.Context, set *aofSet) error {
	key, err := s.manifestKey(ctx)
	if err != nil {
		return err
	}
	set.sn.source.File = key
	before, err := readManifest(ctx, s.cfg.Store, key)
	if err != nil {
		return err
	}
	files := before.Members()
	if len(files) == 0 {
		return fmt.Errorf("%s: %w: it names neither a base nor an increment", path.Base(key), aof.ErrCorrupt)
	}
	missing := error(nil)
	for i, f := range files {
		if missing = set.pin(s.dir+f.Name, f.Type, i == len(files)-1); missing != nil {
			break
		}
	}
	if missing != nil && !errors.Is(missing, storage.ErrNotFound) {
		return missing
	}
	// Only now it is known that what was opened belongs together: a rewrite names its new files before it deletes the old ones.
	after, err := readManifest(ctx, s.cfg.Store, key)
	if err != nil {
		return err
	}
	if !before.Same(after) {
		return fmt.Errorf("%w: its manifest names other files by now", ErrChanged)
	}
	if missing != nil {
		return fmt.Errorf("%w: %w; its manifest names it: look for it, or let the server make a new set by BGREWRITEAOF", ErrMissing, missing)
	}
	return nil
}

// manifestSuffix is what the names of manifests end in.
const manifestSuffix = ".manifest"

// isManifest tells whether a file's name is that of a manifest, and not of one that a server is writing.
func isManifest(base string) bool {
	return strings.HasSuffix(base, manifestSuffix) && base != manifestSuffix && !strings.HasPrefix(base, "temp-") && !strings.HasPrefix(base, "temp_")
}

// manifestKey finds the manifest.
func (s *AOFSnapshotter) manifestKey(ctx context.Context) (string, error) {
	if s.cfg.Name != "" {
		return s.dir + s.cfg.Name + manifestSuffix, nil
	}
	var found []string
	for info, err := range s.cfg.Store.List(ctx, s.dir) {
		if err != nil {
			return "", err
		}
		if dir, base := path.Split(info.Key); dir == s.dir && isManifest(base) && !catalog.Reserved(info.Key) {
			found = append(found, base)
		}
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("no manifest of append-only files: %w", storage.ErrNotFound)
	case 1:
		return s.dir + found[0], nil
	}
	return "", fmt.Errorf("there are %d manifests of append-only files, %s: say which by its name", len(found), strings.Join(found, ", "))
}

// readManifest reads a manifest.
func readManifest(ctx context.Context, store storage.Store, key string) (*aof.Manifest, error) {
	text, err := storage.ReadFile(ctx, store, key, aof.MaxManifest)
	if err != nil {
		if errors.Is(err, retry.ErrChanged) {
			err = changed(err)
		}
		return nil, err
	}
	m, err := aof.ParseManifest(text)
	if err == nil {
		return m, nil
	}
	err = fmt.Errorf("%s: %w", path.Base(key), err)
	// Where what is read isn't always one version, pieces of two may have been put together.
	if again, aerr := storage.ReadFile(ctx, store, key, aof.MaxManifest); aerr != nil || string(again) != string(text) {
		err = fmt.Errorf("%w: its manifest was being replaced: %w", ErrChanged, err)
	}
	return nil, err
}
