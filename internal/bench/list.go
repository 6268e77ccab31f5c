package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/amberkv/amber/catalog"
)

// list measures how long a new process takes for a page of a long list in a directory: with the index, without one, and when it was lost. What was written
// just before is in the page cache.
func (b *bench) list(ctx context.Context, _ *source) error {
	dir, err := os.MkdirTemp(b.dir, "list-")
	if err != nil {
		return err
	}
	start := time.Now()
	if err := fillList(dir, b.backups); err != nil {
		return err
	}
	b.say("list: %d backups written in %.1f s", b.backups, time.Since(start).Seconds())
	type row struct {
		what  string
		costs []cost
	}
	var rows []row
	run := func(runs int, what, program string, args ...string) ([]byte, error) {
		r := row{what: what}
		var out []byte
		for range runs {
			took, text, err := measure(ctx, program, args...)
			if err != nil {
				return nil, err
			}
			r.costs, out = append(r.costs, took), text
		}
		b.say("list: %s: %.3f s", what, r.costs[0].Wall.Seconds())
		rows = append(rows, r)
		return out, nil
	}
	ctl := func(runs int, what string, args ...string) ([]byte, error) {
		return run(runs, what, b.amberctl, append([]string{"--store", "file://" + dir}, args...)...)
	}
	if _, err := ctl(1, "`amberctl list`, no index yet: the first 100", "list"); err != nil {
		return err
	}
	if _, err := ctl(1, "`amberctl sweep`, which makes the index", "sweep"); err != nil {
		return err
	}
	out, err := ctl(b.runs, "`amberctl list`: the first 100", "list", "--json", "--limit", "100")
	if err != nil {
		return err
	}
	var page []struct{ Cursor string }
	if err := json.Unmarshal(out, &page); err != nil || len(page) != 100 {
		return fmt.Errorf("amberctl list --json --limit 100 gave %d backups: %w", len(page), err)
	}
	for _, one := range [][]string{
		{"the next 100", "--cursor", page[99].Cursor}, {"a label that no backup has", "--label", "team=nobody"}, {"a text that no backup has", "--text", "nothing"},
		{"a label that a seventh has", "--label", "team=team-3"}, {"of one data store", "--id", "store-03"},
	} {
		if _, err := ctl(b.runs, "`amberctl list`: "+one[0], append([]string{"list", "--limit", "100"}, one[1:]...)...); err != nil {
			return err
		}
	}
	if _, err := run(b.runs, "`find -name manifest.json`, which opens none", "find", dir, "-name", "manifest.json"); err != nil {
		return err
	}
	if _, err := ctl(1, "`amberctl list --limit 0`: all", "list", "--limit", "0"); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(dir, "_index")); err != nil {
		return err
	}
	if _, err := ctl(1, "`amberctl list` when the index was lost: the first 100", "list"); err != nil {
		return err
	}
	fmt.Fprintf(b.out, "A directory with %d backups of 20 data stores. Each row is a new process; the page cache is warm.\n\n", b.backups)
	fmt.Fprintln(b.out, "| what | s (min / median / max) | peak memory, MiB |\n|---|---|---|")
	for _, r := range rows {
		var times []time.Duration
		var peak int64
		for _, c := range r.costs {
			times, peak = append(times, c.Wall), max(peak, c.PeakRSS)
		}
		fmt.Fprintf(b.out, "| %s | %s | %.1f |\n", r.what, spread(times), mib(peak))
	}
	fmt.Fprintln(b.out)
	return os.RemoveAll(dir)
}

// fillList writes the manifests of many backups, one every 13 minutes, without their parts.
func fillList(dir string, backups int) error {
	last := time.Date(2026, 11, 23, 22, 17, 0, 0, time.UTC)
	sum := strings.Repeat("0123456789abcdef", 4)
	for n := range backups {
		at := last.Add(-time.Duration(n) * 13 * time.Minute)
		b := &catalog.Backup{ID: catalog.NewID(at), DataStore: fmt.Sprintf("store-%02d", n%20), Name: fmt.Sprintf("nightly-%05d", n), Kind: catalog.KindAutomatic,
			State: catalog.StateRunning, CreatedAt: at, Policy: "nightly", Description: "the backup of a night",
			Labels: map[string]string{"team": fmt.Sprintf("team-%d", n%7), "env": "eu"}, Source: catalog.Source{Engine: "redis", Version: "8.0.2", Dialect: "redis:12"}}
		run, err := catalog.Encode(b)
		if err != nil {
			return err
		}
		b.State, b.ReadyAt, b.Keys, b.RawBytes, b.StoredBytes = catalog.StateReady, at.Add(time.Minute), int64(n), 1<<20, 1<<18
		b.Parts = []catalog.Part{{Name: "part-0000.rdb.zst", Key: b.Prefix() + "part-0000.rdb.zst", Compression: "zstd", SHA256: sum, RawSHA256: sum, Size: 1 << 18, RawSize: 1 << 20}}
		manifest, err := catalog.Encode(b)
		if err != nil {
			return err
		}
		place := filepath.Join(dir, filepath.FromSlash(b.Prefix()))
		if err := os.MkdirAll(place, 0o700); err != nil {
			return err
		}
		for name, data := range map[string][]byte{"run.json": run, "manifest.json": manifest} {
			if err := os.WriteFile(filepath.Join(place, name), data, 0o600); err != nil {
				return err
			}
		}
	}
	return nil
}
