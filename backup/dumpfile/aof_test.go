package dumpfile_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/dumpfile"
	"github.com/amberkv/amber/backup/snapshottest"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/rdb/aof"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/storetest"
)

// command is a command as servers write it.
func command(args ...string) string {
	text := fmt.Sprintf("*%d\r\n", len(args))
	for _, a := range args {
		text += fmt.Sprintf("$%d\r\n%s\r\n", len(a), a)
	}
	return text
}

const (
	base     = "dir/a.1.base.rdb"
	incr     = "dir/a.1.incr.aof"
	manifest = "dir/a.manifest"
)

// putAOF makes a directory of append-only files: an RDB file as base, an increment, and their manifest.
func putAOF(t testing.TB, s storage.Store, commands string) {
	t.Helper()
	put(t, s, base, rdbOf([]byte("v"), true))
	put(t, s, incr, []byte(commands))
	put(t, s, manifest, []byte("file a.1.base.rdb seq 1 type b\nfile a.1.incr.aof seq 1 type i\n"))
}

// contents reads a snapshot and returns what its parts hold, by name.
func contents(t testing.TB, sr backup.Snapshotter) (map[string]string, error) {
	t.Helper()
	sn, err := sr.Snapshot(t.Context())
	if err != nil {
		return nil, err
	}
	defer sn.Close()
	got := map[string]string{}
	for _, p := range sn.Parts() {
		r, err := sn.Open(t.Context(), p)
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(r)
		r.Close()
		if err != nil {
			return nil, err
		}
		if int64(len(data)) != p.Size {
			t.Errorf("part %s has %d bytes, and %d were told", p.Name, len(data), p.Size)
		}
		got[p.Name] = string(data)
	}
	return got, nil
}

func TestAOFContract(t *testing.T) {
	commands := strings.Repeat(command("SET", "k", strings.Repeat("x", 1000)), 1000)
	check := func(t *testing.T, p backup.Part, r io.Reader) {
		if c, err := catalog.Inspect(r, nil); err != nil || (c.Dialect == catalog.DialectAOF) != strings.HasSuffix(p.Name, ".aof") {
			t.Error(c, err)
		}
	}
	make := func(wrap func(storage.Store) storage.Store, break_ func(s storage.Store)) func(t *testing.T) backup.Snapshotter {
		return func(t *testing.T) backup.Snapshotter {
			s := storage.Store(memory())
			putAOF(t, s, commands)
			if break_ != nil {
				break_(s)
			}
			if wrap != nil {
				s = wrap(s)
			}
			return newAOF(t, dumpfile.AOFConfig{Store: s, Dir: "dir"})
		}
	}
	remove := func(keys ...string) func(s storage.Store) {
		return func(s storage.Store) {
			for _, key := range keys {
				if err := s.Delete(t.Context(), key); err != nil {
					t.Error(err)
				}
			}
		}
	}
	snapshottest.Run(t, make(nil, nil), &snapshottest.Options{Check: check,
		Waiting: make(func(s storage.Store) storage.Store {
			return storetest.NewFaulty(s, storetest.Fault{Op: storetest.OpOpen, Call: 3, Mode: storetest.Hang})
		}, nil),
		Stalled: make(func(s storage.Store) storage.Store { return &stalledAt{Store: s, key: base} }, func(s storage.Store) {
			put(t, s, base, rdbOf([]byte(strings.Repeat("v", 3<<20)), true))
		}),
		Failing: map[string]func(t *testing.T) backup.Snapshotter{
			"NoManifest": make(nil, remove(manifest)), "NoBase": make(nil, remove(base)), "NoIncrement": make(nil, remove(incr)), "Nothing": make(nil, remove(manifest, base, incr)),
		}})
}

// stalledAt stalls what is opened of an object.
type stalledAt struct {
	storage.Store
	key string
}

func (s *stalledAt) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if key == s.key {
		return (&stalled{Store: s.Store, after: 1 << 20}).Open(ctx, key, off, n)
	}
	return s.Store.Open(ctx, key, off, n)
}

