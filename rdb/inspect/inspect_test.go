package inspect_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/rdb/dfs"
	"github.com/amberkv/amber/rdb/inspect"
)

// now is some time.
var now = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// of inspects a file.
func of(t *testing.T, file string, in *inspect.Inspector) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := rdb.NewReader(f, nil)
	r.Observe(in.Add)
	for _, err := range r.Entries() {
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
	}
}

// TestFixtures holds reports on files of real servers against what these servers said about their keys.
func TestFixtures(t *testing.T) {
	files, err := filepath.Glob("../testdata/*/*.rdb")
	if err != nil || len(files) < 60 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	seen := map[string]int64{}
	for _, file := range files {
		lines, err := os.Open(strings.TrimSuffix(file, ".rdb") + ".jsonl")
		if os.IsNotExist(err) || strings.Contains(file, "dragonfly") {
			continue // Dragonfly's keys may be past their time, and not in its answers
		}
		if err != nil {
			t.Fatal(err)
		}
		in := inspect.New(&inspect.Options{Now: now})
		of(t, file, in)
		got := in.Report()

		want := map[string]int64{}
		var expiries []time.Time
		scan := bufio.NewScanner(lines)
		scan.Buffer(nil, 64<<20)
		for scan.Scan() {
			var k struct {
				DB     int             `json:"db"`
				Key    string          `json:"key"`
				Type   string          `json:"type"`
				Expire *int64          `json:"expire_ms"`
				Freq   *int            `json:"freq"`
				Idle   *int64          `json:"idle"`
				Value  json.RawMessage `json:"value"`
			}
			if err := json.Unmarshal(scan.Bytes(), &k); err != nil {
				t.Fatal(err)
			}
			want["keys"]++
			switch k.Type {
			case "string", "list", "set", "zset", "hash", "stream":
				want["type "+k.Type]++
			default:
				want["type module"]++
			}
			if k.Type == "list" || k.Type == "set" || k.Type == "zset" || k.Type == "hash" {
				var elements []json.RawMessage
				if err := json.Unmarshal(k.Value, &elements); err != nil {
					t.Fatal(err)
				}
				want["elements "+k.Type] += int64(len(elements))
			}
			want[fmt.Sprint("db ", k.DB)]++
			if k.Expire != nil {
				want["expires"]++
				expiries = append(expiries, time.UnixMilli(*k.Expire))
			}
			hints := !strings.Contains(file, "redis-4.0") // which has them, but not in its files
			if hints && k.Freq != nil {
				want["freq"]++
			}
			if hints && k.Idle != nil {
				want["idle"]++
			}
		}
		lines.Close()
		is := map[string]int64{"keys": got.Total.Keys, "expires": got.Total.Expires}
		for _, r := range got.Types {
			is["type "+r.Type] = r.Keys
			if r.Type == "list" || r.Type == "set" || r.Type == "zset" || r.Type == "hash" {
				is["elements "+r.Type] = r.Elements
			}
		}
		for _, r := range got.DBs {
			is[fmt.Sprint("db ", r.DB)] = r.Keys
		}
		for _, b := range got.Freq {
			is["freq"] += b.Keys
		}
		for _, b := range got.Idle {
			is["idle"] += b.Keys
		}
		for name, n := range want {
			if is[name] != n {
				t.Errorf("%s: %s: %d, want %d", file, name, is[name], n)
			}
			seen[name] += n
		}
		sums(t, file, got)
		for _, before := range []time.Duration{-1, 0, time.Hour - 1, time.Hour, 24 * time.Hour, 7 * 24 * time.Hour, 30 * 24 * time.Hour, 365 * 24 * time.Hour} {
			if len(expiries) == 0 {
				break
			}
			at := expiries[len(expiries)/2].Add(-before)
			want := map[string]int64{"none": got.Total.Keys - int64(len(expiries))}
			for _, e := range expiries {
				want[bucketOf(e.Sub(at.Truncate(time.Millisecond)))]++
			}
			in := inspect.New(&inspect.Options{Now: at})
			of(t, file, in)
			for _, b := range in.Report().Expiry {
				if b.Keys != want[b.Name] {
					t.Errorf("%s at %v: expiry %s: %d, want %d", file, at, b.Name, b.Keys, want[b.Name])
				}
				seen["expiry "+b.Name] += b.Keys
			}
		}
	}
	for _, name := range []string{"type string", "type stream", "type module", "db 9", "freq", "idle", "expiry none", "expiry expired",
		"expiry <1h", "expiry <1d", "expiry <7d", "expiry <30d", "expiry <1y", "expiry later"} {
		if seen[name] == 0 {
			t.Errorf("no fixture has any of %q", name)
		}
	}
}

func bucketOf(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d <= 0:
		return "expired"
	case d < time.Hour:
		return "<1h"
	case d < day:
		return "<1d"
	case d < 7*day:
		return "<7d"
	case d < 30*day:
		return "<30d"
	case d < 365*day:
		return "<1y"
	}
	return "later"
}

