package catalog

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/rdb/aof"
)

// ErrBadSnapshot is wrapped by Inspect's error when the bytes are not a whole and sound snapshot.
var ErrBadSnapshot = errors.New("snapshot is not sound")

// Contents is what was found in a part or a whole snapshot.
type Contents struct {
	Dialect     string
	Engine      string // that wrote it, as it says: "redis", "valkey", "dragonfly"; empty if it doesn't
	Version     string // of that server, such as "8.0.2"
	Checksum    string // "crc64" or "absent"
	Keys        int64
	Expires     int64 // keys with an expiry
	FirstExpiry int64 // when the first of these expires, in Unix milliseconds; 0 if there is none
	Functions   int64 // function libraries
	Commands    int64 // to be executed on top of the keys
	DBs         []DB  // that hold keys, in ascending order
	Modules     []Module
}

// DialectAOF is the dialect of a part that is an append-only file: commands, one after another, which are executed on top of what the parts before hold.
const DialectAOF = "aof"

// Inspect parses a stream to its end and says what is in it: an RDB stream, which it holds against its checksum, or an append-only file, which begins with
// a '*' or '#' and has none. Whatever the bytes, it uses a fixed amount of memory. keys, unless nil, is kept at the number of keys so far.
//
// Of an append-only file every command has to be whole, and every transaction ended. What its commands are about isn't known: it has Commands, and no keys.
//
// The error wraps ErrBadSnapshot, and what package rdb found with its offset, if the stream is not sound or goes on after its
// end; an error of r itself is passed on without it. Only Dragonfly's files may go on: they end in what happened to be in its buffer.
func Inspect(r io.Reader, keys *atomic.Int64) (Contents, error) {
	src := &tracked{r: r}
	if begin, err := src.peek(); err != nil {
		return Contents{}, err
	} else if begin == '*' || begin == '#' {
		return inspectAOF(src)
	}
	in := rdb.NewReader(src, &rdb.ReaderOptions{Spool: heldSpool})
	var n int64
	var wrote writer
	for {
		entry, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			if src.err != nil {
				return Contents{}, src.err
			}
			return Contents{}, fmt.Errorf("%w: %w", ErrBadSnapshot, err)
		}
		switch entry.Kind {
		case rdb.KindKey:
			if n++; n&1023 == 0 && keys != nil {
				keys.Add(1024)
			}
		case rdb.KindAux:
			wrote.tell(entry)
		}
	}
	if keys != nil {
		keys.Add(n & 1023)
	}
	stats := in.Stats()
	if err := src.end(stats.Bytes, in.Dialect().Family == rdb.Dragonfly); err != nil {
		return Contents{}, err
	}
	c := ContentsOf(in.Dialect(), stats)
	c.Engine, c.Version = wrote.engine, wrote.version
	return c, nil
}

// heldCommand is how many bytes of a command are held to see what it is.
const heldCommand = 64 << 10

// inspectAOF is Inspect of an append-only file.
func inspectAOF(src *tracked) (Contents, error) {
	in := aof.NewReader(src, &aof.Options{MaxHeld: heldCommand})
	for {
		_, err := in.Next()
		if err == io.EOF {
			break
		}
		if src.err != nil {
			return Contents{}, src.err
		}
		if err != nil {
			return Contents{}, fmt.Errorf("%w: %w", ErrBadSnapshot, err)
		}
	}
	return Contents{Dialect: DialectAOF, Checksum: string(rdb.ChecksumAbsent), Commands: in.Stats().Commands}, nil
}

// writer is the server that wrote a stream, as the stream says.
type writer struct{ engine, version string }

// tell takes down what a fact says. Dragonfly says that it is a Redis, too.
func (w *writer) tell(e *rdb.Entry) {
	engine, version := "", string(e.Value[:min(len(e.Value), 100)])
	switch string(e.Key) {
	case "redis-ver":
		engine = "redis"
	case "valkey-ver":
		engine = "valkey"
	case "df-ver":
		engine = "dragonfly"
		version, _, _ = strings.Cut(strings.TrimPrefix(version, "df-v"), "-")
	default:
		return
	}
	if w.engine == "" || w.engine == "redis" {
		w.engine, w.version = engine, version
	}
	if strings.Trim(w.version, "0123456789.") != "" {
		w.version = ""
	}
}

