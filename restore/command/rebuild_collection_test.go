package command

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/rdb"
)

func TestUnknownTypesAreRefusedBeforeAnything(t *testing.T) {
	b := &rebuilder{emit: func([]byte) error { t.Error("something was emitted"); return nil }}
	for typ := rdb.TypeString; typ <= rdb.TypeCuckoo; typ++ {
		if typ <= rdb.TypeHash {
			continue
		}
		e := entryOf(typ)
		e.Module = 0x1234567890ABCDEF
		n, err := b.value([]byte("k"), e, elements(rdb.Element{Kind: rdb.ElementRaw}))
		if n != 0 || !errors.Is(err, errNotRebuildable) {
			t.Errorf("%v: %d commands, %v", typ, n, err)
		}
		if typ == rdb.TypeModule && !strings.Contains(err.Error(), "EjRWeJCrz") {
			t.Errorf("the error doesn't name the module: %v", err)
		}
	}
	b.caps.stream, b.caps.json = true, true
	for _, typ := range []rdb.Type{rdb.TypeStream, rdb.TypeJSON} {
		if err := b.caps.rebuildable(entryOf(typ)); err != nil {
			t.Error(err)
		}
	}
}

func TestLongArgumentsAreErrorsWithKeyAndSize(t *testing.T) {
	long := strings.Repeat("x", 100)
	more := rdb.Element{Value: []byte(long[:50]), More: true, Left: 51}
	for what, c := range map[string]struct {
		typ rdb.Type
		all []rdb.Element
	}{
		"string of 101":                  {rdb.TypeString, []rdb.Element{more}},
		"list item of 101":               {rdb.TypeList, []rdb.Element{{Value: []byte("short")}, more}},
		"set member of 101":              {rdb.TypeSet, []rdb.Element{{Value: []byte(long + "x")}}},
		"sorted set member of 101":       {rdb.TypeZSet, []rdb.Element{{Value: []byte(long + "x")}}},
		"name of a hash field of 101":    {rdb.TypeHash, []rdb.Element{{Field: []byte(long + "x")}}},
		"value of a hash field of 101":   {rdb.TypeHash, []rdb.Element{{Field: []byte("f"), Value: more.Value, More: true, Left: 51}}},
		"field of a stream entry of 101": {rdb.TypeStream, []rdb.Element{{Kind: rdb.ElementEntry, Fields: [][]byte{[]byte("f"), []byte(long + "x")}}}},
		"name of a consumer group of 10": {rdb.TypeStream, []rdb.Element{{Kind: rdb.ElementGroup, Value: []byte(long + "x")}}},
		"name of a consumer of 101":      {rdb.TypeStream, []rdb.Element{{Kind: rdb.ElementConsumer, Value: []byte(long + "x")}}},
		"JSON document of 101":           {rdb.TypeJSON, []rdb.Element{more}},
	} {
		b := &rebuilder{caps: capabilities{maxArg: 100, hset: true, stream: true, json: true}}
		b.emit = func([]byte) error { t.Errorf("%s: something was emitted", what); return nil }
		e := entryOf(c.typ)
		e.Key, e.DB = []byte("the key"), 7
		_, err := b.value([]byte("temporary"), e, elements(c.all...))
		var size *sizeError
		if !errors.As(err, &size) || !strings.Contains(err.Error(), what) || !strings.Contains(err.Error(), `db 7, key "the key"`) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestErrorsOfTheSourceAndOfTheConnectionComeBack(t *testing.T) {
	gone := errors.New("gone")
	for typ := rdb.TypeString; typ <= rdb.TypeStream; typ++ {
		b := &rebuilder{caps: capabilities{stream: true}, emit: func([]byte) error { return nil }}
		bad := func(yield func(*rdb.Element, error) bool) { yield(nil, gone) }
		if _, err := b.value([]byte("k"), entryOf(typ), bad); err != gone {
			t.Errorf("%v: %v", typ, err)
		}
		b.emit = func([]byte) error { return gone }
		if _, err := b.value([]byte("k"), entryOf(typ), elements(rdb.Element{Kind: rdb.ElementEntry, Value: []byte("v"), Field: []byte("f")})); err != gone {
			t.Errorf("%v: %v", typ, err)
		}
	}
}

func TestValuesThatEndTooEarlyAreErrors(t *testing.T) {
	more := rdb.Element{Value: []byte("piece"), More: true, Left: 5}
	for _, typ := range []rdb.Type{rdb.TypeString, rdb.TypeList, rdb.TypeHash, rdb.TypeJSON} {
		b := &rebuilder{caps: capabilities{json: true}, emit: func([]byte) error { t.Errorf("%v: something was emitted", typ); return nil }}
		if _, err := b.value([]byte("k"), entryOf(typ), elements(more)); err == nil || !strings.Contains(err.Error(), `key "k"`) {
			t.Errorf("%v: %v", typ, err)
		}
	}
	b := &rebuilder{emit: func([]byte) error { return nil }}
	if _, err := b.value([]byte("k"), entryOf(rdb.TypeString), elements(more, rdb.Element{Value: []byte("too long")})); err == nil {
		t.Error("a string longer than its first piece says is no error")
	}
	if _, err := b.value([]byte("k"), entryOf(rdb.TypeZSet), elements(rdb.Element{Score: math.NaN()})); err == nil {
		t.Error("a score that is no number is no error")
	}
	if _, err := b.value([]byte("k"), entryOf(rdb.TypeHash), elements(rdb.Element{Field: []byte("f"), Value: []byte("v")})); err != nil {
		t.Errorf("after an error: %v", err)
	}
}

// TestScoresAreExact compares what each server understands. Redis 7.0 loses the sign of zero in small sorted sets.
func TestScoresAreExact(t *testing.T) {
	scores := []float64{0, math.Copysign(0, -1), 1, -1, 1.5, 0.1, 1.0 / 3, math.Pi, 1e15, 1e15 - 1, -1e15, 1<<53 + 2, 1e22, 1e300, -1e-300,
		5e-324, 2.2250738585072009e-308, 2.2250738585072014e-308, math.MaxFloat64, -math.MaxFloat64, math.Inf(1), math.Inf(-1),
		123456789012345.678, 1 << 62, 9.223372036854775807e18}
	for i := range 1000 {
		scores = append(scores, math.Float64frombits(uint64(i)*0x9E3779B97F4A7C15>>2), float64(i*i*i)*math.Pi)
	}
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			g := aim(t, version)
			all := make([]rdb.Element, len(scores))
			for i, f := range scores {
				all[i] = rdb.Element{Kind: rdb.ElementScored, Value: fmt.Append(nil, "m", i), Score: f}
			}
			if err := g.make(rdb.TypeZSet, elements(all...)); err != nil {
				t.Fatal(err)
			}
			for i, f := range scores {
				got, err := g.c.ZScore(t.Context(), "k", fmt.Sprint("m", i)).Result()
				if err != nil || got != f || math.Signbit(got) != math.Signbit(f) && version != "redis-7.0" {
					t.Errorf("score %x became %x (%v)", f, got, err)
				}
			}
		})
	}
}

