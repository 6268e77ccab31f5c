package testserver

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A Server is one real server process that listens on 127.0.0.1.
type Server struct {
	Version  string // as All gives it, such as "redis-7.0"
	Addr     string // host:port
	Host     string
	Port     int
	Dir      string // its working directory, where it would write dump.rdb
	Password string // of the default user, if --requirepass was among the arguments
	TLS      *TLS   // nil unless it was started with StartTLS

	// Cmd is the running process, or the last one after Kill. The process is the server itself, not a shell, so that it
	// can be sent signals; it leads a process group to which its forked children belong.
	Cmd *exec.Cmd

	args     []string // everything on its command line
	lock     *os.File // holds the port for this server, also while it is down
	busLock  *os.File // and that of its cluster bus, if it is a node of a cluster
	bus      int
	exited   chan struct{} // closed when the process has ended and was waited for
	watchdog *exec.Cmd     // kills the server should this process die without cleaning up
	stdin    *os.File      // the watchdog's: it ends with this process
	stopOnce *sync.Once
}

// readyWithin is how long a server may take to load what it finds in its directory and to accept connections. It is long
// because tests of several packages share the machine.
const readyWithin = 60 * time.Second

// Log lines by which a server says, in this order, that it listens and that it has loaded its data.
const (
	logListens = "Server initialized"
	logReady   = "Ready to accept connections"
)

// Launch starts a server that works in dir and returns when it has loaded what it found there. It is for programs; tests
// use Start. The caller ends the server with Close.
//
// The arguments are put behind Amber's own and win over them, as in "--save", "60 1". Leave the log level and the log file
// as they are: readiness is read from the log, because only that tells one server from another that was quicker to
// take its port.
func Launch(version, dir string, args ...string) (*Server, error) {
	return launch(version, dir, nil, logReady, args)
}

func launch(version, dir string, sec *TLS, until string, args []string) (*Server, error) {
	program, err := ProgramPath(version, "server")
	if err != nil {
		return nil, err
	}
	for attempt := 0; ; attempt++ {
		s := &Server{Version: version, Host: "127.0.0.1", Dir: dir, TLS: sec}
		if s.Port, s.lock, err = freePort(); err != nil {
			return nil, err
		}
		s.Addr = net.JoinHostPort(s.Host, strconv.Itoa(s.Port))
		s.args = append([]string{program}, s.defaults()...)
		if slices.Contains(args, "--cluster-enabled") {
			// By default it is 10000 higher, which may be a port that Linux gave to an outgoing connection.
			if s.bus, s.busLock, err = freePort(); err != nil {
				s.Close()
				return nil, err
			}
			s.args = append(s.args, "--cluster-port", strconv.Itoa(s.bus))
		}
		s.args = append(s.args, args...)
		if i := slices.Index(args, "--requirepass"); i >= 0 && i+1 < len(args) {
			s.Password = args[i+1]
		}
		err := s.run(until)
		if err == nil {
			return s, nil
		}
		s.Close()
		// The port was free a moment ago, but not everybody takes our locks.
		if !errors.Is(err, errPortTaken) || attempt == 9 {
			return nil, err
		}
	}
}

// defaults are the arguments that make a server quick, quiet and private.
func (s *Server) defaults() []string {
	args := []string{
		"--bind", s.Host,
		"--dir", s.Dir,
		"--save", "",
		"--appendonly", "no",
		"--daemonize", "no",
		"--logfile", "",
		"--loglevel", "notice",
		"--repl-diskless-sync-delay", "0", // by default a replica waits 5 s for others to join it
		"--shutdown-timeout", "0",
		"--enable-debug-command", "local",
	}
	port := strconv.Itoa(s.Port)
	if s.TLS == nil {
		return append(args, "--port", port)
	}
	return append(args, "--port", "0", "--tls-port", port,
		"--tls-cert-file", s.TLS.serverCert, "--tls-key-file", s.TLS.serverKey, "--tls-ca-cert-file", s.TLS.CAFile,
		"--tls-auth-clients", "optional")
}

var errPortTaken = errors.New("port is taken")

// run starts the process and waits until its log holds the given text.
func (s *Server) run(until string) error {
	log, err := os.OpenFile(s.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	from, err := log.Seek(0, 2)
	if err != nil {
		return err
	}
	cmd := exec.Command(s.args[0], s.args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.Dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", s.Version, err)
	}
	exited := make(chan struct{})
	go func() {
		cmd.Wait()
		close(exited)
	}()
	s.Cmd, s.exited, s.stopOnce = cmd, exited, new(sync.Once)
	if err := s.watch(); err != nil {
		s.Kill()
		return err
	}

	deadline := time.Now().Add(readyWithin)
	for {
		over := false
		select {
		case <-exited:
			over = true
		case <-time.After(5 * time.Millisecond):
		}
		text, err := os.ReadFile(s.logPath())
		if err != nil {
			return err
		}
		text = text[min(from, int64(len(text))):]
		switch {
		case over:
			s.Kill() // ends the watchdog
			err := fmt.Errorf("%s ended (%v) instead of serving on %s; its log ends\n%s", s.Version, cmd.ProcessState, s.Addr, tail(text, 20))
			if bytes.Contains(text, []byte("already in use")) || bytes.Contains(text, []byte("Failed listening")) {
				err = fmt.Errorf("%w: %w", errPortTaken, err)
			}
			return err
		case bytes.Contains(text, []byte(until)):
			return nil
		case time.Now().After(deadline):
			s.Kill()
			return fmt.Errorf("%s is not ready after %v; its log ends\n%s", s.Version, readyWithin, tail(text, 20))
		}
	}
}

// watch starts a shell that kills the server when this process ends, however it ends: a test that times out or is killed
// runs no cleanup. The shell waits for the end of a pipe that only this process holds.
func (s *Server) watch() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	s.watchdog = exec.Command("/bin/sh", "-c", `read -r _; kill -9 -"$1"`, "sh", strconv.Itoa(s.Cmd.Process.Pid))
	s.watchdog.Stdin = r
	s.watchdog.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the tests, not for their watchdog
	if err := s.watchdog.Start(); err != nil {
		w.Close()
		return err
	}
	s.stdin = w
	return nil
}

