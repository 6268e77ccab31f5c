package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// server is a private server: nobody knows its port, and it keeps nothing.
type server struct {
	name    string // such as "valkey-server 9.1.0"
	options *redis.Options
	stop    func()
}

// startServer starts a server that it finds on this machine, one of the given engine if there is one.
func startServer(ctx context.Context, dir, engine string, env func(string) string) (*server, error) {
	programs, err := findServers(env)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(programs, func(a, b program) int {
		return strings.Compare(rank(a, engine), rank(b, engine))
	})
	var errs []error
	for _, p := range programs {
		s, err := p.start(ctx, dir)
		if err == nil {
			return s, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		errs = append(errs, errors.New("none was found"))
	}
	return nil, fmt.Errorf("no redis-server or valkey-server could be started: %w; "+
		"install one (apt-get install redis-server), or run `make servers`", errors.Join(errs...))
}

func rank(p program, engine string) string {
	if engine != "" && strings.HasPrefix(filepath.Base(p.path), engine) {
		return "a"
	}
	return "b"
}

// program is a server's executable.
type program struct{ path string }

// findServers looks in PATH, and then where `make servers` puts servers, newest first.
func findServers(env func(string) string) ([]program, error) {
	var found []program
	for _, name := range []string{"valkey-server", "redis-server"} {
		for _, dir := range filepath.SplitList(env("PATH")) {
			if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
				found = append(found, program{path})
				break
			}
		}
	}
	dir := env("AMBER_SERVERS")
	if dir == "" {
		if cache, err := os.UserCacheDir(); err == nil {
			dir = filepath.Join(cache, "amber", "servers")
		}
	}
	prepared, err := filepath.Glob(filepath.Join(dir, "bin", "*", "*-server"))
	if err != nil {
		return nil, fmt.Errorf("looking for servers in %s: %w", dir, err)
	}
	slices.Sort(prepared) // "redis-7.0", "redis-8.0", "valkey-8.1", "valkey-9.1"
	slices.Reverse(prepared)
	for _, path := range prepared {
		found = append(found, program{path})
	}
	return found, nil
}

// start starts the program and waits until it answers.
func (p program) start(ctx context.Context, dir string) (*server, error) {
	out, err := exec.CommandContext(ctx, p.path, "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.path, err)
	}
	version := "of unknown version"
	for field := range strings.FieldsSeq(string(out)) {
		if v, ok := strings.CutPrefix(field, "v="); ok {
			version = v
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := listener.Addr().(*net.TCPAddr)
	listener.Close()
	home, err := os.MkdirTemp(dir, "server-")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(p.path, "--bind", "127.0.0.1", "--port", strconv.Itoa(addr.Port), "--dir", home, "--save", "", "--appendonly", "no",
		"--repl-diskless-sync-delay", "0") // by default a server waits 5 s for more replicas before it sends a snapshot
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", p.path, err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	s := &server{name: filepath.Base(p.path) + " " + version, options: &redis.Options{Addr: addr.String()}}
	s.stop = func() {
		cmd.Process.Kill()
		<-exited
	}
	client := redis.NewClient(s.options)
	defer client.Close()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		select {
		case err := <-exited:
			return nil, fmt.Errorf("%s ended at once: %w", p.path, err)
		default:
		}
		if err = client.Ping(ctx).Err(); err == nil {
			return s, nil
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			s.stop()
			return nil, fmt.Errorf("%s does not answer: %w", p.path, err)
		}
	}
}
