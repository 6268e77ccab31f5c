// Package loadertest proves that a restore.Loader does what its contract says.
//
// Run it in a test of the loader's package, against a target of its own:
//
//	func TestLoader(t *testing.T) {
//		loadertest.Run(t, func(t *testing.T) loadertest.Target { … }, source, nil)
//	}
package loadertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/restore"
)

// A Target is one server to restore into, and what the suite needs to look at it without the loader.
type Target struct {
	// Loader restores into the target. Required.
	Loader restore.Loader
	// Fill puts some keys of its own into the target, in whatever state it is. Required.
	Fill func(t *testing.T)
	// Contents returns everything that the target holds: a text for each key, whose name begins with the number of its
	// database and a slash. It fails the test if the target isn't writable. Required.
	Contents func(t *testing.T) map[string]string
}

// Options are rare choices. The zero value and nil mean the defaults.
type Options struct {
	// Contents is what a target holds after a restore of the source, if that is known; compared with Target.Contents.
	Contents map[string]string
	// CancelWithin is how long Load may take to return after it was cancelled; default 5 s.
	CancelWithin time.Duration
}

// Run tests the loaders that maker makes, each of an empty target of its own. The source is a verified backup with keys, in
// a dialect that the targets take. Its part must be larger than 64 KiB, so that a loader can't have read all of it before it begins.
func Run(t *testing.T, maker func(t *testing.T) Target, source restore.Source, opts *Options) {
	if opts == nil {
		opts = &Options{}
	}
	s := suite{maker, source, *opts}
	if s.CancelWithin == 0 {
		s.CancelWithin = 5 * time.Second
	}
	if size := s.size(); size <= 64<<10 || source.Backup().Keys == 0 {
		t.Fatalf("the source has %d bytes and %d keys: more than 64 KiB and some keys are needed", size, source.Backup().Keys)
	}
	t.Run("Load", s.load)
	t.Run("CheckChangesNothing", s.check)
	t.Run("RefusesData", s.refuses)
	t.Run("Replace", s.replace)
	t.Run("Merge", s.merge)
	t.Run("SourceFails", s.sourceFails)
	t.Run("Cancel", s.cancel)
	t.Run("Progress", s.progress)
}

type suite struct {
	maker  func(t *testing.T) Target
	source restore.Source
	Options
}

func (s suite) size() (n int64) {
	for _, p := range s.source.Backup().Parts {
		n += p.RawSize
	}
	return n
}

// load: nil means that the target holds what the source does.
func (s suite) load(t *testing.T) {
	target := s.maker(t)
	report, err := target.Loader.Load(t.Context(), s.source, nil)
	if err != nil {
		t.Fatalf("loading into an empty target: %v", err)
	}
	s.isLoaded(t, target)
	s.reported(t, report)

	t.Run("Again", func(t *testing.T) {
		if _, err := target.Loader.Load(t.Context(), s.source, &restore.Options{Conflict: restore.Replace}); err != nil {
			t.Fatalf("loading the same again, with Replace: %v", err)
		}
		s.isLoaded(t, target)
	})
}

func (s suite) reported(t *testing.T, report *restore.Report) {
	t.Helper()
	b := s.source.Backup()
	switch {
	case report == nil:
		t.Fatal("Load returned neither a report nor an error")
	case report.Backup != b.ID || report.Target == "" || report.Method == "":
		t.Errorf("the report is of backup %q into %q by %q: all three are to be told, and the backup is %q", report.Backup, report.Target, report.Method, b.ID)
	case report.Keys != b.Keys:
		t.Errorf("the report says %d keys, the manifest %d", report.Keys, b.Keys)
	case report.Load <= 0:
		t.Errorf("the report says that loading took %v", report.Load)
	}
}

// isLoaded compares what the target holds with the source.
func (s suite) isLoaded(t *testing.T, target Target) {
	t.Helper()
	s.holds(t, target.Contents(t))
}

// holds compares contents of a target with the source.
func (s suite) holds(t *testing.T, got map[string]string) {
	t.Helper()
	if s.Options.Contents != nil {
		if diff := differ(s.Options.Contents, got); diff != "" {
			t.Fatalf("the target holds something else than the source: %s", diff)
		}
		return
	}
	want := map[string]int64{}
	for _, db := range s.source.Backup().DBs {
		if db.Keys > 0 {
			want[fmt.Sprint(db.Index)] = db.Keys
		}
	}
	if counts := count(got); !maps.Equal(want, counts) {
		t.Fatalf("the target has these keys in its databases: %v; the source has %v", counts, want)
	}
}

// count returns the keys of each database.
func count(contents map[string]string) map[string]int64 {
	counts := map[string]int64{}
	for key := range contents {
		for i, c := range key {
			if c == '/' {
				counts[key[:i]]++
				break
			}
		}
	}
	return counts
}

