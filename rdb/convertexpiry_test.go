package rdb

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/big"
	"reflect"
	"slices"
	"testing"
	"time"
)

// changes are what options can do to expiries, each with the rule that it follows.
func changes() map[string]struct {
	opts ConvertOptions
	rule func(at int64) int64
} {
	type change = struct {
		opts ConvertOptions
		rule func(at int64) int64
	}
	out := map[string]change{"dropped": {ConvertOptions{DropExpiry: true, ShiftExpiry: time.Hour, ExpiredAt: math.MaxInt64}, func(int64) int64 { return 0 }}}
	for _, by := range []time.Duration{time.Hour, -time.Hour, 999 * time.Microsecond, math.MaxInt64, math.MinInt64} {
		out["shifted by "+by.String()] = change{ConvertOptions{ShiftExpiry: by}, func(at int64) int64 {
			sum := new(big.Int).Add(big.NewInt(at), big.NewInt(by.Milliseconds()))
			switch {
			case by < time.Millisecond && by >= 0:
				return at
			case sum.Cmp(big.NewInt(1)) < 0:
				return 1
			case by > 0 && sum.Cmp(big.NewInt(1<<62)) > 0:
				return max(at, 1<<62)
			}
			return sum.Int64()
		}}
	}
	return out
}

// expiringFixtures are fixtures, with every encoding whose fields or members expire.
func expiringFixtures(t *testing.T) []fixture {
	b := func() *builder { return build("") }
	late := b().bytes(opExpireMillis).u64(1<<62+5).bytes(0).str("late", "v").bytes(opExpireMillis).u64(7).bytes(0).str("early", "v").b
	out := fixtures(t, 1<<20)
	for _, f := range rareFixtures() {
		if Check(NewReader(bytes.NewReader(f.data), nil), nil) == nil {
			out = append(out, f)
		}
	}
	return append(out,
		fixture{"Valkey", build("VALKEY080").bytes(codeValkeyHash).str("h").len(3).str("f", "v").u64(1<<63-1).str("g", "w").u64(5000).str("i", "x").u64(1<<64 - 1).bytes(late...).end()},
		fixture{"Dragonfly", build("REDIS0009").bytes(codeExpireHash).str("h").len(3).str("f", "v", "5", "g", "w", "4294967295", "i", "x", "-1").
			bytes(codeExpireSet).str("s").len(3).str("f", "5", "g", "4294967295", "i", "-1").bytes(late...).end()},
		fixture{"Redis in pieces", build("REDIS0012").bytes(codeRedisHash).str("h").u64(9000).len(2, 1).str("f", string(make([]byte, 3*pieceSize+1))).len(0).str("g", "v").end()})
}

