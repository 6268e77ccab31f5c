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
	Keys      int64         // entries of KindKey, those past their expiry included
	Expires   int64         // of these, with an expiry
	DBs       []DBStats     // that hold keys, in ascending order
	Functions int64         // libraries
	Journal   int64         // commands that Dragonfly executed meanwhile, which are to be applied to the keys
	Modules   []ModuleStats // with values or aux data in the stream, in order of name and version
	Bytes     int64         // Reader.Offset
	Checksum  Checksum
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

	functions int64
	journal   int64
	checksum  Checksum
}

type dbCount struct {
	types   [typeCount]int64
	expires int64
}

func (r *Reader) countDB() bool {
	c := r.counts.dbs[r.db]
	if c == nil {
		if len(r.counts.dbs) >= maxDBs {
			return r.unsupported(fmt.Sprintf("keys in more than %d databases", maxDBs))
		}
		if r.counts.dbs == nil {
			r.counts.dbs = make(map[int]*dbCount)
		}
		c = new(dbCount)
		r.counts.dbs[r.db] = c
	}
	r.counts.db = c
	return true
}

func (r *Reader) countModule(id ModuleID, keys, aux int64) bool {
	m := r.counts.module
	if m == nil || m.ID != id {
		if m = r.counts.modules[id]; m == nil {
			if len(r.counts.modules) >= maxModules {
				return r.unsupported(fmt.Sprintf("values of more than %d module types", maxModules))
			}
			if r.counts.modules == nil {
				r.counts.modules = make(map[ModuleID]*ModuleStats)
			}
			m = &ModuleStats{ID: id}
			r.counts.modules[id] = m
		}
		r.counts.module = m
	}
	m.Keys += keys
	m.Aux += aux
	return true
}

// Stats returns what was seen so far. The result is the caller's. A key counts as soon as Next returned it.
func (r *Reader) Stats() Stats {
	s := Stats{Functions: r.counts.functions, Journal: r.counts.journal, Bytes: r.Offset(), Checksum: r.counts.checksum}
	for db, c := range r.counts.dbs {
		d := DBStats{DB: db, Expires: c.expires, Types: make(map[Type]int64)}
		for t, n := range c.types {
			if n > 0 {
				d.Types[Type(t)] = n
				d.Keys += n
			}
		}
		s.Keys += d.Keys
		s.Expires += d.Expires
		s.DBs = append(s.DBs, d)
	}
	slices.SortFunc(s.DBs, func(a, b DBStats) int { return a.DB - b.DB })
	for _, m := range r.counts.modules {
		s.Modules = append(s.Modules, *m)
	}
	slices.SortFunc(s.Modules, compareModules)
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
	s.Functions += other.Functions
	s.Journal += other.Journal
	s.Bytes += other.Bytes
	for _, d := range other.DBs {
		i, found := slices.BinarySearchFunc(s.DBs, d.DB, func(d DBStats, db int) int { return d.DB - db })
		if !found {
			s.DBs = slices.Insert(s.DBs, i, DBStats{DB: d.DB, Types: make(map[Type]int64)})
		}
		to := &s.DBs[i]
		to.Keys += d.Keys
		to.Expires += d.Expires
		for t, n := range d.Types {
			to.Types[t] += n
		}
	}
	for _, m := range other.Modules {
		i, found := slices.BinarySearchFunc(s.Modules, m, compareModules)
		if !found {
			s.Modules = slices.Insert(s.Modules, i, ModuleStats{ID: m.ID})
		}
		s.Modules[i].Keys += m.Keys
		s.Modules[i].Aux += m.Aux
	}
}

func compareModules(a, b ModuleStats) int {
	return cmp.Or(cmp.Compare(a.ID.Name(), b.ID.Name()), cmp.Compare(a.ID, b.ID))
}
