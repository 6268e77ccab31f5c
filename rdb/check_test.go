package rdb

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/amberkv/amber/internal/listpack"
	"github.com/amberkv/amber/internal/ziplist"
)

// checkAll checks data with a spool in a file of the test.
func checkAll(t testing.TB, data []byte) error {
	t.Helper()
	return Check(NewReader(bytes.NewReader(data), nil), &CheckOptions{Spool: spoolIn(t)})
}

func spoolIn(t testing.TB) func() (Spool, error) {
	return func() (Spool, error) { return os.Create(filepath.Join(t.TempDir(), "spool")) }
}

// TestCheckFixtures checks what servers wrote, which has to be right.
func TestCheckFixtures(t *testing.T) {
	for _, f := range fixtures(t, 1<<30) {
		r := NewReader(bytes.NewReader(f.data), nil)
		if err := Check(r, nil); err != nil {
			t.Errorf("%s: %v", f.name, err)
		}
		if s := r.Stats(); s.Checksum == ChecksumPending || s.Bytes != int64(len(f.data)) {
			t.Errorf("%s was not read to its end: %+v", f.name, s)
		}
	}
	for _, f := range rareFixtures() {
		err := checkAll(t, f.data)
		var corrupt *CorruptError
		// Some have no more than the frame of a value.
		if err != nil && !(errors.As(err, &corrupt) && strings.Contains(corrupt.Why, "it is of 8 bytes and says")) {
			t.Errorf("%s: %v", f.name, err)
		}
	}
}

// lp makes a listpack, in which numbers stand as numbers.
func lp(entries ...string) string {
	b := listpack.Begin(nil)
	for _, e := range entries {
		b = listpack.AppendString(b, []byte(e))
	}
	return string(listpack.End(b, 0, uint64(len(entries))))
}

func zl(entries ...string) string {
	var z ziplist.Builder
	z.Reset()
	for _, e := range entries {
		z.AppendString([]byte(e))
	}
	return string(z.Bytes())
}

// A streamValue makes a value of type 27, with one group of one consumer.
type streamValue struct {
	nodes   [][2]string // id, listpack
	length  uint64
	last    StreamID
	deleted StreamID
	added   uint64
	groups  func(*builder)
	idmp    []uint64 // duration, size
}

func sid(ms, seq uint64) string { return string(appendRawID(nil, StreamID{ms, seq})) }

func (s streamValue) bytes() []byte {
	b := build("").len(uint64(len(s.nodes)))
	for _, n := range s.nodes {
		b.str(n[0], n[1])
	}
	b.len(s.length, s.last.MS, s.last.Seq, 0, 0, s.deleted.MS, s.deleted.Seq, s.added)
	if s.groups == nil {
		b.len(0)
	} else {
		s.groups(b)
	}
	b.len(s.idmp...)
	if len(s.idmp) == 2 {
		b.len(0, 0, 0)
	}
	return b.b
}

// aNode is a stream node of one entry 5-1 and one 5-2, relative to 5-1.
var aNode = [2]string{sid(5, 1), lp("2", "0", "1", "f", "0", "2", "0", "0", "v", "4", "2", "0", "1", "w", "4")}

func goodStream() streamValue {
	return streamValue{nodes: [][2]string{aNode}, length: 2, last: StreamID{5, 2}, added: 2, idmp: []uint64{100, 100}}
}

// group appends a group: its pending ids, and those of its consumers, and those without owner.
func group(b *builder, name string, pending []string, consumers map[string][]string, nacked ...string) {
	b.str(name).len(5, 2, 2, uint64(len(pending)))
	for _, id := range pending {
		b.bytes([]byte(id)...).u64(7).len(1)
	}
	b.len(uint64(len(consumers)))
	for name, ids := range consumers {
		name, _, _ = strings.Cut(name, "#")
		b.str(name).u64(1, 1).len(uint64(len(ids)))
		for _, id := range ids {
			b.bytes([]byte(id)...)
		}
	}
	b.len(uint64(len(nacked)))
	for _, id := range nacked {
		b.bytes([]byte(id)...)
	}
}

