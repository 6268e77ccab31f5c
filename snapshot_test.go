package amber_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/dumpfile"
	"github.com/amberkv/amber/backup/probe"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/resp"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/storage/filestore"
)

// checked fails the test if what was told, or logged, holds the password.
func checked(t *testing.T, told ...any) {
	t.Helper()
	for _, v := range told {
		text := fmt.Sprintf("%v %+v", v, v)
		if data, err := json.Marshal(v); err == nil {
			text += string(data)
		}
		if strings.Contains(text, canary) {
			t.Errorf("the password is told: %s", strings.ReplaceAll(text, canary, "<PASSWORD>"))
		}
	}
}

// as returns the options of a user with rights.
func as(t *testing.T, s *testserver.Server, rules ...string) *redis.Options {
	t.Helper()
	s.AddUser(t, "app", canary, rules...)
	o := s.Options()
	o.Username, o.Password = "app", canary
	return o
}

const (
	byPSYNC = "PSYNC gives what replicas get, all as of one instant"
	bySCAN  = "SCAN and DUMP read the keys one by one: each is as it was at some instant, all together are of none"
)

// logged is a log that can be looked at.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newLogged returns a Service whose log can be looked at.
func newLogged(t *testing.T, change func(*amber.Config)) (*amber.Service, *logged) {
	t.Helper()
	store, err := filestore.New(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	log := &logged{}
	cfg := amber.Config{Store: store, Logger: slog.New(slog.NewTextHandler(log, nil))}
	if change != nil {
		change(&cfg)
	}
	service, err := amber.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return service, log
}

// The best method that a server allows is taken, and the manifest tells which and why; what is backed up is what the server holds.
func TestMethodIsChosen(t *testing.T) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			s := testserver.Start(t, version)
			testserver.Generate(t, s.Client(t), 300, 3)
			testserver.LoadFunction(t, s.Client(t), "sums")
			want := testserver.Snapshot(t, s.Client(t))
			to := testserver.Start(t, version)
			dir, err := filestore.New(s.Dir, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer dir.Close()
			for name, test := range map[string]struct {
				from    func() *redis.Options
				options amber.SnapshotOptions
				method  string
				reason  string // its beginning, to a star
			}{
				"all is allowed": {s.Options, amber.SnapshotOptions{}, "replica", byPSYNC},
				"no PSYNC, said": {func() *redis.Options { return as(t, s, "~*", "&*", "+@all", "-psync") }, amber.SnapshotOptions{}, "scan",
					bySCAN + "; not by replica: user app may not run PSYNC"},
				"no PSYNC, found out": {func() *redis.Options { return as(t, s, "~*", "&*", "+@all", "-psync", "-acl") }, amber.SnapshotOptions{}, "scan",
					bySCAN + "; replica was refused: PSYNC: NOPERM *"},
				"no PSYNC, files": {func() *redis.Options { return as(t, s, "~*", "&*", "+@all", "-psync") }, amber.SnapshotOptions{Save: &dumpfile.SaveConfig{Store: dir}}, "save",
					"BGSAVE writes files as of one instant, which are read from the place that was given; not by replica: user app may not run PSYNC"},
				"replica is asked for": {s.Options, amber.SnapshotOptions{Method: amber.SnapshotReplica}, "replica", ""},
				"scan is asked for":    {s.Options, amber.SnapshotOptions{Method: amber.SnapshotScan, KeysPerSecond: 1_000_000}, "scan", ""},
				"save is asked for":    {s.Options, amber.SnapshotOptions{Method: amber.SnapshotSave, Save: &dumpfile.SaveConfig{Store: dir}}, "save", ""},
			} {
				service, log := newLogged(t, nil)
				b, err := service.Backup(ctx, amber.BackupRequest{DataStore: "orders", From: test.from(), SnapshotOptions: test.options})
				if err != nil {
					t.Errorf("%s: %v", name, err)
					continue
				}
				checked(t, b, log.String())
				reason, rest := b.Source.Reason, test.reason
				if before, _, star := strings.Cut(rest, "*"); star && strings.HasPrefix(reason, before) {
					rest = reason
				}
				if b.Source.Method != test.method || b.Source.Fuzzy != (test.method == "scan") || (b.Source.Scan != nil) != (test.method == "scan") || reason != rest {
					t.Errorf("%s: source %+v, want method %s, reason %q", name, b.Source, test.method, test.reason)
				}
				if (test.reason != "") != strings.Contains(log.String(), "the method of the snapshot was chosen") {
					t.Errorf("%s: the log is\n%s", name, log)
				}
				if _, err := service.Restore(ctx, amber.RestoreRequest{Backup: b.ID, To: to.Options(), Conflict: restore.Replace, NoSafetyBackup: true}); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				if diff := testserver.Diff(want, testserver.Snapshot(t, to.Client(t))); diff != "" {
					t.Errorf("%s: %s", name, diff)
				}
				if fns := testserver.Functions(t, to.Client(t)); len(fns) != 1 {
					t.Errorf("%s: functions %v", name, fns)
				}
			}
		})
	}
}

