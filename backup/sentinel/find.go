package sentinel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/internal/link"
	"github.com/amberkv/amber/backup/internal/retake"
	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/internal/resp"
)

// poll is the time between two questions to the sentinels while there is no primary.
const poll = 300 * time.Millisecond

// late is how long the other sentinels are waited for when one has answered: it may be cut off and know only an old primary.
const late = time.Second

var sentinelAdvice = link.Advice{
	Rights:      "+sentinel",
	Unsupported: "give the addresses of sentinels, not of the servers that they watch",
	Cut:         "the sentinel may have been restarted, or the connection killed",
}

var primaryAdvice = link.Advice{
	Rights:      "+role +info",
	Unsupported: "it is no server of a replicated group",
	Cut:         "the server may have been restarted, or the connection killed",
}

// errNoGroup: a sentinel answered and doesn't know the group.
var errNoGroup = errors.New("it knows no group of this name")

// An answer is who the primary is as a sentinel says.
type answer struct {
	sentinel string
	addr     string
	epoch    int64 // of the failover that made it the primary
	down     bool  // the sentinel doesn't reach it
}

// errNobody: no sentinel could be asked.
var errNobody = errors.New("none tells the primary")

// find returns options for the group's primary. It waits for one that says itself that it is; for sentinels that don't answer only if they did before.
func (s *Snapshotter) find(ctx context.Context, again bool) (*redis.Options, error) {
	begin := clock.System()
	for said := false; ; {
		addr, err := s.primary(ctx)
		switch {
		case err == nil:
			return s.options(addr), nil
		case errors.Is(err, errNobody) && !again:
			return nil, err
		case ctx.Err() != nil:
			return nil, s.fail("ask the sentinels", context.Cause(ctx), "")
		case !retake.Again(err):
			return nil, err
		case clock.Since(begin) >= s.cfg.FailoverWait:
			return nil, s.fail("ask the sentinels", link.As(backup.ErrTransient, fmt.Errorf("there is no primary for %v: %w", s.cfg.FailoverWait, err)),
				"see what the sentinels say: SENTINEL MASTER "+s.cfg.Group)
		}
		again = true // the sentinels do answer
		if !said {
			s.log.InfoContext(ctx, "the group has no primary now", "group", s.cfg.Group, "error", err)
			said = true
		}
		if clock.Sleep(ctx, poll) != nil {
			return nil, s.fail("ask the sentinels", context.Cause(ctx), "")
		}
	}
}

// primary asks all sentinels and then the primary that the newest answer names; where that isn't one, the next.
func (s *Snapshotter) primary(ctx context.Context) (addr string, err error) {
	answers, errs := s.askAll(ctx)
	if len(answers) == 0 {
		return "", s.noAnswer(errs)
	}
	// One that the sentinel reaches before one that it doesn't, and of these the one of the newest failover.
	slices.SortStableFunc(answers, func(a, b answer) int {
		if a.down != b.down {
			if a.down {
				return 1
			}
			return -1
		}
		return cmp.Compare(b.epoch, a.epoch)
	})
	tried := make(map[string]bool)
	var why []error
	for _, a := range answers {
		if tried[a.addr] {
			continue
		}
		tried[a.addr] = true
		err := s.verify(ctx, a.addr)
		if err == nil {
			s.log.InfoContext(ctx, "the primary was found", "group", s.cfg.Group, "primary", a.addr, "sentinel", a.sentinel)
			return a.addr, nil
		}
		if ctx.Err() != nil || !retake.Again(err) {
			return "", err
		}
		why = append(why, err)
	}
	return "", joined(why)
}

// noAnswer makes the error of a group that no sentinel tells of.
func (s *Snapshotter) noAnswer(errs []error) error {
	all := joined(errs)
	for _, err := range errs {
		if !errors.Is(err, errNoGroup) {
			if slices.ContainsFunc(errs, retake.Again) {
				return s.fail("ask the sentinels", fmt.Errorf("%w: %w", errNobody, all), "")
			}
			return err // they refuse, each in the same way most likely
		}
	}
	return s.fail("ask the sentinels", link.As(backup.ErrUnsupported, fmt.Errorf("none knows the group: %w", all)),
		"give the name of the group as in the sentinels' configuration, sentinel monitor <name>")
}

