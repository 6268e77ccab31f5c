package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/amberkv/amber/rdb"
)

// rdbFile is what "rdb verify --json" says of a file.
type rdbFile struct {
	File     string        `json:"file"`
	OK       bool          `json:"ok"`
	Error    string        `json:"error,omitempty"`
	Dialect  string        `json:"dialect,omitempty"`
	Checksum rdb.Checksum  `json:"checksum,omitempty"` // "crc64" if the file's own was right, "absent" if it has none
	Keys     int64         `json:"keys"`               // up to the error, if there is one
	Bytes    int64         `json:"bytes"`              // up to the error, if there is one
	Duration time.Duration `json:"duration"`           // in nanoseconds
}

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

func (a *app) rdbCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rdb",
		Short: "Look into RDB files, without a store or a server",
		Args:  cobra.ArbitraryArgs,
		RunE:  needCommand,
	}
	cmd.AddCommand(a.rdbVerifyCommand(), a.rdbStatCommand())
	return cmd
}

func (a *app) rdbVerifyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "verify FILE...",
		Short: "Check structure and checksum of RDB files",
		Long: `Parse RDB files to their end and hold them against their checksums. - means standard input.

What is wrong with a file is told with its offset on standard error; the other files are verified all the same.`,
		Args: takes(1, 1<<30, "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			files, errs := []rdbFile{}, []error{}
			for _, name := range args {
				s, err := a.scan(cmd.Context(), name)
				if err != nil && cmd.Context().Err() != nil {
					return explain(cmd.Context(), err, "verifying changes nothing")
				}
				files = append(files, s.rdbFile)
				if err != nil {
					errs = append(errs, err)
				} else if !a.json && !a.quiet {
					fmt.Fprintf(a.out, "%s: ok, %s, %s, %s, checksum %s, in %s\n", clean(name), s.Dialect, plural(s.Keys, "key"), size(s.Bytes),
						s.Checksum, tookFor(s.Duration, s.Bytes))
				}
			}
			if a.json {
				errs = append(errs, a.print(files, nil))
			}
			return errors.Join(errs...)
		},
	}
}

func (a *app) rdbStatCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "stat FILE",
		Short: "Show what an RDB file holds",
		Long:  "Show what an RDB file holds, after parsing it to its end. - means standard input.",
		Args:  takes(1, 1, "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.scan(cmd.Context(), args[0])
			if err != nil {
				return explain(cmd.Context(), err, "reading changes nothing")
			}
			return a.print(s, func(w io.Writer) { statTable(w, s) })
		},
	}
}

// scan parses a file to its end. With an error it returns what it has seen so far. When ctx ends it doesn't wait for a pipe
// that nothing comes from; the program is about to end then.
func (a *app) scan(ctx context.Context, name string) (*rdbStat, error) {
	type result struct {
		stat *rdbStat
		err  error
	}
	done := make(chan result, 1)
	go func() {
		s, err := a.parse(ctx, name)
		done <- result{s, err}
	}()
	select {
	case r := <-done:
		return r.stat, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (a *app) parse(ctx context.Context, name string) (*rdbStat, error) {
	s := &rdbStat{rdbFile: rdbFile{File: name}, DBs: []rdbDB{}, Modules: []rdbModule{}, Aux: map[string]string{}}
	start := time.Now()
	err := func() error {
		f, err := a.open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		in := rdb.NewReader(f, nil)
		err = s.read(ctx, in)
		s.fill(in)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		more, err := io.Copy(io.Discard, f)
		if err != nil {
			return err
		}
		if more += int64(len(in.Buffered())); more > 0 {
			return fmt.Errorf("%s: %w: %d bytes follow the end of the snapshot at byte %d", name, rdb.ErrCorrupt, more, s.Bytes)
		}
		return nil
	}()
	s.Duration = time.Since(start)
	s.OK = err == nil
	if err != nil {
		s.Error = err.Error()
	}
	return s, err
}

// maxAux is how many facts are kept; servers write about ten.
const maxAux = 100

func (s *rdbStat) read(ctx context.Context, in *rdb.Reader) error {
	for n := 0; ; n++ {
		entry, err := in.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if entry.Kind == rdb.KindAux && len(s.Aux) < maxAux && len(entry.Key)+len(entry.Value) < 1024 {
			s.Aux[string(entry.Key)] = string(entry.Value)
		}
		if n&0xfff == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func (s *rdbStat) fill(in *rdb.Reader) {
	stats := in.Stats()
	s.Dialect, s.Checksum, s.Bytes = in.Dialect().String(), stats.Checksum, stats.Bytes
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
