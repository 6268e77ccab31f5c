package command

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/restore"
)

// A job is a value that takes several commands. They go over one link, under a temporary name; when all were answered the value
// gets its own name.
type job struct {
	f         *feeder
	link      *link
	db        int
	key, temp []byte
	typ       rdb.Type
	expires   bool
	expireAt  int64
	commands  int
	size      int64 // of its payload, if it goes by one RESTORE as it is read
	losses    []loss

	mu       sync.Mutex
	left     int32 // commands without an answer, and one more while the value is being made
	naming   bool  // the commands under way give it its name
	refused  bool  // RENAMENX: there is such a key
	lost     bool  // commands were lost with their connection: it has to be made anew
	err      string
	vanished bool // it may have expired before it had its name
}

// jobKey names a key among those that are made anew.
func jobKey(db int, key []byte) string { return strconv.Itoa(db) + "/" + string(key) }

// answered notes an answer that is no error.
func (j *job) answered(kind opKind, a reply) {
	j.mu.Lock()
	if kind == opFinish && a.kind == ':' && a.n == 0 && j.naming {
		j.refused = true // of PEXPIREAT it is: there is no such key, which RENAMENX then says, too
	}
	j.settle(1)
}

// interrupted notes that the commands of an op were lost.
func (j *job) interrupted(commands int32) {
	j.mu.Lock()
	j.lost = true
	j.settle(commands)
}

// fail notes an error reply.
func (j *job) fail(text string, again bool) {
	j.mu.Lock()
	if again {
		j.lost = true
	} else if j.err == "" {
		j.err = text
	}
	j.settle(1)
}

// settle takes answers off, and hands the job over when there were all. It unlocks.
func (j *job) settle(n int32) {
	j.left -= n
	done := j.left == 0
	j.mu.Unlock()
	if done {
		f := j.f
		f.mu.Lock()
		f.ready = append(f.ready, j)
		f.mu.Unlock()
		f.notify()
	}
}

// broken tells whether more commands for the value are in vain.
func (j *job) broken() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.lost || j.err != ""
}

// errBrokenJob ends the making of a value that is in vain.
var errBrokenJob = errors.New("the value is made in vain")

// newJob begins a value.
func (f *feeder) newJob(e *rdb.Entry) *job {
	j := &job{f: f, link: f.linkFor(e.Key), db: e.DB, key: bytes.Clone(e.Key), typ: e.Type, expires: e.HasExpiry, expireAt: e.ExpireAt, left: 1}
	f.r.fix.Lock()
	j.temp = f.r.appendTemp(nil, e.Key)
	f.r.fix.Unlock()
	f.mu.Lock()
	f.jobs++
	f.mu.Unlock()
	if f.ordered {
		f.building[jobKey(j.db, j.key)] = true
	}
	return j
}

// streamed ends a value that went by one RESTORE as it was read.
func (f *feeder) streamed(j *job, lost bool, failed string) error {
	switch {
	case lost:
		f.endJob()
		f.r.again(j.db, j.key, j.size)
		return nil
	case strings.HasPrefix(failed, "BUSYKEY"):
		f.endJob()
		f.r.exists(&op{db: int32(j.db)}, appendCommand(nil, "RESTORE", string(j.key)))
		return nil
	case failed != "":
		f.endJob()
		return f.r.failKey(int32(j.db), j.key, failed)
	}
	f.r.mu.Lock()
	f.r.converted-- // for it isn't
	f.r.mu.Unlock()
	return f.named(j)
}

// appendTemp appends a new temporary name in the slot of a key. The caller has r.fix.
func (r *run) appendTemp(b, key []byte) []byte {
	r.temps++
	b = append(b, tempPrefix...)
	b = append(b, r.nonce...)
	b = append(b, ':')
	b = strconv.AppendInt(b, r.temps, 10)
	if r.tagger != nil {
		b = r.tagger.appendTag(b, key)
	}
	return b
}

