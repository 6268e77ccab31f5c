//go:build unix

package storecatalog_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/catalog/storecatalog"
	"github.com/amberkv/amber/storage/filestore"
)

// A child process of these tests finds its directory in the environment, and does what its standard input says.
const childDir = "STORECATALOG_CHILD_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		serve(dir)
		return
	}
	os.Exit(m.Run())
}

func serve(dir string) {
	s, err := filestore.New(dir, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	dies := &dying{Store: s}
	c, err := storecatalog.New(storecatalog.Config{Store: dies, ClockSkew: time.Millisecond})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	var lease catalog.Lease
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var cmd, id, prev, state string
		var n int
		fmt.Sscan(in.Text(), &cmd, &id, &prev, &state, &n)
		switch cmd {
		case "put":
			b := backup(0, catalog.State(state))
			b.ID, b.Keys = catalog.ID(id), int64(n)
			b.Parts[0].Key = b.Prefix() + "part-0"
			switch rev, err := c.Put(ctx, b, catalog.Revision(strings.Trim(prev, `"`))); {
			case errors.Is(err, catalog.ErrConflict):
				fmt.Println("conflict")
			case err != nil:
				fmt.Println("error", err)
			default:
				fmt.Println("revision", rev)
			}
		case "acquire":
			ttl := 100 * time.Millisecond
			if n > 0 {
				ttl = time.Duration(n) * time.Second
			}
			switch lease, err = c.Acquire(ctx, id, ttl); {
			case errors.Is(err, catalog.ErrHeld):
				fmt.Println("held")
			case err != nil:
				fmt.Println("error", err)
			default:
				fmt.Println("token", lease.Token())
			}
		case "die": // at that call of the store
			dies.left.Store(int64(n))
		case "page", "summarize", "reindex":
			var err error
			switch cmd {
			case "page":
				_, _, err = c.Page(ctx, catalog.Query{}, catalog.Cursor{}, 10)
			case "summarize":
				err = c.Summarize(ctx, november)
			case "reindex":
				_, err = c.Reindex(ctx)
			}
			fmt.Println("done", err)
		case "renew":
			switch err := lease.Renew(ctx); {
			case errors.Is(err, catalog.ErrLeaseLost):
				fmt.Println("lost")
			case err != nil:
				fmt.Println("error", err)
			default:
				fmt.Println("renewed")
			}
		}
	}
}

// A child is another process with a catalog in the same directory.
type child struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.Writer
	out *bufio.Scanner
}

func start(t *testing.T, dir string) *child {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return &child{t, cmd, in, bufio.NewScanner(out)}
}

func (p *child) tell(format string, args ...any) {
	p.t.Helper()
	if _, err := fmt.Fprintf(p.in, format+"\n", args...); err != nil {
		p.t.Fatal(err)
	}
}

func (p *child) hear() string {
	p.t.Helper()
	if !p.out.Scan() {
		p.t.Fatalf("a child process has ended: %v", p.out.Err())
	}
	return p.out.Text()
}

// TestProcessesRace: of three processes that put the same backup, or its next revision, one wins; the same for a lease.
func TestProcessesRace(t *testing.T) {
	dir := t.TempDir()
	c := newCatalog(t, openFile(t, dir), nil)
	children := []*child{start(t, dir), start(t, dir), start(t, dir)}
	id, prev := catalog.ID(""), catalog.Revision("")
	for round := range 40 {
		if round%4 == 0 {
			id, prev = backup(round, catalog.StateRunning).ID, ""
		}
		for i, p := range children {
			p.tell("put %s %q %s %d", id, string(prev), []catalog.State{catalog.StateRunning, catalog.StateReady, catalog.StateFailed}[(round+i)%3], 100*round+i)
		}
		winner := -1
		for i, p := range children {
			answer := p.hear()
			rev, won := strings.CutPrefix(answer, "revision ")
			switch {
			case won && winner >= 0:
				t.Fatalf("round %d: processes %d and %d have both won", round, winner, i)
			case won:
				winner, prev = i, catalog.Revision(rev)
			case answer != "conflict":
				t.Fatalf("round %d: process %d says %q", round, i, answer)
			}
		}
		b, rev, err := c.Get(t.Context(), id)
		if winner < 0 || err != nil || rev != prev || b.Keys != int64(100*round+winner) {
			t.Fatalf("round %d: process %d has won with revision %s; Get returns %+v, %s, %v", round, winner, prev, b, rev, err)
		}
	}
	for round := range 20 {
		for _, p := range children {
			p.tell("acquire race-%d - - 60", round) // so long that none ends while a busy machine takes its time
		}
		var answers []string
		tokens := 0
		for _, p := range children {
			answer := p.hear()
			answers = append(answers, answer)
			if strings.HasPrefix(answer, "token ") {
				tokens++
			}
		}
		if tokens != 1 {
			t.Fatalf("round %d: the processes say %q, want one token", round, answers)
		}
	}
}

// TestPausedProcess stops a process, as a machine that is suspended does, until its lease is over and another has
// taken its place. When it goes on it can neither renew nor publish.
func TestPausedProcess(t *testing.T) {
	dir := t.TempDir()
	c, err := storecatalog.New(storecatalog.Config{Store: openFile(t, dir), ClockSkew: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, dir)
	id := backup(1, catalog.StateRunning).ID
	p.tell("acquire backup-orders")
	if got := p.hear(); got != "token 1" {
		t.Fatalf("the child says %q", got)
	}
	p.tell(`put %s "" running 1`, id)
	rev, ok := strings.CutPrefix(p.hear(), "revision ")
	if !ok {
		t.Fatal("the child can't put")
	}
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var lease catalog.Lease
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		lease, err = c.Acquire(t.Context(), "backup-orders", time.Minute)
		if err == nil {
			break
		}
		if !errors.Is(err, catalog.ErrHeld) || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if lease.Token() != 2 {
		t.Errorf("the taker's token is %d", lease.Token())
	}
	b, at, err := c.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	mustPut(t, c, as(b, catalog.StateInterrupted), at)

	p.tell("put %s %s ready 1", id, rev) // waits in its input
	p.tell("renew")
	if err := p.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if got := p.hear(); got != "conflict" {
		t.Errorf("a process that was paused puts its backup as ready, and gets %q", got)
	}
	if got := p.hear(); got != "lost" {
		t.Errorf("a process that was paused renews its lease, and gets %q", got)
	}
	if b, _, err := c.Get(t.Context(), id); err != nil || b.State != catalog.StateInterrupted {
		t.Errorf("Get returns %+v, %v", b, err)
	}
	if err := lease.Renew(t.Context()); err != nil {
		t.Errorf("Renew of the taker: %v", err)
	}
}
