package rdb

import (
	"bytes"
	"testing"
)

// TestConvertSizes: what is written with the sizes of the databases is the same but for them, and they are the true ones.
func TestConvertSizes(t *testing.T) {
	for _, f := range fixtures(t, 1<<20) {
		for _, to := range []Dialect{{Redis, 6}, {Redis, 10}, {Redis, 12}, {Valkey, valkeyVersion}, {Dragonfly, dragonflyVersion}} {
			opts := &ConvertOptions{Policy: DropDetail, Match: "*", Sizes: []DBStats{}}
			plain, first, err := convert(f.data, to, opts)
			if err != nil {
				t.Fatalf("%s: %v", f.name, err)
			}
			opts.Sizes = first.DBs
			hinted, second, err := convert(f.data, to, opts)
			if err != nil {
				t.Fatalf("%s: %v", f.name, err)
			}
			hints := AppendSizes(nil, to, first.DBs)
			if len(hinted) != len(plain)+len(hints) || !bytes.Contains(hinted, hints) || second.Keys != first.Keys {
				t.Errorf("%s to %v: %d bytes without hints, %d with %d bytes of them", f.name, to, len(plain), len(hinted), len(hints))
			}
			r := NewReader(bytes.NewReader(hinted), nil)
			told, keys := map[int]uint64{}, map[int]uint64{}
			for e, err := range r.Entries() {
				switch {
				case err != nil:
					t.Fatalf("%s to %v: %v", f.name, to, err)
				case e.Kind == KindResizeDB && len(keys) > 0:
					t.Errorf("%s to %v: sizes are told after a key", f.name, to)
				case e.Kind == KindResizeDB:
					told[e.DB] = e.Keys
				case e.Kind == KindKey:
					keys[e.DB]++
				}
			}
			has := to.Version >= 7 && to.Family != Dragonfly
			for db, n := range keys {
				if has && told[db] != n || !has && len(told) > 0 {
					t.Errorf("%s to %v: database %d has %d keys, and %d are told", f.name, to, db, n, told[db])
				}
			}
			if has && len(told) != len(keys) {
				t.Errorf("%s to %v: the sizes %v are told of %v", f.name, to, told, keys)
			}
		}
	}
}
