package rdb

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func newWriter(t testing.TB, to string, opts *WriterOptions) (*Writer, *bytes.Buffer) {
	t.Helper()
	d, err := ParseDialect(to)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w, err := NewWriter(&out, d, opts)
	if err != nil {
		t.Fatal(err)
	}
	return w, &out
}

// key is a header without attributes.
func key(typ Type, name string) *Entry {
	return &Entry{Kind: KindKey, Type: typ, Key: []byte(name), Idle: -1, Freq: -1}
}

func put(t testing.TB, w *Writer, e *Entry, s Shape, elements ...Element) {
	t.Helper()
	if err := w.WriteEntry(e, s); err != nil {
		t.Fatal(err)
	}
	for i := range elements {
		if err := w.WriteElement(&elements[i]); err != nil {
			t.Fatal(err)
		}
	}
}

func field(name, value string, expireAt int64) Element {
	return Element{Kind: ElementField, Field: []byte(name), Value: []byte(value), ExpireAt: expireAt}
}

func value(kind ElementKind, s string) Element { return Element{Kind: kind, Value: []byte(s)} }

// TestWriterBytes writes what the formats were described with, byte by byte.
func TestWriterBytes(t *testing.T) {
	str := value(ElementBytes, "v")
	for _, c := range []struct {
		to    string
		write func(w *Writer)
		want  *builder
	}{
		{"redis:6", func(w *Writer) {}, build("REDIS0006")},
		{"redis:10", func(w *Writer) {
			put(t, w, &Entry{Kind: KindAux, Key: []byte("redis-ver"), Value: []byte("7.0.15")}, Shape{})
			put(t, w, &Entry{Kind: KindAux, Key: []byte("redis-bits"), Value: []byte("64")}, Shape{})
			put(t, w, &Entry{Kind: KindFunction}, Shape{}, value(ElementBytes, "#!lua name=l"))
			put(t, w, &Entry{Kind: KindResizeDB, DB: 3, Keys: 100, Expires: 1}, Shape{})
			put(t, w, &Entry{Kind: KindKey, Type: TypeString, DB: 3, Key: []byte("70000"), HasExpiry: true, ExpireAt: 5, Idle: 70, Freq: -1}, Shape{}, str)
			put(t, w, &Entry{Kind: KindKey, Type: TypeString, DB: 3, Key: []byte("k"), Idle: -1, Freq: 9}, Shape{}, value(ElementBytes, "-129"))
			put(t, w, key(TypeString, ""), Shape{})
		}, build("REDIS0010").bytes(opAux).str("redis-ver", "7.0.15").bytes(opAux).str("redis-bits").bytes(stringInt8, 64).
			bytes(opFunction).str("#!lua name=l").
			bytes(opSelectDB, 3, opResizeDB, 0x40, 100, 1).
			bytes(opExpireMillis).u64(5).bytes(opIdle, 0x40, 70, 0, stringInt32, 0x70, 0x11, 1, 0).str("v").
			bytes(opFreq, 9, 0).str("k").bytes(stringInt16, 0x7F, 0xFF).
			bytes(opSelectDB, 0, 0, 0, 0)},
		{"redis:8", func(w *Writer) { // neither idle time nor frequency
			put(t, w, &Entry{Kind: KindKey, Type: TypeZSet, Key: []byte("z"), Idle: 70, Freq: 7}, Shape{Len: 1}, Element{Kind: ElementScored, Value: []byte("m"), Score: 1.5})
		}, build("REDIS0008").bytes(opSelectDB, 0, 5).str("z").bytes(1).str("m").u64(0x3FF8000000000000)},
		{"redis:7", func(w *Writer) {
			put(t, w, key(TypeZSet, "z"), Shape{Len: 2}, Element{Kind: ElementScored, Value: []byte("m"), Score: 1.5}, Element{Kind: ElementScored, Value: []byte("n"), Score: -0.1e200})
		}, build("REDIS0007").bytes(opSelectDB, 0, 3).str("z").bytes(2).str("m", "1.5", "n", "-1e+199")},
		{"redis:6", func(w *Writer) { // no aux facts, no size
			put(t, w, &Entry{Kind: KindAux, Key: []byte("ctime"), Value: []byte("1")}, Shape{})
			put(t, w, &Entry{Kind: KindResizeDB, Keys: 100}, Shape{})
			put(t, w, key(TypeList, "l"), Shape{}, value(ElementItem, "a"), value(ElementItem, "007"))
			put(t, w, key(TypeSet, "s"), Shape{Len: 1}, value(ElementMember, "2147483648"))
		}, build("REDIS0006").bytes(opSelectDB, 0, 1).str("l").bytes(2).str("a", "007").bytes(2).str("s").bytes(1).str("2147483648")},
		{"redis:12", func(w *Writer) {
			put(t, w, key(TypeHash, "h"), Shape{Len: 2, Expiry: true}, field("f", "v", 0), field("g", "1", 0x100))
			put(t, w, key(TypeHash, "i"), Shape{Len: 1}, field("f", "v", 0))
		}, build("REDIS0012").bytes(opSelectDB, 0, 24).str("h").u64(1).bytes(2, 0).str("f", "v").bytes(0x41, 0).str("g").bytes(stringInt8, 1).
			bytes(4).str("i").bytes(1).str("f", "v")},
		{"valkey:80", func(w *Writer) {
			put(t, w, key(TypeHash, "h"), Shape{Len: 2, Expiry: true}, field("f", "v", 0), field("g", "w", 0x100))
		}, build("VALKEY080").bytes(opSelectDB, 0, 22).str("h").bytes(2).str("f", "v").u64(1<<64-1).str("g", "w").u64(0x100)},
		{"dragonfly:9", func(w *Writer) {
			put(t, w, key(TypeHash, "h"), Shape{Len: 2, Expiry: true}, field("a", "1", 1893456000000), field("b", "2", 0))
			put(t, w, key(TypeSet, "s"), Shape{Expiry: true}, Element{Kind: ElementMember, Value: []byte("m"), ExpireAt: dragonflyEpoch*1000 + 1})
			put(t, w, &Entry{Kind: KindKey, Type: TypeJSON, Key: []byte("j"), Flags: 3, Memcache: 7, Idle: 1, Freq: -1}, Shape{}, value(ElementBytes, "42"))
			put(t, w, key(TypeList, "l"), Shape{Len: 2}, value(ElementItem, "a"), value(ElementItem, "b"))
		}, build("REDIS0009").bytes(opSelectDB, 0, 31).str("h").bytes(2).
			str("a").bytes(stringInt8, 1, stringInt32, 0, 0x2D, 2, 0x0D).str("b").bytes(stringInt8, 2, stringInt8, 0xFF).
			bytes(32).str("s").bytes(1).str("m").bytes(stringInt8, 1).
			bytes(opDragonflyMask, 3, 0, 0, 0, 7, 0, 0, 0, 30).str("j", "42").
			bytes(18).str("l").bytes(1, 2, 13, 13, 0, 0, 0, 2, 0, 0x81, 'a', 2, 0x81, 'b', 2, 0xFF)},
		{"redis:9", func(w *Writer) { // the example of rdb-format 3.3.8
			put(t, w, key(TypeStream, "simple"), Shape{}, Element{Kind: ElementEntry, ID: StreamID{1, 1}, Fields: [][]byte{[]byte("f"), []byte("v")}})
		}, build("REDIS0009").bytes(opSelectDB, 0, 15).str("simple").bytes(1, 16).
			bytes(0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0x1D, 0x1D, 0, 0, 0, 10, 0,
				1, 1, 0, 1, 1, 1, 0x81, 'f', 2, 0, 1, 2, 1, 0, 1, 0, 1, 0x81, 'v', 2, 4, 1, 0xFF, 1, 1, 1, 0)},
		{"redis:15", func(w *Writer) {
			put(t, w, key(TypeStream, "x"), Shape{},
				Element{Kind: ElementStream, Stream: StreamInfo{LastID: StreamID{3, 0}, HasHistory: true, MaxDeletedID: StreamID{2, 0}, EntriesAdded: 9}, Left: 1},
				Element{Kind: ElementGroup, Value: []byte("g"), ID: StreamID{1, 2}, Read: -1, Count: 2},
				Element{Kind: ElementPending, ID: StreamID{1, 0}, Delivered: 5, Count: 6},
				Element{Kind: ElementPending, ID: StreamID{2, 0}, Delivered: 5, Count: 6},
				Element{Kind: ElementConsumer, Value: []byte("c"), Seen: 7, Active: -1, Count: 1},
				Element{Kind: ElementOwned, ID: StreamID{1, 0}},
				Element{Kind: ElementNacked, ID: StreamID{2, 0}},
				Element{Kind: ElementIDMP, Stream: StreamInfo{IDMPDuration: 9, IDMPMaxSize: 8}, Left: 1},
				Element{Kind: ElementProducer, Value: []byte("p"), Count: 1},
				Element{Kind: ElementProduced, Value: []byte("i"), ID: StreamID{3, 0}},
				Element{Kind: ElementIDMPEnd, Stream: StreamInfo{IDMPAdded: 4, IDMPDuplicates: 2}})
		}, build("REDIS0015").bytes(opSelectDB, 0, 27).str("x").bytes(0, 0, 3, 0, 0, 0, 2, 0, 9, 1).
			str("g").bytes(1, 2).len(1<<64-1).bytes(2).
			bytes(0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0).u64(5).bytes(6).
			bytes(0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0).u64(5).bytes(6).
			bytes(1).str("c").u64(7, 1<<64-1).bytes(1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0).
			bytes(1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0).
			bytes(9, 8, 1).str("p").bytes(1).str("i").bytes(3, 0, 4, 2)},
	} {
		w, out := newWriter(t, c.to, nil)
		c.write(w)
		if err := w.Close(); err != nil {
			t.Errorf("%s: %v", c.to, err)
		}
		if want := c.want.end(); !bytes.Equal(want, out.Bytes()) {
			t.Errorf("%s:\n%q, want\n%q", c.to, out.Bytes(), want)
		}
		if w.Offset() != int64(out.Len()) {
			t.Errorf("%s: offset %d of %d", c.to, w.Offset(), out.Len())
		}
	}
}