func TestBytesOfKeysAndElementsStayAsTheyAre(t *testing.T) {
	var every []byte
	for i := range 256 {
		every = append(every, byte(i))
	}
	nasty := [][]byte{every, {}, []byte("\r\n"), []byte("*1\r\n$4\r\nPING\r\n"), []byte("$-1\r\n"), []byte("-0"), []byte("007"), {0}}
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			g := aim(t, version)
			for i, p := range nasty {
				key := append([]byte{byte(i)}, p...)
				if err := g.do(func() (int, error) {
					return g.b.value(key, entryOf(rdb.TypeHash), elements(rdb.Element{Field: p, Value: every}, rdb.Element{Field: []byte("f"), Value: p}))
				}); err != nil {
					t.Fatal(err)
				}
				got, err := g.c.HGetAll(t.Context(), string(key)).Result()
				if err != nil || len(got) != 2 || got[string(p)] != string(every) || got["f"] != string(p) {
					t.Errorf("%q: %q (%v)", key, got, err)
				}
				key = append(key, "list"...)
				if err := g.do(func() (int, error) {
					return g.b.value(key, entryOf(rdb.TypeList), elements(rdb.Element{Value: p}, rdb.Element{Value: every}))
				}); err != nil {
					t.Fatal(err)
				}
				if items, err := g.c.LRange(t.Context(), string(key), 0, -1).Result(); err != nil || !slices.Equal(items, []string{string(p), string(every)}) {
					t.Errorf("%q: %q (%v)", key, items, err)
				}
				key = append(key, "string"...)
				if err := g.do(func() (int, error) { return g.b.value(key, entryOf(rdb.TypeString), elements(rdb.Element{Value: p})) }); err != nil {
					t.Fatal(err)
				}
				if s, err := g.c.Get(t.Context(), string(key)).Result(); err != nil || s != string(p) {
					t.Errorf("%q: %q (%v)", key, s, err)
				}
			}
		})
	}
}

// fields are hash fields that expire at the given times, 0 never.
func fields(at ...int64) []rdb.Element {
	all := make([]rdb.Element, len(at))
	for i, ms := range at {
		all[i] = rdb.Element{Kind: rdb.ElementField, Field: fmt.Append(nil, "f", i), Value: []byte("v"), ExpireAt: ms}
	}
	return all
}

