package crc64

import (
	"bytes"
	stdlib "hash/crc64"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"
)

// update1 is the definition: one bit after the other, no table.
func update1(crc uint64, p []byte) uint64 {
	for _, b := range p {
		crc ^= uint64(b)
		for range 8 {
			if crc&1 != 0 {
				crc = crc>>1 ^ Polynomial
			} else {
				crc >>= 1
			}
		}
	}
	return crc
}

func TestCheckValue(t *testing.T) {
	if got := uint64(0xAD93D23594C935A9); bits.Reverse64(got) != Polynomial {
		t.Errorf("the polynomial is not %#x reversed", got)
	}
	if got := Checksum([]byte("123456789")); got != 0xE9C6D914C4B8D9CA {
		t.Errorf("Checksum = %#x, want 0xe9c6d914c4b8d9ca", got)
	}
	if got := Checksum(nil); got != 0 {
		t.Errorf("Checksum of nothing = %#x, want 0", got)
	}
}

func testData(n int) []byte {
	random := rand.NewChaCha8([32]byte{1})
	p := make([]byte, n)
	random.Read(p)
	return p
}

// ways are the implementations that this build and machine have.
func ways() map[string]func(uint64, []byte) uint64 {
	w := map[string]func(uint64, []byte) uint64{"Update": Update, "tables": updateTables}
	addKernels(w)
	return w
}

func TestEveryLength(t *testing.T) {
	p := testData(2100)
	for name, update := range ways() {
		want := uint64(0x0123456789abcdef)
		for n := range p {
			if got := update(0x0123456789abcdef, p[:n]); got != want {
				t.Fatalf("%s of %d bytes = %#x, want %#x", name, n, got, want)
			}
			want = update1(want, p[n:n+1])
		}
	}
}

func TestEveryAlignment(t *testing.T) {
	p := testData(5000)
	for name, update := range ways() {
		for from := range 300 {
			to := len(p) - from/2
			if got, want := update(uint64(from), p[from:to]), update1(uint64(from), p[from:to]); got != want {
				t.Fatalf("%s of bytes %d to %d = %#x, want %#x", name, from, to, got, want)
			}
		}
	}
}

func TestAgainstStandardLibrary(t *testing.T) {
	table := stdlib.MakeTable(Polynomial)
	p := testData(100_000)
	want := ^stdlib.Update(^uint64(0), table, p)
	for name, update := range ways() {
		if got := update(0, p); got != want {
			t.Errorf("%s = %#x, want %#x", name, got, want)
		}
	}
}

func TestCombine(t *testing.T) {
	p := testData(3000)
	want := Checksum(p)
	for cut := range p {
		if got := Combine(Checksum(p[:cut]), Checksum(p[cut:]), int64(len(p)-cut)); got != want {
			t.Fatalf("Combine at %d = %#x, want %#x", cut, got, want)
		}
	}
	// Lengths that only arithmetic reaches: 2^32 zero bytes are 2^16 times 2^16 of them.
	one := Checksum([]byte{1})
	long := one
	for range 1 << 8 {
		long = Combine(long, 0, 1<<24)
	}
	if got := Combine(one, 0, 1<<32); got != long {
		t.Errorf("Combine with 2^32 zero bytes = %#x, want %#x", got, long)
	}
}

func FuzzCRC64(f *testing.F) {
	for _, n := range []int{0, 1, 15, 16, 127, 128, 255, 256, 1023, 1024, 1100, 4096} {
		f.Add(uint64(n), testData(n), uint(n/3))
	}
	f.Fuzz(func(t *testing.T, crc uint64, p []byte, cut uint) {
		// Inputs grow slowly: repeat them so that the kernels have something to do.
		for _, p := range [][]byte{p, bytes.Repeat(p, 1+2048/(len(p)+1))} {
			cut := int(cut % uint(len(p)+1))
			want := update1(crc, p)
			for name, update := range ways() {
				if got := update(crc, p); got != want {
					t.Fatalf("%s of %d bytes = %#x, want %#x", name, len(p), got, want)
				}
				if got := update(update(crc, p[:cut]), p[cut:]); got != want {
					t.Fatalf("%s of %d and %d bytes = %#x, want %#x", name, cut, len(p)-cut, got, want)
				}
			}
			if got := Combine(update1(crc, p[:cut]), update1(0, p[cut:]), int64(len(p)-cut)); got != want {
				t.Fatalf("Combine of %d and %d bytes = %#x, want %#x", cut, len(p)-cut, got, want)
			}
		}
	})
}

func BenchmarkUpdate(b *testing.B) {
	all := ways()
	names := []string{}
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for _, size := range []struct {
			name string
			n    int
		}{{"300B", 300}, {"4KiB", 4 << 10}, {"128KiB", 128 << 10}} {
			b.Run(name+"/"+size.name, func(b *testing.B) {
				p := testData(size.n)
				b.SetBytes(int64(size.n))
				crc := uint64(0)
				for b.Loop() {
					crc = all[name](crc, p)
				}
			})
		}
	}
}
