package dumpfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/internal/link"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/internal/resp"
	"github.com/amberkv/amber/storage"
)

// A place is where a server says that it writes.
type place struct {
	dir, file string
	why       error // why it isn't known
}

func (p place) String() string {
	if p.why != nil {
		return "a place that it doesn't tell"
	}
	return path.Join(p.dir, p.file)
}

// where asks the server where it writes.
func (w *saving) where(ctx context.Context) (p place, err error) {
	for name, to := range map[string]*string{"dir": &p.dir, "dbfilename": &p.file} {
		value, ok, why, err := w.setting(ctx, name)
		switch {
		case err != nil:
			return p, err
		case !ok:
			p.why = why
		default:
			*to = value
		}
	}
	return p, nil
}

// saveFile makes a Redis or Valkey save, and opens its file.
func (w *saving) saveFile(ctx context.Context) (*saved, error) {
	at, err := w.where(ctx)
	if err != nil {
		return nil, err
	}
	key := w.cfg.Name
	if key == "" {
		if at.why != nil {
			e := w.conn.Fail("CONFIG GET dbfilename", at.why).(*backup.SourceError)
			e.Hint = "allow the user +config|get, or tell the name of the server's file by SaveConfig.Name"
			return nil, e
		}
		key = w.key(at.file)
	}
	if err := storage.ValidKey(key); err != nil {
		return nil, w.fail("CONFIG GET dbfilename", backup.ErrUnsupported, "give the server's file another name", "its name can't be that of an object: %w", err)
	}
	b, err := w.begin(ctx, key)
	if err != nil {
		return nil, err
	}
	now, err := w.where(ctx)
	if err != nil {
		return nil, err
	}
	if w.cfg.Name == "" && now.why == nil && (now.dir != at.dir || now.file != at.file) {
		return nil, fmt.Errorf("dumpfile: %w: the server wrote to %s, and to %s since about then: take it again", ErrChanged, at, now)
	}
	last, err := w.poll(ctx, "the save", b.over)
	if err != nil {
		return nil, err
	}
	if err := w.verdict(ctx, b, last); err != nil {
		return nil, err
	}
	return w.pick(ctx, key, at, b, last)
}

// A bgsave is a save that was begun for us.
type bgsave struct {
	was       resp.Info // just before it was asked for
	began     resp.Info // the first that was seen after it was begun
	asked     time.Time // by Now
	answered  time.Time // by Now
	clock     time.Time // asked, by the machine's clock
	waited    time.Duration
	scheduled bool
	counted   bool  // the server counts its saves
	number    int64 // of ours, then
	alone     bool  // it certainly is ours that has this number

	key    string       // of the file
	before storage.Info // what there was; without a key: nothing
}

// over says whether ours has ended: there is none, or a later one.
func (b *bgsave) over(info resp.Info) bool {
	return !busy(info) || b.counted && info.Int("rdb_saves") > b.number
}

// begin makes the server begin a save as soon as it is at no other.
func (w *saving) begin(ctx context.Context, key string) (*bgsave, error) {
	b := &bgsave{clock: clock.System(), key: key}
	start := clock.System()
	forkless, schedule := w.cfg.Forkless, false
	for {
		var err error
		if b.was, err = w.idle(ctx); err != nil {
			return nil, err
		}
		// A store that can't be read is noticed before the server has the work.
		if b.before, err = w.cfg.Store.Stat(ctx, key); errors.Is(err, storage.ErrNotFound) {
			b.before = storage.Info{}
		} else if err != nil {
			return nil, fmt.Errorf("dumpfile: %s: before the save: %w", key, err)
		}
		args := []string{"BGSAVE"}
		switch {
		case schedule, b.was.Int("aof_rewrite_in_progress") == 1:
			args = append(args, "SCHEDULE")
		case forkless:
			args = append(args, "FORKLESS")
		}
		b.waited, b.clock, b.asked = clock.Since(start), clock.System(), w.now()
		reply, err := w.conn.Command(args...)
		b.answered = w.now()
		text := ""
		if link.IsReply(err) {
			text = strings.ToLower(err.Error())
		}
		switch {
		case err == nil:
			b.scheduled = strings.Contains(reply.Text, "scheduled")
			return b, w.begun(ctx, b)
		case strings.Contains(text, "schedule") && !schedule:
			schedule = true // another child is at work: an AOF rewrite, or a module's
		case strings.Contains(text, "in progress"):
			// Somebody was quicker, or it is a rewrite, before Redis 3.2. That is waited for.
			if err := w.rest(ctx); err != nil {
				return nil, err
			}
		case strings.Contains(text, "syntax error") && forkless:
			w.log.Info("the server doesn't know BGSAVE FORKLESS", "server", w.conn.Addr)
			forkless = false
		default:
			return nil, w.refused(err, args)
		}
		if clock.System().After(w.deadline) {
			return nil, w.fail(strings.Join(args, " "), backup.ErrStalled, "", "the server was busy with other saves for %v", w.cfg.SaveTimeout)
		}
	}
}

