package aof

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// MaxManifest is the largest manifest that ParseManifest takes, in bytes. A server has a handful of files; each rewrite that fails leaves one more.
const MaxManifest = 1 << 20

// maxManifestLine is how long a line may be, its end included, as servers have it.
const maxManifestLine = 1024

// A Type says what a file is to its data store.
type Type byte

// The types of files.
const (
	Base        Type = 'b' // what the increments go on top of; there is at most one
	History     Type = 'h' // of no use any more, and about to be deleted
	Incremental Type = 'i' // commands
)

// A File is what a manifest says of one file.
type File struct {
	Name string // within the directory of the manifest
	Seq  int64  // from 1 on; of increments it rises
	Type Type
	// Attrs are what else is said of it, in order and as it was written. Redis 8.0 notes the replication offsets between which an increment was written
	// (startoffset, endoffset), by which a server knows its own offset when it starts; a server that doesn't find them begins with 0.
	Attrs []Attr
}

// An Attr is a further word about a file, and its value.
type Attr struct{ Key, Value string }

// A Manifest tells which files make a data store: NAME.manifest.
type Manifest struct{ Files []File }

// A ManifestError says where and why a manifest is wrong. It wraps ErrCorrupt.
type ManifestError struct {
	Line int // from 1 on; 0: it is about all of it
	Why  string
}

// Error names the line and the reason.
func (e *ManifestError) Error() string {
	if e.Line == 0 {
		return "aof: manifest: " + e.Why
	}
	return fmt.Sprintf("aof: manifest, line %d: %s", e.Line, e.Why)
}

// Unwrap returns ErrCorrupt.
func (e *ManifestError) Unwrap() error { return ErrCorrupt }

// ParseManifest reads a manifest, and is as strict as servers are, who don't start with one that is wrong. Names are names within the
// directory and nothing else. An error is a *ManifestError.
func ParseManifest(text []byte) (*Manifest, error) {
	if len(text) > MaxManifest {
		return nil, &ManifestError{Why: fmt.Sprintf("it has more than %d bytes", MaxManifest)}
	}
	m := &Manifest{}
	names, bases, last := map[string]bool{}, 0, int64(0)
	for n := 1; len(text) > 0; n++ {
		bad := func(format string, args ...any) (*Manifest, error) {
			return nil, &ManifestError{Line: n, Why: fmt.Sprintf(format, args...)}
		}
		line, rest, ended := bytes.Cut(text, []byte("\n"))
		text = rest
		switch {
		case !ended:
			return bad("its end is missing")
		case len(line)+1 >= maxManifestLine:
			return bad("it has more than %d bytes", maxManifestLine-2)
		case len(line) > 0 && line[0] == '#':
			continue
		}
		words, err := splitArgs(string(bytes.Trim(line, " \t\r\n")))
		if err != nil {
			return bad("%v", err)
		}
		f, err := readFile(words)
		if err != nil {
			return bad("%v", err)
		}
		if names[f.Name] {
			return bad("the file %.100q is named twice", f.Name)
		}
		names[f.Name] = true
		switch f.Type {
		case Base:
			if bases++; bases > 1 {
				return bad("there are two base files")
			}
		case Incremental:
			if f.Seq <= last {
				return bad("increment %d comes behind increment %d", f.Seq, last)
			}
			last = f.Seq
		}
		m.Files = append(m.Files, f)
	}
	if len(m.Files) == 0 {
		return nil, &ManifestError{Why: "it names no file"}
	}
	return m, nil
}

// readFile makes a file of the words of a line.
func readFile(words []string) (File, error) {
	var f File
	if len(words) < 6 || len(words)%2 != 0 {
		return f, errors.New("it isn't made of pairs that say at least file, seq and type")
	}
	for i := 0; i < len(words); i += 2 {
		key, value := words[i], words[i+1]
		switch strings.ToLower(key) {
		case "file":
			if err := ValidName(value); err != nil {
				return f, fmt.Errorf("the file's name %.100q: %w", value, err)
			}
			f.Name = value
		case "seq":
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil || n < 1 {
				return f, fmt.Errorf("seq is %.40q, it has to be a number from 1 on", value)
			}
			f.Seq = n
		case "type":
			if value != "b" && value != "h" && value != "i" {
				return f, fmt.Errorf("type is %.40q, it has to be b, h or i", value)
			}
			f.Type = Type(value[0])
		default:
			f.Attrs = append(f.Attrs, Attr{key, value})
		}
	}
	if f.Name == "" || f.Seq == 0 || f.Type == 0 {
		return f, errors.New("it doesn't say file, seq and type")
	}
	return f, nil
}