// joined makes one error of some, in one line.
func joined(errs []error) error {
	var words []string
	for _, err := range errs {
		words = append(words, err.Error())
	}
	if len(errs) == 1 {
		return errs[0]
	}
	return link.As(errors.Join(errs...), errors.New(strings.Join(words, "; ")))
}

// askAll asks all sentinels at the same time. Those that take long when one has answered are not waited for.
func (s *Snapshotter) askAll(ctx context.Context) (answers []answer, errs []error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	var waiting sync.WaitGroup
	var timer *time.Timer
	for _, addr := range s.cfg.Sentinels {
		waiting.Go(func() {
			a, err := s.ask(ctx, addr)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
				return
			}
			answers = append(answers, a)
			if timer == nil && !a.down {
				timer = clock.AfterFunc(late, cancel)
			}
		})
	}
	waiting.Wait()
	if timer != nil {
		timer.Stop()
	}
	return answers, errs
}

// ask asks one sentinel.
func (s *Snapshotter) ask(ctx context.Context, addr string) (a answer, err error) {
	c, err := link.Open(ctx, link.Options{Redis: s.sentinel, Addr: addr, Timeout: s.cfg.ConnectTimeout, Advice: sentinelAdvice})
	if err != nil {
		return a, err
	}
	defer c.Close()
	reply, err := c.Command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", s.cfg.Group)
	switch {
	case err != nil:
		return a, c.Fail("SENTINEL GET-MASTER-ADDR-BY-NAME", err)
	case reply.Kind == resp.Null:
		return a, &backup.SourceError{Addr: c.Addr, Step: "SENTINEL GET-MASTER-ADDR-BY-NAME " + s.cfg.Group, Err: errNoGroup}
	case len(reply.Elems) != 2 || reply.Elems[0].Text == "" || reply.Elems[1].Text == "":
		return a, c.Fail("SENTINEL GET-MASTER-ADDR-BY-NAME", fmt.Errorf("%w: it is not answered with an address", resp.ErrProtocol))
	}
	a = answer{sentinel: addr, addr: net.JoinHostPort(reply.Elems[0].Text, reply.Elems[1].Text)}
	// What it thinks of the primary helps to choose between sentinels that don't agree, no more.
	reply, err = c.Command("SENTINEL", "MASTER", s.cfg.Group)
	if err != nil && !link.IsReply(err) {
		return a, c.Fail("SENTINEL MASTER", err)
	}
	for i := 0; i+1 < len(reply.Elems); i += 2 {
		value := reply.Elems[i+1].Text
		switch reply.Elems[i].Text {
		case "flags":
			a.down = strings.Contains(value, "down") || strings.Contains(value, "disconnected")
		case "config-epoch":
			a.epoch, _ = strconv.ParseInt(value, 10, 64) // 0 where it is none
		}
	}
	return a, nil
}

// verify returns nil if the server says that it is a primary.
func (s *Snapshotter) verify(ctx context.Context, addr string) error {
	c, err := link.Open(ctx, link.Options{Redis: s.options(addr), Timeout: s.cfg.ConnectTimeout, Advice: primaryAdvice})
	if err != nil {
		return err
	}
	defer c.Close()
	var role string
	reply, err := c.Command("ROLE")
	switch {
	case err == nil && len(reply.Elems) > 0:
		role = reply.Elems[0].Text
	case err != nil && !link.IsReply(err):
		return c.Fail("ROLE", err)
	default: // it doesn't let us, or is below 2.8.12
		seen, _, err := c.AskInfo("replication")
		if err != nil {
			return c.Fail("INFO", err)
		}
		if role = c.Info["role"]; !seen {
			s.log.WarnContext(ctx, "the server doesn't tell its role: what the sentinels say is taken", "node", addr)
			return nil
		}
	}
	if role != "master" {
		return &backup.SourceError{Addr: c.Addr, Step: "ROLE", Err: link.As(backup.ErrTransient, fmt.Errorf("the sentinels say that it is the primary, and it says that it is %q", role)),
			Hint: "the group is failing over: try again"}
	}
	return nil
}
