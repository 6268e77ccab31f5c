package amber_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/storecatalog"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/storage"
)

// kept imports a backup of some keys.
func kept(t *testing.T, s *amber.Service, q amber.ImportRequest) *catalog.Backup {
	t.Helper()
	q.DataStore, q.Reader = "orders", bytes.NewReader(rdbOf(100))
	b, err := s.Import(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Millisecond) // IDs tell milliseconds apart
	return b
}

// over returns a service over a directory, as a process of its own has it.
func over(t *testing.T, dir string, now func() time.Time) *amber.Service {
	t.Helper()
	s, err := amber.New(amber.Config{Store: fileStore(t, dir), Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A pausing is a loader that waits in the middle of a part.
type pausing struct {
	reached chan struct{}
	goOn    chan struct{}
}

func (*pausing) Check(context.Context, restore.Requirements) (restore.Verdict, error) {
	return restore.Verdict{}, nil
}

func (p *pausing) Load(ctx context.Context, src restore.Source, _ *restore.Options) (*restore.Report, error) {
	close(p.reached)
	select {
	case <-p.goOn:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	in, err := src.Open(ctx, src.Backup().Parts[0])
	if err != nil {
		return nil, err
	}
	defer in.Close()
	var all bytes.Buffer
	if _, err := all.ReadFrom(in); err != nil {
		return nil, err
	}
	return &restore.Report{Backup: src.Backup().ID, Keys: src.Backup().Keys}, nil
}

// TestDeletionsBesideARestore: neither an explicit deletion nor retention, of another process, takes a backup from a restore; both go on once that has ended.
func TestDeletionsBesideARestore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	reader, other := over(t, dir, nil), over(t, dir, nil)
	old := kept(t, reader, amber.ImportRequest{Retain: time.Millisecond})
	kept(t, reader, amber.ImportRequest{})
	loader := &pausing{make(chan struct{}), make(chan struct{})}
	var group sync.WaitGroup
	group.Go(func() {
		if _, err := reader.Restore(t.Context(), amber.RestoreRequest{Backup: old.ID, Loader: loader}); err != nil {
			t.Errorf("the restore: %v", err)
		}
	})
	<-loader.reached
	if err := other.Delete(t.Context(), old.ID); !errors.Is(err, backup.ErrBusy) || !strings.Contains(err.Error(), "process") {
		t.Errorf("deleting what is being restored: %v", err)
	}
	rep, err := other.Prune(t.Context(), amber.PruneRequest{})
	if err != nil {
		t.Error(err)
	}
	for _, f := range rep.Fates {
		if f.Deleted || f.Backup.ID == old.ID && !strings.Contains(strings.Join(f.Reasons, " "), "process") {
			t.Errorf("retention, of what is being restored: %+v", f)
		}
	}
	if _, err := other.Sweep(t.Context(), -1); err != nil {
		t.Error(err)
	}
	close(loader.goOn)
	group.Wait()
	if _, err := other.Prune(t.Context(), amber.PruneRequest{}); err != nil {
		t.Error(err)
	}
	if _, err := other.Get(t.Context(), old.ID); !errors.Is(err, catalog.ErrNotFound) {
		t.Errorf("after the restore retention has left it: %v", err)
	}
}

// TestKilledReader: a reader that died keeps a backup for its lease's time, and no longer.
func TestKilledReader(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := kept(t, over(t, dir, nil), amber.ImportRequest{})
	c, err := storecatalog.New(storecatalog.Config{Store: fileStore(t, dir), Owner: "host-7 process 42"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Share(t.Context(), catalog.ReadLease(b.ID), backup.DefaultLeaseTTL); err != nil { // by a process that is killed then
		t.Fatal(err)
	}
	if err := over(t, dir, nil).Delete(t.Context(), b.ID); !errors.Is(err, backup.ErrBusy) || !strings.Contains(err.Error(), "host-7 process 42") {
		t.Errorf("deleting at once: %v", err)
	}
	later := func() time.Time { return time.Now().Add(backup.DefaultLeaseTTL + 5*time.Second) }
	if err := over(t, dir, later).Delete(t.Context(), b.ID); err != nil {
		t.Errorf("deleting after the lease's time: %v", err)
	}
}

// TestReadersAndDeleters: of one who verifies and one who deletes at the same time, never does the first find a backup that is listed and broken.
func TestReadersAndDeleters(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	reader, other := over(t, dir, nil), over(t, dir, nil)
	rounds, read, refused := 12, 0, 0
	if os.Getenv("CAMPAIGN") != "" {
		rounds = 1000
	}
	for round := range rounds {
		b := kept(t, reader, amber.ImportRequest{})
		var group sync.WaitGroup
		var verified, deleted error
		group.Go(func() { _, verified = reader.Verify(t.Context(), b.ID, nil) })
		group.Go(func() {
			time.Sleep(time.Duration(round%10) * 300 * time.Microsecond)
			deleted = other.Delete(t.Context(), b.ID)
		})
		group.Wait()
		switch {
		case verified == nil:
			read++
		case errors.Is(verified, storage.ErrNotFound) || !errors.Is(verified, catalog.ErrNotFound) && !strings.Contains(verified.Error(), "not ready"):
			t.Errorf("round %d: Verify: %v; Delete: %v", round, verified, deleted)
		}
		if deleted != nil {
			refused++
			if !errors.Is(deleted, backup.ErrBusy) {
				t.Errorf("round %d: Delete: %v; Verify: %v", round, deleted, verified)
			}
			if err := other.Delete(t.Context(), b.ID); err != nil {
				t.Errorf("round %d: Delete again: %v", round, err)
			}
		}
		if verified != nil && deleted != nil {
			if _, err := other.Get(t.Context(), b.ID); !errors.Is(err, catalog.ErrNotFound) {
				t.Errorf("round %d: both gave way, and it is still there: %v", round, err)
			}
		}
	}
	t.Logf("of %d rounds the reader got through in %d, the deleter was refused in %d", rounds, read, refused)
}
