package rdb

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
)

// pieces returns a source that gives data in pieces of the given sizes, over and over.
func pieces(data, sizes []byte) io.Reader {
	i := 0
	return readerFunc(func(p []byte) (int, error) {
		if len(data) == 0 {
			return 0, io.EOF
		}
		n := 1
		if len(sizes) > 0 {
			n = int(sizes[i%len(sizes)])
			i++
		}
		if i%50 == 0 {
			n = max(n, 1) // some reads may give nothing, but not all
		}
		n = min(n, len(data), len(p))
		copy(p, data[:n])
		data = data[n:]
		return n, nil
	})
}

// elementLines describes all entries, with all their elements, and returns what ended it.
func elementLines(r *Reader) (lines []string, err error) {
	for {
		e, err := r.Next()
		if err != nil {
			return lines, err
		}
		before := describe(e)
		n := int64(-1)
		if e.Kind == KindKey || e.Kind == KindFunction || e.Kind == KindModuleAux {
			n = r.Len()
		}
		lines = append(lines, before)
		got := int64(0)
		if r.frame == frameNone && r.val.step == stepNone {
			continue
		}
		for {
			x, err := r.Element()
			if err == io.EOF {
				break
			}
			if err != nil {
				return lines, err
			}
			if !x.More {
				got++
			}
			lines = append(lines, describeElement(x))
		}
		if n >= 0 && n != got {
			return lines, fmt.Errorf("%s: Len says %d, there are %d elements", before, n, got)
		}
		if after := describe(e); after != before {
			return lines, fmt.Errorf("%s: was overwritten: %s", before, after)
		}
	}
}

func describeElement(x *Element) string {
	return fmt.Sprintf("%v more %v left %d %q %q %x exp %d %v %q %+v read %d dlv %d cnt %d seen %d act %d idx %d",
		x.Kind, x.More, x.Left, x.Field, x.Value, x.Score, x.ExpireAt, x.ID, x.Fields, x.Stream, x.Read, x.Delivered, x.Count, x.Seen, x.Active, x.Index)
}

// A whole is what reading data whole gives.
type whole struct {
	data  []byte
	lines []string
	err   error
}

func wholeElements(data []byte) *whole {
	lines, err := elementLines(NewReader(bytes.NewReader(data), nil))
	return &whole{data, lines, err}
}

// sameElements reads data as elements, whole and in another way: the elements have to be the same.
func sameElements(t testing.TB, data []byte, other *Reader) error {
	t.Helper()
	return wholeElements(data).same(t, other)
}

// same reads the data in another way. In a stream that is wrong, one may give some more elements before it says so.
func (w *whole) same(t testing.TB, other *Reader) error {
	t.Helper()
	data, want, err := w.data, w.lines, w.err
	got, otherErr := elementLines(other)
	if (err == io.EOF) != (otherErr == io.EOF) {
		t.Fatalf("%.2000q: %v; the other way %v", data, err, otherErr)
	}
	n := min(len(want), len(got))
	if err == io.EOF && len(want) != len(got) {
		t.Fatalf("%.2000q: %d lines, the other way %d", data, len(want), len(got))
	}
	for i := range n {
		if want[i] != got[i] {
			t.Fatalf("%.2000q, line %d:\n%s\nthe other way\n%s", data, i, want[i], got[i])
		}
	}
	for _, err := range []error{err, otherErr} {
		if strings.Contains(err.Error(), "Len says") || strings.Contains(err.Error(), "was overwritten") {
			t.Fatalf("%.2000q: %v", data, err)
		}
	}
	return err
}

// readElements reads data as elements and checks that memory is bounded.
func readElements(t testing.TB, data []byte, read func(*Reader) error) error {
	t.Helper()
	before := allocated()
	r := newReader(bytes.NewReader(data), nil, 256)
	err := read(r)
	// Besides what readAny says: the window on large blobs, and the table and records of Check.
	if used, limit := allocated()-before, 400*uint64(len(data))+3<<20; used > limit {
		t.Fatalf("%d bytes made the reader allocate %d, the limit is %d: %v", len(data), used, limit, err)
	}
	return err
}

func drain(r *Reader) error {
	for {
		if _, err := r.Next(); err != nil {
			return err
		}
		for {
			if _, err := r.Element(); err != nil {
				if err == io.EOF || err == ErrNoValue {
					break
				}
				return err
			}
		}
	}
}

// unsealed makes data that begins like a stream one without a checksum, so that a change isn't refused for that alone.
func unsealed(data []byte) []byte {
	if len(data) <= 8 {
		return data
	}
	return append(bytes.Clone(data[:len(data)-8]), 0, 0, 0, 0, 0, 0, 0, 0)
}

