// Package lz4frame reads and writes LZ4 frames that say how long their content is, each in one piece. It knows the frame, and
// compresses the blocks in it, faster than github.com/pierrec/lz4 does; that expands them.
//
// Source: the LZ4 frame format, version 1.6.4, as published with the reference implementation.
package lz4frame

import (
	"encoding/binary"
	"errors"

	"github.com/pierrec/lz4/v4"
)

// Errors of Size and Decode.
var (
	// ErrCorrupt: the bytes are no whole LZ4 frame.
	ErrCorrupt = errors.New("corrupt LZ4 frame")
	// ErrNoSize: the frame doesn't say how long its content is.
	ErrNoSize = errors.New("LZ4 frame without a content size")
	// ErrDictionary: the frame needs a dictionary.
	ErrDictionary = errors.New("LZ4 frame with a dictionary")
)

const (
	magic      = 0x184D2204
	headerSize = 4 + 2 + 8 + 1 // magic, two bytes of flags, content size, their checksum
	window     = 64 << 10      // how far back a block may look

	flagVersion         = 0x40
	flagIndependent     = 0x20
	flagBlockChecksum   = 0x10
	flagSize            = 0x08
	flagContentChecksum = 0x04
	flagReserved        = 0x02
	flagDictionary      = 0x01
	maskVersion         = 0xC0

	plainBlock = 1 << 31 // of a block's size: it is not compressed
)

// maxRatio is how many times its own size a block can expand to: a byte more of a match's length stands for 255.
const maxRatio = 255

// Size returns how long a frame says that its content is. It is an error if the frame can't expand to that.
func Size(frame []byte) (uint64, error) {
	if len(frame) < headerSize || binary.LittleEndian.Uint32(frame) != magic {
		return 0, ErrCorrupt
	}
	switch flags := frame[4]; {
	case flags&maskVersion != flagVersion || flags&flagReserved != 0 || frame[5]&0x8F != 0 || frame[5]>>4 < 4:
		return 0, ErrCorrupt
	case flags&flagDictionary != 0:
		return 0, ErrDictionary
	case flags&flagSize == 0:
		return 0, ErrNoSize
	}
	if byte(xxh32(frame[4:headerSize-1])>>8) != frame[headerSize-1] {
		return 0, ErrCorrupt
	}
	n := binary.LittleEndian.Uint64(frame[6:])
	if n/maxRatio > uint64(len(frame)) {
		return 0, ErrCorrupt
	}
	return n, nil
}

// Decode expands a frame to exactly the length of dst, which is what Size said and must not overlap it. Nothing may follow the frame. On an
// error the contents of dst are undefined.
func Decode(dst, frame []byte) error {
	if n, err := Size(frame); err != nil {
		return err
	} else if n != uint64(len(dst)) {
		return ErrCorrupt
	}
	flags, maxBlock := frame[4], 1<<(8+2*(frame[5]>>4))
	in := frame[headerSize:]
	out := 0
	for {
		if len(in) < 4 {
			return ErrCorrupt
		}
		head := binary.LittleEndian.Uint32(in)
		in = in[4:]
		if head == 0 {
			break
		}
		size := int(head &^ plainBlock)
		if size > len(in) || size > maxBlock {
			return ErrCorrupt
		}
		block := in[:size]
		in = in[size:]
		if flags&flagBlockChecksum != 0 {
			if len(in) < 4 || binary.LittleEndian.Uint32(in) != xxh32(block) {
				return ErrCorrupt
			}
			in = in[4:]
		}
		room := dst[out:min(len(dst), out+maxBlock)]
		if head&plainBlock != 0 {
			if size > len(room) {
				return ErrCorrupt
			}
			out += copy(room, block)
			continue
		}
		var n int
		var err error
		if flags&flagIndependent != 0 || out == 0 {
			n, err = lz4.UncompressBlock(block, room)
		} else {
			n, err = lz4.UncompressBlockWithDict(block, room, dst[max(0, out-window):out])
		}
		if err != nil {
			return ErrCorrupt
		}
		out += n
	}
	if flags&flagContentChecksum != 0 {
		if len(in) < 4 || binary.LittleEndian.Uint32(in) != xxh32(dst) {
			return ErrCorrupt
		}
		in = in[4:]
	}
	if out != len(dst) || len(in) != 0 {
		return ErrCorrupt
	}
	return nil
}

// An Encoder makes frames. The zero value is ready; it is used by one goroutine.
type Encoder struct{ b blockEncoder }

// Append appends a frame of content to dst: independent blocks of 64 KiB, without checksums but the header's.
func (e *Encoder) Append(dst, content []byte) []byte {
	at := len(dst)
	dst = binary.LittleEndian.AppendUint32(dst, magic)
	dst = append(dst, flagVersion|flagIndependent|flagSize, 4<<4)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(len(content)))
	dst = append(dst, byte(xxh32(dst[at+4:])>>8))
	for len(content) > 0 {
		block := content[:min(len(content), window)]
		content = content[len(block):]
		size := len(dst)
		if need := size + 4 + len(block); need > cap(dst) {
			dst = append(make([]byte, 0, 2*need), dst...)
		}
		room := dst[size+4 : size+4+len(block)-1]
		n := e.b.compress(room, block)
		if n == 0 {
			dst = binary.LittleEndian.AppendUint32(dst, uint32(len(block))|plainBlock)
			dst = append(dst, block...)
			continue
		}
		dst = binary.LittleEndian.AppendUint32(dst, uint32(n))
		dst = dst[:size+4+n]
	}
	return binary.LittleEndian.AppendUint32(dst, 0)
}
