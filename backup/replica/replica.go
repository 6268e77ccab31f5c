// Package replica takes a snapshot of a standalone or replicated Redis or Valkey server in the way a replica gets its
// data: over one connection, without anything on the server's disk unless the server is configured so.
//
// The server forks a child that writes the data set as it was at that instant, as an RDB file, into the connection. Until
// the snapshot was read the server keeps that child, so a slow reader costs the server memory for what is written to it
// meanwhile. The commands that follow the snapshot are not asked for (REPLCONF rdb-only), so they don't fill the server's
// output buffer. Where the server has replicas, one of them does this work by default; see Config.Prefer.
//
// It works with Redis 2.8 and later and with every Valkey. The server's user needs the permissions +info, +replconf,
// +psync and, where PSYNC is not to be had, +sync; it needs none for keys. Without +info it works too, but not with
// another node than the given one, and the manifest then doesn't tell the server's version. Where PSYNC has another name that name can
// be given. Servers that refuse it, which many managed services do, Dragonfly and, without
// Config.ClusterNode, nodes of a cluster give an error that wraps backup.ErrUnsupported.
package replica

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/internal/replication"
	"github.com/redis/go-redis/v9"
)

// Prefer says which node of a replicated group sends the snapshot.
type Prefer int

// The preferences. If the preferred node can't be found, reached or used, the given server sends the snapshot, and the
// reason is logged.
const (
	// PreferReplica: a replica of the given server that is in sync, else the given server.
	PreferReplica Prefer = iota
	// PreferPrimary: the primary of the given server, or the given server if it is one.
	PreferPrimary
	// PreferExact: the given server, whatever its role.
	PreferExact
)

// role is that of the node that is preferred; "": any.
func (p Prefer) role() string {
	switch p {
	case PreferReplica:
		return "replica"
	case PreferPrimary:
		return "primary"
	}
	return ""
}

// Defaults of a Config.
const (
	DefaultConnectTimeout = 10 * time.Second
	DefaultStallTimeout   = 2 * time.Minute
)

// Config says which server to take snapshots of, and how.
type Config struct {
	// Options are those of the client that the host already has; a *redis.Client gives them with Options. Of these the
	// address, Dialer, TLSConfig, DialTimeout, user name, password and credentials providers are used. A Dialer is
	// responsible for TLS, as it is in go-redis. Other nodes of the group are reached with the same options. They are
	// required, and neither changed nor copied.
	Options *redis.Options

	// Prefer says which node sends the snapshot.
	Prefer Prefer

	// SyncCommand is the name that PSYNC goes by where rename-command, or a managed service, has given it another one; empty: PSYNC. SyncCommands are
	// the names of single nodes, by their host:port, where they differ, as they do in Amazon's ElastiCache.
	SyncCommand  string
	SyncCommands map[string]string

	// ConnectTimeout bounds the connecting and, separately, the wait for the answer to each command before PSYNC. 0
	// means DefaultConnectTimeout. A client's Options have a Dialer with a timeout of its own, Options.DialTimeout.
	ConnectTimeout time.Duration

	// StallTimeout bounds the time that the server may send nothing at all, no keep-alive either, once it was asked for
	// the snapshot. Time in which the snapshot is not read doesn't count. 0 means DefaultStallTimeout.
	StallTimeout time.Duration

	// ClusterNode allows the server to be a node of a cluster, of which the snapshot has only the slots of its shard then. Package cluster takes all
	// shards in this way.
	ClusterNode bool

	// Now tells the time, for the instant in the manifest. Nil means the machine's clock.
	Now func() time.Time

	// Logger is told which node sends the snapshot, and why another doesn't. Nil discards that.
	Logger *slog.Logger
}

// A Snapshotter takes snapshots of one data store. It keeps no connection between them and is safe for concurrent use,
// though two snapshots at a time make the server fork for both.
type Snapshotter struct {
	cfg    Config
	log    *slog.Logger
	now    clock.Func
	tuning tuning
}

// tuning is what only tests change.
type tuning struct {
	noRDBOnly bool          // acts as with a server that doesn't know REPLCONF rdb-only
	probe     time.Duration // how long silence after the end mark is waited for at a time
}

