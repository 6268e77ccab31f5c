package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/amberkv/amber/internal/testserver"
)

// newer is a server whose snapshots older ones don't load: they are converted for them.
const newer = "redis-8.0"

// feed compares a restore of a snapshot that is converted for the target, and looked through for keys that are selected, which all are,
// with one of the same keys that the target gets as it is.
func (b *bench) feed(ctx context.Context, s *source) error {
	store, id, _, err := b.takeBackup(ctx, s.server)
	if err != nil {
		return err
	}
	other, otherID, err := b.backupOfNewer(ctx, store, id)
	if err != nil {
		return err
	}
	load := comparison{name: "restore by feed of a " + newer + "'s snapshot, all keys selected, from the first command to the target until it serves",
		amber: "amberctl restore --match '*'", peer: "amberctl restore of the target's own version, as it is", wanted: "≤ 1.30"}
	whole := comparison{name: "the same with the proof of the whole backup before it, and comparing a sample after it", amber: load.amber, peer: load.peer, wanted: "–"}
	var cpu, peerCPU []time.Duration
	var peak int64
	for i := range b.runs {
		converted, a, err := b.feedOnce(ctx, other, otherID, "--match", "*")
		if err != nil {
			return err
		}
		untouched, p, err := b.feedOnce(ctx, store, id)
		if err != nil {
			return err
		}
		load.pairs = append(load.pairs, [2]time.Duration{a, p})
		whole.pairs = append(whole.pairs, [2]time.Duration{converted.Wall, untouched.Wall})
		cpu, peerCPU = append(cpu, converted.CPU), append(peerCPU, untouched.CPU)
		peak = max(peak, converted.PeakRSS)
		b.say("feed %d: loading %.2f s converted, %.2f s untouched", i+1, a.Seconds(), p.Seconds())
	}
	b.table(load, whole)
	fmt.Fprintf(b.out, "CPU time of the client: %.2f s, of which it takes %.2f s without a conversion. Peak memory %.1f MiB (wanted ≤ 64).\n\n",
		median(cpu).Seconds(), median(peerCPU).Seconds(), mib(peak))
	return errors.Join(os.RemoveAll(strings.TrimPrefix(store, "file://")), os.RemoveAll(strings.TrimPrefix(other, "file://")))
}

// backupOfNewer puts a backup into a newer server and backs that up.
func (b *bench) backupOfNewer(ctx context.Context, store, id string) (other, otherID string, err error) {
	dir, err := os.MkdirTemp(b.dir, "server-")
	if err != nil {
		return "", "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := testserver.Launch(newer, dir)
	if err != nil {
		return "", "", err
	}
	defer s.Close()
	if _, _, err := measure(ctx, b.amberctl, "--store", store, "restore", id, "--to", s.URL(), "--method", "feed"); err != nil {
		return "", "", err
	}
	other, otherID, _, err = b.takeBackup(ctx, s)
	return other, otherID, err
}

// feedOnce restores into a new server and returns what it took, and the part of the time that it spent loading.
func (b *bench) feedOnce(ctx context.Context, store, id string, args ...string) (cost, time.Duration, error) {
	target, err := b.launch()
	if err != nil {
		return cost{}, 0, err
	}
	defer os.RemoveAll(target.Dir)
	defer target.Close()
	took, out, err := measure(ctx, b.amberctl, append([]string{"--store", store, "--json", "restore", id, "--to", target.URL(), "--method", "feed"}, args...)...)
	if err != nil {
		return cost{}, 0, err
	}
	var report struct {
		Load time.Duration
		Keys int64
	}
	if err := json.Unmarshal(out, &report); err != nil || report.Load == 0 || report.Keys != int64(b.keys) {
		return cost{}, 0, fmt.Errorf("amberctl restore --json wrote no loading time, or not that of %d keys: %w\n%s", b.keys, err, tail(out))
	}
	return took, report.Load, nil
}
