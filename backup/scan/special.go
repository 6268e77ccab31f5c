package scan

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/internal/link"
	"github.com/amberkv/amber/internal/crc64"
	"github.com/amberkv/amber/rdb"
)

// The type bytes of values that a stream has in another form than a payload. Facts: rdb-format 3.1, 3.3.13.
const (
	codeString        = 0
	codeHash          = 4
	codeTemplate      = 29  // a hash with its template, Redis 8.10; in streams the templates are apart
	codeTemplateArray = 31  // the same, in another form
	codeMeta          = 243 // metadata of a key, Redis 8.6: in streams before the type and the name, in payloads before the type
)

// maxSpecial bounds the values that have to be held in memory to be written in another form.
const maxSpecial = 16 << 20

// special says whether a payload that begins with a byte can't be part of a stream as it is.
func (sc *scanner) special(code byte) bool {
	d := sc.node.dialect
	if d.Family != rdb.Redis {
		return false
	}
	return code == codeMeta && d.Version >= 13 || (code == codeTemplate || code == codeTemplateArray) && d.Version >= 15
}

// largeSpecial writes a key with such a payload, which is held.
func (sc *scanner) largeSpecial(name []byte, expiry, size int64) error {
	if size > maxSpecial {
		return &backup.SourceError{Addr: sc.node.Addr, Step: "DUMP", Err: link.As(backup.ErrUnsupported,
			fmt.Errorf("a value of %d bytes has metadata or a template, which are written for values of at most %d (database %d, %s)", size, maxSpecial, sc.db.index, quote(name)))}
	}
	payload := make([]byte, 0, size)
	for int64(len(payload)) < size {
		from := len(payload)
		payload = payload[:min(size, int64(from)+1<<20)]
		if err := sc.wire.read(payload[from:]); err != nil {
			return err
		}
	}
	at := len(payload) - crc64.Size
	if err := sc.checkFooter(name, payload[at-2:], crc64.Checksum(payload[:at])); err != nil {
		return err
	}
	if err := sc.wire.end(); err != nil {
		return err
	}
	return sc.encode(name, expiry, payload[:at-2], payload)
}

// encode writes a key whose payload, body without the footer, has another form in a stream.
func (sc *scanner) encode(name []byte, expiry int64, body, payload []byte) error {
	var meta []byte
	if body[0] == codeMeta {
		n, ok := metaLen(body)
		if !ok || n >= len(body) {
			return sc.node.Fail("DUMP", fmt.Errorf("the metadata of a key are not what is known (database %d, %s)", sc.db.index, quote(name)))
		}
		meta, body = body[:n], body[n:]
	}
	code, rest := body[0], body[1:]
	if code == codeTemplate || code == codeTemplateArray {
		hash, err := sc.plainHash(name, meta, payload)
		if err != nil {
			return sc.node.Fail("DUMP", fmt.Errorf("a hash can't be read (database %d, %s): %w", sc.db.index, quote(name), err))
		}
		code, rest = codeHash, hash
	}
	sc.compare(name, code)
	o := sc.out
	if err := o.room(32 + len(meta) + len(name) + len(rest)); err != nil {
		return err
	}
	if expiry >= 0 {
		o.buf = binary.LittleEndian.AppendUint64(append(o.buf, opExpireMillis), uint64(expiry))
	}
	o.buf = append(o.buf, meta...)
	sc.begin(name, -1, code)
	o.buf = append(o.buf, rest...)
	return nil
}

// plainHash makes of a payload what stands behind the name of a hash of the oldest form.
func (sc *scanner) plainHash(name, meta, payload []byte) ([]byte, error) {
	r := rdb.NewPayloadReader(bytes.NewReader(payload), sc.node.dialect, &rdb.Entry{Kind: rdb.KindKey, DB: sc.db.index, Key: name, Meta: meta}, nil)
	if _, err := r.Next(); err != nil {
		return nil, err
	}
	elements, err := r.Value(4 * maxSpecial)
	if err != nil {
		return nil, err
	}
	if len(elements) == 0 {
		return nil, errors.New("it has no fields")
	}
	out := appendLength(nil, uint64(len(elements)))
	for _, e := range elements {
		out = append(appendLength(out, uint64(len(e.Field))), e.Field...)
		out = append(appendLength(out, uint64(len(e.Value))), e.Value...)
	}
	return out, nil
}

// metaLen returns how long the metadata at the beginning of a payload are: a number of classes, each with a number of four bytes and items.
func metaLen(p []byte) (n int, ok bool) {
	c := cursor{p, 1}
	classes, ok := c.length()
	if !ok || classes > 64 {
		return 0, false
	}
	for range classes {
		if !c.skip(4) || !c.items() {
			return 0, false
		}
	}
	return c.at, true
}

// A cursor walks over what modules write.
type cursor struct {
	p  []byte
	at int
}

func (c *cursor) skip(n uint64) bool {
	if n > uint64(len(c.p)-c.at) {
		return false
	}
	c.at += int(n)
	return true
}

func (c *cursor) head() (value uint64, encoded, ok bool) {
	if c.at == len(c.p) {
		return 0, false, false
	}
	b := c.p[c.at]
	c.at++
	rest := c.p[c.at:]
	switch {
	case b>>6 == 0:
		return uint64(b & 63), false, true
	case b>>6 == 1 && len(rest) >= 1:
		c.at++
		return uint64(b&63)<<8 | uint64(rest[0]), false, true
	case b == 0x80 && len(rest) >= 4:
		c.at += 4
		return uint64(binary.BigEndian.Uint32(rest)), false, true
	case b == 0x81 && len(rest) >= 8:
		c.at += 8
		return binary.BigEndian.Uint64(rest), false, true
	case b>>6 == 3:
		return uint64(b & 63), true, true
	}
	return 0, false, false
}

func (c *cursor) length() (uint64, bool) {
	n, encoded, ok := c.head()
	return n, ok && !encoded
}

func (c *cursor) string() bool {
	n, encoded, ok := c.head()
	switch {
	case !ok:
		return false
	case !encoded:
		return c.skip(n)
	case n <= 2:
		return c.skip(1 << n)
	case n != 3:
		return false
	}
	packed, ok := c.length()
	if !ok {
		return false
	}
	_, ok = c.length()
	return ok && c.skip(packed)
}

// items walks over items to the one that ends them.
func (c *cursor) items() bool {
	for {
		kind, ok := c.length()
		if !ok {
			return false
		}
		switch kind {
		case 0:
			return true
		case 1, 2:
			_, ok = c.length()
		case 3:
			ok = c.skip(4)
		case 4:
			ok = c.skip(8)
		case 5:
			ok = c.string()
		default:
			ok = false
		}
		if !ok {
			return false
		}
	}
}

// kind returns a number for each type of value, however it is encoded.
func (sc *scanner) kind(code byte) int {
	switch code {
	case 0:
		return 0
	case 1, 10, 14, 18:
		return 1
	case 2, 11, 20:
		return 2
	case 3, 5, 12, 17:
		return 3
	case 4, 9, 13, 16, 22, 23, 24, 25, 29:
		return 4
	case 15, 19, 21, 26, 27:
		return 5
	case 31: // Dragonfly's or Redis's hash
		return 4
	case 32: // Dragonfly
		return 2
	}
	return int(code)
}