// TestConvertExpiries converts every fixture with every change of expiries to every dialect: all is as it was but for these, and
// what needn't be encoded anew for it is not. Without CAMPAIGN=1 each goes to a third of the dialects with each change, to another third with
// the next one, and always to its own.
func TestConvertExpiries(t *testing.T) {
	seen := make(map[string]bool)
	all := changes()
	names := slices.Sorted(maps.Keys(all))
	for i, f := range expiringFixtures(t) {
		from := NewReader(bytes.NewReader(f.data), nil)
		if err := readAll(from); err != io.EOF {
			t.Fatal(err)
		}
		for j, name := range names {
			change := all[name]
			for k, to := range targets() {
				if !share(i+j+k, 3) && to != from.Dialect() {
					continue
				}
				opts := change.opts
				opts.Policy = SkipKey
				out, report, err := convert(f.data, to, &opts)
				if err != nil {
					t.Errorf("%s to %v, %s: %v", f.name, to, name, err)
					continue
				}
				checkWritten(t, f.data, out, report)
				c := contentOf(to)
				got, err := c.of(out)
				if err != nil {
					t.Errorf("%s to %v, %s: the result: %v", f.name, to, name, err)
					continue
				}
				c.expiry = change.rule
				want, err := c.of(f.data)
				if err != nil {
					t.Fatal(err)
				}
				for key := range want {
					if _, there := got[key]; !there && len(report.Losses) > 0 {
						delete(want, key)
					}
				}
				if diff := diffContents(want, got); diff != "" {
					t.Errorf("%s to %v, %s: %s", f.name, to, name, diff)
				}
				if report.Expired > 0 {
					t.Errorf("%s to %v, %s: %d keys are left out as expired", f.name, to, name, report.Expired)
				}
				for _, l := range report.Losses {
					if opts.DropExpiry && (l.Loss == LossFieldExpiry || l.Loss == LossMemberExpiry) {
						t.Errorf("%s to %v: what is dropped by option is a loss: %+v", f.name, to, l)
					}
				}
				if report.From == to {
					for e, err := range NewReader(bytes.NewReader(f.data), nil).Entries() {
						if err != nil {
							t.Fatal(err)
						}
						if e.Kind == KindKey && expiring(report.From.encodings(), e.Encoding) {
							seen[fmt.Sprintf("%s %d %s", to.Family, e.Encoding, name)] = true
							if report.Encoded == 0 && name != "shifted by 999µs" {
								t.Errorf("%s to %v, %s: no key was encoded anew", f.name, to, name)
							}
						}
					}
				}
			}
		}
	}
	for _, name := range names {
		for _, encoding := range []string{"redis 22", "redis 23", "redis 24", "redis 25", "valkey 22", "dragonfly 31", "dragonfly 32"} {
			if !seen[encoding+" "+name] {
				t.Errorf("no value of %s was %s", encoding, name)
			}
		}
	}
}

// TestConvertExpired leaves out keys whose expiry has come, by the time that it has in the target.
func TestConvertExpired(t *testing.T) {
	b := build("REDIS0011").bytes(opSelectDB, 0, opResizeDB).len(4, 3)
	for i, at := range []uint64{1000, 1001, 999} {
		b.bytes(opExpireMillis).u64(at).bytes(0).str(fmt.Sprint("key", i), "v")
	}
	data := b.bytes(0).str("stays", "v").bytes(opAux).str("keydb-subexpire-key", "m").end()
	for _, c := range []struct {
		opts    ConvertOptions
		expired int64
		keys    string
	}{
		{ConvertOptions{}, 0, "key0 1000 key1 1001 key2 999 stays 0 "},
		{ConvertOptions{ExpiredAt: 1000}, 2, "key1 1001 stays 0 "},
		{ConvertOptions{ExpiredAt: 1000, Match: "key?"}, 2, "key1 1001 "},
		{ConvertOptions{ExpiredAt: 1000, TrimPrefix: "k"}, 2, "ey1 1001 "},
		{ConvertOptions{ExpiredAt: 1000, ShiftExpiry: time.Millisecond}, 1, "key0 1001 key1 1002 stays 0 "},
		{ConvertOptions{ExpiredAt: 1000, ShiftExpiry: -time.Millisecond}, 3, "stays 0 "},
		{ConvertOptions{ShiftExpiry: -time.Hour}, 0, "key0 1 key1 1 key2 1 stays 0 "},
		{ConvertOptions{ExpiredAt: 1000, DropExpiry: true, ShiftExpiry: time.Hour}, 0, "key0 0 key1 0 key2 0 stays 0 "},
	} {
		c.opts.Policy = DropDetail
		out, report, err := convert(data, Dialect{Redis, 11}, &c.opts)
		if err != nil {
			t.Fatal(err)
		}
		checkWritten(t, data, out, report)
		keys, hint := "", "none"
		for e, err := range NewReader(bytes.NewReader(out), nil).Entries() {
			if err != nil {
				t.Fatal(err)
			}
			switch e.Kind {
			case KindKey:
				keys += fmt.Sprintf("%s %d ", e.Key, e.ExpireAt)
			case KindResizeDB:
				hint = fmt.Sprint(e.Keys, e.Expires)
			}
		}
		wantHint := "4 3"
		if c.opts.DropExpiry {
			wantHint = "4 0"
		} else if c.opts.ExpiredAt != 0 {
			wantHint = "none"
		}
		if keys != c.keys || report.Expired != c.expired || hint != wantHint {
			t.Errorf("%+v: %q, %d expired, hint %s, want %q, %d, %s", c.opts, keys, report.Expired, hint, c.keys, c.expired, wantHint)
		}
	}
}

