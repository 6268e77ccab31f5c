package testserver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Generate adds keys of every type and encoding that the server has to it: small and large forms, integers at the limits
// of their encodings, empty strings, binary keys and values, compressible and incompressible ones, streams with groups and
// pending entries, hashes whose fields expire and vector sets where there are any; in several databases, one key in three
// with an expiry after the year 2100. Every kind occurs once among the first forty keys or so.
//
// The same seed gives the same keys and values on servers of the same version (a consumer's seen-time excepted, which the
// server sets). Keys that exist already under the same names are added to. It leaves functions alone: see LoadFunction.
func Generate(t testing.TB, c *redis.Client, keys int, seed uint64) {
	t.Helper()
	if err := generate(t.Context(), c, keys, seed); err != nil {
		t.Fatalf("generating %d keys on %s: %v", keys, c.Options().Addr, err)
	}
}

// LoadFunction loads a small function library under a name, in Lua, which every version knows.
func LoadFunction(t testing.TB, c *redis.Client, name string) {
	t.Helper()
	code := "#!lua name=" + name + "\nredis.register_function('" + name + "_echo', function(keys, args) return args[1] end)\n"
	if err := c.FunctionLoadReplace(t.Context(), code).Err(); err != nil {
		t.Fatalf("loading function library %s: %v", name, err)
	}
}

// WriteLoad writes to database 0 until stop is called, which tells how many transactions were done. Each transaction adds
// one to the counters "load:a" and "load:b" and sets one of the keys "load:0" to "load:999" between: in a snapshot of
// one moment the two counters are equal. An error of the server ends the load silently, for it may have been killed.
//
// There is a pause after each transaction: many tests share the machine, and it is enough that something is written all the time.
func WriteLoad(t testing.TB, c *redis.Client) (stop func() int64) {
	return writeLoad(t, c, loadPause)
}

// Flood is WriteLoad without a pause, for tests to which it matters how much is written.
func Flood(t testing.TB, c *redis.Client) (stop func() int64) { return writeLoad(t, c, 0) }

// loadPause is how long those who write pause after a transaction.
const loadPause = 500 * time.Microsecond

func writeLoad(t testing.TB, c *redis.Client, pause time.Duration) (stop func() int64) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int64, 1)
	go func() {
		var n int64
		defer func() { done <- n }()
		for ctx.Err() == nil {
			_, err := c.TxPipelined(ctx, func(p redis.Pipeliner) error {
				p.Incr(ctx, "load:a")
				p.Set(ctx, "load:"+strconv.FormatInt(n%1000, 10), strconv.FormatInt(n, 10), 0)
				p.Incr(ctx, "load:b")
				return nil
			})
			if err != nil {
				return
			}
			n++
			time.Sleep(pause)
		}
	}()
	var once sync.Once
	var total int64
	stop = func() int64 {
		once.Do(func() {
			cancel()
			total = <-done
		})
		return total
	}
	t.Cleanup(func() { stop() })
	return stop
}

// farFuture is the first moment at which a generated key or field may expire, in milliseconds: 2100-01-01.
const farFuture = 4102444800000

// A generator makes the commands for one key after the other and sends them in batches.
type generator struct {
	ctx    context.Context
	pipes  []redis.Pipeliner    // to the database at hand; of a cluster, one to each primary
	pipe   func(key string) int // which of them a key is for
	p      redis.Pipeliner      // that of the key at hand
	bytes  int                  // in all of them, about
	random *rand.Rand
	large  bool // the key at hand shall have the large form of its type
}

func generate(ctx context.Context, c *redis.Client, keys int, seed uint64) error {
	dbs, err := usableDBs(ctx, c)
	if err != nil {
		return err
	}
	kinds, err := usableKinds(ctx, c)
	if err != nil {
		return err
	}
	for i, db := range dbs {
		opts := *c.Options()
		opts.DB, opts.Protocol = db, 2
		opts.MaxRetries = -1 // a batch of RPUSH must not be sent twice
		client := redis.NewClient(&opts)
		g := &generator{ctx: ctx, pipes: []redis.Pipeliner{client.Pipeline()}, pipe: func(string) int { return 0 },
			random: rand.New(rand.NewPCG(seed, uint64(db)))}
		err := g.fill(kinds, keys, seed, i, len(dbs))
		if closeErr := client.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			return fmt.Errorf("database %d: %w", db, err)
		}
	}
	return nil
}

