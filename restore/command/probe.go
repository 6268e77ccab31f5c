package command

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/amberkv/amber/internal/crc64"
	"github.com/amberkv/amber/rdb"
)

// An encoding is a type byte, together with the family in which it means what it does. The bytes that mean the same in every family
// have none.
type encoding struct {
	family rdb.Family
	code   uint8
}

// lastShared is the last type byte that means the same in every family. Source: rdb-format 3.2.
const lastShared = 21

// The type bytes that are named here.
const (
	codeModule = 7
	codeZipmap = 9
	codePreGA  = 22 // of hashes with expiries, by release candidates of Redis 7.4
	codePreGA2 = 23
	codePacked = 25
	// Of Valkey and Dragonfly, hashes with expiries, too.
	codeValkeyHash = 22
	codeExpireHash = 31
	codeArray      = 28
)

// encodingOf returns the encoding of a type byte in streams of a dialect.
func encodingOf(d rdb.Dialect, code uint8) encoding {
	if code <= lastShared {
		return encoding{code: code}
	}
	return encoding{d.Family, code}
}

// rare tells of encodings that next to no backup has: whether the target takes them doesn't decide about a dialect. Values that
// have one are made by commands.
func (e encoding) rare() bool {
	return e.code == codeZipmap || e.family == rdb.Redis && (e.code == codePreGA || e.code == codePreGA2)
}

// choose picks the dialect in which the target gets values of some types from streams of some dialects, of which the first is
// that of the backup. It is the first by which RESTORE takes all, or else the most types; the others are made by commands. Only a
// Dragonfly gets Dragonfly's dialect: with that a Redis would lose its functions, and what it can't hold of a Dragonfly's would not be seen.
// Nor is one chosen for its encodings if commands can't make all that they hold: what is lost has to be known from the conversion.
func choose(engine string, from []rdb.Dialect, types []rdb.Type, takes, makes func(encoding) bool) (to rdb.Dialect, byCommands []rdb.Type) {
	best := -1
	for _, d := range candidates(engine, from) {
		score := 0
		var others []rdb.Type
		for _, t := range types {
			if covers(d, from, t, takes) {
				score += 2 * len(types)
				continue
			}
			others = append(others, t)
			if commandable(t) && holds(d, from, t) && all(d, from, t, makes) {
				score++
			}
		}
		if score > best {
			best, to, byCommands = score, d, others
		}
		if len(others) == 0 {
			break
		}
	}
	return to, byCommands
}

// candidates returns the dialects that come into question, the backup's own first.
func candidates(engine string, from []rdb.Dialect) []rdb.Dialect {
	out := []rdb.Dialect{from[0], {Family: rdb.Valkey, Version: 80}, {Family: rdb.Dragonfly, Version: 9}}
	for v := 15; v >= 6; v-- {
		out = append(out, rdb.Dialect{Family: rdb.Redis, Version: v})
	}
	return slices.DeleteFunc(out, func(d rdb.Dialect) bool { return d.Family == rdb.Dragonfly && engine != "dragonfly" })
}

// covers tells whether RESTORE takes all values of a type that are in streams of dialect d made of those of others.
func covers(d rdb.Dialect, from []rdb.Dialect, t rdb.Type, takes func(encoding) bool) bool {
	return holds(d, from, t) && all(d, from, t, func(e encoding) bool { return e.rare() || takes(e) })
}

// all tells whether something is true of all encodings that values of a type have in streams of dialect d made of those of others.
func all(d rdb.Dialect, from []rdb.Dialect, t rdb.Type, is func(encoding) bool) bool {
	for _, f := range from {
		for _, code := range d.Encodings(t, f) {
			if !is(encodingOf(d, code)) {
				return false
			}
		}
	}
	return true
}

// expiring tells of hashes whose fields expire.
func (e encoding) expiring() bool {
	switch e.family {
	case rdb.Redis:
		return e.code >= codePreGA && e.code <= codePacked
	case rdb.Valkey:
		return e.code == codeValkeyHash
	case rdb.Dragonfly:
		return e.code == codeExpireHash
	}
	return false
}

// holds tells whether streams of dialect d have a place for values of a type that come from streams of other dialects.
func holds(d rdb.Dialect, from []rdb.Dialect, t rdb.Type) bool {
	for _, f := range from {
		if len(d.Encodings(t, f)) == 0 {
			return false
		}
	}
	return true
}

