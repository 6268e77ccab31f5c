package filestore

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/storage"
)

// Temporary files are called tmpPrefix and 26 random characters. The dot keeps them from ever being an object.
const tmpPrefix = ".amber-tmp-"

func isTemporary(name string) bool {
	return strings.HasPrefix(name, tmpPrefix) && len(name) == len(tmpPrefix)+26
}

// Create starts an object, as storage.Store says. Every Write is one or more system calls: a caller with many small
// pieces puts a bufio.Writer before it.
func (s *Store) Create(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
	if err := check(ctx, "create", key); err != nil {
		return nil, err
	}
	w := &writer{ctx: ctx, s: s, key: key, exclusive: opts != nil && opts.IfNotExist}
	if w.exclusive {
		// Only Commit decides, but this spares the loser writing all of it.
		if _, err := s.lstat(key); err == nil {
			return nil, fmt.Errorf("filestore: create %s: %w", key, storage.ErrExists)
		}
	}
	dir := path.Dir(key)
	// A Delete or Abort may prune the directory before our file is in it. Each round loses to one that was pruned.
	for range 1000 {
		err := s.root.MkdirAll(dir, s.opts.DirMode)
		if err == nil {
			w.tmp = path.Join(dir, tmpPrefix+rand.Text())
			w.file, err = s.root.OpenFile(w.tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, s.opts.FileMode)
		}
		switch {
		case err == nil:
			return w, nil
		// MkdirAll says so too of a directory that was there when it came and gone when it looked.
		case !errors.Is(err, fs.ErrNotExist) && (!errors.Is(err, fs.ErrExist) || s.blocked(dir)):
			s.prune(dir)
			return nil, fmt.Errorf("filestore: create %s: %w", key, err)
		case ctx.Err() != nil:
			return nil, fmt.Errorf("filestore: create %s: %w", key, ctx.Err())
		}
	}
	return nil, fmt.Errorf("filestore: create %s: the directory %s vanishes again and again; was the store's directory removed?", key, dir)
}

// blocked tells whether dir can't be a directory, because it or one above it is something else.
func (s *Store) blocked(dir string) bool {
	for ; dir != "."; dir = path.Dir(dir) {
		if fi, err := s.root.Lstat(dir); err == nil && !fi.IsDir() {
			return true
		}
	}
	return false
}

// A writer writes a temporary file and gives it its name in the end.
type writer struct {
	ctx       context.Context
	s         *Store
	key       string
	exclusive bool
	tmp       string // name of the temporary file
	file      *os.File
	size      int64
	started   int64 // bytes whose way to the disk was started early
	err       error // of a Write that failed: the file can't be committed any more
	done      error // what the methods return once the writer has ended
}

var errCommitted = errors.New("the writer was committed before")

func (w *writer) Write(p []byte) (int, error) {
	if w.done != nil {
		return 0, fmt.Errorf("filestore: write %s: %w", w.key, w.done)
	}
	written := 0
	for w.err == nil {
		if w.err = w.ctx.Err(); w.err != nil {
			break
		}
		n, err := w.file.Write(p[written:min(len(p), written+maxIO)])
		written += n
		w.size += int64(n)
		w.err = err
		if err == nil && written == len(p) {
			w.startWriteback()
			return written, nil
		}
	}
	return written, fmt.Errorf("filestore: write %s at byte %d: %w", w.key, w.size, w.err)
}

// startWriteback lets the kernel begin to write what is here, so that the sync in Commit has little left to wait for. In
// BenchmarkWrite, 300 MiB are on the disk in two thirds of the time that way.
func (w *writer) startWriteback() {
	const step = 8 << 20
	if n := w.size - w.started; n >= step {
		startWriteback(w.file, w.started, n)
		w.started = w.size
	}
}

