package seal_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"

	"github.com/amberkv/amber/storage/seal"
)

// text is what compresses as values do.
func text(n int) []byte {
	random := rand.New(rand.NewPCG(1, 2))
	var b bytes.Buffer
	for b.Len() < n {
		fmt.Fprintf(&b, `{"id":%d,"name":"user-%x","tags":["a%d","b%d"],"score":%f}`, random.IntN(1e9), random.Uint32(), random.IntN(100), random.IntN(1000), random.Float64())
	}
	return b.Bytes()[:n]
}

const frame = 2 << 20 // of raw bytes

// counted counts what is read.
type counted struct {
	*bytes.Reader
	bytes, calls atomic.Int64
}

func (c *counted) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.Reader.ReadAt(p, off)
	c.bytes.Add(int64(n))
	c.calls.Add(1)
	return n, err
}

// TestReaderAt: any range is what reading from the beginning gives, and no more is read than holds it.
func TestReaderAt(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	all := text(2*frame + 12345)
	for _, way := range ways()[1:] {
		for _, n := range []int{0, 1, 100, frame, 2*frame - 1, len(all)} {
			raw := all[:n]
			stored, sum := sealed(t, raw, &way.opts)
			src := &counted{Reader: bytes.NewReader(stored)}
			r, err := seal.NewReaderAt(src, sum, way.identities)
			if err != nil {
				t.Fatalf("%s, %d bytes: %v", way.name, n, err)
			}
			if opened := src.bytes.Load(); opened > 170<<10 {
				t.Errorf("%s, %d bytes: opening read %d of %d", way.name, n, opened, len(stored))
			}
			if r.Size() != int64(n) {
				t.Errorf("%s: Size is %d, want %d", way.name, r.Size(), n)
			}
			for range 8 {
				off := random.IntN(n + 10)
				p := make([]byte, random.IntN([]int{2, 200, 10_000, frame / 2}[random.IntN(4)]))
				before := src.bytes.Load()
				got, err := r.ReadAt(p, int64(off))
				want := raw[min(off, n):min(off+len(p), n)]
				if !bytes.Equal(p[:got], want) {
					t.Fatalf("%s, %d bytes: %d at %d are something else", way.name, n, len(p), off)
				}
				if ended := off >= n || got < len(p); ended != (err == io.EOF) || !ended && err != nil {
					t.Fatalf("%s, %d bytes: %d at %d gave %d, %v", way.name, n, len(p), off, got, err)
				}
				// The frames that hold the range, at most as large as what they hold, and of what is encrypted the rest of a piece on both sides.
				frames := 1
				if len(want) > 0 {
					frames = (off+len(want)-1)/frame - off/frame + 1
				}
				most := frames * frame
				if way.opts.Compression == seal.None {
					most = len(want)
				}
				most += 2*(64<<10+16) + most/1000
				if read := src.bytes.Load() - before; read > int64(most) {
					t.Errorf("%s, %d bytes: %d at %d took %d of the object, at most %d hold them", way.name, n, len(p), off, read, most)
				}
			}
			if got, err := io.ReadAll(io.NewSectionReader(r, 0, r.Size())); err != nil || !bytes.Equal(got, raw) {
				t.Errorf("%s, %d bytes: read in a row it is %d, %v", way.name, n, len(got), err)
			}
			if _, err := r.ReadAt(make([]byte, 1), -1); err == nil || err == io.EOF {
				t.Errorf("%s: a negative offset gave %v", way.name, err)
			}
			if n > 100 {
				continue
			}
			if err := iotest.TestReader(io.NewSectionReader(r, 0, r.Size()), raw); err != nil {
				t.Errorf("%s, %d bytes: %v", way.name, n, err)
			}
		}
	}
}

// TestReaderAtKeepsAFrame: reading in a row reads each frame once.
func TestReaderAtKeepsAFrame(t *testing.T) {
	raw := text(2*frame + 5000)
	stored, sum := sealed(t, raw, nil)
	src := &counted{Reader: bytes.NewReader(stored)}
	r := must(seal.NewReaderAt(src, sum, nil))
	before := src.calls.Load()
	for off := 0; off < len(raw); off += 10_000 {
		if _, err := r.ReadAt(make([]byte, 10_000), int64(off)); err != nil && err != io.EOF {
			t.Fatal(err)
		}
	}
	if calls := src.calls.Load() - before; calls != 3 {
		t.Errorf("3 frames took %d reads", calls)
	}
}

