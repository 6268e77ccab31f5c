package amber

import (
	"context"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/restore/command"
	"github.com/amberkv/amber/restore/feed"
)

// loader makes the loader that a request asks for.
func (s *Service) loader(q *RestoreRequest) (restore.Loader, error) {
	byFeed := func() (restore.Loader, error) {
		return feed.New(feed.Config{Options: q.To, Listen: q.Listen, Advertise: q.Advertise, TLS: q.TLS, Logger: s.cfg.Logger})
	}
	byCommand := func() (restore.Loader, error) {
		return command.New(command.Config{Options: q.To, Connections: q.Connections, Logger: s.cfg.Logger})
	}
	switch q.Method {
	case MethodFeed:
		return byFeed()
	case MethodCommand:
		return byCommand()
	case MethodAuto:
		f, err := byFeed()
		if err != nil {
			return nil, err
		}
		c, err := byCommand()
		return &auto{feed: f, command: c, to: q.To}, err
	}
	return nil, fmt.Errorf("amber: RestoreRequest.Method is %q: it can be %q, %q or empty", q.Method, MethodFeed, MethodCommand)
}

// auto feeds a target that can be fed, and sends commands to others. It is used for one restore.
type auto struct {
	feed, command restore.Loader
	to            *redis.Options
	chosen        restore.Loader
}

// common are the points of a verdict that are the same for every method: where they fail, another one doesn't help.
var common = []string{"reachable", "loading", "empty", "unfinished"}

// Check asks the target by feed, and by command where feed fails for a reason of its own. What was chosen once stays.
func (a *auto) Check(ctx context.Context, need restore.Requirements) (restore.Verdict, error) {
	if a.chosen != nil {
		return a.chosen.Check(ctx, need)
	}
	if need.Conflict().Merges() {
		a.chosen = a.command
		return a.chosen.Check(ctx, need)
	}
	if n := need.Backup.Commands; n > 0 {
		a.chosen = a.command
		w, err := a.chosen.Check(ctx, need)
		if err == nil {
			w.Pass("method", "by command, since %d commands are to be executed on top of the keys", n)
		}
		return w, err
	}
	v, err := a.feed.Check(ctx, need)
	if err != nil {
		return v, err
	}
	why, own := ownFailures(v)
	if !own {
		a.chosen = a.feed
		return v, nil
	}
	w, err := a.command.Check(ctx, need)
	if err != nil {
		return w, err
	}
	a.chosen = a.command
	w.Pass("method", "by command, since it can't be fed: %s", why)
	return w, nil
}

// ownFailures tells why a verdict failed, and whether any of that is for the method alone.
func ownFailures(v restore.Verdict) (why string, own bool) {
	var all []string
	for _, p := range v.Points {
		if p.Level != restore.Fail {
			continue
		}
		all = append(all, p.Name)
		shared := false
		for _, name := range common {
			shared = shared || p.Name == name
		}
		own = own || !shared
		why = p.Detail
	}
	if len(all) > 1 {
		why = strings.Join(all, ", ")
	}
	return why, own
}

// Load loads by what Check chose.
func (a *auto) Load(ctx context.Context, src restore.Source, opts *restore.Options) (*restore.Report, error) {
	if a.chosen == nil {
		if _, err := a.Check(ctx, restore.Requirements{Backup: src.Backup(), Options: opts}); err != nil {
			return nil, err
		}
	}
	return a.chosen.Load(ctx, src, opts)
}

// View returns through which the target is looked at afterwards.
func (a *auto) View() *redis.Options { return a.to }
