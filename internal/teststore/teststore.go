// Package teststore gives tests real object stores: servers that speak the protocols of S3, GCS and Azure on 127.0.0.1.
//
// They are those that `make servers` prepares, in the directory "stores" beside the database servers; see package
// testserver. One that is missing fails the test.
package teststore

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/amberkv/amber/internal/testserver"
)

// A Server is a running store. It ends with its test.
type Server struct {
	Addr string // host:port, of 127.0.0.1
	URL  string // http://host:port
	Dir  string // its directory

	log     string // a file's name
	cmd     *exec.Cmd
	exited  chan struct{}
	unwatch func()
	release func() // lets go of the port
}

// Close is Kill for the last time.
func (s *Server) Close() {
	s.unwatch()
	s.Kill()
	s.release()
}

// Kill ends the server with SIGKILL and waits for its end.
func (s *Server) Kill() {
	syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
	<-s.exited
}

// Stop stops the server without ending it, as a machine that hangs; Continue lets it go on.
func (s *Server) Stop()     { syscall.Kill(-s.cmd.Process.Pid, syscall.SIGSTOP) }
func (s *Server) Continue() { syscall.Kill(-s.cmd.Process.Pid, syscall.SIGCONT) }

// The credentials and the region of every S3 server.
const (
	S3AccessKey = "testkey"
	S3SecretKey = "testsecret123"
	S3Region    = "us-east-1"
)

// An S3 is a server that speaks S3.
type S3 struct {
	*Server
	t testing.TB // nil if it was launched by a program
}

// StartS3 starts a versitygw, with versions and object lock for buckets that ask for them. Further arguments, such as "--cert", come before
// those of its file system.
func StartS3(t testing.TB, args ...string) *S3 {
	t.Helper()
	s, err := LaunchS3(t.TempDir(), args...)
	if err != nil {
		t.Fatal(err)
	}
	endAfter(t, s.Server)
	s.t = t
	return s
}

// LaunchS3 is StartS3 for programs: the caller ends the server with Close. It keeps everything in dir.
func LaunchS3(dir string, args ...string) (*S3, error) {
	for _, sub := range []string{"data", "sidecar", "versions"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, err
		}
	}
	path, err := program("versitygw")
	if err != nil {
		return nil, err
	}
	s, err := launch(dir, func(addr string) *exec.Cmd {
		args := append([]string{"--port", addr, "--quiet", "--health", "/healthz"}, args...)
		args = append(args, "posix", "--sidecar", filepath.Join(dir, "sidecar"), "--versioning-dir", filepath.Join(dir, "versions"), filepath.Join(dir, "data"))
		cmd := exec.Command(path, args...)
		cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+S3AccessKey, "ROOT_SECRET_KEY="+S3SecretKey)
		return cmd
	})
	if err != nil {
		return nil, err
	}
	return &S3{Server: s}, nil
}

// Bucket makes a bucket and returns its name.
func (s *S3) Bucket(name string) string {
	s.t.Helper()
	if err := s.MakeBucket(name); err != nil {
		s.t.Fatal(err)
	}
	return name
}

// MakeBucket is Bucket for programs.
func (s *S3) MakeBucket(name string) error {
	// The gateway takes every directory for a bucket.
	return os.Mkdir(filepath.Join(s.Dir, "data", name), 0o700)
}

// Objects is where the server keeps a bucket's objects as files, for a look from outside.
func (s *S3) Objects(bucket string) string { return filepath.Join(s.Dir, "data", bucket) }

// StartGCS starts a fake-gcs-server, which keeps objects in memory. Clients find it by its Addr in STORAGE_EMULATOR_HOST or as an endpoint.
func StartGCS(t testing.TB) *GCS {
	t.Helper()
	path, err := program("fake-gcs-server")
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, t.TempDir(), func(addr string) *exec.Cmd {
		host, port, _ := strings.Cut(addr, ":")
		return exec.Command(path, "-scheme", "http", "-host", host, "-port", port, "-backend", "memory",
			"-external-url", "http://"+addr, "-public-host", addr, "-log-level", "error")
	})
	return &GCS{s, t}
}

// A GCS is a server that speaks Google's JSON API.
type GCS struct {
	*Server
	t testing.TB
}

// Bucket makes a bucket and returns its name.
func (s *GCS) Bucket(name string) string {
	s.t.Helper()
	body, err := json.Marshal(map[string]string{"name": name})
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := http.Post(s.URL+"/storage/v1/b?project=test", "application/json", bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		s.t.Fatalf("making bucket %s: %s", name, resp.Status)
	}
	return name
}

