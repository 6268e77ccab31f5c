package seal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sort"
	"sync"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
)

// A ReaderAt gives any range of the raw bytes of a sealed part. It reads no more of the object than the frames that hold
// the range, and once the seek table; of an encrypted part the header, and pieces of 64 KiB.
//
// It can't prove the hash of the whole. Each frame is held against its checksum, which finds what went wrong by accident, and each piece of an
// encrypted part against its authentication, which finds all that was changed.
//
// It is safe for use by several goroutines, which wait for one another.
type ReaderAt struct {
	src    io.ReaderAt // without encryption
	size   int64       // of the raw bytes
	frames []frame     // nil if it isn't compressed
	zstd   *zstd.Decoder

	mu     sync.Mutex
	at     int    // the frame that raw holds; -1: none
	raw    []byte // of that frame
	stored []byte
}

// A frame is where one begins.
type frame struct {
	stored, raw int64
}

// maxFrame is how many raw bytes a frame may hold, those of other writers too.
const maxFrame = 8 << 20

// NewReaderAt returns a ReaderAt of the part that src holds, whose Sum is want; of its hashes none is needed. It reads the seek table at
// once, and holds 16 bytes for each frame of it, and two frames. The identities are as for NewReader.
//
// The error wraps errors.ErrUnsupported if nothing of the part can be proved without reading all of it: a part of an older backup without a
// seek table, or one that is neither compressed nor encrypted.
func NewReaderAt(src io.ReaderAt, want Sum, identities []age.Identity) (*ReaderAt, error) {
	if err := want.known(identities); err != nil {
		return nil, err
	}
	if want.Encryption == "" && want.Compression == None {
		return nil, fmt.Errorf("a range of a part that is neither compressed nor encrypted: %w: nothing but the whole can be proved", errors.ErrUnsupported)
	}
	r := &ReaderAt{src: sourceAt{src}, size: want.RawSize, at: -1}
	inner := want.Size
	if want.Encryption == Age {
		var err error
		if r.src, inner, err = age.DecryptReaderAt(r.src, want.Size, guarded(identities)...); err != nil {
			return nil, openingAt(err)
		}
	}
	if want.Compression == None {
		if inner != want.RawSize {
			return nil, fmt.Errorf("%w: they hold %d bytes instead of %d", ErrMismatch, inner, want.RawSize)
		}
		return r, nil
	}
	var err error
	if r.frames, err = readTable(r.src, inner, want.RawSize); err != nil {
		return nil, openingAt(err)
	}
	r.zstd, err = zstd.NewReader(nil, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderMaxMemory(maxFrame),
		zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("starting zstd: %w", err)
	}
	return r, nil
}

// Size returns how many raw bytes the part has.
func (r *ReaderAt) Size() int64 { return r.size }

// ReadAt reads raw bytes, as io.ReaderAt says. The error wraps ErrMismatch if what holds them was changed; others are those of the source.
func (r *ReaderAt) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("the offset %d is negative", off)
	}
	if off >= r.size {
		return 0, io.EOF
	}
	short := int64(len(p)) > r.size-off
	if short {
		p = p[:r.size-off]
	}
	n, err := r.read(p, off)
	if err != nil {
		return n, openingAt(err)
	}
	if short {
		return n, io.EOF
	}
	return n, nil
}

