package amber_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/storage/filestore"
	"github.com/amberkv/amber/storage/memstore"
)

// heard is what a host hears of its operations, in the order of time.
type heard struct {
	mu     sync.Mutex
	lines  []string
	ends   []amber.Event
	swept  int
	stages map[string][]string
	live   []bool // whether the context of an End had not ended
}

func (h *heard) events() amber.Events {
	note := func(what string, e amber.Event) {
		line := fmt.Sprintf("%s %s %s %s", what, e.Operation, e.DataStore, e.Kind)
		if e.Store != "" {
			line += " in " + e.Store
		}
		if e.Err != nil {
			line += " failed"
		}
		h.lines = append(h.lines, line)
	}
	return amber.Events{
		Begin: func(_ context.Context, e amber.Event) {
			h.mu.Lock()
			defer h.mu.Unlock()
			note("begin", e)
		},
		Progress: func(_ context.Context, e amber.Event, p amber.Progress) {
			h.mu.Lock()
			defer h.mu.Unlock()
			if h.stages == nil {
				h.stages = map[string][]string{}
			}
			if s := h.stages[e.Operation]; len(s) == 0 || s[len(s)-1] != p.Stage {
				h.stages[e.Operation] = append(s, p.Stage)
			}
			if p.Operation != e.Operation {
				h.lines = append(h.lines, "progress of "+p.Operation+" in "+e.Operation)
			}
		},
		End: func(ctx context.Context, e amber.Event) {
			h.mu.Lock()
			defer h.mu.Unlock()
			note("end", e)
			h.ends = append(h.ends, e)
			h.live = append(h.live, ctx.Err() == nil)
		},
		Swept: func(context.Context, backup.SweepReport) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.swept++
		},
	}
}

// take returns what was heard since it was asked the last time.
func (h *heard) take() (lines []string, ends []amber.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	lines, ends = h.lines, h.ends
	h.lines, h.ends = nil, nil
	return lines, ends
}

