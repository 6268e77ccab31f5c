package command_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/restore"
)

// BenchmarkCommands restores an append-only file of 400,000 small commands, as many of each kind, and gives the same file to redis-cli --pipe. It tells how many
// commands a second each takes; of the restore, while it loads, and in all.
func BenchmarkCommands(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	commands := [][]any{words("SELECT 0")}
	const n = 400_000
	for i := range n {
		k := r.IntN(20_000)
		switch i % 5 {
		case 0:
			commands = append(commands, []any{"SET", fmt.Sprint("s:", k), fmt.Sprint("value ", i)})
		case 1:
			commands = append(commands, []any{"INCR", fmt.Sprint("n:", k)})
		case 2:
			commands = append(commands, []any{"RPUSH", fmt.Sprint("l:", k), i})
		case 3:
			commands = append(commands, []any{"HSET", fmt.Sprint("h:", k), "field", i})
		case 4:
			commands = append(commands, []any{"SET", fmt.Sprint("e:", k), i, "PXAT", 4102444800000})
		}
	}
	data := commandsPart(commands...)
	backup := keep(b, data)
	cli, err := testserver.ProgramPath("redis-7.0", "cli")
	if err != nil {
		b.Fatal(err)
	}
	var pipe, load, all time.Duration
	for b.Loop() {
		target := testserver.Start(b, "redis-7.0")
		cmd := exec.CommandContext(b.Context(), cli, "-h", target.Host, "-p", strconv.Itoa(target.Port), "--pipe")
		cmd.Stdin = bytes.NewReader(data)
		start := time.Now()
		if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("errors: 0")) {
			b.Fatalf("%s, %v", out, err)
		}
		pipe += time.Since(start)
		start = time.Now()
		rep, err := backup.restorer.Restore(b.Context(), backup.backup.ID, loaderFor(b, target.Options(), nil), &restore.Options{Conflict: restore.Replace})
		if err != nil {
			b.Fatal(err)
		}
		all += time.Since(start)
		load += rep.Load
		target.Close()
	}
	rate := func(d time.Duration) float64 { return float64(n) * float64(b.N) / d.Seconds() }
	b.ReportMetric(rate(pipe), "pipe-cmds/s")
	b.ReportMetric(rate(load), "load-cmds/s")
	b.ReportMetric(rate(all), "all-cmds/s")
	b.SetBytes(int64(len(data)))
}
