package backup

import (
	"context"

	"github.com/amberkv/amber/catalog"
)

// reindex mends the index of a catalog that has one.
func (r *Runner) reindex(ctx context.Context) error {
	x, ok := r.cfg.Catalog.(catalog.Indexer)
	if !ok {
		return nil
	}
	mended, err := x.Reindex(ctx)
	if mended > 0 {
		r.log.InfoContext(ctx, "the index was wrong about backups, and is mended", "backups", mended)
	}
	return err
}
