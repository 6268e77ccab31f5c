package feed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/internal/replication"
	"github.com/amberkv/amber/internal/resp"
	"github.com/amberkv/amber/internal/target"
	"github.com/amberkv/amber/restore"
)

const (
	progressEvery = 100 * time.Millisecond
	pollEvery     = 20 * time.Millisecond
)

// Load puts the snapshot into the target, as package restore says. Cancelling ctx breaks the transfer and brings the
// target back, within Config.Grace; only a target that has to load from its disk may take longer, and is then left loading, with
// a *restore.PartialError that says so.
func (l *Loader) Load(ctx context.Context, src restore.Source, opts *restore.Options) (*restore.Report, error) {
	if opts == nil {
		opts = &restore.Options{}
	}
	if !l.busy.TryLock() {
		return nil, fmt.Errorf("%w: a restore into it is under way", restore.ErrRefused)
	}
	defer l.busy.Unlock()
	a := target.New(l.cfg.Options, l.cfg.Stall)
	defer a.Close()
	need := restore.Requirements{Backup: src.Backup(), Final: true, Options: opts, Memory: l.estimate(src.Backup())}
	t, verdict, err := l.examine(ctx, a, need)
	if err == nil {
		err = verdict.Err(opts)
	}
	if err != nil {
		return nil, err
	}
	part := src.Backup().Parts[0] // the verdict has it that there is one
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	in, err := open(ctx, src, part, t.engine == "dragonfly")
	if err != nil {
		return nil, err
	}
	defer in.Close()

	r := &run{
		Loader: l, admin: a, target: t, opts: opts, src: src, in: in,
		backup: src.Backup(), size: part.RawSize, want: wanted(src.Backup()), method: chooseMethod(t, need),
	}
	defer r.group.Wait()
	defer cancel()
	report, err := r.restore(ctx)
	if err != nil {
		return nil, r.fail(ctx, err)
	}
	return report, nil
}

// open opens a part and reads its first bytes: what can't be read at all should fail before the target is touched.
func open(ctx context.Context, src restore.Source, p catalog.Part, dragonfly bool) (io.ReadCloser, error) {
	in, err := src.Open(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("opening part %s: %w", p.Name, err)
	}
	const magic = 9
	first := make([]byte, magic)
	if dragonfly {
		first = make([]byte, headSize)
	}
	n, err := io.ReadFull(in, first)
	if err == io.ErrUnexpectedEOF && n >= magic {
		err = nil
	}
	if err == nil && dragonfly {
		err = bare(first[:n])
	}
	if err != nil {
		in.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("reading part %s, byte %d: %w", p.Name, n, err)
	}
	return &begun{in, first[:n]}, nil
}

// begun is a reader of which some bytes were read.
type begun struct {
	io.ReadCloser
	first []byte
}

func (b *begun) Read(p []byte) (int, error) {
	if len(b.first) > 0 {
		n := copy(p, b.first)
		b.first = b.first[n:]
		return n, nil
	}
	return b.ReadCloser.Read(p)
}

// wanted returns the counts that the manifest tells.
func wanted(b *catalog.Backup) target.Counts {
	c := target.Counts{}
	for _, db := range b.DBs {
		if db.Keys > 0 {
			c[db.Index] = db.Keys
		}
	}
	return c
}

// A run is one restore.
type run struct {
	*Loader
	admin  *target.Conn
	target *facts // as it was before
	opts   *restore.Options
	src    restore.Source
	in     io.Reader
	backup *catalog.Backup
	size   int64
	want   target.Counts
	method method
	group  sync.WaitGroup

	changed   bool      // something at the target is, or may be, different from before
	former    []setting // that were changed and have to be put back
	following bool      // it was told to replicate from us, and not yet to stop
	link      *replication.Link
	noticed   bool // a Dragonfly knows our replication ID, which comes right before what makes it let go of its data
	took      bool // it said that it has loaded everything
	differs   bool // it has loaded everything, and holds something else than the backup
	loaded    bool // it has loaded everything, and holds what the backup does
	warnings  []string
}

func (r *run) warn(format string, args ...any) {
	r.warnings = append(r.warnings, fmt.Sprintf(format, args...))
}