func TestAOFConfig(t *testing.T) {
	for _, test := range []struct {
		cfg  dumpfile.AOFConfig
		want string
	}{
		{dumpfile.AOFConfig{}, "Store is required"},
		{dumpfile.AOFConfig{Store: memory(), File: "a", Dir: "b"}, "excludes Dir and Name"},
		{dumpfile.AOFConfig{Store: memory(), File: "../a"}, "File"},
		{dumpfile.AOFConfig{Store: memory(), Dir: "../a"}, "Dir"},
		{dumpfile.AOFConfig{Store: memory(), Dir: "/"}, "Dir"},
		{dumpfile.AOFConfig{Store: memory(), Name: "b/c"}, "Name: \"b/c\" is a path"},
		{dumpfile.AOFConfig{Store: memory(), Name: "."}, "Name"},
	} {
		if _, err := dumpfile.NewAOF(test.cfg); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: %v, want %s", test.cfg, err, test.want)
		}
	}
	s := memory()
	putAOF(t, s, command("DEL", "k"))
	for _, name := range []string{"dir/", manifest} {
		sr, err := dumpfile.Of(dumpfile.Config{Store: s, Name: name})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := contents(t, sr); err != nil || len(got) != 2 {
			t.Errorf("%s: %q %v", name, got, err)
		}
		if _, err := dumpfile.Of(dumpfile.Config{Store: s, Name: name, Adopt: true}); err == nil || !strings.Contains(err.Error(), "can't be adopted") {
			t.Errorf("adopting %s: %v", name, err)
		}
	}
	if sr, err := dumpfile.Of(dumpfile.Config{Store: s, Name: base}); err != nil {
		t.Error(err)
	} else if _, ok := sr.(*dumpfile.Snapshotter); !ok {
		t.Errorf("%T", sr)
	}
}

// Sets that are not what a server would take are refused, and the reason is told.
func TestAOFRefused(t *testing.T) {
	ok := command("SET", "a", "b")
	for name, test := range map[string]struct {
		files map[string]string // in place of the usual ones; "-": it isn't there
		want  error
		text  string
	}{
		"NoManifest":        {map[string]string{manifest: "-"}, storage.ErrNotFound, "no manifest of append-only files"},
		"TwoManifests":      {map[string]string{"dir/b.manifest": "x"}, nil, "there are 2 manifests of append-only files, a.manifest, b.manifest: say which"},
		"MissingIncrement":  {map[string]string{incr: "-"}, dumpfile.ErrMissing, incr},
		"MissingBase":       {map[string]string{base: "-"}, dumpfile.ErrMissing, base},
		"ForeignName":       {map[string]string{manifest: "file ../other.aof seq 1 type i\n"}, aof.ErrCorrupt, "it is a path"},
		"DotName":           {map[string]string{manifest: "file .hidden seq 1 type i\n"}, storage.ErrInvalidKey, "begins with a dot"},
		"WrongOrder":        {map[string]string{manifest: "file a.2.incr.aof seq 2 type i\nfile a.1.incr.aof seq 1 type i\n"}, aof.ErrCorrupt, "comes behind"},
		"Twice":             {map[string]string{manifest: "file a.1.incr.aof seq 1 type i\nfile a.2.incr.aof seq 1 type i\n"}, aof.ErrCorrupt, "comes behind"},
		"CutManifest":       {map[string]string{manifest: "file a.1.base.rdb seq 1 type b\nfile a.1.in"}, aof.ErrCorrupt, "its end is missing"},
		"OnlyHistory":       {map[string]string{manifest: "file a.1.incr.aof seq 1 type h\n"}, aof.ErrCorrupt, "neither a base nor an increment"},
		"CorruptIncrement":  {map[string]string{incr: ok + "what"}, aof.ErrCorrupt, "byte 27"},
		"RDBAsIncrement":    {map[string]string{incr: string(rdbOf([]byte("v"), true))}, aof.ErrCorrupt, "it is an increment, and begins as an RDB file"},
		"NoRDBAsBase":       {map[string]string{base: "garbage"}, catalog.ErrBadSnapshot, "part 0000.base.aof"},
		"CorruptBase":       {map[string]string{base: string(rdbOf([]byte("v"), true)) + "x"}, catalog.ErrBadSnapshot, "bytes follow its end"},
		"CutBase":           {map[string]string{base: string(rdbOf([]byte("v"), true))[:30]}, catalog.ErrBadSnapshot, "0000.base.rdb"},
		"FirstIncrementCut": {map[string]string{incr: ok + ok[:9], "dir/a.2.incr.aof": ok, manifest: "file a.1.incr.aof seq 1 type i\nfile a.2.incr.aof seq 2 type i\n"}, catalog.ErrBadSnapshot, "in the middle of a command"},
		"FirstInTransaction": {map[string]string{incr: command("MULTI") + ok, "dir/a.2.incr.aof": ok, manifest: "file a.1.incr.aof seq 1 type i\nfile a.2.incr.aof seq 2 type i\n"}, catalog.ErrBadSnapshot,
			"in the middle of a transaction"},
		"OldBaseCut": {map[string]string{"dir/old.aof": ok + ok[:9], incr: ok, manifest: "file old.aof seq 1 type b\nfile a.1.incr.aof seq 1 type i\n"}, aof.ErrTruncated, "old.aof"},
	} {
		h := newHouse(t, memory())
		putAOF(t, h.Store, ok)
		for key, text := range test.files {
			if text == "-" {
				if err := h.Store.Delete(t.Context(), key); err != nil {
					t.Fatal(err)
				}
				continue
			}
			put(t, h.Store, key, []byte(text))
		}
		_, err := h.keep(t, newAOF(t, dumpfile.AOFConfig{Store: h.Store, Dir: "dir"}))
		if err == nil || test.want != nil && !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) || errors.Is(err, dumpfile.ErrChanged) {
			t.Errorf("%s: %v, want %v and %q", name, err, test.want, test.text)
		}
	}
}

