package rdb

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
)

// A content says how contents are compared.
type content struct {
	hints   bool  // with idle time and frequency
	seconds bool  // with expiries of fields and members in whole seconds, rounded up
	counts  bool  // with what only newer streams know about themselves
	last    int64 // the latest expiry of fields and members, if there is one
	idmp    bool  // with what makes adding to streams idempotent

	expiry func(at int64) int64 // what becomes of expiries; 0 for none; nil: they stay
}

// changed is what becomes of an expiry that isn't 0.
func (c content) changed(at int64) int64 {
	if c.expiry == nil || at == 0 {
		return at
	}
	return c.expiry(at)
}

// of reads a stream and returns what is in it, by "db/key", as text: everything that elements tell, whatever the encoding.
func (c content) of(data []byte) (map[string]string, error) {
	out := make(map[string]string)
	r := NewReader(bytes.NewReader(data), nil)
	for e, err := range r.Entries() {
		if err != nil {
			return nil, err
		}
		var name string
		var b strings.Builder
		switch e.Kind {
		case KindKey:
			name = fmt.Sprintf("%d/%s", e.DB, e.Key)
			if e.HasExpiry {
				e.ExpireAt = c.changed(e.ExpireAt)
			}
			fmt.Fprintf(&b, "%v %d meta %x flags %d %d", e.Type, e.ExpireAt, e.Meta, e.Flags, e.Memcache)
			if c.hints {
				fmt.Fprintf(&b, " idle %d freq %d", e.Idle, e.Freq)
			}
		case KindFunction:
			name = fmt.Sprintf("function %d", len(out))
		default:
			continue
		}
		if out[name] != "" {
			return nil, fmt.Errorf("%q is there twice", name)
		}
		more := false
		for el, err := range r.Elements() {
			if err != nil {
				return nil, err
			}
			if !c.idmp && (el.Kind == ElementIDMP || el.Kind == ElementIDMPEnd) {
				continue
			}
			if !more {
				c.element(&b, el)
			}
			b.Write(el.Value)
			more = el.More || el.Kind == ElementRaw
		}
		out[name] = b.String()
	}
	return out, nil
}

func (c content) element(b *strings.Builder, e *Element) {
	expireAt := c.changed(e.ExpireAt)
	if c.last > 0 {
		expireAt = min(expireAt, c.last)
	}
	if c.seconds {
		if expireAt = (expireAt + 999) / 1000; expireAt > 0 {
			expireAt = min(max(expireAt, dragonflyEpoch), dragonflyEpoch+math.MaxUint32) // what is before or later can't be told
		}
	}
	if b.Len() > 1<<26 {
		panic("the contents are too large for a test")
	}
	fmt.Fprintf(b, "\n%v %q %x %d %v %q", e.Kind, e.Field, e.Score, expireAt, e.ID, e.Fields)
	switch e.Kind {
	case ElementStream:
		fmt.Fprintf(b, " %d %v", e.Stream.Length, e.Stream.LastID)
		if c.counts {
			fmt.Fprintf(b, " %+v", e.Stream)
		}
	case ElementGroup, ElementPending, ElementConsumer, ElementProducer:
		fmt.Fprintf(b, " %d %d %d", e.Delivered, e.Count, e.Seen)
		if c.counts {
			fmt.Fprintf(b, " %d %d", e.Read, e.Active)
		}
	case ElementIDMP, ElementIDMPEnd:
		fmt.Fprintf(b, " %+v", e.Stream)
	case ElementIndexed:
		fmt.Fprintf(b, " %d", e.Index)
	}
	b.WriteByte(' ')
}

// diff tells the first difference of two contents.
func diffContents(want, got map[string]string) string {
	names := make([]string, 0, len(want))
	for name := range want {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if g, ok := got[name]; !ok {
			return fmt.Sprintf("%q is missing", name)
		} else if w := want[name]; g != w {
			i := 0
			for i < len(w) && i < len(g) && w[i] == g[i] {
				i++
			}
			return fmt.Sprintf("%q differs at %d: want …%.100q, got …%.100q", name, i, w[max(0, i-40):], g[max(0, i-40):])
		}
	}
	if len(got) != len(want) {
		return fmt.Sprintf("%d entries, want %d", len(got), len(want))
	}
	return ""
}

// convert converts a stream and returns the result.
func convert(data []byte, to Dialect, opts *ConvertOptions) ([]byte, *ConvertReport, error) {
	var out bytes.Buffer
	w, err := NewWriter(&out, to, nil)
	if err != nil {
		return nil, nil, err
	}
	report, err := Convert(w, NewReader(bytes.NewReader(data), nil), opts)
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	return out.Bytes(), report, err
}

// targets are all dialects that can be written.
func targets() []Dialect {
	out := []Dialect{{Valkey, valkeyVersion}, {Dragonfly, dragonflyVersion}}
	for v := 6; v <= maxRedis; v++ {
		out = append(out, Dialect{Redis, v})
	}
	return out
}

// encodingsIn returns the type bytes of a stream.
func encodingsIn(t testing.TB, data []byte) (codes [256]bool) {
	t.Helper()
	r := NewReader(bytes.NewReader(data), nil)
	for {
		e, err := r.Next()
		if err == io.EOF {
			return codes
		}
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == KindKey {
			codes[e.Encoding] = true
		}
	}
}
