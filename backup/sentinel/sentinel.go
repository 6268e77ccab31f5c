// Package sentinel takes a snapshot of a replicated group of Redis or Valkey servers that sentinels watch: it asks them who the primary is, and lets
// something else that takes one node's snapshot, as package replica does, take that. When the snapshot is lost, as in a failover, it asks again and begins
// again.
//
// It works with the sentinels of Redis 2.8 and later and of every Valkey. At a sentinel the user needs +sentinel, at the primary +role or +info beside what
// the snapshot needs.
package sentinel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/internal/retake"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/clock"
)

// Defaults of a Config.
const (
	DefaultConnectTimeout = 5 * time.Second
	DefaultFailoverWait   = time.Minute
	DefaultAttempts       = 3
	DefaultPause          = 2 * time.Second
)

// Config says which group to take snapshots of, and how. FromFailover makes one of the options of a client.
type Config struct {
	// Sentinels are the host:port of sentinels that watch the group. They are asked at the same time; one that can be asked is enough. Required.
	Sentinels []string

	// Group is the name that the sentinels have for the group. Required.
	Group string

	// Options are those of a client of the group's servers, of which the address is not used: TLS, Dialer, user name and password and so on. They are
	// required and not changed.
	Options *redis.Options

	// SentinelUsername and SentinelPassword are for the sentinels themselves, where they want one.
	SentinelUsername string
	SentinelPassword string

	// SentinelTLS is for connections to the sentinels. Nil: they are connected to as the servers are, by TLSConfig and Dialer of Options. SentinelPlain:
	// they speak no TLS though the servers do.
	SentinelTLS   *tls.Config
	SentinelPlain bool

	// Node makes what takes the snapshot, given options for the primary; package replica's prefers a replica of it if told so. Its snapshots have one part.
	// It is required.
	Node func(*redis.Options) (backup.Snapshotter, error)

	// Attempts is how often a snapshot is begun, at most; with each a node makes a full synchronisation. 0 means DefaultAttempts. Pause is the time before
	// the second of them; it is twice that before the third, and so on. 0 means DefaultPause.
	Attempts int
	Pause    time.Duration

	// FailoverWait bounds how long the group may be without a primary. 0 means DefaultFailoverWait.
	FailoverWait time.Duration

	// ConnectTimeout bounds the connecting to a sentinel or to the primary, to ask it, and each answer. 0 means DefaultConnectTimeout.
	ConnectTimeout time.Duration

	Logger *slog.Logger     // told which primary was found and why others weren't; nil: discard
	Now    func() time.Time // nil: the machine's clock
}

// FromFailover returns a Config with all that the options of go-redis's client for such groups tell. Node is left to be set.
func FromFailover(o *redis.FailoverOptions) Config {
	return Config{
		Sentinels: slices.Clone(o.SentinelAddrs), Group: o.MasterName,
		SentinelUsername: o.SentinelUsername, SentinelPassword: o.SentinelPassword,
		Options: &redis.Options{
			Dialer: o.Dialer, TLSConfig: o.TLSConfig, DialTimeout: o.DialTimeout, Username: o.Username, Password: o.Password,
			CredentialsProvider: o.CredentialsProvider, CredentialsProviderContext: o.CredentialsProviderContext,
			StreamingCredentialsProvider: o.StreamingCredentialsProvider,
			ReadTimeout:                  o.ReadTimeout, WriteTimeout: o.WriteTimeout, ContextTimeoutEnabled: o.ContextTimeoutEnabled,
			Protocol: o.Protocol, DB: o.DB, DisableIdentity: o.DisableIdentity, ClientName: o.ClientName,
		},
	}
}

// A Snapshotter takes snapshots of one group. It keeps no connection between them and is safe for concurrent use.
type Snapshotter struct {
	cfg      Config
	sentinel *redis.Options // for the sentinels
	log      *slog.Logger
	now      clock.Func
}

