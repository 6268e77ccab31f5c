package rdb

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/internal/testserver"
)

// loads are the dialects that each server loads: its own and older ones.
var loads = map[string][]Dialect{
	"redis-7.0":  {{Redis, 10}, {Redis, 9}, {Redis, 8}, {Redis, 7}, {Redis, 6}},
	"redis-8.0":  {{Redis, 12}, {Redis, 11}, {Redis, 10}, {Redis, 9}, {Redis, 6}},
	"valkey-8.1": {{Redis, 11}, {Redis, 10}, {Redis, 9}, {Redis, 6}},
	"valkey-9.1": {{Valkey, 80}, {Redis, 11}, {Redis, 10}, {Redis, 9}, {Redis, 6}},
}

// A loader is a server that loads one file after the other.
type loader struct {
	s    *testserver.Server
	file string
}

// startLoader starts a server that is as strict as it can be.
func startLoader(t testing.TB, version string) *loader {
	s := testserver.Start(t, version, "--databases", "1000", "--sanitize-dump-payload", "yes")
	// Nothing is to vanish while it is looked at.
	if err := s.Client(t).Do(t.Context(), "DEBUG", "SET-ACTIVE-EXPIRE", "0").Err(); err != nil {
		t.Fatal(err)
	}
	return &loader{s, filepath.Join(s.Dir, "dump.rdb")}
}

// load makes the server forget what it has and load a file. A server that doesn't like it ends.
func (l *loader) load(ctx context.Context, c *redis.Conn, data []byte) error {
	if err := os.WriteFile(l.file, data, 0o600); err != nil {
		return err
	}
	return c.Do(ctx, "DEBUG", "RELOAD", "NOSAVE").Err()
}

// conn returns a connection of its own, which can select databases.
func (l *loader) conn(t testing.TB) *redis.Conn {
	c := l.s.Client(t).Conn()
	t.Cleanup(func() { c.Close() })
	return c
}

// A contentLine is a line of a .jsonl file.
type contentLine struct {
	DB       int
	Key      string
	Type     string
	ExpireMS *int64 `json:"expire_ms"`
	Value    any
}

// change makes of a line what it is after a change of expiries.
func (l *contentLine) change(t *testing.T, expiry func(at int64) int64) {
	if expiry == nil {
		return
	}
	if l.ExpireMS != nil {
		at := expiry(*l.ExpireMS)
		if l.ExpireMS = &at; at == 0 {
			l.ExpireMS = nil
		}
	}
	if l.Type == "set" {
		// Dragonfly's fixture tells of each member whether it may expire, servers only its name.
		for i, m := range l.Value.([]any) {
			if pair, ok := m.([]any); ok && expiry(1) == 0 {
				l.Value.([]any)[i] = pair[0]
			}
		}
	}
	if l.Type != "hash" {
		return
	}
	for _, f := range l.Value.([]any) {
		if field := f.([]any); field[2] != nil {
			at, err := strconv.ParseInt(field[2].(string), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			if at = expiry(at); at == 0 {
				field[2] = nil
			} else {
				field[2] = strconv.FormatInt(at, 10)
			}
		}
	}
}

// contentLines reads the .jsonl file of a fixture: without the keys that have expired since.
func contentLines(t *testing.T, name string) []contentLine {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name + ".jsonl")
	if err != nil {
		t.Fatal(err)
	}
	var out []contentLine
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var l contentLine
		d := json.NewDecoder(bytes.NewReader(lines.Bytes()))
		d.UseNumber()
		if err := d.Decode(&l); err != nil {
			t.Fatal(err)
		}
		l.Key = unescape(t, l.Key)
		l.Value = unescapeAll(t, l.Value)
		if l.ExpireMS == nil || *l.ExpireMS > time.Now().UnixMilli() {
			out = append(out, l)
		}
	}
	return out
}

