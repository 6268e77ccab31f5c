// Command bench measures Amber beside the servers' own tools, in one run, and prints the figures as Markdown tables that
// can go into docs/benchmarks.md as they are. `make bench` runs it.
//
// What is compared runs by turns, Amber and then the peer, so that what else the machine does hits both. Every run counts:
// the tables give the fastest, the median and the slowest, the ratio of the medians, and the median of the ratios of the
// pairs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/amberkv/amber/internal/testserver"
)

// A bench is one run of the program.
type bench struct {
	server   string // version, as package testserver calls it
	runs     int
	keys     int
	backups  int    // in the long list
	big      int64  // bytes of the one value in the memory measurement
	dir      string // everything temporary is below it
	amberctl string
	save     string // where to keep the data set
	out      *os.File
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == measureArg {
		os.Exit(measureChild(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == getArg {
		if err := getChild(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

var sections = []string{"rdb", "crc64", "instructions", "backup", "store", "restore", "feed", "command", "memory", "list", "cluster", "scan"}

func run(ctx context.Context) (err error) {
	b := &bench{out: os.Stdout}
	only := ""
	flag.StringVar(&b.server, "server", "redis-7.0", "version of the server: one of "+strings.Join(testserver.All(), ", "))
	flag.IntVar(&b.runs, "runs", 5, "runs of each program")
	flag.IntVar(&b.keys, "keys", 1_000_000, "keys in the data set")
	flag.IntVar(&b.backups, "backups", 100_000, "backups in the long list; at least 1000")
	flag.Int64Var(&b.big, "big", 1<<30, "bytes of the one large value")
	flag.StringVar(&b.dir, "dir", "", "where to put temporary data, some GB of it (default $TMPDIR or /tmp)")
	flag.StringVar(&b.amberctl, "amberctl", "", "the program to measure (default: built from examples/amberctl)")
	flag.StringVar(&b.save, "save", "", "keep the RDB of the data set in this file, to look closer with other tools")
	flag.StringVar(&only, "only", strings.Join(sections, ","), "what to measure")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	if b.runs < 1 || b.keys < 10 {
		return errors.New("at least one run and ten keys are needed")
	}
	if b.backups < 1000 {
		return errors.New("the long list has at least 1000 backups")
	}
	wanted := strings.Split(only, ",")
	for _, w := range wanted {
		if !slices.Contains(sections, w) {
			return fmt.Errorf("-only knows no %q, but %s", w, strings.Join(sections, ", "))
		}
	}
	if b.dir, err = os.MkdirTemp(b.dir, "amber-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	if b.amberctl == "" {
		b.amberctl = filepath.Join(b.dir, "amberctl")
		b.say("building amberctl")
		if out, err := exec.CommandContext(ctx, "go", "build", "-C", "examples", "-o", b.amberctl, "./amberctl").CombinedOutput(); err != nil {
			return fmt.Errorf("go build ./examples/amberctl: %w\n%s", err, out)
		}
	} else if b.amberctl, err = filepath.Abs(b.amberctl); err != nil {
		return err
	}

	s, err := b.load(ctx)
	if err != nil {
		return err
	}
	defer s.server.Close()
	if b.save != "" {
		if err := copyFile(b.save, s.rdb); err != nil {
			return err
		}
	}
	b.head(s)
	for _, section := range []struct {
		name    string
		measure func(context.Context, *source) error
	}{
		{"rdb", b.rdb}, {"crc64", b.crc64}, {"instructions", b.instructions}, {"backup", b.backup}, {"store", b.store}, {"restore", b.restore}, {"feed", b.feed}, {"command", b.command}, {"memory", b.memory}, {"list", b.list}, {"cluster", b.cluster}, {"scan", b.scan},
	} {
		if slices.Contains(wanted, section.name) {
			if err := section.measure(ctx, s); err != nil {
				return fmt.Errorf("%s: %w", section.name, err)
			}
		}
	}
	return nil
}

// say tells what goes on, on standard error: standard output is the tables.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
}

// head prints what was measured where.
func (b *bench) head(s *source) {
	fmt.Fprintf(b.out, "%s, %d CPUs (%s), %s/%s, %s.\n", time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), cpuModel(),
		runtime.GOOS, runtime.GOARCH, runtime.Version())
	fmt.Fprintf(b.out, "Server: %s %s. Data set: %d keys, an RDB of %.1f MB. %d runs of each program, by turns.\n\n",
		b.server, s.version, b.keys, float64(s.size)/1e6, b.runs)
}

func cpuModel() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// A comparison is what two programs took for the same work, in pairs.
type comparison struct {
	name, amber, peer string
	wanted            string
	faster            bool // the ratio is peer by Amber: how many times faster; else Amber by peer
	pairs             [][2]time.Duration
}

// table prints comparisons as a Markdown table.
func (b *bench) table(rows ...comparison) {
	fmt.Fprintln(b.out, "| what | Amber, s (min / median / max) | peer, s (min / median / max) | ratio of medians | median of ratios | wanted |")
	fmt.Fprintln(b.out, "|---|---|---|---|---|---|")
	for _, c := range rows {
		var times [2][]time.Duration
		var ratios []float64
		for _, p := range c.pairs {
			times[0], times[1] = append(times[0], p[0]), append(times[1], p[1])
			ratios = append(ratios, c.ratio(p[0], p[1]))
		}
		of := c.ratio(median(times[0]), median(times[1]))
		fmt.Fprintf(b.out, "| %s | `%s`: %s | `%s`: %s | %.2f | %.2f | %s |\n", c.name, c.amber, spread(times[0]), c.peer, spread(times[1]),
			of, median(ratios), c.wanted)
	}
	fmt.Fprintln(b.out)
}

func (c comparison) ratio(amber, peer time.Duration) float64 {
	if c.faster {
		return peer.Seconds() / amber.Seconds()
	}
	return amber.Seconds() / peer.Seconds()
}

func spread(times []time.Duration) string {
	return fmt.Sprintf("%.2f / %.2f / %.2f", slices.Min(times).Seconds(), median(times).Seconds(), slices.Max(times).Seconds())
}

// median returns the middle of some numbers, or the mean of the two in the middle.
func median[T time.Duration | float64](numbers []T) T {
	sorted := slices.Sorted(slices.Values(numbers))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
