// Package probe finds out how a snapshot of a data store can be taken: it asks a server what it is and what it lets us do, and says of each method
// whether it can be used, why not, and which one is to be taken.
//
// It asks without doing harm: no synchronisation and no save is begun, nothing is written, and no session is opened. What it asks are INFO, COMMAND
// INFO, ACL WHOAMI and ACL DRYRUN, CLUSTER INFO and CLUSTER SLOTS of a cluster's node, and SENTINEL MASTERS of a Sentinel. A server that refuses a
// question is not held to allow less for it: what can't be known before it is tried is said to be unsure. Questions that a user may not ask show in
// the server's ACL LOG.
package probe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/internal/link"
	"github.com/amberkv/amber/internal/replication"
)

// DefaultTimeout is how long connecting may take, and each answer.
const DefaultTimeout = 10 * time.Second

// Config says what to ask. Only Options is required.
type Config struct {
	// Options are those of the client that the host already has, of which the address, Dialer, TLSConfig, user name, password and credentials providers
	// are used. The address is that of a server, of any node of a cluster, or of a Sentinel. Other servers are reached with the same options. A Sentinel that wants
	// no password, or another one than its servers, is asked without.
	Options *redis.Options
	// Group is which of a Sentinel's groups is meant; empty: the only one.
	Group string
	// SentinelUsername and SentinelPassword are for a Sentinel that has a password of its own. Empty: those of Options, or none.
	SentinelUsername, SentinelPassword string
	// SyncCommand is what PSYNC was renamed to, SyncCommands what it was on single nodes, by their host:port; see replica.Config.
	SyncCommand  string
	SyncCommands map[string]string
	// Files says that the place is known where files appear that the server saves: then method save can be used.
	Files bool
	// Timeout is how long connecting may take, and each answer; 0: DefaultTimeout.
	Timeout time.Duration
	// Logger is told what can't be asked. Nil: nothing is logged.
	Logger *slog.Logger
}

// The methods, in the order in which they are preferred. Each but Scan gives the data as of one instant, a cluster's of one for each shard.
const (
	Flows   = "flows"   // Dragonfly sends its shards as to a replica of its own kind
	Replica = "replica" // PSYNC, as replicas of Redis and Valkey get their data
	Save    = "save"    // the server saves files, which are read from where they appear
	Scan    = "scan"    // SCAN and DUMP, key by key
)

// A Level says how a point came out.
type Level string

// The levels of a point.
const (
	Pass Level = "pass"
	Warn Level = "warn" // a backup can be made, but not without what Detail tells
	Fail Level = "fail"
)

// A Point is one thing that was looked at.
type Point struct {
	Name   string `json:"name"` // such as "reachable", "replicas", "provider"
	Level  Level  `json:"level"`
	Detail string `json:"detail"` // what was found and, unless it passed, what to do
}

// A Method says whether one way to take a snapshot can be used.
type Method struct {
	Name   string `json:"name"`
	Usable bool   `json:"usable"`
	// Unsure: nothing speaks against it, but whether the server allows it shows only when it is tried.
	Unsure bool   `json:"unsure,omitempty"`
	Why    string `json:"why"`              // what it gives, or why it can't be used
	Advice string `json:"advice,omitempty"` // what to do for it to be usable; may be empty

	foreign bool  // it is for servers of another kind
	unasked bool  // nobody wants it
	kind    error // backup.ErrPermission and so on: why it can't be used
}