// FuzzElements reads any bytes as elements: no panic, bounded memory, the same elements however the stream is fragmented. What
// can be read so can be read raw.
func FuzzElements(f *testing.F) {
	addSeeds(f, func(data []byte) { f.Add(data, uint16(0), []byte{1, 2, 3, 0, 200}) })
	f.Fuzz(func(t *testing.T, data []byte, size uint16, sizes []byte) {
		data = unsealed(data)
		readElements(t, data, drain)
		err := sameElements(t, data, newReader(pieces(data, sizes), nil, smallestBuffer+int(size)))
		if err == io.EOF && readAll(NewReader(bytes.NewReader(data), nil)) != io.EOF {
			t.Fatal("it can be read as elements, but not raw")
		}
	})
}

// FuzzCheck checks any bytes, whole and in pieces. What is right can be read, and is right in every dialect too.
func FuzzCheck(f *testing.F) {
	addSeeds(f, func(data []byte) { f.Add(data, uint16(0), []byte{1, 2, 3, 0, 200}, uint8(0)) })
	all := targets()
	f.Fuzz(func(t *testing.T, data []byte, size uint16, sizes []byte, to uint8) {
		data = unsealed(data)
		err := readElements(t, data, func(r *Reader) error { return Check(r, nil) })
		if again := Check(newReader(pieces(data, sizes), nil, smallestBuffer+int(size)), nil); (again == nil) != (err == nil) {
			t.Fatalf("%v, in pieces %v", err, again)
		}
		if err != nil {
			return
		}
		if _, err := elementLines(NewReader(bytes.NewReader(data), nil)); err != io.EOF {
			t.Fatalf("it is right, but reading its elements gives %v", err)
		}
		out, report, err := convert(data, all[int(to)%len(all)], &ConvertOptions{Policy: DropDetail})
		if err != nil {
			t.Fatalf("converting to %v: %v", all[int(to)%len(all)], err)
		}
		if slices.ContainsFunc(report.Losses, func(l LossReport) bool { return l.Loss == LossJournal }) {
			return // what is there twice had a reason, and has none without the journal
		}
		if err := Check(NewReader(bytes.NewReader(out), nil), nil); err != nil {
			t.Fatalf("converted to %v: %v", all[int(to)%len(all)], err)
		}
	})
}

// FuzzConvert converts what is right to some dialect and back.
func FuzzConvert(f *testing.F) {
	all := targets()
	addSeeds(f, func(data []byte) {
		for to := range all {
			f.Add(data, uint8(to))
		}
	})
	f.Fuzz(func(t *testing.T, data []byte, to uint8) {
		data = unsealed(data)
		if Check(NewReader(bytes.NewReader(data), nil), nil) == nil {
			convertThereAndBack(t, data, all[int(to)%len(all)])
		}
	})
}