// sums tells whether each table of a report adds up to the total.
func sums(t *testing.T, name string, r *inspect.Report) {
	t.Helper()
	tables := map[string]*inspect.Sums{"types": {}, "dbs": {}, "encodings": {}, "prefixes": {}}
	plus := func(table string, s inspect.Sums) {
		to := tables[table]
		to.Keys += s.Keys
		to.Bytes += s.Bytes
		to.Memory += s.Memory
		to.Elements += s.Elements
		to.Expires += s.Expires
	}
	for _, row := range r.Types {
		plus("types", row.Sums)
	}
	for _, row := range r.DBs {
		plus("dbs", row.Sums)
	}
	for _, row := range r.Encodings {
		plus("encodings", row.Sums)
	}
	for _, row := range r.Prefixes {
		plus("prefixes", row.Sums)
	}
	plus("prefixes", r.Other)
	for table, s := range tables {
		if *s != r.Total {
			t.Errorf("%s: %s add up to %+v, want %+v", name, table, *s, r.Total)
		}
	}
	keys := int64(0)
	for _, b := range r.Expiry {
		keys += b.Keys
	}
	if keys != r.Total.Keys {
		t.Errorf("%s: %d keys in the histogram of expiry, want %d", name, keys, r.Total.Keys)
	}
}

