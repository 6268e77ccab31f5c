package seal_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"testing"
	"testing/iotest"

	"filippo.io/age"

	"github.com/amberkv/amber/storage/seal"
)

// data is half compressible and half not.
func data(n int) []byte {
	random := rand.NewChaCha8([32]byte{1})
	p := make([]byte, n)
	random.Read(p[:n/2])
	for i := n / 2; i < n; i++ {
		p[i] = byte(i % 7)
	}
	return p
}

// key opens what the tests seal, and stranger doesn't.
var (
	key      = must(age.GenerateX25519Identity())
	stranger = must(age.GenerateX25519Identity())
)

// A way is one to seal.
type way struct {
	name       string
	opts       seal.Options
	identities []age.Identity
}

func ways() []way {
	to, with := []age.Recipient{key.Recipient()}, []age.Identity{key}
	return []way{
		{"none", seal.Options{Compression: seal.None}, nil},
		{"zstd", seal.Options{Compression: seal.Zstd}, nil},
		{"none, age", seal.Options{Compression: seal.None, Recipients: to}, with},
		{"zstd, age", seal.Options{Recipients: to}, with},
	}
}

func sealed(t testing.TB, raw []byte, opts *seal.Options) ([]byte, seal.Sum) {
	t.Helper()
	var out bytes.Buffer
	w, err := seal.NewWriter(&out, opts)
	if err != nil {
		t.Fatal(err)
	}
	for p := raw; len(p) > 0; { // in odd pieces
		n := min(len(p), 1237)
		if _, err := w.Write(p[:n]); err != nil {
			t.Fatal(err)
		}
		p = p[n:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	sum := w.Sum()
	sum.RawSHA256 = hashOf(raw)
	if stored := hashOf(out.Bytes()); sum.SHA256 != stored {
		t.Errorf("Sum says the stored bytes hash to %s, they hash to %s", sum.SHA256, stored)
	}
	if sum.Size != int64(out.Len()) || sum.RawSize != int64(len(raw)) || w.Stored() != sum.Size {
		t.Errorf("Sum says %d stored bytes of %d raw, it is %d of %d", sum.Size, sum.RawSize, out.Len(), len(raw))
	}
	return out.Bytes(), sum
}

func hashOf(p []byte) string {
	sum := sha256.Sum256(p)
	return hex.EncodeToString(sum[:])
}

func unseal(src io.Reader, sum seal.Sum, identities ...age.Identity) ([]byte, error) {
	r, err := seal.NewReader(src, sum, identities)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func TestRoundTrip(t *testing.T) {
	for _, way := range ways() {
		for _, n := range []int{0, 1, 100, 1 << 20, 5<<20 + 3} {
			raw := data(n)
			stored, sum := sealed(t, raw, &way.opts)
			if err := seal.Check(bytes.NewReader(stored), sum); err != nil {
				t.Errorf("%s, %d bytes: Check: %v", way.name, n, err)
			}
			for name, src := range map[string]io.Reader{
				"whole": bytes.NewReader(stored), "halves": iotest.HalfReader(bytes.NewReader(stored)),
				"error with data": iotest.DataErrReader(bytes.NewReader(stored)),
			} {
				got, err := unseal(src, sum, way.identities...)
				if err != nil || !bytes.Equal(got, raw) {
					t.Errorf("%s, %d bytes, %s: got %d bytes back, error %v", way.name, n, name, len(got), err)
				}
			}
		}
	}
}

// Every single changed bit, every cut and every addition is refused, and none of it is taken for an error of the store.
func TestChangedBytes(t *testing.T) {
	for _, way := range ways() {
		stored, sum := sealed(t, data(300), &way.opts)
		step := 1
		if way.identities != nil {
			step = 7 // every byte, and every bit of some
		}
		refused := func(what string, at int, changed []byte) {
			t.Helper()
			if _, err := unseal(bytes.NewReader(changed), sum, way.identities...); !errors.Is(err, seal.ErrMismatch) {
				t.Errorf("%s, %s at %d: Reader returned %v", way.name, what, at, err)
			}
			if err := seal.Check(bytes.NewReader(changed), sum); !errors.Is(err, seal.ErrMismatch) {
				t.Errorf("%s, %s at %d: Check returned %v", way.name, what, at, err)
			}
		}
		for bit := 0; bit < len(stored)*8; bit += step {
			changed := bytes.Clone(stored)
			changed[bit/8] ^= 1 << (bit % 8)
			refused("bit changed", bit, changed)
		}
		for n := range stored {
			refused("cut", n, stored[:n])
		}
		refused("byte added", len(stored), append(bytes.Clone(stored), 0))
		refused("doubled", len(stored), append(bytes.Clone(stored), stored...))
	}
}

func TestWrongSum(t *testing.T) {
	stored, sum := sealed(t, data(6000), nil)
	for name, change := range map[string]func(*seal.Sum){
		"stored size, smaller": func(s *seal.Sum) { s.Size-- },
		"stored size, larger":  func(s *seal.Sum) { s.Size++ },
		"stored hash":          func(s *seal.Sum) { s.SHA256 = s.RawSHA256 },
		"raw size, smaller":    func(s *seal.Sum) { s.RawSize-- },
		"raw size, larger":     func(s *seal.Sum) { s.RawSize++ },
		"raw hash":             func(s *seal.Sum) { s.RawSHA256 = s.SHA256 },
	} {
		wrong := sum
		change(&wrong)
		if _, err := unseal(bytes.NewReader(stored), wrong); !errors.Is(err, seal.ErrMismatch) {
			t.Errorf("%s: Reader returned %v", name, err)
		}
	}
	if _, err := seal.NewReader(nil, seal.Sum{Compression: "lzma", SHA256: sum.SHA256}, nil); err == nil {
		t.Error("NewReader took an unknown compression")
	}
	if _, err := seal.NewReader(nil, seal.Sum{Compression: seal.Zstd, Encryption: "rot13", SHA256: sum.SHA256}, nil); err == nil {
		t.Error("NewReader took an unknown encryption")
	}
}

// An error of the store is passed on as what it is: the backup may be good.
func TestStoreError(t *testing.T) {
	broken := errors.New("the store broke")
	for _, way := range ways() {
		stored, sum := sealed(t, data(60000), &way.opts)
		for _, n := range []int{0, 1, len(stored) / 2, len(stored) - 1, len(stored)} {
			src := io.MultiReader(bytes.NewReader(stored[:n]), iotest.ErrReader(broken))
			if _, err := unseal(src, sum, way.identities...); !errors.Is(err, broken) || errors.Is(err, seal.ErrMismatch) {
				t.Errorf("%s, broken at %d: Reader returned %v", way.name, n, err)
			}
			src = io.MultiReader(bytes.NewReader(stored[:n]), iotest.ErrReader(broken))
			if err := seal.Check(src, sum); !errors.Is(err, broken) || errors.Is(err, seal.ErrMismatch) {
				t.Errorf("%s, broken at %d: Check returned %v", way.name, n, err)
			}
		}
	}
}

func TestWriterError(t *testing.T) {
	broken := errors.New("disk full")
	for _, way := range ways() {
		w, err := seal.NewWriter(failing{broken}, &way.opts)
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			if _, err = w.Write(data(1 << 20)); err != nil {
				break
			}
		}
		if !errors.Is(err, broken) {
			t.Errorf("%s: Write returned %v", way.name, err)
		}
		if err := w.Close(); !errors.Is(err, broken) {
			t.Errorf("%s: Close returned %v", way.name, err)
		}
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// A few stored bytes that claim to be gigabytes are given up at the size that is expected, in a few MiB of memory.
func TestBomb(t *testing.T) {
	var out bytes.Buffer
	w, err := seal.NewWriter(&out, nil)
	if err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, 1<<20)
	for range 1 << 10 {
		w.Write(zeros)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	sum := w.Sum()
	sum.RawSize = 1000
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	n, err := io.Copy(io.Discard, must(seal.NewReader(&out, sum, nil)))
	runtime.ReadMemStats(&after)
	if !errors.Is(err, seal.ErrMismatch) {
		t.Errorf("1 GiB that should have been 1000 bytes gave %v", err)
	}
	if used := after.TotalAlloc - before.TotalAlloc; n > 8<<20 || used > 32<<20 {
		t.Errorf("it was given up after %d bytes and %d of memory", n, used)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func BenchmarkWriter(b *testing.B) {
	for name, raw := range map[string][]byte{"mixed": data(64 << 20), "text": text(64 << 20)} {
		for _, way := range ways()[1:] {
			b.Run(name+"/"+way.name, func(b *testing.B) {
				b.SetBytes(int64(len(raw)))
				b.ReportAllocs()
				for b.Loop() {
					w := must(seal.NewWriter(io.Discard, &way.opts))
					w.Write(raw)
					w.Close()
				}
			})
		}
	}
}

func BenchmarkReader(b *testing.B) {
	for name, raw := range map[string][]byte{"mixed": data(64 << 20), "text": text(64 << 20)} {
		for _, way := range ways()[1:] {
			b.Run(name+"/"+way.name, func(b *testing.B) {
				stored, sum := sealed(b, raw, &way.opts)
				b.SetBytes(int64(len(raw)))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := io.Copy(io.Discard, must(seal.NewReader(bytes.NewReader(stored), sum, way.identities))); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// One hash is enough: whatever is changed of the stored bytes, either the raw ones are the same or it is an error. Without any nothing is
// read.
func TestRawHashAlone(t *testing.T) {
	raw := data(3000)
	for _, way := range ways()[:2] { // of what is encrypted the raw hash isn't known
		stored, sum := sealed(t, raw, &way.opts)
		hash := sha256.Sum256(raw)
		sum.SHA256, sum.RawSHA256 = "", hex.EncodeToString(hash[:])
		if got, err := unseal(bytes.NewReader(stored), sum, way.identities...); err != nil || !bytes.Equal(got, raw) {
			t.Fatalf("%s: %d bytes, %v", way.name, len(got), err)
		}
		for i := range stored {
			changed := bytes.Clone(stored)
			changed[i] ^= 0x10
			if got, err := unseal(bytes.NewReader(changed), sum, way.identities...); !errors.Is(err, seal.ErrMismatch) && !bytes.Equal(got, raw) {
				t.Errorf("%s: byte %d was changed: %v", way.name, i, err)
			}
		}
		if _, err := unseal(bytes.NewReader(stored[:len(stored)-1]), sum, way.identities...); !errors.Is(err, seal.ErrMismatch) {
			t.Errorf("%s: cut: %v", way.name, err)
		}
		sum.RawSHA256 = ""
		if _, err := seal.NewReader(bytes.NewReader(stored), sum, nil); err == nil {
			t.Errorf("%s: a part without any hash is read", way.name)
		}
	}
}
