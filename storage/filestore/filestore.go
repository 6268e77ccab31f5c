// Package filestore keeps objects as files in a directory.
//
// The object "orders/20261123T221700.123Z-k7f3/manifest.json" is the file of that name below the store's directory,
// readable by every tool. Files that this package didn't make don't disturb it: what has a name that is no valid key, and
// what is not a regular file, is never listed and never touched. Backups are secrets: files are made with mode 0600
// and directories with 0700, unless Options say otherwise.
//
// # What a commit promises
//
// An object is written to a temporary file beside its place, whose name begins with a dot. Commit brings the file to
// the disk (fsync), gives it its name in one step (link for an exclusive create, rename otherwise), and brings
// the directory and all those above it to the disk. When Commit has returned nil the object survives a crash of the
// machine as far as the disk keeps what it confirmed. After a crash at any other moment the object is there as a
// whole or not at all; a temporary file may be left, which SweepUnfinished removes. Delete is durable in the same way.
//
// # What the file system must do
//
// The directory has to be on a file system with hard links, atomic link and rename, and fsync that also takes
// directories: ext4, XFS, Btrfs, ZFS, tmpfs (without durability) and APFS are such. FAT and exFAT have no hard links, so an exclusive
// create fails there. Several processes of one machine can use a directory at once. Several machines can't be
// promised to: NFS keeps the exclusive create but caches names and attributes, so that a committed object may
// be seen late. A file system that ignores case, or that changes the form of Unicode names, makes one object of
// keys that differ in nothing else.
//
// A directory can't have the name of a file: while there is an object "a" there can be none called "a/b", and Create or
// Commit of the second one fails.
//
// The package is tested on Linux. It builds on the other systems that Go knows; on Windows directories can't be
// synced, and an object can't be replaced or deleted while it is being read.
package filestore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/amberkv/amber/storage"
)

// A Store is a storage.Store in a directory, and a storage.Sweeper. It is safe for use by several goroutines, and a
// directory by several Stores in any number of processes. Make one with New and Close it in the end.
type Store struct {
	root *os.Root // holds keys below the directory, whatever symbolic links there are
	opts Options

	late sync.WaitGroup // work whose caller was cancelled and has returned
}

// Options are the choices of New.
type Options struct {
	// FileMode and DirMode are the permissions that objects and directories are created with, of which the process's
	// umask takes its part as usual. Zero means 0600 and 0700. What exists already keeps its mode.
	FileMode, DirMode fs.FileMode
}

// New opens the store in a directory, which it creates, with those above it, if it is missing. A nil opts means the
// defaults. It doesn't write anything else, so that a directory that can only be read can be opened.
func New(dir string, opts *Options) (*Store, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	if o.FileMode == 0 {
		o.FileMode = 0o600
	}
	if o.DirMode == 0 {
		o.DirMode = 0o700
	}
	if (o.FileMode|o.DirMode)&^fs.ModePerm != 0 {
		return nil, fmt.Errorf("filestore: Options.FileMode %v and DirMode %v may have permission bits only", o.FileMode, o.DirMode)
	}
	if dir == "" {
		return nil, errors.New("filestore: the name of the directory is empty")
	}
	if err := makeRoot(dir, o.DirMode); err != nil {
		return nil, fmt.Errorf("filestore: creating the directory: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("filestore: opening the directory: %w", err)
	}
	return &Store{root: root, opts: o}, nil
}

// makeRoot creates dir and what is missing above it, durably.
func makeRoot(dir string, mode fs.FileMode) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	existing := dir
	for {
		if _, err := os.Stat(existing); err == nil {
			break
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		existing = filepath.Dir(existing)
	}
	if err := os.MkdirAll(dir, mode); err != nil {
		return err
	}
	for ; dir != existing; dir = filepath.Dir(dir) {
		parent, err := os.Open(filepath.Dir(dir))
		if err != nil {
			return err
		}
		if err := errors.Join(syncDir(parent), parent.Close()); err != nil {
			return err
		}
	}
	return nil
}

// Close waits for work that went on after its caller was cancelled, and lets go of the directory. Call it when
// nothing uses the store any more.
func (s *Store) Close() error {
	s.late.Wait()
	return s.root.Close()
}

// Open reads a range of an object, as storage.Store says. The reader keeps the version it was opened on, also
// when the object is replaced or deleted meanwhile.
func (s *Store) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if err := check(ctx, "open", key); err != nil {
		return nil, err
	}
	if off < 0 {
		return nil, fmt.Errorf("filestore: open %s: the offset %d is negative", key, off)
	}
	// The look before opening keeps us from waiting for ever on somebody's named pipe.
	if _, err := s.lstat(key); err != nil {
		return nil, fmt.Errorf("filestore: open %s: %w", key, err)
	}
	f, err := s.root.Open(key)
	if err != nil {
		return nil, fmt.Errorf("filestore: open %s: %w", key, notFound(err))
	}
	fi, err := f.Stat()
	if err == nil {
		_, err = f.Seek(off, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("filestore: open %s: %w", key, err)
	}
	return &reader{ctx: ctx, f: f, left: n, version: storage.Info{Key: key, Size: fi.Size(), ModTime: fi.ModTime()}}, nil
}

// Stat tells size and time of an object, as storage.Store says.
func (s *Store) Stat(ctx context.Context, key string) (storage.Info, error) {
	if err := check(ctx, "stat", key); err != nil {
		return storage.Info{}, err
	}
	fi, err := s.lstat(key)
	if err != nil {
		return storage.Info{}, fmt.Errorf("filestore: stat %s: %w", key, err)
	}
	return storage.Info{Key: key, Size: fi.Size(), ModTime: fi.ModTime()}, nil
}

// Delete removes an object, as storage.Store says, and the directories that it leaves empty.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := check(ctx, "delete", key); err != nil {
		return err
	}
	if _, err := s.lstat(key); err != nil {
		return fmt.Errorf("filestore: delete %s: %w", key, err)
	}
	if err := s.root.Remove(key); err != nil {
		return fmt.Errorf("filestore: delete %s: %w", key, notFound(err))
	}
	dir := s.prune(path.Dir(key))
	if _, err := s.wait(ctx, func() error { return s.syncDirs(dir) }, nil); err != nil {
		return fmt.Errorf("filestore: delete %s: it was deleted, but a crash may bring it back: %w", key, err)
	}
	return nil
}

