package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/amberkv/amber/storage"
)

func visibleByCommit(c *check) {
	const key = "orders/backup/part-0"
	data := pattern(1, 3<<20) // more than anybody buffers without writing some of it
	w := c.create(key, nil)
	c.absent(key, "after Create")
	c.write(w, data[:10])
	c.absent(key, "after the first Write")
	c.write(w, data[10:])
	c.absent(key, "after the last Write and before Commit")
	c.commit(w)
	c.holds(key, data)
}

func info(c *check) {
	data := []byte("twelve bytes")
	w := c.create("a/b", nil)
	c.write(w, data)
	committed := c.commit(w)
	stat, err := c.store.Stat(c.ctx, "a/b")
	c.need("Stat", err)
	infos := []storage.Info{committed, stat}
	for info, err := range c.store.List(c.ctx, "") {
		c.need("List", err)
		infos = append(infos, info)
	}
	if len(infos) != 3 {
		c.broken("List of a store with one object gives %d", len(infos)-2)
	}
	for i, from := range []string{"Commit", "Stat", "List"} {
		got := infos[i]
		if got.Key != "a/b" || got.Size != int64(len(data)) {
			c.broken("%s gives key %q and size %d, want \"a/b\" and %d", from, got.Key, got.Size, len(data))
		}
		// Some services tell whole seconds in one answer and fractions in the other.
		if d := got.ModTime.Sub(stat.ModTime); got.ModTime.IsZero() || d.Abs() > time.Second {
			c.broken("%s gives the time %v, Stat %v", from, got.ModTime, stat.ModTime)
		}
	}
}

func emptyObject(c *check) {
	c.commit(c.create("none/written", nil))
	c.holds("none/written", nil)
	w := c.create("none/of-nothing", nil)
	c.write(w, nil)
	c.write(w, []byte{})
	c.commit(w)
	c.holds("none/of-nothing", nil)
	if !c.exclusive {
		return
	}
	if w, err := c.store.Create(c.ctx, "none/written", onlyNew); err == nil {
		if _, err := w.Commit(c.ctx); !errors.Is(err, storage.ErrExists) {
			c.broken("an empty object doesn't keep its key from being taken: the error is %v, want ErrExists", err)
		}
	}
}

func largeObject(c *check) {
	r := rand.New(rand.NewPCG(7, 7))
	data := pattern(2, 9<<20+1234)
	w := c.create("large", nil)
	for rest := data; len(rest) > 0; {
		n := min(len(rest), 1+r.IntN(1<<r.IntN(22)))
		c.write(w, rest[:n])
		rest = rest[n:]
	}
	c.commit(w)
	c.holds("large", data)

	in, err := c.store.Open(c.ctx, "large", 0, -1)
	c.need("Open", err)
	defer in.Close()
	got := make([]byte, 0, len(data))
	for {
		p := make([]byte, 1+r.IntN(1<<r.IntN(22)))
		n, err := in.Read(p)
		got = append(got, p[:n]...)
		if err == io.EOF {
			break
		}
		c.need("Read", err)
	}
	if !bytes.Equal(got, data) {
		c.broken("read in random pieces, the object of %d bytes gives %d, or others", len(data), len(got))
	}
}

func writeKeepsNothing(c *check) {
	w := c.create("kept", nil)
	p := []byte("first ")
	c.write(w, p)
	copy(p, "second")
	c.write(w, p)
	copy(p, "------")
	c.commit(w)
	c.holds("kept", []byte("first second"))
}

func abort(c *check) {
	w := c.create("dropped", nil)
	c.write(w, pattern(3, 100_000))
	for range 3 {
		if err := w.Abort(); err != nil {
			c.broken("Abort: %v", err)
		}
	}
	c.absent("dropped", "after Abort")
	if _, err := w.Write([]byte("x")); !errors.Is(err, storage.ErrAborted) {
		c.broken("Write after Abort: the error is %v, want ErrAborted", err)
	}
	if _, err := w.Commit(c.ctx); !errors.Is(err, storage.ErrAborted) {
		c.broken("Commit after Abort: the error is %v, want ErrAborted", err)
	}
	c.absent("dropped", "after Abort, Write and Commit")

	c.put("kept", []byte("old"))
	w = c.create("kept", nil)
	c.write(w, []byte("new"))
	c.need("Abort", w.Abort())
	c.holds("kept", []byte("old"))
}

