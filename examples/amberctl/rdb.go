package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
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

func (a *app) rdbCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rdb",
		Short: "Look into RDB files, without a store or a server",
		Args:  cobra.ArbitraryArgs,
		RunE:  needCommand,
	}
	cmd.AddCommand(a.rdbVerifyCommand(), a.rdbStatCommand(), a.rdbJSONCommand(), a.rdbGetCommand(), a.rdbConvertCommand())
	return cmd
}

func (a *app) rdbVerifyCommand() *cobra.Command {
	deep := false
	cmd := &cobra.Command{
		Use:   "verify FILE...",
		Short: "Check structure and checksum of RDB files and DFS sets",
		Long: `Parse RDB files to their end and hold them against their checksums. - means standard input. A set of Dragonfly's own
format is named by its summary file: all its files have to be there and belong together.

With --deep every value is decoded, and held against what servers insist on when they load it: nothing is there twice or
empty, what has to be sorted is sorted, streams and their groups agree.

What is wrong with a file is told with its offset on standard error; the other files are verified all the same.`,
		Args: takes(1, 1<<30, "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			files, errs := []rdbFile{}, []error{}
			verify := a.verifyFrames
			if deep {
				verify = a.verifyValues
			}
			for _, name := range args {
				s, err := verify(cmd.Context(), name)
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
	cmd.Flags().BoolVar(&deep, "deep", false, "decode and check every value")
	return cmd
}

// verifyFrames leaves it to the reader to check what it skips.
func (a *app) verifyFrames(ctx context.Context, name string) (*rdbStat, error) {
	return a.parse(ctx, name, runtime.GOMAXPROCS(0), func(context.Context, *rdbStat, *rdb.Reader) error { return nil })
}

// verifyValues decodes every value. A key may not be in two streams of a set either: they are read one after the other.
func (a *app) verifyValues(ctx context.Context, name string) (*rdbStat, error) {
	c := rdb.NewChecker(&rdb.CheckOptions{Spool: newSpool, MaxHeld: 2 * spoolAfter})
	s, err := a.parse(ctx, name, 1, func(_ context.Context, _ *rdbStat, r *rdb.Reader) error { return c.Check(r) })
	if cerr := c.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("%s: %w", name, cerr)
		s.OK, s.Error = false, err.Error()
	}
	return s, err
}

// parse reads a snapshot to its end. With an error it returns what it has seen so far. Streams of a set are read parallel at the same
// time, each with a stat of its own.
func (a *app) parse(ctx context.Context, name string, parallel int, read func(context.Context, *rdbStat, *rdb.Reader) error) (*rdbStat, error) {
	s := &rdbStat{rdbFile: rdbFile{File: name}, DBs: []rdbDB{}, Modules: []rdbModule{}, Aux: map[string]string{}}
	start := time.Now()
	var mu sync.Mutex
	var stats rdb.Stats
	err := a.streams(ctx, name, parallel, nil, func(_ string, r *rdb.Reader) error {
		one := &rdbStat{Aux: map[string]string{}}
		err := read(ctx, one, r)
		for err == nil {
			_, err = r.Next()
		}
		if err == io.EOF {
			err = nil
		}
		mu.Lock()
		defer mu.Unlock()
		stats.Add(r.Stats())
		if d := r.Dialect().String(); s.Dialect == "" || r.Dialect().Family == rdb.Dragonfly {
			s.Dialect = d
		}
		for key, value := range one.Aux {
			if _, ok := s.Aux[key]; !ok {
				s.Aux[key] = value
			}
		}
		return err
	})
	s.fill(stats)
	s.Duration = time.Since(start)
	s.OK = err == nil
	if err != nil {
		s.Error = err.Error()
	}
	return s, err
}

// maxAux is how many facts are kept; servers write about ten.
const maxAux = 100

// readFacts reads a stream to its end and keeps what its server wrote about itself.
func readFacts(ctx context.Context, s *rdbStat, in *rdb.Reader) error {
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
