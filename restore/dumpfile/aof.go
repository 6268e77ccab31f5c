package dumpfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/rdb/aof"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/storage"
)

// AOFConfig says where append-only files are written.
type AOFConfig struct {
	// Store takes the files. Required.
	Store storage.Store
	// Dir is the directory in it, such as "appendonlydir/", with or without the slash at its end: of a server's settings dir and appenddirname. Empty: where the
	// store begins.
	Dir string
	// Name is the server's setting appendfilename. Empty: "appendonly.aof", as servers have it.
	Name string
}

// DefaultAOFName is the name that the append-only files of a server have by default.
const DefaultAOFName = "appendonly.aof"

// An AOFLoader writes a backup as the append-only files that a Redis from 7.0 on, or a Valkey, starts from which runs with appendonly yes.
//
// Commands of the Report are those that the server executes when it starts.
//
// The base of a backup of append-only files becomes the base, byte for byte, and its increments follow; a backup that is a single RDB file becomes a base alone. So the
// server executes the commands itself, and what it has then is the snapshot. Nothing can be selected, renamed or converted: the server has to be one that reads the
// base, of the engine that wrote it and of its version or a newer one.
//
// The files are new ones, with numbers that none had before, and the manifest comes last, in one step: before that a server finds what was there, and after it the
// backup. What a replaced manifest named is then removed. While the server runs nothing may be written to its directory.
type AOFLoader struct {
	store storage.Store
	name  string // with the directory
}

// NewAOF returns an AOFLoader. The error says what is wrong with the configuration; nothing is written yet.
func NewAOF(cfg AOFConfig) (*AOFLoader, error) {
	if cfg.Store == nil {
		return nil, errors.New("dumpfile: AOFConfig.Store is required")
	}
	if cfg.Name == "" {
		cfg.Name = DefaultAOFName
	}
	if strings.Contains(cfg.Name, "/") {
		return nil, fmt.Errorf("dumpfile: AOFConfig.Name: %q is a path, and has to be the name of files in Dir", cfg.Name)
	}
	l := &AOFLoader{store: cfg.Store, name: cfg.Name}
	if cfg.Dir != "" {
		l.name = strings.TrimSuffix(cfg.Dir, "/") + "/" + cfg.Name
	}
	if err := storage.ValidKey(l.file(1<<62, ".base.rdb")); err != nil {
		return nil, fmt.Errorf("dumpfile: AOFConfig.Dir and Name: %w", err)
	}
	return l, nil
}

func (l *AOFLoader) manifest() string { return l.name + ".manifest" }

// file is the key of a file.
func (l *AOFLoader) file(seq int64, ending string) string {
	return l.name + "." + strconv.FormatInt(seq, 10) + ending
}

var aofFile = regexp.MustCompile(`^\.([0-9]{1,18})\.(?:base\.rdb|base\.aof|incr\.aof)$`)

// Check looks for append-only files of that name. It writes nothing.
func (l *AOFLoader) Check(ctx context.Context, need restore.Requirements) (restore.Verdict, error) {
	v, _, err := l.look(ctx, need)
	return v, err
}

// look returns what Check does, and whether there is a manifest.
func (l *AOFLoader) look(ctx context.Context, need restore.Requirements) (v restore.Verdict, there bool, err error) {
	v = restore.Verdict{Verbatim: true, Appends: true}
	if need.Backup == nil {
		return v, false, errors.New("dumpfile: there is no manifest of the backup to look at")
	}
	if need.Conflict().Merges() {
		v.Fail("conflict", "append-only files can't be merged with: restore into a server, or write to another directory")
	}
	info, err := l.store.Stat(ctx, l.manifest())
	switch there = err == nil; {
	case errors.Is(err, storage.ErrNotFound):
		v.Pass("empty", "there is no %s", l.manifest())
	case err != nil:
		return v, false, fmt.Errorf("looking for %s: %w", l.manifest(), err)
	case need.Conflict() == restore.Replace:
		v.Pass("empty", "%s, of %s, is replaced, and the files that it names go", l.manifest(), info.ModTime.UTC().Format("2006-01-02T15:04:05Z"))
	default:
		v.Fail("empty", "there is %s already: choose another directory, or say that it is to be replaced", l.manifest())
	}
	for i, p := range need.Backup.Parts {
		if i > 0 && p.Dialect != catalog.DialectAOF {
			v.Fail("parts", "part %s is another base (%s), and append-only files have one: restore each part by itself, or by commands", p.Name, p.Dialect)
			break
		}
	}
	if d := need.Backup.Parts; len(d) > 0 && strings.HasPrefix(d[0].Dialect, "dragonfly:") {
		v.Fail("rdb-version", "the snapshot is of Dragonfly, which has no append-only files, and no other server reads it")
	}
	return v, there, nil
}

// Load writes the files. An error before the manifest takes its place leaves what was there before, and the files that were written are removed, as far as that works. One
// after it is a *restore.PartialError, as is one of which it isn't known on which side it is.
func (l *AOFLoader) Load(ctx context.Context, src restore.Source, opts *restore.Options) (*restore.Report, error) {
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
	w := &aofFiles{AOFLoader: l, ctx: ctx, told: teller{total: b.RawBytes, progress: opts.Progress}, replace: opts.Conflict == restore.Replace && there}
	w.told.tell()
	if err := w.write(src); err != nil {
		w.undo()
		if ctx.Err() != nil && !errors.Is(err, ctx.Err()) {
			err = fmt.Errorf("%w: %w", ctx.Err(), err)
		}
		return nil, err
	}
	if err := w.publish(b); err != nil {
		return nil, err
	}
	w.told.tell()
	rep := &restore.Report{Backup: b.ID, Target: l.manifest(), Method: "aof", Dialect: b.Parts[0].Dialect, Keys: b.Keys, Functions: b.Functions, DBs: b.DBs,
		Commands: b.Commands, Bytes: w.told.n}
	if w.replace {
		rep.Warnings = w.sweep()
	}
	rep.Load = clock.Since(start)
	rep.Proof.Counted = true
	return rep, nil
}

