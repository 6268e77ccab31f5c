// Package retry makes a store of one that fails for the moment now and then: calls that a store says may work later, and calls
// that hang, are made again.
//
// # What is tried again
//
// An error that wraps [storage.ErrTransient], and a call of which nothing has come for [Options].Stall while its caller still
// waits: its context is ended, as the contract of storage.Store allows, and that it hung is told as an error that wraps
// storage.ErrTransient too. Everything else is returned at once, above all what is an answer: that there is no such
// object, that there is one already, that access is denied.
//
// The waits between tries double from Options.Wait on, up to ten seconds, each made shorter by up to half at random so that those whose calls
// failed together don't come back together. Tries are bounded in number and time, counted anew whenever something comes of a call that gives
// many bytes or keys, and they end with the caller's context. The error then says how often was tried.
//
// # What that means for each call
//
//   - A listing goes on behind the last key that was given.
//   - A reader goes on at the byte it had come to, if the object is the one it was opened on by its size and time; else the
//     error wraps [ErrChanged]. An object that ends before its size is a failure like any other.
//   - A Delete that failed for the moment, and finds nothing when it is made again, has worked.
//   - Of an object up to Options.Hold bytes nothing is written before its Commit, and then all of it, so that it can be written anew. A larger one is
//     handed on as it comes, and what fails then fails for good: it is for the store to send its pieces again.
//   - A Commit whose answer was lost is settled by looking: if the object that is there has the size and the bytes that were written, it has worked.
//
// # Exclusive creates
//
// That holds for exclusive creates too, also where the store says storage.ErrExists to a second try. So if two writers race for a key with the very same
// bytes, and the answer to one of them is lost, both may be told that they won; they can't be told apart by what is in the store. Where there has to be one
// winner even then, the bytes have to differ: the catalog's leases have a nonce in them, and a backup's objects have keys that one run alone uses.
// For two writers of equal revisions of a manifest see package storecatalog.
package retry

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/storage"
)

// ErrChanged is what reading an object ends with that was replaced since it was opened, if the reading has to be taken up anew.
var ErrChanged = errors.New("object was replaced while it was read")

// Options are the choices of New. What is zero has its default.
type Options struct {
	Attempts int           // how often a call is made at most, the first time included; 0: 10
	Time     time.Duration // after which no further try of a call begins; 0: a minute
	Wait     time.Duration // before the second try; 0: 200 ms

	// Stall is how long a call may go without anything coming of it: an answer, a byte, a listed key. 0: two minutes. How far a Write or
	// a Commit is can't be seen, so these may take longer, by the time that what was written so far takes at 16 KiB/s, of which up to
	// 64 MiB count. A sweep may take ten times as long.
	Stall time.Duration

	// Hold is how many bytes an object may have so that it is held in memory until its Commit; 0: 1 MiB.
	Hold int

	// Logger is told of every call that is made again. nil: nobody is.
	Logger *slog.Logger
}

// maxWait is the longest wait between two tries.
const maxWait = 10 * time.Second

// maxResumed bounds how often one listing or reader is taken up, each time having come a bit further.
const maxResumed = 1000

// A Store is a storage.Store, and a storage.Sweeper, that makes calls of another one again. It has the other one's abilities.
type Store struct {
	store storage.Store
	opts  Options
}

// New returns a Store that works on s, which stays the caller's. Nil opts are the defaults.
func New(s storage.Store, opts *Options) *Store {
	var o Options
	if opts != nil {
		o = *opts
	}
	if o.Attempts <= 0 {
		o.Attempts = 10
	}
	if o.Time <= 0 {
		o.Time = time.Minute
	}
	if o.Wait <= 0 {
		o.Wait = 200 * time.Millisecond
	}
	o.Wait = min(o.Wait, maxWait)
	if o.Stall <= 0 {
		o.Stall = 2 * time.Minute
	}
	if o.Hold <= 0 {
		o.Hold = 1 << 20
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Store{store: s, opts: o}
}

// Unwrap returns the store that s works on.
func (s *Store) Unwrap() storage.Store { return s.store }

// Stat tells size and time of an object.
func (s *Store) Stat(ctx context.Context, key string) (info storage.Info, err error) {
	err = s.do(ctx, "stat "+key, s.opts.Stall, func(ctx context.Context) (err error) {
		info, err = s.store.Stat(ctx, key)
		return err
	})
	return info, err
}

// Delete removes an object. If an earlier try may have done so, not to find it is what was wanted.
func (s *Store) Delete(ctx context.Context, key string) error {
	again := false
	return s.do(ctx, "delete "+key, s.opts.Stall, func(ctx context.Context) error {
		err := s.store.Delete(ctx, key)
		if again && errors.Is(err, storage.ErrNotFound) {
			return nil
		}
		again = true
		return err
	})
}

// SweepUnfinished sweeps the store that s works on, if it is a storage.Sweeper, and adds up what each try removed.
func (s *Store) SweepUnfinished(ctx context.Context, before time.Time) (objects int, bytes int64, err error) {
	err = s.do(ctx, "sweep", 10*s.opts.Stall, func(ctx context.Context) error {
		n, size, err := storage.SweepUnfinished(ctx, s.store, before)
		objects, bytes = objects+n, bytes+size
		return err
	})
	return objects, bytes, err
}

// List gives the objects under a prefix, each once.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		what, t, last := fmt.Sprintf("list %q", prefix), begin(), ""
		for {
			from := last
			g := s.guard(ctx)
			var err error
			g.alarm.Set(s.opts.Stall)
			for info, lerr := range s.store.List(g.ctx, prefix) {
				g.alarm.Stop()
				if err = lerr; err != nil {
					break
				}
				if info.Key > from && info.Key != last {
					last = info.Key
					t.progress()
					if !yield(info, nil) {
						g.end()
						return
					}
				}
				g.alarm.Set(s.opts.Stall)
			}
			g.alarm.Stop()
			err = g.judge(what, s.opts.Stall, err)
			g.end()
			if err == nil {
				return
			}
			if err = s.again(ctx, what, &t, err); err != nil {
				yield(storage.Info{}, err)
				return
			}
		}
	}
}