// Of the last file everything is taken up to its last whole command outside of a transaction, wherever it was cut; and a server has just that.
func TestAOFCutAnywhere(t *testing.T) {
	text := command("SELECT", "2") + "#TS:1700000000\r\n" + command("SET", "a", "b") + command("MULTI") + command("INCR", "n") + command("EXEC") + command("RPUSH", "l", "1", "2")
	ends := []int{0, 23, 39, 39 + len(command("SET", "a", "b")), len(text) - len(command("RPUSH", "l", "1", "2")), len(text)}
	for cut := range len(text) + 1 {
		s := memory()
		putAOF(t, s, text[:cut])
		whole := 0
		for _, e := range ends {
			if e <= cut {
				whole = e
			}
		}
		var log strings.Builder
		got, err := contents(t, newAOF(t, dumpfile.AOFConfig{Store: s, Dir: "dir", Logger: slog.New(slog.NewTextHandler(&log, nil))}))
		if err != nil || got["0000.base.rdb"] != string(rdbOf([]byte("v"), true)) || got["0001.incr.aof"] != text[:whole] || len(got) != min(whole, 1)+1 {
			t.Fatalf("cut at %d: %v %q", cut, err, got)
		}
		if strings.Contains(log.String(), "is left out") != (whole < cut) {
			t.Errorf("cut at %d: %s", cut, log.String())
		}
	}
	// A base of commands is cut if it is the last file.
	s := memory()
	put(t, s, manifest, []byte("file a.1.base.aof seq 1 type b\n"))
	put(t, s, "dir/a.1.base.aof", []byte(text[:len(text)-1]))
	if got, err := contents(t, newAOF(t, dumpfile.AOFConfig{Store: s, Dir: "dir"})); err != nil || got["0000.base.aof"] != text[:ends[4]] {
		t.Errorf("%v %q", err, got)
	}
}

