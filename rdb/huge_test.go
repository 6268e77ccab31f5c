package rdb

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"testing"

	"github.com/amberkv/amber/internal/listpack"
	"github.com/amberkv/amber/internal/ziplist"
)

// How long the values of TestHugeElements are, and their elements: 1 GiB with CAMPAIGN=1. Without it less, but also beyond 2^28, from where on
// a listpack's entry needs all five bytes for its length, and with as much to tell apart, which is more than what may be held.
var (
	huge  = map[bool]int{false: 272 << 20, true: 1 << 30}[campaign]
	piece = map[bool]int{false: 400, true: 1000}[campaign]
)

// repeated is a source of n things, of which f appends each to what it is given.
func repeated(n int, f func(b []byte, i int) []byte) io.Reader {
	var b, rest []byte
	i := 0
	return readerFunc(func(p []byte) (int, error) {
		for len(rest) == 0 {
			if i == n {
				return 0, io.EOF
			}
			b = b[:0]
			for ; i < n && len(b) < 64<<10; i++ {
				b = f(b, i)
			}
			rest = b
		}
		k := copy(p, rest)
		rest = rest[k:]
		return k, nil
	})
}

// lzfOf is a compressed string: some bytes, huge and a little more of them, and some bytes.
func lzfOf(head, tail string) (begin []byte, r io.Reader, size uint64) {
	n := huge/264 + 1 // references of three bytes to the 32 bytes before
	in, out := uint64(n*3+1+32), uint64(hugeSize())
	literal := func(s string) (b []byte) {
		if s != "" {
			b = append([]byte{byte(len(s) - 1)}, s...)
			in, out = in+uint64(len(b)), out+uint64(len(s))
		}
		return b
	}
	first := append(literal(head), 31)
	first = append(first, "0123456789abcdefghijklmnopqrstuv"...)
	last := literal(tail)
	refs := repeated(n, func(b []byte, _ int) []byte { return append(b, 0xE0, 0xFF, 31) })
	return build("").bytes(stringLZF).len(in, out).b, io.MultiReader(bytes.NewReader(first), refs, bytes.NewReader(last)), out
}

// hugeSize is how long the content of lzfOf is, without what is put around it.
func hugeSize() int { return (huge/264+1)*264 + 32 }

// packedHead is how a listpack of n entries and size bytes in all begins.
func packedHead(size, n int) []byte {
	b := listpack.Begin(nil)
	binary.LittleEndian.PutUint32(b, uint32(size))
	binary.LittleEndian.PutUint16(b[4:], uint16(min(n, listpack.Unknown)))
	return b
}