func abortAfterCommit(c *check) {
	w := c.create("kept", nil)
	c.write(w, []byte("kept"))
	c.commit(w)
	for range 2 {
		if err := w.Abort(); err != nil {
			c.broken("Abort after Commit: %v", err)
		}
	}
	c.holds("kept", []byte("kept"))

	w, err := c.store.Create(c.ctx, "kept", onlyNew)
	if err == nil { // and the store has exclusive creates
		if _, err := w.Commit(c.ctx); err == nil {
			c.broken("an exclusive Commit over an object returned nil")
		}
		if err := w.Abort(); err != nil {
			c.broken("Abort after a Commit that failed: %v", err)
		}
	}
	c.holds("kept", []byte("kept"))
}

func afterCommit(c *check) {
	w := c.create("done", nil)
	c.write(w, []byte("done"))
	c.commit(w)
	if _, err := w.Write([]byte("more")); err == nil {
		c.broken("Write after Commit returned nil")
	}
	if _, err := w.Commit(c.ctx); err == nil {
		c.broken("a second Commit returned nil")
	}
	c.holds("done", []byte("done"))
}

func replace(c *check) {
	old := pattern(4, 200_000)
	c.put("a/b", old)
	w := c.create("a/b", nil)
	c.holds("a/b", old)
	c.write(w, []byte("short"))
	c.holds("a/b", old)
	c.commit(w)
	c.holds("a/b", []byte("short")) // and nothing of the longer one
	c.put("a/b", nil)
	c.holds("a/b", nil)
	c.put("a/b", old)
	c.holds("a/b", old)
}

func replaceWhileRead(c *check) {
	// Every version is of one byte value, and its length depends on it.
	size := func(i int) int { return 100_000 + i*1000 }
	version := func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, size(i)) }
	whole := func(data []byte) error {
		if len(data) == 0 {
			return errors.New("no bytes")
		}
		if want := size(int(data[0])); len(data) != want || bytes.Count(data, data[:1]) != want {
			return fmt.Errorf("%d bytes that begin as version %d, which has %d", len(data), data[0], want)
		}
		return nil
	}
	c.put("v", version(0))
	early, err := c.store.Open(c.ctx, "v", 0, -1)
	c.need("Open", err)
	defer early.Close()
	begin := make([]byte, 10)
	_, err = io.ReadFull(early, begin)
	c.need("Read", err)

	var readers sync.WaitGroup
	end := make(chan struct{})
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-end:
					return
				default:
				}
				data, err := c.getAbout("v", size(40))
				if err == nil {
					err = whole(data)
				}
				if err != nil {
					c.report("reading an object while it is replaced: %v", err)
					return
				}
			}
		})
	}
	for i := 1; i <= c.rounds(40); i++ {
		c.put("v", version(i))
	}
	close(end)
	readers.Wait()
	// A store may end a reader whose version is gone with an error, but not mix.
	if rest, err := io.ReadAll(early); err == nil {
		if err := whole(append(begin, rest...)); err != nil {
			c.broken("a reader that was opened before the object was replaced gives %v", err)
		}
	}
}

