package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/rdb/dfs"
)

// converted is what "rdb convert --json" says.
type converted struct {
	From      string        `json:"from"`
	To        string        `json:"to"`
	Keys      int64         `json:"keys"`      // written
	Encoded   int64         `json:"encoded"`   // of these, not copied as they were
	Filtered  int64         `json:"filtered"`  // left out because the command line says so
	Functions int64         `json:"functions"` // written
	Dropped   int64         `json:"dropped"`   // facts that only say something about the source
	Losses    []loss        `json:"losses"`
	Duration  time.Duration `json:"duration"` // in nanoseconds
}

type loss struct {
	Loss    string   `json:"loss"`
	Count   int64    `json:"count"`
	Skipped int64    `json:"skipped"` // of these, left out altogether
	Keys    []string `json:"keys"`    // the first ones, as database/key
}

// convertFlags are what the command line says about a conversion.
type convertFlags struct {
	to, onLoss, compress string
	match                string
	dbs                  []int
	types, mapDB         []string
	modules              []string
	trim, add            string
	shards               int
	force                bool
}

func (a *app) rdbConvertCommand() *cobra.Command {
	var f convertFlags
	cmd := &cobra.Command{
		Use:   "convert --to DIALECT IN OUT",
		Short: "Write an RDB file or a DFS set in the dialect of another server",
		Long: `Write what is in a snapshot in the dialect of another server or version, all of it or some keys.

DIALECT is redis:6 to redis:15, valkey:80, dragonfly:9 (one file), or dfs (Dragonfly's own format, a set of files):
redis:9 is for Redis 5 to 6.2, redis:10 for 7.0, redis:11 for 7.2 and Valkey up to 8.1, redis:12 for 7.4 to 8.4.
IN is a file, - for standard input, or the summary file of a set. OUT is a file or - for standard output, with dfs the
path of the set: DIR/NAME makes NAME-summary.dfs, NAME-0000.dfs ... in DIR. Nothing is there before all is complete.

What the dialect can't express, such as the expiry of hash fields before Redis 7.4, is an error that names the key, unless
--on-loss says to drop that detail, or to skip the key. The report tells what was lost.`,
		Example: `  amberctl rdb convert --to redis:11 dump.rdb for-valkey-8.rdb
  amberctl rdb convert --to dfs --match 'user:*' dump.rdb /snapshots/users
  amberctl rdb convert --to valkey:80 --on-loss drop dump-summary.dfs dump.rdb`,
		Args: takes(2, 2, "IN and OUT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			how, err := f.options()
			if err != nil {
				return err
			}
			return a.convert(cmd.Context(), &f, how, args[0], args[1])
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.to, "to", "", "the dialect to write")
	flags.StringVar(&f.onLoss, "on-loss", "fail", "what becomes of what can't be expressed: fail, drop (the detail) or skip (the key)")
	flags.StringVar(&f.match, "match", "", "only keys whose names match a pattern, as the KEYS command has it")
	flags.IntSliceVar(&f.dbs, "db", nil, "only keys of these databases")
	flags.StringSliceVar(&f.types, "type", nil, "only values of these types: string, list, set, zset, hash, stream ...")
	flags.StringSliceVar(&f.mapDB, "map-db", nil, "give databases another number: FROM:TO")
	flags.StringVar(&f.trim, "trim-prefix", "", "take this off the names of keys, and leave out those without it")
	flags.StringVar(&f.add, "add-prefix", "", "put this before the names of keys")
	flags.StringSliceVar(&f.modules, "module", nil, "modules that the target has, such as vectorset, so that their values are kept")
	flags.StringVar(&f.compress, "compress", "", "none or lzf, with dfs also lz4 (its default) or zstd")
	flags.IntVar(&f.shards, "shards", 0, "files for keys in a set (default 4)")
	flags.BoolVar(&f.force, "force", false, "replace OUT if it is there")
	return cmd
}

// options checks the command line.
func (f *convertFlags) options() (*rdb.ConvertOptions, error) {
	how := &rdb.ConvertOptions{DBs: f.dbs, Match: f.match, TrimPrefix: f.trim, AddPrefix: f.add, Modules: f.modules}
	switch f.onLoss {
	case "fail":
	case "drop":
		how.Policy = rdb.DropDetail
	case "skip":
		how.Policy = rdb.SkipKey
	default:
		return nil, usagef("--on-loss %q: fail, drop or skip", f.onLoss)
	}
	for _, name := range f.types {
		t, ok := typeNamed(name)
		if !ok {
			return nil, usagef("--type %q: no type of values has this name", name)
		}
		how.Types = append(how.Types, t)
	}
	var err error
	if how.MapDB, err = mapped(f.mapDB); err != nil {
		return nil, err
	}
	if slices.ContainsFunc(f.dbs, func(n int) bool { return n < 0 }) {
		return nil, usagef("--db: no database has a number below 0")
	}
	return how, nil
}

// mapped reads --map-db.
func mapped(pairs []string) (dbs map[int]int, err error) {
	for _, pair := range pairs {
		from, to, ok := strings.Cut(pair, ":")
		a, err := strconv.ParseUint(from, 10, 31)
		b, err2 := strconv.ParseUint(to, 10, 31)
		if !ok || err != nil || err2 != nil {
			return nil, usagef("--map-db %q: it has to be FROM:TO, two numbers", pair)
		}
		if dbs == nil {
			dbs = make(map[int]int)
		}
		dbs[int(a)] = int(b)
	}
	return dbs, nil
}

func typeNamed(name string) (rdb.Type, bool) {
	for t := rdb.TypeString; t.String() != "unknown"; t++ {
		if t.String() == name {
			return t, true
		}
	}
	return 0, false
}

// compression reads --compress.
func (f *convertFlags) compression(set bool) (rdb.Compression, error) {
	switch {
	case f.compress == "none":
		return rdb.CompressNone, nil
	case f.compress == "lzf" || f.compress == "" && !set:
		return rdb.CompressLZF, nil
	case set && (f.compress == "lz4" || f.compress == ""):
		return rdb.CompressLZ4, nil
	case set && f.compress == "zstd":
		return rdb.CompressZstd, nil
	}
	return 0, usagef("--compress %q: none or lzf, and with --to dfs lz4 or zstd", f.compress)
}

// A destination is where a conversion writes. Nothing is visible before commit.
type destination struct {
	w      *rdb.Writer
	commit func() error
	abort  func()
}

func (a *app) convert(ctx context.Context, f *convertFlags, how *rdb.ConvertOptions, in, out string) error {
	d, err := a.destination(f, out)
	if err != nil {
		return err
	}
	defer d.abort()
	start := time.Now()
	var report rdb.ConvertReport
	err = a.streams(ctx, in, 1, nil, func(_ string, r *rdb.Reader) error {
		one, err := rdb.Convert(d.w, r, how)
		report.Add(one)
		return err
	})
	if errors.Is(err, rdb.ErrLoss) {
		err = fmt.Errorf("%w: --on-loss drop or skip", err)
	}
	if err == nil {
		err = d.commit()
	}
	if err != nil {
		return explain(ctx, err, out+" was not written")
	}
	c := converted{From: report.From.String(), To: report.To.String(), Keys: report.Keys, Encoded: report.Encoded, Filtered: report.Filtered,
		Functions: report.Functions, Dropped: report.Dropped, Losses: []loss{}, Duration: time.Since(start)}
	for _, l := range report.Losses {
		c.Losses = append(c.Losses, loss{Loss: string(l.Loss), Count: l.Count, Skipped: l.Skipped, Keys: append([]string{}, l.Keys...)})
	}
	if out == "-" {
		// The result is on standard output.
		if !a.quiet {
			convertedTable(a.console, c)
		}
		return nil
	}
	return a.print(c, func(w io.Writer) { convertedTable(w, c) })
}

func convertedTable(w io.Writer, c converted) {
	rows := [][]string{
		{"From", c.From}, {"To", c.To},
		{"Keys", fmt.Sprintf("%s, %s of them encoded anew", count(c.Keys), count(c.Encoded))},
		{"Functions", count(c.Functions)},
	}
	if c.Filtered > 0 {
		rows = append(rows, []string{"Left out", plural(c.Filtered, "key")})
	}
	table(w, append(rows, []string{"Took", took(c.Duration)})...)
	if len(c.Losses) == 0 {
		return
	}
	rows = [][]string{{"LOST", "COUNT", "SKIPPED", "KEYS"}}
	for _, l := range c.Losses {
		rows = append(rows, []string{l.Loss, count(l.Count), count(l.Skipped), strings.Join(l.Keys, " ")})
	}
	fmt.Fprintln(w)
	table(w, rows...)
}

// destination opens what the command line says.
func (a *app) destination(f *convertFlags, out string) (*destination, error) {
	set := f.to == "dfs"
	codec, err := f.compression(set)
	if err != nil {
		return nil, err
	}
	opts := rdb.WriterOptions{Compression: codec, Spool: newSpool, MaxHeld: spoolAfter}
	if set {
		if out == "-" {
			return nil, usagef("a set has several files: OUT has to be a path, not -")
		}
		if f.force {
			return nil, usagef("--force: a set can't be replaced all at once; remove it, or choose another name")
		}
		dir, name := filepath.Split(out)
		name = strings.TrimSuffix(name, "-summary.dfs")
		w, err := dfs.Create(filepath.Clean(dir), name, &dfs.WriterOptions{Shards: f.shards, Options: opts})
		if err != nil {
			return nil, err
		}
		return &destination{w.Writer, w.Close, func() { w.Abort() }}, nil // what it leaves behind when it fails is a .tmp file
	}
	if f.shards != 0 {
		return nil, usagef("--shards is for --to dfs")
	}
	if f.to == "" {
		return nil, usagef("--to is missing: a dialect such as redis:11, valkey:80 or dfs")
	}
	d, err := rdb.ParseDialect(f.to)
	if err != nil {
		return nil, usagef("--to: %w", err)
	}
	if out == "-" {
		w, err := rdb.NewWriter(a.out, d, &opts)
		if err != nil {
			return nil, usagef("--to: %w", err)
		}
		return &destination{w, w.Close, func() {}}, nil
	}
	return newFile(out, d, &opts, f.force)
}

// newFile writes an RDB file beside its name, which it gets when it is complete and durable.
func newFile(out string, d rdb.Dialect, opts *rdb.WriterOptions, force bool) (*destination, error) {
	if _, err := os.Lstat(out); err == nil && !force {
		return nil, fmt.Errorf("%s: %w; --force replaces it", out, fs.ErrExist)
	}
	dir := filepath.Dir(out)
	file, err := os.CreateTemp(dir, "."+filepath.Base(out)+".*.tmp")
	if err != nil {
		return nil, err
	}
	buffered := bufio.NewWriterSize(file, 1<<20)
	w, err := rdb.NewWriter(buffered, d, opts)
	if err != nil {
		file.Close()
		return nil, errors.Join(usagef("--to: %w", err), os.Remove(file.Name()))
	}
	closed := false
	commit := func() error {
		err := errors.Join(w.Close(), buffered.Flush())
		if err == nil {
			err = errors.Join(file.Chmod(0o644), file.Sync())
		}
		closed = true
		if err = errors.Join(err, file.Close()); err != nil {
			return err
		}
		place := os.Link // it doesn't replace what came there meanwhile
		if force {
			place = os.Rename
		}
		if err := place(file.Name(), out); err != nil {
			return err
		}
		parent, err := os.Open(dir)
		if err != nil {
			return err
		}
		return errors.Join(parent.Sync(), parent.Close())
	}
	abort := func() {
		if !closed {
			_ = w.Close() // for its spool; the file is given up
			file.Close()
		}
		os.Remove(file.Name()) // it is gone after a rename
	}
	return &destination{w, commit, abort}, nil
}
