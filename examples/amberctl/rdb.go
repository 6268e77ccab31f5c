package main

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	cmd.AddCommand(a.rdbVerifyCommand(), a.rdbStatCommand(), a.rdbConvertCommand())
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
