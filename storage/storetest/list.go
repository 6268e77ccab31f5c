package storetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/amberkv/amber/storage"
)

// ordered are keys whose byte order differs from the order of a walk through directories, in byte order.
var ordered = []string{
	"A/x", "B", "a b", "a b/c", "a!/x", "a-", "a-/x", "a-b", "a.b/c", "a/!", "a/-", "a/b-c", "a/b.c", "a/b/c", "a/b/c-d", "a/b0", "a/bc",
	"a/é", "a0", "a0/b", "aa", "a~/z", "b/1", "b/10", "b/2", "z", "é", "é-/x", "é/x", "éa", "日/本",
}

func (c *check) fill(keys []string) {
	c.Helper()
	for _, key := range keys {
		c.put(key, []byte(key))
	}
}

// withoutDirectories returns the keys without those that are a directory of another, which a file system can't have.
func withoutDirectories(keys []string) []string {
	return slices.DeleteFunc(slices.Clone(keys), func(key string) bool {
		return slices.ContainsFunc(keys, func(other string) bool { return strings.HasPrefix(other, key+"/") })
	})
}

func listOrder(c *check) {
	want := withoutDirectories(ordered)
	slices.Sort(want)
	// Neither the order of creation nor that of names in a directory may show.
	mixed := slices.Clone(want)
	slices.Reverse(mixed)
	c.fill(mixed)
	if got := c.list(""); !slices.Equal(got, want) {
		c.broken("List gives %q, want %q", got, want)
	}
	for info, err := range c.store.List(c.ctx, "") {
		c.need("List", err)
		if info.Size != int64(len(info.Key)) || info.ModTime.IsZero() {
			c.broken("List gives size %d and time %v of %s, which has %d bytes", info.Size, info.ModTime, info.Key, len(info.Key))
		}
	}
}

func listPrefix(c *check) {
	keys := withoutDirectories(ordered)
	slices.Sort(keys)
	c.fill(keys)
	prefixes := []string{"", "nothing", "a/nothing", "a/b/c/d", "zz", "a/b/c-d/", "z/", "A", "/", "a//", "a/./", "é\x00", "\xff", "\xc3"}
	for _, key := range keys {
		for i := 1; i <= len(key); i++ {
			prefixes = append(prefixes, key[:i]) // also in the middle of a character
		}
		prefixes = append(prefixes, key+"x", key+"/")
	}
	for _, prefix := range prefixes {
		var want []string
		for _, key := range keys {
			if strings.HasPrefix(key, prefix) {
				want = append(want, key)
			}
		}
		var got []string
		for info, err := range c.store.List(c.ctx, prefix) {
			if errors.Is(err, storage.ErrInvalidKey) && len(want) == 0 {
				break // of a prefix that no key can have
			}
			c.need(fmt.Sprintf("List %q", prefix), err)
			got = append(got, info.Key)
		}
		if !slices.Equal(got, want) {
			c.broken("List of the prefix %q gives %q, want %q", prefix, got, want)
		}
	}
}

func listMany(c *check) {
	n := c.opts.Objects
	if n == 0 {
		n = 3000
	}
	var want []string
	for i := range n {
		switch {
		case i%3 == 0:
			want = append(want, fmt.Sprintf("many/flat/%d", i))
		case i%3 == 1:
			want = append(want, fmt.Sprintf("many/%d/%d/deep", i%10, i))
		default:
			want = append(want, fmt.Sprintf("many-%d", i))
		}
	}
	var workers sync.WaitGroup
	for i := range 16 {
		workers.Go(func() {
			for k := i; k < n; k += 16 {
				if err := storage.WriteFile(c.ctx, c.store, want[k], []byte("x"), nil); err != nil {
					c.report("creating %s: %v", want[k], err)
					return
				}
			}
		})
	}
	workers.Wait()
	if c.Failed() {
		c.FailNow()
	}
	sorted := slices.Sorted(slices.Values(want))
	got := c.list("")
	for i := range max(len(got), len(sorted)) {
		switch {
		case i >= len(got):
			c.broken("List gives %d objects, want %d; the first one missing is %s", len(got), len(sorted), sorted[i])
		case i >= len(sorted):
			c.broken("List gives %d objects, want %d; the first one too many is %s", len(got), len(sorted), got[i])
		case got[i] != sorted[i]:
			c.broken("object %d of List is %s, want %s", i, got[i], sorted[i])
		}
	}
}

