// Package seal turns the bytes of a part into what a store keeps, and back: compressed, and hashed on both sides.
//
// A [Writer] compresses what it is given and hashes what comes out. A [Reader] undoes it and holds the stored bytes and
// the raw ones against what is known of them, so that no reader of a part can mistake a changed, cut or foreign object for
// it: Read returns io.EOF only when everything was equal.
package seal

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
)

// ErrMismatch is wrapped by the error of a Reader whose bytes are not the expected ones.
var ErrMismatch = errors.New("stored bytes are not what was sealed")

// The ways to compress a part.
const (
	None = "none"
	Zstd = "zstd"
)

// window bounds what compressing and decompressing a part can refer back to, and with it the memory of both. Larger ones
// gain next to nothing on snapshots, whose values are small.
const window = 1 << 20

// A Sum is what is known of a sealed part.
type Sum struct {
	Compression string // None or Zstd
	Size        int64  // in bytes, as stored
	SHA256      string // of the stored bytes, 64 lower-case hexadecimal digits
	RawSize     int64  // in bytes, before compression
	RawSHA256   string // of the raw bytes; of the two hashes a Reader checks those that are known, at least one
}

// A Writer seals the bytes of one part.
type Writer struct {
	dst         *hashWriter
	buf         *bufio.Writer
	zstd        *zstd.Encoder // nil for None
	compression string
	raw         int64
}

// NewWriter returns a Writer that writes the sealed bytes to dst, in pieces of up to 256 KiB. The caller closes it, and
// dst after that.
func NewWriter(dst io.Writer, compression string) (*Writer, error) {
	h := &hashWriter{dst: dst, hash: sha256.New()}
	w := &Writer{dst: h, buf: bufio.NewWriterSize(h, 256<<10), compression: compression}
	switch compression {
	case None:
	case Zstd:
		var err error
		// Two goroutines: one finds matches while the other writes blocks out. No checksum of zstd's own: the hashes of both
		// sides say more.
		w.zstd, err = zstd.NewWriter(w.buf, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(window),
			zstd.WithEncoderConcurrency(2), zstd.WithEncoderCRC(false))
		if err != nil {
			return nil, fmt.Errorf("starting zstd: %w", err)
		}
	default:
		return nil, fmt.Errorf("unknown compression %q: it is %q or %q", compression, None, Zstd)
	}
	return w, nil
}

// Write seals p.
func (w *Writer) Write(p []byte) (int, error) {
	w.raw += int64(len(p))
	if w.zstd != nil {
		return w.zstd.Write(p)
	}
	return w.buf.Write(p)
}

// Close writes out what is pending. It doesn't close the destination. A Writer that is given up is closed too.
func (w *Writer) Close() error {
	if w.zstd != nil {
		if err := w.zstd.Close(); err != nil {
			return err
		}
	}
	return w.buf.Flush()
}

// Sum tells, after Close returned nil, what was sealed. RawSHA256 is left empty: who feeds the Writer hashes the raw bytes
// beside it, where that costs no time of its own.
func (w *Writer) Sum() Sum {
	return Sum{Compression: w.compression, Size: w.dst.n.Load(), SHA256: hex.EncodeToString(w.dst.hash.Sum(nil)), RawSize: w.raw}
}

// Stored returns how many sealed bytes the destination was given so far.
func (w *Writer) Stored() int64 { return w.dst.n.Load() }

// hashWriter hashes what goes to the destination. The compressor writes from a goroutine of its own.
type hashWriter struct {
	dst  io.Writer
	hash hash.Hash
	n    atomic.Int64
}

func (w *hashWriter) Write(p []byte) (int, error) {
	n, err := w.dst.Write(p)
	w.hash.Write(p[:n])
	w.n.Add(int64(n))
	return n, err
}

// A Reader gives back the raw bytes of a sealed part.
type Reader struct {
	stored  *hashReader
	zstd    *zstd.Decoder // nil for None
	want    Sum
	rawHash hash.Hash // nil if the raw hash isn't known
	raw     int64
	err     error
}

// NewReader returns a Reader of the part that src holds, whose Sum is want. It holds at most a few MiB whatever the bytes
// say. The caller closes it, and src after that.
//
// Of the two hashes of want one may be empty: then the other alone proves the bytes.
func NewReader(src io.Reader, want Sum) (*Reader, error) {
	r := &Reader{stored: &hashReader{src: src, limit: want.Size}, want: want}
	if want.SHA256 != "" {
		r.stored.hash = sha256.New()
	}
	if want.RawSHA256 != "" {
		r.rawHash = sha256.New()
	}
	if r.stored.hash == nil && r.rawHash == nil {
		return nil, errors.New("no hash of the part is known, so that it can't be proved")
	}
	switch want.Compression {
	case None:
	case Zstd:
		var err error
		r.zstd, err = zstd.NewReader(bufio.NewReaderSize(r.stored, 256<<10), zstd.WithDecoderMaxWindow(8<<20),
			zstd.WithDecoderMaxMemory(1<<62), zstd.WithDecoderLowmem(true), zstd.WithDecoderConcurrency(2))
		if err != nil {
			return nil, fmt.Errorf("starting zstd: %w", err)
		}
	default:
		return nil, fmt.Errorf("unknown compression %q: was this backup made by a newer Amber?", want.Compression)
	}
	return r, nil
}