// Kill ends the server and its forked children with SIGKILL and waits for its end. A server that is down stays so.
func (s *Server) Kill() {
	if s.Cmd == nil || s.Cmd.Process == nil {
		return
	}
	s.stopOnce.Do(func() {
		if s.watchdog != nil && s.watchdog.Process != nil {
			s.watchdog.Process.Kill()
			s.watchdog.Wait()
			s.stdin.Close()
		}
		// Children of a server that crashed may still be there, in its group.
		syscall.Kill(-s.Cmd.Process.Pid, syscall.SIGKILL)
		<-s.exited
	})
}

// Exited is closed when the server process has ended, by Kill or by itself.
func (s *Server) Exited() <-chan struct{} { return s.exited }

// Close kills the server and lets go of its port.
func (s *Server) Close() {
	s.Kill()
	for _, lock := range []**os.File{&s.lock, &s.busLock} {
		if *lock != nil {
			unlock(*lock)
			*lock = nil
		}
	}
}

// Log returns what the server has logged so far, over all its restarts.
func (s *Server) Log() string {
	text, err := os.ReadFile(s.logPath())
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func (s *Server) logPath() string { return filepath.Join(s.Dir, "server.log") }

// tail returns the last n lines of a text.
func tail(text []byte, n int) string {
	lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// freePort finds a port that nobody listens on and locks it against other users of this package in any process, so that a
// server that restarts finds it free. The ports are below those that Linux gives to outgoing connections, for the
// same reason.
func freePort() (int, *os.File, error) {
	dir := lockDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, nil, err
	}
	for range 1000 {
		port := 20000 + rand.IntN(12000)
		lock, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(port)), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return 0, nil, err
		}
		if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil && stillThere(lock) {
			if l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil {
				l.Close()
				return port, lock, nil
			}
		}
		lock.Close()
	}
	return 0, nil, errors.New("no free port between 20000 and 31999 on 127.0.0.1")
}

// lockDir is where the locks of ports are.
func lockDir() string {
	return filepath.Join(os.TempDir(), "amber-testserver-"+strconv.Itoa(os.Getuid()))
}

// FreeAddr returns a host:port on 127.0.0.1 that nobody listens on, for a test that needs a place where no server is. Nobody who asks this
// package for a port gets it as long as this process lives.
func FreeAddr() (string, error) {
	addr, _, err := HoldAddr()
	return addr, err
}

// HoldAddr is FreeAddr for who starts a server of another kind there: release lets go of the port when that server is down for good. Without the
// lock two servers that start at once could be told the same port, and the one that comes too late would be taken for the other.
func HoldAddr() (addr string, release func(), err error) {
	port, lock, err := freePort()
	if err != nil {
		return "", nil, err
	}
	held.Lock()
	defer held.Unlock()
	held.locks[lock] = true // a file that nothing refers to is closed, and a lock ends with its file
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), func() {
		held.Lock()
		defer held.Unlock()
		if held.locks[lock] {
			delete(held.locks, lock)
			unlock(lock)
		}
	}, nil
}

// held are the locks of HoldAddr.
var held = struct {
	sync.Mutex
	locks map[*os.File]bool
}{locks: make(map[*os.File]bool)}

// unlock removes a lock file while it is still held, so that nobody loses a lock by this.
func unlock(lock *os.File) {
	os.Remove(lock.Name())
	lock.Close()
}

// stillThere says whether a lock file is still the one under its name: its holder may have removed it just now.
func stillThere(lock *os.File) bool {
	ours, err := lock.Stat()
	if err != nil {
		return false
	}
	current, err := os.Stat(lock.Name())
	return err == nil && os.SameFile(ours, current)
}

// ProgramPath is Program for programs: it returns an error where that fails the test.
func ProgramPath(version, name string) (string, error) {
	if !slices.Contains(All(), version) {
		return "", fmt.Errorf("testserver knows no %q, but %s", version, strings.Join(All(), ", "))
	}
	dir, err := Dir()
	if err != nil {
		return "", err
	}
	product, _, _ := strings.Cut(version, "-")
	path := filepath.Join(dir, "bin", version, product+"-"+name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%s is not prepared: %w; run `make servers`", version, err)
	}
	return path, nil
}

// Dir returns the directory of the servers that were prepared.
func Dir() (string, error) {
	if dir := os.Getenv("AMBER_SERVERS"); dir != "" {
		return dir, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, "amber", "servers"), nil
}
