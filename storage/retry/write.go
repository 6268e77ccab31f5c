package retry

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"time"

	"github.com/amberkv/amber/storage"
)

// Create starts an object. The store gets to know of it when there are more than Options.Hold bytes of it, or by Commit.
func (s *Store) Create(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
	if err := storage.ValidKey(key); err != nil {
		return nil, fmt.Errorf("create: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("create %s: %w", key, err)
	}
	w := &writer{s: s, ctx: ctx, key: key}
	if opts != nil {
		w.opts = *opts
	}
	return w, nil
}

// A writer holds the bytes of an object until they are too many, and hands them on from then on.
type writer struct {
	s    *Store
	ctx  context.Context
	key  string
	opts storage.CreateOptions

	held []byte
	g    *guard
	out  storage.Writer // nil while all is held

	size int64
	hash maphash.Hash // of all that was written: to know it again within this process
	err  error        // of a Write that failed
	done error        // what the methods return once the writer has ended
}

var errCommitted = errors.New("the writer was committed before")

// sent bounds what is taken to be on its way to the store, and slow is how many bytes of it a second has to get there.
const (
	sent = 64 << 20
	slow = 16 << 10
)

// stall is how long the store may take for a Write or a Commit when n bytes were written.
func (s *Store) stall(n int64) time.Duration {
	return s.opts.Stall + time.Duration(min(n, sent))*time.Second/slow
}

func (w *writer) Write(p []byte) (int, error) {
	if w.done != nil {
		return 0, fmt.Errorf("write %s: %w", w.key, w.done)
	}
	if w.err == nil {
		w.err = w.ctx.Err()
	}
	if w.err == nil && w.out == nil && len(w.held)+len(p) > w.s.opts.Hold {
		w.err = w.begin()
	}
	if w.err != nil {
		return 0, fmt.Errorf("write %s at byte %d: %w", w.key, w.size, w.err)
	}
	n := len(p)
	if w.out == nil {
		w.held = append(w.held, p...)
	} else {
		n, w.err = w.write(w.g, w.out, p)
	}
	w.hash.Write(p[:n])
	w.size += int64(n)
	if w.err != nil {
		return n, fmt.Errorf("write %s at byte %d: %w", w.key, w.size, w.err)
	}
	return n, nil
}

// begin hands on what is held. What fails is tried again, for nothing is lost yet.
func (w *writer) begin() error {
	for t := begin(); ; {
		g, out, err := w.create()
		if err == nil {
			w.g, w.out, w.held = g, out, nil
			return nil
		}
		if err = w.s.again(w.ctx, "create "+w.key, &t, err); err != nil {
			return err
		}
	}
}

// create starts the object in the store and writes what is held.
func (w *writer) create() (g *guard, out storage.Writer, err error) {
	g = w.s.guard(w.ctx)
	err = g.call("create "+w.key, w.s.opts.Stall, func() (err error) {
		out, err = w.s.store.Create(g.ctx, w.key, &w.opts)
		return err
	})
	if err == nil {
		// The alarm may have gone off as Create returned; then nothing more can be written.
		err = g.judge("create "+w.key, w.s.opts.Stall, g.ctx.Err())
	}
	if err == nil {
		_, err = w.write(g, out, w.held)
	}
	if err != nil {
		if out != nil {
			out.Abort()
		}
		g.end()
		return nil, nil, err
	}
	return g, out, nil
}

func (w *writer) write(g *guard, out storage.Writer, p []byte) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	err = g.call("write "+w.key, w.s.stall(w.size+int64(len(p))), func() error {
		if n, err = out.Write(p); err == nil && n < len(p) {
			err = io.ErrShortWrite
		}
		return err
	})
	return n, err
}

