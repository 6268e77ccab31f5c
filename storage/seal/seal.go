// Package seal turns the bytes of a part into what a store keeps, and back: compressed, encrypted if there is somebody to
// encrypt it for, and hashed.
//
//	raw ▶ zstd ▶ age ▶ SHA-256 ▶ store
//
// A [Writer] seals what it is given and hashes what comes out. A [Reader] undoes it and holds the stored bytes and
// the raw ones against what is known of them, so that no reader of a part can mistake a changed, cut or foreign object for
// it: Read returns io.EOF only when everything was equal. A [ReaderAt] gives any range of the raw bytes, and reads no more of the
// object than that takes.
//
// # Compression
//
// A part is a series of independent zstd frames of 2 MiB of raw bytes, each with zstd's own checksum, and after them a seek table, in
// the format that zstd publishes as "seekable": a skippable frame, so that every zstd tool decompresses the object, as
// if there were no table. Parts of older backups are one frame without checksum and table: a Reader reads them as any other, a ReaderAt doesn't.
//
// # Encryption
//
// Encryption is that of age (age-encryption.org/v1): the key of each part is new, and sealed for every recipient, so that who makes backups
// needs public keys only. "age -d" and "zstd -d" undo by hand what a Writer does. Keys are read by age's own functions:
// age.ParseRecipients and age.ParseIdentities for lists and files of them, age.ParseX25519Recipient and age.ParseHybridRecipient for
// one ("age1…" and "age1pq1…").
//
// For small use there are passphrases: age.NewScryptRecipient and age.NewScryptIdentity. One takes the place of all recipients, and costs about a
// second and 256 MiB of memory for each part, every time it is opened. Who reads a store that others can write to limits that with
// ScryptIdentity.SetMaxWorkFactor(18), which is what age writes.
//
// What is encrypted is proved by age for who has the identity, and by the hash of the stored bytes for everybody.
// Encryption alone doesn't say who made the part: anybody can seal something for a public key. That is what the signature of a
// manifest is for, see catalog.Sign.
package seal

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"sync/atomic"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
)

// Errors of readers, wrapped with what was found.
var (
	// ErrMismatch: the bytes are not the expected ones.
	ErrMismatch = errors.New("stored bytes are not what was sealed")
	// ErrNoIdentity: the bytes are encrypted, and none of the identities at hand opens them.
	ErrNoIdentity = errors.New("no identity opens what is encrypted")
)

// The ways to compress a part.
const (
	None = "none"
	Zstd = "zstd"
)

// Age is the way to encrypt a part: age-encryption.org/v1.
const Age = "age"

// The levels of compression: about those that the zstd tool calls 1, 3, 7 and 11. On snapshots Fastest is nearly as small as the others and
// the only one that keeps up with a server that sends.
const (
	Fastest = "fastest"
	Fast    = "fast"
	Better  = "better"
	Best    = "best"
)

// window bounds what compressing and decompressing a part can refer back to, and with it the memory of both. Larger ones
// gain next to nothing on snapshots, whose values are small.
const window = 1 << 20

// frameSize is how many raw bytes a frame holds, but for the last. Measured on text of which a quarter is left, frames of 1, 2 and 4 MiB are as
// small as one frame of everything, and as quick.
const frameSize = 2 << 20

// Options say how a part is sealed. The zero value compresses and doesn't encrypt.
type Options struct {
	Compression string          // None or Zstd; empty: Zstd
	Level       string          // of Zstd; empty: Fastest
	Recipients  []age.Recipient // who can open it, each alone; none: it is not encrypted
}

// Validate returns what is wrong with the options: names that don't exist, and recipients that can't be used, or not together. A
// passphrase goes with no other recipient, and hybrid recipients, which are safe from quantum computers, with no others.
func (o *Options) Validate() error {
	if err := o.check(); err != nil || len(o.Recipients) == 0 || passphrase(o.Recipients[0]) {
		return err // a passphrase takes a second to try
	}
	if _, err := age.Encrypt(io.Discard, o.Recipients...); err != nil {
		return fmt.Errorf("recipients: %w", err)
	}
	return nil
}

