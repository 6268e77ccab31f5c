package rdb

import (
	"fmt"
	"io"
	"slices"
	"time"
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

	// DropExpiry makes everything stay for good in the target that expires in the source: keys, hash fields and members of sets, also
	// those that have expired already. ShiftExpiry and ExpiredAt mean nothing then.
	DropExpiry bool
	// ShiftExpiry is added to every expiry of keys, hash fields and members of sets, in whole milliseconds; it may be negative. What
	// it would make expire before 1970 expires then. Values whose encoding carries expiries are encoded anew for it, as for DropExpiry.
	ShiftExpiry time.Duration
	// ExpiredAt is a time in Unix milliseconds: keys that expire at it or before, once ShiftExpiry is added, are left out. 0 means that
	// none is. Hash fields and members of sets that have expired then stay where the target can hold their expiry, for its servers drop
	// them. Elsewhere, where they would stay for good, they are left out, and a key that has no others counts as expired.
	ExpiredAt int64

	// Modules names the modules whose values and aux data the target takes, such as "vectorset"; no others pass. nil: they pass only
	// between dialects of one family, to the same or a newer version. With "ReJSON-RL", Dragonfly's JSON becomes that module's.
	Modules []string
	// NoIndexes leaves out the definitions of search indexes also where the dialect has them, as a [LossIndex]: Dragonfly takes them
	// from files, and ends when a primary sends one.
	NoIndexes bool

	// Commands, if set, says that commands are converted, too, and how: see there. Nil: each is a [LossJournal].
	Commands *CommandOptions

	// Sizes are how many keys each database of the target will have, and how many of them expire: what an earlier conversion of the same
	// reported. They are written as hints before the first key, so that a server makes room at once: without them one takes a
	// quarter more time to load small keys. The source's own hints are left out then. Nil: those are kept unless keys are left out.
	Sizes []DBStats
}

// Wants tells whether the options select a key: by DBs, Match, Types and TrimPrefix. The entry is one of the source's, of KindKey.
// Whether it has expired, or can be expressed in the target, is another question. A nil o selects every key.
func (o *ConvertOptions) Wants(e *Entry) bool {
	return o == nil || (o.DBs == nil || slices.Contains(o.DBs, e.DB)) &&
		(o.Types == nil || slices.Contains(o.Types, e.Type)) &&
		(o.Match == "" || matchGlob(o.Match, e.Key)) &&
		(o.TrimPrefix == "" || len(e.Key) >= len(o.TrimPrefix) && string(e.Key[:len(o.TrimPrefix)]) == o.TrimPrefix)
}

// filters tells whether keys may be left out.
func (o *ConvertOptions) filters() bool {
	return o.DBs != nil || o.Match != "" || o.Types != nil || o.TrimPrefix != "" || o.ExpiredAt != 0 && !o.DropExpiry || o.Commands != nil
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
	left   bool        // the last key was left out
	losing Loss        // what expiries of the value's elements mean for the target; empty: nothing
	lost   bool        // and one of them has
	source map[int]int // databases of the source by those of the target
	plans  [256]plan
	table  *[256]encoding // that plans are for

	counts  counts // of what was written
	counted int    // the database of counts.db
	passed  []payload

	stream streamConverter
	list   listConverter
}

// Convert reads src to its end and writes what is in it to dst, in the dialect of dst. It doesn't end the stream that dst
// writes: several sources may follow each other, as the shards of a cluster do, if they have no keys in common. What describes a
// source is then taken of the first alone, unless that has no keys: its version, its time, the memory that it used. Libraries of
// functions, cached scripts and search indexes that an earlier source had, too, are left out, since servers load them once; and so are
// the hints of the sizes of databases that have keys of an earlier source. Where an earlier source had libraries, each is held until
// its end: see WriterOptions.MaxHeld.
//
// Values pass untouched where the target's servers read their encoding, and are encoded anew where not, piece by piece, in
// memory that doesn't depend on their size. Keys keep their expiry, also one that has passed, unless the options say otherwise. The
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
	}
	err := c.run()
	c.report.From, c.report.To = src.Dialect(), dst.Dialect()
	c.report.DBs, c.report.Modules = c.counts.databases(), c.counts.moduleStats()
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
			c.remember()
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
		c.plans[code] = c.opts.plan(c.src.dialect, c.table, c.dst.dialect, code)
	}
	return c.plans[code]
}

