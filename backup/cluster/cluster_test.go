package cluster_test

import (
	"fmt"
	"maps"
	"regexp"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/cluster"
	"github.com/amberkv/amber/backup/replica"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/restore/dumpfile"
	"github.com/amberkv/amber/restore/feed"
	"github.com/amberkv/amber/storage/filestore"
)

// A cluster of three shards with a replica each is backed up under write load, and restored into a cluster of two and into one server.
func TestCluster(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		c := testserver.StartCluster(t, version, 3, 1, "--requirepass", canary)
		c.Generate(t, 300, 1)
		for _, s := range c.Primaries() {
			testserver.LoadFunction(t, s.Client(t), "shop")
		}
		want := c.Contents(t)
		functions := testserver.Functions(t, c.Primaries()[0].Client(t))
		same := unharmed(t, c.Nodes())
		stop := c.WriteLoad(t)
		h := newHouse(t)
		var backups []*catalog.Backup
		for prefer, role := range map[replica.Prefer]string{replica.PreferReplica: "replica", replica.PreferExact: "primary"} {
			begin := time.Now()
			b, err := h.run(t, of(t, c.Nodes()[4].Options(), prefer, nil)) // any node will do, and this is a replica
			if err != nil {
				t.Fatal(err)
			}
			checkManifest(t, b, c, role, begin)
			backups = append(backups, b)
		}
		if stop() < 10 {
			t.Error("there was no write load")
		}
		same()

		one := testserver.Start(t, version)
		h.restore(t, backups[0], one.Options())
		checkContents(t, "one server", want, testserver.Snapshot(t, one.Client(t)), 3)
		if got := testserver.Functions(t, one.Client(t)); !maps.Equal(got, functions) {
			t.Errorf("one server has the functions %q, want %q", got, functions)
		}
		// And by a stream that is joined of the parts: to a server that replicates from us, and into a file.
		fed := testserver.Start(t, version)
		stream, err := feed.New(feed.Config{Options: fed.Options()})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.restorer.Restore(t.Context(), backups[0].ID, stream, nil); err != nil {
			t.Errorf("by feed: %v", err)
		}
		dir := t.TempDir()
		store, err := filestore.New(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		file, err := dumpfile.New(dumpfile.Config{Store: store, Name: "dump.rdb"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.restorer.Restore(t.Context(), backups[0].ID, file, nil); err != nil {
			t.Fatalf("into a file: %v", err)
		}
		for what, s := range map[string]*testserver.Server{"by feed": fed, "from a file": testserver.StartIn(t, version, dir)} {
			checkContents(t, what, want, testserver.Snapshot(t, s.Client(t)), 3)
			if got := testserver.Functions(t, s.Client(t)); !maps.Equal(got, functions) {
				t.Errorf("%s: the functions are %q, want %q", what, got, functions)
			}
		}
		two := testserver.StartCluster(t, version, 2, 0)
		h.restore(t, backups[1], two.Nodes()[0].Options())
		checkContents(t, "two shards", want, two.Contents(t), 3)
		for _, s := range two.Primaries() {
			if got := testserver.Functions(t, s.Client(t)); !maps.Equal(got, functions) {
				t.Errorf("%s has the functions %q, want %q", s.Addr, got, functions)
			}
		}
	}, "redis-7.0", "valkey-9.1")
}

func checkContents(t *testing.T, where string, want, got map[string]string, pairs int) {
	t.Helper()
	n, torn := testserver.LoadTorn(got)
	if n != pairs || len(torn) > 0 {
		t.Errorf("%s: %d pairs of counters, want %d; torn are %v", where, n, pairs, torn)
	}
	// When a consumer was seen is a replica's own clock, for its stream tells nothing of that.
	if diff := testserver.Diff(unseen(want), unseen(got)); diff != "" {
		t.Errorf("%s: %s", where, diff)
	}
}

var seen = regexp.MustCompile(`seen-time="\d+"`)

func unseen(contents map[string]string) map[string]string {
	out := make(map[string]string, len(contents))
	for k, v := range contents {
		out[k] = seen.ReplaceAllString(v, "")
	}
	return out
}

func checkManifest(t *testing.T, b *catalog.Backup, c *testserver.Cluster, role string, begin time.Time) {
	t.Helper()
	src := b.Source
	if src.Topology != "cluster" || src.Method != "replica" || src.Engine == "" || src.Version == "" || src.Role != role || src.UsedMemory == 0 ||
		src.Time.Before(begin) || src.Spread <= 0 || src.Time.Add(src.Spread).After(time.Now()) || src.Fuzzy {
		t.Errorf("source %+v", src)
	}
	next := 0
	for i, p := range b.Parts {
		sh := p.Shard
		primary := c.Primaries()[i]
		id, err := primary.Client(t).ClusterMyID(t.Context()).Result()
		if err != nil {
			t.Fatal(err)
		}
		addr := primary.Addr
		if role == "replica" {
			addr = c.Replicas(primary)[0].Addr
		}
		if sh == nil || sh.ID != id || sh.Address != addr || sh.Role != role || len(sh.ReplicationID) != 40 || sh.ReplicationOffset == 0 || sh.Attempts != 0 ||
			sh.Time.Before(src.Time) || sh.Time.After(src.Time.Add(src.Spread)) || len(sh.Slots) != 1 || sh.Slots[0].First != next {
			t.Errorf("part %d is of %+v", i, sh)
			return
		}
		next = sh.Slots[0].Last + 1
	}
	if len(b.Parts) != len(c.Primaries()) || next != testserver.Slots {
		t.Errorf("%d parts, up to slot %d", len(b.Parts), next)
	}
}

func TestConfig(t *testing.T) {
	for _, test := range []struct {
		change func(*cluster.Config)
		want   string
	}{
		{func(c *cluster.Config) { c.Options = nil }, "cluster: Config.Options is required: use the options of a redis.Client, or redis.ParseURL"},
		{func(c *cluster.Config) { c.Node = nil }, "cluster: Config.Node is required: it makes what takes the snapshot of one node"},
		{func(c *cluster.Config) { c.Parallel = -1 }, "cluster: Config.Parallel is negative: -1"},
		{func(c *cluster.Config) { c.Attempts = -2 }, "cluster: Config.Attempts is negative: -2"},
		{func(c *cluster.Config) { c.SlotWait = -1 }, "cluster: a time of Config is negative"},
	} {
		cfg := cluster.Config{Options: (&testserver.Server{}).Options(), Node: (&driver{}).node}
		test.change(&cfg)
		if _, err := cluster.New(cfg); fmt.Sprint(err) != test.want {
			t.Errorf("%v, want %s", err, test.want)
		}
	}
	if cluster.DefaultAttempts != 3 || backup.DefaultParallel != 4 {
		t.Error("the defaults are not those that are documented")
	}
}
