// Package extsort sorts records in bounded memory: what is beyond a limit goes to a spool as sorted runs, which are merged
// when the records are read.
package extsort

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"slices"
)

// ErrTooLarge: a record is larger than a sorter takes.
var ErrTooLarge = errors.New("extsort: a record of more than 1 GiB")

// maxRecord bounds a record, so that offsets have room in 32 bits.
const maxRecord = 1 << 30

// runBuffer is how much of a run is read or written at a time.
const runBuffer = 32 << 10

// An Order ranks bytes: names are sorted as if each byte were its rank. Nil is the order of the bytes themselves.
type Order [256]byte

// Prefix returns a number that sorts as the first eight bytes of a name do, for the number of Add.
func (o *Order) Prefix(name []byte) uint64 {
	if len(name) >= 8 {
		x := binary.BigEndian.Uint64(name)
		if o == nil {
			return x
		}
		return uint64(o[x>>56])<<56 | uint64(o[x>>48&0xff])<<48 | uint64(o[x>>40&0xff])<<40 | uint64(o[x>>32&0xff])<<32 |
			uint64(o[x>>24&0xff])<<24 | uint64(o[x>>16&0xff])<<16 | uint64(o[x>>8&0xff])<<8 | uint64(o[x&0xff])
	}
	var x uint64
	for i, b := range name {
		if o != nil {
			b = o[b]
		}
		x |= uint64(b) << (56 - 8*i)
	}
	return x
}

// Compare compares two names.
func (o *Order) Compare(a, b []byte) int {
	if o == nil {
		return bytes.Compare(a, b)
	}
	n := min(len(a), len(b))
	i := 0
	for i+8 <= n && binary.LittleEndian.Uint64(a[i:]) == binary.LittleEndian.Uint64(b[i:]) {
		i += 8
	}
	for ; i < n; i++ {
		if a[i] != b[i] {
			return int(o[a[i]]) - int(o[b[i]])
		}
	}
	return len(a) - len(b)
}

// A Sorter sorts records: by a number, then by a name, and if both are equal, in the order of adding. After Reset it is as new and
// keeps its memory. It is used by one goroutine.
type Sorter struct {
	order *Order
	limit int
	space *Space

	data    []byte   // records, each a head and a body as in a run; while merging, the buffers
	index   []record // of data
	ordered int8     // the records so far came sorted: 1 ascending, -1 falling, 0 not; both if there are none
	at      int      // of the next record to return

	runs    []run
	scratch []run
	sources []source
	heap    []int // of sources, the least record first
	current int   // the source whose record was returned last, -1 if none
}

// A record is where a record of data is.
type record struct {
	number uint64
	at     uint32 // of its head
	name   uint32 // length
}

const recordSize = 16 // of a record in index

// A head stands before a record's name and value: the number, and the two lengths.
const headSize = 16

// New returns a Sorter that holds up to limit bytes in memory and needs space for more.
func New(limit int, order *Order, space *Space) *Sorter {
	return &Sorter{order: order, limit: min(limit, maxRecord), space: space, current: -1}
}

// Reset forgets all records; those to come are sorted in another order. The space is not reset.
func (s *Sorter) Reset(order *Order) {
	s.order = order
	s.data, s.index, s.at, s.ordered = s.data[:0], s.index[:0], 0, 0
	s.runs, s.heap, s.current = s.runs[:0], s.heap[:0], -1
}

// Free returns how large a record, name and value together, has room in memory beside the others.
func (s *Sorter) Free() int {
	return s.limit - len(s.data) - len(s.index)*recordSize - headSize - recordSize
}

// Add adds a record. The parts of the value follow each other.
func (s *Sorter) Add(number uint64, name []byte, value ...[]byte) error {
	size := len(name)
	for _, part := range value {
		size += len(part)
	}
	if size > maxRecord {
		return ErrTooLarge
	}
	if size > s.Free() && len(s.index) > 0 {
		if err := s.spill(); err != nil {
			return err
		}
	}
	s.grow(headSize + size)
	at := len(s.data)
	s.data = appendHead(s.data, number, len(name), size-len(name))
	s.data = append(s.data, name...)
	for _, part := range value {
		s.data = append(s.data, part...)
	}
	r := record{number, uint32(at), uint32(len(name))}
	if n := len(s.index); n == 0 {
		s.ordered = 0
	} else if c := s.compare(s.index[n-1], r); n == 1 {
		if s.ordered = 1; c > 0 {
			s.ordered = -1
		}
	} else if s.ordered == 1 && c > 0 || s.ordered == -1 && c <= 0 {
		s.ordered = 0
	}
	if len(s.index) == cap(s.index) {
		s.index = slices.Grow(s.index, max(len(s.index), 64))
	}
	s.index = append(s.index, r)
	return nil
}

