package rdb

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

func observation(e *Entry, v ValueInfo) string {
	return fmt.Sprintf("%d %q %d at %d: %+v", e.DB, e.Key, e.Encoding, e.Offset, v)
}

// observe reads a stream at a level and returns what Observe was told of each key.
func observe(t *testing.T, name string, src io.Reader, size int, read func(*Reader, *Entry) error) []string {
	t.Helper()
	var seen []string
	r := newReader(src, nil, size)
	r.Observe(func(e *Entry, v ValueInfo) { seen = append(seen, observation(e, v)) })
	for keys := 0; ; {
		e, err := r.Next()
		if len(seen) != keys {
			t.Fatalf("%s: %d keys observed after %d", name, len(seen), keys)
		}
		if err == io.EOF {
			return seen
		}
		if err == nil && e.Kind == KindKey {
			keys++
			err = read(r, e)
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
}

func skipIt(*Reader, *Entry) error { return nil }

// elementCounter returns a function that reads elements, and the number of those that make the value.
func elementCounter() (func(r *Reader, e *Entry) error, *[]int64) {
	var counts []int64
	return func(r *Reader, e *Entry) error {
		n := int64(0)
		if e.Type == TypeString {
			n = 1 // of an empty string there is nothing to see
		}
		for el, err := range r.Elements() {
			if err != nil {
				return err
			}
			switch el.Kind {
			case ElementItem, ElementMember, ElementField, ElementScored, ElementEntry, ElementIndexed:
				if !el.More {
					n++
				}
			}
		}
		counts = append(counts, n)
		return nil
	}, &counts
}

// observable returns streams whose values can be read as elements.
func observable(t *testing.T) []fixture {
	all := fixtures(t, 1<<20)
	for _, c := range rares() {
		if c.typ != TypeNone {
			data := c.stream()
			// The packed blobs of some are none, which only who reads elements sees.
			if _, err := (content{}).of(data); err == nil {
				all = append(all, fixture{"rare " + c.name, data})
			}
		}
	}
	return all
}

// TestObserve reads everything at all three levels, in one piece and byte by byte: what is observed is the same, and
// the number of elements is that of the elements.
func TestObserve(t *testing.T) {
	for _, f := range observable(t) {
		want := observe(t, f.name, bytes.NewReader(f.data), bufferSize, skipIt)
		var counts *[]int64
		for name, level := range map[string]func() func(*Reader, *Entry) error{
			"skip": func() func(*Reader, *Entry) error { return skipIt },
			"raw": func() func(*Reader, *Entry) error {
				return func(r *Reader, _ *Entry) error {
					if r.since == 0 {
						return nil
					}
					_, err := r.WriteRaw(io.Discard)
					return err
				}
			},
			"raw, too large": func() func(*Reader, *Entry) error {
				return func(r *Reader, _ *Entry) error { r.AppendRaw(nil, 0); return nil }
			},
			"one element": func() func(*Reader, *Entry) error {
				return func(r *Reader, _ *Entry) error {
					if _, err := r.Element(); err != io.EOF {
						return err
					}
					return nil
				}
			},
			"elements": func() (read func(*Reader, *Entry) error) {
				read, counts = elementCounter()
				return read
			},
		} {
			for _, size := range []int{bufferSize, 100} {
				src := io.Reader(bytes.NewReader(f.data))
				if size == 100 {
					src = iotest.OneByteReader(src)
				}
				got := observe(t, f.name+", "+name, src, size, level())
				for i := range want {
					if got[i] != want[i] {
						t.Errorf("%s, %s, buffer of %d:\n got %s\nwant %s", f.name, name, size, got[i], want[i])
						break
					}
				}
			}
		}
		var checked []string
		r := NewReader(bytes.NewReader(f.data), nil)
		r.Observe(func(e *Entry, v ValueInfo) { checked = append(checked, observation(e, v)) })
		if Check(r, nil) == nil && !slices.Equal(checked, want) {
			t.Errorf("%s, checked:\n got %s\nwant %s", f.name, checked, want)
		}
		i := 0
		r = NewReader(bytes.NewReader(f.data), nil)
		r.Observe(func(e *Entry, v ValueInfo) {
			n := (*counts)[i]
			i++
			known := v.Elements >= 0
			if want := e.Type == TypeString || e.Type != TypeNone && e.Type <= TypeStream || e.Type == TypeArray; known != want && !(e.Type == TypeHash && e.Encoding > 28) {
				t.Errorf("%s, %q, %v in encoding %d: elements %d", f.name, e.Key, e.Type, e.Encoding, v.Elements)
			}
			if known && v.Elements != n {
				t.Errorf("%s, %q: %d elements, want %d", f.name, e.Key, v.Elements, n)
			}
			if v.Encoding == "" {
				t.Errorf("%s, %q: encoding %d has no name", f.name, e.Key, e.Encoding)
			}
		})
		if err := readAll(r); err != io.EOF {
			t.Fatal(err)
		}
	}
}

// TestObserveBytes holds what is observed against streams of which every byte is known.
func TestObserveBytes(t *testing.T) {
	lzf := build("").bytes(stringLZF, 13, 0x41, 0x2c, 2, 'a', 'b', 'a', 0xe0, 0xff, 1, 0xe0, 0x16, 1, 1, 'a', 'b').b // 300 bytes
	list := packedList("a", "b", "c")
	stream := build("").len(1).str(strings.Repeat("\x01", 16), "listpack").len(7, 5, 6, 1, 2, 3, 4, 9, 0).b
	for _, c := range []struct {
		name string
		data *builder
		want ValueInfo
	}{
		{"string", build("").bytes(0).str("key", "value"), ValueInfo{Encoding: "string", Bytes: 11, Expanded: 6, Elements: 1}},
		{"number", build("").bytes(0).str("key").bytes(stringInt16, 1, 1), ValueInfo{Encoding: "string", Bytes: 8, Expanded: 3, Elements: 1, Number: true}},
		{"18 digits", build("").bytes(0).str("key", "123456789012345678"), ValueInfo{Encoding: "string", Bytes: 24, Expanded: 19, Elements: 1, Number: true}},
		{"19 digits", build("").bytes(0).str("key", "1234567890123456789"), ValueInfo{Encoding: "string", Bytes: 25, Expanded: 20, Elements: 1}},
		{"a zero in front", build("").bytes(0).str("key", "0123"), ValueInfo{Encoding: "string", Bytes: 10, Expanded: 5, Elements: 1}},
		{"expiry", build("").bytes(opExpireMillis).u64(9).bytes(opFreq, 1, 0).str("key", "value"), ValueInfo{Encoding: "string", Bytes: 22, Expanded: 6, Elements: 1}},
		{"another database", build("").bytes(opSelectDB, 5, opIdle, 1, 0).str("key", "value"), ValueInfo{Encoding: "string", Bytes: 13, Expanded: 6, Elements: 1}},
		{"compressed", build("").bytes(0).bytes(lzf...).bytes(lzf...), ValueInfo{Encoding: "string", Bytes: 35, Expanded: 300 + 4, Elements: 1}},
		{"hash", build("").bytes(4).str("key").len(1).str("f").bytes(lzf...), ValueInfo{Encoding: "hashtable", Bytes: 25, Expanded: 3 + 304, Elements: 1}},
		{"listpack", build("").bytes(20).str("key", list), ValueInfo{Encoding: "listpack", Bytes: 5 + 17, Expanded: 17, Elements: 3}},
		{"list", build("").bytes(18).str("key").len(3, 2).str(list).len(1).str("a").len(2).str(list), ValueInfo{Encoding: "quicklist", Bytes: 5 + 1 + 18 + 3 + 18, Expanded: 40, Elements: 7, Nodes: 3}},
		{"stream", build("").bytes(19).str("key").bytes(stream...), ValueInfo{Encoding: "stream v2", Bytes: 5 + 36, Expanded: 36, Elements: 7, Nodes: 1, Extra: 8}},
	} {
		data := build("REDIS0011").bytes(opAux).str("a", "b").bytes(c.data.b...).end()
		var got ValueInfo
		r := NewReader(bytes.NewReader(data), nil)
		r.Observe(func(_ *Entry, v ValueInfo) { got = v })
		if err := readAll(r); err != io.EOF {
			t.Fatalf("%s: %v", c.name, err)
		}
		if got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

// TestObserveCut cuts streams everywhere, long ones at every third byte without CAMPAIGN=1: who is observed reports the same errors, and no key that is not whole.
func TestObserveCut(t *testing.T) {
	for _, f := range fixtures(t, 2<<10) {
		for n := range f.data {
			if len(f.data) > 500 && !share(n, 3) {
				continue
			}
			want := readAll(NewReader(bytes.NewReader(f.data[:n]), nil))
			keys := int64(0)
			r := NewReader(bytes.NewReader(f.data[:n]), nil)
			r.Observe(func(*Entry, ValueInfo) { keys++ })
			if err := readAll(r); err.Error() != want.Error() || keys < r.Stats().Keys-1 {
				t.Fatalf("%s cut at %d: %v and %d of %d keys, want %v", f.name, n, err, keys, r.Stats().Keys, want)
			}
		}
	}
}

// TestObserveAllocatesNothing observes entries of every kind.
func TestObserveAllocatesNothing(t *testing.T) {
	r := steady(t)
	bytes := int64(0)
	r.Observe(func(_ *Entry, v ValueInfo) { bytes += v.Bytes })
	if n := testing.AllocsPerRun(10000, func() {
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
	}); n != 0 || bytes == 0 {
		t.Errorf("%v allocations an entry, %d bytes", n, bytes)
	}
}
