package dumpfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/rdb/dfs"
	"github.com/amberkv/amber/restore"
)

// A backup may be a set itself: it was read from files of one, or from the flows of a live Dragonfly, which are one with a summary. A set of as many shards gets these
// very bytes. What Dragonfly executed while they were written stays in them, and it executes that when it loads them.

// defaultShards is how many shards a set has if nobody says.
const defaultShards = 4

// maxShards is how many it may have.
const maxShards = 1024

// own returns the files of the backup's own set, shards first, if that can be written as it is; else nil.
func (l *Loader) own(b *catalog.Backup) []catalog.Part {
	files := b.SetFiles()
	if n := len(files) - 1; !l.cfg.Set || n < 1 || n > maxShards || l.cfg.Shards != 0 && l.cfg.Shards != n {
		return nil
	}
	return files
}

// shards returns how many shards are written.
func (l *Loader) shards(own []catalog.Part) int {
	switch {
	case l.cfg.Shards > 0:
		return l.cfg.Shards
	case own != nil:
		return len(own) - 1
	}
	return defaultShards
}

// copies writes the files of the backup's own set as they are, and counts what is in them.
func (w *files) copies(told *teller, src restore.Source, own []catalog.Part) error {
	if err := wholeSet(w.ctx, src, own); err != nil {
		return err
	}
	var all catalog.Contents
	for i, p := range own {
		found, err := w.copy(told, src, p, w.keys[i])
		if err != nil {
			return fmt.Errorf("part %s: %w", p.Name, err)
		}
		all.Add(found)
	}
	return differs(all, src.Backup())
}

func (w *files) copy(told *teller, src restore.Source, p catalog.Part, key string) (catalog.Contents, error) {
	to, err := w.create(key, p.RawSize)
	if err != nil {
		return catalog.Contents{}, err
	}
	in, err := src.Open(w.ctx, p)
	if err != nil {
		return catalog.Contents{}, err
	}
	defer in.Close()
	told.in = in
	return catalog.Inspect(io.TeeReader(told, to), nil)
}

// wholeSet looks at how the files begin: whether they say that they are one set, in this order. Dragonfly doesn't, and would load too few.
func wholeSet(ctx context.Context, src restore.Source, own []catalog.Part) error {
	const name = "set"
	dir := &parts{ctx: ctx, src: src, names: dfs.Names(name, len(own)-1), files: own}
	_, err := dfs.Open(dir, dir.names[len(own)-1])
	if errors.Is(err, dfs.ErrIncomplete) {
		return fmt.Errorf("%w: the backup's files are not one set: %w; with another number of shards a new one is made of its keys", restore.ErrRefused, err)
	}
	return err
}

// parts shows parts of a backup as a directory to package dfs.
type parts struct {
	ctx   context.Context
	src   restore.Source
	names []string
	files []catalog.Part
}

func (d *parts) Open(name string) (fs.File, error) {
	for i, n := range d.names {
		if n == name {
			in, err := d.src.Open(d.ctx, d.files[i])
			if err != nil {
				return nil, fmt.Errorf("opening part %s: %w", d.files[i].Name, err)
			}
			return &partFile{in, partInfo{name, d.files[i].RawSize}}, nil
		}
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

func (d *parts) ReadDir(name string) (list []fs.DirEntry, err error) {
	for i, n := range d.names {
		if path.Dir(n) == name {
			list = append(list, fs.FileInfoToDirEntry(partInfo{n, d.files[i].RawSize}))
		}
	}
	return list, nil
}

type partFile struct {
	io.ReadCloser
	info partInfo
}

func (f *partFile) Stat() (fs.FileInfo, error) { return f.info, nil }

type partInfo struct {
	name string
	size int64
}

func (i partInfo) Name() string       { return i.name }
func (i partInfo) Size() int64        { return i.size }
func (i partInfo) Mode() fs.FileMode  { return 0o400 }
func (i partInfo) ModTime() time.Time { return time.Time{} }
func (i partInfo) IsDir() bool        { return false }
func (i partInfo) Sys() any           { return nil }
