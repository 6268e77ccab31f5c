package dfs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/rdb/dfs"
)

const fixture = "testdata/dragonfly-1.40"

// values returns every key with its value as in the stream.
func values(t testing.TB, s *dfs.Set, parallel int, opts *rdb.ReaderOptions) map[string]string {
	t.Helper()
	out := make(map[string]string)
	var mu sync.Mutex
	err := s.Read(t.Context(), parallel, opts, func(_ string, r *rdb.Reader) error { return collect(r, out, &mu) })
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func collect(r *rdb.Reader, out map[string]string, mu *sync.Mutex) error {
	for e, err := range r.Entries() {
		if err != nil {
			return err
		}
		if e.Kind != rdb.KindKey {
			continue
		}
		name := fmt.Sprintf("%d/%s", e.DB, e.Key)
		raw, err := r.AppendRaw(nil, -1)
		if err != nil {
			return err
		}
		mu.Lock()
		if _, twice := out[name]; twice {
			err = fmt.Errorf("%q is there twice", name)
		}
		out[name] = fmt.Sprintf("%d %d %d %x", e.ExpireAt, e.Flags, e.Memcache, raw)
		mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// files copies the set of the fixture.
func files(t testing.TB) fstest.MapFS {
	t.Helper()
	m := fstest.MapFS{}
	for _, name := range []string{"mini-summary.dfs", "mini-0000.dfs", "mini-0001.dfs"} {
		data, err := os.ReadFile(filepath.Join(fixture, name))
		if err != nil {
			t.Fatal(err)
		}
		m["dir/"+name] = &fstest.MapFile{Data: data}
	}
	return m
}

// stream makes a file of facts and, if there is one, a key.
func stream(key string, facts ...string) *fstest.MapFile {
	b := []byte("REDIS0009")
	str := func(s string) { b = append(append(b, byte(len(s))), s...) }
	for i := 0; i < len(facts); i += 2 {
		b = append(b, 250)
		str(facts[i])
		str(facts[i+1])
	}
	if key != "" {
		b = append(b, 0)
		str(key)
		str("value")
	}
	return &fstest.MapFile{Data: append(b, 255, 0, 0, 0, 0, 0, 0, 0, 0, 'p', 'a', 'd')}
}

func TestFixture(t *testing.T) {
	s, err := dfs.Open(os.DirFS(fixture), "mini-summary.dfs")
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Shards) != 2 || s.Shards[1] != "mini-0001.dfs" || len(s.ID) != 32 || !s.Counted || s.Stale != nil {
		t.Errorf("%+v", s)
	}
	want := make(map[string]string)
	f, err := os.Open("../testdata/dragonfly-1.40/mini.rdb")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := collect(rdb.NewReader(f, nil), want, new(sync.Mutex)); err != nil {
		t.Fatal(err)
	}
	for _, parallel := range []int{0, 1, 2, 100} {
		got := values(t, s, parallel, nil)
		if len(got) != 39 || len(want) != 39 {
			t.Errorf("%d keys, and %d in the single file, want 39", len(got), len(want))
		}
		for name := range want {
			if _, ok := got[name]; !ok {
				t.Errorf("%q is missing", name)
			}
		}
	}
}

func TestOpen(t *testing.T) {
	id, other := strings.Repeat("a", 32), strings.Repeat("b", 32)
	for name, c := range map[string]struct {
		change func(fstest.MapFS)
		want   string // in the error; empty if there is none
		check  func(*dfs.Set) bool
	}{
		"a shard is missing":         {func(m fstest.MapFS) { delete(m, "dir/mini-0001.dfs") }, "missing are dir/mini-0001.dfs", nil},
		"the first shard is missing": {func(m fstest.MapFS) { delete(m, "dir/mini-0000.dfs") }, "missing are dir/mini-0000.dfs", nil},
		"all shards are missing":     {func(m fstest.MapFS) { delete(m, "dir/mini-0000.dfs"); delete(m, "dir/mini-0001.dfs") }, "mini-0000.dfs, dir/mini-0001.dfs", nil},
		"the summary is missing":     {func(m fstest.MapFS) { delete(m, "dir/mini-summary.dfs") }, "not exist", nil},
		"a shard of another save":    {func(m fstest.MapFS) { m["dir/mini-0001.dfs"] = stream("k", "snapshot-id", other) }, "is of snapshot " + other, nil},
		"a shard without an id":      {func(m fstest.MapFS) { m["dir/mini-0001.dfs"] = stream("k") }, "no snapshot id", nil},
		"one shard twice":            {func(m fstest.MapFS) { m["dir/mini-0001.dfs"] = m["dir/mini-0000.dfs"] }, "mini-0001.dfs holds shard 0", nil},
		"a shard that is no stream":  {func(m fstest.MapFS) { m["dir/mini-0001.dfs"] = &fstest.MapFile{Data: []byte("nonsense")} }, "mini-0001.dfs: rdb: corrupt", nil},
		"an empty summary":           {func(m fstest.MapFS) { m["dir/mini-summary.dfs"] = &fstest.MapFile{} }, "mini-summary.dfs: rdb: corrupt", nil},
		"a count that is none":       {func(m fstest.MapFS) { m["dir/mini-summary.dfs"] = stream("", "shard-count", "many") }, `shard-count is "many"`, nil},
		"more shards of the same save": {func(m fstest.MapFS) {
			m["dir/mini-summary.dfs"] = stream("", "snapshot-id", id, "shard-count", "1")
			m["dir/mini-0000.dfs"] = stream("a", "snapshot-id", id)
			m["dir/mini-0001.dfs"] = stream("b", "snapshot-id", id)
		}, "only 1 shards", nil},
		"a directory of the name": {func(m fstest.MapFS) { m["dir/mini-0002.dfs/x"] = stream("") }, "", func(s *dfs.Set) bool { return len(s.Stale) == 0 }},
		"files with similar names": {func(m fstest.MapFS) {
			m["dir/mini-2-0003.dfs"] = stream("")
			m["dir/mini-00003.dfs"] = stream("")
			m["dir/mini-3.dfs"] = stream("")
		}, "", func(s *dfs.Set) bool { return len(s.Stale) == 0 }},
		"left from a save with more": {func(m fstest.MapFS) { m["dir/mini-0002.dfs"] = stream("k", "snapshot-id", other) }, "", func(s *dfs.Set) bool { return len(s.Stale) == 1 && len(s.Shards) == 2 }},
		"before 1.32": {func(m fstest.MapFS) {
			m["dir/mini-summary.dfs"] = stream("")
			m["dir/mini-0000.dfs"] = stream("a")
			m["dir/mini-0001.dfs"] = stream("b")
		}, "", func(s *dfs.Set) bool { return !s.Counted && s.ID == "" && len(s.Shards) == 2 }},
		"before 1.32 with a gap": {func(m fstest.MapFS) {
			m["dir/mini-summary.dfs"] = stream("")
			m["dir/mini-0000.dfs"] = stream("a")
			delete(m, "dir/mini-0001.dfs")
			m["dir/mini-0002.dfs"] = stream("b")
		}, "missing are dir/mini-0001.dfs", nil},
		"before 1.32 without shards": {func(m fstest.MapFS) { clear(m); m["dir/mini-summary.dfs"] = stream("") }, "missing are dir/mini-0000.dfs", nil},
		"made of what a replica receives": {func(m fstest.MapFS) {
			m["dir/mini-summary.dfs"] = stream("", "shard-count", "2")
			m["dir/mini-0000.dfs"] = stream("a", "shard-id", "0")
			m["dir/mini-0001.dfs"] = stream("b", "shard-id", "1")
		}, "", func(s *dfs.Set) bool { return s.Counted && len(s.Shards) == 2 }},
		"shards of two saves, no id": {func(m fstest.MapFS) {
			m["dir/mini-summary.dfs"] = stream("", "shard-count", "2")
			m["dir/mini-0000.dfs"] = stream("a", "snapshot-id", id)
			m["dir/mini-0001.dfs"] = stream("b", "snapshot-id", other)
		}, "is of snapshot " + other, nil},
	} {
		t.Run(name, func(t *testing.T) {
			m := files(t)
			c.change(m)
			s, err := dfs.Open(m, "dir/mini-summary.dfs")
			if c.want == "" {
				if err != nil || c.check != nil && !c.check(s) {
					t.Errorf("%+v, %v", s, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v, want %q", err, c.want)
			}
			var set *dfs.SetError
			if strings.Contains(err.Error(), "not a whole") && (!errors.As(err, &set) || !errors.Is(err, dfs.ErrIncomplete) || len(set.Missing)+len(set.Foreign) == 0) {
				t.Errorf("%#v", err)
			}
		})
	}
	if _, err := dfs.Open(files(t), "dir/mini-0000.dfs"); err == nil || !strings.Contains(err.Error(), "-summary.dfs") {
		t.Errorf("a shard instead of the summary: %v", err)
	}
}

// TestReadErrors cuts a shard, stops, and fails.
func TestReadErrors(t *testing.T) {
	for _, file := range []string{"dir/mini-0001.dfs", "dir/mini-0000.dfs"} {
		m := files(t)
		s, err := dfs.Open(m, "dir/mini-summary.dfs")
		if err != nil {
			t.Fatal(err)
		}
		m[file].Data = m[file].Data[:1000]
		err = s.Read(t.Context(), 2, nil, func(string, *rdb.Reader) error { return nil })
		if !errors.Is(err, rdb.ErrCorrupt) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s cut: %v", file, err)
		}
		delete(m, file)
		if err = s.Read(t.Context(), 2, nil, func(string, *rdb.Reader) error { return nil }); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s gone: %v", file, err)
		}
	}
	s, err := dfs.Open(files(t), "dir/mini-summary.dfs")
	if err != nil {
		t.Fatal(err)
	}
	stop := errors.New("stop")
	calls := 0
	err = s.Read(t.Context(), 1, nil, func(file string, _ *rdb.Reader) error {
		if calls++; file == "dir/mini-0000.dfs" {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || calls != 2 {
		t.Errorf("%v after %d files", err, calls)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = s.Read(ctx, 2, nil, func(string, *rdb.Reader) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

// TestRoundTrip writes the fixture anew, in all compressions and several numbers of shards.
func TestRoundTrip(t *testing.T) {
	from, err := dfs.Open(os.DirFS(fixture), "mini-summary.dfs")
	if err != nil {
		t.Fatal(err)
	}
	want := values(t, from, 1, nil)
	for _, codec := range []rdb.Compression{rdb.CompressNone, rdb.CompressLZ4, rdb.CompressZstd} {
		for _, shards := range []int{0, 1, 3} {
			dir := t.TempDir()
			w, err := dfs.Create(dir, "copy", &dfs.WriterOptions{Shards: shards, Options: rdb.WriterOptions{Compression: codec}})
			if err != nil {
				t.Fatal(err)
			}
			report, err := from.Convert(t.Context(), w.Writer, nil, nil)
			if err != nil || report.Keys != 39 || report.From.Family != rdb.Dragonfly || report.Encoded != 0 {
				t.Fatalf("%+v, %v", report, err)
			}
			if names := list(t, dir); strings.Contains(strings.ReplaceAll(names, ".dfs.tmp", ""), ".dfs") {
				t.Errorf("visible before Close: %s", names)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(w.Abort(), w.Close()); err != nil {
				t.Error(err)
			}
			s, err := dfs.Open(os.DirFS(dir), "copy-summary.dfs")
			if err != nil {
				t.Fatal(err)
			}
			if n := max(shards, 1); shards > 0 && len(s.Shards) != n || shards == 0 && len(s.Shards) != 4 || !s.Counted {
				t.Errorf("%+v", s)
			}
			if got := values(t, s, 2, nil); !maps.Equal(got, want) {
				t.Errorf("compression %d, %d shards: contents differ", codec, shards)
			}
			if _, err := dfs.Create(dir, "copy", nil); !errors.Is(err, fs.ErrExist) {
				t.Errorf("over another set: %v", err)
			}
		}
	}
}

func list(t testing.TB, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func TestCreateErrors(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"", "a/b", "a.rdb", "my-summary", "what?", "{timestamp}", "a%H"} {
		if _, err := dfs.Create(dir, name, nil); err == nil {
			t.Errorf("%q was taken for a name", name)
		}
	}
	for _, o := range []*dfs.WriterOptions{{Shards: -1}, {Shards: 10001}, {ID: "ABC"}} {
		if _, err := dfs.Create(dir, "x", o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
	if _, err := dfs.Create(filepath.Join(dir, "missing"), "x", nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in a directory that isn't there: %v", err)
	}
	w, err := dfs.Create(dir, "x", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Abort(); err != nil {
		t.Error(err)
	}
	if err := w.Close(); err == nil {
		t.Error("Close after Abort is nil")
	}
	// A summary that can't get its name: what has no summary is no set.
	if w, err = dfs.Create(dir, "x", nil); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "x-summary.dfs", "full"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err == nil {
		t.Error("Close is nil without a summary")
	}
	if err := w.Close(); err == nil {
		t.Error("the second Close is nil")
	}
	if names := list(t, dir); strings.Contains(names, ".tmp") {
		t.Errorf("left behind: %s", names)
	}
}

// TestEvenShards checks that each shard gets about as much, and that each file is a stream on its own.
func TestEvenShards(t *testing.T) {
	dir := t.TempDir()
	w, err := dfs.Create(dir, "even", &dfs.WriterOptions{Shards: 3, Options: rdb.WriterOptions{Compression: rdb.CompressLZ4}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 30000 {
		e := &rdb.Entry{Kind: rdb.KindKey, Type: rdb.TypeString, DB: i % 3, Key: fmt.Appendf(nil, "key:%d", i), Idle: -1, Freq: -1}
		if err := w.WriteEntry(e, rdb.Shape{}); err != nil {
			t.Fatal(err)
		}
		if err := w.WriteElement(&rdb.Element{Kind: rdb.ElementBytes, Value: bytes.Repeat([]byte{byte(i)}, i%500)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := dfs.Open(os.DirFS(dir), "even-summary.dfs")
	if err != nil {
		t.Fatal(err)
	}
	if got := values(t, s, 3, nil); len(got) != 30000 {
		t.Errorf("%d keys", len(got))
	}
	var sizes []int64
	for _, name := range s.Shards {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, info.Size())
		r := rdb.NewReader(f, nil)
		for {
			if _, err := r.Next(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(name, err)
			}
		}
		if r.Stats().Checksum != rdb.ChecksumCRC64 || r.Dialect().Family != rdb.Dragonfly {
			t.Errorf("%s: checksum %s, dialect %v", name, r.Stats().Checksum, r.Dialect())
		}
	}
	least, most := min(sizes[0], sizes[1], sizes[2]), max(sizes[0], sizes[1], sizes[2])
	if least*10 < most*9 || most > 2<<20 {
		t.Errorf("shards of %d bytes", sizes)
	}
}
