// Package snapshottest proves that a backup.Snapshotter keeps the contract of package backup.
//
// Call Run from a test of the snapshotter's package, with a real source that holds a little data: each check takes one or
// more snapshots of it, one at a time.
package snapshottest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/amberkv/amber/backup"
)

// Options help Run to check what it can't find out itself. Each field may be left out; then what it is for isn't checked.
type Options struct {
	// Secret is a text, such as the password in use, that must not be found in a Source, a Part or an error.
	Secret string

	// Check reads a part to its end and fails the test if it isn't a whole one with the contents of the source.
	Check func(t *testing.T, p backup.Part, r io.Reader)

	// Released is called after a snapshot was closed. It fails the test if the source still shows a trace of it,
	// after waiting a while for the trace to go.
	Released func(t *testing.T)

	// Stalled makes a Snapshotter whose snapshots can be opened, but stop to send before they end and don't fail for at
	// least ten seconds.
	Stalled func(t *testing.T) backup.Snapshotter

	// Waiting makes a Snapshotter whose Snapshot waits for the source for at least ten seconds.
	Waiting func(t *testing.T) backup.Snapshotter

	// Failing makes Snapshotters, by the reason why, whose Snapshot fails.
	Failing map[string]func(t *testing.T) backup.Snapshotter
}

// promptly is how soon a call has to return after its context was cancelled: within a second, of which a busy machine makes three.
const promptly = 3 * time.Second

// settle is how long a call that has to wait is watched for not doing so.
const settle = 100 * time.Millisecond

// Run checks the snapshotters that maker makes, in subtests. Nil opts are the zero Options.
func Run(t *testing.T, maker func(t *testing.T) backup.Snapshotter, opts *Options) {
	if opts == nil {
		opts = &Options{}
	}
	s := suite{*opts}
	run := func(name string, maker func(t *testing.T) backup.Snapshotter, check func(t *testing.T, sr backup.Snapshotter)) {
		t.Run(name, func(t *testing.T) {
			check(t, maker(t))
			if s.opts.Released != nil {
				s.opts.Released(t)
			}
		})
	}
	run("Description", maker, s.description)
	run("Whole", maker, s.whole)
	run("TwoInARow", maker, s.twoInARow)
	run("SmallReads", maker, s.smallReads)
	run("ContextOfSnapshotEnds", maker, s.contextOfSnapshotEnds)
	run("CloseUnopened", maker, s.closeUnopened)
	run("CloseEarly", maker, s.closeEarly)
	run("UnknownPart", maker, s.unknownPart)
	run("CancelledBefore", maker, s.cancelledBefore)
	run("CancelSnapshot", maker, s.cancelSnapshot)
	run("CancelRead", maker, s.cancelRead)
	if s.opts.Stalled != nil {
		run("CancelStalledRead", s.opts.Stalled, s.cancelStalledRead)
		run("CloseStalledRead", s.opts.Stalled, s.closeStalledRead)
	}
	if s.opts.Waiting != nil {
		run("CancelWaitingSnapshot", s.opts.Waiting, s.cancelWaitingSnapshot)
	}
	for reason, failing := range s.opts.Failing {
		run("Failing/"+reason, failing, s.failing)
	}
}

type suite struct{ opts Options }

// fails fails the test if an error that has to be one is none, or holds the secret.
func (s suite) fails(t *testing.T, what string, err error) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error", what)
	} else if text := fmt.Sprintf("%v %+v %#v", err, err, err); s.opts.Secret != "" && strings.Contains(text, s.opts.Secret) {
		t.Errorf("%s: the error holds the secret: %s", what, s.hide(text))
	}
}

// hide makes a text fit for the test's output.
func (s suite) hide(text string) string {
	if s.opts.Secret == "" {
		return text
	}
	return strings.ReplaceAll(text, s.opts.Secret, "<SECRET>")
}

// cancelled is fails for an error that has to be the context's.
func (s suite) cancelled(t *testing.T, what string, err error) {
	t.Helper()
	s.fails(t, what, err)
	if err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("%s: %s, want an error that wraps context.Canceled", what, s.hide(err.Error()))
	}
}

// take takes a snapshot that is closed with the test at the latest.
func (s suite) take(t *testing.T, sr backup.Snapshotter) backup.Snapshot {
	t.Helper()
	sn, err := sr.Snapshot(t.Context())
	if err != nil {
		t.Fatalf("Snapshot: %v", err)
	}
	t.Cleanup(func() { sn.Close() })
	if len(sn.Parts()) == 0 {
		t.Fatal("the snapshot has no parts")
	}
	return sn
}

