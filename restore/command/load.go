package command

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/clock"
	srv "github.com/amberkv/amber/internal/target"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/restore"
)

const progressEvery = 100 * time.Millisecond

// A run is one restore.
type run struct {
	*Loader
	ctx    context.Context // of all that writes; it ends with the first error
	cancel context.CancelCauseFunc
	facts  *facts
	opts   *restore.Options
	src    restore.Source
	backup *catalog.Backup

	connections int // to each node
	can         powers
	carriesOn   bool // with what an earlier run of the same restore has written
	manyDBs     bool // the connections of a cluster have more than one database
	depot       *depot
	topo        atomic.Pointer[topology]
	links       sync.WaitGroup
	builders    sync.WaitGroup // of large values
	tally       tally
	read        atomic.Int64 // bytes of the source
	sent        atomic.Bool  // something was sent

	parks, parksFields        bool        // expiries of keys, and of fields of hashes, may be put off
	anyParked, anyFieldParked atomic.Bool // and some were
	commanded                 atomic.Bool // commands have begun
	complete                  bool        // everything was written

	fix     sync.Mutex // held while something rare is dealt with; guards what follows
	known   []*node
	closing bool // links end when they have sent all
	admins  map[string]*srv.Conn
	tagger  *tagger
	temps   int64
	nonce   string
	changed bool // the target is, or may be, different from before
	flushed bool
	marked  bool
	raised  map[string]string // former proto-max-bulk-len by node

	mu        sync.Mutex
	failed    []string
	both      []string
	conflicts int64
	losses    map[rdb.Loss]*restore.LossReport
	converted int64
	functions int64
	libraries map[string][sha256.Size]byte // that were loaded, by name: a hash of their code
	skippedFn int64
	tried     []string // names of the libraries that were, or may have been, loaded
	warnings  []string
	redo      map[string]int64 // keys that have to be made anew, by database and name; not 0: by one RESTORE of a payload of that size
}

// Load puts the snapshot into the target, as package restore says. When ctx is cancelled the connections break, temporary names are
// removed and the keys counted, within Config.Grace.
func (l *Loader) Load(ctx context.Context, src restore.Source, opts *restore.Options) (*restore.Report, error) {
	if opts == nil {
		opts = &restore.Options{}
	}
	if !l.busy.TryLock() {
		return nil, fmt.Errorf("%w: a restore into it is under way", restore.ErrRefused)
	}
	defer l.busy.Unlock()
	need := restore.Requirements{Backup: src.Backup(), Options: opts, Final: true, Memory: l.estimate(src.Backup())}
	t, verdict, err := l.examine(ctx, need)
	if err == nil {
		err = verdict.Err(opts)
	}
	if err != nil {
		return nil, err
	}
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r := &run{
		Loader: l, ctx: inner, cancel: cancel, facts: t, opts: opts, src: src, backup: src.Backup(), can: t.can,
		connections: l.cfg.Connections, carriesOn: t.carriesOn(need), manyDBs: t.cluster && t.highest > 0,
		admins: make(map[string]*srv.Conn), losses: make(map[rdb.Loss]*restore.LossReport), redo: make(map[string]int64),
		raised: make(map[string]string), nonce: nonce(),
	}
	if t.cluster {
		r.tagger = &tagger{}
	}
	r.parks = t.putsOff(r.backup, opts.Conflict) && (t.can.absTTL || !t.can.restore)
	r.parksFields = r.parks && t.caps.hpexpireat
	r.tally.start = clock.System()
	defer r.closeAdmins()
	report, err := r.restore(ctx)
	if err != nil {
		return nil, r.fail(ctx, err)
	}
	return report, nil
}

// stop ends the restore with an error, of which the first counts.
func (r *run) stop(err error) { r.cancel(err) }

// touch notes that something was sent.
func (r *run) touch() { r.sent.Store(true) }

