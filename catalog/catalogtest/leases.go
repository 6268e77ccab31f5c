package catalogtest

import (
	"errors"
	"fmt"
	"time"

	"github.com/amberkv/amber/catalog"
)

const ttl = time.Minute

// acquire takes a lease that nothing should hinder.
func (c *check) acquire(l catalog.Leaser, name string) catalog.Lease {
	c.Helper()
	lease, err := l.Acquire(c.ctx, name, ttl)
	c.is("Acquire", err, nil)
	return lease
}

// held checks that nobody gets a lease, and returns until when.
func (c *check) held(name string) time.Time {
	c.Helper()
	var until time.Time
	for _, l := range []catalog.Leaser{c.leaser, c.otherLeaser} {
		lease, err := l.Acquire(c.ctx, name, ttl)
		var held *catalog.HeldError
		if !errors.As(err, &held) || !errors.Is(err, catalog.ErrHeld) || lease != nil {
			c.broken("Acquire of a lease that is held returns %v and the error %v, want a *HeldError", lease, err)
		}
		if held.Name != name || held.Owner == "" || !held.Until.After(c.opts.Clock.Now()) {
			c.broken("the *HeldError of %s, at %v, is %+v", name, c.opts.Clock.Now(), held)
		}
		until = held.Until
	}
	return until
}

func (c *check) clientLeaser(i int) catalog.Leaser {
	if i%2 == 0 {
		return c.leaser
	}
	return c.otherLeaser
}

func leaseExclusive(c *check) {
	lease := c.acquire(c.leaser, "backup-orders")
	if lease.Token() <= 0 {
		c.broken("the token is %d", lease.Token())
	}
	until := c.held("backup-orders")
	if d := until.Sub(c.opts.Clock.Now()); d < ttl || d > 2*ttl {
		c.broken("HeldError.Until is %v from now, for a lease of %v", d, ttl)
	}
	c.opts.Clock.Advance(ttl - time.Second)
	c.held("backup-orders")
	c.acquire(c.otherLeaser, "backup-invoices") // each name for itself
	c.acquire(c.otherLeaser, "backup-orders-2")
	c.acquire(c.otherLeaser, "backup-order")
	c.is("Release", lease.Release(c.ctx), nil)
}

func leaseRace(c *check) {
	last := int64(0)
	for round := range 16 {
		leases := make([]catalog.Lease, 16)
		won := c.winner(race(16, func(i int) (err error) {
			leases[i], err = c.clientLeaser(i).Acquire(c.ctx, "race", ttl)
			return err
		}), catalog.ErrHeld)
		if token := leases[won].Token(); token <= last {
			c.broken("round %d: the token is %d, after %d", round, token, last)
		} else {
			last = token
		}
		c.held("race")
		if round%2 == 0 {
			c.is("Release", leases[won].Release(c.ctx), nil)
		} else {
			c.opts.Clock.Advance(2 * ttl)
		}
	}
}

func leaseRelease(c *check) {
	for i := range 6 {
		lease := c.acquire(c.clientLeaser(i), "r")
		c.held("r")
		for range 2 {
			c.is("Release", lease.Release(c.ctx), nil)
		}
		c.is("Renew after Release", lease.Renew(c.ctx), catalog.ErrLeaseLost)
		next := c.acquire(c.clientLeaser(i+1), "r")
		c.is("Release of one that was released, when another is held", lease.Release(c.ctx), nil)
		c.is("Renew of one that was released, when another is held", lease.Renew(c.ctx), catalog.ErrLeaseLost)
		c.held("r")
		c.is("Renew", next.Renew(c.ctx), nil)
		c.is("Release", next.Release(c.ctx), nil)
	}
}

func leaseRenew(c *check) {
	lease := c.acquire(c.leaser, "r")
	token := lease.Token()
	for range 10 {
		c.opts.Clock.Advance(ttl * 3 / 4)
		c.is("Renew", lease.Renew(c.ctx), nil)
		c.held("r")
	}
	if lease.Token() != token {
		c.broken("Renew has changed the token from %d to %d", token, lease.Token())
	}
	c.opts.Clock.Advance(ttl - time.Second)
	c.held("r")
	c.is("Renew a second before the end", lease.Renew(c.ctx), nil)
}

