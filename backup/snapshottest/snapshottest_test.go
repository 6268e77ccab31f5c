package snapshottest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/snapshottest"
	"github.com/amberkv/amber/catalog"
)

const secret = "CANARY-4711"

// A fake is a Snapshotter of a text in memory, with one defect or none.
type fake struct {
	defect string
	stall  bool // parts never end
	wait   bool // Snapshot never returns
	open   *int // snapshots that are not closed
}

var text = []byte(strings.Repeat("what the source holds ", 1000))

func (f fake) Snapshot(ctx context.Context) (backup.Snapshot, error) {
	if f.wait {
		if f.defect == "CancelWaitingSnapshot" {
			select {}
		}
		<-ctx.Done()
	}
	if err := ctx.Err(); err != nil {
		if f.defect == "CancelledBefore" {
			return nil, errors.New("something else")
		}
		return nil, err
	}
	*f.open++
	s := &snapshot{fake: f, closed: make(chan struct{}), snapshotCtx: ctx}
	s.close = sync.OnceFunc(func() {
		if f.defect != "Released" {
			*f.open--
		}
		close(s.closed)
	})
	return s, nil
}

type snapshot struct {
	fake
	snapshotCtx context.Context
	closed      chan struct{}
	close       func()
	nclosed     int
}

func (s *snapshot) Source() catalog.Source {
	src := catalog.Source{Method: "fake", Address: "memory"}
	if s.defect == "Description" {
		src.Address = "user:" + secret + "@memory"
	}
	return src
}

func (s *snapshot) Parts() []backup.Part {
	switch s.defect {
	case "Description/names":
		return []backup.Part{{Name: "../part", Size: -1}}
	case "Whole/size":
		return []backup.Part{{Name: "part-0000.rdb", Size: 7}}
	}
	return []backup.Part{{Name: "part-0000.rdb", Size: int64(len(text))}}
}

func (s *snapshot) Open(ctx context.Context, p backup.Part) (io.ReadCloser, error) {
	select {
	case <-s.closed:
		if s.defect != "CloseUnopened" {
			return nil, errors.New("closed")
		}
	default:
	}
	if p.Name != s.Parts()[0].Name && s.defect != "UnknownPart" {
		return nil, errors.New("no such part")
	}
	return &reader{snapshot: s, ctx: ctx, left: text}, nil
}

func (s *snapshot) Close() error {
	s.close()
	s.nclosed++
	if s.defect == "CloseUnopened/twice" && s.nclosed > 1 {
		return errors.New("closed twice")
	}
	return nil
}

type reader struct {
	*snapshot
	ctx  context.Context
	left []byte
}

func (r *reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if r.defect == "ContextOfSnapshotEnds" && r.snapshotCtx.Err() != nil {
		return 0, r.snapshotCtx.Err()
	}
	if r.stall && len(r.left) < 1000 {
		switch r.defect {
		case "CancelStalledRead":
			<-r.closed
		case "CloseStalledRead":
			<-r.ctx.Done()
		}
		select {
		case <-r.closed:
		case <-r.ctx.Done():
		}
	}
	select {
	case <-r.closed:
		if r.defect == "CloseEarly" {
			return 0, io.EOF
		}
		return 0, errors.New("closed")
	case <-r.ctx.Done():
		if r.defect == "CancelRead" {
			return 0, fmt.Errorf("%s: %w", secret, r.ctx.Err())
		}
		return 0, r.ctx.Err()
	default:
	}
	if r.defect == "Whole" && len(r.left) < len(text) {
		return 0, io.EOF
	}
	if r.defect == "SmallReads" && len(p) == 1 && len(r.left) < 100 {
		return 0, nil
	}
	if len(r.left) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.left)
	r.left = r.left[n:]
	return n, nil
}

func (r *reader) Close() error { return nil }

type failing struct{ defect string }

func (f failing) Snapshot(context.Context) (backup.Snapshot, error) {
	if f.defect == "Failing/always" {
		return nil, errors.New("AUTH " + secret + " failed")
	}
	return nil, errors.New("AUTH *** failed")
}

func run(t *testing.T, defect string) {
	open := 0
	maker := func(f fake) func(t *testing.T) backup.Snapshotter {
		f.defect, f.open = defect, &open
		return func(t *testing.T) backup.Snapshotter { return f }
	}
	snapshottest.Run(t, maker(fake{}), &snapshottest.Options{
		Secret: secret,
		Check: func(t *testing.T, p backup.Part, r io.Reader) {
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, text) {
				t.Errorf("got %d bytes of %d, %v", len(got), len(text), err)
			}
		},
		Released: func(t *testing.T) {
			if open != 0 {
				t.Errorf("%d snapshots are not closed", open)
			}
		},
		Stalled: maker(fake{stall: true}),
		Waiting: maker(fake{wait: true}),
		Failing: map[string]func(t *testing.T) backup.Snapshotter{
			"always": func(t *testing.T) backup.Snapshotter { return failing{defect} },
		},
	})
	if defect == "" {
		snapshottest.Run(t, maker(fake{}), nil)
	}
}

// defectVar names the environment variable by which the test runs itself with a defect.
const defectVar = "AMBER_TEST_SNAPSHOTTER_DEFECT"

func TestGood(t *testing.T) { run(t, os.Getenv(defectVar)) }

// Each defect, named for the check that has to find it, makes that check fail.
func TestDefectsAreFound(t *testing.T) {
	for _, defect := range []string{
		"Description", "Description/names", "Whole", "Whole/size", "SmallReads", "ContextOfSnapshotEnds", "CloseUnopened",
		"CloseUnopened/twice", "CloseEarly", "UnknownPart", "CancelledBefore", "CancelRead", "CancelStalledRead", "CloseStalledRead",
		"CancelWaitingSnapshot", "Failing/always", "Released",
	} {
		t.Run(defect, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(os.Args[0], "-test.run=^TestGood$")
			cmd.Env = append(os.Environ(), defectVar+"="+defect)
			out, err := cmd.CombinedOutput()
			check := defect
			if check == "Released" {
				check = "Whole"
			} else if !strings.HasPrefix(defect, "Failing") {
				check, _, _ = strings.Cut(defect, "/")
			}
			if err == nil || !strings.Contains(string(out), "--- FAIL: TestGood/"+check+" ") {
				t.Errorf("not found by check %s (%v):\n%s", check, err, out)
			}
			if strings.Contains(string(out), secret) {
				t.Errorf("the check's own output holds the secret:\n%s", out)
			}
		})
	}
}