// FuzzWriter reads what is right as elements and writes these, with and without the number of elements: what is read back has
// to be the same.
func FuzzWriter(f *testing.F) {
	addSeeds(f, func(data []byte) { f.Add(data, true); f.Add(data, false) })
	f.Fuzz(func(t *testing.T, data []byte, counted bool) {
		data = unsealed(data)
		if Check(NewReader(bytes.NewReader(data), nil), nil) != nil {
			return
		}
		r := NewReader(bytes.NewReader(data), nil)
		if err := readAll(r); err != io.EOF {
			t.Fatal(err)
		}
		d := r.Dialect()
		if !d.known() || d.Family == Redis && d.Version < 6 || !hasAll(d, data) {
			return
		}
		out, err := rewrite(data, d, counted)
		if err == errNotWritten {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		c := contentOf(d)
		want, err := c.of(data)
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.of(out)
		if err != nil {
			t.Fatal(err)
		}
		if diff := diffContents(want, got); diff != "" {
			t.Fatal(diff)
		}
	})
}

// errNotWritten says that a stream has values that a Writer writes only untouched.
var errNotWritten = errors.New("arrays and KeyDB's jobs can't be written by elements")

// rewrite writes all keys and functions of a stream element by element.
func rewrite(data []byte, d Dialect, counted bool) ([]byte, error) {
	var out bytes.Buffer
	var opts WriterOptions
	if counted {
		opts.Compression = CompressLZF
	}
	w, err := NewWriter(&out, d, &opts)
	if err != nil {
		return nil, err
	}
	r := NewReader(bytes.NewReader(data), nil)
	for e, err := range r.Entries() {
		if err != nil {
			return nil, err
		}
		if e.Kind != KindKey && e.Kind != KindFunction {
			continue
		}
		if e.Type == TypeArray || e.Type == TypeCron {
			return nil, errNotWritten
		}
		s := Shape{Expiry: e.Type == TypeHash || e.Type == TypeSet && d.Family == Dragonfly}
		if _, can := d.expiryHash(); !can && e.Type == TypeHash {
			s.Expiry = false
		}
		if counted {
			s.Len = uint64(max(r.Len(), 0))
		}
		if err := w.WriteEntry(e, s); err != nil {
			return nil, err
		}
		for x, err := range r.Elements() {
			if err != nil {
				return nil, err
			}
			if err := w.WriteElement(x); err != nil {
				return nil, err
			}
		}
	}
	err = w.Close()
	return out.Bytes(), err
}

// TestRewrite writes every fixture element by element.
func TestRewrite(t *testing.T) {
	for _, f := range append(fixtures(t, 1<<20), rareFixtures()...) {
		if Check(NewReader(bytes.NewReader(f.data), nil), nil) != nil {
			continue
		}
		for _, counted := range []bool{false, true} {
			r := NewReader(bytes.NewReader(f.data), nil)
			if err := readAll(r); err != io.EOF {
				t.Fatal(err)
			}
			d := r.Dialect()
			if d.Family == Redis && d.Version < 6 {
				d.Version = 6
			}
			out, err := rewrite(f.data, d, counted)
			if err == errNotWritten {
				continue
			}
			if err != nil {
				t.Errorf("%s: %v", f.name, err)
				continue
			}
			c := contentOf(d)
			want, _ := c.of(f.data)
			got, err := c.of(out)
			if err != nil {
				t.Errorf("%s: %v", f.name, err)
			} else if diff := diffContents(want, got); diff != "" {
				t.Errorf("%s: %s", f.name, diff)
			}
			if err := Check(NewReader(bytes.NewReader(out), nil), nil); err != nil {
				t.Errorf("%s: %v", f.name, err)
			}
		}
	}
}

// FuzzGlob compares the matcher with a slow one that follows the definition, on patterns of all bytes.
func FuzzGlob(f *testing.F) {
	for _, s := range [][2]string{{"*", ""}, {"a*b?c", "axxbyc"}, {"[a-c]", "b"}, {"[^a-c]x", "dx"}, {`\*`, "*"}, {"[", "["}, {"[]a]", "a"}, {`[\]]`, "]"}, {"**a", "bca"}, {"[c-a]", "b"}, {"[a", "a"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if len(pattern) > 40 || len(name) > 40 || strings.Count(pattern, "*") > 6 {
			return
		}
		if got, want := matchGlob(pattern, []byte(name)), slowGlob(pattern, name); got != want {
			t.Fatalf("%q matches %q: %v, want %v", pattern, name, got, want)
		}
	})
}

// slowGlob makes a list of byte sets of the pattern, and a table of what matches what.
func slowGlob(pattern, name string) bool {
	if name == "" {
		return pattern == "" || pattern == "*"
	}
	var items []*[256]bool // nil: a star
	for i := 0; i < len(pattern); {
		set := new([256]bool)
		c := pattern[i]
		i++
		switch {
		case c == '*':
			set = nil
		case c == '?':
			for b := range set {
				set[b] = true
			}
		case c == '[':
			not := strings.HasPrefix(pattern[i:], "^")
			if not {
				i++
			}
			for i < len(pattern) && pattern[i] != ']' {
				low, high := pattern[i], pattern[i]
				switch rest := pattern[i:]; {
				case low == '\\' && len(rest) > 1:
					low, high = rest[1], rest[1]
					i += 2
				case len(rest) > 2 && rest[1] == '-':
					high = rest[2]
					i += 3
				default:
					i++
				}
				for b := range set {
					set[b] = set[b] || byte(b) >= min(low, high) && byte(b) <= max(low, high)
				}
			}
			i++
			for b := range set {
				set[b] = set[b] != not
			}
		case c == '\\' && i < len(pattern):
			set[pattern[i]] = true
			i++
		default:
			set[c] = true
		}
		items = append(items, set)
	}
	can := make([]bool, len(name)+1) // the items so far match so much of the name
	can[0] = true
	for _, set := range items {
		next := make([]bool, len(can))
		for n := range can {
			switch {
			case set == nil:
				next[n] = can[n] || n > 0 && next[n-1]
			case n > 0:
				next[n] = can[n-1] && set[name[n-1]]
			}
		}
		can = next
	}
	return can[len(name)]
}
