package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/rdb/inspect"
)

// untouched is a verified backup as a loader reads it, if it gets it as it is.
type untouched struct {
	r *Restorer
	b *catalog.Backup
}

func (s *untouched) Backup() *catalog.Backup { return s.b }

func (s *untouched) Open(ctx context.Context, p catalog.Part) (io.ReadCloser, error) {
	return s.r.again(ctx, p)
}

// A conversion makes one stream of a backup's parts, in the dialect that a target takes, of what is selected.
type conversion struct {
	from  *catalog.Backup
	open  func(ctx context.Context, p catalog.Part) (io.ReadCloser, error) // opens a part
	spool func() (rdb.Spool, error)
	to    rdb.Dialect
	opts  rdb.ConvertOptions
	told  func(r *rdb.ConvertReport) // gets what was done, when the stream was read to its end; may be nil

	result *catalog.Backup // what it was found to make
}

// convertedPart is the name of the one part that a conversion makes.
const convertedPart = "converted"

func (c *conversion) Backup() *catalog.Backup { return c.result }

// Open opens the stream. It is made while it is read.
func (c *conversion) Open(ctx context.Context, p catalog.Part) (io.ReadCloser, error) {
	if p.Name != convertedPart {
		return nil, fmt.Errorf("restore: there is no part %s in what is to be loaded", p.Name)
	}
	ctx, cancel := context.WithCancel(ctx)
	// What can't be opened at all should fail here and not in the middle.
	first, err := c.open(ctx, c.from.Parts[0])
	if err != nil {
		cancel()
		return nil, err
	}
	out, in := io.Pipe()
	stream := &convertedReader{PipeReader: out, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(stream.done)
		report, err := c.run(ctx, in, first, nil)
		if err == nil {
			err = io.EOF
			if c.told != nil {
				c.told(report)
			}
		}
		in.CloseWithError(err)
	}()
	return stream, nil
}

// convertedReader is a stream that a goroutine makes.
type convertedReader struct {
	*io.PipeReader
	cancel context.CancelFunc
	done   chan struct{}
}

// Close ends the goroutine and waits for it.
func (r *convertedReader) Close() error {
	r.cancel()
	r.PipeReader.CloseWithError(errors.New("restore: the stream was closed"))
	<-r.done
	return nil
}

// A part's progress and contents are told to a watcher.
type watcher struct {
	inspect *inspect.Inspector // of the keys that are written
	stored  func(n int64)      // bytes of the store that were read, of all parts
	keys    func(n int64)      // keys that were seen
	all     catalog.Contents   // of the backup's parts
}

// run writes the stream to w. The first part is open already; nil means that it isn't.
func (c *conversion) run(ctx context.Context, w io.Writer, first io.ReadCloser, watch *watcher) (*rdb.ConvertReport, error) {
	total := &rdb.ConvertReport{}
	if c.to == (rdb.Dialect{}) {
		return total, errors.New("restore: the dialect to convert to is not known")
	}
	dst, err := rdb.NewWriter(w, c.to, &rdb.WriterOptions{Compression: rdb.CompressLZF, Spool: c.spool, Commands: c.opts.Commands != nil})
	if err != nil {
		if first != nil {
			first.Close()
		}
		return total, err
	}
	defer dst.Close()
	var checker *rdb.Checker
	if watch != nil && len(c.from.Parts) > 1 && !appends(c.from) {
		// A key that is in two parts would end a server that loads the result.
		checker = rdb.NewChecker(&rdb.CheckOptions{Spool: c.spool})
		defer checker.Close()
	}
	var base int64
	for i, p := range c.from.Parts {
		in := first
		if i > 0 || in == nil {
			if in, err = c.open(ctx, p); err != nil {
				return total, fmt.Errorf("part %s: %w", p.Name, err)
			}
		}
		report, err := c.part(ctx, dst, in, p, base, watch)
		in.Close()
		total.Add(report)
		if err == nil && checker != nil {
			err = c.twice(ctx, checker, p)
		}
		if err != nil {
			return total, fmt.Errorf("part %s: %w", p.Name, err)
		}
		base += p.Size
	}
	if checker != nil {
		if err := checker.Close(); err != nil {
			return total, fmt.Errorf("%w: %w", ErrNotVerified, err)
		}
	}
	return total, dst.Close()
}

