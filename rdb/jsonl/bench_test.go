package jsonl

import (
	"math/rand/v2"
	"strings"
	"testing"
)

func BenchmarkText(b *testing.B) {
	table := newEscaped()
	binary := make([]byte, chunk)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range binary {
		binary[i] = byte(r.Uint32())
	}
	for name, s := range map[string][]byte{
		"plain":  []byte(strings.Repeat("plain text, and more. ", chunk/22)),
		"quotes": []byte(strings.Repeat(`{"id":1,"user":"x"},`, chunk/20)),
		"binary": binary,
		"zeros":  make([]byte, chunk),
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(s)))
			dst := make([]byte, 0, longestText*len(s)+textSlack)
			for b.Loop() {
				table.appendText(dst, s)
			}
		})
	}
}
