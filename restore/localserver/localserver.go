// Package localserver starts servers on this machine for backups to be restored into: for tests, examples and a look into a backup.
// It serves as a [restore.Provisioner].
//
// Each server is a process that listens on 127.0.0.1 only and takes nobody without its password, which was made for it. It keeps
// its data in memory and nothing on disk, unless the settings say otherwise. It ends with Remove and, with its directory, also when
// this process ends in whatever way.
//
// It works on Unix systems, and needs /bin/sh.
package localserver

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/amberkv/amber/internal/resp"
	"github.com/amberkv/amber/internal/target"
	"github.com/amberkv/amber/restore"
)

// DefaultTimeout is how long a server may take to answer.
const DefaultTimeout = 30 * time.Second

// Config says how servers are started.
type Config struct {
	// Program is the path of redis-server or valkey-server, version 7.0 or later. Required.
	Program string

	// Dir is where each server gets a directory of its own, which is removed with it. It has to exist. The default is the
	// directory for temporary files.
	Dir string

	// Args are further arguments for the command line, such as "--save", "60 1". They win over everything else, and every
	// user of the machine can see them. The address and the password of a server are not theirs to change.
	Args []string

	// Fill, if set, is called with the path of each server's directory before the server is started, and puts what it begins with there: an append-only directory, as
	// package dumpfile writes it, of which Args then tell ("--appendonly", "yes"), or a dump.rdb. The server may have keys then.
	Fill func(ctx context.Context, dir string) error

	// AnyServer lets the program be of another engine than what the backup came from, or older, or lack modules: for a loader that
	// converts, and says itself what the server can't take. By default such a server is an error.
	AnyServer bool

	// Timeout is how long a server may take to answer once its process was started. 0 means DefaultTimeout.
	Timeout time.Duration

	// Logger is told which servers are started, end and are removed. Nil discards that.
	Logger *slog.Logger
}

// A Provisioner starts servers. It is safe for concurrent use.
type Provisioner struct{ cfg Config }

var _ restore.Provisioner = (*Provisioner)(nil)

// New returns a Provisioner. It doesn't start the program yet.
func New(cfg Config) (*Provisioner, error) {
	if cfg.Program == "" {
		return nil, errors.New("localserver: Config.Program is required: the path of redis-server or valkey-server")
	}
	if !supported {
		return nil, fmt.Errorf("localserver: servers can be started on Unix systems, and this is %s", runtime.GOOS)
	}
	// Else it would be looked for in the server's own directory.
	if filepath.Base(cfg.Program) != cfg.Program {
		abs, err := filepath.Abs(cfg.Program)
		if err != nil {
			return nil, fmt.Errorf("localserver: %w", err)
		}
		cfg.Program = abs
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Provisioner{cfg}, nil
}

// Provision starts a server and returns it, a *Server, when it answers. The server has as many databases as are needed, and 16 at
// least. It has the parameters that are asked for, each as a line of the configuration file has it behind the setting's name, and
// no limit to its memory unless one of them is "maxmemory".
//
// It is an error if the machine has less memory than the data take, and, unless Config.AnyServer is set, if the program is of
// another engine than the backup came from, is older, or lacks a module that the backup needs. If the server ends instead of
// answering, the last lines of its log are in the error.
func (p *Provisioner) Provision(ctx context.Context, need restore.Need) (restore.Provisioned, error) {
	s, err := p.provision(ctx, need)
	if err != nil {
		return nil, fmt.Errorf("starting a server on this machine: %w", err)
	}
	return s, nil
}

// attempts are how many ports are tried. A port is free when it is chosen, but somebody may be quicker to take it.
const attempts = 5

func (p *Provisioner) provision(ctx context.Context, need restore.Need) (*Server, error) {
	settings, secrets, err := settings(need)
	if err != nil {
		return nil, err
	}
	for attempt := 1; ; attempt++ {
		s := &Server{program: p.cfg.Program, log: p.cfg.Logger, password: rand.Text(), secrets: secrets}
		err := s.start(ctx, &p.cfg, settings)
		if err == nil {
			err = p.suits(ctx, s, need)
		}
		if err == nil {
			s.serving.Store(true)
			s.log.Info("server started", "server", s.ID(), "engine", s.Engine, "version", s.Version, "addr", s.addr, "dir", s.dir)
			return s, nil
		}
		if left := s.Remove(context.WithoutCancel(ctx)); left != nil {
			return nil, errors.Join(err, left)
		}
		if attempt == attempts || !errors.Is(err, errPortTaken) {
			return nil, err
		}
	}
}

// ours are the settings that say where a server is found and how it runs.
var ours = []string{"bind", "port", "dir", "requirepass", "daemonize", "logfile", "databases"}

var settingName = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)

