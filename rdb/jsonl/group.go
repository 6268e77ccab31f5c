package jsonl

import (
	"encoding/binary"
	"io"
	"slices"

	"github.com/amberkv/amber/internal/extsort"
	"github.com/amberkv/amber/rdb"
)

// A group's pending entries come before its consumers, which own them, and each consumer only has ids. Its line has both sides
// complete: so the entries are sorted by id, first what is pending and then who owns it, and what comes out is sorted by consumer.
//
// In pending, the number is the milliseconds of an id, the name the rest of it and one of the kinds below. In owners the number is
// that of the consumer, and the name a kind and an id.
const (
	kindPending  = 0 // value: delivery time, deliveries
	kindOwned    = 1 // value: number of the consumer, where its name is
	kindConsumer = 0 // value: seen, active, where its name is
	kindEntry    = 1 // value: delivery time, deliveries
)

// groupNames is how much of the names of a group's consumers is kept in memory; the others are in the space.
const groupNames = 256 << 10

// A place is where a consumer's name is: in names, or in the space.
type place struct {
	at, size int64
	away     bool
}

func (p place) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(p.at))
	b = binary.LittleEndian.AppendUint64(b, uint64(p.size))
	if p.away {
		return append(b, 1)
	}
	return append(b, 0)
}

func placeOf(b []byte) place {
	return place{int64(binary.LittleEndian.Uint64(b)), int64(binary.LittleEndian.Uint64(b[8:])), b[16] == 1}
}

// keep keeps a consumer's name.
func (w *Writer) keep(name []byte) (place, bool) {
	if at := len(w.names); at+len(name) <= min(groupNames, w.limit) {
		w.names = append(w.names, name...)
		return place{int64(at), int64(len(name)), false}, true
	}
	at, err := w.space.Append(name)
	return place{at, int64(len(name)), true}, !w.failed(err)
}

func (w *Writer) kept(p place) {
	if p.away {
		w.away(p.at, p.size)
	} else {
		w.string(w.names[p.at : p.at+p.size])
	}
}

// streamGroup writes a group and returns the element behind it.
func (w *Writer) streamGroup(e *rdb.Element) *rdb.Element {
	w.lit(`{"name":`)
	w.string(e.Value)
	w.lit(`,"last-delivered-id":`)
	w.id(e.ID)
	w.lit(`,"entries-read":`)
	if e.Read < 0 {
		w.lit("null")
	} else {
		w.int(e.Read)
	}
	pending, owners := w.sort(nil), w.sorter(&w.owners, nil, 4, w.space)
	w.names = w.names[:0]
	e = w.collectGroup(pending, owners)
	w.writePending(pending, owners)
	w.writeConsumers(owners)
	w.byte('}')
	w.space.Reset()
	return e
}

// collectGroup reads what belongs to a group and returns the element behind it.
func (w *Writer) collectGroup(pending, owners *extsort.Sorter) *rdb.Element {
	consumer := int64(-1)
	var owner place
	for {
		e := w.next()
		if e == nil {
			return nil
		}
		b := w.small[:0]
		var err error
		switch e.Kind {
		case rdb.ElementPending:
			b = append(binary.BigEndian.AppendUint64(b, e.ID.Seq), kindPending)
			name := len(b)
			b = appendTwo(b, e.Delivered, e.Count)
			err = pending.Add(e.ID.MS, b[:name], b[name:])
		case rdb.ElementConsumer:
			consumer++
			var ok bool
			if owner, ok = w.keep(e.Value); !ok {
				return nil
			}
			b = owner.append(appendTwo(append(b, kindConsumer), e.Seen, e.Active))
			err = owners.Add(uint64(consumer), b[:1], b[1:])
		case rdb.ElementOwned:
			if consumer < 0 {
				w.unexpected(e)
				return nil
			}
			b = append(binary.BigEndian.AppendUint64(b, e.ID.Seq), kindOwned)
			name := len(b)
			b = owner.append(binary.LittleEndian.AppendUint64(b, uint64(consumer)))
			err = pending.Add(e.ID.MS, b[:name], b[name:])
		case rdb.ElementNacked: // it has no owner, which is all that there is to say
		default:
			return e
		}
		if w.failed(err) {
			return nil
		}
	}
}

