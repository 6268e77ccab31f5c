package testserver

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// Snapshot reads every key of every database through commands and returns, under "db/key", a canonical text of its
// type, its value and its expiry in milliseconds since 1970. Two servers of whatever versions hold the same keys exactly
// when their snapshots are equal; Diff tells where they are not.
//
// So that versions can be compared, this is left out or made equal:
//
//   - scores are printed the shortest way, because servers print them with 17 digits or with as few as needed;
//   - sets and hashes are sorted;
//   - of a stream, the sizes of its radix tree, the lag of a group (servers compute it from the rest, each in its own way)
//     and the active-time of a consumer (Redis 7.0 has none) are left out, as is whatever XINFO STREAM FULL says that
//     Redis 7.0 doesn't;
//   - fields of a hash have an expiry only where the server knows HPEXPIRETIME;
//   - a value of a type that no command can read is compared by its DUMP without version and checksum.
//
// The reads are not one moment: on a server that is written to, a snapshot is a mixture.
func Snapshot(t testing.TB, c *redis.Client) map[string]string {
	t.Helper()
	snap, err := readAll(t.Context(), c)
	if err != nil {
		t.Fatalf("reading all keys of %s: %v", c.Options().Addr, err)
	}
	return snap
}

// Functions returns the code of every function library, by name.
func Functions(t testing.TB, c *redis.Client) map[string]string {
	t.Helper()
	list, err := c.FunctionList(t.Context(), redis.FunctionListQuery{WithCode: true}).Result()
	if err != nil {
		t.Fatalf("reading the functions of %s: %v", c.Options().Addr, err)
	}
	libs := make(map[string]string, len(list))
	for _, lib := range list {
		libs[lib.Name] = lib.Code
	}
	return libs
}

