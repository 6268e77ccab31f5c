package scan_test

import (
	"io"
	"maps"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/amberkv/amber/backup/scan"
	"github.com/amberkv/amber/internal/testserver"
)

var seenTime = regexp.MustCompile(`seen-time=\\?"[0-9]+`)

// unseen leaves out when consumers were seen: replicas set that themselves.
func unseen(contents map[string]string) map[string]string {
	out := map[string]string{}
	for name, text := range contents {
		out[name] = seenTime.ReplaceAllString(text, "")
	}
	return out
}

// Each node of a cluster is scanned for its own keys, primaries and replicas alike.
func TestClusterNodes(t *testing.T) {
	for _, version := range []string{"redis-7.0", "valkey-9.1"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			cluster := testserver.StartCluster(t, version, 2, 1)
			cluster.Generate(t, 200, 1)
			want := cluster.Contents(t)
			for what, nodes := range map[string][]*testserver.Server{"primaries": cluster.Nodes()[:2], "replicas": cluster.Nodes()[2:]} {
				got := map[string]string{}
				for _, node := range nodes {
					data, src := take(t, of(t, node, nil))
					if src.Topology != "cluster" || src.Scan.Moved != 0 || src.Role+"s" != map[string]string{"primaries": "primarys", "replicas": "replicas"}[what] {
						t.Errorf("%s: source %+v, %+v", what, src, src.Scan)
					}
					maps.Copy(got, testserver.Snapshot(t, accepted(t, version, data).Client(t)))
				}
				if diff := testserver.Diff(unseen(want), unseen(got)); diff != "" {
					t.Errorf("%s: %s", what, diff)
				}
			}

			// Keys that move away after they were listed are counted, and the others are read.
			from, to := cluster.Primaries()[0], cluster.Primaries()[1]
			c := from.Client(t)
			const count = 600
			for i := range count {
				if err := c.Set(t.Context(), testserver.KeyFor(0, "moving:"+strconv.Itoa(i)+":"), "x", 0).Err(); err != nil {
					t.Fatal(err)
				}
			}
			s := of(t, from, func(c *scan.Config) { c.KeysPerSecond = 500 })
			if version == "valkey-9.1" {
				scan.SetTuning(s, scan.Tuning{Strings: true})
			}
			sn, err := s.Snapshot(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer sn.Close()
			r, err := sn.Open(t.Context(), sn.Parts()[0])
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(300 * time.Millisecond) // some are read by then; how many doesn't matter
			cluster.BeginMove(t, 0, to)
			moved := cluster.MoveKeys(t, 0, count/2)
			data, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			stats, _ := parse(t, read(data))
			src := sn.Source()
			if src.Scan.Moved == 0 || src.Scan.Moved > int64(moved) || src.Scan.Gone != 0 || stats.Keys+src.Scan.Moved != src.Scan.Listed {
				t.Errorf("%d keys, %d moved, counts %+v", stats.Keys, moved, src.Scan)
			}
		})
	}
}

// A replica is scanned where that is preferred, and the given server where there is none that can be.
func TestPreferReplica(t *testing.T) {
	primary := testserver.Start(t, "valkey-8.1")
	testserver.Generate(t, primary.Client(t), 60, 1)
	prefer := func(c *scan.Config) { c.Prefer = scan.PreferReplica }
	if _, src := take(t, of(t, primary, prefer)); src.Address != primary.Addr || src.Topology != "standalone" {
		t.Errorf("without a replica: %+v", src)
	}
	replica := testserver.StartReplica(t, "valkey-8.1", primary)
	var src struct{ addr, role string }
	testserver.Eventually(t, 10*time.Second, "the replica is scanned", func() error {
		data, got := take(t, of(t, primary, prefer))
		src.addr, src.role = got.Address, got.Role
		if stats, _ := parse(t, read(data)); stats.Keys != 60 {
			t.Errorf("there are %d keys", stats.Keys)
		}
		if src.addr != replica.Addr || src.role != "replica" {
			return io.ErrNoProgress
		}
		return nil
	})
	if _, src := take(t, of(t, primary, nil)); src.Address != primary.Addr || src.Role != "primary" || src.Topology != "replicated" {
		t.Errorf("exactly the primary: %+v", src)
	}
}
