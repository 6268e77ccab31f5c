package probe_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/probe"
	"github.com/amberkv/amber/internal/dflymaster"
	"github.com/amberkv/amber/internal/testserver"
)

// canary is the password of every test: it must not be found in any error or report.
const canary = "CANARY-5d1e-secret"

const (
	byPSYNC = "PSYNC gives what replicas get, all as of one instant"
	bySCAN  = "SCAN and DUMP read the keys one by one: each is as it was at some instant, all together are of none"
	byFlows = "Dragonfly sends its shards as to a replica, all as of one instant"
)

// run asks a server, and looks for the password in what comes of it.
func run(t *testing.T, cfg probe.Config) (*probe.Report, error) {
	t.Helper()
	r, err := probe.Run(t.Context(), cfg)
	text := fmt.Sprintf("%v %+v %#v", err, err, err)
	if r != nil {
		data, jerr := json.Marshal(r)
		if jerr != nil {
			t.Fatal(jerr)
		}
		text += string(data) + fmt.Sprintf("%+v %v", r, r.Err())
	}
	if strings.Contains(text, canary) {
		t.Errorf("the password is told: %s", text)
	}
	return r, err
}

// report asks a server that can be asked.
func report(t *testing.T, cfg probe.Config) *probe.Report {
	t.Helper()
	r, err := run(t, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// lines tells what was found about methods, one a line.
func lines(r *probe.Report) string {
	var out strings.Builder
	for _, m := range r.Methods {
		what := "no"
		if m.Usable {
			what = "yes"
		}
		if m.Unsure {
			what = "maybe"
		}
		fmt.Fprintf(&out, "%s %s: %s", m.Name, what, m.Why)
		if m.Advice != "" {
			out.WriteString(" (" + m.Advice + ")")
		}
		out.WriteString("\n")
	}
	return out.String()
}

// points tells what was seen, one a line.
func points(r *probe.Report, names ...string) string {
	var out strings.Builder
	for _, p := range r.Points {
		for _, name := range names {
			if p.Name == name {
				fmt.Fprintf(&out, "%s %s: %s\n", p.Name, p.Level, p.Detail)
			}
		}
	}
	return out.String()
}

const (
	noFlows = "flows no: only a Dragonfly sends flows\n"
	noSave  = "save no: where the server's files appear isn't known (give the directory or bucket that it saves to)\n"
	psync   = "replica yes: " + byPSYNC + "\n"
	scan    = "scan yes: " + bySCAN + "\n"
)

func expect(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n%s\nwant\n%s", what, got, want)
	}
}

// What a server of each kind is said to be, and that asking leaves no trace but that it was asked.
func TestServers(t *testing.T) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			engine, number, _ := strings.Cut(version, "-")
			s := testserver.Start(t, version, "--requirepass", canary)
			c := s.Client(t)
			testserver.Generate(t, c, 50, 1)
			before := testserver.Snapshot(t, c)
			c.ConfigResetStat(t.Context())
			r := report(t, probe.Config{Options: s.Options()})
			stats := c.Info(t.Context(), "commandstats").Val()
			for line := range strings.Lines(stats) {
				name, _, ok := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":")
				if ok && !strings.Contains(" auth info acl|whoami acl|dryrun command|info config|resetstat ", " "+name+" ") {
					t.Errorf("it ran %s", name)
				}
			}
			expect(t, "data", testserver.Diff(before, testserver.Snapshot(t, c)), "")
			if r.Engine != engine || !strings.HasPrefix(r.Version, number) || r.Topology != "standalone" || r.Role != "primary" || r.Address != s.Addr ||
				r.User != "default" || r.Keys != int64(len(before)) || r.UsedMemory == 0 || r.Provider != "" || r.Chosen != probe.Replica || r.Err() != nil {
				t.Errorf("report %+v", r)
			}
			expect(t, "methods", lines(r), noFlows+psync+noSave+scan)
			expect(t, "reason", r.Reason, byPSYNC)
			expect(t, "points", points(r, "reachable", "method"), fmt.Sprintf("reachable pass: %s %s, at %s, primary, standalone\nmethod pass: replica: %s\n", engine, r.Version, s.Addr, byPSYNC))
			if got := r.Usable(); fmt.Sprint(got) != "[replica scan]" {
				t.Errorf("usable: %v", got)
			}

			// With files.
			r = report(t, probe.Config{Options: s.Options(), Files: true})
			expect(t, "with files", lines(r), noFlows+psync+"save yes: BGSAVE writes files as of one instant, which are read from the place that was given\n"+scan)

			// Replicas.
			replica := testserver.StartReplica(t, version, s, "--requirepass", canary)
			testserver.Eventually(t, readyWithin, "the primary counts its replica", func() error {
				if r = report(t, probe.Config{Options: s.Options()}); r.InSync != 1 {
					return fmt.Errorf("%+v", r)
				}
				return nil
			})
			if r.Topology != "replicated" || r.Replicas != 1 {
				t.Errorf("primary: %+v", r)
			}
			expect(t, "primary", points(r, "replicas"), "replicas pass: 1 of 1 in sync\n")
			r = report(t, probe.Config{Options: replica.Options()})
			if r.Topology != "replicated" || r.Role != "replica" || r.Primary != s.Addr || r.Chosen != probe.Replica {
				t.Errorf("replica: %+v", r)
			}
			expect(t, "replica", points(r, "link"), "link pass: its link to its primary, "+s.Addr+", is up\n")
			s.Kill()
			testserver.Eventually(t, readyWithin, "the replica notices", func() error {
				if r = report(t, probe.Config{Options: replica.Options(), Files: true}); r.Method(probe.Scan).Usable {
					return errors.New(lines(r))
				}
				return nil
			})
			down := "no: the replica's link to its primary is down, or it is synchronising (try again when it is up, or give the primary's address, " + s.Addr + ")\n"
			expect(t, "a replica without a primary", lines(r), noFlows+"replica maybe: "+byPSYNC+"\nsave "+down+"scan "+down)
		})
	}
}