// TestWriterOrder makes calls that can't follow each other: each is an error, and the writer stays wrong.
func TestWriterOrder(t *testing.T) {
	hash := func(w *Writer) { put(t, w, key(TypeHash, "h"), Shape{Len: 2}, field("f", "v", 0)) }
	group := func(w *Writer) {
		put(t, w, key(TypeStream, "x"), Shape{}, Element{Kind: ElementStream, Left: 1}, Element{Kind: ElementGroup, Count: 1})
	}
	for _, c := range []struct {
		name, to string
		write    func(w *Writer)
		wrong    func(w *Writer) error
		want     error
	}{
		{"element without an entry", "redis:12", func(w *Writer) {}, func(w *Writer) error { return w.WriteElement(&Element{Kind: ElementBytes}) }, ErrOutOfOrder},
		{"element of an aux fact", "redis:12", func(w *Writer) { put(t, w, &Entry{Kind: KindAux}, Shape{}) },
			func(w *Writer) error { return w.WriteElement(&Element{Kind: ElementBytes}) }, ErrOutOfOrder},
		{"another kind", "redis:12", hash, func(w *Writer) error { return w.WriteElement(&Element{Kind: ElementItem}) }, ErrOutOfOrder},
		{"too few", "redis:12", hash, func(w *Writer) error { return w.WriteEntry(key(TypeHash, "i"), Shape{}) }, ErrOutOfOrder},
		{"too few at the end", "redis:12", hash, func(w *Writer) error { return w.Close() }, ErrOutOfOrder},
		{"too many", "redis:12", func(w *Writer) { put(t, w, key(TypeSet, "s"), Shape{Len: 1}, value(ElementMember, "a")) },
			func(w *Writer) error { return w.WriteElement(&Element{Kind: ElementMember}) }, ErrOutOfOrder},
		{"a second string", "redis:12", func(w *Writer) { put(t, w, key(TypeString, "s"), Shape{}, value(ElementBytes, "a")) },
			func(w *Writer) error { return w.WriteElement(&Element{Kind: ElementBytes}) }, ErrOutOfOrder},
		{"a piece too long", "redis:12", func(w *Writer) {
			put(t, w, key(TypeString, "s"), Shape{}, Element{Kind: ElementBytes, More: true, Left: 1})
		},
			func(w *Writer) error { return w.WriteElement(&Element{Kind: ElementBytes, Value: []byte("ab")}) }, ErrOutOfOrder},
		{"a piece too few", "redis:12", func(w *Writer) {
			put(t, w, key(TypeString, "s"), Shape{}, Element{Kind: ElementBytes, More: true, Left: 1})
		},
			func(w *Writer) error { return w.Close() }, ErrOutOfOrder},
		{"a first piece without a length", "redis:12", func(w *Writer) { put(t, w, key(TypeString, "s"), Shape{}) },
			func(w *Writer) error { return w.WriteElement(&Element{Kind: ElementBytes, More: true}) }, ErrOutOfOrder},
		{"after the end", "redis:12", func(w *Writer) { w.Close() }, func(w *Writer) error { return w.WriteEntry(&Entry{Kind: KindAux}, Shape{}) }, ErrOutOfOrder},
		{"negative database", "redis:12", func(w *Writer) {}, func(w *Writer) error { return w.WriteEntry(&Entry{Kind: KindKey, DB: -1}, Shape{}) }, nil},
		{"field expiry unannounced", "redis:12", func(w *Writer) { put(t, w, key(TypeHash, "h"), Shape{}) },
			func(w *Writer) error { e := field("f", "v", 1); return w.WriteElement(&e) }, ErrUnsupported},
		{"field expiry", "redis:11", func(w *Writer) { put(t, w, key(TypeHash, "h"), Shape{Expiry: true}) },
			func(w *Writer) error { e := field("f", "v", 1); return w.WriteElement(&e) }, ErrUnsupported},
		{"member expiry", "redis:12", func(w *Writer) { put(t, w, key(TypeSet, "h"), Shape{Expiry: true}) },
			func(w *Writer) error { return w.WriteElement(&Element{Kind: ElementMember, ExpireAt: 1}) }, ErrUnsupported},
		{"stream", "redis:8", func(w *Writer) {}, func(w *Writer) error { return w.WriteEntry(key(TypeStream, "s"), Shape{}) }, ErrUnsupported},
		{"function", "redis:9", func(w *Writer) {}, func(w *Writer) error { return w.WriteEntry(&Entry{Kind: KindFunction}, Shape{}) }, ErrUnsupported},
		{"function", "dragonfly:9", func(w *Writer) {}, func(w *Writer) error { return w.WriteEntry(&Entry{Kind: KindFunction}, Shape{}) }, ErrUnsupported},
		{"JSON", "redis:15", func(w *Writer) {}, func(w *Writer) error { return w.WriteEntry(key(TypeJSON, "j"), Shape{}) }, ErrUnsupported},
		{"flags", "redis:9", func(w *Writer) {}, func(w *Writer) error {
			return w.WriteEntry(&Entry{Kind: KindKey, Type: TypeString, Flags: 1}, Shape{})
		}, ErrUnsupported},
		{"metadata", "valkey:80", func(w *Writer) {}, func(w *Writer) error {
			return w.WriteEntry(&Entry{Kind: KindKey, Type: TypeString, Meta: []byte{opKeyMeta, 0}}, Shape{})
		}, ErrUnsupported},
		{"slot info", "redis:12", func(w *Writer) {}, func(w *Writer) error { return w.WriteEntry(&Entry{Kind: KindSlotInfo}, Shape{}) }, ErrUnsupported},
		{"a payload cut short", "redis:12", func(w *Writer) {}, func(w *Writer) error { return w.WriteRaw(key(TypeString, "s"), []byte("\x00\x05hello")) }, ErrCorrupt},
		{"stream entries out of order", "redis:12", func(w *Writer) {
			put(t, w, key(TypeStream, "x"), Shape{}, Element{Kind: ElementEntry, ID: StreamID{1, 1}})
		}, func(w *Writer) error { return w.WriteElement(&Element{Kind: ElementEntry, ID: StreamID{1, 1}}) }, ErrOutOfOrder},
		{"a group too many", "redis:12", func(w *Writer) { put(t, w, key(TypeStream, "x"), Shape{}, Element{Kind: ElementStream}) },
			func(w *Writer) error { return w.WriteElement(&Element{Kind: ElementGroup}) }, ErrOutOfOrder},
		{"a group too few", "redis:12", func(w *Writer) { put(t, w, key(TypeStream, "x"), Shape{}, Element{Kind: ElementStream, Left: 1}) },
			func(w *Writer) error { return w.Close() }, ErrOutOfOrder},
		{"pending entries too few", "redis:12", group, func(w *Writer) error { return w.WriteElement(&Element{Kind: ElementConsumer}) }, ErrOutOfOrder},
		{"owned by nobody", "redis:12", group, func(w *Writer) error { return w.WriteElement(&Element{Kind: ElementOwned}) }, ErrOutOfOrder},
		{"nacked", "redis:13", func(w *Writer) {
			put(t, w, key(TypeStream, "x"), Shape{}, Element{Kind: ElementStream, Left: 1}, Element{Kind: ElementGroup})
		}, func(w *Writer) error { return w.WriteElement(&Element{Kind: ElementNacked}) }, ErrUnsupported},
		{"a stream of odd fields", "redis:12", func(w *Writer) { put(t, w, key(TypeStream, "x"), Shape{}) },
			func(w *Writer) error {
				return w.WriteElement(&Element{Kind: ElementEntry, Fields: [][]byte{{'f'}}})
			}, ErrOutOfOrder},
	} {
		w, _ := newWriter(t, c.to, nil)
		c.write(w)
		err := c.wrong(w)
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
			continue
		}
		for _, later := range []error{w.WriteEntry(key(TypeString, "s"), Shape{}), w.WriteElement(&Element{Kind: ElementBytes}), w.WriteRaw(key(TypeString, "s"), nil), w.Close()} {
			if later != err {
				t.Errorf("%s: later %v, want %v again", c.name, later, err)
			}
		}
	}
	if _, err := NewWriter(io.Discard, Dialect{Redis, 5}, nil); !errors.Is(err, ErrUnsupported) {
		t.Errorf("redis:5: %v", err)
	}
}