// rest waits a moment before the server is asked again, each time a longer one.
func (w *saving) rest(ctx context.Context) error {
	w.pause = min(max(firstPause, 2*w.pause), lastPause)
	if err := clock.Sleep(ctx, w.pause); err != nil {
		return w.conn.Fail("wait for the save", err)
	}
	return nil
}

// refused explains why no save was begun.
func (w *saving) refused(err error, args []string) error {
	failed := w.conn.Fail(strings.Join(args, " "), err)
	var e *backup.SourceError
	if errors.As(failed, &e) && e.Hint == "" && strings.TrimSpace(err.Error()) == "ERR" {
		e.Hint = "the server couldn't fork: its log tells why (memory, vm.overcommit_memory, the number of processes)"
	}
	return failed
}

// begun finds out about the save that was just begun, or scheduled.
func (w *saving) begun(ctx context.Context, b *bgsave) (err error) {
	_, b.counted = b.was["rdb_saves"]
	before := b.was.Int("rdb_saves")
	started := func(info resp.Info) bool {
		switch {
		case !b.scheduled:
			return true
		case b.counted:
			return info.Int("rdb_saves") > before
		}
		return busy(info) || info["rdb_last_save_time"] != b.was["rdb_last_save_time"]
	}
	if b.began, err = w.poll(ctx, "what the scheduled save waits for", started); err != nil {
		return err
	}
	b.number = max(b.began.Int("rdb_saves"), before+1)
	b.alone = b.counted && !b.scheduled && b.number == before+1
	return nil
}

// verdict says whether the save succeeded, as far as the server tells.
func (w *saving) verdict(ctx context.Context, b *bgsave, last resp.Info) error {
	later := b.counted && last.Int("rdb_saves") > b.number
	oursIsLast := !later || last.Int("rdb_saves") == b.number+1 && busy(last)
	if last["rdb_last_bgsave_status"] == "err" && oursIsLast {
		return w.saveFailed(ctx)
	}
	// The time of the last save is by the server's clock, and so is that of INFO, where it is told.
	ended := last.Int("rdb_last_save_time")
	if asked := b.was.Int("server_time_usec") / 1e6; asked > ended {
		return w.noFile()
	}
	return nil
}

// noFile explains a save that was neither successful nor failed.
func (w *saving) noFile() error {
	return w.fail("wait for the save", backup.ErrTransient, "try again", "the save was ended without a file: FLUSHALL, BGSAVE CANCEL, a shutdown or a synchronisation with its primary does that")
}

// saveFailed explains a save that failed, and what that means for the server.
func (w *saving) saveFailed(ctx context.Context) error {
	hint := "its log tells why: the disk is full, it may not write into its directory, or its child was killed for want of memory"
	stop, known, _, _ := w.setting(ctx, "stop-writes-on-bgsave-error")
	points, _, _, _ := w.setting(ctx, "save")
	switch {
	case known && stop == "yes" && points != "":
		hint += "; it takes no writes now (MISCONF, stop-writes-on-bgsave-error) until a save succeeds: mend it and send BGSAVE, or CONFIG SET stop-writes-on-bgsave-error no"
	case !known:
		hint += "; if it has save points and stop-writes-on-bgsave-error, it takes no writes until a save succeeds"
	}
	return w.fail("wait for the save", nil, hint, "the server's save failed (rdb_last_bgsave_status is err)")
}

// pick opens the file that was saved and makes sure of it.
func (w *saving) pick(ctx context.Context, key string, at place, b *bgsave, last resp.Info) (*saved, error) {
	sn := newSaved(ctx, w, b)
	until := clock.System().Add(w.cfg.VisibleTimeout)
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		h, err := w.hold(ctx, sn, key)
		if err == nil {
			// Asked after the file was opened: what is in it began before.
			var now resp.Info
			if now, err = w.info(ctx); err == nil {
				if why := b.foreign(h, now); why != "" {
					err = fmt.Errorf("%w: %s", ErrElsewhere, why)
				} else {
					w.describe(sn, h, b, last, now)
					return sn, nil
				}
			}
			h.drop()
		} else if errors.Is(err, storage.ErrNotFound) {
			err = fmt.Errorf("%w: %w", ErrElsewhere, err)
		}
		if !errors.Is(err, ErrElsewhere) || clock.System().Add(pause).After(until) {
			sn.Close()
			if errors.Is(err, ErrElsewhere) {
				doubt := ""
				if last["rdb_last_save_time"] == b.was["rdb_last_save_time"] { // two saves in a second have the same
					doubt = ", unless FLUSHALL or BGSAVE CANCEL has ended its save"
				}
				err = fmt.Errorf("dumpfile: %s: %w: the server wrote %s%s: SaveConfig.Store and Prefix have to lead there", key, err, at, doubt)
			}
			return nil, err
		}
		if err := clock.Sleep(ctx, pause); err != nil {
			sn.Close()
			return nil, err
		}
	}
}

