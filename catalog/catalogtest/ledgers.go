package catalogtest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/amberkv/amber/catalog"
)

// kept returns a ready backup of so many bytes that was ready some time after a moment, to the nanosecond, and which has adopted a part besides.
func kept(dataStore string, n int, bytes int64, readyAt time.Time) *catalog.Backup {
	b := backup(dataStore, n, catalog.StateReady)
	b.ReadyAt = readyAt
	b.Parts[0].Size = bytes
	adopted := b.Parts[0]
	adopted.Name, adopted.Key, adopted.Adopted = "dump.rdb", "dump.rdb", true
	adopted.Compression, adopted.Size, adopted.RawSize = "none", 1<<40, 1<<40
	b.Parts = append(b.Parts, adopted)
	b.StoredBytes = bytes + 1<<40
	return b
}

// deleting returns a backup as it is when it has been deleted at some time.
func deleting(b *catalog.Backup, at time.Time) *catalog.Backup {
	d := as(b, catalog.StateDeleting)
	d.DeletedAt = at
	return d
}

// ends deletes a backup: the manifest says so, the ledger notes it, and the record goes.
func (c *check) ends(b *catalog.Backup, rev catalog.Revision, at time.Time) {
	c.Helper()
	d := deleting(b, at)
	rev = c.put(d, rev)
	c.is("Ended", c.ledger(0).Ended(c.ctx, d), nil)
	c.is("Delete", c.cat.Delete(c.ctx, b.ID, rev), nil)
}

// ledger returns one of two clients.
func (c *check) ledger(i int) catalog.Ledger {
	cat := c.cat
	if i%2 == 1 {
		cat = c.other
	}
	return cat.(catalog.Ledger)
}

