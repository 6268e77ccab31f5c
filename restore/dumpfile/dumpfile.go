// Package dumpfile restores a backup into files that a server loads when it starts: a plain RDB file, or one of Dragonfly's
// sets (DFS). They go to a store, which is a directory with filestore.New, or a bucket.
//
//	loader, err := dumpfile.New(dumpfile.Config{Store: dir, Name: "dump.rdb", Dialect: rdb.Dialect{Family: rdb.Redis, Version: 11}})
//
// The name that the server looks for appears last, once everything is durable: NAME itself for a plain file, NAME-summary.dfs for a
// set, after all its shards. So a server that starts too early, or after a crash of ours, finds no data that is not whole. A
// plain file that is replaced stays until the new one takes its place in one step. Of a set that is replaced the summary goes first:
// between that and the new one a server finds nothing.
//
// A Redis or Valkey that runs with appendonly yes doesn't look at the file when it starts, unless it has no append-only files. A server
// that runs overwrites the file when it saves or ends: put it there while it is down.
package dumpfile

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/rdb/dfs"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/storage"
)

// Config says what is written where.
type Config struct {
	// Store takes the files. Required.
	Store storage.Store
	// Name is the key of a plain file, such as "dump.rdb", or the name of a set without what follows it in its files' names. It may
	// have directories before it. Required.
	Name string
	// Dialect is that of the file; the zero Dialect: that of the backup. See rdb.NewWriter for those that can be written.
	Dialect rdb.Dialect
	// Shards makes a Dragonfly set of as many shards; 0: a plain file. Dialect is left zero then.
	Shards int
	// Modules are the types of module values that the server takes, by their nine characters; nil: those that the backup has, if
	// its dialect is kept.
	Modules []string
	// Databases is how many databases the server has; 0: that isn't known.
	Databases int
}

// A Loader writes the files of one name.
type Loader struct {
	cfg  Config
	keys []string // of the objects, the one that is looked for last
}

// New returns a Loader. The error says what is wrong with the configuration; nothing is written yet.
func New(cfg Config) (*Loader, error) {
	switch {
	case cfg.Store == nil:
		return nil, errors.New("dumpfile: Config.Store is required")
	case cfg.Shards < 0 || cfg.Shards > 1024:
		return nil, fmt.Errorf("dumpfile: Config.Shards is %d, it can be 1 to 1024, or 0 for a plain file", cfg.Shards)
	case cfg.Shards > 0 && cfg.Dialect != (rdb.Dialect{}):
		return nil, errors.New("dumpfile: Config.Dialect and Config.Shards exclude each other: sets have a dialect of their own")
	}
	l := &Loader{cfg: cfg, keys: []string{cfg.Name}}
	if cfg.Shards > 0 {
		dir, name := path.Split(cfg.Name)
		if err := dfs.ValidName(name); err != nil {
			return nil, fmt.Errorf("dumpfile: Config.Name: %w", err)
		}
		l.keys = nil
		for _, file := range dfs.Names(name, cfg.Shards) {
			l.keys = append(l.keys, dir+file)
		}
		l.cfg.Dialect = rdb.Dialect{Family: rdb.Dragonfly, Version: 9}
	} else if cfg.Dialect != (rdb.Dialect{}) {
		if _, err := rdb.NewWriter(io.Discard, cfg.Dialect, nil); err != nil {
			return nil, fmt.Errorf("dumpfile: Config.Dialect: %w", err)
		}
	}
	for _, key := range l.keys {
		if err := storage.ValidKey(key); err != nil {
			return nil, fmt.Errorf("dumpfile: Config.Name: %w", err)
		}
	}
	return l, nil
}

// last is the object whose presence makes the others count.
func (l *Loader) last() string { return l.keys[len(l.keys)-1] }

// Check looks for files of that name. It writes nothing.
func (l *Loader) Check(ctx context.Context, need restore.Requirements) (restore.Verdict, error) {
	v := restore.Verdict{Dialect: l.cfg.Dialect, Modules: l.cfg.Modules, OneStream: true, Databases: l.cfg.Databases}
	if need.Backup == nil {
		return v, errors.New("dumpfile: there is no manifest of the backup to look at")
	}
	if need.Conflict().Merges() {
		v.Fail("conflict", "a file can't be merged with: restore into a server, or write another file")
	}
	switch info, err := l.cfg.Store.Stat(ctx, l.last()); {
	case errors.Is(err, storage.ErrNotFound):
		v.Pass("empty", "there is no %s", l.last())
	case err != nil:
		return v, fmt.Errorf("looking for %s: %w", l.last(), err)
	case need.Conflict() == restore.Replace:
		v.Pass("empty", "%s, of %d bytes, is replaced", info.Key, info.Size)
	default:
		v.Fail("empty", "there is %s, of %d bytes, already: choose another name, or say that it is to be replaced", info.Key, info.Size)
	}
	if dbs := need.Databases(); l.cfg.Databases > 0 && len(dbs) > 0 && dbs[len(dbs)-1] >= l.cfg.Databases {
		v.Fail("databases", "there are keys in database %d, and the server has %d: it would end when it meets them", dbs[len(dbs)-1], l.cfg.Databases)
	}
	return v, nil
}