func TestFieldsThatExpireTogetherShareACommand(t *testing.T) {
	b := &rebuilder{caps: capabilities{hset: true, hpexpireat: true}, now: at(1000)}
	wantCommands(t, commandsOf(t, b, rdb.TypeHash, fields(3000, 0, 2000, 3000, 1000)...),
		"HSET k f0 v f1 v f2 v f3 v f4 v", "HPEXPIREAT k 1000 FIELDS 1 f4", "HPEXPIREAT k 2000 FIELDS 1 f2", "HPEXPIREAT k 3000 FIELDS 2 f0 f3")
	wantLost(t, b)
	if b.expired != 1 || b.mayVanish {
		t.Errorf("expired %d, may vanish %v", b.expired, b.mayVanish)
	}
	wantCommands(t, commandsOf(t, b, rdb.TypeHash, fields(1<<46, 1<<48-1)...),
		"HSET k f0 v f1 v", fmt.Sprintf("HPEXPIREAT k %d FIELDS 2 f0 f1", int64(latestFieldExpiry)))
	wantLost(t, b, loss{rdb.LossFieldExpiry, 2})
	if !b.mayVanish {
		t.Error("a hash of which all fields expire can't vanish")
	}

	b.caps = capabilities{hexpire: true}
	wantCommands(t, commandsOf(t, b, rdb.TypeHash, fields(1001, 2000, 2001, 0, 1000, 1<<45)...),
		"HMSET k f0 v f1 v f2 v f3 v f5 v", "HEXPIRE k 1 FIELDS 2 f0 f1", "HEXPIRE k 2 FIELDS 1 f2", fmt.Sprintf("HEXPIRE k %d FIELDS 1 f5", longestSeconds))
	wantLost(t, b, loss{rdb.LossFieldExpiry, 1})
	if b.expired != 1 {
		t.Errorf("expired %d", b.expired)
	}
	b.caps = capabilities{hset: true}
	wantCommands(t, commandsOf(t, b, rdb.TypeHash, fields(3000, 0)...), "HSET k f0 v f1 v")
	wantLost(t, b, loss{rdb.LossFieldExpiry, 1})
	if b.mayVanish || b.expired != 0 {
		t.Errorf("expired %d, may vanish %v", b.expired, b.mayVanish)
	}
	// An expired field whose value comes in pieces is left out with all of them.
	b.caps = capabilities{hexpire: true}
	wantCommands(t, commandsOf(t, b, rdb.TypeHash, rdb.Element{Field: []byte("f"), ExpireAt: 5, Value: []byte("a"), More: true, Left: 2},
		rdb.Element{Field: []byte("f"), ExpireAt: 5, Value: []byte("b"), More: true, Left: 1}, rdb.Element{Field: []byte("f"), ExpireAt: 5, Value: []byte("c")}))
	if b.expired != 1 || !b.mayVanish {
		t.Errorf("expired %d, may vanish %v", b.expired, b.mayVanish)
	}
}

func TestMembersThatExpireTogetherShareACommand(t *testing.T) {
	member := func(s string, at int64) rdb.Element {
		return rdb.Element{Kind: rdb.ElementMember, Value: []byte(s), ExpireAt: at}
	}
	all := []rdb.Element{member("a", 3000), member("b", 0), member("c", 2500), member("d", 1000), member("e", 1<<45), member("f", 0)}
	b := &rebuilder{now: at(1000)}
	wantCommands(t, commandsOf(t, b, rdb.TypeSet, all...), "SADD k a b c d e f")
	wantLost(t, b, loss{rdb.LossMemberExpiry, 4})
	b.caps.saddex = true
	wantCommands(t, commandsOf(t, b, rdb.TypeSet, all...), "SADD k b f", "SADDEX k 2 a c", fmt.Sprintf("SADDEX k %d e", longestSeconds))
	wantLost(t, b, loss{rdb.LossMemberExpiry, 1})
	if b.expired != 1 || b.mayVanish {
		t.Errorf("expired %d, may vanish %v", b.expired, b.mayVanish)
	}
	wantCommands(t, commandsOf(t, b, rdb.TypeSet, all[0], all[3]), "SADDEX k 2 a")
	if b.expired != 1 || !b.mayVanish {
		t.Errorf("expired %d, may vanish %v", b.expired, b.mayVanish)
	}
	all = all[:0]
	for i := range 2000 {
		all = append(all, member(fmt.Sprint(i), int64(i%2)*5000))
	}
	got := commandsOf(t, b, rdb.TypeSet, all...)
	if len(got) != 4 || !strings.HasPrefix(got[0], "SADD k 0 2 ") || !strings.HasPrefix(got[1], "SADDEX k 4 1 3 ") {
		t.Errorf("%d commands: %.100q", len(got), got)
	}
}

