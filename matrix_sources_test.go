package amber_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/rdb/jsonl"
)

// What the matrix runs over instead of the testdata of package rdb: a directory of directories of NAME.rdb and NAME-summary.dfs files with
// NAME.jsonl or contents.jsonl beside them.
var matrixFixtures = flag.String("fixtures", "", "another directory of fixtures for TestMatrix")

// A source is a line of the matrix.
type source struct {
	name    string
	backups []*sourceBackup
}

// A sourceBackup is one of a source's backups, and what a server holds that has all of it.
type sourceBackup struct {
	*catalog.Backup
	contents  map[string]string
	functions map[string]string
	expired   map[int]int64 // keys that have expired, by database
	blur      bool          // when consumers were at work isn't known
}

// A fixture is a snapshot in one or several files.
type fixture struct {
	name      string
	files     []string
	dialect   string
	contents  map[string]string
	functions map[string]string
	expired   map[int]int64
	blur      bool
}

// parts is a snapshot of one part a file.
type parts []string

func (p parts) Snapshot(context.Context) (backup.Snapshot, error) { return p, nil }
func (p parts) Source() catalog.Source                            { return catalog.Source{} }
func (p parts) Close() error                                      { return nil }
func (p parts) Open(_ context.Context, part backup.Part) (io.ReadCloser, error) {
	return os.Open(part.Name)
}
func (p parts) Parts() (out []backup.Part) {
	for _, name := range p {
		out = append(out, backup.Part{Name: name, Size: -1})
	}
	return out
}