func (r *run) restore(ctx context.Context) (*restore.Report, error) {
	// What can't be read at all should fail before the target is touched.
	first, err := r.open(r.ctx, r.backup.Parts[0])
	if err != nil {
		return nil, err
	}
	defer first.Close()
	r.depot = newDepot(len(r.facts.nodes)*r.connections, 1)
	r.fix.Lock()
	r.arrange(r.facts.ranges)
	r.fix.Unlock()
	defer r.builders.Wait()
	defer r.links.Wait()
	defer r.cancel(nil)

	start := clock.System()
	if r.opts.Conflict == restore.MergeFail && !r.carriesOn {
		if err := r.askAll(); err != nil {
			return nil, r.cause(err)
		}
	}
	if err := r.begin(r.ctx); err != nil {
		return nil, r.cause(err)
	}
	r.log.Info("restore begins", "backup", r.backup.ID, "target", r.facts.addr, "nodes", len(r.facts.nodes), "conflict", string(r.opts.Conflict),
		"dialect", r.facts.dialect.String(), "bytes", r.backup.RawBytes)
	stop := r.showProgress()
	err = r.writeAll(first)
	stop()
	if err != nil {
		return nil, r.cause(err)
	}
	r.complete = true
	r.endLinks()
	load := clock.Since(start)
	if len(r.failed) > 0 {
		return nil, fmt.Errorf("the target didn't take %d keys", len(r.failed))
	}
	report := r.report(load)
	if err := r.finish(ctx, report); err != nil {
		return nil, err
	}
	r.log.Info("restore done", "backup", r.backup.ID, "target", r.facts.addr, "keys", report.Keys, "bytes", report.Bytes, "load", report.Load)
	return report, nil
}

// cause returns what ended the run, if something else than err did.
func (r *run) cause(err error) error {
	if c := context.Cause(r.ctx); c != nil {
		return c
	}
	return err
}

// showProgress reports until the returned function is called.
func (r *run) showProgress() (stop func()) {
	if r.opts.Progress == nil {
		return func() {}
	}
	now := func() {
		r.opts.Progress(restore.Progress{Stage: restore.StageLoad, Bytes: min(r.read.Load(), r.backup.RawBytes), Total: r.backup.RawBytes, Keys: r.tally.keys.Load()})
	}
	now()
	halt := clock.Every(progressEvery, now)
	return func() {
		halt()
		now()
	}
}

// A partReader reads a part and counts it.
type partReader struct {
	io.ReadCloser
	r     *run
	first []byte // that were read already
	quiet bool   // it isn't counted
}

// open opens a part and reads its first bytes.
func (r *run) open(ctx context.Context, p catalog.Part) (*partReader, error) {
	in, err := r.src.Open(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("opening part %s: %w", p.Name, err)
	}
	magic := make([]byte, 9)
	if n, err := io.ReadFull(in, magic); err != nil {
		in.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("reading part %s, byte %d: %w", p.Name, n, err)
	}
	return &partReader{ReadCloser: in, r: r, first: magic}, nil
}

func (p *partReader) Read(b []byte) (n int, err error) {
	if err := p.r.ctx.Err(); err != nil {
		return 0, context.Cause(p.r.ctx)
	}
	if len(p.first) > 0 {
		n = copy(b, p.first)
		p.first = p.first[n:]
	} else {
		n, err = p.ReadCloser.Read(b)
	}
	if !p.quiet {
		p.r.read.Add(int64(n))
	}
	return n, err
}

// readerOptions are those of the readers of the parts.
func (r *run) readerOptions() *rdb.ReaderOptions { return &rdb.ReaderOptions{Commands: true} }

// writeAll writes all parts, and what has to be made anew until there is nothing left.
func (r *run) writeAll(first *partReader) error {
	f := newFeeder(r.ctx, r)
	for i, p := range r.backup.Parts {
		in := first
		if i > 0 {
			var err error
			if in, err = r.open(r.ctx, p); err != nil {
				return err
			}
		}
		err := r.part(f, in, p)
		in.Close()
		if err != nil {
			// What was read is written: who reads the error should know what there is.
			if r.ctx.Err() == nil {
				err = errors.Join(err, f.flush())
			}
			return err
		}
	}
	if err := f.flush(); err != nil {
		return err
	}
	return r.redoAll(f)
}

// part feeds a part to its end.
func (r *run) part(f *feeder, in *partReader, p catalog.Part) error {
	if err := f.feed(in); err != nil {
		if r.ctx.Err() != nil {
			return context.Cause(r.ctx)
		}
		return fmt.Errorf("part %s: %w", p.Name, err)
	}
	// The hash is only proved where the stream ends.
	rest, err := io.Copy(io.Discard, in)
	rest += int64(len(f.in.Buffered()))
	switch {
	case err != nil:
		return fmt.Errorf("reading part %s: %w", p.Name, err)
	case rest > 0 && f.in.Dialect().Family != rdb.Dragonfly:
		return fmt.Errorf("part %s: %d bytes follow the end of the snapshot", p.Name, rest)
	case p.RawSize > 0 && f.in.Offset()+rest != p.RawSize:
		return fmt.Errorf("part %s has %d bytes instead of %d", p.Name, f.in.Offset(), p.RawSize)
	}
	return nil
}

