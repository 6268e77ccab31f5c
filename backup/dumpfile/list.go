package dumpfile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/rdb/aof"
	"github.com/amberkv/amber/rdb/dfs"
	"github.com/amberkv/amber/storage"
)

// A Kind says what a dump is.
type Kind string

// The kinds of dumps.
const (
	RDB        Kind = "rdb"        // one file
	DFS        Kind = "dfs"        // a set of Dragonfly's: a summary and its shards
	AOF        Kind = "aof"        // append-only files: a manifest and the files that it names, or a single file
	AOFBase    Kind = "aof-base"   // beside no manifest, the RDB file that a Redis or Valkey begins its append-only files with
	Unfinished Kind = "unfinished" // what a server is writing, or was writing when it was killed
)

// A Dump is something that a server wrote, as its names, sizes and beginnings tell. Only taking a snapshot of it proves it.
type Dump struct {
	Kind    Kind      `json:"kind"`
	Name    string    `json:"name"` // the key of the file; of a set, that of its summary, or of its manifest
	Time    time.Time `json:"time"` // when its last file was written, by the store's clock
	Size    int64     `json:"size"` // of all its files, in bytes
	Files   []string  `json:"files"`
	Engine  string    `json:"engine,omitempty"` // that wrote it: "redis", "valkey" or "dragonfly"; empty if it doesn't tell
	Version string    `json:"version,omitempty"`
	Dialect string    `json:"dialect,omitempty"` // such as "redis:12"

	// Complete: nothing speaks against it; else Problem says what does. Notes say what else is to be known.
	Complete bool     `json:"complete"`
	Problem  string   `json:"problem,omitempty"`
	Notes    []string `json:"notes,omitempty"`

	// AtStart: a server with this directory loads it when it starts, whether it is complete or not.
	AtStart bool `json:"atStart"`
}

// ListOptions are the choices of List. The zero value means the defaults.
type ListOptions struct {
	// DBFilename is the server's setting of that name, by which it finds what it loads when it starts. Empty: the defaults of all
	// servers, dump.rdb and dump-{timestamp}; two dumps may be marked then.
	DBFilename string
	// Cloud says that the server itself writes to the bucket, as Dragonfly does with --dir s3://…: its rule is another there than
	// in a directory of its machine.
	Cloud bool
}

// looks is how many dumps are looked at side by side.
const looks = 8

// List returns the dumps whose keys begin with prefix, newest first: a directory's name with its slash, or "". What it marks as loaded
// when a server starts are files right in that directory. Backups of Amber's own aren't listed. Of each file the beginning is read, and
// the end of an RDB file, so that listing many takes as many requests; what is wrong with one of them is in its Problem.
//
// A Redis or Valkey with appendonly yes loads its append-only files instead, whatever is marked.
func List(ctx context.Context, s storage.Store, prefix string, opts *ListOptions) ([]Dump, error) {
	if opts == nil {
		opts = &ListOptions{}
	}
	found := &finder{dir: prefix[:strings.LastIndexByte(prefix, '/')+1], opts: opts, byName: map[string]*Dump{}}
	for info, err := range s.List(ctx, prefix) {
		if err != nil {
			return nil, fmt.Errorf("dumpfile: listing: %w", err)
		}
		if !catalog.Reserved(info.Key) {
			found.add(info)
		}
	}
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(looks)
	for _, d := range found.byName {
		group.Go(func() error { return d.look(gctx, s) })
	}
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("dumpfile: %w", err)
	}
	found.takeMembers()
	found.atStart()
	out := []Dump{}
	for _, d := range found.byName {
		d.Complete = d.Problem == ""
		slices.Sort(d.Files)
		out = append(out, *d)
	}
	slices.SortFunc(out, func(a, b Dump) int {
		return cmp.Or(b.Time.Compare(a.Time), cmp.Compare(b.Name, a.Name))
	})
	return out, nil
}

// finder puts files together.
type finder struct {
	dir    string
	opts   *ListOptions
	byName map[string]*Dump
	start  []dfs.File // right in the directory
}

