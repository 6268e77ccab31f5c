package restore

import (
	"encoding/binary"
	"strconv"

	"github.com/amberkv/amber/internal/lzf"
	"github.com/amberkv/amber/internal/resp"
)

// vectorRoom is how many bytes of a vector set are held: an element of it.
const vectorRoom = 4 << 20

// A vectorAsker takes a vector set apart, as Redis 8.0 to 8.6 write it: the module, dimensions, elements, quantisation, flags; then for each element its
// name, its attributes if any has them, its vector, and numbers of its node in the graph, which are of no interest: the graph is
// another in each server. Servers list the elements in another order each time they load them, so that their dumps differ.
type vectorAsker struct {
	rest     []byte // what isn't taken apart yet
	begun    bool
	ended    bool
	unknown  bool // it is not in this form
	elements uint64
	flags    uint64
}

// The kinds of items of a module's value, and the flags of a vector set.
const (
	moduleEnd      = 0
	moduleUnsigned = 2
	moduleString   = 5

	vectorsProjected = 1
	vectorsAttribute = 2
)

// vectors asks for the elements that came with a piece of the value.
func (a *asker) vectors(piece []byte) error {
	v := &a.vector
	if v.unknown || v.ended {
		return nil
	}
	v.rest = append(v.rest, piece...)
	at := 0
	for !v.unknown && !v.ended {
		m := moduleItems{b: v.rest[at:]}
		if !v.begun {
			v.begin(&m)
		} else if name, attributes, vector, ok := v.element(&m); ok {
			if err := a.askVector(name, attributes, vector); err != nil {
				return err
			}
		}
		if v.unknown = m.wrong; m.wrong || m.short {
			break
		}
		at += m.at
	}
	v.rest = append(v.rest[:0], v.rest[at:]...)
	v.unknown = v.unknown || len(v.rest) > vectorRoom
	return nil
}

// begin reads what comes before the elements.
func (v *vectorAsker) begin(m *moduleItems) {
	m.length()
	m.number()
	v.elements = m.number()
	m.number()
	v.flags = m.number()
	if v.flags&vectorsProjected != 0 {
		m.number()
		m.text()
	}
	v.begun = !m.short && !m.wrong
}

// element reads the next element.
func (v *vectorAsker) element(m *moduleItems) (name, attributes, vector []byte, ok bool) {
	if m.kind() == moduleEnd && !m.short {
		v.ended = true
		return nil, nil, nil, false
	}
	name = m.text()
	if v.flags&vectorsAttribute != 0 {
		attributes = m.text()
	}
	vector = m.text()
	for m.kind() == moduleUnsigned && !m.short {
		m.number()
	}
	return name, attributes, vector, !m.short && !m.wrong
}

// askVector asks for an element.
func (a *asker) askVector(name, attributes, vector []byte) error {
	a.of("VEMB", 3)
	a.arg(name)
	a.str("RAW")
	a.end(question{kind: askVector, elems: a.one(wantElem{name: a.b.keep(name), want: a.b.keep(vector)})})
	a.of("VGETATTR", 2)
	a.arg(name)
	a.end(question{kind: askAttributes, elems: a.one(wantElem{name: a.b.keep(name), want: a.b.keep(attributes)})})
	a.b.replies += len(vector) + len(attributes)
	return a.ungather()
}

// readVector holds the answer to VEMB against an element's vector: its second part.
func (n *compareNode) readVector(b *compareBatch, q *question, kind resp.Kind, count int64) error {
	w := &b.elems[q.elems.from]
	if kind == resp.Null || count < 2 {
		q.key.fail(q.rank, "element %s is missing", short(b.bytes(w.name)))
		return n.in.skipAll(count)
	}
	if err := n.in.skipAll(1); err != nil {
		return err
	}
	same, err := n.in.bulk(b.bytes(w.want))
	if err != nil {
		return err
	}
	if !same {
		q.key.fail(q.rank, "element %s has another vector than in the backup", short(b.bytes(w.name)))
	}
	return n.in.skipAll(count - 2)
}

// readAttributes holds the answer to VGETATTR against an element's attributes: none are as good as empty ones.
func (n *compareNode) readAttributes(b *compareBatch, q *question, kind resp.Kind, size int64) error {
	w := &b.elems[q.elems.from]
	want := b.bytes(w.want)
	if kind == resp.Null && len(want) == 0 {
		return nil
	}
	same, err := n.in.equal(kind, size, want)
	if err == nil && !same {
		q.key.fail(q.rank, "the attributes of element %s: %s", short(b.bytes(w.name)), n.in.differs(0, want))
	}
	return err
}

// moduleItems reads items of a module's value. Once it fell short, or something is wrong, what it returns is nothing.
type moduleItems struct {
	b     []byte
	at    int
	short bool // the item isn't complete yet
	wrong bool
}

func (m *moduleItems) take(n uint64) []byte {
	if m.short = m.short || m.wrong || n > uint64(len(m.b)-m.at); m.short {
		return nil
	}
	m.at += int(n)
	return m.b[m.at-int(n) : m.at]
}

func (m *moduleItems) byte() byte {
	if p := m.take(1); p != nil {
		return p[0]
	}
	return 0
}

// kind returns the kind of the next item, which it doesn't pass.
func (m *moduleItems) kind() byte {
	c := m.byte()
	if !m.short {
		m.at--
	}
	return c
}

// length reads a length as RDB has it.
func (m *moduleItems) length() uint64 {
	switch c := m.byte(); {
	case c < 0x40:
		return uint64(c)
	case c < 0x80:
		return uint64(c&0x3f)<<8 | uint64(m.byte())
	case c == 0x80:
		if p := m.take(4); p != nil {
			return uint64(binary.BigEndian.Uint32(p))
		}
	case c == 0x81:
		if p := m.take(8); p != nil {
			return binary.BigEndian.Uint64(p)
		}
	default:
		m.wrong = true
	}
	return 0
}

func (m *moduleItems) number() uint64 {
	if kind := m.length(); kind != moduleUnsigned && !m.short {
		m.wrong = true
	}
	return m.length()
}

// text reads a string item.
func (m *moduleItems) text() []byte {
	if kind := m.length(); kind != moduleString && !m.short {
		m.wrong = true
	}
	c := m.kind()
	if c < 0xc0 {
		return m.take(m.length())
	}
	m.byte()
	var n int64
	switch c {
	case 0xc0:
		n = int64(int8(m.byte()))
	case 0xc1:
		if p := m.take(2); p != nil {
			n = int64(int16(binary.LittleEndian.Uint16(p)))
		}
	case 0xc2:
		if p := m.take(4); p != nil {
			n = int64(int32(binary.LittleEndian.Uint32(p)))
		}
	case 0xc3:
		size, expanded := m.length(), m.length()
		p := m.take(size)
		if p == nil {
			return nil
		}
		out := []byte(nil)
		if expanded > vectorRoom || !lzf.Plausible(size, expanded) {
			m.wrong = true
		} else if out = make([]byte, expanded); lzf.Decompress(out, p) != nil {
			m.wrong = true
		}
		return out
	default:
		m.wrong = true
	}
	return strconv.AppendInt(nil, n, 10)
}
