package amber_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/storage/filestore"
)

func newService(t *testing.T) *amber.Service {
	t.Helper()
	store, err := filestore.New(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	service, err := amber.New(amber.Config{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	return service
}

// lacks says what targets can't hold of what the servers hold: fields of hashes expire since Redis 7.4 and Valkey 9, and vector sets
// are Redis 8's.
func lacks(version, target string) (losses []string) {
	new := func(v string) bool { return v == "redis-8.0" || v == "valkey-9.1" }
	if new(version) && !new(target) {
		losses = append(losses, "field-expiry")
	}
	if version == "redis-8.0" && target != version {
		losses = append(losses, "module")
	}
	return losses
}

// Every server is backed up while clients write to it, and put into every server. What one of them can't hold is told before it is
// touched, and has to be accepted. The keys that the clients leave alone are those of the source, and those that
// they write are of one moment: each writes two counters in turn.
func TestEveryServer(t *testing.T) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			from := testserver.Start(t, version)
			client := from.Client(t)
			testserver.Generate(t, client, 1000, 7)
			testserver.LoadFunction(t, client, "sums")
			want := testserver.Snapshot(t, client)

			service := newService(t)
			stop := testserver.WriteLoad(t, client)
			testserver.Eventually(t, time.Minute, "the first write", func() error { return client.Get(ctx, "load:b").Err() })
			b, err := service.Backup(ctx, amber.BackupRequest{DataStore: "orders", From: from.Options()})
			if writes := stop(); writes == 0 {
				t.Error("nothing was written during the backup")
			}
			if err != nil {
				t.Fatal(err)
			}
			if b.Functions != 1 || b.Keys < int64(len(want)) {
				t.Errorf("the manifest has %d keys and %d function libraries; the server had %d and 1", b.Keys, b.Functions, len(want))
			}
			if _, err := service.Verify(ctx, b.ID, nil); err != nil {
				t.Error(err)
			}

			var written map[string]string // what the clients wrote, as first restored
			for _, target := range testserver.All() {
				to := testserver.Start(t, target)
				q := amber.RestoreRequest{Backup: b.ID, To: to.Options()}
				rep, err := service.Restore(ctx, q)
				losses := lacks(version, target)
				if losses != nil {
					for _, name := range losses {
						if !errors.Is(err, restore.ErrNotAccepted) || !strings.Contains(err.Error(), name) {
							t.Errorf("into %s: %v", target, err)
						}
					}
					role := to.Client(t).Do(ctx, "ROLE").Val()
					if n := to.Client(t).DBSize(ctx).Val(); n != 0 || !strings.Contains(strings.ToLower(strings.Join(words(role), " ")), "master") {
						t.Errorf("%s was touched: role %v, %d keys", target, role, n)
					}
					q.Accept = losses
					rep, err = service.Restore(ctx, q)
				}
				if err != nil {
					t.Errorf("into %s: %v", target, err)
					continue
				}
				got := testserver.Snapshot(t, to.Client(t))
				var lost, left int64
				for _, l := range rep.Losses {
					if slices.Contains(losses, l.Name) {
						lost, left = lost+l.Count, left+l.Skipped
					}
				}
				if rep.Keys != b.Keys-left || int64(len(got)) != rep.Keys {
					t.Errorf("into %s: %d keys were reported, %d are there, the backup has %d", target, rep.Keys, len(got), b.Keys)
				}
				load := map[string]string{}
				for key, value := range got {
					if strings.Contains(key, "load:") {
						load[key] = value
						delete(got, key)
					}
				}
				if n := int64(differing(want, got)); n != lost {
					t.Errorf("into %s: %d keys differ, and the losses told are %+v", target, n, rep.Losses)
				}
				if losses != nil {
					if lost == 0 {
						t.Errorf("into %s: nothing was lost", target)
					}
				} else if diff := testserver.Diff(want, got); diff != "" {
					t.Errorf("into %s: %s", target, diff)
				}
				if rep.Proof.Compared < 500 || !rep.Proof.Counted {
					t.Errorf("into %s: the proof is %+v", target, rep.Proof)
				}
				if a, b := load["0/load:a"], load["0/load:b"]; a == "" || a != b {
					t.Errorf("into %s: the counters are %q and %q: that is not one moment", target, a, b)
				}
				if written == nil {
					written = load
				} else if diff := testserver.Diff(written, load); diff != "" {
					t.Errorf("into %s: what clients wrote differs from the first restore: %s", target, diff)
				}
				if f := testserver.Functions(t, to.Client(t)); len(f) != 1 {
					t.Errorf("into %s: functions %v", target, f)
				}
			}
		})
	}
}

// differing counts the keys that aren't the same.
func differing(want, got map[string]string) (n int) {
	for k, w := range want {
		if got[k] != w {
			n++
		}
	}
	return n
}