// Extend adds to the value of the record added last.
func (s *Sorter) Extend(value []byte) error {
	r := s.index[len(s.index)-1]
	head := s.data[r.at:]
	n := int(binary.LittleEndian.Uint32(head[12:])) + len(value)
	if int(r.name)+n > maxRecord {
		return ErrTooLarge
	}
	binary.LittleEndian.PutUint32(head[12:], uint32(n))
	s.grow(len(value))
	s.data = append(s.data, value...)
	return nil
}

// grow makes room for n more bytes, in few steps and not beyond the limit as long as they fit.
func (s *Sorter) grow(n int) {
	if need := len(s.data) + n; need > cap(s.data) {
		grown := make([]byte, len(s.data), max(need, min(max(4*cap(s.data), 16<<10), s.limit)))
		copy(grown, s.data)
		s.data = grown
	}
}

func appendHead(b []byte, number uint64, name, value int) []byte {
	b = binary.LittleEndian.AppendUint64(b, number)
	return binary.LittleEndian.AppendUint64(b, uint64(name)|uint64(value)<<32)
}

// name returns the name of a record in memory.
func (s *Sorter) name(r record) []byte {
	from := int(r.at) + headSize
	return s.data[from : from+int(r.name)]
}

func (s *Sorter) compare(a, b record) int {
	switch {
	case a.number < b.number:
		return -1
	case a.number > b.number:
		return 1
	}
	return s.order.Compare(s.name(a), s.name(b))
}

// sortMemory sorts what is in memory.
func (s *Sorter) sortMemory() {
	switch {
	case len(s.index) < 2 || s.ordered == 1:
	case s.ordered == -1:
		slices.Reverse(s.index)
	default:
		slices.SortFunc(s.index, func(a, b record) int {
			switch {
			case a.number < b.number:
				return -1
			case a.number > b.number:
				return 1
			}
			if c := s.order.Compare(s.name(a), s.name(b)); c != 0 {
				return c
			}
			return int(a.at) - int(b.at)
		})
	}
	s.ordered = 1
}

// spill writes what is in memory to the space as a sorted run.
func (s *Sorter) spill() error {
	s.sortMemory()
	from := s.space.end
	buf := s.space.buffer[:0]
	for _, r := range s.index {
		b := s.data[r.at:]
		b = b[:headSize+int(r.name)+int(binary.LittleEndian.Uint32(b[12:]))]
		if len(buf)+len(b) > runBuffer {
			if err := s.space.write(buf); err != nil {
				return err
			}
			buf = buf[:0]
		}
		if len(b) > runBuffer {
			if err := s.space.write(b); err != nil {
				return err
			}
			continue
		}
		if cap(buf) == 0 {
			buf = make([]byte, 0, runBuffer)
			s.space.buffer = buf
		}
		buf = append(buf, b...)
	}
	if err := s.space.write(buf); err != nil {
		return err
	}
	s.runs = append(s.runs, run{from, s.space.end})
	s.data, s.index = s.data[:0], s.index[:0]
	return nil
}

// Sort ends adding: Next returns the records from here on.
func (s *Sorter) Sort() error {
	if len(s.runs) == 0 {
		s.sortMemory()
		return nil
	}
	if len(s.index) > 0 {
		if err := s.spill(); err != nil {
			return err
		}
	}
	return s.merge()
}

// Next returns the next record. Its name and value are borrowed until the next call. The error is io.EOF behind the last one.
func (s *Sorter) Next() (number uint64, name, value []byte, err error) {
	if len(s.runs) > 0 {
		return s.nextMerged()
	}
	if s.at == len(s.index) {
		return 0, nil, nil, io.EOF
	}
	r := s.index[s.at]
	s.at++
	from := int(r.at) + headSize
	mid := from + int(r.name)
	end := mid + int(binary.LittleEndian.Uint32(s.data[r.at+12:]))
	return r.number, s.data[from:mid:mid], s.data[mid:end:end], nil
}

// Float returns a number that sorts as f does: negative zero with zero, and what is no number behind all.
func Float(f float64) uint64 {
	if f == 0 {
		f = 0 // not negative
	}
	if f != f {
		return math.MaxUint64
	}
	x := math.Float64bits(f)
	if x>>63 == 1 {
		return ^x
	}
	return x | 1<<63
}
