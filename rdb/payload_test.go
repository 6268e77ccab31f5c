package rdb

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// A value that was taken raw can be taken apart afterwards: the elements are those of the stream.
func TestPayloadReader(t *testing.T) {
	for _, f := range fixtures(t, 1<<20) {
		raw, whole := NewReader(bytes.NewReader(f.data), nil), NewReader(bytes.NewReader(f.data), nil)
		n := 0
		for {
			e, err := raw.Next()
			if err == io.EOF {
				break
			}
			want, err2 := whole.Next()
			if err != nil || err2 != nil {
				t.Fatalf("%s: %v, %v", f.name, err, err2)
			}
			if e.Kind != KindKey {
				continue
			}
			payload, err := raw.AppendRaw(nil, -1)
			if errors.Is(err, ErrUnsupported) { // it uses a hash template
				continue
			}
			if err != nil {
				t.Fatalf("%s: %v", f.name, err)
			}
			again := NewPayloadReader(bytes.NewReader(payload), raw.Dialect(), e, nil)
			got, err := again.Next()
			if err != nil || !bytes.Equal(got.Key, e.Key) || got.Type != e.Type || got.Encoding != e.Encoding || got.DB != e.DB {
				t.Fatalf("%s: key %q became %+v, %v", f.name, e.Key, got, err)
			}
			v, err := again.Value(-1)
			w, err2 := whole.Value(-1)
			if err != nil || err2 != nil || len(v) != len(w) {
				t.Fatalf("%s: key %q has %d elements instead of %d; %v, %v", f.name, want.Key, len(v), len(w), err, err2)
			}
			for i := range v {
				if !bytes.Equal(v[i].Value, w[i].Value) || !bytes.Equal(v[i].Field, w[i].Field) || v[i].ID != w[i].ID || v[i].ExpireAt != w[i].ExpireAt {
					t.Fatalf("%s: key %q, element %d: %+v instead of %+v", f.name, want.Key, i, v[i], w[i])
				}
			}
			n++
		}
		if n == 0 && raw.Stats().Keys > 0 {
			t.Errorf("%s: no value was compared", f.name)
		}
	}
}
