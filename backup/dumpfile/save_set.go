package dumpfile

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/internal/link"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/internal/resp"
	"github.com/amberkv/amber/rdb/dfs"
	"github.com/amberkv/amber/storage"
)

// removeWithin bounds the removal of files that a Dragonfly wrote for us.
const removeWithin = 10 * time.Second

// ownName returns a name for a Dragonfly's files that nobody else has. It has nothing in it that a Dragonfly gives a meaning to: no dot, no
// slash, no percent sign, no brace, and not the word summary.
func ownName(t time.Time) string {
	var random [8]byte
	rand.Read(random[:]) // never fails
	return "amber-save-" + t.UTC().Format("20060102T150405Z") + "-" + hex.EncodeToString(random[:])
}

// ours tells whether a file is one of a save of the given name, finished or not.
func ours(name, file string) bool {
	rest, ok := strings.CutPrefix(file, name)
	if !ok {
		return false
	}
	rest = strings.TrimSuffix(rest, temporary)
	if rest == ".rdb" || rest == summarySuffix {
		return true
	}
	digits, ok := strings.CutPrefix(rest, "-")
	digits, dot := strings.CutSuffix(digits, ".dfs")
	return ok && dot && len(digits) >= 4 && strings.Trim(digits, "0123456789") == ""
}

// saveSet makes a Dragonfly save under a name of ours, and finds its files.
func (w *saving) saveSet(ctx context.Context) (*saved, error) {
	name := ownName(w.now())
	w.mayBeLoaded(ctx, name)
	if _, err := w.cfg.Store.Stat(ctx, w.key(name+summarySuffix)); err != nil && !errors.Is(err, storage.ErrNotFound) {
		return nil, fmt.Errorf("dumpfile: before the save: %w", err)
	}
	b, err := w.beginSet(ctx, name)
	if err != nil {
		if b == nil {
			return nil, err
		}
		w.abandon(ctx, name, true)
		return nil, err
	}
	sn, err := w.findSet(ctx, name, b)
	if err != nil {
		w.abandon(ctx, name, false)
		return nil, err
	}
	return sn, nil
}

// mayBeLoaded warns of a server that would load our files when it starts: they are good, and it is only lucky if they are the newest.
func (w *saving) mayBeLoaded(ctx context.Context, name string) {
	pattern, ok, _, err := w.setting(ctx, "dbfilename")
	if err == nil && ok && dfs.AtStart(pattern, []dfs.File{{Name: name + summarySuffix}}, false) == 0 {
		w.log.Warn("if the server is started again before the backup is done it may load what it saved for that, by its dbfilename", "server", w.conn.Addr, "dbfilename", pattern)
	}
}

// beginSet makes the server begin to save as soon as it does nothing else. The save returned is not nil where the command was sent, also with an error.
func (w *saving) beginSet(ctx context.Context, name string) (*bgsave, error) {
	start := clock.System()
	blocking := false
	for {
		was, err := w.idle(ctx)
		if err != nil {
			return nil, err
		}
		if _, tells := was["saving"]; !tells {
			_, tells = was["rdb_bgsave_in_progress"]
			blocking = blocking || !tells
		}
		args := []string{"BGSAVE", w.cfg.Format}
		if blocking {
			args[0] = "SAVE"
			w.conn.SetTimeout(max(time.Millisecond, w.deadline.Sub(clock.System())))
		}
		if w.cfg.Location != "" {
			args = append(args, w.cfg.Location)
		}
		b := &bgsave{was: was, waited: clock.Since(start), clock: clock.System(), asked: w.now()}
		_, err = w.conn.Command(append(args, name)...)
		w.conn.SetTimeout(w.cfg.StallTimeout)
		step := strings.Join(args[:2], " ")
		text := ""
		if link.IsReply(err) {
			text = strings.ToLower(err.Error())
		}
		switch {
		case err == nil:
			b.began, err = w.info(ctx)
			return b, err
		case text == "":
			return b, w.conn.Fail(step, err)
		case strings.Contains(text, "in progress: saving"):
			if err := w.rest(ctx); err != nil {
				return nil, err
			}
		case strings.Contains(text, "in progress:"):
			return nil, w.fail(step, backup.ErrTransient, "try again when that is over", "%w", err)
		case !blocking && (link.UnknownCommand(err) || strings.Contains(text, "syntax error")):
			w.log.Info("the server doesn't take BGSAVE with a name, trying SAVE", "server", w.conn.Addr, "error", err)
			blocking = true
		case strings.Contains(text, "unknown subcommand"), strings.Contains(text, "syntax error"):
			return nil, w.fail(step, backup.ErrUnsupported, "it may be too old to be given a format and a name", "%w", err)
		default:
			failed := w.conn.Fail(step, err)
			for _, kind := range []error{backup.ErrPermission, backup.ErrUnsupported, backup.ErrTransient, backup.ErrAuth} {
				if errors.Is(failed, kind) {
					return nil, failed // it has begun nothing
				}
			}
			var e *backup.SourceError
			if errors.As(failed, &e) && e.Hint == "" {
				e.Hint = "its log may tell more: the disk is full, it may not write into its directory, or has no credentials for the bucket"
			}
			return b, failed
		}
		if clock.System().After(w.deadline) {
			return nil, w.fail(step, backup.ErrStalled, "", "the server was busy with other saves for %v", w.cfg.SaveTimeout)
		}
	}
}