// TestMerge inspects files with one Inspector, and with one each that are merged.
func TestMerge(t *testing.T) {
	files, err := filepath.Glob("../testdata/*/*.rdb")
	if err != nil || len(files) < 60 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	opts := &inspect.Options{Now: now, Top: 7}
	all, merged := inspect.New(opts), inspect.New(opts)
	for _, file := range files {
		of(t, file, all)
		one := inspect.New(opts)
		of(t, file, one)
		merged.Merge(one)
	}
	got, want := merged.Report(), all.Report()
	sums(t, "all", want)
	if !reflect.DeepEqual(got, want) || len(want.Biggest) != 7 || want.Idle == nil || !want.Exact || len(want.Prefixes) < 10 {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

// TestSet inspects the shards of a set, in which values are in compressed blocks, each on its own, and the same keys in one
// file: the reports are the same.
func TestSet(t *testing.T) {
	set, err := dfs.Open(os.DirFS("../dfs/testdata/dragonfly-1.40"), "mini-summary.dfs")
	if err != nil {
		t.Fatal(err)
	}
	opts := &inspect.Options{Now: now}
	one, merged := inspect.New(opts), inspect.New(opts)
	of(t, "../testdata/dragonfly-1.40/mini.rdb", one)
	var mu sync.Mutex
	if err := set.Read(t.Context(), 2, nil, func(_ string, r *rdb.Reader) error {
		shard := inspect.New(opts)
		r.Observe(shard.Add)
		for _, err := range r.Entries() {
			if err != nil {
				return err
			}
		}
		mu.Lock()
		defer mu.Unlock()
		merged.Merge(shard)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	got, want := merged.Report(), one.Report()
	if !reflect.DeepEqual(got, want) || want.Total.Keys < 30 {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

// key makes an entry of a string key, of which only the name and the size count.
func key(name string, size int64) (*rdb.Entry, rdb.ValueInfo) {
	return &rdb.Entry{Kind: rdb.KindKey, Type: rdb.TypeString, Key: []byte(name), Idle: -1, Freq: -1},
		rdb.ValueInfo{Encoding: "string", Bytes: size + 10, Expanded: size, Elements: 1}
}

func TestPrefixes(t *testing.T) {
	for _, c := range []struct {
		opts inspect.Options
		want string
	}{
		{inspect.Options{}, "=2 a:=3 ab:=1 user/=0"},
		{inspect.Options{Depth: 2}, "=2 a:=1 a:b:=2 ab:=1"},
		{inspect.Options{Separator: "/"}, "=5 user/=1"},
		{inspect.Options{Separator: ":b"}, "=4 a:b=2"},
		{inspect.Options{Prefixes: -1}, ""},
	} {
		in := inspect.New(&c.opts)
		for _, name := range []string{"a:b:c", "a:", "a:b:", "ab:c", "plain", "user/x"} {
			in.Add(key(name, 10))
		}
		got := map[string]int64{}
		for _, p := range in.Report().Prefixes {
			got[p.Prefix] = p.Keys
		}
		for _, w := range strings.Fields(c.want) {
			prefix, n, _ := strings.Cut(w, "=")
			if strconv.FormatInt(got[prefix], 10) != n {
				t.Errorf("%+v: %q has %d keys, want %s", c.opts, prefix, got[prefix], n)
			}
		}
		if c.want == "" && len(got) > 0 {
			t.Errorf("%+v: %v", c.opts, got)
		}
	}
}

// TestHeavyPrefixes finds few heavy prefixes among many light ones, in a table that is much too small for all, and the same in
// parts that are merged.
func TestHeavyPrefixes(t *testing.T) {
	const rows = 64
	opts := &inspect.Options{Prefixes: rows}
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 1))
		one := inspect.New(opts)
		parts := []*inspect.Inspector{inspect.New(opts), inspect.New(opts), inspect.New(opts)}
		truth := map[string]int64{}
		total := int64(0)
		for i := range 30000 {
			prefix := fmt.Sprintf("light%d:", i)
			switch {
			case i%10 == 0:
				prefix = fmt.Sprintf("heavy%d:", random.IntN(3))
			case i%10 < 4:
				prefix = fmt.Sprintf("middle%d:", random.IntN(200))
			}
			e, v := key(prefix+"x", random.Int64N(1000))
			truth[prefix] += inspect.Memory(e, v)
			total += inspect.Memory(e, v)
			one.Add(e, v)
			parts[random.IntN(3)].Add(e, v)
		}
		parts[0].Merge(parts[1])
		parts[0].Merge(parts[2])
		for name, in := range map[string]*inspect.Inspector{"one": one, "merged": parts[0]} {
			r := in.Report()
			sums(t, name, r)
			if r.Exact || len(r.Prefixes) != rows {
				t.Fatalf("%s: exact with %d rows", name, len(r.Prefixes))
			}
			got := map[string]bool{}
			for _, p := range r.Prefixes {
				got[p.Prefix] = true
				if p.Memory > truth[p.Prefix] || p.Memory+p.Missed < truth[p.Prefix] {
					t.Errorf("%s: %q: %d and %d missed, want %d", name, p.Prefix, p.Memory, p.Missed, truth[p.Prefix])
				}
				if name == "one" && p.Missed > total/rows {
					t.Errorf("%q missed %d of %d", p.Prefix, p.Missed, total)
				}
			}
			for prefix, memory := range truth {
				if memory > total/rows && !got[prefix] {
					t.Errorf("%s: %q has %d of %d, and no row", name, prefix, memory, total)
				}
			}
		}
	}
}

// TestBiggest gives keys of all sizes in any order.
func TestBiggest(t *testing.T) {
	in := inspect.New(&inspect.Options{Top: 3})
	for _, i := range rand.New(rand.NewPCG(1, 1)).Perm(1000) {
		in.Add(key(fmt.Sprintf("%04d", i), int64(i)*100))
	}
	in.Add(key(strings.Repeat("n", 5000), 1<<30))
	got := in.Report().Biggest
	if len(got) != 3 || got[0].KeyLen != 5000 || len(got[0].Key) != 512 || got[1].Key != "0999" || got[2].Key != "0998" {
		t.Errorf("%+v", got)
	}
	none := inspect.New(&inspect.Options{Top: -1})
	none.Add(key("k", 1))
	if r := none.Report(); len(r.Biggest) != 0 || r.Total.Keys != 1 {
		t.Errorf("%+v", r)
	}
}

// TestBounded gives ten million prefixes to one Inspector: memory stays, and nothing is allocated for a key.
func TestBounded(t *testing.T) {
	in := inspect.New(nil)
	e, v := key("", 50)
	add := func(from, to int) {
		for i := from; i < to; i++ {
			e.Key = append(strconv.AppendInt(append(e.Key[:0], "prefix"...), int64(i), 10), ":key"...)
			v.Expanded = int64(i % 1000)
			in.Add(e, v)
		}
	}
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	add(0, 100_000)
	before := heap()
	const prefixes = 10_000_000
	add(100_000, prefixes)
	if grown := heap() - before; grown > 1<<20 {
		t.Errorf("the heap has grown by %d bytes", grown)
	}
	at := prefixes
	if n := testing.AllocsPerRun(1000, func() { add(at, at+1); at++ }); n != 0 {
		t.Errorf("%v allocations a key", n)
	}
	if r := in.Report(); r.Total.Keys != int64(at) || r.Exact {
		t.Errorf("%d keys", r.Total.Keys)
	}
}

// TestJSON pins the names that programs read.
func TestJSON(t *testing.T) {
	in := inspect.New(&inspect.Options{Now: now})
	e, v := key("a:b", 1)
	e.HasExpiry, e.ExpireAt, e.Freq = true, now.UnixMilli()+1, 5
	in.Add(e, v)
	got, err := json.Marshal(in.Report())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"total", "types", "dbs", "encodings", "prefixes", "other", "prefixes_exact", "biggest", "expiry", "freq",
		"keys", "bytes", "memory", "elements", "expires", "type", "db", "encoding", "prefix", "missed", "key", "key_len", "name"} {
		if !bytes.Contains(got, []byte(`"`+name+`":`)) {
			t.Errorf("no %q in %s", name, got)
		}
	}
	if bytes.Contains(got, []byte(`"idle"`)) || !bytes.Contains(got, []byte(`{"name":"<1h","keys":1,"memory":`)) && !bytes.Contains(got, []byte(`{"name":"\u003c1h","keys":1,"memory":`)) {
		t.Errorf("%s", got)
	}
}

func BenchmarkAdd(b *testing.B) {
	in := inspect.New(nil)
	e, v := key("user:12345", 50)
	for i := 0; b.Loop(); i++ {
		e.Key[5] = byte('0' + i%10)
		v.Expanded = int64(i % 100)
		in.Add(e, v)
	}
}
