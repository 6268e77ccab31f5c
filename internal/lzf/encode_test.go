package lzf

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
)

func TestCompress(t *testing.T) {
	var e Encoder
	random := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 3000)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	for name, c := range map[string]struct {
		src string
		max int // the largest block that will do; 0: it can't be compressed
	}{
		"empty":         {"", 0},
		"short":         {"abc", 0},
		"one byte":      {strings.Repeat("a", 1000), 20},
		"two bytes":     {strings.Repeat("ab", 150), 15},
		"longest copy":  {strings.Repeat("x", 1+264), 6},
		"words":         {strings.Repeat("the quick brown fox jumps over the lazy dog; ", 40), 200},
		"far":           {string(noise[:1000]) + strings.Repeat("-", 8192-1000) + string(noise[:1000]), 2300},
		"noise":         {string(noise), 0},
		"noise, copied": {string(noise) + string(noise), 3300},
	} {
		dst := make([]byte, max(len(c.src)-4, 0))
		n := e.Compress(dst, []byte(c.src))
		if c.max == 0 {
			if n != 0 {
				t.Errorf("%s: compressed to %d of %d bytes", name, n, len(c.src))
			}
			continue
		}
		if n == 0 || n > c.max {
			t.Errorf("%s: %d bytes became %d, want at most %d", name, len(c.src), n, c.max)
			continue
		}
		back := make([]byte, len(c.src))
		if err := Decompress(back, dst[:n]); err != nil || string(back) != c.src {
			t.Errorf("%s: it doesn't expand to what it was: %v", name, err)
		}
		if m := e.Compress(make([]byte, n-1), []byte(c.src)); m != 0 {
			t.Errorf("%s: %d bytes have no room in %d, yet it says %d", name, n, n-1, m)
		}
	}
}

// TestCompressManyBlocks uses one encoder until its positions start over.
func TestCompressManyBlocks(t *testing.T) {
	e := Encoder{base: 1<<30 - 20000}
	src := bytes.Repeat([]byte("0123456789"), 100)
	dst, back := make([]byte, len(src)), make([]byte, len(src))
	for i := range 100 {
		src[i*7] ^= 0x55
		n := e.Compress(dst, src)
		if err := Decompress(back, dst[:n]); n == 0 || err != nil || !bytes.Equal(back, src) {
			t.Fatalf("block %d: size %d, %v", i, n, err)
		}
	}
	if e.base > 1<<29 {
		t.Error("the positions never started over")
	}
}

func FuzzCompress(f *testing.F) {
	f.Add([]byte("abababababababababab"), []byte("abababab"))
	f.Add(bytes.Repeat([]byte{0}, 600), []byte{0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, first, second []byte) {
		var e Encoder
		for _, src := range [][]byte{first, second, first} {
			dst := make([]byte, len(src)+len(src)/maxLiteral+1)
			n := e.Compress(dst, src)
			if n == 0 && len(src) > 0 {
				t.Fatal("it has no room where the literals alone have")
			}
			if len(src) == 0 {
				continue
			}
			if !Plausible(uint64(n), uint64(len(src))) {
				t.Fatalf("%d bytes for %d are implausible", n, len(src))
			}
			back := make([]byte, len(src))
			if err := Decompress(back, dst[:n]); err != nil || !bytes.Equal(back, src) {
				t.Fatalf("%q comes back as %q, %v", src, back, err)
			}
		}
	})
}

func BenchmarkCompress(b *testing.B) {
	var e Encoder
	src := []byte(strings.Repeat(`{"id":12345,"name":"somebody","tags":["a","b"],"score":0.5},`, 20))
	dst := make([]byte, len(src))
	b.SetBytes(int64(len(src)))
	for b.Loop() {
		if e.Compress(dst, src) == 0 {
			b.Fatal("not compressed")
		}
	}
}
