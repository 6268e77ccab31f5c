//go:build linux

package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/storage/filestore"
)

// A child process of these tests is told by its environment what is full: "file LIMIT" or "disk PAGES", and in which directory.
const (
	childFull = "CHAOS_CHILD_FULL"
	childDir  = "CHAOS_CHILD_DIR"
)

func TestMain(m *testing.M) {
	if full := os.Getenv(childFull); full != "" {
		fmt.Println(backUpWhenFull(full, os.Getenv(childDir)))
		os.Exit(0)
	}
	if IsScheduler() {
		s, err := filestore.New(os.Getenv(childDir), nil)
		if err == nil {
			err = RunScheduler(context.Background(), s)
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// backUpWhenFull makes a backup where there is not enough room, maybe, and returns what is wrong with what came of it, behind how it ended:
// "ready" or "failed".
func backUpWhenFull(full, dir string) string {
	var what string
	var n int
	if _, err := fmt.Sscan(full, &what, &n); err != nil {
		return err.Error()
	}
	if what == "disk" {
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", n*os.Getpagesize())); err != nil {
			return "no file system: " + err.Error()
		}
	} else {
		// As a full disk looks to a writer: a short write and an error, at any byte.
		signal.Ignore(syscall.SIGXFSZ)
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: uint64(n), Max: uint64(n)}); err != nil {
			return err.Error()
		}
	}
	s, err := filestore.New(dir, nil)
	if err != nil {
		return err.Error()
	}
	svc, err := amber.New(amber.Config{Store: s})
	if err != nil {
		return err.Error()
	}
	ctx := context.Background()
	_, failure := svc.Backup(ctx, amber.BackupRequest{DataStore: "orders", Snapshotter: Bytes(Snapshot(300, 1000))})
	out, want := "failed", 0
	if failure == nil {
		out, want = "ready", 1
	} else if !errors.Is(failure, syscall.ENOSPC) && !errors.Is(failure, syscall.EFBIG) {
		out += fmt.Sprintf("; the error doesn't say that there is no room: %v", failure)
	}
	after, err := Look(ctx, s)
	if err != nil {
		return out + "; " + err.Error()
	}
	for _, v := range after.Violations() {
		out += "; " + v
	}
	if got := len(after.Ready()); got != want {
		out += fmt.Sprintf("; %d are ready", got)
	}
	for key := range after.Objects {
		if failure != nil && strings.Contains(key, "/part-") {
			out += "; the failed run left " + key
		}
	}
	return out
}

// whenFull runs the child, in a name space of its own if it makes a file system.
func whenFull(t *testing.T, full string, attr *syscall.SysProcAttr) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childFull+"="+full, childDir+"="+t.TempDir())
	cmd.SysProcAttr = attr
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Sprintf("no process: %v %s", err, stderr.Bytes())
	}
	return strings.TrimSpace(string(out))
}

// TestFull: a backup for which there is no room, at whatever byte it ends, fails, says so and leaves nothing; and if there is just enough it is ready.
func TestFull(t *testing.T) {
	t.Parallel()
	calm := newScene(t, time.Now(), Snapshot(300, 1000))
	var size int
	for key, data := range calm.objects {
		if strings.HasPrefix(key, below("orders", calm.newer)+"part-") {
			size = len(data)
		}
	}
	const piece = 256 << 10 // in which the store gets the bytes
	for _, limit := range []int{0, 1, piece - 1, piece, piece + 1, size / 2, size - 1, size} {
		want := "failed"
		if limit == size {
			want = "ready"
		}
		if got := whenFull(t, fmt.Sprint("file ", limit), nil); got != want {
			t.Errorf("no room past byte %d of %d: %s, want %s", limit, size, got, want)
		}
	}
}

// TestFullDisk backs up to file systems that are a page larger each time, until one has room. Where a user may not make one, TestFull has to do.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}}
	if got := whenFull(t, "disk 100000", attr); strings.HasPrefix(got, "no ") {
		t.Log("this user may not make a file system: ", got)
		return
	}
	step := 7
	if whole() {
		step = 1
	}
	failed := 0
	for pages := 1; ; pages += step {
		got := whenFull(t, fmt.Sprint("disk ", pages), attr)
		if got == "ready" {
			t.Logf("%d file systems were full, one of %d pages was not", failed, pages)
			break
		}
		if failed++; got != "failed" || pages > 200 {
			t.Fatalf("a file system of %d pages: %s", pages, got)
		}
	}
	if failed < 5 {
		t.Errorf("only %d file systems were full", failed)
	}
}
