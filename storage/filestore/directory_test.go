package filestore_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/filestore"
)

func put(t *testing.T, s storage.Store, key, data string) {
	t.Helper()
	if err := storage.WriteFile(t.Context(), s, key, []byte(data), nil); err != nil {
		t.Fatal(err)
	}
}

func list(t *testing.T, s storage.Store, prefix string) []string {
	t.Helper()
	var keys []string
	for info, err := range s.List(t.Context(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, info.Key)
	}
	return keys
}

// tree returns the names of everything in a directory, those of directories with a slash.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		name, _ := filepath.Rel(dir, path)
		switch {
		case name == ".":
		case d.IsDir():
			names = append(names, name+"/")
		default:
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestNewCreatesDirectory(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "not", "yet", "there")
	s := open(t, dir)
	put(t, s, "a/b", "x")
	if got := tree(t, base); !slices.Equal(got, []string{"not/", "not/yet/", "not/yet/there/", "not/yet/there/a/", "not/yet/there/a/b"}) {
		t.Errorf("the directory has %q", got)
	}
	open(t, dir) // again
	file := filepath.Join(dir, "a", "b")
	for _, bad := range []string{"", file, filepath.Join(file, "c")} {
		if s, err := filestore.New(bad, nil); err == nil {
			s.Close()
			t.Errorf("New(%q), of a file or of nothing, returned no error", bad)
		}
	}
	if s, err := filestore.New(dir, &filestore.Options{FileMode: fs.ModeDir | 0o600}); err == nil {
		s.Close()
		t.Error("New took a mode that is more than permissions")
	}
}

// TestWorkingDirectory: a store that was opened by a relative name stays where it is.
func TestWorkingDirectory(t *testing.T) {
	base := t.TempDir()
	t.Chdir(base)
	s := open(t, "store")
	t.Chdir(t.TempDir())
	put(t, s, "a", "x")
	if got := tree(t, base); !slices.Equal(got, []string{"store/", "store/a"}) {
		t.Errorf("the directory has %q", got)
	}
}

func TestModes(t *testing.T) {
	for _, c := range []struct {
		opts      *filestore.Options
		file, dir fs.FileMode
	}{
		{nil, 0o600, 0o700},
		{&filestore.Options{}, 0o600, 0o700},
		{&filestore.Options{FileMode: 0o400}, 0o400, 0o700},
		{&filestore.Options{DirMode: 0o500 | 0o200}, 0o600, 0o700},
	} {
		dir := filepath.Join(t.TempDir(), "root")
		s, err := filestore.New(dir, c.opts)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		put(t, s, "a/b", "x")
		put(t, s, "a/b", "y")
		if err := storage.WriteFile(t.Context(), s, "a/c", nil, &storage.CreateOptions{IfNotExist: true}); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]fs.FileMode{".": c.dir, "a": c.dir, "a/b": c.file, "a/c": c.file} {
			fi, err := os.Stat(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if got := fi.Mode().Perm(); got != want {
				t.Errorf("with %+v, %s has mode %v, want %v", c.opts, name, got, want)
			}
		}
	}
}

// TestForeignFiles: what the store didn't make is neither listed nor opened nor touched.
func TestForeignFiles(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	s := open(t, dir)
	put(t, s, "ours/object", "x")
	write := func(name string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte("foreign"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{".hidden", ".git/config", "ours/.DS_Store", "ours/back\\slash", "ours/new\nline", "ours/\xff", "ours/" + strings.Repeat("x", 201),
		"ours/.amber-tmp-short", "lost+found/.x", ".amber-tmp-ABCDEFGHIJKLMNOPQRSTUVWXYZ/x"} {
		write(filepath.Join(dir, name))
	}
	write(filepath.Join(outside, "secret"))
	for link, to := range map[string]string{
		"link": filepath.Join(outside, "secret"), "ours/link": "object", "dirlink": outside, "ours/dirlink": "..", "dangling": "nothing", "loop": "loop",
	} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	before := tree(t, dir)

	if got := list(t, s, ""); !slices.Equal(got, []string{"ours/object"}) {
		t.Errorf("List gives %q", got)
	}
	for _, prefix := range []string{"link", "dirlink/", "dirlink/s", "ours/dirlink/", "ours/l", "dangling", "loop/", "lost+found/"} {
		if got := list(t, s, prefix); len(got) != 0 {
			t.Errorf("List of %q gives %q", prefix, got)
		}
	}
	for _, key := range []string{"link", "ours/link", "dangling", "loop", "ours", "dirlink"} {
		if _, err := s.Stat(t.Context(), key); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("Stat of %s, which is no regular file: %v", key, err)
		}
		if r, err := s.Open(t.Context(), key, 0, -1); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("Open of %s, which is no regular file: %v, %v", key, r, err)
		}
		if err := s.Delete(t.Context(), key); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("Delete of %s, which is no regular file: %v", key, err)
		}
	}
	// A link that leads out of the directory isn't followed, and what is outside stays as it is.
	for _, key := range []string{"dirlink/secret", "dirlink/new", "dirlink/new/er"} {
		if _, err := s.Stat(t.Context(), key); err == nil {
			t.Errorf("Stat of %s, outside of the directory, returned no error", key)
		}
		if _, err := s.Open(t.Context(), key, 0, -1); err == nil {
			t.Errorf("Open of %s, outside of the directory, returned no error", key)
		}
		if err := s.Delete(t.Context(), key); err == nil {
			t.Errorf("Delete of %s, outside of the directory, returned no error", key)
		}
		for _, opts := range []*storage.CreateOptions{nil, {IfNotExist: true}} {
			if err := storage.WriteFile(t.Context(), s, key, []byte("x"), opts); err == nil {
				t.Errorf("Create of %s, outside of the directory, returned no error", key)
			}
		}
	}
	if objects, bytes, err := s.SweepUnfinished(t.Context(), time.Now().Add(time.Hour)); err != nil || objects != 0 || bytes != 0 {
		t.Errorf("a sweep removed %d objects of %d bytes, %v", objects, bytes, err)
	}
	if got := tree(t, dir); !slices.Equal(got, before) {
		t.Errorf("the directory had %q and has %q", before, got)
	}
	// An object replaces a link, and not what the link leads to.
	put(t, s, "link", "ours")
	if data, err := os.ReadFile(filepath.Join(outside, "secret")); err != nil || string(data) != "foreign" {
		t.Errorf("the file outside reads %q, %v", data, err)
	}
	if got := tree(t, outside); !slices.Equal(got, []string{"secret"}) {
		t.Errorf("outside there is %q", got)
	}
}

