package dumpfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/storage"
)

// What the names of files end in.
const (
	temporary     = ".tmp" // while Dragonfly writes them
	summarySuffix = "-summary.dfs"
)

// summaryOf returns the name of the summary of a set that a file may be of.
func summaryOf(name string) string {
	name = strings.TrimSuffix(name, ".dfs")
	if i := strings.LastIndexByte(name, '-'); i >= 0 && strings.Trim(name[i+1:], "0123456789") == "" {
		name = name[:i]
	}
	return name + summarySuffix
}

// files are those of a store whose keys begin like that of a dump, as an fs.FS that lasts as long as a context. It remembers how each
// of them was when it was seen first.
type files struct {
	ctx    context.Context
	store  storage.Store
	prefix string // of what ReadDir lists
	seen   map[string]storage.Info
}

func newFiles(ctx context.Context, s storage.Store, name string) *files {
	return &files{ctx: ctx, store: s, prefix: strings.TrimSuffix(name, "summary.dfs"), seen: map[string]storage.Info{}}
}

// look tells how an object was when it was seen first.
func (f *files) look(key string) (storage.Info, error) {
	if info, ok := f.seen[key]; ok {
		return info, nil
	}
	info, err := f.store.Stat(f.ctx, key)
	if err == nil {
		f.seen[key] = info
	}
	return info, err
}

// Open opens an object.
func (f *files) Open(name string) (fs.File, error) {
	info, err := f.look(name)
	if err == nil {
		var r io.ReadCloser
		if r, err = f.store.Open(f.ctx, name, 0, -1); err == nil {
			return &file{ReadCloser: r, info: info}, nil
		}
	}
	if errors.Is(err, storage.ErrNotFound) {
		err = fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: err}
}

// ReadDir lists the objects right below a directory that begin like the dump.
func (f *files) ReadDir(name string) (out []fs.DirEntry, err error) {
	for info, err := range f.store.List(f.ctx, f.prefix) {
		if err != nil {
			return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
		}
		if path.Dir(info.Key) == name {
			if _, ok := f.seen[info.Key]; !ok {
				f.seen[info.Key] = info
			}
			out = append(out, fs.FileInfoToDirEntry(fileInfo{info}))
		}
	}
	return out, nil
}

// head reads what an object says about itself.
func (f *files) head(key string) (head, error) {
	if _, err := f.look(key); err != nil {
		return head{}, err
	}
	r, err := f.store.Open(f.ctx, key, 0, -1)
	if err != nil {
		return head{}, err
	}
	defer r.Close()
	h, _, err := readHead(r)
	return h, err
}

type file struct {
	io.ReadCloser
	info storage.Info
}

func (f *file) Stat() (fs.FileInfo, error) { return fileInfo{f.info}, nil }

// fileInfo is an object's Info as that of a file.
type fileInfo struct{ storage.Info }

func (i fileInfo) Name() string       { return path.Base(i.Info.Key) }
func (i fileInfo) Size() int64        { return i.Info.Size }
func (i fileInfo) Mode() fs.FileMode  { return 0o400 }
func (i fileInfo) ModTime() time.Time { return i.Info.ModTime }
func (i fileInfo) IsDir() bool        { return false }
func (i fileInfo) Sys() any           { return nil }

// A head is what a file says about itself before its first key.
type head struct {
	dialect rdb.Dialect // the zero one: it isn't an RDB file, or is of a version that isn't known
	engine  string      // "redis", "valkey", "dragonfly"; empty if it doesn't tell
	version string
	time    time.Time // when it was written
	id      string    // of the DFS set that it belongs to
	shard   bool      // it says which shard it holds, or how many there are
	replID  string    // of the replication that it is a moment of, if the server replicates
	replOff int64     // and how far that was
	err     error     // why no more could be read
}

// ofSet tells whether the file is one of a DFS set.
func (h *head) ofSet() bool { return h.id != "" || h.shard }

// hasChecksum tells whether the stream can end in a checksum. Dragonfly's have none, and may have anything behind their end.
func (h *head) hasChecksum() bool {
	return h.err == nil && (h.dialect.Family == rdb.Valkey || h.dialect.Family == rdb.Redis && h.dialect.Version >= 5)
}

// maxHead is how many bytes of a file are read for its head.
const maxHead = 256 << 10

// readHead reads what a file says about itself, and returns the bytes that it has read for that. The error is one of reading; what
// isn't an RDB stream is for those who read on to find out.
func readHead(in io.Reader) (h head, begin []byte, err error) {
	var read bytes.Buffer
	src := &watched{r: io.LimitReader(in, maxHead)}
	r := rdb.NewReader(io.TeeReader(src, &read), nil)
	for {
		e, err := r.Next()
		h.dialect = r.Dialect()
		if err == io.EOF {
			break
		}
		if err != nil {
			h.err = err
			break
		}
		if e.Kind != rdb.KindAux {
			break
		}
		h.tell(string(e.Key), string(e.Value[:min(len(e.Value), 100)]))
	}
	if read.Len() >= maxHead {
		h.err = nil // it has much to say, and that was cut here
	}
	return h, read.Bytes(), src.err
}

func (h *head) tell(key, value string) {
	engine := ""
	switch key {
	case "redis-ver":
		engine = "redis"
	case "valkey-ver":
		engine = "valkey"
	case "df-ver":
		engine = "dragonfly"
		value, _, _ = strings.Cut(strings.TrimPrefix(value, "df-v"), "-")
	case "snapshot-id":
		h.id = value
	case "shard-id", "shard-count":
		h.shard = true
	case "repl-id":
		if len(value) == 40 && strings.Trim(value, "0123456789abcdef") == "" {
			h.replID = value
		}
	case "repl-offset":
		if n, err := strconv.ParseInt(value, 10, 64); err == nil && n >= 0 {
			h.replOff = n
		}
	case "ctime":
		if n, err := strconv.ParseInt(value, 10, 64); err == nil && n > 0 && n < 1<<36 {
			h.time = time.Unix(n, 0).UTC()
		}
	}
	// Dragonfly says that it is a Redis, too.
	if engine == "" || h.engine != "" && h.engine != "redis" {
		return
	}
	h.engine, h.version = engine, value
	if strings.Trim(value, "0123456789.") != "" {
		h.version = ""
	}
}

// watched knows an error of a reader.
type watched struct {
	r   io.Reader
	err error // other than io.EOF
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if err != nil && err != io.EOF {
		w.err = err
	}
	return n, err
}
