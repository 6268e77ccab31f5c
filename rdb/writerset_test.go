package rdb

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

const setID = "0123456789abcdef0123456789abcdef"

// A testSet is a set in memory.
type testSet struct {
	summary bytes.Buffer
	shards  []bytes.Buffer
}

func newSet(t testing.TB, shards int, opts *WriterOptions) (*Writer, *testSet) {
	t.Helper()
	s := &testSet{shards: make([]bytes.Buffer, shards)}
	var to []io.Writer
	for i := range s.shards {
		to = append(to, &s.shards[i])
	}
	w, err := NewSetWriter(&s.summary, to, setID, opts)
	if err != nil {
		t.Fatal(err)
	}
	return w, s
}

// contents returns what is in all shards.
func (s *testSet) contents(t testing.TB, c content) map[string]string {
	t.Helper()
	out := make(map[string]string)
	for i := range s.shards {
		got, err := c.of(s.shards[i].Bytes())
		if err != nil {
			t.Fatalf("shard %d: %v", i, err)
		}
		for name, value := range got {
			if out[name] != "" {
				t.Fatalf("%q is in two shards", name)
			}
			out[name] = value
		}
	}
	return out
}

// TestSetHeads checks the first bytes of the files against what Dragonfly needs (dfs-format 2.11).
func TestSetHeads(t *testing.T) {
	w, s := newSet(t, 2, nil)
	put(t, w, &Entry{Kind: KindAux, Key: []byte("lua"), Value: []byte("return 1")}, Shape{})
	put(t, w, key(TypeString, "k"), Shape{}, value(ElementBytes, "v"))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	head := build("REDIS0009").bytes(opAux).str("snapshot-id", setID)
	want := build(string(head.b)).bytes(opAux).str("shard-count").bytes(stringInt8, 2).bytes(opAux).str("lua", "return 1").end()
	if got := s.summary.Bytes(); !bytes.Equal(got, want) {
		t.Errorf("summary %q, want %q", got, want)
	}
	for i := range s.shards {
		b := build(string(head.b)).bytes(opAux).str("shard-id").bytes(stringInt8, byte(i))
		if i == 0 {
			b.bytes(opSelectDB, 0, 0).str("k", "v")
		}
		if got, want := s.shards[i].Bytes(), b.end(); !bytes.Equal(got, want) {
			t.Errorf("shard %d %q, want %q", i, got, want)
		}
	}
}

// TestSetFixtures converts every fixture to sets, and back from them, in each of two compressions, with CAMPAIGN=1 in all four.
func TestSetFixtures(t *testing.T) {
	for i, f := range fixtures(t, 1<<20) {
		single, _, err := convert(f.data, Dialect{Dragonfly, dragonflyVersion}, &ConvertOptions{Policy: DropDetail})
		if err != nil {
			t.Fatal(f.name, err)
		}
		c := contentOf(Dialect{Dragonfly, dragonflyVersion})
		want, err := c.of(single)
		if err != nil {
			t.Fatal(f.name, err)
		}
		for j, codec := range []Compression{CompressNone, CompressLZF, CompressLZ4, CompressZstd} {
			if !campaign && j != i%4 && j != (i+1+i/4%3)%4 {
				continue
			}
			w, s := newSet(t, 3, &WriterOptions{Compression: codec, MaxHeld: 1000, Spool: spoolFile(t)})
			report, err := Convert(w, NewReader(bytes.NewReader(f.data), nil), &ConvertOptions{Policy: DropDetail})
			if err := errors.Join(err, w.Close()); err != nil {
				t.Fatal(f.name, err)
			}
			if got := s.contents(t, c); diffContents(want, got) != "" || report.Keys != int64(len(want)) {
				t.Errorf("%s, compression %d: %s", f.name, codec, diffContents(want, got))
			}
			// Keys that are taken back after all must not leave a database selected.
			w, s = newSet(t, 2, &WriterOptions{Compression: codec})
			if _, err = Convert(w, NewReader(bytes.NewReader(f.data), nil), &ConvertOptions{Policy: SkipKey}); errors.Join(err, w.Close()) != nil {
				t.Fatal(f.name, err)
			}
			left := s.contents(t, c)
			for name, value := range left {
				if want[name] != value {
					t.Errorf("%s, skipping keys: %q differs", f.name, name)
				}
			}
		}
	}
}

