package command

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/restore"
	"github.com/redis/go-redis/v9"
)

// image is a backup of some RDB files, in memory.
type image struct {
	backup *catalog.Backup
	data   [][]byte
	// What the server that wrote it held.
	contents  map[string]string
	functions map[string]string
}

func (i *image) Backup() *catalog.Backup { return i.backup }

func (i *image) Open(_ context.Context, p catalog.Part) (io.ReadCloser, error) {
	for n, part := range i.backup.Parts {
		if part.Name == p.Name {
			return io.NopCloser(bytes.NewReader(i.data[n])), nil
		}
	}
	return nil, os.ErrNotExist
}

// take lets a server save and makes a backup of the file.
func take(t testing.TB, s *testserver.Server) *image {
	t.Helper()
	c := s.Client(t)
	if err := c.Save(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(s.Dir, "dump.rdb"))
	if err != nil {
		t.Fatal(err)
	}
	img := imageOf(t, data)
	img.contents, img.functions = testserver.Snapshot(t, c), testserver.Functions(t, c)
	return img
}

// imageOf makes a backup of streams, one part each.
func imageOf(t testing.TB, streams ...[]byte) *image {
	t.Helper()
	b := &catalog.Backup{
		Format: catalog.Format, ID: catalog.NewID(time.Now()), DataStore: "orders", Kind: catalog.KindManual, State: catalog.StateReady,
	}
	var all catalog.Contents
	for i, data := range streams {
		found, err := catalog.Inspect(bytes.NewReader(data), nil)
		if err != nil {
			t.Fatal(err)
		}
		size := int64(len(data))
		b.Parts = append(b.Parts, catalog.Part{Name: "part-" + string(rune('0'+i)) + ".rdb", Dialect: found.Dialect, Compression: "none",
			Size: size, RawSize: size, Keys: found.Keys})
		b.RawBytes += size
		all.Add(found)
	}
	all.Record(b)
	b.StoredBytes = b.RawBytes
	return &image{backup: b, data: streams}
}

// A lasting is an image that is made once for all tests.
type lasting struct {
	mu  sync.Mutex
	img *image
}

var made sync.Map // of *lasting, by what they are

// madeOnce returns a copy of an image, with an ID of its own. It is made when a test asks for it first: tests may change all of it but the bytes and the
// texts themselves.
func madeOnce(what string, f func() *image) *image {
	v, _ := made.LoadOrStore(what, new(lasting))
	o := v.(*lasting)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.img == nil {
		o.img = f() // a test that fails in it leaves it to the next
	}
	img, b := *o.img, *o.img.backup
	b.ID = catalog.NewID(time.Now())
	b.Parts, b.DBs, b.Modules = slices.Clone(b.Parts), slices.Clone(b.DBs), slices.Clone(b.Modules)
	img.backup, img.data, img.contents, img.functions = &b, slices.Clone(img.data), maps.Clone(img.contents), maps.Clone(img.functions)
	return &img
}

// sampleOf takes a backup of a new server with keys of every type and a function.
func sampleOf(t testing.TB, version string, keys int) *image {
	t.Helper()
	return madeOnce(fmt.Sprint(version, keys), func() *image {
		s := testserver.Start(t, version)
		c := s.Client(t)
		testserver.Generate(t, c, keys, 1)
		testserver.LoadFunction(t, c, "shop")
		img := take(t, s)
		s.Close()
		return img
	})
}

// sampleOfCluster takes a backup of a new cluster, one part for each primary.
func sampleOfCluster(t testing.TB, version string, primaries, keys int) *image {
	t.Helper()
	return madeOnce(fmt.Sprint(version, primaries, " ", keys), func() *image { return newSampleOfCluster(t, version, primaries, keys) })
}

func newSampleOfCluster(t testing.TB, version string, primaries, keys int) *image {
	t.Helper()
	c := testserver.StartCluster(t, version, primaries, 0)
	c.Generate(t, keys, 3)
	var streams [][]byte
	for _, s := range c.Primaries() {
		if err := s.Client(t).Save(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(filepath.Join(s.Dir, "dump.rdb"))
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, data)
	}
	img := imageOf(t, streams...)
	img.contents = c.Contents(t)
	for _, s := range c.Nodes() {
		s.Close()
	}
	return img
}

// loader makes one for a server; change may be nil.
func loader(t testing.TB, opts *redis.Options, change func(*Config)) *Loader {
	t.Helper()
	cfg := Config{Options: opts, Stall: 20 * time.Second, Logger: logger(t)}
	if change != nil {
		change(&cfg)
	}
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// logger shows what is logged when a test fails.
func logger(t testing.TB) *slog.Logger {
	if out, ok := t.(interface{ Output() io.Writer }); ok {
		return slog.New(slog.NewTextHandler(out.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return slog.New(slog.DiscardHandler)
}

// holdsImage compares what a server holds with a backup, but for what no command sets.
func holdsImage(t testing.TB, c *redis.Client, img *image) {
	t.Helper()
	if diff := testserver.Diff(img.contents, testserver.Snapshot(t, c)); diff != "" {
		t.Errorf("it holds something else than the backup: %s", diff)
	}
	if img.functions == nil {
		return
	}
	if got := testserver.Functions(t, c); !maps.Equal(got, img.functions) {
		t.Errorf("it has the functions %v, the backup has %v", got, img.functions)
	}
}

// data is a snapshot without the keys that are a restore's own.
func data(snap map[string]string) map[string]string {
	out := maps.Clone(snap)
	for k := range out {
		if _, name, _ := strings.Cut(k, "/"); strings.HasPrefix(name, reservedPrefix) {
			delete(out, k)
		}
	}
	return out
}

// reserved returns the keys that are a restore's own.
func reserved(snap map[string]string) []string {
	var out []string
	for k := range snap {
		if _, name, _ := strings.Cut(k, "/"); strings.HasPrefix(name, reservedPrefix) {
			out = append(out, k)
		}
	}
	return out
}

var replace = &restore.Options{Conflict: restore.Replace}