func (r *run) restore(ctx context.Context) (*restore.Report, error) {
	// All of this is known before something is changed.
	listener, err := r.listen(ctx)
	if err != nil {
		return nil, err
	}
	host, port, err := r.advertised(listener)
	if err != nil {
		listener.Close()
		return nil, err
	}
	r.log.Info("restore begins", "backup", r.backup.ID, "target", r.target.addr, "listen", listener.Addr().String(),
		"bytes", r.size, "replace", (r.opts.Conflict == restore.Replace), "load", r.method.mode)
	start := clock.System()
	primary := &replication.Primary{Listener: listener, Timeout: r.cfg.Stall, Handshake: r.cfg.Contact}
	if err := r.prepare(ctx, primary); err != nil {
		listener.Close()
		return nil, err
	}
	if err := r.follow(ctx, primary, host, port); err != nil {
		return nil, err
	}
	if n, who := primary.Refused(); n > 0 {
		r.warn("%d connections from others than the target were turned away (%s)", n, who)
	}
	if err := r.lookAgain(ctx); err != nil {
		return nil, err
	}
	if err := r.send(ctx); err != nil {
		return nil, err
	}
	if err := r.count(ctx); err != nil {
		return nil, err
	}

	// The data is there. From here on cancelling would only leave the target in our hands.
	report := &restore.Report{
		Backup: r.backup.ID, Target: r.target.addr, Method: "feed", Dialect: r.backup.Parts[0].Dialect,
		Keys: r.want.Total(), Functions: r.backup.Functions, DBs: r.backup.DBs, Bytes: r.size, Proof: restore.Proof{Counted: true},
	}
	finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.cfg.Grace)
	defer cancel()
	if err := r.release(finish); err != nil {
		return nil, err
	}
	r.link.Close()
	if err := r.putBack(finish); err != nil {
		return nil, err
	}
	report.Load = clock.Since(start)
	r.awaitReplicas(ctx)
	if r.target.primary != "" {
		r.warn("the target was a replica of %s, and is a primary now", r.target.primary)
	}
	saves := r.target.settings[setSave] != "" || r.dragonfly()
	if saves && r.target.info.Int("aof_enabled") == 0 && r.method.mode != loadDisk {
		r.warn("the target has the data in memory, and on its disk only after its next save: BGSAVE there, if it should outlive a restart now")
	}
	report.Warnings = r.warnings
	r.log.Info("restore done", "backup", r.backup.ID, "target", r.target.addr, "keys", report.Keys, "bytes", report.Bytes, "load", report.Load)
	return report, nil
}

// follow tells the target to replicate from us and waits for its connection.
func (r *run) follow(ctx context.Context, primary *replication.Primary, host, port string) error {
	late := errors.New("no contact")
	waiting, cancel := context.WithTimeoutCause(ctx, r.cfg.Contact, late)
	defer cancel()
	type result struct {
		link *replication.Link
		err  error
	}
	accepted := make(chan result, 1)
	r.group.Go(func() {
		link, err := primary.Accept(waiting)
		accepted <- result{link, err}
	})
	wasChanged := r.changed
	r.changed, r.following = true, true
	_, err := r.admin.Do(ctx, "REPLICAOF", host, port)
	if err != nil {
		cancel()
		if res := <-accepted; res.link != nil {
			res.link.Close()
		}
		if target.Refused(err) {
			r.changed, r.following = wasChanged, false
			if r.dragonfly() { // it connects before it answers, and says so if it can't
				err = fmt.Errorf("%w; %w", r.noContact(primary, host, port), err)
			}
		}
		return err
	}
	res := <-accepted
	if res.err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	if res.err != nil && errors.Is(context.Cause(waiting), late) {
		return r.noContact(primary, host, port)
	}
	r.link = res.link
	return res.err
}

// noContact explains why nobody came, as far as that can be known.
func (r *run) noContact(primary *replication.Primary, host, port string) error {
	text := fmt.Sprintf("the target didn't connect to us at %s port %s within %v", host, port, r.cfg.Contact)
	if n, who := primary.Refused(); n > 0 {
		return fmt.Errorf("%s; %d connections were turned away (%s). If one of them was the target: it may come from another address, which is no matter when the user may CONFIG SET masterauth, or not trust our certificate", text, n, who)
	}
	return fmt.Errorf("%s: is there a firewall, or NAT? Set Config.Advertise to an address of this machine that the target can reach, and Config.Listen to a port that is open to it", text)
}

// lookAgain looks for data that came between the check and now. As a replica the target takes none any more, and it still has
// all that it had.
func (r *run) lookAgain(ctx context.Context) error {
	info, _, err := r.admin.Info(ctx)
	if err != nil {
		return fmt.Errorf("looking for data that came after the check: %w", err)
	}
	r.target.keys = target.Keyspace(info)
	r.target.info["number_of_libraries"] = info["number_of_libraries"]
	if r.target.hasData() && !(r.opts.Conflict == restore.Replace) {
		return fmt.Errorf("%w: somebody else wrote to it after it was checked, %d keys and %d function libraries",
			restore.ErrNotEmpty, r.target.keys.Total(), r.target.libraries())
	}
	return nil
}

