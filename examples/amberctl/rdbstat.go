package main

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/rdb/inspect"
)

// rdbStat is what "rdb stat --json" says of a file.
type rdbStat struct {
	rdbFile
	Expires   int64             `json:"expires"`
	Functions int64             `json:"functions"`
	DBs       []rdbDB           `json:"dbs"`
	Modules   []rdbModule       `json:"modules"`
	Aux       map[string]string `json:"aux"` // what the server wrote about itself
	Report    *inspect.Report   `json:"report"`
}

type rdbDB struct {
	Index   int              `json:"index"`
	Keys    int64            `json:"keys"`
	Expires int64            `json:"expires"`
	Types   map[string]int64 `json:"types"`
}

type rdbModule struct {
	Name    string `json:"name"`
	Version int    `json:"version"`
	Keys    int64  `json:"keys"`
	Aux     int64  `json:"aux"`
}

// statFlags are what the command line says about the report.
type statFlags struct {
	top, depth int
	separator  string
}

func (a *app) rdbStatCommand() *cobra.Command {
	var f statFlags
	cmd := &cobra.Command{
		Use:   "stat FILE",
		Short: "Show what is inside of an RDB file or a DFS set",
		Long: `Show what an RDB file holds, after parsing it to its end: keys, size in the file and memory by type, database, encoding and
prefix, the biggest keys, when keys expire, and how they were used if the file tells. - means standard input; a set of
Dragonfly's own format is named by its summary file.

Memory is an estimate of what a Redis of version 7 or 8 needs. Prefixes are exact up to 1024 of them; if there are
more, those with the most memory are shown, with what may be missing. Names are written as "rdb json" writes them.`,
		Example: `  amberctl rdb stat dump.rdb
  amberctl rdb stat dump.rdb --depth 2 --separator /
  amberctl rdb stat dump.rdb --json --top 100 | jq '.report.biggest[].key'`,
		Args: takes(1, 1, "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case f.top < 0 || f.top > maxTop:
				return usagef("--top %d: from 0 to %d", f.top, maxTop)
			case f.depth < 1:
				return usagef("--depth %d: at least 1", f.depth)
			case f.separator == "":
				return usagef("--separator is empty")
			}
			s, err := a.stat(cmd.Context(), &f, args[0])
			if err != nil {
				return explain(cmd.Context(), err, "reading changes nothing")
			}
			return a.print(s, func(w io.Writer) { statTable(w, s, f.top) })
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&f.top, "top", 20, "how many of the biggest keys to show, and of prefixes in a table")
	flags.StringVar(&f.separator, "separator", ":", "what ends a prefix")
	flags.IntVar(&f.depth, "depth", 1, "how many separators a prefix has")
	return cmd
}

// maxTop is how many of the biggest keys can be asked for.
const maxTop = 100_000

// stat inspects all streams of a snapshot.
func (a *app) stat(ctx context.Context, f *statFlags, name string) (*rdbStat, error) {
	opts := &inspect.Options{Now: time.Now(), Top: f.top, Separator: f.separator, Depth: f.depth}
	if f.top == 0 {
		opts.Top = -1
	}
	var mu sync.Mutex
	all := inspect.New(opts)
	s, err := a.parse(ctx, name, runtime.GOMAXPROCS(0), func(ctx context.Context, s *rdbStat, r *rdb.Reader) error {
		in := inspect.New(opts)
		r.Observe(in.Add)
		err := readFacts(ctx, s, r)
		mu.Lock()
		defer mu.Unlock()
		all.Merge(in)
		return err
	})
	if err == nil {
		s.Report = all.Report()
		escapeNames(s.Report)
	}
	return s, err
}

func (s *rdbStat) fill(stats rdb.Stats) {
	s.Checksum, s.Bytes = stats.Checksum, stats.Bytes
	s.Keys, s.Expires, s.Functions = stats.Keys, stats.Expires, stats.Functions
	for _, db := range stats.DBs {
		d := rdbDB{Index: db.DB, Keys: db.Keys, Expires: db.Expires, Types: map[string]int64{}}
		for t, n := range db.Types {
			d.Types[t.String()] = n
		}
		s.DBs = append(s.DBs, d)
	}
	for _, m := range stats.Modules {
		s.Modules = append(s.Modules, rdbModule{Name: m.ID.Name(), Version: m.ID.Version(), Keys: m.Keys, Aux: m.Aux})
	}
}

func statTable(w io.Writer, s *rdbStat, top int) {
	rows := [][]string{{"File", s.File}, {"Dialect", s.Dialect}}
	for _, fact := range []struct{ name, key string }{{"Redis", "redis-ver"}, {"Valkey", "valkey-ver"}} {
		if v := s.Aux[fact.key]; v != "" {
			rows = append(rows, []string{fact.name, v})
		}
	}
	if sec, err := strconv.ParseInt(s.Aux["ctime"], 10, 64); err == nil && sec > 0 {
		rows = append(rows, []string{"Written", when(time.Unix(sec, 0)) + " UTC"})
	}
	rows = append(rows,
		[]string{"Size", fmt.Sprintf("%s (%s bytes)", size(s.Bytes), count(s.Bytes))},
		[]string{"Checksum", string(s.Checksum)},
		[]string{"Keys", fmt.Sprintf("%s, %s with an expiry", count(s.Keys), count(s.Expires))},
		[]string{"Memory", "about " + size(s.Report.Total.Memory)},
		[]string{"Functions", count(s.Functions)},
		[]string{"Parsed in", tookFor(s.Duration, s.Bytes)})
	table(w, rows...)
	if len(s.DBs) > 0 {
		rows := [][]string{{"DB", "KEYS", "EXPIRES", "SIZE", "MEMORY", "TYPES"}}
		memory := map[int]inspect.Sums{}
		for _, row := range s.Report.DBs {
			memory[row.DB] = row.Sums
		}
		for _, db := range s.DBs {
			sums := memory[db.Index]
			rows = append(rows, []string{strconv.Itoa(db.Index), count(db.Keys), count(db.Expires), size(sums.Bytes), size(sums.Memory), byType(db.Types)})
		}
		fmt.Fprintln(w)
		table(w, rows...)
	}
	if len(s.Modules) > 0 {
		rows := [][]string{{"MODULE", "VERSION", "KEYS", "AUX"}}
		for _, m := range s.Modules {
			rows = append(rows, []string{m.Name, strconv.Itoa(m.Version), count(m.Keys), count(m.Aux)})
		}
		fmt.Fprintln(w)
		table(w, rows...)
	}
	reportTables(w, s.Report, top)
}
