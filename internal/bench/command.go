package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/amberkv/amber/internal/resp"
	"github.com/amberkv/amber/rdb"
)

// command compares restoring by commands, over one connection, with the server's own client that is fed the same commands ready-made.
func (b *bench) command(ctx context.Context, s *source) error {
	cli, shown, err := b.tool("cli")
	if err != nil {
		return err
	}
	store, id, _, err := b.takeBackup(ctx, s.server)
	if err != nil {
		return err
	}
	ready := filepath.Join(b.dir, "restore.resp")
	if err := readyMade(s.rdb, ready); err != nil {
		return err
	}
	load := comparison{name: "restore by command, one connection, from the first command to the last reply", amber: "amberctl restore --method command --connections 1",
		peer: shown + " --pipe, of ready-made RESTORE commands", wanted: "≤ 1.15"}
	whole := comparison{name: "the same with the proof of the whole backup before it, counting and comparing after it", amber: load.amber, peer: load.peer, wanted: "–"}
	var cpu, proof, peerCPU []time.Duration
	var peak int64
	for i := range b.runs {
		target, err := b.launch()
		if err != nil {
			return err
		}
		took, out, err := measure(ctx, b.amberctl, "--store", store, "--json", "restore", id, "--to", target.URL(), "--method", "command", "--connections", "1")
		target.Close()
		if err := errors.Join(err, os.RemoveAll(target.Dir)); err != nil {
			return err
		}
		var report struct {
			Load time.Duration
			Keys int64
		}
		if err := json.Unmarshal(out, &report); err != nil || report.Load == 0 || report.Keys != int64(b.keys) {
			return fmt.Errorf("amberctl restore --json wrote no loading time, or not that of %d keys: %w\n%s", b.keys, err, tail(out))
		}
		if target, err = b.launch(); err != nil {
			return err
		}
		pipe, _, err := measure(ctx, "/bin/sh", "-c", `exec "$0" -h "$1" -p "$2" --pipe <"$3"`, cli, target.Host, strconv.Itoa(target.Port), ready)
		target.Close()
		if err := errors.Join(err, os.RemoveAll(target.Dir)); err != nil {
			return err
		}
		verify, _, err := measure(ctx, b.amberctl, "--store", store, "--json", "verify", id)
		if err != nil {
			return err
		}
		proof = append(proof, verify.CPU)
		load.pairs = append(load.pairs, [2]time.Duration{report.Load, pipe.Wall})
		whole.pairs = append(whole.pairs, [2]time.Duration{took.Wall, pipe.Wall})
		cpu, peerCPU = append(cpu, took.CPU), append(peerCPU, pipe.CPU)
		peak = max(peak, took.PeakRSS)
		b.say("command %d: %.2f s of which loading %.2f s, %s --pipe %.2f s", i+1, took.Wall.Seconds(), report.Load.Seconds(), shown, pipe.Wall.Seconds())
	}
	b.table(load, whole)
	mb := float64(s.size) / 1e6
	perMB := func(d time.Duration) float64 { return 1e3 * d.Seconds() / mb }
	fmt.Fprintf(b.out, "CPU time of the client: %.2f ms a MB of RDB in all, decompressing, proving, counting and comparing included. `amberctl verify` of the same "+
		"backup takes %.2f, so that the commands themselves take %.2f (wanted ≤ 4). %s --pipe, which only copies: %.2f. Peak memory %.1f MiB (wanted ≤ 64).\n\n",
		perMB(median(cpu)), perMB(median(proof)), perMB(median(cpu)-median(proof)), shown, perMB(median(peerCPU)), mib(peak))
	return errors.Join(os.Remove(ready), os.RemoveAll(strings.TrimPrefix(store, "file://")))
}

// readyMade writes the commands that restore a snapshot into a file.
func readyMade(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	w := bufio.NewWriterSize(out, 1<<20)
	r := rdb.NewReader(bufio.NewReaderSize(in, 1<<20), nil)
	var payload, text []byte
	db := 0
	for {
		e, err := r.Next()
		if err == io.EOF {
			return w.Flush()
		}
		if err != nil {
			return err
		}
		if e.Kind != rdb.KindKey {
			continue
		}
		if payload, err = r.AppendRaw(payload[:0], -1); err != nil {
			return err
		}
		text = text[:0]
		if e.DB != db {
			db = e.DB
			text = resp.AppendCommand(text, "SELECT", strconv.Itoa(db))
		}
		args := []string{"RESTORE", string(e.Key), "0", string(payload)}
		if e.HasExpiry {
			args[2] = strconv.FormatInt(e.ExpireAt, 10)
			args = append(args, "ABSTTL")
		}
		if _, err := w.Write(resp.AppendCommand(text, args...)); err != nil {
			return err
		}
	}
}
