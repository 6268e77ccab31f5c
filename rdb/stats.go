package rdb

import (
	"cmp"
	"fmt"
	"slices"
)

// A Checksum says what became of a stream's checksum.
type Checksum string

// The states of a checksum.
const (
	ChecksumPending Checksum = ""       // the stream was not read to its end
	ChecksumCRC64   Checksum = "crc64"  // it was right
	ChecksumAbsent  Checksum = "absent" // the server wrote none: it is switched off there, or older than Redis 2.6
)

// Stats tells what a reader has seen so far.
type Stats struct {
	Keys        int64         // entries of KindKey, those past their expiry included
	Expires     int64         // of these, with an expiry
	FirstExpiry int64         // the earliest of these, in Unix milliseconds; 0 if there is none
	DBs         []DBStats     // that hold keys, in ascending order
	Functions   int64         // libraries
	Journal     int64         // commands that Dragonfly executed meanwhile, which are to be applied to the keys
	Modules     []ModuleStats // with values or aux data in the stream, in order of name and version
	Pieces      int64         // of values that were passed over, which Keys doesn't count: see ReaderOptions.PassPieces
	Bytes       int64         // Reader.Offset
	Checksum    Checksum
}

// DBStats counts the keys of one database.
type DBStats struct {
	DB      int
	Keys    int64
	Expires int64          // with an expiry
	Types   map[Type]int64 // keys by type; no zeros
}

// ModuleStats counts what a stream has of one module type.
type ModuleStats struct {
	ID   ModuleID
	Keys int64 // values
	Aux  int64 // data outside of keys
}

// How many databases with keys, modules and templates a stream may have. No server comes near; the limits keep a made-up stream from
// filling memory with counters.
const (
	maxDBs       = 1 << 16
	maxModules   = 1 << 12
	maxTemplates = 1 << 20
)

// counts are what Stats are made from. Looking anything up in a map is for when the database or the module changes.
type counts struct {
	db  *dbCount // of the database selected, nil until it has a key
	dbs map[int]*dbCount

	modules map[ModuleID]*ModuleStats
	module  *ModuleStats // the last one

	firstExpiry int64 // 0 if no key expires
	functions   int64
	journal     int64
	pieces      int64
	checksum    Checksum
}

type dbCount struct {
	types   [typeCount]int64
	expires int64
}

// expires counts the expiry of a key.
func (c *counts) expires(at int64) {
	c.db.expires++
	at = max(at, 1)
	if at < c.firstExpiry || c.firstExpiry == 0 {
		c.firstExpiry = at
	}
}

func (r *Reader) countDB() bool {
	return r.counts.selectDB(r.db) || r.unsupported(fmt.Sprintf("keys in more than %d databases", maxDBs))
}

func (r *Reader) countModule(id ModuleID, keys, aux int64) bool {
	return r.counts.addModule(id, keys, aux) || r.unsupported(fmt.Sprintf("values of more than %d module types", maxModules))
}

// selectDB makes a database the one that keys are counted for. It returns false if there are too many.
func (c *counts) selectDB(db int) bool {
	d := c.dbs[db]
	if d == nil {
		if len(c.dbs) >= maxDBs {
			return false
		}
		if c.dbs == nil {
			c.dbs = make(map[int]*dbCount)
		}
		d = new(dbCount)
		c.dbs[db] = d
	}
	c.db = d
	return true
}

// addModule counts what there is of a module. It returns false if there are too many of them.
func (c *counts) addModule(id ModuleID, keys, aux int64) bool {
	m := c.module
	if m == nil || m.ID != id {
		if m = c.modules[id]; m == nil {
			if len(c.modules) >= maxModules {
				return false
			}
			if c.modules == nil {
				c.modules = make(map[ModuleID]*ModuleStats)
			}
			m = &ModuleStats{ID: id}
			c.modules[id] = m
		}
		c.module = m
	}
	m.Keys += keys
	m.Aux += aux
	return true
}

// databases returns what was counted by database.
func (c *counts) databases() []DBStats {
	var out []DBStats
	for db, n := range c.dbs {
		d := DBStats{DB: db, Expires: n.expires, Types: make(map[Type]int64)}
		for t, n := range n.types {
			if n > 0 {
				d.Types[Type(t)] = n
				d.Keys += n
			}
		}
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b DBStats) int { return cmp.Compare(a.DB, b.DB) })
	return out
}

// moduleStats returns what was counted by module.
func (c *counts) moduleStats() []ModuleStats {
	var out []ModuleStats
	for _, m := range c.modules {
		out = append(out, *m)
	}
	slices.SortFunc(out, compareModules)
	return out
}

// Stats returns what was seen so far. The result is the caller's. A key counts as soon as Next returned it.
func (r *Reader) Stats() Stats {
	s := Stats{FirstExpiry: r.counts.firstExpiry, Functions: r.counts.functions, Journal: r.counts.journal, Pieces: r.counts.pieces, Bytes: r.Offset(), Checksum: r.counts.checksum,
		DBs: r.counts.databases(), Modules: r.counts.moduleStats()}
	for _, d := range s.DBs {
		s.Keys += d.Keys
		s.Expires += d.Expires
	}
	return s
}

// Add adds what another stream of the same snapshot holds. The checksum is absent if it is in either, and pending if either was
// not read to its end.
func (s *Stats) Add(other Stats) {
	if s.Bytes == 0 {
		s.Checksum = other.Checksum
	}
	switch {
	case s.Checksum == ChecksumPending || other.Checksum == ChecksumPending:
		s.Checksum = ChecksumPending
	case other.Checksum == ChecksumAbsent:
		s.Checksum = ChecksumAbsent
	}
	s.Keys += other.Keys
	s.Expires += other.Expires
	if s.FirstExpiry == 0 || other.FirstExpiry != 0 && other.FirstExpiry < s.FirstExpiry {
		s.FirstExpiry = other.FirstExpiry
	}
	s.Functions += other.Functions
	s.Journal += other.Journal
	s.Pieces += other.Pieces
	s.Bytes += other.Bytes
	s.DBs = addDBs(s.DBs, other.DBs)
	s.Modules = addModules(s.Modules, other.Modules)
}

func addDBs(to, other []DBStats) []DBStats {
	for _, d := range other {
		i, found := slices.BinarySearchFunc(to, d.DB, func(d DBStats, db int) int { return cmp.Compare(d.DB, db) })
		if !found {
			to = slices.Insert(to, i, DBStats{DB: d.DB, Types: make(map[Type]int64)})
		}
		sum := &to[i]
		sum.Keys += d.Keys
		sum.Expires += d.Expires
		for t, n := range d.Types {
			sum.Types[t] += n
		}
	}
	return to
}

func addModules(to, other []ModuleStats) []ModuleStats {
	for _, m := range other {
		i, found := slices.BinarySearchFunc(to, m, compareModules)
		if !found {
			to = slices.Insert(to, i, ModuleStats{ID: m.ID})
		}
		to[i].Keys += m.Keys
		to[i].Aux += m.Aux
	}
	return to
}

func compareModules(a, b ModuleStats) int {
	return cmp.Or(cmp.Compare(a.ID.Name(), b.ID.Name()), cmp.Compare(a.ID, b.ID))
}
