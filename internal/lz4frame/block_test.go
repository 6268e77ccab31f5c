package lz4frame

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/pierrec/lz4/v4"
)

// checkEnd holds a block against the two rules of its end that decoders rely on and the library doesn't check: the last five bytes are
// literals, and the last match begins at least twelve bytes before the end.
func checkEnd(t testing.TB, block []byte, size int) {
	t.Helper()
	long := func(n, p int) (int, int) {
		for n >= 15 {
			n += int(block[p])
			p++
			if block[p-1] != 255 {
				break
			}
		}
		return n, p
	}
	out, match := 0, 0
	for p := 0; p < len(block); {
		token := block[p]
		literals, at := long(int(token>>4), p+1)
		p = at + literals
		out += literals
		if p == len(block) {
			if match > 0 && (literals < 5 || match > size-12) {
				t.Fatalf("a block of %d bytes ends with %d literals, behind a match at %d", size, literals, match)
			}
			return
		}
		match = out
		n, at := long(int(token&15), p+2)
		p = at
		out += n + minMatch
	}
	t.Fatal("a block ends with a match")
}

// roundTrip compresses src into just as much room as it gets, and lets the library expand it.
func roundTrip(t testing.TB, e *blockEncoder, src []byte, room int) int {
	t.Helper()
	dst := make([]byte, room+8)
	guard := bytes.Repeat([]byte{0xAA}, 8)
	copy(dst[room:], guard)
	n := e.compress(dst[:room], src)
	if !bytes.Equal(dst[room:], guard) {
		t.Fatalf("%d bytes: it wrote behind its room of %d", len(src), room)
	}
	if n == 0 {
		return 0
	}
	got := make([]byte, len(src)+1)
	m, err := lz4.UncompressBlock(dst[:n], got)
	if err != nil || !bytes.Equal(got[:m], src) {
		t.Fatalf("%d bytes: they come back as %d, %v", len(src), m, err)
	}
	checkEnd(t, dst[:n], len(src))
	return n
}

// TestBlock compresses everything that is short, and long things of all kinds, in all sizes of room.
func TestBlock(t *testing.T) {
	var e blockEncoder
	rnd := rand.New(rand.NewPCG(3, 4))
	for size := range 300 {
		for kinds := 1; kinds < 260; kinds = kinds*3 + 1 {
			src := make([]byte, size)
			for i := range src {
				src[i] = byte(rnd.IntN(kinds))
			}
			n := roundTrip(t, &e, src, 2*size+20)
			if size > matchMargin && n == 0 {
				t.Fatalf("%d bytes don't fit into twice as many", size)
			}
			for room := n; room > 0 && room > n-20; room-- {
				if m := roundTrip(t, &e, src, room); m > room {
					t.Fatalf("%d bytes in a room of %d", m, room)
				}
			}
		}
	}
	for _, src := range contents() {
		if len(src) <= window {
			roundTrip(t, &e, src, len(src))
		}
	}
	// A match that is as far away as can be.
	far := make([]byte, window)
	for i := range far {
		far[i] = byte(rnd.Uint32())
	}
	copy(far[window-100:], far[:60])
	roundTrip(t, &e, far, 2*window)
}

func FuzzBlock(f *testing.F) {
	for _, c := range contents() {
		if len(c) <= 4096 {
			f.Add(c, uint16(len(c)))
		}
	}
	f.Add([]byte("abcdefghabcdefghabcdefghXabcdefgh123456"), uint16(30))
	f.Fuzz(func(t *testing.T, src []byte, room uint16) {
		var e blockEncoder
		if len(src) <= window {
			roundTrip(t, &e, src, int(room))
		}
	})
}

func BenchmarkBlock(b *testing.B) {
	text := make([]byte, window)
	rnd := rand.New(rand.NewPCG(5, 6))
	for i := 0; i < len(text); {
		i += copy(text[i:], "user:1000:")
		for range 12 {
			if i < len(text) {
				text[i] = "0123456789abcdef"[rnd.IntN(16)]
				i++
			}
		}
	}
	dst := make([]byte, window)
	b.Run("own", func(b *testing.B) {
		var e blockEncoder
		b.SetBytes(window)
		for range b.N {
			e.compress(dst, text)
		}
	})
	b.Run("library", func(b *testing.B) {
		var c lz4.Compressor
		b.SetBytes(window)
		for range b.N {
			if _, err := c.CompressBlock(text, dst); err != nil {
				b.Fatal(err)
			}
		}
	})
}
