// Package distinct finds out whether anything comes twice among any number of byte strings, in bounded memory.
//
// Strings are compared by keyed hashes, with a key that is new in every process and every Set: equal strings are always found, and
// whoever made the strings can't aim at a false alarm. By chance a false alarm has a probability of less than n²/2⁸¹ among n
// strings, or n²/2⁶⁵ among up to 32768.
package distinct

import (
	"encoding/binary"
	"errors"
	"io"
)

// ErrNoRoom is the error of more strings than there is room for.
var ErrNoRoom = errors.New("distinct: more than there is room for")

// A Store is what a Room keeps its bytes in.
type Store interface {
	io.ReaderAt
	io.WriterAt
}

// A Room is where sets put what they don't keep in memory: one on top of the other, so that only the set that began last may add to
// it. Open is called when it is first needed; if it is nil there is no room.
type Room struct {
	Open  func() (Store, error)
	store Store
	top   int64
}

func (r *Room) open() error {
	if r.store != nil {
		return nil
	}
	if r.Open == nil {
		return ErrNoRoom
	}
	s, err := r.Open()
	r.store = s
	return err
}

// A record is a string that was added: 80 bits of hash, and where it stood in the lower 48 bits of b.
type record struct{ a, b uint64 }

const (
	recordSize = 16
	atBits     = 48

	// tableMax is how many strings go to the table, which finds a duplicate at once.
	tableMax = 32 << 10
	maxSlots = 2 * tableMax
)

// A Set holds what was added since Begin.
type Set struct {
	keys  [2]key
	scope [2]uint64
	room  *Room
	base  int64 // where its runs begin in the room

	table []uint64 // open addressing; 0 is free
	slots []uint64 // the part of it that is used
	inUse bool

	keep    bool // records, for there may be more strings than the table has room for
	max     int  // records in memory
	records []record
	order   []uint32 // of the records, by the first bits of the hash
	starts  []uint32 // of the buckets in it
	bucket  []record
	io      []byte
	runs    []run
	n       uint64

	twice         bool
	first, second int64
	err           error
}

// A run is a part of what was added, ordered by the first bits of the hash.
type run struct{ pos, end int64 }

// New returns a Set that keeps held bytes of records in memory, and 512 KiB more at most.
func New(held int, room *Room) *Set {
	return &Set{keys: [2]key{newKey(), newKey()}, max: max(held/recordSize, 1<<10), room: room}
}

// Begin empties the set. It will get n strings, or any number of them if n is negative. Should there be more than n, a
// duplicate may be missed.
func (s *Set) Begin(n int64) {
	if s.runs != nil {
		s.room.top = s.base
	}
	s.records, s.runs = s.records[:0], nil
	s.n, s.twice, s.err = 0, false, nil
	s.scope = [2]uint64{}
	s.keep = n < 0 || n > tableMax
	size := 16
	if n < 0 {
		n = 64
	}
	for size < maxSlots && int64(size) < 2*n {
		size *= 2
	}
	if len(s.table) < size {
		s.table = make([]uint64, size)
	}
	s.slots, s.inUse = s.table[:size], true
	clear(s.slots)
}

// Scope makes strings that are added from now on differ from those that were added in other scopes.
func (s *Set) Scope(n uint64) {
	if n == 0 {
		s.scope = [2]uint64{}
		return
	}
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], n)
	s.scope = [2]uint64{s.keys[1].sum(b[:]), s.keys[0].sum(b[:])}
}

// Add adds a string that stands at an offset of less than 2^48. It returns false once it knows that something was added twice: see
// Twice.
func (s *Set) Add(b []byte, at int64) bool {
	h := s.keys[0].sum(b) + s.scope[0]
	s.n++
	if s.inUse {
		if !s.addToTable(h, at) {
			return false
		}
	}
	if s.keep {
		if len(s.records) == cap(s.records) {
			s.records = append(make([]record, 0, min(max(2*cap(s.records), 64), s.max)), s.records...)
		}
		s.records = append(s.records, record{h, (s.keys[1].sum(b)+s.scope[1])<<atBits | uint64(at)&(1<<atBits-1)})
		if len(s.records) == s.max {
			s.spill()
		}
	}
	return !s.twice
}

// Sum returns two hashes of a string, whatever the scope.
func (s *Set) Sum(b []byte) (uint64, uint64) { return s.keys[0].sum(b), s.keys[1].sum(b) }

// addToTable adds a hash to the table.
func (s *Set) addToTable(h uint64, at int64) bool {
	if 2*s.n > uint64(len(s.slots)) && !s.grow() {
		return true
	}
	h += uint64(b2i(h == 0))
	mask := uint64(len(s.slots) - 1)
	for i := h & mask; ; i = (i + 1) & mask {
		switch s.slots[i] {
		case 0:
			s.slots[i] = h
			return true
		case h:
			s.twice, s.first, s.second = true, -1, at
			return false
		}
	}
}

// grow makes the table twice as large. It returns false if it may not get larger, and is used no more.
func (s *Set) grow() bool {
	if len(s.slots) == maxSlots {
		s.inUse = false
		return false
	}
	old := s.slots
	s.table = make([]uint64, 2*len(old))
	s.slots = s.table
	mask := uint64(len(s.slots) - 1)
	for _, h := range old {
		if h == 0 {
			continue
		}
		i := h & mask
		for s.slots[i] != 0 {
			i = (i + 1) & mask
		}
		s.slots[i] = h
	}
	return true
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Twice returns the offsets of what was added twice, after Add or End said so. The first is -1 if it isn't known.
func (s *Set) Twice() (first, second int64) { return s.first, s.second }

// End tells whether all were different. The error wraps ErrNoRoom if that isn't known for want of room, or is one of the Store.
func (s *Set) End() (bool, error) {
	switch {
	case s.twice || s.err != nil:
	case s.runs != nil:
		s.spill()
		s.compare()
	case !s.inUse:
		s.find(0, 64)
	}
	if s.runs != nil {
		s.room.top = s.base
		s.runs = nil
	}
	return !s.twice, s.err
}

// Len returns how many strings were added.
func (s *Set) Len() uint64 { return s.n }
