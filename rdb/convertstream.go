package rdb

import "encoding/binary"

// nackedConsumer gets pending entries that have no owner where every one must have one.
const nackedConsumer = "nacked"

// idmpDefault is how many seconds, and how many IDs a producer, servers remember by default to tell entries that were
// added twice.
const idmpDefault = 100

// A streamConverter turns a stream into one of an older layout.
type streamConverter struct {
	c        *converter
	from, to int // levels

	length, added uint64
	last, first   StreamID
	deleted       StreamID

	lost map[Loss]bool // noted of this stream
	skip bool
}

// convertStream writes a stream in the newest layout that the target has: its nodes are the same in all of them. It tells whether the
// key is left out for what is lost. Only where it may come to that, what is written is held.
func (c *converter) convertStream() (skip, ok bool) {
	w := c.dst
	f := c.src.frame
	c.src.frame = frameNone
	s := &c.stream
	*s = streamConverter{c: c, from: int(f-frameStream1) + 1, to: w.dialect.streamLevel()}
	if !w.next(&c.header) {
		return false, false
	}
	db := w.db
	hold := s.holds()
	if hold {
		w.out.hold()
	}
	if !w.attributes(&c.header) {
		return false, false
	}
	w.out.byte(streamCode(s.to))
	w.out.str(c.header.Key)
	ok = s.nodes() && s.groups() && s.idmp()
	if hold {
		w.out.void = false
		if s.skip || !ok {
			w.out.drop()
			w.db = db
		} else {
			w.out.release()
		}
	}
	return s.skip, ok
}

// holds tells whether the stream may have to be taken back, or patched.
func (s *streamConverter) holds() bool {
	o := &s.c.opts
	if s.from == 5 || o.Policy == SkipKey {
		return true
	}
	for _, p := range o.Policies {
		if p == SkipKey {
			return true
		}
	}
	return false
}

// lose takes note of a loss, once.
func (s *streamConverter) lose(l Loss, what string) bool {
	if s.lost[l] {
		return true
	}
	if s.lost == nil {
		s.lost = make(map[Loss]bool)
	}
	s.lost[l] = true
	skip, ok := s.c.lose(l, false, what)
	if skip {
		s.skip, s.c.dst.out.void = true, true
	}
	return ok
}

// nodes converts the nodes and what the stream knows about itself.
func (s *streamConverter) nodes() bool {
	r, o := s.c.src, &s.c.dst.out
	nodes, ok := r.length()
	if !ok {
		return false
	}
	o.length(nodes)
	if nodes, ok = r.times(nodes, 2); !ok {
		return false
	}
	r.startCopy(o)
	if !r.skipStrings(nodes, 0) || !r.endCopy(o) {
		return false
	}
	if !r.lengths(&s.length, &s.last.MS, &s.last.Seq, &s.first.MS, &s.first.Seq, &s.deleted.MS, &s.deleted.Seq, &s.added) {
		return false
	}
	o.length(s.length)
	s.id(s.last)
	if s.to >= 2 {
		s.id(s.first)
		s.id(s.deleted)
		o.length(s.added)
	} else if s.deleted != (StreamID{}) || s.added != s.length {
		return s.lose(LossStreamCounts, "the numbers of entries ever added to the stream and deleted from it")
	}
	return true
}

func (s *streamConverter) id(id StreamID) {
	s.c.dst.out.length(id.MS)
	s.c.dst.out.length(id.Seq)
}

// groups converts the consumer groups.
func (s *streamConverter) groups() bool {
	r, o := s.c.src, &s.c.dst.out
	groups, ok := r.length()
	if !ok {
		return false
	}
	o.length(groups)
	for ; groups > 0; groups-- {
		name, ok := r.readString(&r.value, "group name")
		if !ok {
			return false
		}
		o.str(name)
		var last StreamID
		var read uint64
		if !r.lengths(&last.MS, &last.Seq, &read) {
			return false
		}
		s.id(last)
		if s.to >= 2 {
			o.length(read)
		} else if read != s.estimate(last) && !s.lose(LossStreamCounts, "how many entries a group of the stream has read") {
			return false
		}
		if !s.pending() || !s.consumers() {
			return false
		}
	}
	return true
}