// TestConvertKeyDBExpiries reports the expiries of members that KeyDB writes as aux facts, unless they are not wanted.
func TestConvertKeyDBExpiries(t *testing.T) {
	data := build("REDIS0009").bytes(codeSet).str("s").len(1).str("m").bytes(opAux).str("keydb-subexpire-key", "m").bytes(opAux).str("keydb-subexpire-when", "5000").
		bytes(0).str("other", "v").end()
	to := Dialect{Redis, 9}
	for _, opts := range []*ConvertOptions{{}, {ShiftExpiry: time.Hour}} {
		if _, _, err := convert(data, to, opts); err == nil {
			t.Errorf("%+v: an expiry is lost without an error", opts)
		}
		opts.Policy = DropDetail
		if _, report, err := convert(data, to, opts); err != nil || len(report.Losses) != 1 || report.Losses[0].Loss != LossMemberExpiry || report.Keys != 2 {
			t.Errorf("%+v: %+v, %v", opts, report, err)
		}
	}
	for _, opts := range []*ConvertOptions{{DropExpiry: true}, {Match: "other"}} {
		if _, report, err := convert(data, to, opts); err != nil || report.Dropped != 2 || report.Losses != nil {
			t.Errorf("%+v: %+v, %v", opts, report, err)
		}
	}
}

// TestWants compares what the options say that they select with what a conversion writes.
func TestWants(t *testing.T) {
	for _, opts := range []*ConvertOptions{nil, {}, {DBs: []int{0, 1}}, {DBs: []int{}}, {Types: []Type{TypeHash, TypeString}}, {Match: "*[a-m]?"}, {TrimPrefix: "h"},
		{DBs: []int{0}, Types: []Type{TypeHash}, Match: "*:*", TrimPrefix: "h"}} {
		keys, left := int64(0), int64(0)
		for _, f := range fixtures(t, 1<<20) {
			var o ConvertOptions
			if opts != nil {
				o = *opts
			}
			o.Policy = DropDetail
			_, report, err := convert(f.data, Dialect{Redis, 14}, &o)
			if err != nil {
				t.Fatal(err)
			}
			wanted, filtered := int64(0), int64(0)
			for e, err := range NewReader(bytes.NewReader(f.data), nil).Entries() {
				switch {
				case err != nil:
					t.Fatal(err)
				case e.Kind != KindKey:
				case opts.Wants(e):
					wanted++
				default:
					filtered++
				}
			}
			lost := int64(0)
			for _, l := range report.Losses {
				if slices.Contains([]Loss{LossType, LossModule}, l.Loss) {
					lost += l.Skipped
				}
			}
			if report.Keys > wanted || report.Keys+lost < wanted || report.Filtered != filtered {
				t.Errorf("%s, %+v: %d wanted, %d written and %d lost; %d not wanted, %d filtered", f.name, opts, wanted, report.Keys, lost, filtered, report.Filtered)
			}
			keys, left = keys+wanted, left+filtered
		}
		if filters := opts != nil && opts.filters(); keys == 0 && (opts == nil || len(opts.DBs) > 0 || opts.DBs == nil) || left == 0 && filters {
			t.Errorf("%+v: %d keys wanted, %d not", opts, keys, left)
		}
	}
}

