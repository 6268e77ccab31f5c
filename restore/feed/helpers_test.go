package feed

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
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

// sample takes a backup of a new server with keys of every type and a function.
func sample(t *testing.T, version string, keys int) *image {
	t.Helper()
	s := testserver.Start(t, version)
	c := s.Client(t)
	testserver.Generate(t, c, keys, 1)
	testserver.LoadFunction(t, c, "shop")
	img := take(t, s)
	s.Close()
	return img
}

// loader makes one for a server; change may be nil.
func loader(t *testing.T, s *testserver.Server, change func(*Config)) *Loader {
	t.Helper()
	cfg := Config{Options: s.Options(), Listen: "127.0.0.1:0", Contact: 5 * time.Second, Grace: 5 * time.Second, Logger: logger(t)}
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
