package amber_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/storage"
)

const canary = "CANARY-51f0-secret"

// A badDay is a backup of a primary with two replicas and a writer, to which something happens while the snapshot is being sent.
type badDay struct {
	primary  *testserver.Server
	replicas []*testserver.Server
	service  *amber.Service
	store    *slowStore
	started  *amber.Started
	sender   *testserver.Server // that sends the snapshot
	stop     func() int64       // ends the writer
}

// slowStore is a store that takes a number of bytes a second, or as many as come.
type slowStore struct {
	storage.Store
	rate atomic.Int64
}

func (s *slowStore) Create(ctx context.Context, key string, opts *storage.CreateOptions) (storage.Writer, error) {
	w, err := s.Store.Create(ctx, key, opts)
	if err != nil {
		return nil, err
	}
	return &slowWriter{Writer: w, ctx: ctx, s: s}, nil
}

// Unwrap makes the store's abilities known.
func (s *slowStore) Unwrap() storage.Store { return s.Store }

type slowWriter struct {
	storage.Writer
	ctx context.Context
	s   *slowStore
}

func (w *slowWriter) Write(p []byte) (int, error) {
	if rate := w.s.rate.Load(); rate > 0 {
		select {
		case <-time.After(time.Duration(int64(len(p)) * int64(time.Second) / rate)):
		case <-w.ctx.Done():
			return 0, w.ctx.Err()
		}
	}
	return w.Writer.Write(p)
}