// New returns a Snapshotter. It doesn't connect.
func New(cfg Config) (*Snapshotter, error) {
	switch {
	case cfg.Options == nil:
		return nil, errors.New("replica: Config.Options is required: use the options of a redis.Client, or redis.ParseURL")
	case cfg.Prefer < PreferReplica || cfg.Prefer > PreferExact:
		return nil, fmt.Errorf("replica: Config.Prefer is %d, which is none of the preferences", cfg.Prefer)
	case cfg.ConnectTimeout < 0 || cfg.StallTimeout < 0:
		return nil, errors.New("replica: a timeout of Config is negative")
	}
	if err := ValidSyncCommand(cfg.SyncCommand); cfg.SyncCommand != "" && err != nil {
		return nil, fmt.Errorf("replica: Config.SyncCommand: %w", err)
	}
	for addr, name := range cfg.SyncCommands {
		if err := ValidSyncCommand(name); err != nil {
			return nil, fmt.Errorf("replica: Config.SyncCommands of %q: %w", addr, err)
		}
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = DefaultConnectTimeout
	}
	if cfg.StallTimeout == 0 {
		cfg.StallTimeout = DefaultStallTimeout
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Snapshotter{cfg: cfg, log: log, now: clock.Or(cfg.Now), tuning: tuning{probe: time.Second}}, nil
}

// maxSyncCommand is the longest name of a command, in bytes.
const maxSyncCommand = 100

// ValidSyncCommand returns nil for what can be the name of a renamed PSYNC: 1 to 100 printable characters of ASCII without spaces.
func ValidSyncCommand(name string) error {
	switch {
	case name == "":
		return errors.New("the name is empty")
	case len(name) > maxSyncCommand:
		return fmt.Errorf("the name has %d characters, the limit is %d", len(name), maxSyncCommand)
	}
	for i, c := range []byte(name) {
		if c <= ' ' || c > '~' {
			return fmt.Errorf("character %d of the name, %q, is not allowed: printable ones of ASCII are, and no spaces", i+1, c)
		}
	}
	return nil
}

// syncCommand is what PSYNC is called by a node.
func (s *Snapshotter) syncCommand(addr string) (name string, renamed bool) {
	if name, ok := s.cfg.SyncCommands[addr]; ok {
		return name, true
	}
	return cmp.Or(s.cfg.SyncCommand, "PSYNC"), s.cfg.SyncCommand != ""
}

// Snapshot connects to the preferred node and returns when the first bytes have come from it: that takes five seconds with
// the default repl-diskless-sync-delay, and as long as the server takes to write a file first if its repl-diskless-sync is
// off. The error is an *backup.SourceError; errors.Is tells what kind. Nothing is retried: at most one full synchronisation is begun.
//
// A snapshot that is closed before its end leaves no replica, but Redis up to 8.0 notices only when its saving child has
// more to send, and a snapshot that is begun before that waits for it.
func (s *Snapshotter) Snapshot(ctx context.Context) (backup.Snapshot, error) {
	given, err := s.open(ctx, replication.Address(s.cfg.Options))
	if err != nil {
		return nil, err
	}
	if others := s.others(given); len(others) > 0 {
		given.Close()
		for _, addr := range others {
			sn, err := s.from(ctx, addr, given)
			if err == nil {
				return sn, nil
			}
			if ctx.Err() != nil || errors.Is(err, backup.ErrBegun) {
				return nil, err
			}
			s.log.Warn("the preferred node can't send the snapshot", "node", addr, "error", err)
		}
		if given, err = s.open(ctx, replication.Address(s.cfg.Options)); err != nil {
			return nil, err
		}
	}
	return s.begin(given)
}

// from takes the snapshot from another node of the group, if that is what the given node says it is.
func (s *Snapshotter) from(ctx context.Context, addr string, given *node) (backup.Snapshot, error) {
	node, err := s.open(ctx, addr)
	if err != nil {
		return nil, err
	}
	if err := node.InSync(given.Info, s.cfg.Prefer.role()); err != nil {
		node.Close()
		return nil, err
	}
	return s.begin(node)
}

// begin makes the server at the other end send a snapshot. The link is the snapshot's, or closed.
func (s *Snapshotter) begin(l *node) (backup.Snapshot, error) {
	sy, err := s.sync(l)
	if err == nil {
		err = l.Release()
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	src := l.source(sy)
	s.log.Info("the snapshot is being sent", "node", src.Address, "role", src.Role, "engine", src.Engine,
		"version", src.Version, "offset", src.ReplicationOffset, "bytes", sy.size)
	return &snapshot{link: l, source: src, sync: sy, stall: s.cfg.StallTimeout, probe: s.tuning.probe}, nil
}
