package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/reading"
	"github.com/amberkv/amber/internal/crashpoint"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/seal"
)

// ErrDiffers: the store has a backup of the same ID already, and it is not the same. Delete it there first, if the copy is wanted.
var ErrDiffers = errors.New("store has another backup of that ID")

// A CopyRequest says which backup is copied from where.
type CopyRequest struct {
	Backup  catalog.ID      // ready in the other store; required
	Store   storage.Store   // has its parts; required
	Catalog catalog.Catalog // has its manifest; required
	// Leaser gives the read lease that keeps the backup from being deleted there meanwhile, if it is a catalog.Sharer; nil: that of the Runner.
	Leaser   catalog.Leaser
	Progress func(Progress) // as that of a Request; its bytes are those that are stored; may be nil
}

// Copy copies a ready backup from another store into that of r, as it is: the stored bytes, neither decrypted nor decompressed, are held against
// the manifest's hashes on their way and read back, and the manifest, which is the very same, is written after all that. Only parts that were
// adopted become the copy's own, which its manifest says, so that it is signed anew, if r signs. made is false if the store had the same backup
// already.
//
// A data store has one copy into this store at a time, beside which it may be backed up: while another is at work the error wraps ErrBusy. It
// wraps ErrDiffers if the store has another backup of that ID, ErrNotSound if the bytes in the other store are not those of its manifest, ErrSource
// if the other store failed or has the backup not ready, catalog.ErrNotFound if it doesn't have it, and ErrStore if this store failed.
//
// When Copy fails or ctx is cancelled nothing is listed as ready. It then takes back what it stored, as Run does; what it doesn't
// manage, and what a kill leaves, is taken away by the next Copy of that backup, or by Sweep.
func (r *Runner) Copy(ctx context.Context, q CopyRequest) (b *catalog.Backup, made bool, err error) {
	switch {
	case q.Store == nil:
		return nil, false, errors.New("backup: CopyRequest.Store is required")
	case q.Catalog == nil:
		return nil, false, errors.New("backup: CopyRequest.Catalog is required")
	}
	guard := reading.Guard{Catalog: q.Catalog, Leaser: q.Leaser, TTL: r.cfg.LeaseTTL, Logger: r.log, Now: r.cfg.Now}
	if guard.Leaser == nil {
		guard.Leaser = r.cfg.Leaser
	}
	ctx, end := guard.Hold(ctx, q.Backup)
	defer func() {
		if err = end(err); errors.Is(err, reading.ErrDeleted) && !errors.Is(err, ErrSource) {
			err = fmt.Errorf("%w: %w", ErrSource, err)
		}
	}()
	c := &copying{run: run{Runner: r, q: Request{Progress: q.Progress}, start: r.now()}, from: q}
	if err := c.take(ctx); err != nil {
		return nil, false, fmt.Errorf("copy of %s: %w", q.Backup, err)
	}
	b = c.want
	if err = c.look(ctx); err == nil && c.found == nil {
		if b, err = c.leased(ctx, leaseOf(c.record()), c.do); err == nil {
			c.done(b.StoredBytes)
		}
	}
	if err != nil {
		return nil, false, fmt.Errorf("copy of %s: %w", q.Backup, err)
	}
	return b, c.found == nil, nil
}

// copying is one call of Copy: a run that takes the bytes of a backup's parts for its own.
type copying struct {
	run
	from   CopyRequest
	there  []catalog.Part  // as they are there
	want   *catalog.Backup // as it shall be here
	sealed []byte          // its manifest
	found  *catalog.Backup // the same, if it is here already
	dead   *catalog.Backup // what is here of it otherwise; nil if there is nothing
}

// take reads the manifest that is there and makes of it the one that shall be here.
func (c *copying) take(ctx context.Context) error {
	b, _, err := c.from.Catalog.Get(ctx, c.from.Backup)
	switch {
	case err == nil && b.State != catalog.StateReady:
		return fmt.Errorf("%w: it is %s, not ready", ErrSource, b.State)
	case err != nil && !errors.Is(err, catalog.ErrNotFound):
		return fmt.Errorf("%w: %w", ErrSource, err)
	case err != nil:
		return err
	case c.there != nil && !slices.Equal(b.Parts, c.there):
		return fmt.Errorf("%w: its parts are others than a moment ago", ErrSource)
	}
	c.q.DataStore, c.there, c.want = b.DataStore, b.Parts, own(b)
	if c.want != b && c.cfg.Signer != nil {
		if err := catalog.Sign(c.want, c.cfg.Signer); err != nil {
			return err
		}
	}
	c.sealed, err = catalog.Encode(c.want)
	return err
}

// record says in the catalog that the copy is being made. It has the time of that, by which Sweep goes.
func (c *copying) record() *catalog.Backup {
	return &catalog.Backup{Format: catalog.Format, ID: c.want.ID, DataStore: c.want.DataStore, Name: c.want.Name, Kind: catalog.KindCopy,
		State: catalog.StateRunning, CreatedAt: c.start.UTC()}
}