func newBadDay(t *testing.T, version string) *badDay {
	t.Helper()
	ctx := t.Context()
	d := &badDay{store: &slowStore{Store: fileStore(t, t.TempDir())}}
	d.primary = testserver.Start(t, version, "--requirepass", canary, "--masterauth", canary, "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
	c := d.primary.Client(t)
	testserver.Generate(t, c, 2000, 3)
	for range 2 {
		d.replicas = append(d.replicas, testserver.StartReplica(t, version, d.primary, "--requirepass", canary, "--masterauth", canary, "--repl-diskless-sync-delay", "0"))
	}
	for _, s := range d.all() {
		// A second or two for a snapshot: enough for something to happen.
		if err := s.Client(t).ConfigSet(ctx, "rdb-key-save-delay", "1000").Err(); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if d.service, err = amber.New(amber.Config{Store: d.store, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}); err != nil {
		t.Fatal(err)
	}
	testserver.Eventually(t, time.Minute, "both replicas in sync", func() error {
		if info := c.Info(ctx, "replication").Val(); strings.Count(info, "state=online") != 2 {
			return errors.New(info)
		}
		return nil
	})
	d.stop = testserver.WriteLoad(t, c)
	testserver.Eventually(t, time.Minute, "the first write", func() error { return c.Get(ctx, "load:b").Err() })
	d.primary.AwaitReplicas(t, 2) // one that has acknowledged nothing of what was written isn't preferred
	return d
}

func (d *badDay) all() []*testserver.Server {
	return append([]*testserver.Server{d.primary}, d.replicas...)
}

// begin starts a backup and returns when its snapshot is being sent.
func (d *badDay) begin(t *testing.T) {
	t.Helper()
	before := map[*testserver.Server]int{}
	for _, s := range d.all() {
		before[s] = synced(t, s)
	}
	var err error
	if d.started, err = d.service.Start(t.Context(), amber.BackupRequest{DataStore: "orders", From: d.primary.Options()}); err != nil {
		t.Fatal(err)
	}
	testserver.Eventually(t, time.Minute, "the first bytes", func() error {
		select {
		case <-d.started.Done():
			_, err := d.started.Wait(t.Context())
			t.Fatalf("the backup has ended already: %v", err)
		default:
		}
		if p := d.started.Progress(); p.Stage != string(backup.StageTransfer) || p.Bytes == 0 {
			return fmt.Errorf("stage %s, %d bytes", p.Stage, p.Bytes)
		}
		return nil
	})
	for _, s := range d.all() {
		if synced(t, s) > before[s] {
			d.sender = s
		}
	}
	if d.sender == nil {
		t.Fatal("no server has begun to send a snapshot")
	}
}

// synced tells how many full synchronisations a server has begun.
func synced(t *testing.T, s *testserver.Server) (n int) {
	t.Helper()
	info := s.Client(t).Info(t.Context(), "stats").Val()
	_, rest, _ := strings.Cut(info, "sync_full:")
	if _, err := fmt.Sscan(rest, &n); err != nil {
		t.Fatalf("%s tells no sync_full: %s", s.Addr, info)
	}
	return n
}

// end waits for the end, and holds what came of it against the promises: a ready backup that verifies and is of one moment, or an error that tells what happened.
func (d *badDay) end(t *testing.T) (*catalog.Backup, error) {
	t.Helper()
	b, err := d.started.Wait(t.Context())
	if err != nil {
		if text := err.Error(); !errors.Is(err, backup.ErrSource) || !strings.Contains(text, "127.0.0.1:") || strings.Contains(text, canary) {
			t.Errorf("the error doesn't tell where it happened: %s", strings.ReplaceAll(text, canary, "<PASSWORD>"))
		}
		for b, err := range d.service.List(t.Context(), catalog.Query{}) {
			if b != nil && b.ID == d.started.ID() || err != nil {
				t.Errorf("a backup that failed is listed: %v, %v", b, err)
			}
		}
		return nil, err
	}
	d.whole(t, b)
	return b, nil
}

// whole restores a backup and looks at the two counters that are equal at every moment.
func (d *badDay) whole(t *testing.T, b *catalog.Backup) {
	t.Helper()
	to := testserver.Start(t, d.primary.Version)
	if _, err := d.service.Restore(t.Context(), amber.RestoreRequest{Backup: b.ID, To: to.Options()}); err != nil {
		t.Errorf("restoring: %v", err)
		return
	}
	c := to.Client(t)
	if a, b := c.Get(t.Context(), "load:a").Val(), c.Get(t.Context(), "load:b").Val(); a != b || a == "" {
		t.Errorf("the backup is of no moment: its counters are %s and %s", a, b)
	}
	if n := c.DBSize(t.Context()).Val(); n < 500 {
		t.Errorf("%d keys are there", n)
	}
}

// unharmed looks at the servers that live: none has a link to us, refused a client or failed to save, and another backup is made.
func (d *badDay) unharmed(t *testing.T, alive ...*testserver.Server) {
	t.Helper()
	for _, s := range alive {
		c := s.Client(t)
		testserver.Eventually(t, time.Minute, s.Addr+" without our link", func() error {
			info := c.Info(t.Context(), "replication", "stats", "persistence", "clients").Val()
			want := 0
			for _, r := range alive {
				if master := r.Client(t).Info(t.Context(), "replication").Val(); strings.Contains(master, fmt.Sprintf("master_port:%d\r", s.Port)) {
					want++
				}
			}
			for _, line := range []string{fmt.Sprintf("connected_slaves:%d\r", want), "rejected_connections:0\r", "rdb_last_bgsave_status:ok\r", "rdb_bgsave_in_progress:0\r"} {
				if !strings.Contains(info, line) {
					return fmt.Errorf("%q isn't told by %s", line, info)
				}
			}
			return nil
		})
		if err := c.ConfigSet(t.Context(), "rdb-key-save-delay", "0").Err(); err != nil {
			t.Error(err)
		}
	}
	if len(alive) == 0 {
		return
	}
	d.store.rate.Store(0)
	var again *catalog.Backup
	var err error
	// A run that the disk didn't let release its lease in time leaves it to end by itself.
	testserver.Eventually(t, time.Minute, "the lease has ended", func() error {
		if again, err = d.service.Backup(t.Context(), amber.BackupRequest{DataStore: "orders", From: alive[0].Options()}); errors.Is(err, backup.ErrBusy) {
			return err
		}
		return nil
	})
	if err != nil {
		t.Errorf("a backup after that: %v", err)
		return
	}
	if err := d.service.Delete(t.Context(), again.ID); err != nil {
		t.Error(err)
	}
}

// others are the servers without one.
func (d *badDay) others(without *testserver.Server) (rest []*testserver.Server) {
	for _, s := range d.all() {
		if s != without {
			rest = append(rest, s)
		}
	}
	return rest
}

// linger makes every server take 20 s for a snapshot, for what has to happen in its midst and ends it.
func (d *badDay) linger(t *testing.T) {
	t.Helper()
	for _, s := range d.all() {
		d.set(t, s, "rdb-key-save-delay", "10000")
	}
}

func (d *badDay) set(t *testing.T, s *testserver.Server, name, value string) {
	t.Helper()
	if err := s.Client(t).ConfigSet(t.Context(), name, value).Err(); err != nil {
		t.Fatal(err)
	}
}

// Whatever happens to the servers while a snapshot is being sent, what comes of it is a ready backup or an error that tells, and the servers that live
// are as before.
func TestBadDays(t *testing.T) {
	stall := 3 * time.Second
	if os.Getenv("CAMPAIGN") != "" {
		stall = time.Minute
	}
	ready := func(t *testing.T, d *badDay) *catalog.Backup {
		t.Helper()
		b, err := d.end(t)
		if err != nil {
			t.Errorf("no backup: %v", err)
		}
		return b
	}
	for name, day := range map[string]func(t *testing.T, d *badDay){
		"the sending replica is killed": func(t *testing.T, d *badDay) {
			d.linger(t)
			d.begin(t)
			if d.sender == d.primary {
				t.Fatal("the primary sends, though it has replicas")
			}
			d.sender.Kill()
			if _, err := d.end(t); err == nil {
				t.Error("a backup of a server that was killed")
			}
			d.unharmed(t, d.others(d.sender)...)
		},
		"the primary is killed": func(t *testing.T, d *badDay) {
			d.begin(t)
			d.primary.Kill()
			if b := ready(t, d); b != nil && b.Source.Role != "replica" {
				t.Errorf("it is of a %s", b.Source.Role)
			}
			d.unharmed(t)
		},
		"the sending replica becomes the primary": func(t *testing.T, d *badDay) {
			d.begin(t)
			if err := d.sender.Client(t).Do(t.Context(), "REPLICAOF", "NO", "ONE").Err(); err != nil {
				t.Fatal(err)
			}
			for _, s := range d.others(d.sender) {
				if err := s.Client(t).Do(t.Context(), "REPLICAOF", d.sender.Host, d.sender.Port).Err(); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := d.end(t); err != nil { // which server drops its links to replicas then differs by version
				t.Logf("no backup: %v", err)
			}
			testserver.Eventually(t, time.Minute, "the others in sync", func() error {
				if info := d.sender.Client(t).Info(t.Context(), "replication").Val(); strings.Count(info, "state=online") != 2 {
					return errors.New(info)
				}
				return nil
			})
			d.unharmed(t, append([]*testserver.Server{d.sender}, d.others(d.sender)...)...)
		},
		"replicas may lag by little": func(t *testing.T, d *badDay) {
			for _, s := range d.replicas { // they send what is written to them meanwhile to nobody: the limit isn't met
				d.set(t, s, "client-output-buffer-limit", "replica 1mb 1mb 1")
			}
			d.begin(t)
			ready(t, d)
			d.unharmed(t, d.all()...)
		},
		"the store takes 1 MiB a second": func(t *testing.T, d *badDay) {
			d.store.rate.Store(1 << 20)
			d.begin(t)
			ready(t, d)
			d.unharmed(t, d.all()...)
		},
		"the sender stalls": func(t *testing.T, d *badDay) {
			d.begin(t)
			group := -d.sender.Cmd.Process.Pid // with the child that saves
			if err := syscall.Kill(group, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			time.Sleep(stall)
			if err := syscall.Kill(group, syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			ready(t, d)
			testserver.Eventually(t, time.Minute, "all in sync", func() error {
				if info := d.primary.Client(t).Info(t.Context(), "replication").Val(); strings.Count(info, "state=online") != 2 {
					return errors.New(info)
				}
				return nil
			})
			d.unharmed(t, d.all()...)
		},
		"the password is changed": func(t *testing.T, d *badDay) {
			d.begin(t)
			d.stop() // the writer would be refused
			for _, s := range d.all() {
				d.set(t, s, "masterauth", "other")
			}
			for _, s := range d.all() {
				d.set(t, s, "requirepass", "other")
			}
			ready(t, d)
			_, err := d.service.Backup(t.Context(), amber.BackupRequest{DataStore: "orders", From: d.primary.Options()})
			if !errors.Is(err, backup.ErrAuth) || strings.Contains(err.Error(), canary) {
				t.Errorf("a backup by the old password: %v", err)
			}
			other := *d.primary.Options()
			other.Password = "other"
			if _, err := d.service.Backup(t.Context(), amber.BackupRequest{DataStore: "orders", From: &other}); err != nil {
				t.Errorf("a backup by the new password: %v", err)
			}
		},
		"it is cancelled": func(t *testing.T, d *badDay) {
			d.linger(t)
			d.begin(t)
			d.started.Cancel()
			select {
			case <-d.started.Done():
			case <-time.After(5 * time.Second):
				t.Fatal("it goes on")
			}
			if _, err := d.started.Wait(t.Context()); !errors.Is(err, context.Canceled) {
				t.Errorf("it ended with %v", err)
			}
			d.unharmed(t, d.all()...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			versions := testserver.All()
			if os.Getenv("CAMPAIGN") == "" { // one for each day
				sum := 0
				for _, c := range name {
					sum += int(c)
				}
				versions = versions[sum%4 : sum%4+1]
			}
			for _, version := range versions {
				t.Run(version, func(t *testing.T) { day(t, newBadDay(t, version)) })
			}
		})
	}
}