func leaseExpiry(c *check) {
	silent := c.acquire(c.leaser, "e")
	until := c.held("e")
	c.opts.Clock.Advance(until.Sub(c.opts.Clock.Now()))
	next := c.acquire(c.otherLeaser, "e")
	if next.Token() <= silent.Token() {
		c.broken("the token is %d, after %d", next.Token(), silent.Token())
	}
	for range 2 {
		c.is("Renew of a lease that another has by now", silent.Renew(c.ctx), catalog.ErrLeaseLost)
		c.is("Release of a lease that another has by now", silent.Release(c.ctx), nil)
		c.held("e")
		c.is("Renew", next.Renew(c.ctx), nil)
	}

	// Also when nobody has taken it.
	alone := c.acquire(c.leaser, "alone")
	c.opts.Clock.Advance(ttl)
	c.is("Renew of a lease at its end", alone.Renew(c.ctx), catalog.ErrLeaseLost)
	c.opts.Clock.Advance(ttl)
	c.is("Renew of a lease after its end", alone.Renew(c.ctx), catalog.ErrLeaseLost)
	c.is("Release of a lease after its end", alone.Release(c.ctx), nil)
	c.acquire(c.otherLeaser, "alone")

	// A lease that was renewed ends its time to live after that.
	renewed := c.acquire(c.leaser, "renewed")
	c.opts.Clock.Advance(ttl / 2)
	c.is("Renew", renewed.Renew(c.ctx), nil)
	c.opts.Clock.Advance(2 * ttl)
	c.acquire(c.otherLeaser, "renewed")
	c.is("Renew of a lease that another has by now", renewed.Renew(c.ctx), catalog.ErrLeaseLost)
}

func leaseTokens(c *check) {
	last := int64(0)
	for i := range 20 {
		lease := c.acquire(c.clientLeaser(i/2), "t")
		if lease.Token() <= last {
			c.broken("lease number %d has the token %d, after %d", i, lease.Token(), last)
		}
		last = lease.Token()
		switch i % 3 {
		case 0:
			c.is("Release", lease.Release(c.ctx), nil)
		case 1:
			c.opts.Clock.Advance(2 * ttl)
		case 2:
			c.is("Renew", lease.Renew(c.ctx), nil)
			c.is("Release", lease.Release(c.ctx), nil)
			c.opts.Clock.Advance(1000 * time.Hour)
		}
	}
}

func leaseInvalid(c *check) {
	for _, bad := range []struct {
		name string
		ttl  time.Duration
	}{{"", ttl}, {"a/b", ttl}, {"..", ttl}, {"fine", 0}, {"fine", -ttl}} {
		if lease, err := c.leaser.Acquire(c.ctx, bad.name, bad.ttl); err == nil || errors.Is(err, catalog.ErrHeld) || lease != nil {
			c.broken("Acquire(%q, %v) returns %v and the error %v", bad.name, bad.ttl, lease, err)
		}
	}
	c.acquire(c.leaser, "fine")
}

func pausedHolder(c *check) {
	for n, paused := range []string{"before it renews", "before it publishes"} {
		name := fmt.Sprintf("backup-%d", n)
		b := backup("orders", n, catalog.StateRunning)
		lease := c.acquire(c.leaser, name)
		b.Token = lease.Token()
		rev := c.put(b, "")
		c.is("Renew", lease.Renew(c.ctx), nil)

		// The process sleeps; another one takes over and declares the run dead.
		c.opts.Clock.Advance(2 * ttl)
		taker := c.acquire(c.otherLeaser, name)
		found, at, err := c.other.Get(c.ctx, b.ID)
		c.is("Get", err, nil)
		if found.State != catalog.StateRunning || found.Token >= taker.Token() {
			c.broken("the taker with token %d finds %+v", taker.Token(), found)
		}
		dead := as(b, catalog.StateInterrupted)
		_, err = c.other.Put(c.ctx, dead, at)
		c.is("Put of the taker", err, nil)

		// It wakes up.
		if n == 0 {
			c.is("Renew of a holder that slept "+paused, lease.Renew(c.ctx), catalog.ErrLeaseLost)
		}
		_, err = c.cat.Put(c.ctx, as(b, catalog.StateReady), rev)
		c.is("Put of a holder that slept "+paused, err, catalog.ErrConflict)
		_, err = c.cat.Put(c.ctx, as(b, catalog.StateReady), "")
		c.is("Put as new of a holder that slept "+paused, err, catalog.ErrConflict)
		c.is("Release", lease.Release(c.ctx), nil)
		c.held(name)
		c.holds(dead)
		c.lists(catalog.Query{})
	}
}
