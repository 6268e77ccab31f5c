package rdb

import (
	"bytes"
	"fmt"
	"io"
	"slices"
)

// ConvertOptions choose what is converted, and what becomes of what can't be. The zero value converts everything and fails
// on the first loss.
type ConvertOptions struct {
	// Policy says what becomes of what the target dialect can't express; Policies are exceptions to it.
	Policy   Policy
	Policies map[Loss]Policy

	// DBs lists the databases whose keys are converted; nil means all.
	DBs []int
	// Match is a pattern of key names, as the KEYS command has it; empty means all.
	Match string
	// Types lists the types of values that are converted; nil means all.
	Types []Type

	// MapDB gives databases another number. Two of the source may not become one.
	MapDB map[int]int
	// TrimPrefix is taken off the names of keys; those that don't begin with it are left out. AddPrefix is then put before
	// them.
	TrimPrefix, AddPrefix string

	// Modules names modules whose values and aux data the target takes, such as "vectorset". Without that they pass only
	// between dialects of one family, to the same or a newer version. With "ReJSON-RL", Dragonfly's JSON becomes that module's.
	Modules []string
}

// filters tells whether keys may be left out.
func (o *ConvertOptions) filters() bool {
	return o.DBs != nil || o.Match != "" || o.Types != nil || o.TrimPrefix != ""
}

// A plan says how values of an encoding are converted.
type plan uint8

const (
	planUnknown  plan = iota
	planCopy          // as they are
	planElements      // element by element
	planList          // node by node
	planStream        // its nodes as they are, the rest field by field
	planModule        // as they are, if the module is there
	planJSON          // Dragonfly's JSON as the module's, if that is there
	planLose          // not at all
)

type converter struct {
	dst    *Writer
	src    *Reader
	opts   ConvertOptions
	report ConvertReport
	err    error

	entry  *Entry // of the source
	header Entry  // of the target
	key    []byte
	match  []byte
	source map[int]int // databases of the source by those of the target
	plans  [256]plan
	table  *[256]encoding // that plans are for

	stream streamConverter
	list   listConverter
}

// Convert reads src to its end and writes what is in it to dst, in the dialect of dst. It doesn't end the stream that dst
// writes: several sources may follow each other, if they have no keys in common.
//
// Values pass untouched where the target's servers read their encoding, and are encoded anew where not, piece by piece, in
// memory that doesn't depend on their size. Keys keep their expiry, also one that has passed. The
// times and frequencies of access are kept where the target has a place for them. What can't be expressed is a [Loss].
//
// What only says something about the source or its server is left out: replication IDs and offsets, cluster slots, the
// hints of sizes if keys are left out. When field expiries go to Dragonfly, which knows whole seconds, they are rounded up. Those
// that are later than the target can express become the latest that it can: in Dragonfly the year 2159, in Redis 10889.
//
// The report tells what was done, also beside an error. Errors are those of src, of dst, a *LossError, and one for databases that
// MapDB makes collide; after an error dst can't be completed.
func Convert(dst *Writer, src *Reader, opts *ConvertOptions) (*ConvertReport, error) {
	c := &converter{dst: dst, src: src}
	if opts != nil {
		c.opts = *opts
		c.match = []byte(opts.Match)
	}
	err := c.run()
	c.report.From, c.report.To = src.Dialect(), dst.Dialect()
	if err != nil && dst.err == nil {
		dst.err = err
	}
	return &c.report, err
}

func (c *converter) run() error {
	for {
		e, err := c.src.Next()
		if err == io.EOF {
			if !c.dst.end() {
				return c.dst.err
			}
			return nil
		}
		if err != nil {
			return err
		}
		c.entry = e
		if e.Kind == KindKey {
			err = c.convertKey()
		} else {
			err = c.convertOther()
		}
		if err != nil {
			return err
		}
	}
}

// ended says why something returned false.
func (c *converter) ended() error {
	switch {
	case c.err != nil:
	case c.dst.fail() != nil:
		c.err = c.dst.err
	default:
		c.err = c.src.err
	}
	return c.err
}

// wanted tells whether the options want a key.
func (c *converter) wanted(e *Entry) bool {
	o := &c.opts
	return (o.DBs == nil || slices.Contains(o.DBs, e.DB)) &&
		(o.Types == nil || slices.Contains(o.Types, e.Type)) &&
		(len(c.match) == 0 || matchGlob(c.match, e.Key)) &&
		(o.TrimPrefix == "" || bytes.HasPrefix(e.Key, []byte(o.TrimPrefix)))
}

