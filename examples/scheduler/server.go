package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/restore/localserver"
)

// startServer starts a private server, of the first program that is found: in PATH, or where `make servers` puts them.
func startServer(ctx context.Context, dir string, env func(string) string) (restore.Provisioned, string, error) {
	var programs []string
	for _, name := range []string{"valkey-server", "redis-server"} {
		if path, err := exec.LookPath(name); err == nil {
			programs = append(programs, path)
		}
	}
	prepared := env("AMBER_SERVERS")
	if prepared == "" {
		if cache, err := os.UserCacheDir(); err == nil {
			prepared = filepath.Join(cache, "amber", "servers")
		}
	}
	more, err := filepath.Glob(filepath.Join(prepared, "bin", "*", "*-server"))
	if err != nil {
		return nil, "", err
	}
	slices.Sort(more)
	slices.Reverse(more) // the newest first
	errs := []error{errors.New("no server could be started: install one (apt-get install redis-server), or run `make servers`")}
	for _, program := range append(programs, more...) {
		local, err := localserver.New(localserver.Config{Program: program, Dir: dir})
		if err != nil {
			return nil, "", err
		}
		made, err := local.Provision(ctx, restore.Need{})
		if err == nil {
			return made, filepath.Base(program) + " at " + made.Options().Addr, nil
		}
		if errs = append(errs, err); ctx.Err() != nil {
			break
		}
	}
	return nil, "", errors.Join(errs...)
}
