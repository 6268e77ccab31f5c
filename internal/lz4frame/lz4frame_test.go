package lz4frame

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/pierrec/lz4/v4"
)

// contents are texts that compress well, badly and not at all, with lengths around the sizes of blocks.
func contents() [][]byte {
	rnd := rand.New(rand.NewPCG(1, 2))
	var all [][]byte
	for _, n := range []int{1, 2, 13, 17, 255, 256, 4096, window - 1, window, window + 1, 3*window + 7, 300000} {
		zero, noise, text := make([]byte, n), make([]byte, n), make([]byte, n)
		for i := range n {
			noise[i] = byte(rnd.Uint32())
			text[i] = "key:field:value "[rnd.Uint32()%16&^3]
		}
		all = append(all, zero, noise, text)
	}
	return all
}

// TestEncoder lets the library's own reader read what the encoder writes.
func TestEncoder(t *testing.T) {
	var e Encoder
	for _, want := range contents() {
		frame := e.Append([]byte("before"), want)[len("before"):]
		got, err := io.ReadAll(lz4.NewReader(bytes.NewReader(frame)))
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d bytes: the library reads %d bytes, %v", len(want), len(got), err)
		}
		if got = decode(t, frame); !bytes.Equal(got, want) {
			t.Fatalf("%d bytes: they come back different", len(want))
		}
	}
	if frame := e.Append(nil, nil); len(decode(t, frame)) != 0 {
		t.Error("an empty frame isn't")
	}
}

func decode(t *testing.T, frame []byte) []byte {
	t.Helper()
	n, err := Size(frame)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, n)
	if err := Decode(got, frame); err != nil {
		t.Fatal(err)
	}
	return got
}

// TestDecode reads frames of every kind that the library writes: all block sizes, linked or not, with and without checksums.
func TestDecode(t *testing.T) {
	for _, want := range contents() {
		for _, size := range []lz4.BlockSize{lz4.Block64Kb, lz4.Block256Kb, lz4.Block4Mb} {
			for sums := range 4 {
				var b bytes.Buffer
				w := lz4.NewWriter(&b)
				err := w.Apply(lz4.BlockSizeOption(size), lz4.SizeOption(uint64(len(want))),
					lz4.BlockChecksumOption(sums&1 != 0), lz4.ChecksumOption(sums&2 != 0), lz4.ConcurrencyOption(1))
				if err == nil {
					_, err = w.Write(want)
				}
				if err == nil {
					err = w.Close()
				}
				if err != nil {
					t.Fatal(err)
				}
				frame := b.Bytes()
				if got := decode(t, frame); !bytes.Equal(got, want) {
					t.Fatalf("%d bytes, block size %d, checksums %d: they come back different", len(want), size, sums)
				}
				if sums == 3 && len(want) > 100 {
					frame[len(frame)-20] ^= 1
					if Decode(make([]byte, len(want)), frame) == nil {
						t.Error("a flipped bit goes unnoticed in spite of the checksums")
					}
				}
			}
		}
	}
}

// TestDecodeWrong gives frames that are none.
func TestDecodeWrong(t *testing.T) {
	var e Encoder
	text := bytes.Repeat([]byte("some text, "), 10000)
	good := e.Append(nil, text)
	for n := range good {
		if n < headerSize {
			if _, err := Size(good[:n]); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%d bytes of a frame: %v", n, err)
			}
		}
		if err := Decode(make([]byte, len(text)), good[:n]); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("%d bytes of a frame: %v", n, err)
		}
	}
	if err := Decode(make([]byte, len(text)), append(good[:len(good):len(good)], 0)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a byte behind the end: %v", err)
	}
	if err := Decode(make([]byte, len(text)-1), good); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a destination of the wrong size: %v", err)
	}
	var b bytes.Buffer
	w := lz4.NewWriter(&b)
	if _, err := w.Write(text); err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	if _, err := Size(b.Bytes()); !errors.Is(err, ErrNoSize) {
		t.Errorf("a frame without a size: %v", err)
	}
	bomb := e.Append(nil, make([]byte, 64))
	for i := 6; i < 14; i++ {
		bomb[i] = 0xff
	}
	bomb[14] = byte(xxh32(bomb[4:14]) >> 8)
	if _, err := Size(bomb); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a frame that claims 2^64-1 bytes: %v", err)
	}
}

// FuzzDecode compares the decoder with the library's reader, which is its reference: what one takes, the other takes, and reads the same.
func FuzzDecode(f *testing.F) {
	var e Encoder
	for _, c := range contents() {
		if len(c) < 5000 {
			f.Add(e.Append(nil, c))
		}
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		n, err := Size(frame)
		if err != nil || n > 1<<20 {
			return
		}
		got := make([]byte, n)
		if Decode(got, frame) != nil {
			return
		}
		want, err := io.ReadAll(lz4.NewReader(bytes.NewReader(frame)))
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("decoded to %d bytes; the library reads %d, %v", len(got), len(want), err)
		}
		if again := e.Append(nil, got); !bytes.Equal(decode(t, again), got) {
			t.Fatal("a round trip changes the content")
		}
	})
}