// New returns a Snapshotter. It doesn't connect.
func New(cfg Config) (*Snapshotter, error) {
	switch {
	case len(cfg.Sentinels) == 0:
		return nil, errors.New("sentinel: Config.Sentinels is required: the host:port of each sentinel")
	case cfg.Group == "":
		return nil, errors.New("sentinel: Config.Group is required: the name that the sentinels have for the group")
	case cfg.Options == nil:
		return nil, errors.New("sentinel: Config.Options is required: those of a client of the group's servers")
	case cfg.Node == nil:
		return nil, errors.New("sentinel: Config.Node is required: it makes what takes the snapshot of one node")
	case cfg.SentinelTLS != nil && cfg.SentinelPlain:
		return nil, errors.New("sentinel: Config.SentinelTLS and Config.SentinelPlain exclude each other")
	case cfg.Attempts < 0:
		return nil, fmt.Errorf("sentinel: Config.Attempts is negative: %d", cfg.Attempts)
	case cfg.FailoverWait < 0 || cfg.ConnectTimeout < 0 || cfg.Pause < 0:
		return nil, errors.New("sentinel: a time of Config is negative")
	}
	for _, addr := range cfg.Sentinels {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return nil, fmt.Errorf("sentinel: Config.Sentinels: %q is no host:port", addr)
		}
	}
	or := func(d *time.Duration, by time.Duration) {
		if *d == 0 {
			*d = by
		}
	}
	or(&cfg.FailoverWait, DefaultFailoverWait)
	or(&cfg.ConnectTimeout, DefaultConnectTimeout)
	or(&cfg.Pause, DefaultPause)
	if cfg.Attempts == 0 {
		cfg.Attempts = DefaultAttempts
	}
	cfg.Sentinels = slices.Clone(cfg.Sentinels)
	s := &Snapshotter{cfg: cfg, log: cfg.Logger, now: clock.Or(cfg.Now)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.sentinel = &redis.Options{DialTimeout: cfg.Options.DialTimeout, Username: cfg.SentinelUsername, Password: cfg.SentinelPassword, TLSConfig: cfg.SentinelTLS}
	if cfg.SentinelTLS == nil && !cfg.SentinelPlain {
		s.sentinel.TLSConfig, s.sentinel.Dialer = cfg.Options.TLSConfig, cfg.Options.Dialer
	}
	return s, nil
}

// options returns those for a server of the group.
func (s *Snapshotter) options(addr string) *redis.Options {
	o := *s.cfg.Options
	o.Addr, o.Network = addr, "tcp"
	return &o
}

// Snapshot finds the primary, waits for one if the group is failing over, and returns when the node's snapshot has begun. The error is, or wraps, a
// *backup.SourceError: it wraps backup.ErrUnsupported if no sentinel knows the group, and backup.ErrTransient if none tells a primary that is one.
func (s *Snapshotter) Snapshot(ctx context.Context) (backup.Snapshot, error) {
	sn := &snapshot{s: s}
	again := false
	find := func(ctx context.Context) (*redis.Options, error) {
		o, err := s.find(ctx, again)
		again = true
		return o, err
	}
	sn.part = retake.New(retake.Config{Find: find, Node: s.cfg.Node, Attempts: s.cfg.Attempts, Pause: s.cfg.Pause, Now: s.now, Log: s.log})
	if err := sn.part.Begin(ctx); err != nil {
		sn.part.Close() // adds nothing to why it has to be closed
		return nil, err
	}
	return sn, nil
}

// partName names the only part.
const partName = "part-0000.rdb"

// A snapshot is that of whichever node has the data.
type snapshot struct {
	s    *Snapshotter
	part *retake.Part
}

func (sn *snapshot) Parts() []backup.Part { return []backup.Part{{Name: partName, Size: -1}} }

func (sn *snapshot) Source() catalog.Source {
	src, _ := sn.part.Source()
	src.Topology = "sentinel"
	return src
}

// Shard tells where the part came from if it was begun more than once; else Source tells it.
func (sn *snapshot) Shard(backup.Part) *catalog.Shard {
	src, attempts := sn.part.Source()
	if attempts < 2 {
		return nil
	}
	return &catalog.Shard{Address: src.Address, Role: src.Role, ReplicationID: src.ReplicationID, ReplicationOffset: src.ReplicationOffset, Time: src.Time,
		Attempts: attempts}
}

func (sn *snapshot) Open(ctx context.Context, p backup.Part) (io.ReadCloser, error) {
	if p.Name != partName {
		return nil, sn.s.fail("open", fmt.Errorf("the snapshot has no part %q", p.Name), "")
	}
	if ctx.Err() != nil {
		return nil, sn.s.fail("open", ctx.Err(), "")
	}
	return sn.part.Open(ctx)
}

func (sn *snapshot) Close() error { return sn.part.Close() }

// fail makes an error of the group, which has no address of its own.
func (s *Snapshotter) fail(step string, err error, hint string) error {
	return &backup.SourceError{Addr: "group " + s.cfg.Group, Step: step, Err: err, Hint: hint}
}
