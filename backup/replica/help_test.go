package replica_test

import (
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/amberkv/amber/internal/testserver"

	"github.com/redis/go-redis/v9/auth"
)

// logger returns one that logs to the test, which fails if the password is logged.
func logger(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(logWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

type logWriter struct{ t *testing.T }

func (w logWriter) Write(p []byte) (int, error) {
	w.t.Helper()
	text := string(p)
	if strings.Contains(text, canary) {
		w.t.Errorf("the log holds the password: %s", strings.ReplaceAll(text, canary, "<PASSWORD>"))
	}
	w.t.Logf("%s", strings.TrimSuffix(strings.ReplaceAll(text, canary, "<PASSWORD>"), "\n"))
	return len(p), nil
}

// streaming is a provider of credentials that counts its subscriptions.
type streaming struct{ subscribed int }

func (s *streaming) Subscribe(l auth.CredentialsListener) (auth.Credentials, auth.UnsubscribeFunc, error) {
	s.subscribed++
	return auth.NewBasicCredentials("amber", canary), func() error { s.subscribed--; return nil }, nil
}

// killAll kills a server and its children without waiting, from whatever goroutine.
func killAll(srv *testserver.Server) { syscall.Kill(-srv.Cmd.Process.Pid, syscall.SIGKILL) }

// killChildren kills the children that a server forked to save.
func killChildren(t *testing.T, srv *testserver.Server) {
	pid := srv.Cmd.Process.Pid
	list, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	children := strings.Fields(string(list))
	if err != nil || len(children) == 0 {
		t.Errorf("the server has no child: %v", err)
	}
	for _, c := range children {
		if n, err := strconv.Atoi(c); err == nil {
			syscall.Kill(n, syscall.SIGKILL)
		}
	}
}
