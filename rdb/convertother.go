package rdb

import (
	"crypto/sha256"
	"hash"
	"io"
)

// convertOther converts an entry that is no key.
func (c *converter) convertOther() error {
	e, w := c.entry, c.dst
	skip, ok := false, true
	switch e.Kind {
	case KindAux:
		return c.convertAux()
	case KindResizeDB:
		if c.opts.filters() || c.opts.Sizes != nil {
			c.report.Dropped++
			return nil
		}
		if !c.place(e) {
			return c.err
		}
		if w.earlier.dbs[c.header.DB] {
			c.report.Dropped++
			return nil
		}
		if c.opts.DropExpiry {
			c.header.Expires = 0
		}
		return w.WriteEntry(&c.header, Shape{})
	case KindJournal:
		if c.opts.Commands != nil {
			ok = c.convertJournal()
			break
		}
		_, ok = c.lose(LossJournal, true, "a command that was executed while the snapshot was taken")
	case KindFunction:
		if !w.dialect.functions() {
			_, ok = c.lose(LossFunction, true, "a library of functions")
			break
		}
		ok = c.convertFunction()
	case KindModuleAux:
		if w.dialect.Family == Dragonfly || w.dialect.Version < 9 {
			skip = true
		}
		if skip || !c.module(e.Module) {
			_, ok = c.lose(LossModule, true, "aux data of module "+e.Module.Name())
			break
		}
		if ok = w.next(e); ok {
			w.out.byte(opModuleAux)
			for _, n := range [...]uint64{uint64(e.Module), moduleUint, c.src.auxWhen} {
				w.out.length(n)
			}
			ok = c.src.copyValue(&w.out)
			c.counts.addModule(e.Module, 0, 1)
		}
	default:
		// Slots are of the source's cluster; templates are encoded into the hashes that use them.
		c.report.Dropped++
	}
	if !ok {
		return c.ended()
	}
	return nil
}

// A payload is the SHA-256 of something that a target has only once.
type payload [sha256.Size]byte

// maxPayloads is how many payloads a Writer remembers. Of more, one that comes again is written again.
const maxPayloads = 1 << 16

// earlier is what a Writer remembers of the sources that were converted to it.
type earlier struct {
	dbs       map[int]bool // that have keys
	payloads  map[payload]bool
	functions bool // some of payloads are
}

// remember tells the Writer what the next source mustn't repeat.
func (c *converter) remember() {
	m := &c.dst.earlier
	if m.dbs == nil {
		m.dbs, m.payloads = make(map[int]bool), make(map[payload]bool)
	}
	for db := range c.counts.dbs {
		m.dbs[db] = true
	}
	for _, p := range c.passed {
		if len(m.payloads) < maxPayloads {
			m.payloads[p] = true
		}
	}
	m.functions = m.functions || c.report.Functions > 0
}

// repeats tells whether an earlier source had a payload, and takes note of it if not.
func (c *converter) repeats(sum hash.Hash) bool {
	p := payload(sum.Sum(nil))
	if c.dst.earlier.payloads[p] {
		c.report.Dropped++
		return true
	}
	if len(c.passed) < maxPayloads {
		c.passed = append(c.passed, p)
	}
	return false
}

// convertFunction writes a library of functions as it is, unless an earlier source had it: servers load no library twice. Only if
// there may be such a one it is held until its end.
func (c *converter) convertFunction() bool {
	r, w := c.src, c.dst
	if !w.next(c.entry) {
		return false
	}
	hold := w.earlier.functions
	if hold {
		w.out.hold()
	}
	w.out.byte(opFunction)
	r.startCopy(&w.out)
	// The code counts: one server may compress it where another doesn't.
	sum := sha256.New()
	err := error(nil)
	for err == nil {
		var e *Element
		if e, err = r.Element(); err == nil {
			sum.Write(e.Value)
		}
	}
	if ok := r.endCopy(&w.out); !ok || err != io.EOF {
		return false
	}
	repeats := c.repeats(sum)
	switch {
	case repeats:
		w.out.drop() // it was held, for an earlier source had functions
	case hold:
		w.out.release()
	}
	if !repeats {
		c.report.Functions++
	}
	return true
}

// convertFact writes an aux fact that is more than a description, unless an earlier source had it.
func (c *converter) convertFact() error {
	sum := sha256.New()
	sum.Write(c.entry.Key)
	sum.Write([]byte{0})
	sum.Write(c.entry.Value)
	if c.repeats(sum) {
		return nil
	}
	return c.dst.WriteEntry(c.entry, Shape{})
}

// convertAux converts an aux fact.
func (c *converter) convertAux() error {
	e, to := c.entry, c.dst.dialect
	ok := true
	switch string(e.Key) {
	case "search-index", "search-synonyms":
		if to.Family != Dragonfly || c.opts.NoIndexes {
			_, ok = c.lose(LossIndex, true, "a search index")
			break
		}
		return c.convertFact()
	case "keydb-subexpire-key":
		if c.left || c.opts.DropExpiry {
			c.report.Dropped++
			break
		}
		_, ok = c.lose(LossMemberExpiry, true, "the expiry of a member, of the key before")
	case "lua":
		// A script of the cache: servers since Redis 7.0 ignore it.
		if to.Family == Dragonfly || to.Version < 10 {
			return c.convertFact()
		}
		c.report.Dropped++
	case "redis-ver", "valkey-ver", "redis-bits", "ctime", "used-mem":
		// They describe the source, or the first of several.
		if !c.dst.keyed && (string(e.Key) != "used-mem" || !c.opts.filters() && to.Family != Dragonfly) {
			return c.dst.WriteEntry(e, Shape{})
		}
		c.report.Dropped++
	default:
		// Where the source stood in its replication stream, in its cluster, in a set of files, or nobody knows what.
		c.report.Dropped++
	}
	if !ok {
		return c.err
	}
	return nil
}

// hint writes the sizes of the databases.
func (c *converter) hint() bool {
	w := c.dst
	if !w.end() {
		return false
	}
	w.hinted = true
	w.out.write(AppendSizes(nil, w.dialect, c.opts.Sizes))
	w.db = -1
	return w.fail() == nil
}

// AppendSizes appends what ConvertOptions.Sizes adds to a stream of a dialect, nothing if that has no such hints.
func AppendSizes(dst []byte, d Dialect, sizes []DBStats) []byte {
	if d.Version < 7 || d.Family == Dragonfly {
		return dst
	}
	for _, db := range sizes {
		dst = appendLength(append(dst, opSelectDB), uint64(db.DB))
		dst = appendLength(append(dst, opResizeDB), uint64(db.Keys))
		dst = appendLength(dst, uint64(db.Expires))
	}
	return dst
}