func appendTwo(b []byte, x, y int64) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(b, uint64(x)), uint64(y))
}

func twoOf(b []byte) (x, y int64) {
	return int64(binary.LittleEndian.Uint64(b)), int64(binary.LittleEndian.Uint64(b[8:]))
}

// writePending writes a group's pending entries with their owners, to whom it hands them.
func (w *Writer) writePending(pending, owners *extsort.Sorter) {
	w.lit(`,"pel":[`)
	var id rdb.StreamID
	var delivered, count int64
	open := false // an entry, whose owner isn't known yet, is to be written
	first := true
	begin := func() {
		w.comma(&first)
		w.byte('[')
		w.id(id)
		w.byte(',')
	}
	end := func() {
		w.byte(',')
		w.int(delivered)
		w.byte(',')
		w.int(count)
		w.byte(']')
	}
	if w.failed(pending.Sort()) {
		return
	}
	for {
		ms, name, value, err := pending.Next()
		if err != nil {
			if err != io.EOF && w.failed(err) {
				return
			}
			break
		}
		is := rdb.StreamID{MS: ms, Seq: binary.BigEndian.Uint64(name)}
		if name[8] == kindPending {
			if open {
				begin()
				w.lit("null")
				end()
			}
			if is == id && !first {
				w.wrong("entry %v is pending twice in a group", is)
				return
			}
			id, open = is, true
			delivered, count = twoOf(value)
			continue
		}
		if !open || is != id {
			w.wrong("a consumer owns entry %v, which is not pending, or another one owns it as well", is)
			return
		}
		begin()
		w.kept(placeOf(value[8:]))
		end()
		open = false
		b := append(w.small[:0], kindEntry)
		b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, id.MS), id.Seq)
		n := len(b)
		b = appendTwo(b, delivered, count)
		if w.failed(owners.Add(binary.LittleEndian.Uint64(value), b[:n], b[n:])) {
			return
		}
	}
	if open {
		begin()
		w.lit("null")
		end()
	}
	w.byte(']')
}

// writeConsumers writes a group's consumers, each with what it owns.
func (w *Writer) writeConsumers(owners *extsort.Sorter) {
	w.lit(`,"consumers":[`)
	if w.err != nil || w.failed(owners.Sort()) {
		return
	}
	w.begin(&w.consumers)
	begun, first := false, false
	end := func() {
		if begun {
			w.lit("]}")
			w.captured(&w.consumers, w.consumer)
		}
	}
	for {
		_, name, value, err := owners.Next()
		if err != nil {
			if err != io.EOF && w.failed(err) {
				return
			}
			break
		}
		if name[0] == kindConsumer {
			end()
			begun, first = true, true
			seen, active := twoOf(value)
			if !w.recall(placeOf(value[16:])) {
				return
			}
			w.capture(&w.consumers)
			w.lit(`{"name":`)
			w.string(w.consumer)
			w.lit(`,"seen-time":`)
			w.int(seen)
			w.lit(`,"active-time":`)
			if w.entry.Encoding == 15 || w.entry.Encoding == 19 {
				w.lit("null") // these encodings don't have it
			} else {
				w.int(active)
			}
			w.lit(`,"pel":[`)
			continue
		}
		w.comma(&first)
		delivered, count := twoOf(value)
		w.byte('[')
		w.id(rdb.StreamID{MS: binary.BigEndian.Uint64(name[1:]), Seq: binary.BigEndian.Uint64(name[9:])})
		w.byte(',')
		w.int(delivered)
		w.byte(',')
		w.int(count)
		w.byte(']')
	}
	end()
	w.sortedTexts(&w.consumers)
	w.byte(']')
}

// recall gets a consumer's name whole.
func (w *Writer) recall(p place) bool {
	if !p.away {
		w.consumer = append(w.consumer[:0], w.names[p.at:p.at+p.size]...)
		return true
	}
	w.consumer = slices.Grow(w.consumer[:0], int(p.size))[:p.size]
	return !w.failed(w.space.ReadAt(w.consumer, p.at))
}
