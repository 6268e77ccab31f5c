package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	prefix  = "amber-demo:" // of every key that this program writes
	perType = 2000
)

// countKeys counts the keys of all databases.
func countKeys(ctx context.Context, c *redis.Client) (int, error) {
	dbs, err := databases(ctx, c)
	total := 0
	for _, n := range dbs {
		total += n
	}
	return total, err
}

// databases returns how many keys each database has that has any.
func databases(ctx context.Context, c *redis.Client) (map[int]int, error) {
	info, err := c.Info(ctx, "keyspace").Result()
	if err != nil {
		return nil, err
	}
	dbs := map[int]int{}
	for line := range strings.Lines(info) {
		var db, keys int
		if n, _ := fmt.Sscanf(line, "db%d:keys=%d,", &db, &keys); n == 2 {
			dbs[db] = keys
		}
	}
	return dbs, nil
}

// fill writes keys of every type, and returns how many.
func fill(ctx context.Context, c *redis.Client) (int, error) {
	begin := time.Now()
	p := c.Pipeline()
	for i := range perType {
		key := func(kind string) string { return fmt.Sprintf("%s%s:%05d", prefix, kind, i) }
		text := strings.Repeat(fmt.Sprintf("order %d of customer %d; ", i, i*7919%perType), 1+i%9)
		p.Set(ctx, key("string"), text, 0)
		p.RPush(ctx, key("list"), i, "parcel", text, i*i)
		p.SAdd(ctx, key("set"), "red", i, i+1, i+2)
		p.ZAdd(ctx, key("zset"), redis.Z{Score: float64(i) / 3, Member: "third"}, redis.Z{Score: -1e100, Member: text})
		p.HSet(ctx, key("hash"), "name", text, "stock", i, "empty", "")
		p.XAdd(ctx, &redis.XAddArgs{Stream: key("stream"), Values: []any{"event", i, "note", text}})
		if i%4 == 0 {
			for _, kind := range []string{"string", "list", "set", "zset", "hash", "stream"} {
				p.ExpireAt(ctx, key(kind), begin.Add(24*time.Hour+time.Duration(i)*time.Second))
			}
		}
		if p.Len() >= 1000 {
			if _, err := p.Exec(ctx); err != nil {
				return 0, err
			}
		}
	}
	if _, err := p.Exec(ctx); err != nil {
		return 0, err
	}
	return countKeys(ctx, c)
}

// unfill removes the keys that fill wrote, and none but them.
func unfill(ctx context.Context, c *redis.Client) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	var keys []string
	scan := c.Scan(ctx, 0, prefix+"*", 1000).Iterator()
	for scan.Next(ctx) {
		keys = append(keys, scan.Val())
	}
	if err := scan.Err(); err != nil {
		return fmt.Errorf("removing the keys %s*: %w", prefix, err)
	}
	for batch := range slices.Chunk(keys, 1000) {
		if err := c.Unlink(ctx, batch...).Err(); err != nil {
			return fmt.Errorf("removing the keys %s*: %w", prefix, err)
		}
	}
	return nil
}

// read returns, for every key of every database, its type, its value and its expiry, in short: their SHA-256.
func read(ctx context.Context, c *redis.Client) (map[string]string, error) {
	dbs, err := databases(ctx, c)
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	for db := range dbs {
		opts := *c.Options()
		opts.DB, opts.Protocol = db, 2 // in the newer protocol the same value has another form on some servers
		if err := readDB(ctx, redis.NewClient(&opts), fmt.Sprint(db, "/"), all); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func readDB(ctx context.Context, c *redis.Client, name string, all map[string]string) error {
	defer c.Close()
	for cursor, first := uint64(0), true; first || cursor != 0; first = false {
		var keys []string
		var err error
		if keys, cursor, err = c.Scan(ctx, cursor, "*", 500).Result(); err != nil {
			return err
		}
		p := c.Pipeline()
		kinds, expiries := make([]*redis.StatusCmd, len(keys)), make([]*redis.DurationCmd, len(keys))
		for i, key := range keys {
			kinds[i], expiries[i] = p.Type(ctx, key), p.PExpireTime(ctx, key)
		}
		if _, err := p.Exec(ctx); err != nil {
			return err
		}
		values := make([]*redis.Cmd, len(keys))
		for i, key := range keys {
			values[i] = p.Do(ctx, valueCommand(kinds[i].Val(), key)...)
		}
		if _, err := p.Exec(ctx); err != nil {
			return err
		}
		for i, key := range keys {
			text := fmt.Sprintf("%s %d %s", kinds[i].Val(), expiries[i].Val(), canonical(kinds[i].Val(), values[i].Val()))
			all[name+key] = fmt.Sprintf("%x", sha256.Sum256([]byte(text)))
		}
	}
	return nil
}

// valueCommand is what reads a value of the given type. No general command reads the values of modules: of these only type and
// expiry are compared.
func valueCommand(kind, key string) []any {
	switch kind {
	case "string":
		return []any{"GET", key}
	case "list":
		return []any{"LRANGE", key, 0, -1}
	case "set":
		return []any{"SMEMBERS", key}
	case "zset":
		return []any{"ZRANGE", key, 0, -1, "WITHSCORES"}
	case "hash":
		return []any{"HGETALL", key}
	case "stream":
		return []any{"XRANGE", key, "-", "+"}
	}
	return []any{"TYPE", key}
}

// canonical prints a value so that equal ones print alike: sets and hashes have no order, and servers don't agree on how
// many digits a score has.
func canonical(kind string, value any) string {
	list, ok := value.([]any)
	if !ok {
		return fmt.Sprintf("%q", value)
	}
	var items []string
	for i, item := range list {
		text := fmt.Sprintf("%q", item)
		if score, err := strconv.ParseFloat(fmt.Sprint(item), 64); kind == "zset" && i%2 == 1 && err == nil {
			text = strconv.FormatFloat(score, 'g', -1, 64)
		}
		if kind == "hash" && i%2 == 1 {
			items[i/2] += " " + text
		} else {
			items = append(items, text)
		}
	}
	if kind == "set" || kind == "hash" {
		slices.Sort(items)
	}
	return fmt.Sprint(items)
}

// differences tells the first keys that are not the same.
func differences(before, after map[string]string) []string {
	keys := maps.Clone(before)
	maps.Copy(keys, after)
	var found []string
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		was, had := before[key]
		is, has := after[key]
		switch {
		case !has:
			found = append(found, fmt.Sprintf("%q is missing", key))
		case !had:
			found = append(found, fmt.Sprintf("%q is new", key))
		case was != is:
			found = append(found, fmt.Sprintf("%q is not the same", key))
		}
		if len(found) == 5 {
			return append(found, "…")
		}
	}
	return found
}

// digest is one hash of everything.
func digest(all map[string]string) string {
	h := sha256.New()
	for _, key := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(h, "%q %s\n", key, all[key])
	}
	return fmt.Sprintf("sha256:%x", h.Sum(nil))
}
