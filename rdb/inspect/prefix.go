package inspect

import (
	"bytes"
	"cmp"
	"hash/maphash"
	"math/bits"
	"slices"
)

// prefixes is the table of prefixes, as the package's description tells.
type prefixes struct {
	limit   int
	rows    []prefixRow
	seed    maphash.Seed
	buckets []int32 // the first row of each, plus one
	heap    []int32 // rows, the one with the least weight in front, as far as it is known: see least
	other   Sums
	full    bool // something went to other
}

type prefixRow struct {
	name []byte
	Sums
	missed int64 // at most as much memory went by before the row was its own
	known  int64 // the weight when the heap was last in order; the weight only grows
	hash   uint64
	next   int32 // row of the same bucket, plus one
}

func (r *prefixRow) weight() int64 { return r.Memory + r.missed }

func (p *prefixes) init(limit int) {
	p.limit = limit
	p.seed = maphash.MakeSeed()
	if limit > 0 {
		// It grows with the rows: most streams have few prefixes.
		p.buckets = make([]int32, 1<<bits.Len(uint(min(limit, 1<<20))))
	}
}

func (p *prefixes) bucket(hash uint64) *int32 { return &p.buckets[hash&uint64(len(p.buckets)-1)] }

func (p *prefixes) add(name []byte, s *Sums) {
	hash := maphash.Bytes(p.seed, name)
	for at := *p.bucket(hash); at != 0; {
		r := &p.rows[at-1]
		if r.hash == hash && bytes.Equal(r.name, name) {
			r.add(s)
			return
		}
		at = r.next
	}
	p.insert(hash, name, s)
}

// insert gives a new prefix a row.
func (p *prefixes) insert(hash uint64, name []byte, s *Sums) {
	var at int32
	missed := int64(0)
	room := len(p.rows) < p.limit
	if room {
		at = int32(len(p.rows))
		p.rows = append(p.rows, prefixRow{})
		p.heap = append(p.heap, at)
	} else {
		at = p.least()
		r := &p.rows[at]
		p.other.add(&r.Sums)
		p.full = true
		missed = r.weight()
		p.unlink(at)
	}
	r := &p.rows[at]
	first := p.bucket(hash)
	*r = prefixRow{name: append(r.name[:0], name...), Sums: *s, missed: missed, hash: hash, next: *first}
	*first = at + 1
	r.known = r.weight()
	if room {
		p.up(len(p.heap) - 1)
	} else {
		p.down(0)
	}
}

func (p *prefixes) unlink(at int32) {
	r := &p.rows[at]
	link := p.bucket(r.hash)
	for *link != at+1 {
		link = &p.rows[*link-1].next
	}
	*link = r.next
}

// least returns the row with the least weight, which is in front of the heap then. What the heap knows of a row is never more than its weight:
// it is brought up to date only here, so that to count a key costs nothing.
func (p *prefixes) least() int32 {
	for {
		at := p.heap[0]
		r := &p.rows[at]
		if r.known == r.weight() {
			return at
		}
		r.known = r.weight()
		p.down(0)
	}
}

func (p *prefixes) lessKnown(i, j int) bool { return p.rows[p.heap[i]].known < p.rows[p.heap[j]].known }

func (p *prefixes) up(i int) {
	for i > 0 && p.lessKnown(i, (i-1)/2) {
		p.heap[i], p.heap[(i-1)/2] = p.heap[(i-1)/2], p.heap[i]
		i = (i - 1) / 2
	}
}

func (p *prefixes) down(i int) {
	for {
		child := 2*i + 1
		if child >= len(p.heap) {
			return
		}
		if child+1 < len(p.heap) && p.lessKnown(child+1, child) {
			child++
		}
		if !p.lessKnown(child, i) {
			return
		}
		p.heap[i], p.heap[child] = p.heap[child], p.heap[i]
		i = child
	}
}

// floor is the most that a prefix without a row may have had.
func (p *prefixes) floor() int64 {
	if !p.full {
		return 0
	}
	return p.rows[p.least()].weight()
}

// merge adds another table. A prefix that only one of them has a row for may have had as much as the floor of the other.
func (p *prefixes) merge(o *prefixes) {
	if p.limit == 0 {
		return
	}
	mine, theirs := p.floor(), o.floor()
	all := make(map[string]prefixRow, len(p.rows)+len(o.rows))
	for i := range p.rows {
		r := p.rows[i]
		r.missed += theirs
		all[string(r.name)] = r
	}
	for i := range o.rows {
		r := o.rows[i]
		if m, ok := all[string(r.name)]; ok {
			m.add(&r.Sums)
			m.missed += r.missed - theirs
			r = m
		} else {
			r.missed += mine
		}
		r.name = bytes.Clone(r.name)
		all[string(r.name)] = r
	}
	rows := make([]prefixRow, 0, len(all))
	for _, r := range all {
		rows = append(rows, r)
	}
	slices.SortFunc(rows, func(a, b prefixRow) int {
		return cmp.Or(cmp.Compare(b.weight(), a.weight()), bytes.Compare(a.name, b.name))
	})
	p.other.add(&o.other)
	p.full = p.full || o.full || len(rows) > p.limit
	for i := p.limit; i < len(rows); i++ {
		p.other.add(&rows[i].Sums)
	}
	p.rows = slices.Clip(rows[:min(len(rows), p.limit)])
	p.heap = p.heap[:0]
	clear(p.buckets)
	for i := range p.rows {
		r := &p.rows[i]
		r.hash = maphash.Bytes(p.seed, r.name)
		first := p.bucket(r.hash)
		r.next, *first = *first, int32(i+1)
		r.known = r.weight()
		p.heap = append(p.heap, int32(i))
		p.up(i)
	}
}
