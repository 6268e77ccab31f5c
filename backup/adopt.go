package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"

	"golang.org/x/sync/errgroup"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/crashpoint"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/seal"
)

// adopt takes a part that is in the store already through the parser alone: it is neither copied nor changed. That the object which the
// source read is the one of that key in this store is proved when it is read back.
func (n *run) adopt(ctx context.Context, snap Snapshot, index int, p Part, m *partMeter) (catalog.Part, catalog.Contents, error) {
	part := catalog.Part{Name: fmt.Sprintf("%s%04d%s", partPrefix, index, path.Ext(p.Name)), Key: p.Key, Adopted: true, Compression: seal.None}
	if err := storage.ValidKey(p.Key); err != nil {
		return part, catalog.Contents{}, fmt.Errorf("adopting it: %w", err)
	}
	if catalog.Reserved(p.Key) {
		return part, catalog.Contents{}, fmt.Errorf("adopting %s: that is the key of a backup's or a lease's own object", p.Key)
	}
	if len(n.q.Seal.Recipients) > 0 {
		return part, catalog.Contents{}, fmt.Errorf("adopting %s: it stays as its server wrote it and can't be encrypted: copy it, or leave out the recipients", p.Key)
	}
	in, err := snap.Open(ctx, p)
	if err != nil {
		return part, catalog.Contents{}, fmt.Errorf("%w: %w", ErrSource, err)
	}
	defer in.Close()

	group, gctx := errgroup.WithContext(ctx)
	unblock := context.AfterFunc(gctx, func() { in.Close() }) // as in part
	defer unblock()
	toParser, raw := newLane(gctx), sha256.New()
	var found catalog.Contents
	group.Go(func() error { return n.pump(gctx, in, m, toParser) })
	group.Go(func() (err error) {
		found, err = n.inspect(toParser, raw, m)
		return err
	})
	if err := group.Wait(); err != nil {
		return part, found, err
	}
	crashpoint.Hit(crashpoint.AdoptParsed)
	part.Dialect, part.Keys, part.Commands = found.Dialect, found.Keys, found.Commands
	part.RawSize, part.RawSHA256 = m.bytes.Load(), hex.EncodeToString(raw.Sum(nil))
	part.Size, part.SHA256 = part.RawSize, part.RawSHA256
	return part, found, nil
}