// convertKey converts a key and its value.
func (c *converter) convertKey() error {
	e := c.entry
	c.left = true
	if !c.opts.Wants(e) {
		c.report.Filtered++
		return nil
	}
	if !c.place(e) {
		return c.err
	}
	if c.header.HasExpiry && c.opts.expire(&c.header) {
		c.report.Expired++
		return nil
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
	if len(c.opts.Sizes) > 0 && !w.hinted && !c.hint() {
		return c.ended()
	}
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
		skip, ok = c.convertElements()
	case planList:
		ok = c.convertList()
	case planStream:
		skip, ok = c.convertStream()
	}
	if !ok || w.out.err != nil {
		return c.ended()
	}
	if !skip {
		c.left = false
		c.report.Keys++
		c.count(p)
		if p != planCopy && p != planModule {
			c.report.Encoded++
		}
	}
	return nil
}

// count counts a key that was written.
func (c *converter) count(p plan) {
	h := &c.header
	if c.counts.db == nil || c.counted != h.DB {
		c.counts.selectDB(h.DB) // no more than the source has
		c.counted = h.DB
	}
	t := h.Type
	switch {
	case p == planJSON:
		t = TypeModule
		c.counts.addModule(rejson, 1, 0)
	case p == planModule:
		c.counts.addModule(h.Module, 1, 0) // likewise
	}
	c.counts.db.types[t]++
	if h.HasExpiry {
		c.counts.expires(h.ExpireAt)
	}
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
	if l := c.expiryLoss(p); l != "" && c.policy(l) == SkipKey {
		return c.loseExpiry(l) // which of its elements expire would be known too late
	}
	return false, true
}

// expiryLoss returns the loss that an element which expires means, "" for none.
func (c *converter) expiryLoss(p plan) Loss {
	h := &c.header
	if p != planElements || c.opts.DropExpiry || !expiring(c.table, h.Encoding) {
		return ""
	}
	if _, keeps := c.dst.dialect.elementCode(h.Type, true); keeps {
		return ""
	}
	if h.Type == TypeHash {
		return LossFieldExpiry
	}
	return LossMemberExpiry
}

func (c *converter) loseExpiry(l Loss) (skip, ok bool) {
	if l == LossFieldExpiry {
		return c.lose(l, false, "the expiry of hash fields")
	}
	return c.lose(l, false, "the expiry of set members")
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
	case c.opts.Modules != nil:
		return slices.Contains(c.opts.Modules, name)
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

// convertElements encodes a value anew. It tells whether the key was left out, because all its elements have expired.
func (c *converter) convertElements() (skip, ok bool) {
	w := c.dst
	n := c.src.Len()
	if c.src.err != nil {
		return false, false
	}
	shape := Shape{Len: uint64(max(n, 0)), Expiry: expiring(c.table, c.header.Encoding) && !c.opts.DropExpiry}
	c.losing, c.lost = c.expiryLoss(planElements), false
	if c.losing != "" && c.opts.ExpiredAt != 0 {
		shape.Len = 0 // what has expired is left out
	}
	var begun, dead, buried, more bool
	for {
		e, err := c.src.Element()
		switch {
		case err == io.EOF && buried && !begun:
			c.report.Expired++
			return true, true
		case err == io.EOF:
			return false, c.beginElements(&begun, shape) && w.end()
		case err != nil:
			return false, false
		}
		if !more {
			if dead, ok = c.expireElement(e); !ok {
				return false, false
			}
			buried = buried || dead
		}
		more = e.More
		if !dead && (!c.beginElements(&begun, shape) || w.WriteElement(e) != nil) {
			return false, false
		}
	}
}

// beginElements begins a value that is encoded anew, unless that was done.
func (c *converter) beginElements(begun *bool, s Shape) bool {
	if *begun {
		return true
	}
	*begun = true
	if c.dst.WriteEntry(&c.header, s) != nil {
		return false
	}
	c.dst.value.dropExpiry = !c.dst.value.expiry
	return true
}

// expireElement gives an element its expiry in the target. Where that gets lost it is reported, once for the value; and what has expired
// is dead, or it would come back to stay.
func (c *converter) expireElement(e *Element) (dead, ok bool) {
	if e.ExpireAt == 0 {
		return false, true
	}
	at := c.opts.shift(e.ExpireAt)
	e.ExpireAt = min(at, c.dst.dialect.lastExpiry())
	switch {
	case c.losing == "":
		return false, true
	case c.opts.ExpiredAt != 0 && at <= c.opts.ExpiredAt:
		return true, true
	case c.lost:
		return false, true
	}
	c.lost = true
	_, ok = c.loseExpiry(c.losing)
	return false, ok
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