// place makes header what e becomes in the target.
func (c *converter) place(e *Entry) bool {
	h := &c.header
	*h = *e
	if c.opts.MapDB != nil {
		if to, ok := c.opts.MapDB[e.DB]; ok {
			h.DB = to
		}
		if c.source == nil {
			c.source = make(map[int]int)
		}
		if from, ok := c.source[h.DB]; !ok {
			c.source[h.DB] = e.DB
		} else if from != e.DB {
			c.err = fmt.Errorf("rdb: converting: databases %d and %d both become %d; map one of them to another number", from, e.DB, h.DB)
			return false
		}
	}
	if c.opts.TrimPrefix != "" || c.opts.AddPrefix != "" {
		c.key = append(append(c.key[:0], c.opts.AddPrefix...), e.Key[len(c.opts.TrimPrefix):]...)
		h.Key = c.key
	}
	return true
}

// planFor returns how values of an encoding are converted.
func (c *converter) planFor(code uint8) plan {
	if c.table != c.src.encodings {
		c.table, c.plans = c.src.encodings, [256]plan{}
	}
	if c.plans[code] == planUnknown {
		c.plans[code] = c.makePlan(code)
	}
	return c.plans[code]
}

func (c *converter) makePlan(code uint8) plan {
	from, to := c.table, c.dst.dialect
	e := &from[code]
	has := to.has(from, code)
	if has && to.Version < 8 && c.src.dialect.Version >= 8 {
		// Lengths of 64 bits are newer than the type.
		has = false
	}
	switch {
	case e.typ == TypeModule:
		return planModule
	case has:
		return planCopy
	}
	switch e.typ {
	case TypeString, TypeSet, TypeZSet, TypeHash:
		return planElements
	case TypeList:
		if to.Family == Redis && to.Version >= 7 && (code == codeQuicklist || code == codeQuicklist2) {
			return planList
		}
		return planElements
	case TypeStream:
		if to.streamLevel() > 0 {
			return planStream
		}
	case TypeJSON:
		if slices.Contains(c.opts.Modules, rejson.Name()) && to.Version >= 8 {
			return planJSON
		}
	}
	return planLose
}

// expires tells whether fields or members of values of an encoding expire on their own.
func (c *converter) expires(code uint8) bool {
	switch c.table[code].frame {
	case frameHash2, frameHashTTL, frameHashTTLPre, framePackedTTL, frameTriples:
		return true
	case framePairs:
		return c.table[code].typ == TypeSet
	}
	return code == 23 // packed, by release candidates of Redis 7.4
}

// convertKey converts a key and its value.
func (c *converter) convertKey() error {
	e := c.entry
	if !c.wanted(e) {
		c.report.Filtered++
		return nil
	}
	if !c.place(e) {
		return c.err
	}
	p := c.planFor(e.Encoding)
	skip, ok := c.loseOfKey(p)
	if !ok {
		return c.err
	}
	if skip {
		return nil
	}
	w := c.dst
	switch p {
	case planCopy, planModule:
		if !w.next(&c.header) || !w.attributes(&c.header) {
			return c.ended()
		}
		w.out.byte(e.Encoding)
		w.out.str(c.header.Key)
		ok = c.src.copyValue(&w.out)
	case planJSON:
		ok = c.convertJSON()
	case planElements:
		ok = c.convertElements()
	case planList:
		ok = c.convertList()
	case planStream:
		skip, ok = c.convertStream()
	}
	if !ok || w.out.err != nil {
		return c.ended()
	}
	if !skip {
		c.report.Keys++
		if p != planCopy && p != planModule {
			c.report.Encoded++
		}
	}
	return nil
}

// loseOfKey takes from the header what the target has no place for, and tells whether the key is left out for it.
func (c *converter) loseOfKey(p plan) (skip, ok bool) {
	h, to := &c.header, c.dst.dialect
	switch {
	case p == planLose:
		return c.lose(LossType, true, "a value of type "+h.Type.String())
	case p == planModule && !c.module(h.Module):
		return c.lose(LossModule, true, "a value of module "+h.Module.Name())
	}
	if h.Flags != 0 && to.Family != Dragonfly {
		h.Flags = 0
		if skip, ok = c.lose(LossFlags, false, "Dragonfly's flags of the key"); skip || !ok {
			return skip, ok
		}
	}
	if len(h.Meta) > 0 && (!to.keyMeta() || c.table == valkeyEncodings) {
		h.Meta = nil
		if skip, ok = c.lose(LossModule, false, "metadata that modules attached to the key"); skip || !ok {
			return skip, ok
		}
	}
	if p == planElements && c.expires(h.Encoding) {
		if _, can := to.expiryHash(); h.Type == TypeHash && !can {
			return c.lose(LossFieldExpiry, false, "the expiry of hash fields")
		}
		if h.Type == TypeSet && to.Family != Dragonfly {
			return c.lose(LossMemberExpiry, false, "the expiry of set members")
		}
	}
	return false, true
}