// Commit makes the object visible. If the store fails for the moment, what was held is written anew; if its answer is lost, what is there decides.
func (w *writer) Commit(ctx context.Context) (storage.Info, error) {
	if w.done != nil {
		return storage.Info{}, fmt.Errorf("commit %s: %w", w.key, w.done)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(w.ctx, cancel)() // also while it waits for another try
	info, err := w.commit(ctx)
	w.held, w.done = nil, errCommitted
	if err != nil {
		if cerr := w.ctx.Err(); cerr != nil && !errors.Is(err, cerr) {
			err = fmt.Errorf("%w: %w", cerr, err)
		}
		w.done = storage.ErrAborted
		return storage.Info{}, fmt.Errorf("commit %s: %w", w.key, err)
	}
	return info, nil
}

func (w *writer) commit(ctx context.Context) (storage.Info, error) {
	if w.err == nil {
		w.err = w.ctx.Err()
	}
	if w.err == nil {
		w.err = ctx.Err()
	}
	if w.err != nil {
		if w.out != nil {
			w.out.Abort()
			w.g.end()
		}
		return storage.Info{}, w.err
	}
	unknown := false // an earlier try may have worked
	for t := begin(); ; {
		info, reached, err := w.try(ctx)
		if err == nil {
			return info, nil
		}
		exists := errors.Is(err, storage.ErrExists)
		if reached && transient(err) || exists && unknown {
			info, is, lookErr := w.look(ctx)
			switch {
			case is == ours:
				return info, nil
			case lookErr != nil && exists:
				// Whether it is ours can't be told, so ErrExists would say too much.
				return storage.Info{}, fmt.Errorf("there is an object, and whether it is the one that was to be committed can't be found out: %w", lookErr)
			case is == another && w.opts.IfNotExist && !exists:
				return storage.Info{}, fmt.Errorf("%w: it is not the one that was to be committed: %w", storage.ErrExists, err)
			}
			unknown = true
		}
		if exists || w.out != nil {
			return storage.Info{}, err // nothing is held that could be written anew
		}
		if err = w.s.again(ctx, "commit "+w.key, &t, err); err != nil {
			return storage.Info{}, err
		}
	}
}

// try makes one try to commit, and says whether it has come so far that the object may be there although it failed.
func (w *writer) try(ctx context.Context) (info storage.Info, reached bool, err error) {
	g, out := w.g, w.out
	if out == nil {
		if g, out, err = w.create(); err != nil {
			return storage.Info{}, false, err
		}
	}
	defer g.end()
	defer out.Abort()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// A Commit that hangs is ended by its own context.
	defer context.AfterFunc(g.ctx, func() { cancel(context.Cause(g.ctx)) })()
	err = g.call("commit "+w.key, w.s.stall(w.size), func() error {
		info, err = out.Commit(ctx)
		return err
	})
	return info, true, err
}

// What look finds.
type found int

const (
	unclear found = iota
	nothing
	another
	ours
)

// look tells whether the object is there with the size and the bytes that were written.
func (w *writer) look(ctx context.Context) (storage.Info, found, error) {
	info, err := w.s.Stat(ctx, w.key)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return info, nothing, nil
	case err != nil:
		return info, unclear, err
	case info.Size != w.size:
		return info, another, nil
	}
	in, err := w.s.Open(ctx, w.key, 0, -1)
	if err != nil {
		return info, unclear, err
	}
	defer in.Close()
	var there maphash.Hash
	there.SetSeed(w.hash.Seed())
	n, err := io.CopyBuffer(&there, struct{ io.Reader }{io.LimitReader(in, w.size+1)}, make([]byte, 64<<10))
	switch {
	case err != nil:
		return info, unclear, err
	case n != w.size || there.Sum64() != w.hash.Sum64():
		return info, another, nil
	}
	return info, ours, nil
}

// Abort drops what was written.
func (w *writer) Abort() error {
	if w.done != nil {
		return nil
	}
	w.held, w.done = nil, storage.ErrAborted
	if w.out == nil {
		return nil
	}
	defer w.g.end()
	return w.out.Abort()
}
