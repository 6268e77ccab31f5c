package storetest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"regexp"
	"strings"
	"testing"

	"github.com/amberkv/amber/storage"
)

// The environment of a child tells it which test's it is and where the store is. It answers on lines that begin with childSays;
// what else comes is the test binary's own.
const (
	childTest     = "STORETEST_CHILD_TEST"
	childLocation = "STORETEST_CHILD_LOCATION"
	childSays     = "storetest: "
)

// exclusiveRaceProcesses lets this process and two others race: each prepares its writer, and then all commit at once.
func exclusiveRaceProcesses(c *check) {
	children := []*child{startChild(c), startChild(c)}
	for round := range c.rounds(50) {
		key := fmt.Sprintf("race/%d/claim", round)
		for i, p := range children {
			p.tell("prepare %s child-%d", key, i)
		}
		w, err := c.store.Create(c.ctx, key, onlyNew)
		if err == nil {
			_, err = io.WriteString(w, "parent")
		}
		c.need("Create", err)
		for _, p := range children {
			p.hear("prepared")
		}
		for _, p := range children {
			p.tell("commit")
		}
		winners := []string{}
		_, err = w.Commit(c.ctx)
		if err == nil {
			winners = append(winners, "parent")
		} else if !errors.Is(err, storage.ErrExists) {
			c.broken("round %d: the error of a writer is %v, want ErrExists", round, err)
		}
		for i, p := range children {
			switch answer := p.hear("won", "exists"); answer {
			case "won":
				winners = append(winners, fmt.Sprintf("child-%d", i))
			}
		}
		if len(winners) != 1 {
			c.broken("round %d: the winners are %q, want exactly one", round, winners)
		}
		c.holds(key, []byte(winners[0]))
		for _, p := range children {
			p.tell("get %s", key)
			p.hear("holds " + winners[0])
		}
	}
	// What one process deletes is gone for the others, and free to be taken.
	c.need("Delete", c.store.Delete(c.ctx, "race/0/claim"))
	children[0].tell("get race/0/claim")
	children[0].hear("missing")
	children[0].tell("prepare race/0/claim again")
	children[0].hear("prepared")
	children[0].tell("commit")
	children[0].hear("won")
	c.holds("race/0/claim", []byte("again"))
	for _, p := range children {
		p.end()
	}
}

// A child is another process that works on the store.
type child struct {
	c      *check
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Scanner
	stderr bytes.Buffer
}

func startChild(c *check) *child {
	c.Helper()
	test := path.Dir(c.Name()) // that called Run
	var pattern []string
	for name := range strings.SplitSeq(test, "/") {
		pattern = append(pattern, "^"+regexp.QuoteMeta(name)+"$")
	}
	p := &child{c: c, cmd: exec.CommandContext(c.ctx, os.Args[0], "-test.run="+strings.Join(pattern, "/"), "-test.count=1")}
	p.cmd.Env = append(os.Environ(), childTest+"="+test, childLocation+"="+c.opts.Locate(c.store))
	p.cmd.Stderr = &p.stderr
	in, err := p.cmd.StdinPipe()
	if err != nil {
		c.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		c.Fatal(err)
	}
	p.in, p.out = in, bufio.NewScanner(out)
	if err := p.cmd.Start(); err != nil {
		c.Fatal(err)
	}
	c.Cleanup(func() { // for a test that fails; harmless after end
		p.in.Close()
		p.cmd.Process.Kill()
		p.cmd.Wait()
	})
	p.hear("ready")
	return p
}

func (p *child) tell(format string, args ...any) {
	p.c.Helper()
	if _, err := fmt.Fprintf(p.in, format+"\n", args...); err != nil {
		p.c.Fatalf("storetest: a child process doesn't listen: %v\n%s", err, p.stderr.String())
	}
}

// hear waits for the child's next answer, which has to be one of these.
func (p *child) hear(want ...string) string {
	p.c.Helper()
	for p.out.Scan() {
		answer, ok := strings.CutPrefix(p.out.Text(), childSays)
		if !ok {
			continue
		}
		for _, w := range want {
			if answer == w {
				return answer
			}
		}
		p.c.broken("another process says %q, want %q", answer, want)
	}
	p.c.Fatalf("storetest: a child process ended early (does the test call Run when it is run by itself?): %v\n%s", p.out.Err(), p.stderr.String())
	return ""
}

func (p *child) end() {
	p.c.Helper()
	p.in.Close()
	for p.out.Scan() {
	}
	if err := p.cmd.Wait(); err != nil {
		p.c.Fatalf("storetest: a child process failed: %v\n%s", err, p.stderr.String())
	}
}

// serveChild does what the parent says if this process is a child, and tells whether it is.
func serveChild(t *testing.T, opts *Options) bool {
	t.Helper()
	test := os.Getenv(childTest)
	if test == "" {
		return false
	}
	if test != t.Name() {
		return true // another Run in the same test function
	}
	s, err := opts.Reopen(os.Getenv(childLocation))
	if err != nil {
		t.Fatalf("Options.Reopen: %v", err)
	}
	say := func(format string, args ...any) { fmt.Printf("\n"+childSays+format+"\n", args...) }
	ctx := t.Context()
	var w storage.Writer
	say("ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		words := strings.Fields(in.Text())
		switch words[0] {
		case "prepare":
			w, err = s.Create(ctx, words[1], onlyNew)
			if err == nil {
				_, err = io.WriteString(w, words[2])
			}
			if err != nil {
				say("preparing failed: %v", err)
				continue
			}
			say("prepared")
		case "commit":
			switch _, err := w.Commit(ctx); {
			case err == nil:
				say("won")
			case errors.Is(err, storage.ErrExists):
				say("exists")
			default:
				say("commit failed: %v", err)
			}
		case "get":
			switch data, err := storage.ReadFile(ctx, s, words[1], 1<<20); {
			case err == nil:
				say("holds %s", data)
			case errors.Is(err, storage.ErrNotFound):
				say("missing")
			default:
				say("reading failed: %v", err)
			}
		}
	}
	return true
}
