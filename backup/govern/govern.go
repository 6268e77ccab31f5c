// Package govern protects a living server from its backup: it stands in front of another Snapshotter, looks at the server before that is asked
// for anything, watches it while the snapshot is read, and tells in the end what that cost it.
//
// Most ways to take a snapshot make a server fork. It stands still for that, it needs memory for what is written while the child lives, and one
// that has to do this in a bad moment fails, or takes others with it. So before the snapshot there are points, each with a name: whether a fork is
// running already (ForkRunning), memory is short (Memory), the output buffer for replicas would overflow (Buffer), the last BGSAVE failed (LastSave), answers are slow
// (Latency), or the last fork took long (ForkTime). What may pass is waited for, up to Limits.Wait; what doesn't is refused with a *LimitError, before the
// server was asked for a snapshot.
//
// While the snapshot is read the server that sends it is sent a PING five times a second, on a connection of its own. When answers get slower than
// Limits.Latency the snapshot is read slower, and when they stay so it is given up. That needs the permissions +info and +ping, and +config|get for servers before Redis 6.2;
// without them a point stays unknown and is passed over.
package govern

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/backup"
)

// The names of points, as Limits.Ignore takes them and a LimitError has them.
const (
	ForkRunning = "fork-running" // a child saves or rewrites, a replica is being synchronised, or data are being loaded
	Memory      = "memory"       // what is written while the child lives doesn't fit
	Buffer      = "buffer"       // what is written meanwhile doesn't fit into client-output-buffer-limit for replicas
	LastSave    = "last-save"    // the last BGSAVE failed
	Latency     = "latency"      // PING takes longer than Limits.Latency
	ForkTime    = "fork-time"    // a primary's last fork took longer than Limits.Fork
	Budget      = "budget"       // backup.Budget, which a Runner keeps: here it is only a name
)

var names = []string{ForkRunning, Memory, Buffer, LastSave, Latency, ForkTime, Budget}

// Defaults of Limits.
const (
	DefaultWait       = 3 * time.Minute
	DefaultLatencyFor = 30 * time.Second
)

// minRate is the lowest Limits.BytesPerSecond: servers drop a replica that takes no byte for a minute, and sockets hold some of them back.
const minRate = 64 << 10

// Limits say what a source may be put to. The zero value waits for forks that are running, refuses what can't go well, and sets no limit to
// speed, latency or the time of a fork: what is slow differs from network to network.
type Limits struct {
	// Wait bounds how long a snapshot waits for its source to be ready for it. 0: DefaultWait; negative: it doesn't wait.
	Wait time.Duration
	// Latency is that of PING, its 99th percentile over ten seconds, as seen from here: the network's is in it. Above it no snapshot begins, and one that
	// is being read is slowed down, and given up when it stays above for LatencyFor. A fork holds up every answer once, so LatencyFor has to be longer
	// than one takes. 0: no limit.
	Latency time.Duration
	// LatencyFor is how long the latency may stay above its limit. 0: DefaultLatencyFor.
	LatencyFor time.Duration
	// Fork is how long the last fork of a server may have taken, as latest_fork_usec of its INFO says, for a snapshot to be taken of it, if it is a
	// primary. 0: no limit.
	Fork time.Duration
	// BytesPerSecond bounds how fast a snapshot is read, all its parts together; at least 64 KiB. A saving child lives longer then, and so does what it
	// costs the server. It doesn't apply to flows, which have to be taken as they come. 0: no limit.
	BytesPerSecond int64
	// Memory is how much there is for the server and its child, in bytes, where that is less than its INFO says, as in a container. 0: total_system_memory.
	Memory int64
	// Ignore are the names of points that are logged and don't stop a snapshot.
	Ignore []string
}

// Validate returns nil for limits that can be kept, else an error that says which field can't be meant so.
func (l *Limits) Validate() error {
	switch {
	case l.Latency < 0:
		return fmt.Errorf("its Latency is negative: %v", l.Latency)
	case l.LatencyFor < 0:
		return fmt.Errorf("its LatencyFor is negative: %v", l.LatencyFor)
	case l.Fork < 0:
		return fmt.Errorf("its Fork is negative: %v", l.Fork)
	case l.BytesPerSecond != 0 && l.BytesPerSecond < minRate:
		return fmt.Errorf("its BytesPerSecond is %d, it has to be at least %d: servers drop who reads slower", l.BytesPerSecond, minRate)
	case l.Memory < 0:
		return fmt.Errorf("its Memory is negative: %d", l.Memory)
	}
	for _, name := range l.Ignore {
		if !slices.Contains(names, name) {
			return fmt.Errorf("its Ignore has %.40q, which is no point: there are %v", name, names)
		}
	}
	return nil
}

func (l *Limits) ignores(name string) bool { return slices.Contains(l.Ignore, name) }