// nonce makes the names of a run its own.
func nonce() string {
	b := make([]byte, 6)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// maxJobs is how many values wait for their names.
const maxJobs = 1000

// build makes a value by plain commands.
func (f *feeder) build(e *rdb.Entry) error {
	if err := f.r.facts.caps.rebuildable(e); err != nil {
		return f.r.failKey(int32(e.DB), e.Key, err.Error())
	}
	for f.openJobs() >= maxJobs {
		if err := f.flush(); err != nil {
			return err
		}
	}
	j := f.newJob(e)
	return f.made(j, e, f.make(j, e, f.in.Elements()))
}

func (f *feeder) openJobs() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.jobs
}

// make emits the commands that make a value.
func (f *feeder) make(j *job, e *rdb.Entry, elements iter.Seq2[*rdb.Element, error]) error {
	b := f.rebuilder
	if b == nil {
		b = &rebuilder{}
		f.rebuilder = b
	}
	b.caps = f.r.facts.caps
	if f.r.parksFields {
		b.putOff = f.r.parkedField
	}
	before := 0
	b.emit = func(commands []byte) error {
		if j.broken() {
			return errBrokenJob
		}
		n := int32(b.commands - before)
		before = b.commands
		return f.emit(j, op{kind: opBuild, db: int32(j.db), job: j, replies: n}, commands)
	}
	var err error
	j.commands, err = b.value(j.temp, e, elements)
	j.vanished = b.mayVanish
	j.losses = slices.Clone(b.lost)
	return err
}

// emit adds commands of a job to the open chunk of its link.
func (f *feeder) emit(j *job, o op, commands []byte) error {
	c, err := f.chunk(j.link, j.db)
	if err != nil {
		return err
	}
	if len(c.buf) > c.from && len(c.buf)+len(commands) > f.r.depot.size {
		if err := f.send(j.link); err != nil {
			return err
		}
		if c, err = f.chunk(j.link, j.db); err != nil {
			return err
		}
	}
	j.mu.Lock()
	j.left += o.replies
	j.mu.Unlock()
	f.r.depot.room(c, len(commands))
	c.buf = append(c.buf, commands...)
	c.add(o)
	return nil
}

// made ends the making of a value.
func (f *feeder) made(j *job, e *rdb.Entry, err error) error {
	var size *sizeError
	switch {
	case err == nil || errors.Is(err, errBrokenJob):
	case errors.As(err, &size) && e.Type == rdb.TypeString:
		// Nothing was emitted.
		raised, why := f.r.raise(f.ctx, size.size)
		j.mu.Lock()
		if raised {
			j.lost = true
		} else {
			j.err = fmt.Sprintf("%v (%v)", err, why)
		}
		j.mu.Unlock()
	case errors.As(err, &size), errors.Is(err, errNotRebuildable):
		j.mu.Lock()
		j.err = err.Error()
		j.mu.Unlock()
	default:
		return err // of the source, or of the run
	}
	j.mu.Lock()
	j.settle(1)
	return nil
}

// finishReady gives values their names, and takes note of those that have them.
func (f *feeder) finishReady() error {
	for {
		f.mu.Lock()
		if len(f.ready) == 0 {
			f.mu.Unlock()
			return nil
		}
		j := f.ready[0]
		f.ready = f.ready[1:]
		f.mu.Unlock()
		if err := f.advance(j); err != nil {
			return err
		}
	}
}

// advance takes a job of which all commands were answered one step further.
func (f *feeder) advance(j *job) error {
	j.mu.Lock()
	lost, failed, naming, refused := j.lost, j.err, j.naming, j.refused
	j.mu.Unlock()
	if j.size > 0 {
		return f.streamed(j, lost, failed)
	}
	switch {
	case lost: // what was refused after that may have been refused for it
	case failed != "" && naming && (j.vanished || j.expires) && strings.Contains(failed, "no such key"):
		return f.named(j) // it has expired meanwhile
	case failed != "":
		if err := f.drop(j); err != nil {
			return err
		}
		return f.r.failKey(int32(j.db), j.key, failed)
	case !naming && j.commands == 0:
		return f.named(j) // all of it had expired
	case !naming:
		return f.nameIt(j)
	case refused:
		own := false // it was written before by the same restore
		if f.r.carriesOn && f.r.opts.Conflict == restore.MergeFail {
			var err error
			if own, err = f.r.sameAsTemp(f.ctx, j); err != nil {
				return err
			}
		}
		if err := f.drop(j); err != nil {
			return err
		}
		if own {
			f.mu.Lock()
			f.jobs++
			f.mu.Unlock()
			return f.named(j)
		}
		f.r.exists(&op{db: int32(j.db)}, appendCommand(nil, "RENAMENX", string(j.key)))
		return nil
	default:
		return f.named(j)
	}
	if naming {
		has, err := f.r.hasTemp(f.ctx, j)
		if err != nil {
			return err
		}
		if !has {
			return f.named(j) // it has its name, and only the answer was lost
		}
	}
	if err := f.drop(j); err != nil {
		return err
	}
	f.r.again(j.db, j.key, j.size)
	return nil
}

