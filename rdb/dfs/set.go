package dfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"sync"

	"github.com/amberkv/amber/rdb"
)

const (
	extension     = ".dfs"
	summarySuffix = "-summary" + extension
)

// ErrIncomplete is what a set of files has that are not one whole snapshot. See SetError.
var ErrIncomplete = errors.New("not a whole DFS snapshot")

// A SetError says which files of a set are missing or don't belong to it. It wraps ErrIncomplete.
type SetError struct {
	Summary string   // the file
	Missing []string // files that the summary counts and that are not there
	Foreign []string // files that are there, with the reason why they can't be meant
}

// Error names the files.
func (e *SetError) Error() string {
	s := "dfs: " + e.Summary + ": " + ErrIncomplete.Error()
	if len(e.Missing) > 0 {
		s += ": missing are " + some(e.Missing)
	}
	if len(e.Foreign) > 0 {
		s += ": " + some(e.Foreign)
	}
	return s + "; its keys would be lost without a word: find all files of one save"
}

func some(names []string) string {
	if n := len(names); n > 5 {
		return strings.Join(names[:5], ", ") + fmt.Sprintf(" and %d more", n-5)
	}
	return strings.Join(names, ", ")
}

// Unwrap returns ErrIncomplete.
func (e *SetError) Unwrap() error { return ErrIncomplete }

// A Set is the files of one snapshot.
type Set struct {
	Summary string   // the file that names the set
	Shards  []string // the files with the keys, in order
	Stale   []string // files of the same name that are left from an earlier save with more shards; Dragonfly ignores them, too
	ID      string   // 32 hexadecimal digits that all files have in common; empty for Dragonfly before 1.32
	Counted bool     // the summary says how many shards there are, and there are as many

	fsys fs.FS
}

// IsSummary tells whether a file name is one that names a set.
func IsSummary(name string) bool {
	base := path.Base(name)
	return strings.HasSuffix(base, summarySuffix) && base != summarySuffix
}

// Open finds the files of the set whose summary is the file of the given name in fsys, and checks that they are all there
// and belong together. It reads the summary, and of the others the first facts. The error is a *SetError if files are missing or foreign; otherwise it
// wraps one of package rdb or of fsys.
func Open(fsys fs.FS, summary string) (*Set, error) {
	if !IsSummary(summary) {
		return nil, fmt.Errorf("dfs: %q is not the summary of a set: its name has to end in %s", summary, summarySuffix)
	}
	s := &Set{Summary: summary, fsys: fsys}
	facts, err := s.facts(summary, true)
	if err != nil {
		return nil, err
	}
	s.ID = facts.id
	files, err := s.candidates()
	if err != nil {
		return nil, err
	}
	return s, s.choose(files, facts.shards)
}

// A fact sheet is what a file says about itself.
type factSheet struct {
	id     string
	shards int // in the set, -1 if it doesn't say
	shard  int // the number of the file, -1 if it doesn't say
}

// facts reads what a file says about itself: all of it if it is to be read to its end, else what comes before its first key.
func (s *Set) facts(name string, whole bool) (factSheet, error) {
	out := factSheet{shards: -1, shard: -1}
	f, err := s.fsys.Open(name)
	if err != nil {
		return out, fmt.Errorf("dfs: %w", err)
	}
	defer f.Close()
	r := rdb.NewReader(f, nil)
	for e, err := range r.Entries() {
		if err != nil {
			return out, fmt.Errorf("dfs: %s: %w", name, err)
		}
		if e.Kind != rdb.KindAux {
			if whole {
				continue
			}
			break
		}
		number := &out.shards
		switch string(e.Key) {
		case "snapshot-id":
			out.id = string(e.Value)
			continue
		case "shard-count":
		case "shard-id":
			number = &out.shard
		default:
			continue
		}
		n, err := strconv.ParseUint(string(e.Value), 10, 16)
		if err != nil {
			return out, fmt.Errorf("dfs: %s: %w: %s is %.40q", name, rdb.ErrCorrupt, e.Key, e.Value)
		}
		*number = int(n)
	}
	return out, nil
}

// candidates returns the files whose names fit, by number.
func (s *Set) candidates() (map[int]string, error) {
	dir, file := path.Split(s.Summary)
	base := strings.TrimSuffix(file, summarySuffix)
	entries, err := fs.ReadDir(s.fsys, path.Clean("./"+dir))
	if err != nil {
		return nil, fmt.Errorf("dfs: %w", err)
	}
	out := make(map[int]string)
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), base+"-")
		if !ok || e.IsDir() {
			continue
		}
		if digits, ok = strings.CutSuffix(digits, extension); !ok || len(digits) != 4 {
			continue
		}
		if n, err := strconv.ParseUint(digits, 10, 16); err == nil {
			out[int(n)] = dir + e.Name()
		}
	}
	return out, nil
}