// hold opens the file, so that it stays what it is when the server saves again.
func (w *saving) hold(ctx context.Context, sn *saved, key string) (h *held, err error) {
	h = &held{}
	h.ctx, h.cancel = context.WithCancelCause(sn.ctx)
	stop := context.AfterFunc(ctx, func() { h.cancel(ctx.Err()) })
	defer func() {
		if !stop() && err == nil {
			err = ctx.Err()
		}
		if err != nil {
			h.drop()
			h, err = nil, fmt.Errorf("dumpfile: %s: %w", key, err)
		}
	}()
	if h.info, err = w.cfg.Store.Stat(h.ctx, key); err != nil {
		return h, err
	}
	if h.in, err = w.cfg.Store.Open(h.ctx, key, 0, -1); err != nil {
		return h, err
	}
	now, err := w.cfg.Store.Stat(h.ctx, key)
	if err != nil {
		return h, err
	}
	if err := same(h.info, now); err != nil {
		return h, fmt.Errorf("%w: %w", ErrElsewhere, err) // which of the two was opened isn't known
	}
	h.head, h.begin, err = readHead(h.in)
	return h, err
}

// foreign says why a file can't be what was saved for us, or by a later save; empty: it is that.
func (b *bgsave) foreign(h *held, now resp.Info) string {
	if h.info.Size == b.before.Size && h.info.ModTime.Equal(b.before.ModTime) && b.before.Key != "" {
		return fmt.Sprintf("the file is what it was before the save, %d bytes of %s", h.info.Size, h.info.ModTime.UTC().Format(time.RFC3339Nano))
	}
	if h.head.time.IsZero() {
		return "" // as Redis before 3.2 writes it
	}
	// All of these are seconds of the server's clock. A save begins when it was asked for, or later, and what has ended is known.
	ended := now.Int("rdb_last_save_time")
	from := b.was.Int("server_time_usec") / 1e6
	if from == 0 {
		from = ended - max(0, now.Int("rdb_last_bgsave_time_sec")) // of the last one
	}
	if at := h.head.time.Unix(); at < from-1 || at > ended+1 {
		return fmt.Sprintf("the file is of %s by its own words, and the save began at %s or later and ended by %s", h.head.time.Format(time.RFC3339),
			time.Unix(from, 0).UTC().Format(time.RFC3339), time.Unix(ended, 0).UTC().Format(time.RFC3339))
	}
	return ""
}

// describe completes the snapshot of a file.
func (w *saving) describe(sn *saved, h *held, b *bgsave, last, now resp.Info) {
	sn.held = h
	sn.census = takeCensus(b.was, b.began)
	src := w.source()
	src.File, src.Time = b.key, h.head.time
	src.ReplicationID, src.ReplicationOffset = h.head.replID, h.head.replOff
	fork := time.Duration(b.began.Int("latest_fork_usec")) * time.Microsecond
	ours := b.alone && now.Int("rdb_saves") == b.number
	if second := b.began.Int("server_time_usec") / 1e6; ours && (h.head.time.IsZero() || second == 0 || h.head.time.Unix() <= second+2) {
		if src.Time = b.answered.Add(-fork); src.Time.Before(b.asked) {
			src.Time = b.asked
		}
	} else if b.counted && !b.scheduled {
		w.log.Warn("another save came before ours was opened: the snapshot may be of that one", "server", w.conn.Addr, "time", src.Time)
	}
	if src.Time.IsZero() {
		src.Time = b.answered
	}
	src.Time = src.Time.UTC()
	src.Cost = &catalog.Cost{Fork: fork, CopyOnWrite: last.Int("rdb_last_cow_size"), Waited: b.waited}
	sn.source = src
	sn.parts, sn.unread = []backup.Part{{Name: "0000.rdb", Size: h.info.Size}}, 1
	w.log.Info("the server has saved", "server", w.conn.Addr, "role", src.Role, "file", b.key, "bytes", h.info.Size, "time", src.Time)
}

// held is a file that was opened.
type held struct {
	ctx    context.Context // of its reader
	cancel context.CancelCauseFunc
	in     io.ReadCloser
	info   storage.Info
	head   head
	begin  []byte // read already
}

func (h *held) drop() {
	h.cancel(errClosed)
	if h.in != nil {
		h.in.Close()
	}
}