// commandable tells whether there are plain commands that make values of a type.
func commandable(t rdb.Type) bool {
	switch t {
	case rdb.TypeString, rdb.TypeList, rdb.TypeSet, rdb.TypeZSet, rdb.TypeHash, rdb.TypeStream, rdb.TypeJSON:
		return true
	}
	return false
}

// needed returns the encodings that have to be tried to choose.
func needed(engine string, from []rdb.Dialect, types []rdb.Type) []encoding {
	var out []encoding
	for _, t := range types {
		for _, f := range from {
			for _, d := range candidates(engine, from) {
				for _, code := range d.Encodings(t, f) {
					if e := encodingOf(d, code); !slices.Contains(out, e) {
						out = append(out, e)
					}
				}
			}
		}
	}
	return out
}

// A sample is a tiny value to try whether a server takes its encoding.
type sample struct {
	payload []byte
	read    []string // a command that reads it, without its key
	want    string   // the answer
}

// samples returns one of each encoding that can be tried.
func samples() (map[encoding]sample, error) {
	out := make(map[encoding]sample)
	hget := []string{"HGET", "a"}
	// Packed forms, of which a server makes the rest: {"a"} or {"a": 1}.
	var (
		ziplist1  = "\x0e\x00\x00\x00\x0a\x00\x00\x00\x01\x00\x00\x01a\xff"
		ziplist2  = "\x10\x00\x00\x00\x0d\x00\x00\x00\x02\x00\x00\x01a\x03\xf2\xff"
		listpack1 = "\x0a\x00\x00\x00\x01\x00\x81a\x02\xff"
		listpack2 = "\x0c\x00\x00\x00\x02\x00\x81a\x02\x01\x01\xff"
		listpack3 = "\x0e\x00\x00\x00\x03\x00\x81a\x02\x01\x01\x00\x01\xff" // and no expiry
		zipmap    = "\x01\x01a\x01\x001\xff"
		intset    = "\x02\x00\x00\x00\x01\x00\x00\x00\x01\x00"
	)
	packed := func(s string) string { return string(byte(len(s))) + s }
	for _, p := range []struct {
		e    encoding
		body string
		read []string
		want string
	}{
		{encoding{code: codeZipmap}, packed(zipmap), hget, "1"},
		{encoding{code: 10}, packed(ziplist1), []string{"LINDEX", "0"}, "a"},
		{encoding{code: 11}, packed(intset), nil, ""},
		{encoding{code: 12}, packed(ziplist2), []string{"ZSCORE", "a"}, "1"},
		{encoding{code: 13}, packed(ziplist2), hget, "1"},
		{encoding{code: 14}, "\x01" + packed(ziplist1), []string{"LINDEX", "0"}, "a"},
		{encoding{code: 16}, packed(listpack2), hget, "1"},
		{encoding{code: 17}, packed(listpack2), []string{"ZSCORE", "a"}, "1"},
		{encoding{code: 18}, "\x01\x02" + packed(listpack1), []string{"LINDEX", "0"}, "a"},
		{encoding{code: 20}, packed(listpack1), nil, ""},
		{encoding{rdb.Redis, codePreGA}, "\x01\x00\x01a\x011", hget, "1"},
		{encoding{rdb.Redis, codePreGA2}, packed(listpack3), hget, "1"},
		{encoding{rdb.Redis, codeArray}, "\x01\x00\x00\x00\x01a", nil, ""},
		{encoding{rdb.Redis, codePacked}, "\x00\x00\x00\x00\x00\x00\x00\x00" + packed(listpack3), hget, "1"},
	} {
		out[p.e] = sample{payload: payload(p.e.code, p.body), read: p.read, want: p.want}
	}
	redis := func(v int) rdb.Dialect { return rdb.Dialect{Family: rdb.Redis, Version: v} }
	valkey, dragonfly := rdb.Dialect{Family: rdb.Valkey, Version: 80}, rdb.Dialect{Family: rdb.Dragonfly, Version: 9}
	const later = 4102444800000 // the year 2100
	field := rdb.Element{Kind: rdb.ElementField, Field: []byte("a"), Value: []byte("1")}
	expiring, member := field, rdb.Element{Kind: rdb.ElementMember, Value: []byte("a")}
	expiring.ExpireAt = later
	brief := member
	brief.ExpireAt = later
	item := rdb.Element{Kind: rdb.ElementItem, Value: []byte("a")}
	text := rdb.Element{Kind: rdb.ElementBytes, Value: []byte("a")}
	scored := rdb.Element{Kind: rdb.ElementScored, Value: []byte("a"), Score: 1}
	stream := []rdb.Element{
		{Kind: rdb.ElementEntry, ID: rdb.StreamID{MS: 1}, Fields: [][]byte{[]byte("a"), []byte("1")}},
		{Kind: rdb.ElementStream, Stream: rdb.StreamInfo{Length: 1, LastID: rdb.StreamID{MS: 1}, HasHistory: true, FirstID: rdb.StreamID{MS: 1}, EntriesAdded: 1}},
	}
	for _, w := range []struct {
		d    rdb.Dialect
		t    rdb.Type
		els  []rdb.Element
		read []string
		want string
	}{
		{redis(6), rdb.TypeString, []rdb.Element{text}, []string{"GETRANGE", "0", "-1"}, "a"},
		{redis(6), rdb.TypeList, []rdb.Element{item}, []string{"LINDEX", "0"}, "a"},
		{redis(6), rdb.TypeSet, []rdb.Element{member}, nil, ""},
		{redis(6), rdb.TypeZSet, []rdb.Element{scored}, []string{"ZSCORE", "a"}, "1"},
		{redis(8), rdb.TypeZSet, []rdb.Element{scored}, []string{"ZSCORE", "a"}, "1"},
		{redis(6), rdb.TypeHash, []rdb.Element{field}, hget, "1"},
		{redis(12), rdb.TypeHash, []rdb.Element{expiring}, hget, "1"},
		{valkey, rdb.TypeHash, []rdb.Element{expiring}, hget, "1"},
		{dragonfly, rdb.TypeHash, []rdb.Element{expiring}, hget, "1"},
		{dragonfly, rdb.TypeSet, []rdb.Element{brief}, nil, ""},
		{dragonfly, rdb.TypeJSON, []rdb.Element{{Kind: rdb.ElementBytes, Value: []byte(`{"a":1}`)}}, nil, ""},
		{redis(9), rdb.TypeStream, stream, nil, ""},
		{redis(10), rdb.TypeStream, stream, nil, ""},
		{redis(11), rdb.TypeStream, stream, nil, ""},
		{redis(13), rdb.TypeStream, stream, nil, ""},
		{redis(14), rdb.TypeStream, stream, nil, ""},
	} {
		p, err := written(w.d, w.t, w.els)
		if err != nil {
			return nil, fmt.Errorf("making a sample of type %s in %s: %w", w.t, w.d, err)
		}
		out[encodingOf(w.d, p[0])] = sample{payload: p, read: w.read, want: w.want}
	}
	return out, nil
}

// payload makes a DUMP payload of a type byte and what follows it. The footer states the lowest version that all servers with
// RESTORE take.
func payload(code uint8, body string) []byte {
	p := append([]byte{code}, body...)
	p = append(p, 6, 0)
	return binary.LittleEndian.AppendUint64(p, crc64.Checksum(p))
}

// written makes a DUMP payload by writing a stream and reading it.
func written(d rdb.Dialect, t rdb.Type, els []rdb.Element) ([]byte, error) {
	var out bytes.Buffer
	w, err := rdb.NewWriter(&out, d, nil)
	if err != nil {
		return nil, err
	}
	shape := rdb.Shape{Len: 1, Expiry: els[0].ExpireAt != 0}
	if err := w.WriteEntry(&rdb.Entry{Kind: rdb.KindKey, Key: []byte("k"), Type: t, Idle: -1, Freq: -1}, shape); err != nil {
		return nil, err
	}
	for i := range els {
		if err := w.WriteElement(&els[i]); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	in := rdb.NewReader(&out, nil)
	for {
		e, err := in.Next()
		if err != nil {
			return nil, err
		}
		if e.Kind == rdb.KindKey {
			return in.AppendRaw(nil, -1)
		}
	}
}