// TestCheckWrong has streams that the reader reads and no server loads, or none should.
func TestCheckWrong(t *testing.T) {
	nan := math.Float64bits(math.NaN())
	key := func(magic string, code uint8, value []byte) []byte {
		return build(magic).bytes(code).str("k").bytes(value...).end()
	}
	two, half := math.Float64bits(2), math.Float64bits(0.5)
	dragonfly := func(code uint8, value []byte) []byte { return key("REDIS0009", code, value) }
	str := func(s string) []byte { return build("").str(s).b }
	stream := func(change func(*streamValue)) []byte {
		s := goodStream()
		change(&s)
		return key("REDIS0014", 27, s.bytes())
	}
	grouped := func(n uint64, groups func(*builder)) []byte {
		return stream(func(s *streamValue) { s.groups = func(b *builder) { b.len(n); groups(b) } })
	}
	a, b := sid(5, 1), sid(5, 2)
	for _, c := range []struct {
		why  string // empty: nothing is wrong
		data []byte
	}{
		{"the key is there twice", build("REDIS0012").bytes(0).str("k", "v").bytes(2).str("k").len(1).str("m").end()},
		{"", build("REDIS0012").bytes(0).str("k", "v").bytes(opSelectDB, 1, 0).str("k", "v").end()},
		{"the key is there twice", build("REDIS0012").bytes(0).str("k", "v").bytes(opSelectDB, 1, 0).str("k", "v").bytes(opSelectDB, 0, 0).str("k", "v").end()},
		{"the key is there twice", build("REDIS0012").bytes(0).str("12", "v").bytes(0, stringInt8, 12).str("v").end()},
		{"expires at -5", build("REDIS0012").bytes(opExpireMillis).u64(^uint64(4)).bytes(0).str("k", "v").end()},
		{"expires at 0", build("REDIS0012").bytes(opExpireMillis).u64(0).bytes(0).str("k", "v").end()},
		{"stands at the end", build("REDIS0012").bytes(0).str("k", "v").bytes(opExpireMillis).u64(5).end()},
		{"stands at the end", build("REDIS0012").bytes(0).str("k", "v").bytes(opFreq, 5).end()},
		{"says that a database has", build("REDIS0012").bytes(opResizeDB).len(1<<40, 0).bytes(0).str("k", "v").end()},
		{"says that a database has", build("REDIS0012").bytes(opResizeDB).len(1, 1<<63).bytes(0).str("k", "v").end()},
		{"no slot 16384", build("REDIS0012").bytes(opSlotInfo).len(16384, 0, 0).end()},
		{"no slot 16384", build("REDIS0011").bytes(opAux).str("slot-info", "16384,1,0").end()},
		{"the size of a cluster slot", build("REDIS0011").bytes(opAux).str("slot-info", "4<,1,0").end()},
		{"the size of a cluster slot", build("REDIS0011").bytes(opAux).str("slot-info", "4,1").end()},
		{"", build("REDIS0011").bytes(opAux).str("slot-info", "16383,1,0,5").end()},
		{"for moment 3", build("REDIS0012").bytes(opModuleAux).len(uint64(vectorset), 2, 3, moduleEOF).end()},
		{"doesn't expand", key("REDIS0012", 0, build("").bytes(stringLZF, 3, 3, 0, 'a', 0).b)},
		{"doesn't expand", build("REDIS0012").bytes(opFunction, stringLZF, 3, 3, 0, 'a', 0).end()},

		{"a list without elements", key("REDIS0012", 1, []byte{0})},
		{"a list without elements", key("REDIS0012", 14, []byte{0})},
		{"a list without elements", key("REDIS0012", 18, []byte{0})},
		{"a list without elements", key("REDIS0012", 18, build("").len(1, 2).str(lp()).b)},
		{"a list without elements", key("REDIS0012", 10, str(zl()))},
		{"a set without elements", key("REDIS0012", 2, []byte{0})},
		{"a set without elements", key("REDIS0012", 20, str(lp()))},
		{"a set without elements", key("REDIS0012", 11, str("\x02\x00\x00\x00\x00\x00\x00\x00"))},
		{"a zset without elements", key("REDIS0012", 5, []byte{0})},
		{"a zset without elements", key("REDIS0012", 17, str(lp()))},
		{"a hash without elements", key("REDIS0012", 4, []byte{0})},
		{"a hash without elements", key("REDIS0012", 16, str(lp()))},
		{"a hash without elements", key("REDIS0012", 13, str(zl()))},
		{"a hash without elements", key("REDIS0006", 9, str("\x00\xff"))},
		{"a hash without elements", key("REDIS0012", 24, build("").u64(0).len(0).b)},
		{"a hash without elements", key("REDIS0012", 25, build("").u64(0).str(lp()).b)},
		{"a hash without elements", key("VALKEY080", 22, []byte{0})},
		{"", key("REDIS0014", 27, streamValue{idmp: []uint64{1, 1}}.bytes())},

		{"a list node is empty", key("REDIS0012", 18, build("").len(2, 1).str("").len(1).str("x").b)},
		{"", key("REDIS0012", 18, build("").len(3, 2).str(lp()).len(2).str(lp("")).len(1).str("x").b)},
		{"member is there twice", key("REDIS0012", 2, build("").len(2).str("m", "m").b)},
		{"member is there twice", key("REDIS0012", 20, str(lp("a", "b", "a")))},
		{"", key("REDIS0012", 20, str(lp("a", "b", "A")))},
		{"scored is there twice", key("REDIS0012", 5, build("").len(2).str("m").u64(1).str("m").u64(2).b)},
		{"scored is there twice", key("REDIS0012", 3, build("").len(2).str("m", "1", "m", "2").b)},
		{"scored is there twice", key("REDIS0012", 17, str(lp("a", "1", "b", "2", "a", "3")))},
		{"field is there twice", key("REDIS0012", 4, build("").len(2).str("m", "1", "m", "2").b)},
		{"field is there twice", key("REDIS0012", 16, str(lp("a", "1", "b", "2", "a", "3")))},
		{"field is there twice", key("REDIS0012", 13, str(zl("a", "1", "b", "2", "a", "3")))},
		{"field is there twice", key("REDIS0006", 9, str("\x02\x01f\x01\x00v\x01f\x01\x00v\xff"))},
		{"field is there twice", key("REDIS0012", 24, build("").u64(7).len(2, 1).str("f", "v").len(0).str("f", "v").b)},
		{"field is there twice", key("REDIS0012", 25, build("").u64(7).str(lp("f", "v", "7", "f", "v", "8")).b)},
		{"field is there twice", key("VALKEY080", 22, build("").len(2).str("f", "v").u64(5).str("f", "v").u64(6).b)},
		{"indexed is there twice", key("REDIS0014", 28, build("").len(2, 0, 5, 0).str("a").len(5, 0).str("b").b)},
		{"don't ascend", key("REDIS0012", 11, str("\x02\x00\x00\x00\x02\x00\x00\x00\x05\x00\x05\x00"))},

		{"not a number", key("REDIS0012", 5, build("").len(1).str("m").u64(nan).b)},
		{"not a number", key("REDIS0012", 3, build("").len(1).str("m").bytes(253).b)},
		{"not a number", key("REDIS0012", 17, str(lp("m", "nan")))},
		{"", key("REDIS0012", 17, str(lp("m", "-inf", "b", "-1.5", "a", "0", "b0", "0", "aa", "7", "x", "inf")))},
		{"the order of their scores", key("REDIS0012", 17, str(lp("a", "2", "b", "1")))},
		{"the order of their scores", key("REDIS0012", 17, str(lp("b", "1", "a", "1")))},
		{"the order of their scores", key("REDIS0012", 12, str(zl("a", "2", "b", "1")))},
		{"", key("REDIS0012", 12, str(zl("a", "1", "b", "1")))},
		{"", key("REDIS0012", 5, build("").len(2).str("m").u64(2).str("a").u64(1).b)},

		{"", key("REDIS0012", 25, build("").u64(7).str(lp("f", "v", "7", "g", "v", "7", "h", "v", "8", "i", "", "0", "a", "", "0")).b)},
		{"the order of their expiry", key("REDIS0012", 25, build("").u64(7).str(lp("f", "v", "8", "g", "v", "7")).b)},
		{"the order of their expiry", key("REDIS0012", 25, build("").u64(7).str(lp("f", "v", "0", "g", "v", "7")).b)},
		{"first field of a hash to expire", key("REDIS0012", 25, build("").u64(1<<62).str(lp("f", "v", "7")).b)},
		{"first field of a hash to expire", key("REDIS0012", 24, build("").u64(1<<63).len(1, 0).str("f", "v").b)},

		{"", stream(func(*streamValue) {})},
		{"says that it has 3 entries and has 2", stream(func(s *streamValue) { s.length = 3 })},
		{"says that its last entry is 5-1", stream(func(s *streamValue) { s.last.Seq = 1 })},
		{"was deleted, behind", stream(func(s *streamValue) { s.deleted = StreamID{5, 3} })},
		{"says that 1 were added", stream(func(s *streamValue) { s.added = 1 })},
		{"remembers", stream(func(s *streamValue) { s.idmp[0] = 0 })},
		{"remembers", stream(func(s *streamValue) { s.idmp[0] = 86401 })},
		{"remembers", stream(func(s *streamValue) { s.idmp[1] = 0 })},
		{"remembers", stream(func(s *streamValue) { s.idmp[1] = 10001 })},
		{"a stream node begins at 5-1, behind", stream(func(s *streamValue) { s.nodes, s.length, s.added = append(s.nodes, aNode), 4, 4 })},
		{"a stream node begins at 5-2, behind", stream(func(s *streamValue) { s.nodes = append(s.nodes, [2]string{b, lp("0", "0", "1", "f", "0")}) })},
		{"", stream(func(s *streamValue) { s.nodes = append(s.nodes, [2]string{sid(5, 3), lp("0", "0", "1", "f", "0")}) })},
		{"the stream entry 5-1 follows 5-1", stream(func(s *streamValue) {
			s.nodes[0][1] = lp("1", "1", "1", "f", "0", "3", "0", "0", "v", "4", "2", "0", "0", "w", "4")
			s.length = 1
		})},
		{"the stream entry 5-0 follows 5-1", stream(func(s *streamValue) {
			s.nodes[0][1] = lp("1", "0", "1", "f", "0", "2", "0", "-1", "v", "4")
			s.length = 1
		})},
		{"the stream entry 0-0", stream(func(s *streamValue) {
			s.nodes[0] = [2]string{sid(0, 0), lp("1", "0", "1", "f", "0", "2", "0", "0", "v", "4")}
			s.length = 1
		})},

		{"", grouped(2, func(x *builder) {
			group(x, "g", []string{a, b}, map[string][]string{"c": {b}, "d": {a}, "e": nil})
			group(x, "h", []string{b, a}, map[string][]string{"c": {b}}, a)
		})},
		{"a group is there twice", grouped(2, func(x *builder) { group(x, "g", nil, nil); group(x, "g", nil, nil) })},
		{"a consumer is there twice", grouped(1, func(x *builder) { group(x, "g", nil, map[string][]string{"c": nil, "c#2": nil}) })},
		{"a pending is there twice", grouped(1, func(x *builder) { group(x, "g", []string{a, a}, map[string][]string{"c": {a, a}}) })},
		{"no owner or several", grouped(1, func(x *builder) { group(x, "g", []string{a}, nil) })},
		{"no owner or several", grouped(1, func(x *builder) { group(x, "g", []string{a}, map[string][]string{"c": {b}}) })},
		{"no owner or several", grouped(1, func(x *builder) { group(x, "g", []string{a, b}, map[string][]string{"c": {a, a}}) })},
		{"no owner or several", grouped(1, func(x *builder) { group(x, "g", []string{a}, map[string][]string{"c": {a}}, a) })},
		{"no owner or several", grouped(2, func(x *builder) {
			group(x, "g", []string{a}, nil)
			group(x, "h", nil, map[string][]string{"c": {a}})
		})},
		{"a producer is there twice", key("REDIS0013", 26, build("").len(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 100, 100, 2).str("p").len(0).str("p").len(0, 0, 0).b)},
		{"a produced is there twice", key("REDIS0013", 26, build("").len(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 100, 100, 1).str("p").len(2).str("i").len(1, 1).str("i").len(1, 2, 0, 0).b)},
		{"", key("REDIS0013", 26, build("").len(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 100, 100, 2).str("p").len(1).str("i").len(1, 1).str("i").len(1).str("i").len(1, 2, 0, 0).b)},

		{"", dragonfly(30, build("").str(`{"a":[1,-0.5e+3,true,false,null,"\\u00e4\\n"],"b":{}}`).b)},
		{"", dragonfly(30, []byte{stringInt8, 42})},
		{"is no JSON", dragonfly(30, build("").str(`{"a":1,}`).b)},
		{"ends too early", dragonfly(30, build("").str(`{"a":1`).b)},
		{"ends too early", dragonfly(30, []byte{0})},
		{"nested deeper than 64", dragonfly(30, build("").str(strings.Repeat("[", 65)+strings.Repeat("]", 65)).b)},
		{"", dragonfly(30, build("").str(strings.Repeat("[", 64)+strings.Repeat("]", 64)).b)},
		{"", dragonfly(34, build("").len(0).u64(0, 0).len(0, 0, 0, 0).b)},
		{"", dragonfly(34, build("").len(0).u64(two, half).len(0, 0, 0, 1, 5, 4).str("a", "bcd").b)},
		{"options 1", dragonfly(34, build("").len(1).u64(two, half).len(0, 0, 0, 1, 5, 4).str("a", "bcd").b)},
		{"growth 0.5", dragonfly(34, build("").len(0).u64(half, half).len(0, 0, 0, 1, 5, 4).str("a", "bcd").b)},
		{"growth NaN", dragonfly(34, build("").len(0).u64(nan, half).len(0, 0, 0, 1, 5, 4).str("a", "bcd").b)},
		{"error rate of 2", dragonfly(34, build("").len(0).u64(two, two).len(0, 0, 0, 1, 5, 4).str("a", "bcd").b)},
		{"no power of two", dragonfly(34, build("").len(0).u64(two, half).len(0, 0, 0, 1, 5, 3).str("bcd").b)},
		{"no power of two", dragonfly(33, build("").len(0).u64(two, half).len(0, 0, 0, 1, 5).str("abc").b)},
		{"", dragonfly(33, build("").len(0).u64(two, half).len(0, 0, 0, 1, 5).bytes(stringLZF, 5, 4, 3, 'a', 'b', 'c', 'd').b)},
		{"", dragonfly(35, build("").len(2, 1, 7).u64(3, 4).b)},
		{"a sketch of 0 by 1", dragonfly(35, build("").len(0, 1, 7).b)},
		{"", dragonfly(36, build("").len(0, 2, 1, 1).u64(half).len(1).str("x").len(9, 4).bytes(1, 2, 3, 4).b)},
		{"with 3 items", dragonfly(36, build("").len(0, 2, 1, 1).u64(half).len(3).str("x").len(9).str("y").len(9).str("z").len(9, 4).bytes(1, 2, 3, 4).b)},
		{"a decay of 2", dragonfly(36, build("").len(0, 2, 1, 1).u64(two).len(1).str("x").len(9, 4).bytes(1, 2, 3, 4).b)},
		{"was counted", dragonfly(36, build("").len(0, 2, 1, 1).u64(half).len(1).str("x").len(1<<32, 4).bytes(1, 2, 3, 4).b)},
		{"has 3 bytes", dragonfly(36, build("").len(0, 2, 1, 1).u64(half).len(1).str("x").len(9, 3).bytes(1, 2, 3).b)},
		{"", dragonfly(37, build("").len(2, 9, 0, 4, 1, 0, 1, 4).str("abcd").b)},
		{"0 slots", dragonfly(37, build("").len(0, 9, 0, 4, 1, 0, 1, 4).str("abcd").b)},
		{"3 buckets", dragonfly(37, build("").len(2, 9, 0, 3, 1, 0, 1, 4).str("abcd").b)},
		{"an expansion of 6", dragonfly(37, build("").len(2, 9, 6, 4, 1, 0, 1, 4).str("abcd").b)},
		{"0 layers", dragonfly(37, build("").len(2, 9, 0, 4, 1, 0, 0).b)},
		{"in buckets of 2", dragonfly(37, build("").len(2, 9, 0, 4, 1, 0, 1, 3).str("abc").b)},
	} {
		err := checkAll(t, c.data)
		// Through small buffers everything goes another way.
		slow := Check(newReader(iotest.OneByteReader(bytes.NewReader(c.data)), nil, smallestBuffer), nil)
		if why(slow) != why(err) {
			t.Errorf("%q: %v, and in pieces %v", c.data, err, slow)
		}
		var corrupt *CorruptError
		switch {
		case c.why == "":
			if err != nil {
				t.Errorf("%q: %v", c.data, err)
			}
		case !errors.As(err, &corrupt) || !strings.Contains(corrupt.Why, c.why):
			t.Errorf("%q: %v, want %q", c.data, err, c.why)
		case corrupt.Offset <= 0 || corrupt.Offset > int64(len(c.data)):
			t.Errorf("%q: the error says byte %d", c.data, corrupt.Offset)
		case corrupt.Key != "k" && strings.Contains(corrupt.Why, "without elements"):
			t.Errorf("%q: the error names key %q", c.data, corrupt.Key)
		}
		if err != nil && readAll(NewReader(bytes.NewReader(c.data), nil)) != io.EOF {
			t.Errorf("%q is wrong to the raw level already", c.data)
		}
	}
}

