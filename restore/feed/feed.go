// Package feed restores a backup by letting the target replicate from Amber.
//
// Amber listens, tells the target REPLICAOF, and answers it as a primary would: with the backup's stream as the full
// synchronisation. The target loads it as fast as it loads anything, by its own code, with every type and module that it
// knows, and without touching its disk where that can be had. When it has everything it is told REPLICAOF NO ONE.
//
// # What the target needs
//
// It must reach the listener: there has to be a way back from the target to the machine that Amber runs on. Config.Listen
// and Config.Advertise say where that is; without NAT in between, only Listen's port may need a choice, for a firewall.
// The target must run without cluster mode, not be watched by a Sentinel, and let us use REPLICAOF and INFO. Managed
// services don't; use another loader for them. The rights to CONFIG GET and CONFIG SET make a restore safer and
// quicker, as told below.
//
// # Who gets the data
//
// Only the target. It is given a random password for this one synchronisation (masterauth), which it has to show before
// anything is sent. Where the user may not change settings, the connection has to come from the target's address, tell
// the target's port, and know the target's replication ID. Everybody else who connects is turned away and counted.
//
// # What is changed at the target, and put back
//
// masterauth, masteruser, repl-diskless-load and replica-read-only are changed for the time of the restore and put back
// in every outcome, with nothing written to the configuration file. A target that was a replica is a primary after a restore,
// and a replica again after one that failed before its data was changed. Replicas of the target's own get the new data from it.
//
// If Amber's own process is killed during a restore the target stays as it was at that moment: tell it REPLICAOF NO ONE, and set
// masterauth, masteruser and repl-diskless-load back, or restart it.
//
// # Snapshots in another dialect, clusters and selections
//
// The target gets one stream, in a dialect that it loads: that of the backup, or the newest that the target knows, which the Verdict
// names. A restore.Restorer converts on the way, and joins the parts of a cluster's backup. What a target holds can't stay: the policies that
// merge are refused.
//
// # Dragonfly
//
// A Dragonfly replicates from a Redis, and so from Amber. It lets go of its data as soon as the transfer begins, and says by its
// acknowledgement alone that it has loaded everything. When anything goes wrong it begins anew for ever, with no data; so it gets one
// transfer, the port is closed meanwhile, and it is told REPLICAOF NO ONE in every outcome. It has no functions and no modules, it takes no
// search indexes on this way, and it leaves out keys that expired before they got there, for which the report allows. Where its
// masterauth may not be changed it is known by its address and the port that it tells, for it tells no replication ID.
//
// # How the data is replaced
//
// An empty target parses the stream as it arrives. One that holds data, which Options.Replace allows, does the same
// beside the data it has, which it keeps until all has arrived (repl-diskless-load swapdb), if there is memory for both. Otherwise it
// spools the stream into a file, which then replaces its dump.rdb, lets go of the old data and loads the file. That load
// can't be interrupted, not even by cancelling.
package feed

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/replication"
	"github.com/amberkv/amber/internal/target"
	"github.com/amberkv/amber/restore"
	"github.com/redis/go-redis/v9"
)

// Config says which target a Loader feeds, and how the target finds us.
type Config struct {
	// Options are those of a client of the target: address, dialer, TLS and credentials are used. Required; they aren't changed.
	Options *redis.Options

	// Listen is the address that the target's connection is awaited on, as net.Listen takes it; default ":0", which is any free
	// port on all addresses.
	Listen string
	// Advertise is the "host" or "host:port" that the target is told to connect to. Default: the address from which our own
	// connection to the target goes out, unless Listen names one, and the port that Listen got. It has to be set if there is NAT
	// between the target and us, or if Options has a Dialer that goes through a tunnel.
	Advertise string
	// TLS makes the listener speak TLS, which a target with "tls-replication yes" needs, and only it. The certificate has
	// to be one that the target's CA vouches for.
	TLS *tls.Config

	// Contact is how long the target may take to connect to us; default 10 s.
	Contact time.Duration
	// Stall is how long the target may give no sign of life after that; default 60 s.
	Stall time.Duration
	// Grace is how long bringing the target back into a known state may take after a failure or cancellation, and how long
	// its own replicas are waited for at the end; default 5 s.
	Grace time.Duration

	Logger *slog.Logger // nil: discard
}

