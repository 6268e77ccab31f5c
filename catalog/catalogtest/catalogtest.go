// Package catalogtest proves that a catalog keeps the contract of package catalog.
//
// A driver calls [Run] from a test of its own. Each rule of the contract is a subtest, and a failure says which rule
// was broken and how.
package catalogtest

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/amberkv/amber/catalog"
)

// Options tell Run about a catalog.
type Options struct {
	// Clock drives the time that the catalogs of open go by: they get its Now. Required.
	Clock *Clock

	// Another opens one more client of a catalog that open returned, as another process would have it. Nil means that
	// the catalog is only used by the one client.
	Another func(t *testing.T, c catalog.Catalog) (catalog.Catalog, catalog.Leaser)

	// Corrupt damages the manifest of a backup where the catalog keeps it, by changing some of its bytes. Nil means that
	// this can't happen to the catalog.
	Corrupt func(t *testing.T, c catalog.Catalog, id catalog.ID)

	// Slow says that every call takes a while: what is done again and again, in the hope of meeting a rare order of events, is done a
	// third as often, and pages are looked at after more changes.
	Slow bool
}

// A Clock is a clock that only moves when it is told to. It is safe for use by several goroutines.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock returns a clock that stands at some time.
func NewClock() *Clock { return &Clock{now: time.Date(2026, 11, 23, 22, 17, 0, 0, time.UTC)} }

// Now tells the time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Advance moves the clock.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// Run tests a catalog and the leases that belong to it. It calls open once for each subtest; each time open returns a catalog
// that is empty and that nothing else uses, and cleans it up with t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) (catalog.Catalog, catalog.Leaser), opts *Options) {
	t.Helper()
	if opts == nil || opts.Clock == nil {
		t.Fatal("catalogtest: Options.Clock is required")
	}
	for _, r := range rules {
		if opts.Corrupt == nil && strings.HasSuffix(r.name, "-corrupt") {
			continue
		}
		t.Run(r.name, func(t *testing.T) {
			cat, leaser := open(t)
			if _, ok := leaser.(catalog.Sharer); !ok && strings.HasPrefix(r.name, "share") {
				return // shared leases are an ability that a catalog may have
			}
			if _, ok := cat.(catalog.Ledger); !ok && strings.HasPrefix(r.name, "ledger") {
				return // so is a ledger
			}
			if _, ok := cat.(catalog.Pager); !ok && strings.HasPrefix(r.name, "page") {
				return // and so are pages
			}
			c := &check{T: t, ctx: t.Context(), cat: cat, leaser: leaser, other: cat, otherLeaser: leaser, rule: r.rule, opts: opts}
			if opts.Another != nil {
				c.other, c.otherLeaser = opts.Another(t, cat)
			}
			r.run(c)
		})
	}
}