// nameIt sends what gives a value its expiry and its name.
func (f *feeder) nameIt(j *job) error {
	j.naming = true
	var b []byte
	o := op{kind: opFinish, db: int32(j.db), job: j, replies: 1}
	if j.expires {
		b = appendCommand(b, "PEXPIREAT", string(j.temp), strconv.FormatInt(f.r.parked(max(j.expireAt, 1)), 10))
		o.replies++
	}
	verb := "RENAMENX"
	switch f.r.opts.Conflict {
	case restore.Replace, restore.MergeOverwrite:
		verb = "RENAME"
	case restore.IntoEmpty:
		if f.r.carriesOn || f.only != nil || f.ordered {
			verb = "RENAME"
		}
	}
	b = appendCommand(b, verb, string(j.temp), string(j.key))
	return f.emit(j, o, b)
}

// named counts a value that has its name.
func (f *feeder) named(j *job) error {
	o := op{db: int32(j.db), typ: j.typ}
	switch {
	case j.expires:
		o.minute = f.r.tally.minuteOf(j.expireAt)
	case j.vanished:
		o.minute = 1
	}
	f.r.tally.add(&o)
	f.r.lose(j, j.losses)
	f.r.mu.Lock()
	f.r.converted++
	f.r.mu.Unlock()
	f.endJob()
	return nil
}

func (f *feeder) endJob() {
	f.mu.Lock()
	f.jobs--
	f.mu.Unlock()
}

// drop removes what there is of a value, and ends its job.
func (f *feeder) drop(j *job) error {
	f.endJob()
	f.r.fix.Lock()
	defer f.r.fix.Unlock()
	return f.r.dropTemp(f.ctx, j)
}

// dropTemp removes a temporary name. The caller has r.fix.
func (r *run) dropTemp(ctx context.Context, j *job) error {
	_, err := r.ask(ctx, j.temp, j.db, "DEL", string(j.temp))
	return err
}

