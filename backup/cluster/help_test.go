package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/cluster"
	"github.com/amberkv/amber/backup/replica"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/storecatalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/restore/command"
	"github.com/amberkv/amber/storage/memstore"
)

// canary is the password of tests.
const canary = "CANARY-pw-5713"

// eachVersion runs a test against every version at the same time, for clusters spend most of it waiting. A short form takes the given ones only, unless the
// environment variable CAMPAIGN asks for all.
func eachVersion(t *testing.T, f func(t *testing.T, version string), short ...string) {
	var all sync.WaitGroup
	for _, version := range testserver.All() {
		if len(short) == 0 || slices.Contains(short, version) || campaign() {
			all.Go(func() { t.Run(version, func(t *testing.T) { f(t, version) }) })
		}
	}
	all.Wait()
}

func campaign() bool { return os.Getenv("CAMPAIGN") != "" }

// logger logs to the test, which fails if the password is logged.
func logger(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(logWriter{t}, nil))
}

type logWriter struct{ t *testing.T }

func (w logWriter) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(canary)) {
		w.t.Error("the log holds the password")
	}
	return w.t.Output().Write(p)
}

// onLog calls a function before a message with these words is logged.
type onLog struct {
	slog.Handler
	words string
	do    func()
}

func (h onLog) Handle(ctx context.Context, r slog.Record) error {
	if strings.Contains(r.Message, h.words) {
		h.do()
	}
	return h.Handler.Handle(ctx, r)
}

