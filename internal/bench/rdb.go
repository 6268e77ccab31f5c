package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// rdb compares what amberctl does with a file with the time that the server's own tool takes to check it. What counts is the
// time of the processor: several threads gain nothing by it.
func (b *bench) rdb(ctx context.Context, s *source) error {
	check, shown, err := b.tool("check-rdb")
	if err != nil {
		return err
	}
	if err := warm(s.rdb); err != nil {
		return err
	}
	rows := []struct {
		comparison
		args []string
	}{
		{comparison{name: "checking an RDB file (times faster)", wanted: "≥ 15", faster: true}, []string{"verify"}},
		{comparison{name: "decoding and checking every value (times faster)", wanted: "≥ 3", faster: true}, []string{"verify", "--deep"}},
		{comparison{name: "everything as JSON Lines", wanted: "≤ 1.40"}, []string{"json"}},
	}
	cpu, wall := make([]comparison, len(rows)), make([]comparison, len(rows))
	for i := range b.runs {
		for j, row := range rows {
			if i == 0 {
				row.amber, row.peer = "amberctl rdb "+strings.Join(row.args, " "), shown
				cpu[j], wall[j] = row.comparison, row.comparison
				wall[j].wanted = "–"
			}
			a, err := measureTo(ctx, os.DevNull, b.amberctl, append(append([]string{"rdb"}, row.args...), s.rdb)...)
			if err != nil {
				return err
			}
			p, _, err := measure(ctx, check, s.rdb)
			if err != nil {
				return err
			}
			cpu[j].pairs = append(cpu[j].pairs, [2]time.Duration{a.CPU, p.CPU})
			wall[j].pairs = append(wall[j].pairs, [2]time.Duration{a.Wall, p.Wall})
			b.say("%s %d: %.2f s of CPU time, %s %.2f s", strings.Join(row.args, " "), i+1, a.CPU.Seconds(), shown, p.CPU.Seconds())
		}
	}
	fmt.Fprint(b.out, "CPU time, of the whole process and in the kernel too:\n\n")
	b.table(cpu...)
	fmt.Fprint(b.out, "The same runs by the clock:\n\n")
	b.table(wall...)
	return b.conversions(ctx, s)
}

// conversions measures converting the file into a set of Dragonfly's files and back.
func (b *bench) conversions(ctx context.Context, s *source) error {
	dir := filepath.Join(b.dir, "convert")
	back := filepath.Join(b.dir, "back.rdb")
	fmt.Fprintln(b.out, "| converting | CPU s (min / median / max) | s (min / median / max) | GB of RDB a CPU second | wanted |")
	fmt.Fprintln(b.out, "|---|---|---|---|---|")
	for _, compress := range []string{"none", "lz4"} {
		var cpu, wall [2][]time.Duration
		for i := range b.runs {
			if err := os.Mkdir(dir, 0o700); err != nil {
				return err
			}
			there, _, err := measure(ctx, b.amberctl, "rdb", "convert", "--to", "dfs", "--compress", compress, s.rdb, filepath.Join(dir, "set"))
			if err != nil {
				return err
			}
			home, _, err := measure(ctx, b.amberctl, "rdb", "convert", "--to", "redis:10", filepath.Join(dir, "set-summary.dfs"), back)
			if err != nil {
				return err
			}
			info, err := os.Stat(back)
			if err != nil {
				return err
			}
			if d := info.Size() - s.size; d*d > s.size*s.size/10000 {
				return fmt.Errorf("an RDB of %d bytes came back as one of %d", s.size, info.Size())
			}
			if err := errors.Join(os.Remove(back), os.RemoveAll(dir)); err != nil {
				return err
			}
			for k, c := range []cost{there, home} {
				cpu[k], wall[k] = append(cpu[k], c.CPU), append(wall[k], c.Wall)
			}
			b.say("convert %d, %s: %.2f s of CPU time, back %.2f s", i+1, compress, there.CPU.Seconds(), home.CPU.Seconds())
		}
		for k, what := range []string{"redis → dfs", "dfs → redis"} {
			fmt.Fprintf(b.out, "| %s, %s | %s | %s | %.2f | ≥ 0.5 |\n", what, compress, spread(cpu[k]), spread(wall[k]),
				float64(s.size)/1e9/median(cpu[k]).Seconds())
		}
	}
	fmt.Fprintln(b.out)
	return nil
}

// crc64 measures the checksum alone, by the benchmark of its package.
func (b *bench) crc64(ctx context.Context, _ *source) error {
	const times, size = 20_000, 128 << 10
	program := filepath.Join(b.dir, "crc64.test")
	if out, err := exec.CommandContext(ctx, "go", "test", "-c", "-o", program, "./internal/crc64").CombinedOutput(); err != nil {
		return fmt.Errorf("go test -c ./internal/crc64: %w\n%s", err, out)
	}
	fmt.Fprintln(b.out, "| CRC64 of 128 KiB, again and again | CPU s (min / median / max) | GB a CPU second | wanted |\n|---|---|---|---|")
	for _, row := range []struct{ name, what, wanted string }{
		{"Update", "as this machine does it", "≥ 8"}, {"tables", "portable", "≥ 1.8"},
	} {
		var cpu []time.Duration
		for range b.runs {
			c, out, err := measure(ctx, program, "-test.run=^$", "-test.bench=^BenchmarkUpdate$/^"+row.name+"$/^128KiB$", fmt.Sprintf("-test.benchtime=%dx", times))
			if err != nil {
				return err
			}
			if !strings.Contains(string(out), "BenchmarkUpdate/"+row.name) {
				return fmt.Errorf("%s ran no benchmark of %s:\n%s", program, row.name, out)
			}
			cpu = append(cpu, c.CPU)
		}
		fmt.Fprintf(b.out, "| %s | %s | %.1f | %s |\n", row.what, spread(cpu), times*size/1e9/median(cpu).Seconds(), row.wanted)
	}
	fmt.Fprintln(b.out)
	return nil
}

// fileCommands are the commands on one file, of which fileMemory measures the memory.
var fileCommands = [][]string{{"verify"}, {"verify", "--deep"}, {"json"}, {"stat"}, {"convert", "--to", "redis:9"}, {"convert", "--to", "dfs"}}

func (b *bench) fileMemory(ctx context.Context, rdb string) ([]int64, error) {
	dir := filepath.Join(b.dir, "convert")
	var peaks []int64
	for _, command := range fileCommands {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, err
		}
		args := append(append([]string{"rdb"}, command...), rdb)
		if command[0] == "convert" {
			args = append(args, filepath.Join(dir, "out"))
		}
		c, err := measureTo(ctx, os.DevNull, b.amberctl, args...)
		if err != nil {
			return nil, err
		}
		if err := os.RemoveAll(dir); err != nil {
			return nil, err
		}
		peaks = append(peaks, c.PeakRSS)
	}
	return peaks, nil
}