// usableDBs returns the databases to use: some of those that the server has.
func usableDBs(ctx context.Context, c *redis.Client) ([]int, error) {
	reply, err := c.ConfigGet(ctx, "databases").Result()
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(reply["databases"])
	if err != nil {
		return nil, fmt.Errorf("CONFIG GET databases: %w", err)
	}
	info, err := c.Info(ctx, "cluster").Result()
	if err != nil {
		return nil, err
	}
	if strings.Contains(info, "cluster_enabled:1") {
		return []int{0}, nil
	}
	dbs := []int{0}
	for _, db := range []int{1, 2, 9, 15} {
		if db < n {
			dbs = append(dbs, db)
		}
	}
	return dbs, nil
}

// usableKinds returns the kinds of keys that the server knows.
func usableKinds(ctx context.Context, c *redis.Client) ([]kind, error) {
	known := map[string]bool{"": true}
	var out []kind
	for _, k := range kinds() {
		if _, asked := known[k.needs]; !asked {
			ok, err := knows(ctx, c, k.needs)
			if err != nil {
				return nil, err
			}
			known[k.needs] = ok
		}
		if known[k.needs] {
			out = append(out, k)
		}
	}
	return out, nil
}

// fill makes the keys of one database: half of all are in the first, the others share the rest. The large forms come
// in the first round of kinds and then in every tenth, so that a large number of keys stays cheap.
func (g *generator) fill(kinds []kind, keys int, seed uint64, db, dbs int) error {
	deal := rand.New(rand.NewPCG(seed, 1<<32)) // the same for each database, so that they agree on whose a key is
	for i := range keys {
		whose := 0
		if deal.IntN(2) == 1 && dbs > 1 {
			whose = 1 + deal.IntN(dbs-1)
		}
		if whose != db {
			continue
		}
		k := kinds[i%len(kinds)]
		g.large = i/len(kinds)%10 == 0
		key := g.keyName(k.name, i)
		g.p = g.pipes[g.pipe(key)]
		k.add(g, key)
		if g.random.IntN(3) == 0 {
			g.do("PEXPIREAT", key, farFuture+g.random.Int64N(1e12))
		}
		if g.bytes > 1<<20 || g.p.Len() > 5000 {
			if err := g.flush(); err != nil {
				return err
			}
		}
	}
	return g.flush()
}

// keyName returns a name that is unique in its database; one in five has bytes that a careless parser trips over.
func (g *generator) keyName(kind string, i int) string {
	name := kind + ":" + strconv.Itoa(i)
	switch g.random.IntN(25) {
	case 0:
		return name + "\x00\xff\r\n\x80 end"
	case 1:
		return name + "/ü 日本 \"quoted\" \t" // several scripts and a slash
	case 2:
		return strconv.Itoa(i) // kept as an integer in a snapshot
	case 3:
		return name + ":" + g.text(300) // a length of two bytes
	case 4:
		return name + string(g.noise(20))
	}
	return name
}

// do adds one command to the batch.
func (g *generator) do(args ...any) {
	for _, a := range args {
		switch a := a.(type) {
		case string:
			g.bytes += len(a)
		case []byte:
			g.bytes += len(a)
		}
		g.bytes += 16
	}
	g.p.Do(g.ctx, args...)
}

func (g *generator) flush() error {
	g.bytes = 0
	for _, p := range g.pipes {
		if p.Len() == 0 {
			continue
		}
		cmds, err := p.Exec(g.ctx)
		for _, cmd := range cmds {
			if e := cmd.Err(); e != nil && !errors.Is(e, redis.Nil) {
				return fmt.Errorf("%.200q: %w", fmt.Sprint(cmd.Args()), e)
			}
		}
		if err != nil && !errors.Is(err, redis.Nil) {
			return err
		}
	}
	return nil
}

// n returns a number of elements: from a few for the small form of a type, several hundred for the large one.
func (g *generator) n() int {
	if g.large {
		return 600 + g.random.IntN(200)
	}
	return 1 + g.random.IntN(12)
}

// noise returns bytes that don't compress.
func (g *generator) noise(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(g.random.Uint32())
	}
	return b
}

// text returns a text that compresses well.
func (g *generator) text(n int) string {
	words := []string{"amber ", "keeps ", "a ", "living ", "data ", "store ", "exactly ", "as it stood "}
	b := make([]byte, 0, n+16)
	for len(b) < n {
		b = append(b, words[g.random.IntN(len(words))]...)
	}
	return string(b[:n])
}

// stamp returns a moment in milliseconds, in 2024, for stream IDs and deliveries.
func (g *generator) stamp() int64 {
	return time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli() + g.random.Int64N(1e10)
}