// Commands that were renamed, away or to a name that is given.
func TestRenamedPSYNC(t *testing.T) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			for name, test := range map[string]struct {
				args           []string
				options        amber.SnapshotOptions
				method, reason string
			}{
				"PSYNC is gone": {[]string{"--rename-command", "PSYNC", ""}, amber.SnapshotOptions{}, "replica", "the server has no PSYNC but SYNC, which gives the same"},
				"both are gone": {[]string{"--rename-command", "PSYNC", "", "--rename-command", "SYNC", ""}, amber.SnapshotOptions{}, "scan",
					bySCAN + "; not by replica: the server has no PSYNC, as managed services and rename-command make it"},
				"its name is given": {[]string{"--rename-command", "PSYNC", "xyz", "--rename-command", "SYNC", ""}, amber.SnapshotOptions{SyncCommand: "xyz"}, "replica", byPSYNC},
				"a wrong name is given": {[]string{"--rename-command", "PSYNC", "xyz", "--rename-command", "SYNC", ""}, amber.SnapshotOptions{SyncCommand: "set"}, "scan",
					bySCAN + "; not by replica: the command that was given as the renamed PSYNC is another one"},
			} {
				s := testserver.Start(t, version, test.args...)
				testserver.Generate(t, s.Client(t), 50, 3)
				b, err := newService(t).Backup(t.Context(), amber.BackupRequest{DataStore: "orders", From: s.Options(), SnapshotOptions: test.options})
				if err != nil {
					t.Errorf("%s: %v", name, err)
				} else if b.Source.Method != test.method || b.Source.Reason != test.reason {
					t.Errorf("%s: by %s, %q", name, b.Source.Method, b.Source.Reason)
				}
			}
		})
	}
}

// What is asked for is not replaced by anything else, and what can't be taken in any way says all reasons.
func TestMethodIsRefused(t *testing.T) {
	s := testserver.Start(t, "valkey-8.1")
	testserver.Generate(t, s.Client(t), 50, 1)
	for name, test := range map[string]struct {
		rules  []string
		method amber.SnapshotMethod
		kind   error
		want   string
	}{
		"replica":        {[]string{"~*", "+@all", "-psync"}, amber.SnapshotReplica, backup.ErrPermission, "PSYNC: NOPERM "},
		"flows of Redis": {[]string{"~*", "+@all"}, amber.SnapshotFlows, backup.ErrUnsupported, ""},
		"scan":           {[]string{"~*", "+@all", "-dump"}, amber.SnapshotScan, backup.ErrPermission, "DUMP: NOPERM "},
		"some keys": {[]string{"~orders:*", "+@all", "-psync", "-bgsave"}, amber.SnapshotAuto, backup.ErrPermission,
			"choose a method: no method can take a snapshot: replica: user app may not run PSYNC; save: user app may not run BGSAVE; scan: user app may read some keys only: " +
				"allow it: ACL SETUSER app +psync +replconf; or allow it: ACL SETUSER app +bgsave; or allow it all: ACL SETUSER app ~*"},
		"found out": {[]string{"+info"}, amber.SnapshotAuto, backup.ErrPermission, "no method was allowed: snapshot of " + s.Addr + ": REPLCONF: NOPERM "},
	} {
		service, log := newLogged(t, nil)
		from := as(t, s, test.rules...)
		_, err := service.Backup(t.Context(), amber.BackupRequest{DataStore: "orders", From: from, SnapshotOptions: amber.SnapshotOptions{Method: test.method}})
		checked(t, err, log.String())
		if !errors.Is(err, test.kind) || !strings.Contains(fmt.Sprint(err), test.want) {
			t.Errorf("%s: %v, want %v with %q", name, err, test.kind, test.want)
		}
		for b := range service.List(t.Context(), catalog.Query{}) {
			t.Errorf("%s: there is a backup by %s", name, b.Source.Method)
		}
	}
	for want, o := range map[string]amber.SnapshotOptions{
		`amber: BackupRequest: the Method is "psync": it can be "replica", "flows", "save", "scan" or empty`:                          {Method: "psync"},
		"amber: BackupRequest: method save needs Save: it says where the files appear that the server saves":                          {Method: amber.SnapshotSave},
		"amber: BackupRequest: its Parallel is negative: -1":                                                                          {Parallel: -1},
		"amber: BackupRequest: SyncCommands of \"host:1\": the name is empty":                                                         {SyncCommands: map[string]string{"host:1": ""}},
		"amber: BackupRequest: SyncCommand: character 1 of the name, ' ', is not allowed: printable ones of ASCII are, and no spaces": {SyncCommand: " "},
	} {
		if _, err := newService(t).Backup(t.Context(), amber.BackupRequest{DataStore: "orders", From: s.Options(), SnapshotOptions: o}); err == nil || err.Error() != want {
			t.Errorf("%v\nwant %s", err, want)
		}
	}
}