func exclusive(c *check) {
	c.need("the first exclusive create", storage.WriteFile(c.ctx, c.store, "x/claim", []byte("first"), onlyNew))
	taken := func(when string) {
		c.Helper()
		if err := storage.WriteFile(c.ctx, c.store, "x/claim", []byte("second"), onlyNew); !errors.Is(err, storage.ErrExists) {
			c.broken("an exclusive create %s: the error is %v, want ErrExists", when, err)
		}
	}
	taken("over an object")
	c.holds("x/claim", []byte("first"))
	c.put("x/claim", []byte("replaced"))
	taken("over an object that was replaced")
	c.holds("x/claim", []byte("replaced"))
	c.need("Delete", c.store.Delete(c.ctx, "x/claim"))

	// Both begin while the key is free; who commits first wins.
	early, late := c.create("x/claim", onlyNew), c.create("x/claim", onlyNew)
	c.write(early, []byte("early"))
	c.write(late, []byte("late, and longer"))
	c.commit(late)
	if _, err := early.Commit(c.ctx); !errors.Is(err, storage.ErrExists) {
		c.broken("the second of two exclusive writers at Commit: the error is %v, want ErrExists", err)
	}
	c.holds("x/claim", []byte("late, and longer"))

	// An exclusive writer loses to an ordinary one too.
	w := c.create("x/other", onlyNew)
	c.put("x/other", []byte("ordinary"))
	if _, err := w.Commit(c.ctx); !errors.Is(err, storage.ErrExists) {
		c.broken("an exclusive Commit after an ordinary one: the error is %v, want ErrExists", err)
	}
	c.holds("x/other", []byte("ordinary"))

	// One that is aborted doesn't block the key.
	w = c.create("x/free", onlyNew)
	c.write(w, []byte("dropped"))
	c.need("Abort", w.Abort())
	c.need("an exclusive create after one that was aborted", storage.WriteFile(c.ctx, c.store, "x/free", []byte("taken"), onlyNew))
	c.holds("x/free", []byte("taken"))
}

// notExclusive is in the place of every rule about exclusive creates for a store that can't make them.
func notExclusive(c *check) {
	c.put("x/kept", []byte("kept"))
	for _, key := range []string{"x/kept", "x/new"} {
		w, err := c.store.Create(c.ctx, key, onlyNew)
		if err == nil {
			_, err = w.Commit(c.ctx)
			w.Abort()
		}
		if !errors.Is(err, errors.ErrUnsupported) {
			c.broken("an exclusive create of %s: the error is %v, want errors.ErrUnsupported", key, err)
		}
	}
	c.holds("x/kept", []byte("kept"))
	c.absent("x/new", "after an exclusive create")
}

func exclusiveRace(c *check) {
	const writers = 16
	for round := range c.rounds(40) {
		key := fmt.Sprintf("race/%d/claim", round)
		var ready, done sync.WaitGroup
		start := make(chan struct{})
		errs := make([]error, writers)
		for i := range writers {
			ready.Add(1)
			done.Go(func() {
				errs[i] = func() error {
					w, err := c.store.Create(c.ctx, key, onlyNew)
					if err == nil {
						defer w.Abort()
						_, err = fmt.Fprintf(w, "writer %d", i)
					}
					ready.Done()
					<-start
					if err != nil {
						return err
					}
					_, err = w.Commit(c.ctx)
					return err
				}()
			})
		}
		ready.Wait()
		close(start)
		done.Wait()
		winner := -1
		for i, err := range errs {
			switch {
			case err == nil && winner >= 0:
				c.broken("round %d: writers %d and %d have both won", round, winner, i)
			case err == nil:
				winner = i
			case !errors.Is(err, storage.ErrExists):
				c.broken("round %d: the error of writer %d is %v, want ErrExists", round, i, err)
			}
		}
		if winner < 0 {
			c.broken("round %d: nobody has won", round)
		}
		c.holds(key, fmt.Appendf(nil, "writer %d", winner))
	}
}

