package command

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/amberkv/amber/catalog"
	srv "github.com/amberkv/amber/internal/target"
	"github.com/amberkv/amber/rdb"
)

// horizon is how far ahead expiries are looked at: what expires later can't have when the keys are counted.
const horizon = 7 * 24 * 60 // minutes

// A tally counts what the target has acknowledged.
type tally struct {
	start   time.Time
	keys    atomic.Int64
	skipped atomic.Int64

	commands atomic.Int64 // of the backup, that were executed

	mu  sync.Mutex
	dbs map[int32]*dbTally
	now *dbTally // of the last key
	db  int32
}

type dbTally struct {
	types   [rdb.TypeCuckoo + 1]int64
	keys    int64
	expires int64
	soon    map[int32]int64 // keys by the minute in which they expire
}

// add counts a key.
func (t *tally) add(o *op) {
	t.keys.Add(1)
	t.mu.Lock()
	d := t.now
	if d == nil || t.db != o.db {
		if d = t.dbs[o.db]; d == nil {
			if t.dbs == nil {
				t.dbs = make(map[int32]*dbTally)
			}
			d = &dbTally{soon: make(map[int32]int64)}
			t.dbs[o.db] = d
		}
		t.now, t.db = d, o.db
	}
	d.keys++
	d.types[o.typ]++
	if o.minute != 0 {
		d.expires++
		if o.minute <= horizon {
			d.soon[o.minute]++
		}
	}
	t.mu.Unlock()
}

// minuteOf returns the minute of an expiry, which is at least 1.
func (t *tally) minuteOf(expireAt int64) int32 {
	m := (expireAt-t.start.UnixMilli())/60000 + 1
	return int32(min(max(m, 1), horizon+1))
}

// wrote returns the keys of each database, and how many of them may have expired by now.
func (t *tally) wrote(now time.Time) (keys, expired srv.Counts) {
	t.mu.Lock()
	defer t.mu.Unlock()
	keys, expired = srv.Counts{}, srv.Counts{}
	last := t.minuteOf(now.UnixMilli())
	for db, d := range t.dbs {
		keys[int(db)] = d.keys
		for minute, n := range d.soon {
			if minute <= last {
				expired[int(db)] += n
			}
		}
	}
	return keys, expired
}

// report returns the keys by database and type.
func (t *tally) report() []catalog.DB {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []catalog.DB
	for db, d := range t.dbs {
		c := catalog.DB{Index: int(db), Keys: d.keys, Expires: d.expires, Types: map[string]int64{}}
		for typ, n := range d.types {
			if n > 0 {
				c.Types[rdb.Type(typ).String()] = n
			}
		}
		out = append(out, c)
	}
	sortDBs(out)
	return out
}