// unescapeAll makes strings of the escaped ones and of numbers, so that what the server answers compares with them.
func unescapeAll(t *testing.T, v any) any {
	switch v := v.(type) {
	case string:
		return unescape(t, v)
	case json.Number:
		return v.String()
	case []any:
		for i := range v {
			v[i] = unescapeAll(t, v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = unescapeAll(t, v[k])
		}
	}
	return v
}

// ask reads the value of a key from a server, in the form of the .jsonl files.
func ask(ctx context.Context, c *redis.Conn, l contentLine) (any, error) {
	switch l.Type {
	case "string":
		return c.Get(ctx, l.Key).Result()
	case "list":
		return anys(c.LRange(ctx, l.Key, 0, -1).Result())
	case "set":
		return anys(c.SMembers(ctx, l.Key).Result())
	case "zset":
		flat, err := c.Do(ctx, "ZRANGE", l.Key, 0, -1, "WITHSCORES").StringSlice()
		return pairsOf(flat), err
	case "hash":
		return askHash(ctx, c, l)
	case "stream":
		return askStream(ctx, c, l.Key)
	}
	return nil, fmt.Errorf("a value of type %s can't be compared", l.Type)
}

func anys(list []string, err error) (any, error) {
	out := make([]any, len(list))
	for i := range list {
		out[i] = list[i]
	}
	return out, err
}

func pairsOf(flat []string) any {
	out := []any{}
	for p := range slices.Chunk(flat, 2) {
		out = append(out, []any{p[0], p[1]})
	}
	return out
}

func askHash(ctx context.Context, c *redis.Conn, l contentLine) (any, error) {
	flat, err := c.Do(ctx, "HGETALL", l.Key).StringSlice()
	if err != nil {
		return nil, err
	}
	var out []any
	for p := range slices.Chunk(flat, 2) {
		var ttl any
		at, err := c.Do(ctx, "HPEXPIRETIME", l.Key, "FIELDS", 1, p[0]).Int64Slice()
		switch {
		case err != nil && strings.Contains(err.Error(), "unknown command"):
		case err != nil:
			return nil, err
		case at[0] >= 0:
			ttl = strconv.FormatInt(at[0], 10)
		}
		out = append(out, []any{p[0], p[1], ttl})
	}
	return out, nil
}

// askStream asks for all that XRANGE, XINFO and XPENDING tell.
func askStream(ctx context.Context, c *redis.Conn, key string) (any, error) {
	entries := []any{}
	messages, err := c.Do(ctx, "XRANGE", key, "-", "+").Slice()
	if err != nil {
		return nil, err
	}
	entries = append(entries, messages...)
	info, err := c.Do(ctx, "XINFO", "STREAM", key, "FULL", "COUNT", 0).Slice()
	if err != nil {
		return nil, err
	}
	v := named(info)
	v["entries"] = entries
	groups := []any{}
	for _, g := range v["groups"].([]any) {
		g := named(g.([]any))
		g["pel"] = g["pending"]
		consumers := []any{}
		for _, x := range g["consumers"].([]any) {
			x := named(x.([]any))
			x["pel"] = x["pending"]
			consumers = append(consumers, x)
		}
		g["consumers"] = consumers
		groups = append(groups, g)
	}
	v["groups"] = groups
	return texts(v), nil
}

func named(flat []any) map[string]any {
	m := make(map[string]any)
	for i := 0; i+1 < len(flat); i += 2 {
		m[fmt.Sprint(flat[i])] = flat[i+1]
	}
	return m
}

// texts makes strings of numbers.
func texts(v any) any {
	switch v := v.(type) {
	case int64:
		return strconv.FormatInt(v, 10)
	case []any:
		for i := range v {
			v[i] = texts(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = texts(v[k])
		}
	}
	return v
}

// differs tells where a value differs from what a fixture says. Of streams only what both know is compared, for it is what older servers
// didn't know that newer ones find out on their own. A null means that the fixture's server didn't tell.
func differs(d Dialect, typ string, want, got any) string {
	switch typ {
	case "stream":
		for _, v := range []any{want, got} {
			groups := v.(map[string]any)["groups"].([]any)
			sortByName(groups)
			for _, g := range groups {
				sortByName(g.(map[string]any)["consumers"].([]any))
			}
		}
		return streamDiffers("", want, got)
	case "zset":
		w, g := want.([]any), got.([]any)
		for i := 0; i < min(len(w), len(g)); i++ {
			a, err1 := strconv.ParseFloat(w[i].([]any)[1].(string), 64)
			b, err2 := strconv.ParseFloat(g[i].([]any)[1].(string), 64)
			if err := errors.Join(err1, err2); err != nil {
				return err.Error()
			}
			if w[i].([]any)[0] != g[i].([]any)[0] || a != b || !plainScores(d) && math.Signbit(a) != math.Signbit(b) {
				return fmt.Sprintf("want %v, got %v", w[i], g[i])
			}
		}
		if len(w) != len(g) {
			return fmt.Sprintf("want %d members, got %d", len(w), len(g))
		}
		return ""
	case "set", "hash":
		sortAnys(want.([]any))
		sortAnys(got.([]any))
	}
	if !reflect.DeepEqual(want, got) {
		return fmt.Sprintf("want %.300v, got %.300v", want, got)
	}
	return ""
}

// plainScores tells whether small sorted sets of newer dialects are encoded anew: servers pack them again when they load them, and lose
// the sign of zero then.
func plainScores(d Dialect) bool { return d.Version < 8 }

func sortAnys(list []any) {
	slices.SortFunc(list, func(a, b any) int { return strings.Compare(fmt.Sprintf("%q", a), fmt.Sprintf("%q", b)) })
}

func sortByName(list []any) {
	slices.SortFunc(list, func(a, b any) int {
		return strings.Compare(a.(map[string]any)["name"].(string), b.(map[string]any)["name"].(string))
	})
}

func streamDiffers(where string, want, got any) string {
	switch w := want.(type) {
	case nil:
		return ""
	case map[string]any:
		g := got.(map[string]any)
		for k := range w {
			if _, known := g[k]; known {
				if d := streamDiffers(where+"."+k, w[k], g[k]); d != "" {
					return d
				}
			}
		}
		return ""
	case []any:
		g, ok := got.([]any)
		if !ok || len(w) != len(g) {
			return fmt.Sprintf("%s: want %d, got %v", where, len(w), got)
		}
		for i := range w {
			if d := streamDiffers(fmt.Sprintf("%s[%d]", where, i), w[i], g[i]); d != "" {
				return d
			}
		}
		return ""
	}
	if want != got {
		return fmt.Sprintf("%s: want %v, got %v", where, want, got)
	}
	return ""
}

// TestServersLoadConverted converts every fixture to every dialect that a real server here loads, has that server load it, and
// compares the server's own answers with those of the server that wrote the fixture. Without CAMPAIGN=1 a server loads each in the newest of
// its dialects and in one of the older ones, which change from fixture to fixture.
func TestServersLoadConverted(t *testing.T) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			l := startLoader(t, version)
			c := l.conn(t)
			loaded := 0
			for i, f := range fixtures(t, 1<<30) {
				if strings.Contains(f.name, "function") || strings.Contains(f.name, "vectorset") || strings.HasSuffix(f.name, "aof_base") ||
					strings.HasSuffix(f.name, "6.2/replica_capture") || strings.HasSuffix(f.name, "-0000") {
					continue // without contents that every server takes, or without a file that tells them
				}
				for j, d := range loads[version] {
					if !campaign && j > 0 && j-1 != i%(len(loads[version])-1) {
						continue
					}
					loadConverted(t, l, c, f, d, ConvertOptions{}, nil)
					loaded++
				}
			}
			if loaded < 100 {
				t.Errorf("only %d files loaded", loaded)
			}
		})
	}
}

