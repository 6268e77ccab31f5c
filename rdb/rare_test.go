package rdb

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/amberkv/amber/internal/crc64"
)

// A rare entry is one that no fixture has, put together from its description.
type rare struct {
	name     string
	magic    string
	before   []byte // opcodes before the type byte, or the whole of an entry that is no key
	encoding uint8
	value    []byte
	typ      Type
	footer   uint8 // version of the DUMP payload; 0: there is none
}

var vectorset = moduleID("vectorset", 0)

func moduleID(name string, version uint64) ModuleID {
	id := uint64(0)
	for _, c := range name {
		id = id<<6 | uint64(strings.IndexRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", c))
	}
	return ModuleID(id<<10 | version)
}

func packedList(entries ...string) string {
	b := build("")
	b.bytes(0, 0, 0, 0, byte(len(entries)), 0)
	for _, e := range entries {
		b.bytes(0x80 | byte(len(e))).bytes([]byte(e)...).bytes(byte(len(e) + 1))
	}
	b.bytes(0xff)
	b.b[0] = byte(len(b.b))
	return string(b.b)
}

func rares() []rare {
	b := func() *builder { return build("") }
	id := strings.Repeat("\x01", 16)
	group := func(level int) []byte {
		v := b().len(1).str(id, "listpack").len(1, 5, 6)
		if level >= 2 {
			v.len(1, 2, 3, 4, 1<<33)
		}
		v.len(2).str("g").len(5, 6) // two groups, of which the first has everything
		if level >= 2 {
			v.len(1<<64 - 1)
		}
		v.len(2).bytes([]byte(id)...).u64(77).len(3).bytes([]byte(id)...).u64(77).len(70)
		v.len(1).str("consumer").u64(88)
		if level >= 3 {
			v.u64(99)
		}
		v.len(2).bytes([]byte(id + id)...)
		if level >= 5 {
			v.len(1).bytes([]byte(id)...)
		}
		v.str("empty").len(5, 6)
		if level >= 2 {
			v.len(0)
		}
		v.len(0, 0)
		if level >= 5 {
			v.len(0)
		}
		if level >= 4 {
			v.len(100, 100, 1).str("producer").len(2).str("i1").len(7, 8).str("i2").len(7, 9).len(10, 11)
		}
		return v.b
	}
	template := b().bytes(opHashTemplate).len(9, 0).str(packedList("name", "value")).b
	plainTemplate := b().bytes(opHashTemplate).len(9, 1, 2).str("name", "value").b
	module := b().len(uint64(vectorset), moduleSint, 1<<64-1, moduleUint, 5, moduleFloat).bytes(1, 2, 3, 4).len(moduleDouble).u64(1).len(moduleString).str("s").len(moduleEOF).b
	return []rare{
		{"stream 1", "REDIS0009", nil, 15, group(1), TypeStream, 9},
		{"stream 2", "REDIS0010", nil, 19, group(2), TypeStream, 10},
		{"stream 3", "REDIS0011", nil, 21, group(3), TypeStream, 11},
		{"stream 4", "REDIS0013", nil, 26, group(4), TypeStream, 13},
		{"stream 5", "REDIS0014", nil, 27, group(5), TypeStream, 14},
		{"array", "REDIS0014", nil, 28, b().len(4, 0, 0, 0).str("s").len(1, 3).str("t").len(2, 1).u64(5).len(1<<40, 2).u64(6).b, TypeArray, 14},
		{"array with an insert index", "REDIS0014", nil, 28, b().len(1, 1, 90, 0, 0).str("s").b, TypeArray, 14},
		{"hash with a template inside", "REDIS0015", nil, 29, b().len(1, 2).str("name", "value", "listpack").b, TypeHash, 15},
		{"hash with a packed template inside", "REDIS0015", nil, 29, b().len(0).str(packedList("name", "value"), "listpack").b, TypeHash, 15},
		{"hash with a template elsewhere", "REDIS0015", template, 30, b().str("listpack").b, TypeHash, 0},
		{"hash of strings, template inside", "REDIS0015", nil, 31, b().len(0).str(packedList("name", "value"), "v1", "v2").b, TypeHash, 15},
		{"hash of strings, packed template elsewhere", "REDIS0015", template, 32, b().len(9).str("v1", "v2").b, TypeHash, 0},
		{"hash of strings, template elsewhere", "REDIS0015", plainTemplate, 32, b().len(9).str("v1", "v2").b, TypeHash, 0},
		{"rate limiter", "REDIS0015", nil, 33, b().len(1 << 40).b, TypeRate, 15},
		{"KeyDB cron", "REDIS0009", nil, 64, b().str("script").u64(1, 2).len(2).str("k1", "k2").len(1).str("arg").b, TypeCron, 9},
		{"module", "REDIS0012", nil, 7, module, TypeModule, 8},
		{"module of Valkey", "VALKEY080", nil, 7, module, TypeModule, 8},
		{"hash with expiry of Valkey", "VALKEY080", nil, 22, b().len(2).str("f", "v").u64(1<<64-1).str("g", "w").u64(5).b, TypeHash, 80},
		{"hash with expiry before Redis 7.4", "REDIS0012", nil, 22, b().len(2, 0).str("f", "v").len(1<<40).str("g", "w").b, TypeHash, 12},
		{"bloom filter in one piece", "REDIS0009", nil, 33, b().len(0).u64(math.Float64bits(2), math.Float64bits(0.01)).len(1, 2, 3, 2, 4).str("filter 1").len(4).str("filter 2").b, TypeBloom, 9},
		{"metadata of a key", "REDIS0013", b().bytes(opKeyMeta, 2, 1, 2, 3, 4).len(moduleString).str("s").len(moduleEOF).bytes(5, 6, 7, 8).len(moduleEOF).b, 0, b().str("v").b, TypeString, 13},
		{"slot import", "VALKEY080", b().bytes(opSlotImport).str("job").len(2, 0, 99, 200, 16383).b, 0, b().str("v").b, TypeString, 6},
		{"module aux", "REDIS0009", b().bytes(opModuleAux).len(uint64(vectorset), 2, 1, moduleString).str("aux").len(moduleEOF).b, 0, b().str("v").b, TypeString, 6},
		{"slot info", "VALKEY080", b().bytes(opSlotInfo).len(16383, 5, 1).b, 0, b().str("v").b, TypeString, 6},
		{"Memcache flags", "REDIS0009", b().bytes(opDragonflyMask, 3, 0, 0, 0, 57, 48, 0, 0).b, 0, b().str("v").b, TypeString, 6},
	}
}

func (c rare) stream() []byte {
	b := build(c.magic).bytes(opSelectDB, 2).bytes(c.before...).bytes(c.encoding).str("key").bytes(c.value...)
	return b.bytes(0).str("after", "v").end()
}

func rareFixtures() []fixture {
	var out []fixture
	for _, c := range rares() {
		out = append(out, fixture{c.name, c.stream()})
	}
	return out
}

// TestRare reads what no fixture has, skipping it and taking its raw value, whole and in pieces, and cuts it everywhere.
func TestRare(t *testing.T) {
	for _, c := range rares() {
		t.Run(c.name, func(t *testing.T) {
			data := c.stream()
			for _, size := range []int{smallestBuffer, 33, bufferSize} {
				r := newReader(bytes.NewReader(data), nil, size)
				e, err := r.Next()
				for err == nil && e.Kind != KindKey {
					e, err = r.Next()
				}
				if err != nil {
					t.Fatal(err)
				}
				if string(e.Key) != "key" || e.Type != c.typ || e.DB != 2 {
					t.Errorf("entry %s, want key, type %v, db 2", describe(e), c.typ)
				}
				raw, err := r.AppendRaw([]byte("before"), 1000)
				if c.footer == 0 {
					if err == nil {
						t.Errorf("raw value %q of a hash whose template is elsewhere", raw)
					}
				} else {
					body := append(bytes.Clone(e.Meta), c.encoding)
					body = append(append(body, c.value...), c.footer, 0)
					want := append([]byte("before"), build(string(body)).u64(crc64.Checksum(body)).b...)
					if err != nil || !bytes.Equal(raw, want) {
						t.Errorf("raw value\n%x, want\n%x (%v)", raw, want, err)
					}
				}
				if e, err = r.Next(); err != nil || string(e.Key) != "after" || e.Meta != nil || e.Flags != 0 || e.Memcache != 0 {
					t.Fatalf("then %v, %v", e, err)
				}
				if err := readAll(r); err != io.EOF {
					t.Fatal(err)
				}
			}
			if err := readAny(t, data); err != io.EOF {
				t.Fatal(err)
			}
			for n := range data {
				if err := readAny(t, data[:n]); err == io.EOF {
					t.Fatalf("cut at %d it was accepted", n)
				}
			}
		})
	}
}

// TestRareEntries looks at the fields that only rare entries have.
func TestRareEntries(t *testing.T) {
	got := make(map[string]string)
	for _, c := range rares() {
		r := NewReader(bytes.NewReader(c.stream()), nil)
		var all []string
		for e, err := range r.Entries() {
			if err != nil {
				t.Fatal(c.name, err)
			}
			if string(e.Key) != "after" {
				all = append(all, fmt.Sprintf("%v %s %s %d %d/%d/%d %d,%d %d", e.Kind, e.Key, e.Module.Name(), e.Module.Version(), e.Slot, e.Keys, e.Expires, e.Flags, e.Memcache, len(e.Meta)))
			}
		}
		s := r.Stats()
		for _, m := range s.Modules {
			all = append(all, fmt.Sprintf("%s %d keys %d aux", m.ID.Name(), m.Keys, m.Aux))
		}
		got[c.name] = fmt.Sprint(r.Dialect(), " ", strings.Join(all, "; "))
	}
	for name, want := range map[string]string{
		"module":            "redis:12 key key vectorset 0 0/0/0 0,0 0; vectorset 1 keys 0 aux",
		"metadata of a key": "redis:13 key key AAAAAAAAA 0 0/0/0 0,0 15",
		"slot import":       "valkey:80 slot-import job AAAAAAAAA 0 0/0/0 0,0 0; key key AAAAAAAAA 0 0/0/0 0,0 0",
		"module aux":        "redis:9 module-aux  vectorset 0 0/0/0 0,0 0; key key AAAAAAAAA 0 0/0/0 0,0 0; vectorset 0 keys 1 aux",
		"slot info":         "valkey:80 slot-info  AAAAAAAAA 0 16383/5/1 0,0 0; key key AAAAAAAAA 0 0/0/0 0,0 0",
		"Memcache flags":    "dragonfly:9 key key AAAAAAAAA 0 0/0/0 3,12345 0",
		"rate limiter":      "redis:15 key key AAAAAAAAA 0 0/0/0 0,0 0",
	} {
		if got[name] != want {
			t.Errorf("%s:\ngot  %s\nwant %s", name, got[name], want)
		}
	}
	if id := ModuleID(0x1234567890ABCDEF); id.Name() != "EjRWeJCrz" || id.Version() != 495 {
		t.Errorf("module %s %d, want EjRWeJCrz 495", id.Name(), id.Version())
	}
}

// TestTemplateNames refuses field names of a hash template that are no listpack.
func TestTemplateNames(t *testing.T) {
	good := packedList("name", "value")
	counts := []byte(good)
	counts[4]++
	sizes := []byte(good)
	sizes[0]++
	for name, names := range map[string]string{
		"counts one more": string(counts), "is one byte longer than it is": string(sizes), "is cut": good[:len(good)-1], "goes on": good + "x",
		"is empty": "", "has no entries": packedList(),
	} {
		for _, data := range [][]byte{
			build("REDIS0015").bytes(opHashTemplate).len(9, 0).str(names).end(),
			build("REDIS0015").bytes(29).str("key").len(0).str(names, "listpack").end(),
		} {
			if err := readAny(t, data); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "hash template") {
				t.Errorf("one that %s: %v", name, err)
			}
		}
	}
}
