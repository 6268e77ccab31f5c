package dfs

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/amberkv/amber/rdb"
)

// WriterOptions are the rare choices of Create. The zero value means the defaults.
type WriterOptions struct {
	// Shards is how many files get the keys; 0 means 4. Dragonfly loads each by one of its threads, whatever their number.
	Shards int
	// Options are those of the streams. Dragonfly itself compresses by rdb.CompressLZ4.
	Options rdb.WriterOptions
	// ID is the set's id, 32 hexadecimal digits in lower case; empty means a random one.
	ID string
}

const defaultShards = 4

// temporary is what is behind the names of files until all of them are complete, as with Dragonfly.
const temporary = ".tmp"

// A Writer writes a set as files. Its keys and everything else go to Writer.
type Writer struct {
	*rdb.Writer

	dir   string
	files []*os.File // the shards, then the summary
	names []string
	done  bool
	err   error
}

// Create begins to write the set NAME-summary.dfs, NAME-0000.dfs … in a directory. Nothing is there under these names
// before Close has returned nil. A set that is there already is an error that wraps fs.ErrExist: files can't be replaced
// all at once, and neither set would be whole after a crash.
//
// Dragonfly takes certain characters in a name for more than themselves, and looks for the shards of a set by putting something else for the
// word "summary" wherever it stands: such names are refused, and so is a name with an extension.
func Create(dir, name string, opts *WriterOptions) (*Writer, error) {
	if err := ValidName(name); err != nil {
		return nil, err
	}
	var o WriterOptions
	if opts != nil {
		o = *opts
	}
	if o.Shards == 0 {
		o.Shards = defaultShards
	}
	if o.Shards < 0 {
		return nil, fmt.Errorf("dfs: %d shards", o.Shards)
	}
	if o.ID == "" {
		var id [16]byte
		rand.Read(id[:])
		o.ID = hex.EncodeToString(id[:])
	}
	w := &Writer{dir: dir}
	if _, err := os.Lstat(filepath.Join(dir, name+summarySuffix)); err == nil {
		return nil, fmt.Errorf("dfs: %s in %s: %w; remove that set, or choose another name", name+summarySuffix, dir, fs.ErrExist)
	}
	w.names = Names(name, o.Shards)
	var to []io.Writer
	for _, name := range w.names {
		f, err := os.Create(filepath.Join(dir, name+temporary))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("dfs: %w", err), w.Abort())
		}
		w.files = append(w.files, f)
		to = append(to, f)
	}
	var err error
	if w.Writer, err = rdb.NewSetWriter(to[o.Shards], to[:o.Shards], o.ID, &o.Options); err != nil {
		return nil, errors.Join(err, w.Abort())
	}
	return w, nil
}

// ValidName returns nil for a name that Dragonfly takes for a set, without its directory and the endings of files. See Create for what it doesn't
// take.
func ValidName(name string) error {
	why := ""
	switch {
	case name == "":
		why = "it is empty"
	case strings.ContainsAny(name, `/\[]?*~"%{}.`):
		why = `it has one of / \ [ ] ? * ~ " % { } .`
	case strings.Contains(name, "summary"):
		why = `it has the word "summary" in it`
	default:
		return nil
	}
	return fmt.Errorf("dfs: %q can't name a set: %s", name, why)
}

// Names returns the names of the files of a set: the shards, then the summary.
func Names(name string, shards int) []string {
	var names []string
	for n := range shards {
		names = append(names, fmt.Sprintf("%s-%04d%s", name, n, extension))
	}
	return append(names, name+summarySuffix)
}

// Close ends all streams and makes the files durable and visible, the summary last. On an error nothing is left of the set but, if
// it happened while the files got their names, some shards without a summary.
func (w *Writer) Close() error {
	if w.done {
		return w.err
	}
	w.err = w.commit()
	if w.err != nil {
		w.err = errors.Join(w.err, w.Abort())
	}
	w.done = true
	return w.err
}

func (w *Writer) commit() error {
	if err := w.Writer.Close(); err != nil {
		return err
	}
	for _, f := range w.files {
		if err := f.Sync(); err != nil {
			return fmt.Errorf("dfs: %w", err)
		}
		if err := f.Close(); err != nil {
			return fmt.Errorf("dfs: %w", err)
		}
	}
	for _, name := range w.names {
		to := filepath.Join(w.dir, name)
		if err := os.Rename(to+temporary, to); err != nil {
			return fmt.Errorf("dfs: %w", err)
		}
	}
	d, err := os.Open(w.dir)
	if err != nil {
		return fmt.Errorf("dfs: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}

// Abort gives the set up and removes its files. It does nothing after Close, so that `defer w.Abort()` is always right.
func (w *Writer) Abort() error {
	if w.done {
		return nil
	}
	w.done = true
	if w.err == nil {
		w.err = errors.New("dfs: the set was given up")
	}
	var errs []error
	if w.Writer != nil {
		// It would give the error that ended it again, which its caller has.
		_ = w.Writer.Close()
	}
	for i, f := range w.files {
		f.Close() // it may be closed already, and is of no use any more
		if err := os.Remove(filepath.Join(w.dir, w.names[i]+temporary)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