func ranges(c *check) {
	data := pattern(5, 5000)
	size := int64(len(data))
	c.put("r", data)
	c.put("empty", nil)
	for _, r := range []struct{ off, n int64 }{
		{0, -1}, {0, 0}, {0, 1}, {0, size - 1}, {0, size}, {0, size + 1}, {0, math.MaxInt64}, {0, math.MinInt64},
		{1, -1}, {1, 0}, {1, size - 1}, {1, size}, {1, math.MaxInt64}, {2500, 100}, {2500, 2500}, {2500, 2501},
		{size - 1, -1}, {size - 1, 0}, {size - 1, 1}, {size - 1, 2}, {size - 1, math.MaxInt64},
		{size, -1}, {size, 0}, {size, 1}, {size + 1, -1}, {size + 1, 1}, {1 << 40, -1}, {1 << 40, 10},
	} {
		from := min(r.off, size)
		to := size
		if r.n >= 0 && r.n < size-from {
			to = from + r.n
		}
		read := func(key string, want []byte) {
			c.Helper()
			in, err := c.store.Open(c.ctx, key, r.off, r.n)
			c.need(fmt.Sprintf("Open %s from %d, %d bytes", key, r.off, r.n), err)
			got, err := io.ReadAll(in)
			c.need(fmt.Sprintf("reading %s from %d, %d bytes", key, r.off, r.n), err)
			c.need("Close", in.Close())
			if !bytes.Equal(got, want) {
				c.broken("Open of an object of %d bytes from %d, %d bytes, gives %d bytes, want %d", size, r.off, r.n, len(got), len(want))
			}
		}
		read("r", data[from:to])
		read("empty", nil)
	}
	if in, err := c.store.Open(c.ctx, "r", -1, 1); err == nil {
		in.Close()
		c.broken("Open from offset -1 returned no error")
	}
	in, err := c.store.Open(c.ctx, "r", 10, -1)
	c.need("Open", err)
	c.need("Close of a reader that was not read", in.Close())
}

func missing(c *check) {
	c.put("dir/object", []byte("x"))
	for _, key := range []string{"nothing", "dir/nothing", "nothing/at/all", "dir", "dir/objec", "dir/objectt", "Dir/object-2"} {
		c.absent(key, "never created")
		if _, err := c.store.Open(c.ctx, key, 10, 10); !errors.Is(err, storage.ErrNotFound) {
			c.broken("Open of a range of %s: the error is %v, want ErrNotFound", key, err)
		}
		if err := c.store.Delete(c.ctx, key); !errors.Is(err, storage.ErrNotFound) {
			c.broken("Delete of %s: the error is %v, want ErrNotFound", key, err)
		}
	}
	// An object is not the directory of another; a store that has directories must not trip over it.
	for _, key := range []string{"dir/object/below", "dir/object/far/below"} {
		c.absent(key, "below an object")
		if err := c.store.Delete(c.ctx, key); !errors.Is(err, storage.ErrNotFound) {
			c.broken("Delete of %s below an object: the error is %v, want ErrNotFound", key, err)
		}
	}
	c.holds("dir/object", []byte("x"))
}

func deletes(c *check) {
	keys := []string{"d", "d-1", "d1", "e/1", "e/10", "e/2/3", "f/1/2/3/4"}
	for _, key := range keys {
		c.put(key, []byte(key))
	}
	for i, key := range keys {
		c.need("Delete", c.store.Delete(c.ctx, key))
		c.absent(key, "after Delete")
		if err := c.store.Delete(c.ctx, key); !errors.Is(err, storage.ErrNotFound) {
			c.broken("the second Delete of %s: the error is %v, want ErrNotFound", key, err)
		}
		for _, other := range keys[i+1:] {
			c.holds(other, []byte(other))
		}
	}
	for _, key := range keys {
		c.put(key, []byte("again"))
		c.holds(key, []byte("again"))
	}
	// A writer that began before the Delete is not affected by it.
	w := c.create("e/1", nil)
	c.write(w, []byte("later"))
	c.need("Delete", c.store.Delete(c.ctx, "e/1"))
	c.absent("e/1", "after Delete")
	c.commit(w)
	c.holds("e/1", []byte("later"))
}

