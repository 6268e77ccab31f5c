package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/amberkv/amber/storage"
)

// returnsWithin is how long a method may take after its context has ended: the second that the contract gives, and
// some for a machine that is busy with other tests.
const returnsWithin = 3 * time.Second

// ended checks the error of a method whose context has ended.
func (c *check) ended(ctx context.Context, method string, err error) {
	c.Helper()
	if !errors.Is(err, ctx.Err()) {
		c.broken("%s with a context that has ended: the error is %v, want one that wraps %q", method, err, ctx.Err())
	}
}

func cancelledBefore(c *check) {
	c.put("kept", []byte("kept"))
	cancelled, cancel := context.WithCancel(c.ctx)
	cancel()
	late, cancel := context.WithDeadline(c.ctx, time.Now().Add(-time.Hour))
	defer cancel()
	for _, ctx := range []context.Context{cancelled, late} {
		for _, key := range []string{"kept", "new"} {
			w, err := c.store.Create(ctx, key, nil)
			if err == nil {
				// A store may begin to look at the context only with the first byte.
				_, err = w.Write([]byte("x"))
				if err == nil {
					_, err = w.Commit(c.ctx)
				}
				w.Abort()
			}
			c.ended(ctx, "Create, Write and Commit", err)
		}
		r, err := c.store.Open(ctx, "kept", 0, -1)
		if err == nil {
			_, err = io.ReadAll(r)
			r.Close()
		}
		c.ended(ctx, "Open and Read", err)
		_, err = c.store.Stat(ctx, "kept")
		c.ended(ctx, "Stat", err)
		c.ended(ctx, "Delete", c.store.Delete(ctx, "kept"))
		pairs := 0
		err = nil
		for _, err = range c.store.List(ctx, "") {
			pairs++
		}
		c.ended(ctx, "List", err)
		if pairs != 1 {
			c.broken("List with a context that has ended gives %d pairs, want only the error", pairs)
		}
		if s, ok := c.store.(storage.Sweeper); ok {
			_, _, err := s.SweepUnfinished(ctx, time.Now())
			c.ended(ctx, "SweepUnfinished", err)
		}
	}
	c.holds("kept", []byte("kept"))
	c.absent("new", "created with a context that has ended")
}

func cancelledWrite(c *check) {
	c.put("old", []byte("old"))
	for _, key := range []string{"old", "new"} {
		ctx, cancel := context.WithCancel(c.ctx)
		defer cancel()
		w, err := c.store.Create(ctx, key, nil)
		c.need("Create", err)
		c.write(w, []byte("begun"))
		cancel()
		_, err = w.Write([]byte("more"))
		c.ended(ctx, "Write", err)
		_, err = w.Commit(c.ctx) // whose own context is alive
		c.ended(ctx, "Commit after the context of Create", err)
		c.need("Abort", w.Abort())
	}
	c.holds("old", []byte("old"))
	c.absent("new", "after its context was cancelled")

	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	w, err := c.store.Create(ctx, "all-written", nil)
	c.need("Create", err)
	c.write(w, []byte("all"))
	cancel()
	_, err = w.Commit(c.ctx)
	c.ended(ctx, "Commit", err)
	c.absent("all-written", "after its context was cancelled")
}

func cancelledCommit(c *check) {
	data := pattern(9, 300_000)
	w := c.create("x", nil)
	c.write(w, data)
	ctx, cancel := context.WithCancel(c.ctx)
	cancel()
	_, err := w.Commit(ctx)
	c.ended(ctx, "Commit", err)
	c.need("Abort after a Commit that failed", w.Abort())
	got, err := c.get("x")
	if !errors.Is(err, storage.ErrNotFound) && (err != nil || !bytes.Equal(got, data)) {
		c.broken("after a cancelled Commit the object of %d bytes reads %d bytes, %v", len(data), len(got), err)
	}
	c.put("x", []byte("the key is not blocked"))
	c.holds("x", []byte("the key is not blocked"))
}

func cancelledRead(c *check) {
	data := pattern(10, 8<<20)
	c.put("x", data)
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	r, err := c.store.Open(ctx, "x", 0, -1)
	c.need("Open", err)
	defer r.Close()
	_, err = io.ReadFull(r, make([]byte, 1000))
	c.need("Read", err)
	cancel()
	// What has come over the network already may still be given out.
	rest, err := io.ReadAll(r)
	c.ended(ctx, fmt.Sprintf("Read, which gave %d more bytes,", len(rest)), err)
}

func cancelledList(c *check) {
	const n = 50
	for i := range n {
		c.put(fmt.Sprintf("l/%02d", i), nil)
	}
	for _, after := range []int{1, 2, n / 2, n} {
		ctx, cancel := context.WithCancel(c.ctx)
		defer cancel()
		pairs := 0
		var last error
		for _, err := range c.store.List(ctx, "l/") {
			if last != nil {
				c.broken("List goes on after an error")
			}
			last = err
			if pairs++; pairs == after {
				cancel()
			}
		}
		// A store that had everything by then may end as if nothing had happened, but not after a part.
		if last == nil && pairs == n {
			continue
		}
		c.ended(ctx, fmt.Sprintf("List that was cancelled after %d of %d objects and gave %d pairs", after, n, pairs), last)
	}
}

func cancelledAtWork(c *check) {
	// Every version is of one byte value, so that a mixture or a part can be told.
	const size = 300_000
	whole := func(data []byte) bool {
		return len(data) == size && bytes.Count(data, data[:1]) == size
	}
	for round := range 8 {
		ctx, cancel := context.WithCancel(c.ctx)
		var workers sync.WaitGroup
		for i := range 6 {
			workers.Go(func() {
				key := fmt.Sprintf("w/%d", i%3)
				for n := 0; ctx.Err() == nil; n++ {
					data := bytes.Repeat([]byte{byte(n)}, size)
					err := storage.WriteFile(ctx, c.store, key, data, nil)
					if err == nil {
						_, err = storage.ReadFile(ctx, c.store, key, size)
					}
					if err == nil {
						for _, err = range c.store.List(ctx, "w/") {
						}
					}
					if err == nil && n%4 == 3 {
						err = c.store.Delete(ctx, key)
					}
					if err != nil && !errors.Is(err, storage.ErrNotFound) && (ctx.Err() == nil || !errors.Is(err, ctx.Err())) {
						c.report("the error of a worker is %v, its context's %v", err, ctx.Err())
						return
					}
				}
			})
		}
		done := make(chan struct{})
		go func() { workers.Wait(); close(done) }()
		time.Sleep(time.Duration(round*3) * time.Millisecond) // at some point of their work
		cancel()
		select {
		case <-done:
		case <-time.After(returnsWithin):
			c.broken("six workers haven't returned %v after their context was cancelled", returnsWithin)
		}
		for _, key := range c.list("") {
			data, err := c.get(key)
			c.need("reading what is visible after a cancellation", err)
			if !whole(data) {
				c.broken("after a cancellation %s has %d bytes, want %d of one value", key, len(data), size)
			}
		}
		if c.Failed() {
			return
		}
	}
}