// TestReaderAtLargeTable: a seek table that doesn't fit into the first look at the end.
func TestReaderAtLargeTable(t *testing.T) {
	const n = 3000
	var stored bytes.Buffer
	table := make([]byte, 0, 8*n)
	enc := must(zstd.NewWriter(nil, zstd.WithEncoderCRC(true)))
	for i := range n {
		one := enc.EncodeAll([]byte{byte(i), byte(i >> 8)}, nil)
		stored.Write(one)
		table = binary.LittleEndian.AppendUint32(table, uint32(len(one)))
		table = binary.LittleEndian.AppendUint32(table, 2)
		table = binary.LittleEndian.AppendUint32(table, 0xDEADBEEF) // a checksum, which the format allows
	}
	le := binary.LittleEndian
	stored.Write(le.AppendUint32(le.AppendUint32(nil, 0x184D2A5E), uint32(len(table)+9)))
	stored.Write(table)
	stored.Write(le.AppendUint32(append(le.AppendUint32(nil, n), 0x80), 0x8F92EAB1))
	r, err := seal.NewReaderAt(bytes.NewReader(stored.Bytes()), seal.Sum{Compression: seal.Zstd, Size: int64(stored.Len()), RawSize: 2 * n}, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := must(io.ReadAll(io.NewSectionReader(r, 0, r.Size())))
	for i := range n {
		if int(le.Uint16(got[2*i:])) != i {
			t.Fatalf("frame %d holds %d", i, le.Uint16(got[2*i:]))
		}
	}
}

// TestReaderAtChanged: a changed byte is refused, or isn't part of what was asked for.
func TestReaderAtChanged(t *testing.T) {
	raw := text(frame + 5000)
	for _, way := range ways()[1:] {
		stored, sum := sealed(t, raw, &way.opts)
		refused := 0
		var places []int
		for i := range 30 {
			places = append(places, len(stored)*i/30, len(stored)-1-i) // the table is at the end
		}
		for _, at := range places {
			changed := bytes.Clone(stored)
			changed[at] ^= 0x41
			r, err := seal.NewReaderAt(bytes.NewReader(changed), sum, way.identities)
			var got []byte
			if err == nil {
				got, err = io.ReadAll(io.NewSectionReader(r, 0, sum.RawSize))
			}
			switch {
			case err == nil && bytes.Equal(got, raw):
			case errors.Is(err, seal.ErrMismatch), errors.Is(err, seal.ErrNoIdentity), errors.Is(err, errors.ErrUnsupported):
				refused++
			default:
				t.Errorf("%s: byte %d changed: %d bytes, %v", way.name, at, len(got), err)
			}
		}
		if refused < len(places)-3 { // a bit or two of the table mean nothing
			t.Errorf("%s: only %d of %d changes were refused", way.name, refused, len(places))
		}
		for _, n := range []int{0, 1, 8, 9, 16, 17, len(stored) / 2, len(stored) - 1} {
			_, err := seal.NewReaderAt(bytes.NewReader(stored[:n]), sum, way.identities)
			if !errors.Is(err, seal.ErrMismatch) {
				t.Errorf("%s: cut to %d bytes: %v", way.name, n, err)
			}
		}
		broken := errors.New("the store broke")
		for _, off := range []int64{0, 100, int64(len(stored)) / 2, int64(len(stored)) - 10} {
			r, err := seal.NewReaderAt(brokenAt{bytes.NewReader(stored), off, broken}, sum, way.identities)
			if err == nil {
				_, err = io.ReadAll(io.NewSectionReader(r, 0, sum.RawSize))
			}
			if !errors.Is(err, broken) || errors.Is(err, seal.ErrMismatch) {
				t.Errorf("%s, broken at %d: %v", way.name, off, err)
			}
		}
	}
}

// brokenAt is a store that fails at one byte.
type brokenAt struct {
	io.ReaderAt
	off int64
	err error
}

func (b brokenAt) ReadAt(p []byte, off int64) (int, error) {
	if off <= b.off && b.off < off+int64(len(p)) {
		return 0, b.err
	}
	return b.ReaderAt.ReadAt(p, off)
}

// TestReaderAtUnsupported: what can't be proved in part isn't read in part.
func TestReaderAtUnsupported(t *testing.T) {
	raw := text(100_000)
	plain, sum := sealed(t, raw, &seal.Options{Compression: seal.None})
	if _, err := seal.NewReaderAt(bytes.NewReader(plain), sum, nil); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("neither compressed nor encrypted: %v", err)
	}
	old, sum := oldPart(t, raw)
	if _, err := seal.NewReaderAt(bytes.NewReader(old), sum, nil); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("no seek table: %v", err)
	}
	// A frame that has no checksum, as the older ones, but with a table.
	table := binary.LittleEndian.AppendUint32(nil, 0x184D2A5E)
	for _, n := range []uint32{17, uint32(len(old)), uint32(len(raw)), 1} {
		table = binary.LittleEndian.AppendUint32(table, n)
	}
	table = binary.LittleEndian.AppendUint32(append(table, 0), 0x8F92EAB1)
	sum.Size += int64(len(table))
	r, err := seal.NewReaderAt(bytes.NewReader(append(old, table...)), sum, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.ReadAt(make([]byte, 10), 0); !errors.Is(err, seal.ErrMismatch) {
		t.Errorf("a frame without checksum: %v", err)
	}
}

