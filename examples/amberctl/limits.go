package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
)

// limitFlags say what a source may be put to by its backup.
type limitFlags struct {
	rate, memory     string
	latency, fork    time.Duration
	latencyFor, wait time.Duration
	syncs            string
	ignore           []string
}

// limitNames are what the flags are called.
var limitNames = []string{"max-rate", "max-latency", "max-latency-for", "max-fork", "source-memory", "max-syncs", "wait-source", "ignore-limit"}

func (f *limitFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.rate, "max-rate", "", "read a snapshot at most so fast, as 50MiB a second")
	flags.DurationVar(&f.latency, "max-latency", 0, "spare a server of which PING takes longer than this, 99 of 100 times: wait, read slower, give up")
	flags.DurationVar(&f.latencyFor, "max-latency-for", 30*time.Second, "how long the latency may be above --max-latency before a snapshot is given up")
	flags.DurationVar(&f.fork, "max-fork", 0, "take no snapshot of a primary whose last fork took longer")
	flags.StringVar(&f.memory, "source-memory", "", "what memory the server has for itself and its child, as 16GiB, if that is less than the machine's")
	flags.StringVar(&f.syncs, "max-syncs", "", "ask a data store for a snapshot at most so often, whoever wants it, as 3/1h")
	flags.DurationVar(&f.wait, "wait-source", 3*time.Minute, "how long a snapshot waits until its server is ready for it, as while another child saves; 0: not at all")
	flags.StringArrayVar(&f.ignore, "ignore-limit", nil,
		"go on whatever this point says: fork-running, memory, buffer, last-save, latency, fork-time or budget; repeatable")
}

// apply sets what the flags say.
func (f *limitFlags) apply(cfg *amber.Config) error {
	l := &cfg.SourceLimits
	var err error
	if l.BytesPerSecond, err = readSize(f.rate); err != nil {
		return usagef("--max-rate %q: %w", f.rate, err)
	}
	if l.Memory, err = readSize(f.memory); err != nil {
		return usagef("--source-memory %q: %w", f.memory, err)
	}
	if f.wait < 0 {
		return usagef("--wait-source %v: it can't be negative", f.wait)
	}
	l.Latency, l.LatencyFor, l.Fork, l.Wait, l.Ignore = f.latency, f.latencyFor, f.fork, f.wait, f.ignore
	if f.wait == 0 {
		l.Wait = -1
	}
	if err := l.Validate(); err != nil {
		return usagef("limits of the source: %w", err)
	}
	if f.syncs == "" {
		return nil
	}
	count, window, ok := strings.Cut(f.syncs, "/")
	n, err := strconv.Atoi(count)
	d, derr := time.ParseDuration(window)
	if !ok || err != nil || derr != nil {
		return usagef("--max-syncs %q: write how many in how long, as 3/1h", f.syncs)
	}
	cfg.SyncBudget = backup.Budget{Syncs: n, Window: d}
	if err := cfg.SyncBudget.Validate(); err != nil {
		return usagef("--max-syncs %q: %w", f.syncs, err)
	}
	return nil
}

// readSize reads a number of bytes with a unit; "" is 0.
func readSize(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	digits := strings.TrimRight(text, "BKMGTi")
	factor, ok := map[string]int64{"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}[text[len(digits):]]
	n, err := strconv.ParseInt(digits, 10, 64)
	if !ok || err != nil || n <= 0 || n > 1<<62/factor {
		return 0, fmt.Errorf("write a number with KiB, MiB or GiB, as 50MiB")
	}
	return n * factor, nil
}

// costText tells what a snapshot took of its source.
func costText(c *catalog.Cost) string {
	if c == nil {
		return ""
	}
	var out []string
	add := func(known bool, format string, args ...any) {
		if known {
			out = append(out, fmt.Sprintf(format, args...))
		}
	}
	add(c.Bytes > 0 && c.Duration > 0, "%s in %s", size(c.Bytes), took(c.Duration))
	add(c.Bytes > 0 && c.Duration == 0, "%s", size(c.Bytes))
	add(c.Bytes == 0 && c.Duration > 0, "%s", took(c.Duration))
	add(c.Fork > 0, "fork %s", took(c.Fork))
	add(c.CopyOnWrite > 0, "copy-on-write %s", size(c.CopyOnWrite))
	add(c.Waited > 0, "waited %s", took(c.Waited))
	add(c.Slowed > 0, "slowed %s", took(c.Slowed))
	add(c.LatencyBefore > 0, "PING p99 %s before", took(c.LatencyBefore))
	add(c.LatencyDuring > 0, "%s meanwhile", took(c.LatencyDuring))
	return strings.Join(out, ", ")
}
