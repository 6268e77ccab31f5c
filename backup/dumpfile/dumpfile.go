// Package dumpfile takes snapshots from what a server wrote itself: an RDB file such as dump.rdb, the files of one of Dragonfly's
// sets (DFS), NAME-summary.dfs and its shards, or append-only files. They are read from a store: a directory with filestore.New, or a bucket.
//
//	found, err := dumpfile.List(ctx, store, "", nil) // what is there, what is whole, what the server would load
//	snapshotter, err := dumpfile.New(dumpfile.Config{Store: store, Name: "dump-2026-08-22T11:55:03-summary.dfs"})
//
// A server can also be asked to save now, into a place that both can see:
//
//	snapshotter, err := dumpfile.NewSave(dumpfile.SaveConfig{Options: options, Store: store})
//
// # What is one version
//
// A server may write the file anew while it is read. Every file is looked at (size and time) when the snapshot is taken and when
// it was read to its end, and each file of a set says by its snapshot's ID to which save it belongs, from Dragonfly 1.32 on. What doesn't fit
// is an error that wraps ErrChanged: take the snapshot again. A single RDB file with a checksum needs nothing of that, since the
// pipeline proves its bytes: a Redis or Valkey that saves meanwhile disturbs nobody, because it gives its new file the name of the
// old one in one step, and what was opened stays what it was.
//
// A program that writes over a file in place, in the same length, and sets its time back afterwards isn't noticed where there is
// neither a checksum nor an ID.
//
// # What isn't here
//
// Dragonfly pads the files in its directory with anything. Of Dragonfly before 1.26 nothing in a file need tell whose it is: such a file is taken
// for one of Redis and refused when bytes follow its end. In a bucket there is no padding.
//
// # Append-only files
//
// Of a server that runs with appendonly yes, [NewAOF] takes the append-only files as they are, all of one moment, while the server writes and rewrites them. A backup of
// them is restored by the start of a server, which executes their commands: see NewAOF of package restore/dumpfile. Their base, if it is an RDB file, can also be read
// like any other by New, and lacks what was appended since.
package dumpfile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/rdb/dfs"
	"github.com/amberkv/amber/storage"
)

// method is what catalog.Source.Method says of these snapshots.
const method = "dumpfile"

// Errors of snapshots. They are wrapped with the file they are about.
var (
	// ErrChanged: the file was changed while it was read, or since the snapshot was taken. Take it again.
	ErrChanged = errors.New("dump was changed meanwhile")
	// ErrPartOfSet: the file is one of several that make a DFS set, and no snapshot by itself.
	ErrPartOfSet = errors.New("file is one of a DFS set")

	errClosed = errors.New("dumpfile: snapshot was closed")
)

// Config says which dump is taken from where.
type Config struct {
	// Store has the files. Required.
	Store storage.Store
	// Name is the key of an RDB file, or of a set's summary (NAME-summary.dfs). Required.
	Name string
	// Adopt makes the backup refer to the files where they are instead of storing their bytes again. It is for a backup.Runner over the
	// same store; see backup.Part.Key.
	Adopt bool
}

// A Snapshotter takes snapshots of one dump. It is safe for use by several goroutines.
type Snapshotter struct{ cfg Config }

// New returns a Snapshotter. It touches nothing. The error says what is wrong with the configuration.
func New(cfg Config) (*Snapshotter, error) {
	if cfg.Store == nil {
		return nil, errors.New("dumpfile: Config.Store is required")
	}
	if err := storage.ValidKey(cfg.Name); err != nil {
		return nil, fmt.Errorf("dumpfile: Config.Name: %w", err)
	}
	switch {
	case strings.HasSuffix(cfg.Name, ".aof"), strings.HasSuffix(cfg.Name, manifestSuffix):
		return nil, fmt.Errorf("dumpfile: Config.Name: %s is of append-only files, which NewAOF takes", cfg.Name)
	case strings.HasSuffix(cfg.Name, temporary):
		return nil, fmt.Errorf("dumpfile: Config.Name: %s is not finished, or was left by a save that was killed", cfg.Name)
	case strings.HasSuffix(cfg.Name, ".dfs") && !dfs.IsSummary(cfg.Name):
		return nil, fmt.Errorf("dumpfile: Config.Name: %s: %w: give the name of its summary, %s", cfg.Name, ErrPartOfSet, summaryOf(cfg.Name))
	}
	return &Snapshotter{cfg: cfg}, nil
}

// Snapshot finds the files and looks at how they begin. The error wraps storage.ErrNotFound if there is no such dump, and is a
// *dfs.SetError if files of a set are missing or belong to another save.
func (s *Snapshotter) Snapshot(ctx context.Context) (backup.Snapshot, error) {
	sn, err := s.snapshot(ctx)
	if err != nil {
		if ctx.Err() != nil && !errors.Is(err, ctx.Err()) {
			err = fmt.Errorf("%w: %w", ctx.Err(), err)
		}
		return nil, fmt.Errorf("dumpfile: %s: %w", s.cfg.Name, err)
	}
	return sn, nil
}