// TestEncodings checks some answers that servers are asked about.
func TestEncodings(t *testing.T) {
	dragonfly := Dialect{Dragonfly, dragonflyVersion}
	for _, c := range []struct {
		to, from Dialect
		typ      Type
		want     []uint8
	}{
		{Dialect{Redis, 11}, dragonfly, TypeString, []uint8{0}},
		{Dialect{Redis, 11}, dragonfly, TypeHash, []uint8{4, 9, 13, 16}},
		{Dialect{Redis, 12}, dragonfly, TypeHash, []uint8{4, 9, 13, 16, 24}},
		{Dialect{Redis, 12}, Dialect{Redis, 11}, TypeHash, []uint8{4, 9, 13, 16}},
		{Dialect{Redis, 12}, Dialect{Redis, 15}, TypeHash, []uint8{4, 9, 13, 16, 22, 23, 24, 25}},
		{Dialect{Valkey, 80}, Dialect{Redis, 12}, TypeHash, []uint8{4, 9, 13, 16, 22}},
		{Dialect{Valkey, 80}, Dialect{Valkey, 80}, TypeHash, []uint8{4, 9, 13, 16, 22}},
		{dragonfly, Dialect{Valkey, 80}, TypeHash, []uint8{4, 13, 16, 31}},
		{dragonfly, dragonfly, TypeSet, []uint8{2, 11, 32}},
		{dragonfly, Dialect{Redis, 12}, TypeSet, []uint8{2, 11}},
		{Dialect{Redis, 7}, Dialect{Redis, 11}, TypeSet, []uint8{2}},
		{Dialect{Redis, 9}, Dialect{Redis, 11}, TypeList, []uint8{1, 10, 14}},
		{Dialect{Redis, 10}, dragonfly, TypeStream, []uint8{15, 19}},
		{Dialect{Redis, 9}, dragonfly, TypeStream, []uint8{15}},
		{Dialect{Redis, 8}, dragonfly, TypeStream, nil},
		{Dialect{Redis, 7}, Dialect{Redis, 12}, TypeModule, nil},
		{Dialect{Redis, 8}, Dialect{Redis, 7}, TypeModule, nil},
		{Dialect{Redis, 8}, Dialect{Redis, 12}, TypeModule, []uint8{7}},
		{Dialect{Redis, 12}, dragonfly, TypeModule, []uint8{7}},
		{dragonfly, Dialect{Redis, 12}, TypeModule, []uint8{7}},
		{Dialect{Redis, 12}, dragonfly, TypeJSON, nil},
		{dragonfly, dragonfly, TypeJSON, []uint8{30}},
		{dragonfly, dragonfly, TypeBloom, []uint8{33, 34}},
		{Dialect{Redis, 15}, Dialect{Redis, 15}, TypeRate, []uint8{33}},
		{Dialect{Redis, 14}, Dialect{Redis, 15}, TypeArray, []uint8{28}},
		{Dialect{Redis, 13}, Dialect{Redis, 15}, TypeArray, nil},
		{Dialect{Redis, 12}, Dialect{Redis, 9}, TypeCron, nil},
		{Dialect{Redis, 12}, Dialect{Redis, 9}, TypeNone, nil},
		{Dialect{Redis, 5}, Dialect{Redis, 5}, TypeString, nil},
		{Dialect{}, Dialect{Redis, 5}, TypeString, nil},
		{Dialect{Redis, 9}, Dialect{}, TypeString, nil},
	} {
		if got := c.to.Encodings(c.typ, c.from); !slices.Equal(got, c.want) {
			t.Errorf("%v in %v from %v: %d, want %d", c.typ, c.to, c.from, got, c.want)
		}
	}
}

