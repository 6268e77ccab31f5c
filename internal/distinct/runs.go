package distinct

import (
	"encoding/binary"
	"fmt"
)

// buckets is how many parts records are divided into at once.
const (
	bucketBits = 12
	buckets    = 1 << bucketBits
)

// chunk is how many records are read or written at once, at most.
const chunk = 512

// divide puts the numbers of records in the order of the bits of their hash from shift on, of which there are at most bucketBits above
// lo. The records stay where they are: to go to them in order is quicker than to move them, for the processor can fetch many at a time.
func (s *Set) divide(lo uint64, shift uint) {
	recs := s.records
	if s.starts == nil {
		s.starts = make([]uint32, buckets+1)
	}
	if cap(s.order) < len(recs) {
		s.order = make([]uint32, max(len(recs), s.max))
	}
	s.order = s.order[:len(recs)]
	starts := s.starts[:buckets+1]
	clear(starts)
	for i := range recs {
		starts[(recs[i].a-lo)>>shift&(buckets-1)+1]++
	}
	for i := range buckets {
		starts[i+1] += starts[i]
	}
	// Each start moves to the end of its bucket meanwhile, which is the start of the next.
	for i := range recs {
		at := &starts[(recs[i].a-lo)>>shift&(buckets-1)]
		s.order[*at] = uint32(i)
		*at++
	}
}

// find finds what is there twice among the records, whose hashes are lo and more and less than 2^width more.
func (s *Set) find(lo uint64, width uint) {
	s.divide(lo, max(width, bucketBits)-bucketBits)
	from := uint32(0)
	for _, end := range s.starts[:buckets] {
		if bucket := s.order[from:end]; len(bucket) > 1 && !s.differ(bucket) {
			return
		}
		from = end
	}
}

// differ tells whether the records of a bucket are all different. The hashes are as good as random, so that it has but a few.
func (s *Set) differ(bucket []uint32) bool {
	sorted := s.bucket[:0]
	for _, i := range bucket {
		r := s.records[i]
		sorted = append(sorted, r)
		j := len(sorted) - 1
		for ; j > 0 && r.before(sorted[j-1]); j-- {
			sorted[j] = sorted[j-1]
		}
		sorted[j] = r
		if j > 0 && r.same(sorted[j-1]) {
			s.found(sorted[j-1], r)
			return false
		}
		if j+1 < len(sorted) && r.same(sorted[j+1]) {
			s.found(r, sorted[j+1])
			return false
		}
	}
	s.bucket = sorted
	return true
}

func (r record) before(o record) bool { return r.a < o.a || r.a == o.a && r.b < o.b }

func (r record) same(o record) bool { return r.a == o.a && r.b>>atBits == o.b>>atBits }

func (s *Set) found(first, second record) {
	const mask = 1<<atBits - 1
	s.twice, s.first, s.second = true, int64(first.b&mask), int64(second.b&mask)
}

// buffer returns room for a chunk of records.
func (s *Set) buffer() []byte {
	if s.io == nil {
		s.io = make([]byte, chunk*recordSize)
	}
	return s.io
}

// spill makes a run of the records in memory.
func (s *Set) spill() {
	recs := s.records
	defer func() { s.records = recs[:0] }()
	if s.err != nil || len(recs) == 0 {
		return
	}
	if s.err = s.room.open(); s.err != nil {
		s.err = fmt.Errorf("%w: %d strings in %d bytes of memory", s.err, s.n, s.max*recordSize)
		return
	}
	if s.runs == nil {
		s.base = s.room.top
	}
	s.divide(0, 64-bucketBits)
	order := s.order
	out := s.buffer()
	r := run{s.room.top, s.room.top + int64(len(recs))*recordSize}
	for at := r.pos; len(order) > 0; {
		n := min(len(order), chunk)
		for i, k := range order[:n] {
			x := recs[k]
			binary.LittleEndian.PutUint64(out[i*recordSize:], x.a)
			binary.LittleEndian.PutUint64(out[i*recordSize+8:], x.b)
		}
		if _, s.err = s.room.store.WriteAt(out[:n*recordSize], at); s.err != nil {
			return
		}
		at += int64(n * recordSize)
		order = order[n:]
	}
	s.room.top = r.end
	s.runs = append(s.runs, r)
}

// compare brings together from all runs what has a hash of the same range, one range after the other.
func (s *Set) compare() {
	// A range is as many values of the first bits as fill three quarters of the memory.
	step := max(uint64(s.max)*3/4*buckets/s.n, 1)
	width := uint(64 - bucketBits)
	for uint64(1)<<(width-(64-bucketBits)) < step {
		width++
	}
	for from := uint64(0); from < buckets && !s.twice && s.err == nil; from += step {
		s.records = s.records[:0]
		for i := range s.runs {
			if s.err = s.load(&s.runs[i], from+step); s.err != nil || s.twice {
				return
			}
		}
		s.find(from<<(64-bucketBits), min(width, 64))
	}
}

// load reads the records of a run up to those whose first bits are end.
func (s *Set) load(r *run, end uint64) error {
	in := s.buffer()
	expect := int64(s.max) / int64(len(s.runs)) // most of a range
	for r.pos < r.end {
		n := min(max(expect, 16), chunk, (r.end-r.pos)/recordSize)
		if _, err := s.room.store.ReadAt(in[:n*recordSize], r.pos); err != nil {
			return err
		}
		for b := in[:n*recordSize]; len(b) > 0; b = b[recordSize:] {
			a := binary.LittleEndian.Uint64(b)
			if a>>(64-bucketBits) >= end {
				return nil
			}
			s.records = append(s.records, record{a, binary.LittleEndian.Uint64(b[8:])})
			r.pos += recordSize
		}
		if uint64(len(s.records)) > 2*(uint64(s.max)+s.n/buckets) {
			// Hashes don't fall so unevenly: the same strings are here over and over.
			if s.find(0, 64); s.twice {
				return nil
			}
		}
	}
	return nil
}