// why returns what an error says without where it says it is.
func why(err error) string {
	var corrupt *CorruptError
	if errors.As(err, &corrupt) {
		return corrupt.Key + ": " + corrupt.Why
	}
	return fmt.Sprint(err)
}

// FuzzCheckJSON compares with the standard library.
func FuzzCheckJSON(f *testing.F) {
	for _, s := range []string{"", " ", "0", "-0", "01", "1.5e-7", "1.", "-", "1e", "1e+", "true", "tru", "nullx", `"\u12aF"`, `"\x"`, "\"\n\"", `{"a":[{}, [] ,null]}`, `{"a"}`, `[1,]`, `{]`, "[", "[1 2]", "1 1", "{\"a\" : 1 , \"b\":2}"} {
		f.Add([]byte(s), uint8(3))
	}
	f.Fuzz(func(t *testing.T, text []byte, piece uint8) {
		depth, deepest := 0, 0
		inString := false
		for i := 0; i < len(text); i++ {
			switch c := text[i]; {
			case inString && c == '\\':
				i++
			case c == '"':
				inString = !inString
			case inString:
			case c == '[' || c == '{':
				depth++
				deepest = max(deepest, depth)
			case c == ']' || c == '}':
				depth--
			}
		}
		want := json.Valid(text) && deepest <= maxJSONDepth
		var j jsonChecker
		got := true
		for rest := text; got && len(rest) > 0; {
			n := min(len(rest), 1+int(piece))
			got = j.add(rest[:n])
			rest = rest[n:]
		}
		if got = got && j.ends(); got != want {
			t.Fatalf("%q: %v, want %v", text, got, want)
		}
	})
}