// redoAll makes anew what was being made when a connection broke or a slot moved.
func (r *run) redoAll(f *feeder) error {
	for pass := 0; ; pass++ {
		r.mu.Lock()
		only := maps.Clone(r.redo)
		clear(r.redo)
		r.mu.Unlock()
		if len(only) == 0 {
			return nil
		}
		if once(r.backup) {
			return fmt.Errorf("%d keys, such as %s, were being written when a connection broke or a slot moved, or have no room in memory, and the snapshot can be read once only: copy again, or restore from a backup",
				len(only), slices.Sorted(maps.Keys(only))[0])
		}
		if pass == maxPasses {
			return fmt.Errorf("%d keys could not be written in %d attempts, such as %s", len(only), pass, slices.Sorted(maps.Keys(only))[0])
		}
		r.log.Info("keys are written anew", "target", r.facts.addr, "keys", len(only), "pass", pass+1)
		f.only = only
		if err := clock.Sleep(r.ctx, min(firstPause<<pass, longestPause)); err != nil {
			return context.Cause(r.ctx)
		}
		if err := r.readAgain(f); err != nil {
			return err
		}
	}
}

// readAgain feeds all parts to their end, without counting what is read.
func (r *run) readAgain(f *feeder) error {
	for _, p := range r.backup.Parts {
		in, err := r.open(r.ctx, p)
		if err != nil {
			return err
		}
		in.quiet = true
		err = r.part(f, in, p)
		in.Close()
		if err != nil {
			return err
		}
	}
	return f.flush()
}

// once tells of a snapshot that comes straight from its source, of which nothing is known before: it can't be read twice.
func once(b *catalog.Backup) bool { return b.RawBytes == 0 && b.Keys == 0 }

// maxPasses is how often what could not be written is tried again.
const maxPasses = 10

// askAll asks for every key whether the target has it, before anything is written.
func (r *run) askAll() error {
	f := newFeeder(r.ctx, r)
	f.ask = true
	if err := r.readAgain(f); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conflicts > 0 {
		return fmt.Errorf("%w: both the backup and the target have %d keys or functions, such as %s; nothing was written", restore.ErrRefused, r.conflicts, join(r.both))
	}
	return nil
}

// endLinks lets the links end, and waits for them.
func (r *run) endLinks() {
	r.fix.Lock()
	r.closing = true
	for _, n := range r.known {
		for _, l := range n.links {
			close(l.queue)
		}
	}
	r.fix.Unlock()
	r.links.Wait()
}

// admin returns the connection to a node over which it is asked one thing at a time. The caller has r.fix, or is alone.
func (r *run) admin(addr string) *srv.Conn {
	a := r.admins[addr]
	if a == nil {
		a = srv.New(r.options(addr), r.cfg.Stall)
		r.admins[addr] = a
	}
	return a
}

func (r *run) closeAdmins() {
	for _, a := range r.admins {
		a.Close()
	}
}

// millis is the time now in Unix milliseconds.
func (r *run) millis() int64 { return clock.System().UnixMilli() }

// answered takes back a chunk of which all was answered.
func (r *run) answered(c *chunk) {
	f := c.feed
	r.depot.put(c)
	if f.pending.Add(-1) == 0 {
		f.notify()
	}
}

// restores tells whether the target's RESTORE takes an encoding.
func (r *run) restores(d rdb.Dialect, code uint8) bool {
	return r.can.restore && (code == codeModule || r.facts.took[encodingOf(d, code)])
}

// replaces tells whether keys replace those of the same name.
func (r *run) replaces() bool {
	if r.commanded.Load() {
		return r.can.replace
	}
	switch r.opts.Conflict {
	case restore.Replace, restore.MergeOverwrite:
		return r.can.replace
	case restore.IntoEmpty:
		return r.carriesOn && r.can.replace
	}
	return false
}

// mayReplace tells whether a key that we may have written already may be written again over itself.
func (r *run) mayReplace() bool {
	return r.can.replace && r.opts.Conflict == restore.IntoEmpty
}

// limit is the largest payload of an entry's value that goes by one RESTORE. Where plain commands lose something, or can't make
// the value at all, it is larger.
func (r *run) limit(e *rdb.Entry) int {
	n := r.cfg.MaxValue
	switch e.Type {
	case rdb.TypeString, rdb.TypeList, rdb.TypeSet, rdb.TypeZSet, rdb.TypeHash:
	default:
		n = min(4*n, maxMaxValue)
	}
	return int(min(int64(n), r.facts.maxBulk))
}
