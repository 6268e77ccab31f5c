package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/rdb/aof"
)

// A backup may have commands that are to be executed on top of its keys: those that a Dragonfly executed while its snapshot was taken, which
// stand among the keys of its streams, and those of append-only files. For a loader that replays them the conversion makes one stream of both, in which the
// order is kept: what stands later in a stream counts. Loaders are told nothing of where a command comes from.

// commandOptions says how the commands of a backup are converted; nil if there are none, or if the target doesn't execute them.
func commandOptions(b *catalog.Backup, v *Verdict, now time.Time) *rdb.CommandOptions {
	mayHave := b.Commands > 0 || appends(b) || live(b) && (b.Source.Engine == "dragonfly" || b.Source.Method == "aof")
	if !v.Replays || !mayHave {
		return nil
	}
	o := &rdb.CommandOptions{Has: v.Has, Now: now.UnixMilli(), From: rdb.Dialect{Family: rdb.Redis, Version: 12}}
	for _, p := range b.Parts {
		if d, err := rdb.ParseDialect(p.Dialect); err == nil {
			o.From = d
			break
		}
	}
	// A loader that replays owns the whole target. But what removes everything in one shard of several must not remove what the others have: the order
	// between shards isn't known.
	o.Flush = single(b)
	return o
}

// live tells of a snapshot that comes straight from its source, of which nothing is known before.
func live(b *catalog.Backup) bool { return b.RawBytes == 0 && b.Keys == 0 && b.Commands == 0 }

// single tells whether the parts of a backup follow each other, and are not shards beside each other.
func single(b *catalog.Backup) bool {
	for i, p := range b.Parts {
		if i > 0 && p.Dialect != catalog.DialectAOF || p.Shard != nil && len(b.Parts) > 1 {
			return false
		}
	}
	return true
}

// heldCommand is the largest command of an append-only file that is replayed, in bytes: a server takes no more of one argument.
const heldCommand = 512 << 20

// appended converts a part that is an append-only file.
func (c *conversion) appended(ctx context.Context, dst *rdb.Writer, in io.ReadCloser, p catalog.Part, base int64, watch *watcher) (*rdb.ConvertReport, error) {
	src := aof.NewReader(&heedful{ctx: ctx, in: in}, &aof.Options{MaxHeld: heldCommand})
	total := &rdb.ConvertReport{}
	pre, err := src.Preamble()
	if err == nil && pre != nil {
		var r *rdb.ConvertReport
		if r, err = rdb.Convert(dst, pre, &c.opts); r != nil {
			total.Add(r)
		}
	}
	opts := c.opts
	if opts.Commands == nil && err == nil {
		return total, fmt.Errorf("%w: its commands are to be executed on top of the keys, which this target can't", ErrRefused)
	}
	var cmd rdb.Command
	n := 0
	next := func() (*rdb.Command, error) {
		for {
			e, err := src.Next()
			if err != nil {
				return nil, err
			}
			if n++; watch != nil && n&1023 == 0 {
				if p, ok := in.(*partReader); ok {
					watch.stored(base + p.Stored())
				}
			}
			if e.Kind != aof.KindCommand {
				continue
			}
			if e.Rest > 0 {
				return nil, &rdb.TooLargeError{Offset: e.Offset, What: "a command of an append-only file", Size: heldCommand, Limit: heldCommand}
			}
			cmd = rdb.Command{DB: e.DB, Offset: e.Offset, Args: e.Args}
			return &cmd, nil
		}
	}
	if err == nil {
		var r *rdb.ConvertReport
		if r, err = rdb.ConvertCommands(dst, next, &opts); r != nil {
			total.Add(r)
		}
	}
	if err == nil {
		_, err = io.Copy(io.Discard, in) // its hash is only proved where it ends
	}
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return total, ctx.Err()
	case errors.Is(err, aof.ErrCorrupt), errors.Is(err, aof.ErrTruncated), errors.Is(err, rdb.ErrCorrupt), errors.Is(err, rdb.ErrUnsupported):
		return total, fmt.Errorf("%w: %w", ErrNotVerified, err)
	default:
		return total, notVerified(err)
	}
	if watch != nil {
		watch.stored(base + p.Size)
		found := catalog.Contents{Dialect: catalog.DialectAOF, Commands: src.Stats().Commands}
		if pre != nil {
			found = catalog.ContentsOf(pre.Dialect(), pre.Stats())
			found.Dialect, found.Commands = catalog.DialectAOF, src.Stats().Commands
		}
		watch.all.Add(found)
	}
	return total, nil
}
