package catalogtest_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/catalogtest"
)

const brokenEnv = "CATALOGTEST_BROKEN"

// broken are the faults that a memory can have, and the subtests that must find them.
var broken = map[string]string{
	"Put loses the state":  "put-new",
	"new over old":         "put-new-exists",
	"same revision":        "put-next",
	"any revision":         "put-stale",
	"ready is running":     "put-ready",
	"Put keeps the backup": "put-keeps-nothing",
	"rounds times":         "put-keeps-signature",
	"anything is put":      "put-invalid",
	"look and put":         "put-new-race",
	"look and put next":    "put-next-race",
	"nothing is found":     "get-missing",
	"corrupt is missing":   "get-corrupt",
	"oldest first":         "list-order",
	"data store by prefix": "list-query",
	"short list":           "list-break",
	"deleted is an error":  "list-while-deleted",
	"corrupt hides others": "list-corrupt",

	"any kind":              "list-kind",
	"first kind only":       "list-kind",
	"any policy":            "list-policy",
	"name is text":          "list-name",
	"any label":             "list-label",
	"empty label is none":   "list-label",
	"from later":            "list-time",
	"until and with it":     "list-time",
	"any text":              "list-text",
	"text is a pattern":     "list-text",
	"anything is asked for": "list-invalid",

	"page from the beginning": "page-order",
	"page repeats its last":   "page-order",
	"page too long":           "page-order",
	"page of any kind":        "page-query",
	"page shows what was":     "page-fresh",
	"page lacks the newest":   "page-race",
	"page hides corrupt":      "page-corrupt",
	"page is corrupt":         "page-corrupt",
	"page of nothing":         "page-invalid",
	"page from anywhere":      "page-invalid",

	"Delete of any revision": "delete",
	"look and delete":        "delete-race",
	"deleted comes back":     "delete-for-good",
	"older shows":            "delete-shows-nothing-older",
	"context ignored":        "cancelled",
	"no exclusion":           "lease-exclusive",
	"look and acquire":       "lease-race",
	"Release of another's":   "lease-release",
	"Renew does nothing":     "lease-renew",
	"Renew of what is lost":  "lease-expiry",
	"same token":             "lease-tokens",
	"no time to live":        "lease-invalid",
	"paused publishes":       "paused-holder",
	"no end":                 "lease-expiry",
	"Release does nothing":   "lease-release",

	"one share at a time":         "share",
	"share without an owner":      "share",
	"share keeps others out":      "share-names",
	"shares of any name":          "share-names",
	"look and share":              "share-race",
	"share comes late":            "share-order",
	"share released is told":      "share-release",
	"Release of all shares":       "share-release",
	"Renew of a released share":   "share-release",
	"share isn't renewed":         "share-renew",
	"share has no end":            "share-expiry",
	"share ends early":            "share-expiry",
	"Renew of a share that ended": "share-expiry",
	"Release brings a share back": "share-expiry",
	"share of anything":           "share-invalid",
	"share ignores the context":   "share-cancelled",

	"adopted bytes":              "ledger-current",
	"parts of seconds":           "ledger-current",
	"all that is listed stays":   "ledger-current",
	"deleting is over":           "ledger-ended",
	"deleting is told twice":     "ledger-ended",
	"ends are forgotten":         "ledger-ended",
	"ends add up":                "ledger-again",
	"the last end counts":        "ledger-again",
	"look and note":              "ledger-race",
	"never ready, and yet":       "ledger-never",
	"copies are old":             "ledger-copy",
	"first copy counts":          "ledger-copy",
	"one stay for each backup":   "ledger-twice",
	"any time":                   "ledger-period",
	"short stays":                "ledger-break",
	"current comes later":        "ledger-meanwhile",
	"ledger ignores the context": "ledger-cancelled",
}

// TestGoodCatalog is what TestBroken runs in a child process, with a catalog that breaks one rule. By itself it shows
// that the suite passes a catalog that breaks none.
func TestGoodCatalog(t *testing.T) {
	clock := catalogtest.NewClock()
	catalogtest.Run(t, func(t *testing.T) (catalog.Catalog, catalog.Leaser) {
		m := newMemory(clock, os.Getenv(brokenEnv))
		return m, m
	}, &catalogtest.Options{
		Clock:   clock,
		Corrupt: func(t *testing.T, c catalog.Catalog, id catalog.ID) { c.(*memory).corrupt(id) },
	})
}

// TestNoSharer: shared leases are an ability that a catalog may lack.
func TestNoSharer(t *testing.T) {
	clock := catalogtest.NewClock()
	catalogtest.Run(t, func(t *testing.T) (catalog.Catalog, catalog.Leaser) {
		m := newMemory(clock, "")
		return m, struct{ catalog.Leaser }{m}
	}, &catalogtest.Options{Clock: clock})
}

// TestNoLedger: so is a ledger.
func TestNoLedger(t *testing.T) {
	clock := catalogtest.NewClock()
	catalogtest.Run(t, func(t *testing.T) (catalog.Catalog, catalog.Leaser) {
		m := newMemory(clock, "")
		return struct{ catalog.Catalog }{m}, m
	}, &catalogtest.Options{Clock: clock})
}

// TestBroken shows that every subtest of the suite finds a catalog that breaks its rule.
func TestBroken(t *testing.T) {
	for fault, caught := range broken {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestGoodCatalog$/^"+caught+"$", "-test.timeout=1m")
			cmd.Env = append(os.Environ(), brokenEnv+"="+fault)
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) {
				t.Fatalf("%s passed a catalog with this fault: %v\n%s", caught, err, out)
			}
			if !bytes.Contains(out, []byte("--- FAIL: TestGoodCatalog/"+caught)) || !bytes.Contains(out, []byte("The rule: ")) {
				t.Errorf("the failure doesn't say which rule was broken:\n%s", out)
			}
		})
	}
}

// TestEveryRuleHasABrokenCatalog holds the table complete: a rule that nothing breaks may not be tested at all.
func TestEveryRuleHasABrokenCatalog(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestGoodCatalog$", "-test.v")
	cmd.Env = append(os.Environ(), brokenEnv+"=") // the good one
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("the suite doesn't pass a good catalog: %v\n%s", err, out)
	}
	caught := map[string]bool{}
	for _, rule := range broken {
		caught[rule] = true
	}
	rules := 0
	for line := range strings.Lines(string(out)) {
		if _, rule, ok := strings.Cut(strings.TrimSpace(line), "=== RUN   TestGoodCatalog/"); ok {
			rules++
			if !caught[rule] {
				t.Errorf("no catalog in this test breaks the rule %s", rule)
			}
		}
	}
	if rules < 25 {
		t.Errorf("the suite has only %d rules:\n%s", rules, out)
	}
}
