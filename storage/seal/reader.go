package seal

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"sync/atomic"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
)

// A Reader gives back the raw bytes of a sealed part.
type Reader struct {
	stored  *hashReader
	in      io.Reader     // without encryption
	zstd    *zstd.Decoder // nil for None
	want    Sum
	rawHash hash.Hash // nil if the raw hash isn't known
	raw     int64
	err     error
}

// maxWindow is how far back a part may refer, for those of other writers too.
const maxWindow = 8 << 20

// NewReader returns a Reader of the part that src holds, whose Sum is want. It holds at most a few MiB whatever the bytes
// say. The caller closes it, and src after that.
//
// Of the two hashes of want one may be empty: then the other alone proves the bytes. The identities are those that may open
// the part if it is encrypted; each is tried. Without any the error wraps ErrNoIdentity.
func NewReader(src io.Reader, want Sum, identities []age.Identity) (*Reader, error) {
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
	if err := want.known(identities); err != nil {
		return nil, err
	}
	r.in = r.stored
	if want.Encryption == Age {
		r.in = &opener{src: bufio.NewReaderSize(r.stored, 256<<10), identities: identities}
	}
	if want.Compression == None {
		return r, nil
	}
	var err error
	r.zstd, err = zstd.NewReader(bufio.NewReaderSize(r.in, 256<<10), zstd.WithDecoderMaxWindow(maxWindow),
		zstd.WithDecoderMaxMemory(1<<62), zstd.WithDecoderLowmem(true), zstd.WithDecoderConcurrency(2))
	if err != nil {
		return nil, fmt.Errorf("starting zstd: %w", err)
	}
	return r, nil
}

// known returns what stands in the way of opening a part.
func (s *Sum) known(identities []age.Identity) error {
	if s.Compression != None && s.Compression != Zstd {
		return fmt.Errorf("unknown compression %q: was this backup made by a newer Amber?", s.Compression)
	}
	if s.Encryption != Age && s.Encryption != "" {
		return fmt.Errorf("unknown encryption %q: was this backup made by a newer Amber?", s.Encryption)
	}
	if s.Encryption == Age && len(identities) == 0 {
		return fmt.Errorf("%w: none was given", ErrNoIdentity)
	}
	return nil
}

// Read reads raw bytes. The error is io.EOF only if all stored and all raw bytes were the expected ones. It wraps ErrMismatch if they
// were not, and ErrNoIdentity if they are, as far as that shows without opening them, but no identity opens them; other errors are those
// of the source and of identities.
func (r *Reader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	var n int
	var err error
	if r.zstd != nil {
		n, err = r.zstd.Read(p)
	} else {
		n, err = r.in.Read(p)
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
	case err != nil:
		if source := r.stored.err.Load(); source != nil {
			err = *source
		} else if err = opening(err); errors.Is(err, ErrNoIdentity) {
			err = r.foreign(err)
		} else if errors.Is(err, ErrMismatch) {
			err = fmt.Errorf("%w, at stored byte %d of %d", err, r.stored.n.Load(), r.want.Size)
		}
	}
	if err != nil {
		r.err = err
	}
	return n, err
}

// foreign tells a part that is for others from one whose recipients were changed: only of the first the hash is right.
func (r *Reader) foreign(err error) error {
	if r.zstd != nil {
		r.zstd.Close() // it reads no more
	}
	if r.stored.hash == nil {
		return err
	}
	if changed := r.checkStored(); changed != nil {
		return changed
	}
	return err
}

