package govern_test

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/amberkv/amber/internal/testserver"
)

// killChildren ends the children that a server forked, as the server itself does: with SIGUSR1, which is no failure to it.
func killChildren(t *testing.T, srv *testserver.Server) {
	t.Helper()
	pid := srv.Cmd.Process.Pid
	list, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	children := strings.Fields(string(list))
	if err != nil || len(children) == 0 {
		t.Errorf("the server has no child: %v", err)
	}
	for _, c := range children {
		if n, err := strconv.Atoi(c); err == nil {
			syscall.Kill(n, syscall.SIGUSR1)
		}
	}
}

// After all tests nothing of this package is at work any more.
func TestMain(m *testing.M) {
	code := m.Run()
	stacks := make([]byte, 1<<20)
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		text := string(stacks[:runtime.Stack(stacks, true)])
		if !strings.Contains(text, "backup/govern.(") {
			break
		}
		if time.Now().After(deadline) {
			fmt.Fprintf(os.Stderr, "goroutines were left behind:\n%s\n", text)
			code = 1
			break
		}
	}
	os.Exit(code)
}