// stays checks what both clients give for a period. A stay is written as "data store kind bytes from until", the times in seconds after a moment.
func (c *check) stays(when string, from, until time.Time, want ...string) {
	c.Helper()
	slices.Sort(want)
	for i := range 2 {
		var got []string
		for s, err := range c.ledger(i).Stays(c.ctx, from, until) {
			c.is("Stays", err, nil)
			if s.Until.IsZero() || s.Until != s.From { // else it says nothing, and may be left out
				got = append(got, tell(s))
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			c.broken("%s: Stays gives\n%s\nwant\n%s", when, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

func tell(s catalog.Stay) string {
	until := "on"
	if !s.Until.IsZero() {
		until = s.Until.Sub(day).String()
	}
	return fmt.Sprintf("%s %s %d %v %s", s.DataStore, s.Kind, s.Bytes, s.From.Sub(day), until)
}

var (
	day    = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	always = [2]time.Time{day.AddDate(-10, 0, 0), day.AddDate(10, 0, 0)}
)

func at(d time.Duration) time.Time { return day.Add(d) }

func ledgerCurrent(c *check) {
	for n, state := range allStates {
		b := kept("orders", n, int64(n), at(time.Hour+300*time.Millisecond))
		b.State = state
		if state != catalog.StateReady && state != catalog.StateDeleting {
			b.ReadyAt = time.Time{}
		}
		if state == catalog.StateDeleting {
			b.DeletedAt = at(2*time.Hour + 999*time.Millisecond)
		}
		c.put(b, "")
	}
	auto := kept("invoices", 9, 1<<50, at(0))
	auto.Kind = catalog.KindAutomatic
	c.put(auto, "")
	c.stays("of what is there", always[0], always[1], "invoices automatic 1125899906842624 0s on", "orders manual 1 1h0m0s on", "orders manual 4 1h0m0s 2h0m0s")
}

func ledgerEnded(c *check) {
	b := kept("orders", 1, 7, at(time.Hour+999*time.Millisecond))
	rev := c.put(b, "")
	d := deleting(b, at(3*time.Hour+time.Second+time.Millisecond))
	rev = c.put(d, rev)
	c.stays("when it is being deleted", always[0], always[1], "orders manual 7 1h0m0s 3h0m1s")
	c.is("Ended", c.ledger(0).Ended(c.ctx, d), nil)
	c.stays("when that is noted", always[0], always[1], "orders manual 7 1h0m0s 3h0m1s")
	c.is("Delete", c.cat.Delete(c.ctx, b.ID, rev), nil)
	c.stays("when it is gone", always[0], always[1], "orders manual 7 1h0m0s 3h0m1s")
}

func ledgerAgain(c *check) {
	b := kept("orders", 1, 7, at(0))
	rev := c.put(b, "")
	c.ends(b, rev, at(time.Hour))
	for i := range 4 {
		c.is("Ended of the same again", c.ledger(i).Ended(c.ctx, deleting(b, at(time.Hour))), nil)
	}
	c.stays("noted five times", always[0], always[1], "orders manual 7 0s 1h0m0s")
	for i := range 4 {
		c.is("Ended of the same, later", c.ledger(i).Ended(c.ctx, deleting(b, at(time.Duration(2+i)*time.Hour))), nil)
	}
	c.stays("noted with other ends", always[0], always[1], "orders manual 7 0s 1h0m0s")
}

func ledgerRace(c *check) {
	for n := range 4 {
		b := kept("orders", n, 7, at(0))
		c.is("Began", c.ledger(0).Began(c.ctx, b, at(time.Hour)), nil)
		rev := c.put(b, "")
		d := deleting(b, at(2*time.Hour))
		rev = c.put(d, rev)
		for _, err := range race(8, func(i int) error { return c.ledger(i).Ended(c.ctx, d) }) {
			c.is("Ended beside others", err, nil)
		}
		c.is("Delete", c.cat.Delete(c.ctx, b.ID, rev), nil)
	}
	c.stays("noted by several at once", always[0], always[1], slices.Repeat([]string{"orders manual 7 1h0m0s 2h0m0s"}, 4)...)
}

func ledgerNever(c *check) {
	for n, state := range []catalog.State{catalog.StateFailed, catalog.StateInterrupted} {
		b := kept("orders", n, 7, time.Time{})
		rev := c.put(as(b, state), "")
		c.ends(b, rev, at(time.Hour))
	}
	old := kept("orders", 7, 7, at(0))
	rev := c.put(old, "")
	c.ends(old, rev, time.Time{}) // as it was marked before there was a DeletedAt
	c.stays("of what never was ready, or without an end", always[0], always[1])
}

func ledgerCopy(c *check) {
	b := kept("orders", 1, 7, at(0))
	c.is("Began", c.ledger(0).Began(c.ctx, b, at(9*time.Hour)), nil)
	c.stays("of a copy that isn't published", always[0], always[1])
	c.is("Began again", c.ledger(1).Began(c.ctx, b, at(5*time.Hour+time.Millisecond)), nil)
	rev := c.put(b, "")
	other := kept("orders", 2, 8, at(0))
	c.put(other, "")
	c.stays("of a copy", always[0], always[1], "orders manual 7 5h0m0s on", "orders manual 8 0s on")
	c.ends(b, rev, at(6*time.Hour))
	c.stays("of a copy that was deleted", always[0], always[1], "orders manual 7 5h0m0s 6h0m0s", "orders manual 8 0s on")
	c.is("Ended of the same again", c.ledger(1).Ended(c.ctx, deleting(b, at(6*time.Hour))), nil)
	c.stays("of a copy whose end is noted again", always[0], always[1], "orders manual 7 5h0m0s 6h0m0s", "orders manual 8 0s on")
}

func ledgerTwice(c *check) {
	b := kept("orders", 1, 7, at(0))
	c.ends(b, c.put(b, ""), at(time.Hour))
	c.is("Began", c.ledger(0).Began(c.ctx, b, at(2*time.Hour)), nil)
	rev := c.put(b, "")
	c.stays("deleted and copied again", always[0], always[1], "orders manual 7 0s 1h0m0s", "orders manual 7 2h0m0s on")
	c.is("Ended of the former stay again", c.ledger(1).Ended(c.ctx, deleting(b, at(time.Hour))), nil)
	c.stays("the former end noted again", always[0], always[1], "orders manual 7 0s 1h0m0s", "orders manual 7 2h0m0s on")
	c.ends(b, rev, at(3*time.Hour))
	c.stays("deleted again", always[0], always[1], "orders manual 7 0s 1h0m0s", "orders manual 7 2h0m0s 3h0m0s")
	// All in one second.
	for range 2 {
		c.is("Began", c.ledger(0).Began(c.ctx, b, at(4*time.Hour)), nil)
		c.ends(b, c.put(b, ""), at(4*time.Hour))
	}
	c.is("Began", c.ledger(0).Began(c.ctx, b, at(4*time.Hour)), nil)
	rev = c.put(b, "")
	want := []string{"orders manual 7 0s 1h0m0s", "orders manual 7 2h0m0s 3h0m0s", "orders manual 7 4h0m0s on"}
	c.stays("copied in the second in which it was deleted", always[0], always[1], want...)
	c.ends(b, rev, at(5*time.Hour))
	want[2] = "orders manual 7 4h0m0s 5h0m0s"
	c.stays("and deleted again", always[0], always[1], want...)
}

func ledgerPeriod(c *check) {
	type span struct{ from, until time.Duration }
	const hour, month = time.Hour, 31 * 24 * time.Hour
	spans := []span{{0, hour}, {-month, -hour}, {-14 * month, 14 * month}, {hour, hour + time.Second}, {20 * 24 * hour, 40 * 24 * hour}, {-2 * month, 0}}
	for n, s := range spans {
		b := kept("orders", n, int64(n), at(s.from))
		rev := c.put(b, "")
		if s.until != 0 {
			c.ends(b, rev, at(s.until))
		}
	}
	edges := []time.Duration{-100 * month}
	for _, s := range spans {
		edges = append(edges, s.from-time.Second, s.from, s.from+time.Second, s.until-time.Second, s.until, s.until+time.Second)
	}
	slices.Sort(edges)
	for i, from := range edges {
		for j := i + 1; j < len(edges); j += j - i {
			until := edges[j]
			var want, got []int64
			for n, s := range spans {
				if s.from < until && (s.until > from || s.until == 0) {
					want = append(want, int64(n))
				}
			}
			for s, err := range c.ledger(1).Stays(c.ctx, at(from), at(until)) {
				c.is("Stays", err, nil)
				got = append(got, s.Bytes)
			}
			if slices.SortFunc(got, cmp.Compare); from < until && !slices.Equal(got, want) {
				c.broken("of stays with the numbers and times %v, from %v until %v, Stays gives those of number %v, want %v", spans, from, until, got, want)
			}
		}
	}
}

func ledgerBreak(c *check) {
	for n := range 8 {
		b := kept("orders", n, 7, at(0))
		if rev := c.put(b, ""); n%2 == 0 {
			c.ends(b, rev, at(time.Hour))
		}
	}
	for limit := range 8 {
		n := 0
		for _, err := range c.ledger(0).Stays(c.ctx, always[0], always[1]) {
			c.is("Stays", err, nil)
			if n++; n > limit {
				break
			}
		}
		if n != limit+1 {
			c.broken("Stays gave %d stays to one who leaves after %d", n, limit+1)
		}
	}
}

func ledgerCancelled(c *check) {
	b := kept("orders", 1, 7, at(0))
	c.put(b, "")
	ctx, cancel := context.WithCancel(c.ctx)
	cancel()
	c.is("Began with a context that has ended", c.ledger(0).Began(ctx, b, at(time.Minute)), context.Canceled)
	c.is("Ended with a context that has ended", c.ledger(0).Ended(ctx, deleting(b, at(time.Hour))), context.Canceled)
	var err error
	for _, err = range c.ledger(0).Stays(ctx, always[0], always[1]) {
	}
	c.is("Stays with a context that has ended", err, context.Canceled)
	c.stays("after all that", always[0], always[1], "orders manual 7 0s on")
}

// ledgerMeanwhile deletes backups while stays are read: each is given once, whenever that is.
func ledgerMeanwhile(c *check) {
	for round := range c.rounds(8) {
		var want []string
		revs := map[*catalog.Backup]catalog.Revision{}
		for n := range 6 {
			b := kept("orders", round*100+n, int64(round*100+n), at(0))
			if n%2 == 1 {
				c.is("Began", c.ledger(0).Began(c.ctx, b, at(time.Minute)), nil)
			}
			revs[b] = c.put(b, "")
			want = append(want, fmt.Sprint(b.Parts[0].Size))
		}
		done := make(chan bool)
		go func() {
			defer close(done)
			for b, rev := range revs {
				d := deleting(b, at(time.Hour))
				rev, err := c.cat.Put(c.ctx, d, rev)
				if err == nil {
					err = c.ledger(0).Ended(c.ctx, d)
				}
				if err == nil {
					err = c.cat.Delete(c.ctx, b.ID, rev)
				}
				if err != nil {
					c.report("deleting: %v", err)
				}
			}
		}()
		for over := false; !over; {
			select {
			case <-done:
				over = true
			default:
			}
			var got []string
			for s, err := range c.ledger(1).Stays(c.ctx, always[0], always[1]) {
				c.is("Stays", err, nil)
				if s.Bytes >= int64(round*100) {
					got = append(got, fmt.Sprint(s.Bytes))
				}
			}
			if slices.Sort(got); !slices.Equal(got, want) {
				<-done
				c.broken("while backups are deleted, Stays gives those of number %v, want %v", got, want)
			}
		}
	}
}
