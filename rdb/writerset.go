package rdb

import (
	"fmt"
	"io"
	"strconv"

	"github.com/amberkv/amber/internal/lz4frame"
	"github.com/klauspost/compress/zstd"
)

// A block is made of the records that are there once they have blockSize bytes. One that has grown beyond maxPlain is not
// compressed, for it is not kept in memory. Dragonfly's own limits are the same.
const (
	blockSize = 64 << 10
	minBlock  = 256
	maxPlain  = 1 << 20
)

// shards are the files of a set that get keys. Records go to them by blocks, each to the file that has the fewest bytes.
type shards struct {
	streams []stream
	codec   Compression
	lz4     lz4frame.Encoder
	zstd    *zstd.Encoder
	packed  []byte
	inline  bool // a part of the current block was passed on already, as it is
}

// NewSetWriter returns a Writer of a set of Dragonfly's own snapshot format, DFS: the keys go to the shards, which Dragonfly loads at
// the same time, about as many bytes to each, and everything else to the summary. The id is 32 hexadecimal digits in lower
// case, random for each set: by it Dragonfly knows what belongs together. Package dfs writes such sets as files.
//
// Options are those of NewWriter. Values that were read whole, up to 1 MiB, are in compressed blocks; larger ones are not
// compressed, so that Dragonfly before 1.38.2 reads them, too.
func NewSetWriter(summary io.Writer, to []io.Writer, id string, opts *WriterOptions) (*Writer, error) {
	if len(to) == 0 || len(to) > maxShards {
		return nil, fmt.Errorf("rdb: %w number of shards, %d: 1 to %d can be written", ErrUnsupported, len(to), maxShards)
	}
	if !isSetID(id) {
		return nil, fmt.Errorf("rdb: %w id of a set, %q: it has to be 32 hexadecimal digits in lower case", ErrUnsupported, id)
	}
	sum := newOutput(summary)
	w := &Writer{summary: &sum, dialect: Dialect{Dragonfly, dragonflyVersion}, db: -1}
	s := &shards{streams: make([]stream, len(to))}
	if opts != nil {
		s.codec = opts.Compression
	}
	w.out = output{shards: s, buf: make([]byte, 0, maxPlain)}
	w.out.set(opts)
	sum.write(w.dialect.magic())
	sum.aux([]byte("snapshot-id"), []byte(id))
	sum.aux([]byte("shard-count"), strconv.AppendInt(nil, int64(len(to)), 10))
	for i := range to {
		s.streams[i].w = to[i]
		head := newOutput(io.Discard)
		head.write(w.dialect.magic())
		head.aux([]byte("snapshot-id"), []byte(id))
		head.aux([]byte("shard-id"), strconv.AppendInt(nil, int64(i), 10))
		w.out.to = &s.streams[i]
		w.out.pass(head.buf)
	}
	w.out.to = s.emptiest()
	return w, w.fail()
}

// maxShards is how many shard files the names of a set have room for: four digits.
const maxShards = 10000

func isSetID(id string) bool {
	for _, c := range []byte(id) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return len(id) == 32
}

// aux writes a fact.
func (o *output) aux(key, value []byte) {
	o.byte(opAux)
	o.str(key)
	o.str(value)
}

func (s *shards) emptiest() *stream {
	least := 0
	for i := range s.streams {
		if s.streams[i].n < s.streams[least].n {
			least = i
		}
	}
	return &s.streams[least]
}

// endRecord ends the block if it is large enough, and tells whether another begins.
func (o *output) endRecord() bool {
	if len(o.buf) < blockSize && !o.shards.inline {
		return false
	}
	o.endBlock()
	return true
}

// endBlock writes what is there as a block.
func (o *output) endBlock() {
	s := o.shards
	switch p := o.buf; {
	case s.inline || s.codec < CompressLZ4 || len(p) < minBlock:
		o.pass(p)
	default:
		if b, ok := s.compress(p); ok && len(b) <= len(p)/20*19 {
			o.pass(b)
		} else {
			o.pass(p)
		}
	}
	s.inline = false
	o.buf = o.buf[:0]
	o.to = s.emptiest()
}

// compress returns the record that p becomes.
func (s *shards) compress(p []byte) ([]byte, bool) {
	const head = 1 + 9 // opcode and length
	if cap(s.packed) < head {
		s.packed = make([]byte, head, blockSize)
	}
	b := s.packed[:head]
	code := byte(opLZ4)
	if s.codec == CompressLZ4 {
		b = s.lz4.Append(b, p)
	} else {
		if s.zstd == nil {
			// A single segment: without it, a small frame doesn't tell its size, and Dragonfly refuses it.
			e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithSingleSegment(true),
				zstd.WithEncoderCRC(false), zstd.WithWindowSize(maxPlain), zstd.WithLowerEncoderMem(true))
			if err != nil {
				return nil, false
			}
			s.zstd = e
		}
		code = opZstd
		b = s.zstd.EncodeAll(p, b)
	}
	s.packed = b
	var length [9]byte
	n := appendLength(length[:0], uint64(len(b)-head))
	at := head - len(n) - 1
	b[at] = code
	copy(b[at+1:], n)
	return b[at:], true
}

// finishSet ends all streams: the summary last, so that it is there only if the others are.
func (w *Writer) finishSet() {
	o := &w.out
	if len(o.buf) > 0 {
		o.endBlock()
	}
	for i := range o.shards.streams {
		o.to = &o.shards.streams[i]
		o.finish()
	}
	if o.err == nil {
		w.summary.finish()
	}
}
