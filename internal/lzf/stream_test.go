package lzf

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// expandInPieces expands src through a window of the given size above History, fed with pieces of the given size.
func expandInPieces(src []byte, room, piece int) ([]byte, error) {
	var s Stream
	var all []byte
	window := make([]byte, History+room)
	out := 0
	for len(src) > 0 {
		if out == len(window) {
			out = copy(window, window[out-History:])
		}
		n, in, err := s.Expand(window, out, src[:min(piece, len(src))])
		all = append(all, window[out:n]...)
		if err != nil {
			return all, err
		}
		out, src = n, src[in:]
	}
	// What is left of the last item.
	for s.state == write {
		if out == len(window) {
			out = copy(window, window[out-History:])
		}
		n, _, err := s.Expand(window, out, nil)
		all = append(all, window[out:n]...)
		if err != nil {
			return all, err
		}
		if n == out {
			break
		}
		out = n
	}
	if !s.Between() {
		return all, ErrCorrupt
	}
	return all, nil
}

// blocks are blocks in which there is everything: long and short items, overlaps of every distance, the longest distance.
func blocks() [][]byte {
	random := rand.New(rand.NewPCG(1, 2))
	var all [][]byte
	var e Encoder
	for _, text := range []string{
		strings.Repeat("ab", 150), strings.Repeat("the quick brown fox jumps over the lazy dog; ", 40), strings.Repeat("x", 70000),
	} {
		dst := make([]byte, len(text))
		all = append(all, dst[:e.Compress(dst, []byte(text))])
	}
	for range 30 {
		var b []byte
		for out := 0; out < 30000; {
			if n := random.IntN(32); out == 0 || random.IntN(3) == 0 {
				b = append(b, byte(n))
				for range n + 1 {
					b = append(b, byte(random.Uint32()))
				}
				out += n + 1
				continue
			}
			back := min(random.IntN(1<<random.IntN(14)), out-1)
			if n := random.IntN(8); n < 6 {
				b = append(b, byte(n+1)<<5|byte(back>>8), byte(back))
				out += n + 3
			} else {
				more := random.IntN(256)
				b = append(b, 7<<5|byte(back>>8), byte(more), byte(back))
				out += more + 9
			}
		}
		all = append(all, b)
	}
	return all
}

// TestAgainstReference expands blocks in every way, and the same blocks with something wrong.
func TestAgainstReference(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for i, b := range blocks() {
		sameAsReference(t, fmt.Sprint("block ", i), b)
		for range 20 {
			bad := bytes.Clone(b[:random.IntN(len(b))])
			for range random.IntN(3) {
				if len(bad) > 0 {
					bad[random.IntN(len(bad))] = byte(random.Uint32())
				}
			}
			sameAsReference(t, fmt.Sprint("damaged block ", i), bad)
		}
	}
}

func sameAsReference(t *testing.T, name string, src []byte) {
	t.Helper()
	want, ok := reference(src)
	dst := make([]byte, len(want))
	if err := Decompress(dst, src); (err == nil) != ok || ok && !bytes.Equal(dst, want) {
		t.Fatalf("%s: %v, the reference says %v, equal %v", name, err, ok, bytes.Equal(dst, want))
	}
	if err := Check(src, uint64(len(want))); (err == nil) != ok {
		t.Fatalf("%s: Check says %v, the reference %v", name, err, ok)
	}
	if err := Check(src, uint64(len(want)+1)); err == nil {
		t.Fatalf("%s: Check takes a wrong length", name)
	}
	for _, room := range []int{1, 100, 1 << 16} {
		for _, piece := range []int{1, 7, 1 << 20} {
			got, err := expandInPieces(src, room, piece)
			if (err == nil) != ok || ok && !bytes.Equal(got, want) {
				t.Fatalf("%s, window of %d, pieces of %d: %v, the reference says %v, equal %v", name, room, piece, err, ok, bytes.Equal(got, want))
			}
			if n := min(len(got), len(want)); !bytes.Equal(got[:n], want[:n]) {
				t.Fatalf("%s, window of %d, pieces of %d: wrong before the error", name, room, piece)
			}
			if len(src) > 1000 {
				break // one size is enough for what takes long
			}
		}
	}
}

func FuzzStream(f *testing.F) {
	for _, b := range blocks() {
		if len(b) < 4000 {
			f.Add(b, uint16(100), uint16(7))
		}
	}
	f.Fuzz(func(t *testing.T, src []byte, room, piece uint16) {
		want, ok := reference(src)
		got, err := expandInPieces(src, int(room)+1, int(piece)+1)
		if (err == nil) != ok || ok && !bytes.Equal(got, want) {
			t.Fatalf("%x in pieces: %x, %v; the reference says %x, %v", src, got, err, want, ok)
		}
		if err := Check(src, uint64(len(want))); (err == nil) != ok {
			t.Fatalf("%x: Check says %v, the reference %v", src, err, ok)
		}
	})
}

func BenchmarkDecompress(b *testing.B) {
	var e Encoder
	random := rand.New(rand.NewPCG(1, 2))
	words := strings.Fields("amber keeps living data store exactly as it stood when the night began Wien Zürich Oslo")
	var text, documents []byte
	for len(text) < 4000 {
		text = append(append(text, words[random.IntN(len(words))]...), ' ')
	}
	for len(documents) < 4000 {
		documents = fmt.Appendf(documents, `{"id":%d,"user":"amber keeps","token":"%x","roles":["reader","writer"],"created":%d},`,
			random.IntN(1e6), random.Uint64(), random.IntN(1e9))
	}
	for name, plain := range map[string][]byte{"Words": text, "Documents": documents, "Runs": bytes.Repeat([]byte("abc\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 300)} {
		src := make([]byte, len(plain))
		src = src[:e.Compress(src, plain)]
		dst := make([]byte, len(plain))
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(plain)))
			for b.Loop() {
				if err := Decompress(dst, src); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/Check", func(b *testing.B) {
			b.SetBytes(int64(len(plain)))
			for b.Loop() {
				if err := Check(src, uint64(len(plain))); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
