package catalogtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/amberkv/amber/catalog"
)

// sharer returns one of the two clients.
func (c *check) sharer(i int) catalog.Sharer { return c.clientLeaser(i).(catalog.Sharer) }

// share takes a shared lease that nothing should hinder.
func (c *check) share(i int, name string) catalog.Lease {
	c.Helper()
	lease, err := c.sharer(i).Share(c.ctx, name, ttl)
	c.is("Share", err, nil)
	return lease
}

// shared checks how many have a shared lease, as both clients tell, and returns until when the last has it.
func (c *check) shared(name string, want int) time.Time {
	c.Helper()
	var until time.Time
	for i := range 2 {
		held, err := c.sharer(i).Sharers(c.ctx, name)
		c.is("Sharers", err, nil)
		if len(held) != want {
			c.broken("Sharers of %s, at %v, gives %+v, want %d", name, c.opts.Clock.Now(), held, want)
		}
		for _, h := range held {
			if h.Name != name || h.Owner == "" || !h.Until.After(c.opts.Clock.Now()) {
				c.broken("Sharers of %s, at %v, gives %+v", name, c.opts.Clock.Now(), h)
			}
			if h.Until.After(until) {
				until = h.Until
			}
		}
	}
	return until
}

func shares(c *check) {
	c.shared("s", 0)
	for i := range 5 {
		if lease := c.share(i, "s"); lease.Token() != 0 {
			c.broken("the token of a shared lease is %d, want 0", lease.Token())
		}
		until := c.shared("s", i+1)
		if d := until.Sub(c.opts.Clock.Now()); d < ttl || d > 2*ttl {
			c.broken("Sharers tells that the lease lasts %v from now, for one of %v", d, ttl)
		}
	}
	c.opts.Clock.Advance(ttl - time.Second)
	c.shared("s", 5)
}

func shareNames(c *check) {
	c.share(0, "s")
	c.shared("s-2", 0)
	c.shared("t", 0)
	lease := c.acquire(c.otherLeaser, "s")
	c.held("s")
	c.share(1, "s")
	c.shared("s", 2)
	c.is("Renew of the exclusive lease", lease.Renew(c.ctx), nil)
	c.is("Release of the exclusive lease", lease.Release(c.ctx), nil)
	c.shared("s", 2)
	if next := c.acquire(c.leaser, "s"); next.Token() <= lease.Token() {
		c.broken("the token is %d, after %d", next.Token(), lease.Token())
	}
	c.share(0, "shared") // whatever a catalog makes of it
	c.share(1, "shared")
	c.acquire(c.leaser, "shared")
	c.shared("shared", 2)
}

func shareRace(c *check) {
	for round := range 16 {
		name := fmt.Sprintf("race-%d", round)
		leases := make([]catalog.Lease, 16)
		for i, err := range race(16, func(i int) (err error) {
			leases[i], err = c.sharer(i).Share(c.ctx, name, ttl)
			return err
		}) {
			c.is(fmt.Sprintf("Share of number %d", i), err, nil)
		}
		c.shared(name, 16)
		// Those who look while others come and go see those who stay.
		var looks []error
		for i, err := range race(16, func(i int) error {
			switch {
			case i%4 == 0:
				return leases[i].Release(c.ctx)
			case i%4 == 1:
				return leases[i].Renew(c.ctx)
			}
			held, err := c.sharer(i).Sharers(c.ctx, name)
			if err == nil && len(held) < 12 {
				err = fmt.Errorf("there are %d, of 16 of whom 4 release theirs", len(held))
			}
			return err
		}) {
			if err != nil {
				looks = append(looks, fmt.Errorf("number %d: %w", i, err))
			}
		}
		if err := errors.Join(looks...); err != nil {
			c.broken("%v", err)
		}
		c.shared(name, 12)
	}
}

// shareOrder is what a reader and a deleter rely on.
func shareOrder(c *check) {
	for round := range 40 {
		b := backup("orders", round, catalog.StateReady)
		rev := c.put(b, "")
		name := catalog.ReadLease(b.ID)
		readable, unread := false, false
		do := func(i int) error {
			if i == 0 {
				if _, err := c.sharer(i).Share(c.ctx, name, ttl); err != nil {
					return err
				}
				got, _, err := c.cat.Get(c.ctx, b.ID)
				readable = err == nil && got.State == catalog.StateReady
				return err
			}
			if _, err := c.other.Put(c.ctx, as(b, catalog.StateDeleting), rev); err != nil {
				return err
			}
			held, err := c.sharer(i).Sharers(c.ctx, name)
			unread = err == nil && len(held) == 0
			return err
		}
		if round%4 == 0 { // one after the other, which a race may never do
			c.is("reader", do(0), nil)
			c.is("deleter", do(1), nil)
		} else {
			for i, err := range race(2, do) {
				c.is([]string{"reader", "deleter"}[i], err, nil)
			}
		}
		if readable && unread {
			c.broken("round %d: the backup was ready for who had shared its lease, and nobody shared it for who had put it as deleting", round)
		}
	}
}

