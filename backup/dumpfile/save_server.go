package dumpfile

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/internal/link"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/internal/resp"
)

// maxReconnects is how often a connection that is cut while a save is waited for is made again: the save goes on without it.
const maxReconnects = 3

// How often a server is asked how far it is.
const (
	firstPause = 10 * time.Millisecond
	lastPause  = time.Second
)

// saveAdvice is what errors say.
var saveAdvice = link.Advice{
	Rights: "+info +bgsave +config|get",
	Unsupported: "the server doesn't let others make it save, as managed services do or rename-command makes it: use the service's own export, " +
		"or another snapshotter",
	Cut: "the server's log tells why: it was restarted, or the connection was killed",
}

// saving is one call of Snapshot.
type saving struct {
	*SaveSnapshotter
	conn     *link.Conn
	first    resp.Info     // as the server was when it was found
	again    int           // how often the connection may be made again
	deadline time.Time     // by the machine's clock
	pause    time.Duration // before it is asked to save once more
}

// connect finds out who the server is.
func (w *saving) connect(ctx context.Context) error {
	conn, err := link.Open(ctx, link.Options{Redis: w.cfg.Options, Timeout: w.cfg.ConnectTimeout, Advice: saveAdvice})
	if err != nil {
		return err
	}
	w.conn = conn
	if err := w.ask(); err != nil {
		return conn.Fail("INFO", err)
	}
	conn.SetTimeout(w.cfg.StallTimeout)
	if w.first == nil {
		w.first = conn.Info
	}
	return nil
}

// ask gets the server's INFO, without which nothing is known of a save.
func (w *saving) ask() error {
	seen, why, err := w.conn.AskInfo()
	if err == nil && !seen {
		err = why
	}
	return err
}

func (w *saving) disconnect() {
	if w.conn != nil {
		w.conn.Close()
	}
}

func (w *saving) dragonfly() bool { return w.first["dragonfly_version"] != "" }

// fail makes an error of what the server did.
func (w *saving) fail(step string, kind error, hint, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	if kind != nil {
		err = link.As(kind, err)
	}
	return &backup.SourceError{Addr: w.conn.Addr, Step: step, Err: err, Hint: hint}
}

// check refuses what can't be a source.
func (w *saving) check() error {
	info := w.first
	switch {
	case info["redis_mode"] == "sentinel" || info["server_mode"] == "sentinel":
		return w.fail("INFO", backup.ErrUnsupported, "give the address of the primary or a replica that it watches", "this is a Sentinel, which holds no data")
	case info.Int("cluster_enabled") == 1 && !w.dragonfly():
		return w.fail("INFO", backup.ErrUnsupported, "take the cluster's snapshot from its nodes by replication", "this is a node of a cluster, which holds only its own slots")
	case info.Int("loading") == 1 || info.Int("async_loading") == 1:
		return w.fail("INFO", backup.ErrTransient, "try again when it is done", "the server is loading its data")
	case w.conn.Role() == "replica" && (info["master_link_status"] == "down" || info.Int("master_sync_in_progress") == 1):
		return w.fail("INFO", backup.ErrTransient, "try again when it is in sync, or take the snapshot from the primary", "this replica's link to its primary is down, or it is synchronising")
	case w.dragonfly() && w.cfg.Name != "":
		return w.fail("INFO", backup.ErrUnsupported, "leave SaveConfig.Name empty", "this is a Dragonfly, which is given a name for each save")
	case !w.dragonfly() && w.cfg.Location != "":
		return w.fail("INFO", backup.ErrUnsupported, "leave SaveConfig.Location empty", "only a Dragonfly can be told where to save")
	case !w.dragonfly() && w.cfg.Format == "RDB":
		return nil // that is what it writes
	}
	if info["rdb_last_bgsave_status"] == "err" {
		w.log.Warn("the server's last save failed: the next one may, too", "server", w.conn.Addr, "error", info["last_error"])
	}
	return nil
}

// info asks the server how it is.
func (w *saving) info(ctx context.Context) (resp.Info, error) {
	if err := w.steady(ctx, w.ask); err != nil {
		return nil, err
	}
	return w.conn.Info, w.same()
}

// steady asks something, over a new connection if the one before was cut: what the server is at goes on without it.
func (w *saving) steady(ctx context.Context, ask func() error) error {
	err := ask()
	for err != nil {
		if !link.Cut(err) || w.again == 0 || ctx.Err() != nil {
			return w.lost(err)
		}
		w.again--
		w.disconnect()
		if err = w.connect(ctx); err == nil {
			if err := w.same(); err != nil {
				return err
			}
			err = ask()
		} else if !link.Cut(err) || clock.Sleep(ctx, 20*firstPause) != nil {
			return w.lost(err)
		}
	}
	return nil
}