var (
	shardFile = regexp.MustCompile(`^(.+)-[0-9]{4}\.dfs$`)
	aofFiles  = regexp.MustCompile(`\.[0-9]+\.(?:base|incr)\.aof$|^temp-`) // of a set, which is found by its manifest, or being written
	redisTemp = regexp.MustCompile(`^temp-(?:[0-9]+\.)?[0-9]+\.rdb$`)      // of a child of Redis, or of a replica that is being synchronized
)

// add takes a file down.
func (f *finder) add(info storage.Info) {
	dir, base := path.Split(info.Key)
	if dir == f.dir {
		f.start = append(f.start, dfs.File{Name: base, ModTime: info.ModTime})
	}
	switch shard := shardFile.FindStringSubmatch(base); {
	case strings.HasSuffix(base, ".dfs"+temporary), strings.HasSuffix(base, ".rdb"+temporary), redisTemp.MatchString(base):
		f.dump(Unfinished, info.Key, info)
	case dfs.IsSummary(base):
		f.dump(DFS, info.Key, info)
	case shard != nil:
		f.dump(DFS, dir+shard[1]+summarySuffix, info)
	case strings.HasSuffix(base, ".base.rdb"):
		f.dump(AOFBase, info.Key, info)
	case isManifest(base), strings.HasSuffix(base, ".aof") && !aofFiles.MatchString(base):
		f.dump(AOF, info.Key, info)
	case strings.HasSuffix(base, ".rdb"), dir == f.dir && base == f.opts.DBFilename:
		f.dump(RDB, info.Key, info)
	}
}

// dump adds a file to the dump of a name.
func (f *finder) dump(kind Kind, name string, info storage.Info) {
	d := f.byName[name]
	if d == nil {
		d = &Dump{Kind: kind, Name: name}
		f.byName[name] = d
	}
	d.Files = append(d.Files, info.Key)
	d.Size += info.Size
	if info.ModTime.After(d.Time) {
		d.Time = info.ModTime
	}
}

// atStart marks what a server would load.
func (f *finder) atStart() {
	names := []string{f.opts.DBFilename}
	if f.opts.DBFilename == "" {
		names = []string{"dump.rdb", dfs.DefaultName}
	}
	for _, name := range names {
		i := dfs.AtStart(name, f.start, f.opts.Cloud)
		if i < 0 {
			continue
		}
		if d := f.byName[f.dir+f.start[i].Name]; d != nil {
			d.AtStart = true
		}
	}
}

// takeMembers leaves out what is a member of append-only files that were found by their manifest.
func (f *finder) takeMembers() {
	for _, d := range f.byName {
		if d.Kind != AOF {
			continue
		}
		for _, key := range d.Files {
			if o := f.byName[key]; o != nil && o != d {
				delete(f.byName, key)
			}
		}
	}
}

// look finds out whether a dump is complete. The error is one of the store; a file that has gone meanwhile is none.
func (d *Dump) look(ctx context.Context, s storage.Store) error {
	var err error
	switch d.Kind {
	case Unfinished:
		d.Problem = "it is being written, or was left by a save that was killed"
		return nil
	case DFS:
		err = d.lookAtSet(ctx, s)
	case AOF:
		err = d.lookAtAOF(ctx, s)
	default:
		err = d.lookAtFile(ctx, s)
	}
	if errors.Is(err, storage.ErrNotFound) {
		d.Problem, err = "it was removed just now", nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", d.Name, err)
	}
	return nil
}

