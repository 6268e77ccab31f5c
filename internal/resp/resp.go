// Package resp reads and writes RESP2, the protocol that Redis and Valkey speak with clients and replicas, where a
// client library can't be used: on a connection that carries a snapshot, and on one that a server opened to us.
//
// A [Reader] takes replies and commands from a connection and gives access to the raw bytes between them. Its memory is
// bounded by its Limits and, below them, by what was really received: a length on the wire is never trusted.
package resp

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// ErrProtocol: what was received is not RESP2, or beyond the limits. Every *ProtocolError wraps it.
var ErrProtocol = errors.New("not a valid Redis protocol message")

// A ProtocolError tells what is wrong with the bytes received and where.
type ProtocolError struct {
	Offset int64  // of the first byte of the message's line or payload, from the start of the connection
	Detail string // what is wrong with it
}

// Error tells what was wrong and where.
func (e *ProtocolError) Error() string {
	return fmt.Sprintf("%v: %s, at byte %d of the connection", ErrProtocol, e.Detail, e.Offset)
}

// Unwrap returns ErrProtocol.
func (e *ProtocolError) Unwrap() error { return ErrProtocol }

// An Error is an error reply as the server sent it, without the leading "-". Servers may quote a command's arguments in
// it, so that it can hold a password.
type Error string

// Error returns the text of the reply.
func (e Error) Error() string { return string(e) }

// Code returns the reply's first word if it is one of those that servers put there for programs, such as "ERR",
// "NOPERM" or "LOADING", else "".
func (e Error) Code() string {
	word, _, _ := strings.Cut(string(e), " ")
	for _, c := range []byte(word) {
		if c < 'A' || c > 'Z' {
			return ""
		}
	}
	return word
}

// A Kind says what a Reply is.
type Kind byte

// The kinds of replies. Each is the byte that the reply begins with on the wire, but for Null.
const (
	Status  Kind = '+' // a line
	Failure Kind = '-' // an error, within an array: a reply that is one itself comes back as a Go error
	Integer Kind = ':'
	Bulk    Kind = '$' // a string of bytes
	Array   Kind = '*'
	Null    Kind = 0 // the bulk string or array that isn't there
)

// A Reply is one reply. It owns its memory.
type Reply struct {
	Kind  Kind
	Text  string  // of a Status, Failure or Bulk
	Int   int64   // of an Integer
	Elems []Reply // of an Array
}

// Limits bound what a Reader takes. Zero values mean the defaults.
type Limits struct {
	Line     int // longest line of any kind, in bytes; 64 KiB by default
	Message  int // all of a reply or command, in bytes received; 16 MiB by default
	Elements int // of a reply or command, with those of nested arrays; 64 Ki by default
}

// maxDepth is the deepest nesting of arrays in a reply. The deepest that a server sends in RESP2 are COMMAND's, with 6.
const maxDepth = 16

// A Reader reads a connection. It is not safe for concurrent use.
//
// Once a method but Peek returned an error that is not an Error, the connection's state is unknown and it has to be
// closed.
type Reader struct {
	buf    buffer
	limits Limits
	line   []byte // the memory of ReadLine
}

// NewReader returns a Reader of r, which is usually a net.Conn. Nil limits are the defaults.
func NewReader(r io.Reader, limits *Limits) *Reader {
	var l Limits
	if limits != nil {
		l = *limits
	}
	if l.Line <= 0 {
		l.Line = 64 << 10
	}
	if l.Message <= 0 {
		l.Message = 16 << 20
	}
	if l.Elements <= 0 {
		l.Elements = 64 << 10
	}
	return &Reader{buf: newBuffer(r), limits: l}
}

// Offset returns the number of bytes of the connection that were handed out or parsed so far.
func (r *Reader) Offset() int64 { return r.buf.offset }

// Buffered returns the number of bytes that were received but not yet read.
func (r *Reader) Buffered() int { return r.buf.Buffered() }

// Read reads raw bytes, as io.Reader does: what was received already first, then straight from the connection into p if
// it is not small.
func (r *Reader) Read(p []byte) (int, error) { return r.buf.Read(p) }

// Peek returns the next n bytes without reading them, or fewer and the error that came. They are valid until the next
// call of any method, and n is at most 4096. After a deadline's error the Reader can be used again.
func (r *Reader) Peek(n int) ([]byte, error) { return r.buf.br.Peek(n) }