// aofFiles are files that are being written.
type aofFiles struct {
	*AOFLoader
	ctx     context.Context
	told    teller
	replace bool // there is a manifest, which goes

	set   aof.Manifest
	keys  []string // of the files that may be in the store
	stale []string // files that were there before
}

// write writes all files but the manifest.
func (w *aofFiles) write(src restore.Source) error {
	base, err := w.next()
	if err != nil {
		return err
	}
	var all catalog.Contents
	b := src.Backup()
	for i, p := range b.Parts {
		f := aof.File{Seq: base, Type: aof.Base}
		ending := ".base.rdb"
		switch {
		case i > 0:
			// Its number is that of an increment alone: those of bases are counted by themselves.
			f.Seq, f.Type, ending = base+int64(i)-1, aof.Incremental, ".incr.aof"
		case p.Dialect == catalog.DialectAOF:
			ending = ".base.aof"
		}
		key := w.file(f.Seq, ending)
		f.Name = path.Base(key)
		found, err := w.part(src, p, key)
		if err != nil {
			return fmt.Errorf("part %s: %w", p.Name, err)
		}
		all.Add(found)
		w.set.Files = append(w.set.Files, f)
	}
	return differs(all, b)
}

// next returns the first number that no file has, and takes down which files there are.
func (w *aofFiles) next() (int64, error) {
	next := int64(1)
	for info, err := range w.store.List(w.ctx, w.name+".") {
		if err != nil {
			return 0, fmt.Errorf("looking for files of %s: %w", w.name, err)
		}
		if m := aofFile.FindStringSubmatch(strings.TrimPrefix(info.Key, w.name)); m != nil {
			n, err := strconv.ParseInt(m[1], 10, 64)
			if err != nil {
				continue
			}
			w.stale = append(w.stale, info.Key)
			next = max(next, n+1)
		}
	}
	return next, nil
}

// part copies a part into a file, and says what is in it.
func (w *aofFiles) part(src restore.Source, p catalog.Part, key string) (catalog.Contents, error) {
	in, err := src.Open(w.ctx, p)
	if err != nil {
		return catalog.Contents{}, err
	}
	defer in.Close()
	out, err := w.store.Create(w.ctx, key, &storage.CreateOptions{IfNotExist: storage.CapabilitiesOf(w.store).Exclusive, SizeHint: p.RawSize})
	if err != nil {
		return catalog.Contents{}, fmt.Errorf("writing %s: %w", key, err)
	}
	defer out.Abort()
	w.told.in = in
	found, err := catalog.Inspect(io.TeeReader(&w.told, out), nil)
	if err != nil {
		return found, err
	}
	w.keys = append(w.keys, key)
	if _, err := out.Commit(w.ctx); err != nil {
		return found, fmt.Errorf("writing %s: %w", key, err)
	}
	return found, nil
}

// undo removes what was written, as far as it can: no manifest names it.
func (w *aofFiles) undo() (left string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), lookAgain)
	defer cancel()
	var names []string
	for _, key := range w.keys {
		if err := w.store.Delete(ctx, key); err != nil && !errors.Is(err, storage.ErrNotFound) {
			names = append(names, key)
		}
	}
	return strings.Join(names, ", ")
}

// publish puts the manifest in its place.
func (w *aofFiles) publish(b *catalog.Backup) error {
	text := w.set.Encode()
	err := storage.WriteFile(w.ctx, w.store, w.manifest(), text, &storage.CreateOptions{IfNotExist: !w.replace && storage.CapabilitiesOf(w.store).Exclusive})
	if err == nil {
		return nil
	}
	err = fmt.Errorf("writing %s: %w", w.manifest(), err)
	if errors.Is(err, storage.ErrExists) {
		w.undo()
		return fmt.Errorf("%w: somebody else wrote it just now: %w", restore.ErrNotEmpty, err)
	}
	// Whether it had an effect is to be seen.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), lookAgain)
	defer cancel()
	p := &restore.PartialError{Target: w.manifest(), Keys: -1, Err: err}
	now, rerr := storage.ReadFile(ctx, w.store, w.manifest(), aof.MaxManifest)
	switch {
	case rerr == nil && string(now) == string(text):
		p.State, p.Keys = restore.TargetLoaded, b.Keys
		p.Detail = "the files are there and whole, but may not survive a crash of the machine"
		if w.replace {
			p.Detail += "; those that were there before are left beside them"
		}
		return p
	case rerr == nil && w.replace, errors.Is(rerr, storage.ErrNotFound) && !w.replace:
		w.undo()
		return err // as before
	}
	p.State = restore.TargetUnknown
	p.Detail = fmt.Sprintf("which files %s names can't be seen (%v): a server finds either what was there before, or the backup", w.manifest(), rerr)
	return p
}

// sweep removes the files that were there before, and returns what it couldn't remove, as warnings. A server doesn't look at them.
func (w *aofFiles) sweep() (warnings []string) {
	for _, key := range w.stale {
		if err := w.store.Delete(w.ctx, key); err != nil && !errors.Is(err, storage.ErrNotFound) {
			warnings = append(warnings, fmt.Sprintf("a file that the former manifest named is left, which is of no use: %s: %v", key, err))
		}
	}
	return warnings
}
