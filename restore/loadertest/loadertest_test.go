package loadertest_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/restore/loadertest"
)

// A shelf is a target in memory, with a loader that keeps the contract unless a fault is named.
type shelf struct {
	data  map[string]string
	fault string
}

func (s *shelf) Check(_ context.Context, need restore.Requirements) (restore.Verdict, error) {
	level := restore.Pass
	if len(s.data) > 0 && need.Conflict() == restore.IntoEmpty && s.fault != "takes all" {
		level = restore.Fail
	}
	if s.fault == "check writes" {
		s.data["0/check"] = "1"
	}
	return restore.Verdict{Points: []restore.Point{{Name: "empty", Level: level, Detail: fmt.Sprintf("%d keys", len(s.data))}}}, nil
}

func (s *shelf) Load(ctx context.Context, src restore.Source, opts *restore.Options) (*restore.Report, error) {
	if opts == nil {
		opts = &restore.Options{}
	}
	if s.fault == "replaces always" {
		clear(s.data)
	}
	v, _ := s.Check(ctx, restore.Requirements{Backup: src.Backup(), Options: opts})
	if err := v.Err(opts); err != nil {
		return nil, err
	}
	part := src.Backup().Parts[0]
	in, err := src.Open(ctx, part)
	if err != nil {
		if s.fault == "hides causes" {
			err = fmt.Errorf("no source")
		}
		return nil, err
	}
	defer in.Close()
	fresh := map[string]string{}
	if s.fault == "merges" {
		maps.Copy(fresh, s.data)
	}
	if s.fault == "writes at once" {
		clear(s.data)
		fresh = s.data
	}
	var bytes int64
	lines := bufio.NewScanner(counter{in, &bytes})
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), " ")
		fresh[key] = value
		if opts.Progress != nil && len(fresh)%1000 == 0 {
			p := restore.Progress{Stage: restore.StageLoad, Bytes: bytes, Total: part.RawSize}
			if s.fault == "progress runs backwards" {
				p.Bytes = part.RawSize - bytes
			}
			opts.Progress(p)
		}
	}
	err = lines.Err()
	if err == nil && bytes != part.RawSize && s.fault != "takes short ones" {
		err = io.ErrUnexpectedEOF
	}
	if s.fault == "swallows errors" {
		err = nil
	}
	if s.fault == "hides causes" && err != nil {
		err = fmt.Errorf("it broke")
	}
	if err != nil {
		if s.fault == "lies about the state" {
			return nil, &restore.PartialError{Target: "shelf", State: restore.TargetPartial, Keys: 7, Err: err}
		}
		return nil, err
	}
	report := &restore.Report{Backup: src.Backup().ID, Target: "shelf", Method: "memory", Keys: int64(len(fresh)), Bytes: bytes, Load: 1}
	if opts.Conflict.Merges() && s.fault != "merging replaces" {
		if err := s.merge(fresh, opts.Conflict, report); err != nil {
			return nil, err
		}
		return report, nil
	}
	s.data = fresh
	if s.fault == "loses a key" {
		for key := range s.data {
			delete(s.data, key)
			break
		}
	}
	if s.fault == "reports nothing" {
		report = &restore.Report{}
	}
	return report, nil
}

// merge puts keys beside those that are there.
func (s *shelf) merge(fresh map[string]string, conflict restore.Conflict, report *restore.Report) error {
	if conflict == restore.MergeFail && s.fault != "merging never fails" {
		for key := range fresh {
			if _, ok := s.data[key]; ok {
				return fmt.Errorf("%q is there", key)
			}
		}
	}
	for key, value := range fresh {
		if _, ok := s.data[key]; ok && (conflict == restore.MergeSkip || s.fault == "overwriting skips") {
			report.Keys--
			if s.fault != "skips uncounted" {
				report.Skipped++
			}
			continue
		}
		if s.data == nil {
			s.data = map[string]string{}
		}
		s.data[key] = value
	}
	return nil
}

// A counter adds up what is read.
type counter struct {
	io.Reader
	n *int64
}

func (c counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	*c.n += int64(n)
	return n, err
}

type lines struct {
	backup *catalog.Backup
	data   []byte
}

func (l lines) Backup() *catalog.Backup { return l.backup }
func (l lines) Open(context.Context, catalog.Part) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(l.data)), nil
}

func run(t *testing.T, fault string) {
	var src lines
	contents := map[string]string{}
	for i := range 5000 {
		key := fmt.Sprintf("%d/key:%d", i%2, i)
		contents[key] = "value"
		src.data = append(src.data, key+" value\n"...)
	}
	size := int64(len(src.data))
	src.backup = &catalog.Backup{ID: "one", Keys: 5000, RawBytes: size, DBs: []catalog.DB{{Index: 0, Keys: 2500}, {Index: 1, Keys: 2500}},
		Parts: []catalog.Part{{Name: "part", RawSize: size}}}
	for _, opts := range []*loadertest.Options{nil, {Contents: contents}} {
		loadertest.Run(t, func(t *testing.T) loadertest.Target {
			s := &shelf{data: map[string]string{}, fault: fault}
			return loadertest.Target{
				Loader:   s,
				Fill:     func(*testing.T) { s.data["0/old"], s.data["5/old"] = "1", "2" },
				Contents: func(*testing.T) map[string]string { return maps.Clone(s.data) },
			}
		}, src, opts)
	}
}

const faultVar = "AMBER_LOADERTEST_FAULT"

func TestGoodLoaderPasses(t *testing.T) { run(t, os.Getenv(faultVar)) }

// The suite finds each of these faults. It runs in a process of its own, where it is to fail.
func TestBadLoadersFail(t *testing.T) {
	for _, fault := range []string{
		"takes all", "check writes", "replaces always", "hides causes", "merges", "writes at once", "progress runs backwards",
		"takes short ones", "swallows errors", "lies about the state", "loses a key", "reports nothing",
		"merging replaces", "merging never fails", "overwriting skips", "skips uncounted",
	} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestGoodLoaderPasses$")
		cmd.Env = append(os.Environ(), faultVar+"="+fault)
		out, err := cmd.CombinedOutput()
		if _, failed := err.(*exec.ExitError); !failed || !strings.Contains(string(out), "--- FAIL: TestGoodLoaderPasses/") {
			t.Errorf("a loader that %s passes: %v\n%.500s", fault, err, out)
		}
	}
}
