package inspect

import (
	"bytes"
	"cmp"
	"container/heap"

	"github.com/amberkv/amber/rdb"
)

// A topKey is one of the biggest keys.
type topKey struct {
	name     []byte // at most maxName bytes of it
	length   int    // of the whole name
	db       int
	kind     rdb.Type
	encoding string
	memory   int64
	bytes    int64
	elements int64
}

// bigger orders keys, so that which are kept doesn't depend on the order in which they come.
func (k *topKey) compare(than *topKey) int {
	return cmp.Or(cmp.Compare(k.memory, than.memory), cmp.Compare(k.bytes, than.bytes), cmp.Compare(than.db, k.db),
		bytes.Compare(than.name, k.name), cmp.Compare(than.length, k.length))
}

// A top keeps the biggest keys. It is a heap with the smallest of them in front.
type top struct {
	limit int
	keys  []topKey
}

func (t *top) Len() int           { return len(t.keys) }
func (t *top) Less(i, j int) bool { return t.keys[i].compare(&t.keys[j]) < 0 }
func (t *top) Swap(i, j int)      { t.keys[i], t.keys[j] = t.keys[j], t.keys[i] }
func (t *top) Push(any)           { t.keys = append(t.keys, topKey{}) }
func (t *top) Pop() any           { return nil }

func (t *top) add(e *rdb.Entry, v *rdb.ValueInfo, memory int64) {
	if len(t.keys) == t.limit && (t.limit == 0 || memory < t.keys[0].memory) {
		return
	}
	t.put(&topKey{e.Key[:min(len(e.Key), maxName)], len(e.Key), e.DB, e.Type, v.Encoding, memory, v.Bytes, v.Elements})
}

// put takes in a key if it is among the biggest. It copies the name.
func (t *top) put(k *topKey) {
	at := 0
	if len(t.keys) < t.limit {
		at = len(t.keys)
		t.keys = append(t.keys, topKey{})
	} else if t.limit == 0 || k.compare(&t.keys[0]) <= 0 {
		return
	}
	name := append(t.keys[at].name[:0], k.name...)
	t.keys[at] = *k
	t.keys[at].name = name
	heap.Fix(t, at)
}
