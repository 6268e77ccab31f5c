package cluster_test

import (
	"io"
	"testing"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/cluster"
	"github.com/amberkv/amber/backup/replica"
	"github.com/amberkv/amber/backup/snapshottest"
	"github.com/amberkv/amber/internal/testserver"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	c := testserver.StartCluster(t, "redis-8.0", 2, 1, "--requirepass", canary)
	c.Generate(t, 100, 1)
	slow := testserver.StartCluster(t, "redis-7.0", 2, 0, "--requirepass", canary, "--repl-diskless-sync-delay", "60")
	nodes := append(c.Nodes(), slow.Nodes()...)
	check := unharmed(t, nodes)
	by := func(c *testserver.Cluster) func(t *testing.T) backup.Snapshotter {
		return func(t *testing.T) backup.Snapshotter {
			return of(t, c.Nodes()[0].Options(), replica.PreferReplica, nil)
		}
	}
	snapshottest.Run(t, by(c), &snapshottest.Options{
		Secret: canary,
		Check: func(t *testing.T, p backup.Part, r io.Reader) {
			if stats := parse(t, r); stats.Keys < 20 {
				t.Errorf("part %s has %d keys", p.Name, stats.Keys)
			}
		},
		Released: func(*testing.T) { check() },
		Waiting:  by(slow),
		Failing: map[string]func(t *testing.T) backup.Snapshotter{
			"wrong password": func(t *testing.T) backup.Snapshotter {
				o := c.Nodes()[0].Options()
				o.Password = canary + "2"
				return of(t, o, replica.PreferReplica, nil)
			},
			"one that is begun by and by": func(t *testing.T) backup.Snapshotter {
				s := of(t, slow.Nodes()[0].Options(), replica.PreferExact, func(c *cluster.Config) { c.Parallel, c.Node = 1, nodeThatFails })
				return s
			},
		},
	})
}
