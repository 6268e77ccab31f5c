package testserver

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
)

// What is written quickly is what the standard library writes.
func TestTextIsTheStandardOne(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	pieces := []string{"a", "\"", "\\", "\x7f", "é", "日", "\U0001f600", "\U0010ffff", "\u00a0", "\u2028", "\ufeff", "\ufffd", "\xed\xa0\x80", "\xf4\x90\x80\x80",
		"\xc0\x80", "\xe0\x80\x80", "\xf0\x90\x80", "\xc3", "\x80", "\xff"}
	for i := range 256 {
		pieces = append(pieces, string([]byte{byte(i)}))
	}
	for range 20000 {
		var s string
		for range random.IntN(8) {
			s += pieces[random.IntN(len(pieces))]
		}
		if got, want := string(appendQuoted([]byte("x"), s)), "x"+strconv.Quote(s); got != want {
			t.Fatalf("% x is quoted as %s, not %s", s, got, want)
		}
	}
	for _, v := range []any{"a b", "", int64(-7), nil, []any{}, []any(nil), []any{"a", int64(1), []any{nil, "b"}}, 7, map[string]any{"a": 1}, fmt.Errorf("no")} {
		if got, want := string(appendPlain(nil, v)), fmt.Sprint(v); got != want {
			t.Errorf("%#v is %q, not %q", v, got, want)
		}
	}
	for _, s := range []string{"0", "-0", "1", "10", "99999", "100000", "1000000", "12345678", "007", "1e3", "-5", "0.1", "0.10000000000000001", "inf", "-inf", "3.0", "1."} {
		f, err := strconv.ParseFloat(s, 64)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := appendShortest(nil, s); err != nil || string(got) != strconv.FormatFloat(f, 'g', -1, 64) {
			t.Errorf("%s is %s, %v", s, got, err)
		}
	}
	if _, err := appendShortest(nil, "one"); err == nil {
		t.Error("a word is a number")
	}
}
