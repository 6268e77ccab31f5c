package catalogtest

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/amberkv/amber/catalog"
)

// various returns backups of all kinds and states, newest first, which differ in whatever a query can be about.
func (c *check) various() []*catalog.Backup {
	kinds := []catalog.Kind{catalog.KindManual, catalog.KindAutomatic, catalog.KindImport, catalog.KindSafety, catalog.KindShutdown, "of-the-host"}
	var list []*catalog.Backup
	for n := range 24 {
		b := backup([]string{"orders", "orders-2", "carts"}[n%3], n*3600, []catalog.State{catalog.StateReady, catalog.StateReady, catalog.StateFailed}[n%3])
		b.Kind = kinds[n%len(kinds)]
		switch n % 4 {
		case 0:
			b.Labels = map[string]string{"team": "payments", "env": "eu"}
			b.Name = "nightly"
		case 1:
			b.Labels = map[string]string{"team": "", "env": "payments"}
			b.Name = "Before-v2"
			b.Policy = "nightly"
		case 2:
			b.Policy = "hourly"
			b.Description = "vor der ÜBERGABE"
		}
		list = append(list, b)
	}
	slices.Reverse(list)
	for i := range list { // in an order of its own
		c.put(list[(i*7)%len(list)], "")
	}
	return list
}

// selects checks that a query gives those that are chosen, of which there has to be one at least, and not all.
func (c *check) selects(list []*catalog.Backup, q catalog.Query, chosen func(b *catalog.Backup) bool) {
	c.Helper()
	var want []*catalog.Backup
	for _, b := range list {
		if chosen(b) {
			want = append(want, b)
		}
	}
	if len(want) == 0 || len(want) == len(list) {
		c.Fatalf("catalogtest: %+v proves nothing: it selects %d of %d", q, len(want), len(list))
	}
	c.lists(q, want...)
}

func ready(b *catalog.Backup) bool { return b.State == catalog.StateReady }

func listKind(c *check) {
	list := c.various()
	for _, kinds := range [][]catalog.Kind{{catalog.KindManual}, {catalog.KindAutomatic, "of-the-host"}, {catalog.KindAutomatic, catalog.KindSafety, "nothing"}} {
		c.selects(list, catalog.Query{Kinds: kinds}, func(b *catalog.Backup) bool { return ready(b) && slices.Contains(kinds, b.Kind) })
	}
	c.lists(catalog.Query{Kinds: []catalog.Kind{"nothing"}})
}

func listPolicy(c *check) {
	list := c.various()
	for _, policy := range []string{"nightly", "hourly"} {
		c.selects(list, catalog.Query{Policy: policy, States: allStates}, func(b *catalog.Backup) bool { return b.Policy == policy })
	}
	c.lists(catalog.Query{Policy: "night", States: allStates})
}

func listName(c *check) {
	list := c.various()
	c.selects(list, catalog.Query{Name: "nightly"}, func(b *catalog.Backup) bool { return ready(b) && b.Name == "nightly" })
	c.lists(catalog.Query{Name: "before-v2", States: allStates})
	c.lists(catalog.Query{Name: "Before", States: allStates})
}

func listLabel(c *check) {
	list := c.various()
	for _, labels := range []map[string]string{{"team": "payments"}, {"team": ""}, {"env": "payments", "team": ""}} {
		c.selects(list, catalog.Query{Labels: labels}, func(b *catalog.Backup) bool {
			for key, value := range labels {
				if has, ok := b.Labels[key]; !ok || has != value {
					return false
				}
			}
			return ready(b)
		})
	}
	for _, labels := range []map[string]string{{"team": "Payments"}, {"region": ""}, {"team": "payments", "env": "us"}} {
		c.lists(catalog.Query{Labels: labels, States: allStates})
	}
}

func listTime(c *check) {
	list := c.various()
	from, until := list[15].CreatedAt, list[5].CreatedAt
	all := allStates
	c.selects(list, catalog.Query{From: from, States: all}, func(b *catalog.Backup) bool { return !b.CreatedAt.Before(from) })
	c.selects(list, catalog.Query{Until: until, States: all}, func(b *catalog.Backup) bool { return b.CreatedAt.Before(until) })
	c.selects(list, catalog.Query{From: from, Until: until}, func(b *catalog.Backup) bool {
		return ready(b) && !b.CreatedAt.Before(from) && b.CreatedAt.Before(until)
	})
	c.selects(list, catalog.Query{From: from, Until: from.Add(1), States: all}, func(b *catalog.Backup) bool { return b.ID == list[15].ID })
	// Another zone is the same time.
	c.selects(list, catalog.Query{From: from.In(time.FixedZone("", -11*3600)), States: all}, func(b *catalog.Backup) bool { return !b.CreatedAt.Before(from) })
	c.lists(catalog.Query{From: list[0].CreatedAt.Add(1), States: all})
	c.lists(catalog.Query{Until: list[len(list)-1].CreatedAt, States: all})
	c.lists(catalog.Query{From: list[0].CreatedAt.AddDate(1, 0, 0), States: all})
	c.lists(catalog.Query{Until: list[0].CreatedAt.AddDate(-1, 0, 0), States: all})
}

func listText(c *check) {
	list := c.various()
	fields := map[string]func(b *catalog.Backup) bool{
		string(list[3].ID[9:]): func(b *catalog.Backup) bool { return b.ID == list[3].ID },
		"ORDERS-":              func(b *catalog.Backup) bool { return b.DataStore == "orders-2" },
		"bEFORE":               func(b *catalog.Backup) bool { return b.Name == "Before-v2" },
		"übergabe":             func(b *catalog.Backup) bool { return strings.Contains(b.Description, "ÜBERGABE") },
		"PAYMENT":              func(b *catalog.Backup) bool { return b.Labels["team"] == "payments" || b.Labels["env"] == "payments" },
	}
	for text, has := range fields {
		c.selects(list, catalog.Query{Text: text, States: allStates}, has)
	}
	c.selects(list, catalog.Query{Text: "payments", DataStore: "orders", Kinds: []catalog.Kind{catalog.KindManual, catalog.KindSafety}}, func(b *catalog.Backup) bool {
		return b.DataStore == "orders" && ready(b) && (b.Kind == catalog.KindManual || b.Kind == catalog.KindSafety) && len(b.Labels) > 0
	})
	for _, text := range []string{"hourly", "env", "%", "*", ".*", "nightlynightly"} { // no policy, no label's key, no pattern
		c.lists(catalog.Query{Text: text, States: allStates})
	}
}

// oddQueries are those that can't be meant so.
func oddQueries() map[string]catalog.Query {
	at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	return map[string]catalog.Query{
		"a data store with a path": {DataStore: "../x"},
		"a state that isn't one":   {States: []catalog.State{"perfect"}},
		"an empty kind":            {Kinds: []catalog.Kind{""}},
		"a label without a key":    {Labels: map[string]string{"": "x"}},
		"no time":                  {From: at, Until: at},
		"too long a text":          {Text: strings.Repeat("x", 1001)},
	}
}

func listInvalid(c *check) {
	c.put(backup("orders", 1, catalog.StateReady), "")
	for what, q := range oddQueries() {
		var errs []error
		for b, err := range c.other.List(c.ctx, q) {
			if b != nil || errors.Is(err, catalog.ErrCorrupt) {
				c.broken("List with %s gives %v, %v", what, b, err)
			}
			errs = append(errs, err)
		}
		if len(errs) != 1 {
			c.broken("List with %s gives the errors %v, want one", what, errs)
		}
	}
}