// Increments that failed rewrites left are all taken, in order; empty files and history are not; other files don't matter.
func TestAOFSeveralIncrements(t *testing.T) {
	s := memory()
	putAOF(t, s, command("SET", "n", "1"))
	put(t, s, "dir/a.2.incr.aof", nil)
	put(t, s, "dir/a.10.incr.aof", []byte(command("SET", "n", "10")))
	put(t, s, "dir/a.11.incr.aof", []byte(command("SET", "n", "11")+"*"))
	put(t, s, "dir/a.12.incr.aof", []byte("not named"))
	put(t, s, "dir/temp-a.manifest", []byte("being written"))
	put(t, s, "dir/sub/b.manifest", []byte("elsewhere"))
	put(t, s, manifest, []byte("file a.1.base.rdb seq 1 type b\nfile gone seq 1 type h\nfile a.1.incr.aof seq 1 type i startoffset 3\nfile a.2.incr.aof seq 2 type i\n"+
		"file a.10.incr.aof seq 10 type i\nfile a.11.incr.aof seq 11 type i\n"))
	got, err := contents(t, newAOF(t, dumpfile.AOFConfig{Store: s, Dir: "dir/"}))
	if err != nil || len(got) != 4 || got["0001.incr.aof"] != command("SET", "n", "1") || got["0002.incr.aof"] != command("SET", "n", "10") || got["0003.incr.aof"] != command("SET", "n", "11") {
		t.Errorf("%v %q", err, got)
	}
	// Without a base, and without anything.
	put(t, s, manifest, []byte("file a.10.incr.aof seq 10 type i\nfile a.2.incr.aof seq 12 type i\n"))
	if got, err := contents(t, newAOF(t, dumpfile.AOFConfig{Store: s, Dir: "dir"})); err != nil || len(got) != 1 || got["0000.incr.aof"] == "" {
		t.Errorf("%v %q", err, got)
	}
	put(t, s, manifest, []byte("file a.2.incr.aof seq 2 type i\n"))
	h := newHouse(t, s)
	if b, err := h.keep(t, newAOF(t, dumpfile.AOFConfig{Store: s, Dir: "dir"})); err != nil || len(b.Parts) != 1 || b.Parts[0].Dialect != catalog.DialectAOF || b.Commands != 0 {
		t.Errorf("%v %+v", err, b)
	}
}

