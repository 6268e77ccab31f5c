package amber

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/cluster"
	"github.com/amberkv/amber/backup/dragonfly"
	"github.com/amberkv/amber/backup/dumpfile"
	"github.com/amberkv/amber/backup/govern"
	"github.com/amberkv/amber/backup/probe"
	"github.com/amberkv/amber/backup/replica"
	"github.com/amberkv/amber/backup/scan"
	"github.com/amberkv/amber/backup/sentinel"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/redact"
	"github.com/amberkv/amber/internal/replication"
)

// A SnapshotMethod is a way to take a snapshot of a server.
type SnapshotMethod string

// The methods. A cluster's shards are taken by replica or scan, all of them; a Sentinel's group by any.
const (
	SnapshotAuto    SnapshotMethod = ""            // the best that the server allows, see SnapshotOptions.Method
	SnapshotReplica SnapshotMethod = probe.Replica // as a replica of Redis or Valkey gets it, by PSYNC
	SnapshotFlows   SnapshotMethod = probe.Flows   // as a replica of Dragonfly gets it
	SnapshotSave    SnapshotMethod = probe.Save    // the server saves files, which are read from where they appear
	SnapshotScan    SnapshotMethod = probe.Scan    // by SCAN and DUMP, key by key: each is as it was at some instant, all together are of none
)

// SnapshotOptions say how a snapshot of a server is taken. With the zero value it is found out what the server is and allows, each time anew.
type SnapshotOptions struct {
	// Method is taken and no other one; the error says why it can't be. SnapshotAuto asks the server and takes the best that it allows: flows
	// of a Dragonfly, replica of Redis and Valkey, save where Save is set, and scan where nothing else is allowed. The manifest tells which one that was and why, and says
	// that the snapshot is fuzzy if it was scan. Where it shows only on trying that the server refuses one, the next is taken; but nothing else is tried once
	// a server had begun to make a snapshot.
	Method SnapshotMethod

	// Group is which group is meant where the server of From is a Sentinel; empty: the only one that it watches. The credentials and TLS of From are those of the
	// group's servers, and of the Sentinel unless it wants none or has its own.
	Group                              string
	SentinelUsername, SentinelPassword string

	// Parallel is how many shards of a cluster, or of a Dragonfly, are read at a time; 0: backup.DefaultParallel.
	Parallel int

	// KeysPerSecond bounds how many keys method scan reads in a second, of each server; 0: no bound.
	KeysPerSecond int64

	// Save says where the files appear that the server saves, for method save: its Store is required, while Options, Logger and Now are set by
	// Amber. Nil: method save can't be used.
	Save *dumpfile.SaveConfig

	// SyncCommand is what PSYNC was renamed to, SyncCommands what it was on single nodes, by their host:port. See replica.Config.
	SyncCommand  string
	SyncCommands map[string]string
}

// validate says what is wrong with the options.
func (o *SnapshotOptions) validate() error {
	methods := []SnapshotMethod{SnapshotAuto, SnapshotReplica, SnapshotFlows, SnapshotSave, SnapshotScan}
	if !slices.Contains(methods, o.Method) {
		return fmt.Errorf("the Method is %q: it can be %q, %q, %q, %q or empty", o.Method, SnapshotReplica, SnapshotFlows, SnapshotSave, SnapshotScan)
	}
	if err := replica.ValidSyncCommand(o.SyncCommand); o.SyncCommand != "" && err != nil {
		return fmt.Errorf("SyncCommand: %w", err)
	}
	if o.Parallel < 0 {
		return fmt.Errorf("its Parallel is negative: %d", o.Parallel)
	}
	if o.Method == SnapshotSave && o.Save == nil {
		return errors.New("method save needs Save: it says where the files appear that the server saves")
	}
	for addr, name := range o.SyncCommands {
		if err := replica.ValidSyncCommand(name); err != nil {
			return fmt.Errorf("SyncCommands of %q: %w", addr, err)
		}
	}
	return nil
}

// A SourceRequest says of which server it is to be found out how a snapshot can be taken.
type SourceRequest struct {
	// From is the server, any node of a cluster, or a Sentinel; as for a backup. Required.
	From *redis.Options
	SnapshotOptions

	Logger *slog.Logger // nil: nothing is logged
}

// CheckSource asks a server what it is, and says of each method whether a snapshot can be taken by it, why not, and which one a backup would take. Nothing is
// begun and nothing written: see package probe for what is asked. An error is one of reaching the server. If no method can be used the report's Err says so.
func CheckSource(ctx context.Context, q SourceRequest) (*probe.Report, error) {
	if q.From == nil {
		return nil, errors.New("amber: SourceRequest.From is required")
	}
	if err := q.validate(); err != nil {
		return nil, fmt.Errorf("amber: SourceRequest: %w", err)
	}
	return probe.Run(ctx, q.probe(q.From, q.Logger))
}