// rules are those of the contract. A name is that of the subtest; the rule is told when it is broken.
var rules = []struct {
	name, rule string
	run        func(*check)
}{
	{"put-new", "with an empty revision, Put writes a manifest that the catalog doesn't have, and Get returns it", putNew},
	{"put-new-exists", "with an empty revision, Put of a backup that exists returns ErrConflict and changes nothing", putNewExists},
	{"put-next", "with the current revision, Put writes the manifest and returns a new revision", putNext},
	{"put-stale", "with any but the current revision, Put returns ErrConflict and changes nothing", putStale},
	{"put-ready", "a backup can be put as ready at once", putReady},
	{"put-keeps-nothing", "Put doesn't keep the backup, and the caller owns what Get and List return", putKeepsNothing},
	{"put-keeps-signature", "a manifest that was signed is given back as it was, so that its signature holds", putKeepsSignature},
	{"put-invalid", "Put refuses a manifest that breaks the rules, and changes nothing", putInvalid},
	{"put-new-race", "of several writers of a new backup exactly one wins, and the others get ErrConflict", putNewRace},
	{"put-next-race", "of several writers with the same revision exactly one wins, and the others get ErrConflict", putNextRace},
	{"get-missing", "Get of a backup that doesn't exist returns ErrNotFound", getMissing},
	{"get-corrupt", "Get of a manifest that can't be read returns ErrCorrupt", getCorrupt},
	{"list-order", "List gives the newest backup first, across data stores", listOrder},
	{"list-query", "List gives the backups of the data store and states that are asked for; without states, those that are ready", listQuery},
	{"list-break", "a caller may leave the sequence of List at any time", listBreak},
	{"list-while-deleted", "a backup that is deleted during a List is no error", listWhileDeleted},
	{"list-corrupt", "a manifest that can't be read is an ErrCorrupt in the sequence of List and hides no other", listCorrupt},
	{"list-kind", "List gives the backups of the kinds that are asked for, of any kind if none is", listKind},
	{"list-policy", "List gives the backups of the policy that is asked for", listPolicy},
	{"list-name", "List gives the backups of exactly the name that is asked for", listName},
	{"list-label", "List gives the backups that have all the labels that are asked for, with these values", listLabel},
	{"list-time", "List gives the backups that began at Query.From or later, and before Query.Until", listTime},
	{"list-text", "List gives the backups with a text in the ID, data store, name, description or a label's value, whatever the case of its letters", listText},
	{"list-invalid", "List with a query that can't be meant so is an error, and nothing else", listInvalid},
	{"page-order", "the pages of a query, of whatever size, are together what List gives, in the same order", pageOrder},
	{"page-query", "a page has what the query selects, as in List", pageQuery},
	{"page-fresh", "what Put or Delete has returned nil for is on every later page", pageFresh},
	{"page-race", "what Put or Delete has returned nil for is on every later page, whatever others do meanwhile", pageRace},
	{"page-invalid", "Page with a query, a cursor or a limit that can't be meant so is an error", pageInvalid},
	{"page-corrupt", "manifests that can't be read are told beside a page and hide no other", pageCorrupt},
	{"delete", "Delete removes the manifest, if its revision is the one given, and no other", deletes},
	{"delete-race", "of a Put and a Delete with the same revision exactly one wins", deleteRace},
	{"delete-for-good", "a backup that was deleted can't be put again with the revision it had", deleteForGood},
	{"delete-shows-nothing-older", "no older state of a backup is ever to be seen again, not while it is deleted either", deleteShowsNothingOlder},
	{"cancelled", "with a context that has ended, every method returns an error that wraps ctx.Err() and has no effect", cancelled},
	{"lease-exclusive", "while a lease is held, Acquire returns a *HeldError that wraps ErrHeld", leaseExclusive},
	{"lease-race", "of several that acquire a lease at once, one gets it", leaseRace},
	{"lease-release", "a lease that was released can be acquired at once; releasing it again does nothing", leaseRelease},
	{"lease-renew", "a lease that is renewed in time is kept", leaseRenew},
	{"lease-expiry", "a lease that isn't renewed in time can be acquired by others at the time that HeldError tells, and its holder gets ErrLeaseLost", leaseExpiry},
	{"lease-tokens", "every lease of a name has a higher token than all before it", leaseTokens},
	{"lease-invalid", "a lease needs a name and a time to live", leaseInvalid},
	{"share", "several may have a shared lease at a time, and Sharers tells of each who has it and until when", shares},
	{"share-names", "shared leases of a name have nothing to do with those of other names, nor with exclusive ones", shareNames},
	{"share-race", "all that share a name at once get a lease, and Sharers tells of all of them", shareRace},
	{"share-order", "of one who shares a name and then looks whether a backup is ready, and one who puts it as deleting and then asks for Sharers, " +
		"one knows of the other", shareOrder},
	{"share-release", "a shared lease that was released isn't told any more, and those of others are; releasing it again does nothing", shareRelease},
	{"share-renew", "a shared lease that is renewed in time is kept", shareRenew},
	{"share-expiry", "a shared lease that isn't renewed in time is over at the time that Sharers has told, and its holder gets ErrLeaseLost", shareExpiry},
	{"share-invalid", "a shared lease needs a name and a time to live", shareInvalid},
	{"share-cancelled", "with a context that has ended, Share and Sharers return an error that wraps ctx.Err(), and nothing is shared", shareCancelled},
	{"ledger-current", "Stays gives what the store has since it was ready, to the second, without an end, and with the bytes that aren't adopted; of what is being deleted, until then", ledgerCurrent},
	{"ledger-ended", "Stays gives a backup that was deleted once, from when it was ready until its DeletedAt, whatever is left of it", ledgerEnded},
	{"ledger-again", "noting an end again changes nothing, and of two that differ the first counts", ledgerAgain},
	{"ledger-race", "an end that several note at once is noted once", ledgerRace},
	{"ledger-never", "what never was ready has no stay", ledgerNever},
	{"ledger-copy", "the stay of a copy begins when Began says; noting that again replaces the former note", ledgerCopy},
	{"ledger-twice", "a backup that was deleted and copied into the store again has two stays", ledgerTwice},
	{"ledger-period", "Stays gives the stays that overlap a period, and no others", ledgerPeriod},
	{"ledger-break", "a caller may leave the sequence of Stays at any time", ledgerBreak},
	{"ledger-meanwhile", "a backup that is deleted while Stays is read is given once", ledgerMeanwhile},
	{"ledger-cancelled", "with a context that has ended, the methods of a ledger return an error that wraps ctx.Err(), and nothing is noted", ledgerCancelled},
	{"paused-holder", "who lost its lease can't publish once its run was declared dead", pausedHolder},
}

// A check is one subtest at work.
type check struct {
	*testing.T
	ctx                 context.Context
	cat, other          catalog.Catalog // two clients of one catalog
	leaser, otherLeaser catalog.Leaser
	rule                string
	opts                *Options
}