// The file of Redis 6.2 and older, with an RDB file at its beginning or without; and what Redis 7.0 takes over from one. All servers start from what comes of it.
func TestAOFOldStyle(t *testing.T) {
	pre := string(read(t, testdata+"redis-6.2/lists_compress.rdb"))
	more := command("SELECT", "0") + command("SET", "amber", "new")
	h := newHouse(t, memory())
	put(t, h.Store, "appendonly.aof", []byte(pre+more+more[:20]))
	put(t, h.Store, "plain.aof", []byte(more+"*3\r\n"))
	put(t, h.Store, "short.aof", []byte(pre))
	put(t, h.Store, "up/appendonly.aof", []byte(pre+more))
	put(t, h.Store, "up/appendonly.aof.1.incr.aof", []byte(command("APPEND", "amber", "er")))
	put(t, h.Store, "up/appendonly.aof.manifest", []byte("file appendonly.aof seq 1 type b\nfile appendonly.aof.1.incr.aof seq 1 type i\n"))
	old := func(name string) *dumpfile.AOFSnapshotter {
		return newAOF(t, dumpfile.AOFConfig{Store: h.Store, File: name})
	}
	for _, test := range []struct {
		sr    backup.Snapshotter
		want  map[string]string
		value string
	}{
		{old("appendonly.aof"), map[string]string{"0000.base.rdb": pre, "0001.incr.aof": more}, "new"},
		{old("plain.aof"), map[string]string{"0000.base.aof": more}, "new"},
		{old("short.aof"), map[string]string{"0000.base.rdb": pre}, ""},
		{newAOF(t, dumpfile.AOFConfig{Store: h.Store, Dir: "up"}), map[string]string{"0000.base.rdb": pre, "0001.incr.aof": more, "0002.incr.aof": command("APPEND", "amber", "er")}, "newer"},
	} {
		got, err := contents(t, test.sr)
		if err != nil || len(got) != len(test.want) {
			t.Fatalf("%v, %d parts", err, len(got))
		}
		for name, data := range test.want {
			if got[name] != data {
				t.Errorf("%s: %.100q", name, got[name])
			}
		}
		b, err := h.keep(t, test.sr)
		if err != nil {
			t.Fatal(err)
		}
		c := h.restored(t, "redis-8.0", b)
		if v := c.Get(t.Context(), "amber").Val(); v != test.value {
			t.Errorf("%v: %q, want %q", b.Parts, v, test.value)
		}
		if n := c.DBSize(t.Context()).Val(); n < b.Keys {
			t.Errorf("%d keys of %d", n, b.Keys)
		}
	}
	for name, text := range map[string]string{"cut": pre[:len(pre)-3], "garbage": pre + "x", "corrupt": pre[:len(pre)-1] + "x" + more} {
		put(t, h.Store, name+".aof", []byte(text))
		if _, err := h.keep(t, old(name+".aof")); err == nil || !errors.Is(err, aof.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A rewrite gives its new file the name of the old one: what was opened before it and after it doesn't fit together.
	store := &aofCalls{Store: h.Store, at: map[int]func(){}}
	store.at[2] = func() { put(t, h.Store, "appendonly.aof", []byte(strings.Replace(pre, "6.2", "6.3", 1))) }
	if _, err := contents(t, newAOF(t, dumpfile.AOFConfig{Store: store, File: "appendonly.aof"})); err == nil || !errors.Is(err, aof.ErrCorrupt) || store.n < 6 {
		t.Errorf("after %d calls: %v", store.n, err) // it was taken again, and the new one's checksum is wrong
	}
}

// What changes after the snapshot was taken in a way that no server does is told: a file that is not the last changes, the last one gets shorter.
func TestAOFChangedMeanwhile(t *testing.T) {
	for name, test := range map[string]struct {
		change func(t *testing.T, dir string)
		fails  bool
	}{
		"Grows": {func(t *testing.T, dir string) { appendTo(t, filepath.Join(dir, incr), command("SET", "x", "y")) }, false},
		"Gone": {func(t *testing.T, dir string) {
			for _, key := range []string{base, incr, manifest} {
				if err := os.Remove(filepath.Join(dir, key)); err != nil {
					t.Fatal(err)
				}
			}
		}, false},
		"Shorter":     {func(t *testing.T, dir string) { truncate(t, filepath.Join(dir, incr), 5) }, true},
		"BaseShorter": {func(t *testing.T, dir string) { truncate(t, filepath.Join(dir, base), 5) }, true},
		"BaseChanges": {func(t *testing.T, dir string) {
			if err := os.Chtimes(filepath.Join(dir, base), time.Time{}, time.Now().Add(time.Hour)); err != nil {
				t.Fatal(err)
			}
		}, true},
	} {
		dir := t.TempDir()
		s := openDir(t, dir)
		large := strings.Repeat(command("SET", "x", strings.Repeat("y", 1000)), 500)
		putAOF(t, s, large)
		put(t, s, base, rdbOf([]byte(strings.Repeat("v", 500_000)), true))
		sn, err := newAOF(t, dumpfile.AOFConfig{Store: s, Dir: "dir"}).Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		test.change(t, dir)
		var failed error
		for _, p := range sn.Parts() {
			r, err := sn.Open(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, r); err != nil {
				failed = err
			}
			r.Close()
			if _, err := sn.Open(t.Context(), p); err == nil {
				t.Error("a part was opened twice")
			}
		}
		sn.Close()
		if errors.Is(failed, dumpfile.ErrChanged) != test.fails || failed != nil && !test.fails {
			t.Errorf("%s: %v", name, failed)
		}
	}
}

func appendTo(t *testing.T, name, text string) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(text)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func truncate(t *testing.T, name string, size int64) {
	t.Helper()
	if err := os.Truncate(name, size); err != nil {
		t.Fatal(err)
	}
}

// Source.Time is the latest moment that the files tell of.
func TestAOFTime(t *testing.T) {
	dir := t.TempDir()
	s := openDir(t, dir)
	old := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(commands string) time.Time {
		t.Helper()
		putAOF(t, s, commands)
		for _, key := range []string{base, incr} {
			if err := os.Chtimes(filepath.Join(dir, key), old, old); err != nil {
				t.Fatal(err)
			}
		}
		sn, err := newAOF(t, dumpfile.AOFConfig{Store: s, Dir: "dir"}).Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer sn.Close()
		return sn.Source().Time
	}
	if got := at(command("SET", "a", "b")); !got.Equal(old) {
		t.Errorf("when it was written last: %v", got)
	}
	if got := at("#TS:1700000000\r\n" + command("SET", "a", "b")); got.Unix() != 1700000000 {
		t.Errorf("by an annotation: %v", got)
	}
}

// A listing shows append-only files by their manifest, with what is missing; and their base alone only where there is none.
func TestListAOF(t *testing.T) {
	s := memory()
	putAOF(t, s, command("SET", "a", "b"))
	put(t, s, "dir/temp-a.manifest", []byte("x"))
	put(t, s, "gone/a.manifest", readKey(t, s, manifest))
	put(t, s, "gone/a.1.base.rdb", readKey(t, s, base))
	put(t, s, "bad/a.manifest", []byte("x"))
	put(t, s, "alone/a.1.base.rdb", readKey(t, s, base))
	put(t, s, "old/appendonly.aof", append(readKey(t, s, base), command("SET", "a", "b")...))
	put(t, s, "plain/appendonly.aof", []byte(command("SET", "a", "b")))
	put(t, s, "wrong/appendonly.aof", []byte("what"))
	put(t, s, "up/appendonly.aof", readKey(t, s, base))
	put(t, s, "up/appendonly.aof.manifest", []byte("file appendonly.aof seq 1 type b\n"))
	all, byName := list(t, s, "", nil)
	for name, want := range map[string]string{
		manifest: "aof redis 7.2.4 redis:10 3 ", "gone/a.manifest": "aof    2 gone/a.1.incr.aof is missing", "bad/a.manifest": "aof    1 manifest, line 1: its end is missing",
		"alone/a.1.base.rdb": "aof-base redis 7.2.4 redis:10 1 ", "old/appendonly.aof": "aof redis 7.2.4 redis:10 1 ", "plain/appendonly.aof": "aof   aof 1 ",
		"wrong/appendonly.aof": "aof   aof 1 wrong/appendonly.aof is neither", "up/appendonly.aof.manifest": "aof redis 7.2.4 redis:10 2 ",
	} {
		d := byName[name]
		got := fmt.Sprintf("%s %s %s %s %d %s", d.Kind, d.Engine, d.Version, d.Dialect, len(d.Files), d.Problem)
		if !strings.HasPrefix(got, want) || d.Complete != (d.Problem == "") || strings.HasSuffix(want, " ") && d.Problem != "" {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
		if d.Complete && d.Kind == dumpfile.AOF {
			sr, err := dumpfile.Of(dumpfile.Config{Store: s, Name: d.Name})
			if err == nil {
				_, err = contents(t, sr)
			}
			if err != nil {
				t.Errorf("%s is said to be complete: %v", name, err)
			}
		}
	}
	if len(all) != 8 {
		t.Errorf("%d dumps", len(all))
	}
	for _, name := range []string{manifest, incr} {
		if _, err := dumpfile.New(dumpfile.Config{Store: s, Name: name}); err == nil || !strings.Contains(err.Error(), "NewAOF") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// No file stays open behind a snapshot: one that was read, in part, not at all, or that failed.
func TestAOFClosesFiles(t *testing.T) {
	dir := t.TempDir()
	s := openDir(t, dir)
	putAOF(t, s, strings.Repeat(command("SET", "k", strings.Repeat("x", 1000)), 1000))
	put(t, s, "dir/old.aof", []byte(command("SET", "a", "b")))
	put(t, s, "dir/cut.aof", []byte(command("SET", "a", "b")+"what"))
	open := func() (files []string) {
		links, err := filepath.Glob("/proc/self/fd/*")
		if err != nil || len(links) == 0 {
			t.Fatal("the open files of this process can't be seen")
		}
		for _, link := range links {
			if name, err := os.Readlink(link); err == nil && strings.HasPrefix(name, filepath.Join(dir, "dir")+"/") {
				files = append(files, name)
			}
		}
		return files
	}
	for name, cfg := range map[string]dumpfile.AOFConfig{"Set": {Store: s, Dir: "dir"}, "Old": {Store: s, File: "dir/old.aof"}, "Corrupt": {Store: s, File: "dir/cut.aof"}, "None": {Store: s, File: "dir/none.aof"}} {
		for n := range int64(3) {
			sn, err := newAOF(t, cfg).Snapshot(t.Context())
			if (err != nil) != (name == "Corrupt" || name == "None") {
				t.Fatalf("%s: %v", name, err)
			}
			if err == nil {
				if len(open()) == 0 {
					t.Errorf("%s: nothing is open while there is a snapshot", name)
				}
				for _, p := range sn.Parts()[:min(int(n), len(sn.Parts()))] {
					r, err := sn.Open(t.Context(), p)
					if err != nil {
						t.Fatal(err)
					}
					if _, err := io.CopyN(io.Discard, r, n); err != nil {
						t.Error(err)
					}
				}
				sn.Close()
			}
			if left := open(); len(left) > 0 {
				t.Errorf("%s: %q are open", name, left)
			}
		}
	}
}
