package storetest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/amberkv/amber/storage"
)

// ErrInjected is what a Faulty's operations fail with, unless a Fault has an error of its own.
var ErrInjected = errors.New("fault injected by a test")

// An Op is a kind of call that a Faulty counts and can make fail.
type Op string

// The calls of a store, its writers and its readers. A List is one call, whatever it gives.
const (
	OpCreate Op = "create"
	OpWrite  Op = "write"
	OpCommit Op = "commit"
	OpAbort  Op = "abort"
	OpOpen   Op = "open"
	OpRead   Op = "read"
	OpStat   Op = "stat"
	OpList   Op = "list"
	OpDelete Op = "delete"
	OpSweep  Op = "sweep"
)

// A Mode says how a call fails.
type Mode int

// The modes of a fault.
const (
	// Before: the call returns the error and has no effect. Of an Abort the unfinished object stays in the store.
	Before Mode = iota
	// After: the call has its whole effect, and then returns the error: its answer was lost.
	After
	// Hang: the call waits until its context ends, and has no effect. For calls of a writer or reader it is the context that
	// Create, Commit or Open was called with. An Abort doesn't hang but fails as with Before.
	Hang
	// NoSpace: the object's byte number Fault.Byte, from 0, finds no space: the Write that has it writes what comes before
	// it and returns syscall.ENOSPC, unless the Fault has an error of its own, as does every later Write; and Commit fails. For OpWrite only.
	NoSpace
	// ShortWrite: half of the bytes are written, and the Write says so: with io.ErrShortWrite, unless the Fault has an error of its own.
	ShortWrite
	// Stall: nothing comes of the call for Fault.For, or until its context ends; then it goes on as if nothing had been.
	Stall
	// Flip: one bit in the middle of the bytes is another one, and nobody says so: of a Read in what it gives, of a Write in what the store
	// keeps. A call without bytes is left as it is. For OpRead and OpWrite only.
	Flip
	// Cut: bytes are missing, and nobody says so: a Read says that the object ends, those of a Write are not kept. For OpRead and OpWrite only.
	Cut
	// Unseen: the listing is older than the last Commit: the object that was committed last through this Faulty, of those that would be listed,
	// is not there. For OpList only, as are those that follow.
	Unseen
	// Undead: the listing is older than every Delete: what was deleted through this Faulty is still there.
	Undead
	// Doubled: everything is listed twice.
	Doubled
	// Midway: half of the objects are listed, and then comes the error.
	Midway
)

// fits says whether a call of a kind can fail so. A fault that doesn't fit never fires.
func (m Mode) fits(op Op) bool {
	switch m {
	case NoSpace, ShortWrite:
		return op == OpWrite
	case Flip, Cut:
		return op == OpRead || op == OpWrite
	case Unseen, Undead, Doubled, Midway:
		return op == OpList
	}
	return true
}

// A Fault says which call fails, and how.
type Fault struct {
	Op   Op
	Key  string // only calls for keys that contain it count; for a List its prefix
	Call int    // the number of the call among those that count, from 1; 0 means every one
	On   bool   // every call after that one fails too
	Mode Mode
	Byte int64         // for NoSpace
	Err  error         // nil means ErrInjected, or what the mode says; storage.ErrTransient makes a failure for the moment
	For  time.Duration // for Stall; 0: 50 ms
}

// A Faulty is a store that fails where its faults say, and counts the calls it gets. Run a test once without faults to
// know how many calls it makes, and then once for every call and mode. It is safe for use by several goroutines.
type Faulty struct {
	store storage.Store

	mu     sync.Mutex
	faults []*Fault
	seen   []int // calls that counted for each fault
	calls  map[Op]int
	hits   []string

	committed []string                // keys, in that order
	remembers bool                    // there is a fault that needs deleted
	deleted   map[string]storage.Info // as they were
}

// NewFaulty returns a store that works on s and fails as the faults say; of several that fit a call the first counts.
func NewFaulty(s storage.Store, faults ...Fault) *Faulty {
	f := &Faulty{store: s, calls: make(map[Op]int), deleted: make(map[string]storage.Info)}
	for _, fault := range faults {
		f.faults = append(f.faults, &fault)
		f.remembers = f.remembers || fault.Mode == Undead
	}
	f.seen = make([]int, len(faults))
	return f
}

// Calls returns how many calls of a kind there were.
func (f *Faulty) Calls(op Op) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[op]
}

// Fired returns how many calls were made to fail. A test whose fault never fired has tested nothing.
func (f *Faulty) Fired() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.hits)
}

// Hits returns the calls that were made to fail, in order: each as its Op, a space and its key.
func (f *Faulty) Hits() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.hits)
}

// meets says whether a fault is for a call of the given number.
func (fault *Fault) meets(call int) bool {
	return fault.Call == 0 || call == fault.Call || fault.On && call > fault.Call
}

