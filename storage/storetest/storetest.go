// Package storetest proves that a store keeps the contract of package storage.
//
// A driver calls [Run] from a test of its own. Each rule of the contract is a subtest, and a failure says which rule
// was broken and how. A [Faulty] makes any store fail on purpose, for the tests of what is built on stores.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/amberkv/amber/storage"
)

// Options tell Run about a store.
//
// A store that is storage.Limited to creates that aren't exclusive has to say so: the rules of exclusive creates become that one.
//
// A store that several processes can share gives Locate and Reopen: Run starts the test binary again, with -test.run set to
// the very test that called Run, and there Run does nothing but what its parent tells it, on the store that Reopen
// returns. What the test does before it calls Run is done there as well, so it should be little. A store that lives and dies
// with its process says InProcess.
type Options struct {
	Locate    func(s storage.Store) string                 // says where a store of open is, in words for Reopen
	Reopen    func(location string) (storage.Store, error) // opens that store in another process
	InProcess bool                                         // other processes can't see the store

	// Objects is how many objects the listing of many has. 0 means 3000, which is more than a page of any known service.
	Objects int

	// Slow says that every call is a request to a server, which may take milliseconds: what is done again and again, in the hope of meeting a rare
	// order of events, is done a quarter as often.
	Slow bool
}

// Run tests a store. It calls open once for each subtest; each time open returns a store that is empty and that nothing
// else uses, and cleans it up with t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) storage.Store, opts *Options) {
	t.Helper()
	if opts == nil {
		opts = &Options{}
	}
	if serveChild(t, opts) {
		return
	}
	if !opts.InProcess && (opts.Locate == nil || opts.Reopen == nil) {
		t.Fatal("storetest: Options need Locate and Reopen, or InProcess for a store that other processes can't see")
	}
	for _, c := range cases {
		if opts.InProcess && c.name == "exclusive-race-processes" {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			s := open(t)
			check := &check{T: t, ctx: t.Context(), store: s, rule: c.rule, opts: opts, exclusive: storage.CapabilitiesOf(s).Exclusive}
			if c.exclusive && !check.exclusive {
				check.rule = "a store whose Capabilities have no exclusive create says errors.ErrUnsupported for IfNotExist, and touches nothing"
				notExclusive(check)
				return
			}
			c.run(check)
		})
	}
}

// cases are the rules of the contract. A name is that of the subtest; a rule is told when it is broken.
var cases = []struct {
	name, rule string
	run        func(*check)
	exclusive  bool // of exclusive creates: a store that can't make them says so instead
}{
	{"visible-by-commit", "nothing is visible under a key before Commit returns nil, and everything is afterwards", visibleByCommit, false},
	{"info", "Commit, Stat and List tell the same key, size and time of an object", info, false},
	{"empty-object", "an object may have no bytes", emptyObject, false},
	{"large-object", "an object has exactly the bytes that were written, in whatever pieces", largeObject, false},
	{"write-keeps-nothing", "Write doesn't keep the slice it was given", writeKeepsNothing, false},
	{"abort", "Abort drops what was written; after it, Write and Commit return ErrAborted", abort, false},
	{"abort-after-commit", "Abort does nothing after Commit", abortAfterCommit, false},
	{"after-commit", "an object doesn't change after its Commit: a further Write or Commit is an error", afterCommit, false},
	{"replace", "an object stays readable until the Commit of its successor, and is replaced as a whole", replace, false},
	{"replace-while-read", "a reader sees one version of an object, never a mixture", replaceWhileRead, false},
	{"exclusive", "with IfNotExist, a Commit returns ErrExists, or Create already does, while there is an object", exclusive, true},
	{"exclusive-race", "of all writers that race for a key with IfNotExist, exactly one Commit returns nil, and the others ErrExists", exclusiveRace, true},
	{"exclusive-race-processes", "of all processes that race for a key with IfNotExist, exactly one Commit returns nil, the others ErrExists, and all see the winner's object", exclusiveRaceProcesses, true},
	{"valid-keys", "a store takes every key that storage.ValidKey accepts", validKeys, false},
	{"invalid-keys", "for a key that storage.ValidKey refuses, every method returns ErrInvalidKey and touches nothing", invalidKeys, false},
	{"range", "Open gives n bytes from off, or what there is of them; n < 0 means to the end; off past the end gives none", ranges, false},
	{"missing", "Open, Stat and Delete of an object that doesn't exist return ErrNotFound", missing, false},
	{"delete", "Delete removes one object for good and nothing else", deletes, false},
	{"delete-while-create", "Delete of one object doesn't disturb the Create of its neighbour", deleteWhileCreate, false},
	{"list-order", "List gives the objects in ascending byte order of their keys", listOrder, false},
	{"list-prefix", "List gives exactly the objects whose keys begin with the prefix, which need not end at a slash", listPrefix, false},
	{"list-many", "List gives every object exactly once, however many there are", listMany, false},
	{"list-break", "a caller may leave the sequence of List at any time", listBreak, false},
	{"list-unfinished", "unfinished writes are never listed", listUnfinished, false},
	{"list-while-changed", "objects that are neither created nor deleted during a List are listed exactly once, also if they are replaced", listWhileChanged, false},
	{"cancelled-before", "with a context that has ended, every method returns an error that wraps ctx.Err() and has no effect", cancelledBefore, false},
	{"cancelled-write", "cancelling the context of Create fails later writes and the commit", cancelledWrite, false},
	{"cancelled-commit", "a Commit with a cancelled context fails, and leaves the whole object or none", cancelledCommit, false},
	{"cancelled-read", "cancelling the context of Open fails later reads", cancelledRead, false},
	{"cancelled-list", "cancelling the context of List ends the sequence with an error that wraps ctx.Err()", cancelledList, false},
	{"cancelled-at-work", "every method returns within a second of its context's end, and what is visible then is whole", cancelledAtWork, false},
	{"concurrent", "a store is safe for use by several goroutines", concurrent, false},
	{"sweep", "a sweep removes unfinished writes that are old enough, and no object", sweep, false},
}