func (s *Snapshotter) snapshot(ctx context.Context) (*snapshot, error) {
	files := newFiles(ctx, s.cfg.Store, s.cfg.Name)
	sn := &snapshot{cfg: s.cfg, files: map[string]storage.Info{}}
	names := []string{s.cfg.Name}
	if dfs.IsSummary(s.cfg.Name) {
		set, err := dfs.Open(files, s.cfg.Name)
		if err != nil {
			return nil, err
		}
		sn.set, sn.id, sn.counted = true, set.ID, set.Counted
		names = append(set.Shards, set.Summary)
	}
	head, err := files.head(s.cfg.Name)
	if err != nil {
		return nil, err
	}
	sn.source = catalog.Source{Method: method, File: s.cfg.Name, Time: head.time, Engine: head.engine, Version: head.version}
	for i, key := range names {
		// What was seen first counts: what dfs.Open found is true of that.
		info, err := files.look(key)
		if err != nil {
			return nil, err
		}
		p := backup.Part{Name: fmt.Sprintf("%04d%s", i, path.Ext(key)), Size: info.Size}
		if s.cfg.Adopt {
			p.Key = key
		}
		sn.parts = append(sn.parts, p)
		sn.files[p.Name] = info
	}
	if sn.source.Time.IsZero() {
		sn.source.Time = sn.files[sn.parts[len(sn.parts)-1].Name].ModTime.UTC().Truncate(time.Second)
	}
	sn.ctx, sn.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	return sn, nil
}

// snapshot is a dump as it was found.
type snapshot struct {
	cfg    Config
	source catalog.Source
	parts  []backup.Part
	files  map[string]storage.Info // by part
	set    bool                    // it is a DFS set
	id     string                  // of the set, if it has one

	counted bool // the set says how many files there are

	ctx    context.Context // ends with Close
	cancel context.CancelCauseFunc
}

func (s *snapshot) Source() catalog.Source { return s.source }
func (s *snapshot) Parts() []backup.Part   { return append([]backup.Part(nil), s.parts...) }

// Close ends all reads.
func (s *snapshot) Close() error {
	s.cancel(errClosed)
	return nil
}

// Open opens a file, and makes sure that it is the one that was found.
func (s *snapshot) Open(ctx context.Context, p backup.Part) (io.ReadCloser, error) {
	want, ok := s.files[p.Name]
	if !ok {
		return nil, fmt.Errorf("dumpfile: there is no part %q", p.Name)
	}
	if s.ctx.Err() != nil {
		return nil, errClosed
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.ctx, func() { cancel(errClosed) })
	r := &reader{ctx: ctx, closed: s.ctx, store: s.cfg.Store, want: want, release: func() { stop(); cancel(errClosed) }}
	if err := s.open(r); err != nil {
		err = r.wrap(err)
		if r.in != nil {
			r.in.Close()
		}
		r.release()
		return nil, err
	}
	return r, nil
}

func (s *snapshot) open(r *reader) error {
	var err error
	if r.in, err = s.cfg.Store.Open(r.ctx, r.want.Key, 0, -1); err != nil {
		return err
	}
	head, begin, err := readHead(r.in)
	if err != nil {
		return err
	}
	r.begin = begin
	switch {
	case s.set && s.id != "" && head.id != s.id:
		return fmt.Errorf("%w: it was of snapshot %s, and is of %.40q", ErrChanged, s.id, head.id)
	case !s.set && head.ofSet():
		return fmt.Errorf("%w: give the name of the set's summary", ErrPartOfSet)
	}
	r.checksummed = !s.set && head.hasChecksum()
	return nil
}

// A reader reads one file and proves that it is the one that was found.
type reader struct {
	ctx     context.Context
	closed  context.Context // the snapshot's; ctx ends with it, a moment later
	store   storage.Store
	want    storage.Info
	in      io.ReadCloser
	release func()

	mu          sync.Mutex // Close may be called while a Read waits, and more than once
	begin       []byte     // read already
	checksummed bool       // the stream may have a checksum, which proves it
	last        [8]byte
	n           int64
	err         error
}

func (r *reader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return 0, r.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if err := cmp.Or(context.Cause(r.closed), r.ctx.Err()); err != nil {
		r.err = r.wrap(err)
		return 0, r.err
	}
	var n int
	var err error
	if len(r.begin) > 0 {
		n = copy(p, r.begin)
		r.begin = r.begin[n:]
	} else {
		n, err = r.in.Read(p)
	}
	r.n += int64(n)
	if tail := p[max(0, n-len(r.last)):n]; len(tail) > 0 {
		copy(r.last[:], r.last[len(tail):])
		copy(r.last[len(r.last)-len(tail):], tail)
	}
	switch {
	case err == io.EOF:
		if err = r.whole(); err == nil {
			err = io.EOF
		} else {
			err = r.wrap(err)
		}
		r.err = err
	case err != nil:
		r.err = r.wrap(err)
	}
	return n, r.err
}

// whole tells whether the file is still the one that was found, unless the stream's own checksum does.
func (r *reader) whole() error {
	if r.checksummed && r.last != [8]byte{} {
		return nil
	}
	now, err := r.store.Stat(r.ctx, r.want.Key)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return fmt.Errorf("%w: it is gone", ErrChanged)
	case err != nil:
		return err
	}
	if err := same(r.want, now); err != nil {
		return err
	}
	if r.n != r.want.Size {
		return fmt.Errorf("%w: %d bytes were read of %d", ErrChanged, r.n, r.want.Size)
	}
	return nil
}

// same tells whether an object is the one that it was.
func same(was, is storage.Info) error {
	if was.Size != is.Size || !was.ModTime.Equal(is.ModTime) {
		return fmt.Errorf("%w: it had %d bytes of %s, and has %d of %s", ErrChanged, was.Size, was.ModTime.UTC().Format(time.RFC3339Nano), is.Size, is.ModTime.UTC().Format(time.RFC3339Nano))
	}
	return nil
}

// wrap names the file in an error, and its reason where that is the end of a context.
func (r *reader) wrap(err error) error {
	if cause := context.Cause(r.ctx); cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	return fmt.Errorf("dumpfile: reading %s: %w", r.want.Key, err)
}

// Close ends a Read that waits.
func (r *reader) Close() error {
	r.release()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.in == nil {
		return nil
	}
	if r.err == nil {
		r.err = errClosed
	}
	in := r.in
	r.in = nil
	return in.Close()
}
