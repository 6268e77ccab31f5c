package feed

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

// image is a backup of one RDB file, in memory.
type image struct {
	backup *catalog.Backup
	data   []byte
	// What the server that wrote it held.
	contents  map[string]string
	functions map[string]string
}

func (i *image) Backup() *catalog.Backup { return i.backup }

func (i *image) Open(context.Context, catalog.Part) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(i.data)), nil
}

// take lets a server save and makes a backup of the file.
func take(t *testing.T, s *testserver.Server) *image {
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

func imageOf(t *testing.T, data []byte) *image {
	t.Helper()
	found, err := catalog.Inspect(bytes.NewReader(data), nil)
	if err != nil {
		t.Fatal(err)
	}
	size := int64(len(data))
	b := &catalog.Backup{
		Format: catalog.Format, ID: catalog.NewID(time.Now()), DataStore: "orders", Kind: catalog.KindManual, State: catalog.StateReady,
		Parts: []catalog.Part{{Name: "part-0000.rdb", Dialect: found.Dialect, Compression: "none", Size: size, RawSize: size, Keys: found.Keys}},
		Keys:  found.Keys, Expires: found.Expires, DBs: found.DBs, Functions: found.Functions, Modules: found.Modules,
		RawBytes: size, StoredBytes: size,
	}
	found.Record(b)
	return &image{backup: b, data: data}
}

// campaign lets tests try all pairs of what they vary. Otherwise each of it occurs, with some of the others.
var campaign = os.Getenv("CAMPAIGN") != ""

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
	l := v.(*lasting)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.img == nil {
		l.img = f() // a test that fails in it leaves it to the next
	}
	img, b := *l.img, *l.img.backup
	b.ID = catalog.NewID(time.Now())
	b.Parts, b.DBs, b.Modules = slices.Clone(b.Parts), slices.Clone(b.DBs), slices.Clone(b.Modules)
	img.backup, img.contents, img.functions = &b, maps.Clone(img.contents), maps.Clone(img.functions)
	return &img
}

// sample takes a backup of a new server with keys of every type and a function.
func sample(t *testing.T, version string, keys int) *image {
	t.Helper()
	return madeOnce(fmt.Sprint(version, " ", keys), func() *image {
		s := testserver.Start(t, version)
		c := s.Client(t)
		testserver.Generate(t, c, keys, 1)
		testserver.LoadFunction(t, c, "shop")
		img := take(t, s)
		s.Close()
		return img
	})
}

// fill gives a target data of its own: small keys of every type in two databases. What it loses or keeps of them all is up to the server, so that
// there is no need for more.
func fill(t *testing.T, c *redis.Client) {
	t.Helper()
	for _, db := range []int{0, 9} {
		_, err := c.TxPipelined(t.Context(), func(p redis.Pipeliner) error {
			p.Do(t.Context(), "SELECT", db)
			for i := range 10 {
				name := fmt.Sprint("own:", db, ":", i, ":")
				p.Set(t.Context(), name+"string", i, 0)
				p.RPush(t.Context(), name+"list", i, "a", "")
				p.SAdd(t.Context(), name+"set", i, "a")
				p.HSet(t.Context(), name+"hash", "field", i)
				p.ZAdd(t.Context(), name+"zset", redis.Z{Score: 1.5, Member: i})
				p.XAdd(t.Context(), &redis.XAddArgs{Stream: name + "stream", ID: "1-1", Values: []any{"field", i}})
				p.ExpireAt(t.Context(), name+"string", time.Unix(4102444800, 0))
			}
			p.Do(t.Context(), "SELECT", 0)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// loader makes one for a server; change may be nil.
func loader(t *testing.T, s *testserver.Server, change func(*Config)) *Loader {
	t.Helper()
	cfg := Config{Options: s.Options(), Listen: "127.0.0.1:0", Contact: 30 * time.Second, Grace: 30 * time.Second, Logger: logger(t)}
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
func logger(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func holds(t *testing.T, s *testserver.Server, img *image) {
	t.Helper()
	c := s.Client(t)
	if diff := testserver.Diff(img.contents, testserver.Snapshot(t, c)); diff != "" {
		t.Errorf("%s holds something else than the backup: %s", s.Version, diff)
	}
	if got := testserver.Functions(t, c); !maps.Equal(got, img.functions) {
		t.Errorf("%s has the functions %v, the backup has %v", s.Version, got, img.functions)
	}
}

// state is what a restore may change and has to put back.
func state(t *testing.T, c *redis.Client) map[string]string {
	t.Helper()
	m := map[string]string{}
	for _, name := range []string{setPassword, setUser, setDiskless, setReadOnly} {
		got, err := c.ConfigGet(t.Context(), name).Result()
		if err != nil {
			t.Fatal(err)
		}
		m[name] = got[name]
	}
	info := info(t, c)
	m["role"], m["master_host"], m["master_port"] = info["role"], info["master_host"], info["master_port"]
	return m
}

func info(t *testing.T, c *redis.Client) map[string]string {
	t.Helper()
	text, err := c.Info(t.Context()).Result()
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for line := range strings.Lines(text) {
		if field, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			m[field] = value
		}
	}
	return m
}

func sameState(t *testing.T, before, after map[string]string) {
	t.Helper()
	for name, value := range before {
		if after[name] != value {
			t.Errorf("%s is %q now; before it was %q", name, after[name], value)
		}
	}
}

func set(t *testing.T, c *redis.Client, pairs ...string) {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if err := c.ConfigSet(t.Context(), pairs[i], pairs[i+1]).Err(); err != nil {
			t.Fatalf("CONFIG SET %s: %v", pairs[i], err)
		}
	}
}

// spool lets the target seem too small for its own data and the backup's at once, so that it has to load from its disk.
func spool(t *testing.T, c *redis.Client, img *image) *image {
	t.Helper()
	b := *img.backup
	b.Source.UsedMemory = 256 << 20
	set(t, c, "maxmemory", itoa(b.Source.UsedMemory))
	large := *img
	large.backup = &b
	return &large
}

var replace = &restore.Options{Conflict: restore.Replace}
