package localserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/internal/redact"
	"github.com/amberkv/amber/internal/target"
)

// A Server is a server process that was started for a restore. It is safe for concurrent use.
type Server struct {
	Engine  string // "redis" or "valkey", as it says
	Version string // such as "9.1.0"

	program  string
	addr     string // host:port
	password string
	secrets  []string // further ones, of its settings
	dir      string   // its own
	log      *slog.Logger

	cmd      *exec.Cmd
	exited   chan struct{} // closed when the process has ended and was waited for
	watchdog *watchdog

	serving atomic.Bool // it answers, and its end is not wanted
	mu      sync.Mutex  // held by Remove
	removed bool
}

var errPortTaken = errors.New("the port is taken")

// ID returns the name of the server's directory, which no two servers of a machine share.
func (s *Server) ID() string { return filepath.Base(s.dir) }

// Options returns the address and the password of the server.
func (s *Server) Options() *redis.Options { return &redis.Options{Addr: s.addr, Password: s.password} }

// start starts the process and waits until it answers. Whatever it returns, Remove removes what there is.
func (s *Server) start(ctx context.Context, cfg *Config, settings string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var err error
	if s.dir, err = os.MkdirTemp(cfg.Dir, "amber-server-"); err != nil {
		return err
	}
	if s.dir, err = filepath.Abs(s.dir); err != nil { // this process may change its directory
		return err
	}
	if cfg.Fill != nil {
		if err := cfg.Fill(ctx, s.dir); err != nil {
			return fmt.Errorf("filling the server's directory: %w", err)
		}
	}
	log, err := os.OpenFile(s.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	port, err := freePort(ctx)
	if err != nil {
		return err
	}
	s.addr = net.JoinHostPort("127.0.0.1", port)
	// The password goes through a pipe: a command line can be read by everybody, and a file may stay behind. The working
	// directory is the server's own without being told, so that its name needs no quoting.
	s.cmd = exec.Command(s.program, append([]string{"-"}, cfg.Args...)...)
	s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr = s.dir, log, log
	s.cmd.Stdin = strings.NewReader(settings + "port " + port + "\nrequirepass " + s.password + "\n")
	ownGroup(s.cmd)
	if err := s.cmd.Start(); err != nil {
		s.cmd = nil
		return err
	}
	s.exited = make(chan struct{})
	s.watchdog, err = watch(s.cmd.Process.Pid, s.dir)
	go s.wait()
	if err != nil {
		return err
	}
	return s.ready(ctx, cfg.Timeout)
}

// wait waits for the end of the process. Remove waits for wait.
func (s *Server) wait() {
	s.cmd.Wait()
	killGroup(s.cmd.Process.Pid) // a child that saves may be left
	s.watchdog.processGone()
	if s.serving.Load() {
		s.log.Warn("server ended by itself", "server", s.ID(), "addr", s.addr, "state", s.cmd.ProcessState.String(), "log", s.tail())
	}
	close(s.exited)
}

// poll is how often a server is asked whether it is ready.
const poll = 10 * time.Millisecond

// ready waits until the server answers.
func (s *Server) ready(ctx context.Context, timeout time.Duration) error {
	conn := target.New(s.Options(), timeout)
	defer conn.Close()
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errSlow)
	defer cancel()
	var last error
	for refused := 0; ; {
		_, err := conn.Do(ctx, "PING")
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err
			// Whoever has the port instead of our server refuses us, and our server ends. If it doesn't, it has other
			// users than it was told to have.
			if target.Refused(err) && target.Code(err) != "LOADING" {
				refused++
			}
			err = clock.Sleep(ctx, poll)
		}
		select {
		case <-s.exited:
			return s.ended()
		default:
		}
		switch {
		case err != nil && errors.Is(context.Cause(ctx), errSlow):
			return fmt.Errorf("%s does not answer at %s after %v (%w); its log ends\n%s", s.program, s.addr, timeout, cmp.Or(last, err), s.tail())
		case err != nil:
			return context.Cause(ctx)
		case refused > 50:
			return fmt.Errorf("%s does not let us in at %s: %w: leave its users as they are", s.program, s.addr, last)
		}
	}
}

var errSlow = errors.New("it took too long")

// ended is the error of a process that ended instead of answering.
func (s *Server) ended() error {
	tail := s.tail()
	err := fmt.Errorf("%s ended (%v) instead of serving at %s; its log ends\n%s", s.program, s.cmd.ProcessState, s.addr, tail)
	if strings.Contains(tail, "already in use") || strings.Contains(tail, "Failed listening") {
		err = fmt.Errorf("%w: %w", errPortTaken, err)
	}
	return err
}

// Remove ends the process at once and removes its directory. After an error it may be called again; when all is removed it does
// nothing.
func (s *Server) Remove(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.removed {
		return nil
	}
	served := s.serving.Swap(false)
	if s.exited != nil {
		select {
		case <-s.exited: // its number may be somebody else's by now
		default:
			killGroup(s.cmd.Process.Pid)
		}
		select {
		case <-s.exited:
		case <-ctx.Done():
			return fmt.Errorf("waiting for the end of server process %d at %s, which was killed: %w", s.cmd.Process.Pid, s.addr, context.Cause(ctx))
		}
	}
	if s.dir != "" {
		if err := os.RemoveAll(s.dir); err != nil {
			return fmt.Errorf("removing the directory of a server: %w", err)
		}
	}
	s.watchdog.allGone()
	s.removed = true
	if served {
		s.log.Info("server removed", "server", s.ID(), "addr", s.addr)
	}
	return nil
}

func (s *Server) logPath() string { return filepath.Join(s.dir, "server.log") }

// tail returns the last lines of the server's log, without what is secret.
func (s *Server) tail() string {
	const lines, size = 10, 4096
	f, err := os.Open(s.logPath())
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if end, err := f.Seek(0, io.SeekEnd); err == nil {
		f.Seek(max(0, end-size), io.SeekStart)
	}
	text, err := io.ReadAll(io.LimitReader(f, size))
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	return redact.String(strings.Join(all[max(0, len(all)-lines):], "\n"), append([]string{s.password}, s.secrets...)...)
}

// freePort returns a port of 127.0.0.1 that nobody listens on.
func freePort(ctx context.Context) (string, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port), nil
}