// check: looking at a target changes nothing, and tells whether Load would work.
func (s suite) check(t *testing.T) {
	target := s.maker(t)
	look := func(conflict restore.Conflict) restore.Verdict {
		t.Helper()
		before := target.Contents(t)
		verdict, err := target.Loader.Check(t.Context(), restore.Requirements{Backup: s.source.Backup(), Options: &restore.Options{Conflict: conflict}})
		if err != nil {
			t.Fatalf("checking: %v", err)
		}
		if diff := differ(before, target.Contents(t)); diff != "" {
			t.Fatalf("checking changed the target: %s", diff)
		}
		if len(verdict.Points) == 0 {
			t.Error("the verdict has no points: nobody can see what was looked at")
		}
		for _, p := range verdict.Points {
			if p.Name == "" || p.Detail == "" || p.Level != restore.Pass && p.Level != restore.Warn && p.Level != restore.Fail {
				t.Errorf("the verdict has a point without name, level or detail: %+v", p)
			}
		}
		return verdict
	}
	if err := look(restore.IntoEmpty).Err(nil); err != nil {
		t.Errorf("an empty target fails the check: %v", err)
	}
	target.Fill(t)
	if err := look(restore.IntoEmpty).Err(nil); !errors.Is(err, restore.ErrNotEmpty) {
		t.Errorf("a target with data gets the verdict %v: it has to wrap ErrNotEmpty", err)
	}
	if err := look(restore.Replace).Err(nil); err != nil {
		t.Errorf("a target with data that may be replaced fails the check: %v", err)
	}
}

// refuses: data is not touched unless the caller says Replace.
func (s suite) refuses(t *testing.T) {
	target := s.maker(t)
	target.Fill(t)
	before := target.Contents(t)
	var opened atomic.Int64
	src := &faulty{Source: s.source, opened: &opened}
	for _, opts := range []*restore.Options{nil, {}} {
		_, err := target.Loader.Load(t.Context(), src, opts)
		var partial *restore.PartialError
		if !errors.Is(err, restore.ErrNotEmpty) || errors.As(err, &partial) {
			t.Errorf("loading into a target with data gives %v: it has to wrap ErrNotEmpty and be no PartialError", err)
		}
	}
	if diff := differ(before, target.Contents(t)); diff != "" {
		t.Errorf("the target's data was touched: %s", diff)
	}
}

// replace: what was there is gone afterwards.
func (s suite) replace(t *testing.T) {
	target := s.maker(t)
	target.Fill(t)
	if len(target.Contents(t)) == 0 {
		t.Fatal("Target.Fill put nothing into the target")
	}
	if _, err := target.Loader.Load(t.Context(), s.source, &restore.Options{Conflict: restore.Replace}); err != nil {
		t.Fatalf("replacing the target's data: %v", err)
	}
	s.isLoaded(t, target)
}

// merge: a loader that merges keeps what the target holds, but for keys of the same name, as the policy says. One that can't fails the check.
func (s suite) merge(t *testing.T) {
	for _, policy := range []restore.Conflict{restore.MergeSkip, restore.MergeOverwrite, restore.MergeFail} {
		t.Run(string(policy), func(t *testing.T) {
			target := s.maker(t)
			target.Fill(t)
			own := target.Contents(t)
			opts := &restore.Options{Conflict: policy}
			verdict, err := target.Loader.Check(t.Context(), restore.Requirements{Backup: s.source.Backup(), Options: opts})
			if err != nil {
				t.Fatalf("checking: %v", err)
			}
			report, err := target.Loader.Load(t.Context(), s.source, opts)
			if verdict.Failed() {
				if !errors.Is(err, restore.ErrRefused) {
					t.Errorf("the check fails, and loading gives %v: it has to wrap ErrRefused", err)
				}
				if diff := differ(own, target.Contents(t)); diff != "" {
					t.Errorf("a target that was refused was touched: %s", diff)
				}
				return
			}
			if err != nil {
				t.Fatalf("merging with other keys: %v", err)
			}
			merged := target.Contents(t)
			for key, value := range own {
				if merged[key] != value {
					t.Errorf("the target's own %q was %.60q and is %.60q", key, value, merged[key])
				}
			}
			if n := s.source.Backup().Keys; report.Keys != n || int64(len(merged)) != n+int64(len(own)) {
				t.Errorf("the report says %d keys; the target had %d, the source has %d, now there are %d", report.Keys, len(own), n, len(merged))
			}
			// Again: now every key is there.
			report, err = target.Loader.Load(t.Context(), s.source, opts)
			if diff := differ(merged, target.Contents(t)); diff != "" {
				t.Errorf("merging the same again changed something: %s", diff)
			}
			switch n := s.source.Backup().Keys; {
			case policy == restore.MergeFail:
				if err == nil {
					t.Error("keys that both have are no error")
				}
			case err != nil:
				t.Errorf("merging the same again: %v", err)
			case policy == restore.MergeSkip && (report.Skipped != n || report.Keys != 0):
				t.Errorf("the report says %d keys and %d skipped; all of the %d were there", report.Keys, report.Skipped, n)
			case policy == restore.MergeOverwrite && report.Keys != n:
				t.Errorf("the report says %d keys, of %d", report.Keys, n)
			}
		})
	}
}

