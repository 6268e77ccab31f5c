package main

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/storecatalog"
	"github.com/amberkv/amber/storage/filestore"
)

// TestListPages: a table has a hundred backups and says how to go on; JSON has all, and each says where a list behind it begins.
func TestListPages(t *testing.T) {
	t.Parallel()
	c := newCtl(t)
	s, err := filestore.New(c.store, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	store, err := storecatalog.New(storecatalog.Config{Store: s})
	if err != nil {
		t.Fatal(err)
	}
	const backups = 130
	began := time.Now().UTC().Truncate(time.Hour).Add(-backups * time.Hour)
	for n := range backups {
		at := began.Add(time.Duration(n) * time.Hour)
		b := &catalog.Backup{ID: catalog.NewID(at), DataStore: []string{"orders", "carts"}[n%2], State: catalog.StateRunning, CreatedAt: at, Kind: catalog.KindManual}
		switch n % 5 {
		case 0:
			b.Kind, b.Policy, b.Labels = catalog.KindAutomatic, "nightly", map[string]string{"team": "payments", "env": "eu"}
		case 1:
			b.Pinned, b.Name = true, "before-upgrade"
		case 2:
			b.DeleteAfter = time.Date(2031, 2, 3, 0, 0, 0, 0, time.UTC)
		}
		if n%10 == 7 {
			b.State, b.Error = catalog.StateFailed, "on purpose"
		} else {
			sum := strings.Repeat("0123456789abcdef", 4)
			b.State, b.Parts = catalog.StateReady, []catalog.Part{{Name: "part-0", Key: b.Prefix() + "part-0", SHA256: sum, RawSHA256: sum}}
		}
		if _, err := store.Put(t.Context(), b, ""); err != nil {
			t.Fatal(err)
		}
	}
	all := parse[[]listed](t, c, exitDone, "list")
	if len(all) != 117 {
		t.Fatalf("%d are listed, want 117", len(all))
	}
	out, hint := c.run(t, exitDone, "list")
	more := regexp.MustCompile(`--cursor (\S+),`).FindStringSubmatch(hint)
	if strings.Count(out, "\n") != 101 || more == nil || more[1] != all[99].Cursor {
		t.Fatalf("the table has %d lines, and says %q; number 100 has the cursor %s", strings.Count(out, "\n"), hint, all[99].Cursor)
	}
	rest := parse[[]listed](t, c, exitDone, "list", "--cursor", more[1])
	if len(rest) != 17 || rest[0].ID != all[100].ID {
		t.Errorf("behind the cursor there are %d, the first is %s, want %s", len(rest), rest[0].ID, all[100].ID)
	}
	if out, hint := c.run(t, exitDone, "list", "--limit", "0"); strings.Count(out, "\n") != 118 || hint != "" {
		t.Errorf("--limit 0 lists %d lines, and says %q", strings.Count(out, "\n"), hint)
	}
	for _, text := range []string{"KIND", "KEPT", "policy nightly", "pinned", "until 2031-02-03", "for ever", "automatic"} {
		if !strings.Contains(out, text) {
			t.Errorf("the table doesn't tell %q:\n%s", text, out)
		}
	}
	if one := all[0]; one.Pinned || one.Policy != "" || one.DeleteAfter.IsZero() == (one.Labels == nil) && one.Cursor == "" {
		t.Errorf("the first is %+v", one)
	}
	for want, args := range map[string][]string{
		"26 automatic": {"--kind", "automatic"}, "13 carts and nightly": {"--policy", "nightly", "--id", "carts"}, "26 labels": {"--label", "team=payments", "--label", "env=eu"},
		"0 labels": {"--label", "team=other"}, "26 name": {"--name", "before-upgrade"}, "13 failed": {"--state", "failed"}, "130 all": {"--all"},
		"130 both": {"--state", "failed", "--state", "ready"}, "26 text": {"--text", "UPGRADE"}, "22 since": {"--since", "1d", "--all", "--limit", "22"}, "5 limit": {"--limit", "5"},
		"0 until": {"--until", "2020-01"},
		"10 time": {"--all", "--since", began.Format(time.RFC3339), "--until", began.Add(10 * time.Hour).Format(time.RFC3339)},
	} {
		n := 0
		fmt.Sscan(want, &n)
		if got := parse[[]listed](t, c, exitDone, append([]string{"list"}, args...)...); len(got) != n {
			t.Errorf("%v lists %d, want %s", args, len(got), want)
		}
	}
	for want, args := range map[string][]string{
		"--limit -1": {"--limit", "-1"}, "--all means every state": {"--all", "--state", "failed"}, `--state: the state "good"`: {"--state", "good"},
		"--label \"team\"": {"--label", "team"}, "each key once": {"--label", "a=b", "--label", "a=c"}, "--since \"soon\"": {"--since", "soon"},
		"is not before --until": {"--since", "2026-11", "--until", "2026-10"}, "--kind: kind": {"--kind", "a b"}, "--text has 1001": {"--text", strings.Repeat("x", 1001)},
	} {
		if _, errs := c.run(t, exitUsage, append([]string{"list"}, args...)...); !strings.Contains(errs, want) {
			t.Errorf("%v says %s", args, errs)
		}
	}
	if _, errs := c.run(t, exitFailed, "list", "--cursor", "nonsense"); !strings.Contains(errs, "Cursor") {
		t.Errorf("a cursor that is none: %s", errs)
	}
	if out, hint := c.run(t, exitDone, "list", "--text", "nothing"); out != "" || !strings.Contains(hint, "that are asked for") {
		t.Errorf("nothing is found, and it says %q, %q", out, hint)
	}
}