// Rights are told where the user may ask for them.
func TestRights(t *testing.T) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			s := testserver.Start(t, version)
			for name, test := range map[string]struct {
				rules  []string
				want   string
				reason string
			}{
				"everything but PSYNC": {[]string{"~*", "+@all", "-psync"},
					noFlows + "replica no: user app may not run PSYNC (allow it: ACL SETUSER app +psync +replconf)\n" + noSave + scan,
					bySCAN + "; not by replica: user app may not run PSYNC"},
				"no replication": {[]string{"~*", "+@all", "-psync", "-sync", "-replconf", "-bgsave"},
					noFlows + "replica no: user app may not run PSYNC and REPLCONF (allow it: ACL SETUSER app +psync +replconf)\n" +
						"save no: user app may not run BGSAVE (allow it: ACL SETUSER app +bgsave)\n" + scan,
					bySCAN + "; not by replica: user app may not run PSYNC and REPLCONF; not by save: user app may not run BGSAVE"},
				"only what replicas need": {[]string{"+info", "+psync", "+replconf", "+acl|whoami", "+acl|dryrun", "+command|info"},
					noFlows + psync + "save no: user app may not run BGSAVE (allow it: ACL SETUSER app +bgsave)\n" +
						"scan no: user app may not run SCAN, DUMP, MULTI, EXEC, PEXPIRETIME and SELECT (allow it: ACL SETUSER app +scan +dump +multi +exec +pexpiretime +select ~*)\n", byPSYNC},
				"some keys": {[]string{"~orders:*", "+@all", "-psync"},
					noFlows + "replica no: user app may not run PSYNC (allow it: ACL SETUSER app +psync +replconf)\n" + noSave +
						"scan no: user app may read some keys only (allow it all: ACL SETUSER app ~*)\n", ""},
				"may not ask for rights": {[]string{"~*", "+@all", "-psync", "-acl|dryrun"},
					noFlows + "replica maybe: " + byPSYNC + "\n" + noSave + "scan maybe: " + bySCAN + "\n", byPSYNC},
				"may ask nothing": {[]string{"+psync", "+replconf"},
					"flows no: the server doesn't let us see whether it is a Dragonfly\nreplica maybe: " + byPSYNC + "\n" + noSave + "scan maybe: " + bySCAN + "\n", byPSYNC},
			} {
				s.AddUser(t, "app", canary, test.rules...)
				opts := s.Options()
				opts.Username, opts.Password = "app", canary
				r := report(t, probe.Config{Options: opts})
				expect(t, name, lines(r), test.want)
				expect(t, name+": reason", r.Reason, test.reason)
				if name == "some keys" {
					want := "snapshot of " + s.Addr + ": choose a method: no method can take a snapshot: replica: user app may not run PSYNC; " +
						"save: where the server's files appear isn't known; scan: user app may read some keys only: allow it: ACL SETUSER app +psync +replconf; " +
						"or give the directory or bucket that it saves to; or allow it all: ACL SETUSER app ~*"
					if err := r.Err(); !errors.Is(err, backup.ErrPermission) || err.Error() != want {
						t.Errorf("%s: %v\nwant %s", name, err, want)
					}
				}
			}
		})
	}
}