func listBreak(c *check) {
	for i := range 20 {
		c.put(fmt.Sprintf("b/%02d/x", i), []byte("x"))
	}
	seq := c.store.List(c.ctx, "b/")
	for stop := 1; stop <= 20; stop++ {
		n := 0
		for info, err := range seq { // one sequence may be used several times
			c.need("List", err)
			if want := fmt.Sprintf("b/%02d/x", n); info.Key != want {
				c.broken("object %d of List is %s, want %s", n, info.Key, want)
			}
			if n++; n == stop {
				break
			}
		}
		if n != stop {
			c.broken("List gives only %d of 20 objects", n)
		}
	}
	for info, err := range seq {
		c.need("List", err)
		c.need("Stat of another object within List", func() error { _, err := c.store.Stat(c.ctx, "b/19/x"); return err }())
		c.need("Delete of the object at hand within List", c.store.Delete(c.ctx, info.Key))
		if info.Key == "b/18/x" {
			break
		}
	}
	if got := c.list(""); !slices.Equal(got, []string{"b/19/x"}) {
		c.broken("after 19 of 20 objects were deleted within List there are %q", got)
	}
}

func listUnfinished(c *check) {
	c.put("u/b", []byte("old"))
	var writers []storage.Writer
	for i, key := range []string{"u/a", "u/b", "u/c/d", "top", "u/exclusive"} {
		var opts *storage.CreateOptions
		if i == 4 {
			opts = c.new()
		}
		w := c.create(key, opts)
		c.write(w, pattern(8, 1<<20))
		writers = append(writers, w)
	}
	for _, prefix := range []string{"", "u", "u/", "u/c", "u/c/", "t", ".", "u/."} {
		for info, err := range c.store.List(c.ctx, prefix) {
			if errors.Is(err, storage.ErrInvalidKey) {
				break
			}
			c.need("List", err)
			if info.Key != "u/b" || info.Size != 3 {
				c.broken("while five writes are unfinished, List of %q gives %s with %d bytes", prefix, info.Key, info.Size)
			}
		}
	}
	for _, w := range writers {
		c.need("Abort", w.Abort())
	}
	if got := c.list(""); !slices.Equal(got, []string{"u/b"}) {
		c.broken("after five writes were aborted, List gives %q", got)
	}
}

func listWhileChanged(c *check) {
	n := c.rounds(400)
	stays := make(map[string]bool)
	var keys []string
	for i := range n {
		key := fmt.Sprintf("w/stays-and-has-a-long-name-to-fill-more-than-one-block-of-a-directory-%04d", i)
		stays[key] = true
		keys = append(keys, key)
	}
	c.fill(keys)
	end := make(chan struct{})
	var workers sync.WaitGroup
	work := func(f func(round int) error) {
		workers.Go(func() {
			for round := 0; ; round++ {
				select {
				case <-end:
					return
				default:
				}
				if err := f(round); err != nil {
					c.report("changing objects during a List: %v", err)
					return
				}
			}
		})
	}
	work(func(round int) error {
		return storage.WriteFile(c.ctx, c.store, keys[round%n], []byte("replaced"), nil)
	})
	work(func(round int) error {
		key := fmt.Sprintf("w/comes-and-goes-%d", round%50)
		if err := storage.WriteFile(c.ctx, c.store, key, nil, nil); err != nil {
			return err
		}
		return c.store.Delete(c.ctx, key)
	})
	work(func(round int) error { // with what may be its directory
		const key = "w/comes-and-goes/with/its/directory"
		if err := storage.WriteFile(c.ctx, c.store, key, nil, nil); err != nil {
			return err
		}
		return c.store.Delete(c.ctx, key)
	})
	for range c.rounds(40) {
		seen := make(map[string]int)
		last := ""
		for info, err := range c.store.List(c.ctx, "w/") {
			if err != nil {
				c.report("List while objects change: %v", err)
				break
			}
			if info.Key <= last {
				c.report("List while objects change gives %s after %s", info.Key, last)
			}
			last = info.Key
			seen[info.Key]++
		}
		for key := range stays {
			if seen[key] != 1 {
				c.report("List while objects change gives %s %d times", key, seen[key])
				break
			}
		}
		if c.Failed() {
			break
		}
	}
	close(end)
	workers.Wait()
}
