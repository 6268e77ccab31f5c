package govern

import (
	"cmp"
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/internal/link"
	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/internal/replication"
	"github.com/amberkv/amber/internal/resp"
)

// advice is what errors of our own connection say.
var advice = link.Advice{
	Rights:      "+info +ping",
	Unsupported: "the server doesn't let others look at it",
	Cut:         "the server was restarted, or the connection killed",
}

// Before a snapshot so many PINGs are sent, so far from each other.
const (
	pingsBefore = 20
	pingPause   = 5 * time.Millisecond
)

// A before is what was found out, and the connection by which it was.
type before struct {
	conn   *link.Conn // the caller's, whose context governs it; nil without Options
	ping   time.Duration
	mute   bool // PING isn't allowed
	waited time.Duration
}

// ready waits until the source is ready for a snapshot.
func (s *Snapshotter) ready(ctx context.Context) (*before, error) {
	if s.cfg.Options == nil {
		return &before{}, nil
	}
	began, told := clock.System(), ""
	for {
		l, err := s.open(ctx)
		if err != nil {
			return nil, err
		}
		f, err := s.look(ctx, l)
		if err == nil {
			b := &before{conn: l, ping: f.ping, mute: f.ping == 0, waited: clock.Since(began)}
			var point *Point
			if point = s.judge(f); point == nil {
				s.tell(ctx, l.Addr, f)
				if told == "" {
					b.waited = 0 // to look isn't to wait
				} else {
					s.log.InfoContext(ctx, "the source is ready for a snapshot", "node", l.Addr, "waited", b.waited)
				}
				return b, nil
			}
			left := s.cfg.Limits.Wait - b.waited
			if point.Level == Wait && left > 0 {
				if told != point.Name {
					told = point.Name
					s.log.InfoContext(ctx, "the snapshot waits for its source", "node", l.Addr, "point", point.Name, "seen", point.Seen, "limit", point.Limit, "atMost", left)
				}
				l.Close()
				if err := clock.Sleep(ctx, min(s.tuning.poll, left)); err != nil {
					return nil, s.spared(&backup.SourceError{Addr: l.Addr, Step: "wait for the source to be ready", Err: err, Hint: point.Seen})
				}
				continue
			}
			e := &LimitError{Name: point.Name, Seen: point.Seen, Limit: point.Limit, refused: !s.cfg.Several}
			err = &backup.SourceError{Addr: l.Addr, Step: "look at the source", Err: e, Hint: point.Hint}
		}
		l.Close()
		return nil, err
	}
}

// judge returns the point for which the snapshot can't be taken now: one that is refused before one that is waited for.
func (s *Snapshotter) judge(f *facts) *Point {
	var worst *Point
	for _, p := range f.points() {
		if (p.Level == Wait || p.Level == Fail) && !s.cfg.Limits.ignores(p.Name) && (worst == nil || worst.Level == Wait && p.Level == Fail) {
			worst = &p
		}
	}
	return worst
}

// tell logs what a snapshot is taken in spite of.
func (s *Snapshotter) tell(ctx context.Context, addr string, f *facts) {
	for _, p := range f.points() {
		switch p.Level {
		case Pass:
		case Warn:
			s.log.InfoContext(ctx, "a point of the source isn't clear", "node", addr, "point", p.Name, "seen", p.Seen, "hint", p.Hint)
		default:
			s.log.WarnContext(ctx, "a point of the source is ignored", "node", addr, "point", p.Name, "seen", p.Seen, "limit", p.Limit)
		}
	}
}

// open connects to the server that is to be looked at: the given one, or a replica of it where one is preferred.
func (s *Snapshotter) open(ctx context.Context) (*link.Conn, error) {
	given, err := s.connect(ctx, "")
	if err != nil {
		return nil, s.spared(err)
	}
	if _, _, err := given.AskInfo(); err != nil {
		err = given.Fail("INFO", err)
		given.Close()
		return nil, s.spared(err)
	}
	if !s.cfg.Replica || given.Role() != "primary" {
		return given, nil
	}
	addr := replicaOf(given.Info)
	if addr == "" {
		return given, nil
	}
	l, err := s.connect(ctx, addr)
	if err == nil {
		if _, _, err = l.AskInfo(); err == nil && l.Role() == "replica" && l.Info["master_replid"] == given.Info["master_replid"] {
			given.Close()
			return l, nil
		}
		l.Close()
	}
	if ctx.Err() != nil {
		err = given.Fail("connect", ctx.Err())
		given.Close()
		return nil, s.spared(err)
	}
	s.log.Debug("the replica that would send the snapshot can't be looked at, the given server is", "replica", addr, "error", err)
	return given, nil
}