func shareRelease(c *check) {
	for i := range 6 {
		stays := c.share(i/2, "r")
		lease := c.share(i, "r")
		c.shared("r", 2)
		for range 2 {
			c.is("Release", lease.Release(c.ctx), nil)
			c.shared("r", 1)
		}
		c.is("Renew after Release", lease.Renew(c.ctx), catalog.ErrLeaseLost)
		c.shared("r", 1)
		c.is("Renew of the one that stays", stays.Renew(c.ctx), nil)
		c.is("Release", stays.Release(c.ctx), nil)
		c.shared("r", 0)
	}
}

func shareRenew(c *check) {
	lease := c.share(0, "r")
	for range 10 {
		c.opts.Clock.Advance(ttl * 3 / 4)
		c.is("Renew", lease.Renew(c.ctx), nil)
		if until := c.shared("r", 1); until.Before(c.opts.Clock.Now().Add(ttl)) {
			c.broken("after Renew at %v, for %v, Sharers tells that it lasts until %v", c.opts.Clock.Now(), ttl, until)
		}
	}
	c.opts.Clock.Advance(ttl - time.Second)
	c.shared("r", 1)
	c.is("Renew a second before the end", lease.Renew(c.ctx), nil)
}

func shareExpiry(c *check) {
	silent := c.share(0, "e")
	until := c.shared("e", 1)
	c.opts.Clock.Advance(until.Sub(c.opts.Clock.Now()) - 1)
	c.shared("e", 1)
	c.opts.Clock.Advance(1)
	c.shared("e", 0)
	next := c.share(1, "e")
	for range 2 {
		c.is("Renew of a lease that has ended", silent.Renew(c.ctx), catalog.ErrLeaseLost)
		c.is("Release of a lease that has ended", silent.Release(c.ctx), nil)
		c.shared("e", 1)
	}
	c.is("Renew", next.Renew(c.ctx), nil)

	// Also when nobody has looked; then it doesn't come back.
	alone := c.share(0, "alone")
	c.opts.Clock.Advance(ttl)
	c.is("Renew of a lease at its end", alone.Renew(c.ctx), catalog.ErrLeaseLost)
	c.opts.Clock.Advance(ttl)
	c.is("Renew of a lease after its end", alone.Renew(c.ctx), catalog.ErrLeaseLost)
	c.is("Release of a lease after its end", alone.Release(c.ctx), nil)
	c.shared("alone", 0)

	// A lease that was renewed ends its time to live after that.
	renewed := c.share(1, "renewed")
	c.opts.Clock.Advance(ttl / 2)
	c.is("Renew", renewed.Renew(c.ctx), nil)
	c.opts.Clock.Advance(2 * ttl)
	c.shared("renewed", 0)
	c.is("Renew", renewed.Renew(c.ctx), catalog.ErrLeaseLost)
}

func shareInvalid(c *check) {
	for _, bad := range []struct {
		name string
		ttl  time.Duration
	}{{"", ttl}, {"a/b", ttl}, {"..", ttl}, {"fine", 0}, {"fine", -ttl}} {
		if lease, err := c.sharer(0).Share(c.ctx, bad.name, bad.ttl); err == nil || errors.Is(err, catalog.ErrLeaseLost) || lease != nil {
			c.broken("Share(%q, %v) returns %v and the error %v", bad.name, bad.ttl, lease, err)
		}
	}
	c.shared("fine", 0)
	c.share(0, "fine")
}

func shareCancelled(c *check) {
	lease := c.share(0, "held")
	ctx, cancel := context.WithCancel(c.ctx)
	cancel()
	_, err := c.sharer(0).Share(ctx, "held", ttl)
	c.is("Share", err, context.Canceled)
	held, err := c.sharer(0).Sharers(ctx, "held")
	c.is("Sharers", err, context.Canceled)
	if len(held) > 0 {
		c.broken("Sharers gives %v beside an error", slices.Clone(held))
	}
	c.is("Renew", lease.Renew(ctx), context.Canceled)
	c.is("Release", lease.Release(ctx), context.Canceled)
	c.shared("held", 1)
	c.is("Renew after one that was cancelled", lease.Renew(c.ctx), nil)
}