// send gives the target the stream and waits until it has loaded it.
func (r *run) send(ctx context.Context) error {
	stop := r.showProgress(ctx)
	done := make(chan error, 1)
	r.group.Go(func() {
		err := r.link.FullSync(ctx, r.in, r.size)
		if err == nil {
			err = r.link.Loaded(ctx)
		}
		done <- err
	})
	var err error
	select {
	case err = <-done:
	case <-ctx.Done(): // the source may take its time; the target is brought back meanwhile
		err = ctx.Err()
	}
	stop()
	var source *replication.SourceError
	if err != nil && ctx.Err() == nil && !errors.As(err, &source) && r.link.Sent() == r.size && r.loadedAnyway(ctx) {
		r.log.Warn("the connection of the target broke while it was loading, and it loaded all", "target", r.target.addr, "error", err)
		err = nil
	}
	if err == nil {
		r.took = true
		r.progress(restore.Progress{Stage: restore.StageLoad, Bytes: r.size, Total: r.size})
	}
	return err
}

// loadedAnyway tells whether the target has taken the whole stream although its connection broke. It waits while the target loads.
func (r *run) loadedAnyway(ctx context.Context) bool {
	seen, still := int64(-1), clock.System()
	for {
		info, _, err := r.admin.Info(ctx)
		switch {
		case err != nil:
			return false
		case r.tookAll(info):
			return true
		case info.Int("loading") == 0:
			return false
		}
		if n := info.Int("loading_loaded_bytes") + target.Keyspace(info).Total(); n != seen {
			seen, still = n, clock.System()
		}
		if clock.Since(still) > r.cfg.Stall || clock.Sleep(ctx, pollEvery) != nil {
			return false
		}
	}
}

// tookAll tells whether a target that replicates from us has taken the whole stream: then our replication ID is its own. Dragonfly
// tells our ID from the beginning, and where it is in our stream when it has loaded.
func (r *run) tookAll(info resp.Info) bool {
	if r.dragonfly() && (info["slave_repl_offset"] == "" || info.Int("loading") == 1) {
		return false
	}
	return info["master_replid"] == r.link.ID()
}

// showProgress reports until the returned function is called.
func (r *run) showProgress(ctx context.Context) (stop func()) {
	if r.opts.Progress == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	a := target.New(r.cfg.Options, r.cfg.Stall)
	var best int64
	r.progress(restore.Progress{Stage: restore.StageLoad, Total: r.size})
	halt := clock.Every(progressEvery, func() {
		bytes := r.link.Sent()
		if r.method.mode == loadDisk {
			// Spooling and loading take one half each.
			if bytes == r.size {
				if info, _, err := a.Info(ctx); err == nil && info.Int("loading") == 1 {
					bytes += min(info.Int("loading_loaded_bytes"), r.size)
				}
			}
			bytes /= 2
		}
		best = max(best, bytes)
		if ctx.Err() == nil {
			r.progress(restore.Progress{Stage: restore.StageLoad, Bytes: best, Total: r.size})
		}
	})
	return func() {
		cancel()
		halt()
		a.Close()
	}
}

func (r *run) progress(p restore.Progress) {
	if r.opts.Progress != nil {
		r.opts.Progress(p)
	}
}

// release makes the target a primary of its own again, while the link to it is still there: a replica whose link broke
// comes back at once.
func (r *run) release(ctx context.Context) error {
	if err := r.detach(ctx); err != nil {
		return err
	}
	info, _, err := r.admin.Info(ctx)
	if err != nil {
		return fmt.Errorf("asking the target for its role: %w", err)
	}
	if info["role"] != "master" {
		return fmt.Errorf("the target is a replica of %s:%s, as somebody else told it: is it watched by a Sentinel or an operator?", info["master_host"], info["master_port"])
	}
	return nil
}

// detach sends REPLICAOF NO ONE until the target has taken it or ctx ends.
func (r *run) detach(ctx context.Context) error {
	var last error
	for {
		_, err := r.admin.Do(ctx, "REPLICAOF", "NO", "ONE")
		if err == nil {
			r.following = false
			return nil
		}
		if last == nil || ctx.Err() == nil { // the end of ctx tells less than the error before it
			last = err
		}
		if target.Denied(err) || clock.Sleep(ctx, pollEvery) != nil {
			return last
		}
	}
}

// awaitReplicas waits until as many replicas as before have found their way back.
func (r *run) awaitReplicas(ctx context.Context) {
	want := r.target.replicas()
	if want == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Grace)
	defer cancel()
	for {
		info, _, err := r.admin.Info(ctx)
		if err == nil && info.Int("connected_slaves") >= want {
			return
		}
		if clock.Sleep(ctx, pollEvery) != nil {
			r.warn("of the target's %d replicas %d are back after %v; they copy the new data from it", want, info.Int("connected_slaves"), r.cfg.Grace)
			return
		}
	}
}
