package rdb

import (
	"io"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestPassPieces reads a stream with pieces in blocks and between them, and what else is in it comes in its order, with nothing held.
func TestPassPieces(t *testing.T) {
	journal := build("").bytes(opJournal, 1).str(string(build("").bytes(journalSelect, 0, journalCommand, 1, 1, 1, 4).str("PING").b))
	blocked := build("").bytes(opSelectDB, 2).chunk(7, "\x04\x01h\x02\x01a\x01b").bytes(journal.b...).chunk(7, "\x01c\x01d").bytes(opSyncEnd).bytes(make([]byte, 8)...)
	b := build("REDIS0009").bytes(opAux).str("df-ver", "df-v1.40.0").bytes(opSelectDB, 1)
	b.chunk(3, "\x04\x01g\x02\x01a\x01b").bytes(typeStringKey("k", "v")...)
	b.block(opLZ4, blocked.b)
	b.chunk(3, "\xc8\x00\x00\x00\x00\x00\x00\x00\x00").chunk(9, "\xff").bytes(opEOF).bytes(make([]byte, 8)...)
	for _, size := range []int{smallestBuffer, 64, bufferSize} {
		// A spool that is needed would be an error.
		r := newReader(&oneByte{b: b.b}, &ReaderOptions{PassPieces: true, MaxHeld: 1}, size)
		var kinds []Kind
		for e, err := range r.Entries() {
			if err != nil {
				t.Fatal(err)
			}
			kinds = append(kinds, e.Kind)
		}
		if want := []Kind{KindAux, KindKey, KindJournal, KindSyncEnd}; !slices.Equal(kinds, want) {
			t.Errorf("buffers of %d: entries %v, want %v", size, kinds, want)
		}
		if s := r.Stats(); s.Keys != 1 || s.Pieces != 5 || s.Journal != 1 || s.Bytes != int64(len(b.b)) {
			t.Errorf("buffers of %d: %+v", size, s)
		}
	}
	for n := range len(b.b) - 1 {
		r := NewReader(&oneByte{b: b.b[:n]}, &ReaderOptions{PassPieces: true})
		var err error
		for err == nil {
			_, err = r.Next()
		}
		if err == io.EOF {
			t.Errorf("the first %d bytes of %d are a whole stream", n, len(b.b))
		}
	}
	for name, bad := range map[string]*builder{
		"of id 0":                      build("REDIS0009").chunk(0, "x"),
		"of no bytes":                  build("REDIS0009").chunk(1, ""),
		"behind what belongs to a key": build("REDIS0009").bytes(opExpireMillis).bytes(make([]byte, 8)...).chunk(1, "x"),
		"that leaves its block":        build("REDIS0009").block(opLZ4, append(build("").u32().bytes(opChunk).u32(1, 1000).b, make([]byte, 100)...)),
	} {
		r := NewReader(&oneByte{b: append(bad.b, make([]byte, 2000)...)}, &ReaderOptions{PassPieces: true})
		var err error
		for err == nil {
			_, err = r.Next()
		}
		if err == io.EOF {
			t.Errorf("a piece %s is taken", name)
		}
	}
}

func typeStringKey(key, value string) []byte { return build("").bytes(0).str(key, value).b }

// TestPassPiecesInterleaved finds as many keys and pieces as there are in streams with anything between anything.
func TestPassPiecesInterleaved(t *testing.T) {
	var mini []byte
	for _, f := range fixtures(t, 1<<20) {
		if f.name == "dragonfly-1.40/mini" {
			mini = f.data
		}
	}
	records := recordsOf(t, mini)
	for seed := range uint64(20) {
		data := interleaved(records, rand.New(rand.NewPCG(seed, 1)))
		joined := NewReader(&oneByte{b: data}, &ReaderOptions{Spool: spoolFile(t)})
		passed := NewReader(&oneByte{b: data}, &ReaderOptions{PassPieces: true, MaxHeld: 1})
		for _, r := range []*Reader{joined, passed} {
			for _, err := range r.Entries() {
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		a, b := joined.Stats(), passed.Stats()
		if b.Keys > a.Keys || b.Keys+b.Pieces < a.Keys || a.Bytes != b.Bytes {
			t.Errorf("seed %d: %d keys of which %d are whole, and %d pieces", seed, a.Keys, b.Keys, b.Pieces)
		}
	}
}

// oneByte gives its bytes one by one.
type oneByte struct{ b []byte }

func (r *oneByte) Read(p []byte) (int, error) {
	if len(r.b) == 0 {
		return 0, io.EOF
	}
	p[0] = r.b[0]
	r.b = r.b[1:]
	return 1, nil
}