// The account of every Azure server, which Azurite publishes for development.
const (
	AzureAccount = "devstoreaccount1"
	AzureKey     = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)

// StartAzure starts an Azurite. Its blob service is at URL + "/" + AzureAccount; see Container.
func StartAzure(t testing.TB) *Server {
	t.Helper()
	dir := t.TempDir()
	script, err := program(filepath.Join("azurite", "node_modules", "azurite", "dist", "src", "blob", "main.js"))
	if err != nil {
		t.Fatal(err)
	}
	return start(t, dir, func(addr string) *exec.Cmd {
		host, port, _ := strings.Cut(addr, ":")
		return exec.Command("node", script, "--blobHost", host, "--blobPort", port, "--location", dir, "--silent", "--disableTelemetry", "--skipApiVersionCheck")
	})
}

// program returns the path of something that stores.sh prepared.
func program(name string) (string, error) {
	dir, err := testserver.Dir()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "stores", name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%s is not prepared: %w; run `make servers`", name, err)
	}
	return path, nil
}

// readyWithin is how long a server may take to answer. It is long because tests of several packages share the machine.
const readyWithin = 60 * time.Second

func start(t testing.TB, dir string, command func(addr string) *exec.Cmd) *Server {
	t.Helper()
	s, err := launch(dir, command)
	if err != nil {
		t.Fatal(err)
	}
	endAfter(t, s)
	return s
}

func endAfter(t testing.TB, s *Server) {
	t.Cleanup(func() {
		s.Close()
		if text, err := os.ReadFile(s.log); t.Failed() && err == nil {
			t.Logf("the log of %s ends\n%s", s.cmd.Args[0], text[max(0, len(text)-4096):])
		}
	})
}

// launch starts a server on a free port and waits until it answers.
func launch(dir string, command func(addr string) *exec.Cmd) (*Server, error) {
	for attempt := 0; ; attempt++ {
		s, err := try(dir, command)
		// The port was free a moment ago, but who doesn't take testserver's locks may have taken it.
		if err == nil || attempt == 4 {
			return s, err
		}
	}
}

func try(dir string, command func(addr string) *exec.Cmd) (*Server, error) {
	log, err := os.CreateTemp(dir, "server-*.log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	addr, release, err := testserver.HoldAddr()
	if err != nil {
		return nil, err
	}
	s := &Server{Addr: addr, URL: "http://" + addr, Dir: dir, log: log.Name(), cmd: command(addr), exited: make(chan struct{}), release: release}
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		release()
		return nil, fmt.Errorf("starting %s: %w", s.cmd.Path, err)
	}
	go func() {
		s.cmd.Wait()
		close(s.exited)
	}()
	if s.unwatch, err = watch(s.cmd.Process.Pid); err != nil {
		s.Kill()
		release()
		return nil, err
	}
	if err := s.ready(); err != nil {
		s.Close()
		text, _ := os.ReadFile(s.log) // that there is none says enough
		return nil, fmt.Errorf("%s: %w\n%s", s.cmd.Args[0], err, text)
	}
	return s, nil
}

// ready waits until the server accepts connections, or ends.
func (s *Server) ready() error {
	client := &http.Client{Timeout: 5 * time.Second}
	for deadline := time.Now().Add(readyWithin); ; {
		resp, err := client.Get(s.URL + "/healthz")
		if err == nil {
			resp.Body.Close()
			select {
			case <-s.exited: // then it was another's answer
				return fmt.Errorf("it ended (%v)", s.cmd.ProcessState)
			default:
				return nil
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("it doesn't answer on %s: %w", s.Addr, err)
		}
		select {
		case <-s.exited:
			return fmt.Errorf("it ended (%v) instead of serving on %s", s.cmd.ProcessState, s.Addr)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// watch starts a shell that kills a process group when this process ends, however it ends: a test that times out or is killed
// runs no cleanup. end stops the shell.
func watch(pid int) (end func(), err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	shell := exec.Command("/bin/sh", "-c", `read -r _; kill -9 -"$1"`, "sh", strconv.Itoa(pid))
	shell.Stdin = r
	shell.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := shell.Start(); err != nil {
		w.Close()
		return nil, err
	}
	return func() {
		shell.Process.Kill()
		shell.Wait()
		w.Close()
	}, nil
}
