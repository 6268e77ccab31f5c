// Package scan takes a snapshot of a server key by key, with SCAN and DUMP, for servers that don't let others replicate: most managed services
// refuse PSYNC, but hardly any refuses these.
//
// The snapshot is fuzzy: each key is as it was at some instant, and these instants are spread over the time that the scan took. Every key that exists during the
// whole scan is in it, once; one that is made, deleted or renamed meanwhile may or may not be. A key's value and its expiry belong together: both are
// read in one transaction (MULTI), so that a key that is overwritten meanwhile can't get the expiry of what it was before. What is in the snapshot is one RDB
// stream of the server's own dialect, with the libraries of functions where the server gives them (FUNCTION DUMP). How long a key was not used, or how
// often it was, is not: DUMP doesn't tell, and asking would count as use on some servers. Neither is what modules keep outside of keys, nor
// Dragonfly's flags of keys.
//
// It works with Redis 5 and later, with every Valkey and with Dragonfly. The server's user needs +scan, +dump, +pexpiretime (below Redis 7.0 and where there is no such command
// +pttl and +time), +multi, +exec and +select, for all keys (~*, or %R~*), and should have +info and +mget; for functions it needs +function|dump, without
// which they are missing and the log says so, and for a replica of a cluster +readonly. Without +info the snapshot doesn't tell the server's
// version, a broken connection ends it, and +config|get saves trying which databases there are; without +mget strings cost the server more.
//
// catalog.Scan counts what happened meanwhile. Gone are keys that were listed and not there any more when they were read, by at most a few thousand keys'
// time. As what is gone can't be asked why, Expired is an upper bound: the lesser of Gone and the number of keys that the server says expired
// meanwhile. Changed are keys that had to be read twice, for the connection broke in between, and had another type the second time. Moved are those
// that a cluster's node answered MOVED or ASK for: they were on their way to another node.
//
// Each key costs the server what one DUMP does, which takes memory for the value once more, and the server's only thread for as long as that takes. What is likely a
// string, by what keys with such names were before, is read with MGET instead: that costs the server a half to a fifth, for it neither compresses the value nor makes a
// checksum of it. On the way to us such a string is held by the connection alone, by TLS or the checksums of TCP, and any other value by DUMP's checksum, too. Of Redis 8.6
// and later and of Dragonfly all is read with DUMP, for there a string may have more than its value.
//
// How many keys are asked for at a time follows from how large those before were, so that about 4 MiB of answers are under way. A slow reader makes the
// server asked for less.
package scan