// Commands that were renamed.
func TestRenamed(t *testing.T) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			for name, test := range map[string]struct {
				args    []string
				renamed string
				want    string
			}{
				"no PSYNC": {[]string{"--rename-command", "PSYNC", ""}, "", "replica yes: the server has no PSYNC but SYNC, which gives the same\n"},
				"no PSYNC and no SYNC": {[]string{"--rename-command", "PSYNC", "", "--rename-command", "SYNC", ""}, "",
					"replica no: the server has no PSYNC, as managed services and rename-command make it (give its new name if it was renamed, or use the service's own export)\n"},
				"renamed":        {[]string{"--rename-command", "PSYNC", "xyz"}, "xyz", psync},
				"another name":   {[]string{"--rename-command", "PSYNC", "xyz"}, "abc", "replica no: the server doesn't know the command that was given as its renamed PSYNC (check the name, which may differ from node to node)\n"},
				"no such":        {nil, "SET", "replica no: the command that was given as the renamed PSYNC is another one (check the name, which may differ from node to node)\n"},
				"not a renaming": {nil, "psync", psync},
			} {
				s := testserver.Start(t, version, test.args...)
				r := report(t, probe.Config{Options: s.Options(), SyncCommand: test.renamed})
				expect(t, name, lines(r), noFlows+test.want+noSave+scan)
				if test.renamed == "xyz" {
					r = report(t, probe.Config{Options: s.Options(), SyncCommand: "else", SyncCommands: map[string]string{s.Addr: "xyz"}})
					expect(t, name+", by its address", lines(r), noFlows+test.want+noSave+scan)
				}
			}
		})
	}
}

