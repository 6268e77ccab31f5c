package amber_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup/dragonfly"
	"github.com/amberkv/amber/internal/dflymaster"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/storage/memstore"
)

// flowsWithJournal are two flows of 50 keys each, and 7 commands on top of them.
func flowsWithJournal() (flows []dflymaster.Flow) {
	for shard, commands := range [][][]string{
		{{"SET", "a", "1"}, {"APPEND", "a", "2"}, {"RPUSH", "list", "x", "y"}, {"DEL", "key:0:3"}},
		{{"SADD", "set", "m"}, {"SET", "key:1:1", "new", "PXAT", "4102444800000"}, {"LPOP", "nosuch"}},
	} {
		f := dflymaster.Keys(2, 50)[shard]
		for i, c := range commands {
			f.After = append(f.After, dflymaster.Journal(0, uint64(i+1), c...)...)
		}
		flows = append(flows, f)
	}
	return flows
}

// TestFlowsWithJournal: what a Dragonfly executed while its flows were sent is executed on a Redis and a Valkey, after a backup and on a copy; the method
// that can't is not chosen, and refuses when it is asked for.
func TestFlowsWithJournal(t *testing.T) {
	flows := flowsWithJournal()
	want := map[string]string{"0/a": "", "0/list": "", "0/set": ""}
	for _, version := range []string{"redis-7.0", "valkey-9.1"} {
		master := dflymaster.Start(t, dflymaster.Config{Flows: flows})
		snapshotter, err := dragonfly.New(dragonfly.Config{Options: master.Options()})
		if err != nil {
			t.Fatal(err)
		}
		store := memstore.New(nil)
		service, err := amber.New(amber.Config{Store: store, TempDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		b, err := service.Backup(t.Context(), amber.BackupRequest{DataStore: "orders", Snapshotter: snapshotter})
		if err != nil {
			t.Fatal(err)
		}
		if b.Commands != 7 {
			t.Fatalf("the backup has %d commands", b.Commands)
		}
		restored, copied := testserver.Start(t, version), testserver.Start(t, version)
		_, err = service.Restore(t.Context(), amber.RestoreRequest{Backup: b.ID, To: restored.Options(), Method: amber.MethodFeed, Listen: "127.0.0.1:0"})
		if !errors.Is(err, restore.ErrRefused) || !strings.Contains(err.Error(), "--method command") {
			t.Errorf("feeding it: %v", err)
		}
		rep, err := service.Restore(t.Context(), amber.RestoreRequest{Backup: b.ID, To: restored.Options(), Listen: "127.0.0.1:0", Compare: restore.CompareAll})
		if err != nil {
			t.Fatal(err)
		}
		if rep.Method != "command" || rep.Commands != 7 || rep.Proof.Compared < 90 {
			t.Errorf("the report is %+v", rep)
		}
		if _, err := amber.Copy(t.Context(), amber.CopyRequest{Snapshotter: snapshotter, To: copied.Options()}); err != nil {
			t.Fatal(err)
		}
		one, two := testserver.Snapshot(t, restored.Client(t)), testserver.Snapshot(t, copied.Client(t))
		if diff := testserver.Diff(one, two); diff != "" {
			t.Errorf("the copy differs: %s", diff)
		}
		for key := range want {
			if one[key] == "" {
				t.Errorf("there is no %s", key)
			}
		}
		if len(one) != 102 || one["0/key:0:3"] != "" || !strings.Contains(one["0/a"], "12") || !strings.Contains(one["0/key:1:1"], "new") {
			t.Errorf("it holds %d keys: %q, %q", len(one), one["0/a"], one["0/key:1:1"])
		}
	}
}