// heldSpool makes a file for what lies between the pieces of a large value and has no room in memory: a Dragonfly that is written to sends such values
// over a long time. It has no name as soon as it is there.
func heldSpool() (rdb.Spool, error) {
	f, err := os.CreateTemp("", "amber-held-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// tracked knows how much was read of a stream and how it ended.
type tracked struct {
	r      io.Reader
	peeked []byte // read already
	n      int64
	err    error // other than io.EOF
}

// peek returns the first byte, which is read again; 0 if there is none.
func (t *tracked) peek() (byte, error) {
	var b [1]byte
	switch _, err := io.ReadFull(t.r, b[:]); err {
	case nil:
		t.peeked = b[:]
		return b[0], nil
	case io.EOF:
		return 0, nil
	default:
		return 0, err
	}
}

func (t *tracked) Read(p []byte) (int, error) {
	if len(t.peeked) > 0 && len(p) > 0 {
		n := copy(p, t.peeked)
		t.peeked = t.peeked[n:]
		t.n += int64(n)
		return n, nil
	}
	n, err := t.r.Read(p)
	t.n += int64(n)
	if err != nil && err != io.EOF {
		t.err = err
	}
	return n, err
}

// end reads on to the end of the stream, which holds a snapshot of size bytes, and refuses any byte more that isn't padding. It matters
// that the stream is read to its io.EOF: that is what confirms that its source sent all it had.
func (t *tracked) end(size int64, padded bool) error {
	if _, err := io.Copy(io.Discard, t); err != nil {
		return err
	}
	if t.n > size && !padded {
		return fmt.Errorf("%w: %d bytes follow its end at byte %d", ErrBadSnapshot, t.n-size, size)
	}
	return nil
}

// ContentsOf says what a reader of a stream of the given dialect has seen.
func ContentsOf(dialect rdb.Dialect, s rdb.Stats) Contents {
	c := Contents{Dialect: dialect.String(), Checksum: string(s.Checksum), Keys: s.Keys, Expires: s.Expires, FirstExpiry: s.FirstExpiry, Functions: s.Functions, Commands: s.Journal}
	for _, db := range s.DBs {
		d := DB{Index: db.DB, Keys: db.Keys, Expires: db.Expires, Types: map[string]int64{}}
		for t, n := range db.Types {
			d.Types[t.String()] += n
		}
		c.DBs = append(c.DBs, d)
	}
	for _, m := range s.Modules {
		c.Modules = append(c.Modules, Module{Name: m.ID.Name(), Version: m.ID.Version(), Keys: m.Keys, Aux: m.Aux})
	}
	c.sort()
	return c
}

func (c *Contents) sort() {
	slices.SortFunc(c.DBs, func(a, b DB) int { return a.Index - b.Index })
	slices.SortFunc(c.Modules, func(a, b Module) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version))
	})
}

// Add adds what another part holds.
func (c *Contents) Add(o Contents) {
	switch {
	case c.Dialect == "":
		c.Dialect, c.Engine, c.Version = o.Dialect, o.Engine, o.Version
	case o.Dialect == DialectAOF: // which doesn't tell who wrote it
	case c.Engine != o.Engine || c.Version != o.Version:
		c.Engine, c.Version = "", "" // there are several
	}
	// One part without a checksum is a snapshot without: the manifest never claims more than was checked.
	if c.Checksum == "" || o.Checksum == "absent" {
		c.Checksum = o.Checksum
	}
	c.Keys += o.Keys
	c.Expires += o.Expires
	if c.FirstExpiry == 0 || o.FirstExpiry != 0 && o.FirstExpiry < c.FirstExpiry {
		c.FirstExpiry = o.FirstExpiry
	}
	c.Functions += o.Functions
	c.Commands += o.Commands
	for _, d := range o.DBs {
		i := slices.IndexFunc(c.DBs, func(e DB) bool { return e.Index == d.Index })
		if i < 0 {
			d.Types = maps.Clone(d.Types)
			c.DBs = append(c.DBs, d)
			continue
		}
		c.DBs[i].Keys += d.Keys
		c.DBs[i].Expires += d.Expires
		for t, n := range d.Types {
			c.DBs[i].Types[t] += n
		}
	}
	for _, m := range o.Modules {
		i := slices.IndexFunc(c.Modules, func(e Module) bool { return e.Name == m.Name && e.Version == m.Version })
		if i < 0 {
			c.Modules = append(c.Modules, m)
			continue
		}
		c.Modules[i].Keys += m.Keys
		c.Modules[i].Aux += m.Aux
	}
	c.sort()
}

// Record writes what was found into a manifest.
func (c Contents) Record(b *Backup) {
	b.Keys, b.Expires, b.Functions, b.DBs, b.Modules = c.Keys, c.Expires, c.Functions, c.DBs, c.Modules
	b.FirstExpiry, b.Commands = c.FirstExpiry, c.Commands
	b.Verification.Checksum = c.Checksum
	if b.Source.Dialect == "" {
		b.Source.Dialect = c.Dialect
	}
	if b.Source.Engine == "" {
		b.Source.Engine, b.Source.Version = c.Engine, c.Version
	}
}

// Differs compares what was found with what a manifest says, and tells the first difference, or "" if there is none.
func (c Contents) Differs(b *Backup) string {
	differs := func(what string, found, said int64) string {
		return fmt.Sprintf("%d %s were found, the manifest says %d", found, what, said)
	}
	switch {
	case c.Keys != b.Keys:
		return differs("keys", c.Keys, b.Keys)
	case c.Expires != b.Expires:
		return differs("keys with an expiry", c.Expires, b.Expires)
	case c.Functions != b.Functions:
		return differs("function libraries", c.Functions, b.Functions)
	case b.Commands != 0 && c.Commands != b.Commands: // manifests that were written before these were counted say 0
		return differs("commands", c.Commands, b.Commands)
	case len(c.DBs) != len(b.DBs):
		return differs("databases with keys", int64(len(c.DBs)), int64(len(b.DBs)))
	case !slices.Equal(c.Modules, b.Modules):
		return fmt.Sprintf("data of the modules %v was found, the manifest says %v", c.Modules, b.Modules)
	}
	for i, d := range c.DBs {
		if e := b.DBs[i]; d.Index != e.Index || d.Keys != e.Keys || d.Expires != e.Expires || !maps.Equal(d.Types, e.Types) {
			return fmt.Sprintf("database %d was found to hold %d keys %v, the manifest says %d: %d %v", d.Index, d.Keys, d.Types, e.Index, e.Keys, e.Types)
		}
	}
	return ""
}
