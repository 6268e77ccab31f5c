package rdb

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
)

// addSeeds adds fixtures and rare entries, small enough to mutate well.
func addSeeds(f *testing.F, add func([]byte)) {
	for _, x := range append(fixtures(f, 2500), rareFixtures()...) {
		add(x.data)
	}
	add(journalStream())
	for seed := range uint64(4) {
		add(interleaved(fewRecords(), rand.New(rand.NewPCG(seed, 2))))
	}
}

// fewRecords are keys of several types, as Dragonfly writes them.
func fewRecords() []record {
	b := func(code byte, key string) *builder { return build("").bytes(code).str(key) }
	return []record{
		{0, b(0, "string").str("value").b},
		{0, build("").bytes(opExpireMillis).u64(1<<40).bytes(opDragonflyMask).u32(3, 7).bytes(0).str("n").bytes(stringInt8, 42).b},
		{3, b(2, "set").len(4).str("a", "bb", "ccc", "").b},
		{3, b(4, "hash").len(2).str("f", "v", "g", "w").b},
		{0, b(31, "hash with expiry").len(2).str("f", "v", "1000", "g", "w").bytes(stringInt8, 0xff).b},
		{0, b(5, "zset").len(2).str("m").u64(0).str("n").u64(1 << 62).b},
		{1, b(18, "list").len(2, 1).str("plain").len(2).str(packedList("packed", "too")).b},
		{0, b(30, "json").str(`{"a":1}`).b},
		{0, b(34, "bloom").len(0).u64(0, 0).len(1, 2, 3, 1, 7, 4, 4).bytes(1, 2, 3, 4).b},
	}
}

// FuzzNested cuts the keys of what is right into chunks and blocks, in any way: what is read must be the same.
func FuzzNested(f *testing.F) {
	addSeeds(f, func(data []byte) { f.Add(data, uint64(1)) })
	f.Fuzz(func(t *testing.T, data []byte, seed uint64) {
		r := NewReader(bytes.NewReader(data), nil)
		if err := readAll(r); err != io.EOF || r.Dialect().Family == Valkey || r.Dialect().Version > 9 {
			return
		}
		records := recordsOf(t, data)
		plain := build("REDIS0009").bytes(opAux).str("df-ver", "df-v1.40.0")
		for _, rec := range records {
			plain.bytes(opSelectDB).len(uint64(rec.db)).bytes(rec.bytes...)
		}
		plain.bytes(opEOF).u64(0)
		nested := interleaved(records, rand.New(rand.NewPCG(seed, 0)))
		want, got := rawsOf(t, NewReader(bytes.NewReader(plain.b), nil)), rawsOf(t, NewReader(bytes.NewReader(nested), nil))
		if got != want {
			t.Fatalf("got\n%s\nwant\n%s", got, want)
		}
	})
}

// FuzzSet converts what is right to a set, and reads it back.
func FuzzSet(f *testing.F) {
	addSeeds(f, func(data []byte) { f.Add(data, uint8(0)); f.Add(data, uint8(3)) })
	f.Fuzz(func(t *testing.T, data []byte, how uint8) {
		data = unsealed(data)
		if Check(NewReader(bytes.NewReader(data), nil), nil) != nil {
			return
		}
		opts := &ConvertOptions{Policy: DropDetail}
		single, _, err := convert(data, Dialect{Dragonfly, dragonflyVersion}, opts)
		if err != nil {
			t.Fatal(err)
		}
		w, s := newSet(t, 1+int(how>>2%3), &WriterOptions{Compression: Compression(how % 4)})
		if _, err := Convert(w, NewReader(bytes.NewReader(data), nil), opts); errors.Join(err, w.Close()) != nil {
			t.Fatal(err)
		}
		c := contentOf(w.Dialect())
		want, err := c.of(single)
		if err != nil {
			t.Fatal(err)
		}
		if diff := diffContents(want, s.contents(t, c)); diff != "" {
			t.Fatal(diff)
		}
	})
}

// FuzzReader reads any bytes: no panic, no hang, bounded memory, a typed error. The checksum is set to zero, which
// means that there is none, so that a change of the rest isn't refused for that alone.
func FuzzReader(f *testing.F) {
	addSeeds(f, func(data []byte) { f.Add(data) })
	f.Fuzz(func(t *testing.T, data []byte) {
		readAny(t, data)
		if len(data) > 8 {
			data = append(bytes.Clone(data[:len(data)-8]), 0, 0, 0, 0, 0, 0, 0, 0)
			readAny(t, data)
			readAny(t, sealed(data))
		}
	})
}

// FuzzReaderFragmented reads any bytes whole, and in pieces through buffers of any size: the results must be equal.
func FuzzReaderFragmented(f *testing.F) {
	addSeeds(f, func(data []byte) { f.Add(data, uint16(0), []byte{1, 2, 3, 0, 200}) })
	f.Fuzz(func(t *testing.T, data []byte, size uint16, sizes []byte) {
		want := transcript(NewReader(bytes.NewReader(data), nil))
		if got := transcript(newReader(pieces(data, sizes), nil, smallestBuffer+int(size))); got != want {
			t.Fatalf("in pieces:\n%s\nwhole:\n%s", got, want)
		}
	})
}