// probe is what a server is asked.
func (o *SnapshotOptions) probe(from *redis.Options, log *slog.Logger) probe.Config {
	return probe.Config{Options: from, Group: o.Group, SentinelUsername: o.SentinelUsername, SentinelPassword: o.SentinelPassword,
		SyncCommand: o.SyncCommand, SyncCommands: o.SyncCommands, Files: o.Save != nil, Logger: log}
}

// A taker takes snapshots of a data store of which only an address is known: how, it finds out each time.
type taker struct {
	from    *redis.Options
	prefer  replica.Prefer
	options SnapshotOptions
	tempDir string
	log     *slog.Logger
	now     func() time.Time
	limits  *govern.Limits // what a server may be put to
	// lasted tells how long a snapshot by a method took lately; 0, or nil: that isn't known.
	lasted func(ctx context.Context, method string) time.Duration
	leave  func(io.Closer) // gets what is still at tidying up after it has failed; nil: it is closed
}

// newTaker checks the options. what names them in the error.
func newTaker(what string, t taker) (*taker, error) {
	if err := t.options.validate(); err != nil {
		return nil, fmt.Errorf("amber: %s: %w", what, err)
	}
	if t.log == nil {
		t.log = slog.New(slog.DiscardHandler)
	}
	if t.leave == nil {
		t.leave = func(c io.Closer) {
			if err := c.Close(); err != nil {
				t.log.Warn("something of a snapshot that failed is left", "error", err)
			}
		}
	}
	// What else may be wrong, the drivers say before anything is asked.
	drivers := []string{probe.Replica, probe.Scan}
	if t.options.Save != nil {
		drivers = append(drivers, probe.Save)
	}
	for _, method := range drivers {
		if _, err := t.driver(method, t.from, false); err != nil {
			return nil, err
		}
	}
	if err := t.limits.Validate(); err != nil {
		return nil, fmt.Errorf("amber: SourceLimits: %w", err)
	}
	return &t, nil
}

// Snapshot asks the data store what it is, and takes the snapshot in the way that was asked for or else in the best one that is allowed.
func (t *taker) Snapshot(ctx context.Context) (backup.Snapshot, error) {
	report, err := probe.Run(ctx, t.options.probe(t.from, t.log))
	if err != nil {
		return nil, &spared{err}
	}
	if report.Sentinel != "" && report.Group == "" {
		return nil, &spared{report.Err()}
	}
	if t.options.Method != SnapshotAuto {
		return t.by(ctx, string(t.options.Method), report)
	}
	usable := report.Usable()
	if len(usable) == 0 {
		return nil, &spared{report.Err()}
	}
	var refused []error
	for _, method := range usable {
		snapshot, err := t.by(ctx, method, report)
		switch {
		case err == nil:
			src := snapshot.Source()
			reason := report.ReasonFor(method)
			for i, r := range refused {
				reason += "; " + usable[i] + " was refused: " + because(r)
			}
			t.log.InfoContext(ctx, "the method of the snapshot was chosen", "node", src.Address, "method", method, "reason", reason)
			return &chosen{snapshot, reason}, nil
		case ctx.Err() != nil || !refusal(err):
			return nil, err
		}
		t.log.WarnContext(ctx, "the server refuses a method that nothing spoke against", "method", method, "error", err)
		refused = append(refused, err)
	}
	if len(refused) == 1 {
		return nil, &spared{refused[0]}
	}
	return nil, &spared{fmt.Errorf("no method was allowed: %w", errors.Join(refused...))}
}

// refusal says whether a server refused a snapshot in one way, so that it may be taken in another one: it had begun nothing.
func refusal(err error) bool {
	return (errors.Is(err, backup.ErrUnsupported) || errors.Is(err, backup.ErrPermission)) && !errors.Is(err, backup.ErrBegun)
}

// because is what an error says without the advice, for a manifest.
func because(err error) string {
	if e := (*backup.SourceError)(nil); errors.As(err, &e) {
		return e.Step + ": " + e.Err.Error()
	}
	return err.Error()
}

// by takes the snapshot by one method.
func (t *taker) by(ctx context.Context, method string, report *probe.Report) (backup.Snapshot, error) {
	one := &attempt{taker: t, method: method, cluster: report.Topology == "cluster"}
	if t.lasted != nil {
		one.expected = t.lasted(ctx, method)
	}
	snapshotter, err := one.all(ctx, report)
	if err != nil {
		return nil, err
	}
	snapshot, err := snapshotter.Snapshot(ctx)
	if err != nil {
		for _, c := range one.closers {
			t.leave(c)
		}
		if one.begun && !errors.Is(err, backup.ErrBegun) {
			err = fmt.Errorf("%w: another one of its servers was asked already (%w)", err, backup.ErrBegun)
		}
	}
	return snapshot, err
}

