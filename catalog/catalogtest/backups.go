package catalogtest

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/amberkv/amber/catalog"
)

func putNew(c *check) {
	for n, state := range allStates {
		b := backup("orders", n, state)
		rev := c.put(b, "")
		if got := c.holds(b); got != rev {
			c.broken("Get returns the revision %s, Put returned %s", got, rev)
		}
	}
}

func putNewExists(c *check) {
	for n, state := range allStates {
		b := backup("orders", n, state)
		rev := c.put(b, "")
		for _, cat := range []catalog.Catalog{c.cat, c.other} {
			again := as(b, catalog.StateReady)
			again.Keys = 999
			_, err := cat.Put(c.ctx, again, "")
			c.is("the second Put of a new backup", err, catalog.ErrConflict)
		}
		if got := c.holds(b); got != rev {
			c.broken("after a conflict the revision is %s, it was %s", got, rev)
		}
	}
}

func putNext(c *check) {
	b := backup("orders", 1, catalog.StateRunning)
	rev := c.put(b, "")
	revs := []catalog.Revision{rev}
	for n := range 12 {
		next := *b
		next.Keys = int64(1000 + n)
		next.State = allStates[n%3]
		var err error
		cat := []catalog.Catalog{c.cat, c.other}[n%2]
		rev, err = cat.Put(c.ctx, &next, rev)
		c.is("Put", err, nil)
		if slices.Contains(revs, rev) {
			c.broken("Put returned the revision %s a second time", rev)
		}
		revs = append(revs, rev)
		if got := c.holds(&next); got != rev {
			c.broken("Get returns the revision %s, Put returned %s", got, rev)
		}
	}
}

func putStale(c *check) {
	b := backup("orders", 1, catalog.StateRunning)
	first := c.put(b, "")
	second := c.put(as(b, catalog.StateFailed), first)
	now := as(b, catalog.StateReady)
	third := c.put(now, second)
	other := backup("orders", 2, catalog.StateReady)
	foreign := c.put(other, "")
	for _, stale := range []catalog.Revision{"", first, second, foreign + "x", third + "x", "0", "nonsense", "../x"} {
		if stale == third {
			continue
		}
		for _, cat := range []catalog.Catalog{c.cat, c.other} {
			_, err := cat.Put(c.ctx, as(b, catalog.StateInterrupted), stale)
			c.is(fmt.Sprintf("Put with the revision %q, when %q is current", stale, third), err, catalog.ErrConflict)
		}
		if got := c.holds(now); got != third {
			c.broken("after a conflict the revision is %s, it was %s", got, third)
		}
	}
	_, err := c.cat.Put(c.ctx, backup("orders", 3, catalog.StateReady), third)
	c.is("Put of a new backup with the revision of another", err, catalog.ErrConflict)
	c.holds(other)
}

func putReady(c *check) {
	b := backup("orders", 1, catalog.StateReady)
	rev := c.put(b, "")
	c.holds(b)
	c.lists(catalog.Query{}, b)
	gone := as(b, catalog.StateDeleting)
	c.put(gone, rev)
	c.holds(gone)
	c.lists(catalog.Query{})
}

func putKeepsNothing(c *check) {
	b := backup("orders", 1, catalog.StateReady)
	want := backup("orders", 1, catalog.StateReady)
	want.ID = b.ID
	want.Parts[0].Key = b.Parts[0].Key
	c.put(b, "")
	spoil := func(b *catalog.Backup) {
		b.Keys, b.State, b.Description = -5, "spoiled", "spoiled"
		b.Parts[0].Key = "spoiled"
		b.DBs[0].Types["string"] = -5
	}
	spoil(b)
	c.holds(want)
	for _, cat := range []catalog.Catalog{c.cat, c.other} {
		got, _, err := cat.Get(c.ctx, want.ID)
		c.is("Get", err, nil)
		spoil(got)
	}
	for b, err := range c.cat.List(c.ctx, catalog.Query{}) {
		c.is("List", err, nil)
		spoil(b)
	}
	c.holds(want)
	c.lists(catalog.Query{}, want)
}