// Diff compares two snapshots and returns a description of the first differences, or "" if there are none.
func Diff(want, got map[string]string) string {
	keys := make([]string, 0, len(want))
	for k := range want {
		keys = append(keys, k)
	}
	for k := range got {
		if _, ok := want[k]; !ok {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	var out strings.Builder
	differ := 0
	for _, k := range keys {
		w, inWant := want[k]
		g, inGot := got[k]
		if inWant == inGot && w == g {
			continue
		}
		if differ++; differ > 10 {
			continue
		}
		switch {
		case !inGot:
			fmt.Fprintf(&out, "missing %q: %s\n", k, clip(w, 0))
		case !inWant:
			fmt.Fprintf(&out, "not expected %q: %s\n", k, clip(g, 0))
		default:
			at := 0
			for at < min(len(w), len(g)) && w[at] == g[at] {
				at++
			}
			fmt.Fprintf(&out, "%q differs at byte %d of its text:\n  want %s\n  got  %s\n", k, at, clip(w, at), clip(g, at))
		}
	}
	if differ == 0 {
		return ""
	}
	return fmt.Sprintf("%d of %d keys differ (%d wanted, %d there)\n%s", differ, len(keys), len(want), len(got), out.String())
}

// clip returns the first line of a text and what surrounds a byte of it.
func clip(s string, at int) string {
	const width = 160
	head, _, _ := strings.Cut(s, "\n")
	head = head[:min(len(head), 60)]
	if from := max(0, at-40); from > 0 {
		return head + " … " + strconv.Quote(s[from:min(len(s), from+width)])
	}
	return strconv.Quote(s[:min(len(s), width)])
}

// A reader reads the keys of one database.
type reader struct {
	c          *redis.Client
	fieldTTL   bool // the server knows HPEXPIRETIME
	vectorSets bool // and VADD
}

func readAll(ctx context.Context, c *redis.Client) (map[string]string, error) {
	dbs, err := databases(ctx, c)
	if err != nil {
		return nil, err
	}
	fieldTTL, err := knows(ctx, c, "HPEXPIRETIME")
	if err != nil {
		return nil, err
	}
	vectorSets, err := knows(ctx, c, "VADD")
	if err != nil {
		return nil, err
	}
	snap := make(map[string]string)
	for _, db := range dbs {
		// A client of its own, because SELECT on one of the caller's connections would outlive this, and with RESP 2, in
		// which all servers answer alike.
		opts := *c.Options()
		opts.DB, opts.Protocol = db, 2
		r := &reader{c: redis.NewClient(&opts), fieldTTL: fieldTTL, vectorSets: vectorSets}
		err := r.readDB(ctx, strconv.Itoa(db)+"/", snap)
		if closeErr := r.c.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			return nil, fmt.Errorf("database %d: %w", db, err)
		}
	}
	return snap, nil
}

// databases lists those that hold keys.
func databases(ctx context.Context, c *redis.Client) ([]int, error) {
	info, err := c.Info(ctx, "keyspace").Result()
	if err != nil {
		return nil, err
	}
	var dbs []int
	for line := range strings.Lines(info) {
		if name, _, ok := strings.Cut(line, ":"); ok && strings.HasPrefix(name, "db") {
			db, err := strconv.Atoi(name[2:])
			if err != nil {
				return nil, fmt.Errorf("INFO keyspace: %w", err)
			}
			dbs = append(dbs, db)
		}
	}
	return dbs, nil
}

func (r *reader) readDB(ctx context.Context, prefix string, snap map[string]string) error {
	var cursor uint64
	for {
		keys, next, err := r.c.Scan(ctx, cursor, "", 500).Result()
		if err != nil {
			return err
		}
		if err := r.readKeys(ctx, prefix, keys, snap); err != nil {
			return err
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}

// pipe sends commands in one go. A key that is gone by now is no error here: its reply tells.
func (r *reader) pipe(ctx context.Context, fill func(p redis.Pipeliner)) error {
	p := r.c.Pipeline()
	fill(p)
	if p.Len() == 0 {
		return nil
	}
	cmds, err := p.Exec(ctx)
	if err == nil || errors.Is(err, redis.Nil) {
		for _, cmd := range cmds {
			if e := cmd.Err(); e != nil && !errors.Is(e, redis.Nil) {
				return fmt.Errorf("%.100q: %w", fmt.Sprint(cmd.Args()), e)
			}
		}
		return nil
	}
	return err
}

func (r *reader) readKeys(ctx context.Context, prefix string, keys []string, snap map[string]string) error {
	types, expiries := make([]*redis.StatusCmd, len(keys)), make([]*redis.Cmd, len(keys))
	err := r.pipe(ctx, func(p redis.Pipeliner) {
		for i, k := range keys {
			types[i], expiries[i] = p.Type(ctx, k), p.Do(ctx, "PEXPIRETIME", k)
		}
	})
	if err != nil {
		return err
	}
	values := make([]*redis.Cmd, len(keys)) // the value, or what tells how to read it
	more := make([]*redis.Cmd, len(keys))
	err = r.pipe(ctx, func(p redis.Pipeliner) {
		for i, k := range keys {
			switch types[i].Val() {
			case "none":
			case "string":
				values[i] = p.Do(ctx, "GET", k)
			case "list":
				values[i] = p.Do(ctx, "LRANGE", k, 0, -1)
			case "set":
				values[i] = p.Do(ctx, "SMEMBERS", k)
			case "zset":
				values[i] = p.Do(ctx, "ZRANGE", k, 0, -1, "WITHSCORES")
			case "hash":
				values[i] = p.Do(ctx, "HGETALL", k)
			case "stream":
				values[i], more[i] = p.Do(ctx, "XRANGE", k, "-", "+"), p.Do(ctx, "XINFO", "STREAM", k, "FULL", "COUNT", 0)
			case "vectorset":
				if r.vectorSets {
					values[i], more[i] = p.Do(ctx, "VINFO", k), p.Do(ctx, "VRANDMEMBER", k, 1<<30)
					break
				}
				fallthrough
			default:
				values[i] = p.Do(ctx, "DUMP", k)
			}
		}
	})
	if err != nil {
		return err
	}
	// Hashes with fields that expire and vector sets need a second look, now that their fields and elements are known.
	inner := make([][]*redis.Cmd, len(keys))
	err = r.pipe(ctx, func(p redis.Pipeliner) {
		for i, k := range keys {
			switch t := types[i].Val(); {
			case t == "hash" && r.fieldTTL:
				inner[i] = fieldExpiries(ctx, p, k, values[i])
			case t == "vectorset" && r.vectorSets:
				inner[i] = elements(ctx, p, k, more[i])
			}
		}
	})
	if err != nil {
		return err
	}
	for i, k := range keys {
		if values[i] == nil || errors.Is(values[i].Err(), redis.Nil) {
			continue // gone since SCAN saw it
		}
		text, err := canonical(types[i].Val(), values[i], more[i], inner[i])
		if err != nil {
			return fmt.Errorf("key %q, a %s: %w", k, types[i].Val(), err)
		}
		if at, err := expiries[i].Int64(); err != nil {
			return fmt.Errorf("key %q: PEXPIRETIME: %w", k, err)
		} else if at >= 0 {
			text = "expires " + strconv.FormatInt(at, 10) + "\n" + text
		}
		snap[prefix+k] = types[i].Val() + "\n" + text
	}
	return nil
}

// canonical returns the text of a value from the replies about it.
func canonical(typ string, value, more *redis.Cmd, inner []*redis.Cmd) (string, error) {
	switch typ {
	case "string":
		s, err := value.Text()
		return string(appendQuoted(nil, s)), err
	case "list":
		items, err := value.StringSlice()
		return quoted(items, false), err
	case "set":
		items, err := value.StringSlice()
		return quoted(items, true), err
	case "zset":
		return canonicalZset(value)
	case "hash":
		return canonicalHash(value, inner)
	case "stream":
		return canonicalStream(value, more)
	case "vectorset":
		if more != nil {
			return canonicalVectorSet(value, more, inner)
		}
	}
	dump, err := value.Text()
	if err != nil {
		return "", err
	}
	return "dump " + hex.EncodeToString([]byte(dump[:max(0, len(dump)-10)])), nil
}

func quoted(items []string, sorted bool) string {
	var l textLines
	for _, s := range items {
		l.text = appendQuoted(l.text, s)
		l.end()
	}
	return l.join(sorted)
}

func canonicalZset(value *redis.Cmd) (string, error) {
	items, err := value.StringSlice()
	if err != nil {
		return "", err
	}
	var l textLines
	for i := 0; i+1 < len(items); i += 2 {
		if l.text, err = appendShortest(l.text, items[i+1]); err != nil {
			return "", err
		}
		l.text = appendQuoted(append(l.text, ' '), items[i])
		l.end()
	}
	return l.join(false), nil
}

// appendShortest appends a number's shortest text that reads back as the same double.
func appendShortest(dst []byte, number string) ([]byte, error) {
	if n := len(number); n > 0 && n < 6 && number[0] >= '1' && strings.Trim(number, "0123456789") == "" {
		return append(dst, number...), nil
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return dst, err
	}
	return strconv.AppendFloat(dst, f, 'g', -1, 64), nil
}

// fieldExpiries asks for the expiry of each field of a hash, a thousand at a time.
func fieldExpiries(ctx context.Context, p redis.Pipeliner, key string, hash *redis.Cmd) []*redis.Cmd {
	items, err := hash.StringSlice()
	if err != nil {
		return nil // canonicalHash tells
	}
	var cmds []*redis.Cmd
	for batch := range slices.Chunk(items, 2000) {
		args := []any{"HPEXPIRETIME", key, "FIELDS", len(batch) / 2}
		for i := 0; i < len(batch); i += 2 {
			args = append(args, batch[i])
		}
		cmds = append(cmds, p.Do(ctx, args...))
	}
	return cmds
}

func canonicalHash(value *redis.Cmd, expiries []*redis.Cmd) (string, error) {
	items, err := value.StringSlice()
	if err != nil {
		return "", err
	}
	var at []int64
	for _, cmd := range expiries {
		batch, err := cmd.Int64Slice()
		if err != nil {
			return "", err
		}
		at = append(at, batch...)
	}
	var l textLines
	for i := 0; i+1 < len(items); i += 2 {
		l.text = appendQuoted(l.text, items[i])
		l.text = appendQuoted(append(l.text, " = "...), items[i+1])
		if i/2 < len(at) && at[i/2] >= 0 {
			l.text = strconv.AppendInt(append(l.text, " expires "...), at[i/2], 10)
		}
		l.end()
	}
	return l.join(true), nil
}