// look finds out what the store has of the backup.
func (c *copying) look(ctx context.Context) error {
	c.dead = nil
	here, _, err := c.cfg.Catalog.Get(ctx, c.want.ID)
	switch {
	case errors.Is(err, catalog.ErrNotFound):
		return nil
	case err != nil:
		return fmt.Errorf("%w: looking for it: %w", ErrStore, err)
	case here.State == catalog.StateReady:
		if sealed, err := catalog.Encode(here); err != nil || !bytes.Equal(sealed, c.sealed) {
			return fmt.Errorf("%w: delete it there first, if the copy is wanted", ErrDiffers)
		}
		c.found = here
		return nil
	case here.State == catalog.StateDeleting:
		return fmt.Errorf("%w: it is being deleted; sweep the store if nobody is at that", ErrBusy)
	case here.Kind != catalog.KindCopy:
		return fmt.Errorf("%w: it is of data store %s and %s", ErrDiffers, here.DataStore, here.State)
	}
	c.dead = here
	return nil
}

func (c *copying) do(ctx context.Context) error {
	c.meter.stage(StageConnect, 0)
	// Since the first look somebody else may have made the copy.
	if err := c.look(ctx); err != nil {
		return err
	}
	if c.found != nil {
		c.b = c.found
		return nil
	}
	if err := c.begin(ctx); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.CopyRegistered)
	// What was edited before anybody could see that it is being copied has to come along; whoever edits it from here on is told.
	if err := c.take(ctx); err != nil {
		return err
	}
	for i, p := range c.want.Parts {
		if err := c.part(ctx, c.there[i].Key, p); err != nil {
			return fmt.Errorf("part %s: %w", p.Name, err)
		}
	}
	c.b.Parts, c.b.StoredBytes = c.want.Parts, c.want.StoredBytes
	if err := c.readBack(ctx); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.CopyReadBack)
	c.meter.stage(StagePublish, 0)
	if ledger, ok := c.cfg.Catalog.(catalog.Ledger); ok {
		if err := ledger.Began(ctx, c.want, c.now()); err != nil {
			return fmt.Errorf("%w: %w", ErrStore, err)
		}
	}
	if err := c.lease.Renew(ctx); err != nil {
		return fmt.Errorf("before publishing: %w", err)
	}
	if err := c.replace(ctx, c.want); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.CopyPublished)
	return nil
}

// begin makes the copy known to the catalog. What another one left that died or failed goes before: who may still be at it, asleep,
// can't publish then, for its record is gone.
func (c *copying) begin(ctx context.Context) error {
	if c.dead != nil {
		if err := c.interrupt(ctx, c.dead.ID); err != nil {
			return err
		}
		if err := c.Delete(ctx, c.dead.ID); err != nil && !errors.Is(err, catalog.ErrNotFound) {
			return fmt.Errorf("%w: removing what a former copy left: %w", ErrStore, err)
		}
	}
	c.b = c.record()
	c.b.Token = c.lease.Token()
	return c.claim(ctx)
}

// own returns a manifest in which no part is adopted: the copy of what a server wrote is the copy's.
func own(b *catalog.Backup) *catalog.Backup {
	if !slices.ContainsFunc(b.Parts, func(p catalog.Part) bool { return p.Adopted }) {
		return b
	}
	c := *b
	c.Parts, c.Signature = slices.Clone(b.Parts), nil
	for i := range c.Parts {
		if p := &c.Parts[i]; p.Adopted {
			p.Adopted, p.Key = false, fmt.Sprintf("%s%s%04d%s", c.Prefix(), partPrefix, i, path.Ext(p.Name))
		}
	}
	return &c
}

// part copies one part, which has another key there if it was adopted.
func (c *copying) part(ctx context.Context, key string, p catalog.Part) error {
	group, gctx := errgroup.WithContext(ctx)
	in, err := c.from.Store.Open(gctx, key, 0, -1)
	if errors.Is(err, storage.ErrNotFound) {
		return fmt.Errorf("%w: %w", ErrNotSound, err)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSource, err)
	}
	defer in.Close()
	c.meter.stage(StageTransfer, p.Size)
	// Whoever else may be writing it, having slept, writes the same bytes: they are proved before they are committed.
	out, err := c.cfg.Store.Create(ctx, p.Key, &storage.CreateOptions{SizeHint: p.Size})
	if err != nil {
		return fmt.Errorf("%w: creating %s: %w", ErrStore, p.Key, err)
	}
	defer out.Abort()
	toHash, toStore := newLane(gctx), newLane(gctx)
	group.Go(func() error { return c.pump(gctx, in, c.meter.part(), toHash, toStore) })
	group.Go(func() error {
		err := seal.Check(toHash, seal.Sum{Size: p.Size, SHA256: p.SHA256})
		if errors.Is(err, seal.ErrMismatch) {
			return fmt.Errorf("%w: %s: %w", ErrNotSound, key, err)
		}
		return err
	})
	group.Go(func() error { return c.write(toStore, out, p.Key) })
	if err := group.Wait(); err != nil {
		return err
	}
	if err := c.commit(ctx, out, p); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.CopyCommitted)
	return nil
}

// write brings what the lane has into the store.
func (c *copying) write(from *lane, to storage.Writer, key string) error {
	for {
		chunk, err := from.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		n, err := to.Write(chunk.data)
		chunk.release()
		if err != nil {
			return fmt.Errorf("%w: writing %s: %w", ErrStore, key, err)
		}
		c.meter.stored.Add(int64(n))
		crashpoint.Hit(crashpoint.CopyMidPart)
	}
}
