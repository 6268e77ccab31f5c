// Package inspect tells what is inside of a stream: keys, bytes and memory by type, database, encoding and prefix of
// their names, the biggest keys, and when keys expire and how they were used. It watches a Reader while that does something
// else, or nothing but skip, in memory that doesn't depend on the data:
//
//	in := inspect.New(&inspect.Options{Now: now})
//	r := rdb.NewReader(src, nil)
//	r.Observe(in.Add)
//	for _, err := range r.Entries() {
//		…
//	}
//	report := in.Report()
//
// # What is exact
//
// Keys, bytes, elements and everything about types, databases, encodings, expiry and use are counted. Of the biggest keys there are
// as many as were asked for, and no other is bigger by the estimate. Memory is an estimate: see Memory.
//
// Prefixes are exact as long as there are no more of them than Options.Prefixes, C. Beyond that they are found by the rule called
// space-saving (Metwally, Agrawal and El Abbadi, 2005), weighted with memory: a new prefix takes the row of the one with the
// least, which goes to Report.Other, and is taken to have had as much before. Then every prefix with more than 1/C
// of all memory has a row; what a row counts is a lower bound, to which at most PrefixRow.Missed bytes of memory
// are missing; and all rows and Other together are still the total.
package inspect

import (
	"bytes"
	"time"

	"github.com/amberkv/amber/rdb"
)

// Options are the rare choices of New. The zero value means the defaults.
type Options struct {
	// Now is the time that expiries are held against. With the zero time all of them lie far ahead.
	Now time.Time
	// Top is how many of the biggest keys are kept. 0 means 20, a negative number none.
	Top int
	// Prefixes is how many prefixes are kept: see the package's description. 0 means 1024, a negative number none. A row takes
	// about 200 bytes, and those of a long name.
	Prefixes int
	// Separator ends a prefix. "" means ":".
	Separator string
	// Depth is how many separators a prefix has; a name with less has as many as there are in it. 0 means 1.
	Depth int
}

// maxName is how many bytes of a key's name are kept. More would let a stream with enormous names fill memory.
const maxName = 512

// An Inspector takes in keys. It is used by one goroutine; what several saw can be put together with Merge.
type Inspector struct {
	now       int64 // in Unix milliseconds
	separator []byte
	depth     int

	total     Sums
	types     [256]Sums
	db        *Sums // of the database number at
	at        int
	dbs       map[int]*Sums
	encodings []EncodingRow
	encoding  [256]uint8 // where that of a type byte was last, in encodings

	expiry [len(expiryNames)]bucket
	idle   [len(idleNames)]bucket
	freq   [len(freqNames)]bucket

	top      top
	prefixes prefixes
}

// New returns an Inspector that has seen nothing. A nil opts means the defaults.
func New(opts *Options) *Inspector {
	o := Options{}
	if opts != nil {
		o = *opts
	}
	if o.Top == 0 {
		o.Top = 20
	}
	if o.Prefixes == 0 {
		o.Prefixes = 1024
	}
	if o.Separator == "" {
		o.Separator = ":"
	}
	i := &Inspector{separator: []byte(o.Separator), depth: max(o.Depth, 1), dbs: make(map[int]*Sums), at: -1}
	if !o.Now.IsZero() {
		i.now = o.Now.UnixMilli()
	}
	i.top.limit = max(o.Top, 0)
	i.prefixes.init(max(o.Prefixes, 0))
	return i
}

// Add takes in a key. It is made for Reader.Observe.
func (i *Inspector) Add(e *rdb.Entry, v rdb.ValueInfo) {
	memory := Memory(e, v)
	s := Sums{Keys: 1, Bytes: v.Bytes, Memory: memory, Elements: max(v.Elements, 0)}
	expiry := 0
	if e.HasExpiry {
		s.Expires = 1
		expiry = 1 + below(expiryLimits[:], e.ExpireAt-i.now)
	}
	i.expiry[expiry].add(memory)
	if e.Idle >= 0 {
		i.idle[below(idleLimits[:], e.Idle)].add(memory)
	}
	if e.Freq >= 0 {
		i.freq[below(freqLimits[:], int64(e.Freq))].add(memory)
	}
	i.total.add(&s)
	i.types[e.Type].add(&s)
	if i.at != e.DB {
		i.selectDB(e.DB)
	}
	i.db.add(&s)
	i.encodingOf(e, v.Encoding).add(&s)
	i.top.add(e, &v, memory)
	if i.prefixes.limit > 0 {
		i.prefixes.add(i.prefix(e.Key), &s)
	}
}

func (i *Inspector) selectDB(db int) {
	s := i.dbs[db]
	if s == nil {
		s = new(Sums)
		i.dbs[db] = s
	}
	i.db, i.at = s, db
}

// encodingOf returns the row of an encoding.
func (i *Inspector) encodingOf(e *rdb.Entry, name string) *EncodingRow {
	if at := int(i.encoding[e.Encoding]); at < len(i.encodings) {
		if r := &i.encodings[at]; r.kind == e.Type && r.Encoding == name {
			return r
		}
	}
	at := i.findEncoding(e.Type, name)
	i.encoding[e.Encoding] = uint8(at)
	return &i.encodings[at]
}

// findEncoding returns the number of a row. A type has few encodings: there are less rows than numbers in a byte.
func (i *Inspector) findEncoding(t rdb.Type, name string) int {
	for at := range i.encodings {
		if r := &i.encodings[at]; r.kind == t && r.Encoding == name {
			return at
		}
	}
	i.encodings = append(i.encodings, EncodingRow{kind: t, Type: t.String(), Encoding: name})
	return len(i.encodings) - 1
}

// prefix returns what a name begins with.
func (i *Inspector) prefix(name []byte) []byte {
	n := 0
	for range i.depth {
		at := -1
		if len(i.separator) == 1 {
			at = bytes.IndexByte(name[n:], i.separator[0])
		} else {
			at = bytes.Index(name[n:], i.separator)
		}
		if at < 0 {
			break
		}
		n += at + len(i.separator)
	}
	return name[:min(n, maxName)]
}

// Merge adds what another Inspector with the same options saw, which is left as it is. It is as if one had seen all, except for
// prefixes if there are more of them than rows: Missed may be larger then.
func (i *Inspector) Merge(other *Inspector) {
	i.total.add(&other.total)
	for t := range i.types {
		i.types[t].add(&other.types[t])
	}
	for db, s := range other.dbs {
		i.selectDB(db)
		i.db.add(s)
	}
	for n := range other.encodings {
		r := &other.encodings[n]
		i.encodings[i.findEncoding(r.kind, r.Encoding)].add(&r.Sums)
	}
	mergeBuckets(i.expiry[:], other.expiry[:])
	mergeBuckets(i.idle[:], other.idle[:])
	mergeBuckets(i.freq[:], other.freq[:])
	for n := range other.top.keys {
		i.top.put(&other.top.keys[n])
	}
	i.prefixes.merge(&other.prefixes)
}