// A Report says what a server is and how a snapshot of it can be taken. It never holds a secret.
type Report struct {
	Address  string   `json:"address"`            // host:port of the server that was asked; of a Sentinel's group its primary
	Sentinel string   `json:"sentinel,omitempty"` // host:port of the Sentinel that was given
	Groups   []string `json:"groups,omitempty"`   // that it watches
	// SentinelApart: the Sentinel wants other credentials than its servers, or none.
	SentinelApart bool   `json:"sentinelApart,omitempty"`
	Group         string `json:"group,omitempty"`  // which of them it is
	Engine        string `json:"engine,omitempty"` // "redis", "valkey", "dragonfly"; empty: unknown
	Version       string `json:"version,omitempty"`
	Topology      string `json:"topology,omitempty"` // "standalone", "replicated", "sentinel" or "cluster"; empty: unknown
	Role          string `json:"role,omitempty"`     // of the server that was asked: "primary" or "replica"
	Primary       string `json:"primary,omitempty"`  // host:port, if it is a replica
	Replicas      int    `json:"replicas,omitempty"` // how many the server has
	InSync        int    `json:"inSync,omitempty"`   // how many of these are in sync
	Shards        int    `json:"shards,omitempty"`   // of a cluster: how many primaries have slots
	Provider      string `json:"provider,omitempty"` // the managed service that it is a part of
	User          string `json:"user,omitempty"`     // as the server knows us

	Keys        int64         `json:"keys,omitempty"` // in all databases
	UsedMemory  int64         `json:"usedMemory,omitempty"`
	MaxMemory   int64         `json:"maxMemory,omitempty"`
	LastFork    time.Duration `json:"lastFork,omitempty"`    // how long the server stood still for the last fork, in nanoseconds
	CopyOnWrite int64         `json:"copyOnWrite,omitempty"` // memory that the last save took for what was written meanwhile, in bytes

	Points  []Point  `json:"points"`
	Methods []Method `json:"methods"`          // all of them, in the order in which they are preferred
	Chosen  string   `json:"chosen,omitempty"` // the name of the one to take; empty: none can be used
	Reason  string   `json:"reason,omitempty"` // why it was chosen, and why none that is better
}

func (r *Report) add(level Level, name, format string, args ...any) {
	r.Points = append(r.Points, Point{name, level, fmt.Sprintf(format, args...)})
}

// Method returns what was found about a method; the zero Method for a name that is none.
func (r *Report) Method(name string) Method {
	i := slices.IndexFunc(r.Methods, func(m Method) bool { return m.Name == name })
	if i < 0 {
		return Method{}
	}
	return r.Methods[i]
}

// Usable returns the names of the methods that can be used, the best first.
func (r *Report) Usable() []string {
	var names []string
	for _, m := range r.Methods {
		if m.Usable {
			names = append(names, m.Name)
		}
	}
	return names
}

// ReasonFor says why a snapshot is taken by a method: what that gives, and why it is none of those that are better.
func (r *Report) ReasonFor(name string) string {
	text := r.Method(name).Why
	for _, m := range r.Methods {
		switch {
		case m.Name == name:
			return text
		case !m.foreign && !m.unasked && !m.Usable:
			text += "; not by " + m.Name + ": " + m.Why
		}
	}
	return text
}

// Err returns nil if there is a method that can be used. Else it is a *backup.SourceError with all reasons, which wraps backup.ErrTransient if there is
// one that is only to be waited for, backup.ErrPermission if there is one that only rights are missing for, and backup.ErrUnsupported otherwise.
func (r *Report) Err() error {
	if r.Chosen != "" {
		return nil
	}
	kind := backup.ErrUnsupported
	var why, advice []string
	for _, m := range r.Methods {
		if m.foreign {
			continue
		}
		if text := m.Name + ": " + m.Why; len(why) == 0 || !strings.HasSuffix(why[len(why)-1], ": "+m.Why) {
			why = append(why, text)
		} else {
			why[len(why)-1] = strings.Replace(why[len(why)-1], ": ", ", "+m.Name+": ", 1) // for the same reason
		}
		if m.Advice != "" && !slices.Contains(advice, m.Advice) {
			advice = append(advice, m.Advice)
		}
		if m.kind == backup.ErrTransient || m.kind == backup.ErrPermission && kind == backup.ErrUnsupported {
			kind = m.kind
		}
	}
	text := "no method can take a snapshot: " + strings.Join(why, "; ")
	return &backup.SourceError{Addr: cmp.Or(r.Address, r.Sentinel), Step: "choose a method", Err: link.As(kind, errors.New(text)), Hint: strings.Join(advice, "; or ")}
}