// TestCheckDatabases bounds the databases.
func TestCheckDatabases(t *testing.T) {
	data := build("REDIS0012").bytes(opSelectDB, 15, opResizeDB, 1, 0, 0).str("k", "v").bytes(opSelectDB, 16).end()
	for _, n := range []int{0, 16, 17} {
		if err := Check(NewReader(bytes.NewReader(data), nil), &CheckOptions{Databases: n}); err != nil {
			t.Errorf("%d databases: %v", n, err)
		}
	}
	hint := build("REDIS0012").bytes(opSelectDB, 15, opResizeDB, 1, 0).end()
	for _, d := range [][]byte{data, hint} {
		if err := Check(NewReader(bytes.NewReader(d), nil), &CheckOptions{Databases: 15}); !errors.Is(err, ErrCorrupt) {
			t.Errorf("15 databases: %v", err)
		}
	}
}

// TestCheckMany has more names than memory has room for: with a spool they are compared, without one the error says so.
func TestCheckMany(t *testing.T) {
	const n = 100000
	keys := func(twice bool) []byte {
		b := build("REDIS0012")
		for i := range n {
			b.bytes(0).str(fmt.Sprint("key ", i), "v")
		}
		if twice {
			b.bytes(0).str("key 7", "v")
		}
		return b.end()
	}
	members := func(twice bool) []byte {
		b := build("REDIS0012").bytes(4).str("hash").len(n + 1)
		for i := range n {
			b.str(fmt.Sprint("field ", i), "v")
		}
		if twice {
			b.str("field 7", "w")
		} else {
			b.str("another", "w")
		}
		return b.bytes(0).str("after", "v").end()
	}
	for what, data := range map[string]func(bool) []byte{"keys": keys, "members": members} {
		for _, twice := range []bool{false, true} {
			d := data(twice)
			var corrupt *CorruptError
			err := Check(NewReader(bytes.NewReader(d), nil), &CheckOptions{MaxHeld: 1 << 17, Spool: spoolIn(t)})
			if twice != errors.As(err, &corrupt) || !twice && err != nil {
				t.Errorf("%s, twice %v: %v", what, twice, err)
			}
			if twice && !strings.Contains(corrupt.Why, "there twice") {
				t.Errorf("%s: %v", what, err)
			}
			var tooLarge *TooLargeError
			r := NewReader(bytes.NewReader(d), nil)
			if err := Check(r, &CheckOptions{MaxHeld: 1 << 17}); !errors.As(err, &tooLarge) || r.Stats().Checksum != ChecksumCRC64 {
				t.Errorf("%s, twice %v, without a spool: %v, checksum %q", what, twice, err, r.Stats().Checksum)
			}
			err = Check(NewReader(bytes.NewReader(d), nil), nil)
			if twice != errors.As(err, &corrupt) || !twice && err != nil {
				t.Errorf("%s, twice %v, in memory: %v", what, twice, err)
			}
		}
	}
	broken := errors.New("broken")
	err := Check(NewReader(bytes.NewReader(keys(false)), nil), &CheckOptions{MaxHeld: 1 << 17, Spool: func() (Spool, error) { return nil, broken }})
	if !errors.Is(err, broken) {
		t.Error(err)
	}
}