// read fills p, which ends within the part.
func (r *ReaderAt) read(p []byte, off int64) (int, error) {
	if r.frames == nil {
		n, err := r.src.ReadAt(p, off)
		if n == len(p) {
			err = nil
		}
		return n, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	done := 0
	for done < len(p) {
		// The first that begins behind the offset follows the one that holds it.
		i := sort.Search(len(r.frames), func(i int) bool { return r.frames[i].raw > off }) - 1
		if err := r.load(i); err != nil {
			return done, err
		}
		n := copy(p[done:], r.raw[off-r.frames[i].raw:])
		done, off = done+n, off+int64(n)
	}
	return done, nil
}

// load decompresses a frame, unless it was the last one that was.
func (r *ReaderAt) load(i int) error {
	if i == r.at {
		return nil
	}
	r.at = -1
	from, to := r.frames[i], r.frames[i+1]
	wrong := func(why string) error {
		return fmt.Errorf("%w: frame %d of %d: %s", ErrMismatch, i+1, len(r.frames)-1, why)
	}
	r.stored = room(r.stored, int(to.stored-from.stored))
	if err := readAt(r.src, r.stored, from.stored); err != nil {
		return err
	}
	var head zstd.Header
	if err := head.Decode(r.stored); err != nil {
		return wrong(err.Error())
	}
	if head.Skippable || !head.HasCheckSum {
		return wrong("it has no checksum")
	}
	// It has room for no more than it may make.
	raw, err := r.zstd.DecodeAll(r.stored, room(r.raw, int(to.raw-from.raw))[:0:to.raw-from.raw])
	if err != nil {
		return wrong(err.Error())
	}
	if int64(len(raw)) != to.raw-from.raw {
		return wrong(fmt.Sprintf("it holds %d bytes instead of %d", len(raw), to.raw-from.raw))
	}
	r.raw, r.at = raw, i
	return nil
}

// room returns n bytes, in b if it is large enough.
func room(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}

// tailLen is how much of the end is read first: the whole seek table of parts of up to 4 GB.
const tailLen = 16 << 10

// readTable reads the seek table of a compressed part of size bytes, which holds raw bytes. It returns where the frames begin, and at last
// where they end.
func readTable(src io.ReaderAt, size, raw int64) ([]frame, error) {
	none := fmt.Errorf("a range of a part without a seek table: %w: only its whole can be read", errors.ErrUnsupported)
	if size < tableHeadLen+tableFootLen {
		return nil, none
	}
	tail := make([]byte, min(size, tailLen))
	if err := readAt(src, tail, size-int64(len(tail))); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	foot := tail[len(tail)-tableFootLen:]
	n, descriptor := int64(le.Uint32(foot)), foot[4]
	if le.Uint32(foot[5:]) != tableMagic {
		return nil, none
	}
	wrong := func(format string, args ...any) ([]frame, error) {
		return nil, fmt.Errorf("%w: the seek table: %s", ErrMismatch, fmt.Sprintf(format, args...))
	}
	if descriptor&tableReserved != 0 {
		return wrong("its descriptor is %#x", descriptor)
	}
	entry := int64(8)
	if descriptor&tableChecksums != 0 {
		entry = 12
	}
	length := tableHeadLen + n*entry + tableFootLen
	if length > size {
		return wrong("it has %d frames, which the part has no room for", n)
	}
	if n > raw {
		return wrong("it has %d frames for %d bytes", n, raw)
	}
	table := tail[max(0, int64(len(tail))-length):]
	if int64(len(table)) < length {
		table = make([]byte, length)
		if err := readAt(src, table, size-length); err != nil {
			return nil, err
		}
	}
	if le.Uint32(table) != skippableMagic || int64(le.Uint32(table[4:])) != length-tableHeadLen {
		return wrong("it doesn't begin as one of %d frames", n)
	}
	frames := make([]frame, 1, n+1)
	var at frame
	for i := range n {
		e := table[tableHeadLen+i*entry:]
		stored, holds := int64(le.Uint32(e)), int64(le.Uint32(e[4:]))
		if stored == 0 || stored > 2*maxFrame || holds == 0 || holds > maxFrame {
			return wrong("frame %d of %d has %d bytes for %d", i+1, n, stored, holds)
		}
		at.stored, at.raw = at.stored+stored, at.raw+holds
		frames = append(frames, at)
	}
	if at.stored != size-length || at.raw != raw {
		return wrong("its frames have %d bytes for %d, the part has %d for %d", at.stored, at.raw, size-length, raw)
	}
	return frames, nil
}

// readAt fills p.
func readAt(src io.ReaderAt, p []byte, off int64) error {
	n, err := src.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err == nil || err == io.EOF:
		return fmt.Errorf("%w: %d bytes at %d are missing", ErrMismatch, len(p)-n, off+int64(n))
	}
	return err
}

// sourceAt marks the errors of the source, so that they aren't taken for those of the part.
type sourceAt struct{ src io.ReaderAt }

func (s sourceAt) ReadAt(p []byte, off int64) (int, error) {
	n, err := s.src.ReadAt(p, off)
	if err != nil && err != io.EOF {
		err = &sourceError{err}
	}
	return n, err
}

type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }

// openingAt says what an error of a ReaderAt means.
func openingAt(err error) error {
	var source *sourceError
	if errors.As(err, &source) {
		return source.err
	}
	if errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return opening(err)
}