// sourceFails: a source that breaks off is an error, and the state that is told is the true one. A source that ends early
// without an error breaks its own contract; a loader knows the size from the manifest and notices.
func (s suite) sourceFails(t *testing.T) {
	size := s.size()
	faults := []struct {
		name  string
		fault faulty
	}{
		{"Open", faulty{openErr: errBroken}},
		{"FirstByte", faulty{limit: 0, readErr: errBroken}},
		{"Middle", faulty{limit: size / 2, readErr: errBroken}},
		{"LastByte", faulty{limit: size - 1, readErr: errBroken}},
		{"End", faulty{limit: size, readErr: errBroken}}, // such as a wrong hash
		{"EndsEarly", faulty{limit: size / 2, readErr: io.EOF}},
		{"LastByteMissing", faulty{limit: size - 1, readErr: io.EOF}},
	}
	for _, filled := range []bool{false, true} {
		name := "Empty"
		if filled {
			name = "Filled"
		}
		t.Run(name, func(t *testing.T) {
			target := s.maker(t)
			before := target.Contents(t)
			for _, f := range faults {
				t.Run(f.name, func(t *testing.T) {
					if filled {
						target.Fill(t)
						before = target.Contents(t)
					}
					fault := f.fault
					fault.Source = s.source
					_, err := target.Loader.Load(t.Context(), &fault, &restore.Options{Conflict: restore.Replace})
					if err == nil {
						t.Fatal("loading a source that breaks off gives no error")
					}
					if fault.openErr != nil || fault.readErr == errBroken {
						if !errors.Is(err, errBroken) {
							t.Errorf("the error is %v: it doesn't wrap the source's", err)
						}
					}
					before = s.toldTruth(t, target, before, err)
				})
			}
			// And the target is as good as before.
			if _, err := target.Loader.Load(t.Context(), s.source, &restore.Options{Conflict: restore.Replace}); err != nil {
				t.Fatalf("loading after failures: %v", err)
			}
			s.isLoaded(t, target)
		})
	}
}

// toldTruth compares what an error says about the target with what is there, which it returns.
func (s suite) toldTruth(t *testing.T, target Target, before map[string]string, err error) (now map[string]string) {
	t.Helper()
	now = target.Contents(t)
	diff := differ(before, now)
	var partial *restore.PartialError
	if !errors.As(err, &partial) {
		if diff != "" {
			t.Errorf("the target was changed, and the error is no PartialError: %v: %s", err, diff)
		}
		return now
	}
	if partial.Target == "" || partial.Err == nil {
		t.Errorf("the PartialError has target %q and cause %v: both are to be told", partial.Target, partial.Err)
	}
	if partial.Keys >= 0 && partial.Keys != int64(len(now)) {
		t.Errorf("the PartialError says %d keys, the target has %d", partial.Keys, len(now))
	}
	switch partial.State {
	case restore.TargetUnchanged:
		if diff != "" {
			t.Errorf("the PartialError says that the target is unchanged: %s", diff)
		}
	case restore.TargetEmpty:
		if len(now) > 0 {
			t.Errorf("the PartialError says that the target is empty, and it has %d keys", len(now))
		}
	case restore.TargetLoaded:
		s.holds(t, now)
	case restore.TargetPartial:
		if len(now) == 0 || diff == "" {
			t.Errorf("the PartialError says that the target holds a part; it has %d keys, and had %d", len(now), len(before))
		}
	default:
		t.Errorf("the PartialError says %q of a target that can be asked", partial.State)
	}
	return now
}