// TestCheckNoAllocations checks that memory doesn't grow with the number of elements.
func TestCheckNoAllocations(t *testing.T) {
	stream := func(times int) []byte {
		b := build("REDIS0014")
		for i := range times {
			k := func(code uint8) *builder { return b.bytes(code).str(fmt.Sprint(code, " ", i)) }
			k(0).str(strings.Repeat("v", 1000))
			k(2).len(3).str("a", "b", "c")
			k(4).len(2).str("a", "b", "c", "d")
			k(5).len(2).str("a").u64(1).str("b").u64(2)
			k(11).str("\x02\x00\x00\x00\x02\x00\x00\x00\x05\x00\x06\x00")
			k(12).str(zl("a", "1", "b", "2"))
			k(13).str(zl("a", "1", "b", "2"))
			k(16).str(lp("a", "1", "b", "2"))
			k(17).str(lp("a", "1", "b", "2.5"))
			k(18).len(2, 2).str(lp("a", "b")).len(1).str("x")
			k(20).str(lp("a", "1", "b", "2"))
			k(24).u64(7).len(1, 1).str("f", "v")
			k(25).u64(7).str(lp("f", "v", "7", "g", "w", "0"))
			s := goodStream()
			s.groups = func(b *builder) {
				b.len(1)
				group(b, "g", []string{sid(5, 1)}, map[string][]string{"c": {sid(5, 1)}})
			}
			k(27).bytes(s.bytes()...)
		}
		return b.end()
	}
	few, many := stream(100), stream(1100)
	allocs := func(data []byte) float64 {
		return testing.AllocsPerRun(3, func() {
			if err := Check(NewReader(bytes.NewReader(data), nil), nil); err != nil {
				t.Fatal(err)
			}
		})
	}
	if a, b := allocs(few), allocs(many); b-a > 20 {
		t.Errorf("%v allocations for 1400 keys, %v for 15400", a, b)
	}
}

