// Package teststore gives tests real object stores: servers that speak the protocols of S3, GCS and Azure on 127.0.0.1.
//
// They are those that `make servers` prepares, in the directory "stores" beside the database servers; see package
// testserver. One that is missing fails the test.
package teststore

import (
	"bytes"
	"context"
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

	cmd    *exec.Cmd
	exited chan struct{}
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
	t testing.TB
}

// StartS3 starts a versitygw, with versions and object lock for buckets that ask for them. Further arguments, such as "--cert", come before
// those of its file system.
func StartS3(t testing.TB, args ...string) *S3 {
	t.Helper()
	dir := t.TempDir()
	for _, sub := range []string{"data", "sidecar", "versions"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s := start(t, dir, func(addr string) *exec.Cmd {
		args := append([]string{"--port", addr, "--quiet", "--health", "/healthz"}, args...)
		args = append(args, "posix", "--sidecar", filepath.Join(dir, "sidecar"), "--versioning-dir", filepath.Join(dir, "versions"), filepath.Join(dir, "data"))
		cmd := exec.Command(program(t, "versitygw"), args...)
		cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+S3AccessKey, "ROOT_SECRET_KEY="+S3SecretKey)
		return cmd
	})
	return &S3{s, t}
}

// Bucket makes a bucket and returns its name.
func (s *S3) Bucket(name string) string {
	s.t.Helper()
	// The gateway takes every directory for a bucket.
	if err := os.Mkdir(filepath.Join(s.Dir, "data", name), 0o700); err != nil {
		s.t.Fatal(err)
	}
	return name
}

// Objects is where the server keeps a bucket's objects as files, for a look from outside.
func (s *S3) Objects(bucket string) string { return filepath.Join(s.Dir, "data", bucket) }

// StartGCS starts a fake-gcs-server, which keeps objects in memory. Clients find it by its Addr in STORAGE_EMULATOR_HOST or as an endpoint.
func StartGCS(t testing.TB) *GCS {
	t.Helper()
	s := start(t, t.TempDir(), func(addr string) *exec.Cmd {
		host, port, _ := strings.Cut(addr, ":")
		return exec.Command(program(t, "fake-gcs-server"), "-scheme", "http", "-host", host, "-port", port, "-backend", "memory",
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

// StartAzure starts an Azurite. Its clients make their containers themselves, at URL + "/" + AzureAccount.
func StartAzure(t testing.TB) *Server {
	t.Helper()
	dir := t.TempDir()
	script := program(t, filepath.Join("azurite", "node_modules", "azurite", "dist", "src", "blob", "main.js"))
	return start(t, dir, func(addr string) *exec.Cmd {
		host, port, _ := strings.Cut(addr, ":")
		return exec.Command("node", script, "--blobHost", host, "--blobPort", port, "--location", dir, "--silent", "--disableTelemetry", "--skipApiVersionCheck")
	})
}

// program returns the path of something that stores.sh prepared.
func program(t testing.TB, name string) string {
	t.Helper()
	dir, err := testserver.Dir()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "stores", name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%s is not prepared: %v; run `make servers`", name, err)
	}
	return path
}

// readyWithin is how long a server may take to answer. It is long because tests of several packages share the machine.
const readyWithin = 60 * time.Second

// start starts a server on a free port and waits until it answers.
func start(t testing.TB, dir string, command func(addr string) *exec.Cmd) *Server {
	t.Helper()
	for attempt := 0; ; attempt++ {
		addr, err := testserver.FreeAddr()
		if err != nil {
			t.Fatal(err)
		}
		s := &Server{Addr: addr, URL: "http://" + addr, Dir: dir, cmd: command(addr), exited: make(chan struct{})}
		log, err := os.Create(filepath.Join(t.TempDir(), "server.log"))
		if err != nil {
			t.Fatal(err)
		}
		s.cmd.Stdout, s.cmd.Stderr = log, log
		s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		err = s.cmd.Start()
		log.Close()
		if err != nil {
			t.Fatalf("starting %s: %v", s.cmd.Path, err)
		}
		go func() {
			s.cmd.Wait()
			close(s.exited)
		}()
		end, err := watch(s.cmd.Process.Pid)
		if err != nil {
			s.Kill()
			t.Fatal(err)
		}
		t.Cleanup(func() {
			end()
			s.Kill()
			if text, err := os.ReadFile(log.Name()); t.Failed() && err == nil {
				t.Logf("the log of %s ends\n%s", s.cmd.Args[0], text[max(0, len(text)-4096):])
			}
		})
		err = s.ready(t.Context())
		if err == nil {
			return s
		}
		// The port was free a moment ago, but somebody else may have taken it.
		if attempt == 4 {
			text, _ := os.ReadFile(log.Name())
			t.Fatalf("%s: %v\n%s", s.cmd.Args[0], err, text)
		}
	}
}

// ready waits until the server accepts connections, or ends.
func (s *Server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/healthz", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
			select {
			case <-s.exited: // then it was another's answer
				return fmt.Errorf("it ended (%v)", s.cmd.ProcessState)
			default:
				return nil
			}
		}
		select {
		case <-s.exited:
			return fmt.Errorf("it ended (%v) instead of serving on %s", s.cmd.ProcessState, s.Addr)
		case <-ctx.Done():
			return fmt.Errorf("it doesn't answer on %s: %w", s.Addr, err)
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
