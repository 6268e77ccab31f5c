package rdb

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

// TestValue reads every value of every fixture as a whole, and compares it with its elements.
func TestValue(t *testing.T) {
	for _, f := range fixtures(t, 1<<20) {
		whole, parts := NewReader(bytes.NewReader(f.data), nil), NewReader(bytes.NewReader(f.data), nil)
		for {
			e, err := whole.Next()
			if _, perr := parts.Next(); err != nil || perr != nil {
				if err != io.EOF || perr != io.EOF {
					t.Fatal(f.name, err, perr)
				}
				break
			}
			if e.Kind != KindKey {
				continue
			}
			got, err := whole.Value(-1)
			if err != nil {
				t.Fatal(f.name, err)
			}
			c := content{counts: true, idmp: true}
			var want, have strings.Builder
			for i := range got {
				c.element(&have, &got[i])
				have.Write(got[i].Value)
			}
			more := false
			for el, err := range parts.Elements() {
				if err != nil {
					t.Fatal(f.name, err)
				}
				if !more {
					c.element(&want, el)
				}
				want.Write(el.Value)
				more = el.More || el.Kind == ElementRaw
			}
			if have.String() != want.String() {
				t.Fatalf("%s, %q: got\n%.300s\nwant\n%.300s", f.name, e.Key, have.String(), want.String())
			}
		}
	}
}

func TestValueLimit(t *testing.T) {
	long := strings.Repeat("x", 3*pieceSize)
	r := NewReader(bytes.NewReader(build("REDIS0009").bytes(0).str("long", long).bytes(0).str("short", "s").bytes(2).str("many").len(3).str("a", "b", "c").end()), nil)
	next := func() {
		t.Helper()
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
	}
	next()
	var tooLarge *TooLargeError
	if _, err := r.Value(100 << 10); !errors.As(err, &tooLarge) || tooLarge.Key != "long" || tooLarge.Limit != 100<<10 {
		t.Errorf("a long value: %v", err)
	}
	next()
	v, err := r.Value(1 << 10)
	if err != nil || len(v) != 1 || string(v[0].Value) != "s" || v[0].Kind != ElementBytes {
		t.Errorf("%+v, %v", v, err)
	}
	if _, err := r.Value(-1); !errors.Is(err, ErrNoValue) {
		t.Errorf("again: %v", err)
	}
	next()
	if _, err := r.Value(600); !errors.Is(err, ErrTooLarge) {
		t.Errorf("many elements: %v", err)
	}
	if _, err := r.Next(); err != io.EOF {
		t.Error(err)
	}
	if _, err := r.Value(-1); err == nil {
		t.Error("a value behind the end")
	}
}
