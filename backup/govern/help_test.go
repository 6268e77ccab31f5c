package govern_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

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