// fixtureSources makes a source of every directory that has fixtures. Files that have no keys in common and are of one dialect become one
// backup.
func fixtureSources(t *testing.T, service *amber.Service, dirs ...string) (out []*source) {
	t.Helper()
	var references testserver.References
	byDir := make(map[string][]*fixture)
	for _, root := range dirs {
		err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && d.Name() == "fuzz" {
				return fs.SkipDir
			}
			if err != nil || d.IsDir() || !strings.HasSuffix(name, ".rdb") && !strings.HasSuffix(name, ".dfs") {
				return err
			}
			if f := findFixture(t, &references, name); f != nil {
				dir, err := filepath.Rel(root, filepath.Dir(name))
				if err != nil {
					return err
				}
				byDir[dir] = append(byDir[dir], f)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(byDir)) {
		s := &source{name: filepath.ToSlash(dir)}
		for _, group := range join(byDir[dir]) {
			b, err := service.Backup(t.Context(), amber.BackupRequest{DataStore: "fixtures", Snapshotter: parts(group.files)})
			if err != nil {
				t.Fatalf("%s: %v", group.name, err)
			}
			s.backups = append(s.backups, &sourceBackup{b, group.contents, group.functions, group.expired, group.blur})
		}
		out = append(out, s)
	}
	return out
}

// findFixture returns the fixture whose first file this is, or nil.
func findFixture(t *testing.T, references *testserver.References, name string) *fixture {
	t.Helper()
	f := &fixture{name: name, files: []string{name}, expired: make(map[int]int64)}
	base, isSummary := strings.CutSuffix(name, "-summary.dfs")
	switch {
	case isSummary:
		shards, err := filepath.Glob(base + "-????.dfs")
		if err != nil || len(shards) == 0 {
			t.Fatalf("%s: %d shards, %v", name, len(shards), err)
		}
		f.files = append(shards, name)
	case strings.HasSuffix(name, ".dfs"):
		base = strings.TrimRight(strings.TrimSuffix(name, ".dfs"), "0123456789")
		if _, err := os.Stat(base + "summary.dfs"); err == nil {
			return nil // it belongs to that set
		}
	default:
		base = strings.TrimSuffix(name, ".rdb")
	}
	data, err := os.ReadFile(f.files[0])
	if err != nil {
		t.Fatal(err)
	}
	f.dialect = string(data[:9])
	f.told(t, base)
	if strings.HasSuffix(name, ".rdb") {
		if contents, functions := references.Contents(t, name); contents != nil {
			f.contents, f.functions = contents, functions
			return f
		}
	}
	if f.contents == nil {
		f.own(t, data)
	}
	f.look(t)
	return f
}

// look finds in the files what no lines tell: the function libraries, and which members of sets have expired.
func (f *fixture) look(t *testing.T) {
	t.Helper()
	f.functions = make(map[string]string)
	now := time.Now().UnixMilli()
	for _, name := range f.files {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		r := rdb.NewReader(bytes.NewReader(data), nil)
		for e, err := range r.Entries() {
			switch {
			case err != nil:
				t.Fatalf("%s: %v", name, err)
			case e.Kind == rdb.KindFunction:
				var code string
				for element, err := r.Element(); err != io.EOF; element, err = r.Element() {
					if err != nil {
						t.Fatalf("%s: %v", name, err)
					}
					code += string(element.Value)
				}
				_, library, _ := strings.Cut(code, "name=")
				library, _, _ = strings.Cut(library, "\n")
				f.functions[library] = code
			case e.Kind == rdb.KindKey && e.Type == rdb.TypeSet:
				key := fmt.Sprintf("%d/%s", e.DB, e.Key)
				for element, err := r.Element(); err != io.EOF; element, err = r.Element() {
					if err != nil {
						t.Fatalf("%s: %v", name, err)
					}
					if element.ExpireAt != 0 && element.ExpireAt <= now {
						f.contents[key] = strings.Replace(f.contents[key], strconv.Quote(string(element.Value))+" expires", "", 1)
						f.contents[key] = strings.TrimSuffix(strings.Replace(f.contents[key], "\n\n", "\n", 1), "\n")
					}
				}
				if f.contents[key] == "set" { // all of them
					delete(f.contents, key)
					f.expired[e.DB]++
				}
			}
		}
	}
}

// told reads the lines that say what is in a fixture.
func (f *fixture) told(t *testing.T, base string) {
	t.Helper()
	dir := filepath.Dir(base)
	for _, name := range []string{base + ".jsonl", base + ".jsonl.gz", filepath.Join(dir, "contents.jsonl"), filepath.Join(dir, "contents-after-load.jsonl.gz"),
		filepath.Join(dir, "mini.jsonl"), "rdb/testdata/dragonfly-1.40/mini.jsonl"} {
		another := !strings.HasPrefix(name, base) && strings.HasSuffix(name, "mini.jsonl")
		if another && !strings.HasSuffix(f.name, ".dfs") {
			return
		}
		if _, err := os.Stat(name); err != nil {
			continue
		}
		// Small sets of Dragonfly's in testdata hold the same, but for times, as a file beside them.
		f.blur = another
		f.contents, f.expired = testserver.Lines(t, name)
		return
	}
}

// own makes package jsonl say what is in a file that no server here loads and of which no server told.
func (f *fixture) own(t *testing.T, data []byte) {
	t.Helper()
	var text bytes.Buffer
	r := rdb.NewReader(bytes.NewReader(data), nil)
	w := jsonl.NewWriter(&text, nil)
	for e, err := range r.Entries() {
		if err != nil {
			t.Fatalf("%s: %v", f.name, err)
		}
		if e.Kind == rdb.KindKey {
			if err := w.WriteKey(e, r); err != nil {
				t.Fatalf("%s: %v", f.name, err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "own.jsonl")
	if err := os.WriteFile(name, text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	f.contents, f.expired = testserver.Lines(t, name)
}

// join puts fixtures together that can be in one backup.
func join(all []*fixture) (groups []*fixture) {
	for _, f := range all {
		i := slices.IndexFunc(groups, func(g *fixture) bool { return g.suits(f) })
		if i < 0 {
			groups = append(groups, f)
			continue
		}
		g := groups[i]
		g.name += ", " + filepath.Base(f.name)
		g.files = append(g.files, f.files...)
		maps.Copy(g.contents, f.contents)
		maps.Copy(g.functions, f.functions)
		for db, n := range f.expired {
			g.expired[db] += n
		}
	}
	return groups
}

// suits tells whether two fixtures can be in one backup. Keys that have expired aren't known by name, so that there may be only one with such.
func (f *fixture) suits(other *fixture) bool {
	if f.dialect != other.dialect || f.blur != other.blur || len(f.expired) > 0 && len(other.expired) > 0 {
		return false
	}
	for key := range other.contents {
		if _, ok := f.contents[key]; ok {
			return false
		}
	}
	for name, code := range other.functions {
		if other, ok := f.functions[name]; ok && other != code {
			return false
		}
	}
	return true
}

// liveSources backs up a real server of each version over the network.
func liveSources(t *testing.T, service *amber.Service) (out []*source) {
	t.Helper()
	for _, version := range testserver.All() {
		server := testserver.Start(t, version)
		c := server.Client(t)
		testserver.Generate(t, c, 600, 42)
		testserver.LoadFunction(t, c, "shop")
		b, err := service.Backup(t.Context(), amber.BackupRequest{DataStore: "live-" + version, From: server.Options()})
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, &source{"live " + version, []*sourceBackup{{b, testserver.Snapshot(t, c), testserver.Functions(t, c), nil, false}}})
		server.Close()
	}
	return out
}

// of returns what of the contents is in one database, as if that were database 0.
func (b *sourceBackup) of(db int) map[string]string {
	out := make(map[string]string)
	for key, text := range b.contents {
		if name, ok := strings.CutPrefix(key, strconv.Itoa(db)+"/"); ok {
			out["0/"+name] = text
		}
	}
	return out
}

// times are those at which Dragonfly's fixtures were made.
var times = regexp.MustCompile("17954776[0-9]{5}")

// blurred makes times equal that aren't known.
func blurred(contents map[string]string) map[string]string {
	out := make(map[string]string, len(contents))
	for key, text := range contents {
		out[key] = times.ReplaceAllString(text, "then")
	}
	return out
}