func (d *Dump) lookAtSet(ctx context.Context, s storage.Store) error {
	if !slices.Contains(d.Files, d.Name) {
		d.Problem = "its summary is missing: it is being written, or its save was killed"
		return nil
	}
	files := newFiles(ctx, s, d.Name)
	h, err := files.head(d.Name)
	if err != nil {
		return err
	}
	d.tell(&h)
	set, err := dfs.Open(files, d.Name)
	switch bad := (*dfs.SetError)(nil); {
	case errors.As(err, &bad):
		d.Problem = strings.TrimPrefix(err.Error(), "dfs: "+d.Name+": ")
		if len(bad.Foreign) > 0 {
			d.Problem += "; or it is being written just now"
		}
	case errors.Is(err, rdb.ErrCorrupt) || errors.Is(err, rdb.ErrUnsupported):
		d.Problem = strings.TrimPrefix(err.Error(), "dfs: ")
	case err != nil:
		return err
	default:
		if len(set.Stale) > 0 {
			d.Notes = append(d.Notes, "left out are files of an earlier save with more shards: "+strings.Join(set.Stale, ", "))
		}
		if !set.Counted {
			d.Notes = append(d.Notes, "its summary doesn't say how many shards there are: nobody can tell whether one is missing at the end")
		}
	}
	return nil
}

// lookAtAOF looks whether all members are there, and what the first says of itself.
func (d *Dump) lookAtAOF(ctx context.Context, s storage.Store) error {
	first := d.Name
	if isManifest(path.Base(d.Name)) {
		m, err := readManifest(ctx, s, d.Name)
		if errors.Is(err, aof.ErrCorrupt) {
			d.Problem = strings.TrimPrefix(err.Error(), path.Base(d.Name)+": aof: ")
			return nil
		}
		if err != nil {
			return err
		}
		first = ""
		for _, f := range m.Members() {
			key := path.Join(path.Dir(d.Name), f.Name)
			info, err := s.Stat(ctx, key)
			switch {
			case errors.Is(err, storage.ErrNotFound), errors.Is(err, storage.ErrInvalidKey):
				d.Problem = fmt.Sprintf("%s is missing, which its manifest names: or it is being rewritten just now", key)
				continue
			case err != nil:
				return err
			}
			if first == "" && info.Size > 0 {
				first = key
			}
			d.Files = append(d.Files, key)
			d.Size += info.Size
			if info.ModTime.After(d.Time) {
				d.Time = info.ModTime
			}
		}
		if first == "" || d.Problem != "" {
			return nil
		}
	}
	r, err := s.Open(ctx, first, 0, -1)
	if err != nil {
		return err
	}
	defer r.Close()
	h, begin, err := readHead(r)
	if err != nil {
		return err
	}
	d.tell(&h)
	if !h.ofRDB() {
		d.Dialect = catalog.DialectAOF
		if len(begin) > 0 && begin[0] != '*' && begin[0] != '#' {
			d.Problem = fmt.Sprintf("%s is neither an RDB file that Amber knows nor one of commands", first)
		}
	}
	return nil
}

func (d *Dump) lookAtFile(ctx context.Context, s storage.Store) error {
	h, err := newFiles(ctx, s, d.Name).head(d.Name)
	if err != nil {
		return err
	}
	d.tell(&h)
	switch {
	case h.dialect == rdb.Dialect{}:
		d.Problem = fmt.Sprintf("it is no RDB file that Amber knows: %v", h.err)
		return nil
	case h.ofSet():
		d.Problem = ErrPartOfSet.Error()
		return nil
	case h.err != nil:
		d.Problem = h.err.Error()
		return nil
	}
	if d.Kind == AOFBase {
		d.Notes = append(d.Notes, "it lacks what the server has appended to its append-only files since it was written")
	}
	if h.dialect.Family == rdb.Dragonfly {
		return nil // its files end in whatever was in its buffer
	}
	end := int64(9) // the end's opcode, and a checksum
	if h.dialect.Family == rdb.Redis && h.dialect.Version < 5 {
		end = 1
	}
	tail, err := s.Open(ctx, d.Name, max(0, d.Size-end), end)
	if err != nil {
		return err
	}
	defer tail.Close()
	var b [1]byte
	if _, err := io.ReadFull(tail, b[:]); err != nil && err != io.EOF {
		return err
	}
	if b[0] != 0xff {
		d.Problem = "it doesn't end as a snapshot does: it was cut, or is still being copied"
	}
	return nil
}

// tell takes down what a file says of itself.
func (d *Dump) tell(h *head) {
	d.Engine, d.Version = h.engine, h.version
	if h.dialect != (rdb.Dialect{}) {
		d.Dialect = h.dialect.String()
	}
}