// TestConvertBuriesExpiredFields leaves out what has expired already where its expiry would get lost, and keeps all else.
func TestConvertBuriesExpiredFields(t *testing.T) {
	holds := func(data []byte) any {
		got, err := contentOf(Dialect{Redis, 12}).of(data)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	long := string(bytes.Repeat([]byte("v"), 3*pieceSize+1))
	redis := build("REDIS0012").bytes(codeRedisHash).str("some").u64(1000).len(4, 1).str("dead", long).len(0).str("stays", "1").len(2000).str("later", long).len(2).str("dead too", "").
		bytes(codeRedisHash).str("none").u64(1000).len(1, 1).str("dead", "v").bytes(0).str("s", "v").end()
	valkey := build("VALKEY080").bytes(codeValkeyHash).str("some").len(4).str("dead", long).u64(1000).str("stays", "1").u64(1<<64-1).str("later", long).u64(3000).str("dead too", "").u64(1001).
		bytes(codeValkeyHash).str("none").len(1).str("dead", "v").u64(1000).bytes(0).str("s", "v").end()
	want := func(magic string) *builder {
		return build(magic).bytes(opSelectDB, 0, codeHash).str("some").len(2).str("stays", "1", "later", long).bytes(0).str("s", "v")
	}
	for name, data := range map[string][]byte{"Redis": redis, "Valkey": valkey} {
		for _, shift := range []time.Duration{0, time.Hour} {
			opts := &ConvertOptions{Policy: DropDetail, ExpiredAt: 1500 + shift.Milliseconds(), ShiftExpiry: shift}
			out, report, err := convert(data, Dialect{Redis, 10}, opts)
			if err != nil {
				t.Fatal(err)
			}
			if got := holds(out); !reflect.DeepEqual(got, holds(want("REDIS0010").end())) {
				t.Errorf("%s shifted by %v: %.300q", name, shift, got)
			}
			if report.Keys != 2 || report.Expired != 1 || len(report.Losses) != 1 || report.Losses[0].Skipped != 0 {
				t.Errorf("%s shifted by %v: %+v", name, shift, report)
			}
		}
		// What has no expiry loses none, however it is encoded.
		plain := build("REDIS0012").bytes(codeRedisHash).str("h").u64(1000).len(1, 0).str("f", "v").end()
		if _, report, err := convert(plain, Dialect{Redis, 10}, nil); err != nil || len(report.Losses) > 0 {
			t.Errorf("%+v, %v", report, err)
		}
		if _, _, err := convert(data, Dialect{Redis, 10}, nil); !errors.Is(err, ErrLoss) {
			t.Errorf("%s, without leave to lose something: %v", name, err)
		}
		// Where the target's servers see to it, and where nothing is to expire, all is there.
		for _, to := range []struct {
			d    Dialect
			opts ConvertOptions
		}{{Dialect{Redis, 12}, ConvertOptions{ExpiredAt: 1500}}, {Dialect{Valkey, 80}, ConvertOptions{ExpiredAt: 1500}}, {Dialect{Redis, 10}, ConvertOptions{ExpiredAt: 1500, DropExpiry: true}},
			{Dialect{Redis, 10}, ConvertOptions{Policy: DropDetail}}} {
			out, report, err := convert(data, to.d, &to.opts)
			if err != nil || report.Keys != 3 || bytes.Count(out, []byte("dead")) != 3 {
				t.Errorf("%s to %v: %+v, %v", name, to.d, report, err)
			}
		}
	}
	// Dragonfly's sets, to whatever else.
	set := build("REDIS0009").bytes(codeExpireSet).str("some").len(3).str("dead", "5", "stays", "-1", "later", "4000000000").bytes(codeExpireSet).str("none").len(1).str("dead", "5").end()
	out, report, err := convert(set, Dialect{Redis, 12}, &ConvertOptions{Policy: DropDetail, ExpiredAt: (dragonflyEpoch + 10) * 1000})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := holds(out), holds(build("REDIS0012").bytes(codeSet).str("some").len(2).str("stays", "later").end()); !reflect.DeepEqual(got, want) || report.Expired != 1 {
		t.Errorf("%q, want %q: %+v", got, want, report)
	}
}