// ErrLimit is wrapped by every *LimitError.
var ErrLimit = errors.New("the source is spared")

// A LimitError says that a source is spared: its snapshot was refused, or given up. It is in a *backup.SourceError that says where and what to do, and wraps ErrLimit and
// backup.ErrTransient; a refusal wraps backup.ErrSpared as well.
type LimitError struct {
	Name  string // of the point, such as Memory
	Seen  string // in words
	Limit string // in words; may be empty

	refused bool
}

// Error tells what was seen, and the limit.
func (e *LimitError) Error() string {
	text := e.Name + ": " + e.Seen
	if e.Limit != "" {
		text += ", the limit is " + e.Limit
	}
	return text
}

// Unwrap returns the kinds of the error.
func (e *LimitError) Unwrap() []error {
	kinds := []error{ErrLimit, backup.ErrTransient}
	if e.refused {
		kinds = append(kinds, backup.ErrSpared)
	}
	return kinds
}

// Config says what is governed, and how.
type Config struct {
	// Snapshotter takes the snapshots; required.
	Snapshotter backup.Snapshotter
	// Options reach the server, as those of the host's client do; another node that sends the snapshot is reached with them too. Nil: nothing is looked at or
	// watched, and of the Limits only BytesPerSecond applies.
	Options *redis.Options
	// Method is that of the Snapshotter, as catalog.Source has it; empty: not known. "scan" and "flows" make no server fork, "save" fills no output buffer.
	Method string
	// Replica: the Snapshotter prefers a replica of the server. Then one that is in sync is looked at in the server's place.
	Replica bool
	// Several: the server is one of those that a snapshot is taken of, as a cluster's node. A refusal doesn't wrap backup.ErrSpared then, for others may have been
	// asked by now.
	Several bool
	// Limits are what the source may be put to.
	Limits Limits
	// Expected is how long a snapshot takes, as that of the last backup did; 0: it is guessed from the memory in use.
	Expected time.Duration
	// ConnectTimeout bounds the connecting and each answer before the snapshot. 0: ten seconds.
	ConnectTimeout time.Duration
	// Logger is told what is waited for, what is unknown, and what is ignored. Nil discards that.
	Logger *slog.Logger
}

const defaultConnectTimeout = 10 * time.Second

// A Snapshotter governs another one. It keeps no connection between snapshots and is safe for concurrent use if the other one is.
type Snapshotter struct {
	cfg    Config
	log    *slog.Logger
	tuning tuning
}

// tuning is what only tests change.
type tuning struct {
	noRDBOnly bool          // acts as if servers kept what is written meanwhile
	poll      time.Duration // between looks while a snapshot waits
	ping      time.Duration // between PINGs
	window    time.Duration // of the 99th percentile
}

// New returns a Snapshotter. It doesn't connect. The error says which field of the configuration is missing or wrong.
func New(cfg Config) (*Snapshotter, error) {
	switch {
	case cfg.Snapshotter == nil:
		return nil, errors.New("govern: Config.Snapshotter is required")
	case cfg.Expected < 0:
		return nil, fmt.Errorf("govern: Config.Expected is negative: %v", cfg.Expected)
	case cfg.ConnectTimeout < 0:
		return nil, fmt.Errorf("govern: Config.ConnectTimeout is negative: %v", cfg.ConnectTimeout)
	}
	if err := cfg.Limits.Validate(); err != nil {
		return nil, fmt.Errorf("govern: Config.Limits: %w", err)
	}
	if cfg.Limits.Wait == 0 {
		cfg.Limits.Wait = DefaultWait
	}
	if cfg.Limits.LatencyFor == 0 {
		cfg.Limits.LatencyFor = DefaultLatencyFor
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = defaultConnectTimeout
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Snapshotter{cfg: cfg, log: log, tuning: tuning{poll: time.Second, ping: 200 * time.Millisecond, window: 10 * time.Second}}, nil
}

// Snapshot waits until the source is ready for a snapshot and takes it. See Limits for what is waited for and what is refused; the error is a
// *backup.SourceError then, with a *LimitError in it. Errors of the governed Snapshotter are as they are.
func (s *Snapshotter) Snapshot(ctx context.Context) (backup.Snapshot, error) {
	before, err := s.ready(ctx)
	if err != nil {
		return nil, err
	}
	return s.take(ctx, before)
}

// Check looks at the source as Snapshot does before it asks for anything, without waiting, and tells what there is to each point. Limits.Ignore changes nothing in that.
// Without Config.Options there are no points.
func (s *Snapshotter) Check(ctx context.Context) ([]Point, error) {
	if s.cfg.Options == nil {
		return nil, nil
	}
	l, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	f, err := s.look(ctx, l)
	if err != nil {
		return nil, err
	}
	return f.points(), nil
}