// TestServersLoadExpiries has servers load what conversions make of expiries: of keys, and of fields in every encoding that has them. Each file
// goes to as many dialects as in TestServersLoadConverted.
func TestServersLoadExpiries(t *testing.T) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			l := startLoader(t, version)
			c := l.conn(t)
			loaded := 0
			for i, f := range fixtures(t, 1<<30) {
				if !strings.Contains(f.name, "ttl") && !strings.Contains(f.name, "pre_ga") && !strings.HasSuffix(f.name, "/expires") && !strings.HasSuffix(f.name, "/mini") {
					continue
				}
				for j, d := range loads[version] {
					if !campaign && j > 0 && j-1 != i%(len(loads[version])-1) {
						continue
					}
					loadConverted(t, l, c, f, d, ConvertOptions{ShiftExpiry: 90 * time.Minute}, func(at int64) int64 { return at + 5400000 })
					loadConverted(t, l, c, f, d, ConvertOptions{DropExpiry: true}, func(int64) int64 { return 0 })
					// Expiries as far away as can be load as well, and so do those that have passed long ago.
					for _, by := range []time.Duration{math.MaxInt64, math.MinInt64} {
						out, _, err := convert(f.data, d, &ConvertOptions{ShiftExpiry: by, Policy: SkipKey})
						if err != nil {
							t.Fatal(err)
						}
						if err := Check(NewReader(bytes.NewReader(out), nil), &CheckOptions{Databases: 1000}); err != nil {
							t.Errorf("%s to %v, shifted by %v: %v", f.name, d, by, err)
						}
						if err := l.load(ctx, c, out); err != nil {
							t.Fatalf("%s to %v, shifted by %v: the server doesn't load it: %v", f.name, d, by, err)
						}
					}
					loaded++
				}
			}
			if loaded < 20 {
				t.Errorf("only %d files loaded", loaded)
			}
		})
	}
}

