package storetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
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
)

// A Fault says which call fails, and how.
type Fault struct {
	Op   Op
	Key  string // only calls for keys that contain it count; for a List its prefix
	Call int    // the number of the call among those that count, from 1; 0 means every one
	Mode Mode
	Byte int64 // for NoSpace
	Err  error // nil means ErrInjected, or syscall.ENOSPC for NoSpace
}

// A Faulty is a store that fails where its faults say, and counts the calls it gets. Run a test once without faults to
// know how many calls it makes, and then once for every call and mode. It is safe for use by several goroutines.
type Faulty struct {
	store storage.Store

	mu     sync.Mutex
	faults []*Fault
	seen   []int // calls that counted for each fault
	calls  map[Op]int
	fired  int
}

// NewFaulty returns a store that works on s and fails as the faults say; of several that fit a call the first counts.
func NewFaulty(s storage.Store, faults ...Fault) *Faulty {
	f := &Faulty{store: s, calls: make(map[Op]int)}
	for _, fault := range faults {
		f.faults = append(f.faults, &fault)
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
	return f.fired
}

// fault counts a call and returns the fault it has to meet, or nil. A NoSpace fault decides later.
func (f *Faulty) fault(op Op, key string) *Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[op]++
	var hit *Fault
	for i, fault := range f.faults {
		if fault.Mode == NoSpace || fault.Op != op || !strings.Contains(key, fault.Key) {
			continue
		}
		f.seen[i]++
		if hit == nil && (fault.Call == 0 || fault.Call == f.seen[i]) {
			hit = fault
			f.fired++
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
		if hit == nil && (fault.Call == 0 || fault.Call == f.seen[i]) {
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
	default:
		err = ErrInjected
	}
	return fmt.Errorf("storetest: %s %s: %w", op, key, err)
}

// call makes a call meet its fault, if it has one. It is here that a new Mode comes in.
func (f *Faulty) call(ctx context.Context, op Op, key string, do func() error) error {
	fault := f.fault(op, key)
	if fault == nil {
		return do()
	}
	switch fault.Mode {
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
	return &faultyReader{f: f, ctx: ctx, key: key, ReadCloser: r}, nil
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
		err := f.call(ctx, OpList, prefix, func() error {
			for info, err := range f.store.List(ctx, prefix) {
				if err != nil {
					return err
				}
				if more = yield(info, nil); !more {
					return nil
				}
			}
			return nil
		})
		if err != nil && more {
			yield(storage.Info{}, err)
		}
	}
}

// Delete removes an object.
func (f *Faulty) Delete(ctx context.Context, key string) error {
	return f.call(ctx, OpDelete, key, func() error { return f.store.Delete(ctx, key) })
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
	err := w.f.call(w.ctx, OpWrite, w.key, func() (err error) {
		if w.full != nil && w.size+int64(len(p)) > w.full.Byte {
			n, err = w.w.Write(p[:w.full.Byte-w.size])
			if err == nil {
				w.f.mu.Lock()
				w.f.fired++
				w.f.mu.Unlock()
				err = w.f.err(w.full, OpWrite, w.key)
			}
			return err
		}
		n, err = w.w.Write(p)
		return err
	})
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
	io.ReadCloser
}

func (r *faultyReader) Read(p []byte) (int, error) {
	n := 0
	err := r.f.call(r.ctx, OpRead, r.key, func() (err error) {
		n, err = r.ReadCloser.Read(p)
		return err
	})
	return n, err
}
