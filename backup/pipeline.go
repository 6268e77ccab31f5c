package backup

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/crashpoint"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/seal"
)

// The pipeline's memory: what is read of the source waits in these until both the parser and the store have had it. When
// all are full nothing is read, and the source's socket fills up. Parts that are read at a time share them.
const (
	chunkSize = 256 << 10
	chunks    = 16
	minChunks = 4 // of each part
)

// DefaultParallel is how many parts of a snapshot are read at a time. That takes up to 50 MiB of heap; 8 or 16 took up to 75 MiB when measured.
const DefaultParallel = 4

// transfer takes every part of the snapshot through the pipeline, some at a time.
func (n *run) transfer(ctx context.Context, snap Snapshot) error {
	parts := snap.Parts()
	if len(parts) == 0 {
		return fmt.Errorf("%w: the snapshot has no parts", ErrSource)
	}
	var total int64
	for _, p := range parts {
		if p.Size < 0 {
			total = 0
			break
		}
		total += p.Size
	}
	n.meter.stage(StageTransfer, total)
	parallel := min(n.q.Parallel, len(parts))
	n.chunks = max(chunks/parallel, minChunks)
	kept, found := make([]catalog.Part, len(parts)), make([]catalog.Contents, len(parts))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for i, p := range parts {
		group.Go(func() (err error) {
			if err := context.Cause(gctx); err != nil {
				return err
			}
			if kept[i], found[i], err = n.part(gctx, snap, i, p); err != nil {
				return fmt.Errorf("part %s: %w", p.Name, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	var all catalog.Contents
	for i, part := range kept {
		n.b.RawBytes += part.RawSize
		n.b.StoredBytes += part.Size
		all.Add(found[i])
	}
	n.b.Parts = kept
	n.b.Source = snap.Source() // which may know more by now
	all.Record(n.b)
	if s, ok := snap.(Counted); ok {
		if err := s.Count(n.b.Keys); err != nil {
			return fmt.Errorf("%w: %w", ErrSource, err)
		}
	}
	n.b.Verification.Structure = true
	n.b.Timings.Wait = n.meter.firstByte.Sub(n.start)
	n.b.Timings.Transfer = n.now().Sub(n.meter.firstByte)
	return nil
}

// part takes one part from the source into the store, again from its beginning where the source has lost it and offers that.
func (n *run) part(ctx context.Context, snap Snapshot, index int, p Part) (catalog.Part, catalog.Contents, error) {
	for {
		m := n.meter.part()
		part, found, err := n.partOnce(ctx, snap, index, p, m)
		switch {
		case err == nil:
			if s, ok := snap.(Sharded); ok {
				part.Shard = s.Shard(p)
			}
			return part, found, nil
		case !errors.Is(err, ErrAgain) || ctx.Err() != nil:
			return part, found, err
		}
		n.meter.forget(m)
		n.log.WarnContext(ctx, "a part was lost and is read again", "dataStore", n.q.DataStore, "backup", n.b.ID, "part", p.Name, "error", err)
	}
}

// partOnce takes one part from the source through the parser and into the store, and commits it.
func (n *run) partOnce(ctx context.Context, snap Snapshot, index int, p Part, m *partMeter) (catalog.Part, catalog.Contents, error) {
	fail := func(err error) (catalog.Part, catalog.Contents, error) {
		return catalog.Part{}, catalog.Contents{}, err
	}
	if p.Key != "" {
		return n.adopt(ctx, snap, index, p, m)
	}
	name := fmt.Sprintf("%s%04d%s", partPrefix, index, path.Ext(p.Name))
	if n.q.Seal.Compression != seal.None {
		name += ".zst"
	}
	encrypted := len(n.q.Seal.Recipients) > 0
	if encrypted {
		name += ".age"
	}
	part := catalog.Part{Name: name, Key: n.b.Prefix() + name}

	in, err := snap.Open(ctx, p)
	if err != nil {
		return fail(fmt.Errorf("%w: %w", ErrSource, err))
	}
	defer in.Close()

	group, gctx := errgroup.WithContext(ctx)
	// Closing the source ends a read that waits, when the parser or the store has failed.
	unblock := context.AfterFunc(gctx, func() { in.Close() })
	defer unblock()
	// The key is ours alone by its ID. Where the store can hold us to that, it does.
	out, err := n.cfg.Store.Create(ctx, part.Key, &storage.CreateOptions{
		IfNotExist: storage.CapabilitiesOf(n.cfg.Store).Exclusive, SizeHint: max(p.Size, n.b.Source.UsedMemory, 0)})
	if err != nil {
		return fail(fmt.Errorf("%w: creating %s: %w", ErrStore, part.Key, err))
	}
	defer out.Abort()
	sealed, err := seal.NewWriter(out, n.q.Seal)
	if err != nil {
		return fail(err)
	}

	toParser, toStore := newLane(gctx), newLane(gctx)
	var raw hash.Hash // nil if it is not to be known
	if !encrypted {
		raw = sha256.New()
	}
	var found catalog.Contents
	group.Go(func() error { return n.pump(gctx, in, m, toParser, toStore) })
	group.Go(func() (err error) {
		found, err = n.inspect(toParser, raw, m)
		return err
	})
	group.Go(func() error { return n.store(toStore, sealed, m) })
	err = group.Wait()
	if cerr := sealed.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("%w: writing %s: %w", ErrStore, part.Key, cerr)
	}
	if err != nil {
		return fail(err)
	}
	crashpoint.Hit(crashpoint.BackupCommit)

	sum := sealed.Sum()
	part.Size, part.SHA256 = sum.Size, sum.SHA256
	if err := n.commit(ctx, out, part); err != nil {
		return fail(err)
	}
	crashpoint.Hit(crashpoint.BackupCommitted)
	part.Dialect, part.Keys, part.Commands = found.Dialect, found.Keys, found.Commands
	part.Compression, part.Encryption = sum.Compression, sum.Encryption
	part.RawSize = sum.RawSize
	if raw != nil {
		part.RawSHA256 = hex.EncodeToString(raw.Sum(nil))
	}
	return part, found, nil
}

// inspect parses what the lane brings, and hashes it unless raw is nil.
func (n *run) inspect(from *lane, raw hash.Hash, m *partMeter) (catalog.Contents, error) {
	var in io.Reader = from
	if raw != nil {
		in = &hashingReader{r: from, h: raw}
	}
	found, err := catalog.Inspect(in, &m.keys)
	if errors.Is(err, catalog.ErrBadSnapshot) {
		err = fmt.Errorf("%w: %w", ErrNotSound, err)
	}
	return found, err
}

// commit commits a part, of which size and hash are known. When the store says that it failed, or that an object is there already, it may be
// there all the same, for an answer can be lost and a driver may have asked twice: its bytes decide.
func (n *run) commit(ctx context.Context, out storage.Writer, part catalog.Part) error {
	_, err := out.Commit(ctx)
	if err == nil {
		n.commits(part.Key)
		return nil
	}
	look := ctx.Err()
	if look == nil {
		look = n.readBackPart(ctx, part, new(atomic.Int64))
	}
	if look == nil {
		n.commits(part.Key)
		n.log.WarnContext(ctx, "a commit failed, but the object is there", "key", part.Key, "error", err)
		return nil
	}
	if !errors.Is(err, storage.ErrExists) { // what was there before is not this run's to take back
		n.commits(part.Key)
	}
	if !errors.Is(look, storage.ErrNotFound) && ctx.Err() == nil {
		err = fmt.Errorf("%w; and what is there can't be taken for it: %w", err, look)
	}
	return fmt.Errorf("%w: committing %s: %w", ErrStore, part.Key, err)
}

// commits notes the key of a part that may be in the store.
func (n *run) commits(key string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.committed = append(n.committed, key)
}

// pump reads the source and hands every chunk to both lanes.
func (n *run) pump(ctx context.Context, in io.Reader, m *partMeter, lanes ...*lane) error {
	count := cmp.Or(n.chunks, chunks)
	free := make(chan *chunk, count)
	for range count {
		free <- &chunk{free: free, buf: make([]byte, chunkSize)}
	}
	for {
		var c *chunk
		select {
		case c = <-free:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		err := c.fill(in)
		if len(c.data) > 0 {
			if n.meter.begin(n.now()) {
				crashpoint.Hit(crashpoint.BackupFirstByte)
			}
			m.bytes.Add(int64(len(c.data)))
			c.users.Store(int32(len(lanes)))
			for _, l := range lanes {
				l.ch <- c // never waits: a lane has room for every chunk
			}
		}
		switch {
		case err == nil:
		case err == io.EOF:
			for _, l := range lanes {
				close(l.ch)
			}
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx) // that is why the source was closed
		default:
			return fmt.Errorf("%w at byte %d: %w", ErrSource, m.bytes.Load(), err)
		}
	}
}

// store seals what the lane brings into the store.
func (n *run) store(from *lane, to *seal.Writer, m *partMeter) error {
	for {
		c, err := from.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		_, err = to.Write(c.data)
		c.release()
		if err != nil {
			return fmt.Errorf("%w: %w", ErrStore, err)
		}
		stored := to.Stored()
		m.stored.Store(stored)
		if stored > 0 {
			crashpoint.Hit(crashpoint.BackupMidPart)
		}
	}
}