// check compares what was read with what was expected; it returns io.EOF if all is equal.
func (r *Reader) check() error {
	if err := r.checkStored(); err != nil {
		return err
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

// checkStored reads what nobody asked for, and compares the stored bytes.
func (r *Reader) checkStored() error {
	if _, err := io.Copy(io.Discard, r.stored); err != nil {
		return err
	}
	return r.stored.check(r.want)
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

// check compares the stored bytes, which were all read.
func (r *hashReader) check(want Sum) error {
	if n := r.n.Load(); n != want.Size {
		return fmt.Errorf("%w: %d stored bytes instead of %d", ErrMismatch, n, want.Size)
	}
	if r.hash == nil {
		return nil
	}
	if got := hex.EncodeToString(r.hash.Sum(nil)); got != want.SHA256 {
		return fmt.Errorf("%w: SHA-256 of the stored bytes is %s instead of %s", ErrMismatch, got, want.SHA256)
	}
	return nil
}

// Check reads the whole of src and compares the stored bytes with want, without decompressing or decrypting them. It reads ahead of what it
// hashes, by at most 1 MiB, in a goroutine that has ended when it returns.
func Check(src io.Reader, want Sum) error {
	const pieces = 4
	free, read := make(chan []byte, pieces), make(chan piece, pieces)
	for range pieces {
		free <- make([]byte, 256<<10)
	}
	go func() {
		defer close(read)
		for buf := range free {
			p := fill(src, buf)
			read <- p // never waits
			if p.err != nil {
				return
			}
		}
	}()
	r := &hashReader{hash: sha256.New()}
	for p := range read {
		r.hash.Write(p.data)
		err := p.err
		if r.n.Add(int64(len(p.data))) > want.Size {
			err = fmt.Errorf("%w: more than the expected %d stored bytes", ErrMismatch, want.Size)
		}
		switch {
		case err == nil:
			free <- p.data[:cap(p.data)]
			continue
		case err == io.EOF:
			return r.check(want)
		}
		close(free)
		for range read { // until the goroutine has ended
		}
		return err
	}
	return nil // not reached: the last piece has an error
}

// A piece is what was read at once, and how that ended; nil if there is more.
type piece struct {
	data []byte
	err  error
}

// fill reads until buf is full or src has ended.
func fill(src io.Reader, buf []byte) piece {
	n := 0
	for empty := 0; n < len(buf); {
		k, err := src.Read(buf[n:])
		n += k
		if err != nil {
			return piece{buf[:n], err}
		}
		if empty++; k > 0 {
			empty = 0
		}
		if empty == 100 {
			return piece{buf[:n], io.ErrNoProgress}
		}
	}
	return piece{buf[:n], nil}
}

// opener decrypts. The header is read with the first bytes that are asked for, so that nothing waits for the source before.
type opener struct {
	src        io.Reader
	identities []age.Identity
	in         io.Reader
	err        error
}

func (o *opener) Read(p []byte) (int, error) {
	if o.in == nil && o.err == nil {
		o.in, o.err = age.Decrypt(o.src, guarded(o.identities)...)
	}
	if o.err != nil {
		return 0, o.err
	}
	return o.in.Read(p)
}

// guarded marks the errors of identities that ask somebody else, an agent or a key in hardware, so that they aren't taken for
// those of the part. age's own fail only at a part that isn't well.
func guarded(identities []age.Identity) []age.Identity {
	out := make([]age.Identity, len(identities))
	for i, id := range identities {
		switch id.(type) {
		case *age.X25519Identity, *age.HybridIdentity, *age.ScryptIdentity:
			out[i] = id
		default:
			out[i] = guard{id}
		}
	}
	return out
}

type guard struct{ age.Identity }

func (g guard) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	key, err := g.Identity.Unwrap(stanzas)
	if err != nil && !errors.Is(err, age.ErrIncorrectIdentity) {
		err = &identityError{err}
	}
	return key, err
}

// identityError is an identity that couldn't do its work.
type identityError struct{ err error }

func (e *identityError) Error() string { return "an identity failed: " + e.err.Error() }
func (e *identityError) Unwrap() error { return e.err }

// opening says what an error of age or zstd means, of a source that is well.
func opening(err error) error {
	var others *age.NoIdentityMatchError
	var failed *identityError
	switch {
	case errors.As(err, &others):
		return fmt.Errorf("%w: it is encrypted for others (%s)", ErrNoIdentity, short(strings.Join(others.StanzaTypes, ", ")))
	case errors.As(err, &failed):
		return failed
	case errors.Is(err, ErrMismatch):
		return err
	}
	return fmt.Errorf("%w: %s", ErrMismatch, short(err.Error()))
}

// short cuts a text that quotes the part.
func short(text string) string {
	const limit = 200
	if len(text) > limit {
		return text[:limit] + "…"
	}
	return text
}