func TestDocumentsAndFunctionsAreOneCommand(t *testing.T) {
	b := &rebuilder{caps: capabilities{json: true}}
	wantCommands(t, commandsOf(t, b, rdb.TypeJSON, rdb.Element{Value: []byte(`{"a"`), More: true, Left: 3}, rdb.Element{Value: []byte(`:1}`)}), `JSON.SET k $ {"a":1}`)
	var out []byte
	b.emit = func(p []byte) error { out = append(out, p...); return nil }
	n, err := b.function(&rdb.Entry{Kind: rdb.KindFunction}, elements(rdb.Element{Value: []byte("#!lua name=l\n"), More: true, Left: 4}, rdb.Element{Value: []byte("code")}))
	if err != nil {
		t.Fatal(err)
	}
	wantCommands(t, split(t, out, n), "FUNCTION LOAD REPLACE #!lua name=l\ncode")
}

// TestFieldsExpireAtServers makes hashes of several thousand fields, of which some have expired, at all servers that know such fields.
func TestFieldsExpireAtServers(t *testing.T) {
	const n = 5000
	now := time.Now().UnixMilli()
	when := func(i int) int64 {
		switch i % 5 {
		case 1:
			return now + 3600_000
		case 2:
			return now + 7200_000 + int64(i)
		case 3:
			return now - int64(i) - 1
		case 4:
			return latestFieldExpiry + int64(i%2)
		}
		return 0
	}
	for _, version := range []string{"redis-8.0", "valkey-9.1"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			g := aim(t, version)
			if !g.caps.hpexpireat {
				t.Fatal("the server has no HPEXPIREAT")
			}
			times := make([]int64, n)
			for i := range times {
				times[i] = when(i)
			}
			if err := g.make(rdb.TypeHash, elements(fields(times...)...)); err != nil {
				t.Fatal(err)
			}
			if g.b.expired != n/5 || g.b.mayVanish {
				t.Errorf("%d expired, may vanish %v", g.b.expired, g.b.mayVanish)
			}
			wantLost(t, g.b, loss{rdb.LossFieldExpiry, n / 10})
			got := expiries(t, g, n)
			for i, at := range got {
				want := min(when(i), latestFieldExpiry)
				switch {
				case i%5 == 3:
					want = -2
				case want == 0:
					want = -1
				}
				if at != want {
					t.Fatalf("field %d expires at %d, want %d", i, at, want)
				}
			}
			// The same in seconds.
			g.c.Del(t.Context(), "k")
			g.b.caps.hpexpireat, g.b.caps.hexpire = false, true
			if err := g.make(rdb.TypeHash, elements(fields(times...)...)); err != nil {
				t.Fatal(err)
			}
			if g.b.expired != n/5 {
				t.Errorf("%d expired", g.b.expired)
			}
			for i, at := range expiries(t, g, n) {
				want := when(i)
				switch {
				case i%5 == 3 && at != -2, want == 0 && at != -1, i%5 == 4 && at < now+longestSeconds*1000,
					(i%5 == 1 || i%5 == 2) && (at < want-100 || at > want+60_000):
					t.Fatalf("field %d expires at %d, want %d", i, at, want)
				}
			}
		})
	}
}

// TestHashesCanVanish makes a hash of which all fields have expired: the target removes it, which is no failure.
func TestHashesCanVanish(t *testing.T) {
	for _, version := range []string{"redis-8.0", "valkey-9.1"} {
		g := aim(t, version)
		times := make([]int64, 2000)
		for i := range times {
			times[i] = int64(i + 1)
		}
		if err := g.make(rdb.TypeHash, elements(fields(times...)...)); err != nil {
			t.Fatal(err)
		}
		if n, err := g.c.Exists(t.Context(), "k").Result(); n != 0 || err != nil {
			t.Errorf("%s: the key is there (%v)", version, err)
		}
		if g.b.expired != 2000 || !g.b.mayVanish {
			t.Errorf("%s: %d expired, may vanish %v", version, g.b.expired, g.b.mayVanish)
		}
	}
}

// expiries asks when the fields of k expire.
func expiries(t *testing.T, g *target, n int) []int64 {
	t.Helper()
	args := []any{"HPEXPIRETIME", "k", "FIELDS", n}
	for i := range n {
		args = append(args, fmt.Sprint("f", i))
	}
	at, err := g.c.Do(t.Context(), args...).Int64Slice()
	if err != nil {
		t.Fatal(err)
	}
	return at
}
