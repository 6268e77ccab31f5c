// Package dragonfly takes a snapshot of a live Dragonfly in the way a Dragonfly replica gets its data: over flows, one connection for each of
// the server's shards, without anything on the server's disk.
//
// The server sends the keys of all shards side by side, and behind them what is written meanwhile, as commands. When it has sent all keys it is asked to
// end all flows at the same instant: that is the snapshot's. So a snapshot of a server that is written to holds keys as they were, and commands on top
// of them, which the manifest counts (catalog.Backup.Commands). It is kept as one of Dragonfly's sets of files (DFS): each flow is the file of a shard, byte
// by byte, and the summary is written here. Dragonfly loads such a set, commands and all.
//
// # What it asks of the server
//
// A server that isn't read holds up all who write to it. So the flows are read at the pace at which they come, whatever the store's: what can't be
// stored yet waits in a little memory, and behind that in files in Config.SpoolDir, up to Config.SpoolLimit. If that doesn't do, the snapshot fails, and
// the server is rid of it at once. A Runner reads four parts at a time by default; flows beyond that wait for their turn in the spool.
//
// A Dragonfly that was asked for flows once keeps a journal of the last writes from then on, until it is restarted: in up to 0.5 % of its maxmemory, as for
// any replica.
//
// # What a snapshot has
//
// All databases, scripts, and definitions of search indexes; no users of ACL, and no configuration. FLUSHALL, FLUSHDB or DFLYCLUSTER
// FLUSHSLOTS while the snapshot is taken make it fail, for no server loads such a stream. Commands that set a time to live for a field from now on (HSETEX, HEXPIRE,
// SADDEX, FIELDEXPIRE) count it from the restore on, if they are among the commands: Dragonfly's journal has them so.
//
// It works with Dragonfly 1.4 and later. The server's user needs +info, +replconf and +dfly. A replica can't be the source: Dragonfly refuses it.
// A node of a Dragonfly cluster gives the slots that it has.
package dragonfly

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/internal/flows"
	"github.com/amberkv/amber/internal/clock"
)

// Defaults of a Config.
const (
	DefaultConnectTimeout = 10 * time.Second
	DefaultStallTimeout   = 2 * time.Minute
	DefaultSpoolLimit     = 16 << 30
)

// Config says which Dragonfly to take snapshots of, and how.
type Config struct {
	// Options are those of the client that the host already has; a *redis.Client gives them with Options. Of these the
	// address, Dialer, TLSConfig, DialTimeout, user name, password and credentials providers are used, for each connection anew.
	// They are required, and neither changed nor copied.
	Options *redis.Options

	// ConnectTimeout bounds the connecting and, separately, the wait for the answer to each command before the data comes. 0
	// means DefaultConnectTimeout. A client's Options have a Dialer with a timeout of its own, Options.DialTimeout.
	ConnectTimeout time.Duration

	// StallTimeout bounds the time that a flow may be silent which has more to send, and the wait for the answers that begin and end the
	// sending. 0 means DefaultStallTimeout.
	StallTimeout time.Duration

	// SpoolDir is the directory of the files in which waits what the store can't take yet. They have no name as soon as they are there, so that
	// a killed process leaves none. It should be a disk of this machine that is faster than the server sends. Empty: the system's directory for
	// temporary files.
	SpoolDir string

	// SpoolLimit is how many bytes may wait there, of all flows of a snapshot. What was read is free again, in pieces of a 256th of the limit or
	// more. 0 means DefaultSpoolLimit.
	SpoolLimit int64

	// Logger is told how far a snapshot is, and what is odd about it. Nil discards that.
	Logger *slog.Logger

	// Now tells the time of the snapshot. Nil: the machine's clock.
	Now func() time.Time
}

// A Snapshotter takes snapshots of one Dragonfly. It keeps no connection between them and is safe for concurrent use.
type Snapshotter struct {
	cfg Config
	log *slog.Logger
	now clock.Func

	memory int64 // that flows may have before they go to the spool; only tests change it
}

// New returns a Snapshotter. It doesn't connect.
func New(cfg Config) (*Snapshotter, error) {
	switch {
	case cfg.Options == nil:
		return nil, errors.New("dragonfly: Config.Options is required: use the options of a redis.Client, or redis.ParseURL")
	case cfg.ConnectTimeout < 0 || cfg.StallTimeout < 0:
		return nil, errors.New("dragonfly: a timeout of Config is negative")
	case cfg.SpoolLimit < 0:
		return nil, fmt.Errorf("dragonfly: Config.SpoolLimit is negative: %d", cfg.SpoolLimit)
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = DefaultConnectTimeout
	}
	if cfg.StallTimeout == 0 {
		cfg.StallTimeout = DefaultStallTimeout
	}
	if cfg.SpoolLimit == 0 {
		cfg.SpoolLimit = DefaultSpoolLimit
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Snapshotter{cfg: cfg, log: log, now: clock.Or(cfg.Now), memory: memoryOfAll}, nil
}

// Snapshot connects and returns when the server has begun to send. The error is a *backup.SourceError; errors.Is tells what kind. Nothing is
// retried: at most one synchronisation is begun.
//
// From then on the flows are read until they end or the snapshot is closed, whether parts of it are read or not.
func (s *Snapshotter) Snapshot(ctx context.Context) (backup.Snapshot, error) {
	sn, err := s.snapshot(ctx)
	if err != nil {
		return nil, err
	}
	return sn, nil
}

func (s *Snapshotter) snapshot(ctx context.Context) (*snapshot, error) {
	start := s.now()
	greeted, err := flows.Greet(ctx, flows.Options{Redis: s.cfg.Options, Connect: s.cfg.ConnectTimeout, Stall: s.cfg.StallTimeout, Now: s.now})
	if err != nil {
		return nil, err
	}
	facts := greeted.Facts
	if facts.InfoError != nil {
		s.log.WarnContext(ctx, "the server doesn't let us see INFO: its version stays unknown, and whether it changed meanwhile", "node", facts.Addr, "error", facts.InfoError)
	}
	if facts.Cluster {
		s.log.WarnContext(ctx, "the server says that it is a node of a cluster: the snapshot has the slots of this node", "node", facts.Addr)
	}
	session, err := greeted.Announce()
	if err != nil {
		return nil, err
	}
	attached, err := session.Attach(ctx)
	if err != nil {
		return nil, err
	}
	sn := newSnapshot(s, facts, session, start)
	syncing, err := attached.Sync(ctx, sn.sinks())
	if err != nil {
		sn.spool.close()
		return nil, sn.advise(err)
	}
	s.log.InfoContext(ctx, "the snapshot is being sent", "node", facts.Addr, "engine", "dragonfly", "version", facts.Version, "flows", session.Shards)
	sn.begin(ctx, syncing)
	return sn, nil
}