// Load writes the files. Until the last of them is there, an error leaves what was there before, but for the summary of a set that was to be
// replaced.
func (l *Loader) Load(ctx context.Context, src restore.Source, opts *restore.Options) (*restore.Report, error) {
	if opts == nil {
		opts = &restore.Options{}
	}
	b := src.Backup()
	v, err := l.Check(ctx, restore.Requirements{Backup: b, Options: opts, Final: true})
	if err == nil {
		err = v.Err(opts)
	}
	if err != nil {
		return nil, err
	}
	if len(b.Parts) != 1 {
		return nil, fmt.Errorf("%w: it has %d parts, and one stream is expected", restore.ErrRefused, len(b.Parts))
	}
	start := clock.System()
	rep := &restore.Report{Backup: b.ID, Target: l.last(), Method: "dumpfile", Keys: b.Keys, Functions: b.Functions, DBs: b.DBs}
	if opts.Progress != nil {
		opts.Progress(restore.Progress{Stage: restore.StageLoad, Total: b.Parts[0].RawSize})
	}
	in, err := src.Open(ctx, b.Parts[0])
	if err != nil {
		return nil, fmt.Errorf("opening part %s: %w", b.Parts[0].Name, err)
	}
	defer in.Close()
	w := &files{Loader: l, ctx: ctx, replace: opts.Conflict == restore.Replace}
	defer w.abort()
	told := &teller{in: in, total: b.Parts[0].RawSize, progress: opts.Progress}
	if l.cfg.Shards > 0 {
		err = w.set(told, rep)
	} else {
		err = w.plain(told, b, rep)
	}
	if err == nil {
		err = w.commit()
	}
	if err != nil {
		if ctx.Err() != nil && !w.changed {
			return nil, ctx.Err()
		}
		return nil, w.failed(err)
	}
	rep.Load = clock.Since(start)
	rep.Proof.Counted = true
	return rep, nil
}

// files are objects that are being written.
type files struct {
	*Loader
	ctx     context.Context
	replace bool
	open    []storage.Writer
	changed bool // the store isn't as before
	last    bool // the last object may be there
}

func (w *files) create(key string) (storage.Writer, error) {
	to, err := w.cfg.Store.Create(w.ctx, key, &storage.CreateOptions{IfNotExist: !w.replace && key == w.Loader.last()})
	if err != nil {
		return nil, fmt.Errorf("writing %s: %w", key, err)
	}
	w.open = append(w.open, to)
	return to, nil
}

// plain copies the stream.
func (w *files) plain(in io.Reader, b *catalog.Backup, rep *restore.Report) error {
	to, err := w.create(w.cfg.Name)
	if err != nil {
		return err
	}
	n, err := io.Copy(to, in)
	rep.Bytes = n
	if err == nil && n != b.Parts[0].RawSize {
		err = fmt.Errorf("%d bytes came where the manifest says %d: %w", n, b.Parts[0].RawSize, io.ErrUnexpectedEOF)
	}
	return err
}

// set converts the stream into a set.
func (w *files) set(in io.Reader, rep *restore.Report) error {
	var id [16]byte
	rand.Read(id[:]) // never fails
	var to []io.Writer
	for _, key := range w.keys {
		file, err := w.create(key)
		if err != nil {
			return err
		}
		to = append(to, &counted{file, &rep.Bytes})
	}
	shards := len(to) - 1
	dst, err := rdb.NewSetWriter(to[shards], to[:shards], hex.EncodeToString(id[:]), &rdb.WriterOptions{Compression: rdb.CompressLZ4, Spool: spool})
	if err != nil {
		return err
	}
	defer dst.Close()
	found, err := rdb.Convert(dst, rdb.NewReader(in, &rdb.ReaderOptions{Spool: spool}), nil)
	if err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, in); err != nil { // its end proves it
		return err
	}
	if found.Keys != rep.Keys {
		return fmt.Errorf("%d keys came where the manifest says %d", found.Keys, rep.Keys)
	}
	return dst.Close()
}

// spool opens a file without a name.
func spool() (rdb.Spool, error) {
	f, err := os.CreateTemp("", "amber-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// commit makes the files visible, the one that is looked for last.
func (w *files) commit() error {
	if len(w.open) > 1 && w.replace {
		w.changed = true
		if err := w.cfg.Store.Delete(w.ctx, w.Loader.last()); err != nil && !errors.Is(err, storage.ErrNotFound) {
			return fmt.Errorf("removing the former %s: %w", w.Loader.last(), err)
		}
	}
	for i, to := range w.open {
		w.changed = true
		w.last = i == len(w.open)-1
		if _, err := to.Commit(w.ctx); err != nil {
			return fmt.Errorf("writing %s: %w", w.keys[i], err)
		}
	}
	return nil
}

func (w *files) abort() {
	for _, to := range w.open {
		to.Abort()
	}
}

// failed says what is there after an error.
func (w *files) failed(err error) error {
	w.abort()
	if !w.changed {
		return err
	}
	p := &restore.PartialError{Target: w.Loader.last(), State: restore.TargetEmpty, Keys: -1, Err: err}
	switch {
	case w.last:
		p.State = restore.TargetUnknown
		p.Detail = "whether " + w.Loader.last() + " is there is not known; if it is, it is whole"
	case len(w.keys) > 1:
		p.Detail = "there is no " + w.Loader.last() + ", so that no server takes the other files for data; the next restore of that name overwrites them"
	}
	return p
}

// counted counts what is written.
type counted struct {
	io.Writer
	n *int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	*c.n += int64(n)
	return n, err
}

// teller tells how much was read, every few megabytes.
type teller struct {
	in       io.Reader
	n, told  int64
	total    int64
	progress func(restore.Progress)
}

func (t *teller) Read(p []byte) (int, error) {
	n, err := t.in.Read(p)
	t.n += int64(n)
	if t.progress != nil && t.n-t.told >= 4<<20 {
		t.told = t.n
		t.progress(restore.Progress{Stage: restore.StageLoad, Bytes: t.n, Total: t.total})
	}
	return n, err
}