func putKeepsSignature(c *check) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	b := backup("orders", 1, catalog.StateReady)
	// What is easily lost: texts that aren't UTF-8, parts of seconds, another zone, an empty map.
	b.Description = "\xff<&>\u2028"
	b.ReadyAt = b.CreatedAt.In(time.FixedZone("", 3600)).Add(123456789)
	b.DBs[0].Types = map[string]int64{}
	b.Recipients = []string{"age1one", "age1two"}
	b.Parts[0].Encryption, b.Parts[0].RawSHA256 = "age", ""
	c.is("Sign", catalog.Sign(b, key), nil)
	c.put(b, "")
	trusted := []ed25519.PublicKey{key.Public().(ed25519.PublicKey)}
	for _, cat := range []catalog.Catalog{c.cat, c.other} {
		got, _, err := cat.Get(c.ctx, b.ID)
		c.is("Get", err, nil)
		c.is("CheckSignature of what Get returns", catalog.CheckSignature(got, trusted), nil)
		for got, err := range cat.List(c.ctx, catalog.Query{}) {
			c.is("List", err, nil)
			c.is("CheckSignature of what List gives", catalog.CheckSignature(got, trusted), nil)
		}
	}
}

func putInvalid(c *check) {
	for name, change := range map[string]func(b *catalog.Backup){
		"no ID":                  func(b *catalog.Backup) { b.ID = "" },
		"an ID with a path":      func(b *catalog.Backup) { b.ID = "../" + b.ID },
		"no data store":          func(b *catalog.Backup) { b.DataStore = "" },
		"data store with a path": func(b *catalog.Backup) { b.DataStore = "../x" },
		"unknown state":          func(b *catalog.Backup) { b.State = "perfect" },
		"part outside":           func(b *catalog.Backup) { b.Parts[0].Key = "other/part" },
		"part of its own adopted": func(b *catalog.Backup) {
			p := &b.Parts[0]
			p.Adopted, p.Compression, p.Size, p.SHA256 = true, "none", p.RawSize, p.RawSHA256
		},
	} {
		b := backup("orders", 1, catalog.StateReady)
		change(b)
		if _, err := c.cat.Put(c.ctx, b, ""); err == nil || errors.Is(err, catalog.ErrConflict) {
			c.broken("Put of a backup with %s: the error is %v", name, err)
		}
	}
	c.lists(catalog.Query{States: allStates})
}

// race lets n goroutines begin at once and returns their errors.
func race(n int, f func(i int) error) []error {
	errs := make([]error, n)
	start := make(chan struct{})
	var ready, done sync.WaitGroup
	for i := range n {
		ready.Add(1)
		done.Go(func() {
			ready.Done()
			<-start
			errs[i] = f(i)
		})
	}
	ready.Wait()
	close(start)
	done.Wait()
	return errs
}

// winner returns which one has won, and checks that all others lost.
func (c *check) winner(errs []error, lost ...error) int {
	c.Helper()
	winner := -1
	for i, err := range errs {
		switch {
		case err == nil && winner >= 0:
			c.broken("both %d and %d have won", winner, i)
		case err == nil:
			winner = i
		case !slices.ContainsFunc(lost, func(l error) bool { return errors.Is(err, l) }):
			c.broken("the error of %d is %v, want one of %v", i, err, lost)
		}
	}
	if winner < 0 {
		c.broken("nobody has won: %v", errs)
	}
	return winner
}

// client returns one of the two clients.
func (c *check) client(i int) catalog.Catalog {
	if i%2 == 0 {
		return c.cat
	}
	return c.other
}

func putNewRace(c *check) {
	for round := range c.rounds(15) {
		b := backup("orders", round, allStates[round%2])
		version := func(i int) *catalog.Backup { v := *b; v.Keys = int64(i); return &v }
		won := c.winner(race(16, func(i int) error {
			_, err := c.client(i).Put(c.ctx, version(i), "")
			return err
		}), catalog.ErrConflict)
		c.holds(version(won))
	}
}

