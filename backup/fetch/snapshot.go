package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/rdb/dfs"
)

// snapshot is a file, or a set, that is there and looks right.
type snapshot struct {
	from   *Snapshotter
	ctx    context.Context
	cancel context.CancelCauseFunc
	left   atomic.Int64 // of MaxBytes

	mu    sync.Mutex
	parts []*part
}

type part struct {
	o      *object
	id     identity
	ready  *download // opened already; nil: Open does it
	opened bool
}

// Source tells where the snapshot was fetched from.
func (sn *snapshot) Source() catalog.Source {
	return catalog.Source{Method: "fetch", Address: shown(sn.from.main.url)}
}

// Parts lists the file, or the summary and the shards of the set.
func (sn *snapshot) Parts() []backup.Part {
	var all []backup.Part
	for _, p := range sn.parts {
		all = append(all, backup.Part{Name: p.o.name, Size: p.id.size})
	}
	return all
}

// Open opens a part, which has to be still what it was when the snapshot was taken.
func (sn *snapshot) Open(ctx context.Context, want backup.Part) (io.ReadCloser, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, &Error{URL: shown(sn.from.main.url), Err: err}
	}
	p, err := sn.take(want.Name)
	if err != nil {
		return nil, fmt.Errorf("fetch: %w", err)
	}
	if d := p.ready; d != nil {
		d.follow(ctx)
		return d, nil
	}
	d, err := p.o.open(sn.ctx, ctx, &sn.left, &p.id)
	if err != nil {
		return nil, err // not d, which would be a reader that is nil
	}
	return d, nil
}

// take marks a part as opened.
func (sn *snapshot) take(name string) (*part, error) {
	sn.mu.Lock()
	defer sn.mu.Unlock()
	if sn.ctx.Err() != nil {
		return nil, errors.New("the snapshot is closed")
	}
	for _, p := range sn.parts {
		if p.o.name != name {
			continue
		}
		if p.opened {
			return nil, fmt.Errorf("part %s was opened already", name)
		}
		p.opened = true
		return p, nil
	}
	return nil, fmt.Errorf("the snapshot has no part %.40q", name)
}

// Close ends every transfer.
func (sn *snapshot) Close() error {
	sn.cancel(errClosed)
	return nil
}

// peekSize is enough for the first facts of a snapshot.
const peekSize = 512

// openFile opens an RDB file.
func (sn *snapshot) openFile(ctx context.Context) error {
	o := sn.from.main
	d, err := o.open(sn.ctx, ctx, &sn.left, nil)
	if err != nil {
		return err
	}
	head, err := d.peek(peekSize)
	if err == nil {
		err = d.looksRight(head)
	}
	if !d.letGo() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	sn.parts = []*part{{o: o, id: d.id, ready: d}}
	return nil
}

// looksRight refuses what often lies at a URL instead of an RDB file, with what to do.
func (d *download) looksRight(head []byte) error {
	starts := func(with string) bool { return bytes.HasPrefix(head, []byte(with)) }
	no := func(hint, format string, args ...any) error { return d.fail(ErrNotSnapshot, hint, format, args...) }
	switch text := bytes.TrimLeft(head, "\ufeff \t\r\n"); {
	case len(head) == 0:
		return no("", "it is empty")
	case bytes.HasPrefix(text, []byte("<")):
		return no("the URL may be that of a page about the file, or of a login: use the one that downloads the file itself", "it begins like a web page")
	case starts("\x1f\x8b"), starts("\x28\xb5\x2f\xfd"), starts("PK\x03\x04"), starts("BZh"), starts("\xfd7zXZ"):
		return no("unpack it and give the URL of the file inside", "it is compressed")
	case !starts("REDIS") && !starts("VALKEY"):
		return no("the URL has to be that of an RDB file, or of the summary of a DFS set", "it doesn't begin as one")
	}
	for e, err := range rdb.NewReader(bytes.NewReader(head), nil).Entries() {
		if err != nil || e.Kind != rdb.KindAux {
			return nil // the rest is for the pipeline to judge
		}
		if string(e.Key) == "snapshot-id" {
			return no("give the URL of the set's summary, which ends in -summary.dfs, or the shards' URLs in Config.More", "it is one file of a DFS set")
		}
	}
	return nil
}