// cancel: Load returns soon, and tells the truth about the target.
func (s suite) cancel(t *testing.T) {
	for _, at := range []struct {
		name  string
		bytes int64 // read from the source when ctx is cancelled; negative: before Load is called
	}{{"Before", -1}, {"FirstByte", 0}, {"Middle", s.size() / 2}, {"End", s.size()}} {
		t.Run(at.name, func(t *testing.T) {
			target := s.maker(t)
			target.Fill(t)
			before := target.Contents(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var since atomic.Pointer[time.Time]
			stop := func() {
				now := time.Now()
				since.CompareAndSwap(nil, &now)
				cancel()
			}
			src := &faulty{Source: s.source, limit: at.bytes, reached: stop, hang: true}
			if at.bytes < 0 {
				stop()
			}
			_, err := target.Loader.Load(ctx, src, &restore.Options{Conflict: restore.Replace})
			if err == nil {
				t.Fatal("a load that was cancelled before the source ended gives no error")
			}
			if since.Load() == nil {
				t.Fatalf("Load ended before it had read %d bytes of the source: %v", at.bytes, err)
			}
			if took := time.Since(*since.Load()); took > s.CancelWithin {
				t.Errorf("Load returned %v after it was cancelled; at most %v are allowed", took, s.CancelWithin)
			}
			if !errors.Is(err, context.Canceled) {
				t.Errorf("the error is %v: it doesn't wrap context.Canceled", err)
			}
			s.toldTruth(t, target, before, err)
			if _, err := target.Loader.Load(t.Context(), s.source, &restore.Options{Conflict: restore.Replace}); err != nil {
				t.Fatalf("loading after a cancelled load: %v", err)
			}
			s.isLoaded(t, target)
		})
	}
}

// progress: it is told from one goroutine at a time, in the order of the stages, and adds up.
func (s suite) progress(t *testing.T) {
	target := s.maker(t)
	var inside atomic.Int32
	var stages []restore.Stage
	var last restore.Progress
	report := func(p restore.Progress) {
		if inside.Add(1) != 1 {
			t.Error("Progress is called by two goroutines at the same time")
		}
		defer inside.Add(-1)
		if p.Stage != last.Stage {
			stages = append(stages, p.Stage)
		} else if p.Bytes < last.Bytes {
			t.Errorf("progress goes back from %d to %d bytes within stage %s", last.Bytes, p.Bytes, p.Stage)
		}
		if p.Total > 0 && p.Bytes > p.Total {
			t.Errorf("progress says %d bytes of %d", p.Bytes, p.Total)
		}
		last = p
	}
	if _, err := target.Loader.Load(t.Context(), s.source, &restore.Options{Progress: report}); err != nil {
		t.Fatal(err)
	}
	order := []restore.Stage{restore.StageVerify, restore.StageCheck, restore.StageLoad, restore.StageCount, restore.StageDone}
	if !slices.Contains(stages, restore.StageLoad) || !slices.IsSortedFunc(stages, func(a, b restore.Stage) int {
		return slices.Index(order, a) - slices.Index(order, b)
	}) {
		t.Errorf("the stages told are %v: %s has to be among them, and their order is %v", stages, restore.StageLoad, order)
	}
}

var errBroken = errors.New("the store went away")

// A faulty source breaks off, or stops to answer.
type faulty struct {
	restore.Source
	openErr error
	opened  *atomic.Int64
	limit   int64  // bytes, of all parts, after which something happens
	readErr error  // that happens; nil: nothing, the source is good
	reached func() // is called when the limit is reached
	hang    bool   // and from then on Read waits for its context's end
}

func (f *faulty) Open(ctx context.Context, p catalog.Part) (io.ReadCloser, error) {
	if f.opened != nil {
		f.opened.Add(1)
	}
	if f.openErr != nil {
		return nil, f.openErr
	}
	in, err := f.Source.Open(ctx, p)
	if err != nil || f.readErr == nil && !f.hang {
		return in, err
	}
	left := f.limit // in this part
	for _, before := range f.Backup().Parts {
		if before.Name == p.Name {
			break
		}
		left -= before.RawSize
	}
	return &faultyReader{ReadCloser: in, ctx: ctx, f: f, left: left}, nil
}

type faultyReader struct {
	io.ReadCloser
	ctx  context.Context
	f    *faulty
	left int64
}

func (r *faultyReader) Read(p []byte) (int, error) {
	if r.left <= 0 {
		if r.f.reached != nil {
			r.f.reached()
		}
		if r.f.hang {
			<-r.ctx.Done()
			return 0, r.ctx.Err()
		}
		return 0, r.f.readErr
	}
	n, err := r.ReadCloser.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	if errors.Is(err, io.EOF) && r.left == 0 {
		err = nil // what is to happen comes next; else it does in a later part
	}
	return n, err
}

// differ describes the first few differences, or returns "".
func differ(want, got map[string]string) string {
	var text []string
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if value, ok := got[key]; !ok {
			text = append(text, fmt.Sprintf("%q is missing", key))
		} else if value != want[key] {
			text = append(text, fmt.Sprintf("%q is %.60q instead of %.60q", key, value, want[key]))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[key]; !ok {
			text = append(text, fmt.Sprintf("%q is too much", key))
		}
	}
	if len(text) > 5 {
		text = append(text[:5], fmt.Sprintf("and %d more", len(text)-5))
	}
	if text == nil {
		return ""
	}
	return fmt.Sprintf("%d before, %d now: %v", len(want), len(got), text)
}