// check is Validate without trying the recipients.
func (o *Options) check() error {
	switch o.Compression {
	case "", Zstd:
	case None:
		if o.Level != "" {
			return fmt.Errorf("level %q: without compression there is no level", o.Level)
		}
	default:
		return fmt.Errorf("unknown compression %q: it is %q or %q", o.Compression, None, Zstd)
	}
	if _, err := o.level(); err != nil {
		return err
	}
	for i, r := range o.Recipients {
		switch {
		case r == nil:
			return fmt.Errorf("recipient %d of %d is nil", i+1, len(o.Recipients))
		case passphrase(r) && len(o.Recipients) > 1:
			return errors.New("a passphrase is the only recipient: whoever else can open the part could forge it")
		}
	}
	return nil
}

// level returns the level as package zstd has it.
func (o *Options) level() (zstd.EncoderLevel, error) {
	switch o.Level {
	case "", Fastest:
		return zstd.SpeedFastest, nil
	case Fast:
		return zstd.SpeedDefault, nil
	case Better:
		return zstd.SpeedBetterCompression, nil
	case Best:
		return zstd.SpeedBestCompression, nil
	}
	return 0, fmt.Errorf("unknown level of compression %q: it is %q, %q, %q or %q", o.Level, Fastest, Fast, Better, Best)
}

// A Sum is what is known of a sealed part.
type Sum struct {
	Compression string // None or Zstd
	Encryption  string // Age, or empty
	Size        int64  // in bytes, as stored
	SHA256      string // of the stored bytes, 64 lower-case hexadecimal digits
	RawSize     int64  // in bytes, before compression
	RawSHA256   string // of the raw bytes; of the two hashes a Reader checks those that are known, at least one
}

// A Writer seals the bytes of one part.
type Writer struct {
	stored *hashWriter
	buf    *bufio.Writer
	age    io.WriteCloser // nil if it isn't encrypted
	out    *countWriter   // what comes out of the compressor
	zstd   *zstd.Encoder  // nil for None
	sum    Sum

	frame  int      // raw bytes in the frame that is being written; 0 if there is none
	before int64    // what came out of the compressor before it
	frames []uint32 // sizes of those that are whole
	closed bool
}

// NewWriter returns a Writer that writes the sealed bytes to dst, in pieces of up to 256 KiB. It holds at most a few MiB, and four bytes for
// each frame. The caller closes it, and dst after that. nil options are the zero ones.
func NewWriter(dst io.Writer, opts *Options) (*Writer, error) {
	if opts == nil {
		opts = &Options{}
	}
	if err := opts.check(); err != nil {
		return nil, err
	}
	h := &hashWriter{dst: dst, hash: sha256.New()}
	w := &Writer{stored: h, buf: bufio.NewWriterSize(h, 256<<10), sum: Sum{Compression: opts.Compression}}
	inner := io.Writer(w.buf)
	if len(opts.Recipients) > 0 {
		w.sum.Encryption = Age
		var err error
		if w.age, err = age.Encrypt(w.buf, opts.Recipients...); err != nil {
			return nil, fmt.Errorf("encrypting: %w", err)
		}
		inner = w.age
	}
	w.out = &countWriter{dst: inner}
	if opts.Compression == None {
		return w, nil
	}
	w.sum.Compression = Zstd
	level, err := opts.level()
	if err != nil {
		return nil, err
	}
	// Two goroutines: one finds matches while the other writes blocks out.
	w.zstd, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithWindowSize(window),
		zstd.WithEncoderConcurrency(2), zstd.WithEncoderCRC(true))
	if err != nil {
		return nil, fmt.Errorf("starting zstd: %w", err)
	}
	return w, nil
}

