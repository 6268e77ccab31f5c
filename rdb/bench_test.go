package rdb

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
)

// benchData is a stream of small keys of every common type, about 350 bytes each.
func benchData(keys int) []byte {
	random := rand.New(rand.NewPCG(1, 2))
	text := bytes.Repeat([]byte("abcdefghijklmnopqrstuvwxyz"), 100)
	word := func(limit int) string { return string(text[:random.IntN(limit)]) }
	b := build("REDIS0011").bytes(opSelectDB, 0, opResizeDB).len(uint64(keys), 0)
	for i := range keys {
		if i%2 == 0 {
			b.bytes(opExpireMillis).u64(4102444800000 + uint64(i))
		}
		key := fmt.Sprintf("key:%d:%s", i, word(5))
		n := uint64(random.IntN(30) + 1)
		switch i % 8 {
		case 0, 1, 2:
			b.bytes(0).str(key, word(600))
		case 3:
			b.bytes(2).str(key).len(n)
			for range n {
				b.str(word(20))
			}
		case 4:
			b.bytes(4).str(key).len(n)
			for i := range n {
				b.str("field" + word(3))
				if i%4 == 0 {
					b.bytes(stringInt8, byte(i))
				} else {
					b.str(word(30))
				}
			}
		case 5:
			b.bytes(5).str(key).len(n)
			for i := range n {
				b.str(word(20)).u64(i)
			}
		case 6:
			b.bytes(18).str(key).len(1, 2).str(word(600))
		case 7:
			b.bytes(16).str(key, word(600))
		}
	}
	return b.end()
}

func BenchmarkReader(b *testing.B) {
	data := benchData(50000)
	for _, bench := range []struct {
		name string
		read func(r *Reader) error
	}{
		{"Verify", readAll},
		{"Observe", func(r *Reader) error {
			r.Observe(func(*Entry, ValueInfo) {})
			return readAll(r)
		}},
		{"WriteRaw", func(r *Reader) error {
			for {
				e, err := r.Next()
				if err != nil {
					return err
				}
				if e.Kind == KindKey {
					if _, err := r.WriteRaw(io.Discard); err != nil {
						return err
					}
				}
			}
		}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if err := bench.read(NewReader(bytes.NewReader(data), nil)); err != io.EOF {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkConvert converts to the dialect of the source, which copies values, and to one for which they are encoded anew.
func BenchmarkConvert(b *testing.B) {
	data := benchData(50000)
	for _, to := range []Dialect{{Redis, 11}, {Redis, 6}} {
		b.Run(to.String(), func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			opts := &ConvertOptions{}
			if to.Version < 11 {
				opts.Types = []Type{TypeString, TypeSet, TypeZSet} // the packed values are none
			}
			for b.Loop() {
				w, err := NewWriter(io.Discard, to, nil)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := Convert(w, NewReader(bytes.NewReader(data), nil), opts); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