// What managed services refuse, as their documents say, made by the rights of a user; and the signs that they are known by.
func TestProviders(t *testing.T) {
	s := testserver.Start(t, "valkey-8.1")
	for name, test := range map[string]struct {
		host     string
		rules    []string
		provider string
		want     string
	}{
		"ElastiCache": {"orders.x1y2z3.0001.euw1.cache.amazonaws.com", []string{"~*", "+@all", "-psync", "-sync", "-replconf", "-replicaof", "-bgsave", "-save", "-config", "-debug", "-acl"},
			"Amazon ElastiCache", "replica no: Amazon ElastiCache lets nobody replicate (its support gives a renamed PSYNC for each node, which can be given, and a snapshot can be exported to S3 and imported)\n" +
				"save no: Amazon ElastiCache lets nobody save, and nobody have the files\nscan maybe: " + bySCAN + "\n"},
		"ElastiCache Serverless": {"orders-x1y2z3.serverless.euw1.cache.amazonaws.com", []string{"~*", "+@all", "-psync", "-sync", "-bgsave", "-config", "-acl"},
			"Amazon ElastiCache Serverless", "replica no: Amazon ElastiCache Serverless lets nobody replicate (export a snapshot of the cache to S3 and import that)\n" +
				"save no: Amazon ElastiCache Serverless lets nobody save, and nobody have the files\nscan maybe: " + bySCAN + "\n"},
		"MemoryDB": {"clustercfg.orders.x1y2z3.memorydb.eu-west-1.amazonaws.com", []string{"~*", "+@all", "-psync", "-sync", "-bgsave", "-config", "-acl"},
			"Amazon MemoryDB", "replica no: Amazon MemoryDB lets nobody replicate (export a snapshot to S3 and import that)\n" +
				"save no: Amazon MemoryDB lets nobody save, and nobody have the files\nscan maybe: " + bySCAN + "\n"},
		"Memorystore": {"10.11.12.13", []string{"~*", "+@all", "-psync", "-sync", "-replicaof", "-bgsave", "-save", "-config"},
			"", "replica no: user app may not run PSYNC (allow it: ACL SETUSER app +psync +replconf)\nsave no: user app may not run BGSAVE (allow it: ACL SETUSER app +bgsave)\n" + scan},
		"Azure": {"orders.redis.cache.windows.net", []string{"~*", "+@all", "-psync", "-sync", "-replconf", "-bgsave", "-config", "-acl"},
			"Azure Cache for Redis", "replica no: Azure Cache for Redis lets nobody replicate (its Premium and Enterprise tiers export to a storage account, from which it can be imported)\n" +
				"save no: Azure Cache for Redis lets nobody save, and nobody have the files\nscan maybe: " + bySCAN + "\n"},
		"Redis Cloud": {"redis-12345.c1.eu-west-1-2.ec2.redns.redis-cloud.com", []string{"~*", "+@all", "-psync", "-sync", "-bgsave", "-config", "-acl"},
			"Redis Cloud", "replica no: Redis Cloud lets nobody replicate (let it back up to a bucket and import that)\nsave no: Redis Cloud lets nobody save, and nobody have the files\nscan maybe: " + bySCAN + "\n"},
		"Upstash": {"eu1-nice-fox-12345.upstash.io", []string{"~*", "+@all", "-psync", "-sync", "-bgsave", "-config", "-acl", "-command"},
			"Upstash", "replica no: Upstash lets nobody replicate (its console makes backups of its own)\nsave no: Upstash lets nobody save, and nobody have the files\nscan maybe: " + bySCAN + "\n"},
		// What the server itself says is believed before its name.
		"a name like a service's": {"orders.redis.cache.windows.net", []string{"~*", "+@all"}, "Azure Cache for Redis", psync + noSave + scan},
	} {
		s.AddUser(t, "app", canary, test.rules...)
		opts := &redis.Options{Addr: test.host + ":6379", Username: "app", Password: canary, Dialer: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, s.Addr)
		}}
		r := report(t, probe.Config{Options: opts})
		if r.Provider != test.provider {
			t.Errorf("%s: provider %q", name, r.Provider)
		}
		want := test.want
		if name == "a name like a service's" {
			want = strings.Replace(want, noSave, "save no: where the server's files appear isn't known (give the directory or bucket that it saves to)\n", 1)
		}
		expect(t, name, lines(r), noFlows+want)
		if test.provider == "Amazon ElastiCache" {
			r = report(t, probe.Config{Options: opts, SyncCommand: "psync"})
			if m := r.Method(probe.Replica); !m.Usable || !m.Unsure {
				t.Errorf("ElastiCache with a renamed PSYNC: %+v", m)
			}
			expect(t, name, points(r, "provider"), "provider pass: it is Amazon ElastiCache: its support gives a renamed PSYNC for each node, which can be given, and a snapshot can be exported to S3 and imported\n")
		}
	}
}

func TestCluster(t *testing.T) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			c := testserver.StartCluster(t, version, 2, 0)
			s := c.Primaries()[1]
			r := report(t, probe.Config{Options: s.Options(), Files: true})
			if r.Topology != "cluster" || r.Shards != 2 || r.Role != "primary" || r.Chosen != probe.Replica {
				t.Errorf("report %+v", r)
			}
			expect(t, "methods", lines(r), noFlows+"replica yes: PSYNC gives what replicas get, of each shard as of one instant\nsave no: nodes of a cluster each write files of their own\n"+scan)
			expect(t, "points", points(r, "cluster"), "cluster pass: shards: 2\n")
			for name, test := range map[string]struct {
				rules []string
				want  string
			}{
				"no PSYNC": {[]string{"~*", "+@all", "-psync"},
					noFlows + "replica no: user app may not run PSYNC (allow it: ACL SETUSER app +psync +replconf)\nsave no: nodes of a cluster each write files of their own\n" + scan},
				"no CLUSTER": {[]string{"~*", "+@all", "-cluster"}, strings.Repeat("- no: the user may not ask who has the cluster's slots (allow it CLUSTER: ACL SETUSER app +cluster)\n", 4)},
			} {
				s.AddUser(t, "app", canary, test.rules...)
				opts := s.Options()
				opts.Username, opts.Password = "app", canary
				r := report(t, probe.Config{Options: opts})
				for _, m := range r.Methods {
					test.want = strings.Replace(test.want, "- no", m.Name+" no", 1)
				}
				expect(t, name, lines(r), test.want)
				if name == "no CLUSTER" {
					want := "snapshot of " + s.Addr + ": choose a method: no method can take a snapshot: replica, save, scan: the user may not ask who has the cluster's slots: allow it CLUSTER: ACL SETUSER app +cluster"
					if err := r.Err(); !errors.Is(err, backup.ErrPermission) || err.Error() != want {
						t.Errorf("%s: %v", name, err)
					}
				}
			}
		})
	}
}

