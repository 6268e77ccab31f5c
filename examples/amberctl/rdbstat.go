package main

import (
	"fmt"
	"io"
	"runtime"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/amberkv/amber/rdb"
)

// rdbStat is what "rdb stat --json" says of a file.
type rdbStat struct {
	rdbFile
	Expires   int64             `json:"expires"`
	Functions int64             `json:"functions"`
	DBs       []rdbDB           `json:"dbs"`
	Modules   []rdbModule       `json:"modules"`
	Aux       map[string]string `json:"aux"` // what the server wrote about itself
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

func (a *app) rdbStatCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "stat FILE",
		Short: "Show what an RDB file or a DFS set holds",
		Long: `Show what an RDB file holds, after parsing it to its end. - means standard input; a set of Dragonfly's own format is named
by its summary file.`,
		Args: takes(1, 1, "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.parse(cmd.Context(), args[0], runtime.GOMAXPROCS(0), readFacts)
			if err != nil {
				return explain(cmd.Context(), err, "reading changes nothing")
			}
			return a.print(s, func(w io.Writer) { statTable(w, s) })
		},
	}
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

func statTable(w io.Writer, s *rdbStat) {
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
		[]string{"Functions", count(s.Functions)},
		[]string{"Parsed in", tookFor(s.Duration, s.Bytes)})
	table(w, rows...)
	if len(s.DBs) > 0 {
		rows := [][]string{{"DB", "KEYS", "EXPIRES", "TYPES"}}
		for _, db := range s.DBs {
			rows = append(rows, []string{strconv.Itoa(db.Index), count(db.Keys), count(db.Expires), byType(db.Types)})
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
}
