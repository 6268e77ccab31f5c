package rdb

import (
	"io"
	"iter"
	"strconv"
)

// An ElementKind says what an Element is, and so which of its fields count. The others are zero.
type ElementKind uint8

// The kinds of elements.
const (
	ElementBytes    ElementKind = iota + 1 // string, JSON, function: Value is the next piece of the value
	ElementItem                            // list: Value
	ElementMember                          // set: Value, ExpireAt (Dragonfly)
	ElementScored                          // zset: Value, Score
	ElementField                           // hash: Field, Value, ExpireAt
	ElementEntry                           // stream: ID, Fields (name, value, name, value …)
	ElementStream                          // stream, after its entries: Stream, but for the IDMP numbers; Left groups follow
	ElementGroup                           // stream: Value (name), ID (last delivered), Read (entries read, -1 unknown); Count pending entries follow; Left
	ElementPending                         // of the group: ID, Delivered (ms), Count (deliveries), Left
	ElementConsumer                        // of the group: Value (name), Seen, Active (ms; -1 never or unknown); Count owned entries follow; Left
	ElementOwned                           // of the consumer: ID, which is one of the group's pending, Left
	ElementNacked                          // of the group (Redis 8.8): ID of a pending entry without owner, Left
	ElementIDMP                            // stream (Redis 8.6), after all groups: Stream.IDMPDuration and IDMPMaxSize; Left producers follow
	ElementProducer                        // stream: Value (producer), Count ids follow; Left
	ElementProduced                        // of the producer: Value (its id for the entry), ID, Left
	ElementIDMPEnd                         // stream, after all producers: Stream.IDMPAdded and IDMPDuplicates
	ElementIndexed                         // array (Redis 8.8): Index, Value
	ElementArg                             // journal command: Value, first its name, then its arguments
	ElementRaw                             // module values, filters, sketches and the like: Value is the next piece of the value's bytes as in the stream
)

// String returns a short name, such as "field".
func (k ElementKind) String() string {
	names := [...]string{"none", "bytes", "item", "member", "scored", "field", "entry", "stream", "group", "pending", "consumer",
		"owned", "nacked", "idmp", "producer", "produced", "idmp-end", "indexed", "arg", "raw"}
	if int(k) < len(names) {
		return names[k]
	}
	return "unknown"
}

// A StreamID names an entry of a stream.
type StreamID struct{ MS, Seq uint64 }

// String returns the id as commands write it, such as "1526919030474-55".
func (id StreamID) String() string {
	return string(id.AppendText(make([]byte, 0, 41)))
}

// AppendText appends the id as commands write it to b.
func (id StreamID) AppendText(b []byte) []byte {
	return strconv.AppendUint(append(strconv.AppendUint(b, id.MS, 10), '-'), id.Seq, 10)
}

// Less tells whether the id comes before another.
func (id StreamID) Less(than StreamID) bool {
	return id.MS < than.MS || id.MS == than.MS && id.Seq < than.Seq
}

// StreamInfo is what a stream knows about itself.
type StreamInfo struct {
	Length uint64 // live entries
	LastID StreamID

	// Since Redis 7.0. HasHistory is false for a stream of an older encoding, and the three are zero.
	HasHistory   bool
	FirstID      StreamID // of the live entries, zero if there are none
	MaxDeletedID StreamID
	EntriesAdded uint64

	// What makes adding idempotent, since Redis 8.6. The first two come with ElementIDMP, the others with ElementIDMPEnd.
	IDMPDuration   uint64 // seconds
	IDMPMaxSize    uint64 // ids a producer
	IDMPAdded      uint64
	IDMPDuplicates uint64
}

// An Element is a piece of a value: an item of a list, a member of a set, a field of a hash and so on. It and its slices
// are borrowed: they hold until the next step, and Next.
//
// Values are as a client sees them, whatever the encoding: numbers that the stream has in binary come out as decimal
// text. List items, values of hash fields, arguments and strings of more than 64 KiB come in several elements, each with a piece of
// Value; More is set in all but the last, and Field and ExpireAt are the same in all. The names of fields,
// members, groups and consumers are always whole.
type Element struct {
	Kind     ElementKind
	More     bool // Value goes on in the next element; Left bytes of it follow (the writer needs to know)
	Value    []byte
	Field    []byte
	Score    float64
	ExpireAt int64 // in Unix milliseconds, 0 if it doesn't expire
	ID       StreamID
	Fields   [][]byte
	Stream   StreamInfo

	Read      int64 // entries that the group has read, -1 if unknown
	Delivered int64 // in Unix milliseconds
	Count     int64 // of deliveries, or of what follows: see the kinds
	Seen      int64 // in Unix milliseconds
	Active    int64 // in Unix milliseconds, -1 if never or unknown
	Left      int64 // how many more follow after this one in the same list: so the first tells how many there are; with More, bytes of Value
	Index     uint64
}

// Elements returns the pieces of the value of the entry that Next returned last, in the order of the stream, each borrowed
// until the next. An error ends the sequence; the end of the value is none. Breaking off leaves the rest of the value to Next, which
// skips it.
//
// A value can be read once: as elements, or raw.
func (r *Reader) Elements() iter.Seq2[*Element, error] {
	return func(yield func(*Element, error) bool) {
		for {
			e, err := r.Element()
			if err == io.EOF || !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// Element returns the next piece of the value of the entry that Next returned last. The error is io.EOF behind the last; ErrNoValue
// if the entry has no value or it was taken raw; all others are those of Next.
func (r *Reader) Element() (*Element, error) {
	if r.val.step <= stepEnd && !r.beginValue() {
		return nil, r.valueEnd()
	}
	if !r.stepValue() {
		return nil, r.valueEnd()
	}
	return &r.val.elem, nil
}

// valueEnd says why there is no element.
func (r *Reader) valueEnd() error {
	switch {
	case r.err != nil && r.err != io.EOF:
		return r.err
	case r.val.step == stepEnd && r.err == nil:
		return io.EOF
	}
	return ErrNoValue
}

// Len returns how many elements the value has, if its encoding tells before they are read, and -1 otherwise: for lists of
// several nodes, streams, packed blobs of more than 65534 entries, and all that comes as ElementRaw. What comes in pieces
// counts once. Call it before the first Element; it begins to read the value as elements.
func (r *Reader) Len() int64 {
	if r.val.step <= stepEnd && !r.beginValue() {
		return -1
	}
	return r.val.length
}