// TestWriterFails makes what is beneath the writer fail at every call in turn.
func TestWriterFails(t *testing.T) {
	broken := errors.New("broken")
	for failAt := range 100 {
		calls := 0
		sink := writerFunc(func(p []byte) (int, error) {
			if calls++; calls > failAt {
				return 0, broken
			}
			return len(p), nil
		})
		w, err := NewWriter(sink, Dialect{Redis, 12}, nil)
		if err != nil {
			t.Fatal(err)
		}
		e := value(ElementBytes, strings.Repeat("v", 40000))
		for range 20 {
			if err = w.WriteEntry(key(TypeString, "k"), Shape{}); err != nil {
				break
			}
			if err = w.WriteElement(&e); err != nil {
				break
			}
		}
		if cerr := w.Close(); err == nil {
			err = cerr
		}
		if err == nil {
			if failAt < 10 {
				t.Errorf("after %d calls all was written", calls)
			}
			return
		}
		if !errors.Is(err, broken) || w.Close() == nil {
			t.Errorf("failing call %d: %v", failAt, err)
		}
	}
	t.Error("it never ended well")
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestWriterHolds writes values of an unknown number of elements that are larger than what may be held.
func TestWriterHolds(t *testing.T) {
	for _, to := range []string{"redis:12", "dragonfly:9"} {
		for _, typ := range []Type{TypeList, TypeStream, TypeHash} {
			write := func(opts *WriterOptions) ([]byte, error) {
				w, out := newWriter(t, to, opts)
				put(t, w, key(TypeString, "before"), Shape{}, value(ElementBytes, "v"))
				err := w.WriteEntry(key(typ, "large"), Shape{})
				for i := 0; i < 3000 && err == nil; i++ {
					text := fmt.Appendf(nil, "item %d, about seventy bytes long: %s", i, strings.Repeat("-", 40))
					switch typ {
					case TypeList:
						err = w.WriteElement(&Element{Kind: ElementItem, Value: text})
					case TypeHash:
						err = w.WriteElement(&Element{Kind: ElementField, Field: text, Value: text})
					default:
						err = w.WriteElement(&Element{Kind: ElementEntry, ID: StreamID{uint64(i), 1}, Fields: [][]byte{[]byte("name"), text}})
					}
				}
				if err == nil {
					put(t, w, key(TypeString, "after"), Shape{}, value(ElementBytes, "v"))
				}
				err = errors.Join(err, w.Close())
				return out.Bytes(), err
			}
			want, err := write(nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := write(&WriterOptions{MaxHeld: 100 << 10}); !errors.Is(err, ErrTooLarge) {
				t.Errorf("%s, %v: held too much: %v", to, typ, err)
			}
			path := filepath.Join(t.TempDir(), "spool")
			got, err := write(&WriterOptions{MaxHeld: 100 << 10, Spool: func() (Spool, error) { return os.Create(path) }})
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s, %v: from a spool: %v, %d bytes, want %d", to, typ, err, len(got), len(want))
			}
			if info, err := os.Stat(path); err != nil || info.Size() < 50<<10 {
				t.Errorf("%s, %v: the spool: %v, %v", to, typ, info, err)
			}
			wrong := errors.New("no room")
			if _, err := write(&WriterOptions{MaxHeld: 1, Spool: func() (Spool, error) { return nil, wrong }}); !errors.Is(err, wrong) {
				t.Errorf("%s, %v: no spool: %v", to, typ, err)
			}
			if _, err := (content{}).of(want); err != nil {
				t.Errorf("%s, %v: %v", to, typ, err)
			}
		}
	}
}

// TestWriteRaw takes every value of the fixtures as a payload and puts it into a stream of its own dialect.
func TestWriteRaw(t *testing.T) {
	for _, f := range fixtures(t, 200000) {
		r := NewReader(bytes.NewReader(f.data), nil)
		var out bytes.Buffer
		var w *Writer
		for e, err := range r.Entries() {
			if err != nil {
				t.Fatal(f.name, err)
			}
			if w == nil {
				d := r.Dialect()
				if d.Family == Redis {
					d.Version = max(d.Version, 6)
				}
				if strings.HasPrefix(f.name, "dragonfly") {
					d = Dialect{Dragonfly, dragonflyVersion}
				}
				if w, err = NewWriter(&out, d, nil); err != nil {
					t.Fatal(err)
				}
			}
			if e.Kind != KindKey {
				continue
			}
			p, err := r.AppendRaw(nil, -1)
			if err != nil {
				t.Fatal(f.name, err)
			}
			if err := w.WriteRaw(e, p); err != nil {
				t.Fatal(f.name, err)
			}
		}
		if w == nil {
			continue
		}
		if err := w.Close(); err != nil {
			t.Fatal(f.name, err)
		}
		c := content{hints: w.Dialect().Version >= 9 && w.Dialect().Family != Dragonfly, counts: true}
		want, err := c.of(f.data)
		if err != nil {
			t.Fatal(f.name, err)
		}
		for name := range want {
			if strings.HasPrefix(name, "function ") {
				delete(want, name)
			}
		}
		got, err := c.of(out.Bytes())
		if err != nil {
			t.Errorf("%s: %v", f.name, err)
		} else if diff := diffContents(want, got); diff != "" {
			t.Errorf("%s: %s", f.name, diff)
		}
	}
}

// TestWriterCompresses checks that compression loses nothing and saves much.
func TestWriterCompresses(t *testing.T) {
	text := strings.Repeat("the same words again and again; ", 1000)
	write := func(opts *WriterOptions) []byte {
		w, out := newWriter(t, "redis:12", opts)
		put(t, w, key(TypeString, "text"), Shape{}, value(ElementBytes, text))
		put(t, w, key(TypeString, "number"), Shape{}, value(ElementBytes, "12345"))
		put(t, w, key(TypeHash, strings.Repeat("name ", 10)), Shape{Len: 1}, field(strings.Repeat("f", 30), text, 0))
		put(t, w, key(TypeString, "pieces"), Shape{}, Element{Kind: ElementBytes, Value: []byte(text), More: true, Left: 1}, value(ElementBytes, "."))
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	plain, packed := write(nil), write(&WriterOptions{Compression: CompressLZF})
	if len(packed) > len(plain)/2 {
		t.Errorf("%d bytes became %d", len(plain), len(packed))
	}
	want, err := content{}.of(plain)
	if err != nil {
		t.Fatal(err)
	}
	got, err := content{}.of(packed)
	if err != nil {
		t.Fatal(err)
	}
	if diff := diffContents(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestWriterNoAllocations writes keys of all types without allocating anything.
func TestWriterNoAllocations(t *testing.T) {
	for _, to := range []string{"redis:12", "valkey:80", "dragonfly:9", "redis:15"} {
		d, err := ParseDialect(to)
		if err != nil {
			t.Fatal(err)
		}
		w, err := NewWriter(io.Discard, d, &WriterOptions{Compression: CompressLZF})
		if err != nil {
			t.Fatal(err)
		}
		item, member, scored := value(ElementItem, "an item of a list"), value(ElementMember, "1234"), Element{Kind: ElementScored, Value: []byte("member"), Score: 1.5}
		f, long := field("field", strings.Repeat("value ", 20), 1<<41), value(ElementBytes, strings.Repeat("long", 10000))
		entry := Element{Kind: ElementEntry, ID: StreamID{1, 0}, Fields: [][]byte{[]byte("f"), []byte("v"), []byte("g"), []byte("12")}}
		info := Element{Kind: ElementStream, Stream: StreamInfo{Length: 1}}
		keys := []*Entry{key(TypeString, "string"), key(TypeList, "list"), key(TypeSet, "set"), key(TypeZSet, "zset"), key(TypeHash, "hash"), key(TypeStream, "stream")}
		elements := [][]*Element{{&long}, {&item, &item}, {&member}, {&scored}, {&f, &f}, {&entry, &info}}
		shapes := []Shape{{}, {}, {Len: 1}, {Len: 1}, {Len: 2, Expiry: true}, {}}
		step := func() {
			for i, k := range keys {
				err := w.WriteEntry(k, shapes[i])
				for _, e := range elements[i] {
					err = errors.Join(err, w.WriteElement(e))
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		step()
		if n := testing.AllocsPerRun(2000, step); n != 0 {
			t.Errorf("%s: %v allocations for %d keys", to, n, len(keys))
		}
	}
}
