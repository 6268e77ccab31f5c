package main

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/internal/testserver"
)

// TestDataSet fills two servers and expects the same keys in both, in the proportions that the table speaks of.
func TestDataSet(t *testing.T) {
	const keys = 3000
	var snaps []map[string]string
	for _, version := range []string{"redis-7.0", "valkey-9.1"} {
		s := testserver.Start(t, version)
		if err := fill(t.Context(), s.Addr, keys); err != nil {
			t.Fatal(err)
		}
		snaps = append(snaps, testserver.Snapshot(t, s.Client(t)))
	}
	if diff := testserver.Diff(snaps[0], snaps[1]); diff != "" {
		t.Error(diff)
	}
	count := make(map[string]int)
	for _, v := range snaps[0] {
		typ, rest, _ := strings.Cut(v, "\n")
		count[typ]++
		if typ == "string" && strings.HasPrefix(rest, "expires ") {
			count["expiring"]++
		}
	}
	for typ, percent := range map[string]int{"string": 55, "expiring": 28, "hash": 15, "list": 10, "set": 8, "zset": 8, "stream": 4} {
		if count[typ] != keys*percent/100 {
			t.Errorf("%d keys are %s, want %d %%: %v", count[typ], typ, percent, count)
		}
	}
}

func TestBigValue(t *testing.T) {
	s := testserver.Start(t, "redis-7.0")
	const size = 33<<20 + 5
	if err := fillBig(t.Context(), s.Addr, size); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Client(t).StrLen(t.Context(), "big").Result(); err != nil || n != size {
		t.Errorf("STRLEN big: %d, %v, want %d", n, err, size)
	}
}

func TestFillSeesErrors(t *testing.T) {
	s := testserver.Start(t, "redis-7.0", "--requirepass", "pw")
	if err := fill(t.Context(), s.Addr, 10); err == nil || !strings.Contains(err.Error(), "NOAUTH") {
		t.Errorf("filling a server that wants a password: %v", err)
	}
}

func TestTable(t *testing.T) {
	s := time.Second
	for _, test := range []struct {
		in   []time.Duration
		want time.Duration
	}{{[]time.Duration{3 * s}, 3 * s}, {[]time.Duration{9 * s, 1 * s, 2 * s}, 2 * s}, {[]time.Duration{4 * s, 1 * s, 2 * s, 9 * s}, 3 * s}} {
		if got := median(test.in); got != test.want {
			t.Errorf("median of %v: %v", test.in, got)
		}
	}
	out, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	b := &bench{out: out}
	pairs := [][2]time.Duration{{2 * s, 1 * s}, {3 * s, 6 * s}, {4 * s, 4 * s}}
	b.table(comparison{name: "x", amber: "a", peer: "p", wanted: "≤ 1", pairs: pairs},
		comparison{name: "y", amber: "a", peer: "p", wanted: "≥ 1", pairs: pairs, faster: true})
	text, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| x | `a`: 2.00 / 3.00 / 4.00 | `p`: 1.00 / 4.00 / 6.00 | 0.75 | 1.00 | ≤ 1 |\n",
		"| y | `a`: 2.00 / 3.00 / 4.00 | `p`: 1.00 / 4.00 / 6.00 | 1.33 | 1.00 | ≥ 1 |\n",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no line\n%s in\n%s", want, text)
		}
	}
}
