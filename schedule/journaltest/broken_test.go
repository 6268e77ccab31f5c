package journaltest_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/schedule"
	"github.com/amberkv/amber/schedule/journaltest"
)

const brokenEnv = "JOURNALTEST_BROKEN"

// broken are the faults that a memory can have, and the subtests that must find them.
var broken = map[string]string{
	"policy loses a field":         "policy-new",
	"policy new over old":          "policy-exists",
	"policy same revision":         "policy-next",
	"policy any revision":          "policy-stale",
	"policy by prefix":             "policy-missing",
	"policy kept":                  "policy-keeps-nothing",
	"policy look and put":          "policy-new-race",
	"policy look and put next":     "policy-next-race",
	"Delete of any revision":       "policy-delete",
	"Delete takes the runs":        "policy-delete",
	"look and delete":              "policy-delete-race",
	"deleted comes back":           "policy-delete-for-good",
	"successor takes it":           "policy-delete-for-good",
	"corrupt policy is missing":    "policy-corrupt",
	"order of keys":                "policies",
	"Policies without revisions":   "policies-change",
	"short list of policies":       "policies-break",
	"policy replaced in two steps": "policies-while-put",
	"run loses a field":            "run-new",
	"run new over old":             "run-exists",
	"run same revision":            "run-next",
	"run any revision":             "run-stale",
	"no run is an empty run":       "run-missing",
	"due by the minute":            "run-due",
	"run kept":                     "run-keeps-nothing",
	"run look and put":             "run-new-race",
	"run look and put next":        "run-next-race",
	"write is lost":                "run-no-loss",
	"corrupt run is missing":       "run-corrupt-get",
	"corrupt run hides others":     "run-corrupt-list",
	"runs by text":                 "runs-order",
	"policy of runs by prefix":     "runs-query",
	"until and with":               "runs-query",
	"limit counts all":             "runs-limit",
	"short list of runs":           "runs-break",
	"trimmed is an error":          "runs-while-trimmed",
	"trims what runs":              "trim",
	"trims the latest":             "trim",
	"look and trim":                "trim-race",
	"context ignored":              "cancelled",
}

// TestGoodJournal is what TestBroken runs in a child process, with a journal that breaks one rule. By itself it shows
// that the suite passes a journal that breaks none.
func TestGoodJournal(t *testing.T) {
	journaltest.Run(t, func(*testing.T) schedule.Journal { return newMemory(os.Getenv(brokenEnv)) }, &journaltest.Options{
		CorruptPolicy: func(t *testing.T, j schedule.Journal, id string) {
			if err := j.(*memory).corruptPolicy(id); err != nil {
				t.Fatal(err)
			}
		},
		CorruptRun: func(t *testing.T, j schedule.Journal, policy string, due time.Time) {
			if err := j.(*memory).corruptRun(policy, due); err != nil {
				t.Fatal(err)
			}
		},
	})
}

// TestBroken shows that every subtest of the suite finds a journal that breaks its rule.
func TestBroken(t *testing.T) {
	for fault, caught := range broken {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestGoodJournal$/^"+caught+"$", "-test.timeout=1m")
			cmd.Env = append(os.Environ(), brokenEnv+"="+fault)
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) {
				t.Fatalf("%s passed a journal with this fault: %v\n%s", caught, err, out)
			}
			if !bytes.Contains(out, []byte("--- FAIL: TestGoodJournal/"+caught)) || !bytes.Contains(out, []byte("The rule: ")) {
				t.Errorf("the failure doesn't say which rule was broken:\n%s", out)
			}
		})
	}
}

// TestEveryRuleHasABrokenJournal holds the table complete: a rule that nothing breaks may not be tested at all.
func TestEveryRuleHasABrokenJournal(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestGoodJournal$", "-test.v")
	cmd.Env = append(os.Environ(), brokenEnv+"=") // the good one
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("the suite doesn't pass a good journal: %v\n%s", err, out)
	}
	caught := map[string]bool{}
	for _, rule := range broken {
		caught[rule] = true
	}
	rules := 0
	for line := range strings.Lines(string(out)) {
		if _, rule, ok := strings.Cut(strings.TrimSpace(line), "=== RUN   TestGoodJournal/"); ok {
			rules++
			if !caught[rule] {
				t.Errorf("no journal in this test breaks the rule %s", rule)
			}
		}
	}
	if rules < 30 {
		t.Errorf("the suite has only %d rules:\n%s", rules, out)
	}
}
