package filestore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/storage"
)

// List gives the objects under a prefix, as storage.Store says. It reads one directory after the other and holds the
// names of those on the way to the current one. A symbolic link is not followed.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		dir := "."
		if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
			dir = prefix[:i]
			if storage.ValidKey(dir) != nil {
				dir = "" // no key can begin like this
			}
		}
		err := ctx.Err()
		if err == nil && dir != "" {
			// Opening something else than a directory could wait for ever.
			var fi fs.FileInfo
			fi, err = s.root.Lstat(dir)
			switch {
			case err == nil && fi.IsDir():
				_, err = s.list(ctx, dir, prefix, yield)
			case notFound(err) == storage.ErrNotFound:
				err = nil
			}
		}
		if err != nil {
			yield(storage.Info{}, fmt.Errorf("filestore: list %q: %w", prefix, err))
		}
	}
}

// list yields the objects in and below dir that begin with prefix; false means that yield has had enough.
func (s *Store) list(ctx context.Context, dir, prefix string, yield func(storage.Info, error) bool) (bool, error) {
	base := ""
	if dir != "." {
		base = dir + "/"
	}
	// Some file systems, such as tmpfs, move an entry that is replaced, so that one pass over a directory may miss it or meet
	// it twice. Passes are added up until there was one in which nothing changed, or chance is as good as excluded.
	var names []string // of files; of directories with a slash
	for range 5 {
		calm, err := s.readDir(ctx, dir, func(e fs.DirEntry) error {
			name := e.Name()
			if storage.ValidKey(base+name) != nil {
				return nil
			}
			switch {
			case e.IsDir() && (strings.HasPrefix(base+name+"/", prefix) || strings.HasPrefix(prefix, base+name+"/")):
				names = append(names, name+"/")
			case e.Type().IsRegular() && strings.HasPrefix(base+name, prefix):
				names = append(names, name)
			}
			return nil
		})
		if err != nil {
			return false, err
		}
		// Keys come in byte order, in which "a-b" and "a.b" are before "a/b", but "a0" after it: sorting a
		// directory with its slash gives just that.
		slices.Sort(names)
		names = slices.Compact(names)
		if calm {
			break
		}
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		if sub, isDir := strings.CutSuffix(name, "/"); isDir {
			if more, err := s.list(ctx, base+sub, prefix, yield); !more {
				return false, err
			}
			continue
		}
		fi, err := s.lstat(base + name)
		if errors.Is(err, storage.ErrNotFound) {
			continue // deleted meanwhile
		}
		if err != nil {
			return false, err
		}
		if !yield(storage.Info{Key: base + name, Size: fi.Size(), ModTime: fi.ModTime()}, nil) {
			return false, nil
		}
	}
	return true, ctx.Err()
}

// readDir calls f for the entries of a directory, in no order, and says whether nothing has changed in it meanwhile. A
// directory that is gone has no entries.
func (s *Store) readDir(ctx context.Context, dir string, f func(fs.DirEntry) error) (calm bool, err error) {
	d, err := s.root.Open(dir)
	if err != nil {
		if notFound(err) == storage.ErrNotFound {
			return true, nil
		}
		return false, err
	}
	defer d.Close()
	before, err := d.Stat()
	if err != nil {
		return false, err
	}
	began := clock.System()
	for {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		entries, err := d.ReadDir(1024)
		for _, e := range entries {
			if err := f(e); err != nil {
				return false, err
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			if notFound(err) == storage.ErrNotFound { // it was removed while we read it
				return true, nil
			}
			return false, err
		}
	}
	after, err := d.Stat()
	if err != nil {
		return false, err
	}
	// Times of files tick as slowly as every 10 ms, so one that is quite new proves nothing.
	const tick = 100 * time.Millisecond
	return before.ModTime().Equal(after.ModTime()) && began.Sub(before.ModTime()) > tick, nil
}

// SweepUnfinished removes the temporary files that were not written to since before, as storage.Sweeper says, and
// the directories that it leaves or finds empty.
func (s *Store) SweepUnfinished(ctx context.Context, before time.Time) (objects int, bytes int64, err error) {
	err = s.sweep(ctx, ".", before, &objects, &bytes)
	if err != nil {
		err = fmt.Errorf("filestore: sweep: %w", err)
	}
	return objects, bytes, err
}

func (s *Store) sweep(ctx context.Context, dir string, before time.Time, objects *int, bytes *int64) error {
	var dirs []string
	left := 0
	_, err := s.readDir(ctx, dir, func(e fs.DirEntry) error {
		name := path.Join(dir, e.Name())
		left++
		if e.IsDir() && storage.ValidKey(name) == nil {
			dirs = append(dirs, name)
		}
		if !e.Type().IsRegular() || !isTemporary(e.Name()) {
			return nil
		}
		fi, err := s.root.Lstat(name)
		if err == nil && fi.ModTime().Before(before) {
			if err = s.root.Remove(name); err == nil {
				left--
				*objects++
				*bytes += fi.Size()
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // its writer has ended, or another sweep was quicker
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, sub := range dirs {
		if err := s.sweep(ctx, sub, before, objects, bytes); err != nil {
			return err
		}
	}
	if left == 0 {
		s.prune(dir)
	}
	return nil
}
