package dumpfile_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/dumpfile"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/storecatalog"
	"github.com/amberkv/amber/internal/crc64"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/filestore"
	"github.com/amberkv/amber/storage/memstore"
)

const (
	testdata = "../../rdb/testdata/"
	setDir   = "../../rdb/dfs/testdata/dragonfly-1.40/"
	setName  = "dump-2026-08-22T11:55:03"
)

func read(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func put(t testing.TB, s storage.Store, key string, data []byte) {
	t.Helper()
	if err := storage.WriteFile(t.Context(), s, key, data, nil); err != nil {
		t.Fatal(err)
	}
}

// putSet puts Dragonfly's set of two shards under a name.
func putSet(t testing.TB, s storage.Store, name string) {
	t.Helper()
	for _, end := range []string{"-0000.dfs", "-0001.dfs", "-summary.dfs"} {
		put(t, s, name+end, read(t, setDir+"mini"+end))
	}
}

// shard makes a file of a set of facts and a key, with bytes behind its end as Dragonfly leaves them.
func shard(key string, facts ...string) []byte {
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
	return append(b, 255, 0, 0, 0, 0, 0, 0, 0, 0, 'p', 'a', 'd')
}

// rdbOf makes an RDB file of one key, with a checksum or without.
func rdbOf(value []byte, checksum bool) []byte {
	b := []byte("REDIS0010\xfa\x09redis-ver\x057.2.4\xfe\x00\x00\x03key\x80")
	b = append(b, byte(len(value)>>24), byte(len(value)>>16), byte(len(value)>>8), byte(len(value)))
	b = append(append(b, value...), 255)
	sum := uint64(0)
	if checksum {
		sum = crc64.Checksum(b)
	}
	for i := range 8 {
		b = append(b, byte(sum>>(8*i)))
	}
	return b
}

func openDir(t testing.TB, dir string) *filestore.Store {
	t.Helper()
	s, err := filestore.New(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func newSnapshotter(t testing.TB, s storage.Store, name string, adopt bool) *dumpfile.Snapshotter {
	t.Helper()
	sr, err := dumpfile.New(dumpfile.Config{Store: s, Name: name, Adopt: adopt})
	if err != nil {
		t.Fatal(err)
	}
	return sr
}

// house is what makes and proves backups, over one store.
type house struct {
	storage.Store
	*storecatalog.Catalog
	runner   *backup.Runner
	restorer *restore.Restorer
}

func newHouse(t testing.TB, s storage.Store) *house {
	t.Helper()
	h := &house{Store: s}
	var err error
	if h.Catalog, err = storecatalog.New(storecatalog.Config{Store: s}); err != nil {
		t.Fatal(err)
	}
	if h.runner, err = backup.NewRunner(backup.Config{Store: s, Catalog: h.Catalog, Leaser: h.Catalog}); err != nil {
		t.Fatal(err)
	}
	if h.restorer, err = restore.New(restore.Config{Store: s, Catalog: h.Catalog}); err != nil {
		t.Fatal(err)
	}
	return h
}

// keep makes a backup and proves it.
func (h *house) keep(t testing.TB, sr backup.Snapshotter) (*catalog.Backup, error) {
	t.Helper()
	b, err := h.runner.Run(t.Context(), backup.Request{DataStore: "orders", Kind: catalog.KindImport, Snapshotter: sr})
	if err != nil {
		return nil, err
	}
	if _, err := h.restorer.Verify(t.Context(), b.ID, nil); err != nil {
		t.Errorf("%s does not verify: %v", b.ID, err)
	}
	return b, nil
}

// a store that stalls gives so many bytes of an object, and then an error, or nothing until its reader's context ends.
type stalled struct {
	storage.Store
	after int64
	end   error
}

func (s *stalled) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	r, err := s.Store.Open(ctx, key, off, n)
	if err != nil {
		return nil, err
	}
	return &stalledReader{r, ctx, s.after, s.end}, nil
}

type stalledReader struct {
	io.ReadCloser
	ctx  context.Context
	left int64
	end  error
}

func (r *stalledReader) Read(p []byte) (int, error) {
	if r.left == 0 && r.end != nil {
		return 0, r.end
	}
	if r.left == 0 {
		select {
		case <-r.ctx.Done():
			return 0, r.ctx.Err()
		case <-time.After(20 * time.Second):
			return 0, errors.New("it stalled for too long")
		}
	}
	n, err := r.ReadCloser.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	return n, err
}

// between is a store in which something happens when an object was read so far.
type between struct {
	storage.Store
	key string
	at  int64

	mu sync.Mutex // parts are read side by side
	do func()
}

func (b *between) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	r, err := b.Store.Open(ctx, key, off, n)
	if err != nil || key != b.key {
		return r, err
	}
	return &betweenReader{ReadCloser: r, b: b}, nil
}

type betweenReader struct {
	io.ReadCloser
	b *between
	n int64
}

func (r *betweenReader) Read(p []byte) (int, error) {
	if r.n >= r.b.at {
		r.b.mu.Lock()
		do := r.b.do
		r.b.do = nil
		r.b.mu.Unlock()
		if do != nil {
			do()
		}
	}
	n, err := r.ReadCloser.Read(p[:min(len(p), 4096)])
	r.n += int64(n)
	return n, err
}

func memory() *memstore.Store { return memstore.New(nil) }

func glob(t testing.TB, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil || len(names) == 0 {
		t.Fatalf("%s: %d files, %v", pattern, len(names), err)
	}
	return names
}
