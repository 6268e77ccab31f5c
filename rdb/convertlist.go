package rdb

import (
	"github.com/amberkv/amber/internal/listpack"
	"github.com/amberkv/amber/internal/ziplist"
)

// longNode is from what size on a node with a single entry is not taken whole. Servers make nodes of 8 KiB, but for items
// that are longer themselves.
const longNode = 1 << 20

// A listConverter turns the nodes of lists into those that servers before Redis 7.0 have.
type listConverter struct {
	pack ziplist.Builder
	head []byte
}

// convertList writes a list node by node, as ziplists.
func (c *converter) convertList() bool {
	r, w := c.src, c.dst
	f := r.frame
	r.frame = frameNone
	if !w.next(&c.header) || !w.attributes(&c.header) {
		return false
	}
	w.out.byte(codeQuicklist)
	w.out.str(c.header.Key)
	nodes, ok := r.length()
	w.out.length(nodes)
	for ; ok && nodes > 0; nodes-- {
		kind := uint64(0)
		if f == frameQuicklist2 {
			if kind, ok = r.length(); !ok {
				return false
			}
		}
		switch {
		case f == frameStrings:
			var b []byte
			if b, ok = r.readString(&r.value, "list node"); ok {
				w.out.blob(b)
			}
		case kind == nodePlain:
			ok = c.plainNode()
		case kind == nodePacked:
			ok = c.packedNode()
		default:
			ok = r.corrupt("a list node is neither plain nor packed")
		}
	}
	return ok && w.out.err == nil
}

// plainNode converts a node that is an item.
func (c *converter) plainNode() bool {
	r := c.src
	if !r.need(1) {
		return r.starved()
	}
	if r.buf[r.pos] < stringInt8 {
		n, ok := r.length()
		return ok && c.copyItem(n)
	}
	s, ok := r.readString(&r.value, "list item")
	if !ok {
		return false
	}
	z := &c.list.pack
	z.Reset()
	z.AppendString(s)
	c.dst.out.blob(z.Bytes())
	return true
}

// copyItem writes a node with one item, of the n bytes that follow.
func (c *converter) copyItem(n uint64) bool {
	r, o := c.src, &c.dst.out
	if n > ziplist.MaxSingle {
		key, db := r.context()
		r.err = &TooLargeError{Offset: r.offset(), Key: key, DB: db, What: "list item for a ziplist", Size: n, Limit: ziplist.MaxSingle}
		return false
	}
	var size uint64
	c.list.head, size = ziplist.AppendSingle(c.list.head[:0], n)
	o.length(size)
	o.write(c.list.head)
	r.startCopy(o)
	if !r.skip(n) || !r.endCopy(o) {
		return false
	}
	o.byte(ziplist.End)
	return true
}

// packedNode converts a node that is a listpack.
func (c *converter) packedNode() bool {
	r := c.src
	if !r.need(1) {
		return r.starved()
	}
	if r.buf[r.pos] < stringInt8 {
		n, ok := r.length()
		if !ok {
			return false
		}
		if n >= longNode {
			return c.longNode(n)
		}
		b, ok := r.readPlain(n, &r.value, "list node")
		return ok && c.repack(b)
	}
	b, ok := r.readString(&r.value, "list node")
	return ok && c.repack(b)
}

// longNode converts a listpack of n bytes, without taking it whole if it has one entry.
func (c *converter) longNode(n uint64) bool {
	r := c.src
	if !r.need(listpack.HeaderSize + 5) {
		return r.starved()
	}
	b := r.buf[r.pos : r.pos+listpack.HeaderSize+5]
	total, entries := listpack.Header(b)
	head, size, _, ok := listpack.Head(b[listpack.HeaderSize:])
	tail := listpack.Tail(uint64(head) + size)
	if !ok || total != n || entries != 1 || uint64(listpack.HeaderSize+head)+size+uint64(tail)+1 != n {
		b, ok := r.readPlain(n, &r.value, "list node")
		return ok && c.repack(b)
	}
	r.pos += listpack.HeaderSize + head
	if !c.copyItem(size) {
		return false
	}
	if !r.need(tail + 1) {
		return r.starved()
	}
	end := r.buf[r.pos : r.pos+tail+1]
	if !listpack.IsTail(end[:tail], uint64(head)+size) || end[tail] != listpack.EndMark {
		return r.corrupt("a list node is no listpack")
	}
	r.pos += tail + 1
	return true
}

// repack writes a listpack as a ziplist.
func (c *converter) repack(b []byte) bool {
	z := &c.list.pack
	z.Reset()
	n, size, count := 0, uint64(0), listpack.Unknown
	p := listpack.HeaderSize
	if len(b) > p {
		size, count = listpack.Header(b)
	}
	for {
		s, v, next := listpack.Next(b, p)
		if next == 0 {
			break
		}
		if s != nil {
			z.AppendBytes(s)
		} else {
			z.AppendInt(v)
		}
		n++
		p = next
	}
	if size != uint64(len(b)) || p != len(b)-1 || b[p] != listpack.EndMark || count != listpack.Unknown && count != n {
		return c.src.corrupt("a list node is no listpack")
	}
	c.dst.out.blob(z.Bytes())
	return true
}