// TestSetBlocks writes keys in all databases, and values around the limits of blocks.
func TestSetBlocks(t *testing.T) {
	for _, codec := range []Compression{CompressNone, CompressLZ4, CompressZstd} {
		w, s := newSet(t, 3, &WriterOptions{Compression: codec, MaxHeld: 100 << 10, Spool: spoolFile(t)})
		want := make(map[string]string)
		add := func(db, size int, pieces bool) {
			text := strings.Repeat(fmt.Sprintf("value of %d; ", size), size/10+1)[:size]
			e := key(TypeString, fmt.Sprintf("k%d-%d-%v", db, size, pieces))
			e.DB = db
			want[fmt.Sprintf("%d/%s", db, e.Key)] = text
			if !pieces {
				put(t, w, e, Shape{}, value(ElementBytes, text))
				return
			}
			n := size / 2
			put(t, w, e, Shape{}, Element{Kind: ElementBytes, Value: []byte(text[:n]), More: true, Left: int64(size - n)}, value(ElementBytes, text[n:]))
		}
		for i, size := range []int{0, 10, 200, 250, 60 << 10, 64 << 10, 70 << 10, 1<<20 - 100, 1 << 20, 1<<20 + 1, 3 << 20, 5 << 20} {
			add(i%4, size, false)
			if size > 1 {
				add((i+1)%4, size, true)
			}
			for j := range 300 {
				add((i+j)%5, 100+300*i+j, false)
			}
			// Held until its end, since its length isn't known.
			list := key(TypeList, fmt.Sprintf("list%d", i))
			put(t, w, list, Shape{}, value(ElementItem, strings.Repeat("x", size/2)), value(ElementItem, "y"))
			want["0/"+string(list.Key)] = strings.Repeat("x", size/2) + "y"
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		got := make(map[string]string)
		blocks := 0
		for i := range s.shards {
			r := NewReader(bytes.NewReader(s.shards[i].Bytes()), nil)
			for e, err := range r.Entries() {
				if err != nil {
					t.Fatal(err)
				}
				if e.Kind != KindKey {
					continue
				}
				if r.input == inputBlock {
					blocks++
				}
				name := fmt.Sprintf("%d/%s", e.DB, e.Key)
				var b strings.Builder
				for el, err := range r.Elements() {
					if err != nil {
						t.Fatal(err)
					}
					b.Write(el.Value)
				}
				got[name] = b.String()
			}
			if n := s.shards[i].Len(); n < 1<<20 {
				t.Errorf("shard %d has %d bytes", i, n)
			}
		}
		if diff := diffContents(want, got); diff != "" {
			t.Errorf("compression %d: %.300s", codec, diff)
		}
		if (blocks > 3000) != (codec != CompressNone) {
			t.Errorf("compression %d: %d keys in blocks", codec, blocks)
		}
	}
}

func TestSetErrors(t *testing.T) {
	one := []io.Writer{io.Discard}
	for name, make := range map[string]func() (*Writer, error){
		"no shards":       func() (*Writer, error) { return NewSetWriter(io.Discard, nil, setID, nil) },
		"too many shards": func() (*Writer, error) { return NewSetWriter(io.Discard, make([]io.Writer, maxShards+1), setID, nil) },
		"no id":           func() (*Writer, error) { return NewSetWriter(io.Discard, one, "", nil) },
		"no hexadecimal":  func() (*Writer, error) { return NewSetWriter(io.Discard, one, strings.ToUpper(setID), nil) },
		"blocks in one": func() (*Writer, error) {
			return NewWriter(io.Discard, Dialect{Dragonfly, 9}, &WriterOptions{Compression: CompressLZ4})
		},
	} {
		if w, err := make(); !errors.Is(err, ErrUnsupported) || w != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	full := errors.New("full")
	fails := writerFunc(func([]byte) (int, error) { return 0, full })
	w, err := NewSetWriter(fails, one, setID, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); !errors.Is(err, full) {
		t.Errorf("a summary that can't be written: %v", err)
	}
	if _, err := NewSetWriter(io.Discard, []io.Writer{io.Discard, fails}, setID, nil); !errors.Is(err, full) {
		t.Errorf("a shard that can't be written: %v", err)
	}
}

// TestSetNoAllocations writes blocks without allocating anything.
func TestSetNoAllocations(t *testing.T) {
	for _, codec := range []Compression{CompressNone, CompressLZ4, CompressZstd} {
		w, err := NewSetWriter(io.Discard, []io.Writer{io.Discard, io.Discard}, setID, &WriterOptions{Compression: codec})
		if err != nil {
			t.Fatal(err)
		}
		k, v := key(TypeString, "key"), value(ElementBytes, strings.Repeat("0123456789abcdefghijklmnopqrstuvwxyz", 200))
		step := func() {
			for range 50 {
				if err := errors.Join(w.WriteEntry(k, Shape{}), w.WriteElement(&v)); err != nil {
					t.Fatal(err)
				}
			}
		}
		step()
		if n := testing.AllocsPerRun(200, step); n > 0 {
			t.Errorf("compression %d: %v allocations a block", codec, n)
		}
	}
}