// Of each operation the host hears the beginning and the end, once, with what is known of it: also of one that fails or is cancelled.
func TestEvents(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	source, target := testserver.Start(t, "redis-8.0"), testserver.Start(t, "redis-8.0")
	testserver.Generate(t, source.Client(t), 100, 1)
	store, err := filestore.New(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	var h heard
	service, err := amber.New(amber.Config{Store: store, Stores: []amber.NamedStore{{Name: "far", Store: memstore.New(nil)}}, Events: h.events()})
	if err != nil {
		t.Fatal(err)
	}
	var id catalog.ID
	dead := &redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1}
	for _, test := range []struct {
		name   string
		do     func() error
		fails  bool
		want   []string
		silent bool // of no backup that is known
	}{
		{name: "backup", do: func() error {
			b, err := service.Backup(ctx, amber.BackupRequest{DataStore: "orders", From: source.Options()})
			if err == nil {
				id = b.ID
			}
			return err
		}, want: []string{"begin backup orders manual", "end backup orders manual"}},
		{name: "backup that fails", do: func() error {
			_, err := service.Backup(ctx, amber.BackupRequest{DataStore: "orders", From: dead})
			return err
		}, fails: true, want: []string{"begin backup orders manual", "end backup orders manual failed"}},
		{name: "no operation at all", do: func() error {
			_, err := service.Backup(ctx, amber.BackupRequest{DataStore: "orders"})
			return err
		}, fails: true},
		{name: "import", do: func() error {
			_, err := service.Import(ctx, amber.ImportRequest{DataStore: "old", Reader: bytes.NewReader(readFile(t, someRDB))})
			return err
		}, want: []string{"begin import old import", "end import old import"}},
		{name: "import that fails", do: func() error {
			_, err := service.Import(ctx, amber.ImportRequest{DataStore: "old", Reader: strings.NewReader("REDIS0011 and then nothing of use")})
			return err
		}, fails: true, want: []string{"begin import old import", "end import old import failed"}},
		{name: "verify", do: func() error { _, err := service.Verify(ctx, id, nil); return err },
			want: []string{"begin verify orders manual", "end verify orders manual"}},
		{name: "verify what isn't there", do: func() error { _, err := service.Verify(ctx, "nothing", nil); return err },
			fails: true, silent: true, want: []string{"begin verify  ", "end verify   failed"}},
		{name: "restore", do: func() error {
			_, err := service.Restore(ctx, amber.RestoreRequest{Backup: id, To: target.Options()})
			return err
		}, want: []string{"begin restore orders manual", "end restore orders manual"}},
		{name: "restore that is refused", do: func() error {
			_, err := service.Restore(ctx, amber.RestoreRequest{Backup: id, To: target.Options()})
			return err
		}, fails: true, want: []string{"begin restore orders manual", "end restore orders manual failed"}},
		{name: "a plan is no operation", do: func() error {
			_, err := service.PlanRestore(ctx, amber.RestoreRequest{Backup: id, To: target.Options(), Conflict: restore.Replace})
			return err
		}},
		{name: "restore that replaces", do: func() error {
			_, err := service.Restore(ctx, amber.RestoreRequest{Backup: id, To: target.Options(), Conflict: restore.Replace, TargetStore: "staging"})
			return err
		}, want: []string{"begin restore orders manual", "begin backup staging safety", "end backup staging safety", "end restore orders manual"}},
		{name: "restore of the latest", do: func() error {
			if err := target.Client(t).FlushAll(ctx).Err(); err != nil {
				return err
			}
			_, err := service.RestoreLatest(ctx, "orders", amber.RestoreRequest{To: target.Options()})
			return err
		}, want: []string{"begin restore orders manual", "end restore orders manual"}},
		{name: "restore of the latest of none", do: func() error {
			_, err := service.RestoreLatest(ctx, "nobody", amber.RestoreRequest{To: target.Options()})
			return err
		}, fails: true, silent: true, want: []string{"begin restore nobody ", "end restore nobody  failed"}},
		{name: "restore into a new one", do: func() error {
			_, _, err := service.RestoreNew(ctx, amber.RestoreRequest{Backup: id}, amber.NewRequest{Provisioner: noProvisioner{}})
			return err
		}, fails: true, want: []string{"begin restore orders manual", "end restore orders manual failed"}},
		{name: "export", do: func() error {
			_, err := service.Export(ctx, amber.ExportRequest{Backup: id, Key: "exports/orders.rdb"})
			return err
		}, want: []string{"begin export orders manual", "end export orders manual"}},
		{name: "export over a file", do: func() error {
			_, err := service.Export(ctx, amber.ExportRequest{Backup: id, Key: "exports/orders.rdb"})
			return err
		}, fails: true, want: []string{"begin export orders manual", "end export orders manual failed"}},
		{name: "copy", do: func() error {
			_, err := service.CopyBackup(ctx, amber.CopyBackupRequest{Backup: id, To: "far"})
			return err
		}, want: []string{"begin copy orders manual in far", "end copy orders manual in far"}},
		{name: "copy of nothing", do: func() error {
			_, err := service.CopyBackup(ctx, amber.CopyBackupRequest{Backup: "nothing", To: "far"})
			return err
		}, fails: true, silent: true, want: []string{"begin copy   in far", "end copy   in far failed"}},
	} {
		h.take()
		if err := test.do(); (err != nil) != test.fails {
			t.Fatalf("%s: %v", test.name, err)
		}
		lines, ends := h.take()
		if !slices.Equal(lines, test.want) {
			t.Errorf("%s: heard %q, want %q", test.name, lines, test.want)
		}
		for _, e := range ends {
			if e.Err == nil && (e.Backup == "" || e.Duration <= 0 || e.Keys == 0 || e.Bytes == 0) {
				t.Errorf("%s: the end is %+v", test.name, e)
			}
			if e.Err != nil && !test.silent && e.Backup == "" {
				t.Errorf("%s: the end doesn't say of which backup: %+v", test.name, e)
			}
		}
	}
	for _, operation := range []string{"backup", "import", "restore", "export", "copy"} { // a verification may be quicker than that
		if s := h.stages[operation]; len(s) == 0 {
			t.Errorf("there was no progress of %s", operation)
		}
	}
	if _, err := service.Sweep(ctx, 0); err != nil || h.swept != 1 {
		t.Errorf("a sweep: %v, heard of %d", err, h.swept)
	}

	// One that is cancelled ends too, and its end can be noted.
	cancelled, cancel := context.WithCancel(ctx)
	h.take()
	_, err = service.Backup(cancelled, amber.BackupRequest{DataStore: "orders", Snapshotter: snapshotFunc(func(ctx context.Context) (backup.Snapshot, error) {
		cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	})})
	lines, ends := h.take()
	if !errors.Is(err, context.Canceled) || !slices.Equal(lines, []string{"begin backup orders manual", "end backup orders manual failed"}) || !errors.Is(ends[0].Err, context.Canceled) {
		t.Errorf("cancelled: %v, heard %q", err, lines)
	}
	if slices.Contains(h.live, false) {
		t.Error("the context of an end had ended")
	}
}

