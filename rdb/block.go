package rdb

import (
	"fmt"
	"io"

	"github.com/amberkv/amber/internal/lz4frame"
	"github.com/klauspost/compress/zstd"
)

// maxBlock is how large a compressed block may be, before and after: Dragonfly makes none from more than 1 MiB.
const maxBlock = 4 << 20

// blocks expand compressed blocks.
type blocks struct {
	packed []byte
	plain  []byte
	zstd   *zstd.Decoder
}

// beginBlock expands the block that comes next and begins to read it.
func (r *Reader) beginBlock(code uint8) bool {
	r.nested()
	if r.input == inputBlock || r.input == inputBacklog {
		return r.corrupt("a compressed block within another")
	}
	if r.attrs.set {
		return r.corrupt("a compressed block follows what belongs to a key")
	}
	at := r.offset()
	r.pos++
	n, ok := r.length()
	if !ok {
		return false
	}
	if n > maxBlock {
		return r.tooLargeFor("compressed block", n, maxBlock)
	}
	b := &r.nest.inputs.blocks
	packed, ok := r.take(n, &b.packed)
	if !ok {
		return false
	}
	plain, why, tooLarge := b.expand(code, packed)
	if tooLarge > 0 {
		return r.tooLargeFor("expanded block", tooLarge, maxBlock)
	}
	if why != "" {
		return r.corrupt(why)
	}
	r.nest.inputs.unit = at
	r.push(inputBlock, buffer{srcErr: io.EOF, buf: plain, end: len(plain)})
	return true
}

// expand returns what is in a block, or what is wrong with it.
func (b *blocks) expand(code uint8, packed []byte) (plain []byte, why string, tooLarge uint64) {
	var size uint64
	if code == opLZ4 {
		n, err := lz4frame.Size(packed)
		if err != nil {
			return nil, fmt.Sprintf("a block: %v", err), 0
		}
		size = n
	} else {
		var h zstd.Header
		if err := h.Decode(packed); err != nil {
			return nil, fmt.Sprintf("a block is no zstd frame: %v", err), 0
		}
		if h.Skippable || !h.HasFCS {
			return nil, "a block is a zstd frame without a content size", 0
		}
		size = h.FrameContentSize
	}
	switch {
	case size == 0:
		return nil, "a compressed block is empty", 0
	case size > maxBlock:
		return nil, "", size
	case uint64(cap(b.plain)) < size:
		b.plain = make([]byte, max(size, 64<<10))
	}
	b.plain = b.plain[:size]
	if code == opLZ4 {
		if err := lz4frame.Decode(b.plain, packed); err != nil {
			return nil, fmt.Sprintf("a block doesn't expand: %v", err), 0
		}
		return b.plain, "", 0
	}
	if b.zstd == nil {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxBlock), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, fmt.Sprintf("zstd: %v", err), 0
		}
		b.zstd = d
	}
	out, err := b.zstd.DecodeAll(packed, b.plain[:0])
	switch {
	case err != nil:
		return nil, fmt.Sprintf("a block doesn't expand: %v", err), 0
	case uint64(len(out)) != size:
		return nil, fmt.Sprintf("a block of %d bytes says that it has %d", len(out), size), 0
	}
	return out, "", 0
}