// TestReaderAtOfAnotherWriter reads what zstd-seekable-format-go 0.10.0 wrote: three frames, with checksums in the table. That library
// reads what a Writer writes, too, and zstd 1.5.4 lists and tests it; both were tried by hand.
func TestReaderAtOfAnotherWriter(t *testing.T) {
	stored := must(os.ReadFile("testdata/zstd-seekable-format-go-0.10.0.zst"))
	var want []byte
	for i := range 3 {
		want = append(want, bytes.Repeat(fmt.Appendf(nil, "frame %d of another writer\n", i), 20)...)
	}
	r, err := seal.NewReaderAt(bytes.NewReader(stored), seal.Sum{Compression: seal.Zstd, Size: int64(len(stored)), RawSize: int64(len(want))}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(io.NewSectionReader(r, 0, r.Size())); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
}

// oldPart is sealed as Amber did before there were frames.
func oldPart(t *testing.T, raw []byte) ([]byte, seal.Sum) {
	t.Helper()
	var out bytes.Buffer
	w := must(zstd.NewWriter(&out, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(1<<20), zstd.WithEncoderConcurrency(2), zstd.WithEncoderCRC(false)))
	if _, err := w.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), seal.Sum{Compression: seal.Zstd, Size: int64(out.Len()), RawSize: int64(len(raw)), SHA256: hashOf(out.Bytes()), RawSHA256: hashOf(raw)}
}

// TestOlderParts: parts of before are read as any other, and any decompressor reads those of now.
func TestOlderParts(t *testing.T) {
	for _, n := range []int{0, 1, frame, frame + 1} {
		raw := text(n)
		old, sum := oldPart(t, raw)
		if got, err := unseal(bytes.NewReader(old), sum); err != nil || !bytes.Equal(got, raw) {
			t.Errorf("%d bytes of before: %d, %v", n, len(got), err)
		}
		stored, _ := sealed(t, raw, nil)
		got, err := io.ReadAll(must(zstd.NewReader(bytes.NewReader(stored))))
		if err != nil || !bytes.Equal(got, raw) {
			t.Errorf("%d bytes of now: %d, %v", n, len(got), err)
		}
	}
}

// FuzzSeekTable: whatever the end of a part says, nothing panics, no more is held than the bytes account for, and what is read
// has the size that is expected.
func FuzzSeekTable(f *testing.F) {
	raw := text(3000)
	stored, sum := sealed(f, raw, nil)
	f.Add(stored, sum.RawSize)
	f.Add(stored[len(stored)-25:], int64(3000))
	f.Add(stored[len(stored)-9:], int64(0))
	empty, _ := sealed(f, nil, nil)
	f.Add(empty, int64(0))
	many := binary.LittleEndian.AppendUint32([]byte{0x5E, 0x2A, 0x4D, 0x18, 0xF9, 0xFF, 0xFF, 0xFF}, 0x1FFFFFFE)
	f.Add(append(many, 0, 0xB1, 0xEA, 0x92, 0x8F), int64(1)<<40)
	f.Fuzz(func(t *testing.T, part []byte, size int64) {
		src := &counted{Reader: bytes.NewReader(part)}
		r, err := seal.NewReaderAt(src, seal.Sum{Compression: seal.Zstd, Size: int64(len(part)), RawSize: size}, nil)
		if err != nil {
			if !errors.Is(err, seal.ErrMismatch) && !errors.Is(err, errors.ErrUnsupported) {
				t.Fatalf("NewReaderAt: %v", err)
			}
			return
		}
		if size < 0 || size > int64(len(part))*(8<<20) || r.Size() != size {
			t.Fatalf("%d bytes of a part say that they are %d", len(part), size)
		}
		got, err := io.Copy(io.Discard, io.NewSectionReader(r, 0, min(size, 32<<20)))
		if err == nil && got != min(size, 32<<20) || err != nil && !errors.Is(err, seal.ErrMismatch) {
			t.Fatalf("%d bytes of %d, %v", got, size, err)
		}
	})
}
