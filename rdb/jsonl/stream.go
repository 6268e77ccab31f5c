package jsonl

import (
	"github.com/amberkv/amber/rdb"
)

// stream writes a stream in the order in which the elements come: entries, facts, groups, what makes adding idempotent.
func (w *Writer) stream() {
	w.lit(`{"entries":[`)
	first := true
	e := w.next()
	for ; e != nil && e.Kind == rdb.ElementEntry; e = w.next() {
		w.comma(&first)
		w.byte('[')
		w.id(e.ID)
		w.lit(`,[`)
		for i, text := range e.Fields {
			if i > 0 {
				w.byte(',')
			}
			w.string(text)
		}
		w.lit(`]]`)
	}
	if e == nil || e.Kind != rdb.ElementStream {
		w.wrong("a stream ends behind its entries")
		return
	}
	info := e.Stream
	w.lit(`],"length":`)
	w.uint(info.Length)
	w.lit(`,"last-generated-id":`)
	w.id(info.LastID)
	if info.HasHistory {
		w.lit(`,"max-deleted-entry-id":`)
		w.id(info.MaxDeletedID)
		w.lit(`,"entries-added":`)
		w.uint(info.EntriesAdded)
		w.lit(`,"recorded-first-entry-id":`)
		w.id(info.FirstID)
	}
	w.lit(`,"groups":[`)
	if e = w.next(); e != nil && e.Kind == rdb.ElementGroup && e.Left == 0 {
		e = w.streamGroup(e)
	} else if e != nil && e.Kind == rdb.ElementGroup {
		w.begin(&w.groups)
		for e != nil && e.Kind == rdb.ElementGroup {
			w.capture(&w.groups)
			w.name = append(w.name[:0], e.Value...)
			e = w.streamGroup(e)
			w.captured(&w.groups, w.name)
		}
		w.sortedTexts(&w.groups)
	}
	w.byte(']')
	if e != nil && e.Kind == rdb.ElementIDMP {
		w.idempotence(e)
		e = w.next()
	}
	if e != nil {
		w.unexpected(e)
	}
	w.byte('}')
}

// idempotence writes what a stream knows about producers.
func (w *Writer) idempotence(e *rdb.Element) {
	duration, size := e.Stream.IDMPDuration, e.Stream.IDMPMaxSize
	producers, ids := int64(0), int64(0)
	for e = w.next(); e != nil && e.Kind != rdb.ElementIDMPEnd; e = w.next() {
		switch e.Kind {
		case rdb.ElementProducer:
			producers++
		case rdb.ElementProduced:
			ids++
		default:
			w.unexpected(e)
			return
		}
	}
	if e == nil {
		w.wrong("a stream ends within its producers")
		return
	}
	for _, fact := range []struct {
		name  string
		value uint64
	}{
		{`,"idmp-duration":`, duration}, {`,"idmp-maxsize":`, size}, {`,"pids-tracked":`, uint64(producers)}, {`,"iids-tracked":`, uint64(ids)},
		{`,"iids-added":`, e.Stream.IDMPAdded}, {`,"iids-duplicates":`, e.Stream.IDMPDuplicates},
	} {
		w.lit(fact.name)
		w.uint(fact.value)
	}
}