// estimate returns how many entries servers think that a group has read if the stream doesn't say so.
func (s *streamConverter) estimate(last StreamID) uint64 {
	switch {
	case s.length == 0 || last.Less(s.first):
		return 0
	case last == s.last:
		return s.length
	case last == s.first:
		return 1
	}
	return ^uint64(0)
}

// pending copies the entries that a group has delivered.
func (s *streamConverter) pending() bool {
	r, o := s.c.src, &s.c.dst.out
	r.startCopy(o)
	n, ok := r.length()
	for ; ok && n > 0; n-- {
		ok = r.skip(16+8) && r.skipLengths(1)
	}
	return ok && r.endCopy(o)
}

// consumers converts the consumers of a group.
func (s *streamConverter) consumers() bool {
	r, o := s.c.src, &s.c.dst.out
	consumers, ok := r.length()
	if !ok {
		return false
	}
	patch, longest := int64(0), -1
	if s.from == 5 {
		patch = o.gap()
	} else {
		o.length(consumers)
	}
	for n := consumers; n > 0; n-- {
		name, ok := r.readString(&r.value, "consumer name")
		if !ok {
			return false
		}
		if len(name) >= len(nackedConsumer) && string(name[:len(nackedConsumer)]) == nackedConsumer {
			longest = max(longest, len(name)-len(nackedConsumer))
		}
		o.str(name)
		var owned uint64
		seen, ok := r.number()
		if !ok {
			return false
		}
		o.number(seen)
		if s.from >= 3 {
			active, ok := r.number()
			if !ok {
				return false
			}
			if s.to >= 3 {
				o.number(active)
			} else if active != seen && !s.lose(LossStreamTimes, "when consumers of the stream were active") {
				return false
			}
		}
		if !r.lengths(&owned) {
			return false
		}
		o.length(owned)
		r.startCopy(o)
		if !r.skipEach(owned, 16) || !r.endCopy(o) {
			return false
		}
	}
	return s.from < 5 || s.nacked(patch, consumers, longest)
}

// nacked gives the entries without owner to a consumer of their own, whose name is longer than any like it, and completes
// the number of consumers.
func (s *streamConverter) nacked(patch int64, consumers uint64, longest int) bool {
	r, o := s.c.src, &s.c.dst.out
	n, ok := r.length()
	if !ok {
		return false
	}
	if n == 0 {
		o.fill(patch, consumers)
		return o.err == nil
	}
	if !s.lose(LossStreamNacks, "that pending entries of the stream have no owner") {
		return false
	}
	o.fill(patch, consumers+1)
	o.length(uint64(len(nackedConsumer) + longest + 1))
	o.write([]byte(nackedConsumer))
	for range longest + 1 {
		o.byte('+')
	}
	o.number(0)
	if s.to >= 3 {
		o.number(^uint64(0))
	}
	o.length(n)
	r.startCopy(o)
	return r.skipEach(n, 16) && r.endCopy(o)
}

// idmp converts what makes adding entries idempotent.
func (s *streamConverter) idmp() bool {
	if s.from < 4 {
		return true
	}
	r, o := s.c.src, &s.c.dst.out
	keep := s.to >= 4
	if keep {
		r.startCopy(o)
	}
	var duration, size, producers, ids, added, duplicates uint64
	if !r.lengths(&duration, &size, &producers) {
		return false
	}
	for n := producers; n > 0; n-- {
		if !r.skipString() || !r.lengths(&ids) {
			return false
		}
		for ; ids > 0; ids-- {
			if !r.skipString() || !r.skipLengths(2) {
				return false
			}
		}
	}
	if !r.lengths(&added, &duplicates) {
		return false
	}
	switch {
	case keep:
		return r.endCopy(o)
	case duration != idmpDefault || size != idmpDefault || producers != 0 || added != 0 || duplicates != 0:
		return s.lose(LossStreamIDMP, "what makes adding entries to the stream idempotent")
	}
	return true
}

// number consumes eight bytes.
func (r *Reader) number() (uint64, bool) {
	if !r.need(8) {
		return 0, r.starved()
	}
	n := binary.LittleEndian.Uint64(r.buf[r.pos:])
	r.pos += 8
	return n, true
}