func words(v any) (out []string) {
	switch v := v.(type) {
	case string:
		out = append(out, v)
	case []any:
		for _, e := range v {
			out = append(out, words(e)...)
		}
	}
	return out
}

func TestServiceCalls(t *testing.T) {
	ctx := t.Context()
	server := testserver.Start(t, "valkey-9.1")
	testserver.Generate(t, server.Client(t), 200, 1)
	service := newService(t)

	var mu sync.Mutex
	stages := map[string][]string{}
	progress := func(p amber.Progress) {
		mu.Lock()
		defer mu.Unlock()
		if s := stages[p.Operation]; len(s) == 0 || s[len(s)-1] != p.Stage {
			stages[p.Operation] = append(s, p.Stage)
		}
		if p.Bytes < 0 || p.Total > 0 && p.Bytes > p.Total || p.Elapsed < 0 || p.Left < 0 {
			t.Errorf("odd progress: %+v", p)
		}
	}
	var ids []catalog.ID
	for _, name := range []string{"first", "second"} {
		b, err := service.Backup(ctx, amber.BackupRequest{DataStore: "orders", Name: name, From: server.Options(), Progress: progress})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, b.ID)
	}
	var listed []string
	for b, err := range service.List(ctx, catalog.Query{DataStore: "orders"}) {
		if err != nil {
			t.Fatal(err)
		}
		listed = append(listed, b.Name)
	}
	if !slices.Equal(listed, []string{"second", "first"}) {
		t.Errorf("listed, newest first: %v", listed)
	}
	if b, err := service.Get(ctx, ids[0]); err != nil || b.Name != "first" {
		t.Errorf("Get: %+v, %v", b, err)
	}
	if v, err := service.Verify(ctx, ids[0], progress); err != nil || v.Keys != v.Backup.Keys || v.Keys == 0 {
		t.Errorf("Verify: %+v, %v", v, err)
	}

	// The server still holds its data.
	_, err := service.Restore(ctx, amber.RestoreRequest{Backup: ids[0], To: server.Options(), Progress: progress})
	if !errors.Is(err, restore.ErrNotEmpty) {
		t.Errorf("restoring over data: %v", err)
	}
	if err := server.Client(t).Set(ctx, "later", "1", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if _, err = service.Restore(ctx, amber.RestoreRequest{Backup: ids[0], To: server.Options(), Conflict: restore.Replace, Progress: progress}); err != nil {
		t.Errorf("replacing: %v", err)
	}
	if n := server.Client(t).Exists(ctx, "later").Val(); n != 0 {
		t.Error("a key that was written after the backup survived Replace")
	}
	for operation, last := range map[string]string{"backup": "done", "restore": "done"} {
		if s := stages[operation]; len(s) == 0 || s[len(s)-1] != last {
			t.Errorf("%s went through %v", operation, s)
		}
	}

	if err := service.Delete(ctx, ids[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := service.Get(ctx, ids[0]); !errors.Is(err, catalog.ErrNotFound) {
		t.Errorf("Get of a deleted backup: %v", err)
	}
	if _, err := service.Restore(ctx, amber.RestoreRequest{Backup: ids[0], To: server.Options()}); !errors.Is(err, catalog.ErrNotFound) {
		t.Errorf("Restore of a deleted backup: %v", err)
	}
	if rep, err := service.Sweep(ctx, 0); err != nil || rep != (backup.SweepReport{}) {
		t.Errorf("a sweep with nothing to do: %+v, %v", rep, err)
	}
}

func TestServiceRefuses(t *testing.T) {
	service := newService(t)
	for name, f := range map[string]func() error{
		"no store":  func() error { _, err := amber.New(amber.Config{}); return err },
		"no source": func() error { _, err := service.Backup(t.Context(), amber.BackupRequest{DataStore: "a"}); return err },
		"no backup": func() error { _, err := service.Restore(t.Context(), amber.RestoreRequest{}); return err },
		"no target": func() error { _, err := service.Restore(t.Context(), amber.RestoreRequest{Backup: "x"}); return err },
		"no catalog": func() error {
			_, err := amber.New(amber.Config{Store: new(filestore.Store), Leaser: nil, Catalog: struct{ catalog.Catalog }{}})
			return err
		},
	} {
		if err := f(); err == nil || !strings.HasPrefix(err.Error(), "amber: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	start := time.Now()
	server := testserver.Start(t, "redis-7.0")
	if _, err := service.Backup(ctx, amber.BackupRequest{DataStore: "orders", From: server.Options()}); !errors.Is(err, context.Canceled) {
		t.Errorf("a backup that was cancelled before it began: %v after %v", err, time.Since(start))
	}
}