// Nothing else is tried once a server had begun to make a snapshot, whatever it says then.
func TestNothingElseAfterBeginning(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var heard []string
	var group sync.WaitGroup
	group.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				defer conn.Close()
				r := resp.NewReader(conn, nil)
				for {
					args, err := r.ReadCommand()
					if err != nil {
						return
					}
					mu.Lock()
					heard = append(heard, args[0])
					mu.Unlock()
					switch args[0] {
					case "INFO":
						io.WriteString(conn, "$32\r\nredis_version:7.2.4\r\nrole:master\r\n")
					case "PSYNC":
						io.WriteString(conn, "+FULLRESYNC 0123456789abcdef0123456789abcdef01234567 1\r\n-NOPERM no more\r\n")
						return
					default:
						io.WriteString(conn, "+OK\r\n")
					}
				}
			})
		}
	})
	defer group.Wait()
	defer l.Close()
	_, err = newService(t).Backup(t.Context(), amber.BackupRequest{DataStore: "orders", From: &redis.Options{Addr: l.Addr().String()}})
	if !errors.Is(err, backup.ErrBegun) || !errors.Is(err, backup.ErrPermission) {
		t.Errorf("%v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	syncs := 0
	for _, c := range heard {
		if c == "PSYNC" {
			syncs++
		}
		if c == "SCAN" || c == "DUMP" {
			t.Errorf("%s was sent after a synchronisation had begun", c)
		}
	}
	if syncs != 1 {
		t.Errorf("%d synchronisations were begun: %v", syncs, heard)
	}
}

// Copies, backups before a restore, those of policies and those at the end are taken by what the server allows, too.
func TestEveryBackupIsChosen(t *testing.T) {
	ctx := t.Context()
	s := testserver.Start(t, "redis-8.0", "--rename-command", "PSYNC", "", "--rename-command", "SYNC", "")
	testserver.Generate(t, s.Client(t), 100, 3)
	want := testserver.Snapshot(t, s.Client(t))
	to := testserver.Start(t, "redis-8.0", "--rename-command", "REPLICAOF", "", "--rename-command", "PSYNC", "", "--rename-command", "SYNC", "")
	if _, err := amber.Copy(ctx, amber.CopyRequest{From: s.Options(), To: to.Options()}); err != nil {
		t.Fatal(err)
	}
	if diff := testserver.Diff(want, testserver.Snapshot(t, to.Client(t))); diff != "" {
		t.Errorf("copied: %s", diff)
	}
	if _, err := amber.Copy(ctx, amber.CopyRequest{From: s.Options(), To: to.Options(), SnapshotOptions: amber.SnapshotOptions{Method: "replica"}}); !errors.Is(err, backup.ErrUnsupported) {
		t.Errorf("copy by replica: %v", err)
	}
	service, _ := newLogged(t, func(c *amber.Config) {
		c.DataStores = func(context.Context, string) (amber.BackupRequest, error) {
			return amber.BackupRequest{From: s.Options(), SnapshotOptions: amber.SnapshotOptions{Method: amber.SnapshotScan}}, nil
		}
		c.BackupOnShutdown = []amber.BackupRequest{{DataStore: "carts"}}
	})
	b, err := service.Backup(ctx, amber.BackupRequest{DataStore: "orders", From: s.Options()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := service.Restore(ctx, amber.RestoreRequest{Backup: b.ID, To: to.Options(), Conflict: restore.Replace, TargetStore: "other"}); err != nil {
		t.Fatal(err)
	}
	if err := service.Close(ctx); err != nil {
		t.Fatal(err)
	}
	kinds := map[catalog.Kind]string{}
	for b, err := range service.List(ctx, catalog.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		kinds[b.Kind] = b.Source.Method + " " + b.Source.Reason
	}
	chosen := "scan " + bySCAN + "; not by replica: the server has no PSYNC, as managed services and rename-command make it"
	if kinds[catalog.KindManual] != chosen || kinds[catalog.KindSafety] != chosen || kinds[catalog.KindShutdown] != "scan " {
		t.Errorf("backups: %v", kinds)
	}
	_, err = service.Restore(ctx, amber.RestoreRequest{Backup: b.ID, To: to.Options(), Conflict: restore.Replace, Safety: amber.SnapshotOptions{Method: "replica"}})
	if !errors.Is(err, backup.ErrUnsupported) {
		t.Errorf("a backup before by replica: %v", err)
	}
}

func TestCheckSource(t *testing.T) {
	s := testserver.Start(t, "valkey-9.1")
	log := &logged{}
	r, err := amber.CheckSource(t.Context(), amber.SourceRequest{From: as(t, s, "+psync", "+replconf"), Logger: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil || r.Chosen != probe.Replica || r.Reason != byPSYNC {
		t.Errorf("%+v, %v", r, err)
	}
	checked(t, r, log.String())
	for want, q := range map[string]amber.SourceRequest{
		"amber: SourceRequest.From is required":                                                          {},
		`amber: SourceRequest: the Method is "x": it can be "replica", "flows", "save", "scan" or empty`: {From: s.Options(), SnapshotOptions: amber.SnapshotOptions{Method: "x"}},
	} {
		if _, err := amber.CheckSource(t.Context(), q); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
