package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/internal/link"
	"github.com/amberkv/amber/backup/internal/retake"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/internal/replication"
	"github.com/amberkv/amber/internal/resp"
)

// A layout is a settled cluster: all nodes agree, and no slot is on its way.
type layout struct {
	asked  string // who told it first
	shards []*shardLayout
	owners []owned
	jobs   map[string]job // migrations that had ended
	nodes  []string       // addresses of all nodes, to ask when some are lost
}

// A shardLayout is a shard in a layout.
type shardLayout struct {
	id     string // of its primary
	addr   string
	slots  []catalog.SlotRange
	epoch  int64
	nodes  []string // addresses of all of the shard
	replID string   // of the primary's replication, and how far it was
	offset int64
}

// A trouble is why a cluster isn't settled.
type trouble struct {
	text   string
	moving bool // a slot is on its way; else a node doesn't answer, or doesn't know yet
}

// poll is the time between two looks at a cluster that isn't as it should be.
const poll = 300 * time.Millisecond

// together is how many nodes are asked at a time.
const together = 16

var advice = link.Advice{
	Rights:      "+cluster +info",
	Unsupported: "take the server alone if it is no node of a cluster",
	Cut:         "the server may have been restarted, or the connection killed",
}

// ask asks a node what it knows. In full it also tells what it knows only of itself.
func (s *Snapshotter) ask(ctx context.Context, addr string, full bool) (*view, error) {
	c, err := link.Open(ctx, link.Options{Redis: s.cfg.Options, Addr: addr, Timeout: s.cfg.ConnectTimeout, Advice: advice})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	reply, err := c.Command("CLUSTER", "NODES")
	if err != nil {
		if text := strings.ToLower(err.Error()); strings.Contains(text, "cluster support disabled") || link.UnknownCommand(err) {
			err = link.As(backup.ErrUnsupported, errors.New("this is no node of a cluster"))
			return nil, &backup.SourceError{Addr: c.Addr, Step: "CLUSTER NODES", Err: err, Hint: advice.Unsupported}
		}
		return nil, c.Fail("CLUSTER NODES", err)
	}
	v, err := parseNodes(reply.Text, c.Addr)
	if err != nil {
		return nil, c.Fail("CLUSTER NODES", err)
	}
	var refused resp.Error
	more := func(do func(reply resp.Reply), args ...string) error {
		reply, err := c.Command(args...)
		switch {
		case err == nil:
			do(reply)
		case !link.IsReply(err) || errors.As(err, &refused) && refused.Code() == "NOPERM":
			// A server that has no such command says that, whatever the user may do. What it has and keeps to itself would be missed.
			return c.Fail(strings.Join(args, " "), err)
		}
		return nil
	}
	if err := more(v.addressAs, "CLUSTER", "SLOTS"); err != nil || !full {
		return v, err
	}
	v.jobs = make(map[string]job)
	for _, args := range [][]string{{"CLUSTER", "GETSLOTMIGRATIONS"}, {"CLUSTER", "MIGRATION", "STATUS", "ALL"}} { // of Valkey, and of Redis
		if err := more(v.parseJobs, args...); err != nil {
			return nil, err
		}
	}
	if _, _, err := c.AskInfo("replication"); err != nil && !link.IsReply(err) {
		return nil, c.Fail("INFO", err)
	}
	v.replID, v.offset = c.Info["master_replid"], c.Info.Int("master_repl_offset")
	return v, nil
}

// seeds are the nodes that the host has given.
func (s *Snapshotter) seeds() []string {
	return append([]string{replication.Address(s.cfg.Options)}, s.cfg.Addrs...)
}

// first asks nodes, one after the other, until one answers.
func (s *Snapshotter) first(ctx context.Context, addrs []string) (*view, error) {
	var errs []error
	seen := make(map[string]bool)
	for _, addr := range addrs {
		if seen[addr] {
			continue
		}
		seen[addr] = true
		v, err := s.ask(ctx, addr, false)
		if err == nil {
			return v, nil
		}
		if errs = append(errs, err); ctx.Err() != nil || !retake.Again(err) {
			return nil, err
		}
	}
	if len(errs) == 1 {
		return nil, errs[0]
	}
	return nil, fmt.Errorf("no node of the cluster answers: %w", joined(errs))
}

// joined makes one error of some, in one line, or nil of none.
func joined(errs []error) error {
	var words []string
	for _, err := range errs {
		if err != nil && len(words) < maxNamed {
			words = append(words, err.Error())
		}
	}
	if len(words) == 0 {
		return nil
	}
	return link.As(errors.Join(errs...), errors.New(strings.Join(words, "; ")))
}