// ValidName returns nil for a string that can name a file of a manifest: one that doesn't lead out of the directory.
func ValidName(name string) error {
	switch {
	case name == "":
		return errors.New("it is empty")
	case name == "." || name == "..":
		return errors.New("it is a directory's")
	case strings.ContainsAny(name, "/\x00"):
		return errors.New("it is a path, and has to be a name within the directory")
	case len(name) > 255:
		return errors.New("it has more than 255 bytes")
	}
	return nil
}

// Members returns the files that make the data store, in the order in which they are to be loaded: the base, if there is one, then the increments. History
// isn't among them.
func (m *Manifest) Members() []File {
	var files []File
	for _, f := range m.Files {
		if f.Type == Base {
			files = append(files, f)
		}
	}
	for _, f := range m.Files {
		if f.Type == Incremental {
			files = append(files, f)
		}
	}
	return files
}

// Same tells whether two manifests name the same members, whatever their offsets and their history are.
func (m *Manifest) Same(o *Manifest) bool {
	a, b := m.Members(), o.Members()
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Name != b[i].Name || a[i].Seq != b[i].Seq || a[i].Type != b[i].Type {
			return false
		}
	}
	return true
}

// Encode returns the text of the manifest, as a server writes it. It doesn't check it.
func (m *Manifest) Encode() []byte {
	var b []byte
	for _, f := range m.Files {
		b = append(b, "file "...)
		b = appendWord(b, f.Name)
		b = append(b, " seq "...)
		b = strconv.AppendInt(b, f.Seq, 10)
		b = append(b, " type "...)
		b = append(b, byte(f.Type))
		for _, a := range f.Attrs {
			b = appendWord(append(b, ' '), a.Key)
			b = appendWord(append(b, ' '), a.Value)
		}
		b = append(b, '\n')
	}
	return b
}

const hexDigits = "0123456789abcdef"

// escapes are the letters that servers write behind a backslash.
var escapes = map[byte]byte{'\n': 'n', '\r': 'r', '\t': 't', '\a': 'a', '\b': 'b', '\\': '\\', '"': '"'}

// appendWord adds a word, in quotes if it needs them.
func appendWord(b []byte, word string) []byte {
	plain := word != ""
	for _, c := range []byte(word) {
		plain = plain && c > ' ' && c < 0x7f && c != '\\' && c != '"' && c != '\''
	}
	if plain {
		return append(b, word...)
	}
	b = append(b, '"')
	for _, c := range []byte(word) {
		switch e, ok := escapes[c]; {
		case ok:
			b = append(b, '\\', e)
		case c >= ' ' && c < 0x7f:
			b = append(b, c)
		default:
			b = append(b, '\\', 'x', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return append(b, '"')
}

// splitArgs splits a line into words as a server's sdssplitargs does: words in "…" have escapes, of those in '…' only \' is one, and
// what closes a word has to be followed by space.
func splitArgs(line string) ([]string, error) {
	var words []string
	for i := 0; ; {
		for i < len(line) && isSpace(line[i]) {
			i++
		}
		if i == len(line) {
			return words, nil
		}
		var word []byte
	read:
		for i < len(line) && !isSpace(line[i]) {
			switch c := line[i]; c {
			case '"', '\'':
				rest, n, err := quoted(line[i:], c)
				if err != nil {
					return nil, err
				}
				word = append(word, rest...)
				if i += n; i < len(line) && !isSpace(line[i]) {
					return nil, errors.New("something follows a closing quote")
				}
				break read
			case 0:
				return nil, errors.New("it has a zero byte")
			default:
				word = append(word, c)
				i++
			}
		}
		words = append(words, string(word))
	}
}

// quoted reads what is in quotes, and tells how long it is with them.
func quoted(s string, quote byte) (word []byte, n int, err error) {
	for i := 1; i < len(s); i++ {
		c := s[i]
		switch {
		case c == quote:
			return word, i + 1, nil
		case quote == '\'' && c == '\\' && i+1 < len(s) && s[i+1] == '\'':
			i++
			word = append(word, '\'')
		case quote == '"' && c == '\\' && i+3 < len(s) && s[i+1] == 'x' && isHex(s[i+2]) && isHex(s[i+3]):
			v, _ := strconv.ParseUint(s[i+2:i+4], 16, 8) // two hexadecimal digits are a byte
			word = append(word, byte(v))
			i += 3
		case quote == '"' && c == '\\' && i+1 < len(s):
			i++
			c = s[i]
			for raw, e := range escapes {
				if e == c {
					c = raw
					break
				}
			}
			word = append(word, c)
		default:
			word = append(word, c)
		}
	}
	return nil, 0, errors.New("a quote isn't closed")
}

func isSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}
