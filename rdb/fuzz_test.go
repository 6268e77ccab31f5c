package rdb

import (
	"bytes"
	"testing"
)

// addSeeds adds fixtures and rare entries, small enough to mutate well.
func addSeeds(f *testing.F, add func([]byte)) {
	for _, x := range append(fixtures(f, 2500), rareFixtures()...) {
		add(x.data)
	}
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
