// Package dumpfile restores a backup into files that a server loads when it starts: a plain RDB file, or one of Dragonfly's
// sets (DFS). They go to a store, which is a directory with filestore.New, or a bucket.
//
//	loader, err := dumpfile.New(dumpfile.Config{Store: dir, Name: "dump.rdb", Dialect: rdb.Dialect{Family: rdb.Redis, Version: 11}})
//
// The name that the server looks for appears last, once everything is durable: NAME itself for a plain file, NAME-summary.dfs for a
// set, after all its shards. So a server that starts too early, or after a crash of ours, finds no data that is not whole. A
// plain file that is replaced stays until the new one takes its place in one step. Of a set that is replaced the summary goes first:
// between that and the new one a server finds no set of that name.
//
// A backup that is a set itself, also one of a live Dragonfly's flows, becomes a set of the same files, byte for byte, if nothing else is asked for: see Config.Set.
//
// What isn't done here, and has to be known:
//
//   - A Redis or Valkey that runs with appendonly yes doesn't look at the file when it starts, unless it has no append-only files. A server
//     that runs overwrites the file when it saves or ends: put it there while it is down.
//   - Dragonfly loads the newest of all files in its directory whose names begin with its dbfilename, as NAME*.rdb or NAME*-summary.dfs,
//     unless that has an ending: an older save beside a set counts when the set is not there. The time of a file's last change says which
//     is the newest, whatever time is in its name. Where another file would be loaded than the one that was written, the report warns.
//   - The server's user has to be allowed to read the files: filestore makes them readable by their owner only, unless its
//     Options.FileMode says otherwise. A server that finds a file that it may not read doesn't start.
//   - What a replaced file held is gone: nobody backs it up before.
//   - One Load at a time writes a name. Of two that write the same set at once, one may get its shards beside the other's
//     summary. That is an error for one of them, and a set that Dragonfly doesn't load right.
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
	"time"

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
	// have directories before it. Required. New puts the time for {timestamp}, {Y}, {m} and {d}, as Dragonfly does: with its default
	// dbfilename, dump-{timestamp}, every set has a name of its own and none is replaced.
	Name string
	// Dialect is that of the file; the zero Dialect: that of the backup. See rdb.NewWriter for those that can be written.
	Dialect rdb.Dialect
	// Shards makes a Dragonfly set of as many shards, at most 1024; 0: a plain file, unless Set says otherwise. Dialect is left zero then.
	Shards int
	// Set makes a Dragonfly set even if Shards is 0: of as many shards as the backup's own, if it is one itself, else of 4.
	//
	// A backup is one itself if it was read from a set, or from the flows of a live Dragonfly. With as many shards, and if nothing is selected or changed, it
	// becomes files of the very bytes, even if keys in them have expired: with the commands that are to be executed on top of the keys, which Dragonfly does as it loads
	// them. It has to be of the release that wrote them or a newer one. Another number of shards makes new files of the keys alone.
	Set bool
	// Modules are the types of module values that the server takes, by their nine characters; nil: those that the backup has, if
	// its dialect is kept or gets newer. A server ends when it meets values of a newer release of a module than its own, such as
	// vector sets of a newer Redis.
	Modules []string
	// Verbatim makes a plain file that needs no conversion one of the backup's very bytes, even if keys in it have expired: for a file that
	// is kept, or whose server leaves those out itself.
	Verbatim bool
	// Databases is how many databases the server has; 0: that isn't known.
	Databases int
	// TempDir is where a set's values are held that are too large for memory; empty: the system's.
	TempDir string
	// Now tells the time for Name. nil: the machine's clock, in its zone.
	Now func() time.Time
}

// A Loader writes the files of one name.
type Loader struct {
	cfg        Config
	dbfilename string // the last element of Config.Name, as a server's setting has it
	dir, name  string // of a set
	last       string // the object whose presence makes the others count
}

