package feed

import (
	"context"
	"fmt"
	"time"

	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/internal/resp"
	"github.com/amberkv/amber/internal/target"
	"github.com/amberkv/amber/restore"
)

// settle is how long a target that said that it has loaded everything may go on with what it has begun.
const settle = time.Second

// count compares what the target holds with the manifest, while it is still our replica. A Redis or Valkey then keeps expired keys.
func (r *run) count(ctx context.Context) error {
	begun := clock.System()
	for {
		info, _, err := r.admin.Info(ctx)
		if err != nil {
			return fmt.Errorf("counting the keys: %w", err)
		}
		// Dragonfly hands the last keys to its threads, and says that it has loaded.
		few := r.dragonfly() && target.Differ(r.want, target.Keyspace(info)) != "" && clock.Since(begun) < settle
		if info.Int("loading") == 0 && !few {
			return r.compare(ctx, info)
		}
		if err := clock.Sleep(ctx, pollEvery); err != nil {
			return err
		}
	}
}

func (r *run) compare(ctx context.Context, info resp.Info) error {
	if info["master_replid"] != r.link.ID() {
		return fmt.Errorf("the target was told by somebody else to replicate from %s:%s, or to stop replicating: is it watched by a Sentinel or an operator?",
			info["master_host"], info["master_port"])
	}
	got := target.Keyspace(info)
	text := target.Differ(r.want, got)
	if text != "" && r.dragonfly() {
		gone, err := r.expired(ctx)
		if err != nil {
			return err
		}
		if fits(r.want, got, gone) {
			r.warn("%d keys had expired when they got to the target, and it left them out", r.want.Total()-got.Total())
			text = ""
		}
	}
	if n, known := info["number_of_libraries"], info.Int("number_of_libraries"); text == "" && n != "" && known != r.backup.Functions {
		text = fmt.Sprintf("%d function libraries instead of %d", known, r.backup.Functions)
	}
	r.progress(restore.Progress{Stage: restore.StageCount, Bytes: r.size, Total: r.size, Keys: got.Total()})
	if text != "" {
		r.differs = true
		return fmt.Errorf("what the target has loaded is not what the manifest says: %s", text)
	}
	r.loaded = true
	return nil
}
