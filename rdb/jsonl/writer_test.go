package jsonl

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/amberkv/amber/rdb"
)

// files returns the .rdb files of testdata.
func files(t testing.TB) map[string][]byte {
	t.Helper()
	names, err := filepath.Glob("../testdata/*/*.rdb")
	if err != nil || len(names) < 60 {
		t.Fatalf("%d files, %v", len(names), err)
	}
	out := make(map[string][]byte)
	for _, name := range names {
		if out[name], err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// TestSpilled writes every fixture with so little memory that each value goes through the spool: the lines are the same. Without
// a spool they are the same, or it is told that one is missing.
func TestSpilled(t *testing.T) {
	missing := 0
	for name, data := range files(t) {
		want, err := write(data, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, held := range []int{100, 2000} {
			got, err := write(data, &Options{MaxHeld: held, Spool: spoolIn(t)})
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s with %d bytes in memory differs: %v", name, held, err)
			}
			got, err = write(data, &Options{MaxHeld: held})
			var tooLarge *rdb.TooLargeError
			if errors.As(err, &tooLarge) {
				missing++
				if tooLarge.Limit != int64(held) || !bytes.HasPrefix(want, got) || len(got) > 0 && got[len(got)-1] != '\n' {
					t.Errorf("%s without a spool: %v, and lines that differ", name, err)
				}
			} else if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s without a spool: %v, or other lines", name, err)
			}
		}
	}
	if missing < 20 {
		t.Errorf("only %d times a spool was missing", missing)
	}
}

// given gives elements that were made before.
type given struct {
	list []rdb.Element
	at   int
}

func (g *given) Element() (*rdb.Element, error) {
	if g.at == len(g.list) {
		return nil, io.EOF
	}
	g.at++
	return &g.list[g.at-1], nil
}

// key returns an entry of a type.
func key(typ rdb.Type, encoding uint8) *rdb.Entry {
	return &rdb.Entry{Kind: rdb.KindKey, Type: typ, Encoding: encoding, Key: []byte("k"), Idle: -1, Freq: -1}
}

// valueOf returns what is written for a value.
func valueOf(t *testing.T, e *rdb.Entry, opts *Options, list ...rdb.Element) (string, error) {
	t.Helper()
	var out bytes.Buffer
	w := NewWriter(&out, opts)
	err := w.WriteValue(e, &given{list: list})
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	return strings.TrimSuffix(out.String(), "\n"), err
}

// TestLongValues writes values that come in pieces, through little memory.
func TestLongValues(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	long := make([]byte, 300_000)
	for i := range long {
		long[i] = byte(r.Uint32())
	}
	// pieces returns the elements of a value in pieces.
	pieces := func(e rdb.Element, value []byte) (out []rdb.Element) {
		for len(value) > 0 {
			n := min(len(value), 64<<10)
			e.Value, e.More, e.Left = value[:n], n < len(value), int64(len(value)-n)
			out, value = append(out, e), value[n:]
		}
		return out
	}
	text := func(b []byte) string {
		w := NewWriter(nil, nil)
		w.buf = make([]byte, 0, 5*len(b)+100)
		w.string(b)
		return string(w.buf)
	}
	for _, held := range []int{100, 100_000, 4 << 20} {
		opts := &Options{MaxHeld: held, Spool: spoolIn(t)}
		var list []rdb.Element
		list = append(list, pieces(rdb.Element{Kind: rdb.ElementField, Field: []byte("z"), ExpireAt: 7}, long)...)
		list = append(list, pieces(rdb.Element{Kind: rdb.ElementField, Field: []byte("b")}, []byte("short"))...)
		list = append(list, pieces(rdb.Element{Kind: rdb.ElementField, Field: []byte("a")}, long[:150_000])...)
		got, err := valueOf(t, key(rdb.TypeHash, 24), opts, list...)
		want := `[["a",` + text(long[:150_000]) + `,null],["b","short",null],["z",` + text(long) + `,7]]`
		if err != nil || got != want {
			t.Errorf("hash with %d bytes in memory: %v", held, err)
		}
		got, err = valueOf(t, key(rdb.TypeList, 18), opts, append(pieces(rdb.Element{Kind: rdb.ElementItem}, long), rdb.Element{Kind: rdb.ElementItem})...)
		if err != nil || got != "["+text(long)+`,""]` {
			t.Errorf("list: %v", err)
		}
		got, err = valueOf(t, key(rdb.TypeString, 0), opts, pieces(rdb.Element{Kind: rdb.ElementBytes}, long)...)
		if err != nil || got != text(long) {
			t.Errorf("string: %v", err)
		}
	}
}

// TestGroups writes a group of many entries and consumers, whose names are not in the order of their text.
func TestGroups(t *testing.T) {
	const entries, consumers = 3000, 40
	var list []rdb.Element
	list = append(list, rdb.Element{Kind: rdb.ElementStream, Stream: rdb.StreamInfo{Length: 0}, Left: 2})
	for n, group := range []string{"z", "a\x00"} {
		list = append(list, rdb.Element{Kind: rdb.ElementGroup, Value: []byte(group), Read: -1, Left: int64(1 - n)})
		for i := range entries {
			list = append(list, rdb.Element{Kind: rdb.ElementPending, ID: rdb.StreamID{MS: uint64(i / 2), Seq: uint64(i % 2)}, Delivered: int64(i), Count: 2})
		}
		for c := range consumers {
			list = append(list, rdb.Element{Kind: rdb.ElementConsumer, Value: []byte{byte(7 * c), 'x'}, Seen: int64(c), Active: -1})
			for i := c; i < entries; i += consumers {
				if i%100 != 99 {
					list = append(list, rdb.Element{Kind: rdb.ElementOwned, ID: rdb.StreamID{MS: uint64(i / 2), Seq: uint64(i % 2)}})
				}
			}
		}
	}
	var want string
	for _, held := range []int{4 << 20, 10_000, 100} {
		got, err := valueOf(t, key(rdb.TypeStream, 21), &Options{MaxHeld: held, Spool: spoolIn(t)}, list...)
		if err != nil {
			t.Fatal(err)
		}
		if want == "" {
			want = got
		} else if got != want {
			t.Errorf("with %d bytes in memory it is something else", held)
		}
	}
	var v struct {
		Groups []struct {
			Name      string
			Pel       [][]any
			Consumers []struct {
				Name string
				Seen int `json:"seen-time"`
				Pel  [][]any
			}
		}
	}
	if err := json.Unmarshal([]byte(want), &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Groups) != 2 || v.Groups[0].Name != `a\x00` {
		t.Fatalf("groups: %.200s", want)
	}
	g := v.Groups[1]
	if len(g.Pel) != entries || len(g.Consumers) != consumers {
		t.Fatalf("%d entries, %d consumers", len(g.Pel), len(g.Consumers))
	}
	at := make(map[string]int)
	for i, p := range g.Pel {
		var owner any
		if i%100 != 99 {
			owner = unescapedText([]byte{byte(7 * (i % consumers)), 'x'})
		}
		if w := fmt.Sprint([]any{fmt.Sprintf("%d-%d", i/2, i%2), owner, i, 2}); fmt.Sprint(p) != w {
			t.Fatalf("pending entry %d is %v, want %v", i, p, w)
		}
	}
	last := ""
	for _, c := range g.Consumers {
		if c.Name <= last {
			t.Errorf("consumer %q comes behind %q", c.Name, last)
		}
		last = c.Name
		at[c.Name] = len(c.Pel)
		for _, p := range c.Pel {
			if i := int(p[1].(float64)); i%consumers != c.Seen || p[0] != fmt.Sprintf("%d-%d", i/2, i%2) {
				t.Errorf("consumer %q has %v", c.Name, p)
			}
		}
	}

	// What contradicts itself is refused.
	pending := rdb.Element{Kind: rdb.ElementPending, ID: rdb.StreamID{MS: 5}}
	consumer := rdb.Element{Kind: rdb.ElementConsumer, Value: []byte("c")}
	own := rdb.Element{Kind: rdb.ElementOwned, ID: rdb.StreamID{MS: 5}}
	other := rdb.Element{Kind: rdb.ElementOwned, ID: rdb.StreamID{MS: 6}}
	for name, bad := range map[string][]rdb.Element{
		"not pending":      {pending, consumer, own, other},
		"owned twice":      {pending, consumer, own, consumer, own},
		"pending twice":    {pending, pending, consumer, own},
		"nobody's":         {pending, own},
		"a string's piece": {{Kind: rdb.ElementBytes}},
	} {
		list := append([]rdb.Element{{Kind: rdb.ElementStream, Left: 1}, {Kind: rdb.ElementGroup}}, bad...)
		if _, err := valueOf(t, key(rdb.TypeStream, 21), nil, list...); !errors.Is(err, rdb.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// unescapedText is the text of a byte string, made in another way.
func unescapedText(b []byte) string {
	var out strings.Builder
	for _, c := range b {
		switch {
		case c == '\\':
			out.WriteString(`\\`)
		case c < 0x20 || c > 0x7e:
			fmt.Fprintf(&out, `\x%02x`, c)
		default:
			out.WriteByte(c)
		}
	}
	return out.String()
}

// TestText holds escaping and the order of texts against a plain way to do it.
func TestText(t *testing.T) {
	table, order := newEscaped(), textOrder()
	r := rand.New(rand.NewPCG(3, 4))
	var samples [][]byte
	for i := range 256 {
		samples = append(samples, []byte{byte(i)}, []byte{'a', byte(i), 'b'}, []byte("12345678"+string([]byte{byte(i)})), bytes.Repeat([]byte{byte(i)}, 9))
	}
	for range 20_000 {
		b := make([]byte, r.IntN(40))
		for i := range b {
			if b[i] = byte(0x20 + r.IntN(0x5f)); r.IntN(8) == 0 {
				b[i] = byte(r.Uint32())
			}
		}
		samples = append(samples, b)
	}
	for i, b := range samples {
		dst := make([]byte, 3, 3+longestText*len(b)+textSlack)
		got := table.appendText(dst, b)[3:]
		var text string
		if err := json.Unmarshal([]byte(`"`+string(got)+`"`), &text); err != nil || text != unescapedText(b) {
			t.Fatalf("%q becomes %s, want %q (%v)", b, got, unescapedText(b), err)
		}
		other := samples[(i*7919)%len(samples)]
		if want, got := strings.Compare(unescapedText(b), unescapedText(other)), order.Compare(b, other); want < 0 != (got < 0) || want > 0 != (got > 0) {
			t.Fatalf("%q and %q compare %d, want %d", b, other, got, want)
		}
	}
}

// TestDouble reads back what is written for numbers of every size.
func TestDouble(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	numbers := []float64{5e-324, math.MaxFloat64, 2.2250738585072014e-308, 2.225073858507201e-308, 1e23, 9007199254740993, 0.1}
	for e := -1074; e < 1024; e++ {
		f := math.Ldexp(1, e)
		numbers = append(numbers, f, math.Nextafter(f, 0), math.Nextafter(f, math.Inf(1)))
	}
	for range 200_000 {
		numbers = append(numbers, math.Float64frombits(r.Uint64()), math.Float64frombits(r.Uint64()>>r.IntN(13)))
	}
	for _, f := range numbers {
		if f-f != 0 {
			continue
		}
		text := string(appendDouble(nil, f))
		back, err := strconv.ParseFloat(text, 64)
		if err != nil || back != f || len(text) > 25 {
			t.Fatalf("%v becomes %s, which is %v (%v)", f, text, back, err)
		}
	}
}

// TestNoAllocations writes values of every common type over and over.
func TestNoAllocations(t *testing.T) {
	w := NewWriter(io.Discard, nil)
	b := func(s string) []byte { return []byte(s) }
	id := func(n uint64) rdb.StreamID { return rdb.StreamID{MS: n} }
	values := map[*rdb.Entry][]rdb.Element{
		key(rdb.TypeString, 0): {{Kind: rdb.ElementBytes, Value: b("value")}},
		key(rdb.TypeList, 18):  {{Kind: rdb.ElementItem, Value: b("one")}, {Kind: rdb.ElementItem, Value: b("two\x00")}},
		key(rdb.TypeSet, 2):    {{Kind: rdb.ElementMember, Value: b("two")}, {Kind: rdb.ElementMember, Value: b("one"), ExpireAt: 5}},
		key(rdb.TypeZSet, 5):   {{Kind: rdb.ElementScored, Value: b("two"), Score: 2.25}, {Kind: rdb.ElementScored, Value: b("one"), Score: 1}},
		key(rdb.TypeHash, 4):   {{Kind: rdb.ElementField, Field: b("f"), Value: b("v")}, {Kind: rdb.ElementField, Field: b("e"), Value: b("v"), ExpireAt: 9}},
		key(rdb.TypeStream, 21): {{Kind: rdb.ElementEntry, ID: id(1), Fields: [][]byte{b("f"), b("v")}}, {Kind: rdb.ElementStream, Left: 2},
			{Kind: rdb.ElementGroup, Value: b("g"), Left: 1}, {Kind: rdb.ElementPending, ID: id(1)}, {Kind: rdb.ElementConsumer, Value: b("c")}, {Kind: rdb.ElementOwned, ID: id(1)},
			{Kind: rdb.ElementGroup, Value: b("h")}, {Kind: rdb.ElementConsumer, Value: b("d")}},
		key(rdb.TypeCMS, 35): {{Kind: rdb.ElementRaw, Value: append([]byte{1, 2, 3}, make([]byte, 16)...)}},
	}
	var g given
	for e, list := range values {
		if n := testing.AllocsPerRun(100, func() {
			g.list, g.at = list, 0
			if err := w.WriteKey(e, &g); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%v: %v allocations", e.Type, n)
		}
	}
	if err := w.Flush(); err != nil {
		t.Error(err)
	}
}

// TestErrors lets the source, and what is beneath, fail: whole lines come before the error.
func TestErrors(t *testing.T) {
	for name, data := range files(t) {
		want, err := write(data, nil)
		if err != nil {
			t.Fatal(err)
		}
		for at := 9; at < len(data)-20; at += 1 + len(data)/10 {
			got, err := write(data[:at], nil)
			if err == nil {
				continue // of Dragonfly's files the end may be padding
			}
			if !errors.Is(err, rdb.ErrCorrupt) || !bytes.HasPrefix(want, got) || len(got) > 0 && got[len(got)-1] != '\n' && len(got) < bufferSize/2 {
				t.Errorf("%s cut at %d: %v, and %d bytes of lines", name, at, err, len(got))
			}
		}
	}
	broken := errors.New("broken")
	w := NewWriter(failing{broken}, nil)
	list := slices.Repeat([]rdb.Element{{Kind: rdb.ElementItem, Value: make([]byte, 1000)}}, 1000)
	if err := w.WriteKey(key(rdb.TypeList, 18), &given{list: list}); !errors.Is(err, broken) {
		t.Errorf("writing to what is broken: %v", err)
	}
	if err := w.Close(); !errors.Is(err, broken) {
		t.Errorf("Close: %v", err)
	}
	if err := NewWriter(io.Discard, nil).WriteKey(&rdb.Entry{Kind: rdb.KindFunction}, nil); err == nil {
		t.Error("a function was taken for a key")
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// TestModules writes module values: any, and sketches that are not what they should be.
func TestModules(t *testing.T) {
	module := key(rdb.TypeModule, 7)
	module.Module = 0x1234567890ABCDEF
	raw := func(b ...byte) []rdb.Element {
		var out []rdb.Element
		for _, c := range b {
			out = append(out, rdb.Element{Kind: rdb.ElementRaw, Value: []byte{c}})
		}
		return out
	}
	id := []byte{0x81, 0x12, 0x34, 0x56, 0x78, 0x90, 0xAB, 0xCD, 0xEF}
	items := append(slices.Clone(id), 1, 0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe, 2, 0x40, 100, 3, 0, 0, 0xc0, 0x3f, 4, 0, 0, 0, 0, 0, 0, 0xf0, 0x7f, 5, 2, 'h', 0, 5, 0xc0, 0x85,
		5, 0xc3, 13, 0x41, 0x2c, 2, 'a', 'b', 'a', 0xe0, 0xff, 1, 0xe0, 0x16, 1, 1, 'a', 'b', 0)
	got, err := valueOf(t, module, nil, raw(items...)...)
	want := `{"module":"EjRWeJCrz","version":495,"items":[-2,100,{"float":"1.5"},{"double":"inf"},"h\\x00","-123","` + strings.Repeat("ab", 150) + `"]}`
	if err != nil || got != want {
		t.Errorf("module: %s, %v", got, err)
	}
	for n := range len(items) {
		if _, err := valueOf(t, module, nil, raw(items[:n]...)...); !errors.Is(err, rdb.ErrCorrupt) {
			t.Errorf("module cut at %d: %v", n, err)
		}
	}
	for _, c := range []struct {
		e    *rdb.Entry
		data []byte
	}{
		{key(rdb.TypeCMS, 35), []byte{0, 0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}},
		{key(rdb.TypeCMS, 35), append([]byte{0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 5, 1)},
		{key(rdb.TypeTopK, 36), []byte{0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}},
		{key(rdb.TypeCuckoo, 37), []byte{1, 1, 1, 1, 1, 1, 0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}},
		{key(rdb.TypeRate, 33), nil},
	} {
		got, err := valueOf(t, c.e, nil, raw(c.data...)...)
		if err != nil && !errors.Is(err, rdb.ErrCorrupt) || err == nil && !json.Valid([]byte(got)) {
			t.Errorf("%v: %v, %.100s", c.e.Type, err, got)
		}
	}
}

// FuzzLines writes whatever the reader takes: each line is a JSON document, and little memory gives the same lines.
func FuzzLines(f *testing.F) {
	for _, data := range files(f) {
		if len(data) < 3000 {
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		out, err := write(data, nil)
		if err != nil {
			return
		}
		for line := range bytes.Lines(out) {
			if !json.Valid(line) {
				t.Fatalf("not JSON: %.300q", line)
			}
		}
		again, err := write(data, &Options{MaxHeld: 200, Spool: func() (rdb.Spool, error) { return new(memory), nil }})
		if err != nil || !bytes.Equal(out, again) {
			t.Fatalf("little memory gives other lines (%v)", err)
		}
	})
}

// memory is a spool.
type memory struct{ b []byte }

func (m *memory) ReadAt(p []byte, at int64) (int, error) { return copy(p, m.b[at:]), nil }
func (m *memory) Close() error                           { return nil }
func (m *memory) WriteAt(p []byte, at int64) (int, error) {
	m.b = append(m.b[:at], p...)
	return len(p), nil
}
