package amber

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/govern"
	"github.com/amberkv/amber/backup/replica"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/internal/target"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/restore/command"
)

// A CopyRequest says what is copied where.
type CopyRequest struct {
	// From is the server that is copied, as for a backup. Either From or Snapshotter is required.
	From        *redis.Options
	Prefer      replica.Prefer
	Snapshotter backup.Snapshotter
	// SnapshotOptions say how the snapshot of From is taken. The zero value finds that out.
	SnapshotOptions
	// SourceLimits are what From may be put to, as package govern says. nil is the zero value: it waits for a fork that is running and refuses what can't go
	// well. A Snapshotter that the host gives has its own, if it is one of package govern. There is no budget: nothing remembers copies.
	SourceLimits *govern.Limits
	// To is the server that takes the data, or any node of the cluster that does. Required.
	To *redis.Options
	// Connections is how many are used to each node of the target; 0: package command's default.
	Connections int

	// What the following mean is told at RestoreRequest. Only a sample of the values can be compared, or none; and a loss that is
	// not accepted shows on the way.
	Conflict restore.Conflict
	Expiry   restore.Expiry
	Select   restore.Selection
	Accept   []string
	Compare  restore.Compare

	Logger   *slog.Logger     // nil: nothing is logged
	Now      func() time.Time // nil: the machine's clock
	TempDir  string           // where values are held that are too large for memory; empty: the system's
	Progress func(Progress)   // called about five times a second, from one goroutine at a time; may be nil
}

// Copy takes a snapshot of a server and puts it into another one, of whatever engine and version, while it comes: nothing is kept, so that it
// needs neither a store nor room on a disk. What is written to the source after the snapshot's moment is not copied. The report has the Source, with
// what the copy cost it. See restore.Copy for what it promises, and for the errors; one that wraps govern.ErrLimit spared the source.
func Copy(ctx context.Context, q CopyRequest) (*restore.Report, error) {
	loader, err := q.loader()
	if err != nil {
		return nil, err
	}
	live, err := q.snapshot(ctx)
	if err != nil {
		return nil, fmt.Errorf("taking the snapshot: %w", err)
	}
	defer live.snapshot.Close()
	watch := silent("copy", q.Progress, clock.Or(q.Now))
	opts := q.options()
	opts.Progress = watch.restore
	rep, err := restore.Copy(ctx, live, loader, opts, restore.CopyConfig{Now: q.Now, TempDir: q.TempDir})
	if err != nil {
		return nil, err
	}
	source := live.snapshot.Source() // it knows by now what it cost
	rep.Source = &source
	return rep, nil
}

// CheckCopy looks at the target of a copy, and says point by point whether it can take what the source holds, as far as the source's INFO
// tells. No snapshot is taken.
func CheckCopy(ctx context.Context, q CopyRequest) (restore.Verdict, error) {
	loader, err := q.loader()
	if err != nil {
		return restore.Verdict{}, err
	}
	b := q.manifest()
	if q.From != nil {
		source := target.New(q.From, lookTime)
		defer source.Close()
		info, _, err := source.Info(ctx)
		if err != nil {
			return restore.Verdict{}, fmt.Errorf("looking at the source: %w", err)
		}
		b.Source.Engine, b.Source.Version = target.Product(info)
		b.Source.UsedMemory = info.Int("used_memory")
		keys := target.Keyspace(info)
		for _, db := range slices.Sorted(maps.Keys(keys)) {
			b.DBs = append(b.DBs, catalog.DB{Index: db, Keys: keys[db]})
		}
		b.Keys = keys.Total()
	}
	return loader.Check(ctx, restore.Requirements{Backup: b, Options: q.options()})
}

// lookTime is how long a server may take to answer a question.
const lookTime = 10 * time.Second

// manifest returns what is known of a snapshot before it is taken.
func (q *CopyRequest) manifest() *catalog.Backup {
	now := clock.Or(q.Now)()
	return &catalog.Backup{Format: catalog.Format, ID: catalog.NewID(now), Kind: catalog.KindManual, CreatedAt: now}
}

func (q *CopyRequest) options() *restore.Options {
	return &restore.Options{Conflict: q.Conflict, Expiry: q.Expiry, Select: q.Select, Accept: q.Accept, Compare: q.Compare}
}

func (q *CopyRequest) loader() (*command.Loader, error) {
	switch {
	case (q.From == nil) == (q.Snapshotter == nil):
		return nil, errors.New("amber: one of CopyRequest.From and CopyRequest.Snapshotter is required")
	case q.Snapshotter != nil && q.SourceLimits != nil:
		return nil, errors.New("amber: CopyRequest.SourceLimits are for a server: a Snapshotter has its own, if it is one of package govern")
	case q.To == nil:
		return nil, errors.New("amber: CopyRequest.To is required")
	}
	return command.New(command.Config{Options: q.To, Connections: q.Connections, Logger: q.Logger})
}

func (q *CopyRequest) snapshot(ctx context.Context) (*liveSource, error) {
	snapshotter := q.Snapshotter
	if snapshotter == nil {
		var err error
		snapshotter, err = newTaker("CopyRequest", taker{from: q.From, prefer: q.Prefer, options: q.SnapshotOptions, tempDir: q.TempDir, log: q.Logger, now: q.Now,
			limits: cmp.Or(q.SourceLimits, &govern.Limits{})})
		if err != nil {
			return nil, err
		}
	}
	snapshot, err := snapshotter.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	b := q.manifest()
	b.Source = snapshot.Source()
	live := &liveSource{snapshot: snapshot, manifest: b, parts: map[string]backup.Part{}}
	for _, p := range snapshot.Parts() {
		b.Parts = append(b.Parts, catalog.Part{Name: p.Name, RawSize: max(p.Size, 0)})
		live.parts[p.Name] = p
	}
	return live, nil
}

// liveSource is a snapshot as a loader reads it.
type liveSource struct {
	snapshot backup.Snapshot
	manifest *catalog.Backup
	parts    map[string]backup.Part
}

func (s *liveSource) Backup() *catalog.Backup { return s.manifest }

func (s *liveSource) Open(ctx context.Context, p catalog.Part) (io.ReadCloser, error) {
	return s.snapshot.Open(ctx, s.parts[p.Name])
}