func putNextRace(c *check) {
	b := backup("orders", 1, catalog.StateRunning)
	rev := c.put(b, "")
	for range c.rounds(20) {
		version := func(i int) *catalog.Backup { v := *b; v.Keys = int64(i); v.State = allStates[i%3]; return &v }
		revs := make([]catalog.Revision, 16)
		won := c.winner(race(16, func(i int) (err error) {
			revs[i], err = c.client(i).Put(c.ctx, version(i), rev)
			return err
		}), catalog.ErrConflict)
		if rev = c.holds(version(won)); rev != revs[won] {
			c.broken("Get returns the revision %s, the winner's is %s", rev, revs[won])
		}
	}
}

func getMissing(c *check) {
	c.put(backup("orders", 1, catalog.StateReady), "")
	for _, id := range []catalog.ID{
		backup("orders", 2, catalog.StateReady).ID, "", "nonsense", "orders", "..", "../x", "a/b", "manifest.json", "\x00", "20261123T221700.123Z-k7f",
	} {
		c.absent(id)
		c.is("Delete", c.cat.Delete(c.ctx, id, "1"), catalog.ErrNotFound)
	}
}

func getCorrupt(c *check) {
	b, fine := backup("orders", 1, catalog.StateReady), backup("orders", 2, catalog.StateReady)
	rev := c.put(b, "")
	c.put(fine, "")
	c.opts.Corrupt(c.T, c.cat, b.ID)
	for _, cat := range []catalog.Catalog{c.cat, c.other} {
		got, _, err := cat.Get(c.ctx, b.ID)
		c.is("Get of a corrupt manifest", err, catalog.ErrCorrupt)
		if got != nil {
			c.broken("Get of a corrupt manifest returns a backup: %+v", got)
		}
		_, err = cat.Put(c.ctx, b, rev)
		c.is("Put over a corrupt manifest with the revision from before", err, catalog.ErrConflict)
	}
	c.holds(fine)
}

func listOrder(c *check) {
	var want []*catalog.Backup
	for n := range 30 {
		want = append(want, backup([]string{"b", "a", "c-1", "c"}[n%4], n*1000, catalog.StateReady))
	}
	for i := range want { // in an order of its own
		c.put(want[(i*7)%len(want)], "")
	}
	slices.Reverse(want)
	c.lists(catalog.Query{}, want...)
}

func listQuery(c *check) {
	all := map[string][]*catalog.Backup{} // newest first
	n := 0
	for _, dataStore := range []string{"orders", "orders-2", "order", "Orders", "invoices"} {
		for _, state := range append(allStates, allStates...) {
			n++
			b := backup(dataStore, n, state)
			c.put(b, "")
			all[dataStore] = slices.Insert(all[dataStore], 0, b)
			all[""] = slices.Insert(all[""], 0, b)
		}
	}
	only := func(list []*catalog.Backup, states ...catalog.State) []*catalog.Backup {
		var out []*catalog.Backup
		for _, b := range list {
			if slices.Contains(states, b.State) {
				out = append(out, b)
			}
		}
		return out
	}
	for dataStore, list := range all {
		c.lists(catalog.Query{DataStore: dataStore}, only(list, catalog.StateReady)...)
		c.lists(catalog.Query{DataStore: dataStore, States: allStates}, list...)
		for _, state := range allStates {
			c.lists(catalog.Query{DataStore: dataStore, States: []catalog.State{state}}, only(list, state)...)
		}
		two := []catalog.State{catalog.StateFailed, catalog.StateRunning}
		c.lists(catalog.Query{DataStore: dataStore, States: two}, only(list, two...)...)
	}
	c.lists(catalog.Query{DataStore: "nothing", States: allStates})
}

func listBreak(c *check) {
	for n := range 5 {
		c.put(backup("orders", n, catalog.StateReady), "")
	}
	seq := c.cat.List(c.ctx, catalog.Query{})
	for stop := 1; stop <= 5; stop++ {
		n := 0
		for b, err := range seq {
			c.is("List", err, nil)
			if b.Keys != int64(4-n) {
				c.broken("backup number %d of the list is %s", n, b.ID)
			}
			if n++; n == stop {
				break
			}
		}
		if n != stop {
			c.broken("List gives %d backups of 5", n)
		}
	}
}

