// Package cluster takes a snapshot of a Redis or Valkey cluster: one part of each shard, taken side by side from whatever takes one node's snapshot, as
// package replica does.
//
// Each part is consistent in itself, as of its own instant. The parts are begun together, so that these are close to each other, and the manifest tells
// how close. No slot is on its way from one shard to another between them: else a key could be in two parts, or in none. So the snapshot waits until the
// cluster is settled before it begins, and looks again when all parts have begun; a slot that moves after that does no harm.
//
// A shard whose node is lost meanwhile is begun again from the node that has its slots then. The others go on untouched.
//
// It works with clusters of Redis 3.0 and later and of every Valkey. The user needs +cluster and +info, and what the snapshot of a node needs.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/internal/retake"
	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/internal/replication"
)

// Defaults of a Config.
const (
	DefaultConnectTimeout = 10 * time.Second
	DefaultSlotWait       = time.Minute
	DefaultFailoverWait   = time.Minute
	DefaultAttempts       = 3
	DefaultPause          = 2 * time.Second
)

// Config says which cluster to take snapshots of, and how.
type Config struct {
	// Options are those of a client of any node. The other nodes are connected to with the same options, at the addresses that the cluster announces to
	// clients; one that announces no host is at the host that was asked. If TLSConfig has a ServerName it has to be in the certificate of every node.
	// They are required and not changed.
	Options *redis.Options

	// Addrs are further nodes, as host:port, that are asked where the one of Options doesn't answer.
	Addrs []string

	// Node makes what takes the snapshot of one shard, given options for its primary; a replica.Snapshotter needs its Config.ClusterNode, and prefers a
	// replica if told so. Its snapshots have one part. It is required.
	Node func(*redis.Options) (backup.Snapshotter, error)

	// Parallel is how many shards are begun at the beginning, together; each of the others is begun when its part is opened. A shard that has begun
	// costs its node memory until it was read, and a node drops it when it is not read for repl-timeout. So it should be as many as are read at a time:
	// the Request.Parallel of a backup.Runner. 0 means backup.DefaultParallel.
	Parallel int

	// SlotWait bounds how long slots that are on their way, and nodes that don't agree who has which slots, are waited for. 0 means DefaultSlotWait.
	SlotWait time.Duration

	// Attempts is how often a shard is begun, at most; with each its node makes a full synchronisation. 0 means DefaultAttempts. Pause is the time
	// before the second of them; it is twice that before the third, and so on. 0 means DefaultPause.
	Attempts int
	Pause    time.Duration

	// FailoverWait bounds how long a shard may be without a primary before it is begun again. 0 means DefaultFailoverWait.
	FailoverWait time.Duration

	// ConnectTimeout bounds the connecting to a node, to ask who has which slots, and each answer. 0 means DefaultConnectTimeout.
	ConnectTimeout time.Duration

	Logger *slog.Logger     // told of what is waited for and begun again; nil: discard
	Now    func() time.Time // nil: the machine's clock
}

// A Snapshotter takes snapshots of one cluster. It keeps no connection between them and is safe for concurrent use.
type Snapshotter struct {
	cfg Config
	log *slog.Logger
	now clock.Func
}

// New returns a Snapshotter. It doesn't connect.
func New(cfg Config) (*Snapshotter, error) {
	switch {
	case cfg.Options == nil:
		return nil, errors.New("cluster: Config.Options is required: use the options of a redis.Client, or redis.ParseURL")
	case cfg.Node == nil:
		return nil, errors.New("cluster: Config.Node is required: it makes what takes the snapshot of one node")
	case cfg.Parallel < 0:
		return nil, fmt.Errorf("cluster: Config.Parallel is negative: %d", cfg.Parallel)
	case cfg.Attempts < 0:
		return nil, fmt.Errorf("cluster: Config.Attempts is negative: %d", cfg.Attempts)
	case cfg.SlotWait < 0 || cfg.FailoverWait < 0 || cfg.ConnectTimeout < 0 || cfg.Pause < 0:
		return nil, errors.New("cluster: a time of Config is negative")
	}
	or := func(d *time.Duration, by time.Duration) {
		if *d == 0 {
			*d = by
		}
	}
	or(&cfg.SlotWait, DefaultSlotWait)
	or(&cfg.FailoverWait, DefaultFailoverWait)
	or(&cfg.ConnectTimeout, DefaultConnectTimeout)
	or(&cfg.Pause, DefaultPause)
	if cfg.Parallel == 0 {
		cfg.Parallel = backup.DefaultParallel
	}
	if cfg.Attempts == 0 {
		cfg.Attempts = DefaultAttempts
	}
	cfg.Addrs = slices.Clone(cfg.Addrs)
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Snapshotter{cfg: cfg, log: log, now: clock.Or(cfg.Now)}, nil
}

// Snapshot waits until no slot is on its way, begins the snapshots of as many shards as Config.Parallel says, and returns when all these have begun.
//
// The error is, or wraps, a *backup.SourceError. A server that is no node of a cluster, and a cluster that has slots without a node, give one that wraps
// backup.ErrUnsupported; slots that stay on their way, and a slot that moved while parts were begun, backup.ErrTransient: the slots and nodes are named.
func (s *Snapshotter) Snapshot(ctx context.Context) (backup.Snapshot, error) {
	start, err := s.settle(ctx)
	if err != nil {
		return nil, err
	}
	sn := &snapshot{s: s, start: start, addr: start.asked, doing: make(map[*context.CancelCauseFunc]struct{})}
	for i, l := range start.shards {
		sh := &shard{layout: l, name: fmt.Sprintf("shard-%04d.rdb", i), id: l.id}
		sh.part = retake.New(retake.Config{
			Find:     func(ctx context.Context) (*redis.Options, error) { return sn.find(ctx, sh) },
			Node:     s.cfg.Node,
			Check:    sh.fresh,
			Begun:    func() { sn.begun(sh) },
			Attempts: s.cfg.Attempts, Pause: s.cfg.Pause, Now: s.now, Log: s.log,
		})
		sn.shards = append(sn.shards, sh)
	}
	group, gctx := errgroup.WithContext(ctx)
	for _, sh := range sn.shards[:min(s.cfg.Parallel, len(sn.shards))] {
		group.Go(func() error { return sh.explain(sh.part.Begin(gctx)) })
	}
	if err = group.Wait(); err == nil {
		err = sn.check(ctx, false)
	}
	if err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		sn.Close() // adds nothing to why it has to be closed
		return nil, err
	}
	return sn, nil
}

// options returns those for a node.
func (s *Snapshotter) options(addr string) *redis.Options {
	o := *s.cfg.Options
	if addr != replication.Address(&o) {
		o.Network = "tcp" // the given node may be reached by a socket of its machine
	}
	o.Addr = addr
	return &o
}
