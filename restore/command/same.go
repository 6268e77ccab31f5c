package command

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/amberkv/amber/rdb"
)

// sameDumps tells whether two DUMPs of one server are of the same value. They need not be the same bytes: a table is listed in the order that it has grown into, and a
// stream tells when its consumers were seen, which is when they were made.
func sameDumps(a, b string) bool {
	if a == b {
		return a != ""
	}
	x, y := canonical(a), canonical(b)
	return x != nil && slices.EqualFunc(x, y, func(x, y rdb.Element) bool { return compareElements(&x, &y) == 0 })
}

// canonical returns the elements of a DUMP in an order that is the same for each making of the value, nil if they can't be read.
func canonical(dump string) []rdb.Element {
	if len(dump) < 10 {
		return nil
	}
	d := rdb.Dialect{Family: rdb.Redis, Version: int(binary.LittleEndian.Uint16([]byte(dump[len(dump)-10:])))}
	if d.Version >= 80 {
		d.Family = rdb.Valkey
	}
	r := rdb.NewPayloadReader(strings.NewReader(dump), d, &rdb.Entry{Kind: rdb.KindKey}, nil)
	e, err := r.Next()
	if err != nil {
		return nil
	}
	typ := e.Type
	elements, err := r.Value(-1)
	if err != nil {
		return nil
	}
	switch typ {
	case rdb.TypeSet, rdb.TypeHash, rdb.TypeZSet:
		for i := range elements {
			elements[i].Left = 0
		}
		slices.SortFunc(elements, func(a, b rdb.Element) int { return compareElements(&a, &b) })
	}
	return elements
}

// compareElements orders elements by all that they are, but for when a consumer was seen.
func compareElements(a, b *rdb.Element) int {
	return cmp.Or(
		cmp.Compare(a.Kind, b.Kind), bytes.Compare(a.Field, b.Field), bytes.Compare(a.Value, b.Value), cmp.Compare(a.Score, b.Score), cmp.Compare(a.ExpireAt, b.ExpireAt),
		cmp.Compare(a.ID.MS, b.ID.MS), cmp.Compare(a.ID.Seq, b.ID.Seq), slices.CompareFunc(a.Fields, b.Fields, bytes.Compare),
		cmp.Compare(a.Read, b.Read), cmp.Compare(a.Delivered, b.Delivered), cmp.Compare(a.Count, b.Count), cmp.Compare(a.Left, b.Left), cmp.Compare(a.Index, b.Index),
		compareStreams(&a.Stream, &b.Stream))
}

func compareStreams(a, b *rdb.StreamInfo) int {
	if *a == *b {
		return 0
	}
	return 1 // there is one in a value, which needs no order
}