func TestDragonfly(t *testing.T) {
	for name, test := range map[string]struct {
		cfg    dflymaster.Config
		want   string
		reason string
	}{
		"primary": {dflymaster.Config{}, "flows maybe: " + byFlows + "\nreplica no: Dragonfly has no PSYNC\n" + noSave + "scan maybe: " + bySCAN + "\n", byFlows},
		"replica": {dflymaster.Config{Replica: true, Info: []string{"role:replica", "master_host:10.0.0.1", "master_port:6379", "master_link_status:up"}},
			"flows no: a Dragonfly that is a replica sends no flows (give the address of its primary, 10.0.0.1:6379)\nreplica no: Dragonfly has no PSYNC\n" + noSave +
				"scan maybe: " + bySCAN + "\n", bySCAN + "; not by flows: a Dragonfly that is a replica sends no flows"},
		"loading": {dflymaster.Config{Info: []string{"loading:1"}}, strings.Repeat("- no: the server is loading its data (try again when it is done)\n", 4), ""},
		"cloud": {dflymaster.Config{}, "flows maybe: " + byFlows + "\nreplica no: Dragonfly has no PSYNC\n" +
			"save no: Dragonfly Cloud lets nobody save, and nobody have the files\nscan maybe: " + bySCAN + "\n", byFlows},
	} {
		test.cfg.Password = canary
		m := dflymaster.Start(t, test.cfg)
		opts := m.Options()
		if name == "cloud" {
			opts.Addr, opts.Dialer = "x1.dragonflydb.cloud:6385", func(ctx context.Context, network, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, m.Addr())
			}
		}
		r := report(t, probe.Config{Options: opts})
		for _, m := range r.Methods {
			test.want = strings.Replace(test.want, "- no", m.Name+" no", 1)
		}
		expect(t, name, lines(r), test.want)
		expect(t, name+": reason", r.Reason, test.reason)
		if r.Engine != "dragonfly" || r.Version == "" {
			t.Errorf("%s: %+v", name, r)
		}
		if n := m.Sessions(); n != 0 {
			t.Errorf("%s: %d sessions were opened", name, n)
		}
		if v := m.Violations(); len(v) > 0 {
			t.Errorf("%s: %v", name, v)
		}
		if name == "loading" && !errors.Is(r.Err(), backup.ErrTransient) {
			t.Errorf("%s: %v", name, r.Err())
		}
	}
}

// A Sentinel's group is found, by its only name or the one that is given.
func TestSentinel(t *testing.T) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			s := testserver.Start(t, version, "--requirepass", canary, "--masterauth", canary)
			all := testserver.StartSentinels(t, version, 1, s, nil)
			from := s.Options()
			from.Addr = all.Nodes[0].Addr
			r := report(t, probe.Config{Options: from})
			if r.Topology != "sentinel" || r.Sentinel != from.Addr || r.Address != s.Addr || r.Group != testserver.SentinelGroup || !r.SentinelApart || r.Chosen != probe.Replica {
				t.Errorf("report %+v", r)
			}
			expect(t, "methods", lines(r), noFlows+psync+noSave+scan)
			expect(t, "points", points(r, "sentinel"), "sentinel pass: the Sentinel at "+from.Addr+" watches group, whose primary is at "+s.Addr+"\n")
			r = report(t, probe.Config{Options: from, Group: "none"})
			want := "snapshot of " + from.Addr + `: choose a method: no method can take a snapshot: replica, save, scan: this Sentinel doesn't watch "none", but group: say which of these groups it is`
			if err := r.Err(); !errors.Is(err, backup.ErrUnsupported) || err.Error() != want {
				t.Errorf("%v\nwant %s", err, want)
			}
			expect(t, "points", points(r, "sentinel"), "sentinel fail: this Sentinel doesn't watch \"none\", but group\n")
			wrong := s.Options()
			wrong.Addr, wrong.Password = from.Addr, canary+"x"
			if _, err := run(t, probe.Config{Options: wrong}); !errors.Is(err, backup.ErrAuth) {
				t.Errorf("a wrong password of the servers: %v", err)
			}
			s.Kill()
			var e *backup.SourceError
			if _, err := run(t, probe.Config{Options: from}); !errors.As(err, &e) || e.Addr != s.Addr || !strings.Contains(e.Hint, "the Sentinel says that the primary is there") {
				t.Errorf("a primary that is down: %v", err)
			}
		})
	}
}
