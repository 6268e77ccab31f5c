package storecatalog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/storage"
)

// An entry is what a summary says of a backup: what a query can be about, and by which object it can be told whether that is still so.
type entry struct {
	ref
	state       catalog.State // empty: the manifest can't be read
	kind        catalog.Kind
	name        string
	policy      string
	description string
	labels      []string // key, value, key, value, …
	cut         bool     // the description and the labels are not here, for they are long
	revision    int      // the highest
	size        int64    // of its object, in bytes
}

// maxDetails is how many bytes of description and labels an entry has.
const maxDetails = 1 << 10

// entryOf returns what a summary says of a manifest. err is why it can't be read, or nil.
func entryOf(v version, err error) entry {
	e := entry{ref: ref{v.id, v.dataStore}, revision: v.highest, size: v.size}
	if err != nil {
		return e
	}
	b := v.backup
	e.state, e.kind, e.name, e.policy = b.State, b.Kind, b.Name, b.Policy
	n := len(b.Description)
	for key, value := range b.Labels {
		n += len(key) + len(value)
	}
	if e.cut = n > maxDetails; e.cut {
		return e
	}
	e.description = b.Description
	for _, key := range slices.Sorted(maps.Keys(b.Labels)) {
		e.labels = append(e.labels, key, b.Labels[key])
	}
	return e
}

func (e entry) equal(o entry) bool {
	labels := slices.Equal(e.labels, o.labels)
	return labels && e.ref == o.ref && e.state == o.state && e.kind == o.kind && e.name == o.name && e.policy == o.policy &&
		e.description == o.description && e.cut == o.cut && e.revision == o.revision && e.size == o.size
}

// open tells whether what the entry says may have changed without a mark: a run ends without one, a deletion too, and nobody knows what
// becomes of a manifest that can't be read.
func (e entry) open() bool {
	return e.state == "" || e.state == catalog.StateRunning || e.state == catalog.StateDeleting
}

// A narrowed query tells which entries can't be meant.
type narrowed struct {
	q, uncut catalog.Query
	scratch  catalog.Backup
	labels   map[string]string
}

// narrow keeps of a query what entries tell of. A field that isn't here narrows nothing, and the manifest decides about it.
func narrow(q catalog.Query) *narrowed {
	n := &narrowed{uncut: catalog.Query{States: q.States, Kinds: q.Kinds, Policy: q.Policy, Name: q.Name}}
	n.q = n.uncut
	n.q.Labels, n.q.Text = q.Labels, q.Text
	if len(q.Labels) > 0 || q.Text != "" {
		n.labels = make(map[string]string)
	}
	return n
}

// may tells whether the backup of an entry may be one that the query selects.
func (n *narrowed) may(e *entry) bool {
	if e.state == "" || e.state == catalog.StateRunning {
		return true
	}
	b := &n.scratch
	b.ID, b.DataStore, b.State, b.Kind, b.Name, b.Policy, b.Description = e.id, e.dataStore, e.state, e.kind, e.name, e.policy, e.description
	if e.cut {
		return n.uncut.Match(b)
	}
	if n.labels != nil {
		clear(n.labels)
		for i := 0; i+1 < len(e.labels); i += 2 {
			n.labels[e.labels[i]] = e.labels[i+1]
		}
		b.Labels = n.labels
	}
	return n.q.Match(b)
}

// summaryKey returns the key of a month's summary.
func summaryKey(month string, number int) string {
	return fmt.Sprintf("%s%s.%012d", summaryPrefix, month, number)
}

// parseSummary takes such a key apart; ok is false for every other key.
func parseSummary(key string) (month string, number int, ok bool) {
	month, digits, ok := strings.Cut(strings.TrimPrefix(key, summaryPrefix), ".")
	if !ok || len(month) != len("2026-11") {
		return "", 0, false
	}
	number, err := strconv.Atoi(digits)
	return month, number, err == nil && number > 0 && summaryKey(month, number) == key
}

// A summary is an object that tells of the backups of a month. Of its numbers the highest counts; each is created exclusively, by who has read
// the one before.
type summary struct {
	// taken are marks that it tells of: what they name is to be looked at, as long as no later summary has done it. Whoever makes that deletes
	// them first.
	taken []mark
	text  string // the entries, see encode
}

// The form of a summary: "amber index 1 ", the SHA-256 of what follows the line in hexadecimal, a newline, and in zstd: the length of what follows, the
// number of marks and the marks, and the entries. A number is a uvarint, and a string its length and its bytes.
const (
	summaryHead = "amber index "
	summaryForm = "1"
	// The most that is read of a summary, as stored and decompressed; a month of a million backups has about a tenth of it.
	maxSummary = 1 << 28
	maxEntries = 1 << 30
	// maxFold is how many times as large as it is stored a summary may be, so that nobody's memory is taken by a small object.
	maxFold = 1000
)

func appendString(to []byte, s string) []byte {
	return append(binary.AppendUvarint(to, uint64(len(s))), s...)
}

