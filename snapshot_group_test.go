package amber_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/probe"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/dflymaster"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/restore"
)

// The address of a Sentinel stands for the group that it watches, with or without a password of its own.
func TestSentinelIsFollowed(t *testing.T) {
	for _, version := range []string{"redis-7.0", "valkey-9.1"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			primary := testserver.Start(t, version, "--requirepass", canary, "--masterauth", canary)
			testserver.StartReplica(t, version, primary, "--requirepass", canary)
			testserver.Generate(t, primary.Client(t), 200, 5)
			want := testserver.Snapshot(t, primary.Client(t))
			primary.AwaitReplicas(t, 1)
			for name, test := range map[string]struct {
				own     string // the Sentinel's password
				options amber.SnapshotOptions
			}{
				"none":     {"", amber.SnapshotOptions{}},
				"the same": {canary, amber.SnapshotOptions{Group: testserver.SentinelGroup}},
				"its own":  {canary + "-2", amber.SnapshotOptions{SentinelPassword: canary + "-2"}},
			} {
				all := testserver.StartSentinels(t, version, 1, primary, &testserver.SentinelOptions{Password: test.own})
				from := primary.Options()
				from.Addr = all.Nodes[0].Addr
				service, log := newLogged(t, nil)
				b, err := service.Backup(ctx, amber.BackupRequest{DataStore: "orders", From: from, SnapshotOptions: test.options})
				checked(t, b, err, log.String())
				if err != nil {
					t.Errorf("%s: %v", name, err)
					continue
				}
				if src := b.Source; src.Topology != "sentinel" || src.Method != "replica" || src.Reason != byPSYNC || b.Keys != int64(len(want)) {
					t.Errorf("%s: %d keys of %d, source %+v", name, b.Keys, len(want), src)
				}
				if name != "none" {
					continue
				}
				b, err = service.Backup(ctx, amber.BackupRequest{DataStore: "orders", From: from, SnapshotOptions: amber.SnapshotOptions{Method: amber.SnapshotScan}})
				if err != nil || b.Source.Topology != "sentinel" || b.Source.Method != "scan" || !b.Source.Fuzzy || b.Keys != int64(len(want)) {
					t.Errorf("by scan: %+v, %v", b, err)
				}
				_, err = service.Backup(ctx, amber.BackupRequest{DataStore: "orders", From: from, SnapshotOptions: amber.SnapshotOptions{Group: "other"}})
				if !errors.Is(err, backup.ErrUnsupported) || !strings.HasSuffix(err.Error(), "this Sentinel doesn't watch \"other\", but group: say which of these groups it is") {
					t.Errorf("another group: %v", err)
				}
				checked(t, err)
				// A second group: then it has to be said which.
				c := all.Nodes[0].Client(t)
				if err := c.Do(ctx, "SENTINEL", "MONITOR", "carts", primary.Host, primary.Port, 1).Err(); err != nil {
					t.Fatal(err)
				}
				r, err := amber.CheckSource(ctx, amber.SourceRequest{From: from})
				if err != nil || r.Err() == nil || !strings.HasSuffix(r.Err().Error(), "this Sentinel watches several groups: carts, group: say which of them it is") {
					t.Errorf("two groups: %+v, %v", r, err)
				}
				if r, err = amber.CheckSource(ctx, amber.SourceRequest{From: from, SnapshotOptions: amber.SnapshotOptions{Group: "carts"}}); err != nil || r.Chosen != probe.Replica ||
					r.Address != primary.Addr || r.Sentinel != from.Addr || r.Group != "carts" || r.Topology != "sentinel" {
					t.Errorf("one of two groups: %+v, %v", r, err)
				}
			}
		})
	}
}