func deleteWhileCreate(c *check) {
	// Deleting the only object of what may be a directory, while another is being written there.
	for _, opts := range []*storage.CreateOptions{nil, c.new()} {
		w := c.create("dir/sub/written", opts)
		c.write(w, []byte("written"))
		c.put("dir/sub/deleted", nil)
		c.need("Delete", c.store.Delete(c.ctx, "dir/sub/deleted"))
		c.commit(w)
		c.holds("dir/sub/written", []byte("written"))
		c.need("Delete", c.store.Delete(c.ctx, "dir/sub/written"))
	}
	var workers sync.WaitGroup
	for i := range 4 {
		workers.Go(func() {
			key := fmt.Sprintf("busy/deep/er/%d", i)
			for round := range c.rounds(60) {
				if err := storage.WriteFile(c.ctx, c.store, key, []byte(key), nil); err != nil {
					c.report("round %d: creating %s: %v", round, key, err)
					return
				}
				if data, err := c.get(key); err != nil || string(data) != key {
					c.report("round %d: reading %s: %q, %v", round, key, data, err)
					return
				}
				if err := c.store.Delete(c.ctx, key); err != nil {
					c.report("round %d: deleting %s: %v", round, key, err)
					return
				}
			}
		})
	}
	workers.Wait()
	if keys := c.list(""); len(keys) != 0 {
		c.broken("after everything was deleted there are %q", keys)
	}
}

func concurrent(c *check) {
	var workers sync.WaitGroup
	for i := range 8 {
		workers.Go(func() {
			for round := range 10 {
				key := fmt.Sprintf("c/%d/%d", i, round)
				data := pattern(uint64(i*1000+round), 10_000+i*777)
				if err := storage.WriteFile(c.ctx, c.store, key, data, c.new()); err != nil {
					c.report("creating %s: %v", key, err)
					return
				}
				if got, err := c.get(key); err != nil || !bytes.Equal(got, data) {
					c.report("%s has other bytes than were written: %v", key, err)
					return
				}
				n := 0
				for _, err := range c.store.List(c.ctx, fmt.Sprintf("c/%d/", i)) {
					if err != nil {
						c.report("List: %v", err)
						return
					}
					n++
				}
				if n != round+1 {
					c.report("List gives %d objects of a goroutine that has made %d", n, round+1)
					return
				}
			}
		})
	}
	workers.Wait()
	if n := len(c.list("c/")); !c.Failed() && n != 80 {
		c.broken("List gives %d objects, want 80", n)
	}
}

func sweep(c *check) {
	s, ok := c.store.(storage.Sweeper)
	if !ok {
		return // nothing can be left behind in such a store
	}
	data := pattern(6, 6<<20) // so much that some of it has reached the store
	c.put("sweep/kept", data)
	w := c.create("sweep/at-work", nil)
	c.write(w, data)
	removed, n, err := s.SweepUnfinished(c.ctx, time.Now().Add(-time.Hour))
	c.need("SweepUnfinished", err)
	if removed != 0 || n != 0 {
		c.broken("a sweep of what is older than an hour removed %d unfinished objects of %d bytes; there are none so old", removed, n)
	}
	c.commit(w)
	c.holds("sweep/at-work", data)

	w = c.create("sweep/left", nil)
	c.write(w, data)
	removed, n, err = s.SweepUnfinished(c.ctx, time.Now().Add(time.Hour))
	c.need("SweepUnfinished", err)
	if removed < 0 || removed > 1 || (removed == 0) != (n == 0) {
		c.broken("a sweep with one unfinished write of %d bytes in the store says that it removed %d, of %d bytes", len(data), removed, n)
	}
	_, err = w.Commit(c.ctx)
	switch {
	case removed == 1 && err == nil:
		c.broken("Commit of a write that was swept returned nil")
	case removed == 1:
		c.absent("sweep/left", "after a sweep and a Commit that failed")
	case err == nil:
		c.holds("sweep/left", data)
	}
	c.holds("sweep/kept", data)
	c.holds("sweep/at-work", data)
	removed, _, err = s.SweepUnfinished(c.ctx, time.Now().Add(time.Hour))
	c.need("SweepUnfinished", err)
	if removed != 0 {
		c.broken("the second sweep removed %d more", removed)
	}
}