type snapshotFunc func(ctx context.Context) (backup.Snapshot, error)

func (f snapshotFunc) Snapshot(ctx context.Context) (backup.Snapshot, error) { return f(ctx) }

type noProvisioner struct{}

func (noProvisioner) Provision(context.Context, restore.Need) (restore.Provisioned, error) {
	return nil, errors.New("there is no room")
}

// A host's funcs may panic, take their time and call the service: what they are told of goes on, and the operation is what it is.
func TestEventsOfEveryKind(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	source := testserver.Start(t, "redis-8.0")
	testserver.Generate(t, source.Client(t), 100, 1)
	var log lockedBuffer
	for name, events := range map[string]func(s **amber.Service) amber.Events{
		"panic": func(**amber.Service) amber.Events {
			return amber.Events{
				Begin:    func(context.Context, amber.Event) { panic("CANARY at the beginning") },
				Progress: func(context.Context, amber.Event, amber.Progress) { panic(errors.New("CANARY on the way")) },
				End:      func(_ context.Context, e amber.Event) { _ = e.Operation[100] },
				Swept:    func(context.Context, backup.SweepReport) { panic("CANARY after the sweep") },
			}
		},
		"slow": func(**amber.Service) amber.Events {
			return amber.Events{
				Begin:    func(context.Context, amber.Event) { time.Sleep(300 * time.Millisecond) },
				Progress: func(context.Context, amber.Event, amber.Progress) { time.Sleep(300 * time.Millisecond) },
				End:      func(context.Context, amber.Event) { time.Sleep(300 * time.Millisecond) },
			}
		},
		"calls back": func(s **amber.Service) amber.Events {
			list := func(ctx context.Context) {
				for _, err := range (*s).List(ctx, catalog.Query{}) {
					if err != nil {
						t.Error(err)
					}
				}
			}
			return amber.Events{
				Begin:    func(ctx context.Context, _ amber.Event) { list(ctx) },
				Progress: func(ctx context.Context, _ amber.Event, _ amber.Progress) { list(ctx) },
				End: func(ctx context.Context, e amber.Event) {
					if e.Operation == "backup" { // the backup is there, and can be verified
						if _, err := (*s).Verify(ctx, e.Backup, nil); err != nil {
							t.Error(err)
						}
					}
				},
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var service *amber.Service
			store, err := filestore.New(filepath.Join(t.TempDir(), "store"), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer store.Close()
			if service, err = amber.New(amber.Config{Store: store, Events: events(&service), Logger: slog.New(slog.NewTextHandler(&log, nil))}); err != nil {
				t.Fatal(err)
			}
			b, err := service.Backup(ctx, amber.BackupRequest{DataStore: "orders", From: source.Options()})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := service.Verify(ctx, b.ID, nil); err != nil {
				t.Error(err)
			}
			if _, err := service.Sweep(ctx, 0); err != nil {
				t.Error(err)
			}
			if name == "panic" {
				for _, text := range []string{"CANARY at the beginning", "CANARY on the way", "out of range", "CANARY after the sweep", "events_test.go"} {
					if !strings.Contains(log.String(), text) {
						t.Errorf("a panic isn't logged: there is no %q in %s", text, log.String())
					}
				}
			}
		})
	}
}

// lockedBuffer can be read while it is written to.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