// again lets a value be made anew, when all parts were read; by one RESTORE of a payload of some size if that isn't zero.
func (r *run) again(db int, key []byte, size int64) {
	if r.commanded.Load() {
		r.stop(fmt.Errorf("key %s was being written by several commands when a connection broke, or has no room in memory, and the backup's commands behind it may have been executed",
			r.name(int32(db), key)))
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.redo[jobKey(db, key)] = size
}

// hasTemp tells whether a value still has its temporary name, and so not its own.
func (r *run) hasTemp(ctx context.Context, j *job) (bool, error) {
	r.fix.Lock()
	defer r.fix.Unlock()
	n, err := r.ask(ctx, j.temp, j.db, "EXISTS", string(j.temp))
	return n > 0, err
}

// sameAsTemp tells whether the target has just the value that was made under a temporary name, by its own DUMPs.
func (r *run) sameAsTemp(ctx context.Context, j *job) (bool, error) {
	r.fix.Lock()
	defer r.fix.Unlock()
	var dumps [2]string
	for i, name := range [][]byte{j.temp, j.key} {
		command := appendCommand(nil, "DUMP", string(name))
		reply, text, err := r.persist(ctx, nil, j.key, int32(j.db), &command, "", func() {})
		if err != nil {
			return false, err
		}
		if text != "" {
			return false, fmt.Errorf("comparing key %s: %s", r.name(int32(j.db), j.key), text)
		}
		dumps[i] = reply.Text
	}
	return sameDumps(dumps[0], dumps[1]), nil
}

// refusedPart deals with the error reply to one of the commands of a value.
func (r *run) refusedPart(ctx context.Context, n *node, o *op, text string) error {
	code := codeOf([]byte(text))
	switch {
	case o.kind == opDrop:
		o.job.fail("", true)
	case code == "MOVED" || code == "ASK" || passing(code) || code == "READONLY" && r.cluster():
		if r.cluster() && r.topo.Load().of(o.job.key) == n {
			r.refresh(ctx) // what doesn't help is seen when it is made anew
		}
		o.job.fail(text, true)
	case code == "OOM":
		r.fix.Lock()
		defer r.fix.Unlock()
		if r.freeing(ctx, code) {
			o.job.fail(text, true)
			return nil
		}
		return r.outOfMemory(ctx, text)
	case code == "NOPERM" || code == "MISCONF" || code == "NOREPLICAS" || strings.Contains(strings.ToLower(text), "unknown command"):
		return fmt.Errorf("key %s: the target refuses to write: %s", r.name(o.db, o.job.key), text)
	default:
		o.job.fail(text, false)
	}
	return nil
}

// lose takes note of what commands couldn't express of a value.
func (r *run) lose(j *job, lost []loss) {
	for _, l := range lost {
		r.loseOf(j.db, j.key, l.kind)
	}
}

func (r *run) loseOf(db int, key []byte, kind rdb.Loss) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rep := r.losses[kind]
	if rep == nil {
		rep = &restore.LossReport{Name: string(kind)}
		r.losses[kind] = rep
	}
	rep.Count++
	if len(rep.Keys) < maxNamed {
		rep.Keys = append(rep.Keys, r.name(int32(db), key))
	}
}

// A large is a value that is too large for one RESTORE. Its payload is taken apart while it arrives.
type large struct {
	f    *feeder
	e    *rdb.Entry
	j    *job
	pipe *io.PipeWriter
	done chan error
}

// enlarge begins to take a value apart, of which the payload begins with some bytes.
func (f *feeder) enlarge(prefix []byte) (*large, error) {
	e := f.collect.entry
	l := &large{f: f, e: e, done: make(chan error, 1)}
	if f.r.facts.caps.rebuildable(e) != nil {
		return l, nil // its size is what is to be known first: see finish
	}
	l.j = f.newJob(e)
	out, in := io.Pipe()
	l.pipe = in
	from := f.in.Dialect()
	head := bytes.Clone(prefix)
	f.r.builders.Go(func() {
		err := l.take(io.MultiReader(bytes.NewReader(head), out), from)
		if err != nil {
			io.Copy(io.Discard, out) // the stream goes on behind the value
		}
		l.done <- err
	})
	return l, nil
}

// take makes the value of its payload.
func (l *large) take(payload io.Reader, from rdb.Dialect) error {
	in := rdb.NewPayloadReader(payload, from, l.e, l.f.r.readerOptions())
	e, err := in.Next()
	if err != nil {
		return err
	}
	if err := l.f.make(l.j, e, in.Elements()); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, payload) // the footer
	return err
}

// Write takes a piece of the payload.
func (l *large) Write(p []byte) (int, error) {
	if l.j == nil {
		return len(p), nil
	}
	return l.pipe.Write(p)
}

// finish ends the value, of which the payload has n bytes.
func (l *large) finish(n int64) error {
	if l.j == nil {
		if most := l.f.r.facts.maxBulk; n > most {
			return l.f.r.failKey(int32(l.e.DB), l.e.Key, fmt.Sprintf("%v, and its RESTORE would take %d bytes, of at most %d: raise the target's proto-max-bulk-len",
				l.f.r.facts.caps.rebuildable(l.e), n, most))
		}
		l.f.r.again(l.e.DB, l.e.Key, n)
		return nil
	}
	l.pipe.Close()
	return l.f.made(l.j, l.e, <-l.done)
}

// abandon ends it when the source has failed.
func (l *large) abandon() {
	if l.j == nil {
		return
	}
	l.pipe.CloseWithError(io.ErrUnexpectedEOF)
	<-l.done
}