// findSet waits for the end of a save and for its files.
func (w *saving) findSet(ctx context.Context, name string, b *bgsave) (*saved, error) {
	mine := func(info resp.Info) bool {
		file := path.Base(info["last_saved_file"])
		return file == name || ours(name, file)
	}
	last, err := w.poll(ctx, "the save", func(info resp.Info) bool { return mine(info) || !busy(info) })
	if err != nil {
		return nil, err
	}
	if !mine(last) && last["rdb_last_bgsave_status"] == "err" {
		return nil, w.fail("wait for the save", nil, "its log may tell more: the disk is full, it may not write into its directory, or has no credentials for the bucket",
			"the server's save failed: %q", last["last_error"])
	}
	key := w.key(name + summarySuffix)
	if w.cfg.Format == "RDB" {
		key = w.key(name + ".rdb")
	}
	files, err := w.awaitSet(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("%w: the server says that it saved %q last", err, last["last_saved_file"])
	}
	sn := newSaved(ctx, w, b)
	sn.files, sn.parts, sn.unread, sn.name = files, files.parts, len(files.parts), name
	sn.census = takeCensus(b.was, b.began)
	sn.source = w.source()
	sn.source.File, sn.source.Time = key, b.asked.UTC()
	sn.source.Cost = &catalog.Cost{Waited: b.waited}
	if files.set && !files.counted {
		w.log.Warn("the set doesn't say of how many files it is, as of a Dragonfly before 1.32: that all are there isn't proved", "file", key)
	}
	w.log.Info("the server has saved", "server", w.conn.Addr, "role", sn.source.Role, "file", key, "files", len(sn.parts))
	return sn, nil
}

// awaitSet finds the files in the store, where they may be seen a little later.
func (w *saving) awaitSet(ctx context.Context, key string) (*snapshot, error) {
	finder := &Snapshotter{cfg: Config{Store: w.cfg.Store, Name: key}}
	until := clock.System().Add(w.cfg.VisibleTimeout)
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		files, err := finder.snapshot(ctx)
		if err == nil {
			return files, nil
		}
		var set *dfs.SetError
		late := errors.Is(err, storage.ErrNotFound) || errors.As(err, &set) && len(set.Foreign) == 0
		if !late || clock.System().Add(pause).After(until) {
			if errors.Is(err, storage.ErrNotFound) {
				err = fmt.Errorf("%w: %w: SaveConfig.Store and Prefix have to lead to where the server saves", ErrElsewhere, err)
			}
			return nil, fmt.Errorf("dumpfile: %s: %w", key, err)
		}
		if err := clock.Sleep(ctx, pause); err != nil {
			return nil, err
		}
	}
}

// remove removes the files of a save of ours, and nothing else.
func (s *SaveSnapshotter) remove(ctx context.Context, name string) error {
	var keys []string
	for info, err := range s.cfg.Store.List(ctx, s.key(name)) {
		if err != nil {
			return fmt.Errorf("dumpfile: removing what the server saved as %s: %w", name, err)
		}
		if path.Dir(info.Key) == path.Dir(s.key(name)) && ours(name, path.Base(info.Key)) {
			keys = append(keys, info.Key)
		}
	}
	// The summary first: without it the rest is no snapshot that a server would load.
	slices.SortStableFunc(keys, func(a, b string) int {
		switch x, y := dfs.IsSummary(a), dfs.IsSummary(b); {
		case x && !y:
			return -1
		case y && !x:
			return 1
		}
		return 0
	})
	var all error
	for _, key := range keys {
		if err := s.cfg.Store.Delete(ctx, key); err != nil && !errors.Is(err, storage.ErrNotFound) {
			all = errors.Join(all, fmt.Errorf("dumpfile: removing what the server saved: %w", err))
		}
	}
	return all
}

// abandon removes the files of a save whose snapshot is not to be, as soon as the server is done with it. It doesn't wait for that. If
// it isn't known whether the server got the command, it may be about to.
func (w *saving) abandon(ctx context.Context, name string, unsure bool) {
	s := w.SaveSnapshotter
	cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.SaveTimeout)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		cancel()
		s.left = append(s.left, s.key(name)+"*")
		return
	}
	s.ends[name] = cancel
	s.late.Go(func() {
		defer cancel()
		clean := s.cleanUp(cctx, name)
		if unsure && clock.Sleep(cctx, lastPause) == nil {
			clean = s.cleanUp(cctx, name)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.ends, name)
		if !clean {
			s.left = append(s.left, s.key(name)+"*")
		}
	})
}

// cleanUp waits until the server is at no save any more, or is gone, and removes the files.
func (s *SaveSnapshotter) cleanUp(ctx context.Context, name string) (clean bool) {
	w := &saving{SaveSnapshotter: s, again: maxReconnects, deadline: clock.System().Add(s.cfg.SaveTimeout)}
	defer w.disconnect()
	err := w.connect(ctx)
	if err == nil {
		_, err = w.idle(ctx)
	}
	if ctx.Err() != nil {
		return false
	}
	if err != nil {
		s.log.Warn("the server can't be asked whether it still saves", "file", name, "error", err)
	}
	rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeWithin) // Close waits for this
	defer cancel()
	if err := s.remove(rctx, name); err != nil {
		s.log.Warn("files that the server saved for us may be left", "error", err)
		return false
	}
	return err == nil
}
