package rdb

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/amberkv/amber/internal/testserver"
)

// convertAll converts several sources into one stream.
func convertAll(t testing.TB, to Dialect, opts *WriterOptions, sources ...[]byte) ([]byte, []*ConvertReport) {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out, to, opts)
	if err != nil {
		t.Fatal(err)
	}
	var reports []*ConvertReport
	for _, data := range sources {
		report, err := Convert(w, NewReader(bytes.NewReader(data), nil), nil)
		if err != nil {
			t.Fatal(err)
		}
		reports = append(reports, report)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), reports
}

// compressed returns a function record whose code is compressed.
func compressedFunction(t testing.TB, code string) []byte {
	var b bytes.Buffer
	o := newOutput(&b)
	o.compress = true
	o.byte(opFunction)
	if o.blob([]byte(code)); o.buf[1] != stringLZF {
		t.Fatal("it is not compressed")
	}
	return o.buf
}

// TestConvertSources converts the shards of a cluster one after the other: what a stream says once, or at its beginning, comes
// from the first of them that says it.
func TestConvertSources(t *testing.T) {
	lib := "#!lua name=lib\n" + strings.Repeat("redis.register_function('f', f)\n", 9)
	other := strings.Replace(lib, "name=lib", "name=abc", 1) // as long as the first
	head := func() *builder { return build("REDIS0011").bytes(opAux).str("redis-ver", "7.2.0") }
	first := head().bytes(opFunction).str(lib).bytes(opSelectDB, 0, opResizeDB, 1, 0).bytes(0).str("a", "v").bytes(opSelectDB, 2, 0).str("c", "v").end()
	second := head().bytes(opAux).str("ctime", "5").bytes(opAux).str("used-mem", "7").bytes(compressedFunction(t, lib)...).bytes(opFunction).str(other).
		bytes(opSelectDB, 0, opResizeDB, 1, 0).bytes(0).str("b", "v").bytes(opSelectDB, 1, opResizeDB, 1, 1).
		bytes(opExpireMillis).u64(9).bytes(0).str("d", "v").bytes(opResizeDB, 1, 1).end()
	third := head().bytes(opFunction).str(other).bytes(opFunction).str(lib).bytes(opSelectDB, 1, opResizeDB, 0, 0).end()
	want := head().bytes(opFunction).str(lib).bytes(opSelectDB, 0, opResizeDB, 1, 0).bytes(0).str("a", "v").bytes(opSelectDB, 2, 0).str("c", "v").
		bytes(opFunction).str(other).bytes(opSelectDB, 0).bytes(0).str("b", "v").bytes(opSelectDB, 1, opResizeDB, 1, 1).
		bytes(opExpireMillis).u64(9).bytes(0).str("d", "v").bytes(opResizeDB, 1, 1).end()
	got, reports := convertAll(t, Dialect{Redis, 11}, nil, first, second, third)
	if !bytes.Equal(got, want) {
		t.Errorf("got  %q,\nwant %q", got, want)
	}
	var sum ConvertReport
	for i, r := range reports {
		if f, d := [...]int64{1, 1, 0}[i], [...]int64{0, 5, 4}[i]; r.Functions != f || r.Dropped != d {
			t.Errorf("source %d: %d functions, %d dropped, want %d, %d", i, r.Functions, r.Dropped, f, d)
		}
		sum.Add(r)
	}
	r := NewReader(bytes.NewReader(got), nil)
	readAll(r)
	if s := r.Stats(); !reflect.DeepEqual(s.DBs, sum.DBs) || sum.Keys != 4 || len(sum.DBs) != 3 {
		t.Errorf("the reports say %+v, the stream has %+v", sum, s)
	}
	if len(reports[0].DBs) != 2 || reports[0].DBs[0].Keys != 1 {
		t.Errorf("the report of the first source became %+v", reports[0])
	}
}