// module tells whether data of a module pass.
func (c *converter) module(id ModuleID) bool {
	from, to := c.src.dialect, c.dst.dialect
	name := id.Name()
	switch {
	case to.Family == Dragonfly:
		return id == rejson
	case to.Version < 8:
		return false
	case slices.Contains(c.opts.Modules, name):
		return true
	}
	return from.Family == to.Family && from.Version <= to.Version
}

// rejson is the JSON module's type in the encoding that both the module, since its version 2, and Dragonfly read: one string item, the
// text.
const rejson ModuleID = 0x45e25238df912c03

// convertJSON makes Dragonfly's JSON a value of the JSON module.
func (c *converter) convertJSON() bool {
	w := c.dst
	if !w.next(&c.header) || !w.attributes(&c.header) {
		return false
	}
	w.out.byte(codeModule)
	w.out.str(c.header.Key)
	w.out.length(uint64(rejson))
	w.out.length(moduleString)
	if !c.src.copyValue(&w.out) {
		return false
	}
	w.out.length(moduleEOF)
	return true
}

// convertElements encodes a value anew.
func (c *converter) convertElements() bool {
	w := c.dst
	n := c.src.Len()
	if c.src.err != nil {
		return false
	}
	if w.WriteEntry(&c.header, Shape{Len: uint64(max(n, 0)), Expiry: c.expires(c.header.Encoding)}) != nil {
		return false
	}
	w.value.dropExpiry = !w.value.expiry
	last := w.dialect.lastExpiry()
	for {
		e, err := c.src.Element()
		if err != nil {
			return err == io.EOF && w.end()
		}
		e.ExpireAt = min(e.ExpireAt, last)
		if w.WriteElement(e) != nil {
			return false
		}
	}
}

// copyValue consumes the value of the entry and writes it as it is.
func (r *Reader) copyValue(o *output) bool {
	f := r.frame
	r.frame = frameNone
	r.startCopy(o)
	return r.skipValue(f) && r.endCopy(o)
}

// startCopy makes what is consumed go to an output, until endCopy.
func (r *Reader) startCopy(o *output) {
	r.tee = sink{w: o}
	r.startTee()
}

// endCopy differs from stopTee in that it leaves the checksum for later, when there is more to take it of.
func (r *Reader) endCopy(o *output) bool {
	o.write(r.buf[r.teeFrom:r.pos])
	r.teeing = false
	r.tee = sink{}
	return o.err == nil
}

// convertOther converts an entry that is no key.
func (c *converter) convertOther() error {
	e, w := c.entry, c.dst
	skip, ok := false, true
	switch e.Kind {
	case KindAux:
		return c.convertAux()
	case KindResizeDB:
		if c.opts.filters() {
			c.report.Dropped++
			return nil
		}
		if !c.place(e) {
			return c.err
		}
		return w.WriteEntry(&c.header, Shape{})
	case KindJournal:
		_, ok = c.lose(LossJournal, true, "a command that was executed while the snapshot was taken")
	case KindFunction:
		if !w.dialect.functions() {
			_, ok = c.lose(LossFunction, true, "a library of functions")
			break
		}
		if ok = w.next(e); ok {
			w.out.byte(opFunction)
			ok = c.src.copyValue(&w.out)
			c.report.Functions++
		}
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

// convertAux converts an aux fact.
func (c *converter) convertAux() error {
	e, to := c.entry, c.dst.dialect
	ok := true
	switch string(e.Key) {
	case "search-index", "search-synonyms":
		if to.Family != Dragonfly {
			_, ok = c.lose(LossIndex, true, "a search index")
			break
		}
		return c.dst.WriteEntry(e, Shape{})
	case "keydb-subexpire-key":
		_, ok = c.lose(LossMemberExpiry, true, "the expiry of a member, of the key before")
	case "lua":
		// A script of the cache: servers since Redis 7.0 ignore it.
		if to.Family == Dragonfly || to.Version < 10 {
			return c.dst.WriteEntry(e, Shape{})
		}
		c.report.Dropped++
	case "redis-ver", "valkey-ver", "redis-bits", "ctime":
		return c.dst.WriteEntry(e, Shape{})
	case "used-mem":
		if !c.opts.filters() && to.Family != Dragonfly {
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