// New returns a Loader. The error says what is wrong with the configuration; nothing is written yet.
func New(cfg Config) (*Loader, error) {
	switch {
	case cfg.Store == nil:
		return nil, errors.New("dumpfile: Config.Store is required")
	case cfg.Shards < 0 || cfg.Shards > maxShards:
		return nil, fmt.Errorf("dumpfile: Config.Shards is %d, it can be 1 to %d, or 0 for a plain file", cfg.Shards, maxShards)
	case cfg.Shards > 0 && cfg.Dialect != (rdb.Dialect{}):
		return nil, errors.New("dumpfile: Config.Dialect and Config.Shards exclude each other: sets have a dialect of their own")
	case cfg.Set && cfg.Dialect != (rdb.Dialect{}):
		return nil, errors.New("dumpfile: Config.Dialect and Config.Set exclude each other: sets have a dialect of their own")
	}
	_, dbfilename := path.Split(cfg.Name)
	cfg.Name = dfs.FillName(cfg.Name, clock.Or(cfg.Now)())
	cfg.Set = cfg.Set || cfg.Shards > 0
	l := &Loader{cfg: cfg, dbfilename: dbfilename, last: cfg.Name}
	keys := []string{cfg.Name}
	if cfg.Set {
		l.dir, l.name = path.Split(cfg.Name)
		if err := dfs.ValidName(l.name); err != nil {
			return nil, fmt.Errorf("dumpfile: Config.Name: %w", err)
		}
		keys = l.keys(1)
		l.last = keys[1]
		l.cfg.Dialect = rdb.Dialect{Family: rdb.Dragonfly, Version: 9}
	} else if cfg.Dialect != (rdb.Dialect{}) {
		if _, err := rdb.NewWriter(io.Discard, cfg.Dialect, nil); err != nil {
			return nil, fmt.Errorf("dumpfile: Config.Dialect: %w", err)
		}
	}
	for _, key := range keys {
		if err := storage.ValidKey(key); err != nil {
			return nil, fmt.Errorf("dumpfile: Config.Name: %w", err)
		}
	}
	return l, nil
}

// keys returns those of the files of a set of so many shards, the one that is looked for last.
func (l *Loader) keys(shards int) (keys []string) {
	for _, file := range dfs.Names(l.name, shards) {
		keys = append(keys, l.dir+file)
	}
	return keys
}

// Check looks for files of that name. It writes nothing.
func (l *Loader) Check(ctx context.Context, need restore.Requirements) (restore.Verdict, error) {
	v, _, err := l.look(ctx, need)
	return v, err
}

// look returns what Check does, and what is there; nil if nothing is.
func (l *Loader) look(ctx context.Context, need restore.Requirements) (restore.Verdict, *storage.Info, error) {
	v := restore.Verdict{Dialect: l.cfg.Dialect, Modules: l.cfg.Modules, OneStream: true, Verbatim: l.cfg.Verbatim && !l.cfg.Set}
	if need.Backup == nil {
		return v, nil, errors.New("dumpfile: there is no manifest of the backup to look at")
	}
	own := l.own(need.Backup)
	if own != nil {
		v.OneStream, v.Verbatim = false, true
		v.Pass("set", "the backup is a set of %d shards: its files are written as they are, unless something is selected or changed", len(own)-1)
	}
	if need.Conflict().Merges() {
		v.Fail("conflict", "a file can't be merged with: restore into a server, or write another file")
	}
	there, err := l.cfg.Store.Stat(ctx, l.last)
	found := &there
	switch {
	case errors.Is(err, storage.ErrNotFound):
		found = nil
		v.Pass("empty", "there is no %s", l.last)
	case err != nil:
		return v, nil, fmt.Errorf("looking for %s: %w", l.last, err)
	case need.Conflict() == restore.Replace:
		v.Pass("empty", "%s, of %d bytes, is replaced", there.Key, there.Size)
	default:
		v.Fail("empty", "there is %s, of %d bytes, already: choose another name, or say that it is to be replaced", there.Key, there.Size)
	}
	if dbs := need.Databases(); l.cfg.Databases > 0 && len(dbs) > 0 && dbs[len(dbs)-1] >= l.cfg.Databases {
		v.Fail("databases", "there are keys for database %d, and the server has %d: it would end when it meets them", dbs[len(dbs)-1], l.cfg.Databases)
	}
	parts := need.Backup.Parts
	switch {
	case !need.Final || own != nil:
	case len(parts) != 1:
		v.Fail("parts", "%d streams were given, and one is written: they have to be joined", len(parts))
	case l.cfg.Dialect != (rdb.Dialect{}) && parts[0].Dialect != l.cfg.Dialect.String():
		v.Fail("rdb-version", "the stream is %s, and the file is to be %v: it has to be converted", parts[0].Dialect, l.cfg.Dialect)
	}
	return v, found, nil
}

