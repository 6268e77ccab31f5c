package rdb

import "github.com/amberkv/amber/internal/listpack"

// The kinds of nodes of a list.
const (
	nodePlain  = 1
	nodePacked = 2
)

// What a node takes: items up to nodeSize bytes in all, but no item larger than nodeItem, which gets its own.
const (
	nodeSize = 8 << 10
	nodeItem = 4 << 10
)

// A listWriter writes lists in nodes, for dialects without the plain encoding.
type listWriter struct {
	nodes uint64
	pack  []byte // the node that is being made
	n     uint64 // its items
}

func (l *listWriter) reset() { l.nodes, l.n, l.pack = 0, 0, listpack.Begin(l.pack[:0]) }

// flush writes the node that is being made.
func (l *listWriter) flush(o *output) {
	if l.n == 0 {
		return
	}
	l.pack = listpack.End(l.pack, 0, l.n)
	o.byte(nodePacked)
	o.blob(l.pack)
	l.nodes++
	l.n, l.pack = 0, listpack.Begin(l.pack[:0])
}

// item adds an item, or its first piece.
func (l *listWriter) item(w *Writer, e *Element) error {
	if len(e.Value) > nodeItem || e.More {
		l.flush(&w.out)
		l.nodes++
		w.out.byte(nodePlain)
		if e.More {
			return w.value.first(w, e)
		}
		w.out.blob(e.Value)
		return w.fail()
	}
	if len(l.pack)+len(e.Value) > nodeSize {
		l.flush(&w.out)
	}
	l.pack = listpack.AppendString(l.pack, e.Value)
	l.n++
	return w.fail()
}
