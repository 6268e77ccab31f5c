package rdb

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

// steady is a stream that never ends: entries of every kind and type over and over.
func steady(t testing.TB) *Reader {
	var body []byte
	for _, c := range rares() {
		// The templates and types of Redis 8.10 are in no stream together with those of Dragonfly.
		if c.magic == "REDIS0015" && c.footer == 0 || c.magic == "VALKEY080" || c.encoding >= 29 && c.encoding <= 37 {
			continue
		}
		body = append(body, c.before...)
		body = append(build(string(body)).bytes(c.encoding).str("key of "+c.name).b, c.value...)
	}
	b := build(string(body))
	b.bytes(opSelectDB, 1, opExpireMillis).u64(5).bytes(opIdle, 9, opFreq, 9, 0).str("plain", strings.Repeat("v", 1000))
	b.bytes(0, stringInt32, 1, 2, 3, 4).str("int")
	b.bytes(0, stringLZF, 13, 0x41, 0x2c, 2, 'a', 'b', 'a', 0xe0, 0xff, 1, 0xe0, 0x16, 1, 1, 'a', 'b').str("v")
	b.bytes(2).str("set").len(3).str("a", strings.Repeat("b", 70)).bytes(stringInt8, 1)
	b.bytes(4).str("hash").len(1).str("field", "value")
	b.bytes(5).str("zset").len(2).str("a").u64(1).str("b").u64(2)
	b.bytes(3).str("old zset").len(2).str("a").bytes(255).str("b", "1.5")
	b.bytes(18).str("list").len(2, 1).str("plain").len(2).str("packed")
	b.bytes(24).str("hash with expiry").u64(7).len(1, 1).str("f", "v")
	b.bytes(opAux).str("name", "value").bytes(opAux).str("number").bytes(stringInt32, 1, 2, 3, 4)
	b.bytes(opFunction).str("code").bytes(opResizeDB, 1, 2, opSlotInfo, 1, 2, 3, opSelectDB, 0)
	body = b.b
	at := 0
	endless := readerFunc(func(p []byte) (int, error) {
		n := copy(p, body[at:])
		at = (at + n) % len(body)
		return n, nil
	})
	r := NewReader(io.MultiReader(strings.NewReader("REDIS0012"), endless), nil)
	for range 10000 {
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// TestNoAllocations reads entries of every kind without allocating anything.
func TestNoAllocations(t *testing.T) {
	var raw []byte
	for name, value := range map[string]func(r *Reader) error{
		"skip":  func(*Reader) error { return nil },
		"write": func(r *Reader) error { _, err := r.WriteRaw(io.Discard); return err },
		"append": func(r *Reader) (err error) {
			raw, err = r.AppendRaw(raw[:0], 1<<20)
			return err
		},
	} {
		r := steady(t)
		raw = make([]byte, 0, 1<<16)
		step := func() {
			e, err := r.Next()
			if err == nil && (e.Kind == KindKey || e.Kind == KindFunction) {
				err = value(r)
			}
			if err != nil {
				t.Fatal(name, err)
			}
		}
		if n := testing.AllocsPerRun(20000, step); n != 0 {
			t.Errorf("%s: %v allocations an entry, want none", name, n)
		}
	}
	// The iterator costs a few for all entries together.
	data := bytes.Repeat(build("").bytes(0).str("key", "value").b, 10000)
	data = build("REDIS0011" + string(data)).end()
	n := testing.AllocsPerRun(5, func() {
		for _, err := range NewReader(bytes.NewReader(data), nil).Entries() {
			if err != nil {
				t.Fatal(err)
			}
		}
	})
	if n > 20 {
		t.Errorf("%v allocations for 10000 entries", n)
	}
}

// TestNoAllocationsOfElements reads what every server wrote, over and over, as elements, without allocating anything once buffers
// have grown to what the values need.
func TestNoAllocationsOfElements(t *testing.T) {
	read := 0
	for _, f := range fixtures(t, 200<<10) {
		if strings.HasSuffix(f.name, ".dfs") || f.data[0] != 'R' && f.data[0] != 'V' {
			continue
		}
		begin := bytes.NewReader(f.data[:magicLen])
		// The end is one byte, behind which a checksum stands since version 5.
		end := len(f.data) - 1
		if f.hasChecksum() {
			end -= 8
		}
		if end <= magicLen || f.data[end] != opEOF || bytes.Contains(f.data, []byte("df-ver")) {
			continue
		}
		body, at := f.data[magicLen:end], 0
		r := NewReader(io.MultiReader(begin, readerFunc(func(p []byte) (int, error) {
			n := copy(p, body[at:])
			at = (at + n) % len(body)
			return n, nil
		})), nil)
		keys := 0
		step := func() {
			e, err := r.Next()
			if err == nil && e.Kind == KindKey {
				keys++
				for err == nil {
					_, err = r.Element()
				}
			}
			if err != nil && err != io.EOF {
				t.Fatalf("%s: %v", f.name, err)
			}
		}
		for start := r.Offset(); r.Offset() < start+3*int64(len(body))+1000; {
			step()
		}
		keys = 0
		if n := testing.AllocsPerRun(1000, step); n != 0 {
			t.Errorf("%s: %v allocations an entry, want none", f.name, n)
		}
		if keys > 0 {
			read++
		}
	}
	if read < 40 {
		t.Errorf("only %d files were read", read)
	}
}