func (s suite) close(t *testing.T, sn backup.Snapshot) {
	t.Helper()
	if err := sn.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func (s suite) open(t *testing.T, ctx context.Context, sn backup.Snapshot, p backup.Part) io.ReadCloser {
	t.Helper()
	r, err := sn.Open(ctx, p)
	if err != nil {
		t.Fatalf("Open(%q): %v", p.Name, err)
	}
	return r
}

// readAll reads every part of a snapshot through wrap, which may be nil, and closes it.
func (s suite) readAll(t *testing.T, sn backup.Snapshot, wrap func(io.Reader) io.Reader) {
	t.Helper()
	for _, p := range sn.Parts() {
		r := s.open(t, t.Context(), sn, p)
		in := &counter{r: r}
		var from io.Reader = in
		if wrap != nil {
			from = wrap(in)
		}
		if s.opts.Check != nil {
			s.opts.Check(t, p, from)
		}
		if _, err := io.Copy(io.Discard, from); err != nil {
			t.Errorf("reading part %q: %v", p.Name, err)
		}
		if p.Size >= 0 && p.Size != in.n {
			t.Errorf("part %q has %d bytes, its Size says %d", p.Name, in.n, p.Size)
		}
		if in.n == 0 {
			t.Errorf("part %q is empty", p.Name)
		}
		if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("part %q: Read after the end: %d, %v, want 0 and io.EOF", p.Name, n, err)
		}
		if err := r.Close(); err != nil {
			t.Errorf("closing part %q: %v", p.Name, err)
		}
	}
	s.close(t, sn)
}

// A counter counts and checks the reads of a part.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if n == 0 && err == nil && len(p) > 0 {
		return 0, errors.New("Read returned no byte and no error")
	}
	return n, err
}

func (s suite) description(t *testing.T, sr backup.Snapshotter) {
	sn := s.take(t, sr)
	src, parts := sn.Source(), sn.Parts()
	text, err := json.Marshal(src)
	if err != nil {
		t.Errorf("Source can't be part of a manifest: %v", err)
	}
	all := fmt.Sprintf("%s %+v %+v", text, src, parts)
	if s.opts.Secret != "" && strings.Contains(all, s.opts.Secret) {
		t.Errorf("the description holds the secret: %s", s.hide(all))
	}
	if src.Method == "" {
		t.Error("Source doesn't tell the method")
	}
	seen := map[string]bool{}
	for _, p := range parts {
		if why := badName(p.Name); why != "" {
			t.Errorf("a part's name, %q, %s", p.Name, why)
		}
		if seen[p.Name] {
			t.Errorf("two parts are called %q", p.Name)
		}
		seen[p.Name] = true
		if p.Size < -1 {
			t.Errorf("part %q has a size of %d", p.Name, p.Size)
		}
	}
	if !reflect.DeepEqual(src, sn.Source()) || !reflect.DeepEqual(parts, sn.Parts()) {
		t.Error("Source or Parts change from call to call")
	}
	s.close(t, sn)
}

// badName says why a name can't be one component of an object's key.
func badName(name string) string {
	if name == "" || name == "." || name == ".." {
		return "is none"
	}
	for _, c := range name {
		if c <= ' ' || c == '/' || c == '\\' || c > '~' {
			return fmt.Sprintf("holds %q", c)
		}
	}
	return ""
}

func (s suite) whole(t *testing.T, sr backup.Snapshotter) {
	s.readAll(t, s.take(t, sr), nil)
}

func (s suite) twoInARow(t *testing.T, sr backup.Snapshotter) {
	s.readAll(t, s.take(t, sr), nil)
	s.readAll(t, s.take(t, sr), nil)
}

// smallReads reads single bytes and, between them, none.
func (s suite) smallReads(t *testing.T, sr backup.Snapshotter) {
	s.readAll(t, s.take(t, sr), func(r io.Reader) io.Reader {
		if n, err := r.Read(nil); n != 0 || err != nil {
			t.Errorf("Read of nothing: %d, %v", n, err)
		}
		return iotest.OneByteReader(r)
	})
}

func (s suite) contextOfSnapshotEnds(t *testing.T, sr backup.Snapshotter) {
	ctx, cancel := context.WithCancel(t.Context())
	sn, err := sr.Snapshot(ctx)
	cancel()
	if err != nil {
		t.Fatalf("Snapshot: %v", err)
	}
	s.readAll(t, sn, nil)
}

func (s suite) closeUnopened(t *testing.T, sr backup.Snapshotter) {
	sn := s.take(t, sr)
	part := sn.Parts()[0]
	s.close(t, sn)
	s.close(t, sn)
	_, err := sn.Open(t.Context(), part)
	s.fails(t, "Open after Close", err)
}

func (s suite) closeEarly(t *testing.T, sr backup.Snapshotter) {
	sn := s.take(t, sr)
	r := s.open(t, t.Context(), sn, sn.Parts()[0])
	if _, err := io.ReadFull(r, make([]byte, 9)); err != nil {
		t.Errorf("reading nine bytes: %v", err)
	}
	s.close(t, sn)
	_, err := io.Copy(io.Discard, r)
	s.fails(t, "reading on after Close", err)
	if err := r.Close(); err != nil {
		t.Errorf("closing the part after the snapshot: %v", err)
	}
	s.close(t, sn)
	s.readAll(t, s.take(t, sr), nil)
}

