package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/cluster"
	"github.com/amberkv/amber/backup/replica"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/storecatalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/storage/filestore"
)

// shards is the size of the cluster that is measured.
const shards = 3

// cluster compares a backup of a whole cluster with one of its largest shard alone, both by a Runner in this process.
func (b *bench) cluster(ctx context.Context, _ *source) error {
	nodes, err := b.launchCluster(ctx)
	defer func() {
		for _, s := range nodes {
			s.Close()
		}
	}()
	if err != nil {
		return err
	}
	start := time.Now()
	for i, s := range nodes {
		keys := b.keys / shards
		if i == 0 {
			keys += keys / 10 // one is the largest
		}
		if err := fillTagged(ctx, s.Addr, keys, testserver.KeyFor(i*testserver.Slots/shards, "")); err != nil {
			return fmt.Errorf("filling shard %d: %w", i, err)
		}
	}
	b.say("a cluster of %d shards with %d keys loaded in %.1f s", shards, b.keys, time.Since(start).Seconds())

	node := func(o *redis.Options) (backup.Snapshotter, error) {
		return replica.New(replica.Config{Options: o, Prefer: replica.PreferExact, ClusterNode: true})
	}
	whole, err := cluster.New(cluster.Config{Options: nodes[0].Options(), Node: node})
	if err != nil {
		return err
	}
	one, err := node(nodes[0].Options())
	if err != nil {
		return err
	}
	if err := b.compareCluster(ctx, "", whole, one); err != nil {
		return err
	}
	// Three shards are three times the work, for which the machine may have too few cores. Where a server is waited for instead, as over a network, cores
	// don't matter: a negative delay makes the saving child sleep for a moment at every so many keys.
	for _, s := range nodes {
		c := redis.NewClient(s.Options())
		err := c.ConfigSet(ctx, "rdb-key-save-delay", "-5").Err()
		if err = errors.Join(err, c.Close()); err != nil {
			return err
		}
	}
	return b.compareCluster(ctx, ", whose servers take their time", whole, one)
}

// compareCluster measures backups of all shards and of the largest by turns.
func (b *bench) compareCluster(ctx context.Context, what string, whole, one backup.Snapshotter) (err error) {
	c := comparison{name: fmt.Sprintf("backup of a cluster of %d shards%s into a directory", shards, what), amber: "all shards", peer: "the largest alone", wanted: "≤ 1.30"}
	var all, largest, last *catalog.Backup
	for i := range b.runs {
		var a, p time.Duration
		if all, a, err = b.backUp(ctx, whole); err != nil {
			return err
		}
		if largest, p, err = b.backUp(ctx, one); err != nil {
			return err
		}
		last = all
		c.pairs = append(c.pairs, [2]time.Duration{a, p})
		b.say("cluster %d: %.2f s, its largest shard %.2f s", i+1, a.Seconds(), p.Seconds())
	}
	b.table(c)
	fmt.Fprintf(b.out, "All shards hold %.1f MB, the largest %.1f MB. The instants of the last backup's shards are %.1f ms apart.\n\n",
		float64(all.RawBytes)/1e6, float64(largest.RawBytes)/1e6, float64(last.Source.Spread)/1e6)
	return nil
}

// backUp makes a backup in a new directory, which is removed, and returns its manifest and how long it took.
func (b *bench) backUp(ctx context.Context, s backup.Snapshotter) (_ *catalog.Backup, _ time.Duration, err error) {
	dir, err := os.MkdirTemp(b.dir, "store-")
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	store, err := filestore.New(dir, nil)
	if err != nil {
		return nil, 0, err
	}
	c, err := storecatalog.New(storecatalog.Config{Store: store})
	if err != nil {
		return nil, 0, err
	}
	runner, err := backup.NewRunner(backup.Config{Store: store, Catalog: c, Leaser: c})
	if err != nil {
		return nil, 0, err
	}
	start := time.Now()
	made, err := runner.Run(ctx, backup.Request{DataStore: "bench", Snapshotter: s})
	return made, time.Since(start), err
}

// launchCluster starts primaries without replicas and makes a cluster of them. What was started is returned beside an error, too.
func (b *bench) launchCluster(ctx context.Context) (nodes []*testserver.Server, err error) {
	var clients []*redis.Client
	for i := range shards {
		s, err := b.launch("--cluster-enabled", "yes", "--cluster-node-timeout", "60000")
		if err != nil {
			return nodes, err
		}
		nodes = append(nodes, s)
		c := redis.NewClient(s.Options())
		defer c.Close()
		clients = append(clients, c)
		if err := c.Do(ctx, "CLUSTER", "SET-CONFIG-EPOCH", i+1).Err(); err != nil {
			return nodes, err
		}
		if err := c.ClusterAddSlotsRange(ctx, i*testserver.Slots/shards, (i+1)*testserver.Slots/shards-1).Err(); err != nil {
			return nodes, err
		}
		bus, err := c.ConfigGet(ctx, "cluster-port").Result()
		if err != nil {
			return nodes, err
		}
		if i > 0 {
			if err := clients[0].Do(ctx, "CLUSTER", "MEET", s.Host, strconv.Itoa(s.Port), bus["cluster-port"]).Err(); err != nil {
				return nodes, err
			}
		}
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		up := 0
		for _, c := range clients {
			info, err := c.ClusterInfo(ctx).Result()
			if err != nil {
				return nodes, err
			}
			if strings.Contains(info, "cluster_state:ok") && strings.Contains(info, fmt.Sprint("cluster_known_nodes:", shards)) {
				up++
			}
		}
		switch {
		case up == shards:
			return nodes, nil
		case time.Now().After(deadline):
			return nodes, errors.New("the nodes are no cluster after a minute")
		}
	}
}
