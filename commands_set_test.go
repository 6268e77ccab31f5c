package amber_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup/dragonfly"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/dflymaster"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/rdb/dfs"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/storage/filestore"
	"github.com/amberkv/amber/storage/memstore"
)

// TestFlowsAsSet: a backup of a live Dragonfly is exported as a set of the flows' very bytes, commands and all; what is read from that set again is the same, and
// executes them. Another set has the keys alone, which somebody has to accept.
func TestFlowsAsSet(t *testing.T) {
	flows := flowsWithJournal()
	key := newKey(t)
	for name, cfg := range map[string]amber.Config{
		"plain": {Compression: "none"}, "sealed": {Recipients: []age.Recipient{key.Recipient()}, Identities: []age.Identity{key}},
	} {
		t.Run(name, func(t *testing.T) {
			master := dflymaster.Start(t, dflymaster.Config{Flows: flows})
			snapshotter, err := dragonfly.New(dragonfly.Config{Options: master.Options()})
			if err != nil {
				t.Fatal(err)
			}
			cfg.Store, cfg.TempDir, cfg.Web = memstore.New(nil), t.TempDir(), loopback
			service, err := amber.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			b, err := service.Backup(t.Context(), amber.BackupRequest{DataStore: "orders", Snapshotter: snapshotter})
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			to, err := filestore.New(dir, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer to.Close()
			rep, err := service.Export(t.Context(), amber.ExportRequest{Backup: b.ID, Key: "dump", Set: true, To: to})
			if err != nil {
				t.Fatal(err)
			}
			var files []string
			for _, f := range rep.Files {
				files = append(files, f.Key)
			}
			if want := []string{"dump-0000.dfs", "dump-0001.dfs", "dump-summary.dfs"}; rep.Commands != 7 || rep.Keys != 100 || len(rep.Losses) > 0 || rep.Bytes != b.RawBytes || !slices.Equal(files, want) {
				t.Errorf("the report is %+v, of %q", rep.Report, files)
			}
			set, err := dfs.Open(os.DirFS(dir), "dump-summary.dfs")
			if err != nil || len(set.Shards) != 2 || !set.Counted {
				t.Fatalf("%+v, %v", set, err)
			}
			for i, f := range flows {
				got, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("dump-000%d.dfs", i)))
				if err != nil || string(got) != string(f.Static)+string(f.After)+string(f.Final) {
					t.Errorf("flow %d is %d bytes, %v", i, len(got), err)
				}
			}

			// Read again, from the files and by URL, which has the summary first.
			web := httptest.NewServer(http.FileServer(http.Dir(dir)))
			defer web.Close()
			for from, q := range map[string]amber.ImportRequest{"files": {Key: "dump-summary.dfs", From: to}, "URL": {URL: web.URL + "/dump-summary.dfs"}} {
				q.DataStore = "again"
				again, err := service.Import(t.Context(), q)
				if err != nil {
					t.Fatal(err)
				}
				if again.Keys != 100 || again.Commands != 7 {
					t.Errorf("%s: %d keys and %d commands are read again", from, again.Keys, again.Commands)
				}
				second := memstore.New(nil)
				copied, err := service.Export(t.Context(), amber.ExportRequest{Backup: again.ID, Key: "dump", Shards: 2, To: second})
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(copied.Files, rep.Files) {
					t.Errorf("%s: the files are %+v, and were %+v", from, copied.Files, rep.Files)
				}
				if from == "files" {
					executes(t, service, again)
				}
			}

			for name, q := range map[string]amber.ExportRequest{
				"more shards": {Shards: 3}, "a selection": {Set: true, Select: restore.Selection{Match: "key:*"}}, "expiries": {Set: true, Expiry: restore.ExpiryDrop}, "a file": {},
			} {
				q.Backup, q.Key, q.To = b.ID, "other", memstore.New(nil)
				_, err := service.Export(t.Context(), q)
				if !errors.Is(err, restore.ErrNotAccepted) {
					t.Errorf("%s: %v", name, err)
				}
				for _, want := range []string{"journal: 7 commands", "--method command", "a set of 2 shards keeps them"} {
					if err == nil || !strings.Contains(err.Error(), want) {
						t.Errorf("%s: %v, want %s", name, err, want)
					}
				}
				q.Accept = []string{"journal"}
				if rep, err := service.Export(t.Context(), q); err != nil || len(rep.Losses) != 1 || rep.Commands != 0 {
					t.Errorf("%s is accepted: %+v, %v", name, rep, err)
				}
			}
		})
	}
}

// executes restores a backup of flowsWithJournal into a Valkey, by command.
func executes(t *testing.T, service *amber.Service, b *catalog.Backup) {
	t.Helper()
	server := testserver.Start(t, "valkey-9.1")
	rep, err := service.Restore(t.Context(), amber.RestoreRequest{Backup: b.ID, To: server.Options(), Method: amber.MethodCommand, Compare: restore.CompareAll})
	if err != nil || rep.Commands != 7 {
		t.Fatalf("%+v, %v", rep, err)
	}
	if got, err := server.Client(t).Get(t.Context(), "a").Result(); err != nil || got != "12" {
		t.Errorf("a is %q, %v", got, err)
	}
}