// look asks every primary. A layout comes only without troubles. An error is one that waiting doesn't help.
func (s *Snapshotter) look(ctx context.Context, addrs []string) (*layout, []trouble, error) {
	given, err := s.first(ctx, addrs)
	if err != nil {
		return nil, nil, err
	}
	l := &layout{asked: given.addr, owners: given.owners(), jobs: make(map[string]job)}
	if missing := of(l.owners, ""); len(missing) > 0 {
		err := link.As(backup.ErrUnsupported, fmt.Errorf("%s have no node, so that a snapshot would not be all of the data", name(missing)))
		return nil, nil, &backup.SourceError{Addr: given.addr, Step: "CLUSTER NODES", Err: err, Hint: "give each slot to a node: redis-cli --cluster fix"}
	}
	for _, o := range l.owners {
		if slices.ContainsFunc(l.shards, func(sh *shardLayout) bool { return sh.id == o.id }) {
			continue
		}
		m := given.members[o.id]
		l.shards = append(l.shards, &shardLayout{id: m.id, addr: m.addr, slots: of(l.owners, m.id), epoch: m.epoch, nodes: given.shard(m.id)})
	}
	for _, m := range given.members {
		l.nodes = append(l.nodes, m.addr)
	}
	slices.Sort(l.nodes)

	var mu sync.Mutex
	var troubles []trouble
	say := func(moving bool, format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		troubles = append(troubles, trouble{fmt.Sprintf(format, args...), moving})
	}
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(together)
	for _, sh := range l.shards {
		group.Go(func() error {
			v, err := s.ask(gctx, sh.addr, true)
			switch {
			case err != nil && (gctx.Err() != nil || !retake.Again(err)):
				return err
			case err != nil:
				say(false, "the primary of %s, %s, doesn't answer: %v", name(sh.slots), sh.id, err)
				return nil
			case v.self.id != sh.id:
				say(false, "at %s there is the node %s and not the primary of %s, %s", sh.addr, v.self.id, name(sh.slots), sh.id)
				return nil
			}
			if d := differ(l.owners, v.owners()); len(d) > 0 {
				say(false, "the nodes at %s and %s don't agree who has %s", given.addr, sh.addr, name(d))
			}
			for _, text := range v.moving {
				say(true, "%s", text)
			}
			mu.Lock()
			defer mu.Unlock()
			sh.epoch, sh.replID, sh.offset = v.self.epoch, v.replID, v.offset
			for name, j := range v.jobs {
				if j.active {
					troubles = append(troubles, trouble{j.text, true})
				}
				l.jobs[name] = j
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, nil, err
	}
	slices.SortFunc(troubles, func(a, b trouble) int { return strings.Compare(a.text, b.text) })
	return l, troubles, nil
}

// shard returns the addresses of a primary and its replicas.
func (v *view) shard(id string) []string {
	var out []string
	for _, m := range v.members {
		if m.primary == id {
			out = append(out, m.addr)
		}
	}
	slices.Sort(out)
	return append([]string{v.members[id].addr}, out...)
}

// texts joins what troubles say.
func texts(troubles []trouble) string {
	var words []string
	for i, t := range troubles {
		if i == maxNamed {
			words = append(words, fmt.Sprintf("and %d more", len(troubles)-i))
			break
		}
		words = append(words, t.text)
	}
	return strings.Join(words, "; ")
}

// settle waits until the cluster is settled.
func (s *Snapshotter) settle(ctx context.Context) (*layout, error) {
	begin := clock.System()
	for said := false; ; {
		l, troubles, err := s.look(ctx, s.seeds())
		if err != nil {
			return nil, err
		}
		if len(troubles) == 0 {
			return l, nil
		}
		if clock.Since(begin) >= s.cfg.SlotWait {
			err := link.As(backup.ErrTransient, fmt.Errorf("the cluster isn't settled after %v: %s", s.cfg.SlotWait, texts(troubles)))
			return nil, &backup.SourceError{Addr: l.asked, Step: "wait for slots", Err: err,
				Hint: "let the slots arrive, or end an attempt that was given up: redis-cli --cluster fix, or CLUSTER SETSLOT <slot> STABLE"}
		}
		if !said {
			s.log.InfoContext(ctx, "the snapshot waits until the cluster is settled", "reason", texts(troubles))
			said = true
		}
		if err := clock.Sleep(ctx, poll); err != nil {
			return nil, &backup.SourceError{Addr: l.asked, Step: "wait for slots", Err: err}
		}
	}
}

// moved tells what happened to slots between two layouts, or returns "". That a shard has another primary is no move.
func moved(start, now *layout) string {
	var out []trouble
	say := func(format string, args ...any) { out = append(out, trouble{text: fmt.Sprintf(format, args...)}) }
	for _, old := range start.shards {
		i := slices.IndexFunc(now.shards, func(sh *shardLayout) bool { return sh.id == old.id })
		if i < 0 { // a replica may have been promoted: who has the first slot has to have all of them, and no others
			i = slices.IndexFunc(now.shards, func(sh *shardLayout) bool { return covers(sh.slots, old.slots[0].First) })
		}
		is := now.shards[i]
		switch {
		case !slices.Equal(is.slots, old.slots):
			var away, here []catalog.SlotRange
			for _, r := range differ(mine(old.slots), mine(is.slots)) {
				if covers(old.slots, r.First) {
					away = append(away, r)
				} else {
					here = append(here, r)
				}
			}
			if len(away) > 0 {
				say("%s left %s at %s", name(away), old.id, old.addr)
			}
			if len(here) > 0 {
				say("%s came to %s at %s", name(here), is.id, is.addr)
			}
		case is.id == old.id && is.epoch != old.epoch:
			say("%s at %s has another epoch than before with the same slots, as if some had left and come back: %d instead of %d", is.id, is.addr, is.epoch, old.epoch)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(now.jobs)) {
		if _, known := start.jobs[name]; !known {
			say("%s", now.jobs[name].text)
		}
	}
	return texts(out)
}

// mine lists ranges as owners does.
func mine(ranges []catalog.SlotRange) []owned {
	return (&view{members: map[string]*member{"x": {id: "x", isPrimary: true, slots: ranges}}}).owners()
}

func covers(ranges []catalog.SlotRange, slot int) bool {
	return slices.ContainsFunc(ranges, func(r catalog.SlotRange) bool { return r.First <= slot && slot <= r.Last })
}
