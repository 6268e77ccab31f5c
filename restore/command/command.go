// Package command restores a backup by commands: RESTORE where the target takes the values as they are, plain commands where not.
//
// It is for targets that don't let REPLICAOF be used, as managed services, and for clusters. All that it needs is a user who
// may write.
//
// # How values get there
//
// Which encodings of values the target's RESTORE takes is found by trying: a tiny value of each encoding that the backup may have is
// restored under a name that begins with "amber:probe:", with a short expiry, and removed at once. The Verdict's
// Dialect is the first of the backup's own and all others of which the target takes every encoding of every type in the backup; if there is
// none, the one by which most types go, and the others are made by plain commands: SET, RPUSH, HSET and so on.
//
// Values that are larger than Config.MaxValue are made in pieces by plain commands, whatever their type, so that neither
// side has to hold one in memory as a whole. What takes several commands is made under a temporary name, "amber:tmp:…", and gets
// its own by RENAME, with its expiry, when it is complete: a half-written value is never mistaken for a whole one.
//
// Commands are sent without waiting for the answers, over several connections. Each command is kept until it was answered; when a
// connection breaks it is opened again, and what was not answered is sent once more.
//
// # Clusters
//
// Config.Options name one node; the others are found from it, and dialled with the same options at their own addresses. Keys go to the
// primary that has their slot. Slots that move meanwhile are followed.
//
// # Commands of a backup
//
// A backup may have commands that are to be executed on top of its keys: of a Dragonfly's journal, or of append-only files. They are executed in their
// order: all keys before the first are written over all connections, and from there on everything for a node goes over one of them. Transactions
// are executed command by command, since nobody reads a target before it is done. In a cluster, DEL, UNLINK and MSET of several slots are split; any other command whose keys are in
// several slots ends the restore, and so does a slot that moves meanwhile.
//
// Expiries of keys, and of fields of hashes, are put off while commands are executed, for a later command may have given the key or the field longer to live, and are
// brought back in the end. That takes PEXPIRETIME (Redis 7.0), and HPEXPIRETIME for fields; in a Dragonfly none are put off.
// A field that is to expire after 12 December 3084 expires on that day, which counts as a loss.
//
// Commands can't be executed twice. A connection that breaks is opened again only if all that had no answer comes to the same when it is executed once more, such as
// SET, DEL, HSET and SADD. A restore that ended while commands were executed can't be carried on: it has to replace all data. Nor are commands merged
// with what a target holds: they are a loss then. What the target has to hold in the end nobody knows but for the keys that no command touches: these are compared,
// and keys are not counted.
//
// # What shows that a restore is under way
//
// The key "amber:restoring" of database 0 is there from the first write until all was loaded and counted. It says in JSON which backup is
// being restored and since when. A restore of the same backup over it carries on: what was written already is written again. One of another
// backup is refused, unless it replaces all data. Keys whose names begin with "amber:" as above don't count as data.
package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/replication"
	srv "github.com/amberkv/amber/internal/target"
	"github.com/amberkv/amber/restore"
	"github.com/redis/go-redis/v9"
)

// Config says which target a Loader writes to, and how.
type Config struct {
	// Options are those of a client of the target: address, dialer, TLS and credentials are used. Of a cluster they name one node; the
	// others are dialled with the same options at their own addresses. Required; they aren't changed.
	Options *redis.Options

	// Connections is how many connections write to each node, at most 16; default 2.
	Connections int
	// MaxValue is the largest payload that goes by one RESTORE, in bytes; default 4 MiB, at most 16 MiB. Larger values go in pieces.
	MaxValue int

	// Stall is how long the target may give no sign of life, or answer nothing but that it is busy, loading or without a primary; default
	// 60 s.
	Stall time.Duration
	// Grace is how long cleaning up may take after a failure or cancellation; default 5 s.
	Grace time.Duration

	Logger *slog.Logger // nil: discard
}

// The limits of a Config.
const (
	maxConnections = 16
	maxMaxValue    = 16 << 20
)

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
		return nil, errors.New("command: Config.Options is required")
	}
	if cfg.Connections < 0 || cfg.Connections > maxConnections {
		return nil, fmt.Errorf("command: Config.Connections is %d; it has to be 1 to %d", cfg.Connections, maxConnections)
	}
	if cfg.Connections == 0 {
		cfg.Connections = 2
	}
	if cfg.MaxValue < 0 || cfg.MaxValue > maxMaxValue {
		return nil, fmt.Errorf("command: Config.MaxValue is %d bytes; it has to be at most %d", cfg.MaxValue, maxMaxValue)
	}
	if cfg.MaxValue == 0 {
		cfg.MaxValue = 4 << 20
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		none  time.Duration
	}{{"Stall", &cfg.Stall, time.Minute}, {"Grace", &cfg.Grace, 5 * time.Second}} {
		if *d.value < 0 {
			return nil, fmt.Errorf("command: Config.%s is negative", d.name)
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

// View returns options for a client that looks at the target, such as to compare what it holds with the backup.
func (l *Loader) View() *redis.Options { return l.options("") }

// options returns the options of a node; an empty address means the one that the options name.
func (l *Loader) options(addr string) *redis.Options {
	o := *l.cfg.Options
	if addr != "" && addr != replication.Address(&o) {
		o.Addr, o.Network = addr, "tcp"
	}
	return &o
}

// Check looks at the target and says point by point whether Load can work, and in which dialect it takes the backup. To learn what the
// target takes it writes tiny keys under reserved names and removes them. A target that can't be reached fails the point
// "reachable". The error is that of a target that went away while it was asked, or ctx's.
func (l *Loader) Check(ctx context.Context, need restore.Requirements) (restore.Verdict, error) {
	if need.Memory > 0 {
		l.mu.Lock()
		l.backup, l.memory = need.Backup, need.Memory
		l.mu.Unlock()
	}
	_, verdict, err := l.examine(ctx, need)
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

// examine asks the target and judges the answers. The facts are nil if it couldn't be reached.
func (l *Loader) examine(ctx context.Context, need restore.Requirements) (*facts, restore.Verdict, error) {
	if need.Backup == nil {
		return nil, restore.Verdict{}, errors.New("command: there is no manifest of the backup to look at")
	}
	x := &examiner{Loader: l, need: need, conns: make(map[string]*srv.Conn)}
	defer x.close()
	t, err := x.look(ctx)
	if err == nil {
		return t, judge(t, need, &l.cfg), nil
	}
	x.clean(ctx)
	if ctx.Err() != nil {
		return nil, restore.Verdict{}, ctx.Err()
	}
	if x.reached && !srv.Refused(err) {
		return nil, restore.Verdict{}, fmt.Errorf("asking the target %s: %w", l.target(), err)
	}
	return nil, restore.Verdict{Points: []restore.Point{{Name: "reachable", Level: restore.Fail, Detail: unreachable(err)}}}, nil
}

// target is the target's address, for people.
func (l *Loader) target() string { return replication.Address(l.cfg.Options) }

func unreachable(err error) string {
	switch srv.Code(err) {
	case "WRONGPASS", "NOAUTH":
		return fmt.Sprintf("it doesn't let us in: give the right user name and password (%v)", err)
	case "NOPERM":
		return fmt.Sprintf("it doesn't tell what it is: ACL SETUSER the user +info (%v)", err)
	}
	return fmt.Sprintf("it can't be asked: %v", err)
}

// TakesLive says that a snapshot may come straight from its source: RESTORE refuses what is broken, and does no harm.
func (l *Loader) TakesLive() {}