// Any node of a cluster stands for all of it: by replica, or by scan where that is refused.
func TestClusterIsTaken(t *testing.T) {
	for _, version := range []string{"redis-8.0", "valkey-8.1"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			c := testserver.StartCluster(t, version, 3, 0, "--repl-diskless-sync-delay", "0")
			c.Generate(t, 300, 5)
			want := c.Contents(t)
			for _, s := range c.Nodes() {
				s.AddUser(t, "said", canary, "~*", "&*", "+@all", "-psync")
				s.AddUser(t, "unsaid", canary, "~*", "&*", "+@all", "-psync", "-acl")
			}
			to := testserver.Start(t, version)
			for name, test := range map[string]struct {
				user, method, reason string
			}{
				"all":                 {"", "replica", "PSYNC gives what replicas get, of each shard as of one instant"},
				"no PSYNC, said":      {"said", "scan", bySCAN + "; not by replica: user said may not run PSYNC"},
				"no PSYNC, found out": {"unsaid", "scan", bySCAN + "; replica was refused: PSYNC: NOPERM "},
			} {
				from := c.Nodes()[1].Options()
				if test.user != "" {
					from.Username, from.Password = test.user, canary
				}
				service, log := newLogged(t, nil)
				b, err := service.Backup(ctx, amber.BackupRequest{DataStore: "orders", From: from})
				checked(t, b, err, log.String())
				if err != nil {
					t.Errorf("%s: %v", name, err)
					continue
				}
				if src := b.Source; src.Topology != "cluster" || src.Method != test.method || !strings.HasPrefix(src.Reason, test.reason) || src.Fuzzy != (test.method == "scan") ||
					len(b.Parts) != 3 || b.Parts[0].Shard == nil || len(b.Parts[2].Shard.Slots) != 1 {
					t.Errorf("%s: source %+v, parts %+v", name, src, b.Parts)
				}
				if _, err := service.Restore(ctx, amber.RestoreRequest{Backup: b.ID, To: to.Options(), Conflict: restore.Replace, NoSafetyBackup: true}); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				if diff := testserver.Diff(want, testserver.Snapshot(t, to.Client(t))); diff != "" {
					t.Errorf("%s: %s", name, diff)
				}
			}
		})
	}
}

// A Dragonfly is taken by flows; one that is a replica refuses them, which is said.
func TestDragonflyIsTaken(t *testing.T) {
	ctx := t.Context()
	m := dflymaster.Start(t, dflymaster.Config{Password: canary})
	service, log := newLogged(t, nil)
	b, err := service.Backup(ctx, amber.BackupRequest{DataStore: "orders", From: m.Options()})
	checked(t, b, err, log.String())
	if err != nil || b.Source.Method != "flows" || b.Source.Engine != "dragonfly" || b.Source.Reason != "Dragonfly sends its shards as to a replica, all as of one instant" {
		t.Errorf("%+v, %v", b, err)
	}
	if v := m.Violations(); len(v) > 0 {
		t.Errorf("out of order: %v", v)
	}
	replica := dflymaster.Start(t, dflymaster.Config{Replica: true, Info: []string{"role:replica", "master_host:10.0.0.1", "master_port:6379", "master_link_status:up"}})
	r, err := amber.CheckSource(ctx, amber.SourceRequest{From: replica.Options()})
	if err != nil || r.Chosen != probe.Scan || r.Reason != bySCAN+"; not by flows: a Dragonfly that is a replica sends no flows" {
		t.Errorf("a replica: %+v, %v", r, err)
	}
	for _, method := range []amber.SnapshotMethod{amber.SnapshotFlows, amber.SnapshotReplica} {
		_, err := service.Backup(ctx, amber.BackupRequest{DataStore: "orders", From: replica.Options(), SnapshotOptions: amber.SnapshotOptions{Method: method}})
		if !errors.Is(err, backup.ErrUnsupported) {
			t.Errorf("%s of a replica: %v", method, err)
		}
	}
	// A Redis is no Dragonfly.
	s := testserver.Start(t, "redis-8.0")
	if _, err := service.Backup(ctx, amber.BackupRequest{DataStore: "orders", From: &redis.Options{Addr: s.Addr}, SnapshotOptions: amber.SnapshotOptions{Method: amber.SnapshotFlows}}); !errors.Is(err, backup.ErrUnsupported) {
		t.Errorf("flows of a Redis: %v", err)
	}
	n := 0
	for range service.List(ctx, catalog.Query{}) {
		n++
	}
	if n != 1 {
		t.Errorf("%d backups are listed", n)
	}
}