// part converts one part.
func (c *conversion) part(ctx context.Context, dst *rdb.Writer, in io.ReadCloser, p catalog.Part, base int64, watch *watcher) (*rdb.ConvertReport, error) {
	if p.Dialect == catalog.DialectAOF {
		return c.appended(ctx, dst, in, p, base, watch)
	}
	src := rdb.NewReader(&heedful{ctx: ctx, in: in}, &rdb.ReaderOptions{Spool: c.spool})
	if watch != nil {
		keys, n := int64(0), 0
		src.Observe(func(e *rdb.Entry, v rdb.ValueInfo) {
			if keys++; keys&1023 == 0 {
				watch.keys(1024)
				if p, ok := in.(*partReader); ok {
					watch.stored(base + p.Stored())
				}
			}
			n++
			if c.opts.Wants(e) {
				watch.inspect.Add(e, v)
			}
		})
		defer func() { watch.keys(keys & 1023) }()
	}
	report, err := rdb.Convert(dst, src, &c.opts)
	if err == nil {
		// The hash is only proved where the stream ends.
		var rest int64
		if rest, err = io.Copy(io.Discard, in); err == nil && rest > 0 && src.Dialect().Family != rdb.Dragonfly {
			err = fmt.Errorf("%w: bytes follow the end of the snapshot", ErrNotVerified)
		}
	}
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return report, ctx.Err()
	case errors.Is(err, rdb.ErrCorrupt) || errors.Is(err, rdb.ErrUnsupported):
		return report, fmt.Errorf("%w: %w", ErrNotVerified, err)
	default:
		return report, notVerified(err)
	}
	if watch != nil {
		watch.stored(base + p.Size)
		watch.all.Add(catalog.ContentsOf(src.Dialect(), src.Stats()))
	}
	return report, nil
}

// twice looks for keys that are in two parts.
func (c *conversion) twice(ctx context.Context, checker *rdb.Checker, p catalog.Part) error {
	in, err := c.open(ctx, p)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := checker.Check(rdb.NewReader(&heedful{ctx: ctx, in: in}, &rdb.ReaderOptions{Spool: c.spool})); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%w: %w", ErrNotVerified, err)
	}
	return nil
}

// heedful ends with its context.
type heedful struct {
	ctx context.Context
	in  io.Reader
}

func (h *heedful) Read(p []byte) (int, error) {
	if err := h.ctx.Err(); err != nil {
		return 0, err
	}
	return h.in.Read(p)
}

// spoolIn opens a file without a name in a directory, which is gone when it is closed. An empty directory is the system's.
func spoolIn(dir string) (rdb.Spool, error) {
	f, err := os.CreateTemp(dir, "amber-")
	if err != nil {
		return nil, fmt.Errorf("room for what is too large for memory: %w; set TempDir", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// convertOptions says how what the caller and the target ask for is done.
func convertOptions(b *catalog.Backup, v *Verdict, opts *Options, now time.Time) (rdb.ConvertOptions, error) {
	s := &opts.Select
	types, err := s.types()
	if err != nil {
		return rdb.ConvertOptions{}, err
	}
	o := rdb.ConvertOptions{
		// What is lost is in the verdict, and has to be accepted there.
		Policy: rdb.DropDetail,
		DBs:    s.DBs, Match: s.Match, Types: types, MapDB: s.MapDB, TrimPrefix: s.TrimPrefix, AddPrefix: s.AddPrefix,
		Modules: v.Modules, NoIndexes: v.NoIndexes,
		Commands: commandOptions(b, v, now),
	}
	switch opts.Expiry {
	case ExpiryKeep:
		o.ExpiredAt = now.UnixMilli()
	case ExpiryDrop:
		o.DropExpiry = true
	case ExpiryShift:
		o.ExpiredAt, o.ShiftExpiry = now.UnixMilli(), ageOf(b, now)
	}
	return o, nil
}

// soon is how long a restore is taken to last: what expires within it is the target's to let go of.
const soon = 10 * time.Minute

// asIs tells whether the target gets the very bytes of the backup.
func asIs(b *catalog.Backup, v *Verdict, opts *Options, now time.Time) bool {
	if len(b.Parts) > 1 && v.OneStream || !opts.Select.all() || opts.Expiry != ExpiryKeep {
		return false
	}
	if !v.Verbatim && b.Expires > 0 && b.FirstExpiry <= now.Add(soon).UnixMilli() { // manifests of old don't tell
		return false
	}
	for _, p := range b.Parts {
		if p.Dialect == catalog.DialectAOF {
			if !v.Appends {
				return false
			}
			continue
		}
		d, err := rdb.ParseDialect(p.Dialect)
		if err != nil || v.Dialect != (rdb.Dialect{}) && d != v.Dialect {
			return false
		}
		// Dragonfly's files may have bytes behind their end, which no stream may, and its streams indexes, commands of a journal, and
		// values in pieces with others in between, of which the manifest doesn't tell.
		if d.Family == rdb.Dragonfly && !v.Verbatim {
			return false
		}
	}
	if b.Commands > 0 && v.Replays { // each is looked at
		return false
	}
	for _, m := range b.Modules {
		if v.Modules != nil && !slices.Contains(v.Modules, m.Name) {
			return false
		}
	}
	return true
}