// Write seals p.
func (w *Writer) Write(p []byte) (int, error) {
	if w.zstd == nil {
		n, err := w.out.Write(p)
		w.sum.RawSize += int64(n)
		return n, err
	}
	total := 0
	for len(p) > 0 {
		if w.frame == 0 {
			w.before = w.out.n
			w.zstd.Reset(w.out)
		}
		n, err := w.zstd.Write(p[:min(len(p), frameSize-w.frame)])
		total, p = total+n, p[n:]
		w.frame += n
		w.sum.RawSize += int64(n)
		if err != nil {
			return total, err
		}
		if w.frame == frameSize {
			if err := w.endFrame(); err != nil {
				return total, err
			}
		}
	}
	return total, nil
}

// endFrame writes out the frame that was begun, if one was.
func (w *Writer) endFrame() error {
	if w.frame == 0 {
		return nil
	}
	w.frame = 0
	if err := w.zstd.Close(); err != nil {
		return err
	}
	w.frames = append(w.frames, uint32(w.out.n-w.before))
	return nil
}

// Close writes out what is pending. It doesn't close the destination. A Writer that is given up is closed too.
func (w *Writer) Close() error {
	if w.closed {
		return nil
	}
	w.closed = true
	if w.zstd != nil {
		last := (w.sum.RawSize-1)%frameSize + 1
		if err := w.endFrame(); err != nil {
			return err
		}
		if _, err := w.out.Write(appendTable(nil, w.frames, uint32(last))); err != nil {
			return err
		}
	}
	if w.age != nil {
		if err := w.age.Close(); err != nil {
			return err
		}
	}
	return w.buf.Flush()
}

// Sum tells, after Close returned nil, what was sealed. RawSHA256 is left empty: who feeds the Writer hashes the raw bytes
// beside it, where that costs no time of its own.
func (w *Writer) Sum() Sum {
	sum := w.sum
	sum.Size, sum.SHA256 = w.stored.n.Load(), hex.EncodeToString(w.stored.hash.Sum(nil))
	return sum
}

// Stored returns how many sealed bytes the destination was given so far.
func (w *Writer) Stored() int64 { return w.stored.n.Load() }

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

// countWriter counts what comes out of the compressor. It is looked at while the compressor is at rest.
type countWriter struct {
	dst io.Writer
	n   int64
}

func (w *countWriter) Write(p []byte) (int, error) {
	n, err := w.dst.Write(p)
	w.n += int64(n)
	return n, err
}

// The seek table, from zstd's contrib/seekable_format/zstd_seekable_compression_format.md, version 0.1.1. All numbers are
// little-endian:
//
//	magic of a skippable frame (4), size of what follows (4)
//	for each frame: its size (4), the size of what it decompresses to (4), and if the descriptor says so a checksum (4)
//	number of frames (4), descriptor (1), magic of the table (4)
const (
	skippableMagic = 0x184D2A5E
	tableMagic     = 0x8F92EAB1
	tableHeadLen   = 8
	tableFootLen   = 9
	tableChecksums = 0x80 // the descriptor's bit for checksums; the five after it are reserved, and the last two mean nothing
	tableReserved  = 0x7C
)

// appendTable appends the seek table for frames of these sizes, which hold frameSize bytes each, but for the last.
func appendTable(b []byte, frames []uint32, last uint32) []byte {
	le := binary.LittleEndian
	b = slices.Grow(b, tableHeadLen+8*len(frames)+tableFootLen)
	b = le.AppendUint32(b, skippableMagic)
	b = le.AppendUint32(b, uint32(8*len(frames)+tableFootLen))
	for i, size := range frames {
		raw := uint32(frameSize)
		if i == len(frames)-1 {
			raw = last
		}
		b = le.AppendUint32(le.AppendUint32(b, size), raw)
	}
	b = le.AppendUint32(b, uint32(len(frames)))
	return le.AppendUint32(append(b, 0), tableMagic)
}