func listWhileDeleted(c *check) {
	var revs []catalog.Revision
	var list []*catalog.Backup
	for n := range 10 {
		b := backup("orders", n, catalog.StateReady)
		list, revs = append(list, b), append(revs, c.put(b, ""))
	}
	got := 0
	for b, err := range c.cat.List(c.ctx, catalog.Query{}) {
		c.is("List while backups are deleted", err, nil)
		if got++; got == 1 {
			for n := range 9 { // all but the one at hand, which is the newest
				c.is("Delete", c.other.Delete(c.ctx, list[n].ID, revs[n]), nil)
			}
		}
		if b.State != catalog.StateReady {
			c.broken("List of what is ready gives a backup that is %s", b.State)
		}
	}
	c.lists(catalog.Query{States: allStates}, list[9])
}

func listCorrupt(c *check) {
	var list []*catalog.Backup
	for n := range 7 {
		b := backup("orders", n, catalog.StateReady)
		list = append(list, b)
		c.put(b, "")
	}
	bad := []int{0, 3, 6}
	for _, n := range bad {
		c.opts.Corrupt(c.T, c.cat, list[n].ID)
	}
	var got []int64
	corrupt := 0
	for b, err := range c.other.List(c.ctx, catalog.Query{}) {
		if err != nil {
			c.is("List with corrupt manifests", err, catalog.ErrCorrupt)
			if b != nil {
				c.broken("List gives a backup with an error: %+v", b)
			}
			corrupt++
			continue
		}
		got = append(got, b.Keys)
	}
	if corrupt != len(bad) || !slices.Equal(got, []int64{5, 4, 2, 1}) {
		c.broken("List of 7 backups, of which number 0, 3 and 6 are corrupt, gives %d errors and the backups %v", corrupt, got)
	}
	for _, err := range c.other.List(c.ctx, catalog.Query{}) {
		if err != nil {
			break // one may leave at an error too
		}
	}
}

func deletes(c *check) {
	b, kept := backup("orders", 1, catalog.StateRunning), backup("orders", 2, catalog.StateReady)
	first := c.put(b, "")
	c.put(kept, "")
	now := as(b, catalog.StateFailed)
	second := c.put(now, first)
	for _, stale := range []catalog.Revision{"", first, second + "x", "nonsense"} {
		c.is(fmt.Sprintf("Delete with the revision %q, when %q is current", stale, second), c.cat.Delete(c.ctx, b.ID, stale), catalog.ErrConflict)
		c.holds(now)
	}
	c.is("Delete", c.other.Delete(c.ctx, b.ID, second), nil)
	c.absent(b.ID)
	c.is("the second Delete", c.cat.Delete(c.ctx, b.ID, second), catalog.ErrNotFound)
	c.holds(kept)
	for n, state := range allStates {
		b := backup("orders", 10+n, state)
		c.is("Delete of a backup that is "+string(state), c.cat.Delete(c.ctx, b.ID, c.put(b, "")), nil)
		c.absent(b.ID)
	}
	c.lists(catalog.Query{States: allStates}, kept)
}

func deleteRace(c *check) {
	for round := range c.rounds(15) {
		b := backup("orders", round, catalog.StateRunning)
		rev := c.put(b, "")
		ready := as(b, catalog.StateReady)
		// A busy machine may start them in the same order every time.
		deletes := func(i int) bool { return (i+round)%2 == 0 }
		won := c.winner(race(8, func(i int) error {
			if deletes(i) {
				return c.client(i).Delete(c.ctx, b.ID, rev)
			}
			v := *ready
			v.Keys = int64(i)
			_, err := c.client(i).Put(c.ctx, &v, rev)
			return err
		}), catalog.ErrConflict, catalog.ErrNotFound)
		if won >= 0 && deletes(won) {
			c.absent(b.ID)
			continue
		}
		ready.Keys = int64(won)
		c.holds(ready)
	}
}