// encode returns a summary of entries, which are in the order of their refs.
func encode(taken []mark, entries []entry) ([]byte, error) {
	body := binary.AppendUvarint(nil, uint64(len(taken)))
	for _, n := range taken {
		body = appendString(body, n.key())
	}
	for i := range entries {
		e := &entries[i]
		flags := uint64(0)
		if e.cut {
			flags = 1
		}
		body = binary.AppendUvarint(body, flags)
		for _, s := range []string{string(e.id), e.dataStore, string(e.state), string(e.kind), e.name, e.policy, e.description} {
			body = appendString(body, s)
		}
		body = binary.AppendUvarint(body, uint64(len(e.labels)))
		for _, s := range e.labels {
			body = appendString(body, s)
		}
		body = binary.AppendUvarint(binary.AppendUvarint(body, uint64(e.revision)), uint64(e.size))
	}
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	packed := z.EncodeAll(body, binary.AppendUvarint(nil, uint64(len(body))))
	sum := sha256.Sum256(packed)
	data := append([]byte(summaryHead+summaryForm+" "+hex.EncodeToString(sum[:])+"\n"), packed...)
	if len(data) > maxSummary || len(body) > maxEntries || len(body) > maxFold*len(packed) {
		return nil, fmt.Errorf("a summary of %d backups has %d bytes, %d when unpacked, which is more than would be read", len(entries), len(data), len(body))
	}
	return data, nil
}

// errDamaged is why a summary is of no use.
var errDamaged = errors.New("the index is damaged")

// decode reads a summary. The error is errForeign for one that a newer Amber wrote, or wraps errDamaged.
func decode(data []byte) (*summary, error) {
	damaged := func(why string) (*summary, error) { return nil, fmt.Errorf("%w: %s", errDamaged, why) }
	line, packed, ok := bytes.Cut(data, []byte("\n"))
	head, isIndex := strings.CutPrefix(string(line[:min(len(line), 200)]), summaryHead)
	form, hash, two := strings.Cut(head, " ")
	switch {
	case !ok || !isIndex || !two:
		return damaged("it doesn't begin like a summary")
	case form != summaryForm:
		if n, err := strconv.Atoi(form); err == nil && n > 1 {
			return nil, errForeign
		}
		return damaged("its form doesn't exist")
	}
	if sum := sha256.Sum256(packed); hash != hex.EncodeToString(sum[:]) {
		return damaged("it doesn't match its SHA-256")
	}
	size, n := binary.Uvarint(packed)
	if n <= 0 || size > maxEntries || size > maxFold*uint64(len(packed)) {
		return damaged("it tells no size that it can have")
	}
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxEntries), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	body, err := z.DecodeAll(packed[n:], make([]byte, 0, size))
	if err != nil || uint64(len(body)) != size {
		return damaged("it can't be unpacked")
	}
	s := &summary{}
	in := cutter{text: string(body)}
	for range in.number() {
		taken, ok := parseMark(in.string())
		if !ok {
			return damaged("a mark of it is none")
		}
		s.taken = append(s.taken, taken)
	}
	if in.bad {
		return damaged("it is cut")
	}
	s.text = in.text
	return s, nil
}

// A cutter takes numbers and strings from the beginning of a text.
type cutter struct {
	text string
	bad  bool // there was no such thing
}

func (c *cutter) number() uint64 {
	var x uint64
	for i := 0; i < len(c.text) && i < binary.MaxVarintLen64; i++ {
		b := c.text[i]
		x |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			c.text = c.text[i+1:]
			return x
		}
	}
	c.bad, c.text = true, ""
	return 0
}

func (c *cutter) string() string {
	n := c.number()
	if n > uint64(len(c.text)) {
		c.bad, c.text = true, ""
		return ""
	}
	s := c.text[:n]
	c.text = c.text[n:]
	return s
}

// all gives the entries, in the order of their refs. They share memory with the summary. An error wraps errDamaged and ends the sequence.
func (s *summary) all(month string) iter.Seq2[*entry, error] {
	return func(yield func(*entry, error) bool) {
		in := cutter{text: s.text}
		var e, last entry
		for len(in.text) > 0 {
			last = e
			e = entry{cut: in.number() == 1}
			e.id, e.dataStore = catalog.ID(in.string()), in.string()
			e.state, e.kind = catalog.State(in.string()), catalog.Kind(in.string())
			e.name, e.policy, e.description = in.string(), in.string(), in.string()
			labels := in.number()
			if labels > 2*catalog.MaxLabels {
				in.bad = true
			} else if labels > 0 {
				e.labels = make([]string, labels)
				for i := range e.labels {
					e.labels[i] = in.string()
				}
			}
			e.revision, e.size = int(in.number()&(1<<31-1)), int64(in.number()&(1<<62-1))
			switch _, valid := e.id.Time(); {
			case in.bad, !valid, e.month() != month, catalog.ValidName(e.dataStore) != nil, last.id != "" && last.compare(e.ref) >= 0:
				yield(nil, fmt.Errorf("%w: an entry of month %s is none", errDamaged, month))
				return
			}
			if !yield(&e, nil) {
				return
			}
		}
	}
}

// load reads a month's summary; number 0 is the one that tells of nothing. The error wraps storage.ErrNotFound if there is a higher one by now.
func (c *Catalog) load(ctx context.Context, month string, number int) (*summary, error) {
	if number == 0 {
		return &summary{}, nil
	}
	data, err := storage.ReadFile(ctx, c.store, summaryKey(month, number), maxSummary)
	if err != nil {
		return nil, err
	}
	return decode(data)
}

func sortMarks(marks []mark) {
	slices.SortFunc(marks, func(a, b mark) int {
		if n := a.compare(b.ref); n != 0 {
			return n
		}
		return strings.Compare(a.nonce, b.nonce)
	})
}