func TestEmptyDirectoriesGo(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	put(t, s, "a/b/c/1", "x")
	put(t, s, "a/b/c/2", "x")
	put(t, s, "a/x", "x")
	for _, step := range []struct {
		key  string
		want []string
	}{
		{"a/b/c/1", []string{"a/", "a/b/", "a/b/c/", "a/b/c/2", "a/x"}},
		{"a/b/c/2", []string{"a/", "a/x"}},
		{"a/x", nil},
	} {
		if err := s.Delete(t.Context(), step.key); err != nil {
			t.Fatal(err)
		}
		if got := tree(t, dir); !slices.Equal(got, step.want) {
			t.Errorf("after Delete of %s the directory has %q, want %q", step.key, got, step.want)
		}
	}
	w, err := s.Create(t.Context(), "d/e/f", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Abort(); err != nil {
		t.Fatal(err)
	}
	if got := tree(t, dir); got != nil {
		t.Errorf("after Abort the directory has %q", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	w, err = s.Create(ctx, "d/e/f", nil)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := w.Commit(t.Context()); !errors.Is(err, context.Canceled) {
		t.Errorf("Commit: %v", err)
	}
	if got := tree(t, dir); got != nil {
		t.Errorf("after a Commit that failed the directory has %q", got)
	}
}

// TestDirectoryAndObject: a file system can't have both "a" and "a/b". The second one fails and harms nothing; an
// empty directory is no obstacle.
func TestDirectoryAndObject(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	put(t, s, "a/b", "x")
	put(t, s, "c", "x")
	before := tree(t, dir)
	for _, key := range []string{"a", "c/d", "c/d/e"} {
		for _, opts := range []*storage.CreateOptions{nil, {IfNotExist: true}} {
			err := storage.WriteFile(t.Context(), s, key, []byte("y"), opts)
			if err == nil || errors.Is(err, storage.ErrExists) || errors.Is(err, storage.ErrNotFound) {
				t.Errorf("Create of %s beside a/b and c: the error is %v", key, err)
			}
		}
	}
	if got := tree(t, dir); !slices.Equal(got, before) {
		t.Errorf("the directory had %q and has %q", before, got)
	}
	for _, key := range []string{"empty-1", "empty-2"} {
		if err := os.Mkdir(filepath.Join(dir, key), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	put(t, s, "empty-1", "x")
	if err := storage.WriteFile(t.Context(), s, "empty-2", []byte("y"), &storage.CreateOptions{IfNotExist: true}); err != nil {
		t.Errorf("an exclusive create in the place of an empty directory: %v", err)
	}
	if got := list(t, s, ""); !slices.Equal(got, []string{"a/b", "c", "empty-1", "empty-2"}) {
		t.Errorf("List gives %q", got)
	}
}

func TestSweepCounts(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	put(t, s, "x/object", "x")
	// Left by writers that died: two old ones of 100 and 50 bytes, one young one; and a directory in which none had begun.
	old := time.Now().Add(-2 * time.Hour)
	for i, name := range []string{"x/", "y/z/", "x/"} {
		w, err := s.Create(t.Context(), name+"unfinished", nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { w.Abort() })
		if _, err := w.Write(make([]byte, []int{100, 50, 7}[i])); err != nil {
			t.Fatal(err)
		}
		if i < 2 {
			for _, tmp := range tree(t, dir) {
				if strings.Contains(tmp, ".amber-tmp-") {
					if err := os.Chtimes(filepath.Join(dir, tmp), old, old); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "never", "begun"), 0o700); err != nil {
		t.Fatal(err)
	}
	objects, bytes, err := s.SweepUnfinished(t.Context(), time.Now().Add(-time.Hour))
	if err != nil || objects != 2 || bytes != 150 {
		t.Errorf("the sweep removed %d unfinished objects of %d bytes, %v; want 2 of 150", objects, bytes, err)
	}
	left := tree(t, dir)
	if len(left) != 3 || !slices.Contains(left, "x/object") {
		t.Errorf("after the sweep the directory has %q, want x/, x/object and one temporary file", left)
	}
}

// TestSweptWriter: a writer whose temporary file was swept says so, and nothing is visible.
func TestSweptWriter(t *testing.T) {
	for _, opts := range []*storage.CreateOptions{nil, {IfNotExist: true}} {
		dir := t.TempDir()
		s := open(t, dir)
		w, err := s.Create(t.Context(), "a/b", opts)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if n, _, err := s.SweepUnfinished(t.Context(), time.Now().Add(time.Hour)); n != 1 || err != nil {
			t.Fatalf("the sweep removed %d, %v", n, err)
		}
		if _, err := w.Commit(t.Context()); err == nil || !strings.Contains(err.Error(), "nothing was stored") {
			t.Errorf("Commit: the error is %v", err)
		}
		if got := tree(t, dir); got != nil {
			t.Errorf("the directory has %q", got)
		}
	}
}