// lstat looks at an object. Whatever else has its name, a directory or a symbolic link, is not found.
func (s *Store) lstat(key string) (fs.FileInfo, error) {
	fi, err := s.root.Lstat(key)
	if err != nil {
		return nil, notFound(err)
	}
	if !fi.Mode().IsRegular() {
		return nil, storage.ErrNotFound
	}
	return fi, nil
}

// notFound makes storage.ErrNotFound of an error that says that there is no such file.
func notFound(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return storage.ErrNotFound
	}
	return err
}

// prune removes dir and the directories above it as long as they are empty, and returns the first that stays. A
// Create that is about to use one of them makes it again.
func (s *Store) prune(dir string) string {
	for dir != "." {
		// With the slash only a directory is removed, not an object that has got the name by now.
		if err := s.root.Remove(dir + "/"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			break
		}
		dir = path.Dir(dir)
	}
	return dir
}

// syncDirs brings the entries of dir, and of all directories from the root down to it, to the disk. Those above are
// synced every time, since only the kernel knows whether whoever created them, maybe another process, has done it.
func (s *Store) syncDirs(dir string) error {
	for {
		f, err := s.root.Open(dir)
		switch {
		case err == nil:
			if err := errors.Join(syncDir(f), f.Close()); err != nil {
				return err
			}
		case !errors.Is(err, fs.ErrNotExist): // a Delete may have pruned it
			return err
		}
		if dir == "." {
			return nil
		}
		dir = path.Dir(dir)
	}
}

// wait runs f and returns its error. A sync can't be interrupted: when ctx ends first, wait returns ctx's error at once, and
// f goes on under the care of Close; finished tells the one from the other. Then late is called after f, unless it is nil.
func (s *Store) wait(ctx context.Context, f func() error, late func()) (finished bool, err error) {
	done := make(chan error, 1)
	s.late.Go(func() { done <- f() })
	select {
	case err := <-done:
		return true, err
	case <-ctx.Done():
		if late != nil {
			s.late.Go(func() { <-done; late() })
		}
		return false, ctx.Err()
	}
}

// check returns the error that an operation on key ends with before it begins.
func check(ctx context.Context, op, key string) error {
	if err := storage.ValidKey(key); err != nil {
		return fmt.Errorf("filestore: %s: %w", op, err)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("filestore: %s %s: %w", op, key, err)
	}
	return nil
}

// maxIO bounds one system call, so that a cancelled context is seen soon.
const maxIO = 1 << 20

// A reader reads one version of an object; left is what it may still give, or negative for all there is.
type reader struct {
	ctx     context.Context
	f       *os.File
	version storage.Info
	left    int64
}

// Version tells which version is read, as storage.Versioned says.
func (r *reader) Version() storage.Info { return r.version }

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, fmt.Errorf("filestore: read %s: %w", r.version.Key, err)
	}
	p = p[:min(len(p), maxIO)]
	if r.left >= 0 {
		p = p[:min(int64(len(p)), r.left)]
		if r.left == 0 {
			return 0, io.EOF
		}
	}
	n, err := r.f.Read(p)
	if r.left >= 0 {
		r.left -= int64(n)
	}
	if err != nil && err != io.EOF {
		err = fmt.Errorf("filestore: read %s: %w", r.version.Key, err)
	}
	return n, err
}

func (r *reader) Close() error { return r.f.Close() }