// same makes sure that the server is the same process as at first, in the same role.
func (w *saving) same() error {
	info := w.conn.Info
	switch {
	case info["run_id"] != w.first["run_id"], info.Int("uptime_in_seconds") < w.first.Int("uptime_in_seconds"):
		return w.fail("wait for the save", backup.ErrTransient, "its log tells why; try again", "the server was restarted meanwhile: the save is lost")
	case info["role"] != w.first["role"]:
		return w.fail("wait for the save", backup.ErrTransient, "try again when the failover is over", "the server was a %s and is a %s now", w.first["role"], info["role"])
	}
	return nil
}

// lost makes an error of a connection that was lost while a save was waited for.
func (w *saving) lost(err error) error {
	var e *backup.SourceError
	if !errors.As(err, &e) {
		return w.conn.Fail("wait for the save", err)
	}
	return &backup.SourceError{Addr: e.Addr, Step: "wait for the save", Err: fmt.Errorf("the connection was cut, and can't be made again: %s: %w", e.Step, e.Err), Hint: saveAdvice.Cut}
}

// poll asks the server how it is until done says that this will do.
func (w *saving) poll(ctx context.Context, what string, done func(resp.Info) bool) (resp.Info, error) {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		info, err := w.info(ctx)
		if err != nil || done(info) {
			return info, err
		}
		if left := w.deadline.Sub(clock.System()); left <= 0 {
			return nil, w.fail("wait for the save", backup.ErrStalled, "raise SaveConfig.SaveTimeout, or look at the server's disk", "%s has not ended after %v", what, w.cfg.SaveTimeout)
		}
		if err := clock.Sleep(ctx, pause); err != nil {
			return nil, w.conn.Fail("wait for the save", err)
		}
	}
}

// idle waits for the end of a save that isn't ours.
func (w *saving) idle(ctx context.Context) (resp.Info, error) {
	said := false
	return w.poll(ctx, "a save that was under way before", func(info resp.Info) bool {
		if !busy(info) {
			return true
		}
		if !said {
			said = true
			w.log.Info("waiting for a save that the server is at already", "server", w.conn.Addr)
		}
		return false
	})
}

// busy says whether a server saves.
func busy(info resp.Info) bool {
	return info.Int("rdb_bgsave_in_progress") == 1 || info.Int("saving") == 1
}

// setting asks for one of the server's settings. ok is false where it doesn't let us see it; why tells the reason.
func (w *saving) setting(ctx context.Context, name string) (value string, ok bool, why, err error) {
	var reply resp.Reply
	err = w.steady(ctx, func() error {
		var err error
		if reply, err = w.conn.Command("CONFIG", "GET", name); link.IsReply(err) {
			why, err = err, nil
		}
		return err
	})
	switch {
	case err != nil || why != nil:
		return "", false, why, err
	case len(reply.Elems) != 2:
		return "", false, errors.New("the server has no such setting"), nil
	}
	return reply.Elems[1].Text, true, nil, nil
}

// keyspace sums up what a server says about its databases.
func keyspace(info resp.Info) (keys, expires int64) {
	for field := range info {
		if digits, ok := strings.CutPrefix(field, "db"); !ok || digits == "" || strings.Trim(digits, "0123456789") != "" {
			continue
		}
		one := resp.Info{}
		for name, value := range info.Attributes(field) {
			one[name] = value
		}
		keys, expires = keys+one.Int("keys"), expires+one.Int("expires")
	}
	return keys, expires
}

// A census is what is known about how many keys a server had at the instant of its save.
type census struct{ least, most int64 }

// takeCensus compares the server before and after that instant.
func takeCensus(before, after resp.Info) census {
	a, expA := keyspace(before)
	b, expB := keyspace(after)
	between := max(0, after.Int("total_commands_processed")-before.Int("total_commands_processed"))
	return census{least: min(a, b) - max(expA, expB) - between, most: max(a, b) + between}
}

// source describes the server for the manifest.
func (w *saving) source() catalog.Source {
	src := catalog.Source{Role: w.conn.Role(), Address: w.conn.Addr, Method: saveMethod, UsedMemory: w.conn.Info.Int("used_memory")}
	src.Engine, src.Version = w.conn.Engine()
	switch {
	case src.Role == "replica" || w.conn.Info.Int("connected_slaves") > 0:
		src.Topology = "replicated"
	case src.Role == "primary":
		src.Topology = "standalone"
	}
	return src
}