// A Loader restores into one target. It is safe for use by several goroutines; of several restores at a time all but one are
// refused.
type Loader struct {
	cfg  Config
	log  *slog.Logger
	busy sync.Mutex // held by Load

	mu     sync.Mutex
	backup *catalog.Backup // that Check was told the memory of, for Load isn't
	memory int64           // that it takes, by an estimate
}

// New returns a Loader. The error says what is wrong with the configuration; nothing is connected to yet.
func New(cfg Config) (*Loader, error) {
	if cfg.Options == nil {
		return nil, errors.New("feed: Config.Options is required")
	}
	if cfg.Listen == "" {
		cfg.Listen = ":0"
	}
	if _, _, err := net.SplitHostPort(cfg.Listen); err != nil {
		return nil, fmt.Errorf("feed: Config.Listen has to be host:port: %w", err)
	}
	if cfg.TLS != nil && len(cfg.TLS.Certificates) == 0 && cfg.TLS.GetCertificate == nil && cfg.TLS.GetConfigForClient == nil {
		return nil, errors.New("feed: Config.TLS has no certificate")
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		none  time.Duration
	}{{"Contact", &cfg.Contact, 10 * time.Second}, {"Stall", &cfg.Stall, time.Minute}, {"Grace", &cfg.Grace, 5 * time.Second}} {
		if *d.value < 0 {
			return nil, fmt.Errorf("feed: Config.%s is negative", d.name)
		}
		if *d.value == 0 {
			*d.value = d.none
		}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Loader{cfg: cfg, log: cfg.Logger}, nil
}

// Check looks at the target and says point by point whether Load can work. It changes nothing there; to learn what it may do it
// sends a REPLICAOF and a CONFIG SET that can't succeed. A target that can't be reached fails the point "reachable". The
// error is that of a target that went away while it was asked, or ctx's.
func (l *Loader) Check(ctx context.Context, need restore.Requirements) (restore.Verdict, error) {
	if need.Memory > 0 {
		l.mu.Lock()
		l.backup, l.memory = need.Backup, need.Memory
		l.mu.Unlock()
	}
	a := target.New(l.cfg.Options, l.cfg.Stall)
	defer a.Close()
	_, verdict, err := l.examine(ctx, a, need)
	return verdict, err
}

// estimate returns what Check was told that a backup takes in memory; 0 if it was told nothing.
func (l *Loader) estimate(b *catalog.Backup) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.backup != b {
		return 0
	}
	return l.memory
}

// examine asks the target and judges the answers. The target is nil if it couldn't be reached.
func (l *Loader) examine(ctx context.Context, a *target.Conn, need restore.Requirements) (*facts, restore.Verdict, error) {
	if need.Backup == nil {
		return nil, restore.Verdict{}, errors.New("feed: there is no manifest of the backup to look at")
	}
	t, err := look(ctx, a, highestDB(need))
	if err == nil {
		t.addr = l.target()
		return t, l.judge(t, need), nil
	}
	if ctx.Err() != nil {
		return nil, restore.Verdict{}, ctx.Err()
	}
	if a.Reached() && !target.Refused(err) {
		return nil, restore.Verdict{}, fmt.Errorf("asking the target %s: %w", l.target(), err)
	}
	return nil, restore.Verdict{Points: []restore.Point{{Name: "reachable", Level: restore.Fail, Detail: unreachable(err)}}}, nil
}

// View returns how the target is reached, for whoever compares it with the backup afterwards. The caller doesn't change it.
func (l *Loader) View() *redis.Options { return l.cfg.Options }

// target is the target's address, for people.
func (l *Loader) target() string { return replication.Address(l.cfg.Options) }
