package dumpfile_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/restore/dumpfile"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/memstore"
)

// A flow of a Dragonfly has commands among its keys, which its own server executes when it loads the file: dfs-format 2.8.
const flowOfADragonfly = "REDIS0009\xfa\x06df-ver\x0adf-v1.40.0\xfe\x00\x00\x01a\x011\xd2\x01\x12\x06\x00\x0a\x05\x01\x03\x08\x06APPEND\x01a\x012" +
	"\xc8\x00\x00\x00\x00\x00\x00\x00\x00\xd3\x01\x00\x00\x00\x00\x00\x00\x00\xff\x00\x00\x00\x00\x00\x00\x00\x00"

// TestCommandsInFiles: who keeps the very bytes keeps the commands. Of others they are a loss, told by its name.
func TestCommandsInFiles(t *testing.T) {
	flow := flowOfADragonfly
	path := filepath.Join(t.TempDir(), "flow.rdb")
	if err := os.WriteFile(path, []byte(flow), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newShelf(t)
	b := s.keep(t, path)
	if b.Commands != 1 {
		t.Fatalf("the backup has %d commands", b.Commands)
	}
	for name, c := range map[string]struct {
		cfg  dumpfile.Config
		keep bool
	}{
		"verbatim":  {dumpfile.Config{Name: "dump.rdb", Verbatim: true}, true},
		"Redis":     {dumpfile.Config{Name: "dump.rdb", Dialect: rdb.Dialect{Family: rdb.Redis, Version: 10}}, false},
		"Dragonfly": {dumpfile.Config{Name: "dump.rdb"}, false},
		"set":       {dumpfile.Config{Name: "dump", Shards: 2}, false},
	} {
		store := memstore.New(nil)
		c.cfg.Store = store
		l, err := dumpfile.New(c.cfg)
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.restorer.Restore(t.Context(), b.ID, l, nil)
		if c.keep {
			got, readErr := storage.ReadFile(t.Context(), store, "dump.rdb", 1<<20)
			if err != nil || readErr != nil || !bytes.Equal(got, []byte(flow)) {
				t.Errorf("%s: %q, %v, %v", name, got, err, readErr)
			}
			continue
		}
		if !errors.Is(err, restore.ErrNotAccepted) || !strings.Contains(err.Error(), "journal: 1 commands") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