// openSet finds the files of a DFS set and holds them against its summary.
func (sn *snapshot) openSet(ctx context.Context) error {
	r := &remote{ctx: ctx, sn: sn, objects: make(map[string]*object), seen: make(map[string]identity)}
	main := sn.from.main
	r.add(main)
	if sn.from.more == nil {
		if err := r.siblings(main); err != nil {
			return err
		}
	}
	for _, o := range sn.from.more {
		r.add(o)
	}
	set, err := dfs.Open(r, main.name)
	if err != nil && r.missing != "" {
		return &dfs.SetError{Summary: main.name, Missing: []string{r.missing}}
	}
	if err != nil {
		return err
	}
	all := int64(0)
	for _, name := range append([]string{set.Summary}, set.Shards...) {
		p := &part{o: r.objects[name], id: r.seen[name]}
		if all += max(p.id.size, 0); all > sn.left.Load() {
			return (&download{o: main}).tooLarge()
		}
		sn.parts = append(sn.parts, p)
	}
	return nil
}

// remote shows the files of a set as a directory to package dfs.
type remote struct {
	ctx     context.Context
	sn      *snapshot
	names   []string
	objects map[string]*object
	seen    map[string]identity
	missing string // a shard that is not there
}

func (r *remote) add(o *object) {
	r.names = append(r.names, o.name)
	r.objects[o.name] = o
}

// siblings adds as many shards as the summary counts, with URLs beside its own.
func (r *remote) siblings(summary *object) error {
	f, err := r.Open(summary.name)
	if err != nil {
		return err
	}
	defer f.Close()
	count := -1
	for e, err := range rdb.NewReader(f, nil).Entries() {
		if err != nil {
			return &Error{URL: shown(summary.url), Err: err}
		}
		if e.Kind == rdb.KindAux && string(e.Key) == "shard-count" {
			n, err := strconv.ParseUint(string(e.Value), 10, 16)
			if err != nil || n > 9999 {
				return &Error{URL: shown(summary.url), Err: fmt.Errorf("%w: shard-count is %.20q", rdb.ErrCorrupt, e.Value)}
			}
			count = int(n)
		}
	}
	if count < 0 {
		return &Error{URL: shown(summary.url), Err: fmt.Errorf("%w: the summary doesn't say how many shards there are, as that of Dragonfly before 1.32", dfs.ErrIncomplete),
			Hint: "give the URLs of all shards in Config.More"}
	}
	for i := range count {
		name := shardName(summary.name, i)
		u := *summary.url
		cut := func(p string) string { return p[:len(p)-len(summary.name)] + name }
		if u.RawPath != "" {
			u.RawPath = cut(u.RawPath)
		}
		u.Path = shardName(u.Path, i)
		r.add(r.sn.from.object(name, &u))
	}
	return nil
}

// Open opens a file of the set.
func (r *remote) Open(name string) (fs.File, error) {
	o := r.objects[name]
	if o == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	var known *identity
	if id, ok := r.seen[name]; ok {
		known = &id
	}
	var left atomic.Int64 // looking doesn't count; what comes later does
	left.Store(r.sn.from.cfg.MaxBytes)
	d, err := o.open(r.sn.ctx, r.ctx, &left, known)
	var e *Error
	if shard := o != r.sn.from.main; shard && errors.As(err, &e) {
		switch {
		case e.Status == http.StatusNotFound, e.Status == http.StatusGone:
			r.missing = name
		case e.Status == http.StatusForbidden && r.sn.from.more == nil:
			e.Hint = "the query that is signed for the summary may not be for the others: give the URLs of all shards in Config.More"
		}
	}
	if err != nil {
		return nil, err
	}
	r.seen[name] = d.id
	return file{d, info{name, d.id.size}}, nil
}

// ReadDir lists the files that the set should have.
func (r *remote) ReadDir(string) ([]fs.DirEntry, error) {
	var out []fs.DirEntry
	for _, name := range r.names {
		out = append(out, fs.FileInfoToDirEntry(info{name: name, size: -1}))
	}
	return out, nil
}

type file struct {
	*download
	info
}

func (f file) Stat() (fs.FileInfo, error) { return f.info, nil }

// info is what is known of a file.
type info struct {
	name string
	size int64
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) Mode() fs.FileMode  { return 0o444 }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool        { return false }
func (i info) Sys() any           { return nil }