// An attempt takes a snapshot by one method.
type attempt struct {
	*taker
	method  string
	cluster bool

	expected time.Duration // that it takes; 0: it isn't known

	mu      sync.Mutex
	begun   bool        // a server is sending its snapshot
	closers []io.Closer // what may be at tidying up when it has failed
}

// all returns what takes the snapshot of all that the data store consists of.
func (a *attempt) all(ctx context.Context, report *probe.Report) (backup.Snapshotter, error) {
	switch report.Topology {
	case "cluster":
		return cluster.New(cluster.Config{Options: a.from, Node: a.node, Parallel: a.options.Parallel, Now: a.now, Logger: a.log})
	case "sentinel":
		user, password := a.options.SentinelUsername, a.options.SentinelPassword
		if !report.SentinelApart {
			var err error
			if user, password, err = replication.Credentials(ctx, a.from); err != nil {
				return nil, &spared{&backup.SourceError{Addr: report.Sentinel, Step: "authenticate", Err: errors.New(redact.String(err.Error(), password))}}
			}
		}
		return sentinel.New(sentinel.Config{Sentinels: []string{report.Sentinel}, Group: report.Group, Options: a.from, SentinelUsername: user, SentinelPassword: password,
			Node: a.node, Now: a.now, Logger: a.log})
	}
	at := a.from
	if a.prefer == replica.PreferPrimary && report.Primary != "" && a.method != probe.Replica { // which finds its way itself
		there := *a.from
		there.Addr = report.Primary
		at = &there
	}
	return a.node(at)
}

// node returns what takes the snapshot of a single server, and spares that server. If it is one of a cluster, that is only of the slots that it has.
func (a *attempt) node(at *redis.Options) (backup.Snapshotter, error) {
	inner, err := a.driver(a.method, at, a.cluster)
	if err != nil {
		return nil, err
	}
	if c, ok := inner.(io.Closer); ok {
		a.mu.Lock()
		a.closers = append(a.closers, c)
		a.mu.Unlock()
	}
	governed, err := govern.New(govern.Config{Snapshotter: inner, Options: at, Method: a.method, Replica: a.prefer == replica.PreferReplica && a.method != probe.Save, Several: a.cluster,
		Limits: *a.limits, Expected: a.expected, Logger: a.log})
	if err != nil {
		return nil, fmt.Errorf("amber: SourceLimits: %w", err)
	}
	return &noted{a, governed}, nil
}

// noted takes note of it when a server begins to send its snapshot.
type noted struct {
	attempt *attempt
	backup.Snapshotter
}

func (n *noted) Snapshot(ctx context.Context) (backup.Snapshot, error) {
	snapshot, err := n.Snapshotter.Snapshot(ctx)
	if err == nil {
		n.attempt.mu.Lock()
		n.attempt.begun = true
		n.attempt.mu.Unlock()
	}
	return snapshot, err
}

// driver returns what takes the snapshot of a single server by a method.
func (t *taker) driver(method string, at *redis.Options, cluster bool) (backup.Snapshotter, error) {
	switch method {
	case probe.Replica:
		return replica.New(replica.Config{Options: at, Prefer: t.prefer, SyncCommand: t.options.SyncCommand, SyncCommands: t.options.SyncCommands,
			ClusterNode: cluster, Now: t.now, Logger: t.log})
	case probe.Flows:
		return dragonfly.New(dragonfly.Config{Options: at, SpoolDir: t.tempDir, Now: t.now, Logger: t.log})
	case probe.Scan:
		prefer := scan.PreferExact
		if t.prefer == replica.PreferReplica {
			prefer = scan.PreferReplica
		}
		return scan.New(scan.Config{Options: at, Prefer: prefer, KeysPerSecond: t.options.KeysPerSecond, TempDir: t.tempDir, Now: t.now, Logger: t.log})
	case probe.Save:
		cfg := *t.options.Save
		cfg.Options, cfg.Logger, cfg.Now = at, t.log, t.now
		return dumpfile.NewSave(cfg)
	}
	return nil, fmt.Errorf("amber: there is no method %q", method)
}

// A chosen snapshot tells why it was taken in the way that it was.
type chosen struct {
	backup.Snapshot
	reason string
}

func (c *chosen) Source() catalog.Source {
	src := c.Snapshot.Source()
	src.Reason = strings.Join(slices.DeleteFunc([]string{c.reason, src.Reason}, func(s string) bool { return s == "" }), "; ")
	return src
}

// Count lets the driver compare the keys that were found with those that there were, if it knows.
func (c *chosen) Count(keys int64) error {
	if s, ok := c.Snapshot.(backup.Counted); ok {
		return s.Count(keys)
	}
	return nil
}

// Shard tells where a part came from, if the driver does.
func (c *chosen) Shard(p backup.Part) *catalog.Shard {
	if s, ok := c.Snapshot.(backup.Sharded); ok {
		return s.Shard(p)
	}
	return nil
}
