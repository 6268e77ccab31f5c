package testserver

import (
	"fmt"
	"math"
	"strconv"
)

// A kind is one way in which a key's value can be kept.
type kind struct {
	name  string
	needs string // a command that the server must know, or ""
	add   func(g *generator, key string)
}

// kinds lists all. The types take turns, so that a few keys already have one of each.
func kinds() []kind {
	return []kind{
		{"string", "", func(g *generator, k string) { g.do("SET", k, g.text(20+g.random.IntN(30))) }},
		{"list", "", func(g *generator, k string) { g.push(k, g.n(), func() any { return g.text(1 + g.random.IntN(60)) }) }},
		{"hash", "", func(g *generator, k string) { g.hash(k, g.n(), 40) }},
		{"set", "", func(g *generator, k string) { g.set(k, g.n(), func(i int) any { return fmt.Sprint("member-", i) }) }},
		{"zset", "", (*generator).zset},
		{"stream", "", (*generator).stream},
		{"stream-groups", "", (*generator).streamGroups},
		{"string-empty", "", func(g *generator, k string) { g.do("SET", k, "") }},
		{"hash-expiring", "HPEXPIREAT", (*generator).hashExpiring},
		{"set-ints-16", "", func(g *generator, k string) { g.set(k, 1+g.n()/3, func(i int) any { return i*7 - 300 }) }},
		{"zset-scores", "", (*generator).zsetScores},
		{"vectorset", "VADD", (*generator).vectorSet},

		{"string-int", "", (*generator).stringInt},
		{"list-ints", "", (*generator).listInts},
		{"hash-ints", "", (*generator).hashInts},
		{"set-ints-32", "", func(g *generator, k string) { g.set(k, 1+g.n()/3, func(i int) any { return i*100003 - 40000 }) }},
		{"string-noise", "", func(g *generator, k string) { g.do("SET", k, g.noise(100+g.random.IntN(4000))) }},
		{"stream-deleted", "", (*generator).streamDeleted},
		{"list-noise", "", func(g *generator, k string) {
			g.push(k, 1+g.n()/8, func() any { return g.noise(100 + g.random.IntN(300)) })
		}},
		{"hash-long-values", "", func(g *generator, k string) { g.hash(k, 1+g.n()/8, 300) }},
		{"set-ints-64", "", func(g *generator, k string) {
			g.set(k, 1+g.n()/3, func(i int) any { return int64(i)*4611686018427 - 1<<40 })
		}},
		{"zset-long-members", "", func(g *generator, k string) {
			g.do("ZADD", k, g.random.NormFloat64(), g.text(100), -g.random.Float64(), g.noise(90))
		}},
		{"stream-empty", "", (*generator).streamEmpty},
		{"string-text", "", func(g *generator, k string) { g.do("SET", k, g.text(200+g.random.IntN(5000))) }},

		{"hyperloglog", "", func(g *generator, k string) { g.many("PFADD", k, g.n(), func(i int) any { return i * i }) }},
		{"bitmap", "", func(g *generator, k string) { g.do("SETBIT", k, g.random.IntN(100000), 1) }},
		{"geo", "", func(g *generator, k string) {
			g.do("GEOADD", k, g.random.Float64()*360-180, g.random.Float64()*160-80, "place", 13.361389, 38.115556, "Palermo")
		}},
		{"set-ints-many", "", func(g *generator, k string) { g.set(k, g.n(), func(i int) any { return i * 3 }) }},
		{"set-mixed", "", func(g *generator, k string) {
			g.do("SADD", k, "", "0", "-1", "00", "+1", "9223372036854775807", "9223372036854775808", g.noise(5), "é")
		}},
		{"string-length", "", (*generator).stringLength},
		{"list-large-element", "", (*generator).listLargeElement},
		{"hash-binary", "", func(g *generator, k string) {
			g.do("HSET", k, "", "", "\x00", "\xff\xfe", g.noise(10), g.noise(63), g.noise(9), g.noise(64), "f", g.noise(65))
		}},
	}
}

// many adds n elements by one command that takes any number of them.
func (g *generator) many(command, key string, n int, element func(i int) any) {
	args := make([]any, 0, n+2)
	args = append(args, command, key)
	for i := range n {
		args = append(args, element(i))
	}
	g.do(args...)
}