// Read reads raw bytes. The error is io.EOF only if all stored and all raw bytes were the expected ones. It wraps ErrMismatch if they
// were not; other errors are those of the source.
func (r *Reader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	var n int
	var err error
	if r.zstd != nil {
		n, err = r.zstd.Read(p)
	} else {
		n, err = r.stored.Read(p)
	}
	r.raw += int64(n)
	if r.rawHash != nil {
		r.rawHash.Write(p[:n])
	}
	switch {
	case r.raw > r.want.RawSize:
		err = fmt.Errorf("%w: they expand to more than the expected %d bytes", ErrMismatch, r.want.RawSize)
	case err == io.EOF:
		err = r.check()
	case err != nil && r.stored.err.Load() == nil:
		// The source is well, so what it gave doesn't decompress.
		err = fmt.Errorf("%w: %w, at stored byte %d of %d", ErrMismatch, err, r.stored.n.Load(), r.want.Size)
	}
	if err != nil {
		r.err = err
	}
	return n, err
}

// check compares what was read with what was expected; it returns io.EOF if all is equal.
func (r *Reader) check() error {
	// What the decompressor didn't ask for counts as well.
	if _, err := io.Copy(io.Discard, r.stored); err != nil {
		return err
	}
	if n := r.stored.n.Load(); n != r.want.Size {
		return fmt.Errorf("%w: %d stored bytes instead of %d", ErrMismatch, n, r.want.Size)
	}
	if r.stored.hash != nil {
		if got := hex.EncodeToString(r.stored.hash.Sum(nil)); got != r.want.SHA256 {
			return fmt.Errorf("%w: SHA-256 of the stored bytes is %s instead of %s", ErrMismatch, got, r.want.SHA256)
		}
	}
	if r.raw != r.want.RawSize {
		return fmt.Errorf("%w: they expand to %d bytes instead of %d", ErrMismatch, r.raw, r.want.RawSize)
	}
	if r.rawHash != nil {
		if got := hex.EncodeToString(r.rawHash.Sum(nil)); got != r.want.RawSHA256 {
			return fmt.Errorf("%w: SHA-256 of the raw bytes is %s instead of %s", ErrMismatch, got, r.want.RawSHA256)
		}
	}
	return io.EOF
}

// Stored returns how many stored bytes were read so far.
func (r *Reader) Stored() int64 { return r.stored.n.Load() }

// Close releases the decompressor. It doesn't close the source.
func (r *Reader) Close() error {
	if r.zstd != nil {
		r.zstd.Close()
	}
	if r.err == nil {
		r.err = errors.New("sealed part was closed")
	}
	return nil
}

// hashReader hashes what goes through it and stops an object that is longer than it should be. The decompressor reads it
// from a goroutine of its own, so what others look at is atomic.
type hashReader struct {
	src   io.Reader
	hash  hash.Hash // nil if it isn't known
	n     atomic.Int64
	limit int64
	err   atomic.Pointer[error] // of the source, other than io.EOF
}

func (r *hashReader) Read(p []byte) (int, error) {
	if err := r.err.Load(); err != nil {
		return 0, *err
	}
	n, err := r.src.Read(p)
	if r.hash != nil {
		r.hash.Write(p[:n])
	}
	if r.n.Add(int64(n)) > r.limit {
		err = fmt.Errorf("%w: more than the expected %d stored bytes", ErrMismatch, r.limit)
	}
	if err != nil && err != io.EOF {
		r.err.Store(&err)
	}
	return n, err
}

// Check reads the whole of src and compares the stored bytes with want, without decompressing them.
func Check(src io.Reader, want Sum) error {
	r := &hashReader{src: src, hash: sha256.New(), limit: want.Size}
	// The bare io.Discard would read in its own small pieces.
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r, make([]byte, 256<<10)); err != nil {
		return err
	}
	if n := r.n.Load(); n != want.Size {
		return fmt.Errorf("%w: %d stored bytes instead of %d", ErrMismatch, n, want.Size)
	}
	if got := hex.EncodeToString(r.hash.Sum(nil)); got != want.SHA256 {
		return fmt.Errorf("%w: SHA-256 of the stored bytes is %s instead of %s", ErrMismatch, got, want.SHA256)
	}
	return nil
}
