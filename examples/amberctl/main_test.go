package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9/logging"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/storage"
)

// The program under test. It can be killed at named places, which nothing but an environment variable turns on.
var program string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		// Nothing of the machine's own configuration of the clouds has a part in the tests.
		for _, e := range os.Environ() {
			name, _, _ := strings.Cut(e, "=")
			if provider, _, _ := strings.Cut(name, "_"); slices.Contains([]string{"AWS", "AZURE", "GOOGLE"}, provider) {
				os.Unsetenv(name)
			}
		}
		os.Setenv("AWS_CONFIG_FILE", os.DevNull)
		os.Setenv("AWS_SHARED_CREDENTIALS_FILE", os.DevNull)
		dir, err := os.MkdirTemp("", "amberctl-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		logging.Disable() // as main does
		program = filepath.Join(dir, "amberctl")
		if out, err := exec.Command("go", "build", "-tags", "crashpoint", "-o", program, ".").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building amberctl: %v\n%s", err, out)
			return 1
		}
		// Most of these tests wait for leases to end, not for a processor.
		if err := testserver.MoreAtOnce(8); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// A ctl calls the program with a store of its own.
type ctl struct {
	store  string        // the directory where the objects are files, for a look from outside; "" if there is none
	bucket storage.Store // the same store as the test sees it, if it is no directory of its own
	url    string        // for --store
	env    []string
}

func newCtl(t *testing.T, env ...string) *ctl {
	dir := t.TempDir()
	return &ctl{store: dir, url: "file://" + dir, env: env}
}

// A process is one call of the program.
type process struct {
	*exec.Cmd
	stdout, stderr lockedBuffer
	done           chan struct{}
}

// lockedBuffer can be read while a process writes to it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start calls a program and doesn't wait for its end.
func (c *ctl) start(t *testing.T, program string, env []string, args ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(program, append([]string{"--store", c.url}, args...)...), done: make(chan struct{})}
	p.Stdout, p.Stderr = &p.stdout, &p.stderr
	p.Env = slices.Concat([]string{"HOME=" + os.Getenv("HOME"), "PATH=" + os.Getenv("PATH")}, c.env, env)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.Cmd.Wait() // its error is in ProcessState
		close(p.done)
	}()
	t.Cleanup(func() {
		p.Process.Kill()
		<-p.done
	})
	return p
}

// wait waits for the end and returns the exit status; -1 for a process that a signal ended.
func (p *process) wait(t *testing.T, limit time.Duration) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(limit):
		t.Fatalf("%v is still there after %v\n%s", p.Args[1:], limit, p.stderr.String())
	}
	return p.ProcessState.ExitCode()
}