func deleteForGood(c *check) {
	b := backup("orders", 1, catalog.StateRunning)
	first := c.put(b, "")
	second := c.put(as(b, catalog.StateReady), first)
	c.is("Delete", c.cat.Delete(c.ctx, b.ID, second), nil)
	for _, rev := range []catalog.Revision{first, second} {
		for _, cat := range []catalog.Catalog{c.cat, c.other} {
			_, err := cat.Put(c.ctx, as(b, catalog.StateReady), rev)
			c.is("Put of a backup that was deleted", err, catalog.ErrConflict)
			c.absent(b.ID)
		}
	}
}

func deleteShowsNothingOlder(c *check) {
	for round := range c.rounds(15) {
		b := backup("orders", round, catalog.StateReady)
		rev := c.put(as(b, catalog.StateRunning), "")
		rev = c.put(b, rev)
		var marked atomic.Bool
		end := make(chan struct{})
		var watchers sync.WaitGroup
		watch := func(look func() (catalog.State, error)) {
			watchers.Go(func() {
				for {
					select {
					case <-end:
						return
					default:
					}
					before := marked.Load()
					state, err := look()
					switch {
					case err != nil && !errors.Is(err, catalog.ErrNotFound):
						c.report("looking at a backup that is being deleted: %v", err)
						return
					case err == nil && before && state != catalog.StateDeleting:
						c.report("after a backup was put as deleting, it is seen as %s", state)
						return
					}
				}
			})
		}
		watch(func() (catalog.State, error) {
			got, _, err := c.other.Get(c.ctx, b.ID)
			if err != nil {
				return "", err
			}
			return got.State, nil
		})
		watch(func() (catalog.State, error) {
			for got, err := range c.other.List(c.ctx, catalog.Query{States: allStates}) {
				if err != nil {
					return "", err
				}
				return got.State, nil
			}
			return "", catalog.ErrNotFound
		})
		rev = c.put(as(b, catalog.StateDeleting), rev)
		marked.Store(true)
		err := c.cat.Delete(c.ctx, b.ID, rev)
		time.Sleep(time.Millisecond) // the watchers look once more
		close(end)
		watchers.Wait()
		c.is("Delete", err, nil)
		if c.Failed() {
			return
		}
		c.absent(b.ID)
	}
}

func cancelled(c *check) {
	b := backup("orders", 1, catalog.StateReady)
	rev := c.put(b, "")
	lease, err := c.leaser.Acquire(c.ctx, "held", time.Minute)
	c.is("Acquire", err, nil)
	ctx, cancel := context.WithCancel(c.ctx)
	cancel()
	fresh := backup("orders", 2, catalog.StateReady)
	_, err = c.cat.Put(ctx, fresh, "")
	c.is("Put", err, context.Canceled)
	_, err = c.cat.Put(ctx, as(b, catalog.StateFailed), rev)
	c.is("Put", err, context.Canceled)
	_, _, err = c.cat.Get(ctx, b.ID)
	c.is("Get", err, context.Canceled)
	err = nil
	for _, err = range c.cat.List(ctx, catalog.Query{}) {
	}
	c.is("List", err, context.Canceled)
	if pager, ok := c.cat.(catalog.Pager); ok {
		_, _, err = pager.Page(ctx, catalog.Query{}, catalog.Cursor{}, 10)
		c.is("Page", err, context.Canceled)
	}
	c.is("Delete", c.cat.Delete(ctx, b.ID, rev), context.Canceled)
	_, err = c.leaser.Acquire(ctx, "new", time.Minute)
	c.is("Acquire", err, context.Canceled)
	c.is("Renew", lease.Renew(ctx), context.Canceled)
	c.is("Release", lease.Release(ctx), context.Canceled)
	c.holds(b)
	c.absent(fresh.ID)
	_, err = c.otherLeaser.Acquire(c.ctx, "held", time.Minute)
	c.is("Acquire of a lease whose Release was cancelled", err, catalog.ErrHeld)
	_, err = c.otherLeaser.Acquire(c.ctx, "new", time.Minute)
	c.is("Acquire of a lease whose Acquire was cancelled", err, nil)
}