// of returns a Snapshotter of a cluster, of which a node is given.
func of(t *testing.T, o *redis.Options, prefer replica.Prefer, change func(*cluster.Config)) *cluster.Snapshotter {
	t.Helper()
	cfg := cluster.Config{Options: o, Pause: 20 * time.Millisecond, SlotWait: 10 * time.Second, FailoverWait: 30 * time.Second, Logger: logger(t),
		Node: func(o *redis.Options) (backup.Snapshotter, error) {
			return replica.New(replica.Config{Options: o, Prefer: prefer, ClusterNode: true, StallTimeout: 20 * time.Second})
		}}
	if change != nil {
		change(&cfg)
	}
	s, err := cluster.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// house is a store with what makes backups in it and takes them out.
type house struct {
	catalog  *storecatalog.Catalog
	runner   *backup.Runner
	restorer *restore.Restorer
}

func newHouse(t *testing.T) *house {
	t.Helper()
	store := memstore.New(nil)
	c, err := storecatalog.New(storecatalog.Config{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	runner, err := backup.NewRunner(backup.Config{Store: store, Catalog: c, Leaser: c, Logger: logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	restorer, err := restore.New(restore.Config{Store: store, Catalog: c})
	if err != nil {
		t.Fatal(err)
	}
	return &house{catalog: c, runner: runner, restorer: restorer}
}

func (h *house) run(t *testing.T, s backup.Snapshotter) (*catalog.Backup, error) {
	t.Helper()
	return h.runner.Run(t.Context(), backup.Request{DataStore: "orders", Snapshotter: s})
}

// nothing fails the test if there is a backup that can be restored.
func (h *house) nothing(t *testing.T) {
	t.Helper()
	for b, err := range h.catalog.List(t.Context(), catalog.Query{States: []catalog.State{catalog.StateReady}}) {
		t.Errorf("there is a backup: %v, %v", b, err)
	}
}

// restore puts a backup into an empty target.
func (h *house) restore(t *testing.T, b *catalog.Backup, to *redis.Options) *restore.Report {
	t.Helper()
	l, err := command.New(command.Config{Options: to})
	if err != nil {
		t.Fatal(err)
	}
	rep, err := h.restorer.Restore(t.Context(), b.ID, l, nil)
	if err != nil {
		t.Fatalf("restoring: %v", err)
	}
	return rep
}

// unharmed returns a function that fails the test unless the nodes that run have as many replicas as they had, and refused no connection since.
func unharmed(t *testing.T, nodes []*testserver.Server) func() {
	t.Helper()
	look := func(s *testserver.Server) (string, error) {
		info, err := s.Client(t).InfoMap(t.Context()).Result()
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("connected_slaves:%s rejected_connections:%s", info["Replication"]["connected_slaves"], info["Stats"]["rejected_connections"]), nil
	}
	before := make([]string, len(nodes))
	for i, s := range nodes {
		var err error
		if before[i], err = look(s); err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		t.Helper()
		for i, s := range nodes {
			testserver.Eventually(t, 15*time.Second, "the node is as it was", func() error {
				now, err := look(s)
				if err == nil && now != before[i] {
					err = fmt.Errorf("%s has %s, it had %s", s.Addr, now, before[i])
				}
				return err
			})
		}
	}
}

// A driver makes what takes the snapshots of nodes, and lets a test take part.
type driver struct {
	make  func(*redis.Options) (backup.Snapshotter, error)
	begin func(ctx context.Context, addr string) error // called before a node's snapshot is begun
	begun func(addr string)                            // and after it was
	read  func(addr string, at int64)                  // called before each Read
	ended func(addr string)                            // called when a part was read to its end
	tell  func(n int, src *catalog.Source)             // changes what the n-th snapshot tells of its source

	mu    sync.Mutex
	count map[string]int // of snapshots begun, by the primary's address
}

func (d *driver) node(o *redis.Options) (backup.Snapshotter, error) {
	s, err := d.make(o)
	return &driven{d: d, s: s, addr: o.Addr}, err
}

type driven struct {
	d    *driver
	s    backup.Snapshotter
	addr string
	nth  int
}

func (n *driven) Snapshot(ctx context.Context) (backup.Snapshot, error) {
	if n.d.begin != nil {
		if err := n.d.begin(ctx, n.addr); err != nil {
			return nil, err
		}
	}
	sn, err := n.s.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	n.d.mu.Lock()
	if n.d.count == nil {
		n.d.count = map[string]int{}
	}
	n.d.count[n.addr]++
	n.nth = 0
	for _, c := range n.d.count {
		n.nth += c
	}
	n.d.mu.Unlock()
	if n.d.begun != nil {
		n.d.begun(n.addr)
	}
	return &drivenSnapshot{sn, n}, nil
}

type drivenSnapshot struct {
	backup.Snapshot
	n *driven
}

func (s *drivenSnapshot) Source() catalog.Source {
	src := s.Snapshot.Source()
	if s.n.d.tell != nil {
		s.n.d.tell(s.n.nth, &src)
	}
	return src
}

func (s *drivenSnapshot) Open(ctx context.Context, p backup.Part) (io.ReadCloser, error) {
	r, err := s.Snapshot.Open(ctx, p)
	if err != nil {
		return nil, err
	}
	return &drivenReader{ReadCloser: r, n: s.n}, nil
}

type drivenReader struct {
	io.ReadCloser
	n  *driven
	at int64
}

func (r *drivenReader) Read(p []byte) (int, error) {
	if r.n.d.read != nil {
		r.n.d.read(r.n.addr, r.at)
	}
	n, err := r.ReadCloser.Read(p)
	r.at += int64(n)
	if err == io.EOF && r.n.d.ended != nil {
		r.n.d.ended(r.n.addr)
	}
	return n, err
}

// with makes a change of the Config that puts a driver around the given one's Node.
func (d *driver) with(change func(*cluster.Config)) func(*cluster.Config) {
	return func(c *cluster.Config) {
		if change != nil {
			change(c)
		}
		d.make = c.Node
		c.Node = d.node
	}
}

// parse fails the test unless r is a whole RDB file, and returns what is in it.
func parse(t *testing.T, r io.Reader) rdb.Stats {
	t.Helper()
	in := rdb.NewReader(r, nil)
	for _, err := range in.Entries() {
		if err != nil {
			t.Errorf("a part is no whole RDB file: %v", err)
			break
		}
	}
	return in.Stats()
}

// refused checks an error that has to be a SourceError of a kind with all these words, without the password.
func refused(t *testing.T, what string, err, kind error, words ...string) {
	t.Helper()
	var e *backup.SourceError
	if !errors.As(err, &e) || e.Addr == "" || kind != nil && !errors.Is(err, kind) {
		t.Errorf("%s: %v, want a *backup.SourceError that wraps %v", what, err, kind)
		return
	}
	text := fmt.Sprintf("%v %#v", err, err)
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%s: %v, want it to say %q", what, err, w)
		}
	}
	if strings.Contains(text, canary) {
		t.Errorf("%s: the error holds the password", what)
	}
}

// nodeThatFails makes snapshotters of which none begins.
func nodeThatFails(*redis.Options) (backup.Snapshotter, error) {
	return nil, &backup.SourceError{Addr: "x", Step: "y", Err: backup.ErrPermission}
}
