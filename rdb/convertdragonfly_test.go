package rdb

import (
	"bytes"
	"slices"
	"testing"
)

// A Dragonfly that gets a snapshot as a replica ends, or begins anew for ever, by anything that it doesn't know. What a conversion makes
// for it holds nothing of that: the types and opcodes are those that a Dragonfly 1.40 was seen to load, less those that crash it on
// this way.
func TestConvertedForDragonflyReplica(t *testing.T) {
	good := []uint8{0, 2, 3, 4, 5, 11, 12, 13, 14, 15, 16, 17, 18, 19, 21, 30, 31, 32, 33, 34, 35, 36, 37}
	facts := []string{"redis-ver", "valkey-ver", "df-ver", "redis-bits", "ctime", "lua"}
	seen := map[uint8]bool{}
	for _, f := range fixtures(t, 1<<20) {
		out, report, err := convert(f.data, Dialect{Dragonfly, dragonflyVersion}, &ConvertOptions{Policy: DropDetail, NoIndexes: true, Modules: []string{"ReJSON-RL"}})
		if err != nil {
			t.Errorf("%s: %v", f.name, err)
			continue
		}
		if !bytes.HasPrefix(out, []byte("REDIS0009")) || out[len(out)-9] != opEOF { // it doesn't look at the checksum
			t.Errorf("%s: it begins with %q and ends with %x", f.name, out[:9], out[len(out)-9:])
		}
		r := NewReader(bytes.NewReader(out), nil)
		keys := int64(0)
		for e, err := range r.Entries() {
			switch {
			case err != nil:
				t.Fatalf("%s: %v", f.name, err)
			case e.Kind == KindAux && slices.Contains(facts, string(e.Key)):
			case e.Kind == KindKey && (slices.Contains(good, e.Encoding) || e.Encoding == codeModule && e.Module == rejson):
				keys++
				seen[e.Encoding] = true
				if n := r.Len(); n == 0 && (e.Type == TypeList || e.Type == TypeZSet) {
					t.Errorf("%s: the %s %q is empty, on which it fails", f.name, e.Type, e.Key)
				}
			default:
				t.Errorf("%s: there is %s %q of encoding %d", f.name, e.Kind, e.Key, e.Encoding)
			}
		}
		if keys != report.Keys || report.Functions != 0 {
			t.Errorf("%s: %d keys were read, report %+v", f.name, keys, report)
		}
	}
	for _, code := range []uint8{0, 2, 4, 5, 11, 16, 17, 18, 21, 30, 31, 32, 34, 35, 36, 37} {
		if !seen[code] {
			t.Errorf("no fixture had encoding %d", code)
		}
	}
}

func TestConvertNoIndexes(t *testing.T) {
	data := build("REDIS0009").bytes(opAux).str("search-index", "0 idx").bytes(opAux).str("search-synonyms", "0 idx g a b").bytes(opDragonflyMask, 1, 0, 0, 0, 0).str("k", "v").end()
	to := Dialect{Dragonfly, dragonflyVersion}
	out, report, err := convert(data, to, &ConvertOptions{Policy: DropDetail, NoIndexes: true})
	if err != nil || bytes.Contains(out, []byte("search-")) || report.Keys != 1 || len(report.Losses) != 1 || report.Losses[0].Loss != LossIndex || report.Losses[0].Count != 2 {
		t.Errorf("%q, %+v, %v", out, report, err)
	}
	if _, _, err := convert(data, to, &ConvertOptions{NoIndexes: true}); err == nil {
		t.Error("an index is left out without a word")
	}
	if out, _, err := convert(data, to, nil); err != nil || !bytes.Contains(out, []byte("search-index")) {
		t.Errorf("without the option the index is gone: %q, %v", out, err)
	}
}