// fault counts a call and returns the fault it has to meet, or nil. A NoSpace fault decides later.
func (f *Faulty) fault(op Op, key string) *Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[op]++
	var hit *Fault
	for i, fault := range f.faults {
		if fault.Mode == NoSpace || fault.Op != op || !fault.Mode.fits(op) || !strings.Contains(key, fault.Key) {
			continue
		}
		f.seen[i]++
		if hit == nil && fault.meets(f.seen[i]) {
			hit = fault
			f.hits = append(f.hits, string(op)+" "+key)
		}
	}
	return hit
}

// full returns the NoSpace fault for a writer that is about to be created, or nil; Call counts writers.
func (f *Faulty) full(key string) *Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	var hit *Fault
	for i, fault := range f.faults {
		if fault.Mode != NoSpace || fault.Op != OpWrite || !strings.Contains(key, fault.Key) {
			continue
		}
		f.seen[i]++
		if hit == nil && fault.meets(f.seen[i]) {
			hit = fault
		}
	}
	return hit
}

func (f *Faulty) err(fault *Fault, op Op, key string) error {
	err := fault.Err
	switch {
	case err != nil:
	case fault.Mode == NoSpace:
		err = syscall.ENOSPC
	case fault.Mode == ShortWrite:
		err = io.ErrShortWrite
	default:
		err = ErrInjected
	}
	return fmt.Errorf("storetest: %s %s: %w", op, key, err)
}

// call makes a call meet its fault, if it has one. What a mode does to the bytes of a call or to a listing is the business of those who
// know them: they look for the fault themselves and call meet.
func (f *Faulty) call(ctx context.Context, op Op, key string, do func() error) error {
	return f.meet(ctx, f.fault(op, key), op, key, do)
}

func (f *Faulty) meet(ctx context.Context, fault *Fault, op Op, key string, do func() error) error {
	if fault == nil {
		return do()
	}
	switch fault.Mode {
	case Flip: // there is nothing to flip
		return do()
	case After:
		if err := do(); err != nil {
			return err
		}
	case Hang:
		if op == OpAbort {
			break
		}
		<-ctx.Done()
		return fmt.Errorf("storetest: %s %s: %w", op, key, ctx.Err())
	case Stall:
		timer := time.NewTimer(cmp.Or(fault.For, 50*time.Millisecond))
		defer timer.Stop()
		select {
		case <-timer.C:
			return do()
		case <-ctx.Done():
			return fmt.Errorf("storetest: %s %s: %w", op, key, ctx.Err())
		}
	}
	return f.err(fault, op, key)
}

// Unwrap returns the store that f works on.
func (f *Faulty) Unwrap() storage.Store { return f.store }

// Create starts an object. With a fault After it, the writer that the caller doesn't get is aborted.
func (f *Faulty) Create(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
	var w storage.Writer
	err := f.call(ctx, OpCreate, key, func() (err error) {
		w, err = f.store.Create(ctx, key, opts)
		return err
	})
	if err != nil {
		if w != nil {
			w.Abort()
		}
		return nil, err
	}
	return &faultyWriter{f: f, ctx: ctx, key: key, w: w, full: f.full(key)}, nil
}

// Open reads an object.
func (f *Faulty) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	var r io.ReadCloser
	err := f.call(ctx, OpOpen, key, func() (err error) {
		r, err = f.store.Open(ctx, key, off, n)
		return err
	})
	if err != nil {
		if r != nil {
			r.Close()
		}
		return nil, err
	}
	faulty := &faultyReader{f: f, ctx: ctx, key: key, ReadCloser: r}
	if v, ok := r.(storage.Versioned); ok {
		return struct {
			*faultyReader
			storage.Versioned
		}{faulty, v}, nil
	}
	return faulty, nil
}

// Stat tells size and time of an object.
func (f *Faulty) Stat(ctx context.Context, key string) (storage.Info, error) {
	var info storage.Info
	err := f.call(ctx, OpStat, key, func() (err error) {
		info, err = f.store.Stat(ctx, key)
		return err
	})
	if err != nil {
		return storage.Info{}, err
	}
	return info, nil
}

// List gives the objects under a prefix. A fault After it comes when all were given.
func (f *Faulty) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		more := true
		fault := f.fault(OpList, prefix)
		list := func() error {
			for info, err := range f.store.List(ctx, prefix) {
				if err != nil {
					return err
				}
				if more = yield(info, nil); !more {
					return nil
				}
			}
			return nil
		}
		var err error
		if fault != nil && !fault.Mode.fits(OpStat) {
			err = f.listWrong(ctx, fault, prefix, func(info storage.Info) bool {
				more = yield(info, nil)
				return more
			})
		} else {
			err = f.meet(ctx, fault, OpList, prefix, list)
		}
		if err != nil && more {
			yield(storage.Info{}, err)
		}
	}
}

