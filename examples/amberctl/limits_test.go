package main

import (
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/govern"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
)

// Limits hold, can be ignored by name, and what a backup took is shown.
func TestLimits(t *testing.T) {
	t.Parallel()
	c := newCtl(t)
	source := testserver.Start(t, "valkey-8.1")
	testserver.Generate(t, source.Client(t), 100, 1)
	args := func(more ...string) []string {
		return append([]string{"backup", "--from", source.URL(), "--id", "orders"}, more...)
	}

	_, text := c.run(t, exitFailed, args("--source-memory", "1MiB")...)
	if !strings.Contains(text, "memory") || !strings.Contains(text, "--ignore-limit memory") {
		t.Errorf("a limit that is exceeded: %s", text)
	}
	b := parse[catalog.Backup](t, c, exitDone, args("--source-memory", "1MiB", "--ignore-limit", "memory", "--max-rate", "64MiB", "--max-syncs", "1/1h")...)
	if cost := b.Source.Cost; cost == nil || cost.Fork <= 0 || cost.Bytes != b.RawBytes || cost.LatencyDuring <= 0 {
		t.Errorf("the cost is %+v, of %d bytes", b.Source.Cost, b.RawBytes)
	}
	out, _ := c.run(t, exitDone, "show", string(b.ID))
	for _, word := range []string{"Cost", "fork ", "PING p99 "} {
		if !strings.Contains(out, word) {
			t.Errorf("show doesn't tell %q:\n%s", word, out)
		}
	}
	_, text = c.run(t, exitFailed, args("--max-syncs", "1/1h")...)
	if !strings.Contains(text, "the next may begin at") || !strings.Contains(text, "--ignore-limit budget") {
		t.Errorf("beyond the budget: %s", text)
	}
	c.run(t, exitDone, args("--max-syncs", "1/1h", "--ignore-limit", "budget")...)

	// They are those of the backup that a restore makes of what it replaces, too.
	replace := []string{"restore", string(b.ID), "--to", source.URL(), "--replace", "--source-memory", "1MiB"}
	if _, text = c.run(t, exitFailed, replace...); !strings.Contains(text, "not touched") || !strings.Contains(text, "--ignore-limit memory") {
		t.Errorf("a limit of what is replaced: %s", text)
	}
	c.run(t, exitDone, append(replace, "--ignore-limit", "memory")...)

	for _, bad := range [][]string{{"--max-rate", "fast"}, {"--max-rate", "1KiB"}, {"--max-syncs", "3"}, {"--max-syncs", "0/1h"}, {"--max-syncs", "3/48h"},
		{"--ignore-limit", "everything"}, {"--max-latency", "-1s"}, {"--wait-source", "-1s"}, {"--source-memory", "-1GiB"}} {
		want := strings.Trim(bad[1], "-")
		if want == "1KiB" {
			want = "at least 65536"
		}
		if _, text := c.run(t, exitUsage, args(bad...)...); !strings.Contains(text, want) {
			t.Errorf("%v: %s", bad, text)
		}
		c.run(t, exitUsage, append([]string{"schedule", "run", "--source", "orders=" + source.URL()}, bad...)...)
	}
}

func TestReadLimits(t *testing.T) {
	f := limitFlags{rate: "50MiB", memory: "16GiB", latency: time.Second, latencyFor: time.Minute, fork: 2 * time.Second, syncs: "3/90m", ignore: []string{"last-save"}}
	var cfg amber.Config
	if err := f.apply(&cfg); err != nil {
		t.Fatal(err)
	}
	l := cfg.SourceLimits
	if l.BytesPerSecond != 50<<20 || l.Memory != 16<<30 || l.Latency != time.Second || l.LatencyFor != time.Minute || l.Fork != 2*time.Second || l.Wait >= 0 ||
		len(l.Ignore) != 1 || l.Ignore[0] != govern.LastSave || cfg.SyncBudget != (backup.Budget{Syncs: 3, Window: 90 * time.Minute}) {
		t.Errorf("%+v, %+v", l, cfg.SyncBudget)
	}
	for text, want := range map[string]int64{"": 0, "1": 1, "7B": 7, "2KiB": 2048, "3TiB": 3 << 40} {
		if n, err := readSize(text); n != want || err != nil {
			t.Errorf("%q: %d, %v", text, n, err)
		}
	}
	for _, text := range []string{"B", "x", "1KB", "0", "-1MiB", "1.5GiB", "99999999TiB", "1MiBB"} {
		if n, err := readSize(text); err == nil {
			t.Errorf("%q: %d", text, n)
		}
	}
}
