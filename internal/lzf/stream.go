package lzf

// History is how many bytes before an item a Stream may look at.
const History = maxDistance

// A Stream expands a block that arrives in pieces. The zero value is at the start of a block.
type Stream struct {
	state uint8
	first uint8 // of the item
	n     int   // bytes of the item still to come out
	back  int   // the distance that they are copied from; 0: they are literal
}

// What a Stream reads next.
const (
	readFirst  = iota
	readLength // the second byte of a long reference
	readOffset // the last byte of a reference
	write      // n bytes
)

// Expand expands src behind the out bytes that dst has already, until dst is full or src is used up. It returns how many bytes dst
// has then, and how many of src it took.
//
// The bytes before out must be the last that came out before, at least History of them if there were as many. Who moves
// them to the start of dst goes on with the smaller out.
func (s *Stream) Expand(dst []byte, out int, src []byte) (o, in int, err error) {
	for {
		if s.state == readFirst {
			var took int
			out, took = expand(dst, out, src[in:])
			in += took
		}
		if s.state == write {
			n := min(s.n, len(dst)-out)
			if s.back == 0 {
				n = min(n, len(src)-in)
				copy(dst[out:out+n], src[in:])
				in += n
			} else {
				repeat(dst[out-s.back:out+n], s.back)
			}
			out += n
			if s.n -= n; s.n > 0 {
				return out, in, nil
			}
			s.state = readFirst
			continue
		}
		if in == len(src) {
			return out, in, nil
		}
		c := src[in]
		in++
		switch s.state {
		case readFirst:
			s.first = c
			switch {
			case c < maxLiteral:
				s.state, s.n, s.back = write, int(c)+1, 0
			case c>>5 == 7:
				s.state = readLength
			default:
				s.state, s.n = readOffset, int(c>>5)+2
			}
		case readLength:
			s.state, s.n = readOffset, int(c)+9
		case readOffset:
			s.state, s.back = write, int(s.first&31)<<8+int(c)+1
			if s.back > out {
				return out, in, ErrCorrupt
			}
		}
	}
}

// Between tells whether what was taken so far ends with a whole item, so that the block may end here.
func (s *Stream) Between() bool { return s.state == readFirst }
