package jsonl

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/amberkv/amber/rdb"
)

// What else than the testdata of package rdb is to be compared: directories of NAME.rdb files with a NAME.jsonl or contents.jsonl beside them.
var moreFixtures = flag.String("fixtures", "", "another directory of fixtures to compare")

// spoolIn makes spools in files that are gone after the test.
func spoolIn(t testing.TB) func() (rdb.Spool, error) {
	return func() (rdb.Spool, error) { return os.CreateTemp(t.TempDir(), "spool-") }
}

// write returns the lines of a stream.
func write(data []byte, opts *Options) ([]byte, error) {
	var out bytes.Buffer
	r := rdb.NewReader(bytes.NewReader(data), nil)
	w := NewWriter(&out, opts)
	for e, err := range r.Entries() {
		if err != nil {
			return nil, err
		}
		if e.Kind == rdb.KindKey {
			if err := w.WriteKey(e, r); err != nil {
				return nil, err
			}
		}
	}
	err := w.Close()
	return out.Bytes(), err
}

// A line is what is compared of a key.
type line struct {
	DB     *int
	Key    *string
	Type   *string
	Expire any `json:"expire_ms"`
	Freq   *int
	Idle   *int64
	Value  any

	Encoding any // which is not compared
}

// lines reads JSON Lines, by database and key.
func lines(t *testing.T, r io.Reader) map[string]*line {
	t.Helper()
	out := make(map[string]*line)
	in := bufio.NewReader(r)
	for {
		text, err := in.ReadBytes('\n')
		if err == io.EOF && len(text) == 0 {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		l := new(line)
		d := json.NewDecoder(bytes.NewReader(text))
		d.UseNumber()
		d.DisallowUnknownFields()
		if err := d.Decode(l); err != nil {
			t.Fatalf("%v in %.200s", err, text)
		}
		if l.DB == nil || l.Key == nil || l.Type == nil {
			t.Fatalf("a line without database, key or type: %.200s", text)
		}
		id := fmt.Sprintf("%d/%s", *l.DB, *l.Key)
		if out[id] != nil {
			t.Errorf("%s is there twice", id)
		}
		out[id] = l
	}
}

// wanted opens the lines that belong to an .rdb file; there are none of some.
func wanted(t *testing.T, rdb string) io.Reader {
	t.Helper()
	base := strings.TrimSuffix(rdb, ".rdb")
	for _, name := range []string{base + ".jsonl", base + ".jsonl.gz", filepath.Join(filepath.Dir(rdb), "contents.jsonl")} {
		data, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		if !strings.HasSuffix(name, ".gz") {
			return bytes.NewReader(data)
		}
		z, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		return z
	}
	return nil
}

// TestFixtures compares what servers wrote with what they answered.
func TestFixtures(t *testing.T) {
	compared := 0
	dirs := []string{"../testdata"}
	if *moreFixtures != "" {
		dirs = append(dirs, *moreFixtures)
	}
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".rdb") {
				return err
			}
			name, err := filepath.Rel(dir, path)
			if err != nil {
				return err
			}
			t.Run(filepath.ToSlash(name), func(t *testing.T) {
				compared += compareFixture(t, path, filepath.ToSlash(name))
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if compared < 800 {
		t.Errorf("only %d keys were compared", compared)
	}
	t.Logf("%d keys", compared)
}

// TestShards compares what Dragonfly wrote in its own format with what it answered when it had the same data.
func TestShards(t *testing.T) {
	const dir = "../testdata/dragonfly-1.40/"
	// When the consumers were at work differs.
	when := regexp.MustCompile("17954776[0-9]{5}")
	answered, err := io.ReadAll(wanted(t, dir+"mini.rdb"))
	if err != nil {
		t.Fatal(err)
	}
	answered = when.ReplaceAll(answered, []byte("1"))
	for _, shards := range [][]string{
		{dir + "lz4-0000.dfs"}, {dir + "zstd-0000.dfs"}, {dir + "chunked-0000.dfs"},
		{"../dfs/testdata/dragonfly-1.40/mini-0000.dfs", "../dfs/testdata/dragonfly-1.40/mini-0001.dfs"},
	} {
		var all []byte
		for _, name := range shards {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			text, err := write(data, nil)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			all = append(all, text...)
		}
		if n := compareLines(t, "dragonfly-1.40/"+shards[0], lines(t, bytes.NewReader(answered)), lines(t, bytes.NewReader(when.ReplaceAll(all, []byte("1"))))); n < 30 {
			t.Errorf("%s: only %d keys were compared", shards[0], n)
		}
	}
}

func compareFixture(t *testing.T, path, name string) (keys int) {
	t.Helper()
	want := wanted(t, path)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text, err := write(data, &Options{Spool: spoolIn(t)})
	if err != nil {
		t.Fatal(err)
	}
	if want == nil {
		t.Logf("what the server answered isn't known of %s", name)
		return 0
	}
	return compareLines(t, name, lines(t, want), lines(t, bytes.NewReader(text)))
}

// compareLines compares what a server answered with what was written.
func compareLines(t *testing.T, name string, want, got map[string]*line) int {
	t.Helper()
	for id, w := range want {
		g := got[id]
		if g == nil {
			t.Errorf("%s is missing", id)
			continue
		}
		delete(got, id)
		compareKey(t, name, id, w, g)
	}
	for id := range got {
		t.Errorf("%s is not wanted", id)
	}
	return len(want)
}

func compareKey(t *testing.T, name, id string, want, got *line) {
	t.Helper()
	if *got.Type != *want.Type {
		t.Errorf("%s has type %s, want %s", id, *got.Type, *want.Type)
		return
	}
	if !reflect.DeepEqual(got.Expire, want.Expire) {
		t.Errorf("%s expires at %v, want %v", id, got.Expire, want.Expire)
	}
	// The server may have counted the question itself, so that only that there is a number can be compared. Redis 4.0 doesn't save it.
	if !strings.HasPrefix(name, "redis-4.0") && ((got.Freq == nil) != (want.Freq == nil) || (got.Idle == nil) != (want.Idle == nil)) {
		t.Errorf("%s has frequency %v and was idle for %v", id, got.Freq, got.Idle)
	}
	w, g := want.Value, got.Value
	switch *want.Type {
	case "zset":
		if otherScores(name) {
			w, g = numbers(t, w), numbers(t, g)
		}
	case "json":
		w, g = document(t, w.(string)), document(t, g.(string))
	case "set":
		// Of an expiry the server only told that there is one.
		if list := w.([]any); len(list) > 0 {
			if _, pairs := list[0].([]any); pairs {
				for _, pair := range g.([]any) {
					pair.([]any)[1] = pair.([]any)[1] != nil
				}
			}
		}
	case "hash":
		if isDragonfly(name) {
			w, g = seconds(w), seconds(g)
		}
	case "stream":
		if isDragonfly(name) {
			// What Redis answers with -1, that a consumer was never active, is noted otherwise there.
			neverActive(w)
			neverActive(g)
		}
		if name == "handmade/stream15_group_no_consumer.rdb" {
			// The server that loaded it made an estimate.
			w.(map[string]any)["groups"].([]any)[0].(map[string]any)["entries-read"] = nil
		}
	case "vectorset":
		compareVectors(t, id, w.(map[string]any), g.(map[string]any))
		return
	case "MBbloom--", "MBbloomCF", "CMSk-TYPE", "TopK-TYPE":
		compareSketch(t, id, w.(map[string]any), g.(map[string]any))
		return
	}
	if !reflect.DeepEqual(w, g) {
		a, b := fmt.Sprint(g), fmt.Sprint(w)
		i := 0
		for i < len(a) && i < len(b) && a[i] == b[i] {
			i++
		}
		t.Errorf("%s is\n…%.300s\nwant\n…%.300s", id, a[max(0, i-100):], b[max(0, i-100):])
	}
}

// otherScores tells whether a server wrote scores with 17 digits.
func otherScores(name string) bool {
	for _, prefix := range []string{"redis-2.", "redis-4.", "redis-6.", "redis-7.0", "dragonfly", "mini-", "small-", "handmade"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

func isDragonfly(name string) bool {
	return strings.HasPrefix(name, "dragonfly") || strings.HasPrefix(name, "mini-") || strings.HasPrefix(name, "small-")
}

func neverActive(stream any) {
	for _, g := range stream.(map[string]any)["groups"].([]any) {
		for _, c := range g.(map[string]any)["consumers"].([]any) {
			if c := c.(map[string]any); c["active-time"] == nil {
				c["active-time"] = json.Number("-1")
			}
		}
	}
}

// numbers makes scores numbers.
func numbers(t *testing.T, zset any) any {
	t.Helper()
	out := slices.Clone(zset.([]any))
	for i, pair := range out {
		score, err := strconv.ParseFloat(pair.([]any)[1].(string), 64)
		if err != nil && !math.IsInf(score, 0) {
			t.Fatal(err)
		}
		out[i] = []any{pair.([]any)[0], score}
	}
	return out
}

func seconds(hash any) any {
	out := slices.Clone(hash.([]any))
	for i, field := range out {
		f := slices.Clone(field.([]any))
		if n, ok := f[2].(json.Number); ok {
			ms, _ := n.Int64()
			f[2] = (ms + 999) / 1000
		}
		out[i] = f
	}
	return out
}

func document(t *testing.T, text string) any {
	t.Helper()
	var v any
	// The text is escaped like any byte string.
	if err := json.Unmarshal([]byte(unescape(text)), &v); err != nil {
		t.Fatalf("%v in %.200s", err, text)
	}
	return v
}

// unescape undoes what is done to byte strings.
func unescape(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] != '\\':
			out.WriteByte(s[i])
		case s[i+1] == '\\':
			out.WriteByte('\\')
			i++
		default:
			b, _ := strconv.ParseUint(s[i+2:i+4], 16, 8)
			out.WriteByte(byte(b))
			i += 3
		}
	}
	return out.String()
}

// compareVectors compares vector sets: all but what a server only knows while it runs.
func compareVectors(t *testing.T, id string, want, got map[string]any) {
	t.Helper()
	info := want["info"].(map[string]any)
	delete(info, "vset-uid")
	delete(info, "hnsw-max-node-uid")
	elements, others := want["elements"].([]any), got["elements"].([]any)
	delete(want, "elements")
	delete(got, "elements")
	if !reflect.DeepEqual(want, got) {
		t.Errorf("%s is %v, want %v", id, got, want)
	}
	if len(elements) != len(others) {
		t.Errorf("%s has %d elements, want %d", id, len(others), len(elements))
		return
	}
	for i, e := range elements {
		w, g := e.([]any), others[i].([]any)
		if w[0] != g[0] || w[2] != g[2] || len(w[1].([]any)) != len(g[1].([]any)) {
			t.Errorf("%s has element %v, want %v", id, g, w)
			continue
		}
		for j, text := range w[1].([]any) {
			a, _ := strconv.ParseFloat(text.(string), 64)
			b, err := strconv.ParseFloat(g[1].([]any)[j].(string), 64)
			if err != nil || math.Abs(a-b) > 1e-6*math.Abs(a) {
				t.Errorf("%s has %v in element %v, want %v", id, b, g[0], a)
			}
		}
	}
}

// compareSketch compares what INFO commands answer, and the list of a TopK, with what is in the stream.
func compareSketch(t *testing.T, id string, want, got map[string]any) {
	t.Helper()
	facts := make(map[string]any)
	info := got["info"].([]any)
	for i := 0; i < len(info); i += 2 {
		facts[info[i].(string)] = info[i+1]
	}
	info = want["info"].([]any)
	for i := 0; i < len(info); i += 2 {
		if name := info[i].(string); name != "Size" && (name != "Capacity" || facts["Number of filters"] == json.Number("1")) && !reflect.DeepEqual(facts[name], info[i+1]) {
			t.Errorf("%s has %q %v, want %v", id, name, facts[name], info[i+1])
		}
	}
	if list, ok := want["list"]; ok && !reflect.DeepEqual(got["list"], list) {
		t.Errorf("%s has %v, want %v", id, got["list"], list)
	}
}
