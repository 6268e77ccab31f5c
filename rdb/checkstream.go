package rdb

import (
	"encoding/binary"
	"fmt"
	"io"
)

// A streamChecker is what is known so far of a stream that is checked.
type streamChecker struct {
	live   uint64    // entries
	pel    [2]uint64 // the sums of two keyed hashes of each pending entry of the group
	owners [2]uint64 // the same of what its consumers own, and what has no owner
	group  uint64
	inside bool // a group
}

// Scopes of what is compared within a stream; each group and producer has its own.
const (
	scopeGroups = iota
	scopeProducers
	scopePending   // these three for each group
	scopeConsumers //
	scopeProduced  // for each producer
	scopes
)

// strictNode checks the id of a stream node.
func (r *Reader) strictNode() bool {
	s := &r.val.stream
	if s.nodes && !s.lastID.Less(s.node) {
		return r.corrupt(fmt.Sprintf("a stream node begins at %v, behind one that ends at %v", s.node, s.lastID))
	}
	// No two nodes have one id, also if the first is empty.
	s.nodes, s.any, s.lastID = true, false, s.node
	return true
}

// strictEntry checks the id of a stream entry, live or deleted.
func (r *Reader) strictEntry(id StreamID) bool {
	s := &r.val.stream
	if id.Less(s.lastID) || s.any && id == s.lastID || id == (StreamID{}) {
		return r.badPack(fmt.Sprintf("the stream entry %v follows %v", id, s.lastID))
	}
	s.any, s.lastID = true, id
	return true
}

func (c *Checker) checkStream() bool {
	r := c.r
	s := &c.stream
	*s = streamChecker{}
	c.members.Begin(-1)
	for {
		e, err := r.Element()
		if err == io.EOF {
			return c.endGroup() && c.endMembers(ElementGroup)
		}
		if err != nil {
			return false
		}
		ok := true
		switch e.Kind {
		case ElementEntry:
			s.live++
		case ElementStream:
			ok = c.streamInfo(&e.Stream)
		case ElementGroup:
			if ok = c.endGroup(); !ok {
				break
			}
			s.group++
			s.inside = true
			c.members.Scope(scopeGroups)
			ok = c.different(e.Kind, e.Value)
			c.members.Scope(s.group*scopes + scopePending)
		case ElementPending:
			ok = c.pending(e.ID)
		case ElementConsumer:
			c.members.Scope(s.group*scopes + scopeConsumers)
			ok = c.different(e.Kind, e.Value)
		case ElementOwned, ElementNacked:
			c.sum(&s.owners, e.ID)
		case ElementIDMP:
			if ok = c.endGroup(); ok {
				ok = c.idmp(&e.Stream)
			}
		case ElementProducer:
			s.group++
			c.members.Scope(scopeProducers)
			ok = c.different(e.Kind, e.Value)
			c.members.Scope(s.group*scopes + scopeProduced)
		case ElementProduced:
			ok = c.different(e.Kind, e.Value)
		}
		if !ok {
			return false
		}
	}
}

func (c *Checker) different(kind ElementKind, name []byte) bool {
	if !c.members.Add(name, c.r.offset()) {
		return c.twice(kind)
	}
	return true
}

// streamInfo checks what a stream says about itself behind its entries.
func (c *Checker) streamInfo(i *StreamInfo) bool {
	s := &c.r.val.stream
	switch {
	case i.Length != c.stream.live:
		return c.r.corrupt(fmt.Sprintf("a stream says that it has %d entries and has %d", i.Length, c.stream.live))
	case s.any && i.LastID.Less(s.lastID):
		return c.r.corrupt(fmt.Sprintf("a stream says that its last entry is %v and has %v", i.LastID, s.lastID))
	case i.HasHistory && i.LastID.Less(i.MaxDeletedID):
		return c.r.corrupt(fmt.Sprintf("a stream says that %v was deleted, behind its last entry %v", i.MaxDeletedID, i.LastID))
	case i.HasHistory && i.EntriesAdded < i.Length:
		return c.r.corrupt(fmt.Sprintf("a stream of %d entries says that %d were added", i.Length, i.EntriesAdded))
	}
	return true
}

func (c *Checker) pending(id StreamID) bool {
	c.sum(&c.stream.pel, id)
	c.scratch = appendRawID(c.scratch[:0], id)
	return c.different(ElementPending, c.scratch)
}

func appendRawID(b []byte, id StreamID) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, id.MS), id.Seq)
}

// sum adds an id. Pending entries are all different; so if the sums of theirs and of those that have an owner are equal,
// each has one owner: nobody without the keys of the hashes can make other sums equal, but with a probability of 2^-128.
func (c *Checker) sum(sums *[2]uint64, id StreamID) {
	c.scratch = appendRawID(c.scratch[:0], id)
	a, b := c.members.Sum(c.scratch)
	sums[0] += a
	sums[1] += b
}

// endGroup checks who owns what.
func (c *Checker) endGroup() bool {
	s := &c.stream
	if s.inside && s.pel != s.owners {
		return c.r.corrupt("a consumer owns an entry that isn't pending in its group, or a pending entry has no owner or several")
	}
	s.pel, s.owners, s.inside = [2]uint64{}, [2]uint64{}, false
	return true
}

// idmp checks the bounds that servers have for what makes adding idempotent.
func (c *Checker) idmp(i *StreamInfo) bool {
	if i.IDMPDuration < 1 || i.IDMPDuration > 86400 || i.IDMPMaxSize < 1 || i.IDMPMaxSize > 10000 {
		return c.r.corrupt(fmt.Sprintf("a stream remembers %d ids for %d seconds, and servers 1 to 10000 for 1 to 86400", i.IDMPMaxSize, i.IDMPDuration))
	}
	return true
}