// ReadLine reads one line and returns it without its ending, "\r\n" or "\n"; an empty one is a keep-alive. The bytes are
// valid until the next call of any method. The error is io.EOF if the connection ended before the line's first byte
// and io.ErrUnexpectedEOF if it did within the line.
func (r *Reader) ReadLine() ([]byte, error) {
	start := r.buf.offset
	r.line = r.line[:0]
	for {
		chunk, err := r.buf.ReadSlice('\n')
		if len(r.line)+len(chunk) > r.limits.Line+2 {
			return nil, &ProtocolError{start, fmt.Sprintf("a line of more than %d bytes", r.limits.Line)}
		}
		if err == nil && len(r.line) == 0 { // the common case needs no copy
			return trimLine(chunk), nil
		}
		r.line = append(r.line, chunk...)
		switch {
		case err == nil:
			return trimLine(r.line), nil
		case errors.Is(err, errFull):
		case errors.Is(err, io.EOF) && len(r.line) > 0:
			return nil, io.ErrUnexpectedEOF
		default:
			return nil, err
		}
	}
}

func trimLine(line []byte) []byte {
	line = line[:len(line)-1]
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	return line
}

// ReadReply reads the next reply and skips keep-alives before it. An error reply is returned as an Error; the connection
// can still be used after that. The error is io.EOF if the connection ended before the reply.
func (r *Reader) ReadReply() (Reply, error) {
	for {
		start := r.buf.offset
		line, err := r.ReadLine()
		if err != nil {
			return Reply{}, err
		}
		if len(line) == 0 {
			continue
		}
		m := message{Reader: r, bytes: r.limits.Message, elements: r.limits.Elements}
		reply, err := m.reply(line, start, 0)
		if err != nil {
			return Reply{}, unexpected(err)
		}
		if reply.Kind == Failure {
			return Reply{}, Error(reply.Text)
		}
		return reply, nil
	}
}

// ReadCommand reads the next command and skips keep-alives and empty commands before it. A command is an array of bulk
// strings, or a line whose words are separated by blanks, of which quotes are a part. It has at least one word. The
// error is io.EOF if the connection ended before the command.
func (r *Reader) ReadCommand() ([]string, error) {
	for {
		start := r.buf.offset
		line, err := r.ReadLine()
		if err != nil {
			return nil, err
		}
		if len(line) == 0 {
			continue
		}
		m := message{Reader: r, bytes: r.limits.Message, elements: r.limits.Elements}
		args, err := m.command(line, start)
		if err != nil {
			return nil, unexpected(err)
		}
		if len(args) > 0 {
			return args, nil
		}
	}
}

// unexpected turns the end of the connection, met within a message, into io.ErrUnexpectedEOF.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// A message is what is left of the limits while one message is read.
type message struct {
	*Reader
	bytes, elements int
}

func (m *message) reply(line []byte, start int64, depth int) (Reply, error) {
	kind, rest := Kind(line[0]), line[1:]
	switch kind {
	case Status, Failure:
		if m.bytes -= len(rest); m.bytes < 0 {
			return Reply{}, m.tooLarge(start)
		}
		return Reply{Kind: kind, Text: string(rest)}, nil
	case Integer:
		n, err := strconv.ParseInt(string(rest), 10, 64)
		if err != nil {
			return Reply{}, &ProtocolError{start, fmt.Sprintf("%q is not a number", clip(rest))}
		}
		return Reply{Kind: Integer, Int: n}, nil
	case Bulk:
		n, err := m.length(rest, start)
		if err != nil || n < 0 {
			return Reply{}, err
		}
		text, err := m.bulk(n, start)
		return Reply{Kind: Bulk, Text: text}, err
	case Array:
		n, err := m.length(rest, start)
		if err != nil || n < 0 {
			return Reply{}, err
		}
		if depth == maxDepth {
			return Reply{}, &ProtocolError{start, "arrays nested too deep"}
		}
		if m.elements -= n; m.elements < 0 {
			return Reply{}, m.tooMany(start)
		}
		reply := Reply{Kind: Array}
		for range n {
			start := m.buf.offset
			line, err := m.ReadLine()
			if err != nil {
				return Reply{}, err
			}
			if len(line) == 0 {
				return Reply{}, &ProtocolError{start, "an empty line within an array"}
			}
			elem, err := m.reply(line, start, depth+1)
			if err != nil {
				return Reply{}, err
			}
			reply.Elems = append(reply.Elems, elem) // grows as elements come in: the count is not to be trusted
		}
		return reply, nil
	}
	return Reply{}, &ProtocolError{start, fmt.Sprintf("a reply can't begin with %q", clip(line))}
}

