package scan

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"

	"github.com/amberkv/amber/internal/distinct"
	"github.com/amberkv/amber/internal/extsort"
)

// What names take in memory at most: the filter, the hashes of the names before they go to a file, and the names that are put off.
const (
	minFilter = 16 // bits of the number of bits
	maxFilter = 27
	hashChunk = 64 << 10
	heldBytes = 4 << 20
	sortBytes = 8 << 20
	hashSize  = 16
)

// A seen tells which names of a database came for the first time. SCAN gives some more than once when the server's table grows or
// shrinks, and servers don't load a stream that has a key twice.
//
// A filter in memory tells most new names at once. What may have come before is put off until all names were listed: the hashes of all names that were
// passed are kept, and sorting brings those together that are equal. Names are told apart by keyed hashes of 128 bits, so that a name is taken for
// another by a chance of less than n²/2¹²⁹ among n.
type seen struct {
	hash    *distinct.Set
	dir     string
	filter  []uint64
	mask    uint64 // of the blocks
	space   *extsort.Space
	file    string
	passed  spool // hashes of names that were passed
	put     spool // names that were put off, each behind its length
	count   int64 // passed
	putOff  int64
	scratch []byte
}

func newSeen(dir string) *seen {
	s := &seen{hash: distinct.New(0, nil), dir: dir}
	s.space = extsort.NewSpace(s.open)
	s.passed, s.put = spool{space: s.space, limit: heldBytes}, spool{space: s.space, limit: heldBytes}
	return s
}

// open makes the file. It has no name any more where the system allows that.
func (s *seen) open() (extsort.Spool, error) {
	f, err := os.CreateTemp(s.dir, "amber-scan-")
	if err != nil {
		return nil, fmt.Errorf("room for the names of keys: %w; set Config.TempDir", err)
	}
	s.file = f.Name()
	if os.Remove(s.file) == nil {
		s.file = ""
	}
	return f, nil
}

func (s *seen) close() error {
	err := s.space.Close()
	if s.file != "" {
		err = errors.Join(err, os.Remove(s.file))
	}
	return err
}

// begin forgets all names, for about so many to come; -1 if unknown. Size is the number of bits of the filter's size, 0 for what is good.
func (s *seen) begin(keys int64, size uint) {
	if size == 0 {
		size = 20
		if keys >= 0 {
			size = min(max(uint(bits.Len64(uint64(keys)*16)), minFilter), maxFilter)
		}
	}
	if len(s.filter) != 1<<size/64 {
		s.filter = make([]uint64, 1<<size/64)
	} else {
		clear(s.filter)
	}
	s.mask = uint64(len(s.filter)/8 - 1)
	s.space.Reset()
	s.passed.reset()
	s.put.reset()
	s.count, s.putOff = 0, 0
}

// has tells whether a name with these hashes may have been added to the filter, and adds it.
func (s *seen) has(a, b uint64) bool {
	block := s.filter[(a>>32&s.mask)*8:][:8] // a cache line
	known := true
	for range 6 {
		word, bit := b>>6&7, uint64(1)<<(b&63)
		known = known && block[word]&bit != 0
		block[word] |= bit
		b >>= 9
	}
	return known
}

// pass tells whether a name is new for sure, and takes note of it. It puts it off otherwise.
func (s *seen) pass(name []byte) (bool, error) {
	a, b := s.hash.Sum(name)
	if !s.has(a, b) {
		s.count++
		s.scratch = binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(s.scratch[:0], a), b)
		return true, s.passed.add(s.scratch)
	}
	s.putOff++
	s.scratch = binary.LittleEndian.AppendUint32(s.scratch[:0], uint32(len(name)))
	if err := s.put.add(s.scratch); err != nil {
		return false, err
	}
	return false, s.put.add(name)
}