func (s suite) unknownPart(t *testing.T, sr backup.Snapshotter) {
	sn := s.take(t, sr)
	_, err := sn.Open(t.Context(), backup.Part{Name: "no-such-part"})
	s.fails(t, "Open of a part that isn't there", err)
	s.close(t, sn)
}

func (s suite) cancelledBefore(t *testing.T, sr backup.Snapshotter) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := sr.Snapshot(ctx)
	s.cancelled(t, "Snapshot", err)

	sn := s.take(t, sr)
	r, err := sn.Open(ctx, sn.Parts()[0])
	if err == nil {
		_, err = io.Copy(io.Discard, r)
		r.Close()
	}
	s.cancelled(t, "Open, or reading then", err)
	s.close(t, sn)
}

// cancelSnapshot cancels Snapshot after different times, so that it is at different stages.
func (s suite) cancelSnapshot(t *testing.T, sr backup.Snapshotter) {
	for d := 100 * time.Microsecond; d < 100*time.Millisecond; d *= 3 {
		ctx, cancel := context.WithCancel(t.Context())
		timer := time.AfterFunc(d, cancel)
		started := time.Now()
		sn, err := sr.Snapshot(ctx)
		took := time.Since(started)
		timer.Stop()
		cancelledInTime := ctx.Err() != nil
		cancel()
		switch {
		case err == nil:
			s.close(t, sn)
		case cancelledInTime:
			s.cancelled(t, fmt.Sprintf("Snapshot cancelled after %v", d), err)
			if took > d+promptly {
				t.Errorf("Snapshot cancelled after %v returned after %v", d, took)
			}
		default:
			t.Errorf("Snapshot: %v", err)
		}
	}
}

// cancelRead cancels a part that is being read. What was received may still be read, but not as if it were all.
func (s suite) cancelRead(t *testing.T, sr backup.Snapshotter) {
	sn := s.take(t, sr)
	ctx, cancel := context.WithCancel(t.Context())
	r := s.open(t, ctx, sn, sn.Parts()[0])
	if _, err := io.ReadFull(r, make([]byte, 9)); err != nil {
		t.Errorf("reading nine bytes: %v", err)
	}
	cancel()
	started := time.Now()
	_, err := io.Copy(io.Discard, r)
	if err != nil { // else all was there
		s.cancelled(t, "reading on", err)
	}
	if took := time.Since(started); took > promptly {
		t.Errorf("reading went on for %v after it was cancelled", took)
	}
	if err := r.Close(); err != nil {
		t.Errorf("closing the part: %v", err)
	}
	s.close(t, sn)
}

// stall reads a part that stalls until stop is called, and returns when reading ended.
func (s suite) stall(t *testing.T, ctx context.Context, sn backup.Snapshot, stop func()) error {
	t.Helper()
	r := s.open(t, ctx, sn, sn.Parts()[0])
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, r)
		ended <- err
	}()
	select {
	case err := <-ended:
		t.Fatalf("the source did not stall: reading ended with %v", err)
	case <-time.After(settle):
	}
	stop()
	select {
	case err := <-ended:
		r.Close()
		return err
	case <-time.After(promptly):
		t.Fatalf("a Read that waits did not end within %v", promptly)
		return nil
	}
}

func (s suite) cancelStalledRead(t *testing.T, sr backup.Snapshotter) {
	sn := s.take(t, sr)
	ctx, cancel := context.WithCancel(t.Context())
	s.cancelled(t, "a Read that waits", s.stall(t, ctx, sn, cancel))
	s.close(t, sn)
}

func (s suite) closeStalledRead(t *testing.T, sr backup.Snapshotter) {
	sn := s.take(t, sr)
	s.fails(t, "a Read that waits when the snapshot is closed", s.stall(t, t.Context(), sn, func() { s.close(t, sn) }))
}

func (s suite) cancelWaitingSnapshot(t *testing.T, sr backup.Snapshotter) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		sn, err := sr.Snapshot(ctx)
		if err == nil {
			sn.Close()
		}
		ended <- err
	}()
	select {
	case err := <-ended:
		t.Fatalf("Snapshot did not wait: %v", err)
	case <-time.After(settle):
	}
	cancel()
	select {
	case err := <-ended:
		s.cancelled(t, "Snapshot", err)
	case <-time.After(promptly):
		t.Errorf("Snapshot did not return within %v of being cancelled", promptly)
	}
}

func (s suite) failing(t *testing.T, sr backup.Snapshotter) {
	sn, err := sr.Snapshot(t.Context())
	s.fails(t, "Snapshot", err)
	if err == nil {
		sn.Close()
	}
}
