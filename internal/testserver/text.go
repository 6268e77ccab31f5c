package testserver

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A snapshot's text is made of very many small pieces, and with the race detector each look at a byte is a call. So these functions are plain
// loops that it needn't follow: what they read and write is nobody else's.

// appendQuoted appends what strconv.Quote returns.
//
//go:norace
func appendQuoted(dst []byte, s string) []byte {
	const digits, short = "0123456789abcdef", "abtnvfr"
	dst = append(dst, '"')
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c >= ' ' && c < 0x7f:
			dst = append(dst, c)
		case c >= '\a' && c <= '\r':
			dst = append(dst, '\\', short[c-'\a'])
		case c <= 0x7f || c < 0xc2 || c > 0xf4 || i+1 == len(s) || s[i+1]&0xc0 != 0x80: // not the first byte of a rune
			dst = append(dst, '\\', 'x', digits[c>>4], digits[c&15])
		default:
			end := i + 1
			for end < len(s) && end < i+4 && s[end]&0xc0 == 0x80 {
				end++
			}
			quoted := strconv.Quote(s[i:end])
			dst = append(dst, quoted[1:len(quoted)-1]...)
			i = end - 1
		}
	}
	return append(dst, '"')
}

// appendPlain appends what fmt.Sprint returns, of the types that replies have.
func appendPlain(dst []byte, v any) []byte {
	switch v := v.(type) {
	case string:
		return append(dst, v...)
	case int64:
		return strconv.AppendInt(dst, v, 10)
	case []any:
		dst = append(dst, '[')
		for i, item := range v {
			if i > 0 {
				dst = append(dst, ' ')
			}
			dst = appendPlain(dst, item)
		}
		return append(dst, ']')
	}
	return fmt.Append(dst, v)
}

// textLines collects lines of text in one piece of memory.
type textLines struct {
	text []byte
	ends []int
}

// end ends the line at hand.
func (l *textLines) end() { l.ends = append(l.ends, len(l.text)) }

// join returns all lines, with line feeds between them.
func (l *textLines) join(sorted bool) string {
	all := string(l.text)
	list := make([]string, len(l.ends))
	begin := 0
	for i, end := range l.ends {
		list[i], begin = all[begin:end], end
	}
	if sorted {
		slices.Sort(list)
	}
	return strings.Join(list, "\n")
}