// rest returns an iterator over the names that were put off and are new. Nothing may be passed any more.
func (s *seen) rest() (func() ([]byte, error), error) {
	if s.putOff == 0 {
		return func() ([]byte, error) { return nil, io.EOF }, nil
	}
	// Of the names that were passed, only those matter that one of these may equal: the filter tells them.
	clear(s.filter)
	sorter := extsort.New(sortBytes, nil, s.space)
	var second [8]byte
	err := s.put.names(func(name []byte) error {
		s.has(s.hash.Sum(name))
		return nil
	})
	if err == nil {
		err = s.passed.read(hashSize, func(h []byte) error {
			a := binary.LittleEndian.Uint64(h)
			if !s.maybe(a, binary.LittleEndian.Uint64(h[8:])) {
				return nil
			}
			return sorter.Add(a, h[8:])
		})
	}
	if err == nil {
		// Behind them, so that of equal ones those that were passed come first.
		err = s.put.names(func(name []byte) error {
			a, b := s.hash.Sum(name)
			binary.LittleEndian.PutUint64(second[:], b)
			return sorter.Add(a, second[:], []byte{1}, name)
		})
	}
	if err == nil {
		err = sorter.Sort()
	}
	if err != nil {
		return nil, err
	}
	var lastA, lastB uint64
	any := false
	return func() ([]byte, error) {
		for {
			a, h, value, err := sorter.Next()
			if err != nil {
				return nil, err
			}
			b := binary.LittleEndian.Uint64(h)
			if any && a == lastA && b == lastB {
				continue
			}
			any, lastA, lastB = true, a, b
			if len(value) > 0 {
				s.count++
				return value[1:], nil
			}
		}
	}, nil
}

// maybe is has without adding.
func (s *seen) maybe(a, b uint64) bool {
	block := s.filter[(a>>32&s.mask)*8:][:8]
	for range 6 {
		if block[b>>6&7]&(1<<(b&63)) == 0 {
			return false
		}
		b >>= 9
	}
	return true
}

// A spool is bytes in the order in which they were added: the first in memory, those behind in pieces of the space.
type spool struct {
	space *extsort.Space
	limit int // of held
	held  []byte
	parts []int64 // where pieces of hashChunk bytes are in the space
	tail  []byte
}

func (s *spool) reset() { s.held, s.parts, s.tail = s.held[:0], s.parts[:0], s.tail[:0] }

func (s *spool) add(b []byte) error {
	if len(s.tail) == 0 && len(s.parts) == 0 && len(s.held)+len(b) <= s.limit {
		s.held = append(s.held, b...)
		return nil
	}
	for len(b) > 0 {
		n := min(len(b), hashChunk-len(s.tail))
		s.tail = append(s.tail, b[:n]...)
		b = b[n:]
		if len(s.tail) == hashChunk {
			at, err := s.space.Append(s.tail)
			if err != nil {
				return err
			}
			s.parts = append(s.parts, at)
			s.tail = s.tail[:0]
		}
	}
	return nil
}

// A spoolReader reads what was added.
type spoolReader struct {
	*spool
	piece []byte // what is left of the current one
	next  int    // 0: held, 1 to len(parts): these, then the tail
	buf   []byte
}

func (r *spoolReader) Read(p []byte) (int, error) {
	for len(r.piece) == 0 {
		switch k := r.next; {
		case k == 0:
			r.piece = r.held
		case k <= len(r.parts):
			if r.buf == nil {
				r.buf = make([]byte, hashChunk)
			}
			if err := r.space.ReadAt(r.buf, r.parts[k-1]); err != nil {
				return 0, err
			}
			r.piece = r.buf
		case k == len(r.parts)+1:
			r.piece = r.tail
		default:
			return 0, io.EOF
		}
		r.next++
	}
	n := copy(p, r.piece)
	r.piece = r.piece[n:]
	return n, nil
}

// read calls f with records of a size.
func (s *spool) read(size int, f func([]byte) error) error {
	r := &spoolReader{spool: s}
	b := make([]byte, size)
	for {
		if _, err := io.ReadFull(r, b); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := f(b); err != nil {
			return err
		}
	}
}

// names calls f with names that are behind their length.
func (s *spool) names(f func([]byte) error) error {
	r := &spoolReader{spool: s}
	var head [4]byte
	var name []byte
	for {
		if _, err := io.ReadFull(r, head[:]); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		n := int(binary.LittleEndian.Uint32(head[:]))
		if cap(name) < n {
			name = make([]byte, n)
		}
		name = name[:n]
		if _, err := io.ReadFull(r, name); err != nil {
			return err
		}
		if err := f(name); err != nil {
			return err
		}
	}
}