// huges are streams with one huge value each.
func huges() map[string]func() io.Reader {
	filler := []byte(strings.Repeat("filler! ", 125))
	size, n := uint64(huge), huge/piece-20000
	name := func(b []byte, i int) []byte {
		return append(b, byte('0'+i/1000000%10), byte('0'+i/100000%10), byte('0'+i/10000%10), byte('0'+i/1000%10), byte('0'+i/100%10), byte('0'+i/10%10), byte('0'+i%10), 'x')
	}
	long := func(b []byte, i int) []byte { // a string that is different for each i
		b = append(b, 0x40|byte(piece>>8), byte(piece))
		return append(name(b, i), filler[:piece-8]...)
	}
	entry := func(b []byte, i int) []byte { // the same as an entry of a listpack
		b = append(b, 0xE0|byte(piece>>8), byte(piece))
		return append(append(name(b, i), filler[:piece-8]...), byte((piece+2)>>7), byte((piece+2)&0x7f|0x80))
	}
	small := func(b []byte, i int) []byte { return append(name(append(b, 0x88), i), 9) }
	stream := func(magic string, code uint8, head []byte, body ...io.Reader) io.Reader {
		tail := bytes.NewReader(build("").bytes(opEOF).u64(0).b)
		return io.MultiReader(append(append([]io.Reader{bytes.NewReader(build(magic).bytes(code).str("k").bytes(head...).b)}, body...), tail)...)
	}
	zeroes := func() io.Reader { return zeros(nil, int64(huge), nil) }
	compressed := func(code uint8, head []byte, before, after string) io.Reader {
		begin, body, _ := lzfOf(before, after)
		return stream("REDIS0012", code, append(head, begin...), body)
	}
	// A listpack whose only entry is a string of size bytes.
	single := func(size uint64) (before, after string) {
		k := 5 + size
		total := 6 + k + 5 + 1
		b := binary.LittleEndian.AppendUint32(append(packedHead(int(total), 1), 0xF0), uint32(size))
		return string(b), string([]byte{byte(k >> 28), byte(k>>21)&0x7f | 0x80, byte(k>>14)&0x7f | 0x80, byte(k>>7)&0x7f | 0x80, byte(k)&0x7f | 0x80, 0xFF})
	}
	zset := func(b []byte, i int) []byte { return append(entry(b, i), 7, 1) }
	packed, pair, scored := piece+4, piece+4+10, piece+4+2
	return map[string]func() io.Reader{
		"string":                 func() io.Reader { return stream("REDIS0012", 0, build("").len(size).b, zeroes()) },
		"string, compressed":     func() io.Reader { return compressed(0, nil, "", "") },
		"JSON, compressed":       func() io.Reader { b, r, _ := lzfOf(`"`, `"`); return stream("REDIS0009", 30, b, r) },
		"list item":              func() io.Reader { return stream("REDIS0012", 1, build("").len(1, size).b, zeroes()) },
		"list item, compressed":  func() io.Reader { return compressed(1, []byte{1}, "", "") },
		"list node":              func() io.Reader { return stream("REDIS0012", 18, build("").len(1, 1, size).b, zeroes()) },
		"list node, compressed":  func() io.Reader { return compressed(18, []byte{1, 1}, "", "") },
		"hash value":             func() io.Reader { return stream("REDIS0012", 4, build("").len(1).str("f").len(size).b, zeroes()) },
		"hash value, compressed": func() io.Reader { return compressed(4, build("").len(1).str("f").b, "", "") },
		"packed list item": func() io.Reader {
			before, after := single(size)
			return stream("REDIS0012", 18, build("").len(1, 2, uint64(len(before)+huge+len(after))).bytes([]byte(before)...).b, zeroes(), strings.NewReader(after))
		},
		"packed list item, compressed": func() io.Reader {
			before, after := single(uint64(hugeSize()))
			return compressed(18, []byte{1, 2}, before, after)
		},
		"item of a ziplist": func() io.Reader {
			b, size := ziplist.AppendSingle(nil, size)
			return stream("REDIS0012", 10, build("").len(size).bytes(b...).b, zeroes(), strings.NewReader("\xff"))
		},
		"item of a ziplist, compressed": func() io.Reader {
			b, _ := ziplist.AppendSingle(nil, uint64(hugeSize()))
			return compressed(14, []byte{1}, string(b), "\xff")
		},
		"list": func() io.Reader { return stream("REDIS0012", 1, build("").len(uint64(n)).b, repeated(n, long)) },
		"set":  func() io.Reader { return stream("REDIS0012", 2, build("").len(uint64(n)).b, repeated(n, long)) },
		"zset": func() io.Reader {
			return stream("REDIS0012", 5, build("").len(uint64(n)).b, repeated(n, func(b []byte, i int) []byte {
				return binary.LittleEndian.AppendUint64(long(b, i), 0)
			}))
		},
		"hash": func() io.Reader {
			return stream("REDIS0012", 4, build("").len(uint64(n)).b, repeated(n, func(b []byte, i int) []byte { return long(name(append(b, 8), i), 0) }))
		},
		"hash with expiries": func() io.Reader {
			return stream("REDIS0012", 24, build("").u64(5).len(uint64(n)).b, repeated(n, func(b []byte, i int) []byte { return long(name(append(b, byte(i%60), 8), i), 0) }))
		},
		"hash with expiries of Valkey": func() io.Reader {
			return stream("VALKEY080", 22, build("").len(uint64(n)).b, repeated(n, func(b []byte, i int) []byte {
				return binary.LittleEndian.AppendUint64(long(name(append(b, 8), i), 0), ^uint64(0))
			}))
		},
		"packed list": func() io.Reader {
			total := 7 + n*packed
			return stream("REDIS0012", 18, build("").len(1, 2, uint64(total)).bytes(packedHead(total, n)...).b, repeated(n, entry), strings.NewReader("\xff"))
		},
		"packed set": func() io.Reader {
			total := 7 + n*packed
			return stream("REDIS0012", 20, build("").len(uint64(total)).bytes(packedHead(total, n)...).b, repeated(n, entry), strings.NewReader("\xff"))
		},
		"packed zset": func() io.Reader {
			total := 7 + n*scored
			return stream("REDIS0012", 17, build("").len(uint64(total)).bytes(packedHead(total, 2*n)...).b, repeated(n, zset), strings.NewReader("\xff"))
		},
		"packed hash": func() io.Reader {
			total := 7 + n*pair
			return stream("REDIS0012", 16, build("").len(uint64(total)).bytes(packedHead(total, 2*n)...).b,
				repeated(n, func(b []byte, i int) []byte { return entry(small(b, i), 0) }), strings.NewReader("\xff"))
		},
		"stream": func() io.Reader {
			nodes := size / 4096
			node := lp("1", "0", "1", "f", "0", "2", "0", "0", strings.Repeat("v", 4000), "4")
			return stream("REDIS0012", 21, build("").len(nodes).b, repeated(int(nodes), func(b []byte, i int) []byte {
				b = append(binary.BigEndian.AppendUint64(append(b, 16), uint64(i)), 0, 0, 0, 0, 0, 0, 0, 1)
				return append(append(b, 0x40|byte(len(node)>>8), byte(len(node))), node...)
			}), bytes.NewReader(build("").len(nodes, nodes, 1, 0, 1, 0, 0, nodes, 0).b))
		},
		"set of numbers": func() io.Reader {
			const n = 1 << 23
			return stream("REDIS0012", 11, build("").len(8+8*n).bytes(8, 0, 0, 0, 0, 0, 128, 0).b,
				repeated(n, func(b []byte, i int) []byte { return binary.LittleEndian.AppendUint64(b, uint64(i)) }))
		},
		"module value": func() io.Reader {
			return stream("REDIS0012", 7, build("").len(uint64(vectorset), moduleString, size).b, zeroes(), strings.NewReader("\x00"))
		},
	}
}

// TestHugeElements reads huge values, of every kind and packed in every way, as elements, and checks them, with hardly
// any memory.
func TestHugeElements(t *testing.T) {
	for name, source := range huges() {
		t.Run(name, func(t *testing.T) {
			for level, read := range map[string]func(*Reader) error{
				"elements": drain,
				"check": func(r *Reader) error {
					if err := Check(r, &CheckOptions{Spool: spoolIn(t)}); err != nil {
						return err
					}
					return io.EOF
				},
			} {
				src := source()
				before := allocated()
				r := NewReader(src, nil)
				if err := read(r); err != io.EOF {
					t.Fatalf("%s: %v", level, err)
				}
				limit := uint64(4 << 20)
				if level == "check" {
					limit = 10 << 20
				}
				if used := allocated() - before; used > limit {
					t.Errorf("%s: a huge value took %d bytes", level, used)
				}
				if s := r.Stats(); s.Keys != 1 {
					t.Errorf("%s: %+v", level, s)
				}
			}
		})
	}
}