func (m *message) command(line []byte, start int64) ([]string, error) {
	if line[0] != byte(Array) {
		words := strings.Fields(string(line))
		if len(words) > m.elements {
			return nil, m.tooMany(start)
		}
		return words, nil
	}
	n, err := m.length(line[1:], start)
	if err != nil {
		return nil, err
	}
	if m.elements -= n; m.elements < 0 {
		return nil, m.tooMany(start)
	}
	var args []string
	for range n {
		start := m.buf.offset
		line, err := m.ReadLine()
		if err != nil {
			return nil, err
		}
		if len(line) == 0 || line[0] != byte(Bulk) {
			return nil, &ProtocolError{start, fmt.Sprintf("a command's argument can't begin with %q", clip(line))}
		}
		n, err := m.length(line[1:], start)
		if err != nil {
			return nil, err
		}
		if n < 0 {
			return nil, &ProtocolError{start, "a command's argument can't be null"}
		}
		arg, err := m.bulk(n, start)
		if err != nil {
			return nil, err
		}
		args = append(args, arg)
	}
	return args, nil
}

// length parses a count or length, which is -1 for null.
func (m *message) length(digits []byte, start int64) (int, error) {
	n, err := strconv.ParseInt(string(digits), 10, 64)
	if err != nil || n < -1 {
		return 0, &ProtocolError{start, fmt.Sprintf("%q is not a length", clip(digits))}
	}
	if n > int64(max(m.limits.Message, m.limits.Elements)) {
		return 0, m.tooLarge(start)
	}
	return int(n), nil
}

// bulk reads n bytes and the line ending after them.
func (m *message) bulk(n int, start int64) (string, error) {
	if m.bytes -= n; m.bytes < 0 {
		return "", m.tooLarge(start)
	}
	var text strings.Builder
	if _, err := io.CopyN(&text, &m.buf, int64(n)); err != nil { // grows as bytes come in
		return "", err
	}
	end := m.buf.offset
	var crlf [2]byte
	if _, err := io.ReadFull(&m.buf, crlf[:]); err != nil {
		return "", err
	}
	if crlf != [2]byte{'\r', '\n'} {
		return "", &ProtocolError{end, fmt.Sprintf("%q where a string of %d bytes has to end", crlf[:], n)}
	}
	return text.String(), nil
}

func (m *message) tooLarge(start int64) error {
	return &ProtocolError{start, fmt.Sprintf("a message of more than %d bytes", m.limits.Message)}
}

func (m *message) tooMany(start int64) error {
	return &ProtocolError{start, fmt.Sprintf("a message of more than %d elements", m.limits.Elements)}
}

// clip shortens what a peer sent for an error's text.
func clip(b []byte) []byte { return b[:min(len(b), 32)] }

// AppendCommand appends a command, as clients and primaries send it, to dst.
func AppendCommand(dst []byte, args ...string) []byte {
	dst = append(dst, '*')
	dst = strconv.AppendInt(dst, int64(len(args)), 10)
	dst = append(dst, "\r\n"...)
	for _, arg := range args {
		dst = append(dst, '$')
		dst = strconv.AppendInt(dst, int64(len(arg)), 10)
		dst = append(dst, "\r\n"...)
		dst = append(dst, arg...)
		dst = append(dst, "\r\n"...)
	}
	return dst
}

// AppendStatus appends a status reply, such as "OK", to dst. Line breaks in text become blanks.
func AppendStatus(dst []byte, text string) []byte { return appendLine(dst, Status, text) }

// AppendError appends an error reply, such as "ERR no such thing", to dst. Line breaks in text become blanks.
func AppendError(dst []byte, text string) []byte { return appendLine(dst, Failure, text) }

func appendLine(dst []byte, kind Kind, text string) []byte {
	dst = append(dst, byte(kind))
	for _, c := range []byte(text) {
		if c == '\r' || c == '\n' {
			c = ' '
		}
		dst = append(dst, c)
	}
	return append(dst, "\r\n"...)
}