// Run asks the server, and says what it found. An error is one of the connection or of credentials, a *backup.SourceError: what the server is doesn't
// make one, see Report.Err. It returns within a second of ctx's end.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	switch {
	case cfg.Options == nil:
		return nil, errors.New("probe: Config.Options is required: use the options of a redis.Client, or redis.ParseURL")
	case cfg.Timeout < 0:
		return nil, errors.New("probe: Config.Timeout is negative")
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	p := &prober{cfg: cfg, report: &Report{}}
	if err := p.run(ctx); err != nil {
		return nil, err
	}
	p.judge()
	return p.report, nil
}

// prober is one call of Run.
type prober struct {
	cfg    Config
	report *Report
	facts  facts
}

// run asks all that there is to ask.
func (p *prober) run(ctx context.Context) error {
	conn, err := p.open(ctx, p.cfg.Options, "")
	var asSentinel bool
	if errors.Is(err, backup.ErrAuth) {
		// A Sentinel seldom has the password of what it watches. A server that isn't one tells nobody more than that.
		if conn, asSentinel = p.openSentinel(ctx); asSentinel {
			err = nil
		}
	}
	if err != nil {
		return err
	}
	if !isSentinel(conn) {
		err = p.ask(conn)
		conn.Close()
		return err
	}
	p.report.SentinelApart = asSentinel
	addr, err := p.askSentinel(conn)
	conn.Close()
	if err != nil || addr == "" {
		return err
	}
	if conn, err = p.open(ctx, p.cfg.Options, addr); err != nil {
		var e *backup.SourceError
		if errors.As(err, &e) && e.Step == "connect" {
			e.Hint = strings.Join(append(filled(e.Hint), "the Sentinel says that the primary is there"), "; ")
		}
		return err
	}
	defer conn.Close()
	return p.ask(conn)
}

// open connects to a server and gets its INFO.
func (p *prober) open(ctx context.Context, o *redis.Options, addr string) (*link.Conn, error) {
	conn, err := link.Open(ctx, link.Options{Redis: o, Addr: addr, Timeout: p.cfg.Timeout, Advice: advice})
	if err != nil {
		return nil, err
	}
	seen, why, err := conn.AskInfo()
	if err != nil {
		err = conn.Fail("INFO", err)
		conn.Close()
		return nil, err
	}
	p.facts = facts{seen: seen}
	if !seen {
		p.cfg.Logger.Info("the server doesn't let us see INFO", "node", conn.Addr, "error", why)
	}
	return conn, nil
}

// openSentinel connects to the given address as to a Sentinel, which has credentials of its own or none, and says whether it is one.
func (p *prober) openSentinel(ctx context.Context) (*link.Conn, bool) {
	o := p.cfg.Options
	bare := &redis.Options{Network: o.Network, Addr: replication.Address(o), Dialer: o.Dialer, TLSConfig: o.TLSConfig, DialTimeout: o.DialTimeout,
		Username: p.cfg.SentinelUsername, Password: p.cfg.SentinelPassword}
	conn, err := p.open(ctx, bare, "")
	if err != nil {
		return nil, false
	}
	if !isSentinel(conn) {
		conn.Close()
		return nil, false
	}
	return conn, true
}

func isSentinel(c *link.Conn) bool {
	return c.Info["redis_mode"] == "sentinel" || c.Info["server_mode"] == "sentinel"
}

var advice = link.Advice{
	Rights:      "+info +command|info +acl|whoami +acl|dryrun",
	Unsupported: "the server doesn't know what every Redis, Valkey and Dragonfly does",
	Cut:         "the server, or something on the way to it, closed the connection: its log may tell why",
}

// host is what a server's address says of where it is.
func (p *prober) host() string {
	host, _, err := net.SplitHostPort(replication.Address(p.cfg.Options))
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(strings.ToLower(host), ".")
}

// filled returns the strings that are not empty.
func filled(all ...string) []string {
	return slices.DeleteFunc(all, func(s string) bool { return s == "" })
}