// loadConverted does that with one of them; expiry says what the options make of an expiry, 0 for none.
func loadConverted(t *testing.T, l *loader, c *redis.Conn, f fixture, d Dialect, opts ConvertOptions, expiry func(at int64) int64) {
	t.Helper()
	ctx := t.Context()
	out, report, err := convert(f.data, d, &opts)
	if errors.Is(err, ErrLoss) {
		opts.Policy = SkipKey
		out, report, err = convert(f.data, d, &opts)
	}
	if err != nil {
		t.Errorf("%s to %v: %v", f.name, d, err)
		return
	}
	if err := Check(NewReader(bytes.NewReader(out), nil), &CheckOptions{Databases: 1000}); err != nil {
		t.Errorf("%s to %v: %v", f.name, d, err)
	}
	there := make(map[string]bool)
	for e, err := range NewReader(bytes.NewReader(out), nil).Entries() {
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == KindKey {
			there[fmt.Sprintf("%d/%s", e.DB, e.Key)] = true
		}
	}
	if err := l.load(ctx, c, out); err != nil {
		t.Fatalf("%s to %v: the server doesn't load it: %v", f.name, d, err)
	}
	sizes := make(map[int]int64)
	db := -1
	for _, line := range contentLines(t, f.name) {
		if !there[fmt.Sprintf("%d/%s", line.DB, line.Key)] {
			if len(report.Losses) == 0 {
				t.Errorf("%s to %v: key %q is missing", f.name, d, line.Key)
			}
			continue
		}
		if line.DB != db {
			db = line.DB
			if err := c.Select(ctx, db).Err(); err != nil {
				t.Fatal(err)
			}
		}
		sizes[db]++
		line.change(t, expiry)
		typ, err := c.Type(ctx, line.Key).Result()
		if err != nil || typ != line.Type {
			t.Errorf("%s to %v: key %q is of type %s, want %s (%v)", f.name, d, line.Key, typ, line.Type, err)
			continue
		}
		at, err := c.Do(ctx, "PEXPIRETIME", line.Key).Int64()
		want := int64(-1)
		if line.ExpireMS != nil {
			want = *line.ExpireMS
		}
		if err != nil || at != want {
			t.Errorf("%s to %v: key %q expires at %d, want %d (%v)", f.name, d, line.Key, at, want, err)
		}
		value, err := ask(ctx, c, line)
		if err != nil {
			t.Errorf("%s to %v: key %q: %v", f.name, d, line.Key, err)
		} else if diff := differs(d, line.Type, line.Value, value); diff != "" {
			t.Errorf("%s to %v: key %q: %s", f.name, d, line.Key, diff)
		}
	}
	for db, n := range sizes {
		if err := c.Select(ctx, db).Err(); err != nil {
			t.Fatal(err)
		}
		if got, err := c.DBSize(ctx).Result(); err != nil || got != n {
			t.Errorf("%s to %v: database %d has %d keys, want %d (%v)", f.name, d, db, got, n, err)
		}
	}
}
