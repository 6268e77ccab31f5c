package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/amberkv/amber/internal/testserver"
)

// instructions counts, under valgrind, what checking the file takes: a figure that doesn't depend on what else the machine
// does. What the program takes for a file of ten keys is taken off.
func (b *bench) instructions(ctx context.Context, s *source) error {
	if _, err := exec.LookPath("valgrind"); errors.Is(err, exec.ErrNotFound) {
		b.say("no valgrind here: instructions are not counted")
		return nil
	}
	small, err := b.prepare(ctx, "10 keys", nil, func(s *testserver.Server) error { return fill(ctx, s.Addr, 10) })
	if err != nil {
		return err
	}
	defer small.server.Close()
	all, sum, err := b.count(ctx, s.rdb)
	if err != nil {
		return err
	}
	base, baseSum, err := b.count(ctx, small.rdb)
	if err != nil {
		return err
	}
	keys, bytes := float64(b.keys-10), float64(s.size-small.size)
	fmt.Fprintf(b.out, "`amberctl rdb verify` takes %.0f instructions a key of %.0f bytes, of which %.0f are for the checksum (without 512-bit registers, which valgrind doesn't know).\n\n",
		float64(all-base)/keys, bytes/keys, float64(sum-baseSum)/keys)
	return nil
}

var (
	totalLine = regexp.MustCompile(`(?m)^ *([0-9,]+)(?: \([0-9. ]+%\))? +PROGRAM TOTALS`)
	sumLine   = regexp.MustCompile(`(?m)^ *([0-9,]+)(?: \([0-9. ]+%\))? +\S+:\S+/crc64\.`)
)

// count returns how many instructions it takes to verify a file, and how many of them are in the checksum.
func (b *bench) count(ctx context.Context, file string) (all, sum int64, err error) {
	out := filepath.Join(b.dir, "callgrind.out")
	cmd := exec.CommandContext(ctx, "valgrind", "--tool=callgrind", "--callgrind-out-file="+out, b.amberctl, "rdb", "verify", file)
	cmd.Env = append(os.Environ(), "GODEBUG=asyncpreemptoff=1") // valgrind loses its way in signals
	if text, err := cmd.CombinedOutput(); err != nil {
		return 0, 0, fmt.Errorf("valgrind: %w\n%s", err, tail(text))
	}
	text, err := exec.CommandContext(ctx, "callgrind_annotate", "--auto=no", "--threshold=100", out).CombinedOutput()
	if err != nil {
		return 0, 0, fmt.Errorf("callgrind_annotate: %w\n%s", err, tail(text))
	}
	number := func(m []string) (n int64) {
		n, err = strconv.ParseInt(strings.ReplaceAll(m[1], ",", ""), 10, 64)
		return n
	}
	m := totalLine.FindStringSubmatch(string(text))
	if m == nil {
		return 0, 0, fmt.Errorf("callgrind_annotate tells no total\n%s", tail(text))
	}
	all = number(m)
	for _, m := range sumLine.FindAllStringSubmatch(string(text), -1) {
		sum += number(m)
	}
	return all, sum, err
}