// TestConvertRepeatedFacts passes scripts and search indexes once: they stand behind keys, too, as servers write them.
func TestConvertRepeatedFacts(t *testing.T) {
	b := func(key string) *builder {
		return build("REDIS0009").bytes(0).str(key, "v").bytes(opAux).str("lua", "return 1")
	}
	got, _ := convertAll(t, Dialect{Redis, 9}, nil, b("a").end(), b("b").bytes(opAux).str("lua", "return 2").end())
	want := build("REDIS0009").bytes(opSelectDB, 0, 0).str("a", "v").bytes(opAux).str("lua", "return 1").bytes(0).str("b", "v").bytes(opAux).str("lua", "return 2").end()
	if !bytes.Equal(got, want) {
		t.Errorf("got  %q,\nwant %q", got, want)
	}
	index := func(key string) []byte {
		return build("REDIS0009").bytes(opAux).str("search-index", "0 idx").bytes(opDragonflyMask, 1, 0, 0, 0, 0).str(key, "v").end()
	}
	got, _ = convertAll(t, Dialect{Dragonfly, 9}, nil, index("a"), index("b"))
	if n := bytes.Count(got, []byte("search-index")); n != 1 {
		t.Errorf("an index is there %d times", n)
	}
}

// TestConvertLargeFunctions converts a library that isn't held, as no earlier source has any, and one that is.
func TestConvertLargeFunctions(t *testing.T) {
	source := func(name string) []byte {
		return build("REDIS0010").bytes(opFunction).str("#!lua name=" + name + "\n--" + strings.Repeat("x", 300<<10)).end()
	}
	opts := &WriterOptions{MaxHeld: outputSize, Spool: spoolIn(t)}
	got, _ := convertAll(t, Dialect{Redis, 10}, opts, source("a"), source("b"), source("a"), build("REDIS0010").bytes(0).str("k", "v").end())
	r := NewReader(bytes.NewReader(got), nil)
	readAll(r)
	if s := r.Stats(); r.err.Error() != "EOF" || s.Functions != 2 || s.Keys != 1 {
		t.Errorf("%+v, %v", s, r.err)
	}
	var out bytes.Buffer
	w, err := NewWriter(&out, Dialect{Redis, 10}, &WriterOptions{MaxHeld: outputSize})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Convert(w, NewReader(bytes.NewReader(source("a")), nil), nil); err != nil {
		t.Errorf("the first library: %v", err)
	}
	var large *TooLargeError
	if _, err := Convert(w, NewReader(bytes.NewReader(source("b")), nil), nil); !errors.As(err, &large) {
		t.Errorf("one that has to be held without a spool: %v", err)
	}
	w.Close()
}

// TestServersLoadSources has servers load the shards of a cluster as one stream: each shard has the same functions, of which one
// server compressed the code and another didn't.
func TestServersLoadSources(t *testing.T) {
	var shards [][]byte
	names := fixtures(t, 1<<30)
	at := slices.IndexFunc(names, func(f fixture) bool { return f.name == "redis-7.0.15/functions" })
	first := names[at].data
	plain, err := rewrite(first, Dialect{Redis, 10}, false)
	if err != nil {
		t.Fatal(err)
	}
	for prefix, data := range map[string][]byte{"a:": first, "b:": plain} {
		out, _, err := convert(data, Dialect{Redis, 10}, &ConvertOptions{AddPrefix: prefix})
		if err != nil {
			t.Fatal(err)
		}
		shards = append(shards, out)
	}
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			l := startLoader(t, version)
			c := l.conn(t)
			d := loads[version][0]
			data, reports := convertAll(t, d, nil, shards...)
			if reports[0].Functions != 2 || reports[1].Functions != 0 {
				t.Errorf("%+v, %+v", reports[0], reports[1])
			}
			if err := l.load(ctx, c, data); err != nil {
				t.Fatal(err)
			}
			if keys, err := c.Keys(ctx, "*").Result(); err != nil || len(keys) != 2 {
				t.Errorf("keys %q, %v", keys, err)
			}
			if libraries, err := c.Do(ctx, "FUNCTION", "LIST").Slice(); err != nil || len(libraries) != 2 {
				t.Errorf("libraries %v, %v", libraries, err)
			}
			// That a library was there twice is what the server would refuse.
			twice, err := rewrite(plain, d, false)
			if err != nil {
				t.Fatal(err)
			}
			record := twice[bytes.IndexByte(twice, opFunction):]
			both := append(bytes.Clone(twice[:len(twice)-len(record)]), record[:bytes.LastIndex(record, []byte{opSelectDB})]...)
			if err := l.load(ctx, c, sealed(append(both, record...))); err == nil {
				t.Error("the server takes the same library twice")
			}
		})
	}
}