// TestChecker checks several streams together.
func TestChecker(t *testing.T) {
	stream := func(from, to int) []byte {
		b := build("REDIS0012")
		for i := from; i < to; i++ {
			b.bytes(0).str(fmt.Sprint("key ", i), "v")
		}
		return b.end()
	}
	journal := build("REDIS0009").bytes(0).str("key 7", "v").bytes(opJournal, 1).str("\x06\x00\x0a\x05\x01\x03\x09\x03SET\x03key\x03val").bytes(0).str("key 7", "w").end()
	for _, c := range []struct {
		want string
		data [][]byte
	}{
		{"", nil},
		{"", [][]byte{stream(0, 10), stream(10, 20), stream(0, 0)}},
		{`(db 0, key "key 9"): the key is there twice`, [][]byte{stream(0, 10), stream(9, 20)}},
		{"corrupt at byte 16: the key whose name ends here (in stream 2 of 2) is there twice; before, it ends at byte 16 (in stream 1 of 2)", [][]byte{stream(0, 50000), stream(0, 1)}},
		{"", [][]byte{journal}},
	} {
		check := NewChecker(&CheckOptions{Spool: spoolIn(t), MaxHeld: 1 << 17})
		var err error
		for _, d := range c.data {
			if err == nil {
				err = check.Check(NewReader(bytes.NewReader(d), nil))
			}
		}
		if cerr := check.Close(); err == nil {
			err = cerr
		}
		if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
		if check.Check(NewReader(bytes.NewReader(stream(0, 1)), nil)) == nil {
			t.Error("a Checker that was closed checks on")
		}
	}
}
