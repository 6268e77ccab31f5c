package extsort

import (
	"encoding/binary"
	"io"
)

// A run is where in the space records stand sorted.
type run struct{ from, to int64 }

// A source is a run that is being read.
type source struct {
	run    run // what is left of it, but for what is in buf
	buf    []byte
	own    []byte // buf of records that are larger than the buffer that the source was given
	p, end int    // what of buf is still to come

	number      uint64
	name, value []byte // of the record at hand
}

// merge gets the runs ready to be read: it merges them to fewer until all can be read at once.
func (s *Sorter) merge() error {
	size := min(runBuffer, max(s.limit/4, 64))
	if s.data = s.data[:cap(s.data)]; len(s.data) < 3*size {
		s.data = make([]byte, 3*size)
	}
	// One buffer is for writing.
	most := len(s.data)/size - 1
	for len(s.runs) > most {
		// Runs side by side are merged, so that equal records stay in order.
		merged := s.scratch[:0]
		for rest := s.runs; len(rest) > 0; {
			group := rest[:min(most, len(rest))]
			rest = rest[len(group):]
			if len(group) == 1 {
				merged = append(merged, group[0])
				continue
			}
			one, err := s.mergeToRun(group, size)
			if err != nil {
				return err
			}
			merged = append(merged, one)
		}
		s.runs, s.scratch = merged, s.runs
	}
	return s.openRuns(s.runs, size)
}

// mergeToRun writes several runs to the space as one.
func (s *Sorter) mergeToRun(runs []run, size int) (run, error) {
	from := s.space.end
	if err := s.openRuns(runs, size); err != nil {
		return run{}, err
	}
	buf := s.data[len(s.data)-size:][:0]
	for {
		number, name, value, err := s.nextMerged()
		if err == io.EOF {
			break
		}
		if err != nil {
			return run{}, err
		}
		if len(buf)+headSize+len(name)+len(value) > size {
			if err := s.space.write(buf); err != nil {
				return run{}, err
			}
			buf = buf[:0]
		}
		buf = appendHead(buf, number, len(name), len(value))
		if headSize+len(name)+len(value) > size {
			for _, p := range [][]byte{buf, name, value} {
				if err := s.space.write(p); err != nil {
					return run{}, err
				}
			}
			buf = buf[:0]
			continue
		}
		buf = append(append(buf, name...), value...)
	}
	if err := s.space.write(buf); err != nil {
		return run{}, err
	}
	return run{from, s.space.end}, nil
}

// openRuns begins to read runs, each through size bytes of data.
func (s *Sorter) openRuns(runs []run, size int) error {
	for len(s.sources) < len(runs) {
		s.sources = append(s.sources, source{})
	}
	s.heap, s.current = s.heap[:0], -1
	for i, r := range runs {
		src := &s.sources[i]
		*src = source{run: r, buf: s.data[i*size : (i+1)*size : (i+1)*size]}
		if more, err := src.next(s.space); err != nil {
			return err
		} else if more {
			s.heap = append(s.heap, i)
			s.up(len(s.heap) - 1)
		}
	}
	return nil
}

// nextMerged returns the least record of all sources.
func (s *Sorter) nextMerged() (uint64, []byte, []byte, error) {
	if s.current >= 0 {
		// Its record was borrowed until now.
		more, err := s.sources[s.current].next(s.space)
		if err != nil {
			return 0, nil, nil, err
		}
		s.current = -1
		if !more {
			last := len(s.heap) - 1
			s.heap[0] = s.heap[last]
			s.heap = s.heap[:last]
		}
		s.down()
	}
	if len(s.heap) == 0 {
		return 0, nil, nil, io.EOF
	}
	s.current = s.heap[0]
	src := &s.sources[s.current]
	return src.number, src.name, src.value, nil
}

// less tells whether the record of one source goes before that of another.
func (s *Sorter) less(a, b int) bool {
	x, y := &s.sources[a], &s.sources[b]
	if x.number != y.number {
		return x.number < y.number
	}
	if c := s.order.Compare(x.name, y.name); c != 0 {
		return c < 0
	}
	return a < b
}

func (s *Sorter) up(i int) {
	for i > 0 {
		above := (i - 1) / 2
		if !s.less(s.heap[i], s.heap[above]) {
			return
		}
		s.heap[i], s.heap[above] = s.heap[above], s.heap[i]
		i = above
	}
}

func (s *Sorter) down() {
	h := s.heap
	for i := 0; ; {
		least := i
		for below := 2*i + 1; below <= 2*i+2 && below < len(h); below++ {
			if s.less(h[below], h[least]) {
				least = below
			}
		}
		if least == i {
			return
		}
		h[i], h[least] = h[least], h[i]
		i = least
	}
}

// next reads the next record.
func (s *source) next(space *Space) (more bool, err error) {
	if s.p == s.end && s.run.from == s.run.to {
		return false, nil
	}
	if err := s.need(space, headSize); err != nil {
		return false, err
	}
	head := s.buf[s.p:]
	s.number = binary.LittleEndian.Uint64(head)
	name, value := int(binary.LittleEndian.Uint32(head[8:])), int(binary.LittleEndian.Uint32(head[12:]))
	if err := s.need(space, headSize+name+value); err != nil {
		return false, err
	}
	p := s.p + headSize
	s.name, s.value = s.buf[p:p+name:p+name], s.buf[p+name:p+name+value:p+name+value]
	s.p = p + name + value
	return true, nil
}

// need gets n bytes into buf.
func (s *source) need(space *Space, n int) error {
	have := s.end - s.p
	if have >= n {
		return nil
	}
	left := s.run.to - s.run.from
	if int64(n-have) > left {
		return io.ErrUnexpectedEOF // the spool gave back other bytes than it got
	}
	to := s.buf
	if n > len(to) {
		if n > len(s.own) {
			s.own = make([]byte, n)
		}
		to = s.own
	}
	copy(to, s.buf[s.p:s.end])
	s.buf, s.p, s.end = to, 0, have
	more := int(min(int64(len(to)-have), left))
	if err := space.ReadAt(to[have:have+more], s.run.from); err != nil {
		return err
	}
	s.run.from += int64(more)
	s.end = have + more
	return nil
}