func (g *generator) push(key string, n int, element func() any) {
	g.many("RPUSH", key, n, func(int) any { return element() })
}

func (g *generator) set(key string, n int, member func(i int) any) { g.many("SADD", key, n, member) }

func (g *generator) hash(key string, n, valueLen int) {
	args := []any{"HSET", key}
	for i := range n {
		args = append(args, "field:"+strconv.Itoa(i), g.text(g.random.IntN(valueLen)))
	}
	g.do(args...)
}

// limits are integers at the edges of the encodings that snapshots have for them: 6, 8, 12, 13, 16, 24, 32 and 64 bits.
func limits() []int64 {
	return []int64{
		0, -1, 1, 12, 13, 63, 64, 127, 128, -128, -129, 2047, 2048, -2048, -2049, 4095, -4096, -4097, 32767, 32768, -32768,
		-32769, 1<<23 - 1, 1 << 23, -1 << 23, -1<<23 - 1, math.MaxInt32, math.MaxInt32 + 1, math.MinInt32, math.MinInt32 - 1,
		math.MaxInt64, math.MinInt64,
	}
}

func (g *generator) stringInt(key string) {
	all := limits()
	g.do("SET", key, all[g.random.IntN(len(all))])
}

// stringLength makes strings at the edges of the encodings of a length, one of them longer than 64 KiB.
func (g *generator) stringLength(key string) {
	if g.large {
		g.do("SET", key, g.noise(70000))
		return
	}
	lengths := []int{1, 3, 4, 5, 20, 21, 44, 45, 63, 64, 65, 16383, 16384}
	g.do("SET", key, g.noise(lengths[g.random.IntN(len(lengths))]))
}

func (g *generator) listInts(key string) {
	all := limits()
	g.many("RPUSH", key, len(all), func(i int) any { return all[i] })
	g.do("LPUSH", key, "", "007", "-0", "9223372036854775808")
}

// listLargeElement makes a list with an element that doesn't fit into a node with others, in the middle.
func (g *generator) listLargeElement(key string) {
	n := 2000
	if g.large {
		n = 20000
	}
	g.do("RPUSH", key, "first", g.text(n), g.noise(n), "last")
}

func (g *generator) hashInts(key string) {
	args := []any{"HSET", key}
	for i, n := range limits() {
		args = append(args, i, n)
	}
	g.do(args...)
}

// hashExpiring makes a hash of which some fields expire: all, some, or one.
func (g *generator) hashExpiring(key string) {
	n := g.n()
	g.hash(key, n, 30)
	for i := 0; i < n; i += 1 + g.random.IntN(3) {
		g.do("HPEXPIREAT", key, farFuture+g.random.Int64N(1e12), "FIELDS", 1, "field:"+strconv.Itoa(i))
	}
}

func (g *generator) zset(key string) {
	args := []any{"ZADD", key}
	for i := range g.n() {
		args = append(args, g.random.IntN(1000)-500, "member:"+strconv.Itoa(i))
	}
	g.do(args...)
}

// zsetScores makes scores of every sort: infinite, tiny, huge, fractions without an exact decimal text.
func (g *generator) zsetScores(key string) {
	g.do("ZADD", key, "-inf", "a", "+inf", "b", "0", "c", "-0", "d", "0.1", "e", "1e-320", "f", "1.7976931348623157e308", "g",
		"3.3333333333333335", "h", "9007199254740993", "i", "-1e300", "j")
	if g.large {
		for i := range 300 {
			g.do("ZADD", key, g.random.NormFloat64()*1e6, "x:"+strconv.Itoa(i))
		}
	}
}

// vectorSet makes one of the three quantisations, with attributes on some elements.
func (g *generator) vectorSet(key string) {
	quant := []string{"NOQUANT", "Q8", "BIN"}[g.random.IntN(3)]
	for i := range 1 + g.n()/20 {
		args := []any{"VADD", key, "VALUES", 3, g.random.NormFloat64(), g.random.NormFloat64(), g.random.NormFloat64(),
			"element:" + strconv.Itoa(i), quant}
		if i%3 == 0 {
			args = append(args, "SETATTR", fmt.Sprintf(`{"n":%d}`, i))
		}
		g.do(args...)
	}
}