// do makes a call until it works or is given up.
func (s *Store) do(ctx context.Context, what string, stall time.Duration, call func(ctx context.Context) error) error {
	for t := begin(); ; {
		g := s.guard(ctx)
		err := g.call(what, stall, func() error { return call(g.ctx) })
		g.end()
		if err == nil {
			return nil
		}
		if err = s.again(ctx, what, &t, err); err != nil {
			return err
		}
	}
}

// tries counts those of one call.
type tries struct {
	n       int // since something came of it
	since   time.Time
	resumed int
}

func begin() tries { return tries{since: clock.System()} }

// progress notes that something came of the call.
func (t *tries) progress() {
	if t.n > 0 {
		t.n, t.since = 0, clock.System()
	}
}

// again waits until it is time for another try and returns nil, or returns the error with which the call ends.
func (s *Store) again(ctx context.Context, what string, t *tries, err error) error {
	if !transient(err) {
		return err
	}
	if cerr := ctx.Err(); cerr != nil {
		return fmt.Errorf("%w: %w", cerr, err)
	}
	t.n++
	t.resumed++
	wait := min(s.opts.Wait<<min(t.n-1, 20), maxWait)
	wait -= rand.N(wait/2 + 1)
	took := clock.Since(t.since)
	deadline, has := ctx.Deadline()
	switch {
	case t.n >= s.opts.Attempts, t.resumed >= maxResumed, took+wait > s.opts.Time:
		return fmt.Errorf("%w (tried %d times in %v)", err, t.n, took.Round(time.Millisecond))
	case has && deadline.Sub(clock.System()) < wait:
		return fmt.Errorf("%w (tried %d times, and there is no time left for more)", err, t.n)
	}
	s.opts.Logger.WarnContext(ctx, "a call of the store is made again", "call", what, "tries", t.n, "after", wait, "error", err)
	if cerr := clock.Sleep(ctx, wait); cerr != nil {
		return fmt.Errorf("%w, while waiting to try again: %w", cerr, err)
	}
	return nil
}

// answers are errors that say how things are, so that asking again gives the same.
var answers = []error{storage.ErrNotFound, storage.ErrExists, storage.ErrInvalidKey, storage.ErrAborted, storage.ErrDenied, storage.ErrRetained,
	errors.ErrUnsupported, ErrChanged}

func transient(err error) bool {
	if !errors.Is(err, storage.ErrTransient) {
		return false
	}
	for _, a := range answers {
		if errors.Is(err, a) {
			return false
		}
	}
	return true
}

// errStalled is the cause with which a guard ends a context.
var errStalled = errors.New("stalled")

// A guard is a context for calls of the store that ends when nothing comes of one for too long.
type guard struct {
	ctx, parent context.Context
	cancel      context.CancelCauseFunc
	alarm       *clock.Alarm
}

func (s *Store) guard(parent context.Context) *guard {
	g := &guard{parent: parent}
	g.ctx, g.cancel = context.WithCancelCause(parent)
	g.alarm = clock.NewAlarm(func() { g.cancel(errStalled) })
	return g
}

// call makes one call, for which g.ctx has to be the context.
func (g *guard) call(what string, stall time.Duration, f func() error) error {
	g.alarm.Set(stall)
	err := f()
	g.alarm.Stop()
	return g.judge(what, stall, err)
}

// judge tells the error of a call that the guard ended from others.
func (g *guard) judge(what string, stall time.Duration, err error) error {
	if err == nil || g.parent.Err() != nil || context.Cause(g.ctx) != errStalled {
		return err
	}
	// That its context ended is the guard's doing and nobody else's business.
	return fmt.Errorf("%s: %w: it hung, for %v nothing came of it: %v", what, storage.ErrTransient, stall, err)
}

func (g *guard) end() {
	g.alarm.Stop()
	g.cancel(nil)
}