// A check is one subtest at work.
type check struct {
	*testing.T
	ctx   context.Context
	store storage.Store
	rule  string
	opts  *Options

	exclusive bool // the store can make exclusive creates
}

// broken reports a broken rule and ends the subtest.
func (c *check) broken(format string, args ...any) {
	c.Helper()
	c.report(format, args...)
	c.FailNow()
}

// report reports a broken rule, from any goroutine.
func (c *check) report(format string, args ...any) {
	c.Helper()
	c.Errorf(format+"\nThe rule: %s.", append(args, c.rule)...)
}

// need fails the subtest if something went wrong that the rule at hand needs.
func (c *check) need(what string, err error) {
	c.Helper()
	if err != nil {
		c.broken("%s: %v", what, err)
	}
}

// rounds returns how often to do what is worth doing n times.
func (c *check) rounds(n int) int {
	if c.opts.Slow {
		return n / 4
	}
	return n
}

// create starts an object.
func (c *check) create(key string, opts *storage.CreateOptions) storage.Writer {
	c.Helper()
	w, err := c.store.Create(c.ctx, key, opts)
	c.need("Create "+key, err)
	c.Cleanup(func() { w.Abort() })
	return w
}

// write writes all of data.
func (c *check) write(w storage.Writer, data []byte) {
	c.Helper()
	n, err := w.Write(data)
	c.need("Write", err)
	if n != len(data) {
		c.broken("Write of %d bytes returned %d and no error", len(data), n)
	}
}

// commit commits a writer.
func (c *check) commit(w storage.Writer) storage.Info {
	c.Helper()
	info, err := w.Commit(c.ctx)
	c.need("Commit", err)
	return info
}

// put makes an object.
func (c *check) put(key string, data []byte) {
	c.Helper()
	c.need("creating "+key, storage.WriteFile(c.ctx, c.store, key, data, nil))
}

// get reads an object.
func (c *check) get(key string) ([]byte, error) { return c.getAbout(key, 0) }

// getAbout reads an object that may have n bytes, for which there is room at once.
func (c *check) getAbout(key string, n int) ([]byte, error) {
	r, err := c.store.Open(c.ctx, key, 0, -1)
	if err != nil {
		return nil, err
	}
	data := bytes.NewBuffer(make([]byte, 0, n+bytes.MinRead))
	_, err = data.ReadFrom(r)
	return data.Bytes(), errors.Join(err, r.Close())
}

// holds checks that an object is there with these bytes, by Open, Stat and List.
func (c *check) holds(key string, want []byte) {
	c.Helper()
	got, err := c.getAbout(key, len(want))
	c.need("reading "+key, err)
	if !bytes.Equal(got, want) {
		c.broken("%s should have the %d bytes %.40q, and has the %d bytes %.40q", key, len(want), want, len(got), got)
	}
	info, err := c.store.Stat(c.ctx, key)
	c.need("Stat "+key, err)
	if info.Key != key || info.Size != int64(len(want)) {
		c.broken("Stat of %s with %d bytes gives key %q and size %d", key, len(want), info.Key, info.Size)
	}
	for _, k := range c.list(key) {
		if k == key {
			return
		}
	}
	c.broken("%s is not in a List that begins with it", key)
}

// absent checks that there is no object, by Open, Stat and List.
func (c *check) absent(key, when string) {
	c.Helper()
	if r, err := c.store.Open(c.ctx, key, 0, -1); !errors.Is(err, storage.ErrNotFound) {
		if err == nil {
			r.Close()
		}
		c.broken("Open of %s, %s: the error is %v, want ErrNotFound", key, when, err)
	}
	if _, err := c.store.Stat(c.ctx, key); !errors.Is(err, storage.ErrNotFound) {
		c.broken("Stat of %s, %s: the error is %v, want ErrNotFound", key, when, err)
	}
	for _, k := range c.list("") {
		if k == key {
			c.broken("%s is listed, %s", key, when)
		}
	}
}

// list returns the keys under a prefix.
func (c *check) list(prefix string) []string {
	c.Helper()
	var keys []string
	for info, err := range c.store.List(c.ctx, prefix) {
		c.need("List", err)
		keys = append(keys, info.Key)
	}
	return keys
}

// pattern returns n bytes that depend on seed.
func pattern(seed uint64, n int) []byte {
	data := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(data)
	return data
}

var onlyNew = &storage.CreateOptions{IfNotExist: true}

// new returns the options of a create that may be exclusive if the store has that.
func (c *check) new() *storage.CreateOptions {
	if c.exclusive {
		return onlyNew
	}
	return nil
}