// killed says whether the process died of SIGKILL.
func (p *process) killed() bool {
	status, ok := p.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// patience is how long a process may take that nobody holds up, on a busy machine.
const patience = time.Minute

// run calls the program, and fails the test if its exit status is another.
func (c *ctl) run(t *testing.T, status int, args ...string) (stdout, stderr string) {
	t.Helper()
	got, stdout, stderr := c.call(t, args)
	if got != status {
		t.Fatalf("amberctl %v: exit status %d, want %d\n%s%s", args, got, status, stdout, stderr)
	}
	if status == exitFailed && !strings.Contains(stderr, "amberctl: ") {
		t.Fatalf("amberctl %v failed and doesn't say why: %q", args, stderr)
	}
	return stdout, stderr
}

// call calls the program to its end: within this process, which is much quicker, unless it needs an environment of its own, as for a cloud's credentials.
func (c *ctl) call(t *testing.T, args []string) (status int, stdout, stderr string) {
	t.Helper()
	if len(c.env) > 0 {
		p := c.start(t, program, nil, args...)
		status = p.wait(t, patience)
		return status, p.stdout.String(), p.stderr.String()
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out, said lockedBuffer
	env := func(name string) string {
		if name == "HOME" || name == "PATH" {
			return os.Getenv(name)
		}
		return ""
	}
	status = run(ctx, append([]string{"--store", c.url}, args...), strings.NewReader(""), &out, &said, env)
	return status, out.String(), said.String()
}

// parse calls the program with --json and reads what it prints, which has to be one document and nothing else.
func parse[T any](t *testing.T, c *ctl, status int, args ...string) T {
	t.Helper()
	out, _ := c.run(t, status, append(args, "--json")...)
	return decode[T](t, out)
}

func decode[T any](t *testing.T, text string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(text), &v); err != nil { // it refuses anything behind the document
		t.Fatalf("not one JSON document: %v\n%s", err, text)
	}
	return v
}

// list returns the IDs of the backups that are ready.
func (c *ctl) list(t *testing.T) []string {
	t.Helper()
	ids := []string{}
	for _, b := range parse[[]listed](t, c, exitDone, "list") {
		if b.State != catalog.StateReady {
			t.Errorf("%s is listed and %s", b.ID, b.State)
		}
		ids = append(ids, string(b.ID))
	}
	return ids
}

// backUp makes a backup and returns its ID.
func (c *ctl) backUp(t *testing.T, s *testserver.Server, args ...string) string {
	t.Helper()
	return string(parse[catalog.Backup](t, c, exitDone, append([]string{"backup", "--from", s.URL(), "--id", "orders"}, args...)...).ID)
}

// restores fails the test unless a backup verifies, and restores to the wanted keys into a server of its own.
func (c *ctl) restores(t *testing.T, id, version string, want map[string]string) {
	t.Helper()
	c.run(t, exitDone, "verify", id)
	target := testserver.Start(t, version)
	defer target.Kill()
	c.run(t, exitDone, "restore", id, "--to", target.URL())
	if diff := testserver.Diff(want, testserver.Snapshot(t, target.Client(t))); diff != "" {
		t.Errorf("%s restores to something else:\n%s", id, diff)
	}
}

// objects returns the objects in the store.
func (c *ctl) objects(t *testing.T) []string {
	t.Helper()
	var keys []string
	if c.store == "" {
		for info, err := range c.bucket.List(t.Context(), "") {
			if err != nil {
				t.Fatal(err)
			}
			keys = append(keys, info.Key)
		}
		return keys
	}
	if _, err := os.Stat(c.store); errors.Is(err, fs.ErrNotExist) {
		return nil // a prefix without objects
	}
	err := filepath.WalkDir(c.store, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			path, err = filepath.Rel(c.store, path)
			keys = append(keys, filepath.ToSlash(path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// onlyBackups fails the test if there is anything in the store that neither a ready backup nor a lease needs, nor is to be remembered.
func (c *ctl) onlyBackups(t *testing.T) {
	t.Helper()
	need := map[string]bool{}
	for _, id := range c.list(t) {
		b := parse[catalog.Backup](t, c, exitDone, "show", id)
		need[b.Prefix()+"run.json"], need[b.Prefix()+"manifest.json"] = true, true
		for _, p := range b.Parts {
			need[p.Key] = true
		}
	}
	leases := 0
	for _, key := range c.objects(t) {
		switch {
		case need[key]:
			delete(need, key)
		case strings.HasPrefix(key, "_leases/") && !strings.Contains(key, "/."):
			leases++
		case (strings.HasPrefix(key, "_usage/") || strings.HasPrefix(key, "_index/")) && !strings.Contains(key, "/."):
		default:
			t.Errorf("the store holds %s, which nothing needs", key)
		}
	}
	if leases > 2 {
		t.Errorf("the store holds %d files of leases of one data store", leases)
	}
	for key := range need {
		t.Errorf("the store does not hold %s", key)
	}
}

// anywhere says whether a text is in any file of the store.
func (c *ctl) anywhere(t *testing.T, text string) bool {
	t.Helper()
	for _, key := range c.objects(t) {
		data, err := os.ReadFile(filepath.Join(c.store, filepath.FromSlash(key)))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(data, []byte(text)) {
			return true
		}
	}
	return false
}