func (s *Snapshotter) connect(ctx context.Context, addr string) (*link.Conn, error) {
	return link.Open(ctx, link.Options{Redis: s.cfg.Options, Addr: cmp.Or(addr, replication.Address(s.cfg.Options)), Timeout: s.cfg.ConnectTimeout, Advice: advice})
}

// spared marks an error before which the source wasn't asked for anything that costs it.
func (s *Snapshotter) spared(err error) error {
	var e *backup.SourceError
	if errors.As(err, &e) && !s.cfg.Several {
		e.Err = link.As(backup.ErrSpared, e.Err)
	}
	return err
}

// replicaOf returns the address of the replica with the newest data, as the primary tells it, or "".
func replicaOf(info resp.Info) (addr string) {
	newest := int64(-1)
	for n := range 1000 {
		attrs := map[string]string{}
		for name, value := range info.Attributes("slave" + strconv.Itoa(n)) {
			attrs[name] = value
		}
		if len(attrs) == 0 {
			return addr
		}
		offset, err := strconv.ParseInt(attrs["offset"], 10, 64)
		if err == nil && offset > newest && attrs["state"] == "online" && attrs["port"] != "" && attrs["port"] != "0" {
			addr, newest = net.JoinHostPort(attrs["ip"], attrs["port"]), offset
		}
	}
	return addr
}

// look finds out what there is to know. The connection has asked for INFO.
func (s *Snapshotter) look(ctx context.Context, l *link.Conn) (*facts, error) {
	f := &facts{method: s.cfg.Method, noRDBOnly: s.tuning.noRDBOnly, expected: s.cfg.Expected, limits: s.cfg.Limits, buffer: defaultBuffer}
	f.engine, f.version = l.Engine()
	first, at := l.Info, clock.System()
	fail := func(step string, err error) (*facts, error) { return nil, s.spared(l.Fail(step, err)) }
	var pings []time.Duration
	for i := range pingsBefore {
		if i > 0 {
			if err := clock.Sleep(ctx, pingPause); err != nil {
				return fail("PING", err)
			}
		}
		took, ok, err := ping(l)
		if err != nil {
			return fail("PING", err)
		}
		if !ok {
			pings = nil
			break
		}
		pings = append(pings, took)
	}
	f.ping = p99(pings)
	f.info = first
	if len(first) == 0 {
		return f, nil
	}
	if f.buffered() {
		// What is written has to be known well then.
		if err := clock.Sleep(ctx, time.Second-clock.Since(at)); err != nil {
			return fail("INFO", err)
		}
		if err := s.askBuffer(l, f); err != nil {
			return fail("CONFIG GET", err)
		}
	}
	if _, _, err := l.AskInfo(); err != nil {
		return fail("INFO", err)
	}
	seconds := clock.Since(at).Seconds()
	f.info = l.Info
	f.writes = int64(1024 * (number(f.info, "instantaneous_input_kbps") + number(f.info, "instantaneous_input_repl_kbps")))
	if a, b := first.Int("master_repl_offset"), f.info.Int("master_repl_offset"); b > a && a > 0 && seconds > 0 && first["master_replid"] == f.info["master_replid"] {
		f.writes = max(f.writes, int64(float64(b-a)/seconds))
	}
	return f, nil
}

// number is a field's number with a fraction; 0 if it is absent or none.
func number(info resp.Info, field string) float64 {
	v, err := strconv.ParseFloat(info[field], 64)
	if err != nil || v < 0 || v > 1e12 {
		return 0
	}
	return v
}

// askBuffer asks for the limit of the output buffer, if that is allowed.
func (s *Snapshotter) askBuffer(l *link.Conn, f *facts) error {
	reply, err := l.Command("CONFIG", "GET", "client-output-buffer-limit")
	if link.IsReply(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(reply.Elems) == 2 {
		if b, ok := parseBuffer(reply.Elems[1].Text); ok {
			f.buffer = b
		}
	}
	return nil
}

// ping measures how long an answer takes. Not ok: the server doesn't let us.
func ping(l *link.Conn) (took time.Duration, ok bool, err error) {
	at := clock.System()
	_, err = l.Command("PING")
	var e resp.Error
	switch {
	case err == nil:
		return max(clock.Since(at), 1), true, nil
	case errors.As(err, &e) && (e.Code() == "NOPERM" || link.UnknownCommand(err)):
		return 0, false, nil
	case errors.As(err, &e) && !strings.HasPrefix(e.Code(), "NOAUTH"): // -LOADING, -BUSY: it is an answer
		return max(clock.Since(at), 1), true, nil
	}
	return 0, false, err
}

// p99 returns the 99th percentile, or 0 of nothing.
func p99(d []time.Duration) time.Duration {
	if len(d) == 0 {
		return 0
	}
	d = slices.Sorted(slices.Values(d))
	return d[(99*len(d)+99)/100-1]
}