// listWrong gives a listing that is not what the store holds.
func (f *Faulty) listWrong(ctx context.Context, fault *Fault, prefix string, give func(storage.Info) bool) error {
	var infos []storage.Info
	for info, err := range f.store.List(ctx, prefix) {
		if err != nil {
			return err
		}
		infos = append(infos, info)
	}
	at := func(key string) (int, bool) {
		return slices.BinarySearchFunc(infos, key, func(i storage.Info, key string) int { return strings.Compare(i.Key, key) })
	}
	f.mu.Lock()
	switch fault.Mode {
	case Unseen:
		for _, key := range slices.Backward(f.committed) {
			if i, ok := at(key); ok {
				infos = slices.Delete(infos, i, i+1)
				break
			}
		}
	case Undead:
		for key, info := range f.deleted {
			if i, ok := at(key); !ok && strings.HasPrefix(key, prefix) {
				infos = slices.Insert(infos, i, info)
			}
		}
	}
	f.mu.Unlock()
	for i, info := range infos {
		if fault.Mode == Midway && i >= len(infos)/2 {
			break
		}
		if !give(info) || fault.Mode == Doubled && !give(info) {
			return nil
		}
	}
	if fault.Mode == Midway {
		return f.err(fault, OpList, prefix)
	}
	return nil
}

// Delete removes an object.
func (f *Faulty) Delete(ctx context.Context, key string) error {
	return f.call(ctx, OpDelete, key, func() error {
		var info storage.Info
		if f.remembers {
			info, _ = f.store.Stat(ctx, key)
		}
		err := f.store.Delete(ctx, key)
		if f.remembers && err == nil {
			f.mu.Lock()
			f.deleted[key] = info
			f.mu.Unlock()
		}
		return err
	})
}

// SweepUnfinished sweeps the store if that is a storage.Sweeper; else it does nothing.
func (f *Faulty) SweepUnfinished(ctx context.Context, before time.Time) (objects int, bytes int64, err error) {
	err = f.call(ctx, OpSweep, "", func() (err error) {
		objects, bytes, err = storage.SweepUnfinished(ctx, f.store, before)
		return err
	})
	return objects, bytes, err
}

type faultyWriter struct {
	f      *Faulty
	ctx    context.Context
	key    string
	w      storage.Writer
	full   *Fault // nil if there is space
	size   int64
	failed error // set when a byte was lost, so that the object can't be committed
}

func (w *faultyWriter) Write(p []byte) (int, error) {
	if w.failed != nil {
		return 0, w.failed
	}
	n := 0
	fault := w.f.fault(OpWrite, w.key)
	write := func() (err error) {
		if w.full != nil && w.size+int64(len(p)) > w.full.Byte {
			n, err = w.w.Write(p[:w.full.Byte-w.size])
			if err == nil {
				w.f.mu.Lock()
				w.f.hits = append(w.f.hits, string(OpWrite)+" "+w.key)
				w.f.mu.Unlock()
				err = w.f.err(w.full, OpWrite, w.key)
			}
			return err
		}
		n, err = w.w.Write(p)
		return err
	}
	var err error
	switch {
	case fault != nil && fault.Mode == ShortWrite:
		if n, err = w.w.Write(p[:len(p)/2]); err == nil {
			err = w.f.err(fault, OpWrite, w.key)
		}
	case fault != nil && fault.Mode == Flip && len(p) > 0:
		p = bytes.Clone(p)
		p[len(p)/2] ^= 1
		err = write()
	case fault != nil && fault.Mode == Cut:
		return len(p), nil
	default:
		err = w.f.meet(w.ctx, fault, OpWrite, w.key, write)
	}
	w.size += int64(n)
	w.failed = err
	return n, err
}

func (w *faultyWriter) Commit(ctx context.Context) (storage.Info, error) {
	if w.failed != nil {
		w.w.Abort()
		return storage.Info{}, w.failed
	}
	var info storage.Info
	err := w.f.call(ctx, OpCommit, w.key, func() (err error) {
		info, err = w.w.Commit(ctx)
		if err == nil {
			w.f.mu.Lock()
			w.f.committed = append(w.f.committed, w.key)
			w.f.mu.Unlock()
		}
		return err
	})
	if err != nil {
		w.failed = err
		w.w.Abort() // if it was not committed; a failed Commit ends the writer
		return storage.Info{}, err
	}
	return info, nil
}

func (w *faultyWriter) Abort() error {
	return w.f.call(w.ctx, OpAbort, w.key, w.w.Abort)
}

type faultyReader struct {
	f   *Faulty
	ctx context.Context
	key string
	cut bool
	io.ReadCloser
}

func (r *faultyReader) Read(p []byte) (n int, err error) {
	if r.cut {
		return 0, io.EOF
	}
	fault := r.f.fault(OpRead, r.key)
	read := func() error {
		n, err = r.ReadCloser.Read(p)
		return err
	}
	switch {
	case fault != nil && fault.Mode == Flip:
		if err = read(); n > 0 {
			p[n/2] ^= 1
		}
	case fault != nil && fault.Mode == Cut:
		r.cut, err = true, io.EOF
	default:
		err = r.f.meet(r.ctx, fault, OpRead, r.key, read)
	}
	return n, err
}