// Load writes the files. An error leaves what was there before, but for a set that was to be replaced: once all its new shards are written
// the old one goes, and it is a *restore.PartialError if that is where it ended, or if what is there can't be seen any more. What
// Load wrote it removes then, as far as it can.
func (l *Loader) Load(ctx context.Context, src restore.Source, opts *restore.Options) (*restore.Report, error) {
	if opts == nil {
		opts = &restore.Options{}
	}
	b := src.Backup()
	v, there, err := l.look(ctx, restore.Requirements{Backup: b, Options: opts, Final: true})
	if err == nil {
		err = v.Err(opts)
	}
	if err != nil {
		return nil, err
	}
	start := clock.System()
	rep := &restore.Report{Backup: b.ID, Target: l.last, Method: "dumpfile", Dialect: b.Parts[0].Dialect, Keys: b.Keys, Functions: b.Functions, DBs: b.DBs}
	own := l.own(b)
	w := &files{Loader: l, ctx: ctx, replace: opts.Conflict == restore.Replace, former: there, keys: []string{l.last}}
	if l.cfg.Set {
		w.keys = l.keys(l.shards(own))
	}
	defer w.abort()
	told := &teller{total: b.RawBytes, progress: opts.Progress}
	told.tell()
	if own != nil {
		rep.Commands = b.Commands
		err = w.copies(told, src, own)
	} else {
		err = w.stream(told, src)
	}
	if err == nil {
		err = w.commit()
	}
	if err != nil {
		return nil, w.failed(err, b)
	}
	told.tell()
	if w.replace && l.cfg.Set {
		rep.Warnings = w.sweep()
	}
	rep.Warnings = append(rep.Warnings, w.overlooked()...)
	for _, o := range w.open {
		rep.Bytes += o.n
	}
	rep.Load = clock.Since(start)
	rep.Proof.Counted = true
	return rep, nil
}

// stream writes what the one part of a source has.
func (w *files) stream(told *teller, src restore.Source) (err error) {
	b := src.Backup()
	p := b.Parts[0]
	told.total = p.RawSize
	if told.in, err = src.Open(w.ctx, p); err != nil {
		return fmt.Errorf("opening part %s: %w", p.Name, err)
	}
	defer told.in.Close()
	if w.cfg.Set {
		return w.set(told, b)
	}
	return w.plain(told, b)
}

// plain copies the stream, and counts what is in it.
func (w *files) plain(in io.Reader, b *catalog.Backup) error {
	to, err := w.create(w.cfg.Name, b.Parts[0].RawSize)
	if err != nil {
		return err
	}
	found, err := catalog.Inspect(io.TeeReader(in, to), nil)
	if err != nil {
		return err
	}
	return differs(found, b)
}

// set converts the stream into a set.
func (w *files) set(in io.Reader, b *catalog.Backup) error {
	var id [16]byte
	rand.Read(id[:]) // never fails
	var to []io.Writer
	for _, key := range w.keys {
		file, err := w.create(key, 0)
		if err != nil {
			return err
		}
		to = append(to, file)
	}
	shards := len(to) - 1
	dst, err := rdb.NewSetWriter(to[shards], to[:shards], hex.EncodeToString(id[:]), &rdb.WriterOptions{Compression: rdb.CompressLZ4, Spool: w.spool})
	if err != nil {
		return err
	}
	defer dst.Close()
	src := rdb.NewReader(in, &rdb.ReaderOptions{Spool: w.spool})
	wrote, err := rdb.Convert(dst, src, nil)
	if err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, in); err != nil { // its end proves it
		return err
	}
	if err := dst.Close(); err != nil {
		return err
	}
	stats := rdb.Stats{Keys: wrote.Keys, Functions: wrote.Functions, DBs: wrote.DBs, Modules: wrote.Modules}
	for _, db := range wrote.DBs {
		stats.Expires += db.Expires
	}
	return differs(catalog.ContentsOf(w.cfg.Dialect, stats), b)
}

// differs compares what was written with the manifest.
func differs(found catalog.Contents, b *catalog.Backup) error {
	if why := found.Differs(b); why != "" {
		return fmt.Errorf("the stream is not what it was said to be: %s", why)
	}
	return nil
}

// spool opens a file without a name.
func (w *files) spool() (rdb.Spool, error) {
	f, err := os.CreateTemp(w.cfg.TempDir, "amber-")
	if err != nil {
		return nil, fmt.Errorf("room for what is too large for memory: %w; set Config.TempDir", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// teller tells how much was read, every few megabytes.
type teller struct {
	in       io.ReadCloser
	n, told  int64
	total    int64
	progress func(restore.Progress)
}

func (t *teller) Read(p []byte) (int, error) {
	n, err := t.in.Read(p)
	t.n += int64(n)
	if t.n-t.told >= 4<<20 {
		t.tell()
	}
	return n, err
}

func (t *teller) tell() {
	t.told = t.n
	if t.progress != nil {
		t.progress(restore.Progress{Stage: restore.StageLoad, Bytes: t.n, Total: t.total})
	}
}