import (
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

// Prefer says which node of a replicated group is scanned.
type Prefer int

// The preferences.
const (
	// PreferExact: the given server, whatever its role.
	PreferExact Prefer = iota
	// PreferReplica: a replica of the given server that is in sync. If there is none that can be used, the given server is scanned, and the reason is
	// logged.
	PreferReplica
)

// Defaults of a Config.
const (
	DefaultConnectTimeout = 10 * time.Second
	DefaultStallTimeout   = 2 * time.Minute
	DefaultBatch          = 1000
)

// maxBatch bounds Config.Batch: a SCAN keeps the server's thread for about a microsecond per key.
const maxBatch = 100_000

// Config says which server to take snapshots of, and how.
type Config struct {
	// Options are those of the client that the host already has; a *redis.Client gives them with Options. Of these the
	// address, Dialer, TLSConfig, DialTimeout, user name, password and credentials providers are used. A Dialer is
	// responsible for TLS, as it is in go-redis. Other nodes of the group are reached with the same options. They are
	// required, and neither changed nor copied. All databases are scanned, whatever Options.DB says.
	Options *redis.Options

	// Prefer says which node is scanned.
	Prefer Prefer

	// KeysPerSecond bounds how many keys are read in a second, on average. 0 means no bound.
	KeysPerSecond int64
	// BytesPerSecond bounds how many bytes of answers are received in a second, on average. 0 means no bound.
	BytesPerSecond int64

	// Batch is how many names one SCAN asks for, and how many keys are asked for at a time at most. More keep a server busy that is far away; fewer keep
	// others on it waiting less. 0 means DefaultBatch.
	Batch int

	// TempDir is where names are held that may have been listed twice, 16 bytes a key more, when there are more than a few hundred thousand keys
	// in a database; empty: the system's.
	TempDir string

	// ConnectTimeout bounds the connecting and, separately, the wait for the answer to each command before the scan. 0
	// means DefaultConnectTimeout. A client's Options have a Dialer with a timeout of its own, Options.DialTimeout.
	ConnectTimeout time.Duration

	// StallTimeout bounds the time that the server may send nothing while it owes an answer, and the time that it may be loading or busy. Time in which the snapshot
	// is not read doesn't count. 0 means DefaultStallTimeout.
	StallTimeout time.Duration

	// Logger is told which node is scanned, that functions are missing, and that a connection broke. Nil discards that.
	Logger *slog.Logger

	// Now tells the time; nil means the system's clock.
	Now func() time.Time
}

// A Snapshotter takes snapshots of one server. It keeps no connection between them and is safe for concurrent use.
type Snapshotter struct {
	cfg    Config
	log    *slog.Logger
	now    clock.Func
	tuning tuning
}

// tuning is what only tests change.
type tuning struct {
	old     bool // acts as with a server that doesn't know PEXPIRETIME
	group   int  // keys in a transaction; 0: as many as is good
	pauses  []time.Duration
	filter  uint // bits of the filter of names; 0: as many as is good
	strings bool // all keys are thought to be strings in the beginning
}

// pauses are waited for before each attempt to connect again. What comes from the server sets them back.
var pauses = []time.Duration{100 * time.Millisecond, 500 * time.Millisecond, 2 * time.Second, 5 * time.Second, 10 * time.Second}

// New returns a Snapshotter. It doesn't connect.
func New(cfg Config) (*Snapshotter, error) {
	switch {
	case cfg.Options == nil:
		return nil, errors.New("scan: Config.Options is required: use the options of a redis.Client, or redis.ParseURL")
	case cfg.Prefer < PreferExact || cfg.Prefer > PreferReplica:
		return nil, fmt.Errorf("scan: Config.Prefer is %d, which is none of the preferences", cfg.Prefer)
	case cfg.KeysPerSecond < 0 || cfg.BytesPerSecond < 0:
		return nil, errors.New("scan: a rate of Config is negative: 0 means no bound")
	case cfg.Batch < 0 || cfg.Batch > maxBatch:
		return nil, fmt.Errorf("scan: Config.Batch is %d: it may be 1 to %d, and 0 means %d", cfg.Batch, maxBatch, DefaultBatch)
	case cfg.ConnectTimeout < 0 || cfg.StallTimeout < 0:
		return nil, errors.New("scan: a timeout of Config is negative")
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = DefaultConnectTimeout
	}
	if cfg.StallTimeout == 0 {
		cfg.StallTimeout = DefaultStallTimeout
	}
	if cfg.Batch == 0 {
		cfg.Batch = DefaultBatch
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Snapshotter{cfg: cfg, log: log, now: clock.Or(cfg.Now), tuning: tuning{pauses: pauses}}, nil
}

// Snapshot connects to the server and finds out what it is, which databases it has, and that the user may do all that a scan takes. The scan itself
// begins when the part is opened. The error is an *backup.SourceError; errors.Is tells what kind.
//
// A connection that breaks during the scan is made again, a few times, as long as the server is the same process or holds the same data by its replication ID. If it breaks
// within a value of more than 256 KiB of which a piece was handed on already, the part is lost: the error then wraps backup.ErrAgain, twice at most.
func (s *Snapshotter) Snapshot(ctx context.Context) (backup.Snapshot, error) {
	n, err := s.choose(ctx)
	if err != nil {
		return nil, err
	}
	if err = s.probe(n); err == nil {
		err = n.Release()
	}
	if err != nil {
		n.Close()
		return nil, err
	}
	src := n.source()
	s.log.Info("the server is scanned", "node", src.Address, "role", src.Role, "engine", src.Engine, "version", src.Version, "dialect", n.dialect.String(),
		"databases", len(n.dbs))
	sn := &snapshot{s: s, node: n, source: src}
	sn.source.Time = s.now()
	return sn, nil
}

// choose connects to the node that is to be scanned.
func (s *Snapshotter) choose(ctx context.Context) (*node, error) {
	given, err := s.open(ctx, replication.Address(s.cfg.Options))
	if err != nil || s.cfg.Prefer == PreferExact || given.Role() != "primary" {
		return given, err
	}
	for _, addr := range given.Replicas() {
		other, err := s.open(ctx, addr)
		if err == nil {
			if err = other.InSync(given.Info, "replica"); err == nil {
				given.Close()
				return other, nil
			}
			other.Close()
		}
		if ctx.Err() != nil {
			given.Close()
			return nil, err
		}
		s.log.Warn("the replica can't be scanned", "node", addr, "error", err)
	}
	return given, nil
}