// rounds returns how often to do what is worth doing n times.
func (c *check) rounds(n int) int {
	if c.opts.Slow {
		return n / 3
	}
	return n
}

// broken reports a broken rule and ends the subtest.
func (c *check) broken(format string, args ...any) {
	c.Helper()
	c.report(format, args...)
	c.FailNow()
}

// report reports a broken rule, from any goroutine.
func (c *check) report(format string, args ...any) {
	c.Helper()
	c.Errorf(format+"\nThe rule: %s.", append(args, c.rule)...)
}

// is checks an error.
func (c *check) is(what string, err, want error) {
	c.Helper()
	if !errors.Is(err, want) {
		c.broken("%s: the error is %v, want %v", what, err, want)
	}
}

// backup returns a backup that began n seconds after some time, with something to tell it by.
func backup(dataStore string, n int, state catalog.State) *catalog.Backup {
	began := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(n) * time.Second)
	b := &catalog.Backup{
		Format: catalog.Format, ID: catalog.NewID(began), DataStore: dataStore, Kind: catalog.KindManual, State: state, CreatedAt: began, Keys: int64(n),
		Description: "began " + began.String(),
		DBs:         []catalog.DB{{Keys: int64(n), Types: map[string]int64{"string": int64(n)}}},
	}
	sum := strings.Repeat("0123456789abcdef", 4)
	b.Parts = []catalog.Part{{
		Name: "part-0000.rdb.zst", Key: b.Prefix() + "part-0000.rdb.zst", Dialect: "redis:12", Compression: "zstd",
		Size: 10, SHA256: sum, RawSize: 20, RawSHA256: sum, Keys: int64(n),
	}}
	return b
}

// as returns a copy of a backup in another state.
func as(b *catalog.Backup, state catalog.State) *catalog.Backup {
	c := *b
	c.State = state
	return &c
}

// put puts a backup that nothing should hinder.
func (c *check) put(b *catalog.Backup, prev catalog.Revision) catalog.Revision {
	c.Helper()
	rev, err := c.cat.Put(c.ctx, b, prev)
	c.is("Put", err, nil)
	if rev == "" {
		c.broken("Put returned no error and no revision")
	}
	return rev
}

// holds checks what both clients get, and returns the revision.
func (c *check) holds(want *catalog.Backup) catalog.Revision {
	c.Helper()
	var revs []catalog.Revision
	for _, cat := range []catalog.Catalog{c.cat, c.other} {
		got, rev, err := cat.Get(c.ctx, want.ID)
		c.is("Get", err, nil)
		if !reflect.DeepEqual(got, want) {
			c.broken("Get returns\n%+v, want\n%+v", got, want)
		}
		revs = append(revs, rev)
	}
	if revs[0] != revs[1] {
		c.broken("two clients get the revisions %s and %s of the same manifest", revs[0], revs[1])
	}
	return revs[0]
}

// absent checks that neither client finds a backup.
func (c *check) absent(id catalog.ID) {
	c.Helper()
	for _, cat := range []catalog.Catalog{c.cat, c.other} {
		b, rev, err := cat.Get(c.ctx, id)
		if !errors.Is(err, catalog.ErrNotFound) || b != nil {
			c.broken("Get of %s returns %v, revision %q and the error %v, want ErrNotFound", id, b, rev, err)
		}
	}
	for _, got := range c.list(catalog.Query{States: allStates}) {
		if got.ID == id {
			c.broken("%s is listed", id)
		}
	}
}

var allStates = []catalog.State{
	catalog.StateRunning, catalog.StateReady, catalog.StateFailed, catalog.StateInterrupted, catalog.StateDeleting,
}

// list returns what a query gives.
func (c *check) list(q catalog.Query) []*catalog.Backup {
	c.Helper()
	var list []*catalog.Backup
	for b, err := range c.other.List(c.ctx, q) {
		c.is("List", err, nil)
		list = append(list, b)
	}
	return list
}

// lists checks what a query gives, in order.
func (c *check) lists(q catalog.Query, want ...*catalog.Backup) {
	c.Helper()
	got := c.list(q)
	name := func(list []*catalog.Backup) string {
		var s []string
		for _, b := range list {
			s = append(s, b.DataStore+"/"+string(b.ID)+" "+string(b.State))
		}
		return "[" + strings.Join(s, ", ") + "]"
	}
	if len(got) != len(want) {
		c.broken("List %+v gives\n%s, want\n%s", q, name(got), name(want))
	}
	for i := range got {
		if !reflect.DeepEqual(got[i], want[i]) {
			c.broken("List %+v gives\n%s, want\n%s; the manifest of number %d is\n%+v, want\n%+v", q, name(got), name(want), i, got[i], want[i])
		}
	}
}
