package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/restore/localserver"
)

// server is a private server: nobody knows its password, and it keeps nothing.
type server struct {
	restore.Provisioned
	name string // such as "valkey-server 9.1.0"
}

// startServer starts a server that it finds on this machine, one of the engine that is needed if there is one.
func startServer(ctx context.Context, dir string, need restore.Need, env func(string) string) (*server, error) {
	programs, err := findServers(env)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(programs, func(a, b string) int { return strings.Compare(rank(a, need.Engine), rank(b, need.Engine)) })
	var errs []error
	for _, p := range programs {
		s, err := start(ctx, p, dir, need)
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

func rank(program, engine string) string {
	if engine != "" && strings.HasPrefix(filepath.Base(program), engine) {
		return "a"
	}
	return "b"
}

// findServers looks in PATH, and then where `make servers` puts servers, newest first.
func findServers(env func(string) string) ([]string, error) {
	var found []string
	for _, name := range []string{"valkey-server", "redis-server"} {
		for _, dir := range filepath.SplitList(env("PATH")) {
			if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
				found = append(found, path)
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
	return append(found, prepared...), nil
}

// start starts a program and waits until it answers.
func start(ctx context.Context, program, dir string, need restore.Need) (*server, error) {
	local, err := localserver.New(localserver.Config{Program: program, Dir: dir, AnyServer: true})
	if err != nil {
		return nil, err
	}
	made, err := local.Provision(ctx, need)
	if err != nil {
		return nil, err
	}
	name := filepath.Base(program)
	if s, ok := made.(*localserver.Server); ok {
		name += " " + s.Version
	}
	return &server{made, name}, nil
}

// stop ends the server, also when the user has interrupted the demo.
func (s *server) stop(ctx context.Context) error { return s.Remove(context.WithoutCancel(ctx)) }