func (s *Set) shardName(n int) string {
	return fmt.Sprintf("%s-%04d%s", strings.TrimSuffix(s.Summary, summarySuffix), n, extension)
}

// choose takes the files that belong to the set, which has count shards, or as many as there are if that is negative.
func (s *Set) choose(files map[int]string, count int) error {
	bad := &SetError{Summary: s.Summary}
	s.Counted = count >= 0
	if !s.Counted {
		for n := range files {
			count = max(count, n+1)
		}
		if count < 1 {
			bad.Missing = append(bad.Missing, s.shardName(0))
			return bad
		}
	}
	anyID := s.ID
	for n := range count {
		name := files[n]
		if name == "" {
			bad.Missing = append(bad.Missing, s.shardName(n))
			continue
		}
		delete(files, n)
		facts, err := s.facts(name, false)
		if err != nil {
			return err
		}
		if n == 0 && s.ID == "" {
			anyID = facts.id
		}
		switch {
		case facts.id != anyID && facts.id == "":
			bad.Foreign = append(bad.Foreign, name+" has no snapshot id, the set has "+anyID)
		case facts.id != anyID:
			bad.Foreign = append(bad.Foreign, name+" is of snapshot "+facts.id+", not "+anyID)
		case facts.shard >= 0 && facts.shard != n:
			bad.Foreign = append(bad.Foreign, fmt.Sprintf("%s holds shard %d", name, facts.shard))
		default:
			s.Shards = append(s.Shards, name)
		}
	}
	// What has a higher number is left over from a save with more shards, unless it says that it belongs here.
	for n := range 10000 {
		name := files[n]
		if name == "" {
			continue
		}
		if facts, err := s.facts(name, false); err == nil && facts.id == anyID && anyID != "" {
			bad.Foreign = append(bad.Foreign, fmt.Sprintf("%s is of this snapshot, which has only %d shards by its summary", name, count))
			continue
		}
		s.Stale = append(s.Stale, name)
	}
	if len(bad.Missing)+len(bad.Foreign) > 0 {
		return bad
	}
	return nil
}

// Read reads every file of the set to its end: first the summary, then the shards, as many at the same time as parallel says, at least one. Each is
// given to fn, which is called from several goroutines then; what fn leaves of it Read skips, so that nil proves all streams.
// The first error, of fn or of a stream, or the end of ctx, makes all stop; the name of the file is put before it.
func (s *Set) Read(ctx context.Context, parallel int, opts *rdb.ReaderOptions, fn func(file string, r *rdb.Reader) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	one := func(name string) {
		if err := s.read(ctx, name, opts, fn); err != nil {
			cancel(err)
		}
	}
	one(s.Summary)
	var wg sync.WaitGroup
	next := make(chan string)
	for range min(max(parallel, 1), len(s.Shards)) {
		wg.Go(func() {
			for name := range next {
				one(name)
			}
		})
	}
	for _, name := range s.Shards {
		if ctx.Err() != nil {
			break
		}
		next <- name
	}
	close(next)
	wg.Wait()
	return context.Cause(ctx)
}

func (s *Set) read(ctx context.Context, name string, opts *rdb.ReaderOptions, fn func(string, *rdb.Reader) error) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	f, err := s.fsys.Open(name)
	if err != nil {
		return fmt.Errorf("dfs: %w", err)
	}
	defer f.Close()
	r := rdb.NewReader(&source{ctx, f}, opts)
	if err := fn(name, r); err != nil {
		return fmt.Errorf("dfs: %s: %w", name, err)
	}
	for {
		if _, err := r.Next(); err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("dfs: %s: %w", name, err)
		}
	}
}

// A source ends with its context.
type source struct {
	ctx context.Context
	r   io.Reader
}

func (s *source) Read(p []byte) (int, error) {
	if err := context.Cause(s.ctx); err != nil {
		return 0, err
	}
	return s.r.Read(p)
}

// Convert converts the set as rdb.Convert does a stream, file after file. It doesn't end the stream that dst writes.
func (s *Set) Convert(ctx context.Context, dst *rdb.Writer, opts *rdb.ReaderOptions, how *rdb.ConvertOptions) (*rdb.ConvertReport, error) {
	var out rdb.ConvertReport
	err := s.Read(ctx, 1, opts, func(_ string, r *rdb.Reader) error {
		report, err := rdb.Convert(dst, r, how)
		out.Add(report)
		return err
	})
	return &out, err
}