// settings returns the lines of the configuration that are the same for whatever port, and the values in them that are secret.
func settings(need restore.Need) (text string, secrets []string, err error) {
	var out strings.Builder
	line := func(name, value string) { out.WriteString(name + " " + value + "\n") }
	line("bind", "127.0.0.1")
	line("daemonize", "no")
	line("logfile", `""`)
	line("save", `""`)
	line("appendonly", "no")
	line("repl-diskless-sync-delay", "0") // by default whoever backs the server up waits 5 s for other replicas
	line("databases", strconv.Itoa(max(need.Databases, 16)))
	for _, name := range slices.Sorted(maps.Keys(need.Parameters)) {
		value := need.Parameters[name]
		lower := strings.ToLower(name)
		switch {
		case !settingName.MatchString(name):
			return "", nil, fmt.Errorf("the parameter %q is not the name of a setting", name)
		case slices.Contains(ours, lower):
			return "", nil, fmt.Errorf("the parameter %s can't be chosen: a local server has its own", name)
		case strings.ContainsAny(value, "\r\n\x00"):
			return "", nil, fmt.Errorf("the value of the parameter %s is more than one line", name)
		case value == "":
			value = `""`
		}
		if strings.Contains(lower, "auth") || strings.Contains(lower, "pass") || lower == "user" {
			secrets = append(secrets, value)
		}
		line(name, value)
	}
	return out.String(), secrets, nil
}

// suits says whether a server is what is needed, and fills in what it is.
func (p *Provisioner) suits(ctx context.Context, s *Server, need restore.Need) error {
	conn := target.New(s.Options(), p.cfg.Timeout)
	defer conn.Close()
	info, text, err := conn.Info(ctx)
	if err != nil {
		return err
	}
	if pid := s.cmd.Process.Pid; info.Int("process_id") != int64(pid) {
		return fmt.Errorf("%w: process %s answers at %s, and the server is process %d", errPortTaken, info["process_id"], s.addr, pid)
	}
	s.Engine, s.Version = target.Product(info)
	return check(p.cfg.Program, info, text, need, p.cfg.AnyServer, p.cfg.Fill != nil)
}

// check compares what a server says of itself with what is needed.
func check(program string, info resp.Info, text string, need restore.Need, anyServer, filled bool) error {
	engine, version := target.Product(info)
	if mode := target.Mode(info); mode != "standalone" {
		return fmt.Errorf("the server runs in %s mode, and a standalone one is needed: leave out the setting that makes it so", mode)
	}
	if keys := target.Keyspace(info).Total(); keys > 0 && !filled {
		return fmt.Errorf("the server has %d keys already: leave out the setting that makes it load them", keys)
	}
	if total := info.Int("total_system_memory"); total > 0 && need.Memory > total {
		return fmt.Errorf("the data take %d bytes of memory, about, and this machine has %d", need.Memory, total)
	}
	if anyServer {
		return nil
	}
	switch {
	case need.Engine == "":
	case engine != need.Engine:
		return fmt.Errorf("%s is %s %s, and the backup came from %s %s: use a program of that engine", program, engine, version, need.Engine, need.Version)
	case older(version, need.Version):
		return fmt.Errorf("%s is %s %s, which is older than what the backup came from, %s: use a program of that version or a newer one",
			program, engine, version, need.Version)
	}
	has := target.Modules(text)
	for _, typ := range need.Modules {
		module, known := target.ModuleOf(typ)
		if known && !slices.Contains(has, module) || !known && len(has) == 0 {
			return fmt.Errorf("the backup has data of a module's type %q, and %s %s hasn't loaded the module %s: load it by --loadmodule in Config.Args",
				typ, engine, version, cmp.Or(module, "that has it"))
		}
	}
	return nil
}

// older compares as many numbers as two versions both have.
func older(version, than string) bool {
	a, b := numbers(version), numbers(than)
	n := min(len(a), len(b))
	return slices.Compare(a[:n], b[:n]) < 0
}

// numbers returns the first three numbers of a version such as "8.0.2" or "9.1.0-rc1".
func numbers(version string) []int {
	var out []int
	for _, word := range strings.SplitN(version, ".", 3) {
		digits := len(word) - len(strings.TrimLeft(word, "0123456789"))
		n, err := strconv.Atoi(word[:digits])
		if err != nil {
			break
		}
		out = append(out, n)
	}
	return out
}