func (w *writer) Commit(ctx context.Context) (storage.Info, error) {
	if w.done != nil {
		return storage.Info{}, fmt.Errorf("filestore: commit %s: %w", w.key, w.done)
	}
	w.done = storage.ErrAborted
	info, err := w.store(ctx)
	if err != nil {
		return storage.Info{}, fmt.Errorf("filestore: commit %s: nothing was stored: %w", w.key, err)
	}
	w.done = errCommitted
	dir := path.Dir(w.key)
	if _, err := w.s.wait(ctx, func() error { return w.s.syncDirs(dir) }, nil); err != nil {
		return storage.Info{}, fmt.Errorf("filestore: commit %s: the object is visible, but may not survive a crash of the machine: %w", w.key, err)
	}
	return info, nil
}

// store makes the object visible; if it returns an error, it is not and won't be.
func (w *writer) store(ctx context.Context) (storage.Info, error) {
	if err := cmp.Or(w.err, w.ctx.Err(), ctx.Err()); err != nil {
		w.drop()
		return storage.Info{}, err
	}
	var fi fs.FileInfo
	finished, err := w.s.wait(ctx, func() (err error) {
		// The object's time is that of its commit, not that of the last write.
		now := clock.System()
		if err = w.s.root.Chtimes(w.tmp, now, now); err == nil {
			err = w.file.Sync()
		}
		if err == nil {
			fi, err = w.file.Stat()
		}
		return err
	}, func() { w.drop() })
	if !finished {
		return storage.Info{}, err
	}
	// Closed before it is named: Windows wants it so, and an error that a file system tells only now still counts.
	err = cmp.Or(err, w.file.Close(), w.ctx.Err(), ctx.Err())
	w.file = nil
	if err == nil {
		err = w.publish(fi)
	}
	if err != nil {
		w.drop()
		return storage.Info{}, err
	}
	return storage.Info{Key: w.key, Size: fi.Size(), ModTime: fi.ModTime()}, nil
}

// publish gives the temporary file, which is fi, the object's name. Afterwards the temporary name is gone.
func (w *writer) publish(fi fs.FileInfo) error {
	err := w.rename(fi)
	if err == nil {
		return nil
	}
	there, statErr := w.s.root.Lstat(w.key)
	if statErr == nil && there.IsDir() {
		// It may be one that a crash has left empty.
		if w.s.root.Remove(w.key+"/") == nil {
			return w.rename(fi)
		}
		return fmt.Errorf("there are objects whose keys begin with %s/, and a file system can't have both: %w", w.key, err)
	}
	if _, statErr := w.s.root.Lstat(w.tmp); errors.Is(statErr, fs.ErrNotExist) {
		return fmt.Errorf("the temporary file is gone; was it swept while its writer was at work? %w", err)
	}
	return err
}

func (w *writer) rename(fi fs.FileInfo) error {
	if !w.exclusive {
		return w.s.root.Rename(w.tmp, w.key)
	}
	err := w.s.root.Link(w.tmp, w.key)
	if errors.Is(err, fs.ErrExist) {
		there, statErr := w.s.root.Lstat(w.key)
		switch {
		case statErr == nil && os.SameFile(there, fi):
			err = nil // our own link, whose answer was lost on the way: network file systems do that
		case statErr == nil && there.IsDir():
		default:
			return storage.ErrExists
		}
	}
	if err != nil {
		return fmt.Errorf("%w (an exclusive create needs a file system with hard links)", err)
	}
	// The object is there, so this can't fail the commit; a second name that stays is for the sweep.
	w.s.root.Remove(w.tmp)
	return nil
}

func (w *writer) Abort() error {
	if w.done != nil {
		return nil
	}
	w.done = storage.ErrAborted
	if err := w.drop(); err != nil {
		return fmt.Errorf("filestore: abort %s: the temporary file stays until it is swept: %w", w.key, err)
	}
	return nil
}

// drop closes and removes the temporary file.
func (w *writer) drop() error {
	if w.file != nil {
		w.file.Close() // of no interest: nobody will read it
		w.file = nil
	}
	err := w.s.root.Remove(w.tmp)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	w.s.prune(path.Dir(w.key))
	return err
}
