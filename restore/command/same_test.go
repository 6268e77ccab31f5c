package command

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/amberkv/amber/internal/testserver"
	"github.com/redis/go-redis/v9"
)

// A value that was made twice is the same, though its DUMPs differ; one that differs in anything is not.
func TestSameDumps(t *testing.T) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			c := testserver.Start(t, version).Client(t)
			ctx := t.Context()
			do := func(args ...any) {
				t.Helper()
				if err := c.Do(ctx, args...).Err(); err != nil {
					t.Fatal(err)
				}
			}
			dump := func(key string) string {
				t.Helper()
				text, err := c.Dump(ctx, key).Result()
				if err != nil {
					t.Fatal(err)
				}
				return text
			}
			stream := func(key string, change ...any) string {
				do("XADD", key, "1-1", "f", "v")
				do("XADD", key, "2-1", "f", "v", "g", "w")
				do("XGROUP", "CREATE", key, "g", "1-1")
				do("XGROUP", "CREATECONSUMER", key, "g", "one")
				do("XCLAIM", key, "g", "two", 0, "2-1", "TIME", 1_700_000_000_000, "RETRYCOUNT", 3, "FORCE", "JUSTID")
				if len(change) > 0 {
					do(change...)
				}
				return dump(key)
			}
			many := func(key string, last int, add func(ctx context.Context, p redis.Pipeliner, key string, i int), backwards bool) string {
				_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
					for i := range 3000 {
						if backwards {
							i = 2999 - i
						}
						add(ctx, p, key, i)
					}
					add(ctx, p, key, last)
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				return dump(key)
			}
			differ := 0
			check := func(what, a, b string, want bool) {
				t.Helper()
				if a != b && want {
					differ++
				}
				if sameDumps(a, b) != want {
					t.Errorf("%s: they are the same: %v", what, !want)
				}
			}
			first := stream("s1")
			time.Sleep(5 * time.Millisecond) // its consumers are seen later then
			check("a stream that was made twice", first, stream("s2"), true)
			check("an entry more", first, stream("s3", "XADD", "s3", "3-1", "f", "v"), false)
			check("an entry deleted", first, stream("s4", "XDEL", "s4", "1-1"), false)
			check("a consumer more", first, stream("s5", "XGROUP", "CREATECONSUMER", "s5", "g", "three"), false)
			check("a pending entry of another", first, stream("s6", "XCLAIM", "s6", "g", "one", 0, "2-1", "TIME", 1_700_000_000_000, "RETRYCOUNT", 3, "JUSTID"), false)
			check("delivered once more", first, stream("s7", "XCLAIM", "s7", "g", "two", 0, "2-1", "TIME", 1_700_000_000_000, "RETRYCOUNT", 4, "JUSTID"), false)
			check("a group that has read on", first, stream("s8", "XGROUP", "SETID", "s8", "g", "2-1"), false)
			for name, add := range map[string]func(ctx context.Context, p redis.Pipeliner, key string, i int){
				"set": func(ctx context.Context, p redis.Pipeliner, key string, i int) { p.SAdd(ctx, key, fmt.Sprint("m", i)) },
				"hash": func(ctx context.Context, p redis.Pipeliner, key string, i int) {
					p.HSet(ctx, key, fmt.Sprint("f", i), i)
				},
				"zset": func(ctx context.Context, p redis.Pipeliner, key string, i int) {
					p.ZAdd(ctx, key, redis.Z{Score: float64(i % 7), Member: fmt.Sprint("m", i)})
				},
			} {
				a := many(name+"1", 0, add, false)
				check(name+" made backwards", a, many(name+"2", 0, add, true), true)
				check(name+" with one more", a, many(name+"3", 3000, add, false), false)
			}
			do("HSET", "hash1", "f7", "other")
			check("hash with another value", dump("hash1"), dump("hash2"), false)
			do("ZADD", "zset1", 8, "m7")
			check("zset with another score", dump("zset1"), dump("zset2"), false)
			do("RPUSH", "list1", "a", "b")
			do("RPUSH", "list2", "b", "a")
			check("list in another order", dump("list1"), dump("list2"), false)
			check("another type", dump("list1"), dump("set1"), false)
			check("no value", "", "", false)
			if differ < 3 {
				t.Errorf("only %d of the same values have other DUMPs: the test shows nothing", differ)
			}
		})
	}
}
