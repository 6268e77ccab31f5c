package inspect_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/rdb/inspect"
)

// How far the estimate may be from what servers answer: of all keys, and of those of each type.
const (
	totalTolerance = 0.05
	typeTolerance  = 0.10
)

// fill gives a server keys as applications have them: of every type, in the small and the large form, with numbers, words and
// compressible text. The part of a name before the colon says what they are.
func fill(t *testing.T, c *redis.Client) {
	random := rand.New(rand.NewPCG(1, 2))
	text := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte('a' + random.IntN(26))
		}
		return string(b)
	}
	word := func(i int) string { return fmt.Sprintf("%s-%d", text(1+random.IntN(20)), i) }
	p := c.Pipeline()
	do := func(command, key string, n int, element func(i int) []any) {
		args := []any{command, key}
		for i := range n {
			args = append(args, element(i)...)
		}
		p.Do(t.Context(), args...)
	}
	add := func(name string, keys int, one func(key string, i int)) {
		for i := range keys {
			one(fmt.Sprintf("%s:%d", name, i), i)
			if p.Len() > 1000 || i == keys-1 {
				if _, err := p.Exec(t.Context()); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
			}
		}
	}
	add("counter", 2000, func(key string, i int) { p.Set(t.Context(), key, i*i, 0) })
	add("time", 1000, func(key string, i int) { p.Set(t.Context(), key, 1700000000000+i, 0) })
	add("session", 2000, func(key string, i int) { p.Set(t.Context(), key, text(20+random.IntN(30)), 0) })
	add("page", 500, func(key string, i int) { p.Set(t.Context(), key, strings.Repeat(text(30), 1+random.IntN(100)), 0) })
	add("small_hash", 1000, func(key string, i int) {
		do("HSET", key, 1+random.IntN(10), func(i int) []any { return []any{"field" + fmt.Sprint(i), word(i)} })
	})
	add("large_hash", 20, func(key string, i int) {
		do("HSET", key, 600+random.IntN(1000), func(i int) []any { return []any{word(i), text(random.IntN(80))} })
	})
	add("counters_hash", 20, func(key string, i int) {
		do("HSET", key, 600, func(i int) []any { return []any{"page:" + fmt.Sprint(i), random.IntN(100000)} })
	})
	add("intset", 300, func(key string, i int) {
		do("SADD", key, 1+random.IntN(300), func(i int) []any { return []any{i * 1000} })
	})
	add("small_set", 500, func(key string, i int) {
		do("SADD", key, 1+random.IntN(30), func(i int) []any { return []any{word(i)} })
	})
	add("large_set", 20, func(key string, i int) {
		do("SADD", key, 600+random.IntN(1000), func(i int) []any { return []any{word(i)} })
	})
	add("small_zset", 500, func(key string, i int) {
		do("ZADD", key, 1+random.IntN(30), func(i int) []any { return []any{random.Float64() * 100, word(i)} })
	})
	add("large_zset", 20, func(key string, i int) {
		do("ZADD", key, 600+random.IntN(1000), func(i int) []any { return []any{random.IntN(100), word(i)} })
	})
	add("small_list", 500, func(key string, i int) {
		do("RPUSH", key, 1+random.IntN(20), func(i int) []any { return []any{word(i)} })
	})
	add("large_list", 20, func(key string, i int) {
		do("RPUSH", key, 2000, func(i int) []any { return []any{word(i)} })
	})
	add("small_stream", 100, func(key string, i int) {
		for i := range 1 + random.IntN(20) {
			do("XADD", key, 1, func(int) []any {
				return []any{fmt.Sprintf("%d-0", 1700000000000+i*1000), "name", word(i), "value", i}
			})
		}
	})
	entries := func(key string, n int) {
		for i := range n {
			do("XADD", key, 1, func(int) []any {
				return []any{fmt.Sprintf("%d-0", 1700000000000+i*100+random.IntN(100)), "name", word(i), "value", i}
			})
		}
	}
	add("large_stream", 5, func(key string, _ int) { entries(key, 3000) })
	add("group_stream", 5, func(key string, _ int) {
		entries(key, 1000)
		p.XGroupCreate(t.Context(), key, "group", "0")
		for n := range 5 {
			p.XReadGroup(t.Context(), &redis.XReadGroupArgs{Group: "group", Consumer: fmt.Sprint("consumer", n), Streams: []string{key, ">"}, Count: 40})
		}
	})
}

// TestMemory holds the estimate of what a server saved against what the server itself says that its keys take.
func TestMemory(t *testing.T) {
	for _, version := range []string{"redis-7.0", "redis-8.0"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			s := testserver.Start(t, version)
			c := s.Client(t)
			fill(t, c)
			if err := c.Save(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
			estimate, of := map[string]int64{}, map[string]string{}
			keys := estimates(t, filepath.Join(s.Dir, "dump.rdb"), func(e *rdb.Entry, memory int64) {
				kind, _, _ := strings.Cut(string(e.Key), ":")
				estimate["all"] += memory
				estimate["type "+e.Type.String()] += memory
				estimate[kind] += memory
				of[string(e.Key)] = e.Type.String()
			})
			s.Restart(t)
			real := map[string]int64{}
			for names := range slices.Chunk(keys, 1000) {
				p := c.Pipeline()
				var usage []*redis.IntCmd
				for _, name := range names {
					usage = append(usage, p.MemoryUsage(t.Context(), name, 0))
				}
				if _, err := p.Exec(t.Context()); err != nil {
					t.Fatal(err)
				}
				for i, name := range names {
					kind, _, _ := strings.Cut(name, ":")
					real["all"] += usage[i].Val()
					real["type "+of[name]] += usage[i].Val()
					real[kind] += usage[i].Val()
				}
			}
			if n := c.DBSize(t.Context()).Val(); n != int64(len(keys)) || n < 8000 {
				t.Fatalf("%d keys, the server has %d", len(keys), n)
			}
			names := []string{}
			for name := range real {
				names = append(names, name)
			}
			slices.Sort(names)
			for _, name := range names {
				off := float64(estimate[name])/float64(real[name]) - 1
				t.Logf("%-15s %9d estimated, %9d by the server: %+5.1f %%", name, estimate[name], real[name], 100*off)
				tolerance := 1.0
				switch {
				case name == "all":
					tolerance = totalTolerance
				case strings.HasPrefix(name, "type "):
					tolerance = typeTolerance
				}
				if off > tolerance || off < -tolerance {
					t.Errorf("%s: off by %.1f %%", name, 100*off)
				}
			}
		})
	}
}

// estimates calls fn with every key of a file, and returns their names.
func estimates(t *testing.T, file string, fn func(e *rdb.Entry, memory int64)) (keys []string) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := rdb.NewReader(f, nil)
	r.Observe(func(e *rdb.Entry, v rdb.ValueInfo) {
		keys = append(keys, string(e.Key))
		fn(e, inspect.Memory(e, v))
	})
	for _, err := range r.Entries() {
		if err != nil {
			t.Fatal(err)
		}
	}
	return keys
}
