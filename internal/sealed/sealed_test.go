package sealed

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

type doc struct {
	Format int    `json:"format"`
	Text   string `json:"text"`
}

// TestSealed: a document is JSON that people can read, and no bit of it can change and no byte be missing or too many without an error.
func TestSealed(t *testing.T) {
	t.Parallel()
	want := doc{3, "a <b> & \"c\"\u2028ü"}
	data, err := Encode(&want, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(data) || !bytes.Contains(data, []byte("a <b> &")) || !bytes.HasSuffix(data, []byte("\"\n}\n")) {
		t.Errorf("the document is %s", data)
	}
	var got doc
	if err := Decode(data, &got, 3, 1000); err != nil || got != want {
		t.Fatalf("Decode gives %+v, %v", got, err)
	}
	for i := range data {
		for bit := range 8 {
			changed := bytes.Clone(data)
			changed[i] ^= 1 << bit
			if err := Decode(changed, &got, 3, 1000); err == nil {
				t.Fatalf("bit %d of byte %d is another one, and nobody says so", bit, i)
			}
		}
		if err := Decode(data[:i], &got, 3, 1000); err == nil {
			t.Fatalf("it was cut to %d bytes, and nobody says so", i)
		}
	}
	if err := Decode(append(bytes.Clone(data), '\n'), &got, 3, 1000); err == nil {
		t.Error("it has a byte too many, and nobody says so")
	}
	for name, c := range map[string]struct {
		v             any
		format, limit int
		says          string
	}{
		"newer":                  {&doc{Format: 4}, 3, 1000, "newer Amber, in format 4; this one reads formats up to 3"},
		"newer, of another form": {map[string]any{"format": 4, "text": 7}, 3, 1000, "newer Amber"},
		"unknown":                {map[string]any{"format": 3, "more": 7}, 3, 1000, "unknown field"},
		"too long":               {&doc{Text: strings.Repeat("x", 300)}, 3, 200, "the limit is 200"},
	} {
		data, err := Encode(c.v, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if err := Decode(data, &got, c.format, c.limit); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
	if _, err := Encode(&want, 100); err == nil || !strings.Contains(err.Error(), "the limit is 100") {
		t.Errorf("Encode of more than the limit: %v", err)
	}
}
