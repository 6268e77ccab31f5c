package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/rdb/dfs"
)

// spoolAfter is how many bytes are kept in memory of what can go to a file: with one at hand there is no need for the libraries' 4 MiB.
const spoolAfter = 512 << 10

// streams gives every stream of a snapshot to fn: the one of an RDB file, or of standard input if the name is -, and all of a
// DFS set, which is named by its summary file: the summary first, then the shards, parallel of them at the same time. What fn leaves of a stream is
// read to its end, so that nil proves all of it. Errors name the file.
func (a *app) streams(ctx context.Context, name string, parallel int, opts *rdb.ReaderOptions, fn func(file string, r *rdb.Reader) error) error {
	var o rdb.ReaderOptions
	if opts != nil {
		o = *opts
	}
	if o.Spool == nil {
		o.Spool, o.MaxHeld = newSpool, spoolAfter
	}
	if dfs.IsSummary(name) {
		dir, file := filepath.Split(name)
		set, err := dfs.Open(os.DirFS(filepath.Clean(dir)), file)
		if err != nil {
			return err
		}
		for _, stale := range set.Stale {
			fmt.Fprintf(a.console, "%s: left out: it is of an earlier save with more shards\n", clean(stale))
		}
		if !set.Counted {
			fmt.Fprintf(a.console, "%s: the summary doesn't say how many shards there are: nobody can tell whether one is missing at the end\n", clean(name))
		}
		return set.Read(ctx, parallel, &o, func(file string, r *rdb.Reader) error { return fn(dir+file, r) })
	}
	f, err := a.open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	r := rdb.NewReader(&interruptible{ctx: ctx, r: f, slow: name == "-"}, &o)
	if err := fn(name, r); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for {
		if _, err := r.Next(); err == io.EOF {
			break
		} else if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if r.Dialect().Family == rdb.Dragonfly {
		return nil // which pads its files with anything
	}
	more, err := io.Copy(io.Discard, f)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if more += int64(len(r.Buffered())); more > 0 {
		return fmt.Errorf("%s: %w: %d bytes follow the end of the snapshot at byte %d", name, rdb.ErrCorrupt, more, r.Offset())
	}
	return nil
}

// newSpool makes a file that is gone with the program.
func newSpool() (rdb.Spool, error) {
	f, err := os.CreateTemp("", "amberctl-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// An interruptible reader ends when its context does. A slow source may let a read wait for ever: it is read by a
// goroutine of its own, which nobody waits for, since the program is about to end then.
type interruptible struct {
	ctx  context.Context
	r    io.Reader
	slow bool

	buf     []byte
	done    chan int
	err     error
	at, end int
}

func (i *interruptible) Read(p []byte) (int, error) {
	if i.ctx.Err() != nil {
		return 0, i.ctx.Err()
	}
	if !i.slow {
		return i.r.Read(p)
	}
	if i.at == i.end {
		if i.err != nil {
			return 0, i.err
		}
		if i.buf == nil {
			i.buf, i.done = make([]byte, 128<<10), make(chan int, 1)
		}
		go func() {
			n, err := i.r.Read(i.buf)
			i.err = err
			i.done <- n
		}()
		select {
		case n := <-i.done:
			i.at, i.end = 0, n
		case <-i.ctx.Done():
			return 0, i.ctx.Err()
		}
	}
	n := copy(p, i.buf[i.at:i.end])
	i.at += n
	if i.at == i.end && n == 0 {
		return 0, i.err
	}
	return n, nil
}
